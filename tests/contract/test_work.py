"""What every engine of durable work promises, on SQLite in process and on PostgreSQL by procrastinate."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest
from databases import MakeDatabase, all_connections_taken
from sqlalchemy import text

from bot import ledger
from bot.channels.base import Address, InboundMessage
from bot.database import migrate, open_database
from bot.ledger import InboxState
from bot.work import Handle, Sessions, enqueue

NOBODY = Address("test", "", "nobody")


class Bench:
    """Messages in a real ledger, and workers that take them from it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.engine, self.sessions = open_database(url)
        self.opened = [self.engine]
        self.handled: list[tuple[str, str]] = []
        """Chat and external id, in the order of handling."""

    async def say(self, chat: str, number: int) -> None:
        message = InboundMessage(Address("test", "", chat), f"{chat}-{number}", datetime.now(UTC), text=str(number))
        assert await ledger.receive(self.sessions, message, now=datetime.now(UTC))

    async def handle(self, address: Address) -> None:
        """Take what waits, one by one, slowly enough for another worker to get in between."""
        async with self.sessions.reading() as session:
            rows = await ledger.pending(session, address)
        for row in rows:
            await asyncio.sleep(0.005)
            async with self.sessions.begin() as session:
                if await ledger.take(session, [row], InboxState.DONE, now=datetime.now(UTC)):
                    self.handled.append((address.chat_id, row.external_id))

    def another_process(self) -> Sessions:
        engine, sessions = open_database(self.url)
        self.opened.append(engine)
        return sessions

    @asynccontextmanager
    async def worker(self, handle: Handle | None = None, sessions: Sessions | None = None) -> AsyncIterator[None]:
        work = (sessions or self.sessions).work
        task = asyncio.create_task(work.run(handle or self.handle, self.find))
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def find(self) -> Sequence[Address]:
        async with self.sessions.reading() as session:
            return await ledger.waiting(session, ["test"], now=datetime.now(UTC))

    async def all_handled(self, count: int, seconds: float = 15) -> None:
        async with asyncio.timeout(seconds):
            while len(self.handled) < count:  # noqa: ASYNC110
                await asyncio.sleep(0.02)


@pytest.fixture
async def bench(make_database: MakeDatabase) -> AsyncIterator[Bench]:
    made = Bench(make_database())
    await migrate(made.engine)
    yield made
    for engine in made.opened:
        await engine.dispose()


async def test_what_was_committed_is_handled_in_order_and_once(bench: Bench) -> None:
    async with bench.worker():
        for number in range(10):
            for chat in "abc":
                await bench.say(chat, number)
        await bench.all_handled(30)
    for chat in "abc":
        assert [key for where, key in bench.handled if where == chat] == [f"{chat}-{n}" for n in range(10)]


async def test_what_was_rolled_back_wakes_nobody(bench: Bench) -> None:
    woken: list[Address] = []

    async def note(address: Address) -> None:
        woken.append(address)

    async with bench.worker(note):
        with contextlib.suppress(ZeroDivisionError):
            async with bench.sessions.begin() as session:
                await enqueue(session, NOBODY)
                raise ZeroDivisionError
        await asyncio.sleep(0.5)
    assert woken == []


async def test_what_waited_before_the_start_is_handled(bench: Bench) -> None:
    await bench.say("a", 1)
    async with bench.worker():
        await bench.all_handled(1)


async def test_what_another_process_writes_is_handled_within_a_second(bench: Bench) -> None:
    other = bench.another_process()
    async with bench.worker():
        await asyncio.sleep(0.3)
        message = InboundMessage(Address("test", "", "a"), "1", datetime.now(UTC), text="hello")
        await ledger.receive(other, message, now=datetime.now(UTC))
        await bench.all_handled(1, seconds=1.5)


async def test_one_conversation_is_never_handled_twice_at_once(bench: Bench) -> None:
    at_once: dict[str, int] = {}
    most = 0

    async def handle(address: Address) -> None:
        nonlocal most
        at_once[address.chat_id] = at_once.get(address.chat_id, 0) + 1
        most = max(most, at_once[address.chat_id])
        await bench.handle(address)
        at_once[address.chat_id] -= 1

    async with bench.worker(handle):
        for number in range(20):
            await bench.say("a", number)
            await asyncio.sleep(0.003)
        await bench.all_handled(20)
    assert most == 1


async def test_different_conversations_are_handled_at_once(bench: Bench) -> None:
    arrived = asyncio.Barrier(3)

    async def handle(address: Address) -> None:
        await arrived.wait()
        await bench.handle(address)

    async with bench.worker(handle):
        for chat in "abc":
            await bench.say(chat, 1)
        await bench.all_handled(3)


