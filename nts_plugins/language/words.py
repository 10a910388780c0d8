# SPDX-License-Identifier: Apache-2.0
"""Fits whose features are sums of a scene's words: linear in the codes, so that cosines themselves can be drawn."""

from abc import abstractmethod
from typing import Iterator, Mapping, Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from nts_plugins.language.fits import Fit

LEAST_ALPHA = 1e-4
"""Where less than this is drawn, nothing is."""
NEGLIGIBLE = 1e-4
"""Share of the energy of all words that lengths of features may miss."""
AT_ONCE = 1 << 15
"""Features of so many splats are in memory at once: 64 MB of 512 numbers each."""
SKETCH = 16
"""Numbers of a sketch, at most."""
AXES = 64
"""Directions in which features are drawn to tell how long their sums are. All there are of LangSplatV2's 64 words."""


class WordsFit(Fit):
    """Features that are sums of words [L, K, C], which the scene has for all its splats."""

    _known_axes: Optional[Tuple[Tensor, Tensor]] = None

    @property
    @abstractmethod
    def words(self) -> Tensor:
        """[L, K, C]; K is 0 until there are any."""

    @abstractmethod
    def weigh(self, codes: Tensor, table: Tensor) -> Tensor:
        """Sums over words of a splat's weight times a word's numbers.

        Args:
            codes: [N, ...].
            table: [L, K, D] of each word. L may be 1 where codes are of one level alone.

        Returns:
            [N, L, D].
        """

    def adapt(self, state: Mapping[str, Tensor]) -> None:
        super().adapt(state)
        self.width = self.words.shape[-1]

    @property
    def ready(self) -> bool:
        return self.words.shape[1] > 0

    def lengths(self, codes: Tensor) -> Tensor:
        """[N, L] how long the sums of splats' words are; 0 of splats that have none. No gradient."""
        with torch.no_grad():
            return self.weigh(codes, self._axes()).norm(dim=-1)

    def known(self, codes: Tensor) -> Tensor:
        return self.lengths(codes) > 0

    def splat_cosines(self, codes: Tensor, phrases: Tensor) -> Tensor:
        with torch.no_grad():
            cosines, lengths = self.weigh(codes, self.words.float() @ phrases.T), self.lengths(codes)[..., None]
            return torch.where(lengths > 0, cosines / lengths.clamp_min(1e-12), 0.0).clamp(-1.0, 1.0)

    def question(self, codes: Tensor, phrases: Tensor, exact: bool = False) -> Tensor:
        """Of each level the phrases' numbers, and then what they are to be divided by: the length of a feature or, with
        ``exact``, its coordinates along the main :data:`AXES` and the length of what is left. Opacity would not do:
        features may be shorter than 1, and splats without any.

        Lengths of what is left add up as if it pointed in one direction, as it does where a pixel shows one word. Where
        it shows several that differ, and not along the main axes, their sum is a little shorter than it is told to be.
        """
        with torch.no_grad():
            parts = [self.weigh(codes, self.words.float() @ phrases.T)]
            lengths = self.lengths(codes)[..., None]
            if exact:
                main = self.weigh(codes, self._axes()[..., :AXES])
                left = (lengths.square() - main.square().sum(dim=-1, keepdim=True)).clamp_min(0.0).sqrt()
                parts += [main, left]
            else:
                parts.append(lengths)
            return torch.cat(parts, dim=-1).flatten(1)

    def pixel_products(
        self, drawn: Tensor, alphas: Tensor, phrases: Tensor, exact: bool = False
    ) -> Tuple[Tensor, Tensor]:
        values = drawn.unflatten(-1, (self.levels, -1))
        products, divisor = values.split([len(phrases), values.shape[-1] - len(phrases)], dim=-1)
        lengths = divisor.norm(dim=-1) if exact else divisor[..., 0]
        return products, torch.where((alphas > LEAST_ALPHA) & (lengths > LEAST_ALPHA * LEAST_ALPHA), lengths, torch.nan)

    def features(self, codes: Tensor, level: int) -> Iterator[Tuple[slice, Tensor]]:
        words = self.words[level : level + 1].float()
        for start in range(0, len(codes), AT_ONCE):
            piece = slice(start, min(start + AT_ONCE, len(codes)))
            yield piece, F.normalize(self.weigh(codes[piece, level : level + 1], words)[:, 0], dim=-1)

    def sketch(self, codes: Tensor, level: int) -> Tensor:
        with torch.no_grad():
            few = self._axes()[level : level + 1, :, :SKETCH]
            return self.weigh(codes[:, level : level + 1], few)[:, 0]

    def _axes(self) -> Tensor:
        """[L, K, R] the words in an orthogonal basis of their own, long enough to tell how long their sums are."""
        words = self.words.detach()
        known = self._known_axes
        # By their values: an optimizer changes words without telling torch.
        if known is None or known[0].shape != words.shape or not torch.equal(known[0], words):
            known = self._known_axes = words.clone(), _rotated(words.float())
        return known[1]


def _rotated(words: Tensor) -> Tensor:
    """[L, K, C] words in an orthogonal basis of each level, [L, K, R], the most important directions first."""
    few = words.shape[1] < words.shape[2]
    energy, axes = torch.linalg.eigh(words @ words.transpose(1, 2) if few else words.transpose(1, 2) @ words)
    energy, axes = energy.clamp_min(0.0).flip(-1), axes.flip(-1)
    rotated = axes * energy.sqrt()[:, None] if few else words @ axes
    kept = energy.cumsum(dim=-1)
    rank = int((kept < (1 - NEGLIGIBLE) * kept[:, -1:]).sum(dim=-1).max()) + 1
    return rotated[..., :rank].contiguous()
