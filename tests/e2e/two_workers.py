"""A worker process for `test_two_workers.py`: the assistant on PostgreSQL with a channel that writes to a file.

Arguments: the database's address, the file that stands for the platform, the worker's name.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from desks import open_desk
from site_harness import DATA, Keywords

from bot.assistant import Assistant
from bot.attachments import AttachmentStore
from bot.channels.base import Address, Capabilities, InboundAttachment, OutboundMessage, Receive
from bot.database import open_database
from bot.errors import DeliveryError
from bot.models.understanding import Understood
from bot.replies import Replies
from bot.turn.turns import Turns


class Thoughtful(Keywords):
    """Takes its time, so that a kill falls into the middle of a turn."""

    def understand(self, text: str, remembered_lang: str | None = None) -> Understood:
        time.sleep(0.03)
        return super().understand(text, remembered_lang)


class FileChannel:
    """A platform that keeps what it takes, line by line, whatever becomes of the caller."""

    name = "file"
    capabilities = Capabilities(max_text_chars=4000, max_buttons=8)

    def __init__(self, path: str, worker: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._worker = worker

    async def run(self, receive: Receive) -> None:
        await asyncio.Event().wait()

    async def send(self, address: Address, message: OutboundMessage) -> str | None:
        await asyncio.sleep(0.005)
        os.write(self._file, f"{self._worker} {address.chat_id} {message.message_id}\n".encode())
        await asyncio.sleep(0.005)
        return str(message.message_id)

    async def working(self, address: Address, external_id: str) -> None:
        return

    async def fetch(self, attachment: InboundAttachment) -> AsyncIterator[bytes]:
        raise DeliveryError("no files", permanent=True)
        yield b""


async def main(url: str, path: str, worker: str) -> None:
    common = {"shop": "Klyon", "hours": "9–21", "privacy_url": "https://klyon.example/p", "first_reply_minutes": 10}
    _, sessions = open_database(url)
    mind = Thoughtful()

    def clock() -> datetime:
        return datetime.now(UTC)

    replies = Replies((DATA / "replies",), {"ru": common, "en": common})
    turns = Turns(
        understander=lambda: mind,
        replies=replies,
        agent_desk=open_desk(replies, clock),
        clock=clock,
        limit_mb=20,
    )
    assistant = Assistant(
        sessions=sessions,
        turns=turns,
        channels=[FileChannel(path, worker)],
        attachments=AttachmentStore(Path(path).parent / "attachments", 1000),
        clock=clock,
        gather_seconds=0,
    )
    await assistant.run()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
