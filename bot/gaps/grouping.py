"""Messages that mean the same, found by their vectors, whatever the language. Pure.

Vectors of e5 lie in a narrow cone, another one for each language; without the mean of its language a Russian message
lies beside an English one that asks the same. The neighbours of each message make a graph, and Leiden's algorithm
(Traag, Waltman, van Eck, "From Louvain to Leiden", 2019) parts it with the constant Potts model: a group is denser
inside than RESOLUTION, however many other messages there are.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Final

import faiss
import numpy as np
from numpy.typing import NDArray

FloatMatrix = NDArray[np.float32]
IntArray = NDArray[np.int64]

NEIGHBOURS: Final = 40
"""Of each message, in each language."""
FLOOR: Final = 0.4
"""Cosine of centred vectors below which two messages have nothing to do with each other."""
FLOOR_ACROSS: Final = 0.3
"""The same for messages in two languages, which lie farther apart; their cosines are stretched accordingly."""
RESOLUTION: Final = 0.15
ALIKE: Final = 0.55
"""Cosine from which on a new message belongs to the group of its nearest neighbours."""
VOTERS: Final = 5
MANY: Final = 200
"""From so many messages of a language on, their own mean is taken."""


def centred(vectors: FloatMatrix, langs: Sequence[str], means: Mapping[str, FloatMatrix]) -> FloatMatrix:
    """Unit rows without the mean of their language.

    means: language → the mean vector of its texts, for languages that have few here; of one that is not in it either,
    the mean of all means, or of all vectors.
    """
    rows = np.array(vectors, np.float32)
    of_lang = np.array(langs)
    for lang in sorted(set(langs)):
        mine = of_lang == lang
        if mine.sum() >= MANY:
            mean = rows[mine].mean(axis=0)
        elif lang in means:
            mean = means[lang]
        else:
            mean = np.mean([*means.values()], axis=0) if means else vectors.mean(axis=0)
        rows[mine] -= mean
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: FloatMatrix = rows / np.maximum(lengths, 1e-9)
    return unit


def cluster(rows: FloatMatrix, langs: Sequence[str], *, resolution: float = RESOLUTION) -> IntArray:
    """A group number for each unit row, from 0 on; whatever is like nothing else is alone. The same rows in the same
    order give the same groups."""
    # Here, because only one process of an installation ever groups.
    import graspologic_native
    from scipy.sparse import csr_matrix

    count = len(rows)
    source, target, cosine = _pairs(rows, langs, rows, langs, NEIGHBOURS + 1)
    keep = (cosine >= FLOOR) & (source != target)
    if not keep.any():
        return np.arange(count, dtype=np.int64)
    graph = csr_matrix((cosine[keep].astype(np.float64), (source[keep], target[keep])), shape=(count, count))
    graph = graph.maximum(graph.T).tocsr()
    _, found = graspologic_native.leiden_csr(
        graph.indptr.astype(np.int64),
        graph.indices.astype(np.int32),
        graph.data,
        count,
        resolution=resolution,
        use_modularity=False,
        iterations=3,
        seed=1,
    )
    return np.array([found[at] for at in range(count)], dtype=np.int64)


def place(
    rows: FloatMatrix, langs: Sequence[str], known: FloatMatrix, known_langs: Sequence[str], groups: IntArray
) -> list[int | None]:
    """For each row the group of `groups` that its nearest of the `known` rows belong to, or None: it is like none."""
    votes: list[dict[int, float]] = [defaultdict(float) for _ in rows]
    nearest = np.zeros(len(rows))
    for at, neighbour, cosine in zip(*_pairs(rows, langs, known, known_langs, VOTERS), strict=True):
        if cosine >= FLOOR:
            votes[at][int(groups[neighbour])] += float(cosine)
            nearest[at] = max(nearest[at], cosine)
    return [
        max(votes[at], key=lambda group: (votes[at][group], -group)) if nearest[at] >= ALIKE else None
        for at in range(len(rows))
    ]


def keep_numbers(found: IntArray, before: Sequence[int | None]) -> tuple[dict[int, int], Collection[int]]:
    """Which of the found groups is which of the groups before: the pair that shares most first, each once.

    Returns found group → group before, and the groups before that no found one goes on.
    """
    shared = Counter((int(group), earlier) for group, earlier in zip(found, before, strict=True) if earlier is not None)
    matched: dict[int, int] = {}
    for (group, earlier), _ in sorted(shared.items(), key=lambda item: (-item[1], item[0])):
        if group not in matched and earlier not in matched.values():
            matched[group] = earlier
    gone = {earlier for earlier in before if earlier is not None} - set(matched.values())
    return matched, gone


def typical(rows: FloatMatrix, most: int) -> list[int]:
    """The rows that stand for all: the most central first, then each as unlike those before as may be, so that a few
    of them show the breadth of the group."""
    if not len(rows):
        return []
    centre = rows.mean(axis=0)
    chosen = [int(np.argmax(rows @ centre))]
    nearest = rows @ rows[chosen[0]]
    central = rows @ (centre / max(float(np.linalg.norm(centre)), 1e-9))
    while len(chosen) < min(most, len(rows)):
        worth = central - nearest
        worth[chosen] = -np.inf
        best = int(np.argmax(worth))
        chosen.append(best)
        nearest = np.maximum(nearest, rows @ rows[best])
    return chosen


def _pairs(
    rows: FloatMatrix, langs: Sequence[str], known: FloatMatrix, known_langs: Sequence[str], count: int
) -> tuple[IntArray, IntArray, FloatMatrix]:
    """Each row with its nearest `count` known rows of each language: (row, known row, cosine)."""
    found: list[tuple[IntArray, IntArray, FloatMatrix]] = []
    of_row, of_known = np.array(langs, dtype="U8"), np.array(known_langs, dtype="U8")
    for theirs in sorted(set(known_langs)):
        there = np.flatnonzero(of_known == theirs)
        index = faiss.IndexFlatIP(known.shape[1])
        index.add(np.ascontiguousarray(known[there]))
        for mine in sorted(set(langs)):
            here = np.flatnonzero(of_row == mine)
            cosine, near = index.search(np.ascontiguousarray(rows[here]), min(count, len(there)))
            if mine != theirs:
                cosine *= FLOOR / FLOOR_ACROSS
            found.append((np.repeat(here, near.shape[1]), there[near.ravel()], cosine.ravel()))
    if not found:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32)
    return tuple(np.concatenate(each) for each in zip(*found, strict=True))  # type: ignore[return-value]
