# SPDX-License-Identifier: Apache-2.0
"""Splats that get language: after which training, from which splats, what is kept, and what becomes of the splats.

Regions of the tests' capture have features that are axes of a space of eight dimensions, so that phrases can be these
axes; see ``test_language_answers`` for what is answered.
"""

import shutil
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Tuple

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from nts_plugins.cli.main import main
from nts_plugins.data.features import FeatureStore, key_of
from nts_plugins.encoders.base import Regions
from nts_plugins.errors import InputError
from nts_plugins.files import ply
from nts_plugins.models._loaded import loaded_splats
from nts_plugins.training import checkpoints
from nts_plugins.training.pipeline import SplatPipeline
from tests import runs
from tests.asking import (
    QUICK,
    Scene,
    asking,
    first_camera,
    true_splats,
    views_of,
    with_splats,
    write_scene,
)
from tests.captures import ENCODER, write_capture


class Ended(NamedTuple):
    """A short training that has ended, whose features were removed afterwards."""

    run: Path
    model: Any
    data: Any


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return write_scene(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def ended(scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> Ended:
    folder = tmp_path_factory.mktemp("ended")
    shutil.copytree(scene.capture, folder / "capture")
    trainer = runs.trainer("langsplat", folder / "capture", folder / "outputs", 40, *QUICK, *asking(scene.table))
    trainer.train()
    shutil.rmtree(folder / "capture" / "features")
    return Ended(trainer.base_dir, trainer.pipeline.model.eval(), trainer.pipeline.datamanager)


@pytest.fixture
def no_steps_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From when it is called on, training has no steps."""

    def step(self: Any, step: int) -> Any:
        raise AssertionError("There is nothing to train.")

    return lambda: monkeypatch.setattr(SplatPipeline, "get_train_loss_dict", step)


@pytest.fixture
def no_steps(no_steps_after: Callable[[], None]) -> None:
    no_steps_after()


def splats_of(model: Any) -> Dict[str, Tensor]:
    return {name: model.gauss_params[name].detach().clone() for name in ply.VALUES}


def same_splats(first: Dict[str, Tensor], second: Dict[str, Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in ply.VALUES)


# ---- checkpoints


def test_a_training_that_ends_while_language_is_lifted_goes_on_from_there(
    scene: Scene, no_steps_after: Any, tmp_path: Path
) -> None:
    capture = Path(shutil.copytree(scene.capture, tmp_path / "capture"))
    arguments = ["langsplat", capture, tmp_path / "outputs", 40, *QUICK, *asking(scene.table)]
    trainer = runs.trainer(*arguments)
    shutil.move(capture / "features", tmp_path / "features")
    with pytest.raises(InputError, match="There are no features in"):
        trainer.train()
    path = runs.checkpoint(trainer.base_dir)
    splats = splats_of(trainer.pipeline.model)
    assert path.name == "step-000000039.ckpt" and not trainer.pipeline.model.head.fit.ready
    shutil.move(tmp_path / "features", capture / "features")
    no_steps_after()
    again = [*arguments, "--load-dir", str(path.parent)]
    trainer = runs.trainer(*again)
    trainer.train()
    found = runs.load(trainer.base_dir)
    assert runs.checkpoint(trainer.base_dir).name == path.name and same_splats(splats_of(found.model), splats)
    assert bool(found.model.splat_relevancy(found.model.ask("red")).any())
    with pytest.raises(SystemExit):  # Now it has all there is.
        runs.trainer(*again)


def test_a_checkpoint_answers_without_the_features(ended: Ended) -> None:
    found = runs.load(ended.run)
    assert found.model.head.encoder == ENCODER and found.model.num_points == ended.model.num_points
    for model in (found.model, ended.model):
        assert bool((model.gauss_params["language"] >= 0).any()), "a training this short sees something"
    question = found.model.ask("red;green part")
    theirs = ended.model.ask("red;green part")
    assert torch.equal(question.vectors, theirs.vectors)
    assert torch.equal(found.model.splat_relevancy(question), ended.model.splat_relevancy(theirs))
    camera = first_camera(found)
    for exact in (True, False):
        assert torch.equal(
            found.model.relevancy(camera, question, exact)[0], ended.model.relevancy(camera, theirs, exact)[0]
        )
    first, second = (model.get_outputs_for_camera(camera) for model in (found.model, ended.model))
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_what_is_kept_is_two_bytes_a_splat_and_level(ended: Ended) -> None:
    state = checkpoints.read(runs.checkpoint(ended.run))["pipeline"]
    codes = state["_model.gauss_params.language"]
    assert codes.dtype == torch.int16 and codes.shape == (ended.model.num_points, 3)


def test_levels_of_other_names_are_known_after_loading(scene: Scene, tmp_path: Path) -> None:
    capture = write_capture(tmp_path / "capture", views=4, size=(24, 18))
    store = FeatureStore(capture / "features" / "own", "colours of others")
    for path in sorted((capture / "images").iterdir()):
        picture = np.asarray(Image.open(path))
        brightest = torch.from_numpy(picture.argmax(axis=2)).int()
        store.write(key_of(picture), Regions(brightest.expand(2, -1, -1), torch.eye(8)[:3], ("fine", "coarse")), "")
    run = runs.train("langsplat", capture, tmp_path / "outputs", 10, *with_splats(scene.splats, scene.table))
    model = runs.load(run).model
    assert model.head.levels == ("fine", "coarse") and model.gauss_params["language"].shape == (40, 2)
    assert model.splat_relevancy(model.ask("red")).shape == (40, 2, 1)
    assert model.head.panel.level.options == ["best", "fine", "coarse"]


# ---- splats that are there


def test_a_checkpoints_splats_get_language_without_training(
    scene: Scene, ended: Ended, no_steps: None, tmp_path: Path
) -> None:
    source = shutil.copy(runs.checkpoint(ended.run), tmp_path / "splats.ckpt")
    options = asking(scene.table, "--pipeline.model.load-splats", str(source))
    run = runs.train("langsplat", scene.capture, tmp_path / "outputs", 500, *options)
    Path(source).unlink()  # The run has them now.
    found = runs.load(run)
    assert same_splats(splats_of(found.model), splats_of(ended.model))
    assert float(ended.model.exposure.log_factors.detach().abs().max()) > 1e-3, "photographs were taken unevenly"
    for camera, _ in views_of(found.datamanager.train_dataset)[:2] + views_of(found.datamanager.eval_dataset):
        first, second = (model.get_outputs_for_camera(camera)["rgb"] for model in (found.model, ended.model))
        assert torch.equal(first, second)
    question = found.model.ask("red;anything lit")
    assert torch.equal(found.model.splat_relevancy(question), ended.model.splat_relevancy(question))


def test_a_run_without_steps_ends_as_others_do(
    scene: Scene, no_steps: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """With nerfstudio's line of the last step, in a process that never made one."""
    from nerfstudio.utils import writer

    monkeypatch.delitem(writer.GLOBAL_BUFFER, "step", raising=False)
    options = ["--logging.local-writer.enable", "True", *with_splats(scene.splats, scene.table)]
    run = runs.train("langsplat", scene.capture, tmp_path / "outputs", 500, *options)
    assert runs.checkpoint(run).is_file() and "Training Finished" in capsys.readouterr().out


def test_a_files_splats_get_language_without_training(
    scene: Scene, ended: Ended, no_steps: None, tmp_path: Path
) -> None:
    folder = tmp_path / "exported"
    assert main(["export", "--load-config", str(ended.run / "config.yml"), "--output-dir", str(folder)]) == 0
    options = asking(scene.table, "--pipeline.model.load-splats", str(folder / "splats.ply"))
    found = runs.load(runs.train("langsplat", scene.capture, tmp_path / "outputs", 500, *options))
    wanted = ply.exported(splats_of(ended.model))
    assert same_splats(splats_of(found.model), wanted)
    # A file knows no exposure.
    ended.model.exposes, exposes = False, ended.model.exposes
    try:
        expected = ended.model.get_outputs_for_camera(first_camera(found))["rgb"]
    finally:
        ended.model.exposes = exposes
    shown = found.model.get_outputs_for_camera(first_camera(found))["rgb"]
    torch.testing.assert_close(shown, expected, atol=1 / 255, rtol=0)


@pytest.mark.parametrize("degree, bands", [(0, 0), (1, 3), (3, 15)])
def test_harmonics_are_cut_off_or_filled_up(tmp_path: Path, degree: int, bands: int) -> None:
    rest = torch.randn(40, 8, 3, generator=torch.Generator().manual_seed(0))
    values = true_splats(features_rest=rest)
    ply.write(tmp_path / "splats.ply", values)
    found, others = loaded_splats(tmp_path / "splats.ply", degree)
    assert not others and found["features_rest"].shape == (40, bands, 3)
    shared = min(bands, 8)
    assert torch.equal(found["features_rest"][:, :shared], rest[:, :shared])
    assert not found["features_rest"][:, shared:].any()
    assert same_splats({**found, "features_rest": rest}, values)


def test_splats_that_are_not_finite_are_left_out(tmp_path: Path) -> None:
    broken = true_splats()
    broken["means"] = broken["means"].clone()
    broken["means"][3, 1] = torch.nan
    ply.write(tmp_path / "splats.ply", broken)
    found, _ = loaded_splats(tmp_path / "splats.ply", 3)
    assert torch.equal(found["means"], torch.cat([broken["means"][:3], broken["means"][4:]]))


def test_a_file_of_another_degree_is_drawn_with_all_of_it(scene: Scene, tmp_path: Path) -> None:
    rest = 0.2 * torch.randn(40, 3, 3, generator=torch.Generator().manual_seed(0))
    values = true_splats(features_rest=rest)
    ply.write(tmp_path / "splats.ply", values)
    options = with_splats(tmp_path / "splats.ply", scene.table)
    found = runs.load(runs.train("langsplat", scene.capture, tmp_path / "outputs", 10, *options))
    assert found.model.features_rest.shape == (40, 15, 3)
    before = found.model.get_outputs_for_camera(first_camera(found))["rgb"]
    found.model.gauss_params["features_rest"].data.zero_()
    assert float((found.model.get_outputs_for_camera(first_camera(found))["rgb"] - before).abs().max()) > 0.05


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("gone.ply", None, "There is no file"),
        ("gone.ckpt", None, "There is no checkpoint"),
        ("text.ply", b"no splats", "cannot be read"),
        ("text.ckpt", b"no splats", "cannot be read"),
        ("folder.ckpt", "folder", "There is no checkpoint"),
        ("state.ckpt", "state", "lacks"),
        ("empty.ply", "empty", "no splats"),
    ],
)
def test_splats_that_cannot_be_read_leave_no_run(
    scene: Scene, tmp_path: Path, name: str, content: Any, message: str
) -> None:
    path = tmp_path / name
    if content == "folder":
        path.mkdir()
    elif content == "empty":
        ply.write(path, {name: value[:0] for name, value in true_splats().items()})
    elif content == "state":
        parts: Dict[str, Any] = dict.fromkeys(("optimizers", "schedulers", "scalers"), {})
        torch.save({**parts, "step": 3, "pipeline": {"_model.weights": torch.zeros(3)}}, path)
    elif content is not None:
        path.write_bytes(content)
    output = tmp_path / "outputs"
    with pytest.raises(InputError, match=message):
        runs.train("langsplat", scene.capture, output, 10, *with_splats(path, scene.table))
    assert not output.exists()


