# SPDX-License-Identifier: Apache-2.0
"""Which depth pictures agree on: two cameras before a painted plane, whose depth is known."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, Dict, List

import pytest
import torch
from torch import Tensor

from nts_plugins.surfaces import agreement
from nts_plugins.surfaces.agreement import Drawn, best_depth, differences
from nts_plugins.surfaces.depth_views import DepthView
from tests.surfaces.views import of_plane, viewmat_at

POSITIONS = [[0.0, 0.0, 0.0], [0.5, 0.1, 0.0], [-0.4, 0.2, 0.1], [0.0, 0.0, 0.0]]
"""Of cameras; the last one stands where the first one does."""


def seen_from(position: "list[float]", **factors: float) -> Drawn:
    """A plane painted with waves, and its depth times a factor each."""
    truth = of_plane(viewmat_at(position), [0.1, 0.05, 1.0], 5.0)
    points = truth.points_at(truth.pixels())
    waves = torch.stack([points[:, 0].sin(), points[:, 1].cos(), (0.7 * points.sum(dim=1)).sin()], dim=1)
    rgb = (0.5 + 0.4 * waves).reshape(*truth.size, 3)
    return Drawn(rgb, {name: replace(truth, depth=factor * truth.depth) for name, factor in factors.items()})


def test_the_true_depth_agrees() -> None:
    here, there = (seen_from(position, right=1.0, wrong=1.04) for position in POSITIONS[:2])
    found = differences(here, there)
    pixels = here.rgb[..., 0].numel()
    assert 0 < found["right"] < 0.001 * pixels, "what bilinear interpolation leaves"
    assert found["wrong"] > 3 * found["right"]


def test_pixels_count_where_every_depth_has_a_surface_in_both() -> None:
    here, there = (seen_from(position, right=1.0, wrong=1.04) for position in POSITIONS[:2])
    whole = differences(here, there)
    depth = here.views["wrong"].depth.clone()
    depth[:, :20] = 0.0
    half = differences(Drawn(here.rgb, {**here.views, "wrong": replace(here.views["wrong"], depth=depth)}), there)
    assert 0 < half["right"] < whole["right"] and 0 < half["wrong"] < whole["wrong"]
    nothing = replace(here.views["wrong"], depth=torch.zeros_like(depth))
    assert differences(Drawn(here.rgb, {**here.views, "wrong": nothing}), there) == {"right": 0.0, "wrong": 0.0}


def pipeline_of(positions: List[List[float]]) -> Any:
    poses = torch.eye(4)[:3].repeat(len(positions), 1, 1)
    poses[:, :, 3] = torch.tensor(positions)
    cameras = Cameras(poses)
    return SimpleNamespace(model=None, datamanager=SimpleNamespace(train_dataset=SimpleNamespace(cameras=cameras)))


class Cameras:
    """Poses, and what remembers which one was asked for."""

    def __init__(self, camera_to_worlds: Tensor) -> None:
        self.camera_to_worlds = camera_to_worlds

    def __getitem__(self, which: slice) -> "Cameras":
        return Cameras(self.camera_to_worlds[which])


@pytest.mark.parametrize("factors, best", [({"a": 1.0, "b": 1.04}, "a"), ({"a": 0.96, "b": 1.0}, "b")])
def test_the_best_of_two(monkeypatch: pytest.MonkeyPatch, factors: Dict[str, float], best: str) -> None:
    drawn = []

    def draw(model: Any, camera: Cameras, names: Any) -> Drawn:
        drawn.append(camera.camera_to_worlds[0, :, 3].tolist())
        return seen_from(drawn[-1], **{name: factors[name] for name in names if name in factors})

    monkeypatch.setattr(agreement, "draw", draw)
    steps: List[Any] = []
    assert best_depth(pipeline_of(POSITIONS), ("c", "a", "b"), lambda *step: steps.append(step)) == best
    assert steps[0] == (0, 4) and steps[-1] == (4, 4)
    # Of the first camera and of the one in its place: both others, and never the one that sees the same.
    assert drawn[:3] == [pytest.approx(POSITIONS[number]) for number in (0, 2, 1)]
    assert drawn[-3:] == [pytest.approx(POSITIONS[number]) for number in (3, 2, 1)]
    assert best_depth(pipeline_of(POSITIONS), ("a",)) == "a", "there is nothing to choose"
    assert best_depth(pipeline_of(POSITIONS[:1]), ("a", "b")) == "a", "one camera has no neighbour"


def test_what_no_method_draws_is_named_later() -> None:
    model = SimpleNamespace(get_outputs_for_camera=lambda camera: {"rgb": torch.zeros(2, 2, 3)})
    pipeline = pipeline_of(POSITIONS)
    pipeline.model = model
    with pytest.MonkeyPatch.context() as patch:
        lens = SimpleNamespace(Ks=torch.eye(3)[None], viewmats=torch.eye(4)[None])
        patch.setattr(agreement, "view_of", lambda camera, poses: lens)
        assert best_depth(pipeline, ("a", "b")) is None, "fusing then names both"


def test_what_a_model_draws_is_taken_where_it_is_solid() -> None:
    outputs = {
        "rgb": torch.rand(4, 5, 3),
        "accumulation": torch.tensor([0.9, 0.1, 0.9, 0.9, 0.9]).expand(4, 5)[..., None],
        "surface_depth": torch.full((4, 5, 1), 2.0),
        "depth": torch.full((4, 5, 1), 3.0),
    }
    lens = SimpleNamespace(Ks=torch.eye(3)[None], viewmats=torch.eye(4)[None])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(agreement, "view_of", lambda camera, poses: lens)
        model = SimpleNamespace(get_outputs_for_camera=lambda camera: outputs)
        drawn = agreement.draw(model, SimpleNamespace(camera_to_worlds=None), ("surface_depth", "depth", "other"))
    assert list(drawn.views) == ["surface_depth", "depth"] and drawn.rgb is outputs["rgb"]
    assert isinstance(drawn.views["depth"], DepthView)
    assert drawn.views["depth"].depth[0].tolist() == [3.0, 0.0, 3.0, 3.0, 3.0]
    assert drawn.views["surface_depth"].depth[0].tolist() == [2.0, 0.0, 2.0, 2.0, 2.0]
