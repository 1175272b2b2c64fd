"""Who may do what with which ticket. Pure but for the queries that it hands out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from sqlalchemy import ColumnElement, or_, select, true
from sqlalchemy.ext.asyncio import AsyncSession

from handoff.errors import AccessError, TicketNotFoundError
from handoff.records import Mention, Ticket


class Role(StrEnum):
    AGENT = "agent"
    """The tickets of his teams, and those that he has."""
    SENIOR = "senior"
    """An agent who also writes macros and gives tickets to others."""
    EDITOR = "editor"
    """Reads everything, to learn what the articles lack, and writes in the studio; answers nobody."""
    SUPERVISOR = "supervisor"
    """Every ticket, the figures and the studio."""
    ADMIN = "admin"
    """A supervisor who also invites people and reads who did what."""


class Permission(StrEnum):
    READ = "read"
    ANSWER = "answer"
    """Reply, and everything that changes a ticket."""
    NOTE = "note"
    """Write what agents alone see."""
    DELEGATE = "delegate"
    """Give a ticket to somebody else than oneself, and act on many at once."""
    MACROS = "macros"
    EDIT = "edit"
    """Articles, intents and everything else that the assistant learns from: the studio."""
    FIGURES = "figures"
    PRIVACY = "privacy"
    """Give a customer what is kept about him, and erase it."""
    PEOPLE = "people"
    AUDIT = "audit"


_AGENT = frozenset({Permission.READ, Permission.NOTE, Permission.ANSWER})
_SENIOR = _AGENT | {Permission.DELEGATE, Permission.MACROS}
_SUPERVISOR = _SENIOR | {Permission.FIGURES, Permission.EDIT, Permission.PRIVACY}
GRANTS: Mapping[Role, frozenset[Permission]] = {
    Role.AGENT: _AGENT,
    Role.SENIOR: _SENIOR,
    Role.EDITOR: frozenset({Permission.READ, Permission.EDIT}),
    Role.SUPERVISOR: _SUPERVISOR,
    Role.ADMIN: _SUPERVISOR | {Permission.PEOPLE, Permission.AUDIT},
}
EVERYWHERE = frozenset({Role.EDITOR, Role.SUPERVISOR, Role.ADMIN})
"""Roles that are not bound to teams."""
CALLED = frozenset({Permission.READ, Permission.NOTE})
"""What a mention in a note opens of another team's ticket."""
CALLED_FOR = timedelta(days=7)
"""For how long after its end. One that is opened again is open to whom it mentions, too."""


GREATEST_ID = 2**63 - 1
"""A greater number is no row's, and no database takes it."""


def row_id(text: str) -> int | None:
    """A number that may be a row's; None for anything else that somebody made up."""
    number = int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else 0
    return number if 0 < number <= GREATEST_ID else None


@dataclass(frozen=True)
class Viewer:
    """Somebody who has signed in."""

    account_id: int
    agent_id: int
    name: str
    """As customers see it."""
    role: Role
    teams: frozenset[str]
    lang: str = "ru"

    def may(self, permission: Permission) -> bool:
        return permission in GRANTS[self.role]

    def require(self, permission: Permission) -> None:
        """Raises AccessError."""
        if not self.may(permission):
            raise AccessError(self.name, permission)

    def sees(self, ticket: Ticket) -> bool:
        """As one of those who work on it; `reach` also knows who is mentioned in it."""
        return self.role in EVERYWHERE or ticket.assignee_id == self.agent_id or ticket.team in self.teams

    def works_on(self, team: str, assignee: str | None) -> bool:
        """Whether he may change a ticket of this team that this agent has."""
        mine = self.role in EVERYWHERE or assignee == self.name or team in self.teams
        return mine and self.may(Permission.ANSWER)


def visible(viewer: Viewer) -> ColumnElement[bool]:
    """The condition that every list of tickets for this viewer has."""
    if viewer.role in EVERYWHERE:
        return true()
    return or_(Ticket.team.in_(sorted(viewer.teams)), Ticket.assignee_id == viewer.agent_id)


def still_called(now: datetime) -> ColumnElement[bool]:
    """Whether a mention in a ticket opens it now."""
    return or_(Ticket.resolved_at.is_(None), Ticket.resolved_at > now - CALLED_FOR)


async def reach(session: AsyncSession, viewer: Viewer, ticket_id: int, permission: Permission, now: datetime) -> Ticket:
    """The one way to a ticket from a desk with sign-in.

    Whom a note in it mentions may read a ticket of another team, and write notes, until it has been ended for
    CALLED_FOR. Raises TicketNotFoundError also for a ticket that the viewer may not see, so that numbers tell nothing,
    and AccessError for one that he may see but not change.
    """
    ticket = await session.get(Ticket, ticket_id) if 0 < ticket_id <= GREATEST_ID else None
    if ticket is None or not viewer.may(Permission.READ):
        raise TicketNotFoundError(ticket_id)
    if not viewer.sees(ticket):
        if not await _is_called(session, viewer, ticket_id, now):
            raise TicketNotFoundError(ticket_id)
        if permission not in CALLED:
            raise AccessError(viewer.name, permission)
    viewer.require(permission)
    return ticket


async def _is_called(session: AsyncSession, viewer: Viewer, ticket_id: int, now: datetime) -> bool:
    called = (
        select(Mention.id)
        .join(Ticket, Ticket.id == Mention.ticket_id)
        .where(Mention.agent_id == viewer.agent_id, Mention.ticket_id == ticket_id, still_called(now))
    )
    return await session.scalar(called.limit(1)) is not None
