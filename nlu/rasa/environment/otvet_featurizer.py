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
from rasa.shared.nlu.constants import FEATURE_TYPE_SENTENCE, TEXT
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
        self.dim = int(self._session.get_outputs()[0].shape[1])
        self._pieces = Pieces.from_file(str(folder / "tokenizer.json"))
        self._pieces.enable_truncation(MAX_TOKENS)

    @lru_cache(maxsize=100_000)  # noqa: B019 - one encoder lives as long as the process; training asks twice
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


@DefaultV1Recipe.register(DefaultV1Recipe.ComponentType.MESSAGE_FEATURIZER, is_trainable=True)
class OtvetFeaturizer(DenseFeaturizer, GraphComponent):  # type: ignore[misc]  # Rasa is in another environment
    """Gives every text its sentence vector; words get none of their own.

    Vectors of this encoder lie in a narrow cone. With `centre` (the default) the mean over the training texts is taken
    away and the rest is stretched to about one in each dimension, which is what tells texts apart.
    """

    def __init__(
        self,
        config: dict[str, Any],
        name: str,
        model_storage: ModelStorage,
        resource: Resource,
        mean: np.ndarray[Any, Any] | None = None,
    ) -> None:
        super().__init__(name, config)
        self._model_storage = model_storage
        self._resource = resource
        self._mean = mean

    @classmethod
    def required_components(cls) -> list[type]:
        return [Tokenizer]

    @staticmethod
    def required_packages() -> list[str]:
        return ["onnxruntime", "tokenizers"]

    @staticmethod
    def get_default_config() -> dict[str, Any]:
        return {**DenseFeaturizer.get_default_config(), "encoder": None, "centre": True}

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
        return cls(config, execution_context.node_name, model_storage, resource)

    @classmethod
    def load(
        cls,
        config: dict[str, Any],
        model_storage: ModelStorage,
        resource: Resource,
        execution_context: ExecutionContext,
        **_: Any,
    ) -> OtvetFeaturizer:
        with model_storage.read_from(resource) as folder:
            mean = np.load(str(folder / "mean.npy"), allow_pickle=False)
        return cls(config, execution_context.node_name, model_storage, resource, mean)

    def train(self, training_data: TrainingData) -> Resource:
        """Find the mean of the training texts and keep it with the model."""
        texts = [text for message in training_data.training_examples if (text := message.get(TEXT))]
        rows = self._vectors(texts)
        self._mean = rows.mean(axis=0, keepdims=True) if self._config["centre"] and texts else np.zeros((1, 1))
        with self._model_storage.write_to(self._resource) as folder:
            np.save(str(folder / "mean.npy"), self._mean.astype(np.float32), allow_pickle=False)
        return self._resource

    def process(self, messages: list[Message]) -> list[Message]:
        said = [message for message in messages if message.get(TEXT)]
        for message, row in zip(said, self._vectors([message.get(TEXT) for message in said]), strict=True):
            features = Features(row[None], FEATURE_TYPE_SENTENCE, TEXT, self._config[FEATURIZER_CLASS_ALIAS])
            message.add_features(features)
        return messages

    def process_training_data(self, training_data: TrainingData) -> TrainingData:
        self.process(training_data.training_examples)
        return training_data

    def _vectors(self, texts: list[str]) -> np.ndarray[Any, Any]:
        encoder = encoder_of(_folder(self._config))
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            rows = np.concatenate([np.zeros((0, encoder.dim), np.float32), *pool.map(encoder.vector, texts)])
        if self._mean is None or self._mean.shape[1] != encoder.dim or not self._config["centre"]:
            return rows
        moved = rows - self._mean
        lengths = np.maximum(np.linalg.norm(moved, axis=1, keepdims=True), 1e-9)
        return np.asarray(moved / lengths * np.sqrt(encoder.dim), np.float32)


def _folder(config: dict[str, Any]) -> str:
    folder = os.environ.get("OTVET_ENCODER_FOLDER") or config.get("encoder")
    if not folder or not (Path(folder) / "serving" / "encoder.onnx").is_file():
        raise InvalidConfigException(
            f"otvet_featurizer: no encoder in {folder!r}. Set OTVET_ENCODER_FOLDER to the folder with "
            "serving/encoder.onnx and tokenizer.json (Otvet's var/encoder/multilingual-e5-small)."
        )
    return str(folder)
