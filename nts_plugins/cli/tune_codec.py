# SPDX-License-Identifier: Apache-2.0
"""``nts tune-codec``: a latent codec that says the same of one place from different sides."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, List, Tuple

from nts_plugins.encoders.settings import CodecSettings
from nts_plugins.latents.settings import TuningSettings


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

        from nts_plugins.cli._codec_training import is_finished, train, where_to_use
        from nts_plugins.encoders.codecs import load_codec
        from nts_plugins.latents.tuning import CodecTuning, Pairs
        from nts_plugins.progress import progress

        target = self.output_dir.expanduser().absolute()
        codec = load_codec(self.codec, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        runs = [str(path.absolute()) for path in self.runs]
        about = {"codec": self.codec.name, "weights": codec.fingerprint(), "runs": runs, **asdict(self.tuning)}
        if is_finished(target, about, self.save_every):
            print(f"{target} is finished.")
            return 0
        with progress("Pictures and their depth") as (tell, _):
            scenes = [posed_pictures(path, tell) for path in self.runs]
        tuning = CodecTuning(codec, Pairs(scenes, codec.factor, self.tuning), self.tuning)
        train(target, about, tuning, self.save_every)
        print(where_to_use(target, self.codec.name))
        return 0


def posed_pictures(config: Path, tell: Any) -> List[Any]:
    """Training pictures of a run with their cameras, as they were refined, and the depth that its splats have.

    Raises:
        InputError: where the run cannot be loaded.
    """
    import torch

    from nts_plugins.cli._codec_training import photograph
    from nts_plugins.cli._runs import load_run
    from nts_plugins.data.cameras import view_of
    from nts_plugins.latents.correspondence import PosedPicture
    from nts_plugins.surfaces.shots import solid_depth

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
        depth = solid_depth(outputs)
        if "mask" in (data := dataset.get_data(number)):
            depth = torch.where(data["mask"].to(depth.device).squeeze(-1).bool(), depth, 0.0)
        found.append(
            PosedPicture(
                depth.cpu(),
                view.viewmats[0].cpu(),
                view.Ks[0].cpu(),
                photograph(dataset, number, dataset.metadata["alpha_color"]),
            )
        )
    tell(len(dataset), len(dataset))
    return found
