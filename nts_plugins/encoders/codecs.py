# SPDX-License-Identifier: Apache-2.0
"""Latent codecs by name."""

from pathlib import Path
from typing import Callable, Dict, Optional, Union

import torch

from nts_plugins.encoders import weights
from nts_plugins.encoders.latents import LatentCodec
from nts_plugins.encoders.settings import CodecSettings
from nts_plugins.errors import InputError
from nts_plugins.named import function_named

Loader = Callable[[Optional[Path], str], LatentCodec]
"""From the file or folder of weights that somebody named, or None, and what errors call that option, to a codec."""

SOURCE = "https://github.com/madebyollin/taesd/raw/main"
"""Where the weights of tiny codecs are."""


def _tiny(name: str) -> Loader:
    def load(folder: Optional[Path], option: str) -> LatentCodec:
        from nts_plugins.encoders.tiny_codec import TinyCodec, files_in

        if folder is None:
            names = [path.name for path in files_in(Path(), name)]
            folder_of = f"{option}, which takes the folder of {' and '.join(names)}"
            files = [weights.fetched(f"{SOURCE}/{each}", f"the codec {name}", folder_of) for each in names]
            return TinyCodec.load(name, *files)
        return TinyCodec.load(name, *files_in(folder, name))

    return load


def _kl(name: str, source: str) -> Loader:
    def load(folder: Optional[Path], option: str) -> LatentCodec:
        from nts_plugins.encoders.kl_codec import KlCodec

        return KlCodec.load(name, source, folder, option)

    return load


_LOADERS: Dict[str, Loader] = {
    **{name: _tiny(name) for name in ("taesd", "taesdxl", "taesd3", "taef1", "taef2")},
    "sd-kl-f8": _kl("sd-kl-f8", "CompVis/stable-diffusion-v1-4:vae"),
    "sd-kl-f8-mse": _kl("sd-kl-f8-mse", "stabilityai/sd-vae-ft-mse"),
    "kl-f8-d16": _kl("kl-f8-d16", "ostris/vae-kl-f8-d16"),
}


def register(name: str, loader: Loader) -> None:
    """Make a codec known by a name.

    Raises:
        ValueError: where the name is taken, or has a colon.
    """
    if name in _LOADERS or ":" in name:
        raise ValueError(f"{name!r} cannot be the name of another codec.")
    _LOADERS[name] = loader


def known() -> "list[str]":
    """Names of codecs, in order."""
    return sorted(_LOADERS)


def load_codec(
    settings: CodecSettings, device: Union[str, torch.device] = "cpu", option: str = "--codec.weights"
) -> LatentCodec:
    """The codec that settings describe, on a device, ready to encode. Its weights ask for no gradient.

    Args:
        settings: see :class:`~nts_plugins.encoders.settings.CodecSettings`.
        device: where it goes.
        option: what errors call the option of its weights.

    Raises:
        InputError: where there is no such codec, or its weights are not to be had.
    """
    codec = _loader(settings.name)(settings.weights, option)
    if not isinstance(codec, LatentCodec):
        raise InputError(f"{settings.name} gives a {type(codec).__name__}, which is no LatentCodec.")
    return codec.to(device).eval().requires_grad_(False)


def _loader(name: str) -> Loader:
    if name in _LOADERS:
        return _LOADERS[name]
    if ":" not in name:
        raise InputError(
            f"There is no codec {name!r}. There are {', '.join(known())}; a function of your own is named "
            f"package.module:function."
        )
    return function_named(name, "codec")
