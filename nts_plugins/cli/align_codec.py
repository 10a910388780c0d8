# SPDX-License-Identifier: Apache-2.0
"""``nts align-codec``: a decoder that makes pictures of latents as splats draw them, whatever the scene."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, List, Tuple

from nts_plugins.errors import InputError
from nts_plugins.latents.settings import AlignmentSettings


@dataclass
class AlignCodec:
    """Fine-tune the decoder of a latent codec on what splats of latents draw in many scenes: stage III of Latent
    Radiance Fields.

    Its weights then go to latent-radiance-field with --pipeline.datamanager.codec.weights, for other scenes: those that
    it was aligned on would be measured on pictures that it has seen. The same command goes on after a kill.
    """

    runs: Tuple[Path, ...]
    """config.yml of a run of latent-radiance-field for each scene, all with the same codec."""
    output_dir: Path
    """Folder of the codec's new weights."""
    alignment: AlignmentSettings = field(default_factory=AlignmentSettings)
    """How."""
    held_out: bool = True
    """Pictures that are held out for evaluation count as new views, as in the paper, besides those that splats were
    trained without (--pipeline.model.novel-every)."""
    save_every: int = 100
    """Steps between two states on the disk."""

    def run(self) -> int:
        """Align, and say what came of it. Raises InputError for what the user has to change."""
        from nts_plugins.cli._codec_training import is_finished, train, where_to_use
        from nts_plugins.latents.alignment import DecoderAlignment
        from nts_plugins.progress import progress

        target = self.output_dir.expanduser().absolute()
        runs = [str(path.absolute()) for path in self.runs]
        about = {"runs": runs, "held_out": self.held_out, **asdict(self.alignment)}
        if is_finished(target, about, self.save_every):
            print(f"{target} is finished.")
            return 0
        pictures: List[Any] = []
        codec, name = None, ""
        with progress("Splatted latents") as (tell, _):
            for path in self.runs:
                own, name = self._read(path, pictures, tell)
                if codec is not None and own.fingerprint() != codec.fingerprint():
                    raise InputError(f"{path} has another codec, or other weights of it, than the runs before.")
                codec = codec or own
        train(target, about, DecoderAlignment(codec, pictures, self.alignment), self.save_every)  # type: ignore[arg-type]
        print(where_to_use(target, name))
        if self.held_out:
            print("Held-out pictures of these scenes were learned from: measure on others.")
        return 0

    def _read(self, path: Path, pictures: List[Any], tell: Any) -> Tuple[Any, str]:
        """Add what a run draws to the pictures; its codec, and what that is called in settings."""
        from nts_plugins.cli._runs import load_run
        from nts_plugins.models.latent import LatentModel

        pipeline = load_run(path, with_pictures=True)
        model, data = pipeline.model, pipeline.datamanager
        if not isinstance(model, LatentModel):
            raise InputError(f"{path} is no run of latent-radiance-field.")
        color, kept = data.train_dataset.metadata["alpha_color"], model.pictures_at(0)
        own = [
            (data.train_dataset, number, kept is not None and number not in kept)
            for number in range(len(data.train_dataset))
        ]
        others = [(data.eval_dataset, number, True) for number in range(len(data.eval_dataset) if self.held_out else 0)]
        for done, (dataset, number, novel) in enumerate([*own, *others]):
            tell(done, len(own) + len(others))
            pictures.append(_drawn(model, dataset, number, novel, color, refined=dataset is data.train_dataset))
        return model.codec, data.config.codec.name


def _drawn(model: Any, dataset: Any, number: int, novel: bool, color: Any, refined: bool) -> Any:
    from nts_plugins.cli._codec_training import photograph
    from nts_plugins.latents.alignment import LatentPicture

    camera = dataset.cameras[number : number + 1].to(model.device)
    camera.metadata = {"cam_idx": number} if refined else {}
    latents = model.space.latents(model.drawn_numbers(camera)).permute(2, 0, 1)
    return LatentPicture(latents.cpu(), photograph(dataset, number, color), novel, dataset.mask(number))
