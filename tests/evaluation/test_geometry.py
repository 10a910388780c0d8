# SPDX-License-Identifier: Apache-2.0
"""Distances between surfaces, by hand, and the command that prints them."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import trimesh

from nts_plugins.cli.compare_geometry import CompareGeometry
from nts_plugins.cli.main import main
from nts_plugins.errors import InputError
from nts_plugins.evaluation.geometry import (
    Frustum,
    Points,
    compare_paired,
    compare_surfaces,
    sample_surface,
    seen,
    similarity,
)

SQUARE = np.array([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]]), np.array([[0, 1, 2], [0, 2, 3]])


def test_distances_by_hand() -> None:
    found = Points(np.array([[0.0, 0, 0], [1, 0, 0], [0, 3, 0]]))
    truth = Points(np.array([[0.0, 0, 0], [1, 0, 1]]))
    scores = compare_surfaces(found, truth, threshold=1.0)
    assert scores["accuracy"] == pytest.approx((0 + 1 + 3) / 3)
    assert scores["completeness"] == pytest.approx((0 + 1) / 2)
    assert scores["chamfer"] == pytest.approx((4 / 3 + 0.5) / 2)
    assert scores["precision"] == pytest.approx(2 / 3) and scores["recall"] == 1.0
    assert scores["f_score"] == pytest.approx(2 * (2 / 3) / (2 / 3 + 1))
    assert "normal_degrees" not in scores
    far = compare_surfaces(found, Points(truth.xyz + 100.0), threshold=1.0)
    assert far["f_score"] == 0.0
    with pytest.raises(ValueError, match="no points"):
        compare_surfaces(Points(np.zeros((0, 3))), truth, 1.0)
    with pytest.raises(ValueError, match="threshold"):
        compare_surfaces(found, truth, 0.0)


def test_angles_do_not_ask_which_side_a_normal_points_to() -> None:
    turned = np.array([[0.0, math.sin(0.3), math.cos(0.3)], [0, 0, -1.0]])
    scores = compare_surfaces(Points(np.eye(3)[:2], turned), Points(np.eye(3)[:2], np.eye(3)[[2, 2]]), 1.0)
    assert scores["normal_degrees"] == pytest.approx(math.degrees(0.3) / 2)


def rotation(seed: int = 0) -> np.ndarray:
    turn, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return turn * np.sign(np.linalg.det(turn))


@pytest.mark.parametrize("scale", [0.01, 1.0, 250.0])
def test_a_known_similarity_is_found(scale: float) -> None:
    turn, shift = rotation(), np.array([3.0, -200.0, 7.0])
    source = np.random.default_rng(1).normal(size=(50, 3)) + [100.0, 0, -5]
    found = similarity(source.astype(np.float32), scale * source.astype(np.float32) @ turn.T + shift)
    assert found[0] == pytest.approx(scale, rel=1e-5)
    np.testing.assert_allclose(found[1], turn, atol=1e-5)
    np.testing.assert_allclose(found[2], shift, atol=1e-3 * max(scale, 1))


def test_a_similarity_does_not_mirror() -> None:
    """Mirrored points are met by a turn and a smaller scale, as well as that goes (Umeyama's case of det < 0)."""
    source = np.random.default_rng(1).normal(size=(200, 3)) * [3.0, 2.0, 0.5]
    scale, turn, shift = similarity(source, source * [1, 1, -1])
    assert np.linalg.det(turn) == pytest.approx(1.0)
    variances = source.var(axis=0)
    np.testing.assert_allclose(turn, np.eye(3), atol=0.1)
    assert scale == pytest.approx((variances[0] + variances[1] - variances[2]) / variances.sum(), rel=1e-2)

    def misses(scale: float, turn: np.ndarray) -> float:
        moved = scale * (source - source.mean(axis=0)) @ turn.T
        return float(np.square(moved - (source - source.mean(axis=0)) * [1, 1, -1]).sum())

    least = misses(scale, turn)
    for other in (rotation(seed) for seed in range(20)):
        assert misses(scale, other) > least
    assert misses(1.02 * scale, turn) > least and misses(0.98 * scale, turn) > least
    flat = source * [1, 1, 0]
    scale, turn, _ = similarity(flat, 2 * flat @ rotation().T)
    assert scale == pytest.approx(2.0) and np.linalg.det(turn) == pytest.approx(1.0), "points of a plane are enough"
    np.testing.assert_allclose(flat @ turn.T, flat @ rotation().T, atol=1e-9)


def test_points_at_one_place_have_no_similarity() -> None:
    with pytest.raises(ValueError, match="at one place"):
        similarity(np.ones((5, 3)), np.eye(5, 3))


def test_paired_distances_by_hand() -> None:
    """A cube whose corners are found a tenth too far out, in a frame of their own: registering takes that away. Then
    two opposite ones are moved apart, which no similarity can undo."""
    corners = np.array([[x, y, z] for x in (-1.0, 1) for y in (-1.0, 1) for z in (-1.0, 1)])
    turn, shift = rotation(), np.array([5.0, 6, 7])
    truth = np.concatenate([corners, [[0.0, 0, 3]]])
    scores = compare_paired(0.2 * 1.1 * corners @ turn.T + shift, corners, truth)
    assert scores["accuracy"] == pytest.approx(0, abs=1e-9) and scores["distance"] == pytest.approx(0, abs=1e-9)
    # Of nine true points one, at (0, 0, 3), is sqrt(1 + 1 + 4) away from the nearest corner.
    assert scores["completeness"] == pytest.approx(math.sqrt(6) / 9)
    wrong = corners.copy()
    wrong[[0, 7]] *= 1.5
    scores = compare_paired(0.2 * wrong @ turn.T + shift, corners, corners)
    # The scale with the least squares: sum of x.y over sum of x.x.
    scale = (6 * 3 + 2 * 4.5) / (6 * 3 + 2 * 6.75)
    each = math.sqrt(3) * np.array([abs(scale - 1)] * 6 + [abs(1.5 * scale - 1)] * 2)
    assert scores == pytest.approx({name: each.mean() for name in ("accuracy", "completeness", "distance")})


def test_paired_distance_is_to_the_own_point_and_accuracy_to_the_nearest() -> None:
    """Two neighbours that are taken for each other lie on the surface all the same."""
    true = np.random.default_rng(0).uniform(-10, 10, (40, 3))
    true[1] = true[0] + [0.3, 0, 0]
    found = true.copy()
    found[[0, 1]] = true[[1, 0]]
    scores = compare_paired(found, true, true)
    assert scores["distance"] == pytest.approx(2 * 0.3 / 40, rel=0.05)
    assert scores["accuracy"] < 0.1 * scores["distance"] and scores["completeness"] < 0.1 * scores["distance"]


def test_samples_are_even_over_the_area_and_the_same_for_a_seed() -> None:
    vertices = np.concatenate([SQUARE[0], [[0, 0, 1], [0, 0, 1.0], [0, 0, 1]], SQUARE[0] * 2 + [5, 0, 0]])
    faces = np.concatenate([SQUARE[1], [[4, 5, 6]], SQUARE[1] + 7])
    points = sample_surface(vertices, faces, 5000, seed=3)
    small = points.xyz[:, 0] < 2
    assert small.mean() == pytest.approx(1 / 5, abs=1e-3), "one of five units of area"
    assert points.normals is not None
    np.testing.assert_allclose(points.normals, np.tile([0.0, 0, 1], (5000, 1)))
    inside = points.xyz[small][:, :2]
    assert inside.min() >= 0 and inside.max() <= 1
    counts, _, _ = np.histogram2d(inside[:, 0], inside[:, 1], bins=2)
    assert counts.min() > 0.2 * len(inside)
    assert np.array_equal(points.xyz, sample_surface(vertices, faces, 5000, seed=3).xyz)
    assert not np.array_equal(points.xyz, sample_surface(vertices, faces, 5000, seed=4).xyz)
    with pytest.raises(ValueError, match="no triangle with an area"):
        sample_surface(vertices, faces[2:3], 10)


def test_what_no_camera_sees_is_left_out() -> None:
    """A camera at z = 3 above the square looks down; something lies below it, something beside it, something behind."""
    viewmat = np.diag([1.0, -1.0, -1.0, 1.0])
    viewmat[:3, 3] = [-0.5, 0.5, 3.0]
    camera = Frustum(viewmat, np.array([[100.0, 0, 50], [0, 100.0, 50], [0, 0, 1]]), 100, 100)
    np.testing.assert_allclose(camera.position, [0.5, 0.5, 3.0])
    points = Points(np.array([[0.5, 0.5, 0], [0.5, 0.5, -1], [9, 0.5, 0], [0.5, 0.5, 4]]))
    assert seen(points, [camera]).tolist() == [True, True, False, False]
    pytest.importorskip("open3d")
    assert seen(points, [camera], SQUARE).tolist() == [True, False, False, False]
    assert seen(points, [camera], SQUARE, tolerance=1.5).tolist() == [True, True, False, False]


def write_square(path: Path, height: float = 0.0) -> Path:
    trimesh.Trimesh(SQUARE[0] + [0, 0, height], SQUARE[1], process=False).export(path)
    return path


def test_the_command_compares_files(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    mesh, truth = write_square(tmp_path / "mesh.ply", 0.25), write_square(tmp_path / "truth.ply")
    output = tmp_path / "new" / "scores.json"
    arguments = ["--samples", "20000", "--threshold", "0.3", "--output-path", str(output)]
    assert main(["compare-geometry", str(mesh), str(truth), *arguments]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads(output.read_text())
    assert printed["chamfer"] == pytest.approx(0.25, abs=1e-3) and printed["f_score"] == 1.0
    assert printed["normal_degrees"] == pytest.approx(0, abs=1e-4) and printed["points"] == 20000
    scores = CompareGeometry(mesh, truth, samples=20000).scores()
    assert scores["threshold"] == pytest.approx(0.01 * math.sqrt(2), rel=1e-2) and scores["f_score"] == 0.0


def test_points_with_normals_are_taken_as_they_are(tmp_path: Path) -> None:
    from nts_plugins.samples.writer import write_points

    xyz = np.random.default_rng(0).random((500, 3)) * [1, 1, 0]
    write_points(tmp_path / "points.ply", xyz=xyz, normals=np.tile([0.0, 1, 0], (500, 1)))
    scores = CompareGeometry(write_square(tmp_path / "mesh.ply"), tmp_path / "points.ply", samples=5000).scores()
    assert scores["true_points"] == 500 and scores["normal_degrees"] == pytest.approx(90, abs=1e-4)


def test_what_surrounds_the_truth_can_be_left_out(tmp_path: Path) -> None:
    vertices, faces = SQUARE
    above, aside = vertices + [0, 0, 0.25], vertices + [3, 0, 0]
    trimesh.Trimesh(
        np.concatenate([above, aside]), np.concatenate([faces, faces + len(vertices)]), process=False
    ).export(tmp_path / "mesh.ply")
    truth = write_square(tmp_path / "truth.ply")
    arguments = {"mesh": tmp_path / "mesh.ply", "truth": truth, "samples": 20000, "threshold": 0.5}
    assert CompareGeometry(**arguments).scores()["precision"] == pytest.approx(0.5, abs=0.01)
    scores = CompareGeometry(**arguments, margin=0.3).scores()
    assert scores["precision"] == 1.0 and scores["accuracy"] == pytest.approx(0.25, abs=1e-3)
    assert scores["points"] == pytest.approx(10000, abs=100) and scores["true_points"] == 20000
    with pytest.raises(InputError, match="Nothing of .*mesh.ply lies within 0.2"):
        CompareGeometry(**arguments, margin=0.2).scores()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"mesh": Path("nowhere.ply")}, "There is no file nowhere.ply"),
        ({"samples": 0}, "--samples is 0"),
        ({"threshold": -1.0}, "--threshold is -1.0"),
        ({"cameras": Path("nowhere.json")}, "cannot be read as the cameras"),
        ({"margin": -0.1}, "--margin is -0.1"),
    ],
)
def test_mistakes_are_explained(tmp_path: Path, options: dict, message: str) -> None:
    square = write_square(tmp_path / "square.ply")
    with pytest.raises(InputError, match=message):
        CompareGeometry(**{"mesh": square, "truth": square, **options}).run()


def test_broken_files_are_explained(tmp_path: Path) -> None:
    square = write_square(tmp_path / "square.ply")
    (tmp_path / "broken.ply").write_text("ply\nnonsense\n")
    with pytest.raises(InputError, match="broken.ply"):
        CompareGeometry(square, tmp_path / "broken.ply").run()
    elsewhere = {"fl_x": 10, "fl_y": 10, "cx": 5, "cy": 5, "w": 10, "h": 10}
    elsewhere["frames"] = [{"transform_matrix": np.diag([1.0, 1, 1, 1]).tolist()}]  # type: ignore[assignment]
    (tmp_path / "cameras.json").write_text(json.dumps(elsewhere))
    with pytest.raises(InputError, match="sees anything of"):
        CompareGeometry(write_square(tmp_path / "up.ply", 2.0), square, cameras=tmp_path / "cameras.json").run()
