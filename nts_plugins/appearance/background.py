# SPDX-License-Identifier: Apache-2.0
"""What is seen where no splat is: one colour in training, and another where somebody looks at the scene."""

from typing import Optional, Sequence

import torch
from torch import Tensor

VIEWER_GREY = (0.1490, 0.1647, 0.2157)
"""viser's own background, behind pictures of models that were trained on random backgrounds."""


class Background:
    """The colour behind the splats.

    Args:
        name: "black"; "white"; "data", the colour that the data names, else black; "random", another colour in each
            training step; or "auto", which is "random" in training where pictures have alpha, and else "data".
        data_color: the colour that the data names, three numbers in [0, 1]; None where it names none.
        has_alpha: whether the pictures have an alpha channel, so that any colour can be put behind them.
    """

    def __init__(self, name: str, data_color: Optional[Sequence[float]] = None, *, has_alpha: bool = False) -> None:
        self.is_random = name == "random" or (name == "auto" and has_alpha)
        if name in ("auto", "data") and data_color is not None:
            self._own = torch.tensor([float(value) for value in data_color])
        else:
            self._own = {"random": torch.tensor(VIEWER_GREY), "white": torch.ones(3)}.get(name, torch.zeros(3))
        self._shown = self._own

    def in_training(self, device: torch.device) -> Tensor:
        """[3] colour of a training step, whatever the viewer shows meanwhile."""
        return torch.rand(3, device=device) if self.is_random else self._own.to(device)

    def on_show(self, device: torch.device) -> Tensor:
        """[3] what to draw behind the splats in a picture that is not for training."""
        return self.color(device)

    def color(self, device: torch.device) -> Tensor:
        """[3] colour that is seen there."""
        return self._shown.to(device)

    def show(self, color: Tensor) -> None:
        """Let pictures that are not for training have this colour [3]; the viewer does so before each of them."""
        self._shown = color

    def restore(self) -> None:
        """Undo :meth:`show`, for pictures that are measured."""
        self._shown = self._own


def over_background(image: Tensor, color: Optional[Sequence[float]]) -> Tensor:
    """[H, W, 3] in [0, 1] of a picture [H, W, 3 or 4], uint8 or float in [0, 1], over a colour, or over black without
    one. Differentiable."""
    values = image.float() / 255.0 if image.dtype == torch.uint8 else image
    if values.shape[-1] == 3:
        return values
    behind = Background("data", color).on_show(values.device)
    return values[..., :3] * values[..., 3:] + behind * (1.0 - values[..., 3:])
