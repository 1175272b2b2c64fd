"""The site chat as a channel. The transcript is the delivery: browsers read it, and are only told when to look."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager

from bot.attachments import AttachmentStore
from bot.channels.base import Address, Capabilities, InboundAttachment, Medium, OutboundMessage, Receive
from bot.errors import DeliveryError, FileGoneError
from bot.shared import LocalShared, Shared

NAME = "site"
MEDIA = {kind: Medium(2**40) for kind in ("photo", "video", "audio", "document")}
"""The page shows or links whatever is stored, so that the limit of the store is the only one."""
TYPES_SECONDS = 7.0
"""How long after a sign of it somebody counts as writing."""


class SiteChannel:
    """Browsers of one session (tabs, windows) listen under its chat id, and each is woken by every message."""

    name = NAME
    capabilities = Capabilities(
        max_text_chars=200_000, max_buttons=12, max_label_chars=120, media=MEDIA, max_caption_chars=200_000
    )

    def __init__(self, store: AttachmentStore, shared: Shared | None = None) -> None:
        """shared: how listeners in other processes are woken; by default there are none."""
        self.store = store
        self.shared = shared or LocalShared()

    async def run(self, receive: Receive) -> None:
        """Nothing to run: messages come in through `bot.web.chat_api`."""

    async def send(self, address: Address, message: OutboundMessage) -> str | None:
        """Wake the listeners. The message lies in the transcript already, so nothing can fail here."""
        await self.wake(address.chat_id)
        return None

    async def working(self, address: Address, external_id: str) -> None:
        """The page shows it by itself."""

    async def fetch(self, attachment: InboundAttachment) -> AsyncIterator[bytes]:
        try:
            async for chunk in self.store.read(str(attachment.source.get("sha256", ""))):
                yield chunk
        except FileGoneError as error:
            raise DeliveryError("an uploaded file is gone", permanent=True) from error

    async def wake(self, chat_id: str) -> None:
        """Let every listener of this session, in any process, look at the transcript again."""
        await self.shared.wake(_topic(chat_id))

    async def types(self, who: str, chat_id: str) -> None:
        """Somebody (`agent` or `customer`) is writing at this moment."""
        await self.shared.beat(f"{NAME}-types:{who}:{chat_id}", f"{time.time():.0f}")
        if who == "agent":
            await self.wake(chat_id)

    async def is_typing(self, who: str, chat_id: str) -> bool:
        signs = await self.shared.present(f"{NAME}-types:{who}:{chat_id}")
        return any(float(sign) > time.time() - TYPES_SECONDS for sign in signs)

    def listen(self, chat_id: str) -> AbstractContextManager[asyncio.Event]:
        """An event that is set whenever there may be something new."""
        return self.shared.listen(_topic(chat_id))

    def listeners(self, chat_id: str) -> int:
        return self.shared.listeners(_topic(chat_id))

    async def keep(self, chunks: AsyncIterator[bytes], file_name: str) -> InboundAttachment:
        """Store an uploaded file. Its type is read from the bytes: what the browser claims is not believed.

        Raises TooLargeError, and nothing is kept then.
        """
        stored = await self.store.store(chunks, file_name)
        return InboundAttachment(
            kind=stored.kind,
            source={"sha256": stored.sha256},
            file_name=stored.file_name,
            mime_type=stored.mime_type,
            size_bytes=stored.size_bytes,
        )


def _topic(chat_id: str) -> str:
    return f"{NAME}:{chat_id}"
