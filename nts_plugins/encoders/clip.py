# SPDX-License-Identifier: Apache-2.0
"""Models of open_clip: pictures and phrases as vectors of one space.

LERF (Kerr et al. 2023) and LangSplat (Qin et al. 2024) take ViT-B-16 trained on LAION-2B. Phrases are given to it as
they are, without "a photo of a".
"""

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from nts_plugins import compat
from nts_plugins.encoders import weight_files, weights
from nts_plugins.encoders.settings import OpenClipSettings
from nts_plugins.errors import InputError

EVERY_LANGUAGE = ("xlm-roberta", "mt5", "nllb", "i18n", "SigLIP2")
"""In the names of models whose phrases may be in other languages than English."""
USUAL_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
"""Names of open_clip's files on the hub, where its list names a repository alone."""


class OpenClip:
    """Both towers of a model of open_clip.

    Args:
        model: as open_clip makes it.
        tokenizer: that belongs to it.
        name: of the space of its vectors.
        batch: pictures at once.
    """

    def __init__(self, model: Any, tokenizer: Callable[..., Tensor], name: str, *, batch: int = 64) -> None:
        import open_clip

        self.model, self.tokenizer, self.name, self.batch = model.eval(), tokenizer, name, batch
        compat.let_open_clip_tokenize(tokenizer)
        cfg = open_clip.get_model_preprocess_cfg(model)
        size = cfg["size"] if isinstance(cfg["size"], int) else cfg["size"][0]
        self.picture_size = int(size)
        self._width: Optional[int] = None
        some = next(model.visual.parameters())
        self.device, self.dtype = some.device, some.dtype
        self._mean, self._std = (torch.tensor(cfg[key], device=self.device).view(3, 1, 1) for key in ("mean", "std"))

    @classmethod
    def load(cls, settings: OpenClipSettings, device: torch.device, option: str = "--clip.weights") -> "OpenClip":
        """The model on a device; on a GPU in half precision, as LangSplat has it.

        Raises:
            InputError: where open_clip knows no such model or weights, the weights are not to be had, or what its text
                tower needs besides.
        """
        import open_clip

        check(settings)
        model = settings.model
        published = dict(open_clip.get_pretrained_cfg(model, settings.pretrained))
        file = settings.weights or _fetched(settings.name, published, option)
        try:
            _ask_for_tower(model)
            tokenizer = open_clip.get_tokenizer(model)
            made = open_clip.create_model(
                model,
                precision="fp16" if device.type == "cuda" else "fp32",
                device=device,
                pretrained_hf=False,
                force_quick_gelu=bool(published.get("quick_gelu", False)),
                # How pictures are to be made belongs to the weights, which are a mere file here.
                force_preprocess_cfg={key: published[key] for key in ("mean", "std") if published.get(key)},
            )
        except OSError as error:
            if not _text_tower(model):
                raise
            raise _without_tower(model, error) from error
        _fill(made, file, model)
        return cls(made, tokenizer, settings.name, batch=settings.batch)

    @property
    def width(self) -> int:
        """C, length of a vector."""
        if self._width is None:
            self._width = int(self.encode_phrases(["object"]).shape[1])
        return self._width

    @property
    def languages(self) -> Optional[Tuple[str, ...]]:
        """Languages of its phrases; None where they are many."""
        return None if any(part.lower() in self.name.lower() for part in EVERY_LANGUAGE) else ("en",)

    @torch.no_grad()
    def encode_pictures(self, pictures: Tensor) -> Tensor:
        """[B, 3, S, S] colours in [0, 1], S as ``picture_size``, to [B, C] float32 vectors of unit length."""
        if len(pictures) == 0:
            return torch.zeros(0, self.width, device=self.device)
        vectors: List[Tensor] = []
        for some in pictures.split(self.batch):
            normalised = (some.to(self.device, torch.float32) - self._mean) / self._std
            vectors.append(F.normalize(self.model.encode_image(normalised.to(self.dtype)).float(), dim=-1))
        return torch.cat(vectors)

    @torch.no_grad()
    def encode_phrases(self, phrases: Sequence[str]) -> Tensor:
        """T phrases to [T, C] float32 vectors of unit length.

        Raises:
            InputError: where there is no phrase, one is empty, or one is longer than the model reads.
        """
        phrases = [phrase.strip() for phrase in phrases]
        if not phrases or not all(phrases):
            raise InputError("There is nothing to look for: a phrase is empty.")
        for phrase in phrases:
            tokens, limit = self._tokens(phrase), int(self.tokenizer.context_length)  # type: ignore[attr-defined]
            if tokens > limit:
                raise InputError(
                    f"{phrase[:40]!r}... takes {tokens} tokens, and {self.name} reads {limit}: it would not see the "
                    f"end. Say it in fewer words, or separate phrases by ';'."
                )
        vectors = self.model.encode_text(self.tokenizer(phrases).to(self.device))
        return F.normalize(vectors.float(), dim=-1)

    def _tokens(self, phrase: str) -> int:
        """How many tokens a phrase takes, with those of its beginning and its end."""
        inner = getattr(self.tokenizer, "tokenizer", None)  # a Hugging Face tokenizer inside of open_clip's
        if inner is not None:
            return len(inner(phrase).input_ids)
        return len(self.tokenizer.encode(phrase)) + 2  # type: ignore[attr-defined]


