# SPDX-License-Identifier: Apache-2.0
"""L1 and SSIM of a rendered picture against a photograph, fused into two kernels on the CPU."""

from typing import Any, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from nts_plugins.kernels import ssim as kernels
from nts_plugins.kernels.gradients import once_differentiable
from nts_plugins.kernels.threads import run
from nts_plugins.kernels.vectors import LANES


def photometric_loss(prediction: Tensor, target: Tensor, ssim_lambda: float = 0.2) -> Tensor:
    """(1 - lambda) L1 + lambda (1 - SSIM), the loss of 3DGS (Kerbl et al. 2023, section 5, equation 7).

    Differentiable with respect to ``prediction`` only. Deviation: equation 7 prints "D-SSIM"; as in the authors'
    experiments this is 1 - SSIM, not half of it.

    Args:
        prediction: [H, W, C] in [0, 1].
        target: [H, W, C] in [0, 1].
        ssim_lambda: weight of the structural part.
    """
    l1, similarity = l1_and_ssim(prediction, target)
    return (1.0 - ssim_lambda) * l1 + ssim_lambda * (1.0 - similarity)


def ssim(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean structural similarity [] of two pictures [H, W, C] in [0, 1]; see :func:`ssim_reference`.

    Differentiable with respect to ``prediction`` only.
    """
    return l1_and_ssim(prediction, target)[1]


def l1_and_ssim(prediction: Tensor, target: Tensor) -> Tuple[Tensor, Tensor]:
    """Mean absolute error [] and mean structural similarity [] of two pictures [H, W, C] in [0, 1].

    A picture with a side below 11 pixels holds no window; its similarity is 1 and passes no gradient.

    Raises:
        ValueError: when the pictures differ in shape, or the target holds whole numbers.
    """
    if not target.is_floating_point():
        raise ValueError(f"The target is {target.dtype}; pictures are float from 0 to 1: divide by 255.")
    if prediction.shape != target.shape or prediction.ndim != 3:
        raise ValueError(
            f"Pictures must both be [H, W, C]; prediction has {tuple(prediction.shape)}, target {tuple(target.shape)}."
        )
    fits = prediction.shape[1] * prediction.shape[2] >= LANES
    if prediction.device.type == "cpu" and prediction.dtype == torch.float32 and fits:
        return _FusedPhotometric.apply(prediction, target.detach().to(torch.float32))
    return (prediction - target).abs().mean(), ssim_reference(prediction, target.detach())


def ssim_reference(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean structural similarity in plain torch, any float type and device: of all windows of :func:`ssim_map`; 1 where
    the picture holds none. Differentiable with respect to both."""
    similarities = ssim_map(prediction, target)
    return similarities.mean() if similarities.numel() else prediction.new_ones(())


def ssim_map(prediction: Tensor, target: Tensor) -> Tensor:
    """[H - 10, W - 10, C] structural similarity of each window of two pictures [H, W, C], in plain torch.

    Wang et al. 2004 with the 11 x 11 Gaussian window of sigma 1.5, for the windows that lie wholly inside the picture
    and all channels, as pytorch_msssim and nerfstudio compute it. The first one's centre is pixel (5, 5). Empty where
    the picture is smaller than a window. Differentiable with respect to both.
    """
    height, width, channels = prediction.shape
    if min(height, width) < kernels.WINDOW:
        return prediction.new_zeros(0, 0, channels)
    x, y = prediction.permute(2, 0, 1).contiguous(), target.permute(2, 0, 1).contiguous()
    maps = torch.cat([x, y, x * x, y * y, x * y])[None]  # [1, 5 C, H, W]
    taps = torch.from_numpy(kernels.gaussian_taps()).to(prediction).expand(5 * channels, 1, -1)
    # Variances are small differences of large numbers, and cuDNN convolves with the ten bits of TF32 unless told
    # otherwise. A depthwise convolution of contiguous maps is one that torch does itself, in full precision.
    blurred = F.conv2d(F.conv2d(maps, taps[..., None], groups=5 * channels), taps[:, :, None], groups=5 * channels)
    a, b, a_squared, b_squared, product = blurred[0].chunk(5)
    variances = a_squared - a * a + b_squared - b * b
    covariance = product - a * b
    luminance = (2 * a * b + kernels.C1) / (a * a + b * b + kernels.C1)
    return (luminance * (2 * covariance + kernels.C2) / (variances + kernels.C2)).permute(1, 2, 0)


class _FusedPhotometric(torch.autograd.Function):
    """(L1, SSIM) of float32 pictures on the CPU; differentiable with respect to the first."""

    @staticmethod
    def forward(ctx: Any, prediction: Tensor, target: Tensor) -> Tuple[Tensor, Tensor]:
        height, width, channels = prediction.shape
        x, y = (picture.detach().contiguous().view(-1).numpy() for picture in (prediction, target))
        row, taps = width * channels, kernels.gaussian_taps()
        l1_sums = torch.zeros(height, dtype=torch.float64)
        run(kernels.l1_rows, x, y, row, l1_sums.numpy())
        windows = max(0, height - kernels.WINDOW + 1) if width >= kernels.WINDOW else 0
        columns = (width - kernels.WINDOW + 1) * channels
        count = windows * columns
        differentiable = ctx.needs_input_grad[0] and count > 0
        partials = torch.empty(3 * windows * kernels.padded(columns) if differentiable else 0)
        similarity = torch.ones((), dtype=torch.float64)
        if count > 0:
            sums = torch.zeros(windows, dtype=torch.float64)
            scale = torch.tensor(1.0 / count).numpy()[()]
            run(kernels.ssim_rows, x, y, row, channels, taps, scale, sums.numpy(), partials.numpy())
            similarity = sums.sum() / count
        ctx.save_for_backward(prediction, target)
        ctx.partials, ctx.windows = partials, windows
        return (l1_sums.sum() / max(1, height * row)).float(), similarity.float()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_l1: Tensor, grad_ssim: Tensor) -> Tuple[Tensor, None]:  # type: ignore[override]
        height, width, channels = ctx.saved_tensors[0].shape
        x, y = (picture.detach().contiguous().view(-1).numpy() for picture in ctx.saved_tensors)
        out = torch.empty(height, width, channels)
        l1_weight = (grad_l1.float() / out.numel()).numpy()[()]
        run(
            kernels.gradient_rows, x, y, width * channels, channels, kernels.gaussian_taps(), ctx.partials.numpy(),
            ctx.windows, grad_ssim.float().numpy()[()], l1_weight, out.view(-1).numpy(),
        )  # fmt: skip
        return out, None
