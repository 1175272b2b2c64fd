"""The stored articles: read, saved with every revision kept, published, archived, restored.

The text of a revision is the article: its file, front matter included, byte for byte. What is searched and listed is
read from it when it is saved.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, and_, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from kb_index.article_text import change_text, wording_hash
from kb_index.articles import EVERYONE, Article, ArticleFile, Status, parse_article
from kb_index.errors import LibraryError, StaleArticleError, UnknownArticleError
from kb_index.records import ArticleRow, RevisionRow

_COMPARED = ("title", "body", "topic", "questions", "tags", "audience", "status", "valid_from", "valid_until", "files")
_WORDING = {"title", "body"}
"""A change of these leaves the other language versions behind."""


@dataclass(frozen=True)
class Stored:
    """An article as it is now. `behind` names the language whose version was changed after this one."""

    article: Article
    revision: int
    created_at: datetime
    updated_at: datetime
    updated_by: str
    behind: str | None
    source: str | None
    edited: bool
    """Whether it was written or changed here since it was last imported: an import does not touch it then."""


@dataclass(frozen=True)
class Revision:
    """`changed` names what differs from the revision before; `text` is the whole file."""

    number: int
    author: str
    created_at: datetime
    note: str
    changed: tuple[str, ...]
    text: str
    files: tuple[ArticleFile, ...]


@dataclass(frozen=True)
class Origin:
    """What an imported text came from: hashes of the source's text and of the wording stored for it, and its status."""

    source: str
    path: str | None
    text_hash: str
    wording_hash: str
    status: Status


async def published(
    session: AsyncSession,
    now: datetime,
    *,
    audiences: Collection[str] = (EVERYONE,),
    only: Collection[tuple[str, str]] | None = None,
) -> list[Article]:
    """What may be answered to these audiences on the day of `now` in its time zone, ordered by id and language.

    only: of these (id, language) pairs alone. Compare `Article.content_hash` to see what has changed.
    """
    if only is not None and not only:
        return []
    query = select(ArticleRow).where(*_answering(now, audiences)).order_by(ArticleRow.article_id, ArticleRow.lang)
    if only is not None:
        query = query.where(ArticleRow.article_id.in_({article_id for article_id, _ in only}))
    rows = await session.scalars(query)
    return [_article(row) for row in rows if only is None or (row.article_id, row.lang) in only]


async def published_hashes(
    session: AsyncSession, now: datetime, *, audiences: Collection[str] = (EVERYONE,)
) -> dict[tuple[str, str], str]:
    """`Article.content_hash` of everything that `published` would give, by (id, language); reads no texts."""
    columns = select(ArticleRow.article_id, ArticleRow.lang, ArticleRow.content_hash)
    rows = await session.execute(columns.where(*_answering(now, audiences)))
    return {(article_id, lang): content_hash for article_id, lang, content_hash in rows}


def _answering(now: datetime, audiences: Collection[str]) -> tuple[ColumnElement[bool], ...]:
    day = now.date()
    return (
        ArticleRow.status == "published",
        ArticleRow.audience.in_(audiences),
        or_(ArticleRow.valid_from.is_(None), ArticleRow.valid_from <= day),
        or_(ArticleRow.valid_until.is_(None), ArticleRow.valid_until >= day),
    )


