"""Wrong labels are found by what models say that have not seen them."""

from __future__ import annotations

from nlu.intents import IntentPrediction
from nlu.label_doubts import doubtful
from nlu.training_data import Example


def predicted(intent: str, other: str, chance: float = 0.9) -> IntentPrediction:
    return IntentPrediction(((intent, chance), (other, 1 - chance)), chance)


def test_a_label_that_unseen_models_contradict_is_doubted_and_others_are_not() -> None:
    examples = [Example(f"pay {n}", "pay", "en") for n in range(20)] + [Example(f"send {n}", "send") for n in range(20)]
    left_out = [predicted("pay", "send")] * 20 + [predicted("send", "pay")] * 20
    examples[7] = Example("send it now", "pay", "en")
    left_out[7] = predicted("send", "pay", 0.99)
    (doubt,) = doubtful(examples, left_out)
    assert (doubt.text, doubt.intent, doubt.suggested) == ("send it now", "pay", "send")
    assert doubt.quality < 0.1


def test_what_is_out_of_scope_may_be_doubted_too() -> None:
    examples = [Example(f"pay {n}", "pay") for n in range(20)] + [Example(f"moon {n}", "oos") for n in range(20)]
    outside = IntentPrediction((("pay", 1.0),), 0.05)
    left_out = [IntentPrediction((("pay", 1.0),), 0.9)] * 20 + [outside] * 20
    left_out[30] = IntentPrediction((("pay", 1.0),), 0.98)
    (doubt,) = doubtful(examples, left_out)
    assert (doubt.text, doubt.suggested) == ("moon 10", "pay")


def test_one_intent_or_a_single_example_of_one_says_nothing() -> None:
    assert doubtful([Example("a", "pay"), Example("b", "pay")], [predicted("pay", "x")] * 2) == []
    assert doubtful([], []) == []
