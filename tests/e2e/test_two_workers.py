"""Two worker processes on one PostgreSQL: one is killed in the middle, the other goes on, in order."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from databases import Postgres
from sqlalchemy import func, select, text

from bot import ledger
from bot.channels.base import Address, InboundMessage
from bot.database import open_database
from bot.ledger import InboxRow, InboxState, OutboxRow, Sessions
from handoff.records import Author, Conversation, Delivery, Message

pytestmark = pytest.mark.e2e
CHATS, MESSAGES = 8, 12


class Workers:
    def __init__(self, url: str, platform: Path) -> None:
        self.platform = platform
        self._url = url
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str) -> subprocess.Popen[bytes]:
        program = Path(__file__).with_name("two_workers.py")
        command = [sys.executable, str(program), self._url, str(self.platform), name]
        self.running[name] = process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return process

    async def both(self, sessions: Sessions) -> subprocess.Popen[bytes]:
        """Start "one" and "two" and wait until both take work; the process of "one"."""
        one = self.start("one")
        self.start("two")
        async with asyncio.timeout(90):
            while True:
                async with sessions() as session:
                    if await session.scalar(text("SELECT count(*) FROM procrastinate_workers")) == 2:
                        return one
                await asyncio.sleep(0.1)

    def sent(self) -> list[tuple[str, str, int]]:
        """Worker, chat and message, in the order in which the platform took them."""
        if not self.platform.exists():
            return []
        lines = (line.split() for line in self.platform.read_text().splitlines())
        return [(worker, chat, int(message)) for worker, chat, message in lines]

    async def until_sent(self, count: int, worker: str = "", seconds: float = 60) -> None:
        async with asyncio.timeout(seconds):
            while sum(1 for line in self.sent() if line[0].startswith(worker)) < count:  # noqa: ASYNC110
                await asyncio.sleep(0.02)


@pytest.fixture
def workers(postgres: Postgres, tmp_path: Path) -> Iterator[Workers]:
    made = Workers(postgres.database(), tmp_path / "platform.txt")
    yield made
    for process in made.running.values():
        process.kill()
        process.wait()


async def write(sessions: Sessions) -> None:
    for number in range(MESSAGES):
        for chat in range(CHATS):
            address = Address("file", "", f"c{chat}")
            words = "how do I return it" if number else "hello order"
            message = InboundMessage(address, f"{chat}-{number}", datetime.now(UTC), text=f"{words} {number}")
            await ledger.receive(sessions, message, now=datetime.now(UTC))


async def finished(sessions: Sessions, seconds: float = 60) -> None:
    async with asyncio.timeout(seconds):
        while True:
            async with sessions() as session:
                waiting = await session.scalar(
                    select(func.count(InboxRow.id)).where(InboxRow.state == InboxState.PENDING)
                )
                unsent = await session.scalar(select(func.count(OutboxRow.id)))
            if not waiting and not unsent:
                return
            await asyncio.sleep(0.1)


async def check(sessions: Sessions, workers: Workers) -> None:
    """Nothing lost, doubled or out of order; what was sent again is known and counted."""
    times = Counter(message for _, _, message in workers.sent())
    async with sessions() as session:
        for chat in range(CHATS):
            conversation = await session.scalar(select(Conversation).where(Conversation.chat_id == f"c{chat}"))
            assert conversation is not None
            rows = await session.scalars(
                select(Message).where(Message.conversation_id == conversation.id).order_by(Message.id)
            )
            messages = rows.all()
            said = [m.external_id for m in messages if m.author is Author.CUSTOMER]
            assert said == [f"{chat}-{number}" for number in range(MESSAGES)]
            replies = [m for m in messages if m.author is not Author.CUSTOMER]
            assert {m.delivery for m in replies} == {Delivery.SENT}
            first_sent = list(dict.fromkeys(message for _, c, message in workers.sent() if c == f"c{chat}"))
            assert first_sent == [m.id for m in replies]
            assert all(times[m.id] == 1 or times[m.id] <= 1 + m.repeats for m in replies)


async def test_a_killed_workers_conversations_go_on_with_another_within_ten_seconds(workers: Workers) -> None:
    engine, sessions = open_database(workers._url)
    one = await workers.both(sessions)
    await write(sessions)
    await workers.until_sent(10, "one")
    one.send_signal(signal.SIGKILL)
    one.wait()
    killed = time.monotonic()
    stuck = await in_hand(sessions)
    while stuck & await in_hand(sessions):
        assert time.monotonic() - killed < 10
        await asyncio.sleep(0.1)
    await finished(sessions)
    await check(sessions, workers)
    await engine.dispose()


async def in_hand(sessions: Sessions) -> set[int]:
    """The messages that wait first in their conversations."""
    async with sessions() as session:
        first = select(func.min(InboxRow.id)).where(InboxRow.state == InboxState.PENDING).group_by(InboxRow.chat_id)
        return set(await session.scalars(first))


async def test_a_worker_that_is_stopped_for_a_while_and_wakes_up_does_no_harm(workers: Workers) -> None:
    engine, sessions = open_database(workers._url)
    one = await workers.both(sessions)
    await write(sessions)
    await workers.until_sent(10, "one")
    one.send_signal(signal.SIGSTOP)
    await asyncio.sleep(7)  # the other takes it for dead, and has taken over by then
    one.send_signal(signal.SIGCONT)
    await finished(sessions)
    await check(sessions, workers)
    await engine.dispose()
