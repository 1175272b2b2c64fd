"""Turns over a real ledger: nothing lost, nothing doubled, in order, and a fault ends at a person.

Only the understanding is a fake (`Keywords`); ledger, turns, sender, replies and desk are real.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from databases import MakeDatabase, all_connections_taken
from desks import open_desk
from site_harness import DATA, Clock, Keywords
from sqlalchemy import func, select

from bot import ledger
from bot.assistant import Assistant
from bot.attachments import AttachmentStore, StoredFile
from bot.channels.base import Address, Capabilities, InboundAttachment, InboundMessage, OutboundMessage, Pace, Receive
from bot.database import migrate, open_database
from bot.dialogue import Understanding
from bot.errors import DeliveryError
from bot.flows.turns import NO_FLOWS, FlowBook
from bot.ledger import InboxRow, InboxState, OutboxRow
from bot.models.understanding import Understander, Understood
from bot.replies import Replies
from bot.shared import LocalShared
from bot.turn.situation import situation_of
from bot.turn.turns import Turns
from handoff import desk
from handoff.records import NOTE, AttachmentState, Author, Conversation, Delivery, Message, Owner, Reason, Ticket
from kb_index.articles import ArticleFile

PNG = b"\x89PNG\r\n\x1a\n" + b"\x00\x00\x00\rIHDR" + b"\x00" * 60
COMMON = {"shop": "Klyon", "hours": "9–21", "privacy_url": "https://klyon.example/p", "first_reply_minutes": 10}


class Recorder:
    """A channel that keeps what it is given, and refuses when it is told to."""

    name = "recorder"
    capabilities = Capabilities(max_text_chars=4000, max_buttons=8, max_download_bytes=1000)

    def __init__(self) -> None:
        self.sent: list[OutboundMessage] = []
        self.refusals: list[DeliveryError] = []
        self.files: dict[str, bytes] = {}
        self.worked: list[str] = []
        self.marks: list[str] = []
        self.edits: list[tuple[str, str]] = []
        self.hold: asyncio.Event | None = None
        self.held = False
        self.fail_after: int | None = None
        self.failure = DeliveryError("502")

    async def run(self, receive: Receive) -> None:
        await asyncio.Event().wait()

    async def send(self, address: Address, message: OutboundMessage) -> str | None:
        if self.refusals:
            raise self.refusals.pop(0)
        if self.fail_after is not None and len(self.sent) >= self.fail_after:
            self.fail_after = None
            raise self.failure
        if self.hold is not None:
            self.held = True
            await self.hold.wait()
        self.sent.append(message)
        return str(len(self.sent))

    async def working(self, address: Address, external_id: str) -> None:
        self.worked.append(external_id)

    async def seen(self, address: Address, external_id: str) -> None:
        self.marks.append(external_id)

    async def edit(self, address: Address, external_id: str, message: OutboundMessage) -> None:
        if self.refusals:
            raise self.refusals.pop(0)
        self.edits.append((external_id, message.text))

    async def fetch(self, attachment: InboundAttachment) -> AsyncIterator[bytes]:
        if attachment.source["id"] not in self.files:
            raise DeliveryError("gone", permanent=True)
        yield self.files[attachment.source["id"]]


class World:
    def __init__(
        self,
        var: Path,
        replies: Path = DATA / "replies",
        understander: Understander | None = None,
        database: str | None = None,
        gather_seconds: float = 0.2,
        stored: Callable[[ArticleFile], Awaitable[StoredFile]] | None = None,
        load: Callable[[], Understander] | None = None,
        **more: Any,
    ) -> None:
        """more: of the turns."""
        self.clock = Clock()
        self.channel = Recorder()
        self.engine, self.sessions = open_database(database or f"sqlite+aiosqlite:///{var / 'otvet.sqlite3'}")
        mind = understander or Keywords()
        texts = Replies(tuple(dict.fromkeys((replies, DATA / "replies"))), {"ru": COMMON, "en": COMMON})
        self.replies = texts
        self.desk = open_desk(texts, self.clock)
        turns = Turns(
            understander=load or (lambda: mind),
            replies=texts,
            agent_desk=self.desk,
            clock=self.clock,
            limit_mb=20,
            stored=stored,
            **more,
        )
        self.assistant = Assistant(
            sessions=self.sessions,
            turns=turns,
            channels=[self.channel],
            attachments=AttachmentStore(var / "attachments", 10_000),
            clock=self.clock,
            gather_seconds=gather_seconds,
            shared=LocalShared(now=lambda: self.clock().timestamp()),
        )

    def message(self, text: str = "", *, key: str | None = None, chat: str = "c", **more: object) -> InboundMessage:
        made = InboundMessage(
            address=Address("recorder", "", chat),
            external_id=key or f"{chat}-{text}-{len(self.channel.sent)}",
            sent_at=self.clock(),
            text=text,
        )
        return replace(made, **more)  # type: ignore[arg-type]

    async def hear(self, text: str = "", **more: object) -> list[str]:
        """Say something as a customer; the texts that came back."""
        before = len(self.channel.sent)
        await self.assistant.receive(self.message(text, **more))  # type: ignore[arg-type]
        await self.assistant.drain()
        return [message.text for message in self.channel.sent[before:]]

    async def until_sent(self, count: int, seconds: float) -> None:
        async with asyncio.timeout(seconds):
            while len(self.channel.sent) < count:  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    async def tickets(self) -> list[Ticket]:
        async with self.sessions.begin() as session:
            return list(await desk.list_tickets(session))

    async def transcript(self) -> list[Message]:
        async with self.sessions.begin() as session:
            return list(await session.scalars(select(Message).order_by(Message.id)))


@contextlib.asynccontextmanager
async def at_work(world: World) -> AsyncIterator[None]:
    task = asyncio.create_task(world.assistant.run())
    yield
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


@pytest.fixture
async def world(tmp_path: Path, make_database: MakeDatabase) -> AsyncIterator[World]:
    made = World(tmp_path, database=make_database())
    await migrate(made.engine)
    yield made
    await made.engine.dispose()


async def test_a_first_message_is_greeted_with_the_privacy_notice_and_answered(world: World) -> None:
    greeting, answer = await world.hear("where is my order")
    assert "https://klyon.example/p" in greeting
    assert "My orders" in answer


async def test_the_customer_sees_that_an_answer_is_being_prepared_and_nothing_of_it_while_a_person_answers(
    world: World,
) -> None:
    await world.hear("where is my order", key="1")
    await world.hear("a person please", key="2")
    await world.hear("hello?", key="3")
    assert world.channel.worked == ["1", "2"]


async def test_a_repeated_message_is_stored_and_answered_once(world: World) -> None:
    for _ in range(3):
        await world.hear("where is my order", key="same")
    assert len(world.channel.sent) == 2
    assert len(await world.transcript()) == 3


async def test_the_same_id_in_another_channel_or_account_is_another_message(world: World) -> None:
    await world.hear("where is my order", key="1")
    other = replace(world.message("where is my order", key="1"), address=Address("recorder", "second bot", "c"))
    assert await world.assistant.receive(other)


async def test_messages_are_answered_in_the_order_of_arrival(world: World) -> None:
    for number in range(10):
        await world.assistant.receive(world.message(f"order {number}", key=str(number)))
    await world.assistant.drain()
    said = [message for message in await world.transcript() if message.author is Author.CUSTOMER]
    assert [message.text for message in said] == [f"order {number}" for number in range(10)]
    ids = [message.message_id for message in world.channel.sent]
    assert ids == sorted(ids)


async def test_a_handoff_tells_number_and_time_and_the_assistant_is_silent_until_it_is_resolved(world: World) -> None:
    await world.hear("where is my order")
    (said,) = await world.hear("a person please")
    (ticket,) = await world.tickets()
    assert f"№ {ticket.id}" in said or f"#{ticket.id}" in said or f" {ticket.id}" in said
    assert "10" in said or "15" in said
    assert ticket.topic == "orders"
    assert ticket.reason is Reason.ASKED_FOR_PERSON
    assert ticket.subject == "where is my order"
    assert await world.hear("where is my order now") == []
    async with world.sessions.begin() as session:
        await world.desk.resolve(session, ticket.id, agent="Support")
    (told, answered) = await world.hear("where is my order again")
    assert f"{ticket.id}" in told
    assert "order" in answered


async def test_a_fault_inside_a_turn_ends_at_a_person_and_loses_nothing(world: World) -> None:
    said = await world.hear("boom")
    (ticket,) = await world.tickets()
    assert ticket.reason is Reason.ERROR
    assert str(ticket.id) in said[-1]
    assert [m.text for m in await world.transcript() if m.author is Author.CUSTOMER] == ["boom"]
    async with world.sessions.begin() as session:
        row = await session.scalar(select(InboxRow))
        assert row is not None
        assert row.state is InboxState.FAILED
        assert "boom" in (row.error or "")


async def test_where_even_the_failure_can_not_be_kept_the_words_reach_a_person_and_the_conversation_goes_on(
    world: World,
) -> None:
    await world.hear("where is my order")
    async with world.sessions.begin() as session:
        conversation = await session.scalar(select(Conversation))
        assert conversation is not None
        conversation.state = {"options": 7}  # as no release of ours reads it
    await world.hear("and the second one?", platform_id="message-7")
    (ticket,) = await world.tickets()
    assert ticket.reason is Reason.ERROR
    assert [m.text for m in await world.transcript() if m.author is Author.CUSTOMER][-1] == "and the second one?"
    await world.hear("and the third one?", kind="edit", refers_to="message-7")
    assert [m.text for m in await world.transcript() if m.author is Author.CUSTOMER][-1] == "and the third one?"
    assert "and the second one?" not in [m.text for m in await world.transcript()]
    async with world.sessions.begin() as session:
        await world.desk.resolve(session, ticket.id, agent="Support")
    assert "My orders" in (await world.hear("where is my order again"))[-1]


@pytest.mark.parametrize(
    ("first", "lang"),
    [
        ({"kind": "start", "text": "flow-track", "lang_hint": "ru"}, "ru"),
        ({"kind": "start", "text": "flow-track"}, "ru"),
        ({"text": "12345", "lang_hint": "en"}, "en"),
        ({"text": "где мой заказ", "lang_hint": "en"}, "ru"),
    ],
)
async def test_a_first_turn_that_breaks_ends_in_the_language_in_which_it_would_have_been_answered(
    tmp_path: Path, first: dict[str, str], lang: str
) -> None:
    def broken() -> Understander:
        raise RuntimeError("no model")

    world = World(tmp_path, load=broken)
    await migrate(world.engine)
    await world.hear(**first)
    (ticket,) = await world.tickets()
    assert (ticket.reason, ticket.lang) == (Reason.ERROR, lang)
    await world.engine.dispose()


@pytest.mark.parametrize(("days", "topic"), [(0.5, "orders"), (2, "unclear")])
async def test_a_turn_that_breaks_is_routed_by_what_was_asked_before_but_not_days_ago(
    world: World, days: float, topic: str
) -> None:
    await world.hear("where is my order")
    world.clock.advance(days * 86400)
    said, address = world.message("zzz"), Address("recorder", "", "c")
    async with world.sessions.begin() as session:
        situation = await situation_of(session, address, now=world.clock())
    recalled = await world.assistant._turns.thinking.recall(world.sessions, situation, [said])
    assert recalled is not None
    assert recalled.routed.route.topic.id == topic
    await world.hear("boom")
    (ticket,) = await world.tickets()
    assert (ticket.reason, ticket.topic) == (Reason.ERROR, topic)


@pytest.mark.parametrize("token", ["survey_yes:" + "9" * 20, "nps:" + "9" * 20 + ":9"])
async def test_a_made_up_button_with_a_number_that_no_database_takes_is_no_fault(world: World, token: str) -> None:
    await world.hear("where is my order")
    assert await world.hear(kind="choice", choice=token)
    assert await world.tickets() == []


async def test_a_reply_that_waits_is_found_also_where_the_messages_were_dealt_with_by_another(world: World) -> None:
    await world.hear("where is my order")
    await world.assistant.receive(world.message("hello"))
    address, now = Address("recorder", "", "c"), world.clock()
    async with world.sessions.begin() as session:
        rows = await ledger.pending(session, address)
        assert await ledger.take(session, rows, InboxState.DONE, now=now)
        conversation = await desk.lock_conversation(session, 1)
        await ledger.say(session, conversation, "of another worker", guarded=False, now=now)
    async with world.sessions.begin() as session:
        assert not await ledger.take(session, rows, InboxState.FAILED, now=now)
        claim = await ledger.claim_next(session, address, now=now)
    assert claim is not None
    assert claim.message.text == "of another worker"


async def test_a_broken_template_falls_back_to_the_shipped_one(tmp_path: Path) -> None:
    for lang in ("ru", "en"):
        (tmp_path / "own" / lang).mkdir(parents=True)
        (tmp_path / "own" / lang / "answer.j2").write_text("{{ text }", encoding="utf-8")
        (tmp_path / "own" / lang / "handoff.j2").write_text("{{ no_such_value }}", encoding="utf-8")
    world = World(tmp_path, replies=tmp_path / "own")
    await migrate(world.engine)
    assert "My orders" in (await world.hear("where is my order"))[-1]
    said = await world.hear("a person please")
    (ticket,) = await world.tickets()
    assert str(ticket.id) in said[-1]
    await world.engine.dispose()


async def test_a_reply_computed_before_a_person_took_over_is_discarded(world: World) -> None:
    world.channel.refusals = [DeliveryError("busy", retry_after_seconds=30)]
    await world.hear("where is my order")  # the greeting is refused for now, and the answer waits behind it
    async with world.sessions.begin() as session:
        conversation = await session.scalar(select(Conversation))
        assert conversation is not None
        conversation.owner, conversation.epoch = Owner.PERSON, conversation.epoch + 1
    world.clock.advance(31)
    await world.assistant.drain()
    assert len(world.channel.sent) == 1  # the greeting is an announcement; the answer is not
    answer = (await world.transcript())[-1]
    assert answer.delivery is Delivery.DISCARDED


async def test_a_refused_message_is_sent_again_after_the_time_that_the_platform_asked_for(world: World) -> None:
    world.channel.refusals = [DeliveryError("429", retry_after_seconds=30)]
    assert await world.hear("where is my order") == []
    await world.assistant.drain()
    assert world.channel.sent == []
    world.clock.advance(31)
    await world.assistant.drain()
    assert len(world.channel.sent) == 2
    assert {m.delivery for m in await world.transcript() if m.author is not Author.CUSTOMER} == {Delivery.SENT}


async def test_what_never_reached_a_customer_ends_at_a_person_and_stops_nobody_else(world: World) -> None:
    world.channel.refusals = [DeliveryError("blocked", permanent=True)] * 2
    await world.hear("where is my order")
    _, greeting, answer, *notes = await world.transcript()
    assert (greeting.delivery, answer.delivery) == (Delivery.FAILED, Delivery.FAILED)
    assert answer.delivery_error == "blocked"
    assert [(note.kind, note.author, (note.decision or {})["undelivered"]) for note in notes] == [
        (NOTE, Author.SYSTEM, greeting.id),
        (NOTE, Author.SYSTEM, answer.id),
    ]
    (ticket,) = await world.tickets()
    assert (ticket.reason, ticket.subject) == (Reason.UNDELIVERED, "where is my order")
    assert len(await world.hear("where is my order", chat="other")) == 2


async def test_an_answer_that_did_not_arrive_goes_to_the_team_of_its_article(world: World) -> None:
    for said in ("how do I return it", "where is my order"):  # the choices, and an answer
        world.channel.refusals = [DeliveryError("blocked", permanent=True)] * 2
        await world.hear(said, chat=said)
    tickets = await world.tickets()
    assert [(ticket.reason, ticket.topic, ticket.routed_by) for ticket in tickets] == [
        (Reason.UNDELIVERED, "orders", "article"),
        (Reason.UNDELIVERED, "orders", "article"),
    ]


class Torn:
    """Flows that can't be read in the first turn."""

    broken = True

    def __call__(self) -> FlowBook:
        if self.broken:
            self.broken = False
            raise RuntimeError("torn")
        return NO_FLOWS


