"""Tells the topic of a ticket from all that the customer said.

A text is compared with tickets whose topic is known (`topics/` of the data folder, and what agents corrected) by four
things at once: its meaning, its words, what the intents say of it, and the keywords of topics.yml. Meaning and intents
are those of the whole text and of its clauses together: of a story of four sentences one tells what it is about.
The weighted sum of these four likenesses, cubed, is the kernel of a ridge regression on the topics; cubed, because
likenesses confirm each other. One class more, `NOTHING`, stands for words that tell no topic.

What the model says of a ticket that it has not seen follows from the fit itself (Rifkin and Lippert 2007, "Notes on
regularized least squares"), here for each ticket together with those that say nearly the same. From it come the
temperature that makes the scores probabilities, the threshold and the figures.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeVar
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import inv
from scipy.optimize import minimize_scalar
from scipy.sparse import csr_matrix, save_npz
from scipy.sparse.csgraph import connected_components
from scipy.special import log_softmax, softmax
from threadpoolctl import threadpool_limits

from bot.dialogue import ANY_TOPIC, Outcome
from bot.models.calibration import lowest_threshold
from bot.models.understanding import IntentEngine
from handoff.routing import Topics, count_keywords
from nlu.arrays import read_arrays, read_sparse
from nlu.embedding import Embedding
from nlu.encoder import Encoder
from nlu.errors import EncoderMismatch, ModelDamaged
from nlu.features import LexicalFeatures, fold
from nlu.intents import IntentClassifier, IntentPrediction
from nlu.training_data import OUT_OF_SCOPE_INTENTS, Example

NOTHING: Final = "nothing"
PRECISION: Final = 0.9
"""Share of the tickets with a topic that must have the right one; the others are «to be clarified» …"""
MOST_UNCLEAR: Final = 0.08
"""… but no more than this share of them: the customer waits while a person sorts."""
FEWEST: Final = 25
"""A topic with fewer tickets to learn from also learns from its intents' examples and its articles' questions."""
MOST_IDLE: Final = 150
OLDER: Final = 0.6
"""What each earlier message counts, against the next one."""
MOST_TEXTS: Final = 6
MOST_CLAUSES: Final = 8
EVEN: Final = 0.5
MOST_ROWS: Final = 5000
"""Training takes 16 bytes for each pair of rows and time with their cube: each topic keeps its newest."""
_MOST_KEYWORDS: Final = 2
# A flat optimum on left-out tickets and on tickets of another hand, see docs/decisions/0013-routing.md.
_MEANING, _WORDS, _INTENTS, _KEYWORDS = 0.5, 0.25, 0.15, 0.1
_RIDGE: Final = 0.05
_SAME: Final = 0.6
"""The cosine of centred vectors from which on two tickets are left out together."""
_CLAUSES = re.compile(r"[,.;!?\n\u2013\u2014]+")

_FORMAT: Final = 3

Matrix = NDArray[np.floating[Any]]
Text = TypeVar("Text")


@dataclass(frozen=True)
class Rehearsed:
    """How the model does on a ticket that it had not seen."""

    lang: str | None
    topic: str
    named: tuple[str, ...]
    """The likeliest topic and the runner-up."""
    probability: float

    @property
    def right(self) -> bool:
        return self.named[0] == self.topic


class TopicModel:
    """Ranks topics for `handoff.routing`. Immutable; blocks on the CPU."""

    def __init__(
        self,
        lesson: _Lesson,
        embedding: Embedding,
        reader: _Reader,
        *,
        threshold: float,
        rehearsed: Sequence[Rehearsed] = (),
    ) -> None:
        """rehearsed: of a model that was just trained, its tickets while each was left out."""
        self.threshold = threshold
        self.rehearsed = rehearsed
        self._lesson, self._embedding, self._reader = lesson, embedding, reader

    def rank(self, texts: Sequence[str]) -> list[tuple[str, float]]:
        """Topics with their probabilities, the likeliest first; what is left to 1 is that nothing tells one.

        texts: what the customer said, newest first; what he said last counts most.
        """
        said = [text for text in texts if text.strip()][:MOST_TEXTS]
        if not said:
            return []
        # One by one: the encoder remembers the few texts of a message, so that each is encoded once.
        heard = [self._reader.hear([text])[0] for text in said]
        classes = self._lesson.classes
        rows = self._reader.read(heard, self._embedding, self._lesson)
        each = softmax(self._lesson.temperature * _kernel(rows, self._lesson.rows) @ self._lesson.coefficients, axis=1)
        nothing = classes.index(NOTHING) if NOTHING in classes else None
        tells = OLDER ** np.arange(len(said)) * (1 - each[:, nothing] if nothing is not None else 1)
        together = tells @ each / max(float(tells.sum()), 1e-9)
        ranked = [(name, float(share)) for name, share in zip(classes, together, strict=True) if name != NOTHING]
        return sorted(ranked, key=lambda pair: -pair[1])

    @classmethod
    def train(
        cls,
        tickets: Sequence[Example],
        *,
        topics: Topics,
        intents: IntentClassifier,
        taught: Sequence[Example],
        unseen: Sequence[IntentPrediction | None],
        outcomes: Mapping[str, Outcome],
        topic_of: Mapping[str, str],
        encoder: Encoder,
        seed: int = 0,
        progress: Callable[[str], None] = lambda _: None,
    ) -> TopicModel | None:
        """tickets: texts whose `intent` is a topic, the newest last. taught, unseen: what the intents learn from, and
        what they make of each example that they had not seen. None where fewer than two topics have anything to learn
        from."""
        reader = _Reader(topics, outcomes, intents)
        random = np.random.default_rng(seed)
        known = _distinct(row for row in tickets if row.intent in topics.all and row.intent != topics.default.id)
        heard = zip(reader.hear(list(known)), known.values(), strict=True)
        # What says nothing but "a person, please" teaches no topic, whatever an agent made of it.
        told = [(each, row.intent, row.lang) for each, row in heard if each.clauses]
        most = max(FEWEST, MOST_ROWS // max(1, len({label for _, label, _ in told})))
        labelled = _newest(told, most)
        learnt = [(e, p) for e, p in zip(taught, unseen, strict=True) if p is not None]
        for label, group in _groups(learnt, outcomes, topic_of):
            have = sum(name == label for _, name, _ in labelled)
            wanted = MOST_IDLE if label == NOTHING else max(0, FEWEST - have)
            for number in random.permutation(len(group))[:wanted]:
                example, prediction = group[int(number)]
                labelled.append((_Heard(example.text, (), (prediction,)), label, example.lang))
        classes = sorted({label for _, label, _ in labelled})
        if len(set(classes) - {NOTHING}) < 2:
            return None
        progress(f"Training the routing on {len(labelled)} texts")
        texts = [each for each, _, _ in labelled]
        folded = [fold(each.text) for each in texts]
        labels = np.array([classes.index(label) for _, label, _ in labelled])
        with threadpool_limits(1):
            embedding, _ = Embedding.fit(encoder, None, folded)
            named = sorted({name for each in texts for said in each.intents for name, _ in said.ranking})
            lesson = _Lesson.empty(classes, named, folded)
            rows = reader.read(texts, embedding, lesson)
            coefficients, left_out = _fit(rows, labels, len(classes))
        temperature = _temperature(left_out, labels)
        lesson = replace(lesson, rows=rows, coefficients=coefficients.astype(np.float32), temperature=temperature)
        rehearsed = []
        for row, (_, label, lang) in zip(softmax(temperature * left_out, axis=1), labelled, strict=True):
            topical = [share if name != NOTHING else -1.0 for name, share in zip(classes, row, strict=True)]
            order = sorted(range(len(classes)), key=lambda at: -topical[at])
            if label != NOTHING:
                best = tuple(classes[at] for at in order[:2])
                rehearsed.append(Rehearsed(lang, label, best, float(row[order[0]])))
        return cls(lesson, embedding, reader, threshold=_threshold(rehearsed), rehearsed=rehearsed)

    def figures(self, lang: str) -> dict[str, float | None]:
        """Of the tickets in a language, each while it was left out."""
        mine = [each for each in self.rehearsed if each.lang == lang]
        routed = [each for each in mine if each.probability >= self.threshold]
        return {
            "tickets": len(mine),
            "tickets_routed_right": round(sum(each.right for each in routed) / len(mine), 4) if mine else None,
            "tickets_to_be_clarified": round(1 - len(routed) / len(mine), 4) if mine else None,
        }

    def save(self, folder: Path) -> None:
        """Write into an existing folder."""
        self._embedding.save(folder / "embedding.npz")
        save_npz(folder / "words.npz", self._lesson.rows.words)
        np.savez(
            folder / "lesson.npz",
            meaning=self._lesson.rows.meaning,
            intents=self._lesson.rows.intents,
            keywords=self._lesson.rows.keywords,
            weights=self._lesson.lexical.weights,
            coefficients=self._lesson.coefficients,
        )
        described = {
            "format": _FORMAT,
            "encoder": self._embedding.fingerprint,
            "classes": self._lesson.classes,
            "intents": self._lesson.intents,
            "temperature": self._lesson.temperature,
            "threshold": self.threshold,
        }
        (folder / "routing.json").write_text(json.dumps(described, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        topics: Topics,
        intents: IntentEngine,
        outcomes: Mapping[str, Outcome],
        encoder: Encoder,
    ) -> TopicModel:
        """Read what `save` wrote. Raises ModelDamaged, EncoderMismatch."""
        try:
            described = json.loads((folder / "routing.json").read_text(encoding="utf-8"))
            if described["format"] != _FORMAT:
                raise ModelDamaged(f"{folder}: format {described['format']}, not {_FORMAT}. Train again.")
            if described["encoder"] != encoder.fingerprint:
                raise EncoderMismatch(described["encoder"], encoder.fingerprint)
            saved = read_arrays(folder / "lesson.npz")
            words = read_sparse(folder / "words.npz")
            lesson = _Lesson(
                tuple(described["classes"]),
                tuple(described["intents"]),
                LexicalFeatures(saved["weights"]),
                _Rows(saved["meaning"], words, saved["intents"], saved["keywords"]),
                saved["coefficients"],
                float(described["temperature"]),
            )
            embedding = Embedding.load(folder / "embedding.npz", encoder, None)
            threshold = float(described["threshold"])
        except (OSError, ValueError, KeyError, TypeError, BadZipFile) as error:
            raise ModelDamaged(f"{folder} has no whole routing model ({error}). Train again.") from error
        return cls(lesson, embedding, _Reader(topics, outcomes, intents), threshold=threshold)


@dataclass(frozen=True)
class _Heard:
    """A text, those of its clauses that tell something, and what the intents make of it and then of each of them."""

    text: str
    clauses: tuple[str, ...]
    intents: tuple[IntentPrediction, ...]


@dataclass(frozen=True)
class _Rows:
    """k texts as the kernel compares them: unit rows of meaning, words and intents; keywords between 0 and 1."""

    meaning: Matrix
    words: csr_matrix
    intents: Matrix
    keywords: Matrix


@dataclass(frozen=True)
class _Lesson:
    """What was learnt. `intents`: the columns of `rows.intents`. `coefficients`: (len(rows), len(classes))."""

    classes: tuple[str, ...]
    intents: tuple[str, ...]
    lexical: LexicalFeatures
    rows: _Rows
    coefficients: Matrix
    temperature: float

    @classmethod
    def empty(cls, classes: Sequence[str], intents: Sequence[str], folded: Sequence[str]) -> _Lesson:
        none = np.zeros((0, 0), np.float32)
        rows = _Rows(none, csr_matrix((0, 0)), none, none)
        return cls(tuple(classes), tuple(intents), LexicalFeatures.fit(folded), rows, none, 1.0)


class _Reader:
    """Makes rows of texts."""

    def __init__(self, topics: Topics, outcomes: Mapping[str, Outcome], intents: IntentEngine) -> None:
        self._topics = topics
        self._intents = intents
        self._idle = {name for name, outcome in outcomes.items() if outcome.reply or outcome.handoff == ANY_TOPIC}

    def hear(self, texts: Sequence[str]) -> list[_Heard]:
        """A clause that only greets or calls for a person tells nothing."""
        parts = [_clauses(text) for text in texts]
        asked = list(dict.fromkeys([*texts, *(clause for clauses in parts for clause in clauses)]))
        said = dict(zip(asked, self._intents.predict(asked), strict=True))
        idle = {text for text, what in said.items() if what.intent in self._idle and what.confidence >= EVEN}
        kept = [
            tuple(clause for clause in clauses or [text] if clause not in idle)
            for text, clauses in zip(texts, parts, strict=True)
        ]
        return [
            _Heard(text, clauses, (said[text], *(said[clause] for clause in clauses)))
            for text, clauses in zip(texts, kept, strict=True)
        ]

    def read(self, heard: Sequence[_Heard], embedding: Embedding, lesson: _Lesson) -> _Rows:
        folded = [fold(each.text) for each in heard]
        place = {name: number for number, name in enumerate(lesson.intents)}
        counts = [count_keywords(self._topics, [each.text]) for each in heard]
        keywords = [[min(each.get(name, 0), _MOST_KEYWORDS) for name in lesson.classes] for each in counts]
        return _Rows(
            np.stack([_together(embedding.rows([fold(t) for t in (each.text, *each.clauses)])) for each in heard]),
            lesson.lexical.transform(folded),
            np.stack([_together(_named(each.intents, place)) for each in heard]),
            np.array(keywords, np.float32) / _MOST_KEYWORDS,
        )


def _named(said: Sequence[IntentPrediction], place: Mapping[str, int]) -> Matrix:
    """Unit rows of the intents' probabilities."""
    rows = np.zeros((len(said), len(place)), np.float32)
    for row, prediction in zip(rows, said, strict=True):
        for name, probability in prediction.ranking:
            if name in place:
                row[place[name]] = np.sqrt(probability)
    return _unit(rows)


