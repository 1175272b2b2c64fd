"""Every step from the first tables to today's, on both databases."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from databases import Postgres
from sqlalchemy import Connection, select, text
from sqlalchemy.ext.asyncio import AsyncEngine

import bot.migrations
from bot.database import migrate, open_database
from bot.ledger import Sessions
from handoff import desk
from handoff.lifecycle import TicketStatus
from handoff.records import Base, HistoryEntry, Message, Reason, Ticket
from kb_index import records as articles
from nlu import records as intents

Opened = tuple[AsyncEngine, Sessions]


@pytest.fixture(params=["sqlite", "postgresql"])
async def empty(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Opened]:
    """A database without tables."""
    url = f"sqlite+aiosqlite:///{tmp_path / 'otvet.sqlite3'}"
    if request.param == "postgresql":
        server: Postgres = request.getfixturevalue("postgres")
        url = server.database(template="template1")
    engine, sessions = open_database(url)
    yield engine, sessions
    await engine.dispose()


async def upgrade(engine: AsyncEngine, revision: str, *, back: bool = False) -> None:
    def run(connection: Connection) -> None:
        config = Config()
        config.set_main_option("script_location", str(Path(bot.migrations.__path__[0])))
        config.attributes["connection"] = connection
        (command.downgrade if back else command.upgrade)(config, revision)

    async with engine.begin() as connection:
        await connection.run_sync(run)


async def test_the_tables_are_those_that_the_program_expects(empty: Opened) -> None:
    engine, _ = empty
    await migrate(engine)

    def differences(connection: Connection) -> list[object]:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "include_name": _ours})
        tables = [Base.metadata, articles.Base.metadata, intents.Base.metadata]
        return list(compare_metadata(context, tables))  # type: ignore[arg-type]

    async with engine.connect() as connection:
        assert await connection.run_sync(differences) == []


def _ours(name: str | None, _kind: str, _parents: object) -> bool:
    # Alembic compares no index of an expression, and knows nothing of full-text tables; tests/unit/test_desk_web.py
    # searches.
    return not (name or "").startswith(("procrastinate_", "message_words", "ix_messages_words"))


async def test_conversations_of_the_first_release_are_there_after_the_upgrade(empty: Opened) -> None:
    engine, sessions = empty
    await upgrade(engine, "0001")
    at = datetime(2026, 11, 1, tzinfo=UTC)
    moments = {"sent_at": at, "created_at": at}
    rows: list[tuple[str, dict[str, object]]] = [
        (
            "conversations",
            {
                "id": 1,
                "channel": "site",
                "account": "",
                "chat_id": "c",
                "owner": "person",
                "epoch": 1,
                "state": '{"greeted": true}',
                "created_at": at,
                "updated_at": at,
            },
        ),
        (
            "messages",
            {"id": 1, "conversation_id": 1, "author": "customer", "kind": "text", "text": "Где?", "options": "[]"}
            | moments,
        ),
        (
            "messages",
            {
                "id": 2,
                "conversation_id": 1,
                "author": "assistant",
                "kind": "text",
                "text": "Там",
                "options": '[{"token": "a", "label": "A"}]',
                "delivery": "queued",
            }
            | moments,
        ),
        (
            "outbox",
            {
                "id": 1,
                "conversation_id": 1,
                "message_id": 2,
                "channel": "site",
                "attempts": 0,
                "parts_sent": 0,
                "due_at": at,
            },
        ),
    ]
    async with engine.begin() as connection:
        for table, row in rows:
            names = ", ".join(row)
            values = ", ".join(f":{name}" for name in row)
            await connection.execute(text(f"INSERT INTO {table} ({names}) VALUES ({values})"), row)  # noqa: S608
    await migrate(engine)
    async with sessions.begin() as session:
        conversation = await desk.get_conversation(session, 1)
        assert (conversation.state, conversation.owner) == ({"greeted": True}, "person")
        said, answer = await desk.transcript(session, 1)
        assert (said.text, said.edits, said.repeats) == ("Где?", [], 0)
        assert answer.options == [{"token": "a", "label": "A"}]
        queued = (await session.execute(text("SELECT claims, created_at, due_at FROM outbox"))).one()
        assert queued.claims == 0
        assert queued.created_at == queued.due_at
    if engine.dialect.name == "postgresql":
        async with sessions.begin() as session:
            for table in ("conversations", "messages"):
                await session.execute(text(f"SELECT setval('{table}_id_seq', 5000000000)"))
            note = await desk.note(session, 1, "there are many by now", now=at)
            assert note.id > 2**32
            assert await session.get(Message, note.id) is note


async def test_what_was_merged_before_is_known_by_its_history(empty: Opened) -> None:
    engine, sessions = empty
    await migrate(engine)
    at = datetime(2027, 3, 1, 9, tzinfo=UTC)
    always: dict[str, Any] = {"reason": Reason.ASKED_FOR_PERSON, "topic": "unclear", "routed_by": "default"}
    always |= {
        "team": "first-line",
        "level": "L1",
        "priority": "normal",
        "lang": "en",
        "subject": "",
        "promised_at": at,
        "created_at": at,
    }
    ends = (None, "merged into 1", "merged into 1", "spam")
    async with sessions.begin() as session:
        for number, why in enumerate(ends):
            status = TicketStatus.OPEN if number in (0, 2) else TicketStatus.CLOSED
            chat = await desk.open_conversation(session, channel="site", account="", chat_id=str(number), now=at)
            session.add(ticket := Ticket(conversation_id=chat.id, status=status, updated_at=at, **always))
            await session.flush()
            said = {"event": "closed", "actor": "Anna", "status": TicketStatus.CLOSED, "details": {"why": why}}
            if why:
                session.add(HistoryEntry(ticket_id=ticket.id, at=at, **said))
    await upgrade(engine, "0035", back=True)
    await migrate(engine)
    async with sessions.begin() as session:
        found = list(await session.scalars(select(Ticket.merged_into).order_by(Ticket.id)))
    assert found == [None, 1, None, None], "the third was opened again, the fourth was no duplicate"


async def test_processes_that_start_at_once_upgrade_it_once(empty: Opened) -> None:
    engine, _ = empty
    if engine.dialect.name == "sqlite":
        await migrate(engine)
    others = [open_database(engine.url.render_as_string(hide_password=False))[0] for _ in range(3)]
    await asyncio.gather(*(migrate(each) for each in (engine, *others)))
    for each in others:
        await each.dispose()
