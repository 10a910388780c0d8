# SPDX-License-Identifier: Apache-2.0
"""Cells as tasks of Ray: on a cluster, or on one that is begun on this machine for the time being."""

import os
import signal
import sys
import tempfile
import threading
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Dict, Iterator, Optional

from nts_plugins.bench.work import Outcome, Task, cores, environment, perform, thread_settings
from nts_plugins.errors import InputError


class RayExecutor:
    """Tasks of Ray (https://ray.io), on the cluster that RAY_ADDRESS names, else on one that is begun on this machine.

    Machines of a cluster need this package, and the scenes at the same place. Results come back through Ray.

    Args:
        workers: tasks at once.
        threads: CPUs of each; by default this machine's cores, shared out evenly.
        gpus: of each; a quarter, for instance, puts four on one. Ray shows a task no GPU that it did not ask for.
        address: of the cluster, instead of what RAY_ADDRESS says.

    Raises:
        InputError: where Ray is not installed.
    """

    def __init__(
        self, workers: int, threads: Optional[int] = None, gpus: float = 0.0, address: Optional[str] = None
    ) -> None:
        self.workers = workers
        self.threads = threads or max(1, cores() // workers)
        self.gpus = gpus
        self.address = address or os.environ.get("RAY_ADDRESS")
        import_ray()

    def run(self, work: str, tasks: Iterator[Task]) -> Iterator[Outcome]:
        """As :meth:`Executor.run`."""
        ray = import_ray()
        with self._cluster(ray):
            self._check_room(ray)
            options: Dict[str, Any] = {"num_cpus": self.threads, "num_gpus": self.gpus, "max_retries": 0}
            remote = ray.remote(_perform_elsewhere).options(**options)
            pending: Dict[Any, Task] = {}
            more = True
            try:
                while True:
                    while more and len(pending) < self.workers:
                        task = next(tasks, None)
                        if task is None:
                            more = False
                            break
                        pending[remote.remote(work, task)] = task
                    if not pending:
                        return
                    for done in ray.wait(list(pending), num_returns=1)[0]:
                        task = pending.pop(done)
                        try:
                            outcome = ray.get(done)
                        except ray.exceptions.RayError as error:
                            first = (str(error).strip() or type(error).__name__).splitlines()[0]
                            outcome = Outcome(task.cell, error=f"Ray could not do it ({first}).")
                        yield outcome
            finally:
                for left in pending:
                    with suppress(Exception):  # A cluster that is gone has nothing to cancel.
                        ray.cancel(left, force=True)

    @contextmanager
    def _cluster(self, ray: Any) -> Iterator[None]:
        """Connected to a cluster; one that is begun here ends here."""
        if ray.is_initialized():
            yield
            return
        quiet: Dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        threads = thread_settings(self.threads)
        polite = signal.getsignal(signal.SIGTERM)
        try:
            if self.address:
                ray.init(address=self.address, runtime_env={"env_vars": threads}, **quiet)
            else:
                # Its processes inherit the environment, and look for modules where this one does.
                places = os.pathsep.join(path or os.getcwd() for path in sys.path)
                with environment({"RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": places, **threads}):
                    ray.init(address="local", num_cpus=self.workers * self.threads, include_dashboard=False, **quiet)
        except Exception as error:  # Ray raises whatever it meets, Exception itself where a machine is too busy.
            ray.shutdown()
            raise InputError(f"Ray does not start: {error}") from error
        if polite is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, polite)  # Ray puts its own in place, which knows nothing of who calls it.
        try:
            yield
        finally:
            ray.shutdown()

    def _check_room(self, ray: Any) -> None:
        """Ray would wait for ever for a machine that is large enough."""
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        need = {"CPU": self.threads, "GPU": self.gpus}
        if not any(all(each.get(kind, 0) >= count for kind, count in need.items()) for each in machines):
            raise InputError(
                f"No machine of Ray's cluster has {self.threads} CPUs and {self.gpus:g} GPUs, which --threads and "
                "--gpus ask for."
            )


def import_ray() -> Any:
    """The module ``ray``.

    Raises:
        InputError: where it is not installed.
    """
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise InputError("--executor ray needs Ray: pip install 'nts-plugins[ray]'.") from error
    return ray


def _perform_elsewhere(work: str, task: Task) -> Outcome:
    """What a worker of Ray runs."""
    with tempfile.TemporaryDirectory(prefix="nts-bench-", ignore_cleanup_errors=True) as folder:
        return perform(work, task, Path(folder))
