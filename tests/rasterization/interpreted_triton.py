# SPDX-License-Identifier: Apache-2.0
"""Textures on a GPU without one: the Triton kernels in Triton's interpreter, gsplat played by the reference.

A program of its own, because Triton decides when it is imported whether to interpret: TRITON_INTERPRET=1 python -m
tests.rasterization.interpreted_triton. On a machine with a GPU the kernels are tested with all others in test_backends.
"""

import sys

import torch

from nts_plugins.rasterization import Seen, Textures, _api, gsplat_cuda, installed_rules, rasterize

from .compare import draw, gradient_errors, pixel_scale, pull_back, undecided_pixels, upstream, value_errors
from .fake_gsplat import FakeGsplat
from .scenes import Scene, scene, textured

SCENES = {
    "products": lambda: textured(scene(20, sh_degree=2, channels=2, cameras_=2, width=21, height=18, seed=16)),
    "tanh": lambda: textured(scene(20, width=21, height=18, seed=17), texels=8, product_tanh=True),
    "moves": lambda: textured(scene(20, width=21, height=18, seed=18), texels=4, moves_splats=True),
    "one plane": lambda: textured(
        scene(20, cameras_=2, width=21, height=18, seed=20), texels=3, planes=1, amplitudes=(1.0, 1.0, 1.0, 3.0)
    ),
    "one plane moves": lambda: textured(scene(20, width=21, height=18, seed=21), texels=6, planes=1, moves_splats=True),
    "tanh of one plane moves": lambda: textured(
        scene(20, width=18, height=9, seed=22), 1.0, planes=1, moves_splats=True, product_tanh=True
    ),
    "tanh moves": lambda: textured(scene(20, width=18, height=9, seed=19), 1.0, moves_splats=True, product_tanh=True),
    "none": lambda: textured(scene(20, width=18, height=9, seed=20), 0.0),
}


def play_gsplat() -> None:
    fake = FakeGsplat()
    for name in ("spherical_harmonics", "fully_fused_projection", "isect_tiles", "isect_offset_encode"):
        setattr(gsplat_cuda.gsplat, name, getattr(fake, name))
    gsplat_cuda.gsplat.rendering.rasterization = fake.rasterization
    gsplat_cuda._require_extension = lambda: None
    _api.select_backend = lambda device, backend=None: backend


def compare(name: str) -> None:
    """Values and gradients of one scene."""
    made: Scene = SCENES[name]()
    options = {"depth": "accumulated", "absgrad": True, "antialiased": name == "moves"}
    decided = ~undecided_pixels(made, installed_rules(), options["antialiased"])[..., None]
    assert decided.double().mean() > 0.9
    exact, exact_leaves = draw(made.to(torch.float64), backend="reference", **options)
    weights = {key: decided * scale for key, scale in pixel_scale(exact, options).items()}
    gradients = upstream(exact, weights)
    expected = pull_back(exact, exact_leaves, gradients)
    found, leaves = draw(made, backend="gsplat", **options)
    for key, error in value_errors(found, exact, weights).items():
        assert error <= 2e-5, f"{name}: {key} is off by {error:.1e}"
    for key, error in gradient_errors(pull_back(found, leaves, gradients), expected, made).items():
        assert error <= 2e-4, f"{name}: the gradient of {key} is off by {error:.1e}"
    print("same:", name)


def zeros_change_nothing() -> None:
    made = scene(30, width=18, height=9, seed=3)
    plain = draw(textured(made, 0.0), backend="gsplat")[0]
    found = draw(textured(made, strength=0.0), backend="gsplat")[0]
    assert torch.equal(found.colors, plain.colors) and torch.equal(found.alphas, plain.alphas)


def coverage_is_known_while_depth_is_drawn() -> None:
    made, found = textured(scene(30, width=18, height=9, seed=3), planes=1), {}
    for backend in ("reference", "gsplat"):

        def source(seen: Seen, backend: str = backend) -> Textures:
            found[backend] = seen.coverage()
            return made.textures

        rasterize(**{**made.arguments(), "textures": source}, backend=backend, depth="expected", absgrad=True)
    assert found["gsplat"].sum() > 0
    torch.testing.assert_close(found["gsplat"], found["reference"], rtol=1e-4, atol=1e-4)


if __name__ == "__main__":
    torch.set_num_threads(1)
    play_gsplat()
    zeros_change_nothing()
    coverage_is_known_while_depth_is_drawn()
    for each in sys.argv[1:] or SCENES:
        compare(each)
