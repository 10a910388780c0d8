# SPDX-License-Identifier: Apache-2.0
"""Splats with local textures: Neural Texture Splatting on the suite's splats.

Class paths in this module are written into every run's config.yml: they are a public interface.
"""

import sys
from dataclasses import dataclass, field
from typing import Dict, List, Mapping, Optional, Type

import torch
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor
from torch.nn import Parameter

from nts_plugins.appearance.neural_texture import NeuralTexture, NeuralTextureConfig
from nts_plugins.data.cameras import View
from nts_plugins.gaussians import Gaussians
from nts_plugins.heads.base import FeatureHeadConfig
from nts_plugins.heads.pixel_decoder import PixelDecoderConfig
from nts_plugins.models.splat import SplatModel, SplatModelConfig
from nts_plugins.rasterization import Seen, Textures, TextureSource
from nts_plugins.rasterization.sh import camera_centres
from nts_plugins.viewer.looks import TEXTURE_LOOKS

PIXEL_DECODER = "pixels"
"""The name of the head that decodes pixels. Optimizers are called by it."""

NO_DECODER = (
    "No file holds what the pixel decoder adds to pictures, and the scene, which was trained with it, looks wrong "
    "without. For files to look at elsewhere, train with --pipeline.model.pixel-decoder.features 0."
)
"""What exporters say of a scene that has one."""

EXPORTER = "nerfstudio.scripts.exporter"
"""The module that ns-export, and no other command, imports."""


@dataclass
class TexturedModelConfig(SplatModelConfig):
    """Settings of :class:`TexturedModel`."""

    _target: Type = field(default_factory=lambda: TexturedModel)
    texture: NeuralTextureConfig = field(default_factory=NeuralTextureConfig)
    """Local textures of the splats."""
    pixel_decoder: PixelDecoderConfig = field(default_factory=lambda: PixelDecoderConfig(features=0))
    """Features on splats, of which a network makes what each pixel adds to its colour; none with 0 features."""


class TexturedModel(SplatModel):
    """Splats whose colour and opacity vary across each of them, as a field shared by all of them says.

    Until the field's first step it is a :class:`SplatModel`, to the bit; with a pixel decoder it is something else.
    """

    config: TexturedModelConfig  # type: ignore[assignment]
    looks = TEXTURE_LOOKS

    def populate_modules(self) -> None:
        super().populate_modules()
        metadata = self.kwargs.get("metadata") or {}
        center, side = metadata.get("random_region", ((0.0, 0.0, 0.0), 2.0))
        spacing = float(metadata.get("camera_spacing", 0.0))
        self.texture = NeuralTexture(self.config.texture, center, side / 2, spacing, self.num_train_data)
        self.drawn_textures: Optional[Textures] = None

    def head_configs(self) -> Dict[str, FeatureHeadConfig]:
        decoder = self.config.pixel_decoder
        own = {PIXEL_DECODER: decoder} if decoder.features else {}
        return {**super().head_configs(), **own}

    def get_param_groups(self) -> Dict[str, List[Parameter]]:
        return {**super().get_param_groups(), "texture_field": list(self.texture.parameters())}

    def textures_for(
        self, gaussians: Gaussians, params: Mapping[str, Tensor], view: View, trains_splats: bool
    ) -> Optional[TextureSource]:
        """Textures of the splats that the camera draws, decoded when it is known which these are."""
        if self.texture.strength_at(self.step) == 0.0:
            return None

        def decode(seen: Seen) -> Optional[Textures]:
            with torch.set_grad_enabled(trains_splats and torch.is_grad_enabled()):
                textures = self.texture.textures(
                    gaussians, camera_centres(view.viewmats)[0], self.step, seen.radii,
                    params.get("rest_means"), params.get("times"),
                    None if self.config.texture.least_coverage == 0.0 else seen.coverage(),
                )  # fmt: skip
            if self.training and trains_splats:
                self.drawn_textures = textures
            return textures

        return decode

    @property
    def shs_0(self) -> Tensor:
        """What ns-export writes. nerfstudio has no other place to say what its file cannot hold. The viewer,
        which looks at every property of a model, must not hear of it."""
        if EXPORTER in sys.modules:
            CONSOLE.print(
                "[yellow]A .ply file holds splats, and no textures: what is exported looks as the scene does without "
                "them. nts export --bake writes them too."
            )
            if PIXEL_DECODER in self.heads:
                CONSOLE.print(f"[yellow]{NO_DECODER}")
        return super().shs_0

    def get_loss_dict(self, outputs, batch, metrics_dict=None) -> Dict[str, Tensor]:
        losses = super().get_loss_dict(outputs, batch, metrics_dict)
        textures, self.drawn_textures = self.drawn_textures, None
        if textures is not None:
            price = self.strategy.opacity_price(self.gauss_params, losses["main_loss"])
            losses.update(self.texture.losses(textures, None if price is None else price * self.num_points))
        return losses
