# SPDX-License-Identifier: Apache-2.0
"""What the viewer's control panel can do to splats: look at how a scene is built, without changing it."""

from dataclasses import replace
from typing import Mapping, Optional

import torch
from nerfstudio.data.scene_box import OrientedBox
from nerfstudio.viewer.viewer_elements import ViewerDropdown, ViewerSlider
from torch import Tensor, nn

from nts_plugins.gaussians import Gaussians
from nts_plugins.rasterization import TextureSource
from nts_plugins.viewer.looks import Drawing, Look
from nts_plugins.viewer.thread import in_viewer

SCENE = "Scene"
"""The menu's name for what is trained, which is shown at first."""


class SplatControls(nn.Module):
    """A menu of what is shown, and sliders over how. Only what the viewer draws follows them: metrics and renderings
    never do.

    Args:
        sh_degree: highest degree of the model's harmonics.
        looks: what the menu offers besides the scene, by name.
    """

    def __init__(self, sh_degree: int, looks: Mapping[str, Look]) -> None:
        super().__init__()
        self.looks = looks
        self.look = ViewerDropdown(
            "Show",
            SCENE,
            [SCENE, *looks],
            hint="The scene, or what it is made of. Textures are shown around grey: where it is grey they add nothing, "
            "which is everywhere until training begins with them.",
        )
        # In hundredths, since the viewer writes whole numbers at the ends of a slider.
        self.size = ViewerSlider(
            "Splat size, %", 100, 5, 100, 5, hint="Shrink the splats to see where they lie, and how large they are."
        )
        self.faintest = ViewerSlider(
            "Least opacity, %", 0, 0, 95, 5, hint="Hide fainter splats, to see what floats and what is solid."
        )
        self.degree = ViewerSlider(
            "Harmonics", sh_degree, 0, max(sh_degree, 1), 1, hint="Degree of the colour's change with the direction."
        )

    def kept(self, params: Mapping[str, Tensor], box: Optional[OrientedBox]) -> Optional[Tensor]:
        """[N] bool, which splats to draw; None for all of them.

        Args:
            params: with ``means`` [N, 3], scene units, and ``opacities`` [N, 1] (logit).
            box: what lies outside is not drawn, in the viewer and elsewhere.
        """
        inside = None if box is None else box.within(params["means"]).reshape(-1)
        if not in_viewer() or self.faintest.value <= 0:
            return inside
        solid = torch.sigmoid(params["opacities"]).reshape(-1) >= self.faintest.value / 100
        return solid if inside is None else solid & inside

    def shown(self, gaussians: Gaussians, textures: Optional[TextureSource]) -> Drawing:
        """What to draw in place of these splats with these textures: the look and the size that were asked for."""
        if not in_viewer():
            return gaussians, textures
        look, size = self.looks.get(self.look.value), self.size.value / 100
        if look is not None:
            gaussians, textures = look.draw(gaussians, textures)
        return replace(gaussians, scales=gaussians.scales * size) if size < 1.0 else gaussians, textures

    def shows_scene(self) -> bool:
        """Whether the scene is shown, and not a look at what it is made of."""
        return not in_viewer() or self.look.value == SCENE

    def photographed(self) -> bool:
        """Whether what is shown is to be as bright as photographs, and not a measurement around grey."""
        look = self.looks.get(self.look.value) if in_viewer() else None
        return look is None or look.photographed

    def degree_of(self, degree: int) -> int:
        """The harmonics' degree to draw, where the model would draw ``degree``."""
        return min(degree, int(self.degree.value)) if in_viewer() else degree
