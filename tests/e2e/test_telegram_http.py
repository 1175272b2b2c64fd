"""Telegram over real HTTP: long polling against a server of our own, which forgets only what was confirmed, and
against telegram-test-api, which is not of our making."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import httpx
import pytest
from aiohttp import web
from bot_api import TOKEN, BotApi, bot_api, text_update

from bot.channels.base import Address, InboundAttachment, InboundMessage, Option, OutboundMessage
from bot.channels.telegram import TelegramChannel
from bot.errors import DeliveryError
from bot.settings import Settings
from bot.wiring import Installation
from handoff import desk
from handoff.records import NOTE, Message, Ticket

pytestmark = pytest.mark.e2e

CHAT = 7
ADDRESS = Address("telegram", "42", str(CHAT))
HERE = Path(__file__).parent
CACHE = HERE.parent.parent / "var" / "test-cache"
T = TypeVar("T")
QUESTION, ANSWER = "как мне удалить свой аккаунт на сайте", "Удалить аккаунт"
"""A question of a demo article, and words of its answer."""


class Receiver:
    """What the ledger does, in a list; the next calls fail while `faults` has any."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.kinds: list[str] = []
        self.faults: list[Exception] = []

    async def __call__(self, message: InboundMessage) -> bool:
        if self.faults:
            raise self.faults.pop(0)
        self.texts.append(message.text)
        self.kinds.append(message.kind)
        return True


@pytest.fixture
async def server() -> AsyncIterator[BotApi]:
    async with bot_api(TOKEN) as api:
        yield api


def connect(base: str) -> TelegramChannel:
    return TelegramChannel(TOKEN, api_base=base, poll_seconds=1, retry_seconds=0.01)


@contextlib.asynccontextmanager
async def polling(channel: TelegramChannel, receive: Receiver) -> AsyncIterator[None]:
    task = asyncio.create_task(channel.run(receive))
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


