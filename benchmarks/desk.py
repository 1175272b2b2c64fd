"""How fast the web desk is: the queue with many tickets, and a new message on the screens of many agents.

    python -m benchmarks.desk --queue 50000
    python -m benchmarks.desk --live --agents 50 --rate 30 --seconds 20

Both on the embedded default (SQLite), over HTTP, in one server process of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import socket
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import quantiles
from typing import Any

import httpx
from sqlalchemy import insert

from bot.settings import Settings
from bot.wiring import Installation
from handoff.access import Role
from handoff.clocks import ClockKind
from handoff.lifecycle import LIVE, TicketStatus
from handoff.records import (
    Agent,
    Author,
    ClockRow,
    Conversation,
    HistoryEntry,
    Message,
    Owner,
    Presence,
    Reason,
    Ticket,
)

PASSWORD = "benchmark password"  # noqa: S105 - of a database that is thrown away
TEAMS = ("first-line", "logistics", "payments", "service", "business")
TOPICS = ("orders", "delivery", "payment", "returns", "warranty")
TEXTS = (
    "Где мой заказ? Обещали вчера, курьер не звонил",
    "Деньги списали дважды, верните, пожалуйста",
    "The parcel has not arrived, the courier never called",
    "Хочу вернуть телевизор: на экране царапина",
    "My card was charged twice for one order",
)
RUNS = 20
BATCH = 2000


def _installation(var: Path) -> Installation:
    return Installation(Settings(_env_file=None, var=var))


async def _fill(installation: Installation, tickets: int, agents: int) -> None:
    """Live tickets in five teams with four messages and two clocks each, and agents who have some of them."""
    chance = random.Random(7)  # noqa: S311 - not for secrets
    now = datetime.now(UTC)
    async with installation.database.sessions.begin() as session:
        await session.execute(
            insert(Agent),
            [
                {
                    "name": f"Agent {number}",
                    "teams": [TEAMS[number % len(TEAMS)]],
                    "langs": [],
                    "notify": [],
                    "level": "L1",
                    "capacity": 1000,
                    "schedule": "default",
                    "presence": Presence.AWAY,  # nobody is given anything meanwhile
                    "active": True,
                    "created_at": now,
                }
                for number in range(1, agents + 1)
            ],
        )
    statuses = sorted(LIVE)
    for first in range(1, tickets + 1, BATCH):
        rows: dict[type[Any], list[dict[str, Any]]] = {
            kind: [] for kind in (Conversation, Ticket, Message, ClockRow, HistoryEntry)
        }
        for number in range(first, min(first + BATCH, tickets + 1)):
            at = now - timedelta(minutes=chance.randrange(1, 60_000))
            team = chance.randrange(len(TEAMS))
            status = statuses[chance.randrange(len(statuses))]
            rows[Conversation].append(
                {
                    "id": number,
                    "channel": "site",
                    "account": "",
                    "chat_id": f"chat{number}",
                    "customer_name": f"Customer {number}",
                    "lang": "ru",
                    "owner": Owner.PERSON,
                    "epoch": 1,
                    "state": {},
                    "created_at": at,
                    "updated_at": at,
                }
            )
            rows[Ticket].append(
                {
                    "id": number,
                    "conversation_id": number,
                    "status": status,
                    "reason": Reason.LOW_CONFIDENCE,
                    "topic": TOPICS[team],
                    "routed_by": "intent",
                    "team": TEAMS[team],
                    "level": "L1",
                    "priority": chance.choice(("low", "normal", "normal", "high", "urgent")),
                    "lang": "ru",
                    "subject": TEXTS[team],
                    "assignee_id": chance.randrange(1, agents + 1) if chance.random() < 0.7 else None,
                    "given_away": [],
                    "promised_at": at + timedelta(minutes=10),
                    "created_at": at,
                    "updated_at": at,
                    "reopened": 0,
                }
            )
            rows[Message] += [
                {
                    "conversation_id": number,
                    "author": Author.CUSTOMER if turn % 2 == 0 else Author.AGENT,
                    "agent_name": None if turn % 2 == 0 else "Agent 1",
                    "kind": "text",
                    "text": TEXTS[(team + turn) % len(TEXTS)],
                    "options": [],
                    "edits": [],
                    "repeats": 0,
                    "sent_at": at + timedelta(minutes=turn),
                    "created_at": at + timedelta(minutes=turn),
                }
                for turn in range(4)
            ]
            stands = status not in (TicketStatus.NEW, TicketStatus.OPEN)
            rows[ClockRow] += [
                {
                    "ticket_id": number,
                    "kind": kind,
                    "target_seconds": seconds,
                    "used_seconds": 0.0,
                    "running_since": None if stands else at,
                    "due_at": None if stands else at + timedelta(seconds=seconds),
                    "look_at": None,
                    "raised": 2,
                }
                for kind, seconds in ((ClockKind.NEXT_RESPONSE, 1800), (ClockKind.RESOLUTION, 43_200))
            ]
            rows[HistoryEntry].append(
                {
                    "ticket_id": number,
                    "at": at,
                    "event": "created",
                    "actor": "assistant",
                    "status": TicketStatus.NEW,
                    "details": {},
                }
            )
        async with installation.database.sessions.begin() as session:
            for kind, values in rows.items():
                await session.execute(insert(kind), values)


async def _prepare(var: Path, tickets: int, agents: int, accounts: Mapping[str, tuple[Role, Sequence[str]]]) -> None:
    installation = _installation(var)
    await installation.migrate()
    await _fill(installation, tickets, agents)
    for name, (role, teams) in accounts.items():
        async with installation.database.sessions.begin() as session:
            token = await installation.accounts.invite(session, role=role, by="benchmark", name=name, teams=teams)
        await installation.accounts.accept(token, name=name, login=name, password=PASSWORD, lang="en")
    await installation.close()


async def _serve(var: Path, port: int) -> None:
    """The web part alone, as `otvet serve --role web` runs it, without models."""
    import uvicorn

    from bot.channels.site import SiteChannel
    from bot.model_wiring import utc_now
    from bot.web.app import create_app

    installation = _installation(var)
    site = SiteChannel(installation.attachments, installation.shared)
    assistant = installation.assistant([site])
    desk = installation.desk_web(site)
    app = create_app(
        sessions=installation.database.sessions,
        receive=assistant.receive,
        clock=utc_now,
        site=site,
        shop={"ru": "Клён", "en": "Klyon"},
        requests_a_minute=0,  # everybody comes from one address here
        desk=desk,
    )
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning", access_log=False))
    feed = asyncio.create_task(desk.feed.run())
    await server.serve()
    feed.cancel()


async def _start(var: Path) -> tuple[asyncio.subprocess.Process, str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    arguments = (sys.executable, "-m", "benchmarks.desk", "--serve", str(var), "--port", str(port))
    process = await asyncio.create_subprocess_exec(*arguments)
    url = f"http://127.0.0.1:{port}"
    async with httpx.AsyncClient() as web:
        for _ in range(400):
            try:
                await web.get(f"{url}/healthz")
                return process, url
            except httpx.TransportError:
                await asyncio.sleep(0.1)
    raise RuntimeError("the server did not start")


async def _sign_in(url: str, name: str) -> httpx.AsyncClient:
    web = httpx.AsyncClient(base_url=url, timeout=30)
    for _ in range(20):
        if (await web.post("/desk/sign-in", data={"login": name, "password": PASSWORD})).status_code == 303:
            return web
        await asyncio.sleep(3)  # the limit for one address
    raise RuntimeError("nobody could sign in")


def _ms(seconds: Sequence[float]) -> dict[str, float]:
    cuts = quantiles(seconds, n=20)
    return {"p50_ms": round(cuts[9] * 1000, 1), "p95_ms": round(cuts[18] * 1000, 1)}


async def queue(tickets: int) -> dict[str, Any]:
    """The whole page of each view, and a search, as an agent's browser gets it."""
    with tempfile.TemporaryDirectory() as folder:
        accounts = {"chief": (Role.SUPERVISOR, ()), "agent": (Role.AGENT, ("first-line",))}
        await _prepare(Path(folder), tickets, 50, accounts)
        process, url = await _start(Path(folder))
        results: dict[str, dict[str, float]] = {}
        try:
            for name in accounts:
                web = await _sign_in(url, name)
                for view in ("mine", "unassigned", "team", "waiting", "breach", "all", "ended"):
                    results[f"{name}:{view}"] = _ms(await _timed(web, f"/desk/queue?view={view}"))
                results[f"{name}:topic"] = _ms(await _timed(web, "/desk/queue?view=all&topic=delivery"))
                results[f"{name}:search"] = _ms(await _timed(web, "/desk/queue?words=царапина"))
                results[f"{name}:number"] = _ms(await _timed(web, f"/desk/queue?words={tickets // 2}"))
                results[f"{name}:ticket"] = _ms(await _timed(web, "/desk/tickets/1" if name == "chief" else "/desk/me"))
                await web.aclose()
        finally:
            process.terminate()
            await process.wait()
    worst = max(each["p95_ms"] for each in results.values())
    return {"tickets": tickets, "engine": "sqlite", "worst_p95_ms": worst, "views": results}


