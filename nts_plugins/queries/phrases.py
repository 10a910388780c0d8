# SPDX-License-Identifier: Apache-2.0
"""Phrases to look for, as people type them, and the phrases that they have to beat."""

from typing import Dict, List, Optional, Sequence, Tuple

from nts_plugins.errors import InputError

CANONICAL: Dict[str, Tuple[str, ...]] = {
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
(Qin et al. 2024); the others are ours: a text tower compares phrases of one language best."""
SEPARATORS = ";；"
"""Between phrases: the semicolon, and the full-width one of Chinese and Japanese keyboards."""
_SCRIPTS = (
    ("ja", ((0x3040, 0x30FF),)),
    ("ko", ((0xAC00, 0xD7AF), (0x1100, 0x11FF))),
    ("zh", ((0x4E00, 0x9FFF), (0x3400, 0x4DBF))),
    ("ru", ((0x0400, 0x04FF),)),
)
"""Languages that are known by their script, the more telling ones first: Japanese has Chinese characters, too."""


def split(text: str) -> List[str]:
    """The phrases of a text, each once, without blanks around them.

    Raises:
        InputError: where there is none.
    """
    for separator in SEPARATORS:
        text = text.replace(separator, "\n")
    phrases = [phrase.strip() for phrase in text.split("\n")]
    found = list(dict.fromkeys(phrase for phrase in phrases if phrase))
    if not found:
        raise InputError("There is nothing to look for: type a phrase, or several with ';' between them.")
    return found


def language_of(phrases: Sequence[str]) -> str:
    """The language whose script some phrase is in; English where Latin letters do not tell."""
    text = "".join(phrases)
    for language, ranges in _SCRIPTS:
        if any(first <= ord(letter) <= last for letter in text for first, last in ranges):
            return language
    return "en"


def canonical(phrases: Sequence[str], language: Optional[str] = None) -> Tuple[str, ...]:
    """What phrases have to beat: the canonical phrases of their language.

    Args:
        phrases: that are looked for.
        language: one of :data:`CANONICAL`; None goes by the script.

    Raises:
        InputError: for a language that has none.
    """
    language = language or language_of(phrases)
    if language not in CANONICAL:
        raise InputError(
            f"There are no canonical phrases of the language {language!r}, only of {', '.join(CANONICAL)}. Give some "
            f"of your own instead."
        )
    return CANONICAL[language]


def check_languages(phrases: Sequence[str], encoder: str, known: Optional[Tuple[str, ...]]) -> None:
    """Refuse phrases that a text tower cannot read: it would answer, and the answer would be noise.

    Args:
        phrases: that are looked for.
        encoder: name of the text tower.
        known: languages that it reads; None for many.

    Raises:
        InputError: naming a tower that reads more.
    """
    language = language_of(phrases)
    if known is not None and language not in known:
        raise InputError(
            f"{phrases[0]!r} is not English, and {encoder} reads nothing else. Translate it, or extract features with "
            f"a model that reads many languages: nts features --clip.model xlm-roberta-large-ViT-H-14 "
            f"--clip.pretrained frozen_laion5b_s13b_b90k."
        )
