"""A deep training adapts the last layers, judges itself by what it had not seen, and is kept with the model."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest

from nlu import deep_training
from nlu.companion import CompanionEncoder
from nlu.deep_encoder import DeepEncoder, Layered, upper_graph
from nlu.deep_training import Adaptation
from nlu.encoder import Encoder
from nlu.errors import EncoderMismatch, EncoderUnavailable, ModelDamaged
from nlu.intents import IntentClassifier
from nlu.training_data import TrainingData, from_rows

WORDS = {
    "delivery": ("parcel", "courier", "shipment"),
    "payment": ("card", "invoice", "charge"),
    "account": ("password", "login", "profile"),
    "returns": ("refund", "exchange", "defect"),
}
FRAMES = ("where is my {}", "problem with the {}", "tell me about {}")


def shop() -> TrainingData:
    rows = [(frame.format(word), intent) for intent, words in WORDS.items() for frame, word in product(FRAMES, words)]
    return from_rows(rows, "en")


@pytest.fixture(scope="module")
def base() -> CompanionEncoder:
    return CompanionEncoder()


@pytest.fixture(autouse=True)
def _few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deep_training, "steps_for", lambda _: 8)


def test_layers_that_were_not_trained_give_the_original_vector(base: CompanionEncoder, encoder: Encoder) -> None:
    assert isinstance(encoder, Layered)
    for each, layers in ((base, 3), (encoder, 4)):
        graph = upper_graph(each, each.upper_weights(layers), layers)

        row = DeepEncoder(each, graph).encode(["where is my parcel"])[0] * np.sqrt(2)

        original = each.encode(["where is my parcel"])[0]
        assert row[:384] == pytest.approx(original, abs=1e-5)
        assert row[384:] @ original > 0.99


def test_adapting_draws_texts_of_one_intent_together(base: CompanionEncoder) -> None:
    texts = [each.text for each in shop().examples]
    labels = np.repeat(np.arange(4), 9)

    rows = Adaptation(base, texts).adapt(np.arange(36), labels, seed=0).encode(texts)

    same = labels[:, None] == labels[None]
    frozen, adapted = rows[:, :384] @ rows[:, :384].T, rows[:, 384:] @ rows[:, 384:].T
    assert adapted[same].mean() - adapted[~same].mean() > 1.2 * (frozen[same].mean() - frozen[~same].mean())


def test_a_deep_classifier_is_kept_with_its_layers_and_repeats_itself(base: CompanionEncoder, tmp_path: Path) -> None:
    said = ["my courier is late", "the capital of France"]
    classifier = IntentClassifier.train(shop(), base, deep=True)
    classifier.save(tmp_path)

    loaded = IntentClassifier.load(tmp_path, base)
    again = IntentClassifier.train(shop(), base, deep=True)

    assert classifier.predict(said)[0].intent == "delivery"
    assert classifier.predict(said)[1].confidence < classifier.threshold("en")
    assert loaded.predict(said) == classifier.predict(said)
    assert again.predict(said) == classifier.predict(said)
    assert len(classifier.cross_predict()) == 36
    (tmp_path / "encoder.onnx").write_bytes((tmp_path / "encoder.onnx").read_bytes()[:1000])
    with pytest.raises(ModelDamaged, match="Train again"):
        IntentClassifier.load(tmp_path, base)


def test_a_deep_classifier_is_refused_by_another_encoder(
    base: CompanionEncoder, encoder: Encoder, tmp_path: Path
) -> None:
    IntentClassifier.train(shop(), base, deep=True).save(tmp_path)

    with pytest.raises(EncoderMismatch, match="otvet train"):
        IntentClassifier.load(tmp_path, encoder)


def test_an_encoder_without_known_layers_is_refused_with_the_remedy(base: CompanionEncoder) -> None:
    class Foreign:
        name = "foreign"
        fingerprint = "foreign"
        dim = 384
        encode = base.encode

    with pytest.raises(EncoderUnavailable, match="without --deep"):
        IntentClassifier.train(shop(), Foreign(), deep=True)
