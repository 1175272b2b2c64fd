"""Reports by shift, and of a night in which something happened."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from databases import MakeDatabase
from sqlalchemy import select
from test_agent_desk import Story

from bot.database import migrate
from bot.desk.shifts import SHIFTS, Shifts
from bot.notifications import Notice, Notices
from bot.timers import Timers
from handoff.clocks import ClockKind
from handoff.hours import Interval, WorkingHours
from handoff.records import TeamNotify
from handoff.shifts import boundaries, clocks_of, last_night, shift_report
from handoff.staff import put_agent

MOSCOW = ZoneInfo("Europe/Moscow")
MONDAY = datetime(2027, 3, 1, tzinfo=MOSCOW)


def hours(*intervals: tuple[int, int], zone: ZoneInfo = MOSCOW) -> WorkingHours:
    return WorkingHours({day: [Interval(time(a), time(b % 24)) for a, b in intervals] for day in range(7)}, zone)


def found(*schedules: WorkingHours, of_day: datetime = MONDAY) -> list[tuple[str, int]]:
    return [
        (each.kind, each.at.astimezone(MOSCOW).hour)
        for each in boundaries(schedules, of_day, of_day + timedelta(days=1))
    ]


def test_a_lunch_is_a_break_and_no_end() -> None:
    assert found(hours((9, 13), (14, 18))) == [("start", 9), ("end", 18)]


def test_day_and_night_shifts_hand_over_to_one_another() -> None:
    assert found(hours((8, 20)), hours((20, 8))) == [("handover", 8), ("handover", 20)]


def test_who_works_round_the_clock_has_no_shifts() -> None:
    assert found(hours((0, 24))) == []
    assert last_night(hours((0, 24)), MONDAY) is None


def test_a_shift_over_the_turn_of_the_year_is_one() -> None:
    eve = datetime(2026, 12, 31, 12, tzinfo=MOSCOW)
    assert found(hours((20, 8)), of_day=eve) == [("start", 20), ("end", 8)]
    (span,) = hours((20, 8)).spans(eve, eve + timedelta(days=1))
    assert span[1] - span[0] == timedelta(hours=12)


def test_a_night_is_as_long_as_it_really_is_when_the_clocks_change() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    night = last_night(hours((9, 21), zone=berlin), datetime(2027, 3, 28, 12, tzinfo=berlin))
    assert night is not None
    assert night[1] - night[0] == timedelta(hours=11)


class Reported(Story):
    def watch(self) -> None:
        self.notices = Notices(
            tickets=self.desk.tickets, replies=self.desk._replies, clock=self.clock, sessions=self.sessions
        )
        self.shifts = Shifts(
            tickets=self.desk.tickets, notices=self.notices, replies=self.desk._replies, clock=self.clock
        )
        self.timers = Timers(self.sessions, self.clock)
        self.timers.register(SHIFTS, self.shifts.fire, standing=True)

    def at(self, moment: datetime) -> None:
        self.clock.ahead = moment - datetime.now(UTC)

    async def until(self, moment: datetime, **step: float) -> list[str]:
        """Let time pass; the reports that were told."""
        before = len(await self.told())
        while self.clock() < moment:
            await self.wait(**(step or {"minutes": 20}))
            await self.timers.fire_due()
        return [text for _, text in (await self.told())[before:]]

    async def told(self) -> list[tuple[str, str]]:
        async with self.sessions.begin() as session:
            rows = await session.scalars(select(Notice).where(Notice.event == "report").order_by(Notice.id))
            return [(row.recipient, row.text) for row in rows]

    async def agent(self, name: str, **fields: Any) -> None:
        async with self.sessions.begin() as session:
            await put_agent(session, name, now=self.clock(), **{"teams": ["first-line"], **fields})


@pytest.fixture
async def story(tmp_path: Path, make_database: MakeDatabase) -> AsyncIterator[Reported]:
    made = Reported(tmp_path, database=make_database())
    await migrate(made.engine)
    made.at(MONDAY + timedelta(hours=10))
    made.watch()
    async with made.sessions.begin() as session:
        await session.merge(TeamNotify(team="first-line", addresses=["json://127.0.0.1:1/a"]))
        await session.merge(TeamNotify(team="*", addresses=["json://127.0.0.1:1/b"]))
    await made.timers._set_standing()
    await made.timers.fire_due()
    yield made
    await made.engine.dispose()


async def test_the_end_of_a_shift_hands_over_what_is_open(story: Reported) -> None:
    await story.agent("Anna")
    await story.agent("Vera", level="supervisor", notify=["json://127.0.0.1:1/vera"], capacity=1)
    for chat in ("a", "b"):
        await story.hear("a person please", chat=chat)
    await story.act("reply", 1, "Looking", agent="Anna")
    await story.act("resolve", 1, agent="Anna")
    assert await story.until(MONDAY + timedelta(hours=20, minutes=30)) == []
    told = await story.until(MONDAY + timedelta(hours=21, minutes=30))
    assert told
    report = told[0]
    assert report.startswith("Конец смены: Первая линия, 01.03 09:00 – 01.03 21:00")
    assert "Новых 2, ответов 1, решено 1" in report
    assert re.search(r"№ 2 .*, ПРОСРОЧЕНО", report)
    assert "№ 1 " not in report
    assert "на смене: Anna, Vera" in report
    assert {recipient for recipient, _ in await story.told()} >= {"team:first-line", "agent:2"}


async def test_the_beginning_of_a_shift_shows_the_queue_once_and_an_idle_one_says_nothing(story: Reported) -> None:
    assert await story.until(MONDAY + timedelta(hours=23)) == [], "nothing happened"
    await story.hear("a person please")
    told = await story.until(MONDAY + timedelta(hours=35))
    begun = [text for text in told if text.startswith("Начало смены: Первая линия")]
    assert len(begun) == 1
    assert "Открыто 1, без исполнителя 1" in begun[0]


async def test_a_night_incident_is_reported_in_the_morning_with_how_it_was_met(story: Reported) -> None:
    await story.agent("Nikita", presence="online")
    await story.until(MONDAY + timedelta(hours=23))
    await story.hear("urgent, there is a gas leak, a person please")
    await story.wait(seconds=5)
    await story.wait(minutes=4)
    await story.act("reply", 1, "Call 112", agent="Nikita")
    told = await story.until(MONDAY + timedelta(hours=34))
    (night,) = [text for text in told if text.startswith("Отчёт за ночь: все группы, 01.03 21:00 – 02.03 09:00")]
    assert re.search(r"№ 1 .*, urgent, .*ответили за [45] мин", night)
    assert "Nikita" in night


async def test_a_quiet_night_makes_no_report(story: Reported) -> None:
    await story.until(MONDAY + timedelta(hours=23))
    await story.hear("where is my order")
    told = await story.until(MONDAY + timedelta(hours=34))
    assert not [text for text in told if text.startswith("Отчёт за ночь")]


async def test_after_a_long_stop_no_old_report_is_told(story: Reported) -> None:
    await story.hear("a person please")
    await story.act("reply", 1, "Looking", agent="Anna")
    assert await story.until(MONDAY + timedelta(days=2, hours=15), hours=53) == []


async def test_the_report_can_be_had_for_any_time_and_as_data(story: Reported) -> None:
    await story.hear("a person please")
    async with story.sessions.begin() as session:
        report = await shift_report(
            session,
            story.desk.tickets,
            kind="now",
            team=None,
            since=story.clock() - timedelta(hours=1),
            until=story.clock(),
        )
    data = report.as_json()
    assert (data["counts"]["created"], data["unassigned"], data["open"][0]["ticket_id"]) == (1, 1, 1)
    assert "Shift report: all teams" in story.shifts.text(report, "en")


async def test_a_report_may_be_about_more_tickets_than_one_statement_takes(story: Reported) -> None:
    await story.hear("a person please")
    async with story.sessions.begin() as session:
        clocks = await clocks_of(session, range(1, 70_000))
    assert {row.kind for row in clocks[1]} == {ClockKind.FIRST_RESPONSE, ClockKind.RESOLUTION}
