# SPDX-License-Identifier: Apache-2.0
"""What small networks share that make maps of features: where their weights are, what tells two of them apart, and how a
picture becomes a map."""

import hashlib
import pickle
from pathlib import Path
from typing import Dict, Tuple

import torch
from torch import Tensor, nn

from nts_plugins.encoders import weights
from nts_plugins.encoders.dense import shown
from nts_plugins.encoders.settings import DenseSettings
from nts_plugins.errors import InputError


class NetworkMaps:
    """A :class:`~nts_plugins.encoders.base.DenseEncoder` whose map is what a network answers.

    Args:
        network: from [1, 3, H, W] colours in [0, 1], whose sides are multiples of ``multiple``, to [1, C, h, w]. Its
            weights are frozen, and batches are normalised as they say.
        name: see :class:`~nts_plugins.encoders.base.Encoder`.
        width: C.
        multiple: pixels; no picture may be smaller.
        longest: of the pictures that it is shown, pixels.
        device: where it runs.
    """

    def __init__(
        self, network: nn.Module, name: str, width: int, multiple: int, longest: int, device: torch.device
    ) -> None:
        self._network = network.to(device).eval().requires_grad_(False)
        self._name, self._width, self._multiple, self._longest = name, width, multiple, longest
        self._device = device

    @property
    def name(self) -> str:
        return self._name

    @property
    def width(self) -> int:
        return self._width

    @torch.no_grad()
    def encode_map(self, picture: Tensor) -> Tensor:
        """See :meth:`~nts_plugins.encoders.base.DenseEncoder.encode_map`. The map is on the network's device."""
        batch = shown(picture.to(self._device), self._multiple, self._longest, self._name)
        return self._network(batch)[0].permute(1, 2, 0).float().contiguous()


def file_of(settings: DenseSettings, url: str, option: str) -> Tuple[Path, str]:
    """The file of weights that settings name, or else the published one; and the name of what it makes.

    Features of files that somebody named are called after what is in them, so that two sets of weights are never
    mixed up.

    Args:
        settings: whose ``weights`` is a file or None.
        url: of the published file.
        option: by which ``weights`` was given, for errors.

    Raises:
        InputError: where the file is not there, or not to be had.
    """
    if settings.weights is None:
        return weights.fetched(url, settings.name, option), settings.space
    path = weights.given(settings.weights, settings.name)
    return path, f"{settings.space} {hashlib.sha256(path.read_bytes()).hexdigest()[:12]}"


def filled(network: nn.Module, path: Path, prefix: str = "", without: str = "") -> nn.Module:
    """A network with the weights of a file, all of them.

    Args:
        network: whose names are those of the file.
        path: of names and tensors, or of a training's state whose ``model`` these are.
        prefix: of names in the file that are the network's; others are left out.
        without: what the network's names do not begin with, of such a part of the file as it lacks.

    Raises:
        InputError: where the file holds something else.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, KeyError, ValueError, pickle.UnpicklingError) as error:
        raise InputError(f"{path} does not hold weights: {(str(error).splitlines() or ['nothing'])[0]}") from error
    if isinstance(state, dict) and isinstance(state.get("model"), dict):
        state = state["model"]
    if not isinstance(state, dict) or not all(isinstance(each, Tensor) for each in state.values()):
        raise InputError(f"{path} does not hold weights by name.")
    own: Dict[str, Tensor] = {
        name[len(prefix) :]: value.float() if value.is_floating_point() else value
        for name, value in state.items()
        if name.startswith(prefix) and not (without and name[len(prefix) :].startswith(without))
    }
    try:
        network.load_state_dict(own)
    except RuntimeError as error:
        said = str(error).splitlines()[-1].strip()
        raise InputError(f"{path} does not hold the weights of {type(network).__name__}: {said}") from error
    return network
