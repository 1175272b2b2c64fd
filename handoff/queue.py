"""What waits: the queue of a viewer in its views, with what a row shows. Read-only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sqlalchemy import ColumnElement, and_, case, false, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from handoff.access import EVERYWHERE, Viewer, still_called, visible
from handoff.clocks import ClockKind
from handoff.lifecycle import ACTS, LIVE, TicketStatus
from handoff.records import NOTE, Agent, Author, ClockRow, Conversation, Mention, Message, Ticket
from handoff.words import said

PAGE = 50
SNIPPET_CHARS = 120


class View(StrEnum):
    MINE = "mine"
    MENTIONS = "mentions"
    """Where a note calls the viewer who has not looked yet."""
    UNASSIGNED = "unassigned"
    TEAM = "team"
    WAITING = "waiting"
    """Whose customers wait longest for a word."""
    BREACH = "breach"
    """Whose promises are broken soonest."""
    ALL = "all"
    ENDED = "ended"


@dataclass(frozen=True)
class Query:
    view: View = View.MINE
    topic: str = ""
    team: str = ""
    channel: str = ""
    status: str = ""
    priority: str = ""
    assignee: str = ""
    words: str = ""
    """What was said, a number, a name, a phone, an address: searched in ended tickets as well."""
    page: int = 0


@dataclass(frozen=True)
class Row:
    ticket_id: int
    status: TicketStatus
    topic: str
    team: str
    level: str
    priority: str
    lang: str
    subject: str
    channel: str
    customer: str
    assignee: str | None
    last_id: int
    """Number of the newest message; 0: none."""
    last_text: str
    last_author: Author | None
    last_at: datetime
    waits: bool
    """Whether the next word is a person's."""
    due_at: datetime | None
    due_kind: ClockKind | None


@dataclass(frozen=True)
class Found:
    rows: Sequence[Row]
    more: bool


def _condition(view: View, viewer: Viewer) -> ColumnElement[bool]:
    match view:
        case View.MINE:
            return and_(Ticket.assignee_id == viewer.agent_id, Ticket.status.in_(LIVE))
        case View.MENTIONS:
            called = select(Mention.ticket_id).where(Mention.agent_id == viewer.agent_id, Mention.seen_at.is_(None))
            return Ticket.id.in_(called)
        case View.UNASSIGNED:
            return and_(Ticket.assignee_id.is_(None), Ticket.status.in_(ACTS))
        case View.TEAM if viewer.teams:
            return and_(Ticket.team.in_(sorted(viewer.teams)), Ticket.status.in_(LIVE))
        case View.WAITING:
            return Ticket.status.in_(ACTS)
        case View.ENDED:
            return Ticket.status.in_([TicketStatus.RESOLVED, TicketStatus.CLOSED])
        case _:
            return Ticket.status.in_(LIVE)


def _filtered(
    query: Query, viewer: Viewer, words: ColumnElement[bool] | None, now: datetime
) -> list[ColumnElement[bool]]:
    # A mention opens the ticket, whosever it is.
    called = query.view is View.MENTIONS and words is None
    conditions = [or_(visible(viewer), still_called(now)) if called else visible(viewer)]
    conditions.append(words if words is not None else _condition(query.view, viewer))
    for column, wanted in (
        (Ticket.topic, query.topic),
        (Ticket.team, query.team),
        (Ticket.status, query.status),
        (Ticket.priority, query.priority),
    ):
        if wanted:
            conditions.append(column == wanted)
    if query.assignee:
        conditions.append(
            Ticket.assignee_id.in_(select(Agent.id).where(Agent.name == query.assignee).scalar_subquery())
        )
    if query.channel:
        there = (Conversation.id == Ticket.conversation_id) & (Conversation.channel == query.channel)
        conditions.append(select(Conversation.id).where(there).exists())
    return conditions


