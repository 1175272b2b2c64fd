"""What has to happen at a moment: surveys, clocks, reminders. A timer is a row; it fires once, and its effect is
committed with its removal, whichever process dies."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

import structlog
from sqlalchemy import Index, String, Text, delete, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column

from bot.metrics import TIMERS
from bot.work import Sessions
from handoff.records import Base, BigId

log = structlog.get_logger()

TICK_SECONDS = 1.0
FIRST_RETRY = timedelta(seconds=10)
LONGEST_RETRY = timedelta(hours=1)


class Timer(Base):
    __tablename__ = "timers"
    __table_args__ = (Index("ix_timers_due", "due_at"),)

    id: Mapped[BigId] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(String(200), unique=True)
    """Names it for `set_timer` and `cancel_timer`: `survey:ticket:7`, say."""
    kind: Mapped[str] = mapped_column(String(64))
    payload: Mapped[dict[str, Any]]
    due_at: Mapped[datetime]
    failures: Mapped[int] = mapped_column(default=0)
    error: Mapped[str | None] = mapped_column(Text)


Fire = Callable[[AsyncSession, Mapping[str, Any], datetime], Awaitable[None]]
"""Does what a timer is for: (session, payload, now). The session's transaction is the one that removes the timer, so
whatever is written in it happens exactly once; a timer that it sets under its own key is the next one."""


async def set_timer(
    session: AsyncSession, key: str, kind: str, due_at: datetime, payload: Mapping[str, Any] | None = None
) -> None:
    """Have `kind` fire at a moment, in place of the timer that has this key, if there is one."""
    insert = postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
    values = {"kind": kind, "payload": dict(payload or {}), "due_at": due_at, "failures": 0, "error": None}
    await session.execute(
        insert(Timer).values(key=key, **values).on_conflict_do_update(index_elements=["key"], set_=values)
    )


async def cancel_timer(session: AsyncSession, key: str) -> bool:
    """Whether there was one, which will not fire now."""
    gone = await session.execute(delete(Timer).where(Timer.key == key))
    return bool(gone.rowcount)  # type: ignore[attr-defined]


class Timers:
    """Fires what is due. Any number of processes may do so at once."""

    def __init__(self, sessions: Sessions, clock: Callable[[], datetime]) -> None:
        self._sessions = sessions
        self._clock = clock
        self._kinds: dict[str, Fire] = {}
        self._standing: list[str] = []

    def register(self, kind: str, fire: Fire, *, standing: bool = False) -> None:
        """What to do for timers of a kind. Timers of a kind that nobody registered wait.

        standing: there is always one, with its kind for its key; when it fires, it sets itself again.
        """
        self._kinds[kind] = fire
        if standing:
            self._standing.append(kind)

    async def run(self) -> None:
        """Fire what is due, every second, until cancelled."""
        standing = False
        while True:
            try:
                if not standing:
                    await self._set_standing()
                    standing = True
                await self.fire_due()
            except (OperationalError, InterfaceError):
                log.exception("timers.database_away")
            await asyncio.sleep(TICK_SECONDS)

    async def _set_standing(self) -> None:
        async with self._sessions.begin() as session:
            insert = postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
            for kind in self._standing:
                values = {"key": kind, "kind": kind, "payload": {}, "due_at": self._clock(), "failures": 0}
                await session.execute(insert(Timer).values(values).on_conflict_do_nothing(index_elements=["key"]))

    async def fire_due(self) -> int:
        """Fire everything that is due, the oldest first; how many. One whose work breaks is tried again later, and
        holds up no other."""
        fired = 0
        while await self._fire_next():
            fired += 1
        return fired

    async def _fire_next(self) -> bool:
        now = self._clock()
        if not self._kinds:
            return False
        async with self._sessions.reading() as session:
            due = select(Timer.id).where(Timer.due_at <= now, Timer.kind.in_(self._kinds)).limit(1)
            if await session.scalar(due) is None:
                return False
        timer: Timer | None = None
        try:
            async with self._sessions.begin() as session:
                timer = await session.scalar(
                    select(Timer)
                    .where(Timer.due_at <= now, Timer.kind.in_(self._kinds))
                    .order_by(Timer.due_at, Timer.id)
                    .limit(1)
                    .with_for_update(skip_locked=True)
                )
                if timer is None:
                    return False
                await session.execute(delete(Timer).where(Timer.id == timer.id))
                session.expunge(timer)
                await self._kinds[timer.kind](session, timer.payload, now)
        except (OperationalError, InterfaceError):
            raise
        except Exception as error:
            if timer is None:
                raise
            # Edge: what one timer is for may break in any way; it is tried again, and the others fire.
            log.exception("timer.failed", kind=timer.kind, key=timer.key, failures=timer.failures + 1)
            pause = min(FIRST_RETRY * 2**timer.failures, LONGEST_RETRY)
            async with self._sessions.begin() as session:
                await session.execute(
                    update(Timer)
                    .where(Timer.id == timer.id, Timer.due_at == timer.due_at)
                    .values(failures=timer.failures + 1, error=repr(error)[:2000], due_at=now + pause)
                )
            return True
        TIMERS.labels(timer.kind).inc()
        log.info("timer.fired", kind=timer.kind, late_seconds=round((now - timer.due_at).total_seconds(), 1))
        return True
