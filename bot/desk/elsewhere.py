"""What a person answers past the desk, from the company's own phone: the assistant is silent, for a while.

Works inside the caller's transaction and never commits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from bot.desk.joining import a_person_spoke
from bot.desk.silence import Silence
from bot.desk.survey import Survey
from bot.timers import cancel_timer, set_timer
from handoff import desk
from handoff.answered import answers
from handoff.history import SYSTEM
from handoff.lifecycle import TicketStatus
from handoff.records import Conversation, Message, Reason, Ticket
from handoff.routing import route
from handoff.tickets import Tickets

ELSEWHERE = "elsewhere"
"""Kind of the timers that end what a person answered past the desk."""
ELSEWHERE_FOR = timedelta(hours=12)


class Elsewhere:
    def __init__(self, *, tickets: Tickets, survey: Survey, silence: Silence, clock: Callable[[], datetime]) -> None:
        self._tickets = tickets
        self._survey = survey
        self._silence = silence
        self._clock = clock

    async def answered(self, session: AsyncSession, conversation: Conversation, message: Message) -> None:
        """A person answered past the desk: the assistant is silent from now on."""
        now, agent = self._clock(), message.agent_name or SYSTEM
        ticket = await desk.open_ticket(session, conversation.id)
        if ticket is None:
            texts = await desk.customer_texts(session, conversation.id, now=now)
            chosen = route(self._tickets.topics, None, texts)
            ticket = await self._tickets.hand_off(
                session, conversation, reason=Reason.ANSWERED_ELSEWHERE, route=chosen, texts=texts, now=now
            )
        await self._tickets.replied(session, ticket, message, agent=agent, now=now)
        await self._survey.stop(session, ticket)
        await a_person_spoke(session, ticket)
        if ticket.reason is Reason.ANSWERED_ELSEWHERE:
            await set_timer(session, _key(ticket), ELSEWHERE, now + ELSEWHERE_FOR, {"ticket_id": ticket.id})
        else:
            await self._silence.begin(session, ticket, message.created_at)

    async def stop(self, session: AsyncSession, ticket: Ticket) -> None:
        """An agent has answered at the desk."""
        if ticket.reason is Reason.ANSWERED_ELSEWHERE:
            await cancel_timer(session, _key(ticket))

    async def fire(self, session: AsyncSession, payload: Mapping[str, Any], now: datetime) -> None:
        """Nobody went on with what was answered past the desk: the assistant has the customer again. Where an agent has
        the ticket, the customer is waited for as after any reply."""
        ticket = await desk.get_ticket(session, int(payload["ticket_id"]))
        await desk.lock_conversation(session, ticket.conversation_id)
        await session.refresh(ticket)
        if ticket.status is not TicketStatus.WAITING:
            return
        if ticket.assignee_id is None:
            await self._tickets.close(session, ticket, why="answered elsewhere", agent=SYSTEM, now=now)
        elif replies := (await answers(session, [ticket.id])).get(ticket.id):
            await self._silence.begin(session, ticket, replies[-1].created_at)


def _key(ticket: Ticket) -> str:
    return f"elsewhere:{ticket.id}"
