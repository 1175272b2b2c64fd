"""desk.yml: when people work, which teams there are, what is promised, what is urgent."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, time, timedelta, tzinfo
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.error import MarkedYAMLError

from handoff.clocks import Target
from handoff.errors import DeskFileError
from handoff.hours import Daytime, WorkingHours, read_schedules
from handoff.nps import Nps
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
    """Since the question, and later by as much as the reminder was: then the ticket counts as settled, but not as
    confirmed."""
    hours: Daytime | None = None
    """In the time zone of the default schedule. None: at any time."""

    def moment(self, at: datetime, zone: tzinfo, until: datetime | None = None) -> datetime:
        """When to ask whose time has come: at once or when the next day begins. Where a platform's window leaves no
        day `until` then, a moment of the night, but the one that is nearest to a day."""
        if self.hours is None or (until is not None and at > until):
            return at
        day = self.hours.next(at, zone)
        if until is None or day <= until:
            return day
        return at if at - self.hours.last(at, zone) <= day - until else until


@dataclass(frozen=True)
class Waiting:
    """Customers who say nothing more after an agent's reply, in time of the wall clock since it."""

    ask_after: timedelta = timedelta(days=3)
    """Then he is asked whether it is settled; before the end of a platform's window in any case."""
    end_after: timedelta = timedelta(days=7)
    """Then the ticket is closed, as one to which there was no answer."""


EVENTS = (
    *("created", "assigned", "taken_over", "customer_wrote", "warned", "breached", "escalated", "mentioned"),
    *("came_back", "undelivered", "unassigned", "urgent", "report"),
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
    waiting: Waiting | None = None
    """None: a ticket waits for its customer for ever."""
    nps: Nps = field(default_factory=Nps)
    notify: Notify = Notify()

    @property
    def zone(self) -> ZoneInfo:
        """In which the days of all reports begin and end, whosever they are."""
        return self.schedules["default"].zone

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
        if self.is_urgent(texts):
            wanted.append("urgent")
        return max(wanted, key=PRIORITIES.index)

    def is_urgent(self, texts: Sequence[str]) -> bool:
        """Whether a word of urgency is among them."""
        said = "\n".join(texts).lower().replace("ё", "е")
        return any(re.search(rf"\b{re.escape(word)}", said) for words in self.urgent_words.values() for word in words)


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
        raise DeskFileError(path, "expected schedules, teams, promises, urgent, segments, survey, waiting, nps, notify")
    _known(
        path,
        content,
        {"schedules", "teams", "promises", "urgent", "segments", "survey", "waiting", "nps", "notify", "warn_at"},
    )
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
        waiting=_patience(path, content),
        nps=_nps(path, content),
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
    _known(path, row, {"after", "remind_after", "give_up_after", "hours"})
    found: dict[str, Any] = {}
    for key, value in row.items():
        found[key] = (_span if key == "hours" else duration)(path, value, row.lc.key(key)[0] + 1)
    return Survey(**found)


def _patience(path: Path, content: Any) -> Waiting | None:
    row = _mapping(path, content, "waiting")
    if not row:
        return None
    _known(path, row, {"ask_after", "end_after"})
    found = Waiting(**{key: duration(path, value, row.lc.key(key)[0] + 1) for key, value in row.items()})
    if found.end_after <= found.ask_after:
        line = content.lc.key("waiting")[0] + 1
        raise DeskFileError(path, "`waiting` asks before it ends: `end_after` has to be longer than `ask_after`", line)
    return found


def _nps(path: Path, content: Any) -> Nps:
    row = _mapping(path, content, "nps")
    if not row:
        return Nps()
    _known(path, row, {"ask", "after", "every", "share", "hours"})
    found: dict[str, Any] = {}
    for key, value in row.items():
        line = row.lc.key(key)[0] + 1
        if key in ("after", "every"):
            found[key] = duration(path, value, line)
        elif key == "hours":
            found[key] = _span(path, value, line)
        elif isinstance(value, bool) if key == "ask" else _is_share(value):
            found[key] = value
        else:
            wanted = "true or false" if key == "ask" else "a share between 0 and 1"
            raise DeskFileError(path, f"`{key}: {value}` is not {wanted}", line)
    return Nps(**found)


def _is_share(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def _span(path: Path, value: Any, line: int) -> Daytime:
    try:
        opens, closes = (time.fromisoformat(part.strip().zfill(5)) for part in str(value).split("-"))
    except ValueError:
        opens = closes = time()
    if opens >= closes:
        raise DeskFileError(path, f"`hours: {value}` is no part of a day such as 10:00-20:00", line)
    return Daytime(opens, closes)


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
