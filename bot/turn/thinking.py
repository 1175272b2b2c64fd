"""What the customer said is understood and decided upon, without a transaction: models and lookups are asked, and
nothing is written.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from itertools import chain
from typing import Any

import structlog

from bot.attachments import Fetched
from bot.channels.base import InboundMessage
from bot.dialogue import (
    FEEDBACK,
    MORE,
    Action,
    Answer,
    Candidate,
    Clarify,
    Decision,
    DialogueState,
    FlowEvent,
    Handoff,
    Say,
    Utterance,
    choice_of,
)
from bot.flows.engine import ShowArticle, Tell, asked_slot
from bot.flows.turns import FlowBook, decide_turn, expired, glance, handed_off, record_of
from bot.language import DEFAULT, detect
from bot.ledger import Sessions
from bot.models.shadow import shadowed
from bot.models.understanding import Understander, Understood
from bot.turn.for_desk import for_desk, is_courtesy, nothing_said, nps_answer, without_nps
from bot.turn.looking_up import LookingUp
from bot.turn.pictures import Pictures
from bot.turn.plan import Plan, Recalled, Routed, ToDesk
from bot.turn.routing import Routing
from bot.turn.situation import COURTESIES, Situation
from bot.turn.threads import ModelThreads
from bot.turn.utterance import SILENT, STARTS_FLOW, known_language, own_words, uttered
from handoff.lifecycle import TicketStatus
from handoff.records import Owner, Reason

log = structlog.get_logger()

RECALL_SECONDS = 5.0


class Thinking:
    def __init__(
        self,
        *,
        understander: Callable[[], Understander],
        threads: ModelThreads,
        routing: Routing,
        looking_up: LookingUp,
        pictures: Pictures,
        flows: Callable[[], FlowBook],
        clock: Callable[[], datetime],
        ungreeted: frozenset[str],
    ) -> None:
        """As `Turns` has them."""
        self._understander = understander
        self._threads = threads
        self._routing = routing
        self._looking_up = looking_up
        self._pictures = pictures
        self._flows = flows
        self._clock = clock
        self._ungreeted = ungreeted

    async def think(
        self, sessions: Sessions, situation: Situation, utterance: Sequence[InboundMessage], fetched: Sequence[Fetched]
    ) -> Plan:
        """Decide what to do, holding no transaction while the models work. Raises whatever breaks."""
        first = utterance[0]
        if first.kind in SILENT or (first.kind == STARTS_FLOW and situation.owner is Owner.PERSON):
            unchanged = DialogueState.from_json(situation.state)
            nothing = Decision((), unchanged, first.kind)
            return Plan(situation, situation.lang or DEFAULT, unchanged, nothing, {"rule": first.kind}, None)
        understander = (await self._threads.run(self._understander)).answering(str(first.address))
        known = known_language(situation.lang, utterance)
        said, files = uttered(utterance, fetched, known), list(chain.from_iterable(fetched))
        book = self._flows()
        state, lapsed = _without_expired(situation.remembered(), book, self._clock())
        if first.address.channel in self._ungreeted:
            state = replace(state, greeted=True)
        to_desk = for_desk(situation, state, first, said.text)
        waits = ""
        if to_desk is None or to_desk.kind != "nps":
            # Whatever else comes: the question is no longer the newest thing.
            waits, state = state.nps, without_nps(state)
        if to_desk is not None and to_desk.kind == "word" and situation.courtesies and said.text.strip() and not files:
            heard = await self._threads.run(understander.understand, said.text, known)
            if is_courtesy(heard.parts, situation.courtesies, understander.policy):
                to_desk = ToDesk("courtesy")
        wants_models = situation.owner is Owner.ASSISTANT and bool(said.text.strip()) and said.choice is None
        wants_models = wants_models and to_desk is None and said.kind != "start"

        if waits and wants_models and first.kind == "text" and not files:
            to_desk = await self._threads.run(nps_answer, waits, understander, state, said, known, book, self._clock())
            wants_models = to_desk is None

        def decide() -> tuple[Decision, Understood | None, str]:
            now, meant, spoken = self._clock(), None, known
            if wants_models and not glance(state, situation.owner, said, book, now):
                meant = understander.understand(said.text, known)
                spoken = meant.lang
            elif spoken is None:
                # What a link carries is no language.
                spoken = detect("" if first.kind == "start" else said.text, None)
            if to_desk is not None:
                return nothing_said(to_desk, situation.owner, state), meant, spoken
            spoken_now = replace(said, lang=spoken)
            chosen = _chosen_article(state, spoken_now, understander)
            parts = meant.parts if meant else ()
            policy = understander.policy
            return decide_turn(state, situation.owner, spoken_now, parts, chosen, policy, book, now), meant, spoken

        # In one go, off the event loop: dates and names are read in milliseconds, not in microseconds.
        decision, understood, lang = await self._threads.run(decide)
        decision = await self._looking_up.until_done(decision, first, lang, book)
        decision = await self._with_articles(decision, understander, lang)
        draft = None
        if situation.drafts:
            decision, draft = await self._drafted(sessions, decision, book, lang)
        decision = replace(decision, events=(*lapsed, *decision.events))
        record = {
            "rule": decision.rule,
            "choice": first.choice,
            **(understood.record if understood else {"lang": lang, "model_version": understander.version}),
            **_missed(decision, state, book),
            **({"personal": True} if _is_personal(state, book) else {}),
        }
        routed = await self._routed(sessions, situation, understander, decision, state, to_desk, own_words(utterance))
        shown = await self._pictures.of(decision.actions)
        return Plan(situation, lang, state, decision, record, routed, to_desk, shown, draft)

    async def recall(
        self, sessions: Sessions, situation: Situation, utterance: Sequence[InboundMessage]
    ) -> Recalled | None:
        """What the models make of an utterance whose turn broke, so that its ticket goes to the right team all the
        same. None where they are what broke, or nothing was said in words. Never raises."""
        texts = own_words(utterance)
        if situation.owner is not Owner.ASSISTANT or not texts:
            return None
        try:
            async with asyncio.timeout(RECALL_SECONDS):
                understander = (await self._threads.run(self._understander)).answering(str(utterance[0].address))
                routed, understood = await self._routing.by_matter(
                    sessions, situation, understander, texts, Reason.ERROR, "error"
                )
        except Exception as error:  # noqa: BLE001
            # Edge: the turn is lost anyway, and its ticket is routed by keywords.
            log.warning("turn.not_recalled", error=type(error).__name__)
            return None
        return Recalled(routed, understood.record)

    async def _with_articles(self, decision: Decision, understander: Understander, lang: str) -> Decision:
        """The decision with the articles that its flow shows. One that is gone is left out."""
        if not any(isinstance(action, ShowArticle) for action in decision.actions):
            return decision
        actions: list[Action] = []
        for action in decision.actions:
            if not isinstance(action, ShowArticle):
                actions.append(action)
                continue
            found = await self._threads.run(understander.candidate, action.article_id, lang)
            if found is None:
                log.warning("flow.article_missing", article=action.article_id)
            else:
                actions.append(Answer(found, FEEDBACK if action.last else {}))
        return replace(decision, actions=tuple(actions))

    async def _drafted(
        self, sessions: Sessions, decision: Decision, book: FlowBook, lang: str
    ) -> tuple[Decision, Candidate | None]:
        """Of a topic that people answer themselves: a handoff in place of the answer, and the answer as a draft. A flow
        that waited ends with it, and the person gets what it knows."""
        offered = [action.candidate for action in decision.actions if isinstance(action, Answer)]
        offered += [action.candidates[0] for action in decision.actions if isinstance(action, Clarify)]
        if not offered:
            return decision, None
        async with sessions.reading() as session:
            topics = await shadowed(session)
        draft = next((candidate for candidate in offered if candidate.topic in topics), None)
        if draft is None:
            return decision, None
        said = (each for each in decision.actions if isinstance(each, (Say, Tell)) and not each.options)
        kept = tuple(each for each in said if isinstance(each, Say) or not each.waits)
        waiting = decision.state.flow
        left = record_of(waiting, book, lang) if waiting is not None else None
        handoff = Handoff(Reason.SHADOW, draft.topic, draft.confidence, left)
        state = DialogueState(greeted=True, topic=draft.topic)
        events = (*decision.events, *handed_off(waiting))
        return Decision((*kept, handoff), state, "shadow", events=events), draft

    async def _routed(
        self,
        sessions: Sessions,
        situation: Situation,
        understander: Understander,
        decision: Decision,
        state: DialogueState,
        to_desk: ToDesk | None,
        words: Sequence[str],
    ) -> Routed | None:
        """Where a handoff among the actions goes, or a ticket of which nothing has told yet what it is about."""
        routed = None
        for action in decision.actions:
            if isinstance(action, Handoff):
                before = await self._routing.said_before(sessions, situation)
                routed = await self._routing.route(action, decision.rule, words, before, state, understander.topics)
        if to_desk is not None and to_desk.kind == "word" and situation.undecided and "".join(words).strip():
            matter, meant = await self._routing.by_matter(
                sessions, situation, understander, words, Reason.ASKED_FOR_PERSON, "asked_for_person"
            )
            thanks = is_courtesy(meant.parts, COURTESIES[TicketStatus.AWAITING_FEEDBACK], understander.policy)
            routed = None if thanks else matter
        return routed


def _without_expired(
    state: DialogueState, book: FlowBook, now: datetime
) -> tuple[DialogueState, tuple[FlowEvent, ...]]:
    """Without a flow that waited for too long, and what became of it."""
    if state.flow is None or not expired(state.flow, book, now):
        return state, ()
    return replace(state, flow=None, options={}), (FlowEvent(state.flow.flow, "expired", state.flow.step),)


def _chosen_article(state: DialogueState, said: Utterance, understander: Understander) -> Mapping[str, Candidate]:
    """The article that a choice shows, by its id; none for any other. Blocks."""
    token = choice_of(state, said)
    shows, _, article_id = (token or "").partition(":")
    if token not in state.options or shows not in ("article", MORE):
        return {}
    found = understander.candidate(article_id, said.lang, whole=shows == MORE, asked=state.asked)
    return {article_id: found} if found is not None else {}


def _missed(decision: Decision, state: DialogueState, book: FlowBook) -> dict[str, Any]:
    """For the record: where a flow could not use what was said. Nothing of what is personal by the flow's own word."""
    event = next((each for each in decision.events if each.what == "missed"), None)
    if event is None or state.flow is None or book.at(state.flow) is None or _is_personal(state, book):
        return {}
    return {"missed": {"flow": event.flow, "step": event.step}}


def _is_personal(state: DialogueState, book: FlowBook) -> bool:
    """Whether what was asked for is for agents alone. Editors, who see questions of customers, see none of it."""
    flow = book.at(state.flow) if state.flow else None
    if flow is None or state.flow is None:
        return False
    slot = flow.file.slots.get(asked_slot(flow.steps.get(state.flow.step)) or "")
    return slot is not None and slot.personal
