# SPDX-License-Identifier: Apache-2.0
"""01 · Draw splats

A ring of coloured splats, seen from a camera: colour, depth and accumulated opacity in one pass, as a picture on disk.
No nerfstudio, any device, about a second. Next: 02 lets splats learn a photograph.
"""

import argparse
import math
from pathlib import Path

import torch
from PIL import Image

from nts_plugins.gaussians import Gaussians
from nts_plugins.rasterization import rasterize


def ring(count: int = 24) -> Gaussians:
    """Splats on a circle of radius 1 in the plane z = 4, each flat, each with a colour of its own."""
    angles = torch.arange(count) * (2 * math.pi / count)
    zeros = torch.zeros(count)
    return Gaussians(
        means=torch.stack([angles.cos(), angles.sin(), zeros + 4 + 0.5 * angles.cos()], dim=-1),
        quats=torch.stack([(angles / 2).cos(), zeros, zeros, (angles / 2).sin()], dim=-1),
        scales=torch.tensor([0.15, 0.05, 0.02]).expand(count, 3),
        opacities=torch.full((count,), 0.9),
        colors=0.5 + 0.5 * torch.stack([angles.cos(), (angles - 2).cos(), (angles + 2).cos()], dim=-1),
    )


def main(output: Path, width: int = 320, height: int = 240) -> None:
    viewmats = torch.eye(4)[None]  # the camera sits at the origin and looks along +z
    Ks = torch.tensor([[[width, 0.0, width / 2], [0.0, width, height / 2], [0.0, 0.0, 1.0]]])
    background = torch.tensor([0.1, 0.1, 0.15])
    raster = rasterize(ring(), viewmats, Ks, width, height, background=background, depth="expected")
    assert raster.depth is not None
    depth = (raster.depth[0] / raster.depth.max()).expand(-1, -1, 3)
    picture = torch.cat([raster.colors[0], depth, raster.alphas[0].expand(-1, -1, 3)], dim=1)
    Image.fromarray((picture.clamp(0, 1) * 255).byte().numpy()).save(output)
    print(f"{output}: colour, depth, opacity. The splats cover {raster.alphas.mean():.1%} of the picture.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("splats.png"))
    main(parser.parse_args().output)
