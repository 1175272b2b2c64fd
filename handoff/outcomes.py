"""What became of what customers asked, counted honestly. Pure: rows in, figures out; `handoff.reports` reads the rows.

An **episode** is one visit of a customer in one channel: everything until he was silent for a day, or a ticket ended.
It counts when he asked for something; greetings and thanks alone do not, nor does what the company wrote unasked.
Each episode is either handed off (a ticket was made, whoever ended it and however soon) or contained, so that the two
shares add up to 1. And each has one outcome:

- confirmed: the customer said that it helped, and asked for nothing after that;
- assumed: he was answered, and said nothing more. Silence is no praise: this number stands by itself;
- reopened: it was opened again, he said that it did not help, or he came back in the same channel with the same topic
  within seven days;
- returned_elsewhere: the same in another channel;
- abandoned: he left, or was closed, without an answer; what a person wrote and he never got is none;
- running: it is not over.

A ticket that was merged into another is one matter with it: its episode has the outcome of that one, and is no return.

A settled episode (confirmed or assumed) is durable when seven days have passed and he has not come back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, date, datetime, timedelta, tzinfo
from enum import StrEnum
from itertools import pairwise
from math import ceil
from operator import attrgetter, itemgetter
from typing import NamedTuple

from handoff import promoters
from handoff.lifecycle import LIVE, TicketStatus
from handoff.promoters import NpsFacts, NpsFigures

EPISODE_GAP = timedelta(hours=24)
"""So long a silence ends an episode that people had no part in."""
DURABLE_AFTER = timedelta(days=7)
NIGHT = frozenset({22, 23, 0, 1, 2, 3, 4, 5})
"""Local hours, as Russian labour law has them."""


class Step(StrEnum):
    """What the assistant did for the customer in one message."""

    ANSWERED = "answered"
    """An article, or a reply that gives what was asked for."""
    ASKED = "asked"
    """A question back, or that it can't do this."""
    CONFIRMED = "confirmed"
    """The thanks for the customer's word that it helped."""


class Outcome(StrEnum):
    CONFIRMED = "confirmed"
    ASSUMED = "assumed"
    REOPENED = "reopened"
    RETURNED_ELSEWHERE = "returned_elsewhere"
    ABANDONED = "abandoned"
    RUNNING = "running"


# Rows are named tuples: a report makes hundreds of thousands of them, and a frozen dataclass takes four times as long.


class Mark(NamedTuple):
    """A step of the assistant, as it stands in a transcript."""

    conversation_id: int
    customer: int
    channel: str
    at: datetime
    step: Step
    topic: str | None
    lang: str | None = None


class TicketFacts(NamedTuple):
    """One ticket as plain values. `*_seconds` are working time of its team; the assistant's time is in none of them."""

    ticket_id: int
    conversation_id: int
    customer: int
    """The customer's number; of a conversation that belongs to none yet, minus its own."""
    channel: str
    status: TicketStatus
    reason: str
    topic: str
    team: str
    level: str
    priority: str
    lang: str
    agent: str | None
    """Who has it, or had it at the end."""
    routed_by: str
    created_at: datetime
    hour: int
    """Of the local day in which it was made."""
    day: date
    in_hours: bool
    """Made while its team works."""
    first_reply_at: datetime | None
    ended_at: datetime | None
    """The last word of a person, or the end if nobody spoke."""
    asked: bool
    """The customer was asked whether it helped, or said so by himself."""
    helped: bool | None
    """His last word on it."""
    reopened: int
    first_response_seconds: float | None
    first_response_on_time: bool | None
    """None: nothing is promised, or it is too early to say."""
    resolution_seconds: float | None
    resolution_on_time: bool | None
    merged_into: int | None = None
    """Closed as a duplicate of this ticket."""

    @property
    def on_time(self) -> bool | None:
        """Every promise that can be judged by now was kept."""
        judged = [kept for kept in (self.first_response_on_time, self.resolution_on_time) if kept is not None]
        return all(judged) if judged else None


