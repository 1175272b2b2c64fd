"""A month of a desk in three time zones: is every clock of every ticket right?

    python -m benchmarks.month [--tickets 10000] [--seed 0] [--tables]

Prints JSON. Without `--tables`: the pure parts of `handoff` (states, clocks, hours, policy, assignment), joined over
plain objects as `Tickets` joins them over tables (benchmarks/month_sheets.py). With it: `handoff.tickets.Tickets`
itself on a new SQLite file with the real migrations, at some 20 ms a ticket, so that 10,000 take minutes; SQLite is
called in the program's own thread, not in aiosqlite's. In both nobody speaks: no ledger, channel or model has a part.

Time is moved by the program, quarter of an hour by quarter of an hour, in each of which whatever is due happens as in
`AgentDesk.tick`. The month is 12 October to 11 November 2026, in which Berlin and New York change their clocks on
different days, and Russia and the United States have holidays; teams have breaks, weekends, a night shift and an
exception; tickets go from team to team and change their priority, and with it the promise, halfway.

What the clocks ought to say is computed by another method from what was done alone (a journal of the simulation, not
the program's history): every minute of the month is asked for its local weekday and hour in each schedule, minutes are
counted, and a ticket's story is told again as three counters. Nothing of `handoff.hours` or `handoff.clocks` is used.
`clocks`: compared, each in target, used time, beginning, end and deadline. `alarms`: warnings and breaches, each
compared with the quarter of an hour in which its share of the promise was used up. `wrong`: those that differ.
"""

from __future__ import annotations

import argparse
import asyncio
import heapq
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol
from zoneinfo import ZoneInfo

from sqlalchemy import event, select

from benchmarks.month_sheets import Person, Sheet, Sheets
from bot.database import migrate, open_database
from handoff import desk
from handoff.alarms import raise_clocks
from handoff.clocks import ClockKind
from handoff.errors import TicketStateError
from handoff.hours import WorkingHours
from handoff.lifecycle import ACTS, TicketEvent, TicketStatus
from handoff.policy import DeskPolicy, load_policy
from handoff.records import Agent, ClockRow, Feedback, HistoryEntry, Reason
from handoff.routing import Topics, load_topics, route
from handoff.staff import on_duty, put_agent
from handoff.tickets import Followed, Tickets

BEGIN = datetime(2026, 10, 12, tzinfo=UTC)
DAYS = 31
TICK = 15
"""Minutes."""
AFTER_DAYS = 25
"""So long after the month deadlines may lie."""

DESK = """
schedules:
  default: {zone: Europe/Moscow, week: {mon-fri: ["09:00-13:00", "14:00-21:00"], sat: ["10:00-16:00"]}, holidays: RU}
  berlin:
    zone: Europe/Berlin
    week: {mon-fri: ["08:30-12:15", "13:00-17:30"]}
    exceptions: {2026-10-30: ["09:00-11:00"]}
  new-york: {zone: America/New_York, week: {mon-thu: ["09:00-17:00"], fri: ["09:00-15:45"]}, holidays: US}
  night: {zone: Europe/Berlin, week: {mon-sun: ["22:00-06:00"]}}
teams:
  - {id: first-line, hours: default, escalates_to: service}
  - {id: service, hours: berlin}
  - {id: payments, hours: new-york}
  - {id: nights, hours: night}
promises:
  - {priority: urgent, first_response: 5m, next_response: 15m, resolution: 2h}
  - {priority: high, first_response: 15m, next_response: 20m, resolution: 4h}
  - {topic: returns, first_response: 30m, resolution: 20h}
  - {next_response: 30m, resolution: 12h}
"""
TOPICS = """
default: orders
topics:
  - {id: orders, team: first-line, expected_minutes: 10}
  - {id: returns, team: service, expected_minutes: 30}
  - {id: payment, team: payments, priority: high, expected_minutes: 15}
  - {id: delivery, team: nights, priority: low, expected_minutes: 45}
"""
HOLIDAYS = {"default": {date(2026, 11, 4)}, "new-york": {date(2026, 10, 12), date(2026, 11, 11)}}
"""By hand: Unity Day in Russia; Columbus Day and Veterans Day in the United States."""
WEEKS: Mapping[str, tuple[str, Mapping[str, Sequence[tuple[str, str]]]]] = {
    "default": ("Europe/Moscow", {"01234": [("09:00", "13:00"), ("14:00", "21:00")], "5": [("10:00", "16:00")]}),
    "berlin": ("Europe/Berlin", {"01234": [("08:30", "12:15"), ("13:00", "17:30")]}),
    "new-york": ("America/New_York", {"0123": [("09:00", "17:00")], "4": [("09:00", "15:45")]}),
    "night": ("Europe/Berlin", {"0123456": [("22:00", "24:00"), ("00:00", "06:00")]}),
}
"""Zone and weekdays (Monday is 0) → hours."""
EXCEPTIONS = {("berlin", date(2026, 10, 30)): [("09:00", "11:00")]}
SCHEDULE_OF = {"first-line": "default", "service": "berlin", "payments": "new-york", "nights": "night"}
TEAM_OF = {"orders": "first-line", "returns": "service", "payment": "payments", "delivery": "nights"}
PROMISED = {
    "urgent": (5, 15, 120),
    "high": (15, 20, 240),
    "returns": (30, None, 1200),
    "orders": (10, 30, 720),
    "payment": (15, 30, 720),
    "delivery": (45, 30, 720),
}
"""Minutes of first response, next response and resolution, by priority or else by topic."""
Seen = tuple[int, float, datetime | None, datetime | None, datetime | None]
"""Of a clock: target and used seconds, running since, done at, due at."""
FOLLOWED = (Followed.ENDED, Followed.REOPENED)
Alarmed = tuple[int, ClockKind, str, datetime]
FIRST, NEXT, RESOLUTION = ClockKind.FIRST_RESPONSE, ClockKind.NEXT_RESPONSE, ClockKind.RESOLUTION
WARN_AT = 0.75


