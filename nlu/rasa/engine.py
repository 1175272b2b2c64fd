"""Rasa's ranking with our confidence: what it was trained with, how sure it may be, and who answers when it is down."""

import json
import shutil
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from nlu.arrays import read_arrays
from nlu.confidence import CAUTIOUS_SHARE, ConfidenceModel, row_weights
from nlu.embedding import Embedding, fingerprint
from nlu.encoder import Encoder
from nlu.errors import EncoderMismatch, ModelDamaged, NotEnoughData, RasaFailed, RasaUnavailable
from nlu.features import fold
from nlu.intents import OUTSIDE, RANKING_LENGTH, Calibration, IntentClassifier, IntentPrediction, predictions_from
from nlu.kernel_head import Evidence
from nlu.kernel_solver import FloatMatrix, IntArray
from nlu.rasa.client import Parsed
from nlu.rasa.process import RasaPython, run_training
from nlu.rasa.project import LIGHT, write_project
from nlu.rasa.server import RasaSource
from nlu.training_data import OUT_OF_SCOPE_INTENTS, TrainingData

MODEL: Final = "model.tar.gz"

_FORMAT: Final = 2
_HELD_OUT: Final = 0.25
_ABSENT: Final = 0.15
_LEAST_PROBABILITY: Final = 1e-6  # of an intent that Rasa's ranking leaves out


