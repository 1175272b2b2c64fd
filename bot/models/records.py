"""The tables of trainings, gold questions, releases and shadow mode."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import ForeignKey, Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from handoff.records import Base, BigId


class TrainingState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class TrainingJob(Base):
    """One training in the background. Its process writes here how it goes on."""

    __tablename__ = "training_jobs"
    __table_args__ = (Index("ix_training_jobs_state", "state", "id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[TrainingState] = mapped_column(default=TrainingState.QUEUED)
    asked_by: Mapped[str] = mapped_column(String(200))
    asked_at: Mapped[datetime]
    articles: Mapped[list[Any]] = mapped_column(default=list)
    """Drafts that are published with the version: [[id, language]]."""
    tries: Mapped[int] = mapped_column(default=0)
    started_at: Mapped[datetime | None]
    beat_at: Mapped[datetime | None]
    """The process's last sign of life."""
    stage: Mapped[str] = mapped_column(String(32), default="")
    detail: Mapped[str] = mapped_column(String(200), default="")
    done: Mapped[float] = mapped_column(default=0.0)
    """0 to 1."""
    seconds_left: Mapped[float | None]
    stages: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """Stage → the seconds it took: what the next one's estimate is made of."""
    cancel: Mapped[bool] = mapped_column(default=False)
    finished_at: Mapped[datetime | None]
    version_id: Mapped[str | None] = mapped_column(String(64))
    error: Mapped[str] = mapped_column(Text, default="")


class Expecting(StrEnum):
    """What is right for a question."""

    ARTICLE = "article"
    """It is answered with one of these articles."""
    INTENT = "intent"
    """It is taken for this intent, whose reply, flow or handoff follows."""
    PERSON = "person"
    """It ends at a person; with a topic: in its queue."""
    NOTHING = "nothing"
    """No article is given for an answer."""


class GoldQuestion(Base):
    """A question of the editors whose right outcome is known. No version ever learns from it."""

    __tablename__ = "gold_questions"

    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str] = mapped_column(String(1000))
    lang: Mapped[str] = mapped_column(String(8))
    expects: Mapped[Expecting]
    right: Mapped[list[Any]] = mapped_column(default=list)
    """Ids of articles, the name of an intent or a topic, as `expects` says."""
    protected: Mapped[bool]
    """It must be answered so: a version that does not is refused."""
    note: Mapped[str] = mapped_column(String(500), default="")
    created_by: Mapped[str] = mapped_column(String(200))
    created_at: Mapped[datetime]


class Release(Base):
    """That somebody changed what answers. Never changed."""

    __tablename__ = "releases"

    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime]
    who: Mapped[str] = mapped_column(String(200))
    act: Mapped[str] = mapped_column(String(16))
    """`published`, `tried`, `ended` (a trial) or `rolled_back`."""
    version_id: Mapped[str] = mapped_column(String(64))
    """Of a rollback, the version that answers again."""
    left_id: Mapped[str | None] = mapped_column(String(64))
    """Which version was live before."""
    share: Mapped[float | None]
    reason: Mapped[str] = mapped_column(Text, default="")
    """Why a refused version was let through all the same."""
    articles: Mapped[list[Any]] = mapped_column(default=list)
    """What was published with it: [{"id", "lang", "before", "after"}], revisions; `before` of an article that was
    not published: its draft."""


class ShadowTopic(Base):
    """A topic that the assistant only drafts answers for."""

    __tablename__ = "shadow_topics"

    topic: Mapped[str] = mapped_column(String(64), primary_key=True)
    since: Mapped[datetime]
    by: Mapped[str] = mapped_column(String(200))


class DraftFate(StrEnum):
    UNCHANGED = "unchanged"
    EDITED = "edited"
    DISCARDED = "discarded"


class ShadowDraft(Base):
    """An answer that the assistant would have given, and what the person made of it who answered."""

    __tablename__ = "shadow_drafts"
    __table_args__ = (Index("ix_shadow_drafts_topic", "topic", "fate"),)

    id: Mapped[BigId] = mapped_column(primary_key=True)
    ticket_id: Mapped[BigId] = mapped_column(ForeignKey("tickets.id"), index=True)
    topic: Mapped[str] = mapped_column(String(64))
    """Of the answer; the ticket's may be changed."""
    article_id: Mapped[str] = mapped_column(String(120))
    title: Mapped[str] = mapped_column(String(500))
    lang: Mapped[str] = mapped_column(String(8))
    text: Mapped[str] = mapped_column(Text)
    confidence: Mapped[float]
    version_id: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime]
    fate: Mapped[DraftFate | None]
    settled_at: Mapped[datetime | None]
    settled_by: Mapped[str] = mapped_column(String(200), default="")
