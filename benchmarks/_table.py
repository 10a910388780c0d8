# SPDX-License-Identifier: Apache-2.0
"""A table with scanned objects, of the YCB set, as a capture: photographs, exact masks and surface, seed points.

Objects are meshes, which the suite's own tracer does not know; open3d finds where rays meet them, and shading is a sun
with shadows and a sky.
"""

import json
from pathlib import Path
from typing import Any, Dict, List, Tuple

import numpy as np
from numpy.typing import NDArray

from nts_plugins.files.whole import whole_folder
from nts_plugins.samples.cameras import Camera, focal_from_fov, look_at
from nts_plugins.samples.surface import SurfaceFinder
from nts_plugins.samples.writer import write_points

PLACES: Dict[str, Tuple[float, float, float]] = {
    "apple": (-0.16, -0.12, 20.0),
    "banana": (0.02, -0.20, 75.0),
    "cracker_box": (0.02, 0.14, 20.0),
    "mug": (0.20, -0.03, 200.0),
    "mustard_bottle": (-0.20, 0.10, 110.0),
    "rubiks_cube": (0.01, -0.04, 30.0),
}
"""Where each object stands on the table, metres, and how far it is turned, degrees."""
TABLE, TOP = 0.5, 0.02
"""Half of the table top's side and its thickness, metres."""
SUN = np.array([0.35, -0.45, 0.82])
LIGHTS = 0.55, 0.5
"""Of sun and sky."""
FINER = 2
"""Times as large a picture from which the true surface is found."""
OVERSAMPLING = 3
"""Rays along each side of a pixel."""
SEEDS = 6000
SPACING = 0.002
"""Between points of the true surface, metres."""


