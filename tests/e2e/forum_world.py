"""An assistant on Telegram whose agents answer in a forum group: all of it real but the understanding and Telegram."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from bot_api import TOKEN
from forum_api import ForumBotApi, Group, Written
from sqlalchemy import select
from telegram_harness import TelegramWorld

from bot.channels.telegram import TelegramChannel
from bot.channels.telegram_forum import ForumApi
from bot.desk.accounts import Accounts
from bot.desk.outgoing import OUTGOING, fire_outgoing
from bot.desk.records import Account
from bot.desk.survey import SURVEY
from bot.forum.forum import Forum
from bot.forum.groups import parse_groups
from bot.forum.intake import ForumIntake
from bot.forum.people import ForumPeople
from bot.forum.records import INTAKE, ForumTopic
from bot.shared import LocalShared
from bot.timers import Timers
from bot.uploads import StoredUploads
from handoff.access import Role
from handoff.records import Agent, Ticket

GROUP = -1001
OLGA, IVAN, STRANGER = 501, 502, 999


class ForumWorld(TelegramWorld):
    def __init__(
        self, var: Path, api: ForumBotApi, *, groups: str = str(GROUP), lang: str = "en", database: str = ""
    ) -> None:
        """api: the stand-in; in a process of its own, something with its `base` and `minute_seconds`."""
        super().__init__(var, api, database=database, elsewhere=self._elsewhere)
        self.forum_api = api
        shared = LocalShared()
        self.accounts = Accounts(self.sessions, shared, self.clock)
        self.people = ForumPeople(self.accounts, self.clock)
        sender = TelegramChannel(TOKEN, api_base=api.base, uploads=StoredUploads(self.sessions, self.clock))
        self.forum = Forum(
            api=ForumApi(sender),
            desk=self.desk,
            sessions=self.sessions,
            attachments=self.store,
            clock=self.clock,
            shared=shared,
            groups=parse_groups(groups),
            zone=ZoneInfo("Europe/Moscow"),
            lang=lang,
            pace_scale=api.minute_seconds / 60,
        )
        self.intake = ForumIntake(
            forum=self.forum,
            desk=self.desk,
            accounts=self.accounts,
            people=self.people,
            sessions=self.sessions,
            attachments=self.store,
            clock=self.clock,
            shared=shared,
            shop={"ru": "Клён", "en": "Klyon"},
        )
        self.desk.tickets.history.listeners.append(self.forum.heard)
        self.timers = Timers(self.sessions, self.clock, tick_seconds=0.02)
        self.timers.register(SURVEY, self.desk.survey.fire)
        self.timers.register(OUTGOING, partial(fire_outgoing, self.desk))
        self.timers.register_errand(INTAKE, self.intake.do)
        self.forum.register(self.timers)
        for group_id in self.forum.groups:
            api.group(group_id)

    async def _elsewhere(self, update: Any, account: str) -> bool:
        return await self.intake.take(update, account)

    @property
    def group(self) -> Group:
        return self.forum_api.group(GROUP)

    @asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        async with super().at_work():
            await self.hire("Olga", OLGA)
            task = asyncio.create_task(self.timers.run())
            try:
                yield
            finally:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
                await self.forum.api.shut()

    async def hire(
        self, name: str, telegram_id: int, *, role: Role = Role.SENIOR, teams: tuple[str, ...] = ("first-line",)
    ) -> None:
        """Somebody with an account, whom Telegram's id is known of."""
        async with self.sessions.begin() as session:
            if await session.scalar(select(Agent.id).where(Agent.name == name)):
                return  # a world before this one hired him
            agent = Agent(name=name, teams=list(teams), langs=[], notify=[], created_at=datetime.now(UTC))
            session.add(agent)
            await session.flush()
            account = Account(
                agent_id=agent.id,
                login=name.lower(),
                password_hash="-",
                role=role,
                lang="en",
                created_at=datetime.now(UTC),
            )
            session.add(account)
            await session.flush()
            code = await self.people.code(session, account.id)
            assert await self.people.link(session, telegram_id, name, code)

    async def when(self, condition: Callable[[], object], seconds: float = 15) -> None:
        """Wait until the stand-in shows what is expected. Raises TimeoutError."""
        await self.forum_api.until(condition, seconds)

    async def held(self) -> None:
        """Wait until the bot has understood that it has to wait."""
        async with asyncio.timeout(15):
            while self.forum.held_until(GROUP) is None:  # noqa: ASYNC110 - nothing tells of it
                await asyncio.sleep(0.02)

    async def ticket(self, number: int = 1) -> Ticket:
        async with self.sessions() as session:
            return await session.get_one(Ticket, number)

    async def row(self, number: int = 1) -> ForumTopic | None:
        async with self.sessions() as session:
            return await session.scalar(select(ForumTopic).where(ForumTopic.ticket_id == number))

    async def settled(self) -> None:
        """Wait until every group has been looked at twice, with nothing to do."""
        async with asyncio.timeout(15):
            for _ in range(2):
                self.forum.idle.clear()
                self.clock.advance(2)
                await self.forum.idle.wait()

    def said(self, thread: int) -> list[Written]:
        """What the bot wrote in a topic."""
        return [each for each in self.group.of(thread) if each.sender == 42]

    def got(self, customer: int) -> list[str]:
        """What a customer received."""
        mine = [sent for sent in self.forum_api.sent if sent["chat_id"] == customer]
        return [str(sent.get("text", sent.get("caption"))) for sent in mine]

    def survey_buttons(self, customer: int) -> list[str]:
        """The data of the buttons by which a customer says whether he was helped: yes, no."""
        mine = [sent for sent in self.forum_api.sent if sent["chat_id"] == customer]
        rows = [row for sent in mine for row in (sent.get("reply_markup") or {}).get("inline_keyboard", [])]
        return [button["callback_data"] for row in rows for button in row if button["callback_data"].startswith(SURVEY)]


@asynccontextmanager
async def at_work(var: Path, *, minute: float = 3.0, **options: Any) -> AsyncIterator[ForumWorld]:
    from bot_api import served

    api = ForumBotApi()
    api.minute_seconds = minute
    async with served(api):
        world = ForumWorld(var, api, **options)
        async with world.at_work():
            yield world
