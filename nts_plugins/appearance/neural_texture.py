# SPDX-License-Identifier: Apache-2.0
"""Neural Texture Splatting: every splat's local texture, decoded from one field for the splats that a camera sees.

Source: Wang, Wang, Mihajlovic, Tang 2025 (arXiv 2511.18873). The field is ``fields.texture``, and
``rasterization.textures`` says what a texture is and how it is drawn.
"""

import math
from dataclasses import dataclass, field
from typing import Dict, Literal, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn

from nts_plugins.appearance.priors import penalty_share
from nts_plugins.fields.regions import Region, RegionKind
from nts_plugins.fields.texture import TextureField, TextureFieldConfig
from nts_plugins.gaussians import Gaussians
from nts_plugins.rasterization.textures import EXTENT, Textures

SPREAD = (2 * EXTENT) ** 2 / (2 * math.pi)
"""A residual of opacity that is the same on a whole plane covers as much as so many times the opacity of a splat: the
area of the plane over the integral of exp(-(x^2 + y^2) / 2)."""


@dataclass
class NeuralTextureConfig:
    """Settings of a :class:`NeuralTexture`. Defaults are the paper's, or its program's where the paper is silent."""

    field: TextureFieldConfig = field(default_factory=TextureFieldConfig)
    """The field that textures are decoded from."""
    start_step: int = 5000
    """First step with textures. Before it the scene is trained as if there were none."""
    ramp_steps: int = 0
    """Steps over which textures grow to their full strength."""
    least_opacity: float = 0.05
    """Splats of this opacity or less have no texture."""
    fades_in: bool = False
    """Let textures grow to full strength between that opacity and twice of it. In the paper they come at once, and a
    splat whose opacity wanders around the limit flickers."""
    least_coverage: float = 0.0
    """Splats that make up less of a picture than this, in pixels, when drawn without textures, have none in it: most of
    them are hidden. The paper gives one to every splat in front of the camera."""
    opacity_amplitude: float = 0.2
    """Largest residual of opacity; that of colour is 1."""
    plane_weights: Literal["mean", "area", "face"] = "mean"
    """How a splat's three planes are added: the same for all, or by the area that the splat has on each, so that a flat
    one shows that of its face; or the plane of its face alone, that of its two longest axes: a third of what is decoded
    and read. The last is not the paper's."""
    region: RegionKind = "unbounded"
    """How the field covers the scene, see :class:`nts_plugins.fields.regions.Region`."""
    camera_noise: float = 0.0
    """In training, each splat sees the camera off its place by so many times (standard deviation, each axis) the mean
    distance between a camera and the nearest other one. Between cameras no photograph says how colours change."""
    moves_splats: bool = False
    """Let gradients through the point where a ray meets a splat to the splat's position and shape."""
    opacity_penalty: float = 0.01
    """Times the mean absolute residual of opacity, over the texels of the splats that a picture shows."""
    charges_opacity: bool = False
    """Let residuals of opacity cost, beside the penalty, what opacity costs that covers as much: see
    ``DefaultConfig.opacity_cost`` and ``MCMCConfig.opacity_regularization``. Otherwise opacity that costs something
    moves into textures, where it does not."""
    color_penalty: float = 0.01
    """Times that of colour."""
    penalty_views: Optional[int] = None
    """The penalties are meant for so many photographs, and count in proportion more where there are fewer. None, as in
    the paper, takes them as they are; it has 100 photographs of each object of NeRF-Synthetic."""


