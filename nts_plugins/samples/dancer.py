# SPDX-License-Identifier: Apache-2.0
"""The dancer: a jointed figure in patterned clothes, in an empty studio, filmed from all around."""

from typing import List, Optional

import numpy as np
from numpy.typing import NDArray

from nts_plugins.samples import textures
from nts_plugins.samples._config import SampleConfig
from nts_plugins.samples.cameras import Camera, focal_from_fov, look_at
from nts_plugins.samples.scene import Bob, Joint, Light, Material, Motion, Scene, Shape, Spin, Swing, Vector, turn

HALF, FLOOR, HEIGHT = 4.0, -0.04, 4.0
"""The studio spans [-HALF, HALF] x [-HALF, HALF] x [FLOOR, HEIGHT], metres. The dancer is in its middle; feet that
swing reach a little below 0, where they are at time 0."""
DISTANCE = 2.7
"""From the studio's axis to the cameras, metres."""
SIDES = (("left", -1.0), ("right", 1.0))


def build_dancer(config: SampleConfig) -> Scene:
    """The studio and the dancer, who at time 0 stands upright with the arms stretched out."""
    scene = Scene()
    _build_studio(scene, config.seed)
    _Figure(scene, config.seed).build()
    return scene


def circle(config: SampleConfig) -> List[Camera]:
    """Cameras that film at once stand evenly around the dancer, and each walks round to the direction in which the next
    one began, at a height of its own.

    So a held-out picture is one of a place and a moment of which no other picture has both.
    """
    # The shorter side has the field of view, so that the figure fits into pictures of any shape.
    focal = focal_from_fov(min(config.width, config.height), config.fov)
    moments = config.views // config.cameras
    cameras = []
    for view in range(config.views):
        number, moment = divmod(view, moments)
        angle = 2.0 * np.pi * (number + moment / moments) / config.cameras
        height = 1.15 + 0.75 * np.sin(2.0 * np.pi * (0.37 * number + moment / moments))
        position = (DISTANCE * np.cos(angle), DISTANCE * np.sin(angle), height)
        cameras.append(Camera(config.width, config.height, focal, look_at(position, (0.0, 0.0, 0.95))))
    return cameras


def _build_studio(scene: Scene, seed: int) -> None:
    """Floor and walls of the same grey plaster, and four lamps under a white ceiling."""
    grey = Material(textures.plaster((0.62, 0.62, 0.64), (0.72, 0.72, 0.74), seed + 1), (2.0, 2.0))
    white = Material(textures.plain((0.8, 0.8, 0.8)))
    studio, up = scene.name("studio", "structure"), np.array([0.0, 0.0, 1.0])
    scene.add("rectangle", (0, 0, FLOOR), (HALF, HALF, 1), grey, studio)
    scene.add("rectangle", (0, 0, HEIGHT), (HALF, HALF, 1), white, studio, rotation=turn((1, 0, 0), 180.0))
    for x, y in ((0.0, 1.0), (1.0, 0.0), (0.0, -1.0), (-1.0, 0.0)):
        out = np.array([x, y, 0.0])
        rotation = np.stack([np.cross(out, up), up, -out], axis=1)
        centre = out * HALF + up * (HEIGHT + FLOOR) / 2
        scene.add("rectangle", centre, (HALF, (HEIGHT - FLOOR) / 2, 1), grey, studio, rotation=rotation)
    for x in (-2.0, 2.0):
        for y in (-2.0, 2.0):
            scene.lights.append(Light((x, y, HEIGHT - 0.05), (0.6, 0, 0), (0, -0.6, 0), (14.0, 13.7, 13.2)))


