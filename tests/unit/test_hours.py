"""Working hours against a computation of their own: minute by minute."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handoff.hours import Interval, WorkingHours

BERLIN, MOSCOW, NEW_YORK = ZoneInfo("Europe/Berlin"), ZoneInfo("Europe/Moscow"), ZoneInfo("America/New_York")
OFFICE = WorkingHours(dict.fromkeys(range(5), (Interval(time(9), time(18)),)), MOSCOW)


def at(text: str, zone: ZoneInfo = MOSCOW) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=zone)


def by_the_minute(hours: WorkingHours, begin: datetime, end: datetime) -> timedelta:
    """Asks the wall clock of every minute, and knows nothing of spans."""
    worked, moment = 0, begin.astimezone(UTC)
    while moment < end:
        local = moment.astimezone(hours.zone)
        now = local.time().replace(second=0, microsecond=0)
        today = hours.intervals_on(local.date())
        night = [i for i in hours.intervals_on(local.date() - timedelta(days=1)) if i.closes <= i.opens]
        worked += any((i.opens <= now < i.closes) if i.closes > i.opens else now >= i.opens for i in today) or any(
            now < i.closes for i in night
        )
        moment += timedelta(minutes=1)
    return timedelta(minutes=worked)


quarters = st.integers(0, 95).map(lambda n: time(n // 4, n % 4 * 15))
intervals = st.lists(st.builds(Interval, quarters, quarters), min_size=0, max_size=2).map(tuple)
schedules = st.builds(
    WorkingHours,
    st.dictionaries(st.integers(0, 6), intervals, min_size=1),
    st.sampled_from([BERLIN, MOSCOW, NEW_YORK]),
    st.dictionaries(st.dates(date(2026, 3, 20), date(2026, 4, 5)), intervals, max_size=3),
)
# The weeks in which Berlin and New York change their clocks, and a turn of the year.
moments = st.one_of(
    st.datetimes(datetime(2026, 3, 5), datetime(2026, 4, 1)),  # noqa: DTZ001
    st.datetimes(datetime(2026, 10, 23), datetime(2026, 11, 5)),  # noqa: DTZ001
    st.datetimes(datetime(2025, 12, 29), datetime(2026, 1, 3)),  # noqa: DTZ001
).map(lambda moment: moment.replace(second=0, microsecond=0, tzinfo=UTC))


@settings(max_examples=60, deadline=None)
@given(schedules, moments, st.integers(0, 60 * 24 * 4))
def test_working_time_is_what_a_clock_on_the_wall_would_count(
    hours: WorkingHours, begin: datetime, minutes: int
) -> None:
    # A repeated hour of the wall clock can't be told from the first by its face: those zones' nights are left out.
    end = begin + timedelta(minutes=minutes)
    if hours.zone is not MOSCOW and _meets_a_change(hours, begin, end):
        return
    assert hours.between(begin, end) == by_the_minute(hours, begin, end)


def _meets_a_change(hours: WorkingHours, begin: datetime, end: datetime) -> bool:
    offsets = {
        (begin + timedelta(hours=n)).astimezone(hours.zone).utcoffset()
        for n in range(-48, int((end - begin).total_seconds() // 3600) + 48)
    }
    return len(offsets) > 1 and any(
        interval.opens < time(4) or interval.closes < time(4) or interval.closes <= interval.opens
        for day in range(-3, 8)
        for interval in hours.intervals_on((begin + timedelta(days=day)).date())
    )


@settings(max_examples=100, deadline=None)
@given(schedules, moments, st.integers(1, 60 * 50))
def test_adding_and_counting_agree(hours: WorkingHours, begin: datetime, minutes: int) -> None:
    working = timedelta(minutes=minutes)
    try:
        end = hours.add(begin, working)
    except ValueError:
        assert not any(hours.week.values())
        return
    assert abs(hours.between(begin, end) - working) < timedelta(milliseconds=1)
    assert hours.between(begin, end - timedelta(seconds=1)) < working, "and no moment before would do"


@settings(max_examples=100, deadline=None)
@given(schedules, moments)
def test_an_opening_is_a_moment_before_which_nobody_worked(hours: WorkingHours, moment: datetime) -> None:
    try:
        opening = hours.next_opening(moment)
    except ValueError:
        return
    assert opening > moment
    assert hours.contains(opening)
    assert not hours.contains(opening - timedelta(seconds=1))


@pytest.mark.parametrize(
    ("now", "minutes", "promised"),
    [
        ("2026-11-20T12:00", 10, "2026-11-20T12:10"),
        ("2026-11-20T17:55", 10, "2026-11-23T09:05"),
        ("2026-11-20T18:00", 10, "2026-11-23T09:10"),
        ("2026-11-21T03:00", 10, "2026-11-23T09:10"),
        ("2026-11-20T17:50", 10, "2026-11-20T18:00"),
    ],
)
def test_a_promise_counts_working_time_alone(now: str, minutes: int, promised: str) -> None:
    assert OFFICE.promise(at(now), minutes) == at(promised)


def test_a_lunch_break_is_no_working_time() -> None:
    hours = WorkingHours({0: (Interval(time(9), time(13)), Interval(time(14), time(18)))}, MOSCOW)
    assert hours.add(at("2026-11-23T12:50"), timedelta(minutes=20)) == at("2026-11-23T14:10")


def test_a_night_shift_belongs_to_the_day_it_begins_on() -> None:
    hours = WorkingHours({4: (Interval(time(22), time(6)),)}, MOSCOW)
    assert hours.contains(at("2026-11-21T05:59"))
    assert not hours.contains(at("2026-11-20T05:59"))
    assert hours.next_opening(at("2026-11-21T05:00")) == at("2026-11-27T22:00")


def test_the_night_of_the_change_is_as_long_as_it_is() -> None:
    hours = WorkingHours(dict.fromkeys(range(7), (Interval(time(22), time(6)),)), BERLIN)
    spring = hours.between(at("2026-03-28T22:00", BERLIN), at("2026-03-29T06:00", BERLIN).astimezone(UTC))
    autumn = hours.between(at("2026-10-24T22:00", BERLIN), at("2026-10-25T06:00", BERLIN).astimezone(UTC))
    assert (spring, autumn) == (timedelta(hours=7), timedelta(hours=9))


def test_work_around_the_clock_has_no_openings_at_midnight() -> None:
    hours = WorkingHours(dict.fromkeys(range(7), (Interval(time(0), time(0)),)), MOSCOW)
    assert hours.between(at("2026-01-01T00:00"), at("2027-01-01T00:00")) == timedelta(days=365)
    with pytest.raises(ValueError, match="nobody works"):
        hours.next_opening(at("2026-06-01T00:00"))


def test_public_holidays_are_free_and_an_exception_wins() -> None:
    week = dict.fromkeys(range(7), (Interval(time(9), time(18)),))
    hours = WorkingHours(week, MOSCOW, {date(2026, 5, 9): (Interval(time(10), time(12)),)}, country="RU")
    assert not hours.contains(at("2026-01-01T12:00"))
    assert hours.contains(at("2026-05-09T11:00"))
    assert not hours.contains(at("2026-05-09T13:00"))


def test_the_hours_are_described_in_both_languages() -> None:
    assert OFFICE.describe("ru") == "пн–пт 09:00–18:00 (МСК)"
    assert WorkingHours().describe("en") == "every day 09:00–21:00 (Moscow time)"
    broken = (Interval(time(9), time(13)), Interval(time(14), time(18)))
    week = {**dict.fromkeys(range(5), broken), 5: (Interval(time(10), time(16)),)}
    assert (
        WorkingHours(week, BERLIN).describe("en") == "Mon–Fri 09:00–13:00, 14:00–18:00; Sat 10:00–16:00 (Europe/Berlin)"
    )
