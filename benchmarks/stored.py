"""A database that has seen many customers: one real conversation, copied row by row within the database."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from benchmarks.standin import NAME, KeepingChannel
from bot.channels.base import Address, InboundMessage
from bot.ledger import InboxRow
from bot.wiring import Installation
from handoff.records import Base, Conversation, Message

CHAT = "stored"
LAST_CONVERSATION = 2_000_000_000
LAST_MESSAGE = 20_000_000_000
"""Copies are numbered downwards from here, so that those of the customers who come between two copyings are free."""
ROWS_OF_ONE = 8
"""Ids of messages that a conversation may take."""
CHUNK = 50_000


async def store_conversations(installation: Installation, first: int, last: int) -> None:
    """Have the conversations of the numbers first to last - 1 in the database, each with what was said and the
    update that brought it. Real rows: a question, the greeting, the answer."""
    assistant = installation.assistant([KeepingChannel()])
    question = InboundMessage(Address(NAME, "", CHAT), CHAT, datetime.now(UTC), text="Где посмотреть, где мой заказ?")
    if await assistant.receive(question):
        await assistant.drain()
    engine = installation.database.engine
    for start in range(first, last, CHUNK):
        async with engine.begin() as connection:
            await _copy(connection, start, min(start + CHUNK, last) - 1)
    async with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            for table in (Conversation, Message, InboxRow):
                name = table.__tablename__
                await connection.execute(
                    text(f"SELECT setval(pg_get_serial_sequence('{name}', 'id'), (SELECT max(id) FROM {name}))")
                )
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        await connection.execute(text("ANALYZE"))
    await installation.close()


async def _copy(connection: AsyncConnection, first: int, last: int) -> None:
    numbers = (
        f"WITH numbers AS (SELECT generate_series({first}, {last}) AS n)"
        if connection.dialect.name == "postgresql"
        else f"WITH RECURSIVE numbers(n) AS (SELECT {first} UNION ALL SELECT n + 1 FROM numbers WHERE n < {last})"
    )
    original = f"(SELECT id FROM conversations WHERE channel = '{NAME}' AND chat_id = '{CHAT}')"
    rank = f"(SELECT count(*) FROM messages o WHERE o.conversation_id = {original} AND o.id < t.id)"
    for table, changed, where in (
        (
            Conversation.__tablename__,
            {"id": f"{LAST_CONVERSATION} - n", "chat_id": f"'{CHAT}-' || n"},
            f"t.id = {original}",
        ),
        (
            Message.__tablename__,
            {
                "id": f"{LAST_MESSAGE} - n * {ROWS_OF_ONE} + {rank}",
                "conversation_id": f"{LAST_CONVERSATION} - n",
                "external_id": f"'{CHAT}-' || n || '-' || t.id",
            },
            f"t.conversation_id = {original}",
        ),
        (
            InboxRow.__tablename__,
            {"id": f"{LAST_CONVERSATION} - n", "chat_id": f"'{CHAT}-' || n", "external_id": f"'{CHAT}-' || n"},
            f"t.channel = '{NAME}' AND t.external_id = '{CHAT}'",
        ),
    ):
        columns = [column.name for column in Base.metadata.tables[table].columns]
        values = ", ".join(changed.get(name, f"t.{name}") for name in columns)
        await connection.execute(
            text(
                f"INSERT INTO {table} ({', '.join(columns)}) {numbers} "
                f"SELECT {values} FROM numbers CROSS JOIN {table} t WHERE {where}"
            )
        )
