# SPDX-License-Identifier: Apache-2.0
"""Features of pictures on disk."""

from pathlib import Path

import numpy as np
import pytest
import torch

from nts_plugins.data.features import FeatureStore, default_folder, key_of, slug
from nts_plugins.encoders.base import NOTHING, Regions
from nts_plugins.errors import InputError


def some_regions(count: int = 5, size: "tuple[int, int]" = (6, 8), width: int = 4) -> Regions:
    generator = torch.Generator().manual_seed(count)
    ids = torch.randint(NOTHING, count, (3, *size), generator=generator, dtype=torch.int32)
    features = torch.nn.functional.normalize(torch.randn(count, width, generator=generator), dim=1)
    return Regions(ids, features)


@pytest.mark.parametrize("count", [0, 5, 40_000])
def test_what_is_written_is_read(tmp_path: Path, count: int) -> None:
    regions, store = some_regions(count), FeatureStore(tmp_path / "store", "someone")
    assert "a" not in store
    store.write("a", regions, "a.png")
    assert "a" in store and store.pictures() == {"a": "a.png"}
    found = FeatureStore(tmp_path / "store", "someone").read("a")
    assert torch.equal(found.ids, regions.ids) and found.levels == regions.levels
    assert found.features.dtype == torch.float16
    torch.testing.assert_close(found.features.float(), regions.features, atol=5e-4, rtol=1e-3)


def test_pictures_may_have_different_sizes(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path / "store", "someone")
    for key, size in (("a", (4, 5)), ("b", (9, 3))):
        store.write(key, some_regions(size=size), key)
        assert store.read(key).size == size


def test_the_key_is_of_what_a_picture_shows() -> None:
    picture = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    changed = picture.copy()
    changed[1, 3, 2] += 1
    assert key_of(picture) == key_of(picture.copy()) == key_of(np.asfortranarray(picture))
    assert len({key_of(picture), key_of(changed), key_of(picture.reshape(4, 2, 3))}) == 3


def test_features_of_another_encoder_are_an_error(tmp_path: Path) -> None:
    FeatureStore(tmp_path / "store", "someone").write("a", some_regions(), "a.png")
    with pytest.raises(InputError, match="features of 'someone', and 'somebody else'"):
        FeatureStore(tmp_path / "store", "somebody else")
    assert FeatureStore.encoder_of(tmp_path / "store") == "someone"
    assert FeatureStore.encoder_of(tmp_path / "nowhere") is None


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(InputError, match="holds no features"):
        FeatureStore(tmp_path, "someone")
    with pytest.raises(InputError, match="holds no features"):
        FeatureStore(tmp_path / "mine", "someone")


@pytest.mark.parametrize("content", ["", "[]", '{"encoder": "someone"}', '{"encoder": "someone", "format": 99}'])
def test_an_index_that_cannot_be_read_is_an_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "store.json").write_text(content)
    with pytest.raises(InputError, match="damaged|format 99"):
        FeatureStore(tmp_path, "someone")


def test_missing_and_changed_pictures_are_named(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path / "store", "someone")
    store.write("a", some_regions(), "a.png")
    store.write("old", some_regions(), "b.png")
    store.check([("a", "a.png"), ("old", "b.png")])
    with pytest.raises(InputError) as caught:
        store.check([("a", "a.png"), ("new", "b.png"), ("c", "c.png")])
    assert "2 of 3 pictures have no features" in str(caught.value) and "b.png, c.png" in str(caught.value)
    assert "b.png had features and were changed" in str(caught.value) and "nts features" in str(caught.value)


def test_damaged_files_are_an_error(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path / "store", "someone")
    store.write("a", some_regions(), "a.png")
    content = store.path("a").read_bytes()
    for damaged in (b"", content[:20], content[:-7]):
        store.path("a").write_bytes(damaged)
        with pytest.raises(InputError, match="damaged"):
            store.read("a")
    with pytest.raises(InputError, match="no features"):
        store.read("b")


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("mine")
    store = FeatureStore(tmp_path / "taken" / "store", "someone")
    with pytest.raises(InputError, match="Cannot write"):
        store.write("a", some_regions(), "a.png")
    assert (tmp_path / "taken").read_text() == "mine"


def test_two_workers_do_not_extract_the_same_picture(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path / "store", "someone")
    with store.claim("a") as mine, store.claim("a") as theirs, store.claim("b") as other:
        assert mine and not theirs and other


def test_each_encoder_has_a_folder_of_its_own_beside_the_scene(tmp_path: Path) -> None:
    names = ("ViT-B-16 laion2b_s34b_b88k / sam vit_h 32", "ViT-B-16 laion2b_s34b_b88k / sam vit_h 16")
    assert slug(names[0]) != slug(names[1]) and slug(names[0]).startswith("ViT-B-16-laion2b-s34b-b88k-")
    scene = tmp_path / "transforms.json"
    scene.write_text("{}")
    assert default_folder(scene, names[0]) == default_folder(tmp_path, names[0])
    FeatureStore(default_folder(tmp_path, names[0]), names[0]).write("a", some_regions(), "a.png")
    assert list((tmp_path / "features").iterdir()) == [default_folder(tmp_path, names[0])]
