"""Which language a customer writes in."""

from __future__ import annotations

import re
from functools import lru_cache

from lingua import Language, LanguageDetector, LanguageDetectorBuilder

LANGUAGES = {"ru": Language.RUSSIAN, "en": Language.ENGLISH}
DEFAULT = "ru"


@lru_cache(maxsize=1)
def _detector() -> LanguageDetector:
    return LanguageDetectorBuilder.from_languages(*LANGUAGES.values()).with_low_accuracy_mode().build()


def detect(text: str, remembered: str | None = None) -> str:
    """The language to answer in: `ru` or `en`.

    Letters decide where only one alphabet occurs in words; both alphabets ("не работает iPhone 15") are for the
    model. A text without words ("12345", an emoji) keeps the remembered language, and so does a single Latin
    word in a Russian conversation: a brand or a code is no change of language.
    """
    words = re.findall(r"[^\W\d_]{2,}", text[:1000])
    cyrillic = sum(bool(re.search("[а-яё]", word, re.IGNORECASE)) for word in words)
    if not words:
        return remembered or DEFAULT
    if cyrillic == len(words):
        return "ru"
    if cyrillic == 0:
        return remembered if remembered and len(words) == 1 else "en"
    # A model's name is written in Latin letters in any language, and with a capital one: it tells nothing.
    telling = [word for word in words if not re.match("[A-Z]", word)]
    found = _detector().detect_language_of(" ".join(telling))
    return "en" if found == Language.ENGLISH else "ru"
