# SPDX-License-Identifier: Apache-2.0
"""3D Gaussian Splatting (Kerbl, Kopanas, Leimkuehler, Drettakis, SIGGRAPH 2023) as published, for presets of it and of
what stands on it.

Frozen: every number is written out, so that it stays as it is while defaults improve. Sections are those of the paper;
"program" is what its authors released beside it.
"""

from typing import Any, Dict, Type, TypeVar

from nerfstudio.configs.base_config import ViewerConfig

from nts_plugins.data.datamanager import SplatDatamanagerConfig
from nts_plugins.gaussians.strategies import DefaultConfig
from nts_plugins.models.splat import SplatModelConfig
from nts_plugins.training.optimizers import AdamConfig, ExponentialDecayConfig
from nts_plugins.training.pipeline import SplatPipelineConfig
from nts_plugins.training.trainer import SplatTrainerConfig

Model = TypeVar("Model", bound=SplatModelConfig)


def paper_densification(**differences: Any) -> DefaultConfig:
    """Adaptive density control, but for ``differences``."""
    numbers: Dict[str, Any] = dict(
        prune_opa=0.005,  # section 5.2, epsilon alpha; program
        grow_grad2d=0.0002,  # section 5.2, tau pos
        grow_scale3d=0.01,  # program: percent dense
        prune_scale3d=0.1,  # program
        refine_scale2d_stop_iter=0,  # program: sizes on the screen have no effect in it
        refine_start_iter=500,  # section 5.2: warm-up
        refine_stop_iter=15000,  # program
        refine_every=100,  # section 5.2
        reset_every=3000,  # section 5.2
        pause_refine_after_reset=0,
        absgrad=False,
        revised_opacity=False,
        max_splats=None,
        opacity_cost=0.0,  # not in the paper
    )
    return DefaultConfig(**{**numbers, **differences})


def paper_model(kind: Type[Model], **differences: Any) -> Model:
    """A model with the paper's splats, but for ``differences``."""
    numbers: Dict[str, Any] = dict(
        strategy="default",
        densify=paper_densification(),
        sh_degree=3,  # section 7.1: four bands
        sh_degree_interval=1000,  # section 7.1
        num_downscales=2,  # section 7.1: from 1/4 of the resolution
        resolution_schedule=250,  # section 7.1: doubled after 250 and 500 iterations
        ssim_lambda=0.2,  # equation 7
        background_color="data",  # program
        num_random=100000,  # program, where there are no points
        rasterize_mode="classic",
        initial_opacity=0.1,  # program
        initial_scale=1.0,  # section 5.1: mean distance to the three nearest points
        exposure=False,  # not in the paper
        sparse_seeds=0,  # program: the same rate for any number
        use_scale_regularization=False,
    )
    return kind(**{**numbers, **differences})


def paper_optimizers() -> Dict[str, Any]:
    """Learning rates of the program. That of the means is multiplied by the extent of the cameras."""
    return {
        "means": {
            "optimizer": AdamConfig(lr=1.6e-4, eps=1e-15),
            "scheduler": ExponentialDecayConfig(lr_final=1.6e-6, max_steps=30000),  # section 5.1
        },
        "features_dc": {"optimizer": AdamConfig(lr=2.5e-3, eps=1e-15), "scheduler": None},
        "features_rest": {"optimizer": AdamConfig(lr=1.25e-4, eps=1e-15), "scheduler": None},
        "opacities": {"optimizer": AdamConfig(lr=5e-2, eps=1e-15), "scheduler": None},
        "scales": {"optimizer": AdamConfig(lr=5e-3, eps=1e-15), "scheduler": None},
        "quats": {"optimizer": AdamConfig(lr=1e-3, eps=1e-15), "scheduler": None},
        # The paper takes exposures and poses as they are. These count only with --pipeline.model.exposure and
        # --pipeline.model.camera-optimizer.mode.
        "exposure": {"optimizer": AdamConfig(lr=3e-3, eps=1e-15), "scheduler": None},
        "camera_opt": {
            "optimizer": AdamConfig(lr=1e-4, eps=1e-15),
            "scheduler": ExponentialDecayConfig(lr_final=5e-7, max_steps=30000, warmup_steps=1000),
        },
    }


def paper_trainer(
    method_name: str,
    model: SplatModelConfig,
    optimizers: Dict[str, Any],
    data: SplatDatamanagerConfig,
    iterations: int = 30000,  # section 7.2
) -> SplatTrainerConfig:
    """How long, and what is saved, evaluated and shown on the way."""
    return SplatTrainerConfig(
        method_name=method_name,
        max_num_iterations=iterations,
        steps_per_save=1000,
        steps_per_eval_batch=0,
        steps_per_eval_image=500,
        steps_per_eval_all_images=5000,
        mixed_precision=False,
        pipeline=SplatPipelineConfig(datamanager=data, model=model),
        optimizers=optimizers,
        viewer=ViewerConfig(num_rays_per_chunk=1 << 15),
        vis="viewer",
    )