def test_loaded_splats_stay_while_codes_are_trained(scene: Scene, tmp_path: Path) -> None:
    options = ["--pipeline.model.language.fit", "sparse", "--pipeline.model.language.sparse.words", "8"]
    options = with_splats(scene.splats, scene.table, *options, *QUICK)
    trainer = runs.trainer("langsplat", scene.capture, tmp_path, 30, *options)
    model = trainer.pipeline.model
    before, codes = splats_of(model), model.gauss_params["language"].detach().clone()
    assert same_splats(before, loaded_splats(scene.splats, 3)[0])
    factors = model.exposure.log_factors.detach().clone()
    trainer.train()
    assert same_splats(splats_of(model), before) and torch.equal(model.exposure.log_factors, factors)
    assert not torch.equal(model.gauss_params["language"], codes)
    found = runs.load(trainer.base_dir).model
    assert same_splats(splats_of(found), before)
    assert torch.equal(found.gauss_params["language"], model.gauss_params["language"])
    assert torch.equal(found.head.fit.codebook, model.head.fit.codebook)


# ---- fits


def recorded(trainer: Any) -> List[Tuple[Dict[str, Tensor], Tensor]]:
    """Splats and codes before each step of a training, which is run."""
    seen: List[Tuple[Dict[str, Tensor], Tensor]] = []
    original, model = trainer.pipeline.get_train_loss_dict, trainer.pipeline.model

    def step(step: int) -> Any:
        seen.append((splats_of(model), model.gauss_params["language"].detach().clone()))
        return original(step=step)

    trainer.pipeline.get_train_loss_dict = step
    trainer.train()
    del trainer.pipeline.get_train_loss_dict
    seen.append((splats_of(model), model.gauss_params["language"].detach().clone()))
    return seen


