"""Sentence vectors for the intent classifier: those of the encoder, beside them an English model's for Latin script."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nlu.arrays import read_arrays
from nlu.encoder import Encoder

FloatMatrix = NDArray[np.float32]


class Embedding:
    """Centres the vectors of one or two encoders on the training texts and joins them.

    Vectors of e5 lie in a narrow cone; without its mean they differ by what the texts say. The second encoder, the
    companion, speaks English only: a text with a letter of another script has zeros in its place, and the whole row
    still has length one.
    """

    def __init__(self, encoder: Encoder, companion: Encoder | None, means: Sequence[FloatMatrix]) -> None:
        self._encoder = encoder
        self._companion = companion
        self._means = tuple(means)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="companion") if companion else None

    @classmethod
    def fit(cls, encoder: Encoder, companion: Encoder | None, texts: Sequence[str]) -> tuple["Embedding", FloatMatrix]:
        """Return the embedding fitted to folded texts (at least one), and their rows.

        The companion is left out where fewer than half of the texts are in Latin script. Raises EncodingError.
        """
        latin = np.array([is_latin(each) for each in texts])
        if not speaks_for(texts):
            companion = None
        main = encoder.encode(texts)
        means = [main.mean(axis=0)]
        if companion is None:
            return cls(encoder, None, means), _centred(main, means[0])
        beside = companion.encode([each for each, is_one in zip(texts, latin, strict=True) if is_one])
        means.append(beside.mean(axis=0))
        return cls(encoder, companion, means), _joined(_centred(main, means[0]), _centred(beside, means[1]), latin)

    def rows(self, texts: Sequence[str]) -> FloatMatrix:
        """Unit rows of folded texts. Both encoders run at once. Raises EncodingError."""
        if self._companion is None or self._pool is None:
            return _centred(self._encoder.encode(texts), self._means[0])
        latin = np.array([is_latin(each) for each in texts], dtype=np.bool_)
        beside = self._pool.submit(
            self._companion.encode, [each for each, is_one in zip(texts, latin, strict=True) if is_one]
        )
        main = _centred(self._encoder.encode(texts), self._means[0])
        return _joined(main, _centred(beside.result(), self._means[1]), latin)

    @property
    def encoders(self) -> tuple[Encoder, Encoder | None]:
        """The encoder and the companion in use."""
        return self._encoder, self._companion

    @property
    def fingerprint(self) -> str:
        """Of the encoders in use."""
        return fingerprint(*self.encoders)

    def save(self, path: Path) -> None:
        np.savez(path, *self._means)

    @classmethod
    def load(cls, path: Path, encoder: Encoder, companion: Encoder | None) -> "Embedding":
        """Read what `save` wrote; raises OSError, KeyError, ValueError or BadZipFile where it is not that."""
        means = list(read_arrays(path).values())
        if not means or (len(means) == 2 and companion is None):
            raise ValueError("the model was trained with the companion encoder")
        return cls(encoder, companion if len(means) == 2 else None, means)


def fingerprint(encoder: Encoder, companion: Encoder | None) -> str:
    """Changes whenever the rows would."""
    return encoder.fingerprint + (f"+{companion.fingerprint}" if companion else "")


def speaks_for(texts: Sequence[str]) -> bool:
    """Whether the companion has a say: in at least half of the texts."""
    return 2 * sum(map(is_latin, texts)) >= len(texts)


def is_latin(text: str) -> bool:
    """Whether a text has letters, and all of them belong to the Latin script."""
    letters = [each for each in text if each.isalpha()]
    return bool(letters) and all(each < "\u0250" or "\u1e00" <= each < "\u1f00" for each in letters)


def _centred(rows: FloatMatrix, mean: FloatMatrix) -> FloatMatrix:
    moved = rows - mean
    unit: FloatMatrix = (moved / np.maximum(np.linalg.norm(moved, axis=1, keepdims=True), 1e-9)).astype(np.float32)
    return unit


def _joined(main: FloatMatrix, beside: FloatMatrix, latin: NDArray[np.bool_]) -> FloatMatrix:
    rows = np.zeros((len(main), main.shape[1] + beside.shape[1]), np.float32)
    rows[:, : main.shape[1]] = main
    rows[latin, main.shape[1] :] = beside
    rows[latin] *= np.float32(np.sqrt(0.5))
    return rows
