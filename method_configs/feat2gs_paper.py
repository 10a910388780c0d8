# SPDX-License-Identifier: Apache-2.0
"""feat2gs-paper and its like: Feat2GS (Chen, Chen, Chen, Pons-Moll, Xiu, CVPR 2025, arXiv 2412.09606) as its program
has it.

Frozen: every number is written out, and a test fails when one changes. What is reported is masked, whole-frame PSNR /
SSIM / LPIPS (``published_*`` of ns-eval) of the mean over thirty scenes: geometry 19.59 / .641 / .336 with DINOv2,
19.75 / .653 / .316 with VGGT's encoder, 15.01 / .542 / .485 with IUVRGB; texture 18.03 / .595 / .329, 18.10 / .594 /
.329, 18.80 / .619 / .335; all 19.50 / .639 / .376, 19.71 / .647 / .387, 15.02 / .567 / .483; InstantSplat, which trains
splats freely, 18.87 / .604 / .304.

What differs:

- Cameras and depth come from a prediction (``nts predict``), from depth files or from seed points; the program runs
  DUSt3R or MASt3R. Poses of test views belong to the prediction, and are not registered to it.
- Principal components are exact; the program's are drawn by lot.
- Training poses turn by a rotation vector at the program's rate of quaternions, that is half as fast.
- A test pixel counts where a training view has depth within a hundredth of its own depth; the program takes a
  hundredth of a scene unit.
"""

from typing import Any, Dict

from nerfstudio.cameras.camera_optimizers import CameraOptimizerConfig
from nerfstudio.plugins.types import MethodSpecification

from nts_plugins.data.probe_data import NO_FEATURES, DenseSettings, ProbeDatamanagerConfig
from nts_plugins.evaluation.poses import PoseRefinement
from nts_plugins.method_configs._paper import paper_densification, paper_model, paper_trainer
from nts_plugins.models.probe import ProbeModelConfig
from nts_plugins.probe.readout import Mode
from nts_plugins.training.optimizers import AdamConfig, WarmStartConfig


def _optimizers(warm_start: int) -> Dict[str, Any]:
    def rate(lr: float, final: float) -> Dict[str, Any]:
        schedule = WarmStartConfig(
            warm_lr=1e-2, warm_lr_final=1e-4, warm_steps=warm_start, lr_final=final, max_steps=30000
        )
        return {"optimizer": AdamConfig(lr=lr, eps=1e-15), "scheduler": schedule}

    return {
        "means": rate(1.6e-5, 1.6e-7),  # program: a tenth of 3DGS's, as of all below
        "features_dc": rate(2.5e-4, 2.5e-4),
        "features_rest": rate(1.25e-5, 1.25e-5),
        "opacities": rate(5e-3, 5e-3),
        "scales": rate(5e-4, 5e-4),
        "quats": rate(1e-4, 1e-4),
        "features": rate(1e-2, 1e-2),
        "camera_opt": {
            "optimizer": AdamConfig(lr=1e-4, eps=1e-15),
            "scheduler": WarmStartConfig(
                warm_lr=1e-4, warm_lr_final=1e-4, warm_steps=warm_start, lr_final=1e-6, max_steps=1000, from_start=False
            ),
        },
    }


def _preset(name: str, mode: Mode, features: str) -> MethodSpecification:
    warm_start = 0 if mode == "free" else 1000
    model = paper_model(
        ProbeModelConfig,
        mode=mode,
        densify=paper_densification(refine_stop_iter=0),  # program: no splat is added or removed
        sh_degree_interval=0,  # program: all degrees from the start
        num_downscales=0,
        camera_optimizer=CameraOptimizerConfig(mode="SO3xR3", trans_l2_penalty=0.0, rot_l2_penalty=0.0),
        warm_start=1000,  # program
        warm_batch=0,
        mean_start=False,
        hidden=None,  # program: as wide as features
        pose_steps=1000,  # program
        tune_features=False,
        scale_anchor=0.1,  # program, for IUV and IUVRGB
        refine_test_poses=PoseRefinement(steps=500, turn_rate=1e-4, shift_rate=3e-4),  # program
    )
    data = ProbeDatamanagerConfig(
        features=DenseSettings(name=features, longest=512, reading="paper"),
        dimensions=256,
        unit_scale=False,
        stride=1,
        least_confidence=0.0,
    )
    trainer = paper_trainer(name, model, _optimizers(warm_start), data, iterations=warm_start + 7000)
    return MethodSpecification(config=trainer, description=f"Feat2GS with the paper's numbers, frozen; mode {mode}.")


geometry = _preset("feat2gs-paper", "geometry", "dinov2_b14")
texture = _preset("feat2gs-texture-paper", "texture", "dinov2_b14")
everything = _preset("feat2gs-all-paper", "all", "dinov2_b14")
free = _preset("feat2gs-free-paper", "free", NO_FEATURES)
