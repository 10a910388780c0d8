# SPDX-License-Identifier: Apache-2.0
"""Losses between pictures."""

from nts_plugins.losses._photometric import l1_and_ssim, photometric_loss, ssim, ssim_reference

__all__ = ["l1_and_ssim", "photometric_loss", "ssim", "ssim_reference"]
