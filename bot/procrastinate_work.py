"""Durable work on PostgreSQL, by procrastinate: its jobs are rows of the same database, so that a message and the
job that will answer it are committed together."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import structlog
from procrastinate import App, PsycopgConnector, RetryStrategy
from procrastinate.exceptions import ConnectorException
from procrastinate.jobs import Job
from procrastinate.schema import SchemaManager
from psycopg import AsyncConnection
from psycopg.types.json import Jsonb
from sqlalchemy import bindparam, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as NoConnectionError
from sqlalchemy.ext.asyncio import AsyncConnection as EngineConnection
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from bot.channels.base import Address
from bot.work import CONCURRENCY, STOP_SECONDS, Find, Handle

log = structlog.get_logger()

QUEUE = "conversations"
POLL_SECONDS = 0.2
"""A notification wakes a worker at once; the clock finds what became due, and what waited for another's lock."""
HEARTBEAT_SECONDS = 1.0
DEAD_SECONDS = 5.0
"""A worker that was not heard of for so long is taken for dead, and its jobs go to others."""
SWEEP_SECONDS = 5.0
"""How often the rows are searched for work that has no job."""
LEASE_SECONDS = 1.0


class ProcrastinateWork:
    """One job for each wake-up. Those of one conversation have the same `lock`, which procrastinate runs one after
    the other. A job for later has none: while it waits, it would hold up the conversation's other jobs."""

    def __init__(self, engine: AsyncEngine, *, concurrency: int = CONCURRENCY) -> None:
        self.stopping = False
        self._engine = engine
        self._concurrency = concurrency
        # Used for enqueueing without being opened: the job goes through the session's own connection.
        self._jobs = self._app().job_manager

    async def enqueue(self, session: AsyncSession, address: Address, *, at: datetime | None = None) -> None:
        connection = await _driver(await session.connection())
        if at is not None:
            await self._jobs.defer_job_async(_job(address, at), connection=connection)
            return
        job = _job(address, None)
        await connection.execute(_DEFER_ONCE, (job.lock, job.queue, job.task_name, job.lock, Jsonb(job.task_kwargs)))

    async def forget(self, session: AsyncSession, address: Address) -> None:
        """One in hand goes by itself when it is done: no job is kept."""
        named = {"address": Jsonb([address.channel, address.account, address.chat_id])}
        connection = await _driver(await session.connection())
        await connection.execute(_FORGET, named)

    async def run(self, handle: Handle, find: Find) -> None:
        self.stopping = False
        while True:
            try:
                await self._run(handle, find)
            except Exception:
                # Edge: the database went away. What was in hand is done again when it is back.
                log.exception("work.interrupted", retry_after_seconds=HEARTBEAT_SECONDS)
            await asyncio.sleep(HEARTBEAT_SECONDS)

    async def _run(self, handle: Handle, find: Find) -> None:
        app = self._app()

        @app.task(name="work", queue=QUEUE, retry=RetryStrategy(wait=1))
        async def work(address: list[str]) -> None:
            try:
                await handle(Address(*address))
            except Exception:
                log.exception("conversation.failed", channel=address[0])
                raise

        @app.task(name="later", queue=QUEUE, retry=RetryStrategy(wait=1))
        async def later(address: list[str]) -> None:
            await app.job_manager.defer_job_async(_job(Address(*address), None))

        async with app.open_async():
            # Cancelling this call lets the jobs in hand end first; then the helpers are cancelled.
            # By one process: two that look at once would each give the same job away, the second one after it was
            # taken, and then two workers have the conversation.
            rescue = self.exclusively("rescue", lambda: self._rescue(app))
            helpers = [asyncio.create_task(rescue), asyncio.create_task(self._sweep(find))]
            worker = asyncio.create_task(
                app.run_worker_async(
                    queues=[QUEUE],
                    concurrency=self._concurrency,
                    install_signal_handlers=False,
                    fetch_job_polling_interval=POLL_SECONDS,
                    update_heartbeat_interval=HEARTBEAT_SECONDS,
                    stalled_worker_timeout=60,
                    shutdown_graceful_timeout=STOP_SECONDS,
                    delete_jobs="always",
                )
            )
            try:
                await asyncio.shield(worker)
            except asyncio.CancelledError:
                self.stopping = True
                worker.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await worker
                raise
            finally:
                for helper in helpers:
                    helper.cancel()
                await asyncio.gather(*helpers, return_exceptions=True)

    async def _rescue(self, app: App) -> None:
        """Give the jobs of dead workers to living ones, this one among them. In one process of all, see `_run`."""
        while True:
            await asyncio.sleep(HEARTBEAT_SECONDS)
            try:
                for job in await app.job_manager.get_stalled_jobs(queue=QUEUE, seconds_since_heartbeat=DEAD_SECONDS):
                    with contextlib.suppress(ConnectorException):  # it has ended meanwhile
                        await app.job_manager.retry_job(job)
                        log.warning("work.rescued", job=job.id)
            except Exception:
                log.exception("work.rescue_failed")

    async def _sweep(self, find: Find) -> None:
        """Enqueue what has no job. There should be none; a job that was deleted by hand is such a case."""
        while True:
            await asyncio.sleep(SWEEP_SECONDS * random.uniform(0.8, 1.2))  # noqa: S311 - workers take turns
            try:
                await self.sweep(find)
            except Exception:
                log.exception("work.sweep_failed")

    async def sweep(self, find: Find) -> int:
        """How many conversations had work and no job; they have one now."""
        waiting = {_key(address): address for address in await find()}
        if not waiting:
            return 0
        async with AsyncSession(self._engine) as session, session.begin():
            known = await session.scalars(_LIVE_JOBS, {"locks": list(waiting)})
            orphans = waiting.keys() - set(known)
            for key in orphans:
                log.warning("work.orphan_found", channel=waiting[key].channel)
                await self.enqueue(session, waiting[key])
        return len(orphans)

    async def exclusively(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        """By a lock of the database that lives as long as its connection."""
        while True:
            try:
                async with self._engine.connect() as connection:
                    await connection.execution_options(isolation_level="AUTOCOMMIT")
                    while not await connection.scalar(_TRY_LOCK, {"name": name}):  # noqa: ASYNC110
                        await asyncio.sleep(LEASE_SECONDS)
                    log.info("lease.taken", name=name)
                    task = asyncio.create_task(_awaited(work))
                    try:
                        while not task.done():
                            await asyncio.wait([task], timeout=LEASE_SECONDS)
                            await connection.scalar(text("SELECT 1"))
                    finally:
                        task.cancel()
                        await asyncio.gather(task, return_exceptions=True)
                        with contextlib.suppress(DBAPIError):
                            await connection.scalar(_UNLOCK, {"name": name})
                break
            except (DBAPIError, NoConnectionError) as error:
                log.warning("lease.lost", name=name, error=repr(error))
            await asyncio.sleep(LEASE_SECONDS)
        task.result()

    def _app(self) -> App:
        url = self._engine.url.set(drivername="postgresql")
        connector = PsycopgConnector(
            conninfo=url.render_as_string(hide_password=False),
            min_size=1,
            max_size=4,
            kwargs={"application_name": "otvet work"},
        )
        return App(connector=connector)


_TRY_LOCK = text("SELECT pg_try_advisory_lock(hashtextextended('otvet:' || :name, 0))")
_UNLOCK = text("SELECT pg_advisory_unlock(hashtextextended('otvet:' || :name, 0))")
_LIVE_JOBS = text(
    "SELECT lock FROM procrastinate_jobs WHERE status IN ('todo', 'doing') AND lock = ANY(:locks)"
).bindparams(bindparam("locks"))


_DEFER_ONCE = b"""
WITH waiting AS MATERIALIZED (
    SELECT 1 FROM procrastinate_jobs WHERE lock = %s AND status = 'todo' LIMIT 1 FOR SHARE SKIP LOCKED
)
INSERT INTO procrastinate_jobs (queue_name, task_name, lock, args)
SELECT %s, %s, %s, %s WHERE NOT EXISTS (SELECT FROM waiting)
"""
"""procrastinate's own function for this, but for one thing: a conversation that has a job waiting gets no second one.
The job that waits is locked until the commit, so that it can't begin before it would see what this transaction wrote.
"""


_FORGET = b"""
DELETE FROM procrastinate_jobs WHERE id IN (
    SELECT id FROM procrastinate_jobs WHERE status = 'todo' AND args->'address' = %(address)s FOR UPDATE SKIP LOCKED
)
"""


async def _awaited(work: Callable[[], Awaitable[None]]) -> None:
    await work()


def _job(address: Address, at: datetime | None) -> Job:
    return Job(
        queue=QUEUE,
        lock=None if at else _key(address),
        queueing_lock=None,
        task_name="later" if at else "work",
        task_kwargs={"address": [address.channel, address.account, address.chat_id]},
        scheduled_at=at,
    )


def _key(address: Address) -> str:
    return f"{address.channel}/{address.account}/{address.chat_id}"


async def _driver(connection: EngineConnection) -> AsyncConnection[Any]:
    raw = (await connection.get_raw_connection()).driver_connection
    if not isinstance(raw, AsyncConnection):
        raise TypeError(f"procrastinate needs psycopg, not {type(raw).__name__}")
    return raw


async def apply_schema(connection: EngineConnection) -> None:
    """Bring procrastinate's own tables up to date, inside the caller's transaction and under his lock.

    A new database gets the whole schema; an older one gets the steps that this release of procrastinate adds.
    """
    driver = await _driver(connection)
    steps = await asyncio.to_thread(_schema_steps)
    await driver.execute("CREATE TABLE IF NOT EXISTS procrastinate_steps (name text PRIMARY KEY)")
    done = {name for (name,) in await (await driver.execute("SELECT name FROM procrastinate_steps")).fetchall()}
    if not done:
        await driver.execute(SchemaManager.get_schema())
        # Its index on (id, lock) finds the jobs of a lock by reading all that wait, which a backlog makes slow.
        await driver.execute(
            "CREATE INDEX otvet_jobs_by_lock ON procrastinate_jobs (lock) WHERE status IN ('todo', 'doing')"
        )
    for name in sorted(steps.keys() - done):
        if done:
            await driver.execute(steps[name])
        await driver.execute("INSERT INTO procrastinate_steps VALUES (%s)", (name,))


def _schema_steps() -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(SchemaManager.get_migrations_path()).glob("*.sql")}
