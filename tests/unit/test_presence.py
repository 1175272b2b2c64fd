"""How long a presence that was set by hand lasts."""

from __future__ import annotations

from datetime import UTC, datetime, time
from zoneinfo import ZoneInfo

import pytest

from handoff.hours import Interval, WorkingHours
from handoff.presence import lasts_until

MOSCOW = ZoneInfo("Europe/Moscow")
OFFICE = WorkingHours(dict.fromkeys(range(5), (Interval(time(9), time(13)), Interval(time(14), time(18)))))
NIGHT = WorkingHours(dict.fromkeys(range(7), (Interval(time(22), time(6)),)))
ALWAYS = WorkingHours(dict.fromkeys(range(7), (Interval(time(0), time(0)),)))


@pytest.mark.parametrize(
    ("hours", "since", "until"),
    [
        (OFFICE, "23 10:00", "23 18:00"),
        (OFFICE, "23 13:30", "23 18:00"),  # a break is within the shift
        (OFFICE, "23 07:00", "23 09:00"),
        (OFFICE, "23 20:00", "24 00:00"),  # forgotten after work, nobody is given tickets at night
        (OFFICE, "28 11:00", "29 00:00"),  # a Saturday
        (NIGHT, "23 23:00", "24 06:00"),
        (NIGHT, "24 03:00", "24 06:00"),
        (NIGHT, "24 12:00", "24 22:00"),
        (ALWAYS, "23 10:00", "24 00:00"),
    ],
)
def test_it_ends_with_the_shift_or_with_the_day(hours: WorkingHours, since: str, until: str) -> None:
    def at(text: str) -> datetime:
        return datetime.strptime(f"2026-11-{text}", "%Y-%m-%d %H:%M").replace(tzinfo=MOSCOW)

    assert lasts_until(hours, MOSCOW, at(since).astimezone(UTC)) == at(until)
