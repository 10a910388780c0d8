# SPDX-License-Identifier: Apache-2.0
"""Exactness of depth, normals and masks, and the sense of the colours."""

import numpy as np
import pytest

from nts_plugins.samples import SampleConfig, Scene, Tracer, look_at, walk
from nts_plugins.samples.cameras import Camera
from nts_plugins.samples.color import to_linear, to_srgb
from nts_plugins.samples.gallery import EYE_LEVEL, HALF_X, HALF_Y, HEIGHT
from nts_plugins.samples.photographs import load_photograph
from nts_plugins.samples.scene import Light, Material, Texture, solid_bounds, solid_to_world, turn
from tests.samples.conftest import MOVING

GREY = Texture(np.full((1, 1, 3), 0.5, np.float32))


def number_of(scene: Scene, name: str) -> int:
    return next(instance.id for instance in scene.instances if instance.name == name)


def one_solid(shape, centre, half_size, **more) -> Tracer:
    scene = Scene()
    scene.add(shape, centre, half_size, Material(GREY), scene.name("solid", "object"), **more)
    return Tracer(scene, texel=0.5, threads=1)


def test_depth_of_a_plane_is_exact():
    tracer = one_solid("rectangle", (0, 0, 0), (50, 50, 1))
    camera = Camera(40, 30, 30.0, look_at((0.3, -1.0, 2.0), (0.0, 0.5, 0.0)))
    depth, normals, ids = tracer.geometry(camera)
    assert (ids == 1).all()
    points = camera.unproject(camera.pixel_grid(), depth)
    np.testing.assert_allclose(points[..., 2], 0.0, atol=1e-12)
    np.testing.assert_allclose(normals, np.broadcast_to([0.0, 0.0, 1.0], normals.shape), atol=1e-15)


@pytest.mark.parametrize("half_size", [(0.7, 0.7, 0.7), (0.9, 0.5, 0.3)])
def test_sphere_and_ellipsoid_points_lie_on_them_with_the_gradient_as_normal(half_size):
    rotation = turn((1.0, 2.0, 3.0), 40.0)
    tracer = one_solid("sphere", (0.1, 0.2, 0.3), half_size, rotation=rotation)
    camera = Camera(60, 60, 70.0, look_at((2.0, -1.5, 1.0), (0.1, 0.2, 0.3)))
    depth, normals, ids = tracer.geometry(camera)
    hit = ids == 1
    assert 0.1 < hit.mean() < 0.9
    assert (depth[~hit] == 0.0).all() and (normals[~hit] == 0.0).all()
    points = camera.unproject(camera.pixel_grid(), depth)[hit]
    local = (points - (0.1, 0.2, 0.3)) @ rotation / half_size
    np.testing.assert_allclose((local**2).sum(1), 1.0, atol=1e-12)
    gradient = local / half_size @ rotation.T
    gradient /= np.linalg.norm(gradient, axis=1, keepdims=True)
    np.testing.assert_allclose(normals[hit], gradient, atol=1e-12)


@pytest.mark.parametrize("shape", ["box", "cylinder"])
def test_box_and_cylinder_points_lie_on_their_surface(shape):
    half_size, rotation = np.array([0.4, 0.4, 0.8]), turn((0.3, 1.0, 0.2), 70.0)
    tracer = one_solid(shape, (0, 0, 0), half_size, rotation=rotation)
    for eye in ((2.0, -1.5, 1.0), (-1.0, 2.0, -1.4), (0.1, 0.2, 2.4)):
        camera = Camera(60, 60, 70.0, look_at(eye, (0, 0, 0)))
        depth, normals, ids = tracer.geometry(camera)
        hit = ids == 1
        local = camera.unproject(camera.pixel_grid(), depth)[hit] @ rotation / half_size
        across = np.abs(local[:, :2]).max(1) if shape == "box" else np.hypot(local[:, 0], local[:, 1])
        np.testing.assert_allclose(np.maximum(across, np.abs(local[:, 2])), 1.0, atol=1e-12)
        rays = camera.unproject(camera.pixel_grid(), np.ones_like(depth))[hit] - camera.position
        assert ((normals[hit] * rays).sum(1) < 0.0).all()
        np.testing.assert_allclose(np.linalg.norm(normals[hit], axis=1), 1.0, atol=1e-12)


