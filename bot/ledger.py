"""The record of what came in and what is to go out.

A message is stored here before its platform is told that it arrived, once by (channel, account, external id), and
in the same transaction the engine is told to look at its conversation.
A row of the outbox is work still to do: it is written in the transaction of the turn and deleted when the
message was sent, failed for good, or was discarded; what became of it stays in `Message.delivery`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from math import isfinite
from typing import Any

import structlog
from sqlalchemy import (
    ForeignKey,
    Index,
    String,
    Text,
    UniqueConstraint,
    bindparam,
    case,
    delete,
    false,
    func,
    inspect,
    literal_column,
    select,
    text,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column, raiseload, relationship

from bot.channels.base import Address, InboundMessage, Option
from bot.metrics import SENDS
from bot.timers import set_timer
from bot.work import Sessions as Sessions
from bot.work import enqueue
from handoff.outcomes import Step
from handoff.records import Attachment, Author, Base, BigId, Conversation, Delivery, Message

log = structlog.get_logger()


class InboxState(StrEnum):
    PENDING = "pending"
    DONE = "done"
    FAILED = "failed"
    """The turn broke; a person got the conversation, with the error in `error`."""


class InboxRow(Base):
    __tablename__ = "inbox"
    __table_args__ = (
        UniqueConstraint("channel", "account", "external_id"),
        # Of what waits alone: small whatever the number of stored messages.
        Index(
            "ix_inbox_pending",
            *("channel", "account", "chat_id", "id"),
            sqlite_where=text("state = 'pending'"),
            postgresql_where=text("state = 'pending'"),
        ),
        Index("ix_inbox_done", "done_at"),
    )

    id: Mapped[BigId] = mapped_column(primary_key=True)
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
    __table_args__ = (Index("ix_outbox_order", "conversation_id", "id"), Index("ix_outbox_due", "due_at"))

    id: Mapped[BigId] = mapped_column(primary_key=True)
    conversation_id: Mapped[BigId] = mapped_column(ForeignKey("conversations.id"))
    message_id: Mapped[BigId] = mapped_column(ForeignKey("messages.id"))
    channel: Mapped[str] = mapped_column(String(32))
    guard_epoch: Mapped[int | None]
    """The ownership under which the reply was computed: sent only while it still holds. Empty: always sent."""
    attempts: Mapped[int] = mapped_column(default=0)
    parts_sent: Mapped[int] = mapped_column(default=0)
    """A long reply goes out in parts; a retry goes on where it stopped."""
    claims: Mapped[int] = mapped_column(default=0, server_default="0")
    """How often a worker took it for sending. Only the last one may say what became of it."""
    claimed_at: Mapped[datetime | None]
    """Set while the platform is called. Found set by another worker: the first one died, or is taken for dead."""
    is_edit: Mapped[bool] = mapped_column(default=False, server_default=false())
    """The message was sent, and is to be changed to what it says now."""
    created_at: Mapped[datetime]
    due_at: Mapped[datetime]
    tried_at: Mapped[datetime | None]
    """When the platform refused it first."""
    message: Mapped[Message] = relationship(lazy="raise")


PENDING = InboxRow.state == literal_column("'pending'")
"""Written out, so that the index of what is pending is used however the statement is prepared."""


async def receive(sessions: Sessions, message: InboundMessage, *, now: datetime) -> bool:
    """Store a message durably; False when it was there already. Commits before it returns."""
    async with sessions.begin() as session:
        return await take_in(session, message, now=now)


async def take_in(session: AsyncSession, message: InboundMessage, *, now: datetime) -> bool:
    """The same within a transaction of the caller."""
    address = message.address
    insert = postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
    stored = await session.scalar(
        insert(InboxRow)
        .values(
            channel=address.channel,
            account=address.account,
            chat_id=address.chat_id,
            external_id=_short_id(message.external_id),
            payload=_storable(message.to_json()),
            state=InboxState.PENDING,
            received_at=now,
        )
        .on_conflict_do_nothing(index_elements=["channel", "account", "external_id"])
        .returning(InboxRow.id)
    )
    if stored is not None:
        await enqueue(session, address)
    return stored is not None


def _short_id(external_id: str) -> str:
    """As it is, or a digest of one that is longer than its column: whatever comes in can be stored."""
    external_id = _storable(external_id)
    return external_id if len(external_id) <= 128 else hashlib.sha256(external_id.encode()).hexdigest()


def _storable(value: Any) -> Any:
    """Without what no database stores: NUL characters, lone surrogates, numbers that are none."""
    if isinstance(value, str):
        return value.replace("\x00", "\ufffd").encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, float) and not isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {_storable(key): _storable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_storable(item) for item in value]
    return value


async def waiting(
    session: AsyncSession, channels: Collection[str], *, now: datetime, since: datetime | None = None
) -> list[Address]:
    """Conversations of these channels with something to do now, the longest waiting first: a message not yet
    answered, or a reply that may go out. since: only what has been waiting from before this moment."""
    pending = (
        select(InboxRow.channel, InboxRow.account, InboxRow.chat_id)
        .where(PENDING, InboxRow.channel.in_(channels))
        .group_by(InboxRow.channel, InboxRow.account, InboxRow.chat_id)
        .order_by(func.min(InboxRow.id))
    )
    # A later reply never overtakes the oldest unsent one, so that one's time counts.
    oldest = select(func.min(OutboxRow.id)).where(OutboxRow.channel.in_(channels)).group_by(OutboxRow.conversation_id)
    due = (
        select(Conversation.channel, Conversation.account, Conversation.chat_id)
        .join(OutboxRow, OutboxRow.conversation_id == Conversation.id)
        .where(OutboxRow.id.in_(oldest), OutboxRow.due_at <= (since or now))
        .order_by(OutboxRow.id)
    )
    if since is not None:
        pending = pending.where(InboxRow.received_at <= since)
    rows = [*await session.execute(pending), *await session.execute(due)]
    return list(dict.fromkeys(Address(*row) for row in rows))


@dataclass(frozen=True)
class Incoming:
    """A stored message that was not answered yet."""

    id: int
    address: Address
    external_id: str
    payload: Mapping[str, Any]
    """`InboundMessage` as JSON."""
    received_at: datetime


async def pending(session: AsyncSession, address: Address, *, limit: int = 50) -> list[Incoming]:
    """The messages of this conversation that were not answered yet, in the order of arrival."""
    rows = await session.execute(_PENDING, {**asdict(address), "limit": limit})
    return [Incoming(row.id, address, row.external_id, row.payload, row.received_at) for row in rows]


async def has_replies(session: AsyncSession, address: Address) -> bool:
    """Whether there is something to send, now or later."""
    return await session.scalar(_ANY_REPLY, asdict(address)) is not None


async def take(
    session: AsyncSession, rows: Sequence[Incoming], state: InboxState, *, now: datetime, error: str | None = None
) -> bool:
    """Mark messages as dealt with; False when another worker did it already, and nothing may be written then."""
    address = {f"of_{name}": value for name, value in asdict(rows[0].address).items()}
    values = {**address, "ids": [row.id for row in rows], "to": state, "now": now, "why": error}
    queued = (await session.scalars(_TAKE, values)).all()
    if queued and not any(queued):
        session.info[_QUEUED] = 0
    return len(queued) == len(rows)


async def say(
    session: AsyncSession,
    conversation: Conversation,
    text: str,
    *,
    options: Sequence[Option] = (),
    decision: dict[str, Any] | None = None,
    step: Step | None = None,
    topic: str | None = None,
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
        step=step,
        topic=topic,
        delivery=Delivery.QUEUED,
        sent_at=now,
        created_at=now,
    )
    session.add(message)
    await queue(session, conversation, message, guarded=guarded, now=now)
    return message


async def queue(
    session: AsyncSession,
    conversation: Conversation,
    message: Message,
    *,
    guarded: bool,
    now: datetime,
    is_edit: bool = False,
    parts_sent: int = 0,
) -> None:
    """Put a message of the transcript into the outbox, and have it sent after the commit. is_edit: it was sent
    already, and is changed where the customer sees it. parts_sent: so many of its parts were sent already. Where the
    customer was erased, nothing goes out."""
    if conversation.erased_at is not None:
        message.delivery = Delivery.DISCARDED
        return
    if not is_edit:
        message.delivery = Delivery.QUEUED
    session.add(
        OutboxRow(
            conversation_id=conversation.id,
            message=message,
            channel=conversation.channel,
            guard_epoch=conversation.epoch if guarded else None,
            is_edit=is_edit,
            parts_sent=parts_sent,
            created_at=now,
            due_at=now,
        )
    )
    if _QUEUED in session.info:
        session.info[_QUEUED] += 1
    await enqueue(session, address_of(conversation))


UNASKED = "unasked"
"""Action of a message that nobody waits for. It is never held: where it can't go out at once, it is given up."""


