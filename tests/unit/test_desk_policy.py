"""desk.yml: schedules, teams, promises, urgency."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from handoff.clocks import Target
from handoff.errors import DeskFileError
from handoff.hours import WorkingHours
from handoff.policy import LEVELS, DeskPolicy, load_policy
from handoff.routing import load_topics

DATA = Path(__file__).parents[2] / "data"
TOPICS = load_topics(DATA / "topics.yml")
DEFAULT = WorkingHours()


@pytest.fixture(scope="module")
def demo() -> DeskPolicy:
    return load_policy(DATA / "desk.yml", DEFAULT)


def read(tmp_path: Path, text: str) -> DeskPolicy:
    path = tmp_path / "desk.yml"
    path.write_text(text, encoding="utf-8")
    return load_policy(path, DEFAULT)


def test_every_team_of_the_demo_topics_is_described(demo: DeskPolicy) -> None:
    assert {topic.team for topic in TOPICS.all.values()} <= set(demo.teams)
    assert all({"ru", "en"} <= set(team.title) for team in demo.teams.values())
    assert all(topic.level in LEVELS for topic in TOPICS.all.values())


def test_without_a_file_the_topics_own_times_hold(tmp_path: Path) -> None:
    policy = load_policy(tmp_path / "none.yml", DEFAULT)
    topic = TOPICS.get("warranty")
    assert policy.target(topic, "normal", None) == Target(timedelta(minutes=30))
    assert policy.hours_of("anybody") is DEFAULT


def test_a_team_has_its_own_hours(demo: DeskPolicy) -> None:
    lunch = datetime(2026, 11, 23, 10, 30, tzinfo=UTC)  # 13:30 in Moscow
    assert demo.hours_of("first-line").contains(lunch)
    assert not demo.hours_of("service").contains(lunch)


def test_the_first_promise_that_fits_counts(demo: DeskPolicy) -> None:
    payment, orders = TOPICS.get("payment"), TOPICS.get("orders")
    assert demo.target(orders, "urgent", "vip").resolution == timedelta(hours=4)
    assert demo.target(orders, "urgent", None).first_response == timedelta(minutes=5)
    assert demo.target(payment, "high", None) == Target(
        timedelta(minutes=15), timedelta(minutes=20), timedelta(hours=4)
    )


@pytest.mark.parametrize(
    ("text", "segment", "priority"),
    [
        ("Где мой заказ", None, "normal"),
        ("Где мой заказ", "vip", "high"),
        ("СРОЧНО! где мой заказ", None, "urgent"),
        ("с карты пропали деньги", None, "urgent"),
        ("My account was hacked", None, "urgent"),
        ("несрочно, но хотелось бы знать", None, "normal"),
        ("не могу найти статус", "business", "normal"),
    ],
)
def test_words_and_segment_raise_the_priority(demo: DeskPolicy, text: str, segment: str | None, priority: str) -> None:
    assert demo.priority(TOPICS.get("orders"), [text], segment) == priority


def test_schedules_are_read(tmp_path: Path) -> None:
    policy = read(
        tmp_path,
        "schedules:\n  night:\n    zone: Europe/Berlin\n    week:\n      fri-mon: ['22:00-06:00']\n"
        "      wed: [09:00-13:00, 14:00-24:00]\n    exceptions:\n      2026-12-30: []\n",
    )
    assert policy.schedules["default"] is DEFAULT
    night, berlin = policy.schedules["night"], ZoneInfo("Europe/Berlin")
    assert [len(night.week[day]) for day in range(7)] == [1, 0, 2, 0, 1, 1, 1]
    assert night.contains(datetime(2026, 11, 25, 23, 59, tzinfo=berlin))
    assert not night.contains(datetime(2026, 12, 30, 10, 0, tzinfo=berlin))


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("[]\n", None, "expected schedules"),
        ("hours: {}\n", 1, "unknown key `hours`"),
        ("schedules: [a]\n", None, "expected `schedules:`"),
        ("schedules:\n  a: {}\n", 2, "needs a `week`"),
        ("schedules:\n  a:\n    week:\n      monday: 9:00-18:00\n", 4, "names no days"),
        ("schedules:\n  a:\n    week:\n      mon: 9-18\n", 4, "no interval such as"),
        ("schedules:\n  a:\n    week:\n      mon: ['9:00-25:00']\n", 4, "no interval such as"),
        ("schedules:\n  a:\n    week:\n      mon: ['9:00-14:00', '13:00-18:00']\n", 4, "overlap"),
        ("schedules:\n  a:\n    week:\n      mon: []\n", 2, "nobody works"),
        ("schedules:\n  a:\n    zone: Mars/Olympus\n    week:\n      mon: ['9:00-14:00']\n", 2, "no name such as"),
        ("schedules:\n  a:\n    holidays: ZZ\n    week:\n      mon: ['9:00-14:00']\n", 2, "no public holidays"),
        ("schedules:\n  a:\n    exceptions:\n      x: []\n    week:\n      mon: ['9:00-14:00']\n", 4, "no date"),
        ("schedules:\n  a:\n    days: 5\n    week:\n      mon: ['9:00-14:00']\n", 2, "unknown key `days`"),
        ("teams:\n  - title: x\n", 2, "needs an `id`"),
        ("teams:\n  - id: a\n    hours: night\n", 2, "names no schedule"),
        ("teams:\n  - id: a\n    escalates_to: b\n", 2, "names no team"),
        ("promises:\n  - {priority: soon, resolution: 1h}\n", 2, "none of low"),
        ("promises:\n  - {resolution: 1 week}\n", 2, "no time such as"),
        ("promises:\n  - {resolution: 1h, fastest: 1h}\n", 2, "unknown key `fastest`"),
        ("promises: 5\n", 1, "needs a list"),
        ("segments: {vip: soon}\n", 1, "none of low"),
        ("survey: {after: soon}\n", 1, "no time such as"),
        ("warn_at: 2\n", 1, "between 0 and 1"),
        ("teams: [\n", 2, "expected"),
    ],
)
def test_a_wrong_file_is_named_with_its_line(tmp_path: Path, text: str, line: int | None, says: str) -> None:
    with pytest.raises(DeskFileError, match=says) as caught:
        read(tmp_path, text)
    assert caught.value.line == line
