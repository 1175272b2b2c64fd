"""An assistant on Telegram with everything real but the understanding and Telegram: ledger, turns, sender, web."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import uvicorn
from bot_api import TOKEN, BotApi
from desks import open_desk
from fastapi import FastAPI
from site_harness import DATA, Clock, Keywords, free_port
from sqlalchemy import select

from bot.assistant import Assistant
from bot.attachments import AttachmentStore, StoredFile
from bot.channels.telegram import TelegramChannel
from bot.database import migrate, open_database
from bot.replies import Replies
from bot.turn.turns import Turns
from bot.uploads import StoredUploads
from bot.web.webhooks import TelegramHook, Webhooks
from handoff import desk
from handoff.records import Conversation, Message, Ticket

COMMON = {"shop": "Klyon", "hours": "9–21", "privacy_url": "https://klyon.example/p", "first_reply_minutes": 10}


class TelegramWorld:
    def __init__(self, var: Path, api: BotApi, *, database: str = "", **channel: Any) -> None:
        """database: its address; empty: a file of SQLite's."""
        self.api, self.clock = api, Clock()
        self.engine, self.sessions = open_database(database or f"sqlite+aiosqlite:///{var / 'otvet.sqlite3'}")
        self.store = AttachmentStore(var / "attachments", 60_000_000)
        self.channel = TelegramChannel(
            TOKEN,
            api_base=api.base,
            poll_seconds=1,
            retry_seconds=0.01,
            uploads=StoredUploads(self.sessions, self.clock),
            **channel,
        )
        mind = Keywords()
        replies = Replies((DATA / "replies",), {"ru": COMMON, "en": COMMON})
        self.desk = open_desk(replies, self.clock)
        turns = Turns(
            understander=lambda: mind,
            replies=replies,
            agent_desk=self.desk,
            clock=self.clock,
            limit_mb=20,
        )
        self.assistant = Assistant(
            sessions=self.sessions,
            turns=turns,
            channels=[self.channel],
            attachments=self.store,
            clock=self.clock,
        )

    @asynccontextmanager
    async def called(self) -> AsyncIterator[None]:
        """A web server with the webhook's route, which Telegram calls."""

        async def take(update: Any, account: str) -> None:
            await self.channel.take(update, self.assistant.receive, account)

        webhooks = Webhooks(telegram=TelegramHook(self.channel.webhook_secret, take, self.channel.accounts))
        app, port = FastAPI(), free_port()
        app.include_router(webhooks.router)
        server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning", ws="none"))
        server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
        serving = asyncio.create_task(server.serve())
        while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.01)
        self.api.door = f"http://127.0.0.1:{port}"
        try:
            yield
        finally:
            server.should_exit = True
            await serving

    @asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        await migrate(self.engine)
        task = asyncio.create_task(self.assistant.run())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            await self.engine.dispose()

    async def transcript(self, chat_id: int) -> Sequence[Message]:
        async with self.sessions() as session:
            found = await session.scalar(select(Conversation.id).where(Conversation.chat_id == str(chat_id)))
            return [] if found is None else await desk.transcript(session, found)

    async def until(
        self, chat_id: int, condition: Callable[[Sequence[Message]], object], seconds: float = 20
    ) -> Sequence[Message]:
        """The transcript, as soon as it is as wanted. Raises TimeoutError."""
        async with asyncio.timeout(seconds):
            while True:
                messages = await self.transcript(chat_id)
                if condition(messages):
                    return messages
                await asyncio.sleep(0.05)

    async def tickets(self) -> Sequence[Ticket]:
        async with self.sessions() as session:
            return await desk.list_tickets(session, limit=1000)

    async def keep(self, content: bytes, name: str) -> StoredFile:
        async def chunks() -> AsyncIterator[bytes]:
            yield content

        return await self.store.store(chunks(), name)

    async def agent_says(self, ticket_id: int, text: str, *files: StoredFile, name: str = "Ольга") -> Message:
        async with self.sessions.begin() as session:
            return await self.desk.reply(session, ticket_id, text, agent=name, files=files)
