# SPDX-License-Identifier: Apache-2.0
"""The same cells as tasks of a real Ray, on this machine."""

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Dict, Iterator, Tuple

import pytest

from nts_plugins.bench.driver import Account, run_bench
from nts_plugins.bench.grid import Grid, Result, Results
from nts_plugins.bench.ray_executor import RayExecutor
from nts_plugins.bench.work import environment
from nts_plugins.errors import InputError
from tests.bench.work import metrics_of

REPOSITORY = Path(__file__).resolve().parent.parent.parent
QUICK = "tests.bench.work:quick"


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The module; nothing of it runs before and after."""
    module = pytest.importorskip("ray")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert not module.is_initialized()
    yield module
    module.shutdown()


def run(folder: Path, features: Tuple[str, ...], executor: RayExecutor, work: str = QUICK, **settings: Any) -> Account:
    request = Grid({"fox": {}, "lion": {}}, features, ("geometry",), 1, settings)
    with patient():
        return run_bench(request, Results(folder), executor, work)


@contextmanager
def patient() -> Iterator[None]:
    """Ray gives itself half a minute to start, which a busy machine of two cores may not do."""
    try:
        yield
    except Exception as error:
        if "timed out during startup" in str(error):
            pytest.skip("this machine is too busy for Ray to start")
        raise


def found(folder: Path) -> Dict[Tuple[str, str], Result]:
    results, damaged = Results(folder).all()
    assert not damaged
    return {(each.cell.scene, each.cell.features): each for each in results}


@pytest.mark.slow
def test_a_ray_of_two_workers(ray: Any, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    executor = RayExecutor(workers=2, threads=3)
    account = run(tmp_path / "a", ("iuv", "wrong", "dies", "broken", "radio"), executor)
    assert not ray.is_initialized(), "what was begun here ends here"
    assert signal.getsignal(signal.SIGTERM) == before
    results = found(tmp_path / "a")
    assert len(results) == 10 and len(account.done) == 4
    for scene in ("fox", "lion"):
        for features in ("iuv", "radio"):
            each = results[scene, features]
            assert each.metrics == pytest.approx(metrics_of(each.cell)) and each.machine
        assert results[scene, "wrong"].error == "There are no features wrong."
        assert "Ray could not do it" in str(results[scene, "dies"].error)
        assert results[scene, "broken"].error == "RuntimeError: a bug [of the probe]"
        assert 'raise RuntimeError("a bug' in results[scene, "broken"].trace
    assert not list((tmp_path / "a" / "claims").iterdir())


@pytest.mark.slow
def test_a_cluster_that_is_there(ray: Any, tmp_path: Path) -> None:
    """It is joined and left as it was: by its address from another process, and from the one that began it."""
    paths = {"PYTHONPATH": os.pathsep.join([str(REPOSITORY), *sys.path])}
    with environment(paths), patient():
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    address = ray.get_runtime_context().gcs_address
    program = f"""
from pathlib import Path
from nts_plugins.bench.ray_executor import RayExecutor
from tests.bench.test_ray import run
account = run(Path({str(tmp_path / "b")!r}), ("iuv",), RayExecutor(2, threads=1), "tests.bench.work:surroundings")
print("done", len(account.done), [each.error for each in account.failed])
"""
    variables = {**os.environ, "RAY_ADDRESS": address, **paths}
    done = subprocess.run(
        [sys.executable, "-c", program], env=variables, cwd=REPOSITORY, capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "done 2 []"
    assert {each.metrics["threads"] for each in found(tmp_path / "b").values()} == {1}
    assert run(tmp_path / "c", ("iuv",), RayExecutor(workers=2, threads=1)).done
    assert ray.is_initialized()
    with pytest.raises(InputError, match="has 64 CPUs and 0 GPUs"):
        run(tmp_path / "d", ("iuv",), RayExecutor(workers=1, threads=64))
    with pytest.raises(InputError, match="has 1 CPUs and 0.5 GPUs"):
        run(tmp_path / "d", ("iuv",), RayExecutor(workers=1, threads=1, gpus=0.5))
    assert not list((tmp_path / "d" / "claims").glob("*"))


def test_ray_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"pip install 'nts-plugins\[ray\]'"):
        RayExecutor(workers=1)


def test_a_cluster_that_is_not_there(ray: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "no address")
    with pytest.raises(InputError, match="Ray does not start"):
        run(tmp_path, ("iuv",), RayExecutor(workers=1))
    assert not list((tmp_path / "claims").glob("*"))
