# SPDX-License-Identifier: Apache-2.0
"""What is looked for, as vectors."""

from dataclasses import dataclass
from typing import Callable, Optional, Sequence, Tuple

import torch
from torch import Tensor

from nts_plugins.queries.phrases import canonical, split
from nts_plugins.queries.relevancy import TEMPERATURE, relevancy


@dataclass(frozen=True)
class Question:
    """Phrases to look for, and what they have to beat."""

    phrases: Tuple[str, ...]
    negatives: Tuple[str, ...]
    vectors: Tensor
    """[Q + M, C] unit length, of Q phrases and then of M negatives."""

    def relevancy(self, products: Tensor, lengths: Optional[Tensor] = None, temperature: float = TEMPERATURE) -> Tensor:
        """[..., Q] in (0, 1): how relevant features are.

        Args:
            products: [..., Q + M] of the features with all vectors.
            lengths, temperature: see :func:`~nts_plugins.queries.relevancy.relevancy`.
        """
        positive, negative = products.split([len(self.phrases), len(self.negatives)], dim=-1)
        return relevancy(positive, negative, temperature, lengths)


def asked(
    text: str,
    encode: Callable[[Sequence[str]], Tensor],
    negatives: str = "",
    check: Optional[Callable[[Sequence[str]], None]] = None,
) -> Question:
    """The question that a text asks.

    Args:
        text: phrases, separated by ';'.
        encode: T phrases to [T, C] vectors of unit length.
        negatives: what phrases have to beat, separated likewise; empty takes the canonical phrases of their language.
        check: refuses phrases that cannot be asked, before they are encoded.

    Raises:
        InputError: where there is no phrase, and those of ``check`` and ``encode``.
    """
    phrases = split(text)
    against = split(negatives) if negatives.strip() else list(canonical(phrases))
    if check is not None:
        check(phrases)
    return Question(tuple(phrases), tuple(against), torch.cat([encode(phrases), encode(against)]))