class TestPolling:
    async def test_updates_are_taken_in_order_and_confirmed(self, server: BotApi) -> None:
        receive = Receiver()
        await server.put(*(text_update(number, f"m{number}") for number in range(1, 251)))
        async with polling(connect(server.base), receive):
            await server.until(lambda: not server.pending)
        assert receive.texts == [f"m{number}" for number in range(1, 251)]

    async def test_what_could_not_be_stored_comes_again_and_nothing_overtakes_it(self, server: BotApi) -> None:
        receive = Receiver()
        receive.faults = [ConnectionError(), ConnectionError(), ConnectionError()]
        await server.put(text_update(1, "a"), text_update(2, "b"), text_update(3, "c"))
        async with polling(connect(server.base), receive):
            await server.until(lambda: not server.pending)
        assert receive.texts == ["a", "b", "c"]

    async def test_nothing_is_confirmed_before_it_is_stored(self, server: BotApi) -> None:
        receive = Receiver()
        receive.faults = [ConnectionError()] * 1000
        await server.put(text_update(1, "a"))
        async with polling(connect(server.base), receive):
            await server.until(lambda: len(server.polls) >= 4)
            assert [update["update_id"] for update in server.pending] == [1]
        assert set(server.polls) == {None}

    async def test_after_a_stop_the_next_start_takes_what_is_left(self, server: BotApi) -> None:
        first, second = Receiver(), Receiver()
        await server.put(text_update(1, "a"))
        async with polling(connect(server.base), first):
            await server.until(lambda: not server.pending)
        await server.put(text_update(2, "b"))
        async with polling(connect(server.base), second):
            await server.until(lambda: not server.pending)
        assert (first.texts, second.texts) == (["a"], ["b"])

    async def test_an_unreadable_update_neither_blocks_nor_vanishes(self, server: BotApi) -> None:
        receive = Receiver()
        poison = {"update_id": 2, "message": {"chat": "not a chat", "text": 5}}
        await server.put(text_update(1, "a"), poison, {"update_id": 3, "new_kind": {}}, text_update(4, "b"), "not even")
        async with polling(connect(server.base), receive):
            await server.until(lambda: len(receive.kinds) >= 4)
        assert receive.kinds[:4] == ["text", "unsupported", "text", "unsupported"]

    async def test_ids_that_begin_anew_at_a_lower_number_are_taken(self, server: BotApi) -> None:
        receive = Receiver()
        async with polling(connect(server.base), receive):
            await server.put(text_update(900, "before the quiet week"))
            await server.until(lambda: len(server.polls) >= 3)
            await server.put(text_update(5, "after it"))
            await server.until(lambda: not server.pending)
        assert receive.texts == ["before the quiet week", "after it"]

    @pytest.mark.parametrize(
        "answer",
        [
            (502, "<html>Bad Gateway</html>"),
            (409, '{"ok": false, "error_code": 409, "description": "Conflict: terminated by other getUpdates"}'),
            (500, '{"ok": false}'),
            (200, '{"ok": true, "result": {"not": "a list"}}'),
        ],
    )
    async def test_a_server_in_trouble_is_asked_again(self, server: BotApi, answer: tuple[int, str]) -> None:
        receive = Receiver()
        server.broken = [web.Response(status=answer[0], text=answer[1]) for _ in range(3)]
        await server.put(text_update(1, "a"))
        async with polling(connect(server.base), receive):
            await server.until(lambda: not server.pending)
        assert receive.texts == ["a"]

    async def test_a_webhook_that_could_not_be_taken_away_at_the_start_makes_nobody_deaf(self, server: BotApi) -> None:
        receive = Receiver()
        async with polling(connect(server.base), receive):
            await server.until(lambda: bool(server.polls))
            server.webhook = {"url": "https://shop.example/webhooks/telegram", "secret_token": "before"}
            await server.put(text_update(1, "a"))
            await server.until(lambda: not server.pending)
        assert receive.texts == ["a"]

    async def test_a_server_that_is_away_is_waited_for(self) -> None:
        async with bot_api(TOKEN) as gone:
            base = gone.base
        async with polling(connect(base), Receiver()):
            await asyncio.sleep(0.2)
        channel = connect(base)
        with pytest.raises(DeliveryError) as caught:
            await channel.send(ADDRESS, OutboundMessage("hi"))
        assert not caught.value.permanent
        await channel.close()


@pytest.fixture
async def channel(server: BotApi) -> AsyncIterator[TelegramChannel]:
    channel = connect(server.base)
    yield channel
    await channel.close()


class TestSending:
    async def test_flood_control_is_told_and_the_message_goes_through_later(
        self, server: BotApi, channel: TelegramChannel
    ) -> None:
        server.floods = [3]
        with pytest.raises(DeliveryError) as caught:
            await channel.send(ADDRESS, OutboundMessage("hi"))
        assert caught.value.retry_after_seconds == 3
        assert await channel.send(ADDRESS, OutboundMessage("hi")) == "1"
        assert [sent["text"] for sent in server.sent] == ["hi"]

    async def test_a_customer_who_blocked_the_bot_is_not_written_to_again(
        self, server: BotApi, channel: TelegramChannel
    ) -> None:
        server.blocked.add(CHAT)
        with pytest.raises(DeliveryError) as caught:
            await channel.send(ADDRESS, OutboundMessage("hi"))
        assert caught.value.permanent

    async def test_the_keyboard_and_the_entities_arrive(self, server: BotApi, channel: TelegramChannel) -> None:
        await channel.send(ADDRESS, OutboundMessage("**Что** из этого?", (Option("a", "Возврат"),)))
        [sent] = server.sent
        assert sent["text"] == "Что из этого?"
        assert sent["entities"] == [{"type": "bold", "offset": 0, "length": 3}]
        assert sent["reply_markup"] == {"inline_keyboard": [[{"text": "Возврат", "callback_data": "a"}]]}


