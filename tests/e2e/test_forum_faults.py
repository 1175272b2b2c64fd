"""What goes wrong at the Telegram desk holds up nothing else, is told, and is done once. Nothing runs by itself here:
every errand is done when a test asks for it."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from bot_api import _decoded, refused, served
from databases import Postgres
from forum_api import ForumBotApi, Written
from forum_world import GROUP, IVAN, OLGA, ForumWorld
from sqlalchemy import select

from bot.database import migrate, open_database
from bot.desk.records import Macro
from bot.errors import StorageError
from bot.forum import forum as forum_forum
from bot.forum import intake as forum_intake
from bot.forum.groups import hurry
from bot.forum.records import ForumWord
from handoff import desk
from handoff.lifecycle import TicketStatus
from handoff.records import Attachment, AttachmentState, Author, Conversation, HistoryEntry, Message, Reason, Ticket
from handoff.routing import route

pytestmark = pytest.mark.e2e
ACCOUNT = "42"


class StillApi(ForumBotApi):
    """slow: seconds that every download takes. refuses: says what is answered in place of doing a call."""

    slow = 0.0
    hangs = False
    """Whether a text is neither taken nor refused, for longer than the test lets anybody wait."""

    def __init__(self) -> None:
        super().__init__()
        self.minute_seconds = 0.5
        self.refuses: Callable[[str, dict[str, Any]], web.Response | None] = lambda _method, _form: None
        self.tried: list[str] = []
        """The methods of all calls."""

    async def handle(self, request: web.Request) -> web.Response:
        method = request.match_info["method"]
        form = {key: _decoded(value) for key, value in (await request.post()).items()}
        self.tried.append(method)
        if self.hangs and method == "sendMessage":
            await asyncio.sleep(1)
            return web.Response(status=504)
        refusal = self.refuses(method, form)
        return await super().handle(request) if refusal is None else refusal

    async def download(self, request: web.Request) -> web.Response:
        await asyncio.sleep(self.slow)
        return await super().download(request)


class Still(ForumWorld):
    def __init__(self, var: Path, api: StillApi, **options: Any) -> None:
        super().__init__(var, api, **options)
        self.still_api = api

    async def run(self, seconds: float = 0) -> None:
        """Take in what was put, and do all that is due some seconds later."""
        self.clock.advance(seconds)
        updates, self.forum_api.pending = self.forum_api.pending, []
        for update in updates:
            assert await self.intake.take(update, ACCOUNT)
        async with self.sessions.begin() as session:
            for group_id in self.forum.groups:
                await hurry(session, group_id, self.clock())
        await self.timers.run_errands()

    async def says(self, ticket_id: int, text: str, **columns: Any) -> int:
        """The customer of a ticket says something; the message's id."""
        async with self.sessions.begin() as session:
            ticket = await session.get_one(Ticket, ticket_id)
            await desk.lock_conversation(session, ticket.conversation_id)
            return (await self._message(session, ticket.conversation_id, text, **columns)).id

    async def _message(self, session: Any, conversation_id: int, text: str, **columns: Any) -> Message:
        now = self.clock()
        values = {"author": Author.CUSTOMER, "sent_at": now, "created_at": now, **columns}
        message = Message(conversation_id=conversation_id, text=text, **values)
        session.add(message)
        await session.flush()
        return message

    async def opened(self, text: str = "a person please", *, chat: int = 7, **columns: Any) -> int:
        """A ticket that somebody has just got."""
        async with self.sessions.begin() as session:
            conversation = await desk.open_conversation(
                session, channel="telegram", account=ACCOUNT, chat_id=str(chat), now=self.clock()
            )
            conversation.lang, conversation.customer_name = "en", "Анна"
            await self._message(session, conversation.id, text, **columns)
            tickets = self.desk.tickets
            ticket = await tickets.hand_off(
                session,
                conversation,
                reason=Reason.ASKED_FOR_PERSON,
                route=route(tickets.topics, None, [text]),
                texts=[text],
                now=self.clock(),
            )
            return ticket.id

    async def attach(self, message_id: int, name: str) -> None:
        """A file that came with a customer's message by another way than Telegram."""
        kept = await self.keep(b"%PDF-1.4 " + name.encode(), name)
        async with self.sessions.begin() as session:
            session.add(
                Attachment(
                    message_id=message_id,
                    kind=kept.kind,
                    state=AttachmentState.STORED,
                    file_name=name,
                    mime_type=kept.mime_type,
                    size_bytes=kept.size_bytes,
                    sha256=kept.sha256,
                )
            )

    def texts(self, ticket_id: int) -> list[str]:
        """What the bot wrote in the topic of a ticket."""
        return [each.text for each in self.said(self.group.topic_of(ticket_id))]

    def writing(self) -> bool:
        """Whether somebody holds the one place of a writer in the database."""
        with sqlite3.connect(str(self.engine.url.database), timeout=0, isolation_level=None) as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return True
            connection.execute("ROLLBACK")
            return False

    async def told_customer(self, ticket_id: int) -> list[str]:
        """What agents said to the customer."""
        async with self.sessions() as session:
            ticket = await session.get_one(Ticket, ticket_id)
            rows = await desk.transcript(session, ticket.conversation_id, notes=False)
            return [row.text for row in rows if row.author is Author.AGENT]


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("forum") / "otvet.sqlite3"

    async def make() -> None:
        engine, _ = open_database(f"sqlite+aiosqlite:///{path}")
        await migrate(engine)
        await engine.dispose()

    with ThreadPoolExecutor(1) as thread:
        thread.submit(lambda: asyncio.run(make())).result()
    return path


