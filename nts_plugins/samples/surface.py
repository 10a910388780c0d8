# SPDX-License-Identifier: Apache-2.0
"""What the cameras of a sample see, as points: the truth that a reconstructed surface is compared with."""

from typing import Iterable, List, Tuple

import numpy as np
from numpy.typing import NDArray

from nts_plugins.samples.cameras import Camera

SPACING = 0.02
"""Side of the cubes that hold one point each, metres. A room then has some hundred thousand points, evenly spread,
where pixels would crowd on what is near to a camera."""

Points = Tuple[NDArray[np.float32], NDArray[np.float32]]
"""Points [P, 3] and their unit normals [P, 3], world frame."""


class SurfaceFinder:
    """Collects a point, and its normal, in every small cube of space in which a pixel shows a surface.

    Args:
        bounds: low and high corners of the things in the scene.
        spacing: side of the cubes, metres.
    """

    def __init__(
        self, bounds: Iterable[Tuple[NDArray[np.float64], NDArray[np.float64]]], spacing: float = SPACING
    ) -> None:
        corners = list(bounds)
        self._spacing = spacing
        self._low = np.min([low for low, _ in corners], axis=0) - spacing
        high = np.max([high for _, high in corners], axis=0) + spacing
        self._taken = np.zeros(np.ceil((high - self._low) / spacing).astype(int) + 1, bool)
        self._found: List[Points] = []

    def add(self, camera: Camera, depth: NDArray[np.float64], normals: NDArray[np.float64]) -> None:
        """Take over what one camera sees; the order of the calls decides which point stands for its cube.

        Args:
            camera: where from.
            depth: [H, W] exact, metres along the viewing axis; 0 where nothing is.
            normals: [H, W, 3] exact, unit.
        """
        there = depth > 0
        points = camera.unproject(camera.pixel_grid()[there], depth[there])
        cubes = ((points - self._low) / self._spacing).astype(np.int64)
        index = np.asarray(np.ravel_multi_index(tuple(cubes.T), self._taken.shape))
        first = np.sort(np.unique(index, return_index=True)[1])
        first = first[~self._taken.reshape(-1)[index[first]]]
        self._taken.reshape(-1)[index[first]] = True
        self._found.append((points[first].astype(np.float32), normals[there][first].astype(np.float32)))

    def points(self) -> Points:
        """All of them."""
        return tuple(np.concatenate(each) for each in zip(*self._found, strict=True))  # type: ignore[return-value]
