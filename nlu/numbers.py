"""Numbers in words, for whatever reads them: days, scores."""

from __future__ import annotations

from typing import Final

NUMBER_WORDS: Final = {
    word: number
    for number, words in enumerate(
        (
            "ноль нуль zero", "один одна одно one", "два две two", "три three", "четыре four", "пять five",
            "шесть six", "семь seven", "восемь eight", "девять nine", "десять ten",
        )
    )
    for word in words.split()
}  # fmt: skip
"""Zero to ten as they are counted in Russian and English, folded (`ё` is `е`)."""
