# SPDX-License-Identifier: Apache-2.0
"""Scenes as files: what is read back is what was written, to the bit, and what is broken is named."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Dict, Optional

import numpy as np
import pytest
import torch
from plyfile import PlyData
from torch import Tensor

from nts_plugins.errors import InputError
from nts_plugins.files import Scene, load, ply, save
from nts_plugins.gaussians import Gaussians
from nts_plugins.rasterization import Textures, rasterize


def splats(count: int = 30, degree: int = 2) -> Dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    return {
        "means": normal(count, 3) * 0.4 + torch.tensor([0.0, 0.0, 4.0]),
        "scales": normal(count, 3) * 0.3 - 1.5,
        "quats": normal(count, 4),
        "opacities": normal(count, 1),
        "features_dc": normal(count, 3),
        "features_rest": normal(count, (degree + 1) ** 2 - 1, 3) * 0.2,
        "a_heads_own": normal(count, 7),
    }


def textures(count: int = 12, weights: bool = True, planes: int = 3, **options) -> Textures:
    generator = torch.Generator().manual_seed(1)
    vectors = torch.randn(count, planes, 4, 2, 4, generator=generator)
    return Textures(
        vectors,
        torch.randperm(30, generator=generator)[:count],
        torch.rand(count, planes, generator=generator) if weights else None,
        torch.randint(3, (count,), generator=generator) if planes == 1 else None,
        **options,
    )


def draw(gaussians: Gaussians, own: Optional[Textures], backend: str = "reference") -> Tensor:
    K = torch.tensor([[[60.0, 0.0, 24.0], [0.0, 60.0, 16.0], [0.0, 0.0, 1.0]]])
    return rasterize(gaussians, torch.eye(4)[None], K, 48, 32, textures=own, backend=backend).colors


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize(
    "own",
    [None, textures(), textures(planes=1), textures(weights=False, product_tanh=True, amplitudes=(0.3,) * 4)],
    ids=["none", "three planes", "one plane", "tanh"],
)
def test_a_scene_is_drawn_from_its_files_to_the_bit(tmp_path: Path, own: Optional[Textures], backend: str) -> None:
    params = ply.exported(splats())
    save(tmp_path / "scene", params, own, antialiased=True, background=torch.tensor([0.1, 0.7, 1.0]))
    scene = load(tmp_path / "scene")
    assert torch.equal(draw(scene.gaussians, scene.textures, backend), draw(ply.activated(params), own, backend))
    assert scene.antialiased and torch.equal(scene.background, torch.tensor([0.1, 0.7, 1.0]))
    assert (scene.textures is None) == (own is None)
    if own is not None and scene.textures is not None:
        for name, value in vars(own).items():
            held = getattr(scene.textures, name)
            assert torch.equal(held, value) if isinstance(value, Tensor) else held == value, name


@pytest.mark.parametrize("degree", [0, 1, 3])
def test_splats_are_read_as_they_were_written(tmp_path: Path, degree: int) -> None:
    params = ply.exported(splats(degree=degree))
    ply.write(tmp_path / "splats.ply", params)
    again = ply.read(tmp_path / "splats.ply")
    assert params.keys() - again.keys() == {"a_heads_own"}
    assert all(torch.equal(value, params[name]) for name, value in again.items())
    assert ply.activated(again).sh_bands == (degree + 1) ** 2


def test_the_layout_is_the_common_one(tmp_path: Path) -> None:
    params = ply.exported(splats(degree=1))
    ply.write(tmp_path / "splats.ply", params)
    vertices = PlyData.read(str(tmp_path / "splats.ply"))["vertex"]
    order = ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", *(f"f_rest_{i}" for i in range(9))]
    order += ["opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]
    assert [each.name for each in vertices.properties] == order
    # All bands of red come first: the second band of green is the fifth number.
    np.testing.assert_array_equal(vertices["f_rest_4"], params["features_rest"][:, 1, 1].numpy())


def test_splats_that_are_broken_or_never_drawn_are_left_out() -> None:
    params = splats()
    params["quats"][3, 1] = float("nan")
    params["features_rest"][5, 2, 0] = float("inf")
    params["opacities"][7] = -5.6
    kept = ply.exported(params)
    order = [index for index in range(30) if index not in (3, 5, 7)]
    assert all(torch.equal(kept[name], value[order]) for name, value in params.items() if name != "quats")


def test_an_existing_scene_is_replaced_on_demand_only_and_other_files_never(tmp_path: Path) -> None:
    target, params = tmp_path / "scene", ply.exported(splats())
    save(target, params, textures())
    with pytest.raises(InputError, match="holds a scene.*--overwrite"):
        save(target, params)
    save(target, params, overwrite=True)
    assert load(target).textures is None and not (target / "textures.npz").exists()
    (target / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="other files, which are never removed: notes.txt"):
        save(target, params, overwrite=True)
    with pytest.raises(InputError, match="is a file, and the scene needs a folder"):
        save(target / "notes.txt" / "below", params)
    assert [path.name for path in tmp_path.iterdir()] == ["scene"]


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, params = tmp_path / "scene", ply.exported(splats())
    save(target, params)

    def full(*_arguments: object, **_options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(InputError, match="Cannot write the scene to .*No space left on device"):
        save(target, params, textures(), overwrite=True)
    assert load(target).textures is None and [path.name for path in tmp_path.iterdir()] == ["scene"]


def broken(folder: Path, name: str) -> None:
    """Break a scene in the way that the name says."""
    about = json.loads((folder / "scene.json").read_text())
    arrays = dict(np.load(folder / "textures.npz"))
    if name == "no textures":
        (folder / "textures.npz").unlink()
    elif name == "no splats":
        (folder / "splats.ply").unlink()
    elif name == "newer":
        (folder / "scene.json").write_text(json.dumps({**about, "version": 2}))
    elif name == "half":
        data = (folder / "textures.npz").read_bytes()
        (folder / "textures.npz").write_bytes(data[: len(data) // 2])
    elif name == "half splats":
        data = (folder / "splats.ply").read_bytes()
        (folder / "splats.ply").write_bytes(data[: len(data) // 2])
    elif name == "pickle":
        np.savez(folder / "textures.npz", **{**arrays, "vectors": np.array([{}], dtype=object)})
    elif name == "others":
        np.savez(folder / "textures.npz", **{**arrays, "splats": arrays["splats"] + 100})
    elif name == "colours":
        header = "ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nproperty float y\nend_header\n0 0\n"
        (folder / "splats.ply").write_text(header)
    elif name == "nothing":
        (folder / "scene.json").unlink()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no textures", "There is no file .*textures.npz, although"),
        ("no splats", "There is no file .*splats.ply"),
        ("newer", "has version 2"),
        ("half", "textures.npz cannot be read"),
        ("half splats", "splats.ply cannot be read"),
        ("pickle", "textures.npz cannot be read"),
        ("others", "textures.npz cannot be read, or does not fit .*from 0 to 29"),
        ("colours", "holds no splats with spherical harmonics: its vertices lack z"),
        ("nothing", "is not a scene: it has no scene.json"),
    ],
)
def test_what_is_wrong_with_a_scene_is_named(tmp_path: Path, name: str, message: str) -> None:
    folder = tmp_path / "scene"
    save(folder, ply.exported(splats()), textures())
    assert isinstance(load(folder), Scene)
    broken(folder, name)
    with pytest.raises(InputError, match=message):
        load(folder)


def test_bands_that_make_no_degree_are_refused(tmp_path: Path) -> None:
    params = ply.exported(splats(degree=1))
    ply.write(tmp_path / "splats.ply", {**params, "features_rest": params["features_rest"][:, :2]})
    with pytest.raises(InputError, match="6 properties f_rest"):
        ply.read(tmp_path / "splats.ply")


def test_every_field_of_a_texture_is_kept(tmp_path: Path) -> None:
    own = replace(textures(), moves_splats=True, product_tanh=True)
    save(tmp_path / "scene", ply.exported(splats()), own)
    read = load(tmp_path / "scene").textures
    assert read is not None and read.moves_splats and read.product_tanh and read.amplitudes == own.amplitudes
