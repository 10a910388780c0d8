# SPDX-License-Identifier: Apache-2.0
"""splat: 3D Gaussian Splatting (Kerbl, Kopanas, Leimkuehler, Drettakis, SIGGRAPH 2023), on any device.

Everyday settings, which are in ``_everyday``; ``splat_paper`` holds the paper's, frozen.
"""

from nerfstudio.configs.base_config import ViewerConfig
from nerfstudio.plugins.types import MethodSpecification

from nts_plugins.data.datamanager import SplatDatamanagerConfig
from nts_plugins.method_configs._everyday import splat_model, splat_optimizers
from nts_plugins.training.pipeline import SplatPipelineConfig
from nts_plugins.training.trainer import SplatTrainerConfig

splat = MethodSpecification(
    config=SplatTrainerConfig(
        method_name="splat",
        max_num_iterations=30000,
        steps_per_save=1000,
        steps_per_eval_batch=0,
        steps_per_eval_image=500,
        steps_per_eval_all_images=5000,
        mixed_precision=False,
        pipeline=SplatPipelineConfig(datamanager=SplatDatamanagerConfig(), model=splat_model()),
        optimizers=splat_optimizers(),
        viewer=ViewerConfig(num_rays_per_chunk=1 << 15),
        vis="viewer",
    ),
    description="3D Gaussian Splatting on any device: CUDA where there is one, fast CPU kernels where there is none.",
)
