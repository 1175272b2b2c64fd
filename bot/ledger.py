"""The record of what came in and what is to go out.

A message is stored here before its platform is told that it arrived, once by (channel, account, external id).
A row of the outbox is work still to do: it is written in the transaction of the turn and deleted when the
message was sent, failed for good, or was discarded; what became of it stays in `Message.delivery`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import ForeignKey, Index, String, Text, UniqueConstraint, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import Mapped, mapped_column

from bot.channels.base import Address, InboundMessage, Option
from handoff.records import Author, Base, Conversation, Delivery, Message, Owner

Sessions = async_sessionmaker[AsyncSession]


class InboxState(StrEnum):
    PENDING = "pending"
    DONE = "done"
    FAILED = "failed"
    """The turn broke; a person got the conversation, with the error in `error`."""


class InboxRow(Base):
    __tablename__ = "inbox"
    __table_args__ = (
        UniqueConstraint("channel", "account", "external_id"),
        Index("ix_inbox_pending", "state", "channel", "account", "chat_id", "id"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    channel: Mapped[str] = mapped_column(String(32))
    account: Mapped[str] = mapped_column(String(64))
    chat_id: Mapped[str] = mapped_column(String(128))
    external_id: Mapped[str] = mapped_column(String(128))
    payload: Mapped[dict[str, Any]]
    """`InboundMessage` as JSON."""
    state: Mapped[InboxState] = mapped_column(default=InboxState.PENDING)
    error: Mapped[str | None] = mapped_column(Text)
    received_at: Mapped[datetime]
    done_at: Mapped[datetime | None]

    @property
    def address(self) -> Address:
        return Address(self.channel, self.account, self.chat_id)


class OutboxRow(Base):
    __tablename__ = "outbox"
    __table_args__ = (Index("ix_outbox_order", "conversation_id", "id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    conversation_id: Mapped[int] = mapped_column(ForeignKey("conversations.id"))
    message_id: Mapped[int] = mapped_column(ForeignKey("messages.id"))
    channel: Mapped[str] = mapped_column(String(32))
    guard_epoch: Mapped[int | None]
    """The ownership under which the reply was computed: sent only while it still holds. Empty: always sent."""
    attempts: Mapped[int] = mapped_column(default=0)
    parts_sent: Mapped[int] = mapped_column(default=0)
    """A long reply goes out in parts; a retry goes on where it stopped."""
    due_at: Mapped[datetime]


async def receive(sessions: Sessions, message: InboundMessage, *, now: datetime) -> bool:
    """Store a message durably; False when it was there already. Commits before it returns."""
    row = InboxRow(
        channel=message.address.channel,
        account=message.address.account,
        chat_id=message.address.chat_id,
        external_id=message.external_id,
        payload=_storable(message.to_json()),
        state=InboxState.PENDING,
        received_at=now,
    )
    try:
        async with sessions.begin() as session:
            session.add(row)
    except IntegrityError:
        return False
    return True


def _storable(value: Any) -> Any:
    """Without what no database stores: NUL characters and lone surrogates become U+FFFD."""
    if isinstance(value, str):
        return value.replace("\x00", "\ufffd").encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, dict):
        return {_storable(key): _storable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_storable(item) for item in value]
    return value


async def waiting_addresses(session: AsyncSession, channels: Collection[str]) -> list[Address]:
    """Conversations of these channels with messages not yet answered, the longest waiting first."""
    rows = await session.execute(
        select(InboxRow.channel, InboxRow.account, InboxRow.chat_id)
        .where(InboxRow.state == InboxState.PENDING, InboxRow.channel.in_(channels))
        .group_by(InboxRow.channel, InboxRow.account, InboxRow.chat_id)
        .order_by(func.min(InboxRow.id))
    )
    return [Address(*row) for row in rows]


async def next_waiting(session: AsyncSession, address: Address) -> InboxRow | None:
    """The oldest message of this conversation that was not answered yet."""
    row: InboxRow | None = await session.scalar(
        select(InboxRow)
        .where(
            InboxRow.state == InboxState.PENDING,
            InboxRow.channel == address.channel,
            InboxRow.account == address.account,
            InboxRow.chat_id == address.chat_id,
        )
        .order_by(InboxRow.id)
        .limit(1)
    )
    return row


async def assistant_owns(session: AsyncSession, address: Address) -> bool:
    """Whether the assistant answers this conversation; a new one is its own."""
    owner = await session.scalar(
        select(Conversation.owner).where(
            Conversation.channel == address.channel,
            Conversation.account == address.account,
            Conversation.chat_id == address.chat_id,
        )
    )
    return owner is not Owner.PERSON


async def say(
    session: AsyncSession,
    conversation: Conversation,
    text: str,
    *,
    options: Sequence[Option] = (),
    decision: dict[str, Any] | None = None,
    guarded: bool,
    now: datetime,
) -> Message:
    """Write a message of the assistant into the transcript and queue it. guarded: discard it at sending if the
    ownership has changed by then (an answer), or send it whatever happens (an announcement)."""
    message = Message(
        conversation_id=conversation.id,
        author=Author.ASSISTANT,
        text=text,
        options=[{"token": option.token, "label": option.label} for option in options],
        decision=decision,
        sent_at=now,
        created_at=now,
    )
    session.add(message)
    await session.flush()
    await queue(session, conversation, message, guarded=guarded, now=now)
    return message


async def queue(
    session: AsyncSession, conversation: Conversation, message: Message, *, guarded: bool, now: datetime
) -> None:
    """Put a message of the transcript into the outbox."""
    message.delivery = Delivery.QUEUED
    session.add(
        OutboxRow(
            conversation_id=conversation.id,
            message_id=message.id,
            channel=conversation.channel,
            guard_epoch=conversation.epoch if guarded else None,
            due_at=now,
        )
    )
    await session.flush()


async def due_conversations(session: AsyncSession, channels: Collection[str], *, now: datetime) -> list[int]:
    """Conversations whose oldest unsent message may go out now. A later message never overtakes it."""
    oldest = (
        select(func.min(OutboxRow.id))
        .where(OutboxRow.channel.in_(channels))
        .group_by(OutboxRow.conversation_id)
        .scalar_subquery()
    )
    rows = await session.scalars(
        select(OutboxRow.conversation_id)
        .where(OutboxRow.id.in_(oldest), OutboxRow.due_at <= now)
        .order_by(OutboxRow.id)
    )
    return list(rows)


async def next_outgoing(session: AsyncSession, conversation_id: int) -> OutboxRow | None:
    row: OutboxRow | None = await session.scalar(
        select(OutboxRow).where(OutboxRow.conversation_id == conversation_id).order_by(OutboxRow.id).limit(1)
    )
    return row
