"""Which words are words at all: what a dictionary knows is no slip of the keyboard, even where no article has it."""

import re
from functools import cache, lru_cache

from pymorphy3 import MorphAnalyzer
from spellchecker import SpellChecker

_CYRILLIC = re.compile(r"[а-я]")


@cache
def _russian() -> MorphAnalyzer:
    return MorphAnalyzer()


@cache
def _english() -> SpellChecker:
    return SpellChecker(language="en")


@lru_cache(maxsize=100_000)
def is_word(word: str) -> bool:
    """Whether the folded word is Russian, in any of its forms (OpenCorpora's dictionary), or common English."""
    if _CYRILLIC.search(word):
        return bool(_russian().word_is_known(word))
    return word in _english()
