# SPDX-License-Identifier: Apache-2.0
"""``nts compare-geometry MESH TRUTH``: how close a mesh is to the true surface."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, List, Optional, Tuple

import tyro

from nts_plugins.errors import InputError

if TYPE_CHECKING:
    from nts_plugins.evaluation.geometry import Frustum, Points


@dataclass
class CompareGeometry:
    """Compare a mesh, or points, with the true surface: Chamfer distance, F-score and the angle between normals.

    Both are .ply files in the same frame, of triangles or of points. Of triangles, points are spread evenly over the
    area; points are taken as they are. Distances are in the unit of the files.
    """

    mesh: tyro.conf.Positional[Path]
    """What was reconstructed, for instance by ``nts mesh``."""
    truth: tyro.conf.Positional[Path]
    """What it should be; the gallery of ``nts sample`` has it in surface.ply."""
    threshold: Optional[float] = None
    """Distance within which a point counts as right for the F-score; by default a hundredth of the truth's diagonal."""
    samples: int = 200_000
    """Points on a mesh."""
    seed: int = 0
    """Of the places of these points."""
    cameras: Optional[Path] = None
    """A transforms.json in the frame of the files: what none of its cameras sees is left out on both sides."""
    margin: Optional[float] = None
    """What of the mesh lies farther than this outside of the box around the truth is left out: a mesh of an object and
    what is around it, where the truth is the object alone. By default all counts."""
    output_path: Optional[Path] = None
    """Also write the scores there, as JSON."""

    def run(self) -> int:
        """Print the scores as JSON, and write them where that is asked for."""
        result = self.scores()
        text = json.dumps(result, indent=2)
        print(text)
        if self.output_path is not None:
            from nts_plugins.files.whole import result_file

            with result_file(self.output_path) as file:
                file.write((text + "\n").encode())
        return 0

    def scores(self) -> "dict[str, float]":
        """What :func:`nts_plugins.evaluation.geometry.compare_surfaces` returns, the threshold, and the numbers of
        points.

        Raises:
            InputError: for files that cannot be read or hold nothing, and numbers that mean nothing.
        """
        import numpy as np

        from nts_plugins.evaluation.geometry import compare_surfaces, within

        if self.samples < 1:
            raise InputError(f"--samples is {self.samples}; at least one point is needed.")
        if self.threshold is not None and not self.threshold > 0:
            raise InputError(f"--threshold is {self.threshold}; it must be above zero.")
        if self.margin is not None and not self.margin >= 0:
            raise InputError(f"--margin is {self.margin}; it cannot be below zero.")
        frusta = read_cameras(self.cameras) if self.cameras is not None else []
        found, truth = (self._points(path, frusta) for path in (self.mesh, self.truth))
        if self.margin is not None:
            found = found.select(within(found.xyz, truth.xyz, self.margin))
            if not len(found.xyz):
                raise InputError(
                    f"Nothing of {self.mesh} lies within {self.margin:g} of the box around {self.truth}. Are they in "
                    "the same frame?"
                )
        threshold = self.threshold or 0.01 * float(np.linalg.norm(np.ptp(truth.xyz, axis=0)))
        scores = compare_surfaces(found, truth, threshold)
        return {**scores, "threshold": threshold, "points": len(found.xyz), "true_points": len(truth.xyz)}

    def _points(self, path: Path, frusta: "List[Frustum]") -> "Points":
        from nts_plugins.evaluation.geometry import seen

        points, mesh = read_surface(path, self.samples, self.seed)
        if frusta:
            points = points.select(seen(points, frusta, mesh))
            if not len(points.xyz):
                raise InputError(f"No camera of {self.cameras} sees anything of {path}. Are they in the same frame?")
        return points


def read_surface(path: Path, samples: int, seed: int) -> "Tuple[Points, Optional[Tuple]]":
    """Points of a .ply file, and its vertices and faces where it has any.

    Raises:
        InputError: where it cannot be read, or holds nothing.
    """
    import numpy as np
    import trimesh

    from nts_plugins.evaluation.geometry import Points, sample_surface

    if not path.is_file():
        raise InputError(f"There is no file {path}.")
    try:
        with path.open("rb") as file:
            read = trimesh.load(file, file_type="ply", process=False)
    except Exception as error:  # trimesh raises whatever its parser stumbles over
        raise InputError(f"{path} cannot be read as a .ply file: {error}") from error
    vertices = np.asarray(getattr(read, "vertices", ()), np.float64).reshape(-1, 3)
    faces = np.asarray(getattr(read, "faces", ()), np.int64).reshape(-1, 3)
    if not len(vertices) or not np.isfinite(vertices).all():
        raise InputError(f"{path} holds no points, or points that are not finite.")
    if len(faces):
        try:
            return sample_surface(vertices, faces, samples, seed), (vertices, faces)
        except ValueError as error:
            raise InputError(f"{path}: {error}") from error
    return Points(vertices, _normals(read, len(vertices))), None


def _normals(read: object, count: int):
    """[P, 3] that a file of points holds as nx, ny, nz; None where it does not."""
    import numpy as np

    data = read.metadata.get("_ply_raw", {}).get("vertex", {}).get("data")  # type: ignore[attr-defined]
    names = ("nx", "ny", "nz")
    if data is None or data.dtype.names is None or not set(names) <= set(data.dtype.names):
        return None
    return np.stack([np.asarray(data[name], np.float64).reshape(count) for name in names], axis=1)


def read_cameras(path: Path) -> "List[Frustum]":
    """The cameras of a transforms.json, without their distortion.

    Raises:
        InputError: where it cannot be read.
    """
    import numpy as np

    from nts_plugins.evaluation.geometry import Frustum

    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
        frusta = []
        for frame in meta["frames"]:
            fx, fy, cx, cy, w, h = ({**meta, **frame}[name] for name in ("fl_x", "fl_y", "cx", "cy", "w", "h"))
            # OpenGL's y and z point the other way than OpenCV's.
            pose = np.array(frame["transform_matrix"], np.float64) @ np.diag([1.0, -1.0, -1.0, 1.0])
            K = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], np.float64)
            frusta.append(Frustum(np.asarray(np.linalg.inv(pose), np.float64), K, int(w), int(h)))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} cannot be read as the cameras of a transforms.json: {error}") from error
    return frusta