async def release_held(session: AsyncSession, conversation: Conversation, *, answers: bool, now: datetime) -> None:
    """Queue what was held for the customer, in the order in which it was written. answers: also those of
    the assistant; otherwise they are discarded, because they have been overtaken."""
    held = await session.scalars(
        select(Message)
        .where(Message.conversation_id == conversation.id, Message.delivery == Delivery.HELD)
        .order_by(Message.id)
    )
    for message in held.all():
        message.delivery_error = None
        decided = message.decision or {}
        action = decided.get("action")
        overtaken = not answers and action in ("answer", "clarify") and decided.get("reply") != "greeting"
        if overtaken or action == UNASKED:
            message.delivery = Delivery.DISCARDED
        else:
            sent, message.parts_sent = message.parts_sent, 0
            await queue(session, conversation, message, guarded=False, now=now, parts_sent=sent)


def address_of(conversation: Conversation) -> Address:
    return Address(conversation.channel, conversation.account, conversation.chat_id)


@dataclass(frozen=True)
class Claim:
    """A message that this worker alone may send now."""

    outbox_id: int
    number: int
    """Which claim of this row: a worker that was taken for dead has an older one."""
    conversation_id: int
    message: Message
    attachments: Sequence[Attachment]
    quote: str | None
    """The platform's id of the message that it answers."""
    is_edit: bool
    parts_sent: int
    attempts: int
    created_at: datetime
    tried_at: datetime | None = None
    """When the platform refused it first."""

    @property
    def key(self) -> dict[str, int]:
        return {"outbox": self.outbox_id, "number": self.number, "conversation": self.conversation_id}


