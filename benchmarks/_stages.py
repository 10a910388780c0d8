# SPDX-License-Identifier: Apache-2.0
"""The compositing stage on its own: splats that are already projected, drawn by the kernels or by the baseline."""

from dataclasses import dataclass
from typing import Tuple

import torch
from torch import Tensor

from benchmarks import baseline, scenes
from nts_plugins.rasterization import installed_rules
from nts_plugins.rasterization._cpu_composite import Composite, tile_lists
from nts_plugins.rasterization._cpu_projection import View
from nts_plugins.rasterization._cpu_projection import project as project_splats
from nts_plugins.rasterization._types import Settings


@dataclass(frozen=True)
class Projected:
    """Splats in the picture of one camera, as leaves that receive gradients."""

    means2d: Tensor
    conics: Tensor
    opacities: Tensor
    values: Tensor
    radii: Tensor
    depths: Tensor
    settings: Settings

    @property
    def leaves(self) -> Tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.means2d, self.conics, self.opacities, self.values

    def draw(self) -> Tensor:
        """[H, W, D] by the CPU kernels, absolute gradients of ``means2d`` included."""
        for leaf in self.leaves:
            leaf.grad = None
        centres = self.means2d.detach().double()
        view = View(self.radii, self.means2d, centres, self.depths, self.conics, self.opacities)
        absgrad = torch.zeros_like(self.means2d)
        lists = tile_lists(view, self.settings)
        return Composite.apply(*self.leaves, None, None, None, None, lists, self.settings, absgrad, None)[0]

    def draw_baseline(self) -> Tensor:
        """The same by stock PyTorch operators."""
        for leaf in self.leaves:
            leaf.grad = None
        leaves = [leaf.to(torch.float32) for leaf in self.leaves]
        return baseline.composite(*leaves, self.radii, self.depths, self.settings).values

    def entries(self) -> int:
        """How many splats the tiles list, all together."""
        return int(baseline.tile_lists(self.means2d, self.radii, self.depths, self.settings)[1].sum())


def project(scene: scenes.Scene, channels: int = 3) -> Projected:
    """Project a scene with the CPU kernels and give every splat random values."""
    settings = Settings(width=scene.width, height=scene.height, rules=installed_rules())
    with torch.no_grad():
        view = project_splats(scene.gaussians, scene.viewmats[0], scene.Ks[0], settings)
    values = torch.rand(len(scene.gaussians), channels, generator=torch.Generator().manual_seed(0))
    leaves = [each.clone().requires_grad_() for each in (view.means2d, view.conics, view.opacities, values)]
    return Projected(*leaves, radii=view.radii, depths=view.depths, settings=settings)