class Library:
    """The articles within one transaction of the caller; `author` and `now` go into every revision it makes."""

    def __init__(self, session: AsyncSession, *, author: str, now: datetime) -> None:
        self._session = session
        self._author = author
        self._now = now

    async def count(self) -> int:
        """Language versions of any status."""
        return await self._session.scalar(select(func.count(ArticleRow.id))) or 0

    async def find(
        self,
        *,
        status: Status | None = None,
        lang: str | None = None,
        topic: str | None = None,
        behind: bool = False,
        words: str = "",
        limit: int | None = None,
        offset: int = 0,
    ) -> list[Stored]:
        """Articles ordered by id and language. words: part of the id, the title or the text; behind: only outdated
        versions."""
        wanted: list[ColumnElement[bool]] = []
        if status:
            wanted.append(ArticleRow.status == status)
        if lang:
            wanted.append(ArticleRow.lang == lang)
        if topic is not None:
            wanted.append(ArticleRow.topic == topic)
        if behind:
            wanted.append(ArticleRow.behind.is_not(None))
        if words:
            # SQLite folds the case of Latin letters alone.
            forms = {words, words.lower(), words.upper(), words.capitalize()}
            columns = (ArticleRow.article_id, ArticleRow.title, ArticleRow.body)
            wanted.append(or_(*(column.icontains(form, autoescape=True) for form in forms for column in columns)))
        query = select(ArticleRow).where(and_(True, *wanted)).order_by(ArticleRow.article_id, ArticleRow.lang)
        return [_stored(row) for row in await self._session.scalars(query.limit(limit).offset(offset))]

    async def get(self, article_id: str, lang: str) -> Stored:
        """Raises UnknownArticleError."""
        return _stored(await self._row(article_id, lang))

    async def versions(self, article_id: str) -> list[Stored]:
        """Every language version of one article; none when there is no such article."""
        query = select(ArticleRow).where(ArticleRow.article_id == article_id).order_by(ArticleRow.lang)
        return [_stored(row) for row in await self._session.scalars(query)]

    async def history(self, article_id: str, lang: str) -> list[Revision]:
        """Every revision, the newest first. Raises UnknownArticleError."""
        row = await self._row(article_id, lang)
        query = select(RevisionRow).where(RevisionRow.article_row_id == row.id).order_by(RevisionRow.number.desc())
        return [_revision(revision) for revision in await self._session.scalars(query)]

    async def revision(self, article_id: str, lang: str, number: int | None = None) -> Revision:
        """One revision, by default the present one. Raises UnknownArticleError."""
        row = await self._row(article_id, lang)
        query = select(RevisionRow).where(
            RevisionRow.article_row_id == row.id, RevisionRow.number == (row.revision if number is None else number)
        )
        found = await self._session.scalar(query)
        if found is None:
            raise UnknownArticleError(article_id, lang, f"there is no revision {number}")
        return _revision(found)

    async def save(
        self,
        article_id: str,
        lang: str,
        text: str,
        *,
        expected_revision: int,
        note: str = "",
        files: Sequence[ArticleFile] | None = None,
        minor: bool = False,
        origin: Origin | None = None,
    ) -> Stored:
        """Keep a new revision. `text` is the whole file; a text that says what the present one says changes nothing.

        expected_revision: the revision that was edited, 0 for a new article. files: None keeps the present ones.
        minor: the other language versions need no such change. Raises ArticleError for a text that can't be read,
        StaleArticleError when somebody else has saved, UnknownArticleError.
        """
        article = parse_article(text, Path(lang) / f"{article_id}.md", lang)
        if article.id != article_id:
            raise LibraryError(article_id, lang, f"the text says id {article.id}: an article keeps its id. Correct it")
        row = await self._find(article_id, lang, lock=True)
        if row is None and expected_revision:
            raise UnknownArticleError(article_id, lang)
        if row is not None and row.revision != expected_revision:
            raise StaleArticleError(article_id, lang, expected_revision, row.revision)
        before: Mapping[str, Any] = {}
        if row is None:
            row = ArticleRow(article_id=article_id, lang=lang, revision=0, created_at=self._now, files=[])
        else:
            before = _values(row)
            present = await self.revision(article_id, lang)
            if present.text == text and (files is None or tuple(files) == present.files):
                if origin:
                    _keep_origin(row, origin)
                return _stored(row)
        _fill(row, article, files)
        row.wording = wording_hash(text)
        changed = [name for name in _COMPARED if not before or before[name] != getattr(row, name)]
        row.revision += 1
        row.updated_at, row.updated_by = self._now, self._author
        if origin:
            _keep_origin(row, origin)
        self._session.add(row)
        await self._session.flush()
        self._session.add(
            RevisionRow(
                article_row_id=row.id,
                number=row.revision,
                text=text,
                files=row.files,
                author=self._author,
                note=note,
                changed=changed,
                created_at=self._now,
            )
        )
        if before and not minor and _WORDING & set(changed):
            await self._leave_others_behind(row)
        await self._session.flush()
        return _stored(row)

    async def set_status(
        self, article_id: str, lang: str, status: Status, *, expected_revision: int | None = None
    ) -> Stored:
        """Publish, archive, or make a draft of it. Raises StaleArticleError, UnknownArticleError."""
        present = await self.revision(article_id, lang)
        text = change_text(present.text, status=None if status == "published" else status)
        number = present.number if expected_revision is None else expected_revision
        return await self.save(article_id, lang, text, expected_revision=number, note=status)

    async def restore(self, article_id: str, lang: str, number: int) -> Stored:
        """Make an earlier revision the present one, as a new revision. Raises UnknownArticleError."""
        old = await self.revision(article_id, lang, number)
        row = await self._row(article_id, lang)
        return await self.save(
            article_id, lang, old.text, expected_revision=row.revision, note=f"restored {number}", files=old.files
        )

    async def mark_current(self, article_id: str, lang: str) -> None:
        """This version needs no change for what was changed in the other language. Raises UnknownArticleError."""
        (await self._row(article_id, lang)).behind = None

    async def forget_import(self, article_id: str, lang: str) -> None:
        """The next import takes the file's text and status as they are, unless the article is edited here by then."""
        row = await self._row(article_id, lang)
        row.imported_text = row.imported_status = None

    async def _leave_others_behind(self, row: ArticleRow) -> None:
        """A version that was behind has now caught up; any other change leaves the other versions behind."""
        if row.behind is not None:
            row.behind = None
            return
        others = select(ArticleRow).where(ArticleRow.article_id == row.article_id, ArticleRow.lang != row.lang)
        for other in await self._session.scalars(others):
            other.behind = other.behind or row.lang

    async def _find(self, article_id: str, lang: str, *, lock: bool = False) -> ArticleRow | None:
        query = select(ArticleRow).where(ArticleRow.article_id == article_id, ArticleRow.lang == lang)
        return await self._session.scalar(query.with_for_update() if lock else query)

    async def _row(self, article_id: str, lang: str) -> ArticleRow:
        row = await self._find(article_id, lang)
        if row is None:
            raise UnknownArticleError(article_id, lang)
        return row


