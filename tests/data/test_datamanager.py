# SPDX-License-Identifier: Apache-2.0
"""What the datamanager hands to the model, in which order, and at what cost."""

import copy
import time
from pathlib import Path
from typing import Any, List

import numpy as np
import pytest
import torch
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

from nts_plugins.data.datamanager import SplatDatamanager, SplatDatamanagerConfig
from nts_plugins.data.pyramid import Pyramid, Targets, pyramids
from nts_plugins.errors import InputError
from tests.captures import load_meta, save_meta, write_capture


def manager(folder: Path, mode: str = "val", **settings: Any) -> SplatDatamanager:
    parser = NerfstudioDataParserConfig(load_3D_points=True)
    config = SplatDatamanagerConfig(data=folder, dataparser=parser, **settings)
    return config.setup(device="cpu", test_mode=mode)


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_capture(tmp_path_factory.mktemp("data") / "capture")


def test_training_and_evaluation_say_which_picture_it_is(capture: Path) -> None:
    data = manager(capture)
    for step in range(12):
        camera, batch = data.next_train(step)
        assert camera.metadata["cam_idx"] == batch["image_idx"] and camera.shape == (1,)
        expected = data.train_dataset.cameras[batch["image_idx"]]
        torch.testing.assert_close(camera.camera_to_worlds[0], expected.camera_to_worlds)
        camera, batch = data.next_eval_image(step)
        assert camera.metadata["cam_idx"] == batch["image_idx"]
    pairs = data.fixed_indices_eval_dataloader
    assert [batch["image_idx"] for _, batch in pairs] == [0, 1] and len(pairs) == 2
    assert [camera.metadata["cam_idx"] for camera, _ in pairs] == [0, 1]


def test_pictures_are_kept_as_bytes_and_match_their_files(capture: Path) -> None:
    from PIL import Image

    data = manager(capture)
    for index, batch in enumerate(data.cached_train):
        assert batch["image"].dtype == torch.uint8 and batch["image_idx"] == index
        stored = np.asarray(Image.open(data.train_dataset.image_filenames[index]))
        np.testing.assert_array_equal(batch["image"].numpy(), stored)


def order(data: SplatDatamanager, steps: range) -> List[int]:
    return [data.next_train(step)[1]["image_idx"] for step in steps]


def test_the_order_of_pictures_depends_on_the_step_alone(capture: Path) -> None:
    """So a resumed training sees the pictures that an uninterrupted one would have seen."""
    whole = order(manager(capture), range(30))
    assert order(manager(capture), range(17, 30)) == whole[17:]
    assert order(manager(capture, train_cameras_sampling_seed=1), range(30)) != whole
    for epoch in range(5):
        assert sorted(whole[6 * epoch : 6 * epoch + 6]) == list(range(6))
    assert whole[:6] != whole[6:12] or whole[6:12] != whole[12:18]


def test_farthest_point_order_is_still_there(capture: Path, tmp_path: Path) -> None:
    few = order(manager(capture, train_cameras_sampling_strategy="fps"), range(12))
    assert sorted(few[:6]) == list(range(6))
    folder = write_capture(tmp_path / "capture", views=12, size=(16, 12))
    many = order(manager(folder, train_cameras_sampling_strategy="fps"), range(9))
    assert sorted(many) == list(range(9))


def test_what_a_step_changes_does_not_reach_the_cache(capture: Path) -> None:
    data = manager(capture)
    camera, batch = data.next_train(0)
    size = (int(camera.width), int(camera.height))
    batch["extra"] = 1
    camera.rescale_output_resolution(0.5)
    camera.metadata["cam_idx"] = 77
    again, batch = data.next_train(0)
    assert (int(again.width), int(again.height)) == size
    assert again.metadata["cam_idx"] == batch["image_idx"] != 77
    assert "extra" not in batch


def test_many_pictures_need_no_pinned_memory(capture: Path, tmp_path: Path) -> None:
    """More than 500 pictures make nerfstudio pin memory, which fails on a machine without an NVIDIA driver."""
    folder = tmp_path / "many"
    folder.mkdir()
    meta = copy.deepcopy(load_meta(capture))
    frame = meta["frames"][0]
    meta["frames"] = []
    (folder / "images").mkdir()
    for index in range(510):
        name = f"images/{index:04d}.png"
        (folder / name).symlink_to(capture / frame["file_path"])
        meta["frames"].append({**frame, "file_path": name})
    names = [each["file_path"] for each in meta["frames"]]
    meta.update(train_filenames=names, val_filenames=names[:1], test_filenames=names[:1])
    del meta["ply_file_path"]
    save_meta(folder, meta)
    data = manager(folder)
    assert len(data.cached_train) == 510
    assert data.next_train(3)[1]["image"].shape == (36, 48, 3)


