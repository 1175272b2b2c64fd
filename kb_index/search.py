"""Search: which articles answer a text, in what order, and how probably."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from kb_index.articles import Article
from kb_index.encoder import Encoder, FloatMatrix, TextKind
from kb_index.lexical import LexicalIndex, Spelling, stem, stems, word_parts
from kb_index.memory import NEIGHBOURS, QuestionMemory
from kb_index.normalise import Letters, fold, other_script, query_text, readings, script_of, words
from kb_index.passages import Passage, sentences, split_passages
from kb_index.ranker import EVIDENCE, Matrix, Ranker
from kb_index.vectors import FloatVector, IntVector, VectorIndex

_NEAREST = 40  # rows taken from each source of candidates
_LIKELY_TYPO = 0.7  # weight of a known word that a misspelt one may stand for
_FOREIGN_SPELLING = 0.5  # weight of a part of a word spelt in the other script
_BATCH = 256

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Scores:
    """The evidence for a hit: cosines -1..1, lexical scores as a share 0..1 of what was attainable, a probability."""

    question_cosine: float
    passage_cosine: float
    lexical: float
    char: float
    evidence: float


@dataclass(frozen=True)
class Hit:
    """An article that may answer, with the passage that fits best.

    `confidence` is the calibrated probability that the article answers the text. `passage`, `title` and `lang` are of
    the version in the language asked for, where there is one. `matched_question` is the article's nearest example
    question in any language; `matched_words` the words of the text that occur in the article.
    """

    article_id: str
    lang: str
    title: str
    topic: str
    passage: Passage
    confidence: float
    scores: Scores
    matched_question: str | None
    matched_words: tuple[str, ...]


@dataclass(frozen=True)
class Candidates:
    """Articles worth a look for one reading of a text, with a row of evidence for each (columns: ranker.EVIDENCE)."""

    groups: IntVector
    evidence: Matrix
    best_questions: IntVector
    passage_scores: FloatVector


@dataclass(frozen=True)
class Query:
    """One reading of a text, ready to be searched for."""

    text: str
    vector: FloatVector
    stems: Mapping[str, float]
    parts: Mapping[str, float]


class SearchIndex:
    """Everything searched, in memory and never changed: an edited article gives a new index (see `build`).

    Safe to search from several threads at once.
    """

    def __init__(
        self,
        articles: Sequence[Article],
        passages: Sequence[Passage],
        vectors: "Vectors",
        encoder: Encoder,
        ranker: Ranker | None = None,
    ) -> None:
        """For `build` and `load_index`; `articles` are ordered by id and language, `passages` by article."""
        self.articles = tuple(articles)
        self.passages = tuple(passages)
        self.encoder = encoder
        self.ranker = ranker or Ranker()
        self.vectors = vectors
        self.ids = tuple(dict.fromkeys(article.id for article in self.articles))
        self._number = {article_id: number for number, article_id in enumerate(self.ids)}
        self._versions: dict[str, dict[str, Article]] = {}
        for article in self.articles:
            self._versions.setdefault(article.id, {})[article.lang] = article
        self.questions = tuple(
            (article, text) for article in self.articles for text in (article.title, *article.questions) if text
        )
        self._passage_bounds = _bounds(len(self.ids), [self._number[passage.article_id] for passage in self.passages])
        self._question_bounds = _bounds(len(self.ids), [self._number[article.id] for article, _ in self.questions])
        self._folded_questions = [fold(text) for _, text in self.questions]
        self._passage_index = VectorIndex(vectors.passages, encoder.dim)
        self._question_index = VectorIndex(vectors.questions, encoder.dim)
        titles = {(article.id, article.lang): article.title for article in self.articles}
        texts = [
            " ".join((titles[passage.article_id, passage.lang], *passage.headings, passage.plain))
            for passage in self.passages
        ]
        questions = [text for _, text in self.questions]
        question_stems = [stems(text) for text in questions]
        question_parts = [word_parts(text) for text in questions]
        self._words = LexicalIndex.build([stems(text) for text in texts], k1=0.9, b=0.4)
        self._sentence_words = LexicalIndex.build(
            [stems(text) for passage in self.passages for text in passage_sentences(passage)], k1=0.9, b=0.4
        )
        self._question_words = LexicalIndex.build(question_stems)
        self._parts = LexicalIndex.build([word_parts(text) for text in texts])
        self._question_parts = LexicalIndex.build(question_parts)
        owners = np.array([self._number[article.id] for article, _ in self.questions], dtype=np.int64)
        self._memory = QuestionMemory(vectors.questions, question_stems, question_parts, owners, len(self.ids))
        self._passage_stems = [frozenset(stems(text)) for text in texts]
        self.letters = Letters(chain(texts, questions))
        self._spelling = Spelling(self.letters.vocabulary)

    @classmethod
    def build(
        cls,
        articles: Iterable[Article],
        encoder: Encoder,
        *,
        ranker: Ranker | None = None,
        progress: Progress | None = None,
        previous: "SearchIndex | None" = None,
    ) -> "SearchIndex":
        """Index all published articles; `progress` is told how many of how many texts are encoded. Blocks long.

        Texts that `previous` holds already are not encoded again, if the encoder is the same.
        """
        published = sorted(
            (article for article in articles if article.status == "published"),
            key=lambda article: (article.id, article.lang),
        )
        passages = [
            passage for article in published for passage in split_passages(article.id, article.lang, article.body)
        ]
        reuse = previous is not None and previous.encoder.fingerprint == encoder.fingerprint
        source = _Reusing(encoder, previous) if reuse and previous else encoder
        vectors = Vectors.encode(published, passages, source, progress)
        return cls(published, passages, vectors, encoder, ranker)

    def with_ranker(self, ranker: Ranker) -> "SearchIndex":
        """The same index under another ranker; nothing is copied."""
        other = object.__new__(SearchIndex)
        other.__dict__.update(self.__dict__, ranker=ranker)
        return other

    def with_encoder(self, encoder: Encoder) -> "SearchIndex":
        """The same index asking another encoder of the same fingerprint; nothing is copied."""
        other = object.__new__(SearchIndex)
        other.__dict__.update(self.__dict__, encoder=encoder)
        return other

    def readings(self, text: str) -> tuple[str, ...]:
        """The text and what else it may say (keyboard layout, Latin letters), judged by the words of the articles."""
        return readings(text, self.letters)

    def search(
        self,
        text: str,
        *,
        lang: str | None = None,
        limit: int = 5,
        evidence: Mapping[str, float] | None = None,
    ) -> tuple[Hit, ...]:
        """The articles that may answer, the likeliest first, one hit for each article id.

        `lang` is the language to show passages in where there is a choice. `evidence` gives articles the probability
        that an intent classifier sees in the text. Blocks while the text is encoded; never raises for what the text is.
        """
        return self.search_without(text, lang=lang, limit=limit, evidence=evidence)

    def search_without(
        self,
        text: str,
        *,
        lang: str | None = None,
        limit: int = 5,
        evidence: Mapping[str, float] | None = None,
        questions: Collection[str] = (),
        article_ids: Collection[str] = (),
    ) -> tuple[Hit, ...]:
        """As `search`, as if these example questions and these articles were not there."""
        best: tuple[Hit, ...] = ()
        for query in self.queries(text):
            found = self.candidates(query, evidence, questions, article_ids)
            hits = self.hits(query, found, lang, limit)
            if hits and (not best or hits[0].confidence > best[0].confidence):
                best = hits
        return best

    def queries(self, text: str) -> tuple[Query, ...]:
        """The readings of a text, encoded; none when there is no letter or digit in it, or nothing to search."""
        found = self.readings_searched(text)
        if not found:
            return ()
        vectors = self.encoder.encode(found, "query")
        return tuple(self._query(reading, vector) for reading, vector in zip(found, vectors, strict=True))

    def readings_searched(self, text: str) -> tuple[str, ...]:
        """The texts that a search for `text` encodes; none when there is nothing to search for."""
        return self.readings(query_text(text)) if self.articles and words(text) else ()

    def queries_of(self, texts: Sequence[str], progress: Progress | None = None) -> list[Query | None]:
        """Many texts encoded at once, each as its likeliest reading; None for one with nothing to search for."""
        found = [(self.readings_searched(text) or ("",))[-1] for text in texts]
        vectors = _encode(self.encoder, found, "query", progress)
        return [
            self._query(reading, vector) if reading else None for reading, vector in zip(found, vectors, strict=True)
        ]

    def _query(self, reading: str, vector: FloatVector) -> Query:
        return Query(reading, vector, self._weighted_stems(reading), self._weighted_parts(reading))

    def candidates(
        self,
        query: Query,
        evidence: Mapping[str, float] | None = None,
        hidden_questions: Collection[str] = (),
        hidden_ids: Collection[str] = (),
    ) -> Candidates:
        """Collect candidates from every source and weigh each by every source."""
        hidden = {fold(text) for text in hidden_questions}
        hidden_rows = [row for row, text in enumerate(self._folded_questions) if text in hidden] if hidden else []
        words_found = _shares(self._words, query.stems)
        parts_found = _shares(self._parts, query.parts)
        question_words = _shares(self._question_words, query.stems)
        question_parts = _shares(self._question_parts, query.parts)
        near_questions = self._question_index.nearest(query.vector, NEIGHBOURS + len(hidden_rows))
        near_questions = near_questions[~np.isin(near_questions, hidden_rows)]
        remembered = self._memory.answers(query.vector, query.stems, query.parts, near_questions, hidden_rows)
        question_words[hidden_rows] = 0
        question_parts[hidden_rows] = 0
        sources = (
            (self._passage_bounds, self._passage_index.nearest(query.vector, _NEAREST)),
            (self._passage_bounds, _top(words_found)),
            (self._passage_bounds, _top(parts_found)),
            (self._question_bounds, near_questions[:_NEAREST]),
            (self._question_bounds, _top(question_words)),
            (self._question_bounds, _top(question_parts)),
            (np.arange(len(self.ids) + 1), _top(remembered)),
        )
        intents = {
            number: chance
            for name, chance in (evidence or {}).items()
            if (number := self._number.get(name)) is not None
        }
        found = {number for bounds, rows in sources for number in (np.searchsorted(bounds, rows, "right") - 1).tolist()}
        found |= set(intents)
        found -= {self._number[name] for name in hidden_ids if name in self._number}
        groups = np.array(sorted(found), dtype=np.int64)
        passage_rows, passage_counts = _rows(self._passage_bounds, groups)
        question_rows, question_counts = _rows(self._question_bounds, groups)
        question_cosines = self._question_index.rows(question_rows) @ query.vector
        question_cosines[np.isin(question_rows, hidden_rows)] = 0
        passage_cosines = self._passage_index.rows(passage_rows) @ query.vector
        sentence_rows, sentence_counts = _rows(self.vectors.bounds, passage_rows)
        sentence_cosines = _best(self.vectors.sentences[sentence_rows] @ query.vector, sentence_counts)
        sentence_words = _best(_shares(self._sentence_words, query.stems)[sentence_rows], sentence_counts)
        columns = {
            "question": _best(question_cosines, question_counts),
            "questions": _best_three(question_cosines, question_counts),
            "memory": remembered[groups],
            "passage": _best(passage_cosines, passage_counts),
            "sentence": _best(sentence_cosines, passage_counts),
            "words": _best(words_found[passage_rows], passage_counts),
            "sentence_words": _best(sentence_words, passage_counts),
            "question_words": _best(question_words[question_rows], question_counts),
            "parts": _best(parts_found[passage_rows], passage_counts),
            "question_parts": _best(question_parts[question_rows], question_counts),
            "intent": np.array([intents.get(number, 0.0) for number in groups.tolist()]),
        }
        fit = np.zeros(len(self.passages), dtype=np.float32)
        fit[passage_rows] = passage_cosines + sentence_cosines + words_found[passage_rows]
        return Candidates(
            groups,
            np.column_stack([columns[name] for name in EVIDENCE]).astype(np.float64),
            _best_row(question_cosines, question_rows, question_counts),
            fit,
        )

    def hits(self, query: Query, found: Candidates, lang: str | None, limit: int) -> tuple[Hit, ...]:
        """The best candidates in the ranker's order."""
        ranking = self.ranker.rank(found.evidence)
        return tuple(
            self._hit(query, found, row, confidence, lang)
            for row, confidence in zip(ranking.order[:limit].tolist(), ranking.confidences.tolist(), strict=False)
        )

    def _hit(self, query: Query, found: Candidates, row: int, confidence: float, lang: str | None) -> Hit:
        group = int(found.groups[row])
        values = dict(zip(EVIDENCE, found.evidence[row].tolist(), strict=True))
        versions = self._versions[self.ids[group]]
        rows = range(self._passage_bounds[group], self._passage_bounds[group + 1])
        wanted = next((name for name in (lang, script_of(query.text)) if name in versions), None)
        shown = [number for number in rows if wanted is None or self.passages[number].lang == wanted]
        best = max(shown, key=lambda number: float(found.passage_scores[number]))
        passage = self.passages[best]
        article = versions[passage.lang]
        question = int(found.best_questions[row])
        known = self._passage_stems[best].union(*(stems(text) for text in (article.title, *article.questions)))
        return Hit(
            article_id=article.id,
            lang=article.lang,
            title=article.title,
            topic=article.topic,
            passage=passage,
            confidence=confidence,
            scores=Scores(
                question_cosine=values["question"],
                passage_cosine=max(values["passage"], values["sentence"]),
                lexical=max(values["words"], values["question_words"]),
                char=max(values["parts"], values["question_parts"]),
                evidence=values["intent"],
            ),
            matched_question=self.questions[question][1] if question >= 0 else None,
            matched_words=tuple(dict.fromkeys(word for word in words(query.text) if stem(word) in known)),
        )

    def _weighted_parts(self, text: str) -> Mapping[str, float]:
        """Parts of the words, and of names as the other language spells them where an article has such parts."""
        foreign = word_parts(" ".join(other_script(word) for word in words(text) if len(word) > 3))
        found = {part: _FOREIGN_SPELLING for part in foreign if self._parts.knows(part)}
        return {**found, **Counter(word_parts(text))}

    def _weighted_stems(self, text: str) -> Mapping[str, float]:
        weighted: Counter[str] = Counter()
        found: dict[str, float] = {}
        for word in words(text):
            weighted[stem(word)] += 1
            for near, likeness in self._spelling.nearest(word):
                root = stem(near)
                found[root] = max(found.get(root, 0.0), _LIKELY_TYPO * likeness)
        return {**found, **weighted}