def test_a_camera_inside_the_room_sees_something_everywhere(views):
    for view in views:
        assert (view.ids > 0).all() and (view.depth > 0.5).all()
        points = view.camera.unproject(view.camera.pixel_grid(), view.depth)
        assert (np.abs(points) < (HALF_X + 1e-9, HALF_Y + 1e-9, HEIGHT + 1e-9)).all() and (points[..., 2] > -1e-9).all()


def test_walls_are_where_they_should_be_with_constant_normals(tracer, views):
    planes = {
        "floor": (2, 0.0, (0, 0, 1)),
        "brick wall": (1, HALF_Y, (0, -1, 0)),
        "plaster wall": (0, HALF_X, (-1, 0, 0)),
        "green wall": (1, -HALF_Y, (0, 1, 0)),
        "wallpaper": (0, -HALF_X, (1, 0, 0)),
    }
    for name, (axis, place, normal) in planes.items():
        instance, seen = number_of(tracer.scene, name), 0
        for view in views:
            mask = view.ids == instance
            seen += int(mask.sum())
            points = view.camera.unproject(view.camera.pixel_grid(), view.depth)
            np.testing.assert_allclose(points[mask][:, axis], place, atol=1e-9)
            np.testing.assert_allclose(view.normals[mask], np.broadcast_to(normal, (mask.sum(), 3)), atol=1e-12)
        assert seen > 100, name


def test_views_agree_about_every_surface_that_both_see(tracer, views):
    """A point behind a pixel, looked at from another place along its exact ray, is at the distance it should be."""
    rng = np.random.default_rng(0)
    compared = visible = 0
    for first, second in ((0, 1), (3, 4), (7, 2), (10, 5)):
        a, b = views[first], views[second]
        y, x = rng.integers(1, 71, 60), rng.integers(1, 95, 60)
        points = a.camera.unproject(np.stack([x + 0.5, y + 0.5], -1), a.depth[y, x])
        for point, instance, normal in zip(points, a.ids[y, x], a.normals[y, x], strict=True):
            gap = np.linalg.norm(point - b.camera.position)
            # A one-pixel camera at the second place that looks exactly at the point.
            depth, normals, ids = tracer.geometry(Camera(1, 1, 1.0, look_at(b.camera.position, point)))
            compared += 1
            assert depth[0, 0] <= gap + 1e-9 or (normal @ (b.camera.position - point)) <= 0.0
            if abs(depth[0, 0] - gap) < 1e-9:
                visible += 1
                assert ids[0, 0] == instance
                np.testing.assert_allclose(normals[0, 0], normal, atol=1e-6)
    assert compared == 240 and visible > 80


def test_ids_name_every_pixel_and_every_thing_is_seen(tracer, views):
    ids = {instance.id for instance in tracer.scene.instances}
    seen = set(np.unique(np.concatenate([view.ids.ravel() for view in views])).tolist())
    assert seen <= ids
    names = {instance.name for instance in tracer.scene.instances if instance.id in seen}
    assert {"cat", "coffee cup", "astronaut", "rocket", "galaxies", "chrome ball", "globe", "pottery vase"} <= names


def test_project_is_the_inverse_of_unproject():
    camera = Camera(64, 48, 50.0, look_at((1.0, 2.0, 1.5), (0.0, 0.3, 1.0)))
    depth = np.random.default_rng(1).uniform(0.5, 6.0, (48, 64))
    pixels, z = camera.project(camera.unproject(camera.pixel_grid(), depth))
    np.testing.assert_allclose(pixels, camera.pixel_grid(), atol=1e-10)
    np.testing.assert_allclose(z, depth, atol=1e-12)


