"""What has to happen at a moment: surveys, clocks, reminders. A timer is a row; it fires once, and its effect is
committed with its removal, whichever process dies.

An *errand* is a timer whose work is a call to somebody else (a notification, a webhook, a help desk): it is claimed for
a while, done outside of any transaction, and removed when it succeeded. A process that dies in between repeats it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

import structlog
from sqlalchemy import Index, String, Text, case, delete, event, func, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, Session, mapped_column

from bot.metrics import ERRANDS_DONE, TIMERS
from bot.work import DATABASE_AWAY, InProcessWork, Sessions
from handoff.records import Base, BigId

log = structlog.get_logger()

TICK_SECONDS = 1.0
FIRST_RETRY = timedelta(seconds=10)
LONGEST_RETRY = timedelta(hours=1)
LEASE = timedelta(minutes=2)
"""How long an errand may take. After that it is taken for lost, and done again."""
ERRANDS = 8
"""How many a process does at once: a slow one holds up neither the others nor the timers."""


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
    claimed_until: Mapped[datetime | None]
    """Of an errand: somebody does it now."""
    asked: Mapped[int] = mapped_column(default=0, server_default="0")
    """Of an errand: how often it was asked for. What is asked for while it is being done is not lost."""


Fire = Callable[[AsyncSession, Mapping[str, Any], datetime], Awaitable[None]]
"""Does what a timer is for: (session, payload, now). The session's transaction is the one that removes the timer, so
whatever is written in it happens exactly once; a timer that it sets under its own key is the next one."""


Errand = Callable[[Mapping[str, Any]], Awaitable[datetime | None]]
"""Does one errand (payload) and says when to go again, if there is more to do. May be called twice for the same. What
it raises is tried again later."""


async def send_errand(
    session: AsyncSession, key: str, kind: str, at: datetime, payload: Mapping[str, Any] | None = None
) -> None:
    """Have an errand done once this transaction is committed, and not before `at`. One of this key that waits already
    goes at the earlier moment; one that failed keeps its pause; one that is being done is done again."""
    waiting: dict[str, tuple[str, datetime, dict[str, Any]]] = session.info.setdefault(_ASKED, {})
    if not waiting:
        event.listen(session.sync_session, "before_commit", _ask, once=True)
    if key in waiting:
        at = min(at, waiting[key][1])
    waiting[key] = kind, at, dict(payload or {})


_ASKED = "errands"


def _ask(session: Session) -> None:
    """Write what was asked for, in one order and as late as can be: many transactions ask for the same errands, and
    must neither wait for one another's work nor end in a deadlock."""
    insert = postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
    for key, (kind, at, payload) in sorted(session.info.pop(_ASKED, {}).items()):
        row = insert(Timer).values(key=key, kind=kind, payload=payload, due_at=at, failures=0)
        keeps = (Timer.failures > 0) | ((Timer.due_at < row.excluded.due_at) & Timer.claimed_until.is_(None))
        due_at = case((keeps, Timer.due_at), else_=row.excluded.due_at)
        changed = {"due_at": due_at, "payload": row.excluded.payload, "asked": Timer.asked + 1}
        session.execute(row.on_conflict_do_update(index_elements=["key"], set_=changed))


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

    def __init__(
        self, sessions: Sessions, clock: Callable[[], datetime], *, tick_seconds: float = TICK_SECONDS
    ) -> None:
        """tick_seconds: how often it is looked what is due."""
        self._tick_seconds = tick_seconds
        self._sessions = sessions
        self._clock = clock
        self._kinds: dict[str, Fire] = {}
        self._errands: dict[str, Errand] = {}
        self._busy: set[asyncio.Task[None]] = set()
        self._standing: list[str] = []

    def register(self, kind: str, fire: Fire, *, standing: bool = False) -> None:
        """What to do for timers of a kind. Timers of a kind that nobody registered wait.

        standing: there is always one, with its kind for its key; when it fires, it sets itself again.
        """
        self._kinds[kind] = fire
        if standing:
            self._standing.append(kind)

    def register_errand(self, kind: str, errand: Errand, *, standing: bool = False) -> None:
        """What to do for errands of a kind. standing: there is always one, with its kind for its key."""
        self._errands[kind] = errand
        if standing:
            self._standing.append(kind)

    async def run(self) -> None:
        """Fire what is due, time and again, until cancelled. Errands that are cut short then are done again."""
        work = self._sessions.work
        if isinstance(work, InProcessWork):
            await work.exclusively("timers", self._run_alone)
        else:
            await self._run()

    async def _run_alone(self) -> None:
        """Where one process does all, whoever had claimed an errand before is dead: nobody waits for his lease."""
        async with self._sessions.begin() as session:
            await session.execute(update(Timer).where(Timer.claimed_until.is_not(None)).values(claimed_until=None))
        await self._run()

    async def _run(self) -> None:
        standing = False
        try:
            while True:
                try:
                    if not standing:
                        await self._set_standing()
                        standing = True
                    await self.fire_due()
                    await self._begin_errands()
                except DATABASE_AWAY:
                    log.exception("timers.database_away")
                await asyncio.sleep(self._tick_seconds)
        finally:
            busy = set(self._busy)
            for task in busy:
                task.cancel()
            await asyncio.gather(*busy, return_exceptions=True)

    async def run_errands(self) -> int:
        """Do every errand that is due, and wait for them; how many."""
        done = 0
        while begun := await self._begin_errands():
            done += begun
            await asyncio.gather(*self._busy)
        return done

    async def waiting(self, kind: str) -> int:
        """How many of a kind are set."""
        async with self._sessions.reading() as session:
            return await session.scalar(select(func.count(Timer.id)).where(Timer.kind == kind)) or 0

    async def _begin_errands(self) -> int:
        free = ERRANDS - len(self._busy)
        if not self._errands or free <= 0:
            return 0
        now = self._clock()
        unclaimed = Timer.claimed_until.is_(None) | (Timer.claimed_until <= now)
        due = select(Timer).where(Timer.due_at <= now, Timer.kind.in_(self._errands), unclaimed)
        async with self._sessions.reading() as session:
            if (await session.execute(due.with_only_columns(Timer.id).limit(1))).first() is None:
                return 0
        async with self._sessions.begin() as session:
            rows = await session.scalars(
                due.order_by(Timer.due_at, Timer.id).limit(free).with_for_update(skip_locked=True)
            )
            claimed = rows.all()
            for timer in claimed:
                timer.claimed_until = now + LEASE
        for timer in claimed:
            task = asyncio.create_task(self._guarded(timer))
            self._busy.add(task)
            task.add_done_callback(self._busy.discard)
        return len(claimed)

    async def _guarded(self, timer: Timer) -> None:
        try:
            await self._do_errand(timer)
        except DATABASE_AWAY:
            log.exception("errand.not_recorded", kind=timer.kind)  # done again when the claim has run out

    async def _do_errand(self, timer: Timer) -> None:
        kind, of_it = timer.kind, Timer.id == timer.id
        mine = of_it & (Timer.claimed_until == timer.claimed_until)
        again: datetime | None = None
        try:
            async with asyncio.timeout(LEASE.total_seconds() / 2):
                again = await self._errands[kind](timer.payload)
        except Exception as error:  # noqa: BLE001
            # Edge: whoever is called may fail in any way. It is tried again, and the others go on.
            log.warning("errand.failed", kind=kind, failures=timer.failures + 1, error=type(error).__name__)
            ERRANDS_DONE.labels(kind, "failed").inc()
            pause = min(FIRST_RETRY * 2**timer.failures, LONGEST_RETRY)
            values = {"failures": timer.failures + 1, "error": str(error)[:2000], "due_at": self._clock() + pause}
            async with self._sessions.begin() as session:
                await session.execute(update(Timer).where(mine).values(claimed_until=None, **values))
            return
        ERRANDS_DONE.labels(kind, "done").inc()
        async with self._sessions.begin() as session:
            if again is None:
                await session.execute(delete(Timer).where(mine, Timer.asked == timer.asked))
            else:
                same = mine & (Timer.asked == timer.asked)
                await session.execute(update(Timer).where(same).values(due_at=again))
            # Where more was asked for meanwhile, it stays and goes again.
            await session.execute(update(Timer).where(mine).values(claimed_until=None, failures=0, error=None))

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
        except Exception as error:
            if timer is None:
                raise
            # Edge: what one timer is for may break in any way, also by a statement that the database never takes; it is
            # tried again, and the others fire. Where the database is away, this can't be written either.
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
