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
from kb_index.ranker import EVIDENCE, Matrix
from kb_index.vectors import FloatVector, IntVector, VectorIndex, cosines_of, largest

FINE_PASSAGES = 50_000
"""Up to here single sentences and parts of words are searched too. For a million passages they would take 10 GB and
five times as long, and among so many texts a whole passage says more than its best sentence."""
NEAREST = 24  # rows taken from each source of candidates
_BATCH = 256
_COLUMN = {name: column for column, name in enumerate(EVIDENCE)}

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
        self.passage_owners = np.array([self.number[passage.article_id] for passage in self.passages], dtype=np.int64)
        self.passage_bounds = _bounds(len(self.ids), self.passage_owners)
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

    def seek(self, query: Query, cosines: Cosines | None, questions: int) -> "Sought":
        """Begin a search; `questions`: how many of the nearest are wanted."""
        return Sought(self, query, cosines, questions)

    def words_of(self, terms: Sequence[tuple[str, str]], passages: IntVector, groups: IntVector) -> list[list[str]]:
        """For each of these articles the words whose stem its passage, given by number, or its questions have.

        `terms` are words with their stems.
        """
        questions = _Rows.of(self.question_bounds, groups)
        asked_in, said_in = questions.numbers.astype(np.int32), passages.astype(np.int32)
        found: list[list[str]] = [[] for _ in groups]
        for word, root in terms:
            places: set[int] = set()
            if (asked := self.lexicon.questions.having(root, asked_in)) is not None:
                places.update(questions.places[asked].tolist())
            if (said := self.lexicon.passages.having(root, said_in)) is not None:
                places.update(said.nonzero()[0].tolist())
            for place in places:
                found[place].append(word)
        return found


class Sought:
    """One query put to one segment. `near_passages` and `near_questions` are the nearest by vector, nearest first."""

    def __init__(self, segment: Segment, query: Query, cosines: Cosines | None, questions: int) -> None:
        lexicon = segment.lexicon
        if cosines:
            self.near_questions = largest(cosines.questions, questions)
            self.near_passages = largest(cosines.passages, NEAREST)
        else:
            self.near_questions = segment.question_index.nearest(query.vector, questions)
            self.near_passages = segment.passage_index.nearest(query.vector, NEAREST)
        self.cosines = cosines
        self.segment = segment
        self.query = query
        self.words = lexicon.passages.find(query.stems)
        self.sentence_words = lexicon.sentences.find(query.stems)
        self.question_words = lexicon.questions.find(query.stems)
        self.parts = lexicon.parts.find(query.parts)
        self.question_parts = lexicon.question_parts.find(query.parts)

    def groups(self, near_questions: IntVector, hidden_rows: Sequence[int]) -> set[int]:
        """Articles that any source names; `near_questions` are those without the hidden ones."""
        segment = self.segment
        passages = (self.near_passages, self.words.top(NEAREST), self.parts.top(NEAREST))
        questions = (
            near_questions[:NEAREST],
            _without(self.question_words, hidden_rows),
            _without(self.question_parts, hidden_rows),
        )
        owners = segment.passage_owners[np.concatenate(passages)], segment.owners[np.concatenate(questions)]
        return {*owners[0].tolist(), *owners[1].tolist()}

    def weigh(self, groups: IntVector, hidden_rows: Sequence[int]) -> "Weighed":
        """All evidence of this segment for its articles `groups`; hidden questions count as not there."""
        segment, vector = self.segment, self.query.vector
        passages = _Rows.of(segment.passage_bounds, groups)
        questions = _Rows.of(segment.question_bounds, groups)
        if self.cosines:
            question_cosines = self.cosines.questions[questions.numbers]
            passage_cosines = self.cosines.passages[passages.numbers]
        else:
            question_cosines = segment.question_index.cosines(vector, questions.numbers)
            passage_cosines = segment.passage_index.cosines(vector, passages.numbers)
        question_words = self.question_words.of(questions.numbers)
        question_parts = self.question_parts.of(questions.numbers)
        if len(hidden_rows):
            hidden = np.isin(questions.numbers, hidden_rows)
            question_cosines[hidden] = question_words[hidden] = question_parts[hidden] = 0
        words = self.words.of(passages.numbers)
        evidence = np.zeros((len(groups), len(EVIDENCE)))
        if segment.has_sentences:
            sentences = _Rows.of(segment.vectors.bounds, passages.numbers)
            if self.cosines:
                single = self.cosines.sentences[sentences.numbers]
            else:
                single = cosines_of(segment.vectors.sentences, vector, sentences.numbers)
            sentence_cosines = sentences.best(single)
            sentence_words = sentences.best(self.sentence_words.of(sentences.numbers))
            evidence[:, _COLUMN["parts"]] = passages.best(self.parts.of(passages.numbers))
        else:
            sentence_cosines, sentence_words = passage_cosines, words
        evidence[:, _COLUMN["passage"]] = passages.best(passage_cosines)
        evidence[:, _COLUMN["sentence"]] = passages.best(sentence_cosines)
        evidence[:, _COLUMN["words"]] = passages.best(words)
        evidence[:, _COLUMN["sentence_words"]] = passages.best(sentence_words)
        evidence[:, _COLUMN["question_words"]] = questions.best(question_words)
        evidence[:, _COLUMN["question_parts"]] = questions.best(question_parts)
        first, evidence[:, _COLUMN["question"]], evidence[:, _COLUMN["questions"]] = questions.best_three(
            question_cosines
        )
        return Weighed(evidence, first, passage_cosines + sentence_cosines + words, passages.counts)