class Episode(NamedTuple):
    conversation_id: int
    customer: int
    channel: str
    lang: str | None
    topic: str | None
    began_at: datetime
    hour: int
    """Of the local day in which it began."""
    day: date
    ended_at: datetime
    """The last step or a ticket's end; while it runs, the last known of them."""
    last_step: Step | None
    ticket: TicketFacts | None
    outcome: Outcome = Outcome.RUNNING

    @property
    def handed_off(self) -> bool:
        return self.ticket is not None

    def durable(self, now: datetime) -> bool | None:
        """Whether it was settled for good; None while that can't be known."""
        if self.outcome in (Outcome.CONFIRMED, Outcome.ASSUMED):
            return True if now - self.ended_at >= DURABLE_AFTER else None
        return None if self.outcome is Outcome.RUNNING else False


def episodes(marks: Iterable[Mark], tickets: Iterable[TicketFacts], now: datetime, zone: tzinfo = UTC) -> list[Episode]:
    """Tell the visits apart and judge each. Marks and tickets may come in any order; the result is by beginning.

    zone: whose hours and days the episodes have.
    """
    happened: dict[int, list[tuple[datetime, Mark | TicketFacts]]] = {}
    for mark in marks:
        happened.setdefault(mark.conversation_id, []).append((mark.at, mark))
    for ticket in tickets:
        happened.setdefault(ticket.conversation_id, []).append((ticket.created_at, ticket))
    found: list[_Visit] = []
    for events in happened.values():
        if len(events) > 1:
            events.sort(key=itemgetter(0))
        found += _visits(events)
    for visit in found:
        visit.outcome = _end(visit, now)
    _returns([visit for visit in found if visit.merged_into is None])
    of = {visit.ticket.ticket_id: visit for visit in found if visit.ticket}
    for visit in found:
        if visit.merged_into is not None:
            target = visit
            while (into := target.merged_into) in of:  # only into a live one: no circle
                target = of[into]
            visit.outcome, visit.ended_at = target.outcome, max(visit.ended_at, target.ended_at)
    found.sort(key=attrgetter("began_at"))
    return [visit.episode(zone) for visit in found]


class _Visit:
    """An episode in the making."""

    __slots__ = ("began_at", "channel", "ended_at", "first", "outcome", "step", "ticket", "topic")

    def __init__(self, first: Mark | TicketFacts, at: datetime) -> None:
        self.first = first
        self.channel = first.channel
        self.topic = first.topic
        self.began_at = self.ended_at = at
        self.step: Step | None = None
        self.ticket: TicketFacts | None = None
        self.outcome = Outcome.RUNNING

    @property
    def merged_into(self) -> int | None:
        return self.ticket.merged_into if self.ticket else None

    def episode(self, zone: tzinfo) -> Episode:
        local = self.began_at.astimezone(zone)
        return Episode(
            conversation_id=self.first.conversation_id,
            customer=self.first.customer,
            channel=self.channel,
            lang=self.first.lang,
            topic=self.topic,
            began_at=self.began_at,
            hour=local.hour,
            day=local.date(),
            ended_at=self.ended_at,
            last_step=self.step,
            ticket=self.ticket,
            outcome=self.outcome,
        )


def _visits(events: Sequence[tuple[datetime, Mark | TicketFacts]]) -> list[_Visit]:
    visits: list[_Visit] = []
    visit: _Visit | None = None
    for at, event in events:
        if visit is not None:
            if visit.ticket is None:
                over = at - visit.ended_at > EPISODE_GAP
            else:
                over = visit.ticket.status not in LIVE and at > visit.ended_at
            if over or (visit.ticket is not None and isinstance(event, TicketFacts)):
                visit = None
        if visit is None:
            visit = _Visit(event, at)
            visits.append(visit)
        if isinstance(event, TicketFacts):
            visit.ticket, visit.topic = event, event.topic
            visit.ended_at = max(at, event.ended_at or at)
        elif visit.ticket is None:
            visit.step, visit.ended_at = event.step, at
            visit.topic = event.topic or visit.topic
    return visits


_ENDS = {Step.CONFIRMED: Outcome.CONFIRMED, Step.ANSWERED: Outcome.ASSUMED, Step.ASKED: Outcome.ABANDONED}


def _end(visit: _Visit, now: datetime) -> Outcome:
    """How it ended by itself, before anybody came back."""
    ticket = visit.ticket
    if ticket is None:
        return Outcome.RUNNING if now - visit.ended_at <= EPISODE_GAP else _ENDS[visit.step or Step.ASKED]
    if ticket.status in LIVE:
        return Outcome.RUNNING
    if ticket.reopened or ticket.helped is False:
        return Outcome.REOPENED
    if ticket.helped:
        return Outcome.CONFIRMED
    unanswered = ticket.status is TicketStatus.CLOSED or ticket.first_reply_at is None
    return Outcome.ABANDONED if unanswered else Outcome.ASSUMED


