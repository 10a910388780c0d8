# SPDX-License-Identifier: Apache-2.0
"""``nts mesh``: a mesh of what a run has learned."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Optional

from nts_plugins.errors import InputError


@dataclass
class Mesh:
    """Write a coloured mesh of what a run has learned, as a .ply file.

    Colour and depth are drawn from every training camera and fused. Works with every method of this package; those
    that end in "-surface" are made for it.
    """

    load_config: Path
    """The run's config.yml."""
    output_path: Path
    """The .ply file to write; it is there whole or not at all."""
    frame: Literal["capture", "training"] = "capture"
    """"capture" is the frame and unit of the data, as before nerfstudio turned, moved and scaled it: a metric capture
    gives a metric mesh. "training" is what ns-export writes splats in."""
    voxel: Optional[float] = None
    """Side of a voxel, in the unit of the frame; by default a 512th of the region's side."""
    region: float = 1.0
    """Factor on the cube outside of which depth is left out. It surrounds the object that all cameras look at, or else
    the cameras, with three times their extent."""
    memory_gib: float = 2.0
    """What voxels may take; where that does not suffice they become coarser, with a notice."""
    parts: int = 50
    """Keep so many connected parts, the largest ones; 0 keeps all."""
    depth: Optional[str] = None
    """The output to take depth from. By default that of the surface head or "depth", the mean of splats' centres,
    whichever the pictures of neighbouring cameras agree on more; and "depth" where there is no such head."""

    def run(self) -> int:
        """Draw, fuse and write. Raises InputError for what the user has to change."""
        import numpy as np

        from nts_plugins.cli._runs import capture_from_training, load_run
        from nts_plugins.progress import progress
        from nts_plugins.surfaces.agreement import best_depth
        from nts_plugins.surfaces.fusion import fuse
        from nts_plugins.surfaces.shots import training_shots

        self._check()
        pipeline = load_run(self.load_config)
        to_frame = np.eye(4)
        if self.frame == "capture":
            to_frame = capture_from_training(pipeline.datamanager.train_dataparser_outputs)
        unit = float(np.cbrt(np.linalg.det(to_frame[:3, :3])))
        center, side = pipeline.datamanager.train_dataset.metadata["random_region"]
        side = self.region * side
        voxel = side / 512 if self.voxel is None else self.voxel / unit
        depth = self.depth
        if depth is None:
            with progress("Depths") as (tell, _):
                depth = best_depth(pipeline, progress=tell)
        with progress("Views") as (tell, say):
            mesh, used = fuse(
                lambda: training_shots(pipeline, np.array(center), side, depth, tell),
                voxel,
                int(self.memory_gib * 2**30),
                lambda coarser: say(
                    f"{self.memory_gib:g} GiB do not hold voxels that small: beginning again with {coarser * unit:.4g}."
                    f" --memory-gib allows more, --region and --voxel ask for less."
                ),
            )
        if self.parts > 0:
            mesh = mesh.largest(self.parts)
        _write(self.output_path, mesh.transformed(to_frame))
        print(
            f"{self.output_path}: {len(mesh.vertices)} vertices, {len(mesh.faces)} triangles, voxels of "
            f"{used * unit:.4g}, fused from '{depth}', frame of {self.frame}."
        )
        return 0

    def _check(self) -> None:
        from nts_plugins.files.whole import check_place

        if self.output_path.suffix.lower() != ".ply":
            raise InputError(f"--output-path {self.output_path} must end in .ply, which is what is written.")
        for name, value in (("voxel", self.voxel), ("region", self.region), ("memory-gib", self.memory_gib)):
            if value is not None and not 0 < value < float("inf"):
                raise InputError(f"--{name} is {value}; it must be above zero.")
        check_place(self.output_path)


def _write(path: Path, mesh: Any) -> None:
    import trimesh

    from nts_plugins.files.whole import result_file

    made = trimesh.Trimesh(mesh.vertices, mesh.faces, vertex_colors=mesh.colors, process=False)
    with result_file(path) as file:
        made.export(file, file_type="ply")
