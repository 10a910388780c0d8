# SPDX-License-Identifier: Apache-2.0
"""Where some splats are: the places that they gather at."""

from dataclasses import dataclass
from typing import List

import numpy as np
from numpy.typing import NDArray

NEIGHBOURS = 6
REACH = 3.0
"""Splats belong together up to this many times the usual distance to their sixth neighbour."""
LEAST = 0.02
"""Share of all splats found, below which a place is taken for stray ones."""
TRIMMED = 0.01
"""Of the splats of a place, on each side of each axis, that its box leaves out: floaters lie there."""


@dataclass(frozen=True)
class Place:
    """Splats that lie together."""

    members: NDArray[np.int64]
    low: NDArray[np.float64]
    """[3] least corner of the box around them."""
    high: NDArray[np.float64]
    """[3] the opposite one."""

    def corners(self) -> NDArray[np.float64]:
        """[8, 3] of the box."""
        ends = np.stack([self.low, self.high])
        return np.array([[ends[i, 0], ends[j, 1], ends[k, 2]] for i in (0, 1) for j in (0, 1) for k in (0, 1)])


def places_of(means: NDArray, weights: NDArray) -> List[Place]:
    """The places at which splats gather, the one with most weight first.

    Args:
        means: [N, 3] centres.
        weights: [N] how much each counts, opacities for example.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import KDTree

    count = len(means)
    if count == 0:
        return []
    tree = KDTree(means)
    distances, neighbours = tree.query(means, k=min(NEIGHBOURS + 1, count))
    distances, neighbours = distances.reshape(count, -1), neighbours.reshape(count, -1)
    near = distances <= REACH * np.median(distances[:, -1])
    rows = np.repeat(np.arange(count), neighbours.shape[1])[near.ravel()]
    graph = coo_matrix((np.ones(len(rows)), (rows, neighbours.ravel()[near.ravel()])), shape=(count, count))
    labels = connected_components(graph, directed=False)[1]
    totals = np.bincount(labels, weights)
    places = []
    for label in np.argsort(-totals, kind="stable"):
        members = np.flatnonzero(labels == label)
        if places and len(members) < LEAST * count:
            continue
        low, high = np.quantile(means[members], [TRIMMED, 1 - TRIMMED], axis=0)
        places.append(Place(members, low, high))
    return places
