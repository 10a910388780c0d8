# SPDX-License-Identifier: Apache-2.0
"""latent-radiance-field: splats in the latent space of a picture codec (Zhou, Liu, Luo, Huang, ICLR 2025).

Everyday settings: the splats of ``splat``, with latents of a tiny codec in place of colours, and then the decoder's
alignment with what these splats look like.
"""

from dataclasses import replace

from nerfstudio.plugins.types import MethodSpecification

from nts_plugins.data.latent_data import LatentDatamanagerConfig
from nts_plugins.method_configs._everyday import (
    latent_optimizers,
    settings_of,
    splat_model,
    splat_optimizers,
    splat_trainer,
)
from nts_plugins.models.latent import LatentModelConfig

_splats = replace(splat_model(), exposure=False, num_downscales=0)

latent_radiance_field = MethodSpecification(
    config=replace(
        splat_trainer(
            "latent-radiance-field",
            LatentModelConfig(**settings_of(_splats), alignment_start=2000),
            {**splat_optimizers(), **latent_optimizers()},
            LatentDatamanagerConfig(),
        ),
        max_num_iterations=3000,
    ),
    description="Splats of latents, drawn small and decoded to pictures: latent radiance fields, aligned.",
)
