# SPDX-License-Identifier: Apache-2.0
"""Convolutions whose taps move (Dai et al., "Deformable Convolutional Networks", ICCV 2017, arXiv 1703.06211, section
2.1), and their modulation (Zhu et al., CVPR 2019, arXiv 1811.11168, section 3.2), in plain torch.

torchvision has them compiled, and that part cannot be loaded beside every torch.
"""

from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor


def sampled(values: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Values between pixels, bilinearly; what lies outside counts as zero, as in a padded convolution. Differentiable.

    Args:
        values: [B, C, H, W].
        rows: [B, h, w] places, where 0 is the middle of the first row. Fractions and places outside are allowed.
        columns: [B, h, w].

    Returns:
        [B, C, h, w].
    """
    height, width = values.shape[2:]
    places = torch.stack([(2 * columns + 1) / width - 1, (2 * rows + 1) / height - 1], dim=-1)
    return F.grid_sample(values, places, mode="bilinear", padding_mode="zeros", align_corners=False)


def deformable_convolution(
    values: Tensor,
    offsets: Tensor,
    weight: Tensor,
    bias: Optional[Tensor] = None,
    modulation: Optional[Tensor] = None,
    padding: int = 0,
) -> Tensor:
    """A convolution of stride 1 in one group, each of whose taps lies an offset away from where it would be.
    Differentiable.

    Args:
        values: [B, C, H, W].
        offsets: [B, 2 K L, H', W'] of the K x L taps in reading order, each one's rows, then its columns, in pixels.
        weight: [D, C, K, L].
        bias: [D].
        modulation: [B, K L, H', W'], by which what taps read is multiplied.
        padding: zeros on every side; H' = H + 2 padding - K + 1, and W' alike.

    Returns:
        [B, D, H', W'].

    Raises:
        ValueError: where shapes do not belong together.
    """
    batch, _, height, width = values.shape
    tall, wide = weight.shape[2:]
    size = (height + 2 * padding - tall + 1, width + 2 * padding - wide + 1)
    if offsets.shape != (batch, 2 * tall * wide, *size):
        raise ValueError(f"Offsets {(batch, 2 * tall * wide, *size)} are wanted, not {tuple(offsets.shape)}.")
    if modulation is not None and modulation.shape != (batch, tall * wide, *size):
        raise ValueError(f"A modulation {(batch, tall * wide, *size)} is wanted, not {tuple(modulation.shape)}.")
    down = torch.arange(size[0], device=values.device, dtype=values.dtype)[:, None] - padding
    across = torch.arange(size[1], device=values.device, dtype=values.dtype) - padding
    moved = offsets.view(batch, tall * wide, 2, *size)
    result = values.new_zeros(batch, len(weight), *size)
    # Tap by tap, so that what is read is never K L times as large as the values.
    for tap in range(tall * wide):
        row, column = divmod(tap, wide)
        read = sampled(values, down + row + moved[:, tap, 0], across + column + moved[:, tap, 1])
        if modulation is not None:
            read = read * modulation[:, tap, None]
        result = result + torch.einsum("dc,bchw->bdhw", weight[:, :, row, column], read)
    return result if bias is None else result + bias.view(1, -1, 1, 1)
