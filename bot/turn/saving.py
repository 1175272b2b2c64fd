"""The end of a turn, in one transaction: what was said and decided is written, provided that nothing has changed
meanwhile; or, of a turn that broke, what was said, and a person gets it. No platform is spoken to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from bot import ledger, metrics, reach
from bot.attachments import Fetched
from bot.channels.base import Address, InboundMessage
from bot.desk.agent_desk import AgentDesk
from bot.dialogue import Decision, DialogueState, Handoff
from bot.errors import ReplyError
from bot.flows.turns import FlowBook, handed_off, record_of
from bot.language import DEFAULT, detect
from bot.ledger import InboxState, Incoming
from bot.replies import Replies
from bot.turn.acting import Acting
from bot.turn.plan import Plan, Recalled, Routed, ToDesk
from bot.turn.routing import Routing
from bot.turn.situation import Situation
from bot.turn.transcript import Transcript
from bot.turn.utterance import AUTHORS, SILENT, known_language, own_words
from handoff import desk
from handoff.records import Author, Conversation, Message, Owner, Reason
from handoff.routing import route

log = structlog.get_logger()


class Saving:
    """Works inside the caller's transaction and never commits."""

    def __init__(
        self,
        *,
        transcript: Transcript,
        acting: Acting,
        routing: Routing,
        replies: Replies,
        agent_desk: AgentDesk,
        flows: Callable[[], FlowBook],
        clock: Callable[[], datetime],
    ) -> None:
        self._transcript = transcript
        self._acting = acting
        self._routing = routing
        self._replies = replies
        self._desk = agent_desk
        self._flows = flows
        self._clock = clock

    async def save(
        self,
        session: AsyncSession,
        plan: Plan,
        rows: Sequence[Incoming],
        utterance: Sequence[InboundMessage],
        fetched: Sequence[Fetched],
    ) -> bool:
        """Write the turn: transcript, ticket, replies, what to remember. False when the situation is no longer the
        one that was thought about, or another worker has dealt with the messages: then nothing may be committed."""
        # By the row: a customer's conversation may go on under another number than the one that he wrote from.
        conversation = await self._open(session, rows[0].address)
        if not plan.situation.still_holds(conversation) or not await ledger.take(
            session, rows, InboxState.DONE, now=self._clock()
        ):
            return False
        first = utterance[0]
        if first.kind == "blocked":
            await reach.lost(session, conversation, first.text, now=self._clock())
        elif first.kind not in AUTHORS:
            await reach.back(session, conversation, now=self._clock())
        if first.kind in ("edit", "deletion"):
            await self._transcript.amend(session, conversation, rows[0], first)
        elif first.kind not in ("blocked", "unblocked"):
            last = await self._transcript.record(session, conversation, rows, utterance, fetched, plan.record)
            if first.kind == "echo" and not first.refers_to:
                await self._desk.elsewhere.answered(session, conversation, last)
            if first.kind not in SILENT:
                conversation.lang = plan.lang
                await self._acting.carry_out(session, conversation, plan)
                if plan.situation.owner is Owner.ASSISTANT and first.kind not in AUTHORS:
                    await self._desk.customers.wrote_elsewhere(session, conversation, now=self._clock())
                if plan.to_desk is not None:
                    await self._tell_desk(session, conversation, plan.to_desk, own_words(utterance), plan.routed)
        # At the end, so that the row is written once.
        conversation.updated_at = self._clock()
        log.info(
            "turn.done",
            conversation=conversation.id,
            channel=conversation.channel,
            messages=len(rows),
            rule=plan.decision.rule,
            intent=plan.record.get("intent"),
            confidence=plan.record.get("confidence"),
        )
        return True

    async def fail(
        self,
        session: AsyncSession,
        rows: Sequence[Incoming],
        utterance: Sequence[InboundMessage],
        fetched: Sequence[Fetched],
        error: Exception,
        recalled: Recalled | None = None,
    ) -> None:
        """The other end of a turn that broke: what was said is kept, and a person gets the conversation.

        recalled: what `Thinking.recall` said of it."""
        conversation = await self._open(session, rows[0].address)
        if not await ledger.take(session, rows, InboxState.FAILED, now=self._clock(), error=repr(error)[:2000]):
            return
        situation = Situation.of(conversation, self._clock())
        before = await desk.customer_texts(session, conversation.id, now=self._clock())
        words = "\n".join(own_words(utterance))
        conversation.lang = conversation.lang or detect(words, known_language(None, utterance))
        conversation.updated_at = self._clock()
        record = {**(recalled.record if recalled else {}), "rule": "error", "error": type(error).__name__}
        await self._transcript.record(session, conversation, rows, utterance, fetched, record)
        if conversation.owner is not Owner.ASSISTANT:
            await self._desk.customer_acts.wrote(session, conversation, courtesy=False, said=own_words(utterance))
            return
        state, book, lang = situation.remembered(), self._flows(), conversation.lang
        left = record_of(state.flow, book, lang) if state.flow else None
        for event in handed_off(state.flow):
            metrics.FLOWS.labels(event.flow, event.what).inc()
        state = replace(state, flow=None)
        failed = Decision((Handoff(Reason.ERROR, flow=left),), state, "error")
        routed = recalled.routed if recalled else None
        routed = routed or await self._routing.route(
            Handoff(Reason.ERROR), "error", own_words(utterance), before, state, None
        )
        plan = Plan(situation, lang, state, failed, record, routed)
        conversation_id = conversation.id  # a rollback forgets what was loaded
        try:
            async with session.begin_nested():
                await self._acting.carry_out(session, conversation, plan)
        except ReplyError:
            # The handoff's own template is broken: the ticket is made all the same.
            log.exception("turn.announcement_failed", conversation=conversation_id)
            await session.refresh(conversation)
            await self._acting.hand_off(session, conversation, Reason.ERROR, routed)

    async def give_up(
        self, session: AsyncSession, rows: Sequence[Incoming], utterance: Sequence[InboundMessage], error: Exception
    ) -> None:
        """The end of a turn whose failure could not be kept either (`fail`), because what is remembered of the
        conversation can't be read, say: the bare words are, and a person gets them. Nothing is announced."""
        conversation, now = await self._open(session, rows[0].address), self._clock()
        if not await ledger.take(session, rows, InboxState.FAILED, now=now, error=repr(error)[:2000]):
            return
        conversation.state, conversation.updated_at = DialogueState(greeted=True).to_json(), now
        for row, inbound in zip(rows, utterance, strict=True):
            session.add(
                Message(
                    conversation_id=conversation.id,
                    author=Author.CUSTOMER,
                    kind="text",
                    text=inbound.text or f"({inbound.kind})",
                    external_id=(inbound.platform_id or row.external_id)[:128],
                    decision={"rule": "error", "error": type(error).__name__},
                    sent_at=inbound.sent_at,
                    created_at=now,
                )
            )
        await session.flush()
        if conversation.owner is Owner.ASSISTANT:
            texts = own_words(utterance)
            await self._desk.tickets.hand_off(
                session,
                conversation,
                reason=Reason.ERROR,
                route=route(self._desk.tickets.topics, None, texts),
                texts=texts,
                now=now,
            )

    async def undelivered(self, session: AsyncSession, message: Message, problem: str, *, permanent: bool) -> None:
        """What did not reach the customer ends at a person: a note on the ticket, which is open again if an agent
        wrote it, and a ticket if there is none and it was an answer. The customer is told of the ticket unless his
        platform takes nothing any more.

        A failed announcement makes a note alone, so that one failure never leads to the next.
        """
        conversation = await desk.lock_conversation(session, message.conversation_id)
        lang = conversation.lang or DEFAULT
        about = {"undelivered": message.id, "error": problem}
        text = self._replies.render("note_undelivered", lang, {"problem": problem, "text": message.text})
        await desk.note(session, conversation.id, text, about=about, now=self._clock())
        if message.author is Author.AGENT:
            await self._desk.undelivered(session, message)
        if conversation.owner is Owner.PERSON or message.author is not Author.ASSISTANT:
            return
        decided = message.decision or {}
        if decided.get("action") not in ("answer", "clarify") or decided.get("reply") == "greeting":
            return
        state, book = DialogueState.from_json(conversation.state), self._flows()
        left = record_of(state.flow, book, lang) if state.flow else None
        action = Handoff(Reason.UNDELIVERED, flow=left)
        before = await desk.customer_texts(session, conversation.id, now=self._clock())
        told = replace(state, topic=message.topic or decided.get("likely_topic") or state.topic)
        routed = await self._routing.route(action, "undelivered", (), before, told, None)
        if permanent:
            await self._acting.hand_off(session, conversation, Reason.UNDELIVERED, routed)
        else:
            for event in handed_off(state.flow):
                metrics.FLOWS.labels(event.flow, event.what).inc()
            decision = Decision((action,), replace(state, flow=None), "undelivered")
            situation = Situation.of(conversation, self._clock())
            plan = Plan(situation, lang, state, decision, about, routed)
            await self._acting.carry_out(session, conversation, plan)

    async def _open(self, session: AsyncSession, address: Address) -> Conversation:
        return await desk.open_conversation(
            session, channel=address.channel, account=address.account, chat_id=address.chat_id, now=self._clock()
        )

    async def _tell_desk(
        self,
        session: AsyncSession,
        conversation: Conversation,
        act: ToDesk,
        said: Sequence[str],
        routed: Routed | None,
    ) -> None:
        if act.kind == "feedback":
            # A button may be made up, or of before the customer was erased.
            if await self._desk.customer_acts.is_his(session, conversation, act.ticket_id):
                await self._desk.customer_acts.give_feedback(session, act.ticket_id, act.feedback)
        elif act.kind == "end":
            await self._desk.customer_acts.end(session, conversation)
        elif act.kind == "back":
            await self._desk.customer_acts.go_back(session, conversation)
        elif act.nps is not None:
            await self._desk.nps.take(session, conversation, act.nps)
        else:
            leads_to = routed.route if routed is not None else None
            await self._desk.customer_acts.wrote(
                session, conversation, courtesy=act.kind == "courtesy", said=said, route=leads_to
            )
