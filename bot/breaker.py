"""A platform that can't be reached is left alone for a while: its messages wait in their order, and the places where
work is done are free for the other channels.

After so many failures in a row nothing is sent; from time to time one message tries whether the platform is back.
Every process finds that out for itself; what it finds stands in a table, for the desk, the doctor and the metrics.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar

import structlog
from sqlalchemy import String, Text, UniqueConstraint, delete, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column

from bot.channels.base import Address
from bot.errors import DeliveryError, PacedError
from bot.ledger import OutboxRow
from bot.work import Sessions
from handoff.records import Base, Conversation

log = structlog.get_logger()

FAILURES = 5
FIRST_PAUSE = timedelta(seconds=5)
LONGEST_PAUSE = timedelta(minutes=1)
WRITTEN_EVERY = timedelta(minutes=1)
"""What a process has found of an account, while it works for it."""
IN_FLIGHT = 24
"""Calls of one account at a time: the platforms' own limits need fewer, and one that hangs gets no more places."""
T = TypeVar("T")


class TroubleRow(Base):
    """A bot or number whose platform can't be reached."""

    __tablename__ = "channel_troubles"
    __table_args__ = (UniqueConstraint("channel", "account"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    channel: Mapped[str] = mapped_column(String(32))
    account: Mapped[str] = mapped_column(String(64))
    why: Mapped[str] = mapped_column(Text)
    since: Mapped[datetime]


@dataclass(frozen=True)
class Trouble:
    channel: str
    account: str
    why: str
    since: datetime
    waiting: int
    """Messages that wait for it."""


class Breaker:
    """Of one account."""

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self._failures = 0
        self._in_flight = 0
        self._probing = False
        self._pause = FIRST_PAUSE
        self._closed_until: datetime | None = None
        """Set while nothing is sent; the next try is then."""
        self.why = ""

    @property
    def is_open(self) -> bool:
        """Whether the platform is taken to be away."""
        return self._closed_until is not None

    def check(self) -> None:
        """Raises PacedError while nothing should be sent."""
        if self._closed_until is not None:
            left = (self._closed_until - self._clock()).total_seconds()
            if self._probing or left > 0:
                # With some chance in it, so that not all come back at once.
                pause = max(left, 1.0) + random.uniform(0, self._pause.total_seconds() / 2)  # noqa: S311
                raise PacedError(f"it waits for the platform: {self.why}", retry_after_seconds=pause)
        elif self._in_flight >= IN_FLIGHT:
            raise PacedError("many calls are on their way already", retry_after_seconds=random.uniform(0.2, 1))  # noqa: S311

    async def call(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do it, and note how it went. Raises PacedError as `check` does, and what the work raises."""
        self.check()
        probes = self._closed_until is not None
        self._probing = self._probing or probes
        self._in_flight += 1
        try:
            done = await work()
        except DeliveryError as error:
            self._note(failed=is_away(error), why=str(error), probed=probes)
            raise
        else:
            self._note(failed=False, why="", probed=probes)
            return done
        finally:
            self._in_flight -= 1
            if probes:
                self._probing = False

    def _note(self, *, failed: bool, why: str, probed: bool) -> None:
        was_open = self.is_open
        if not failed:
            self._failures, self._closed_until, self._pause, self.why = 0, None, FIRST_PAUSE, ""
            return
        if was_open and not probed:
            return  # it was under way when the platform was found to be away, and tells nothing new
        self._failures += 1
        if was_open:
            self._pause = min(self._pause * 2, LONGEST_PAUSE)
        if was_open or self._failures >= FAILURES:
            self.why, self._closed_until = why, self._clock() + self._pause


def is_away(error: DeliveryError) -> bool:
    """Whether the error tells of the platform, and not of the message or of a limit."""
    return not error.permanent and error.retry_after_seconds is None


class Breakers:
    """One for each account, and the table of those that are open."""

    def __init__(self, sessions: Sessions, clock: Callable[[], datetime]) -> None:
        self._sessions = sessions
        self._clock = clock
        self._all: dict[tuple[str, str], Breaker] = defaultdict(lambda: Breaker(clock))
        self._written: dict[tuple[str, str], datetime] = {}

    def of(self, address: Address) -> Breaker:
        return self._all[address.channel, address.account]

    async def call(self, address: Address, work: Callable[[], Awaitable[T]]) -> T:
        """As `Breaker.call`; a change is written down, and what holds is from time to time: what stands in the table
        may be of a process that died."""
        breaker = self.of(address)
        was_open = breaker.is_open
        try:
            return await breaker.call(work)
        finally:
            changed, written = breaker.is_open != was_open, self._written.get((address.channel, address.account))
            if changed or written is None or self._clock() - written >= WRITTEN_EVERY:
                try:
                    await self._write(address, breaker, changed=changed)
                except SQLAlchemyError as error:
                    # It only tells people. What was sent must not count as failed for it, and be sent again.
                    log.warning("channel.not_noted", channel=address.channel, error=type(error).__name__)

    async def _write(self, address: Address, breaker: Breaker, *, changed: bool) -> None:
        key = {"channel": address.channel, "account": address.account}
        self._written[address.channel, address.account] = self._clock()
        async with self._sessions.begin() as session:
            if breaker.is_open:
                if changed:
                    log.error("channel.away", **key, why=breaker.why)
                insert = postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
                row = insert(TroubleRow).values(**key, why=breaker.why, since=self._clock())
                await session.execute(row.on_conflict_do_nothing(index_elements=list(key)))
            else:
                if changed:
                    log.info("channel.back", **key)
                await session.execute(
                    delete(TroubleRow).where(
                        TroubleRow.channel == address.channel, TroubleRow.account == address.account
                    )
                )


async def troubles(session: AsyncSession) -> list[Trouble]:
    """The bots and numbers that can't be reached, the longest first, with the messages that wait for them."""
    waiting = (
        select(func.count(OutboxRow.id))
        .join(Conversation, Conversation.id == OutboxRow.conversation_id)
        .where(Conversation.channel == TroubleRow.channel, Conversation.account == TroubleRow.account)
        .correlate(TroubleRow)
        .scalar_subquery()
    )
    rows = await session.execute(
        select(TroubleRow.channel, TroubleRow.account, TroubleRow.why, TroubleRow.since, waiting).order_by(
            TroubleRow.since
        )
    )
    return [Trouble(*row) for row in rows]
