# SPDX-License-Identifier: Apache-2.0
"""Predictions in pixels of the photographs, from what VGGT is shown. Its package and weights are not there: a stand-in
with its documented interface is, which knows the scene (see fake_vggt)."""

from pathlib import Path
from typing import List, Tuple

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy.spatial.transform import Rotation

from nts_plugins.encoders.predictors import Vggt
from nts_plugins.errors import InputError
from nts_plugins.files.prediction import Prediction
from nts_plugins.surfaces.depth_views import DepthView
from tests.encoders import fake_vggt

CPU = torch.device("cpu")


def predicted(monkeypatch: pytest.MonkeyPatch, sizes: List[Tuple[int, int]], longest: int = 70) -> Prediction:
    fake_vggt.install(monkeypatch, sizes)
    pictures = [fake_vggt.picture(number, *size) for number, size in enumerate(sizes)]
    return Vggt.load(None, CPU, longest).predict([f"{number}.png" for number in range(len(sizes))], pictures)


def check(prediction: Prediction, sizes: List[Tuple[int, int]], tolerance: float) -> None:
    """Cameras are the true ones, and points of all depths lie on the plane."""
    assert prediction.sizes.tolist() == [list(size) for size in sizes]
    for number, (width, height) in enumerate(sizes):
        shift, quaternion = fake_vggt.pose(number)
        viewmat = prediction.viewmats[number]
        np.testing.assert_allclose(viewmat[:3, :3], Rotation.from_quat(quaternion).as_matrix(), atol=1e-6)
        np.testing.assert_allclose(viewmat[:3, 3], shift, atol=1e-6)
        focal = fake_vggt.FOCAL * width
        expected = [[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]]
        np.testing.assert_allclose(prediction.Ks[number], expected, rtol=1e-4)
        depth = torch.from_numpy(prediction.depths[number])
        K = torch.from_numpy(prediction.Ks[number]).float()
        K[:2] *= torch.tensor([depth.shape[1] / width, depth.shape[0] / height])[:, None]
        view = DepthView(depth, torch.from_numpy(viewmat).float(), K)
        off = (view.points_at(view.pixels()) @ fake_vggt.NORMAL - fake_vggt.OFFSET).abs()
        assert float(off.max()) < tolerance, number
    np.testing.assert_allclose(prediction.confidences, 1 + np.exp(-prediction.depths), rtol=1e-5)


@pytest.mark.parametrize("size", [(70, 56), (140, 112), (64, 48), (33, 70), (500, 211)])
def test_cameras_and_depth_are_in_pixels_of_the_photographs(monkeypatch: pytest.MonkeyPatch, size: tuple) -> None:
    prediction = predicted(monkeypatch, [size] * 3)
    check(prediction, [size] * 3, 1e-4)
    shown = fake_vggt.Vggt.shown
    assert max(shown.shape[2:]) == 70 and prediction.depths.shape == (3, *shown.shape[2:])
    assert shown.shape[2] == max(1, round(70 * size[1] / max(size) / 14)) * 14, "resized as a whole, not cropped"
    assert float(shown.max()) < 0.99, "nothing is continued"


@pytest.mark.parametrize("sizes", [[(70, 42), (70, 70)], [(140, 56), (56, 140), (100, 100)], [(70, 28), (63, 49)]])
def test_photographs_that_differ_in_shape_are_continued_in_white_on_both_sides(
    monkeypatch: pytest.MonkeyPatch, sizes: list
) -> None:
    prediction = predicted(monkeypatch, sizes)
    shown = fake_vggt.Vggt.shown
    for image in shown:
        own = (image < 0.99).any(dim=0)
        for axis in (0, 1):
            lines = own.any(dim=axis).nonzero()[:, 0]
            before, after = int(lines[0]), own.shape[1 - axis] - 1 - int(lines[-1])
            assert before == after, "the middle of the picture is the middle of what is shown"
        assert torch.equal(image[:, ~own], torch.ones(3, int((~own).sum())))
    # Maps of smaller pictures are enlarged by the nearest value: up to a pixel away.
    check(prediction, sizes, 0.1)
    assert float(prediction.depths.max()) < 100, "what pictures are continued by is cut off"


