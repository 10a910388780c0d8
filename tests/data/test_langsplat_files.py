# SPDX-License-Identifier: Apache-2.0
"""LangSplat's files of features."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from nts_plugins.data import langsplat_files
from nts_plugins.data.langsplat_files import paths, read, write
from nts_plugins.encoders.base import LEVELS, NOTHING, Regions
from nts_plugins.errors import InputError
from tests.encoders.maps import feature_map


def save(folder: Path, features: np.ndarray, ids: np.ndarray, name: str = "a") -> None:
    for path, array in zip(paths(folder, name), (features, ids), strict=True):
        np.save(path, array)


def test_levels_and_offsets_are_read_by_hand(tmp_path: Path) -> None:
    """Seven masks: two of "default", two subparts, one part, two wholes; ids count through all of them."""
    features = np.eye(7, 8, dtype=np.float32)
    ids = np.array([[[0, 1]], [[2, 3]], [[-1, 4]], [[6, 5]]], np.float32)
    save(tmp_path, features, ids)
    regions = read(tmp_path, "a")
    assert regions is not None and regions.levels == LEVELS and regions.features.shape == (5, 8)
    assert regions.ids.dtype == torch.int32
    for level, wanted in zip(LEVELS, ([2, 3], [None, 4], [6, 5]), strict=True):
        for pixel, row in zip(feature_map(regions, level)[0], wanted, strict=True):
            torch.testing.assert_close(pixel, torch.zeros(8) if row is None else torch.eye(7, 8)[row])


def test_what_is_written_is_read(tmp_path: Path) -> None:
    ids = torch.randint(NOTHING, 6, (3, 5, 7), dtype=torch.int32)
    ids[0, 0, :6] = torch.arange(6)
    regions = Regions(ids, torch.nn.functional.normalize(torch.randn(6, 4), dim=1))
    write(tmp_path / "new", "a", regions)
    found = read(tmp_path / "new", "a")
    assert found is not None
    assert torch.equal(found.ids, ids)
    torch.testing.assert_close(found.features, regions.features)
    default = np.load(paths(tmp_path / "new", "a")[1])[0]
    assert default.dtype == np.float32 and np.array_equal(default, ids[2].numpy())


def test_pictures_without_any_region(tmp_path: Path) -> None:
    save(tmp_path, np.zeros((0, 4), np.float32), np.full((4, 2, 2), -1, np.float32))
    regions = read(tmp_path, "a")
    assert regions is not None and (regions.ids == NOTHING).all() and regions.features.shape == (0, 4)


def test_what_is_not_langsplats_is_an_error(tmp_path: Path) -> None:
    assert read(tmp_path, "a") is None
    good = np.eye(3, 4, dtype=np.float32), np.zeros((4, 2, 2), np.float32)
    for features, ids, message in (
        (good[0][0], good[1], "should hold"),
        (good[0], good[1][:3], "should hold"),
        (good[0], good[1] + 3, "rows from 3 to 3 of 3"),
        (good[0], good[1] - 2, "rows from -2"),
        (good[0].astype(str), good[1], r"should hold .* and hold \[3, 4\] <U"),
        (good[0].astype(object), good[1], "a_f.npy is damaged, or does not hold an array of numbers"),
        (good[0], good[1].astype(object), "a_s.npy is damaged, or does not hold an array of numbers"),
    ):
        save(tmp_path, features, ids)
        with pytest.raises(InputError, match=message):
            read(tmp_path, "a")
    # A mere pickle, of which numpy says how to load it unsafely.
    for content in (b"no array", pickle.dumps([1]), b""):
        paths(tmp_path, "a")[0].write_bytes(content)
        with pytest.raises(InputError, match="a_f.npy is damaged, or does not hold") as caught:
            read(tmp_path, "a")
        assert "pickle" not in str(caught.value) and ".." not in str(caught.value)
    paths(tmp_path, "a")[0].unlink()
    with pytest.raises(InputError, match="missing beside"):
        read(tmp_path, "a")


def test_other_levels_are_not_written(tmp_path: Path) -> None:
    regions = Regions(torch.zeros(1, 2, 2, dtype=torch.int32), torch.ones(1, 1), ("all",))
    with pytest.raises(InputError, match="levels"):
        langsplat_files.write(tmp_path, "a", regions)
    assert not list(tmp_path.iterdir())
