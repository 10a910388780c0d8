# SPDX-License-Identifier: Apache-2.0
"""A tiny capture that can be learned: coloured blobs seen from a ring of cameras, written as ns-train reads it."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, List, Tuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nts_plugins.data.cameras import world_to_camera
from nts_plugins.data.features import FeatureStore, key_of
from nts_plugins.encoders.base import NOTHING, Regions
from nts_plugins.gaussians import Gaussians
from nts_plugins.rasterization import rasterize

FOCAL = 1.2
"""Focal length in widths of the picture."""


def blobs(count: int = 40, seed: int = 0) -> Gaussians:
    """Opaque blobs of saturated colours within the unit cube."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    return Gaussians(
        means=(uniform(count, 3) - 0.5) * 1.6,
        quats=torch.randn(count, 4, generator=generator),
        scales=0.08 + 0.12 * uniform(count, 3),
        opacities=0.6 + 0.39 * uniform(count),
        colors=uniform(count, 3),
    )


def ring_pose(angle: float, radius: float = 3.0, height: float = 0.8) -> Tensor:
    """[4, 4] camera to world, OpenGL axes, looking at the origin; z is up."""
    position = torch.tensor([radius * math.cos(angle), radius * math.sin(angle), height])
    backward = position / position.norm()
    right = torch.linalg.cross(torch.tensor([0.0, 0.0, 1.0]), backward)
    right = right / right.norm()
    pose = torch.eye(4)
    pose[:3, :3] = torch.stack([right, torch.linalg.cross(backward, right), backward], dim=1)
    pose[:3, 3] = position
    return pose


def intrinsics(width: int, height: int) -> Tensor:
    """[3, 3], principal point in the middle."""
    return torch.tensor([[FOCAL * width, 0, width / 2], [0, FOCAL * width, height / 2], [0, 0, 1]])


def photograph(gaussians: Gaussians, pose: Tensor, size: Tuple[int, int]) -> np.ndarray:
    """[H, W, 3] uint8 picture of the blobs on black."""
    width, height = size
    viewmats = world_to_camera(pose[None, :3])
    raster = rasterize(gaussians, viewmats, intrinsics(width, height)[None], width, height, backend="reference")
    return (raster.colors[0].clamp(0, 1) * 255 + 0.5).to(torch.uint8).numpy()