class TestFiles:
    async def test_a_large_file_comes_whole(self, server: BotApi, channel: TelegramChannel) -> None:
        server.files["photos/1.jpg"] = os.urandom(3 * 1024 * 1024)
        chunks = [chunk async for chunk in channel.fetch(InboundAttachment("photo", {"file_id": "photos/1.jpg"}))]
        assert len(chunks) > 1
        assert b"".join(chunks) == server.files["photos/1.jpg"]

    @pytest.mark.parametrize("file_id", ["gone", "too-big"])
    async def test_a_file_that_telegram_will_never_give_is_a_permanent_failure(
        self, server: BotApi, channel: TelegramChannel, file_id: str
    ) -> None:
        server.files["too-big"] = bytes(20 * 1024 * 1024 + 1)
        with pytest.raises(DeliveryError) as caught:
            await anext(channel.fetch(InboundAttachment("video", {"file_id": file_id})))
        assert caught.value.permanent


# Everything below speaks to telegram-test-api, or runs the whole assistant.

START_STAND_IN = """
const TelegramServer = require("telegram-test-api");
const server = new TelegramServer({ host: "127.0.0.1", port: Number(process.argv[1]), storeTimeout: 600 });
server.start().then(() => console.log("ready"));
"""


def unavailable(reason: str, remedy: str) -> NoReturn:
    """Skip on a machine that lacks something; on CI nothing may be lacking."""
    message = f"{reason}; {remedy}"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture(scope="session")
def node() -> str:
    """Node with telegram-test-api beside this file, as package-lock.json pins it."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        unavailable("telegram-test-api needs Node", "install nodejs and npm (apt-get install nodejs npm)")
    wanted, have = HERE / "package-lock.json", HERE / "node_modules" / ".package-lock.json"
    if not have.exists() or have.stat().st_mtime < wanted.stat().st_mtime:
        command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        made = subprocess.run(command, cwd=HERE, capture_output=True, text=True, timeout=180, check=False)
        if made.returncode:
            unavailable(f"npm ci failed: {made.stderr[-300:]}", "connect this machine to an npm registry")
    return node


class StandIn:
    """A customer of telegram-test-api, over its HTTP interface."""

    def __init__(self, base: str, client: httpx.AsyncClient) -> None:
        self.base = base
        self._client = client
        self._common = {
            "botToken": TOKEN,
            "from": {"id": CHAT, "is_bot": False, "first_name": "Анна", "language_code": "ru"},
            "chat": {"id": CHAT, "type": "private"},
        }

    async def say(self, text: str) -> None:
        await self._post("/sendMessage", {**self._common, "date": int(time.time()), "text": text})

    async def command(self, text: str) -> None:
        entities = [{"type": "bot_command", "offset": 0, "length": len(text.split()[0])}]
        content = {"date": int(time.time()), "text": text, "entities": entities}
        await self._post("/sendCommand", {**self._common, **content})

    async def press(self, reply: dict[str, Any], label: str) -> None:
        """Press a button of one of the bot's messages."""
        markup = reply["message"]["reply_markup"]
        [data] = [row[0]["callback_data"] for row in markup["inline_keyboard"] if row[0]["text"] == label]
        shown = {
            "message_id": reply["messageId"],
            "date": int(time.time()),
            "chat": self._common["chat"],
            "reply_markup": markup,
        }
        await self._post("/sendCallback", {**self._common, "data": data, "message": shown})

    async def replies(self, when: Callable[[list[dict[str, Any]]], bool], seconds: float = 30) -> list[dict[str, Any]]:
        """The bot's messages, as soon as they are as wanted."""
        async with asyncio.timeout(seconds):
            while True:
                history = (await self._post("/getUpdatesHistory", {"token": TOKEN}))["result"]
                found = [item for item in history if "chat_id" in item.get("message", {})]
                if when(found):
                    return found
                await asyncio.sleep(0.05)

    async def _post(self, path: str, body: dict[str, Any]) -> Any:
        return (await self._client.post(self.base + path, json=body)).raise_for_status().json()


