"""Signing in to the web desk: passwords, sessions, invitations, and the record of who did what.

Tokens are known to browsers and links alone; the database has their SHA-256.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import structlog
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from sqlalchemy import delete, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from bot.addresses import network_of
from bot.desk.macros import Starter
from bot.desk.records import Account, AuditEntry, Invitation, Macro, SignIn
from bot.errors import SignInError
from bot.ledger import Sessions
from bot.shared import Rate, Shared
from handoff.access import Role, Viewer
from handoff.records import Agent, Presence

log = structlog.get_logger()

IDLE = timedelta(hours=12)
LONGEST = timedelta(days=14)
SEEN_EVERY = timedelta(minutes=1)
"""How exactly it is kept when a session was last used."""
INVITED = timedelta(days=7)
LEAST_PASSWORD, LONGEST_PASSWORD = 10, 200
TRIES_A_MINUTE = 10
"""Of signing in: for one name, and twice as many for one address."""
SYSTEM = "system"
_HASHER = PasswordHasher()
_NOBODY = _HASHER.hash("nobody has this password")
"""Compared with when the name is unknown, so that this takes as long."""


@dataclass(frozen=True)
class SignedIn:
    """Who asks, by a session that holds."""

    sign_in_id: int
    viewer: Viewer
    login: str
    theme: str
    undo_seconds: int
    csrf: str
    """What every form of this session carries."""
    presence: Presence
    address: str
    langs: frozenset[str] = frozenset()
    """The languages in which he answers customers; empty: any."""


def viewer_of(account: Account) -> Viewer:
    return Viewer(
        account_id=account.id,
        agent_id=account.agent_id,
        name=account.agent.name,
        role=account.role,
        teams=frozenset(account.agent.teams),
        lang=account.lang,
    )


class Accounts:
    def __init__(
        self, sessions: Sessions, shared: Shared, clock: Callable[[], datetime], starters: Sequence[Starter] = ()
    ) -> None:
        """starters: macros that the desk gets with its first administrator."""
        self._starters = starters
        self.sessions = sessions
        self._shared = shared
        self._clock = clock

    async def sign_in(self, login: str, password: str, *, browser: str, address: str) -> str:
        """A new session's token. Raises SignInError, the same for a wrong name and a wrong password."""
        login = login.strip().lower()[:254]
        rates = (
            Rate(f"sign-in:{_digest(login)}", 60 / TRIES_A_MINUTE, burst=TRIES_A_MINUTE),
            Rate(f"sign-in-from:{network_of(address)}", 30 / TRIES_A_MINUTE, burst=2 * TRIES_A_MINUTE),
        )
        if wait := await self._shared.take(*rates):
            raise SignInError("too_often", retry_after_seconds=wait)
        async with self.sessions.reading() as session:
            account = await session.scalar(select(Account).where(Account.login == login, Account.active))
        stored = account.password_hash if account else _NOBODY
        right = await asyncio.to_thread(_matches, stored, password[:LONGEST_PASSWORD])
        if account is None or not right or not account.agent.active:
            log.warning("desk.sign_in_refused", login_sha256=_digest(login)[:12])
            async with self.sessions.begin() as session:
                self.record(session, account.agent.name if account else SYSTEM, "sign_in_refused", address=address)
            raise SignInError("wrong")
        token = secrets.token_urlsafe(32)
        async with self.sessions.begin() as session:
            session.add(
                SignIn(
                    token_hash=_digest(token),
                    account_id=account.id,
                    browser=browser[:300],
                    address=address[:64],
                    created_at=self._clock(),
                    seen_at=self._clock(),
                )
            )
            if _HASHER.check_needs_rehash(account.password_hash):
                renewed = await asyncio.to_thread(_HASHER.hash, password)
                await session.execute(update(Account).where(Account.id == account.id).values(password_hash=renewed))
            self.record(session, account.agent.name, "signed_in", address=address)
        return token

    async def whose(self, token: str, *, browser: str, address: str) -> SignedIn | None:
        """Who has this session; None when it is over. One that turns up in another browser is ended."""
        now = self._clock()
        async with self.sessions.reading() as session:
            found = (
                await session.execute(
                    select(SignIn, Account)
                    .join(Account, Account.id == SignIn.account_id)
                    .where(SignIn.token_hash == _digest(token))
                )
            ).first()
        if found is None:
            return None
        row, account = found
        stolen = row.browser != browser[:300]
        over = now > row.seen_at + IDLE or now > row.created_at + LONGEST
        if stolen or over or not account.active or not account.agent.active:
            async with self.sessions.begin() as session:
                await session.execute(delete(SignIn).where(SignIn.id == row.id))
                if stolen:
                    log.warning("desk.session_elsewhere", account=account.id)
                    self.record(session, account.agent.name, "session_elsewhere", address=address)
            return None
        if now > row.seen_at + SEEN_EVERY:
            async with self.sessions.begin() as session:
                await session.execute(update(SignIn).where(SignIn.id == row.id).values(seen_at=now))
        return SignedIn(
            sign_in_id=row.id,
            viewer=viewer_of(account),
            login=account.login,
            theme=account.theme,
            undo_seconds=account.undo_seconds,
            csrf=csrf_of(token),
            presence=account.agent.presence,
            address=address,
            langs=frozenset(account.agent.langs),
        )

    async def lives(self, token: str) -> bool:
        """Whether somebody has this session still, in whatever browser."""
        now = self._clock()
        found = (
            select(SignIn.id)
            .join(Account, Account.id == SignIn.account_id)
            .where(
                SignIn.token_hash == _digest(token),
                SignIn.seen_at >= now - IDLE,
                SignIn.created_at >= now - LONGEST,
                Account.active,
            )
        )
        async with self.sessions.reading() as session:
            return await session.scalar(found) is not None

    async def sign_out(self, token: str) -> None:
        async with self.sessions.begin() as session:
            await session.execute(delete(SignIn).where(SignIn.token_hash == _digest(token)))

    # Invitations

    async def invite(
        self,
        session: AsyncSession,
        *,
        role: Role,
        by: str,
        name: str = "",
        teams: Sequence[str] = (),
        level: str = "L1",
        langs: Sequence[str] = (),
    ) -> str:
        """A link's token: for one account, and a week."""
        token, now = secrets.token_urlsafe(24), self._clock()
        session.add(
            Invitation(
                token_hash=_digest(token),
                name=name.strip()[:200],
                role=role,
                teams=list(teams),
                level=level,
                langs=list(langs),
                invited_by=by,
                created_at=now,
                expires_at=now + INVITED,
            )
        )
        self.record(session, by, "invited", details={"name": name, "role": role})
        await session.flush()
        return token

    async def first_administrator(self) -> str | None:
        """The token by which the first administrator signs up; None when there is one. Earlier ones end with it."""
        async with self.sessions.begin() as session:
            admins = await session.scalar(select(func.count()).where(Account.role == Role.ADMIN, Account.active))
            if admins:
                return None
            await session.execute(
                delete(Invitation).where(Invitation.invited_by == SYSTEM, Invitation.used_at.is_(None))
            )
            return await self.invite(session, role=Role.ADMIN, by=SYSTEM, level="supervisor")

    async def invitation(self, token: str) -> Invitation:
        """Raises SignInError when it was never there, was used, or is too old."""
        async with self.sessions.reading() as session:
            return await self._invitation(session, token)

    async def _invitation(self, session: AsyncSession, token: str) -> Invitation:
        found: Invitation | None = await session.scalar(
            select(Invitation).where(Invitation.token_hash == _digest(token)).with_for_update()
        )
        if found is None or found.used_at is not None or found.expires_at < self._clock():
            raise SignInError("no_invitation")
        return found

    async def accept(self, token: str, *, name: str, login: str, password: str, lang: str) -> None:
        """Make the account. Raises SignInError."""
        login, name = login.strip().lower(), " ".join(name.split())
        if not LEAST_PASSWORD <= len(password) <= LONGEST_PASSWORD or password.lower() in (login, name.lower()):
            raise SignInError("weak")
        if not login or len(login) > 254:
            raise SignInError("wrong")
        password_hash = await asyncio.to_thread(_HASHER.hash, password)
        async with self.sessions.begin() as session:
            invitation = await self._invitation(session, token)
            name = invitation.name or name[:200]
            if not name:
                raise SignInError("wrong")
            agent = await session.scalar(select(Agent).where(Agent.name == name))
            taken = await session.scalar(
                select(Account.id).where(or_(Account.login == login, Account.agent_id == (agent.id if agent else -1)))
            )
            # An agent who answered from the terminal so far is invited by his name; nobody else takes it.
            if taken is not None or (agent is not None and not invitation.name):
                raise SignInError("taken")
            if agent is None:
                agent = Agent(
                    name=name,
                    teams=invitation.teams,
                    level=invitation.level,
                    langs=invitation.langs,
                    notify=[],
                    created_at=self._clock(),
                )
                session.add(agent)
                await session.flush()
            session.add(
                Account(
                    agent_id=agent.id,
                    login=login,
                    password_hash=password_hash,
                    role=invitation.role,
                    lang=lang,
                    created_at=self._clock(),
                )
            )
            invitation.used_at = self._clock()
            if invitation.invited_by == SYSTEM and await session.scalar(select(func.count()).select_from(Macro)) == 0:
                session.add_all(
                    Macro(title=each.title, body=each.body, lang=each.lang, changed_by=name, changed_at=self._clock())
                    for each in self._starters
                )
            self.record(session, name, "joined", details={"role": invitation.role})

    # One's own account

    async def change(self, me: SignedIn, wanted: Mapping[str, Any]) -> None:
        """wanted: `lang`, `theme`, `undo_seconds`, `presence`; what is missing stays."""
        of_account = {key: value for key, value in wanted.items() if key != "presence"}
        async with self.sessions.begin() as session:
            if of_account:
                await session.execute(update(Account).where(Account.id == me.viewer.account_id).values(**of_account))
            if "presence" in wanted:
                presence = Presence(wanted["presence"])
                await session.execute(
                    update(Agent)
                    .where(Agent.id == me.viewer.agent_id)
                    .values(presence=presence, presence_at=self._clock())
                )

    async def change_password(self, me: SignedIn, old: str, new: str) -> None:
        """Ends every other session of the account. Raises SignInError."""
        if wait := await self._shared.take(Rate(f"sign-in:{_digest(me.login)}", 60 / TRIES_A_MINUTE, TRIES_A_MINUTE)):
            raise SignInError("too_often", retry_after_seconds=wait)
        async with self.sessions.reading() as session:
            account = await session.get_one(Account, me.viewer.account_id)
        if not await asyncio.to_thread(_matches, account.password_hash, old):
            raise SignInError("not_you")
        if not LEAST_PASSWORD <= len(new) <= LONGEST_PASSWORD or new.lower() in (me.login, me.viewer.name.lower()):
            raise SignInError("weak")
        password_hash = await asyncio.to_thread(_HASHER.hash, new)
        async with self.sessions.begin() as session:
            await session.execute(update(Account).where(Account.id == account.id).values(password_hash=password_hash))
            await session.execute(delete(SignIn).where(SignIn.account_id == account.id, SignIn.id != me.sign_in_id))
            self.record(session, me.viewer.name, "password_changed", address=me.address)

    def record(
        self,
        session: AsyncSession,
        who: str,
        action: str,
        *,
        ticket_id: int | None = None,
        details: dict[str, Any] | None = None,
        address: str = "",
    ) -> None:
        """Write into the audit log, in the caller's transaction."""
        session.add(
            AuditEntry(
                at=self._clock(),
                who=who,
                action=action,
                ticket_id=ticket_id,
                details=details or {},
                address=address[:64],
            )
        )


def csrf_of(token: str) -> str:
    return hmac.new(token.encode(), b"csrf", hashlib.sha256).hexdigest()


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _matches(stored: str, password: str) -> bool:
    try:
        return _HASHER.verify(stored, password)
    except (VerificationError, InvalidHashError):
        return False
