"""The embedded intent engine: ranks intents, and says how sure it is that the first is right and meant at all."""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from nlu.arrays import read_arrays
from nlu.confidence import CAUTIOUS_SHARE, ConfidenceModel, best_threshold, enough_rows, precise_threshold, row_weights
from nlu.deep_encoder import DeepEncoder, adapted, base_of
from nlu.embedding import Embedding, fingerprint
from nlu.encoder import Encoder
from nlu.errors import EncoderMismatch, ModelDamaged, NotEnoughData
from nlu.features import fold
from nlu.intent_training import Lesson, train_deep, train_head
from nlu.kernel_head import Evidence, KernelHead
from nlu.kernel_solver import BoolArray, FloatMatrix
from nlu.training_data import OUT_OF_SCOPE_INTENTS, Example, TrainingData

RANKING_LENGTH: Final = 10

_ADAPTED: Final = ("encoder.onnx", "companion.onnx")
_FORMAT: Final = 3


@dataclass(frozen=True)
class IntentPrediction:
    """`ranking`: up to ten (intent, probability), best first, never the out-of-scope intent.

    `confidence`: the probability that the first is right and the message in scope. An utterance without letters or
    digits has confidence 0.
    """

    ranking: tuple[tuple[str, float], ...]
    confidence: float

    @property
    def intent(self) -> str:
        """The first of the ranking."""
        return self.ranking[0][0]