# What ought to be


class Minutes:
    """The working minutes of one schedule, each of the month asked by itself."""

    def __init__(self, name: str) -> None:
        zone, week = WEEKS[name]
        local = ZoneInfo(zone)
        works = []
        for n in range((DAYS + AFTER_DAYS) * 1440):
            at = (BEGIN + timedelta(minutes=n)).astimezone(local)
            ordinary = (hours for days, hours in week.items() if str(at.weekday()) in days)
            intervals = EXCEPTIONS.get((name, at.date())) or next(ordinary, ())
            free = at.date() in HOLIDAYS.get(name, ())
            clock = f"{at.hour:02}:{at.minute:02}"
            works.append(not free and any(begin <= clock < end for begin, end in intervals))
        self.before = list(accumulate(works, initial=0))
        self.end_of = [0]
        """The minute by whose end so many were worked."""
        self.end_of += [n + 1 for n, working in enumerate(works) if working]

    def between(self, begin: int, end: int) -> int:
        return self.before[end] - self.before[begin]

    def after(self, begin: int, working: float) -> float:
        """The moment, in minutes, by which so much more was worked."""
        if working <= 0:
            return begin
        worked = self.before[begin] + working
        whole = int(worked)
        if whole == worked:
            return self.end_of[whole]
        return self.end_of[whole + 1] - 1 + (worked - whole)


@dataclass
class Counted:
    """One clock, told again: the minutes used so far, and since when it runs."""

    target: int
    used: int = 0
    since: int | None = None
    done: int | None = None
    raised: int = 0

    def run(self, minutes: Minutes, now: int, runs: bool) -> None:
        if self.since is not None:
            self.used += minutes.between(self.since, now)
        self.since = now if runs else None


@dataclass
class Story:
    """What was done with one ticket, and what its clocks ought to say after each step."""

    topic: str
    priority: str
    team: str
    clocks: dict[ClockKind, Counted] = field(default_factory=dict)

    def minutes(self, all_minutes: Mapping[str, Minutes]) -> Minutes:
        return all_minutes[SCHEDULE_OF[self.team]]

    def promised(self) -> dict[ClockKind, int | None]:
        found = PROMISED[self.priority if self.priority in ("urgent", "high") else self.topic]
        return dict(zip((FIRST, NEXT, RESOLUTION), found, strict=True))


