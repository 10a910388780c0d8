# SPDX-License-Identifier: Apache-2.0
"""Where training starts: settings in range, the first splats, and how their set grows from there."""

import math
from typing import Any, Dict, Mapping, Optional, Tuple

import torch
from torch import Tensor

from nts_plugins.errors import InputError
from nts_plugins.gaussians.initialise import from_points, random_in_cube
from nts_plugins.gaussians.strategies import StrategyConfig

RANDOM_OPACITY = 0.02
"""Opacity of splats that fill space at random. At the usual 0.1 they are a fog that hides the scene from its own
cameras, and most of training goes into clearing it: on a Blender scene 1000 steps reached 19 dB instead of 29."""

SEED_SCALE = 0.5
"""Size of splats at seed points, relative to the distance of their neighbours. At the paper's 1, splats of points whose
neighbours lie elsewhere in depth cover what is behind them. After 1000 steps at half size, 0.5 gave 26.6 dB / .861
instead of 26.3 / .849 on llff_fern, SSIM .877 instead of .873 on fox and .520 instead of .512 on lund_street, at the
same PSNR; 0.35 and 0.7 were no better."""

SeedPoints = Tuple[Tensor, Tensor]

_RANGES = {
    "sh_degree": (0, 3),
    "ssim_lambda": (0.0, 1.0),
    "num_downscales": (0, 8),
    "resolution_schedule": (1, math.inf),
    "sh_degree_interval": (0, math.inf),
    "sparse_seeds": (0, math.inf),
    "scale_regularization_every": (1, math.inf),
}
"""Least and largest value of settings that would otherwise fail later, or train to nonsense."""


def check_settings(config: Any) -> None:
    """The settings of a :class:`~nts_plugins.models.splat.SplatModelConfig` are in range.

    Raises:
        InputError: naming the first that is not, as it is spelled on the command line.
    """
    for name, (least, largest) in _RANGES.items():
        value = getattr(config, name)
        if not least <= value <= largest:
            option = f"--pipeline.model.{name.replace('_', '-')}"
            limit = f"from {least} to {largest}" if math.isfinite(largest) else f"at least {least}"
            raise InputError(f"{option} is {value}; it must be {limit}.")


def initial_splats(config: Any, seed_points: Optional[SeedPoints], metadata: Mapping[str, Any]) -> Dict[str, Tensor]:
    """Splats at the seed points or, without any, at random around the cameras.

    Args:
        config: a :class:`~nts_plugins.models.splat.SplatModelConfig`.
        seed_points: [N, 3] positions in scene units and [N, 3] colours from 0 to 255; None, or no rows, for none.
        metadata: of the training data; ``random_region``, a centre and a side, says where random splats belong.

    Returns:
        As :mod:`nts_plugins.gaussians.initialise`.
    """
    if config.random_init or seed_points is None or len(seed_points[0]) == 0:
        seed_points = None
    is_mcmc = config.strategy == "mcmc"
    opacity = 0.5 if is_mcmc else RANDOM_OPACITY if seed_points is None else 0.1
    scale = 0.1 if is_mcmc else 1.0 if seed_points is None else SEED_SCALE
    options = {
        "sh_degree": config.sh_degree,
        "opacity": config.initial_opacity if config.initial_opacity is not None else opacity,
        "scale": config.initial_scale if config.initial_scale is not None else scale,
    }
    if seed_points is not None:
        return from_points(*seed_points, **options)
    center, side = metadata.get("random_region", ((0.0, 0.0, 0.0), 3.0))
    splats = random_in_cube(config.num_random, config.random_scale * side, **options)
    splats["means"] += torch.tensor(center, dtype=torch.float32)
    return splats


def sparsity_of(config: Any, count: int) -> float:
    """How many times farther than usual ``count`` seed points lie apart, see ``SplatModelConfig.sparse_seeds``."""
    usual = config.sparse_seeds if config.strategy == "default" else 0
    return min(max(usual / max(count, 1), 1.0) ** 0.5, 3.0)


def strategy_for(
    config: Any, metadata: Mapping[str, Any], splats: Mapping[str, Tensor], sparsity: float
) -> StrategyConfig:
    """The strategy's settings for a capture; arguments as of :func:`initial_splats`, which gave the splats."""
    if config.strategy == "mcmc":
        return config.mcmc
    per_splat = sum(value[0].numel() for value in splats.values())
    return config.densify.for_data(metadata.get("training_numbers"), per_splat, sparsity)
