# SPDX-License-Identifier: Apache-2.0
"""The training target at the resolution of the step, without shrinking the same picture again in every step."""

from dataclasses import dataclass
from typing import Any, Dict, Mapping, Tuple, Union

import torch
from torch import Tensor

SMALLEST_SIDE = 16
"""Pixels below which the start of training does not shrink a picture: SSIM looks at windows of 11."""


@dataclass(frozen=True)
class ResolutionSchedule:
    """Training starts with small pictures and doubles them until they have their full size."""

    doublings: int = 2
    """The first steps draw 1 / 2^this of the resolution (Kerbl et al. 2023, section 7.1)."""
    interval: int = 250
    """Steps from one doubling to the next; 0 starts at full resolution."""

    def factor_at(self, step: int, height: int, width: int) -> int:
        """How many times smaller than a picture of this size a step draws; a power of two."""
        done = step // self.interval if self.interval > 0 else self.doublings
        factor = 2 ** max(0, self.doublings - done)
        while factor > 1 and min(height, width) // factor < SMALLEST_SIDE:
            factor //= 2
        return factor


class Pyramid:
    """A map [H, W, C] and the smaller versions of it that were asked for.

    Holds the full size as it was given (uint8 costs a quarter of float) and only the last smaller size, because a
    schedule goes through sizes once. Safe to read from several threads: a race costs a second computation.

    Args:
        full: [H, W, C].
        straight_alpha: the map is a picture of four channels, colour and alpha: colours count in proportion to alpha.
    """

    def __init__(self, full: Tensor, *, straight_alpha: bool = False) -> None:
        self.full = full
        self._straight_alpha = straight_alpha
        self._smaller: Tuple[int, Tensor] = (1, full)

    def at(self, factor: int) -> Tensor:
        """The map shrunk by a whole factor, in the type of the full map.

        [H // factor, W // factor, C]; each pixel is the mean of factor x factor pixels, what is left over at the right
        and lower border is cut off. So intrinsics divided by ``factor`` are exact. A mask's pixel stays true where at
        least half of the pixels it covers are. Not differentiable.
        """
        if factor == 1:
            return self.full
        known, smaller = self._smaller
        if known != factor:
            smaller = (_shrink_rgba if self._straight_alpha else _shrink)(self.full, factor)
            self._smaller = (factor, smaller)
        return smaller


def _shrink(full: Tensor, factor: int) -> Tensor:
    mean = _means(full.float(), factor)
    return mean >= 0.5 if full.dtype == torch.bool else _as(full.dtype, mean)


def _shrink_rgba(full: Tensor, factor: int) -> Tensor:
    alpha = full[..., 3:].float()
    mean_alpha = _means(alpha, factor)
    color = _means(full[..., :3] * alpha, factor) / mean_alpha.clamp_min(1e-6)
    return _as(full.dtype, torch.cat([color, mean_alpha], dim=-1))


def _means(full: Tensor, factor: int) -> Tensor:
    height, width = full.shape[0] // factor, full.shape[1] // factor
    cut = full[: height * factor, : width * factor]
    return cut.reshape(height, factor, width, factor, -1).mean(dim=(1, 3))


def _as(dtype: torch.dtype, values: Tensor) -> Tensor:
    return (values + 0.5).to(torch.uint8) if dtype == torch.uint8 else values.to(dtype)


def pyramids(batch: Dict) -> Dict[str, Pyramid]:
    """A pyramid for every map of a batch that has the image's height and width."""
    size = batch["image"].shape[:2]
    maps = {name: value for name, value in batch.items() if isinstance(value, Tensor) and value.ndim == 3}
    return {name: _pyramid(name, value) for name, value in maps.items() if value.shape[:2] == size}


def _pyramid(name: str, value: Tensor) -> Pyramid:
    return Pyramid(value, straight_alpha=name == "image" and value.shape[-1] == 4)


class Targets:
    """The maps of one batch at the resolution of one step, on the device of the model.

    ``targets[name]`` is [H, W, C]: pictures as float in [0, 1], masks as bool, the rest in its own type. Maps of
    another size than the image (feature maps) are not shrunk, and what is no map is given as it is.

    Args:
        batch: from the datamanager; ``pyramids`` in it save work, and may be absent.
        factor: whole number by which the step's resolution is smaller.
        device: where the maps are wanted.
    """

    def __init__(self, batch: Mapping[str, Any], factor: int, device: Union[str, torch.device]) -> None:
        self._batch = batch
        self._factor = factor
        self._device = device

    def __contains__(self, name: str) -> bool:
        return isinstance(self._batch.get(name), Tensor)

    def __getitem__(self, name: str) -> Any:
        value = self._batch[name]
        if not isinstance(value, Tensor):
            return value
        if self._factor > 1 and value.shape[:2] == self._batch["image"].shape[:2]:
            pyramid = self._batch.get("pyramids", {}).get(name) or _pyramid(name, value)
            value = pyramid.at(self._factor)
        value = value.to(self._device)
        return value.float().mul_(1.0 / 255.0) if value.dtype == torch.uint8 else value
