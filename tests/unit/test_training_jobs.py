"""Trainings in the background: one at a time, estimated, cancelled, and noticed when their process dies."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

import pytest
from sqlalchemy import update

from bot.database import migrate, open_database
from bot.errors import TrainingError
from bot.models.records import TrainingJob, TrainingState
from bot.models.training_jobs import SILENT, START, Estimate, Jobs, Worker, ask, cancel, current, newest
from bot.work import Sessions

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
T = TypeVar("T")


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite+aiosqlite:///{tmp_path / 'otvet.sqlite3'}"


@pytest.fixture
async def sessions(url: str) -> AsyncIterator[Sessions]:
    engine, sessions = open_database(url)
    await migrate(engine)
    yield sessions
    await engine.dispose()


async def asked_for(sessions: Sessions) -> int:
    async with sessions.begin() as session:
        job, _ = await ask(session, by="Anna", at=NOW)
        return job.id


async def job(sessions: Sessions) -> TrainingJob:
    async with sessions.begin() as session:
        return (await newest(session))[0]


async def in_thread(work: Callable[[], T]) -> T:
    return await asyncio.to_thread(work)


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    end = time.monotonic() + 10
    while not await holds():
        assert time.monotonic() < end, "it did not come about"
        await asyncio.sleep(0.02)


async def test_while_one_training_waits_or_runs_another_click_is_the_same_one(sessions: Sessions) -> None:
    async with sessions.begin() as session:
        first, new = await ask(session, by="Anna", at=NOW, articles=[("warranty", "en")])
        second, again = await ask(session, by="Boris", at=NOW)
    assert (first.id, new, again) == (second.id, True, False)


async def test_a_training_tells_how_far_it_is_and_ends_with_its_version(sessions: Sessions, url: str) -> None:
    number = await asked_for(sessions)

    def train() -> None:
        with Worker(url, number, lambda: NOW) as worker:
            worker.estimate.begin("ranker")
            time.sleep(1.5)
            worker.version_id = "v1"

    running = asyncio.create_task(in_thread(train))
    await until(lambda: _is_at(sessions, "ranker"))
    seen = await job(sessions)
    assert seen.state is TrainingState.RUNNING
    assert 0 < seen.done < 1
    assert seen.seconds_left is not None
    await running
    done = await job(sessions)
    assert (done.state, done.version_id, done.done, done.seconds_left) == (TrainingState.DONE, "v1", 1.0, None)
    assert set(done.stages) == {"starting", "ranker"}
    async with sessions.begin() as session:
        assert await current(session) is None


async def _is_at(sessions: Sessions, stage: str) -> bool:
    return (await job(sessions)).stage == stage


async def test_a_fault_is_kept_with_the_training(sessions: Sessions, url: str) -> None:
    number = await asked_for(sessions)

    def train() -> None:
        with Worker(url, number, lambda: NOW):
            raise TrainingError("two intents are needed")

    with pytest.raises(TrainingError, match="two intents"):
        await in_thread(train)
    failed = await job(sessions)
    assert (failed.state, failed.error) == (TrainingState.FAILED, "two intents are needed")
    with pytest.raises(TrainingError, match="not waiting"):
        await in_thread(train)


async def test_one_that_waits_is_cancelled_at_once(sessions: Sessions) -> None:
    number = await asked_for(sessions)
    async with sessions.begin() as session:
        assert await cancel(session, number, at=NOW) is not None
    assert (await job(sessions)).state is TrainingState.CANCELLED
    async with sessions.begin() as session:
        assert await cancel(session, number, at=NOW) is None


async def test_a_running_process_ends_itself_when_it_is_cancelled(sessions: Sessions, url: str) -> None:
    number = await asked_for(sessions)
    code = (
        "import sys, time\nfrom datetime import UTC, datetime\nfrom bot.models.training_jobs import Worker\n"
        "with Worker(sys.argv[1], int(sys.argv[2]), lambda: datetime.now(UTC)):\n    time.sleep(30)"
    )
    jobs = Jobs(sessions, lambda: NOW, lambda number: (sys.executable, "-c", code, url, str(number)))
    await jobs.look()
    await until(lambda: _is(sessions, TrainingState.RUNNING))
    async with sessions.begin() as session:
        await cancel(session, number, at=NOW)
    await until(lambda: _is(sessions, TrainingState.CANCELLED))
    assert await in_thread(lambda: jobs.children[0].wait(5)) == 130


async def _is(sessions: Sessions, state: TrainingState) -> bool:
    return (await job(sessions)).state is state


async def test_a_training_whose_process_died_begins_again_once(sessions: Sessions, tmp_path: Path) -> None:
    clock, begun = Clock(), tmp_path / "begun"
    number = await asked_for(sessions)
    jobs = Jobs(sessions, clock, lambda _: (sys.executable, "-c", f"open({str(begun)!r}, 'a').write('x')"))

    async def dies(tries: int) -> None:
        async with sessions.begin() as session:
            values = {"state": TrainingState.RUNNING, "beat_at": clock.now, "tries": tries}
            await session.execute(update(TrainingJob).where(TrainingJob.id == number).values(**values))
        clock.now += SILENT + timedelta(seconds=1)
        await jobs.look()

    await dies(1)
    assert (await job(sessions)).state is TrainingState.QUEUED
    assert await in_thread(lambda: jobs.children[0].wait(10)) == 0
    assert begun.read_text() == "x"
    await dies(2)
    failed = await job(sessions)
    assert failed.state is TrainingState.FAILED
    assert "twice" in failed.error


async def test_one_that_was_taken_for_dead_has_no_say_any_more(sessions: Sessions, url: str) -> None:
    number = await asked_for(sessions)
    first, second = (Worker(url, number, lambda: NOW) for _ in range(2))
    await in_thread(first.__enter__)
    first._over.set()  # its process stands still
    async with sessions.begin() as session:
        await session.execute(update(TrainingJob).values(state=TrainingState.QUEUED))
    await in_thread(second.__enter__)
    first.version_id, second.version_id = "v1", "v2"
    await in_thread(lambda: first.__exit__(None, None, None))
    assert (await job(sessions)).state is TrainingState.RUNNING
    await in_thread(lambda: second.__exit__(None, None, None))
    assert ((await job(sessions)).state, (await job(sessions)).version_id) == (TrainingState.DONE, "v2")


async def test_a_process_that_never_starts_is_told_of(sessions: Sessions) -> None:
    clock = Clock()
    await asked_for(sessions)
    jobs = Jobs(sessions, clock, lambda _: (sys.executable, "-c", "raise SystemExit(1)"))
    await jobs.look()
    assert await in_thread(lambda: jobs.children[0].wait(10)) == 1
    await jobs.look()
    assert (await job(sessions)).state is TrainingState.QUEUED
    clock.now += START
    await jobs.look()
    failed = await job(sessions)
    assert failed.state is TrainingState.FAILED
    assert "did not start" in failed.error


def test_the_estimate_follows_what_the_stages_took_before() -> None:
    now = 0.0
    estimate = Estimate({"starting": 2.0, "intents": 8.0, "judging": 10.0}, lambda: now)
    assert estimate.left() == (0.0, 20.0)
    now = 2.0
    estimate.begin("intents")
    now = 6.0
    assert list(estimate.left()) == pytest.approx([0.3, 14.0])
    estimate.encoded(100, 1000)
    share, left = estimate.left()
    assert left == pytest.approx(36 + 4 + 10)
    assert estimate.detail == "100/1000"
    now = 60.0
    estimate.begin("judging")
    now = 100.0
    share, left = estimate.left()
    assert left == pytest.approx(2.0)
    larger = Estimate({"starting": 2.0, "intents": 8.0, "ranker": 5.0, "judging": 10.0}, lambda: 0.0)
    larger.grow(4)
    assert larger.left() == (0.0, 2 + 64 + 20 + 10), "four times as many examples are learnt"
    assert share == pytest.approx(100 / 102)
    assert estimate.took == {"starting": 2.0, "intents": 58.0}