async def _ids(
    session: AsyncSession,
    query: Query,
    viewer: Viewer,
    words: ColumnElement[bool] | None,
    wanted: int,
    now: datetime,
) -> list[int]:
    """The first tickets in the order of the view. Each part is read along an index and ends early, however many
    tickets there are."""
    conditions = _filtered(query, viewer, words, now)

    async def read(status: TicketStatus) -> list[tuple[datetime, int]]:
        statement = select(Ticket.created_at, Ticket.id).where(*conditions, Ticket.status == status)
        found = await session.execute(statement.order_by(Ticket.created_at, Ticket.id).limit(wanted))
        return [(row[0], row[1]) for row in found]

    async def by_clock(
        key: InstrumentedAttribute[datetime | None], most: int, *of: ColumnElement[bool]
    ) -> list[tuple[datetime, int]]:
        """Along a clock's moments; each ticket is only looked at, so that the reading can end early."""
        shown = select(Ticket.id).where(Ticket.id == ClockRow.ticket_id, *conditions).exists()
        statement = select(key, ClockRow.ticket_id).where(key.is_not(None), *of, shown)
        found = await session.execute(statement.order_by(key, ClockRow.ticket_id).limit(most))
        return [(row[0], row[1]) for row in found if row[0] is not None]

    if words is not None or query.view is View.ENDED:
        newest = select(Ticket.id).where(*conditions).order_by(Ticket.id.desc())
        return list(await session.scalars(newest.limit(wanted)))
    if query.view is View.MENTIONS:
        return list(await session.scalars(select(Ticket.id).where(*conditions).order_by(Ticket.id).limit(wanted)))
    if query.view is View.BREACH:
        # A ticket runs on several clocks; the next to strike counts.
        due = await by_clock(ClockRow.due_at, wanted * len(ClockKind))
        return list(dict.fromkeys(ticket_id for _, ticket_id in due))[:wanted]
    if query.view is View.WAITING:
        since = await by_clock(ClockRow.running_since, wanted, ClockRow.kind == ClockKind.NEXT_RESPONSE)
        came = [*await read(TicketStatus.NEW), *await read(TicketStatus.OPEN)]
        # Whose customer has no clock of his own has been waiting since he came.
        clocks = await session.execute(
            select(ClockRow.ticket_id, ClockRow.kind, ClockRow.running_since).where(
                ClockRow.ticket_id.in_([ticket_id for _, ticket_id in came])
            )
        )
        known = {row[0] for row in clocks if row[1] is ClockKind.NEXT_RESPONSE and row[2] is not None}
        both = [*since, *((at, ticket_id) for at, ticket_id in came if ticket_id not in known)]
        return [ticket_id for _, ticket_id in sorted(both)][:wanted]
    if query.view is View.MINE or query.assignee:  # few enough to be sorted
        acts_first = case((Ticket.status.in_(ACTS), 0), else_=1)
        mine = select(Ticket.id).where(*conditions).order_by(acts_first, Ticket.created_at, Ticket.id)
        return list(await session.scalars(mine.limit(wanted)))
    statuses = ACTS if query.view is View.UNASSIGNED else tuple(sorted(LIVE))
    by_status = [(status not in ACTS, at, ticket_id) for status in statuses for at, ticket_id in await read(status)]
    return [ticket_id for _, _, ticket_id in sorted(by_status)][:wanted]


async def find(session: AsyncSession, viewer: Viewer, query: Query, now: datetime) -> Found:
    """A page of the queue, in the order of its view."""
    words = await _words(session, query.words) if query.words.strip() else None
    first = query.page * PAGE
    ids = (await _ids(session, query, viewer, words, first + PAGE + 1, now))[first:]
    return Found(await rows(session, ids[:PAGE]), more=len(ids) > PAGE)


