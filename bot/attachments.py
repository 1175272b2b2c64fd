"""Files of customers and agents, kept by their SHA-256: under `OTVET_VAR/attachments`, or in a bucket, of which that
folder is then a cache."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import hashlib
import os
import re
import tempfile
import time
import unicodedata
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

import puremagic

from bot.bucket import Bucket
from bot.errors import FileGoneError, StorageError, TooLargeError
from handoff.records import Attachment, AttachmentState

CHUNK_BYTES = 256 * 1024
LEFT_SECONDS = 24 * 3600
"""No file takes so long to come in."""
CACHED_SECONDS = 24 * 3600
_SHA256 = re.compile("[0-9a-f]{64}")
UNKNOWN_TYPE = "application/octet-stream"
_PICTURES = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})
_ALIASES = {
    "application/ogg": "audio/ogg",
    "audio/wave": "audio/wav",
    "audio/x-wav": "audio/wav",
    "audio/m4a": "audio/mp4",
}
_UNNAMED = {".m4a": "audio/mp4", ".amr": "audio/amr", ".oga": "audio/ogg", ".3gp": "video/3gpp"}
"""Extensions for which the library knows no media type."""


@dataclass(frozen=True)
class StoredFile:
    """A file that is kept, as it may stand in a transcript."""

    sha256: str
    size_bytes: int
    mime_type: str
    """Read from the bytes."""
    kind: str
    """photo, video, audio or document."""
    file_name: str

    def as_sent(self) -> Attachment:
        """Its row, for a message of ours."""
        return Attachment(
            kind=self.kind,
            state=AttachmentState.STORED,
            file_name=self.file_name,
            mime_type=self.mime_type,
            size_bytes=self.size_bytes,
            sha256=self.sha256,
            source={},
        )


@dataclass(frozen=True)
class FetchedAttachment:
    """What became of a file that came with the message, before the turn begins."""

    kind: str
    state: AttachmentState
    file_name: str | None
    mime_type: str | None
    size_bytes: int | None
    sha256: str | None
    source: Mapping[str, Any]


Fetched = Sequence[FetchedAttachment]
"""Of one message."""


class AttachmentStore:
    """Content-addressed: the same file is kept once, and a half-written one is never seen."""

    def __init__(self, folder: Path, max_bytes: int, bucket: Bucket | None = None) -> None:
        """bucket: where files are kept; None: in the folder."""
        self.folder = folder
        self.max_bytes = max_bytes
        self.bucket = bucket
        self._tidied = -inf

    def path(self, sha256: str) -> Path:
        return self.folder / sha256[:2] / sha256

    async def local(self, sha256: str) -> Path:
        """Where the file lies on this machine, fetched from the bucket if need be. Raises FileGoneError, StorageError.

        A file of the bucket stays for some hours at least.
        """
        path = self.path(sha256)
        if not await asyncio.to_thread(path.is_file):
            if self.bucket is None or not _SHA256.fullmatch(sha256):
                raise FileGoneError(f"the file {sha256} is gone")
            await self._fetch(self.bucket, sha256)
        if self.bucket is not None:
            await asyncio.to_thread(os.utime, path)
            await self._tidy()
        return path

    async def _fetch(self, bucket: Bucket, sha256: str) -> None:
        async with self._incoming() as part:
            digest = hashlib.sha256()
            with part.open("wb") as file:
                async for chunk in bucket.get(sha256):
                    digest.update(chunk)
                    await asyncio.to_thread(file.write, chunk)
            if digest.hexdigest() != sha256:
                raise StorageError(f"the bucket's file {sha256} is not what was stored")
            await asyncio.to_thread(self._keep, part, sha256)

    async def _tidy(self) -> None:
        """Now and then: forget what a process that died has left half written; and of what the bucket has, what nobody
        has asked for of late."""
        if time.monotonic() < self._tidied + 3600:
            return
        self._tidied = time.monotonic()
        await asyncio.to_thread(self._forget, "incoming-*", time.time() - LEFT_SECONDS)
        if self.bucket is not None:
            await asyncio.to_thread(self._forget, "*/*", time.time() - CACHED_SECONDS)

    def _forget(self, pattern: str, before: float) -> None:
        for path in self.folder.glob(pattern):
            with contextlib.suppress(OSError):
                if path.stat().st_mtime < before:
                    path.unlink()

    async def read(self, sha256: str) -> AsyncIterator[bytes]:
        """The file in chunks. Raises FileGoneError."""
        file = await asyncio.to_thread((await self.local(sha256)).open, "rb")
        try:
            while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
                yield chunk
        finally:
            file.close()

    async def remove(self, sha256: str, *, older_than_seconds: float) -> bool:
        """Delete a file for good; False for one that was stored so lately that somebody's row of it may be on its way.

        One that is not there is no fault. Raises StorageError. Where there is a bucket, other machines have it in their
        folder for a day at most.
        """
        path = self.path(sha256)
        if self.bucket is not None:
            age = await self.bucket.age(sha256)
            if age is not None and age.total_seconds() < older_than_seconds:
                return False
            await self.bucket.remove(sha256)
        elif await asyncio.to_thread(_age_seconds, path) < older_than_seconds:
            return False
        await asyncio.to_thread(path.unlink, missing_ok=True)
        return True

    async def store(self, chunks: AsyncIterator[bytes], file_name: str = "") -> StoredFile:
        """Write the chunks durably. file_name: as it was told; made harmless, and its type is not believed.

        Raises TooLargeError at the first byte over the limit, StorageError, and whatever the chunks raise; nothing is
        left behind then.
        """
        digest, size = hashlib.sha256(), 0
        async with self._incoming() as part:
            with part.open("wb") as file:
                async for chunk in chunks:
                    size += len(chunk)
                    if size > self.max_bytes:
                        raise TooLargeError(f"the file is larger than {self.max_bytes / 2**20:.3g} MB")
                    digest.update(chunk)
                    await asyncio.to_thread(file.write, chunk)
                file.flush()
                await asyncio.to_thread(os.fsync, file.fileno())
            mime_type = await asyncio.to_thread(sniff, part, file_name)
            sha256 = digest.hexdigest()
            if self.bucket is not None:
                await self.bucket.put(sha256, part)
            await asyncio.to_thread(self._keep, part, sha256)
            return StoredFile(sha256, size, mime_type, _kind(mime_type), safe_name(file_name))

    @asynccontextmanager
    async def _incoming(self) -> AsyncIterator[Path]:
        """An empty file beside the others; nothing of it is left in the end."""
        self.folder.mkdir(parents=True, exist_ok=True)
        await self._tidy()
        handle, name = await asyncio.to_thread(tempfile.mkstemp, dir=self.folder, prefix="incoming-")
        os.close(handle)
        part = Path(name)
        try:
            yield part
        finally:
            await asyncio.to_thread(part.unlink, missing_ok=True)

    def _keep(self, part: Path, sha256: str) -> None:
        target = self.path(sha256)
        target.parent.mkdir(exist_ok=True)
        part.replace(target)


def _age_seconds(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return inf


def sniff(path: Path, file_name: str = "") -> str:
    """The media type of a file by its bytes; `application/octet-stream` where they say nothing. Blocks.

    Where they allow several types (any Office file is a zip), the name's ending chooses among these, and no other.
    """
    try:
        found = puremagic.magic_file(str(path))
    except (puremagic.PureError, ValueError, OSError):
        found = []
    suffix = Path(file_name).suffix.lower()
    found.sort(key=lambda match: (match.extension != suffix, -match.confidence))
    for match in found:
        if mime_type := match.mime_type or _UNNAMED.get(match.extension):
            return _ALIASES.get(mime_type, mime_type)
    return "text/plain" if _is_text(path) else UNKNOWN_TYPE


def _is_text(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(4096)
    try:
        # A letter that the cut goes through is no fault.
        text = codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return bool(text) and not any(unicodedata.category(c) == "Cc" and c not in "\t\n\r\f" for c in text)


def _kind(mime_type: str) -> str:
    if mime_type in _PICTURES:
        return "photo"
    return {"video": "video", "audio": "audio"}.get(mime_type.partition("/")[0], "document")


def safe_name(file_name: str) -> str:
    """The last part of a path without control and direction-changing characters, at most 120 characters."""
    last = file_name.replace("\\", "/").rsplit("/", 1)[-1]
    clean = "".join(c for c in last if unicodedata.category(c)[0] != "C").strip(" .")
    if len(clean) > 120:
        stem, dot, suffix = clean.rpartition(".")
        clean = f"{stem[: 119 - len(suffix)]}{dot}{suffix}" if stem and len(suffix) <= 10 else clean[:120]
    return clean or "file"