@asynccontextmanager
async def standing_still(var: Path, **options: Any) -> AsyncIterator[Still]:
    api = StillApi()
    async with served(api):
        world = Still(var, api, **options)
        await world.hire("Olga", OLGA)
        try:
            yield world
        finally:
            await world.forum.api.shut()
            await world.channel.close()
            await world.engine.dispose()


@pytest.fixture
async def world(tmp_path: Path, empty_database: Path) -> AsyncIterator[Still]:
    shutil.copy(empty_database, tmp_path / "otvet.sqlite3")
    async with standing_still(tmp_path) as world:
        yield world


def photo(name: str, **more: Any) -> dict[str, Any]:
    return {
        "photo": [{"file_id": name, "file_unique_id": name, "width": 9, "height": 9, "file_size": 3000}],
        "caption": f"see {name}",
        **more,
    }


def without(text: str) -> Callable[[str, dict[str, Any]], web.Response | None]:
    """Telegram takes nothing that holds these words, as a message or as a title, and does not say why."""

    def refuses(method: str, form: dict[str, Any]) -> web.Response | None:
        words = str(form.get("text", "")) + str(form.get("name", "")) + str(form.get("caption", ""))
        return refused(400, "Bad Request: INTERNAL_THING_INVALID") if text in words else None

    return refuses


def after(calls: int, *methods: str) -> Callable[[str, dict[str, Any]], web.Response | None]:
    """So many calls of these methods work, and one asks to wait for a second."""
    counted = count(1)

    def refuses(method: str, _form: dict[str, Any]) -> web.Response | None:
        wait = method in methods and next(counted) == calls + 1
        return refused(429, "Too Many Requests: retry after 1", retry_after=1) if wait else None

    return refuses


DESK = "Not all could be shown here: see the ticket at the web desk."
JPEG = b"\xff\xd8\xff\xe0\x00\x10JFIF\x00" + b"\x00" * 2000


