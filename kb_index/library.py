"""The stored articles: read, saved with every revision kept, published, archived, restored.

The text of a revision is the article: its file, front matter included, byte for byte. What is searched and listed is
read from it when it is saved. A published article may have a draft beside it: a later revision that nobody is answered
with until it is published.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, and_, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from kb_index.article_text import carry_over, change_text, wording_hash
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
    draft: int | None
    """The revision that waits beside this one to be published."""
    created_at: datetime
    updated_at: datetime
    updated_by: str
    behind: str | None
    source: str | None
    edited: bool
    """Whether it was written or changed here since it was last imported: an import does not touch it then."""

    @property
    def newest(self) -> int:
        """The revision that an editor goes on with."""
        return self.draft or self.revision


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
        pending: bool = False,
        words: str = "",
        limit: int | None = None,
        offset: int = 0,
    ) -> list[Stored]:
        """Articles ordered by id and language. words: part of the id, the title or the text; behind: only outdated
        versions; pending: only those that have a draft beside the published text."""
        wanted: list[ColumnElement[bool]] = []
        if status:
            wanted.append(ArticleRow.status == status)
        if lang:
            wanted.append(ArticleRow.lang == lang)
        if topic is not None:
            wanted.append(ArticleRow.topic == topic)
        if behind:
            wanted.append(ArticleRow.behind.is_not(None))
        if pending:
            wanted.append(ArticleRow.draft.is_not(None))
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

    async def require(self, article_id: str, lang: str, *, revision: int, draft: int | None) -> None:
        """Lock it. Raises StaleArticleError unless these are its present revision and its draft, and
        UnknownArticleError."""
        row = await self._find(article_id, lang, lock=True)
        if row is None:
            raise UnknownArticleError(article_id, lang)
        await self._session.refresh(row)
        if (row.revision, row.draft) != (revision, draft):
            raise StaleArticleError(article_id, lang, draft or revision, row.draft or row.revision)

    async def unpublished(self, *, article_id: str | None = None, limit: int | None = None) -> list[Stored]:
        """Everything that could be published, ordered by id and language: articles that are drafts, and the drafts
        beside published ones; `article` is what would be published. article_id: of this one alone."""
        waits = or_(ArticleRow.status == "draft", ArticleRow.draft.is_not(None))
        if article_id is not None:
            waits = and_(waits, ArticleRow.article_id == article_id)
        query = (
            select(ArticleRow, RevisionRow)
            .outerjoin(
                RevisionRow, and_(RevisionRow.article_row_id == ArticleRow.id, RevisionRow.number == ArticleRow.draft)
            )
            .where(waits)
            .order_by(ArticleRow.article_id, ArticleRow.lang)
            .limit(limit)
        )
        found = []
        for row, draft in await self._session.execute(query):
            stored = _stored(row)
            found.append(replace(stored, article=_read(row, draft)) if draft is not None else stored)
        return found

    async def versions(self, article_id: str) -> list[Stored]:
        """Every language version of one article; none when there is no such article."""
        query = select(ArticleRow).where(ArticleRow.article_id == article_id).order_by(ArticleRow.lang)
        return [_stored(row) for row in await self._session.scalars(query)]

    async def newest_versions(self, article_id: str) -> list[Stored]:
        """The same as an editor goes on with them: `article` is the draft, where there is one."""
        drafts = {stored.article.lang: stored for stored in await self.unpublished(article_id=article_id)}
        return [drafts.get(stored.article.lang, stored) for stored in await self.versions(article_id)]

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
        pending: bool = False,
        origin: Origin | None = None,
    ) -> Stored:
        """Keep a new revision. `text` is the whole file; a text that says what the present one says changes nothing.

        expected_revision: the revision that was edited, 0 for a new article; the draft's, where there is one, which is
        over then, or the present one's: what changed is then put into the draft too, where the draft had left it alone.
        files: None keeps the present ones. minor: the other language versions need no such change. pending: as a draft
        beside the present text, which stays as it is. Raises ArticleError for a text that can't be read,
        StaleArticleError when somebody else has saved, UnknownArticleError.
        """
        article = parse_article(text, Path(lang) / f"{article_id}.md", lang)
        if article.id != article_id:
            raise LibraryError(article_id, lang, f"the text says id {article.id}: an article keeps its id. Correct it")
        row = await self._find(article_id, lang, lock=True)
        if row is None and expected_revision:
            raise UnknownArticleError(article_id, lang)
        newest = (row.draft or row.revision) if row is not None else 0
        if row is not None and expected_revision not in ({newest} if pending else {newest, row.revision}):
            raise StaleArticleError(article_id, lang, expected_revision, newest)
        before: Mapping[str, Any] = {}
        draft: Revision | None = None
        present: Revision | None = None
        if row is None:
            row = ArticleRow(article_id=article_id, lang=lang, revision=0, created_at=self._now, files=[])
        else:
            before = _values(row)
            present = await self.revision(article_id, lang)
            if row.draft:
                draft = await self.revision(article_id, lang, row.draft)
            same = draft if pending and draft else present
            if same.text == text and (files is None or tuple(files) == same.files):
                if origin:
                    _keep_origin(row, origin)
                if not pending and expected_revision == row.draft:
                    row.draft = None
                await self._session.flush()
                return _stored(row)
        if pending and present is not None:
            kept = files if files is not None else (draft or present).files
            changed = [name for name in _COMPARED if before[name] != _values_of(article, kept)[name]]
            row.draft = await self._add_revision(row, text, [asdict(file) for file in kept], note, changed)
            return _stored(row)
        if files is None and draft and expected_revision == row.draft:
            files = draft.files
        _fill(row, article, files)
        row.wording = wording_hash(text)
        changed = [name for name in _COMPARED if not before or before[name] != getattr(row, name)]
        row.updated_at, row.updated_by = self._now, self._author
        if origin:
            _keep_origin(row, origin)
        based_on_draft = expected_revision == row.draft
        row.revision = await self._add_revision(row, text, row.files, note, changed)
        if based_on_draft:
            row.draft = None
        elif draft and present:
            carried = carry_over(present.text, text, draft.text)
            if carried != draft.text:
                row.draft = await self._add_revision(row, carried, [asdict(file) for file in draft.files], note, [])
            if carried == text:
                row.draft = None
        if before and not minor and _WORDING & set(changed):
            await self._leave_others_behind(row)
        await self._session.flush()
        return _stored(row)

    async def _add_revision(
        self, row: ArticleRow, text: str, files: Sequence[Any], note: str, changed: Sequence[str]
    ) -> int:
        """Its number."""
        self._session.add(row)
        await self._session.flush()
        numbers = select(func.max(RevisionRow.number)).where(RevisionRow.article_row_id == row.id)
        number = (await self._session.scalar(numbers) or 0) + 1
        self._session.add(
            RevisionRow(
                article_row_id=row.id,
                number=number,
                text=text,
                files=list(files),
                author=self._author,
                note=note,
                changed=list(changed),
                created_at=self._now,
            )
        )
        await self._session.flush()
        return number

    async def discard_draft(self, article_id: str, lang: str, *, expected_revision: int | None = None) -> Stored:
        """Give up the draft beside the present text; its revisions stay in the history. Raises StaleArticleError where
        it is another one, UnknownArticleError."""
        row = await self._find(article_id, lang, lock=True)
        if row is None:
            raise UnknownArticleError(article_id, lang)
        if expected_revision is not None and row.draft != expected_revision:
            raise StaleArticleError(article_id, lang, expected_revision, row.draft or row.revision)
        row.draft = None
        await self._session.flush()
        return _stored(row)

    async def set_status(
        self, article_id: str, lang: str, status: Status, *, expected_revision: int | None = None
    ) -> Stored:
        """Publish, archive, or make a draft of it. Where a draft waits, it is the draft that is published. Raises
        StaleArticleError, UnknownArticleError."""
        draft = (await self._row(article_id, lang)).draft if status == "published" else None
        present = await self.revision(article_id, lang, draft)
        text = change_text(present.text, status=None if status == "published" else status)
        number = present.number if expected_revision is None else expected_revision
        return await self.save(article_id, lang, text, expected_revision=number, note=status)

    async def restore(self, article_id: str, lang: str, number: int, *, pending: bool = False) -> Stored:
        """Make an earlier revision the present one, as a new revision; pending: the draft beside the present one.
        Raises UnknownArticleError."""
        old = await self.revision(article_id, lang, number)
        row = await self._row(article_id, lang)
        return await self.save(
            article_id,
            lang,
            old.text,
            expected_revision=(row.draft or row.revision) if pending else row.revision,
            note=f"restored {number}",
            files=old.files,
            pending=pending,
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


def _values_of(article: Article, files: Sequence[ArticleFile]) -> dict[str, Any]:
    """The same of what a text says."""
    lists = {
        "questions": list(article.questions),
        "tags": list(article.tags),
        "files": [asdict(each) for each in files],
    }
    return {name: lists[name] if name in lists else getattr(article, name) for name in _COMPARED}


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


def _read(row: ArticleRow, revision: RevisionRow) -> Article:
    """What a revision says."""
    article = parse_article(revision.text, Path(row.lang) / f"{row.article_id}.md", row.lang)
    return replace(article, path=None, files=tuple(ArticleFile(**file) for file in revision.files))


def _stored(row: ArticleRow) -> Stored:
    return Stored(
        article=_article(row),
        revision=row.revision,
        draft=row.draft,
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