def test_splats_stop_where_they_are_told(scene: Scene, tmp_path: Path) -> None:
    options = [
        *("--pipeline.model.splats-stop-step", "20", "--pipeline.model.language.start-step", "10"),
        *("--pipeline.model.language.fit", "sparse", "--pipeline.model.language.sparse.words", "8"),
    ]
    seen = recorded(runs.trainer("langsplat", scene.capture, tmp_path, 30, *options, *asking(scene.table)))
    assert len(seen) == 31
    moved = [not same_splats(seen[step][0], seen[step + 1][0]) for step in range(30)]
    learned = [not torch.equal(seen[step][1], seen[step + 1][1]) for step in range(30)]
    assert moved == [step < 20 for step in range(30)]
    assert learned == [step >= 10 for step in range(30)]


@pytest.mark.parametrize(
    "options",
    [
        ["--pipeline.model.splats-stop-step", "5"],
        [
            *("--pipeline.model.splats-stop-step", "5", "--pipeline.model.language.start-step", "10"),
            *("--pipeline.model.language.fit", "sparse", "--pipeline.model.language.sparse.words", "8"),
        ],
    ],
    ids=["language is lifted", "language comes later"],
)
def test_steps_in_which_nothing_is_trained_pass(scene: Scene, tmp_path: Path, options: List[str]) -> None:
    trainer = runs.trainer("langsplat", scene.capture, tmp_path, 12, *options, *asking(scene.table))
    trainer.train()
    assert 0 < float(trainer.pipeline.model.splat_relevancy(trainer.pipeline.model.ask("red")).max()) <= 1


