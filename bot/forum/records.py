"""The tables of the Telegram desk: which topic is which ticket's, what stands in it, what came from there, and who is
who."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, String, Text, UniqueConstraint, false, true
from sqlalchemy.orm import Mapped, mapped_column

from handoff.records import Base, BigId

INTAKE = "forum.in"
"""Kind of the errands that do what came from a topic."""


class ForumTopic(Base):
    """A ticket and its topic in a group."""

    __tablename__ = "forum_topics"
    __table_args__ = (
        Index("ix_forum_topics_lane", "group_id", "watched"),
        Index("ix_forum_topics_thread", "group_id", "thread_id"),
    )

    ticket_id: Mapped[BigId] = mapped_column(ForeignKey("tickets.id"), primary_key=True)
    group_id: Mapped[BigId]
    thread_id: Mapped[BigId | None]
    """Telegram's id of the topic; none while it is to be made, for the first time or anew."""
    left: Mapped[list[Any]] = mapped_column(default=list, server_default="[]")
    """Topics that it had before: [[group, thread]]."""
    title: Mapped[str] = mapped_column(String(128), default="", server_default="")
    icon: Mapped[str] = mapped_column(String(64), default="", server_default="")
    """As they stand there."""
    closed: Mapped[bool] = mapped_column(default=False, server_default=false())
    opened: Mapped[bool] = mapped_column(default=False, server_default=false())
    """The packet stands in it."""
    card_live: Mapped[bool] = mapped_column(default=True, server_default=true())
    """Whether the packet's buttons are those of a live ticket."""
    seen_id: Mapped[BigId] = mapped_column(default=0, server_default="0")
    """The last message of the transcript that is told there, or needs no telling."""
    seen_entry_id: Mapped[BigId] = mapped_column(default=0, server_default="0")
    """The same of the history."""
    calling: Mapped[bool] = mapped_column(default=False, server_default=false())
    """Set while Telegram is called for it. Found set: a process died, and what it did may stand there twice."""
    repeats: Mapped[int] = mapped_column(default=0, server_default="0")
    """How often something was done again without knowing whether it had been done."""
    watched: Mapped[bool] = mapped_column(default=True, server_default=true())
    """False once the ticket has ended and all of it is told."""


class ForumPost(Base):
    """A message in a topic, whoever wrote it."""

    __tablename__ = "forum_posts"
    __table_args__ = (UniqueConstraint("group_id", "telegram_id"), Index("ix_forum_posts_ticket", "ticket_id", "id"))

    id: Mapped[BigId] = mapped_column(primary_key=True)
    ticket_id: Mapped[BigId] = mapped_column(ForeignKey("tickets.id"))
    group_id: Mapped[BigId]
    thread_id: Mapped[BigId]
    telegram_id: Mapped[BigId]
    kind: Mapped[str] = mapped_column(String(8))
    """`card` (the packet), `text`, `file` (its text is a caption), or `agent`: it was written there."""
    lines: Mapped[list[Any]] = mapped_column(default=list)
    """What it is made of, in order: {"message": id} or {"text": …}."""
    at: Mapped[datetime]


class ForumItem(Base):
    """That a message of the transcript stands in a post."""

    __tablename__ = "forum_items"
    __table_args__ = (Index("ix_forum_items_ticket", "ticket_id", "message_id"),)

    id: Mapped[BigId] = mapped_column(primary_key=True)
    ticket_id: Mapped[BigId] = mapped_column(ForeignKey("tickets.id"))
    post_id: Mapped[BigId] = mapped_column(ForeignKey("forum_posts.id"), index=True)
    message_id: Mapped[BigId] = mapped_column(ForeignKey("messages.id"), index=True)
    version: Mapped[int] = mapped_column(default=0)
    """How often it had been changed when it was put there."""


class ForumUpdate(Base):
    """Something that a person did in a group, as Telegram told it. Stored before it is confirmed, done once."""

    __tablename__ = "forum_updates"
    __table_args__ = (Index("ix_forum_updates_lane", "lane", "done_at", "id"),)

    id: Mapped[BigId] = mapped_column(primary_key=True)
    external_id: Mapped[str] = mapped_column(String(128), unique=True)
    lane: Mapped[str] = mapped_column(String(64))
    """`GROUP/THREAD`, within which the order is kept."""
    payload: Mapped[dict[str, Any]]
    received_at: Mapped[datetime]
    done_at: Mapped[datetime | None] = mapped_column(index=True)


class ForumWord(Base):
    """What the assistant has to say to agents by itself: why something was not done, a menu, help."""

    __tablename__ = "forum_words"
    __table_args__ = (Index("ix_forum_words_group", "group_id", "id"),)

    id: Mapped[BigId] = mapped_column(primary_key=True)
    group_id: Mapped[BigId]
    thread_id: Mapped[BigId | None]
    """None: in the group's general topic."""
    reply_to: Mapped[BigId | None]
    text: Mapped[str] = mapped_column(Text)
    buttons: Mapped[list[Any]] = mapped_column(default=list)
    """Rows of [label, data]."""
    created_at: Mapped[datetime]


class ForumPerson(Base):
    """Whose account somebody in Telegram has."""

    __tablename__ = "forum_people"

    telegram_id: Mapped[BigId] = mapped_column(primary_key=True, autoincrement=False)
    account_id: Mapped[int] = mapped_column(ForeignKey("accounts.id"), unique=True)
    name: Mapped[str] = mapped_column(String(200))
    """As Telegram tells it."""
    linked_at: Mapped[datetime]


class ForumCode(Base):
    """A word by which somebody in Telegram proves to be an account's owner, once."""

    __tablename__ = "forum_codes"

    code_hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    account_id: Mapped[int] = mapped_column(ForeignKey("accounts.id"), index=True)
    expires_at: Mapped[datetime]
