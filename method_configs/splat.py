# SPDX-License-Identifier: Apache-2.0
"""splat: 3D Gaussian Splatting (Kerbl, Kopanas, Leimkuehler, Drettakis, SIGGRAPH 2023), on any device.

The numbers are the paper's (section 5.2 for densification, 7.1 for schedules) and its program's (learning rates, which
the paper does not print). Where one differs, a comment says why.
"""

from typing import Any, Dict

from nerfstudio.configs.base_config import ViewerConfig
from nerfstudio.plugins.types import MethodSpecification

from nts_plugins.data.datamanager import SplatDatamanagerConfig
from nts_plugins.models.splat import SplatModelConfig
from nts_plugins.training.optimizers import AdamConfig, ExponentialDecayConfig
from nts_plugins.training.pipeline import SplatPipelineConfig
from nts_plugins.training.trainer import SplatTrainerConfig


def splat_optimizers() -> Dict[str, Any]:
    """Learning rates of the paper's program. That of the means is multiplied by the extent of the cameras."""
    return {
        "means": {
            "optimizer": AdamConfig(lr=1.6e-4),
            "scheduler": ExponentialDecayConfig(lr_final=1.6e-6, max_steps=30000),
        },
        "features_dc": {"optimizer": AdamConfig(lr=2.5e-3), "scheduler": None},
        "features_rest": {"optimizer": AdamConfig(lr=2.5e-3 / 20), "scheduler": None},
        "opacities": {"optimizer": AdamConfig(lr=5e-2), "scheduler": None},
        "scales": {"optimizer": AdamConfig(lr=5e-3), "scheduler": None},
        "quats": {"optimizer": AdamConfig(lr=1e-3), "scheduler": None},
        # The paper takes poses as they are. These count only with --pipeline.model.camera-optimizer.mode.
        "camera_opt": {
            "optimizer": AdamConfig(lr=1e-4),
            "scheduler": ExponentialDecayConfig(lr_final=5e-7, max_steps=30000, warmup_steps=1000),
        },
    }


splat = MethodSpecification(
    config=SplatTrainerConfig(
        method_name="splat",
        max_num_iterations=30000,
        steps_per_save=1000,
        steps_per_eval_batch=0,
        steps_per_eval_image=500,
        steps_per_eval_all_images=5000,
        mixed_precision=False,
        pipeline=SplatPipelineConfig(datamanager=SplatDatamanagerConfig(), model=SplatModelConfig()),
        optimizers=splat_optimizers(),
        viewer=ViewerConfig(num_rays_per_chunk=1 << 15),
        vis="viewer",
    ),
    description="3D Gaussian Splatting on any device: CUDA where there is one, fast CPU kernels where there is none.",
)
