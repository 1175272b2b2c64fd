"""What a customer hears of his ticket: the announcements, and what he may expect.

Works inside the caller's transaction and never commits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from math import ceil
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from bot import ledger
from bot.channels.base import Option
from bot.language import DEFAULT
from bot.replies import Replies
from handoff import desk
from handoff.hours import DAY_NAMES, WorkingHours
from handoff.records import Agent, Conversation, Message, Ticket
from handoff.staff import on_duty, seniors
from handoff.tickets import Tickets


def language(conversation: Conversation, ticket: Ticket) -> str:
    """What the customer speaks by now."""
    return conversation.lang or ticket.lang or DEFAULT


class Words:
    def __init__(self, *, tickets: Tickets, replies: Replies, clock: Callable[[], datetime]) -> None:
        self._tickets = tickets
        self._replies = replies
        self._clock = clock

    async def announce(
        self, session: AsyncSession, ticket: Ticket, template: str, values: Mapping[str, Any] | None = None
    ) -> Message:
        """Tell the customer, whoever owns the conversation by the time it is sent."""
        conversation = await desk.get_conversation(session, ticket.conversation_id)
        return await self.say(session, conversation, ticket, template, values or {})

    async def say(
        self,
        session: AsyncSession,
        conversation: Conversation,
        ticket: Ticket,
        template: str,
        values: Mapping[str, Any],
        options: Sequence[Option] = (),
    ) -> Message:
        """The same with choices, where the conversation is at hand."""
        lang = language(conversation, ticket)
        text = self._replies.render(template, lang, {"ticket_number": ticket.id, **values}, topic=ticket.topic)
        return await ledger.say(
            session,
            conversation,
            text,
            options=options,
            decision={"action": "announcement", "reply": template, "ticket_id": ticket.id},
            guarded=False,
            now=self._clock(),
        )

    async def expectation(self, session: AsyncSession, ticket: Ticket) -> dict[str, Any]:
        """What the customer may expect: number, topic, hours, time, place in the queue. The time is so many minutes,
        and where these are not all of this working day's, or of this morning's, the moment itself."""
        lang = language(await desk.get_conversation(session, ticket.conversation_id), ticket)
        now, policy = self._clock(), self._tickets.policy
        hours, topic = policy.hours_of(ticket.team), self._tickets.topics.get(ticket.topic)
        in_hours = hours.contains(now)
        due = await self._tickets.clocks.answer_due(session, ticket, now)
        minutes = max(1, ceil(hours.between(now, due).total_seconds() / 60))
        far = due - now > timedelta(minutes=minutes + 1)
        return {
            "ticket_number": ticket.id,
            "topic_title": topic.title_in(lang),
            "reason": ticket.reason,
            "in_hours": in_hours,
            "hours": hours.describe(lang),
            "expected_minutes": minutes,
            "answer_at": self._moment(due, now, hours, lang) if far else None,
            "zone": hours.zone_name(lang),
            "next_opening": None if in_hours else f"{hours.next_opening(now):%d.%m %H:%M}",
            "place": await self._tickets.holders.place(session, ticket),
            "nobody": in_hours and await self._nobody(session, ticket.team, now),
        }

    async def has_senior(self, session: AsyncSession, ticket: Ticket, giver: str) -> bool:
        """Whether anybody but the giver is of the level that it asks for, on duty or not: only then is one promised."""
        return any(one.name != giver for one in await seniors(session, self._tickets.policy, ticket))

    def _moment(self, at: datetime, now: datetime, hours: WorkingHours, lang: str) -> str:
        """As people name it: the day as that of the hours' zone."""
        local, today = at.astimezone(hours.zone), now.astimezone(hours.zone).date()
        values = {
            "days": (local.date() - today).days,
            "weekday": DAY_NAMES["ru" if lang == "ru" else "en"][local.weekday()],
            "date": f"{local:%d.%m}",
            "time": f"{local:%H:%M}",
        }
        return self._replies.render("answer_at", lang, values)

    async def _nobody(self, session: AsyncSession, team: str, now: datetime) -> bool:
        """Whether no agent of the team is there now."""
        agents = [agent for agent in await session.scalars(select(Agent).where(Agent.active)) if team in agent.teams]
        return not any(on_duty(self._tickets.policy, agent, now) for agent in agents)
