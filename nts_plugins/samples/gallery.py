# SPDX-License-Identifier: Apache-2.0
"""The art gallery: what stands where, and the walk that photographs it."""

from typing import List, Optional, Tuple

import numpy as np
from numpy.typing import NDArray

from nts_plugins.samples import textures
from nts_plugins.samples._config import SampleConfig
from nts_plugins.samples.cameras import Camera, focal_from_fov, look_at
from nts_plugins.samples.photographs import PHOTOGRAPHS
from nts_plugins.samples.scene import Bob, Light, Material, Motion, Roll, Scene, Spin, Swing, turn

HALF_X, HALF_Y, HEIGHT = 3.6, 3.0, 3.0
"""The room spans [-HALF_X, HALF_X] x [-HALF_Y, HALF_Y] x [0, HEIGHT], metres."""

WALLS = {"north": (0.0, 1.0), "east": (1.0, 0.0), "south": (0.0, -1.0), "west": (-1.0, 0.0)}
"""Outward directions; pictures and paint are placed by the name of the wall."""

PICTURES = (
    # photograph, wall, metres to the right of the wall's middle, width of the photograph in metres
    ("astronaut", "north", -1.75, 1.35),
    ("chelsea", "north", 0.85, 1.9),
    ("rocket", "east", -1.15, 1.75),
    ("horse", "east", 1.2, 1.3),
    ("hubble_deep_field", "south", -1.7, 1.5),
    ("coffee", "south", 1.15, 1.9),
    ("retina", "west", -1.2, 1.35),
    ("camera", "west", 1.2, 1.35),
)
EYE_LEVEL = 1.55
"""Height of the middle of every picture, metres."""

UP = np.array([0.0, 0.0, 1.0])


def build_gallery(config: SampleConfig) -> Scene:
    """The room with everything in it."""
    scene = Scene()
    _build_room(scene, config.seed)
    for photograph, wall, right, width in PICTURES:
        _hang(scene, photograph, wall, right, width)
    _hang_lamps(scene)
    _furnish(scene, config.seed)
    _place_still_things(scene, config.seed)
    _place_movable_things(scene, config.seed, config.dynamic)
    return scene


def walk(config: SampleConfig) -> List[Camera]:
    """The cameras of a stroll: two rounds at changing distance and height, the gaze swaying across the room."""
    focal = focal_from_fov(config.width, config.fov)
    wobble = np.random.default_rng(config.seed).uniform(-1.0, 1.0, (config.views, 4))
    cameras = []
    for view in range(config.views):
        gone = view / config.views
        around = 4.0 * np.pi * gone
        far = 1.0 + 0.10 * np.sin(2.0 * np.pi * gone) + 0.04 * np.sin(3.0 * around)
        height = 1.5 + 0.28 * np.sin(2.5 * around) + 0.06 * wobble[view, 3]
        position = np.array([2.35 * far * np.cos(around), 1.95 * far * np.sin(around), height])
        # Opposite in the two rounds, so that every wall is seen from the left and from the right.
        sway = around + np.pi + np.radians(50.0) * np.sin(6.0 * np.pi * gone + 0.6)
        gaze = np.array([np.cos(sway), np.sin(sway), -0.20 + 0.12 * np.sin(3.5 * around + 1.0)])
        target = position + gaze + 0.05 * wobble[view, :3]
        cameras.append(Camera(config.width, config.height, focal, look_at(position, target)))
    return cameras


def _wall_frame(wall: str) -> Tuple[NDArray, NDArray, NDArray]:
    """Middle of a wall at floor level, and the directions to the right and into the room as one faces it."""
    out = np.array([*WALLS[wall], 0.0])
    return out * (HALF_X, HALF_Y, 0.0), np.cross(out, UP), -out


def _facing(right: NDArray, front: NDArray) -> NDArray:
    """[3, 3] rotation of a rectangle that faces ``front`` with its picture upright."""
    return np.stack([right, np.cross(front, right), front], axis=1)


_DOWN = _facing(np.array([1.0, 0.0, 0.0]), -UP)


