# SPDX-License-Identifier: Apache-2.0
"""``nts tune-codec``: a latent codec that says the same of one place from different sides."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Tuple

from nts_plugins.encoders.settings import CodecSettings
from nts_plugins.errors import InputError, describe
from nts_plugins.latents.settings import TuningSettings

STATE, ABOUT = "unfinished.pt", "tuning.json"


@dataclass
class TuneCodec:
    """Fine-tune a latent codec, so that what it says of one place in several photographs is the same: stage I of Latent
    Radiance Fields.

    Photographs, and which places of them correspond, come from scenes that splats were trained on, by any method of
    this package. Its weights then go to latent-radiance-field with --pipeline.datamanager.codec.weights. The same
    command goes on after a kill.
    """

    runs: Tuple[Path, ...]
    """config.yml of a run of each scene."""
    output_dir: Path
    """Folder of the codec's new weights."""
    codec: CodecSettings = field(default_factory=lambda: CodecSettings(name="taef2"))
    """The codec to begin with."""
    tuning: TuningSettings = field(default_factory=TuningSettings)
    """How."""
    save_every: int = 100
    """Steps between two states on the disk."""

    def run(self) -> int:
        """Tune, and say what came of it. Raises InputError for what the user has to change."""
        import torch

        from nts_plugins.encoders.codecs import load_codec
        from nts_plugins.latents.tuning import CodecTuning, Pairs
        from nts_plugins.progress import progress

        target = self.output_dir.expanduser().absolute()
        about = {"codec": self.codec.name, "runs": [str(path.absolute()) for path in self.runs], **asdict(self.tuning)}
        if self._finished(target, about):
            print(f"{target} is finished.")
            return 0
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        codec = load_codec(self.codec, device)
        with progress("Pictures and their depth") as (tell, _):
            scenes = [posed_pictures(path, codec.factor, tell) for path in self.runs]
        tuning = CodecTuning(codec, Pairs(scenes, codec.factor, self.tuning), self.tuning)
        self._resume(target, about, tuning)
        recent: List[Dict[str, float]] = []
        with progress("Steps") as (tell, say):
            while not tuning.finished:
                tell(tuning.done, self.tuning.steps)
                recent.append(tuning.step())
                if tuning.done % self.save_every == 0 or tuning.finished:
                    means = _means(recent)
                    say(f"{tuning.done} steps: " + ", ".join(f"{name} {value:.4f}" for name, value in means.items()))
                    recent = [] if not tuning.finished else recent
                    self._save(target, about, tuning)
        self._finish(target, {**about, "last": _means(recent)}, codec)
        print(f"{target} holds the weights. Train on them with")
        print("  ns-train latent-radiance-field --pipeline.datamanager.codec.name " + self.codec.name)
        print(f"    --pipeline.datamanager.codec.weights {target} --data ...")
        return 0

    def _finished(self, target: Path, about: Dict[str, Any]) -> bool:
        path = target / ABOUT
        if not path.is_file():
            if target.exists() and not (target / STATE).is_file() and any(target.iterdir()):
                raise InputError(f"{target} holds something else. Choose another --output-dir.")
            return False
        earlier = json.loads(path.read_text())
        self._check_same(target, about, earlier)
        return True

    def _check_same(self, target: Path, about: Dict[str, Any], earlier: Dict[str, Any]) -> None:
        other = [name for name, value in about.items() if earlier.get(name) != json.loads(json.dumps(value))]
        if other:
            raise InputError(
                f"{target} was begun with other settings: {describe(other)}. Choose another --output-dir, or remove it."
            )

    def _resume(self, target: Path, about: Dict[str, Any], tuning: Any) -> None:
        import torch

        if not (target / STATE).is_file():
            return
        try:
            state = torch.load(target / STATE, map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, OSError) as error:
            raise InputError(f"{target / STATE} cannot be read. Remove it to begin anew.") from error
        self._check_same(target, about, state["about"])
        tuning.load_state_dict(state)
        print(f"Going on after step {tuning.done} of {target}.")

    def _save(self, target: Path, about: Dict[str, Any], tuning: Any) -> None:
        import torch

        from nts_plugins.files.whole import result_file

        with result_file(target / STATE) as file:
            torch.save({**tuning.state_dict(), "about": about}, file)

    def _finish(self, target: Path, about: Dict[str, Any], codec: Any) -> None:
        from nts_plugins.files.whole import result_file, writing

        with writing(target):
            codec.save(target)
        with result_file(target / ABOUT) as file:
            file.write((json.dumps(about, indent=2) + "\n").encode())
        (target / STATE).unlink(missing_ok=True)


def _means(terms: List[Dict[str, float]]) -> Dict[str, float]:
    return {name: sum(each[name] for each in terms) / len(terms) for name in terms[0]} if terms else {}


def posed_pictures(config: Path, factor: int, tell: Any) -> List[Any]:
    """Training pictures of a run with their cameras, as they were refined, and the depth that its splats have.

    Raises:
        InputError: where the run cannot be loaded.
    """
    import torch

    from nts_plugins.cli._runs import load_run
    from nts_plugins.data.cameras import view_of
    from nts_plugins.data.latent_data import over_background
    from nts_plugins.latents.correspondence import PosedPicture
    from nts_plugins.surfaces.shots import SOLID, depth_output

    pipeline = load_run(config, with_pictures=True)
    dataset, model = pipeline.datamanager.train_dataset, pipeline.model
    found = []
    for number in range(len(dataset)):
        tell(number, len(dataset))
        camera = dataset.cameras[number : number + 1].to(model.device)
        camera.metadata = {"cam_idx": number}
        camera.camera_to_worlds = model.camera_optimizer.apply_to_camera(camera).detach()
        view = view_of(camera, camera.camera_to_worlds)
        outputs = model.get_outputs_for_camera(camera)
        depth = torch.where(outputs["accumulation"] > SOLID, outputs[depth_output(outputs, None)], 0.0).squeeze(-1)
        image = over_background(dataset.get_data(number)["image"], dataset.metadata["alpha_color"])
        picture = (255.0 * image + 0.5).clamp(0, 255).to(torch.uint8)
        found.append(PosedPicture(picture, depth.cpu(), view.viewmats[0].cpu(), view.Ks[0].cpu()))
    tell(len(dataset), len(dataset))
    return found
