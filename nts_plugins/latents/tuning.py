# SPDX-License-Identifier: Apache-2.0
"""A codec whose latents of one place are the same from different sides, and whose pictures stay what they were.

Latent Radiance Fields (Zhou, Liu, Luo, Huang, ICLR 2025, arXiv 2502.09613), stage I: encoder and decoder learn by

    reconstruction + l0 KL(q | N(0, 1)) + l1 sum_ij w_ij |z_i - z_j|_1 + l2 KL(q | q_original)

where i and j are corresponding places of two views. The program of this stage was never released, nor are its weights
in the paper. What is ours: reconstruction is the mean absolute error (the codec that the paper begins with was trained
with LPIPS and a discriminator, too); numbers of l0, l1, l2; the latent at a place between others is interpolated.
"""

import copy
import random
from dataclasses import dataclass
from typing import Dict, List, Optional, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from nts_plugins.encoders.latents import LatentCodec, Posterior
from nts_plugins.errors import InputError
from nts_plugins.latents.correspondence import CLOSE, PosedPicture, neighbours, pair_weights, pose_distances
from nts_plugins.latents.settings import TuningSettings
from nts_plugins.latents.training import CodecTraining
from nts_plugins.surfaces.depth_views import places_in

LEAST_SHARE = 0.125
"""Of a square's latents must be seen in the other one too, for the two to be a pair."""
TRIES = 200
"""To find a pair, before the views are said not to overlap."""


@dataclass(frozen=True)
class Pair:
    """Two squares of pictures that show some of the same."""

    crops: Tensor
    """[2, 3, S, S] in [0, 1]."""
    cells: Tensor
    """[M, 2] row and column of latents of the first."""
    places: Tensor
    """[M, 2] the pixel coordinates (x, y) of the same in the second."""
    weight: float
    """What their agreement counts, see :func:`~nts_plugins.latents.correspondence.pair_weights`."""


class Pairs:
    """Squares of pictures of several scenes, the same ones in every run.

    Args:
        scenes: of each its pictures, two at least.
        factor: of the codec.
        settings: which squares, of which views.

    Raises:
        InputError: where a picture is smaller than a square, or has no other one of its scene.
    """

    def __init__(self, scenes: Sequence[Sequence[PosedPicture]], factor: int, settings: TuningSettings) -> None:
        self._scenes, self._factor, self._side = scenes, factor, factor * settings.crop
        self._seed = settings.seed
        self._near: List[List[List[int]]] = []
        self._weights: List[Tensor] = []
        for views in scenes:
            if len(views) < 2:
                raise InputError("A scene has one picture, and what it shows can be compared with nothing.")
            for view in views:
                height, width = view.picture.shape[:2]
                if min(height, width) < self._side:
                    raise InputError(
                        f"A picture of {width}x{height} pixels is smaller than the squares of {self._side}, that is "
                        f"{settings.crop} latents. Make them smaller with --tuning.crop."
                    )
            distances = pose_distances(torch.stack([view.viewmat for view in views]))
            self._near.append(neighbours(distances, settings.neighbours))
            self._weights.append(pair_weights(distances))

    def at(self, step: int) -> Pair:
        """That of a step.

        Raises:
            InputError: where no view shows what another one does.
        """
        draw = random.Random(f"{self._seed} {step}")
        for _ in range(TRIES):
            pair = self._drawn(draw)
            if pair is not None:
                return pair
        raise InputError("No two pictures were found that show the same place: the views do not overlap.")

    def _drawn(self, draw: random.Random) -> Optional[Pair]:
        number = draw.randrange(len(self._scenes))
        first = draw.randrange(len(self._scenes[number]))
        second = draw.choice(self._near[number][first])
        here, there = self._scenes[number][first], self._scenes[number][second]
        corner = [self._factor * draw.randrange((whole - self._side) // self._factor + 1) for whole in here.depth.shape]
        cells = torch.cartesian_prod(*[torch.arange(self._side // self._factor)] * 2)
        points = self._factor * (cells.flip(1) + 0.5) + torch.tensor([corner[1], corner[0]])
        places, same = places_in(here, there, points, CLOSE)
        if float(same.float().mean()) < LEAST_SHARE:
            return None
        middle = places[same].median(dim=0).values.flip(0)
        other = [
            self._factor * round(min(max(float(at) - self._side / 2, 0), whole - self._side) // self._factor)
            for at, whole in zip(middle, there.depth.shape, strict=True)
        ]
        places = places - torch.tensor([other[1], other[0]])
        # Interpolation needs a latent on each side.
        margin = self._factor / 2
        same &= ((places >= margin) & (places <= self._side - margin)).all(dim=1)
        if float(same.float().mean()) < LEAST_SHARE:
            return None
        crops = torch.stack([self._crop(here, corner), self._crop(there, other)])
        return Pair(crops, cells[same], places[same], float(self._weights[number][first, second]))

    def _crop(self, view: PosedPicture, corner: Sequence[int]) -> Tensor:
        row, column = corner
        part = view.picture[row : row + self._side, column : column + self._side]
        return part.permute(2, 0, 1).float() / 255.0


def correspondence_loss(latents: Tensor, pair: Pair, factor: int) -> Tensor:
    """Mean absolute difference of the latents of corresponding places, times the pair's weight. Differentiable.

    Args:
        latents: [2, C, s, s] of the pair's squares.
        pair: which places correspond.
        factor: of the codec.
    """
    own = latents[0][:, pair.cells[:, 0], pair.cells[:, 1]]
    side = factor * latents.shape[-1]
    grid = (2.0 * pair.places / side - 1.0).to(latents)[None, None]
    its = F.grid_sample(latents[1:], grid, mode="bilinear", padding_mode="border", align_corners=False)[0, :, 0]
    return pair.weight * (own - its).abs().mean()


class CodecTuning(CodecTraining):
    """The training of a codec's encoder and decoder.

    Args:
        codec: changed in place.
        pairs: what it is trained on.
        settings: weights, rates and steps.
    """

    def __init__(self, codec: LatentCodec, pairs: Pairs, settings: TuningSettings) -> None:
        self._pairs, self._settings = pairs, settings
        self._original = copy.deepcopy(codec).requires_grad_(False).eval()
        parameters = [*codec.encoder_parameters(), *codec.decoder_parameters()]
        super().__init__(codec, parameters, settings.steps, settings.lr)

    def _terms(self) -> Dict[str, Tensor]:
        """Of the next pair."""
        pair = self._pairs.at(self.done)
        crops = pair.crops.to(self._device)
        posterior = self.codec.posterior(crops)
        with torch.no_grad():
            before = self._original.posterior(crops)
        terms = {
            "reconstruction": (self.codec.decode(posterior.mode) - crops).abs().mean(),
            "correspondence": correspondence_loss(posterior.mode, pair, self.codec.factor),
            "original": posterior.divergence(before),
        }
        if posterior.log_variance is not None:
            zeros = torch.zeros_like(posterior.mode)
            terms["prior"] = posterior.divergence(Posterior(zeros, zeros))
        return terms

    def _loss(self, terms: Dict[str, Tensor]) -> Tensor:
        settings = self._settings
        weights = {
            "reconstruction": 1.0,
            "correspondence": settings.correspondence,
            "original": settings.original,
            "prior": settings.prior,
        }
        return torch.stack([weights[name] * value for name, value in terms.items()]).sum()
