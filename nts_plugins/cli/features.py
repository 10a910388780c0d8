# SPDX-License-Identifier: Apache-2.0
"""``nts features``: what text queries need from the pictures of a scene."""

import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, List, Optional, Tuple

from nts_plugins.encoders.settings import OpenClipSettings, SamSettings, at_least, name_of_regions
from nts_plugins.errors import InputError, describe


@dataclass
class Features:
    """Extract what text queries need from every picture of a scene: regions of three sizes (Segment Anything), and what
    each of them shows (open_clip).

    A picture that has its features already is not looked at again, so that the same command goes on after a kill. Start
    it several times, on one machine or on more that share a disk, to have several work at once.
    """

    data: Path
    """The scene, as for ns-train."""
    dataparser: str = "nerfstudio-data"
    """How to read it: what ns-train would have at its end, as one string ("blender-data --alpha-color black")."""
    scale: float = 1.0
    """Size of the pictures relative to the files; as --pipeline.datamanager.camera-res-scale-factor in training."""
    output_dir: Optional[Path] = None
    """Folder of the features; by default one of its own below the scene's, named by the models and their settings."""
    clip: OpenClipSettings = field(default_factory=OpenClipSettings)
    """What the regions are shown to."""
    sam: SamSettings = field(default_factory=SamSettings)
    """What draws the regions."""
    tallest: int = 1080
    """Pictures of more rows are made smaller first."""
    device: Optional[str] = None
    """cuda, cpu, ...; by default the GPU where there is one."""
    from_langsplat: Optional[Path] = None
    """Take the features out of this folder of LangSplat's files (NAME_f.npy, NAME_s.npy) instead of extracting them;
    --clip then says which model made them."""
    to_langsplat: Optional[Path] = None
    """Also write them there as LangSplat's files."""

    def run(self) -> int:
        """Extract, and say what was done. Raises InputError for what the user has to change."""
        from nts_plugins.data.extraction import ScenePictures, extract
        from nts_plugins.data.features import IMPORTED, FeatureStore, default_folder
        from nts_plugins.progress import progress

        at_least("--tallest", self.tallest, 1)
        if not 0.0 < self.scale <= 1.0:
            raise InputError(
                f"--scale is {self.scale:g}; it must be more than 0 and at most 1, which is the file's size."
            )
        device = _device(self.device)
        encoder = name_of_regions(self.clip.name, self.sam.name, self.tallest)
        if self.from_langsplat is not None:
            encoder = self.clip.name + IMPORTED
        folder = self.output_dir or default_folder(self.data, encoder)
        store = FeatureStore(folder, encoder)
        pictures = ScenePictures(self._dataparser(), self.scale)

        def encoder_of_regions() -> Any:
            from nts_plugins.encoders.regions import masked_regions

            return masked_regions(self.sam, self.clip, self.tallest, device)

        with progress("Pictures") as (tell, _):
            if self.from_langsplat is not None:
                without, empty = _imported(self.from_langsplat, pictures, store, tell)
                said = [f"{folder}: features of {len(pictures) - len(without)} pictures, from {self.from_langsplat}."]
                said += [f"There are no files of {describe(without)}."] if without else []
                said += [f"There is no region in {describe(empty)}."] if empty else []
            else:
                outcome = extract(pictures, store, encoder_of_regions, tell)
                said = [f"{folder}: features of {len(outcome.made)} pictures made, {len(outcome.there)} were there."]
                said += [f"Another worker is at {describe(outcome.elsewhere)}."] if outcome.elsewhere else []
                said += [f"No region was found in {describe(outcome.empty)}."] if outcome.empty else []
            if self.to_langsplat is not None:
                _exported(self.to_langsplat, pictures, store, tell)
        print("\n".join(said))
        return 0

    def _dataparser(self) -> Any:
        import tyro
        from nerfstudio.configs.dataparser_configs import AnnotatedDataParserUnion

        try:
            config = tyro.cli(AnnotatedDataParserUnion, args=shlex.split(self.dataparser))  # type: ignore[arg-type]
        except (SystemExit, ValueError) as error:
            raise InputError(
                f"--dataparser {self.dataparser!r} is none of nerfstudio's, or has other options."
            ) from error
        config.data = self.data
        return config


def _device(name: Optional[str]) -> Any:
    """The torch device of a name, where something can be computed; None names the GPU where there is one."""
    import torch

    usable = [f"cuda:{number}" for number in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    usable += ["mps"] if torch.backends.mps.is_available() else []
    usable += ["cpu"]
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        raise InputError(f"--device {name!r} is no device of this machine. It has {', '.join(usable)}.") from error
    return device


def _imported(folder: Path, pictures: Any, store: Any, tell: Any) -> Tuple[List[str], List[str]]:
    """LangSplat's files of a scene's pictures into the store; names of pictures that have none, and of those whose
    files have no region."""
    from dataclasses import replace

    import torch

    from nts_plugins.data import langsplat_files
    from nts_plugins.data.features import key_of

    if not folder.is_dir():
        raise InputError(f"There is no folder {folder}.")
    without, empty = [], []
    for number, (name, read) in enumerate(pictures):
        tell(number, len(pictures))
        regions = langsplat_files.read(folder, Path(name).stem)
        if regions is None:
            without.append(name)
            continue
        ids = [torch.from_numpy(pictures.align(number, level.numpy())) for level in regions.ids]
        empty += [] if len(regions.features) else [name]
        store.write(key_of(read()), replace(regions, ids=torch.stack(ids)), name)
    tell(len(pictures), len(pictures))
    if len(without) == len(pictures):
        raise InputError(f"{folder} has no files of any picture, such as {Path(without[0]).stem}_f.npy.")
    return without, empty


def _exported(folder: Path, pictures: Any, store: Any, tell: Any) -> None:
    from nts_plugins.data import langsplat_files
    from nts_plugins.data.features import key_of

    keys = [(key_of(read()), name) for name, read in pictures]
    store.check(keys)
    for number, (key, name) in enumerate(keys):
        tell(number, len(keys))
        langsplat_files.write(folder, Path(name).stem, store.read(key))
    tell(len(keys), len(keys))
