# SPDX-License-Identifier: Apache-2.0
"""``nts predict``: cameras and depth of photographs that have none."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, List, Literal, Optional

from nts_plugins.errors import InputError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


@dataclass
class Predict:
    """Predict where photographs were taken, and how far away what they show is. Train on the file that is written with
    ns-train METHOD --data FILE prediction-data.

    A network predicts from a folder of photographs; or what is known already is written down: the depth of a run of any
    method of this package, which needs no network.
    """

    output_path: Path
    """The file (.npz), which names photographs relative to itself."""
    images: Optional[Path] = None
    """Folder of photographs, which are taken in the order of their names."""
    from_run: Optional[Path] = None
    """config.yml of a run, in place of a folder: its cameras, and the depth of its splats."""
    model: Literal["vggt"] = "vggt"
    """The network."""
    weights: Optional[Path] = None
    """A file of its weights. None fetches the published ones, once."""
    longest: int = 518
    """Longer side of the pictures that it is shown, pixels."""

    def run(self) -> int:
        """Predict, and say what came of it. Raises InputError for what the user has to change."""
        from nts_plugins.files.prediction import save
        from nts_plugins.files.whole import check_place

        self.output_path = self.output_path.expanduser()
        if (self.images is None) is (self.from_run is None):
            raise InputError("Name a folder of photographs with --images, or a run with --from-run; one of the two.")
        if self.output_path.suffix.lower() != ".npz":
            raise InputError(f"--output-path {self.output_path} must end in .npz, which is what is written.")
        check_place(self.output_path)
        made = self._predicted() if self.from_run is None else self._drawn(self.from_run)
        save(self.output_path, made)
        height, width = made.depths.shape[1:]
        print(f"{self.output_path}: cameras and {width}x{height} depths of {len(made.names)} photographs.")
        if made.licence:
            print(f"Licence of the weights that predicted them: {made.licence}.")
        print(f"Train on them with ns-train METHOD --data {self.output_path} prediction-data")
        return 0

    def _named(self, paths: List[Path]) -> List[str]:
        # Folders as they are on the disk: ".." from a link to a folder leads to the folder's own parent.
        folder = self.output_path.absolute().parent.resolve()
        places = [path.absolute().parent.resolve() / path.name for path in paths]
        return [Path(os.path.relpath(place, folder)).as_posix() for place in places]

    def _predicted(self) -> Any:
        import torch

        from nts_plugins.data.extraction import as_seen
        from nts_plugins.data.pictures import read_image
        from nts_plugins.encoders.predictors import Vggt

        assert self.images is not None
        if not self.images.is_dir():
            raise InputError(f"There is no folder {self.images}.")
        found = sorted(path for path in self.images.iterdir() if path.suffix.lower() in SUFFIXES)
        if len(found) < 2:
            raise InputError(f"{self.images} has {len(found)} photographs ({', '.join(SUFFIXES)}); two are needed.")
        pictures = [as_seen(read_image(path)) for path in found]
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        predictor = Vggt.load(self.weights, device, self.longest)
        print(f"Predicting from {len(found)} photographs at once.")
        return predictor.predict(self._named(found), pictures)

    def _drawn(self, config: Path) -> Any:
        import numpy as np

        from nts_plugins.cli._runs import load_run
        from nts_plugins.data.cameras import view_of
        from nts_plugins.files.prediction import Prediction
        from nts_plugins.progress import progress
        from nts_plugins.surfaces.shots import solid_depth

        pipeline = load_run(config)
        model, manager = pipeline.model, pipeline.datamanager
        pictures = [
            (each, number) for each in (manager.train_dataset, manager.eval_dataset) for number in range(len(each))
        ]
        known, rows = set(), []
        with progress("Pictures") as (tell, _):
            for done, (dataset, number) in enumerate(pictures):
                tell(done, len(pictures))
                path = Path(dataset.image_filenames[number])
                if path in known:
                    continue
                known.add(path)
                if dataset.is_undistorted(number):
                    raise InputError(
                        f"{path} was undistorted for the run, and a prediction is of whole files. Undistort the "
                        f"pictures first (`colmap image_undistorter`), and train on those."
                    )
                camera = dataset.cameras[number : number + 1].to(model.device)
                if dataset is manager.train_dataset:
                    camera.metadata = {"cam_idx": number}
                    camera.camera_to_worlds = model.camera_optimizer.apply_to_camera(camera).detach()
                view = view_of(camera, camera.camera_to_worlds)
                outputs = model.get_outputs_for_camera(camera)
                depth, sure = solid_depth(outputs), outputs["accumulation"].squeeze(-1)
                size = dataset.file_size(number)
                K = view.Ks[0].double().cpu().numpy()
                K[:2] *= (np.array(size) / np.array(depth.shape[::-1]))[:, None]
                rows.append((path, view.viewmats[0].double().cpu().numpy(), K, size, depth.cpu(), sure.cpu()))
            tell(len(pictures), len(pictures))
        paths, viewmats, Ks, sizes, depths, sure = zip(*sorted(rows, key=lambda row: row[0]), strict=True)
        if len({depth.shape for depth in depths}) > 1:
            raise InputError(f"The pictures of {config} differ in size, and a prediction's depths are of one size.")
        maps = [np.stack([np.asarray(values, np.float32) for values in each]) for each in (depths, sure)]
        return Prediction(
            tuple(self._named(list(paths))),
            np.stack(viewmats),
            np.stack(Ks),
            np.array(sizes, np.int64),
            maps[0],
            maps[1],
            source=f"splats of {config}",
        )
