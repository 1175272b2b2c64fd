"""The Telegram desk under load: every message once and in order, within Telegram's limits, while its process is killed.

    python -m benchmarks.forum [--customers 200] [--groups 4] [--minute 6] [--kills 3]

Prints JSON. Customers ask for a person all at once and then say three things each; a ticket's topic shows them, an
agent answers there, and the customer receives that. The stand-in for Telegram (tests/e2e/forum_api.py, real HTTP)
refuses what exceeds 20 messages a minute in a group, 30 a second in all and one a second to a customer; its minute is
as short as asked, and the program is told so. The program is a process of its own, killed with SIGKILL so many times
and started again. Everything is real but the understanding and Telegram: turns, ledger, outbox, timers, SQLite.

lost, reordered: customers' words in topics, and agents' answers at customers. doubled leaves out `uncertain`: what was
done again because a process died while Telegram was called, which it knows of.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import re
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import func, select

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "e2e")]

from bot_api import TOKEN, served, text_update  # noqa: E402
from forum_api import ForumBotApi  # noqa: E402
from forum_world import OLGA, ForumWorld  # noqa: E402

from bot.database import open_database  # noqa: E402
from bot.forum.records import ForumTopic  # noqa: E402
from handoff.records import Message  # noqa: E402

FIRST_CUSTOMER = 1000
WORDS = 3
LONGEST_SECONDS = 600.0


@dataclass
class _Elsewhere:
    """What a world needs to know of a stand-in in another process."""

    base: str
    minute_seconds: float

    def group(self, group_id: int) -> None: ...


async def work(var: Path, base: str, minute: float, groups: str) -> None:
    """The program: until it is killed."""
    world = ForumWorld(var, _Elsewhere(base, minute), groups=groups)  # type: ignore[arg-type]
    async with world.at_work():
        await asyncio.Event().wait()


@contextlib.asynccontextmanager
async def worker(var: Path, base: str, minute: float, groups: str) -> AsyncIterator[asyncio.subprocess.Process]:
    arguments = ["--worker", "--var", str(var), "--base", base, "--minute", str(minute), f"--worker-groups={groups}"]
    with (var / "worker.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "benchmarks.forum", *arguments, cwd=ROOT, stdout=log, stderr=log, env=os.environ
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGKILL)
        await process.wait()


class Measurement:
    def __init__(self, api: ForumBotApi, customers: int) -> None:
        self.api = api
        self.customers = range(FIRST_CUSTOMER, FIRST_CUSTOMER + customers)
        self.answered: set[int] = set()

    async def ask(self) -> None:
        """All at once a person is asked for, and things are said while topics are still being made."""
        number = 1
        for said in ("a person please", *(f"m{n}" for n in range(1, WORDS + 1))):
            order = random.sample(self.customers, len(self.customers))
            updates = []
            for customer in order:
                text = said if " " in said else f"c{customer} {said}"
                updates.append(text_update(number, text, customer))
                number += 1
            await self.api.put(*updates)
            await asyncio.sleep(3)

    def texts(self) -> dict[int, str]:
        """Customer → all that his topic says, in order."""
        found: dict[int, str] = {}
        for group in self.api.groups.values():
            for thread in group.topics:
                whole = "\n\n".join(each.text for each in group.of(thread) if each.sender == 42)
                if (customer := re.search(r"\bc(\d+) m\d", whole)) is not None:
                    found[int(customer[1])] = found.get(int(customer[1]), "") + "\n\n" + whole
        return found

    async def answer(self) -> None:
        """An agent answers in every topic that has all of a customer's words."""
        for group in self.api.groups.values():
            for thread, topic in list(group.topics.items()):
                whole = "\n".join(each.text for each in group.of(thread) if each.sender == 42)
                found = re.search(rf"\bc(\d+) m{WORDS}\b", whole)
                if found is not None and not topic.gone and int(found[1]) not in self.answered:
                    self.answered.add(int(found[1]))
                    await self.api.says(group.id, thread, f"answer to {found[1]}", sender=OLGA)

    def received(self, customer: int) -> int:
        return sum(
            f"answer to {customer}" in str(sent.get("text")) for sent in self.api.sent if sent["chat_id"] == customer
        )

    def is_done(self) -> bool:
        return len(self.answered) == len(self.customers) and all(self.received(c) for c in self.customers)

    def judge(self) -> dict[str, int]:
        lost = doubled = reordered = 0
        texts = self.texts()
        for customer in self.customers:
            whole, last = texts.get(customer, ""), -1
            for n in range(1, WORDS + 1):
                places = [match.start() for match in re.finditer(rf"(?:: |\n)c{customer} m{n}\b", whole)]
                lost += not places
                doubled += max(0, len(places) - 1)
                if places:
                    reordered += places[0] < last
                    last = places[0]
            answers = self.received(customer)
            lost, doubled = lost + (not answers), doubled + max(0, answers - 1)
        return {"lost": lost, "doubled": doubled, "reordered": reordered}


