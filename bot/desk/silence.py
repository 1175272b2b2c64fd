"""Customers who say nothing more after an agent's reply: asked once whether it is settled, and let go in the end, so
that what they ask next meets the assistant."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import exists, select
from sqlalchemy.ext.asyncio import AsyncSession

from bot.desk.survey import Survey, still_asked
from bot.desk.words import Words
from bot.timers import set_timer
from handoff import desk
from handoff.answered import answers
from handoff.history import SYSTEM
from handoff.lifecycle import TicketStatus
from handoff.records import NOTE, Author, Message, Ticket
from handoff.tickets import Tickets
from handoff.window import MARGIN, closes_at

SILENCE = "silence"
"""Kind of the timers that ask and let go."""


class Silence:
    def __init__(self, *, tickets: Tickets, words: Words, survey: Survey) -> None:
        self._tickets = tickets
        self._words = words
        self._survey = survey

    async def begin(self, session: AsyncSession, ticket: Ticket, now: datetime) -> None:
        """An agent has replied: from now on it is counted, anew after each reply."""
        waiting = self._tickets.policy.waiting
        if waiting is None or ticket.status is not TicketStatus.WAITING:
            return
        at, closes = now + waiting.ask_after, await self._closes(session, ticket)
        if closes is not None and now < closes - MARGIN < at:
            at = closes - MARGIN
        policy = self._tickets.policy
        at = policy.survey.moment(at, policy.zone, closes - MARGIN if closes is not None else None)
        await self._set(session, ticket, at, "ask", now)

    async def fire(self, session: AsyncSession, payload: Mapping[str, Any], now: datetime) -> None:
        """The timer. Where the customer has spoken since, or the ticket has gone on otherwise, nothing happens."""
        ticket, waiting = await desk.get_ticket(session, int(payload["ticket_id"])), self._tickets.policy.waiting
        conversation = await desk.lock_conversation(session, ticket.conversation_id)
        await session.refresh(ticket)
        if waiting is None or ticket.status is not TicketStatus.WAITING:
            return
        replies = (await answers(session, [ticket.id])).get(ticket.id, [])
        since = datetime.fromisoformat(payload["since"])
        if not replies or replies[-1].created_at < since:
            # What he is to answer has not reached him yet.
            await self._set(session, ticket, now + waiting.ask_after, payload["stage"], since)
            return
        closes = await self._closes(session, ticket)
        reaches = closes is None or now < closes
        thanked = await self._spoke_after(session, replies[-1])
        if payload["stage"] == "ask":
            if reaches and ticket.asked_at is None:
                await self._survey.ask(session, conversation, ticket, "survey" if thanked else "waiting")
                ticket.asked_at = now
            # Who is asked late has as long to answer as anybody.
            at = max(since + waiting.end_after, now + waiting.end_after - waiting.ask_after)
            await self._set(session, ticket, at, "end", since)
        elif thanked:
            with still_asked(conversation, ticket):
                await self._tickets.resolve(session, ticket, agent=SYSTEM, now=now)
        else:
            await self._tickets.close(session, ticket, why="no answer", agent=SYSTEM, now=now)
            if reaches:
                await self._words.say(session, conversation, ticket, "closed_unanswered", {})

    async def _set(self, session: AsyncSession, ticket: Ticket, at: datetime, stage: str, since: datetime) -> None:
        payload = {"ticket_id": ticket.id, "stage": stage, "since": since.isoformat()}
        await set_timer(session, f"{SILENCE}:ticket:{ticket.id}", SILENCE, at, payload)

    async def _closes(self, session: AsyncSession, ticket: Ticket) -> datetime | None:
        """The end of the platform's window."""
        conversation = await desk.get_conversation(session, ticket.conversation_id)
        return await closes_at(
            session, channel=conversation.channel, account=conversation.account, chat_id=conversation.chat_id
        )

    async def _spoke_after(self, session: AsyncSession, reply: Message) -> bool:
        """Whether he said anything since: while the ticket waits for him, that was mere thanks."""
        said = select(Message.id).where(
            Message.conversation_id == reply.conversation_id,
            Message.author == Author.CUSTOMER,
            Message.kind.not_in([NOTE, "reaction", "edit", "deletion"]),
            Message.id > reply.id,
        )
        return bool(await session.scalar(select(exists(said))))