async def rows(session: AsyncSession, ids: Sequence[int]) -> list[Row]:
    """What the queue shows of these tickets, in this order. Whoever asks has seen to the permission."""
    if not ids:
        return []
    found = await session.execute(
        select(Ticket, Conversation.channel, Conversation.customer_name, Conversation.chat_id, Agent.name)
        .join(Conversation, Conversation.id == Ticket.conversation_id)
        .outerjoin(Agent, Agent.id == Ticket.assignee_id)
        .where(Ticket.id.in_(ids))
    )
    by_id = {row[0].id: row for row in found}
    newest = (
        select(func.max(Message.id))
        .where(Message.conversation_id.in_([row[0].conversation_id for row in by_id.values()]), Message.kind != NOTE)
        .group_by(Message.conversation_id)
    )
    spoken = await session.execute(
        select(
            Message.conversation_id, Message.id, Message.text, Message.author, Message.created_at, Message.kind
        ).where(Message.id.in_(newest))
    )
    last = {row.conversation_id: row for row in spoken}
    due: dict[int, tuple[datetime, ClockKind]] = {}
    clocks = select(ClockRow.ticket_id, ClockRow.due_at, ClockRow.kind).where(
        ClockRow.ticket_id.in_(ids), ClockRow.due_at.is_not(None)
    )
    for ticket_id, due_at, kind in await session.execute(clocks):
        if due_at is not None and (ticket_id not in due or due_at < due[ticket_id][0]):
            due[ticket_id] = due_at, kind
    made = []
    for ticket_id in ids:
        if ticket_id not in by_id:
            continue
        ticket, channel, name, chat_id, assignee = by_id[ticket_id]
        spoke = last.get(ticket.conversation_id)
        due_at, due_kind = due.get(ticket_id, (None, None))
        made.append(
            Row(
                ticket_id=ticket.id,
                status=ticket.status,
                topic=ticket.topic,
                team=ticket.team,
                level=ticket.level,
                priority=ticket.priority,
                lang=ticket.lang,
                subject=ticket.subject,
                channel=channel,
                customer=name or nameless(channel, chat_id),
                assignee=assignee,
                last_id=spoke.id if spoke else 0,
                last_text=" ".join((spoke.text if spoke else ticket.subject).split())[:SNIPPET_CHARS],
                last_author=spoke.author if spoke else None,
                last_at=spoke.created_at if spoke else ticket.created_at,
                waits=ticket.status in ACTS,
                due_at=due_at,
                due_kind=due_kind,
            )
        )
    return made


def nameless(channel: str, chat_id: str) -> str:
    """What a customer without a name is called."""
    return f"{channel} {chat_id[:6]}" if channel == "site" else chat_id


@dataclass(frozen=True)
class Pile:
    """Live tickets that are alike to the queue."""

    team: str
    assignee_id: int | None
    status: TicketStatus
    count: int


async def piles(session: AsyncSession) -> Sequence[Pile]:
    """All live tickets, counted. Serves every viewer."""
    found = await session.execute(
        select(Ticket.team, Ticket.assignee_id, Ticket.status, func.count())
        .where(Ticket.status.in_(LIVE))
        .group_by(Ticket.status, Ticket.team, Ticket.assignee_id)
    )
    return [Pile(*row) for row in found]


async def mentioned(session: AsyncSession, viewer: Viewer, now: datetime) -> int:
    """In how many tickets a note calls the viewer who has not looked yet."""
    found = await session.scalar(
        select(func.count(Mention.ticket_id.distinct()))
        .join(Ticket, Ticket.id == Mention.ticket_id)
        .where(Mention.agent_id == viewer.agent_id, Mention.seen_at.is_(None), visible(viewer) | still_called(now))
    )
    return found or 0


def counts(found: Sequence[Pile], viewer: Viewer) -> dict[View, int]:
    """How many tickets a viewer has in each view that is counted."""
    made = dict.fromkeys((View.MINE, View.UNASSIGNED, View.TEAM, View.WAITING, View.ALL), 0)
    for pile in found:
        mine = pile.assignee_id == viewer.agent_id
        if not (viewer.role in EVERYWHERE or pile.team in viewer.teams or mine):
            continue
        acts = pile.status in ACTS
        made[View.ALL] += pile.count
        made[View.MINE] += pile.count if mine else 0
        made[View.WAITING] += pile.count if acts else 0
        made[View.UNASSIGNED] += pile.count if acts and pile.assignee_id is None else 0
        made[View.TEAM] += pile.count if pile.team in viewer.teams or not viewer.teams else 0
    return made


async def _words(session: AsyncSession, text: str) -> ColumnElement[bool]:
    """The tickets that a search means: a number, what was said, who said it."""
    text = text.replace("\x00", "").strip()
    if not text:
        return false()
    bare = text.strip().lstrip("#№ ").strip()
    spoken = said(session.get_bind().dialect.name, text)
    who = [Conversation.customer_name.like(f"%{_plain(form)}%", escape="\\") for form in _forms(text.strip())]
    named = select(Conversation.id).where(or_(*who, Conversation.chat_id == bare))
    matches: list[ColumnElement[bool]] = [Ticket.conversation_id.in_(named)]
    if spoken is not None:
        matches.append(Ticket.conversation_id.in_(spoken))
    if bare.isdecimal() and len(bare) < 19:
        matches.append(Ticket.id == int(bare))
    return or_(*matches)


def _plain(text: str) -> str:
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


def _forms(text: str) -> set[str]:
    """SQLite compares nothing but ASCII without regard to case."""
    return {text, text.lower(), text.title(), text.capitalize()}
