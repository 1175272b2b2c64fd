"""Reads from the tables what `handoff.outcomes` counts."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, RowMapping, and_, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from handoff.clocks import Clock, ClockKind
from handoff.hours import WorkingHours
from handoff.lifecycle import LIVE
from handoff.outcomes import DURABLE_AFTER, EPISODE_GAP, Facts, Mark, TicketFacts, episodes
from handoff.policy import DeskPolicy
from handoff.records import Agent, ClockRow, Conversation, Feedback, Message, Ticket


async def load_facts(
    session: AsyncSession,
    policy: DeskPolicy,
    *,
    since: datetime,
    until: datetime,
    now: datetime,
    default_topic: str = "unclear",
) -> Facts:
    """Tickets made and episodes begun from `since` to before `until`, each with what is known of it by now.

    A second for 50,000 tickets. Local hours and days are those of the default schedule.
    """
    # A visit that began before counts there; who came back after counts against the visit before.
    first, last = since - EPISODE_GAP, until + DURABLE_AFTER
    tickets = await _tickets(session, policy, first, last, now)
    marks = await _marks(session, policy, first, last)
    return Facts(
        since=since,
        until=until,
        now=now,
        tickets=[ticket for ticket in tickets if since <= ticket.created_at < until],
        episodes=[each for each in episodes(marks, tickets, now) if since <= each.began_at < until],
        default_topic=default_topic,
    )


async def _tickets(
    session: AsyncSession, policy: DeskPolicy, first: datetime, last: datetime, now: datetime
) -> list[TicketFacts]:
    response, resolution = aliased(ClockRow), aliased(ClockRow)
    rows = await session.execute(
        select(
            *(Ticket.id, Ticket.conversation_id, Conversation.customer_id, Conversation.channel, Ticket.status),
            *(Ticket.reason, Ticket.topic, Ticket.team, Ticket.level, Ticket.priority, Ticket.lang, Ticket.routed_by),
            *(Ticket.created_at, Ticket.first_reply_at, Ticket.finished_at, Ticket.resolved_at, Ticket.asked_at),
            *(Ticket.feedback, Ticket.reopened, Agent.name.label("agent")),
            *_clock_columns(response, "response"),
            *_clock_columns(resolution, "resolution"),
        )
        .join(Conversation, Conversation.id == Ticket.conversation_id)
        .outerjoin(Agent, Agent.id == Ticket.assignee_id)
        .outerjoin(response, and_(response.ticket_id == Ticket.id, response.kind == ClockKind.FIRST_RESPONSE))
        .outerjoin(resolution, and_(resolution.ticket_id == Ticket.id, resolution.kind == ClockKind.RESOLUTION))
        .where(Ticket.created_at >= first, Ticket.created_at < last)
    )
    zone = policy.schedules["default"].zone
    found = []
    for row in rows:
        hours = policy.hours_of(row.team)
        local = row.created_at.astimezone(zone)
        response_seconds, response_kept = _judge(
            _clock(row._mapping, "response"), hours, now, done=row.first_reply_at is not None
        )
        resolution_seconds, resolution_kept = _judge(
            _clock(row._mapping, "resolution"), hours, now, done=row.status not in LIVE or row.finished_at is not None
        )
        found.append(
            TicketFacts(
                ticket_id=row.id,
                conversation_id=row.conversation_id,
                customer=row.customer_id or -row.conversation_id,
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


def _clock_columns(row: type[ClockRow], name: str) -> tuple[ColumnElement[Any], ...]:
    columns = (row.target_seconds, row.used_seconds, row.running_since, row.done_at)
    return tuple(column.label(f"{name}_{column.key}") for column in columns)


def _clock(of: RowMapping, name: str) -> Clock | None:
    if of[f"{name}_target_seconds"] is None:
        return None
    return Clock(
        timedelta(seconds=of[f"{name}_target_seconds"]),
        timedelta(seconds=of[f"{name}_used_seconds"]),
        of[f"{name}_running_since"],
        of[f"{name}_done_at"],
    )


def _judge(clock: Clock | None, hours: WorkingHours, now: datetime, *, done: bool) -> tuple[float | None, bool | None]:
    """Working seconds used, once it is done, and whether the promise was kept: None while it can still be."""
    if clock is None:
        return None, None
    late = clock.breached(now, hours)
    return (clock.used.total_seconds(), not late) if done else (None, False if late else None)


async def _marks(session: AsyncSession, policy: DeskPolicy, first: datetime, last: datetime) -> list[Mark]:
    rows = await session.execute(
        select(
            Message.conversation_id,
            Conversation.customer_id,
            Conversation.channel,
            Message.created_at,
            Message.step,
            Message.topic,
            Conversation.lang,
        )
        .join(Conversation, Conversation.id == Message.conversation_id)
        .where(Message.step.is_not(None), Message.created_at >= first, Message.created_at < last)
    )
    zone = policy.schedules["default"].zone
    marks = []
    for conversation_id, customer_id, channel, at, step, topic, lang in rows:
        assert step is not None  # noqa: S101 - the query says so
        local = at.astimezone(zone)
        marks.append(
            Mark(
                conversation_id=conversation_id,
                customer=customer_id or -conversation_id,
                channel=channel,
                at=at,
                step=step,
                topic=topic,
                hour=local.hour,
                day=local.date(),
                lang=lang,
            )
        )
    return marks
