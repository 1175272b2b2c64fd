"""The engine, its sessions and its migrations."""

from __future__ import annotations

import time
from math import inf
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, event, make_url, text
from sqlalchemy.exc import ArgumentError, DisconnectionError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from bot.errors import SettingsError
from bot.sqlite_driver import Driver
from bot.work import InProcessWork, Sessions

POOL_SIZE = 10
POOL_OVERFLOW = 10
IDLE_SECONDS = 20.0
"""A connection that was not used for so long is asked whether it lives."""


def open_database(url: str) -> tuple[AsyncEngine, Sessions]:
    """An engine and its sessions. SQLite runs in WAL mode and waits for a lock instead of failing.

    Raises SettingsError for an address that is neither SQLite's nor PostgreSQL's.
    """
    try:
        address = make_url(url)
    except ArgumentError as error:
        raise SettingsError(f"OTVET_DATABASE_URL: {error}") from error
    match address.get_backend_name():
        case "sqlite":
            return _open_sqlite(url, address.database)
        case "postgresql" | "postgres":
            # Here, because it takes half a second to import and the embedded default does without.
            from bot.procrastinate_work import ProcrastinateWork

            engine = create_async_engine(
                address.set(drivername="postgresql+psycopg"),
                pool_size=POOL_SIZE,
                max_overflow=POOL_OVERFLOW,
                connect_args={"application_name": "otvet"},
            )
            event.listen(engine.sync_engine, "checkin", _note_use)
            event.listen(engine.sync_engine, "checkout", _ask_if_idle)
            return engine, Sessions(engine, ProcrastinateWork(engine))
        case other:
            raise SettingsError(f"OTVET_DATABASE_URL: {other} is not supported; use postgresql:// or leave it empty")


def _open_sqlite(url: str, path: str | None) -> tuple[AsyncEngine, Sessions]:
    if path:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    # One in memory has a single connection, and no pool to size.
    sizes = {"pool_size": POOL_SIZE, "max_overflow": POOL_OVERFLOW} if path and path != ":memory:" else {}
    engine = create_async_engine(url, **sizes)
    event.listen(engine.sync_engine, "do_connect", Driver().connect)
    event.listen(engine.sync_engine, "connect", _prepare_sqlite)
    event.listen(engine.sync_engine, "begin", _begin_sqlite)
    return engine, Sessions(engine, InProcessWork(Path(path) if path else None))


def _note_use(_connection: Any, record: ConnectionPoolEntry) -> None:
    record.info["used"] = time.monotonic()


def _ask_if_idle(connection: Any, record: ConnectionPoolEntry, _proxy: Any) -> None:
    """Whether a connection that was long unused still lives; SQLAlchemy takes another one if not. Its own
    `pool_pre_ping` asks every time, which would be a tenth of a turn's statements."""
    if time.monotonic() - record.info.get("used", inf) > IDLE_SECONDS:
        try:
            connection.cursor().execute("SELECT 1")
            connection.rollback()
        except Exception as error:
            raise DisconnectionError from error


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    # The driver must not open transactions by itself, so that the next listener decides how they begin.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")  # a message must survive a power cut once it is acknowledged
    cursor.execute("PRAGMA busy_timeout=20000")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    # A read that turns into a write fails at once in WAL mode when another process wrote in between, without
    # waiting for the lock. Taking the lock at the beginning makes `busy_timeout` work for every transaction.
    if connection.get_execution_options().get("reading"):
        connection.exec_driver_sql("BEGIN")
        return
    driver: Any = connection.connection.dbapi_connection
    driver.wait_for_turn()
    connection.exec_driver_sql("BEGIN IMMEDIATE")


async def migrate(engine: AsyncEngine) -> None:
    """Bring the tables up to date. Safe to repeat, and when several processes start at once."""
    async with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            await connection.execute(text("SELECT pg_advisory_xact_lock(hashtextextended('otvet:migrate', 0))"))
        await connection.run_sync(upgrade)
        await finish_schema(connection)


def upgrade(connection: Connection, revision: str = "head") -> None:
    """Bring the program's own tables to a revision, inside the caller's transaction."""
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


async def finish_schema(connection: AsyncConnection) -> None:
    """What belongs to the newest revision and is not Alembic's: the tables of the work engine."""
    if connection.dialect.name == "postgresql":
        from bot.procrastinate_work import apply_schema

        await apply_schema(connection)


def known_revisions() -> list[str]:
    """The revisions of the tables that this release knows, the newest first."""
    return [script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()]


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config