def test_loaded_splats_get_codes_although_language_would_come_later(scene: Scene, tmp_path: Path) -> None:
    """As of the methods of the papers, whose language begins when splats are done."""
    options = [
        *("--pipeline.model.language.fit", "sparse", "--pipeline.model.language.sparse.words", "8"),
        *("--pipeline.model.language.start-step", "6"),
    ]
    options = with_splats(scene.splats, scene.table, *options)
    trainer = runs.trainer("langsplat", scene.capture, tmp_path, 12, *options)
    trainer.train()
    assert 0 < float(trainer.pipeline.model.splat_relevancy(trainer.pipeline.model.ask("red")).max()) <= 1


GATED = ["--pipeline.model.language.lift.gate", "True", "--pipeline.model.language.lift.rule", "median"]


@pytest.mark.parametrize(
    "fit, settings",
    [("lift", []), ("lift", GATED), ("sparse", []), ("autoencoder", [])],
    ids=["lift", "gated median", "sparse", "autoencoder"],
)
def test_every_fit_ends_with_an_answer(scene: Scene, tmp_path: Path, fit: str, settings: List[str]) -> None:
    options = [
        *settings,
        *("--pipeline.model.language.fit", fit, "--pipeline.model.language.sparse.words", "8"),
        *("--pipeline.model.language.autoencoder.epochs", "3"),
    ]
    run = runs.train(
        "langsplat", scene.capture, tmp_path, 15, *with_splats(scene.splats, scene.table, *options, *QUICK)
    )
    found = runs.load(run)
    question = found.model.ask("red;anything lit")
    of_splats = found.model.splat_relevancy(question)
    assert of_splats.shape == (40, 3, 2) and 0 <= float(of_splats.min()) and 0.5 < float(of_splats.max()) < 1
    for exact in (True, False):
        relevancy, there = found.model.relevancy(first_camera(found), question, exact)
        assert torch.isfinite(relevancy).all() and float(relevancy.max()) > 0.5
        assert there.any() and (relevancy[there] > 0).all() and not relevancy[~there].any()
