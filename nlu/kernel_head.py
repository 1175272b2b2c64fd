"""The trained part of the intent classifier: multinomial logistic regression over a sum of two kernels.

The kernel adds the cosine of sentence vectors and that of TF-IDF rows. Its Cholesky factor over a set of anchors (all
examples, or 3,000 of them: the Nyström method, Williams and Seeger 2001) turns it into ordinary features of at most as
many columns as anchors, on which scikit-learn fits in seconds what takes minutes on the sparse columns themselves.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky, solve_triangular
from scipy.sparse import csr_matrix, save_npz
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold, StratifiedKFold

from nlu.arrays import read_arrays, read_sparse
from nlu.features import LexicalFeatures

FloatMatrix = NDArray[np.float32]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

# Both are flat optima over draws of 10 examples an intent from BANKING77 and CLINC150 train rows, see
# docs/decisions/0003-intent-engine.md.
_LEXICAL_SHARE: Final = 0.3
_INVERSE_REGULARISATION: Final = 20.0

_MOST_ANCHORS: Final = 3000
_JITTER: Final = 1e-4
_CHUNK: Final = 1024


@dataclass(frozen=True)
class Evidence:
    """What the head finds about k texts over c classes.

    `scores`: (k, c), logits. `nearest`: (k, c), the cosine of the sentence vector with the nearest anchor of the class.
    `lexical`: (k,), the largest TF-IDF cosine with any anchor.
    """

    scores: FloatMatrix
    nearest: FloatMatrix
    lexical: FloatMatrix

    @classmethod
    def joined(cls, parts: Sequence["Evidence"]) -> "Evidence":
        """All rows of `parts`, in order."""
        return cls(
            np.concatenate([each.scores for each in parts]),
            np.concatenate([each.nearest for each in parts]),
            np.concatenate([each.lexical for each in parts]),
        )


class KernelHead:
    """A fitted head; `anchors` are training examples ordered by class, `starts` where each class begins in them."""

    def __init__(
        self,
        anchors: FloatMatrix,
        lexical: LexicalFeatures,
        lexical_anchors: csr_matrix,
        starts: IntArray,
        coefficients: FloatMatrix,
        bias: FloatMatrix,
    ) -> None:
        self._anchors = anchors
        self._lexical = lexical
        self._lexical_anchors = lexical_anchors
        self._lexical_columns = lexical_anchors.T.tocsr()
        self._starts = starts
        self._coefficients = coefficients
        self._bias = bias

    @classmethod
    def fit(cls, vectors: FloatMatrix, texts: Sequence[str], labels: IntArray, seed: int) -> "KernelHead":
        """Fit on unit vectors (n, d), folded texts and class numbers 0..c-1, each present, c at least 2."""
        return cls.fit_with_folds(vectors, texts, labels, seed, folds=0)[0]

    @classmethod
    def fit_with_folds(
        cls, vectors: FloatMatrix, texts: Sequence[str], labels: IntArray, seed: int, folds: int, names: int = 0
    ) -> tuple["KernelHead", Evidence]:
        """Fit, and give each row the evidence that it gets while its fold is left out (no folds: from the whole fit).

        The last `names` rows belong to every fold's training and get no evidence: names of intents, not utterances.

        A class whose examples all lie in one fold keeps the smallest logit there.
        """
        chosen = _anchor_rows(labels, seed)
        lexical = LexicalFeatures.fit(texts)
        rows = lexical.transform(texts)
        anchors, lexical_anchors = vectors[chosen], rows[chosen]
        starts = np.searchsorted(labels[chosen], np.arange(labels.max() + 1))
        columns = lexical_anchors.T.tocsr()
        classes = len(starts)
        n = len(labels)
        kernel = np.empty((n, len(chosen)), np.float32)
        nearest = np.empty((n, classes), np.float32)
        most_lexical = np.empty(n, np.float32)
        place = np.full(n, -1)
        place[chosen] = np.arange(len(chosen))
        for part in _chunks(n):
            cosines = vectors[part] @ anchors.T
            lexical_cosines = (rows[part] @ columns).toarray()
            kernel[part] = _kernel(cosines, lexical_cosines)
            own = np.flatnonzero(place[part] >= 0)
            cosines[own, place[part][own]] = -1
            lexical_cosines[own, place[part][own]] = 0
            nearest[part] = np.maximum.reduceat(cosines, starts, axis=1)
            most_lexical[part] = lexical_cosines.max(axis=1)
        factor = cholesky(kernel[chosen] + _JITTER * np.eye(len(chosen), dtype=np.float32), lower=True)
        features = solve_triangular(factor, kernel.T, lower=True, overwrite_b=True).T
        weights, bias = _fit_logits(features, labels, classes)
        coefficients = solve_triangular(factor, weights, lower=True, trans="T")
        head = cls(anchors, lexical, lexical_anchors, starts, coefficients.astype(np.float32), bias)
        scores = features @ weights + bias
        utterances = n - names
        always = np.arange(utterances, n)
        for part_kept, left in _folds(labels[:utterances], folds, seed) if folds else ():
            kept = np.concatenate([part_kept, always])
            weights, bias = _fit_logits(features[kept], labels[kept], classes)
            scores[left] = features[left] @ weights + bias
        return head, Evidence(scores[:utterances], nearest[:utterances], most_lexical[:utterances])

    def evidence(self, vectors: FloatMatrix, texts: Sequence[str]) -> Evidence:
        """Score unit vectors (k, d) with their folded texts."""
        parts = []
        for part in _chunks(len(texts)):
            cosines = vectors[part] @ self._anchors.T
            lexical_cosines = (self._lexical.transform(texts[part]) @ self._lexical_columns).toarray()
            scores = _kernel(cosines, lexical_cosines) @ self._coefficients + self._bias
            nearest = np.maximum.reduceat(cosines, self._starts, axis=1)
            parts.append(Evidence(scores, nearest, lexical_cosines.max(axis=1)))
        return Evidence.joined(parts)

    def save(self, folder: Path) -> None:
        """Write `head.npz` and `head-lexical.npz` into an existing folder."""
        save_npz(folder / "head-lexical.npz", self._lexical_anchors)
        np.savez(
            folder / "head.npz",
            anchors=self._anchors,
            weights=self._lexical.weights,
            starts=self._starts,
            coefficients=self._coefficients,
            bias=self._bias,
        )

    @classmethod
    def load(cls, folder: Path) -> "KernelHead":
        """Read what `save` wrote; raises OSError, KeyError, ValueError or BadZipFile where it is not that."""
        saved = read_arrays(folder / "head.npz")
        return cls(
            saved["anchors"],
            LexicalFeatures(saved["weights"]),
            read_sparse(folder / "head-lexical.npz"),
            saved["starts"],
            saved["coefficients"],
            saved["bias"],
        )


def _kernel(cosines: FloatMatrix, lexical_cosines: FloatMatrix) -> FloatMatrix:
    kernel: FloatMatrix = (1 - _LEXICAL_SHARE) * cosines + _LEXICAL_SHARE * lexical_cosines
    return kernel


def _fit_logits(features: FloatMatrix, labels: IntArray, classes: int) -> tuple[FloatMatrix, FloatMatrix]:
    """Weights (m, classes) and bias (classes,); a class without rows gets the smallest bias."""
    present = np.unique(labels)
    weights = np.zeros((features.shape[1], classes), np.float32)
    bias = np.full(classes, -20, np.float32)
    if len(present) == 1:
        bias[present] = 0
        return weights, bias
    model = LogisticRegression(C=_INVERSE_REGULARISATION, max_iter=500).fit(features, labels)
    if len(present) == 2:
        # scikit-learn gives two classes one row of coefficients, for the second.
        weights[:, present[1]], bias[present] = model.coef_[0], (0, model.intercept_[0])
    else:
        weights[:, present], bias[present] = model.coef_.T, model.intercept_
    return weights, bias


def _anchor_rows(labels: IntArray, seed: int) -> IntArray:
    """Rows ordered by class; of more than 3,000, the same share of every class and at least one of each."""
    order = np.random.default_rng(seed).permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    if len(order) <= _MOST_ANCHORS:
        return order
    counts = np.bincount(labels)
    kept = np.maximum(1, counts * _MOST_ANCHORS // len(order))
    return np.concatenate(
        [rows[:count] for rows, count in zip(np.split(order, np.cumsum(counts)[:-1]), kept, strict=True)]
    )


def _folds(labels: IntArray, folds: int, seed: int) -> Iterator[tuple[IntArray, IntArray]]:
    """Stratified where every class has as many rows as there are folds, else plain; never more folds than rows."""
    folds = min(folds, len(labels))
    kind = StratifiedKFold if np.bincount(labels).min() >= folds else KFold
    yield from kind(folds, shuffle=True, random_state=seed).split(labels, labels)


def _chunks(count: int) -> Iterator[slice]:
    return (slice(start, start + _CHUNK) for start in range(0, count, _CHUNK))
