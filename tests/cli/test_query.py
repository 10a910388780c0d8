# SPDX-License-Identifier: Apache-2.0
"""``nts query`` as a user types it, against splats that are known."""

import json
import shutil
from pathlib import Path
from typing import Any, Dict, List

import numpy as np
import pytest
import torch
from PIL import Image

from nts_plugins.cli._runs import capture_from_training
from nts_plugins.cli.main import USER_ERROR, main
from nts_plugins.files import ply
from nts_plugins.queries.phrases import CANONICAL
from nts_plugins.queries.relevancy import from_margin
from tests import runs
from tests.asking import QUICK, Scene, asking, phrase_table, true_splats, with_splats, write_scene
from tests.captures import ENCODER, FOCAL, blobs, load_meta, ring_pose, save_meta

HELD_OUT, TRAINED = ["003", "007"], ["000", "001", "002", "004", "005", "006"]
RED = ["--prompts", "red", "--negatives", "green;blue"]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return write_scene(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def run(scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the true splats, in the frame of the capture."""
    output = tmp_path_factory.mktemp("outputs")
    return runs.train("langsplat", scene.capture, output, 100, *with_splats(scene.splats, scene.table))


@pytest.fixture(scope="module")
def turned(scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the same splats in another frame: that of training as nerfstudio has it by default."""
    folder = tmp_path_factory.mktemp("turned")
    outputs = runs.trainer("splat", scene.capture, folder / "probe", 1).pipeline.datamanager.train_dataparser_outputs
    matrix = np.linalg.inv(capture_from_training(outputs))
    unit = np.cbrt(np.linalg.det(matrix[:3, :3]))
    means = blobs().means.numpy() @ matrix[:3, :3].T + matrix[:3, 3]
    rotation = torch.from_numpy(matrix[:3, :3] / unit).float()
    splats = true_splats(
        means=torch.from_numpy(means).float(),
        scales=(blobs().scales * unit).log(),
        quats=torch.stack([_turned(rotation, quat) for quat in blobs().quats]),
    )
    ply.write(folder / "splats.ply", splats)
    options = asking(scene.table, "--pipeline.model.load-splats", str(folder / "splats.ply"))
    return runs.train("langsplat", scene.capture, folder / "outputs", 100, *options)


def _turned(rotation: torch.Tensor, quat: torch.Tensor) -> torch.Tensor:
    from scipy.spatial.transform import Rotation

    turn = Rotation.from_matrix(rotation.numpy()) * Rotation.from_quat(quat[[1, 2, 3, 0]].numpy())
    return torch.from_numpy(turn.as_quat()[[3, 0, 1, 2]]).float()


def query(run: Path, *extra: str) -> int:
    return main(["query", "--load-config", str(run / "config.yml"), *extra])


def answer_of(folder: Path) -> Dict[str, Any]:
    return json.loads((folder / "answer.json").read_text(encoding="utf-8"))


def files_of(folder: Path) -> List[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


# ---- what is written


def test_an_answer_has_everything_of_every_phrase(run: Path, tmp_path: Path, capsys) -> None:
    folder = tmp_path / "new" / "answer"
    assert query(run, "--prompts", "red; blue part", "--output-dir", str(folder)) == 0
    own = [f"{view}_{what}.png" for view in HELD_OUT for what in ("mask", "overlay", "relevancy")] + ["splats.ply"]
    assert files_of(folder) == sorted(
        ["answer.json", *(f"{phrase}/{name}" for phrase in ("red", "blue_part") for name in own)]
    )
    assert [path.name for path in folder.parent.iterdir()] == ["answer"]
    answer = answer_of(folder)
    assert answer["encoder"] == ENCODER and answer["frame"] == "capture" and answer["threshold"] == 0.0
    assert all(each["negatives"] == ["object", "things", "stuff", "texture"] for each in answer["phrases"].values())
    assert list(answer["phrases"]) == ["red", "blue part"]
    assert [each["level"] for each in answer["phrases"].values()] == ["subpart", "part"]
    assert [each["folder"] for each in answer["phrases"].values()] == ["red", "blue_part"]
    assert all(list(each["views"]) == HELD_OUT for each in answer["phrases"].values())
    said = capsys.readouterr().out
    assert "red: " in said and "blue part: " in said and str(folder) in said


def test_masks_are_what_is_relevant_enough(run: Path, tmp_path: Path) -> None:
    least = from_margin(0.05)
    folder = tmp_path / "answer"
    assert query(run, *RED, "--output-dir", str(folder), "--threshold", "0.05", "--views", "train") == 0
    views = answer_of(folder)["phrases"]["red"]["views"]
    assert list(views) == TRAINED
    for name, view in views.items():
        relevancy, mask = (pixels(folder / "red" / f"{name}_{what}.png") for what in ("relevancy", "mask"))
        assert relevancy.dtype == np.uint16 and relevancy.shape == (36, 48)
        assert mask.dtype == np.uint8 and set(np.unique(mask)) <= {0, 255}
        values = relevancy / 65535
        clear = np.abs(values - least) > 1e-5
        np.testing.assert_array_equal((mask == 255)[clear], (values > least)[clear])
        assert view["pixels"] == int((mask == 255).sum())
        column, row = view["at"]
        assert relevancy[row, column] == relevancy.max()
        assert view["best"] == pytest.approx(relevancy.max() / 65535, abs=1e-5)
        picture = pixels(run_capture(run) / "images" / f"{name}.png").astype(int)
        found = mask == 255
        assert found.any() and (picture[found].argmax(axis=1) == 0).mean() > 0.6
        overlay = pixels(folder / "red" / f"{name}_overlay.png")
        assert overlay.shape == (36, 48, 3) and overlay.dtype == np.uint8
        grey = np.ptp(overlay.astype(int), axis=2) <= 1
        np.testing.assert_array_equal(~grey, found)


def run_capture(run: Path) -> Path:
    return runs.load(run, "inference").datamanager.train_dataset.image_filenames[0].parent.parent


def test_exact_maps_are_asked_for(run: Path, tmp_path: Path) -> None:
    for name, extra in (("fast", []), ("exact", ["--exact"])):
        assert query(run, *RED, "--output-dir", str(tmp_path / name), *extra) == 0
    fast, exact = (pixels(tmp_path / name / "red" / "003_relevancy.png") / 65535 for name in ("fast", "exact"))
    assert not np.array_equal(fast, exact) and np.abs(fast - exact).max() < 0.1
    masks = [pixels(tmp_path / name / "red" / "003_mask.png") for name in ("fast", "exact")]
    np.testing.assert_array_equal(*masks)


def test_relevancy_may_be_smoothed(run: Path, tmp_path: Path) -> None:
    for side in ("1", "5"):
        assert query(run, *RED, "--output-dir", str(tmp_path / side), "--smoothing", side) == 0
    plain, smooth = (pixels(tmp_path / side / "red" / "003_relevancy.png") / 65535 for side in ("1", "5"))
    np.testing.assert_allclose(smooth[10, 20], plain[8:13, 18:23].mean(), atol=2e-5)
    np.testing.assert_allclose(smooth[0, 0], plain[:3, :3].mean(), atol=2e-5)


def test_splats_that_were_found_are_a_file(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "answer"
    assert query(run, *RED, "--output-dir", str(folder), "--views", "none") == 0
    assert files_of(folder) == ["answer.json", "red/splats.ply"]
    answer = answer_of(folder)["phrases"]["red"]
    splats = ply.read(folder / "red" / "splats.ply")
    model = runs.load(run, "inference").model
    relevancy = model.splat_relevancy(model.ask("red", "green;blue"))[:, 0, 0]
    assert answer["views"] == {} and answer["best"] == pytest.approx(float(relevancy.max()))
    assert 5 < answer["splats"] == len(splats["means"]) < 35
    assert torch.equal(splats["means"], blobs().means[relevancy > 0.5])


def test_splats_too_faint_to_be_drawn_are_not_counted(scene: Scene, tmp_path: Path) -> None:
    """A file of splats leaves them out; those whose codes are trained have language all the same."""
    opacities = true_splats()["opacities"].clone()
    opacities[::4] = -9.0
    ply.write(tmp_path / "splats.ply", true_splats(opacities=opacities))
    options = ["--pipeline.model.language.fit", "sparse", "--pipeline.model.language.sparse.words", "8", *QUICK]
    options = with_splats(tmp_path / "splats.ply", scene.table, *options)
    run = runs.train("langsplat", scene.capture, tmp_path / "outputs", 3, *options)
    folder = tmp_path / "answer"
    common = ["--prompts", "red;anything lit", "--views", "none", "--threshold", "-1"]
    assert query(run, *common, "--output-dir", str(folder)) == 0
    for phrase in answer_of(folder)["phrases"].values():
        assert phrase["splats"] == len(ply.read(folder / phrase["folder"] / "splats.ply")["means"])


def corners(answer: Dict[str, Any], phrase: str) -> np.ndarray:
    """[B, 8, 3]."""
    return np.array([box["corners"] for box in answer["phrases"][phrase]["boxes"]])


def test_boxes_are_around_what_was_found(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "answer"
    assert query(run, *RED, "--output-dir", str(folder), "--views", "none") == 0
    answer = answer_of(folder)
    boxes, centres = corners(answer, "red"), ply.read(folder / "red" / "splats.ply")["means"].numpy()
    own = answer["phrases"]["red"]["boxes"]
    assert boxes.shape[1:] == (8, 3) and 0 < sum(box["splats"] for box in own) <= len(centres)
    assert max(box["best"] for box in own) == pytest.approx(answer["phrases"]["red"]["best"])
    inside = np.zeros(len(centres), int)
    for box, each in zip(boxes, own, strict=True):
        # Of so few splats the hundredth part that a box leaves out is less than the one at each end.
        low, high = box.min(axis=0) - 0.02, box.max(axis=0) + 0.02
        within = ((centres >= low) & (centres <= high)).all(axis=1)
        assert within.sum() >= each["splats"]
        inside += within
    assert (inside > 0).mean() > 0.9


def test_boxes_are_in_the_frame_that_was_asked_for(turned: Path, run: Path, tmp_path: Path) -> None:
    common = ["--prompts", "anything lit", "--views", "none"]
    for name, frame in (("capture", "capture"), ("training", "training")):
        assert query(turned, *common, "--output-dir", str(tmp_path / name), "--frame", frame) == 0
    outputs = runs.load(turned, "inference").datamanager.train_dataparser_outputs
    matrix = capture_from_training(outputs)
    assert np.abs(matrix - np.eye(4)).max() > 0.1, "the frames differ"
    captured, trained = (corners(answer_of(tmp_path / name), "anything lit") for name in ("capture", "training"))
    np.testing.assert_allclose(trained @ matrix[:3, :3].T + matrix[:3, 3], captured, atol=1e-4)
    # In the frame of the capture they hold the blobs where these are, in that of training those of splats.ply.
    for boxes, means in (
        (captured, blobs().means.numpy()),
        (trained, ply.read(tmp_path / "training" / "anything_lit" / "splats.ply")["means"].numpy()),
    ):
        low, high = boxes.min(axis=(0, 1)), boxes.max(axis=(0, 1))
        assert ((means >= low - 0.15) & (means <= high + 0.15)).all(axis=1).mean() > 0.9
        assert np.abs((low + high) / 2 - means.mean(axis=0)).max() < 0.3
    saved = [ply.read(tmp_path / name / "anything_lit" / "splats.ply")["means"] for name in ("capture", "training")]
    assert torch.equal(*saved), "splats are in the frame of training, whatever that of boxes is"


def test_nothing_may_be_found(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "answer"
    assert query(run, "--prompts", "red", "--negatives", "red", "--output-dir", str(folder)) == 0
    answer = answer_of(folder)["phrases"]["red"]
    assert (
        answer["splats"] == 0 and answer["boxes"] == [] and len(ply.read(folder / "red" / "splats.ply")["means"]) == 0
    )
    assert all(view["pixels"] == 0 for view in answer["views"].values())
    assert not pixels(folder / "red" / "003_mask.png").any()


def test_a_level_may_be_named(run: Path, tmp_path: Path) -> None:
    for level, phrase in (("part", "red part"), ("whole", "anything lit")):
        folder = tmp_path / level
        assert query(run, "--prompts", "red part;anything lit", "--level", level, "--output-dir", str(folder)) == 0
        for name, each in answer_of(folder)["phrases"].items():
            assert each["level"] == level and (each["splats"] > 0) == (name == phrase)


def test_phrases_whose_folders_would_be_the_same_have_others(run: Path, scene: Scene, tmp_path: Path) -> None:
    phrases = ["red cup", "red cup 2", "red-cup", "Red cup?"]
    np.savez(tmp_path / "table.npz", phrases=np.array([*phrases, "things"]), vectors=np.eye(8)[[0, 1, 2, 3, 7]])
    folder = tmp_path / "answer"
    common = ["--prompts", ";".join(phrases), "--negatives", "things", "--weights", str(tmp_path / "table.npz")]
    assert query(run, *common, "--views", "none", "--output-dir", str(folder)) == 0
    folders = [each["folder"] for each in answer_of(folder)["phrases"].values()]
    assert len({name.lower() for name in folders}) == 4, "some file systems do not tell capitals"
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == sorted(folders)


def test_a_phrase_that_is_asked_twice_is_answered_once(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "answer"
    assert query(run, "--prompts", "red; red", "--views", "none", "--output-dir", str(folder)) == 0
    folders = [each["folder"] for each in answer_of(folder)["phrases"].values()]
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == folders


def test_each_phrase_has_to_beat_those_of_its_own_language_or_of_a_given_one(run: Path, tmp_path: Path) -> None:
    axes = {"red": 0, "红": 0, **dict.fromkeys(CANONICAL["en"], 7), **dict.fromkeys((*CANONICAL["zh"], "Rot"), 1)}
    axes.update(dict.fromkeys(CANONICAL["de"], 0))
    np.savez(tmp_path / "table.npz", phrases=np.array(list(axes)), vectors=np.eye(8)[list(axes.values())])
    common = ["--weights", str(tmp_path / "table.npz"), "--views", "none", "--output-dir"]
    answers = {}
    for prompts, extra in (("red", ()), ("红", ()), ("red；红", ()), ("red；红", ("--language", "de"))):
        folder = tmp_path / f"{prompts}{len(extra)}"
        assert query(run, "--prompts", prompts, *common, str(folder), *extra) == 0
        answers[f"{prompts}{len(extra)}"] = answer_of(folder)["phrases"]
    assert answers["red；红0"]["red"] == answers["red0"]["red"] and answers["red0"]["red"]["splats"] > 5
    chinese = {key: value for key, value in answers["红0"]["红"].items() if key != "folder"}
    assert {key: value for key, value in answers["red；红0"]["红"].items() if key != "folder"} == chinese
    for number, language in ((0, "zh"), (2, "de")):
        assert answers[f"red；红{number}"]["红"]["negatives"] == list(CANONICAL[language])
    assert answers["red；红2"]["red"]["negatives"] == list(CANONICAL["de"])
    assert answers["red；红2"]["red"]["splats"] == 0, "in this table the German ones are what is asked"


def test_another_table_may_take_the_place_of_the_runs(run: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "table.npz", phrases=np.array(["rot", "things"]), vectors=np.eye(8)[[0, 7]])
    common = ["--negatives", "things", "--weights", str(tmp_path / "table.npz"), "--views", "none"]
    assert query(run, "--prompts", "rot", *common, "--output-dir", str(tmp_path / "answer")) == 0
    assert answer_of(tmp_path / "answer")["phrases"]["rot"]["splats"] > 5
    assert query(run, "--prompts", "red", *common, "--output-dir", str(tmp_path / "other")) == USER_ERROR


def test_pictures_of_the_same_name_are_told_apart(scene: Scene, tmp_path: Path) -> None:
    capture = Path(shutil.copytree(scene.capture, tmp_path / "capture"))
    meta = load_meta(capture)
    for camera, number in (("left", 3), ("right", 7)):
        (capture / camera).mkdir()
        old, new = f"images/{number:03d}.png", f"{camera}/view.png"
        shutil.move(capture / old, capture / new)
        meta = json.loads(json.dumps(meta).replace(old, new))
    save_meta(capture, meta)
    run = runs.train("langsplat", capture, tmp_path / "outputs", 10, *with_splats(scene.splats, scene.table))
    assert query(run, *RED, "--output-dir", str(tmp_path / "answer")) == 0
    assert len(answer_of(tmp_path / "answer")["phrases"]["red"]["views"]) == 2
    assert len(list((tmp_path / "answer" / "red").glob("*_mask.png"))) == 2


# ---- cameras


def camera_path(path: Path, **changes: Any) -> Path:
    """Two cameras, as the viewer writes them."""
    fov = 2 * np.degrees(np.arctan(0.5 * 20 / (FOCAL * 28)))
    cameras = [
        {"camera_to_world": ring_pose(angle).flatten().tolist(), "fov": fov, "aspect": 1.4} for angle in (0.5, 1.5)
    ]
    values = {"camera_type": "perspective", "render_height": 20, "render_width": 28, "camera_path": cameras}
    path.write_text(json.dumps({**values, "fps": 24, "seconds": 1.0, **changes}))
    return path


def test_a_camera_path_may_be_followed(run: Path, tmp_path: Path) -> None:
    path, folder = camera_path(tmp_path / "path.json"), tmp_path / "answer"
    assert query(run, *RED, "--camera-path", str(path), "--output-dir", str(folder)) == 0
    assert list(answer_of(folder)["phrases"]["red"]["views"]) == ["00000", "00001"]
    masks = [pixels(folder / "red" / f"0000{number}_mask.png") for number in range(2)]
    assert masks[0].shape == (20, 28) and masks[0].any() and not np.array_equal(*masks)


# ---- mistakes


def mistakes(run: Path, tmp_path: Path, capsys, *options: str) -> str:
    """The one message of a command that fails, and leaves nothing."""
    before = files_of(tmp_path)
    capsys.readouterr()
    assert query(run, *options) == USER_ERROR
    said = capsys.readouterr().err.strip()
    assert said.startswith("nts: ") and said.count("nts: ") == 1 and "Traceback" not in said
    assert files_of(tmp_path) == before
    return " ".join(said.split())


@pytest.mark.parametrize(
    "options, message",
    [
        (["--prompts", "red", "--level", "huge"], "--level is 'huge'; it must be best, subpart, part, whole"),
        (["--prompts", "red", "--threshold", "nan"], "--threshold is nan"),
        (["--prompts", "red", "--threshold", "inf"], "--threshold is inf"),
        (["--prompts", "red", "--smoothing", "4"], "--smoothing is 4; the side of a square around a pixel is odd"),
        (["--prompts", "red", "--smoothing", "-3"], "--smoothing is -3"),
        (["--prompts", "red", "--negatives", " ; "], "There is no phrase in the negatives ' ; '"),
        (["--prompts", "red", "--negatives", "blue", "--language", "de"], "Give one of the two"),
        (["--prompts", "tea"], "has no vectors of tea. It has those of"),
        (["--prompts", "red", "--negatives", "tea"], "has no vectors of tea"),
        (["--prompts", "red", "--weights", "gone.npz"], "gone.npz is no table of phrases"),
        (["--prompts", "red", "--camera-path", "gone.json"], "There is no camera path gone.json"),
    ],
)
def test_what_the_user_has_to_change(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys, options: List[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in mistakes(run, tmp_path, capsys, *options, "--output-dir", "answer")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", "{", '{"render_height": 3, "render_width": 3, "camera_path": [{}]}', "3", "null"]
)
def test_a_file_that_is_no_camera_path_is_explained(run: Path, tmp_path: Path, capsys, content: str) -> None:
    (tmp_path / "path.json").write_text(content)
    options = [*RED, "--camera-path", str(tmp_path / "path.json"), "--output-dir", str(tmp_path / "answer")]
    assert "path.json is no camera path of nerfstudio's viewer" in mistakes(run, tmp_path, capsys, *options)


def test_an_empty_camera_path_is_explained(run: Path, tmp_path: Path, capsys) -> None:
    path = camera_path(tmp_path / "path.json", camera_path=[])
    options = [*RED, "--camera-path", str(path), "--output-dir", str(tmp_path / "answer")]
    assert "path.json" in mistakes(run, tmp_path, capsys, *options)


def test_only_pinhole_cameras_are_drawn(run: Path, tmp_path: Path, capsys) -> None:
    path = camera_path(tmp_path / "path.json", camera_type="fisheye")
    options = [*RED, "--camera-path", str(path), "--output-dir", str(tmp_path / "answer")]
    assert "pinhole" in mistakes(run, tmp_path, capsys, *options)


def test_vectors_of_another_space_are_explained(run: Path, tmp_path: Path, capsys) -> None:
    table = phrase_table(tmp_path / "longer.npz", width=16)
    options = [*RED, "--weights", str(table), "--output-dir", str(tmp_path / "answer")]
    assert "16" in mistakes(run, tmp_path, capsys, *options)


def test_an_answer_is_replaced_on_demand_only(run: Path, tmp_path: Path, capsys) -> None:
    folder = tmp_path / "answer"
    common = ["--views", "none", "--output-dir", str(folder)]
    assert query(run, "--prompts", "red", *common) == 0
    before = (folder / "answer.json").read_bytes()
    assert "holds an answer. Choose another" in mistakes(run, tmp_path, capsys, "--prompts", "blue", *common)
    assert (folder / "answer.json").read_bytes() == before
    # One that fails leaves what was there.
    assert "has no vectors" in mistakes(run, tmp_path, capsys, "--prompts", "tea", *common, "--overwrite")
    assert (folder / "answer.json").read_bytes() == before
    assert query(run, "--prompts", "blue", *common, "--overwrite") == 0
    assert files_of(folder) == ["answer.json", "blue/splats.ply"] and list(tmp_path.iterdir()) == [folder]


def test_other_files_are_never_removed(run: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("mine")
    options = [*RED, "--overwrite", "--output-dir"]
    assert "holds other files" in mistakes(run, tmp_path, capsys, *options, str(tmp_path / "mine"))
    for place in ("mine/file", "mine/file/below"):
        assert "is a file, and the answer needs a folder" in mistakes(
            run, tmp_path, capsys, *options, str(tmp_path / place)
        )
    (tmp_path / "empty").mkdir()
    assert query(run, *RED, "--views", "none", "--output-dir", str(tmp_path / "empty")) == 0


def test_a_failure_in_the_middle_leaves_nothing(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nts_plugins.models.language import LanguageModel

    def full(self: Any, *_: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(LanguageModel, "relevancy", full)
    assert query(run, *RED, "--output-dir", str(tmp_path / "new" / "answer")) == USER_ERROR
    assert not files_of(tmp_path)


def test_a_run_of_another_method_is_explained(scene: Scene, tmp_path: Path, capsys) -> None:
    other = runs.train("splat", scene.capture, tmp_path / "outputs", 2)
    said = mistakes(other, tmp_path, capsys, *RED, "--output-dir", str(tmp_path / "answer"))
    assert "is of a method whose splats know no language. Train langsplat" in said


@pytest.mark.parametrize(
    "options, message", [(["--prompts", " ; "], "nothing to look for"), (["--prompts", ""], "nothing to look for"),
                         (["--prompts", "red", "--negatives", ";"], "There is no phrase in the negatives ';'"),
                         (["--prompts", "red", "--negatives", "a", "--language", "zh"], "--language zh")]
)  # fmt: skip
def test_what_needs_no_run_is_refused_before_one_is_loaded(
    run: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch, options: List[str], message: str
) -> None:
    def load_run(config: Path) -> Any:
        raise AssertionError("a run takes a while")

    monkeypatch.setattr("nts_plugins.cli._runs.load_run", load_run)
    assert message in mistakes(run, tmp_path, capsys, *options, "--output-dir", str(tmp_path / "answer"))


def test_a_missing_run_is_explained(tmp_path: Path, capsys) -> None:
    said = mistakes(tmp_path / "gone", tmp_path, capsys, *RED, "--output-dir", str(tmp_path / "answer"))
    assert "There is no file" in said and not list(tmp_path.iterdir())


def test_a_training_that_was_broken_off_has_no_language_yet(scene: Scene, tmp_path: Path, capsys) -> None:
    trainer = runs.trainer("langsplat", scene.capture, tmp_path / "outputs", 30, *asking(scene.table))
    trainer.save_checkpoint(0)
    said = mistakes(trainer.base_dir, tmp_path, capsys, *RED, "--output-dir", str(tmp_path / "answer"))
    assert "no language yet: it comes when training ends" in said