class NeuralTexture(nn.Module):
    """Textures of all splats, from one field.

    Making one draws no random number that training would otherwise draw, so that training up to the first textures is
    the same with and without.

    Args:
        config: settings.
        center, radius: of the scene, scene units.
        camera_spacing: mean distance between a training camera and the nearest other one, scene units.
        views: photographs that are trained on.

    Raises:
        InputError: where ``penalty_views`` is not above zero.
    """

    def __init__(
        self,
        config: NeuralTextureConfig,
        center: Sequence[float],
        radius: float,
        camera_spacing: float = 0.0,
        views: int = 1,
    ) -> None:
        super().__init__()
        self.config, self.camera_spacing = config, camera_spacing
        self.share = penalty_share(config.penalty_views, views, "NeuralTextureConfig.penalty_views")
        with torch.random.fork_rng(devices=[]):
            planes = 1 if config.plane_weights == "face" else 3
            self.field = TextureField(config.field, Region(config.region, center, radius), planes)

    def strength_at(self, step: int) -> float:
        """How strong textures are in a training step, 0 to 1."""
        since = step - self.config.start_step
        return 0.0 if since < 0 else min(1.0, (since + 1) / (self.config.ramp_steps + 1))

    def textures(
        self,
        gaussians: Gaussians,
        camera_center: Tensor,
        step: int,
        radii: Tensor,
        places: Optional[Tensor] = None,
        times: Optional[Tensor] = None,
        coverage: Optional[Tensor] = None,
    ) -> Optional[Textures]:
        """Those of the splats that a camera draws; None before the first step with textures.

        Differentiable with respect to the field. Places, directions, opacities and sizes count as given.

        Args:
            gaussians: N splats.
            camera_center: [3] world frame; or [N, 3], where each splat is to be seen from another place.
            step: of training.
            radii: [N, 2] of the splats in the picture, pixels, 0 where one is not drawn.
            places: [N, 3] scene units, where the field is asked for the splats' textures; None for where they are. In a
                scene that moves a splat keeps its texture when it asks where it is at rest.
            times: [N, 1] in [0, 1], of the picture; only where the field sees time.
            coverage: [N] from ``rasterization.coverage``; None for textures that are not for one picture.
        """
        config, strength = self.config, self.strength_at(step)
        if strength == 0.0:
            return None
        with torch.no_grad():
            opacities = gaussians.opacities
            drawn = radii.amin(dim=1) > 0
            if coverage is not None:
                drawn &= coverage >= config.least_coverage
            splats = (drawn & (opacities > config.least_opacity)).nonzero()[:, 0]
            centers = gaussians.means[splats]
            toward = (gaussians.means - camera_center)[splats]
            if self.training and config.camera_noise > 0:
                toward = toward + config.camera_noise * self.camera_spacing * torch.randn_like(toward)
            directions = nn.functional.normalize(toward, dim=-1)
            weights, faces = self._planes(gaussians.scales[splats], opacities[splats])
        if len(splats) == 0:
            return None
        return Textures(
            self.field(
                centers if places is None else places[splats],
                directions,
                times[splats] if times is not None and config.field.time_frequencies is not None else None,
            ),
            splats,
            weights,
            faces,
            product_tanh=config.field.texel_activation == "product",
            amplitudes=(strength, strength, strength, strength * config.opacity_amplitude),
            moves_splats=config.moves_splats,
        )

    def _planes(self, scales: Tensor, opacities: Tensor) -> Tuple[Optional[Tensor], Optional[Tensor]]:
        """Weights and faces of ``Textures``."""
        config, faces = self.config, None
        areas = scales * scales.roll(-1, dims=1)  # of the planes xy, yz, zx
        weights = scales.new_full((len(scales), self.field.planes), 1 / self.field.planes)
        if config.plane_weights == "area":
            weights = areas / areas.sum(dim=1, keepdim=True).clamp_min(1e-20)
        if config.plane_weights == "face":
            faces = areas.argmax(dim=1)
        if config.fades_in:
            weights = weights * (opacities / config.least_opacity - 1).clamp(0.0, 1.0)[:, None]
        return (weights if config.plane_weights == "area" or config.fades_in else None), faces

    def losses(self, textures: Textures, opacity_price: Optional[Tensor] = None) -> Dict[str, Tensor]:
        """What the textures of a picture cost.

        The mean of |u v| over the texels of a plane is the product of the means of |u| and |v|, so that no texel is
        ever made. With tanh of every texel it is the mean before tanh, which is a little larger. The release takes the
        mean over all splats, those without a texture included, so that its weight changes with how many are visible.

        Args:
            textures: of the splats that have one.
            opacity_price: what opacities of 1 of all splats would cost, a scalar.
        """
        sizes = textures.vectors.abs().mean(dim=2)  # [M, P, 2, 4]
        planes = sizes[:, :, 0] * sizes.roll(-1, dims=1)[:, :, 1]  # [M, P, 4]
        mean = planes.mean(dim=(0, 1)).unbind()
        scale = textures.amplitudes
        color = (scale[0] * mean[0] + scale[1] * mean[1] + scale[2] * mean[2]) / 3
        config = self.config
        opacity = self.share * config.opacity_penalty * scale[3] * mean[3]
        if config.charges_opacity and opacity_price is not None:
            shown = (planes[..., 3] * textures.plane_weights()).sum(dim=1).mean()
            opacity = opacity + opacity_price * SPREAD * scale[3] * shown
        return {
            "texture_opacity": opacity,
            "texture_color": self.share * config.color_penalty * color,
        }
