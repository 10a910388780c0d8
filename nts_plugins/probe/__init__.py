# SPDX-License-Identifier: Apache-2.0
"""What features of pictures hold of a scene: splats that are read out of them (Feat2GS, Chen et al., CVPR 2025)."""
