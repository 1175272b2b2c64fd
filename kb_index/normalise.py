"""Messages as people type them: letters folded for comparison, and other readings of a slip of the keyboard.

A message may be Russian typed on the English layout (ghbdtn), English on the Russian one (руддщ), or Russian in Latin
letters (gde moi zakaz). Which it is, is judged by letter trigrams and known words of both languages.
"""

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Literal

from kb_index.common_words import ENGLISH, RUSSIAN

Script = Literal["ru", "en"]
MAX_CHARACTERS = 2000  # of a message; what a customer writes beyond it cannot change which article is meant
_LONGEST_WORD = 40
_REMEMBERED = 20_000  # words whose probability is kept
_REMEMBERED_TEXTS = 1_000
_WORD = re.compile(r"[^\W_]+")
_REPEATED = re.compile(r"([^\W\d_])\1{2,}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]")
_CYRILLIC = re.compile(r"[а-яё]")
_LATIN = re.compile(r"[a-z]")

_KEYS_EN = "`qwertyuiop[]asdfghjkl;'zxcvbnm,."
_KEYS_RU = "ёйцукенгшщзхъфывапролджэячсмитьбю"
_TO_RUSSIAN_KEYS = str.maketrans(_KEYS_EN + '~{}:"<>', _KEYS_RU + "ёхъжэбю")
_TO_ENGLISH_KEYS = str.maketrans(_KEYS_RU, _KEYS_EN)

_TRANSLITERATION = (
    *(("shch", "щ"), ("sch", "щ"), ("zh", "ж"), ("kh", "х"), ("ch", "ч"), ("sh", "ш"), ("ts", "ц"), ("tz", "ц")),
    *(("yu", "ю"), ("ju", "ю"), ("iu", "ю"), ("ya", "я"), ("ja", "я"), ("ia", "я"), ("yo", "е"), ("jo", "е")),
    *(("ye", "е"), ("je", "е"), ("ey", "ей"), ("ay", "ай"), ("oy", "ой"), ("uy", "уй"), ("iy", "ий"), ("yy", "ый")),
)
_LONG_SOUNDS = dict(_TRANSLITERATION)
_SOUNDS = dict(
    zip("abcdefghijklmnopqrstuvwxyz'46", "абцдефгхийклмнопкрстуввхызьчш", strict=True),
)
_SOUND = re.compile("|".join([*(latin for latin, _ in _TRANSLITERATION), "[a-z'46]"]))
_LATIN_SPELLING = str.maketrans(
    dict(
        zip("абвгдезийклмнопрстуфхыэ", "abvgdeziyklmnoprstufhye", strict=True),
        ж="zh", ц="ts", ч="ch", ш="sh", щ="sch", ъ="", ь="", ю="yu", я="ya",
    )
)  # fmt: skip
_FINAL_SHORT_I = re.compile(r"(?<=[аеоуиыюя])и\b")


def fold(text: str) -> str:
    """Lower case, one form of each letter (NFKC, ё as е), no control characters, no letter three times in a row."""
    return fold_long(text[:MAX_CHARACTERS])


def fold_long(text: str) -> str:
    """As `fold`, for a document of any length."""
    plain = _CONTROL.sub(" ", unicodedata.normalize("NFKC", text))
    return _REPEATED.sub(r"\1", plain.lower().replace("ё", "е"))


def words(text: str) -> list[str]:
    """The folded words and numbers of a text, in order."""
    return words_of_folded(fold(text))


def words_of_folded(folded: str) -> list[str]:
    """The words and numbers of a text that is folded already."""
    return [word[:_LONGEST_WORD] for word in _WORD.findall(folded)]


def other_script(word: str) -> str:
    """A folded word spelt in the letters of the other language, as names and brands are."""
    return word.translate(_LATIN_SPELLING) if _CYRILLIC.search(word) else _as_russian_sounds(word)


def query_text(text: str) -> str:
    """What of a message is searched for: its beginning, without what no encoder can read."""
    return _CONTROL.sub(" ", text[:MAX_CHARACTERS]).strip()


def script_of(text: str) -> Script:
    """Russian when Cyrillic letters prevail, English otherwise."""
    folded = text[:MAX_CHARACTERS].lower()
    return "ru" if len(_CYRILLIC.findall(folded)) > len(_LATIN.findall(folded)) else "en"


