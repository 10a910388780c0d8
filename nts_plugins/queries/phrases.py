# SPDX-License-Identifier: Apache-2.0
"""Phrases to look for, as people type them, and the phrases that they have to beat."""

from typing import Dict, List, Literal, Optional, Sequence, Tuple

from nts_plugins.errors import InputError

Language = Literal["en", "zh", "ja", "ko", "ru", "de", "fr", "es"]

CANONICAL: Dict[Language, Tuple[str, ...]] = {
    "en": ("object", "things", "stuff", "texture"),
    "zh": ("物体", "东西", "材料", "纹理"),
    "ja": ("物体", "もの", "素材", "テクスチャ"),
    "ko": ("물체", "것들", "재료", "질감"),
    "ru": ("объект", "вещи", "материал", "текстура"),
    "de": ("Objekt", "Dinge", "Material", "Textur"),
    "fr": ("objet", "choses", "matière", "texture"),
    "es": ("objeto", "cosas", "material", "textura"),
}
"""What everything is a little like, by language. The English ones are those of LERF (Kerr et al. 2023) and of LangSplat
(Qin et al. 2024); the others are ours: a text tower compares phrases of one language best. Of the languages in Latin
letters only English goes unsaid."""
SEPARATORS = ";；"
"""Between phrases: the semicolon, and the full-width one of Chinese and Japanese keyboards."""
_SCRIPTS: Tuple[Tuple[Language, Tuple[Tuple[int, int], ...]], ...] = (
    ("ja", ((0x3040, 0x30FF),)),
    ("ko", ((0xAC00, 0xD7AF), (0x1100, 0x11FF))),
    ("zh", ((0x4E00, 0x9FFF), (0x3400, 0x4DBF))),
    ("ru", ((0x0400, 0x04FF),)),
)
"""Languages that are known by their script, the more telling ones first: Japanese has Chinese characters, too."""


def split(text: str) -> List[str]:
    """The phrases of a text to look for, each once, without blanks around them.

    Raises:
        InputError: where there is none.
    """
    found = _split(text)
    if not found:
        raise InputError("There is nothing to look for: type a phrase, or several with ';' between them.")
    return found


def split_negatives(text: str) -> List[str]:
    """The same of a text that says what phrases have to beat; none where it is empty.

    Raises:
        InputError: where there is something, but no phrase.
    """
    found = _split(text)
    if text.strip() and not found:
        raise InputError(
            f"There is no phrase in the negatives {text!r}, which are what phrases have to beat: type one, or several "
            f"with ';' between them, or nothing at all for the canonical ones."
        )
    return found


def _split(text: str) -> List[str]:
    for separator in SEPARATORS:
        text = text.replace(separator, "\n")
    phrases = [phrase.strip() for phrase in text.split("\n")]
    return list(dict.fromkeys(phrase for phrase in phrases if phrase))


def language_of(phrase: str) -> Language:
    """The language whose script a phrase is in; English where Latin letters do not tell."""
    for language, ranges in _SCRIPTS:
        if any(first <= ord(letter) <= last for letter in phrase for first, last in ranges):
            return language
    return "en"


def canonical(phrases: Sequence[str]) -> Tuple[str, ...]:
    """The canonical phrases of the languages that phrases are in, each once."""
    return tuple(dict.fromkeys(each for phrase in phrases for each in CANONICAL[language_of(phrase)]))


def check_languages(phrases: Sequence[str], encoder: str, known: Optional[Tuple[str, ...]]) -> None:
    """Refuse phrases that a text tower cannot read: it would answer, and the answer would be noise.

    Args:
        phrases: that are looked for, or have to be beaten.
        encoder: name of the text tower.
        known: languages that it reads; None for many.

    Raises:
        InputError: naming the first such phrase, and a tower that reads more.
    """
    for phrase in phrases:
        if known is not None and language_of(phrase) not in known:
            raise InputError(
                f"{phrase!r} is not English, and {encoder} reads nothing else. Translate it, or extract features with "
                f"a model that reads many languages: nts features --clip.model xlm-roberta-large-ViT-H-14 "
                f"--clip.pretrained frozen_laion5b_s13b_b90k."
            )