def _returns(found: Sequence[_Visit]) -> None:
    """Whoever came back with the same topic was not helped before, whatever it looked like."""
    by_matter: dict[tuple[int, str], list[_Visit]] = {}
    for visit in found:
        if visit.topic:
            by_matter.setdefault((visit.first.customer, visit.topic), []).append(visit)
    for visits in by_matter.values():
        visits.sort(key=attrgetter("began_at"))
        for before, after in pairwise(visits):
            if before.outcome is not Outcome.RUNNING and after.began_at - before.ended_at <= DURABLE_AFTER:
                same = after.channel == before.channel
                before.outcome = Outcome.REOPENED if same else Outcome.RETURNED_ELSEWHERE


@dataclass(frozen=True)
class Times:
    """Of a duration in seconds; none of anything where nothing was measured."""

    count: int
    mean: float | None
    p50: float | None
    p90: float | None

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Times:
        known = sorted(value for value in values if value is not None)
        if not known:
            return cls(0, None, None, None)
        p50, p90 = (round(known[ceil(share * len(known)) - 1], 1) for share in (0.5, 0.9))
        return cls(len(known), round(sum(known) / len(known), 1), p50, p90)


@dataclass(frozen=True)
class Figures:
    """Shares are 0..1, and None where there is nothing to share."""

    episodes: int
    running: int
    """Not handed off, and not over yet: in no share below."""
    handed_off: float | None
    contained: float | None
    """1 - handed_off."""
    assistant: Mapping[str, float | None]
    """Outcome → its share of all that is over or handed off; these add up to `contained`."""
    people: Mapping[str, float | None]
    """Outcome → its share of the same; these, `running` among them, add up to `handed_off`."""
    durable: float | None
    """Settled for good, of what ended at least seven days ago."""
    tickets: int
    tickets_a_day: float | None
    first_response: Times
    """Working time from the handoff to the first word of a person."""
    first_response_waited: Times
    """The same by the customer's clock."""
    resolution: Times
    """Working time to the last word, without what the customer or another task was waited for."""
    resolution_waited: Times
    first_response_on_time: float | None
    resolution_on_time: float | None
    on_time: float | None
    satisfaction: float | None
    """Helped, of those who said whether it did."""
    satisfaction_answers: int
    satisfaction_answered: float | None
    """Of those who were asked."""
    reopened: float | None
    """Of the tickets."""
    unclear: float | None
    """Tickets whose topic is the default one («to be clarified») by now."""
    night: float | None
    """Tickets made between 22 and 6 local time."""
    out_of_hours: float | None
    nps: NpsFigures
    """Of those who were asked in the period, whenever they answered."""

    def as_json(self) -> dict[str, object]:
        return asdict(self)


@dataclass(frozen=True)
class Facts:
    """All that a report is made of: the tickets made, the episodes begun and the customers asked whether they recommend
    the company from `since` to `until`."""

    since: datetime
    until: datetime
    now: datetime
    tickets: Sequence[TicketFacts] = ()
    episodes: Sequence[Episode] = ()
    nps: Sequence[NpsFacts] = ()
    default_topic: str = "unclear"
    directions: Mapping[str, str] = field(default_factory=dict)
    """Topic → the line of business it belongs to."""

    def only(self, **values: str) -> Facts:
        """Those that have all of these values, as `by` writes them: `only(topic="payment", agent="")`.

        Of what only a ticket has (agent, team, level, priority, reason) all that is without one is left out.
        """

        def has(of: TicketFacts | Episode | NpsFacts) -> bool:
            return all(self._value(of, key) == value for key, value in values.items())

        return replace(
            self,
            tickets=list(filter(has, self.tickets)),
            episodes=list(filter(has, self.episodes)),
            nps=list(filter(has, self.nps)),
        )

    def by(self, key: str) -> dict[str, Facts]:
        """Parted by topic, direction, agent, channel, lang, hour (`00` to `23`), day, month (`2026-11`), team, level,
        priority or reason; in the order of the values, "" for none."""
        parts: dict[str, tuple[list[TicketFacts], list[Episode], list[NpsFacts]]] = {}
        for ticket in self.tickets:
            parts.setdefault(self._value(ticket, key) or "", ([], [], []))[0].append(ticket)
        for episode in self.episodes:
            if (value := self._value(episode, key)) is not None:
                parts.setdefault(value, ([], [], []))[1].append(episode)
        for asked in self.nps:
            if (value := self._value(asked, key)) is not None:
                parts.setdefault(value, ([], [], []))[2].append(asked)
        return {
            value: replace(self, tickets=tickets, episodes=episodes, nps=asked)
            for value, (tickets, episodes, asked) in sorted(parts.items())
        }

    def figures(self) -> Figures:
        return measure(self)

    def _value(self, of: TicketFacts | Episode | NpsFacts, key: str) -> str | None:
        if key == "direction":
            return self.directions.get(_value(of, "topic") or "", "")
        return _value(of, key)


