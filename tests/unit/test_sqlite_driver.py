import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import text

from bot import sqlite_driver
from bot.database import POOL_SIZE, open_database
from bot.work import Sessions


@pytest.fixture
async def sessions(tmp_path: Path) -> AsyncIterator[Sessions]:
    engine, sessions = open_database(f"sqlite+aiosqlite:///{tmp_path / 'turns.sqlite3'}")
    async with sessions.begin() as session:
        await session.execute(text("CREATE TABLE said (line INTEGER PRIMARY KEY, who INTEGER)"))
    yield sessions
    await engine.dispose()


async def write(sessions: Sessions, who: int, holding: asyncio.Event | None = None, seconds: float = 0.0) -> None:
    async with sessions.begin() as session:
        await session.execute(text("INSERT INTO said (who) VALUES (:who)"), {"who": who})
        if holding:
            holding.set()
        await asyncio.sleep(seconds)


async def said(sessions: Sessions) -> list[int]:
    async with sessions.reading() as session:
        return list(await session.scalars(text("SELECT who FROM said ORDER BY line")))


async def test_writers_write_in_the_order_in_which_they_asked(sessions: Sessions) -> None:
    async with asyncio.TaskGroup() as opening:  # the connections, so that nobody waits for one
        for _ in range(POOL_SIZE):
            opening.create_task(said(sessions))
    for _ in range(5):
        async with asyncio.TaskGroup() as asking:
            for who in range(POOL_SIZE):
                asking.create_task(write(sessions, who, seconds=0.005))
    assert await said(sessions) == [*range(POOL_SIZE)] * 5


async def test_a_reader_waits_for_no_writer(sessions: Sessions) -> None:
    holding = asyncio.Event()
    writing = asyncio.create_task(write(sessions, 1, holding, seconds=0.5))
    await holding.wait()
    async with asyncio.timeout(0.4):
        assert await said(sessions) == []
    await writing


async def test_a_writer_cancelled_in_the_queue_or_in_its_turn_gives_the_turn_away(sessions: Sessions) -> None:
    holding = asyncio.Event()
    first = asyncio.create_task(write(sessions, 1, holding, seconds=60))
    await holding.wait()
    second, third = (asyncio.create_task(write(sessions, who)) for who in (2, 3))
    await asyncio.sleep(0.05)
    second.cancel()
    await asyncio.sleep(0.05)
    first.cancel()
    async with asyncio.timeout(5):
        await third
    assert await said(sessions) == [3]


async def test_a_writer_that_failed_gives_the_turn_away(sessions: Sessions) -> None:
    async def fail() -> None:
        async with sessions.begin() as session:
            await session.execute(text("INSERT INTO said (who) VALUES (1)"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    async with asyncio.timeout(5):
        await write(sessions, 2)
    assert await said(sessions) == [2]


async def test_the_queue_holds_nobody_up_for_good(sessions: Sessions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_driver, "LONGEST_WAIT_SECONDS", 0.05)
    holding = asyncio.Event()
    slow = asyncio.create_task(write(sessions, 1, holding, seconds=0.4))
    await holding.wait()
    await asyncio.gather(slow, write(sessions, 2), write(sessions, 3))  # past the queue: SQLite's own waiting
    assert sorted(await said(sessions)) == [1, 2, 3]
    async with asyncio.timeout(5):
        await write(sessions, 4)
