"""Who works at the desk, and what they did: for administrators. Works inside the caller's transaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from bot.desk.accounts import Accounts
from bot.desk.records import Account, AuditEntry, Invitation, SignIn
from bot.errors import SignInError
from handoff.access import Permission, Role, Viewer
from handoff.policy import LEVELS
from handoff.records import Agent
from handoff.staff import list_agents
from handoff.tickets import Tickets, forget_agent

AUDIT_PAGE = 100


@dataclass(frozen=True)
class Person:
    """An agent, with his account if he has one."""

    name: str
    account_id: int | None
    login: str
    role: Role | None
    teams: tuple[str, ...]
    level: str
    langs: tuple[str, ...]
    capacity: int
    active: bool
    seen_at: datetime | None


@dataclass(frozen=True)
class Work:
    """What a person is given to do."""

    role: Role
    teams: tuple[str, ...]
    level: str
    langs: tuple[str, ...]
    capacity: int = 10

    def __post_init__(self) -> None:
        if self.level not in LEVELS:
            raise SignInError("wrong")


class People:
    def __init__(
        self,
        accounts: Accounts,
        tickets: Tickets,
        session: AsyncSession,
        viewer: Viewer,
        *,
        now: datetime,
        address: str,
    ) -> None:
        self._accounts = accounts
        self._tickets = tickets
        self._session = session
        self._viewer = viewer
        self._now = now
        self._address = address

    async def all(self) -> list[Person]:
        self._viewer.require(Permission.PEOPLE)
        accounts = {row.agent_id: row for row in await self._session.scalars(select(Account))}
        seen = await self._session.execute(
            select(SignIn.account_id, func.max(SignIn.seen_at)).group_by(SignIn.account_id)
        )
        seen_at = {row[0]: row[1] for row in seen}
        agents = {agent.id: agent for agent, _ in await list_agents(self._session)}
        agents |= {account.agent_id: account.agent for account in accounts.values()}
        people = []
        for agent in sorted(agents.values(), key=lambda agent: agent.name.lower()):
            account = accounts.get(agent.id)
            people.append(
                Person(
                    name=agent.name,
                    account_id=account.id if account else None,
                    login=account.login if account else "",
                    role=account.role if account else None,
                    teams=tuple(agent.teams),
                    level=agent.level,
                    langs=tuple(agent.langs),
                    capacity=agent.capacity,
                    active=agent.active and (account is None or account.active),
                    seen_at=seen_at.get(account.id) if account else None,
                )
            )
        return people

    async def invitations(self) -> Sequence[Invitation]:
        """Those that can still be used."""
        self._viewer.require(Permission.PEOPLE)
        rows = await self._session.scalars(
            select(Invitation)
            .where(Invitation.used_at.is_(None), Invitation.expires_at > self._now)
            .order_by(Invitation.id)
        )
        return rows.all()

    async def invite(self, name: str, work: Work) -> str:
        """The link's token."""
        self._viewer.require(Permission.PEOPLE)
        return await self._accounts.invite(
            self._session,
            role=work.role,
            by=self._viewer.name,
            name=name,
            teams=work.teams,
            level=work.level,
            langs=work.langs,
        )

    async def take_back(self, invitation_id: int) -> None:
        self._viewer.require(Permission.PEOPLE)
        await self._session.execute(
            delete(Invitation).where(Invitation.id == invitation_id, Invitation.used_at.is_(None))
        )
        self._record("invitation_taken_back")

    async def change(self, account_id: int, work: Work, *, active: bool) -> None:
        """Who leaves keeps nothing: his tickets go back to the queue, and his sessions end. Raises SignInError with
        the code `last_admin`."""
        self._viewer.require(Permission.PEOPLE)
        account = await self._session.get(Account, account_id)
        if account is None:
            raise SignInError("wrong")
        if account.role is Role.ADMIN and (work.role is not Role.ADMIN or not active):
            others = await self._session.scalar(
                select(func.count()).where(Account.role == Role.ADMIN, Account.active, Account.id != account_id)
            )
            if not others:
                raise SignInError("last_admin")
        agent = await self._session.get_one(Agent, account.agent_id)
        account.role, account.active = work.role, active
        agent.teams, agent.level, agent.langs = list(work.teams), work.level, list(work.langs)
        agent.capacity = work.capacity
        if active and not agent.active:
            agent.active = True
        elif not active:
            await forget_agent(self._session, agent, self._tickets, actor=self._viewer.name, now=self._now)
            await self._session.execute(delete(SignIn).where(SignIn.account_id == account_id))
        self._record("person_changed", name=agent.name, role=work.role, active=active)
        await self._session.flush()

    async def audit(
        self, *, who: str = "", ticket_id: int | None = None, action: str = "", page: int = 0
    ) -> Sequence[AuditEntry]:
        """The newest first, a page and one more."""
        self._viewer.require(Permission.AUDIT)
        query = select(AuditEntry).order_by(AuditEntry.id.desc()).limit(AUDIT_PAGE + 1).offset(page * AUDIT_PAGE)
        if who:
            query = query.where(AuditEntry.who == who)
        if action:
            query = query.where(AuditEntry.action == action)
        if ticket_id is not None:
            query = query.where(AuditEntry.ticket_id == ticket_id)
        return (await self._session.scalars(query)).all()

    def _record(self, action: str, **details: object) -> None:
        self._accounts.record(self._session, self._viewer.name, action, details=details, address=self._address)
