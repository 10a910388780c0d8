# SPDX-License-Identifier: Apache-2.0
"""nerfstudio's pipeline with an evaluation that keeps the numbers of every picture.

Class paths in this module are written into every run's config.yml: they are a public interface.
"""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Type

import torch
from nerfstudio.pipelines.base_pipeline import VanillaPipeline, VanillaPipelineConfig

from nts_plugins import compat
from nts_plugins.data.cameras import view_of
from nts_plugins.errors import InputError
from nts_plugins.evaluation import images as image_protocol
from nts_plugins.evaluation.cost import megabytes, timed
from nts_plugins.files.whole import result_file

PER_IMAGE_FILE = "per_image.json"


@dataclass
class SplatPipelineConfig(VanillaPipelineConfig):
    """Settings of :class:`SplatPipeline`."""

    _target: Type = field(default_factory=lambda: SplatPipeline)


class SplatPipeline(VanillaPipeline):
    """Datamanager and model, joined as in nerfstudio.

    Where pictures are saved (``ns-eval --render-output-path DIR``), ``DIR/per_image.json`` holds the metrics of each.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.datamanager.pictures_at = self.model.pictures_at  # type: ignore[assignment, union-attr]
        compat.let_viewers_start_beside_other_processes()

    @torch.no_grad()
    def get_average_image_metrics(
        self,
        data_loader: Any,
        image_prefix: str,
        step: Optional[int] = None,
        output_path: Optional[Path] = None,
        get_std: bool = False,
    ) -> Dict[str, float]:
        """Mean metrics over all pictures; see :meth:`VanillaPipeline.get_average_image_metrics`.

        Besides the model's own numbers there are ``model_mb``, 1e6 bytes of everything that drawing needs, and ``fps``:
        pictures in a second, drawn as for ns-render and the viewer, with depth and what the heads add, and without
        reading photographs, comparing, or showing progress.

        Raises:
            InputError: where there are no pictures to compare with.
        """
        from rich.progress import track

        if len(data_loader) == 0:
            raise InputError(
                "There are no evaluation images. Give the data a test split: 'test_filenames' in transforms.json, say."
            )
        was_training = self.training
        self.eval()
        _restore_background(self.model)
        metrics: List[Dict[str, float]] = []
        rows: List[image_protocol.Row] = []
        draw = self.model.get_outputs_for_camera
        size = megabytes(self.model, without=("camera_optimizer.",))  # Poses are of training views only.
        # Without auto_refresh the bar is drawn between pictures, and not by a thread beside them.
        views = track(data_loader, "Evaluating all images", transient=True, auto_refresh=False)
        for index, (camera, batch) in enumerate(views):
            if index == 0:
                draw(camera)  # It loads or compiles kernels.
            seconds, outputs = timed(partial(draw, camera), self.model.device)
            scores, pictures = self.model.get_image_metrics_and_images(outputs, batch)
            pixels = int(camera.width.reshape(-1)[0]) * int(camera.height.reshape(-1)[0])
            costs = {"model_mb": size, "num_rays_per_sec": pixels / seconds, "fps": 1.0 / seconds}
            metrics.append({**scores, **costs})
            rows.append({"image": self._image_name(batch), **metrics[-1]})
            if output_path is not None:
                _save(pictures, output_path, image_prefix, index)
        if output_path is not None:
            image_protocol.write_rows(output_path / PER_IMAGE_FILE, rows)
        further = {} if was_training else self._further_metrics(output_path)
        self.train(was_training)
        return {**image_protocol.average(metrics, with_std=get_std), **further}

    def _further_metrics(self, output_path: Optional[Path]) -> Dict[str, float]:
        """What ns-eval reports besides, of models that have something to report."""
        model: Any = self.model
        dataset = self.datamanager.eval_dataset
        return model.further_metrics(dataset, output_path) if hasattr(model, "further_metrics") else {}

    @property
    def unfinished(self) -> bool:
        """Whether :meth:`finish` has to come before the model is of use."""
        return self.model.heads.unfinished  # type: ignore[union-attr, return-value]

    def finish(self) -> None:
        """What heads do when all steps are done, before the last checkpoint is written."""
        self.eval()
        self.model.finish(TrainingViews(self.datamanager, self.model))  # type: ignore[operator]
        self.train()

    def get_eval_image_metrics_and_images(self, step: int) -> Any:
        _restore_background(self.model)
        return super().get_eval_image_metrics_and_images(step)

    def _image_name(self, batch: Dict[str, Any]) -> str:
        dataset = self.datamanager.eval_dataset
        return dataset.image_filenames[int(batch["image_idx"])].name if dataset is not None else str(batch["image_idx"])


class TrainingViews(Sequence):
    """Training cameras as they were refined, with the batches of their pictures, each made when it is asked for."""

    def __init__(self, datamanager: Any, model: Any) -> None:
        self._pairs, self._model = datamanager.training_pairs, model

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: Any) -> Any:
        camera, batch = self._pairs[index]
        return view_of(camera, self._model.camera_optimizer.apply_to_camera(camera)), batch


def _restore_background(model: Any) -> None:
    """The viewer gives the model its own background whenever it draws, and metrics must not depend on that."""
    model.background.restore()


def _save(pictures: Dict[str, torch.Tensor], folder: Path, prefix: str, index: int) -> None:
    from torchvision.utils import save_image

    for name, picture in pictures.items():
        with result_file(folder / f"{prefix}_{name}_{index:04d}.png") as file:
            save_image(picture.permute(2, 0, 1).cpu(), file, format="png")
