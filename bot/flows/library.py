"""The flows of an installation: the database has them with every revision; the data folder seeds it, and its later
edits are taken, unless the flow was edited in the studio meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import ForeignKey, Index, String, Text, UniqueConstraint, func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column

from bot.database import migrate, open_database
from bot.errors import FlowError, StaleFlowError, UnknownFlowError
from bot.flows.format import Flow, load_flows, parse_flow
from bot.flows.turns import FlowBook
from bot.ledger import Sessions
from handoff.records import Base, BigId

log = structlog.get_logger()

SEED = "seed"
KEPT_FOR = timedelta(days=31)
"""A customer may wait in a flow for 30 days (`expires_after_hours`)."""


class FlowRow(Base):
    __tablename__ = "flows"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    published: Mapped[int | None]
    """Number of the revision that customers meet; None: the flow is out of use."""
    newest: Mapped[int]
    seed_version: Mapped[str | None] = mapped_column(String(16))
    """Version of the file that was taken last."""
    updated_at: Mapped[datetime]


class FlowRevision(Base):
    __tablename__ = "flow_revisions"
    __table_args__ = (UniqueConstraint("flow_id", "number"), Index("ix_flow_revisions_retired", "retired_at"))

    id: Mapped[BigId] = mapped_column(primary_key=True)
    flow_id: Mapped[str] = mapped_column(ForeignKey("flows.id"))
    number: Mapped[int]
    text: Mapped[str] = mapped_column(Text)
    version: Mapped[str] = mapped_column(String(16))
    author: Mapped[str] = mapped_column(String(200))
    note: Mapped[str] = mapped_column(String(300), default="")
    created_at: Mapped[datetime]
    published_at: Mapped[datetime | None]
    retired_at: Mapped[datetime | None]
    """When another was published in its place. Customers who are in it stay in it."""


@dataclass(frozen=True)
class StoredFlow:
    """A flow with its revision that is published, or else its newest."""

    flow: Flow
    number: int
    newest: int
    published: int | None
    updated_at: datetime
    author: str


async def save(
    session: AsyncSession, text: str, *, expected: int | None, by: str, at: datetime, note: str = ""
) -> FlowRevision:
    """A new revision, not published; the flow is made if `expected` is None. Raises FlowError for a text that is no
    flow, StaleFlowError when somebody has saved since revision `expected`."""
    flow = parse_flow(text)
    row = await session.scalar(select(FlowRow).where(FlowRow.id == flow.id).with_for_update())
    if (row.newest if row else None) != expected:
        raise StaleFlowError(flow.id, expected, row.newest if row else None)
    if row is None:
        row = FlowRow(id=flow.id, published=None, newest=0, seed_version=None, updated_at=at)
        session.add(row)
        await session.flush()
    row.newest, row.updated_at = row.newest + 1, at
    revision = FlowRevision(
        flow_id=flow.id,
        number=row.newest,
        text=text,
        version=flow.version,
        author=by,
        note=note[:300],
        created_at=at,
    )
    session.add(revision)
    await session.flush()
    return revision


async def publish(session: AsyncSession, flow_id: str, number: int, *, at: datetime) -> FlowRevision:
    """From now on flows of this id begin with this revision. Raises UnknownFlowError."""
    row, revision = await _row(session, flow_id), await get_revision(session, flow_id, number)
    await _retire(session, row, at)
    row.published, row.updated_at = number, at
    revision.published_at, revision.retired_at = at, None
    await session.flush()
    return revision


async def withdraw(session: AsyncSession, flow_id: str, *, expected: int, at: datetime) -> None:
    """Nobody begins it any more; who is in it goes on. Raises UnknownFlowError, StaleFlowError where another revision
    than `expected` is published."""
    row = await _row(session, flow_id)
    if row.published != expected:
        raise StaleFlowError(flow_id, expected, row.published)
    await _retire(session, row, at)
    row.published, row.updated_at = None, at


async def _retire(session: AsyncSession, row: FlowRow, at: datetime) -> None:
    if row.published is not None:
        before = await get_revision(session, row.id, row.published)
        before.retired_at = at


async def _row(session: AsyncSession, flow_id: str) -> FlowRow:
    row = await session.scalar(select(FlowRow).where(FlowRow.id == flow_id).with_for_update())
    if row is None:
        raise UnknownFlowError(flow_id)
    return row


async def get_revision(session: AsyncSession, flow_id: str, number: int | None = None) -> FlowRevision:
    """number: None: the newest. Raises UnknownFlowError."""
    query = select(FlowRevision).where(FlowRevision.flow_id == flow_id).order_by(FlowRevision.number.desc()).limit(1)
    found = await session.scalar(query if number is None else query.where(FlowRevision.number == number))
    if found is None:
        raise UnknownFlowError(flow_id)
    return found


async def revisions(session: AsyncSession, flow_id: str, limit: int = 50) -> Sequence[FlowRevision]:
    """The newest first."""
    found = await session.scalars(
        select(FlowRevision).where(FlowRevision.flow_id == flow_id).order_by(FlowRevision.number.desc()).limit(limit)
    )
    return found.all()


async def stored(session: AsyncSession) -> list[StoredFlow]:
    """Every flow that can be read, by id."""
    rows = await session.execute(
        select(FlowRow, FlowRevision)
        .join(FlowRevision, FlowRevision.flow_id == FlowRow.id)
        .where(FlowRevision.number == func.coalesce(FlowRow.published, FlowRow.newest))
        .order_by(FlowRow.id)
    )
    return [
        StoredFlow(flow, revision.number, row.newest, row.published, row.updated_at, revision.author)
        for row, revision in rows
        if (flow := _parsed(revision)) is not None
    ]


async def read_book(
    session: AsyncSession,
    common: Mapping[str, Mapping[str, Any]],
    now: datetime,
    zone: tzinfo = UTC,
    before: FlowBook | None = None,
) -> FlowBook:
    """What may be run now, and what customers may still be in. A revision that can't be read, of another version of
    the program say, is left out and logged; of `before`, what is in use in its place goes on."""
    present = await session.scalars(
        select(FlowRevision)
        .join(FlowRow, FlowRevision.flow_id == FlowRow.id)
        .where(FlowRevision.number == FlowRow.published)
        .order_by(FlowRevision.flow_id)
    )
    flows = {}
    for revision in present:
        flow = _parsed(revision) or (before.flows.get(revision.flow_id) if before else None)
        if flow is not None:
            flows[revision.flow_id] = flow
    past = await session.scalars(select(FlowRevision).where(FlowRevision.retired_at > now - KEPT_FOR))
    earlier = {(revision.flow_id, revision.version): flow for revision in past if (flow := _parsed(revision))}
    return FlowBook(flows, earlier, common, zone)


def _parsed(revision: FlowRevision) -> Flow | None:
    """None, and it is logged: it can't be read."""
    try:
        return parse_flow(revision.text, f"{revision.flow_id}.yml")
    except FlowError as error:
        log.error("flow.unreadable", flow=revision.flow_id, revision=revision.number, error=str(error))
        return None


