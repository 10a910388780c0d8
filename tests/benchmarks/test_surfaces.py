# SPDX-License-Identifier: Apache-2.0
"""The benchmark of surfaces: which commands it gives, and what it makes of their results."""

import json
from pathlib import Path
from typing import List

import pytest
from PIL import Image

from benchmarks import _report, quality, surfaces
from benchmarks._commands import Usage
from nts_plugins.errors import InputError

CHAMFERS = {"splat": 0.2, "splat-surface": 0.1}


class FakeCommands:
    """Leaves the files that nerfstudio's and our commands leave."""

    def __init__(self) -> None:
        self.calls: List[List[str]] = []

    def __call__(self, command: List[str], log: Path) -> Usage:
        self.calls.append(command)

        def argument(name: str) -> str:
            return command[command.index(name) + 1]

        if command[0] == "ns-train":
            run = Path(argument("--output-dir")) / argument("--experiment-name") / command[1] / "run"
            run.mkdir(parents=True, exist_ok=True)
        if command[0] == "ns-eval":
            pictures = Path(argument("--render-output-path"))
            pictures.mkdir(parents=True)
            Image.new("RGB", (40, 15)).save(pictures / "eval_img_0000.png")
            results = {"psnr": 25.0, "ssim": 0.5, "gaussian_count": 100.0}
            Path(argument("--output-path")).write_text(json.dumps({"results": results}))
        if command[:2] == ["nts", "compare-geometry"]:
            output = Path(argument("--output-path"))
            output.parent.mkdir(parents=True, exist_ok=True)
            (method,) = (name for name in CHAMFERS if output.stem.endswith(f"_{name}"))
            scores = {"chamfer": CHAMFERS[method], "f_score": 0.5, "normal_degrees": 20.0}
            output.write_text(json.dumps(scores))
        return Usage(10.0, 700)


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeCommands:
    fake = FakeCommands()
    for module in (quality, surfaces):
        monkeypatch.setattr(module, "run_command", fake)
    monkeypatch.setattr(quality, "read_times", lambda folder, started: (4.0, 25.0))
    monkeypatch.setattr(_report, "FOLDER", tmp_path / "results")
    return fake


def options(tmp_path: Path, **changes) -> surfaces.Options:
    values = {"methods": tuple(CHAMFERS), "seeds": (1, 2), "iterations": 30, "name": "s", "work": tmp_path / "work"}
    return surfaces.Options(**{**values, **changes})


def test_methods_share_seeds_data_and_scores(commands: FakeCommands, tmp_path: Path) -> None:
    surfaces.main(options(tmp_path))
    trained = [call for call in commands.calls if call[0] == "ns-train"]
    assert [call[1] for call in trained] == ["splat", "splat-surface"] * 2
    assert [call[call.index("--machine.seed") + 1] for call in trained] == ["1", "1", "2", "2"]
    assert len({call[call.index("--data") + 1] for call in trained}) == 1
    compared = [call for call in commands.calls if call[:2] == ["nts", "compare-geometry"]]
    meshed = [call for call in commands.calls if call[:2] == ["nts", "mesh"]]
    assert [call[2] for call in compared] == [call[call.index("--output-path") + 1] for call in meshed]
    methods, trainings = json.loads((tmp_path / "results" / "s.json").read_text())["tables"]
    plain, surface = methods["rows"]
    assert (plain["Chamfer cm"], plain["change"]) == ("20.00 \u00b1 0.00", None)
    assert (surface["Chamfer cm"], surface["change"]) == ("10.00 \u00b1 0.00", "-50.0 %")
    assert len(trainings["rows"]) == 4


def test_finished_trainings_are_not_measured_again(commands: FakeCommands, tmp_path: Path) -> None:
    surfaces.main(options(tmp_path, seeds=(1,)))
    commands.calls = []
    surfaces.main(options(tmp_path))
    assert [call[1] for call in commands.calls if call[0] == "ns-train"] == ["splat", "splat-surface"]
    with pytest.raises(InputError, match="was measured with"):
        surfaces.main(options(tmp_path, size="160x120"))
    commands.calls = []
    surfaces.main(options(tmp_path, options="--more 1", force=True))
    assert len([call for call in commands.calls if call[0] == "ns-train"]) == 4, "no training of other options is used"


def test_the_table_has_a_scale_of_its_own(
    commands: FakeCommands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    monkeypatch.setattr(surfaces, "write_table", lambda folder, *more: made.append(more[1:]) or folder)
    surfaces.main(options(tmp_path, scene="table", seeds=(1,), views=20, size="80x60"))
    assert made[0] == (20, (80, 60)) and not any(call[:2] == ["nts", "sample"] for call in commands.calls)
    (mesh, *_), (compare, *_) = (
        [call for call in commands.calls if call[:2] == ["nts", name]] for name in ("mesh", "compare-geometry")
    )
    assert mesh[mesh.index("--voxel") + 1] == "0.004" and mesh[mesh.index("--region") + 1] == "2.2"
    assert compare[compare.index("--threshold") + 1] == "0.01" and compare[compare.index("--margin") + 1] == "0.02"
