# SPDX-License-Identifier: Apache-2.0
"""Networks that see points of scenes: the encoders of DUSt3R (Wang et al., CVPR 2024) and MASt3R (Leroy et al., ECCV
2024), and both ends of VGGT (Wang et al., CVPR 2025).

Their programs are not on the package index: whoever wants them installs them from their authors' repositories. Nothing
of them is here. The published weights of all three are for non-commercial use.

* ``dust3r``, ``mast3r``: patches behind the encoder's last block, before the encoder's normalisation (1024 numbers).
* ``vggt_e``: patches as VGGT's aggregator gets them, normalised, before its first attention (1024).
* ``vggt_d``: patches behind the aggregator's last pair of attentions, within pictures and among them (2048).

A difference from VGGT as it is meant: each picture is shown alone, so that attention among pictures is within one.
"""

from dataclasses import dataclass
from importlib import import_module
from typing import Any, Dict

import torch
from torch import Tensor

from nts_plugins.encoders import weight_files
from nts_plugins.encoders.base import DenseEncoder
from nts_plugins.encoders.patch_maps import (
    AS_THEY_ARE,
    NOT_LOADED,
    OF_IMAGENET,
    SIGNED,
    Colours,
    PatchMap,
    not_fetched,
    not_held,
    outputs_of,
)
from nts_plugins.encoders.settings import DenseSettings
from nts_plugins.encoders.weights import loaded
from nts_plugins.errors import InputError


@dataclass(frozen=True)
class Published:
    """Where a network's program and its weights are, and what it is shown."""

    project: str
    """The repository of its program."""
    module: str
    """Of its program, with the class that has ``from_pretrained``."""
    kind: str
    """Name of that class."""
    repository: str
    """Of its weights on the hub."""
    colours: Colours


PUBLISHED: Dict[str, Published] = {
    "dust3r": Published(
        "naver/dust3r",
        "dust3r.model",
        "AsymmetricCroCo3DStereo",
        "naver/DUSt3R_ViTLarge_BaseDecoder_512_dpt",
        SIGNED,
    ),
    "mast3r": Published(
        "naver/mast3r",
        "mast3r.model",
        "AsymmetricMASt3R",
        "naver/MASt3R_ViTLarge_BaseDecoder_512_catmlpdpt_metric",
        SIGNED,
    ),
    "vggt_e": Published("facebookresearch/vggt", "vggt.models.vggt", "VGGT", "facebook/VGGT-1B", OF_IMAGENET),
    "vggt_d": Published("facebookresearch/vggt", "vggt.models.vggt", "VGGT", "facebook/VGGT-1B", AS_THEY_ARE),
}
"""As the networks were published. VGGT's aggregator normalises colours for ImageNet itself, before its patches."""
WEIGHTS = "model.safetensors"
"""The file of weights in each of these repositories."""


def load(settings: DenseSettings, device: torch.device, option: str) -> DenseEncoder:
    """A network of :data:`PUBLISHED`, on a device. Its weights, where they are given, are a folder with the files of
    its repository on the hub, or a file: of DUSt3R's or MASt3R's as their programs write it, of VGGT's a state.

    Raises:
        InputError: where the weights or the program are not to be had, or the weights are something else's.
    """
    model = _pretrained(settings, option)
    colours = PUBLISHED[settings.name].colours
    if settings.name in ("dust3r", "mast3r"):
        return _StereoEncoder(model, settings, device, colours, _side(model.patch_embed.patch_size))
    network, side = model.aggregator, _side(model.aggregator.patch_size)
    if settings.name == "vggt_e":
        return _VggtEncoder(network.patch_embed, settings, device, colours, side)
    return _VggtDecoder(network, settings, device, colours, side)


class _StereoEncoder(PatchMap):
    """The encoder of DUSt3R or MASt3R, which sees one picture at a time."""

    def _tokens(self, pictures: Tensor) -> Tensor:
        network: Any = self.model
        true_shape = torch.tensor([pictures.shape[2:]], device=pictures.device)
        with outputs_of(network.enc_blocks[-1]) as kept:
            network._encode_image(pictures, true_shape)
        return kept[0]


class _VggtEncoder(PatchMap):
    """What the aggregator of VGGT gets of patches."""

    def _tokens(self, pictures: Tensor) -> Tensor:
        found = self.model(pictures)
        return found["x_norm_patchtokens"] if isinstance(found, dict) else found


class _VggtDecoder(PatchMap):
    """What the aggregator of VGGT makes of patches, as the sole picture of a scene."""

    def _tokens(self, pictures: Tensor) -> Tensor:
        layers, first_patch = self.model(pictures[:, None])
        return layers[-1][:, 0, first_patch:]


def _side(patch: Any) -> int:
    """Of a square patch that is said by one number or by two."""
    return int(patch if isinstance(patch, int) else patch[0])


def _pretrained(settings: DenseSettings, option: str) -> Any:
    """The network with its weights, on the CPU."""
    published = PUBLISHED[settings.name]
    try:
        wanted = getattr(import_module(published.module), published.kind)
    except (ImportError, AttributeError) as error:
        package = published.module.partition(".")[0]
        raise InputError(
            f"{settings.name} needs {published.kind} of the package {package}, which is not installed, or not whole "
            f"({error}). It is not on the package index: install it from its authors' repository, {published.project}."
        ) from error
    path = settings.weights
    if path is not None and not path.exists():
        raise InputError(f"{path}, which is said to hold the weights of {settings.name}, does not exist.")
    if path is not None and path.is_file() and published.kind == "VGGT":
        model = wanted()
        weight_files.fill(model, weight_files.read(path, settings.name), path, settings.name)
        return model
    try:
        return loaded(wanted.from_pretrained, path, published.repository, WEIGHTS)
    except NOT_LOADED as error:
        if path is not None:
            raise not_held(settings, error) from error
        source = f"a folder with the files of {published.repository} on the hub"
        raise not_fetched(settings, source, option, error) from error
