# SPDX-License-Identifier: Apache-2.0
"""The art gallery: what stands where, and the walk that photographs it."""

from typing import List, Optional, Tuple

import numpy as np

from nts_plugins.samples import textures
from nts_plugins.samples._config import GalleryConfig
from nts_plugins.samples.cameras import Camera, focal_from_fov, look_at
from nts_plugins.samples.photographs import PHOTOGRAPHS, load_photograph
from nts_plugins.samples.scene import Bob, Light, Material, Motion, Roll, Scene, Spin, Swing, turn

HALF_X, HALF_Y, HEIGHT = 3.4, 2.7, 3.0
"""The room spans [-HALF_X, HALF_X] x [-HALF_Y, HALF_Y] x [0, HEIGHT], metres."""

WALLS = {"north": (0.0, 1.0), "east": (1.0, 0.0), "south": (0.0, -1.0), "west": (-1.0, 0.0)}
"""Outward directions; pictures and paint are placed by the name of the wall."""

PICTURES = (
    # photograph, wall, metres to the right of the wall's middle, width of the photograph in metres
    ("astronaut", "north", -1.75, 1.35),
    ("chelsea", "north", 0.9, 1.9),
    ("rocket", "east", -1.0, 1.75),
    ("horse", "east", 1.2, 1.15),
    ("hubble_deep_field", "south", -1.6, 1.5),
    ("coffee", "south", 1.15, 1.9),
    ("retina", "west", -1.15, 1.3),
    ("camera", "west", 1.1, 1.35),
)
EYE_LEVEL = 1.55
"""Height of the middle of every picture, metres."""


def build_gallery(config: GalleryConfig) -> Scene:
    """The room with everything in it."""
    scene = Scene()
    _build_room(scene, config.seed)
    for photograph, wall, right, width in PICTURES:
        _hang(scene, photograph, wall, right, width)
    _build_lamps(scene)
    _furnish(scene, config.seed)
    _place_objects(scene, config.seed, config.dynamic)
    return scene


def walk(config: GalleryConfig) -> List[Camera]:
    """The cameras of a stroll: two rounds at changing distance and height, the gaze swaying across the room."""
    focal = focal_from_fov(config.width, config.fov)
    rng = np.random.default_rng(config.seed)
    wobble = rng.uniform(-1.0, 1.0, (config.views, 6))
    cameras = []
    for view in range(config.views):
        s = view / config.views
        around = 4.0 * np.pi * s
        far = 1.0 + 0.16 * np.sin(2.0 * np.pi * s) + 0.05 * np.sin(6.0 * around / 2.0)
        position = np.array([2.25 * far * np.cos(around), 1.65 * far * np.sin(around), 1.5])
        position[2] += 0.3 * np.sin(2.5 * around) + 0.08 * wobble[view, 0]
        sway = around + np.pi + np.radians(48.0) * np.sin(5.0 * np.pi * s * 2.0 + 0.6)
        gaze = np.array([np.cos(sway), np.sin(sway), -0.22 + 0.12 * np.sin(7.0 * around / 2.0 + 1.0)])
        gaze += 0.05 * wobble[view, 1:4]
        cameras.append(Camera(config.width, config.height, focal, look_at(position, position + gaze)))
    return cameras