async def take_files(session: AsyncSession, flows: Mapping[str, Flow], *, at: datetime) -> list[str]:
    """Publish what has changed in the files since they were last taken; the ids of flows that were edited in both."""
    conflicts = []
    rows = {row.id: row for row in await session.scalars(select(FlowRow))}
    for flow in flows.values():
        row = rows.get(flow.id)
        if row is not None and row.seed_version == flow.version:
            continue
        newest = await get_revision(session, flow.id) if row is not None else None
        if row is not None and newest is not None:
            if newest.version == flow.version:
                row.seed_version = flow.version  # written back from here
                continue
            if newest.version != row.seed_version:
                conflicts.append(flow.id)
                continue
        made = await save(session, flow.text, expected=row.newest if row else None, by=SEED, at=at)
        await publish(session, flow.id, made.number, at=at)
        (await _row(session, flow.id)).seed_version = flow.version
    return conflicts


class FlowBase:
    """The flows for a whole process: read at the first use, and again when another process has changed them."""

    def __init__(
        self,
        *,
        url: str,
        folder: Path,
        common: Mapping[str, Mapping[str, Any]],
        clock: Callable[[], datetime],
        progress: Callable[[str], None],
        zone: tzinfo = UTC,
    ) -> None:
        self.folder = folder
        self._url = url
        self._common = common
        self._clock = clock
        self._zone = zone
        self._progress = progress
        self._book: FlowBook | None = None
        self._mark: tuple[tuple[object, ...], ...] = ()

    @property
    def book(self) -> FlowBook:
        """Blocks the first time, which takes the files' edits."""
        if self._book is None:
            with ThreadPoolExecutor(max_workers=1) as pool:
                pool.submit(asyncio.run, self._first()).result()
        assert self._book is not None  # noqa: S101 - `_first` sets it or raises
        return self._book

    async def _first(self) -> None:
        engine, sessions = open_database(self._url)
        try:
            await migrate(engine)
            flows, problems = load_flows(self.folder)
            for problem in problems:
                self._progress(f"Warning: {problem}")
            async with sessions.begin() as session:
                for flow_id in await take_files(session, flows, at=self._clock()):
                    self._progress(
                        f"Warning: the flow {flow_id} was changed in its file and in the studio; the studio's stays. "
                        "`otvet flows import FILE` takes the file"
                    )
            await self.refresh(sessions)
        finally:
            await engine.dispose()

    async def refresh(self, sessions: Sessions) -> bool:
        """Read them again if they have changed; whether they had."""
        async with sessions.reading() as session:
            # All of them, for the newest time alone would hide what a process with a slower clock has changed.
            rows = await session.execute(select(FlowRow.id, FlowRow.updated_at).order_by(FlowRow.id))
            mark = tuple(map(tuple, rows))
            if self._book is not None and mark == self._mark:
                return False
            self._book = await read_book(session, self._common, self._clock(), self._zone, self._book)
            self._mark = mark
        return True
