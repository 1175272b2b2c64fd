"""What happens to conversations and tickets, whichever desk or channel asks for it.

Every function works inside the caller's transaction and never commits. Whatever changes an owner first locks the
conversation's row, so that two changes at once happen one after the other, each seeing what the other did.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession

from handoff.errors import ConversationNotFoundError, OwnershipError, TicketNotFoundError, TicketStateError
from handoff.hours import WorkingHours
from handoff.records import (
    NOTE,
    Attachment,
    Author,
    Conversation,
    Message,
    Owner,
    Reason,
    Ticket,
    TicketStatus,
)
from handoff.routing import Route
from handoff.window import closes_at

SUBJECT_CHARS = 120


async def open_conversation(
    session: AsyncSession, *, channel: str, account: str, chat_id: str, now: datetime
) -> Conversation:
    """The conversation of this customer in this channel, locked; a new one belongs to the assistant."""
    query = (
        select(Conversation)
        .where(Conversation.channel == channel, Conversation.account == account, Conversation.chat_id == chat_id)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    found: Conversation | None = await session.scalar(query)
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
    return (await session.scalars(query)).one()


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


async def open_ticket(session: AsyncSession, conversation_id: int) -> Ticket | None:
    """The ticket that a person is working on in this conversation, if there is one."""
    ticket: Ticket | None = await session.scalar(
        select(Ticket).where(Ticket.conversation_id == conversation_id, Ticket.status == TicketStatus.OPEN)
    )
    return ticket


async def hand_off(
    session: AsyncSession,
    conversation: Conversation,
    *,
    reason: Reason,
    route: Route,
    subject: str,
    hours: WorkingHours,
    now: datetime,
) -> Ticket:
    """Make the ticket and give the conversation to people. The change of owner begins a new epoch, so that a
    reply computed before it can be told from one computed after.

    Raises OwnershipError when a person already has the conversation.
    """
    conversation = await lock_conversation(session, conversation.id)
    if conversation.owner is Owner.PERSON:
        raise OwnershipError(conversation.id, conversation.owner)
    subject = " ".join(subject.split()) or route.topic.title_in(conversation.lang or "en")
    ticket = Ticket(
        conversation_id=conversation.id,
        status=TicketStatus.OPEN,
        reason=reason,
        topic=route.topic.id,
        topic_confidence=route.confidence,
        runner_up=route.runner_up,
        runner_up_confidence=route.runner_up_confidence,
        routed_by=route.by,
        team=route.topic.team,
        level=route.topic.level,
        priority=route.topic.priority,
        lang=conversation.lang or "ru",
        subject=subject if len(subject) <= SUBJECT_CHARS else subject[: SUBJECT_CHARS - 1].rstrip() + "…",
        promised_at=hours.promise(now, route.topic.expected_minutes),
        created_at=now,
    )
    session.add(ticket)
    conversation.owner = Owner.PERSON
    conversation.epoch += 1
    conversation.updated_at = now
    await session.flush()
    return ticket


async def list_tickets(
    session: AsyncSession, *, status: TicketStatus | None = None, limit: int = 100
) -> Sequence[Ticket]:
    """Tickets, the one that waits longest first."""
    query = select(Ticket).order_by(Ticket.status, Ticket.created_at, Ticket.id).limit(limit)
    if status is not None:
        query = query.where(Ticket.status == status)
    return (await session.scalars(query)).all()


async def get_ticket(session: AsyncSession, ticket_id: int) -> Ticket:
    ticket = await session.get(Ticket, ticket_id)
    if ticket is None:
        raise TicketNotFoundError(ticket_id)
    return ticket


async def reply(session: AsyncSession, ticket: Ticket, text: str, *, agent_name: str, now: datetime) -> Message:
    """Write an agent's message into the conversation. Sending it is the ledger's work.

    Raises TicketStateError when the ticket is no longer open: the conversation is the assistant's again.
    """
    _, ticket = await _lock_ticket(session, ticket)
    if ticket.status is not TicketStatus.OPEN:
        raise TicketStateError(ticket.id, ticket.status, "answered")
    message = Message(
        conversation_id=ticket.conversation_id,
        author=Author.AGENT,
        agent_name=agent_name,
        text=text,
        sent_at=now,
        created_at=now,
    )
    session.add(message)
    await session.flush()
    return message


async def resolve(session: AsyncSession, ticket: Ticket, *, now: datetime) -> Conversation:
    """End the ticket and give the conversation back to the assistant, who starts anew: nothing of the ended
    episode is remembered."""
    conversation, ticket = await _lock_ticket(session, ticket)
    if ticket.status is not TicketStatus.OPEN:
        raise TicketStateError(ticket.id, ticket.status, "resolved")
    ticket.status = TicketStatus.RESOLVED
    ticket.resolved_at = now
    conversation.owner = Owner.ASSISTANT
    conversation.epoch += 1
    conversation.state = {"greeted": True}
    conversation.updated_at = now
    return conversation


async def _lock_ticket(session: AsyncSession, ticket: Ticket) -> tuple[Conversation, Ticket]:
    """Lock the ticket's conversation; the ticket as it is then."""
    conversation = await lock_conversation(session, ticket.conversation_id)
    query = select(Ticket).where(Ticket.id == ticket.id).execution_options(populate_existing=True)
    return conversation, (await session.scalars(query)).one()


