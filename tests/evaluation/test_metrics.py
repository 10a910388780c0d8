# SPDX-License-Identifier: Apache-2.0
"""Metrics against values computed by hand or by others, and LPIPS with and without its weights."""

import json
import math
import socket
from pathlib import Path

import pytest
import torch
from pytorch_msssim import ssim as reference_ssim

from nts_plugins import compat
from nts_plugins.evaluation import images
from nts_plugins.evaluation.metrics import Lpips, psnr, ssim


def pair(height: int = 40, width: int = 56) -> "tuple[torch.Tensor, torch.Tensor]":
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(height, width, 3, generator=generator)
    return (target + 0.1 * torch.randn(target.shape, generator=generator)).clamp(0, 1), target


def test_psnr_by_hand() -> None:
    target = torch.zeros(4, 5, 3)
    assert float(psnr(target + 0.1, target)) == pytest.approx(20.0, abs=1e-4)
    assert float(psnr(target, target)) == pytest.approx(100.0), "a finite number for equal pictures"


def test_ssim_is_that_of_pytorch_msssim() -> None:
    prediction, target = pair()
    planes = [picture.permute(2, 0, 1)[None] for picture in (prediction, target)]
    assert float(ssim(prediction, target)) == pytest.approx(float(reference_ssim(*planes, data_range=1.0)), abs=1e-5)
    assert float(ssim(target, target)) == pytest.approx(1.0, abs=1e-5)


def test_comparing_clamps_what_was_drawn() -> None:
    prediction, target = pair()
    assert images.compare(prediction * 3, target) == images.compare((prediction * 3).clamp(0, 1), target)
    assert list(images.compare(prediction, target)) == ["psnr", "ssim"]


def halves(height: int = 60, width: int = 80, *, error: float = 0.1) -> "tuple[torch.Tensor, torch.Tensor]":
    """A picture, and another one with errors of one size all over."""
    generator = torch.Generator().manual_seed(0)
    target = 0.2 + 0.6 * torch.rand(height, width, 3, generator=generator)
    signs = torch.randint(0, 2, target.shape, generator=generator) * 2.0 - 1.0
    return target + error * signs, target


def rectangle(rows: slice, columns: slice) -> torch.Tensor:
    mask = torch.zeros(60, 80, 1, dtype=torch.bool)
    mask[rows, columns] = True
    return mask


def test_inside_a_full_mask_is_everywhere() -> None:
    prediction, target = pair()
    full = torch.ones(40, 56, 1, dtype=torch.bool)
    assert images.compare_inside(prediction, target, full) == pytest.approx(images.compare(prediction, target))
    beyond = images.compare_inside(prediction * 3, target, full)
    assert beyond == pytest.approx(images.compare(prediction * 3, target)), "clamped, too"


@pytest.mark.parametrize(
    "rows, columns", [(slice(0, 60), slice(0, 8)), (slice(20, 40), slice(10, 40)), (slice(7), slice(9))]
)
def test_how_much_a_mask_covers_does_not_change_psnr(rows: slice, columns: slice) -> None:
    prediction, target = halves()
    inside = images.compare_inside(prediction, target, rectangle(rows, columns))
    assert inside["psnr"] == pytest.approx(20.0, abs=1e-3)
    # What lies outside does not count, whatever it is.
    mask = rectangle(rows, columns)
    spoilt = torch.where(mask, prediction, torch.zeros(3))
    assert images.compare_inside(spoilt, target, mask) == pytest.approx(inside)


def test_psnr_inside_is_that_of_these_pixels() -> None:
    prediction, target = pair(60, 80)
    mask = torch.rand(60, 80, 1, generator=torch.Generator().manual_seed(3)) < 0.3
    inside = images.compare_inside(prediction, target, mask)
    assert inside["psnr"] == pytest.approx(float(psnr(prediction[mask[..., 0]], target[mask[..., 0]])), abs=1e-3)
    assert list(inside) == ["psnr", "ssim"]


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_ssim_inside_does_not_depend_on_the_shape_of_a_mask(share: float) -> None:
    """Of errors that are alike everywhere: a mask of scattered pixels says about what one square of as many says."""
    prediction, target = halves()
    scattered = torch.rand(60, 80, 1, generator=torch.Generator().manual_seed(2)) < share
    side = int((60 * 80 * share) ** 0.5)
    square = rectangle(slice(5, 5 + side), slice(5, 5 + side))
    values = [images.compare_inside(prediction, target, mask)["ssim"] for mask in (scattered, square)]
    plain = images.compare(prediction, target)["ssim"]
    assert all(plain - 0.02 < value < 1 for value in values)
    # No window has its centre at the picture's rim, and of one pixel in the middle there is one window.
    rim = rectangle(slice(0, 3), slice(0, 80))
    assert images.compare_inside(prediction, target, rim)["ssim"] < 1
    one = rectangle(slice(30, 31), slice(40, 41))
    own = torch.where(one, prediction, target)
    expected = float(ssim(own[25:36, 35:46].contiguous(), target[25:36, 35:46].contiguous()))
    assert images.compare_inside(prediction, target, one)["ssim"] == pytest.approx(expected, abs=1e-5)


