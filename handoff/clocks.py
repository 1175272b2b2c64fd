"""The clocks of a ticket: how much working time people took, and by when they have to be ready.

A clock counts what people used, not what they have left: a changed policy, another team's hours or a hold in the
middle need no correction, since the deadline is computed from what was used so far.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from handoff.hours import WorkingHours
from handoff.lifecycle import LIVE, TicketStatus


class ClockKind(StrEnum):
    FIRST_RESPONSE = "first_response"
    """From the handoff to the first word of a person, also while it is on hold. What the assistant did before is in
    nobody's clock."""
    NEXT_RESPONSE = "next_response"
    """From the customer's word that is not answered yet to the next word of a person."""
    RESOLUTION = "resolution"
    """From the handoff to the last word, without the time in which the customer or another task was waited for."""


@dataclass(frozen=True)
class Clock:
    """One deadline of one ticket."""

    target: timedelta
    """Working time allowed."""
    used: timedelta = timedelta(0)
    """Working time used up to `running_since`, or in all while it stands."""
    running_since: datetime | None = None
    done_at: datetime | None = None
    """When it was met or missed for good; a reopened ticket's clock runs on from what it had used."""

    def used_at(self, now: datetime, hours: WorkingHours) -> timedelta:
        return self.used + (hours.between(self.running_since, now) if self.running_since else timedelta(0))

    def due_at(self, hours: WorkingHours) -> datetime | None:
        """By when it has to be done; none while it stands. One that is over its target gives its own beginning."""
        if self.running_since is None:
            return None
        return hours.add(self.running_since, self.target - self.used)

    def share_at(self, share: float, hours: WorkingHours) -> datetime | None:
        """When that share of the target will be used; none while it stands."""
        if self.running_since is None:
            return None
        return hours.add(self.running_since, self.target * share - self.used)

    def breached(self, now: datetime, hours: WorkingHours) -> bool:
        return self.used_at(now, hours) > self.target

    def started(self, now: datetime, target: timedelta) -> Clock:
        """Let it run, under what is promised by now; one that runs already runs on as it is."""
        return self if self.running_since else replace(self, target=target, running_since=now, done_at=None)

    def stopped(self, now: datetime, hours: WorkingHours, *, done: bool = False) -> Clock:
        """Let it stand: what was used is kept. done: it has served its purpose."""
        used = self.used_at(now, hours)
        return replace(self, used=used, running_since=None, done_at=now if done else self.done_at)

    def moved(self, now: datetime, before: WorkingHours, target: timedelta) -> Clock:
        """Under another target or other hours from now on; what was used stays as the hours of then counted it, and
        what is done is judged by what was promised then."""
        if self.done_at is not None:
            return self
        if self.running_since is None:
            return replace(self, target=target)
        return replace(self, target=target, used=self.used_at(now, before), running_since=now)


@dataclass(frozen=True)
class Target:
    """What is promised for one kind of ticket, in working time; none: no promise."""

    first_response: timedelta | None = None
    next_response: timedelta | None = None
    resolution: timedelta | None = None

    def of(self, kind: ClockKind) -> timedelta | None:
        return {
            ClockKind.FIRST_RESPONSE: self.first_response,
            ClockKind.NEXT_RESPONSE: self.next_response,
            ClockKind.RESOLUTION: self.resolution,
        }[kind]


def turn(
    clocks: Mapping[ClockKind, Clock],
    status: TicketStatus,
    *,
    answered: bool,
    target: Target,
    hours: WorkingHours,
    now: datetime,
) -> dict[ClockKind, Clock]:
    """The clocks after a ticket came into `status`. Pure.

    answered: a person has just spoken to the customer. A clock appears when it first runs; one without a target
    never does.
    """
    ours = status in (TicketStatus.NEW, TicketStatus.OPEN)
    first = clocks.get(ClockKind.FIRST_RESPONSE)
    unanswered = first is not None and first.done_at is None
    running = {
        # A hold is no word of a person: whoever was told nothing yet goes on waiting.
        ClockKind.FIRST_RESPONSE: ours or status is TicketStatus.ON_HOLD,
        ClockKind.NEXT_RESPONSE: status is TicketStatus.OPEN and not unanswered,
        ClockKind.RESOLUTION: ours,
    }
    over = status not in LIVE or status is TicketStatus.AWAITING_FEEDBACK
    turned = dict(clocks)
    for kind, runs in running.items():
        clock = turned.get(kind)
        wanted = target.of(kind)
        if clock is None and (wanted is None or not runs):
            continue
        clock = clock or Clock(wanted or timedelta(0))
        if kind is ClockKind.FIRST_RESPONSE and clock.done_at:
            continue  # there is one first word
        if kind is ClockKind.NEXT_RESPONSE and runs and clock.done_at:
            clock = Clock(wanted or clock.target)  # the next question has a clock of its own
        done = over or (answered and kind is not ClockKind.RESOLUTION)
        if runs and not done:
            turned[kind] = clock.started(now, wanted or clock.target)
        elif clock.running_since or (done and not clock.done_at):
            turned[kind] = clock.stopped(now, hours, done=done)
    return turned