def test_pictures_hang_upright_and_are_not_mirrored(tracer):
    """The cat, photographed squarely, correlates with its photograph, and not with any flip of it."""
    middle = next(s for s in tracer.scene.solids if s.instance == number_of(tracer.scene, "cat"))
    eye = np.asarray(middle.centre) - (0.0, 1.3, 0.0)
    view = tracer.view(Camera(90, 60, 90 * 1.3 / 1.9, look_at(eye, (eye[0], HALF_Y, EYE_LEVEL))))
    photograph = load_photograph("chelsea").mean(2)
    rows, columns = (np.linspace(0, n - 1, m).astype(int) for n, m in zip(photograph.shape, (60, 90), strict=True))
    small = photograph[np.ix_(rows, columns)]
    inside = (slice(6, -6), slice(6, -6))

    def likeness(other):
        return np.corrcoef(view.rgb.mean(2)[inside].ravel(), other[inside].ravel())[0, 1]

    assert likeness(small) > 0.9
    assert max(likeness(small[::-1]), likeness(small[:, ::-1]), likeness(small[::-1, ::-1])) < 0.6


def test_only_mirrors_and_lacquer_look_different_from_another_side(tracer):
    """A point on matt plaster has one colour; the chrome ball's colour depends on the view."""
    scene = tracer.scene

    def looks(point, eyes):
        return np.array([tracer.view(Camera(1, 1, 400.0, look_at(eye, point))).rgb[0, 0] for eye in eyes]).astype(int)

    eyes = [(1.0, -1.4, 1.5), (1.6, -1.2, 1.4), (0.4, -1.5, 1.3)]
    wall = looks((-0.1, HALF_Y, 2.6), eyes)
    assert np.abs(wall - wall[0]).max() <= 3
    ball = next(s for s in scene.solids if s.instance == number_of(scene, "chrome ball"))
    assert np.abs(np.diff(looks(ball.centre, eyes), axis=0)).max() > 20


def test_pictures_are_well_exposed(views):
    for view in views:
        grey = view.rgb.mean(2)
        assert 50.0 < grey.mean() < 170.0
        assert (grey > 252).mean() < 0.08
        assert (grey < 8).mean() < 0.25


def test_lambert_and_inverse_square_of_a_small_lamp():
    """The radiance of a lit floor against the closed form for a lamp so small that it is a point."""
    scene = Scene()
    scene.add("rectangle", (0, 0, 0), (5, 5, 1), Material(GREY), scene.name("floor", "structure"))
    side, power, height = 0.02, 2000.0, 1.5
    scene.lights.append(Light((0, 0, height), (side / 2, 0, 0), (0, -side / 2, 0), (power,) * 3))
    tracer = Tracer(scene, texel=0.05, threads=1)
    camera = Camera(1, 1, 300.0, look_at((0.5, -2.0, 1.0), (0.8, 0.6, 0.0)))
    square = height**2 + 0.8**2 + 0.6**2
    expected = 0.5 / np.pi * power * side**2 * height**2 / square**2
    assert tracer.view(camera).rgb[0, 0, 0] == pytest.approx(float(to_srgb(np.array(expected))), abs=1.01)


def test_shadow_is_dark_and_light_is_not():
    scene = Scene()
    scene.add("rectangle", (0, 0, 0), (5, 5, 1), Material(GREY), scene.name("floor", "structure"))
    scene.add("box", (0, 0, 0.7), (0.3, 0.3, 0.02), Material(GREY), scene.name("lid", "object"))
    scene.lights.append(Light((0, 0, 3), (0.05, 0, 0), (0, -0.05, 0), (300.0,) * 3))
    tracer = Tracer(scene, texel=0.05, threads=1)

    def grey(x):
        return int(tracer.view(Camera(1, 1, 300.0, look_at((1.5, 0.1, 0.4), (x, 0.0, 0.0)))).rgb[0, 0, 0])

    assert grey(0.0) < 0.35 * grey(0.8)


