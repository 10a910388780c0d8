# SPDX-License-Identifier: Apache-2.0
"""The CPU's way to :mod:`nts_plugins.language.kept`. Imported when it is called: recipes must not bring numba along."""

from typing import Any, Tuple

import torch
from torch import Tensor

from nts_plugins.kernels.gradients import once_differentiable
from nts_plugins.kernels.kept import keep_largest, kept_gradient
from nts_plugins.kernels.threads import run


def largest(logits: Tensor, kept: int, dense: bool = False) -> Tuple[Tensor, Tensor, Tensor]:
    """Weights and ids [..., kept], and the weights in their places [..., K] where they are wanted. No gradient."""
    rows = logits.detach().contiguous()
    weights = torch.empty(*rows.shape[:-1], kept)
    ids = torch.empty(*rows.shape[:-1], kept, dtype=torch.int64)
    placed = torch.empty(rows.shape if dense else 0)
    run(keep_largest, rows.view(-1).numpy(), *_flat(weights, ids), placed.view(-1).numpy())
    return weights, ids, placed


class DenseWeights(torch.autograd.Function):
    """Weights in their places; differentiable with respect to the logits."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, kept: int) -> Tensor:
        weights, ids, placed = largest(logits, kept, dense=True)
        ctx.save_for_backward(weights, ids)
        return placed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tuple[Tensor, None]:  # type: ignore[override]
        weights, ids = ctx.saved_tensors
        out = torch.empty(gradient.shape)
        run(kept_gradient, gradient.contiguous().view(-1).numpy(), *_flat(weights, ids), out.view(-1).numpy())
        return out, None


def _flat(weights: Tensor, ids: Tensor) -> Tuple[Any, Any]:
    kept = weights.shape[-1]
    return weights.view(-1, kept).numpy(), ids.view(-1, kept).numpy()
