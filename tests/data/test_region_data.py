# SPDX-License-Identifier: Apache-2.0
"""The datamanager of pictures with regions: which features it finds, what it extracts, and what it refuses."""

import shutil
from pathlib import Path
from typing import Any, List, Tuple

import numpy as np
import pytest
import torch
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from PIL import Image
from torch import Tensor

from nts_plugins.data import region_data
from nts_plugins.data.features import FeatureStore, default_folder, key_of
from nts_plugins.data.region_data import RegionDatamanager, RegionDatamanagerConfig, RegionFile, SceneRegions
from nts_plugins.encoders.base import LEVELS, NOTHING, Regions
from nts_plugins.encoders.settings import OpenClipSettings, SamSettings
from nts_plugins.errors import InputError
from tests.captures import ENCODER, write_capture, write_regions

TRAINED = ["000.png", "001.png", "002.png"]
"""Of four pictures the last one is held out."""


def manager(folder: Path, mode: str = "val", **settings: Any) -> RegionDatamanager:
    parser = NerfstudioDataParserConfig(load_3D_points=True)
    config = RegionDatamanagerConfig(data=folder, dataparser=parser, **settings)
    return config.setup(device="cpu", test_mode=mode)


class Brightness:
    """One region on the first level, bright pixels, whose feature is the first of three axes."""

    name, width = "brightness", 3

    def __init__(self) -> None:
        self.seen: List[Tensor] = []

    def encode(self, picture: Tensor) -> Regions:
        self.seen.append(picture)
        ids = torch.full((3, *picture.shape[:2]), NOTHING, dtype=torch.int32)
        ids[0][picture.amax(dim=-1) > 0.2] = 0
        return Regions(ids, torch.eye(3)[:1])


@pytest.fixture
def encoder(monkeypatch: pytest.MonkeyPatch) -> Brightness:
    """In the place of the models that the settings describe."""
    made = Brightness()
    monkeypatch.setattr(RegionDatamanager, "_encoder", lambda self: made)
    return made


@pytest.fixture
def no_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    def unwanted(self: RegionDatamanager) -> Any:
        raise AssertionError("There is nothing to extract.")

    monkeypatch.setattr(RegionDatamanager, "_encoder", unwanted)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_capture(tmp_path_factory.mktemp("data") / "capture", views=4)


@pytest.fixture
def capture(written: Path, tmp_path: Path) -> Path:
    """One of its own for each test, without features."""
    return Path(shutil.copytree(written, tmp_path / "capture"))


def picture_of(capture: Path, name: str) -> np.ndarray:
    return np.asarray(Image.open(capture / "images" / name))


def own_folder(capture: Path) -> Path:
    """Where features of the settings' encoder belong."""
    config = RegionDatamanagerConfig()
    return default_folder(capture, f"{config.clip.name} / {config.sam.name} / {config.tallest}")


# ---- features that are there


def test_features_beside_the_scene_are_found(capture: Path, no_encoder: None) -> None:
    folder = write_regions(capture)
    data = manager(capture)
    regions = data.train_dataset.metadata["regions"]
    assert isinstance(regions, SceneRegions)
    assert (regions.encoder, regions.levels, regions.width) == (ENCODER, LEVELS, 8)
    assert [file.store.folder for file in regions.files] == [folder] * 3
    assert [file.key for file in regions.files] == [key_of(picture_of(capture, name)) for name in TRAINED]
    features = list(regions.features())
    assert len(features) == 3 and all(torch.equal(each.float(), torch.eye(8)[:7]) for each in features)


def test_a_batch_has_the_regions_of_its_picture(capture: Path, no_encoder: None) -> None:
    write_regions(capture)
    data = manager(capture)
    for step in range(3):
        _, batch = data.next_train(step)
        assert isinstance(batch["regions"], RegionFile)
        read, picture = batch["regions"].read(), batch["image"]
        lit = picture.amax(dim=-1) > 40
        assert torch.equal(read.ids[0].long(), torch.where(lit, picture.long().argmax(dim=-1), NOTHING))
        assert torch.equal(read.ids[2].long(), torch.where(lit, 6, NOTHING))


def test_held_out_pictures_need_no_features(capture: Path, no_encoder: None) -> None:
    folder = write_regions(capture)
    FeatureStore(folder, ENCODER).path(key_of(picture_of(capture, "003.png"))).unlink()
    data = manager(capture)
    assert [batch.get("regions") for _, batch in data.fixed_indices_eval_dataloader] == [None]


@pytest.mark.parametrize("mode", ["test", "inference"])
def test_only_training_needs_features(capture: Path, no_encoder: None, mode: str) -> None:
    data = manager(capture, mode)
    assert "regions" not in data.train_dataset.metadata and not (capture / "features").exists()
    write_regions(capture)
    (capture / "features" / "colours" / "store.json").write_text("damaged")
    assert "regions" not in manager(capture, mode).train_dataset.metadata


