# SPDX-License-Identifier: Apache-2.0
"""Masks and pictures become regions with features."""

from pathlib import Path

import pytest
import torch

from nts_plugins.encoders.base import LEVELS, NOTHING, LevelMasks, RegionEncoder, Regions
from nts_plugins.encoders.regions import MaskedRegions, masked_regions, shown_alone, smaller
from nts_plugins.encoders.sam import Sam
from nts_plugins.encoders.settings import OpenClipSettings, SamSettings
from nts_plugins.errors import InputError
from tests.encoders import small
from tests.encoders.maps import feature_map


class Halves:
    """Left and right half on the smallest level, everything on the middle one, nothing on the largest."""

    name = "halves"

    def masks(self, picture):
        height, width = picture.shape[:2]
        left = torch.zeros(height, width, dtype=torch.bool)
        left[:, : width // 2] = True
        nothing = LevelMasks(torch.zeros(0, height, width, dtype=torch.bool), torch.zeros(0))
        return [
            LevelMasks(torch.stack([left, ~left]), torch.tensor([0.9, 0.8])),
            LevelMasks(torch.ones(1, height, width, dtype=torch.bool), torch.tensor([0.9])),
            nothing,
        ]


def test_every_region_has_the_feature_of_what_it_shows():
    encoder = MaskedRegions(Halves(), small.clip())
    assert isinstance(encoder, RegionEncoder)
    picture = torch.rand(20, 30, 3)
    regions = encoder.encode(picture)
    assert regions.levels == LEVELS and regions.size == (20, 30) and regions.features.shape == (3, encoder.width)
    assert regions.ids[0, 0, 0] == 0 and regions.ids[0, 0, -1] == 1
    assert (regions.ids[1] == 2).all() and (regions.ids[2] == NOTHING).all()
    masks = Halves().masks(picture)[0].masks
    alone = encoder.encoder.encode_pictures(shown_alone(picture, masks, 32))
    torch.testing.assert_close(regions.features[:2], alone)
    torch.testing.assert_close(feature_map(regions, "subpart")[3, 4], alone[0])
    assert not feature_map(regions, "whole").any()


def test_tall_pictures_are_made_smaller_first():
    assert smaller(torch.rand(60, 90, 3), 30).shape == (30, 45, 3)
    assert smaller(torch.rand(20, 90, 3), 30).shape == (20, 90, 3)
    regions = MaskedRegions(Halves(), small.clip(), tallest=10).encode(torch.rand(20, 30, 3))
    assert regions.size == (10, 15)


def test_a_mask_is_shown_in_the_middle_of_a_black_square():
    picture = torch.ones(40, 60, 3)
    mask = torch.zeros(1, 40, 60, dtype=torch.bool)
    mask[0, 4:12, 10:42] = True  # 8 rows, 32 columns
    shown = shown_alone(picture, mask, 32)
    assert shown.shape == (1, 3, 32, 32)
    torch.testing.assert_close(shown[0, :, 12:20], torch.ones(3, 8, 32))
    assert shown[0, :, :12].abs().max() < 1e-6 and shown[0, :, 20:].abs().max() < 1e-6
    mask[0, 4, 10] = False
    assert shown_alone(picture, mask, 32)[0, 0, 12, 0] < 1e-6


@pytest.mark.parametrize(
    "clip, tallest, message",
    [
        (OpenClipSettings("ViT-Z"), 1080, "knows no model 'ViT-Z'"),
        (OpenClipSettings(pretrained="nobody"), 1080, "knows no weights 'nobody' of ViT-B-16"),
        (OpenClipSettings(weights=Path("gone.pt")), 1080, "gone.pt, which is said to hold"),
        (OpenClipSettings(), 0, "--my.tallest is 0; it must be 1 or more"),
    ],
)
def test_names_are_looked_at_before_anything_is_loaded(monkeypatch, clip, tallest, message):
    def loaded(*_):
        raise AssertionError("a model is loaded")

    monkeypatch.setattr(Sam, "load", loaded)
    with pytest.raises(InputError, match=message):
        masked_regions(SamSettings(), clip, tallest, "cpu", "--my.")


@pytest.mark.parametrize("ids", [torch.zeros(2, 4, 4), torch.full((3, 4, 4), 2), torch.full((3, 4, 4), -2)])
def test_ids_without_a_feature_are_an_error(ids):
    with pytest.raises(ValueError):
        Regions(ids.int(), torch.zeros(2, 5))
