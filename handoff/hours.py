"""When people work: moments, sums of working time, and by when a customer may expect somebody.

Everything is computed from spans in UTC, so that a change of the clocks makes a shift longer or shorter by what it
really is.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from itertools import accumulate, groupby, pairwise
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import holidays as public_holidays
from ruamel.yaml.comments import CommentedMap

from handoff.errors import DeskFileError

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
DAY_NAMES = {
    "ru": ("пн", "вт", "ср", "чт", "пт", "сб", "вс"),
    "en": ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"),
}
BREAK = timedelta(hours=3)
"""A pause up to this long is a break within a shift, not its end."""
SEARCHED_YEARS = 3
"""How far an opening is looked for; hours that never open again are an error of the file."""


@dataclass(frozen=True, order=True)
class Interval:
    """Working time that begins on one day; one that ends at or before its beginning ends on the next."""

    opens: time
    closes: time

    def on(self, day: date, zone: ZoneInfo) -> tuple[float, float]:
        """Begin and end as UTC timestamps."""
        begin = datetime.combine(day, self.opens, zone)
        end_day = day if self.closes > self.opens else day + timedelta(days=1)
        return begin.timestamp(), datetime.combine(end_day, self.closes, zone).timestamp()

    def __str__(self) -> str:
        return f"{self.opens:%H:%M}\N{EN DASH}{self.closes:%H:%M}"


@dataclass(frozen=True)
class Daytime:
    """The part of every day, by the wall clock, in which customers are asked things unasked."""

    opens: time
    closes: time
    """Later than `opens`, and not in it."""

    @property
    def length(self) -> timedelta:
        return datetime.combine(date.min, self.closes) - datetime.combine(date.min, self.opens)

    def next(self, at: datetime, zone: tzinfo) -> datetime:
        """The moment itself, in UTC, or else the next opening."""
        local = at.astimezone(zone)
        if self.opens <= local.time() < self.closes:
            return at.astimezone(UTC)
        day = local.date() + timedelta(days=local.time() >= self.closes)
        return datetime.combine(day, self.opens, zone).astimezone(UTC)

    def last(self, at: datetime, zone: tzinfo) -> datetime:
        """The moment itself, in UTC, or else the closing before it."""
        local = at.astimezone(zone)
        if self.opens <= local.time() < self.closes:
            return at.astimezone(UTC)
        day = local.date() - timedelta(days=local.time() < self.opens)
        return datetime.combine(day, self.closes, zone).astimezone(UTC)


@dataclass(frozen=True)
class _Year:
    """The spans that lie in one UTC year: sorted, disjoint; `before[i]` is the working time before span i."""

    begins: Sequence[float]
    ends: Sequence[float]
    before: Sequence[float]

    @property
    def total(self) -> float:
        return self.before[-1]

    def until(self, at: float) -> float:
        """Working seconds from the beginning of the year until `at`."""
        i = bisect_right(self.begins, at) - 1
        return self.before[i] + min(at, self.ends[i]) - self.begins[i] if i >= 0 else 0.0

    def at(self, worked: float) -> float:
        """The first moment by which so much was worked; `worked` lies in (0, total]."""
        i = min(bisect_right(self.before, worked), len(self.begins)) - 1
        if i > 0 and self.before[i] == worked:  # exactly at the end of a span, and not at the next one's beginning
            i -= 1
        return self.begins[i] + worked - self.before[i]


class WorkingHours:
    """A week of intervals in one time zone, with days that differ from it.

    week: weekday (Monday is 0) → intervals; a day that is missing is free. exceptions: date → its intervals instead
    of the week's (none: a holiday), winning over `country`'s public holidays, which are free.
    """

    def __init__(
        self,
        week: Mapping[int, Sequence[Interval]] | None = None,
        zone: ZoneInfo | None = None,
        exceptions: Mapping[date, Sequence[Interval]] | None = None,
        country: str | None = None,
    ) -> None:
        daily = (Interval(time(9), time(21)),)
        self.week = (
            {day: tuple(sorted(week.get(day, ()))) for day in range(7)} if week else dict.fromkeys(range(7), daily)
        )
        self.zone = zone or ZoneInfo("Europe/Moscow")
        self.exceptions = {day: tuple(intervals) for day, intervals in (exceptions or {}).items()}
        self.country = country
        self._public = public_holidays.country_holidays(country) if country else {}
        self._years: dict[int, _Year] = {}

    def contains(self, moment: datetime) -> bool:
        at, year = moment.timestamp(), self._year(moment.astimezone(UTC).year)
        i = bisect_right(year.begins, at) - 1
        return i >= 0 and at < year.ends[i]

    def next_opening(self, moment: datetime) -> datetime:
        """The first beginning of a span after `moment`, in the zone of the hours.

        Raises ValueError when nobody works any more in the years to come.
        """
        first, at = moment.astimezone(UTC).year, moment.timestamp()
        for number in range(first, first + SEARCHED_YEARS):
            year = self._year(number)
            i = bisect_right(year.begins, at)
            while i < len(year.begins):
                # A span that only goes on over the turn of the year does not open there.
                if not self.contains(datetime.fromtimestamp(year.begins[i] - 1, UTC)):
                    return datetime.fromtimestamp(year.begins[i], self.zone)
                i += 1
        raise ValueError("working hours in which nobody works any more")

    def between(self, begin: datetime, end: datetime) -> timedelta:
        """The working time between two moments; none when `end` is not after `begin`."""
        if end <= begin:
            return timedelta(0)
        first, last = begin.astimezone(UTC).year, end.astimezone(UTC).year
        worked = self._year(last).until(end.timestamp()) - self._year(first).until(begin.timestamp())
        return timedelta(seconds=worked + sum(self._year(year).total for year in range(first, last)))

    def add(self, moment: datetime, working: timedelta) -> datetime:
        """The moment by which so much working time has passed since `moment`, in UTC.

        No time at all gives `moment` itself. Raises ValueError when nobody works enough in the years to come.
        """
        if working <= timedelta(0):
            return moment.astimezone(UTC)
        first = moment.astimezone(UTC).year
        left = working.total_seconds() + self._year(first).until(moment.timestamp())
        for number in range(first, first + SEARCHED_YEARS):
            year = self._year(number)
            if left <= year.total:
                return datetime.fromtimestamp(year.at(left), UTC)
            left -= year.total
        raise ValueError("working hours in which nobody works any more")

    def promise(self, moment: datetime, minutes: int) -> datetime:
        """By when a reply that takes `minutes` of working time can be expected."""
        return self.add(moment, timedelta(minutes=minutes))

    def spans(self, begin: datetime, end: datetime) -> Iterator[tuple[datetime, datetime]]:
        """The times of work that touch [begin, end), whole, in order, in UTC; one over the turn of a year is one."""
        pending: tuple[float, float] | None = None
        for number in range(begin.astimezone(UTC).year - 1, end.astimezone(UTC).year + 2):
            year = self._year(number)
            for opens, closes in zip(year.begins, year.ends, strict=True):
                if pending is not None and opens <= pending[1]:
                    pending = pending[0], closes
                    continue
                if pending is not None and pending[1] > begin.timestamp() and pending[0] < end.timestamp():
                    yield datetime.fromtimestamp(pending[0], UTC), datetime.fromtimestamp(pending[1], UTC)
                pending = opens, closes
        if pending is not None and pending[1] > begin.timestamp() and pending[0] < end.timestamp():
            yield datetime.fromtimestamp(pending[0], UTC), datetime.fromtimestamp(pending[1], UTC)

    def shifts(self, begin: datetime, end: datetime) -> list[tuple[datetime, datetime]]:
        """The `spans` with the breaks in them."""
        joined: list[tuple[datetime, datetime]] = []
        for opens, closes in self.spans(begin, end):
            if joined and opens - joined[-1][1] <= BREAK:
                joined[-1] = (joined[-1][0], closes)
            else:
                joined.append((opens, closes))
        return joined

    def describe(self, lang: str) -> str:
        """The ordinary week in words: `Mon–Fri 09:00–13:00, 14:00–18:00; Sat 10:00–16:00 (Moscow time)`."""
        names = DAY_NAMES["ru" if lang == "ru" else "en"]
        parts = []
        for intervals, group in groupby(range(7), key=self.week.__getitem__):
            if intervals:
                parts.append(f"{_days(list(group), names, lang)} {', '.join(map(str, intervals))}")
        return f"{'; '.join(parts)} ({self.zone_name(lang)})"

    def zone_name(self, lang: str) -> str:
        return {"Europe/Moscow": {"ru": "МСК", "en": "Moscow time"}}.get(self.zone.key, {}).get(lang, self.zone.key)

    def intervals_on(self, day: date) -> Sequence[Interval]:
        """What is worked on a date: an exception, a public holiday, or the ordinary week."""
        if day in self.exceptions:
            return self.exceptions[day]
        return () if day in self._public else self.week[day.weekday()]

    def _year(self, number: int) -> _Year:
        if number not in self._years:
            self._years[number] = _year(list(self._spans(number)))
        return self._years[number]

    def _spans(self, number: int) -> Iterator[tuple[float, float]]:
        begin, end = datetime(number, 1, 1, tzinfo=UTC).timestamp(), datetime(number + 1, 1, 1, tzinfo=UTC).timestamp()
        # A local date lies up to a day beside the UTC one, and a night shift reaches into the next.
        for day in (date(number, 1, 1) + timedelta(days=n) for n in range(-2, 368)):
            for interval in self.intervals_on(day):
                span = interval.on(day, self.zone)
                clipped = max(span[0], begin), min(span[1], end)
                if clipped[0] < clipped[1]:
                    yield clipped


def _year(spans: list[tuple[float, float]]) -> _Year:
    joined: list[list[float]] = []
    for begin, end in sorted(spans):
        if joined and begin <= joined[-1][1]:
            joined[-1][1] = max(joined[-1][1], end)
        else:
            joined.append([begin, end])
    before = list(accumulate((end - begin for begin, end in joined), initial=0.0))
    return _Year([begin for begin, _ in joined], [end for _, end in joined], before)


def _days(days: list[int], names: Sequence[str], lang: str) -> str:
    if len(days) == 7:
        return "ежедневно" if lang == "ru" else "every day"
    return names[days[0]] if len(days) == 1 else f"{names[days[0]]}\N{EN DASH}{names[days[-1]]}"


def read_schedules(path: Path, content: Any, default: WorkingHours) -> dict[str, WorkingHours]:
    """The `schedules:` of desk.yml: name → hours; `default` is always among them.

    content: as ruamel's round-trip loader gives it. Raises DeskFileError with the line.
    """
    found = {"default": default}
    if content is None:
        return found
    if not isinstance(content, CommentedMap):
        raise DeskFileError(path, "expected `schedules:` with a schedule for each name")
    for name, row in content.items():
        found[str(name)] = _schedule(path, row, content.lc.key(name)[0] + 1, default)
    return found


def _schedule(path: Path, row: Any, line: int, default: WorkingHours) -> WorkingHours:
    if not isinstance(row, dict) or not isinstance(row.get("week"), dict):
        raise DeskFileError(path, "a schedule needs a `week`", line)
    wrong = set(row) - {"zone", "week", "exceptions", "holidays"}
    if wrong:
        raise DeskFileError(path, f"unknown key `{min(wrong)}`: zone, week, exceptions or holidays", line)
    try:
        zone = ZoneInfo(str(row["zone"])) if "zone" in row else default.zone
    except Exception as error:
        raise DeskFileError(path, f"`zone: {row['zone']}` is no name such as Europe/Moscow", line) from error
    week: dict[int, tuple[Interval, ...]] = {}
    for days, intervals in row["week"].items():
        for day in _weekdays(path, str(days), row["week"].lc.key(days)[0] + 1):
            week[day] = _intervals(path, intervals, row["week"].lc.key(days)[0] + 1)
    exceptions: dict[date, tuple[Interval, ...]] = {}
    for day, intervals in (row.get("exceptions") or {}).items():
        at = row["exceptions"].lc.key(day)[0] + 1
        if not isinstance(day, date):
            raise DeskFileError(path, f"`{day}` is no date such as 2026-12-31", at)
        exceptions[day] = _intervals(path, intervals, at)
    country = row.get("holidays")
    try:
        hours = WorkingHours(week, zone, exceptions, str(country) if country else None)
    except NotImplementedError as error:
        raise DeskFileError(path, f"no public holidays are known for `{country}`", line) from error
    if not any(week.values()):
        raise DeskFileError(path, "nobody works in this week", line)
    return hours


def _weekdays(path: Path, text: str, line: int) -> list[int]:
    found = []
    for part in text.lower().replace(" ", "").split(","):
        first, _, last = part.partition("-")
        if first not in DAYS or (last and last not in DAYS):
            raise DeskFileError(path, f"`{text}` names no days: write mon, mon-fri or sat,sun", line)
        begin, end = DAYS.index(first), DAYS.index(last or first)
        found += [day % 7 for day in range(begin, end + 1 if end >= begin else end + 8)]
    return found


def _intervals(path: Path, value: Any, line: int) -> tuple[Interval, ...]:
    rows = [] if value is None else value if isinstance(value, list) else [value]
    found = []
    for row in rows:
        match = re.fullmatch(r"(\d\d?):(\d\d)\s*[-\u2013]\s*(\d\d?):(\d\d)", str(row).strip())
        try:
            if match is None:
                raise ValueError
            h1, m1, h2, m2 = map(int, match.groups())
            closes = time(0) if (h2, m2) == (24, 0) else time(h2, m2)
            found.append(Interval(time(h1, m1), closes))
        except ValueError as error:
            raise DeskFileError(path, f"`{row}` is no interval such as 09:00-13:00", line) from error
    ordered = sorted(found)
    for earlier, later in pairwise(ordered):
        if earlier.closes <= earlier.opens or later.opens < earlier.closes:
            raise DeskFileError(path, f"{earlier} and {later} overlap", line)
    return tuple(ordered)