async def measure(var: Path, customers: int, groups: int, minute: float, kills: int) -> dict[str, Any]:
    api = ForumBotApi()
    api.minute_seconds, api.strict = minute, True
    names = ",".join(str(-1001 - number) for number in range(groups))
    for name in names.split(","):
        api.group(int(name))
    done_kills = 0
    async with served(api, TOKEN):
        measurement = Measurement(api, customers)
        started = time.monotonic()
        asking = asyncio.create_task(measurement.ask())
        while not measurement.is_done() and time.monotonic() < started + LONGEST_SECONDS:
            async with worker(var, api.base, minute, names) as process:
                polls = len(api.polls)
                while len(api.polls) == polls and process.returncode is None:  # noqa: ASYNC110 - it starts
                    await asyncio.sleep(0.05)
                until = time.monotonic() + (random.uniform(3, 8) if done_kills < kills else LONGEST_SECONDS)  # noqa: S311
                while time.monotonic() < min(until, started + LONGEST_SECONDS) and process.returncode is None:
                    await measurement.answer()
                    if measurement.is_done():
                        await asyncio.sleep(2)
                        break
                    await asyncio.sleep(0.25)
                if process.returncode is not None:
                    raise RuntimeError(f"the program died by itself: {var / 'worker.log'}")
                done_kills += not measurement.is_done()
        await asking
        seconds = time.monotonic() - started
        found = measurement.judge()
    engine, sessions = open_database(f"sqlite+aiosqlite:///{var / 'otvet.sqlite3'}")
    async with sessions() as session:
        uncertain = int(await session.scalar(select(func.sum(ForumTopic.repeats))) or 0)
        uncertain += int(await session.scalar(select(func.sum(Message.repeats))) or 0)
    await engine.dispose()
    found["doubled"] = max(0, found["doubled"] - uncertain)
    return {
        "customers": customers,
        "groups": groups,
        "kills": done_kills,
        **found,
        "uncertain": uncertain,
        "refused_by_limits": len(api.violations),
        "most_in_a_minute": api.most_a_minute,
        "topics": sum(len(group.topics) for group in api.groups.values()),
        "calls": sum(group.written for group in api.groups.values()),
        "seconds": round(seconds, 1),
        "minute_seconds": minute,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--customers", type=int, default=200)
    parser.add_argument("--groups", type=int, default=4)
    parser.add_argument("--minute", type=float, default=6.0)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--var", type=Path)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--base", default="", help=argparse.SUPPRESS)
    parser.add_argument("--worker-groups", default="", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        asyncio.run(work(given.var, given.base, given.minute, given.worker_groups))
        return
    with tempfile.TemporaryDirectory(prefix="otvet-forum-") as folder:
        var = given.var or Path(folder)
        print(json.dumps(asyncio.run(measure(var, given.customers, given.groups, given.minute, given.kills)), indent=1))


if __name__ == "__main__":
    main()
