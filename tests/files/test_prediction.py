# SPDX-License-Identifier: Apache-2.0
"""Files of predictions: what is written is read again, and each mistake in one has a message of its own."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Dict

import numpy as np
import pytest

from nts_plugins.errors import InputError
from nts_plugins.files.prediction import Prediction, load, save


def made(**differences: Any) -> Prediction:
    """Of three photographs that differ in size."""
    lots = np.random.default_rng(0)
    viewmats = np.tile(np.eye(4), (3, 1, 1))
    for number in range(3):
        turn, _ = np.linalg.qr(lots.normal(size=(3, 3)))
        viewmats[number, :3, :3] = turn * np.sign(np.linalg.det(turn))
        viewmats[number, :3, 3] = lots.normal(size=3)
    values: Dict[str, Any] = dict(
        names=("images/b.png", "../a é.png", "c.jpg"),
        viewmats=viewmats,
        Ks=np.array([[[500.5, 0, 319.5], [0, 501.25, 240.5], [0, 0, 1]]] * 3),
        sizes=np.array([[640, 480], [480, 640], [200, 100]]),
        depths=(0.5 + lots.random((3, 6, 8))).astype(np.float32),
        confidences=lots.random((3, 6, 8)).astype(np.float32),
        source="a model",
        licence="Apache-2.0",
    )
    return Prediction(**{**values, **differences})


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    before, path = made(), tmp_path / "new" / "prediction.npz"
    save(path, before)
    assert [each.name for each in path.parent.iterdir()] == ["prediction.npz"]
    after = load(path)
    assert (after.names, after.source, after.licence) == (before.names, before.source, before.licence)
    for name in ("viewmats", "Ks", "sizes"):
        assert np.array_equal(getattr(after, name), getattr(before, name)), "bit by bit"
    for name in ("depths", "confidences"):
        found, expected = getattr(after, name), getattr(before, name)
        assert found.dtype == np.float32
        assert np.array_equal(found, expected.astype(np.float16).astype(np.float32))
        np.testing.assert_allclose(found, expected, rtol=2.0**-11, atol=1e-7)
    again = tmp_path / "again.npz"
    save(again, after)
    assert np.array_equal(load(again).depths, after.depths), "what float16 holds stays as it is"


@pytest.mark.parametrize("factor, kept", [(1.0, False), (1e5, True), (1e-5, True), (4e4, False), (2e-4, False)])
def test_what_float16_does_not_hold_is_kept_in_float32(tmp_path: Path, factor: float, kept: bool) -> None:
    depths = factor * made().depths
    depths[0, :2] = 0.0  # Says nothing, and must not count as too small.
    save(tmp_path / "prediction.npz", made(depths=depths))
    with np.load(tmp_path / "prediction.npz") as file:
        assert file["depths"].dtype == (np.float32 if kept else np.float16)
        assert file["confidences"].dtype == np.float16, "each by itself"
    found = load(tmp_path / "prediction.npz").depths
    assert np.array_equal(found, depths) if kept else np.allclose(found, depths, rtol=2.0**-11, atol=0)


def test_the_edges_of_float16(tmp_path: Path) -> None:
    depths = made().depths.copy()
    depths[0, 0, 0], depths[0, 0, 1] = 65504.0, 2.0**-14
    save(tmp_path / "prediction.npz", made(depths=depths, confidences=np.zeros_like(depths)))
    with np.load(tmp_path / "prediction.npz") as file:
        assert file["depths"].dtype == file["confidences"].dtype == np.float16
        assert file["depths"][0, 0, :2].tolist() == [65504.0, 2.0**-14]
    depths[0, 0, 0] = 65519.0  # float16 would round it down.
    save(tmp_path / "prediction.npz", made(depths=depths))
    assert load(tmp_path / "prediction.npz").depths[0, 0, 0] == 65519.0
    negative = -1e6 * np.ones_like(depths)
    save(tmp_path / "prediction.npz", made(confidences=negative))
    assert np.array_equal(load(tmp_path / "prediction.npz").confidences, negative)


def test_the_example_of_the_description_is_read(tmp_path: Path) -> None:
    """The code of docs/prediction-files.md as it stands there: lists, integers, no source."""
    docs = Path(__file__).parents[2] / "docs" / "prediction-files.md"
    code = docs.read_text().split("```python")[1].split("```")[0]
    values = made()
    sizes = np.array([[640, 480]] * 2)
    known = {"viewmats": values.viewmats[:2], "Ks": values.Ks[:2], "depths": values.depths[:2]}
    exec(code.replace('"prediction.npz"', repr(str(tmp_path / "prediction.npz"))), known)
    found = load(tmp_path / "prediction.npz")
    assert found.names == ("images/0.png", "images/1.png") and np.array_equal(found.sizes, sizes)
    assert found.source == "" == found.licence and (found.confidences == 1).all()


def test_rows_are_of_some_photographs_in_any_order() -> None:
    whole = made()
    some = whole.rows(["c.jpg", "images/b.png"])
    assert some.names == ("c.jpg", "images/b.png") and some.licence == whole.licence and some.source == whole.source
    for name in ("viewmats", "Ks", "sizes", "depths", "confidences"):
        assert np.array_equal(getattr(some, name), getattr(whole, name)[[2, 0]])
    with pytest.raises(InputError, match="Nothing is predicted of d.png, e.png"):
        whole.rows(["c.jpg", "d.png", "e.png"])


def spoilt(name: str, change: Callable[[np.ndarray], None]) -> Dict[str, Any]:
    values = np.array(getattr(made(), name))
    change(values)
    return {name: values}


def put(where: Any, value: float) -> Callable[[np.ndarray], None]:
    def change(values: np.ndarray) -> None:
        values[where] = value

    return change


MISTAKES = {
    "viewmats have shape \\[3, 3, 4\\]; \\[3, 4, 4\\] is wanted": {"viewmats": made().viewmats[:, :3]},
    "viewmats have shape \\[2, 4, 4\\]; \\[3, 4, 4\\]": {"viewmats": made().viewmats[:2]},
    "Ks have shape \\[3, 3\\]; \\[3, 3, 3\\] is wanted": {"Ks": made().Ks[0]},
    "sizes have shape \\[2\\]; \\[3, 2\\] is wanted": {"sizes": np.array([640, 480])},
    "depths have shape \\[2, 6, 8\\]; \\[3, 6, 8\\]": {
        "depths": made().depths[:2],
        "confidences": made().confidences[:2],
    },
    "confidences have shape \\[3, 3, 4\\]; \\[3, 6, 8\\]": {"confidences": made().confidences[:, ::2, ::2]},
    "needs depths \\[N, h, w\\] of at least one": {
        "depths": made().depths[..., None],
        "confidences": made().depths[..., None],
    },
    "viewmats hold numbers that are not finite": spoilt("viewmats", put((1, 0, 3), np.nan)),
    "Ks hold numbers that are not finite": spoilt("Ks", put((0, 0, 0), np.inf)),
    "depths hold numbers that are not finite": spoilt("depths", put((2, 0, 0), np.nan)),
    "confidences hold numbers that are not finite": spoilt("confidences", put((2, 0, 0), np.inf)),
    "names photographs twice: c.jpg\\.": {"names": ("c.jpg", "a.png", "c.jpg")},
    "camera of ../a é.png is not rigid": spoilt("viewmats", put((1, slice(3), slice(3)), 0.5)),
    "camera of images/b.png is not rigid": spoilt("viewmats", put((0, slice(3), 0), -made().viewmats[0, :3, 0])),
    "camera of c.jpg is not rigid": spoilt("viewmats", put((2, 3), (0.1, 0, 0, 1))),
    "intrinsics of ../a é.png are not \\[\\[fx, 0, cx\\]": {
        "Ks": np.concatenate([made().Ks[:1], made().Ks[1:].transpose(0, 2, 1)])
    },
    "intrinsics of c.jpg are not .* above 0": spoilt("Ks", put((2, 1, 1), 0.0)),
    "intrinsics of images/b.png are not": spoilt("Ks", put((0, 0, 1), 3.0)),
    "no depth of images/b.png, c.jpg\\.": spoilt("depths", put(([0, 2],), 0.0)),
}


@pytest.mark.parametrize("message", MISTAKES, ids=range(len(MISTAKES)))
def test_what_does_not_belong_together_is_said(message: str) -> None:
    with pytest.raises(InputError, match=message):
        made(**MISTAKES[message])


def test_a_prediction_of_nothing_is_none() -> None:
    nothing = {
        name: np.asarray(getattr(made(), name))[:0] for name in ("viewmats", "Ks", "sizes", "depths", "confidences")
    }
    with pytest.raises(InputError, match="at least one photograph"):
        made(names=(), **nothing)


def entries(**differences: Any) -> Dict[str, Any]:
    names = ("viewmats", "Ks", "sizes", "depths", "confidences")
    kept = {"format": "nts-plugins prediction 1", "names": np.array(made().names)}
    return {**kept, **{name: getattr(made(), name) for name in names}, **differences}


def without(*names: str) -> Dict[str, Any]:
    return {name: value for name, value in entries().items() if name not in names}


FILES = {
    "says that its format is '', and nts-plugins prediction 1 is read. docs/prediction-files.md": without("format"),
    "says that its format is 'nts-plugins prediction 2'": entries(format="nts-plugins prediction 2"),
    "has depths without confidences. .*write ones of their shape": without("confidences"),
    "lacks Ks, depths\\.": without("Ks", "depths"),
    "cannot be used. The prediction's viewmats have shape": entries(viewmats=np.eye(4)),
    "cannot be used. could not convert string to float": entries(Ks=np.array([["f"]])),
    "cannot be used. .*iteration over a 0-d array": entries(names="a.png"),
    "cannot be used. The prediction's camera of images/b.png is not rigid": entries(viewmats=np.zeros((3, 4, 4))),
    "cannot be read as an .npz file: Object arrays cannot be loaded": entries(names=np.array([None, 1, 2], object)),
}


@pytest.mark.parametrize("message", FILES, ids=range(len(FILES)))
def test_files_that_cannot_be_used_are_explained(tmp_path: Path, message: str) -> None:
    path = tmp_path / "other.npz"
    np.savez(path, **FILES[message])
    with pytest.raises(InputError, match=f"other.npz {message}") as caught:
        load(path)
    assert "\n" not in str(caught.value)


def test_files_of_something_else_are_explained(tmp_path: Path) -> None:
    save(tmp_path / "whole.npz", made())
    whole = (tmp_path / "whole.npz").read_bytes()
    damaged = bytearray(whole)
    middle = len(whole) // 2
    damaged[middle - 200 : middle + 200] = bytes(400)
    np.save(tmp_path / "array.npy", np.zeros(3))
    contents = {
        "text.npz": b"not a prediction",
        "empty.npz": b"",
        "half.npz": whole[:middle],
        "damaged.npz": bytes(damaged),
        "array.npz": (tmp_path / "array.npy").read_bytes(),
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=f"{name} cannot be read as an .npz file"):
            load(tmp_path / name)
    for name in ("nowhere.npz", ""):
        with pytest.raises(InputError, match="There is no prediction"):
            load(tmp_path / name)


def test_nothing_half_written_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "prediction.npz"
    save(path, made())
    before = path.read_bytes()

    def interrupted(file: Any, **_arrays: Any) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez_compressed", interrupted)
    for target in (path, tmp_path / "other.npz"):
        with pytest.raises(KeyboardInterrupt):
            save(target, replace(made(), source="another"))
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
    monkeypatch.undo()
    with pytest.raises(InputError, match="Cannot write"):
        save(path / "prediction.npz", made())
    assert list(tmp_path.iterdir()) == [path]
