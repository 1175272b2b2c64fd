"""`handoff.tickets.Tickets` over plain objects in place of tables: the same pure parts (states, clocks, hours, policy,
assignment), joined in the same way, for benchmarks/month.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from handoff.assignment import Candidate, Waiting, assign
from handoff.clocks import Clock, ClockKind, turn
from handoff.hours import WorkingHours
from handoff.lifecycle import ACTS, TicketEvent, TicketStatus, after
from handoff.policy import LEVELS, DeskPolicy
from handoff.routing import Topics
from handoff.ticket_clocks import ESCALATES_EVERY


@dataclass
class Person:
    """An agent."""

    id: int
    name: str
    level: str
    teams: frozenset[str]
    schedule: str
    last_assigned_at: datetime | None = None


@dataclass(eq=False)
class Sheet:
    """A ticket."""

    id: int
    topic: str
    team: str
    level: str
    priority: str
    created_at: datetime
    status: TicketStatus = TicketStatus.NEW
    assignee_id: int | None = None
    preferred_id: int | None = None
    given_away: list[int] = field(default_factory=list)
    hold_until: datetime | None = None
    clocks: dict[ClockKind, Clock] = field(default_factory=dict)
    raised: dict[ClockKind, int] = field(default_factory=dict)
    look_at: dict[ClockKind, datetime | None] = field(default_factory=dict)


class Sheets:
    def __init__(self, policy: DeskPolicy, topics: Topics, alarm: Callable[[Sheet, ClockKind, str], None]) -> None:
        self.policy, self.topics = policy, topics
        self.all: dict[int, Sheet] = {}
        self.people: dict[int, Person] = {}
        self._alarm = alarm
        self._acting: dict[int, Sheet] = {}
        self._held: dict[int, Sheet] = {}

    def hand_off(self, topic_id: str, now: datetime) -> Sheet:
        topic = self.topics.get(topic_id)
        priority = self.policy.priority(topic, ["a question"], None)
        sheet = Sheet(len(self.all) + 1, topic.id, topic.team, topic.level, priority, now)
        self.all[sheet.id] = sheet
        self.clock(sheet, now)
        return sheet

    def move(self, sheet: Sheet, event: TicketEvent, now: datetime, *, answered: bool = False) -> None:
        sheet.status = after(sheet.id, sheet.status, event)
        self.clock(sheet, now, answered=answered or event is TicketEvent.FEEDBACK_ASKED)

    def change(self, sheet: Sheet, now: datetime, *, priority: str = "", topic_id: str = "") -> None:
        hours = self.policy.hours_of(sheet.team)
        if topic_id:
            topic = self.topics.get(topic_id)
            sheet.status = after(sheet.id, sheet.status, TicketEvent.TRANSFERRED)
            sheet.topic, sheet.team, sheet.assignee_id = topic.id, topic.team, None
            sheet.level = max(sheet.level, topic.level, key=LEVELS.index)
            sheet.preferred_id = None
        sheet.priority = priority or sheet.priority
        self.clock(sheet, now, hours_before=hours)

    def clock(
        self, sheet: Sheet, now: datetime, *, answered: bool = False, hours_before: WorkingHours | None = None
    ) -> None:
        hours = self.policy.hours_of(sheet.team)
        target = self.policy.target(self.topics.get(sheet.topic), sheet.priority, None)
        clocks = sheet.clocks
        if hours_before is not None:
            clocks = {
                kind: clock.moved(now, hours_before, target.of(kind) or clock.target) for kind, clock in clocks.items()
            }
        turned = turn(clocks, sheet.status, answered=answered, target=target, hours=hours, now=now)
        for kind, clock in turned.items():
            before = sheet.clocks.get(kind)
            if clock == before:
                continue
            if before is None or (clock.used == timedelta(0) and before.used):
                sheet.raised[kind] = 0
            sheet.clocks[kind] = clock
            self._look(sheet, kind)
        where = {**dict.fromkeys(ACTS, self._acting), TicketStatus.ON_HOLD: self._held}.get(sheet.status)
        for place in (self._acting, self._held):
            place.pop(sheet.id, None)
        if where is not None:
            where[sheet.id] = sheet

    def _look(self, sheet: Sheet, kind: ClockKind) -> None:
        raised = sheet.raised[kind]
        if raised >= 2 and sheet.level == LEVELS[-1]:
            sheet.look_at[kind] = None
            return
        share = {0: self.policy.warn_at, 1: 1.0}.get(raised, 1 + ESCALATES_EVERY * (raised - 1))
        sheet.look_at[kind] = sheet.clocks[kind].share_at(share, self.policy.hours_of(sheet.team))

    def raise_clocks(self, now: datetime) -> None:
        for sheet in [*self._acting.values(), *self._held.values()]:
            for kind, look_at in list(sheet.look_at.items()):
                if look_at is None or look_at > now:
                    continue
                sheet.raised[kind] += 1
                if sheet.raised[kind] > 2:
                    self.escalate(sheet, now)
                else:
                    self._alarm(sheet, kind, "warned" if sheet.raised[kind] == 1 else "breached")
                self._look(sheet, kind)

    def escalate(self, sheet: Sheet, now: datetime) -> None:
        sheet.level = LEVELS[min(LEVELS.index(sheet.level) + 1, len(LEVELS) - 1)]
        holder = self.people.get(sheet.assignee_id or 0)
        wanted = LEVELS.index(sheet.level)
        there = any(
            sheet.team in one.teams and LEVELS.index(one.level) >= wanted and self.on_duty(one, now)
            for one in self.people.values()
        )
        if holder and LEVELS.index(holder.level) < wanted and there:
            sheet.assignee_id = None

    def wake_held(self, now: datetime) -> list[Sheet]:
        live = (*self._held.values(), *self._acting.values())
        due = [sheet for sheet in live if sheet.hold_until and sheet.hold_until <= now]
        for sheet in due:
            self.move(sheet, TicketEvent.RESUMED, now)
            sheet.hold_until = None
        return due

    def on_duty(self, person: Person, now: datetime) -> bool:
        return self.policy.schedules[person.schedule].contains(now)

    def give_out(self, now: datetime) -> dict[int, int]:
        there = {person.id: self.on_duty(person, now) for person in self.people.values()}
        load = dict.fromkeys(self.people, 0)
        waiting = []
        for sheet in self._acting.values():
            if sheet.assignee_id and not there[sheet.assignee_id]:
                sheet.preferred_id, sheet.assignee_id = sheet.assignee_id, None
            if sheet.assignee_id:
                load[sheet.assignee_id] += 1
            else:
                waiting.append(
                    Waiting(
                        ticket_id=sheet.id,
                        team=sheet.team,
                        level=sheet.level,
                        lang="ru",
                        priority=sheet.priority,
                        since=sheet.created_at,
                        preferred=sheet.preferred_id,
                        not_to=frozenset(sheet.given_away),
                        late=any(sheet.raised[kind] > 1 for kind, each in sheet.clocks.items() if each.running_since),
                    )
                )
        candidates = [
            Candidate(
                agent_id=person.id,
                teams=person.teams,
                level=person.level,
                langs=frozenset(),
                on_duty=there[person.id],
                load=load[person.id],
                capacity=1000,
                last_assigned_at=person.last_assigned_at,
            )
            for person in self.people.values()
        ]
        given = dict(assign(waiting, candidates, now))
        for ticket_id, person_id in given.items():
            self.all[ticket_id].assignee_id = person_id
            self.people[person_id].last_assigned_at = now
        return given
