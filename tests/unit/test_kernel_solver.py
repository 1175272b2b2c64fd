"""The solver finds what scikit-learn finds, and rows that are left out leave no trace."""

from typing import Any

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC

from nlu.kernel_solver import ABSENT, BoolArray, FloatMatrix, IntArray, KernelSolver


@pytest.fixture(scope="module")
def points() -> FloatMatrix:
    rows = np.random.default_rng(0).standard_normal((120, 30)).astype(np.float32)
    unit: FloatMatrix = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


@pytest.fixture(scope="module")
def labels(points: FloatMatrix) -> IntArray:
    noise = np.random.default_rng(1).standard_normal((120, 4))
    found: IntArray = (points[:, :4] + 0.1 * noise).argmax(axis=1)
    return found


@pytest.fixture(scope="module")
def solver(points: FloatMatrix) -> KernelSolver:
    return KernelSolver(points @ points.T)


def test_logistic_regression_is_that_of_scikit_learn(
    points: FloatMatrix, labels: IntArray, solver: KernelSolver
) -> None:
    theirs = LogisticRegression(C=20, fit_intercept=False, tol=1e-6, max_iter=1000).fit(points, labels)

    ours = solver.fit(labels, "logistic")

    assert softmax(ours.scores, axis=1) == pytest.approx(theirs.predict_proba(points), abs=0.03)
    assert points @ points.T @ ours.coefficients == pytest.approx(ours.scores, abs=1e-3)


def test_the_squared_hinge_is_that_of_scikit_learn(points: FloatMatrix, labels: IntArray, solver: KernelSolver) -> None:
    theirs: Any = LinearSVC(C=1, fit_intercept=False, tol=1e-6, max_iter=10_000).fit(points, labels)

    ours = solver.fit(labels, "hinge")

    assert ours.scores == pytest.approx(theirs.decision_function(points), abs=0.03)


@pytest.mark.parametrize("loss", ["logistic", "hinge"])
def test_the_labels_of_rows_that_are_left_out_make_no_difference(
    loss: Any, labels: IntArray, solver: KernelSolver
) -> None:
    kept: BoolArray = np.arange(120) % 3 > 0
    other = np.where(kept, labels, (labels + 1) % 4)

    fitted, again = (solver.fit(each, loss, rows=kept).scores for each in (labels, other))

    assert (fitted == again).all()
    assert (fitted.argmax(axis=1) == labels)[~kept].mean() > 0.5


@pytest.mark.parametrize("loss", ["logistic", "hinge"])
def test_a_class_that_is_left_out_has_the_smallest_score(loss: Any, labels: IntArray, solver: KernelSolver) -> None:
    present: BoolArray = np.arange(4) != 2

    fitted = solver.fit(labels, loss, rows=labels != 2, classes=present)

    assert (fitted.scores[:, 2] == ABSENT).all()
    assert (fitted.coefficients[:, 2] == 0).all()
    assert (fitted.scores[:, present] > ABSENT).all()