def _together(rows: Matrix) -> Matrix:
    """The unit row of a text (the first of the given) and its clauses (the others), which count as much as it."""
    clauses = _unit(rows[1:].mean(axis=0)) if len(rows) > 1 else 0
    return _unit(rows[0] + clauses)


def _unit(rows: Matrix) -> Matrix:
    unit: Matrix = rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-9)
    return unit


def _clauses(text: str) -> list[str]:
    return [part.strip() for part in _CLAUSES.split(text) if re.search(r"\w{2,}", part)][:MOST_CLAUSES]


def _distinct(rows: Iterable[Example]) -> dict[str, Example]:
    """By their text; the last of equal ones counts: what an agent corrected comes after the seed."""
    return {row.text: row for row in rows}


def _groups(
    known: Sequence[tuple[Example, IntentPrediction]], outcomes: Mapping[str, Outcome], topic_of: Mapping[str, str]
) -> Iterable[tuple[str, Sequence[tuple[Example, IntentPrediction]]]]:
    """The intents' examples and the articles' questions by topic; `NOTHING` has what is no matter for anybody."""
    groups: dict[str, list[tuple[Example, IntentPrediction]]] = {}
    for example, prediction in known:
        outcome = outcomes.get(example.intent)
        idle = example.intent in OUT_OF_SCOPE_INTENTS or (
            outcome is not None and bool(outcome.reply or outcome.handoff == ANY_TOPIC)
        )
        label = NOTHING if idle else topic_of.get(example.intent)
        if label:
            groups.setdefault(label, []).append((example, prediction))
    return sorted(groups.items())


