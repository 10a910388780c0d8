# SPDX-License-Identifier: Apache-2.0
"""From maps of features to one vector a pixel, with the same few numbers for all pictures of a scene.

Feat2GS (Chen, Chen, Chen, Pons-Moll, Xiu, CVPR 2025, arXiv 2412.09606), section 3, and its program.
"""

from dataclasses import dataclass
from typing import List, Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from nts_plugins.errors import InputError

CONTROLS = ("iuv", "iuvrgb")
"""Features that no network makes: which picture, and where in it; and the pixel's colour besides."""
BESIDE = "+"
"""Between names of features that are put side by side; behind a model's name, its weights are fine-tuned ones."""


@dataclass(frozen=True)
class FeatureSource:
    """One of the models and controls whose features are put side by side."""

    model: str
    """Its name, see :func:`nts_plugins.encoders.dense.known`, or one of :data:`CONTROLS`."""
    fine_tuned: bool = False
    """Whether its weights are other ones than the published ones: the rows that the paper marks with a plus sign. That
    these are fine-tuned models is inferred; the paper's program has none of them."""

    @property
    def name(self) -> str:
        """As somebody writes it."""
        return self.model + (BESIDE if self.fine_tuned else "")


def feature_sources(names: str) -> List[FeatureSource]:
    """What names stand for: ``a+b`` for two models side by side, ``a+`` for a model with fine-tuned weights, and so
    ``a++b`` for such a one beside another.

    Raises:
        InputError: where a name is missing, or a control is said to be fine-tuned.
    """
    found: List[FeatureSource] = []
    for part in names.split(BESIDE):
        if part:
            found.append(FeatureSource(part))
        elif found and not found[-1].fine_tuned and found[-1].model not in CONTROLS:
            found[-1] = FeatureSource(found[-1].model, fine_tuned=True)
        else:
            raise InputError(
                f"{names!r} names no features: write A+B for those of two models, and A+ for those of a model with "
                f"fine-tuned weights. {' and '.join(CONTROLS)} have no weights."
            )
    return found


@dataclass(frozen=True)
class Projection:
    """Onto the directions in which the features of a scene differ most."""

    mean: Tensor
    """[C]"""
    axes: Tensor
    """[C, Q], orthonormal columns, those of largest variance first. Their signs make the largest entry positive."""
    scale: float = 1.0
    """Factor on what comes out."""

    def __call__(self, features: Tensor) -> Tensor:
        """[..., C] to [..., Q]. Differentiable."""
        return (features - self.mean) @ self.axes * self.scale


def joint_projection(maps: Sequence[Tensor], components: int, unit_scale: bool = False) -> Projection:
    """Principal components of all vectors of all maps together, without whitening.

    The program draws random numbers for it (``pca_lowrank``); here the covariance is decomposed, so that equal maps
    give equal components.

    Args:
        maps: [h, w, C] each, of any sizes.
        components: at most so many; Q is less where C is.
        unit_scale: multiply by one factor, so that components have a mean square of 1. Networks that read features
            then begin alike, whatever the features' unit.
    """
    vectors = torch.cat([each.reshape(-1, each.shape[-1]) for each in maps])
    mean = vectors.double().mean(dim=0)
    covariance = torch.zeros(len(mean), len(mean), dtype=torch.float64, device=vectors.device)
    for part in vectors.split(1 << 16):
        centred = part.double() - mean
        covariance += centred.T @ centred
    variances, axes = torch.linalg.eigh(covariance / len(vectors))
    count = min(components, len(mean))
    variances, axes = variances.flip(0)[:count], axes.flip(1)[:, :count]
    largest = axes.gather(0, axes.abs().argmax(dim=0, keepdim=True))
    axes = axes * torch.where(largest < 0, -1.0, 1.0)
    power = float(variances.clamp_min(0).mean())
    scale = power**-0.5 if unit_scale and power > 0 else 1.0
    return Projection(mean.float(), axes.float(), scale)


def projected(maps: Sequence[Tensor], components: int, unit_scale: bool = False) -> List[Tensor]:
    """Maps [h, w, Q] of their joint principal components; arguments as of :func:`joint_projection`."""
    projection = joint_projection(maps, components, unit_scale)
    return [projection(each) for each in maps]


def concatenated(models: Sequence[Sequence[Tensor]], components: int, unit_scale: bool = False) -> List[Tensor]:
    """Features of several models side by side, reduced once more.

    As in the program: each model's features are reduced, brought to [0, 1] over all of the scene, resized to the finest
    of the models' maps (the program: a sixteenth of the picture), put side by side, and reduced.

    Args:
        models: for each model the maps [h, w, C] of all pictures.
        components: see :func:`joint_projection`, as for ``unit_scale``.

    Returns:
        [h, w, Q] of each picture.
    """
    if len(models) == 1:
        return projected(models[0], components, unit_scale)
    between = [_in_unit_range(projected(maps, components)) for maps in models]
    pictures = list(zip(*between, strict=True))
    sizes = [max((each.shape[:2] for each in maps), key=lambda size: size[0] * size[1]) for maps in pictures]
    together = [
        torch.cat([resized(each, (size[0], size[1])) for each in maps], dim=-1)
        for maps, size in zip(pictures, sizes, strict=True)
    ]
    return projected(together, components, unit_scale)


def _in_unit_range(maps: List[Tensor]) -> List[Tensor]:
    low, high = min(float(each.min()) for each in maps), max(float(each.max()) for each in maps)
    return [(each - low) / max(high - low, 1e-12) for each in maps]


def resized(features: Tensor, size: Tuple[int, int]) -> Tensor:
    """A map [h, w, C] at another height and width, between whose vectors lines are drawn."""
    if tuple(features.shape[:2]) == tuple(size):
        return features
    batch = features.permute(2, 0, 1)[None]
    return F.interpolate(batch, size, mode="bilinear", align_corners=False)[0].permute(1, 2, 0)


def at_pixels(features: Tensor, pixels: Tensor, size: Tuple[int, int]) -> Tensor:
    """[M, C] of a map [h, w, C] of a whole picture, at places in it, as a map resized to the picture has them.

    Args:
        features: see above.
        pixels: [M, 2] (x, y), pixel centres at +0.5.
        size: height and width of the picture.
    """
    places = 2.0 * pixels / pixels.new_tensor([size[1], size[0]]) - 1.0
    batch = features.permute(2, 0, 1)[None]
    found = F.grid_sample(batch, places[None, None].to(batch), padding_mode="border", align_corners=False)
    return found[0, :, 0].T


def control(name: str, view: int, views: int, pixels: Tensor, size: Tuple[int, int], colors: Tensor) -> Tensor:
    """[M, 3 or 6] of one of :data:`CONTROLS`: which picture, x and y, and colours, all from -1 to 1.

    The paper does not say in which units they are.

    Args:
        name: of the control.
        view: number of the picture.
        views: number of pictures.
        pixels: [M, 2] (x, y), pixel centres at +0.5.
        size: height and width of the picture.
        colors: [M, 3] in [0, 1].
    """
    which = torch.full_like(pixels[:, :1], 2.0 * view / max(views - 1, 1) - 1.0)
    places = 2.0 * pixels / pixels.new_tensor([size[1], size[0]]) - 1.0
    parts = [which, places] + ([2.0 * colors - 1.0] if name == "iuvrgb" else [])
    return torch.cat(parts, dim=1)
