"""Nearest vectors with FAISS."""

from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from kb_index.encoder import FloatMatrix

IntVector = NDArray[np.int64]
FloatVector = NDArray[np.float32]


class VectorIndex:
    """Rows of unit vectors, numbered from 0 in the order given; likeness is the cosine."""

    def __init__(self, index: Any) -> None:
        self._index = index
        self.size = int(index.ntotal)
        self.dim = int(index.d)

    @classmethod
    def build(cls, rows: FloatMatrix, dim: int) -> "VectorIndex":
        index = faiss.IndexFlatIP(dim)
        if len(rows):
            index.add(np.ascontiguousarray(rows, dtype=np.float32))
        return cls(index)

    def nearest(self, query: FloatVector, count: int) -> IntVector:
        """Numbers of the nearest rows, the nearest first; fewer when there are fewer."""
        if not self.size:
            return np.zeros(0, dtype=np.int64)
        _, found = self._index.search(query[None, :], min(count, self.size))
        numbers: IntVector = found[0]
        return numbers[numbers >= 0]

    def rows(self, numbers: IntVector) -> FloatMatrix:
        """The vectors of these rows, float32 of shape (len(numbers), dim)."""
        if not len(numbers):
            return np.zeros((0, self.dim), dtype=np.float32)
        return self._all()[numbers]

    def _all(self) -> FloatMatrix:
        """All vectors, without a copy: FAISS owns the memory, so `self` must stay alive while the result is used."""
        flat: FloatMatrix = faiss.rev_swig_ptr(self._index.get_xb(), self.size * self.dim).reshape(self.size, self.dim)
        return flat

    def save(self, path: Path) -> None:
        faiss.write_index(self._index, str(path))

    @classmethod
    def load(cls, path: Path) -> "VectorIndex":
        """Raises RuntimeError when the file is no FAISS index."""
        return cls(faiss.read_index(str(path)))
