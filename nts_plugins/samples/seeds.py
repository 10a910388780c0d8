# SPDX-License-Identifier: Apache-2.0
"""Seed points as structure from motion would find them: sparse, on texture, a little wrong.

Corners and edges of the pictures are matched into other views by the exact depth; a match also has to look alike, so
mirrors and moving things lose theirs, as they do in practice. The position's error is that of triangulation: feature
positions are off by ``pixel_noise`` pixels, so it grows with depth and shrinks with the baseline.
"""

from dataclasses import dataclass
from typing import List, Tuple

import numpy as np
from numpy.typing import NDArray

from nts_plugins.samples.cameras import Camera

MIN_VIEWS = 3
"""A point has to be seen in at least so many views."""
MIN_ANGLE = 2.0
"""Degrees between at least two of its rays, as COLMAP asks for (1.5) and a little more."""
MATCH_RATE = 0.5
"""Chance that a view in which a point could be seen gives a match."""
LIKENESS = 30.0
"""Mean absolute difference of 8-bit colours, over a patch of 3 x 3 pixels, up to which a match is believed."""


@dataclass(frozen=True, eq=False)
class SeedPoints:
    """M points with colours, and the truth about them."""

    xyz: NDArray[np.float64]
    """[M, 3] metres, world."""
    rgb: NDArray[np.uint8]
    """[M, 3] sRGB, mean over the views that matched."""
    true_xyz: NDArray[np.float64]
    """[M, 3] where the surface really is; for a wrong match, the point that it should have been."""
    covariance: NDArray[np.float64]
    """[M, 3, 3] of the error, metres squared; not of the wrong matches."""
    wrong: NDArray[np.bool_]
    """[M] whether the match is wrong."""


class SeedFinder:
    """Collects candidates from every training view, then matches in every training view, then the points.

    Views come one at a time, so that memory does not grow with pixels.
    """

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng([seed, 7])
        self._candidates: List[Tuple[NDArray, NDArray]] = []
        self._points = np.zeros((0, 3))

    def propose(self, camera: Camera, rgb: NDArray[np.uint8], depth: NDArray[np.float64], count: int) -> None:
        """Take up to ``count`` textured pixels of a view as candidates, the stronger the likelier."""
        strength = _corner_strength(rgb, depth)
        y, x = np.nonzero(strength > 0.0)
        if len(y) == 0 or count == 0:
            return
        # Weighted sampling without replacement by exponential clocks (Efraimidis and Spirakis 2006).
        clock = self._rng.exponential(1.0, len(y)) / strength[y, x]
        pick = np.argsort(clock, kind="stable")[:count]
        pixels = np.asarray(np.stack([x[pick] + 0.5, y[pick] + 0.5], axis=-1), np.float64)
        self._candidates.append((camera.unproject(pixels, depth[y[pick], x[pick]]), _patches(rgb, x[pick], y[pick])))

    def start_matching(self) -> None:
        """Close the list of candidates."""
        if self._candidates:
            self._points = np.concatenate([points for points, _ in self._candidates])
            self._look = np.concatenate([patches for _, patches in self._candidates])
        n = len(self._points)
        self._views = np.zeros(n, np.int64)
        self._information = np.zeros((n, 3, 3))
        self._colors = np.zeros((n, 3))
        self._rays = np.zeros((n, 3))
        self._widest = np.ones(n)
        self._eye = np.zeros((n, 3))

    def match(self, camera: Camera, rgb: NDArray[np.uint8], depth: NDArray[np.float64]) -> None:
        """Find the candidates that one view sees, and add what it says about where they are."""
        if len(self._points) == 0:
            return
        pixels, z = camera.project(self._points)
        chance = self._rng.random(len(z)) < MATCH_RATE
        inside = (z > 0.05) & (pixels >= 0.0).all(1) & (pixels < (camera.width, camera.height)).all(1) & chance
        index = np.nonzero(inside)[0]
        x, y = pixels[index].astype(np.int64).T
        # Across one pixel, the depth of a slanted surface changes by about its own share of the pixel's width.
        same = np.abs(depth[y, x] - z[index]) < z[index] * (0.005 + 1.5 / camera.focal)
        same &= np.abs(_patches(rgb, x, y) - self._look[index]).mean((1, 2)) < LIKENESS
        index, x, y = index[same], x[same], y[same]
        jacobian = _projection_jacobian(camera, self._points[index])
        self._information[index] += jacobian.transpose(0, 2, 1) @ jacobian
        rays = self._points[index] - camera.position
        rays /= np.linalg.norm(rays, axis=1, keepdims=True)
        first = self._views[index] == 0
        self._rays[index[first]] = rays[first]
        self._widest[index] = np.minimum(self._widest[index], (self._rays[index] * rays).sum(1))
        self._eye[index] = camera.position
        self._colors[index] += rgb[y, x]
        self._views[index] += 1

    def points(self, count: int, pixel_noise: float, outliers: float) -> SeedPoints:
        """The points that enough views have matched from different enough sides, at most ``count`` of them.

        Args:
            count: how many to return at most, in random order.
            pixel_noise: standard deviation of feature positions, pixels; 0 gives exact positions.
            outliers: fraction of wrong matches: they lie on the right ray at a wrong depth.
        """
        good = (self._views >= MIN_VIEWS) & (self._widest < np.cos(np.radians(MIN_ANGLE)))
        index = self._rng.permutation(np.nonzero(good)[0])[:count]
        true = self._points[index]
        covariance = np.zeros((0, 3, 3))
        if len(index):
            covariance = np.asarray(np.linalg.inv(self._information[index]) * pixel_noise**2, np.float64)
        shift = np.linalg.cholesky(covariance) if pixel_noise > 0.0 and len(index) else covariance
        xyz = true + (shift @ self._rng.standard_normal((len(index), 3, 1)))[..., 0]
        wrong = self._rng.random(len(index)) < outliers
        eye = self._eye[index]
        factor = np.exp(self._rng.uniform(np.log(0.4), np.log(1.8), (len(index), 1)))
        xyz = np.where(wrong[:, None], eye + factor * (true - eye), xyz)
        colors = self._colors[index] / np.maximum(self._views[index], 1)[:, None]
        return SeedPoints(xyz, np.rint(colors).astype(np.uint8), true, covariance, wrong)