async def test_a_turn_that_broke_goes_to_the_team_that_the_models_name(tmp_path: Path) -> None:
    world = World(tmp_path, flows=Torn())
    await migrate(world.engine)
    await world.hear("how is my order, please")
    (ticket,) = await world.tickets()
    assert (ticket.reason, ticket.topic, ticket.routed_by) == (Reason.ERROR, "orders", "article")
    (said,) = [message for message in await world.transcript() if message.author is Author.CUSTOMER]
    assert said.decision == {"lang": "en", "model_version": "keywords", "rule": "error", "error": "RuntimeError"}
    await world.engine.dispose()


async def test_what_was_received_before_a_crash_is_answered_after_the_next_start(tmp_path: Path) -> None:
    first = World(tmp_path)
    await migrate(first.engine)
    await first.assistant.receive(first.message("where is my order"))
    await first.engine.dispose()
    second = World(tmp_path)
    await second.assistant.drain()
    assert len(second.channel.sent) == 2
    await second.engine.dispose()


async def test_a_photo_is_kept_acknowledged_and_given_to_the_agent(world: World) -> None:
    world.channel.files["p"] = b"picture"
    photo = InboundAttachment("photo", {"id": "p"}, mime_type="image/jpeg", size_bytes=7)
    said = await world.hear(kind="attachment", attachments=(photo,), key="photo")
    assert len(said) == 2
    await world.hear("a person please")
    (ticket,) = await world.tickets()
    async with world.sessions.begin() as session:
        packet = (await world.desk.packet(session, ticket.id)).as_json()
    (kept,) = [item for message in packet["transcript"] for item in message["attachments"]]
    assert (kept["state"], kept["size_bytes"]) == ("stored", 7)
    store = world.assistant._attachments
    assert store.path(kept["sha256"]).read_bytes() == b"picture"


