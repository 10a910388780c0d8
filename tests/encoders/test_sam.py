# SPDX-License-Identifier: Apache-2.0
"""Segment Anything on three levels: a small random model all the way, and answers that are known."""

import numpy as np
import pytest
import torch

from nts_plugins.encoders.base import LEVELS, MaskGenerator
from nts_plugins.encoders.sam import PUBLISHED, Sam, kept_boxes, unpacked
from nts_plugins.encoders.settings import SamSettings
from nts_plugins.errors import InputError
from tests.encoders import small

SIZES = (3, 8, 15)
"""Half the side of the squares that the decoder below answers on each level."""


class Squares(Sam):
    """Answers squares around points: of 3, 8 and 15 pixels half a side on the three levels, believed the more the
    smaller they are."""

    def _asked(self, points, size):
        rows, columns = np.mgrid[: size[0], : size[1]] + 0.5
        far = np.maximum(abs(columns[None] - points[:, 0, None, None]), abs(rows[None] - points[:, 1, None, None]))
        logits = np.stack([20.0 * (half - far) for half in SIZES], axis=1)
        return torch.from_numpy(logits).float(), torch.tensor([[0.95, 0.9, 0.85]]).expand(len(points), 3)


def test_a_small_model_answers_on_every_level():
    settings = SamSettings(points_per_side=4, points_at_once=5, least_iou=0.0, least_stability=0.0, smallest_region=4)
    sam = Sam(small.sam_model(), settings)
    assert isinstance(sam, MaskGenerator)
    found = sam.masks(torch.rand(48, 64, 3))
    assert len(found) == len(LEVELS)
    assert sum(len(level.masks) for level in found) > 0
    for level in found:
        assert level.masks.dtype == torch.bool and level.masks.shape[1:] == (48, 64)
        assert level.scores.shape == (len(level.masks),)


def test_answers_are_those_of_segment_anythings_own_predictor():
    """Before anything is left out: the decoder's three masks of a point, at the picture's size."""
    from segment_anything import SamPredictor

    model, picture = small.sam_model(), torch.rand(48, 64, 3)
    image = (picture * 255).round().to(torch.uint8).numpy()
    predictor = SamPredictor(model)
    predictor.set_image(image)
    wanted, believed, _ = predictor.predict(
        np.array([[20.0, 10.0]]), np.array([1]), multimask_output=True, return_logits=True
    )
    sam = Sam(model, SamSettings())
    sam.predictor.set_image(image)
    logits, found = sam._asked(np.array([[20.0, 10.0]]), (48, 64))
    np.testing.assert_allclose(logits[0].numpy(), wanted, atol=1e-5)
    np.testing.assert_allclose(found[0].numpy(), believed, atol=1e-6)


@pytest.mark.parametrize("layers", [0, 1])
def test_levels_stay_apart(layers):
    sam = Squares(small.sam_model(), SamSettings(points_per_side=4, crop_layers=layers, smallest_region=0))
    found = sam.masks(torch.zeros(64, 96, 3))
    for level, half in zip(found, SIZES, strict=True):
        inner = [mask for mask in level.masks if not _touches_border(mask)]
        assert inner
        assert {int(mask.sum()) for mask in inner} == {(2 * half) ** 2}
        points = {tuple(int(value) for value in torch.nonzero(mask).float().mean(dim=0).round()) for mask in inner}
        assert len(points) == len(inner)  # none of them twice


def _touches_border(mask):
    return bool(mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any())


def test_masks_that_a_crop_cuts_off_are_left_out():
    """The quarters' inner borders cut squares in two; those halves must not come out as regions."""
    sam = Squares(small.sam_model(), SamSettings(points_per_side=8, crop_layers=1, smallest_region=0))
    for level, half in zip(sam.masks(torch.zeros(96, 128, 3)), SIZES, strict=True):
        for mask in level.masks:
            if not _touches_border(mask):
                assert int(mask.sum()) == (2 * half) ** 2


def test_what_is_not_believed_goes():
    sam = Squares(small.sam_model(), SamSettings(points_per_side=3, crop_layers=0, least_iou=0.87, smallest_region=0))
    counts = [len(level.masks) for level in sam.masks(torch.zeros(64, 64, 3))]
    assert counts[0] == 9 and counts[1] > 0 and counts[2] == 0


def test_small_holes_are_filled_and_small_islands_go():
    class Holed(Squares):
        def _asked(self, points, size):
            logits, believed = super()._asked(points, size)
            logits[:, 2, 30:32, 30:32] = -10.0
            logits[:, 2, 60:62, 60:62] = 10.0
            return logits, believed

    settings = SamSettings(points_per_side=1, crop_layers=0, smallest_region=10)
    whole = Holed(small.sam_model(), settings).masks(torch.zeros(64, 64, 3))[2].masks
    assert whole.shape[0] == 1 and bool(whole[0, 30, 30]) and not bool(whole[0, 60, 60])
    settings.smallest_region = 0
    whole = Holed(small.sam_model(), settings).masks(torch.zeros(64, 64, 3))[2].masks
    assert not bool(whole[0, 30, 30]) and bool(whole[0, 60, 60])


def test_of_boxes_that_overlap_the_best_stays():
    found = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 6], [20, 0, 30, 10]])
    assert kept_boxes(found, torch.tensor([0.5, 0.9, 0.8, 0.1]), 0.7).tolist() == [1, 2, 3]
    assert kept_boxes(found[:0], torch.zeros(0), 0.7).tolist() == []


def test_bits_are_kept_exactly():
    masks = torch.rand(5, 7, 9) > 0.5
    assert torch.equal(unpacked(np.packbits(masks.flatten(1).numpy(), axis=1), (7, 9)), masks)


def test_weights_that_are_missing_or_others_are_named(tmp_path, monkeypatch):
    device = torch.device("cpu")
    with pytest.raises(InputError, match="no model 'vit_x'.*vit_h"):
        Sam.load(SamSettings(model="vit_x"), device)
    with pytest.raises(InputError, match="gone.pth"):
        Sam.load(SamSettings(weights=tmp_path / "gone.pth"), device)
    other = tmp_path / "other.pth"
    for content, said in (
        (
            {"nothing": torch.zeros(1)},
            r", but of another model: it lacks \d+ of \d+ tensors \(.*, and it has 1 besides",
        ),
        ([1, 2], ": there are no tensors by name in it"),
        (b'{"camera_model": "OPENCV"}', ": it is no file of tensors as torch.save or safetensors write them"),
    ):
        torch.save(content, other) if not isinstance(content, bytes) else other.write_bytes(content)
        with pytest.raises(InputError, match=f"other.pth does not hold weights of SAM vit_b{said}") as caught:
            Sam.load(SamSettings(model="vit_b", weights=other), device)
        assert "weights_only" not in str(caught.value) and "state_dict" not in str(caught.value)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))

    def offline(*_, **__):
        raise OSError("no way out")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(InputError) as caught:
        Sam.load(SamSettings(), device)
    for part in (PUBLISHED["vit_h"], "segment_anything", str(tmp_path / "checkpoints"), "--sam.weights", "no way out"):
        assert part in str(caught.value)
