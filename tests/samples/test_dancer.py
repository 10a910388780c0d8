# SPDX-License-Identifier: Apache-2.0
"""The dancer stays in one piece, moves as slowly as in a film, and is in every picture whole."""

import json
from typing import get_args

import numpy as np
import pytest

from nts_plugins.cli.main import main
from nts_plugins.cli.sample import Sample
from nts_plugins.samples import SampleConfig, build_dancer, circle
from nts_plugins.samples._config import SCENES
from nts_plugins.samples.dancer import FLOOR
from nts_plugins.samples.scene import Joint, solid_bounds
from nts_plugins.samples.writer import MAKERS

CONFIG = SampleConfig.of("dancer")
MOMENTS = [CONFIG.time(view) for view in range(CONFIG.views // CONFIG.cameras)]


@pytest.fixture(scope="module")
def parts():
    """Every moving solid of the dancer."""
    return [solid for solid in build_dancer(CONFIG).solids if solid.motion is not None]


def joints_of(solid):
    """The joints from a part up to the whole figure."""
    found, motion = [], solid.motion
    while isinstance(motion, Joint):
        found.append(motion)
        motion = motion.carrier
    return found


def test_everything_is_where_it_was_built_at_time_0(parts):
    assert len(parts) > 15
    for solid in parts:
        np.testing.assert_allclose(solid.motion.at(0.0), np.eye(4), atol=1e-12)


def test_parts_hang_together(parts):
    """The point about which a part turns is the same on what carries it."""
    turning = {id(joint): joint for solid in parts for joint in joints_of(solid) if hasattr(joint.motion, "pivot")}
    assert len(turning) == 10, "waist, neck, and of both sides shoulder, elbow, hip and knee"
    for joint in turning.values():
        pivot = np.array([*joint.motion.pivot, 1.0])
        for time in MOMENTS:
            np.testing.assert_allclose(joint.at(time) @ pivot, joint.carrier.at(time) @ pivot, atol=1e-12)


def test_nothing_turns_far_between_two_moments(parts):
    fastest = 0.0
    for solid in parts:
        for before, after in zip(MOMENTS[:-1], MOMENTS[1:], strict=True):
            between = solid.motion.at(after)[:3, :3] @ solid.motion.at(before)[:3, :3].T
            fastest = max(fastest, np.degrees(np.arccos(np.clip((np.trace(between) - 1) / 2, -1, 1))))
    assert 6.0 < fastest < 12.0


def test_feet_stay_above_the_floor(parts):
    lowest = min(solid_bounds(solid, time)[0][2] for solid in parts for time in MOMENTS)
    assert FLOOR < lowest < FLOOR + 0.02


@pytest.mark.parametrize("size", [(240, 240), (320, 240), (180, 240)])
def test_every_picture_shows_the_whole_figure(parts, size):
    config = SampleConfig.of("dancer", width=size[0], height=size[1])
    assert [len(circle(config)), len(MOMENTS)] == [200, 20]
    for view, camera in enumerate(circle(config)):
        boxes = [np.transpose(solid_bounds(solid, CONFIG.time(view))) for solid in parts]
        pixels, depth = camera.project(np.concatenate([np.reshape(np.meshgrid(*box), (3, 8)).T for box in boxes]))
        beyond = 0.01 * min(size)  # The corners of a box lie a little outside of what is in it.
        assert depth.min() > 0.5 and pixels.min() > -beyond and (pixels < np.add(size, beyond)).all()


def test_held_out_views_go_through_all_moments():
    held_out = {CONFIG.time(view) for view in range(CONFIG.views) if CONFIG.is_test(view)}
    assert held_out == set(MOMENTS)


def test_held_out_views_of_one_moment_are_pointed_out(tmp_path, capsys):
    options = ["--views", "8", "--cameras", "2", "--test-every", "4", "--size", "16x16", "--samples", "1"]
    assert main(["sample", "dancer", str(tmp_path / "d"), *options, "--points", "0"]) == 0
    assert "All held-out views show one moment" in capsys.readouterr().out


def test_scenes_and_their_numbers_are_the_same_everywhere(capsys):
    assert set(SCENES) == set(MAKERS) == set(get_args(get_args(Sample.__annotations__["scene"])[0]))
    with pytest.raises(SystemExit):
        main(["sample", "--help"])
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for scene in SCENES:
        made = SampleConfig.of(scene)
        numbers = [made.views, made.test_every, f"{made.width}x{made.height}", made.cameras, int(made.fov), made.points]
        assert all(f" {number} " in shown for number in numbers), scene


def test_no_two_cameras_share_a_place():
    places = np.array([camera.position for camera in circle(CONFIG)])
    apart = np.linalg.norm(places[:, None] - places[None], axis=-1) + np.eye(len(places))
    assert apart.min() > 0.02


def test_command_makes_it_and_says_how_to_train_on_it(tmp_path, capsys):
    folder = tmp_path / "dancer"
    options = ["--views", "8", "--cameras", "4", "--test-every", "4", "--size", "24x24", "--samples", "1"]
    assert main(["sample", "dancer", str(folder), *options]) == 0
    assert "ns-train splat-dynamic" in capsys.readouterr().out
    made = json.loads((folder / "sample.json").read_text())
    assert made["generator"] == "nts sample dancer" and made["photographs"] == {}
    assert made["options"]["dynamic"] and made["options"]["fov"] == 46.0
    frames = json.loads((folder / "transforms.json").read_text())["frames"]
    assert [frame["time"] for frame in frames] == [0.0, 1.0] * 4
    names = {number: thing["name"] for number, thing in json.loads((folder / "instances.json").read_text()).items()}
    moving = {names[number] for number in json.loads((folder / "motions.json").read_text())}
    assert moving == set(names.values()) - {"studio"} and {"left hand", "right foot", "head"} < moving
    text = (folder / "README.md").read_text()
    assert "`nts sample dancer`" in text and "scikit-image" not in text
    assert main(["sample", "dancer", str(folder), *options]) == 0
    assert "nothing was done" in capsys.readouterr().out
    assert main(["sample", "gallery", str(folder), "--views", "3", "--size", "16x12"]) == 2
    assert "another" in capsys.readouterr().err, "one scene is not taken for the other"


def test_options_that_cannot_be():
    with pytest.raises(ValueError, match="always moves"):
        SampleConfig(scene="dancer")
    with pytest.raises(ValueError, match="'ballet', only gallery, dancer"):
        SampleConfig.of("ballet")
    with pytest.raises(ValueError, match="dancer's fov is 5"):
        SampleConfig.of("dancer", fov=5.0)
