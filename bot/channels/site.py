"""The site chat as a channel. The transcript is the delivery: browsers read it, and are only told when to look."""

from __future__ import annotations

import asyncio
import unicodedata
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager

from bot.attachments import AttachmentStore
from bot.channels.base import Address, Capabilities, InboundAttachment, OutboundMessage, Receive
from bot.errors import DeliveryError
from bot.shared import LocalShared, Shared

NAME = "site"
CHUNK_BYTES = 256 * 1024


class SiteChannel:
    """Browsers of one session (tabs, windows) listen under its chat id, and each is woken by every message."""

    name = NAME
    capabilities = Capabilities(max_text_chars=200_000, max_buttons=12, max_label_chars=120)

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
        path = self.store.path(str(attachment.source.get("sha256", "")))
        try:
            file = await asyncio.to_thread(path.open, "rb")
        except OSError as error:
            raise DeliveryError("an uploaded file is gone", permanent=True) from error
        try:
            while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
                yield chunk
        finally:
            file.close()

    async def wake(self, chat_id: str) -> None:
        """Let every listener of this session, in any process, look at the transcript again."""
        await self.shared.wake(_topic(chat_id))

    def listen(self, chat_id: str) -> AbstractContextManager[asyncio.Event]:
        """An event that is set whenever there may be something new."""
        return self.shared.listen(_topic(chat_id))

    def listeners(self, chat_id: str) -> int:
        return self.shared.listeners(_topic(chat_id))

    async def keep(self, chunks: AsyncIterator[bytes], file_name: str) -> InboundAttachment:
        """Store an uploaded file. Its type is read from the bytes: what the browser claims is not believed.

        Raises TooLargeError, and nothing is kept then.
        """
        head = b""

        async def watched() -> AsyncIterator[bytes]:
            nonlocal head
            async for chunk in chunks:
                head = head or chunk[:512]
                yield chunk

        stored = await self.store.store(watched())
        mime_type = sniff(head)
        return InboundAttachment(
            kind={"image": "photo", "video": "video", "audio": "audio"}.get(mime_type.partition("/")[0], "document"),
            source={"sha256": stored.sha256},
            file_name=safe_name(file_name),
            mime_type=mime_type,
            size_bytes=stored.size_bytes,
        )


def _topic(chat_id: str) -> str:
    return f"{NAME}:{chat_id}"


_MAGIC = (
    (0, b"\x89PNG\r\n\x1a\n", "image/png"),
    (0, b"\xff\xd8\xff", "image/jpeg"),
    (0, b"GIF8", "image/gif"),
    (8, b"WEBP", "image/webp"),
    (0, b"%PDF-", "application/pdf"),
    (0, b"PK\x03\x04", "application/zip"),
    (0, b"OggS", "audio/ogg"),
    (0, b"ID3", "audio/mpeg"),
    (8, b"WAVE", "audio/wav"),
    (4, b"ftypM4A", "audio/mp4"),
    (4, b"ftyp", "video/mp4"),
    (0, b"\x1aE\xdf\xa3", "video/webm"),
)


def sniff(head: bytes) -> str:
    """The media type of a file by its first bytes; `application/octet-stream` where they say nothing."""
    return next(
        (mime for offset, mark, mime in _MAGIC if head[offset : offset + len(mark)] == mark), "application/octet-stream"
    )


def safe_name(file_name: str) -> str:
    """The last part of a path without control and direction-changing characters, at most 120 characters."""
    last = file_name.replace("\\", "/").rsplit("/", 1)[-1]
    clean = "".join(c for c in last if unicodedata.category(c)[0] != "C").strip(" .")
    if len(clean) > 120:
        stem, dot, suffix = clean.rpartition(".")
        clean = f"{stem[: 119 - len(suffix)]}{dot}{suffix}" if stem and len(suffix) <= 10 else clean[:120]
    return clean or "file"