def _wall_frame(wall: str) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Middle of a wall at floor level, and the directions to the right and into the room as one faces it."""
    out = np.array([*WALLS[wall], 0.0])
    return out * (HALF_X, HALF_Y, 0.0), np.cross(out, [0.0, 0.0, 1.0]), -out


def _facing(right: np.ndarray, front: np.ndarray) -> np.ndarray:
    """[3, 3] rotation of a rectangle that faces ``front`` with its picture upright."""
    return np.stack([right, np.cross(front, right), front], axis=1)


def _build_room(scene: Scene, seed: int) -> None:
    floor = Material(textures.parquet(seed + 1), tile=(1.6, 1.6))
    scene.add("rectangle", (0, 0, 0), (HALF_X, HALF_Y, 1), floor, scene.name("floor", "structure"))
    ceiling = Material(textures.boards((0.80, 0.79, 0.76), (0.93, 0.92, 0.89), seed + 2), tile=(1.6, 3.2))
    down = _facing(np.array([1.0, 0.0, 0.0]), np.array([0.0, 0.0, -1.0]))
    half = (HALF_X, HALF_Y, 1)
    scene.add("rectangle", (0, 0, HEIGHT), half, ceiling, scene.name("ceiling", "structure"), rotation=down)
    paints = {
        "north": ("brick wall", Material(textures.bricks(seed + 3), tile=(1.5, 1.3))),
        "east": (
            "plaster wall",
            Material(textures.plaster((0.72, 0.66, 0.54), (0.90, 0.86, 0.76), seed + 4), (1.7, 1.7)),
        ),
        "south": (
            "green wall",
            Material(textures.plaster((0.22, 0.38, 0.36), (0.36, 0.55, 0.51), seed + 6), (1.7, 1.7)),
        ),
        "west": (
            "wallpaper",
            Material(textures.wallpaper((0.42, 0.47, 0.60), (0.70, 0.74, 0.80), seed + 8), (0.9, 0.9)),
        ),
    }
    skirting = Material(textures.boards((0.30, 0.20, 0.13), (0.46, 0.33, 0.22), seed + 9), tile=(0.8, 0.8))
    boards = scene.name("skirting board", "structure")
    for wall, (name, material) in paints.items():
        middle, right, front = _wall_frame(wall)
        along = HALF_X if WALLS[wall][0] == 0.0 else HALF_Y
        up = np.array([0.0, 0.0, 1.0])
        rotation = _facing(right, front)
        half = (along, HEIGHT / 2, 1)
        scene.add(
            "rectangle", middle + up * HEIGHT / 2, half, material, scene.name(name, "structure"), rotation=rotation
        )
        scene.add("box", middle + up * 0.06, (along, 0.06, 0.02), skirting, boards, rotation=rotation)


def _hang(scene: Scene, photograph: str, wall: str, right_of_middle: float, width: float) -> None:
    """A photograph with a white mat in a wooden frame, and a spotlight for it under the ceiling."""
    pixels = load_photograph(photograph).shape
    half_w, half_h = width / 2.0, width / 2.0 * pixels[0] / pixels[1]
    middle, right, front = _wall_frame(wall)
    up = np.array([0.0, 0.0, 1.0])
    rotation = _facing(right, front)
    centre = middle + right * right_of_middle + up * EYE_LEVEL
    shows = PHOTOGRAPHS[photograph].shows
    picture = scene.name(shows, "picture")
    frame = scene.name(f"frame of the {shows}", "furniture")
    mat, bar, deep = 0.07, 0.05, 0.03
    paper = Material(textures.plaster((0.86, 0.85, 0.82), (0.93, 0.92, 0.90), 77, 128), tile=(0.3, 0.3))
    dark = wall in ("east", "west")
    wood = ((0.16, 0.11, 0.08), (0.32, 0.23, 0.17)) if dark else ((0.50, 0.36, 0.16), (0.74, 0.58, 0.30))
    wooden = Material(textures.boards(*wood, 78, 3, 128), tile=(0.15, 0.6))
    outer_w, outer_h = half_w + mat + bar, half_h + mat + bar
    size = (outer_w - bar, outer_h - bar, 0.01)
    scene.add("box", centre + front * 0.01, size, paper, frame, rotation=rotation)
    image = Material(textures.photograph(photograph))
    scene.add("rectangle", centre + front * 0.021, (half_w, half_h, 1), image, picture, rotation=rotation)
    for side in (-1.0, 1.0):
        upright = centre + right * side * (outer_w - bar / 2) + front * deep
        scene.add("box", upright, (bar / 2, outer_h, deep), wooden, frame, rotation=rotation)
        level = centre + up * side * (outer_h - bar / 2) + front * deep
        scene.add("box", level, (outer_w - bar, bar / 2, deep), wooden, frame, rotation=rotation)
    lamp = centre + front * 1.15
    lamp[2] = HEIGHT - 0.16
    aim = (centre - lamp) / np.linalg.norm(centre - lamp)
    side = np.cross(aim, right)
    scene.lights.append(Light(lamp, right * 0.05, -side * 0.05, (330.0, 300.0, 250.0), cone=(18.0, 38.0)))


def _build_lamps(scene: Scene) -> None:
    """Three panels of milky glass under the ceiling."""
    glow = 9.0
    panel = scene.name("lamp", "furniture")
    rim = Material(textures.plain((0.25, 0.25, 0.26)))
    glass = Material(textures.plain((0.5, 0.5, 0.5)), emission=(1.0, 0.98, 0.94))
    down = _facing(np.array([1.0, 0.0, 0.0]), np.array([0.0, 0.0, -1.0]))
    for x in (-2.0, 0.0, 2.0):
        scene.add("box", (x, 0.0, HEIGHT - 0.03), (0.40, 0.80, 0.03), rim, panel)
        scene.add("rectangle", (x, 0.0, HEIGHT - 0.062), (0.36, 0.76, 1), glass, panel, rotation=down)
        radiance = (glow, 0.97 * glow, 0.92 * glow)
        scene.lights.append(Light((x, 0.0, HEIGHT - 0.064), (0.36, 0, 0), (0, -0.76, 0), radiance))


def _furnish(scene: Scene, seed: int) -> None:
    rug = Material(textures.rug(seed + 20))
    scene.add("box", (0.0, 0.0, 0.008), (1.75, 1.25, 0.008), rug, scene.name("rug", "furniture"))
    wood = Material(
        textures.boards((0.42, 0.25, 0.14), (0.64, 0.43, 0.27), seed + 21), tile=(0.5, 1.4), reflectance=0.03
    )
    bench = scene.name("bench", "furniture")
    scene.add("box", (-0.2, 2.2, 0.43), (0.85, 0.20, 0.03), wood, bench)
    for x in (-0.9, 0.5):
        scene.add("box", (x, 2.2, 0.20), (0.04, 0.17, 0.20), wood, bench)
    tray = scene.name("gravel tray", "object")
    rim = Material(textures.plaster((0.34, 0.35, 0.37), (0.50, 0.51, 0.53), seed + 22, 128), tile=(0.4, 0.4))
    gravel = Material(textures.tinted("gravel", (0.22, 0.20, 0.18), (0.92, 0.88, 0.80)), tile=(1.3, 1.3))
    _container(scene, tray, (-0.6, -2.25), (1.1, 0.3), 0.22, rim, gravel)
    planter = scene.name("grass planter", "object")
    clay = Material(textures.pottery(seed + 23), tile=(0.9, 0.45))
    grass = Material(textures.tinted("grass", (0.05, 0.12, 0.03), (0.62, 0.80, 0.34)), tile=(0.9, 0.9))
    _container(scene, planter, (-2.95, 0.0), (0.28, 0.62), 0.42, clay, grass)
    stones = ((0.10, 0.28, 0.45), (0.20, 0.55, 0.60), (0.85, 0.65, 0.20), (0.90, 0.88, 0.80), (0.70, 0.25, 0.18))
    column = Material(textures.mosaic(stones, seed + 24), tile=(0.7540, 0.72))
    scene.add("cylinder", (2.85, 2.15, 1.08), (0.24, 0.24, 1.08), column, scene.name("mosaic column", "object"))


def _container(scene: Scene, instance: int, at, half, height: float, side: Material, filling: Material) -> None:
    """A box with a rim and something in it."""
    x, y = at
    rim = 0.03
    scene.add(
        "box", (x, y, (height - 0.04) / 2), (half[0] - rim, half[1] - rim, (height - 0.04) / 2), filling, instance
    )
    for sign in (-1.0, 1.0):
        long = (x, y + sign * (half[1] - rim / 2), height / 2)
        scene.add("box", long, (half[0], rim / 2, height / 2), side, instance)
        short = (x + sign * (half[0] - rim / 2), y, height / 2)
        scene.add("box", short, (rim / 2, half[1] - rim, height / 2), side, instance)


def _pedestal(scene: Scene, at, half: float, height: float, seed: int) -> None:
    stone = Material(textures.plaster((0.70, 0.68, 0.66), (0.88, 0.87, 0.85), seed, 256), tile=(0.6, 0.6))
    instance = scene.name("pedestal", "furniture")
    scene.add("box", (*at, height / 2), (half, half, height / 2), stone, instance)
    scene.add("box", (*at, 0.035), (half + 0.04, half + 0.04, 0.035), stone, instance)
    scene.add("box", (*at, height - 0.025), (half + 0.025, half + 0.025, 0.025), stone, instance)


def _place_objects(scene: Scene, seed: int, dynamic: bool) -> None:
    """Solids on pedestals and on the floor; some of them can move."""

    def moving(motion: Motion) -> Optional[Motion]:
        return motion if dynamic else None

    def thing(name: str) -> int:
        return scene.name(name, "object")

    _pedestal(scene, (-0.95, 0.35), 0.20, 0.85, seed + 30)
    world = Material(textures.globe(seed + 31), reflectance=0.04)
    spin = moving(Spin((-0.95, 0.35, 1.13), (0.35, 0.0, 1.0), 1.0))
    tilt = turn((0.0, 1.0, 0.0), 20.0)
    scene.add("sphere", (-0.95, 0.35, 1.13), (0.28, 0.28, 0.28), world, thing("globe"), rotation=tilt, motion=spin)

    _pedestal(scene, (0.95, -0.30), 0.20, 0.70, seed + 32)
    chrome = Material(textures.plain((0.90, 0.91, 0.93)), reflectance=0.85, metal=True)
    scene.add("sphere", (0.95, -0.30, 0.96), (0.26, 0.26, 0.26), chrome, thing("chrome ball"))

    _pedestal(scene, (0.35, 0.75), 0.17, 0.55, seed + 33)
    clay = Material(textures.pottery(seed + 34))
    scene.add("cylinder", (0.35, 0.75, 0.80), (0.15, 0.15, 0.25), clay, thing("pottery vase"))

    wooden = Material(textures.crate(seed + 35))
    box = turn((0, 0, 1), 28.0)
    bob = moving(Spin((-0.35, -0.70, 0.0), (0, 0, 1), -0.5))
    scene.add("box", (-0.35, -0.70, 0.286), (0.27, 0.27, 0.27), wooden, thing("wooden crate"), rotation=box, motion=bob)

    stone = Material(textures.marble((0.18, 0.24, 0.22), (0.88, 0.90, 0.86), seed + 36), reflectance=0.04)
    scene.add("sphere", (1.75, -1.95, 0.30), (0.30, 0.30, 0.30), stone, thing("marble ball"))

    beach = Material(textures.beach_ball())
    start = (1.55, 1.05, 0.24)
    roll = moving(Roll(start, (-0.2, -1.9, 0.0), 0.24, 1.0))
    tilt = turn((1.0, 0.4, 0.0), 55.0)
    scene.add("sphere", start, (0.24, 0.24, 0.24), beach, thing("beach ball"), rotation=tilt, motion=roll)

    pivot = (-0.2, -0.1, HEIGHT)
    swing = moving(Swing(pivot, (1.0, 0.3, 0.0), 24.0, 2.0))
    pendulum = thing("pendulum")
    brass = Material(textures.plain((0.86, 0.66, 0.30)), reflectance=0.75, metal=True)
    steel = Material(textures.plain((0.30, 0.30, 0.32)))
    scene.add("cylinder", (*pivot[:2], 2.55), (0.012, 0.012, 0.45), steel, pendulum, motion=swing)
    bands = Material(
        textures.mosaic(((0.75, 0.2, 0.15), (0.95, 0.85, 0.6), (0.15, 0.3, 0.5)), seed + 37, 8), reflectance=0.04
    )
    scene.add("sphere", (*pivot[:2], 1.98), (0.17, 0.17, 0.17), bands, pendulum, motion=swing)
    scene.add("cylinder", (*pivot[:2], 1.80), (0.03, 0.03, 0.03), brass, pendulum, motion=swing)

    kite = Material(textures.mosaic(((0.9, 0.5, 0.1), (0.95, 0.9, 0.8), (0.5, 0.15, 0.35)), seed + 38, 6))
    rise = moving(Bob((0.0, 0.0, 0.22), 1.5))
    egg = (0.35, 0.75, 1.40)
    if dynamic:
        scene.add("sphere", egg, (0.13, 0.13, 0.18), kite, thing("balloon"), motion=rise)
