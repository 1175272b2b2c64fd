"""Evidence of words: BM25 over stems, BM25 over parts of words, and known words for misspelt ones."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, lru_cache
from pathlib import Path

import bm25s
import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import OSA
from Stemmer import Stemmer

from kb_index.normalise import fold_long, script_of, words_of_folded

FloatVector = NDArray[np.float32]
_GRAM = 4  # letters; found on XQuAD's development half among 3, 4 and 5


@cache
def _stemmer(script: str) -> Callable[[str], str]:
    stem: Callable[[str], str] = Stemmer("russian" if script == "ru" else "english").stemWord
    return stem


@lru_cache(maxsize=200_000)
def stem(word: str) -> str:
    """The stem of a folded word, by the Snowball rules of the language of its letters."""
    return _stemmer(script_of(word))(word)


def stems(text: str) -> list[str]:
    """Stems of all words of a text, in order, repeated as often as they occur."""
    return [stem(word) for word in words_of_folded(fold_long(text))]


def word_parts(text: str) -> list[str]:
    """Overlapping parts of each word with its ends marked: a misspelt word keeps most of them."""
    return [part for word in words_of_folded(fold_long(text)) for part in _parts(word)]


@lru_cache(maxsize=200_000)
def _parts(word: str) -> tuple[str, ...]:
    marked = f" {word} "
    return tuple(marked[start : start + _GRAM] for start in range(max(1, len(marked) - _GRAM + 1)))


class LexicalIndex:
    """BM25 over documents given as lists of terms (Robertson and Zaragoza 2009; Lucene's variant)."""

    def __init__(self, model: bm25s.BM25 | None, size: int) -> None:
        self._model = model
        self.size = size
        self._vocabulary: Mapping[str, int] = model.vocab_dict if model else {}
        if model:
            starts = model.scores["indptr"][: len(model.scores["indptr"]) - 1].astype(np.int64)
            self._ceilings = np.maximum.reduceat(model.scores["data"], starts)
            self._rarest = float(np.quantile(self._ceilings, 0.9))

    @classmethod
    def build(cls, documents: Sequence[Sequence[str]], k1: float = 1.2, b: float = 0.75) -> "LexicalIndex":
        vocabulary: dict[str, int] = {}
        ids = [[vocabulary.setdefault(term, len(vocabulary)) for term in document] for document in documents]
        if not vocabulary:
            return cls(None, len(documents))
        model = bm25s.BM25(k1=k1, b=b)
        model.index((ids, vocabulary), show_progress=False)
        return cls(model, len(documents))

    def knows(self, term: str) -> bool:
        return term in self._vocabulary

    @property
    def terms(self) -> Iterable[str]:
        return self._vocabulary.keys()

    def scores(self, terms: Mapping[str, float]) -> FloatVector:
        """Each document's score for weighted terms, float32 of shape (size,); unknown terms add nothing."""
        total = np.zeros(self.size, dtype=np.float32)
        if self._model is None:
            return total
        columns = self._model.scores
        for term, weight in terms.items():
            column = self._vocabulary.get(term)
            if column is not None:
                start, end = columns["indptr"][column], columns["indptr"][column + 1]
                total[columns["indices"][start:end]] += np.float32(weight) * columns["data"][start:end]
        return total

    def attainable(self, terms: Mapping[str, float]) -> float:
        """The score of a document that would hold every term as well as the best document for it does.

        An unknown term counts as the rarest known one: that the query says something else must show.
        """
        if self._model is None:
            return 0.0
        total = 0.0
        for term, weight in terms.items():
            column = self._vocabulary.get(term)
            total += weight * (self._ceilings[column] if column is not None else self._rarest)
        return float(total)

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        if self._model is not None:
            self._model.save(folder, show_progress=False)

    @classmethod
    def load(cls, folder: Path, size: int) -> "LexicalIndex":
        if not any(folder.iterdir()):
            return cls(None, size)
        return cls(bm25s.BM25.load(folder, show_progress=False), size)


class Spelling:
    """Known words that a misspelt one may stand for."""

    def __init__(self, vocabulary: Iterable[str]) -> None:
        """`vocabulary` are folded words; the order decides between equally near ones."""
        self._words = list(dict.fromkeys(word for word in vocabulary if len(word) > 2 and not word.isdigit()))
        self._known = frozenset(self._words)
        postings: dict[str, list[int]] = {}
        for row, word in enumerate(self._words):
            for part in _bigrams(word):
                postings.setdefault(part, []).append(row)
        self._postings = {part: np.array(rows, dtype=np.int32) for part, rows in postings.items()}

    def nearest(self, word: str, limit: int = 3) -> tuple[tuple[str, float], ...]:
        """Known words within one slip (two for eight letters and more), with a likeness in 0..1, the likest first.

        A slip is a letter put in, left out, taken for another, or changed places with its neighbour.
        A known word, a short one and a number are near nothing.
        """
        if word in self._known or len(word) < 4 or not word.isalpha() or not self._words:
            return ()
        slips = 1 if len(word) < 8 else 2
        rows = [self._postings[part] for part in _bigrams(word) if part in self._postings]
        if not rows:
            return ()
        shared = np.bincount(np.concatenate(rows), minlength=len(self._words))
        needed = len(_bigrams(word)) - 3 * slips
        best = np.flatnonzero(shared >= max(needed, 2))
        if len(best) > 200:
            best = best[np.argsort(-shared[best], kind="stable")[:200]]
        found = []
        for row in best:
            distance = OSA.distance(word, self._words[row], score_cutoff=slips)
            if distance <= slips:
                found.append((self._words[row], 1 - distance / len(word)))
        found.sort(key=lambda pair: -pair[1])
        return tuple(found[:limit])


def _bigrams(word: str) -> frozenset[str]:
    marked = f"^{word}$"
    return frozenset(marked[start : start + 2] for start in range(len(marked) - 1))
