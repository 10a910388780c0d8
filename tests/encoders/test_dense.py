# SPDX-License-Identifier: Apache-2.0
"""Models of dense features by name, how pictures are shown to them, and what is said where something is missing."""

import sys
from importlib import import_module
from pathlib import Path
from typing import Any, List, Optional

import pytest
import torch
from torch import Tensor

from nts_plugins.encoders import dense, patch_maps
from nts_plugins.encoders.base import DenseEncoder
from nts_plugins.encoders.dense import IMAGENET, known, load_dense, normalised, register, shown
from nts_plugins.encoders.settings import DenseSettings
from nts_plugins.errors import InputError
from tests.encoders.maps import check_map, picture

OF_FEAT2GS = {
    "clip_b16",
    "dino_b16",
    "dinov2_b14",
    "dust3r",
    "mae_b16",
    "mast3r",
    "midas_l16",
    "radio",
    "sam_base",
    "sd",
    "vggt_d",
    "vggt_e",
}


class Means(patch_maps.PatchMap):
    """Colours of patches of 8 pixels, in the middle."""

    def __init__(self, settings: DenseSettings, device: torch.device, option: str = "") -> None:
        super().__init__(torch.nn.Conv2d(3, 5, 8, stride=8), settings, device, patch_maps.OF_IMAGENET, 8)

    def _tokens(self, pictures: Tensor) -> Tensor:
        return self.model(pictures).flatten(2).transpose(1, 2)


def nothing(settings: DenseSettings, device: torch.device, option: str) -> Any:
    return torch.nn.Linear(1, 1)


# ---- names


def test_models_of_the_paper_have_names() -> None:
    assert OF_FEAT2GS <= set(known()) and known() == sorted(known())
    for module in set(dense._MODULES.values()):
        assert callable(import_module(f"nts_plugins.encoders.{module}").load)


def test_importing_the_names_imports_no_library() -> None:
    import subprocess

    program = (
        "import sys, nts_plugins.encoders.vision_transformers, nts_plugins.encoders.pointmap_networks, "
        "nts_plugins.encoders.diffusion_features as _; "
        "print([name for name in ('transformers', 'diffusers', 'open_clip', 'segment_anything', 'timm', 'dust3r') "
        "if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_an_unknown_model_is_told_which_there_are() -> None:
    with pytest.raises(InputError, match=r"no model 'nobody'.*clip_b16.*vggt_e.*package.module:function"):
        load_dense(DenseSettings("nobody"))


def test_models_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dense, "_OWN", {})
    found = load_dense(DenseSettings(f"{__name__}:Means"))
    assert isinstance(found, DenseEncoder) and found.name == f"{__name__}:Means 512"
    with pytest.raises(InputError, match="tests.encoders.gone:load cannot be loaded"):
        load_dense(DenseSettings("tests.encoders.gone:load"))
    with pytest.raises(InputError, match="gone cannot be loaded"):
        load_dense(DenseSettings(f"{__name__}:gone"))
    with pytest.raises(InputError, match="gives a Linear, which is no DenseEncoder"):
        load_dense(DenseSettings(f"{__name__}:nothing"))
    register("means", Means)
    assert "means" in known() and load_dense(DenseSettings("means", longest=64)).name == "means 64"
    for taken in ("means", "dino_b16", "a:b", "a+b"):
        with pytest.raises(ValueError, match="cannot be the name"):
            register(taken, Means)


# ---- pictures


@pytest.mark.parametrize(
    ("size", "multiple", "longest", "wanted"),
    [
        ((64, 96), 16, 512, (64, 96)),
        ((60, 100), 16, 512, (64, 96)),
        ((1024, 768), 16, 512, (512, 384)),
        ((768, 1024), 14, 512, (378, 504)),
        ((2000, 30), 16, 512, (512, 16)),
        ((16, 16), 16, 512, (16, 16)),
    ],
)
def test_pictures_become_whole_patches(size, multiple: int, longest: int, wanted) -> None:
    found = shown(picture(*size), multiple, longest, "it")
    assert found.shape == (1, 3, *wanted) and 0 <= found.min() and found.max() <= 1


def test_pictures_of_whole_patches_stay_as_they_are() -> None:
    colours = picture(32, 48)
    assert torch.equal(shown(colours, 16, 48, "it")[0].permute(1, 2, 0), colours)


def test_pictures_are_resized_as_a_whole() -> None:
    """A ramp from one side to the other stays one, whichever side that is."""
    down = torch.linspace(0, 1, 50)[:, None, None].expand(50, 70, 3)
    for ramp, axis in ((down, 0), (down.transpose(0, 1), 1)):
        found = shown(ramp, 16, 512, "it")[0].permute(1, 2, 0)
        line = found.mean(dim=(1 - axis, 2))
        wanted = (torch.arange(len(line)) + 0.5) / len(line)
        torch.testing.assert_close(line, wanted, atol=0.02, rtol=0)


def test_what_is_too_fine_becomes_its_mean() -> None:
    """Instead of the few pixels that happen to lie where the smaller picture's are."""
    board = ((torch.arange(400)[:, None] + torch.arange(400)) % 2).float()[..., None].expand(400, 400, 3)
    found = shown(board, 16, 80, "it")
    assert found.shape == (1, 3, 80, 80)
    torch.testing.assert_close(found, torch.full_like(found, 0.5), atol=0.05, rtol=0)


