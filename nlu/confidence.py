"""From evidence to probabilities: a temperature for the ranking, a logistic model for "right and in scope", thresholds.

Everything is fitted on predictions that the training rows got while they, or their whole class, were left out.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit, log_softmax, softmax

from nlu.kernel_head import Evidence
from nlu.kernel_solver import ABSENT, BoolArray, FloatMatrix, IntArray

OUTSIDE_SHARE: Final = 0.1
"""Share of messages that no intent covers, for the confidence: assumed, since training rows cannot show it.

More makes in-scope messages look less sure than they are, less does so for the others; see the decision document.
"""

CAUTIOUS_SHARE: Final = 0.15
"""The same for thresholds alone: where more is out of scope than is assumed, a higher one loses little elsewhere."""

_FEWEST_ROWS: Final = 100  # below this a language has no threshold of its own


@dataclass(frozen=True)
class ConfidenceModel:
    """`scale` multiplies scores before the softmax; `weights` and `bias` belong to the features of `_features`."""

    scale: float
    weights: tuple[float, ...]
    bias: float
    outside_class: int | None

    @classmethod
    def fit(
        cls, evidence: Evidence, labels: IntArray, outside: BoolArray, outside_class: int | None
    ) -> "ConfidenceModel":
        """Fit on left-out evidence; where `outside` is true no intent is right. `labels` tell an example of the
        out-of-scope class from a row of a held-out class."""
        inside = ~outside
        scale = _fit_scale(evidence.scores[inside], labels[inside])
        features = _features(evidence, scale, outside_class)
        right = inside & (_top(evidence.scores, outside_class) == labels)
        if right.all() or not right.any():
            return cls(scale, (0.0,) * features.shape[1], 4.0 if right.all() else -4.0, outside_class)
        weights, bias = _fit_rising(features, right, row_weights(outside, outside & (labels == outside_class)))
        return cls(scale, tuple(float(each) for each in weights), bias, outside_class)

    def probabilities(self, evidence: Evidence) -> FloatMatrix:
        """Rows of shape (k, c) that sum to 1."""
        rows: FloatMatrix = softmax(self.scale * evidence.scores, axis=1).astype(np.float32)
        return rows

    def confidence(self, evidence: Evidence) -> FloatMatrix:
        """The probability that the top intent is right and the message in scope: shape (k,)."""
        features = _features(evidence, self.scale, self.outside_class)
        sure: FloatMatrix = expit(features @ np.array(self.weights) + self.bias).astype(np.float32)
        return sure

    def save(self, path: Path) -> None:
        path.write_text(
            json.dumps(
                {
                    "scale": self.scale,
                    "weights": self.weights,
                    "bias": self.bias,
                    "outside_class": self.outside_class,
                }
            ),
            encoding="utf-8",
        )

    @classmethod
    def load(cls, path: Path) -> "ConfidenceModel":
        """Read what `save` wrote; raises OSError, KeyError or ValueError where it is not that."""
        saved = json.loads(path.read_text(encoding="utf-8"))
        return cls(saved["scale"], tuple(saved["weights"]), saved["bias"], saved["outside_class"])


def row_weights(outside: BoolArray, example: BoolArray, share: float = OUTSIDE_SHARE) -> NDArray[np.float64]:
    """Weights that give the rows outside together a share of the whole; their mean is 1.

    Real examples of out-of-scope messages, marked in `example`, weigh as much as all rows of held-out classes: these
    are many, and nearer to the intents than most of what is out of scope.
    """
    groups = [each for each in (outside & example, outside & ~example) if each.any()]
    if not groups or outside.all():
        return np.ones(len(outside))
    weights = np.where(outside, 0.0, (1 - share) / (~outside).sum())
    for each in groups:
        weights[each] = share / len(groups) / each.sum()
    return weights * len(outside)


def best_threshold(confidence: FloatMatrix, right: BoolArray, weights: NDArray[np.float64]) -> float:
    """The confidence from which on right answers outweigh wrong ones the most; an abstention counts for nothing."""
    order = np.argsort(-confidence, kind="stable")
    gained = np.cumsum((np.where(right, 1.0, -1.0) * weights)[order])
    last_of_tie = np.append(np.diff(confidence[order]) < 0, True)
    best = int(np.argmax(np.where(last_of_tie, gained, -np.inf)))
    return float(confidence[order][best])


def precise_threshold(
    confidence: FloatMatrix, right: BoolArray, weights: NDArray[np.float64], precision: float
) -> float:
    """The lowest confidence from which on at least `precision` of the rows are right; above 1 if there is none."""
    order = np.argsort(-confidence, kind="stable")
    reached = np.cumsum((right * weights)[order]) / np.cumsum(weights[order])
    good = np.flatnonzero(reached >= precision)
    return float(confidence[order][good[-1]]) if len(good) else 1.01


def enough_rows(rows: int) -> bool:
    """Whether a language has enough left-out predictions for a threshold of its own."""
    return rows >= _FEWEST_ROWS


def _fit_scale(scores: FloatMatrix, labels: IntArray) -> float:
    """Temperature scaling (Guo et al. 2017) by the likelihood of left-out scores."""

    def loss(log_scale: float) -> float:
        return float(-log_softmax(np.exp(log_scale) * scores, axis=1)[np.arange(len(labels)), labels].mean())

    return float(np.exp(minimize_scalar(loss, bounds=(-3, 3), method="bounded").x))


def _top(scores: FloatMatrix, outside_class: int | None) -> IntArray:
    if outside_class is not None:
        scores = scores.copy()
        scores[:, outside_class] = -np.inf
    top: IntArray = scores.argmax(axis=1)
    return top


def _fit_rising(
    features: NDArray[np.float64], right: BoolArray, row_weights: NDArray[np.float64]
) -> tuple[NDArray[np.float64], float]:
    """Logistic regression whose weights are at least 0: more evidence never makes less sure, on few rows neither."""
    spread = features.std(axis=0) + 1e-6
    centre = features.mean(axis=0)
    columns = np.column_stack([(features - centre) / spread, np.ones(len(features))])
    signs = np.where(right, 1.0, -1.0)

    def loss(weights: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        margins = signs * (columns @ weights)
        slopes = -row_weights * signs * expit(-margins)
        norm = np.append(weights[:-1], 0.0)
        return float(row_weights @ np.logaddexp(0, -margins) + 0.5 * norm @ norm), columns.T @ slopes + norm

    bounds = [(0, None)] * features.shape[1] + [(None, None)]
    found = minimize(loss, np.zeros(columns.shape[1]), jac=True, bounds=bounds, method="L-BFGS-B").x
    weights = found[:-1] / spread
    return weights, float(found[-1] - weights @ centre)


def _features(evidence: Evidence, scale: float, outside_class: int | None) -> NDArray[np.float64]:
    """How sure the head is, how far ahead the top class is, how near the nearest examples are; shape (k, 6), or 8 with
    an out-of-scope class.

    Each says more for the top class the larger it is.
    """
    scores, nearest = evidence.scores.astype(np.float64), evidence.nearest.astype(np.float64)
    probabilities = softmax(scale * scores, axis=1)
    rows = np.arange(len(scores))
    if outside_class is not None:
        outside = np.stack([scores[:, outside_class], nearest[:, outside_class]], axis=1)
        scores[:, outside_class] = nearest[:, outside_class] = -np.inf
    top = scores.argmax(axis=1)
    best = scores[rows, top]
    second = np.partition(scores, -2, axis=1)[:, -2]
    probability = np.clip(probabilities[rows, top], 1e-6, 1 - 1e-6)
    columns = [
        np.log(probability / (1 - probability)),
        best,
        best - np.maximum(second, ABSENT),
        nearest[rows, top],
        nearest[rows, top] - nearest.max(axis=1),
        evidence.lexical,
    ]
    if outside_class is not None:
        columns += [best - outside[:, 0], nearest[rows, top] - outside[:, 1]]
    return np.column_stack(columns)
