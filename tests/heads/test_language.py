# SPDX-License-Identifier: Apache-2.0
"""The language head: what it draws in training and for people, and what the viewer's panel does to splats."""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Dict, List, NamedTuple, Optional

import pytest
import torch
from nerfstudio.data.scene_box import OrientedBox
from torch import Tensor

from nts_plugins.data.cameras import view_of
from nts_plugins.data.features import FeatureStore, key_of
from nts_plugins.data.region_data import RegionFile, SceneRegions
from nts_plugins.encoders.base import LEVELS
from nts_plugins.errors import InputError
from nts_plugins.gaussians import Gaussians
from nts_plugins.gaussians.strategies import DefaultConfig
from nts_plugins.heads.language import LanguageHeadConfig
from nts_plugins.language.autoencoder import AutoencoderSettings
from nts_plugins.language.sparse import SparseSettings
from nts_plugins.models.language import LanguageModelConfig
from nts_plugins.queries.relevancy import on_level
from nts_plugins.viewer import language as panels
from tests.asking import phrase_table, set_to
from tests.captures import ENCODER, write_capture, write_regions
from tests.models.scenes import HEIGHT, WIDTH, Steps, camera, make_model, picture

SOLID: Dict[str, Any] = {"num_downscales": 0, "initial_opacity": 0.9, "initial_scale": 1.0}
CALM = DefaultConfig(refine_start_iter=1000)


class Pictures(NamedTuple):
    files: List[RegionFile]
    """Of four pictures around the blobs."""
    table: Path


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Pictures:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("data")
    store = FeatureStore(write_regions(write_capture(folder / "capture", views=4, size=(WIDTH, HEIGHT))), ENCODER)
    images = [picture(angle_of(number))["image"] for number in range(4)]
    files = [RegionFile(store, key_of(image.numpy())) for image in images]
    assert all(file.key in store for file in files)
    return Pictures(files, phrase_table(folder / "phrases.npz"))


def angle_of(number: int) -> float:
    return 2 * math.pi * number / 4


def untrained(pictures: Pictures, fit: Any = "lift", densify: DefaultConfig = CALM, **options: Any) -> Any:
    head = LanguageHeadConfig(
        fit=fit, text_weights=pictures.table, sparse=SparseSettings(words=8),
        autoencoder=AutoencoderSettings(epochs=2), **options,
    )  # fmt: skip
    config = LanguageModelConfig(language=head, densify=densify, **SOLID)
    return make_model(config, regions=SceneRegions(ENCODER, LEVELS, 8, tuple(pictures.files)))


def finished(model: Any, pictures: Pictures) -> Any:
    """The model when training has ended."""
    model.eval()
    cameras = [camera(angle_of(number)) for number in range(4)]
    seen = [(view_of(each, each.camera_to_worlds[..., :3, :4]), {"regions": file})
            for each, file in zip(cameras, pictures.files, strict=True)]  # fmt: skip
    model.finish(seen)
    return model


def trained(model: Any, pictures: Pictures, steps: int) -> List[float]:
    """Losses of steps in which each picture comes with its regions."""
    loop = Steps(model, lr=2e-2)
    return [float(loop.run(1, regions=pictures.files[step % 4])) for step in range(steps)]


@pytest.fixture(scope="module")
def lifted(pictures: Pictures) -> Any:
    return finished(untrained(pictures), pictures)


@pytest.fixture(autouse=True)
def fresh_panel(lifted: Any) -> Any:
    """Nothing is asked at first."""
    yield
    panel = lifted.head.panel
    for element in (panel.asked, panel.display, panel.each, panel.level, panel.least, panel.negatives):
        element.gui_handle = None
    lifted.set_crop(None)


# ---- what is drawn


