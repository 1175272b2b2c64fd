"""Tells the topic of a ticket from all that the customer said.

A text is compared with tickets whose topic is known (`topics/` of the data folder, and what agents corrected) by its
meaning and by its words. The mean of the two likenesses, squared, is the kernel of a ridge regression on the topics;
squared, because they confirm each other. One class more, `NOTHING`, stands for words that tell no topic.

What the model says of a ticket that it has not seen follows from the fit itself (Rifkin and Lippert 2007, "Notes on
regularized least squares"), here for each ticket together with those that say nearly the same. From it come the
temperature that makes the scores probabilities, the threshold and the figures.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.lapack import spotrf, spotrs, strtri
from scipy.optimize import minimize_scalar
from scipy.sparse import csr_matrix, save_npz
from scipy.sparse.csgraph import connected_components
from scipy.special import log_softmax, softmax
from threadpoolctl import threadpool_limits

from bot.dialogue import ANY_TOPIC, Outcome
from bot.models.calibration import lowest_threshold
from handoff.routing import Topics
from nlu.arrays import read_arrays, read_sparse
from nlu.embedding import Embedding
from nlu.encoder import Encoder
from nlu.errors import EncoderMismatch, ModelDamaged
from nlu.features import LexicalFeatures, fold
from nlu.training_data import OUT_OF_SCOPE_INTENTS, Example

NOTHING: Final = "nothing"
PRECISION: Final = 0.9
"""Share of the routed tickets that must have the right topic; the others are «to be clarified» …"""
MOST_UNCLEAR: Final = 0.08
"""… but no more than this share of the tickets: the customer waits while a person sorts."""
IDLE_ROUTED: Final = 0.05
"""So few of the texts that tell no topic may be routed …"""
MOST_SILENCED: Final = 0.02
"""… but no more than this share of the tickets may be «to be clarified» for their sake."""
FEWEST: Final = 150
"""A topic with fewer tickets to learn from also learns from its intents' examples and its articles' questions."""
MOST_IDLE: Final = 1000
OLDER: Final = 0.6
"""What each earlier message counts, against the next one."""
MOST_TEXTS: Final = 6
MOST_REHEARSED: Final = 3000
"""What the model says of tickets that it has not seen is found out for about so many."""
MOST_ROWS: Final = 14_000
"""Training takes 4 bytes for each pair of rows and time with their cube: each topic keeps its newest."""
# A flat optimum on tickets of other hands, see docs/decisions/0013-routing.md.
_RIDGE: Final = 0.05
_RIDGE_OUTSIDE: Final = 1.0
"""What is out of the assistant's scope may still be somebody's matter: such examples are believed less."""
_FREQUENT: Final = 0.02
"""Words and parts of words that stand in more of the texts are no evidence."""
_SAME: Final = 0.6
"""The cosine of centred vectors from which on two tickets are left out together."""
_IDLE: Final = 0.7
"""The same, from which on a text only greets or calls for a person, as an example of that does: it teaches no topic,
whatever an agent made of it."""
_BLOCK: Final = 1024
_THREADS: Final = 2
"""On every machine, for their number decides the last bits."""

_FORMAT: Final = 4

Matrix = NDArray[np.floating[Any]]


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
        self, lesson: _Lesson, *, threshold: float, learnt: str, figures: Mapping[str, Mapping[str, float | None]]
    ) -> None:
        """learnt: a digest of all that it learnt from."""
        self.threshold = threshold
        self._lesson, self._learnt, self._figures = lesson, learnt, figures
        self.rehearsed: Sequence[Rehearsed] = ()
        """Of a model that was just trained: its tickets, each while it was left out."""

    def rank(self, texts: Sequence[str]) -> list[tuple[str, float]]:
        """Topics with their probabilities, the likeliest first; what is left to 1 is that nothing tells one.

        texts: what the customer said, newest first; what he said last counts most.
        """
        said = [text for text in texts if text.strip()][:MOST_TEXTS]
        if not said:
            return []
        classes = self._lesson.classes
        each = softmax(self._lesson.temperature * self._lesson.scores([fold(text) for text in said]), axis=1)
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
        taught: Sequence[Example],
        outcomes: Mapping[str, Outcome],
        topic_of: Mapping[str, str],
        encoder: Encoder,
        seed: int = 0,
        earlier: Path | None = None,
        progress: Callable[[str], None] = lambda _: None,
    ) -> TopicModel | None:
        """tickets: texts whose `intent` is a topic, the newest last. taught: what the intents learn from. earlier: the
        folder of a model that is taken as it is if it learnt from the very same. None where fewer than two topics have
        anything to learn from."""
        random = np.random.default_rng(seed)
        known = _distinct(row for row in tickets if row.intent in topics.all and row.intent != topics.default.id)
        most = max(FEWEST, MOST_ROWS // max(1, len({row.intent for row in known})))
        rows = _newest(known, most)
        have = Counter(row.intent for row in rows)
        groups = _groups(taught, outcomes, topic_of)
        for label, group in groups:
            wanted = MOST_IDLE if label == NOTHING else max(0, FEWEST - have[label])
            chosen = [group[int(number)] for number in random.permutation(len(group))[:wanted]]
            rows += [Example(each.text, label, each.lang) for each in chosen]
        idle = {each.text: None for each in taught if _is_idle(outcomes.get(each.intent))}
        if len({row.intent for row in rows} - {NOTHING}) < 2:
            return None
        learnt = _digest(rows, idle)
        if same := _earlier(earlier, learnt, encoder):
            progress("The routing has nothing new to learn")
            return same
        progress(f"Training the routing on {len(rows)} texts")
        return _fitted(rows, idle, encoder, learnt, random)

    def figures(self, lang: str) -> Mapping[str, float | None]:
        """Of the tickets in a language, each while it was left out."""
        return self._figures.get(lang, {})

    def save(self, folder: Path) -> None:
        """Write into an existing folder."""
        self._lesson.embedding.save(folder / "embedding.npz")
        save_npz(folder / "words.npz", self._lesson.words)
        np.savez(
            folder / "lesson.npz",
            meaning=self._lesson.meaning,
            weights=self._lesson.lexical.weights,
            coefficients=self._lesson.coefficients,
        )
        described = {
            "format": _FORMAT,
            "encoder": self._lesson.embedding.fingerprint,
            "learnt": self._learnt,
            "classes": self._lesson.classes,
            "temperature": self._lesson.temperature,
            "threshold": self.threshold,
            "figures": self._figures,
        }
        (folder / "routing.json").write_text(json.dumps(described, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, encoder: Encoder) -> TopicModel:
        """Read what `save` wrote. Raises ModelDamaged, EncoderMismatch."""
        try:
            described = json.loads((folder / "routing.json").read_text(encoding="utf-8"))
            if described["format"] != _FORMAT:
                raise ModelDamaged(f"{folder}: format {described['format']}, not {_FORMAT}. Train again.")
            if described["encoder"] != encoder.fingerprint:
                raise EncoderMismatch(described["encoder"], encoder.fingerprint)
            saved = read_arrays(folder / "lesson.npz")
            lesson = _Lesson(
                tuple(described["classes"]),
                Embedding.load(folder / "embedding.npz", encoder, None),
                LexicalFeatures(saved["weights"]),
                saved["meaning"],
                read_sparse(folder / "words.npz"),
                saved["coefficients"],
                float(described["temperature"]),
            )
            return cls(
                lesson,
                threshold=float(described["threshold"]),
                learnt=str(described["learnt"]),
                figures=dict(described["figures"]),
            )
        except (OSError, ValueError, KeyError, TypeError, BadZipFile) as error:
            raise ModelDamaged(f"{folder} has no whole routing model ({error}). Train again.") from error


class _Lesson:
    """What was learnt: of n texts the unit rows of meaning and words, and the coefficients (n, len(classes))."""

    def __init__(
        self,
        classes: tuple[str, ...],
        embedding: Embedding,
        lexical: LexicalFeatures,
        meaning: Matrix,
        words: csr_matrix,
        coefficients: Matrix,
        temperature: float,
    ) -> None:
        self.classes, self.embedding, self.lexical = classes, embedding, lexical
        self.meaning, self.words, self.coefficients = meaning, words, coefficients
        self.temperature = temperature
        self._columns = words.T.tocsr()  # by words, so that a text touches its own alone

    def scores(self, folded: Sequence[str]) -> Matrix:
        """(k, len(classes))"""
        # One by one: the encoder remembers the few texts of a message, so that each is encoded once.
        meaning = np.concatenate([self.embedding.rows([text]) for text in folded])
        words = (self.lexical.transform(folded) @ self._columns).toarray()
        scores: Matrix = _squared(meaning @ self.meaning.T, words) @ self.coefficients
        return scores


def _fitted(
    rows: Sequence[Example], idle: Collection[str], encoder: Encoder, learnt: str, random: np.random.Generator
) -> TopicModel:
    with threadpool_limits(_THREADS):
        embedding, meaning = Embedding.fit(encoder, None, [fold(row.text) for row in rows])
        if idle:
            tells = (meaning @ embedding.rows([fold(text) for text in idle]).T).max(axis=1) < _IDLE
            kept = [at for at, row in enumerate(rows) if row.intent == NOTHING or tells[at]]
            rows, meaning = [rows[at] for at in kept], meaning[kept]
        classes = tuple(sorted({row.intent for row in rows}))
        labels = np.array([classes.index(row.intent) for row in rows])
        lexical, words = LexicalFeatures.fit([fold(row.text) for row in rows], most=_FREQUENT)
        tried = _tried(meaning, MOST_REHEARSED, random)
        outside = [row.intent == NOTHING and row.text not in idle for row in rows]
        ridge = np.where(outside, np.float32(_RIDGE_OUTSIDE), np.float32(_RIDGE))
        coefficients, left_out = _fit(meaning, words, labels, len(classes), ridge=ridge, tried=tried)
    temperature = _temperature(left_out, labels[tried])
    chances = softmax(temperature * left_out, axis=1)
    topical = [name != NOTHING for name in classes]
    rehearsed, strayed = [], []
    for at, shares in zip(tried, np.where(topical, chances, -1.0), strict=True):
        row = rows[at]
        order = np.argsort(-shares)
        if row.intent == NOTHING:
            strayed.append(float(shares[order[0]]))
        else:
            named = tuple(classes[number] for number in order[:2])
            rehearsed.append(Rehearsed(row.lang, row.intent, named, float(shares[order[0]])))
    threshold = _threshold(rehearsed, strayed)
    lesson = _Lesson(classes, embedding, lexical, meaning, words, coefficients, temperature)
    languages = sorted({row.lang for row in rows if row.lang})
    figures = {lang: _figures([each for each in rehearsed if each.lang == lang], threshold) for lang in languages}
    made = TopicModel(lesson, threshold=threshold, learnt=learnt, figures=figures)
    made.rehearsed = rehearsed
    return made


def _fit(
    meaning: Matrix, words: csr_matrix, labels: NDArray[np.int64], classes: int, *, ridge: Matrix, tried: NDArray[Any]
) -> tuple[Matrix, Matrix]:
    """The coefficients (n, classes), and the scores of each row in `tried` if it and those in there that say nearly
    the same had not been learnt. ridge: how little each row is believed."""
    targets = (np.where(labels[:, None] == np.arange(classes), 1, 0) - 1 / classes).astype(np.float32)
    # The last rows of a triangular factor tell alone what is said of them when they are left out.
    order = np.concatenate([np.setdiff1d(np.arange(len(labels)), tried), tried])
    kernel = _kernel(meaning[order], words[order])
    kernel[np.diag_indices(len(labels))] += ridge[order]
    # LAPACK counts along columns, so that it finds the lower triangle in the upper one, without a copy.
    factor, failed = spotrf(kernel.T, lower=0, overwrite_a=1, clean=0)
    if failed:
        raise ValueError("the kernel is not positive definite")
    coefficients = np.empty_like(targets)
    coefficients[order], _ = spotrs(factor, targets[order], lower=0)
    root, _ = strtri(np.triu(factor[-len(tried) :, -len(tried) :]), lower=0)
    inverse = root @ root.T
    own, wanted = coefficients[tried], targets[tried]
    left_out = wanted - own / np.diag(inverse)[:, None]
    for same in _alike(meaning[tried]):
        left_out[same] = wanted[same] - np.linalg.solve(inverse[np.ix_(same, same)], own[same])
    return coefficients, left_out


def _kernel(meaning: Matrix, words: csr_matrix) -> NDArray[np.float32]:
    """(n, n), its lower triangle alone."""
    kernel = np.empty((len(meaning), len(meaning)), np.float32)
    for start in range(0, len(meaning), _BLOCK):
        part, until = slice(start, start + _BLOCK), min(start + _BLOCK, len(meaning))
        kernel[part, :until] = _squared(meaning[part] @ meaning[:until].T, (words[part] @ words[:until].T).toarray())
    return kernel


def _tried(meaning: Matrix, most: int, random: np.random.Generator) -> NDArray[np.int64]:
    """About so many rows by chance, with all that say nearly the same."""
    if len(meaning) <= most:
        return np.arange(len(meaning))
    chosen = random.permutation(len(meaning))[:most]
    near = np.zeros(len(meaning), np.bool_)
    for part in np.array_split(chosen, -(-most // _BLOCK)):
        near |= (meaning[part] @ meaning.T > _SAME).any(axis=0)
    near[chosen] = True
    return np.flatnonzero(near)


def _alike(meaning: Matrix) -> list[NDArray[np.int64]]:
    """The groups of rows that say nearly the same."""
    _, group = connected_components(csr_matrix(meaning @ meaning.T > _SAME), directed=False)
    order = np.argsort(group, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(group[order])) + 1)
    return [each for each in groups if len(each) > 1]


def _squared(meaning: Matrix, words: Matrix) -> Matrix:
    """The kernel of two likenesses; overwrites the first."""
    meaning += words
    meaning += 2
    meaning *= 0.25
    meaning *= meaning
    return meaning


def _distinct(rows: Iterable[Example]) -> list[Example]:
    """By their text; the last of equal ones counts: what an agent corrected comes after the seed."""
    return list({row.text: row for row in rows}.values())


def _newest(rows: Sequence[Example], most: int) -> list[Example]:
    """At most so many of each topic, the last ones, in the same order."""
    left = Counter(row.intent for row in rows)
    kept = []
    for row in rows:
        if left[row.intent] <= most:
            kept.append(row)
        left[row.intent] -= 1
    return kept


def _groups(
    taught: Sequence[Example], outcomes: Mapping[str, Outcome], topic_of: Mapping[str, str]
) -> Sequence[tuple[str, Sequence[Example]]]:
    """The intents' examples and the articles' questions by topic; `NOTHING` has what is no matter for anybody."""
    groups: dict[str, list[Example]] = {}
    for example in taught:
        idle = example.intent in OUT_OF_SCOPE_INTENTS or _is_idle(outcomes.get(example.intent))
        if label := NOTHING if idle else topic_of.get(example.intent):
            groups.setdefault(label, []).append(example)
    return sorted(groups.items())


def _is_idle(outcome: Outcome | None) -> bool:
    """Of an intent: it greets, thanks or calls for a person, whatever about."""
    return outcome is not None and bool(outcome.reply or outcome.handoff == ANY_TOPIC)


def _digest(rows: Sequence[Example], idle: Iterable[str]) -> str:
    told = json.dumps([[(row.text, row.intent, row.lang) for row in rows], list(idle)], ensure_ascii=False)
    return hashlib.sha256(told.encode("utf-8", "surrogatepass")).hexdigest()


def _earlier(folder: Path | None, learnt: str, encoder: Encoder) -> TopicModel | None:
    """The model that lies there, if it would be made again to the last bit."""
    try:
        found = TopicModel.load(folder, encoder) if folder else None
    except (ModelDamaged, EncoderMismatch):
        return None
    return found if found and found._learnt == learnt else None


def _temperature(scores: Matrix, labels: NDArray[np.int64]) -> float:
    """What the scores are multiplied by to make the right classes likeliest."""

    def loss(temperature: float) -> float:
        return float(-log_softmax(temperature * scores, axis=1)[np.arange(len(labels)), labels].mean())

    return float(minimize_scalar(loss, bounds=(0.1, 50), method="bounded").x)


def _threshold(rehearsed: Sequence[Rehearsed], strayed: Sequence[float]) -> float:
    """strayed: the probability of the likeliest topic for each text that tells none."""
    chances = [each.probability for each in rehearsed]
    precise = lowest_threshold(((each.probability, each.right) for each in rehearsed), PRECISION)
    silent = float(np.quantile(strayed, 1 - IDLE_ROUTED)) if strayed else 0.0
    return max(
        min(precise, float(np.quantile(chances, MOST_UNCLEAR))), min(silent, float(np.quantile(chances, MOST_SILENCED)))
    )


def _figures(rehearsed: Sequence[Rehearsed], threshold: float) -> dict[str, float | None]:
    routed = [each for each in rehearsed if each.probability >= threshold]
    count = len(rehearsed)
    return {
        "tickets": count,
        "tickets_routed_right": round(sum(each.right for each in routed) / count, 4) if count else None,
        "tickets_to_be_clarified": round(1 - len(routed) / count, 4) if count else None,
    }