class Judge:
    """Tells every story again, and compares."""

    def __init__(self) -> None:
        self.minutes = {name: Minutes(name) for name in WEEKS}
        self.stories: dict[int, Story] = {}
        self.acting: set[int] = set()
        """Where the next word is a person's."""
        self.alarms: Counter[tuple[int, ClockKind, str, int]] = Counter()

    def begin(self, ticket_id: int, topic: str, priority: str, now: int) -> None:
        story = self.stories[ticket_id] = Story(topic, priority, TEAM_OF[topic])
        self.acting.add(ticket_id)
        promised = story.promised()
        for kind in (FIRST, RESOLUTION):
            if (target := promised[kind]) is not None:
                story.clocks[kind] = Counted(target, since=now)

    def works(self, ticket_id: int, now: int) -> None:
        """The next word is a person's, from now on."""
        story = self.stories[ticket_id]
        if ticket_id in self.acting:
            return
        self.acting.add(ticket_id)
        minutes, clocks = story.minutes(self.minutes), story.clocks
        first = clocks.get(FIRST)
        if first and first.done is None:
            first.run(minutes, now, True)
        elif (target := story.promised()[NEXT]) is not None or NEXT in clocks:
            known = clocks.get(NEXT)
            if known and known.done is None:
                known.run(minutes, now, True)
            else:
                clocks[NEXT] = Counted(target or (known.target if known else 0), since=now)
        if resolution := clocks.get(RESOLUTION):
            resolution.done, resolution.target = None, story.promised()[RESOLUTION] or resolution.target
            resolution.run(minutes, now, True)

    def stands(self, ticket_id: int, now: int, *, answered: bool, over: bool) -> None:
        """Nobody has to act now: the customer was answered, something is waited for, or it is over."""
        story = self.stories[ticket_id]
        minutes = story.minutes(self.minutes)
        self.acting.discard(ticket_id)
        for kind, clock in story.clocks.items():
            if clock.done is not None:
                continue
            clock.run(minutes, now, False)
            if over or (answered and kind is not RESOLUTION):
                clock.done = now

    def changes(self, ticket_id: int, now: int, *, topic: str = "", priority: str = "") -> None:
        """Another team or another promise: what was used stays as the hours of then counted it, and what is done is
        judged by what was promised then."""
        story = self.stories[ticket_id]
        for clock in story.clocks.values():
            if clock.since is not None:
                clock.run(story.minutes(self.minutes), now, True)
        if topic:
            story.topic, story.team = topic, TEAM_OF[topic]
        story.priority = priority or story.priority
        for kind, target in story.promised().items():
            known = story.clocks.get(kind)
            if known is not None and known.done is None and target is not None:
                known.target = target
        # Who waits for an answer is promised one from now on, where nothing was promised before.
        first, following = story.clocks.get(FIRST), story.promised()[NEXT]
        if ticket_id in self.acting and first and first.done is not None and following and NEXT not in story.clocks:
            story.clocks[NEXT] = Counted(following, since=now)

    def tick(self, now: int) -> None:
        """What has to be said by now of the clocks that run; of each one thing at a time."""
        for ticket_id in sorted(self.acting):
            story = self.stories[ticket_id]
            minutes = story.minutes(self.minutes)
            for kind, clock in story.clocks.items():
                if clock.since is None or clock.raised > 1:
                    continue
                share, alarm = ((WARN_AT, "warned"), (1.0, "breached"))[clock.raised]
                if minutes.after(clock.since, clock.target * share - clock.used) <= now:
                    clock.raised += 1
                    self.alarms[ticket_id, kind, alarm, now] += 1


# What is done


class Place(Protocol):
    """Where the tickets are: in tables or on plain sheets. An act that comes too late raises TicketStateError."""

    def tick(self) -> AbstractAsyncContextManager[None]: ...
    async def expect(self, ticket_ids: Sequence[int]) -> None:
        """Something is about to be done with these."""
        ...

    async def by_itself(self, now: datetime) -> tuple[Sequence[int], Sequence[int]]:
        """Wake the held, speak of the clocks, give out: the tickets that woke, and those that were given."""
        ...

    async def arrives(self, chat: int, topic: str, now: datetime) -> tuple[int, str]:
        """The new ticket, and its priority."""
        ...

    async def status(self, ticket_id: int) -> tuple[TicketStatus, bool]:
        """And whether somebody has it."""
        ...

    async def replies(self, ticket_id: int, now: datetime) -> bool: ...
    async def writes(self, ticket_id: int, now: datetime) -> None: ...
    async def does(self, act: str, ticket_id: int, now: datetime, value: Any = None) -> None: ...
    async def clocks(self) -> dict[tuple[int, ClockKind], Seen]: ...
    async def alarms(self) -> Counter[Alarmed]: ...
    async def close(self) -> None: ...


