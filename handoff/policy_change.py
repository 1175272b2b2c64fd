"""What desk.yml said when the running clocks were last counted, so that a change of it in the middle leaves what was
used as the hours of then measured it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, time
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy.orm import Mapped, mapped_column

from handoff.hours import Interval, WorkingHours
from handoff.policy import DeskPolicy
from handoff.records import Base
from handoff.routing import Topics


class CountedBy(Base):
    """The policy by which the clocks run: one row."""

    __tablename__ = "counted_by"

    id: Mapped[int] = mapped_column(primary_key=True)
    policy: Mapped[dict[str, Any]]


def as_json(policy: DeskPolicy, topics: Topics) -> dict[str, Any]:
    """All that a clock depends on."""
    teams = sorted({*policy.teams, *(topic.team for topic in topics.all.values())})
    minutes = {topic.id: topic.expected_minutes for topic in topics.all.values()}
    return {
        "schedules": {name: _hours(hours) for name, hours in sorted(policy.schedules.items())},
        "teams": {team: policy.team(team).schedule for team in teams},
        "promises": [*map(repr, policy.promises), repr(policy.warn_at), repr(sorted(minutes.items()))],
    }


def hours_of(said: Mapping[str, Any], team: str) -> WorkingHours:
    """Whose hours a team had. Raises KeyError and ValueError for what this version can't read."""
    row = said["schedules"][said["teams"].get(team, "default")]
    return WorkingHours(
        {int(day): _intervals(spans) for day, spans in row["week"].items()},
        ZoneInfo(row["zone"]),
        {date.fromisoformat(day): _intervals(spans) for day, spans in row["exceptions"].items()},
        row["country"],
    )


def _hours(hours: WorkingHours) -> dict[str, Any]:
    def spans(intervals: Any) -> list[list[str]]:
        return [[each.opens.isoformat(), each.closes.isoformat()] for each in intervals]

    return {
        "zone": hours.zone.key,
        "week": {str(day): spans(intervals) for day, intervals in hours.week.items()},
        "exceptions": {day.isoformat(): spans(intervals) for day, intervals in sorted(hours.exceptions.items())},
        "country": hours.country,
    }


def _intervals(spans: Any) -> list[Interval]:
    return [Interval(time.fromisoformat(opens), time.fromisoformat(closes)) for opens, closes in spans]
