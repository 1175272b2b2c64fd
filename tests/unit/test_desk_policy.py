"""desk.yml: schedules, teams, promises, urgency."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from bot.doctor import _teams as doctor_of_teams
from bot.settings import Settings
from bot.wiring import Installation
from handoff.clocks import Target
from handoff.errors import DeskFileError
from handoff.hours import Daytime, WorkingHours
from handoff.policy import LEVELS, DeskPolicy, Survey, load_policy
from handoff.routing import load_topics
from handoff.staff import put_agent

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


BERLIN = ZoneInfo("Europe/Berlin")
SURVEY = Survey(hours=Daytime(time(9), time(21)))
NIGHT_OF_SUMMER = datetime(2027, 3, 27, 22, tzinfo=BERLIN)  # at 2 it is 3: ten hours to nine o'clock
NIGHT_OF_WINTER = datetime(2027, 10, 30, 22, tzinfo=BERLIN)  # at 3 it is 2: twelve


@pytest.mark.parametrize(("night", "hours"), [(NIGHT_OF_SUMMER, 10), (NIGHT_OF_WINTER, 12)])
def test_who_would_be_asked_at_night_is_asked_when_the_day_begins(night: datetime, hours: int) -> None:
    at = night.astimezone(UTC)
    assert SURVEY.moment(at, BERLIN) == at + timedelta(hours=hours)
    assert SURVEY.moment(at, BERLIN).astimezone(BERLIN).time() == time(9)
    early = at + timedelta(hours=6)
    assert SURVEY.moment(early, BERLIN) == at + timedelta(hours=hours)
    evening, morning = at - timedelta(minutes=61), at + timedelta(hours=hours)
    assert SURVEY.moment(evening, BERLIN) == evening
    assert SURVEY.moment(morning, BERLIN) == morning
    assert Survey().moment(at, BERLIN) == at, "no hours: as ever"


@pytest.mark.parametrize(("night", "hours"), [(NIGHT_OF_SUMMER, 10), (NIGHT_OF_WINTER, 12)])
def test_where_the_window_ends_before_the_day_the_nearest_moment_to_one_is_taken(night: datetime, hours: int) -> None:
    at = night.astimezone(UTC)
    day, hour = at + timedelta(hours=hours), timedelta(hours=1)
    assert SURVEY.moment(at, BERLIN, day) == day
    assert SURVEY.moment(at, BERLIN, day - hour / 2) == day - hour / 2, "8:30 rather than 22:00"
    assert SURVEY.moment(at, BERLIN, day - 3 * hour) == at, "22:00 rather than 6:00"
    asked = SURVEY.moment(at, BERLIN, day - 3 * hour)
    assert SURVEY.moment(asked, BERLIN, day - 3 * hour) == asked, "its timer asks, and waits no more"
    assert SURVEY.moment(at, BERLIN, at - hour) == at


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
        ("survey: {hours: 21:00-9:00}\n", 1, "no part of a day"),
        ("waiting: {ask_after: 7d, end_after: 3d}\n", 1, "has to be longer"),
        ("nps: {ask: perhaps}\n", 1, "not true or false"),
        ("nps: {share: 2}\n", 1, "between 0 and 1"),
        ("nps: {hours: 20:00-10:00}\n", 1, "no part of a day"),
        ("nps: {every: often}\n", 1, "no time such as"),
        ("warn_at: 2\n", 1, "between 0 and 1"),
        ("teams: [\n", 2, "expected"),
    ],
)
def test_a_wrong_file_is_named_with_its_line(tmp_path: Path, text: str, line: int | None, says: str) -> None:
    with pytest.raises(DeskFileError, match=says) as caught:
        read(tmp_path, text)
    assert caught.value.line == line


async def test_the_doctor_names_teams_without_agents_and_who_stands_in(tmp_path: Path) -> None:
    installation = Installation(Settings(var=tmp_path, _env_file=None))
    try:
        assert (await doctor_of_teams(installation)).ok, "before anybody works there"
        async with installation.database.sessions.begin() as session:
            await put_agent(session, "Anna", now=datetime.now(UTC), teams=["first-line", "logistics"])
        found = await doctor_of_teams(installation)
        assert not found.ok
        assert "payments (first-line stands in)" in found.detail
        assert "logistics" not in found.detail
    finally:
        await installation.close()
