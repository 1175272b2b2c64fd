"""Nearest vectors with FAISS."""

from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from kb_index.encoder import FloatMatrix

IntVector = NDArray[np.int64]
FloatVector = NDArray[np.float32]


_EXACT_ROWS = 5_000  # up to here one look at every row takes well under a millisecond


class VectorIndex:
    """Rows of unit vectors, numbered from 0 in the order given; likeness is the cosine.

    Candidates of a large base come from bytes instead of floats (FAISS's 8-bit scalar quantiser), four times faster;
    their cosines are computed from the rows as given.
    """

    def __init__(self, rows: FloatMatrix, dim: int) -> None:
        self._rows = np.ascontiguousarray(rows, dtype=np.float32)
        self.size = len(rows)
        if self.size <= _EXACT_ROWS:
            self._index: Any = faiss.IndexFlatIP(dim)
        else:
            self._index = faiss.IndexScalarQuantizer(
                dim, faiss.ScalarQuantizer.QT_8bit_uniform, faiss.METRIC_INNER_PRODUCT
            )
            self._index.train(self._rows)
        if self.size:
            self._index.add(self._rows)

    def nearest(self, query: FloatVector, count: int) -> IntVector:
        """Numbers of the nearest rows, the nearest first; fewer when there are fewer."""
        if not self.size:
            return np.zeros(0, dtype=np.int64)
        _, found = self._index.search(query[None, :], min(count, self.size))
        numbers: IntVector = found[0]
        return numbers[numbers >= 0]

    def rows(self, numbers: IntVector) -> FloatMatrix:
        """The vectors of these rows, float32 of shape (len(numbers), dim)."""
        return self._rows[numbers]
