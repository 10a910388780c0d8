# SPDX-License-Identifier: Apache-2.0
"""The photographs that hang in the gallery: files inside scikit-image's own package, nothing to download.

scikit-image documents the licence of each file in the docstring of the function of the same name in
``skimage.data``; only those dedicated to the public domain (or CC0) are in this table.
"""

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Dict

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Photograph:
    """One file of scikit-image's package."""

    file: str
    shows: str
    licence: str
    source: str


PHOTOGRAPHS: Dict[str, Photograph] = {
    photograph.file.partition(".")[0]: photograph
    for photograph in (
        Photograph("astronaut.png", "astronaut", "public domain", "NASA, portrait of Eileen Collins"),
        Photograph("chelsea.png", "cat", "CC0", "Stefan van der Walt, Chelsea the cat"),
        Photograph("coffee.png", "coffee cup", "CC0", "Rachel Michetti, courtesy of Pikolo Espresso Bar"),
        Photograph("rocket.jpg", "rocket", "public domain", "SpaceX, Falcon 9 with DSCOVR"),
        Photograph("hubble_deep_field.jpg", "galaxies", "public domain", "NASA, Hubble eXtreme Deep Field"),
        Photograph("retina.jpg", "retina", "CC0", "Mikael Haggstrom, fundus photograph of a left eye"),
        Photograph("camera.png", "photographer", "CC0", "Lav Varshney, cameraman"),
        Photograph("horse.png", "horse", "CC0", "Andreas Preuss (marauder), silhouette, openclipart"),
        Photograph("gravel.png", "gravel", "CC0", "CC0Textures, Gravel04"),
        Photograph("grass.png", "grass", "CC0", "linolafett (DeviantArt), Grass 01"),
    )
}
"""By scikit-image's name of the picture."""


class PhotographMissing(RuntimeError):
    """scikit-image is not installed, or its package lacks one of the files."""


def load_photograph(name: str) -> NDArray[np.uint8]:
    """Pixels of one photograph.

    Args:
        name: a key of :data:`PHOTOGRAPHS`.

    Returns:
        [H, W, 3] sRGB, first row on top; transparent parts are white.

    Raises:
        PhotographMissing: naming the file that scikit-image's package should hold.
    """
    from PIL import Image

    spec = importlib.util.find_spec("skimage")
    if spec is None or not spec.submodule_search_locations:
        raise PhotographMissing("scikit-image is not installed; its package holds the photographs of the gallery.")
    path = Path(spec.submodule_search_locations[0]) / "data" / PHOTOGRAPHS[name].file
    if not path.is_file():
        raise PhotographMissing(f"{path} is missing from scikit-image's package; reinstall scikit-image.")
    with Image.open(path) as image:
        pixels = image.convert("RGBA")
    white = Image.new("RGBA", pixels.size, (255, 255, 255, 255))
    return np.asarray(Image.alpha_composite(white, pixels).convert("RGB"))
