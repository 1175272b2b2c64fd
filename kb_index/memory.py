"""What the example questions together say: kernel ridge regression from a text to the articles.

The nearest example question alone is a poor judge: editors write questions that differ from each other. Regression
weighs all of them at once, those of rival articles against each other (kernel ridge regression, Saunders et al. 1998).
Its likeness of two texts adds meaning (Gaussian kernel over centred vectors), words and parts of words (TF-IDF).
A left-out question is left out exactly, without fitting anew.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from math import log

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.sparse import csr_matrix, vstack

from kb_index.encoder import FloatMatrix
from kb_index.lexical import added
from kb_index.vectors import FloatVector, IntVector

_SHARPNESS = 2.5  # of the Gaussian kernel: found on development questions among 1 to 8
_WORDS = 0.3
_PARTS = 0.4
_RIDGE = 0.5
_MOST_ROWS = 4000  # beyond, fitting takes seconds and the matrix 64 MB: then only the neighbours of a text are used
NEIGHBOURS = 100


class QuestionMemory:
    """Example questions and whose they are."""

    def __init__(
        self,
        vectors: FloatMatrix,
        words: Sequence[Sequence[str]],
        parts: Sequence[Sequence[str]],
        owners: IntVector,
        count: int,
        *,
        inverse: FloatMatrix | None = None,
    ) -> None:
        """`vectors`, `words` and `parts` describe each question, `owners` its article as a number below `count`.

        `inverse` is that of another memory of the same questions, which spares seconds of fitting.
        """
        self._owners = owners
        self._count = count
        self._mean = vectors.mean(axis=0) if len(vectors) else np.zeros(vectors.shape[1], dtype=np.float32)
        self._vectors = _unit(vectors - self._mean)
        self._is_small = self.reads(len(vectors))
        if self._is_small and len(vectors):
            self._words, self._parts = _Terms(words), _Terms(parts)
            self._inverse = self._fit() if inverse is None else inverse
            self._weights = self._inverse @ _targets(owners, count)

    @property
    def inverse(self) -> FloatMatrix | None:
        """What fitting takes long for, to be kept with the vectors; None for a large or an empty memory."""
        return self._inverse if self._is_small and len(self._vectors) else None

    def _fit(self) -> FloatMatrix:
        kernel = np.exp(_SHARPNESS * (self._vectors @ self._vectors.T - 1)).astype(np.float64)
        kernel += _WORDS * self._words.among_themselves() + _PARTS * self._parts.among_themselves()
        kernel[np.diag_indices(len(kernel))] += _RIDGE
        inverse: FloatMatrix = cho_solve(cho_factor(kernel), np.eye(len(kernel))).astype(np.float32)
        return inverse

    @staticmethod
    def reads(questions: int) -> bool:
        """Whether a memory of so many questions looks at their words, not at their vectors alone."""
        return questions <= _MOST_ROWS

    def updated(
        self,
        gone: Sequence[int],
        vectors: FloatMatrix,
        words: Sequence[Sequence[str]],
        parts: Sequence[Sequence[str]],
        owners: IntVector,
        count: int,
    ) -> "QuestionMemory":
        """Without the rows `gone` and with further ones at the end, which take a fraction of the time of fitting anew.

        Rows keep their numbers. The mean vector and the rarity of words stay those of the first fit.
        """
        other = object.__new__(QuestionMemory)
        other.__dict__.update(self.__dict__)
        other._owners = np.concatenate([self._owners, owners])
        other._count = count
        fresh = _unit(vectors - self._mean) if len(vectors) else vectors
        other._vectors = np.vstack([self._vectors, fresh])
        if not self._is_small:
            return other
        before, after = len(self._vectors), len(other._vectors)
        inverse = np.zeros((after, after), dtype=np.float64)
        inverse[:before, :before] = self._inverse
        rows = np.asarray(gone, dtype=np.int64)
        if len(rows):
            # The inverse of what is left of a matrix, from the inverse of the whole (Schur's complement).
            bridge = inverse[:, rows]
            inverse -= bridge @ np.linalg.solve(inverse[np.ix_(rows, rows)], bridge.T)
            inverse[rows, :] = inverse[:, rows] = 0
        other._words, other._parts = self._words.with_rows(words), self._parts.with_rows(parts)
        if after > before:
            likeness = np.stack(
                [
                    other._likeness(vector, Counter(own_words), Counter(own_parts))
                    for vector, own_words, own_parts in zip(fresh, words, parts, strict=True)
                ],
                axis=1,
            ).astype(np.float64)
            corner = likeness[before:]
            corner = (corner + corner.T) / 2 + _RIDGE * np.eye(after - before)
            bridge = inverse[:before, :before] @ likeness[:before]
            rest = np.linalg.inv(corner - likeness[:before].T @ bridge)
            inverse[:before, :before] += bridge @ rest @ bridge.T
            inverse[:before, before:] = -bridge @ rest
            inverse[before:, :before] = inverse[:before, before:].T
            inverse[before:, before:] = rest
        other._inverse = inverse.astype(np.float32)
        other._weights = other._inverse @ _targets(other._owners, count)
        return other

    def _likeness(self, centred: FloatVector, words: Mapping[str, float], parts: Mapping[str, float]) -> FloatVector:
        meaning = np.exp(_SHARPNESS * (self._vectors @ centred - 1))
        likeness: FloatVector = meaning + _WORDS * self._words.likeness(words) + _PARTS * self._parts.likeness(parts)
        return likeness

    def answers(
        self,
        vector: FloatVector,
        words: Mapping[str, float],
        parts: Mapping[str, float],
        near: IntVector,
        hidden: Sequence[int] = (),
    ) -> FloatVector:
        """How much the questions speak for each article, about 0 to 1, shape (count,); `hidden` ones are left out.

        `near` are the questions nearest to the vector, hidden ones not among them: all that a large memory looks at.
        """
        if not len(self._vectors):
            return np.zeros(self._count, dtype=np.float32)
        moved = vector - self._mean
        centred: FloatVector = moved / np.maximum(np.linalg.norm(moved), np.float32(1e-9))
        if not self._is_small:
            return self._by_neighbours(centred, near)
        likeness = self._likeness(centred, words, parts)
        answers = likeness @ self._weights
        if len(hidden):
            rows = np.asarray(hidden)
            correction = np.linalg.solve(self._inverse[np.ix_(rows, rows)], self._weights[rows])
            answers = answers - (likeness @ self._inverse[:, rows]) @ correction
        result: FloatVector = answers.astype(np.float32)
        return result

    def _by_neighbours(self, centred: FloatVector, rows: IntVector) -> FloatVector:
        near = self._vectors[rows]
        kernel = np.exp(_SHARPNESS * (near @ near.T - 1)).astype(np.float64)
        kernel[np.diag_indices(len(rows))] += _RIDGE
        factor = cho_factor(kernel, overwrite_a=True, check_finite=False)
        weights = cho_solve(factor, np.exp(_SHARPNESS * (near @ centred - 1)), check_finite=False)
        return np.bincount(self._owners[rows], weights=weights, minlength=self._count).astype(np.float32)


def _targets(owners: IntVector, count: int) -> FloatMatrix:
    targets = np.zeros((len(owners), count), dtype=np.float32)
    targets[np.arange(len(owners)), owners] = 1
    return targets


class _Terms:
    """TF-IDF of documents given as terms, rows of unit length."""

    def __init__(self, documents: Sequence[Sequence[str]]) -> None:
        # Not a set: its order differs from process to process, and with it the last bits of every sum.
        frequency = Counter(term for document in documents for term in dict.fromkeys(document))
        self._columns = {term: column for column, term in enumerate(frequency)}
        self._rarity = [1 + log((1 + len(documents)) / (1 + count)) for count in frequency.values()]
        self._rarest = max(self._rarity, default=1.0)
        self._keep(self._rows_of(documents))

    def with_rows(self, documents: Sequence[Sequence[str]]) -> "_Terms":
        """Further documents at the end; their unknown terms are left out, and rarity stays what it was."""
        other = object.__new__(_Terms)
        other.__dict__.update(self.__dict__)
        other._keep(csr_matrix(vstack([self._matrix, self._rows_of(documents)])))
        return other

    def _keep(self, matrix: csr_matrix) -> None:
        by_term = matrix.tocsc()
        self._matrix = matrix
        self._starts, self._documents, self._values = by_term.indptr.tolist(), by_term.indices, by_term.data

    def _rows_of(self, documents: Sequence[Sequence[str]]) -> csr_matrix:
        rows, columns, values = [], [], []
        for row, document in enumerate(documents):
            for term, count in Counter(document).items():
                column = self._columns.get(term)
                if column is not None:
                    rows.append(row)
                    columns.append(column)
                    values.append((1 + log(count)) * self._rarity[column])
        matrix = csr_matrix((values, (rows, columns)), shape=(len(documents), len(self._columns)))
        lengths = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel())
        return csr_matrix(matrix.multiply(1 / np.where(lengths > 0, lengths, 1)[:, None]))

    def among_themselves(self) -> FloatMatrix:
        product: FloatMatrix = (self._matrix @ self._matrix.T).toarray()
        return product

    def likeness(self, terms: Mapping[str, float]) -> FloatVector:
        """Cosine of weighted terms with each document. A term that no document has makes the cosine smaller."""
        length = 0.0
        known = []
        for term, weight in terms.items():
            column = self._columns.get(term)
            if column is None:
                length += (weight * self._rarest) ** 2
                continue
            value = weight * self._rarity[column]
            length += value**2
            known.append((self._starts[column], self._starts[column + 1], value))
        _, total = added(self._documents, self._values, known, self._matrix.shape[0])
        likeness: FloatVector = (total / (length**0.5 or 1.0)).astype(np.float32)
        return likeness


def _unit(rows: FloatMatrix) -> FloatMatrix:
    unit: FloatMatrix = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)
    return unit