@dataclass(frozen=True)
class Vectors:
    """Unit rows for passages, for their sentences (`bounds` tells whose) and for titles and questions."""

    passages: FloatMatrix
    sentences: FloatMatrix
    bounds: IntVector
    questions: FloatMatrix

    @classmethod
    def encode(
        cls, articles: Sequence[Article], passages: Sequence[Passage], encoder: Encoder, progress: Progress | None
    ) -> "Vectors":
        texts, parts, questions = _indexed_texts(articles, passages)
        flat = [sentence for sentence_list in parts for sentence in sentence_list]
        total = len(texts) + len(flat) + len(questions)

        def told(before: int) -> Progress | None:
            return (lambda done, _: progress(before + done, total)) if progress else None

        bounds = np.concatenate([[0], np.cumsum([len(part) for part in parts])]).astype(np.int64)
        return cls(
            _encode(encoder, texts, "passage", told(0)),
            _encode(encoder, flat, "passage", told(len(texts))),
            bounds,
            _encode(encoder, questions, "query", told(len(texts) + len(flat))),
        )


class _Reusing:
    """An encoder that knows the vectors of an index and asks another encoder for the rest only."""

    def __init__(self, encoder: Encoder, index: SearchIndex) -> None:
        self.name, self.fingerprint, self.dim = encoder.name, encoder.fingerprint, encoder.dim
        self._encoder = encoder
        texts, parts, questions = _indexed_texts(index.articles, index.passages)
        self._kept: dict[tuple[TextKind, str], FloatVector] = {
            **{("passage", text): row for text, row in zip(chain(*parts), index.vectors.sentences, strict=True)},
            **{("passage", text): row for text, row in zip(texts, index.vectors.passages, strict=True)},
            **{("query", text): row for text, row in zip(questions, index.vectors.questions, strict=True)},
        }

    def encode(self, texts: Sequence[str], kind: TextKind = "query") -> FloatMatrix:
        new = [text for text in dict.fromkeys(texts) if (kind, text) not in self._kept]
        if new:
            self._kept.update(zip([(kind, text) for text in new], self._encoder.encode(new, kind), strict=True))
        return np.array([self._kept[kind, text] for text in texts], dtype=np.float32).reshape(len(texts), self.dim)


