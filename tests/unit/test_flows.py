"""The flow engine, step by step, and that nothing a customer does leaves a flow without a way out."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bot.errors import FlowError
from bot.flows.engine import (
    Advanced,
    Answered,
    Around,
    CallPerson,
    Chosen,
    Corrected,
    Event,
    Finished,
    FlowState,
    Lead,
    Looked,
    LookUp,
    Missed,
    Resumed,
    ShowArticle,
    Started,
    Tell,
    advance,
    start,
)
from bot.flows.format import Flow, parse_flow
from bot.flows.reading import first_slots, read
from handoff.records import Reason

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
EN = Around("en", NOW, {"shop": "Klyon"})
RETURN = """
flow: return
title: {ru: Возврат, en: Return}
topic: returns
slots:
  order: {type: number, label: {ru: Номер заказа, en: Order number}}
  day: {type: date, prefer: past}
  why: {type: choice, choices: [
    {value: broken, label: {ru: Сломан, en: Broken}, synonyms: {en: [faulty]}},
    {value: size, label: {ru: Не подошёл, en: Does not fit}}]}
  found: {type: data}
steps:
  - id: number
    collect: order
    ask: {ru: Какой заказ?, en: Which order?}
    retries: 2
  - id: look
    action: order_status
    into: found
    failed: {not_found: again, else: PERSON}
    next:
      - {if: "found.sum > 1000", then: dear}
      - {else: why}
  - id: again
    set_slots: {order: null}
  - say: {ru: Такого заказа нет., en: There is no such order.}
    next: number
  - id: dear
    say: {ru: "Сумма {{ found.sum | money }}.", en: "That was {{ found.sum | money }}."}
  - id: why
    collect: why
    ask: {ru: Почему?, en: Why?}
  - id: wish
    choose: {ru: Что сделать?, en: "What shall we do with {{ order }}?"}
    options:
      - {label: {ru: Деньги, en: Money back}, next: done}
      - {label: {ru: Починить, en: Repair}, next: guide}
  - id: guide
    guide:
      - text: {ru: Выключите., en: Switch it off.}
        picture: off.png
      - text: {ru: Включите., en: Switch it on.}
    not_helped: ask-person
  - article: return-how
    next: done
  - id: ask-person
    handoff: any
    reason: rejected_answer
    note: {ru: Не помогло, en: "Guide did not help with {{ why }}"}
  - id: done
    end: {ru: Готово., en: Done.}
