# SPDX-License-Identifier: Apache-2.0
"""From nerfstudio's cameras to the matrices that the rasterizer takes, and what they say about the size of a scene."""

from typing import NamedTuple, Tuple

import torch
from nerfstudio.cameras.cameras import Cameras, CameraType
from torch import Tensor

from nts_plugins.errors import InputError


class View(NamedTuple):
    """C pinhole cameras, and when they look."""

    viewmats: Tensor
    """[C, 4, 4] world to camera, OpenCV axes (x right, y down, z forward)."""
    Ks: Tensor
    """[C, 3, 3] intrinsics, pixels, pixel centres at +0.5."""
    width: int
    height: int
    times: Tensor
    """[C] from :func:`times_of`."""

    @property
    def camera(self) -> Tuple[Tensor, Tensor, int, int]:
        """What ``rasterize`` wants to know."""
        return self[:4]


def view_of(camera: Cameras, camera_to_worlds: Tensor, factor: int = 1) -> View:
    """The view through nerfstudio cameras, at a whole fraction of their resolution.

    Differentiable with respect to ``camera_to_worlds``.

    Args:
        camera: [C] cameras of one picture size. Not changed.
        camera_to_worlds: [C, 3, 4], OpenGL axes (x right, y up, z backward); usually the camera's own, or refined.
        factor: draw width // factor by height // factor pixels, as :class:`~nts_plugins.data.pyramid.Pyramid` shrinks.

    Raises:
        InputError: where a camera is not a pinhole camera.
    """
    if not is_pinhole(camera):
        name = CameraType(int(camera.camera_type.reshape(-1)[0])).name
        raise InputError(f"Splatting draws pinhole cameras, and {name} was asked for. Choose a perspective camera.")
    # As numbers: putting together a tensor element by element takes longer than drawing a thousand splats.
    lenses = torch.cat([each.reshape(-1, 1) for each in (camera.fx, camera.fy, camera.cx, camera.cy)], dim=1).tolist()
    rows = [[[fx / factor, 0, cx / factor], [0, fy / factor, cy / factor], [0, 0, 1]] for fx, fy, cx, cy in lenses]
    Ks = torch.tensor(rows, dtype=torch.float32, device=camera_to_worlds.device)
    width, height = int(camera.width.reshape(-1)[0]), int(camera.height.reshape(-1)[0])
    size = max(1, width // factor), max(1, height // factor)
    return View(world_to_camera(camera_to_worlds), Ks, *size, times_of(camera).to(Ks))


def times_of(camera: Cameras) -> Tensor:
    """[C] moments in [0, 1] at which nerfstudio cameras look: the first one where they have no times."""
    return torch.zeros(camera.size) if camera.times is None else camera.times.reshape(-1)


def is_pinhole(camera: Cameras) -> bool:
    """Whether all of the cameras are pinhole cameras."""
    return all(kind == CameraType.PERSPECTIVE.value for kind in camera.camera_type.flatten().tolist())


def world_to_camera(camera_to_worlds: Tensor) -> Tensor:
    """[C, 4, 4] world-to-camera matrices in OpenCV axes of rigid [C, 3, 4] camera-to-world matrices in OpenGL axes.

    Differentiable.
    """
    # Both cameras look along their third axis; OpenGL's y and z point the other way.
    flip = camera_to_worlds.new_tensor([1.0, -1.0, -1.0])
    rotation = (camera_to_worlds[:, :3, :3] * flip).transpose(1, 2)
    translation = -rotation @ camera_to_worlds[:, :3, 3:]
    last = camera_to_worlds.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(len(rotation), 1, 4)
    return torch.cat([torch.cat([rotation, translation], dim=2), last], dim=1)


def pixel_rays(K: Tensor, width: int, height: int) -> Tensor:
    """[H, W, 3] points at depth 1 (camera frame, OpenCV axes) behind the centres of pixels.

    Args:
        K: [3, 3] pinhole intrinsics, pixels, without skew.
    """
    x = (torch.arange(width, dtype=K.dtype, device=K.device) + 0.5 - K[0, 2]) / K[0, 0]
    y = (torch.arange(height, dtype=K.dtype, device=K.device) + 0.5 - K[1, 2]) / K[1, 1]
    rows, columns = torch.meshgrid(y, x, indexing="ij")
    return torch.stack([columns, rows, torch.ones_like(rows)], dim=-1)


def region_in_view(camera_to_worlds: Tensor) -> Tuple[Tuple[float, float, float], float]:
    """Centre and side of a cube in which to strew splats where no seed points say where the scene is.

    When all cameras look at one object from around it, the cube surrounds the point they look at, and its side is 0.65
    of their distance to it. That is the cube of [-1.3, 1.3] that 3DGS uses for Blender scenes, whose cameras are at a
    distance of 4. Otherwise the cube is centred on the cameras, with three times their extent, again as in 3DGS.

    Args:
        camera_to_worlds: [N, 3 or 4, 4], OpenGL axes.
    """
    positions, axes = camera_to_worlds[:, :3, 3].double(), -camera_to_worlds[:, :3, 2].double()
    middle = positions.mean(dim=0) if len(positions) else torch.zeros(3, dtype=torch.float64)
    extent = float((positions - middle).norm(dim=-1).max()) if len(positions) else 0.0
    # The point nearest to all optical axes, in the sense of least squares.
    across = torch.eye(3, dtype=torch.float64) - axes[:, :, None] * axes[:, None, :]
    system = across.sum(dim=0)
    if len(positions) > 2 and float(torch.linalg.cond(system)) < 1e4:
        focus = torch.linalg.solve(system, (across @ positions[:, :, None]).sum(dim=0))[:, 0]
        towards = focus - positions
        ahead = (towards * axes).sum(dim=-1)
        aside = (across @ towards[:, :, None])[..., 0].norm(dim=-1)
        if bool((ahead > 0).all()) and float((aside / ahead).median()) < 0.1:
            return _point(focus), 0.65 * float(ahead.median())
    return _point(middle), 3.0 * max(extent, 1e-3)


def _point(position: Tensor) -> Tuple[float, float, float]:
    x, y, z = (float(value) for value in position)
    return x, y, z


def camera_spacing(camera_to_worlds: Tensor) -> float:
    """Mean distance between a camera and the nearest one elsewhere, scene units; 0 where there is none.

    Cameras that film many moments from where they stand are at one place, also where each moment's poses were estimated
    or rounded by themselves: elsewhere is more than a ten-thousandth of the largest distance away.

    Args:
        camera_to_worlds: [N, 3 or 4, 4].
    """
    positions = camera_to_worlds[:, :3, 3].double()
    distances = torch.cdist(positions, positions)
    if not distances.any():
        return 0.0
    distances[distances <= 1e-4 * distances.max()] = float("inf")
    return float(distances.amin(dim=1).mean())


def camera_extent(camera_to_worlds: Tensor) -> float:
    """1.1 times the largest distance of a camera from the cameras' mean: 3D Gaussian Splatting's size of a scene.

    The step size of positions and the thresholds of densification are multiples of it (Kerbl et al. 2023). A capture
    from one point has no extent; 1 is returned then.

    Args:
        camera_to_worlds: [N, 3 or 4, 4].
    """
    positions = camera_to_worlds[:, :3, 3].double()
    if len(positions) == 0:
        return 1.0
    radius = float((positions - positions.mean(dim=0)).norm(dim=-1).max())
    return 1.1 * radius if radius > 1e-6 else 1.0
