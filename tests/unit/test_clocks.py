"""A ticket's life and its clocks, with moved clocks."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handoff.clocks import Clock, ClockKind, Target, turn
from handoff.errors import TicketStateError
from handoff.hours import Interval, WorkingHours
from handoff.lifecycle import LIVE, MOVES, TicketEvent, TicketStatus, after

BERLIN = ZoneInfo("Europe/Berlin")
OFFICE = WorkingHours(dict.fromkeys(range(5), (Interval(time(9), time(13)), Interval(time(14), time(18)))), BERLIN)
ALWAYS = WorkingHours(dict.fromkeys(range(7), (Interval(time(0), time(0)),)), ZoneInfo("UTC"))
PROMISE = Target(timedelta(minutes=10), timedelta(minutes=30), timedelta(hours=8))


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN)


class Story:
    """A ticket to which things happen, and its clocks."""

    def __init__(self, begins: datetime, hours: WorkingHours = OFFICE, target: Target = PROMISE) -> None:
        self.status, self.hours, self.target = TicketStatus.NEW, hours, target
        self.clocks = turn({}, self.status, answered=False, target=target, hours=hours, now=begins)

    def then(self, event: TicketEvent, now: datetime) -> Story:
        self.status = after(1, self.status, event)
        answered = event in (TicketEvent.AGENT_REPLIED, TicketEvent.FEEDBACK_ASKED)
        self.clocks = turn(self.clocks, self.status, answered=answered, target=self.target, hours=self.hours, now=now)
        return self

    def used(self, kind: ClockKind, now: datetime) -> timedelta:
        return self.clocks[kind].used_at(now, self.hours)


def test_every_status_can_be_reached_and_left_and_nothing_else_is_possible() -> None:
    reached, edge = {TicketStatus.NEW}, {TicketStatus.NEW}
    while edge:
        edge = {moves[s] for moves in MOVES.values() for s in edge if s in moves} - reached
        reached |= edge
    assert reached == set(TicketStatus)
    for status in TicketStatus:
        assert any(moves.get(status) not in (None, status) for moves in MOVES.values())
    with pytest.raises(TicketStateError, match="ticket 7 is closed: it can't be agent replied"):
        after(7, TicketStatus.CLOSED, TicketEvent.AGENT_REPLIED)


@pytest.mark.parametrize("status", [TicketStatus.RESOLVED, TicketStatus.CLOSED])
def test_what_ended_is_only_reopened(status: TicketStatus) -> None:
    possible = {event for event, moves in MOVES.items() if status in moves}
    assert possible <= {TicketEvent.REOPENED, TicketEvent.NOT_HELPED}


def test_a_live_ticket_can_always_be_ended() -> None:
    for status in LIVE:
        assert after(1, status, TicketEvent.RESOLVED) is TicketStatus.RESOLVED
        assert after(1, status, TicketEvent.CLOSED) is TicketStatus.CLOSED


def test_the_first_response_is_due_after_working_time_alone() -> None:
    friday_evening = Story(at("2026-11-20T17:55"))
    assert friday_evening.clocks[ClockKind.FIRST_RESPONSE].due_at(OFFICE) == at("2026-11-23T09:05")
    lunch = Story(at("2026-11-23T13:30"))
    assert lunch.clocks[ClockKind.FIRST_RESPONSE].due_at(OFFICE) == at("2026-11-23T14:10")


def test_a_change_of_the_clocks_moves_no_deadline() -> None:
    # From Saturday to Monday, over the night in which Berlin goes back an hour.
    story = Story(at("2026-10-23T17:50"), target=Target(first_response=timedelta(minutes=40)))
    assert story.clocks[ClockKind.FIRST_RESPONSE].due_at(OFFICE) == at("2026-10-26T09:30")


def test_waiting_for_the_customer_and_holds_are_in_nobodys_clock() -> None:
    story = Story(at("2026-11-23T09:00"))
    story.then(TicketEvent.AGENT_REPLIED, at("2026-11-23T09:05"))
    story.then(TicketEvent.CUSTOMER_WROTE, at("2026-11-23T12:00"))
    story.then(TicketEvent.AGENT_REPLIED, at("2026-11-23T12:20"))
    story.then(TicketEvent.HELD, at("2026-11-23T12:30"))
    story.then(TicketEvent.RESUMED, at("2027-11-22T09:00"))  # a year later
    story.then(TicketEvent.FEEDBACK_ASKED, at("2027-11-22T09:15"))
    now = at("2027-11-23T09:00")
    assert story.used(ClockKind.FIRST_RESPONSE, now) == timedelta(minutes=5)
    assert story.used(ClockKind.RESOLUTION, now) == timedelta(minutes=5 + 20 + 15)
    assert not story.clocks[ClockKind.RESOLUTION].breached(now, OFFICE)
    assert story.clocks[ClockKind.RESOLUTION].due_at(OFFICE) is None


def test_each_question_has_a_response_clock_of_its_own() -> None:
    story = Story(at("2026-11-23T09:00")).then(TicketEvent.AGENT_REPLIED, at("2026-11-23T09:05"))
    assert ClockKind.NEXT_RESPONSE not in story.clocks
    story.then(TicketEvent.CUSTOMER_WROTE, at("2026-11-23T10:00"))
    assert story.clocks[ClockKind.NEXT_RESPONSE].due_at(OFFICE) == at("2026-11-23T10:30")
    story.then(TicketEvent.CUSTOMER_WROTE, at("2026-11-23T10:20"))
    assert story.clocks[ClockKind.NEXT_RESPONSE].due_at(OFFICE) == at("2026-11-23T10:30"), "from the first of them"
    story.then(TicketEvent.AGENT_REPLIED, at("2026-11-23T10:25"))
    story.then(TicketEvent.CUSTOMER_WROTE, at("2026-11-23T11:00"))
    assert story.clocks[ClockKind.NEXT_RESPONSE].due_at(OFFICE) == at("2026-11-23T11:30")


def test_a_hold_before_the_first_word_of_a_person_does_not_stop_its_clock() -> None:
    story = Story(at("2026-11-23T09:00")).then(TicketEvent.HELD, at("2026-11-23T09:04"))
    assert story.clocks[ClockKind.FIRST_RESPONSE].due_at(OFFICE) == at("2026-11-23T09:10")
    assert story.clocks[ClockKind.RESOLUTION].due_at(OFFICE) is None
    story.then(TicketEvent.AGENT_REPLIED, at("2026-11-23T09:06"))
    assert story.status is TicketStatus.ON_HOLD
    assert story.clocks[ClockKind.FIRST_RESPONSE].done_at == at("2026-11-23T09:06")


def test_what_a_customer_says_during_a_hold_wants_an_answer() -> None:
    story = Story(at("2026-11-23T09:00")).then(TicketEvent.AGENT_REPLIED, at("2026-11-23T09:05"))
    story.then(TicketEvent.HELD, at("2026-11-23T09:06")).then(TicketEvent.CUSTOMER_WROTE, at("2026-11-23T10:00"))
    assert story.status is TicketStatus.OPEN
    assert story.clocks[ClockKind.NEXT_RESPONSE].due_at(OFFICE) == at("2026-11-23T10:30")


def test_a_reopened_ticket_goes_on_with_what_it_had_used() -> None:
    story = Story(at("2026-11-23T09:00"))
    story.then(TicketEvent.FEEDBACK_ASKED, at("2026-11-23T10:00"))
    assert story.clocks[ClockKind.RESOLUTION].done_at == at("2026-11-23T10:00")
    story.then(TicketEvent.NOT_HELPED, at("2026-11-23T12:00"))
    assert story.clocks[ClockKind.RESOLUTION].done_at is None
    assert story.clocks[ClockKind.RESOLUTION].due_at(OFFICE) == at("2026-11-24T11:00")  # seven hours of eight are left
    story.then(TicketEvent.RESOLVED, at("2026-11-23T12:30"))
    assert story.used(ClockKind.RESOLUTION, at("2026-11-25T09:00")) == timedelta(minutes=90)


def test_a_policy_that_changes_in_the_middle_counts_from_what_was_used() -> None:
    clock = Clock(timedelta(hours=8), running_since=at("2026-11-23T09:00"))
    moved = clock.moved(at("2026-11-23T11:00"), OFFICE, timedelta(hours=5))
    assert moved.due_at(OFFICE) == at("2026-11-23T15:00")
    assert moved.due_at(ALWAYS) == at("2026-11-23T14:00"), "another team's hours"


def test_a_warning_comes_at_a_share_of_the_time() -> None:
    clock = Clock(timedelta(hours=2), running_since=at("2026-11-23T12:00"))
    assert clock.share_at(0.75, OFFICE) == at("2026-11-23T14:30")


def test_without_a_promise_there_is_no_clock() -> None:
    assert Story(at("2026-11-23T09:00"), target=Target()).clocks == {}


@settings(max_examples=150, deadline=None)
@given(
    st.datetimes(datetime(2026, 3, 20), datetime(2026, 4, 2)),  # noqa: DTZ001
    st.lists(st.tuples(st.sampled_from(list(TicketEvent)), st.integers(0, 3000)), max_size=12),
)
def test_the_clocks_agree_with_a_list_of_what_happened(begins: datetime, events: list[tuple[TicketEvent, int]]) -> None:
    """The independent computation: each stretch of the story is judged by its status alone and added up."""
    now = begins.replace(tzinfo=UTC, second=0, microsecond=0)
    story = Story(now)
    first, resolution, answered = timedelta(0), timedelta(0), False
    for event, minutes in events:
        later = now + timedelta(minutes=minutes)
        if story.status in (TicketStatus.NEW, TicketStatus.OPEN):
            resolution += OFFICE.between(now, later)
        if story.status in (TicketStatus.NEW, TicketStatus.OPEN, TicketStatus.ON_HOLD) and not answered:
            first += OFFICE.between(now, later)
        now = later
        if story.status in MOVES[event]:
            story.then(event, now)
            answered |= event in (TicketEvent.AGENT_REPLIED, TicketEvent.FEEDBACK_ASKED)
            answered |= story.status not in LIVE
    assert story.used(ClockKind.RESOLUTION, now) == resolution
    assert story.used(ClockKind.FIRST_RESPONSE, now) == first
