# SPDX-License-Identifier: Apache-2.0
"""Gaussian splatting methods for nerfstudio that share one datamanager, one rasterizer and one harness.

Importing this package imports nothing heavy: torch, nerfstudio, gsplat and the encoders are loaded by the parts that
need them.
"""

__version__ = "0.1.0"