async def _timed(web: httpx.AsyncClient, path: str) -> list[float]:
    taken = []
    for number in range(RUNS + 2):
        begun = time.perf_counter()
        answer = await web.get(path)
        answer.raise_for_status()
        if number > 1:
            taken.append(time.perf_counter() - begun)
    return taken


async def live(agents: int, rate: float, seconds: float) -> dict[str, Any]:
    """From the beginning of a message's transaction, in another process, until the page that shows it has it."""
    with tempfile.TemporaryDirectory() as folder:
        accounts = {f"desk{number}": (Role.SUPERVISOR, ()) for number in range(1, 11)}
        await _prepare(Path(folder), max(agents, 200), 10, accounts)
        process, url = await _start(Path(folder))
        installation = _installation(Path(folder))
        delays: list[float] = []
        written: dict[str, float] = {}
        try:
            clients = [await _sign_in(url, name) for name in accounts]
            ready = [asyncio.Event() for _ in range(agents)]
            watchers = [
                asyncio.create_task(_watch(clients[n % len(clients)], n + 1, written, delays, ready[n]))
                for n in range(agents)
            ]
            async with asyncio.timeout(60):
                for event in ready:
                    await event.wait()
            begun, number = time.perf_counter(), 0
            while time.perf_counter() < begun + seconds:
                number += 1
                mark = f"mark{number}x"
                written[mark] = time.perf_counter()
                await _write(installation, number % agents + 1, mark)
                await asyncio.sleep(max(0.0, begun + number / rate - time.perf_counter()))
            await asyncio.sleep(5)
            for task in watchers:
                task.cancel()
            await asyncio.gather(*watchers, return_exceptions=True)
            for web in clients:
                await web.aclose()
        finally:
            process.terminate()
            await process.wait()
            await installation.close()
    return {
        "agents": agents,
        "rate": round(number / seconds, 1),
        "messages": number,
        "shown": len(delays),
        "engine": "sqlite",
        **_ms(delays),
        "worst_ms": round(max(delays) * 1000, 1),
    }


