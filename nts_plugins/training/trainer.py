# SPDX-License-Identifier: Apache-2.0
"""nerfstudio's trainer, with runs that leave nothing half-written and can be killed at any moment.

Class paths in this module are written into every run's config.yml: they are a public interface.
"""

import contextlib
import errno
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Collection, Dict, Iterator, Literal, Optional, Type

import yaml
from nerfstudio.engine.optimizers import Optimizers
from nerfstudio.engine.trainer import Trainer, TrainerConfig
from nerfstudio.utils import writer
from nerfstudio.utils.decorators import check_main_thread
from nerfstudio.utils.rich_utils import CONSOLE

from nts_plugins import compat
from nts_plugins.errors import InputError, describe
from nts_plugins.files.whole import whole_file
from nts_plugins.training import checkpoints
from nts_plugins.training.memory import keep_freed_memory
from nts_plugins.training.optimizers import scale_learning_rates

_FULL = (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC))
"""Error numbers of a full disk, of a file that may not grow, and of a used-up quota, which Windows does not know."""


@dataclass
class SplatTrainerConfig(TrainerConfig):
    """Settings of a training run."""

    _target: Type = field(default_factory=lambda: SplatTrainer)
    max_num_iterations: int = 30000
    """Train until this many iterations are done. A run that is resumed does what is left of them."""

    def __post_init__(self) -> None:
        if self.max_num_iterations < 1:
            raise InputError(f"--max-num-iterations is {self.max_num_iterations}; it must be at least 1.")

    def save_config(self) -> None:
        """Make sure that the run can be written; :class:`SplatTrainer` writes it once the data has been read.

        nerfstudio saves config.yml before it looks at the data, so a mistyped path leaves a dead run behind.

        Raises:
            InputError: where the output folder cannot be written.
        """
        folder = self.get_base_dir().absolute()
        existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
        if not existing.is_dir() or not os.access(existing, os.W_OK):
            raise InputError(f"Cannot write to {existing}. Choose another place for the run with --output-dir.")

    def write_config(self) -> None:
        """Create the run's folder with its config.yml.

        Raises:
            InputError: where that is not possible; an earlier config.yml is untouched then.
        """
        folder = self.get_base_dir()
        with _disk_explained(folder):
            folder.mkdir(parents=True, exist_ok=True)
            with whole_file(folder / "config.yml", workspace=folder) as file:
                file.write(yaml.dump(self).encode("utf8"))


