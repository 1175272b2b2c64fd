"""Trainings in the background: each a process of its own, one at a time, seen and cancelled through the database.

A row is asked for (`ask`), a process is started for it (`Jobs.run` in a server, or the command line), the process
claims the row (`Worker`), says every second how far it is, and leaves a candidate with its report. A process that died
is noticed by its silence, and its training begun again once.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Final, Self

import structlog
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from bot.database import open_database
from bot.errors import TrainingError
from bot.ledger import Sessions
from bot.models.records import TrainingJob, TrainingState

log = structlog.get_logger()

LIVE: Final = (TrainingState.QUEUED, TrainingState.RUNNING)
BEAT_SECONDS: Final = 1.0
LOOK_SECONDS: Final = 1.0
SILENT: Final = timedelta(seconds=20)
"""A process that has said nothing for so long is dead."""
START: Final = timedelta(seconds=60)
"""So long a process may take to claim its row, on a busy machine."""
MOST_TRIES: Final = 2
CANCELLED: Final = 130
STAGES: Final[Mapping[str, float]] = {
    "starting": 3.0,
    "intents": 7.0,
    "ranker": 9.0,
    "routing": 2.0,
    "writing": 0.5,
    "judging": 6.0,
}
"""In their order, with the seconds that each took on the demo data: an estimate for the first time."""
DEMO_EXAMPLES: Final = 3874


async def ask(
    session: AsyncSession, *, by: str, at: datetime, articles: Sequence[tuple[str, str]] = ()
) -> tuple[TrainingJob, bool]:
    """Ask for a training, and whether it is a new one: while one waits or runs, it is that one."""
    job = await current(session)
    if job is not None:
        return job, False
    job = TrainingJob(asked_by=by, asked_at=at, articles=[list(each) for each in articles])
    session.add(job)
    await session.flush()
    return job, True


async def current(session: AsyncSession) -> TrainingJob | None:
    """The one that waits or runs."""
    found: TrainingJob | None = await session.scalar(
        select(TrainingJob).where(TrainingJob.state.in_(LIVE)).order_by(TrainingJob.id).limit(1)
    )
    return found


async def newest(session: AsyncSession, limit: int = 10) -> Sequence[TrainingJob]:
    return (await session.scalars(select(TrainingJob).order_by(TrainingJob.id.desc()).limit(limit))).all()


async def cancel(session: AsyncSession, job_id: int, *, at: datetime) -> TrainingJob | None:
    """One that waits is cancelled at once, one that runs within seconds; None where there is nothing to cancel."""
    job: TrainingJob | None = await session.get(TrainingJob, job_id, with_for_update=True)
    if job is None or job.state not in LIVE:
        return None
    job.cancel = True
    if job.state is TrainingState.QUEUED:
        job.state, job.finished_at = TrainingState.CANCELLED, at
    await session.flush()
    return job


@dataclass
class Estimate:
    """How far a training is, and how long the rest takes, from what the stages took the last time."""

    expected: Mapping[str, float] = field(default_factory=lambda: STAGES)
    clock: Callable[[], float] = time.monotonic
    stage: str = "starting"
    took: dict[str, float] = field(default_factory=dict)
    detail: str = ""
    _began: float = 0.0
    _texts: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        self._began = self.clock()

    def grow(self, times: float) -> None:
        """There are so many times as many examples to learn as in the training that the estimate comes from."""
        # Encoding and searching grow with the examples, comparing them with one another with their square.
        powers = {"intents": 1.5, "ranker": 1.0}
        self.expected = {name: seconds * times ** powers.get(name, 0) for name, seconds in self.expected.items()}

    def begin(self, stage: str) -> None:
        now = self.clock()
        self.took[self.stage] = round(self.took.get(self.stage, 0.0) + now - self._began, 2)
        self.stage, self._began, self._texts, self.detail = stage, now, None, ""

    def encoded(self, done: int, of: int) -> None:
        """Of the texts of this stage."""
        self._texts = (done, of) if done < of else None
        self.detail = f"{done}/{of}" if done < of else ""

    def left(self) -> tuple[float, float]:
        """The share that is done, 0 to below 1, and the seconds that the rest takes."""
        names = list(self.expected)
        here = names.index(self.stage) if self.stage in names else len(names)
        spent = self.clock() - self._began
        # A stage that takes longer than it did is always nearly over; one that encodes knows better.
        rest = max(self.expected.get(self.stage, 0.0) - spent, 0.05 * spent)
        if self._texts and self._texts[0]:
            done, of = self._texts
            rest = max(rest, spent / done * (of - done) + self.expected.get(self.stage, 0.0) / 2)
        rest += sum(self.expected[name] for name in names[here + 1 :])
        past = sum(self.took.values()) + spent
        return min(past / max(past + rest, 1e-9), 0.99), rest


class Jobs:
    """Starts a process for each training that is asked for; in one process of the installation."""

    def __init__(
        self, sessions: Sessions, clock: Callable[[], datetime], command: Callable[[int], Sequence[str]] | None = None
    ) -> None:
        """command: what runs the training of a number; by default this program's own."""
        self._sessions = sessions
        self._clock = clock
        self._command = command or own_command
        self.children: list[subprocess.Popen[bytes]] = []
        self._started: dict[int, datetime] = {}

    async def run(self) -> None:
        """Until cancelled. A training that runs then goes on by itself."""
        while True:
            try:
                await self.look()
            except Exception:
                # Edge: a fault of one look must not end the next.
                log.exception("training.look_failed")
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        self.children = [child for child in self.children if child.poll() is None]
        now = self._clock()
        async with self._sessions.begin() as session:
            job = await current(session)
            if job is None:
                self._started.clear()
                return
            if job.state is TrainingState.RUNNING and job.beat_at is not None and now - job.beat_at > SILENT:
                self._died(job, now)
            if job.state is not TrainingState.QUEUED:
                return
            started = self._started.get(job.id)
            if started is not None and now - started < START:
                return
            if started is not None:
                job.state, job.finished_at = TrainingState.FAILED, now
                job.error = "its process did not start: see the log of the server"
                return
            self._started[job.id] = now
            job_id = job.id
        self.children.append(start(self._command(job_id)))
        log.info("training.started", job=job_id, pid=self.children[-1].pid)

    def _died(self, job: TrainingJob, now: datetime) -> None:
        if job.cancel:
            job.state, job.finished_at = TrainingState.CANCELLED, now
        elif job.tries < MOST_TRIES:
            job.state, job.beat_at = TrainingState.QUEUED, None
            self._started.pop(job.id, None)
            log.warning("training.interrupted", job=job.id, tries=job.tries)
        else:
            job.state, job.finished_at = TrainingState.FAILED, now
            job.error = "its process ended without a word, twice: is there enough memory?"


