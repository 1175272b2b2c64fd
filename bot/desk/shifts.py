"""Reports of shifts, and of a night in which something happened, told like any notice."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import structlog
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from bot.language import DEFAULT
from bot.notifications import EVERYBODY, Notices
from bot.replies import Replies
from bot.timers import set_timer
from handoff.records import Agent, TeamNotify
from handoff.shifts import ShiftReport, boundaries, last_night, schedules_of, shift_report, supervisors
from handoff.tickets import Tickets

log = structlog.get_logger()

SHIFTS = "shifts"
"""Kind of the standing timer."""
LATE = timedelta(hours=2)
"""A report is told this long after its moment at the latest: nobody needs yesterday's."""
LOOK_AGAIN = timedelta(minutes=30)
"""Schedules and agents change."""


class Shifts:
    def __init__(self, *, tickets: Tickets, notices: Notices, replies: Replies, clock: Callable[[], datetime]) -> None:
        self._tickets = tickets
        self._notices = notices
        self._replies = replies
        self._clock = clock

    async def fire(self, session: AsyncSession, payload: Mapping[str, Any], now: datetime) -> None:
        """The standing timer: tell what became due since it fired last, and set it for what comes next."""
        last = datetime.fromisoformat(payload["last"]) if "last" in payload else now
        since, policy = max(last, now - LATE), self._tickets.policy
        upcoming = now + LOOK_AGAIN
        for team in await self._teams(session):
            schedules = await schedules_of(session, policy, team)
            found = boundaries(schedules, now - timedelta(days=7), now + LOOK_AGAIN)
            passed = [each for each in found if each.at <= now]
            upcoming = min([upcoming, *(each.at for each in found if each.at > now)])
            if passed and passed[-1].at > since:
                before = passed[-2].at if len(passed) > 1 else now - timedelta(days=1)
                report = await shift_report(
                    session, self._tickets, kind=passed[-1].kind, team=team, since=before, until=passed[-1].at
                )
                await self._tell(session, report, [team], now)
        night = last_night(policy.schedules["default"], now)
        if night is not None and night[1] > since:
            report = await shift_report(session, self._tickets, kind="night", team=None, since=night[0], until=night[1])
            if report.incidents:
                await self._tell(session, report, [EVERYBODY], now)
        await set_timer(session, SHIFTS, SHIFTS, upcoming, {"last": now.isoformat()})

    def text(self, report: ShiftReport, lang: str = DEFAULT) -> str:
        """In words."""
        policy, topics = self._tickets.policy, self._tickets.topics
        zone: ZoneInfo = policy.hours_of(report.team or "").zone
        return self._replies.render(
            "shift_report",
            lang,
            {
                "report": report,
                "team_title": policy.team(report.team).title.get(lang, report.team) if report.team else None,
                "since": f"{report.since.astimezone(zone):%d.%m %H:%M}",
                "until": f"{report.until.astimezone(zone):%d.%m %H:%M}",
                "time": lambda at: f"{at.astimezone(zone):%d.%m %H:%M}",
                "minutes": lambda line: int((line.answered_at - line.created_at).total_seconds() // 60),
                "title": lambda topic: topics.get(topic).title_in(lang),
            },
        )

    async def _teams(self, session: AsyncSession) -> list[str]:
        """Teams of which somebody would be told."""
        channels = {row.team for row in await session.scalars(select(TeamNotify)) if row.addresses}
        known = {topic.team for topic in self._tickets.topics.all.values()} | set(self._tickets.policy.teams)
        above = any(agent.notify for agent in await session.scalars(select(Agent).where(Agent.active)))
        return sorted(known if EVERYBODY in channels or above else known & channels)

    async def _tell(self, session: AsyncSession, report: ShiftReport, teams: list[str], now: datetime) -> None:
        if report.idle:
            return
        agents = await supervisors(session, report.team) if report.kind != "start" else []
        count = await self._notices.report(session, teams, agents, self.text(report), now)
        log.info("shift.reported", kind=report.kind, team=report.team, addresses=count)
