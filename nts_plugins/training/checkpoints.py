# SPDX-License-Identifier: Apache-2.0
"""Files that hold the state of a training: written whole or not at all, and read with an error that helps."""

import contextlib
import shutil
from pathlib import Path
from typing import Any, Collection, Dict, Iterator, List, Mapping, Optional

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from nts_plugins.errors import InputError, describe
from nts_plugins.files.whole import whole_file


def write(state: Mapping[str, Any], path: Path, *, workspace: Path) -> None:
    """Save a checkpoint so that a kill, or a full disk, at any moment leaves what was there before.

    Args:
        state: what ``torch.load(weights_only=True)`` can read: tensors, numbers, strings, dicts and lists.
        path: where it goes; its folder is created.
        workspace: folder on the same file system for the unfinished file.

    Raises:
        InputError: where the file cannot be written; nothing of it is left then.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for leftover in workspace.glob(".*.ckpt.partial"):
            leftover.unlink(missing_ok=True)  # of a run that was killed while it saved here
        with whole_file(path, workspace=workspace) as file:
            torch.save(dict(state), file)
    except (OSError, RuntimeError) as error:
        # torch reports a full disk as a RuntimeError of its zip writer.
        raise InputError(
            f"Cannot save the checkpoint {path}: {_reason(error, workspace)}. Earlier checkpoints are untouched."
        ) from error


def _reason(error: Exception, folder: Path) -> str:
    text = getattr(error, "strerror", None) or str(error).splitlines()[0]
    with contextlib.suppress(OSError):
        free = shutil.disk_usage(folder).free
        if free < 2**30:
            return f"{text}; {free / 2**20:.0f} MiB are free on that disk"
    return text


def find(folder: Path, step: Optional[int] = None) -> Path:
    """The checkpoint of a step, or the newest one, in a run's ``nerfstudio_models`` folder.

    Raises:
        InputError: where there is none.
    """
    if step is not None:
        path = folder / f"step-{step:09d}.ckpt"
        if not path.is_file():
            raise InputError(f"There is no checkpoint {path}. There are: {describe(_names(folder)) or 'none'}.")
        return path
    names = _names(folder)
    if not names:
        raise InputError(f"There is no checkpoint in {folder}. --load-dir takes the nerfstudio_models folder of a run.")
    return folder / names[-1]


def _names(folder: Path) -> List[str]:
    return sorted(path.name for path in folder.glob("step-*.ckpt")) if folder.is_dir() else []


def read(path: Path) -> Dict[str, Any]:
    """Load a checkpoint into main memory; no code in it is run.

    Raises:
        InputError: where the file is missing, damaged or no checkpoint of a training.
    """
    if not path.is_file():
        raise InputError(f"There is no checkpoint {path}.")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        cause = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"The checkpoint {path} cannot be read: {cause}") from error
    missing = [key for key in ("step", "pipeline", "optimizers", "schedulers", "scalers") if key not in state]
    if missing:
        raise InputError(f"{path} is not a checkpoint of a training: it lacks {describe(missing)}.")
    return state


@contextlib.contextmanager
def named(path: Path, state: Mapping[str, Any]) -> Iterator[None]:
    """Say in every InputError which checkpoint it is about, and of which method that is."""
    try:
        yield
    except InputError as error:
        method = f", which was trained with {state['method']}" if "method" in state else ""
        raise InputError(
            f"Cannot go on from {path}{method}. {error} The config.yml of its run says how it was trained."
        ) from error


def check_names(saved: Collection[str], present: Collection[str], what: str) -> None:
    """The checkpoint has the parts that the training has which is to go on with it; ``what`` is what to call them.

    Raises:
        InputError: naming those that are missing or unknown.
    """
    unknown, absent = sorted(set(saved) - set(present)), sorted(set(present) - set(saved))
    if unknown or absent:
        raise InputError(
            f"The checkpoint is of another method, or of other settings: {_differences(absent, unknown, what)}"
        )


def check_moments(saved: Mapping[str, Any], optimizers: Mapping[str, Optimizer]) -> None:
    """What optimizers remember of each parameter has the parameter's shape; fused Adam would read beyond its end.

    Args:
        saved: ``state_dict`` of every optimizer, by name.
        optimizers: of the same names; their parameters hold the checkpoint's values already.

    Raises:
        InputError: naming the optimizer that does not fit.
    """
    for name, optimizer in optimizers.items():
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        for index, memory in saved[name]["state"].items():
            expected = parameters[index].shape if index < len(parameters) else None
            for value in memory.values():
                if isinstance(value, Tensor) and value.ndim > 0 and value.shape != expected:
                    raise InputError(f"The checkpoint is damaged: the optimizer {name} does not fit its parameters.")


def check_state(module: nn.Module, state: Mapping[str, Any], growing: str) -> None:
    """A saved state fits a module: the same names, and the same shapes but for the number of splats.

    nerfstudio's pipeline catches torch's own error and loads what it can without a word, so this comes first.

    Args:
        module: what the state is to be loaded into.
        state: as from ``state_dict``.
        growing: prefix of the entries whose first axis may have any length, the same in all of them.

    Raises:
        InputError: naming the entries that differ.
    """
    own = module.state_dict()
    check_names(state, own, "entries")
    rows = {len(value) for name, value in state.items() if name.startswith(growing)}
    if len(rows) > 1:
        raise InputError(f"The checkpoint is damaged: its splats have {describe(sorted(rows))} rows.")
    for name, value in own.items():
        if not isinstance(value, Tensor):
            continue
        skip = 1 if name.startswith(growing) else 0
        if state[name].shape[skip:] != value.shape[skip:]:
            raise InputError(
                f"The checkpoint was trained with other settings: {name} has shape {list(state[name].shape)} there, "
                f"and {list(value.shape)} here."
            )


def below(state: Mapping[str, Any], prefix: str) -> Dict[str, Any]:
    """The entries whose names begin with a prefix, without it."""
    return {name[len(prefix) :]: value for name, value in state.items() if name.startswith(prefix)}


def _differences(missing: List[str], unexpected: List[str], what: str) -> str:
    parts = []
    if missing:
        parts.append(f"it lacks the {what} {describe(missing)}")
    if unexpected:
        parts.append(f"it has {what} that are unknown here, {describe(unexpected)}")
    return " and ".join(parts) + "."


def random_state() -> Dict[str, Any]:
    """State of torch's random generators, as tensors."""
    state: Dict[str, Any] = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def restore_random_state(state: Mapping[str, Any]) -> None:
    """Take over what :func:`random_state` gave, for the devices that are there."""
    if "cpu" in state:
        torch.set_rng_state(state["cpu"])
    if "cuda" in state and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