def check(settings: OpenClipSettings) -> None:
    """See to it that what settings name is there, before anything is loaded.

    Raises:
        InputError: where open_clip knows no such model or weights, where there is no such file, or where transformers
            is missing, which makes the text towers of some models.
    """
    import open_clip

    model, tag = settings.model, settings.pretrained
    if open_clip.get_model_config(model) is None:
        raise InputError(f"open_clip knows no model {model!r}. It knows {', '.join(open_clip.list_models())}.")
    _check_transformers(model)
    if settings.weights is not None:
        weights.given(settings.weights, settings.name)
    elif not open_clip.get_pretrained_cfg(model, tag):
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(model)) or "none"
        raise InputError(f"open_clip knows no weights {tag!r} of {model}. It knows {tags}.")


def _fetched(name: str, published: Dict[str, Any], option: str) -> Path:
    """The file of published weights, as open_clip's list has them: on the hub, or elsewhere."""
    repository, file = os.path.split(published.get("hf_hub") or "")
    if repository:
        files = (f"{os.path.splitext(file)[0]}.safetensors", file) if file else USUAL_FILES
        return weights.fetched_from_hub(repository, files, name, option)
    own = Path("~/.cache/clip").expanduser() / os.path.basename(published["url"])
    return own if own.is_file() else weights.fetched(published["url"], name, option)


def _fill(made: Any, file: Path, model: str) -> None:
    """Put the weights of a file into a model. open_clip does it, which knows many ways in which they are named."""
    import open_clip

    try:
        found = open_clip.load_checkpoint(made, str(file), strict=False)
    except Exception as error:  # A file of something else fails wherever open_clip first stumbles over it.
        raise weight_files.of_another(made, weight_files.read(file, model), file, model) from error
    if getattr(found, "missing_keys", None) or getattr(found, "unexpected_keys", None):  # {} for arrays of numpy
        raise weight_files.of_another(made, {}, file, model, found)


def _text_tower(model: str) -> str:
    """The name in transformers of a model's text tower; empty where open_clip has its own."""
    import open_clip

    return str((open_clip.get_model_config(model) or {}).get("text_cfg", {}).get("hf_model_name") or "")


def _check_transformers(model: str) -> None:
    if _text_tower(model) and find_spec("transformers") is None:
        raise InputError(
            f"The text tower of {model} is one of transformers, which is not installed: pip install "
            f"'nts-plugins[multilingual]'"
        )


def _ask_for_tower(model: str) -> None:
    """End early where transformers would try for minutes to fetch what it needs of a text tower.

    Raises:
        ConnectionError: where that is not on this machine, and the hub is not to be asked.
    """
    tower = _text_tower(model)
    if tower and not Path(tower).is_dir() and weights.in_hub_cache(tower, "config.json") is None:
        weights.ask_hub(tower, "config.json")


def _without_tower(model: str, error: OSError) -> InputError:
    from huggingface_hub import constants

    return InputError(
        f"{model} also needs the configuration and the tokenizer of {_text_tower(model)}, which transformers fetches "
        f"from the hub, once. That failed: {weights.short(error)}. Without internet put them into "
        f"{constants.HF_HUB_CACHE} as a machine with internet has them there."
    )