class RasaModel:
    """A trained Rasa model with what our confidence needs; immutable.

    `predict` asks the server of `source`, which must have this very model. Below `threshold` one should abstain.
    """

    def __init__(
        self,
        archive: Path,
        model_id: str,
        intents: Sequence[str],
        embedding: Embedding,
        examples: FloatMatrix,
        labels: IntArray,
        confidence: ConfidenceModel,
        calibration: Calibration,
        rehearsed: Sequence[IntentPrediction | None] = (),
    ) -> None:
        self.archive = archive
        self.model_id = model_id
        self._intents = tuple(intents)
        self._embedding = embedding
        self._examples = examples
        self._labels = labels
        self._confidence = confidence
        self._calibration = calibration
        self._rehearsed = tuple(rehearsed)

    @property
    def rehearsed(self) -> tuple[IntentPrediction | None, ...]:
        """For each training example what was predicted while it was left out; None for those that never were.

        Known after training only, it is not kept in files.
        """
        return self._rehearsed

    def judge(self, texts: Sequence[str], parsed: Sequence[Parsed]) -> list[IntentPrediction]:
        """Predictions from what the server said about the texts. Raises EncodingError."""
        rows = self._embedding.rows([fold(each) for each in texts])
        evidence = _evidence(parsed, self._intents, rows, self._examples, self._labels)
        return predictions_from(evidence, self._confidence, self._intents, _spoken(texts))

    def threshold(self, lang: str | None = None, precision: float | None = None) -> float:
        """See IntentClassifier.threshold."""
        return self._calibration.threshold(lang, precision)

    @classmethod
    def train(
        cls,
        data: TrainingData,
        encoder: Encoder,
        folder: Path,
        python: RasaPython,
        *,
        pipeline: Path = LIGHT,
        companion: Encoder | None = None,
        seed: int = 0,
        progress: Callable[[str], None] = lambda _: None,
    ) -> "RasaModel":
        """Train in an empty folder, twice: a rehearsal on a part of the examples, then on all.

        The rehearsal lacks a quarter of each intent's examples and, whole, every seventh intent: what Rasa says about
        them is what the confidence and its thresholds are fitted to. Blocks for minutes. Raises NotEnoughData under
        two intents or with one example in each, RasaFailed, RasaNotInstalled, EncodingError.
        """
        python.check()
        examples = data.examples
        names = [OUTSIDE if each.intent in OUT_OF_SCOPE_INTENTS else each.intent for each in examples]
        intents = sorted(set(names))
        if len(set(intents) - {OUTSIDE}) < 2:
            raise NotEnoughData("at least two intents with examples are needed. Add intents to the training data.")
        labels = np.searchsorted(intents, names).astype(np.int64)
        kept, held, absent = _rehearsal(labels, intents, seed)
        held_rows = np.flatnonzero(held)
        if not (held & ~absent).any():
            raise NotEnoughData("Rasa needs intents with two examples or more. Add examples to the training data.")
        texts = [fold(each.text) for each in examples]
        progress(f"Encoding {len(texts)} examples")
        embedding, vectors = Embedding.fit(encoder, companion, texts)
        jobs = _jobs(data, folder, python.encoder, pipeline, np.flatnonzero(kept), held_rows)
        progress(f"Rasa: rehearsing on {int(kept.sum())} examples, then training on all {len(examples)}")
        run_training(python, jobs, folder, progress)
        parsed = _read_parsed(folder / "parsed.jsonl")
        if len(parsed) != len(held_rows):
            raise RasaFailed(f"it parsed {len(parsed)} of {len(held_rows)} examples")
        progress("Fitting the confidence to what Rasa said about examples that it had not seen")
        evidence = _evidence(parsed, intents, vectors[held_rows], vectors[kept], labels[kept])
        outside = absent[held_rows] | (labels[held_rows] == _outside_class(intents))
        confidence = ConfidenceModel.fit(evidence, labels[held_rows], outside, _outside_class(intents))
        predictions = predictions_from(evidence, confidence, intents, _spoken([texts[row] for row in held_rows]))
        right = np.array([names[row] == each.intent for row, each in zip(held_rows, predictions, strict=True)])
        calibration = Calibration(
            np.array([each.confidence for each in predictions], dtype=np.float32),
            right & ~outside,
            row_weights(outside, outside & (labels[held_rows] == _outside_class(intents)), CAUTIOUS_SHARE),
            tuple(examples[row].lang or "" for row in held_rows),
        )
        rehearsed: list[IntentPrediction | None] = [None] * len(examples)
        for row, prediction in zip(held_rows, predictions, strict=True):
            if not absent[row]:
                rehearsed[row] = prediction
        archive = folder / MODEL
        model_id = read_model_id(archive)
        return cls(archive, model_id, intents, embedding, vectors, labels, confidence, calibration, rehearsed)

    def save(self, folder: Path) -> None:
        """Write into an existing folder: model.tar.gz (moved there), rasa.json, confidence.json and three arrays."""
        self.archive = Path(shutil.move(self.archive, folder / MODEL))
        self._embedding.save(folder / "embedding.npz")
        self._confidence.save(folder / "confidence.json")
        self._calibration.save(folder / "calibration.npz")
        np.savez(folder / "examples.npz", vectors=self._examples, labels=self._labels)
        described = {
            "format": _FORMAT,
            "model_id": self.model_id,
            "encoder": self._embedding.fingerprint,
            "intents": self._intents,
        }
        (folder / "rasa.json").write_text(json.dumps(described, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, encoder: Encoder, companion: Encoder | None = None) -> "RasaModel":
        """Read what `save` wrote; raises ModelDamaged, EncoderMismatch."""
        try:
            described = json.loads((folder / "rasa.json").read_text(encoding="utf-8"))
            if described["format"] != _FORMAT:
                raise ModelDamaged(f"{folder}: format {described['format']}, not {_FORMAT}. Train again.")
            known = {fingerprint(encoder, None): None, fingerprint(encoder, companion): companion}
            if described["encoder"] not in known:
                raise EncoderMismatch(described["encoder"], fingerprint(encoder, companion))
            examples = read_arrays(folder / "examples.npz")
            return cls(
                folder / MODEL,
                described["model_id"],
                described["intents"],
                Embedding.load(folder / "embedding.npz", encoder, known[described["encoder"]]),
                examples["vectors"],
                examples["labels"],
                ConfidenceModel.load(folder / "confidence.json"),
                Calibration.load(folder / "calibration.npz"),
            )
        except (OSError, KeyError, ValueError, TypeError, BadZipFile) as error:
            raise ModelDamaged(f"{folder} has no whole Rasa model ({error}). Train again.") from error


class RasaClassifier:
    """Predicts with Rasa, and with the embedded engine while Rasa cannot.

    `source` has the server; `model` is the one of this version or None. A server with another model than this is one
    that was trained elsewhere: its probabilities are taken as they are, times the embedded engine's probability of
    being in scope at all, and its intents need not be ours. `on_change` is told who answers first and each change: a
    reason when the embedded engine takes over, None when Rasa answers.
    """

    def __init__(
        self,
        source: RasaSource,
        model: RasaModel | None,
        embedded: IntentClassifier,
        on_change: Callable[[str | None], None] = lambda _: None,
    ) -> None:
        self._source = source
        self._model = model
        self._embedded = embedded
        self._on_change = on_change
        self._down: str | None = None
        self._has_answered = False

    @property
    def down(self) -> str | None:
        """Why the embedded engine answers at present; None while Rasa does."""
        return self._down

    def predict(self, texts: Sequence[str]) -> list[IntentPrediction]:
        """Predict in the order of `texts`; any string is accepted. Raises EncodingError."""
        try:
            parsed = [self._source.parse(each) for each in texts]
        except RasaUnavailable as error:
            if self._down is None:
                self._down = error.reason
                self._on_change(error.reason)
            return self._embedded.predict(texts)
        if self._down is not None or not self._has_answered:
            self._down, self._has_answered = None, True
            self._on_change(None)
        if self._model and self._source.model_id == self._model.model_id:
            return self._model.judge(texts, parsed)
        return [_foreign(each, own) for each, own in zip(parsed, self._embedded.predict(texts), strict=True)]

    def threshold(self, lang: str | None = None, precision: float | None = None) -> float:
        """Of the model that answers at present."""
        if self._down is None and self._model and self._source.model_id == self._model.model_id:
            return self._model.threshold(lang, precision)
        return self._embedded.threshold(lang, precision)


def read_model_id(archive: Path) -> str:
    """The id that Rasa has given to a model and that a server names; raises ModelDamaged."""
    try:
        with tarfile.open(archive) as files:
            entry = files.extractfile("metadata.json")
            if entry is None:
                raise ModelDamaged(f"{archive} is no model of Rasa 3. Train again.")
            return str(json.load(entry)["model_id"])
    except (OSError, tarfile.TarError, KeyError, ValueError) as error:
        raise ModelDamaged(f"{archive} is no model of Rasa 3 ({error}). Train again.") from error


def _foreign(parsed: Parsed, own: IntentPrediction) -> IntentPrediction:
    ranking = tuple(pair for pair in parsed.ranking if pair[0] not in OUT_OF_SCOPE_INTENTS)[:RANKING_LENGTH]
    if not ranking:
        return replace(own, confidence=0.0)
    in_scope = min(1.0, own.confidence / max(own.ranking[0][1], 1e-9))
    if parsed.intent.name in OUT_OF_SCOPE_INTENTS:
        in_scope = 0.0
    return IntentPrediction(ranking, ranking[0][1] * in_scope)


def _rehearsal(labels: IntArray, intents: Sequence[str], seed: int) -> tuple[NDArray[np.bool_], ...]:
    """Masks over the rows: kept for the rehearsal, held out, and (a part of the latter) of absent intents.

    Intents with one example are kept; with fewer than five intents none is absent.
    """
    random = np.random.default_rng(seed)
    outside = _outside_class(intents)
    classes = random.permutation([each for each in range(len(intents)) if each != outside])
    count = round(len(classes) * _ABSENT) if len(classes) >= 5 else 0
    absent = np.isin(labels, classes[:count])
    held = absent.copy()
    for each in range(len(intents)):
        rows = random.permutation(np.flatnonzero((labels == each) & ~absent))
        held[rows[: min(max(1, round(len(rows) * _HELD_OUT)), len(rows) - 1)]] = True
    return ~held, held, absent


def _jobs(
    data: TrainingData, folder: Path, encoder: Path, pipeline: Path, kept: IntArray, held: IntArray
) -> list[dict[str, str]]:
    part = [data.examples[row] for row in kept]
    known = {each.intent for each in part}
    rehearsal = TrainingData(
        tuple(part),
        {name: spec for name, spec in data.intents.items() if name in known},
        data.synonyms,
        data.lookups,
        data.regexes,
    )
    jobs = []
    for name, each in (("rehearsal", rehearsal), ("project", data)):
        project = write_project(without_metadata(each), folder / name, encoder, pipeline)
        job = {"config": project.config, "domain": project.domain, "data": project.data}
        jobs.append({key: str(path.absolute()) for key, path in job.items()})
    texts = folder / "held.json"
    texts.write_text(json.dumps([data.examples[row].text for row in held]), encoding="utf-8")
    jobs[0] |= {"model": str(folder.absolute() / "rehearsal.tar.gz"), "parse": str(texts.absolute())}
    jobs[0]["parsed"] = str(folder.absolute() / "parsed.jsonl")
    jobs[1]["model"] = str(folder.absolute() / MODEL)
    return jobs


def without_metadata(data: TrainingData) -> TrainingData:
    """The data without what concerns Otvet alone, and without intents that have no example."""
    known = {each.intent for each in data.examples}
    return replace(
        data,
        examples=tuple(replace(each, metadata={}) for each in data.examples),
        intents={name: replace(spec, metadata={}) for name, spec in data.intents.items() if name in known},
    )


def _read_parsed(path: Path) -> list[Parsed]:
    try:
        return [Parsed.model_validate_json(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise RasaFailed(f"its rehearsal cannot be read ({error})") from error


def _outside_class(intents: Sequence[str]) -> int | None:
    return list(intents).index(OUTSIDE) if OUTSIDE in intents else None


def _evidence(
    parsed: Sequence[Parsed], intents: Sequence[str], rows: FloatMatrix, examples: FloatMatrix, labels: IntArray
) -> Evidence:
    """Rasa's log-probabilities, and the cosine with the nearest example of each intent; -1 where there is none."""
    place = {name: number for number, name in enumerate(intents)}
    probabilities = np.zeros((len(parsed), len(intents)), np.float32)
    for said, row in zip(parsed, probabilities, strict=True):
        for name, probability in said.ranking:
            number = place.get(OUTSIDE if name in OUT_OF_SCOPE_INTENTS else name)
            if number is not None:
                row[number] += probability
    nearest = np.full(probabilities.shape, -1, np.float32)
    order = np.argsort(labels, kind="stable")
    present, starts = np.unique(labels[order], return_index=True)
    nearest[:, present] = np.maximum.reduceat((rows @ examples.T)[:, order], starts, axis=1)
    return Evidence(np.log(np.maximum(probabilities, _LEAST_PROBABILITY)), nearest, np.zeros(len(parsed), np.float32))


def _spoken(texts: Sequence[str]) -> NDArray[np.bool_]:
    return np.array([any(map(str.isalnum, each)) for each in texts], dtype=np.bool_)