class InTables:
    """The program's own way."""

    def __init__(self, folder: Path, policy: DeskPolicy, topics: Topics) -> None:
        self.topics = topics
        self.tickets = Tickets(policy, topics)
        self.engine, self.sessions = open_database(f"sqlite+aiosqlite:///{folder / 'month.sqlite3'}")
        event.listen(self.engine.sync_engine, "connect", _call_at_once)
        self.agents: dict[int, Agent] = {}

    async def open(self) -> None:
        await migrate(self.engine)
        async with self.tick():
            for name, level, team, schedule in staff():
                agent = await put_agent(
                    self.session, name, now=BEGIN, teams=[team], level=level, capacity=1000, schedule=schedule
                )
                self.agents[agent.id] = agent

    @asynccontextmanager
    async def tick(self) -> AsyncIterator[None]:
        async with self.sessions.begin() as self.session:
            yield

    async def expect(self, ticket_ids: Sequence[int]) -> None:
        await desk.lock_tickets(self.session, ticket_ids, clocks=True)

    async def by_itself(self, now: datetime) -> tuple[Sequence[int], Sequence[int]]:
        woken = [ticket.id for ticket in await self.tickets.wake_held(self.session, now=now)]
        await raise_clocks(self.session, self.tickets, now=now, limit=10_000)
        return woken, list(await self.tickets.holders.give_out(self.session, now=now))

    async def arrives(self, chat: int, topic: str, now: datetime) -> tuple[int, str]:
        conversation = await desk.open_conversation(
            self.session, channel="site", account="", chat_id=str(chat), now=now
        )
        ticket = await self.tickets.hand_off(
            self.session,
            conversation,
            reason=Reason.LOW_CONFIDENCE,
            route=route(self.topics, None, [], by_intent=(topic, 1.0)),
            texts=["a question"],
            now=now,
        )
        return ticket.id, ticket.priority

    async def status(self, ticket_id: int) -> tuple[TicketStatus, bool]:
        ticket = await desk.get_ticket(self.session, ticket_id)
        return ticket.status, ticket.assignee_id is not None

    async def replies(self, ticket_id: int, now: datetime) -> bool:
        ticket = await desk.get_ticket(self.session, ticket_id)
        agent = self.agents.get(ticket.assignee_id or 0)
        if agent is None or not on_duty(self.tickets.policy, agent, now):
            return False
        await self.tickets.reply(self.session, ticket, "an answer", agent=agent.name, now=now)
        return True

    async def writes(self, ticket_id: int, now: datetime) -> None:
        ticket = await desk.get_ticket(self.session, ticket_id)
        conversation = await desk.get_conversation(self.session, ticket.conversation_id)
        if await self.tickets.customer_wrote(self.session, conversation, now=now) is None:
            raise TicketStateError(ticket_id, ticket.status, "written to")

    async def does(self, act: str, ticket_id: int, now: datetime, value: Any = None) -> None:
        ticket = await desk.get_ticket(self.session, ticket_id)
        named: dict[str, Any] = {"now": now}
        if act == "give_feedback":
            if await self.tickets.give_feedback(self.session, ticket, value, now=now) not in FOLLOWED:
                raise TicketStateError(ticket_id, ticket.status, "judged")  # his word changed nothing
            return
        if act == "transfer":
            await self.tickets.transfer(self.session, ticket, value, why="theirs", agent="agent", now=now)
            return
        named |= {"hold": {"task": "a task", "until": value}, "change": {"priority": value}}.get(act, {})
        named |= {"why": "left"} if act == "close" else {}
        await getattr(self.tickets, act)(self.session, ticket, agent="agent", **named)

    async def clocks(self) -> dict[tuple[int, ClockKind], Seen]:
        async with self.tick():
            return {
                (row.ticket_id, row.kind): (
                    *(row.target_seconds, row.used_seconds),
                    *(row.running_since, row.done_at, row.due_at),
                )
                for row in await self.session.scalars(select(ClockRow))
            }

    async def alarms(self) -> Counter[Alarmed]:
        said: Counter[Alarmed] = Counter()
        async with self.tick():
            query = select(HistoryEntry).where(HistoryEntry.event.in_(("warned", "breached")))
            for entry in await self.session.scalars(query):
                said[entry.ticket_id, ClockKind(entry.details["clock"]), entry.event, entry.at] += 1
        return said

    async def close(self) -> None:
        await self.engine.dispose()