class SplatTrainer(Trainer):
    """Trains until ``max_num_iterations``, saves atomically, and resumes as if it had not been interrupted.

    Checkpoints hold plain tensors, numbers and names only, so torch loads them with ``weights_only=True``; they also
    hold the state of torch's random generators.
    """

    config: SplatTrainerConfig

    def __init__(self, config: SplatTrainerConfig, local_rank: int = 0, world_size: int = 1) -> None:
        device = compat.usable_device(config.machine.device_type)
        if device != config.machine.device_type:
            CONSOLE.print(f"[yellow]torch finds no {config.machine.device_type} device here: training on the {device}.")
            config.machine.device_type = device  # type: ignore[assignment]
        super().__init__(config, local_rank, world_size)
        self._save_failed: Optional[str] = None
        self._made = [folder for folder in (self.base_dir, *self.base_dir.parents) if not folder.exists()]

    def setup(self, test_mode: Literal["test", "val", "inference"] = "val") -> None:
        """As nerfstudio does; a disk that fills on the way is an error that says so, and leaves nothing of the run."""
        with self._no_dead_run(), _disk_explained(self.base_dir, only=_FULL):
            super().setup(test_mode)

    def setup_optimizers(self) -> Optimizers:
        """Optimizers whose learning rates fit the scene, and the checkpoint to go on from.

        By now the data has been read, and once the checkpoint has been, the run may be written. The command ends here
        when the checkpoint has all iterations already.
        """
        scales = getattr(self.pipeline.model, "learning_rate_scales", dict)()
        groups = scale_learning_rates(self.config.optimizers, scales)
        parameters = self.pipeline.get_param_groups()
        without = sorted(set(parameters) - set(groups))
        if without:
            raise InputError(
                f"The method {self.config.method_name} has no optimizer for {describe(without)}: the option, or the "
                f"head, that these parameters belong to does not go with it."
            )
        self.optimizers = Optimizers(groups, parameters)
        self._resume()
        if self._start_step >= self.config.max_num_iterations and not self.pipeline.unfinished:
            CONSOLE.print(
                f"[yellow]Nothing to do: the checkpoint has {self._start_step} iterations, and --max-num-iterations "
                f"is {self.config.max_num_iterations}. Raise it to train on."
            )
            raise SystemExit(0)
        self.config.write_config()
        return self.optimizers

    def train(self) -> None:
        """Train until ``max_num_iterations``; nerfstudio 1.1.5 trains that many more when it resumes."""
        remaining = max(0, self.config.max_num_iterations - self._start_step)
        self.step = max(0, self._start_step - 1)  # Where no step follows, this is still the one to save.
        if getattr(self.pipeline.model, "needs_no_training", False):
            CONSOLE.print("Splats are there, and language is fitted without training: there are no iterations.")
            remaining = 0
        from nts_plugins.kernels.threads import kernels_only  # numba, which recipes must not import

        on_cpu = self.pipeline.model.device.type == "cpu"
        if on_cpu:
            keep_freed_memory()
        threads = kernels_only() if on_cpu else contextlib.nullcontext()
        with threads, _changed(self.config, max_num_iterations=remaining):
            with self._no_dead_run(), _disk_explained(self.base_dir, only=_FULL):
                super().train()

    @contextlib.contextmanager
    def _no_dead_run(self) -> Iterator[None]:
        """A run that ends in an InputError before its first checkpoint leaves none of the folders that it made."""
        try:
            yield
        except InputError:
            if self._made and not list(self.checkpoint_dir.glob("*.ckpt")):
                shutil.rmtree(self.base_dir, ignore_errors=True)
                for folder in self._made[1:]:
                    with contextlib.suppress(OSError):
                        folder.rmdir()
            raise

    def _after_train(self) -> None:
        if self.config.max_num_iterations and self.pipeline.unfinished:
            # What comes now takes a while, and may fail. The same run, started again, goes on from here.
            self.save_checkpoint(self.step)
        with self._no_dead_run():
            self.pipeline.finish()  # type: ignore[operator]
        if self.config.max_num_iterations == 0:
            writer.EVENT_STORAGE.clear()  # nerfstudio would print a line of the last step, and there was none.
        super()._after_train()
        if self._save_failed is not None:
            raise InputError(self._save_failed)

    @check_main_thread
    def save_checkpoint(self, step: int) -> None:
        """Write ``step-<step>.ckpt`` completely or not at all.

        A failure is reported, and training goes on: the next save may succeed, and the last one is untouched.
        """
        state: Dict[str, Any] = {
            "step": step,
            "method": self.config.method_name,
            "pipeline": self.pipeline.state_dict(),
            "optimizers": {name: each.state_dict() for name, each in self.optimizers.optimizers.items()},
            "schedulers": {name: each.state_dict() for name, each in self.optimizers.schedulers.items()},
            "scalers": self.grad_scaler.state_dict(),
            "random": checkpoints.random_state(),
        }
        path = self.checkpoint_dir / f"step-{step:09d}.ckpt"
        # The unfinished file lies outside the folder of checkpoints, where nerfstudio takes every file for one.
        try:
            checkpoints.write(state, path, workspace=self.base_dir)
        except InputError as error:
            self._save_failed = str(error)
            CONSOLE.print(str(error), style="red", markup=False)
            return
        self._save_failed = None
        if self.config.save_only_latest_checkpoint:
            for other in self.checkpoint_dir.glob("*.ckpt"):
                if other != path:
                    other.unlink(missing_ok=True)

    def _load_checkpoint(self) -> None:
        """Nothing: nerfstudio asks for this when the run has been written, and :meth:`setup_optimizers` came before."""

    def _resume(self) -> None:
        """Take over the checkpoint that the config names, if it does.

        Raises:
            InputError: where it is missing, damaged, or of another method.
        """
        path = self._checkpoint_to_load()
        if path is None:
            CONSOLE.print("No checkpoint to load: training from scratch.")
            return
        state, optimizers = checkpoints.read(path), self.optimizers
        with checkpoints.named(path, state):
            checkpoints.check_names(state["optimizers"], optimizers.optimizers, "optimizers")
            if self.config.load_scheduler:
                checkpoints.check_names(state["schedulers"], optimizers.schedulers, "schedules")
            # The model looks at its own entries.
            besides = [key for key in state["pipeline"] if not key.startswith("_model.")]
            checkpoints.check_names(besides, [], "entries")
            self.pipeline.load_pipeline(state["pipeline"], int(state["step"]))
            checkpoints.check_moments(state["optimizers"], optimizers.optimizers)
        self._start_step = int(state["step"]) + 1
        optimizers.load_optimizers(state["optimizers"])
        if self.config.load_scheduler:
            optimizers.load_schedulers(state["schedulers"])
        self.grad_scaler.load_state_dict(state["scalers"])
        if "random" not in state:
            CONSOLE.print("[yellow]The checkpoint holds no random numbers: training goes on with others.")
        checkpoints.restore_random_state(state.get("random", {}))
        CONSOLE.print(f"Resuming after step {state['step']} from {path}")

    def _checkpoint_to_load(self) -> Optional[Path]:
        config = self.config
        if config.load_dir is not None:
            return checkpoints.find(config.load_dir, config.load_step)
        return config.load_checkpoint


@contextlib.contextmanager
def _disk_explained(folder: Path, only: Collection[int] = ()) -> Iterator[None]:
    """Say what to do where the run's folder cannot be written; ``only`` for some error numbers, if there are any."""
    try:
        yield
    except OSError as error:
        if only and error.errno not in only:
            raise
        raise InputError(
            f"Cannot write the run to {folder}: {error.strerror}. "
            f"Free space there, or choose another place with --output-dir."
        ) from error


@contextlib.contextmanager
def _changed(target: Any, **values: Any) -> Iterator[None]:
    """Attributes of an object hold other values for a while."""
    before = {name: getattr(target, name) for name in values}
    try:
        for name, value in values.items():
            setattr(target, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(target, name, value)
