"""A dense featurizer for Rasa 3.6: the sentence vectors of Otvet's own encoder, the same as Otvet computes.

This file runs in Rasa's environment (Python 3.10), needs onnxruntime and tokenizers there, and imports nothing else of
Otvet. In a pipeline: `- name: otvet_featurizer.OtvetFeaturizer` with `encoder:`, the folder that holds
`serving/encoder.onnx` and `tokenizer.json`; the environment variable OTVET_ENCODER_FOLDER goes before it.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from rasa.engine.graph import ExecutionContext, GraphComponent
from rasa.engine.recipes.default_recipe import DefaultV1Recipe
from rasa.engine.storage.resource import Resource
from rasa.engine.storage.storage import ModelStorage
from rasa.nlu.constants import FEATURIZER_CLASS_ALIAS
from rasa.nlu.featurizers.dense_featurizer.dense_featurizer import DenseFeaturizer
from rasa.nlu.tokenizers.tokenizer import Tokenizer
from rasa.shared.exceptions import InvalidConfigException
from rasa.shared.nlu.constants import FEATURE_TYPE_SENTENCE, FEATURE_TYPE_SEQUENCE, TEXT
from rasa.shared.nlu.training_data.features import Features
from rasa.shared.nlu.training_data.message import Message
from rasa.shared.nlu.training_data.training_data import TrainingData
from tokenizers import Tokenizer as Pieces

MAX_TOKENS = 512
MAX_CHARACTERS = 16 * MAX_TOKENS
PROMPT = "query: "


class SentenceEncoder:
    """The encoder's serving graph. Loading takes a second, a short text 5 ms."""

    def __init__(self, folder: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        graph = str(folder / "serving" / "encoder.onnx")
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self._pieces = Pieces.from_file(str(folder / "tokenizer.json"))
        self._pieces.enable_truncation(MAX_TOKENS)

    def vector(self, text: str) -> np.ndarray[Any, Any]:
        """The unit vector of a text: float32 of shape (1, dimensions)."""
        cleaned = text.strip()[:MAX_CHARACTERS].encode("utf-8", "replace").decode()
        ids = self._pieces.encode(PROMPT + cleaned).ids
        (rows,) = self._session.run(None, {"ids": np.array([ids], np.int64)})
        return np.asarray(rows, np.float32)


@lru_cache(maxsize=1)
def encoder_of(folder: str) -> SentenceEncoder:
    """One encoder for a process: training and the models loaded after it share it."""
    return SentenceEncoder(Path(folder))


@DefaultV1Recipe.register(DefaultV1Recipe.ComponentType.MESSAGE_FEATURIZER, is_trainable=False)
class OtvetFeaturizer(DenseFeaturizer, GraphComponent):
    """Gives every text its sentence vector, and each of its words the vector of the whole."""

    @classmethod
    def required_components(cls) -> list[type]:
        return [Tokenizer]

    @staticmethod
    def required_packages() -> list[str]:
        return ["onnxruntime", "tokenizers"]

    @staticmethod
    def get_default_config() -> dict[str, Any]:
        return {**DenseFeaturizer.get_default_config(), "encoder": None}

    @classmethod
    def validate_config(cls, config: dict[str, Any]) -> None:
        """Raises InvalidConfigException where there is no encoder."""
        _folder(config)

    @classmethod
    def create(
        cls,
        config: dict[str, Any],
        model_storage: ModelStorage,
        resource: Resource,
        execution_context: ExecutionContext,
    ) -> OtvetFeaturizer:
        return cls(execution_context.node_name, config)

    def process(self, messages: list[Message]) -> list[Message]:
        for message in messages:
            self._add(message)
        return messages

    def process_training_data(self, training_data: TrainingData) -> TrainingData:
        self._encoder()  # loaded by one thread
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            list(pool.map(self._add, training_data.training_examples))
        return training_data

    def _encoder(self) -> SentenceEncoder:
        return encoder_of(_folder(self._config))

    def _add(self, message: Message) -> None:
        text = message.get(TEXT)
        if not text:
            return
        vector = self._encoder().vector(text)
        alias = self._config[FEATURIZER_CLASS_ALIAS]
        message.add_features(Features(vector, FEATURE_TYPE_SENTENCE, TEXT, alias))


def _folder(config: dict[str, Any]) -> str:
    folder = os.environ.get("OTVET_ENCODER_FOLDER") or config.get("encoder")
    if not folder or not (Path(folder) / "serving" / "encoder.onnx").is_file():
        raise InvalidConfigException(
            f"otvet_featurizer: no encoder in {folder!r}. Set OTVET_ENCODER_FOLDER to the folder with "
            "serving/encoder.onnx and tokenizer.json (Otvet's var/encoder/multilingual-e5-small)."
        )
    return str(folder)
