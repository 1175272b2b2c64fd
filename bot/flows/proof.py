"""Who asks: a customer proves that something is his by repeating a code that its owner was sent on another way.

A code is good once, for ten minutes, for one conversation and one subject, and for five tries. Whatever conversations
somebody opens, a subject is sent few codes and takes few guesses a day: 15 of 1,000,000. The table is what every
process of an installation agrees on.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

import structlog
from sqlalchemy import ColumnElement, Index, String, delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column

from bot.work import Sessions
from handoff.records import Base

log = structlog.get_logger()

DIGITS: Final = 6
MINUTES: Final = 10
GOOD_FOR: Final = timedelta(minutes=MINUTES)
TRIES: Final = 5
"""Of one code."""
CODES_AN_HOUR: Final = 3
"""For one subject, and likewise for one conversation."""
CODES_A_DAY: Final = 6
GUESSES_A_DAY: Final = 15
"""Wrong codes for one subject, over all conversations."""
KEPT: Final = timedelta(days=2)


class Refusal(StrEnum):
    WRONG = "wrong_code"
    EXPIRED = "code_expired"
    """None was sent, it is too old, used, or tried too often."""
    TOO_MANY = "too_many_codes"
    """No more are sent, or taken, for a while."""


class ProofRow(Base):
    """A code that was sent, and what became of it."""

    __tablename__ = "proofs"
    __table_args__ = (Index("ix_proofs_subject", "subject", "sent_at"), Index("ix_proofs_who", "who", "sent_at"))

    id: Mapped[int] = mapped_column(primary_key=True)
    who: Mapped[str] = mapped_column(String(64))
    """SHA-256 of the conversation's address."""
    subject: Mapped[str] = mapped_column(String(200))
    salt: Mapped[str] = mapped_column(String(32))
    code_hash: Mapped[str] = mapped_column(String(64))
    sent_at: Mapped[datetime]
    tries: Mapped[int] = mapped_column(default=0)
    replaced: Mapped[bool] = mapped_column(default=False)
    """A newer code was sent."""
    proved_until: Mapped[datetime | None]
    told_in: Mapped[str | None] = mapped_column(String(40))
    """The turn in which it was sent, once it was: the same turn, done again, sends no other."""


@dataclass(frozen=True)
class NewCode:
    code: str
    minutes: int
    """How long it is good."""


class Proofs:
    def __init__(self, sessions: Sessions, clock: Callable[[], datetime]) -> None:
        self._sessions = sessions
        self._clock = clock

    async def new_code(self, who: str, subject: str) -> NewCode | Refusal:
        """A code for the owner of the subject. Those sent before to this conversation for it are good no more."""
        now, who = self._clock(), _hashed(who)
        code, salt = f"{secrets.randbelow(10**DIGITS):0{DIGITS}}", secrets.token_hex(16)
        async with self._sessions.begin() as session:
            await session.execute(delete(ProofRow).where(ProofRow.sent_at < now - KEPT))

            async def sent(since: timedelta, *of: object) -> int:
                count = select(func.count()).select_from(ProofRow).where(ProofRow.sent_at > now - since, *of)  # type: ignore[arg-type]
                return await session.scalar(count) or 0

            hour, day = timedelta(hours=1), timedelta(days=1)
            if (
                await sent(hour, ProofRow.subject == subject) >= CODES_AN_HOUR
                or await sent(hour, ProofRow.who == who) >= CODES_AN_HOUR
                or await sent(day, ProofRow.subject == subject) >= CODES_A_DAY
            ):
                log.warning("proof.too_many_codes")
                return Refusal.TOO_MANY
            await session.execute(
                update(ProofRow).where(ProofRow.who == who, ProofRow.subject == subject).values(replaced=True)
            )
            session.add(
                ProofRow(
                    who=who,
                    subject=subject,
                    salt=salt,
                    code_hash=_hashed(salt + code),
                    sent_at=now,
                    tries=0,
                    replaced=False,
                )
            )
        return NewCode(code, MINUTES)

    async def was_told(self, who: str, subject: str, turn: str) -> bool:
        """Whether this turn has sent a code that is good still."""
        sent = select(ProofRow.id).where(*self._newest(who, subject), ProofRow.told_in == turn)
        async with self._sessions.reading() as session:
            return await session.scalar(sent.limit(1)) is not None

    async def told(self, who: str, subject: str, turn: str) -> None:
        """The newest code is on its way, because of this turn."""
        newest = select(ProofRow.id).where(*self._newest(who, subject)).order_by(ProofRow.id.desc()).limit(1)
        async with self._sessions.begin() as session:
            await session.execute(
                update(ProofRow).where(ProofRow.id == newest.scalar_subquery()).values(told_in=turn[:40])
            )

    async def check(self, who: str, subject: str, code: str, minutes: int) -> Refusal | None:
        """Take a code; None: it is right, and the proof holds for so many minutes."""
        async with self._sessions.begin() as session:
            return await self.check_in(session, who, subject, code, minutes)

    async def check_in(self, session: AsyncSession, who: str, subject: str, code: str, minutes: int) -> Refusal | None:
        """The same in a transaction of the caller, who commits it whatever comes of it. A try is counted before
        anything is compared, in one statement: many at the same moment are no more than many."""
        now = self._clock()
        # Everything that was tried, not only what was wrong: a right code ends the matter anyway.
        guesses = select(func.sum(ProofRow.tries)).where(
            ProofRow.subject == subject, ProofRow.sent_at > now - timedelta(days=1)
        )
        newest = select(ProofRow.id).where(*self._newest(who, subject)).order_by(ProofRow.id.desc()).limit(1)
        tried = (
            update(ProofRow)
            .where(ProofRow.id == newest.scalar_subquery())
            .where(ProofRow.tries < TRIES)
            .values(tries=ProofRow.tries + 1)
            .returning(ProofRow)
        )
        if (await session.scalar(guesses) or 0) >= GUESSES_A_DAY:
            log.warning("proof.too_many_guesses")
            return Refusal.TOO_MANY
        row = await session.scalar(tried)
        if row is None:
            return Refusal.EXPIRED
        if not hmac.compare_digest(row.code_hash, _hashed(row.salt + code.strip())):
            return Refusal.WRONG if row.tries < TRIES else Refusal.EXPIRED
        row.proved_until, row.tries = now + timedelta(minutes=minutes), 0
        return None

    def _newest(self, who: str, subject: str) -> tuple[ColumnElement[bool], ...]:
        """What the codes are that can be used now."""
        return (
            ProofRow.who == _hashed(who),
            ProofRow.subject == subject,
            ProofRow.sent_at > self._clock() - GOOD_FOR,
            ProofRow.proved_until.is_(None),
            ProofRow.replaced.is_(False),
        )

    async def holds(self, who: str, subject: str) -> bool:
        """Whether this conversation has proved it, and not too long ago."""
        proved = select(ProofRow.id).where(
            ProofRow.who == _hashed(who), ProofRow.subject == subject, ProofRow.proved_until > self._clock()
        )
        async with self._sessions() as session:
            return await session.scalar(proved.limit(1)) is not None


def who_of(who: str) -> str:
    """`ProofRow.who` of a conversation's address."""
    return _hashed(who)


def _hashed(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