@pytest.mark.parametrize(
    ("attachment", "state"),
    [
        (InboundAttachment("video", {"id": "v"}, size_bytes=1001), AttachmentState.TOO_LARGE),
        (InboundAttachment("document", {"id": "big"}), AttachmentState.TOO_LARGE),
        (InboundAttachment("voice", {"id": "gone"}), AttachmentState.FAILED),
        (InboundAttachment("location", {"id": "x", "latitude": 1.0}, fetchable=False), AttachmentState.REFERENCE),
    ],
)
async def test_a_file_that_cannot_be_kept_is_recorded_and_said(
    world: World, attachment: InboundAttachment, state: AttachmentState
) -> None:
    world.channel.files["big"] = b"x" * 10_001
    said = await world.hear(kind="attachment", attachments=(attachment,), key="file")
    assert len(said) == 2  # the greeting, and what became of the file
    (kept,) = (await world.transcript())[0].attachments
    assert kept.state is state


@pytest.mark.parametrize(
    "text",
    ["", "   ", "🙂", "\x00\x01\x02", "\ud800", "{{ 7 * 7 }}", "<script>alert(1)</script>", "a" * 100_000, "{% for %}"],
)
async def test_any_text_has_an_outcome_and_stays_as_it_was(world: World, text: str) -> None:
    said = await world.hear(text, key="odd")
    assert len(said) == 2  # the greeting, and an outcome
    assert "49" not in said[-1]
    stored = (await world.transcript())[0].text
    assert stored == text.replace("\x00", "\ufffd").replace("\ud800", "?")
    async with world.sessions.begin() as session:
        assert await session.scalar(select(func.count(InboxRow.id)).where(InboxRow.state == InboxState.DONE)) == 1


