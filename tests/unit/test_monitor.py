"""Health, readiness and figures of a process, asked as Prometheus and a load balancer ask."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from databases import MakeDatabase
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families
from site_harness import Clock, Site, free_port
from sqlalchemy import text

from bot.channels.base import Address, InboundMessage
from bot.database import migrate, open_database
from bot.errors import SettingsError
from bot.ledger import receive
from bot.monitor import Monitor
from bot.timers import set_timer
from bot.work import Sessions


@pytest.fixture
async def sessions(make_database: MakeDatabase) -> AsyncIterator[Sessions]:
    engine, made = open_database(make_database())
    await migrate(engine)
    yield made
    await engine.dispose()


def monitor(sessions: Sessions, clock: Clock | None = None, model: str | None = "v1") -> Monitor:
    return Monitor(
        sessions=sessions,
        clock=clock or Clock(),
        channels=["site", "telegram"],
        listeners=lambda: 3,
        model=lambda: model,
    )


def values(figures: bytes) -> dict[str, float]:
    return {
        sample.name + "".join(f"/{value}" for value in sample.labels.values()): sample.value
        for family in text_string_to_metric_families(figures.decode())
        for sample in family.samples
    }


async def test_the_figures_tell_what_waits_and_how_long(sessions: Sessions) -> None:
    clock = Clock()
    begun = clock()
    for number in range(3):
        await receive(sessions, InboundMessage(Address("site", "", "7"), str(number), begun, text="тайна"), now=begun)
    async with sessions.begin() as session:
        await set_timer(session, "survey:1", "survey", begun + timedelta(seconds=10))
    clock.advance(60)

    figures = await monitor(sessions, clock).figures()

    found = values(figures)
    assert found["otvet_inbox_waiting/site"] == 3
    assert found["otvet_inbox_waiting/telegram"] == found["otvet_outbox_waiting/site"] == 0
    assert found["otvet_inbox_oldest_seconds/site"] == pytest.approx(60, abs=5)
    assert found["otvet_timers_waiting"] == 1
    assert found["otvet_timers_late_seconds"] == pytest.approx(50, abs=5)
    assert found["otvet_database_up"] == found["otvet_model/v1"] == 1
    assert found["otvet_streams"] == 3
    assert "process_start_time_seconds" in found
    assert "тайна" not in figures.decode()


async def test_what_a_turn_and_a_send_did_is_counted(tmp_path: Path) -> None:
    def counted(name: str, **labels: str) -> float:
        return REGISTRY.get_sample_value(name, labels) or 0.0

    names = [
        ("otvet_received_total", {"channel": "site", "repeat": "no"}),
        ("otvet_received_total", {"channel": "site", "repeat": "yes"}),
        ("otvet_turns_total", {"channel": "site", "rule": "person"}),
        ("otvet_turns_total", {"channel": "site", "rule": "error"}),
        ("otvet_sends_total", {"channel": "site", "state": "sent"}),
        ("otvet_turn_seconds_count", {"part": "understand"}),
        ("otvet_turn_seconds_count", {"part": "save"}),
        ("otvet_reply_seconds_count", {"channel": "site"}),
    ]
    before = [counted(name, **labels) for name, labels in names]
    site = Site(tmp_path)
    await site.prepare()
    for chat, external, words in (("1", "a", "a person"), ("1", "a", "a person"), ("2", "b", "boom")):
        await site.assistant.receive(InboundMessage(Address("site", "", chat), external, site.clock(), text=words))
    await site.assistant.drain()
    await site.engine.dispose()

    grown = {
        f"{name} {list(labels.values())}": counted(name, **labels) - was
        for (name, labels), was in zip(names, before, strict=True)
    }
    assert grown["otvet_received_total ['site', 'no']"] == 2
    assert grown["otvet_received_total ['site', 'yes']"] == 1
    assert grown["otvet_turns_total ['site', 'error']"] == 1
    assert grown["otvet_turn_seconds_count ['save']"] == 1
    assert grown["otvet_turn_seconds_count ['understand']"] == 2  # one of them broke
    assert grown["otvet_sends_total ['site', 'sent']"] == grown["otvet_reply_seconds_count ['site']"] == 3


async def test_ready_is_who_has_models_a_database_and_its_tables(sessions: Sessions) -> None:
    assert await monitor(sessions).problems() == []
    assert await monitor(sessions, model=None).problems() == ["no model is loaded"]
    async with sessions.begin() as session:
        await session.execute(text("UPDATE alembic_version SET version_num = '0000'"))
    assert await monitor(sessions).problems() == ["the database has tables of another release"]


async def test_a_database_that_is_away_is_told_and_nothing_old_is_shown(tmp_path: Path) -> None:
    engine, sessions = open_database(f"postgresql://nobody@127.0.0.1:{free_port()}/none")
    watch = monitor(sessions)
    assert await watch.problems() == ["the database does not answer"]
    found = values(await watch.figures())
    assert found["otvet_database_up"] == 0
    assert not [name for name in found if name.startswith("otvet_inbox")]
    await engine.dispose()


async def test_all_three_are_served_on_a_port_of_their_own(sessions: Sessions) -> None:
    port = free_port()
    watch = monitor(sessions, model=None)
    serving = asyncio.create_task(watch.serve("127.0.0.1", port))
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=5) as client:
        async with asyncio.timeout(10):
            while True:
                try:
                    assert (await client.get("/healthz")).json() == {"status": "ok"}
                    break
                except httpx.ConnectError:
                    await asyncio.sleep(0.02)
        ready = await client.get("/readyz")
        assert (ready.status_code, ready.json()["problems"]) == (503, ["no model is loaded"])
        answer = await client.get("/metrics")
        assert "otvet_inbox_waiting" in values(answer.content) or "otvet_inbox_waiting/site" in values(answer.content)
        assert answer.headers["content-type"].startswith("text/plain; version=")
        assert (await client.get("/")).status_code == 404
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


async def test_a_port_that_is_taken_is_named_by_its_setting(sessions: Sessions) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(SettingsError, match="OTVET_METRICS_PORT"):
        await monitor(sessions).serve("127.0.0.1", taken.getsockname()[1])
