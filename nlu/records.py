"""The tables of intents, their examples, and the files that they were read from."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, DateTime, Dialect, ForeignKey, Index, MetaData, String, Text, TypeDecorator
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
    type_annotation_map = {datetime: UtcDateTime(), dict[str, Any]: JSON}  # noqa: RUF012


class IntentRow(Base):
    """An intent as it is now; one that was removed is kept, so that it can be brought back."""

    __tablename__ = "intents"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(120), unique=True)
    details: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """Its metadata in the files: for this product the outcome."""
    revision: Mapped[int] = mapped_column(default=1)
    """One more with every change of the intent or its examples."""
    source_name: Mapped[str | None] = mapped_column(String(120), index=True)
    """Its name in the files as they were last read."""
    updated_at: Mapped[datetime]
    updated_by: Mapped[str] = mapped_column(String(200))
    removed_at: Mapped[datetime | None]


class ExampleRow(Base):
    """An utterance that belongs to an intent, in the order in which they came. A removed one is kept too."""

    __tablename__ = "intent_examples"
    __table_args__ = (Index("ix_intent_examples_key", "key"), Index("ix_intent_examples_intent", "intent_id"))

    id: Mapped[int] = mapped_column(primary_key=True)
    intent_id: Mapped[int] = mapped_column(ForeignKey("intents.id", ondelete="CASCADE"))
    lang: Mapped[str | None] = mapped_column(String(8))
    text: Mapped[str] = mapped_column(Text)
    raw: Mapped[str] = mapped_column(Text)
    """The text with its entity marks."""
    key: Mapped[str] = mapped_column(String(64))
    """SHA-256 of the folded text: what stands twice has the same."""
    details: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """Metadata of its own in the files."""
    file: Mapped[str | None] = mapped_column(Text)
    """Where it stands among the files; nowhere yet when it was written here."""
    added_at: Mapped[datetime]
    added_by: Mapped[str] = mapped_column(String(200))
    removed_at: Mapped[datetime | None]


class IntentFileRow(Base):
    """A file of training data as it was last read: what an export changes as little as it can."""

    __tablename__ = "intent_files"

    path: Mapped[str] = mapped_column(String(400), primary_key=True)
    text: Mapped[str] = mapped_column(Text)
    extras: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """{"synonyms"|"lookups"|"regexes": {name: [lines]}}: kept, though the classifier does not use them."""
