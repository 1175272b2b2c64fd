"""The trained part of the intent classifier: a linear classifier over the sum of two kernels.

The kernel adds the cosine of sentence vectors and that of TF-IDF rows. Few examples an intent are learned best by
multinomial logistic regression, many by one squared hinge a class: left-out rows decide.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from scipy.sparse import csr_matrix, save_npz
from sklearn.model_selection import KFold, StratifiedKFold

from nlu.arrays import read_arrays, read_sparse
from nlu.features import LexicalFeatures
from nlu.kernel_solver import BoolArray, FloatMatrix, IntArray, KernelSolver, Loss

# A flat optimum over draws from BANKING77 and CLINC150 train rows, see docs/decisions/0003-intent-engine.md.
_LEXICAL_SHARE: Final = 0.2
_MANY_PER_CLASS: Final = 15  # below it the hinge never won
_CHUNK: Final = 1024
MOST_ROWS: Final = 16_000
"""Training takes 4 bytes for each pair of rows: 1 GB. Of more rows, the same share of every class is learned."""


@dataclass(frozen=True)
class Evidence:
    """What the head finds about k texts over c classes.

    `scores`: (k, c). `nearest`: (k, c), the cosine of the sentence vector with the nearest example of the class.
    `lexical`: (k,), the largest TF-IDF cosine with any example.
    """

    scores: FloatMatrix
    nearest: FloatMatrix
    lexical: FloatMatrix

    def parts(self) -> tuple[FloatMatrix, FloatMatrix, FloatMatrix]:
        """The arrays, in the order of the fields."""
        return self.scores, self.nearest, self.lexical

    @classmethod
    def joined(cls, parts: Sequence["Evidence"]) -> "Evidence":
        """All rows of `parts`, in order."""
        return cls(
            np.concatenate([each.scores for each in parts]),
            np.concatenate([each.nearest for each in parts]),
            np.concatenate([each.lexical for each in parts]),
        )


class KernelHead:
    """A fitted head; `examples` are the training vectors ordered by class, `starts` where each class begins in them."""

    def __init__(
        self,
        examples: FloatMatrix,
        lexical: LexicalFeatures,
        lexical_examples: csr_matrix,
        starts: IntArray,
        coefficients: FloatMatrix,
    ) -> None:
        self._examples = examples
        self._lexical = lexical
        self._lexical_examples = lexical_examples
        self._lexical_columns = lexical_examples.T.tocsr()
        self._starts = starts
        self._coefficients = coefficients

    def evidence(self, vectors: FloatMatrix, texts: Sequence[str]) -> Evidence:
        """Score unit vectors (k, d) with their folded texts."""
        parts = []
        for part in _chunks(len(texts)):
            cosines = vectors[part] @ self._examples.T
            lexical_cosines = (self._lexical.transform(texts[part]) @ self._lexical_columns).toarray()
            scores = _kernel(cosines, lexical_cosines) @ self._coefficients
            nearest = np.maximum.reduceat(cosines, self._starts, axis=1)
            parts.append(Evidence(scores, nearest, lexical_cosines.max(axis=1)))
        return Evidence.joined(parts)

    def save(self, folder: Path) -> None:
        """Write `head.npz` and `head-lexical.npz` into an existing folder."""
        save_npz(folder / "head-lexical.npz", self._lexical_examples)
        np.savez(
            folder / "head.npz",
            examples=self._examples,
            weights=self._lexical.weights,
            starts=self._starts,
            coefficients=self._coefficients,
        )

    @classmethod
    def load(cls, folder: Path) -> "KernelHead":
        """Read what `save` wrote; raises OSError, KeyError, ValueError or BadZipFile where it is not that."""
        saved = read_arrays(folder / "head.npz")
        return cls(
            saved["examples"],
            LexicalFeatures(saved["weights"]),
            read_sparse(folder / "head-lexical.npz"),
            saved["starts"],
            saved["coefficients"],
        )


class HeadTraining:
    """Fits heads on all rows and on parts of them, and says what was found about the rows that were left out."""

    def __init__(
        self,
        vectors: FloatMatrix,
        texts: Sequence[str],
        labels: IntArray,
        *,
        seed: int,
        folds: int,
        names: int = 0,
        loss: Loss | None = None,
    ) -> None:
        """Takes unit vectors (n, d), folded texts and class numbers 0..c-1, each present, c at least 2.

        The last `names` rows are names of intents, no utterances: they are always learned and get no evidence.
        Unless the loss is given, the first fold decides it; without folds there is no `left_out`.
        """
        self._vectors, self._texts = vectors, texts
        self._utterances = len(labels) - names
        self._learned = some_rows(labels, seed, MOST_ROWS)
        self._labels = labels[self._learned]
        self._classes = int(labels.max()) + 1
        self._starts = np.searchsorted(self._labels, np.arange(self._classes))
        self._lexical, self._lexical_examples = LexicalFeatures.fit([texts[row] for row in self._learned])
        self._examples = vectors[self._learned]
        kernel = self._compare()
        self._solver = KernelSolver(kernel)
        parts = list(self._folds(folds, seed)) if folds else []
        losses: list[Loss] = [loss or "logistic"]
        if loss is None and parts and len(self._labels) >= _MANY_PER_CLASS * self._classes:
            losses.append("hinge")
        self._scores = np.zeros((len(self._labels), self._classes), np.float32)
        if len(losses) > 1:
            first = parts.pop(0)
            tried = [self._left_out_scores(each, first) for each in losses]
            right = [float((each.argmax(axis=1) == self._labels[first]).mean()) for each in tried]
            best = int(np.argmax(right))
            losses, self._scores[first] = [losses[best]], tried[best]
        self.loss: Loss = losses[0]
        self._folds_left = parts

    def head(self) -> KernelHead:
        """The head of all rows."""
        fitted = self._solver.fit(self._labels, self.loss)
        return KernelHead(self._examples, self._lexical, self._lexical_examples, self._starts, fitted.coefficients)

    def left_out(self, head: KernelHead) -> Evidence:
        """For each utterance, in order, what was found while its fold was left out; `head` for those never learned.

        A class whose examples all lie in one fold has the smallest score there.
        """
        while self._folds_left:
            left = self._folds_left.pop()
            self._scores[left] = self._left_out_scores(self.loss, left)
        place = np.full(len(self._texts), -1)
        place[self._learned] = np.arange(len(self._learned))
        place = place[: self._utterances]
        found = Evidence(self._scores[place], self._nearest[place], self._most_lexical[place].max(axis=1))
        missed = np.flatnonzero(place < 0)
        if len(missed):
            extra = head.evidence(self._vectors[missed], [self._texts[int(row)] for row in missed])
            found.scores[missed], found.nearest[missed], found.lexical[missed] = (
                extra.scores,
                extra.nearest,
                extra.lexical,
            )
        return found

    def without(self, absent: BoolArray, left: BoolArray | None = None) -> tuple[Evidence, IntArray]:
        """What is found about the utterances of the classes marked in `absent` (c,) if these had never been learned.

        Rows marked in `left` (n,) are left out too. Also returns the row numbers of all these utterances. An absent
        class has the smallest score and cosine.
        """
        gone = absent[self._labels]
        if left is not None:
            gone |= left[self._learned]
        held = np.flatnonzero(gone & (self._learned < self._utterances))
        fitted = self._solver.fit(self._labels, self.loss, rows=~gone, classes=~absent)
        nearest = np.where(absent, np.float32(-1), self._nearest[held])
        lexical = np.where(absent, np.float32(0), self._most_lexical[held]).max(axis=1)
        return Evidence(fitted.scores[held], nearest, lexical), self._learned[held]

    def _compare(self) -> FloatMatrix:
        """The kernel; keeps each row's nearest other row of each class, (n, c), by vector and by words."""
        n = len(self._labels)
        columns = self._lexical_examples.T.tocsr()
        kernel = np.empty((n, n), np.float32)
        self._nearest = np.empty((n, self._classes), np.float32)
        self._most_lexical = np.empty((n, self._classes), np.float32)
        for part in _chunks(n):
            cosines = self._examples[part] @ self._examples.T
            lexical_cosines = (self._lexical_examples[part] @ columns).toarray()
            kernel[part] = _kernel(cosines, lexical_cosines)
            own = np.arange(len(cosines)), np.arange(n)[part]
            cosines[own], lexical_cosines[own] = -1, 0
            self._nearest[part] = np.maximum.reduceat(cosines, self._starts, axis=1)
            self._most_lexical[part] = np.maximum.reduceat(lexical_cosines, self._starts, axis=1)
        return kernel

    def _left_out_scores(self, loss: Loss, left: IntArray) -> FloatMatrix:
        kept = np.ones(len(self._labels), np.bool_)
        kept[left] = False
        present = np.isin(np.arange(self._classes), self._labels[kept])
        scores: FloatMatrix = self._solver.fit(self._labels, loss, rows=kept, classes=present).scores[left]
        return scores

    def _folds(self, folds: int, seed: int) -> Iterator[IntArray]:
        """Stratified where every class has as many rows as there are folds, else plain; never more folds than rows."""
        utterances = np.flatnonzero(self._learned < self._utterances)
        labels = self._labels[utterances]
        folds = min(folds, len(labels))
        counts = np.bincount(labels)
        kind = StratifiedKFold if counts[counts > 0].min() >= folds else KFold
        for _, left in kind(folds, shuffle=True, random_state=seed).split(labels, labels):
            yield utterances[left]


def _kernel(cosines: FloatMatrix, lexical_cosines: FloatMatrix) -> FloatMatrix:
    """The constant stands for the bias of each class."""
    share = np.float32(_LEXICAL_SHARE)
    kernel: FloatMatrix = (1 - share) * cosines + share * lexical_cosines + np.float32(1)
    return kernel


def some_rows(labels: IntArray, seed: int, most: int) -> IntArray:
    """Rows ordered by class; of more than `most`, the same share of every class and at least one of each."""
    order = np.random.default_rng(seed).permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    if len(order) <= most:
        return order
    counts = np.bincount(labels)
    kept = np.maximum(1, counts * most // len(order))
    return np.concatenate(
        [rows[:count] for rows, count in zip(np.split(order, np.cumsum(counts)[:-1]), kept, strict=True)]
    )


def _chunks(count: int) -> Iterator[slice]:
    return (slice(start, start + _CHUNK) for start in range(0, count, _CHUNK))
