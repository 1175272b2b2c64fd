"""Fits linear classifiers in the space of a kernel: multinomial logistic regression, or one squared hinge a class.

The loss of f = K a over n rows plus half the squared norm of f is minimised by L-BFGS in that space (Nocedal and
Wright, "Numerical Optimization", 7.2), with the inverse of I + K in place of the first guess of the curvature. One
inverse, n³ operations, serves every fit on any part of the rows and classes; an iteration is one product with it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.lapack import spotrf, spotri

FloatMatrix = NDArray[np.float32]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]
Loss = Literal["logistic", "hinge"]

ABSENT: Final = -20.0
"""The score of a class that was not among the rows."""

# Weight of the loss against the norm: flat optima, see docs/decisions/0003-intent-engine.md.
_WEIGHT: Final[dict[Loss, float]] = {"logistic": 20.0, "hinge": 1.0}
_TOLERANCE: Final = 2e-3  # of what the next step could gain, against the whole; tighter changes no answer
_REMEMBERED: Final = 5
_MOST_STEPS: Final = 200
_BLOCK: Final = 512


@dataclass(frozen=True)
class Fit:
    """`coefficients` a and `scores` K a, both (n, classes)."""

    coefficients: FloatMatrix
    scores: FloatMatrix


class KernelSolver:
    """Fits on parts of the rows of one kernel. Deterministic on one thread."""

    def __init__(self, kernel: FloatMatrix) -> None:
        """`kernel`: symmetric, positive semidefinite, (n, n); its memory is taken over and overwritten."""
        kernel[np.diag_indices(len(kernel))] += 1
        # A symmetric matrix is its own transpose, which LAPACK takes without a copy.
        factor, failed = spotrf(kernel.T, lower=1, overwrite_a=1, clean=0)
        if failed:
            raise ValueError("the kernel is not positive semidefinite")
        self._smoother, _ = spotri(factor, lower=1, overwrite_c=1)
        _mirror_lower(self._smoother)

    def fit(
        self, labels: IntArray, loss: Loss, *, rows: BoolArray | None = None, classes: BoolArray | None = None
    ) -> Fit:
        """Fit on all rows, or on those marked in `rows` over the classes marked in `classes`; others score ABSENT."""
        targets = np.zeros((len(labels), int(labels.max()) + 1), np.float32)
        targets[np.arange(len(labels)), labels] = 1
        present = np.ones(targets.shape[1], np.bool_) if classes is None else classes
        counted = np.ones(len(labels), np.float32) if rows is None else rows.astype(np.float32)
        losses = {"logistic": _logistic, "hinge": _hinge}
        weight = np.float32(_WEIGHT[loss])

        def value(scores: FloatMatrix) -> tuple[float, FloatMatrix]:
            total, slopes = losses[loss](scores, targets[:, present], counted)
            return float(weight) * total, weight * slopes

        fitted = self._minimise(value, (len(labels), int(present.sum())))
        if present.all():
            return fitted
        coefficients = np.zeros(targets.shape, np.float32)
        scores = np.full(targets.shape, ABSENT, np.float32)
        coefficients[:, present], scores[:, present] = fitted.coefficients, fitted.scores
        return Fit(coefficients, scores)

    def _minimise(self, value: Callable[[FloatMatrix], tuple[float, FloatMatrix]], shape: tuple[int, int]) -> Fit:
        """Every point and direction is kept with its image under the kernel, so that no product with it is needed."""
        point, image = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        loss, slopes = value(image)
        gradient = slopes + point
        total = loss
        steps: list[tuple[FloatMatrix, FloatMatrix, FloatMatrix, float]] = []
        for _ in range(_MOST_STEPS):
            rest, shares = gradient.copy(), []
            for _, moved_image, bent, scale in reversed(steps):
                shares.append(scale * _dot(moved_image, rest))
                rest -= np.float32(shares[-1]) * bent
            direction = self._smoother @ rest
            direction_image = rest - direction  # K (I + K)⁻¹ = I - (I + K)⁻¹
            for (moved, moved_image, bent, scale), share in zip(steps, reversed(shares), strict=True):
                back = np.float32(share - scale * _dot(bent, direction_image))
                direction += back * moved
                direction_image += back * moved_image
            gain = _dot(gradient, direction_image)
            length = 1.0
            while True:
                new_point = point - np.float32(length) * direction
                new_image = image - np.float32(length) * direction_image
                loss, slopes = value(new_image)
                new_total = loss + 0.5 * _dot(new_point, new_image)
                if new_total <= total - 1e-4 * length * gain or length < 1e-3:
                    break
                length /= 2
            new_gradient = slopes + new_point
            moved, moved_image, bent = new_point - point, new_image - image, new_gradient - gradient
            curvature = _dot(bent, moved_image)
            if curvature > 0:
                steps = [*steps, (moved, moved_image, bent, 1 / curvature)][-_REMEMBERED:]
            won = total - new_total
            point, image, gradient, total = new_point, new_image, new_gradient, new_total
            if gain < _TOLERANCE * max(1.0, abs(total)) or won < 1e-7 * abs(total):
                break
        return Fit(point, image)


def _logistic(scores: FloatMatrix, targets: FloatMatrix, counted: FloatMatrix) -> tuple[float, FloatMatrix]:
    """Cross-entropy of the softmax, and its slopes."""
    top = scores.max(axis=1, keepdims=True)
    shares = np.exp(scores - top)
    sums = shares.sum(axis=1, keepdims=True)
    losses = (np.log(sums) + top)[:, 0] - (scores * targets).sum(axis=1)
    shares /= sums
    shares -= targets
    shares *= counted[:, None]
    return float(losses @ counted), shares


def _hinge(scores: FloatMatrix, targets: FloatMatrix, counted: FloatMatrix) -> tuple[float, FloatMatrix]:
    """Squared hinge of each class against all others, as in LIBLINEAR, and its slopes."""
    signs = 2 * targets - 1
    short = np.maximum(1 - signs * scores, 0) * counted[:, None]
    return _dot(short, short), np.float32(-2) * signs * short


def _dot(a: FloatMatrix, b: FloatMatrix) -> float:
    return float(np.vdot(a, b))


def _mirror_lower(matrix: FloatMatrix) -> None:
    for start in range(0, len(matrix), _BLOCK):
        part = slice(start, min(start + _BLOCK, len(matrix)))
        matrix[:start, part] = matrix[part, :start].T
        matrix[part, part] = np.tril(matrix[part, part]) + np.tril(matrix[part, part], -1).T
