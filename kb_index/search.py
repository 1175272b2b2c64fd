"""Search: which articles answer a text, in what order, and how probably."""

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from kb_index.articles import Article
from kb_index.dictionary import is_word
from kb_index.encoder import Encoder, FloatMatrix
from kb_index.lexical import Spelling, parts_of, stem, stems, word_parts
from kb_index.memory import NEIGHBOURS, QuestionMemory
from kb_index.normalise import Letters, fold, other_script, query_text, readings, script_of, words
from kb_index.passages import Passage, split_passages
from kb_index.ranker import EVIDENCE, Matrix, Ranker
from kb_index.segment import (
    FINE_PASSAGES,
    NEAREST,
    Progress,
    Query,
    Segment,
    TextKey,
    encode_all,
    encode_texts,
    known_vectors,
)
from kb_index.vectors import FloatVector, IntVector

KEPT_ANSWERS = 2048  # of questions that repeat; a few kilobytes each
_LETTERS = re.compile(r"[^\W\d_]+")
_LIKELY_TYPO = 0.7  # weight of a known word that a misspelt one may stand for
_FOREIGN_SPELLING = 0.5  # weight of a part of a word spelt in the other script
_PRODUCT_ROWS = 50_000  # up to here a product with every row is cheaper than looking for the nearest
_FRESH_PASSAGES = 300  # so many edited passages may lie beside the large part before it ought to be made anew,
_FRESH_SHARE = 0.03  # or such a share of all; ten times as many are not put beside it at all


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
    """Articles worth a look for one reading of a text, with a row of evidence for each (columns: ranker.EVIDENCE).

    `groups` are numbers of `SearchIndex.ids`, `best_questions` of its questions (-1: none). `fits` says how
    well each passage of each candidate fits, one candidate after the other; they end at `ends`.
    """

    groups: IntVector
    evidence: Matrix
    best_questions: IntVector
    fits: FloatVector
    ends: IntVector


@dataclass(frozen=True)
class Confirmed:
    """A question that an editor, or an agent's answer, has assigned to an article: as good as an example question."""

    text: str
    lang: str
    article_id: str


@dataclass(frozen=True)
class _Edits:
    """What changed since the large segment was made: edited and new articles, and whose rows in it no longer count."""

    segment: Segment
    gone: frozenset[str]