async def test_the_first_words_are_answered_in_the_language_that_the_platform_reports(world: World) -> None:
    await world.hear("12345", lang_hint="en")
    async with world.sessions.begin() as session:
        conversation = await session.scalar(select(Conversation))
    assert conversation is not None
    assert conversation.lang == "en"


async def test_two_conversations_at_once_each_keep_their_order(world: World) -> None:
    running = asyncio.create_task(world.assistant.run())
    for number in range(6):
        for chat in "ab":
            await world.assistant.receive(world.message(f"order {number}", key=f"{chat}{number}", chat=chat))
    async with asyncio.timeout(20):
        while True:
            async with world.sessions.begin() as session:
                waiting = await session.scalar(select(func.count(InboxRow.id)).where(InboxRow.state == "pending"))
                unsent = await session.scalar(select(func.count(OutboxRow.id)))
            if not waiting and not unsent:
                break
            await asyncio.sleep(0.05)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    for chat in "ab":
        async with world.sessions.begin() as session:
            conversation = await session.scalar(select(Conversation).where(Conversation.chat_id == chat))
            assert conversation is not None
            rows = await desk.transcript(session, conversation.id)
        texts = [row.text for row in rows if row.author is Author.CUSTOMER]
        assert texts == [f"order {number}" for number in range(6)]


