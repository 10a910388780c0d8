# SPDX-License-Identifier: Apache-2.0
"""How bright each photograph was taken. Phones expose, and balance white, anew for every picture; splats that have to
explain it hang before single cameras as coloured fog."""

from typing import Optional

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from nts_plugins.errors import InputError

CLOSEST = 1e-6
"""Least squared distance of two cameras, so that a training camera gets nearly its own exposure."""


class Exposure(nn.Module):
    """One factor a colour channel for every training photograph, and for other cameras what nearby photographs have.

    Factors are relative to the geometric mean of all photographs, so that what exporters write, which knows no
    exposure, is of middle brightness. This is our own addition: the paper of Kerbl et al. (2023) has nothing like it.

    Args:
        count: number of training photographs.
        extent: of the cameras, scene units: a shift by it is as far as turning by one radian.
    """

    places: Tensor
    axes: Tensor
    visited: Tensor

    def __init__(self, count: int, extent: float = 1.0) -> None:
        super().__init__()
        self.extent = max(extent, 1e-6)
        self.log_factors = Parameter(torch.zeros(count, 3))
        self.register_buffer("places", torch.zeros(count, 3))
        self.register_buffer("axes", torch.zeros(count, 3))
        self.register_buffer("visited", torch.zeros(count, dtype=torch.bool))

    def check_count(self, saved: Optional[Tensor]) -> None:
        """Saved ``log_factors``, where there are any, are of as many photographs.

        Raises:
            InputError: where they are not.
        """
        if saved is not None and len(saved) != len(self.log_factors):
            raise InputError(
                f"The checkpoint knows the exposure of {len(saved)} photographs, and the data has "
                f"{len(self.log_factors)} to train on. Use the data that it was trained with."
            )

    def forward(self, camera_to_world: Tensor, photograph: Optional[int] = None) -> Tensor:
        """[3] factors of a training photograph, or what photographs nearby have.

        Differentiable with respect to the photograph's own.

        Args:
            camera_to_world: [3, 4], OpenGL axes. That of a photograph is remembered.
            photograph: index of a training photograph; None for any other camera.
        """
        if photograph is None:
            return self.nearby(camera_to_world)
        with torch.no_grad():
            self.places[photograph], self.axes[photograph] = camera_to_world[:, 3], camera_to_world[:, 2]
            self.visited[photograph] = True
        return torch.exp(self.log_factors[photograph] - self._middle())

    @torch.no_grad()
    def nearby(self, camera_to_world: Tensor) -> Tensor:
        """[3] factors for any camera [3, 4]: the mean over training cameras, each weighted by the inverse fourth power
        of its distance (Shepard 1968). 1 before training."""
        shift = (self.places - camera_to_world[:, 3]).square().sum(dim=-1) / self.extent**2
        turn = (self.axes - camera_to_world[:, 2]).square().sum(dim=-1)
        weights = (shift + turn + CLOSEST) ** -2 * self.visited
        total = weights.sum()
        if not bool(total > 0):
            return torch.ones(3, device=self.places.device)
        return torch.exp((weights[:, None] * self.log_factors).sum(dim=0) / total - self._middle())

    def _middle(self) -> Tensor:
        return self.log_factors.detach().mean(dim=0)


def expose(rgb: Tensor, factors: Tensor, alpha: Tensor, background: Tensor) -> Tensor:
    """Brighten what splats show, and leave the background behind them as it is.

    Args:
        rgb: [H, W, 3] drawn over the background.
        factors: [3].
        alpha: [H, W, 1].
        background: [3].
    """
    # Rows of numbers multiply, and their gradients add up, twice as fast as rows of triples.
    exposed = (rgb.flatten(1) * factors.repeat(rgb.shape[1])).view_as(rgb)
    if bool((background == 0).all()):
        return exposed
    return exposed + (1 - alpha) * (background - background * factors)
