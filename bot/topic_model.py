"""Tells the topic of a ticket from all that the customer said: three witnesses, heard together.

The first has learnt from tickets (`topics/` of the data folder, and what agents corrected), the second is what the
intents say, the third the keywords of topics.yml. Their logarithmic opinion pool (Genest and Zidek 1986, "Combining
Probability Distributions") has three weights, fitted on tickets that none of them had seen, which makes its
probabilities calibrated too. One class more, `NOTHING`, stands for words that tell no topic.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from bot.calibration import lowest_threshold
from bot.dialogue import ANY_TOPIC, Outcome
from bot.understanding import IntentEngine
from handoff.routing import Topics, count_keywords
from nlu.encoder import Encoder
from nlu.errors import ModelDamaged
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
_FLOOR: Final = 1e-3
_MOST_KEYWORDS: Final = 2
_CLAUSES = re.compile(r"[,.;!?\n\u2013\u2014]+")

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Rehearsed:
    """How the model does on a ticket that it had not seen."""

    lang: str | None
    right: bool
    probability: float


class TopicModel:
    """Ranks topics for `handoff.routing`. Immutable; blocks on the CPU."""

    def __init__(
        self,
        *,
        topics: Topics,
        head: IntentClassifier,
        intents: IntentEngine,
        outcomes: Mapping[str, Outcome],
        topic_of: Mapping[str, str],
        weights: Sequence[float],
        threshold: float,
        rehearsed: Sequence[Rehearsed] = (),
    ) -> None:
        """intents: the second witness. topic_of: intent → its topic. weights: of the three witnesses.

        rehearsed: of a model that was just trained, its tickets while each was left out.
        """
        self.threshold = threshold
        self.rehearsed = rehearsed
        self._head, self._intents = head, intents
        self._witnesses = _Witnesses(topics, head.intents, outcomes, topic_of, intents)
        self._weights = np.array(weights)

    def rank(self, texts: Sequence[str]) -> list[tuple[str, float]]:
        """Topics with their probabilities, the likeliest first; what is left to 1 is that nothing tells one.

        texts: what the customer said, newest first; what he said last counts most.
        """
        said = [text for text in texts if text.strip()][:MOST_TEXTS]
        if not said:
            return []
        matters = self._witnesses.matters(said)
        features = self._witnesses.features(matters, self._head.predict(matters), self._intents.predict(matters))
        each = softmax(np.tensordot(self._weights, features, axes=1), axis=1)
        nothing = self._witnesses.classes.index(NOTHING) if NOTHING in self._witnesses.classes else None
        tells = OLDER ** np.arange(len(said)) * (1 - each[:, nothing] if nothing is not None else 1)
        together = tells @ each / max(float(tells.sum()), 1e-9)
        ranked = [
            (name, float(share))
            for name, share in zip(self._witnesses.classes, together, strict=True)
            if name != NOTHING
        ]
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
        companion: Encoder | None,
        seed: int = 0,
        progress: Callable[[str], None] = lambda _: None,
    ) -> TopicModel | None:
        """tickets: texts whose `intent` is a topic. taught, unseen: what the intents learn from, and what they make of
        each example that they had not seen. None where fewer than two topics have anything to learn from."""
        witnesses = _Witnesses(topics, (), outcomes, topic_of, intents)
        random = np.random.default_rng(seed)
        rows = _distinct(row for row in tickets if row.intent in topics.all and row.intent != topics.default.id)
        texts = dict(zip(rows, witnesses.matters(rows), strict=True))
        # What says nothing but "a person, please" teaches no topic, whatever an agent made of it.
        idle = witnesses.are_idle(list(rows))
        labelled = [
            (texts[text], row.intent, row.lang)
            for (text, row), alone in zip(rows.items(), idle, strict=True)
            if not alone
        ]
        predictions: list[IntentPrediction] = list(intents.predict([text for text, _, _ in labelled]))
        known = [(e, p) for e, p in zip(taught, unseen, strict=True) if p is not None]
        for label, group in _groups(known, outcomes, topic_of):
            have = sum(name == label for _, name, _ in labelled)
            wanted = MOST_IDLE if label == NOTHING else max(0, FEWEST - have)
            for number in random.permutation(len(group))[:wanted]:
                example, prediction = group[int(number)]
                labelled.append((example.text, label, example.lang))
                predictions.append(prediction)
        if len({label for _, label, _ in labelled} - {NOTHING}) < 2:
            return None
        progress(f"Training the routing on {len(labelled)} texts")
        lesson = [Example(text, label, lang) for text, label, lang in labelled]
        head = IntentClassifier.train(lesson, encoder, companion=companion, seed=seed)
        witnesses = _Witnesses(topics, head.intents, outcomes, topic_of, intents)
        features = witnesses.features([text for text, _, _ in labelled], head.cross_predict(), predictions)
        labels = np.array([witnesses.classes.index(label) for _, label, _ in labelled])
        weights = _fit(features, labels)
        probabilities = softmax(np.tensordot(weights, features, axes=1), axis=1)
        rehearsed = []
        for row, (_, label, lang) in zip(probabilities, labelled, strict=True):
            topical = [share if name != NOTHING else -1.0 for name, share in zip(witnesses.classes, row, strict=True)]
            best = int(np.argmax(topical))
            if label != NOTHING:
                rehearsed.append(Rehearsed(lang, witnesses.classes[best] == label, float(row[best])))
        return cls(
            topics=topics,
            head=head,
            intents=intents,
            outcomes=outcomes,
            topic_of=topic_of,
            weights=[float(weight) for weight in weights],
            threshold=_threshold(rehearsed),
            rehearsed=rehearsed,
        )

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
        self._head.save(folder)
        (folder / "pool.json").write_text(json.dumps({"weights": list(self._weights), "threshold": self.threshold}))

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        topics: Topics,
        intents: IntentEngine,
        outcomes: Mapping[str, Outcome],
        topic_of: Mapping[str, str],
        encoder: Encoder,
        companion: Encoder | None,
    ) -> TopicModel:
        """Read what `save` wrote. Raises ModelDamaged, EncoderMismatch."""
        try:
            pool = json.loads((folder / "pool.json").read_text(encoding="utf-8"))
            weights, threshold = [float(weight) for weight in pool["weights"]], float(pool["threshold"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelDamaged(f"{folder} has no whole routing model ({error}). Train again.") from error
        return cls(
            topics=topics,
            head=IntentClassifier.load(folder, encoder, companion),
            intents=intents,
            outcomes=outcomes,
            topic_of=topic_of,
            weights=weights,
            threshold=threshold,
        )


class _Witnesses:
    """What each witness says of a text, over the same classes."""

    def __init__(
        self,
        topics: Topics,
        classes: Sequence[str],
        outcomes: Mapping[str, Outcome],
        topic_of: Mapping[str, str],
        intents: IntentEngine,
    ) -> None:
        self.classes = list(classes)
        self._topics = topics
        self._topic_of = topic_of
        self._intents = intents
        self._idle = {name for name, outcome in outcomes.items() if outcome.reply or outcome.handoff == ANY_TOPIC}

    def matters(self, texts: Iterable[str]) -> list[str]:
        """Each text without the clauses that only greet or call for a person; whole where nothing else is in it."""
        texts = list(texts)
        parts = [_clauses(text) for text in texts]
        asked = [clause for clauses in parts if len(clauses) > 1 for clause in clauses]
        idle = dict(zip(asked, self._are_idle(asked), strict=True))
        kept = [[clause for clause in clauses if not idle.get(clause, False)] for clauses in parts]
        return [
            ", ".join(some) if some and len(some) < len(clauses) else text
            for text, clauses, some in zip(texts, parts, kept, strict=True)
        ]

    def are_idle(self, texts: Sequence[str]) -> list[bool]:
        """Of each text, whether it only greets or calls for a person."""
        parts = [_clauses(text) or [text] for text in texts]
        asked = list(dict.fromkeys(part for some in parts for part in some))
        idle = dict(zip(asked, self._are_idle(asked), strict=True))
        return [all(idle[part] for part in some) for some in parts]

    def _are_idle(self, texts: Sequence[str]) -> list[bool]:
        if not texts:
            return []
        return [p.intent in self._idle and p.confidence >= EVEN for p in self._intents.predict(texts)]

    def features(
        self, texts: Sequence[str], heads: Sequence[IntentPrediction], intents: Sequence[IntentPrediction]
    ) -> Matrix:
        """Of shape (3, len(texts), len(classes)): logarithms of two probabilities, and counts of keywords."""
        place = {name: number for number, name in enumerate(self.classes)}
        of_intent = {name: place.get(topic) for name, topic in self._topic_of.items()}
        found = np.zeros((3, len(texts), len(self.classes)))
        for row, (text, head, intent) in enumerate(zip(texts, heads, intents, strict=True)):
            for name, probability in head.ranking:
                found[0, row, place[name]] += probability
            for name, probability in intent.ranking:
                if (at := of_intent.get(name, place.get(NOTHING))) is not None:
                    found[1, row, at] += probability
            for name, count in count_keywords(self._topics, [text]).items():
                if name in place:
                    found[2, row, place[name]] = min(count, _MOST_KEYWORDS)
        found[:2] += _FLOOR
        found[:2] = np.log(found[:2] / found[:2].sum(axis=2, keepdims=True))
        return found


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


def _fit(features: Matrix, labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Weights that make the right classes likeliest; none below 0, so that no witness is turned round."""

    def loss(weights: NDArray[np.float64]) -> float:
        found = log_softmax(np.tensordot(weights, features, axes=1), axis=1)
        return float(-found[np.arange(len(labels)), labels].mean() + 1e-3 * weights @ weights)

    fitted: NDArray[np.float64] = minimize(loss, np.ones(3) / 2, method="L-BFGS-B", bounds=[(0, None)] * 3).x
    return fitted


def _threshold(rehearsed: Sequence[Rehearsed]) -> float:
    precise = lowest_threshold(((each.probability, each.right) for each in rehearsed), PRECISION)
    patient = float(np.quantile([each.probability for each in rehearsed], MOST_UNCLEAR))
    return min(precise, patient)
