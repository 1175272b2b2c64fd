"""The tables of the gaps: what the assistant did not settle, in groups, and what was done about it; labels given."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import ForeignKey, Index, LargeBinary, String, Text, false
from sqlalchemy.orm import Mapped, mapped_column

from handoff.records import Base, BigId


class Ended(StrEnum):
    """How it ended for a customer's question."""

    UNANSWERED = "unanswered"
    """He was asked to say it otherwise."""
    CLARIFIED = "clarified"
    """He was asked what he means."""
    REJECTED = "rejected"
    """He was answered, and said that it did not help."""
    HANDED_OFF = "handed_off"
    BY_INTENT = "by_intent"
    """Handed off as its intent says."""
    ANSWERED = "answered"
    """No gap: the model was not sure of it, so that a label would teach much."""


class GapState(StrEnum):
    OPEN = "open"
    SETTLED = "settled"
    JOINED = "joined"
    """It is part of another now."""


class Settlement(StrEnum):
    """What an editor did about a group."""

    ARTICLE = "article"
    """Made an article for it."""
    EXAMPLES = "examples"
    """Gave its messages to an intent."""
    QUESTION = "question"
    """Gave its messages to an article, as questions that it answers."""
    OUT_OF_SCOPE = "out_of_scope"
    DISMISSED = "dismissed"


TEACHING = frozenset({Settlement.ARTICLE, Settlement.EXAMPLES, Settlement.QUESTION})
"""After these the assistant should answer: messages that still come are worth a look."""


class Gap(Base):
    """Messages that mean the same, and that nobody has dealt with yet, or what was decided about them."""

    __tablename__ = "gaps"
    __table_args__ = (Index("ix_gaps_state", "state"),)

    id: Mapped[BigId] = mapped_column(primary_key=True)
    title: Mapped[str] = mapped_column(String(200), default="")
    """As an editor named it, or else its most typical message."""
    named: Mapped[bool] = mapped_column(default=False, server_default=false())
    """An editor did."""
    state: Mapped[GapState] = mapped_column(default=GapState.OPEN)
    held: Mapped[bool] = mapped_column(default=False, server_default=false())
    """An editor has shaped it: the grouping puts messages into it, and takes none out."""
    settlement: Mapped[Settlement | None]
    settled_at: Mapped[datetime | None]
    settled_by: Mapped[str | None] = mapped_column(String(200))
    details: Mapped[dict[str, Any]] = mapped_column(default=dict, server_default="{}")
    """Of the settlement: `article_id`, `intent`, `reason`, `examples` (how many)."""
    joined_into_id: Mapped[BigId | None] = mapped_column(ForeignKey("gaps.id"))
    created_at: Mapped[datetime]


class Question(Base):
    """What a customer asked, masked, and how it ended. The message itself stays in the transcript."""

    __tablename__ = "gap_questions"
    __table_args__ = (
        Index("ix_gap_questions_gap", "gap_id", "at"),
        Index("ix_gap_questions_doubt", "doubt"),
        Index("ix_gap_questions_conversation", "conversation_id"),
    )

    id: Mapped[BigId] = mapped_column(primary_key=True)
    message_id: Mapped[BigId] = mapped_column(ForeignKey("messages.id"), unique=True)
    conversation_id: Mapped[BigId] = mapped_column(ForeignKey("conversations.id"))
    ended: Mapped[Ended]
    text: Mapped[str] = mapped_column(Text)
    lang: Mapped[str] = mapped_column(String(8))
    intent: Mapped[str | None] = mapped_column(String(120))
    confidence: Mapped[float | None]
    article_id: Mapped[str | None] = mapped_column(String(120))
    """What the search found first."""
    article_confidence: Mapped[float | None]
    at: Mapped[datetime]
    gap_id: Mapped[BigId | None] = mapped_column(ForeignKey("gaps.id"))
    placed: Mapped[bool] = mapped_column(default=False, server_default=false())
    """An editor put it where it is."""
    doubt: Mapped[float | None]
    """0..1: how much a label of it would teach; None: no label is asked for."""
    disagree: Mapped[bool] = mapped_column(default=False, server_default=false())
    """Intent and search point to different articles."""
    flow: Mapped[str | None] = mapped_column(String(64))
    """The flow that asked something and could not use this as the answer."""
    step: Mapped[str | None] = mapped_column(String(64))
    vector: Mapped[bytes | None] = mapped_column(LargeBinary)
    """float16, as `encoder` gave it."""
    encoder: Mapped[str | None] = mapped_column(String(16))
    """The beginning of the encoder's fingerprint."""


class GapAct(Base):
    """One thing that an editor did to a group, with all that it takes to undo it."""

    __tablename__ = "gap_acts"
    __table_args__ = (Index("ix_gap_acts_gap", "gap_id", "id"),)

    id: Mapped[BigId] = mapped_column(primary_key=True)
    gap_id: Mapped[BigId] = mapped_column(ForeignKey("gaps.id"))
    act: Mapped[str] = mapped_column(String(32))
    """A `Settlement`, or `join`, `split`, `rename`, `reopen`."""
    by: Mapped[str] = mapped_column(String(200))
    at: Mapped[datetime]
    before: Mapped[dict[str, Any]] = mapped_column(default=dict)
    undone_at: Mapped[datetime | None]
    undone_by: Mapped[str | None] = mapped_column(String(200))


class GapScan(Base):
    """How far the transcripts have been read. One row."""

    __tablename__ = "gap_scan"

    id: Mapped[int] = mapped_column(primary_key=True)
    message_id: Mapped[BigId] = mapped_column(default=0)
    grouped_at: Mapped[datetime | None]
    """When everything was last grouped anew."""


class Label(Base):
    """An editor's word on one item of the review. The newest that was not undone counts."""

    __tablename__ = "review_labels"
    __table_args__ = (Index("ix_review_labels_item", "item"),)

    id: Mapped[BigId] = mapped_column(primary_key=True)
    item: Mapped[str] = mapped_column(String(80))
    """`question:ID`, `ticket:ID` or `example:HASH`."""
    choice: Mapped[str] = mapped_column(String(120))
    """An intent, or `skip`, `keep`, `remove`."""
    by: Mapped[str] = mapped_column(String(200))
    at: Mapped[datetime]
    before: Mapped[dict[str, Any]] = mapped_column(default=dict)
    undone_at: Mapped[datetime | None]