def _values(row: ArticleRow) -> dict[str, Any]:
    return {name: getattr(row, name) for name in _COMPARED}


def _fill(row: ArticleRow, article: Article, files: Sequence[ArticleFile] | None) -> None:
    row.title, row.body, row.topic, row.audience = article.title, article.body, article.topic, article.audience
    row.questions, row.tags, row.status = list(article.questions), list(article.tags), article.status
    row.valid_from, row.valid_until = article.valid_from, article.valid_until
    row.content_hash = article.content_hash
    if files is not None:
        row.files = [asdict(file) for file in files]


def _keep_origin(row: ArticleRow, origin: Origin) -> None:
    row.source, row.path = row.source or origin.source, row.path or origin.path
    row.imported_text, row.imported_wording = origin.text_hash, origin.wording_hash
    row.imported_status = origin.status


def _article(row: ArticleRow) -> Article:
    return Article(
        id=row.article_id,
        lang=row.lang,
        title=row.title,
        body=row.body,
        topic=row.topic,
        questions=tuple(row.questions),
        status=row.status,  # type: ignore[arg-type]  # nothing else is ever stored
        tags=tuple(row.tags),
        audience=row.audience,
        valid_from=row.valid_from,
        valid_until=row.valid_until,
        files=tuple(ArticleFile(**file) for file in row.files),
    )


def _stored(row: ArticleRow) -> Stored:
    return Stored(
        article=_article(row),
        revision=row.revision,
        created_at=row.created_at,
        updated_at=row.updated_at,
        updated_by=row.updated_by,
        behind=row.behind,
        source=row.source,
        edited=row.imported_wording is None or row.wording != row.imported_wording,
    )


def _revision(row: RevisionRow) -> Revision:
    return Revision(
        number=row.number,
        author=row.author,
        created_at=row.created_at,
        note=row.note,
        changed=tuple(row.changed),
        text=row.text,
        files=tuple(ArticleFile(**file) for file in row.files),
    )
