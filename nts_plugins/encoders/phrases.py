# SPDX-License-Identifier: Apache-2.0
"""Phrases to vectors of the space that a scene's features are of."""

import zipfile
import zlib
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nts_plugins.encoders.settings import OpenClipSettings
from nts_plugins.errors import InputError, describe
from nts_plugins.queries.phrases import check_languages


class PhraseTable:
    """Vectors of phrases that were encoded elsewhere, for machines without the text tower.

    Args:
        path: an .npz file with ``phrases`` [T] and ``vectors`` [T, C]; case does not matter.
        name: of the space that the vectors are said to be of.

    Raises:
        InputError: where there is no such file, or it holds something else.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.name, self._path = name, path
        phrases, vectors = _table(path)
        if vectors.ndim != 2 or len(vectors) != len(phrases):
            raise InputError(f"{path} has {len(phrases)} phrases, and vectors of the shape {tuple(vectors.shape)}.")
        rows = F.normalize(vectors, dim=1)
        names = [phrase.strip().lower() for phrase in phrases]
        self._vectors: Dict[str, Tensor] = dict(zip(names, rows, strict=True))
        self.width = int(vectors.shape[1])

    def encode_phrases(self, phrases: Sequence[str]) -> Tensor:
        """T phrases to [T, C] vectors of unit length.

        Raises:
            InputError: naming those that the table lacks.
        """
        missing = [phrase for phrase in phrases if phrase.strip().lower() not in self._vectors]
        if missing:
            known = describe(sorted(self._vectors), limit=20)
            raise InputError(f"{self._path} has no vectors of {describe(missing)}. It has those of {known}.")
        return torch.stack([self._vectors[phrase.strip().lower()] for phrase in phrases])

    def check(self, phrases: Sequence[str]) -> None:
        """A table reads what it has."""
        return None


def _table(path: Path) -> Tuple[List[str], Tensor]:
    def wrong(fault: str) -> InputError:
        return InputError(f"{path} is no table of phrases (.npz with phrases and vectors): {fault}.")

    if not path.is_file():
        raise wrong("it is not a file")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in ("phrases", "vectors") if name in file}
    except (OSError, ValueError, TypeError, AttributeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        # What numpy says of Python objects advises to let the file run what it likes.
        raise wrong("it is damaged, or does not hold arrays of words and of numbers") from error
    for name in ("phrases", "vectors"):
        if name not in arrays:
            raise wrong(f"it has no {name}")
    if arrays["phrases"].ndim != 1 or arrays["vectors"].dtype.kind not in "fiu":
        raise wrong("its phrases are no list, or its vectors no numbers")
    return [str(each) for each in arrays["phrases"]], torch.from_numpy(arrays["vectors"].astype(np.float32))


class _Tower:
    """A text tower that refuses phrases which it cannot read."""

    def __init__(self, clip: Any) -> None:
        self.name, self.width, self._clip = clip.name, clip.width, clip

    def encode_phrases(self, phrases: Sequence[str]) -> Tensor:
        return self._clip.encode_phrases(phrases).cpu()

    def check(self, phrases: Sequence[str]) -> None:
        check_languages(phrases, self.name, self._clip.languages)


def text_encoder(encoder: str, weights: Optional[Path] = None, device: str = "cpu") -> Any:
    """What encodes phrases for features of an encoder.

    Args:
        encoder: its name; up to the first " / " it is that of the space.
        weights: a file of the text tower's weights, or a table of phrases (.npz). None fetches the published weights.
        device: where the tower runs. A phrase takes a hundredth of a second on a CPU.

    Raises:
        InputError: where the space is none of open_clip's and no table is given, or the weights are not to be had.
    """
    space = encoder.partition(" / ")[0].strip()
    if weights is not None and weights.suffix == ".npz":
        return PhraseTable(weights, space)
    import open_clip

    from nts_plugins.encoders.clip import OpenClip

    model, _, tag = space.partition(" ")
    if not tag or open_clip.get_model_config(model) is None:
        raise InputError(
            f"The features are of {space!r}, which is no model of open_clip with its weights: phrases need a table of "
            f"their vectors in place of a text tower (--pipeline.model.language.text-weights TABLE.npz in ns-train, "
            f"--weights TABLE.npz in nts query)."
        )
    option = "--weights in nts query, --pipeline.model.language.text-weights in ns-train"
    return _Tower(OpenClip.load(OpenClipSettings(model, tag, weights), torch.device(device), option))
