"""The assistant's decision carried out: its replies queued, a ticket made, and what to remember."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncSession

from bot import ledger
from bot.attachments import StoredFile
from bot.channels.base import Option
from bot.desk.agent_desk import AgentDesk
from bot.desk.joining import BACK as WITHOUT_WAITING
from bot.dialogue import HELPED, Answer, Clarify, Handoff, Say
from bot.errors import FileRefusedError
from bot.flows.engine import Tell
from bot.flows.timers import watch
from bot.flows.turns import FlowBook
from bot.models.shadow import keep_draft
from bot.replies import Replies
from bot.turn.pictures import show
from bot.turn.plan import Plan, Routed
from bot.turn.words import Words
from handoff.outcomes import Step
from handoff.records import Conversation, Message, Reason, Ticket

BACK = {WITHOUT_WAITING: "@label_assistant"}
"""Offered while nobody has answered: whoever would rather not wait goes on with the assistant."""
_STEPS = {
    "confirmed": Step.CONFIRMED,
    **dict.fromkeys(("rephrase", "too_long", "unsupported", "attachment_received"), Step.ASKED),
    **dict.fromkeys(("attachment_too_large", "attachment_failed"), Step.ASKED),
    **dict.fromkeys(("capabilities", "vacancies"), Step.ANSWERED),
}
"""Replies that are a step towards what the customer wants; the others are small talk."""


class Acting:
    """Works inside the caller's transaction and never commits."""

    def __init__(
        self,
        *,
        replies: Replies,
        words: Words,
        agent_desk: AgentDesk,
        flows: Callable[[], FlowBook],
        clock: Callable[[], datetime],
    ) -> None:
        self._replies = replies
        self._words = words
        self._desk = agent_desk
        self._flows = flows
        self._clock = clock

    async def carry_out(self, session: AsyncSession, conversation: Conversation, plan: Plan) -> None:
        """Do what was decided. Raises ReplyError."""
        lang, decision = plan.lang, plan.decision
        shown: dict[str, str] = dict(decision.state.options)
        hands_off = any(isinstance(action, Handoff) for action in decision.actions)
        confirmed = False
        for action in decision.actions:
            text, options, record, guarded = "", {}, {"action": "answer", **plan.record}, True
            step, topic = None, None
            if isinstance(action, Handoff):
                assert plan.routed is not None  # noqa: S101 - whoever plans a handoff also routes it
                ticket = await self.hand_off(session, conversation, action.reason, plan.routed)
                if plan.draft is not None:
                    drafted, _ = self._words.of(Answer(plan.draft, {}), lang)
                    version = str(plan.record.get("model_version", ""))
                    keep_draft(session, ticket.id, plan.draft, text=drafted, version=version, at=self._clock())
                text = await self._announcement(session, ticket, lang)
                options = self._words.labels(BACK, lang)
                record |= {
                    "action": "handoff",
                    "ticket_id": ticket.id,
                    "topic": ticket.topic,
                    "topic_confidence": ticket.topic_confidence,
                    "reason": ticket.reason,
                    **({"flow": asdict(action.flow)} if action.flow else {}),
                }
                guarded, shown = False, dict(options)
            else:
                text, options = self._words.of(action, lang)
                if isinstance(action, Answer):
                    found = action.candidate
                    record |= {"article_id": found.article_id, "article_confidence": found.confidence}
                    step, topic = Step.ANSWERED, found.topic or None
                elif isinstance(action, Clarify):
                    record |= {"action": "clarify", "articles": [item.article_id for item in action.candidates]}
                    record |= {"likely_topic": next((item.topic for item in action.candidates if item.topic), None)}
                    step = Step.ASKED
                elif isinstance(action, Tell):
                    guarded = not hands_off  # what a flow says as it hands over is part of that
                    record |= {"action": "clarify" if action.waits else "answer", "flow_step": action.step}
                    step, topic = Step.ASKED if action.waits else Step.ANSWERED, decision.state.topic
                elif isinstance(action, Say):
                    # Who answers and what becomes of the data is always said.
                    guarded = action.template != "greeting"
                    record |= {"action": "clarify" if action.options else "answer", "reply": action.template}
                    step = _STEPS.get(action.template)
            shown |= {token: label for token, label in options.items() if token in shown}
            said = await ledger.say(
                session,
                conversation,
                text,
                options=[Option(token, label) for token, label in options.items()],
                decision=record,
                step=step,
                topic=topic,
                guarded=guarded,
                now=self._clock(),
            )
            confirmed |= step is Step.CONFIRMED
            if isinstance(action, Answer):
                self._show(said, conversation.channel, plan.pictures.get(action.candidate.article_id, ()))
            elif isinstance(action, Tell) and action.picture:
                self._show(said, conversation.channel, plan.pictures.get(action.picture, ()))
        conversation.state = {**decision.state.to_json(), "options": shown}
        if confirmed and (plan.state.answered or HELPED in plan.state.options):
            await self._desk.nps.ended_well(session, conversation, topic=plan.state.topic)
        if plan.state.flow is not None or decision.state.flow is not None:
            book = self._flows()
            await watch(session, conversation, plan.state.flow, decision.state.flow, book, self._clock())

    async def hand_off(
        self, session: AsyncSession, conversation: Conversation, reason: Reason, routed: Routed
    ) -> Ticket:
        now = self._clock()
        ticket = await self._desk.tickets.hand_off(
            session, conversation, reason=reason, route=routed.route, texts=routed.texts, now=now
        )
        # Until now nobody had asked who he is.
        await self._desk.customers.learn(session, conversation, phone=None, texts=routed.texts, now=now)
        return ticket

    async def _announcement(self, session: AsyncSession, ticket: Ticket, lang: str) -> str:
        values = await self._desk.words.expectation(session, ticket)
        return self._replies.render("handoff", lang, values, topic=ticket.topic)

    def _show(self, message: Message, channel: str, pictures: Sequence[StoredFile]) -> None:
        """Those of them that the channel takes."""
        for file in pictures:
            try:
                self._desk.check_file(channel, file)
            except FileRefusedError:
                continue
            show(message, file)
