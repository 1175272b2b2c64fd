"""A messenger's platform to measure against, over real HTTP, and the channel that speaks to it.

The platform is a process of its own (`python -m benchmarks.standin PLAN JOURNAL`). It sends customers' messages to the
assistant's webhook until each is acknowledged, refuses some of the replies as platforms do (429 with a time to wait,
500), and writes every reply that it accepted to its journal: the journal alone tells what customers got to read. It
knows neither the assistant's database nor its code.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import socket
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

import aiohttp
from aiohttp import web

from bot.channels.base import Address, Capabilities, InboundAttachment, InboundMessage, OutboundMessage, Receive
from bot.errors import DeliveryError

NAME = "standin"
REQUEST_SECONDS = 30.0


@dataclass(frozen=True)
class Sent:
    """A message that a customer writes. `expected`: how many replies the customer gets to it."""

    id: str
    text: str
    expected: int = 0


@dataclass(frozen=True)
class Plan:
    """What the platform does. Times are seconds."""

    webhook: str
    conversations: dict[str, list[Sent]]
    spread: float
    """The conversations begin spread over this time; a message follows the one before it after 0 to `gap`."""
    gap: float = 0.0
    copies: int = 1
    """How often each message is delivered. The copies come at any time, the first ones in the customer's order."""
    copies_within: float = 0.0
    refused: float = 0.0
    """Share of replies that get a 429, and once more as many a 500."""
    retry_after: float = 1.0
    answer_takes: float = 0.0
    """At most so long passes between accepting a reply and saying so."""
    last_waits: bool = False
    """The last message of a conversation is written when all replies before it were read."""
    seed: int = 0

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), ensure_ascii=False), "utf-8")

    @classmethod
    def load(cls, path: Path) -> Plan:
        plan = json.loads(path.read_text("utf-8"))
        chats = {chat: [Sent(**message) for message in messages] for chat, messages in plan["conversations"].items()}
        return cls(**{**plan, "conversations": chats})


@dataclass(frozen=True)
class Reply:
    """A reply that the platform accepted. `key` is the assistant's own number of it, `pid` the process it came from."""

    at: float
    chat: str
    key: int
    pid: int
    text: str
    options: tuple[str, ...]
    kind: str


@dataclass
class Journal:
    """What the platform saw, in the order in which it happened."""

    replies: list[Reply] = field(default_factory=list)
    posted: dict[str, float] = field(default_factory=dict)
    """Message → when it was first sent to the webhook."""
    acknowledged: dict[str, float] = field(default_factory=dict)
    refused: Counter[int] = field(default_factory=Counter)
    resent: int = 0
    """Deliveries to the webhook that failed and were made again."""

    @classmethod
    def load(cls, path: Path) -> Journal:
        journal = cls()
        for line in path.read_text("utf-8").splitlines():
            kind, row = json.loads(line)
            if kind == "reply":
                journal.replies.append(Reply(**{**row, "options": tuple(row["options"])}))
            elif kind == "posted":
                journal.posted[row["id"]] = row["at"]
            elif kind == "acknowledged":
                journal.acknowledged[row["id"]] = row["at"]
            elif kind == "refused":
                journal.refused[row["status"]] += 1
            else:
                journal.resent += 1
        return journal


class StandInChannel:
    """The channel to the platform. Several processes may share one listening socket."""

    name = NAME
    capabilities = Capabilities(max_text_chars=100_000, max_buttons=20)

    def __init__(self, platform: str, listener: socket.socket, ready: int) -> None:
        """platform: its address. listener: where the webhook listens. ready: a pipe that is told when it does."""
        self._platform, self._listener, self._ready = platform, listener, ready
        self._session: aiohttp.ClientSession | None = None

    async def run(self, receive: Receive) -> None:
        """Nothing to ask for: every process has the webhook, see `listen`."""

    async def listen(self, receive: Receive) -> None:
        """Take messages in until cancelled, each stored before it is acknowledged."""

        async def webhook(request: web.Request) -> web.Response:
            row = await request.json()
            address, written_at = Address(NAME, "", row["chat"]), datetime.fromisoformat(row["at"])
            await receive(InboundMessage(address, row["id"], written_at, text=row["text"]))
            return web.Response()

        app = web.Application()
        app.router.add_post("/webhook", webhook)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await runner.setup()
        try:
            await web.SockSite(runner, self._listener, backlog=1024).start()
            os.write(self._ready, b"1")
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()

    async def close(self) -> None:
        if self._session:
            await self._session.close()

    async def send(self, address: Address, message: OutboundMessage) -> str | None:
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=0)
            self._session = aiohttp.ClientSession(
                connector=connector, timeout=aiohttp.ClientTimeout(total=REQUEST_SECONDS)
            )
        decision = message.decision or {}
        form = {
            "chat": address.chat_id,
            "key": message.message_id,
            "pid": os.getpid(),
            "text": message.text,
            "options": [option.label for option in message.options],
            "kind": str(decision.get("reply") or decision.get("action") or ""),
        }
        try:
            async with self._session.post(f"{self._platform}/send", json=form) as response:
                answer = await response.json()
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise DeliveryError(repr(error)) from error
        if response.status == 429:
            raise DeliveryError("429", retry_after_seconds=answer["retry_after"])
        if response.status != 200:
            raise DeliveryError(str(response.status))
        return str(answer["id"])

    async def working(self, address: Address, external_id: str) -> None:
        """Nothing to show here."""

    async def fetch(self, attachment: InboundAttachment) -> AsyncIterator[bytes]:
        raise DeliveryError("there are no files here", permanent=True)
        yield b""