def _indexed_texts(
    articles: Sequence[Article], passages: Sequence[Passage]
) -> tuple[list[str], list[list[str]], list[str]]:
    """What is encoded: each passage with its title and headings, the sentences of each, titles and questions."""
    titles = {(article.id, article.lang): article.title for article in articles}
    texts = [
        "\n".join(part for part in (titles[passage.article_id, passage.lang], *passage.headings, passage.plain) if part)
        for passage in passages
    ]
    parts = [passage_sentences(passage) for passage in passages]
    return texts, parts, [text for article in articles for text in (article.title, *article.questions) if text]


def passage_sentences(passage: Passage) -> list[str]:
    """The sentences of a passage, at least one."""
    return sentences(passage.plain) or [passage.text]


def _encode(encoder: Encoder, texts: Sequence[str], kind: TextKind, progress: Progress | None) -> FloatMatrix:
    """Encode in batches of like length; rows in the order of `texts`."""
    rows = np.zeros((len(texts), encoder.dim), dtype=np.float32)
    order = sorted(range(len(texts)), key=lambda number: len(texts[number]))
    for start in range(0, len(order), _BATCH):
        batch = order[start : start + _BATCH]
        rows[batch] = encoder.encode([texts[number] for number in batch], kind)
        if progress:
            progress(start + len(batch), len(order))
    return rows


def _bounds(count: int, owners: Sequence[int]) -> IntVector:
    """Where the rows of each owner begin, when rows are ordered by owner: shape (count + 1,)."""
    return np.searchsorted(np.array(owners, dtype=np.int64), np.arange(count + 1)).astype(np.int64)


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


def _shares(index: LexicalIndex, terms: Mapping[str, float]) -> FloatVector:
    attainable = index.attainable(terms)
    return index.scores(terms) / np.float32(attainable) if attainable > 0 else np.zeros(index.size, dtype=np.float32)


def _top(scores: FloatVector) -> IntVector:
    """Numbers of the greatest positive scores, at most _NEAREST."""
    best = np.argpartition(-scores, _NEAREST)[:_NEAREST] if len(scores) > _NEAREST else np.arange(len(scores))
    return best[scores[best] > 0]
