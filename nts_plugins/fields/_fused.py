# SPDX-License-Identifier: Apache-2.0
"""What surrounds the matrix products of fields: kernels on the CPU, torch elsewhere, which is also their reference."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from nts_plugins.kernels import planes
from nts_plugins.kernels.blocks import POWER_TABLE
from nts_plugins.kernels.gradients import once_differentiable
from nts_plugins.kernels.threads import run

PLANES = ((0, 1), (1, 2), (2, 0))
"""The axes of each plane: xy, yz, zx."""


def read_planes(features: Tensor, points: Tensor) -> Tensor:
    """[M, 3 C] features of points [M, 3] in [-1, 1]^3 on planes [3, R, R, C], whose rows lie along the second axis.

    Differentiable with respect to both; on the CPU the kernel leaves points out, so torch reads where they need it.
    """
    fits = features.shape[-1] % planes.CHANNELS == 0 and features.dtype == torch.float32
    if _on_cpu(features, points) and fits and not points.requires_grad:
        return _ReadPlanes.apply(features, points)
    places = torch.stack([points[:, axes] for axes in PLANES])[:, None]  # [3, 1, M, 2]
    found = torch.nn.functional.grid_sample(
        features.permute(0, 3, 1, 2), places, padding_mode="border", align_corners=True
    )  # [3, C, 1, M]
    return found[:, :, 0].flatten(0, 1).T


class _ReadPlanes(torch.autograd.Function):
    """Differentiable with respect to features."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, points: Tensor) -> Tensor:
        resolution, channels = features.shape[1], features.shape[3]
        out = np.empty((len(points), 3 * channels), np.float32)
        run(planes.read_planes, _flat(points), _flat(features), channels, resolution, out.reshape(-1))
        ctx.save_for_backward(points)
        ctx.shape = features.shape
        return torch.from_numpy(out)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor):
        (points,) = ctx.saved_tensors
        grads = torch.zeros(ctx.shape)
        run(planes.add_to_planes, _flat(points), _flat(grad_out), ctx.shape[3], ctx.shape[1], grads.numpy().reshape(-1))
        return grads, None


def bounded(color: Tensor, opacity: Tensor) -> Tensor:
    """[..., 4] tanh of colours [..., 3] and opacities [..., 1], side by side. Differentiable."""
    if _on_cpu(color, opacity) and color.dtype == torch.float32:
        return _Bounded.apply(color, opacity)
    return torch.cat([color, opacity], dim=-1).tanh()


class _Bounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, color: Tensor, opacity: Tensor) -> Tensor:
        out = torch.empty(*color.shape[:-1], 4)
        texels = color[0].numel() // 3 if len(color) else 1
        run(planes.bound_texels, _flat(color), _flat(opacity), texels, POWER_TABLE, _flat(out))
        ctx.save_for_backward(out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor):
        (out,) = ctx.saved_tensors
        grad_color, grad_opacity = out.new_empty(*out.shape[:-1], 3), out.new_empty(*out.shape[:-1], 1)
        texels = out[0].numel() // 4 if len(out) else 1
        run(planes.unbound_texels, _flat(out), _flat(grad_out), texels, _flat(grad_color), _flat(grad_opacity))
        return grad_color, grad_opacity


def _on_cpu(*tensors: Tensor) -> bool:
    return all(tensor.device.type == "cpu" for tensor in tensors)


def _flat(tensor: Tensor) -> np.ndarray:
    return tensor.detach().contiguous().numpy().reshape(-1)