def _kernel(rows: _Rows, others: _Rows) -> Matrix:
    """How alike each of k texts is to each of n: (k, n)."""
    alike = _MEANING * (rows.meaning @ others.meaning.T)
    alike += _WORDS * (rows.words @ others.words.T).toarray()
    alike += _INTENTS * (rows.intents @ others.intents.T)
    alike += _KEYWORDS * (rows.keywords @ others.keywords.T)
    near = (1 + alike) / 2
    kernel: Matrix = near * near * near
    return kernel


def _fit(rows: _Rows, labels: NDArray[np.int64], classes: int) -> tuple[Matrix, Matrix]:
    """The coefficients, and the scores of each row if it and those that say nearly the same had not been learnt."""
    targets = np.where(labels[:, None] == np.arange(classes), 1, 0) - 1 / classes
    inverse = inv(_kernel(rows, rows).astype(np.float64) + _RIDGE * np.eye(len(labels)), assume_a="pos")
    coefficients = inverse @ targets
    left_out = targets - coefficients / np.diag(inverse)[:, None]
    _, group = connected_components(csr_matrix(rows.meaning @ rows.meaning.T > _SAME), directed=False)
    order = np.argsort(group, kind="stable")
    for same in np.split(order, np.flatnonzero(np.diff(group[order])) + 1):
        if len(same) > 1:
            left_out[same] = targets[same] - np.linalg.solve(inverse[np.ix_(same, same)], coefficients[same])
    return coefficients, left_out


def _temperature(scores: Matrix, labels: NDArray[np.int64]) -> float:
    """What the scores are multiplied by to make the right classes likeliest."""

    def loss(temperature: float) -> float:
        return float(-log_softmax(temperature * scores, axis=1)[np.arange(len(labels)), labels].mean())

    return float(minimize_scalar(loss, bounds=(0.1, 50), method="bounded").x)


def _newest(rows: Sequence[tuple[Text, str, str | None]], most: int) -> list[tuple[Text, str, str | None]]:
    """At most so many of each label, the last ones, in the same order."""
    left = Counter(label for _, label, _ in rows)
    kept = []
    for row in rows:
        if left[row[1]] <= most:
            kept.append(row)
        left[row[1]] -= 1
    return kept


def _threshold(rehearsed: Sequence[Rehearsed]) -> float:
    precise = lowest_threshold(((each.probability, each.right) for each in rehearsed), PRECISION)
    patient = float(np.quantile([each.probability for each in rehearsed], MOST_UNCLEAR))
    return min(precise, patient)
