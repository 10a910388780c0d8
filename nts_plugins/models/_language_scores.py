# SPDX-License-Identifier: Apache-2.0
"""How well phrases are found, by named protocols: what ns-eval reports of scenes that people have labelled."""

import json
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import torch
from torch import Tensor

from nts_plugins.data.cameras import view_of
from nts_plugins.data.labels import LabelFolder
from nts_plugins.errors import InputError
from nts_plugins.evaluation.open_vocabulary import PROTOCOLS_2D, RULES_2D, Label, Row, aggregate, as_dicts
from nts_plugins.evaluation.selection import SELECTION_RULE, Selection, evaluate_selection, select
from nts_plugins.files.whole import result_file

SELECTION = "lerf-ovs-3d"
"""The protocol that selects splats; the others look at maps."""
PROTOCOLS = (*PROTOCOLS_2D, SELECTION)
SCORES = ("miou", "localisation", "acc_25", "acc_50")
"""What ns-eval reports of each protocol; the rest is in the file."""
FILE = "language.json"


def check_protocols(names: Sequence[str]) -> None:
    """All of them are known.

    Raises:
        InputError: naming one that is not.
    """
    for name in names:
        if name not in PROTOCOLS:
            raise InputError(
                f"--pipeline.model.protocols names {name!r}, and there is no such protocol: {', '.join(PROTOCOLS)}."
            )


def language_scores(
    model: Any,
    dataset: Any,
    protocols: Sequence[str],
    output: Optional[Path] = None,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> Dict[str, float]:
    """Scores on the labelled pictures of a dataset.

    Args:
        model: a :class:`~nts_plugins.models.language.LanguageModel` whose splats have language.
        dataset: whose ``metadata["labels"]`` is a :class:`~nts_plugins.data.labels.LabelFolder`.
        protocols: names of those wanted.
        output: folder of language.json, with a row for each picture and category.
        tell: called with how many pictures are done, of how many.

    Returns:
        Each protocol's scores as ``<protocol>_<score>``; none without labels.

    Raises:
        InputError: where phrases cannot be encoded, and where the file cannot be written.
    """
    labels: Optional[LabelFolder] = dataset.metadata.get("labels")
    if labels is None:
        return {}
    rows: Dict[str, Dict[str, List[Row]]] = {name: {} for name in protocols}
    categories = labels.categories()
    selection = _selection(model, categories) if SELECTION in protocols else None
    for index, path in enumerate(dataset.image_filenames):
        tell(index, len(dataset))
        own = labels.in_register(dataset, index)
        if not own:
            continue
        camera = dataset.cameras[index : index + 1].to(model.device)
        for name, found in _of_picture(model, camera, own, protocols, selection, categories).items():
            rows[name][path.name] = found
    tell(len(dataset), len(dataset))
    scores = {name: aggregate(found) for name, found in rows.items() if any(found.values())}
    if output is not None:
        _write(output / FILE, model, scores, rows)
    return {f"{name}_{key}": found[key] for name, found in scores.items() for key in SCORES if key in found}


def _of_picture(
    model: Any,
    camera: Any,
    labels: List[Label],
    protocols: Sequence[str],
    selection: Optional[Selection],
    categories: Tuple[str, ...],
) -> Dict[str, List[Row]]:
    question = model.ask([label.category for label in labels])
    relevancy, there = model.relevancy(camera, question, exact=True)
    relevancy, valid = relevancy.cpu(), there.cpu()
    found = {name: PROTOCOLS_2D[name](relevancy, valid, labels) for name in protocols if name in PROTOCOLS_2D}
    if selection is not None:
        view = view_of(camera, camera.camera_to_worlds[..., :3, :4])

        def silhouette(splats: Tensor) -> Tensor:
            return model.opacity_of(splats.to(model.device), view).cpu()

        found[SELECTION] = evaluate_selection(selection, categories, labels, silhouette)
    return found


@torch.no_grad()
def _selection(model: Any, categories: Tuple[str, ...]) -> Selection:
    scores = model.splat_relevancy(model.ask(categories))
    return select(scores.cpu(), model.means.detach().cpu(), (scores > 0).any(dim=-1).cpu())


def _write(path: Path, model: Any, scores: Dict[str, Dict[str, float]], rows: Dict[str, Dict[str, List[Row]]]) -> None:
    levels = model.head.levels
    found = {
        name: [row for picture, own in pictures.items() for row in as_dicts(picture, own, levels)]
        for name, pictures in rows.items()
    }
    config, rules = model.config.language, {**RULES_2D, SELECTION: SELECTION_RULE}
    about = {"encoder": model.head.encoder, "fit": config.fit, "settings": vars(getattr(config, config.fit))}
    with result_file(path) as file:
        values = {**about, "rules": {name: rules[name] for name in rows}, "protocols": scores, "rows": found}
        text = json.dumps(values, indent=1, ensure_ascii=False, default=str)
        file.write((text + "\n").encode("utf-8"))
