# SPDX-License-Identifier: Apache-2.0
"""Vision transformers of one picture: DINO, DINOv2, MAE, MiDaS, Segment Anything, CLIP and RADIO.

Of each, the vectors of patches behind the last block are read, without class and register tokens, and before any
normalisation or projection that follows it, as Feat2GS (Chen et al., CVPR 2025) does; RADIO's own answer is normalised.
A table tells what each model wants and where its program and weights come from.

Learned positions are stretched to the picture, not cut: by the model itself where it can, by :func:`stretched` where
it knows one size only (CLIP, Segment Anything). MiDaS's and Segment Anything's relative positions stretch themselves.

Differences from Feat2GS: pictures are resized to whole patches where it pads them. Which of MiDaS's BEiT-L models it
takes is not known; here it is the one trained on pictures of 384 pixels.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from nts_plugins.encoders.base import DenseEncoder
from nts_plugins.encoders.patch_maps import (
    AS_THEY_ARE,
    NOT_LOADED,
    OF_CLIP,
    OF_IMAGENET,
    SIGNED,
    Colours,
    PatchMap,
    folder_of,
    not_fetched,
    not_held,
    outputs_of,
    said,
)
from nts_plugins.encoders.settings import DenseSettings, OpenClipSettings, SamSettings
from nts_plugins.encoders.weights import given, loaded
from nts_plugins.errors import InputError


@dataclass(frozen=True)
class Reading:
    """How a model is shown pictures, and where its vectors are read."""

    colours: Colours
    block: int = -1
    """Whose output is read; -1 is the last one's."""


READINGS: Dict[str, Reading] = {
    "clip_b16": Reading(OF_CLIP),
    "dino_b16": Reading(OF_IMAGENET),
    "dinov2_b14": Reading(OF_IMAGENET),
    "mae_b16": Reading(OF_IMAGENET),
    "midas_l16": Reading(SIGNED),
    "radio": Reading(AS_THEY_ARE),
    "sam_base": Reading(OF_IMAGENET),
}
"""As the models were published. RADIO shifts and scales colours itself."""
PAPER_READINGS: Dict[str, Reading] = {
    "clip_b16": Reading(OF_IMAGENET),
    "mae_b16": Reading(OF_IMAGENET, block=-2),
}
"""What Feat2GS's program does otherwise."""

TRANSFORMERS: Dict[str, Tuple[str, str]] = {
    "dino_b16": ("ViTModel", "facebook/dino-vitb16"),
    "dinov2_b14": ("Dinov2Model", "facebook/dinov2-base"),
    "mae_b16": ("ViTMAEModel", "facebook/vit-mae-base"),
    "midas_l16": ("DPTForDepthEstimation", "Intel/dpt-beit-large-384"),
}
"""Class of transformers, and repository on the hub."""
UNREAD = ("pooler", "layernorm", "mask_token", "neck", "head")
"""Parts of these models behind what is read, which weights may lack."""
CLIP = ("ViT-B-16", "openai")
"""Model and weights in open_clip."""
SAM = "vit_b"
"""Model of Segment Anything."""
RADIO = ("NVlabs/RADIO", "radio_model", "radio_v2")
"""Repository, function and model, for torch.hub: ViT-H/16 of RADIO v2 (Ranzinger et al., CVPR 2024)."""


def reading(settings: DenseSettings) -> Reading:
    """How the model of the settings is shown pictures, and read."""
    published = READINGS[settings.name]
    return PAPER_READINGS.get(settings.name, published) if settings.reading == "paper" else published


