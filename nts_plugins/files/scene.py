# SPDX-License-Identifier: Apache-2.0
"""A scene as a folder: ``splats.ply``, ``textures.npz`` where splats have textures, and ``scene.json`` about both.

docs/scene-files.md describes the files for whoever reads them with another program.
"""

import json
import zipfile
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Dict, Mapping, Optional

import numpy as np
import torch
from torch import Tensor

from nts_plugins.errors import InputError
from nts_plugins.files import ply
from nts_plugins.files.whole import check_folder, whole_folder, writing
from nts_plugins.gaussians import Gaussians
from nts_plugins.rasterization.textures import Textures, check_textures

FORMAT, VERSION = "nts-plugins scene", 1
ABOUT, SPLATS, TEXTURES = "scene.json", "splats.ply", "textures.npz"


@dataclass(frozen=True)
class Scene:
    """What :func:`nts_plugins.rasterization.rasterize` needs to draw a scene, and what is known about it."""

    gaussians: Gaussians
    textures: Optional[Textures] = None
    antialiased: bool = False
    """Whether the splats were trained to be drawn with ``antialiased``."""
    background: Tensor = field(default_factory=lambda: torch.zeros(3))
    """[3] colour behind the splats."""
    about: Dict[str, Any] = field(default_factory=dict)
    """All of ``scene.json``."""


def save(
    folder: Path,
    params: Mapping[str, Tensor],
    textures: Optional[Textures] = None,
    *,
    antialiased: bool = False,
    background: Optional[Tensor] = None,
    about: Optional[Mapping[str, Any]] = None,
    overwrite: bool = False,
) -> None:
    """Write a scene, whole or not at all.

    Args:
        folder: to make. Another scene in it is replaced with ``overwrite``; other files never are.
        params: [N, ...] float32 splats by nerfstudio's names, see :func:`nts_plugins.files.ply.exported`.
        textures: of these splats.
        antialiased, background: see :class:`Scene`.
        about: more for ``scene.json``: names, numbers, lists.

    Raises:
        InputError: where the folder cannot be written or may not be replaced; it is as it was then.
    """
    target = folder.expanduser().absolute()
    check_target(target, overwrite)
    facts: Dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "splats": len(params["means"]),
        "textures": 0 if textures is None else len(textures),
        "antialiased": antialiased,
        "background": [0.0, 0.0, 0.0] if background is None else background.tolist(),
        **(about or {}),
    }
    with writing(f"the scene to {target}"), whole_folder(target) as work:
        ply.write(work / SPLATS, params)
        if textures is not None:
            np.savez(work / TEXTURES, **_arrays(textures))  # type: ignore[arg-type]
        (work / ABOUT).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def check_target(target: Path, overwrite: bool) -> None:
    """Whether a scene may be written to a folder, for whoever wants to know before the work is done.

    Raises:
        InputError: saying why it may not.
    """
    check_folder(target, "a scene", (ABOUT, SPLATS, TEXTURES), ABOUT, overwrite)


def load(folder: Path) -> Scene:
    """Read a scene as it was written: the same numbers to the bit. No code in a file is run.

    Raises:
        InputError: naming the file that is missing, damaged or of a newer version.
    """
    about = _about(folder)
    gaussians = ply.activated(ply.read(folder / SPLATS))
    textures = _textures(folder / TEXTURES, len(gaussians)) if about.get("textures") else None
    return Scene(
        gaussians,
        textures,
        antialiased=bool(about.get("antialiased", False)),
        background=torch.tensor(about.get("background", [0.0, 0.0, 0.0]), dtype=torch.float32),
        about=about,
    )


def _about(folder: Path) -> Dict[str, Any]:
    path = folder / ABOUT
    if not path.is_file():
        raise InputError(f"{folder} is not a scene: it has no {ABOUT}. nts export writes such folders.")
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise InputError(f"{path} does not describe a scene: its format is not '{FORMAT}'.")
    if about.get("version") != VERSION:
        raise InputError(f"{path} has version {about.get('version')}, and version {VERSION} can be read here. Update.")
    return about


def _arrays(textures: Textures) -> Dict[str, np.ndarray]:
    """Every field by its name; weights and faces that are None are left out."""
    plain = textures.map(lambda tensor: tensor.detach().float().cpu())
    faces = None if textures.faces is None else textures.faces.cpu()
    plain = replace(plain, splats=textures.splats.cpu(), faces=faces)
    values = {each.name: getattr(plain, each.name) for each in fields(plain)}
    return {name: np.asarray(value) for name, value in values.items() if value is not None}


def _textures(path: Path, n_splats: int) -> Textures:
    if not path.is_file():
        raise InputError(f"There is no file {path}, although {ABOUT} beside it speaks of textures.")
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        weights, faces = (torch.from_numpy(arrays[name]) if name in arrays else None for name in ("weights", "faces"))
        red, green, blue, opacity = arrays["amplitudes"].tolist()
        textures = Textures(
            torch.from_numpy(arrays["vectors"]),
            torch.from_numpy(arrays["splats"]),
            weights,
            faces,
            product_tanh=bool(arrays["product_tanh"]),
            amplitudes=(red, green, blue, opacity),
            moves_splats=bool(arrays["moves_splats"]),
        )
        check_textures(textures, n_splats)
    except (OSError, KeyError, ValueError, TypeError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} cannot be read, or does not fit {SPLATS} beside it: {error}") from error
    return textures
