# SPDX-License-Identifier: Apache-2.0
"""Maps of vision transformers: small random models of the real classes, loaded as the published ones are.

RADIO's program is not installed by anybody: in its place torch.hub finds a program with the documented interface.
"""

import json
from pathlib import Path
from typing import Any, Dict, Tuple

import pytest
import torch
import torch.nn.functional as F

from nts_plugins.encoders import vision_transformers
from nts_plugins.encoders.dense import load_dense
from nts_plugins.encoders.settings import DenseSettings
from nts_plugins.errors import InputError
from tests.encoders import small
from tests.encoders.maps import HALF, IMAGENET, as_input, check_map, last_output, picture, randomised

CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
SIZES = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 48}
OF_TRANSFORMERS = ("dino_b16", "dinov2_b14", "mae_b16", "midas_l16")


def small_transformer(name: str) -> Any:
    """Three blocks of 32 numbers (MiDaS: four) for square pictures of 4 x 4 patches."""
    import transformers as hf

    torch.manual_seed(1)
    if name == "dino_b16":
        return randomised(hf.ViTModel(hf.ViTConfig(image_size=64, patch_size=16, **SIZES)))
    if name == "dinov2_b14":
        return randomised(hf.Dinov2Model(hf.Dinov2Config(image_size=56, patch_size=14, **SIZES)))
    if name == "mae_b16":
        decoder = {"decoder_hidden_size": 16, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2}
        config = hf.ViTMAEConfig(image_size=64, patch_size=16, **SIZES, **decoder, decoder_intermediate_size=16)
        return randomised(hf.ViTMAEForPreTraining(config))
    sizes = {**SIZES, "num_hidden_layers": 4, "image_size": 64, "patch_size": 16}
    backbone = hf.BeitConfig(
        **sizes, use_relative_position_bias=True, out_indices=[1, 2, 3, 4], reshape_hidden_states=False
    )
    config = hf.DPTConfig(
        backbone_config=backbone,
        neck_hidden_sizes=[8, 8, 8, 8],
        fusion_hidden_size=8,
        reassemble_factors=[4, 2, 1, 0.5],
        readout_type="project",
        is_hybrid=False,
    )
    return randomised(hf.DPTForDepthEstimation(config))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Dict[str, Tuple[Path, Any]]:
    """Folders of weights as transformers writes them, and the models in them."""
    pytest.importorskip("transformers")
    root, found = tmp_path_factory.mktemp("transformers"), {}
    for name in OF_TRANSFORMERS:
        model = small_transformer(name)
        model.save_pretrained(root / name)
        found[name] = (root / name, model)
    return found


def blocks(model: Any) -> Any:
    """Blocks of an encoder, in order."""
    kinds = ("ViTLayer", "Dinov2Layer", "ViTMAELayer", "BeitLayer")
    return [each for name, each in model.named_modules() if type(each).__name__ in kinds and "decoder" not in name]


# ---- transformers


@pytest.mark.parametrize("name", OF_TRANSFORMERS)
def test_maps_of_transformers(folders, name: str) -> None:
    patch = 14 if name == "dinov2_b14" else 16
    encoder = load_dense(DenseSettings(name, folders[name][0]))
    sizes = [(40, 100, 3, 7), (90, 33, 6, 2)] if patch == 14 else [(40, 100, 2, 6), (90, 33, 6, 2)]
    check_map(encoder, patch, 32, [(4 * patch, 4 * patch, 4, 4), *sizes])
    assert not any(each.requires_grad for each in encoder.model.parameters())


@pytest.mark.parametrize("name", OF_TRANSFORMERS)
def test_pictures_are_no_larger_than_asked(folders, name: str) -> None:
    encoder = load_dense(DenseSettings(name, folders[name][0], longest=70))
    assert encoder.encode_map(picture(100, 200)).shape[:2] == ((2, 5) if name == "dinov2_b14" else (2, 4))


@pytest.mark.parametrize(("name", "numbers"), [("dino_b16", IMAGENET), ("dinov2_b14", IMAGENET), ("midas_l16", HALF)])
def test_the_last_block_is_read_without_norm(folders, name: str, numbers) -> None:
    folder, model = folders[name]
    side = model.config.image_size if name != "midas_l16" else 64
    colours = picture(side, side)
    last = blocks(model)[-1]
    assert len(blocks(model)) == (4 if name == "midas_l16" else 3)
    wanted = last_output(model, last, as_input(colours, *numbers))[:, 1:].view(4, 4, 32)
    found = load_dense(DenseSettings(name, folder)).encode_map(colours)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    normed = F.layer_norm(wanted, (32,))
    assert (found - normed).abs().max() > 0.1
    paper = load_dense(DenseSettings(name, folder, reading="paper")).encode_map(colours)
    assert torch.equal(found, paper), "the paper reads it alike"