class IntentClassifier:
    """A trained classifier. Immutable and safe to call from several threads; blocks on the CPU."""

    def __init__(
        self,
        embedding: Embedding,
        intents: Sequence[str],
        head: KernelHead,
        confidence: ConfidenceModel,
        cross_predictions: Sequence[IntentPrediction],
        calibration: "Calibration",
    ) -> None:
        self._embedding = embedding
        self._intents = tuple(intents)
        self._head = head
        self._confidence = confidence
        self._cross_predictions = tuple(cross_predictions)
        self._calibration = calibration

    @property
    def intents(self) -> tuple[str, ...]:
        """Names of all intents that can be predicted, sorted."""
        return tuple(name for name in self._intents if name not in OUT_OF_SCOPE_INTENTS)

    @classmethod
    def train(
        cls,
        data: TrainingData | Sequence[Example],
        encoder: Encoder,
        *,
        companion: Encoder | None = None,
        seed: int = 0,
        deep: bool = False,
        workers: int = 1,
        progress: Callable[[str], None] = lambda _: None,
    ) -> "IntentClassifier":
        """Train on all examples; the same data and seed give the same classifier, whatever the workers.

        `companion` is a second, English encoder, used where most examples are in Latin script. Examples of an
        out-of-scope intent teach the confidence and are never predicted. `deep` also adapts the encoders' last layers,
        in minutes; both must be `Layered`. `workers`: processes, for one that does nothing else. `progress` is told
        each step. Blocks on the CPU for seconds to minutes.
        Raises NotEnoughData under two intents, EncodingError, EncoderUnavailable.
        """
        examples = data.examples if isinstance(data, TrainingData) else tuple(data)
        names = [OUTSIDE if each.intent in OUT_OF_SCOPE_INTENTS else each.intent for each in examples]
        intents = sorted(set(names))
        if len(set(intents) - {OUTSIDE}) < 2:
            raise NotEnoughData("at least two intents with examples are needed. Add intents to the training data.")
        texts = [fold(each.text) for each in examples]
        labels = np.searchsorted(intents, names)
        outside_class = intents.index(OUTSIDE) if OUTSIDE in intents else None
        names_said = [(_spoken(name), number) for number, name in enumerate(intents) if name != OUTSIDE]
        names_said = [(said, number) for said, number in names_said if any(map(str.isalpha, said))]
        lesson = Lesson(
            [*texts, *(said for said, _ in names_said)],
            np.concatenate([labels, np.array([number for _, number in names_said], dtype=labels.dtype)]),
            len(names_said),
            outside_class,
            seed,
        )
        # More threads than idle cores spin: 74 s in place of 0.5 s for 328 rows on a busy machine. One also gives the
        # same sums everywhere.
        with threadpool_limits(1):
            if deep:
                trained = train_deep(lesson, encoder, companion, progress)
            else:
                trained = train_head(lesson, encoder, companion, progress, workers=workers)
            held_rows = trained.held_rows
            langs = [each.lang or "" for each in examples]
            # From here on, rows that were left out of training: first all examples, then those of held-out classes.
            evidence = Evidence.joined([trained.left_out, *trained.held])
            labels = np.concatenate([labels, labels[held_rows]])
            outside = np.concatenate([labels[: len(texts)] == outside_class, np.ones(len(held_rows), dtype=np.bool_)])
            confidence = ConfidenceModel.fit(evidence, labels, outside, outside_class)
            predictions = predictions_from(evidence, confidence, intents, np.ones(len(labels), np.bool_))
            calibration = Calibration(
                np.array([each.confidence for each in predictions], dtype=np.float32),
                np.array([each.intent == intents[label] for each, label in zip(predictions, labels, strict=True)])
                & ~outside,
                row_weights(outside, outside & (labels == outside_class), CAUTIOUS_SHARE),
                (*langs, *(langs[row] for row in held_rows)),
            )
        return cls(trained.embedding, intents, trained.head, confidence, predictions[: len(examples)], calibration)

    def predict(self, texts: Sequence[str]) -> list[IntentPrediction]:
        """Predict in the order of `texts`; any string is accepted. Raises EncodingError."""
        if not texts:
            return []
        folded = [fold(each) for each in texts]
        spoken = np.array([any(map(str.isalnum, each)) for each in folded])
        evidence = self._head.evidence(self._embedding.rows(folded), folded)
        return predictions_from(evidence, self._confidence, self._intents, spoken)

    def cross_predict(self) -> tuple[IntentPrediction, ...]:
        """The prediction that each training example got while it was left out, in the order of the training data."""
        return self._cross_predictions

    def threshold(self, lang: str | None = None, precision: float | None = None) -> float:
        """The confidence below which the classifier should abstain.

        With `precision`, the lowest from which on that share of the predictions is right, above 1 if none reaches it;
        without, the one from which on right answers outweigh wrong ones the most.
        Found on left-out training rows, on those of `lang` where they are at least 100, with out-of-scope messages at
        a cautious share.
        """
        return self._calibration.threshold(lang, precision)

    def save(self, folder: Path) -> None:
        """Write into an existing folder: head.npz, head-lexical.npz, confidence.json, calibration.npz, intents.json,
        and adapted layers as encoder.onnx and companion.onnx."""
        self._embedding.save(folder / "embedding.npz")
        self._head.save(folder)
        self._confidence.save(folder / "confidence.json")
        self._calibration.save(folder / "calibration.npz")
        encoder, companion = self._embedding.encoders
        for name, each in zip(_ADAPTED, (encoder, companion), strict=True):
            if isinstance(each, DeepEncoder):
                (folder / name).write_bytes(each.graph)
        described = {
            "format": _FORMAT,
            "encoder": fingerprint(base_of(encoder), base_of(companion) if companion else None),
            "intents": self._intents,
            "cross_predictions": [[each.ranking, each.confidence] for each in self._cross_predictions],
        }
        (folder / "intents.json").write_text(json.dumps(described, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, encoder: Encoder, companion: Encoder | None = None) -> "IntentClassifier":
        """Read what `save` wrote; raises ModelDamaged, or EncoderMismatch if trained with other encoders."""
        try:
            described = json.loads((folder / "intents.json").read_text(encoding="utf-8"))
            if described["format"] != _FORMAT:
                raise ModelDamaged(f"{folder}: format {described['format']}, not {_FORMAT}. Train again.")
            known = {fingerprint(encoder, None): None, fingerprint(encoder, companion): companion}
            if described["encoder"] not in known:
                raise EncoderMismatch(described["encoder"], fingerprint(encoder, companion))
            companion = known[described["encoder"]]
            return cls(
                Embedding.load(
                    folder / "embedding.npz",
                    adapted(encoder, folder / _ADAPTED[0]),
                    adapted(companion, folder / _ADAPTED[1]) if companion else None,
                ),
                described["intents"],
                KernelHead.load(folder),
                ConfidenceModel.load(folder / "confidence.json"),
                [
                    IntentPrediction(tuple((name, value) for name, value in ranking), confidence)
                    for ranking, confidence in described["cross_predictions"]
                ],
                Calibration.load(folder / "calibration.npz"),
            )
        except (OSError, KeyError, ValueError, TypeError, BadZipFile) as error:
            raise ModelDamaged(f"{folder} has no whole intent model ({error}). Train again.") from error


@dataclass(frozen=True)
class Calibration:
    """Left-out predictions: each row's confidence, whether right, weight, language or ""."""

    confidence: FloatMatrix
    right: BoolArray
    weights: NDArray[np.float64]
    langs: tuple[str, ...]

    def threshold(self, lang: str | None, precision: float | None) -> float:
        mine = np.array([each == lang for each in self.langs], dtype=np.bool_)
        if not enough_rows(int(mine.sum())):
            mine[:] = True
        rows = self.confidence[mine], self.right[mine], self.weights[mine]
        if precision is None:
            return best_threshold(*rows)
        return precise_threshold(*rows, precision)

    def save(self, path: Path) -> None:
        np.savez(
            path,
            confidence=self.confidence,
            right=self.right,
            weights=self.weights,
            langs=np.array(self.langs, dtype="U"),
        )

    @classmethod
    def load(cls, path: Path) -> "Calibration":
        saved = read_arrays(path)
        langs = tuple(str(each) for each in saved["langs"])
        return cls(saved["confidence"], saved["right"], saved["weights"], langs)


OUTSIDE: Final = "out_of_scope"
"""The one class that all out-of-scope intents are for a model."""


def _spoken(name: str) -> str:
    """An intent's name as words: `faq/order_status` says `faq order status`."""
    return fold(re.sub(r"[\W_]+", " ", name))


def predictions_from(
    evidence: Evidence, model: ConfidenceModel, intents: Sequence[str], spoken: BoolArray
) -> list[IntentPrediction]:
    """Rankings and confidences of the rows of `evidence`; a row that is not `spoken` has confidence 0."""
    probabilities = model.probabilities(evidence)
    confidence = model.confidence(evidence) * spoken
    found = []
    for row, sure in zip(probabilities, confidence, strict=True):
        best = np.argsort(-row, kind="stable")[: RANKING_LENGTH + 1]
        ranking = [(intents[index], float(row[index])) for index in best if intents[index] != OUTSIDE]
        found.append(IntentPrediction(tuple(ranking[:RANKING_LENGTH]), float(sure)))
    return found
