"""The engine of durable work: who is woken for a conversation, one at a time for each, whatever dies.

The rows of the ledger say what there is to do; the engine only brings somebody to look at them. So a wake-up too
many does no harm (the rows are looked at, and there is nothing to do), and correctness rests on the rows' locks
and states alone. `tests/contract/test_work.py` holds every implementation to what is promised here.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Protocol

import structlog
from filelock import FileLock, Timeout
from sqlalchemy import event
from sqlalchemy.engine.interfaces import CoreExecuteOptionsParameter
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as NoConnectionError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session

from bot.channels.base import Address

log = structlog.get_logger()

DATABASE_AWAY = (OperationalError, InterfaceError, NoConnectionError)
"""What the database raises when it is away, locked, or so slow that no connection comes free: nobody's fault who is
being worked for, so it is done again."""
Handle = Callable[[Address], Awaitable[None]]
"""Does all that there is to do for one conversation. May be called when there is nothing, and again after a fault."""
Find = Callable[[], Awaitable[Sequence[Address]]]
"""The conversations that have something to do now."""

STOP_SECONDS = 10.0
"""How long a stop waits for what is in hand."""
CONCURRENCY = 64
"""How many conversations are worked on at once. Most of them wait for a platform or for a customer to type on."""


class Work(Protocol):
    stopping: bool
    """Set when a stop was asked for: finish the turn or send in hand, `enqueue` the rest, and return."""

    async def enqueue(self, session: AsyncSession, address: Address, *, at: datetime | None = None) -> None:
        """Have the conversation looked at once this transaction is committed, and never if it is rolled back.

        at: not before this moment.
        """

    async def forget(self, session: AsyncSession, address: Address) -> None:
        """Take out what names this conversation, in the caller's transaction: it is erased."""

    async def run(self, handle: Handle, find: Find) -> None:
        """Call `handle` for conversations, never twice at once for the same, until cancelled.

        What other processes enqueue is handled too, and what a dead one had in hand. `find` is the second way to
        learn of work, should a wake-up be lost. When cancelled: sets `stopping` and waits up to STOP_SECONDS.
        """

    async def exclusively(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        """Wait until no other process does the work of this name, then do it. When this process dies, the next one
        begins within seconds. Returns when the work returns."""


IN_HAND = "in hand"


class Sessions(async_sessionmaker[AsyncSession]):
    """Sessions of one database, which know the engine of its work."""

    def __init__(self, engine: AsyncEngine, work: Work) -> None:
        super().__init__(engine, expire_on_commit=False, info={"work": work})
        self.work = work
        sqlite = engine.dialect.name == "sqlite"
        self._reading: CoreExecuteOptionsParameter = {"reading": True} if sqlite else {"isolation_level": "AUTOCOMMIT"}

    @asynccontextmanager
    async def in_hand(self, address: Address) -> AsyncIterator[AsyncSession]:
        """A transaction of the one who has this conversation in hand, see `enqueue`."""
        async with self.begin() as session:
            session.info[IN_HAND] = address
            yield session

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncSession]:
        """A session that only reads: on SQLite it waits for no writer, on PostgreSQL it needs no transaction."""
        async with self() as session:
            await session.connection(execution_options=self._reading)
            yield session


async def enqueue(session: AsyncSession, address: Address, *, at: datetime | None = None) -> None:
    """`Work.enqueue` of the engine that the session's database has. Nothing for now, where the session belongs to the
    one who has this conversation in hand: he looks at it again before he lets it go."""
    if at is None and session.info.get(IN_HAND) == address:
        return
    work: Work = session.info["work"]
    await work.enqueue(session, address, at=at)


class InProcessWork:
    """For SQLite: the rows themselves are the queue, looked at after each commit of this process, and by the clock
    for what other processes wrote. One process of a database runs it: `exclusively` sees to that."""

    def __init__(
        self, database: Path | None = None, *, poll_seconds: float = 0.5, concurrency: int = CONCURRENCY
    ) -> None:
        """database: the file, beside which the locks lie; None for a database in memory."""
        self.stopping = False
        self._database = database
        self._poll_seconds = poll_seconds
        self._places = asyncio.Semaphore(concurrency)
        self._wanted = asyncio.Event()

    async def enqueue(self, session: AsyncSession, address: Address, *, at: datetime | None = None) -> None:
        del address, at  # the rows tell both

        def wake(_session: Session) -> None:
            self._wanted.set()

        event.listen(session.sync_session, "after_commit", wake, once=True)

    async def forget(self, session: AsyncSession, address: Address) -> None:
        """Nothing but the rows names it."""

    async def run(self, handle: Handle, find: Find) -> None:
        async with self._alone("work"):
            await self._run(handle, find)

    @asynccontextmanager
    async def _alone(self, name: str) -> AsyncIterator[None]:
        """Wait until no other process on this database does what has this name."""
        if self._database is None:
            yield
            return
        lock = FileLock(f"{self._database}.{name.replace(':', '-')}.lock", thread_local=False)
        told = False
        while True:
            try:
                lock.acquire(blocking=False)
                break
            except Timeout:
                if not told:
                    log.warning("work.waiting", name=name, reason="another process on this database does it")
                told = True
                await asyncio.sleep(self._poll_seconds)
        try:
            yield
        finally:
            lock.release()

    async def _run(self, handle: Handle, find: Find) -> None:
        self.stopping = False
        busy: dict[Address, asyncio.Task[None]] = {}
        missed: set[Address] = set()

        async def guarded(address: Address) -> None:
            try:
                async with self._places:
                    await handle(address)
            except Exception:
                # Edge: one conversation's fault must not stop the others. It is tried again by the clock.
                log.exception("conversation.failed", channel=address.channel)
            finally:
                del busy[address]
                if address in missed:  # something came for it after its last look
                    missed.discard(address)
                    self._wanted.set()

        try:
            while True:
                self._wanted.clear()
                try:
                    found = await find()
                except Exception:
                    log.exception("ledger.unreachable")
                    found = []
                for address in found:
                    if address in busy:
                        missed.add(address)
                    else:
                        busy[address] = asyncio.create_task(guarded(address))
                # Not `wait_for`: when what it waits for comes at the moment of a cancellation, it forgets the latter.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._poll_seconds):
                        await self._wanted.wait()
        finally:
            self.stopping = True
            if busy:
                _, late = await asyncio.wait(busy.values(), timeout=STOP_SECONDS)
                for task in late:
                    task.cancel()
                await asyncio.gather(*late, return_exceptions=True)

    async def exclusively(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        async with self._alone(name):
            await work()