async def test_an_agent_answers_in_the_same_chat_from_another_process(world: World) -> None:
    await world.hear("a person please")
    (ticket,) = await world.tickets()
    async with world.sessions.begin() as session:
        await world.desk.reply(session, ticket.id, "I am on it", agent="Support")
    await world.assistant.drain()
    assert (world.channel.sent[-1].text, world.channel.sent[-1].author) == ("I am on it", "agent")


async def test_several_short_messages_are_one_turn_and_each_stands_in_the_transcript(world: World) -> None:
    for number, text in enumerate(("hello", "where is", "my order")):
        await world.assistant.receive(world.message(text, key=str(number)))
    await world.assistant.drain()
    assert len(world.channel.sent) == 2  # the greeting and one answer
    said = [m.text for m in await world.transcript() if m.author is Author.CUSTOMER]
    assert said == ["hello", "where is", "my order"]


async def test_a_few_words_wait_for_what_follows_and_a_whole_question_does_not(tmp_path: Path) -> None:
    world = World(tmp_path, gather_seconds=0.6)
    await migrate(world.engine)
    async with at_work(world):
        await world.assistant.receive(world.message("hello", key="1"))
        await asyncio.sleep(0.3)
        assert world.channel.sent == []
        await world.assistant.receive(world.message("where is my order?", key="2"))
        await world.until_sent(2, seconds=1.5)
        asked = asyncio.get_running_loop().time()
        await world.assistant.receive(world.message("and where is my second order?", key="3"))
        await world.until_sent(3, seconds=5)
        assert asyncio.get_running_loop().time() - asked < 0.5
    assert [m.decision is not None for m in await world.transcript() if m.author is Author.CUSTOMER] == [
        False,
        True,
        True,
    ]
    await world.engine.dispose()


async def test_a_backlog_is_not_read_as_one_utterance(world: World) -> None:
    for minute in range(3):
        message = world.message(f"order number {minute}", key=str(minute))
        await world.assistant.receive(replace(message, sent_at=message.sent_at + timedelta(minutes=minute)))
    await world.assistant.drain()
    said = [m for m in await world.transcript() if m.author is Author.CUSTOMER]
    assert [m.decision is not None for m in said] == [True, True, True]


async def test_an_edit_changes_the_transcript_and_asks_nothing_again(world: World) -> None:
    await world.hear("where is my ordr order", key="1")
    assert await world.hear("where is my order", key="2", kind="edit", refers_to="1") == []
    (said,) = [m for m in await world.transcript() if m.author is Author.CUSTOMER]
    assert said.text == "where is my order"
    assert [edit["text"] for edit in said.edits] == ["where is my ordr order"]


async def test_what_was_edited_before_it_was_read_is_answered_as_it_reads_then(world: World) -> None:
    await world.assistant.receive(world.message("a person please", key="1"))
    await world.assistant.receive(world.message("where is my order", key="2", kind="edit", refers_to="1"))
    await world.assistant.drain()
    assert await world.tickets() == []
    assert "My orders" in world.channel.sent[-1].text
    (said,) = [m for m in await world.transcript() if m.author is Author.CUSTOMER]
    assert said.text == "where is my order"


async def test_what_the_customer_takes_back_is_marked_and_stays_for_the_agent(world: World) -> None:
    await world.hear("where is my order", key="1")
    assert await world.hear(key="2", kind="deletion", refers_to="1") == []
    (said,) = [m for m in await world.transcript() if m.author is Author.CUSTOMER]
    assert said.deleted_at is not None
    assert said.text == "where is my order"


async def test_what_was_taken_back_before_it_was_read_is_kept_and_not_answered(world: World) -> None:
    await world.hear("hello", key="0")
    for key, text in enumerate(("a person please", "where is my order"), 1):
        await world.assistant.receive(world.message(text, key=str(key)))
    await world.assistant.receive(world.message(key="3", kind="deletion", refers_to="1"))
    sent = len(world.channel.sent)
    await world.assistant.drain()
    assert await world.tickets() == []
    assert [("My orders" in message.text) for message in world.channel.sent[sent:]] == [True]
    said = [m for m in await world.transcript() if m.author is Author.CUSTOMER][1:]
    assert [(m.kind, m.text, m.deleted_at is not None) for m in said] == [
        ("text", "a person please", True),
        ("text", "where is my order", False),
    ]


