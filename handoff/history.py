"""What happened to tickets: each thing written once, and heard by whoever listens."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, cast

from sqlalchemy import Table, insert, select
from sqlalchemy.ext.asyncio import AsyncSession

from handoff import desk
from handoff.records import HistoryEntry, Ticket

SYSTEM, ASSISTANT, CUSTOMER = "system", "assistant", "customer"
"""Who did it where no agent did."""
Listener = Callable[[AsyncSession, Ticket, HistoryEntry], Awaitable[None]]
"""Hears of what happened to a ticket, within the transaction in which it happened: what it writes is written with it,
or not at all."""
_HISTORY = insert(cast(Table, HistoryEntry.__table__))


class History:
    """What happened to any ticket is recorded here, and told to all listeners."""

    def __init__(self) -> None:
        self.listeners: list[Listener] = []

    async def record(
        self, session: AsyncSession, ticket: Ticket, event: str, actor: str, now: datetime, **details: Any
    ) -> None:
        row = {"ticket_id": ticket.id, "at": now, "event": event, "actor": actor, "status": ticket.status}
        row["details"] = details
        gathered = desk.held(session).history
        if gathered is None:
            await session.execute(_HISTORY, [row])
        else:
            gathered.append(row)
        entry = HistoryEntry(**row)
        for listener in self.listeners:
            await listener(session, ticket, entry)

    @asynccontextmanager
    async def together(self, session: AsyncSession) -> AsyncIterator[None]:
        """What is recorded is written in one statement."""
        rows: list[dict[str, Any]] = []
        desk.held(session).history = rows
        try:
            yield
        finally:
            desk.held(session).history = None
        if rows:
            await session.execute(_HISTORY, rows)


async def history(session: AsyncSession, ticket_ids: Iterable[int]) -> Sequence[HistoryEntry]:
    rows = await session.scalars(
        select(HistoryEntry).where(HistoryEntry.ticket_id.in_(list(ticket_ids))).order_by(HistoryEntry.id)
    )
    return rows.all()
