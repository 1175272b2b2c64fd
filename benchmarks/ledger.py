"""Nothing lost, nothing doubled, nothing out of order, while workers are killed.

    python -m benchmarks.ledger [--engine sqlite|postgresql] [--workers 3] [--kills 50] [--conversations 200]

Prints JSON. Customers of a stand-in platform (benchmarks/standin.py, a process of its own, real HTTP) write 200
conversations in Russian and English. Each update is delivered three times, the copies shuffled among those of all
conversations; one in 20 replies is refused with 429 and one in 20 with 500. Workers are killed with SIGKILL at random
moments, at least so many times as asked, and each is started again. Everything is real: models, turns, ledger, outbox,
engine of durable work. SQLite has one worker, as an embedded installation has.

What customers should read is known from the same conversations held once in peace, with nothing refused or killed
(in process, one message after the other, on a database of their own); the platform's journal is compared with it text
by text, numbers excepted, for those of tickets differ. Messages are whole questions, so that no two are gathered into
one utterance. The last one often asks for a person and is written when the replies to the others were read: a handoff
discards answers that were not sent yet, on purpose.

lost, doubled, reordered: replies. doubled leaves out uncertain_sends: a reply that was accepted twice, the first time
from a process that was killed less than `UNCERTAIN_SECONDS` after the platform accepted it, or with the request on its
way, so that what the platform said could not be recorded. No program can tell these; the platform's journal and the
times of the kills do.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

from sqlalchemy import func, select

from benchmarks.fleet import Fleet, ask, in_a_fork, load_installation, new_database, platform, say
from benchmarks.standin import NAME, Journal, KeepingChannel, Plan, Reply, Sent
from bot.channels.base import Address, InboundMessage
from bot.database import open_database
from bot.ledger import InboxRow, InboxState, OutboxRow
from bot.wiring import Database, Installation
from handoff.records import Author, Message, Ticket

MESSAGES = 5
SCRIPTS = 40
"""Different conversations; of 200, each is held by five customers."""
ON_THE_WAY_SECONDS = 0.1
"""A sender that dies with its request on the way is dead a little before the platform accepts it."""
UNCERTAIN_SECONDS = 2.0
QUIET_SECONDS = 60.0
"""When so long nothing was accepted, what is missing is lost."""
ASKING = ("Можно мне поговорить с живым человеком?", "Could I please talk to a real person now?")


@dataclass(frozen=True)
class Script:
    """A conversation in peace: what the customer writes, and what he reads after each."""

    texts: tuple[str, ...]
    replies: tuple[tuple[str, ...], ...]
    handoff: bool


@dataclass(frozen=True)
class Verdict:
    lost: int
    doubled: int
    reordered: int
    uncertain: int
    longest_gap_ms: float
    """The longest time between an uncertain acceptance and the kill."""
    doubles: tuple[dict[str, float | int | None], ...]
    """Of each repeat of the same reply: the seconds from the first acceptance to the second, and to the kill of the
    first sender if it was killed later."""


def shape(text: str, options: Sequence[str]) -> str:
    """A reply as it is compared: numbers of tickets, times and places in the queue differ between two runs."""
    text = re.sub(r" (Ahead of you in the queue|Перед вами в очереди): \d+\.", "", text)
    return re.sub(r"\d+", "#", text) + "".join(f"\n[{option}]" for option in options)


async def hold_in_peace(
    installation: Installation, database_url: str, questions: Sequence[str], seed: int, wanted: int
) -> list[Script]:
    """Conversations in which only the last message is handed over, with what the customer reads. Runs in a fork: the
    installation gets another database."""
    installation.database = Database(*open_database(database_url))
    chance = random.Random(seed)  # noqa: S311 - a simulation
    scripts: list[Script] = []
    await installation.migrate()
    channel = KeepingChannel()
    assistant = installation.assistant([channel])
    for chat in count():
        texts: list[str] = []
        replies: list[tuple[str, ...]] = []
        handed = False
        asked = chance.sample(list(questions), 3 * MESSAGES)
        while len(texts) < MESSAGES and asked and not handed:
            last = len(texts) == MESSAGES - 1
            text = chance.choice(ASKING) if last and chance.random() < 0.5 else asked.pop()
            before = len(channel.sent)
            message = InboundMessage(Address(NAME, "", str(chat)), f"{chat}-{len(texts)}", datetime.now(UTC), text=text)
            await assistant.receive(message)
            await assistant.drain()
            said = channel.sent[before:]
            texts.append(text)
            replies.append(tuple(shape(item.text, [option.label for option in item.options]) for item in said))
            handed = any((item.decision or {}).get("action") == "handoff" for item in said)
        if len(texts) == MESSAGES and all(replies):
            scripts.append(Script(tuple(texts), tuple(replies), handed))
        if len(scripts) == wanted:
            await installation.close()
            return scripts
    raise AssertionError


def judge(expected: dict[str, list[str]], replies: Sequence[Reply], kills: Sequence[tuple[float, int]]) -> Verdict:
    """Compare what customers read with what they should have read, chat by chat."""
    killed_at = {pid: at for at, pid in kills}
    lost = doubled = reordered = uncertain = 0
    longest = 0.0
    doubles: list[dict[str, float | int | None]] = []
    of_chat: dict[str, list[Reply]] = {chat: [] for chat in expected}
    for reply in replies:
        of_chat.setdefault(reply.chat, []).append(reply)
    for chat, entries in of_chat.items():
        first: dict[int, Reply] = {}
        read: list[str] = []
        for reply in entries:
            before = first.get(reply.key)
            if before is None:
                read.append(shape(reply.text, reply.options))
            elif before.pid in killed_at and (
                -ON_THE_WAY_SECONDS <= (gap := killed_at[before.pid] - before.at) <= UNCERTAIN_SECONDS
            ):
                uncertain += 1
                longest = max(longest, 1000 * gap)
            else:
                doubled += 1
                killed = killed_at.get(before.pid)
                doubles.append(
                    {
                        "again_after": round(reply.at - before.at, 3),
                        "killed_after": killed and round(killed - before.at, 3),
                    }
                )
            first[reply.key] = reply
        wanted = expected.get(chat, [])
        missing, extra = Counter(wanted) - Counter(read), Counter(read) - Counter(wanted)
        lost += missing.total()
        doubled += extra.total()
        common = Counter(wanted) & Counter(read)
        reordered += sum(a != b for a, b in zip(_only(wanted, common), _only(read, common), strict=True))
    return Verdict(lost, doubled, reordered, uncertain, round(longest, 1), tuple(doubles))


def _only(texts: Sequence[str], kept: Counter[str]) -> list[str]:
    """The texts in their order, each as often as it is in `kept`."""
    left = Counter(kept)
    found = []
    for text in texts:
        if left[text]:
            left[text] -= 1
            found.append(text)
    return found


async def ledger_says(url: str) -> dict[str, int]:
    """What the assistant's own database holds at the end, to compare with the journal."""
    engine, sessions = open_database(url)
    async with sessions.begin() as session:

        async def rows(query: Any) -> int:
            return int(await session.scalar(query) or 0)

        says = {
            "received": await rows(select(func.count(InboxRow.id))),
            "unanswered": await rows(select(func.count(InboxRow.id)).where(InboxRow.state == InboxState.PENDING)),
            "failed": await rows(select(func.count(InboxRow.id)).where(InboxRow.state == InboxState.FAILED)),
            "unsent": await rows(select(func.count(OutboxRow.id))),
            "from_customers": await rows(select(func.count(Message.id)).where(Message.author == Author.CUSTOMER)),
            "tickets": await rows(select(func.count(Ticket.id))),
            "taken_over_while_sending": await rows(select(func.coalesce(func.sum(Message.repeats), 0))),
        }
    await engine.dispose()
    return says