def test_maps_at_the_size_of_another_picture_keep_their_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """The map of an upright picture is brought to the shape of a wide one's. Values are not off to one side."""
    prediction = predicted(monkeypatch, [(70, 56), (56, 70)])
    assert prediction.depths.shape == (2, 56, 70)
    K = torch.from_numpy(prediction.Ks[1]).float()
    K[:2] *= torch.tensor([70 / 56, 56 / 70])[:, None]
    view = DepthView(torch.from_numpy(prediction.depths[1]), torch.from_numpy(prediction.viewmats[1]).float(), K)
    off = view.points_at(view.pixels()) @ fake_vggt.NORMAL - fake_vggt.OFFSET
    assert 1e-3 < float(off.abs().max()) and abs(float(off.mean())) < 0.2 * float(off.abs().max())


def test_weights_are_named_with_their_licence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    prediction = predicted(monkeypatch, [(70, 56)] * 2)
    assert fake_vggt.Vggt.loaded == ["facebook/VGGT-1B"]
    assert prediction.source == "VGGT facebook/VGGT-1B" and prediction.licence == "CC-BY-NC-4.0"
    assert prediction.names == ("0.png", "1.png")
    state = {"weight": torch.full((1,), 7.0)}
    save_file(state, tmp_path / "mine.safetensors")
    torch.save(state, tmp_path / "mine.pt")
    for name in ("mine.safetensors", "mine.pt"):
        loaded = Vggt.load(tmp_path / name, CPU, 70)
        assert loaded.model.weight.tolist() == [7.0] and loaded.source == name
        pictures = [fake_vggt.picture(number, 70, 56) for number in range(2)]
        found = loaded.predict(["a.png", "b.png"], pictures)
        assert found.licence == "unknown" and found.source == f"VGGT {name}"
    assert fake_vggt.Vggt.loaded == ["facebook/VGGT-1B"], "nothing more was fetched"


def test_without_the_package_its_place_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_vggt.absent(monkeypatch)
    with pytest.raises(InputError, match="not installed. Its repository, facebookresearch/vggt"):
        Vggt.load(None, CPU)


@pytest.mark.parametrize("longest", [0, -14, 13, 500])
def test_sizes_that_are_no_squares_are_noticed_before_weights_are_fetched(
    monkeypatch: pytest.MonkeyPatch, longest: int
) -> None:
    fake_vggt.install(monkeypatch, [])
    with pytest.raises(InputError, match=f"--longest is {longest}, and must be a multiple of 14"):
        Vggt.load(None, CPU, longest)
    assert not fake_vggt.Vggt.loaded
    with pytest.raises(InputError, match="multiple of 14"):
        Vggt(fake_vggt.Vggt(), "weights", longest)


def test_weights_that_are_not_to_be_had_are_explained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_vggt.install(monkeypatch, [])

    def refuse(_repository: str, _name: str) -> None:
        raise OSError("no network\nand more")

    monkeypatch.setattr("nts_plugins.encoders.weights.ask_hub", refuse)
    with pytest.raises(InputError, match="weights of VGGT .*Fetching them failed: no network.*--weights") as caught:
        Vggt.load(None, CPU)
    assert "\n" not in str(caught.value) and not fake_vggt.Vggt.loaded
    with pytest.raises(InputError, match="nowhere.pt, which is said to hold the weights of VGGT, is not a file"):
        Vggt.load(tmp_path / "nowhere.pt", CPU)
    save_file({"other": torch.ones(2)}, tmp_path / "other.safetensors")
    torch.save({"weight": torch.ones(9)}, tmp_path / "other.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    for name in ("noise.safetensors", "noise.pt"):
        (tmp_path / name).write_bytes(b"this is no file of weights" * 10)
    for name in ("empty.safetensors", "empty.pt"):
        (tmp_path / name).write_bytes(b"")
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(InputError, match=f"{path.name} does not hold weights of VGGT"):
            Vggt.load(path, CPU)


def test_cameras_without_a_field_of_view_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = [(70, 56)] * 2
    fake_vggt.install(monkeypatch, sizes)
    predictor = Vggt.load(None, CPU, 70)
    predictor.model.lens = 0.0
    with pytest.raises(InputError, match="without a field of view. Are these photographs of one scene?"):
        predictor.predict(["a", "b"], [fake_vggt.picture(number, *size) for number, size in enumerate(sizes)])
