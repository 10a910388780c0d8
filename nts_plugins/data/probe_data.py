# SPDX-License-Identifier: Apache-2.0
"""Pictures with a feature, and a place in the scene, for each of their pixels.

Class paths in this module are written into every run's config.yml: they are a public interface.
"""

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Callable, Iterable, List, Literal, Optional, Tuple, Type

import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from nts_plugins.appearance.background import over_background
from nts_plugins.data.datamanager import Batch, SplatDatamanager, SplatDatamanagerConfig
from nts_plugins.data.dataset import SplatDataset
from nts_plugins.data.pointmaps import Pointmap, pointmaps, source_of, true_depth, view_of_all
from nts_plugins.encoders.dense import load_dense
from nts_plugins.encoders.settings import DenseSettings
from nts_plugins.errors import InputError, describe
from nts_plugins.probe.features import (
    CONTROLS,
    FeatureSource,
    at_pixels,
    concatenated,
    control,
    feature_sources,
    projected,
)
from nts_plugins.probe.points import ProbePoints, chosen_pixels, joined, lone_views
from nts_plugins.progress import progress
from nts_plugins.surfaces.depth_views import DepthView, covisible, splatted_depth

NO_FEATURES = "none"
WEIGHTS = "--pipeline.datamanager.features.weights"


@dataclass(frozen=True)
class ProbeScene:
    """What a probe knows of a scene."""

    sites: Callable[[], ProbePoints]
    """Makes its splats, without features."""
    truth: Callable[[], Optional[Tuple[DepthView, ...]]]
    """Measured depth of the training views, where there is any."""
    unit: float
    """Scene units in a unit of the data."""
    points: Optional[ProbePoints] = None
    """The splats with their features, where something is to be trained."""


@dataclass
class ProbeDatamanagerConfig(SplatDatamanagerConfig):
    """Settings of :class:`ProbeDatamanager`."""

    _target: Type = field(default_factory=lambda: ProbeDatamanager)
    features: DenseSettings = field(default_factory=DenseSettings)
    """What makes features. Names of several models, with "+" between them, put their features side by side; a "+"
    behind a name means fine-tuned weights of that model. ``weights`` may be a folder with a file or folder named after
    each. "iuv" and "iuvrgb" are controls that no network makes, and may be added to models. "none" makes none, for
    splats that are trained freely."""
    dimensions: int = 256
    """Principal components of a feature, at most."""
    unit_scale: bool = False
    """Give features a mean square of 1, by one factor."""
    stride: int = 1
    """A splat for each square of so many pixels a side: 1 has one for each pixel."""
    least_confidence: float = 0.0
    """Share of the pixels, the least sure ones, that get no splat."""
    depth_from: Optional[Literal["prediction", "depth", "points"]] = None
    """What says how far away pixels' things are: the prediction of prediction-data, depth files that the data names, or
    lines between its seed points. None takes the first of these that is there."""