class SearchIndex:
    """Everything searched, in memory and never changed: edited articles give a new index (see `updated`).

    Safe to search from several threads at once.
    """

    def __init__(
        self,
        base: Segment,
        encoder: Encoder,
        ranker: Ranker | None = None,
        *,
        inverse: FloatMatrix | None = None,
    ) -> None:
        """For `build` and `load_index`; `inverse` is what the memory of the same questions had."""
        self.base = base
        self.edits: _Edits | None = None
        self.encoder = encoder
        self.ranker = ranker or Ranker()
        self.articles = base.articles
        self.passages = base.passages
        self.questions = base.questions
        self.ids = base.ids
        self.letters = self._base_letters = Letters.of(base.lexicon.counts)
        self.memory = self.base_memory = QuestionMemory(
            base.vectors.questions, *_question_terms(base, base), base.owners, len(base.ids), inverse=inverse
        )
        self._spelling = Spelling(self.letters.vocabulary)
        self._fresh_spelling = Spelling(())
        self._gone_groups = np.zeros(0, dtype=np.int64)
        self._gone_rows = np.zeros(0, dtype=np.int64)
        self._number: Mapping[str, int] = base.number
        self._versions = _versions(self.articles)
        self._answers = self._remember()

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
        published, passages = _published(articles)
        known: dict[TextKey, FloatVector] = {}
        if previous is not None and previous.encoder.fingerprint == encoder.fingerprint:
            for segment in previous.segments:
                known |= known_vectors(segment)
        fine = len(passages) <= FINE_PASSAGES
        vectors = encode_texts(published, passages, encoder, known, progress, fine=fine)
        return cls(Segment(published, passages, vectors, encoder.dim), encoder, ranker)

    def updated(self, articles: Iterable[Article], *, progress: Progress | None = None) -> "SearchIndex":
        """An index of these articles that takes over everything that has not changed; `self` if nothing has.

        Only new texts are encoded. A few edited articles are kept beside the large part, in a fraction of a second;
        when they grow many, all is put together anew, which takes seconds for thousands of articles.
        """
        published = [article for article in articles if article.status == "published"]
        now, before = _versions(published), _versions(self.articles)
        if now == before:
            return self
        start = _versions(self.base.articles)
        changed = {
            article_id for article_id in now.keys() | start.keys() if now.get(article_id) != start.get(article_id)
        }
        edited, passages = _published(article for article in published if article.id in changed)
        questions = len(self.base.questions) + sum(1 + len(article.questions) for article in edited)
        outgrown = QuestionMemory.reads(len(self.base.questions)) and not QuestionMemory.reads(questions)
        if not self.base.passages or len(passages) > 10 * self._most_edits or outgrown:
            return self.build(published, self.encoder, ranker=self.ranker, progress=progress, previous=self)
        known: dict[TextKey, FloatVector] = {}
        for segment in self.segments:
            known |= known_vectors(segment, changed)
        fine = self.base.has_sentences
        vectors = encode_texts(edited, passages, self.encoder, known, progress, fine=fine)
        segment = Segment(edited, passages, vectors, self.encoder.dim, beside=self.base)
        return self.with_edits(segment, changed & start.keys())

    def with_edits(self, segment: Segment, gone: Collection[str]) -> "SearchIndex":
        """The large part with this small one beside it, and without its articles `gone`."""
        base = self.base
        index = self._changed(
            edits=_Edits(segment, frozenset(gone)),
            ids=base.ids + segment.ids,
            passages=base.passages + segment.passages,
            questions=base.questions + segment.questions,
            articles=(*(article for article in base.articles if article.id not in gone), *segment.articles),
            letters=self._base_letters.with_counts(segment.lexicon.counts),
        )
        groups = np.array(sorted(base.number[name] for name in gone), dtype=np.int64)
        index._gone_groups = groups
        index._gone_rows = np.flatnonzero(np.isin(base.owners, groups))
        index._number = {
            **{name: number for name, number in base.number.items() if name not in gone},
            **{name: number + len(base.ids) for name, number in segment.number.items()},
        }
        index._versions = _versions(index.articles)
        index._fresh_spelling = Spelling(sorted(segment.lexicon.counts))
        index.memory = self.base_memory.updated(
            index._gone_rows.tolist(),
            segment.vectors.questions,
            *_question_terms(segment, base),
            segment.owners + len(base.ids),
            len(index.ids),
        )
        return index

    def without_edits(self) -> "SearchIndex":
        """The large part alone, as it was made."""
        if not self.edits:
            return self
        base = self.base
        return self._changed(
            edits=None,
            articles=base.articles,
            passages=base.passages,
            questions=base.questions,
            ids=base.ids,
            letters=self._base_letters,
            memory=self.base_memory,
            _fresh_spelling=Spelling(()),
            _gone_groups=np.zeros(0, dtype=np.int64),
            _gone_rows=np.zeros(0, dtype=np.int64),
            _number=base.number,
            _versions=_versions(base.articles),
        )

    def compact(self) -> "SearchIndex":
        """The same articles in one large part."""
        return self.build(self.articles, self.encoder, ranker=self.ranker, previous=self) if self.edits else self

    @property
    def is_worn(self) -> bool:
        """Whether so much was edited that `compact` would make searching faster and its statistics truer."""
        return self.edits is not None and len(self.edits.segment.passages) > self._most_edits

    @property
    def _most_edits(self) -> float:
        return max(_FRESH_PASSAGES, _FRESH_SHARE * len(self.base.passages))

    @property
    def segments(self) -> tuple[Segment, ...]:
        return (self.base, self.edits.segment) if self.edits else (self.base,)

    @property
    def known_ids(self) -> frozenset[str]:
        """Of all articles that can be found."""
        return frozenset(self._number)

    def holds(self, articles: Iterable[Article]) -> bool:
        """Whether `updated` would change nothing."""
        return _versions(article for article in articles if article.status == "published") == _versions(self.articles)

    def with_ranker(self, ranker: Ranker) -> "SearchIndex":
        """The same index under another ranker; nothing is copied."""
        return self._changed(ranker=ranker)

    def with_encoder(self, encoder: Encoder) -> "SearchIndex":
        """The same index asking another encoder of the same fingerprint; nothing is copied."""
        return self._changed(encoder=encoder)

    def _changed(self, **changes: Any) -> "SearchIndex":
        other = object.__new__(SearchIndex)
        other.__dict__.update(self.__dict__, **changes)
        other._answers = other._remember()
        return other

    def _remember(self) -> Callable[[str, str | None, int, frozenset[tuple[str, float]]], tuple[Hit, ...]]:
        def answer(text: str, lang: str | None, limit: int, evidence: frozenset[tuple[str, float]]) -> tuple[Hit, ...]:
            return self.search_without(text, lang=lang, limit=limit, evidence=dict(evidence))

        return lru_cache(KEPT_ANSWERS)(answer)

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
        return self._answers(query_text(text), lang, limit, frozenset((evidence or {}).items()))

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
        # One by one: encoders keep the vectors of single queries, for those that repeat.
        return tuple(
            self._query(reading, self.encoder.encode([self.corrected(reading)], "query")[0])
            for reading in self.readings_searched(text)
        )

    def readings_searched(self, text: str) -> tuple[str, ...]:
        """The readings that a search for `text` looks at; none when there is nothing to search for."""
        return self.readings(query_text(text)) if self.articles and words(text) else ()

    def queries_of(self, texts: Sequence[str], progress: Progress | None = None) -> list[Query | None]:
        """Many texts encoded at once, each as its likeliest reading; None for one with nothing to search for."""
        found = [(self.readings_searched(text) or ("",))[-1] for text in texts]
        vectors = encode_all(self.encoder, list(map(self.corrected, found)), "query", progress)
        return [
            self._query(reading, vector) if reading else None for reading, vector in zip(found, vectors, strict=True)
        ]

    def together(self, queries: Sequence[Query]) -> list[Query]:
        """The same queries, to be searched for one after the other: where rows are few, all products are made at once.

        A few hundred at a time: each takes four bytes for every passage, sentence and question.
        """
        rows = sum(len(own) for one in self.segments for own in (one.passages, one.vectors.sentences, one.questions))
        if rows > _PRODUCT_ROWS or not queries:
            return list(queries)
        vectors = np.stack([query.vector for query in queries])
        cosines = zip(*(segment.cosines(vectors) for segment in self.segments), strict=True)
        return [replace(query, cosines=own) for query, own in zip(queries, cosines, strict=True)]

    def _query(self, reading: str, vector: FloatVector) -> Query:
        said = words(reading)
        return Query(reading, vector, self._weighted_stems(said), self._weighted_parts(said))

    def candidates(
        self,
        query: Query,
        evidence: Mapping[str, float] | None = None,
        hidden_questions: Collection[str] = (),
        hidden_ids: Collection[str] = (),
    ) -> Candidates:
        """Collect candidates from every source and weigh each by every source."""
        hidden = {fold(text) for text in hidden_questions}
        found = []
        near: list[IntVector] = []
        hidden_here: list[int] = []
        offset = 0
        for place, segment in enumerate(self.segments):
            cosines = query.cosines[place] if query.cosines else None
            rows = [row for text in hidden for row in segment.folded_questions.get(text, ())]
            gone = self._gone_rows if segment is self.base else self._gone_rows[:0]
            # What an edited article asked before is hidden already, and hiding it twice cannot be worked out.
            rows = [row for row in rows if row not in gone]
            wanted = NEIGHBOURS + len(rows) + min(len(gone), NEIGHBOURS)
            sought = segment.seek(query, cosines, wanted)
            nearest = sought.near_questions
            if len(rows) or len(gone):
                nearest = nearest[~np.isin(nearest, [*rows, *gone])]
            found.append((sought, rows, nearest))
            near.append(nearest + offset)
            hidden_here.extend(row + offset for row in rows)
            offset += len(segment.questions)
        remembered = self.memory.answers(query.vector, query.stems, query.parts, np.concatenate(near), hidden_here)
        intents = {
            number: chance
            for name, chance in (evidence or {}).items()
            if (number := self._number.get(name)) is not None
        }
        named = {*intents, *_top(remembered).tolist()}
        banned = {*self._gone_groups.tolist(), *(self._number[name] for name in hidden_ids if name in self._number)}
        groups, tables, best_questions, fits, counts = [], [], [], [], []
        first_group = first_question = 0
        for (sought, rows, nearest), segment in zip(found, self.segments, strict=True):
            last = first_group + len(segment.ids)
            own = {number + first_group for number in sought.groups(nearest, rows)}
            own |= {number for number in named if first_group <= number < last}
            numbers = np.array(sorted(own - banned), dtype=np.int64)
            weighed = sought.weigh(numbers - first_group, rows)
            groups.append(numbers)
            tables.append(weighed.evidence)
            best_questions.append(np.where(weighed.best_questions >= 0, weighed.best_questions + first_question, -1))
            fits.append(weighed.fits)
            counts.append(weighed.counts)
            first_group, first_question = last, first_question + len(segment.questions)
        every = np.concatenate(groups)
        table = np.concatenate(tables)
        table[:, EVIDENCE.index("memory")] = remembered[every]
        if intents:
            table[:, EVIDENCE.index("intent")] = [intents.get(number, 0.0) for number in every.tolist()]
        ends = np.concatenate(counts).cumsum()
        return Candidates(every, table, np.concatenate(best_questions), np.concatenate(fits), ends)

    def hits(self, query: Query, found: Candidates, lang: str | None, limit: int) -> tuple[Hit, ...]:
        """The best candidates in the ranker's order."""
        ranking = self.ranker.rank(found.evidence)
        chosen = ranking.order[:limit].tolist()
        terms = [(word, stem(word)) for word in dict.fromkeys(words(query.text))]
        wanted = (lang, script_of(query.text))
        passages = {row: self._best_passage(found, row, wanted) for row in chosen}
        matched: dict[int, list[str]] = {}
        first_group = 0
        for segment in self.segments:
            own = [row for row in chosen if 0 <= found.groups[row] - first_group < len(segment.ids)]
            places = np.array([passages[row] for row in own], dtype=np.int64)
            numbers = found.groups[own] - first_group
            matched |= zip(own, segment.words_of(terms, places, numbers), strict=True)
            first_group += len(segment.ids)
        return tuple(
            self._hit(found, row, self._segment_of(found, row).passages[passages[row]], confidence, matched[row])
            for row, confidence in zip(chosen, ranking.confidences.tolist(), strict=False)
        )

    def _segment_of(self, found: Candidates, row: int) -> Segment:
        return self.segments[int(found.groups[row] >= len(self.base.ids))]

    def _best_passage(self, found: Candidates, row: int, wanted: Sequence[str | None]) -> int:
        """The number, in its segment, of the passage to show of a candidate."""
        segment = self._segment_of(found, row)
        article_id = self.ids[found.groups[row]]
        shown = next((name for name in wanted if name in self._versions[article_id]), None)
        start, end = segment.passage_bounds[segment.number[article_id] :][:2].tolist()
        fits = found.fits[found.ends[row] - (end - start) : found.ends[row]].tolist()
        return max(
            (number for number in range(start, end) if shown is None or segment.passages[number].lang == shown),
            key=lambda number: fits[number - start],
        )

    def _hit(self, found: Candidates, row: int, passage: Passage, confidence: float, matched: Sequence[str]) -> Hit:
        values = dict(zip(EVIDENCE, found.evidence[row].tolist(), strict=True))
        article = self._versions[passage.article_id][passage.lang]
        question = int(found.best_questions[row])
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
            matched_words=tuple(matched),
        )

    def _weighted_parts(self, said: Sequence[str]) -> Mapping[str, float]:
        """Parts of the words, and of names as the other language spells them where an article has such parts."""
        foreign = [part for word in said if len(word) > 3 for part in _foreign_parts(word)]
        known: set[str] = set()
        for segment in self.segments:
            known |= segment.lexicon.parts.known(foreign) | segment.lexicon.question_parts.known(foreign)
        return {**{part: _FOREIGN_SPELLING for part in foreign if part in known}, **Counter(parts_of(said))}

    def _weighted_stems(self, said: Sequence[str]) -> Mapping[str, float]:
        weighted: Counter[str] = Counter()
        found: dict[str, float] = {}
        for word in said:
            weighted[stem(word)] += 1
            for near, likeness in self.likely_words(word):
                root = stem(near)
                found[root] = max(found.get(root, 0.0), _LIKELY_TYPO * likeness)
        return {**found, **weighted}

    def corrected(self, reading: str) -> str:
        """A reading as it is encoded: misspelt words give way to the likeliest words of the articles."""

        def likeliest(match: re.Match[str]) -> str:
            word = fold(match.group())
            likely = () if is_word(word) else self.likely_words(word)
            return likely[0][0] if likely else match.group()

        return _LETTERS.sub(likeliest, reading)

    def likely_words(self, word: str) -> tuple[tuple[str, float], ...]:
        """Known words that a folded, misspelt one may stand for, with a likeness 0..1; none for a known word."""
        if self._spelling.knows(word) or self._fresh_spelling.knows(word):
            return ()
        return self._spelling.nearest(word) or self._fresh_spelling.nearest(word)


