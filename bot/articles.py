"""The articles of an installation: the database has them; the data folder seeds it, and its later edits are taken."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from bot.database import migrate, open_database
from bot.language import detect
from bot.ledger import Sessions
from kb_index.article_files import ArticleFiles
from kb_index.articles import Article
from kb_index.importers.reader import Progress as Reading
from kb_index.importers.reader import read_path
from kb_index.importing import Options, Plan, apply_import, plan_import
from kb_index.importing import Progress as Writing
from kb_index.library import Library, Stored, published
from kb_index.seeding import SEED, read_seed

Result = TypeVar("Result")
_AUTHOR = "seed"


@dataclass(frozen=True)
class ArticleBase:
    """The database's articles for code without a connection: each call opens one of its own, and closes it.

    `clock` gives the time in the zone in which articles begin and end to be valid.
    """

    url: str
    folder: Path
    """Where the seed articles lie."""
    files: ArticleFiles
    audiences: frozenset[str]
    clock: Callable[[], datetime]
    progress: Callable[[str], None]

    def published(self) -> list[Article]:
        """What may be answered today; an empty database is seeded first. Blocks."""

        async def work() -> list[Article]:
            async with self._sessions() as sessions:
                await self._seed_if_empty(sessions)
                async with sessions.begin() as session:
                    return await published(session, self.clock(), audiences=self.audiences)

        return _finish(work())

    def behind(self) -> list[Stored]:
        """Language versions that wait for a change made in another language. Blocks."""

        async def work() -> list[Stored]:
            async with self._sessions() as sessions, sessions.begin() as session:
                return await Library(session, author=_AUTHOR, now=self.clock()).find(behind=True)

        return _finish(work())

    def drafts(self, wanted: Collection[tuple[str, str]]) -> list[Article]:
        """Of these (id, language) pairs those that are drafts or have one beside the published text. Blocks."""

        async def work() -> list[Article]:
            async with self._sessions() as sessions, sessions.begin() as session:
                found = await Library(session, author=_AUTHOR, now=self.clock()).unpublished()
                return [each.article for each in found if (each.article.id, each.article.lang) in wanted]

        return _finish(work()) if wanted else []

    def take_edits(self) -> Plan:
        """Import what has changed in the seed folder, but for articles that were edited in the database. Blocks."""

        async def work() -> Plan:
            async with self._sessions() as sessions:
                return await self._take(sessions)

        plan = _finish(work())
        self._tell(plan)
        return plan

    def import_path(
        self,
        path: Path,
        *,
        author: str,
        topic: str = "",
        publish: bool = False,
        overwrite: bool = False,
        dry_run: bool = False,
        reading: Reading | None = None,
        writing: Writing | None = None,
    ) -> Plan:
        """Import whatever is at the path, and tell what was done; `dry_run`: what would be done. Blocks.

        Raises ImportSourceError when there is nothing at the path.
        """

        async def work() -> Plan:
            options = Options(detect, topic=topic, status="published" if publish else "draft", overwrite=overwrite)
            found = list(read_path(path, progress=reading))
            async with self._sessions() as sessions:
                if not dry_run:
                    await self._seed_if_empty(sessions)
                async with sessions.begin() as session:
                    plan = await plan_import(session, found, options)
                if dry_run:
                    return plan
                now = self.clock()
                return await apply_import(sessions, plan, author=author, now=now, files=self.files, progress=writing)

        return _finish(work())

    async def _seed_if_empty(self, sessions: Sessions) -> None:
        async with sessions.begin() as session:
            empty = not await Library(session, author=_AUTHOR, now=self.clock()).count()
        if empty:
            self._tell(await self._take(sessions))

    async def _take(self, sessions: Sessions) -> Plan:
        options = Options(detect=detect, status="published", mirrored=SEED)
        async with sessions.begin() as session:
            plan = await plan_import(session, read_seed(self.folder), options, str(self.folder))
        return await apply_import(sessions, plan, author=_AUTHOR, now=self.clock(), files=self.files)

    def _tell(self, plan: Plan) -> None:
        for problem in plan.problems:
            self.progress(f"Warning: {problem}")
        for change in plan.changes:
            if change.kind == "conflict":
                self.progress(
                    f"Warning: {change.path}: this file and the article {change.article_id} ({change.lang}) were both "
                    "changed; the article stays. `otvet kb import --overwrite` takes the file"
                )

    @asynccontextmanager
    async def _sessions(self) -> AsyncIterator[Sessions]:
        engine, sessions = open_database(self.url)
        try:
            await migrate(engine)
            yield sessions
        finally:
            await engine.dispose()


def _finish(work: Coroutine[Any, Any, Result]) -> Result:
    """Run it to its end, whether or not this thread has a loop already."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(asyncio.run, work).result()
