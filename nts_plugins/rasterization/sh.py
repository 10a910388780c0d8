# SPDX-License-Identifier: Apache-2.0
"""What a splat looks like from a camera: spherical harmonics of the viewing direction, in plain torch."""

from typing import Optional

import torch
from torch import Tensor

from nts_plugins.gaussians import Gaussians


def view_colors(gaussians: Gaussians, viewmats: Tensor, sh_degree: Optional[int], visible: Tensor) -> Tensor:
    """Colours [C, N, D] seen from each camera: max(SH(direction) + 0.5, 0), or the plain colours as they are.

    Differentiable with respect to coefficients or colours and, through the direction, means and viewmats.

    Args:
        gaussians: N splats.
        viewmats: [C, 4, 4] world to camera.
        sh_degree: 0 to 3; ignored for plain colours.
        visible: [C, N] splats that the camera does not draw get no colour and no gradient.
    """
    if gaussians.colors is not None:
        return gaussians.colors.expand(visible.shape[0], -1, -1)
    assert sh_degree is not None
    directions = torch.nn.functional.normalize(view_directions(gaussians, viewmats), dim=-1)
    basis = sh_basis(directions, sh_degree)  # [C, N, K]
    colors = torch.einsum("cnk,nkd->cnd", basis, coefficients(gaussians)[:, : basis.shape[-1]])
    return torch.where(visible[..., None], (colors + 0.5).clamp_min(0.0), torch.zeros_like(colors))


def coefficients(gaussians: Gaussians) -> Tensor:
    """All spherical harmonics coefficients [N, K, D], joined where an optimizer keeps the first bands apart."""
    assert gaussians.sh is not None
    return gaussians.sh if gaussians.sh_rest is None else torch.cat([gaussians.sh, gaussians.sh_rest], dim=1)


def view_directions(gaussians: Gaussians, viewmats: Tensor) -> Tensor:
    """Vectors [C, N, 3] from each camera to each splat in the world frame, not normalised. Differentiable."""
    return gaussians.means - camera_centres(viewmats.to(gaussians.means.dtype))[:, None]


def camera_centres(viewmats: Tensor) -> Tensor:
    """Positions [C, 3] in the world of cameras given by [C, 4, 4] world-to-camera matrices. Differentiable."""
    return -torch.linalg.solve(viewmats[:, :3, :3], viewmats[:, :3, 3])


def sh_basis(directions: Tensor, degree: int) -> Tensor:
    """Real spherical harmonics [..., (degree + 1)^2] of unit directions [..., 3], in the order and signs of 3DGS.

    Source: Sloan 2013, "Efficient Spherical Harmonic Evaluation", written out up to degree 3.
    """
    x, y, z = directions.unbind(dim=-1)
    values = [torch.full_like(x, 0.28209479177387814)]
    if degree >= 1:
        values += [-0.4886025119029199 * y, 0.4886025119029199 * z, -0.4886025119029199 * x]
    if degree >= 2:
        values += [
            1.0925484305920792 * x * y,
            -1.0925484305920792 * y * z,
            0.31539156525252005 * (3 * z * z - 1),
            -1.0925484305920792 * x * z,
            0.5462742152960396 * (x * x - y * y),
        ]
    if degree >= 3:
        values += [
            -0.5900435899266435 * y * (3 * x * x - y * y),
            2.890611442640554 * x * y * z,
            -0.4570457994644658 * y * (5 * z * z - 1),
            0.3731763325901154 * z * (5 * z * z - 3),
            -0.4570457994644658 * x * (5 * z * z - 1),
            1.445305721320277 * z * (x * x - y * y),
            -0.5900435899266435 * x * (x * x - 3 * y * y),
        ]
    return torch.stack(values, dim=-1)