def _build_room(scene: Scene, seed: int) -> None:
    """Floor, ceiling, four different walls and the boards at their feet."""
    floor = Material(textures.parquet(seed + 1), (1.6, 1.6))
    scene.add("rectangle", (0, 0, 0), (HALF_X, HALF_Y, 1), floor, scene.name("floor", "structure"))
    white = Material(textures.boards((0.82, 0.81, 0.79), (0.95, 0.94, 0.92), seed + 2), (1.6, 3.2))
    ceiling = scene.name("ceiling", "structure")
    scene.add("rectangle", (0, 0, HEIGHT), (HALF_X, HALF_Y, 1), white, ceiling, rotation=_DOWN)
    plaster = textures.plaster((0.72, 0.66, 0.54), (0.90, 0.86, 0.76), seed + 4)
    green = textures.plaster((0.22, 0.38, 0.36), (0.36, 0.55, 0.51), seed + 6)
    paper = textures.wallpaper((0.40, 0.46, 0.60), (0.72, 0.76, 0.82), seed + 8)
    paints = {
        "north": ("brick wall", Material(textures.bricks(seed + 3), (1.5, 1.3))),
        "east": ("plaster wall", Material(plaster, (1.7, 1.7))),
        "south": ("green wall", Material(green, (1.7, 1.7))),
        "west": ("wallpaper", Material(paper, (0.8, 0.8))),
    }
    wood = Material(textures.boards((0.30, 0.20, 0.13), (0.46, 0.33, 0.22), seed + 9), (0.8, 0.8))
    boards = scene.name("skirting board", "structure")
    for wall, (name, paint) in paints.items():
        middle, right, front = _wall_frame(wall)
        rotation = _facing(right, front)
        along = float(abs(right @ (HALF_X, HALF_Y, 0.0)))
        half = (along, HEIGHT / 2, 1)
        instance = scene.name(name, "structure")
        scene.add("rectangle", middle + UP * HEIGHT / 2, half, paint, instance, rotation=rotation)
        scene.add("box", middle + UP * 0.06, (along, 0.06, 0.02), wood, boards, rotation=rotation)


def _hang(scene: Scene, photograph: str, wall: str, right_of_middle: float, width: float) -> None:
    """A photograph with a white mat in a wooden frame, and a spotlight for it under the ceiling."""
    picture = textures.photograph(photograph)
    shows = PHOTOGRAPHS[photograph].shows
    height = width * picture.texels.shape[0] / picture.texels.shape[1]
    middle, right, front = _wall_frame(wall)
    rotation = _facing(right, front)
    centre = middle + right * right_of_middle + UP * EYE_LEVEL
    half = (width / 2.0, height / 2.0, 1)
    image = scene.name(shows, "picture")
    scene.add("rectangle", centre + front * 0.021, half, Material(picture), image, rotation=rotation)

    frame = scene.name(f"frame of the {shows}", "furniture")
    mat, bar, deep = 0.07, 0.05, 0.03
    paper = Material(textures.plaster((0.86, 0.85, 0.82), (0.93, 0.92, 0.90), 77, 128), (0.3, 0.3))
    dark = ((0.16, 0.11, 0.08), (0.32, 0.23, 0.17))
    golden = ((0.50, 0.36, 0.16), (0.74, 0.58, 0.30))
    wood = Material(textures.boards(*(dark if wall in ("east", "west") else golden), 78, 3, 128), (0.15, 0.6))
    outer_w, outer_h = half[0] + mat + bar, half[1] + mat + bar
    size = (outer_w - bar, outer_h - bar, 0.01)
    scene.add("box", centre + front * 0.01, size, paper, frame, rotation=rotation)
    for side in (-1.0, 1.0):
        upright = centre + right * side * (outer_w - bar / 2) + front * deep
        scene.add("box", upright, (bar / 2, outer_h, deep), wood, frame, rotation=rotation)
        level = centre + UP * side * (outer_h - bar / 2) + front * deep
        scene.add("box", level, (outer_w - bar, bar / 2, deep), wood, frame, rotation=rotation)
    _aim_spotlight(scene, centre, right, front)


def _aim_spotlight(scene: Scene, target: NDArray, right: NDArray, front: NDArray) -> None:
    lamp = target + front * 1.2
    lamp[2] = HEIGHT - 0.20
    aim = (target - lamp) / np.linalg.norm(target - lamp)
    side = np.cross(aim, right)
    scene.lights.append(Light(lamp, right * 0.04, side * 0.04, (820.0, 770.0, 680.0), cone=(17.0, 40.0)))
    body = Material(textures.plain((0.12, 0.12, 0.13)))
    spot = scene.name("spotlight", "furniture")
    rotation = np.stack([right, side, aim], axis=1)
    scene.add("cylinder", lamp - aim * 0.08, (0.045, 0.045, 0.07), body, spot, rotation=rotation)
    scene.add("cylinder", (*lamp[:2], HEIGHT - 0.06), (0.012, 0.012, 0.06), body, spot)