def _value(of: TicketFacts | Episode | NpsFacts, key: str) -> str | None:
    """None: this can't be said of what is without a ticket."""
    if key not in ("topic", "channel", "lang", "hour", "day", "month"):
        if isinstance(of, Episode):
            if of.ticket is None:
                return None
            of = of.ticket
        elif isinstance(of, NpsFacts) and of.ticket_id is None:
            return None
    if key == "hour":
        return f"{of.hour:02}"
    if key == "month":
        return f"{of.day:%Y-%m}"
    found = getattr(of, key)
    return "" if found is None else str(found)


def measure(facts: Facts) -> Figures:
    counted = [e for e in facts.episodes if e.handed_off or e.outcome is not Outcome.RUNNING]
    handed = [e for e in counted if e.handed_off]
    contained = [e for e in counted if not e.handed_off]
    ripe = [
        durable
        for e in counted
        if facts.now - e.ended_at >= DURABLE_AFTER and (durable := e.durable(facts.now)) is not None
    ]
    tickets = facts.tickets
    spoken = [t.helped for t in tickets if t.helped is not None]
    days = (min(facts.until, facts.now) - facts.since) / timedelta(days=1)
    return Figures(
        episodes=len(counted),
        running=len(facts.episodes) - len(counted),
        handed_off=_share(len(handed), len(counted)),
        contained=_share(len(contained), len(counted)),
        assistant=_outcomes(contained, len(counted), without=(Outcome.RUNNING,)),
        people=_outcomes(handed, len(counted)),
        durable=_share(sum(ripe), len(ripe)),
        tickets=len(tickets),
        tickets_a_day=round(len(tickets) / days, 2) if days > 0 else None,
        first_response=Times.of(t.first_response_seconds for t in tickets),
        first_response_waited=Times.of(
            (t.first_reply_at - t.created_at).total_seconds() if t.first_reply_at else None for t in tickets
        ),
        resolution=Times.of(t.resolution_seconds for t in tickets),
        resolution_waited=Times.of(
            (t.ended_at - t.created_at).total_seconds() if t.ended_at and t.status not in LIVE else None
            for t in tickets
        ),
        first_response_on_time=_kept(t.first_response_on_time for t in tickets),
        resolution_on_time=_kept(t.resolution_on_time for t in tickets),
        on_time=_kept(t.on_time for t in tickets),
        satisfaction=_share(sum(spoken), len(spoken)),
        satisfaction_answers=len(spoken),
        satisfaction_answered=_share(len(spoken), sum(t.asked for t in tickets)),
        reopened=_share(sum(t.reopened > 0 for t in tickets), len(tickets)),
        unclear=_share(sum(t.topic == facts.default_topic for t in tickets), len(tickets)),
        night=_share(sum(t.hour in NIGHT for t in tickets), len(tickets)),
        out_of_hours=_share(sum(not t.in_hours for t in tickets), len(tickets)),
        nps=promoters.measure(facts.nps),
    )


def _outcomes(found: Sequence[Episode], whole: int, without: Sequence[Outcome] = ()) -> dict[str, float | None]:
    counts = Counter(episode.outcome for episode in found)
    return {outcome.value: _share(counts[outcome], whole) for outcome in Outcome if outcome not in without}


def _kept(values: Iterable[bool | None]) -> float | None:
    judged = [value for value in values if value is not None]
    return _share(sum(judged), len(judged))


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 6) if whole else None
