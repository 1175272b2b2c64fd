"""Timers on both databases: once, on a clock that is moved, whoever else works and whatever breaks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from databases import MakeDatabase, all_connections_taken
from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from bot.database import migrate, open_database
from bot.ledger import KEPT, PURGE, InboxRow, InboxState, purge
from bot.timers import LEASE, Timer, Timers, cancel_timer, send_errand, set_timer
from handoff import desk
from handoff.records import Conversation

START = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)


class Desk:
    """Surveys, as a part that needs a clock would have them: the effect is a row of its own."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.now = START
        self.faults = 0
        self.engine, self.sessions = open_database(url)
        self.engines = [self.engine]
        self.timers = self.process()

    def process(self) -> Timers:
        """The timers of one more process."""
        engine, sessions = open_database(self.url)
        self.engines.append(engine)
        timers = Timers(sessions, lambda: self.now)
        timers.register("survey", self.ask)
        return timers

    async def ask(self, session: AsyncSession, payload: Mapping[str, Any], now: datetime) -> None:
        await desk.open_conversation(session, channel="survey", account="", chat_id=payload["chat"], now=now)
        await asyncio.sleep(0.01)
        if self.faults:
            self.faults -= 1
            raise RuntimeError("no")

    async def set(self, chat: str, due_at: datetime) -> None:
        async with self.sessions.begin() as session:
            await set_timer(session, f"survey:{chat}", "survey", due_at, {"chat": chat})

    async def asked(self) -> list[str]:
        async with self.sessions() as session:
            query = select(Conversation.chat_id).where(Conversation.channel == "survey").order_by(Conversation.id)
            return list(await session.scalars(query))


@pytest.fixture
async def surveys(make_database: MakeDatabase) -> AsyncIterator[Desk]:
    made = Desk(make_database())
    await migrate(made.engine)
    yield made
    for engine in made.engines:
        await engine.dispose()


async def test_a_timer_fires_at_its_moment_and_once(surveys: Desk) -> None:
    await surveys.set("a", START + HOUR)
    assert await surveys.timers.fire_due() == 0
    surveys.now += HOUR
    assert await surveys.timers.fire_due() == 1
    assert await surveys.timers.fire_due() == 0
    assert await surveys.asked() == ["a"]


async def test_timers_survive_a_restart_and_fire_in_the_order_of_their_moments(surveys: Desk) -> None:
    await surveys.set("late", START + 2 * HOUR)
    await surveys.set("early", START + HOUR)
    surveys.now += 3 * HOUR
    assert await surveys.process().fire_due() == 2
    assert await surveys.asked() == ["early", "late"]


async def test_of_processes_that_race_each_timer_fires_in_one(surveys: Desk) -> None:
    for number in range(20):
        await surveys.set(str(number), START)
    fired = await asyncio.gather(*(surveys.process().fire_due() for _ in range(3)))
    fired.append(await surveys.timers.fire_due())
    assert sum(fired) == 20
    assert len(await surveys.asked()) == 20


async def test_timers_outlive_a_time_without_connections(surveys: Desk) -> None:
    engine, sessions = open_database(surveys.url)
    surveys.engines.append(engine)
    timers = Timers(sessions, lambda: surveys.now, tick_seconds=0.05)
    timers.register("survey", surveys.ask)
    task = asyncio.create_task(timers.run())
    await asyncio.sleep(0.3)
    async with all_connections_taken(engine):
        await asyncio.sleep(0.5)
    await surveys.set("a", START)
    async with asyncio.timeout(5):
        while not task.done() and await surveys.asked() != ["a"]:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert not task.done()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_timer_of_the_same_key_takes_the_place_of_the_first(surveys: Desk) -> None:
    await surveys.set("a", START)
    await surveys.set("a", START + HOUR)
    assert await surveys.timers.fire_due() == 0
    surveys.now += HOUR
    assert await surveys.timers.fire_due() == 1


async def test_a_cancelled_timer_does_not_fire(surveys: Desk) -> None:
    await surveys.set("a", START)
    async with surveys.sessions.begin() as session:
        assert await cancel_timer(session, "survey:a")
        assert not await cancel_timer(session, "survey:a")
    assert await surveys.timers.fire_due() == 0


async def test_a_timer_whose_work_breaks_leaves_no_trace_and_fires_later(surveys: Desk) -> None:
    surveys.faults = 1
    await surveys.set("a", START)
    await surveys.set("b", START)
    await surveys.timers.fire_due()
    assert await surveys.asked() == ["b"]
    surveys.now += HOUR
    await surveys.timers.fire_due()
    assert await surveys.asked() == ["b", "a"]


async def test_a_statement_that_the_database_never_takes_holds_up_no_other_timer(surveys: Desk) -> None:
    async def broken(session: AsyncSession, _payload: Mapping[str, Any], _now: datetime) -> None:
        await session.execute(text("SELECT missing FROM nowhere"))

    surveys.timers.register("broken", broken)
    async with surveys.sessions.begin() as session:
        await set_timer(session, "broken", "broken", START)
    await surveys.set("Anna", START + HOUR)
    surveys.now += HOUR
    assert await surveys.timers.fire_due() == 2
    assert await surveys.asked() == ["Anna"]
    async with surveys.sessions() as session:
        (left,) = (await session.scalars(select(Timer).where(Timer.kind == "broken"))).all()
    assert (left.failures, left.due_at > surveys.now) == (1, True)
    assert "nowhere" in (left.error or "")


