# SPDX-License-Identifier: Apache-2.0
"""Losses between pictures, and on the shape of splats."""

from nts_plugins.losses._photometric import l1_and_ssim, photometric_loss, ssim, ssim_map, ssim_reference
from nts_plugins.losses._shape import flattening_loss, needle_loss

__all__ = ["flattening_loss", "l1_and_ssim", "needle_loss", "photometric_loss", "ssim", "ssim_map", "ssim_reference"]
