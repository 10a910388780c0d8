# SPDX-License-Identifier: Apache-2.0
"""Surfaces: the planes of flat splats, what pictures of them say, and meshes fused from pictures."""
