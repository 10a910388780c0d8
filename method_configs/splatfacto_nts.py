# SPDX-License-Identifier: Apache-2.0
"""splatfacto-nts: Neural Texture Splatting (Wang, Wang, Mihajlovic, Tang, SIGGRAPH Asia 2025), on any device.

Everyday settings: those of ``splat``, and textures on top. What is written here differs from the paper, with the
reason.
"""

from dataclasses import fields

from nerfstudio.plugins.types import MethodSpecification

from nts_plugins.appearance.neural_texture import NeuralTextureConfig
from nts_plugins.fields.texture import TextureFieldConfig
from nts_plugins.method_configs._everyday import splat_model, splat_optimizers, splat_trainer
from nts_plugins.models.textured import TexturedModelConfig
from nts_plugins.training.optimizers import AdamConfig


def textured_model() -> TexturedModelConfig:
    """The everyday splats with textures."""
    backbone = splat_model()
    settings = {each.name: getattr(backbone, each.name) for each in fields(backbone) if each.name != "_target"}
    return TexturedModelConfig(
        **settings,
        texture=NeuralTextureConfig(
            # Bounded vectors instead of tanh of every texel: a plane is then read by interpolating two vectors, which
            # takes a third of the time. Textures that begin at 0 leave a scene as it is when they come.
            field=TextureFieldConfig(texel_activation="vectors", starts_at_zero=True),
            # The paper waits for 5000 of 30 000 steps. Runs of 1000 steps would never have a texture.
            start_step=500,
            # A splat whose opacity wanders around the limit would flicker.
            fades_in=True,
        ),
    )


splatfacto_nts = MethodSpecification(
    config=splat_trainer(
        "splatfacto-nts",
        textured_model(),
        {**splat_optimizers(), "texture_field": {"optimizer": AdamConfig(lr=1e-3), "scheduler": None}},
    ),
    description="Neural Texture Splatting: every splat has a local texture, decoded from one shared field.",
)
