# SPDX-License-Identifier: Apache-2.0
"""splatfacto-nts: Neural Texture Splatting (Wang, Wang, Mihajlovic, Tang, SIGGRAPH Asia 2025), on any device.

Everyday settings: those of ``splat``, and textures on top, which ``_everyday`` holds.
"""

from nerfstudio.plugins.types import MethodSpecification

from nts_plugins.method_configs._everyday import (
    settings_of,
    splat_model,
    splat_optimizers,
    splat_trainer,
    texture,
    texture_optimizers,
)
from nts_plugins.models.textured import TexturedModelConfig

splatfacto_nts = MethodSpecification(
    config=splat_trainer(
        "splatfacto-nts",
        TexturedModelConfig(**settings_of(splat_model()), texture=texture()),
        {**splat_optimizers(), **texture_optimizers()},
    ),
    description="Neural Texture Splatting: every splat has a local texture, decoded from one shared field.",
)
