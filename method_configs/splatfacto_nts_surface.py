# SPDX-License-Identifier: Apache-2.0
"""splatfacto-nts-surface: Neural Texture Splatting (Wang, Wang, Mihajlovic, Tang, SIGGRAPH Asia 2025) for surfaces.

Everyday settings: those of ``splatfacto-nts``, and the surface head on top; ``_everyday`` holds both, with the
reasons. The paper's backbone is GOF, which finds surfaces where opacity crosses a level; here they are fused from
depth (``nts mesh``), and the paper's colour correction per picture is the exposure that all everyday methods learn.
"""

from nerfstudio.plugins.types import MethodSpecification

from nts_plugins.method_configs._everyday import (
    on_surfaces,
    settings_of,
    splat_model,
    splat_optimizers,
    splat_trainer,
    texture,
    texture_optimizers,
)
from nts_plugins.models.textured import TexturedModelConfig

splatfacto_nts_surface = MethodSpecification(
    config=splat_trainer(
        "splatfacto-nts-surface",
        on_surfaces(TexturedModelConfig(**settings_of(splat_model()), texture=texture())),
        {**splat_optimizers(), **texture_optimizers()},
    ),
    description="Neural Texture Splatting for surfaces: textured splats that lie on them, and meshes with nts mesh.",
)
