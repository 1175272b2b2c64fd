"""The queries of every message use an index, however much is stored."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from databases import MakeDatabase
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from bot import ledger
from bot.channels.base import Address, InboundMessage
from bot.database import migrate, open_database
from bot.ledger import Sessions
from handoff import desk
from handoff.alarms import raise_clocks
from handoff.hours import WorkingHours
from handoff.policy import DeskPolicy
from handoff.records import Conversation, Delivery
from handoff.routing import load_topics
from handoff.staff import put_agent
from handoff.tickets import Tickets

NOW = datetime(2026, 11, 22, tzinfo=UTC)
NOON = NOW + timedelta(hours=9)
DATA = Path(__file__).parents[2] / "data"
STORED = 3000
LARGE = ("conversations", "messages", "inbox", "tickets", "attachments")


@pytest.fixture
async def full(make_database: MakeDatabase) -> AsyncIterator[tuple[AsyncEngine, Sessions]]:
    """Many conversations that are over, and one message that waits."""
    engine, sessions = open_database(make_database())
    await migrate(engine)
    async with engine.begin() as connection:
        for statement in (
            "INSERT INTO conversations (id, channel, account, chat_id, owner, epoch, state, created_at, updated_at)"
            " VALUES (:n, 't', '', :chat, 'assistant', 0, '{}', :at, :at)",
            "INSERT INTO inbox (id, channel, account, chat_id, external_id, payload, state, received_at, done_at)"
            " VALUES (:n, 't', '', :chat, :chat, '{}', 'done', :at, :at)",
            "INSERT INTO messages (id, conversation_id, author, kind, text, options, external_id, sent_at, created_at)"
            " VALUES (:n, :n, 'customer', 'text', '', '[]', :chat, :at, :at)",
            "INSERT INTO tickets (id, conversation_id, status, reason, topic, routed_by, team, level, priority, lang,"
            " subject, promised_at, created_at, updated_at, resolved_at)"
            " VALUES (:n, :n, 'resolved', 'error', 't', 'default', 't', 'L1', 'low', 'ru', :chat, :at, :at, :at, :at)",
            "INSERT INTO attachments (id, message_id, kind, state, source) VALUES (:n, :n, 'photo', 'stored', '{}')",
        ):
            rows = [{"n": n, "chat": f"c{n}", "at": NOW} for n in range(1, STORED)]
            await connection.execute(text(statement), rows)
        if engine.dialect.name == "postgresql":
            for table in ("conversations", "inbox", "messages"):
                await connection.execute(text(f"SELECT setval('{table}_id_seq', {STORED})"))
            await connection.execute(text("ANALYZE"))  # as PostgreSQL does by itself; nobody asks SQLite to
    yield engine, sessions
    await engine.dispose()


async def work(session: AsyncSession) -> None:
    """What is asked and written for a message, from its arrival to its answer."""
    address = Address("t", "", "c7")
    await ledger.waiting(session, ["t"], now=NOW)
    rows = await ledger.pending(session, address)
    conversation: Conversation = await desk.open_conversation(session, channel="t", account="", chat_id="c7", now=NOW)
    await ledger.take(session, rows, ledger.InboxState.DONE, now=NOW)
    await desk.customer_texts(session, conversation.id, now=NOW)
    await desk.customer_message(session, conversation.id, "c7")
    await desk.open_ticket(session, conversation.id)
    await desk.transcript(session, conversation.id)
    await ledger.say(session, conversation, "hello", guarded=True, now=NOW)
    claim = await ledger.claim_next(session, address, now=NOW)
    assert claim is not None
    await ledger.settle(session, claim, Delivery.SENT, external_id="1")
    await ledger.purge(session, {}, NOW)


async def plans(engine: AsyncEngine, doing: Callable[[], Awaitable[object]]) -> list[tuple[str, str]]:
    """The lines of the plans of all that is asked meanwhile, each with its statement."""
    asked: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_rest: Any) -> None:
        asked.append((statement, parameters))

    event.listen(engine.sync_engine, "before_cursor_execute", note)
    await doing()
    event.remove(engine.sync_engine, "before_cursor_execute", note)
    found = []
    async with engine.connect() as connection:
        for statement, parameters in asked:
            if not statement.startswith(("SELECT", "UPDATE", "DELETE")) or "pg_catalog" in statement:
                continue
            explain = "EXPLAIN " if engine.dialect.name == "postgresql" else "EXPLAIN QUERY PLAN "
            plan = (await connection.exec_driver_sql(explain + statement, parameters)).all()
            found += [(str(row[-1]).strip(" ->"), statement) for row in plan]
    return found


def scans(lines: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    whole = tuple(f"{how} {table}" for table in LARGE for how in ("Seq Scan on", "SCAN"))
    return [(line, statement) for line, statement in lines if line.startswith(whole) and "INDEX" not in line]


async def test_no_query_reads_a_whole_table(full: tuple[AsyncEngine, Sessions]) -> None:
    engine, sessions = full
    message = InboundMessage(Address("t", "", "c7"), "new", NOW, text="hello")

    async def take() -> None:
        await ledger.receive(sessions, message, now=NOW)
        async with sessions.begin() as session:
            await work(session)

    lines = await plans(engine, take)
    assert scans(lines) == []
    assert len({statement for _, statement in lines}) > 8


async def test_what_desks_ask_all_the_time_reads_no_ended_ticket(full: tuple[AsyncEngine, Sessions]) -> None:
    """Also none of those that nobody ever had."""
    engine, sessions = full
    tickets = Tickets(DeskPolicy({"default": WorkingHours()}), load_topics(DATA / "topics.yml"))
    async with sessions.begin() as session:
        await put_agent(session, "Anna", now=NOW, teams=["t"], level="L2")

    async def tick() -> None:
        async with sessions.begin() as session:
            await tickets.wake_held(session, now=NOON)
            await raise_clocks(session, tickets, now=NOON)
            await tickets.holders.give_out(session, now=NOON)

    lines = await plans(engine, tick)
    assert scans(lines) == []
    of_tickets = [(line, statement) for line, statement in lines if line.startswith("SEARCH tickets")]
    assert [each for each in of_tickets if "status=?" not in each[0]] == []
    assert len({statement for _, statement in lines if "FROM tickets" in statement}) >= 4