def test_what_is_lifted_costs_nothing_in_training(pictures: Pictures) -> None:
    busy = DefaultConfig(refine_start_iter=3, refine_every=5, grow_grad2d=1e-6, reset_every=1000, max_splats=200)
    model = untrained(pictures, densify=busy)
    assert not [name for name in model.train().get_outputs(camera()) if name.startswith("language")]
    assert not model.gauss_params["language"].requires_grad and "language" not in model.get_param_groups()
    trained(model, pictures, 12)
    codes = model.gauss_params["language"]
    assert model.num_points != 50 and codes.shape == (model.num_points, 3) and (codes == -1).all()


@pytest.mark.parametrize("fit, channels", [("sparse", 3 * 8), ("autoencoder", 3 * 3)])
def test_codes_are_drawn_and_learned_in_training(pictures: Pictures, fit: str, channels: int) -> None:
    model = untrained(pictures, fit).train()
    outputs = model.get_outputs(camera())
    assert outputs["language_channels"].shape == (HEIGHT, WIDTH, channels)
    assert outputs["language_alphas"].shape == (HEIGHT, WIDTH, 1)
    batch = {**picture(), "regions": pictures.files[0]}
    model.get_loss_dict(outputs, batch)["language_loss"].backward()
    assert model.gauss_params["language"].grad.abs().sum() > 0
    for name in ("means", "scales", "quats", "opacities", "features_dc"):
        grad = model.gauss_params[name].grad
        assert grad is None or not grad.any(), f"language moved {name}"


@pytest.mark.parametrize("fit", ["sparse", "autoencoder"])
def test_the_loss_falls(pictures: Pictures, fit: str) -> None:
    model = untrained(pictures, fit).train()
    before, after = [], []
    for losses, steps in ((before, 0), (after, 40)):
        trained(model, pictures, steps)
        for number, file in enumerate(pictures.files):
            outputs = model.train().get_outputs(camera(angle_of(number)))
            batch = {**picture(angle_of(number)), "regions": file}
            losses.append(float(model.get_loss_dict(outputs, batch)["language_loss"].detach()))
    assert sum(after) < 0.8 * sum(before)


def test_the_weight_is_that_of_the_loss(pictures: Pictures) -> None:
    losses = []
    for weight in (1.0, 0.25):
        model = untrained(pictures, "sparse", weight=weight).train()
        batch = {**picture(), "regions": pictures.files[0]}
        losses.append(float(model.get_loss_dict(model.get_outputs(camera()), batch)["language_loss"].detach()))
    assert losses[1] == pytest.approx(0.25 * losses[0])