async def _watch(
    web: httpx.AsyncClient, ticket: int, written: dict[str, float], delays: list[float], ready: asyncio.Event
) -> None:
    """What the page of one agent does: listen, and fetch the news of its ticket."""
    page = (await web.get(f"/desk/tickets/{ticket}")).text
    newest = max(int(found) for found in re.findall(r'data-id="(\d+)" data-author', page))
    async with web.stream("GET", "/desk/events", timeout=None) as answer:
        async for line in answer.aiter_lines():
            if line.startswith("event: hello"):
                ready.set()
            if not line.startswith("data: ") or ticket not in json.loads(line[6:]).get("tickets", ()):
                continue
            news = (await web.get(f"/desk/tickets/{ticket}/news?after={newest}", headers={"HX-Request": "true"})).text
            now = time.perf_counter()
            newest = max([newest, *(int(found) for found in re.findall(r'data-id="(\d+)" data-author', news))])
            for mark in re.findall(r'class="said">(mark\d+x)', news):
                delays.append(now - written[mark])


async def _write(installation: Installation, conversation_id: int, text: str) -> None:
    now = datetime.now(UTC)
    async with installation.database.sessions.begin() as session:
        session.add(
            Message(
                conversation_id=conversation_id,
                author=Author.CUSTOMER,
                text=text,
                sent_at=now,
                created_at=now,
            )
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--queue", type=int, default=0, metavar="TICKETS")
    parser.add_argument("--live", action="store_true")
    parser.add_argument("--agents", type=int, default=50)
    parser.add_argument("--rate", type=float, default=30.0)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, default=0, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        asyncio.run(_serve(given.serve, given.port))
        return
    if given.queue:
        print(json.dumps(asyncio.run(queue(given.queue))))
    if given.live:
        print(json.dumps(asyncio.run(live(given.agents, given.rate, given.seconds))))


if __name__ == "__main__":
    main()
