"""A part of the search index: articles with their vectors and words, never changed once made.

An index has one large segment, and a small one beside it with the articles that were edited since (search.py).
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from kb_index.articles import Article
from kb_index.encoder import Encoder, FloatMatrix, TextKind
from kb_index.lexical import Found, LexicalIndex, parts_of, stem
from kb_index.normalise import fold, fold_long, words_of_folded
from kb_index.passages import Passage, sentences
from kb_index.vectors import FloatVector, IntVector, VectorIndex, cosines_of, largest

FINE_PASSAGES = 50_000
"""Up to here single sentences and parts of words are searched too. For a million passages they would take 10 GB and
five times as long, and among so many texts a whole passage says more than its best sentence."""
NEAREST = 24  # rows taken from each source of candidates
_BATCH = 256

ARTICLES = TypeAdapter(tuple[Article, ...])
Progress = Callable[[int, int], None]
TextKey = tuple[TextKind, str]


@dataclass(frozen=True)
class Cosines:
    """Of one query with every row of a segment."""

    passages: FloatVector
    sentences: FloatVector
    questions: FloatVector


@dataclass(frozen=True)
class Query:
    """One reading of a text, ready to be searched for; `cosines`, one for each segment, if many were made at once."""

    text: str
    vector: FloatVector
    stems: Mapping[str, float]
    parts: Mapping[str, float]
    cosines: tuple[Cosines, ...] = ()


@dataclass(frozen=True)
class Vectors:
    """Unit rows for passages, for their sentences (`bounds` tells whose) and for titles and questions."""

    passages: FloatMatrix
    sentences: FloatMatrix
    bounds: IntVector
    questions: FloatMatrix


@dataclass(frozen=True)
class Lexicon:
    """The words of a segment: BM25 indexes, and how often each word occurs. `sentences` and `parts` may be empty."""

    passages: LexicalIndex
    sentences: LexicalIndex
    questions: LexicalIndex
    parts: LexicalIndex
    question_parts: LexicalIndex
    counts: Mapping[str, int]


class Segment:
    """Articles ordered by id and language, passages and questions by article, and everything searched in them."""

    def __init__(
        self,
        articles: Sequence[Article],
        passages: Sequence[Passage],
        vectors: Vectors,
        dim: int,
        *,
        lexicon: Lexicon | None = None,
        beside: "Segment | None" = None,
        packed: Mapping[str, NDArray[np.uint8]] | None = None,
    ) -> None:
        """`beside` is the large segment whose statistics of words are used; `lexicon` and `packed` are what a saved
        segment of the same articles had."""
        self.kept_in: Path | None = None  # the folder where it was saved or loaded from, whole
        self.kept_sizes: dict[str, int] = {}  # its files then, so that a torn one is noticed without reading them
        self.articles = tuple(articles)
        self.passages = tuple(passages)
        self.vectors = vectors
        self.ids = tuple(dict.fromkeys(article.id for article in self.articles))
        self.number = {article_id: number for number, article_id in enumerate(self.ids)}
        self.questions = tuple(
            (article, text) for article in self.articles for text in (article.title, *article.questions) if text
        )
        self.passage_bounds = _bounds(len(self.ids), [self.number[passage.article_id] for passage in self.passages])
        self.owners = np.array([self.number[article.id] for article, _ in self.questions], dtype=np.int64)
        self.question_bounds = _bounds(len(self.ids), self.owners)
        self.passage_index = VectorIndex(vectors.passages, dim, index=(packed or {}).get("passages"))
        self.question_index = VectorIndex(vectors.questions, dim, index=(packed or {}).get("questions"))
        self.has_sentences = len(vectors.sentences) > 0
        self.lexicon: Lexicon = lexicon or self._read(beside.lexicon if beside else None)

    def _read(self, like: Lexicon | None) -> Lexicon:
        titles = {(article.id, article.lang): article.title for article in self.articles}
        passage_words = [
            _words(" ".join((titles[passage.article_id, passage.lang], *passage.headings, passage.plain)))
            for passage in self.passages
        ]
        question_words = self.question_words
        fine = self.has_sentences
        sentence_words = [_words(text) for passage in self.passages for text in sentences_of(passage)] if fine else []
        documents = {
            "passages": [list(map(stem, words)) for words in passage_words],
            "sentences": [list(map(stem, words)) for words in sentence_words],
            "questions": [list(map(stem, words)) for words in question_words],
            "parts": [parts_of(words) for words in passage_words] if fine else [],
            "question_parts": [parts_of(words) for words in question_words],
        }
        counts: Counter[str] = Counter()
        for words in (*passage_words, *question_words):
            counts.update(words)
        if like is not None and like.passages.size:
            indexes = {name: getattr(like, name).beside(texts) for name, texts in documents.items()}
        else:
            rare = {"k1": 0.9, "b": 0.4}
            indexes = {
                name: LexicalIndex.build(texts, **(rare if name in ("passages", "sentences") else {}))
                for name, texts in documents.items()
            }
        return Lexicon(**indexes, counts=counts)

    @property
    def question_words(self) -> list[list[str]]:
        return [_words(text) for _, text in self.questions]

    @cached_property
    def folded_questions(self) -> Mapping[str, list[int]]:
        """Rows of the questions of each wording."""
        rows: dict[str, list[int]] = {}
        for row, (_, text) in enumerate(self.questions):
            rows.setdefault(fold(text), []).append(row)
        return rows

    @cached_property
    def digest(self) -> str:
        """The same for segments of the same articles and another for any other."""
        return hashlib.sha256(ARTICLES.dump_json(self.articles)).hexdigest()

    def cosines(self, queries: FloatMatrix) -> list[Cosines]:
        """Of each query with every row, by three products; for segments whose rows are few."""
        own = self.vectors
        products = (queries @ rows.T for rows in (own.passages, own.sentences, own.questions))
        return [Cosines(*rows) for rows in zip(*products, strict=True)]

    def nearest_questions(self, query: Query, count: int, cosines: Cosines | None) -> IntVector:
        """As VectorIndex.nearest."""
        return largest(cosines.questions, count) if cosines else self.question_index.nearest(query.vector, count)

    def seek(self, query: Query, cosines: Cosines | None) -> "Sought":
        return Sought(self, query, cosines)

    def words_of(self, terms: Sequence[tuple[str, str]], passages: IntVector, groups: IntVector) -> list[list[str]]:
        """For each of these articles the words whose stem its passage, given by number, or its questions have.

        `terms` are words with their stems.
        """
        rows, counts = _rows(self.question_bounds, groups)
        found: list[list[str]] = [[] for _ in groups]
        for word, root in terms:
            asked = _best(self.lexicon.questions.having(root, rows).astype(np.float32), counts) > 0
            for place in np.flatnonzero(asked | self.lexicon.passages.having(root, passages)).tolist():
                found[place].append(word)
        return found


class Sought:
    """One query put to one segment."""

    def __init__(self, segment: Segment, query: Query, cosines: Cosines | None) -> None:
        lexicon = segment.lexicon
        self.cosines = cosines
        self.segment = segment
        self.query = query
        self.words = lexicon.passages.find(query.stems)
        self.sentence_words = lexicon.sentences.find(query.stems)
        self.question_words = lexicon.questions.find(query.stems)
        self.parts = lexicon.parts.find(query.parts)
        self.question_parts = lexicon.question_parts.find(query.parts)

    def groups(self, near_questions: IntVector, hidden_rows: Sequence[int]) -> set[int]:
        """Articles that any source names; `near_questions` are the nearest by vector, without the hidden ones."""
        segment = self.segment
        if self.cosines:
            near_passages = largest(self.cosines.passages, NEAREST)
        else:
            near_passages = segment.passage_index.nearest(self.query.vector, NEAREST)
        sources = (
            (segment.passage_bounds, near_passages),
            (segment.passage_bounds, self.words.top(NEAREST)),
            (segment.passage_bounds, self.parts.top(NEAREST)),
            (segment.question_bounds, near_questions[:NEAREST]),
            (segment.question_bounds, _without(self.question_words, hidden_rows)),
            (segment.question_bounds, _without(self.question_parts, hidden_rows)),
        )
        return {number for bounds, rows in sources for number in (np.searchsorted(bounds, rows, "right") - 1).tolist()}

    def weigh(self, groups: IntVector, hidden_rows: Sequence[int]) -> "Weighed":
        """All evidence of this segment for its articles `groups`; hidden questions count as not there."""
        segment, vector = self.segment, self.query.vector
        passage_rows, passage_counts = _rows(segment.passage_bounds, groups)
        question_rows, question_counts = _rows(segment.question_bounds, groups)
        if self.cosines:
            question_cosines = self.cosines.questions[question_rows]
            passage_cosines = self.cosines.passages[passage_rows]
        else:
            question_cosines = segment.question_index.cosines(vector, question_rows)
            passage_cosines = segment.passage_index.cosines(vector, passage_rows)
        question_words = self.question_words.of(question_rows)
        question_parts = self.question_parts.of(question_rows)
        if len(hidden_rows):
            hidden = np.isin(question_rows, hidden_rows)
            question_cosines[hidden] = question_words[hidden] = question_parts[hidden] = 0
        words = self.words.of(passage_rows)
        if segment.has_sentences:
            sentence_rows, sentence_counts = _rows(segment.vectors.bounds, passage_rows)
            if self.cosines:
                single = self.cosines.sentences[sentence_rows]
            else:
                single = cosines_of(segment.vectors.sentences, vector, sentence_rows)
            sentence_cosines = _best(single, sentence_counts)
            sentence_words = _best(self.sentence_words.of(sentence_rows), sentence_counts)
            parts = _best(self.parts.of(passage_rows), passage_counts)
        else:
            sentence_cosines, sentence_words = passage_cosines, words
            parts = np.zeros(len(groups), dtype=np.float32)
        return Weighed(
            {
                "question": _best(question_cosines, question_counts),
                "questions": _best_three(question_cosines, question_counts),
                "passage": _best(passage_cosines, passage_counts),
                "sentence": _best(sentence_cosines, passage_counts),
                "words": _best(words, passage_counts),
                "sentence_words": _best(sentence_words, passage_counts),
                "question_words": _best(question_words, question_counts),
                "parts": parts,
                "question_parts": _best(question_parts, question_counts),
            },
            _best_row(question_cosines, question_rows, question_counts),
            passage_cosines + sentence_cosines + words,
        )


@dataclass(frozen=True)
class Weighed:
    """Columns of evidence for articles, the row of each one's nearest question (-1 without any), and how well each
    passage of each article fits, one article after the other."""

    columns: Mapping[str, FloatVector]
    best_questions: IntVector
    fits: FloatVector


def encode_texts(
    articles: Sequence[Article],
    passages: Sequence[Passage],
    encoder: Encoder,
    known: Mapping[TextKey, FloatVector],
    progress: Progress | None,
    *,
    fine: bool,
) -> Vectors:
    """The vectors of a segment; texts whose vector is known are not encoded. `progress` counts the others."""
    texts, parts, questions = indexed_texts(articles, passages)
    if not fine:
        parts = [[] for _ in parts]
    flat = [sentence for sentence_list in parts for sentence in sentence_list]
    wanted: list[TextKey] = [("passage", text) for text in (*texts, *flat)] + [("query", text) for text in questions]
    new = [key for key in dict.fromkeys(wanted) if key not in known]
    found = dict(known)
    for kind in ("passage", "query"):
        own = [key for key in new if key[0] == kind]
        done = len(new) - len(own) if kind == "query" else 0

        def told(count: int, _: int, before: int = done) -> None:
            if progress:
                progress(before + count, len(new))

        rows = encode_all(encoder, [text for _, text in own], kind, told)
        found.update(zip(own, rows, strict=True))

    def stacked(kind: TextKind, some: Iterable[str]) -> FloatMatrix:
        rows = [found[kind, text] for text in some]
        return np.array(rows, dtype=np.float32).reshape(len(rows), encoder.dim)

    bounds = np.concatenate([[0], np.cumsum([len(part) for part in parts])]).astype(np.int64)
    return Vectors(stacked("passage", texts), stacked("passage", flat), bounds, stacked("query", questions))


def known_vectors(segment: Segment, ids: Iterable[str] | None = None) -> dict[TextKey, FloatVector]:
    """The vectors of a segment by their text, of these articles only where `ids` are given."""
    wanted = None if ids is None else set(ids)
    known: dict[TextKey, FloatVector] = {}
    titles = {(article.id, article.lang): article.title for article in segment.articles}
    for row, passage in enumerate(segment.passages):
        if wanted is None or passage.article_id in wanted:
            if segment.has_sentences:
                start, end = segment.vectors.bounds[row : row + 2]
                rows = segment.vectors.sentences[start:end]
                known.update((("passage", text), own) for text, own in zip(sentences_of(passage), rows, strict=True))
            text = _indexed_text(titles[passage.article_id, passage.lang], passage)
            known["passage", text] = segment.vectors.passages[row]
    for row, (article, text) in enumerate(segment.questions):
        if wanted is None or article.id in wanted:
            known["query", text] = segment.vectors.questions[row]
    return known


def indexed_texts(
    articles: Sequence[Article], passages: Sequence[Passage]
) -> tuple[list[str], list[list[str]], list[str]]:
    """What is encoded: each passage with its title and headings, the sentences of each, titles and questions."""
    titles = {(article.id, article.lang): article.title for article in articles}
    texts = [_indexed_text(titles[passage.article_id, passage.lang], passage) for passage in passages]
    parts = [sentences_of(passage) for passage in passages]
    return texts, parts, [text for article in articles for text in (article.title, *article.questions) if text]


def _indexed_text(title: str, passage: Passage) -> str:
    return "\n".join(part for part in (title, *passage.headings, passage.plain) if part)


def sentences_of(passage: Passage) -> list[str]:
    """The sentences of a passage, at least one."""
    return sentences(passage.plain) or [passage.text]


def encode_all(encoder: Encoder, texts: Sequence[str], kind: TextKind, progress: Progress | None = None) -> FloatMatrix:
    """Encode in batches of like length; rows in the order of `texts`."""
    rows = np.zeros((len(texts), encoder.dim), dtype=np.float32)
    order = sorted(range(len(texts)), key=lambda number: len(texts[number]))
    for start in range(0, len(order), _BATCH):
        batch = order[start : start + _BATCH]
        rows[batch] = encoder.encode([texts[number] for number in batch], kind)
        if progress:
            progress(start + len(batch), len(order))
    return rows


def _words(text: str) -> list[str]:
    return words_of_folded(fold_long(text))


def _without(found: Found, hidden_rows: Sequence[int]) -> IntVector:
    rows = found.top(NEAREST + len(hidden_rows))
    return rows[~np.isin(rows, hidden_rows)] if len(hidden_rows) else rows


def _bounds(count: int, owners: Sequence[int] | IntVector) -> IntVector:
    """Where the rows of each owner begin, when rows are ordered by owner: shape (count + 1,)."""
    return np.searchsorted(np.asarray(owners, dtype=np.int64), np.arange(count + 1)).astype(np.int64)


def _rows(bounds: IntVector, owners: IntVector) -> tuple[IntVector, IntVector]:
    """Numbers of all rows of these owners, one owner after the other, and how many each has."""
    starts = bounds[owners]
    counts = bounds[owners + 1] - starts
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total) + np.repeat(starts - (ends - counts), counts), counts


def _best(values: FloatVector, counts: IntVector) -> FloatVector:
    """The greatest value of each segment; 0 for an empty one."""
    best = np.zeros(len(counts), dtype=np.float32)
    full = counts > 0
    if full.any():
        starts = (np.cumsum(counts) - counts)[full]
        best[full] = np.maximum.reduceat(values, starts)
    return best


def _best_row(values: FloatVector, rows: IntVector, counts: IntVector) -> IntVector:
    """The row of the greatest value of each segment; -1 for an empty one."""
    owner = np.repeat(np.arange(len(counts)), counts)
    order = np.lexsort((values, owner))
    best = np.full(len(counts), -1, dtype=np.int64)
    best[owner[order]] = rows[order]
    return best


def _best_three(values: FloatVector, counts: IntVector) -> FloatVector:
    """The mean of the three greatest values of each segment (of fewer when there are fewer); 0 for an empty one."""
    owner = np.repeat(np.arange(len(counts)), counts)
    order = np.lexsort((-values, owner))
    place = np.arange(len(values)) - np.repeat(np.cumsum(counts) - counts, counts)
    kept = place < 3
    total = np.bincount(owner[order][kept], weights=values[order][kept], minlength=len(counts))
    mean: FloatVector = (total / np.clip(counts, 1, 3)).astype(np.float32)
    return mean