async def claim_next(session: AsyncSession, address: Address, *, now: datetime) -> Claim | None:
    """Take the oldest unsent message for sending, once this transaction is committed. What was computed under an
    ownership that has passed is discarded on the way. None: there is nothing, or it has to wait."""
    while True:
        written = sorted((each for each in session.new if isinstance(each, OutboxRow)), key=_order_of_writing)
        row = None
        if session.info.pop(_QUEUED, None) != len(written):
            with session.no_autoflush:
                row = (await session.execute(_OLDEST_REPLY, asdict(address))).first()
        if row is None and written and (first := written[0]).due_at <= now and await _holds(session, first):
            # Written in this transaction, under the conversation's lock, and nothing before it: taken as it is made.
            first.claims, first.claimed_at, first.attempts = 1, now, 0
            first.message.delivery = Delivery.SENDING
            await session.flush()
            return Claim(
                outbox_id=first.id,
                number=1,
                conversation_id=first.conversation_id,
                message=first.message,
                attachments=(),
                quote=None,
                is_edit=False,
                parts_sent=first.parts_sent,
                attempts=0,
                created_at=first.created_at,
            )
        if written:
            await session.flush()
            continue
        if row is None or row.due_at > now:
            return None
        message = await session.get_one(Message, row.message_id, options=_NO_ATTACHMENTS)
        if row.guard_epoch is not None and row.guard_epoch != row.epoch:
            message.delivery = Delivery.DISCARDED
            if row.claimed_at is not None:
                message.delivery_error = "a process died while sending it: it may have arrived"
            SENDS.labels(address.channel, "discarded").inc()
            log.info("outbox.discarded", conversation=row.conversation_id, message=message.id)
            await session.execute(delete(OUTBOX).where(OUTBOX.c.id == row.id))
            await session.flush()
            continue
        if row.blocked_at is not None and not row.is_edit:
            message.delivery, message.delivery_error = Delivery.HELD, row.blocked_why
            message.parts_sent = row.parts_sent
            SENDS.labels(address.channel, "held").inc()
            await session.execute(delete(OUTBOX).where(OUTBOX.c.id == row.id))
            await session.flush()
            continue
        if row.claimed_at is not None and not row.is_edit:
            message.repeats += 1
            SENDS.labels(address.channel, "uncertain").inc()
            log.warning(
                "outbox.uncertain", conversation=row.conversation_id, message=message.id, repeats=message.repeats
            )
        if not row.is_edit:
            message.delivery = Delivery.SENDING
        await session.flush()
        files: Sequence[Attachment] = ()
        if message.kind == "attachment":
            found_files = select(Attachment).where(Attachment.message_id == message.id).order_by(Attachment.id)
            files = (await session.scalars(found_files)).all()
        quote = None
        if message.reply_to_id is not None:
            quote = await session.scalar(select(Message.external_id).where(Message.id == message.reply_to_id))
        number = row.claims + 1
        await session.execute(_CLAIM, {"outbox": row.id, "number": number, "now": now})
        return Claim(
            row.id,
            number,
            row.conversation_id,
            message,
            files,
            quote,
            row.is_edit,
            row.parts_sent,
            row.attempts,
            row.created_at,
            row.tried_at,
        )


