"""An encoder whose last layers were adapted to the intents, beside the one that it was made from.

The lower layers are shared: one run gives the original vector and the states that go into the last layers, and a small
graph of the adapted layers makes a second vector of these states. `nlu/deep_training.py` trains them.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable

import numpy as np
import onnx
import onnxruntime
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import TensorProto, helper

from nlu.bert_onnx import BertGraph
from nlu.encoder import CACHED_QUERIES, Encoder, FloatMatrix, TextKind, clean, unit_rows

Tap = Callable[[str], tuple[FloatMatrix, FloatMatrix]]
"""A text → its unit vector (d,) and the states that go into the last layers, (tokens, d)."""

_INPUT: Final = "states"
_OUTPUT: Final = "vector"


@runtime_checkable
class Layered(Encoder, Protocol):
    """An encoder of BERT's architecture that can be adapted."""

    layers: int
    heads: int
    epsilon: float

    def tap(self, layers: int) -> Tap:
        """A function of a text, made as for a query; it loads the graph a second time. Safe in several threads."""
        ...

    def upper_weights(self, layers: int) -> dict[str, FloatMatrix]:
        """The last layers' weights under Hugging Face's names, counted from 0: `0.attention.self.query.weight`."""
        ...


class DeepEncoder:
    """Implements Encoder: half of a row is the original vector, half that of the adapted layers."""

    def __init__(
        self, base: Layered, graph: bytes, tap: Tap | None = None, cached_queries: int = CACHED_QUERIES
    ) -> None:
        """`graph` is what `upper_graph` made, `tap` the base's where it is open already. Raises ValueError."""
        try:
            described = {each.key: each.value for each in onnx.load_from_string(graph).metadata_props}
        except DecodeError as error:
            raise ValueError("the graph of the adapted layers is torn") from error
        if described.get("base") != base.fingerprint:
            raise ValueError("the adapted layers belong to another encoder")
        self.base = base
        self.graph = graph
        self.name = f"{base.name}, adapted"
        self.fingerprint = hashlib.sha256(base.fingerprint.encode() + graph).hexdigest()
        self.dim = 2 * base.dim
        self._tap = tap or base.tap(int(described["layers"]))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self._cached = lru_cache(cached_queries)(self._vector)

    def encode(self, texts: Sequence[str], kind: TextKind = "query") -> FloatMatrix:
        """See Encoder.encode; `kind` makes no difference."""
        if not texts:
            return np.zeros((0, self.dim), np.float32)
        vector = self._cached if len(texts) == 1 else self._vector
        return unit_rows(np.stack([vector(clean(text)) for text in texts]))

    def _vector(self, text: str) -> FloatMatrix:
        vector, states = self._tap(text)
        (adapted,) = self._session.run(None, {_INPUT: states[None]})
        row: FloatMatrix = np.concatenate([vector, adapted[0]])
        return row


def adapted(base: Encoder, graph: Path) -> Encoder:
    """The encoder with the adapted layers in a file, or as it is where there is none. Raises OSError, ValueError."""
    if not graph.is_file():
        return base
    if not isinstance(base, Layered):
        raise ValueError(f"{base.name} cannot have adapted layers")
    return DeepEncoder(base, graph.read_bytes())


def base_of(encoder: Encoder) -> Encoder:
    """The encoder itself, or what it was adapted from."""
    return encoder.base if isinstance(encoder, DeepEncoder) else encoder


def upper_graph(base: Layered, weights: Mapping[str, NDArray[np.float32]], layers: int) -> bytes:
    """The adapted layers, given under the names of `Layered.upper_weights`, as an ONNX graph with 8-bit weights."""
    graph = BertGraph(base.heads, base.epsilon)
    rows = _INPUT
    for layer in range(layers):
        rows = graph.float_layer(rows, f"{layer}", weights)
    graph.pool(rows, _OUTPUT)
    shape: list[str | int | None] = [1, "tokens", base.dim]
    model = graph.model(
        "adapted layers",
        helper.make_tensor_value_info(_INPUT, TensorProto.FLOAT, shape),
        helper.make_tensor_value_info(_OUTPUT, TensorProto.FLOAT, [1, base.dim]),
    )
    helper.set_model_props(model, {"base": base.fingerprint, "layers": str(layers)})
    serialised: bytes = model.SerializeToString(deterministic=True)
    return serialised


def with_output(graph: bytes, tensor: str) -> bytes:
    """The graph with one more output."""
    model: Any = onnx.load_from_string(graph)
    model.graph.output.append(helper.make_tensor_value_info(tensor, TensorProto.FLOAT, None))
    serialised: bytes = model.SerializeToString()
    return serialised
