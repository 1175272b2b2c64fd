"""The Telegram channel without a network: what updates mean, what is sent, what refusals mean."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aiogram.methods import AnswerCallbackQuery, EditMessageReplyMarkup, GetFile, GetMe, SendChatAction, SendMessage
from aiogram.methods.base import Response
from aiogram.types import File, InlineKeyboardMarkup, ResponseParameters, User
from aiogram.utils.formatting import sizeof
from aiohttp import ClientResponseError, RequestInfo
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy
from sqlalchemy import func, select
from teremok.session import MockedSession
from yarl import URL

from bot import ledger
from bot.channels.base import (
    Address,
    InboundAttachment,
    InboundMessage,
    Option,
    OutboundAttachment,
    OutboundMessage,
    fit,
)
from bot.channels.telegram import TelegramChannel
from bot.channels.telegram_limits import CAPABILITIES
from bot.channels.telegram_text import compose, render
from bot.channels.telegram_updates import UNKNOWN_CHAT, WANTED_UPDATES, group_of, parse, parse_all, press_of
from bot.database import open_database
from bot.errors import DeliveryError, SettingsError
from bot.ledger import InboxRow
from handoff.records import Base

TOKEN = "42:TEST"
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
SENT = datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC)
ANNA = {"id": 7, "is_bot": False, "first_name": "Анна", "last_name": "Ким", "language_code": "ru-RU"}
PRIVATE = {"id": 7, "type": "private", "first_name": "Анна"}
ADDRESS = Address("telegram", "42", "7")
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def update(kind: str = "message", update_id: int = 1, /, **fields: Any) -> dict[str, Any]:
    event = {"message_id": 5, "date": int(SENT.timestamp()), "chat": PRIVATE, "from": ANNA, **fields}
    return {"update_id": update_id, kind: event}


def press(data: str = "article:returns", **fields: Any) -> dict[str, Any]:
    shown = {
        "message_id": 9,
        "date": 1,
        "chat": PRIVATE,
        "reply_markup": {"inline_keyboard": [[{"text": "Возврат", "callback_data": "article:returns"}]]},
    }
    return {"update_id": 2, "callback_query": {"id": "77", "from": ANNA, "data": data, "message": shown, **fields}}


def read(raw: Any) -> InboundMessage:
    message = parse(raw, account="42", now=NOW)
    assert message is not None
    return message


@pytest.fixture
def server() -> MockedSession:
    return MockedSession()


@pytest.fixture
async def channel(server: MockedSession) -> AsyncIterator[TelegramChannel]:
    channel = TelegramChannel(TOKEN, session=server, clock=lambda: NOW)
    yield channel
    await channel.close()


async def settled(channel: TelegramChannel) -> None:
    """Wait for what the channel does after an update was stored."""
    await asyncio.gather(*channel._background)


def refuse(server: MockedSession, code: int, description: str, **parameters: int) -> None:
    answer = Response[Any](
        ok=False, error_code=code, description=description, parameters=ResponseParameters(**parameters)
    )
    server.add_result(SendMessage, answer)


class TestWhatUpdatesMean:
    def test_a_text_comes_with_its_sender_time_and_language(self) -> None:
        message = read(update(text="Где мой заказ?"))
        assert message == InboundMessage(
            ADDRESS,
            "1/5",
            SENT,
            kind="text",
            text="Где мой заказ?",
            sender_name="Анна Ким",
            lang_hint="ru",
            platform_id="5",
        )

    @pytest.mark.parametrize(
        ("text", "payload"), [("/start", ""), ("/start promo_42", "promo_42"), ("/start@otvet_bot x", "x")]
    )
    def test_start_keeps_its_payload(self, text: str, payload: str) -> None:
        message = read(update(text=text))
        assert (message.kind, message.text) == ("start", payload)

    def test_another_command_is_a_text(self) -> None:
        message = read(update(text="/started now"))
        assert (message.kind, message.text) == ("text", "/started now")

    def test_a_press_is_a_choice_with_its_token_and_label(self) -> None:
        message = read(press())
        assert (message.kind, message.choice, message.text) == ("choice", "article:returns", "Возврат")
        assert (message.address, message.sent_at, message.external_id) == (ADDRESS, NOW, "2/77")

    def test_a_press_on_an_old_message_is_a_choice_all_the_same(self) -> None:
        assert read(press(message={"message_id": 9, "date": 0, "chat": PRIVATE})).choice == "article:returns"
        assert read(press(message=None)).address == ADDRESS

    def test_a_press_on_what_was_chosen_already_is_nothing(self) -> None:
        assert parse(press("✓"), account="42", now=NOW) is None

    @pytest.mark.parametrize("kind", ["document", "voice", "audio", "video", "video_note", "animation", "sticker"])
    def test_a_file_is_an_attachment_with_its_caption(self, kind: str) -> None:
        file = {"file_id": "F", "file_unique_id": "U", "file_size": 10, "mime_type": "a/b", "file_name": "n"}
        # Telegram sends an animation as a document too.
        also = {"document": file} if kind == "animation" else {}
        message = read(update(**{kind: file}, **also, caption="вот"))
        assert (message.kind, message.text) == ("attachment", "вот")
        assert message.attachments == (
            InboundAttachment(kind, {"file_id": "F", "file_unique_id": "U", "bot": "42"}, "n", "a/b", size_bytes=10),
        )

    def test_of_a_photo_the_largest_size_is_taken(self) -> None:
        sizes = [{"file_id": size, "file_unique_id": size, "file_size": 1} for size in ("small", "large")]
        [photo] = read(update(photo=sizes, media_group_id="1")).attachments
        assert (photo.kind, photo.source["file_id"], photo.mime_type) == ("photo", "large", "image/jpeg")

    @pytest.mark.parametrize(
        ("field", "kind"),
        [("location", "location"), ("venue", "location"), ("contact", "contact"), ("poll", "other"), ("dice", "other")],
    )
    def test_facts_are_attachments_without_a_file(self, field: str, kind: str) -> None:
        [attachment] = read(update(**{field: {"value": 6}})).attachments
        assert (attachment.kind, attachment.source, attachment.fetchable) == (kind, {field: {"value": 6}}, False)

    def test_an_edit_refers_to_the_message_that_it_changes(self) -> None:
        message = read(update("edited_message", 8, text="Где мой заказ 15?"))
        assert (message.kind, message.text, message.external_id) == ("edit", "Где мой заказ 15?", "8/5/edited")
        assert message.refers_to == "5"

    def test_a_reply_tells_what_it_answers_and_a_forwarded_album_that_it_is_one(self) -> None:
        quoted = {"message_id": 3, "date": 1, "chat": PRIVATE, "text": "Где заказ?"}
        answer = read(update(text="да", reply_to_message=quoted, quote={"text": "заказ", "position": 4}))
        assert (answer.refers_to, answer.context) == ("3", {"quote": "заказ"})
        forwarded = read(update(text="см.", forward_origin={"type": "hidden_user"}, media_group_id="12"))
        assert forwarded.context == {"forwarded": True, "album": "12"}

    @pytest.mark.parametrize(("shown", "text"), [([{"type": "emoji", "emoji": "👍"}], "👍"), ([], "")])
    def test_a_reaction_names_its_message_and_none_is_one_taken_back(self, shown: list[Any], text: str) -> None:
        fields = {"chat": PRIVATE, "message_id": 3, "date": 1_770_000_000, "user": ANNA, "new_reaction": shown}
        message = read({"update_id": 9, "message_reaction": {**fields, "old_reaction": []}})
        assert (message.kind, message.text, message.refers_to) == ("reaction", text, "3")

    @pytest.mark.parametrize(("status", "kind"), [("kicked", "blocked"), ("member", "unblocked")])
    def test_who_blocks_the_bot_or_takes_it_back_is_told(self, status: str, kind: str) -> None:
        raw = update("my_chat_member", new_chat_member={"status": status, "user": ANNA})
        found = parse(raw, account="42", now=NOW)
        assert found is not None
        assert (found.kind, found.address.chat_id) == (kind, "7")

    def test_the_words_that_are_answered_are_kept_though_we_may_not_know_the_message(self) -> None:
        found = parse(
            update(text="да", reply_to_message={"message_id": 3, "text": "Вам помогли?"}), account="42", now=NOW
        )
        assert found is not None
        assert (found.refers_to, found.context) == ("3", {"quote": "Вам помогли?"})

    def test_a_chat_of_a_business_account_is_a_conversation_of_its_own(self) -> None:
        found = read(update("business_message", text="Есть в наличии?", business_connection_id="BC"))
        assert (found.kind, found.address.chat_id, found.text) == ("text", "BC/7", "Есть в наличии?")
        pressed = read(press(message={"message_id": 9, "chat": PRIVATE, "business_connection_id": "BC"}))
        assert pressed.address.chat_id == "BC/7"
        broken = {"update_id": 1, "business_message": {"chat": PRIVATE, "business_connection_id": "BC"}}
        assert read(broken).address.chat_id == "BC/7"

    def test_what_the_owner_of_the_account_writes_is_a_persons_answer_and_what_we_wrote_is_nothing(self) -> None:
        owner = {"id": 99, "is_bot": False, "first_name": "Ольга"}
        raw = update("business_message", text="Да, есть", business_connection_id="BC", **{"from": owner})
        found = read(raw)
        assert (found.kind, found.address.chat_id, found.sender_name) == ("echo", "BC/7", None)
        ours = update("business_message", text="Да", business_connection_id="BC", sender_business_bot={"id": 42})
        assert parse(ours, account="42", now=NOW) is None
        edited = update("edited_business_message", text="Нет", business_connection_id="BC", **{"from": owner})
        assert parse(edited, account="42", now=NOW) is None

    def test_several_deleted_messages_are_several_deletions(self) -> None:
        gone = {"business_connection_id": "BC", "chat": PRIVATE, "message_ids": [3, 4]}
        found = parse_all({"update_id": 8, "deleted_business_messages": gone}, account="42", now=NOW)
        assert [(m.kind, m.address.chat_id, m.refers_to) for m in found] == [
            ("deletion", "BC/7", "3"),
            ("deletion", "BC/7", "4"),
        ]
        assert len({m.external_id for m in found}) == 2
        assert parse_all({"update_id": 8, "deleted_business_messages": {"chat": 1}}, account="42", now=NOW) == []

    def test_a_reaction_in_a_group_is_ignored(self) -> None:
        fields = {"chat": {"id": -5, "type": "group"}, "message_id": 3, "date": 1, "new_reaction": []}
        assert parse({"update_id": 9, "message_reaction": fields}, account="42", now=NOW) is None

    def test_a_moving_live_location_is_not_a_message_every_time(self) -> None:
        moved = update("edited_message", location={"latitude": 1, "longitude": 2})
        assert parse(moved, account="42", now=NOW) is None

    @pytest.mark.parametrize(
        "raw",
        [
            update(text="hi", chat={"id": -100, "type": "supergroup"}),
            update("channel_post", text="news", chat={"id": -100, "type": "channel"}),
            update(pinned_message={"message_id": 1}),
            press(message={"message_id": 9, "date": 1, "chat": {"id": -5, "type": "group"}}),
            update(
                "my_chat_member", chat={"id": -5, "type": "group"}, new_chat_member={"status": "kicked", "user": ANNA}
            ),
            {"update_id": 1, "poll": {"id": "1"}},
        ],
    )
    def test_what_no_customer_said_is_ignored(self, raw: dict[str, Any]) -> None:
        assert parse(raw, account="42", now=NOW) is None

    @pytest.mark.parametrize(
        "raw",
        [
            update(story={"id": 1}),
            update(text=["not", "a", "text"]),
            update(text="no date", date="yesterday"),
            update(photo=[]),
            update(document={"file_name": "without an id"}),
            update("something_of_next_year", text="?"),
            press(data=""),
        ],
    )
    def test_what_cannot_be_read_is_kept_whole(self, raw: dict[str, Any]) -> None:
        message = read(raw)
        assert (message.kind, message.address) == ("unsupported", ADDRESS)
        assert message.attachments[0].source == {"update": raw}
        assert not message.attachments[0].fetchable

    def test_an_unreadable_message_of_nobody_is_kept_too(self) -> None:
        message = read({"update_id": 3, "message": None})
        assert (message.kind, message.address.chat_id) == ("unsupported", UNKNOWN_CHAT)

    def test_new_and_wrong_fields_that_nobody_reads_do_not_cost_the_message(self) -> None:
        strange = update(text="цена?", forward_origin={"type": "from_mars"}, entities="none", new_field=1)
        assert read(strange).text == "цена?"

    def test_half_an_emoji_does_not_cost_the_message(self) -> None:
        assert read(update(text="ok \ud83d")).text == "ok ?"

    @given(JSON_VALUES)
    def test_no_json_value_raises(self, raw: Any) -> None:
        parse_all(raw, account="42", now=NOW)
        group_of(raw)

    @given(
        st.fixed_dictionaries(
            {"update_id": st.integers() | JSON_VALUES},
            optional={
                kind: JSON_VALUES
                | st.fixed_dictionaries(
                    {},
                    optional={
                        field: JSON_VALUES | st.just(good)
                        for field, good in {
                            "message_id": 5,
                            "date": 1_700_000_000,
                            "chat": PRIVATE,
                            "from": ANNA,
                            "id": "77",
                            "data": "token",
                            "text": "hi",
                            "business_connection_id": "BC",
                            "message_ids": [1],
                            "new_chat_member": {"status": "kicked"},
                            "photo": [{"file_id": "F"}],
                            "voice": {"file_id": "F"},
                            "message": {"message_id": 9, "chat": PRIVATE, "reply_markup": {"inline_keyboard": [[1]]}},
                        }.items()
                    },
                )
                for kind in (*WANTED_UPDATES, "other")
            },
        )
    )
    def test_no_damaged_update_raises_and_each_result_survives_storing(self, raw: dict[str, Any]) -> None:
        press_of(raw)
        group_of(raw)
        for message in parse_all(raw, account="42", now=NOW):
            assert InboundMessage.from_json(json.loads(json.dumps(message.to_json()))) == message
            assert message.external_id
            assert len(message.external_id) <= 128


class TestTaking:
    async def test_the_same_update_three_times_is_stored_once(self, channel: TelegramChannel, tmp_path: Path) -> None:
        engine, sessions = open_database(f"sqlite+aiosqlite:///{tmp_path / 'ledger.sqlite3'}")
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)

        async def receive(message: InboundMessage) -> bool:
            return await ledger.receive(sessions, message, now=NOW)

        for _ in range(3):
            await channel.take(update(text="один раз"), receive)
        await channel.take(update("message", 2, text="другой раз", message_id=6), receive)
        async with sessions() as session:
            assert await session.scalar(select(func.count()).select_from(InboxRow)) == 2
        await engine.dispose()

    async def test_a_press_is_answered_and_leaves_what_was_chosen(
        self, channel: TelegramChannel, server: MockedSession
    ) -> None:
        await channel.take(press(), new)
        await settled(channel)
        answer, edit = server.requests
        assert isinstance(answer, AnswerCallbackQuery)
        assert answer.callback_query_id == "77"
        assert isinstance(edit, EditMessageReplyMarkup)
        assert (edit.chat_id, edit.message_id) == (7, 9)
        assert buttons(edit.reply_markup) == [("✓ Возврат", "✓")]

    async def test_a_press_is_not_answered_before_it_is_stored(
        self, channel: TelegramChannel, server: MockedSession
    ) -> None:
        async def broken(message: InboundMessage) -> bool:
            raise ConnectionError

        with pytest.raises(ConnectionError):
            await channel.take(press(), broken)
        assert server.requests == []

    async def test_a_group_hears_once_that_the_bot_answers_in_private(self, tmp_path: Path) -> None:
        server, heard = MockedSession(), []
        me = User(id=42, is_bot=True, first_name="Клён", username="klyon_bot")
        server.add_result(GetMe, Response[User](ok=True, result=me))
        channel = TelegramChannel(TOKEN, session=server, in_groups=lambda lang, link: f"{lang} {link}")

        async def receive(message: InboundMessage) -> bool:
            heard.append(message)
            return True

        group = {"id": -100, "type": "supergroup"}
        await channel.take(update("my_chat_member", chat=group, new_chat_member={"status": "member"}), receive)
        await channel.take(update(text="/start@klyon_bot", chat=group), receive)
        await channel.take(update(text="hello all", chat=group), receive)
        await asyncio.gather(*channel._background)
        [sent] = [request for request in server.requests if isinstance(request, SendMessage)]
        assert (sent.chat_id, sent.text) == (-100, "ru https://t.me/klyon_bot")
        assert heard == []
        await channel.close()

    async def test_in_the_name_of_a_business_account_everything_goes_through_its_connection(
        self, channel: TelegramChannel, server: MockedSession, tmp_path: Path
    ) -> None:
        address = Address("telegram", "42", "BC/7")
        path = tmp_path / "x"
        path.write_bytes(b"x")
        file = OutboundAttachment("document", path, "x", "text/plain", 1)
        for part in fit(OutboundMessage("да", attachments=(file,)), channel.capabilities):
            await channel.send(address, part)
        await channel.send(address, OutboundMessage("да"))
        await channel.working(address, "5")
        await channel.seen(address, "5")
        sent = [request.model_dump() for request in server.requests]
        assert [(each["chat_id"], each["business_connection_id"]) for each in sent] == [(7, "BC")] * 4

    async def test_a_press_too_old_to_be_answered_is_taken(
        self, channel: TelegramChannel, server: MockedSession
    ) -> None:
        old = Response[bool](ok=False, error_code=400, description="Bad Request: query is too old")
        server.add_result(AnswerCallbackQuery, old)
        await channel.take(press(), new)
        await settled(channel)
        assert len(server.requests) == 2


async def new(message: InboundMessage) -> bool:
    return True


def buttons(markup: Any) -> list[tuple[str, str | None]]:
    assert isinstance(markup, InlineKeyboardMarkup)
    assert all(len(row) == 1 for row in markup.inline_keyboard)
    return [(row[0].text, row[0].callback_data) for row in markup.inline_keyboard]


class TestSending:
    async def test_options_are_buttons_one_in_a_row(self, channel: TelegramChannel, server: MockedSession) -> None:
        options = (Option("article:a", "Возврат"), Option("person", "Позвать человека"))
        await channel.send(ADDRESS, OutboundMessage("Что из этого?", options))
        [sent] = sent_messages(server)
        assert (sent.chat_id, sent.text) == (7, "Что из этого?")
        assert buttons(sent.reply_markup) == [("Возврат", "article:a"), ("Позвать человека", "person")]

    async def test_a_scale_stands_side_by_side_and_the_rest_below(
        self, channel: TelegramChannel, server: MockedSession
    ) -> None:
        scale = tuple(Option(f"nps:1:{score}", str(score)) for score in range(11))
        (fitted,) = fit(OutboundMessage("0–10?", (*scale, Option("nps_stop:1", "Не спрашивать"))), channel.capabilities)
        await channel.send(ADDRESS, fitted)
        [sent] = sent_messages(server)
        assert isinstance(sent.reply_markup, InlineKeyboardMarkup)
        rows = [[button.text for button in row] for row in sent.reply_markup.inline_keyboard]
        assert rows == [["0", "1", "2", "3", "4", "5"], ["6", "7", "8", "9", "10"], ["Не спрашивать"]]

    async def test_an_agents_message_has_the_name_in_front(
        self, channel: TelegramChannel, server: MockedSession
    ) -> None:
        await channel.send(ADDRESS, OutboundMessage("Уже смотрю.", author="agent", agent_name="Ольга"))
        [sent] = sent_messages(server)
        assert sent.text == "Ольга\nУже смотрю."
        assert formatted(sent.text, sent.entities) == [("bold", "Ольга")]

    @pytest.mark.parametrize("text", ["😀" * 4000, "я" * 4000, "- **" + "😀 " * 1990 + "**"])
    async def test_any_fitted_text_goes_through_whole(
        self, channel: TelegramChannel, server: MockedSession, text: str
    ) -> None:
        message = OutboundMessage(text, (Option("t", "ok"),), author="agent", agent_name="😀" * 60)
        for part in fit(message, channel.capabilities):
            await channel.send(ADDRESS, part)
        sent = sent_messages(server)
        assert sum(item.text.count(letter) for item in sent for letter in "😀я") >= text.count("😀") + text.count("я")
        assert all(sizeof(item.text) <= 4096 for item in sent)
        assert [item.reply_markup is not None for item in sent] == [False] * (len(sent) - 1) + [True]

    async def test_formatting_that_telegram_refuses_is_left_out(
        self, channel: TelegramChannel, server: MockedSession
    ) -> None:
        refuse(server, 400, "Bad Request: can't parse entities: ENTITY_TEXTURL_INVALID")
        await channel.send(ADDRESS, OutboundMessage("смотрите [сюда](https://bad)", (Option("t", "ok"),)))
        first, second = sent_messages(server)
        assert first.entities
        assert (second.text, second.entities, second.reply_markup) == ("смотрите сюда", None, first.reply_markup)

    async def test_a_message_that_went_out_is_not_failed_for_a_strange_answer(self) -> None:
        channel = TelegramChannel(TOKEN, session=StrangeSession())
        assert await channel.send(ADDRESS, OutboundMessage("hi")) == "31"

    async def test_typing_is_shown_and_its_failure_is_not(
        self, channel: TelegramChannel, server: MockedSession
    ) -> None:
        server.add_result(SendChatAction, Response[bool](ok=False, error_code=403, description="Forbidden"))
        await channel.working(ADDRESS, "1")
        await channel.working(Address("telegram", "42", "nobody"), "1")
        assert [type(request) for request in server.requests] == [SendChatAction]

    @pytest.mark.parametrize(
        ("code", "description", "permanent"),
        [
            (403, "Forbidden: bot was blocked by the user", True),
            (400, "Bad Request: chat not found", True),
            (401, "Unauthorized", False),
            (409, "Conflict", False),
            (500, "Internal Server Error", False),
        ],
    )
    async def test_a_refusal_is_permanent_when_trying_again_cannot_help(
        self, channel: TelegramChannel, server: MockedSession, code: int, description: str, permanent: bool
    ) -> None:
        refuse(server, code, description)
        with pytest.raises(DeliveryError) as caught:
            await channel.send(ADDRESS, OutboundMessage("hi"))
        assert (caught.value.permanent, caught.value.retry_after_seconds) == (permanent, None)

    async def test_flood_control_says_how_long_to_wait(self, channel: TelegramChannel, server: MockedSession) -> None:
        refuse(server, 429, "Too Many Requests", retry_after=7)
        with pytest.raises(DeliveryError) as caught:
            await channel.send(ADDRESS, OutboundMessage("hi"))
        assert (caught.value.permanent, caught.value.retry_after_seconds) == (False, 7)

    @pytest.mark.parametrize(("chat_id", "text"), [("unknown", "hi"), ("7", " ")])
    async def test_what_can_never_be_sent_is_permanent(self, channel: TelegramChannel, chat_id: str, text: str) -> None:
        with pytest.raises(DeliveryError) as caught:
            await channel.send(Address("telegram", "42", chat_id), OutboundMessage(text))
        assert caught.value.permanent

    def test_a_malformed_token_names_its_setting(self) -> None:
        with pytest.raises(SettingsError, match="OTVET_TELEGRAM_TOKEN"):
            TelegramChannel("not a token")


def sent_messages(server: MockedSession) -> list[SendMessage]:
    return [request for request in server.requests if isinstance(request, SendMessage)]


def formatted(text: str, entities: Any) -> list[tuple[str, str]]:
    """What each entity covers; offsets count UTF-16 units."""
    raw = text.encode("utf-16-le")
    return [
        (item.type, raw[item.offset * 2 : (item.offset + item.length) * 2].decode("utf-16-le")) for item in entities
    ]


class TestFormatting:
    def test_bold_links_and_code_become_entities(self) -> None:
        text, entities = render("😀 **Важно**: [условия](https://a.b/c) и `код`").render()
        assert text == "😀 Важно: условия и код"
        assert formatted(text, entities) == [("bold", "Важно"), ("text_link", "условия"), ("code", "код")]
        assert entities[1].url == "https://a.b/c"

    @pytest.mark.parametrize("text", ["😀" * 5000, "Да 😀 " * 1500, "a" * 5000, "😀" + "a" * 3999])
    def test_each_part_of_a_long_text_is_one_message(self, text: str) -> None:
        """Telegram counts an emoji twice. What goes out as one message is never repeated in part."""
        parts = fit(OutboundMessage(text), CAPABILITIES)
        assert [len(compose(part)) for part in parts] == [1] * len(parts)
        assert "".join(part.text for part in parts).replace(" ", "") == text.replace(" ", "")

    @pytest.mark.parametrize(
        ("markdown", "text"),
        [
            ("Могу подсказать:\n- заказы;\n- **оплата**.\nПишите", "Могу подсказать:\n• заказы;\n• оплата.\nПишите"),
            ("1. Первый\n2. Второй\n\nКонец", "1. Первый\n2. Второй\n\nКонец"),
            ("- а\n  1. б\n     - в\n  2. г\n- д", "• а\n    1. б\n        • в\n    2. г\n• д"),
            ("## Как вернуть\n\nТак.", "Как вернуть\n\nТак."),
            ("| Срок | Цена |\n|---|---|\n| 2 дня | 300 ₽ |", "Срок — Цена\n2 дня — 300 ₽"),
            ("строка\nещё строка\n\n\n\nабзац", "строка\nещё строка\n\nабзац"),
            ("[почта](mailto:a@b.c)", "почта (mailto:a@b.c)"),
        ],
    )
    def test_lists_tables_and_paragraphs_become_lines(self, markdown: str, text: str) -> None:
        assert render(markdown).render()[0] == text

    @pytest.mark.parametrize(
        "text",
        [
            "2*3*4 и __init__ и snake_case",
            "<b>не HTML</b> & <script>",
            "не **закрыто",
            "[скобки] (и ещё)",
            "[x](javascript:alert(1))",
            "C:\\*.txt &amp;",
            "+7 912 000-00-00",
        ],
    )
    def test_what_is_not_ours_arrives_as_typed(self, text: str) -> None:
        assert render(text).render() == (text, [])

    @given(st.text(alphabet="ab *_`[]()#>|-1.\n\\<&😀", max_size=80))
    def test_no_text_raises_and_entities_stay_within_it(self, markdown: str) -> None:
        for piece in compose(OutboundMessage(markdown)):
            text, entities = piece.render()
            assert all(item.offset + item.length <= sizeof(text) for item in entities)


class TestFetching:
    PHOTO = InboundAttachment("photo", {"file_id": "F"}, size_bytes=3)

    async def test_a_file_comes_in_chunks(self, channel: TelegramChannel, server: MockedSession) -> None:
        server.files["F"] = ("photos/1.jpg", b"abc")
        assert b"".join([chunk async for chunk in channel.fetch(self.PHOTO)]) == b"abc"

    @pytest.mark.parametrize(
        "attachment",
        [
            InboundAttachment("video", {"file_id": "F"}, size_bytes=20 * 2**20 + 1),
            InboundAttachment("location", {"location": {}}, fetchable=False),
            InboundAttachment("photo", {}),
        ],
    )
    async def test_what_cannot_be_fetched_is_known_without_asking(
        self, channel: TelegramChannel, server: MockedSession, attachment: InboundAttachment
    ) -> None:
        with pytest.raises(DeliveryError) as caught:
            await anext(channel.fetch(attachment))
        assert caught.value.permanent
        assert server.requests == []

    async def test_a_file_larger_than_told_is_cut_off(self, channel: TelegramChannel, server: MockedSession) -> None:
        server.files["F"] = ("videos/1.mp4", b"x" * (20 * 2**20 + 1))
        with pytest.raises(DeliveryError) as caught:
            await anext(channel.fetch(self.PHOTO))
        assert caught.value.permanent

    @pytest.mark.parametrize(("status", "permanent"), [(404, True), (429, False), (502, False)])
    async def test_a_refused_download_tells_no_token(self, status: int, permanent: bool) -> None:
        channel = TelegramChannel(TOKEN, session=RefusingSession(status))
        with pytest.raises(DeliveryError) as caught:
            await anext(channel.fetch(self.PHOTO))
        assert caught.value.permanent is permanent
        assert caught.value.__cause__ is None
        assert TOKEN not in str(caught.value)


class RefusingSession(MockedSession):
    """A file server that answers every download with this status."""

    def __init__(self, status: int) -> None:
        super().__init__()
        self.status = status
        self.add_result(
            GetFile, Response[File](ok=True, result=File(file_id="F", file_unique_id="U", file_path="photos/1.jpg"))
        )

    async def stream_content(self, url: str, *args: Any, **kwargs: Any) -> Any:
        request = RequestInfo(URL(url), "GET", CIMultiDictProxy(CIMultiDict()), URL(url))
        raise ClientResponseError(request, (), status=self.status)
        yield b""


class StrangeSession(MockedSession):
    """A server that sends, and answers with a message of which aiogram understands little."""

    async def make_request(self, bot: Any, method: Any, timeout: int | None = None) -> Any:  # noqa: ASYNC109
        content = json.dumps({"ok": True, "result": {"message_id": 31, "date": "soon"}})
        return self.check_response(bot=bot, method=method, status_code=200, content=content).result