def test_looking_at_properties_reads_no_pictures(capture: Path) -> None:
    """The viewer evaluates every property when it starts."""
    data = manager(capture, mode="test")
    assert len(data.fixed_indices_eval_dataloader) == 2
    assert "cached_train" not in vars(data) and "cached_eval" not in vars(data)


def test_the_size_of_the_scene_reaches_the_model(capture: Path) -> None:
    positions = manager(capture).train_dataset.cameras.camera_to_worlds[:, :3, 3]
    expected = 1.1 * (positions - positions.mean(dim=0)).norm(dim=-1).max()
    assert manager(capture).train_dataset.metadata["camera_extent"] == pytest.approx(float(expected), rel=1e-5)


def test_a_step_costs_less_than_a_millisecond(tmp_path: Path) -> None:
    """Fetching a 400 x 300 picture and making its training target, on one core; the best of several rounds."""
    data = manager(write_capture(tmp_path / "capture", size=(400, 300), views=4))
    torch.set_num_threads(1)

    def milliseconds(factor: int) -> float:
        start = time.perf_counter()
        for step in range(20):
            _, batch = data.next_train(step)
            assert Targets(batch, factor, "cpu")["image"].dtype == torch.float32
        return 50 * (time.perf_counter() - start)

    for factor in (1, 2, 4):
        assert min(milliseconds(factor) for _ in range(5)) < 1.0


def test_pyramid_averages_and_cuts_off_the_rest() -> None:
    full = torch.rand(11, 15, 3)
    shrunk = Pyramid(full).at(4)
    assert shrunk.shape == (2, 3, 3)
    torch.testing.assert_close(shrunk[1, 2], full[4:8, 8:12].mean(dim=(0, 1)))
    as_bytes = Pyramid((full * 255).to(torch.uint8))
    assert as_bytes.at(4).dtype == torch.uint8
    torch.testing.assert_close(as_bytes.at(4) / 255, shrunk, atol=1.5 / 255, rtol=0)
    assert as_bytes.at(1) is as_bytes.full and as_bytes.at(2) is as_bytes.at(2)
    mask = torch.zeros(4, 4, 1, dtype=torch.bool)
    mask[:2] = True
    assert bool(Pyramid(mask).at(4)) and Pyramid(mask).at(2).tolist() == [[[True], [True]], [[False], [False]]]


def test_pyramid_leaves_out_colours_that_nobody_sees() -> None:
    """Half of each pixel is red, the other half transparent with some colour below."""
    picture = torch.tensor([[200, 0, 0, 255], [0, 90, 0, 0]], dtype=torch.uint8).repeat(4, 2, 1)
    batch = {"image": picture}
    for given in (batch, {**batch, "pyramids": pyramids(batch)}):
        small = Targets(given, 2, "cpu")["image"]
        assert small.shape == (2, 2, 4)
        torch.testing.assert_close(small[0, 0], torch.tensor([200 / 255, 0, 0, 128 / 255]))
    features = torch.tensor([1.0, 0, 0, 1, 0, 1, 0, 0]).reshape(1, 2, 4).repeat(2, 1, 1)
    assert pyramids({"image": features[..., :3], "feature": features})["feature"].at(2)[0, 0].tolist() == [
        0.5,
        0.5,
        0,
        0.5,
    ]


def test_targets_shrink_what_has_the_size_of_the_image() -> None:
    batch = {
        "image": torch.full((8, 8, 3), 255, dtype=torch.uint8),
        "mask": torch.ones(8, 8, 1, dtype=torch.bool),
        "feature": torch.rand(3, 3, 5),
        "image_idx": 4,
    }
    targets = Targets(batch, 2, "cpu")
    assert torch.equal(targets["image"], torch.ones(4, 4, 3))
    assert targets["mask"].shape == (4, 4, 1) and targets["mask"].dtype == torch.bool
    assert targets["feature"] is batch["feature"]
    assert "mask" in targets and "depth" not in targets and "image_idx" not in targets


def test_a_few_training_views_are_evenly_chosen(capture: Path) -> None:
    whole, few = manager(capture), manager(capture, train_views=3)
    files, count = whole.train_dataset.image_filenames, len(whole.train_dataset)
    assert few.train_dataset.image_filenames == [files[0], files[(count - 1) // 2], files[-1]]
    torch.testing.assert_close(
        few.train_dataset.cameras.camera_to_worlds[[0, 2]], whole.train_dataset.cameras.camera_to_worlds[[0, -1]]
    )
    assert {batch["image_idx"] for _, batch in map(few.next_train, range(3))} == {0, 1, 2}
    assert few.eval_dataset.image_filenames == whole.eval_dataset.image_filenames
    assert len(few.train_dataparser_outputs.metadata["points3D_xyz"]) > 0
    for wrong in (0, count + 1):
        with pytest.raises(InputError, match=f"train-views is {wrong}; it must be from 1 to {count}"):
            manager(capture, train_views=wrong)
