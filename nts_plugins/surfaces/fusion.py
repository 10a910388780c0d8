# SPDX-License-Identifier: Apache-2.0
"""One mesh from many depth maps: a truncated signed distance field in blocks of voxels, kept where surfaces are.

Curless and Levoy 1996, with the voxel blocks of open3d (Dong et al. 2021, ASH). open3d is imported when it is needed.
"""

from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Callable, Iterable, Iterator, Tuple

import numpy as np
from numpy.typing import NDArray

from nts_plugins.errors import InputError

BLOCK = 16
"""Voxels along a side of a block."""
BLOCK_BYTES = BLOCK**3 * 4 * (1 + 1 + 3)
"""Of a block: distance, weight and colour of each voxel as float32."""
TRUNCATION = 5.0
"""Voxels in front of and behind a surface that a depth map writes to."""
LEAST_VIEWS = 2.0
"""Depth maps that must agree that a place is a surface: what one of them alone has seen is as often a mistake."""
COARSER = 1.5
"""Factor on the voxel when memory does not suffice: as surfaces do, blocks become 2.25 times fewer."""


@dataclass(frozen=True)
class Shot:
    """A picture with its depth."""

    rgb: NDArray[np.float32]
    """[H, W, 3] in [0, 1]."""
    depth: NDArray[np.float32]
    """[H, W] along the viewing axis, scene units; 0 where it says nothing."""
    K: NDArray[np.float64]
    """[3, 3] pinhole intrinsics, pixels, pixel centres at +0.5."""
    viewmat: NDArray[np.float64]
    """[4, 4] world to camera, OpenCV axes."""

    def within(self, center: NDArray[np.float64], side: float) -> "Shot":
        """The same without the depths that lead out of a cube (centre [3] and side, world frame)."""
        height, width = self.depth.shape
        columns, rows = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
        rays = np.stack([columns, rows, np.ones_like(rows)], axis=-1) @ np.linalg.inv(self.K).T
        world = np.linalg.inv(self.viewmat)
        points = (rays * self.depth[..., None]) @ world[:3, :3].T + world[:3, 3]
        inside = (np.abs(points - center) <= side / 2).all(axis=-1)
        return Shot(self.rgb, np.where(inside, self.depth, 0.0).astype(np.float32), self.K, self.viewmat)


@dataclass(frozen=True)
class Mesh:
    """Triangles with colours at their corners."""

    vertices: NDArray[np.float64]
    """[V, 3]"""
    faces: NDArray[np.int64]
    """[F, 3] indices of vertices, counter-clockwise from outside."""
    colors: NDArray[np.uint8]
    """[V, 3] sRGB."""

    def transformed(self, matrix: NDArray[np.float64]) -> "Mesh":
        """In another frame; ``matrix`` [4, 4] of a rotation, a scale above zero and a shift."""
        return Mesh(self.vertices @ matrix[:3, :3].T + matrix[:3, 3], self.faces, self.colors)

    def largest(self, count: int) -> "Mesh":
        """The ``count`` connected components with the most triangles."""
        from scipy.sparse import coo_matrix
        from scipy.sparse.csgraph import connected_components

        ends = self.faces[:, [0, 1, 1, 2]].reshape(-1, 2).T
        shape = (len(self.vertices), len(self.vertices))
        _, of_vertex = connected_components(coo_matrix((np.ones(ends.shape[1], bool), ends), shape), directed=False)
        of_face = of_vertex[self.faces[:, 0]]
        sizes = np.bincount(of_face)
        chosen = np.argsort(-sizes, kind="stable")[:count]
        return self._keep(np.isin(of_face, chosen))

    def _keep(self, which: NDArray[np.bool_]) -> "Mesh":
        faces = self.faces[which]
        used, inverse = np.unique(faces, return_inverse=True)
        return Mesh(self.vertices[used], inverse.reshape(faces.shape), self.colors[used])


class _MemoryFull(Exception):
    """More blocks than the budget holds."""


def fuse(
    shots: Callable[[], Iterable[Shot]],
    voxel: float,
    memory: int,
    coarsened: Callable[[float], None] = lambda voxel: None,
) -> Tuple[Mesh, float]:
    """Fuse depth maps into a mesh.

    Args:
        shots: gives the pictures, each time from the first on; they are not kept.
        voxel: side of a voxel, scene units.
        memory: bytes that blocks may take. Where more would be needed, fusing begins again with coarser voxels.
        coarsened: is told the new side then.

    Returns:
        The mesh, in the frame of the cameras, and the side of the voxels that it was made with.

    Raises:
        InputError: where no surface is found, open3d cannot be loaded, or the budget is below one block.
    """
    blocks = memory // BLOCK_BYTES
    if blocks < 1:
        raise InputError(f"A block of voxels takes {BLOCK_BYTES} bytes; the memory for the mesh is {memory}. Raise it.")
    while True:
        try:
            return _fuse(shots(), voxel, blocks), voxel
        except _MemoryFull:
            voxel *= COARSER
            coarsened(voxel)


def _fuse(shots: Iterable[Shot], voxel: float, blocks: int) -> Mesh:
    with _open3d() as o3d:
        core, device = o3d.core, o3d.core.Device("CPU:0")
        grid = o3d.t.geometry.VoxelBlockGrid(
            attr_names=("tsdf", "weight", "color"),
            attr_dtypes=(core.float32,) * 3,
            attr_channels=((1), (1), (3)),
            voxel_size=voxel,
            block_resolution=BLOCK,
            block_count=blocks,
            device=device,
        )
        for shot in shots:
            if not shot.depth.any():
                continue
            K = shot.K.copy()
            K[:2, 2] -= 0.5  # open3d's pixel centres are whole numbers.
            depth = o3d.t.geometry.Image(core.Tensor(np.ascontiguousarray(shot.depth[..., None], np.float32)))
            color = o3d.t.geometry.Image(core.Tensor(np.ascontiguousarray(shot.rgb, np.float32)))
            lens, pose = core.Tensor(K), core.Tensor(shot.viewmat.astype(np.float64))
            span = {"depth_scale": 1.0, "depth_max": float(shot.depth.max()) * 1.01}
            touched = grid.compute_unique_block_coordinates(
                depth, lens, pose, trunc_voxel_multiplier=TRUNCATION, **span
            )
            _, known = grid.hashmap().find(touched)
            if grid.hashmap().size() + len(touched) - int(known.numpy().sum()) > blocks:
                raise _MemoryFull
            grid.integrate(touched, depth, color, lens, pose, trunc_voxel_multiplier=TRUNCATION, **span)
        mesh = grid.extract_triangle_mesh(weight_threshold=LEAST_VIEWS) if grid.hashmap().size() else None
        if mesh is None or "indices" not in mesh.triangle or len(mesh.triangle.indices) == 0:
            raise InputError(
                "No surface was found: no two pictures agree about one. Train longer, or choose a larger region."
            )
        colors = np.clip(np.rint(255.0 * mesh.vertex.colors.numpy()), 0, 255).astype(np.uint8)
        return Mesh(
            mesh.vertex.positions.numpy().astype(np.float64), mesh.triangle.indices.numpy().astype(np.int64), colors
        )


@contextmanager
def _open3d() -> Iterator[Any]:
    try:
        import open3d
    except (ImportError, OSError) as error:
        raise InputError(f"Meshes need open3d, which cannot be loaded ({error}). `nts doctor` says why.") from error
    yield open3d
