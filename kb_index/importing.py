"""Import: what would change is planned first and shown, then done article by article.

An article that was edited here is never overwritten silently: where the file has changed too, that is a conflict.
"""

from __future__ import annotations

import asyncio
import difflib
import posixpath
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from hashlib import sha256
from itertools import count, islice
from typing import Any, Literal, get_args

from anyascii import anyascii
from sqlalchemy import and_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import defer

from kb_index.article_files import ArticleFiles
from kb_index.article_text import change_text, status_of, text_hash, wording_hash, write_article
from kb_index.articles import LARGEST_FILE_BYTES, Status
from kb_index.errors import ArticleError, LibraryError
from kb_index.importers.base import Draft, DraftFile, Problem
from kb_index.library import Library, Origin
from kb_index.records import ArticleRow, RevisionRow

Kind = Literal["new", "changed", "unchanged", "kept", "conflict", "gone"]
"""kept: edited here, and the file is as it was. gone: the seed folder has no such file any more."""
Detect = Callable[[str], str]
Progress = Callable[[int, int], None]
_BATCH = 50
_LONGEST_ID = 60
_LONGEST_DIFF = 200


@dataclass(frozen=True)
class Options:
    """topic: for articles that name none. status: for texts that say none. overwrite: conflicts take the file's text.

    mirrored: the beginning of sources (`Draft.source`); articles from there that are found no longer are archived.
    """

    detect: Detect
    topic: str = ""
    status: Status = "draft"
    overwrite: bool = False
    mirrored: str = ""


@dataclass(frozen=True)
class Change:
    """What becomes of one article. `text` is what would be stored, `diff` how it differs from what is stored."""

    kind: Kind
    article_id: str
    lang: str
    title: str
    path: str
    revision: int
    text: str
    diff: str = ""
    notes: tuple[str, ...] = ()
    files: tuple[DraftFile, ...] = ()
    origin: Origin | None = None


@dataclass(frozen=True)
class Plan:
    changes: tuple[Change, ...]
    problems: tuple[Problem, ...]

    def count(self) -> dict[str, int]:
        counts = Counter(change.kind for change in self.changes)
        return {kind: counts[kind] for kind in get_args(Kind)}

    @property
    def touched(self) -> bool:
        """Whether any article is another than before."""
        return any(change.kind in ("new", "changed", "gone") for change in self.changes)

    def as_json(self) -> dict[str, Any]:
        """Counts, every article that is not merely unchanged, and every problem."""
        return {
            **self.count(),
            "skipped": len(self.problems),
            "articles": [
                {
                    "kind": change.kind,
                    "article_id": change.article_id,
                    "lang": change.lang,
                    "title": change.title,
                    "path": change.path,
                    "notes": list(change.notes),
                }
                for change in self.changes
                if change.kind != "unchanged" or change.notes
            ],
            "problems": [
                {"path": each.path, "where": each.where, "problem": each.problem, "remedy": each.remedy}
                for each in self.problems
            ],
        }


async def plan_import(
    session: AsyncSession, found: Iterable[Draft | Problem], options: Options, folder: str = ""
) -> Plan:
    """Compare what was found with what is stored; changes nothing. folder: the mirrored one, for messages."""
    rows = await session.scalars(select(ArticleRow).options(defer(ArticleRow.body)))
    planner = _Planner(session, options, rows.all())
    for each in found:
        if isinstance(each, Problem):
            planner.problems.append(each)
        else:
            await planner.add(each)
    if options.mirrored:
        await planner.add_gone(folder)
    return Plan(tuple(planner.changes), tuple(planner.problems))


async def apply_import(
    sessions: async_sessionmaker[AsyncSession],
    plan: Plan,
    *,
    author: str,
    now: datetime,
    files: ArticleFiles,
    progress: Progress | None = None,
) -> Plan:
    """Do what is planned, each article whole or not at all, and tell what was done.

    Conflicts stay conflicts. An article that was saved between plan and import becomes one; a text that can't be
    stored becomes a problem; the rest is imported. Short transactions, so that others can write between them.
    """
    # An unchanged text with an origin was written in two places alike: from now on it counts as imported.
    work = [c for c in plan.changes if c.kind in ("new", "changed", "gone") or (c.kind == "unchanged" and c.origin)]
    done: dict[int, Change | Problem] = {}
    for start in range(0, len(work), _BATCH):
        async with sessions.begin() as session:
            for change in work[start : start + _BATCH]:
                done[id(change)] = await _apply(session, change, Library(session, author=author, now=now), files)
        if progress:
            progress(min(start + _BATCH, len(work)), len(work))
    results = [done.get(id(change), change) for change in plan.changes]
    return Plan(
        tuple(each for each in results if isinstance(each, Change)),
        (*plan.problems, *(each for each in results if isinstance(each, Problem))),
    )


async def _apply(session: AsyncSession, change: Change, library: Library, files: ArticleFiles) -> Change | Problem:
    try:
        async with session.begin_nested():
            if change.kind == "gone":
                await library.save(
                    change.article_id,
                    change.lang,
                    change.text,
                    expected_revision=change.revision,
                    note=f"{change.path} is gone",
                )
                await library.forget_import(change.article_id, change.lang)
                return change
            stored = [
                await asyncio.to_thread(files.store, file.target, file.data, file.mime_type) for file in change.files
            ]
            await library.save(
                change.article_id,
                change.lang,
                change.text,
                expected_revision=change.revision,
                note=f"imported from {change.path}",
                files=stored,
                origin=change.origin,
            )
    except ArticleError as error:
        return Problem(change.path, error.problem, error.remedy, f"line {error.line}" if error.line else "")
    except (LibraryError, IntegrityError) as error:
        return replace(change, kind="conflict", notes=(*change.notes, str(error).splitlines()[0]))
    return change