@pytest.fixture
async def stand_in(node: str) -> AsyncIterator[StandIn]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        node, "-e", START_STAND_IN, str(port), cwd=HERE, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        assert await asyncio.wait_for(process.stdout.readline(), 20) == b"ready\n"
        async with httpx.AsyncClient(trust_env=False) as client:
            yield StandIn(f"http://127.0.0.1:{port}", client)
    finally:
        process.kill()
        await process.communicate()


def buttons(reply: dict[str, Any]) -> list[str]:
    markup = reply["message"].get("reply_markup") or {"inline_keyboard": []}
    return [row[0]["text"] for row in markup["inline_keyboard"]]


class TestAgainstTheThirdParty:
    async def test_messages_commands_and_presses_come_in_and_messages_go_out(self, stand_in: StandIn) -> None:
        receive, channel = Receiver(), connect(stand_in.base)
        async with polling(channel, receive):
            await stand_in.command("/start promo")
            await stand_in.say("Где мой заказ?")
            await channel.send(
                ADDRESS, OutboundMessage("**Что** из этого?", (Option("t1", "Заказ"), Option("t2", "Нет")))
            )
            [reply] = await stand_in.replies(bool)
            assert (reply["message"]["text"], buttons(reply)) == ("Что из этого?", ["Заказ", "Нет"])
            await stand_in.press(reply, "Заказ")
            await stand_in.replies(lambda found: buttons(found[0]) == ["✓ Заказ"])
        assert list(zip(receive.kinds, receive.texts, strict=True)) == [
            ("start", "promo"),
            ("text", "Где мой заказ?"),
            ("choice", "Заказ"),
        ]


class Whole:
    """The assistant as `otvet serve` makes it, on an empty database, with Telegram at this address."""

    def __init__(self, trained: Path, folder: Path, base: str) -> None:
        database = f"sqlite+aiosqlite:///{folder / 'otvet.sqlite3'}"
        self.installation = Installation(Settings(_env_file=None, var=trained, database_url=database))
        self.channel = connect(base)
        self.assistant = self.installation.assistant([self.channel])
        self.sessions = self.installation.database.sessions

    @contextlib.asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        await self.installation.migrate()
        task = asyncio.create_task(self.assistant.run())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            await self.installation.close()

    async def tickets(self) -> Sequence[Ticket]:
        async with self.sessions() as session:
            return await desk.list_tickets(session)

    async def agent_says(self, ticket: Ticket, text: str, name: str) -> None:
        """As `otvet tickets reply` does it from a process of its own: the assistant notices by itself."""
        async with self.sessions.begin() as session:
            await self.installation.agent_desk().reply(session, ticket.id, text, agent=name)

    async def written(self) -> Sequence[Message]:
        """The transcript of the only conversation."""
        async with self.sessions() as session:
            return await desk.transcript(session, 1)


