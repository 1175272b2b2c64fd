"""Who is who in the agents' groups: somebody in Telegram is an account's owner once he has proved it by a code that
the account got at the desk."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from datetime import datetime, timedelta

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncSession

from bot.desk.accounts import Accounts, viewer_of
from bot.desk.records import Account
from bot.forum.records import ForumCode, ForumPerson
from handoff.access import Viewer
from handoff.errors import AgentNotFoundError
from handoff.records import Agent

GOOD_FOR = timedelta(minutes=15)
ALPHABET = "ABCDEFGHJKMNPQRSTUVWXYZ23456789"
"""Without what is easily taken for something else."""
CODE_CHARS = 10


class ForumPeople:
    def __init__(self, accounts: Accounts, clock: Callable[[], datetime]) -> None:
        self._accounts = accounts
        self._clock = clock

    async def code(self, session: AsyncSession, account_id: int) -> str:
        """A new code of an account; its earlier ones are good for nothing from now on."""
        await session.execute(delete(ForumCode).where(ForumCode.account_id == account_id))
        code = "".join(secrets.choice(ALPHABET) for _ in range(CODE_CHARS))
        session.add(ForumCode(code_hash=_digest(code), account_id=account_id, expires_at=self._clock() + GOOD_FOR))
        await session.flush()
        return code

    async def code_for(self, session: AsyncSession, agent: str) -> str:
        """The same by an agent's name. Raises AgentNotFoundError where he has no account."""
        return await self.code(session, await self._account_of(session, agent))

    async def unlink_agent(self, session: AsyncSession, agent: str, by: str) -> None:
        """Raises AgentNotFoundError."""
        await self.unlink(session, await self._account_of(session, agent), by)

    async def _account_of(self, session: AsyncSession, agent: str) -> int:
        found: int | None = await session.scalar(
            select(Account.id).join(Agent, Agent.id == Account.agent_id).where(Agent.name == agent, Account.active)
        )
        if found is None:
            raise AgentNotFoundError(agent)
        return found

    async def link(self, session: AsyncSession, telegram_id: int, name: str, code: str) -> Viewer | None:
        """Use a code; None for one that is not good. An account has one owner in Telegram, and he one account."""
        found = await session.get(ForumCode, _digest(code.strip().upper()), with_for_update=True)
        if found is None:
            return None
        await session.delete(found)
        account = await session.get(Account, found.account_id)
        if found.expires_at < self._clock() or account is None or not (account.active and account.agent.active):
            return None
        await session.execute(
            delete(ForumPerson).where((ForumPerson.telegram_id == telegram_id) | (ForumPerson.account_id == account.id))
        )
        session.add(
            ForumPerson(telegram_id=telegram_id, account_id=account.id, name=name[:200], linked_at=self._clock())
        )
        self._accounts.record(
            session, account.agent.name, "telegram_linked", details={"name": name[:200], "telegram": telegram_id}
        )
        await session.flush()
        return viewer_of(account)

    async def viewer(self, session: AsyncSession, telegram_id: int) -> Viewer | None:
        """Whose account somebody has, as long as he works here."""
        account = await session.scalar(
            select(Account)
            .join(ForumPerson, ForumPerson.account_id == Account.id)
            .where(ForumPerson.telegram_id == telegram_id, Account.active)
        )
        return viewer_of(account) if account is not None and account.agent.active else None

    async def linked(self, session: AsyncSession, account_id: int) -> ForumPerson | None:
        found: ForumPerson | None = await session.scalar(
            select(ForumPerson).where(ForumPerson.account_id == account_id)
        )
        return found

    async def unlink(self, session: AsyncSession, account_id: int, by: str) -> None:
        gone = await session.scalar(
            delete(ForumPerson).where(ForumPerson.account_id == account_id).returning(ForumPerson.telegram_id)
        )
        if gone is not None:
            self._accounts.record(session, by, "telegram_unlinked", details={"telegram": gone})


def _digest(code: str) -> str:
    return hashlib.sha256(code.encode()).hexdigest()
