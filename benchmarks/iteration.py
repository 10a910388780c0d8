# SPDX-License-Identifier: Apache-2.0
"""One training iteration under nerfstudio, split by part, against the sum of its kernels.

    python -m benchmarks.iteration
    python -m benchmarks.iteration --method splatfacto-nts --against splat --name iteration_textured
    python -m benchmarks.iteration --splats 20000 100000 --name my_machine

Trains for real, through nerfstudio's own loop, on pictures of a trained-like scene whose number of splats is held
fixed. Every part's time is its own: what runs inside another part is not counted there again.
"""

import statistics
import tempfile
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Tuple

import torch
import tyro

from benchmarks import scenes
from benchmarks._capture import write_capture
from benchmarks._report import Report
from nts_plugins.kernels.threads import thread_count

KERNELS = {
    "project_forward": "projection",
    "colors_forward": "harmonics",
    "bound_splats": "tile lists",
    "mask_and_sort": "tile lists",
    "fill_tiles": "tile lists",
    "composite_forward": "compositing",
    "l1_rows": "loss",
    "ssim_rows": "loss",
    "gradient_rows": "loss, backward",
    "composite_backward": "compositing, backward",
    "gather_gradients": "compositing, backward",
    "colors_backward": "harmonics, backward",
    "project_backward": "projection, backward",
    "Adam": "Adam",
}
"""Name of a kernel to the part it belongs to. Their sum is what an iteration cannot do without."""

TEXTURE_KERNELS = {
    "composite_textured": "compositing",
    "textured_backward": "compositing, backward",
    "gather_textures": "compositing, backward",
    "lift_maps": "coverage",
    "gather_lifted": "coverage",
    "find_rays": "rays",
    "pull_rays": "rays, backward",
    "tabulate": "compositing",
    "read_planes": "tri-planes",
    "bound_texels": "bounds of texels",
    "unbound_texels": "bounds of texels, backward",
    "add_to_planes": "tri-planes, backward",
    "network_forward": "networks",
    "network_backward": "networks, backward",
}
"""The same for those that only textures need; tri-planes and networks carry what moves, too."""


STARTS = {
    "nts": ["--pipeline.model.texture.start-step", "0"],
    "dynamic": ["--pipeline.model.motion.start-step", "0"],
}
"""Options that let begin at once what comes later by default, by what the names of methods hold."""


@dataclass
class Options:
    """Measure a training iteration."""

    method: str = "splat"
    """Method to train; textures and motion are there from the first step on."""
    against: str = ""
    """Another method, to be trained in turns with this one: how many times as long does an iteration take?"""
    turns: int = 3
    """How often they take turns."""
    splats: Tuple[int, ...] = (20_000,)
    """Sizes of the scene."""
    image: Tuple[int, int] = (400, 300)
    """Width and height of the pictures."""
    steps: int = 120
    """Iterations that count."""
    warm_up: int = 30
    """Iterations before, that do not."""
    views: int = 16
    """Pictures of the capture."""
    name: str = "iteration"
    """Name of the result."""
    force: bool = False
    """Replace an earlier result of the same name."""


def main(options: Options) -> None:
    """Measure with one thread and with all, and write the report."""
    report = Report(options.name, f"A training iteration of {options.method} on the CPU")
    report.check_free(options.force)
    before = torch.get_num_threads()
    for splats in options.splats:
        for threads in sorted({1, before}):
            torch.set_num_threads(threads)
            try:
                measure(report, options, splats)
                print(report.tables[-1].markdown(), flush=True)
                if options.against:
                    compare(report, options, splats)
                    print(report.tables[-1].markdown(), flush=True)
            finally:
                torch.set_num_threads(before)
    print(f"written to {report.write()}")


def train(options: Options, method: str, splats: int) -> "List[Iteration]":
    """What each iteration took that counts, with the current number of threads."""
    scene = scenes.room(splats, "trained", *options.image)
    with tempfile.TemporaryDirectory() as folder:
        capture = write_capture(Path(folder) / "capture", scene, options.views)
        trainer = make_trainer(method, capture, Path(folder) / "run", options.warm_up + options.steps)
        load_scene(trainer.pipeline.model, scene)
        iterations = train_and_watch(trainer)
        close_writers()
        return iterations[options.warm_up :]


def close_writers() -> None:
    """TensorBoard's writer has a thread of its own, and its folder is about to go."""
    from nerfstudio.utils import writer  # After the trainer's modules: on its own it imports itself in a circle.

    for each in writer.EVENT_WRITERS:
        if isinstance(each, writer.TensorboardWriter):
            each.tb_writer.close()