"""


@pytest.fixture(scope="module")
def flow() -> Flow:
    return parse_flow(RETURN, "return.yml")


class Walk:
    """A customer going through a flow."""

    def __init__(self, flow: Flow, words: str = "") -> None:
        self.flow = flow
        self.take(start(flow, Started(first_slots(flow, words, EN), words), EN))

    def take(self, advanced: Advanced) -> None:
        self.last, self.state = advanced, advanced.state

    def do(self, event: Event) -> None:
        assert self.state is not None
        # As it is kept between turns.
        self.take(advance(self.flow, FlowState.from_json(self.state.to_json()), event, EN))

    def say(self, text: str) -> None:
        assert self.state is not None
        self.do(read(self.flow, self.state, text, EN).event or Missed())

    @property
    def told(self) -> str:
        texts = (part for wish in self.last.wishes if isinstance(wish, Tell) for part in wish.parts)
        return " ".join(part if isinstance(part, str) else f"@{part.template}" for part in texts)

    @property
    def wish(self) -> Any:
        return self.last.wishes[-1]

    @property
    def step(self) -> str:
        assert self.state is not None
        return self.state.step


FOUND = Looked(True, {"status": "paid", "sum": 1500})


def test_a_slot_is_asked_for_and_what_was_answered_goes_into_the_lookup(flow: Flow) -> None:
    walk = Walk(flow)
    assert walk.told == "Which order?"
    assert list(walk.wish.options.values()) == ["@label_flow_cancel", "@label_person"]
    walk.say("it is 4521")
    assert walk.wish == LookUp("order_status", {"order": "4521"})
    walk.do(FOUND)
    assert walk.told == "That was 1,500 ₽. Why?"
    assert walk.step == "why"


def test_words_that_start_a_flow_fill_its_slots_so_that_nothing_is_asked(flow: Flow) -> None:
    walk = Walk(flow, "I want to return order 4521, it is faulty")
    assert walk.wish == LookUp("order_status", {"order": "4521", "why": "broken"})
    walk.do(Looked(True, {"sum": 5}))
    assert walk.step == "wish"
    assert "4521" in walk.told


def test_conditions_of_next_choose_the_way(flow: Flow) -> None:
    walk = Walk(flow, "4521")
    walk.do(Looked(True, {"sum": 1000}))
    assert "That was" not in walk.told
    assert walk.step == "why"


def test_a_reason_of_a_failed_lookup_chooses_the_way_and_another_ends_at_a_person(flow: Flow) -> None:
    walk = Walk(flow, "4521")
    walk.do(Looked(False, reason="not_found"))
    assert walk.told == "There is no such order. Which order?"
    walk.say("4522")
    walk.do(Looked(False, reason="timeout"))
    assert walk.wish == CallPerson(Reason.ERROR, "returns")


def test_a_wrong_answer_is_asked_again_and_then_ends_at_a_person_who_gets_the_topic(flow: Flow) -> None:
    walk = Walk(flow)
    walk.say("I do not know")
    assert walk.told == "@flow_wrong Which order?"
    walk.say("no idea")
    assert walk.wish == CallPerson(Reason.LOW_CONFIDENCE, "returns")
    assert walk.state is None


def test_a_choice_is_taken_by_button_label_number_and_synonym(flow: Flow) -> None:
    for said in ("Money back", "money back please", "1"):
        walk = Walk(flow, "4521, does not fit")
        walk.do(FOUND)
        walk.say(said)
        assert walk.told == "Done."
        assert isinstance(walk.wish, Finished)
    walk = Walk(flow, "4521")
    walk.do(FOUND)
    walk.say("faulty")
    assert walk.step == "wish"


def test_a_guide_goes_step_by_step_with_its_pictures(flow: Flow) -> None:
    walk = Walk(flow, "4521, broken")
    walk.do(FOUND)
    walk.say("repair")
    assert walk.wish.picture == "off.png"
    assert "Switch it off." in walk.told
    walk.say("done")
    assert "Switch it on." in walk.told
    walk.say("готово")
    assert [type(wish) for wish in walk.last.wishes] == [ShowArticle, Tell, Finished]


def test_what_did_not_help_goes_to_the_person_with_a_note(flow: Flow) -> None:
    for said in ("It did not help", "не помогло", "still doesn't work"):
        walk = Walk(flow, "4521, broken")
        walk.do(FOUND)
        walk.say("repair")
        walk.say(said)
        assert walk.wish == CallPerson(Reason.REJECTED_ANSWER, "returns", "Guide did not help with broken")


def test_a_correction_goes_back_and_looks_up_again_but_keeps_the_other_answers(flow: Flow) -> None:
    walk = Walk(flow, "4521, broken")
    walk.do(FOUND)
    assert walk.step == "wish"
    walk.say("no, 4522")
    assert walk.told == "@flow_corrected"
    assert walk.wish == LookUp("order_status", {"order": "4522", "why": "broken"})
    walk.do(FOUND)
    assert walk.step == "wish"


def test_what_was_changed_in_the_shop_is_not_changed_again_after_a_correction() -> None:
    flow = parse_flow(RETURN.replace("    into: found", "    into: found\n    changes: true"), "return.yml")
    walk = Walk(flow, "4521")
    walk.do(FOUND)
    walk.do(Corrected({"order": "4522"}))
    assert walk.told == "@flow_too_late"
    assert isinstance(walk.wish, CallPerson)


def test_a_button_of_an_earlier_question_changes_nothing(flow: Flow) -> None:
    walk = Walk(flow, "4521")
    walk.do(FOUND)
    for what in ("next", "failed", "o-17", "skip", "nonsense", "o-"):
        walk.do(Chosen(what))
        assert walk.step == "why"


def test_a_fault_in_a_text_ends_at_a_person_with_what_is_wrong(flow: Flow) -> None:
    broken = parse_flow(RETURN.replace("found.sum | money", "found.nothing.sum | money"), "return.yml")
    walk = Walk(broken, "4521")
    walk.do(FOUND)
    assert walk.wish.reason is Reason.ERROR
    assert "nothing" in walk.wish.note


def test_a_loop_without_a_question_ends_at_a_person() -> None:
    flow = parse_flow(
        "flow: loop\ntitle: {en: x}\nsteps:\n- {id: a, say: {en: a}, next: b}\n- {id: b, say: {en: b}, next: a}"
    )
    advanced = start(flow, Started(), EN)
    assert advanced.wishes[-1] == CallPerson(Reason.ERROR, None)


def test_what_a_lookup_finds_is_kept_only_up_to_a_size(flow: Flow) -> None:
    walk = Walk(flow, "4521")
    walk.do(Looked(True, {"sum": "9" * 30_000}))
    assert isinstance(walk.wish, CallPerson)


def test_bounds_patterns_and_conditions_of_a_slot_hold() -> None:
    flow = parse_flow(
        """
