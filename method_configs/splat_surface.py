# SPDX-License-Identifier: Apache-2.0
"""splat-surface: splats that lie on surfaces, to take meshes from (``nts mesh``); the geometric terms of 2D Gaussian
Splatting (Huang, Yu, Chen, Geiger, Gao, SIGGRAPH 2024) on flattened 3D splats.

Everyday settings: those of ``splat``, and the surface head on top; ``_everyday`` holds both, with the reasons.
"""

from nerfstudio.plugins.types import MethodSpecification

from nts_plugins.method_configs._everyday import on_surfaces, splat_model, splat_optimizers, splat_trainer

splat_surface = MethodSpecification(
    config=splat_trainer("splat-surface", on_surfaces(splat_model()), splat_optimizers()),
    description="Splats that lie on surfaces: normals, depth where rays meet them, and meshes with nts mesh.",
)
