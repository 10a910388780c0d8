# SPDX-License-Identifier: Apache-2.0
"""Speed of drawing and lifting on the CPU, by splats, pixels, channels and threads, and how exact it is.

    python -m benchmarks.rasterizer
    python -m benchmarks.rasterizer --parts accuracy lift --name my_machine

Times are milliseconds of one core (process time, one thread) unless a column says "wall". Ratios are to the tiled
PyTorch baseline (``benchmarks/baseline.py``), timed in the same rounds.
"""

import statistics
from dataclasses import dataclass, replace
from typing import Callable, Dict, Iterator, List, Literal, Optional, Tuple

import torch
import tyro
from torch import Tensor

from benchmarks import baseline, scenes
from benchmarks._measure import Sample, Timings, Work, alternate, forward_backward, single
from benchmarks._report import Report
from benchmarks._stages import Projected, project
from benchmarks.accuracy import composite_errors, count_pairs, rasterize_errors
from benchmarks.peak import fma_peak
from nts_plugins.gaussians import Gaussians
from nts_plugins.kernels.threads import kernels_only, thread_count
from nts_plugins.rasterization import lift, lift_ids, rasterize

Part = Literal["sizes", "channels", "threads", "whole", "lift", "accuracy"]
PARTS: Tuple[Part, ...] = ("sizes", "channels", "threads", "whole", "lift", "accuracy")

PASSES = 9
"""How often the part "threads" goes through all thread counts."""

FORWARD_FLOP, FORWARD_FLOP_PER_CHANNEL = 30, 2
BACKWARD_FLOP, BACKWARD_FLOP_PER_CHANNEL = 60, 4
"""Operations that one splat in one pixel cannot do without, counted in the formulas: distance and exponent 10,
exponential 12, alpha and transmittance 8; backward all of that again and as much for the gradients."""


@dataclass
class Options:
    """Measure the CPU rasterizer."""

    parts: Tuple[Part, ...] = PARTS
    """What to measure."""
    splats: Tuple[int, ...] = (10_000, 100_000, 500_000)
    """Scene sizes of the part "sizes"; the other parts use the first two."""
    images: Tuple[Tuple[int, int], ...] = scenes.SIZES
    """Width and height of the pictures of the part "sizes"; the other parts use the first."""
    repeats: int = 7
    """Rounds that count."""
    baseline_entries: int = 200_000
    """The baseline keeps some 12 KiB for each splat in a tile; scenes with more such entries are drawn without it."""
    name: str = "rasterizer"
    """Name of the result."""
    force: bool = False
    """Replace an earlier result of the same name."""


def main(options: Options) -> None:
    """Measure every part that was asked for and write the report."""
    report = Report(options.name, "Drawing on the CPU")
    report.check_free(options.force)
    measure: Dict[Part, Callable[[Report, Options], None]] = {
        "sizes": measure_sizes,
        "channels": measure_channels,
        "threads": measure_threads,
        "whole": measure_whole,
        "lift": measure_lift,
        "accuracy": measure_accuracy,
    }
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for part in options.parts:
            measure[part](report, options)
            print(report.tables[-1].markdown(), flush=True)
            report.write()
    finally:
        torch.set_num_threads(threads)
    print(f"written to {report.write()}")


# --- compositing: tile lists and blending of splats that are already projected ----------------------------------