async def test_a_reaction_is_kept_and_not_answered(world: World) -> None:
    await world.hear("where is my order", key="1")
    assert await world.hear("👍", key="2", kind="reaction", refers_to="1") == []
    assert (await world.transcript())[-1].text == "👍"


async def test_a_failure_that_the_platform_reports_late_ends_at_a_person_with_its_reason(world: World) -> None:
    await world.hear("where is my order")
    answer = (await world.transcript())[-1]
    async with world.sessions.begin() as session:
        await world.assistant.on_failed(session, answer, "131026: the number is not on WhatsApp")
    (ticket,) = await world.tickets()
    assert ticket.reason is Reason.UNDELIVERED
    note = (await world.transcript())[-1]
    assert note.kind == NOTE
    assert "131026" in note.text


async def test_a_platform_that_fails_for_a_day_ends_at_a_person_who_can_be_announced(world: World) -> None:
    await world.hear("where is my order")
    world.channel.refusals = [DeliveryError("502")] * 200
    await world.hear("how do I return it")
    for _ in range(110):
        world.clock.advance(800)
        await world.assistant.drain()
    (ticket,) = await world.tickets()
    assert ticket.reason is Reason.UNDELIVERED
    answer = [m for m in await world.transcript() if m.delivery is Delivery.FAILED]
    assert [m.delivery_error for m in answer] == ["502"]
    world.channel.refusals = []
    world.clock.advance(800)
    await world.assistant.drain()
    assert str(ticket.id) in world.channel.sent[-1].text


async def test_a_platform_that_asks_to_wait_has_refused_nothing(world: World) -> None:
    await world.hear("where is my order")
    world.channel.refusals = [DeliveryError("429", retry_after_seconds=5)] * 20
    await world.hear("how do I return it")
    for _ in range(21):
        world.clock.advance(6)
        await world.assistant.drain()
    assert await world.tickets() == []
    assert {m.delivery for m in await world.transcript()} == {None, Delivery.SENT}


async def test_what_waited_for_us_half_a_day_is_not_given_up_at_its_first_fault(world: World) -> None:
    await world.hear("where is my order")
    async with world.sessions.begin() as session:
        conversation = (await session.scalars(select(Conversation))).one()
        await ledger.say(session, conversation, "written before we went away", guarded=False, now=world.clock())
    world.clock.advance(12 * 3600)
    world.channel.refusals = [DeliveryError("502"), DeliveryError("429", retry_after_seconds=5)]
    for _ in range(3):
        await world.assistant.drain()
        world.clock.advance(10)
    assert world.channel.sent[-1].text == "written before we went away"
    assert await world.tickets() == []


async def test_a_platform_that_asks_to_wait_for_hours_on_end_is_given_up(world: World) -> None:
    await world.hear("where is my order")
    world.channel.refusals = [DeliveryError("429", retry_after_seconds=3600)] * 20
    await world.hear("how do I return it")
    for _ in range(8):
        world.clock.advance(3601)
        await world.assistant.drain()
    assert [ticket.reason for ticket in await world.tickets()] == [Reason.UNDELIVERED]


async def test_a_process_that_died_while_sending_sends_again_and_it_is_counted(world: World) -> None:
    await world.hear("where is my order")
    await world.assistant.receive(world.message("where is my other order, please", key="2"))
    dying = asyncio.create_task(world.assistant.drain())
    world.channel.hold = asyncio.Event()
    async with asyncio.timeout(10):
        while not world.channel.held:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    dying.cancel()  # as a kill would: the platform has it, and nothing is recorded
    await asyncio.gather(dying, return_exceptions=True)
    assert [m.delivery for m in await world.transcript()][-1] is Delivery.SENDING
    world.channel.hold = None
    await world.assistant.drain()
    last = (await world.transcript())[-1]
    assert (last.delivery, last.repeats) == (Delivery.SENT, 1)


async def test_a_worker_that_wakes_up_after_another_took_over_records_and_sends_nothing_more(
    world: World,
) -> None:
    await world.hear("where is my order")
    await world.assistant.receive(world.message("where is my other order, please", key="2"))
    world.channel.hold = asyncio.Event()
    zombie = asyncio.create_task(world.assistant.drain())
    async with asyncio.timeout(10):
        while not world.channel.held:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    held, world.channel.hold = world.channel.hold, None
    await world.assistant.drain()  # another worker, which takes it for dead
    sent = len(world.channel.sent)
    held.set()
    await zombie
    assert len(world.channel.sent) == sent + 1  # the call that was in hand, which nobody can take back
    last = (await world.transcript())[-1]
    assert (last.delivery, last.external_id, last.repeats) == (Delivery.SENT, str(sent), 1)