def test_a_picture_smaller_than_a_patch_is_an_error() -> None:
    with pytest.raises(InputError, match=r"40x13 pixels is smaller than a patch of some model, 14 pixels"):
        shown(picture(13, 40), 14, 512, "some model")
    with pytest.raises(InputError, match="smaller than a patch"):
        load_dense(DenseSettings(f"{__name__}:Means")).encode_map(picture(30, 7))


def test_colours_are_shifted_and_scaled_by_channel() -> None:
    pictures = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1).expand(2, 3, 4, 5)
    torch.testing.assert_close(normalised(pictures, *IMAGENET), torch.zeros(2, 3, 4, 5))
    ones = normalised(torch.ones(1, 3, 1, 1), (0.5, 0.0, 0.25), (0.5, 2.0, 0.25)).flatten()
    torch.testing.assert_close(ones, torch.tensor([1.0, 0.5, 3.0]))


# ---- maps of patches


def test_maps_of_patches() -> None:
    encoder = load_dense(DenseSettings(f"{__name__}:Means", longest=64))
    check_map(encoder, 8, 5, [(32, 40, 4, 5), (33, 47, 4, 6), (128, 90, 8, 6)])
    assert not any(each.requires_grad for each in encoder.model.parameters())


def test_halves_are_read_as_floats() -> None:
    encoder = load_dense(DenseSettings(f"{__name__}:Means"))
    colours = picture(16, 24).half()
    torch.testing.assert_close(encoder.encode_map(colours), encoder.encode_map(colours.float()))


def test_a_digest_is_of_weights_wherever_they_are(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        (folder / "inner").mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        (folder / "inner" / "model.safetensors").write_bytes(b"weights")
    first = patch_maps.digest(one)
    assert first == patch_maps.digest(other) and len(first) == 16
    (other / "README.md").write_text("more")
    assert patch_maps.digest(other) == first
    (other / "config.json").write_text('{"a": 1}')
    second = patch_maps.digest(other)
    (one / "inner" / "model.safetensors").write_bytes(b"Weights")
    third = patch_maps.digest(one)
    (one / "inner" / "model.safetensors").rename(one / "inner" / "another.safetensors")
    assert len({first, second, third, patch_maps.digest(one)}) == 4
    file = tmp_path / "a.pt"
    file.write_bytes(b"x" * 100)
    again = file.rename(tmp_path / "b.pt")
    found = patch_maps.digest(again)
    again.write_bytes(b"x" * 101)
    assert found != patch_maps.digest(again)


def test_what_an_error_says_is_one_sentence() -> None:
    assert patch_maps.said(OSError("no way out:\nand more")) == "no way out."
    assert patch_maps.said(KeyError()) == "KeyError."


# ---- what is missing


@pytest.mark.parametrize(
    ("name", "library", "wanted"),
    [
        ("dinov2_b14", "transformers", "dinov2_b14 is one of transformers' models: pip install 'transformers"),
        ("mae_b16", "transformers", "mae_b16 is one of transformers' models: pip install 'transformers"),
        ("sd", "diffusers", r"sd is one of diffusers' models.*pip install 'nts-plugins\[features\]'"),
        ("dust3r", "dust3r", "dust3r needs AsymmetricCroCo3DStereo of the package dust3r.*naver/dust3r"),
        ("mast3r", "mast3r", "mast3r needs AsymmetricMASt3R of the package mast3r.*naver/mast3r"),
        ("vggt_e", "vggt", "vggt_e needs VGGT of the package vggt.*facebookresearch/vggt"),
        ("vggt_d", "vggt", "vggt_d needs VGGT of the package vggt.*not on the package index"),
    ],
)
def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, name: str, library: str, wanted: str) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(InputError, match=wanted):
        load_dense(DenseSettings(name))


@pytest.mark.parametrize(
    ("name", "loads", "source"),
    [
        ("dino_b16", "transformers.ViTModel", "facebook/dino-vitb16"),
        ("dinov2_b14", "transformers.Dinov2Model", "facebook/dinov2-base"),
        ("mae_b16", "transformers.ViTMAEModel", "facebook/vit-mae-base"),
        ("midas_l16", "transformers.DPTForDepthEstimation", "Intel/dpt-beit-large-384"),
        ("sd", "diffusers.StableDiffusionPipeline", "stabilityai/stable-diffusion-2-1"),
        ("clip_b16", None, "timm/vit_base_patch16_clip_224.openai"),
    ],
)
def test_weights_that_cannot_be_fetched_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, loads: Optional[str], source: str
) -> None:
    asked: List[str] = []

    def offline(url: str, **_: Any) -> None:
        asked.append(url)
        raise OSError("no way out\nat all")

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("the library would try for half a minute")

    if loads is not None:
        pytest.importorskip(loads.partition(".")[0])
        monkeypatch.setattr(f"{loads}.from_pretrained", never)
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", offline)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        InputError, match=rf"are not on this machine.*no way out\)?\. Put.*{source}.*with --mine"
    ) as caught:
        load_dense(DenseSettings(name), option="--mine")
    assert "at all" not in str(caught.value)
    assert len(asked) == 1 and source in asked[0]
