"""The whole state of an installation in one file, and back: `otvet backup` and `otvet restore`.

The file is a zip: `database/TABLE.jsonl`, a line of column names and kinds and then one row a line, the same whatever
the engine, so that a backup also moves an installation from SQLite to PostgreSQL; `var/…`, the files of OTVET_VAR;
`data/…`, the data folder where it is the operator's own; `manifest.json`, last, with the SHA-256 of every other
member. What can be made again is left out: the encoder, the index, and the jobs of the work engine, which finds
what waits by the rows.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import secrets
import shutil
import zipfile
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path, PurePosixPath
from typing import Any

from sqlalchemy import (
    JSON,
    URL,
    Connection,
    Date,
    DateTime,
    LargeBinary,
    MetaData,
    Table,
    delete,
    func,
    insert,
    inspect,
    make_url,
    select,
    text,
)
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from bot.database import finish_schema, known_revisions, open_database, upgrade
from bot.errors import BackupError

FORMAT = 1
FULL_TEXT = "message_words"
"""Tables of SQLite's full-text search: they fill themselves as messages are written."""
FROM_THE_START = frozenset({"counted_by"})
"""Tables in which a new installation has rows."""
RESTORING = ".restoring"
"""In OTVET_VAR while a restore is at work; found later, one was interrupted, and nothing may start."""
MADE_AGAIN = frozenset({"encoder", "index", "test-cache"})
_MANIFEST = "manifest.json"
_BATCH = 500
_CHUNK = 1024 * 1024


@dataclass(frozen=True)
class Summary:
    """What a backup holds."""

    created_at: str
    engine: str
    revision: str
    rows: int
    files: int
    bytes: int
    own_data: bool
    """Whether the operator's own data folder is in it."""


@dataclass
class _Archive:
    zip: zipfile.ZipFile
    members: dict[str, dict[str, Any]] = field(default_factory=dict)

    @contextmanager
    def member(self, name: str, *, compress: bool) -> Iterator[Callable[[bytes], None]]:
        info = zipfile.ZipInfo(name, datetime.now(UTC).timetuple()[:6])
        info.compress_type = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
        info.external_attr = 0o600 << 16
        digest, size = hashlib.sha256(), 0
        with self.zip.open(info, "w", force_zip64=True) as file:

            def write(chunk: bytes) -> None:
                nonlocal size
                digest.update(chunk)
                size += len(chunk)
                file.write(chunk)

            yield write
        self.members[name] = {"sha256": digest.hexdigest(), "bytes": size}


async def save(target: Path, *, engine: AsyncEngine, var: Path, data: Path | None) -> Summary:
    """Write a backup while the installation works. data: the operator's own data folder. Blocks on the disk.

    The rows are those of one moment. Files are copied after it: an attachment is on the disk before its row is.
    Raises BackupError; a file of that name is never replaced, and a broken one never left.
    """
    _refuse_place(target, var)
    part = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            with zipfile.ZipFile(file, "w") as archive:
                summary = await _write(_Archive(archive), engine=engine, var=var, data=data)
            file.flush()
            os.fsync(file.fileno())
        part.rename(target)
    except OSError as error:
        raise BackupError(f"{target} could not be written: {error}") from error
    finally:
        part.unlink(missing_ok=True)
    return summary


def _refuse_place(target: Path, var: Path) -> None:
    if target.exists():
        raise BackupError(f"{target} is there already: give another name")
    if target.resolve().is_relative_to(var.resolve()):
        raise BackupError(f"{target} lies in {var} itself, and the next backup would hold it: give another place")


