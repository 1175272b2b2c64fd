"""What was said in a turn, as the transcript keeps it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from bot.attachments import Fetched
from bot.channels.base import InboundMessage
from bot.dialogue import DialogueState
from bot.gathering import JOINABLE, WITHDRAWN
from bot.ledger import Incoming
from bot.turn.utterance import AUTHORS, STARTS_FLOW
from handoff import desk
from handoff.customers import Customers
from handoff.records import NOTE, Attachment, Author, Conversation, Message

MAX_NAME_CHARS = 200


class Transcript:
    """Works inside the caller's transaction and never commits."""

    def __init__(self, customers: Customers, clock: Callable[[], datetime]) -> None:
        """customers: learn from it who wrote."""
        self._customers = customers
        self._clock = clock

    async def record(
        self,
        session: AsyncSession,
        conversation: Conversation,
        rows: Sequence[Incoming],
        utterance: Sequence[InboundMessage],
        fetched: Sequence[Fetched],
        record: Mapping[str, Any] | None,
    ) -> Message:
        """Write what the customer said into the transcript, each message by itself. record: of the last one, which is
        returned."""
        now = self._clock()
        options = DialogueState.from_json(conversation.state).options
        for row, inbound, files in zip(rows, utterance, fetched, strict=True):
            if inbound.sender_name:
                conversation.customer_name = inbound.sender_name[:MAX_NAME_CHARS]
            quoted = await desk.message_by_external_id(session, conversation.id, inbound.refers_to)
            message = Message(
                conversation_id=conversation.id,
                author=AUTHORS.get(inbound.kind, Author.CUSTOMER),
                agent_name=inbound.address.channel if inbound.kind == "echo" else None,
                kind=_kept_kind(inbound),
                text=str(inbound.context.get("note") or "") or inbound.text or options.get(inbound.choice or "") or "",
                reply_to_id=quoted.id if quoted else None,
                context=dict(inbound.context) or None,
                external_id=(inbound.platform_id or row.external_id)[:128],
                decision=dict(record) if record is not None and row is rows[-1] else None,
                sent_at=inbound.sent_at,
                created_at=now,
                attachments=[
                    Attachment(
                        kind=item.kind,
                        state=item.state,
                        file_name=item.file_name and item.file_name[:255],
                        mime_type=item.mime_type and item.mime_type[:127],
                        size_bytes=item.size_bytes,
                        sha256=item.sha256,
                        source=dict(item.source),
                    )
                    for item in files
                ],
            )
            session.add(message)
        own = [inbound for inbound in utterance if inbound.kind != "echo"]
        await self._customers.learn(
            session,
            conversation,
            phone=next((inbound.phone for inbound in reversed(own) if inbound.phone), None),
            texts=[inbound.text for inbound in own if inbound.kind in JOINABLE],
            now=now,
        )
        return message

    async def amend(
        self, session: AsyncSession, conversation: Conversation, row: Incoming, inbound: InboundMessage
    ) -> None:
        """Change what the customer edited or took back, in the transcript. What was said before stays with it."""
        message = await desk.customer_message(session, conversation.id, inbound.refers_to)
        if message is None:
            # Written before this program knew the customer: all that is left to show is the new text.
            if inbound.kind == "edit":
                await self.record(session, conversation, [row], [inbound], [()], None)
        elif inbound.kind == "deletion":
            message.deleted_at, message.changed_at = inbound.sent_at, self._clock()
        elif message.text != inbound.text:
            message.edits = [*message.edits, {"text": message.text, "at": inbound.sent_at.isoformat()}]
            message.text, message.changed_at = inbound.text, self._clock()


def _kept_kind(inbound: InboundMessage) -> str:
    if inbound.kind == WITHDRAWN:
        return "attachment" if inbound.attachments else "text"
    return {"echo": "text", STARTS_FLOW: NOTE}.get(inbound.kind, inbound.kind)
