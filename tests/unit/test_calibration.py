"""Thresholds keep what was asked of them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bot.models.calibration import (
    NEVER,
    IntentTrial,
    SearchTrial,
    Targets,
    calibrate,
    lowest_threshold,
    policy_from_json,
    policy_to_json,
)

TARGETS = Targets(answer_precision=0.9, out_of_scope_answered=0.05, clarify_chance=0.5)
scored = st.lists(st.tuples(st.floats(0, 1), st.booleans()), max_size=60)


@given(scored, st.floats(0.5, 0.99))
def test_above_the_threshold_the_share_of_right_ones_is_what_was_asked(
    rows: list[tuple[float, bool]], precision: float
) -> None:
    threshold = lowest_threshold(rows, precision)
    kept = [right for confidence, right in rows if confidence >= threshold]
    assert not kept or sum(kept) / len(kept) >= precision


@given(scored, st.floats(0.5, 0.99))
def test_no_lower_threshold_would_do(rows: list[tuple[float, bool]], precision: float) -> None:
    threshold = lowest_threshold(rows, precision)
    for lower in {confidence for confidence, _ in rows if confidence < threshold}:
        kept = [right for confidence, right in rows if confidence >= lower]
        assert sum(kept) / len(kept) < precision


def test_where_nothing_is_right_nothing_is_answered() -> None:
    assert lowest_threshold([(0.9, False), (0.8, False)], 0.9) == NEVER


def searches(lang: str, right: int, wrong: int, outside: int, confidence: float = 0.9) -> list[SearchTrial]:
    a = frozenset({"a"})
    return (
        [SearchTrial(lang, a, (("a", confidence),))] * right
        + [SearchTrial(lang, a, (("b", confidence - 0.2), ("a", 0.1)))] * wrong
        + [SearchTrial(lang, frozenset(), (("a", confidence - 0.4),))] * outside
    )


def test_each_language_gets_its_own_thresholds() -> None:
    rows = searches("ru", 300, 100, 50) + searches("en", 300, 100, 50, confidence=0.7)
    policy = calibrate(rows, [], TARGETS, max_text_chars=10)
    assert 0.7 < policy.answer["ru"] <= 0.9
    assert 0.5 < policy.answer["en"] <= 0.7


def test_a_language_with_few_examples_is_judged_by_all() -> None:
    rows = searches("ru", 300, 100, 50) + searches("en", 3, 0, 0, confidence=0.2)
    policy = calibrate(rows, [], TARGETS, max_text_chars=10)
    assert policy.answer["en"] > 0.5


def test_out_of_scope_messages_hold_the_threshold_up() -> None:
    sure = [SearchTrial("ru", frozenset({"a"}), (("a", 0.6),))] * 1000
    outside = [SearchTrial("ru", frozenset(), (("a", 0.7),))] * 20 + [SearchTrial("ru", frozenset(), ())] * 80
    policy = calibrate(sure + outside, [], TARGETS, max_text_chars=10)
    answered = sum(row.hits[0][1] >= policy.answer["ru"] for row in outside if row.hits)
    assert answered <= 5


def test_intents_that_act_have_a_threshold_of_their_own() -> None:
    trials = [IntentTrial("ru", True, 0.8)] * 150 + [IntentTrial("ru", False, 0.5)] * 50
    policy = calibrate(searches("ru", 300, 0, 0), trials, TARGETS, max_text_chars=10)
    assert 0.5 < policy.intent["ru"] <= 0.8


def test_without_examples_confidences_are_taken_at_their_word() -> None:
    policy = calibrate([], [], TARGETS, max_text_chars=10)
    assert set(policy.answer.values()) == {0.9}


def test_a_policy_survives_being_stored() -> None:
    policy = calibrate(searches("ru", 300, 100, 50), [], TARGETS, max_text_chars=10)
    assert policy_from_json(policy_to_json(policy, TARGETS)) == policy
