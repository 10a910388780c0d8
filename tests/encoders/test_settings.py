# SPDX-License-Identifier: Apache-2.0
"""Settings of encoders: what is out of its range is said at once, by the option's name."""

from typing import Any

import pytest

from nts_plugins.encoders.sam import PUBLISHED
from nts_plugins.encoders.settings import SAM_MODELS, OpenClipSettings, SamSettings
from nts_plugins.errors import InputError

NAN = float("nan")


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("points_per_side", 0, "sam.points-per-side is 0; it must be 1 or more."),
        ("points_per_side", -3, "sam.points-per-side is -3; it must be 1 or more."),
        ("points_at_once", 0, "sam.points-at-once is 0; it must be 1 or more."),
        ("least_iou", -0.1, "sam.least-iou is -0.1; it must lie between 0 and 1."),
        ("least_iou", 1.5, "sam.least-iou is 1.5; it must lie between 0 and 1."),
        ("least_iou", NAN, "sam.least-iou is nan; it must lie between 0 and 1."),
        ("least_stability", 85, "sam.least-stability is 85; it must lie between 0 and 1."),
        ("largest_box_overlap", -1, "sam.largest-box-overlap is -1; it must lie between 0 and 1."),
        ("crop_layers", -1, "sam.crop-layers is -1; it must be 0 or more."),
        ("smallest_region", -1, "sam.smallest-region is -1; it must be 0 or more."),
        (
            "model",
            "vit_x",
            "sam.model is wrong: Segment Anything has no model 'vit_x'. It has vit_h, vit_l, vit_b.",
        ),
    ],
)
def test_settings_of_segment_anything_out_of_range(name: str, value: Any, message: str) -> None:
    with pytest.raises(InputError) as caught:
        SamSettings(**{name: value})
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "settings",
    [
        {"points_per_side": 1, "points_at_once": 1, "crop_layers": 0, "smallest_region": 0},
        {"least_iou": 0.0, "least_stability": 0, "largest_box_overlap": 0.0},
        {"least_iou": 1.0, "least_stability": 1, "largest_box_overlap": 1.0},
        *({"model": name} for name in PUBLISHED),
    ],
)
def test_ends_of_ranges_are_in_them(settings: Any) -> None:
    made = SamSettings(**settings)
    assert {name: getattr(made, name) for name in settings} == settings


def test_pictures_at_once() -> None:
    with pytest.raises(InputError, match=r"^clip.batch is 0; it must be 1 or more.$"):
        OpenClipSettings(batch=0)
    assert OpenClipSettings(batch=1).batch == 1


def test_models_of_segment_anything_are_those_with_weights() -> None:
    assert SAM_MODELS == tuple(PUBLISHED)
