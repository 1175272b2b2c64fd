"""The question whether it helped, after an agent's last word: asked, reminded of once, and given up.

Works inside the caller's transaction and never commits. What the answer does is in `bot/desk/customer_acts.py`; how
words are read as one, in `bot/desk/survey_reading.py`; those who fall silent before a last word, in
`bot/desk/silence.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from bot.channels.base import Option
from bot.desk.words import Words, language
from bot.replies import Replies
from bot.timers import cancel_timer, set_timer
from handoff import desk
from handoff.history import SYSTEM
from handoff.lifecycle import TicketStatus
from handoff.records import Conversation, Ticket
from handoff.tickets import Tickets
from handoff.window import MARGIN, closes_at

SURVEY = "survey"
"""Kind of the timers that ask, remind and give up; in a conversation's state, the ticket that was asked about, until
the customer's next turn."""
SURVEY_HELPED, SURVEY_NOT_HELPED = "survey_yes", "survey_no"
BOTH = (SURVEY_HELPED, SURVEY_NOT_HELPED)
_LABELS = {SURVEY_HELPED: "label_survey_yes", SURVEY_NOT_HELPED: "label_survey_no"}


class Survey:
    def __init__(self, *, tickets: Tickets, words: Words, replies: Replies, clock: Callable[[], datetime]) -> None:
        self._tickets = tickets
        self._words = words
        self._replies = replies
        self._clock = clock

    async def begin(self, session: AsyncSession, ticket: Ticket) -> None:
        """The agent has said his last word. Who was asked already is not asked again."""
        now, survey = self._clock(), self._tickets.policy.survey
        if ticket.asked_at is None:
            await self._plan(session, ticket, now + survey.after)
        else:
            await self._plan(session, ticket, now + survey.give_up_after, "give_up")

    async def stop(self, session: AsyncSession, ticket: Ticket) -> None:
        """The last word was not the last, or the ticket has ended."""
        await cancel_timer(session, _key(ticket))

    async def ask(
        self,
        session: AsyncSession,
        conversation: Conversation,
        ticket: Ticket,
        template: str,
        answers: Sequence[str] = BOTH,
    ) -> None:
        """Say something with the survey's buttons below it. From now on a yes or no may be typed: the question is the
        newest thing in the chat."""
        lang = language(conversation, ticket)
        options = [Option(f"{token}:{ticket.id}", self._replies.render(_LABELS[token], lang)) for token in answers]
        await self._words.say(session, conversation, ticket, template, {}, options)
        options_now = {option.token: option.label for option in options}
        conversation.state = {**conversation.state, "options": options_now, SURVEY: ticket.id}

    async def fire(self, session: AsyncSession, payload: Mapping[str, Any], now: datetime) -> None:
        """Ask, remind, or give up: what the survey's timer of a ticket is for."""
        ticket = await desk.get_ticket(session, int(payload["ticket_id"]))
        conversation = await desk.lock_conversation(session, ticket.conversation_id)
        await session.refresh(ticket)
        if ticket.status is not TicketStatus.AWAITING_FEEDBACK:
            return
        survey, stage = self._tickets.policy.survey, payload["stage"]
        closes = await closes_at(
            session, channel=conversation.channel, account=conversation.account, chat_id=conversation.chat_id
        )
        if stage == "give_up" or (closes is not None and now >= closes):  # a timer may come late
            with still_asked(conversation, ticket):
                await self._tickets.resolve(session, ticket, agent=SYSTEM, now=now)
            return
        if self._moment(now, stage, closes) > now:  # late: it was day when it was planned for
            await self._plan(session, ticket, now, stage)
            return
        await self.ask(session, conversation, ticket, "survey" if stage == "ask" else "survey_reminder")
        if stage == "ask":
            ticket.asked_at = now
            await self._plan(session, ticket, now + survey.remind_after, "remind")
        else:
            await self._plan(session, ticket, now + survey.give_up_after - survey.remind_after, "give_up")

    async def _plan(self, session: AsyncSession, ticket: Ticket, at: datetime, stage: str = "ask") -> None:
        """Set the next step; one that the platform would not take any more is left out, and the ticket given up."""
        conversation = await desk.get_conversation(session, ticket.conversation_id)
        closes = await closes_at(
            session, channel=conversation.channel, account=conversation.account, chat_id=conversation.chat_id
        )
        if stage != "give_up":
            latest = closes - MARGIN if closes is not None else at
            if stage == "ask" and self._clock() < latest < at:
                at = latest
            at = self._moment(at, stage, closes)
            if closes is not None and at > latest:
                stage, at = "give_up", max(at, closes)
        await set_timer(session, _key(ticket), SURVEY, at, {"ticket_id": ticket.id, "stage": stage})

    def _moment(self, at: datetime, stage: str, closes: datetime | None) -> datetime:
        """The reminder is left out rather than sent at night."""
        until = closes - MARGIN if closes is not None and stage == "ask" else None
        return self._tickets.policy.survey.moment(at, self._tickets.policy.zone, until)


@contextmanager
def still_asked(conversation: Conversation, ticket: Ticket) -> Iterator[None]:
    """End a ticket without a word: where its question is the newest thing in the chat, it stays so, and a yes or no
    may still be typed."""
    newest = conversation.state.get(SURVEY)
    yield
    if newest == ticket.id:
        conversation.state = {**conversation.state, SURVEY: ticket.id}


def _key(ticket: Ticket) -> str:
    return f"survey:ticket:{ticket.id}"
