# SPDX-License-Identifier: Apache-2.0
"""Files of weights, and what is said of those that hold something else."""

import pickle
from collections import OrderedDict
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from nts_plugins.encoders.weight_files import fill, read
from nts_plugins.errors import InputError

TENSORS = {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.ones(2)}


def fails(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read(path, "a model")
    said = str(caught.value)
    assert said.startswith(f"{path} does not hold weights of a model: ")
    assert said.endswith(". Give the file of these weights instead.")
    assert "\n" not in said and "weights_only" not in said and "trust" not in said.lower()
    return said


@pytest.mark.parametrize("kind", ["torch", "old torch", "safetensors", "state_dict", "model", "both"])
def test_tensors_are_read_by_name(tmp_path: Path, kind: str) -> None:
    path = tmp_path / ("w.safetensors" if kind == "safetensors" else "w.pt")
    if kind == "safetensors":
        save_file(TENSORS, str(path))
    else:
        inner = {"both": {"state_dict": {"model": TENSORS}}, "state_dict": {"state_dict": TENSORS, "step": 3}}
        inner["model"] = {"model": TENSORS, "step": 3}
        torch.save(inner.get(kind, TENSORS), path, _use_new_zipfile_serialization=kind != "old torch")
    found = read(path, "a model")
    assert set(found) == set(TENSORS) and all(torch.equal(found[name], TENSORS[name]) for name in TENSORS)


@pytest.mark.parametrize("content", [b"", b"no weights", b'{"frames": [1, 2]}', b"\x80\x02}q\x00.", bytes(64)])
@pytest.mark.parametrize("name", ["w.pt", "w.safetensors", "transforms.json"])
def test_what_is_no_file_of_weights_is_said_in_own_words(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    said = fails(tmp_path / name)
    assert "it is no file of tensors as torch.save or safetensors write them" in said or "no tensors by name" in said


@pytest.mark.parametrize("content", [[torch.ones(2)], {}, {"a": 3}, {3: torch.ones(2)}, {"model": {}}, torch.ones(2)])
def test_tensors_without_names_are_none(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "w.pt")
    assert "there are no tensors by name in it" in fails(tmp_path / "w.pt")


def test_python_objects_are_not_loaded_nor_recommended(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2), "when": date(2020, 2, 2)}, tmp_path / "w.pt")
    assert "it holds Python objects besides tensors, which are not loaded" in fails(tmp_path / "w.pt")
    (tmp_path / "w.pkl").write_bytes(pickle.dumps({"when": date(2020, 2, 2)}))
    fails(tmp_path / "w.pkl")


@pytest.mark.parametrize("share", [0.3, 0.9])
@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
def test_half_a_file_is_damaged(tmp_path: Path, name: str, share: float) -> None:
    tensors, path = {"a": torch.rand(100)}, tmp_path / name
    if path.suffix == ".pt":
        torch.save(tensors, path)
    else:
        save_file(tensors, str(path))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    assert ("it is damaged, or was not copied as a whole" if name == "w.pt" else "or is damaged") in fails(path)


def test_an_archive_of_something_else_is_no_file_of_weights(tmp_path: Path) -> None:
    np.savez(tmp_path / "w.npz", a=np.ones(3))
    assert "it is no file of tensors" in fails(tmp_path / "w.npz")


def test_a_file_that_may_not_be_read_is_not_called_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(torch, "load", forbidden)
    torch.save(TENSORS, tmp_path / "w.pt")
    assert "it cannot be read (Permission denied)" in fails(tmp_path / "w.pt")


# ---- into networks


def filled(network: nn.Module, state: Any) -> str:
    with pytest.raises(InputError) as caught:
        fill(network, state, Path("w.pt"), "a model")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_network_gets_the_tensors() -> None:
    network, other = nn.Linear(3, 2), nn.Linear(3, 2)
    fill(network, other.state_dict(), Path("w.pt"), "a model")
    assert torch.equal(network.weight, other.weight) and torch.equal(network.bias, other.bias)


def test_old_files_without_a_count_of_batches_still_do() -> None:
    """torch itself adds it, to what has no record of versions."""
    state = {name: value for name, value in nn.BatchNorm1d(2).state_dict().items() if name != "num_batches_tracked"}
    network = nn.BatchNorm1d(2)
    fill(network, OrderedDict({**state, "weight": torch.tensor([3.0, 5.0])}), Path("w.pt"), "a model")
    assert network.weight.tolist() == [3.0, 5.0] and network.num_batches_tracked == 0


def test_of_another_model_it_is_said_what_differs() -> None:
    network = nn.Sequential(*(nn.Linear(3, 2) for _ in range(3)))
    assert filled(network, {"nothing": torch.ones(1)}) == (
        "w.pt does not hold weights of a model, but of another model: it lacks 6 of 6 tensors (0.weight, 0.bias, "
        "1.weight and 3 more), and it has 1 besides (nothing). Give the file of these weights instead."
    )
    state = network.state_dict()
    state["1.weight"] = torch.ones(2, 4)
    assert "another model: it has 1 of another shape (1.weight). Give" in filled(network, state)
    del state["1.weight"]
    assert "another model: it lacks 1 of 6 tensors (1.weight). Give" in filled(network, state)
