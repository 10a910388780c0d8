# SPDX-License-Identifier: Apache-2.0
"""What the door to pixels refuses, and how it picks a backend."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from nts_plugins.gaussians import Gaussians
from nts_plugins.rasterization import (
    GSPLAT_1_4,
    GSPLAT_1_5,
    BackendUnavailable,
    _backends,
    available_backends,
    installed_rules,
    lift,
    lift_ids,
    rasterize,
    rules,
    select_backend,
)

from .scenes import Scene, scene


@pytest.fixture
def made() -> Scene:
    return scene(10, cameras_=2, sh_degree=1, channels=4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"viewmats": torch.eye(4)}, r"viewmats has shape \(4, 4\), expected \[C, 4, 4\]"),
        ({"viewmats": torch.eye(4)[None, :3]}, r"viewmats has shape \(1, 3, 4\)"),
        ({"viewmats": torch.zeros(0, 4, 4), "Ks": torch.zeros(0, 3, 3)}, "at least one camera"),
        ({"Ks": torch.eye(3)[None]}, r"Ks has shape \(1, 3, 3\), expected \[2, 3, 3\]"),
        ({"width": 0}, "at least one pixel, got width=0"),
        ({"width": 37.0}, "width=37.0 must be a whole number"),
        ({"viewmats": [[1.0]]}, "viewmats must be a torch tensor, got list"),
        ({"viewmats": torch.full((2, 4, 4), torch.nan)}, r"viewmats\[0\] is not finite"),
        ({"viewmats": torch.eye(4).repeat(2, 1, 1).cumsum(dim=1)}, r"viewmats\[0\] is not a pose, its last row"),
        ({"viewmats": torch.diag(torch.tensor([1.0, 0.0, 1.0, 1.0])).repeat(2, 1, 1)}, "its rotation is singular"),
        ({"Ks": torch.full((2, 3, 3), torch.inf)}, r"Ks\[0\] is not finite"),
        ({"Ks": torch.diag(torch.tensor([0.0, 9.0, 1.0])).repeat(2, 1, 1)}, "focal lengths 0.0 and 9.0"),
        ({"Ks": torch.eye(3).repeat(2, 1, 1) + torch.eye(3).roll(1, dims=1).triu()}, "pinhole cameras without skew"),
        ({"Ks": 2 * torch.eye(3).repeat(2, 1, 1)}, "pinhole cameras without skew"),
        ({"near_plane": 0.0}, "near_plane=0.0 and far_plane=1[0-9.]* must be above zero"),
        ({"near_plane": 5.0, "far_plane": 2.0}, "the far one farther"),
        ({"near_plane": float("nan")}, "near_plane=nan"),
        ({"eps2d": -1.0}, "eps2d=-1.0 must be finite and not below zero"),
        ({"radius_clip": float("inf")}, "radius_clip=inf"),
        ({"height": -1}, "height=-1"),
        ({"sh_degree": 2}, r"sh_degree=2 asked for, but the Gaussians hold 4 bands \(degree 1\)"),
        ({"sh_degree": -1}, "sh_degree=-1"),
        ({"depth": "median"}, "depth='median' is not one of"),
        ({"background": torch.zeros(4)}, r"background has shape \(4,\), expected \[3\] or \[2, 3\]"),
        ({"background": torch.zeros(1, 3)}, r"background has shape \(1, 3\)"),
        ({"channel_background": torch.zeros(3)}, r"channel_background has shape \(3,\), expected \[4\] or \[2, 4\]"),
        ({"channels": torch.zeros(9, 4)}, r"channels has shape \(9, 4\), expected \[10, E\] or \[2, 10, E\]"),
        ({"channels": torch.zeros(10)}, r"channels has shape \(10,\)"),
        ({"channels": None}, "channel_background is given without channels"),
        ({"backend": "vulkan"}, "Unknown backend backend=vulkan. Choose one of auto, reference, cpu, gsplat"),
        ({"backend": "gsplat"}, "draws tensors on 'cuda', but the Gaussians are on 'cpu'"),
        ({"viewmats": torch.zeros(2, 4, 4, device="meta")}, "viewmats is on 'meta', but the Gaussians are on 'cpu'"),
        ({"channel_background": torch.zeros(4, device="meta")}, "channel_background is on 'meta'"),
    ],
    ids=lambda value: str(value) if isinstance(value, str) else "",
)
def test_rasterize_names_what_is_wrong(made: Scene, changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rasterize(**{**made.arguments(), **changes})


def test_degree_of_plain_colours(made: Scene) -> None:
    plain = scene(10)
    with pytest.raises(ValueError, match="plain colors"):
        rasterize(**plain.arguments(), sh_degree=0)


def test_degrees_above_three_are_left_out_by_default(made: Scene) -> None:
    sh = torch.randn(10, 25, 3, generator=torch.Generator().manual_seed(0))
    all_bands = replace(made.gaussians, sh=sh, sh_rest=None)
    arguments = {**made.arguments(), "backend": "reference"}
    found = rasterize(**{**arguments, "gaussians": all_bands})
    expected = rasterize(**{**arguments, "gaussians": replace(all_bands, sh=sh[:, :16])})
    assert torch.equal(found.colors, expected.colors)
    with pytest.raises(ValueError, match="degrees 0 to 3 can be drawn"):
        rasterize(**{**arguments, "gaussians": all_bands}, sh_degree=4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": torch.zeros(2, 5, 7)}, r"features has shape \(2, 5, 7\), expected \[C, H, W, D\] with C=2"),
        ({"features": torch.zeros(1, 5, 7, 3)}, r"features has shape \(1, 5, 7, 3\)"),
        ({"Ks": torch.eye(3)}, "Ks has shape"),
        ({"features": torch.zeros(2, 0, 7, 3)}, "at least one pixel"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_lift_names_what_is_wrong(made: Scene, changes: dict, message: str) -> None:
    arguments = {"viewmats": made.viewmats, "Ks": made.Ks, "features": torch.zeros(2, 5, 7, 3), **changes}
    with pytest.raises(ValueError, match=message):
        lift(made.gaussians, **arguments)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ids": torch.zeros(2, 5, 7)}, "ids must be integers, got torch.float32"),
        ({"ids": torch.zeros(2, 5, 7, dtype=torch.bool)}, "ids must be integers, got torch.bool"),
        ({"ids": torch.zeros(2, 5, 7, 1, dtype=torch.long)}, r"expected \[C, H, W\] with C=2"),
        ({"n_ids": 4}, "ids holds 4, but n_ids=4"),
        ({"n_ids": 5.0}, "n_ids=5.0 must be a whole number"),
        ({"ids": torch.full((2, 5, 7), 2**62)}, "Number them anew from 0"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_lift_ids_names_what_is_wrong(made: Scene, changes: dict, message: str) -> None:
    arguments = {"viewmats": made.viewmats, "Ks": made.Ks, "ids": torch.full((2, 5, 7), 4), **changes}
    with pytest.raises(ValueError, match=message):
        lift_ids(made.gaussians, **arguments)


def test_backend_by_device_argument_and_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NTS_BACKEND", raising=False)
    assert [select_backend(device) for device in ("cpu", "cuda", "cuda:1", "mps")] == [
        "cpu",
        "gsplat",
        "gsplat",
        "reference",
    ]
    assert select_backend("cpu", "reference") == "reference"
    monkeypatch.setenv("NTS_BACKEND", "reference")
    assert select_backend("cpu") == select_backend("cpu", "auto") == "reference"
    assert select_backend("cpu", "cpu") == "cpu", "an argument counts more than the environment"
    monkeypatch.setenv("NTS_BACKEND", "tpu")
    with pytest.raises(BackendUnavailable, match="Unknown backend NTS_BACKEND=tpu"):
        select_backend("cpu")


def test_environment_reaches_rasterize(made: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NTS_BACKEND", "reference")
    drawn = rasterize(**made.to(torch.float64).arguments())
    assert drawn.colors.dtype == torch.float64, "only the reference draws in double precision"


def test_a_backend_that_cannot_run_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BackendUnavailable, match="torch sees no CUDA device"):
        select_backend("cuda", "gsplat")
    present = _backends.importlib.util.find_spec
    monkeypatch.setattr(_backends.importlib.util, "find_spec", lambda name: None if name == "numba" else present(name))
    assert available_backends()["cpu"] == "numba is not installed"
    with pytest.raises(BackendUnavailable, match="numba is not installed"):
        select_backend("cpu", "cpu")


def test_rules_follow_the_installed_gsplat(monkeypatch: pytest.MonkeyPatch) -> None:
    for version, expected in (((1, 4, 0), GSPLAT_1_4), ((1, 5, 3), GSPLAT_1_5), ((), GSPLAT_1_4)):
        monkeypatch.setattr(rules.compat, "version_of", lambda name, version=version: version)
        assert installed_rules() == expected


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"quats": torch.zeros(10, 3)}, r"Gaussians.quats has shape \(10, 3\), expected \(10, 4\)"),
        ({"opacities": torch.zeros(10, 1)}, r"Gaussians.opacities has shape \(10, 1\)"),
        ({"colors": torch.zeros(10, 3)}, "not both"),
        ({"sh": None, "sh_rest": None}, "either sh"),
        ({"sh": torch.zeros(10, 3)}, "expected 3 axes"),
        ({"sh_rest": torch.zeros(9, 3, 3)}, "first 10"),
        ({"sh_rest": torch.zeros(10, 3, 1)}, "sh has 3 colour channels, but Gaussians.sh_rest has 1"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_gaussians_name_what_is_wrong(made: Scene, fields: dict, message: str) -> None:
    values = {name: getattr(made.gaussians, name) for name in Gaussians.__dataclass_fields__}
    with pytest.raises(ValueError, match=message):
        Gaussians(**{**values, **fields})


def test_all_tensors_of_the_gaussians_are_on_one_device(made: Scene) -> None:
    elsewhere = replace(made.gaussians, quats=torch.zeros(10, 4, device="meta"))
    with pytest.raises(ValueError, match="Gaussians.quats is on 'meta'"):
        rasterize(**{**made.arguments(), "gaussians": elsewhere})


def test_bands_make_up_a_degree(made: Scene) -> None:
    odd = replace(made.gaussians, sh=torch.zeros(10, 5, 3), sh_rest=None)
    with pytest.raises(ValueError, match="hold 5 bands; a degree has 1, 4, 9 or 16"):
        rasterize(**{**made.arguments(), "gaussians": odd})


def test_sizes_may_be_whole_numbers_of_any_type(made: Scene) -> None:
    plain = rasterize(**made.arguments())
    sizes = {"width": torch.tensor(made.width), "height": np.int64(made.height)}
    assert torch.equal(rasterize(**{**made.arguments(), **sizes}).colors, plain.colors)
