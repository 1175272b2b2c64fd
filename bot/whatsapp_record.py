"""What Meta told us, exactly as it came, and what follows from it in the ledger.

A webhook is stored in its own bytes before anything is made of it, so that nothing is lost that we do not understand
today. Each message in it then goes into the ledger by itself. Meta sends a webhook again for up to seven days until
it is answered with 200, which happens when all of it was taken.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

import structlog
from sqlalchemy import Index, LargeBinary, String, Text, UniqueConstraint, delete, func, or_, select, text, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column

from bot.channels.base import Address, InboundMessage
from bot.channels.whatsapp_errors import delivery_error
from bot.channels.whatsapp_updates import (
    CHANNEL,
    UNKNOWN,
    AccountNews,
    Event,
    NumberChange,
    Receipt,
    Received,
    TemplateChange,
    parse,
)
from bot.errors import WindowClosedError
from bot.ledger import InboxRow, InboxState, Sessions, address_of
from bot.message_templates import note_template
from bot.timers import Fire, set_timer
from bot.uploads import KEPT, UploadRow
from bot.window import Windows
from handoff.records import Author, Base, Conversation, Delivery, Message
from handoff.window import Window

log = structlog.get_logger()


class WebhookState(StrEnum):
    PENDING = "pending"
    """Stored, and not all of it taken yet."""
    DONE = "done"


class WebhookRow(Base):
    """One call of a platform."""

    __tablename__ = "webhooks"
    __table_args__ = (
        UniqueConstraint("channel", "digest"),
        Index(
            "ix_webhooks_pending",
            "id",
            sqlite_where=text("state = 'pending'"),
            postgresql_where=text("state = 'pending'"),
        ),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    channel: Mapped[str] = mapped_column(String(32))
    digest: Mapped[str] = mapped_column(String(64))
    """SHA-256 of the body, as hexadecimal digits."""
    body: Mapped[bytes] = mapped_column(LargeBinary)
    state: Mapped[WebhookState] = mapped_column(default=WebhookState.PENDING)
    error: Mapped[str | None] = mapped_column(Text)
    received_at: Mapped[datetime]


class AliasRow(Base):
    """Under which conversation a customer's number or business-scoped id is known."""

    __tablename__ = "customer_aliases"
    __table_args__ = (UniqueConstraint("channel", "account", "alias"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    channel: Mapped[str] = mapped_column(String(32))
    account: Mapped[str] = mapped_column(String(64))
    alias: Mapped[str] = mapped_column(String(128))
    chat_id: Mapped[str] = mapped_column(String(128))


OnFailed = Callable[[AsyncSession, Message, str], Awaitable[None]]
"""What follows when the platform took a message and reports later that it did not arrive, and why."""

OPENING_KINDS = frozenset({"text", "start", "choice", "attachment", "unsupported"})
"""What counts as the customer's message for the window."""


class WhatsAppRecord:
    """Takes webhooks in. Safe to use from several processes at once."""

    def __init__(
        self,
        *,
        sessions: Sessions,
        receive: Callable[[InboundMessage], Awaitable[bool]],
        windows: Windows,
        on_failed: OnFailed,
        accounts: Collection[str],
        clock: Callable[[], datetime],
    ) -> None:
        """accounts: ids of our numbers; a webhook about another number is kept, and nobody answers it."""
        self._sessions = sessions
        self._receive = receive
        self._windows = windows
        self._on_failed = on_failed
        self._accounts = frozenset(accounts)
        self._clock = clock

    async def take(self, body: bytes) -> bool:
        """Store a webhook and act on all that it says; False for one that was taken before.

        Raises whatever the database raises: Meta sends it again then, and what was done already is not done twice.
        """
        digest = hashlib.sha256(body).hexdigest()
        if not await self._store(digest, body):
            return False
        error = None
        try:
            events = parse(_read(body), now=self._clock())
        except (ValueError, RecursionError) as fault:
            events, error = [], f"not JSON: {type(fault).__name__}"
        for event in events:
            await self._act(event)
        async with self._sessions.begin() as session:
            await session.execute(
                update(WebhookRow)
                .where(WebhookRow.channel == CHANNEL, WebhookRow.digest == digest)
                .values(state=WebhookState.DONE, error=error)
            )
        return True

    async def _store(self, digest: str, body: bytes) -> bool:
        row = WebhookRow(
            channel=CHANNEL, digest=digest, body=body, state=WebhookState.PENDING, received_at=self._clock()
        )
        try:
            async with self._sessions.begin() as session:
                session.add(row)
            return True
        except IntegrityError:
            async with self._sessions.begin() as session:
                state = await session.scalar(
                    select(WebhookRow.state).where(WebhookRow.channel == CHANNEL, WebhookRow.digest == digest)
                )
            return state is WebhookState.PENDING

    async def _act(self, event: Event) -> None:
        match event:
            case Received():
                if event.message.address.account not in self._accounts:
                    log.warning("whatsapp.foreign_number", account=event.message.address.account)
                    return
                async with self._sessions.begin() as session:
                    if await _was_erased(session, event.message):
                        log.info("whatsapp.repeat_of_erased")
                        return
                    address = await resolve(session, event)
                    if event.message.kind in OPENING_KINDS:  # before anybody can answer it
                        await self._windows.opened(session, address, event.message.sent_at)
                await self._receive(replace(event.message, address=address))
            case Receipt():
                async with self._sessions.begin() as session:
                    await note_receipt(session, event, self._windows, self._on_failed)
            case NumberChange():
                async with self._sessions.begin() as session:
                    await move(session, event, self._windows)
            case TemplateChange():
                async with self._sessions.begin() as session:
                    await note_template(session, event, now=self._clock())
            case AccountNews():
                level = log.warning if event.important else log.info
                level("whatsapp.news", what=event.event, detail=event.detail)


def erased_id(external_id: str) -> str:
    """What an erased message is still known by. Meta's id of it holds the customer's number and a random part, so that
    the digest can't be traced back."""
    return f"erased:{hashlib.sha256(external_id.encode()).hexdigest()}"


async def _was_erased(session: AsyncSession, message: InboundMessage) -> bool:
    known = select(InboxRow.id).where(
        InboxRow.channel == CHANNEL,
        InboxRow.account == message.address.account,
        InboxRow.external_id == erased_id(message.external_id),
    )
    return await session.scalar(known) is not None


def _read(body: bytes) -> Any:
    """The JSON without what no database stores: NaN, NUL characters and lone surrogates."""
    payload = json.loads(body.replace(b"\\u0000", b"\\ufffd"), parse_constant=lambda _: None)
    return json.loads(json.dumps(payload, ensure_ascii=False).encode("utf-8", "replace"))


async def resolve(session: AsyncSession, received: Received) -> Address:
    """The conversation of this customer. Whoever is known by one id and comes with another keeps it; both are
    remembered."""
    address = received.message.address
    ids = [known for known in (received.wa_id, received.user_id) if known]
    if not ids:
        return replace(address, chat_id=UNKNOWN)
    rows = await session.execute(
        select(AliasRow.alias, AliasRow.chat_id).where(
            AliasRow.channel == CHANNEL, AliasRow.account == address.account, AliasRow.alias.in_(ids)
        )
    )
    known = {row.alias: row.chat_id for row in rows}
    chat_id = next((known[alias] for alias in ids if alias in known), ids[0])
    insert = postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
    for alias in ids:
        if alias not in known:  # another process may have learnt it meanwhile
            row = {"channel": CHANNEL, "account": address.account, "alias": alias, "chat_id": chat_id}
            await session.execute(insert(AliasRow).values(row).on_conflict_do_nothing())
    return replace(address, chat_id=chat_id)


async def move(session: AsyncSession, change: NumberChange, windows: Windows) -> None:
    """Go on with the conversation under the new number. Where there is one under it already, both stay."""
    known = await session.scalar(
        select(AliasRow.chat_id).where(
            AliasRow.channel == CHANNEL, AliasRow.account == change.account, AliasRow.alias == change.old
        )
    )
    old = known or change.old
    taken = await session.scalar(
        select(func.count(AliasRow.id)).where(
            AliasRow.channel == CHANNEL, AliasRow.account == change.account, AliasRow.alias == change.new
        )
    )
    if taken:
        log.info("whatsapp.number_known_already")
        return
    waiting = await session.scalars(
        select(InboxRow).where(
            InboxRow.channel == CHANNEL,
            InboxRow.account == change.account,
            InboxRow.chat_id == old,
            InboxRow.state == InboxState.PENDING,
        )
    )
    for row in waiting.all():
        row.chat_id = change.new
        row.payload = {**row.payload, "address": {**row.payload["address"], "chat_id": change.new}}
    for table in (Conversation, AliasRow, Window):
        await session.execute(
            update(table)
            .where(table.channel == CHANNEL, table.account == change.account, table.chat_id == old)
            .values(chat_id=change.new)
        )
    await windows.follow(session, Address(CHANNEL, change.account, old), Address(CHANNEL, change.account, change.new))
    await session.execute(
        update(AliasRow)
        .where(AliasRow.channel == CHANNEL, AliasRow.account == change.account, AliasRow.alias == change.old)
        .values(alias=change.new)  # the old number may be given to somebody else
    )
    log.info("whatsapp.number_changed")


async def note_receipt(session: AsyncSession, receipt: Receipt, windows: Windows, on_failed: OnFailed) -> None:
    """Write what became of our message into the transcript. What comes late or twice never takes back more."""
    message = await _message_of(session, receipt)
    if message is None:
        log.info("whatsapp.receipt_unmatched", state=receipt.state)
        return
    if receipt.state == "failed":
        if message.delivery in (Delivery.FAILED, Delivery.HELD):
            return
        problem = delivery_error(receipt.error_code, receipt.error)
        log.warning("whatsapp.failed", message=message.id, code=receipt.error_code)
        conversation = await session.get_one(Conversation, message.conversation_id)
        message.delivery, message.delivery_error = Delivery.FAILED, str(problem)
        if isinstance(problem, WindowClosedError):
            await windows.shut(session, address_of(conversation))
            await windows.hold(session, message.id)
        else:
            await on_failed(session, message, str(problem))
        return
    step = _STEPS.get(receipt.state)
    if step is not None and message.delivery in _STEPS_BEFORE[step]:
        message.delivery = step


_STEPS = {"delivered": Delivery.DELIVERED, "read": Delivery.READ}
_STEPS_BEFORE = {
    Delivery.DELIVERED: (Delivery.SENDING, Delivery.SENT),
    Delivery.READ: (Delivery.SENDING, Delivery.SENT, Delivery.DELIVERED),
}


async def _message_of(session: AsyncSession, receipt: Receipt) -> Message | None:
    """Ours by Meta's id, or by our own, which went with it: a status may be here before its call has answered."""
    ours = Conversation.channel == CHANNEL, Conversation.account == receipt.account
    query = select(Message).join(Conversation, Conversation.id == Message.conversation_id).where(*ours)
    query = query.where(Message.author != Author.CUSTOMER).limit(1)
    found: Message | None = await session.scalar(query.where(Message.external_id == receipt.external_id))
    if found is None and receipt.message_id is not None:
        known = [name for name in (receipt.chat_id, receipt.user_id) if name]
        chats = select(AliasRow.chat_id).where(
            AliasRow.channel == CHANNEL, AliasRow.account == receipt.account, AliasRow.alias.in_(known)
        )
        mine = or_(Conversation.chat_id.in_(known), Conversation.chat_id.in_(chats))
        found = await session.scalar(query.where(Message.id == receipt.message_id, mine))
    return found


PRUNE = "channels.prune"
PRUNE_BATCH = 1000


DIGESTS_KEPT = timedelta(days=400)
"""How long a repeated call is known as one, though its body is forgotten."""


def pruning(keep: timedelta) -> Fire:
    """The standing timer PRUNE: forget the bodies of calls that were taken in whole so long ago, and old uploads.

    The payload holds the row up to which that is done: `after`.
    """

    async def prune(session: AsyncSession, payload: Mapping[str, Any], now: datetime) -> None:
        after = int(payload.get("after", 0))
        found = await session.execute(
            select(WebhookRow.id, WebhookRow.state)
            .where(WebhookRow.id > after, WebhookRow.received_at < now - keep)
            .order_by(WebhookRow.id)
            .limit(PRUNE_BATCH)
        )
        rows = found.all()
        done = [row.id for row in rows if row.state is WebhookState.DONE]
        await session.execute(update(WebhookRow).where(WebhookRow.id.in_(done)).values(body=b""))
        oldest = await session.execute(
            select(WebhookRow.id, WebhookRow.received_at).order_by(WebhookRow.id).limit(PRUNE_BATCH)
        )
        forgotten = [row.id for row in oldest if row.received_at < now - DIGESTS_KEPT]
        await session.execute(delete(WebhookRow).where(WebhookRow.id.in_(forgotten)))
        await session.execute(delete(UploadRow).where(UploadRow.uploaded_at < now - KEPT))
        more = len(rows) == PRUNE_BATCH
        at = now + (timedelta(seconds=1) if more else timedelta(hours=1))
        await set_timer(session, PRUNE, PRUNE, at, {"after": rows[-1].id if rows else after})

    return prune


async def stuck_webhooks(session: AsyncSession, *, before: datetime) -> int:
    """How many were stored before this moment and could not be taken whole."""
    return (
        await session.scalar(
            select(func.count(WebhookRow.id)).where(
                WebhookRow.state == WebhookState.PENDING, WebhookRow.received_at < before
            )
        )
        or 0
    )
