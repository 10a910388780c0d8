# SPDX-License-Identifier: Apache-2.0
"""Colour that depends on the direction of view, as spherical harmonics whose degree rises during training."""

from dataclasses import dataclass
from typing import Mapping, Optional, Tuple

from torch import Tensor

from nts_plugins.gaussians.initialise import sh_to_rgb

Params = Mapping[str, Tensor]


@dataclass(frozen=True)
class SphericalHarmonics:
    """Reads ``features_dc`` [N, 3] and ``features_rest`` [N, K - 1, 3], nerfstudio's names for the coefficients."""

    highest: int = 3
    """Degree at the end of training, 0 to 3."""
    interval: int = 1000
    """Steps between one degree and the next (Kerbl et al. 2023, section 7.1)."""

    def degree_at(self, step: int) -> int:
        """Degree that is evaluated, and trained, in a step."""
        return self.highest if self.interval <= 0 else min(step // self.interval, self.highest)

    def coefficients(self, params: Params, step: int) -> Tuple[Tensor, Optional[Tensor]]:
        """``sh`` and ``sh_rest`` of a :class:`~nts_plugins.gaussians.Gaussians`, without copying either.

        While the degree is 0 the rest is left out: it gets no gradient, and its optimizer nothing to do.
        """
        return params["features_dc"][:, None, :], params["features_rest"] if self.degree_at(step) > 0 else None

    def base_colors(self, params: Params) -> Tensor:
        """[N, 3] the colour without its dependence on the view; not clamped."""
        return sh_to_rgb(params["features_dc"])
