# SPDX-License-Identifier: Apache-2.0
"""The benchmarks of training: parts of an iteration, and quality over time that survives an interruption."""

import json
import sys
import time
from pathlib import Path
from typing import Dict, List, Tuple

import pytest
import torch
from PIL import Image

from benchmarks import _commands, _report, iteration, quality, textures
from benchmarks._commands import Usage, run_command
from benchmarks._report import Report
from nts_plugins.errors import InputError

# ------------------------------------------------------------------------------------------------ one iteration


def test_a_part_inside_another_is_counted_once() -> None:
    watch = iteration.Watch()

    def inner() -> None:
        time.sleep(0.02)

    timed = watch.wrap(inner, lambda: "inner")
    watch.begin_iteration()
    with watch.part("outer"):
        time.sleep(0.01)
        timed()
        time.sleep(0.01)
    watch.begin_iteration()
    first = watch.iterations[0]
    assert first.parts["inner"].wall == pytest.approx(0.02, abs=0.008)
    assert first.parts["outer"].wall == pytest.approx(0.02, abs=0.008)
    assert first.total.wall == pytest.approx(0.04, abs=0.01)


def test_functions_are_put_back() -> None:
    class Owner:
        def method(self) -> int:
            return 1

    owner = Owner()
    with iteration._replaced(owner, "method", lambda: 2):
        assert owner.method() == 2
    assert owner.method() == 1 and "method" not in vars(owner)


@pytest.mark.parametrize("method", ["splat", "splatfacto-nts", "splat-dynamic"])
def test_iteration_benchmark_runs_small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, method: str) -> None:
    """A real training of a few steps: kernels and host parts are told apart and add up to the iteration."""
    monkeypatch.setattr(_report, "FOLDER", tmp_path)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    sizes = {"splats": (1500,), "image": (96, 64), "steps": 12, "warm_up": 3, "views": 9}
    iteration.main(iteration.Options(method=method, name="small", **sizes))
    (table,) = json.loads((tmp_path / "small.json").read_text())["tables"]
    rows: Dict[str, dict] = {row["part"]: row for row in table["rows"]}
    total, kernels = rows["**iteration**"]["ms"], rows["**sum of kernels**"]["ms"]
    assert 0 < kernels < total
    further = {
        "splat": set(),
        "splatfacto-nts": set(iteration.TEXTURE_KERNELS.values()),
        "splat-dynamic": {"motion's field", "tri-planes", "tri-planes, backward"},
    }
    seen = set(iteration.KERNELS.values()) | further[method]
    for part in seen:
        assert rows[part]["ms"] > 0, f"{part} was never seen"
    for part in ("data", "strategy", "model around the kernels", "autograd around the kernels"):
        assert rows[part]["ms"] > 0, f"{part} was never seen"
    parts = sum(row["ms"] for name, row in rows.items() if not name.startswith("**"))
    assert parts == pytest.approx(total, rel=0.01)


# ------------------------------------------------------------------------------------------------ commands


def test_a_command_is_accounted_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(_commands.shutil, "which", lambda name: sys.executable)
    code = "import time; block = bytearray(80 * 2**20); print('made', len(block)); time.sleep(0.1)"
    usage = run_command(["some-python", "-c", code], tmp_path / "logs" / "log")
    assert 80 < usage.peak_mib < 400 and 0.1 < usage.seconds < 30
    assert (tmp_path / "logs" / "log").read_text() == f"made {80 * 2**20}\n"
    # A second, smaller process has a smaller peak: each is accounted for alone.
    assert run_command(["some-python", "-c", "import time; time.sleep(0.3)"], tmp_path / "log").peak_mib < 80


def test_a_command_that_fails_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(_commands.shutil, "which", lambda name: sys.executable)
    with pytest.raises(InputError, match="failed.*\n.*no such scene"):
        run_command(["some-python", "-c", "raise SystemExit('no such scene')"], tmp_path / "log")
    monkeypatch.setattr(_commands.shutil, "which", lambda name: None)
    with pytest.raises(InputError, match="nothing-like-it is not installed"):
        run_command(["nothing-like-it"], tmp_path / "log")


# ------------------------------------------------------------------------------------------------ quality over time


