"""What the people who run it ask: is it alive, is it ready, how is it doing. /healthz, /readyz, /metrics."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from math import inf

import structlog
import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, generate_latest
from sqlalchemy import func, select, text
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from bot import metrics
from bot.breaker import troubles
from bot.database import known_revisions
from bot.errors import SettingsError
from bot.ledger import PENDING, InboxRow, OutboxRow, Sessions
from bot.timers import Timer
from handoff.lifecycle import LIVE
from handoff.records import Ticket

log = structlog.get_logger()

DATABASE_SECONDS = 5.0
"""A database that does not answer within this counts as away."""


class Monitor:
    """Health and figures of one process.

    model: the version in use, None while none is loaded; for a process that answers nobody itself, leave it out.
    """

    def __init__(
        self,
        *,
        sessions: Sessions,
        clock: Callable[[], datetime],
        channels: Sequence[str],
        listeners: Callable[[], int],
        model: Callable[[], str | None] | None = None,
    ) -> None:
        self._sessions = sessions
        self._clock = clock
        self._channels = channels
        self._listeners = listeners
        self._model = model
        self._head = known_revisions()[0]
        self._found: tuple[float, list[str]] = (-inf, [])

    async def problems(self) -> list[str]:
        """What keeps this process from doing its work, in words that tell an outsider nothing. Asked by anybody,
        so the database is asked once a second at most."""
        if time.monotonic() > self._found[0] + 1:
            self._found = time.monotonic(), await self._problems()
        return self._found[1]

    async def _problems(self) -> list[str]:
        found = []
        if self._model is not None and self._model() is None:
            found.append("no model is loaded")
        try:
            async with asyncio.timeout(DATABASE_SECONDS), self._sessions.reading() as session:
                revision = await session.scalar(text("SELECT version_num FROM alembic_version"))
        except Exception as error:  # noqa: BLE001 - whatever it is, it does not answer
            log.warning("database.away", error=type(error).__name__)
            return [*found, "the database does not answer"]
        if revision != self._head:
            found.append("the database has tables of another release")
        return found

    async def figures(self) -> bytes:
        """In Prometheus' text format."""
        metrics.STREAMS.set(self._listeners())
        if self._model is not None:
            metrics.MODEL.clear()
            if version := self._model():
                metrics.MODEL.labels(version).set(1)
        for gauge in (metrics.INBOX_WAITING, metrics.INBOX_OLDEST_SECONDS, metrics.OUTBOX_WAITING):
            gauge.clear()
        metrics.OUTBOX_LATE_SECONDS.clear()
        try:
            async with asyncio.timeout(DATABASE_SECONDS):
                await self._ask_database()
            metrics.DATABASE_UP.set(1)
        except Exception as error:  # noqa: BLE001 - a scrape tells what it can
            log.warning("database.away", error=type(error).__name__)
            metrics.DATABASE_UP.set(0)
        return generate_latest(REGISTRY)

    async def _ask_database(self) -> None:
        """Of what waits alone, by indexes that hold nothing else: quick whatever the number of conversations."""
        now = self._clock()
        inbox = select(InboxRow.channel, func.count(), func.min(InboxRow.received_at)).where(PENDING)
        outbox = select(OutboxRow.channel, func.count(), func.min(OutboxRow.due_at))
        async with self._sessions.reading() as session:
            waiting = {row[0]: row for row in await session.execute(inbox.group_by(InboxRow.channel))}
            unsent = {row[0]: row for row in await session.execute(outbox.group_by(OutboxRow.channel))}
            timers = await session.execute(select(func.count(), func.min(Timer.due_at)))
            found = await troubles(session)
            open_tickets = select(func.count()).select_from(Ticket).where(Ticket.status.in_(LIVE))
            metrics.TICKETS_OPEN.set(await session.scalar(open_tickets) or 0)
        away = Counter(trouble.channel for trouble in found)
        for channel in self._channels:
            metrics.CHANNELS_AWAY.labels(channel).set(away[channel])
            _, count, oldest = waiting.get(channel, (channel, 0, None))
            metrics.INBOX_WAITING.labels(channel).set(count)
            metrics.INBOX_OLDEST_SECONDS.labels(channel).set(_seconds(oldest, now))
            _, count, oldest = unsent.get(channel, (channel, 0, None))
            metrics.OUTBOX_WAITING.labels(channel).set(count)
            metrics.OUTBOX_LATE_SECONDS.labels(channel).set(_seconds(oldest, now))
        count, oldest = timers.one()
        metrics.TIMERS_WAITING.set(count)
        metrics.TIMERS_LATE_SECONDS.set(_seconds(oldest, now))

    def app(self) -> Starlette:
        async def alive(_request: Request) -> Response:
            return JSONResponse({"status": "ok"})

        async def ready(_request: Request) -> Response:
            return readiness(await self.problems())

        async def figures(_request: Request) -> Response:
            return Response(await self.figures(), media_type=CONTENT_TYPE_LATEST)

        return Starlette(routes=[Route("/healthz", alive), Route("/readyz", ready), Route("/metrics", figures)])

    async def serve(self, host: str, port: int) -> None:
        """Serve these three on a port of their own until cancelled. Raises SettingsError if it is not free."""
        try:
            listening = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        except OSError as error:
            raise SettingsError(f"OTVET_METRICS_PORT: {host}:{port} can't be listened on: {error}") from error
        server = _Silent(uvicorn.Config(self.app(), log_config=None, access_log=False, lifespan="off"))
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        try:
            await asyncio.shield(serving)
        finally:
            server.should_exit = True
            await serving
            listening.close()


def readiness(problems: Sequence[str]) -> JSONResponse:
    if problems:
        return JSONResponse({"status": "not ready", "problems": list(problems)}, 503)
    return JSONResponse({"status": "ready"})


def _seconds(since: datetime | None, now: datetime) -> float:
    return max((now - since).total_seconds(), 0.0) if since else 0.0


class _Silent(uvicorn.Server):
    """Leaves the signals to the process that it is a part of."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
