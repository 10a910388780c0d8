# SPDX-License-Identifier: Apache-2.0
"""What depends on versions of other packages."""

import io
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from nts_plugins import compat
from nts_plugins.errors import InputError


def test_nerfstudios_checkpoints_are_read_without_running_code() -> None:
    """Its exponential schedule stores numpy scalars, which torch >= 2.6 takes for code."""
    from nerfstudio.engine.schedulers import ExponentialDecaySchedulerConfig

    compat.allow_nerfstudio_checkpoints()
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.ones(2))], lr=0.1)
    schedule = ExponentialDecaySchedulerConfig(lr_final=0.01, max_steps=10).setup()
    schedule = schedule.get_scheduler(optimizer, lr_init=0.1)
    for _ in range(3):
        optimizer.step()
        schedule.step()
    assert isinstance(schedule.get_last_lr()[0], np.float64), "nerfstudio mended it: the workaround can go"
    file = io.BytesIO()
    torch.save({"schedulers": {"means": schedule.state_dict()}, "optimizers": optimizer.state_dict()}, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    assert loaded["schedulers"]["means"]["_last_lr"] == schedule.get_last_lr()


def test_a_viewer_starts_while_processes_end(monkeypatch: pytest.MonkeyPatch) -> None:
    import psutil
    from viser import _client_autobuild

    class Gone:
        def cwd(self) -> str:
            raise psutil.NoSuchProcess(1)

    looks = iter([[Gone()], [Gone()], []])
    monkeypatch.setattr(psutil, "process_iter", lambda: next(looks))
    # Pipelines of this process may have put it there before.
    found = _client_autobuild._check_viser_yarn_running
    monkeypatch.setattr(_client_autobuild, "_check_viser_yarn_running", getattr(found, "__wrapped__", found))
    with pytest.raises(psutil.NoSuchProcess):
        _client_autobuild._check_viser_yarn_running()
    for _ in range(2):
        compat.let_viewers_start_beside_other_processes()
    assert not _client_autobuild._check_viser_yarn_running()


def test_torch_load_is_left_alone() -> None:
    import nts_plugins.method_configs  # noqa: F401 - what nerfstudio's commands import

    assert torch.load.__module__ == "torch.serialization"


@pytest.mark.parametrize("name,expected", [("torch", True), ("no-such-distribution", False)])
def test_version_of(name: str, expected: bool) -> None:
    numbers = compat.version_of(name)
    assert bool(numbers) == expected and all(isinstance(number, int) for number in numbers)


POINTS = "0 0 0\n0.5 -2 1e3\n1 2 3"
COLORED = "0 0 0 0 1 2\n0.5 -2 1e3 253 254 255\n1 2 3 100 127 128"


def ply(path: Path, rows: str, number: str = "float", colors: bool = False, faces: str = "") -> Path:
    columns = [f"property {number} {axis}" for axis in "xyz"]
    columns += [f"property uchar {name}" for name in ("red", "green", "blue")] if colors else []
    columns += ["element face 1", "property list uchar int vertex_indices"] if faces else []
    header = ["ply", "format ascii 1.0", f"element vertex {len(rows.splitlines())}", *columns, "end_header"]
    path.write_text("\n".join([*header, rows, faces]))
    return path


@pytest.mark.parametrize("faces", ["", "3 0 1 2"], ids=["points", "mesh"])
@pytest.mark.parametrize("number", ["float", "double"])
def test_seed_points_are_read_without_open3d(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: str, faces: str
) -> None:
    monkeypatch.delitem(sys.modules, "open3d", raising=False)
    path = ply(tmp_path / "points.ply", COLORED, number, colors=True, faces=faces)
    with compat.point_clouds_without_open3d():
        import open3d

        cloud = open3d.io.read_point_cloud(str(path))
    assert cloud.points.tolist() == [[0, 0, 0], [0.5, -2, 1000], [1, 2, 3]]
    # As nerfstudio turns them back into whole numbers.
    assert (cloud.colors * 255).astype(np.uint8).tolist() == [[0, 1, 2], [253, 254, 255], [100, 127, 128]]


def test_seed_points_without_colors_and_without_points(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delitem(sys.modules, "open3d", raising=False)
    with compat.point_clouds_without_open3d():
        import open3d

        plain = open3d.io.read_point_cloud(str(ply(tmp_path / "plain.ply", POINTS)))
        empty = open3d.io.read_point_cloud(str(ply(tmp_path / "empty.ply", "")))
    assert plain.points.shape == (3, 3) and plain.colors.shape == (0, 3)
    assert empty.points.shape == (0, 3) and empty.colors.shape == (0, 3)


def test_damaged_seed_points(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delitem(sys.modules, "open3d", raising=False)
    (tmp_path / "points.ply").write_text("not points")
    with compat.point_clouds_without_open3d(), pytest.raises(InputError, match=r"points\.ply cannot be read"):
        import open3d

        open3d.io.read_point_cloud(str(tmp_path / "points.ply"))


def test_open3d_is_not_hidden_for_good(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "open3d", raising=False)
    with pytest.raises(RuntimeError), compat.point_clouds_without_open3d():
        assert "open3d" in sys.modules
        raise RuntimeError
    assert "open3d" not in sys.modules
    imported = ModuleType("open3d")
    monkeypatch.setitem(sys.modules, "open3d", imported)
    with compat.point_clouds_without_open3d():
        assert sys.modules["open3d"] is imported