class ProbeDatamanager(SplatDatamanager):
    """The shared datamanager, whose metadata ``probe`` is a :class:`ProbeScene`. Batches of evaluation have
    ``covisible`` [H, W, 1] bool, pixels that training pictures have seen, too; and for ns-eval ``camera``.

    Raises:
        InputError: also where features are not to be had, views do not overlap, or nothing says how far things are.
    """

    config: ProbeDatamanagerConfig

    def create_train_dataset(self) -> SplatDataset:
        config = self.config
        if config.stride < 1 or config.dimensions < 1 or not 0 <= config.least_confidence < 1:
            raise InputError(
                "--pipeline.datamanager.stride and --pipeline.datamanager.dimensions must be at least 1, and "
                "--pipeline.datamanager.least-confidence must be at least 0 and below 1."
            )
        dataset = super().create_train_dataset()
        dataset.metadata["probe"] = ProbeScene(
            sites=self._sites,
            truth=lambda: true_depth(self.train_dataset),
            unit=float(dataset._dataparser_outputs.dataparser_scale),
        )
        return dataset

    def setup_train(self) -> None:
        if self.test_mode == "val":
            self._check_overlap()
        super().setup_train()
        if self.test_mode == "val":
            metadata = self.train_dataset.metadata
            metadata["probe"] = replace(metadata["probe"], points=self._described(self._sites()))

    def _check_overlap(self) -> None:
        lone = lone_views([each.view for each in self.training_pointmaps])
        names, count = [self.train_dataset.image_filenames[number].name for number in lone], len(self.train_dataset)
        if len(lone) == count > 1:
            raise InputError(
                f"None of the {count} training pictures shows anything that another one has in view: they do not "
                f"overlap. Choose others, or more of them with --pipeline.datamanager.train-views."
            )
        if lone and count > 1:
            CONSOLE.print(
                f"[yellow]Training pictures that show nothing which another one has in view: {describe(names)}. What "
                f"is read out of them is compared with themselves alone.[/yellow]"
            )

    @cached_property
    def training_pointmaps(self) -> Tuple[Pointmap, ...]:
        """Of the training pictures, in their order."""
        return pointmaps(self.train_dataset, self.config.depth_from)

    @cached_property
    def cached_eval(self) -> List[Batch]:
        batches = self._read(self.eval_dataset, "evaluation")
        seen = [each.view for each in self.training_pointmaps]
        for number, (batch, view) in enumerate(zip(batches, self._eval_views(seen), strict=True)):
            mask = covisible(view, seen)
            if not bool(mask.any()):
                raise InputError(
                    f"No training picture shows anything of {self.eval_dataset.image_filenames[number].name}: the "
                    f"views do not overlap, and it cannot be used to compare methods."
                )
            batch["covisible"] = self._keep(mask[..., None])
        return batches

    def _eval_views(self, seen: List[DepthView]) -> List[DepthView]:
        """Depth of test views: what the data knows of them, else what training views have seen there. Lines between
        seed points are no measurement, so that they do not count as the former."""
        if source_of(self.eval_dataset) != "points" and self.config.depth_from != "points":
            return [each.view for each in pointmaps(self.eval_dataset, self.config.depth_from)]
        sizes = zip(self.eval_dataset.cameras.height, self.eval_dataset.cameras.width, strict=True)
        empty = [torch.zeros(int(height), int(width)) for height, width in sizes]
        blind = [DepthView(depth, *camera) for depth, camera in zip(empty, view_of_all(self.eval_dataset), strict=True)]
        return [replace(view, depth=splatted_depth(view, seen)) for view in blind]

    def _pair(self, cameras: List[Cameras], batches: List[Batch], index: int) -> Tuple[Cameras, Batch]:
        camera, batch = super()._pair(cameras, batches, index)
        if self.test_mode == "test":
            batch["camera"] = camera
        return camera, batch

    # ---- splats and their features

    def _sites(self) -> ProbePoints:
        config, found = self.config, []
        for number, each in enumerate(self.training_pointmaps):
            rows, columns = chosen_pixels(each.view, each.confidence, config.stride, config.least_confidence)
            mask = self.train_dataset.mask(number)
            if mask is not None:  # What it hides is not of the scene.
                kept = mask[rows, columns, 0]
                rows, columns = rows[kept], columns[kept]
            pixels = torch.stack([columns, rows], dim=1) + 0.5
            found.append((each.view.points_at(pixels), torch.full((len(rows),), number), pixels))
        positions, views, pixels = (torch.cat(parts) for parts in zip(*found, strict=True))
        return ProbePoints(positions, views, pixels)

    def _described(self, sites: ProbePoints) -> ProbePoints:
        """The splats with colours and features."""
        config, sources = self.config, feature_sources(self.config.features.name)
        models = [each for each in sources if each.model not in CONTROLS]
        controls = [each.model for each in sources if each.model in CONTROLS]
        views = [each.view for each in self.training_pointmaps]
        places = [sites.pixels[sites.views == number] for number in range(len(views))]
        pictures = [self._shown(batch).cpu() for batch in self.cached_train]
        colors = [shown[at[:, 1].long(), at[:, 0].long()] for shown, at in zip(pictures, places, strict=True)]
        maps = None
        if models and models != [FeatureSource(NO_FEATURES)]:
            each_one = [self._maps(source, alone=len(models) == 1) for source in models]
            maps = concatenated(each_one, config.dimensions, config.unit_scale)

        def described(number: int) -> Tensor:
            at, size = places[number], views[number].size
            own = [torch.zeros(len(at), 0)] if maps is None else [at_pixels(maps[number], at, size)]
            own += [control(name, number, len(views), at, size, colors[number]) for name in controls]
            return torch.cat(own, dim=1)

        parts: Iterable[Tensor] = map(described, range(len(views)))
        if models and controls:
            parts = projected(list(parts), config.dimensions, config.unit_scale)
        features = joined(parts, len(sites), exact=not models)
        return replace(sites, colors=torch.cat(colors), features=features, control=not models)

    def _maps(self, source: FeatureSource, alone: bool) -> List[Tensor]:
        """What one of several models, or the only one, makes of each training picture."""
        settings, maps = self.config.features, []
        own = replace(settings, name=source.model, weights=_weights_of(source, settings.weights, alone))
        encoder = load_dense(own, self.device, WEIGHTS)
        with progress(f"Features of {source.name}") as (tell, _):
            for number, batch in enumerate(self.cached_train):
                with torch.no_grad():
                    maps.append(encoder.encode_map(self._shown(batch).to(self.device)).float().cpu())
                tell(number + 1, len(self.cached_train))
        return maps

    def _shown(self, batch: Batch) -> Tensor:
        return over_background(batch["image"], self.train_dataset.metadata["alpha_color"])


def _weights_of(source: FeatureSource, path: Optional[Path], alone: bool) -> Optional[Path]:
    """The file or folder of a model's weights: in a folder of several models' it bears the model's name."""
    if path is None:
        if source.fine_tuned:
            raise InputError(
                f"{source.name} stands for {source.model} with fine-tuned weights. Say where these are with {WEIGHTS}, "
                f"a file, or a folder in which one is named {source.name}."
            )
        return None
    named = [each for each in sorted(path.glob(f"{source.name}*")) if source.name in (each.name, each.stem)]
    if named or alone:
        return named[0] if named else path
    raise InputError(f"{path} has no file or folder of weights that is named {source.name}, after the model.")