@lru_cache(maxsize=20_000)
def _foreign_parts(word: str) -> tuple[str, ...]:
    """The parts of a folded word as the other language spells it."""
    return tuple(word_parts(other_script(word)))


def with_confirmed(articles: Iterable[Article], confirmed: Iterable[Confirmed]) -> tuple[Article, ...]:
    """The articles with their confirmed questions among the example questions, each once.

    A question goes to the version in its language, else to the first there is; one whose article is unknown goes
    nowhere. Index and ranker learn from the result as from any example, so every confirmed pair makes both better.
    """
    kept = list(articles)
    versions = _versions(kept)
    asked: dict[tuple[str, str], list[str]] = {}
    for pair in confirmed:
        if of_article := versions.get(pair.article_id):
            lang = pair.lang if pair.lang in of_article else next(iter(of_article))
            asked.setdefault((pair.article_id, lang), []).append(pair.text)
    return tuple(
        replace(article, questions=tuple(dict.fromkeys([*article.questions, *asked[article.id, article.lang]])))
        if (article.id, article.lang) in asked
        else article
        for article in kept
    )


def _published(articles: Iterable[Article]) -> tuple[list[Article], list[Passage]]:
    published = sorted(
        (article for article in articles if article.status == "published"),
        key=lambda article: (article.id, article.lang),
    )
    passages = [passage for article in published for passage in split_passages(article.id, article.lang, article.body)]
    return published, passages


def _versions(articles: Iterable[Article]) -> dict[str, dict[str, Article]]:
    versions: dict[str, dict[str, Article]] = {}
    for article in articles:
        versions.setdefault(article.id, {})[article.lang] = article
    return versions


def _question_terms(segment: Segment, base: Segment) -> tuple[list[list[str]], list[list[str]]]:
    """Stems and parts of the words of each question, where the memory of the large part reads them."""
    if not QuestionMemory.reads(len(base.questions)):
        return [], []
    texts = [text for _, text in segment.questions]
    return [stems(text) for text in texts], [word_parts(text) for text in texts]


def _top(scores: FloatVector) -> IntVector:
    """Numbers of the greatest positive scores, at most NEAREST."""
    best = np.argpartition(-scores, NEAREST)[:NEAREST] if len(scores) > NEAREST else np.arange(len(scores))
    return best[scores[best] > 0]
