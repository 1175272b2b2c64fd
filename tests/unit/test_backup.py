"""Backup and restore of the whole state, on both databases and from one to the other."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import zipfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from databases import MakeDatabase, Postgres
from sqlalchemy import select, text

from bot import backup
from bot.attachments import AttachmentStore
from bot.backup import restore, save
from bot.channels.base import Address, InboundMessage
from bot.database import migrate, open_database
from bot.errors import BackupError, NotReadyError
from bot.ledger import InboxRow, OutboxRow, queue, receive
from bot.settings import Settings
from bot.wiring import Installation
from handoff.records import Attachment, AttachmentState, Author, Base, Conversation, Message
from kb_index.records import ArticleRow
from nlu.models import ModelStore

NOW = datetime(2026, 11, 22, 12, 0, 0, 123456, tzinfo=UTC)


class Place:
    """One OTVET_VAR with its database."""

    def __init__(self, folder: Path, url: str) -> None:
        self.var, self.url = folder / "var", url
        self.store = AttachmentStore(self.var / "attachments", 1000)

    @asynccontextmanager
    async def database(self) -> AsyncIterator[Any]:
        engine, sessions = open_database(self.url)
        await migrate(engine)
        try:
            yield engine, sessions
        finally:
            await engine.dispose()

    async def fill(self) -> None:
        """A conversation with everything that a row may hold, a file, and a model."""

        async def chunks() -> AsyncIterator[bytes]:
            yield b"picture"

        stored = await self.store.store(chunks())
        async with self.database() as (_, sessions):
            async with sessions.begin() as session:
                talk = Conversation(
                    channel="site", account="", chat_id="7", customer_name="Ёж 🦔", created_at=NOW, updated_at=NOW
                )
                talk.state = {"options": {"a": "Да"}, "greeted": True}
                session.add(talk)
                await session.flush()
                message = Message(
                    conversation_id=talk.id,
                    author=Author.ASSISTANT,
                    text='Строка\n"вторая"',
                    decision=None,
                    sent_at=NOW - timedelta(hours=3),
                    created_at=NOW,
                    attachments=[
                        Attachment(
                            kind="photo",
                            state=AttachmentState.STORED,
                            sha256=stored.sha256,
                            size_bytes=stored.size_bytes,
                            source={"n": 1.5},
                        )
                    ],
                )
                session.add(message)
                await session.flush()
                await queue(session, talk, message, guarded=False, now=NOW)
            for number in range(1200):  # more than a batch
                text_ = f"вопрос {number}"
                inbound = InboundMessage(Address("site", "", "7"), f"m{number}", NOW, text=text_)
                if number < 3:
                    await receive(sessions, inbound, now=NOW)
            async with sessions.begin() as session:
                session.add_all(
                    InboxRow(
                        channel="site",
                        account="",
                        chat_id="8",
                        external_id=f"x{number}",
                        payload={"n": number},
                        received_at=NOW,
                    )
                    for number in range(1200)
                )
        store = ModelStore(self.var / "models", lambda: NOW)
        with store.new_version() as draft:
            (draft.path / "weights.bin").write_bytes(os.urandom(5000))
        store.promote(draft.id)
        (self.var / "encoder").mkdir()
        (self.var / "encoder" / "large").write_bytes(b"made again")

    async def rows(self) -> dict[str, list[tuple[Any, ...]]]:
        """Everything in the database, as the program reads it."""
        async with self.database() as (_, sessions), sessions.reading() as session:
            return {
                table.name: [tuple(row) for row in await session.execute(select(table).order_by(*table.primary_key))]
                for table in Base.metadata.sorted_tables
            }

    def files(self) -> dict[str, bytes]:
        return {
            str(path.relative_to(self.var)): path.read_bytes()
            for path in self.var.rglob("*")
            if path.is_file() and ".sqlite3" not in path.name and path.suffix != ".lock" and "encoder" not in path.parts
        }


@pytest.fixture
async def full(make_database: MakeDatabase, tmp_path: Path) -> Place:
    place = Place(tmp_path / "one", make_database())
    await place.fill()
    return place


def found(folder: Path, pattern: str) -> list[Path]:
    return list(folder.rglob(pattern))


def hidden(folder: Path) -> list[Path]:
    """What a half-done work would leave behind."""
    return [path for path in found(folder, ".*") if path.suffix != ".lock"]


def sealed(target: Path, manifest: dict[str, Any], members: dict[str, bytes]) -> None:
    """A backup with other members, and a manifest that vouches for them."""
    manifest["members"] = {
        name: {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
        for name, content in members.items()
    }
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        archive.writestr("manifest.json", json.dumps(manifest))


def opened(source: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    with zipfile.ZipFile(source) as archive:
        manifest = json.loads(archive.read("manifest.json"))
        return manifest, {name: archive.read(name) for name in manifest["members"]}


async def saved(place: Place, target: Path, data: Path | None = None) -> backup.Summary:
    engine, _ = open_database(place.url)
    try:
        return await save(target, engine=engine, var=place.var, data=data)
    finally:
        await engine.dispose()


async def test_an_article_that_is_valid_for_some_days_only_is_saved_and_restored(
    make_database: MakeDatabase, tmp_path: Path
) -> None:
    one, other = Place(tmp_path / "one", make_database()), Place(tmp_path / "two", make_database())
    days = {"valid_from": date(2026, 12, 1), "valid_until": date(2027, 1, 10)}
    kept: dict[str, Any] = {"audience": "customers", "status": "published", "content_hash": "", "wording": "", **days}
    kept |= {"created_at": NOW, "updated_at": NOW, "updated_by": "Ольга"}
    async with one.database() as (_, sessions), sessions.begin() as session:
        session.add(ArticleRow(article_id="sale", lang="en", title="Sale", body="…", **kept))
    await saved(one, tmp_path / "b.otvet")
    await restore(tmp_path / "b.otvet", database_url=other.url, var=other.var, data=None)
    assert await other.rows() == await one.rows()


async def test_what_was_saved_is_what_is_restored(full: Place, make_database: MakeDatabase, tmp_path: Path) -> None:
    summary = await saved(full, tmp_path / "b.otvet")
    assert summary.rows == sum(map(len, (await full.rows()).values()))
    assert (tmp_path / "b.otvet").stat().st_mode & 0o077 == 0  # it holds personal data

    other = Place(tmp_path / "two", make_database())
    await restore(tmp_path / "b.otvet", database_url=other.url, var=other.var, data=None)

    assert await other.rows() == await full.rows()
    assert other.files() == full.files()
    assert ModelStore(other.var / "models", lambda: NOW).live() is not None
    assert hidden(other.var.parent) == []


@pytest.mark.parametrize("direction", ["to PostgreSQL", "to SQLite"])
async def test_an_installation_moves_from_one_database_to_the_other_and_goes_on(
    direction: str, postgres: Postgres, tmp_path: Path
) -> None:
    urls = [f"sqlite+aiosqlite:///{tmp_path / 'one.sqlite3'}", postgres.database()]
    old, new = (
        Place(tmp_path / name, url)
        for name, url in zip("ab", urls if direction == "to PostgreSQL" else urls[::-1], strict=True)
    )
    await old.fill()
    await saved(old, tmp_path / "b.otvet")
    await restore(tmp_path / "b.otvet", database_url=new.url, var=new.var, data=None)

    assert await new.rows() == await old.rows()
    async with new.database() as (_, sessions):
        inbound = InboundMessage(Address("site", "", "7"), "m-new", NOW, text="ещё")
        assert await receive(sessions, inbound, now=NOW)  # the numbers go on where they ended
        assert not await receive(sessions, InboundMessage(Address("site", "", "7"), "m0", NOW), now=NOW)
        async with sessions.reading() as session:
            waiting = await session.scalar(select(OutboxRow).limit(1))
            assert waiting is not None
            assert waiting.due_at == NOW


async def test_a_backup_is_of_one_moment_while_messages_come_in(full: Place, tmp_path: Path) -> None:
    async with full.database() as (engine, sessions):
        begun = asyncio.Event()

        async def busy() -> None:
            for number in range(10_000):
                inbound = InboundMessage(Address("site", "", "9"), f"busy{number}", NOW)
                await receive(sessions, inbound, now=NOW)
                begun.set()

        work = asyncio.create_task(busy())
        await begun.wait()
        await save(tmp_path / "b.otvet", engine=engine, var=full.var, data=None)
        assert not work.done()
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
    backup.check(tmp_path / "b.otvet")
    with zipfile.ZipFile(tmp_path / "b.otvet") as archive:
        header, *lines = archive.read("database/inbox.jsonl").splitlines()
    names = [name for name, _ in json.loads(header)]
    ids = [json.loads(line)[names.index("external_id")] for line in lines]
    came = [name for name in ids if name.startswith("busy")]
    assert came == [f"busy{number}" for number in range(len(came))]
    assert came


async def test_an_installation_with_something_in_it_is_not_replaced_by_accident(
    full: Place, make_database: MakeDatabase, tmp_path: Path
) -> None:
    await saved(full, tmp_path / "b.otvet")
    other = Place(tmp_path / "two", make_database())
    await other.fill()
    before = await other.rows(), other.files()
    with pytest.raises(BackupError, match="--force"):
        await restore(tmp_path / "b.otvet", database_url=other.url, var=other.var, data=None)
    shutil.rmtree(other.var / "models")
    shutil.rmtree(other.var / "attachments")
    with pytest.raises(BackupError, match=r"database is not empty .*--force"):
        await restore(tmp_path / "b.otvet", database_url=other.url, var=other.var, data=None)
    assert before[0] == await other.rows()

    await restore(tmp_path / "b.otvet", database_url=other.url, var=other.var, data=None, force=True)
    assert await other.rows() == await full.rows()
    assert other.files() == full.files()


@pytest.mark.parametrize("harm", ["cut", "flip", "nothing", "foreign", "newer format", "newer tables"])
async def test_a_backup_that_can_not_be_trusted_changes_nothing(
    harm: str, full: Place, make_database: MakeDatabase, tmp_path: Path
) -> None:
    file = tmp_path / "b.otvet"
    await saved(full, file)
    content = file.read_bytes()
    if harm == "cut":
        file.write_bytes(content[: len(content) * 2 // 3])
    elif harm == "flip":
        place = content.index(b"picture")
        file.write_bytes(content[:place] + b"P" + content[place + 1 :])
    elif harm == "nothing":
        file.write_bytes(b"")
    else:
        with zipfile.ZipFile(file) as archive:
            manifest = json.loads(archive.read("manifest.json"))
        manifest |= {"format": 99} if harm == "newer format" else {"revision": "9999"}
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("manifest.json" if harm != "foreign" else "other.json", json.dumps(manifest))
    before = await full.rows(), full.files()

    with pytest.raises(BackupError, match=r"newer|damaged|no complete backup"):
        await restore(file, database_url=full.url, var=full.var, data=None, force=True)

    assert (await full.rows(), full.files()) == before
    assert not (full.var / backup.RESTORING).exists()


async def test_a_restore_that_breaks_while_storing_rows_leaves_everything_as_it_was(
    full: Place, make_database: MakeDatabase, tmp_path: Path
) -> None:
    await saved(full, tmp_path / "b.otvet")
    manifest, members = opened(tmp_path / "b.otvet")
    members["database/messages.jsonl"] += members["database/messages.jsonl"].splitlines(keepends=True)[-1]  # twice
    sealed(other := tmp_path / "c.otvet", manifest, members)
    before = await full.rows(), full.files()
    with pytest.raises(BackupError, match="could not be stored"):
        await restore(other, database_url=full.url, var=full.var, data=None, force=True)
    assert (await full.rows(), full.files()) == before


async def test_names_that_lead_out_of_the_installation_are_refused(tmp_path: Path) -> None:
    place = Place(tmp_path / "one", f"sqlite+aiosqlite:///{tmp_path / 'a.sqlite3'}")
    await place.fill()
    await saved(place, tmp_path / "b.otvet")
    manifest, _ = opened(tmp_path / "b.otvet")
    for name in ("var/../../evil", "/etc/evil", "elsewhere/evil"):
        sealed(tmp_path / "c.otvet", {**manifest, "rows": {}}, {name: b""})
        url = f"sqlite+aiosqlite:///{tmp_path / 'n' / 'x.sqlite3'}"
        with pytest.raises(BackupError, match="no place"):
            await restore(tmp_path / "c.otvet", database_url=url, var=tmp_path / "n", data=None)
    assert found(tmp_path, "evil") == []


async def test_a_backup_of_older_tables_is_brought_up_to_date(full: Place, postgres: Postgres, tmp_path: Path) -> None:
    """As made by the first release: restored into its tables, then migrated like any installation."""
    await saved(full, tmp_path / "b.otvet")
    manifest, members = opened(tmp_path / "b.otvet")
    rows = members["database/inbox.jsonl"].splitlines(keepends=True)[:2]  # the columns, and one row
    manifest |= {"revision": "0001", "rows": {"inbox": 1}}
    sealed(tmp_path / "old.otvet", manifest, {"database/inbox.jsonl": b"".join(rows)})
    await restore(tmp_path / "old.otvet", database_url=full.url, var=full.var, data=None, force=True)
    async with full.database() as (_, sessions), sessions.reading() as session:
        assert len(list(await session.scalars(select(InboxRow)))) == 1
        assert await session.scalar(text("SELECT version_num FROM alembic_version")) != "0001"


async def test_a_running_otvet_on_postgresql_stops_a_restore(postgres: Postgres, tmp_path: Path) -> None:
    place = Place(tmp_path / "one", postgres.database())
    await place.fill()
    await saved(place, tmp_path / "b.otvet")
    async with place.database() as (_, sessions), sessions.reading():
        with pytest.raises(BackupError, match="stop it first"):
            await restore(tmp_path / "b.otvet", database_url=place.url, var=place.var, data=None, force=True)


async def test_the_operators_own_data_folder_is_saved_and_put_back_where_there_is_none(
    full: Place, make_database: MakeDatabase, tmp_path: Path
) -> None:
    data = tmp_path / "mine"
    (data / "kb" / "ru").mkdir(parents=True)
    (data / "kb" / "ru" / "a.md").write_text("# Статья")
    assert (await saved(full, tmp_path / "b.otvet", data)).own_data
    for number, target in enumerate((tmp_path / "there", None)):
        other = Place(tmp_path / f"two{number}", make_database())
        await restore(tmp_path / "b.otvet", database_url=other.url, var=other.var, data=target)
        assert ((target or other.var / "data") / "kb" / "ru" / "a.md").read_text() == "# Статья"


async def test_a_backup_replaces_no_file_and_is_not_put_where_the_next_one_would_hold_it(
    full: Place, tmp_path: Path
) -> None:
    (tmp_path / "b.otvet").write_text("mine")
    for target in (tmp_path / "b.otvet", full.var / "b.otvet", tmp_path / "no" / "folder"):
        with pytest.raises(BackupError):
            await saved(full, target)
    assert (tmp_path / "b.otvet").read_text() == "mine"
    assert hidden(tmp_path) == []


async def test_nothing_starts_on_a_half_restored_installation(tmp_path: Path) -> None:
    installation = Installation(Settings(_env_file=None, var=tmp_path))
    (tmp_path / backup.RESTORING).mkdir()
    with pytest.raises(NotReadyError, match="restore"):
        installation.prepare()
    with pytest.raises(NotReadyError, match="restore"):
        await installation.migrate()
