"""What silence does to a flow that waits: the customer is reminded once, and later the flow is forgotten."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from bot import ledger, metrics
from bot.channels.base import Option
from bot.dialogue import DialogueState
from bot.flows.engine import FlowState, Tell
from bot.flows.turns import FlowBook, resume
from bot.language import DEFAULT
from bot.replies import Replies
from bot.timers import cancel_timer, set_timer
from handoff import desk
from handoff.outcomes import Step
from handoff.records import Conversation, Owner

log = structlog.get_logger()

FLOW = "flow"


async def watch(
    session: AsyncSession,
    conversation: Conversation,
    before: FlowState | None,
    present: FlowState | None,
    book: FlowBook,
    now: datetime,
) -> None:
    """Set what silence will do to the flow that waits now, in place of what was set before."""
    key = f"{FLOW}:{conversation.id}"
    flow = book.at(present) if present else None
    if present is None or flow is None:
        if before is not None:
            await cancel_timer(session, key)
        return
    payload = {"conversation_id": conversation.id, "flow": present.flow, "turn": present.turn}
    reminds = timedelta(minutes=flow.file.remind_after_minutes)
    expires = timedelta(hours=flow.file.expires_after_hours)
    does, after = ("remind", reminds) if reminds and reminds < expires else ("expire", expires)
    await set_timer(session, key, FLOW, now + after, {**payload, "does": does})


class FlowTimers:
    """Does it when the time has come."""

    def __init__(self, *, flows: Callable[[], FlowBook], replies: Replies) -> None:
        self._flows = flows
        self._replies = replies

    async def fire(self, session: AsyncSession, payload: Mapping[str, Any], now: datetime) -> None:
        conversation = await desk.lock_conversation(session, int(payload["conversation_id"]))
        state, book = DialogueState.from_json(conversation.state), self._flows()
        waits = state.flow
        if conversation.owner is not Owner.ASSISTANT or waits is None:
            return
        if (waits.flow, waits.turn) != (payload["flow"], payload["turn"]):
            return  # he has gone on meanwhile
        if payload["does"] == "expire":
            state = replace(state, flow=None, options={})
            metrics.FLOWS.labels(waits.flow, "expired").inc()
            log.info("flow.expired", conversation=conversation.id, flow=waits.flow, step=waits.step)
        else:
            state = await self._remind(session, conversation, state, book, now)
        conversation.state = state.to_json()

    async def _remind(
        self, session: AsyncSession, conversation: Conversation, state: DialogueState, book: FlowBook, now: datetime
    ) -> DialogueState:
        lang = conversation.lang or DEFAULT
        decision = resume(state, "flow_reminder", lang, book, now)
        told = decision.actions[-1] if decision and decision.actions else None
        if decision is None or not isinstance(told, Tell) or decision.state.flow is None:
            return state
        waits = decision.state.flow
        options = {token: self._replies.label(label, lang) for token, label in told.options.items()}
        if conversation.blocked_at is None:
            await ledger.say(
                session,
                conversation,
                self._replies.join(told.parts, lang),
                options=[Option(token, label) for token, label in options.items()],
                decision={"action": "clarify", "rule": "flow_reminder", "flow": waits.flow, "flow_step": waits.step},
                step=Step.ASKED,
                topic=decision.state.topic,
                guarded=True,
                now=now,
            )
        flow = book.at(waits)
        assert flow is not None  # noqa: S101 - it has just asked
        payload = {"conversation_id": conversation.id, "flow": waits.flow, "turn": waits.turn, "does": "expire"}
        expires = datetime.fromisoformat(waits.asked_at) + timedelta(hours=flow.file.expires_after_hours)
        await set_timer(session, f"{FLOW}:{conversation.id}", FLOW, max(now, expires), payload)
        return replace(decision.state, options=options)
