"""Turns a second, the time from receipt to send, backlog, memory, and how the cost grows.

    python -m benchmarks.load [--engine sqlite|postgresql] [--workers 2] [--rate 30] [--seconds 30] [--turns 1500]
        [--backlog 10000] [--memory 50000] [--scale 1,2,4] [--stored 1000,100000,1000000]

Prints JSON. Models, turns, ledger, outbox and the engine of durable work are real; the platform is a process of its own
and everything goes over HTTP (benchmarks/standin.py). Database, platform and workers share the machine's cores. The
messages are development questions of the demo shop that the assistant answers or asks back about (a handoff would make
it silent), each with a number of its own, so that no two are alike and no encoding comes from a cache; all are whole
questions, for which nothing is waited. A turn counts when the customer got something else than the greeting from it.

- `turns_per_second`: so many messages as `--turns` lie in the ledger, of five times fewer customers; the workers begin,
  and the time runs until the platform has the last reply.
- `p50_ms`, `p95_ms`: so many messages a second as `--rate` come for so many seconds, each of a customer who is not
  waiting for anything; from the moment at which the platform sends the message to that at which it has the answer. A
  greeting before it does not count as one.

Longer measurements, each by its own option: `--backlog` works off so many messages that lie there and looks whether
each customer got his answers in order; `--memory` does the same and reads the workers' memory all the while; `--scale`
measures turns a second with so many workers; `--stored` measures both figures with so many conversations of five
messages each in the database.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import func, select

from benchmarks.fleet import Fleet, ask, in_a_fork, load_installation, new_database, platform, say
from benchmarks.ledger import questions_of
from benchmarks.standin import NAME, Journal, Plan, Sent
from benchmarks.stored import store_conversations
from bot.channels.base import Address, InboundMessage
from bot.ledger import InboxRow, InboxState, OutboxRow, receive
from bot.models.evaluation import Question, judge
from bot.wiring import Installation

MESSAGES = 5
LOADERS = 16
STUCK_SECONDS = 60.0
GREETING = "greeting"
QUESTIONS = Path("eval") / "dialogue.dev.jsonl"


class Bench:
    """One database with its workers, measured several times."""

    def __init__(self, installation: Installation, questions: Sequence[str], folder: Path) -> None:
        self.installation = installation
        self._questions = questions
        self._folder = folder
        self._made = 0
        self._random = random.Random(0)  # noqa: S311 - a simulation

    def messages(self, count: int, of_each: int = MESSAGES) -> dict[str, list[Sent]]:
        """So many messages of new customers, no two alike."""
        made: dict[str, list[Sent]] = {}
        first = self._made
        self._made += count
        for number in range(first, self._made):
            text = _numbered(self._random.choice(self._questions), number + 10_000)
            made.setdefault(f"load-{first}-{number // of_each}", []).append(Sent(f"m{number}", text))
        return made

    def work_off(self, count: int, workers: int, sample: Callable[[Fleet], None] | None = None) -> dict[str, Any]:
        """Have so many messages lie there, then start the workers; until the last reply is out."""
        chats = self.messages(count)
        in_a_fork(lambda: self._fill(chats))
        fleet = Fleet(self.installation, workers)
        journal = self._folder / f"work-off-{self._made}.jsonl"
        with platform(Plan(fleet.webhook, {}, spread=0), journal) as address:
            load = os.getloadavg()[0]
            fleet.start(address)
            fleet.wait_until_ready()
            started = time.time()
            left = count
            while left:
                time.sleep(0.5)
                fleet.ready()
                if sample is not None:
                    sample(fleet)
                idle = ask(address, "/progress")["idle_seconds"]
                if idle > 1:
                    left = in_a_fork(lambda: self._left())
                if idle > STUCK_SECONDS:
                    raise RuntimeError(f"{left} messages are stuck")
            cpu = fleet.cpu_seconds()
            fleet.stop()
        failed = in_a_fork(lambda: self._failed())
        replies = Journal.load(journal).replies
        seconds = replies[-1].at - started
        answered = sum(reply.kind != GREETING for reply in replies)
        return {
            "messages": count,
            "failed": failed,
            # Fewer than the messages: a customer whom a person has by then gets no answer from the assistant.
            "answered": answered,
            "turns_per_second": round(answered / seconds, 1),
            "replies": len(replies),
            "seconds": round(seconds, 1),
            "cpu_ms_per_turn_in_workers": round(1000 * cpu / answered, 1),
            "out_of_order": _out_of_order([(reply.chat, reply.key) for reply in replies]),
            "load_average_before": round(load, 1),
        }

    def at_rate(self, rate: float, seconds: float, workers: int) -> dict[str, Any]:
        """So many messages a second, each of a customer of its own."""
        chats = self.messages(int(rate * seconds), of_each=1)
        fleet = Fleet(self.installation, workers)
        journal = self._folder / f"rate-{self._made}.jsonl"
        with platform(Plan(fleet.webhook, chats, spread=seconds), journal) as address:
            load = os.getloadavg()[0]
            fleet.start(address)
            fleet.wait_until_ready()
            ask(address, "/begin", post=True)
            while (state := ask(address, "/progress"))["driving"] or state["idle_seconds"] < 3:
                fleet.ready()
                time.sleep(0.5)
            fleet.stop()
        seen = Journal.load(journal)
        answered: dict[str, float] = {}
        for reply in seen.replies:
            if reply.kind != GREETING:
                answered.setdefault(reply.chat, reply.at)
        delays = [
            1000 * (answered[chat] - seen.posted[messages[0].id])
            for chat, messages in chats.items()
            if chat in answered
        ]
        p10, p50, p95, p99 = (round(float(each), 1) for each in np.percentile(delays, [10, 50, 95, 99]))
        stored = [1000 * (seen.acknowledged[id_] - at) for id_, at in seen.posted.items()]
        return {
            "rate": rate,
            "messages": len(chats),
            "answered": len(delays),
            "p10_ms": p10,
            "p50_ms": p50,
            "p95_ms": p95,
            "p99_ms": p99,
            "stored_p50_ms": round(float(np.median(stored)), 1),
            "load_average_before": round(load, 1),
        }

    async def _fill(self, chats: dict[str, list[Sent]]) -> None:
        """Store messages as a webhook would, those of one customer in order."""
        sessions = self.installation.database.sessions
        queue = iter(chats.items())

        async def load() -> None:
            for chat, messages in queue:
                for message in messages:
                    inbound = InboundMessage(Address(NAME, "", chat), message.id, datetime.now(UTC), text=message.text)
                    await receive(sessions, inbound, now=datetime.now(UTC))

        await asyncio.gather(*(load() for _ in range(LOADERS)))
        await self.installation.close()

    async def _failed(self) -> int:
        """Turns that broke."""
        async with self.installation.database.sessions() as session:
            query = select(func.count(InboxRow.id)).where(InboxRow.state == InboxState.FAILED)
            failed = int(await session.scalar(query) or 0)
        await self.installation.close()
        return failed

    async def _left(self) -> int:
        async with self.installation.database.sessions() as session:
            pending = select(func.count(InboxRow.id)).where(InboxRow.state == InboxState.PENDING)
            left = int(await session.scalar(pending) or 0)
            left += int(await session.scalar(select(func.count(OutboxRow.id))) or 0)
        await self.installation.close()
        return left


async def answered_alone(installation: Installation, questions: Sequence[str]) -> list[str]:
    """The questions that need no person, each asked with a number after it, as the messages are."""
    asked = [Question(_numbered(text, 12_345), None, frozenset(), None, "") for text in questions]
    verdicts = judge(asked, installation.understander(), installation.topics)
    return [text for text, verdict in zip(questions, verdicts, strict=True) if verdict.action in ("answer", "clarify")]


def _numbered(question: str, number: int) -> str:
    return f"{question.rstrip('?')} {number}?"


def _out_of_order(replies: Sequence[tuple[str, int]]) -> int:
    """How many replies came after a later one of their chat: the ledger numbers them as they were written."""
    last: dict[str, int] = {}
    wrong = 0
    for chat, key in replies:
        wrong += key < last.get(chat, 0)
        last[chat] = max(key, last.get(chat, 0))
    return wrong


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    result: dict[str, Any] = {}
    with new_database(arguments.engine) as url:
        installation = load_installation(arguments.var, arguments.data, url)
        questions = in_a_fork(lambda: answered_alone(installation, questions_of(arguments.data / QUESTIONS)))
        bench = Bench(installation, questions, folder)
        say(f"{arguments.turns} messages lie there")
        worked = bench.work_off(arguments.turns, arguments.workers)
        say(f"{worked['turns_per_second']} turns a second; now {arguments.rate} messages a second")
        timed = bench.at_rate(arguments.rate, arguments.seconds, arguments.workers)
        result |= {
            "turns_per_second": worked["turns_per_second"],
            "p50_ms": timed["p50_ms"],
            "p95_ms": timed["p95_ms"],
            "engine": arguments.engine,
            "workers": arguments.workers,
            "throughput": worked,
            "latency": timed,
        }
        if arguments.backlog:
            say(f"a backlog of {arguments.backlog} messages")
            result["backlog"] = bench.work_off(arguments.backlog, arguments.workers)
        if arguments.memory:
            say(f"memory over {arguments.memory} messages")
            samples: list[float] = []
            result["memory"] = bench.work_off(
                arguments.memory, arguments.workers, lambda fleet: samples.append(fleet.memory_mb())
            )
            tenth = max(1, len(samples) // 10)
            result["memory"] |= {
                "workers_mb_after_a_tenth": round(float(np.mean(samples[tenth : 2 * tenth]))),
                "workers_mb_at_the_end": round(float(np.mean(samples[-tenth:]))),
                "workers_mb_most": round(max(samples)),
            }
        if arguments.scale:
            result["scale"] = {}
            for workers in arguments.scale:
                say(f"{workers} workers")
                result["scale"][workers] = bench.work_off(arguments.turns, workers)
        if arguments.stored:
            result["stored"] = {}
            before = 0
            for conversations in sorted(arguments.stored):
                say(f"{conversations} stored conversations")
                started = time.time()
                in_a_fork(partial(store_conversations, installation, before, conversations))
                before = conversations
                result["stored"][conversations] = {
                    "storing_seconds": round(time.time() - started, 1),
                    "throughput": bench.work_off(arguments.turns, arguments.workers),
                    "latency": bench.at_rate(arguments.rate, arguments.seconds / 2, arguments.workers),
                }
    return result


def _numbers(text: str) -> list[int]:
    return [int(each.replace("_", "")) for each in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure turns a second and the time to an answer")
    parser.add_argument("--engine", choices=("sqlite", "postgresql"), default="postgresql")
    parser.add_argument("--workers", type=int, help="processes; 2, and 1 on SQLite")
    parser.add_argument("--rate", type=float, default=30)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--turns", type=int, default=1500)
    parser.add_argument("--backlog", type=int, default=0)
    parser.add_argument("--memory", type=int, default=0)
    parser.add_argument("--scale", type=_numbers, default=[])
    parser.add_argument("--stored", type=_numbers, default=[])
    parser.add_argument("--var", type=Path, default=Path(os.environ.get("OTVET_VAR", "var")))
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("OTVET_DATA", "data")))
    arguments = parser.parse_args()
    arguments.workers = arguments.workers or (1 if arguments.engine == "sqlite" else 2)
    if arguments.engine == "sqlite" and (arguments.workers != 1 or arguments.scale):
        sys.exit("SQLite is worked on by one process: --workers 1 and no --scale")
    with tempfile.TemporaryDirectory(prefix="otvet-load-") as folder:
        print(json.dumps(measure(arguments, Path(folder)), indent=1))


if __name__ == "__main__":
    main()
