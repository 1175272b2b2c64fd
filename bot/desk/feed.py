"""What has changed at the desks, told to every page that is open.

One look at the database serves all pages of a process, four times a second while any is open. So whatever writes (a
turn, another desk, the terminal, another process) is seen, with or without a server for wake-ups.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from bot.ledger import Sessions
from bot.notifications import calls
from handoff.access import EVERYWHERE, Viewer
from handoff.lifecycle import LIVE
from handoff.records import NOTE, Author, Conversation, HistoryEntry, Message, Ticket

log = structlog.get_logger()

LOOK_SECONDS = 0.25
OVERLAP = 200
"""Ids behind the newest that are looked at again: PostgreSQL commits them in another order than it gives them out."""
LATE = timedelta(seconds=10)
"""The same for changed messages: a transaction may be committed so long after the time that it wrote."""
SNIPPET_CHARS = 140


@dataclass(frozen=True)
class Change:
    ticket_id: int
    team: str
    assignee_id: int | None
    kind: str
    """`message`, `note`, `changed` (a message edited or taken back) or the event of the ticket's history."""
    author: str
    who: str
    """The customer or the agent."""
    text: str

    def concerns(self, viewer: Viewer) -> bool:
        mine = viewer.role in EVERYWHERE or self.team in viewer.teams or self.assignee_id == viewer.agent_id
        return mine or (self.kind == "note" and calls(self.text, viewer.name))


@dataclass(frozen=True)
class _Seen:
    """How far a look has come; what lies in the overlap was told already."""

    message: int
    entry: int
    changed_at: datetime | None
    messages: frozenset[int] = frozenset()
    entries: frozenset[int] = frozenset()
    changed: frozenset[tuple[int, datetime]] = frozenset()


class DeskFeed:
    def __init__(self, sessions: Sessions, look_seconds: float = LOOK_SECONDS) -> None:
        self._sessions = sessions
        self._look_seconds = look_seconds
        self._pages: set[asyncio.Queue[tuple[Change, ...]]] = set()
        self._open = asyncio.Event()

    @contextmanager
    def follow(self) -> Iterator[asyncio.Queue[tuple[Change, ...]]]:
        """Batches of changes from now on. A page that does not take them for long gets the newest alone."""
        queue: asyncio.Queue[tuple[Change, ...]] = asyncio.Queue(64)
        self._pages.add(queue)
        self._open.set()
        try:
            yield queue
        finally:
            self._pages.discard(queue)

    @property
    def followers(self) -> int:
        return len(self._pages)

    async def run(self) -> None:
        """Look until cancelled."""
        seen: _Seen | None = None
        while True:
            if not self._pages:
                self._open.clear()
                seen = None
                await self._open.wait()
            try:
                async with self._sessions.reading() as session:
                    if seen is None:
                        seen = await self._begin(session)
                    else:
                        seen, changes = await self._look(session, seen)
                        if changes:
                            self._tell(changes)
            except Exception:
                # Edge: the database may be away; the next look tries again.
                log.exception("desk.feed_failed")
            await asyncio.sleep(self._look_seconds)

    async def _begin(self, session: AsyncSession) -> _Seen:
        message = await session.scalar(select(func.max(Message.id))) or 0
        entry = await session.scalar(select(func.max(HistoryEntry.id))) or 0
        changed_at = await session.scalar(select(func.max(Message.changed_at)))
        return await self._since(session, _Seen(message, entry, changed_at))

    async def _since(self, session: AsyncSession, before: _Seen) -> _Seen:
        """What there is beyond, and shortly before, what was seen."""
        messages = set(await session.scalars(select(Message.id).where(Message.id > before.message - OVERLAP)))
        entries = set(await session.scalars(select(HistoryEntry.id).where(HistoryEntry.id > before.entry - OVERLAP)))
        since = before.changed_at and before.changed_at - LATE
        lately = Message.changed_at.is_not(None) if since is None else Message.changed_at > since
        rows = await session.execute(select(Message.id, Message.changed_at).where(lately))
        changed = {(row.id, row.changed_at) for row in rows}
        return _Seen(
            max([before.message, *messages]),
            max([before.entry, *entries]),
            max((at for _, at in changed), default=before.changed_at),
            frozenset(messages),
            frozenset(entries),
            frozenset(changed),
        )

    async def _look(self, session: AsyncSession, before: _Seen) -> tuple[_Seen, tuple[Change, ...]]:
        now = await self._since(session, before)
        changed = {message_id for message_id, _ in now.changed - before.changed}
        said, done = (now.messages - before.messages) | changed, now.entries - before.entries
        if not said and not done:
            return now, ()
        new_said = list(
            await session.execute(
                select(
                    Message.id, Message.conversation_id, Message.author, Message.agent_name, Message.kind, Message.text
                )
                .where(Message.id.in_(said))
                .order_by(Message.id)
            )
        )
        new_done = list(
            await session.execute(
                select(HistoryEntry.id, HistoryEntry.ticket_id, HistoryEntry.event, HistoryEntry.actor)
                .where(HistoryEntry.id.in_(done))
                .order_by(HistoryEntry.id)
            )
        )
        tickets = list(
            await session.execute(
                select(Ticket.id, Ticket.conversation_id, Ticket.team, Ticket.assignee_id, Conversation.customer_name)
                .join(Conversation, Conversation.id == Ticket.conversation_id)
                .where(
                    (Ticket.conversation_id.in_({row.conversation_id for row in new_said}) & Ticket.status.in_(LIVE))
                    | Ticket.id.in_({row.ticket_id for row in new_done})
                )
            )
        )
        of_conversation = {row.conversation_id: row for row in tickets}
        of_ticket = {row.id: row for row in tickets}
        changes = []
        for row in new_said:
            if ticket := of_conversation.get(row.conversation_id):
                who = ticket.customer_name if row.author is Author.CUSTOMER else row.agent_name
                kind = "note" if row.kind == NOTE else "message"
                if row.id in changed:
                    kind = "changed"
                text = " ".join(row.text.split())[:SNIPPET_CHARS]
                changes.append(
                    Change(ticket.id, ticket.team, ticket.assignee_id, kind, row.author.value, who or "", text)
                )
        for entry in new_done:
            if ticket := of_ticket.get(entry.ticket_id):
                changes.append(Change(ticket.id, ticket.team, ticket.assignee_id, entry.event, "", entry.actor, ""))
        return now, tuple(changes)

    def _tell(self, changes: tuple[Change, ...]) -> None:
        for queue in self._pages:
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(changes)
