# SPDX-License-Identifier: Apache-2.0
"""What maps of a network's patches have in common: how pictures are shown, how weights are told apart, what is said
where they are not to be had."""

import hashlib
import pickle
from abc import ABC, abstractmethod
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterator, List, Optional, Tuple

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from nts_plugins.encoders.dense import IMAGENET, normalised, shown
from nts_plugins.encoders.settings import DenseSettings
from nts_plugins.errors import InputError

HOLD_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".tar")
"""Ends of the names of files in which weights are published."""
PIECE = 1 << 24
"""Bytes of a file that are read at once."""
NOT_LOADED = (
    OSError,
    ValueError,
    TypeError,
    RuntimeError,
    KeyError,
    EOFError,
    pickle.UnpicklingError,
    SafetensorError,
)
"""What libraries raise where weights are not to be had, damaged, or those of something else."""


@dataclass(frozen=True)
class Colours:
    """What is taken from colours in [0, 1], and by what they are divided then, by channel."""

    mean: Tuple[float, float, float]
    std: Tuple[float, float, float]


OF_IMAGENET = Colours(*IMAGENET)
OF_CLIP = Colours((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
"""Of the pictures that OpenAI's CLIP was trained on (Radford et al. 2021)."""
SIGNED = Colours((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
"""To [-1, 1]."""
AS_THEY_ARE = Colours((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
"""For networks that do it themselves."""


class PatchMap(ABC):
    """A :class:`~nts_plugins.encoders.base.DenseEncoder` of a network that has a vector for each patch of a picture.

    Pictures are resized as a whole to whole patches. All is computed in float32, also on GPUs.

    Args:
        model: the network, or the part of it that is needed. It goes to the device, and is no longer trained.
        settings: how large pictures are, and what the vectors are called.
        device: where the network goes.
        colours: that the network wants.
        patch: side of a patch, pixels.
        multiple: of what both sides of a picture must be multiples, where that is not ``patch``.
    """

    def __init__(
        self,
        model: nn.Module,
        settings: DenseSettings,
        device: torch.device,
        colours: Colours,
        patch: int,
        multiple: Optional[int] = None,
    ) -> None:
        self.model = model.float().eval().requires_grad_(False).to(device)
        self.settings, self.device, self.colours = settings, device, colours
        self.patch, self.multiple = patch, multiple or patch
        self.name = named(settings)
        self._width: Optional[int] = None

    @property
    def width(self) -> int:
        """C, length of a vector; the first time it is read off a small black picture."""
        if self._width is None:
            self._width = int(self.encode_map(torch.zeros(4 * self.multiple, 4 * self.multiple, 3)).shape[-1])
        return self._width

    @torch.no_grad()
    def encode_map(self, picture: Tensor) -> Tensor:
        """[H, W, 3] colours in [0, 1] to [h, w, C] float32 on the network's device, a vector for each patch of what the
        network is shown. No gradient.

        Raises:
            InputError: where the picture is smaller than a patch.
        """
        resized = shown(picture.to(self.device), self.multiple, self.settings.longest, self.settings.name)
        height, width = resized.shape[2] // self.patch, resized.shape[3] // self.patch
        tokens = self._tokens(normalised(resized, self.colours.mean, self.colours.std))
        return tokens.reshape(height, width, tokens.shape[-1]).float()

    @abstractmethod
    def _tokens(self, pictures: Tensor) -> Tensor:
        """One picture [1, 3, H, W] to its patches' vectors [1, ..., C], row by row."""


def named(settings: DenseSettings) -> str:
    """Name of the features: that of their space, and letters that differ between weights where these are a path."""
    return settings.space if settings.weights is None else f"{settings.space} {digest(settings.weights)}"


def digest(path: Path) -> str:
    """Letters that differ between files of weights, or between folders of them, wherever they are.

    Of a folder those files count that hold weights, and those named config.json.

    Args:
        path: file or folder.
    """
    found, files = hashlib.sha256(), [path]
    if path.is_dir():
        files = [each for each in sorted(path.rglob("*")) if each.name == "config.json" or each.suffix in HOLD_WEIGHTS]
        files = [each for each in files if each.is_file()]
    for each in files:
        if each != path:
            found.update(each.relative_to(path).as_posix().encode())
        with each.open("rb") as file:
            while piece := file.read(PIECE):
                found.update(piece)
    return found.hexdigest()[:16]


@contextmanager
def outputs_of(module: nn.Module) -> Iterator[List[Any]]:
    """A list of what a module returns while the context lasts, however it is called."""
    kept: List[Any] = []
    handle = module.register_forward_hook(lambda _module, _inputs, output: kept.append(output))
    try:
        yield kept
    finally:
        handle.remove()


def said(error: BaseException) -> str:
    """The first line of what an error says, as a sentence."""
    if isinstance(error, pickle.UnpicklingError):  # torch's own words advise to let the file run what it likes.
        return "it is no file of tensors as torch.save writes them, or is damaged."
    lines = str(error).strip().splitlines() or [type(error).__name__]
    if lines[0].startswith("Error(s) in loading state_dict"):  # which says no more in this line
        return "it holds the tensors of another model."
    return lines[0].strip().rstrip(".:") + "."


def folder_of(settings: DenseSettings, library: str, must_have: str = "config.json") -> Path:
    """The folder of weights that somebody named, as a library writes it.

    Raises:
        InputError: where there is no such folder, or it lacks the file that it must have.
    """
    folder = settings.weights
    if folder is None or not (folder / must_have).is_file():
        raise InputError(
            f"{folder}, which is said to hold {settings.name}, is not a folder with {must_have} as {library} writes it."
        )
    return folder


def not_held(settings: DenseSettings, error: BaseException) -> InputError:
    """The error for weights of a path that are those of something else, or damaged."""
    return InputError(f"{settings.weights} does not hold {settings.name}: {said(error)}")


def not_fetched(settings: DenseSettings, source: str, option: str, error: BaseException) -> InputError:
    """The error for published weights that are neither on this machine nor can be fetched."""
    return InputError(
        f"The weights of {settings.name} are not on this machine. Fetching them failed: {said(error)} Put {source} "
        f"somewhere on this machine, and say where with {option}."
    )