class TestTheWholeAssistant:
    async def test_a_question_is_answered_and_a_person_takes_over_in_the_same_chat(
        self, trained: Path, tmp_path: Path, stand_in: StandIn
    ) -> None:
        whole = Whole(trained, tmp_path, stand_in.base)
        async with whole.at_work():
            await stand_in.command("/start")
            [greeting] = await stand_in.replies(bool)
            assert "Здравствуйте" in greeting["message"]["text"]

            await stand_in.say(QUESTION)
            answer = (await stand_in.replies(lambda found: len(found) > 1))[-1]
            assert ANSWER in answer["message"]["text"]
            assert "**" not in answer["message"]["text"]
            await stand_in.press(answer, buttons(answer)[0])
            found = await stand_in.replies(lambda found: len(found) > 2 and len(buttons(found[1])) == 1)
            assert buttons(found[1])[0].startswith("✓")

            await stand_in.say("позовите человека")
            announcement = (await stand_in.replies(lambda found: len(found) > 3))[-1]
            [ticket] = await whole.tickets()
            assert f"№ {ticket.id}" in announcement["message"]["text"]

            await whole.agent_says(ticket, "Добрый день! Чем помочь?", "Ольга")
            said = (await stand_in.replies(lambda found: len(found) > 4))[-1]
            assert said["message"]["text"] == "Ольга\nДобрый день! Чем помочь?"

            await stand_in.say("спасибо, я уже разобрался с аккаунтом")
            await until(whole.written, lambda messages: "разобрался" in messages[-1].text)
            assert len(await stand_in.replies(bool)) == 5, "the assistant is silent while a person has the chat"

    async def test_a_photo_is_stored_and_acknowledged(self, trained: Path, tmp_path: Path, server: BotApi) -> None:
        content = os.urandom(100_000)
        server.files["photos/1.jpg"] = content
        update = text_update(1, "")
        update["message"] |= {"photo": [{"file_id": "photos/1.jpg", "file_unique_id": "u", "file_size": 100_000}]}
        whole = Whole(trained, tmp_path, server.base)
        async with whole.at_work():
            await server.put(update)
            await server.until(lambda: any("фото получено" in sent["text"] for sent in server.sent), 30)
            messages = await whole.written()
        [photo] = messages[0].attachments
        assert (photo.kind, photo.state, photo.sha256) == ("photo", "stored", hashlib.sha256(content).hexdigest())

    async def test_the_same_update_three_times_is_answered_once(
        self, trained: Path, tmp_path: Path, server: BotApi
    ) -> None:
        whole = Whole(trained, tmp_path, server.base)
        async with whole.at_work():
            await server.put(*[text_update(1, "/start")] * 3, text_update(2, "позовите человека"))
            await until(whole.tickets, bool)
            await server.until(lambda: len(server.sent) >= 2, 30)
            messages = await whole.written()
        assert [message.kind for message in messages if message.author == "customer"] == ["start", "text"]
        assert len(server.sent) == 2

    async def test_flood_control_delays_the_replies_and_keeps_their_order(
        self, trained: Path, tmp_path: Path, server: BotApi
    ) -> None:
        whole = Whole(trained, tmp_path, server.base)
        server.floods = [1]
        async with whole.at_work():
            await server.put(text_update(1, "/start"), text_update(2, QUESTION))
            await server.until(lambda: len(server.sent) >= 2, 30)
        assert "Здравствуйте" in server.sent[0]["text"]
        assert ANSWER in server.sent[1]["text"]

    async def test_who_blocked_the_bot_is_not_written_to_again_and_is_not_forgotten(
        self, trained: Path, tmp_path: Path, server: BotApi
    ) -> None:
        whole = Whole(trained, tmp_path, server.base)
        server.blocked.add(CHAT)
        async with whole.at_work():
            await server.put(text_update(1, "позовите человека"))
            messages = await until(whole.written, lambda found: any(message.kind == NOTE for message in found))
            assert len(await whole.tickets()) == 1
            held = [message for message in messages if message.delivery == "held"]
            assert held
            assert all("blocked" in (message.delivery_error or "") for message in held)
            server.blocked.clear()
            await server.put(text_update(2, "я снова здесь"))
            await server.until(lambda: len(server.sent) == len(held), 30)

    async def test_what_was_written_while_the_assistant_was_away_is_answered(
        self, trained: Path, tmp_path: Path, server: BotApi
    ) -> None:
        await server.put(text_update(1, "/start"))
        first = Whole(trained, tmp_path, server.base)
        async with first.at_work():
            await until(first.written, lambda found: found and found[-1].delivery == "sent")
        await server.put(text_update(2, "позовите человека"))
        async with Whole(trained, tmp_path, server.base).at_work():
            await server.until(lambda: len(server.sent) >= 2, 30)
        assert "№ 1" in server.sent[1]["text"]


async def until(read: Callable[[], Awaitable[T]], condition: Callable[[T], object], seconds: float = 30) -> T:
    """What `read` gives, as soon as it is as wanted."""
    async with asyncio.timeout(seconds):
        while True:
            value = await read()
            if condition(value):
                return value
            await asyncio.sleep(0.05)
