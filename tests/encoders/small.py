# SPDX-License-Identifier: Apache-2.0
"""Small random models of the real classes."""

from typing import Any

import torch


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


def sam_model() -> Any:
    """A Segment Anything of one layer for pictures of 64 pixels."""
    from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

    torch.manual_seed(0)
    return Sam(
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
