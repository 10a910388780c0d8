# SPDX-License-Identifier: Apache-2.0
"""Answers as colours, of pixels and of splats alike."""

import torch
from torch import Tensor

_RAMP = ((0.10, 0.10, 0.55), (0.05, 0.55, 0.80), (0.20, 0.80, 0.45), (0.98, 0.85, 0.20), (0.90, 0.15, 0.10))
"""From what hardly beats the canonical phrases to what beats them by far: blue, cyan, green, yellow, red."""
FULL = 0.65
"""Relevancy that is shown in the last colour. Of real features the best match seldom has more than 0.7."""
SHADE = 0.5
"""How bright what was not found is shown, against its own brightness."""
_SELECTION = (1.0, 0.75, 0.0)
"""Amber, which few things are."""


def heat(colors: Tensor, relevancy: Tensor) -> Tensor:
    """What beats the canonical phrases in colours of its relevancy, the rest in grey.

    Args:
        colors: [..., 3] in [0, 1].
        relevancy: [...] in (0, 1); up to 0.5 nothing is shown.

    Returns:
        [..., 3].
    """
    amount = ((relevancy - 0.5) / (FULL - 0.5)).clamp(0.0, 1.0)
    ramp = colors.new_tensor(_RAMP)
    place = amount * (len(ramp) - 1)
    before = place.floor().long().clamp(0, len(ramp) - 2)
    share = (place - before)[..., None]
    shown = ramp[before] * (1 - share) + ramp[before + 1] * share
    return torch.where((amount > 0)[..., None], 0.35 * _grey(colors) + 0.65 * shown, SHADE * _grey(colors))


def highlighted(colors: Tensor, found: Tensor) -> Tensor:
    """What was found as it is, the rest in dark grey: colours [..., 3] in [0, 1], and bool [...]."""
    return torch.where(found[..., None], colors, SHADE * _grey(colors))


def selected(colors: Tensor, found: Tensor) -> Tensor:
    """What was found in the colour of a selection, the rest as it is: colours [..., 3] in [0, 1], and bool [...]."""
    return torch.where(found[..., None], 0.35 * _grey(colors) + 0.65 * colors.new_tensor(_SELECTION), colors)


def _grey(colors: Tensor) -> Tensor:
    """[..., 3] without colour, as bright as it was (the luma of Rec. 709)."""
    luma = colors @ colors.new_tensor([0.2126, 0.7152, 0.0722])
    return luma[..., None].expand_as(colors)
