"""From evidence to order and confidence.

Each candidate article has one row of evidence (EVIDENCE below). A linear scorer orders the candidates; a logistic model
then turns what stands at the top into the probability that it answers the text. Both are learned in ranker_training.py
and kept as JSON; without training a fixed fusion of normalised scores takes their place, and its confidence is low.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kb_index.errors import RankerError

Matrix = NDArray[np.float64]
Vector = NDArray[np.float64]

EVIDENCE = (
    "question",  # cosine of the nearest example question or title
    "questions",  # mean cosine of the three nearest
    "memory",  # what all example questions together say (memory.py)
    "passage",  # cosine of the nearest passage
    "sentence",  # cosine of the nearest sentence of a passage
    "words",  # BM25 of the best passage, as a share of what is attainable
    "sentence_words",  # the same of the best sentence
    "question_words",  # the same of the best question
    "parts",  # BM25 over parts of words, best passage
    "question_parts",  # the same, best question
    "intent",  # probability that the intent classifier gives the article
)
_FORMAT = 2
_COSINE_SCALE = 0.012
_MEMORY = 10.0
_INTENT = 2.0
_LEXICAL = {"words": 0.4, "sentence_words": 0.4, "parts": 0.7, "question_words": 0.3, "question_parts": 0.4}
_LEXICAL_COLUMNS = [EVIDENCE.index(name) for name in _LEXICAL]
_LEXICAL_WEIGHTS = np.array([*_LEXICAL.values()])


def _weights(of_questions: float, of_text: float) -> Vector:
    cosines = {"question": of_questions, "questions": of_questions, "passage": of_text, "sentence": of_text}
    weights = {name: share / _COSINE_SCALE for name, share in cosines.items()}
    return np.array([{**weights, "memory": _MEMORY, "intent": _INTENT}.get(name, 0.0) for name in EVIDENCE])


_ASKED, _NEVER_ASKED = _weights(0.25, 0.25), _weights(0.0, 0.5)  # an article without questions is judged by its text
_BUILT_IN_CEILING = 0.5  # an untrained fusion cannot know how often it is right


@dataclass(frozen=True)
class Linear:
    """Weights for standardised features: (x - centre) / scale · weights + bias."""

    centre: tuple[float, ...]
    scale: tuple[float, ...]
    weights: tuple[float, ...]
    bias: float = 0.0

    def __call__(self, features: Matrix) -> Vector:
        standard = (features - np.array(self.centre)) / np.array(self.scale)
        result: Vector = standard @ np.array(self.weights) + self.bias
        return result


@dataclass(frozen=True)
class Ranking:
    """Candidates in order, the best first: `order` are row numbers, `confidences` fall from first to last."""

    order: NDArray[np.int64]
    scores: Vector
    confidences: Vector


@dataclass(frozen=True)
class Ranker:
    """Orders candidates by their evidence. `scorer` and `judge` are None in the built-in one."""

    scorer: Linear | None = None
    judge: Linear | None = None
    trained_on: int = field(default=0)

    def rank(self, evidence: Matrix) -> Ranking:
        """Order the candidates of one query; `evidence` has a row for each and a column for each name of EVIDENCE."""
        if not len(evidence):
            return Ranking(np.zeros(0, np.int64), np.zeros(0), np.zeros(0))
        if self.scorer is None or self.judge is None:
            return self.rank_scored(evidence, built_in_scores(evidence))
        return self.rank_scored(evidence, self.scorer(scorer_features(evidence)))

    def rank_scored(self, evidence: Matrix, scores: Vector) -> Ranking:
        """The same where the scorer's scores are known; there is at least one candidate."""
        order = np.argsort(-scores, kind="stable")
        shares = softmax(scores[order])
        if self.judge is None:
            confidences = _BUILT_IN_CEILING * shares
        else:
            confidences = sigmoid(self.judge(judge_features(evidence[order], scores[order])))
        return Ranking(order, scores[order], np.minimum.accumulate(confidences))

    def contributions(self, evidence: Matrix) -> Matrix:
        """How much each kind of evidence (columns) lifts each candidate's score (rows) above the candidates' mean."""
        parts = built_in_parts(evidence)
        if self.scorer is not None:
            rates = np.array(self.scorer.weights) / np.array(self.scorer.scale)
            weighed = scorer_features(evidence)[:, 1:] * rates[1:]
            kinds = weighed.reshape(len(evidence), -1, len(EVIDENCE))
            parts = parts * rates[0] + kinds.sum(axis=1)
        centred: Matrix = parts - parts.mean(axis=0)
        return centred

    def save(self, path: Path) -> None:
        """Write as JSON. The built-in ranker is written too."""
        path.write_text(
            json.dumps(
                {
                    "format": _FORMAT,
                    "evidence": EVIDENCE,
                    "trained_on": self.trained_on,
                    "scorer": vars(self.scorer) if self.scorer else None,
                    "judge": vars(self.judge) if self.judge else None,
                },
                indent=1,
            ),
            "utf-8",
        )

    @classmethod
    def load(cls, path: Path) -> "Ranker":
        """Read what `save` wrote. Raises RankerError when the file is missing, torn or of another format."""
        try:
            kept = json.loads(path.read_text("utf-8"))
            if kept["format"] != _FORMAT or tuple(kept["evidence"]) != EVIDENCE:
                raise RankerError(f"{path}: the ranker has another format. Train it again.")
            return cls(_linear(kept["scorer"]), _linear(kept["judge"]), int(kept["trained_on"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RankerError(f"{path}: the ranker cannot be read ({error}). Train it again.") from error


def built_in_scores(evidence: Matrix) -> Vector:
    """A fixed fusion: cosines on one scale, lexical scores by how far they stand out, both weighed as they earn it.

    A lexical score that stands out counts in full when half of what the text says was found, and less below that:
    one chance word in common must not decide. The scales were chosen on development questions.
    """
    scores: Vector = built_in_parts(evidence).sum(axis=1)
    return scores


def built_in_parts(evidence: Matrix) -> Matrix:
    """What each kind of evidence adds to the built-in score: a row for each candidate, columns as in EVIDENCE."""
    parts: Matrix = evidence * np.where(evidence[:, :1] > 0, _ASKED, _NEVER_ASKED)
    values = evidence[:, _LEXICAL_COLUMNS]
    standing = _standing(values, -3.0, 6.0)
    parts[:, _LEXICAL_COLUMNS] = _LEXICAL_WEIGHTS * np.minimum(1.0, 2 * values.max(axis=0)) * standing
    return parts


def standardised(evidence: Matrix) -> Matrix:
    """Each column centred and scaled over the candidates of the query; a constant column becomes 0."""
    return _standing(evidence, -4.0, 4.0)


def _standing(values: Matrix, least: float, most: float) -> Matrix:
    # By hand: on so few rows numpy's std and clip take several times as long.
    centred = values - values.mean(axis=0)
    spread = np.sqrt(np.square(centred).mean(axis=0))
    result: Matrix = centred / np.where(spread > 1e-6, spread, np.inf)
    return np.minimum(np.maximum(result, least), most)


def scorer_features(evidence: Matrix) -> Matrix:
    """The built-in score, then evidence as it is, standardised within the query, and as a lead over the best other."""
    return np.hstack([built_in_scores(evidence)[:, None], evidence, standardised(evidence), leads(evidence)])


def leads(evidence: Matrix) -> Matrix:
    """Each value less the best value of the other candidates (0 for a lone one)."""
    if len(evidence) < 2:
        return np.zeros_like(evidence)
    second, first = np.partition(evidence, -2, axis=0)[-2:]
    result: Matrix = evidence - np.where(evidence >= first, second, first)
    return result


def judge_features(evidence: Matrix, scores: Vector) -> Matrix:
    """What tells whether a candidate is right: its evidence, leads, and how its score stands among the others."""
    shares = np.clip(softmax(scores), 1e-6, 1 - 1e-6)
    score_leads = leads(scores[:, None])
    return np.hstack([evidence, leads(evidence), scores[:, None], score_leads, np.log(shares / (1 - shares))[:, None]])


def softmax(scores: Vector) -> Vector:
    """Shares that add up to 1."""
    powers = np.exp(scores - scores.max())
    result: Vector = powers / powers.sum()
    return result


def sigmoid(values: Vector) -> Vector:
    """The logistic function, safe for any finite value."""
    result: Vector = 0.5 * (1 + np.tanh(0.5 * values))
    return result


def _linear(kept: dict[str, Sequence[float] | float] | None) -> Linear | None:
    if kept is None:
        return None
    numbers = {key: tuple(map(float, kept[key])) for key in ("centre", "scale", "weights")}  # type: ignore[arg-type]
    return Linear(**numbers, bias=float(kept["bias"]))  # type: ignore[arg-type]
