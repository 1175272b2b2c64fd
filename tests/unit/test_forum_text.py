"""How tickets read in a group, and what people do there is read."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from bot.channels.base import utf16_units
from bot.channels.telegram_forum_updates import ANONYMOUS, light, parse
from bot.channels.telegram_text import MAX_UNITS
from bot.errors import SettingsError
from bot.forum.groups import parse_groups
from bot.forum.text import icon, say, title
from bot.forum.words import COMMANDS, ICONS, STATES, WORDS
from handoff.lifecycle import TicketStatus
from handoff.records import Author, Message

GROUP = -1001
NOW = datetime(2026, 11, 22, tzinfo=UTC)


def update(**message: Any) -> dict[str, Any]:
    base = {
        "message_id": 50,
        "date": 1,
        "chat": {"id": GROUP, "type": "supergroup"},
        "from": {"id": 501, "is_bot": False, "first_name": "Olga"},
        "message_thread_id": 10,
        "is_topic_message": True,
    }
    return {"update_id": 1, "message": {**base, **message}}


def read(**message: Any) -> Any:
    return parse(update(**message), account="42", groups={GROUP})


@pytest.mark.parametrize("subject", ["x", "Где мой заказ? " * 20, "😀" * 200, "строка\nдругая"])
def test_a_title_fits_and_keeps_number_and_state(subject: str) -> None:
    made = title(123456, TicketStatus.WAITING, subject, "ru")
    assert utf16_units(made) <= 128
    assert made.startswith("№ 123456 · ждём клиента · ")
    assert "\n" not in made


def test_a_picture_is_one_that_telegram_has() -> None:
    assert icon(TicketStatus.RESOLVED, {"✅": "1", "❗️": "2"}) == "1"
    assert icon(TicketStatus.NEW, {"✅": "1", "❗️": "2"}) == "2"  # with the selector of its colour picture
    assert icon(TicketStatus.NEW, {}) == ""


def test_every_state_and_word_stands_in_both_languages() -> None:
    assert set(STATES) == set(ICONS) == set(TicketStatus)
    for pair in [*WORDS.values(), *STATES.values(), *COMMANDS.values()]:
        assert all(text.strip() for text in pair)
    for key, (russian, english) in WORDS.items():
        assert russian.count("{") == english.count("{"), key
    assert all(len(name) <= 32 and name.islower() for name in COMMANDS)


@pytest.mark.parametrize("text", ["слово " * 3000, "😀" * 5000, "x" * 9000])
def test_a_long_message_is_told_in_pieces_that_fit_and_nothing_of_it_is_lost(text: str) -> None:
    message = Message(
        author=Author.CUSTOMER, kind="text", text=text, edits=[], options=[], context=None, sent_at=NOW, created_at=NOW
    )
    pieces = say(message, "Анна " * 50, "ru")
    assert all(len(piece) <= MAX_UNITS for piece in pieces)
    told = "".join(piece.render()[0] for piece in pieces)
    assert sum(told.count(letter) for letter in "слво😀x") >= sum(text.count(letter) for letter in "слво😀x")


def test_groups_and_their_teams_are_read() -> None:
    first, second = parse_groups("-1001, -1002=payments+service")
    assert (first.id, set(first.teams)) == (-1001, set())
    assert (second.id, set(second.teams)) == (-1002, {"payments", "service"})


@pytest.mark.parametrize("setting", ["support", "1001", "-1001,-1001", "@group"])
def test_a_group_that_can_not_be_one_is_named(setting: str) -> None:
    with pytest.raises(SettingsError, match="OTVET_FORUM_GROUPS"):
        parse_groups(setting)


class TestReading:
    def test_what_is_written_in_a_topic_answers_nothing_but_what_is_chosen(self) -> None:
        plain = read(text="hi", reply_to_message={"message_id": 10, "forum_topic_created": {"name": "x"}})
        assert plain.reply_to is None
        chosen = read(text="hi", reply_to_message={"message_id": 44}, quote={"text": "this part"})
        assert (chosen.reply_to, chosen.quote) == (44, "this part")

    def test_a_thread_of_the_general_topic_is_no_topic(self) -> None:
        assert read(text="hi", is_topic_message=None).thread_id is None

    def test_a_command_is_one_only_where_telegram_says_so(self) -> None:
        entity = {"type": "bot_command", "offset": 0, "length": 9}
        found = read(text="/hold@bot DEV-17 3", entities=[entity])
        assert (found.command, found.arguments) == ("hold", "DEV-17 3")
        assert read(text="/usr/bin is a path", entities=[]).command == ""
        assert read(text="// a note", entities=[entity]).command == ""

    def test_links_and_bold_survive_and_a_mention_of_a_person_does_not(self) -> None:
        entities = [
            {"type": "bold", "offset": 0, "length": 4},
            {"type": "text_link", "offset": 5, "length": 4, "url": "https://klyon.example"},
            {"type": "text_mention", "offset": 10, "length": 4, "user": {"id": 1, "is_bot": False, "first_name": "A"}},
        ]
        assert light("bold link Anna", entities) == "**bold** [link](https://klyon.example) Anna"
        assert light("text", [{"type": "nonsense"}]) == "text"

    def test_other_bots_and_news_of_the_group_are_nothing(self) -> None:
        assert read(text="hi", **{"from": {"id": 9, "is_bot": True, "first_name": "Bot"}}) is None
        assert read(new_chat_title="x") is None
        assert read(text="hi", sender_chat={"id": GROUP}).person_id == ANONYMOUS

    @pytest.mark.parametrize("broken", [None, 5, "x", [], {}, {"message": 5}, {"message": {"chat": {"id": GROUP}}}])
    def test_what_can_not_be_read_is_nothing(self, broken: Any) -> None:
        assert parse(broken, account="42", groups={GROUP}) is None

    def test_a_code_is_read_from_a_private_chat_alone(self) -> None:
        private = {"id": 501, "type": "private"}
        assert read(text="/link ABC", chat=private).text == "ABC"
        assert read(text="/start link_ABC", chat=private).text == "ABC"
        assert read(text="/start", chat=private) is None
        assert read(text="/link ABC").kind == "message"
