# SPDX-License-Identifier: Apache-2.0
"""langsplat-paper and langsplatv2-paper: LangSplat (Qin, Li, Zhou, Wang, Pfister, CVPR 2024) and LangSplatV2 (NeurIPS
2025, arXiv 2507.07136) as published, on the splats of ``splat-paper``.

Frozen: every number is written out, and a test fails when one changes. What they report on LERF-OVS, in their own
protocols (mIoU / localisation): 51.4 / 84.3, and 59.9 / 84.1.

What differs, in both:

- All three levels are trained together, in one run, after the splats: 30 000 steps of them first, then the language's.
- The autoencoder's cosine is that between features. The program takes it along the batch.
- Held-out pictures are never trained on; the programs train on all.
"""

from typing import Any, Dict

from nerfstudio.plugins.types import MethodSpecification

from nts_plugins.data.region_data import RegionDatamanagerConfig
from nts_plugins.heads.language import LanguageHeadConfig
from nts_plugins.language.autoencoder import AutoencoderSettings
from nts_plugins.language.sparse import SparseSettings
from nts_plugins.method_configs._paper import paper_model, paper_optimizers, paper_trainer
from nts_plugins.models.language import LanguageModelConfig
from nts_plugins.training.optimizers import AdamConfig

SPLATS = 30000
"""Steps of splats before those of language: the programs begin with such a checkpoint."""


def paper_language_optimizers() -> Dict[str, Any]:
    """The programs' learning rate, of codes and of words."""
    return {
        "language": {"optimizer": AdamConfig(lr=2.5e-3, eps=1e-15), "scheduler": None},
        "language_shared": {"optimizer": AdamConfig(lr=2.5e-3, eps=1e-15), "scheduler": None},
    }


langsplat_paper = MethodSpecification(
    config=paper_trainer(
        "langsplat-paper",
        paper_model(
            LanguageModelConfig,
            language=LanguageHeadConfig(
                fit="autoencoder",
                start_step=SPLATS,
                weight=1.0,
                autoencoder=AutoencoderSettings(
                    encoder=(256, 128, 64, 32, 3),
                    decoder=(16, 32, 64, 128, 256, 256),
                    epochs=100,
                    most_steps=None,
                    batch=64,
                    lr=7e-4,
                    cosine_weight=1e-3,
                ),
            ),
            splats_stop_step=SPLATS,
        ),
        {**paper_optimizers(), **paper_language_optimizers()},
        RegionDatamanagerConfig(),
        iterations=SPLATS + 30000,
    ),
    description="LangSplat with the numbers of the paper, frozen.",
)

langsplatv2_paper = MethodSpecification(
    config=paper_trainer(
        "langsplatv2-paper",
        paper_model(
            LanguageModelConfig,
            language=LanguageHeadConfig(
                fit="sparse",
                start_step=SPLATS,
                weight=1.0,
                sparse=SparseSettings(words=64, kept=4),
            ),
            splats_stop_step=SPLATS,
        ),
        {**paper_optimizers(), **paper_language_optimizers()},
        RegionDatamanagerConfig(),
        iterations=SPLATS + 10000,
    ),
    description="LangSplatV2 with the numbers of the paper, frozen.",
)
