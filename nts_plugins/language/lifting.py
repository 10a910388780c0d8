# SPDX-License-Identifier: Apache-2.0
"""Features of splats from the regions they are part of, without training. Rules by which regions are averaged:

- ``mean``: the weighted mean, of unit length. The optimum of sum over pixels of w <u, F> for unit u; the rule of
  LUDVIG (Marrie et al., ICCV 2025), Splat Feature Solver (2025) and gradient back-projection (Joseph et al. 2024), with
  w = alpha T.
- ``median``: the streaming cosine median of VALA (2025): pictures one after the other pull the unit vector towards what
  they show, by their share of all weight so far, along the sphere.
"""

from typing import Iterator, Literal, Tuple

import numpy as np
import torch
from torch import Tensor

from nts_plugins.language.votes import Votes
from nts_plugins.language.words import AT_ONCE

Rule = Literal["mean", "median"]


def features_of(votes: Votes, rule: Rule = "mean", at_once: int = AT_ONCE) -> Iterator[Tuple[slice, Tensor]]:
    """Features of splats, in pieces. They do not depend on how many threads there are.

    Args:
        votes: of one level, on the CPU.
        rule: see above.
        at_once: splats in a piece.

    Returns:
        Pieces of splats, and [n, C] float32 of unit length; zeros of a splat that is part of no region.
    """
    # numba is loaded when it is needed: recipes import this module, and they are light.
    from nts_plugins.kernels.medians import medians, padded
    from nts_plugins.kernels.threads import run

    # The mean is the median of one picture that shows all there is.
    views = votes.views if rule == "median" else torch.zeros_like(votes.views)
    table = _table(votes.features, padded(votes.features.shape[1]))
    for piece, own in votes.pieces(at_once):
        first_entry = torch.searchsorted(own.splats, torch.arange(own.n_splats + 1))
        arrays = [tensor.contiguous().numpy() for tensor in (first_entry, own.regions, own.weights.float(), views)]
        out = torch.empty(own.n_splats, votes.features.shape[1])
        run(medians, *arrays, table, out.numpy())
        yield piece, out


def _table(features: Tensor, wide: int) -> np.ndarray:
    """Features as the kernel reads them: float32, a row after the other, zeros behind each up to ``wide`` numbers."""
    table = torch.zeros(len(features), wide)
    table[:, : features.shape[1]] = features
    return table.numpy().reshape(-1)
