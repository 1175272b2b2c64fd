"""Nearest vectors with FAISS, by an index that suits their number.

Up to EXACT_ROWS a look at every float, then at every byte (FAISS's 8-bit scalar quantiser), and from LISTED_ROWS on
only at the bytes of the likeliest lists: FAISS's guidelines recommend an inverted file of 4·√n to 16·√n lists for up to
a million rows (https://github.com/facebookresearch/faiss/wiki/Guidelines-to-choose-an-index).
"""

from math import sqrt
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from kb_index.encoder import FloatMatrix

IntVector = NDArray[np.int64]
FloatVector = NDArray[np.float32]

EXACT_ROWS = 5_000  # up to here one look at every row takes well under a millisecond
LISTED_ROWS = 100_000  # up to here a look at every byte takes about three milliseconds
PROBED_LISTS = 128  # of a million rows: recall@10 0.978, and more lists find hardly more
MEMORY_BYTES = 1 << 30  # what the vectors of one index may take: 2.7 million rows of 384 bytes, then half a byte each
_TRAINING_ROWS_PER_LIST = 40
_ADDED_AT_ONCE = 50_000


class VectorIndex:
    """Rows of unit vectors, numbered from 0 in the order given; likeness is the cosine.

    Cosines of found rows are computed from the rows as given, up to LISTED_ROWS, and from their bytes above it, where
    the rows themselves are not kept.
    """

    def __init__(self, rows: FloatMatrix, dim: int, *, index: NDArray[np.uint8] | None = None) -> None:
        """`index` is what `packed` of an index of the same rows gave; without it, building blocks for minutes from
        LISTED_ROWS on."""
        self.size = len(rows)
        self.is_listed = self.size > LISTED_ROWS
        self._rows = None if self.is_listed else np.ascontiguousarray(rows, dtype=np.float32)
        if index is not None:
            self._index: Any = faiss.deserialize_index(index)
        else:
            self._index = self._listed(rows, dim) if self._rows is None else self._flat(self._rows, dim)
        if self.is_listed:
            self._index.nprobe = PROBED_LISTS
            self._index.make_direct_map()

    def _flat(self, rows: FloatMatrix, dim: int) -> Any:
        if self.size <= EXACT_ROWS:
            index: Any = faiss.IndexFlatIP(dim)
        else:
            index = faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_8bit_uniform, faiss.METRIC_INNER_PRODUCT)
            index.train(rows)
        if self.size:
            index.add(rows)
        return index

    def _listed(self, rows: FloatMatrix, dim: int) -> Any:
        lists = 2 ** round(np.log2(4 * sqrt(self.size)))
        fits = self.size * (dim + 8) <= MEMORY_BYTES
        kind = faiss.ScalarQuantizer.QT_8bit if fits else faiss.ScalarQuantizer.QT_4bit
        index = faiss.IndexIVFScalarQuantizer(
            faiss.IndexFlatIP(dim), dim, lists, kind, faiss.METRIC_INNER_PRODUCT, False
        )
        sample = np.random.default_rng(0).permutation(self.size)[: lists * _TRAINING_ROWS_PER_LIST]
        index.train(np.ascontiguousarray(rows[np.sort(sample)], dtype=np.float32))
        for start in range(0, self.size, _ADDED_AT_ONCE):
            index.add(np.ascontiguousarray(rows[start : start + _ADDED_AT_ONCE], dtype=np.float32))
        return index

    def packed(self) -> NDArray[np.uint8] | None:
        """The index as bytes, where building it takes long; None where it does not."""
        packed: NDArray[np.uint8] | None = faiss.serialize_index(self._index) if self.is_listed else None
        return packed

    def nearest(self, query: FloatVector, count: int) -> IntVector:
        """Numbers of the nearest rows, the nearest first; fewer when there are fewer."""
        if not self.size:
            return np.zeros(0, dtype=np.int64)
        _, found = self._index.search(query[None, :], min(count, self.size))
        numbers: IntVector = found[0]
        return numbers[numbers >= 0]

    def cosines(self, query: FloatVector, numbers: IntVector) -> FloatVector:
        """Of the query with these rows."""
        if self._rows is not None:
            return cosines_of(self._rows, query, numbers)
        cosines: FloatVector = self._index.reconstruct_batch(numbers) @ query
        return cosines


def cosines_of(rows: FloatMatrix, query: FloatVector, numbers: IntVector) -> FloatVector:
    """Of the query with some of the rows."""
    # To gather rows takes longer than to multiply them.
    if len(numbers) > len(rows) // 4:
        every: FloatVector = rows @ query
        return every[numbers]
    some: FloatVector = rows[numbers] @ query
    return some


def largest(values: FloatVector, count: int) -> IntVector:
    """Numbers of the largest values, the largest first."""
    best = np.argpartition(-values, count)[:count] if len(values) > count else np.arange(len(values))
    return best[np.argsort(-values[best], kind="stable")]