class _Planner:
    """Compares one draft after the other with what is stored."""

    def __init__(self, session: AsyncSession, options: Options, rows: Sequence[ArticleRow]) -> None:
        self.options = options
        self.changes: list[Change] = []
        self.problems: list[Problem] = []
        self._session = session
        self._rows = {(row.article_id, row.lang): row for row in rows}
        self._ids = {row.article_id for row in rows}
        self._by_source = {row.source: row.article_id for row in rows if row.source}
        self._read: dict[tuple[str, str], str] = {}

    async def add(self, draft: Draft) -> None:
        lang = draft.article.lang or self.options.detect(f"{draft.article.title}\n{draft.article.body}"[:5000])
        article_id = draft.article.id or await self._id(draft, lang)
        if (article_id, lang) in self._read:
            problem = f"the id {article_id} is already taken in {lang} by {self._read[article_id, lang]}"
            where = f"line {draft.line}" if draft.line else ""
            self.problems.append(Problem(draft.path, problem, "Give one of the two another id", where))
            return
        self._read[article_id, lang] = draft.path
        self._ids.add(article_id)
        self._by_source.setdefault(draft.source, article_id)
        article = replace(draft.article, id=article_id, lang=lang)
        source_text = draft.text or write_article(replace(article, status="published"))
        text = source_text
        if self.options.topic and not article.topic:
            text = change_text(text, topic=self.options.topic)
        if len(text.encode()) > LARGEST_FILE_BYTES:
            problem = f"the text is larger than {LARGEST_FILE_BYTES:,} bytes"
            self.problems.append(Problem(draft.path, problem, "Split it into several articles"))
            return
        status = article.status if draft.decided else self.options.status
        change = Change(
            kind="new",
            article_id=article_id,
            lang=lang,
            title=article.title,
            path=draft.path,
            revision=0,
            text=_with_status(text, status),
            notes=draft.notes,
            files=draft.files,
            origin=Origin(draft.source, draft.place, text_hash(source_text), wording_hash(text), status),
        )
        row = self._rows.get((article_id, lang))
        self.changes.append(change if row is None else await self._compared(change, row, draft, text, status))

    async def add_gone(self, folder: str) -> None:
        """What came from the mirrored folder, was not edited here, and is no longer there. A broken file is there."""
        broken = {problem.path for problem in self.problems}
        for key, row in self._rows.items():
            path = posixpath.join(folder, row.path or "")
            here = key in self._read or path in broken or row.status == "archived"
            if row.source and row.source.startswith(self.options.mirrored) and not here and not _edited(row):
                text = _with_status(await self._text(row), "archived")
                change = Change("gone", row.article_id, row.lang, row.title, path, row.revision, text)
                self.changes.append(change)

    async def _compared(self, change: Change, row: ArticleRow, draft: Draft, text: str, status: Status) -> Change:
        present, origin = await self._text(row), change.origin
        change = replace(change, revision=row.revision)
        stored_files = {file["target"]: file["sha256"] for file in row.files}
        same_files = {file.target: sha256(file.data).hexdigest() for file in draft.files} == stored_files
        publish = row.status == row.imported_status == "draft" and status == "published"
        if origin and same_files and origin.text_hash == row.imported_text and not (publish and not _edited(row)):
            # The file is as it was. A status that was changed here is nothing to mention.
            return replace(change, kind="kept" if _edited(row) else "unchanged", text=present, origin=None)
        if row.imported_status and not publish and (not draft.decided or status == row.imported_status):
            status = row.status  # type: ignore[assignment]  # nothing else is ever stored
        text = _with_status(text, status)
        if text == present and same_files:
            return replace(change, kind="unchanged", text=text)
        kind: Kind = "conflict" if _edited(row) and not self.options.overwrite else "changed"
        return replace(change, kind=kind, text=text, diff=_diff(present, text))

    async def _id(self, draft: Draft, lang: str) -> str:
        """The id that an earlier import gave it, else one made from the title."""
        if known := self._by_source.get(draft.source):
            return known
        wanted = slug(draft.article.title) or "article"
        row = self._rows.get((wanted, lang))
        if row is not None and (await self._body(row)) == draft.article.body:
            return wanted
        numbers = (f"{wanted}-{number}" for number in count(2))
        return next(name for name in (wanted, *islice(numbers, len(self._ids) + 1)) if name not in self._ids)

    async def _text(self, row: ArticleRow) -> str:
        present = and_(RevisionRow.article_row_id == row.id, RevisionRow.number == row.revision)
        return (await self._session.scalar(select(RevisionRow.text).where(present))) or ""

    async def _body(self, row: ArticleRow) -> str:
        return (await self._session.scalar(select(ArticleRow.body).where(ArticleRow.id == row.id))) or ""


def slug(title: str) -> str:
    """An id from a title: Latin letters, digits and dashes."""
    words = re.findall(r"[a-z0-9]+", anyascii(title).lower().replace("'", ""))
    taken: list[str] = []
    for word in words:
        if taken and len("-".join([*taken, word])) > _LONGEST_ID:
            break
        taken.append(word[:_LONGEST_ID])
    return "-".join(taken)


def _with_status(text: str, status: str) -> str:
    """Published is what a text is that says nothing; one that says so already stays as it is."""
    if status_of(text) == status:
        return text
    return change_text(text, status=None if status == "published" else status)


def _edited(row: ArticleRow) -> bool:
    return row.imported_wording is None or row.wording != row.imported_wording


def _diff(before: str, after: str) -> str:
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), "stored", "file", lineterm="", n=1)
    return "\n".join(islice(lines, _LONGEST_DIFF))
