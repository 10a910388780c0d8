# SPDX-License-Identifier: Apache-2.0
"""Depth maps of a ball and a wall become a mesh of them, within the memory that is allowed."""

from typing import Iterator, List

import numpy as np
import pytest

from nts_plugins.errors import InputError
from nts_plugins.surfaces import fusion
from nts_plugins.surfaces.fusion import BLOCK_BYTES, Mesh, Shot, fuse
from tests.captures import ring_pose

pytest.importorskip("open3d")

K = np.array([[90.0, 0, 40.3], [0, 90.0, 29.6], [0, 0, 1]])
RADIUS = 0.6


def ball(angle: float, stripe: bool = True) -> Shot:
    """The exact depth of a ball around the origin, red where x > 0 and blue elsewhere."""
    pose = ring_pose(angle).numpy().astype(np.float64) @ np.diag([1.0, -1.0, -1.0, 1.0])
    columns, rows = np.meshgrid(np.arange(80) + 0.5, np.arange(60) + 0.5)
    local = np.stack([columns, rows, np.ones_like(rows)], axis=-1) @ np.linalg.inv(K).T
    rays, origin = local @ pose[:3, :3].T, pose[:3, 3]
    a, b, c = (rays**2).sum(-1), 2 * rays @ origin, origin @ origin - RADIUS**2
    root = b * b - 4 * a * c
    depth = np.where(root > 0, (-b - np.sqrt(np.maximum(root, 0))) / (2 * a), 0.0)
    red = (rays * depth[..., None] + origin)[..., :1] > 0
    rgb = np.where(red, [1.0, 0, 0], [0, 0, 1.0]) if stripe else np.ones((60, 80, 3))
    return Shot(rgb.astype(np.float32), depth.astype(np.float32), K, np.linalg.inv(pose))


def around(count: int = 12) -> List[Shot]:
    return [ball(2 * np.pi * view / count) for view in range(count)]


def test_a_ball_is_found_where_it_is() -> None:
    """To a fraction of a voxel, so that pixel centres, poses and the unit of depth are right."""
    mesh, voxel = fuse(around, 0.03, 2**28)
    assert voxel == 0.03
    radii = np.linalg.norm(mesh.vertices, axis=1)
    assert abs(np.median(radii) - RADIUS) < 0.01 and np.percentile(np.abs(radii - RADIUS), 95) < 0.03
    assert np.linalg.norm(np.median(mesh.vertices[:, :2], axis=0)) < 0.02
    corners = mesh.vertices[mesh.faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    outside = (normals * corners.mean(axis=1)).sum(-1) > 0
    assert outside.mean() > 0.98
    clearly = np.abs(mesh.vertices[:, 0]) > 0.1
    is_red = mesh.colors[:, 0] > mesh.colors[:, 2]
    assert (is_red == (mesh.vertices[:, 0] > 0))[clearly].mean() > 0.98
    assert mesh.colors.max() == 255


def test_memory_is_bounded_by_coarser_voxels() -> None:
    asked: List[float] = []
    starts: List[int] = []

    def shots() -> Iterator[Shot]:
        starts.append(1)
        return iter(around())

    mesh, voxel = fuse(shots, 0.01, 150 * BLOCK_BYTES, asked.append)
    assert asked and voxel == asked[-1] and voxel == pytest.approx(0.01 * fusion.COARSER ** len(asked))
    assert len(starts) == len(asked) + 1 and len(mesh.faces) > 100
    with pytest.raises(InputError, match="Raise it"):
        fuse(shots, 0.01, BLOCK_BYTES - 1)


def test_no_surface_is_said() -> None:
    empty = [Shot(each.rgb, 0 * each.depth, each.K, each.viewmat) for each in around(3)]
    with pytest.raises(InputError, match="No surface was found"):
        fuse(lambda: empty, 0.03, 2**26)


def test_depth_outside_of_the_region_is_left_out() -> None:
    shot = ball(0.0)
    kept = shot.within(np.array([0.5, 0.0, 0.0]), 1.0)
    assert 0 < np.count_nonzero(kept.depth) <= np.count_nonzero(shot.depth)
    assert not shot.within(np.array([5.0, 0.0, 0.0]), 1.0).depth.any()
    everything = shot.within(np.zeros(3), 2.0)
    np.testing.assert_array_equal(everything.depth, shot.depth)


def test_the_largest_parts_are_kept_whole() -> None:
    square = np.array([[0, 1, 2], [0, 2, 3]])
    vertices = np.arange(33, dtype=np.float64).reshape(11, 3)
    faces = np.concatenate([square + 7, [[0, 1, 2]], square + 3])
    mesh = Mesh(vertices, faces, np.arange(33, dtype=np.uint8).reshape(11, 3))
    two = mesh.largest(2)
    assert len(two.faces) == 4 and len(two.vertices) == 8 and two.vertices.min() == 9
    np.testing.assert_array_equal(two.vertices, two.colors)
    assert len(mesh.largest(9).faces) == 5
    moved = mesh.transformed(np.array([[0, -2.0, 0, 1], [2, 0, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1.0]]))
    np.testing.assert_allclose(moved.vertices[0], [2 * -1 + 1, 0, 4])
