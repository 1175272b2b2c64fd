"""The customer is asked how likely he is to recommend the company, and what he answers is kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta, tzinfo
from typing import Any

import structlog
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from bot import ledger
from bot.channels.base import Capabilities, Option
from bot.desk.nps_reading import SCORE, STOP, NpsSaid
from bot.dialogue import PERSON, DialogueState
from bot.language import DEFAULT
from bot.replies import Replies
from bot.timers import set_timer
from handoff import desk
from handoff.nps import LAST_CALL, SCORES, Nps, NpsAnswer, refusal
from handoff.promoters import group
from handoff.records import Conversation, Message, Owner, Ticket
from handoff.window import closes_at

log = structlog.get_logger()

NPS = "nps"
"""Kind of the timers that ask."""
COMMENT_CHARS = 4000
LATER = timedelta(minutes=10)
"""When to look again where the customer has just written."""


class NpsSurvey:
    """Works inside the caller's transaction and never commits. What happens twice is kept once."""

    def __init__(
        self,
        *,
        policy: Nps,
        zone: tzinfo,
        replies: Replies,
        clock: Callable[[], datetime],
        capabilities: Mapping[str, Capabilities],
    ) -> None:
        """zone: of the hours in which people are asked. capabilities: the channels in which they are."""
        self.policy = policy
        self._zone = zone
        self._replies = replies
        self._clock = clock
        self._capabilities = capabilities

    async def ended_well(
        self, session: AsyncSession, conversation: Conversation, *, topic: str | None, ticket: Ticket | None = None
    ) -> None:
        """A customer said that it helped: he is asked later, if it lasts."""
        if not self.policy.ask or conversation.channel not in self._capabilities:
            return
        now = self._clock()
        at = self.policy.moment(now, self._zone, await self._closing(session, conversation), _lag(conversation))
        if at is None:
            log.info("nps.not_asked", conversation=conversation.id, why="the window closes before")
            return
        payload = {
            "conversation_id": conversation.id,
            "ended_at": now.isoformat(),
            "topic": topic,
            "ticket_id": ticket.id if ticket else None,
        }
        await set_timer(session, f"{NPS}:{conversation.id}", NPS, at, payload)

    async def fire(self, session: AsyncSession, payload: Mapping[str, Any], now: datetime) -> None:
        """The timer: ask, unless something speaks against it by now."""
        conversation = await desk.lock_conversation(session, int(payload["conversation_id"]))
        ended_at = datetime.fromisoformat(payload["ended_at"])
        why = await refusal(session, conversation, self.policy, ended_at=ended_at, now=now)
        person = conversation.customer_id or -conversation.id
        if why is None and not self.policy.chosen(person, ended_at):
            why = "not in the share"
        if why is None and DialogueState.from_json(conversation.state).flow is not None:
            why = "came back"
        closing = await self._closing(session, conversation)
        at = self.policy.by_day(now, self._zone, _lag(conversation))
        if await ledger.pending(session, ledger.address_of(conversation)):
            at = self.policy.by_day(now + LATER, self._zone, _lag(conversation))
        if why is None and closing is not None and at > closing - LAST_CALL:
            why = "the window closes before"
        if why is not None:
            log.info("nps.not_asked", conversation=conversation.id, why=why)
        elif at > now:
            await set_timer(session, f"{NPS}:{conversation.id}", NPS, at, payload)
        else:
            await self._ask(session, conversation, payload, ended_at, now)

    async def take(self, session: AsyncSession, conversation: Conversation, said: NpsSaid) -> None:
        """Keep what the customer answered, and thank him. Who pressed another number means that one."""
        row = await session.get(NpsAnswer, said.answer_id)
        if row is None or row.conversation_id != conversation.id:
            return  # a button of another database, or a made-up one
        now, ours = self._clock(), conversation.owner is Owner.ASSISTANT
        if said.stops:
            if row.declined_at is None:
                row.declined_at = now
                await self._say(session, conversation, row, "nps_declined", {})
                _remember(conversation, {}, "")
            return
        again = said.score is not None and said.score == row.score and not said.comment
        if again:
            return  # pressed twice
        if said.score is not None:
            row.score, row.answered_at = said.score, row.answered_at or now
        if said.comment and row.comment is None:
            row.comment = said.comment[:COMMENT_CHARS]
        values = {"score": row.score, "group": group(row.score or 0), "comment": bool(said.comment)}
        if said.score is not None and row.comment is None and ours:
            options = [self._person(conversation, row)] if values["group"] == "detractor" else []
            await self._say(session, conversation, row, "nps_reason", values, options)
            _remember(conversation, {option.token: option.label for option in options}, f"comment:{row.id}")
            return
        # Should the reason have been a cry for help after all, one press calls somebody.
        options = [self._person(conversation, row)] if said.comment and ours else []
        await self._say(session, conversation, row, "nps_thanks", values, options)
        if ours:
            _remember(conversation, {option.token: option.label for option in options}, "")

    # Inside

    async def _ask(
        self,
        session: AsyncSession,
        conversation: Conversation,
        payload: Mapping[str, Any],
        ended_at: datetime,
        now: datetime,
    ) -> None:
        seen = select(NpsAnswer.id).where(NpsAnswer.conversation_id == conversation.id, NpsAnswer.ended_at == ended_at)
        if await session.scalar(seen) is not None:
            return
        lang = conversation.lang or DEFAULT
        row = NpsAnswer(
            conversation_id=conversation.id,
            ticket_id=payload["ticket_id"],
            channel=conversation.channel,
            lang=lang,
            topic=payload["topic"],
            ended_at=ended_at,
            asked_at=now,
        )
        capabilities = self._capabilities[conversation.channel]
        buttons = max(capabilities.max_scale, capabilities.max_buttons) >= len(SCORES)
        # The buttons need the number of the row, and the row that of the message.
        message = await self._say(session, conversation, row, "nps", {"buttons": buttons})
        row.message_id = message.id
        session.add(row)
        await session.flush()
        options = [Option(f"{SCORE}:{row.id}:{score}", str(score)) for score in SCORES if buttons]
        options.append(Option(f"{STOP}:{row.id}", self._replies.render("label_nps_stop", lang, topic=row.topic)))
        message.options = [{"token": option.token, "label": option.label} for option in options]
        _remember(conversation, {option.token: option.label for option in options}, f"score:{row.id}")
        log.info("nps.asked", conversation=conversation.id, channel=conversation.channel)

    async def _say(
        self,
        session: AsyncSession,
        conversation: Conversation,
        row: NpsAnswer,
        template: str,
        values: Mapping[str, Any],
        options: Sequence[Option] = (),
    ) -> Message:
        text = self._replies.render(template, conversation.lang or DEFAULT, values, topic=row.topic)
        message = await ledger.say(
            session,
            conversation,
            text,
            options=options,
            decision={"action": ledger.UNASKED if template == NPS else "announcement", "reply": template},
            # The question only: nobody is asked who has come to a person meanwhile.
            guarded=template == NPS,
            now=self._clock(),
        )
        await session.flush()
        return message

    def _person(self, conversation: Conversation, row: NpsAnswer) -> Option:
        label = self._replies.render("label_person", conversation.lang or DEFAULT, topic=row.topic)
        return Option(PERSON, label)

    async def _closing(self, session: AsyncSession, conversation: Conversation) -> datetime | None:
        found = await closes_at(
            session, channel=conversation.channel, account=conversation.account, chat_id=conversation.chat_id
        )
        if found is None and self._capabilities[conversation.channel].window is not None:
            return self._clock()  # he never wrote as far as is known
        return found


def _lag(conversation: Conversation) -> float:
    """Of those who are asked in the morning some come first: always the same ones, and evenly."""
    return conversation.id * 0.6180339887 % 1


def _remember(conversation: Conversation, options: Mapping[str, str], waits: str) -> None:
    conversation.state = {**conversation.state, "options": dict(options), "nps": waits}