async def test_a_fault_in_one_conversation_stops_no_other_and_is_tried_again(bench: Bench) -> None:
    faults = 0

    async def handle(address: Address) -> None:
        nonlocal faults
        if address.chat_id == "bad" and (faults < 2 or not bench.handled):
            faults += 1
            raise RuntimeError("no")
        await bench.handle(address)

    async with bench.worker(handle):
        await bench.say("bad", 1)
        await bench.say("good", 1)
        await bench.all_handled(2)
    assert faults >= 2
    assert [chat for chat, _ in bench.handled] == ["good", "bad"]


async def test_a_stop_waits_for_what_is_in_hand(bench: Bench) -> None:
    begun, finished = asyncio.Event(), False

    async def handle(address: Address) -> None:
        nonlocal finished
        begun.set()
        await asyncio.sleep(0.5)
        await bench.handle(address)
        finished = True

    async with bench.worker(handle):
        await bench.say("a", 1)
        await begun.wait()
    assert finished
    assert bench.sessions.work.stopping
    assert len(bench.handled) == 1


async def test_work_for_later_does_not_hold_up_the_conversation(bench: Bench) -> None:
    async with bench.worker():
        async with bench.sessions.begin() as session:
            await enqueue(session, Address("test", "", "a"), at=datetime.now(UTC) + timedelta(minutes=1))
        await bench.say("a", 1)
        await bench.all_handled(1, seconds=3)


async def test_work_of_one_name_is_done_by_one_process_and_taken_over_when_it_ends(bench: Bench) -> None:
    first, second = bench.sessions.work, bench.another_process().work
    doing: list[str] = []

    async def forever(name: str) -> None:
        doing.append(name)
        await asyncio.Event().wait()

    one = asyncio.create_task(first.exclusively("poll", lambda: forever("one")))
    await asyncio.sleep(0.5)
    two = asyncio.create_task(second.exclusively("poll", lambda: forever("two")))
    await asyncio.sleep(1.5)
    assert doing == ["one"]
    one.cancel()
    async with asyncio.timeout(5):
        while doing != ["one", "two"]:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    two.cancel()
    await asyncio.gather(one, two, return_exceptions=True)


async def test_a_second_worker_on_the_same_database_does_no_harm(bench: Bench) -> None:
    other = bench.another_process()
    async with bench.worker(), bench.worker(sessions=other):
        for number in range(10):
            for chat in "abc":
                await bench.say(chat, number)
        await bench.all_handled(30)
    for chat in "abc":
        assert [key for where, key in bench.handled if where == chat] == [f"{chat}-{n}" for n in range(10)]


async def test_an_error_of_exclusive_work_is_the_callers(bench: Bench) -> None:
    async def broken() -> None:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        await bench.sessions.work.exclusively("poll", broken)
    await asyncio.wait_for(bench.sessions.work.exclusively("poll", _nothing), 5)  # and its name is free again


async def test_exclusive_work_waits_for_a_connection(bench: Bench) -> None:
    async with all_connections_taken(bench.engine):
        work = asyncio.create_task(bench.sessions.work.exclusively("poll", _nothing))
        await asyncio.sleep(0.5)
    await asyncio.wait_for(work, 5)


async def _nothing() -> None:
    return


async def test_messages_that_wait_together_are_looked_at_once(bench: Bench) -> None:
    """A conversation with something to do gets no second job: the one that waits sees everything."""
    await bench.say("a", 1)
    await bench.say("a", 2)
    await bench.say("b", 1)
    seen: list[tuple[str, int]] = []

    async def handle(address: Address) -> None:
        async with bench.sessions.reading() as session:
            seen.append((address.chat_id, len(await ledger.pending(session, address))))
        await bench.handle(address)

    async with bench.worker(handle):
        await bench.all_handled(3)
        await asyncio.sleep(0.3)
    assert sorted(each for each in seen if each[1]) == [("a", 2), ("b", 1)]
    assert len(seen) <= 4, "an empty look may follow a message that came at the last moment, no more"


async def test_whoever_has_a_conversation_in_hand_is_not_woken_for_it(bench: Bench) -> None:
    looked = 0

    async def handle(address: Address) -> None:
        nonlocal looked
        looked += 1
        await bench.handle(address)
        if looked == 1:
            async with bench.sessions.in_hand(address) as session:
                await enqueue(session, address)

    await bench.say("a", 1)
    async with bench.worker(handle):
        await bench.all_handled(1)
        await asyncio.sleep(0.5)
    assert looked == 1


async def test_a_connection_that_the_server_ended_is_replaced_before_it_is_used(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    if bench.engine.dialect.name != "postgresql":
        pytest.skip("SQLite has no server that could end a connection")
    monkeypatch.setattr("bot.database.IDLE_SECONDS", 0.0)
    async with bench.sessions.reading() as session:
        first = await session.scalar(text("SELECT pg_backend_pid()"))
    killer, _ = open_database(bench.url)
    async with killer.begin() as connection:
        assert await connection.scalar(text("SELECT pg_terminate_backend(:pid)"), {"pid": first})
    await killer.dispose()
    await asyncio.sleep(0.2)
    async with bench.sessions.reading() as session:
        assert await session.scalar(text("SELECT pg_backend_pid()")) != first