flow: f
title: {en: F}
slots:
  sum: {type: amount, min: 100, max: 500}
  code: {type: text, pattern: "[A-Z]{2}"}
steps:
- collect: sum
  ask: {en: Sum?}
- collect: code
  ask: {en: Code?}
  valid: "value != 'XX'"
  invalid: {en: "Not {{ value }}."}
- end: true
""",
        "f.yml",
    )
    walk = Walk(flow)
    walk.say("50")
    assert walk.told == "@flow_wrong Sum?"
    walk.say("150 rub")
    assert walk.told == "Code?"
    walk.say("XX")
    assert walk.told == "Not XX. Code?"
    walk.say("AB")
    assert isinstance(walk.wish, Finished)


@pytest.mark.parametrize(
    ("was", "written", "words"),
    [
        ("collect: order", "collect: Order!", "collect"),
        ("retries: 2", "retries: 99", "less than or equal to 5"),
        ("title: {ru: Возврат, en: Return}", "title: {de: Rückgabe}", "title"),
        ("steps:", "stepps:", "stepps"),
        ("- id: wish", "- id: why", "two steps why"),
        ("- say: {ru: Такого", "- sai: {ru: Такого", "a step has one of"),
        ("min: 0", "min: [", "not YAML"),
    ],
)
def test_a_fault_of_form_is_told_with_its_line(was: str, written: str, words: str) -> None:
    text = RETURN.replace("{type: data}", "{type: amount, min: 0}")
    line = text[: text.index(was)].count("\n") + 1
    with pytest.raises(FlowError) as caught:
        parse_flow(text.replace(was, written), "return.yml")
    assert any(words in str(each) and each.line == line for each in caught.value.problems), str(caught.value)


def test_layout_and_comments_do_not_change_a_flows_version(flow: Flow) -> None:
    assert parse_flow("# a comment\n" + RETURN, "x").version == flow.version
    assert parse_flow(RETURN.replace("Which order?", "Which one?"), "x").version != flow.version


TOKENS = st.sampled_from(["next", "failed", "skip", "o-0", "o-1", "o-9", "x"])
EVENTS = st.one_of(
    st.builds(Chosen, TOKENS),
    st.builds(Answered, st.dictionaries(st.sampled_from(["order", "why", "day", "alien"]), st.text(max_size=8))),
    st.builds(Corrected, st.dictionaries(st.sampled_from(["order", "why", "alien"]), st.text(max_size=8))),
    st.builds(Looked, st.booleans(), st.dictionaries(st.text(max_size=3), st.integers()), st.text(max_size=5)),
    st.just(Missed()),
    st.just(Resumed(Lead("flow_resume"))),
)
SAID = st.one_of(
    st.text(max_size=40),
    st.sampled_from(["4521", "no, 4522", "отмена", "yes", "1", "готово", "не помогло", "broken", "7", "вчера"]),
)


@settings(max_examples=60)
@given(st.lists(st.one_of(EVENTS, SAID), max_size=25))
def test_whatever_happens_a_flow_waits_with_a_way_out_or_has_ended(happened: list[Event | str]) -> None:
    walk = Walk(WALKED)
    for each in happened:
        if walk.state is None:
            assert isinstance(walk.wish, (Finished, CallPerson))
            return
        assert walk.step in WALKED.steps
        if isinstance(walk.wish, Tell):
            kinds = {token.rpartition(":")[2] for token in walk.wish.options}
            assert "cancel" in kinds
            assert kinds & {"person", "failed"}
        else:
            assert isinstance(walk.wish, LookUp)
        walk.say(each) if isinstance(each, str) else walk.do(each)


@given(st.lists(st.sampled_from(["hm", "?", "…", "xyz", "ну", "😀"]), min_size=10, max_size=10))
@settings(max_examples=20)
def test_ten_wrong_answers_in_a_row_end_at_a_person(said: list[str]) -> None:
    looping = parse_flow(RETURN.replace("retries: 2", "retries: 2\n    otherwise: again"), "return.yml")
    walk = Walk(looping)
    for _ in said:
        if walk.state is not None:
            walk.do(Missed() if walk.step == "number" else Looked(False))
    assert isinstance(walk.wish, CallPerson)


WALKED = parse_flow(RETURN, "return.yml")
