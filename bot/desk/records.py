"""The tables of the web desk: who signs in, what he did, and what he is about to send."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import ForeignKey, Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from handoff.access import Role
from handoff.records import Agent, Base, BigId


class Account(Base):
    """How an agent signs in to the web desk."""

    __tablename__ = "accounts"

    id: Mapped[int] = mapped_column(primary_key=True)
    agent_id: Mapped[int] = mapped_column(ForeignKey("agents.id"), unique=True)
    login: Mapped[str] = mapped_column(String(254), unique=True)
    """In lower case."""
    password_hash: Mapped[str] = mapped_column(String(255))
    """argon2id, with its parameters."""
    role: Mapped[Role]
    lang: Mapped[str] = mapped_column(String(8))
    theme: Mapped[str] = mapped_column(String(8), default="auto")
    """`auto`, `light` or `dark`."""
    undo_seconds: Mapped[int] = mapped_column(default=5)
    """How long a reply waits before it goes out; 0: not at all."""
    active: Mapped[bool] = mapped_column(default=True)
    created_at: Mapped[datetime]

    agent: Mapped[Agent] = relationship(lazy="joined")


class SignIn(Base):
    """A session in a browser. Its token is known to the browser alone."""

    __tablename__ = "sign_ins"

    id: Mapped[BigId] = mapped_column(primary_key=True)
    token_hash: Mapped[str] = mapped_column(String(64), unique=True)
    account_id: Mapped[int] = mapped_column(ForeignKey("accounts.id"), index=True)
    browser: Mapped[str] = mapped_column(String(300))
    """Its User-Agent: a token that turns up in another browser was stolen."""
    address: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime]
    seen_at: Mapped[datetime]


class Invitation(Base):
    """A link by which one person makes an account, once."""

    __tablename__ = "invitations"

    id: Mapped[BigId] = mapped_column(primary_key=True)
    token_hash: Mapped[str] = mapped_column(String(64), unique=True)
    name: Mapped[str] = mapped_column(String(200))
    """Of the agent; empty: whoever comes says it."""
    role: Mapped[Role]
    teams: Mapped[list[Any]] = mapped_column(default=list)
    level: Mapped[str] = mapped_column(String(16), default="L1")
    langs: Mapped[list[Any]] = mapped_column(default=list)
    invited_by: Mapped[str] = mapped_column(String(200))
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    used_at: Mapped[datetime | None]


class AuditEntry(Base):
    """Who saw or did what. Never changed."""

    __tablename__ = "audit_log"
    __table_args__ = (Index("ix_audit_log_at", "at"), Index("ix_audit_log_ticket", "ticket_id", "id"))

    id: Mapped[BigId] = mapped_column(primary_key=True)
    at: Mapped[datetime]
    who: Mapped[str] = mapped_column(String(200))
    action: Mapped[str] = mapped_column(String(32))
    ticket_id: Mapped[BigId | None]
    details: Mapped[dict[str, Any]] = mapped_column(default=dict)
    address: Mapped[str] = mapped_column(String(64), default="")


class SavedView(Base):
    __tablename__ = "saved_views"

    id: Mapped[int] = mapped_column(primary_key=True)
    account_id: Mapped[int] = mapped_column(ForeignKey("accounts.id"), index=True)
    name: Mapped[str] = mapped_column(String(80))
    query: Mapped[str] = mapped_column(String(2000))
    """As in the address of the queue."""


class Macro(Base):
    """A text that is written often: a Jinja2 template of what is known about the ticket."""

    __tablename__ = "macros"

    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str] = mapped_column(String(120))
    body: Mapped[str] = mapped_column(Text)
    lang: Mapped[str] = mapped_column(String(8), default="")
    """Of the customers it is for; empty: any."""
    changed_by: Mapped[str] = mapped_column(String(200))
    changed_at: Mapped[datetime]


class OutgoingState(StrEnum):
    WAITING = "waiting"
    """It can be taken back."""
    SENT = "sent"
    TAKEN_BACK = "taken_back"
    REFUSED = "refused"
    """The ticket had ended by the time it was to go out."""


class Outgoing(Base):
    """A reply as the agent sent it off, once by its key, however often the form comes."""

    __tablename__ = "outgoing_replies"
    __table_args__ = (Index("ix_outgoing_replies_ticket", "ticket_id", "state"),)

    id: Mapped[BigId] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(String(64), unique=True)
    """Made by the page once per reply."""
    account_id: Mapped[int] = mapped_column(ForeignKey("accounts.id"))
    ticket_id: Mapped[BigId] = mapped_column(ForeignKey("tickets.id"))
    agent_name: Mapped[str] = mapped_column(String(200))
    text: Mapped[str] = mapped_column(Text)
    files: Mapped[list[Any]] = mapped_column(default=list)
    quote_id: Mapped[BigId | None]
    template: Mapped[str] = mapped_column(String(64), default="")
    then: Mapped[str] = mapped_column(String(16), default="")
    """What follows it: `finish`, `resolve` or nothing."""
    state: Mapped[OutgoingState]
    message_id: Mapped[BigId | None]
    error: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime]
    due_at: Mapped[datetime]
