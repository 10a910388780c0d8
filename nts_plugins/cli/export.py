# SPDX-License-Identifier: Apache-2.0
"""``nts export``: a trained scene as files that draw without nerfstudio."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Iterator, Optional, Tuple

from nts_plugins.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from nts_plugins.appearance.baking import Camera
    from nts_plugins.models.textured import TexturedModel
    from nts_plugins.rasterization import Textures

FRAME = "nerfstudio's training frame: x_scene = scale * (transform @ [x, 1]), with x in the capture's frame"


@dataclass
class Export:
    """Write a trained scene as files: its splats as splats.ply, which every viewer of splats reads, and with --bake
    their local textures, which nts_plugins.files.load reads.

    The files hold what ns-export writes: the same splats, in the same frame, of middle brightness where exposures were
    learned. docs/scene-files.md describes them.
    """

    load_config: Path
    """config.yml of the run."""
    output_dir: Path
    """Folder to make."""
    bake: bool = False
    """Also write the textures. They look different from every side; the file holds them as the training cameras see
    each splat in the mean."""
    camera: Optional[int] = None
    """Bake textures as the training view of this number sees them, from 0; in that view the scene is then exact, except
    for what a pixel decoder adds."""
    from_position: Optional[Tuple[float, float, float]] = None
    """Bake textures as they are seen from this place, scene units."""
    time: Optional[float] = None
    """The moment to write where a scene moves, in [0, 1]; by default that of --camera, or else 0."""
    overwrite: bool = False
    """Replace a scene that is in the folder already."""

    def run(self) -> int:
        """Write the files and say what they hold and what not. Raises InputError when that cannot be done."""
        self._check_options()
        target = self.output_dir.expanduser().absolute()
        from nts_plugins.cli._runs import load_run
        from nts_plugins.files import ply, scene

        scene.check_target(target, self.overwrite)
        pipeline = load_run(self.load_config)
        model, data = pipeline.model, pipeline.datamanager
        params = ply.exported(model.exported_params(self._moment(data.train_dataset.cameras)))
        textures, seen_from = self._textures(pipeline, params) if self.bake else (None, None)
        model.background.restore()
        outputs = data.train_dataparser_outputs
        scene.save(
            target,
            params,
            textures,
            antialiased=model.config.rasterize_mode == "antialiased",
            background=model.background.color("cpu"),
            about={
                "textures_seen_from": seen_from,
                "step": model.step,
                "frame": FRAME,
                "transform": outputs.dataparser_transform.tolist(),
                "scale": float(outputs.dataparser_scale),
                "view": _first_view(data, self.camera or 0),
            },
            overwrite=self.overwrite,
        )
        self._report(target, model, textures, seen_from)
        return 0

    def _check_options(self) -> None:
        if self.camera is not None and self.from_position is not None:
            raise InputError("--camera and --from-position both say from where textures are seen. Give one of them.")
        if not self.bake and (self.camera is not None or self.from_position is not None):
            raise InputError("--camera and --from-position are for textures, which --bake writes. Add --bake.")

        if self.time is not None and not 0 <= self.time <= 1:
            raise InputError(f"--time is {self.time}; times of a scene lie in [0, 1].")

    def _moment(self, cameras: Any) -> Any:
        """A camera at the moment to write."""
        import torch

        if self.camera is not None and not 0 <= self.camera < len(cameras):
            raise InputError(f"--camera is {self.camera}; the {len(cameras)} training views count from 0.")
        camera = cameras[self.camera or 0 : (self.camera or 0) + 1]
        if self.time is not None or self.camera is None:
            camera = replace(camera, times=torch.tensor([[self.time or 0.0]]))
        return camera

    def _textures(self, pipeline: Any, params: "Dict[str, Tensor]") -> "Tuple[Optional[Textures], Optional[str]]":
        """Those to write, and from where they are seen, in words."""
        from nts_plugins.models.textured import TexturedModel

        model = pipeline.model
        if not isinstance(model, TexturedModel):
            print("There is nothing to bake: the splats of this method have no textures.")
            return None, None
        if model.texture.strength_at(model.step) == 0.0:
            start = model.config.texture.start_step
            print(f"There is nothing to bake yet: textures begin at step {start}, and the run is at {model.step}.")
            return None, None
        return self._baked(pipeline, model, params)

    def _baked(
        self, pipeline: Any, model: "TexturedModel", params: "Dict[str, Tensor]"
    ) -> "Tuple[Optional[Textures], Optional[str]]":
        import torch

        from nts_plugins.appearance.baking import bake, usual_eyes
        from nts_plugins.files.ply import activated
        from nts_plugins.rasterization.sh import camera_centres

        model.eval()
        gaussians = activated(params).to(model.device)
        cameras = pipeline.datamanager.train_dataset.cameras
        seen_from = "the mean direction of the training cameras that show a splat"
        if self.from_position is not None:
            eyes, seen_from = torch.tensor(self.from_position), f"the position {list(self.from_position)}"
        elif self.camera is not None:
            eyes = camera_centres(_view(cameras, self.camera)[0])[0]
            seen_from = f"training view {self.camera}, at {[round(value, 4) for value in eyes.tolist()]}"
        elif model.config.texture.field.direction_frequencies is None:
            eyes = torch.zeros(3)
        else:
            antialiased = model.config.rasterize_mode == "antialiased"
            eyes = usual_eyes(
                gaussians, _views(cameras, model.device), antialiased=antialiased, backend=model.config.backend
            )
        if model.config.texture.field.direction_frequencies is None:
            seen_from = "anywhere: they do not depend on it"
        moment = (params[name].to(model.device) if name in params else None for name in ("rest_means", "times"))
        return bake(model.texture, gaussians, eyes.to(model.device), model.step, *moment), seen_from

    def _report(self, target: Path, model: Any, textures: "Optional[Textures]", seen_from: Optional[str]) -> None:
        from nts_plugins.files import scene
        from nts_plugins.models.textured import NO_DECODER, PIXEL_DECODER, TexturedModel

        def size(name: str) -> str:
            return f"{(target / name).stat().st_size / 1e6:.1f} MB"

        print(f"{target} is written.")
        print(f"  {scene.SPLATS}: {size(scene.SPLATS)}, splats as every viewer of splats reads them")
        if textures is not None:
            print(f"  {scene.TEXTURES}: {size(scene.TEXTURES)}, {len(textures)} textures, seen from {seen_from}")
        if isinstance(model, TexturedModel):
            more = "" if self.bake else " --bake writes them to a file beside it."
            print(f"A .ply file holds splats and no textures: it looks as the scene does without them.{more}")
            if PIXEL_DECODER in model.heads:
                print(NO_DECODER)


def _view(cameras: Any, index: int) -> "Camera":
    from nts_plugins.data.cameras import view_of

    one = cameras[index : index + 1]
    return view_of(one, one.camera_to_worlds).camera


def _views(cameras: Any, device: Any) -> "Iterator[Camera]":
    from rich.progress import track

    for index in track(range(len(cameras)), "Asking the training cameras which side they see", transient=True):
        viewmats, Ks, width, height = _view(cameras, index)
        yield viewmats.to(device), Ks.to(device), width, height


def _first_view(data: Any, index: int) -> Dict[str, Any]:
    """A training view as ``rasterize`` takes it, so that a program has somewhere to look from."""
    viewmats, Ks, width, height = _view(data.train_dataset.cameras, index)
    return {"viewmat": viewmats[0].tolist(), "K": Ks[0].tolist(), "width": width, "height": height}
