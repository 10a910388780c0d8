# SPDX-License-Identifier: Apache-2.0
"""A pinhole camera, and how to point it."""

from dataclasses import dataclass
from typing import Tuple

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True, eq=False)
class Camera:
    """A pinhole camera without distortion. Pixel centres lie at +0.5."""

    width: int
    height: int
    focal: float
    """Pixels, the same along both axes."""
    camera_to_world: NDArray[np.float64]
    """[4, 4] OpenGL axes: x right, y up, looking along -z."""

    @property
    def centre(self) -> Tuple[float, float]:
        """Principal point in pixels: the middle of the picture."""
        return self.width / 2.0, self.height / 2.0

    @property
    def position(self) -> NDArray[np.float64]:
        return self.camera_to_world[:3, 3]

    def project(self, points: NDArray[np.float64]) -> Tuple[NDArray[np.float64], NDArray[np.float64]]:
        """World points [..., 3] to pixels [..., 2] (x right, y down) and depth [...] along the viewing axis, metres.

        Pixels of points at or behind the camera (depth <= 0) mean nothing.
        """
        local = (points - self.position) @ self.camera_to_world[:3, :3]
        depth = -local[..., 2]
        safe = np.where(np.abs(depth) < 1e-12, 1e-12, depth)
        x = self.focal * local[..., 0] / safe + self.centre[0]
        y = -self.focal * local[..., 1] / safe + self.centre[1]
        return np.stack([x, y], axis=-1), depth

    def unproject(self, pixels: NDArray[np.float64], depth: NDArray[np.float64]) -> NDArray[np.float64]:
        """Pixels [..., 2] at a depth [...] to world points [..., 3]; the inverse of :meth:`project`."""
        x = (pixels[..., 0] - self.centre[0]) / self.focal
        y = -(pixels[..., 1] - self.centre[1]) / self.focal
        local = np.stack([x, y, -np.ones_like(x)], axis=-1) * depth[..., None]
        return local @ self.camera_to_world[:3, :3].T + self.position

    def pixel_grid(self) -> NDArray[np.float64]:
        """[H, W, 2] centres of all pixels."""
        x, y = np.meshgrid(np.arange(self.width) + 0.5, np.arange(self.height) + 0.5)
        return np.asarray(np.stack([x, y], axis=-1), np.float64)


def focal_from_fov(width: int, degrees: float) -> float:
    """Focal length in pixels for a horizontal field of view."""
    return 0.5 * width / float(np.tan(np.radians(degrees) / 2.0))


def look_at(position: ArrayLike, target: ArrayLike) -> NDArray[np.float64]:
    """[4, 4] OpenGL camera-to-world matrix that looks from a place at a target, upright (z is up)."""
    back = np.asarray(position, dtype=np.float64) - np.asarray(target, dtype=np.float64)
    back /= np.linalg.norm(back)
    right = np.cross([0.0, 0.0, 1.0], back)
    right /= np.linalg.norm(right)
    matrix = np.eye(4)
    matrix[:3, 0] = right
    matrix[:3, 1] = np.cross(back, right)
    matrix[:3, 2] = back
    matrix[:3, 3] = position
    return matrix
