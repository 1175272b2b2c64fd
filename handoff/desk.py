"""What happens to conversations and tickets, whichever desk or channel asks for it.

Every function works inside the caller's transaction and never commits. Whatever changes an owner first locks the
conversation's row, so that two changes at once happen one after the other, each seeing what the other did.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import BindParameter, bindparam, inspect, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import SessionTransaction

from handoff.clocks import ClockKind
from handoff.errors import ConversationNotFoundError, TicketNotFoundError
from handoff.lifecycle import LIVE
from handoff.outcomes import EPISODE_GAP
from handoff.records import (
    NOTE,
    Author,
    Base,
    ClockRow,
    Conversation,
    Customer,
    Message,
    Owner,
    Ticket,
)

AT_ONCE = 500
"""How many rows are asked for by their ids in one statement."""


# What every act asks for is made once: it takes as long as the asking.
_WANTED: BindParameter[int] = bindparam("wanted", expanding=True)
_OF_ADDRESS = (
    select(Conversation)
    .where(
        Conversation.channel == bindparam("channel"),
        Conversation.account == bindparam("account"),
        Conversation.chat_id == bindparam("chat_id"),
    )
    .with_for_update()
    .execution_options(populate_existing=True)
)
_LOCK_ONE = (
    select(Conversation)
    .where(Conversation.id == bindparam("wanted"))
    .with_for_update()
    .execution_options(populate_existing=True)
)
_LOCK = (
    select(Conversation.id)
    .where(Conversation.id.in_(select(Ticket.conversation_id).where(Ticket.id.in_(_WANTED))))
    .order_by(Conversation.id)
    .with_for_update()
)
_TICKETS = select(Ticket).where(Ticket.id.in_(_WANTED)).execution_options(populate_existing=True)
_CLOCKS = select(ClockRow).where(ClockRow.ticket_id.in_(_WANTED)).execution_options(populate_existing=True)
_LIVE_TICKET = select(Ticket).where(Ticket.conversation_id == bindparam("wanted"), Ticket.status.in_(LIVE))


@dataclass
class Held:
    """What a transaction has locked and read since: until its end nobody else changes it, so that it need not be read
    again. Of a savepoint it is the savepoint's own, because its locks go with it."""

    transaction: SessionTransaction
    locked: set[int] = field(default_factory=set)
    """Ids of conversations."""
    conversations: dict[int, Conversation] = field(default_factory=dict)
    tickets: dict[int, Ticket] = field(default_factory=dict)
    clocks: dict[int, dict[ClockKind, ClockRow]] = field(default_factory=dict)
    """Ticket → all that it has."""
    history: list[dict[str, Any]] | None = None
    """What happened, while it is gathered to be written at once."""


def held(session: AsyncSession) -> Held:
    """To be asked only within a transaction, that is after a statement."""
    inner = session.sync_session
    transaction = inner.get_nested_transaction() or inner.get_transaction()
    assert transaction is not None  # noqa: S101
    known: Held | None = inner.info.get(Held)
    if known is None or known.transaction is not transaction:
        known = inner.info[Held] = Held(transaction)
    return known


def _fresh(row: Base) -> bool:
    """Whether it is as it was read; the end of a savepoint makes the session forget."""
    return not inspect(row).expired


async def open_conversation(
    session: AsyncSession, *, channel: str, account: str, chat_id: str, now: datetime
) -> Conversation:
    """The conversation of this customer in this channel, locked; a new one belongs to the assistant."""
    address = {"channel": channel, "account": account, "chat_id": chat_id}
    found: Conversation | None = await session.scalar(_OF_ADDRESS, address)
    if found is None:
        insert = postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
        made = insert(Conversation).values(
            channel=channel,
            account=account,
            chat_id=chat_id,
            owner=Owner.ASSISTANT,
            epoch=0,
            state={},
            created_at=now,
            updated_at=now,
        )
        found = await session.scalar(made.on_conflict_do_nothing().returning(Conversation))
    if found is None:
        # Two processes opened the same one at once; both get the one that is made.
        found = (await session.scalars(_OF_ADDRESS, address)).one()
    _hold(session, found)
    return found


