"""Replies that can be taken back for a while: what becomes of one when it goes out.

Works inside the caller's transaction and never commits.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from bot.attachments import StoredFile
from bot.desk.agent_desk import AgentDesk
from bot.desk.records import Outgoing, OutgoingState
from bot.errors import FileRefusedError
from handoff.desk import get_conversation
from handoff.errors import HandoffError
from handoff.records import NOTE, Author, Message, Ticket

OUTGOING = "desk_reply"
"""Kind of the timers that send what can be taken back no more."""


def timer_key(outgoing: Outgoing) -> str:
    return f"{OUTGOING}:{outgoing.id}"


async def send_outgoing(desk: AgentDesk, session: AsyncSession, outgoing: Outgoing) -> None:
    """Give a reply to the outbox, and do what is to follow it. A ticket that has ended meanwhile refuses it; its text
    stays with the ticket as a note, so that nothing is lost."""
    try:
        async with session.begin_nested():
            message = await desk.reply(
                session,
                outgoing.ticket_id,
                outgoing.text,
                agent=outgoing.agent_name,
                template=outgoing.template,
                quote=outgoing.quote_id,
                files=[StoredFile(**file) for file in outgoing.files],
            )
            if await _spoke_meanwhile(session, outgoing):
                # What he says now is answered by no reply that was written before, and nothing ends over it.
                await desk.tickets.customer_wrote(
                    session, await get_conversation(session, message.conversation_id), now=message.created_at
                )
            elif outgoing.then == "finish":
                await desk.finish(session, outgoing.ticket_id, agent=outgoing.agent_name)
            elif outgoing.then == "resolve":
                await desk.resolve(session, outgoing.ticket_id, agent=outgoing.agent_name)
        outgoing.message_id, outgoing.state = message.id, OutgoingState.SENT
    except (HandoffError, FileRefusedError) as error:
        outgoing.state, outgoing.error = OutgoingState.REFUSED, str(error)
        note = f"✗ {outgoing.text}\n\n{error}"
        await desk.note(session, outgoing.ticket_id, note, agent=outgoing.agent_name, calling=False)
    await session.flush()


async def _spoke_meanwhile(session: AsyncSession, outgoing: Outgoing) -> bool:
    """Whether the customer said something after the reply was written, while it could be taken back."""
    found = await session.scalar(
        select(Message.id)
        .join(Ticket, Ticket.conversation_id == Message.conversation_id)
        .where(
            Ticket.id == outgoing.ticket_id,
            Message.author == Author.CUSTOMER,
            Message.kind.not_in([NOTE, "reaction", "edit", "deletion"]),
            Message.created_at > outgoing.created_at,
        )
        .limit(1)
    )
    return found is not None


async def fire_outgoing(desk: AgentDesk, session: AsyncSession, payload: Mapping[str, Any], _now: datetime) -> None:
    """The timer: what was not taken back goes out."""
    outgoing: Outgoing | None = await session.scalar(
        select(Outgoing).where(Outgoing.id == int(payload["outgoing_id"])).with_for_update()
    )
    if outgoing is not None and outgoing.state is OutgoingState.WAITING:
        await send_outgoing(desk, session, outgoing)
