"""What the knowledge base needs from an encoder; the package that has one fits it by its shape alone."""

from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

FloatMatrix = NDArray[np.float32]
TextKind = Literal["query", "passage"]


class Encoder(Protocol):
    """Turns texts into unit vectors whose dot product says how near two texts are in meaning."""

    @property
    def name(self) -> str: ...

    @property
    def fingerprint(self) -> str:
        """Changes whenever the vectors would."""
        ...

    @property
    def dim(self) -> int: ...

    def encode(self, texts: Sequence[str], kind: TextKind = "query") -> FloatMatrix:
        """Unit rows, float32 of shape (len(texts), dim); no texts gives shape (0, dim)."""
        ...
