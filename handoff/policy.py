"""desk.yml: when people work, which teams there are, what is promised, what is urgent."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.error import MarkedYAMLError

from handoff.clocks import Target
from handoff.errors import DeskFileError
from handoff.hours import WorkingHours, read_schedules
from handoff.routing import PRIORITIES, Topic

LEVELS = ("L1", "L2", "L3", "supervisor")
"""The way of an escalation."""
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True)
class Team:
    """Who takes a topic's tickets. A team that desk.yml does not name has the default hours and no one above it."""

    id: str
    title: Mapping[str, str] = field(default_factory=dict)
    schedule: str = "default"
    escalates_to: str | None = None
    """The team that takes over when a level above is wanted and this team has none."""


@dataclass(frozen=True)
class Promise:
    """Times for the tickets that it fits; what is not named is not promised."""

    target: Target
    topic: str | None = None
    priority: str | None = None
    segment: str | None = None

    def fits(self, topic: str, priority: str, segment: str | None) -> bool:
        return self.topic in (None, topic) and self.priority in (None, priority) and self.segment in (None, segment)


@dataclass(frozen=True)
class Survey:
    """When a customer is asked whether it helped, in time of the wall clock."""

    after: timedelta = timedelta(hours=1)
    remind_after: timedelta = timedelta(hours=20)
    """Since the question. Once."""
    give_up_after: timedelta = timedelta(hours=48)
    """Since the question: then the ticket counts as settled, but not as confirmed."""


EVENTS = (
    *("created", "assigned", "customer_wrote", "warned", "breached", "escalated", "mentioned", "unassigned"),
    *("urgent", "report"),
)
"""Of what agents and teams can be told; desk.yml explains them."""


@dataclass(frozen=True)
class Notify:
    """Of what people are told beside the desk, and how often."""

    events: Sequence[str] = EVENTS
    through_quiet: Sequence[str] = ("breached", "urgent")
    """What does not wait for the end of quiet hours."""
    join: timedelta = timedelta(seconds=20)
    """How long what follows may still join the same message."""
    unassigned_after: timedelta = timedelta(minutes=5)
    an_hour: int = 30
    """Messages to one address. What is more waits and is joined; what goes through quiet hours does not."""
    subject: bool = False
    """Whether the customer's own words are told, too. Messengers keep them."""


@dataclass(frozen=True)
class DeskPolicy:
    schedules: Mapping[str, WorkingHours]
    teams: Mapping[str, Team] = field(default_factory=dict)
    promises: Sequence[Promise] = ()
    """The first that fits counts."""
    urgent_words: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Language → beginnings of words and phrases that make a ticket urgent."""
    segment_priority: Mapping[str, str] = field(default_factory=dict)
    """Segment → the least priority of its tickets."""
    warn_at: float = 0.75
    """Share of the promised time after which the one who has the ticket is warned."""
    survey: Survey = Survey()
    notify: Notify = Notify()

    def team(self, team_id: str) -> Team:
        return self.teams.get(team_id) or Team(team_id)

    def hours_of(self, team_id: str) -> WorkingHours:
        return self.schedules[self.team(team_id).schedule]

    def target(self, topic: Topic, priority: str, segment: str | None) -> Target:
        """What is promised: a topic's own `expected_minutes` is its first response where no promise says more."""
        found = next((p.target for p in self.promises if p.fits(topic.id, priority, segment)), Target())
        first = found.first_response or timedelta(minutes=topic.expected_minutes)
        return Target(first, found.next_response, found.resolution)

    def priority(self, topic: Topic, texts: Sequence[str], segment: str | None) -> str:
        """The highest of what the topic, the segment and the words of the customer ask for."""
        wanted = [topic.priority, self.segment_priority.get(segment or "", "low")]
        said = "\n".join(texts).lower().replace("ё", "е")
        if any(re.search(rf"\b{re.escape(word)}", said) for words in self.urgent_words.values() for word in words):
            wanted.append("urgent")
        return max(wanted, key=PRIORITIES.index)


def load_policy(path: Path, default: WorkingHours) -> DeskPolicy:
    """Read desk.yml; a missing file gives one schedule, no promises but the topics' own.

    Raises DeskFileError with the line.
    """
    if not path.exists():
        return DeskPolicy({"default": default})
    try:
        content: Any = YAML(typ="rt").load(path.read_text(encoding="utf-8"))
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        raise DeskFileError(path, str(error.problem), line) from error
    except UnicodeDecodeError as error:
        raise DeskFileError(path, "the file is not UTF-8: save it as UTF-8") from error
    if content is None:
        return DeskPolicy({"default": default})
    if not isinstance(content, CommentedMap):
        raise DeskFileError(path, "expected schedules, teams, promises, urgent, segments, survey, notify")
    _known(path, content, {"schedules", "teams", "promises", "urgent", "segments", "survey", "notify", "warn_at"})
    schedules = read_schedules(path, content.get("schedules"), default)
    warn_at = content.get("warn_at", 0.75)
    if not isinstance(warn_at, int | float) or not 0 < warn_at < 1:
        raise DeskFileError(path, "`warn_at` is a share between 0 and 1", content.lc.key("warn_at")[0] + 1)
    return DeskPolicy(
        schedules=schedules,
        teams={team.id: team for team in _teams(path, content, schedules)},
        promises=[_promise(path, row) for row in _rows(path, content, "promises")],
        urgent_words={
            str(lang): tuple(str(word).lower().replace("ё", "е") for word in words or ())
            for lang, words in _mapping(path, content, "urgent").items()
        },
        segment_priority={
            str(name): _one_of(path, priority, PRIORITIES, content["segments"].lc.key(name)[0] + 1)
            for name, priority in _mapping(path, content, "segments").items()
        },
        warn_at=float(warn_at),
        survey=_survey(path, content),
        notify=_notify(path, content),
    )


