# SPDX-License-Identifier: Apache-2.0
"""04 · Draw a baked scene

What `nts export --bake` wrote, drawn without nerfstudio: splats and their textures, seen from the view that is noted in
the folder. Any device, about a second. docs/scene-files.md describes the files.
"""

import argparse
from pathlib import Path

import torch
from PIL import Image

from nts_plugins.files import load
from nts_plugins.rasterization import rasterize


def main(folder: Path, output: Path) -> None:
    scene = load(folder)
    view = scene.about["view"]
    viewmats, Ks = torch.tensor(view["viewmat"])[None], torch.tensor(view["K"])[None]
    raster = rasterize(
        scene.gaussians,
        viewmats,
        Ks,
        view["width"],
        view["height"],
        textures=scene.textures,
        background=scene.background,
        antialiased=scene.antialiased,
    )
    Image.fromarray((raster.colors[0].clamp(0, 1) * 255 + 0.5).byte().numpy()).save(output)
    print(f"{output}: {len(scene.gaussians)} splats, {len(scene.textures or ())} of them with a texture.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="what nts export made")
    parser.add_argument("--output", type=Path, default=Path("baked.png"))
    options = parser.parse_args()
    main(options.folder, options.output)
