"""What a customer's words are to the step of a flow that waits, in the demo's own flows."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from site_harness import DATA

from bot.dialogue import DialogueState, Policy, Understanding, Utterance
from bot.errors import FlowRunError
from bot.flows.engine import (
    Advanced,
    Answered,
    Around,
    CallPerson,
    Chosen,
    Corrected,
    FlowState,
    Looked,
    LookUp,
    Missed,
    Tell,
    advance,
)
from bot.flows.format import read_flow
from bot.flows.reading import read
from bot.flows.turns import FlowBook, decide_turn
from bot.flows.words import render
from handoff.records import Owner

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
RU = Around("ru", NOW)
FLOWS = {name: read_flow(DATA / "flows" / f"{name}.yml") for name in ("return", "address-change", "delay")}
BOOK = FlowBook(FLOWS)
POLICY = Policy(answer={"ru": 0.9, "en": 0.9}, clarify={"ru": 0.5, "en": 0.5}, intent={"ru": 0.9, "en": 0.9})
RETURNABLE = {"returnable": [{"line": "1", "title": "Лампа"}, {"line": "3", "title": "Чайник"}]}


def at(flow: str, step: str, slots: dict[str, Any] | None = None, *trail: str) -> FlowState:
    return FlowState(flow, FLOWS[flow].version, step, slots or {"order": "4521"}, trail=trail)


def hear(state: FlowState, text: str) -> Advanced:
    flow = FLOWS[state.flow]
    return advance(flow, state, read(flow, state, text, RU).event or Missed(), RU)


SURE = at("return", "sure", {"order": "4521", "line": "1", "why": "other", "details": RETURNABLE})


@pytest.mark.parametrize(
    "said",
    [
        *("А есть ли комиссия за возврат?", "хочу уточнить, когда вернут деньги", "а можно потом поменять ещё раз?"),
        *("а можно потом поменять", "точно не знаю", "хочу уточнить", "есть вопрос", "что если было распродажей"),
        *(
            "да, но не сейчас",
            "ок, подумаю",
            "да, только завтра",
            "хорошо бы узнать сроки",
            "да?",
            "ок, а когда вернут",
        ),
        *(
            "what if it is late",
            "it is late",
            "right now?",
            "sure, but when will it come",
            "ok let me think",
            "i do wonder",
        ),
        *("yes, cancel it", "да, отмените", "fine, how much is it"),
    ],
)
def test_a_question_or_a_remark_is_no_yes_and_nothing_is_done(said: str) -> None:
    reading = read(FLOWS["return"], SURE, said, RU)
    assert not isinstance(reading.event, Answered)
    assert not reading.plain
    assert not any(isinstance(wish, LookUp) for wish in hear(SURE, said).wishes)


@pytest.mark.parametrize(
    "said",
    [
        *("да", "Да, всё верно", "да, оформляйте", "конечно, давайте", "ок", "хочу", "можно", "верно", "всё так", "👍"),
        *("да, спасибо большое", "не против", "почему бы и нет", "так точно", "да, хочу вернуть", "подтверждаю", "+"),
        *("yes please", "yes, that's right", "go ahead", "sure", "why not", "of course", "it is", "yep, do it", "okay"),
    ],
)
def test_a_plain_yes_is_one(said: str) -> None:
    assert read(FLOWS["return"], SURE, said, RU).event == Answered({"sure": "yes"})
    assert hear(SURE, said).wishes[-1] == LookUp("return-item", {**SURE.slots, "sure": "yes"})


@pytest.mark.parametrize(
    "said", ["нет", "да нет", "нет, я передумал и оставлю всё себе", "не надо", "no, I want to keep it"]
)
def test_a_no_may_be_explained(said: str) -> None:
    broken = at("return", "sure", {**SURE.slots, "why": "defective"})
    assert read(FLOWS["return"], broken, said, RU).event == Answered({"sure": "no"})


def test_a_question_about_a_choice_is_answered_before_it_is_taken() -> None:
    reading = read(FLOWS["delay"], at("delay", "wish"), "а если отменить, то деньги вернут?", RU)
    assert not reading.plain, "a model is asked what it may be"
    assert read(FLOWS["delay"], at("delay", "wish"), "баллы?", RU).plain
    arrived = at("delay", "arrived", {"order": "4521", "found": {"answer": "Доставлен."}})
    assert not read(FLOWS["delay"], arrived, "спасибо, а сколько хранится возврат?", RU).plain
    assert read(FLOWS["delay"], arrived, "его нет?", RU).plain


def test_numbers_of_an_address_change_no_order() -> None:
    address = at("address-change", "address")
    said = "101000, Москва, ул. Тверская, д. 5, кв. 12"
    assert read(FLOWS["address-change"], address, said, RU).event == Answered({"address": said})
    better = "Лучше Москва, 101000"
    assert read(FLOWS["address-change"], address, better, RU).event == Answered({"address": better})
    assert read(FLOWS["address-change"], address, "нет, заказ 4522", RU).event == Corrected({"order": "4522"})


def test_a_mistyped_code_is_no_other_order() -> None:
    code = at("return", "code")
    assert read(FLOWS["return"], code, "12345", RU).event is None
    assert read(FLOWS["return"], code, "123456", RU).event == Answered({"code": "123456"})
    again = at("return", "code", {"order": "4521", "code": "111111"})
    assert read(FLOWS["return"], again, "123456", RU).event == Answered({"code": "123456"})
    for said in ("заказ 45222", "ой, 45222", "order 45222"):
        assert read(FLOWS["return"], code, said, RU).event == Corrected({"order": "45222"}), said


def test_another_order_said_with_the_yes_begins_anew_with_that_order() -> None:
    advanced = hear(SURE, "да, заказ 4522")
    assert advanced.wishes[-1] != LookUp("return-item", {**SURE.slots, "order": "4522", "sure": "yes"})
    trail = ("how", "prove", "details", "line", "why")
    known = {**SURE.slots, "sent": {"proved": True}}
    advanced = hear(at("return", "sure", known, *trail), "да, заказ 4522")
    assert advanced.wishes[-1] == LookUp("send-code", {"order": "4522"}), "nothing of the other order is left"
    state = advanced.state
    assert state is not None
    for found in (Looked(True, {"proved": True}), Looked(True, RETURNABLE)):
        advanced = advance(FLOWS["return"], state, found, RU)
        state = advanced.state
        assert state is not None
    assert state.step == "line", "which item is asked again"


def test_what_does_not_hang_on_the_correction_stays() -> None:
    trail = ("order", "look", "prove", "address")
    known = {"order": "4521", "found": {"movable": True}, "address": "Казань, ул. Новая, 1", "sure": "no"}
    advanced = hear(at("address-change", "sure", known, *trail), "нет, заказ 4522")
    assert advanced.wishes[-1] == LookUp("order-stage", {"order": "4522", "address": "Казань, ул. Новая, 1"})


def test_after_the_change_another_order_goes_to_a_person() -> None:
    state = at("return", "sure", dict(SURE.slots), "how", "prove", "details", "line", "why", "sure", "make")
    assert isinstance(hear(state, "да, заказ 4522").wishes[-1], CallPerson)


@pytest.mark.parametrize("said", ["/end", " /END ", "/завершить"])
def test_the_end_of_the_conversation_is_the_end_of_its_flows(said: str) -> None:
    waiting = at("address-change", "address")
    under = FlowState("delay", FLOWS["delay"].version, "wish", {"order": "4521"})
    state = DialogueState(greeted=True, flow=FlowState(**{**vars(waiting), "under": under}))
    decision = decide_turn(
        state, Owner.ASSISTANT, Utterance("text", said, "ru"), (Understanding(said),), {}, POLICY, BOOK, NOW
    )
    assert (decision.rule, decision.state.flow) == ("end", None)
    assert [(event.flow, event.what) for event in decision.events] == [
        ("address-change", "cancelled"),
        ("delay", "cancelled"),
    ]
    assert not any(isinstance(action, Tell) for action in decision.actions)


def test_yesterday_is_that_of_the_shop() -> None:
    late = datetime(2026, 11, 21, 22, 30, tzinfo=UTC)  # after midnight in Moscow
    around = FlowBook(FLOWS, zone=ZoneInfo("Europe/Moscow")).around("ru", late)
    promised = at("delay", "promised", {"words": "x"})
    for said, day in (("вчера", "2026-11-21"), ("позавчера", "2026-11-20"), ("в субботу", "2026-11-21")):
        reading = read(FLOWS["delay"], promised, said, around)
        assert reading.event == Answered({"promised": day}), said
    advanced = advance(FLOWS["delay"], promised, Answered({"promised": "2026-11-21"}), around)
    assert isinstance(advanced.wishes[-1], CallPerson), "the day has passed there"
    assert advanced.ended is not None
    assert advanced.ended.asked_at == late.isoformat()


def test_an_option_named_in_a_short_answer_is_chosen() -> None:
    arrived = at("delay", "arrived", {"order": "4521", "found": {"answer": "Доставлен."}})
    assert read(FLOWS["delay"], arrived, "да я его не получал", RU).event == Chosen("o-1")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (
            "{% for a in range(200) %}" * 5 + "{% endfor %}" * 5,
            "go round",
        ),
        ("{% for a in range(10 ** 9) %}{% endfor %}", "numbers up to|at most 200"),
        ("{% set a = 'xx' %}" + "{% set a = a ~ a %}" * 60, "makes a value"),
        ("{% set a = 'xx' %}" + "{% set a = a + a %}" * 60, "makes a value"),
        ("{% set a = [1, 2] %}" + "{% set a = [a, a] %}" * 60, "makes a value"),
        ("{{ 'x' * 1000000000 }}", "is for numbers"),
        ("{{ '%999999999d' % 1 }}", "is for numbers"),
        ("{{ 'x'.ljust(1000000000) }}", "unsafe|undefined"),
        ("{{ 5 | round(-1000000000) }}", "20 digits"),
        ("{% macro a() %}{% endmacro %}", "macro is not for texts"),
        ("{% set a %}{{ a }}{% endset %}", "assignblock is not for texts"),
    ],
)
def test_no_text_of_an_editor_runs_or_grows_without_end(text: str, complaint: str) -> None:
    with pytest.raises(FlowRunError, match=complaint):
        render(text, {})