@dataclass(frozen=True)
class Weighed:
    """A row of evidence for each article (columns: ranker.EVIDENCE, 0 where it is not of this segment alone), the row
    of each one's nearest question (-1 without any), and how well each passage of each article fits, one article after
    the other, with the number of passages of each."""

    evidence: Matrix
    best_questions: IntVector
    fits: FloatVector
    counts: IntVector


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


@dataclass(frozen=True)
class _Rows:
    """The numbers of all rows of some owners, one owner after the other, how many each has, and where they end."""

    numbers: IntVector
    counts: IntVector
    ends: IntVector

    @classmethod
    def of(cls, bounds: IntVector, owners: IntVector) -> "_Rows":
        starts = bounds[owners]
        counts = bounds[owners + 1] - starts
        ends = counts.cumsum()
        total = int(ends[-1]) if len(ends) else 0
        return cls(np.arange(total) + (starts - (ends - counts)).repeat(counts), counts, ends)

    @cached_property
    def places(self) -> IntVector:
        """For each row the place of its owner."""
        return np.arange(len(self.counts)).repeat(self.counts)

    def best(self, values: FloatVector) -> FloatVector:
        """The greatest value of each owner; 0 for one without rows."""
        best = np.zeros(len(self.counts), dtype=np.float32)
        if len(values):
            full = self.counts > 0
            best[full] = np.maximum.reduceat(values, (self.ends - self.counts)[full])
        return best

    def best_three(self, values: FloatVector) -> tuple[IntVector, FloatVector, FloatVector]:
        """Of each owner the row of the greatest value, that value, and the mean of the three greatest (of fewer when
        there are fewer); -1, 0 and 0 for one without rows."""
        if not len(values):
            return np.full(len(self.counts), -1, dtype=np.int64), self.best(values), self.best(values)
        order = np.lexsort((values, self.places))
        there = self.counts[:, None] > np.arange(3)
        last = np.where(there, self.ends[:, None] - np.arange(1, 4), 0)
        three = np.where(there, values[order[last]], np.float32(0))
        mean = three.sum(axis=1, dtype=np.float64) / np.maximum(there.sum(axis=1), 1)
        return np.where(there[:, 0], self.numbers[order[last[:, 0]]], -1), three[:, 0], mean.astype(np.float32)
