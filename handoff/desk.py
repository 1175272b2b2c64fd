"""What happens to conversations and tickets, whichever desk or channel asks for it.

Every function works inside the caller's transaction and never commits. Whatever changes an owner first locks the
conversation's row, so that two changes at once happen one after the other, each seeing what the other did.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import bindparam, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession

from handoff.errors import ConversationNotFoundError, TicketNotFoundError
from handoff.lifecycle import LIVE
from handoff.records import (
    NOTE,
    Author,
    Conversation,
    Message,
    Owner,
    Ticket,
)

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
"""Made once, for every turn needs it."""


async def open_conversation(
    session: AsyncSession, *, channel: str, account: str, chat_id: str, now: datetime
) -> Conversation:
    """The conversation of this customer in this channel, locked; a new one belongs to the assistant."""
    address = {"channel": channel, "account": account, "chat_id": chat_id}
    found: Conversation | None = await session.scalar(_OF_ADDRESS, address)
    if found is not None:
        return found
    insert = postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
    # Two processes may open the same one at once; both get the one that is made.
    await session.execute(
        insert(Conversation)
        .values(
            channel=channel,
            account=account,
            chat_id=chat_id,
            owner=Owner.ASSISTANT,
            epoch=0,
            state={},
            created_at=now,
            updated_at=now,
        )
        .on_conflict_do_nothing()
    )
    return (await session.scalars(_OF_ADDRESS, address)).one()


async def lock_conversation(session: AsyncSession, conversation_id: int) -> Conversation:
    """The conversation as it is now; nobody else changes it before this transaction ends."""
    conversation: Conversation | None = await session.scalar(
        select(Conversation)
        .where(Conversation.id == conversation_id)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    if conversation is None:
        raise ConversationNotFoundError(conversation_id)
    return conversation


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

    about: what it is about, for programs.
    """
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


async def customer_texts(session: AsyncSession, conversation_id: int) -> list[str]:
    """What the customer said since the last resolved ticket, newest first."""
    since = await session.scalar(
        select(Ticket.resolved_at)
        .where(Ticket.conversation_id == conversation_id, Ticket.resolved_at.is_not(None))
        .order_by(Ticket.resolved_at.desc())
        .limit(1)
    )
    query = select(Message.text).where(
        Message.conversation_id == conversation_id, Message.author == Author.CUSTOMER, Message.text != ""
    )
    if since is not None:
        query = query.where(Message.created_at > since)
    return list(await session.scalars(query.order_by(Message.id.desc()).limit(20)))


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
    ticket: Ticket | None = await session.scalar(
        select(Ticket).where(Ticket.conversation_id == conversation_id, Ticket.status.in_(LIVE))
    )
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
