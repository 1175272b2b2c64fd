"""Which messages are one utterance, and for how long one waits for the next."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from bot.channels.base import Address, InboundAttachment, InboundMessage
from bot.gathering import Waiting, patience, utterance_length, with_edits

START = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
PHOTO = (InboundAttachment("photo", {}),)


def waiting(*texts: str, apart: float = 1.0, **more: object) -> list[Waiting]:
    found = []
    for number, text in enumerate(texts):
        at = START + timedelta(seconds=apart * number)
        kind = "choice" if text.startswith("#") else "start" if text == "/start" else "text"
        kind = "attachment" if text.startswith("(photo)") else kind
        message = InboundMessage(
            Address("test", "", "a"),
            str(number),
            at,
            kind=kind,
            text=text.removeprefix("(photo)"),
            choice=text if kind == "choice" else None,
            attachments=PHOTO if kind == "attachment" else (),
        )
        found.append(Waiting(message, at))
    return found


@pytest.mark.parametrize(
    ("texts", "length"),
    [
        (("hello", "where is my order?"), 2),
        (("заказ 123", "не пришёл", "что делать?"), 3),
        (("I ordered a kettle", "it came broken", "I want my money back"), 3),
        (("where is my order?", "№ 12345"), 2),
        (("where is my order?", "please", "how do I return the other one?"), 2 + 1),
        (("where is my order?", "how do I return the other one?"), 1),
        (("#helped", "where is my order?"), 1),
        (("where is it", "#helped"), 1),
        (("/start", "hello"), 1),
        (("(photo)", "(photo)", "it came like this"), 3),
        (("one",), 1),
        ((), 0),
    ],
)
def test_what_belongs_together(texts: tuple[str, ...], length: int) -> None:
    assert utterance_length(waiting(*texts), 4000) == length


def test_what_was_written_long_apart_is_read_apart() -> None:
    assert utterance_length(waiting("order 1", "order 2", apart=60), 4000) == 1


def test_texts_that_are_too_long_together_are_read_apart() -> None:
    assert utterance_length(waiting("a b c " * 10, "a b c " * 10), 100) == 1


def test_an_endless_stream_of_words_is_cut() -> None:
    assert utterance_length(waiting(*["word"] * 50, apart=0.1), 4000) == 20


PAUSE = timedelta(seconds=1.2)


@pytest.mark.parametrize("text", ["hello", "my order,", "it says:", "(photo)", "заказ 15", "well..."])
def test_more_is_expected_after_a_few_words_or_a_file(text: str) -> None:
    assert patience(waiting(text), PAUSE, START) == pytest.approx(1.2)
    assert patience(waiting(text), PAUSE, START + timedelta(seconds=2)) == 0


@pytest.mark.parametrize(
    "text", ["where is my order", "where?", "Help!", "Спасибо.", "#helped", "/start", "(photo)the box came torn open"]
)
def test_nothing_more_is_expected_after_a_whole_sentence_or_a_button(text: str) -> None:
    assert patience(waiting(text), PAUSE, START) == 0


def test_a_customer_who_never_pauses_is_answered_all_the_same() -> None:
    stream = waiting(*["word"] * 10, apart=1)
    assert patience(stream, PAUSE, stream[-1].received_at) == 0


def test_an_edit_that_waits_with_its_message_changes_what_is_read() -> None:
    first, second = waiting("where is my ordr", "where is my order")
    edit = InboundMessage(first.message.address, "9", START, kind="edit", text=second.message.text, refers_to="0")
    assert [each.message.text for each in with_edits([first, Waiting(edit, START)])] == ["where is my order"] * 2


def test_what_was_taken_back_while_it_waited_is_an_utterance_of_its_own() -> None:
    first, second, third = waiting("one thing", "not this", "and this")
    gone = InboundMessage(first.message.address, "9", START, kind="deletion", refers_to="1")
    settled = with_edits([first, second, third, Waiting(gone, START)])
    assert [each.message.kind for each in settled] == ["text", "withdrawn", "text", "deletion"]
    assert utterance_length(settled, 4000) == 1
