"""Reads from the tables what `handoff.outcomes` counts."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, and_, func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from handoff.clocks import ClockKind
from handoff.hours import WorkingHours
from handoff.lifecycle import LIVE
from handoff.outcomes import DURABLE_AFTER, EPISODE_GAP, Facts, Mark, TicketFacts, episodes
from handoff.policy import DeskPolicy
from handoff.records import Agent, ClockRow, Conversation, Feedback, Message, Ticket
from handoff.routing import Topics

_CUSTOMER = func.coalesce(Conversation.customer_id, -Conversation.id).label("customer")
RESPONSE, RESOLUTION = slice(-6, -3), slice(-3, None)
"""Where the clocks stand in a row: target, used, running since."""


async def load_facts(
    session: AsyncSession,
    policy: DeskPolicy,
    *,
    since: datetime,
    until: datetime,
    now: datetime,
    topics: Topics | None = None,
) -> Facts:
    """Tickets made and episodes begun from `since` to before `until`, each with what is known of it by now.

    topics: the direction of each, and which one is «to be clarified».

    Four seconds of processor time for 50,000 tickets among 100,000 episodes of three steps each. Local hours and days
    are those of the default schedule.
    """
    with _uncollected():
        return await _load(session, policy, since, until, now, topics)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Hundreds of thousands of rows come at once, none of them garbage: looking for it takes half of the time."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


async def _load(
    session: AsyncSession, policy: DeskPolicy, since: datetime, until: datetime, now: datetime, topics: Topics | None
) -> Facts:
    # A visit that began before counts there; who came back after counts against the visit before.
    first, last = since - EPISODE_GAP, until + DURABLE_AFTER
    tickets = await _tickets(session, policy, first, last, now)
    marks = await _marks(session, first, last)
    zone = policy.schedules["default"].zone
    return Facts(
        since=since,
        until=until,
        now=now,
        tickets=[ticket for ticket in tickets if since <= ticket.created_at < until],
        episodes=[each for each in episodes(marks, tickets, now, zone) if since <= each.began_at < until],
        default_topic=topics.default.id if topics else "unclear",
        directions=topics.directions if topics else {},
    )


async def _tickets(
    session: AsyncSession, policy: DeskPolicy, first: datetime, last: datetime, now: datetime
) -> list[TicketFacts]:
    response, resolution = aliased(ClockRow), aliased(ClockRow)
    result = await session.execute(
        select(
            *(Ticket.id, Ticket.conversation_id, _CUSTOMER, Conversation.channel, Ticket.status),
            *(Ticket.reason, Ticket.topic, Ticket.team, Ticket.level, Ticket.priority, Ticket.lang, Ticket.routed_by),
            *(Ticket.created_at, Ticket.first_reply_at, Ticket.finished_at, Ticket.resolved_at, Ticket.asked_at),
            *(Ticket.feedback, Ticket.reopened, Agent.name.label("agent")),
            *_clock_columns(response),
            *_clock_columns(resolution),
        )
        .join(Conversation, Conversation.id == Ticket.conversation_id)
        .outerjoin(Agent, Agent.id == Ticket.assignee_id)
        .outerjoin(response, and_(response.ticket_id == Ticket.id, response.kind == ClockKind.FIRST_RESPONSE))
        .outerjoin(resolution, and_(resolution.ticket_id == Ticket.id, resolution.kind == ClockKind.RESOLUTION))
        .where(Ticket.created_at >= first, Ticket.created_at < last)
    )
    rows = result.all()
    zone = policy.schedules["default"].zone
    hours_of = {team: policy.hours_of(team) for team in {*policy.teams, *(row.team for row in rows)}}
    found = []
    for row in rows:
        hours, local = hours_of[row.team], row.created_at.astimezone(zone)
        answered, over = row.first_reply_at is not None, row.status not in LIVE or row.finished_at is not None
        response_seconds, response_kept = _judge(row[RESPONSE], hours, now, done=answered)
        resolution_seconds, resolution_kept = _judge(row[RESOLUTION], hours, now, done=over)
        found.append(
            TicketFacts(
                ticket_id=row.id,
                conversation_id=row.conversation_id,
                customer=row.customer,
                channel=row.channel,
                status=row.status,
                reason=row.reason,
                topic=row.topic,
                team=row.team,
                level=row.level,
                priority=row.priority,
                lang=row.lang,
                agent=row.agent,
                routed_by=row.routed_by,
                created_at=row.created_at,
                hour=local.hour,
                day=local.date(),
                in_hours=hours.contains(row.created_at),
                first_reply_at=row.first_reply_at,
                ended_at=row.finished_at or row.resolved_at,
                asked=row.asked_at is not None or row.feedback is not None,
                helped=None if row.feedback is None else row.feedback is Feedback.HELPED,
                reopened=row.reopened,
                first_response_seconds=response_seconds,
                first_response_on_time=response_kept,
                resolution_seconds=resolution_seconds,
                resolution_on_time=resolution_kept,
            )
        )
    return found


def _clock_columns(row: type[ClockRow]) -> tuple[ColumnElement[Any], ...]:
    return row.target_seconds, row.used_seconds, row.running_since  # type: ignore[return-value]


def _judge(clock: Any, hours: WorkingHours, now: datetime, *, done: bool) -> tuple[float | None, bool | None]:
    """Working seconds used, once it is done, and whether the promise was kept: None while it can still be."""
    target, used, running_since = clock
    if target is None or used is None:
        return None, None
    so_far = used if running_since is None else used + hours.between(running_since, now).total_seconds()
    late = so_far > target
    return (used, not late) if done else (None, False if late else None)


async def _marks(session: AsyncSession, first: datetime, last: datetime) -> list[Mark]:
    rows = await session.execute(
        select(
            Message.conversation_id,
            _CUSTOMER,
            Conversation.channel,
            Message.created_at,
            Message.step,
            Message.topic,
            Conversation.lang,
        )
        .join(Conversation, Conversation.id == Message.conversation_id)
        .where(Message.step.is_not(None), Message.created_at >= first, Message.created_at < last)
    )
    return [Mark._make(row) for row in rows]