def upstream_of(scene: scenes.Scene, channels: int = 3) -> Tensor:
    """A gradient [H, W, D] to send back, the same every time."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(scene.height, scene.width, channels, generator=generator)


def on_baseline(work: Work) -> Work:
    """The work with denormals flushed, which only the baseline needs."""

    def flushed() -> Iterator[Tuple[str, Sample]]:
        with baseline.denormals_flushed():
            yield from work()

    return flushed


def time_compositing(scene: scenes.Scene, channels: int, options: Options) -> Tuple[Timings, Projected, bool]:
    """Samples "kernels forward", "kernels backward", and those of the baseline where it fits; whether it did."""
    projected, upstream = project(scene, channels), upstream_of(scene, channels)
    candidates = {"kernels": forward_backward(projected.draw, upstream)}
    with_baseline = projected.entries() <= options.baseline_entries
    if with_baseline:
        candidates["baseline"] = on_baseline(forward_backward(projected.draw_baseline, upstream))
    return alternate(candidates, options.repeats), projected, with_baseline


def measure_sizes(report: Report, options: Options) -> None:
    """Compositing by splats and pixels, both kinds of scenes."""
    peak = fma_peak()
    table = report.table(
        "Compositing by splats and pixels",
        "Tile lists and blending of 3 channels, absolute gradients of the screen positions included. *pairs*: splats "
        "in pixels, in millions. *of peak*: the arithmetic these pairs cannot do without, as a share of what the "
        f"core's multiply-add units can do (measured: {peak / 1e9:.0f} GFLOP/s).",
    )
    for kind in ("trained", "init"):
        for splats in options.splats:
            for width, height in options.images:
                scene = scenes.room(splats, kind, width, height)
                timings, projected, with_baseline = time_compositing(scene, 3, options)
                pairs = count_pairs(projected)
                forward, backward = timings.cpu_ms("kernels forward"), timings.cpu_ms("kernels backward")
                both = with_baseline
                table.add(
                    scene=scene.name,
                    image=f"{width}x{height}",
                    entries=projected.entries(),
                    pairs=pairs / 1e6,
                    **{
                        "forward ms": forward,
                        "backward ms": backward,
                        "baseline forward ms": timings.cpu_ms("baseline forward") if both else None,
                        "baseline backward ms": timings.cpu_ms("baseline backward") if both else None,
                        "ratio forward": timings.ratio("baseline forward", "kernels forward") if both else None,
                        "ratio backward": timings.ratio("baseline backward", "kernels backward") if both else None,
                        "of peak forward": share(pairs * (FORWARD_FLOP + 3 * FORWARD_FLOP_PER_CHANNEL), forward, peak),
                        "of peak backward": share(
                            pairs * (BACKWARD_FLOP + 3 * BACKWARD_FLOP_PER_CHANNEL), backward, peak
                        ),
                    },
                )


def share(flop: float, milliseconds: float, peak: float) -> str:
    """Percentage of the peak at which ``flop`` operations were done."""
    return f"{100 * flop / (1e-3 * milliseconds) / peak:.0f} %"


def measure_channels(report: Report, options: Options) -> None:
    """Compositing by number of channels."""
    table = report.table("Compositing by channels", "One pass for all channels. *x 3*: cost relative to 3 channels.")
    width, height = options.images[0]
    for splats in options.splats[:2]:
        scene = scenes.room(splats, "trained", width, height)
        of_three: Optional[Tuple[float, float]] = None
        for channels in (3, 1, 2, 4, 8, 16, 32, 64):
            options_here = options if channels in (3, 64) else replace(options, baseline_entries=0)
            timings, _, both = time_compositing(scene, channels, options_here)
            forward, backward = timings.cpu_ms("kernels forward"), timings.cpu_ms("kernels backward")
            of_three = of_three or (forward, backward)
            table.add(
                scene=scene.name,
                channels=channels,
                **{
                    "forward ms": forward,
                    "backward ms": backward,
                    "forward x 3": forward / of_three[0],
                    "backward x 3": backward / of_three[1],
                    "ratio forward": timings.ratio("baseline forward", "kernels forward") if both else None,
                    "ratio backward": timings.ratio("baseline backward", "kernels backward") if both else None,
                },
            )


def measure_threads(report: Report, options: Options) -> None:
    """Wall time by threads; the picture must not change by a bit."""
    table = report.table(
        "Threads",
        f"Compositing, wall milliseconds, the middle of {PASSES} passes over all thread counts: on a machine that is "
        f"shared, threads gain less now and then. Results are bit-identical for any thread count.",
    )
    width, height = options.images[0]
    cores = report.provenance["machine"]["cores"]
    counts = sorted({1, *(2**i for i in range(1, 8) if 2**i <= cores), cores})
    for splats in options.splats[:2]:
        scene = scenes.room(splats, "trained", width, height)
        projected, upstream = project(scene), upstream_of(scene)
        walls: Dict[int, List[Tuple[float, float]]] = {count: [] for count in counts}
        results = {}
        for _ in range(PASSES):
            for count in counts:
                torch.set_num_threads(count)
                assert thread_count() == count
                # As in training: after a parallel operation torch's own threads spin a while, on the kernels' cores.
                with kernels_only():
                    timings = alternate({"kernels": forward_backward(projected.draw, upstream)}, options.repeats)
                    picture = projected.draw()
                    picture.backward(upstream)
                walls[count].append((timings.wall_ms("kernels forward"), timings.wall_ms("kernels backward")))
                results[count] = [picture.detach(), *(leaf.grad for leaf in projected.leaves)]
        torch.set_num_threads(1)
        for count in counts:
            same = all(torch.equal(a, b) for a, b in zip(results[1], results[count], strict=True))
            pairs = list(zip(walls[1], walls[count], strict=True))
            table.add(
                scene=scene.name,
                threads=count,
                **{
                    "forward wall ms": statistics.median(wall for wall, _ in walls[count]),
                    "backward wall ms": statistics.median(wall for _, wall in walls[count]),
                    "speed-up forward": statistics.median(one[0] / these[0] for one, these in pairs),
                    "speed-up backward": statistics.median(one[1] / these[1] for one, these in pairs),
                    "bit-identical": same,
                },
            )


# --- from Gaussians to pixels and back ----------------------------------------------------------------------------


def measure_whole(report: Report, options: Options) -> None:
    """All of ``rasterize``: projection, spherical harmonics, tile lists, blending, and the way back to the scene."""
    table = report.table(
        "Whole rasterize",
        "Projection, spherical harmonics of degree 3, tile lists and blending; backward to means, quaternions, scales, "
        "opacities and all coefficients.",
    )
    width, height = options.images[0]
    for kind in ("trained", "init"):
        for splats in options.splats[:2]:
            scene = scenes.room(splats, kind, width, height)
            gaussians = scene.gaussians.map(lambda tensor: tensor.clone().requires_grad_())
            both = project(scene).entries() <= options.baseline_entries
            candidates = {"kernels": whole(scene, gaussians, "cpu")}
            if both:
                candidates["baseline"] = on_baseline(whole(scene, gaussians, None))
            timings = alternate(candidates, options.repeats)
            table.add(
                scene=scene.name,
                image=f"{width}x{height}",
                **{
                    "forward ms": timings.cpu_ms("kernels forward"),
                    "backward ms": timings.cpu_ms("kernels backward"),
                    "ratio forward": timings.ratio("baseline forward", "kernels forward") if both else None,
                    "ratio backward": timings.ratio("baseline backward", "kernels backward") if both else None,
                },
            )


def whole(scene: scenes.Scene, gaussians: Gaussians, backend: Optional[str]) -> Work:
    """Draw ``gaussians`` with a backend, or with the baseline for None, and send a gradient back."""

    def draw() -> Tensor:
        for name in ("means", "quats", "scales", "opacities", "sh"):
            getattr(gaussians, name).grad = None
        if backend is None:
            return baseline.rasterize(gaussians, scene.viewmats, scene.Ks, scene.width, scene.height).values
        size = scene.width, scene.height
        return rasterize(gaussians, scene.viewmats, scene.Ks, *size, sh_degree=3, backend=backend).colors[0]

    return forward_backward(draw, upstream_of(scene))


def measure_lift(report: Report, options: Options) -> None:
    """``lift`` and ``lift_ids`` beside a forward pass of the same scene."""
    table = report.table(
        "Lifting",
        "*lift* carries a map of 64 channels back to the splats, *forward 64* draws 64 channels. *ids* carries a map "
        "of 200 masks back, *forward 3* draws 3 channels. All from Gaussians, projection included.",
    )
    width, height = options.images[0]
    for splats in options.splats[:2]:
        scene = scenes.room(splats, "trained", width, height)
        features, ids = upstream_of(scene, 64)[None], mask_map(width, height, 200)
        where = scene.viewmats, scene.Ks
        plain = {
            channels: replace(scene.gaussians, sh=None, colors=torch.rand(splats, channels)) for channels in (3, 64)
        }

        def draw(channels: int, plain=plain, where=where) -> Callable[[], object]:
            return lambda: rasterize(plain[channels], *where, width, height, backend="cpu")

        def lift_map(plain=plain, where=where, features=features) -> object:
            return lift(plain[3], *where, features, backend="cpu")

        def lift_masks(plain=plain, where=where, ids=ids) -> object:
            return lift_ids(plain[3], *where, ids, backend="cpu")

        candidates = {
            "forward": single("3", draw(3)),
            "wide": single("64", draw(64)),
            "lift": single("64", lift_map),
            "ids": single("200", lift_masks),
        }
        timings = alternate(candidates, options.repeats)
        table.add(
            scene=scene.name,
            **{
                "forward 3 ms": timings.cpu_ms("forward 3"),
                "forward 64 ms": timings.cpu_ms("wide 64"),
                "lift ms": timings.cpu_ms("lift 64"),
                "lift / forward 64": timings.ratio("lift 64", "wide 64"),
                "ids ms": timings.cpu_ms("ids 200"),
                "ids / forward 3": timings.ratio("ids 200", "forward 3"),
            },
        )


def mask_map(width: int, height: int, masks: int) -> Tensor:
    """[1, H, W] a segmentation into ``masks`` cells: every pixel belongs to the nearest of random points."""
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(masks, 2, generator=generator) * torch.tensor([width, height])
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    return torch.cdist(torch.stack([x, y], dim=-1).view(-1, 2), points).argmin(dim=1).view(1, height, width)


def measure_accuracy(report: Report, options: Options) -> None:
    """Differences to the float64 reference."""
    table = report.table(
        "Accuracy",
        "Against the float64 reference. *compositing* starts from the same projected splats; pixels where a threshold "
        "(alpha, transmittance) is so near that rounding decides are left out, their share is given. *whole* starts "
        "from Gaussians, where rounding of the projection may also decide what a pixel shows; so the share of pixels "
        "off by more than 2e-6 is given. Gradients, of the other pixels: root mean square of the difference over that "
        "of the gradient, the worst tensor's; beside it what the reference itself loses in float32, which on needles "
        "is most of it.",
    )
    width, height = options.images[0]
    for kind in ("trained", "init"):
        for splats in options.splats[:1]:
            scene = scenes.room(splats, kind, width, height)
            inner = composite_errors(project(scene), upstream_of(scene))
            outer = rasterize_errors(scene, upstream_of(scene))
            table.add(
                scene=scene.name,
                **{
                    "compositing: largest pixel error": inner.pixel,
                    "gradient rms": inner.gradient,
                    "float32 reference": inner.plain_gradient,
                    "left out": f"{100 * inner.excluded:.2f} %",
                    "whole: median pixel error": outer.pixel,
                    "pixels beyond 2e-6": f"{100 * outer.excluded:.2f} %",
                    "whole: gradient rms": outer.gradient,
                    "whole: float32 reference": outer.plain_gradient,
                },
            )


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
