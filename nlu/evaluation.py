"""How good an intent engine is on labelled rows: accuracy, abstention, calibration, time."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import f1_score, matthews_corrcoef, roc_auc_score
from sklearn.model_selection import StratifiedKFold

from nlu.encoder import Encoder
from nlu.errors import NotEnoughData
from nlu.intents import IntentClassifier, IntentPrediction
from nlu.training_data import OUT_OF_SCOPE_INTENTS, Example, TrainingData

OUTSIDE: Final = "oos"
"""What abstention and every out-of-scope label are called in reports."""

_BINS: Final = 10
_TIMED_MESSAGES: Final = 200


class IntentModel(Protocol):
    """What is evaluated: a trained engine."""

    def predict(self, texts: Sequence[str]) -> list[IntentPrediction]: ...

    def threshold(self, lang: str | None = None) -> float: ...


Trainer = Callable[[TrainingData], IntentModel]


def embedded_trainer(
    encoder: Encoder, companion: Encoder | None = None, *, seed: int = 0, deep: bool = False
) -> Trainer:
    """The trainer of the embedded engine."""
    return lambda data: IntentClassifier.train(data, encoder, companion=companion, seed=seed, deep=deep)


@dataclass(frozen=True)
class ReliabilityBin:
    """Predictions whose confidence lies in one tenth: their count, mean confidence and share of right ones."""

    count: int
    confidence: float
    right: float


@dataclass(frozen=True)
class Confusion:
    """Rows of `intent` for which `predicted` was said; either may be `oos`, both may be the same."""

    intent: str
    predicted: str
    count: int


@dataclass(frozen=True)
class IntentReport:
    """Shares are 0..1. A prediction below the model's own threshold is an abstention and counts as `oos`.

    `accuracy`: of all rows, abstention being right for out-of-scope rows only. `in_scope_accuracy`: of in-scope rows,
    without abstention. `macro_f1` over the labels of the test rows. `oos_recall`: out-of-scope rows abstained on.
    `mcc`: Matthews correlation over all labels with `oos` as one of them (as in HINT3). `auroc`: that an in-scope row
    has more confidence than an out-of-scope one. `ece`: expected calibration error of the confidence in ten equal bins,
    right being "top intent right and row in scope". `coverage_at_95_precision`: the largest share of all rows, the
    most confident first, that is at least 95 % right. None where the test rows have nothing to measure it on.
    """

    accuracy: float
    in_scope_accuracy: float | None
    macro_f1: float
    oos_recall: float | None
    mcc: float
    auroc: float | None
    ece: float
    coverage_at_95_precision: float
    train_seconds: float
    predict_ms_p50: float
    n_train: int
    n_test: int
    engine: str
    reliability: tuple[ReliabilityBin, ...]
    said: tuple[Confusion, ...]
    """Every pair of true and said intent that occurred, right ones too, the most frequent first."""

    @property
    def confusions(self) -> tuple[Confusion, ...]:
        """The pairs that are mistakes, the most frequent first."""
        return tuple(each for each in self.said if each.intent != each.predicted)

    def figures(self) -> dict[str, float | int | str | None]:
        """The keys of `otvet evaluate intents --json`, rounded."""
        named = {key: value for key, value in vars(self).items() if key not in ("reliability", "said")}
        return {key: round(value, 4) if isinstance(value, float) else value for key, value in named.items()}


def evaluate_intents(
    train: TrainingData, test: TrainingData, trainer: Trainer, *, engine: str = "embedded"
) -> IntentReport:
    """Train on `train` (timed, encoding included) and measure on `test`; raises like the trainer."""
    started = time.perf_counter()
    model = trainer(train)
    train_seconds = time.perf_counter() - started
    timed = [_timed_ms(model, each.text) for each in test.examples[:_TIMED_MESSAGES]]
    predictions = model.predict([each.text for each in test.examples])
    thresholds = {lang: model.threshold(lang) for lang in {each.lang for each in test.examples}}
    return _report(
        test.examples,
        predictions,
        [thresholds[each.lang] for each in test.examples],
        train_seconds=train_seconds,
        predict_ms_p50=median(timed) if timed else 0.0,
        n_train=len(train.examples),
        engine=engine,
    )


def cross_evaluate(
    data: TrainingData, trainer: Trainer, *, folds: int = 5, seed: int = 0, engine: str = "embedded"
) -> IntentReport:
    """Measure by k-fold where there are no test rows; `train_seconds` is the mean of the folds.

    Intents with fewer examples than `folds` are still spread over the folds as far as they go.
    Raises NotEnoughData if there are fewer examples than folds.
    """
    examples = data.examples
    if len(examples) < folds:
        raise NotEnoughData(f"{len(examples)} examples cannot be split into {folds} folds. Add examples.")
    common = Counter(each.intent for each in examples)
    strata = [each.intent if common[each.intent] >= folds else "" for each in examples]
    splitter = StratifiedKFold(folds, shuffle=True, random_state=seed)
    tested: list[Example] = []
    predictions: list[IntentPrediction] = []
    thresholds: list[float] = []
    seconds, timed = [], []
    for kept, left in splitter.split(strata, strata):
        started = time.perf_counter()
        model = trainer(TrainingData(tuple(examples[row] for row in kept), data.intents))
        seconds.append(time.perf_counter() - started)
        rows = [examples[row] for row in left]
        timed += [_timed_ms(model, each.text) for each in rows[: _TIMED_MESSAGES // folds]]
        predictions += model.predict([each.text for each in rows])
        thresholds += [model.threshold(each.lang) for each in rows]
        tested += rows
    return _report(
        tested,
        predictions,
        thresholds,
        train_seconds=sum(seconds) / folds,
        predict_ms_p50=median(timed),
        n_train=round(len(examples) * (folds - 1) / folds),
        engine=engine,
    )


def _timed_ms(model: IntentModel, text: str) -> float:
    started = time.perf_counter()
    model.predict([text])
    return (time.perf_counter() - started) * 1000


def _report(
    rows: Sequence[Example],
    predictions: Sequence[IntentPrediction],
    thresholds: Sequence[float],
    *,
    train_seconds: float,
    predict_ms_p50: float,
    n_train: int,
    engine: str,
) -> IntentReport:
    if not rows:
        raise NotEnoughData("there are no test rows. Give a file with at least one.")
    labels = np.array([OUTSIDE if each.intent in OUT_OF_SCOPE_INTENTS else each.intent for each in rows])
    outside = labels == OUTSIDE
    tops = np.array([each.intent for each in predictions])
    confidence = np.array([each.confidence for each in predictions])
    said = np.where(confidence >= np.array(thresholds), tops, OUTSIDE)
    right = tops == labels
    mixed = outside.any() and not outside.all()
    bins = _reliability(confidence, right)
    pairs = Counter((str(a), str(b)) for a, b in zip(labels, said, strict=True))
    return IntentReport(
        accuracy=float((said == labels).mean()),
        in_scope_accuracy=float(right[~outside].mean()) if not outside.all() else None,
        macro_f1=float(f1_score(labels, said, labels=np.unique(labels), average="macro", zero_division=0.0)),
        oos_recall=float((said[outside] == OUTSIDE).mean()) if outside.any() else None,
        mcc=float(matthews_corrcoef(labels, said)),
        auroc=float(roc_auc_score(~outside, confidence)) if mixed else None,
        ece=sum(each.count * abs(each.confidence - each.right) for each in bins) / len(rows),
        coverage_at_95_precision=_coverage(confidence, right, 0.95),
        train_seconds=train_seconds,
        predict_ms_p50=predict_ms_p50,
        n_train=n_train,
        n_test=len(rows),
        engine=engine,
        reliability=bins,
        said=tuple(Confusion(a, b, count) for (a, b), count in pairs.most_common()),
    )


def _reliability(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> tuple[ReliabilityBin, ...]:
    """Ten equal bins (Guo et al. 2017, "On Calibration of Modern Neural Networks"), the empty ones with zeros."""
    places = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    members = [places == index for index in range(_BINS)]
    return tuple(
        ReliabilityBin(int(each.sum()), float(confidence[each].mean()), float(right[each].mean()))
        if each.any()
        else ReliabilityBin(0, 0.0, 0.0)
        for each in members
    )


def _coverage(confidence: NDArray[np.float64], right: NDArray[np.bool_], precision: float) -> float:
    """The largest share of rows above one confidence that are right at least that often; ties stand together."""
    order = np.argsort(-confidence, kind="stable")
    reached = np.cumsum(right[order]) / np.arange(1, len(right) + 1)
    last_of_tie = np.append(np.diff(confidence[order]) < 0, True)
    good = np.flatnonzero((reached >= precision) & last_of_tie)
    return float((good[-1] + 1) / len(right)) if len(good) else 0.0
