# SPDX-License-Identifier: Apache-2.0
"""Weights of the few words that a splat keeps out of many: the softmax of its largest logits."""

from typing import Tuple

import torch
from torch import Tensor


def kept_weights(logits: Tensor, kept: int) -> Tuple[Tensor, Tensor]:
    """The largest ``kept`` logits of each row: their softmax, and which they are; both [..., kept], largest first.

    Weights are differentiable.

    Args:
        logits: [..., K].
        kept: from 1 to K.
    """
    if _has_kernels(logits) and not (torch.is_grad_enabled() and logits.requires_grad):
        from nts_plugins.language._kept_kernels import largest

        return largest(logits, kept)[:2]
    found = logits.topk(kept, dim=-1)
    return found.values.softmax(dim=-1), found.indices


def dense_weights(logits: Tensor, kept: int) -> Tensor:
    """[..., K] the same weights in their places, zeros elsewhere. Differentiable, on the CPU once."""
    if not _has_kernels(logits):
        return dense_reference(logits, kept)
    from nts_plugins.language._kept_kernels import DenseWeights

    return DenseWeights.apply(logits, kept)


def dense_reference(logits: Tensor, kept: int) -> Tensor:
    """The same in plain torch, any float type and device. Differentiable."""
    found = logits.topk(kept, dim=-1)
    return torch.zeros_like(logits).scatter(-1, found.indices, found.values.softmax(dim=-1))


def _has_kernels(logits: Tensor) -> bool:
    return logits.device.type == "cpu" and logits.dtype == torch.float32
