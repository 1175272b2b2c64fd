"""Builds BERT layers as an ONNX graph with ONNX Runtime's fused operators (`com.microsoft`), for one text at a time.

Without padding there is no mask, and a vector cannot depend on its neighbours in a batch. Why these operators and
these number formats: docs/decisions/0002-encoder-runtime.md.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

FUSED = "com.microsoft"

# Seven bits and not eight: processors without VNNI add pairs of 8 by 8 bit products in 16 bits, which saturate.
_INT8_LIMIT = 63

FloatArray = NDArray[np.float32]


class BertGraph:
    """A graph under construction: nodes and constants are added in order, tensors go by name."""

    def __init__(self, heads: int, epsilon: float) -> None:
        self.heads = heads
        self.epsilon = epsilon
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def model(self, name: str, given: onnx.ValueInfoProto, made: onnx.ValueInfoProto) -> onnx.ModelProto:
        """The finished model."""
        graph = helper.make_graph(self.nodes, name, [given], [made], self.constants)
        opsets = [helper.make_opsetid("", 21), helper.make_opsetid(FUSED, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)

    def pool(self, rows: str, output: str) -> None:
        """The mean over the tokens, to unit length."""
        self.add("ReduceMean", [rows, self.constant("token_axis", np.array([1]))], "mean", keepdims=0)
        self.add("LpNormalization", ["mean"], output, axis=1, p=2)

    def attention(self, rows: str, layer: str, matrices: Sequence[FloatArray], biases: Sequence[FloatArray]) -> str:
        """Self-attention of query, key and value, matrices of shape (outputs, inputs); the heads' results joined."""
        projections = [f"{layer}.q", f"{layer}.k", f"{layer}.v"]
        self.int8_linear(rows, np.concatenate(matrices), np.concatenate(biases), f"{layer}.qkv")
        self.add("Split", [f"{layer}.qkv"], *projections, axis=2, num_outputs=3)
        self.add("MultiHeadAttention", projections, f"{layer}.attention", domain=FUSED, num_heads=self.heads)
        return f"{layer}.attention"

    def float_layer(self, rows: str, layer: str, weights: Mapping[str, FloatArray]) -> str:
        """One layer from weights under Hugging Face's names after `{layer}.`.

        The second matrix of the feed-forward part stays in float32: the activations before it have outliers.
        """

        def pair(name: str) -> tuple[FloatArray, FloatArray]:
            return weights[f"{layer}.{name}.weight"], weights[f"{layer}.{name}.bias"]

        projections = [pair(f"attention.self.{each}") for each in ("query", "key", "value")]
        attended = self.attention(rows, layer, [each for each, _ in projections], [each for _, each in projections])
        self.int8_linear(attended, *pair("attention.output.dense"), f"{layer}.ao")
        rows = self.residual(f"{layer}.ao", rows, f"{layer}.aln", *pair("attention.output.LayerNorm"))
        self.int8_linear(rows, *pair("intermediate.dense"), f"{layer}.fi")
        self.add("Gelu", [f"{layer}.fi"], f"{layer}.gelu")
        matrix, bias = pair("output.dense")
        self.add("MatMul", [f"{layer}.gelu", self.constant(f"{layer}.fo.matrix", matrix.T)], f"{layer}.product")
        self.add("Add", [f"{layer}.product", self.constant(f"{layer}.fo.bias", bias)], f"{layer}.fo")
        return self.residual(f"{layer}.fo", rows, f"{layer}.oln", *pair("output.LayerNorm"))

    def residual(self, rows: str, before: str, name: str, weight: FloatArray, bias: FloatArray) -> str:
        """The sum of both, normalised."""
        self.add("Add", [rows, before], f"{name}.sum")
        return self.layer_norm(f"{name}.sum", name, weight, bias)

    def int8_linear(self, rows: str, matrix: FloatArray, bias: FloatArray, output: str) -> None:
        """`rows` times a matrix of shape (outputs, inputs): one scale a column, one for all activations."""
        turned = matrix.T
        scales = np.abs(turned).max(axis=0) / _INT8_LIMIT
        inputs = [
            rows,
            self.constant(f"{output}.matrix", np.round(turned / scales).astype(np.int8)),
            self.constant(f"{output}.scales", scales),
            "",
            self.constant(f"{output}.bias", bias),
        ]
        self.add("DynamicQuantizeMatMul", inputs, output, domain=FUSED)

    def layer_norm(self, rows: str, name: str, weight: FloatArray, bias: FloatArray) -> str:
        factors = [self.constant(f"{name}.w", weight), self.constant(f"{name}.b", bias)]
        self.add("LayerNormalization", [rows, *factors], name, axis=-1, epsilon=self.epsilon)
        return name

    def add(self, operator: str, inputs: Sequence[str], *outputs: str, domain: str = "", **attributes: Any) -> None:
        name = f"{outputs[0]}/{operator}"
        self.nodes.append(helper.make_node(operator, inputs, outputs, name=name, domain=domain, **attributes))

    def constant(self, name: str, values: NDArray[np.generic]) -> str:
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name