@pytest.mark.parametrize(("reading", "block"), [("fixed", 2), ("paper", 1)])
def test_mae_sees_the_whole_picture_in_order(folders, reading: Any, block: int) -> None:
    """Against the real class with patches in any order, put back as it says."""
    folder, model = folders["mae_b16"]
    colours = picture(64, 64)
    encoder = load_dense(DenseSettings("mae_b16", folder, reading=reading))
    found = encoder.encode_map(colours)
    try:
        model.config.mask_ratio = 0.0
        torch.manual_seed(5)
        inputs = as_input(colours, *IMAGENET)
        noise = torch.rand(1, 16)
        shuffled = last_output(model.vit, blocks(model)[block], inputs, noise=noise)[0, 1:]
        with torch.no_grad():
            order = model.vit(inputs, noise=noise).ids_restore[0]
    finally:
        model.config.mask_ratio = 0.75
    assert not torch.equal(order, torch.arange(16))
    torch.testing.assert_close(found, shuffled[order].view(4, 4, 32), atol=1e-5, rtol=1e-5)
    assert encoder.name.split(" ")[:-1] == ["mae_b16", "512"] + ["paper"] * (reading == "paper")


@pytest.mark.parametrize("name", ["dino_b16", "mae_b16"])
def test_positions_are_stretched_to_the_picture(folders, name: str) -> None:
    """What the patches get is the picture's part and positions between which there are more places than before."""
    folder, model = folders[name]
    encoder = load_dense(DenseSettings(name, folder))
    embeddings = encoder.model.embeddings
    colours = picture(48, 96)
    with torch.no_grad():
        found = encoder.model(
            as_input(colours, *IMAGENET), output_hidden_states=True, **encoder._arguments(torch.zeros(1, 3, 48, 96))
        ).hidden_states[0][0, 1:]
        patches = embeddings.patch_embeddings.projection(as_input(colours, *IMAGENET))[0]
        grid = embeddings.position_embeddings[0, 1:].view(4, 4, 32).permute(2, 0, 1)[None]
        positions = F.interpolate(grid, (3, 6), mode="bicubic", align_corners=False)[0]
    torch.testing.assert_close(found, (patches + positions).flatten(1).T, atol=1e-5, rtol=1e-5)


def test_names_tell_weights_apart(folders, tmp_path: Path) -> None:
    folder = folders["dino_b16"][0]
    one = load_dense(DenseSettings("dino_b16", folder, longest=300)).name
    assert one == load_dense(DenseSettings("dino_b16", folder, longest=300)).name
    assert one.startswith("dino_b16 300 ") and " / " not in one and len(one) == len("dino_b16 300 ") + 16
    randomised(small_transformer("dino_b16"), seed=9).save_pretrained(tmp_path)
    other = load_dense(DenseSettings("dino_b16", tmp_path, longest=300))
    assert other.name.startswith("dino_b16 300 ") and other.name != one
    colours = picture(64, 64)
    assert not torch.allclose(
        other.encode_map(colours), load_dense(DenseSettings("dino_b16", folder)).encode_map(colours)
    )