async def test_a_long_reply_goes_on_with_the_part_that_failed(world: World) -> None:
    world.channel.capabilities = replace(Recorder.capabilities, max_text_chars=30)
    world.channel.refusals = []
    await world.hear("a person please")
    whole = [message.text for message in world.channel.sent]
    assert len(whole) > 3
    async with world.sessions.begin() as session:
        await world.desk.resolve(session, 1, agent="Support")  # nobody stands before the next in the queue
    await world.assistant.drain()
    world.channel.sent.clear()
    world.channel.fail_after = 2
    await world.hear("a person please", chat="other")
    world.clock.advance(10)
    await world.assistant.drain()
    await world.assistant.drain()
    assert len(world.channel.sent) == len(whole)


class Slow(Keywords):
    """Thinks until it may go on."""

    def __init__(self) -> None:
        super().__init__()
        self.thinking, self.go_on = threading.Event(), threading.Event()

    def understand(self, text: str, remembered_lang: str | None = None) -> Understood:
        self.thinking.set()
        assert self.go_on.wait(10)
        return super().understand(text, remembered_lang)


async def test_whoever_takes_over_while_a_turn_is_thought_about_is_not_talked_over(
    tmp_path: Path, make_database: MakeDatabase
) -> None:
    mind = Slow()
    world = World(tmp_path, understander=mind, database=make_database())
    await migrate(world.engine)
    await world.hear(kind="start", key="1")
    turn = asyncio.create_task(world.hear("where is my order", key="2"))
    await asyncio.to_thread(mind.thinking.wait, 10)
    async with world.sessions.begin() as session:
        conversation = await session.scalar(select(Conversation))
        assert conversation is not None
        conversation.owner, conversation.epoch = Owner.PERSON, conversation.epoch + 1
    mind.go_on.set()
    assert await turn == []
    assert (await world.transcript())[-1].text == "where is my order"
    await world.engine.dispose()


async def test_nothing_is_locked_while_the_models_think(tmp_path: Path, make_database: MakeDatabase) -> None:
    mind, database = Slow(), make_database()
    world, another_process = World(tmp_path, understander=mind, database=database), World(tmp_path, database=database)
    await migrate(world.engine)
    turn = asyncio.create_task(world.hear("where is my order", key="1"))
    await asyncio.to_thread(mind.thinking.wait, 10)
    message = another_process.message("hello", chat="other")
    await asyncio.wait_for(another_process.assistant.receive(message), 2)
    mind.go_on.set()
    await turn
    for each in (world, another_process):
        await each.engine.dispose()


async def test_a_database_too_slow_to_save_a_turn_is_no_fault_of_the_customers_words(
    tmp_path: Path, make_database: MakeDatabase
) -> None:
    mind = Slow()
    world = World(tmp_path, understander=mind, database=make_database())
    await migrate(world.engine)
    turn = asyncio.create_task(world.hear("where is my order"))
    await asyncio.to_thread(mind.thinking.wait, 10)
    async with all_connections_taken(world.engine, wait_seconds=0.4):
        mind.go_on.set()
        await asyncio.sleep(0.6)  # time for one vain wait, and not for two
    await asyncio.gather(turn, return_exceptions=True)
    await world.assistant.drain()
    assert "My orders" in world.channel.sent[-1].text
    assert await world.tickets() == []
    await world.engine.dispose()


async def test_what_was_in_hand_at_a_stop_leaves_no_connection_open(tmp_path: Path) -> None:
    class Connected(Recorder):
        sent_when_closed = -1

        async def close(self) -> None:
            self.sent_when_closed = len(self.sent)

    world = World(tmp_path)
    await migrate(world.engine)
    channel = Connected()
    world.assistant.channels = {channel.name: channel}
    channel.hold = asyncio.Event()
    await world.assistant.receive(world.message("hello"))
    serving = asyncio.create_task(world.assistant.run())
    async with asyncio.timeout(10):
        while not channel.held:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    serving.cancel()
    await asyncio.sleep(0.05)
    channel.hold.set()
    await asyncio.gather(serving, return_exceptions=True)
    assert channel.sent_when_closed == len(channel.sent) == 1
    await world.engine.dispose()


@pytest.mark.parametrize("words", ["Said once", "a" * 6000], ids=["whole", "in parts"])
async def test_what_the_platform_took_while_the_database_was_away_is_not_sent_again(
    tmp_path: Path, make_database: MakeDatabase, words: str
) -> None:
    world = World(tmp_path, database=make_database())
    await migrate(world.engine)
    await world.hear("a person please")
    (ticket,) = await world.tickets()
    before = len(world.channel.sent)
    async with world.sessions.begin() as session:
        await world.desk.reply(session, ticket.id, words, agent="Anna")
    world.channel.hold = asyncio.Event()
    sending = asyncio.create_task(world.assistant.drain())
    async with asyncio.timeout(10):
        while not world.channel.held:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    async with all_connections_taken(world.engine, wait_seconds=0.2):
        world.channel.hold.set()
        await asyncio.sleep(0.6)  # time for two vain waits
    await sending
    await world.assistant.drain()
    sent = [message.text for message in world.channel.sent[before:]]
    assert "".join(sent) == words
    await world.engine.dispose()


