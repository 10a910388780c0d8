# SPDX-License-Identifier: Apache-2.0
"""``nts features`` as a user types it, with small models of the real classes."""

from pathlib import Path
from typing import List

import numpy as np
import pytest
import torch
from PIL import Image

from nts_plugins.cli.main import USER_ERROR, main
from nts_plugins.data.features import FeatureStore
from nts_plugins.encoders.base import NOTHING
from nts_plugins.encoders.clip import OpenClip
from nts_plugins.encoders.sam import Sam
from tests import captures
from tests.encoders import small
from tests.encoders.maps import feature_map

QUICK = ["--sam.points-per-side", "3", "--sam.least-iou", "0", "--sam.least-stability", "0", "--device", "cpu"]


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return captures.write_capture(tmp_path_factory.mktemp("data") / "blobs", views=4)


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> List[str]:
    """What was loaded; small models instead of those whose weights are not here."""
    names: List[str] = []

    def clip(settings, device, *_):
        names.append("clip")
        return small.clip(settings.name)

    def sam(settings, device, *_):
        names.append("sam")
        return Sam(small.sam_model(), settings)

    monkeypatch.setattr(OpenClip, "load", clip)
    monkeypatch.setattr(Sam, "load", sam)
    return names


def features(capture: Path, *extra: str) -> int:
    return main(["features", "--data", str(capture), *QUICK, *extra])


def test_features_of_a_scene(capture: Path, loaded: List[str], tmp_path: Path, capsys) -> None:
    folder = tmp_path / "features"
    assert features(capture, "--output-dir", str(folder)) == 0
    assert "features of 4 pictures made" in capsys.readouterr().out and loaded == ["sam", "clip"]
    encoder = FeatureStore.encoder_of(folder)
    assert encoder is not None and encoder.startswith("ViT-B-16 laion2b_s34b_b88k / sam vit_h 3 ")
    store = FeatureStore(folder, encoder)
    assert sorted(store.pictures().values()) == [f"{view:03d}.png" for view in range(4)]
    some = store.read(next(iter(store.pictures())))
    assert some.size == (36, 48) and len(some.features) and (some.ids != NOTHING).any()
    # Once more: nothing is loaded, and nothing done.
    assert features(capture, "--output-dir", str(folder)) == 0
    assert "4 were there" in capsys.readouterr().out and loaded == ["sam", "clip"]
    # Other settings are other features.
    assert features(capture, "--output-dir", str(folder), "--tallest", "20") == USER_ERROR
    assert "is asked for" in capsys.readouterr().err


def test_a_picture_that_changed_is_extracted_anew(capture: Path, loaded: List[str], tmp_path: Path, capsys) -> None:
    scene = captures.write_capture(tmp_path / "blobs", views=4)
    assert features(scene) == 0
    assert len(list((scene / "features").iterdir())) == 1
    path = scene / "images" / "001.png"
    Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    capsys.readouterr()
    assert features(scene) == 0
    assert "features of 1 pictures made, 3 were there" in capsys.readouterr().out


def test_langsplats_files_go_out_and_come_in(capture: Path, loaded: List[str], tmp_path: Path, capsys) -> None:
    theirs, first, second = (tmp_path / name for name in ("theirs", "first", "second"))
    assert features(capture, "--output-dir", str(first), "--to-langsplat", str(theirs)) == 0
    assert len(list(theirs.glob("*_f.npy"))) == len(list(theirs.glob("*_s.npy"))) == 4
    loaded.clear()
    assert features(capture, "--output-dir", str(second), "--from-langsplat", str(theirs)) == 0
    assert not loaded
    stores = [FeatureStore(folder, FeatureStore.encoder_of(folder) or "") for folder in (first, second)]
    assert stores[1].encoder == "ViT-B-16 laion2b_s34b_b88k / langsplat's files"
    for key in stores[0].pictures():
        one, other = (store.read(key) for store in stores)
        for level in one.levels:
            torch.testing.assert_close(
                *(feature_map(each, level).float() for each in (other, one)), atol=1e-3, rtol=1e-3
            )
    for path in theirs.glob("003*"):
        path.unlink()
    np.save(theirs / "002_s.npy", np.full_like(np.load(theirs / "002_s.npy"), -1))
    capsys.readouterr()
    assert features(capture, "--output-dir", str(tmp_path / "third"), "--from-langsplat", str(theirs)) == 0
    said = capsys.readouterr().out
    assert "There are no files of 003.png" in said and "There is no region in 002.png" in said
    assert features(capture, "--output-dir", str(tmp_path / "fourth"), "--from-langsplat", str(tmp_path / "no")) == 2


@pytest.mark.parametrize(
    "options, message",
    [
        (["--dataparser", "nobody-data"], "is none of nerfstudio's"),
        (["--dataparser", "nerfstudio-data --no-such-option 3"], "is none of nerfstudio's"),
        (["--clip.weights", "gone.pt", "--sam.weights", "gone.pth"], "gone.pth"),
        (["--sam.model", "vit_x"], "has no model"),
        (["--sam.points-per-side", "0"], "sam.points-per-side is 0; it must be 1 or more."),
        (["--sam.least-stability", "85"], "sam.least-stability is 85; it must lie between 0 and 1."),
        (["--clip.batch", "0"], "clip.batch is 0; it must be 1 or more."),
        (["--clip.model", "ViT-Z"], "nts: open_clip knows no model 'ViT-Z'. It knows"),
        (["--tallest", "0"], "nts: --tallest is 0; it must be 1 or more."),
        (["--scale", "0"], "nts: --scale is 0; it must be more than 0 and at most 1"),
        (["--scale", "nan"], "nts: --scale is nan;"),
        (["--device", "foo"], "nts: --device 'foo' is no device of this machine. It has"),
        (["--device", "meta"], "nts: --device 'meta' is no device of this machine. It has"),
        (["--device", "cuda:97"], "nts: --device 'cuda:97' is no device of this machine. It has"),
    ],
)
def test_what_the_user_has_to_change(capture: Path, tmp_path: Path, capsys, options: List[str], message: str) -> None:
    folder = tmp_path / "features"
    try:
        code = features(capture, "--output-dir", str(folder), *options)
    except SystemExit as error:  # tyro's own messages end the program
        code = int(error.code or 0)
    read, said = capsys.readouterr()
    assert not (message.startswith("nts: --") and read), "the scene is read first"
    assert code == USER_ERROR and message in " ".join(said.replace("│", " ").split())
    assert "Traceback" not in said and said.count("nts: ") <= 1
    assert not folder.exists()


def test_a_scene_that_is_not_there(tmp_path: Path, capsys) -> None:
    assert features(tmp_path / "nowhere") == USER_ERROR
    assert "nowhere" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
