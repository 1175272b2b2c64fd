"""What a message tells without being asked."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nlu.entities import SlotType, find_entities

NOW = datetime(2026, 11, 22, 15, 0, tzinfo=ZoneInfo("Europe/Moscow"))  # a Sunday
SLOTS = {
    "order": SlotType("number"),
    "serial": SlotType("number", pattern=r"[A-Z]{2}\d{8}"),
    "phone": SlotType("phone"),
    "email": SlotType("email"),
    "bought": SlotType("date", prefer="past"),
    "paid": SlotType("amount"),
    "product": SlotType(
        "choice",
        choices={
            "washer": ("стиральная машина", "washing machine"),
            "vacuum": ("пылесос", "vacuum cleaner"),
            "robot": ("робот-пылесос", "robot vacuum cleaner"),
            "kettle": ("чайник", "kettle", "Bosch"),
        },
    ),
    "sure": SlotType("yes_no"),
    "story": SlotType("text"),
}


def told(text: str, *, asked: str | None = None, slots: dict[str, SlotType] = SLOTS) -> dict[str, str]:
    return {each.slot: each.value for each in find_entities(text, "ru", slots, NOW, asked=asked)}


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("Где мой заказ 4521?", "4521"),
        ("заказ №60715 анулируйте", "60715"),
        ("gde moi zakaz 55213", "55213"),
        ("order 88-3310 has not arrived", "883310"),
        ("номер 447 18 29", "4471829"),
        ("４５２１", "4521"),
        ("нет, не 4512, а 4521", "4521"),
        ("4521, а не 4512", "4521"),
        ("no, 4521", "4521"),
        ("order 4512, sorry, I meant 4521", "4521"),
        ("заказ 4512, ой, 4521", "4521"),
        ("пылесос на 2000 вт за 4500 руб, заказ 60715", "60715"),
        ("карта *4477, заказ 7781, код из смс 9023", "7781"),
        ("позвоните +7 916 123-45-67 по заказу 4521", "4521"),
        ("заказал 15.03.2026, номер 4521", "4521"),
        ("4521 где?", "4521"),
        ("4521 мне когда привезут", "4521"),
        ("4521 still nothing", "4521"),
    ],
)
def test_an_order_number_is_found_among_other_numbers(text: str, number: str) -> None:
    assert told(text)["order"] == number


@pytest.mark.parametrize(
    "text",
    ["пылесос за 4500 рублей", "позвоните +7 916 123-45-67", "код 4521 не подходит", "заказал 15.03.2026",
     "в 2025 году", "не 4512", "iPhone 15", "1500 баллов", "карта **** 4477", "ivan4521@mail.ru", "https://klyon.example/4521"],
)  # fmt: skip
def test_what_is_no_order_number_fills_nothing(text: str) -> None:
    assert "order" not in told(text)


@pytest.mark.parametrize(
    ("text", "prefer", "day"),
    [
        ("вчера", "past", "2026-11-21"),
        ("пазавчера", "past", "2026-11-20"),
        ("позовчера заказал", "past", "2026-11-20"),
        ("15 марта", "past", "2026-03-15"),
        ("15 марта", "future", "2027-03-15"),
        ("пятнадцатого марта 2025 года", "past", "2025-03-15"),
        ("3.11", "past", "2026-11-03"),
        ("29.02", "past", "2024-02-29"),
        ("next Friday", "future", "2026-11-27"),
        ("в следующую пятницу", "future", "2026-11-27"),
        ("в прошлый вторник", "past", "2026-11-17"),
        ("во вторник", "future", "2026-11-24"),
        ("две недели назад", "past", "2026-11-08"),
        ("a month ago", "past", "2026-10-22"),
        ("через 3 дня", "future", "2026-11-25"),
        ("March 15th", "past", "2026-03-15"),
        ("3rd of Nov", "past", "2026-11-03"),
        ("the day before yesterday", "past", "2026-11-20"),
        ("5 числа", "past", "2026-11-05"),
        ("завтра", "past", None),
        ("вчера", "future", None),
        ("не вчера, а позавчера", "past", "2026-11-20"),
        ("на прошлой неделе", "past", None),
        ("31.02", "past", None),
        ("2-3 дня", "past", None),
    ],
)
def test_a_day_is_told_from_the_side_of_now_that_the_slot_prefers(text: str, prefer: str, day: str | None) -> None:
    slots = {"day": SlotType("date", prefer=prefer)}  # type: ignore[arg-type]
    assert told(text, slots=slots).get("day") == day


def test_a_bare_number_is_a_day_only_when_a_day_was_asked_for() -> None:
    assert "bought" not in told("5")
    assert told("5", asked="bought")["bought"] == "2026-11-05"


@pytest.mark.parametrize(
    ("text", "slot", "value"),
    [
        ("пишите на Ivan.Petrov@Mail.ru, жду", "email", "ivan.petrov@mail.ru"),
        ("8 (916) 123-45-67", "phone", "+79161234567"),
        ("call +44 20 7946 0958", "phone", "+442079460958"),
        ("заплатил 4 500,50 руб.", "paid", "4500.5 RUB"),
        ("it was $1,299.00", "paid", "1299 USD"),
        ("5 тыс рублей", "paid", "5000 RUB"),
        ("сломалась стиральную машыну", "product", "washer"),
        ("робот пылесос не едет", "product", "robot"),
        ("пылесосы", "product", "vacuum"),
        ("бош", "product", "kettle"),
        ("order with serial ab12345678", "serial", "AB12345678"),
    ],
)
def test_each_kind_of_slot_takes_its_values_in_one_form(text: str, slot: str, value: str) -> None:
    assert told(text)[slot] == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *[(text, "yes") for text in ("да", "Ага, конечно", "yes please", "не против", "why not", "👍", "+", "верно")],
        *[(text, "no") for text in ("нет", "да нет", "of course not", "не надо", "неверно", "nope", "конечно нет")],
        *[(text, None) for text in ("4521", "пылесос", "may be tomorrow")],
    ],
)
def test_yes_and_no_are_heard_only_when_asked_for(text: str, value: str | None) -> None:
    assert told(text, asked="sure").get("sure") == value
    assert "sure" not in told(text)


def test_a_text_is_the_whole_answer_and_only_to_its_own_question() -> None:
    assert told("  звонил, никто не взял ", asked="story")["story"] == "звонил, никто не взял"
    assert "story" not in told("звонил, никто не взял")


def test_an_amount_without_a_currency_counts_when_it_was_asked_for() -> None:
    assert told("4500", asked="paid")["paid"] == "4500 RUB"
    assert "paid" not in told("4500")


def test_one_message_fills_many_slots_and_says_where_each_was_told() -> None:
    text = "Заказ 4521 от 15 марта, чайник за 3 990 ₽, +79161234567"
    found = {each.slot: each for each in find_entities(text, "ru", SLOTS, NOW)}
    assert {name: each.value for name, each in found.items()} == {
        "order": "4521",
        "phone": "+79161234567",
        "bought": "2026-03-15",
        "paid": "3990 RUB",
        "product": "kettle",
    }
    assert all(text[each.start : each.end] == each.text for each in found.values())


@given(st.text(max_size=200), st.sampled_from([None, *SLOTS]))
def test_any_text_is_read_without_a_fault_and_spans_lie_in_it(text: str, asked: str | None) -> None:
    for each in find_entities(text, "en", SLOTS, NOW, asked=asked):
        assert text[each.start : each.end] == each.text
