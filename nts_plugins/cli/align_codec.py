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
        if is_finished(target, about):
            print(f"{target} is finished.")
            return 0
        pictures: List[Any] = []
        codecs: List[Any] = []
        with progress("Splatted latents") as (tell, _):
            for path in self.runs:
                codecs.append(self._read(path, pictures, tell))
        names = {codec.name for codec in codecs}
        if len(names) > 1:
            raise InputError(f"The runs have several codecs: {', '.join(sorted(names))}. Align one after the other.")
        train(target, about, DecoderAlignment(codecs[0], pictures, self.alignment), self.save_every)
        print(where_to_use(target, codecs[0].name))
        return 0

    def _read(self, path: Path, pictures: List[Any], tell: Any) -> Any:
        """Add what a run draws to the pictures; its codec."""
        from nts_plugins.cli._runs import load_run
        from nts_plugins.models.latent import LatentModel

        pipeline = load_run(path, with_pictures=True)
        model, data = pipeline.model, pipeline.datamanager
        if not isinstance(model, LatentModel):
            raise InputError(f"{path} is no run of latent-radiance-field.")
        trained = model.pictures_at(0)
        sets = [(data.train_dataset, trained or range(len(data.train_dataset)))]
        sets += [(data.eval_dataset, ())] if self.held_out else []
        total = sum(len(dataset) for dataset, _ in sets)
        for dataset, seen in sets:
            for number in range(len(dataset)):
                tell(len(pictures) % max(total, 1), total)
                pictures.append(_drawn(model, dataset, number, number not in seen))
        return model.codec


def _drawn(model: Any, dataset: Any, number: int, novel: bool) -> Any:
    from nts_plugins.cli._codec_training import photograph
    from nts_plugins.latents.alignment import LatentPicture

    camera = dataset.cameras[number : number + 1].to(model.device)
    latents = model.space.latents(model.drawn_numbers(camera)).permute(2, 0, 1)
    return LatentPicture(latents.cpu(), photograph(dataset, number), novel)
