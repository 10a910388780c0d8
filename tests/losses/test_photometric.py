# SPDX-License-Identifier: Apache-2.0
"""The fused loss equals the plain one in float64, values and gradients."""

import pytest
import torch

from nts_plugins.losses import l1_and_ssim, photometric_loss, ssim, ssim_reference


def pictures(height: int, width: int, channels: int = 3, seed: int = 0) -> "tuple[torch.Tensor, torch.Tensor]":
    """A smooth random picture and a disturbed copy of it, [H, W, C] in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, channels, max(2, height // 6), max(2, width // 6), generator=generator)
    target = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")[0].permute(1, 2, 0)
    noise = 0.1 * torch.randn(height, width, channels, generator=generator)
    return (target + noise).clamp(0, 1).contiguous(), target.contiguous()


@pytest.mark.parametrize("shape", [(11, 11, 3), (12, 31, 3), (37, 23, 1), (40, 50, 4), (16, 64, 3)])
def test_equals_the_reference(shape: "tuple[int, int, int]") -> None:
    prediction, target = pictures(*shape)
    exact = prediction.double().requires_grad_()
    expected = 0.8 * (exact - target).abs().mean() + 0.2 * (1 - ssim_reference(exact, target.double()))
    expected.backward()
    found = prediction.clone().requires_grad_()
    loss = photometric_loss(found, target, 0.2)
    loss.backward()
    assert abs(loss.item() - expected.item()) < 1e-6
    assert (found.grad - exact.grad).norm() < 2e-5 * exact.grad.norm()


def test_gradient_of_the_reference() -> None:
    prediction, target = (picture.double() for picture in pictures(12, 13, 2))
    assert torch.autograd.gradcheck(lambda p: ssim_reference(p, target), prediction.requires_grad_())


def test_equals_pytorch_msssim() -> None:
    """The number nerfstudio reports."""
    from pytorch_msssim import SSIM

    prediction, target = pictures(45, 37)
    judge = SSIM(data_range=1.0, size_average=True, channel=3)
    expected = judge(prediction.permute(2, 0, 1)[None], target.permute(2, 0, 1)[None])
    assert abs(float(ssim(prediction, target)) - float(expected)) < 1e-5


def test_equal_pictures() -> None:
    prediction, _ = pictures(20, 20)
    l1, similarity = l1_and_ssim(prediction, prediction)
    assert float(l1) == 0.0 and float(similarity) == pytest.approx(1.0, abs=1e-6)


def test_picture_smaller_than_a_window() -> None:
    prediction, target = pictures(8, 30)
    found = prediction.clone().requires_grad_()
    l1, similarity = l1_and_ssim(found, target)
    assert float(similarity) == 1.0
    (l1 + similarity).backward()
    assert torch.equal(found.grad, torch.sign(prediction - target) / prediction.numel())


def test_does_not_depend_on_threads() -> None:
    prediction, target = pictures(64, 48)
    before, results = torch.get_num_threads(), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found = prediction.clone().requires_grad_()
        loss = photometric_loss(found, target)
        loss.backward()
        results.append((loss.detach(), found.grad))
    torch.set_num_threads(before)
    assert torch.equal(results[0][0], results[1][0]) and torch.equal(results[0][1], results[1][1])


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="prediction has"):
        photometric_loss(torch.zeros(12, 12, 3), torch.zeros(12, 13, 3))


@pytest.mark.gpu
@pytest.mark.parametrize("channels", [1, 3])
def test_full_precision_on_a_gpu(channels: int) -> None:
    """Bright flat pictures, where the ten bits of TF32 would give a similarity of 1.5."""
    flat = torch.full((64, 64, channels), 0.9, dtype=torch.float64)
    expected = ssim_reference(flat + 0.02, flat)
    device = torch.device("cuda")
    found = ssim((flat + 0.02).to(device, torch.float32), flat.to(device, torch.float32))
    assert abs(float(found) - float(expected)) < 1e-3


def test_a_change_before_the_gradient_is_noticed() -> None:
    prediction = torch.rand(20, 20, 3, requires_grad=True)
    held = prediction * 1.0
    loss = photometric_loss(held, torch.rand(20, 20, 3))
    with torch.no_grad():
        held.mul_(0.5)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_no_second_derivatives_are_made_up() -> None:
    prediction = torch.rand(20, 20, 3, requires_grad=True)
    with pytest.raises(RuntimeError, match="second derivatives"):
        torch.autograd.grad(photometric_loss(prediction, torch.rand(20, 20, 3)), prediction, create_graph=True)


def test_targets_of_whole_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="divide by 255"):
        photometric_loss(torch.rand(20, 20, 3), torch.zeros(20, 20, 3, dtype=torch.uint8))
