# SPDX-License-Identifier: Apache-2.0
"""splatfacto-nts: Neural Texture Splatting (Wang, Wang, Mihajlovic, Tang, SIGGRAPH Asia 2025), on any device.

Everyday settings: those of ``splat``, and textures on top. What is written here differs from the paper, with the
reason.
"""

from dataclasses import fields

from nerfstudio.configs.base_config import ViewerConfig
from nerfstudio.plugins.types import MethodSpecification

from nts_plugins.appearance.neural_texture import NeuralTextureConfig
from nts_plugins.data.datamanager import SplatDatamanagerConfig
from nts_plugins.fields.texture import TextureFieldConfig
from nts_plugins.method_configs._everyday import splat_model, splat_optimizers
from nts_plugins.models.textured import TexturedModelConfig
from nts_plugins.training.optimizers import AdamConfig
from nts_plugins.training.pipeline import SplatPipelineConfig
from nts_plugins.training.trainer import SplatTrainerConfig


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
    config=SplatTrainerConfig(
        method_name="splatfacto-nts",
        max_num_iterations=30000,
        steps_per_save=1000,
        steps_per_eval_batch=0,
        steps_per_eval_image=500,
        steps_per_eval_all_images=5000,
        mixed_precision=False,
        pipeline=SplatPipelineConfig(datamanager=SplatDatamanagerConfig(), model=textured_model()),
        optimizers={
            **splat_optimizers(),
            "texture_field": {"optimizer": AdamConfig(lr=1e-3), "scheduler": None},
        },
        viewer=ViewerConfig(num_rays_per_chunk=1 << 15),
        vis="viewer",
    ),
    description="Neural Texture Splatting: every splat has a local texture, decoded from one shared field.",
)
