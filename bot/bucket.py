"""An S3-compatible bucket: where attachments lie when several machines share them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

from bot.errors import FileGoneError, SettingsError, StorageError

if TYPE_CHECKING:
    from obstore.store import S3Config

CHUNK_BYTES = 1024 * 1024


class Bucket:
    """Objects by name. Retries what may succeed later, for a quarter of a minute."""

    def __init__(self, url: str, *, endpoint: str = "", region: str = "", key: str = "", secret: str = "") -> None:
        """url: `s3://bucket/prefix`. endpoint: of another service than Amazon's. Without key and secret, they are
        looked for where Amazon's tools look (environment, instance). Raises SettingsError."""
        parts = urlsplit(url)
        if parts.scheme != "s3" or not parts.netloc:
            raise SettingsError("OTVET_ATTACHMENTS_BUCKET: expected s3://bucket or s3://bucket/folder")
        config: S3Config = {"region": region or "us-east-1"}
        if endpoint:
            config["endpoint"] = endpoint
        if key:
            config["access_key_id"], config["secret_access_key"] = key, secret
        try:
            self._store = S3Store(
                parts.netloc,
                prefix=parts.path.strip("/") or None,
                client_options={"allow_http": endpoint.startswith("http://"), "timeout": timedelta(seconds=60)},
                retry_config={"max_retries": 3, "retry_timeout": timedelta(seconds=15)},
                config=config,
            )
        except (BaseError, ValueError) as error:
            raise SettingsError(f"OTVET_ATTACHMENTS_BUCKET, OTVET_S3_*: {error}") from error

    async def put(self, name: str, path: Path) -> None:
        """Store a file. Raises StorageError."""
        try:
            await obstore.put_async(self._store, name, path)
        except (BaseError, OSError) as error:
            raise StorageError(f"the bucket did not take a file: {_reason(error)}") from error

    async def get(self, name: str) -> AsyncIterator[bytes]:
        """An object in chunks. Raises FileGoneError, StorageError."""
        try:
            found = await obstore.get_async(self._store, name)
            async for chunk in found.stream(min_chunk_size=CHUNK_BYTES):
                yield bytes(chunk)
        except FileNotFoundError as error:
            raise FileGoneError(f"the file {name} is gone from the bucket") from error
        except (BaseError, OSError) as error:
            raise StorageError(f"the bucket gave no file: {_reason(error)}") from error

    async def age(self, name: str) -> timedelta | None:
        """How long ago an object was stored last; None: there is none. Raises StorageError."""
        try:
            found = await obstore.head_async(self._store, name)
        except FileNotFoundError:
            return None
        except (BaseError, OSError) as error:
            raise StorageError(f"the bucket does not tell of a file: {_reason(error)}") from error
        return datetime.now(UTC) - found["last_modified"]

    async def remove(self, name: str) -> None:
        """One that is not there is no fault. Raises StorageError."""
        try:
            await obstore.delete_async(self._store, name)
        except FileNotFoundError:
            return
        except (BaseError, OSError) as error:
            raise StorageError(f"the bucket did not delete a file: {_reason(error)}") from error

    async def check(self) -> None:
        """Look into it. Raises StorageError when the bucket can't be used."""
        try:
            async for _ in obstore.list(self._store, chunk_size=1):
                return
        except (BaseError, OSError) as error:
            raise StorageError(f"the bucket can't be read: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """The first line: what follows holds the address with its signature."""
    return (str(error).splitlines() or [""])[0][:300]