class _Figure:
    """Parts that hang on each other by joints, each rigid part a named thing of its own.

    Swings are slow enough that between two of 20 moments nothing turns by more than 11 degrees.
    """

    def __init__(self, scene: Scene, seed: int) -> None:
        red, cream, blue = (0.75, 0.15, 0.15), (0.95, 0.9, 0.8), (0.1, 0.2, 0.45)
        teal = ((0.1, 0.4, 0.45), (0.85, 0.8, 0.5), (0.9, 0.5, 0.2))
        self.scene = scene
        self.shirt = Material(textures.wallpaper((0.75, 0.2, 0.15), (0.95, 0.9, 0.75), seed + 2), (0.3, 0.3))
        self.skirt = Material(textures.rug(seed + 3))
        self.sleeve = Material(textures.mosaic((red, cream, blue), seed + 4), (0.4, 0.4))
        self.hose = Material(textures.mosaic(teal, seed + 5, 8), (0.3, 0.3))
        self.skin = Material(textures.marble((0.75, 0.5, 0.35), (0.95, 0.75, 0.6), seed + 6))
        self.shoe = Material(textures.boards((0.25, 0.1, 0.08), (0.5, 0.25, 0.15), seed + 7), (0.1, 0.1))
        self.mask = Material(textures.globe(seed + 8))

    def build(self) -> None:
        """The whole dancer turns, and bobs up and down; everything else hangs on that."""
        whole = Joint(Bob((0, 0, 0.03), 0.9), Spin((0, 0, 0), (0, 0, 1), 0.09))
        twisting = Joint(Swing((0, 0, 1.0), (0, 0, 1), 25.0, 0.3), whole)
        nodding = Joint(Swing((0, 0, 1.5), (1, 0.3, 0), 18.0, 0.6), twisting)
        self._add("skirt", whole, "cylinder", (0, 0, 0.86), (0.20, 0.15, 0.14), self.skirt)
        self._add("shirt", twisting, "sphere", (0, 0, 1.22), (0.19, 0.13, 0.28), self.shirt)
        head = self._add("head", nodding, "sphere", (0, 0, 1.66), (0.11, 0.12, 0.15), self.mask)
        self._add(head, nodding, "cylinder", (0, 0, 1.50), (0.05, 0.05, 0.06), self.skin)
        for side, sign in SIDES:
            self._add_arm(side, sign, twisting)
            self._add_leg(side, sign, whole)

    def _add_arm(self, side: str, sign: float, carrier: Motion) -> None:
        shoulder, elbow, along = (0.22 * sign, 0, 1.42), (0.50 * sign, 0, 1.42), turn((0, 1, 0), 90.0)
        upper = Joint(Swing(shoulder, (0, sign, 0.4), 45.0, 0.3, 0.25 if sign > 0 else 0.0), carrier)
        lower = Joint(Swing(elbow, (0.2, sign, 0), -40.0, 0.6, 0.1), upper)
        sleeve = self._add(f"{side} sleeve", upper, "sphere", shoulder, (0.075, 0.075, 0.075), self.sleeve)
        self._add(sleeve, upper, "cylinder", (0.36 * sign, 0, 1.42), (0.055, 0.055, 0.15), self.sleeve, along)
        hand = self._add(f"{side} hand", lower, "sphere", (0.80 * sign, 0, 1.42), (0.06, 0.05, 0.06), self.skin)
        self._add(hand, lower, "cylinder", (0.63 * sign, 0, 1.42), (0.042, 0.042, 0.14), self.skin, along)

    def _add_leg(self, side: str, sign: float, carrier: Motion) -> None:
        x = 0.10 * sign
        upper = Joint(Swing((x, 0, 0.80), (1, 0, 0), 28.0 * sign, 0.45), carrier)
        lower = Joint(Swing((x, 0, 0.45), (1, 0, 0), -22.0, 0.45, 0.1 if sign > 0 else 0.6), upper)
        thigh = self._add(f"{side} thigh", upper, "cylinder", (x, 0, 0.62), (0.075, 0.075, 0.19), self.hose)
        self._add(thigh, upper, "sphere", (x, 0, 0.45), (0.07, 0.07, 0.07), self.hose)
        foot = self._add(f"{side} foot", lower, "box", (x, 0.05, 0.06), (0.055, 0.13, 0.05), self.shoe)
        self._add(foot, lower, "cylinder", (x, 0, 0.26), (0.055, 0.055, 0.18), self.hose)

    def _add(
        self,
        part: "str | int",
        motion: Motion,
        shape: Shape,
        centre: Vector,
        half_size: Vector,
        material: Material,
        rotation: Optional[NDArray[np.float64]] = None,
    ) -> int:
        """Add a solid to a new named part, or to one that is there; returns the part's number."""
        number = self.scene.name(part, "object") if isinstance(part, str) else part
        turned = np.eye(3) if rotation is None else rotation
        self.scene.add(shape, centre, half_size, material, number, rotation=turned, motion=motion)
        return number
