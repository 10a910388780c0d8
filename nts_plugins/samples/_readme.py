# SPDX-License-Identifier: Apache-2.0
"""The text that goes into the folder of a sample."""

from nts_plugins.samples._config import SampleConfig

_TEXT = """\
# A sample capture made by `nts sample SCENE`

Train on it with `ns-train METHOD --data THIS_FOLDER`.

World: metres, z up. Cameras: OpenGL camera-to-world (x right, y up, looking along -z), no distortion, pixel centres
at +0.5. Pictures are computed, so everything below is exact up to the rounding that is stated.

| file | what it holds |
|---|---|
| `transforms.json` | cameras and split as nerfstudio reads them; `time` of each frame in a dynamic sample |
| `images/` | sRGB, 8 bits |
| `depths/` | depth along the viewing axis in millimetres, 16 bits; 0 where nothing is |
| `normals/` | unit normals in world axes, 16 bits a channel: n = value / 32767.5 - 1 |
| `instances/` | number of the thing at each pixel's centre, 16 bits; 0 is nothing |
| `instances.json` | name, category and box at time 0 (lowest and highest corner, metres) of each number |
| `motions.json` | dynamic samples only: of each moving thing, the 4x4 world matrix since time 0, frame by frame |
| `points.ply` | seed points with colours, found in the training views alone, with the errors of triangulation |
| `surface.ply` | points with normals of all that the cameras see, one in every cube of 2 cm; not in dynamic samples |
| `sample.json` | the options it was made with, where the photographs come from, and a digest of every file |

Held-out views are listed as `val_filenames` and `test_filenames`, and nothing but their picture and pose depends on
them.
"""

_PHOTOGRAPHS = """
The photographs on the walls, the gravel and the grass come from scikit-image's package and are in the public domain
or CC0; `sample.json` names the source of each. Everything else is computed.
"""


def readme(config: SampleConfig) -> str:
    """The text for a sample."""
    return _TEXT.replace("SCENE", config.scene) + (_PHOTOGRAPHS if config.has_photographs else "")
