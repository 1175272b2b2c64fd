"""What a store of files promises, in a folder and in a bucket of a real S3 server."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from s3 import s3_server

from bot.attachments import CACHED_SECONDS, AttachmentStore
from bot.bucket import Bucket
from bot.errors import FileGoneError, SettingsError, StorageError, TooLargeError

MakeStore = Callable[[str], AttachmentStore]
LARGE = os.urandom(7_000_000)


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    with s3_server("files") as base:
        yield base


def bucket_at(base: str, url: str = "s3://files/otvet") -> Bucket:
    return Bucket(url, endpoint=base, key="key", secret="secret")


@pytest.fixture(params=["folder", "bucket"])
def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> MakeStore:
    """Stores of one installation: of the same folder, or each on a machine of its own with a common bucket."""

    def make(machine: str) -> AttachmentStore:
        if request.param == "folder":
            return AttachmentStore(tmp_path, 10_000_000)
        bucket = bucket_at(request.getfixturevalue("s3"))
        return AttachmentStore(tmp_path / machine, 10_000_000, bucket)

    return make


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def read(store: AttachmentStore, sha256: str) -> bytes:
    return b"".join([chunk async for chunk in store.read(sha256)])


class TestEveryStore:
    @pytest.mark.parametrize("content", [b"x", b"", LARGE], ids=["small", "empty", "large"])
    async def test_what_one_machine_stored_another_reads(self, make_store: MakeStore, content: bytes) -> None:
        first, second = make_store("a"), make_store("b")
        stored = await first.store(chunks(content), "чек.pdf")
        assert stored.size_bytes == len(content)
        assert await read(second, stored.sha256) == content
        assert (await second.local(stored.sha256)).name == stored.sha256

    async def test_what_was_never_stored_is_gone(self, make_store: MakeStore) -> None:
        for sha256 in ("0" * 64, "", "../../etc/passwd"):
            with pytest.raises(FileGoneError):
                await make_store("a").local(sha256)

    async def test_what_is_too_large_leaves_nothing(self, make_store: MakeStore) -> None:
        store = make_store("a")
        with pytest.raises(TooLargeError):
            await store.store(chunks(LARGE, LARGE))
        assert [path for path in store.folder.rglob("*") if path.is_file()] == []

    async def test_what_is_removed_is_gone_for_all_unless_it_came_just_now(self, make_store: MakeStore) -> None:
        first, second = make_store("a"), make_store("b")
        stored = await first.store(chunks(uuid4().bytes))
        assert not await second.remove(stored.sha256, older_than_seconds=60)
        assert await second.remove(stored.sha256, older_than_seconds=-60)
        assert await second.remove(stored.sha256, older_than_seconds=60), "twice does no harm"
        with pytest.raises(FileGoneError):
            await second.local(stored.sha256)


class TestTheBucket:
    async def test_the_folder_is_a_cache_that_forgets(self, s3: str, tmp_path: Path) -> None:
        store = AttachmentStore(tmp_path, 1000, bucket_at(s3))
        old, new = [await store.store(chunks(uuid4().bytes)) for _ in range(2)]
        os.utime(store.path(old.sha256), (0, 0))
        store = AttachmentStore(tmp_path, 1000, bucket_at(s3))  # once an hour is enough for one process
        await store.local(new.sha256)
        assert not store.path(old.sha256).exists()
        assert store.path(new.sha256).exists()
        assert len(await read(store, old.sha256)) == 16, "it is fetched again"
        assert CACHED_SECONDS >= 3600

    async def test_a_file_that_was_changed_in_the_bucket_is_not_taken(self, s3: str, tmp_path: Path) -> None:
        bucket = bucket_at(s3)
        other = tmp_path / "other"
        other.write_bytes(b"something else")
        await bucket.put("ab" * 32, other)
        with pytest.raises(StorageError, match="not what was stored"):
            await AttachmentStore(tmp_path / "a", 1000, bucket).local("ab" * 32)
        shutil.rmtree(tmp_path / "a")

    async def test_a_bucket_that_is_away_is_told_and_nothing_is_half_kept(self, tmp_path: Path) -> None:
        away = Bucket("s3://files", endpoint="http://127.0.0.1:9", key="k", secret="s")
        store = AttachmentStore(tmp_path, 1000, away)
        with pytest.raises(StorageError):
            await store.store(chunks(b"x"))
        with pytest.raises(StorageError):
            await away.check()
        assert [path for path in tmp_path.rglob("*") if path.is_file()] == []  # noqa: ASYNC240

    async def test_the_doctor_finds_one_that_works(self, s3: str) -> None:
        await bucket_at(s3).check()
        with pytest.raises(StorageError):
            await bucket_at(s3, "s3://no-such-bucket").check()

    @pytest.mark.parametrize("url", ["files", "https://files", "s3://"])
    def test_an_address_that_is_none_names_the_setting(self, url: str) -> None:
        with pytest.raises(SettingsError, match="OTVET_ATTACHMENTS_BUCKET"):
            Bucket(url)
