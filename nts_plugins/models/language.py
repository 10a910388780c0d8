# SPDX-License-Identifier: Apache-2.0
"""Splats that answer to phrases.

Class paths in this module are written into every run's config.yml: they are a public interface.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple, Type, Union

import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor
from torch.nn import Parameter

from nts_plugins.appearance.spherical_harmonics import SphericalHarmonics
from nts_plugins.data.cameras import View, view_of
from nts_plugins.errors import InputError
from nts_plugins.gaussians import Gaussians
from nts_plugins.heads.base import FeatureHeadConfig
from nts_plugins.heads.language import LanguageHead, LanguageHeadConfig
from nts_plugins.language.fits import LiftedFit
from nts_plugins.models._language_scores import check_protocols, language_scores
from nts_plugins.models._loaded import loaded_splats, take_exposure
from nts_plugins.models.splat import SplatModel, SplatModelConfig
from nts_plugins.progress import progress
from nts_plugins.queries.question import Question
from nts_plugins.rasterization import Raster, rasterize
from nts_plugins.viewer.language import LanguagePanel

LANGUAGE = "language"
"""The name of the head. Optimizers and outputs are called by it."""


@dataclass
class LanguageModelConfig(SplatModelConfig):
    """Settings of :class:`LanguageModel`."""

    _target: Type = field(default_factory=lambda: LanguageModel)
    language: LanguageHeadConfig = field(default_factory=LanguageHeadConfig)
    """How splats get their language."""
    load_splats: Optional[Path] = None
    """Begin with these splats, and leave them as they are: a checkpoint (.ckpt) of any method of splats, or a .ply file
    in the frame of the data as it is read here. Files of other programs are in the frame of the capture: end the
    command with nerfstudio-data --orientation-method none --center-method none --auto-scale-poses False."""
    protocols: Tuple[str, ...] = ("strict", "lerf-ovs-2d", "langsplatv2", "lerf-ovs-3d")
    """By which ns-eval scores scenes with labels: those of LangSplat's program (lerf-ovs-2d), of LangSplatV2's, of
    OpenGaussian's selection (lerf-ovs-3d) and of 3D-OVS (3d-ovs, 3d-ovs-dynamic); strict has one threshold for all
    pictures, and oracle-level tells how good the best level would have been."""
    splats_stop_step: Optional[int] = None
    """First step in which splats stay as they are and language alone is trained; None trains splats to the end."""


class LanguageModel(SplatModel):
    """A :class:`SplatModel` with a language head.

    Raises:
        InputError: also where splats to begin with cannot be read.
    """

    config: LanguageModelConfig  # type: ignore[assignment]

    def populate_modules(self) -> None:
        check_protocols(self.config.protocols)
        super().populate_modules()
        begins = "regions" in (self.kwargs.get("metadata") or {})  # Else a checkpoint follows, which has its own.
        if begins:
            self.head.check_settings()
        if self.config.load_splats is not None:
            self.appearance = SphericalHarmonics(self.config.sh_degree, 0)
            if begins:
                self._load(self.config.load_splats)

    def _load(self, path: Path) -> None:
        splats, others = loaded_splats(path, self.config.sh_degree)
        if self.exposure is not None:
            take_exposure(self.exposure, others)
        for name, value in {**splats, **self.head.initial_parameters(splats)}.items():
            trains = value.requires_grad  # Splats are plain tensors.
            self.gauss_params[name] = Parameter(value.data, requires_grad=trains)

    @property
    def head(self) -> LanguageHead:
        """What splats know of language."""
        return self.heads[LANGUAGE]  # type: ignore[return-value]

    @property
    def language(self) -> LanguagePanel:
        """The viewer's panel, in whose folder of this name people look for it."""
        return self.head.panel

    def head_configs(self) -> Dict[str, FeatureHeadConfig]:
        language = self.config.language
        if self.config.load_splats is not None:
            language = replace(language, start_step=0)  # There is nothing to wait for.
        return {**super().head_configs(), LANGUAGE: language}

    def trains_splats(self) -> bool:
        stop = self.config.splats_stop_step
        return self.config.load_splats is None and (stop is None or self.step < stop)

    @property
    def needs_no_training(self) -> bool:
        """Whether all there is to do comes when training ends."""
        return self.config.load_splats is not None and isinstance(self.head.fit, LiftedFit)

    def get_param_groups(self) -> Dict[str, List[Parameter]]:
        groups = super().get_param_groups()
        if self.config.load_splats is not None:
            groups.pop("exposure", None)  # It is part of how splats look.
        return groups

    # ---- questions

    def ask(self, text: Union[str, Sequence[str]], negatives: str = "") -> Question:
        """See :meth:`~nts_plugins.heads.language.LanguageHead.ask`."""
        return self.head.ask(text, negatives)

    @torch.no_grad()
    def relevancy(self, camera: Cameras, question: Question, exact: bool = True) -> Tuple[Tensor, Tensor]:
        """How relevant what a camera sees is.

        Args:
            camera: one pinhole camera.
            question: what is asked.
            exact: see :meth:`~nts_plugins.language.fits.Fit.pixel_products`.

        Returns:
            [L, H, W, Q] and [L, H, W], see :meth:`~nts_plugins.heads.language.LanguageHead.pixel_relevancy`.
        """
        camera = camera.to(self.device)
        params = self._drawn_params(camera)
        vectors = question.vectors.to(self.device)
        view = view_of(camera, camera.camera_to_worlds[..., :3, :4])
        channels = self.head.fit.question(params[LANGUAGE], vectors, exact)
        raster = self._rasterized(self._gaussians(params).with_colors(channels), view)
        relevancy, there = self.head.pixel_relevancy(raster.colors[0], raster.alphas[0], question, exact)
        return relevancy.permute(2, 0, 1, 3), there.permute(2, 0, 1)

    @torch.no_grad()
    def opacity_of(self, splats: Tensor, view: View) -> Tensor:
        """[H, W] what is covered by some splats, [N] bool, where the others are not."""
        chosen = self._gaussians(self.splat_params()).select(splats)
        return self._rasterized(chosen.with_colors(chosen.means.new_zeros(len(chosen), 1)), view).alphas[0, ..., 0]

    def _rasterized(self, gaussians: Gaussians, view: View) -> Raster:
        antialiased = self.config.rasterize_mode == "antialiased"
        return rasterize(gaussians, *view.camera, antialiased=antialiased, backend=self.config.backend)

    def further_metrics(self, dataset: Any, output: Optional[Path] = None) -> Dict[str, float]:
        """Scores of the protocols, where the dataset has labels and splats have language."""
        if dataset.metadata.get("labels") is None or not self.head.fit.ready:
            return {}
        try:
            with progress("Labelled pictures") as (tell, _):
                return language_scores(self, dataset, self.config.protocols, output, tell)
        except InputError as error:
            CONSOLE.print(f"[yellow]Phrases are not scored: {error}")
            return {}

    @torch.no_grad()
    def splat_relevancy(self, question: Question) -> Tensor:
        """How relevant each splat is: [N, L, Q] in (0, 1), 0 of those without language."""
        return self.head.splat_relevancy(self.gauss_params[LANGUAGE], question)