class TestOneBadTicket:
    async def test_a_text_that_telegram_does_not_take_holds_up_no_other_ticket_and_not_what_follows(
        self, world: Still
    ) -> None:
        bad, good = await world.opened(), await world.opened(chat=8)
        await world.run()
        world.still_api.refuses = without("poison")
        await world.says(bad, "poison")
        await world.says(good, "harmless")
        await world.run()
        assert any("harmless" in text for text in world.texts(good))
        for _ in range(5):
            await world.run(60)
        await world.says(bad, "and then this")
        await world.run(3)
        assert world.texts(bad)[1:] == [DESK, "👤 Анна\nand then this"]

    async def test_a_text_that_telegram_hangs_at_is_told_when_it_no_longer_does(
        self, world: Still, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A call that takes too long is no refusal: nothing is left out for it."""
        ticket = await world.opened()
        await world.run()
        monkeypatch.setattr(forum_forum, "STEP_SECONDS", 0.2)
        world.still_api.hangs = True
        await world.says(ticket, "still there?")
        for _ in range(6):
            await world.run(600)
        assert not any("still there?" in text for text in world.texts(ticket))
        world.still_api.hangs = False
        await world.run(600)
        assert world.texts(ticket)[-1] == "👤 Анна\nstill there?"

    async def test_things_that_happen_at_once_are_told_once(self, world: Still) -> None:
        ticket = await world.opened()
        await world.run()
        async with world.sessions.begin() as session:
            for event in ("warned", "breached"):
                entry = HistoryEntry(
                    ticket_id=ticket, at=world.clock(), event=event, actor="system", status=TicketStatus.NEW
                )
                session.add(entry)
        for _ in range(2):
            await world.run(3)
        assert world.texts(ticket)[1:] == ["⚙️ Time is running out\n\n⚙️ Late"]

    async def test_a_title_that_telegram_does_not_take_holds_up_no_other_title(self, world: Still) -> None:
        bad, good = await world.opened("poison please"), await world.opened("a person please", chat=8)
        await world.run()
        world.still_api.refuses = without("poison")
        for ticket_id in (bad, good):
            await world.agent_says(ticket_id, "We are looking", name="Olga")
        await world.run()
        assert "waiting" in world.group.topics[world.group.topic_of(good)].title
        for _ in range(5):
            await world.run(60)
        before = len(world.still_api.tried)
        await world.run(3)
        assert len(world.still_api.tried) == before  # it is not tried for ever

    async def test_a_packet_that_telegram_does_not_take_is_left_to_the_web_desk(self, world: Still) -> None:
        bad = await world.opened("the poison, a person please")
        world.still_api.refuses = without("the poison")
        good = await world.opened(chat=8)
        await world.run()
        assert any("a person please" in text for text in world.texts(good))
        for _ in range(5):
            await world.run(60)
        await world.says(bad, "and then this")
        await world.run(3)
        assert world.texts(bad) == [DESK, "👤 Анна\nand then this"]
        assert world.group.topics[world.group.topic_of(bad)].title == "№ 1 · new"  # nor the title

    async def test_a_word_for_a_topic_that_can_not_be_opened_keeps_back_no_other(self, world: Still) -> None:
        bad, good = await world.opened(), await world.opened(chat=8)
        await world.run()
        closed = world.group.topic_of(bad)
        world.still_api.refuses = lambda method, form: (
            refused(400, "Bad Request: TOPIC_CLOSED")
            if form.get("message_thread_id") == closed and method == "sendMessage"
            else refused(400, "Bad Request: INTERNAL_THING_INVALID")
            if method == "reopenForumTopic"
            else None
        )
        for ticket_id in (bad, good):
            await world.forum_api.says(GROUP, world.group.topic_of(ticket_id), "/menu")
        await world.run()
        await world.run()
        assert f"Ticket no. {good}" in world.texts(good)
        async with world.sessions() as session:
            assert (await session.scalars(select(ForumWord))).all() == []

    async def test_a_bucket_that_is_away_holds_up_no_other_ticket_and_the_file_is_named_in_the_end(
        self, world: Still, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def away(_sha256: str) -> Path:
            raise StorageError("the bucket can't be reached")

        bad, good = await world.opened(), await world.opened(chat=8)
        await world.run()
        await world.attach(await world.says(bad, "see this"), "bill.pdf")
        await world.says(good, "harmless")
        monkeypatch.setattr(world.store, "local", away)
        await world.run()
        assert any("harmless" in text for text in world.texts(good))
        for _ in range(4):
            await world.run(60)
        assert world.texts(bad)[1:] == ["👤 Анна\nsee this\nFile at the web desk: bill.pdf"]


class TestNotToldTwice:
    async def test_a_long_message_goes_on_where_it_was_cut_short(self, world: Still) -> None:
        ticket_id = await world.opened()
        await world.run()
        await world.says(ticket_id, "слово " * 1500)
        world.still_api.refuses = after(2, "sendMessage")
        await world.run()
        await world.run(5)
        said = world.texts(ticket_id)[1:]
        assert len(said) > 2
        assert "".join(said).count("слово") == 1500

    async def test_of_several_files_only_those_are_sent_that_do_not_stand_there(self, world: Still) -> None:
        ticket_id = await world.opened()
        await world.run()
        message_id = await world.says(ticket_id, "see these")
        for name in ("a.pdf", "b.pdf", "c.pdf"):
            await world.attach(message_id, name)
        world.still_api.refuses = after(1, "sendDocument")
        await world.run()
        await world.run(5)
        told = world.said(world.group.topic_of(ticket_id))[1:]
        assert [each.form["name"] for each in told] == ["a.pdf", "b.pdf", "c.pdf"]
        assert [each.text for each in told] == ["👤 Анна\nsee these", "", ""]

    async def test_a_packet_whose_files_are_cut_short_stands_there_once(self, world: Still) -> None:
        ticket_id = await world.opened()
        async with world.sessions() as session:
            message_id = (await session.scalars(select(Message.id))).one()
        for name in ("a.pdf", "b.pdf"):
            await world.attach(message_id, name)
        world.still_api.refuses = after(1, "sendDocument")
        await world.run()
        await world.says(ticket_id, "are you there?")
        await world.run(5)
        told = world.said(world.group.topic_of(ticket_id))
        assert [each.form.get("name") for each in told] == [None, "a.pdf", "b.pdf", None]
        assert "are you there?" in told[-1].text

    async def test_a_changed_message_of_several_parts_goes_on_where_it_was_cut_short(self, world: Still) -> None:
        ticket_id = await world.opened()
        await world.run()
        await world.says(ticket_id, "one")
        message_id = await world.says(ticket_id, "two")
        await world.run()
        async with world.sessions.begin() as session:
            message = await session.get_one(Message, message_id)
            message.edits, message.changed_at = [{"text": "two", "at": "2026-11-22T00:00:00"}], world.clock()
            message.text = "слово " * 1500
        world.still_api.refuses = after(1, "sendMessage")
        await world.run(3)
        await world.run(5)
        said = "".join(world.texts(ticket_id))
        assert said.count("changed a message") == 1
        assert said.count("слово") == 1500


async def test_a_wait_that_telegram_asked_for_is_kept_whatever_happens_meanwhile(world: Still) -> None:
    ticket_id = await world.opened()
    await world.run()
    world.still_api.refuses = lambda _method, _form: refused(429, "Too Many Requests: retry after 60", retry_after=60)
    await world.says(ticket_id, "one")
    await world.run()
    before = len(world.still_api.tried)
    world.still_api.refuses = lambda _method, _form: None
    for _ in range(3):
        await world.says(ticket_id, "more")
        await world.run(3)
    assert len(world.still_api.tried) == before
    await world.run(60)
    assert "one" in world.texts(ticket_id)[-1]


class TestGroups:
    async def test_a_ticket_of_a_group_that_is_no_longer_set_gets_a_topic_in_its_new_one(
        self, world: Still, tmp_path: Path
    ) -> None:
        ticket_id = await world.opened()
        await world.run()
        other = GROUP - 1
        async with standing_still(tmp_path, groups=str(other)) as after:
            async with after.sessions() as session:
                assert await after.forum.groups.stranded(session) == 1
            await after.run()
            there = after.forum_api.group(other)
            thread = there.topic_of(ticket_id)
            assert any("a person please" in each.text for each in there.of(thread))
            async with after.sessions() as session:
                assert await after.forum.groups.stranded(session) == 0

    async def test_a_ticket_moves_on_from_a_group_that_takes_nothing(
        self, tmp_path: Path, empty_database: Path
    ) -> None:
        shutil.copy(empty_database, tmp_path / "otvet.sqlite3")
        other = GROUP - 1
        async with standing_still(tmp_path, groups=f"{GROUP},{other}=payments") as world:
            await world.hire("Ivan", IVAN, teams=("payments",))
            waits, moves = await world.opened(), await world.opened(chat=8)
            await world.run()
            world.group.kicked = True
            await world.says(waits, "hello?")
            async with world.sessions.begin() as session:
                await world.desk.transfer(session, moves, topic_id="payment", why="", agent="Olga")
            await world.run()
            await world.run()
            there = world.forum_api.group(other)
            assert any("a person please" in each.text for each in there.of(there.topic_of(moves)))


class TestFilesOfAgents:
    async def test_one_that_comes_too_slowly_is_told_and_what_follows_goes_on(
        self, world: Still, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(forum_intake, "FETCH_SECONDS", 0.2)
        ticket_id = await world.opened()
        await world.run()
        world.still_api.files["photo-1"], world.still_api.slow = b"x" * 2000, 30
        thread = world.group.topic_of(ticket_id)
        await world.forum_api.says(GROUP, thread, "see photo-1", **photo("photo-1"))
        await world.forum_api.says(GROUP, thread, "On its way")
        await world.run()
        assert await world.told_customer(ticket_id) == ["On its way"]
        await world.run()
        assert "The file was not sent: it takes too long; send it again" in world.texts(ticket_id)

    async def test_those_of_a_reply_that_was_held_up_are_fetched_before_anything_is_locked(
        self, world: Still, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ticket_id = await world.opened()
        await world.run()
        world.still_api.files["photo-1"] = JPEG
        thread = world.group.topic_of(ticket_id)
        await world.forum_api.says(GROUP, thread, "see photo-1", **photo("photo-1"))
        await world.hire("Ivan", IVAN)
        await world.agent_says(ticket_id, "I have it", name="Ivan")
        await world.run()
        await world.run()
        warning = next(each for each in world.said(thread) if "meanwhile" in each.text)
        locked: list[bool] = []
        store = world.store.store

        async def watched(*given: Any) -> Any:
            locked.append(world.writing())
            return await store(*given)

        monkeypatch.setattr(world.store, "store", watched)
        await world.forum_api.presses(GROUP, warning, "Send anyway")
        await world.run()
        assert (await world.told_customer(ticket_id))[-1] == "see photo-1"
        assert locked == [False]


class TestMacros:
    async def shown(self, world: Still, ticket_id: int) -> Written:
        thread = world.group.topic_of(ticket_id)
        await world.forum_api.says(GROUP, thread, "/macro Sorry")
        await world.run()
        await world.run()
        return next(each for each in reversed(world.said(thread)) if "We are sorry" in each.text)

    async def test_one_that_was_shown_goes_out_once_whatever_is_said_between_two_presses(self, world: Still) -> None:
        await self.kept(world)
        ticket_id = await world.opened()
        await world.run()
        shown = await self.shown(world, ticket_id)
        for words in ("well?", "hello?"):
            button = dict(shown.form)
            await world.forum_api.presses(GROUP, shown, "Send")
            await world.run()
            shown.form = button  # he has not seen yet that it is gone
            await world.says(ticket_id, words)
        assert await world.told_customer(ticket_id) == ["We are sorry, Анна"]
        again = await self.shown(world, ticket_id)
        await world.forum_api.presses(GROUP, again, "Send")
        await world.run()
        assert await world.told_customer(ticket_id) == ["We are sorry, Анна"] * 2

    async def test_one_waits_where_a_colleague_answered_since_and_can_be_sent_nevertheless(self, world: Still) -> None:
        await self.kept(world)
        await world.hire("Ivan", IVAN)
        ticket_id = await world.opened()
        await world.run()
        shown = await self.shown(world, ticket_id)
        await world.agent_says(ticket_id, "I have it", name="Ivan")
        await world.forum_api.presses(GROUP, shown, "Send")
        await world.run()
        await world.run()
        assert await world.told_customer(ticket_id) == ["I have it"]
        warning = next(each for each in world.said(world.group.topic_of(ticket_id)) if "meanwhile" in each.text)
        for _ in range(2):
            await world.forum_api.presses(GROUP, warning, "Send anyway")
        await world.run()
        assert await world.told_customer(ticket_id) == ["I have it", "We are sorry, Анна"]

    async def kept(self, world: Still) -> None:
        async with world.sessions.begin() as session:
            body = "We are sorry, {{ customer_name }}"
            session.add(Macro(title="Sorry", lang="en", body=body, changed_by="Olga", changed_at=world.clock()))


async def test_what_a_customer_says_while_a_note_is_written_is_told(tmp_path: Path, postgres: Postgres) -> None:
    async with standing_still(tmp_path, database=postgres.database()) as world:
        ticket_id = await world.opened()
        await world.run()
        thread = world.group.topic_of(ticket_id)
        await world.forum_api.says(GROUP, thread, "// he called twice")
        async with world.sessions() as session:  # the customer's word is written, and not committed yet
            conversation = (await session.scalars(select(Conversation).with_for_update())).one()
            await world._message(session, conversation.id, "it is urgent")
            noting = asyncio.create_task(world.run())
            await asyncio.sleep(0.4)
            await session.commit()
        await noting
        await world.run(2)
        assert any("it is urgent" in text for text in world.texts(ticket_id))