async def _write(archive: _Archive, *, engine: AsyncEngine, var: Path, data: Path | None) -> Summary:
    rows: dict[str, int] = {}
    async with _snapshot(engine) as connection:
        revision = await connection.scalar(text("SELECT version_num FROM alembic_version"))
        for table in await connection.run_sync(_tables):
            with archive.member(f"database/{table.name}.jsonl", compress=True) as write:
                rows[table.name] = await _dump(connection, table, write)
    beside = _beside(engine.url)
    files = [("var", var, path) for path in _files(var, MADE_AGAIN) if path.resolve() not in beside]
    files += [("data", data, path) for path in _files(data, frozenset())] if data else []
    for prefix, root, path in files:
        # An old model version may be removed meanwhile.
        with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
            name = f"{prefix}/{path.relative_to(root).as_posix()}"
            with archive.member(name, compress=path.suffix in (".json", ".md", ".yml")) as write:
                while chunk := file.read(_CHUNK):
                    write(chunk)
    manifest = {
        "format": FORMAT,
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "engine": engine.dialect.name,
        "revision": revision,
        "rows": rows,
        "members": archive.members,
    }
    summary = _summary(manifest)
    with archive.member(_MANIFEST, compress=True) as write:
        write(json.dumps(manifest, indent=1).encode())
    return summary


def _summary(manifest: dict[str, Any]) -> Summary:
    members = manifest["members"]
    return Summary(
        created_at=manifest["created_at"],
        engine=manifest["engine"],
        revision=manifest["revision"],
        rows=sum(manifest["rows"].values()),
        files=sum(not name.startswith("database/") for name in members),
        bytes=sum(member["bytes"] for member in members.values()),
        own_data=any(name.startswith("data/") for name in members),
    )


@asynccontextmanager
async def _snapshot(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """A connection that sees one moment and stops nobody."""
    async with engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            await connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        else:
            await connection.execution_options(reading=True)
        yield connection


def _tables(connection: Connection) -> Sequence[Table]:
    """The tables of the ledger as the database has them, each after those that it refers to."""
    names = [name for name in inspect(connection).get_table_names() if _is_ours(name)]
    metadata = MetaData()
    metadata.reflect(connection, only=names)
    for table in metadata.tables.values():
        for column in table.columns:
            if isinstance(column.type, JSON):
                column.type.none_as_null = True  # nothing is nothing, and not JSON's null
    return metadata.sorted_tables


def _is_ours(name: str) -> bool:
    return name != "alembic_version" and not name.startswith(("procrastinate_", "sqlite_", FULL_TEXT))


def _kind(column: Any) -> str:
    match column.type:
        case JSON():
            return "json"
        case DateTime():
            return "time"
        case Date():
            return "day"
        case LargeBinary():
            return "bytes"
    return "plain"


async def _dump(connection: AsyncConnection, table: Table, write: Callable[[bytes], None]) -> int:
    kinds = [_kind(column) for column in table.columns]
    write(_line([[column.name, kind] for column, kind in zip(table.columns, kinds, strict=True)]))
    count = 0
    statement = select(table).order_by(*table.primary_key.columns)
    async with connection.stream(statement, execution_options={"yield_per": _BATCH}) as rows:
        async for row in rows:
            write(_line([_plain(value, kind) for value, kind in zip(row, kinds, strict=True)]))
            count += 1
    return count


def _line(values: list[Any]) -> bytes:
    return json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _plain(value: Any, kind: str) -> Any:
    if value is None or kind in ("plain", "json"):
        return value
    if kind == "time":  # SQLite gives it without a zone: all of ours are UTC
        return (value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)).isoformat()
    if kind == "day":
        return value.isoformat()
    return base64.b64encode(value).decode()


def _unplain(value: Any, kind: str, *, zoned: bool) -> Any:
    if value is None or kind in ("plain", "json"):
        return value
    if kind == "time":
        moment = datetime.fromisoformat(value)
        return moment if zoned else moment.replace(tzinfo=None)
    if kind == "day":
        return date.fromisoformat(value)
    return base64.b64decode(value)


def _files(root: Path, left_out: frozenset[str]) -> list[Path]:
    """The plain files under a folder. A pointer to a folder comes before it: what it names is there by then."""
    found = []
    for folder, folders, names in os.walk(root):
        here = Path(folder)
        top = here == root
        folders[:] = sorted(name for name in folders if not (name.startswith(".") or (top and name in left_out)))
        for name in sorted(names):
            path = here / name
            passing = name.startswith((".", "incoming-")) or name.endswith((".lock", ".tmp"))
            if not passing and path.is_file() and not path.is_symlink():
                found.append(path)
    return found