async def lock_conversation(session: AsyncSession, conversation_id: int) -> Conversation:
    """The conversation as it is now; nobody else changes it before this transaction ends."""
    known = held(session).conversations.get(conversation_id) if session.in_transaction() else None
    if known is not None and _fresh(known):
        return known
    conversation: Conversation | None = await session.scalar(_LOCK_ONE, {"wanted": conversation_id})
    if conversation is None:
        raise ConversationNotFoundError(conversation_id)
    _hold(session, conversation)
    return conversation


def _hold(session: AsyncSession, conversation: Conversation) -> None:
    ours = held(session)
    ours.locked.add(conversation.id)
    ours.conversations[conversation.id] = conversation


async def lock_ticket(session: AsyncSession, ticket: Ticket) -> None:
    """Lock its conversation, and bring the ticket to what it is now."""
    while not (session.in_transaction() and _is_held(held(session), ticket)):
        await lock_conversation(session, ticket.conversation_id)
        await session.refresh(ticket)
        held(session).tickets[ticket.id] = ticket  # unless it went on in another one, while the lock was waited for


def _is_held(ours: Held, ticket: Ticket) -> bool:
    return ours.tickets.get(ticket.id) is ticket and _fresh(ticket) and ticket.conversation_id in ours.locked


async def lock_tickets(session: AsyncSession, ticket_ids: Iterable[int], *, clocks: bool = False) -> Held:
    """Lock the conversations of many tickets in a few statements, always in the order of their ids, and read the
    tickets as they are now. clocks: theirs too."""
    wanted = list(dict.fromkeys(ticket_ids))
    if not session.in_transaction():
        await session.connection()
    ours = held(session)
    unknown = [each for each in wanted if not ((known := ours.tickets.get(each)) and _is_held(ours, known))]
    for ids in parts(unknown):
        ours.locked |= set(await session.scalars(_LOCK, {"wanted": ids}))
        for ticket in (await session.scalars(_TICKETS, {"wanted": ids})).all():
            ours.tickets[ticket.id] = ticket
            await lock_ticket(session, ticket)
    for ids in parts([each for each in wanted if each not in ours.clocks] if clocks else ()):
        ours.clocks |= {each: {} for each in ids}
        for row in await session.scalars(_CLOCKS, {"wanted": ids}):
            ours.clocks[row.ticket_id][row.kind] = row
    return ours


def parts(ids: Sequence[int]) -> Iterator[Sequence[int]]:
    """So many that one statement takes them."""
    return (ids[first : first + AT_ONCE] for first in range(0, len(ids), AT_ONCE))


async def clocks_of(session: AsyncSession, ticket: Ticket) -> dict[ClockKind, ClockRow]:
    """A ticket's clocks, and from now on the place of new ones. Its conversation is locked."""
    ours = held(session)
    known = ours.clocks.get(ticket.id)
    if known is None or not all(map(_fresh, known.values())):
        known = {row.kind: row for row in await session.scalars(_CLOCKS, {"wanted": [ticket.id]})}
        if ticket.conversation_id in ours.locked:
            ours.clocks[ticket.id] = known
    return known


async def customer_of(session: AsyncSession, conversation: Conversation, now: datetime) -> Customer:
    """Who writes in a conversation; from now on there is somebody."""
    if conversation.customer_id is not None:
        return await session.get_one(Customer, conversation.customer_id)
    customer = Customer(name=conversation.customer_name, note="", created_at=now)
    session.add(customer)
    await session.flush()
    conversation.customer_id = customer.id
    return customer


async def get_conversation(session: AsyncSession, conversation_id: int) -> Conversation:
    conversation = await session.get(Conversation, conversation_id)
    if conversation is None:
        raise ConversationNotFoundError(conversation_id)
    return conversation


