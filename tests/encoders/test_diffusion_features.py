# SPDX-License-Identifier: Apache-2.0
"""Maps of a diffusion model: a small random StableDiffusionPipeline of the real classes, in a folder as diffusers
writes it."""

import json
from pathlib import Path
from typing import Any, Tuple

import pytest
import torch

from nts_plugins.encoders.dense import load_dense
from nts_plugins.encoders.settings import DenseSettings
from nts_plugins.errors import InputError
from tests.encoders.maps import check_map, picture, randomised

pytest.importorskip("diffusers")
pytest.importorskip("transformers")


def small_pipeline(folder: Path) -> Any:
    """As many blocks as Stable Diffusion 2.1 has, in the same order, with a few channels; a tokenizer of few words."""
    import transformers as hf
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel

    torch.manual_seed(0)
    network = UNet2DConditionModel(
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16, 24, 24),
        layers_per_block=1,
        cross_attention_dim=16,
        attention_head_dim=(1, 2, 3, 3),
        norm_num_groups=4,
        use_linear_projection=True,
    )
    ends = {"down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4}
    autoencoder = AutoencoderKL(
        **ends, block_out_channels=(4, 4, 8, 8), layers_per_block=1, latent_channels=4, norm_num_groups=4
    )
    words = ["<|startoftext|>", "<|endoftext|>", "!", *"abc", *(f"{each}</w>" for each in "abc")]
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = hf.CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), pad_token="!", model_max_length=7
    )
    config = hf.CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=7,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )
    return StableDiffusionPipeline(
        vae=randomised(autoencoder, 0.05),
        text_encoder=randomised(hf.CLIPTextModel(config)),
        tokenizer=tokenizer,
        unet=randomised(network, 0.05),
        scheduler=DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            prediction_type="v_prediction",
            steps_offset=1,
            clip_sample=False,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


@pytest.fixture(scope="module")
def diffusion(tmp_path_factory: pytest.TempPathFactory) -> Tuple[Path, Any]:
    """Folder of a pipeline, and the pipeline."""
    folder = tmp_path_factory.mktemp("diffusion")
    pipeline = small_pipeline(folder)
    pipeline.save_pretrained(folder / "sd")
    return folder / "sd", pipeline


def test_maps_of_a_diffusion_model(diffusion: Tuple[Path, Any]) -> None:
    encoder = load_dense(DenseSettings("sd", diffusion[0]))
    assert encoder.name.startswith("sd 512 ")
    check_map(encoder, 16, 24, [(64, 64, 4, 4), (50, 75, 3, 5), (150, 18, 9, 1)], local=False)
    assert not any(each.requires_grad for each in encoder.model.parameters())


def test_maps_are_the_right_way_round(diffusion: Tuple[Path, Any]) -> None:
    """All numbers change with any part of the picture, but more where that is."""
    encoder, before = load_dense(DenseSettings("sd", diffusion[0])), 0.2 * picture(192, 256)
    middles = {}
    for row in (0, 144):
        for column in (0, 208):
            after = before.clone()
            after[row : row + 48, column : column + 48] += 0.8
            change = (encoder.encode_map(after) - encoder.encode_map(before)).norm(dim=-1)
            assert change.shape == (12, 16)
            middles[row, column] = [
                float((change.sum(dim=1 - axis) * torch.arange(size)).sum() / change.sum())
                for axis, size in enumerate(change.shape)
            ]
    for side in (0, 208):
        assert middles[144, side][0] > middles[0, side][0] + 0.2, middles
    for side in (0, 144):
        assert middles[side, 208][1] > middles[side, 0][1] + 0.2, middles


@pytest.mark.parametrize("size", [(64, 128), (48, 80)])
def test_it_is_what_the_second_block_returns_on_the_way_up(diffusion: Tuple[Path, Any], size: Tuple[int, int]) -> None:
    folder, pipeline = diffusion
    colours = picture(*size)
    found = load_dense(DenseSettings("sd", folder)).encode_map(colours)
    kept = []
    handle = pipeline.unet.up_blocks[1].register_forward_hook(lambda _module, _args, output: kept.append(output))
    with torch.no_grad():
        latents = pipeline.vae.encode(2 * colours.permute(2, 0, 1)[None] - 1).latent_dist.mean * 0.18215
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
        beta = torch.linspace(0.00085**0.5, 0.012**0.5, 1000)[:2].square()
        left = (1 - beta).prod()
        tokens = torch.tensor([[0, 1] + 5 * [2]])
        words = pipeline.text_encoder(tokens).last_hidden_state
        pipeline.unet(left.sqrt() * latents + (1 - left).sqrt() * noise, 1, encoder_hidden_states=words)
    handle.remove()
    assert len(kept) == 1 and kept[0].shape == (1, 24, size[0] // 16, size[1] // 16)
    torch.testing.assert_close(found, kept[0][0].permute(1, 2, 0), atol=1e-4, rtol=1e-4)


def test_the_seed_of_others_is_left_alone(diffusion: Tuple[Path, Any]) -> None:
    encoder = load_dense(DenseSettings("sd", diffusion[0]))
    torch.manual_seed(11)
    wanted = torch.rand(1)
    torch.manual_seed(11)
    encoder.encode_map(picture(32, 32))
    assert torch.equal(torch.rand(1), wanted)


def test_folders_that_hold_something_else(diffusion: Tuple[Path, Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone, which is said to hold sd, is not a folder with model_index.json"):
        load_dense(DenseSettings("sd", tmp_path / "gone"))
    (tmp_path / "model_index.json").write_text((diffusion[0] / "model_index.json").read_text())
    with pytest.raises(InputError, match="does not hold sd: "):
        load_dense(DenseSettings("sd", tmp_path))
    (tmp_path / "model_index.json").write_text("no json")
    with pytest.raises(InputError, match="does not hold sd: "):
        load_dense(DenseSettings("sd", tmp_path))
