"""What agents do to messages that stand in the conversation: change their own, put an emoji under the customer's.

Works inside the caller's transaction and never commits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from bot import ledger
from bot.channels.base import Capabilities, OutboundAttachment, OutboundMessage, fit
from bot.errors import EditRefusedError
from handoff import desk
from handoff.errors import TicketStateError
from handoff.lifecycle import LIVE
from handoff.records import NOTE, TEMPLATE, Author, Conversation, Delivery, Message


class Edits:
    def __init__(self, *, clock: Callable[[], datetime], capabilities: Mapping[str, Capabilities]) -> None:
        self._clock = clock
        self._capabilities = capabilities

    async def edit(self, session: AsyncSession, ticket_id: int, message_id: int, text: str, *, agent: str) -> Message:
        """Change what an agent wrote: before it has gone out in any channel, afterwards where the platform can.

        What it said before stays in the transcript. Raises EditRefusedError, which says why not.
        """
        ticket = await desk.get_ticket(session, ticket_id)
        conversation = await desk.lock_conversation(session, ticket.conversation_id)
        message = await session.get(Message, message_id, populate_existing=True)
        if message is None or message.conversation_id != conversation.id or message.author is not Author.AGENT:
            raise EditRefusedError(f"message {message_id} is not one of an agent's in ticket {ticket_id}")
        if message.kind in (NOTE, TEMPLATE, "reaction") or (not text.strip() and not message.attachments):
            raise EditRefusedError("only messages to the customer can be changed, and not into nothing")
        if message.text == text:
            return message
        waiting = await session.scalar(
            select(ledger.OutboxRow).where(
                ledger.OutboxRow.message_id == message.id, ledger.OutboxRow.is_edit.is_(False)
            )
        )
        unsent = (message.delivery is Delivery.HELD and not message.parts_sent) or (
            waiting is not None and waiting.claimed_at is None and not waiting.parts_sent
        )
        if not unsent:
            self._check_edit(conversation, message, text)
            edits = await session.scalar(
                select(ledger.OutboxRow.id).where(
                    ledger.OutboxRow.message_id == message.id,
                    ledger.OutboxRow.is_edit,
                    ledger.OutboxRow.claimed_at.is_(None),
                )
            )
            if edits is None:
                await ledger.queue(session, conversation, message, guarded=False, now=self._clock(), is_edit=True)
        message.edits = [*message.edits, {"text": message.text, "at": self._clock().isoformat(), "by": agent}]
        message.text, message.changed_at = text, self._clock()
        await session.flush()
        return message

    async def react(
        self, session: AsyncSession, ticket_id: int, message_id: int, emoji: str, *, agent: str
    ) -> Message | None:
        """Put an emoji under what the customer wrote; empty: take it back. None where his platform has no such thing,
        and for what is not his. Raises TicketStateError when the ticket has ended."""
        ticket, now = await desk.get_ticket(session, ticket_id), self._clock()
        await desk.lock_ticket(session, ticket)
        conversation = await desk.lock_conversation(session, ticket.conversation_id)
        if ticket.status not in LIVE:
            raise TicketStateError(ticket.id, ticket.status, "answered")
        target = await session.get(Message, message_id)
        capabilities = self._capabilities.get(conversation.channel)
        if (
            target is None
            or target.conversation_id != conversation.id
            or target.author is not Author.CUSTOMER
            or not target.external_id
            or capabilities is None
            or not capabilities.reactions
        ):
            return None
        message = Message(
            conversation_id=conversation.id,
            author=Author.AGENT,
            agent_name=agent,
            kind="reaction",
            text=emoji,
            reply_to_id=target.id,
            sent_at=now,
            created_at=now,
        )
        session.add(message)
        await session.flush()
        await ledger.queue(session, conversation, message, guarded=False, now=now)
        return message

    def _check_edit(self, conversation: Conversation, message: Message, text: str) -> None:
        """Raises EditRefusedError for a sent message that can't be changed in its channel."""
        capabilities = self._capabilities.get(conversation.channel)
        if capabilities is None or not capabilities.edits:
            raise EditRefusedError(
                f"{conversation.channel} does not let a message be changed once it is sent: send a correction"
            )
        if message.delivery not in (Delivery.SENT, Delivery.DELIVERED, Delivery.READ) or not message.external_id:
            raise EditRefusedError(f"the message is {message.delivery or 'nowhere'}: it can be changed once it is sent")
        files = tuple(
            OutboundAttachment(file.kind, Path(), file.file_name or "", file.mime_type or "", file.size_bytes or 0)
            for file in message.attachments
        )
        if any(len(fit(OutboundMessage(each, attachments=files), capabilities)) > 1 for each in (message.text, text)):
            raise EditRefusedError("the message went out, or would go out, in several parts: send a correction")