def load(settings: DenseSettings, device: torch.device, option: str) -> DenseEncoder:
    """A model of :data:`READINGS`, on a device. Its weights, where they are given, are

    * a folder as transformers writes it, with config.json, for those of :data:`TRANSFORMERS`;
    * a file that open_clip can read, for CLIP;
    * the published file of weights, for Segment Anything and RADIO.

    RADIO's program itself is fetched by torch.hub, once, and run; it wants a newer timm than nerfstudio brings.

    Raises:
        InputError: where the weights or what runs them are not to be had, or the weights are something else's.
    """
    if settings.name == "clip_b16":
        return _Clip.load(settings, device, option)
    if settings.name == "sam_base":
        return _Sam.load(settings, device, option)
    if settings.name == "radio":
        return _Radio.load(settings, device, option)
    return _of_transformers(settings, device, option)


def stretched(positions: Tensor, size: Tuple[int, int]) -> Tensor:
    """Learned positions [1, h, w, C] for patches of another picture, [1, h', w', C]; bicubic between them."""
    if tuple(positions.shape[1:3]) == size:
        return positions
    moved = positions.permute(0, 3, 1, 2).float()
    return F.interpolate(moved, size, mode="bicubic", align_corners=False).permute(0, 2, 3, 1).to(positions.dtype)


# ---- transformers


class _HiddenStates(PatchMap):
    """A model of transformers that has a class token before its patches, and says what each block returns."""

    def _tokens(self, pictures: Tensor) -> Tensor:
        found = self.model(pictures, output_hidden_states=True, **self._arguments(pictures))
        return found.hidden_states[reading(self.settings).block][:, 1:]

    def _arguments(self, pictures: Tensor) -> Dict[str, Any]:
        """What the model wants to be told besides."""
        return {}


class _Dino(_HiddenStates):
    def _arguments(self, pictures: Tensor) -> Dict[str, Any]:
        return {"interpolate_pos_encoding": True}


