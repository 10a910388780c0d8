# SPDX-License-Identifier: Apache-2.0
"""splat-dynamic: splats of a scene that moves, carried from rest to the time of each picture by one shared field.

Everyday settings: those of ``splat``, and the motion on top, which ``_everyday`` holds.
"""

from nerfstudio.plugins.types import MethodSpecification

from nts_plugins.method_configs._everyday import (
    motion_optimizers,
    settings_of,
    splat_model,
    splat_optimizers,
    splat_trainer,
)
from nts_plugins.models.dynamic import DynamicSplatModelConfig

splat_dynamic = MethodSpecification(
    config=splat_trainer(
        "splat-dynamic",
        DynamicSplatModelConfig(**settings_of(splat_model())),
        {**splat_optimizers(), **motion_optimizers()},
    ),
    description="Gaussian splats of a moving scene: pictures with times, and a field that carries the splats.",
)
