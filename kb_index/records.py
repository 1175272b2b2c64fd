"""The tables of articles and their revisions."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

from sqlalchemy import JSON, DateTime, Dialect, ForeignKey, Index, MetaData, String, Text, TypeDecorator
from sqlalchemy import UniqueConstraint as Unique
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC moment. SQLite drops the zone, so it is put back on reading; a naive value is refused."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is not None and value.tzinfo is None:
            raise ValueError("a moment without a time zone can't be stored")
        return value.astimezone(UTC) if value else None

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return value.replace(tzinfo=UTC) if value and value.tzinfo is None else value


class Base(DeclarativeBase):
    # Names for every constraint, so that a migration can drop one.
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_label)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {datetime: UtcDateTime(), list[Any]: JSON}  # noqa: RUF012


class ArticleRow(Base):
    """One language version of an article as it is now: what its present revision's text says, ready to be searched."""

    __tablename__ = "articles"
    __table_args__ = (Unique("article_id", "lang"), Index("ix_articles_status", "status", "article_id"))

    id: Mapped[int] = mapped_column(primary_key=True)
    article_id: Mapped[str] = mapped_column(String(120))
    lang: Mapped[str] = mapped_column(String(2))
    title: Mapped[str] = mapped_column(Text)
    body: Mapped[str] = mapped_column(Text)
    topic: Mapped[str] = mapped_column(Text, default="")
    tags: Mapped[list[Any]] = mapped_column(default=list)
    questions: Mapped[list[Any]] = mapped_column(default=list)
    files: Mapped[list[Any]] = mapped_column(default=list)
    """[{"target", "sha256", "size_bytes", "mime_type"}]"""
    audience: Mapped[str] = mapped_column(String(64))
    status: Mapped[str] = mapped_column(String(16))
    valid_from: Mapped[date | None]
    valid_until: Mapped[date | None]
    content_hash: Mapped[str] = mapped_column(String(64))
    """`Article.content_hash`: what search and training see."""
    wording: Mapped[str] = mapped_column(String(64))
    """SHA-256 of the present text whatever its status."""
    revision: Mapped[int] = mapped_column(default=0)
    """Number of the present revision; the first is 1."""
    draft: Mapped[int | None]
    """Number of the revision that waits beside it to be published."""
    behind: Mapped[str | None] = mapped_column(String(2))
    """The language whose version was changed after this one, while this one waits for the same change."""
    path: Mapped[str | None] = mapped_column(Text)
    """Where the file lay under the folder it was imported from; an export puts it there again."""
    source: Mapped[str | None] = mapped_column(Text, index=True)
    """What it was imported from: a folder's name and a path in it, or a help desk and its id."""
    imported_text: Mapped[str | None] = mapped_column(String(64))
    """SHA-256 of the text as last imported."""
    imported_wording: Mapped[str | None] = mapped_column(String(64))
    """`wording` as last imported; the two differ once somebody has edited the article here."""
    imported_status: Mapped[str | None] = mapped_column(String(16))
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    updated_by: Mapped[str] = mapped_column(String(200))


class RevisionRow(Base):
    """One saved state of an article: its whole text, front matter included, byte for byte."""

    __tablename__ = "article_revisions"
    __table_args__ = (Unique("article_row_id", "number"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    article_row_id: Mapped[int] = mapped_column(ForeignKey("articles.id", ondelete="CASCADE"))
    number: Mapped[int]
    text: Mapped[str] = mapped_column(Text)
    files: Mapped[list[Any]] = mapped_column(default=list)
    author: Mapped[str] = mapped_column(String(200))
    note: Mapped[str] = mapped_column(Text, default="")
    changed: Mapped[list[Any]] = mapped_column(default=list)
    """Names of what differs from the revision before: title, body, questions, status, …; all for the first."""
    created_at: Mapped[datetime]