class FakeCommands:
    """Stands in for ns-train and ns-eval: leaves the files that they leave, and remembers what was asked."""

    def __init__(self) -> None:
        self.calls: List[List[str]] = []
        self.fail_at = ""

    def __call__(self, command: List[str], log: Path) -> Usage:
        self.calls.append(command)
        label = f"{command[0]} {log.stem}"
        if self.fail_at and self.fail_at in label:
            raise InputError("disk full")
        if command[0] == "ns-train":
            base = Path(command[command.index("--output-dir") + 1])
            folder = base / command[command.index("--experiment-name") + 1] / command[1] / "run"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "config.yml").write_text("config")
        if command[0] == "ns-eval":
            pictures = Path(command[command.index("--render-output-path") + 1])
            pictures.mkdir(parents=True)
            for index in range(4):
                both = Image.new("RGB", (40, 15), (60 * index, 0, 0))
                both.paste((60 * index, len(self.calls), 0), (20, 0, 40, 15))
                both.save(pictures / f"eval_img_{index:04d}.png")
            output = Path(command[command.index("--output-path") + 1])
            metrics = {"psnr": 20.0 + len(self.calls), "ssim": 0.5, "gaussian_count": 123.0}
            output.write_text(json.dumps({"results": metrics}))
        return Usage(10.0, 700)

    def trainings(self) -> List[Tuple[str, str]]:
        """Iterations asked for, and whether training began from a checkpoint."""
        picked = [call for call in self.calls if call[0] == "ns-train"]
        return [(c[c.index("--max-num-iterations") + 1], "on" if "--load-dir" in c else "new") for c in picked]


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeCommands:
    fake = FakeCommands()
    monkeypatch.setattr(quality, "run_command", fake)
    monkeypatch.setattr(quality, "read_times", lambda folder, started: (4.0, 25.0))
    monkeypatch.setattr(_report, "FOLDER", tmp_path / "results")
    (tmp_path / "data" / "fox").mkdir(parents=True)
    monkeypatch.setenv("NTS_TEST_DATA", str(tmp_path / "data"))
    return fake


def options(tmp_path: Path, **changes) -> quality.Options:
    values = {"cases": ("fox:0.5", "missing:1"), "marks": (10, 30), "work": tmp_path / "work", "name": "q"}
    return quality.Options(**{**values, **changes})


def rows(tmp_path: Path) -> List[dict]:
    return json.loads((tmp_path / "results" / "q.json").read_text())["tables"][0]["rows"]


