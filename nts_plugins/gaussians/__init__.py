# SPDX-License-Identifier: Apache-2.0
"""Gaussians: the bundle of tensors, where it comes from, and how it is densified."""

from nts_plugins.gaussians._gaussians import Gaussians
from nts_plugins.gaussians.strategies import DefaultConfig, MCMCConfig, Strategy, StrategyConfig, make_strategy

__all__ = ["DefaultConfig", "Gaussians", "MCMCConfig", "Strategy", "StrategyConfig", "make_strategy"]
