# SPDX-License-Identifier: Apache-2.0
"""langsplat: splats that answer to phrases (LangSplat, Qin, Li, Zhou, Wang, Pfister, CVPR 2024).

Everyday settings: the splats of ``splat``, trained once, with language on all three levels. The paper trains three
times on top of finished splats, a level each; here language is lifted when the splats are done (``--pipeline.model.
language.fit lift``), which measures best (docs/benchmarks.md) and takes seconds. The paper's autoencoder, and the words
of LangSplatV2, are other values of ``fit``.
"""

from nerfstudio.plugins.types import MethodSpecification

from nts_plugins.data.region_data import RegionDatamanagerConfig
from nts_plugins.method_configs._everyday import (
    language_optimizers,
    settings_of,
    splat_model,
    splat_optimizers,
    splat_trainer,
)
from nts_plugins.models.language import LanguageModelConfig

langsplat = MethodSpecification(
    config=splat_trainer(
        "langsplat",
        LanguageModelConfig(**settings_of(splat_model())),
        {**splat_optimizers(), **language_optimizers()},
        RegionDatamanagerConfig(),
    ),
    description="Splats that answer to phrases, on three sizes of things: LangSplat, lifted or trained in one run.",
)
