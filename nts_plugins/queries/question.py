# SPDX-License-Identifier: Apache-2.0
"""What is looked for, as vectors."""

from dataclasses import dataclass
from typing import Callable, Optional, Sequence, Tuple, Union

import torch
from torch import Tensor

from nts_plugins.queries.phrases import canonical, split, split_negatives
from nts_plugins.queries.relevancy import TEMPERATURE, relevancy


@dataclass(frozen=True)
class Question:
    """Phrases to look for, and what they have to beat."""

    phrases: Tuple[str, ...]
    negatives: Tuple[str, ...]
    vectors: Tensor
    """[Q + M, C] unit length, of Q phrases and then of M negatives."""
    counts: Optional[Tensor] = None
    """[Q, M] bool, which negatives count for which phrase, where phrases are in several languages; None for all."""

    def beaten_by(self, number: int) -> Tuple[str, ...]:
        """The negatives that a phrase, given by its number, has to beat."""
        if self.counts is None:
            return self.negatives
        return tuple(each for each, own in zip(self.negatives, self.counts[number].tolist(), strict=True) if own)

    def relevancy(self, products: Tensor, lengths: Optional[Tensor] = None, temperature: float = TEMPERATURE) -> Tensor:
        """[..., Q] in (0, 1): how relevant features are.

        Args:
            products: [..., Q + M] of the features with all vectors.
            lengths, temperature: see :func:`~nts_plugins.queries.relevancy.relevancy`.
        """
        positive, negative = products.split([len(self.phrases), len(self.negatives)], dim=-1)
        return relevancy(positive, negative, temperature, lengths, self.counts)


def asked(
    text: Union[str, Sequence[str]],
    encode: Callable[[Sequence[str]], Tensor],
    negatives: str = "",
    check: Optional[Callable[[Sequence[str]], None]] = None,
) -> Question:
    """The question that a text asks. What a phrase has to beat does not depend on what else is asked.

    Args:
        text: phrases, separated by ';', or one by one.
        encode: T phrases to [T, C] vectors of unit length.
        negatives: what all phrases have to beat, separated likewise; empty takes for each phrase the canonical phrases
            of its own language.
        check: refuses phrases and negatives that cannot be asked, before they are encoded. It is not shown canonical
            phrases: they are of languages in which it has seen a phrase.

    Raises:
        InputError: where there is no phrase, and those of ``check`` and ``encode``.
    """
    phrases, given = split(text) if isinstance(text, str) else list(text), split_negatives(negatives)
    if check is not None:
        check([*phrases, *given])
    against = given or canonical(phrases)
    counts = None if given else _own(phrases, against)
    return Question(tuple(phrases), tuple(against), torch.cat([encode(phrases), encode(against)]), counts)


def _own(phrases: Sequence[str], against: Sequence[str]) -> Optional[Tensor]:
    """[Q, M] bool, which canonical phrases are of the language of which phrase; None where all are of all."""
    counts = torch.tensor([[each in canonical([phrase]) for each in against] for phrase in phrases])
    return None if counts.all() else counts
