# SPDX-License-Identifier: Apache-2.0
"""What commands that train a latent codec have in common: a folder that is finished, to be gone on with, or refused."""

import json
import pickle
from pathlib import Path
from typing import Any, Dict, List

from nts_plugins.errors import InputError, describe

STATE, ABOUT = "unfinished.pt", "training.json"


def is_finished(target: Path, about: Dict[str, Any], save_every: int) -> bool:
    """Whether a folder holds what the same command made before.

    Raises:
        InputError: where it holds something else, or numbers make no sense.
    """
    counts = {**about, "runs": len(about["runs"]), "save-every": save_every}
    for name in ("runs", "steps", "crop", "neighbours", "save-every"):
        if counts.get(name, 1) < 1:
            raise InputError(f"There must be at least one of {name}, and {counts[name]} are asked for.")
    if target.is_file():
        raise InputError(f"{target} is a file. Choose another --output-dir.")
    if (target / ABOUT).is_file():
        _check_same(target, about, json.loads((target / ABOUT).read_text()))
        return True
    if target.exists() and not (target / STATE).is_file() and any(target.iterdir()):
        raise InputError(f"{target} holds something else. Choose another --output-dir.")
    return False


def train(target: Path, about: Dict[str, Any], training: Any, save_every: int) -> None:
    """Take all steps that are left, and write the codec.

    Args:
        target: folder; a state in it is gone on with, and one is written every few steps.
        about: all that the result depends on.
        training: with ``step``, ``done``, ``finished``, ``codec`` and a state.
        save_every: steps.

    Raises:
        InputError: where a state is damaged or of other settings, or something cannot be written.
    """
    import torch

    from nts_plugins.encoders.latents import LatentCodec
    from nts_plugins.files.whole import result_file, writing
    from nts_plugins.progress import progress

    if type(training.codec).save is LatentCodec.save:
        training.codec.save(target)  # It says that it cannot be written, and should do so before all the work.
    _resume(target, about, training)
    recent: List[Dict[str, float]] = []
    last: Dict[str, float] = {}
    with progress("Steps") as (tell, say):
        while not training.finished:
            recent.append(training.step())
            tell(training.done, about["steps"])
            if training.done % save_every == 0 or training.finished:
                last = {name: sum(each[name] for each in recent) / len(recent) for name in recent[0]}
                say(f"{training.done} steps: " + ", ".join(f"{name} {value:.4f}" for name, value in last.items()))
                recent = []
                with result_file(target / STATE) as file:
                    torch.save({**training.state_dict(), "about": about}, file)
    with writing(target):
        training.codec.save(target)
    with result_file(target / ABOUT) as file:
        file.write((json.dumps({**about, "last": last}, indent=2) + "\n").encode())
    (target / STATE).unlink(missing_ok=True)


def _resume(target: Path, about: Dict[str, Any], training: Any) -> None:
    import torch

    if not (target / STATE).is_file():
        return
    try:
        state = torch.load(target / STATE, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
        raise InputError(f"{target / STATE} cannot be read. Remove it to begin anew.") from error
    _check_same(target, about, state["about"])
    training.load_state_dict(state)
    print(f"Going on after step {training.done} of {target}.")


def _check_same(target: Path, about: Dict[str, Any], earlier: Dict[str, Any]) -> None:
    other = [name for name, value in about.items() if earlier.get(name) != value]
    if other:
        raise InputError(
            f"{target} was begun with other settings: {describe(other)}. Choose another --output-dir, or remove it."
        )


def where_to_use(target: Path, name: str) -> str:
    """What is said at the end."""
    return (
        f"{target} holds the weights. Train on them with\n"
        f"  ns-train latent-radiance-field --pipeline.datamanager.codec.name {name}\n"
        f"    --pipeline.datamanager.codec.weights {target} --data ..."
    )


def photograph(dataset: Any, number: int, color: Any) -> Any:
    """[H, W, 3] uint8 of a dataset's picture, over a colour, or black for None, where it has alpha."""
    import torch

    from nts_plugins.appearance.background import over_background

    image = over_background(dataset.get_data(number)["image"], color)
    return (255.0 * image + 0.5).clamp(0, 255).to(torch.uint8)