def _hang_lamps(scene: Scene) -> None:
    """Three panels of milky glass under the ceiling."""
    glow = np.array([1.0, 0.97, 0.92]) * 15.0
    panel = scene.name("lamp", "furniture")
    rim = Material(textures.plain((0.25, 0.25, 0.26)))
    glass = Material(textures.plain((0.5, 0.5, 0.5)), emission=(1.0, 0.98, 0.94))
    for x in (-2.1, 0.0, 2.1):
        scene.add("box", (x, 0.0, HEIGHT - 0.03), (0.40, 0.80, 0.03), rim, panel)
        scene.add("rectangle", (x, 0.0, HEIGHT - 0.062), (0.36, 0.76, 1), glass, panel, rotation=_DOWN)
        scene.lights.append(Light((x, 0.0, HEIGHT - 0.064), (0.36, 0, 0), (0, -0.76, 0), tuple(glow)))


def _furnish(scene: Scene, seed: int) -> None:
    """What stands on the floor along the walls, and a rug."""
    weave = Material(textures.rug(seed + 20))
    scene.add("box", (0.0, 0.0, 0.008), (1.75, 1.25, 0.008), weave, scene.name("rug", "furniture"))
    wood = Material(textures.boards((0.42, 0.25, 0.14), (0.64, 0.43, 0.27), seed + 21), (0.5, 1.4))
    bench = scene.name("bench", "furniture")
    scene.add("box", (-0.2, 2.6, 0.43), (0.85, 0.20, 0.03), wood, bench)
    for x in (-0.9, 0.5):
        scene.add("box", (x, 2.6, 0.20), (0.04, 0.17, 0.20), wood, bench)
    slate = Material(textures.plaster((0.34, 0.35, 0.37), (0.50, 0.51, 0.53), seed + 22, 128), (0.4, 0.4))
    gravel = Material(textures.tinted("gravel", (0.22, 0.20, 0.18), (0.92, 0.88, 0.80)), (1.3, 1.3))
    _fill_box(scene, "gravel tray", (-0.6, -2.6), (1.1, 0.32, 0.11), slate, gravel)
    clay = Material(textures.pottery(seed + 23), (0.9, 0.45))
    grass = Material(textures.tinted("grass", (0.05, 0.12, 0.03), (0.62, 0.80, 0.34)), (0.9, 0.9))
    _fill_box(scene, "grass planter", (-3.25, 0.0), (0.28, 0.62, 0.21), clay, grass)
    stones = ((0.10, 0.28, 0.45), (0.20, 0.55, 0.60), (0.85, 0.65, 0.20), (0.90, 0.88, 0.80), (0.70, 0.25, 0.18))
    column = Material(textures.mosaic(stones, seed + 24), (0.7540, 0.72))
    scene.add("cylinder", (3.15, 2.55, 1.08), (0.24, 0.24, 1.08), column, scene.name("mosaic column", "object"))


def _fill_box(scene: Scene, name: str, at: Tuple[float, float], half, side: Material, filling: Material) -> None:
    """A box without a lid, filled almost to its rim."""
    (x, y), (wide, deep, high), rim, room = at, half, 0.03, 0.02
    box = scene.name(name, "object")
    scene.add("box", (x, y, high - room), (wide - rim, deep - rim, high - room), filling, box)
    for sign in (-1.0, 1.0):
        scene.add("box", (x, y + sign * (deep - rim / 2), high), (wide, rim / 2, high), side, box)
        scene.add("box", (x + sign * (wide - rim / 2), y, high), (rim / 2, deep - rim, high), side, box)


def _pedestal(scene: Scene, at: Tuple[float, float], half: float, height: float, seed: int) -> None:
    stone = Material(textures.plaster((0.70, 0.68, 0.66), (0.88, 0.87, 0.85), seed, 256), (0.6, 0.6))
    pedestal = scene.name("pedestal", "furniture")
    scene.add("box", (*at, height / 2), (half, half, height / 2), stone, pedestal)
    scene.add("box", (*at, 0.035), (half + 0.04, half + 0.04, 0.035), stone, pedestal)
    scene.add("box", (*at, height - 0.025), (half + 0.025, half + 0.025, 0.025), stone, pedestal)


