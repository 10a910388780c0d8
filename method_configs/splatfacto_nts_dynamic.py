# SPDX-License-Identifier: Apache-2.0
"""splatfacto-nts-dynamic: Neural Texture Splatting of a scene that moves (Wang et al. 2025, section 4), on any device.

Everyday settings: those of ``splat-dynamic``, and textures on top that see the time. ``_everyday`` holds both.
"""

from nerfstudio.plugins.types import MethodSpecification

from nts_plugins.method_configs._everyday import (
    motion_optimizers,
    settings_of,
    splat_model,
    splat_optimizers,
    splat_trainer,
    texture,
    texture_optimizers,
)
from nts_plugins.models.dynamic import DynamicTexturedModelConfig

splatfacto_nts_dynamic = MethodSpecification(
    config=splat_trainer(
        "splatfacto-nts-dynamic",
        DynamicTexturedModelConfig(
            **settings_of(splat_model()),
            # Three octaves of time, as in the paper's program for dynamic scenes.
            texture=texture(time_frequencies=3),
        ),
        {**splat_optimizers(), **motion_optimizers(), **texture_optimizers()},
    ),
    description="Neural Texture Splatting of a moving scene: splats are carried by a field, and textures see time.",
)
