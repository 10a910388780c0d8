# SPDX-License-Identifier: Apache-2.0
"""What networks share that are written in this package and make maps of features: how they answer, and how they get
their weights from a file."""

from pathlib import Path
from typing import Dict, TypeVar

from torch import Tensor, nn

from nts_plugins.encoders import weight_files, weights
from nts_plugins.encoders.patch_maps import PatchMap
from nts_plugins.encoders.settings import DenseSettings

Network = TypeVar("Network", bound=nn.Module)


class NetworkMap(PatchMap):
    """A map that is what a network answers: from [1, 3, H, W] to [1, C, H / patch, W / patch]."""

    def _tokens(self, pictures: Tensor) -> Tensor:
        return self.model(pictures).flatten(2).transpose(1, 2)


def file_of(settings: DenseSettings, url: str, option: str) -> Path:
    """The file of weights that settings name, or else the published one.

    Args:
        settings: whose ``weights`` is a file or None.
        url: of the published file.
        option: by which ``weights`` was given, for errors.

    Raises:
        InputError: where the file is not there, or not to be had.
    """
    if settings.weights is None:
        return weights.fetched(url, settings.name, option)
    return weights.given(settings.weights, settings.name)


def filled(network: Network, path: Path, prefix: str = "", without: str = "") -> Network:
    """A network with the weights of a file, all of them.

    Args:
        network: whose names are those of the file.
        path: of names and tensors, or of a training's state whose ``model`` these are.
        prefix: of names in the file that are the network's; others are left out.
        without: what the network's names do not begin with, of such a part of the file as it lacks.

    Raises:
        InputError: where the file holds something else.
    """
    what = type(network).__name__
    state = weight_files.read(path, what)
    own: Dict[str, Tensor] = {
        name[len(prefix) :]: value
        for name, value in state.items()
        if name.startswith(prefix) and not (without and name.startswith(prefix + without))
    }
    weight_files.fill(network, own, path, what)
    return network
