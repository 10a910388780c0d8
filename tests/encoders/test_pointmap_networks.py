# SPDX-License-Identifier: Apache-2.0
"""Maps of DUSt3R, MASt3R and VGGT.

Their packages are not on the package index. Stand-ins in sys.modules have what the real ones document: names of modules
and classes, ``from_pretrained``, arguments, shapes and checks of what they are given.
"""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any, Tuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nts_plugins.encoders.dense import load_dense
from nts_plugins.encoders.settings import DenseSettings
from nts_plugins.errors import InputError
from tests.encoders.maps import HALF, IMAGENET, as_input, check_map, picture

WIDTH = 12


class Block(nn.Module):
    """Each vector gets something of all."""

    def __init__(self) -> None:
        super().__init__()
        self.own, self.of_all = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, values: Tensor, positions: Any = None) -> Tensor:
        return values + torch.tanh(self.own(values)) + 0.1 * self.of_all(values.mean(dim=-2, keepdim=True))


class Patches(nn.Module):
    """DUSt3R's: says where patches are, too, and takes whole patches and their pictures' true size."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_size, self.proj = (16, 16), nn.Conv2d(3, WIDTH, 16, stride=16)

    def forward(self, pictures: Tensor, true_shape: Tensor) -> Tuple[Tensor, Tensor]:
        assert true_shape.tolist() == [list(pictures.shape[2:])] and all(side % 16 == 0 for side in pictures.shape[2:])
        found = self.proj(pictures).flatten(2).transpose(1, 2)
        return found, torch.zeros(1, found.shape[1], 2)


class Stereo(nn.Module):
    """DUSt3R's and MASt3R's model, with an encoder of two blocks."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.patch_embed = Patches()
        self.enc_blocks = nn.ModuleList([Block(), Block()])
        self.enc_norm = nn.LayerNorm(WIDTH)

    @classmethod
    def from_pretrained(cls, source: str, **_: Any) -> "Stereo":
        if not Path(source).exists():
            raise OSError(f"nobody has {source}")
        model = cls()
        model.load_state_dict(torch.load(source, weights_only=True))
        return model

    def _encode_image(self, image: Tensor, true_shape: Tensor) -> Tuple[Tensor, Tensor, None]:
        values, positions = self.patch_embed(image, true_shape=true_shape)
        for block in self.enc_blocks:
            values = block(values, positions)
        return self.enc_norm(values), positions, None


