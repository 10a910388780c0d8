# SPDX-License-Identifier: Apache-2.0
"""Reading planes, small networks, and bounds: kernels on the CPU, torch elsewhere, which is also their reference."""

from typing import Any, List, Optional, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor

from nts_plugins.kernels import networks, planes
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
        # numpy gets zeros from the system, in large pages; torch writes seven megabytes of them.
        grads = np.zeros(ctx.shape, np.float32)
        run(planes.add_to_planes, _flat(points), _flat(grad_out), ctx.shape[3], ctx.shape[1], grads.reshape(-1))
        return torch.from_numpy(grads), None


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


def through_network(values: Tensor, layers: Sequence[torch.nn.Linear], frequency: Optional[float]) -> Optional[Tensor]:
    """[M, outputs] of values [M, inputs]: linear layers with ReLU between them or, with a ``frequency``, sines, of
    which the first takes so many times its argument. None where torch has to do it.

    Differentiable with respect to values and layers.
    """
    parameters = [each for layer in layers for each in (layer.weight, layer.bias)]
    widths = [layers[0].in_features, *(layer.out_features for layer in layers)]
    # torch explains what does not fit, and is faster where layers are wide.
    fits = values.ndim == 2 and values.shape[1] == widths[0] and max(widths) <= networks.WIDEST
    if (
        not fits
        or not _on_cpu(values, *parameters)
        or any(each.dtype != torch.float32 for each in (values, *parameters))
    ):
        return None
    return _ThroughNetwork.apply(values, frequency, *parameters)


class _ThroughNetwork(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, frequency: Optional[float], *parameters: Tensor) -> Tensor:
        widths = np.array([values.shape[1], *(len(bias) for bias in parameters[1::2])], np.int64)
        kind = networks.RELU if frequency is None else networks.SINE
        network = (widths, kind, np.float32(1.0 if frequency is None else frequency), _packed(parameters))
        outputs = np.empty((len(values), widths[-1]), np.float32)
        run(networks.network_forward, _flat(values), *network, outputs.reshape(-1))
        ctx.save_for_backward(values, *parameters)
        ctx.network = network
        return torch.from_numpy(outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_outputs: Tensor):  # type: ignore[override]
        values, *parameters = ctx.saved_tensors
        widths = ctx.network[0]
        grad_values = np.empty(values.shape if ctx.needs_input_grad[0] else (0, 0), np.float32)
        pieces = -(-len(values) // networks.PIECE)
        grads = np.empty((pieces, networks.gradients_size(widths)), np.float32)
        run(
            networks.network_backward, _flat(values), *ctx.network, _transposed(parameters[::2]), _flat(grad_outputs),
            grad_values.reshape(-1), grads.reshape(-1),
        )  # fmt: skip
        by_layer = _unpacked(grads.sum(axis=0), parameters)
        return torch.from_numpy(grad_values) if ctx.needs_input_grad[0] else None, None, *by_layer


def _packed(parameters: Sequence[Tensor]) -> np.ndarray:
    """Weights [outputs, inputs] and biases, in turn, as ``networks.network_forward`` wants them."""
    parts = []
    for weight, bias in zip(parameters[::2], parameters[1::2], strict=True):
        outputs, inputs = weight.shape
        part = np.zeros((inputs + 1, networks.whole(outputs)), np.float32)
        part[:inputs, :outputs], part[inputs, :outputs] = weight.detach().numpy().T, bias.detach().numpy()
        parts.append(part.reshape(-1))
    return np.concatenate(parts)


def _transposed(weights: Sequence[Tensor]) -> np.ndarray:
    """Weights [outputs, inputs], as ``networks.network_backward`` wants them."""
    parts = []
    for weight in weights:
        part = np.zeros((len(weight), networks.whole(weight.shape[1])), np.float32)
        part[:, : weight.shape[1]] = weight.detach().numpy()
        parts.append(part.reshape(-1))
    return np.concatenate(parts)


def _unpacked(grads: np.ndarray, parameters: Sequence[Tensor]) -> Tuple[Tensor, ...]:
    """The gradients of weights and biases, in turn, out of what ``networks.network_backward`` writes."""
    found: List[Tensor] = []
    start = 0
    for weight in parameters[::2]:
        outputs, inputs = weight.shape
        rows, width = networks.whole(inputs), networks.whole(outputs)
        part = grads[start : start + (rows + 1) * width].reshape(rows + 1, width)
        found += [torch.from_numpy(part[:inputs, :outputs].T.copy()), torch.from_numpy(part[rows, :outputs].copy())]
        start += (rows + 1) * width
    return tuple(found)


def _on_cpu(*tensors: Tensor) -> bool:
    return all(tensor.device.type == "cpu" for tensor in tensors)


def _flat(tensor: Tensor) -> np.ndarray:
    return tensor.detach().contiguous().numpy().reshape(-1)
