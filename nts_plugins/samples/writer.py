# SPDX-License-Identifier: Apache-2.0
"""A sample scene on disk, as ``ns-train METHOD --data FOLDER`` reads it."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional

import numpy as np
from numpy.typing import NDArray

from nts_plugins.errors import describe
from nts_plugins.files.whole import remove_leftovers, whole_folder
from nts_plugins.samples._config import SampleConfig
from nts_plugins.samples._readme import readme
from nts_plugins.samples._threads import in_threads
from nts_plugins.samples.cameras import Camera
from nts_plugins.samples.dancer import build_dancer, circle
from nts_plugins.samples.gallery import build_gallery, walk
from nts_plugins.samples.photographs import PHOTOGRAPHS
from nts_plugins.samples.scene import Scene, solid_to_world
from nts_plugins.samples.seeds import SeedFinder, SeedPoints
from nts_plugins.samples.surface import SurfaceFinder
from nts_plugins.samples.tracer import Tracer, View

MAKERS = {"gallery": (build_gallery, walk), "dancer": (build_dancer, circle)}
"""Of every scene, what builds it and what places its cameras."""
GENERATOR = "nts sample {}"
VERSION = 5
"""Raise it when the same options make other bytes."""

Progress = Callable[[str, int, int], None]
"""Called as ``progress(stage, done, total)``."""


class SampleError(RuntimeError):
    """The sample cannot be written here; the message says why and what to do."""


def write_sample(
    folder: Path,
    config: Optional[SampleConfig] = None,
    *,
    overwrite: bool = False,
    threads: Optional[int] = None,
    progress: Optional[Progress] = None,
) -> bool:
    """Write a sample. The folder appears complete or not at all.

    Args:
        folder: where; it must be missing, empty, or hold the same sample already.
        config: what to write; equal options make equal bytes.
        overwrite: replace another sample that is there. Anything else is never removed.
        threads: at most so many; None takes every core.
        progress: told how far it is.

    Returns:
        True when it was written, False when the same sample was there already and nothing was done.

    Raises:
        SampleError: when the folder holds something else, or cannot be written.
        PhotographMissing: when scikit-image's package is not complete.
    """
    config = config or SampleConfig()
    if threads is not None and threads < 1:
        raise SampleError(f"threads is {threads}, but at least one is needed.")
    target = Path(folder).expanduser().resolve()
    tell = progress or (lambda stage, done, total: None)
    try:
        if target.parent.is_dir():
            remove_leftovers(target)
        if _is_finished(target, config):
            return False
        _check_target(target, overwrite)
        with whole_folder(target) as work:
            _write(work, config, threads or os.cpu_count() or 1, tell)
    except OSError as error:
        raise SampleError(f"Cannot write the sample to {target}: {error.strerror or error}.") from error
    return True


def _check_target(target: Path, overwrite: bool) -> None:
    for place in (target, *target.parents):
        if place.exists() and not place.is_dir():
            raise SampleError(f"{place} is a file, but the sample needs a folder. Choose another place.")
    if not target.exists():
        return
    if not any(target.iterdir()):
        return
    if _manifest(target) is None:
        raise SampleError(f"{target} holds other files, which are never removed. Choose a new or empty folder.")
    if not overwrite:
        raise SampleError(
            f"{target} holds another or a changed sample. Choose another folder, or replace it with --overwrite."
        )
    others = _other_files(target)
    if others:
        raise SampleError(
            f"{target} also holds files that are not the sample's, which are never removed: {describe(others)}. Move "
            f"them, or choose another folder."
        )


def _other_files(target: Path) -> List[str]:
    """Files in a sample's folder that the sample did not write."""
    own = {"sample.json", *(_manifest(target) or {}).get("sha256", {})}
    files = (path.relative_to(target).as_posix() for path in sorted(target.rglob("*")) if not path.is_dir())
    return [name for name in files if name not in own]