def moved(scene: Gaussians, time: float) -> Gaussians:
    """The blobs at a time in [0, 1], when the first half of them has risen by 0.5."""
    rise = torch.zeros_like(scene.means)
    rise[: len(scene) // 2, 2] = 0.5 * time
    return replace(scene, means=scene.means + rise)


def write_capture(
    folder: Path, *, views: int = 8, size: Tuple[int, int] = (48, 36), points: int = 60, moving: bool = False
) -> Path:
    """Write pictures, transforms.json and seed points; returns the folder. Every fourth view is held out.

    Where the scene moves, frames have a time from 0 to 1.
    """
    scene = blobs()
    (folder / "images").mkdir(parents=True)
    frames: List[Dict[str, Any]] = []
    for view in range(views):
        pose = ring_pose(2 * math.pi * view / views)
        name = f"images/{view:03d}.png"
        time = view / (views - 1) if moving else 0.0
        Image.fromarray(photograph(moved(scene, time), pose, size)).save(folder / name)
        frames.append({"file_path": name, "transform_matrix": pose.tolist(), **({"time": time} if moving else {})})
    names = [frame["file_path"] for frame in frames]
    held_out = names[3::4]
    width, height = size
    meta: Dict[str, Any] = {
        "camera_model": "OPENCV",
        "fl_x": FOCAL * width,
        "fl_y": FOCAL * width,
        "cx": width / 2,
        "cy": height / 2,
        "w": width,
        "h": height,
        "ply_file_path": "points.ply",
        "frames": frames,
        "train_filenames": [name for name in names if name not in held_out],
        "val_filenames": held_out,
        "test_filenames": held_out,
    }
    write_points(folder / "points.ply", scene, points)
    save_meta(folder, meta)
    return folder


def write_depth(folder: Path) -> None:
    """Give a capture whose blobs stand still depth files, in thousandths of its unit, of where they are opaque."""
    meta, scene = load_meta(folder), blobs()
    (folder / "depth").mkdir()
    for frame in meta["frames"]:
        viewmats = world_to_camera(torch.tensor(frame["transform_matrix"])[None, :3])
        size = meta["w"], meta["h"]
        raster = rasterize(scene, viewmats, intrinsics(*size)[None], *size, depth="expected", backend="reference")
        assert raster.depth is not None
        depth = torch.where(raster.alphas[0] > 0.5, raster.depth[0], 0.0)[..., 0]
        frame["depth_file_path"] = f"depth/{Path(frame['file_path']).stem}.npy"
        np.save(folder / frame["depth_file_path"], 1000.0 * depth.numpy())
    save_meta(folder, meta)


ENCODER = "colours of tests / brightest channel"


def write_regions(folder: Path) -> Path:
    """Give the pictures of a capture regions on three levels, by their brightest channel; returns the store's folder.

    Features are the first six axes of eight, three for the pixels of each channel on two levels; on the third there is
    one region, whose feature is the seventh.
    """
    store = FeatureStore(folder / "features" / "colours", ENCODER)
    for path in sorted((folder / "images").iterdir()):
        picture = np.asarray(Image.open(path))
        lit = torch.from_numpy(picture[..., :3].max(axis=2) > 40)
        brightest = torch.where(lit, torch.from_numpy(picture[..., :3].argmax(axis=2)), NOTHING)
        levels = [brightest, torch.where(lit, brightest + 3, NOTHING), torch.where(lit, 6, NOTHING)]
        store.write(key_of(picture), Regions(torch.stack(levels).int(), torch.eye(8)[:7]), path.name)
    return store.folder


def write_points(path: Path, scene: Gaussians, count: int) -> None:
    """Seed points near the blobs' centres, with their colours, as an ASCII PLY file."""
    generator = torch.Generator().manual_seed(1)
    which = torch.randint(len(scene), (count,), generator=generator)
    xyz = scene.means[which] + 0.1 * torch.randn(count, 3, generator=generator)
    rgb = (scene.colors[which] * 255).to(torch.uint8)  # type: ignore[index]
    properties = [f"property float {axis}" for axis in "xyz"] + [
        f"property uchar {c}" for c in ("red", "green", "blue")
    ]
    header = ["ply", "format ascii 1.0", f"element vertex {count}", *properties, "end_header"]
    rows = [" ".join(map(str, [*p, *c])) for p, c in zip(xyz.tolist(), rgb.tolist(), strict=True)]
    path.write_text("\n".join([*header, *rows]) + "\n")


def load_meta(folder: Path) -> Dict[str, Any]:
    return json.loads((folder / "transforms.json").read_text())


def save_meta(folder: Path, meta: Dict[str, Any]) -> None:
    (folder / "transforms.json").write_text(json.dumps(meta))


def write_dnerf(folder: Path, *, views: int = 6, size: Tuple[int, int] = (48, 36), last: float = 1.0) -> Path:
    """Write the moving blobs in D-NeRF's format, pictures with alpha; returns the folder. ``last`` is the last time."""
    for split, count in (("train", views), ("val", 2), ("test", 2)):
        (folder / split).mkdir(parents=True)
        frames = []
        for view in range(count):
            time, pose, name = view / (count - 1), ring_pose(2 * math.pi * view / count), f"./{split}/r_{view:03d}"
            color = photograph(moved(blobs(), time), pose, size)
            alpha = np.where(color.max(axis=-1, keepdims=True) > 8, 255, 0).astype(np.uint8)
            Image.fromarray(np.concatenate([color, alpha], axis=-1)).save(folder / f"{name}.png")
            frames.append({"file_path": name, "time": last * time, "transform_matrix": pose.tolist()})
        meta = {"camera_angle_x": 2 * math.atan(0.5 / FOCAL), "frames": frames}
        (folder / f"transforms_{split}.json").write_text(json.dumps(meta))
    return folder
