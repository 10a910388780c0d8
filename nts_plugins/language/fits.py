# SPDX-License-Identifier: Apache-2.0
"""What a way to put language into splats has to offer, whichever it is.

A fit says what numbers each splat holds (its *codes*), how they come about, and what they mean: a feature of unit
length on each level, in the space of the encoder whose features it was fitted to. No way holds these features of all
splats at once: a million of them, of 512 numbers on three levels, would be 6 GB.

Two questions are asked of it. *How like a phrase is each splat?* is answered for the splats themselves. *How like a
phrase is what a pixel shows?* is answered from channels that are drawn as colours are: for ways whose features are
linear in the codes the cosines themselves can be drawn, a channel a phrase and level, since a cosine is linear in the
feature as well.
"""

from abc import ABC, abstractmethod
from typing import Callable, Collection, Iterable, Iterator, Mapping, Tuple

from torch import Tensor, nn
from torch.nn import Parameter

from nts_plugins.encoders.base import Regions
from nts_plugins.gaussians import Gaussians

Tell = Callable[[float], None]
"""Told which share of a long piece of work is done."""

View = Tuple[Tensor, Tensor, Tuple[int, int], Regions]
"""Of a training picture: viewmat [4, 4] (world to camera, OpenCV axes), K [3, 3] and size (height, width) in pixels,
and its regions at whatever resolution."""


class Fit(nn.Module, ABC):
    """One way to hold features of L levels and C numbers.

    Args:
        levels: L.
        width: C; 0 where it is not known until a checkpoint tells (:meth:`adapt`).
    """

    def __init__(self, levels: int, width: int) -> None:
        super().__init__()
        self.levels, self.width = levels, width

    @property
    @abstractmethod
    def ready(self) -> bool:
        """Whether there is anything to ask about."""

    @abstractmethod
    def codes(self, count: int) -> Parameter:
        """The first codes [N, ...] of ``count`` splats; of those that are not trained, with ``requires_grad=False``."""

    def adapt(self, state: Mapping[str, Tensor]) -> None:
        """Give own tensors the shapes of a state that is about to be loaded, where they depend on the data."""
        own = {**dict(self.named_parameters()), **dict(self.named_buffers())}
        for name, value in own.items():
            if name in state:
                value.data = value.data.new_empty(state[name].shape)

    # ---- questions

    @abstractmethod
    def splat_cosines(self, codes: Tensor, phrases: Tensor) -> Tensor:
        """How like phrases splats are. No gradient.

        Args:
            codes: [N, ...].
            phrases: [Q, C], unit length.

        Returns:
            [N, L, Q] cosines; 0 of splats that have no feature.
        """

    @abstractmethod
    def known(self, codes: Tensor) -> Tensor:
        """[N, L] bool, which splats have a feature on a level."""

    @abstractmethod
    def question(self, codes: Tensor, phrases: Tensor, exact: bool = False) -> Tensor:
        """[N, E] channels to draw so that :meth:`pixel_products` can tell. No gradient."""

    @abstractmethod
    def pixel_products(
        self, drawn: Tensor, alphas: Tensor, phrases: Tensor, exact: bool = False
    ) -> Tuple[Tensor, Tensor]:
        """How like phrases pixels are. No gradient.

        Args:
            drawn: [H, W, E] channels of :meth:`question`, composited over zeros.
            alphas: [H, W, 1] accumulated opacity.
            phrases: [Q, C], unit length.
            exact: the cosine of the mean feature that a pixel shows, as in LangSplat's program; as given to
                :meth:`question`. Without, ways that can do it faster give the mean of the cosines of what it shows:
                the same but for a positive factor, so that no phrase beats another for it, and the same number where
                a pixel shows one thing.

        Returns:
            [H, W, L, Q] products of phrases and what a pixel shows, and [H, W, L] by what to divide them for cosines;
            NaN where nothing is drawn that has a feature.
        """

    @abstractmethod
    def features(self, codes: Tensor, level: int) -> Iterator[Tuple[slice, Tensor]]:
        """Features of splats on one level, in pieces: [n, C] float32 of unit length, zeros where there is none."""

    @abstractmethod
    def sketch(self, codes: Tensor, level: int) -> Tensor:
        """[N, D] of few numbers, near for splats of near features: what colours for people are made from."""


class TrainedFit(Fit):
    """A fit whose codes are trained step by step."""

    @abstractmethod
    def begin(self, features: Callable[[], Iterable[Tensor]], tell: Tell) -> None:
        """What comes before the first step: networks or words that the codes refer to.

        Args:
            features: gives [M, C] of the regions of each training picture, of all levels, each time it is called.
            tell: see :data:`Tell`.
        """

    @abstractmethod
    def channels(self, codes: Tensor) -> Tensor:
        """[N, E] to draw in training. Differentiable."""

    @abstractmethod
    def loss(self, drawn: Tensor, alphas: Tensor, regions: Regions) -> Tensor:
        """How far what is drawn is from a picture's regions; a number. Differentiable.

        Args:
            drawn: [H, W, E] channels composited over zeros.
            alphas: [H, W, 1] accumulated opacity.
            regions: of the picture, at the size [H, W].
        """


class LiftedFit(Fit):
    """A fit whose codes are found when everything else is done."""

    @abstractmethod
    def lift(self, gaussians: Gaussians, views: Collection[View], tell: Tell) -> Tensor:
        """The codes of splats that are what they will be.

        Args:
            gaussians: N splats.
            views: training pictures.
            tell: see :data:`Tell`.

        Returns:
            [N, ...] like :meth:`codes`.
        """