class _Mae(_HiddenStates):
    """The model sorts patches by a noise and drops the last ones; none, here, and the order is theirs."""

    def _arguments(self, pictures: Tensor) -> Dict[str, Any]:
        patches = (pictures.shape[2] // self.patch) * (pictures.shape[3] // self.patch)
        order = torch.arange(patches, device=pictures.device, dtype=torch.float32)[None]
        return {"interpolate_pos_encoding": True, "noise": order}


def _of_transformers(settings: DenseSettings, device: torch.device, option: str) -> PatchMap:
    name, colours = settings.name, reading(settings).colours
    if name == "midas_l16":
        backbone = _pretrained(settings, option).backbone
        return _HiddenStates(backbone, settings, device, colours, int(backbone.config.patch_size))
    kind, more = {
        "dino_b16": (_Dino, {"add_pooling_layer": False}),
        "dinov2_b14": (_HiddenStates, {}),
        "mae_b16": (_Mae, {"mask_ratio": 0.0}),
    }[name]
    model = _pretrained(settings, option, **more)
    return kind(model, settings, device, colours, int(model.config.patch_size))


def _pretrained(settings: DenseSettings, option: str, **more: Any) -> Any:
    """The model of transformers with its weights."""
    kind, repository = TRANSFORMERS[settings.name]
    try:
        import transformers

        wanted = getattr(transformers, kind)
    except (ImportError, AttributeError) as error:
        raise InputError(f"{settings.name} is one of transformers' models: pip install 'transformers>=4.44'") from error
    folder = None
    if settings.weights is not None:
        folder = folder_of(settings, "transformers")
        _check_kind(settings, folder, wanted.config_class.model_type)
    more["output_loading_info"] = True
    try:
        model, found = loaded(wanted.from_pretrained, folder, repository, "config.json", **more)
    except NOT_LOADED as error:
        if settings.weights is not None:
            raise not_held(settings, error) from error
        raise not_fetched(settings, f"a folder with the files of {repository} on the hub", option, error) from error
    lost = sorted(key for key in found["missing_keys"] if not set(UNREAD) & set(key.split(".")))
    if lost:  # transformers leaves these as they are drawn at random, and only warns.
        raise InputError(f"{settings.weights or repository} does not hold {settings.name}: {lost[0]} is missing.")
    return model


def _check_kind(settings: DenseSettings, folder: Path, wanted: str) -> None:
    """transformers reads weights of one kind into a model of another where names agree, as those of MAE and DINO do."""
    try:
        kind = json.loads((folder / "config.json").read_text()).get("model_type")
    except (ValueError, AttributeError) as error:
        raise not_held(settings, error) from error
    if kind != wanted:
        raise InputError(f"{folder} does not hold {settings.name}: its model_type is {kind!r} and not {wanted!r}.")


# ---- models that know one size of pictures


class _Clip(PatchMap):
    """The picture tower of a model of open_clip."""

    @classmethod
    def load(cls, settings: DenseSettings, device: torch.device, option: str) -> "_Clip":
        from nts_plugins.encoders.clip import OpenClip

        asked = OpenClipSettings(*CLIP, weights=settings.weights)
        tower = OpenClip.load(asked, torch.device("cpu"), option).model.visual
        return cls(tower, settings, device, reading(settings).colours, int(tower.patch_size[0]))

    def _tokens(self, pictures: Tensor) -> Tensor:
        tower: Any = self.model
        size = (pictures.shape[2] // self.patch, pictures.shape[3] // self.patch)
        positions = tower.positional_embedding
        of_patches = stretched(positions[1:].view(1, *tower.grid_size, -1), size).flatten(0, 2)
        with outputs_of(tower.transformer) as kept:
            functional_call(tower, {"positional_embedding": torch.cat([positions[:1], of_patches])}, (pictures,))
        return kept[0][:, 1:]


class _Sam(PatchMap):
    """The picture encoder of Segment Anything, before its neck."""

    @classmethod
    def load(cls, settings: DenseSettings, device: torch.device, option: str) -> "_Sam":
        from nts_plugins.encoders.sam import Sam

        asked = SamSettings(model=SAM, weights=settings.weights)
        encoder: Any = Sam.load(asked, torch.device("cpu"), option).predictor.model.image_encoder
        return cls(encoder, settings, device, reading(settings).colours, int(encoder.patch_embed.proj.kernel_size[0]))

    def _tokens(self, pictures: Tensor) -> Tensor:
        encoder: Any = self.model
        size = (pictures.shape[2] // self.patch, pictures.shape[3] // self.patch)
        with outputs_of(encoder.blocks[reading(self.settings).block]) as kept:
            functional_call(encoder, {"pos_embed": stretched(encoder.pos_embed, size)}, (pictures,))
        return kept[0]


# ---- RADIO


class _Radio(PatchMap):
    """The model of RADIO's own program, which answers with a vector of the picture and those of its patches."""

    @classmethod
    def load(cls, settings: DenseSettings, device: torch.device, option: str) -> "_Radio":
        repository, function, version = RADIO
        hub: Any = torch.hub  # trust_repo may be True, which its types do not say
        if settings.weights is not None:
            version = str(given(settings.weights, settings.name))
        try:
            model = hub.load(repository, function, version=version, skip_validation=True, trust_repo=True)
        except ImportError as error:
            raise InputError(f"The program of {repository} cannot be imported: {said(error)}") from error
        except Exception as error:  # What the hub, the network and RADIO's program raise is of many kinds.
            if settings.weights is not None:
                raise InputError(
                    f"RADIO cannot be loaded with the weights {settings.weights}: {said(error)} Its program comes from "
                    f"{repository} by torch.hub, into {torch.hub.get_dir()}."
                ) from error
            source = f"the program {repository} into {torch.hub.get_dir()} as torch.hub does, and {version}'s weights"
            raise not_fetched(settings, source, option, error) from error
        return cls(
            model,
            settings,
            device,
            reading(settings).colours,
            int(model.patch_size),
            int(model.min_resolution_step),
        )

    def _tokens(self, pictures: Tensor) -> Tensor:
        found: Tuple[Tensor, Tensor] = self.model(pictures)
        return found[1]