async def test_a_timer_of_an_unknown_kind_waits_for_the_release_that_knows_it(surveys: Desk) -> None:
    async with surveys.sessions.begin() as session:
        await set_timer(session, "x", "unknown", START)
    await surveys.set("a", START)
    assert await surveys.timers.fire_due() == 1
    async with surveys.sessions() as session:
        assert list(await session.scalars(select(Timer.key))) == ["x"]


async def test_a_standing_timer_is_there_after_the_start_and_again_after_it_fired(surveys: Desk) -> None:
    surveys.timers.register(PURGE, purge, standing=True)
    async with surveys.sessions.begin() as session:
        for age, state in ((KEPT + HOUR, InboxState.DONE), (HOUR, InboxState.DONE), (None, InboxState.PENDING)):
            session.add(
                InboxRow(
                    channel="t",
                    account="",
                    chat_id="c",
                    external_id=str(age),
                    payload={},
                    state=state,
                    received_at=START,
                    done_at=None if age is None else START - age,
                )
            )
    running = asyncio.create_task(surveys.timers.run())
    async with asyncio.timeout(10):
        while True:
            async with surveys.sessions() as session:
                if await session.scalar(select(func.count(InboxRow.id))) == 2:
                    break
            await asyncio.sleep(0.05)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    async with surveys.sessions() as session:
        assert await session.scalar(select(Timer.due_at).where(Timer.key == PURGE)) == START + HOUR


class Post:
    """Somebody who is called, and what he was told."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.fault = False
        self.gate: asyncio.Event | None = None
        self.again: datetime | None = None

    async def take(self, payload: Mapping[str, Any]) -> datetime | None:
        self.calls.append(payload["word"])
        if self.gate is not None:
            await self.gate.wait()
        if self.fault:
            raise RuntimeError("503")
        again, self.again = self.again, None
        return again


async def send(surveys: Desk, word: str, at: datetime | None = None) -> None:
    async with surveys.sessions.begin() as session:
        await send_errand(session, "post:1", "post", at or surveys.now, {"word": word})


async def left(surveys: Desk) -> int:
    async with surveys.sessions() as session:
        return await session.scalar(select(func.count(Timer.id)).where(Timer.kind == "post")) or 0


@pytest.fixture
def post(surveys: Desk) -> Post:
    made = Post()
    surveys.timers.register_errand("post", made.take)
    return made


async def test_an_errand_is_done_once_and_at_the_earlier_of_two_moments(surveys: Desk, post: Post) -> None:
    await send(surveys, "a", START + HOUR)
    await send(surveys, "b", START)
    await send(surveys, "c", START + 2 * HOUR)
    assert await surveys.timers.run_errands() == 1
    assert await surveys.timers.run_errands() == 0
    assert post.calls == ["c"]
    assert await left(surveys) == 0


async def test_a_rolled_back_errand_is_never_done(surveys: Desk, post: Post) -> None:
    async with surveys.sessions() as session:
        await send_errand(session, "post:1", "post", surveys.now, {"word": "a"})
        await session.rollback()
    assert await surveys.timers.run_errands() == 0


async def test_an_errand_that_fails_is_tried_again_later_and_new_asks_do_not_hurry_it(
    surveys: Desk, post: Post
) -> None:
    post.fault = True
    await send(surveys, "a")
    await surveys.timers.run_errands()
    await send(surveys, "b")
    assert await surveys.timers.run_errands() == 0
    surveys.now += timedelta(seconds=10)
    post.fault = False
    assert await surveys.timers.run_errands() == 1
    assert (post.calls, await left(surveys)) == (["a", "b"], 0)


async def test_what_is_asked_for_while_an_errand_is_done_is_done_too_and_never_at_once(
    surveys: Desk, post: Post
) -> None:
    post.gate = asyncio.Event()
    await send(surveys, "a")
    first = asyncio.create_task(surveys.timers.run_errands())
    while not post.calls:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    await send(surveys, "b")
    other = surveys.process()
    other.register_errand("post", post.take)
    assert await other.run_errands() == 0, "it is somebody's"
    post.gate.set()
    await first
    assert (post.calls, await left(surveys)) == (["a", "b"], 0)


async def test_an_errand_of_a_process_that_died_is_done_by_another(surveys: Desk, post: Post) -> None:
    post.gate = asyncio.Event()
    await send(surveys, "a")
    died = asyncio.create_task(surveys.timers.run_errands())
    while not post.calls:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    post.gate = None
    other = surveys.process()
    other.register_errand("post", post.take)
    assert await other.run_errands() == 0
    surveys.now += LEASE
    assert await other.run_errands() == 1
    assert await left(surveys) == 0
    for task in surveys.timers._busy:
        task.cancel()
    await asyncio.gather(died, return_exceptions=True)


async def test_an_errand_with_more_to_do_goes_again_at_its_moment(surveys: Desk, post: Post) -> None:
    post.again = START + HOUR
    await send(surveys, "a")
    assert await surveys.timers.run_errands() == 1
    surveys.now += HOUR
    assert await surveys.timers.run_errands() == 1
    assert await left(surveys) == 0


async def test_a_slow_errand_does_not_hold_up_the_timers(surveys: Desk, post: Post) -> None:
    post.gate = asyncio.Event()
    await send(surveys, "a")
    await surveys.set("soon", surveys.now)
    running = asyncio.create_task(surveys.timers.run())
    async with asyncio.timeout(5):
        while not (post.calls and await surveys.asked()):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert await left(surveys) == 1, "cut short, so done again"