def test_fewer_training_views_need_fewer_features(capture: Path, no_encoder: None) -> None:
    folder = write_regions(capture)
    FeatureStore(folder, ENCODER).path(key_of(picture_of(capture, "001.png"))).unlink()
    regions = manager(capture, train_views=2).train_dataset.metadata["regions"]
    assert [file.key for file in regions.files] == [
        key_of(picture_of(capture, name)) for name in ("000.png", "002.png")
    ]


def both(capture: Path) -> Tuple[Path, Path]:
    """Two encoders' features."""
    first = write_regions(capture)
    second = capture / "features" / "brightness"
    for name in TRAINED:
        picture = picture_of(capture, name)
        regions = Brightness().encode(torch.from_numpy(picture / 255))
        FeatureStore(second, "brightness").write(key_of(picture), regions, name)
    return first, second


def test_of_two_encoders_features_one_must_be_named(capture: Path, no_encoder: None) -> None:
    first, second = both(capture)
    with pytest.raises(InputError, match="several encoders. Say which with --pipeline.datamanager.features") as caught:
        manager(capture)
    assert str(first) in str(caught.value) and str(second) in str(caught.value)
    for folder, encoder, width in ((first, ENCODER, 8), (second, "brightness", 3)):
        regions = manager(capture, features=folder).train_dataset.metadata["regions"]
        assert (regions.encoder, regions.width) == (encoder, width)


TINY = OpenClipSettings(model="ViT-B-32", pretrained="openai")


def test_settings_that_describe_a_model_choose_its_features(capture: Path, encoder: Brightness, capsys: Any) -> None:
    """Of two folders, where one is; and where none is, features are made beside the others."""
    write_regions(capture)
    own = FeatureStore(capture / "features" / "tiny", f"{TINY.name} / drawn elsewhere")
    for name in TRAINED:
        picture = picture_of(capture, name)
        own.write(key_of(picture), encoder.encode(torch.from_numpy(picture / 255)), name)
    encoder.seen.clear()
    regions = manager(capture, clip=TINY).train_dataset.metadata["regions"]
    assert regions.encoder == own.encoder and not encoder.seen
    assert own.encoder in " ".join(capsys.readouterr().out.split())
    shutil.rmtree(own.folder)
    regions = manager(capture, clip=TINY).train_dataset.metadata["regions"]
    assert regions.encoder.startswith(f"{TINY.name} / sam vit_h") and len(encoder.seen) == 3
    regions = manager(capture, sam=SamSettings(points_per_side=8)).train_dataset.metadata["regions"]
    assert " / sam vit_h 8 " in regions.encoder and len(encoder.seen) == 6


@pytest.mark.parametrize("settings", [{"clip": TINY}, {"sam": SamSettings(points_per_side=8)}, {"tallest": 20}])
def test_a_named_folder_must_fit_the_settings(capture: Path, no_encoder: None, settings: Any) -> None:
    folder = write_regions(capture)
    with pytest.raises(InputError, match=f"holds features of '{ENCODER}', and the settings describe '"):
        manager(capture, features=folder, **settings)


def test_features_may_lie_elsewhere(capture: Path, no_encoder: None, tmp_path: Path) -> None:
    folder = shutil.move(write_regions(capture), tmp_path / "elsewhere")
    regions = manager(capture, features=Path(folder)).train_dataset.metadata["regions"]
    assert regions.encoder == ENCODER and regions.files[0].store.folder == Path(folder)


# ---- what is missing


def test_missing_features_are_extracted_on_the_way(
    capture: Path, encoder: Brightness, monkeypatch: pytest.MonkeyPatch
) -> None:
    regions = manager(capture).train_dataset.metadata["regions"]
    assert len(encoder.seen) == 3 and regions.width == 3 and regions.levels == LEVELS
    store = FeatureStore(own_folder(capture), regions.encoder)
    assert sorted(store.pictures().values()) == TRAINED
    assert regions.files == tuple(RegionFile(store, key_of(picture_of(capture, name))) for name in TRAINED)
    torch.testing.assert_close(encoder.seen[0], torch.from_numpy(picture_of(capture, TRAINED[0]) / 255).float())
    # Once more: all are there.
    again = manager(capture).train_dataset.metadata["regions"]
    assert again == regions and len(encoder.seen) == 3


def test_only_what_is_missing_is_extracted(capture: Path, encoder: Brightness) -> None:
    regions = manager(capture).train_dataset.metadata["regions"]
    path = regions.files[1].store.path(regions.files[1].key)
    kept = regions.files[0].store.path(regions.files[0].key).stat().st_mtime_ns
    path.unlink()
    encoder.seen.clear()
    manager(capture)
    assert len(encoder.seen) == 1 and path.is_file()
    assert regions.files[0].store.path(regions.files[0].key).stat().st_mtime_ns == kept


def test_nothing_is_found_in_some_pictures(capture: Path, encoder: Brightness) -> None:
    black = np.zeros((36, 48, 3), np.uint8)
    Image.fromarray(black).save(capture / "images" / "000.png")
    encoder.encode = (
        lambda picture: Regions(  # type: ignore[method-assign]
            torch.where(picture.amax(dim=-1) > 0.2, 0, NOTHING).int().expand(3, -1, -1),
            torch.eye(3)[: int(bool((picture > 0.2).any()))],
        )
    )
    regions = manager(capture).train_dataset.metadata["regions"]
    assert [len(each) for each in regions.features()] == [0, 1, 1] and regions.width == 3


