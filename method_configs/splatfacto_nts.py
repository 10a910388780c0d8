# SPDX-License-Identifier: Apache-2.0
"""splatfacto-nts: Neural Texture Splatting (Wang, Wang, Mihajlovic, Tang, SIGGRAPH Asia 2025), on any device.

Everyday settings: those of ``splat``, and textures on top; ``_everyday`` holds both, with the reasons.
"""

from nerfstudio.plugins.types import MethodSpecification

from nts_plugins.method_configs._everyday import splat_trainer, textured_model, textured_optimizers

splatfacto_nts = MethodSpecification(
    config=splat_trainer(
        "splatfacto-nts",
        textured_model(),
        textured_optimizers(),
    ),
    description="Neural Texture Splatting: every splat has a local texture, decoded from one shared field.",
)
