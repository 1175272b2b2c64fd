"""The trained part of the intent classifier: regularised least squares over a sum of kernels.

The kernel adds the cosine of centred sentence vectors and that of TF-IDF rows, each with its weight. Least squares,
one class against the rest, has its leave-one-out predictions in closed form (Rifkin and Lippert, "Notes on Regularized
Least Squares", 2007), so every training example gets an honest prediction at no cost: those choose the weights and
calibrate the confidence.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.sparse import csr_matrix, load_npz, save_npz

from nlu.features import LexicalFeatures

FloatMatrix = NDArray[np.float32]
IntArray = NDArray[np.int64]

_RIDGES: Final = (0.03, 0.1, 0.3, 1.0)
_LEXICAL_SHARES: Final = (0.0, 0.15, 0.3, 0.5)
_ROWS_TO_TUNE_ON: Final = 1500


@dataclass(frozen=True)
class Evidence:
    """What the head finds about k texts over c classes.

    `scores`: (k, c), about 1 for a class that fits and 0 for one that does not. `nearest`: (k, c), the cosine of the
    centred vector with the nearest example of the class. `lexical`: (k,), the largest TF-IDF cosine with any example.
    """

    scores: FloatMatrix
    nearest: FloatMatrix
    lexical: FloatMatrix

    def rows(self, chosen: IntArray) -> "Evidence":
        return Evidence(self.scores[chosen], self.nearest[chosen], self.lexical[chosen])


@dataclass(frozen=True)
class HeadSettings:
    """`ridge`: strength of regularisation; `lexical_share`: share of TF-IDF in the kernel, 0..1."""

    ridge: float
    lexical_share: float


class KernelHead:
    """A fitted head; its anchors are the training examples, ordered by class."""

    def __init__(
        self,
        settings: HeadSettings,
        mean: FloatMatrix,
        anchors: FloatMatrix,
        lexical: LexicalFeatures,
        lexical_anchors: csr_matrix,
        starts: IntArray,
        coefficients: FloatMatrix,
        bias: FloatMatrix,
    ) -> None:
        self.settings = settings
        self._mean = mean
        self._anchors = anchors
        self._lexical = lexical
        self._lexical_anchors = lexical_anchors
        self._lexical_columns = lexical_anchors.T.tocsr()
        self._starts = starts
        self._coefficients = coefficients
        self._bias = bias

    @classmethod
    def fit(
        cls, vectors: FloatMatrix, texts: Sequence[str], labels: IntArray, settings: HeadSettings
    ) -> tuple["KernelHead", Evidence]:
        """Fit on unit vectors (n, d), folded texts and class numbers 0..c-1, each present.

        Returns the head and the leave-one-out evidence for every row, in the order given.
        """
        order = np.argsort(labels, kind="stable")
        labels = labels[order]
        mean = vectors.mean(axis=0)
        anchors = _unit(vectors[order] - mean)
        lexical = LexicalFeatures.fit(texts)
        lexical_anchors = lexical.transform([texts[index] for index in order])
        cosines = anchors @ anchors.T
        lexical_cosines = (lexical_anchors @ lexical_anchors.T).toarray()
        kernel = (1 - settings.lexical_share) * cosines + settings.lexical_share * lexical_cosines
        coefficients, bias, left_out = _solve(kernel, labels, settings.ridge)
        starts = np.searchsorted(labels, np.arange(bias.shape[0]))
        head = cls(settings, mean, anchors, lexical, lexical_anchors, starts, coefficients, bias)
        np.fill_diagonal(cosines, -1)
        np.fill_diagonal(lexical_cosines, 0)
        back = np.argsort(order)
        evidence = Evidence(left_out, np.maximum.reduceat(cosines, starts, axis=1), lexical_cosines.max(axis=1))
        return head, evidence.rows(back)

    def evidence(self, vectors: FloatMatrix, texts: Sequence[str]) -> Evidence:
        """Score unit vectors (k, d) with their folded texts."""
        cosines = _unit(vectors - self._mean) @ self._anchors.T
        lexical_cosines = (self._lexical.transform(texts) @ self._lexical_columns).toarray()
        kernel = (1 - self.settings.lexical_share) * cosines + self.settings.lexical_share * lexical_cosines
        return Evidence(
            kernel @ self._coefficients + self._bias,
            np.maximum.reduceat(cosines, self._starts, axis=1),
            lexical_cosines.max(axis=1),
        )

    def save(self, folder: Path) -> None:
        """Write `head.npz` and `head-lexical.npz` into an existing folder."""
        save_npz(folder / "head-lexical.npz", self._lexical_anchors)
        np.savez(
            folder / "head.npz",
            settings=np.array([self.settings.ridge, self.settings.lexical_share]),
            mean=self._mean,
            anchors=self._anchors,
            weights=self._lexical.weights,
            starts=self._starts,
            coefficients=self._coefficients,
            bias=self._bias,
        )

    @classmethod
    def load(cls, folder: Path) -> "KernelHead":
        """Read what `save` wrote; raises OSError, KeyError or ValueError where it is not that."""
        with np.load(folder / "head.npz", allow_pickle=False) as saved:
            ridge, lexical_share = (float(each) for each in saved["settings"])
            return cls(
                HeadSettings(ridge, lexical_share),
                saved["mean"],
                saved["anchors"],
                LexicalFeatures(saved["weights"]),
                load_npz(folder / "head-lexical.npz"),
                saved["starts"],
                saved["coefficients"],
                saved["bias"],
            )


def choose_settings(vectors: FloatMatrix, texts: Sequence[str], labels: IntArray, seed: int) -> HeadSettings:
    """The settings whose leave-one-out predictions are right most often, on at most 1,500 rows drawn by `seed`."""
    if len(labels) > _ROWS_TO_TUNE_ON:
        chosen = np.sort(np.random.default_rng(seed).permutation(len(labels))[:_ROWS_TO_TUNE_ON])
        vectors, texts, labels = vectors[chosen], [texts[index] for index in chosen], labels[chosen]
    labels = np.unique(labels, return_inverse=True)[1]
    anchors = _unit(vectors - vectors.mean(axis=0))
    cosines = anchors @ anchors.T
    rows = LexicalFeatures.fit(texts).transform(texts)
    lexical_cosines = (rows @ rows.T).toarray()
    best = HeadSettings(_RIDGES[1], _LEXICAL_SHARES[1])
    best_score = -np.inf
    for share in _LEXICAL_SHARES:
        kernel = (1 - share) * cosines + share * lexical_cosines
        for ridge in _RIDGES:
            left_out = _solve(kernel, labels, ridge)[2]
            score = float((left_out.argmax(axis=1) == labels).mean())
            if score > best_score:
                best, best_score = HeadSettings(ridge, share), score
    return best


def _solve(kernel: FloatMatrix, labels: IntArray, ridge: float) -> tuple[FloatMatrix, FloatMatrix, FloatMatrix]:
    """Coefficients (n, c), bias (c,) and leave-one-out scores (n, c)."""
    targets = np.eye(labels.max() + 1, dtype=np.float32)[labels]
    bias = targets.mean(axis=0)
    targets = targets - bias
    regularised = kernel + np.float32(ridge) * np.eye(len(labels), dtype=np.float32)
    inverse = cho_solve(cho_factor(regularised, lower=True), np.eye(len(labels), dtype=np.float32))
    coefficients = inverse @ targets
    left_out = targets - coefficients / np.diag(inverse)[:, None] + bias
    return coefficients.astype(np.float32), bias.astype(np.float32), left_out.astype(np.float32)


def _unit(rows: FloatMatrix) -> FloatMatrix:
    lengths = np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)
    unit: FloatMatrix = (rows / lengths).astype(np.float32)
    return unit