def _place_still_things(scene: Scene, seed: int) -> None:
    """A mirror, a vase, and a stone ball; pedestals for what stands on one."""
    _pedestal(scene, (-0.95, 0.35), 0.20, 0.85, seed + 30)
    _pedestal(scene, (0.95, -0.30), 0.20, 0.70, seed + 32)
    chrome = Material(textures.plain((0.90, 0.91, 0.93)), reflectance=0.85, metal=True)
    scene.add("sphere", (0.95, -0.30, 0.96), (0.26, 0.26, 0.26), chrome, scene.name("chrome ball", "object"))

    _pedestal(scene, (0.35, 0.75), 0.17, 0.55, seed + 33)
    clay = Material(textures.pottery(seed + 34))
    dark = Material(textures.plain((0.12, 0.08, 0.06)))
    vase = scene.name("pottery vase", "object")
    scene.add("sphere", (0.35, 0.75, 0.75), (0.19, 0.19, 0.21), clay, vase)
    scene.add("cylinder", (0.35, 0.75, 0.565), (0.10, 0.10, 0.015), clay, vase)
    scene.add("cylinder", (0.35, 0.75, 0.98), (0.075, 0.075, 0.06), clay, vase)
    scene.add("cylinder", (0.35, 0.75, 1.045), (0.10, 0.10, 0.012), clay, vase)
    scene.add("cylinder", (0.35, 0.75, 1.0575), (0.08, 0.08, 0.001), dark, vase)

    stone = Material(textures.marble((0.18, 0.24, 0.22), (0.88, 0.90, 0.86), seed + 36), reflectance=0.04)
    scene.add("sphere", (2.75, -2.2, 0.32), (0.32, 0.32, 0.32), stone, scene.name("marble ball", "object"))


def _place_movable_things(scene: Scene, seed: int, dynamic: bool) -> None:
    """What moves in a dynamic sample, and stands still in any other."""

    def place(shape, centre, half, material: Material, instance: int, motion: Motion, rotation=None) -> None:
        turned = np.eye(3) if rotation is None else rotation
        moves: Optional[Motion] = motion if dynamic else None
        scene.add(shape, centre, half, material, instance, rotation=turned, motion=moves)

    at = (-0.95, 0.35, 1.14)
    world = Material(textures.globe(seed + 31), reflectance=0.04)
    spin = Spin(at, (0.35, 0.0, 1.0), 1.0)
    place("sphere", at, (0.29, 0.29, 0.29), world, scene.name("globe", "object"), spin, turn((0, 1, 0), 20.0))

    at = (-0.35, -0.70, 0.286)
    wood = Material(textures.crate(seed + 35))
    spin = Spin(at, (0, 0, 1), -0.5)
    place("box", at, (0.27, 0.27, 0.27), wood, scene.name("wooden crate", "object"), spin, turn((0, 0, 1), 28.0))

    balloon = scene.name("balloon", "object")
    sky = ((0.90, 0.45, 0.12), (0.96, 0.90, 0.78), (0.55, 0.15, 0.32))
    silk = Material(textures.mosaic(sky, seed + 38, 8), reflectance=0.03)
    cord = Material(textures.plain((0.75, 0.72, 0.66)))
    bob = Bob((0.0, 0.0, 0.14), 1.5)
    place("sphere", (-0.35, -0.70, 1.42), (0.17, 0.17, 0.21), silk, balloon, bob)
    place("cylinder", (-0.35, -0.70, 0.90), (0.006, 0.006, 0.32), cord, balloon, bob)

    at = (1.5, 1.05, 0.256)
    rubber = Material(textures.beach_ball(), reflectance=0.03)
    roll = Roll(at, (0.0, -2.0, 0.0), 0.24, 1.0)
    tilt = turn((1.0, 0.4, 0.0), 55.0)
    place("sphere", at, (0.24, 0.24, 0.24), rubber, scene.name("beach ball", "object"), roll, tilt)

    x, y = -0.2, -0.1
    pendulum = scene.name("pendulum", "object")
    swing = Swing((x, y, HEIGHT), (1.0, 0.3, 0.0), 24.0, 2.0)
    tiles = ((0.75, 0.20, 0.15), (0.95, 0.85, 0.60), (0.15, 0.30, 0.50))
    enamel = Material(textures.mosaic(tiles, seed + 37, 8), reflectance=0.04)
    brass = Material(textures.plain((0.86, 0.66, 0.30)), reflectance=0.75, metal=True)
    steel = Material(textures.plain((0.30, 0.30, 0.32)))
    place("cylinder", (x, y, 2.57), (0.012, 0.012, 0.43), steel, pendulum, swing)
    place("sphere", (x, y, 1.98), (0.17, 0.17, 0.17), enamel, pendulum, swing)
    place("cylinder", (x, y, 1.80), (0.03, 0.03, 0.03), brass, pendulum, swing)
