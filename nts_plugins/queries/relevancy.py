# SPDX-License-Identifier: Apache-2.0
"""How much more a feature is like a phrase than like anything (LERF, Kerr et al., ICCV 2023, section 3.3).

With unit vectors e of a feature, q of a phrase and c of the canonical phrases::

    r(e, q) = min over c of  exp(t e.q) / (exp(t e.q) + exp(t e.c))  =  sigmoid(t (e.q - max over c of e.c))

The temperature t is 10 in LERF's program, and missing in its paper. r > 0.5 where the phrase beats all canonical ones,
whatever t is.
"""

from functools import reduce
from typing import Optional

import torch
from torch import Tensor

TEMPERATURE = 10.0
"""LERF's and LangSplat's programs."""


def relevancy(
    positive: Tensor,
    negative: Tensor,
    temperature: float = TEMPERATURE,
    lengths: Optional[Tensor] = None,
    counts: Optional[Tensor] = None,
) -> Tensor:
    """r from cosines. Differentiable.

    Args:
        positive: [..., Q] cosines of features and phrases.
        negative: [..., C] cosines of the same features and the canonical phrases.
        temperature: see above.
        lengths: [...] of the features, where the cosines are still to be divided by them. Which phrase beats which does
            not depend on it, so that this comes last, when fewer numbers are left.
        counts: see :func:`margin`.

    Returns:
        [..., Q] in (0, 1).
    """
    by = margin(positive, negative, counts)
    return torch.sigmoid(temperature * (by if lengths is None else by / lengths[..., None]))


def margin(positive: Tensor, negative: Tensor, counts: Optional[Tensor] = None) -> Tensor:
    """[..., Q]: by how much each phrase beats the best canonical one, a difference of cosines, free of temperature.

    Args:
        positive, negative: see :func:`relevancy`.
        counts: [Q, C] bool, which canonical phrases a phrase has to beat, one at least; None for all.
    """
    if counts is None:
        return positive - negative.amax(dim=-1, keepdim=True)
    # Column by column: picking columns, and a table of all phrases against all canonical ones, take twice as long.
    columns = negative.unbind(dim=-1)
    best = [
        reduce(torch.maximum, [each for each, counted in zip(columns, own, strict=True) if counted])
        for own in counts.tolist()
    ]
    return positive - torch.stack(best, dim=-1)


def from_margin(value: float, temperature: float = TEMPERATURE) -> float:
    """The r of a margin. 0.5 for 0; 0.6, which some publications ask for, for 0.0405."""
    return float(torch.sigmoid(torch.tensor(temperature * value, dtype=torch.float64)))


def on_level(scores: Tensor, level: Optional[int] = None) -> Tensor:
    """Scores on one level, or for each phrase on the level of its best match.

    Args:
        scores: [N, L, Q] of pixels or splats.
        level: number of it; None for the best.

    Returns:
        [N, Q].
    """
    if level is not None or len(scores) == 0:
        return scores[:, level or 0]
    levels = scores.amax(dim=0).argmax(dim=0)
    return scores.gather(1, levels.expand(len(scores), 1, -1))[:, 0]
