"""Files that customers send, kept under `OTVET_VAR/attachments` by their SHA-256."""

from __future__ import annotations

import asyncio
import hashlib
import os
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path


class TooLargeError(Exception):
    """The file exceeds the limit; nothing of it was kept."""


@dataclass(frozen=True)
class StoredFile:
    sha256: str
    size_bytes: int


class AttachmentStore:
    """Content-addressed: the same file is kept once, and a half-written one is never seen."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder = folder
        self.max_bytes = max_bytes

    def path(self, sha256: str) -> Path:
        return self.folder / sha256[:2] / sha256

    async def store(self, chunks: AsyncIterator[bytes]) -> StoredFile:
        """Write the chunks durably. Raises TooLargeError at the first byte over the limit, and whatever the
        chunks raise; nothing is left behind then."""
        self.folder.mkdir(parents=True, exist_ok=True)
        digest, size = hashlib.sha256(), 0
        handle, name = await asyncio.to_thread(tempfile.mkstemp, dir=self.folder, prefix="incoming-")
        part = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                async for chunk in chunks:
                    size += len(chunk)
                    if size > self.max_bytes:
                        raise TooLargeError(f"more than {self.max_bytes} bytes")
                    digest.update(chunk)
                    await asyncio.to_thread(file.write, chunk)
                file.flush()
                await asyncio.to_thread(os.fsync, file.fileno())
            stored = StoredFile(digest.hexdigest(), size)
            await asyncio.to_thread(self._keep, part, stored)
            return stored
        finally:
            await asyncio.to_thread(part.unlink, missing_ok=True)

    def _keep(self, part: Path, stored: StoredFile) -> None:
        target = self.path(stored.sha256)
        target.parent.mkdir(exist_ok=True)
        part.replace(target)
