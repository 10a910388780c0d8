# SPDX-License-Identifier: Apache-2.0
"""How much more a feature is like a phrase than like anything (LERF, Kerr et al., ICCV 2023, section 3.3).

With unit vectors e of a feature, q of a phrase and c of the canonical phrases::

    r(e, q) = min over c of  exp(t e.q) / (exp(t e.q) + exp(t e.c))  =  sigmoid(t (e.q - max over c of e.c))

The temperature t is 10 in LERF's program, and missing in its paper. r > 0.5 where the phrase beats all canonical ones,
whatever t is.
"""

from typing import Optional, Tuple

import torch
from torch import Tensor

TEMPERATURE = 10.0
"""LERF's and LangSplat's programs."""


def relevancy(positive: Tensor, negative: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """r from cosines. Differentiable.

    Args:
        positive: [..., Q] cosines of features and phrases.
        negative: [..., C] cosines of the same features and the canonical phrases.
        temperature: see above.

    Returns:
        [..., Q] in (0, 1).
    """
    return torch.sigmoid(temperature * margin(positive, negative))


def margin(positive: Tensor, negative: Tensor) -> Tensor:
    """[..., Q]: by how much each phrase beats the best canonical one, a difference of cosines, free of temperature."""
    return positive - negative.amax(dim=-1, keepdim=True)


def from_margin(value: float, temperature: float = TEMPERATURE) -> float:
    """The r of a margin. 0.5 for 0; 0.6, which some publications ask for, for 0.0405."""
    return float(torch.sigmoid(torch.tensor(temperature * value, dtype=torch.float64)))


def best_level(scores: Tensor, valid: Optional[Tensor] = None) -> Tuple[Tensor, Tensor]:
    """The level on which a phrase is found best, one for the whole picture as in LangSplat's program.

    Args:
        scores: [L, H, W, Q] relevancy, smoothed or not.
        valid: [L, H, W] bool, pixels that have a feature; None for all.

    Returns:
        [Q] number of the level, and [Q] its highest score. Where no pixel of any level is valid: level 0 and minus
        infinity.
    """
    if valid is not None:
        scores = torch.where(valid[..., None], scores, -torch.inf)
    highest = scores.flatten(1, 2).amax(dim=1)
    found = highest.max(dim=0)
    return found.indices, found.values


def box_mean(maps: Tensor, side: int) -> Tensor:
    """Mean over a square window around each pixel, over as much of it as lies in the picture. Differentiable.

    Args:
        maps: [..., H, W].
        side: of the window, pixels, odd; LangSplatV2 and fVDB have 29.

    Returns:
        [..., H, W].

    Raises:
        ValueError: for an even or negative side.
    """
    if side < 1 or side % 2 == 0:
        raise ValueError(f"The side of a window around a pixel is odd, and {side} is not.")
    shape = maps.shape
    flat = maps.reshape(-1, 1, *shape[-2:])
    pooled = torch.nn.functional.avg_pool2d(flat, side, stride=1, padding=side // 2, count_include_pad=False)
    return pooled.reshape(shape)