def clock() -> "Tuple[Callable[[Spent], float], str]":
    """Process time counts what one thread does; with several threads only the clock on the wall tells."""
    return (lambda spent: spent.cpu, "process time") if thread_count() == 1 else (lambda spent: spent.wall, "wall time")


def setting(options: Options, splats: int) -> str:
    threads = thread_count()
    return f"{splats // 1000}k splats, {options.image[0]}x{options.image[1]}, {threads} thread{'s' * (threads > 1)}"


def compare(report: Report, options: Options, splats: int) -> None:
    """Train both methods in turns, since a machine's clock changes, and add a table."""
    pick, unit = clock()
    table = report.table(
        f"{options.method} against {options.against}, {setting(options, splats)}",
        f"Median milliseconds of an iteration, {unit}, in turns.",
    )
    for _ in range(options.turns):
        theirs, ours = (
            1e3 * statistics.median(pick(each.total) for each in train(options, method, splats))
            for method in (options.against, options.method)
        )
        table.add(**{options.against: theirs, options.method: ours}, ratio=ours / theirs)


def measure(report: Report, options: Options, splats: int) -> None:
    """Train with the current number of threads and add a table."""
    iterations = train(options, options.method, splats)
    pick, unit = clock()
    table = report.table(
        setting(options, splats),
        f"Median milliseconds of {len(iterations)} iterations, {unit}. Kernels are drawing, loss and Adam.",
    )
    total = 1e3 * statistics.median(pick(each.total) for each in iterations)
    kinds = set(KERNELS.values()) | set(TEXTURE_KERNELS.values())
    names = list(dict.fromkeys([*KERNELS.values(), *(part for each in iterations for part in each.parts)]))
    milliseconds = {
        name: 1e3 * statistics.median(pick(each.parts.get(name, Spent())) for each in iterations) for name in names
    }
    kernels = sum(value for name, value in milliseconds.items() if name in kinds)
    for name, value in milliseconds.items():
        kind = "kernel" if name in kinds else "host"
        table.add(part=name, kind=kind, ms=value, share=f"{100 * value / total:.0f} %")
    rest = total - sum(milliseconds.values())
    table.add(part="rest of the loop", kind="host", ms=rest, share=f"{100 * rest / total:.0f} %")
    table.add(part="**sum of kernels**", ms=kernels, share=f"{100 * kernels / total:.0f} %")
    table.add(part="**iteration**", ms=total, share=f"{total / kernels:.2f} x kernels")


# --- a real training run ------------------------------------------------------------------------------------------


def make_trainer(method: str, capture: Path, output: Path, steps: int) -> Any:
    """nerfstudio's trainer as ns-train makes it, at full resolution and with densification held off."""
    from nerfstudio.configs.method_configs import AnnotatedBaseConfigUnion
    from nerfstudio.utils import profiler, writer

    # These are global, and every trainer adds its own.
    for collected in (writer.EVENT_WRITERS, writer.EVENT_STORAGE, profiler.PROFILER):
        collected.clear()
    arguments = [method, "--output-dir", str(output), "--max-num-iterations", str(steps), "--vis", "tensorboard"]
    arguments += ["--timestamp", "run"]
    arguments += ["--steps-per-eval-image", "0", "--steps-per-eval-all-images", "0", "--steps-per-save", "1000000"]
    arguments += ["--logging.local-writer.enable", "False", "--pipeline.model.num-downscales", "0"]
    arguments += ["--pipeline.model.sh-degree-interval", "0", "--pipeline.model.densify.refine-start-iter", "1000000"]
    arguments += [option for name, options in STARTS.items() if name in method for option in options]
    arguments += ["nerfstudio-data", "--data", str(capture), "--orientation-method", "none"]
    arguments += ["--center-method", "none", "--auto-scale-poses", "False"]
    config = tyro.cli(AnnotatedBaseConfigUnion, args=arguments)
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    return trainer


@torch.no_grad()
def load_scene(model: Any, scene: scenes.Scene) -> None:
    """Give the model's splats the shapes and colours of the scene, in place."""
    gaussians = scene.gaussians
    opacities = gaussians.opacities.clamp(1e-4, 1 - 1e-4)
    values = {
        "means": gaussians.means,
        "quats": gaussians.quats,
        "scales": gaussians.scales.log(),
        "opacities": torch.logit(opacities)[:, None],
        "features_dc": gaussians.sh[:, 0],  # type: ignore[index]
        "features_rest": gaussians.sh[:, 1:],  # type: ignore[index]
    }
    for name, value in values.items():
        model.gauss_params[name].copy_(value)