def questions_of(path: Path) -> list[str]:
    """Whole questions: at least four words, and a question mark."""
    texts = [json.loads(line)["text"].rstrip(" ?!.") for line in path.read_text("utf-8").splitlines()]
    # One sentence each: what could be two questions is another test's matter.
    return [f"{text}?" for text in dict.fromkeys(texts) if len(text.split()) >= 4 and not re.search(r"[.?!;\n]", text)]


def run(
    *, engine: str, workers: int, kills: int, conversations: int, seed: int, var: Path, data: Path, interval: float
) -> dict[str, Any]:
    """One run; the keys of the result are those that are printed."""
    chance = random.Random(seed)  # noqa: S311 - a simulation
    questions = questions_of(data / "eval" / "dialogue.dev.jsonl")
    with tempfile.TemporaryDirectory(prefix="otvet-ledger-") as folder, new_database(engine) as url:
        installation = load_installation(var, data, url)
        say("Holding the conversations in peace")
        peace = f"sqlite+aiosqlite:///{folder}/peace.sqlite3"
        scripts = in_a_fork(lambda: hold_in_peace(installation, peace, questions, seed, min(SCRIPTS, conversations)))
        fleet = Fleet(installation, workers)
        chosen = {f"c{number}": scripts[number % len(scripts)] for number in range(conversations)}
        spread = max(kills * interval, 5.0)
        plan = Plan(
            webhook=fleet.webhook,
            conversations={
                chat: [
                    Sent(f"{chat}-{number}", text, len(replies))
                    for number, (text, replies) in enumerate(zip(script.texts, script.replies, strict=True))
                ]
                for chat, script in chosen.items()
            },
            spread=spread,
            gap=min(2.0, spread / 10),
            copies=3,
            copies_within=10.0,
            refused=0.05,
            answer_takes=0.03,
            last_waits=True,
            seed=seed,
        )
        expected = {chat: [text for replies in script.replies for text in replies] for chat, script in chosen.items()}
        total = sum(map(len, expected.values()))
        journal = Path(folder) / "journal.jsonl"
        started = time.time()
        with platform(plan, journal) as address:
            fleet.start(address)
            fleet.wait_until_ready()
            ask(address, "/begin", post=True)
            say(f"{MESSAGES * conversations} messages, {kills} kills")
            while True:
                time.sleep(chance.uniform(0.2, 1.8) * interval)
                state = ask(address, "/progress")
                if len(fleet.kills) < kills and fleet.ready():
                    fleet.kill_one(chance)
                fleet.ready()
                finished = not state["driving"] and state["replies"] >= total
                if len(fleet.kills) >= kills and (finished or state["idle_seconds"] > QUIET_SECONDS):
                    break
            fleet.wait_until_ready()
            time.sleep(6)  # a reply too many would come now: later than a dead worker's jobs are taken over
            fleet.stop()
        seconds = time.time() - started
        seen = Journal.load(journal)
        verdict = judge(expected, seen.replies, fleet.kills)
        says = in_a_fork(lambda: ledger_says(url))
    return {
        "messages": len(seen.acknowledged),
        "kills": len(fleet.kills),
        "lost": verdict.lost + MESSAGES * conversations - len(seen.acknowledged),
        "doubled": verdict.doubled,
        "reordered": verdict.reordered,
        "uncertain_sends": verdict.uncertain,
        "engine": engine,
        "workers": workers,
        "conversations": conversations,
        "deliveries": plan.copies * len(seen.posted),
        "delivered_again_after_a_kill": seen.resent,
        "replies": len(seen.replies),
        "replies_expected": total,
        "refused_429": seen.refused[429],
        "refused_500": seen.refused[500],
        "uncertain_gap_ms_longest": verdict.longest_gap_ms,
        "doubles": verdict.doubles,
        "ledger": {**says, "tickets_expected": sum(script.handoff for script in chosen.values())},
        "seconds": round(seconds, 1),
        "load_average": round(os.getloadavg()[0], 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Kill workers, and see whether anything is lost or doubled")
    parser.add_argument("--engine", choices=("sqlite", "postgresql"), default="postgresql")
    parser.add_argument("--workers", type=int, help="processes; 3, and 1 on SQLite")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--conversations", type=int, default=200)
    parser.add_argument("--interval", type=float, default=1.2, help="seconds between two kills, in the mean")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--var", type=Path, default=Path(os.environ.get("OTVET_VAR", "var")))
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("OTVET_DATA", "data")))
    arguments = parser.parse_args()
    workers = arguments.workers or (1 if arguments.engine == "sqlite" else 3)
    if arguments.engine == "sqlite" and workers != 1:
        sys.exit("SQLite is worked on by one process: --workers 1")
    result = run(
        engine=arguments.engine,
        workers=workers,
        kills=arguments.kills,
        conversations=arguments.conversations,
        seed=arguments.seed,
        var=arguments.var,
        data=arguments.data,
        interval=arguments.interval,
    )
    print(json.dumps(result, indent=1))
    if result["lost"] or result["doubled"] or result["reordered"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
