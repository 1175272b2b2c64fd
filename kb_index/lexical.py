"""Evidence of words: BM25 over stems, BM25 over parts of words, and known words for misspelt ones."""

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import accumulate
from math import log
from typing import TypeVar

import bm25s
import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import OSA
from scipy.sparse import csc_matrix
from Stemmer import Stemmer

from kb_index.normalise import fold_long, script_of, words_of_folded

FloatVector = NDArray[np.float32]
IntVector = NDArray[np.int64]
Number = TypeVar("Number", np.float32, np.float64)
_POSTINGS = 400_000  # a millisecond's work
_FEW_POSTINGS = 30_000  # up to here adding them one by one is faster than making a matrix of them
_REMEMBERED = 2_000  # misspelt words, which a message is asked about several times
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
    return list(map(stem, words_of_folded(fold_long(text))))


def word_parts(text: str) -> list[str]:
    """Overlapping parts of each word with its ends marked: a misspelt word keeps most of them."""
    return parts_of(words_of_folded(fold_long(text)))


def parts_of(words: Iterable[str]) -> list[str]:
    """As `word_parts`, of folded words."""
    return [part for word in words for part in _parts(word)]


@lru_cache(maxsize=200_000)
def _parts(word: str) -> tuple[str, ...]:
    marked = f" {word} "
    return tuple(marked[start : start + _GRAM] for start in range(max(1, len(marked) - _GRAM + 1)))


class LexicalIndex:
    """BM25 over documents given as lists of terms (Robertson and Zaragoza 2009; Lucene's variant), never changed.

    Scores are shares of what is attainable: 1 for a document that holds every term as well as the best document for it
    does. A term that nobody knows counts as the rarest known one: that the query says something else must show.
    """

    def __init__(self, vocabulary: Mapping[str, int], postings: "Postings", like: "LexicalIndex | None" = None) -> None:
        """`like` is the index whose frequencies these scores come from, where it is another (see `beside`)."""
        self._vocabulary = vocabulary
        self._starts = postings.starts.tolist()
        self.postings = postings
        self.size = postings.size
        self._like = like or self
        if like is None and vocabulary:
            ceilings = np.maximum.reduceat(postings.weights, postings.starts[:-1])
            # What a term adds at most; the last one is for a term that nobody knows, which has the number -1.
            self._ceilings: list[float] = [*ceilings.tolist(), float(np.quantile(ceilings, 0.9))]

    @classmethod
    def build(cls, documents: Sequence[Sequence[str]], k1: float = 1.2, b: float = 0.75) -> "LexicalIndex":
        vocabulary: dict[str, int] = {}
        ids = [[vocabulary.setdefault(term, len(vocabulary)) for term in document] for document in documents]
        mean_length = sum(map(len, ids)) / max(len(ids), 1)
        if not vocabulary:
            return cls({}, Postings.of([], [], [], 0, len(documents), mean_length, k1, b))
        model = bm25s.BM25(k1=k1, b=b)
        model.index((ids, vocabulary), show_progress=False)
        kept = model.scores
        starts = kept["indptr"][: len(vocabulary) + 1].astype(np.int64)
        return cls(
            vocabulary,
            Postings(starts, kept["indices"].astype(np.int32), kept["data"], len(documents), mean_length, k1, b),
        )

    def beside(self, documents: Sequence[Sequence[str]]) -> "LexicalIndex":
        """An index of further documents, scored by the frequencies and the mean length of the documents of this one.

        So a few documents can be added without building anything anew, and their scores compare with the others'.
        """
        own = self.postings
        vocabulary: dict[str, int] = {}
        columns, rows, weights = [], [], []
        for row, document in enumerate(documents):
            long = own.k1 * (1 - own.b + own.b * len(document) / max(own.mean_length, 1e-9))
            for term, count in Counter(document).items():
                columns.append(vocabulary.setdefault(term, len(vocabulary)))
                rows.append(row)
                weights.append(self._rarity(term) * count / (count + long))
        postings = Postings.of(columns, rows, weights, len(vocabulary), len(documents), own.mean_length, own.k1, own.b)
        return LexicalIndex(vocabulary, postings, self._like)

    def known(self, terms: Iterable[str]) -> set[str]:
        """Those of the terms that some document has."""
        return self._vocabulary.keys() & terms

    @property
    def terms(self) -> Iterable[str]:
        """In the order of the postings."""
        return self._vocabulary.keys()

    def having(self, term: str, rows: NDArray[np.int32]) -> NDArray[np.bool_] | None:
        """Which of these documents have the term; None if no document has it."""
        column = self._vocabulary.get(term)
        if column is None:
            return None
        documents = self.postings.documents[self._starts[column] : self._starts[column + 1]]
        having: NDArray[np.bool_] = documents.take(documents.searchsorted(rows), mode="clip") == rows
        return having

    def find(self, terms: Mapping[str, float]) -> "Found":
        """Search for weighted terms; unknown ones add nothing."""
        columns = self._columns(terms)
        attainable = self._like._attainable(columns if self._like is self else self._like._columns(terms), terms)
        if attainable <= 0:
            return Found(self.postings, [])
        starts = self._starts
        known = [
            (starts[column], starts[column + 1], weight / attainable)
            for column, weight in zip(columns, terms.values(), strict=True)
            if column >= 0
        ]
        return Found(self.postings, known)

    def _columns(self, terms: Iterable[str]) -> list[int]:
        """The number of each term; -1 for an unknown one."""
        number = self._vocabulary.get
        return [number(term, -1) for term in terms]

    def _attainable(self, columns: Iterable[int], terms: Mapping[str, float]) -> float:
        """What a document would score that holds every term as well as the best document for it does."""
        if not self._vocabulary:
            return 0.0
        ceilings = self._ceilings
        return sum((ceilings[column] * weight for column, weight in zip(columns, terms.values(), strict=True)), 0.0)

    def _rarity(self, term: str) -> float:
        column = self._vocabulary.get(term)
        count = self._starts[column + 1] - self._starts[column] if column is not None else 0
        return log(1 + (self.size - count + 0.5) / (count + 0.5))


