"""How long a presence lasts that an agent set by hand: whoever forgets it is not given tickets at night, nor left out
the next day."""

from __future__ import annotations

from datetime import datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from handoff.hours import WorkingHours
from handoff.policy import DeskPolicy
from handoff.records import Agent, Presence

_BY_HAND = select(Agent.id, Agent.schedule, Agent.zone, Agent.presence_at).where(
    Agent.presence.in_((Presence.ONLINE, Presence.AWAY)), Agent.presence_at.is_not(None)
)


@lru_cache(maxsize=1024)
def lasts_until(hours: WorkingHours, zone: ZoneInfo, since: datetime) -> datetime:
    """Until the end of the shift in which it was set; of one that was set outside a shift, until the next begins or
    the agent's day ends, whichever is sooner. Where shifts never end, days do."""
    tomorrow = datetime.combine(since.astimezone(zone).date() + timedelta(days=1), time(), zone)
    for opens, closes in hours.shifts(since - timedelta(days=1), tomorrow + timedelta(days=1)):
        if opens <= since < closes:
            return closes if closes - opens <= timedelta(days=1) else tomorrow
        if since < opens:
            return min(opens, tomorrow)
    return tomorrow


async def lapse(session: AsyncSession, policy: DeskPolicy, now: datetime) -> list[int]:
    """Give back to their schedules whose presence has lasted long enough; the ids of these agents."""
    over = []
    for row in await session.execute(_BY_HAND):
        hours = policy.schedules.get(row.schedule) or policy.schedules["default"]
        zone = ZoneInfo(row.zone) if row.zone else hours.zone
        if now >= lasts_until(hours, zone, row.presence_at):
            over.append(row.id)
    if over:
        back = update(Agent).where(Agent.id.in_(over)).values(presence=Presence.AUTO, presence_at=None)
        await session.execute(back)
    return over