def test_ssim_inside_is_about_that_of_these_pixels() -> None:
    """Of errors that are alike everywhere, but for windows at the border, which are more than pixels inside."""
    prediction, target = halves()
    plain = images.compare(prediction, target)["ssim"]
    for columns in (20, 40, 60, 80):
        inside = images.compare_inside(prediction, target, rectangle(slice(0, 60), slice(0, columns)))["ssim"]
        assert inside == pytest.approx(plain, abs=0.2 * (1 - plain)), columns
    assert images.compare_inside(target, target, rectangle(slice(9), slice(9)))["ssim"] == pytest.approx(1.0, abs=1e-4)


def test_black_outside_of_a_small_mask_flatters() -> None:
    """Feat2GS's program averages over all of the picture, where pixels that do not count are black in both."""
    prediction, target = halves()
    mask = rectangle(slice(0, 60), slice(0, 8))
    assert float(mask.float().mean()) == pytest.approx(0.1)
    published = images.compare(prediction * mask, target * mask)
    inside = images.compare_inside(prediction, target, mask)
    assert published["psnr"] == pytest.approx(inside["psnr"] + 10.0, abs=1e-3), "a tenth of the error: ten decibel"
    assert 1 - published["ssim"] < 0.3 * (1 - inside["ssim"])


def test_lpips_inside_is_divided_by_what_a_mask_covers() -> None:
    prediction, target = halves()
    mask = rectangle(slice(0, 60), slice(0, 20))
    asked = []

    def lpips(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        asked.append((one, other))
        return (one - other).abs().mean()

    inside = images.compare_inside(prediction, target, mask, lpips)  # type: ignore[arg-type]
    assert inside["lpips"] == pytest.approx(0.1, rel=1e-4)
    assert torch.equal(asked[0][0], torch.where(mask, prediction, target)) and torch.equal(asked[0][1], target)
    nothing = images.compare_inside(prediction, target, mask, lambda *_: None)  # type: ignore[arg-type]
    assert list(nothing) == ["psnr", "ssim"]


def test_average_by_hand() -> None:
    rows = [{"psnr": 20.0, "ssim": 0.5}, {"psnr": 22.0, "ssim": 0.7}]
    assert images.average(rows) == pytest.approx({"psnr": 21.0, "ssim": 0.6})
    assert images.average(rows, with_std=True)["psnr_std"] == pytest.approx(math.sqrt(2.0))
    assert images.average(rows[:1], with_std=True)["psnr_std"] == 0.0
    assert images.average([{"fps": 10.0}, {"fps": 30.0}])["fps"] == pytest.approx(2 / (1 / 10 + 1 / 30))


def test_rows_are_written_with_their_protocol(tmp_path: Path) -> None:
    images.write_rows(tmp_path / "rows.json", [{"image": "a.png", "psnr": 20.0}])
    written = json.loads((tmp_path / "rows.json").read_text())
    assert written["rows"] == [{"image": "a.png", "psnr": 20.0}] and "SSIM 11x11" in written["protocol"]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of downloaded weights, and no network."""

    def refuse(*_arguments: object, **_options: object) -> None:
        raise AssertionError("something asked the network")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(socket.socket, "connect", refuse)
    return tmp_path / "checkpoints"


def test_without_weights_lpips_is_left_out_with_one_message(hub: Path, capsys: pytest.CaptureFixture) -> None:
    lpips = Lpips()
    for _ in range(3):
        assert list(images.compare(*pair(), lpips)) == ["psnr", "ssim"]
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("LPIPS is left out") == 1
    file, url = compat.lpips_backbone("alex")
    assert file.name.startswith("alexnet") and file.parent == hub
    assert file.name in said and url in said.replace(" ", "") and str(hub) in said.replace(" ", "")


def test_with_weights_lpips_is_measured(hub: Path) -> None:
    import torchvision.models

    file, _ = compat.lpips_backbone("squeeze")
    hub.mkdir()
    torch.manual_seed(0)
    torch.save(torchvision.models.squeezenet1_1(weights=None).state_dict(), file)
    lpips = Lpips("squeeze")
    prediction, target = pair(64, 64)
    value = images.compare(prediction, target, lpips)["lpips"]
    assert math.isfinite(value) and value > 0
    assert images.compare(target, target, lpips)["lpips"] == pytest.approx(0.0, abs=1e-6)
    assert images.compare(prediction, target, lpips)["lpips"] == pytest.approx(value), "each picture by itself"


def test_damaged_weights_leave_lpips_out(hub: Path, capsys: pytest.CaptureFixture) -> None:
    file, _ = compat.lpips_backbone("alex")
    hub.mkdir()
    file.write_bytes(b"half of a download")
    lpips = Lpips()
    for _ in range(2):
        assert list(images.compare(*pair(64, 64), lpips)) == ["psnr", "ssim"]
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("LPIPS is left out") == 1 and "cannot be read" in said and file.name in said


def test_pictures_too_small_for_lpips_have_none() -> None:
    assert Lpips("squeeze")(*pair(20, 40)) is None