def test_pictures_without_regions_are_named(capture: Path, no_encoder: None, capsys: Any) -> None:
    folder = write_regions(capture)
    store = FeatureStore(folder, ENCODER)
    nothing = Regions(torch.full((3, 36, 48), NOTHING, dtype=torch.int32), torch.zeros(0, 8))
    store.write(key_of(picture_of(capture, "001.png")), nothing, "001.png")
    manager(capture)
    assert "No region was found in 001.png" in " ".join(capsys.readouterr().out.split())
    for name in TRAINED:
        store.write(key_of(picture_of(capture, name)), nothing, name)
    with pytest.raises(InputError, match="None of the 3 training pictures has a region in .*: there is nothing to"):
        manager(capture)


def test_what_another_worker_is_at_is_waited_for(
    capture: Path, encoder: Brightness, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    config = RegionDatamanagerConfig()
    name = f"{config.clip.name} / {config.sam.name} / {config.tallest}"
    store, picture = FeatureStore(own_folder(capture), name), picture_of(capture, "001.png")
    regions = Brightness().encode(torch.from_numpy(picture / 255))
    waits: List[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:
            store.write(key_of(picture), regions, "001.png")

    monkeypatch.setattr(region_data.time, "sleep", wait)
    with store.claim(key_of(picture)) as mine:
        assert mine
        manager(capture)
    assert waits == [region_data.AGAIN] * 2 and len(encoder.seen) == 2
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("Another worker is at 001.png: waiting for it.") == 1
    assert "3 of 3 pictures have no features" in said


def test_what_was_brought_from_elsewhere_is_brought_again(capture: Path, no_encoder: None) -> None:
    folder = write_regions(capture)
    index = folder / "store.json"
    index.write_text(index.read_text().replace(ENCODER, "some model / langsplat's files"))
    FeatureStore(folder, "some model / langsplat's files").path(key_of(picture_of(capture, "001.png"))).unlink()
    with pytest.raises(InputError, match=f"nts features --from-langsplat DIR --output-dir {folder} brings what is"):
        manager(capture)


def test_features_of_another_encoder_are_not_mixed(capture: Path, no_encoder: None) -> None:
    folder = write_regions(capture)
    FeatureStore(folder, ENCODER).path(key_of(picture_of(capture, "001.png"))).unlink()
    before = sorted(folder.iterdir())
    with pytest.raises(InputError, match=f"1 of 3 pictures have no features of '{ENCODER}'.*: 001.png"):
        manager(capture)
    assert sorted(folder.iterdir()) == before and list((capture / "features").iterdir()) == [folder]


def test_a_folder_that_was_named_is_not_added_to(capture: Path, encoder: Brightness) -> None:
    manager(capture)
    folder = own_folder(capture)
    next(folder.glob("*.safetensors")).unlink()
    encoder.seen.clear()
    with pytest.raises(InputError, match="1 of 3 pictures have no features"):
        manager(capture, features=folder)
    assert not encoder.seen


def test_pictures_at_another_size_have_other_features(capture: Path, no_encoder: None) -> None:
    write_regions(capture)
    with pytest.raises(
        InputError, match="3 of 3 pictures .*had features and were changed, or are read at another size"
    ):
        manager(capture, camera_res_scale_factor=0.5)


@pytest.mark.parametrize("there", [True, False])
def test_a_folder_without_features_is_refused(capture: Path, no_encoder: None, tmp_path: Path, there: bool) -> None:
    folder = tmp_path / "none"
    if there:
        folder.mkdir()
    with pytest.raises(InputError, match=f"There are no features in {folder}. nts features extracts them"):
        manager(capture, features=folder)


def test_without_weights_nothing_is_left_behind(capture: Path) -> None:
    with pytest.raises(InputError, match="gone.pth, which is said to hold the weights"):
        manager(capture, sam=SamSettings(weights=Path("gone.pth")))
    assert not (capture / "features").exists()


def test_who_is_interrupted_keeps_what_is_done(capture: Path, encoder: Brightness) -> None:
    encode = encoder.encode

    def interrupted(picture: Tensor) -> Regions:
        if len(encoder.seen) == 2:
            raise KeyboardInterrupt
        return encode(picture)

    encoder.encode = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        manager(capture)
    files = sorted(path.name for path in own_folder(capture).iterdir())
    assert sum(name.endswith(".safetensors") for name in files) == 2 and not any("partial" in name for name in files)
    encoder.encode = encode  # type: ignore[method-assign]
    manager(capture)
    assert len(encoder.seen) == 3


@pytest.mark.parametrize("which", [0, 2])
def test_a_damaged_file_ends_the_run_before_it_begins(capture: Path, no_encoder: None, which: int) -> None:
    folder = write_regions(capture)
    path = FeatureStore(folder, ENCODER).path(key_of(picture_of(capture, TRAINED[which])))
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(InputError, match="is damaged"):
        manager(capture)
