"""Reads from the tables what `handoff.outcomes` counts."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, tzinfo
from typing import Any, cast

from sqlalchemy import ColumnElement, and_, func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from handoff.answered import answers, with_unsent
from handoff.clocks import ClockKind
from handoff.desk import parts
from handoff.hours import WorkingHours
from handoff.lifecycle import LIVE
from handoff.nps import NpsAnswer
from handoff.outcomes import DURABLE_AFTER, EPISODE_GAP, Facts, Mark, TicketFacts, episodes
from handoff.policy import DeskPolicy
from handoff.promoters import NpsFacts
from handoff.records import Agent, ClockRow, Conversation, Delivery, Feedback, HistoryEntry, Message, Ticket
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
    zone = policy.zone
    return Facts(
        since=since,
        until=until,
        now=now,
        tickets=[ticket for ticket in tickets if since <= ticket.created_at < until],
        episodes=[each for each in episodes(marks, tickets, now, zone) if since <= each.began_at < until],
        nps=await _nps(session, since, until, zone),
        default_topic=topics.default.id if topics else "unclear",
        directions=topics.directions if topics else {},
    )


async def _tickets(
    session: AsyncSession, policy: DeskPolicy, first: datetime, last: datetime, now: datetime
) -> list[TicketFacts]:
    rows = await _rows(session, Ticket.created_at >= first, Ticket.created_at < last)
    # What went on in an older ticket is judged by that one.
    sought: set[int] = set()
    while older := {row.merged_into for row in rows} - {None, *sought, *(row.id for row in rows)}:
        sought |= older
        for ids in parts(sorted(older)):
            rows += await _rows(session, Ticket.id.in_(ids))
    begun = await _begun_elsewhere(session, first, last)
    doubtful = await with_unsent(session, first)
    replied = {each: (replies[0].created_at) for each, replies in (await answers(session, doubtful)).items()}
    first_replies = {row.id: row.first_reply_at for row in rows} | {each: replied.get(each) for each in doubtful}
    zone = policy.zone
    hours_of = {team: policy.hours_of(team) for team in {*policy.teams, *(row.team for row in rows)}}
    found = []
    for row in rows:
        hours, local = hours_of[row.team], row.created_at.astimezone(zone)
        place, channel = begun.get(row.id, (row.conversation_id, row.channel))
        first_reply_at, over = first_replies[row.id], row.status not in LIVE or row.finished_at is not None
        response_seconds, response_kept = _judge(row[RESPONSE], hours, now, done=first_reply_at is not None)
        if row.first_reply_at is not None and first_reply_at != row.first_reply_at:
            # The clock took for an answer what did not arrive.
            waited = hours.between(row.created_at, first_reply_at or now).total_seconds()
            promised = cast(float | None, row[RESPONSE.start])
            response_seconds = waited if first_reply_at else None
            if promised is not None:
                response_kept = False if waited > promised else True if first_reply_at else None
        resolution_seconds, resolution_kept = _judge(row[RESOLUTION], hours, now, done=over)
        if row.merged_into is not None:
            resolution_seconds = resolution_kept = None  # it was not settled here
        found.append(
            TicketFacts(
                ticket_id=row.id,
                conversation_id=place,
                customer=row.customer,
                channel=channel,
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
                first_reply_at=first_reply_at,
                ended_at=row.finished_at or row.resolved_at,
                asked=row.asked_at is not None or row.feedback is not None,
                helped=None if row.feedback is None else row.feedback is Feedback.HELPED,
                reopened=row.reopened,
                first_response_seconds=response_seconds,
                first_response_on_time=response_kept,
                resolution_seconds=resolution_seconds,
                resolution_on_time=resolution_kept,
                merged_into=row.merged_into,
            )
        )
    return found


async def _rows(session: AsyncSession, *which: ColumnElement[bool]) -> list[Any]:
    """Tickets, each with its customer, its agent and the clocks that a report judges."""
    response, resolution = aliased(ClockRow), aliased(ClockRow)
    result = await session.execute(
        select(
            *(Ticket.id, Ticket.conversation_id, _CUSTOMER, Conversation.channel, Ticket.status),
            *(Ticket.reason, Ticket.topic, Ticket.team, Ticket.level, Ticket.priority, Ticket.lang, Ticket.routed_by),
            *(Ticket.created_at, Ticket.first_reply_at, Ticket.finished_at, Ticket.resolved_at, Ticket.asked_at),
            *(Ticket.feedback, Ticket.reopened, Ticket.merged_into, Agent.name.label("agent")),
            *_clock_columns(response),
            *_clock_columns(resolution),
        )
        .join(Conversation, Conversation.id == Ticket.conversation_id)
        .outerjoin(Agent, Agent.id == Ticket.assignee_id)
        .outerjoin(response, and_(response.ticket_id == Ticket.id, response.kind == ClockKind.FIRST_RESPONSE))
        .outerjoin(resolution, and_(resolution.ticket_id == Ticket.id, resolution.kind == ClockKind.RESOLUTION))
        .where(*which)
    )
    return list(result.all())


async def _begun_elsewhere(session: AsyncSession, first: datetime, last: datetime) -> dict[int, tuple[int, str]]:
    """Tickets that went on in another conversation → where they were made, and its channel: the visit was there."""
    moves = await session.execute(
        select(HistoryEntry.ticket_id, HistoryEntry.details)
        .join(Ticket, Ticket.id == HistoryEntry.ticket_id)
        .where(HistoryEntry.event == "moved", Ticket.created_at >= first, Ticket.created_at < last)
        .order_by(HistoryEntry.id.desc())
    )
    left = {row.ticket_id: int(row.details["left"]) for row in moves}  # the first move stands last
    channels: dict[int, str] = {}
    for ids in parts(sorted(set(left.values()))):
        rows = await session.execute(select(Conversation.id, Conversation.channel).where(Conversation.id.in_(ids)))
        channels |= {row.id: row.channel for row in rows}
    return {ticket_id: (place, channels[place]) for ticket_id, place in left.items() if place in channels}


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


async def _nps(session: AsyncSession, since: datetime, until: datetime, zone: tzinfo) -> list[NpsFacts]:
    """Who was asked whether he recommends the company. A question that never went out was none."""
    unsent = (Delivery.FAILED, Delivery.DISCARDED, Delivery.HELD)
    rows = await session.execute(
        select(
            *(NpsAnswer.conversation_id, NpsAnswer.ticket_id, Agent.name.label("agent"), Ticket.team, Ticket.level),
            *(Ticket.priority, Ticket.reason, NpsAnswer.channel, NpsAnswer.lang, NpsAnswer.topic, NpsAnswer.asked_at),
            *(NpsAnswer.score, NpsAnswer.answered_at, NpsAnswer.comment),
        )
        .join(Message, Message.id == NpsAnswer.message_id)
        .outerjoin(Ticket, Ticket.id == NpsAnswer.ticket_id)
        .outerjoin(Agent, Agent.id == Ticket.assignee_id)
        .where(NpsAnswer.asked_at >= since, NpsAnswer.asked_at < until)
        .where(NpsAnswer.score.is_not(None) | Message.delivery.not_in(unsent))
        .order_by(NpsAnswer.id)
    )
    found = []
    for row in rows:
        local = row.asked_at.astimezone(zone)
        found.append(NpsFacts(**row._mapping, hour=local.hour, day=local.date()))
    return found