def test_moving_things_move_and_nothing_else_does(moving_tracer):
    scene, camera = moving_tracer.scene, walk(MOVING)[3]
    movers = {solid.instance for solid in scene.solids if solid.motion is not None}
    assert {i.name for i in scene.instances if i.id in movers} >= {"globe", "beach ball", "pendulum", "balloon"}
    still, _, still_ids = moving_tracer.geometry(camera, 0.0)
    later, _, later_ids = moving_tracer.geometry(camera, 0.4)
    same = ~np.isin(still_ids, list(movers)) & ~np.isin(later_ids, list(movers))
    np.testing.assert_array_equal(still[same], later[same])
    np.testing.assert_array_equal(still_ids[same], later_ids[same])
    assert (still_ids != later_ids).sum() > 20


def test_motions_are_rigid_and_start_at_rest(moving_tracer):
    for solid in moving_tracer.scene.solids:
        if solid.motion is None:
            continue
        np.testing.assert_allclose(solid.motion.at(0.0), np.eye(4), atol=1e-12)
        for time in (0.2, 0.7, 1.0):
            matrix = solid.motion.at(time)
            np.testing.assert_allclose(matrix[:3, :3] @ matrix[:3, :3].T, np.eye(3), atol=1e-12)
            assert np.linalg.det(matrix[:3, :3]) == pytest.approx(1.0)


@pytest.mark.parametrize("name", ["beach ball", "balloon", "pendulum"])
def test_moving_balls_never_run_into_what_stands(moving_tracer, name):
    scene = moving_tracer.scene
    mover = number_of(scene, name)
    ball = next(s for s in scene.solids if s.instance == mover and s.shape == "sphere")
    carriers = {number_of(scene, "floor"), number_of(scene, "rug")}
    boxes = [(s, *solid_bounds(s)) for s in scene.solids if s.motion is None and s.instance not in carriers]
    for time in np.linspace(0.0, 1.0, 41):
        centre = solid_to_world(ball, time)[:3, 3]
        for solid, low, high in boxes:
            gap = np.linalg.norm(centre - np.clip(centre, low, high))
            assert gap > max(ball.half_size), (scene.instances[solid.instance - 1].name, time)


def test_a_moving_shadow_follows_its_thing(moving_tracer):
    """The rug beside the foot of the beach ball is in its shadow, until the ball rolls away."""
    ball = number_of(moving_tracer.scene, "beach ball")
    x, y, _ = next(s for s in moving_tracer.scene.solids if s.instance == ball).centre
    beside = Camera(1, 1, 400.0, look_at((x + 1.2, y + 0.6, 0.5), (x + 0.12, y, 0.017)))
    for time in (0.0, 0.5):
        assert moving_tracer.geometry(beside, time)[2][0, 0] == number_of(moving_tracer.scene, "rug")
    shadow, light = (to_linear(moving_tracer.view(beside, time).rgb[0, 0]).sum() for time in (0.0, 0.5))
    assert shadow < 0.7 * light


def test_srgb_and_linear_are_inverse():
    values = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(to_srgb(to_linear(values)), values)


@pytest.mark.parametrize(
    "wrong", [{"views": 0}, {"width": 4}, {"fov": 150.0}, {"samples": 0}, {"outliers": 0.9}, {"test_every": 1}]
)
def test_options_out_of_range_are_named(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SampleConfig(**wrong)


def test_held_out_views_lie_between_training_views():
    config = SampleConfig(views=60, test_every=8)
    held_out = [view for view in range(60) if config.is_test(view)]
    assert held_out == [4, 12, 20, 28, 36, 44, 52]
    assert not any(SampleConfig(test_every=0).is_test(view) for view in range(60))