def _order_of_writing(row: OutboxRow) -> int:
    return inspect(row).insert_order or 0


async def _holds(session: AsyncSession, row: OutboxRow) -> bool:
    """Whether a reply of the assistant is one that may go out at once."""
    if row.message.kind == "attachment" or row.message.reply_to_id is not None or row.is_edit:
        return False
    conversation = await session.get_one(Conversation, row.conversation_id)
    return conversation.blocked_at is None and row.guard_epoch in (None, conversation.epoch)


async def settle(
    session: AsyncSession,
    claim: Claim,
    delivery: Delivery,
    *,
    external_id: str | None = None,
    error: str | None = None,
) -> bool:
    """Record what became of a claimed message, for good. False when the claim has passed to another worker: then
    that one says what became of it, and nothing may be written. Of what is held it is kept how many parts went out."""
    sent = 0
    if delivery is Delivery.HELD:
        row = OutboxRow.id == claim.outbox_id, OutboxRow.claims == claim.number
        sent = await session.scalar(select(OutboxRow.parts_sent).where(*row)) or 0
    more = (await session.execute(_SETTLE, claim.key)).scalar()
    if more is None:
        return _fenced(claim)
    if not more:
        session.info[_QUEUED] = 0
    if claim.is_edit:
        await session.execute(update(Message).where(Message.id == claim.message.id).values(delivery_error=error))
        return True
    values = {"message": claim.message.id, "reached": delivery, "problem": error, "platform_id": external_id}
    await session.execute(_DELIVERED, values)
    if sent:
        await session.execute(update(Message).where(Message.id == claim.message.id).values(parts_sent=sent))
    return True


async def part_sent(session: AsyncSession, claim: Claim, parts_sent: int) -> bool:
    """Record that a part of a long message went out. False as in `settle`."""
    changed = await session.execute(
        update(OutboxRow)
        .where(OutboxRow.id == claim.outbox_id, OutboxRow.claims == claim.number)
        .values(parts_sent=parts_sent)
    )
    return bool(changed.rowcount) or _fenced(claim)  # type: ignore[attr-defined]


async def postpone(
    session: AsyncSession,
    claim: Claim,
    address: Address,
    *,
    attempts: int,
    error: str,
    due_at: datetime,
    refused_at: datetime | None = None,
) -> bool:
    """Give a claimed message back, to be sent at a later time. refused_at: the platform did, if it was asked. False
    as in `settle`."""
    values = {"tried": attempts, "nobody": None, "due": due_at, "since": claim.tried_at or refused_at}
    changed = await session.execute(_POSTPONE, {**claim.key, **values})
    if not changed.rowcount:  # type: ignore[attr-defined]
        return _fenced(claim)
    said = {"delivery_error": error} if claim.is_edit else {"delivery": Delivery.QUEUED, "delivery_error": error}
    await session.execute(update(Message).where(Message.id == claim.message.id).values(**said))
    await enqueue(session, address, at=due_at)
    return True


def _fenced(claim: Claim) -> bool:
    log.warning("outbox.fenced", conversation=claim.conversation_id, message=claim.message.id)
    return False