class Letters:
    """How likely a word is in Russian or English, by its letters and by the words known of each language."""

    def __init__(self, texts: Iterable[str] = ()) -> None:
        """`texts` are whatever is known to be well written, such as the articles; common words are known anyway."""
        self._learn(Counter(word for text in texts for word in words_of_folded(fold_long(text))))

    @classmethod
    def of(cls, counts: Mapping[str, int]) -> "Letters":
        """From folded words and how often each occurs."""
        letters = cls.__new__(cls)
        letters._learn(counts)
        return letters

    def _learn(self, counts: Mapping[str, int]) -> None:
        self._words: dict[Script, Counter[str]] = {
            "ru": Counter(dict.fromkeys(sorted(RUSSIAN), 3)),
            "en": Counter(dict.fromkeys(sorted(ENGLISH), 3)),
        }
        for word, count in counts.items():
            if not word.isdigit():
                self._words[script_of(word)][word] += count
        self._log_probabilities: dict[str, float] = {}
        self._others: dict[str, tuple[str, ...]] = {}
        self._totals = {script: sum(counts.values()) for script, counts in self._words.items()}
        self._trigrams: dict[Script, Counter[str]] = {"ru": Counter(), "en": Counter()}
        self._bigrams: dict[Script, Counter[str]] = {"ru": Counter(), "en": Counter()}
        for script, counts in self._words.items():
            for word, count in counts.items():
                weight = 1 + math.log(count)
                marked = f"^{word}$"
                for start in range(len(marked) - 1):
                    self._bigrams[script][marked[start : start + 2]] += weight  # type: ignore[assignment]
                    if trigram := marked[start : start + 3]:
                        self._trigrams[script][trigram] += weight  # type: ignore[assignment]

    def with_counts(self, counts: Mapping[str, int]) -> "Letters":
        """The same with more known words; what letters are likely stays what it was."""
        other = Letters.__new__(Letters)
        other.__dict__.update(self.__dict__)
        other._words = {script: Counter(known) for script, known in self._words.items()}
        for word, count in counts.items():
            if not word.isdigit():
                other._words[script_of(word)][word] += count
        other._log_probabilities, other._others = {}, {}
        return other

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """All known words, the commonest of each language first; of equally common ones the order is the alphabet's,
        whatever they were read from, so that every process takes the same word for a misspelt one."""
        return tuple(
            word
            for counts in self._words.values()
            for word, _ in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
        )

    def knows(self, word: str) -> bool:
        """Whether the folded word was seen in a text or is common."""
        return word in self._words[script_of(word)]

    def log_probability(self, word: str) -> float:
        """Natural logarithm of the word's probability in the language of its letters."""
        found = self._log_probabilities.get(word)
        if found is None:
            if len(self._log_probabilities) > _REMEMBERED:
                self._log_probabilities.clear()
            found = self._log_probabilities[word] = self._log_probability(word)
        return found

    def other_readings(self, folded: str) -> tuple[str, ...]:
        """What else a folded text may say, see `readings`. Remembered: one message is asked about several times."""
        found = self._others.get(folded)
        if found is None:
            if len(self._others) > _REMEMBERED_TEXTS:
                self._others.clear()
            found = self._others[folded] = tuple(_other_readings(folded, self))
        return found

    def _log_probability(self, word: str) -> float:
        script = script_of(word)
        known = self._words[script].get(word, 0)
        if known:
            return math.log(known / self._totals[script])
        marked = f"^{word}$"
        total = 0.0
        for start in range(len(marked) - 2):
            context = self._bigrams[script].get(marked[start : start + 2], 0.0)
            seen = self._trigrams[script].get(marked[start : start + 3], 0.0)
            total += math.log((seen + 0.05) / (context + 0.05 * 33))
        return total - 3.0  # an unknown word is rarer than its letters say


@cache
def common_letters() -> Letters:
    """What is known of both languages without any articles."""
    return Letters()


def readings(text: str, letters: Letters | None = None) -> tuple[str, ...]:
    """The text itself, then what it says if the keyboard was on the other layout or Russian was spelt in Latin letters.

    Only readings that are clearly likelier than the text are given, so nearly always there is one.
    """
    return (text, *(letters or common_letters()).other_readings(fold(text)))


def _other_readings(folded: str, letters: Letters) -> list[str]:
    tokens = folded.split()
    if not _WORD.search(folded):
        return []
    found = []
    best = _likelihood(letters, tokens)
    for convert in (_as_russian_keys, _as_russian_sounds, _as_english_keys):
        changed = [convert(token) for token in tokens]
        if changed == tokens:
            continue
        likelihood = _likelihood(letters, changed)
        mixed = [
            new if letters.knows(new) and _likelihood(letters, [new]) > _likelihood(letters, [old]) + _CLEARLY else old
            for old, new in zip(tokens, changed, strict=True)
        ]
        if likelihood > best + _CLEARLY:
            found.append(" ".join(changed))
        elif mixed != tokens:
            found.append(" ".join(mixed))
    if len(found) > 1:
        found = [max(found, key=lambda reading: _likelihood(letters, reading.split()))]
    return found


_CLEARLY = 4.0  # natural logarithm of the odds at which another reading is worth a second search


def _likelihood(letters: Letters, tokens: Sequence[str]) -> float:
    return sum(letters.log_probability(word) for token in tokens for word in _WORD.findall(token) if not word.isdigit())


def _as_russian_keys(token: str) -> str:
    if not _LATIN.search(token) or _CYRILLIC.search(token):
        return token
    core = token.rstrip("?!")
    ends = core[-1] in ",.;:" and len(core) > 1
    converted = core.translate(_TO_RUSSIAN_KEYS).replace("ё", "е")
    if ends and not common_letters().knows(converted):
        converted = core[:-1].translate(_TO_RUSSIAN_KEYS).replace("ё", "е") + core[-1]
    return converted + token[len(core) :]


def _as_english_keys(token: str) -> str:
    if not _CYRILLIC.search(token) or _LATIN.search(token):
        return token
    return token.translate(_TO_ENGLISH_KEYS)


def _as_russian_sounds(token: str) -> str:
    if not _LATIN.search(token) or _CYRILLIC.search(token):
        return token
    if "w" in token.replace("sh", ""):
        token = token.replace("w", "sh")
    spelt = _SOUND.sub(lambda match: _LONG_SOUNDS.get(match.group()) or _SOUNDS[match.group()], token)
    return _FINAL_SHORT_I.sub("й", spelt)
