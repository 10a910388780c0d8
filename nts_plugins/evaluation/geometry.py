# SPDX-License-Identifier: Apache-2.0
"""How close a reconstructed surface is to the true one. Pure functions of numpy arrays, seeded where they draw lots."""

from dataclasses import dataclass
from typing import Any, Dict, Optional, Sequence, Tuple

import numpy as np
from numpy.typing import NDArray

ROUNDING = 1e-4
"""Share of the way to a point by which a ray may meet the surface too early: rays are cast in float32."""


@dataclass(frozen=True)
class Points:
    """Points on a surface."""

    xyz: NDArray[np.float64]
    """[P, 3]"""
    normals: Optional[NDArray[np.float64]] = None
    """[P, 3] unit; which side they point to does not matter."""

    def select(self, which: NDArray) -> "Points":
        """Those of a mask [P] or of indices."""
        return Points(self.xyz[which], None if self.normals is None else self.normals[which])


@dataclass(frozen=True)
class Frustum:
    """What a pinhole camera has in view."""

    viewmat: NDArray[np.float64]
    """[4, 4] world to camera, OpenCV axes."""
    K: NDArray[np.float64]
    """[3, 3] intrinsics, pixels."""
    width: int
    height: int

    @property
    def position(self) -> NDArray[np.float64]:
        """[3] of the camera, world frame."""
        return -self.viewmat[:3, :3].T @ self.viewmat[:3, 3]

    def contains(self, xyz: NDArray[np.float64]) -> NDArray[np.bool_]:
        """[P] whether points [P, 3] lie within the picture; what stands before them does not count."""
        local = xyz @ self.viewmat[:3, :3].T + self.viewmat[:3, 3]
        depth = np.where(local[:, 2] > 0, local[:, 2], np.inf)
        x = self.K[0, 0] * local[:, 0] / depth + self.K[0, 2]
        y = self.K[1, 1] * local[:, 1] / depth + self.K[1, 2]
        return (local[:, 2] > 0) & (x >= 0) & (x < self.width) & (y >= 0) & (y < self.height)


def sample_surface(vertices: NDArray[np.float64], faces: NDArray[np.int64], count: int, seed: int = 0) -> Points:
    """Points spread evenly over the area of a mesh, with the normals of its triangles. Equal seeds, equal points.

    Args:
        vertices: [V, 3].
        faces: [F, 3] indices of vertices, some of them of triangles with an area.
        count: how many points.
        seed: of the lots.

    Raises:
        ValueError: where the mesh has no area.
    """
    first, second, third = (vertices[faces[:, corner]] for corner in range(3))
    across = np.cross(second - first, third - first)
    doubled = np.linalg.norm(across, axis=1)
    total = doubled.sum()
    if not total > 0:
        raise ValueError("The mesh has no triangle with an area.")
    lots = np.random.default_rng(seed)
    # One point in each of as many equal shares of the area: no place is left out, as it would be by independent lots.
    shares = (np.arange(count) + lots.random(count)) * (total / count)
    which = np.minimum(np.searchsorted(np.cumsum(doubled), shares, side="right"), len(faces) - 1)
    which = np.where(doubled[which] > 0, which, int(np.argmax(doubled)))
    u, v = np.sqrt(lots.random(count)), lots.random(count)
    weights = np.stack([1 - u, u * (1 - v), u * v], axis=1)
    corners = vertices[faces[which]]
    return Points((weights[:, :, None] * corners).sum(axis=1), across[which] / doubled[which, None])


def seen(
    points: Points,
    frusta: Sequence[Frustum],
    mesh: Optional[Tuple[NDArray[np.float64], NDArray[np.int64]]] = None,
    tolerance: float = 0.0,
) -> NDArray[np.bool_]:
    """[P] whether any camera sees a point.

    Args:
        points: P points.
        frusta: the cameras.
        mesh: vertices and faces that hide what is behind them; without, all in a camera's frustum counts as seen.
        tolerance: how much of the way to a point may lie behind the mesh, scene units; at least the error with which
            the points lie on it.
    """
    found = np.zeros(len(points.xyz), bool)
    scene = None if mesh is None else _raycasting(*mesh)
    for frustum in frusta:
        left = np.flatnonzero(~found)
        left = left[frustum.contains(points.xyz[left])]
        if scene is not None and len(left):
            left = left[scene(frustum.position, points.xyz[left], tolerance)]
        found[left] = True
    return found


def within(xyz: NDArray[np.float64], others: NDArray[np.float64], margin: float) -> NDArray[np.bool_]:
    """[P] which of points [P, 3] lie in the axis-aligned box around others [Q, 3], or at most ``margin`` outside."""
    return ((xyz >= others.min(axis=0) - margin) & (xyz <= others.max(axis=0) + margin)).all(axis=1)


