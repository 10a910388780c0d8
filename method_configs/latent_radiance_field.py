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

# Latents of a picture are a small map, with other numbers in the next picture: few splats say what is common to all of
# them, and every splat is needed. What keeps splats from hanging before single cameras took too many: llff_fern, 1500
# steps, 18.6 dB instead of 19.5 under the codec's own decoder.
_densify = replace(splat_model().densify, opacity_cost=0.0)
# Exposure is a factor on colours, and latents have none; their maps are small from the start.
_splats = replace(splat_model(), densify=_densify, exposure=False, num_downscales=0)

latent_radiance_field = MethodSpecification(
    config=replace(
        splat_trainer(
            "latent-radiance-field",
            # 5000 steps before it gave 18.1 dB there.
            LatentModelConfig(**settings_of(_splats), alignment_start=1500),
            {**splat_optimizers(), **latent_optimizers()},
            LatentDatamanagerConfig(),
        ),
        max_num_iterations=2000,
    ),
    description="Splats of latents, drawn small and decoded to pictures: latent radiance fields, aligned.",
)
