"""Our confidence over Rasa's ranking, and who answers while Rasa can't."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from nlu.encoder import Encoder
from nlu.errors import ModelDamaged, NotEnoughData, RasaNotInstalled, RasaUnavailable
from nlu.intents import IntentClassifier
from nlu.rasa.client import Parsed
from nlu.rasa.engine import RasaClassifier, RasaModel, _rehearsal, read_model_id
from nlu.rasa.process import RasaPython
from nlu.training_data import from_rows

ROWS = [(f"where is my {thing}", "status") for thing in ("parcel", "order", "box", "courier")]
ROWS += [(f"give me back my {thing}", "refund") for thing in ("money", "payment", "deposit", "cash")]


class Source:
    """A server that is up or down, with a model trained elsewhere."""

    def __init__(self, ranking: Sequence[tuple[str, float]]) -> None:
        self.ranking = ranking
        self.down: str | None = None
        self.model_id: str | None = "foreign"

    def parse(self, text: str) -> Parsed:
        if self.down:
            raise RasaUnavailable(self.down)
        named = [{"name": name, "confidence": confidence} for name, confidence in self.ranking]
        return Parsed.model_validate({"intent": named[0] if named else {}, "intent_ranking": named})


@pytest.fixture(scope="module")
def embedded(encoder: Encoder) -> IntentClassifier:
    return IntentClassifier.train(from_rows(ROWS), encoder)


def test_a_foreign_models_intents_come_with_our_probability_of_being_in_scope(embedded: IntentClassifier) -> None:
    classifier = RasaClassifier(Source([("theirs", 0.9), ("status", 0.1)]), None, embedded)

    (prediction,) = classifier.predict(["where is my parcel"])
    (own,) = embedded.predict(["where is my parcel"])

    assert prediction.ranking == (("theirs", 0.9), ("status", 0.1))
    assert prediction.confidence == pytest.approx(0.9 * min(1, own.confidence / own.ranking[0][1]))
    assert classifier.threshold() == embedded.threshold()


@pytest.mark.parametrize("ranking", [[], [("nlu_fallback", 0.3), ("status", 0.2)], [("out_of_scope", 0.9)]])
def test_what_rasa_takes_for_out_of_scope_has_no_confidence(
    embedded: IntentClassifier, ranking: list[tuple[str, float]]
) -> None:
    (prediction,) = RasaClassifier(Source(ranking), None, embedded).predict(["where is my parcel"])

    assert prediction.confidence == 0
    assert prediction.intent in ("status", "refund")


def test_who_answers_is_said_at_each_change_and_only_then(embedded: IntentClassifier) -> None:
    source = Source([("status", 1.0)])
    said: list[str | None] = []
    classifier = RasaClassifier(source, None, embedded, said.append)

    for down in (None, None, "gone", "gone", None):
        source.down = down
        (prediction,) = classifier.predict(["where is my parcel"])
        assert prediction.intent == "status"

    assert said == [None, "gone", None]


def test_the_rehearsal_leaves_out_a_quarter_of_each_intent_and_some_intents_whole() -> None:
    labels = np.repeat(np.arange(20), 8)
    intents = [*(f"intent{number:02}" for number in range(19)), "out_of_scope"]

    kept, held, absent = _rehearsal(labels, intents, seed=0)

    assert (kept ^ held).all()
    assert len(set(labels[absent])) == 3
    assert 19 not in labels[absent]
    present = ~np.isin(labels, labels[absent])
    assert {int((held & present & (labels == each)).sum()) for each in set(labels[present])} == {2}
    again = _rehearsal(labels, intents, seed=0)
    assert all((one == two).all() for one, two in zip(again, (kept, held, absent), strict=True))


def test_an_intent_with_one_example_keeps_it() -> None:
    kept, _, absent = _rehearsal(np.array([0, 1, 1]), ["a", "b"], seed=0)

    assert kept[0]
    assert kept[1:].sum() == 1
    assert not absent.any()


def test_too_little_data_and_a_missing_rasa_are_named(encoder: Encoder, tmp_path: Path) -> None:
    nowhere = RasaPython(tmp_path / "none", tmp_path)
    with pytest.raises(RasaNotInstalled, match="make rasa"):
        RasaModel.train(from_rows(ROWS), encoder, tmp_path, nowhere)
    (tmp_path / "model.tar.gz").write_bytes(b"torn")
    with pytest.raises(ModelDamaged, match="no model of Rasa 3"):
        read_model_id(tmp_path / "model.tar.gz")

    class Installed(RasaPython):
        def check(self) -> None:
            pass

    for rows in ([("a", "a")], [("a", "a"), ("b", "b")]):
        with pytest.raises(NotEnoughData):
            RasaModel.train(from_rows(rows), encoder, tmp_path, Installed(tmp_path, tmp_path))
