# SPDX-License-Identifier: Apache-2.0
"""Local textures on the CPU backend: what the kernels of ``kernels.textured`` read, and their gradients."""

from typing import Any, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor

from nts_plugins.gaussians import Gaussians
from nts_plugins.kernels import (
    texture_places,
    texture_rays,
    texture_sampling,
    texture_tanh,
    textured,
    textured_gradient,
)
from nts_plugins.kernels.blocks import POWER_TABLE
from nts_plugins.kernels.gradients import once_differentiable
from nts_plugins.kernels.threads import run
from nts_plugins.rasterization._cpu_projection import as_array, camera_pieces, flat, pose_and_lens, sum_of_pieces
from nts_plugins.rasterization.textures import Textures

_TANH = texture_tanh.tanh_constants(POWER_TABLE)


class Skin(NamedTuple):
    """The textures of one camera, but for what has a gradient."""

    row_of: np.ndarray  # [N] int32, -1 where a splat has none
    n_planes: int
    resolution: int
    amplitudes: np.ndarray  # [4]
    tanh: bool
    moves: bool

    @property
    def forward_kernel(self) -> Any:
        return textured.composite_tanh if self.tanh else textured.composite_plain

    def arrays(self, vectors: Tensor, planes: Tensor, rays: Tensor) -> Tuple[Any, ...]:
        """What both kernels read of the textures."""
        flat_rays = rays.detach().contiguous().numpy().reshape(-1)
        texels = flat(vectors)
        if not self.tanh:
            width = texture_sampling.table_width(self.resolution)
            tables = np.empty(len(texels) // self.resolution * width, np.float32)
            run(texture_sampling.tabulate, texels, self.resolution, tables)
            texels = tables
        return (
            *(self.row_of, flat_rays, texels, flat(planes)),
            *(self.amplitudes, self.n_planes, self.resolution, _TANH),
        )

    def pull_back(
        self,
        texture: Sequence[Tensor],
        drawn: Tuple[Any, ...],
        first_slot: np.ndarray,
        incoming: Tuple[Any, ...],
        records: np.ndarray,
    ) -> Tuple[Tensor, Tensor, Tensor]:
        """Gradients of vectors, planes and rays; fills the records of the splats."""
        vectors, planes, rays = texture
        owners = (self.row_of >= 0).nonzero()[0]
        counts = np.zeros(len(vectors), np.int64)
        counts[self.row_of[owners]] = (first_slot[1:] - first_slot[:-1])[owners]
        first_record = np.concatenate([[0], np.cumsum(counts)])
        size = textured_gradient.texture_record(self.n_planes, self.resolution)
        texture_records = np.empty(first_record[-1] * size, np.float32)
        run(
            textured_gradient.backward[self.tanh, self.moves], *drawn, *self.arrays(*texture), first_slot,
            first_record, *incoming, records, texture_records,
        )  # fmt: skip
        grad_vectors, grad_planes = np.empty(vectors.shape, np.float32), np.empty(planes.shape, np.float32)
        grad_rays = np.empty(rays.shape, np.float64)
        flat_grads = (array.reshape(-1) for array in (grad_vectors, grad_planes, grad_rays))
        run(
            textured_gradient.gather_textures, first_record, texture_records, self.n_planes, self.resolution,
            *flat_grads,
        )  # fmt: skip
        return torch.from_numpy(grad_vectors), torch.from_numpy(grad_planes), torch.from_numpy(grad_rays)


class _Rays(torch.autograd.Function):
    """``textures.splat_rays`` of one camera; differentiable with respect to means, quats, scales and viewmat."""

    @staticmethod
    def forward(ctx: Any, means, quats, scales, viewmat, camera, splats, faces):
        rays = np.empty((len(splats), texture_places.RAYS), np.float64)
        arrays = (as_array(means), as_array(quats), as_array(scales))
        run(texture_rays.find_rays, *arrays, splats, faces, camera, rays.reshape(-1))
        ctx.save_for_backward(means, quats, scales)
        ctx.seen = (splats, faces, camera)
        return torch.from_numpy(rays)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_rays):
        arrays = [as_array(tensor) for tensor in ctx.saved_tensors]
        grads = [np.zeros_like(array) for array in arrays]
        pieces = camera_pieces(len(grad_rays))
        run(texture_rays.pull_rays, *arrays, *ctx.seen, grad_rays.contiguous().numpy().reshape(-1), *grads, pieces)
        grad_viewmat = sum_of_pieces(pieces) if ctx.needs_input_grad[3] else None
        return (*(torch.from_numpy(array) for array in grads), grad_viewmat, None, None, None)


Inputs = Tuple[Optional[Tensor], Optional[Tensor], Optional[Tensor]]


def texture_inputs(
    textures: Optional[Textures], gaussians: Gaussians, viewmat: Tensor, K: Tensor
) -> Tuple[Inputs, Optional[Skin]]:
    """One camera's textures as ``_cpu_composite.Composite`` wants them: vectors, planes and rays, and the rest."""
    if textures is None:
        return (None, None, None), None
    m, row_of = len(textures), np.full(len(gaussians), -1, np.int32)
    row_of[textures.splats.numpy()] = np.arange(m, dtype=np.int32)
    amplitudes = np.array(textures.amplitudes, np.float32)
    sizes = textures.n_planes, textures.resolution
    skin = Skin(row_of, *sizes, amplitudes, textures.product_tanh, textures.moves_splats)
    planes = textures.plane_weights().to(torch.float32)
    moved = gaussians if textures.moves_splats else gaussians.detach()
    rays = _Rays.apply(
        moved.means,
        moved.quats,
        moved.scales,
        viewmat if textures.moves_splats else viewmat.detach(),
        pose_and_lens(viewmat, K),
        textures.splats.numpy(),
        np.zeros(m, np.int64) if textures.faces is None else textures.faces.numpy(),
    )
    return (textures.vectors.to(torch.float32), planes, rays), skin