def own_command(job_id: int) -> Sequence[str]:
    return (sys.executable, "-m", "bot.models.training_process", str(job_id))


def start(command: Sequence[str]) -> subprocess.Popen[bytes]:
    """A process that outlives this one. What it says goes to our standard error."""
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True)  # noqa: S603 - our own program


class Worker:
    """The side of the process that trains: claims its row, and tells from a thread how far it is.

    As a context: an exception inside becomes the training's error. Raises TrainingError when the row is another's.
    """

    def __init__(self, url: str, job_id: int, clock: Callable[[], datetime]) -> None:
        self._url, self._job_id, self._clock = url, job_id, clock
        self.estimate = Estimate()
        self.articles: tuple[tuple[str, str], ...] = ()
        self.version_id: str | None = None
        self.last_version_id: str | None = None
        """What the training made that the estimate comes from."""
        self._try = 0
        """Which of the starts of this training it is: another one may have been begun while this process was silent."""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="progress", daemon=True)

    def __enter__(self) -> Self:
        claimed, articles, expected = asyncio.run(self._with_session(self._claim))
        if not claimed:
            raise TrainingError(f"training {self._job_id} is not waiting to be started")
        self.articles = tuple((str(article_id), str(lang)) for article_id, lang in articles)
        self.estimate = Estimate(expected)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join(10)
        self.estimate.begin("over")

        async def finish(session: AsyncSession) -> None:
            values: dict[str, Any] = {"finished_at": self._clock(), "stages": self.estimate.took, "seconds_left": None}
            if error is None:
                values |= {"state": TrainingState.DONE, "done": 1.0, "stage": "", "version_id": self.version_id}
            else:
                values |= {"state": TrainingState.FAILED, "error": str(error)[:2000] or type(error).__name__}
            await session.execute(self._mine().values(**values))

        asyncio.run(self._with_session(finish))

    async def _claim(self, session: AsyncSession) -> tuple[bool, Sequence[Sequence[str]], Mapping[str, float]]:
        now = self._clock()
        query = update(TrainingJob).where(TrainingJob.id == self._job_id, TrainingJob.state == TrainingState.QUEUED)
        claimed = await session.execute(
            query.values(
                state=TrainingState.RUNNING,
                started_at=now,
                beat_at=now,
                stage="starting",
                tries=TrainingJob.tries + 1,
            )
        )
        if not claimed.rowcount:  # type: ignore[attr-defined]
            return False, (), STAGES
        job = await session.get_one(TrainingJob, self._job_id)
        self._try = job.tries
        last: TrainingJob | None = await session.scalar(
            select(TrainingJob).where(TrainingJob.state == TrainingState.DONE).order_by(TrainingJob.id.desc()).limit(1)
        )
        took: Mapping[str, Any] = last.stages if last is not None else {}
        self.last_version_id = last.version_id if last is not None else None
        expected = {name: float(took.get(name, usual)) for name, usual in STAGES.items()}
        return True, job.articles, expected

    def _beat(self) -> None:
        """Every second, until the training is over; ends the process when the training was cancelled, or was taken for
        dead and begun anew."""
        while not self._over.wait(BEAT_SECONDS):
            try:
                cancelled = asyncio.run(self._with_session(self._tell))
            except Exception:
                # Edge: a database that is away for a moment must not end the training.
                log.exception("training.beat_failed", job=self._job_id)
                continue
            if cancelled:
                os._exit(CANCELLED)  # what it has written so far is a draft that nobody sees

    async def _tell(self, session: AsyncSession) -> bool:
        now = self._clock()
        share, left = self.estimate.left()
        cancelled = bool(await session.scalar(select(TrainingJob.cancel).where(TrainingJob.id == self._job_id)))
        values: dict[str, Any] = {"beat_at": now}
        if cancelled:
            values |= {"state": TrainingState.CANCELLED, "finished_at": now, "seconds_left": None}
        else:
            values |= {
                "stage": self.estimate.stage,
                "detail": self.estimate.detail,
                "done": share,
                "seconds_left": left,
            }
        mine = await session.execute(self._mine().values(**values))
        return cancelled or not mine.rowcount  # type: ignore[attr-defined]

    def _mine(self) -> Any:
        return update(TrainingJob).where(
            TrainingJob.id == self._job_id,
            TrainingJob.state == TrainingState.RUNNING,
            TrainingJob.tries == self._try,
        )

    async def _with_session(self, work: Callable[[AsyncSession], Awaitable[Any]]) -> Any:
        engine, sessions = open_database(self._url)
        try:
            async with sessions.begin() as session:
                return await work(session)
        finally:
            await engine.dispose()