def check(source: Path) -> Summary:
    """Read a whole backup and compare every checksum. Raises BackupError."""
    with _opened(source) as (archive, manifest):
        for name in manifest["members"]:
            for _ in _verified(archive, manifest, name):
                pass
        return _summary(manifest)


@contextmanager
def _opened(source: Path) -> Iterator[tuple[zipfile.ZipFile, dict[str, Any]]]:
    try:
        with zipfile.ZipFile(source) as archive:
            manifest = json.loads(archive.read(_MANIFEST))
            if manifest["format"] > FORMAT:
                raise BackupError(f"{source} was made by a newer release: update, then restore")
            if manifest["revision"] not in known_revisions():
                raise BackupError(
                    f"{source} has tables of revision {manifest['revision']}, which this release does not know: "
                    "it was made by a newer one; update, then restore"
                )
            yield archive, manifest
    except (OSError, zipfile.BadZipFile, KeyError, ValueError, EOFError) as error:
        raise BackupError(f"{source} is no complete backup: {error}") from error


def _verified(archive: zipfile.ZipFile, manifest: dict[str, Any], name: str) -> Iterator[bytes]:
    """The bytes of a member. Raises BackupError at the end if they are not those that were written."""
    digest, size, said = hashlib.sha256(), 0, manifest["members"][name]
    with archive.open(name) as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
            if size > said["bytes"]:
                break
            yield chunk
    if (digest.hexdigest(), size) != (said["sha256"], said["bytes"]):
        raise BackupError(f"{name} in the backup is damaged: its checksum is another")


async def restore(source: Path, *, database_url: str, var: Path, data: Path | None, force: bool = False) -> Summary:
    """Put a backup in the place of what is there. Nothing else may use the installation meanwhile. Blocks.

    data: where the data folder of the backup goes; None: one is there that must stay, so it goes to `VAR/data`.
    force: replace an installation that is not empty.
    Raises BackupError, and everything is as before then; only a restore that was killed in its last moment leaves
    RESTORING behind.
    """
    summary = check(source)
    stage = var / RESTORING
    if not force:
        await _refuse_unless_empty(database_url, var)
    shutil.rmtree(stage, ignore_errors=True)
    stage.mkdir(parents=True)
    try:
        with _opened(source) as (archive, manifest):
            for name in manifest["members"]:
                if not name.startswith("database/"):
                    _unpack(archive, manifest, name, stage / "new")
            async with _replaced(database_url) as connection:
                await connection.run_sync(upgrade, manifest["revision"])
                await _load(connection, archive, manifest)
                await connection.run_sync(upgrade, "head")
                await finish_schema(connection)
    except SQLAlchemyError as error:
        shutil.rmtree(stage, ignore_errors=True)
        raise BackupError(f"the rows of {source} could not be stored: {error}") from error
    except BaseException:
        shutil.rmtree(stage, ignore_errors=True)
        raise
    _swap(stage, var, data or var / "data", _beside(make_url(database_url)))
    shutil.rmtree(stage)
    return summary


async def _refuse_unless_empty(database_url: str, var: Path) -> None:
    problem = "is not empty ({}): stop it, and give --force to replace everything in it"
    url = make_url(database_url)
    beside = _beside(url)
    if files := [path for path in _files(var, MADE_AGAIN) if path.resolve() not in beside]:
        raise BackupError(f"{var} {problem.format(files[0].relative_to(var))}")
    if beside and not any(path.exists() for path in beside):
        return
    engine, _ = open_database(database_url)
    try:
        async with _snapshot(engine) as connection:
            for table in await connection.run_sync(_tables):
                if table.name in FROM_THE_START:
                    continue
                if rows := await connection.scalar(select(func.count()).select_from(table)):
                    raise BackupError(f"the database {problem.format(f'{rows} {table.name}')}")
    finally:
        await engine.dispose()


def _beside(url: URL) -> set[Path]:
    """The files of a SQLite database, which are not copied as files."""
    if url.get_backend_name() != "sqlite" or not url.database:
        return set()
    return {Path(url.database + end).resolve() for end in ("", "-wal", "-shm", "-journal")}


