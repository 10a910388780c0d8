# SPDX-License-Identifier: Apache-2.0
"""Quaternions: as rotation matrices, and one after the other."""

import torch
from torch import Tensor


def rotation_matrices(quats: Tensor) -> Tensor:
    """Rotation matrices [..., 3, 3] of quaternions w, x, y, z [..., 4] of any length but 0. Differentiable."""
    w, x, y, z = torch.nn.functional.normalize(quats, dim=-1).unbind(dim=-1)
    entries = [
        *(1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        *(2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        *(2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    ]
    return torch.stack(entries, dim=-1).unflatten(-1, (3, 3))


def compose(second: Tensor, first: Tensor) -> Tensor:
    """Quaternions w, x, y, z [..., 4] of turning by ``first``, then by ``second``, in axes that stand still.

    Hamilton's product; lengths are multiplied. Differentiable.
    """
    w, v, W, V = first[..., :1], first[..., 1:], second[..., :1], second[..., 1:]
    real = W * w - (V * v).sum(dim=-1, keepdim=True)
    return torch.cat([real, W * v + w * V + torch.linalg.cross(V, v)], dim=-1)