@dataclass
class Spent:
    """Seconds."""

    cpu: float = 0.0
    wall: float = 0.0

    def add(self, other: "Spent") -> None:
        self.cpu += other.cpu
        self.wall += other.wall

    @staticmethod
    def now() -> "Spent":
        return Spent(time.process_time(), time.perf_counter())

    def since(self, start: "Spent") -> "Spent":
        return Spent(self.cpu - start.cpu, self.wall - start.wall)


@dataclass
class Iteration:
    """How long one iteration took, and each of its parts without the parts inside it."""

    total: Spent = field(default_factory=Spent)
    parts: Dict[str, Spent] = field(default_factory=dict)


class Watch:
    """Splits time among named parts. A part that begins inside another one pauses it."""

    def __init__(self) -> None:
        self.iterations: List[Iteration] = []
        self._running: List[str] = []
        self._mark = Spent.now()
        self._began = self._mark

    def begin_iteration(self) -> None:
        now = Spent.now()
        if self.iterations:
            self.iterations[-1].total = now.since(self._began)
        self.iterations.append(Iteration())
        self._began = now

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        self._credit()
        self._running.append(name)
        try:
            yield
        finally:
            self._credit()
            self._running.pop()

    def _credit(self) -> None:
        """Add the time since the last change to the part that ran."""
        now = Spent.now()
        if self._running and self.iterations:
            self.iterations[-1].parts.setdefault(self._running[-1], Spent()).add(now.since(self._mark))
        self._mark = now

    def wrap(self, function: Callable, name: Callable[..., str]) -> Callable:
        """The function, timed under the name that its arguments give it."""

        def timed(*arguments: Any, **options: Any) -> Any:
            with self.part(name(*arguments)):
                return function(*arguments, **options)

        return timed


def train_and_watch(trainer: Any) -> List[Iteration]:
    """Run the trainer's own loop to its end; returns what each whole iteration took."""
    watch = Watch()
    with ExitStack() as stack:
        for owner, attribute, name in watched(trainer):
            stack.enter_context(_replaced(owner, attribute, watch.wrap(getattr(owner, attribute), name)))
        next_train = trainer.pipeline.datamanager.next_train

        def begin(step: int) -> Any:
            watch.begin_iteration()
            return next_train(step)

        stack.enter_context(_replaced(trainer.pipeline.datamanager, "next_train", begin))
        trainer.train()
    return watch.iterations[:-1]  # The last one also saves the checkpoint.


def watched(trainer: Any) -> List[Tuple[Any, str, Callable[..., str]]]:
    """Owner, attribute and name of every function whose time is told apart."""
    from nerfstudio.utils import writer

    from nts_plugins.fields import _fused
    from nts_plugins.losses import _photometric
    from nts_plugins.rasterization import _cpu_composite, _cpu_projection, _cpu_textures, cpu

    def always(name: str) -> Callable[..., str]:
        return lambda *_: name

    def by_kernel(kernel: Callable, *_: Any) -> str:
        return {**KERNELS, **TEXTURE_KERNELS}.get(kernel.__name__, kernel.__name__)

    model, optimizers = trainer.pipeline.model, trainer.optimizers
    return [
        (cpu, "run", by_kernel),
        (_cpu_projection, "run", by_kernel),
        (_cpu_composite, "run", by_kernel),
        (_cpu_textures, "run", by_kernel),
        (_fused, "run", by_kernel),
        (_photometric, "run", by_kernel),
        *((optimizer, "step", always("Adam")) for optimizer in optimizers.optimizers.values()),
        *((each, "forward", always("motion's field")) for each in [getattr(model, "motion", None)] if each is not None),
        (trainer.pipeline.datamanager, "next_train", always("data")),
        (trainer.pipeline, "get_train_loss_dict", always("model around the kernels")),
        (torch.Tensor, "backward", always("autograd around the kernels")),
        (model.strategy, "step_pre_backward", always("strategy")),
        (model.strategy, "step_post_backward", always("strategy")),
        (optimizers, "zero_grad_some", always("optimizers around Adam")),
        (optimizers, "optimizer_scaler_step_some", always("optimizers around Adam")),
        (optimizers, "scheduler_step_all", always("optimizers around Adam")),
        *((writer, name, always("logging")) for name in ("put_time", "put_scalar", "put_dict", "write_out_storage")),
    ]


@contextmanager
def _replaced(owner: Any, attribute: str, value: Any) -> Iterator[None]:
    had_own = attribute in vars(owner)
    before = getattr(owner, attribute)
    setattr(owner, attribute, value)
    try:
        yield
    finally:
        if had_own:
            setattr(owner, attribute, before)
        else:
            delattr(owner, attribute)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
