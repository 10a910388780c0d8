# SPDX-License-Identifier: Apache-2.0
"""What ns-eval says of a scene that has labels: scores of every protocol, and the file with a row for each phrase."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, List, Optional, Tuple

import numpy as np
import pytest
from PIL import Image

from nts_plugins.data.labels import LabelFolder, Outlined, bounds
from nts_plugins.evaluation.open_vocabulary import PROTOCOLS_2D
from nts_plugins.models._language_scores import FILE, PROTOCOLS
from nts_plugins.queries.phrases import CANONICAL
from tests import runs
from tests.asking import AXES, COLORS, Scene, with_splats, write_scene

NAMES = {"red": 0, "green; or so": 1, "blue": 2}
"""Categories, one with what stands between phrases, and the channel that is brightest where they are."""


@dataclass(frozen=True)
class Outlines(LabelFolder):
    """Pixels of the colour that a category is of."""

    def _outlined(self, source: Path, size: Optional[Tuple[int, int]]) -> List[Outlined]:
        picture = np.asarray(Image.open(source))[..., :3].astype(int)
        bright = picture.max(axis=2) > 40
        masks = {name: (picture.argmax(axis=2) == channel) & bright for name, channel in NAMES.items()}
        return [Outlined(name, mask, bounds(mask)) for name, mask in masks.items() if mask.sum() > 30]

    def _categories(self, source: Path) -> List[str]:
        return list(NAMES)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    found = write_scene(tmp_path_factory.mktemp("data"))
    phrases = {**AXES, "green; or so": AXES["green"]}
    vectors = np.eye(8, dtype=np.float32)[list(phrases.values())]
    # What all phrases have to beat is a little like each colour.
    vectors[[list(phrases).index(each) for each in CANONICAL["en"]], :3] = 0.5
    np.savez(found.table, phrases=np.array(list(phrases)), vectors=vectors)
    return found


@pytest.fixture
def pipeline(scene: Scene, tmp_path: Path) -> Any:
    # An option behind theirs, or the name of the dataparser would be one of the protocols.
    protocols = ["--pipeline.model.protocols", *PROTOCOLS, "--pipeline.model.num-random", "10"]
    options = with_splats(scene.splats, scene.table, *protocols)
    loaded = runs.load(runs.train("langsplat", scene.capture, tmp_path / "outputs", 100, *options))
    dataset = loaded.datamanager.eval_dataset
    dataset.metadata["labels"] = Outlines({path.stem: path for path in dataset.image_filenames})
    return loaded


def test_every_protocol_scores_every_phrase(pipeline: Any, tmp_path: Path) -> None:
    found = pipeline.get_average_eval_image_metrics(output_path=tmp_path / "shown")
    assert {f"{name}_miou" for name in PROTOCOLS} <= found.keys() and found["psnr"] > 20
    assert found["strict_miou"] > 0.4 and found["strict_localisation"] == 1.0
    assert found["oracle-level_miou"] >= found["lerf-ovs-2d_miou"] and "lerf-ovs-3d_acc_25" in found
    told = json.loads((tmp_path / "shown" / FILE).read_text())
    assert told["rules"].keys() == told["rows"].keys() == told["protocols"].keys() == set(PROTOCOLS)
    assert set(PROTOCOLS_2D) < set(PROTOCOLS) and told["fit"] == "lift"
    dataset = pipeline.datamanager.eval_dataset
    wanted = [
        (path.name, label.category)
        for index, path in enumerate(dataset.image_filenames)
        for label in dataset.metadata["labels"].in_register(dataset, index)
    ]
    assert {category for _, category in wanted} == set(NAMES)
    for name, rows in told["rows"].items():
        assert [(row["picture"], row["category"]) for row in rows] == wanted
        assert np.mean([row["iou"] for row in rows]) == pytest.approx(found[f"{name}_miou"])


def test_phrases_that_cannot_be_asked_leave_the_other_numbers(
    pipeline: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setitem(NAMES, "zebra", 0)
    found = pipeline.get_average_eval_image_metrics(output_path=tmp_path / "shown")
    assert found["psnr"] > 20 and not any(key.endswith("miou") for key in found)
    assert "Phrases are not scored" in capsys.readouterr().out and not (tmp_path / "shown" / FILE).exists()


def test_the_colours_of_the_capture_are_those_of_the_names() -> None:
    assert [COLORS[channel] for channel in NAMES.values()] == [name.split(";")[0] for name in NAMES]