class OnSheets:
    """The pure parts alone."""

    def __init__(self, policy: DeskPolicy, topics: Topics) -> None:
        self.sheets = Sheets(policy, topics, self._hear)
        self.said: Counter[Alarmed] = Counter()
        self.now = BEGIN
        for number, (name, level, team, schedule) in enumerate(staff(), 1):
            self.sheets.people[number] = Person(number, name, level, frozenset({team}), schedule)

    def _hear(self, sheet: Sheet, kind: ClockKind, alarm: str) -> None:
        self.said[sheet.id, kind, alarm, self.now] += 1

    @asynccontextmanager
    async def tick(self) -> AsyncIterator[None]:
        yield

    async def expect(self, ticket_ids: Sequence[int]) -> None:
        pass

    async def by_itself(self, now: datetime) -> tuple[Sequence[int], Sequence[int]]:
        self.now = now
        woken = [sheet.id for sheet in self.sheets.wake_held(now)]
        self.sheets.raise_clocks(now)
        return woken, list(self.sheets.give_out(now))

    async def arrives(self, chat: int, topic: str, now: datetime) -> tuple[int, str]:
        sheet = self.sheets.hand_off(topic, now)
        return sheet.id, sheet.priority

    async def status(self, ticket_id: int) -> tuple[TicketStatus, bool]:
        sheet = self.sheets.all[ticket_id]
        return sheet.status, sheet.assignee_id is not None

    async def replies(self, ticket_id: int, now: datetime) -> bool:
        sheet = self.sheets.all[ticket_id]
        if not sheet.assignee_id or not self.sheets.on_duty(self.sheets.people[sheet.assignee_id], now):
            return False
        self.sheets.move(sheet, TicketEvent.AGENT_REPLIED, now, answered=True)
        return True

    async def writes(self, ticket_id: int, now: datetime) -> None:
        self.sheets.move(self.sheets.all[ticket_id], TicketEvent.CUSTOMER_WROTE, now)

    async def does(self, act: str, ticket_id: int, now: datetime, value: Any = None) -> None:
        sheet = self.sheets.all[ticket_id]
        if act in ("change", "transfer"):
            self.sheets.change(sheet, now, **{"priority" if act == "change" else "topic_id": value})
            return
        moves = {
            "finish": "FEEDBACK_ASKED",
            "resolve": "RESOLVED",
            "close": "CLOSED",
            "reopen": "REOPENED",
            "hold": "HELD",
        }
        move = value.name if act == "give_feedback" else moves[act]
        self.sheets.move(sheet, TicketEvent[move], now)
        sheet.hold_until = value if act == "hold" else None
        if value is Feedback.NOT_HELPED:
            self.sheets.escalate(sheet, now)

    async def clocks(self) -> dict[tuple[int, ClockKind], Seen]:
        policy = self.sheets.policy
        return {
            (sheet.id, kind): (
                *(int(clock.target.total_seconds()), clock.used.total_seconds()),
                *(clock.running_since, clock.done_at, clock.due_at(policy.hours_of(sheet.team))),
            )
            for sheet in self.sheets.all.values()
            for kind, clock in sheet.clocks.items()
        }

    async def alarms(self) -> Counter[Alarmed]:
        return self.said

    async def close(self) -> None:
        pass


def staff() -> Iterator[tuple[str, str, str, str]]:
    """Name, level, team and schedule of everybody."""
    for team, schedule in SCHEDULE_OF.items():
        for n, level in enumerate(("L1", "L1", "L1", "L2", "L2", "L3", "supervisor", "supervisor")):
            yield f"{team} {n}", level, team, schedule