def write_table(folder: Path, objects: Path, views: int = 48, size: Tuple[int, int] = (240, 180)) -> Path:
    """Write the capture; every eighth view is held out. A folder that is there is taken as it is.

    Args:
        folder: to make.
        objects: folder with a folder of each object, textured.obj and texture_map.png.
        views: photographs, on two circles.
        size: width and height, pixels.
    """
    if (folder / "transforms.json").is_file():
        return folder
    scene = _Scene(objects)
    generator = np.random.default_rng(0)
    points, colors = [], []
    surface = SurfaceFinder(scene.bounds, SPACING)
    with whole_folder(folder) as work:
        (work / "images").mkdir(parents=True)
        (work / "instances").mkdir()
        frames: List[Dict[str, Any]] = []
        for view in range(views):
            angle = 2 * np.pi * view / views
            height, distance = ((0.32, 0.75), (0.62, 0.62))[view % 2]
            position = np.array([distance * np.cos(angle), distance * np.sin(angle), height])
            pose = look_at(position, np.array([0.0, 0.0, 0.05]))
            camera = Camera(size[0], size[1], focal_from_fov(size[0], 55.0), pose)
            scene.find_surface(camera, surface)
            name = f"{view:03d}.png"
            picture, ids, places = scene.photograph(camera)
            _save(work / "images" / name, picture)
            _save(work / "instances" / name, ids.astype(np.uint16))
            frames.append({"file_path": f"images/{name}", "transform_matrix": pose.tolist()})
            some = generator.choice(ids.size, SEEDS // views, replace=False)
            some = some[np.isfinite(places.reshape(-1, 3)[some]).all(axis=1)]
            points.append(places.reshape(-1, 3)[some] + generator.normal(0, 0.004, (len(some), 3)))
            colors.append(picture.reshape(-1, 3)[some])
        write_points(work / "points.ply", xyz=np.concatenate(points), rgb=np.concatenate(colors))
        found, normals = surface.points()
        write_points(work / "surface.ply", xyz=found, normals=normals)
        names = {str(number): {"name": name} for number, name in enumerate(scene.names, start=1)}
        (work / "instances.json").write_text(json.dumps(names, indent=1))
        held_out = [frame["file_path"] for frame in frames[4::8]]
        focal = focal_from_fov(size[0], 55.0)
        meta = {
            "camera_model": "OPENCV", "fl_x": focal, "fl_y": focal, "cx": size[0] / 2, "cy": size[1] / 2,
            "w": size[0], "h": size[1], "ply_file_path": "points.ply", "frames": frames,
            "train_filenames": [each["file_path"] for each in frames if each["file_path"] not in held_out],
            "val_filenames": held_out, "test_filenames": held_out,
        }  # fmt: skip
        (work / "transforms.json").write_text(json.dumps(meta, indent=1))
    return folder


class _Scene:
    """Meshes on a table, and what rays see of them."""

    def __init__(self, objects: Path) -> None:
        import open3d as o3d
        import trimesh
        from PIL import Image

        self.names = [*PLACES, "table", "room"]
        self.scene, self.objects = o3d.t.geometry.RaycastingScene(), o3d.t.geometry.RaycastingScene()
        self.uvs, self.textures = [], []
        self.bounds = [(np.array([-TABLE, -TABLE, -TOP]), np.array([TABLE, TABLE, 0.0]))]
        """Low and high corners of objects and table."""
        for name, (x, y, turn) in PLACES.items():
            mesh = trimesh.load(objects / name / "textured.obj", process=False, force="mesh")
            c, s = np.cos(np.radians(turn)), np.sin(np.radians(turn))
            vertices = np.asarray(mesh.vertices) @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]).T
            vertices += np.array([x, y, 0.0]) - [*(vertices.min(0)[:2] + vertices.max(0)[:2]) / 2, vertices[:, 2].min()]
            self._add(vertices, np.asarray(mesh.faces))
            self.bounds.append((vertices.min(axis=0), vertices.max(axis=0)))
            self.uvs.append(np.asarray(mesh.visual.uv)[np.asarray(mesh.faces)])  # type: ignore[union-attr]
            image = Image.open(objects / name / "texture_map.png").convert("RGB")
            self.textures.append(np.asarray(image, np.float64) / 255.0)
        self._add(*_box((-TABLE, -TABLE, -TOP), (TABLE, TABLE, 0.0)))
        # Around everything: a sky has nothing by which splats could tell that it is far away.
        self._add(*_box((-3.0, -3.0, -0.75), (3.0, 3.0, 2.2)), shades=False)

    def photograph(self, camera: Camera) -> Tuple[NDArray, NDArray, NDArray]:
        """Picture [H, W, 3] uint8, instances [H, W] from 1 (0 where there is nothing), places [H, W, 3]."""
        total = np.zeros((camera.height, camera.width, 3))
        for row in range(OVERSAMPLING):
            for column in range(OVERSAMPLING):
                offset = (np.array([column, row]) + 0.5) / OVERSAMPLING - 0.5
                total += self._shoot(camera, offset)[0]
        _, ids, places = self._shoot(camera, np.zeros(2))
        shown = np.clip(total / OVERSAMPLING**2, 0.0, 1.0)
        return (255 * shown + 0.5).astype(np.uint8), ids, places

    def find_surface(self, camera: Camera, finder: SurfaceFinder) -> None:
        """Take up the surface of objects and table where a camera sees it, at :data:`FINER` times its size."""
        finer = Camera(FINER * camera.width, FINER * camera.height, FINER * camera.focal, camera.camera_to_world)
        towards, hits = self._look(finer, finer.pixel_grid())
        # The table follows the objects, and the room follows the table.
        there = np.isfinite(hits["t_hit"]) & (hits["geometry_ids"] <= len(self.uvs))
        depth = -(towards @ camera.camera_to_world[:3, 2]) * np.where(there, hits["t_hit"], 0.0)
        finder.add(finer, depth, hits["primitive_normals"].astype(np.float64))

    def _look(self, camera: Camera, pixels: NDArray) -> Tuple[NDArray, Dict[str, NDArray]]:
        """Unit directions [H, W, 3] through pixels [H, W, 2], and what they hit."""
        towards = camera.unproject(pixels, np.ones(pixels.shape[:2])) - camera.position
        towards /= np.linalg.norm(towards, axis=-1, keepdims=True)
        return towards, self._cast(np.broadcast_to(camera.position, towards.shape), towards)

    def _shoot(self, camera: Camera, offset: NDArray) -> Tuple[NDArray, NDArray, NDArray]:
        towards, hits = self._look(camera, camera.pixel_grid() + offset)
        there = np.isfinite(hits["t_hit"])
        places = camera.position + towards * np.where(there, hits["t_hit"], np.nan)[..., None]
        ids = np.where(there, hits["geometry_ids"].astype(np.int64) + 1, 0)
        normals = hits["primitive_normals"]
        normals = normals * np.where((normals * towards).sum(-1, keepdims=True) > 0, -1.0, 1.0)
        albedo = self._albedo(ids, hits, np.nan_to_num(places))
        sun = SUN / np.linalg.norm(SUN)
        lit = np.clip(normals @ sun, 0.0, None)
        start = np.nan_to_num(places) + 1e-4 * normals
        shade = np.isinf(self._cast(start, np.broadcast_to(sun, start.shape), self.objects)["t_hit"])
        sky = LIGHTS[1] * (0.6 + 0.4 * normals[..., 2:])
        color = albedo * (LIGHTS[0] * (lit * shade)[..., None] * 1.6 + sky)
        return np.where(there[..., None], color, (0.62, 0.70, 0.80)), ids, places

    def _albedo(self, ids: NDArray, hits: Dict[str, NDArray], places: NDArray) -> NDArray:
        albedo = np.zeros((*ids.shape, 3))
        for number, (uvs, texture) in enumerate(zip(self.uvs, self.textures, strict=True)):
            own = ids == number + 1
            corners, weights = uvs[hits["primitive_ids"][own]], hits["primitive_uvs"][own].astype(np.float64)
            u, v = weights[:, :1], weights[:, 1:]
            uv = corners[:, 0] * (1 - u - v) + corners[:, 1] * u + corners[:, 2] * v
            height, width = texture.shape[:2]
            columns = np.clip(uv[:, 0] * width, 0, width - 1).astype(int)
            rows = np.clip((1 - uv[:, 1]) * height, 0, height - 1).astype(int)
            albedo[own] = texture[rows, columns]
        # Boards of wood, and chequered walls: without a texture there is nothing to learn shape from.
        x, y, z = places[..., 0], places[..., 1], places[..., 2]
        grain = 0.5 + 0.5 * np.sin(60 * x + 6 * np.sin(9 * y)) * np.sin(23 * y + 2 * np.sin(31 * x))
        boards = np.where(np.floor(8 * (x + 2)) % 2 > 0, 0.9, 1.0)
        wood = np.array([0.58, 0.40, 0.24]) * (0.8 + 0.3 * grain)[..., None] * boards[..., None]
        blocks = (np.floor(3 * x + 0.1) + np.floor(3 * y + 0.1) + np.floor(3 * z + 0.1)) % 2 > 0
        shades = np.where(blocks, 0.55, 0.75) * (0.9 + 0.1 * grain)
        tiles = shades[..., None] * np.array([0.9, 0.95, 1.0])
        albedo = np.where((ids == len(self.uvs) + 1)[..., None], wood, albedo)
        return np.where((ids == len(self.uvs) + 2)[..., None], tiles, albedo)

    def _cast(self, origins: NDArray, towards: NDArray, scene: Any = None) -> Dict[str, NDArray]:
        rays = np.concatenate([origins, towards], axis=-1).astype(np.float32)
        return {name: value.numpy() for name, value in (scene or self.scene).cast_rays(rays).items()}

    def _add(self, vertices: NDArray, faces: NDArray, shades: bool = True) -> None:
        import open3d as o3d

        corners, triangles = o3d.core.Tensor(vertices.astype(np.float32)), o3d.core.Tensor(faces.astype(np.uint32))
        for scene in (self.scene, self.objects) if shades else (self.scene,):
            scene.add_triangles(corners, triangles)


def _box(low: Tuple[float, float, float], high: Tuple[float, float, float]) -> Tuple[NDArray, NDArray]:
    import trimesh

    made = trimesh.creation.box(bounds=np.array([low, high]))
    return np.asarray(made.vertices), np.asarray(made.faces)


def _save(path: Path, pixels: NDArray) -> None:
    from PIL import Image

    Image.fromarray(pixels).save(path)
