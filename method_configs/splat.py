# SPDX-License-Identifier: Apache-2.0
"""splat: 3D Gaussian Splatting (Kerbl, Kopanas, Leimkuehler, Drettakis, SIGGRAPH 2023), on any device.

Everyday settings, which are in ``_everyday``; ``splat_paper`` holds the paper's, frozen.
"""

from nerfstudio.plugins.types import MethodSpecification

from nts_plugins.method_configs._everyday import splat_model, splat_optimizers, splat_trainer

splat = MethodSpecification(
    config=splat_trainer("splat", splat_model(), splat_optimizers()),
    description="3D Gaussian Splatting on any device: CUDA where there is one, fast CPU kernels where there is none.",
)