def test_folders_that_hold_something_else(folders, tmp_path: Path) -> None:
    mae = folders["mae_b16"][0]
    with pytest.raises(InputError, match="does not hold dino_b16: its model_type is 'vit_mae' and not 'vit'"):
        load_dense(DenseSettings("dino_b16", mae))
    with pytest.raises(InputError, match=r"gone, which is said to hold dino_b16, is not a folder with config.json"):
        load_dense(DenseSettings("dino_b16", tmp_path / "gone"))
    with pytest.raises(InputError, match="is not a folder with config.json"):
        load_dense(DenseSettings("dino_b16", mae / "model.safetensors"))
    config = json.loads((folders["dino_b16"][0] / "config.json").read_text())
    weights = (folders["dino_b16"][0] / "model.safetensors").read_bytes()

    def written(config: Any, weights: bytes) -> DenseSettings:
        (tmp_path / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
        (tmp_path / "model.safetensors").write_bytes(weights)
        return DenseSettings("dino_b16", tmp_path)

    assert load_dense(written(config, weights)).width == 32
    for settings in (("no json", weights), (config, weights[:-40]), (config, b"nothing"), ("[]", weights)):
        with pytest.raises(InputError, match="does not hold dino_b16"):
            load_dense(written(*settings))
    with pytest.raises(InputError, match=r"does not hold dino_b16: .*3.* is missing"):
        load_dense(written({**config, "num_hidden_layers": 4}, weights))
    with pytest.raises(InputError, match="does not hold dino_b16"):
        load_dense(written({**config, "hidden_size": 16}, weights))


# ---- CLIP


@pytest.fixture
def clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tuple[Path, Any]:
    """Weights of a small model that open_clip has in the place of ViT-B-16, and the model."""
    import open_clip

    config = {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 32, "layers": 3, "head_width": 16},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    }
    (tmp_path / "tiny-map-test.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path / "tiny-map-test.json")
    monkeypatch.setattr(vision_transformers, "CLIP", ("tiny-map-test", "mine"))
    model = randomised(open_clip.create_model("tiny-map-test"))
    torch.save(model.state_dict(), tmp_path / "clip.pt")
    return tmp_path / "clip.pt", model


def test_maps_of_clip(clip: Tuple[Path, Any]) -> None:
    encoder = load_dense(DenseSettings("clip_b16", clip[0]))
    check_map(encoder, 8, 32, [(32, 32, 4, 4), (30, 51, 4, 6), (64, 17, 8, 2)])
    assert torch.equal(encoder.model.positional_embedding, clip[1].visual.positional_embedding), "left as they were"


@pytest.mark.parametrize(("reading", "numbers"), [("fixed", CLIP), ("paper", IMAGENET)])
@pytest.mark.parametrize("size", [(32, 32), (24, 56)])
def test_clip_is_read_behind_its_last_block(clip: Tuple[Path, Any], reading: Any, numbers, size) -> None:
    file, model = clip
    tower, colours = model.visual, picture(*size)
    rows, columns = size[0] // 8, size[1] // 8
    with torch.no_grad():
        patches = tower.conv1(as_input(colours, *numbers)).flatten(2).transpose(1, 2)
        grid = tower.positional_embedding[1:].view(1, 4, 4, 32).permute(0, 3, 1, 2)
        positions = F.interpolate(grid, (rows, columns), mode="bicubic").flatten(2).transpose(1, 2)
        first = (tower.class_embedding + tower.positional_embedding[0]).view(1, 1, 32)
        values = tower.ln_pre(torch.cat([first, patches + positions], dim=1))
        for block in tower.transformer.resblocks:
            values = block(values)
    found = load_dense(DenseSettings("clip_b16", file, reading=reading)).encode_map(colours)
    torch.testing.assert_close(found, values[0, 1:].view(rows, columns, 32), atol=1e-5, rtol=1e-5)


def test_clip_is_the_one_of_openai() -> None:
    import open_clip

    assert open_clip.get_model_config("ViT-B-16") is not None
    published = open_clip.get_pretrained_cfg(*vision_transformers.CLIP)
    assert published["quick_gelu"] and (tuple(published["mean"]), tuple(published["std"])) == CLIP


def test_weights_of_clip_that_are_missing(clip: Tuple[Path, Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone.pt, which is said to hold the weights of tiny-map-test"):
        load_dense(DenseSettings("clip_b16", tmp_path / "gone.pt"))
    torch.save({"nothing": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(InputError, match="other.pt does not hold weights"):
        load_dense(DenseSettings("clip_b16", tmp_path / "other.pt"))


# ---- Segment Anything


@pytest.fixture
def sam(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tuple[Path, Any]:
    """Weights of a small Segment Anything in the place of ViT-B, and the model."""
    import segment_anything

    def with_two_blocks() -> Any:
        from segment_anything.modeling.image_encoder import Block

        model = small.sam_model()
        model.image_encoder.blocks.append(Block(32, 2, use_rel_pos=True, window_size=2, input_size=(4, 4)))
        return model.eval()

    monkeypatch.setitem(segment_anything.sam_model_registry, "vit_b", with_two_blocks)
    model = randomised(with_two_blocks())
    torch.save(model.state_dict(), tmp_path / "sam.pth")
    return tmp_path / "sam.pth", model


def test_maps_of_segment_anything(sam: Tuple[Path, Any]) -> None:
    encoder = load_dense(DenseSettings("sam_base", sam[0]))
    check_map(encoder, 16, 32, [(64, 64, 4, 4), (50, 75, 3, 5), (100, 20, 6, 1)])


@pytest.mark.parametrize("size", [(64, 64), (48, 112)])
def test_segment_anything_is_read_before_its_neck(sam: Tuple[Path, Any], size: Tuple[int, int]) -> None:
    file, model = sam
    network, colours = model.image_encoder, picture(*size)
    with torch.no_grad():
        found = load_dense(DenseSettings("sam_base", file)).encode_map(colours)
        # Segment Anything's own numbers are of colours up to 255.
        values = network.patch_embed((colours.permute(2, 0, 1)[None] * 255 - model.pixel_mean) / model.pixel_std)
        grid = network.pos_embed.permute(0, 3, 1, 2)
        values = values + F.interpolate(grid, values.shape[1:3], mode="bicubic").permute(0, 2, 3, 1)
        for block in network.blocks:
            values = block(values)
    assert len(network.blocks) == 2
    torch.testing.assert_close(found, values[0], atol=1e-4, rtol=1e-4)


def test_weights_of_segment_anything_that_are_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise OSError("no way out")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(InputError, match=r"SAM vit_b are not on this machine.*no way out.*--mine"):
        load_dense(DenseSettings("sam_base"), option="--mine")


# ---- RADIO

HUBCONF = """
import os
from collections import namedtuple

import torch

Found = namedtuple("Found", ["summary", "features"])


class Radio(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.patch_size, self.min_resolution_step = 8, 16
        self.patches = torch.nn.Conv2d(3, 12, 8, stride=8)

    def forward(self, x):
        assert 0 <= x.min() and x.max() <= 1
        assert x.shape[2] % 16 == 0 and x.shape[3] % 16 == 0
        found = self.patches(x).flatten(2).transpose(1, 2)
        return Found(found.mean(dim=1), found)


def radio_model(version="", progress=True, **kwargs):
    model = Radio()
    if os.path.isfile(version):
        model.load_state_dict(torch.load(version, weights_only=True))
    elif version == "radio_v2":
        torch.manual_seed(7)
        model = Radio()
    else:
        raise KeyError(version)
    return model
"""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where torch.hub keeps programs, on a machine that reaches nothing."""
    from urllib.error import URLError

    def offline(*_: Any, **__: Any) -> None:
        raise URLError("no way out")

    for name in ("urlopen", "download_url_to_file"):
        monkeypatch.setattr(torch.hub, name, offline)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return tmp_path / "hub"


def written(hub: Path, program: str = HUBCONF) -> None:
    folder = hub / "NVlabs_RADIO_main"
    folder.mkdir(parents=True)
    (folder / "hubconf.py").write_text(program)


def test_maps_of_radio(hub: Path) -> None:
    written(hub)
    encoder = load_dense(DenseSettings("radio"))
    assert encoder.name == "radio 512"
    for size, wanted in (((32, 32), (4, 4)), ((33, 70), (4, 8)), ((90, 17), (12, 2))):
        assert encoder.encode_map(picture(*size)).shape == (*wanted, 12)
    colours = picture(32, 64)
    with torch.no_grad():
        wanted_map = encoder.model.patches(colours.permute(2, 0, 1)[None])[0].permute(1, 2, 0)
    torch.testing.assert_close(encoder.encode_map(colours), wanted_map)
    assert encoder.width == 12


def test_weights_of_radio_by_path(hub: Path, tmp_path: Path) -> None:
    written(hub)
    first = load_dense(DenseSettings("radio"))
    state = {name: value + 1 for name, value in first.model.state_dict().items()}
    torch.save(state, tmp_path / "radio.pth")
    second = load_dense(DenseSettings("radio", tmp_path / "radio.pth"))
    assert torch.equal(second.model.patches.weight, first.model.patches.weight + 1)
    assert second.name.startswith("radio 512 ")
    torch.save({}, tmp_path / "radio.pth")
    with pytest.raises(InputError, match=r"cannot be loaded with the weights .*radio.pth: .*NVlabs/RADIO by torch.hub"):
        load_dense(DenseSettings("radio", tmp_path / "radio.pth"))
    with pytest.raises(InputError, match=r"gone.pth, which is said to hold the weights of radio"):
        load_dense(DenseSettings("radio", tmp_path / "gone.pth"))


def test_radio_that_is_not_to_be_had(hub: Path) -> None:
    with pytest.raises(InputError, match=r"radio are not.*no internet.*NVlabs/RADIO.*--mine"):
        load_dense(DenseSettings("radio"), option="--mine")
    written(hub, "import a_package_that_nobody_has\n")
    with pytest.raises(InputError, match=r"NVlabs/RADIO cannot be imported: No module named 'a_package_that"):
        load_dense(DenseSettings("radio"))
