"""Where a conversation goes that the assistant hands over, and by which of the customer's words that is told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime

from bot.dialogue import ANY_TOPIC, DialogueState, Handoff
from bot.ledger import Sessions
from bot.models.understanding import Understander, Understood
from bot.turn.plan import Routed
from bot.turn.situation import Situation
from bot.turn.threads import ModelThreads
from handoff import desk
from handoff.records import Reason
from handoff.routing import TopicClassifier, Topics, route

MAX_ROUTING_TEXTS = 20


class Routing:
    def __init__(self, topics: Topics, threads: ModelThreads, clock: Callable[[], datetime]) -> None:
        self._topics = topics
        self._threads = threads
        self._clock = clock

    async def route(
        self,
        action: Handoff,
        rule: str,
        said: Sequence[str],
        before: Sequence[str],
        state: DialogueState,
        topics: TopicClassifier | None,
    ) -> Routed:
        """said: the texts of this turn, the oldest first. before: what the customer said before, the newest first.
        topics: None where the models are not to be asked."""
        newest = [*reversed(said), *(text for text in before if text not in said)][:MAX_ROUTING_TEXTS]
        telling = newest
        if rule != "low_confidence" and action.topic is None:
            # "Call a person" says nothing of the matter; what was said before it does.
            telling = [*(text for text in newest if text not in said), *(text for text in newest if text in said)]
        chosen = await self._threads.run(
            route,
            self._topics,
            topics,
            newest,
            by_intent=(action.topic, action.confidence or 0.0) if action.topic else None,
            by_article=state.topic,
        )
        return Routed(chosen, telling)

    async def by_matter(
        self,
        sessions: Sessions,
        situation: Situation,
        understander: Understander,
        texts: Sequence[str],
        reason: Reason,
        rule: str,
    ) -> tuple[Routed, Understood]:
        """Where words go that the assistant will not answer, by all that the models make of them."""
        understood = await self._threads.run(understander.understand, "\n".join(texts), situation.lang)
        whole, lang, policy = understood.parts[0], understood.lang, understander.policy
        topic, state = whole.outcome.handoff, situation.remembered()
        sure = topic is not None and topic != ANY_TOPIC and whole.confidence >= policy.intent[lang]
        likely = [each.topic for each in whole.candidates[:1] if each.confidence >= policy.clarify[lang]]
        before = await self.said_before(sessions, situation)
        action = Handoff(reason, topic if sure else None, whole.confidence if sure else None)
        state = replace(state, topic=next(filter(None, likely), state.topic))
        return await self.route(action, rule, texts, before, state, understander.topics), understood

    async def said_before(self, sessions: Sessions, situation: Situation) -> Sequence[str]:
        """The newest first."""
        if situation.conversation_id is None:
            return ()
        async with sessions.reading() as session:
            return await desk.customer_texts(session, situation.conversation_id, now=self._clock())