def test_pictures_may_be_trained_on_at_other_sizes_than_their_regions(pictures: Pictures) -> None:
    model = untrained(pictures, "sparse").train()
    model.resolution = replace(model.resolution, doublings=1, interval=10)
    outputs = model.get_outputs(camera())
    assert outputs["language_channels"].shape[:2] == (HEIGHT // 2, WIDTH // 2)
    loss = model.get_loss_dict(outputs, {**picture(), "regions": pictures.files[0]})["language_loss"]
    assert 0 < float(loss.detach()) < 2


@pytest.mark.parametrize("fit", ["lift", "sparse", "autoencoder"])
def test_before_there_is_language_evaluation_draws_the_scene_alone(pictures: Pictures, fit: str) -> None:
    outputs = untrained(pictures, fit, prompts="red").eval().get_outputs_for_camera(camera())
    assert not [name for name in outputs if name.startswith("language")]
    assert torch.isfinite(outputs["rgb"]).all() and outputs["accumulation"].max() > 0.5


def test_without_regions_there_is_nothing_to_learn_from(pictures: Pictures) -> None:
    head = LanguageHeadConfig(fit="sparse")
    model = make_model(LanguageModelConfig(language=head, **SOLID)).train()
    with pytest.raises(InputError, match="'language' learns from regions of the pictures"):
        model.get_outputs(camera())


def test_features_are_drawn_in_colours_that_stay(lifted: Any) -> None:
    first, second = (lifted.get_outputs_for_camera(camera()) for _ in range(2))
    pca = first["language_pca"]
    assert torch.equal(pca, second["language_pca"]) and "language_relevancy" not in first
    assert pca.shape == (HEIGHT, WIDTH, 3) and 0 <= float(pca.min()) and float(pca.max()) <= 1
    assert not pca[(first["accumulation"] == 0)[..., 0]].any()


def test_a_splats_colour_does_not_depend_on_what_else_is_shown(pictures: Pictures) -> None:
    model = finished(untrained(pictures), pictures)
    view = view_of(camera(), camera().camera_to_worlds[..., :3, :4])
    params = dict(model.gauss_params.items())
    params["language"].data[:7] = -1
    colors = model.head.channels(params, view)
    some = torch.arange(len(colors)) % 3 == 0
    assert torch.equal(model.head.channels({name: value[some] for name, value in params.items()}, view), colors[some])
    assert not colors[:7].any(), "what has no feature is black"
    assert (colors[7:].amax(dim=1) > 0).all()


def test_prompts_of_the_settings_are_looked_for(pictures: Pictures) -> None:
    model = finished(untrained(pictures, prompts="red; blue part"), pictures)
    outputs = model.get_outputs_for_camera(camera())
    found = outputs["language_relevancy"]
    assert found.shape == (HEIGHT, WIDTH, 1)
    relevancy, there = model.relevancy(camera(), model.ask("red; blue part"), exact=False)
    best = on_level(relevancy.permute(1, 2, 0, 3).flatten(0, 1)).amax(dim=1).unflatten(0, (HEIGHT, WIDTH))
    torch.testing.assert_close(found[..., 0], best, atol=1e-5, rtol=0)
    assert not found[~there.any(dim=0)].any() and float(found.max()) > 0.9


def test_negatives_of_the_settings_are_what_they_have_to_beat(pictures: Pictures) -> None:
    model = finished(untrained(pictures, prompts="red", negatives="red"), pictures)
    outputs = model.get_outputs_for_camera(camera())
    found, there = outputs["language_relevancy"], outputs["accumulation"] > 0.5
    torch.testing.assert_close(found[there], torch.full_like(found[there], 0.5))


# ---- the panel, in the viewer


def viewed(model: Any, box: Optional[OrientedBox] = None, **elements: Any) -> Tensor:
    """What the viewer, which draws in a thread of its own, shows with these elements."""
    set_to(model.head.panel, **elements)
    with ThreadPoolExecutor(1) as viewer:
        return viewer.submit(model.get_outputs_for_camera, camera(), box).result()["rgb"]


def expected(model: Any, change: Any) -> Tensor:
    """The picture of changed splats, by another model-wide way: parameters themselves."""
    kept = {name: value.data.clone() for name, value in model.gauss_params.items()}
    try:
        change(model.gauss_params)
        return model.get_outputs_for_camera(camera())["rgb"]
    finally:
        for name, value in kept.items():
            model.gauss_params[name].data = value


def test_the_panel_changes_what_the_viewer_shows_and_nothing_else(lifted: Any) -> None:
    rendered = lifted.get_outputs_for_camera(camera())["rgb"]
    found = lifted.splat_relevancy(lifted.ask("red", "green;blue"))[:, 0, 0] > 0.5
    assert 5 < int(found.sum()) < 45

    def hidden(which: Tensor) -> Any:
        return lambda params: params["opacities"].data.masked_fill_(which[:, None], -20.0)

    seen = {
        show: viewed(lifted, asked="red", negatives="green;blue", display=show)
        for show in lifted.head.panel.display.options
    }
    for show, picture_of in seen.items():
        assert picture_of.shape == rendered.shape and 0 <= picture_of.min() and picture_of.max() <= 1
        assert torch.equal(picture_of, rendered) == (show == panels.NOTHING), show
    torch.testing.assert_close(seen[panels.ONLY], expected(lifted, hidden(~found)), atol=2e-3, rtol=0)
    torch.testing.assert_close(seen[panels.WITHOUT], expected(lifted, hidden(found)), atol=2e-3, rtol=0)
    assert torch.equal(lifted.get_outputs_for_camera(camera())["rgb"], rendered)
    assert lifted.head.panel.said.value.startswith(f"{int(found.sum())} of 50 splats")


def test_the_viewer_draws_relevancy_of_what_is_asked(lifted: Any) -> None:
    set_to(lifted.head.panel, asked="red")
    with ThreadPoolExecutor(1) as viewer:
        outputs = viewer.submit(lifted.get_outputs_for_camera, camera()).result()
    assert outputs["language_relevancy"].shape == (HEIGHT, WIDTH, 1)
    assert "language_relevancy" not in lifted.get_outputs_for_camera(camera())


@pytest.mark.parametrize(("before", "after"), [("", "red"), ("red", ""), ("red", "red; green"), ("red; green", "blue")])
def test_what_is_typed_while_the_viewer_draws_comes_with_the_next_picture(
    lifted: Any, before: str, after: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    panel, shown = lifted.head.panel, lifted.head.shown

    def drawn() -> Dict[str, Tensor]:
        with ThreadPoolExecutor(1) as viewer:
            return viewer.submit(lifted.get_outputs_for_camera, camera()).result()

    def typed(*args: Any) -> Gaussians:
        set_to(panel, asked=after)
        return shown(*args)

    pictures = []
    for text in (before, after):
        set_to(panel, asked=text)
        pictures.append(drawn())
    set_to(panel, asked=before)
    with monkeypatch.context() as patch:
        patch.setattr(lifted.head, "shown", typed)
        found = [drawn()]
    found.append(drawn())
    for one, wanted in zip(found, pictures, strict=True):
        assert one.keys() == wanted.keys() and all(torch.equal(one[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize(
    "text, said",
    [("no such phrase", "has no vectors of no such phrase"), (" ; ", "nothing to look for"), ("红", "has no vectors")],
)
def test_what_cannot_be_asked_is_explained_and_the_scene_is_shown(lifted: Any, text: str, said: str) -> None:
    rendered = lifted.get_outputs_for_camera(camera())["rgb"]
    assert not torch.equal(viewed(lifted, asked="red"), rendered)
    assert torch.equal(viewed(lifted, asked=text), rendered)
    assert said in lifted.head.panel.said.value
    assert not torch.equal(viewed(lifted, asked="green"), rendered)
    assert "of 50 splats" in lifted.head.panel.said.value


def test_vectors_of_another_space_do_not_end_the_viewers_thread(pictures: Pictures, tmp_path: Path) -> None:
    model = finished(untrained(pictures), pictures)
    model.head.config.text_weights = phrase_table(tmp_path / "longer.npz", width=16)
    rendered = model.get_outputs_for_camera(camera())["rgb"]
    assert torch.equal(viewed(model, asked="red"), rendered)
    assert "16" in model.head.panel.said.value


def test_a_level_may_be_looked_on(lifted: Any) -> None:
    best, part = (viewed(lifted, asked="blue part", level=level, display=panels.ONLY) for level in ("best", "part"))
    assert torch.equal(best, part) and best.max() > 0.1
    viewed(lifted, asked="blue part", level="whole", display=panels.ONLY)
    assert lifted.head.panel.said.value.startswith("0 of 50 splats")


def test_looks_come_before_questions(lifted: Any) -> None:
    set_to(lifted.head.panel, asked="red", display=panels.ONLY)
    look = lifted.controls.look
    look.gui_handle = SimpleNamespace(value="Splat outlines")
    try:
        outlined = viewed(lifted)
        set_to(lifted.head.panel, asked="")
        assert torch.equal(viewed(lifted), outlined)
    finally:
        look.gui_handle = None


def test_what_is_asked_before_there_is_language_is_answered_afterwards(pictures: Pictures) -> None:
    model = untrained(pictures).eval()
    assert torch.equal(viewed(model, asked="red"), model.get_outputs_for_camera(camera())["rgb"])
    finished(model, pictures)
    assert not torch.equal(viewed(model), model.get_outputs_for_camera(camera())["rgb"])
    assert "of 50 splats" in model.head.panel.said.value


def test_another_question_has_another_answer(lifted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it comes to lie in memory where the one before was, which nobody holds any more: Python's numbers of
    objects come again. Here they all have the same."""
    monkeypatch.setattr("nts_plugins.heads.language.id", lambda _: 1, raising=False)
    for phrase in ("red", "green", "blue", "anything lit"):
        viewed(lifted, asked=phrase)
        wanted = on_level(lifted.splat_relevancy(lifted.ask(phrase)))
        difference = float((lifted.head._answer[3] - wanted).abs().max())
        assert difference < 1e-5, f"an answer to another question than {phrase}"


def test_other_splats_have_another_answer(lifted: Any) -> None:
    """Crop boxes with as many splats each, whose codes may come to lie where those of the other were."""
    order = lifted.means.detach()[:, 0].argsort()
    places = lifted.means.detach()[order, 0]
    boxes = []
    for first in range(0, 40, 5):
        low, high = ((places[max(0, i - 1)] + places[i]) / 2 for i in (first, first + 10))
        boxes.append(
            OrientedBox(
                torch.eye(3),
                torch.stack([(low + high) / 2, *torch.zeros(2)]),
                torch.stack([high - low, *torch.full((2,), 9.0)]),
            )
        )
    question = lifted.ask("red", "green;blue")
    everywhere = lifted.splat_relevancy(question)
    counts = set()
    for box in boxes * 3:
        inside = box.within(lifted.means).reshape(-1)
        counts.add(int(inside.sum()))
        viewed(lifted, box, asked="red", negatives="green;blue")
        difference = float((lifted.head._answer[3] - on_level(everywhere[inside])).abs().max())
        assert difference < 1e-5, "an answer of other splats"
    assert len(counts) < len(boxes), "some boxes hold as many splats as others"


def test_codes_that_lie_where_others_were_have_another_answer(lifted: Any) -> None:
    """Cropped codes are made anew for each frame, mostly in the memory of the frame before."""
    codes = lifted.gauss_params["language"].detach()
    place = codes[:20].numpy().copy()
    splats = Gaussians(torch.zeros(20, 3), torch.ones(20, 4), torch.ones(20, 3), torch.ones(20), torch.zeros(20, 1, 3))
    set_to(lifted.head.panel, asked="red")
    shot = camera()

    def draw() -> None:
        params = {"language": torch.from_numpy(place)}
        lifted.head.channels(params, view_of(shot, shot.camera_to_worlds))
        lifted.heads.shown(splats, params)

    for which in (slice(0, 20), slice(20, 40)):
        place[:] = codes[which].numpy()
        with ThreadPoolExecutor(1) as viewer:
            viewer.submit(draw).result()
        wanted = on_level(lifted.splat_relevancy(lifted.ask("red"))[which])
        assert float((lifted.head._answer[3] - wanted).abs().max()) < 1e-5, "an answer of other splats"


@pytest.mark.parametrize("fit", ["sparse", "autoencoder"])
def test_the_viewers_answer_follows_the_training(pictures: Pictures, fit: str) -> None:
    model = untrained(pictures, fit).train()
    loop = Steps(model, lr=2e-2)
    for step in range(6):
        loop.run(1, regions=pictures.files[step % 4])
        model.eval()
        viewed(model, asked="red", negatives="green;blue")
        now = on_level(model.splat_relevancy(model.ask("red", "green;blue")))
        difference = float((model.head._answer[3] - now).abs().max())
        assert difference < 1e-5, f"the answer of an earlier step in step {step}"
