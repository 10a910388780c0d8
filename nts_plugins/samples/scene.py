# SPDX-License-Identifier: Apache-2.0
"""What a scene is made of: solids, their materials, motions, lights and names. No rays in here.

The world is in metres with z up. A solid is a canonical shape, stretched by ``half_size``, turned by ``rotation`` and
moved to ``centre``. Rectangles are seen from their front only, so that a camera may stand outside a room's walls.
"""

from dataclasses import dataclass, field
from typing import Any, Dict, List, Literal, Optional, Protocol, Sequence, Tuple, Union

import numpy as np
from numpy.typing import NDArray

Vector = Union[Sequence[float], NDArray[Any]]
"""Three numbers, metres, world axes unless it says otherwise."""
Shape = Literal["rectangle", "box", "sphere", "cylinder"]


@dataclass(frozen=True, eq=False)
class Texture:
    """A picture to put on surfaces."""

    texels: NDArray[np.float32]
    """[H, W, 3] linear reflectance in [0, 1], first row on top."""
    repeat: bool = True
    """Whether the picture tiles the plane, or its border colour goes on outside."""


@dataclass(frozen=True, eq=False)
class Material:
    """How a surface answers light: Lambert's law under an optional mirror-like coat."""

    texture: Texture
    tile: Optional[Tuple[float, float]] = None
    """Width and height in metres that one copy of the texture covers; None stretches one copy over each face."""
    reflectance: float = 0.0
    """Mirror reflectance straight on (Fresnel's F0): 0 matt, 0.04 lacquer, 0.9 metal. It grows at grazing angles."""
    metal: bool = False
    """A metal has no diffuse part, and its texture colours the reflection."""
    emission: Tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Radiance that the surface sends out by itself; 1 is the brightest that a picture can show."""


class Motion(Protocol):
    """A rigid motion over time; the identity at time 0."""

    def at(self, time: float) -> NDArray[np.float64]:
        """[4, 4] world-to-world transform that carries the solid from time 0 to ``time`` in [0, 1]."""
        ...


@dataclass(frozen=True, eq=False)
class Solid:
    """One stretched, turned and placed shape."""

    shape: Shape
    centre: Vector
    half_size: Vector
    """Half extents along the solid's own axes, metres. A rectangle lies in its x-y plane and faces its +z; a
    cylinder's axis is its z."""
    material: Material
    instance: int
    """Number of the named thing that this is a part of."""
    rotation: NDArray[np.float64] = field(default_factory=lambda: np.eye(3))
    """[3, 3] solid to world."""
    motion: Optional[Motion] = None


@dataclass(frozen=True, eq=False)
class Light:
    """A rectangular lamp that sends light to its front."""

    centre: Vector
    half_u: Vector
    half_v: Vector
    """World vectors from the centre to the middle of two neighbouring edges; their cross product is the front."""
    radiance: Tuple[float, float, float]
    cone: Optional[Tuple[float, float]] = None
    """Half angles in degrees inside which a spotlight is at full power, and outside which it gives none."""


@dataclass(frozen=True)
class Instance:
    """A named thing."""

    id: int
    name: str
    category: str
    """"structure", "picture", "furniture" or "object"."""


@dataclass
class Scene:
    """Solids and lamps under construction, and later as they are."""

    solids: List[Solid] = field(default_factory=list)
    lights: List[Light] = field(default_factory=list)
    instances: List[Instance] = field(default_factory=list)
    """Numbers start at 1; 0 in an image of ids means that the ray left the scene."""

    def name(self, name: str, category: str) -> int:
        """Make a new named thing and return its number, to be given to its solids."""
        self.instances.append(Instance(len(self.instances) + 1, name, category))
        return len(self.instances)

    def add(self, shape: Shape, centre: Vector, half_size: Vector, material: Material, instance: int, **more) -> Solid:
        """Put a solid into the scene; ``more`` are ``rotation`` and ``motion``."""
        solid = Solid(shape, centre, half_size, material, instance, **more)
        self.solids.append(solid)
        return solid

    def bounds(self, time: float = 0.0) -> Dict[int, Tuple[NDArray[np.float64], NDArray[np.float64]]]:
        """Lowest and highest corner, world axes, of every named thing at a time."""
        boxes: Dict[int, Tuple[NDArray[np.float64], NDArray[np.float64]]] = {}
        for solid in self.solids:
            low, high = solid_bounds(solid, time)
            if solid.instance in boxes:
                low = np.minimum(low, boxes[solid.instance][0])
                high = np.maximum(high, boxes[solid.instance][1])
            boxes[solid.instance] = (low, high)
        return boxes


