# SPDX-License-Identifier: Apache-2.0
"""What splats with language answer: where, on which level, how sure.

Regions of the tests' capture have features that are axes of a space of eight dimensions, so that phrases can be these
axes. The last one, of no region, is what all canonical phrases are.
"""

import math
from pathlib import Path
from typing import Any, List

import pytest
import torch
from torch import Tensor

from nts_plugins.errors import InputError
from tests import runs
from tests.asking import (
    COLORS,
    Scene,
    asking,
    first_camera,
    phrase_table,
    views_of,
    with_splats,
    write_scene,
)
from tests.captures import blobs

CERTAIN = 1 / (1 + math.exp(-10))
"""Relevancy of a feature that is the phrase, and at right angles to what the phrase has to beat."""


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return write_scene(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def lifted(scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The pipeline of a run on the true splats."""
    output = tmp_path_factory.mktemp("lifted")
    return runs.load(runs.train("langsplat", scene.capture, output, 1000, *with_splats(scene.splats, scene.table)))


@pytest.mark.parametrize("exact", [True, False])
def test_a_colour_is_found_where_it_is(lifted: Any, exact: bool) -> None:
    model, common, either = lifted.model, torch.zeros(3), torch.zeros(3)
    inside: List[Tensor] = []
    outside: List[Tensor] = []
    for camera, brightest in views_of(lifted.datamanager.train_dataset):
        for channel, color in enumerate(COLORS):
            others = ";".join(each for each in COLORS if each != color)
            relevancy, there = model.relevancy(camera, model.ask(color, others), exact)
            own, is_it = relevancy[0, ..., 0], brightest == channel
            there = there[0]
            assert not own[~there].any(), "where nothing is drawn nothing is relevant"
            inside.append(own[there & is_it])
            outside.append(own[there & ~is_it & (brightest >= 0)])
            common[channel] += (is_it & (own > 0.5)).sum()
            either[channel] += (there & is_it | (own > 0.5)).sum()
    assert (common / either > 0.6).all(), common / either
    assert torch.cat(inside).mean() > 0.7 and torch.cat(outside).mean() < 0.2


def test_exact_and_fast_cosines_find_the_same(lifted: Any) -> None:
    question = lifted.model.ask("red;blue part", "green;green part;blue;red part")
    for camera, _ in views_of(lifted.datamanager.eval_dataset):
        exact, fast = (lifted.model.relevancy(camera, question, each)[0] for each in (True, False))
        decided = (exact - 0.5).abs() > 1e-5
        assert torch.equal((exact > 0.5) & decided, (fast > 0.5) & decided)
        assert float((exact - fast).abs().max()) < 0.1 and not torch.equal(exact, fast)


@pytest.mark.parametrize("exact", [True, False])
def test_relevancy_of_a_thing_that_fills_a_level_is_known(lifted: Any, exact: bool) -> None:
    question = lifted.model.ask("anything lit")
    relevancy, there = lifted.model.relevancy(first_camera(lifted), question, exact)
    assert relevancy.shape == (*there.shape, 1) and there.any() and not there.all()
    whole = relevancy[2, there[2]]
    torch.testing.assert_close(whole, torch.full_like(whole, CERTAIN), atol=1e-3, rtol=0)
    assert not relevancy[~there].any()
    of_splats = lifted.model.splat_relevancy(question)
    assert of_splats.shape == (40, 3, 1)
    torch.testing.assert_close(of_splats[:, 2, 0], torch.full((40,), CERTAIN), atol=1e-3, rtol=0)


def test_splats_are_what_they_look_like(lifted: Any) -> None:
    relevancy = lifted.model.splat_relevancy(lifted.model.ask("red;green;blue"))[:, 0]
    colors = blobs().colors
    clear = colors.sort(dim=1).values.diff(dim=1)[:, 1] > 0.3  # One channel is far ahead of the others.
    assert clear.sum() > 10
    agree = relevancy.argmax(dim=1) == colors.argmax(dim=1)
    assert agree[clear].float().mean() > 0.9


def test_splats_at_right_angles_to_all_that_is_asked_have_language_all_the_same(lifted: Any) -> None:
    """Those of the first level to a phrase of the second: no vector of the question is like them, so that it is a draw,
    as it is for pixels. Zero is the relevancy of splats that no picture shows."""
    question = lifted.model.ask("red part")
    relevancy, there = lifted.model.relevancy(first_camera(lifted), question)
    fine = relevancy[0, there[0]]
    torch.testing.assert_close(fine, torch.full_like(fine, 0.5))
    torch.testing.assert_close(lifted.model.splat_relevancy(question)[:, 0], torch.full((40, 1), 0.5))


def test_each_phrase_is_best_on_the_level_of_its_things(lifted: Any) -> None:
    phrases = {"red": 0, "blue part": 1, "anything lit": 2}
    question = lifted.model.ask(";".join(phrases))
    assert lifted.model.splat_relevancy(question).amax(dim=0).argmax(dim=0).tolist() == list(phrases.values())
    relevancy, _ = lifted.model.relevancy(first_camera(lifted), question)
    assert relevancy.flatten(1, 2).amax(dim=1).argmax(dim=0).tolist() == list(phrases.values())


def test_a_table_of_another_space_is_explained(scene: Scene, lifted: Any, tmp_path: Path) -> None:
    """Its vectors are longer than features are, so that nothing can be compared."""
    head = lifted.model.head
    known = head._text
    head._text, head.config.text_weights = None, phrase_table(tmp_path / "longer.npz", width=16)
    try:
        with pytest.raises(InputError, match="16"):
            lifted.model.splat_relevancy(lifted.model.ask("red"))
    finally:
        head._text, head.config.text_weights = known, scene.table


def test_before_training_ends_there_is_nothing_to_ask(scene: Scene, tmp_path: Path) -> None:
    trainer = runs.trainer("langsplat", scene.capture, tmp_path, 10, *asking(scene.table))
    with pytest.raises(InputError, match="no language yet: it comes when training ends"):
        trainer.pipeline.model.ask("red")


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("prompts", "zebra", "has no vectors of zebra"),
        ("prompts", ";", "There is nothing to look for"),
        ("text-weights", "gone.npz", "gone.npz, which is said to hold the weights of the text tower"),
    ],
)
def test_what_cannot_be_asked_ends_a_training_before_it_begins(
    scene: Scene, tmp_path: Path, option: str, value: str, said: str
) -> None:
    with pytest.raises(InputError, match=said):
        options = asking(scene.table, f"--pipeline.model.language.{option}", value)
        runs.trainer("langsplat", scene.capture, tmp_path / "outputs", 10, *options)
    assert not (tmp_path / "outputs").exists()


def test_true_splats_draw_the_photographs(lifted: Any) -> None:
    for index, (camera, _) in enumerate(views_of(lifted.datamanager.eval_dataset)):
        photograph = lifted.datamanager.eval_dataset.get_image_uint8(index)
        shown = lifted.model.get_outputs_for_camera(camera)["rgb"]
        torch.testing.assert_close(shown, photograph / 255, atol=0.6 / 255, rtol=0)
