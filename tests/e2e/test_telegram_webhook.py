"""Telegram calls us: the address is told at the start, the secret is checked, and nothing is lost."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from bot_api import BotApi, bot_api
from fastapi import FastAPI

from bot.channels.base import InboundMessage
from bot.channels.telegram import TelegramChannel
from bot.errors import SettingsError
from bot.web.webhooks import TELEGRAM_PATH, TelegramHook, Webhooks

pytestmark = pytest.mark.e2e

TOKEN, SECRET, URL = "42:TEST", "a-long_word", "https://assistant.example/webhooks/telegram"
SECRET_HEADER = "X-Telegram-Bot-Api-Secret-Token"


def text_update(update_id: int, text: str) -> dict[str, Any]:
    chat = {"id": 7, "type": "private"}
    message = {"message_id": update_id, "date": 1_770_000_000, "chat": chat, "from": {"id": 7}, "text": text}
    return {"update_id": update_id, "message": message}


class Door:
    """The channel in webhook mode with its route."""

    def __init__(self, base: str, tokens: str = TOKEN) -> None:
        self.heard: list[InboundMessage] = []
        self.faults: list[Exception] = []
        self.channel = TelegramChannel(
            tokens, api_base=base, webhook_url=URL, webhook_secret=SECRET, retry_seconds=0.01
        )

        async def take(update: Any, account: str) -> None:
            await self.channel.take(update, self.receive, account)

        hook = TelegramHook(self.channel.webhook_secret, take, self.channel.accounts)
        self.webhooks = Webhooks(telegram=hook)
        app = FastAPI()
        app.include_router(self.webhooks.router)
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        self.http = httpx.AsyncClient(transport=transport, base_url="http://x")

    async def receive(self, message: InboundMessage) -> bool:
        if self.faults:
            raise self.faults.pop()
        self.heard.append(message)
        return True

    async def call(self, content: Any, secret: str = SECRET, path: str = TELEGRAM_PATH) -> int:
        body: dict[str, Any] = {"content": content} if isinstance(content, bytes) else {"json": content}
        return (await self.http.post(path, headers={SECRET_HEADER.encode(): secret.encode()}, **body)).status_code


@pytest.fixture
async def server() -> AsyncIterator[BotApi]:
    async with bot_api(TOKEN) as api:
        yield api


@pytest.fixture
async def door(server: BotApi) -> AsyncIterator[Door]:
    made = Door(server.base)
    yield made
    await made.http.aclose()
    await made.channel.close()


async def test_telegram_is_told_where_to_call_and_is_not_polled(server: BotApi, door: Door) -> None:
    task = asyncio.create_task(door.channel.run(door.receive))
    await server.until(lambda: server.calls)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    [(method, form)] = server.calls
    assert (method, form["url"], form["secret_token"]) == ("setWebhook", URL, SECRET)
    assert "message" in form["allowed_updates"]
    assert server.polls == []


async def test_an_update_is_taken_and_a_fault_makes_telegram_call_again(door: Door) -> None:
    door.faults = [ConnectionError()]
    assert [await door.call(text_update(1, "hi")) for _ in range(2)] == [500, 200]
    assert [message.text for message in door.heard] == ["hi"]


async def test_each_of_several_bots_is_called_under_its_own_address(server: BotApi) -> None:
    door = Door(server.base, f"{TOKEN}, 43:OTHER")
    task = asyncio.create_task(door.channel.run(door.receive))
    await server.until(lambda: len(server.calls) == 2)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert {form["url"] for _, form in server.calls} == {f"{URL}/42", f"{URL}/43"}
    for account in ("42", "43"):
        assert await door.call(text_update(1, account), path=f"{TELEGRAM_PATH}/{account}") == 200
    assert [(m.address.account, m.text) for m in door.heard] == [("42", "42"), ("43", "43")]
    assert await door.call(text_update(1, "x"), path=f"{TELEGRAM_PATH}/44") == 404
    assert door.webhooks.refused["telegram", "unknown_bot"] == 1
    await door.http.aclose()


@pytest.mark.parametrize("secret", ["", "a-long_wor", "a-long_word2", "слово"])
async def test_a_wrong_secret_is_refused_and_counted(door: Door, secret: str) -> None:
    assert await door.call(text_update(1, "hi"), secret) == 401
    assert door.heard == []
    assert door.webhooks.refused["telegram", "secret"] == 1


async def test_what_is_no_json_or_too_large_is_refused_and_an_odd_update_is_not(door: Door) -> None:
    assert await door.call(b"{") == 400
    assert await door.call(b"[" * 100_000) == 400
    assert await door.call(b" " * (4 << 20)) == 413
    assert await door.call({"update_id": 3, "message": {"chat": "not a chat"}}) == 200
    assert [message.kind for message in door.heard] == ["unsupported"]


@pytest.mark.parametrize(
    ("url", "secret", "named"),
    [
        ("http://assistant.example", SECRET, "OTVET_TELEGRAM_WEBHOOK_URL"),
        (URL, "", "OTVET_TELEGRAM_SECRET"),
        (URL, "short", "OTVET_TELEGRAM_SECRET"),
        (URL, "with spaces in it", "OTVET_TELEGRAM_SECRET"),
    ],
)
def test_a_setting_that_telegram_would_refuse_is_named(url: str, secret: str, named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        TelegramChannel(TOKEN, webhook_url=url, webhook_secret=secret)
