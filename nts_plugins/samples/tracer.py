# SPDX-License-Identifier: Apache-2.0
"""Pictures of a scene, with the exact geometry behind every pixel.

Fixed surfaces take their light from maps that are baked once: soft shadows of the lamps and a few bounces. The light
on a surface therefore does not depend on the view; mirrors and lacquer are traced, and do.
"""

import os
from dataclasses import dataclass
from functools import partial
from typing import Callable, Optional, Tuple

import numpy as np
from numpy.typing import NDArray

from nts_plugins.samples import _light, _rays
from nts_plugins.samples._pack import FACES, Packed, move, pack
from nts_plugins.samples._threads import in_threads
from nts_plugins.samples.cameras import Camera
from nts_plugins.samples.color import to_srgb
from nts_plugins.samples.scene import Scene

Geometry = Tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int32]]
"""Depth [H, W], normals [H, W, 3] and ids [H, W], as in :class:`View`."""

SHADOW_RAYS = 4
"""Squared: rays from a texel of the light maps to each lamp."""
BOUNCES, BOUNCE_RAYS = 3, 128
"""How often light is sent on, and the rays that gather it for a texel."""


@dataclass(frozen=True, eq=False)
class View:
    """A picture and what is behind its pixels' centres."""

    camera: Camera
    time: float
    rgb: NDArray[np.uint8]
    """[H, W, 3] sRGB."""
    depth: NDArray[np.float64]
    """[H, W] metres along the viewing axis; 0 where the ray left the scene."""
    normals: NDArray[np.float64]
    """[H, W, 3] unit, world axes, towards the camera; 0 where the ray left the scene."""
    ids: NDArray[np.int32]
    """[H, W] number of the instance; 0 where the ray left the scene."""


class Tracer:
    """Draws one scene from any camera at any time. Making it bakes the light of everything that stands still.

    Args:
        scene: what to draw; not to be changed afterwards.
        texel: metres that a texel of the light maps covers.
        threads: at most so many; None takes every core. The pictures do not depend on it.
        progress: called as ``progress(done, total)`` while the light is baked.
    """

    def __init__(
        self,
        scene: Scene,
        *,
        texel: float = 0.04,
        threads: Optional[int] = None,
        progress: Optional[Callable[[int, int], None]] = None,
    ) -> None:
        self.scene = scene
        self.threads = threads or os.cpu_count() or 1
        self._packed, self._solids = pack(scene, texel)
        self._ids = np.array([solid.instance for solid in self._solids] + [0], np.int32)
        self._bake(progress or (lambda done, total: None))

    def view(self, camera: Camera, time: float = 0.0, *, samples: int = 3) -> View:
        """Picture and exact geometry from one camera. Works in the caller's thread; views may be drawn in several.

        Args:
            camera: where from.
            time: in [0, 1]; matters only to things that move.
            samples: rays along each side of a pixel.
        """
        packed = self._at(time)
        depth, normals, ids = self._geometry(packed, camera)
        colors = np.zeros((camera.height, camera.width, 3))
        _light.trace_colors(packed, camera.camera_to_world, camera.focal, samples, colors, np.empty(5))
        return View(camera, time, to_srgb(colors), depth, normals, ids)

    def geometry(self, camera: Camera, time: float = 0.0) -> Geometry:
        """Depth, normals and ids of :class:`View` without the picture, which is most of the work."""
        return self._geometry(self._at(time), camera)

    def _geometry(self, packed: Packed, camera: Camera) -> Geometry:
        shape = (camera.height, camera.width)
        depth, normals, primitives = np.zeros(shape), np.zeros((*shape, 3)), np.zeros(shape, np.int64)
        _rays.trace_geometry(packed, camera.camera_to_world, camera.focal, depth, normals, primitives)
        return depth, normals, self._ids[primitives]

    def _at(self, time: float) -> Packed:
        """The scene at a time, with the bounced light around everything that moves."""
        packed = move(self._packed, self._solids, time)
        for cube, (x, y, z, _) in zip(packed.ambient, packed.bound[packed.n_fixed :], strict=True):
            _light.ambient_cube(packed, x, y, z, 64, cube)
        return packed

    def _bake(self, progress: Callable[[int, int], None]) -> None:
        """Direct light of every face, then rounds of bounces, each from the light found so far."""
        packed = self._packed
        faces = [(i, f) for i in range(packed.n_fixed) for f in range(FACES[self._solids[i].shape])]
        faces.sort(key=lambda item: -packed.maps[item[0], item[1], 1] * packed.maps[item[0], item[1], 2])
        total, done = len(faces) * (1 + BOUNCES), 0
        for _ in in_threads(
            self.threads, lambda face: _light.bake_direct(packed, face[0], face[1], SHADOW_RAYS), faces
        ):
            done += 1
            progress(done, total)
        for _ in range(BOUNCES):
            after = np.zeros_like(packed.bounced)
            gather = partial(self._gather, after)
            for _ in in_threads(self.threads, gather, faces):
                done += 1
                progress(done, total)
            packed.bounced[:] = after

    def _gather(self, after: NDArray[np.float32], face: Tuple[int, int]) -> None:
        _light.bake_bounced(self._packed, face[0], face[1], BOUNCE_RAYS, after)
