# SPDX-License-Identifier: Apache-2.0
"""The one bundle of tensors that every part passes on."""

from dataclasses import dataclass, replace
from typing import Callable, Optional

import torch
from torch import Tensor


@dataclass(frozen=True)
class Gaussians:
    """N anisotropic 3D Gaussians, ready to be drawn: activations are already applied.

    Exactly one of ``sh`` and ``colors`` says what the splats look like. Differentiability is that of the operation
    that reads them; this class only carries the tensors.

    Raises:
        ValueError: when shapes disagree, naming the field and both shapes.
    """

    means: Tensor
    """[N, 3] centres, world frame, scene units."""
    quats: Tensor
    """[N, 4] rotations splat-to-world as quaternions w, x, y, z. They need not be normalised."""
    scales: Tensor
    """[N, 3] standard deviations along the splat's axes, linear (not log), > 0, scene units."""
    opacities: Tensor
    """[N] peak opacities in (0, 1)."""
    sh: Optional[Tensor] = None
    """[N, K, D] spherical harmonics coefficients of D colour channels, K = (degree + 1)^2 bands, constant band first.
    When ``sh_rest`` is given, ``sh`` holds the first bands only."""
    sh_rest: Optional[Tensor] = None
    """[N, K', D] the remaining bands, where an optimizer keeps them apart. Saves joining the two in every step."""
    colors: Optional[Tensor] = None
    """[N, D] colours that do not depend on the view, used as they are."""

    def __post_init__(self) -> None:
        n = self.means.shape[0]
        expected = {"means": (n, 3), "quats": (n, 4), "scales": (n, 3), "opacities": (n,)}
        for name, shape in expected.items():
            if tuple(getattr(self, name).shape) != shape:
                raise ValueError(f"Gaussians.{name} has shape {tuple(getattr(self, name).shape)}, expected {shape}.")
        if (self.sh is None) == (self.colors is None):
            raise ValueError("Gaussians need either sh [N, K, D] or colors [N, D], and not both.")
        if self.sh_rest is not None and self.sh is None:
            raise ValueError("Gaussians.sh_rest needs Gaussians.sh, which holds the first bands.")
        for name, ndim in (("sh", 3), ("sh_rest", 3), ("colors", 2)):
            value = getattr(self, name)
            if value is not None and (value.ndim != ndim or value.shape[0] != n):
                raise ValueError(f"Gaussians.{name} has shape {tuple(value.shape)}, expected {ndim} axes, first {n}.")
        if self.sh is not None and self.sh_rest is not None and self.sh.shape[2] != self.sh_rest.shape[2]:
            own, rest = self.sh.shape[2], self.sh_rest.shape[2]
            raise ValueError(f"Gaussians.sh has {own} colour channels, but Gaussians.sh_rest has {rest}.")

    def __len__(self) -> int:
        return self.means.shape[0]

    @property
    def device(self) -> torch.device:
        """That of the means; all tensors are on it."""
        return self.means.device

    @property
    def color_channels(self) -> int:
        """D, the number of colour channels."""
        return (self.sh if self.sh is not None else self.colors).shape[-1]  # type: ignore[union-attr]

    @property
    def sh_bands(self) -> int:
        """K, the number of spherical harmonics bands held; 0 for plain colours."""
        if self.sh is None:
            return 0
        return self.sh.shape[1] + (self.sh_rest.shape[1] if self.sh_rest is not None else 0)

    def map(self, function: Callable[[Tensor], Tensor]) -> "Gaussians":
        """The Gaussians with ``function`` applied to every tensor."""
        return replace(
            self, **{name: function(value) for name, value in vars(self).items() if isinstance(value, Tensor)}
        )

    def select(self, index: Tensor) -> "Gaussians":
        """The splats picked by a boolean mask [N] or by integer indices [M]."""
        return self.map(lambda tensor: tensor[index])

    def with_colors(self, colors: Tensor) -> "Gaussians":
        """The same splats with colours [N, D] that do not depend on the view."""
        return replace(self, sh=None, sh_rest=None, colors=colors)

    def detach(self) -> "Gaussians":
        """The same values without their graph."""
        return self.map(lambda tensor: tensor.detach())

    def to(self, *args, **kwargs) -> "Gaussians":
        """Like ``torch.Tensor.to``: moves or casts every tensor."""
        return self.map(lambda tensor: tensor.to(*args, **kwargs))
