"""Which language a customer is answered in."""

from __future__ import annotations

import pytest

from bot.language import detect


@pytest.mark.parametrize(
    ("text", "lang"),
    [
        ("Где мой заказ?", "ru"),
        ("where is my order", "en"),
        ("не работает iPhone 15 Pro Max", "ru"),
        ("не проходит оплата Visa", "ru"),
        ("my name is Мария and i want to return the kettle", "en"),
        ("купил Xiaomi Redmi Note Pro Max не заряжается", "ru"),
        ("привет", "ru"),
        ("hi", "en"),
    ],
)
def test_a_message_is_answered_in_its_language(text: str, lang: str) -> None:
    assert detect(text) == lang


@pytest.mark.parametrize("text", ["12345", "🙂", "?!", "", "А4"])
def test_without_words_the_language_is_remembered(text: str) -> None:
    assert detect(text, "en") == "en"
    assert detect(text, "ru") == "ru"


def test_a_single_brand_name_changes_nothing_and_a_sentence_does() -> None:
    assert detect("Samsung", "ru") == "ru"
    assert detect("can you help me please", "ru") == "en"