async def transcript(
    session: AsyncSession, conversation_id: int, *, after_id: int = 0, notes: bool = True
) -> Sequence[Message]:
    """The messages of a conversation in the order of writing. notes: with what is meant for agents alone."""
    query = select(Message).where(Message.conversation_id == conversation_id, Message.id > after_id)
    if not notes:
        query = query.where(Message.kind != NOTE)
    rows = await session.scalars(query.order_by(Message.id).execution_options(populate_existing=True))
    return rows.all()


async def note(
    session: AsyncSession,
    conversation_id: int,
    text: str,
    *,
    agent_name: str | None = None,
    about: dict[str, Any] | None = None,
    now: datetime,
) -> Message:
    """Write what agents alone see: an agent's own note, or the program's when `agent_name` is not given.

    about: what it is about, for programs. The conversation is locked, as for all that is said in it: its messages are
    committed in the order of their ids.
    """
    await lock_conversation(session, conversation_id)
    message = Message(
        conversation_id=conversation_id,
        author=Author.AGENT if agent_name else Author.SYSTEM,
        agent_name=agent_name,
        kind=NOTE,
        text=text,
        decision=about,
        sent_at=now,
        created_at=now,
    )
    session.add(message)
    await session.flush()
    return message


async def customer_texts(session: AsyncSession, conversation_id: int, *, now: datetime) -> list[str]:
    """What the customer has said in this episode by `now`, newest first: since the last resolved ticket, and since he
    was last silent for a day."""
    since = await session.scalar(
        select(Ticket.resolved_at)
        .where(Ticket.conversation_id == conversation_id, Ticket.resolved_at.is_not(None))
        .order_by(Ticket.resolved_at.desc())
        .limit(1)
    )
    query = select(Message.text, Message.created_at).where(
        Message.conversation_id == conversation_id,
        Message.author == Author.CUSTOMER,
        Message.text != "",
        Message.created_at <= now,
    )
    if since is not None:
        query = query.where(Message.created_at > since)
    rows = (await session.execute(query.order_by(Message.id.desc()).limit(20))).all()
    begin = began_at((row.created_at for row in rows), now)
    return [row.text for row in rows if row.created_at >= begin]


def began_at(spoken: Iterable[datetime], now: datetime) -> datetime:
    """Since when the customer has not been silent for a day. spoken: when he said something, the newest first."""
    for at in spoken:
        if now - at > EPISODE_GAP:
            break
        now = min(now, at)
    return now


async def customer_message(session: AsyncSession, conversation_id: int, external_id: str | None) -> Message | None:
    """What the customer wrote, by the platform's id of it."""
    if external_id is None:
        return None
    found: Message | None = await session.scalar(
        select(Message).where(
            Message.external_id == external_id,
            Message.conversation_id == conversation_id,
            Message.author == Author.CUSTOMER,
        )
    )
    return found


async def message_by_external_id(
    session: AsyncSession, conversation_id: int, external_id: str | None
) -> Message | None:
    """What anybody wrote in this conversation, by the platform's id of it."""
    if external_id is None:
        return None
    found: Message | None = await session.scalar(
        select(Message)
        .where(Message.external_id == external_id, Message.conversation_id == conversation_id, Message.kind != NOTE)
        .order_by(Message.id.desc())
        .limit(1)
    )
    return found


async def open_ticket(session: AsyncSession, conversation_id: int) -> Ticket | None:
    """The ticket that a person is working on in this conversation, if there is one."""
    ticket: Ticket | None = await session.scalar(_LIVE_TICKET, {"wanted": conversation_id})
    return ticket


async def list_tickets(session: AsyncSession, *, live: bool = False, limit: int = 100) -> Sequence[Ticket]:
    """Tickets, the one that waits longest first. live: without the ended ones."""
    query = select(Ticket).order_by(Ticket.created_at, Ticket.id).limit(limit)
    if live:
        query = query.where(Ticket.status.in_(LIVE))
    return (await session.scalars(query)).all()


async def get_ticket(session: AsyncSession, ticket_id: int) -> Ticket:
    ticket = await session.get(Ticket, ticket_id)
    if ticket is None:
        raise TicketNotFoundError(ticket_id)
    return ticket
