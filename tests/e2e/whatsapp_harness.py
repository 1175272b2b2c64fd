"""An assistant on WhatsApp with everything real but the understanding and Meta: ledger, turns, sender, web server."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from zoneinfo import ZoneInfo

import uvicorn
from desks import open_desk
from fastapi import FastAPI
from graph_api import PHONE, SECRET, TOKEN, VERIFY, GraphApi, graph_api
from site_harness import DATA, Clock, Keywords, free_port
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from bot.assistant import Assistant
from bot.attachments import AttachmentStore
from bot.channels.site import SiteChannel
from bot.channels.whatsapp import WINDOW, WhatsAppChannel
from bot.database import migrate, open_database
from bot.message_templates import load_templates
from bot.replies import Replies
from bot.timers import Timers
from bot.turn.turns import Turns
from bot.uploads import StoredUploads
from bot.web.app import create_app
from bot.web.webhooks import WHATSAPP_PATH, Webhooks, WhatsAppHook
from bot.whatsapp_record import WhatsAppRecord
from bot.window import CLOSING, Windows
from handoff import desk
from handoff.records import Conversation, Message, Ticket

COMMON = {"shop": "Klyon", "hours": "9–21", "privacy_url": "https://klyon.example/p", "first_reply_minutes": 10}


class WhatsAppWorld:
    def __init__(self, var: Path, graph: GraphApi, clock: Clock, *, body_seconds: float = 10) -> None:
        self.graph, self.clock = graph, clock
        self.engine, self.sessions = open_database(f"sqlite+aiosqlite:///{var / 'otvet.sqlite3'}")
        replies = Replies((DATA / "replies",), {"ru": COMMON, "en": COMMON})
        self.windows = Windows(
            lengths={"whatsapp": WINDOW},
            templates=load_templates(DATA / "templates.yml"),
            replies=replies,
            shop={"ru": "Клён", "en": "Klyon"},
            clock=clock,
            zone=ZoneInfo("Europe/Moscow"),
        )
        self.timers = Timers(self.sessions, clock)
        self.timers.register(CLOSING, self.windows.remind)
        self.store = AttachmentStore(var / "attachments", 20_000_000)
        uploads = StoredUploads(self.sessions, clock)
        self.channel = WhatsAppChannel(TOKEN, [PHONE], api_base=graph.base, uploads=uploads)
        mind = Keywords()
        replies = Replies((DATA / "replies",), {"ru": COMMON, "en": COMMON})
        self.desk = open_desk(replies, clock)
        turns = Turns(
            understander=lambda: mind,
            replies=replies,
            agent_desk=self.desk,
            clock=clock,
            limit_mb=20,
        )
        self.assistant = Assistant(
            sessions=self.sessions,
            turns=turns,
            channels=[self.channel],
            attachments=self.store,
            clock=clock,
            windows=self.windows,
        )
        self.record = WhatsAppRecord(
            sessions=self.sessions,
            receive=self.assistant.receive,
            windows=self.windows,
            on_failed=self.assistant.on_failed,
            accounts=[PHONE],
            clock=clock,
        )
        hook = WhatsAppHook(SECRET, VERIFY, self.record.take)
        self.webhooks = Webhooks(whatsapp=hook, body_seconds=body_seconds)
        self.app: FastAPI = create_app(
            sessions=self.sessions,
            receive=self.assistant.receive,
            clock=clock,
            site=SiteChannel(self.store),
            shop={"ru": "Клён", "en": "Klyon"},
            webhooks=self.webhooks.router,
        )
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}{WHATSAPP_PATH}"

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """The web server, and the assistant at work behind it."""
        await migrate(self.engine)
        config = uvicorn.Config(self.app, port=self.port, log_level="warning", ws="none", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
        tasks = [asyncio.create_task(self.assistant.run()), asyncio.create_task(server.serve())]
        while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.01)
        self.graph.webhook = self.url
        try:
            yield
        finally:
            self.graph.webhook = ""
            await self.graph.settle()
            server.should_exit = True
            await tasks[1]
            tasks[0].cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await tasks[0]
            await self.engine.dispose()

    async def transcript(self, chat_id: str) -> Sequence[Message]:
        async with self.sessions() as session:
            conversation = await self.conversation(session, chat_id)
            return [] if conversation is None else await desk.transcript(session, conversation.id)

    async def until(
        self, chat_id: str, condition: Callable[[Sequence[Message]], object], seconds: float = 20
    ) -> Sequence[Message]:
        """The transcript, as soon as it is as wanted. Raises TimeoutError."""
        async with asyncio.timeout(seconds):
            while True:
                messages = await self.transcript(chat_id)
                if condition(messages):
                    return messages
                await asyncio.sleep(0.05)

    async def conversation(self, session: AsyncSession, chat_id: str) -> Conversation | None:
        found: Conversation | None = await session.scalar(select(Conversation).where(Conversation.chat_id == chat_id))
        return found

    async def tickets(self) -> Sequence[Ticket]:
        async with self.sessions() as session:
            return await desk.list_tickets(session, limit=1000)

    async def agent_says(self, ticket_id: int, text: str, name: str = "Ольга") -> None:
        async with self.sessions.begin() as session:
            await self.desk.reply(session, ticket_id, text, agent=name)


@asynccontextmanager
async def whatsapp_world(var: Path, *, body_seconds: float = 10) -> AsyncIterator[WhatsAppWorld]:
    clock = Clock()
    async with graph_api(clock) as graph:
        world = WhatsAppWorld(var, graph, clock, body_seconds=body_seconds)
        async with world.serving():
            yield world
