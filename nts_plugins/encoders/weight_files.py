# SPDX-License-Identifier: Apache-2.0
"""Files of weights: what they hold, and what is said where that is something else."""

import pickle
import zipfile
from pathlib import Path
from typing import Any, Dict, Mapping, Optional

import torch
from torch import Tensor, nn

from nts_plugins.errors import InputError, describe

NESTED = ("state_dict", "model")
"""Under which a training's state keeps the weights."""
SHOWN = 3
"""So many names are told of those that are wrong."""


def read(file: Path, what: str) -> Dict[str, Tensor]:
    """The tensors of a file by their names, on the CPU. Nothing that the file says is run.

    Args:
        file: that torch.save or, with that suffix, safetensors wrote; or a training's state with such a part.
        what: should have these weights, for the error.

    Raises:
        InputError: where the file holds something else, or less.
    """
    try:
        state = _content(file)
    except Exception as error:  # A file of something else makes torch raise whatever its first bytes lead to.
        raise _not_held(file, what, _fault(file, error)) from error
    for name in NESTED:
        if isinstance(state, dict) and isinstance(state.get(name), dict):
            state = state[name]
    if not isinstance(state, dict) or not state or not all(_is_weight(*each) for each in state.items()):
        raise _not_held(file, what, "there are no tensors by name in it")
    return state


def fill(network: nn.Module, state: Mapping[str, Tensor], file: Path, what: str) -> None:
    """Put tensors into a network, which has all of them and no others.

    Args:
        network: whose weights they become.
        state: the tensors by name.
        file: where they are from, for the error.
        what: the network is, for the error.

    Raises:
        InputError: where they are another network's.
    """
    try:
        found = network.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise of_another(network, state, file, what) from error
    if found.missing_keys or found.unexpected_keys:
        raise of_another(network, state, file, what, found)


def of_another(
    network: nn.Module, state: Mapping[str, Tensor], file: Path, what: str, found: Optional[Any] = None
) -> InputError:
    """The error for tensors that do not fit into a network: which do not.

    Args:
        network, state, file, what: as of :func:`fill`.
        found: what ``load_state_dict`` answered, where it answered.
    """
    own = network.state_dict()
    bent = [name for name in own if name in state and own[name].shape != state[name].shape]
    if found is not None:
        lost, more = found.missing_keys, found.unexpected_keys
    else:
        lost, more = [name for name in own if name not in state], [name for name in state if name not in own]
    parts = [f"it lacks {len(lost)} of {len(own)} tensors ({describe(lost, SHOWN)})"] if lost else []
    parts += [f"it has {len(bent)} of another shape ({describe(bent, SHOWN)})"] if bent else []
    parts += [f"it has {len(more)} besides ({describe(more, SHOWN)})"] if more else []
    wrong = ", and ".join(parts) or "its tensors do not fit"
    return InputError(
        f"{file} does not hold weights of {what}, but of another model: {wrong}. Give the file of these "
        f"weights instead."
    )


def _content(file: Path) -> Any:
    if file.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(str(file))
    return torch.load(file, map_location="cpu", weights_only=True)


def _is_weight(name: Any, value: Any) -> bool:
    return isinstance(name, str) and isinstance(value, Tensor)


def _not_held(file: Path, what: str, fault: str) -> InputError:
    return InputError(f"{file} does not hold weights of {what}: {fault}. Give the file of these weights instead.")


def _fault(file: Path, error: Exception) -> str:
    """What is wrong with a file that cannot be read. torch's own words advise to let the file run what it likes."""
    if isinstance(error, OSError) and error.strerror:
        return f"it cannot be read ({error.strerror})"
    with file.open("rb") as opened:
        begins_well = opened.read(2) == b"PK"
    if zipfile.is_zipfile(file) and isinstance(error, pickle.UnpicklingError):
        return "it holds Python objects besides tensors, which are not loaded"
    if begins_well and not zipfile.is_zipfile(file):
        return "it is damaged, or was not copied as a whole"
    return "it is no file of tensors as torch.save or safetensors write them, or is damaged"