def solid_to_world(solid: Solid, time: float = 0.0) -> NDArray[np.float64]:
    """[4, 4] rigid transform from a solid's own axes to the world at a time."""
    matrix = np.eye(4)
    matrix[:3, :3] = solid.rotation
    matrix[:3, 3] = solid.centre
    return matrix if solid.motion is None else solid.motion.at(time) @ matrix


def solid_bounds(solid: Solid, time: float = 0.0) -> Tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lowest and highest corner [3] of the tightest box around a solid, along the world's axes."""
    matrix = solid_to_world(solid, time)
    x, y, z = (matrix[:3, :3] * np.asarray(solid.half_size, dtype=np.float64)).T
    if solid.shape == "sphere":
        reach = np.sqrt(x**2 + y**2 + z**2)
    elif solid.shape == "cylinder":
        reach = np.hypot(x, y) + np.abs(z)
    else:
        reach = np.abs(x) + np.abs(y) + (np.abs(z) if solid.shape == "box" else 0.0)
    return matrix[:3, 3] - reach, matrix[:3, 3] + reach


def turn(axis: Vector, degrees: float) -> NDArray[np.float64]:
    """[3, 3] rotation about an axis, counter-clockwise when the axis points at the eye (Rodrigues' formula)."""
    x, y, z = np.asarray(axis, dtype=np.float64) / np.linalg.norm(axis)
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    angle = np.radians(degrees)
    return np.eye(3) + np.sin(angle) * cross + (1.0 - np.cos(angle)) * cross @ cross


def about(pivot: Vector, rotation: NDArray[np.float64]) -> NDArray[np.float64]:
    """[4, 4] rotation about a point."""
    matrix = np.eye(4)
    matrix[:3, :3] = rotation
    matrix[:3, 3] = np.asarray(pivot) - rotation @ np.asarray(pivot)
    return matrix


@dataclass(frozen=True)
class Spin:
    """Turns about a fixed axis at constant speed."""

    pivot: Vector
    axis: Vector
    turns: float

    def at(self, time: float) -> NDArray[np.float64]:
        return about(self.pivot, turn(self.axis, 360.0 * self.turns * time))


@dataclass(frozen=True)
class Swing:
    """A pendulum, in the middle of its swing at time 0 unless it has a phase."""

    pivot: Vector
    axis: Vector
    degrees: float
    cycles: float
    phase: float = 0.0
    """Share of a cycle that it is ahead at time 0."""

    def at(self, time: float) -> NDArray[np.float64]:
        start, now = np.sin(2.0 * np.pi * np.array([self.phase, self.cycles * time + self.phase]))
        return about(self.pivot, turn(self.axis, self.degrees * (now - start)))


@dataclass(frozen=True)
class Roll:
    """A ball that rolls to and fro along a straight way on the floor, without slipping."""

    start: Vector
    way: Vector
    """From where it starts to where it turns back, metres."""
    radius: float
    cycles: float

    def at(self, time: float) -> NDArray[np.float64]:
        way = np.asarray(self.way, dtype=np.float64)
        length = np.linalg.norm(way)
        gone = 0.5 - 0.5 * np.cos(2.0 * np.pi * self.cycles * time)
        axis = np.cross([0.0, 0.0, 1.0], way)
        matrix = about(self.start, turn(axis, np.degrees(gone * length / self.radius)))
        matrix[:3, 3] += gone * way
        return matrix


@dataclass(frozen=True)
class Bob:
    """Floats up and down along a vector."""

    way: Vector
    cycles: float

    def at(self, time: float) -> NDArray[np.float64]:
        matrix = np.eye(4)
        matrix[:3, 3] = np.asarray(self.way) * np.sin(2.0 * np.pi * self.cycles * time)
        return matrix


@dataclass(frozen=True)
class Joint:
    """Moves on something that moves itself, as a forearm on an arm. Pivots are where they are at time 0."""

    motion: Motion
    carrier: Motion

    def at(self, time: float) -> NDArray[np.float64]:
        return self.carrier.at(time) @ self.motion.at(time)
