"""What waits: the queue of a viewer in its views, with what a row shows. Read-only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sqlalchemy import ColumnElement, Select, and_, case, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from handoff.access import Viewer, visible
from handoff.clocks import ClockKind
from handoff.lifecycle import LIVE, TicketStatus
from handoff.records import NOTE, Agent, Author, ClockRow, Conversation, Mention, Message, Ticket
from handoff.tickets import ACTS
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


def _filtered(query: Query, viewer: Viewer, words: ColumnElement[bool] | None) -> list[ColumnElement[bool]]:
    conditions = [visible(viewer)]
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
        conditions.append(
            Ticket.conversation_id.in_(select(Conversation.id).where(Conversation.channel == query.channel))
        )
    return conditions


def _ids(query: Query, viewer: Viewer, words: ColumnElement[bool] | None) -> Select[int]:
    conditions = _filtered(query, viewer, words)
    if words is not None or query.view is View.ENDED:
        return select(Ticket.id).where(*conditions).order_by(Ticket.id.desc())
    if query.view is View.BREACH:
        # A ticket runs on several clocks; the next to strike counts.
        due = (
            select(ClockRow.ticket_id, func.min(ClockRow.due_at).label("due_at"))
            .where(ClockRow.due_at.is_not(None))
            .group_by(ClockRow.ticket_id)
            .subquery()
        )
        return (
            select(Ticket.id)
            .join(due, due.c.ticket_id == Ticket.id)
            .where(*conditions)
            .order_by(due.c.due_at, Ticket.id)
        )
    if query.view is View.WAITING:
        since = (
            select(ClockRow.running_since)
            .where(
                ClockRow.ticket_id == Ticket.id,
                ClockRow.kind == ClockKind.NEXT_RESPONSE,
                ClockRow.running_since.is_not(None),
            )
            .scalar_subquery()
        )
        return select(Ticket.id).where(*conditions).order_by(func.coalesce(since, Ticket.created_at), Ticket.id)
    acts_first = case((Ticket.status.in_(ACTS), 0), else_=1)
    return select(Ticket.id).where(*conditions).order_by(acts_first, Ticket.created_at, Ticket.id)


async def find(session: AsyncSession, viewer: Viewer, query: Query) -> Found:
    """A page of the queue, in the order of its view."""
    words = await _words(session, query.words) if query.words.strip() else None
    statement = _ids(query, viewer, words).limit(PAGE + 1).offset(query.page * PAGE)
    ids = list(await session.scalars(statement))
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
        select(Message.conversation_id, Message.text, Message.author, Message.created_at, Message.kind).where(
            Message.id.in_(newest)
        )
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


async def counts(session: AsyncSession, viewer: Viewer) -> Mapping[View, int]:
    """How many tickets each view has, in one pass; the ended ones are not counted."""
    views = [view for view in View if view is not View.ENDED]
    columns = [func.count(case((_condition(view, viewer), 1))).label(view) for view in views]
    row = (await session.execute(select(*columns).where(visible(viewer), Ticket.status.in_(LIVE)))).one()
    return dict(zip(views, row, strict=True))


async def _words(session: AsyncSession, text: str) -> ColumnElement[bool]:
    """The tickets that a search means: a number, what was said, who said it."""
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