@dataclass(frozen=True)
class Postings:
    """For each term the documents that have it, in order, and what it scores there.

    `starts` (int64, one more than terms) tells where each term's `documents` (int32) and `weights` (float32) begin.
    """

    starts: NDArray[np.int64]
    documents: NDArray[np.int32]
    weights: FloatVector
    size: int
    mean_length: float
    k1: float
    b: float

    @classmethod
    def of(
        cls,
        columns: Sequence[int],
        rows: Sequence[int],
        weights: Sequence[float],
        terms: int,
        size: int,
        mean_length: float,
        k1: float,
        b: float,
    ) -> "Postings":
        """From single entries ordered by document."""
        order = np.argsort(np.array(columns, dtype=np.int64), kind="stable")
        starts = np.concatenate([[0], np.cumsum(np.bincount(columns, minlength=terms))]) if terms else np.zeros(1)
        return cls(
            starts.astype(np.int64),
            np.array(rows, dtype=np.int32)[order],
            np.array(weights, dtype=np.float32)[order],
            size,
            mean_length,
            k1,
            b,
        )


class Found:
    """The scores of one search in one index.

    Common words of a large base have postings without end and say little: above _POSTINGS the rarest terms alone
    choose documents, and the others only weigh what was chosen.
    """

    def __init__(self, postings: Postings, terms: Sequence[tuple[int, int, float]]) -> None:
        """`terms` are where the postings of a term begin and end, and its weight."""
        self._postings = postings
        self._later: list[tuple[int, int, float]] = []
        terms = sorted(terms, key=lambda term: term[1] - term[0])
        spent = list(accumulate(end - start for start, end, _ in terms))
        if spent and spent[-1] > _POSTINGS:
            first = max(1, bisect_right(spent, _POSTINGS))
            terms, self._later = terms[:first], terms[first:]
        self._terms = len(terms)
        self._touched, self._scores = added(postings.documents, postings.weights, terms, postings.size)

    def top(self, count: int) -> IntVector:
        """Numbers of the documents that score most, at most `count`, in no order."""
        if not len(self._touched):
            return np.zeros(0, dtype=np.int64)
        if len(self._touched) > self._postings.size // 4:
            scores, numbers = self._scores, None
            kept = count
        else:  # each of the best stands among the touched at most once for each term
            scores, numbers = self._scores[self._touched], self._touched
            kept = count * self._terms
        best = np.argpartition(-scores, kept)[:kept] if len(scores) > kept else np.arange(len(scores))
        best = best[scores[best] > 0]
        if numbers is None:
            return best
        unique = np.unique(numbers[best]).astype(np.int64)
        return unique[np.argsort(-self._scores[unique], kind="stable")[:count]]

    def of(self, rows: IntVector) -> FloatVector:
        """The scores of these documents, all terms counted."""
        scores = self._scores[rows]
        for start, end, weight in self._later:
            documents = self._postings.documents[start:end]
            places = np.minimum(documents.searchsorted(rows), end - start - 1)
            scores += np.where(documents[places] == rows, weight * self._postings.weights[start:end][places], 0)
        return scores


def added(
    documents: NDArray[np.int32],
    values: NDArray[Number],
    terms: Sequence[tuple[int, int, float]],
    size: int,
) -> tuple[NDArray[np.int32], NDArray[Number]]:
    """The documents of all terms, one term after the other, and the sum of each of the `size` documents' values.

    `terms` are where the entries of a term begin and end in `documents` and `values`, and its weight.
    """
    if not terms:
        return documents[:0], np.zeros(size, dtype=values.dtype)
    slices = [slice(start, end) for start, end, _ in terms]
    touched = np.concatenate([documents[entries] for entries in slices])
    found = np.concatenate([values[entries] for entries in slices])
    lengths: list[int] = [end - start for start, end, _ in terms]
    weights = np.array([weight for _, _, weight in terms], dtype=values.dtype)
    if len(touched) > _FEW_POSTINGS:
        starts = np.array([0, *accumulate(lengths)], dtype=np.int32)
        return touched, csc_matrix((found, touched, starts), shape=(size, len(terms))) @ weights
    scores = np.zeros(size, dtype=values.dtype)
    np.add.at(scores, touched, found * weights.repeat(lengths))
    return touched, scores


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
        self.nearest = lru_cache(_REMEMBERED)(self._nearest)

    def knows(self, word: str) -> bool:
        return word in self._known

    def _nearest(self, word: str, limit: int = 3) -> tuple[tuple[str, float], ...]:
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
