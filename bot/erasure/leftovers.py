"""What an erasure leaves outside of the database's transaction: files, topics in Telegram, the reports of the gate, and
the old words in the pages of a SQLite file."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final, Protocol

import structlog
from sqlalchemy import delete, func, select, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from bot.attachments import AttachmentStore
from bot.desk.records import Outgoing, OutgoingState
from bot.errors import DeliveryError, GroupRefusedError, TopicGoneError
from bot.gaps.records import Question
from bot.models.gate import Report
from bot.models.releases import load_report, write_report
from bot.work import Sessions
from handoff.records import Attachment, Message

log = structlog.get_logger()

GRACE_SECONDS: Final = 60.0
"""A file that was stored again so lately is looked at later: a message that has it may not be written yet."""
MERGE_PAGES: Final = 500


class Topics(Protocol):
    async def delete(self, group_id: int, thread_id: int) -> None:
        """Raises DeliveryError."""


class Leftovers:
    def __init__(
        self,
        *,
        engine: AsyncEngine,
        sessions: Sessions,
        attachments: AttachmentStore,
        clock: Callable[[], datetime],
        models: Path,
        topics: Callable[[], Topics] | None = None,
    ) -> None:
        """models: the folder of the model versions. topics: the agents' groups in Telegram, if there are any."""
        self._engine = engine
        self._sessions = sessions
        self._attachments = attachments
        self._clock = clock
        self._models = models
        self._topics = topics

    async def do(self, payload: Mapping[str, Any]) -> datetime | None:
        """The errand `bot.erasure.erasing.ERASE`; every part of it may be done twice. Raises StorageError and
        DeliveryError: then it is tried again."""
        conversations = [int(each) for each in payload["conversations"]]
        async with self._sessions.begin() as session:
            # What was being collected from the transcript while it was emptied.
            await session.execute(delete(Question).where(Question.conversation_id.in_(conversations)))
        await self._reports(conversations)
        await self._pages()
        early = [file for file in payload["files"] if not await self._remove(str(file))]
        await self._groups(payload["topics"])
        log.info("erasure.finished", files=len(payload["files"]) - len(early), later=len(early))
        return self._clock() + timedelta(seconds=GRACE_SECONDS) if early else None

    async def _remove(self, sha256: str) -> bool:
        """Whether a file is dealt with: gone, or another's as well."""
        async with self._sessions.begin() as session:
            if await _is_used(session, sha256):
                return True
        return await self._attachments.remove(sha256, older_than_seconds=GRACE_SECONDS)

    async def _groups(self, topics: Sequence[Sequence[int]]) -> None:
        if self._topics is None:
            if topics:
                log.warning("erasure.topics_left", topics=len(topics), reason="OTVET_FORUM_GROUPS is not set")
            return
        for group_id, thread_id in topics:
            try:
                await self._topics().delete(group_id, thread_id)
            except TopicGoneError:
                continue
            except DeliveryError as error:
                if not error.permanent and not isinstance(error, GroupRefusedError):
                    raise
                # A person has to: the bot may not delete messages there.
                log.error("erasure.topic_left", group=group_id, topic=thread_id, problem=str(error))

    async def _reports(self, conversations: Sequence[int]) -> None:
        """The gate's reports quote what customers wrote, masked."""
        async with self._sessions.reading() as session:
            mine = set(await session.scalars(select(Message.id).where(Message.conversation_id.in_(conversations))))
        await asyncio.to_thread(_without, self._models, mine)

    async def _pages(self) -> None:
        """Where SQLite keeps old words although no row has them: in the full-text index until it is merged, and in the
        log of writes until that is taken over."""
        if self._engine.dialect.name != "sqlite":
            return
        steps = -MERGE_PAGES
        while True:
            async with self._sessions.begin() as session:
                await session.execute(text("PRAGMA secure_delete = ON"))
                before = await session.scalar(select(func.total_changes())) or 0
                await session.execute(
                    text("INSERT INTO message_words(message_words, rank) VALUES ('merge', :pages)"), {"pages": steps}
                )
                after = await session.scalar(select(func.total_changes())) or 0
            if after - before < 2:  # as SQLite's documentation has it: nothing was left to merge
                break
            steps = MERGE_PAGES
        async with self._engine.connect() as connection:
            driver: Any = (await connection.get_raw_connection()).driver_connection  # outside of any transaction
            await (await driver.execute("PRAGMA wal_checkpoint(TRUNCATE)")).close()


async def _is_used(session: AsyncSession, sha256: str) -> bool:
    found = select(Attachment.id).where(Attachment.sha256 == sha256).limit(1)
    if await session.scalar(found) is not None:
        return True
    waiting = await session.scalars(select(Outgoing.files).where(Outgoing.state == OutgoingState.WAITING))
    return any(file.get("sha256") == sha256 for files in waiting for file in files)


def _without(models: Path, messages: set[int]) -> None:
    """Take what these messages said out of every report. Blocks."""
    for path in sorted(models.glob("*/")) if models.is_dir() else ():
        report = load_report(path)
        if report is not None and (clean := _cleaned(report, messages)) != report:
            write_report(path, clean)


def _cleaned(report: Report, messages: set[int]) -> Report:
    changes = tuple(replace(each, text="") if each.message_id in messages else each for each in report.changes)
    return replace(report, changes=changes)