class DinoPatches(nn.Module):
    """VGGT's: a DINOv2 that says several things of a picture."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, WIDTH, 14, stride=14)

    def forward(self, pictures: Tensor) -> Any:
        found = self.proj(pictures).flatten(2).transpose(1, 2)
        return {"x_norm_clstoken": found.mean(dim=1), "x_norm_patchtokens": found}


class Aggregator(nn.Module):
    """VGGT's: normalises colours, and puts a camera's token and four more before those of patches."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_size, self.patch_embed = 14, DinoPatches()
        self.special = nn.Parameter(torch.randn(1, 5, WIDTH))
        self.blocks = nn.ModuleList([Block(), Block()])
        for name, values in zip(("_resnet_mean", "_resnet_std"), IMAGENET, strict=True):
            self.register_buffer(name, torch.tensor(values).view(1, 1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tuple[list, int]:
        batch, views, channels, height, width = images.shape
        assert channels == 3 and 0 <= images.min() and images.max() <= 1
        images = (images - self._resnet_mean) / self._resnet_std
        patches = self.patch_embed(images.view(batch * views, 3, height, width))["x_norm_patchtokens"]
        values = torch.cat([self.special.expand(batch * views, 5, WIDTH), patches], dim=1)
        layers = []
        for block in self.blocks:
            before, values = values, block(values)
            layers.append(torch.cat([before, values], dim=-1).view(batch, views, -1, 2 * WIDTH))
        return layers, 5


class Vggt(nn.Module):
    """VGGT's model, without heads."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.aggregator = Aggregator()

    @classmethod
    def from_pretrained(cls, source: str, **_: Any) -> "Vggt":
        if not Path(source).is_dir():
            raise OSError(f"nobody has {source}")
        model = cls()
        model.load_state_dict(torch.load(Path(source) / "model.pt", weights_only=True))
        return model


@pytest.fixture(autouse=True)
def packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-ins for the three packages."""
    for path, kind, stand_in in (
        ("dust3r.model", "AsymmetricCroCo3DStereo", Stereo),
        ("mast3r.model", "AsymmetricMASt3R", Stereo),
        ("vggt.models.vggt", "VGGT", Vggt),
    ):
        parts = path.split(".")
        for count in range(1, len(parts) + 1):
            monkeypatch.setitem(sys.modules, ".".join(parts[:count]), ModuleType(".".join(parts[:count])))
        setattr(sys.modules[path], kind, stand_in)


def saved(tmp_path: Path, model: nn.Module) -> Path:
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.2 * torch.randn(value.shape))
    torch.save(model.state_dict(), tmp_path / "model.pt")
    return tmp_path / "model.pt"


# ---- DUSt3R and MASt3R


@pytest.mark.parametrize("name", ["dust3r", "mast3r"])
def test_maps_of_stereo_encoders(tmp_path: Path, name: str) -> None:
    encoder = load_dense(DenseSettings(name, saved(tmp_path, Stereo())))
    assert encoder.name.startswith(f"{name} 512 ")
    check_map(encoder, 16, WIDTH, [(32, 48, 2, 3), (50, 75, 3, 5), (100, 20, 6, 1)])


@pytest.mark.parametrize("name", ["dust3r", "mast3r"])
def test_stereo_encoders_are_read_before_their_norm(tmp_path: Path, name: str) -> None:
    model, colours = Stereo(), picture(32, 48)
    file = saved(tmp_path, model)
    with torch.no_grad():
        values = F.conv2d(as_input(colours, *HALF), model.patch_embed.proj.weight, model.patch_embed.proj.bias, 16)
        values = values.flatten(2).transpose(1, 2)
        for block in model.enc_blocks:
            values = block(values)
    found = load_dense(DenseSettings(name, file)).encode_map(colours)
    torch.testing.assert_close(found, values[0].view(2, 3, WIDTH))


# ---- VGGT


def test_maps_of_vggt(tmp_path: Path) -> None:
    file = saved(tmp_path, Vggt())
    sizes = [(28, 42, 2, 3), (50, 75, 4, 5), (100, 20, 7, 1)]
    check_map(load_dense(DenseSettings("vggt_e", file)), 14, WIDTH, sizes)
    check_map(load_dense(DenseSettings("vggt_d", file)), 14, 2 * WIDTH, sizes)


def test_both_ends_of_vggt(tmp_path: Path) -> None:
    model, colours = Vggt(), picture(28, 42)
    file = saved(tmp_path, model)
    with torch.no_grad():
        patches = model.aggregator.patch_embed(as_input(colours, *IMAGENET))["x_norm_patchtokens"][0]
        values = torch.cat([model.aggregator.special[0], patches])
        first = model.aggregator.blocks[0](values)
        last = torch.cat([first, model.aggregator.blocks[1](first)], dim=-1)[5:]
    found = load_dense(DenseSettings("vggt_e", file)).encode_map(colours)
    torch.testing.assert_close(found, patches.view(2, 3, WIDTH))
    found = load_dense(DenseSettings("vggt_d", file)).encode_map(colours)
    torch.testing.assert_close(found, last.view(2, 3, 2 * WIDTH))
    folder = load_dense(DenseSettings("vggt_d", tmp_path))
    assert torch.equal(folder.encode_map(colours), found)


def test_patches_of_vggt_may_be_a_mere_tensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where its patches are a convolution's."""
    file, colours = saved(tmp_path, Vggt()), picture(28, 42)
    wanted = load_dense(DenseSettings("vggt_e", file)).encode_map(colours)
    said_all = DinoPatches.forward
    monkeypatch.setattr(DinoPatches, "forward", lambda self, x: said_all(self, x)["x_norm_patchtokens"])
    assert torch.equal(load_dense(DenseSettings("vggt_e", file)).encode_map(colours), wanted)


# ---- weights


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("dust3r", "naver/DUSt3R_ViTLarge_BaseDecoder_512_dpt"),
        ("mast3r", "naver/MASt3R_ViTLarge_BaseDecoder_512_catmlpdpt_metric"),
        ("vggt_e", "facebook/VGGT-1B"),
        ("vggt_d", "facebook/VGGT-1B"),
    ],
)
def test_weights_that_are_missing_or_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, source: str
) -> None:
    monkeypatch.setattr("nts_plugins.encoders.weights.ask_hub", lambda *file: file == (source, "model.safetensors"))
    with pytest.raises(InputError, match=f"{name} are not on.*nobody has {source}. Put.*{source} on the hub.*--mine"):
        load_dense(DenseSettings(name), option="--mine")
    with pytest.raises(InputError, match=f"gone.pt, which is said to hold the weights of {name}, does not exist"):
        load_dense(DenseSettings(name, tmp_path / "gone.pt"))
    other = tmp_path / "other.pt"
    torch.save({"nothing": torch.zeros(1)}, other)
    with pytest.raises(InputError, match=f"other.pt does not hold (weights of )?{name}.* of another model"):
        load_dense(DenseSettings(name, other))
    for content in (b"nothing", b'{"camera_model": "OPENCV"}'):
        other.write_bytes(content)
        with pytest.raises(InputError, match=f"other.pt does not hold (weights of )?{name}: ") as caught:
            load_dense(DenseSettings(name, other))
        assert "weights_only" not in str(caught.value)
    assert "it is no file of tensors as torch.save" in str(caught.value)


def test_a_package_that_lacks_the_class_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(sys.modules["vggt.models.vggt"], "VGGT")
    with pytest.raises(InputError, match="needs VGGT of the package vggt, which is not installed, or not whole"):
        load_dense(DenseSettings("vggt_e"))
