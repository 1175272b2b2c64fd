"""An encoder that keeps what it has encoded, in memory and on disk: a second training encodes only what is new."""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from nlu.encoder import Encoder, FloatMatrix, TextKind

BATCH = 512
"""So many texts are encoded at once: long enough to be sorted by length, short enough to tell how it goes on."""
KEPT_VECTORS = 200_000
"""About 300 MB at 384 dimensions; of more, the oldest are dropped."""


class RememberingEncoder:
    """Wraps an encoder for bulk work. Vectors are kept as float32 under the SHA-256 of kind and text."""

    def __init__(
        self, encoder: Encoder, path: Path, told: Callable[[int, int], None] = lambda _done, _of: None
    ) -> None:
        """`path` is an .npz file. One that is missing, torn or of another encoder is begun anew.

        told: how many of how many new texts are encoded, where they are many.
        """
        self._told = told
        self.name = encoder.name
        self.fingerprint = encoder.fingerprint
        self.dim = encoder.dim
        self._encoder = encoder
        self._path = path
        self._kept: dict[bytes, FloatMatrix] = {}
        self._new = 0
        try:
            with np.load(path) as stored:
                if str(stored["fingerprint"]) == encoder.fingerprint:
                    keys = stored["keys"].tobytes()
                    rows = stored["rows"]
                    self._kept = {keys[32 * at : 32 * at + 32]: row for at, row in enumerate(rows)}
        except (OSError, KeyError, ValueError, zipfile.BadZipFile):
            pass

    def encode(self, texts: Sequence[str], kind: TextKind = "query") -> FloatMatrix:
        """See Encoder.encode."""
        keys = [hashlib.sha256(f"{kind}\0{text}".encode("utf-8", "replace")).digest() for text in texts]
        new = {key: text for key, text in zip(keys, texts, strict=True) if key not in self._kept}
        for start in range(0, len(new), BATCH):
            some = dict(islice(new.items(), start, start + BATCH))
            self._kept.update(zip(some, self._encoder.encode(list(some.values()), kind), strict=True))
            self._new += len(some)
            if len(new) > BATCH:
                self._told(start + len(some), len(new))
        if not texts:
            return np.zeros((0, self.dim), dtype=np.float32)
        return np.stack([self._kept[key] for key in keys])

    def save(self) -> None:
        """Write to disk what is kept, if there is anything new; an older file is replaced whole."""
        if not self._new:
            return
        kept = list(self._kept.items())[-KEPT_VECTORS:]
        self._path.parent.mkdir(parents=True, exist_ok=True)
        part = self._path.with_suffix(f".{os.getpid()}.part")
        with part.open("wb") as file:
            np.savez(
                file,
                fingerprint=np.array(self.fingerprint),
                keys=np.frombuffer(b"".join(key for key, _ in kept), dtype=np.uint8),
                rows=np.stack([row for _, row in kept]),
            )
        part.replace(self._path)
        self._new = 0