class Month:
    """Tickets come, agents act, time passes; the judge hears of everything."""

    def __init__(self, place: Place, tickets: int, seed: int) -> None:
        self.place = place
        self.random = random.Random(seed)  # noqa: S311 - a simulation
        self.judge = Judge()
        self.heap: list[tuple[int, int, str, int]] = []
        self.count = 0
        self.acts: Counter[str] = Counter()
        self.replies_of: Counter[int] = Counter()
        for _ in range(tickets):
            self.plan(self.random.randrange(DAYS * 1440), "arrives", 0)

    def plan(self, minute: int, act: str, ticket_id: int) -> None:
        self.count += 1
        heapq.heappush(self.heap, (minute, self.count, act, ticket_id))

    async def run(self) -> None:
        for minute in range(TICK, DAYS * 1440 + 1, TICK):
            async with self.place.tick():
                due = []
                while self.heap and self.heap[0][0] <= minute:
                    due.append(heapq.heappop(self.heap))
                await self.place.expect([ticket_id for _, _, _, ticket_id in due if ticket_id])
                for planned in due:
                    heapq.heappush(self.heap, planned)
                while self.heap and self.heap[0][0] <= minute:
                    at, _, act, ticket_id = heapq.heappop(self.heap)
                    try:
                        await getattr(self, act)(ticket_id, at, BEGIN + timedelta(minutes=at))
                        self.acts[act] += 1
                    except TicketStateError:  # somebody was quicker, and nothing is written
                        self.acts[f"{act}: too late"] += 1
                woken, given = await self.place.by_itself(BEGIN + timedelta(minutes=minute))
                for ticket_id in woken:
                    self.judge.works(ticket_id, minute)
                self.judge.tick(minute)
                for ticket_id in given:
                    self.plan(minute + self.random.randint(2, 50), "replies", ticket_id)

    async def arrives(self, _: int, minute: int, now: datetime) -> None:
        topic = self.random.choice(tuple(TEAM_OF))
        ticket_id, priority = await self.place.arrives(self.acts["arrives"], topic, now)
        self.judge.begin(ticket_id, topic, priority, minute)
        chance = self.random.random()
        if chance < 0.2:
            self.plan(minute + self.random.randint(1, 600), "changes" if chance < 0.1 else "transfers", ticket_id)

    async def replies(self, ticket_id: int, minute: int, now: datetime) -> None:
        status, _ = await self.place.status(ticket_id)
        if status not in ACTS or not await self.place.replies(ticket_id, now):
            # Answered already, or his shift is over: the next quarter of an hour gives it to somebody else.
            raise TicketStateError(ticket_id, status, "answered")
        self.judge.stands(ticket_id, minute, answered=True, over=False)
        self.replies_of[ticket_id] += 1
        chance = self.random.random() if self.replies_of[ticket_id] < 4 else 0.5
        if chance < 0.42:
            self.plan(minute + self.random.randint(1, 2000), "writes", ticket_id)
        elif chance < 0.8:
            self.plan(minute + self.random.randint(1, 20), "finishes", ticket_id)
        elif chance < 0.9:
            self.plan(minute + self.random.randint(1, 20), "holds", ticket_id)
        else:
            self.plan(minute + self.random.randint(1000, 5000), "closes", ticket_id)

    async def _opened(self, ticket_id: int, minute: int) -> None:
        status, taken = await self.place.status(ticket_id)
        if status is TicketStatus.OPEN:
            self.judge.works(ticket_id, minute)
            if taken:
                self.plan(minute + self.random.randint(1, 60), "replies", ticket_id)

    async def writes(self, ticket_id: int, minute: int, now: datetime) -> None:
        await self.place.writes(ticket_id, now)
        await self._opened(ticket_id, minute)

    async def finishes(self, ticket_id: int, minute: int, now: datetime) -> None:
        await self.place.does("finish", ticket_id, now)
        self.judge.stands(ticket_id, minute, answered=True, over=True)
        chance = self.random.random()
        verdict = "thanks" if chance < 0.5 else "complains" if chance < 0.65 else "resolves"
        self.plan(minute + (self.random.randint(60, 120) if chance < 0.65 else 2880), verdict, ticket_id)

    async def thanks(self, ticket_id: int, minute: int, now: datetime) -> None:
        await self.place.does("give_feedback", ticket_id, now, Feedback.HELPED)
        self.judge.stands(ticket_id, minute, answered=False, over=True)
        if self.random.random() < 0.05:
            self.plan(minute + self.random.randint(60, 3000), "reopens", ticket_id)

    async def complains(self, ticket_id: int, minute: int, now: datetime) -> None:
        await self.place.does("give_feedback", ticket_id, now, Feedback.NOT_HELPED)
        await self._opened(ticket_id, minute)

    async def reopens(self, ticket_id: int, minute: int, now: datetime) -> None:
        await self.place.does("reopen", ticket_id, now)
        await self._opened(ticket_id, minute)

    async def resolves(self, ticket_id: int, minute: int, now: datetime) -> None:
        await self.place.does("resolve", ticket_id, now)
        self.judge.stands(ticket_id, minute, answered=False, over=True)

    async def closes(self, ticket_id: int, minute: int, now: datetime) -> None:
        await self.place.does("close", ticket_id, now)
        self.judge.stands(ticket_id, minute, answered=False, over=True)

    async def holds(self, ticket_id: int, minute: int, now: datetime) -> None:
        await self.place.does("hold", ticket_id, now, now + timedelta(minutes=self.random.randint(30, 6000)))
        self.judge.stands(ticket_id, minute, answered=False, over=False)

    async def changes(self, ticket_id: int, minute: int, now: datetime) -> None:
        priority = self.random.choice(("low", "normal", "high", "urgent"))
        await self.place.does("change", ticket_id, now, priority)
        self.judge.changes(ticket_id, minute, priority=priority)

    async def transfers(self, ticket_id: int, minute: int, now: datetime) -> None:
        topic = self.random.choice(tuple(TEAM_OF))
        await self.place.does("transfer", ticket_id, now, topic)
        self.judge.changes(ticket_id, minute, topic=topic)
        await self._opened(ticket_id, minute)  # the other team's word is next, also after an answer


