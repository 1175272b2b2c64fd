"""What customers do about their tickets: they write, say whether it helped, end it, or go back to the assistant.

Works inside the caller's transaction and never commits. What agents do is in `bot/desk/agent_desk.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncSession

from bot.desk.joining import given_by_hand, is_known_to_holder
from bot.desk.nps import NpsSurvey
from bot.desk.survey import Survey
from bot.desk.words import Words
from bot.language import DEFAULT
from bot.replies import Replies
from handoff import desk
from handoff.history import CUSTOMER
from handoff.lifecycle import ACTS, TicketStatus
from handoff.records import Conversation, Feedback, Owner, Ticket
from handoff.routing import Route
from handoff.second_look import heed
from handoff.tickets import Followed, Tickets


class CustomerActs:
    def __init__(
        self,
        *,
        tickets: Tickets,
        words: Words,
        survey: Survey,
        nps: NpsSurvey,
        replies: Replies,
        clock: Callable[[], datetime],
    ) -> None:
        self._tickets = tickets
        self._words = words
        self._survey = survey
        self._nps = nps
        self._replies = replies
        self._clock = clock

    async def wrote(
        self,
        session: AsyncSession,
        conversation: Conversation,
        *,
        courtesy: bool,
        said: Sequence[str] = (),
        route: Route | None = None,
    ) -> None:
        """Something was said in a conversation that a person has. A word of thanks changes nothing where the next
        word is not ours. said, route: as `handoff.second_look.heed` has them."""
        ticket = await desk.open_ticket(session, conversation.id)
        if ticket is None or (courtesy and ticket.status not in ACTS):
            return
        now, keeps = self._clock(), await is_known_to_holder(session, ticket)
        otherwise = await heed(self._tickets, session, ticket, said, route, keeps=keeps, now=now)
        await self._tickets.customer_wrote(session, conversation, now=now)
        await self._survey.stop(session, ticket)
        if otherwise:
            await self._words.announce(
                session, ticket, "promise_changed", await self._words.expectation(session, ticket)
            )

    async def give_feedback(self, session: AsyncSession, ticket_id: int, feedback: Feedback) -> None:
        """The customer said whether it helped, by a button or in words; he is told what follows from it."""
        ticket, now = await desk.get_ticket(session, ticket_id), self._clock()
        await desk.lock_ticket(session, ticket)
        followed = await self._tickets.give_feedback(session, ticket, feedback, now=now)
        if ticket.status is not TicketStatus.AWAITING_FEEDBACK:
            await self._survey.stop(session, ticket)
        conversation = await desk.get_conversation(session, ticket.conversation_id)
        match followed:
            case Followed.ENDED:
                await self._words.announce(session, ticket, "survey_thanks")
                if conversation.owner is Owner.ASSISTANT:
                    await self._nps.ended_well(session, conversation, topic=ticket.topic, ticket=ticket)
            case Followed.REOPENED:
                senior = await self._words.has_senior(session, ticket, "")
                await self._words.announce(session, ticket, "survey_reopened", {"senior": senior})
            case Followed.STILL_OPEN:
                helped = {"helped": feedback is Feedback.HELPED}
                await self._words.announce(session, ticket, "survey_still_open", helped)
            case Followed.ELSEWHERE:
                live = await desk.open_ticket(session, conversation.id)
                assert live is not None  # noqa: S101 - its conversation is locked
                note = self._replies.render("note_not_helped", DEFAULT, {"ticket_number": ticket.id})
                await desk.note(session, conversation.id, note, about={"not_helped": ticket.id}, now=now)
                await self.wrote(session, conversation, courtesy=False)
                await self._words.announce(session, live, "survey_elsewhere", {"about": ticket.id})

    async def is_his(self, session: AsyncSession, conversation: Conversation, ticket_id: int) -> bool:
        """Whether a ticket is of this conversation, or of another one of the same customer, where it went on."""
        ticket = await session.get(Ticket, ticket_id)
        if ticket is None or ticket.conversation_id == conversation.id:
            return ticket is not None
        other = await desk.get_conversation(session, ticket.conversation_id)
        return other.customer_id is not None and other.customer_id == conversation.customer_id

    async def end(self, session: AsyncSession, conversation: Conversation) -> None:
        """The customer needs nobody any more (`/end`)."""
        ticket = await desk.open_ticket(session, conversation.id)
        if ticket is not None:
            await self._tickets.resolve(session, ticket, agent=CUSTOMER, now=self._clock())
            await self._survey.stop(session, ticket)
            await self._words.announce(session, ticket, "ended")

    async def go_back(self, session: AsyncSession, conversation: Conversation) -> None:
        """The customer would rather go on with the assistant than wait. Only while nobody has joined or answered: an
        agent who is in the conversation is not cut off."""
        ticket = await desk.open_ticket(session, conversation.id)
        if ticket is None:
            return
        joined = ticket.assignee_id is not None and await given_by_hand(session, ticket)
        if joined or ticket.status is not TicketStatus.NEW:
            await self._words.announce(session, ticket, "agent_is_here")
            return
        await self._tickets.close(session, ticket, why="back to the assistant", agent=CUSTOMER, now=self._clock())
        await self._words.announce(session, ticket, "back_to_assistant")