# Statements of every turn, made once: SQLAlchemy spends more time on making one than the database on its work.
_QUEUED = "queued"
"""In `session.info`: how many replies are queued in the conversation in hand, where that was seen under its lock. One
statement less for `claim_next`, as long as none of them was written to the database meanwhile."""
INBOX, OUTBOX, MESSAGES = (Base.metadata.tables[name] for name in ("inbox", "outbox", "messages"))
_NO_ATTACHMENTS = [raiseload(Message.attachments)]
_PENDING = (
    select(InboxRow.id, InboxRow.external_id, InboxRow.payload, InboxRow.received_at)
    .where(
        PENDING,
        InboxRow.channel == bindparam("channel"),
        InboxRow.account == bindparam("account"),
        InboxRow.chat_id == bindparam("chat_id"),
    )
    .order_by(InboxRow.id)
    .limit(bindparam("limit"))
)
_OF_THE_CONVERSATION = (
    Conversation.channel == bindparam("channel"),
    Conversation.account == bindparam("account"),
    Conversation.chat_id == bindparam("chat_id"),
)
_OTHERS = OUTBOX.alias()
# No subquery of a RETURNING has a join, or a column of the table that is changed: for SQLite, SQLAlchemy writes all
# columns in it without their tables.
_TAKE = (
    update(INBOX)
    .where(INBOX.c.id.in_(bindparam("ids", expanding=True)), INBOX.c.state == literal_column("'pending'"))
    .values(state=bindparam("to"), done_at=bindparam("now"), error=bindparam("why"))
    .returning(
        select(_OTHERS.c.id)
        .where(
            _OTHERS.c.conversation_id.in_(
                select(Conversation.id).where(
                    Conversation.channel == bindparam("of_channel"),
                    Conversation.account == bindparam("of_account"),
                    Conversation.chat_id == bindparam("of_chat_id"),
                )
            )
        )
        .exists()
    )
)
_ANY_REPLY = (
    select(OutboxRow.id)
    .join(Conversation, Conversation.id == OutboxRow.conversation_id)
    .where(*_OF_THE_CONVERSATION)
    .limit(1)
)
_OLDEST_REPLY = (
    select(*OUTBOX.c, Conversation.epoch, Conversation.blocked_at, Conversation.blocked_why)
    .join(Conversation, Conversation.id == OUTBOX.c.conversation_id)
    .where(*_OF_THE_CONVERSATION)
    .order_by(OUTBOX.c.id)
    .limit(1)
    .with_for_update(of=[Conversation, OUTBOX])
)
_CLAIM = (
    update(OUTBOX)
    .where(OUTBOX.c.id == bindparam("outbox"))
    .values(claims=bindparam("number"), claimed_at=bindparam("now"))
)
# The conversation is locked before any of its other rows, here as everywhere: two who lock one another's rows would
# wait for each other.
_CLAIMED = (
    OUTBOX.c.id == bindparam("outbox"),
    OUTBOX.c.claims == bindparam("number"),
    OUTBOX.c.conversation_id.in_(
        select(Conversation.id).where(Conversation.id == bindparam("conversation")).with_for_update()
    ),
)
_SETTLE = (
    delete(OUTBOX)
    .where(*_CLAIMED)
    .returning(
        select(_OTHERS.c.id)
        .where(_OTHERS.c.conversation_id == bindparam("conversation"), _OTHERS.c.id != bindparam("outbox"))
        .exists()
    )
)
_POSTPONE = (
    update(OUTBOX)
    .where(*_CLAIMED)
    .values(
        attempts=bindparam("tried"),
        tried_at=bindparam("since", type_=OUTBOX.c.tried_at.type),
        claimed_at=bindparam("nobody", type_=OUTBOX.c.claimed_at.type),
        due_at=bindparam("due"),
    )
)
# Where the platform has reported more meanwhile, that stays.
_REPORTED = MESSAGES.c.delivery.in_([Delivery.FAILED, Delivery.HELD, Delivery.DELIVERED, Delivery.READ])
_DELIVERED = (
    update(MESSAGES)
    .where(MESSAGES.c.id == bindparam("message"))
    .values(
        delivery=case((_REPORTED, MESSAGES.c.delivery), else_=bindparam("reached", type_=MESSAGES.c.delivery.type)),
        delivery_error=case((_REPORTED, MESSAGES.c.delivery_error), else_=bindparam("problem", type_=Text)),
        external_id=func.coalesce(bindparam("platform_id", type_=String), MESSAGES.c.external_id),
    )
)


KEPT = timedelta(days=30)
"""How long a message that was dealt with can still be told from a repeat. Platforms repeat for a week at most."""
PURGE = "ledger.purge"
PURGE_BATCH = 1000


async def purge(session: AsyncSession, _payload: Mapping[str, Any], now: datetime) -> None:
    """The standing timer PURGE: forget what came in long ago. The transcript keeps what was said."""
    old = select(InboxRow.id).where(InboxRow.done_at < now - KEPT).order_by(InboxRow.done_at).limit(PURGE_BATCH)
    gone = await session.execute(
        delete(InboxRow).where(InboxRow.id.in_(old)).execution_options(synchronize_session=False)
    )
    more = int(gone.rowcount) == PURGE_BATCH  # type: ignore[attr-defined]
    await set_timer(session, PURGE, PURGE, now + (timedelta(seconds=1) if more else timedelta(hours=1)))
