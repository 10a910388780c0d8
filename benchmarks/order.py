# SPDX-License-Identifier: Apache-2.0
"""What the order of splats does to a surface: whose colours a pixel shows where splats lie in one plane.

    python -m benchmarks.order

Splats are composited in the order of their centres, as in 3DGS and gsplat. Of splats that lie in one plane, looked at
from the side, those count more whose centres are nearer to the camera: a pixel shows what lies on the plane a little
before the point that its ray meets. So it looks from all sides as if the plane were higher than it is, and training,
which moves splats until pictures fit, sinks them. Beside it the same splats in the order of their numbers, which has
nothing to do with the camera.
"""

from dataclasses import dataclass
from typing import Tuple

import numpy as np
import torch
import tyro
from torch import Tensor

from benchmarks._report import Report
from nts_plugins.gaussians import Gaussians
from nts_plugins.rasterization import reference
from nts_plugins.rasterization._types import Settings
from nts_plugins.rasterization.rules import installed_rules
from nts_plugins.samples.cameras import Camera, focal_from_fov, look_at

SIDE = 1.2
"""Of the plane that splats are strewn on, metres; pixels count that see it well inside."""
PLACES = ((0.75, 0.32), (0.62, 0.62))
"""Distance aside of the camera and its height above the plane, metres: those of the table of ``surfaces``."""


@dataclass
class Options:
    """Measure how much nearer to the camera what a pixel shows lies."""

    counts: Tuple[int, ...] = (3000, 12000, 50000)
    """Splats on 1.2 by 1.2 metres. Their axes are as long as it takes to cover the plane equally often."""
    opacities: Tuple[float, ...] = (0.2, 0.4, 0.9)
    """Of all splats."""
    name: str = "order"
    """Name of the result."""
    force: bool = False
    """Replace an earlier result of that name."""


def main(options: Options) -> None:
    """Measure every case and write the report."""
    report = Report(options.name, "What the order of splats does to a surface")
    report.check_free(options.force)
    note = (
        "Splats in one plane, axes s and 1.5 s, at 240x180. *nearer*: by how much, on the plane, the mean of the "
        "centres that a pixel shows lies nearer to the camera than the point that its ray meets; *looks higher*: how "
        "much higher a plane looks then. Millimetres, mean over pixels."
    )
    table = report.table("Planes", note)
    for distance, height in PLACES:
        for count in options.counts:
            for opacity in options.opacities:
                axis = 0.8 * SIDE / count**0.5
                shown = [nearer(count, axis, opacity, distance, height, by_depth) for by_depth in (True, False)]
                table.add(
                    **{
                        "camera": f"{np.degrees(np.arctan2(height, distance)):.0f} degrees above",
                        "splats": count,
                        "s": f"{1000 * axis:.1f} mm",
                        "opacity": opacity,
                        "nearer": 1000 * shown[0],
                        "looks higher": 1000 * shown[0] * height / distance,
                        "nearer, any order": 1000 * shown[1],
                    }
                )
                print(table.rows[-1], flush=True)
    print(f"written to {report.write()}")


@torch.no_grad()
def nearer(count: int, axis: float, opacity: float, distance: float, height: float, by_depth: bool) -> float:
    """Metres on the plane, from the point that a pixel's ray meets towards the camera."""
    generator = torch.Generator().manual_seed(0)
    means = torch.zeros(count, 3)
    means[:, :2] = SIDE * (torch.rand(count, 2, generator=generator) - 0.5)
    half = 0.5 * torch.pi * torch.rand(count, generator=generator)
    quats = torch.stack([half.cos(), 0 * half, 0 * half, half.sin()], dim=1)
    scales = torch.tensor([axis, 1.5 * axis, 0.1 * axis]).expand(count, 3)
    splats = Gaussians(means, quats, scales, torch.full((count,), opacity), colors=torch.zeros(count, 3))
    camera = Camera(240, 180, focal_from_fov(240, 55.0), look_at([distance, 0.0, height], [0.0, 0.0, 0.0]))
    viewmat, K = _matrices(camera)
    settings = Settings(camera.width, camera.height, installed_rules())
    seen = reference.project(splats, viewmat[None], K[None], settings)
    depths = seen.depths[0] if by_depth else torch.ones(count)
    shown, alphas = reference.composite(
        seen.means2d[0], seen.conics[0], seen.opacities[0], means[:, :1], seen.radii[0], depths, settings
    )
    rays = camera.unproject(camera.pixel_grid(), np.ones((camera.height, camera.width))) - camera.position
    met = torch.from_numpy(camera.position - rays * (camera.position[2] / rays[..., 2:])).float()
    inside = (met[..., :2].abs() < SIDE / 3).all(dim=-1) & (alphas[..., 0] > 0.5)
    return float((shown / alphas - met[..., :1])[inside].mean())


def _matrices(camera: Camera) -> Tuple[Tensor, Tensor]:
    """World to camera with OpenCV's axes, and intrinsics."""
    pose = torch.from_numpy(camera.camera_to_world @ np.diag([1.0, -1.0, -1.0, 1.0]))
    focal, (x, y) = camera.focal, camera.centre
    K = torch.tensor([[focal, 0.0, x], [0.0, focal, y], [0.0, 0.0, 1.0]])
    return torch.linalg.inv(pose).float(), K


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