def test_training_goes_on_from_mark_to_mark(
    commands: FakeCommands, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quality.main(options(tmp_path))
    assert commands.trainings() == [("10", "new"), ("30", "on")]
    first, second = rows(tmp_path)
    assert (first["iterations"], first["training s"], first["commands s"], first["image"]) == (10, 4.0, 10.0, "20x15")
    assert (second["iterations"], second["training s"], second["commands s"], second["splats"]) == (30, 8.0, 20.0, 123)
    sheet = Image.open(tmp_path / "work" / "pictures" / "q_fox_0.5_30.png")
    assert sheet.size == (40, 45)
    out = capsys.readouterr().out
    assert "missing is left out" in out and "left: unknown" in out and "left: about" in out


def test_finished_rows_are_not_measured_again(commands: FakeCommands, tmp_path: Path) -> None:
    commands.fail_at = "30_train"
    with pytest.raises(InputError):
        quality.main(options(tmp_path))
    assert [row["iterations"] for row in rows(tmp_path)] == [10]
    commands.fail_at, commands.calls = "", []
    quality.main(options(tmp_path))
    assert commands.trainings() == [("30", "on")], "the first stage was done"
    commands.calls = []
    quality.main(options(tmp_path))
    assert commands.calls == []
    quality.main(options(tmp_path, force=True))
    assert commands.trainings() == [("10", "new"), ("30", "on")]


def test_other_settings_need_another_name(commands: FakeCommands, tmp_path: Path) -> None:
    quality.main(options(tmp_path, marks=(10,)))
    with pytest.raises(InputError, match="Use --name for another result"):
        quality.main(options(tmp_path, method_options="--pipeline.model.strategy mcmc"))
    quality.main(options(tmp_path, marks=(10,), name="mcmc", method_options="--pipeline.model.strategy mcmc"))
    assert "mcmc" in commands.calls[-2]


def test_case_that_cannot_be_read() -> None:
    assert quality.Case.parse("fox") == quality.Case("fox", 1.0)
    with pytest.raises(InputError, match="expected scene:scale"):
        quality.Case.parse("fox:half")


def test_times_come_from_the_log(tmp_path: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    started = time.time()
    with SummaryWriter(log_dir=str(tmp_path)) as writer:
        for step in range(150):
            writer.add_scalar("Train Iter (time)", 0.5 if step < 50 else 0.02, step, walltime=1000.0 + 0.1 * step)
    loop, milliseconds = quality.read_times(tmp_path, started)
    assert loop == pytest.approx(14.9 + 0.5, abs=1e-3)
    assert milliseconds == pytest.approx(20.0, abs=1e-3)


def test_provenance_holds_settings_and_no_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("NTS_TEST_DATA", str(tmp_path))
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    report = Report("x", "X", folder=tmp_path)
    assert report.provenance["environment"]["OMP_NUM_THREADS"] == "1"
    report.write()
    assert all(str(tmp_path) not in path.read_text() for path in report.paths())


def test_provenance_names_the_method(tmp_path: Path) -> None:
    report = Report("x", "X", folder=tmp_path)
    assert quality.finished_rows(report) == []


# ------------------------------------------------------------------------------------------- what textures gain


def texture_options(tmp_path: Path, **changes) -> textures.Options:
    values = {"cases": ("fox:0.5:8", "missing:1"), "seeds": (1, 2), "iterations": 30, "name": "t"}
    return textures.Options(**{**values, "work": tmp_path / "work", **changes})


def test_both_methods_train_on_the_same_seeds(commands: FakeCommands, tmp_path: Path) -> None:
    textures.main(texture_options(tmp_path, textured_options="--more 1"))
    trained = [call for call in commands.calls if call[0] == "ns-train"]
    assert [call[1] for call in trained] == ["splat", "splatfacto-nts"] * 2
    for call, seed in zip(trained, ("1", "1", "2", "2"), strict=True):
        assert call[call.index("--machine.seed") + 1] == seed
        assert call[call.index("--pipeline.datamanager.train-views") + 1] == "8"
        assert ("--more" in call) == (call[1] == "splatfacto-nts")
    gains, trainings = json.loads((tmp_path / "results" / "t.json").read_text())["tables"]
    # The stand-in gives 1 dB more for each command before: a pair's two evaluations are two commands apart.
    (row,) = gains["rows"]
    assert (row["case"], row["seeds"], row["PSNR gain"], row["SSIM gain"]) == (
        "fox:0.5:8",
        2,
        "+2.00 ± 0.00",
        "+0.0000 ± 0.0000",
    )
    assert row["times"] == 1.0 and len(trainings["rows"]) == 4
    # Photograph, without, with; the stand-in's drawings hold how many commands there were.
    sheet = Image.open(tmp_path / "work" / "pictures" / "t_fox_0.5_8_1.png")
    assert sheet.size == (60, 3 * 15)
    assert [sheet.getpixel((x, 20)) for x in (10, 30, 50)] == [(60, 0, 0), (60, 2, 0), (60, 4, 0)]


def test_pairs_are_finished_after_an_interruption(commands: FakeCommands, tmp_path: Path) -> None:
    commands.fail_at = "t_splat_8_2_30_fox_0.5_30_train"
    with pytest.raises(InputError):
        textures.main(texture_options(tmp_path))
    commands.fail_at, commands.calls = "", []
    textures.main(texture_options(tmp_path))
    assert [call[1] for call in commands.calls if call[0] == "ns-train"] == ["splat", "splatfacto-nts"]
    with pytest.raises(InputError, match="Use --name for another result"):
        textures.main(texture_options(tmp_path, iterations=40))
    commands.calls = []
    textures.main(texture_options(tmp_path, textured_options="--more 1", force=True))
    assert len([call for call in commands.calls if call[0] == "ns-train"]) == 4, "nothing of the other options is used"