def _corner_strength(rgb: NDArray[np.uint8], depth: NDArray[np.float64]) -> NDArray[np.float64]:
    """Gradient magnitude of the brightness where it is a local maximum, else 0; nothing at silhouettes and borders."""
    grey = rgb.astype(np.float64).mean(2)
    gy, gx = np.gradient(grey)
    size = np.hypot(gx, gy)
    strength = np.zeros_like(size)
    core = size[1:-1, 1:-1]
    height, width = grey.shape
    around = [(slice(1 + a, height - 1 + a), slice(1 + b, width - 1 + b)) for a in (-1, 0, 1) for b in (-1, 0, 1)]
    peak = core >= np.max([size[window] for window in around], axis=0)
    depths = np.stack([depth[window] for window in around])
    smooth = (depths.min(0) > 0.0) & (depths.max(0) < 1.05 * depths.min(0))
    strength[1:-1, 1:-1] = np.where(peak & smooth & (core > 3.0), core, 0.0)
    return strength


def _patches(rgb: NDArray[np.uint8], x: NDArray[np.int64], y: NDArray[np.int64]) -> NDArray[np.float32]:
    """[M, 9, 3] the pixels and their neighbours; the border repeats beyond the picture."""
    down, right = (offsets.reshape(-1) for offsets in np.mgrid[-1:2, -1:2])
    rows = np.clip(y[:, None] + down, 0, rgb.shape[0] - 1)
    columns = np.clip(x[:, None] + right, 0, rgb.shape[1] - 1)
    return rgb[rows, columns].astype(np.float32)


def _projection_jacobian(camera: Camera, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """[M, 2, 3] derivative of pixel position by world position."""
    rotation = camera.camera_to_world[:3, :3]
    local = (points - camera.position) @ rotation
    x, y, depth = local[:, 0], local[:, 1], -local[:, 2]
    zero = np.zeros_like(x)
    by_local = np.stack(
        [np.stack([1.0 / depth, zero, x / depth**2], -1), np.stack([zero, -1.0 / depth, -y / depth**2], -1)], axis=1
    )
    return camera.focal * by_local @ rotation.T