@dataclass(frozen=True)
class Packet:
    """All that a person needs to go on: what `otvet tickets show` prints and a desk shows."""

    ticket: Ticket
    conversation: Conversation
    messages: Sequence[Message]
    window_closes_at: datetime | None = None
    """Until when the customer may be written to freely; None where there is no such limit."""

    def as_json(self) -> dict[str, Any]:
        ticket, conversation = self.ticket, self.conversation
        return {
            "ticket_id": ticket.id,
            "status": ticket.status,
            "reason": ticket.reason,
            "topic": ticket.topic,
            "topic_confidence": ticket.topic_confidence,
            "runner_up": ticket.runner_up,
            "runner_up_confidence": ticket.runner_up_confidence,
            "routed_by": ticket.routed_by,
            "team": ticket.team,
            "level": ticket.level,
            "priority": ticket.priority,
            "lang": ticket.lang,
            "subject": ticket.subject,
            "created_at": ticket.created_at.isoformat(),
            "promised_at": ticket.promised_at.isoformat(),
            "resolved_at": ticket.resolved_at.isoformat() if ticket.resolved_at else None,
            "conversation": {
                "id": conversation.id,
                "channel": conversation.channel,
                "account": conversation.account,
                "chat_id": conversation.chat_id,
                "customer_name": conversation.customer_name,
                "lang": conversation.lang,
                "owner": conversation.owner,
                "epoch": conversation.epoch,
                "window_closes_at": self.window_closes_at.isoformat() if self.window_closes_at else None,
            },
            "transcript": [_message_json(message) for message in self.messages],
        }


async def packet(session: AsyncSession, ticket_id: int) -> Packet:
    ticket = await get_ticket(session, ticket_id)
    conversation = await get_conversation(session, ticket.conversation_id)
    closing = await closes_at(
        session, channel=conversation.channel, account=conversation.account, chat_id=conversation.chat_id
    )
    return Packet(ticket, conversation, await transcript(session, conversation.id), closing)


def _message_json(message: Message) -> dict[str, Any]:
    return {
        "id": message.id,
        "at": message.sent_at.isoformat(),
        "author": message.author,
        "agent_name": message.agent_name,
        "kind": message.kind,
        "text": message.text,
        "options": message.options,
        "decision": message.decision,
        "delivery": message.delivery,
        "delivery_error": message.delivery_error,
        "edits": message.edits,
        "deleted_at": message.deleted_at.isoformat() if message.deleted_at else None,
        "attachments": [_attachment_json(attachment) for attachment in message.attachments],
    }


def _attachment_json(attachment: Attachment) -> dict[str, Any]:
    return {
        "kind": attachment.kind,
        "state": attachment.state,
        "file_name": attachment.file_name,
        "mime_type": attachment.mime_type,
        "size_bytes": attachment.size_bytes,
        "sha256": attachment.sha256,
        "source": attachment.source,
    }
