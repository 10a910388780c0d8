# SPDX-License-Identifier: Apache-2.0
"""Checkpoints are written whole or not at all, hold plain data, and say what is wrong when they do not fit."""

import contextlib
import signal
from pathlib import Path
from typing import Any, Dict, Iterator

import pytest
import torch
from torch import nn

from nts_plugins.errors import InputError
from nts_plugins.training import checkpoints

STATE: Dict[str, Any] = {
    "step": 3,
    "pipeline": {"weight": torch.arange(4000.0)},
    "optimizers": {"means": {"state": {}, "param_groups": [{"lr": 0.1, "params": [0]}]}},
    "schedulers": {},
    "scalers": {},
}


resource = pytest.importorskip("resource", reason="Windows cannot limit the size of files")


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file may grow beyond ``size`` bytes, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_what_was_written_is_read_without_running_code(tmp_path: Path) -> None:
    path = tmp_path / "models" / "step-000000003.ckpt"
    checkpoints.write(STATE, path, workspace=tmp_path)
    read = checkpoints.read(path)
    assert read["step"] == 3 and torch.equal(read["pipeline"]["weight"], STATE["pipeline"]["weight"])
    assert sorted(each.name for each in tmp_path.iterdir()) == ["models"]


def test_a_full_disk_leaves_the_last_checkpoint_and_no_rest(tmp_path: Path) -> None:
    path = tmp_path / "models" / "step-000000003.ckpt"
    checkpoints.write(STATE, path, workspace=tmp_path)
    before = path.read_bytes()
    with largest_file(4096), pytest.raises(InputError, match="Cannot save the checkpoint .*Earlier .* untouched"):
        checkpoints.write({**STATE, "step": 4}, path, workspace=tmp_path)
    assert path.read_bytes() == before
    assert sorted(each.name for each in tmp_path.iterdir()) == ["models"]


def test_a_folder_that_cannot_be_made_is_reported(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("a file")
    with pytest.raises(InputError, match="Cannot save the checkpoint"):
        checkpoints.write(STATE, tmp_path / "models" / "step-000000003.ckpt", workspace=tmp_path)


def test_newest_and_named_checkpoints_are_found(tmp_path: Path) -> None:
    for step in (9, 100, 20):
        (tmp_path / f"step-{step:09d}.ckpt").touch()
    (tmp_path / "notes.txt").touch()
    assert checkpoints.find(tmp_path).name == "step-000000100.ckpt"
    assert checkpoints.find(tmp_path, 20).name == "step-000000020.ckpt"
    with pytest.raises(InputError, match="no checkpoint .*step-000000021.*step-000000009"):
        checkpoints.find(tmp_path, 21)
    with pytest.raises(InputError, match="no checkpoint in"):
        checkpoints.find(tmp_path / "nowhere")


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", None])
def test_damaged_files_are_reported(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "step-000000001.ckpt"
    if content is None:
        checkpoints.write(STATE, path, workspace=tmp_path)
        content = path.read_bytes()[:-2000]
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"{path.name} cannot be read"):
        checkpoints.read(path)


def test_a_file_that_is_no_training_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"conv.weight": torch.ones(2)}, path)
    with pytest.raises(InputError, match="not a checkpoint of a training: it lacks step, pipeline"):
        checkpoints.read(path)


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    class Harmful:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "harm",))

    torch.save({**STATE, "extra": Harmful()}, tmp_path / "step-000000001.ckpt")
    with pytest.raises(InputError, match="cannot be read"):
        checkpoints.read(tmp_path / "step-000000001.ckpt")
    assert not (tmp_path / "harm").exists()


class Splats(nn.Module):
    def __init__(self, count: int, width: int = 3, extra: str = "") -> None:
        super().__init__()
        self.params = nn.ParameterDict({"means": nn.Parameter(torch.rand(count, 3))})
        self.params["code"] = nn.Parameter(torch.rand(count, width))
        if extra:
            self.params[extra] = nn.Parameter(torch.rand(count))


def test_states_of_any_number_of_splats_fit() -> None:
    checkpoints.check_state(Splats(3), Splats(8).state_dict(), growing="params.")
    with pytest.raises(InputError, match=r"has shape \[8, 3\] there, and \[3, 3\] here"):
        checkpoints.check_state(Splats(3), Splats(8).state_dict(), growing="others.")


def test_states_that_do_not_fit_are_explained() -> None:
    with pytest.raises(InputError, match="lacks the entries params.label"):
        checkpoints.check_state(Splats(3, extra="label"), Splats(3).state_dict(), growing="params.")
    with pytest.raises(InputError, match="unknown here, params.label"):
        checkpoints.check_state(Splats(3), Splats(3, extra="label").state_dict(), growing="params.")
    with pytest.raises(InputError, match=r"params.code has shape \[8, 5\] there, and \[3, 3\] here"):
        checkpoints.check_state(Splats(3), Splats(8, width=5).state_dict(), growing="params.")
    damaged = {**Splats(8).state_dict(), "params.code": torch.rand(7, 3)}
    with pytest.raises(InputError, match="damaged"):
        checkpoints.check_state(Splats(3), damaged, growing="params.")


def test_random_numbers_go_on_where_they_were() -> None:
    state = checkpoints.random_state()
    expected = torch.rand(5)
    torch.rand(100)
    checkpoints.restore_random_state(state)
    assert torch.equal(torch.rand(5), expected)


def test_an_interrupted_save_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints.torch, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.write(STATE, tmp_path / "step-000000001.ckpt", workspace=tmp_path)
    assert not list(tmp_path.iterdir())


def test_moments_of_other_splats_are_refused() -> None:
    """Fused Adam reads beyond their end."""
    parameter = nn.Parameter(torch.rand(5, 3))
    optimizer = torch.optim.Adam([parameter])
    parameter.grad = torch.ones(5, 3)
    optimizer.step()
    saved = optimizer.state_dict()
    checkpoints.check_moments({"means": saved}, {"means": optimizer})
    saved["state"][0]["exp_avg"] = torch.zeros(4, 3)
    with pytest.raises(InputError, match="damaged: the optimizer means"):
        checkpoints.check_moments({"means": saved}, {"means": optimizer})
    saved["state"] = {1: {"exp_avg": torch.zeros(5, 3)}}
    with pytest.raises(InputError, match="damaged"):
        checkpoints.check_moments({"means": saved}, {"means": optimizer})


def test_what_a_kill_left_is_removed_by_the_next_save(tmp_path: Path) -> None:
    (tmp_path / ".step-000000001.ckpt.partial").write_bytes(b"half")
    checkpoints.write(STATE, tmp_path / "step-000000002.ckpt", workspace=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000002.ckpt"]
