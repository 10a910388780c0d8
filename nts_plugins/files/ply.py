# SPDX-License-Identifier: Apache-2.0
"""Splats as a .ply file in the layout that Kerbl et al. 2023 began with and every viewer of splats reads.

One vertex a splat, float32: ``x y z``; ``nx ny nz``, which are 0; ``f_dc_0`` to 2; ``f_rest_*``, all bands of red, then
of green, then of blue; ``opacity`` (logit); ``scale_0`` to 2 (log); ``rot_0`` to 3 (w, x, y, z, of any length). In
memory the values have nerfstudio's names and shapes, see :mod:`nts_plugins.gaussians.initialise`.
"""

import math
from pathlib import Path
from typing import Dict, List, Mapping

import numpy as np
import torch
from torch import Tensor

from nts_plugins.errors import InputError, describe
from nts_plugins.gaussians import Gaussians

LEAST_LOGIT = -5.5373
"""Of an opacity of 1/255. Fainter splats are never drawn, and ns-export leaves them out as well."""
_SINGLE = {"means": ["x", "y", "z"], "opacities": ["opacity"]}
_NUMBERED = {"features_dc": ("f_dc", 3), "scales": ("scale", 3), "quats": ("rot", 4)}
VALUES = ("means", "scales", "quats", "opacities", "features_dc", "features_rest")
"""Names of the values of splats that a file holds."""
_NEEDED = {**_SINGLE, **{name: [f"{stem}_{i}" for i in range(n)] for name, (stem, n) in _NUMBERED.items()}}


def exported(params: Mapping[str, Tensor]) -> Dict[str, Tensor]:
    """The splats that a file gets, in their order: those that are finite and not too faint ever to be drawn.

    Args:
        params: [N, ...] by name, among them those of a file; what else splats have is thinned with them.
    """
    params = {name: value.detach().float().cpu() for name, value in params.items()}
    own = [params[name] for name in (*_NEEDED, "features_rest") if params[name].shape[1:].numel()]
    finite = torch.stack([value.flatten(1).isfinite().all(dim=1) for value in own]).all(dim=0)
    keep = finite & (params["opacities"].reshape(-1) >= LEAST_LOGIT)
    return {name: value[keep] for name, value in params.items()}


def activated(params: Mapping[str, Tensor]) -> Gaussians:
    """The Gaussians that such parameters describe, ready to be drawn."""
    rest = params["features_rest"]
    return Gaussians(
        means=params["means"],
        quats=params["quats"],
        scales=torch.exp(params["scales"]),
        opacities=torch.sigmoid(params["opacities"]).squeeze(-1),
        sh=params["features_dc"][:, None, :],
        sh_rest=rest if rest.shape[1] else None,
    )


def write(path: Path, params: Mapping[str, Tensor]) -> None:
    """Write splats; ns-export's file has the same vertices.

    Raises:
        OSError: where the file cannot be written.
    """
    from plyfile import PlyData, PlyElement

    rest = params["features_rest"].transpose(1, 2).flatten(1)  # [N, 3 * bands], channel by channel
    columns: Dict[str, Tensor] = {}
    for name in ("means", "normals", "features_dc", "features_rest", "opacities", "scales", "quats"):
        if name == "normals":
            columns.update({axis: torch.zeros(len(rest)) for axis in ("nx", "ny", "nz")})
        elif name == "features_rest":
            columns.update({f"f_rest_{i}": rest[:, i] for i in range(rest.shape[1])})
        else:
            columns.update(dict(zip(_NEEDED[name], params[name].unbind(dim=1), strict=True)))
    vertices = np.empty(len(rest), dtype=[(name, "<f4") for name in columns])
    for name, column in columns.items():
        vertices[name] = column.numpy()
    PlyData([PlyElement.describe(vertices, "vertex")], byte_order="<").write(str(path))


def read(path: Path) -> Dict[str, Tensor]:
    """Read splats, of this program or another: [N, ...] float32 by name.

    Raises:
        InputError: where the file is missing, damaged, or holds no splats.
    """
    from plyfile import PlyData, PlyParseError

    if not path.is_file():
        raise InputError(f"There is no file {path}.")
    try:
        vertices = PlyData.read(str(path))["vertex"]
    except (PlyParseError, KeyError, ValueError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as a .ply file with vertices: {error}") from error
    present = {each.name for each in vertices.properties}
    missing = [name for names in _NEEDED.values() for name in names if name not in present]
    if missing:
        raise InputError(f"{path} holds no splats with spherical harmonics: its vertices lack {describe(missing)}.")

    def column_block(names: List[str]) -> Tensor:
        columns = [np.asarray(vertices[name], dtype=np.float32) for name in names]
        return torch.from_numpy(np.stack(columns, axis=1) if columns else np.empty((vertices.count, 0), np.float32))

    params = {name: column_block(names) for name, names in _NEEDED.items()}
    count = sum(name.startswith("f_rest_") for name in present)
    bands, left = divmod(count, 3)
    if left or math.isqrt(bands + 1) ** 2 != bands + 1:
        raise InputError(f"{path} has {count} properties f_rest_*; spherical harmonics have 0, 9, 24 or 45 of them.")
    rest = column_block([f"f_rest_{i}" for i in range(count)])
    params["features_rest"] = rest.view(len(rest), 3, bands).transpose(1, 2).contiguous()
    return params
