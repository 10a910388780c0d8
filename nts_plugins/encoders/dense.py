# SPDX-License-Identifier: Apache-2.0
"""Models that make maps of features, by name.

Layers are those that Feat2GS (Chen et al., CVPR 2025) reads, which are the last ones of each model, patch tokens only.
"""

from importlib import import_module
from typing import Callable, Dict, List, Sequence, Union

import torch
import torch.nn.functional as F
from torch import Tensor

from nts_plugins.encoders import codecs
from nts_plugins.encoders.base import DenseEncoder
from nts_plugins.encoders.settings import DenseSettings
from nts_plugins.errors import InputError
from nts_plugins.named import function_named

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation of the colours of its pictures."""

Loader = Callable[[DenseSettings, torch.device, str], DenseEncoder]
"""From settings, a device, and what errors call the option of the weights, to a model that is ready to encode."""

_MODULES: Dict[str, str] = {
    **{name: "codec_maps" for name in codecs.known()},
    **{f"aliked_{name}": "aliked" for name in ("n16", "n16_sddh", "t16", "t16_sddh")},
    "clip_b16": "vision_transformers",
    "deeplab_v3": "tflite",
    "dino_b16": "vision_transformers",
    "dinov2_b14": "vision_transformers",
    "dust3r": "pointmap_networks",
    "itermvs": "stereo_pyramids",
    "mae_b16": "vision_transformers",
    "mast3r": "pointmap_networks",
    "midas_l16": "vision_transformers",
    "mobilenet_v2": "tflite",
    "patchmatchnet": "stereo_pyramids",
    "radio": "vision_transformers",
    "sam_base": "vision_transformers",
    "sd": "diffusion_features",
    "vggt_d": "pointmap_networks",
    "vggt_e": "pointmap_networks",
}
"""Name to the module of this package whose ``load`` is its :data:`Loader`."""
_OWN: Dict[str, Loader] = {}


def register(name: str, loader: Loader) -> None:
    """Make a model known by a name.

    Raises:
        ValueError: where the name is taken, or has a colon or a plus sign.
    """
    if name in known() or set(":+") & set(name):
        raise ValueError(f"{name!r} cannot be the name of another model.")
    _OWN[name] = loader


def known() -> List[str]:
    """Names of models, in order."""
    return sorted({*_MODULES, *_OWN})


def load_dense(
    settings: DenseSettings, device: Union[str, torch.device] = "cpu", option: str = "--features.weights"
) -> DenseEncoder:
    """The model that settings describe, on a device.

    Args:
        settings: see :class:`~nts_plugins.encoders.settings.DenseSettings`.
        device: where it goes.
        option: what errors call the option of its weights.

    Raises:
        InputError: where there is no such model, or its weights or what runs it are not to be had.
    """
    encoder = _loader(settings.name)(settings, torch.device(device), option)
    if not isinstance(encoder, DenseEncoder):
        raise InputError(f"{settings.name} gives a {type(encoder).__name__}, which is no DenseEncoder.")
    return encoder


def _loader(name: str) -> Loader:
    if name in _OWN:
        return _OWN[name]
    if name in _MODULES:
        return import_module(f"nts_plugins.encoders.{_MODULES[name]}").load
    if ":" not in name:
        raise InputError(
            f"There is no model {name!r} of dense features. There are {', '.join(known())}; a function of your own is "
            f"named package.module:function."
        )
    return function_named(name, "model")


def shown(picture: Tensor, multiple: int, longest: int, name: str) -> Tensor:
    """A picture as a model wants it: no larger than it may be, and of whole patches.

    It is resized as a whole rather than padded or cropped, so that a map of its patches is one of the picture.

    Args:
        picture: [H, W, 3] in [0, 1].
        multiple: of what both sides must be multiples, pixels.
        longest: the longer side's most pixels.
        name: of the model, for the error.

    Returns:
        [1, 3, H', W'] in [0, 1].

    Raises:
        InputError: where the picture is smaller than a patch.
    """
    height, width = picture.shape[:2]
    if min(height, width) < multiple:
        raise InputError(f"A picture of {width}x{height} pixels is smaller than a patch of {name}, {multiple} pixels.")
    ratio = min(1.0, longest / max(height, width))
    most = max(1, longest // multiple)
    size = [min(max(1, round(side * ratio / multiple)), most) * multiple for side in (height, width)]
    batch = picture.permute(2, 0, 1)[None].float()
    if size == [height, width]:
        return batch
    return F.interpolate(batch, size, mode="bicubic", align_corners=False, antialias=True).clamp(0.0, 1.0)


def normalised(pictures: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """[B, 3, H, W] colours in [0, 1], shifted and scaled by channel."""
    shift, scale = (pictures.new_tensor(values).view(1, 3, 1, 1) for values in (mean, std))
    return (pictures - shift) / scale