def compare_surfaces(found: Points, truth: Points, threshold: float) -> Dict[str, float]:
    """Distances between two point sets, in their unit.

    Args:
        found: of the reconstruction.
        truth: what it should be.
        threshold: distance within which a point counts as right.

    Returns:
        accuracy (mean distance of found points to the nearest true one), completeness (of true points to the nearest
        found one), chamfer (the mean of both, as DTU's "overall"), precision and recall (shares within the threshold),
        f_score (their harmonic mean, as in Tanks and Temples), and, where both sets have normals, normal_degrees: the
        mean angle between the normals of found points and those of the nearest true ones, 0 to 90.

    Raises:
        ValueError: where a set is empty, or the threshold is not above zero.
    """
    from scipy.spatial import KDTree

    if not len(found.xyz) or not len(truth.xyz):
        raise ValueError("There are no points to compare.")
    if not threshold > 0:
        raise ValueError(f"threshold={threshold} must be above zero.")
    to_truth, nearest = KDTree(truth.xyz).query(found.xyz)
    to_found, _ = KDTree(found.xyz).query(truth.xyz)
    precision, recall = float((to_truth <= threshold).mean()), float((to_found <= threshold).mean())
    result = {
        "accuracy": float(to_truth.mean()),
        "completeness": float(to_found.mean()),
        "chamfer": float(to_truth.mean() + to_found.mean()) / 2,
        "precision": precision,
        "recall": recall,
        "f_score": 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0,
    }
    if found.normals is not None and truth.normals is not None:
        cosines = np.abs((found.normals * truth.normals[nearest]).sum(axis=1)).clip(0.0, 1.0)
        result["normal_degrees"] = float(np.degrees(np.arccos(cosines)).mean())
    return result


def compare_paired(
    found: NDArray[np.float64], own: NDArray[np.float64], truth: NDArray[np.float64]
) -> Dict[str, float]:
    """Distances of points whose true places are known, once they are registered to these, in the points' unit.

    Feat2GS (Chen et al., CVPR 2025), section 4: estimated scenes have a frame and a scale of their own.

    Args:
        found: [M, 3], at least 4, not all at one place.
        own: [M, 3] the true place of each.
        truth: [P, 3] all of the true surface.

    Returns:
        accuracy (mean distance of found points to the nearest true one), completeness (of true points to the nearest
        found one), and distance (of found points to their own true place).
    """
    from scipy.spatial import KDTree

    scale, turn, shift = similarity(found, own)
    registered = scale * found @ turn.T + shift
    return {
        "accuracy": float(KDTree(truth).query(registered, workers=-1)[0].mean()),
        "completeness": float(KDTree(registered).query(truth, workers=-1)[0].mean()),
        "distance": float(np.linalg.norm(registered - own, axis=1).mean()),
    }


def similarity(source: NDArray[np.float64], target: NDArray[np.float64]) -> Tuple[float, NDArray, NDArray]:
    """Scale s, rotation R [3, 3] and shift t [3] with the least sum of ``|s R x + t - y|^2`` (Umeyama 1991).

    Args:
        source: [M, 3] x.
        target: [M, 3] y.

    Raises:
        ValueError: where all points of the source are at one place.
    """
    source, target = np.asarray(source, np.float64), np.asarray(target, np.float64)
    middle, goal = source.mean(axis=0), target.mean(axis=0)
    spread = np.square(source - middle).sum() / len(source)
    if not spread > 0:
        raise ValueError("All points are at one place.")
    u, values, v = np.linalg.svd((target - goal).T @ (source - middle) / len(source))
    signs = np.array([1.0, 1.0, np.sign(np.linalg.det(u) * np.linalg.det(v)) or 1.0])
    turn = (u * signs) @ v
    scale = float((values * signs).sum() / spread)
    return scale, turn, goal - scale * turn @ middle


def _raycasting(vertices: NDArray[np.float64], faces: NDArray[np.int64]) -> Any:
    """A function that says which points [P, 3] are seen from a place [3]."""
    import open3d

    core: Any = open3d.core

    def tensor(values: NDArray, kind: Any) -> Any:
        return core.Tensor(np.ascontiguousarray(values, kind))

    scene = open3d.t.geometry.RaycastingScene()
    scene.add_triangles(tensor(vertices, np.float32), tensor(faces, np.uint32))

    def visible(position: NDArray[np.float64], xyz: NDArray[np.float64], tolerance: float) -> NDArray[np.bool_]:
        way = xyz - position
        length = np.linalg.norm(way, axis=1)
        rays = np.concatenate([np.broadcast_to(position, xyz.shape), way / length[:, None]], axis=1)
        hit = scene.cast_rays(tensor(rays, np.float32))["t_hit"].numpy()
        return hit >= length - tolerance - ROUNDING * length

    return visible
