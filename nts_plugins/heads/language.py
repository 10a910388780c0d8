# SPDX-License-Identifier: Apache-2.0
"""Language on every splat: which phrases it is like, on each of several sizes of things.

The ways to fit it stand behind one interface (:mod:`nts_plugins.language.fits`): ``lift`` averages what training
pictures show, without training; ``sparse`` (LangSplatV2, NeurIPS 2025, arXiv 2507.07136) and ``autoencoder``
(LangSplat, Qin et al., CVPR 2024) train codes by gradients.
"""

from dataclasses import dataclass, field
from pathlib import Path
from threading import get_ident
from typing import (
    Any,
    Collection,
    Dict,
    Iterator,
    List,
    Literal,
    Mapping,
    MutableMapping,
    Optional,
    Sequence,
    Tuple,
    Type,
    Union,
)

import torch
from torch import Tensor
from torch.nn import Parameter

from nts_plugins.data.cameras import View
from nts_plugins.data.pyramid import Targets
from nts_plugins.data.region_data import SceneRegions
from nts_plugins.encoders.base import LEVELS
from nts_plugins.encoders.weights import given
from nts_plugins.errors import InputError
from nts_plugins.gaussians import Gaussians
from nts_plugins.heads.base import FeatureHead, FeatureHeadConfig, Seen
from nts_plugins.language.autoencoder import Autoencoder, AutoencoderSettings
from nts_plugins.language.fits import Fit, LiftedFit, TrainedFit
from nts_plugins.language.fits import View as PictureView
from nts_plugins.language.lift import Lift, LiftSettings
from nts_plugins.language.sparse import Sparse, SparseSettings
from nts_plugins.progress import progress
from nts_plugins.queries.question import Question, asked
from nts_plugins.queries.relevancy import on_level
from nts_plugins.training.checkpoints import below
from nts_plugins.viewer.language import LanguagePanel
from nts_plugins.viewer.pca import PcaColors
from nts_plugins.viewer.thread import in_viewer


@dataclass
class LanguageHeadConfig(FeatureHeadConfig):
    """Settings of :class:`LanguageHead`."""

    _target: Type = field(default_factory=lambda: LanguageHead)
    fit: Literal["lift", "sparse", "autoencoder"] = "lift"
    """How splats get their language: averages of what pictures show, once all else is trained; four of 64 words a
    splat, trained; or three numbers of an autoencoder, trained."""
    lift: LiftSettings = field(default_factory=LiftSettings)
    """Of ``--...language.fit lift``."""
    sparse: SparseSettings = field(default_factory=SparseSettings)
    """Of ``--...language.fit sparse``."""
    autoencoder: AutoencoderSettings = field(default_factory=AutoencoderSettings)
    """Of ``--...language.fit autoencoder``."""
    weight: float = 1.0
    """Of the loss, of those that are trained."""
    prompts: str = ""
    """Phrases, separated by ';', whose relevancy ns-render and ns-eval draw (``language_relevancy``). They may be
    changed in a run's config.yml. nts query and the viewer ask for themselves."""
    negatives: str = ""
    """What phrases have to beat; empty takes for each the canonical phrases of its language."""
    text_weights: Optional[Path] = None
    """A file with the weights of the text tower, or a table of phrases (.npz with phrases and vectors) in its place.
    None fetches the weights of the model that the features are of, once."""