def _call_at_once(connection: Any, _record: Any) -> None:
    """Let SQLite be called in this thread."""

    async def execute(function: Callable[..., object], *arguments: object, **named: object) -> object:
        return function(*arguments, **named)

    connection.driver_connection._execute = execute


async def compare(place: Place, judge: Judge) -> tuple[int, list[str]]:
    """How many clocks there are, and what differs."""

    def moment(minute: float | None) -> datetime | None:
        return None if minute is None else BEGIN + timedelta(minutes=minute)

    found = await place.clocks()
    wanted: dict[tuple[int, ClockKind], Seen] = {}
    for ticket_id, story in judge.stories.items():
        minutes = story.minutes(judge.minutes)
        for kind, clock in story.clocks.items():
            due = None if clock.since is None else minutes.after(clock.since, clock.target - clock.used)
            since, done = moment(clock.since), moment(clock.done)
            wanted[ticket_id, kind] = (clock.target * 60, clock.used * 60.0, since, done, moment(due))
    wrong = [
        f"ticket {key[0]} {key[1]}: {found.get(key)} ought to be {wanted.get(key)}"
        for key in sorted(found.keys() | wanted.keys())
        if found.get(key) != wanted.get(key)
    ]
    said = await place.alarms()
    told: Counter[Alarmed] = Counter()
    for (ticket_id, kind, alarm, minute), times in judge.alarms.items():
        told[ticket_id, kind, alarm, BEGIN + timedelta(minutes=minute)] = times
    wrong += [
        f"alarm {alarm}: said {said[alarm]} times, not {told[alarm]}"
        for alarm in sorted(said.keys() | told.keys())
        if said[alarm] != told[alarm]
    ]
    return len(wanted), wrong


async def simulate(folder: Path, tickets: int, seed: int, *, tables: bool) -> dict[str, object]:
    (folder / "desk.yml").write_text(DESK)
    (folder / "topics.yml").write_text(TOPICS)
    policy, topics = load_policy(folder / "desk.yml", WorkingHours()), load_topics(folder / "topics.yml")
    started = time.perf_counter()
    place: Place
    if tables:
        place = InTables(folder, policy, topics)
        await place.open()
    else:
        place = OnSheets(policy, topics)
    month = Month(place, tickets, seed)
    try:
        await month.run()
        clocks, wrong = await compare(place, month.judge)
    finally:
        await place.close()
    for line in wrong[:10]:
        print(line, file=sys.stderr)
    return {
        "tickets": tickets,
        "tables": tables,
        "clocks": clocks,
        "alarms": sum(month.judge.alarms.values()),
        "wrong": len(wrong),
        "seconds": round(time.perf_counter() - started, 1),
        "acts": dict(month.acts.most_common()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="A month of a desk, every clock compared")
    parser.add_argument("--tickets", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tables", action="store_true", help="through the tables, as the program does")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="otvet-month-") as folder:
        result = asyncio.run(simulate(Path(folder), arguments.tickets, arguments.seed, tables=arguments.tables))
    print(json.dumps(result, indent=1))
    if result["wrong"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