async def test_models_that_are_loaded_by_the_first_turn_hold_nobody_up(tmp_path: Path) -> None:
    loading, go_on = threading.Event(), threading.Event()
    in_time: list[bool] = []

    def load() -> Understander:
        loading.set()
        in_time.append(go_on.wait(5))
        return Keywords()

    world = World(tmp_path, load=load)
    await migrate(world.engine)
    turn = asyncio.create_task(world.hear("where is my order", key="1"))
    await asyncio.to_thread(loading.wait, 5)
    # Loading reads the articles: it may be waiting for the very transaction that is open here.
    async with world.sessions.begin() as session:
        assert (await session.scalars(select(Conversation))).all() == []
        go_on.set()
    assert await turn
    assert in_time == [True]
    await world.engine.dispose()


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """The faults that these tests cause are logged; nobody has to read them."""
    import logging

    import structlog

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.reset_defaults()


async def test_a_reply_over_the_platforms_pace_waits_for_its_moment_and_costs_no_attempt(
    tmp_path: Path, make_database: MakeDatabase
) -> None:
    world = World(tmp_path, database=make_database())
    await migrate(world.engine)
    world.channel.capabilities = replace(
        Recorder.capabilities, chat_pace=Pace(every_seconds=30, burst=2), account_pace=Pace(every_seconds=10, burst=3)
    )
    assert len(await world.hear("where is my order")) == 2  # the greeting and the answer: the chat's whole burst
    assert await world.hear("where is my order?", key="2") == []
    assert len(await world.hear("where is my order", chat="other")) == 1  # the greeting; the account's burst ends here
    async with world.sessions.reading() as session:
        rows = list(await session.scalars(select(OutboxRow).order_by(OutboxRow.id)))
    assert [row.attempts for row in rows] == [0, 0]
    waits = [(row.due_at - world.clock()).total_seconds() for row in rows]
    assert waits == pytest.approx([30, 10], abs=3)

    world.clock.advance(11)
    await world.assistant.drain()
    assert len(world.channel.sent) == 4
    world.clock.advance(20)
    await world.assistant.drain()
    assert len(world.channel.sent) == 5
    assert all(message.delivery is not Delivery.FAILED for message in await world.transcript())
    await world.engine.dispose()


async def test_what_has_to_wait_but_a_moment_is_not_put_back(tmp_path: Path) -> None:
    world = World(tmp_path)
    await migrate(world.engine)
    world.channel.capabilities = replace(Recorder.capabilities, account_pace=Pace(every_seconds=0.2, burst=1))
    assert len(await world.hear("where is my order")) == 2
    await world.engine.dispose()


class WithPictures(Keywords):
    """Knows an answer that shows two pictures."""

    def understand(self, text: str, remembered_lang: str | None = None) -> Understood:
        understood = super().understand(text, remembered_lang)
        shown = (
            ArticleFile("img/box.png", "a" * 64, 10, "image/png"),
            ArticleFile("gone.png", "b" * 64, 1, "image/png"),
        )
        found = replace(self._found("order-status", 0.97), pictures=shown)
        return replace(understood, parts=(Understanding(text, candidates=(found,)),))


async def test_the_pictures_of_an_answer_go_out_before_its_words_and_a_missing_one_stops_nothing(
    tmp_path: Path,
) -> None:
    store = AttachmentStore(tmp_path / "attachments", 10_000)

    async def stored(file: ArticleFile) -> StoredFile:
        if file.target == "gone.png":
            raise FileNotFoundError(file.target)

        async def chunks() -> AsyncIterator[bytes]:
            yield PNG

        return await store.store(chunks(), Path(file.target).name)

    world = World(tmp_path, understander=WithPictures(), stored=stored)
    await migrate(world.engine)
    await world.hear("where is my order")
    sent = world.channel.sent
    shown = [(file.kind, file.file_name) for message in sent for file in message.attachments]
    assert shown == [("photo", "box.png")]
    assert [bool(message.text) for message in sent] == [True, False, True], "greeting, picture, words"
    assert sent[-1].options, "the buttons stand under the words"
    answer = (await world.transcript())[-1]
    assert (answer.author, answer.delivery) == (Author.ASSISTANT, Delivery.SENT)
    assert [attachment.file_name for attachment in answer.attachments] == ["box.png"]
    await world.engine.dispose()


async def test_the_same_question_asked_days_later_is_answered_again_and_not_handed_off(tmp_path: Path) -> None:
    world = World(tmp_path)
    await migrate(world.engine)
    first = await world.hear("where is my order", key="a")
    world.clock.advance(3600)
    assert (await world.hear("where is my order", key="b"))[-1] != first[-1], "within a day it did not help"
    other = World(tmp_path / "other")
    await migrate(other.engine)
    await other.hear("where is my order", key="a")
    other.clock.advance(3 * 24 * 3600)
    assert (await other.hear("where is my order", key="b"))[-1] == first[-1]
    assert not await other.tickets()
    await world.engine.dispose()
    await other.engine.dispose()
