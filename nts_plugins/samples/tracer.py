# SPDX-License-Identifier: Apache-2.0
"""Pictures of a scene, with the exact geometry behind every pixel.

Fixed surfaces take their light from maps that are baked once: soft shadows of the lamps and a few bounces. The light
on a surface therefore does not depend on the view; mirrors and lacquer are traced, and do.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Callable, Iterable, List, Optional

import numpy as np
from numpy.typing import NDArray

from nts_plugins.samples import _light, _rays
from nts_plugins.samples._pack import FACES, Packed, move, pack
from nts_plugins.samples.cameras import Camera
from nts_plugins.samples.color import to_srgb
from nts_plugins.samples.scene import Scene


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

    def geometry(self, camera: Camera, time: float = 0.0):
        """Depth, normals and ids of :class:`View` without the picture, which is most of the work."""
        return self._geometry(self._at(time), camera)

    def _geometry(self, packed: Packed, camera: Camera):
        shape = (camera.height, camera.width)
        depth, normals, primitives = np.zeros(shape), np.zeros((*shape, 3)), np.zeros(shape, np.int64)
        _rays.trace_geometry(packed, camera.camera_to_world, camera.focal, depth, normals, primitives)
        return depth, normals, self._ids[primitives]

    def _at(self, time: float) -> Packed:
        packed = move(self._packed, self._solids, time)
        for k, cube in enumerate(packed.ambient):
            _light.ambient_cube(packed, *packed.bound[packed.n_fixed + k, :3], 64, cube)
        return packed

    def _bake(self, progress: Callable[[int, int], None]) -> None:
        """Direct light of every face, then three rounds of bounces, each from the light found so far."""
        packed = self._packed
        faces = [(i, f) for i in range(packed.n_fixed) for f in range(FACES[self._solids[i].shape])]
        faces.sort(key=lambda item: -packed.maps[item[0], item[1], 1] * packed.maps[item[0], item[1], 2])
        rounds, done = 3, 0
        for stage in range(1 + rounds):
            after = np.zeros_like(packed.bounced)
            bake = (
                (lambda face: _light.bake_direct(packed, face[0], face[1], 4))
                if stage == 0
                else (lambda face, out=after: _light.bake_bounced(packed, face[0], face[1], 128, out))
            )
            for _ in self._run(bake, faces):
                done += 1
                progress(done, len(faces) * (1 + rounds))
            if stage > 0:
                packed.bounced[:] = after

    def _run(self, function: Callable, items: Iterable) -> List:
        """Call a function on every item, in threads (the kernels let go of the interpreter's lock)."""
        with ThreadPoolExecutor(self.threads) as pool:
            return list(pool.map(function, items))
