"""What a turn begins with: all that its decision depends on beside what was said."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import bindparam, exists, select
from sqlalchemy.ext.asyncio import AsyncSession

from bot.channels.base import Address
from bot.desk.survey import SURVEY
from bot.dialogue import DialogueState
from bot.models.records import ShadowTopic
from handoff import desk
from handoff.lifecycle import TicketStatus
from handoff.outcomes import EPISODE_GAP
from handoff.records import Conversation, Owner
from handoff.second_look import undecided

COURTESIES = {
    TicketStatus.AWAITING_FEEDBACK: frozenset(("thanks", "confirmed", "goodbye")),
    TicketStatus.WAITING: frozenset(("thanks", "goodbye")),
    TicketStatus.ON_HOLD: frozenset(("thanks", "goodbye")),
}
"""Replies of intents that ask for nothing after a person's word. While he waits for an answer, "yes" may be one."""


@dataclass(frozen=True)
class Situation:
    """All that a decision depends on beside what was said. A turn that was thought out for another is not saved."""

    conversation_id: int | None
    """None: the customer writes for the first time."""
    owner: Owner
    epoch: int
    lang: str | None
    state: Mapping[str, Any]
    courtesies: frozenset[str] = frozenset()
    """A person has spoken last: what follows may be mere thanks. The replies of intents by which it is known."""
    asked_about: int = 0
    """The ticket of which the customer was asked whether it helped, while that is the newest thing in the chat."""
    long_ago: bool = False
    """The conversation rested for so long that what the customer writes now is a matter of its own."""
    undecided: bool = False
    """A person has it, who has not answered, and nothing has told yet what it is about."""
    drafts: bool = True
    """Whether there may be topics that the assistant only drafts for. Which, is read where it matters."""

    @classmethod
    def of(cls, conversation: Conversation, now: datetime) -> Situation:
        """As far as the conversation itself tells it."""
        c, long_ago = conversation, now - conversation.updated_at > EPISODE_GAP
        return cls(c.id, c.owner, c.epoch, c.lang, c.state, long_ago=long_ago)

    def still_holds(self, conversation: Conversation) -> bool:
        c = conversation
        return (self.owner, self.epoch, self.lang, self.state) == (c.owner, c.epoch, c.lang, c.state)

    def remembered(self) -> DialogueState:
        """What is still worth remembering."""
        state = DialogueState.from_json(self.state)
        if not self.long_ago:
            return state
        # The buttons still stand in the chat. An answer of days ago may be given again.
        return DialogueState(
            greeted=state.greeted,
            options=state.options,
            asked=state.asked,
            flow=state.flow,
            nps=state.nps if state.nps.startswith("score:") else "",
        )


_SITUATION = select(
    Conversation.id,
    Conversation.owner,
    Conversation.epoch,
    Conversation.lang,
    Conversation.state,
    Conversation.updated_at,
    exists(select(ShadowTopic.topic)).label("drafts"),
).where(
    Conversation.channel == bindparam("channel"),
    Conversation.account == bindparam("account"),
    Conversation.chat_id == bindparam("chat_id"),
)
"""Made once: SQLAlchemy spends more time on making a statement than the database on its work."""


async def situation_of(session: AsyncSession, address: Address, *, now: datetime) -> Situation:
    """What the next turn of this conversation will be decided upon, as it is now."""
    found = await session.execute(_SITUATION, asdict(address))
    row = found.first()
    if row is None:
        return Situation(None, Owner.ASSISTANT, 0, None, {})
    long_ago = now - row.updated_at > EPISODE_GAP
    situation = Situation(row.id, row.owner, row.epoch, row.lang, row.state, long_ago=long_ago, drafts=row.drafts)
    situation = replace(situation, asked_about=int(row.state.get(SURVEY, 0)))
    if situation.owner is Owner.PERSON:
        ticket = await desk.open_ticket(session, row.id)
        if ticket is not None:
            awaiting = ticket.status is TicketStatus.AWAITING_FEEDBACK and ticket.asked_at is not None
            situation = replace(
                situation,
                courtesies=COURTESIES.get(ticket.status, frozenset()),
                undecided=undecided(ticket),
                # A thanks does not answer the question, and leaves it.
                asked_about=ticket.id if awaiting else situation.asked_about,
            )
    return situation