class KeepingChannel:
    """A channel in peace: nothing is refused, and what is sent is kept."""

    name = NAME
    capabilities = StandInChannel.capabilities

    def __init__(self) -> None:
        self.sent: list[OutboundMessage] = []

    async def run(self, receive: Receive) -> None:
        """Nothing comes by itself."""

    async def send(self, address: Address, message: OutboundMessage) -> str | None:
        self.sent.append(message)
        return str(len(self.sent))

    async def working(self, address: Address, external_id: str) -> None:
        """Nothing to show."""

    async def fetch(self, attachment: InboundAttachment) -> AsyncIterator[bytes]:
        raise DeliveryError("there are no files here", permanent=True)
        yield b""


class Platform:
    """The process at the other end."""

    def __init__(self, plan: Plan, journal: TextIO) -> None:
        self._plan = plan
        self._journal = journal
        self._random = random.Random(plan.seed)  # noqa: S311 - a simulation
        self._accepted: dict[str, set[int]] = {chat: set() for chat in plan.conversations}
        self._count = 0
        self._refused: Counter[int] = Counter()
        self._changed: dict[str, asyncio.Event] = {chat: asyncio.Event() for chat in plan.conversations}
        self._acknowledged = 0
        self._driving = False
        self._last_at = time.time()
        self._tasks: list[asyncio.Task[None]] = []

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_post("/send", self._take)
        app.router.add_get("/progress", self._progress)
        app.router.add_post("/begin", self._begin)
        return app

    def _write(self, event: str, /, **row: Any) -> None:
        self._journal.write(json.dumps([event, row], ensure_ascii=False) + "\n")
        self._journal.flush()

    async def _take(self, request: web.Request) -> web.Response:
        form = await request.json()
        chance = self._random.random()
        if chance < 2 * self._plan.refused:
            status = 429 if chance < self._plan.refused else 500
            self._refused[status] += 1
            self._write("refused", status=status)
            return web.json_response({"retry_after": self._plan.retry_after}, status=status)
        self._last_at = time.time()
        self._write("reply", at=self._last_at, **form)
        chat = form["chat"]
        self._accepted.setdefault(chat, set()).add(form["key"])
        self._count = number = self._count + 1
        if chat in self._changed:
            self._changed[chat].set()
        if self._plan.answer_takes:
            await asyncio.sleep(self._random.uniform(0, self._plan.answer_takes))
        return web.json_response({"id": number})

    async def _progress(self, request: web.Request) -> web.Response:
        return web.json_response(
            {
                "acknowledged": self._acknowledged,
                "replies": sum(map(len, self._accepted.values())),
                "driving": self._driving,
                "idle_seconds": time.time() - self._last_at,
                "refused": self._refused.total(),
            }
        )

    async def _begin(self, request: web.Request) -> web.Response:
        self._driving = True
        self._tasks.append(asyncio.create_task(self._drive()))
        return web.Response()

    async def _drive(self) -> None:
        timeout = aiohttp.ClientTimeout(total=REQUEST_SECONDS)
        connector = aiohttp.TCPConnector(limit=0)
        async with (
            aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
            asyncio.TaskGroup() as group,
        ):
            for number, (chat, messages) in enumerate(self._plan.conversations.items()):
                begin = self._plan.spread * number / len(self._plan.conversations)
                group.create_task(self._write_messages(group, session, chat, messages, begin))
        self._driving = False

    async def _write_messages(
        self,
        group: asyncio.TaskGroup,
        session: aiohttp.ClientSession,
        chat: str,
        messages: list[Sent],
        begin: float,
    ) -> None:
        await asyncio.sleep(begin)
        expected = 0
        for number, message in enumerate(messages):
            if number and self._plan.gap:
                await asyncio.sleep(self._random.uniform(0, self._plan.gap))
            if number and number == len(messages) - 1 and self._plan.last_waits:
                await self._read(chat, expected)
            expected += message.expected
            body = {"chat": chat, "id": message.id, "text": message.text, "at": datetime.now(UTC).isoformat()}
            self._write("posted", id=message.id, at=time.time())
            for _ in range(self._plan.copies - 1):
                group.create_task(self._repeat(session, body))
            await self._post(session, body)
            self._acknowledged += 1
            self._write("acknowledged", id=message.id, at=time.time())

    async def _read(self, chat: str, expected: int) -> None:
        """Until the customer has got so many replies, or for five minutes: a lost one must not stop the rest."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(300):
                while len(self._accepted[chat]) < expected:
                    self._changed[chat].clear()
                    await self._changed[chat].wait()

    async def _repeat(self, session: aiohttp.ClientSession, body: dict[str, str]) -> None:
        """A copy: in a third of the cases at the same time as the first, else later."""
        if self._random.random() > 1 / 3:
            await asyncio.sleep(self._random.uniform(0, self._plan.copies_within))
        await self._post(session, body)

    async def _post(self, session: aiohttp.ClientSession, body: dict[str, str]) -> None:
        while True:
            try:
                async with session.post(self._plan.webhook, json=body) as response:
                    if response.status == 200:
                        return
            except (aiohttp.ClientError, TimeoutError):
                pass
            self._write("resent", id=body["id"])
            await asyncio.sleep(self._random.uniform(0.05, 0.3))


async def serve(plan: Plan, journal: TextIO) -> None:
    """Serve until the standard input ends. The address is printed first."""
    platform = Platform(plan, journal)
    runner = web.AppRunner(platform.app(), access_log=None, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
    host, port = runner.addresses[0][:2]
    print(f"http://{host}:{port}", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await runner.cleanup()


def main() -> None:
    plan, journal = Plan.load(Path(sys.argv[1])), Path(sys.argv[2])
    with journal.open("a", encoding="utf-8") as file:
        asyncio.run(serve(plan, file))


if __name__ == "__main__":
    main()