def _unpack(archive: zipfile.ZipFile, manifest: dict[str, Any], name: str, folder: Path) -> None:
    relative = PurePosixPath(name)
    if relative.parts[0] not in ("var", "data") or not all(part.strip(". ") for part in relative.parts):
        raise BackupError(f"{name!r} in the backup is no place in an installation")
    target = folder.joinpath(*relative.parts)
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as file:
        for chunk in _verified(archive, manifest, name):
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())


@asynccontextmanager
async def _replaced(database_url: str) -> AsyncIterator[AsyncConnection]:
    """A database without tables, in one transaction that takes the place of what was there when the block ends."""
    url = make_url(database_url)
    if url.get_backend_name() == "sqlite":
        target = Path(url.database or "")
        target.parent.mkdir(parents=True, exist_ok=True)
        fresh = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
        engine, _ = open_database(f"sqlite+aiosqlite:///{fresh}")
        try:
            async with engine.begin() as connection:
                yield connection
            await engine.dispose()  # closes the last connection, which empties the log into the file
            for old in _beside(url):
                old.unlink(missing_ok=True)
            fresh.rename(target)
        finally:
            await engine.dispose()
            fresh.unlink(missing_ok=True)
        return
    engine, _ = open_database(database_url)
    try:
        async with engine.begin() as connection:
            others = await connection.scalar(_OTHERS)
            if others:
                raise BackupError(f"{others} connections of a running Otvet use the database: stop it first")
            for table in reversed(await connection.run_sync(_tables)):
                await connection.run_sync(table.drop)
            await connection.execute(text("DROP TABLE IF EXISTS alembic_version"))
            yield connection
    finally:
        await engine.dispose()


_OTHERS = text(
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'otvet%' "
    "AND pid <> pg_backend_pid()"
)


async def _load(connection: AsyncConnection, archive: zipfile.ZipFile, manifest: dict[str, Any]) -> None:
    on_postgresql = connection.dialect.name == "postgresql"
    tables = {table.name: table for table in await connection.run_sync(_tables)}
    if unknown := manifest["rows"].keys() - tables.keys():
        raise BackupError(f"the backup has tables that its revision should not have: {', '.join(sorted(unknown))}")
    for table in reversed(list(tables.values())):
        await connection.execute(delete(table))  # what a migration has written: the backup has it as it was
    for name, table in tables.items():
        if name not in manifest["rows"]:
            continue
        with archive.open(f"database/{name}.jsonl") as lines:
            columns = json.loads(next(lines))
            batch: list[dict[str, Any]] = []
            for line in lines:
                values = zip(columns, json.loads(line), strict=True)
                batch.append({column: _unplain(value, kind, zoned=on_postgresql) for (column, kind), value in values})
                if len(batch) == _BATCH:
                    await connection.execute(insert(table), batch)
                    batch = []
            if batch:
                await connection.execute(insert(table), batch)
        if on_postgresql:
            await _continue_numbers(connection, table)


async def _continue_numbers(connection: AsyncConnection, table: Table) -> None:
    """The next row gets the number after the last one."""
    for column in table.primary_key.columns:
        names = {"table": table.name, "column": column.name}
        sequence = await connection.scalar(text("SELECT pg_get_serial_sequence(:table, :column)"), names)
        last = await connection.scalar(select(func.max(column))) if sequence else None
        if last is not None:
            await connection.execute(text("SELECT setval(:sequence, :last)"), {"sequence": sequence, "last": last})


def _swap(stage: Path, var: Path, data: Path, beside: set[Path]) -> None:
    """Put the unpacked files in the place of the old ones, by renaming alone within OTVET_VAR."""
    new, old = stage / "new" / "var", stage / "old"
    old.mkdir()
    for path in list(var.iterdir()):
        if not path.name.startswith(".") and path.name not in MADE_AGAIN and path.resolve() not in beside:
            path.rename(old / path.name)
    for path in list(new.iterdir()) if new.is_dir() else ():
        path.rename(var / path.name)
    if (stage / "new" / "data").is_dir():
        if data.is_dir():  # empty
            data.rmdir()
        shutil.move(stage / "new" / "data", data)
