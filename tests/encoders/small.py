# SPDX-License-Identifier: Apache-2.0
"""Small random models of the real classes."""

import json
from pathlib import Path
from typing import Any, Iterator, Optional

import torch

from nts_plugins.encoders.latents import LatentCodec, Posterior


def clip(name: str = "small random", *, width: int = 24, side: int = 32) -> Any:
    """An OpenClip around a CLIP of two layers, with the real tokenizer."""
    import open_clip

    from nts_plugins.encoders.clip import OpenClip

    torch.manual_seed(0)
    model = open_clip.CLIP(
        embed_dim=width,
        vision_cfg={"image_size": side, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16},
        text_cfg={"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
    )
    open_clip.set_model_preprocess_cfg(model, {"size": side, "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.25, 0.3)})
    return OpenClip(model, open_clip.get_tokenizer("ViT-B-16"), name, batch=4)


def multilingual(folder: Path) -> str:
    """The name of a model whose text tower is an XLM-RoBERTa of two layers, with a tokenizer that reads bytes of any
    language; its weights are ``folder / "weights.pt"``."""
    import open_clip
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast, XLMRobertaConfig

    tower, name, special = folder / "tower", "xlm-roberta-small-test", ["<s>", "<pad>", "</s>", "<unk>"]
    known = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    sizes = {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    XLMRobertaConfig(**sizes, intermediate_size=64, max_position_embeddings=96).save_pretrained(tower)
    reader = Tokenizer(models.BPE({each: number for number, each in enumerate(known)}, [], unk_token="<unk>"))
    reader.pre_tokenizer = pre_tokenizers.ByteLevel()
    reader.post_processor = processors.TemplateProcessing("<s> $A </s>", None, [("<s>", 0), ("</s>", 2)])
    names = dict(zip(("bos_token", "pad_token", "eos_token", "unk_token"), special, strict=True))
    PreTrainedTokenizerFast(tokenizer_object=reader, **names).save_pretrained(tower)
    config = {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 32, "layers": 1, "head_width": 16},
        "text_cfg": {
            "hf_model_name": str(tower),
            "hf_tokenizer_name": str(tower),
            "hf_proj_type": "mlp",
            "hf_pooler_type": "mean_pooler",
        },
    }
    (folder / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder / f"{name}.json")
    torch.manual_seed(5)
    torch.save(open_clip.create_model(name, pretrained_hf=False).state_dict(), folder / "weights.pt")
    return name


def sam_model() -> Any:
    """A Segment Anything of one layer for pictures of 64 pixels, which believes in all that it draws: no more may be
    asked of weights at random."""
    from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

    torch.manual_seed(0)
    model = Sam(
        ImageEncoderViT(
            img_size=64,
            patch_size=16,
            embed_dim=32,
            depth=1,
            num_heads=2,
            out_chans=16,
            use_rel_pos=True,
            window_size=2,
            global_attn_indexes=(0,),
        ),
        PromptEncoder(embed_dim=16, image_embedding_size=(4, 4), input_image_size=(64, 64), mask_in_chans=4),
        MaskDecoder(
            transformer_dim=16,
            transformer=TwoWayTransformer(depth=1, embedding_dim=16, num_heads=2, mlp_dim=32),
            iou_head_hidden_dim=16,
        ),
    ).eval()
    with torch.no_grad():
        model.mask_decoder.iou_prediction_head.layers[-1].bias.add_(2.0)
    return model


class BlockCodec(LatentCodec):
    """Pictures of half the size, with a fourth channel for the difference of neighbours; a decoder of four numbers for
    each pixel of a block, which begin as the colour alone."""

    def __init__(self) -> None:
        super().__init__("blocks", 4, 2)
        self.gain = torch.nn.Parameter(torch.ones(1))
        self.decoder = torch.nn.Conv2d(4, 12, 1)
        with torch.no_grad():
            self.decoder.weight.zero_()
            self.decoder.bias.zero_()
            for colour in range(3):
                self.decoder.weight[4 * colour : 4 * colour + 4, colour] = 1.0

    def _posterior(self, pictures: torch.Tensor) -> Posterior:
        mean = torch.nn.functional.avg_pool2d(pictures, 2)
        across = (pictures[:, :, ::2, 1::2] - pictures[:, :, ::2, ::2]).mean(dim=1, keepdim=True)
        return Posterior(self.gain * torch.cat([mean, across], dim=1))

    def _decoded(self, latents: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.pixel_shuffle(self.decoder(latents), 2)

    def encoder_parameters(self) -> Iterator[torch.nn.Parameter]:
        yield self.gain

    def decoder_parameters(self) -> Iterator[torch.nn.Parameter]:
        return self.decoder.parameters()


def block_codec(folder: Optional[Path], option: str) -> BlockCodec:
    """A loader, as ``--pipeline.datamanager.codec.name tests.encoders.small:block_codec`` asks for."""
    return BlockCodec()
