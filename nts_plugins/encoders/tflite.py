# SPDX-License-Identifier: Apache-2.0
"""Two networks of 8-bit numbers, as Coral publishes them (Apache-2.0), as maps of features:

* MobileNetV2 (Sandler et al., CVPR 2018, arXiv 1801.04381), which says what is in a picture;
* DeepLabV3 (Chen et al., arXiv 1706.05587) on a MobileNetV2, which says so of every pixel.

The package ai-edge-litert runs them. Their pictures have one size, which cannot be changed: what pools over the whole
picture, and what resizes, knows it as a number. A photograph is resized to it whatever its sides, with a border that
repeats its last pixels, as wide as it takes for the vectors to lie in the middle of their cells.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict

import torch
import torch.nn.functional as F
from torch import Tensor

from nts_plugins.encoders.base import DenseEncoder
from nts_plugins.encoders.dense import shown
from nts_plugins.encoders.patch_maps import named, said
from nts_plugins.encoders.settings import DenseSettings
from nts_plugins.encoders.small_networks import file_of
from nts_plugins.errors import InputError

SOURCE = "https://github.com/google-coral/test_data/raw/master"
"""Where the files are."""


@dataclass(frozen=True)
class Layer:
    """Whose values make a map."""

    name: str
    """Of the tensor; where the file says several names of one, the first of them."""
    stride: int
    """Pixels between two vectors."""
    first: float
    """Where the first vector looks: the place of its middle in pixels, where that of the first pixel is at 0.5. To
    halve a side of even length, TensorFlow pads its end only, and so looks at pixels 1, 3, 5; of odd length, at 0, 2,
    4."""


_PUBLISHED = {
    "mobilenet_v2": ("mobilenet_v2_1.0_224_quant.tflite", Layer("MobilenetV2/expanded_conv_12/add", 16, 15.5)),
    "deeplab_v3": (
        "deeplabv3_mnv2_pascal_quant.tflite",
        Layer("MobilenetV2/expanded_conv_16/project/add_fold", 16, 0.5),
    ),
}
"""Name to file and layer.

MobileNetV2's is the last one of 14 x 14 vectors, of 96 numbers. Those of 7 x 7 behind it find a place again in a
second view half as often. DeepLab's is what its head reads, of 320 numbers: layers before it tell places apart better,
and the ones behind it little but classes."""


class TfliteMap:
    """A :class:`~nts_plugins.encoders.base.DenseEncoder` that reads an inner layer of a network.

    Args:
        path: of a network with one picture [1, S, S, 3] of 8-bit colours.
        layer: what is read. Its numbers are given as they are meant, not as 8 bits.
        name: see :class:`~nts_plugins.encoders.base.Encoder`.
        longest: pictures are no larger than this before they are made S pixels.
        device: where maps go; the network runs on the CPU.

    Raises:
        InputError: where ai-edge-litert is missing, or the file is not such a network.
    """

    def __init__(self, path: Path, layer: Layer, name: str, longest: int, device: torch.device) -> None:
        self._interpreter = _interpreter(path)
        self._input: Dict[str, Any] = self._interpreter.get_input_details()[0]
        side = int(self._input["shape"][1])
        found = [
            each
            for each in self._interpreter.get_tensor_details()
            if each["name"].split(";")[0] == layer.name and len(each["shape"]) == 4
        ]
        if not found or tuple(self._input["shape"]) != (1, side, side, 3) or self._input["dtype"].__name__ != "uint8":
            raise InputError(f"{path} is another network: it has no layer {layer.name}, or its picture is another one.")
        self._layer: Dict[str, Any] = found[0]
        self._name, self._longest, self._device, self._stride = name, longest, device, layer.stride
        # The vector ``skipped`` is the first one whose middle can be that of a cell.
        self._skipped = 0 if layer.first >= layer.stride / 2 else 1
        self._before = round(self._skipped * layer.stride + layer.first - layer.stride / 2)
        self._cells = min((side - self._before) // layer.stride, int(self._layer["shape"][1]) - self._skipped)
        self._after = side - self._before - self._cells * layer.stride

    @property
    def name(self) -> str:
        return self._name

    @property
    def width(self) -> int:
        return int(self._layer["shape"][3])

    @torch.no_grad()
    def encode_map(self, picture: Tensor) -> Tensor:
        """See :meth:`~nts_plugins.encoders.base.DenseEncoder.encode_map`. Maps are square, whatever the picture is."""
        batch = shown(picture.cpu(), self._stride, self._longest, self._name)
        size = (self._cells * self._stride,) * 2
        batch = F.interpolate(batch, size, mode="bicubic", align_corners=False, antialias=True).clamp(0.0, 1.0)
        batch = F.pad(batch, (self._before, self._after) * 2, mode="replicate")
        values = (255.0 * batch).round().byte().permute(0, 2, 3, 1).contiguous()
        self._interpreter.set_tensor(self._input["index"], values.numpy())
        self._interpreter.invoke()
        found = torch.from_numpy(self._interpreter.get_tensor(self._layer["index"]))[0].float()
        scale, zero = self._layer["quantization"]
        kept = slice(self._skipped, self._skipped + self._cells)
        return ((found[kept, kept] - zero) * scale).to(self._device)


def _interpreter(path: Path) -> Any:
    try:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType
    except ImportError as error:
        raise InputError(
            f"Networks in tflite files need the package ai-edge-litert ({error}): pip install 'nts-plugins[features]'."
        ) from error
    try:
        interpreter = Interpreter(
            model_path=str(path),
            # Without this, inner layers are overwritten by later ones; and delegates do not keep them.
            experimental_preserve_all_tensors=True,
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
            num_threads=torch.get_num_threads(),
        )
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise InputError(f"{path} is not a network that ai-edge-litert reads: {said(error)}") from error
    return interpreter


def load(settings: DenseSettings, device: torch.device, option: str) -> DenseEncoder:
    """``mobilenet_v2`` and ``deeplab_v3``.

    Raises:
        InputError: where ai-edge-litert is missing, or the file is not to be had, or is something else.
    """
    file, layer = _PUBLISHED[settings.name]
    path = file_of(settings, f"{SOURCE}/{file}", option)
    return TfliteMap(path, layer, named(settings), settings.longest, device)
