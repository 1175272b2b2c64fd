"""The agents' groups in Telegram, and which of them a ticket belongs to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from bot.errors import SettingsError
from bot.forum.records import ForumTopic
from bot.timers import send_errand
from handoff.lifecycle import LIVE
from handoff.records import Ticket

ADOPTED = 200
"""How many tickets get their place in a group at a time."""


@dataclass(frozen=True)
class Group:
    id: int
    teams: frozenset[str]
    """Whose tickets go there; none: those of all teams that no other group names."""


def parse_groups(setting: str) -> tuple[Group, ...]:
    """`-100123, -100456=payments+service`. Raises SettingsError."""
    groups: dict[int, Group] = {}
    for part in filter(None, (each.strip() for each in setting.split(","))):
        number, _, teams = part.partition("=")
        try:
            group_id = int(number)
        except ValueError:
            group_id = 0
        if group_id >= 0:
            raise SettingsError(
                f"OTVET_FORUM_GROUPS: {part}: expected the id of a group, such as -1001234567890, after which = and "
                "the teams may follow, joined by +"
            )
        names = frozenset(name.strip() for name in teams.split("+") if name.strip())
        if group_id in groups:
            raise SettingsError(f"OTVET_FORUM_GROUPS: the group {group_id} stands there twice")
        groups[group_id] = Group(group_id, names)
    return tuple(groups.values())


def kind_of(group_id: int) -> str:
    """Of a group's errand."""
    return f"forum:{group_id}"


async def hurry(session: AsyncSession, group_id: int, at: datetime) -> None:
    """Have a group looked at as soon as this transaction is committed."""
    await send_errand(session, kind_of(group_id), kind_of(group_id), at)


class Groups(Mapping[int, Group]):
    """All of them by their ids."""

    def __init__(self, groups: Sequence[Group]) -> None:
        self._groups = {group.id: group for group in groups}

    def __getitem__(self, group_id: int) -> Group:
        return self._groups[group_id]

    def __iter__(self) -> Iterator[int]:
        return iter(self._groups)

    def __len__(self) -> int:
        return len(self._groups)

    def home(self, ticket: Ticket) -> int | None:
        """The group of a ticket; several of one team share its tickets evenly."""
        named = [group.id for group in self.values() if ticket.team in group.teams]
        found = named or [group.id for group in self.values() if not group.teams]
        return found[ticket.id % len(found)] if found else None

    async def homeless(self, session: AsyncSession) -> list[str]:
        """The teams with live tickets that no group takes."""
        rows = await session.scalars(select(Ticket.team).where(Ticket.status.in_(LIVE)).distinct())
        open_to_all = any(not group.teams for group in self.values())
        return [] if open_to_all else sorted(set(rows) - self._named())

    async def stranded(self, session: AsyncSession) -> int:
        """How many live tickets have their topic in a group that is no longer ours."""
        query = select(func.count(ForumTopic.ticket_id)).join(Ticket, Ticket.id == ForumTopic.ticket_id)
        gone = ForumTopic.group_id.not_in(self._groups)
        return int(await session.scalar(query.where(Ticket.status.in_(LIVE), gone)) or 0)

    async def unplaced(self, session: AsyncSession, group_id: int) -> tuple[list[int], list[int]]:
        """Live tickets whose home this group is: those that have no place in any, and those whose group is no longer
        ours. The oldest, at most ADOPTED of either."""
        known = select(ForumTopic.ticket_id).where(ForumTopic.ticket_id == Ticket.id).exists()
        placed = select(Ticket).join(ForumTopic, ForumTopic.ticket_id == Ticket.id)
        found = []
        for query in (select(Ticket).where(~known), placed.where(ForumTopic.group_id.not_in(self._groups))):
            live = query.where(Ticket.status.in_(LIVE), self._may_be_of(group_id))
            rows = await session.scalars(live.order_by(Ticket.id).limit(ADOPTED))
            found.append([ticket.id for ticket in rows if self.home(ticket) == group_id])
        new, stranded = found
        return new, stranded

    async def elsewhere(self, session: AsyncSession, group_id: int) -> dict[int, int]:
        """The live tickets that have their place in this group and their home in another: ticket → home."""
        rows = await session.scalars(
            select(Ticket)
            .join(ForumTopic, ForumTopic.ticket_id == Ticket.id)
            .where(ForumTopic.group_id == group_id, Ticket.status.in_(LIVE))
        )
        homes = {ticket.id: self.home(ticket) for ticket in rows}
        return {ticket_id: home for ticket_id, home in homes.items() if home is not None and home != group_id}

    def _named(self) -> frozenset[str]:
        return frozenset[str]().union(*(group.teams for group in self.values()))

    def _may_be_of(self, group_id: int) -> ColumnElement[bool]:
        teams = self[group_id].teams
        return Ticket.team.in_(sorted(teams)) if teams else Ticket.team.not_in(sorted(self._named()))
