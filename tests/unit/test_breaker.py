"""A platform that is away or hangs: its messages wait in order, the others go on, and it is tried again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
from databases import MakeDatabase
from site_harness import Clock
from sqlalchemy import text
from test_turns import Recorder, World, at_work

from bot.breaker import FAILURES, IN_FLIGHT, Breaker, Breakers, troubles
from bot.channels.base import Address
from bot.database import migrate
from bot.errors import DeliveryError, PacedError, UnreachableError

AWAY = DeliveryError("Telegram could not be reached: TimeoutError")


async def fails(error: DeliveryError = AWAY) -> None:
    raise error


async def works() -> None:
    return


async def opened(clock: Clock) -> Breaker:
    breaker = Breaker(clock)
    for _ in range(FAILURES):
        with pytest.raises(DeliveryError):
            await breaker.call(fails)
    return breaker


class TestTheBreaker:
    async def test_after_so_many_failures_nothing_is_tried_until_its_time(self) -> None:
        clock = Clock()
        breaker = await opened(clock)
        assert breaker.is_open
        with pytest.raises(PacedError, match="TimeoutError") as caught:
            await breaker.call(works)
        assert 4 < (caught.value.retry_after_seconds or 0) < 9
        clock.advance(6)
        await breaker.call(works)
        assert not breaker.is_open

    async def test_one_alone_tries_and_a_failure_doubles_the_pause(self) -> None:
        clock = Clock()
        breaker = await opened(clock)
        for pause in (5, 10, 20, 40, 60, 60):
            clock.advance(pause + 0.1)
            gate = asyncio.Event()

            async def probe(gate: asyncio.Event = gate) -> None:
                await gate.wait()
                raise AWAY

            trying = asyncio.create_task(breaker.call(probe))
            await asyncio.sleep(0)
            with pytest.raises(PacedError):
                breaker.check()
            gate.set()
            with pytest.raises(DeliveryError):
                await trying
        assert breaker.is_open

    @pytest.mark.parametrize(
        "error",
        [
            DeliveryError("the text is empty", permanent=True),
            DeliveryError("slow down", retry_after_seconds=5),
            UnreachableError("blocked", permanent=True),
        ],
    )
    async def test_what_the_platform_itself_refuses_shows_that_it_is_there(self, error: DeliveryError) -> None:
        breaker = Breaker(Clock())
        for _ in range(3 * FAILURES):
            with pytest.raises(DeliveryError):
                await breaker.call(lambda: fails(error))
        assert not breaker.is_open

    async def test_calls_that_were_under_way_when_it_opened_prolong_nothing_and_free_no_second_try(self) -> None:
        clock, gates = Clock(), (asyncio.Event(), asyncio.Event())
        breaker = Breaker(clock)

        async def slow(gate: asyncio.Event) -> None:
            await gate.wait()
            raise AWAY

        under_way = [asyncio.create_task(breaker.call(partial(slow, gates[n > 9]))) for n in range(12)]
        await asyncio.sleep(0)
        gates[0].set()
        await asyncio.wait(under_way[:10])
        assert breaker.is_open
        clock.advance(6)
        probe = asyncio.create_task(breaker.call(asyncio.Event().wait))
        await asyncio.sleep(0)
        gates[1].set()
        await asyncio.gather(*under_way, return_exceptions=True)
        with pytest.raises(PacedError):
            breaker.check()
        probe.cancel()
        await asyncio.gather(probe, return_exceptions=True)
        await breaker.call(works)
        assert not breaker.is_open

    async def test_a_cancelled_try_leaves_the_next_one_free(self) -> None:
        clock = Clock()
        breaker = await opened(clock)
        clock.advance(6)
        trying = asyncio.create_task(breaker.call(asyncio.Event().wait))
        await asyncio.sleep(0)
        trying.cancel()
        with pytest.raises(asyncio.CancelledError):
            await trying
        await breaker.call(works)
        assert not breaker.is_open


@pytest.fixture
async def world(tmp_path: Path, make_database: MakeDatabase) -> AsyncIterator[World]:
    made = World(tmp_path, database=make_database())
    await migrate(made.engine)
    yield made
    await made.engine.dispose()


async def test_messages_wait_in_order_and_are_all_sent_once_when_the_platform_is_back(world: World) -> None:
    world.channel.refusals = [AWAY] * FAILURES
    for chat in range(10):
        await world.hear("where is my order", chat=f"c{chat}", key=f"a{chat}")
    for chat in range(10):
        await world.hear("return", chat=f"c{chat}", key=f"b{chat}")
    assert world.channel.sent == []
    async with world.sessions.begin() as session:
        [trouble] = await troubles(session)
    assert (trouble.channel, trouble.waiting) == ("recorder", 30)  # a greeting to each, and two answers
    assert "TimeoutError" in trouble.why
    for _ in range(40):
        world.clock.advance(30)
        await world.assistant.drain()
    assert len(world.channel.sent) == 30
    async with world.sessions.begin() as session:
        assert await troubles(session) == []
    written = {row.id: row.conversation_id for row in await world.transcript()}
    for conversation in set(written.values()):
        sent = [m.message_id for m in world.channel.sent if written[m.message_id] == conversation]
        assert sent == sorted(set(sent))
    assert await world.tickets() == [], "nobody was bothered"


async def test_what_a_process_found_before_it_died_is_forgotten_once_another_gets_through(world: World) -> None:
    world.channel.refusals = [AWAY] * FAILURES
    for chat in range(FAILURES):
        await world.hear("where is my order", chat=f"c{chat}")
    next_one = Breakers(world.sessions, world.clock)
    async with world.sessions.begin() as session:
        assert len(await troubles(session)) == 1
    await next_one.call(Address("recorder", "", "c"), works)
    async with world.sessions.begin() as session:
        assert await troubles(session) == []


async def test_a_platform_that_one_process_can_not_reach_stays_in_trouble_though_another_gets_through(
    world: World,
) -> None:
    address, one, other = Address("recorder", "", "c"), *(Breakers(world.sessions, world.clock) for _ in range(2))
    for _ in range(FAILURES):
        with pytest.raises(DeliveryError):
            await one.call(address, fails)
    await other.call(address, works)
    world.clock.advance(120)
    with pytest.raises(DeliveryError):
        await one.call(address, fails)
    async with world.sessions.begin() as session:
        assert len(await troubles(session)) == 1


async def test_a_send_that_went_through_counts_as_such_though_the_table_can_not_be_written(world: World) -> None:
    breakers = Breakers(world.sessions, world.clock)
    async with world.engine.begin() as connection:
        await connection.execute(text("DROP TABLE channel_troubles"))
    await breakers.call(Address("recorder", "", "c"), works)


async def test_a_day_later_a_person_hears_of_it(world: World) -> None:
    world.channel.refusals = [AWAY] * 10_000
    await world.hear("where is my order")
    for _ in range(200):
        world.clock.advance(600)
        await world.assistant.drain()
    notes = [message.text for message in await world.transcript() if message.kind == "note"]
    assert any("TimeoutError" in note for note in notes)
    assert (world.clock() - (await world.transcript())[0].created_at) > timedelta(hours=24)


async def test_a_platform_that_hangs_takes_no_places_from_the_others(world: World) -> None:
    other = Recorder()
    other.name = "other"
    world.assistant.channels["other"] = other
    world.channel.hold = asyncio.Event()
    for chat in range(3 * IN_FLIGHT):
        await world.assistant.receive(world.message("hi", chat=f"h{chat}", key=f"h{chat}"))
    async with at_work(world):
        async with asyncio.timeout(30):
            while not world.channel.held:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        await asyncio.sleep(0.5)
        message = world.message("where is my order", key="o")
        await world.assistant.receive(replace(message, address=Address("other", "", "x")))
        async with asyncio.timeout(15):
            while len(other.sent) < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert world.assistant._breakers.of(Address("recorder", "", ""))._in_flight == IN_FLIGHT
        world.channel.hold.set()
