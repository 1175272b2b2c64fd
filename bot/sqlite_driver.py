"""aiosqlite with one change of threads for each statement, and with a queue of those who want to write.

SQLAlchemy's adapter crosses to the connection's thread and back to make a cursor, to execute, to fetch and to close:
four times a statement, which is a sixth of what a turn costs on SQLite. All of it is done in one go here.

SQLite lets one connection write and has the others look again after longer and longer pauses, in no order: the file
lies idle while they pause, and with dozens of them one can wait until it fails. Those of one process ask one
after another here; between processes SQLite's own waiting decides, as ever.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from sqlite3 import Connection
from typing import Any

from sqlalchemy.connectors.asyncio import AsyncAdapt_dbapi_connection
from sqlalchemy.dialects.sqlite.aiosqlite import AsyncAdapt_aiosqlite_connection, AsyncAdapt_aiosqlite_cursor
from sqlalchemy.engine import Dialect
from sqlalchemy.util import immutabledict
from sqlalchemy.util.concurrency import await_

LONGEST_WAIT_SECONDS = 20.0
"""In the queue. Whoever has waited for so long asks SQLite itself: the queue holds nobody up for good."""


class Driver:
    """Makes the connections of one database file, whose writers take turns."""

    def __init__(self) -> None:
        self._writing = asyncio.Lock()

    def connect(self, dialect: Dialect, _record: Any, arguments: Sequence[Any], options: dict[str, Any]) -> Any:
        """A listener to `do_connect`."""
        made: Any = dialect.loaded_dbapi.connect(*arguments, **options)
        return _Connection(made.dbapi, made._connection, self._writing)


@dataclass
class _Done:
    """What is left of a cursor once it is closed."""

    description: Any = None
    rowcount: int = -1
    lastrowid: Any = None
    arraysize: int = 1

    def close(self) -> None:
        """It is."""


class _Cursor(AsyncAdapt_aiosqlite_cursor):
    __slots__ = ()
    _awaitable_cursor_close = False

    def __init__(self, adapt_connection: AsyncAdapt_dbapi_connection) -> None:
        self._adapt_connection = adapt_connection
        self._connection = adapt_connection._connection
        self._cursor = _Done()  # type: ignore[assignment]
        self._soft_closed_memoized = immutabledict()
        self._rows = deque()

    async def _execute_async(self, operation: Any, parameters: Any) -> Any:
        return await self._in_one_go(lambda own: own.execute(operation, () if parameters is None else parameters))

    async def _executemany_async(self, operation: Any, seq_of_parameters: Any) -> Any:
        return await self._in_one_go(lambda own: own.executemany(operation, seq_of_parameters))

    async def _in_one_go(self, execute: Callable[[Connection], Any]) -> None:
        connection: Any = self._connection

        def work() -> tuple[_Done, list[Any]]:
            cursor = execute(connection._conn)
            rows = cursor.fetchall() if cursor.description else []
            done = _Done(cursor.description, cursor.rowcount, cursor.lastrowid)
            cursor.close()
            return done, rows

        async with self._adapt_connection._execute_mutex:
            done, rows = await connection._execute(work)
        self._cursor, self._rows = done, deque(rows)


class _Connection(AsyncAdapt_aiosqlite_connection):
    __slots__ = ("_has_turn", "_writing")
    _cursor_cls = _Cursor

    def __init__(self, dbapi: Any, connection: Any, writing: asyncio.Lock) -> None:
        super().__init__(dbapi, connection)
        self._writing, self._has_turn = writing, False

    def wait_for_turn(self) -> None:
        """Before a transaction that writes. The end of the transaction, or of the connection, gives the turn away."""
        if not self._has_turn:
            await_(self._wait_for_turn())

    async def _wait_for_turn(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LONGEST_WAIT_SECONDS):
                await self._writing.acquire()
                self._has_turn = True

    def commit(self) -> None:
        with self._giving_turn_away():
            super().commit()

    def rollback(self) -> None:
        with self._giving_turn_away():
            super().rollback()

    def close(self) -> None:
        with self._giving_turn_away():
            super().close()

    def terminate(self) -> None:
        with self._giving_turn_away():
            super().terminate()

    @contextlib.contextmanager
    def _giving_turn_away(self) -> Iterator[None]:
        try:
            yield
        finally:
            if self._has_turn:
                self._has_turn = False
                self._writing.release()
