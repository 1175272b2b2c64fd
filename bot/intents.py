"""The intents of an installation: the database has them; the data folder seeds it, and its later edits are taken."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy.ext.asyncio import AsyncSession

from bot.database import migrate, open_database
from bot.ledger import Sessions
from nlu.library import count, training_data
from nlu.library_files import Taken, keep_written, parse_files, plan_data, take_data, take_files, written_files
from nlu.training_data import TrainingData, load_intents

Result = TypeVar("Result")
_AUTHOR = "seed"


@dataclass(frozen=True)
class IntentBase:
    """The database's intents for code without a connection: each call opens one of its own, and closes it."""

    url: str
    folder: Path
    """Where the seed files lie."""
    files: Callable[[], Mapping[str, str]]
    """The seed: path → text. Raises TrainingDataError."""
    clock: Callable[[], datetime]
    progress: Callable[[str], None]

    def training_data(self) -> TrainingData:
        """What a training learns from; an empty database is seeded first. Blocks. Raises TrainingDataError."""

        async def work() -> TrainingData:
            async with self._begin() as session:
                return await training_data(session)

        return _finish(work())

    def as_edited(self) -> TrainingData:
        """The same as it will be once the folder's edits are taken, with file and line where it stands in one. Changes
        nothing. Blocks. Raises TrainingDataError."""

        async def work() -> TrainingData:
            files = self.files()
            async with self._begin() as session, session.begin_nested() as undone:
                await take_files(session, files, by=_AUTHOR, at=self.clock())
                data = await training_data(session)
                await undone.rollback()
            return _placed(data, self.folder, files)

        return _finish(work())

    def take_edits(self) -> Taken:
        """Take what has changed in the seed folder since it was last read. Blocks. Raises TrainingDataError."""

        async def work() -> Taken:
            async with self._begin() as session:
                return await take_files(session, self.files(), by=_AUTHOR, at=self.clock())

        taken = _finish(work())
        for change in taken.changes:
            if change.kind == "conflict":
                self.progress(
                    f"Warning: intent {change.intent} leads elsewhere in the files: the studio's outcome stays"
                )
        return taken

    def take(self, path: Path, *, exact: bool, by: str, dry_run: bool) -> Taken:
        """Add what other files have; `exact`: their intents become what they say. Blocks. Raises TrainingDataError."""

        async def work() -> Taken:
            data = load_intents(path)
            async with self._begin() as session:
                if dry_run:
                    return await plan_data(session, data, exact=exact)
                return await take_data(session, data, exact=exact, by=by, at=self.clock())

        return _finish(work())

    def write(self, folder: Path | None = None) -> list[Path]:
        """Write the intents as files, by default where they were read from; every byte stays that nobody changed here.
        What changed in the folder meanwhile is taken first. Blocks. Raises TrainingDataError, OSError."""

        async def work() -> list[Path]:
            async with self._begin() as session:
                if folder is None:
                    await take_files(session, self.files(), by=_AUTHOR, at=self.clock())
                written = await written_files(session)
                changed = [path for path, text in written.items() if _write((folder or self.folder) / path, text)]
                if folder is None:
                    await keep_written(session, written)
                return [(folder or self.folder) / path for path in changed]

        return _finish(work())

    @asynccontextmanager
    async def _begin(self) -> AsyncIterator[AsyncSession]:
        engine, sessions = open_database(self.url)
        try:
            await migrate(engine)
            await self.seed_if_empty(sessions)
            async with sessions.begin() as session:
                yield session
        finally:
            await engine.dispose()

    async def seed_if_empty(self, sessions: Sessions) -> None:
        """Raises TrainingDataError."""
        async with sessions.begin() as session:
            if not await count(session):
                await take_files(session, self.files(), by=_AUTHOR, at=self.clock())


def _write(path: Path, text: str) -> bool:
    """Whether it was another before."""
    if path.exists() and path.read_bytes() == text.encode():
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="")
    return True


def _placed(data: TrainingData, folder: Path, files: Mapping[str, str]) -> TrainingData:
    places = {
        (each.intent, each.raw, each.lang): (folder / path, each.line)
        for path, part in parse_files(files).items()
        for each in part.examples
    }
    placed = []
    for example in data.examples:
        file, line = places.get((example.intent, example.raw, example.lang), (None, 0))
        placed.append(replace(example, file=file, line=line))
    return replace(data, examples=tuple(placed))


def _finish(work: Coroutine[Any, Any, Result]) -> Result:
    """Run it to its end, whether or not this thread has a loop already."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(asyncio.run, work).result()