def _manifest(target: Path) -> Optional[Dict[str, Any]]:
    """What ``sample.json`` says, if it is one of ours."""
    try:
        manifest = json.loads((target / "sample.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    ours = [GENERATOR.format(scene) for scene in MAKERS]
    return manifest if isinstance(manifest, dict) and manifest.get("generator") in ours else None


def _is_finished(target: Path, config: SampleConfig) -> bool:
    """Whether the same sample is there, every file as it was written."""
    manifest = _manifest(target)
    if manifest is None or manifest.get("version") != VERSION:
        return False
    # An option that is younger than the sample was at its default, and the scene itself is one.
    defaults = {**SampleConfig.of(config.scene).to_json(), "scene": "gallery"}
    if {**defaults, **manifest.get("options", {})} != config.to_json():
        return False
    files = manifest.get("sha256", {})
    return all((target / name).is_file() and _digest(target / name) == digest for name, digest in files.items())


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _write(work: Path, config: SampleConfig, threads: int, tell: Progress) -> None:
    """Everything, in the order in which it is needed; ``sample.json`` with the digests comes last."""
    tell("scene", 0, 1)
    build, place = MAKERS[config.scene]
    scene, cameras = build(config), place(config)
    tell("scene", 1, 1)
    tell("light", 0, 1)
    tracer = Tracer(
        scene,
        texel=light_texel(config),
        threads=threads,
        progress=lambda done, total: tell("light", done, total),
    )
    for name in ("images", "depths", "normals", "instances"):
        (work / name).mkdir()

    def photograph(view: int) -> View:
        picture = tracer.view(cameras[view], config.time(view) or 0.0, samples=config.samples)
        _write_view(work, view, picture)
        return picture

    surface = None if config.dynamic else SurfaceFinder(scene.bounds().values())
    tell("pictures", 0, config.views)
    for done, picture in enumerate(in_threads(threads, photograph, range(config.views))):
        if surface is not None:
            surface.add(picture.camera, picture.depth, picture.normals)
        tell("pictures", done + 1, config.views)
    if surface is not None:
        xyz, normals = surface.points()
        write_points(work / "surface.ply", xyz=xyz, normals=normals)
    points = _find_seeds(work, config, cameras, tell)
    ply = "points.ply" if len(points.xyz) else None
    if ply:
        write_points(work / ply, xyz=points.xyz, rgb=points.rgb)
    _write_json(work / "transforms.json", transforms(config, cameras, ply))
    _write_json(work / "instances.json", _instances(scene))
    if config.dynamic:
        _write_json(work / "motions.json", _motions(scene, config))
    (work / "README.md").write_text(readme(config), encoding="utf-8")
    files = sorted(path for path in work.rglob("*") if path.is_file())
    manifest = {
        "generator": GENERATOR.format(config.scene),
        "version": VERSION,
        "options": config.to_json(),
        "seed_points": len(points.xyz),
        "photographs": {
            key: {"file": entry.file, "shows": entry.shows, "licence": entry.licence, "source": entry.source}
            for key, entry in (PHOTOGRAPHS.items() if config.has_photographs else ())
        },
        "sha256": {path.relative_to(work).as_posix(): _digest(path) for path in files},
    }
    _write_json(work / "sample.json", manifest)


def light_texel(config: SampleConfig) -> float:
    """Metres that a texel of the light maps covers: finer pictures get finer shadows."""
    return float(np.clip(0.04 * 480.0 / config.width, 0.03, 0.16))


def frame_name(view: int) -> str:
    """File name of a view, without its folder."""
    return f"frame_{view + 1:05d}.png"


def transforms(config: SampleConfig, cameras: List[Camera], ply: Optional[str]) -> Dict[str, Any]:
    """nerfstudio's ``transforms.json``: OpenGL camera-to-world matrices, metres, z up.

    nerfstudio wants at least one view in each split, so without held-out views it evaluates on those it trains on.
    """
    first = cameras[0]
    frames = []
    for view, camera in enumerate(cameras):
        frame: Dict[str, Any] = {
            "file_path": f"images/{frame_name(view)}",
            "depth_file_path": f"depths/{frame_name(view)}",
            "transform_matrix": camera.camera_to_world.tolist(),
        }
        if config.dynamic:
            frame["time"] = config.time(view)
        frames.append(frame)
    test = [frame["file_path"] for view, frame in enumerate(frames) if config.is_test(view)]
    train = [frame["file_path"] for view, frame in enumerate(frames) if not config.is_test(view)]
    return {
        "camera_model": "OPENCV",
        "fl_x": first.focal,
        "fl_y": first.focal,
        "cx": first.centre[0],
        "cy": first.centre[1],
        "w": first.width,
        "h": first.height,
        "k1": 0.0,
        "k2": 0.0,
        "p1": 0.0,
        "p2": 0.0,
        **({"ply_file_path": ply} if ply else {}),
        "train_filenames": train,
        "val_filenames": test or train,
        "test_filenames": test or train,
        "frames": frames,
    }


def _instances(scene: Scene) -> Dict[str, Any]:
    """Names and boxes of the ids in ``instances/``."""
    bounds = scene.bounds()
    return {
        str(instance.id): {
            "name": instance.name,
            "category": instance.category,
            "low": np.round(bounds[instance.id][0], 6).tolist(),
            "high": np.round(bounds[instance.id][1], 6).tolist(),
        }
        for instance in scene.instances
    }


def _motions(scene: Scene, config: SampleConfig) -> Dict[str, Any]:
    """Of every moving instance, the world-to-world matrix since time 0, frame by frame."""
    movers = {solid.instance: solid for solid in scene.solids if solid.motion is not None}
    result = {}
    for instance, solid in movers.items():
        start = np.linalg.inv(solid_to_world(solid, 0.0))
        poses = [solid_to_world(solid, config.time(view) or 0.0) @ start for view in range(config.views)]
        result[str(instance)] = np.round(poses, 9).tolist()
    return result


def _write_view(work: Path, view: int, picture: View) -> None:
    name = frame_name(view)
    _write_png(work / "images" / name, picture.rgb[..., ::-1])
    millimetres = np.clip(np.rint(picture.depth * 1000.0), 0, 65535).astype(np.uint16)
    _write_png(work / "depths" / name, millimetres)
    codes = np.rint((picture.normals + 1.0) * 32767.5).astype(np.uint16)
    _write_png(work / "normals" / name, codes[..., ::-1])
    _write_png(work / "instances" / name, picture.ids.astype(np.uint16))


def _write_png(path: Path, pixels: NDArray) -> None:
    """Lossless; channels in OpenCV's order, blue first. Encoded in memory, so that a full disk raises."""
    import cv2

    ok, data = cv2.imencode(".png", np.ascontiguousarray(pixels))
    if not ok:
        raise OSError(f"OpenCV cannot encode {path.name}")
    path.write_bytes(data.tobytes())


def _read_png(path: Path) -> NDArray:
    import cv2

    pixels = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise OSError(f"OpenCV cannot read {path.name}")
    return pixels[..., ::-1] if pixels.ndim == 3 else pixels


def _find_seeds(work: Path, config: SampleConfig, cameras: List[Camera], tell: Progress) -> SeedPoints:
    """Seed points from the training views alone, read back from the disk one at a time."""
    train = [view for view in range(config.views) if not config.is_test(view)]
    # Somewhat more than half of the candidates survive; the rest of the factor is for spare.
    share = -(-3 * config.points // len(train))
    finder = SeedFinder(config.seed)
    for stage in ("propose", "match"):
        if stage == "match":
            finder.start_matching()
        for done, view in enumerate(train):
            rgb = _read_png(work / "images" / frame_name(view))
            depth = _read_png(work / "depths" / frame_name(view)) * 0.001
            if stage == "propose":
                finder.propose(cameras[view], rgb, depth, share)
            else:
                finder.match(cameras[view], rgb, depth)
            tell("seed points", done + 1 + (len(train) if stage == "match" else 0), 2 * len(train))
    return finder.points(config.points, config.pixel_noise, config.outliers)


_PLY = {
    "xyz": ("<f4", ("x", "y", "z")),
    "normals": ("<f4", ("nx", "ny", "nz")),
    "rgb": ("u1", ("red", "green", "blue")),
}
"""What a point may carry: type, and names in the file."""


def write_points(path: Path, **columns: NDArray) -> None:
    """Points as a binary PLY file; columns [P, 3] by their names in ``_PLY``."""
    from plyfile import PlyData, PlyElement

    rows = np.empty(len(columns["xyz"]), [(each, _PLY[name][0]) for name in columns for each in _PLY[name][1]])
    for name, values in columns.items():
        for axis, each in enumerate(_PLY[name][1]):
            rows[each] = values[:, axis]
    PlyData([PlyElement.describe(rows, "vertex")], byte_order="<").write(str(path))


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
