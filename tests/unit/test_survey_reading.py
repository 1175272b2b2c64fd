"""A customer's own words, where he was asked whether the specialist helped."""

from __future__ import annotations

import pytest

from bot.desk.survey_reading import read
from handoff.records import Feedback

HELPED = (
    "yes",
    "Да!",
    "да, всё решилось",
    "спасибо, помогло",
    "It helped, thanks",
    "all solved, thank you",
    "👍",
    "yes it did",
)
NOT_HELPED = (
    *("no", "Нет.", "не помогло", "нет не помогло", "not really", "No, it still leaks, what now?", "it didn't help"),
    *("нет, деньги так и не вернули", "так и не решили", "still not working", "Нет, проблема осталась", "👎"),
)
NEITHER = (
    *("no problem", "нет проблем", "нет, спасибо", "No, thank you", "нет, всё хорошо", "нет доставки в Самару?"),
    *("yes, but it still leaks", "да, а когда привезут?", "thanks", "ok", "?", "", "No delivery today?", "hello"),
)


@pytest.mark.parametrize("text", HELPED)
def test_a_yes_is_read(text: str) -> None:
    assert read(text) is Feedback.HELPED


@pytest.mark.parametrize("text", NOT_HELPED)
def test_a_no_is_read_whatever_follows_it(text: str) -> None:
    assert read(text) is Feedback.NOT_HELPED


@pytest.mark.parametrize("text", NEITHER)
def test_what_may_be_either_or_a_matter_of_its_own_is_no_answer(text: str) -> None:
    assert read(text) is None
