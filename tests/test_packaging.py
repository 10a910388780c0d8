# SPDX-License-Identifier: Apache-2.0
"""The package as it is installed: what a wheel contains, what its entry points load, and torchvision beside it."""

import importlib.metadata
import importlib.util
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any, Dict, Set

import pytest

import nts_plugins
from nts_plugins import compat

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

REPOSITORY = Path(__file__).resolve().parent.parent


def project_table() -> Dict[str, Any]:
    return tomllib.loads((REPOSITORY / "pyproject.toml").read_text())


def packages_in_the_tree() -> Set[str]:
    """Every folder that holds Python files, by the name it is imported under."""
    names = set()
    for root, package in (("nts_plugins", "nts_plugins"), ("method_configs", "nts_plugins.method_configs")):
        for path in (REPOSITORY / root).rglob("*.py"):
            names.add(".".join([package, *path.parent.relative_to(REPOSITORY / root).parts]))
    return names


def test_every_folder_is_packaged() -> None:
    table = project_table()["tool"]["setuptools"]
    listed = table["packages"]
    assert len(listed) == len(set(listed))
    assert set(listed) == packages_in_the_tree()
    for package in listed:
        folder = package.replace("nts_plugins.method_configs", "method_configs").replace(".", "/")
        assert (REPOSITORY / folder / "__init__.py").is_file(), f"{package} has no __init__.py"


def test_one_version() -> None:
    assert project_table()["project"]["version"] == nts_plugins.__version__
    assert importlib.metadata.version("nts-plugins") == nts_plugins.__version__
    assert f"## {nts_plugins.__version__}" in (REPOSITORY / "CHANGELOG.md").read_text()
    assert f"version: {nts_plugins.__version__}\n" in (REPOSITORY / "CITATION.cff").read_text()


def test_ci_runs_the_command_of_the_readme() -> None:
    readme, ci = ((REPOSITORY / name).read_text() for name in ("README.md", ".ci/run"))
    install, test = "pip install -e '.[test]'", "pytest -n 2"
    assert f"\n{install} && {test}\n" in readme
    commands = [line.strip().replace(" --quiet", "") for line in ci.splitlines()]
    assert install in commands
    assert any(line.startswith(f"{test} ") for line in commands)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy of the tree, so that building leaves nothing behind in the checkout."""
    source = tmp_path_factory.mktemp("source")
    for name in ("nts_plugins", "method_configs"):
        shutil.copytree(REPOSITORY / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.nb?"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source / name)
    target = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-build-isolation",
        "--no-deps",
        "-w",
        str(target),
        str(source),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = target.glob("nts_plugins-*.whl")
    return built


def test_wheel_holds_every_source_file(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if name.endswith(".py")}
    expected = {path.relative_to(REPOSITORY).as_posix() for path in (REPOSITORY / "nts_plugins").rglob("*.py")}
    recipes = (REPOSITORY / "method_configs").rglob("*.py")
    expected |= {"nts_plugins/" + path.relative_to(REPOSITORY).as_posix() for path in recipes}
    assert names == expected


INSTALLED_PROBE = """
import sys
from importlib.metadata import PathDistribution
from pathlib import Path

site = Path(sys.argv[1])
sys.path.insert(0, str(site))
import nts_plugins
from nts_plugins import method_configs
assert Path(nts_plugins.__file__) == site / "nts_plugins" / "__init__.py", nts_plugins.__file__
assert Path(method_configs.__file__) == site / "nts_plugins" / "method_configs" / "__init__.py", method_configs.__file__
distribution = PathDistribution(next(site.glob("nts_plugins-*.dist-info")))
for entry in distribution.entry_points:
    loaded = entry.load()
    module = sys.modules[entry.module]
    assert Path(module.__file__).is_relative_to(site), module.__file__
    print(entry.group, entry.name, type(loaded).__name__)
"""


def test_entry_points_of_the_wheel_load(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    command = [sys.executable, "-c", INSTALLED_PROBE, str(site)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    loaded = {tuple(line.split()[:2]): line.split()[2] for line in done.stdout.splitlines()}
    assert loaded[("nerfstudio.method_configs", "splat")] == "MethodSpecification"
    assert loaded[("console_scripts", "nts")] == "function"
    assert loaded[("torch.backends", "nts_torchvision")] == "function"


def test_torchvision_imports_beside_any_torch() -> None:
    """nerfstudio imports torchvision first thing, so this must work for every build of torch."""
    pytest.importorskip("torch")
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    code = "import torch, torchvision; from torchvision.transforms import Resize; print(torchvision.__version__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_torchvision_is_left_alone_where_torch_has_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    def fail(*_args: object, **_kwargs: object) -> None:
        raise AssertionError("a CUDA build of torch was touched")

    monkeypatch.setattr(torch.version, "cuda", "12.4")
    monkeypatch.setattr(compat, "_torchvision_ops", None)
    monkeypatch.setattr(torch.library, "Library", fail)
    monkeypatch.setattr(torch.ops, "load_library", fail)
    compat.make_torchvision_importable()
    assert compat._torchvision_ops is None


def test_torchvision_operators_are_declared_when_its_extension_wants_cuda(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A torchvision whose extension cannot be loaded gets its two operators declared; one that loads gets nothing."""
    import torch

    (tmp_path / "_C.so").write_bytes(b"not a library")
    spec = importlib.util.spec_from_loader("torchvision", loader=None, is_package=True)
    assert spec is not None
    spec.submodule_search_locations = [str(tmp_path)]
    defined = []

    class RecordingLibrary:
        def __init__(self, *arguments: str) -> None:
            defined.append(arguments)

        def define(self, schema: str) -> None:
            defined.append(schema.split("(", maxsplit=1)[0])

    monkeypatch.setattr(compat.importlib.util, "find_spec", lambda name: spec)
    monkeypatch.setattr(compat, "_torchvision_ops", None)
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.library, "Library", RecordingLibrary)
    monkeypatch.setattr(torch.ops, "load_library", lambda path: None)
    compat.make_torchvision_importable()
    assert defined == []

    def cannot_load(path: str) -> None:
        raise OSError("libcudart.so.12: cannot open shared object file")

    monkeypatch.setattr(torch.ops, "load_library", cannot_load)
    compat.make_torchvision_importable()
    assert defined == [("torchvision", "DEF"), "nms", "qnms"]
    compat.make_torchvision_importable()  # a second call must not declare them twice
    assert len(defined) == 3
