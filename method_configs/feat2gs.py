# SPDX-License-Identifier: Apache-2.0
"""feat2gs: what the features of a 2D model hold of a scene (Feat2GS, Chen, Chen, Chen, Pons-Moll, Xiu, CVPR 2025).

Everyday settings: the paper's, for machines without a GPU too. One method with four presets, by what is read out of the
features: geometry (``feat2gs``), texture, all, and nothing (``feat2gs-free``, the control).
"""

from dataclasses import replace
from typing import Any, Dict

from nerfstudio.cameras.camera_optimizers import CameraOptimizerConfig
from nerfstudio.plugins.types import MethodSpecification

from nts_plugins.data.probe_data import NO_FEATURES, DenseSettings, ProbeDatamanagerConfig
from nts_plugins.gaussians.strategies import DefaultConfig
from nts_plugins.method_configs._everyday import splat_trainer
from nts_plugins.models.probe import ProbeModelConfig
from nts_plugins.probe.readout import Mode
from nts_plugins.training.optimizers import AdamConfig, WarmStartConfig


def probe_optimizers(warm_start: int) -> Dict[str, Any]:
    """The program's learning rates: of networks in the warm start, then of what they say, a tenth of those of 3DGS.

    Args:
        warm_start: its steps.
    """

    def rate(lr: float, final: float, steps: int) -> Dict[str, Any]:
        schedule = WarmStartConfig(warm_steps=warm_start, lr_final=final, max_steps=steps)
        return {"optimizer": AdamConfig(lr=lr), "scheduler": schedule}

    constant = {"features_dc": 2.5e-4, "features_rest": 1.25e-5, "opacities": 5e-3, "scales": 5e-4, "quats": 1e-4}
    return {
        "means": rate(1.6e-5, 1.6e-7, 30000),
        **{name: rate(lr, lr, 30000) for name, lr in constant.items()},
        "features": rate(1e-2, 1e-2, 30000),
        # Poses learn in 1000 steps after the warm start.
        "camera_opt": {
            "optimizer": AdamConfig(lr=1e-4),
            "scheduler": WarmStartConfig(
                warm_lr=1e-4, warm_lr_final=1e-4, warm_steps=warm_start, lr_final=1e-6, max_steps=1000, from_start=False
            ),
        },
    }


def probe_model(mode: Mode, **differences: Any) -> ProbeModelConfig:
    """The program's settings in a mode, but for ``differences``."""
    numbers: Dict[str, Any] = dict(
        mode=mode,
        densify=DefaultConfig(refine_stop_iter=0),  # splats stay as many as they are
        sh_degree=3,
        sh_degree_interval=0,  # all degrees from the start
        num_downscales=0,
        background_color="data",
        initial_opacity=0.1,
        initial_scale=1.0,
        camera_optimizer=CameraOptimizerConfig(mode="SO3xR3", trans_l2_penalty=0.0, rot_l2_penalty=0.0),
    )
    return ProbeModelConfig(**{**numbers, **differences})


def _preset(name: str, mode: Mode, what: str) -> MethodSpecification:
    warm_start = 0 if mode == "free" else 1000
    data = ProbeDatamanagerConfig(
        features=DenseSettings(name=NO_FEATURES if mode == "free" else "dinov2_b14"),
        # A splat a pixel is a million of them for three photographs.
        stride=4,
        # Networks of 256 numbers take most of the time without a GPU.
        dimensions=64,
        # Features of one model are a hundred times smaller than those of another, and networks begin alike.
        unit_scale=True,
    )
    trainer = splat_trainer(
        name,
        # Features of 65 536 pixels say what those of all do, in a warm start of 1000 steps.
        probe_model(mode, warm_batch=1 << 16, mean_start=True),
        probe_optimizers(warm_start),
        data,
    )
    return MethodSpecification(config=replace(trainer, max_num_iterations=3000), description=what)


feat2gs = _preset("feat2gs", "geometry", "Feat2GS: splats whose geometry is read out of a 2D model's features.")
texture = _preset("feat2gs-texture", "texture", "Feat2GS: splats whose colours are read out of a 2D model's features.")
everything = _preset("feat2gs-all", "all", "Feat2GS: splats that are read out of a 2D model's features.")
free = _preset("feat2gs-free", "free", "Feat2GS's control: a splat a pixel, trained freely, poses with it.")