class LanguageHead(FeatureHead):
    """Outputs ``<name>_pca`` [H, W, 3], features of the largest things in colours, and, once something is asked,
    ``<name>_relevancy`` [H, W, 1]: of the phrase that a pixel is most like, each on its best level.

    ``params[name]`` are the codes of splats, see the fits.

    Raises:
        InputError: where features are to be fitted, and the data has none.
    """

    config: LanguageHeadConfig

    def __init__(self, config: LanguageHeadConfig, *, name: str, metadata: Mapping[str, Any]) -> None:
        super().__init__(config, name=name, metadata=metadata)
        regions: Optional[SceneRegions] = metadata.get("regions")
        self.encoder = regions.encoder if regions is not None else ""
        self.levels = regions.levels if regions is not None else LEVELS
        self.fit = _fit(config, len(self.levels), regions.width if regions is not None else 0)
        self.colors = PcaColors(3)
        self.panel = LanguagePanel(self.levels, self.ask)
        self._question: Optional[Question] = None
        self._drawn: Dict[int, Optional[Question]] = {}
        self._text: Any = None
        self._answer: Optional[Tuple[Question, Optional[int], List[Tensor], Tensor]] = None

    # ---- codes

    def initial_parameters(self, splats: Mapping[str, Tensor]) -> Dict[str, Parameter]:
        codes = self.fit.codes(len(splats["means"]))
        return {self.name: Parameter(codes.data.to(splats["means"].device), requires_grad=codes.requires_grad)}

    def trains_at(self, step: int) -> bool:
        return isinstance(self.fit, TrainedFit) and super().trains_at(step)

    def channels(self, params: Mapping[str, Tensor], view: View) -> Tensor:
        codes = params[self.name]
        if self.training:
            return self._trained().channels(codes)
        parts = [codes.new_zeros(len(codes), 0, dtype=torch.float32)]
        # The panel may be typed in while this is drawn, and the pixels answer what the channels were asked.
        question = self._drawn[get_ident()] = self.question() if self.fit.ready else None
        if self.fit.ready:
            parts.append(self._pca(codes))
            if question is not None:
                parts.append(self.fit.question(codes, question.vectors.to(codes.device)))
        return torch.cat(parts, dim=1)

    def outputs(self, channels: Tensor, alphas: Tensor, view: View) -> Dict[str, Tensor]:
        if self.training:
            return {f"{self.name}_channels": channels, f"{self.name}_alphas": alphas}
        if not self.fit.ready:
            return {}
        outputs = {f"{self.name}_pca": channels[..., :3]}
        question = self._drawn[get_ident()]
        if question is not None:
            relevancy, _ = self.pixel_relevancy(channels[..., 3:], alphas, question)
            own = on_level(relevancy.flatten(0, 1), self._level()).unflatten(0, relevancy.shape[:2])
            outputs[f"{self.name}_relevancy"] = own.amax(dim=-1, keepdim=True)
        return outputs

    def losses(self, outputs: Mapping[str, Tensor], targets: Targets) -> Dict[str, Tensor]:
        drawn, alphas = outputs[f"{self.name}_channels"], outputs[f"{self.name}_alphas"]
        regions = targets["regions"].read().resized(tuple(drawn.shape[:2])).to(drawn.device)
        return {f"{self.name}_loss": self.config.weight * self._trained().loss(drawn, alphas, regions)}

    @property
    def unfinished(self) -> bool:
        return isinstance(self.fit, LiftedFit) and not self.fit.ready

    @torch.no_grad()
    def finish(self, params: MutableMapping[str, Parameter], gaussians: Gaussians, views: Collection[Seen]) -> None:
        if isinstance(self.fit, LiftedFit):
            with progress("Lifting language") as (tell, _):
                codes = self.fit.lift(gaussians, _Pictures(views), lambda share: tell(round(100 * share), 100))
            params[self.name].data = codes.to(params[self.name].device)
        self._recolor(params[self.name])

    # ---- questions

    def ask(self, text: Union[str, Sequence[str]], negatives: str = "") -> Question:
        """The question that a text asks, in the space of the scene's features.

        Args:
            text: phrases, separated by ';', or one by one.
            negatives: what they have to beat; empty takes for each the canonical phrases of its language.

        Raises:
            InputError: where the scene has no language yet, there is no phrase, one is too long, or in a language that
                the text tower does not read, and where its weights are not to be had.
        """
        if not self.fit.ready:
            raise InputError(
                "The splats have no language yet: it comes when training ends. Finish the training, or fit language to "
                "its splats as they are with --pipeline.model.load-splats."
            )
        return self._asked(text, negatives)

    def check_settings(self) -> None:
        """What the settings name can be asked, of a scene that is about to be trained: found out at its end, or at the
        first picture that is drawn on the way, it would end the training.

        Raises:
            InputError: as :meth:`ask` does.
        """
        if self.config.text_weights is not None:
            given(self.config.text_weights, f"the text tower of {self.encoder}")
        if self.config.prompts:
            self._question = self._asked(self.config.prompts, self.config.negatives)

    def _asked(self, text: Union[str, Sequence[str]], negatives: str) -> Question:
        if self._text is None:
            from nts_plugins.encoders.phrases import text_encoder

            self._text = text_encoder(self.encoder, self.config.text_weights)
        question = asked(text, self._text.encode_phrases, negatives, self._text.check)
        if question.vectors.shape[1] != self.fit.width:
            raise InputError(
                f"Phrases are vectors of {question.vectors.shape[1]} numbers here, and the scene's features have "
                f"{self.fit.width}: they are of another model, {self.encoder!r}."
            )
        return question

    def question(self) -> Optional[Question]:
        """What is asked now: in the viewer what its panel says, elsewhere the ``prompts`` of the settings."""
        if in_viewer():
            return self.panel.question()
        if self._question is None and self.config.prompts:
            self._question = self.ask(self.config.prompts, self.config.negatives)
        return self._question

    def pixel_relevancy(
        self, drawn: Tensor, alphas: Tensor, question: Question, exact: bool = False
    ) -> Tuple[Tensor, Tensor]:
        """How relevant pixels are.

        Args:
            drawn: [H, W, E] channels of the fit's question.
            alphas: [H, W, 1] accumulated opacity.
            question: what is asked.
            exact: see :meth:`~nts_plugins.language.fits.Fit.pixel_products`.

        Returns:
            [H, W, L, Q] relevancy in (0, 1); and [H, W, L] bool, where something is drawn that has language. Elsewhere
            relevancy is 0.
        """
        products, lengths = self.fit.pixel_products(drawn, alphas, question.vectors.to(alphas.device), exact)
        there = (alphas > 0.5) & ~lengths.isnan()
        return torch.where(there[..., None], question.relevancy(products, lengths), 0.0), there

    def splat_relevancy(self, codes: Tensor, question: Question) -> Tensor:
        """How relevant splats [N, ...] are on each level: [N, L, Q] in (0, 1); 0 of those without language."""
        cosines = self.fit.splat_cosines(codes, question.vectors.to(codes.device))
        return torch.where(self.fit.known(codes)[..., None], question.relevancy(cosines), 0.0)

    def shown(self, gaussians: Gaussians, params: Mapping[str, Tensor]) -> Gaussians:
        if not self.fit.ready:
            self.panel.wait()
            return gaussians
        question = self._drawn[get_ident()]
        if question is None:
            return gaussians
        return self.panel.shown(gaussians, question, self._answered(params[self.name], question))

    def _answered(self, codes: Tensor, question: Question) -> Tensor:
        """[N, Q] how relevant splats are on the level that is looked on; remembered, since a view is drawn many times.
        Compared are values: crops take each other's place in memory, and optimizers change codes without telling."""
        level, state = self._level(), [codes, *self.fit.parameters(), *self.fit.buffers()]
        known = self._answer
        if known is None or known[0] is not question or known[1] != level or not _equal(known[2], state):
            answer = on_level(self.splat_relevancy(codes, question), level)
            known = self._answer = question, level, [value.detach().clone() for value in state], answer
        return known[3]

    def _level(self) -> Optional[int]:
        return self.panel.chosen_level(self.levels) if in_viewer() else None

    # ---- colours

    def _recolor(self, codes: Tensor) -> None:
        """Fit the colours of features to the splats, so that they stay the same from frame to frame."""
        if self.fit.ready:
            sketch = self.fit.sketch(codes, len(self.levels) - 1)
            self.colors = PcaColors(sketch.shape[1]).to(sketch.device)
            self.colors.fit(sketch[(sketch != 0).any(dim=1)])

    def _pca(self, codes: Tensor) -> Tensor:
        """[N, 3] colours; black where there is no feature."""
        sketch = self.fit.sketch(codes, len(self.levels) - 1)
        if bool((self.colors.axes == 0).all()):
            self._recolor(codes)
        return torch.where((sketch != 0).any(dim=1, keepdim=True), self.colors(sketch), 0.0)

    # ---- what is kept

    def get_extra_state(self) -> Dict[str, Any]:
        return {"encoder": self.encoder, "levels": list(self.levels)}

    def set_extra_state(self, state: Dict[str, Any]) -> None:
        self.encoder, self.levels = str(state["encoder"]), tuple(state["levels"])
        self.panel.offer(self.levels)

    def adapt(self, state: Mapping[str, Tensor], values: Mapping[str, Tensor], params: Mapping[str, Parameter]) -> None:
        self.fit.adapt(below(state, "fit."))
        if self.name in values:
            codes = params[self.name]
            codes.data = codes.data.new_empty((len(codes), *values[self.name].shape[1:]))
            self.fit.levels = values[self.name].shape[1]
        if "colors.mean" in state:
            self.colors = PcaColors(len(state["colors.mean"])).to(self.colors.mean.device)

    def param_groups(self) -> Dict[str, Any]:
        own = [each for each in self.fit.parameters() if each.requires_grad]
        return {f"{self.name}_shared": own} if own else {}

    def _trained(self) -> TrainedFit:
        """The fit, which is trained, after what comes before its first step."""
        assert isinstance(self.fit, TrainedFit)
        if not self.fit.ready:
            self._begin(self.fit)
        return self.fit

    def _begin(self, fit: TrainedFit) -> None:
        regions: Optional[SceneRegions] = self.metadata.get("regions")
        if regions is None:
            raise InputError(
                f"The head {self.name!r} learns from regions of the pictures, which the data does not have."
            )
        with progress("Preparing language") as (tell, _), torch.enable_grad():
            fit.begin(regions.features, lambda share: tell(round(100 * share), 100))


class _Pictures(Collection[PictureView]):
    """Training pictures as a fit wants them, each read when its turn comes."""

    def __init__(self, views: Collection[Seen]) -> None:
        self._views = views

    def __len__(self) -> int:
        return len(self._views)

    def __iter__(self) -> Iterator[PictureView]:
        for view, batch in self._views:
            yield view.viewmats[0], view.Ks[0], (view.height, view.width), batch["regions"].read()

    def __contains__(self, item: object) -> bool:
        return any(item is each for each in self)


def _equal(some: List[Tensor], others: List[Tensor]) -> bool:
    pairs = zip(some, others, strict=True)
    return all(one.shape == other.shape and torch.equal(one, other) for one, other in pairs)


def _fit(config: LanguageHeadConfig, levels: int, width: int) -> Fit:
    if config.fit == "lift":
        return Lift(levels, width, config.lift)
    if config.fit == "sparse":
        return Sparse(levels, width, config.sparse)
    return Autoencoder(levels, width, config.autoencoder)
