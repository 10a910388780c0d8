# SPDX-License-Identifier: Apache-2.0
"""Features of splats from the regions they are part of, without training. Rules by which regions are averaged:

- ``mean``: the weighted mean, of unit length. The optimum of sum over pixels of w <u, F> for unit u; the rule of
  LUDVIG (Marrie et al., ICCV 2025), Splat Feature Solver (2025) and gradient back-projection (Joseph et al. 2024), with
  w = alpha T.
- ``median``: the streaming cosine median of VALA (2025): pictures one after the other pull the unit vector towards what
  they show, by their share of all weight so far, along the sphere.
"""

from typing import Iterator, Literal, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from nts_plugins.language.votes import Votes

SPLATS_AT_ONCE = 1 << 15
"""Features of so many splats are in memory at once: 64 MB of 512 numbers each."""

Rule = Literal["mean", "median"]


def features_of(votes: Votes, rule: Rule = "mean", at_once: int = SPLATS_AT_ONCE) -> Iterator[Tuple[slice, Tensor]]:
    """Features of splats, in pieces.

    Args:
        votes: of one level.
        rule: see above.
        at_once: splats in a piece.

    Returns:
        Pieces of splats, and [n, C] float32 of unit length; zeros of a splat that is part of no region.
    """
    average = _mean if rule == "mean" else _median
    for piece, own in votes.pieces(at_once):
        yield piece, average(own)


def _mean(votes: Votes) -> Tensor:
    shape = votes.n_splats, len(votes.features)
    matrix = torch.sparse_coo_tensor(
        torch.stack([votes.splats, votes.regions]), votes.weights, shape, check_invariants=False
    )
    return _unit(matrix @ votes.features.float())


def _median(votes: Votes) -> Tensor:
    """z begins with the first picture's feature, whose share is all of the weight so far."""
    z, weight = torch.zeros(votes.n_splats, votes.features.shape[1]), torch.zeros(votes.n_splats, 1)
    for splats, some in votes.by_view():
        more = some.totals()[:, None]
        weight[splats] += more
        seen, old = _mean(some), z[splats]
        tangent = seen - (seen * old).sum(dim=1, keepdim=True) * old
        z[splats] = _unit(old + more / weight[splats] * tangent)
    return z


def _unit(vectors: Tensor) -> Tensor:
    """Of unit length; zeros stay zeros."""
    return F.normalize(vectors, dim=1)
