# SPDX-License-Identifier: Apache-2.0
"""``nts bench feat2gs``: how much geometry and texture features know, over scenes and seeds."""

import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Literal, Optional, Tuple

import tyro

from nts_plugins.errors import InputError

if TYPE_CHECKING:
    from nts_plugins.bench.driver import Account
    from nts_plugins.bench.executors import Executor
    from nts_plugins.bench.grid import Grid, Result

TITLES = {"feat2gs": "Feat2GS: what features know of geometry and texture"}
FAILED = 1
"""Exit code where cells failed; the report says which and why."""


@dataclass
class Bench:
    """Probe features of 2D models: read splats out of them, and measure new views and geometry.

    Every cell (scene, features, mode, seed) is trained by itself, several at once, and its numbers are kept in
    OUTPUT/cells. The same command goes on after a kill and tries again what failed; start it several times, on one
    machine or on more that share a disk, to have several work at once. At the end there are OUTPUT/report.md,
    results.csv and summary.json, with what may be said of the numbers and what may not.
    """

    what: tyro.conf.Positional[Literal["feat2gs"]]
    """The benchmark."""
    scenes: Tuple[Path, ...] = ()
    """Folder of each scene, as for ns-train; its name is the scene's."""
    features: Tuple[str, ...] = ("iuv", "iuvrgb")
    """What is probed, by name. iuv and iuvrgb are controls without a model: where a pixel is, and its colour. A+B puts
    two side by side, A+ has fine-tuned weights, and features of "A*" learn in the warm start."""
    modes: Tuple[Literal["geometry", "texture", "all", "free"], ...] = ("geometry", "texture", "all", "free")
    """What is read out of features, the rest being free; in mode free all is, and no features are used."""
    seeds: int = 3
    """How often everything is repeated."""
    output_dir: Path = Path("bench")
    """Folder of results and report. Results of other settings in it are refused."""
    executor: Literal["local", "ray"] = "local"
    """Processes of this machine, or tasks of Ray: on the cluster of RAY_ADDRESS, else on one that is begun here."""
    workers: int = 1
    """Cells at once."""
    threads: Optional[int] = None
    """CPUs of a cell; by default those of this machine, shared out evenly."""
    gpus: float = 0.0
    """GPUs of a cell, only with Ray; 0.25 puts four on one. Local workers use whatever GPU they see."""
    options: str = ""
    """What ns-train would have besides, as one string, with a "=" in front: --options="--max-num-iterations 2000"."""
    dataparser: str = "nerfstudio-data"
    """How to read scenes: what ns-train would have at its end, as one string ("blender-data --alpha-color black")."""
    train_views: Tuple[str, ...] = ()
    """Training pictures of every scene (6), of single ones (fox=4), or both (6 fox=4); by default all there are."""
    scene_options: Tuple[str, ...] = ()
    """Options of ns-train for single scenes, after the others: "fox=--pipeline.datamanager.stride 8"."""
    report_only: bool = False
    """Run nothing, and write the report of the results that are in the folder; other options are not asked."""
    work: str = "nts_plugins.bench.feat2gs:run_cell"
    """Function that does a cell, of a module of yours: package.module:function."""

    def run(self) -> int:
        """Run what is missing, and write the report. Raises InputError for what the user has to change."""
        from nts_plugins.bench.driver import run_bench
        from nts_plugins.bench.grid import Results, check_settings, grid_of
        from nts_plugins.bench.report import write_report
        from nts_plugins.named import function_named

        folder = self.output_dir.expanduser().absolute()
        results = Results(folder)
        account = None
        if self.report_only:
            found, damaged = results.all()
            if not found:
                raise InputError(f"There are no results in {folder}.")
            grid = grid_of(found)
            check_settings(grid, found, folder)
        else:
            grid = self.grid()
            executor = self._executor(folder)
            function_named(self.work, "work")
            account = run_bench(grid, results, executor, self.work)
            found, damaged = results.all()
        path = write_report(folder, grid, found, damaged, TITLES[self.what])
        print("\n".join(_said(account, grid, found, path)))
        return FAILED if account is not None and account.failed else 0

    def grid(self) -> "Grid":
        """All cells.

        Raises:
            InputError: for options that make none.
        """
        from nts_plugins.bench.grid import Grid

        views, options = self._train_views(), self._scene_options()
        scenes: Dict[str, Dict[str, Any]] = {}
        for path in self.scenes:
            place = os.path.abspath(path.expanduser())  # with the name of a link, not of where it leads
            name = os.path.basename(place)
            if not os.path.isdir(place):
                raise InputError(f"There is no scene {path}: it is no folder.")
            if scenes.get(name, {}).get("data", place) != place:
                raise InputError(f"Two scenes are called {name}. Give one a link of another name.")
            scenes[name] = {"data": place, "train_views": views.get(name, views.get(""))}
            if name in options:
                scenes[name]["scene_options"] = options[name]
        for what, names in (("train-views", {*views} - {""}), ("scene-options", {*options})):
            if scenes and (others := names - {*scenes}):
                raise InputError(f"--{what} names {min(others)}, which is none of the scenes.")
        settings = {"work": self.work, "dataparser": self._words("dataparser"), "options": self._words("options")}
        return Grid(scenes, self.features, self.modes, self.seeds, settings)

    def _words(self, name: str) -> str:
        """An option that is several words, always quoted in the same way."""
        return _quoted(name, getattr(self, name))

    def _scene_options(self) -> Dict[str, str]:
        """Scene to words."""
        found: Dict[str, str] = {}
        for text in self.scene_options:
            name, sign, words = text.partition("=")
            if not (name and sign) or name.startswith("-"):
                raise InputError(f'--scene-options {text!r} names no scene, such as fox="--pipeline.model.hidden 64".')
            if name in found:
                raise InputError(f"--scene-options says twice what is for {name}.")
            found[name] = _quoted("scene-options", words)
        return found

    def _train_views(self) -> Dict[str, int]:
        """Scene to number; "" to that of all others."""
        found: Dict[str, int] = {}
        for text in self.train_views:
            name, _, number = text.rpartition("=")
            if not number.isdecimal() or int(number) < 1:
                raise InputError(f"--train-views {text} is no number of pictures, such as 6 or fox=6.")
            if name in found:
                raise InputError(f"--train-views says twice how many pictures {name or 'a scene'} has.")
            found[name] = int(number)
        return found

    def _executor(self, folder: Path) -> "Executor":
        if self.workers < 1:
            raise InputError(f"--workers is {self.workers}; it takes at least one.")
        if self.threads is not None and self.threads < 1:
            raise InputError(f"--threads is {self.threads}; a cell needs at least one.")
        if self.gpus < 0 or (self.gpus and self.executor != "ray"):
            raise InputError(f"--gpus is {self.gpus:g}; it is 0 or more, and 0 without --executor ray.")
        if self.executor == "ray":
            from nts_plugins.bench.ray_executor import RayExecutor

            return RayExecutor(self.workers, self.threads, self.gpus)
        from nts_plugins.bench.executors import LocalExecutor

        return LocalExecutor(self.workers, folder, self.threads)


def _quoted(name: str, words: str) -> str:
    try:
        return shlex.join(shlex.split(words))
    except ValueError as error:
        raise InputError(f"--{name} {words!r} cannot be read: {error}.") from error


def _said(account: "Optional[Account]", grid: "Grid", found: "List[Result]", path: Path) -> List[str]:
    """Lines about what was done."""
    from nts_plugins.errors import describe

    cells = set(grid.cells())
    have = [result.cell for result in found if result.cell in cells and result.error is None]
    lines = [f"{path}: {len(have)} of {len(cells)} cells."]
    if account is not None and account.failed:
        lines.append(
            f"These failed, and are tried again at the next start: {describe([r.cell for r in account.failed])}."
        )
    if account is not None and account.elsewhere:
        lines.append(f"Another process is at {describe(account.elsewhere)}.")
    return lines