def _teams(path: Path, content: Any, schedules: Mapping[str, WorkingHours]) -> list[Team]:
    found = []
    for row in _rows(path, content, "teams"):
        line = row.lc.line + 1
        _known(path, row, {"id", "title", "hours", "escalates_to"})
        if not row.get("id"):
            raise DeskFileError(path, "a team needs an `id`", line)
        schedule = str(row.get("hours", "default"))
        if schedule not in schedules:
            raise DeskFileError(path, f"`hours: {schedule}` names no schedule", line)
        title = row.get("title") or {}
        above = row.get("escalates_to")
        found.append(
            Team(
                id=str(row["id"]),
                title={str(k): str(v) for k, v in title.items()} if isinstance(title, dict) else {"": str(title)},
                schedule=schedule,
                escalates_to=str(above) if above else None,
            )
        )
    known = {team.id for team in found}
    for row, team in zip(_rows(path, content, "teams"), found, strict=True):
        if team.escalates_to is not None and team.escalates_to not in known:
            raise DeskFileError(path, f"`escalates_to: {team.escalates_to}` names no team", row.lc.line + 1)
    return found


def _promise(path: Path, row: Any) -> Promise:
    times = ("first_response", "next_response", "resolution")
    _known(path, row, {"topic", "priority", "segment", *times})
    line = row.lc.line + 1
    if "priority" in row:
        _one_of(path, row["priority"], PRIORITIES, line)
    target = Target(**{name: duration(path, row[name], line) for name in times if row.get(name) is not None})
    return Promise(target, *(str(row[key]) if key in row else None for key in ("topic", "priority", "segment")))


def _survey(path: Path, content: Any) -> Survey:
    row = _mapping(path, content, "survey")
    if not row:
        return Survey()
    _known(path, row, {"after", "remind_after", "give_up_after"})
    return Survey(**{key: duration(path, value, row.lc.key(key)[0] + 1) for key, value in row.items()})


def _notify(path: Path, content: Any) -> Notify:
    row = _mapping(path, content, "notify")
    if not row:
        return Notify()
    _known(path, row, {"events", "through_quiet", "join", "unassigned_after", "an_hour", "subject"})
    found: dict[str, Any] = {}
    for key, value in row.items():
        line = row.lc.key(key)[0] + 1
        if key in ("events", "through_quiet"):
            if not isinstance(value, list):
                raise DeskFileError(path, f"`{key}` needs a list: {', '.join(EVENTS)}", line)
            found[key] = tuple(_one_of(path, event, EVENTS, line) for event in value)
        elif key in ("join", "unassigned_after"):
            found[key] = duration(path, value, line)
        elif isinstance(value, bool) if key == "subject" else isinstance(value, int) and value > 0:
            found[key] = value
        else:
            raise DeskFileError(path, f"`{key}: {value}` is not what it can be", line)
    return Notify(**found)


def duration(path: Path, value: Any, line: int) -> timedelta:
    """`30s`, `10m`, `1h 30m` or `2d` (24 hours each)."""
    text = str(value).replace(" ", "")
    if not re.fullmatch(r"(\d+[smhd])+", text):
        raise DeskFileError(path, f"`{value}` is no time such as 10m, 8h or 2d", line)
    return timedelta(seconds=sum(int(n) * UNITS[unit] for n, unit in re.findall(r"(\d+)([smhd])", text)))


def _rows(path: Path, content: Any, key: str) -> Sequence[Any]:
    rows = content.get(key) or []
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DeskFileError(path, f"`{key}` needs a list", content.lc.key(key)[0] + 1)
    return rows


def _mapping(path: Path, content: Any, key: str) -> Any:
    found = content.get(key) or {}
    if not isinstance(found, dict):
        raise DeskFileError(path, f"`{key}` needs names with values", content.lc.key(key)[0] + 1)
    return found


def _known(path: Path, row: Any, keys: set[str]) -> None:
    for key in row:
        if key not in keys:
            raise DeskFileError(path, f"unknown key `{key}`: {', '.join(sorted(keys))}", row.lc.key(key)[0] + 1)


def _one_of(path: Path, value: Any, known: Sequence[str], line: int) -> str:
    if str(value) not in known:
        raise DeskFileError(path, f"`{value}` is none of {', '.join(known)}", line)
    return str(value)
