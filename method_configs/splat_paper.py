# SPDX-License-Identifier: Apache-2.0
"""splat-paper: 3D Gaussian Splatting (Kerbl, Kopanas, Leimkuehler, Drettakis, SIGGRAPH 2023) as published.

A frozen preset, whose numbers are in ``_paper``. A test fails when one changes.
"""

from nerfstudio.plugins.types import MethodSpecification

from nts_plugins.data.datamanager import SplatDatamanagerConfig
from nts_plugins.method_configs._paper import paper_model, paper_optimizers, paper_trainer
from nts_plugins.models.splat import SplatModelConfig

splat_paper = MethodSpecification(
    config=paper_trainer("splat-paper", paper_model(SplatModelConfig), paper_optimizers(), SplatDatamanagerConfig()),
    description="3D Gaussian Splatting with the numbers of the paper, frozen.",
)
