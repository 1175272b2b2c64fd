"""One turn: what the customer said is understood and decided upon without a transaction, and then saved in one,
with its replies queued, provided that nothing has changed meanwhile. No platform is spoken to.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from functools import partial
from typing import Any, Literal, Protocol, TypeVar

import structlog
from sqlalchemy import bindparam, exists, select
from sqlalchemy.ext.asyncio import AsyncSession

from bot import ledger, metrics, reach
from bot.attachments import StoredFile
from bot.channels.base import Address, InboundMessage, Option
from bot.desk import nps_reading, survey_reading
from bot.desk.agent_desk import AgentDesk
from bot.desk.joining import BACK as WITHOUT_WAITING
from bot.desk.nps_reading import NpsSaid
from bot.desk.survey import SURVEY, SURVEY_HELPED, SURVEY_NOT_HELPED
from bot.dialogue import (
    ANY_TOPIC,
    FEEDBACK,
    HELPED,
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
from bot.errors import FileGoneError, FileRefusedError, ReplyError, TooLargeError
from bot.flows.engine import START_TOKEN, Looked, LookUp, ShowArticle, Tell, asked_slot
from bot.flows.lookups import Asker
from bot.flows.timers import watch
from bot.flows.turns import (
    MAX_LOOKUPS,
    NO_FLOWS,
    FlowBook,
    carry_on,
    decide_turn,
    expired,
    give_up,
    glance,
    record_of,
    stopped,
)
from bot.gathering import JOINABLE, WITHDRAWN
from bot.language import DEFAULT, LANGUAGES, detect
from bot.ledger import InboxState, Incoming, Sessions
from bot.models.records import ShadowTopic
from bot.models.shadow import keep_draft, shadowed
from bot.models.understanding import Understander, Understood
from bot.replies import Replies
from handoff import desk
from handoff.lifecycle import TicketStatus
from handoff.outcomes import EPISODE_GAP, Step
from handoff.records import (
    NOTE,
    Attachment,
    AttachmentState,
    Author,
    Conversation,
    Feedback,
    Message,
    Owner,
    Reason,
    Ticket,
)
from handoff.routing import Route, TopicClassifier, route
from handoff.second_look import undecided
from kb_index.articles import ArticleFile

log = structlog.get_logger()

SILENT = frozenset({"edit", "deletion", "reaction", "note", "echo", "blocked", "unblocked", WITHDRAWN})
"""Kinds of message that tell something and want no answer."""
STARTS_FLOW = "flow"
"""Kind of message by which an agent starts a flow: `text` is its id, `context["note"]` what the transcript says."""
MAX_NAME_CHARS = 200
END_WORDS = frozenset(
    ("/end", "/завершить", "закрыть обращение", "завершить разговор", "end chat", "close ticket", "close the ticket")
)
BACK = {WITHOUT_WAITING: "@label_assistant"}
"""Offered while nobody has answered: whoever would rather not wait goes on with the assistant."""
COURTESIES = {
    TicketStatus.AWAITING_FEEDBACK: frozenset(("thanks", "confirmed", "goodbye")),
    TicketStatus.WAITING: frozenset(("thanks", "goodbye")),
    TicketStatus.ON_HOLD: frozenset(("thanks", "goodbye")),
}
"""Replies of intents that ask for nothing after a person's word. While he waits for an answer, "yes" may be one."""
MAX_ROUTING_TEXTS = 20
RECALL_SECONDS = 5.0
LOOKUP_SECONDS = 20.0
"""Whatever a lookup's own limit is, a turn waits no longer."""
_STEPS = {
    "confirmed": Step.CONFIRMED,
    **dict.fromkeys(("rephrase", "too_long", "unsupported", "attachment_received"), Step.ASKED),
    **dict.fromkeys(("attachment_too_large", "attachment_failed"), Step.ASKED),
    **dict.fromkeys(("capabilities", "vacancies"), Step.ANSWERED),
}
"""Replies that are a step towards what the customer wants; the others are small talk."""


@dataclass(frozen=True)
class FetchedAttachment:
    """What became of a file that came with the message, before the turn begins."""

    kind: str
    state: AttachmentState
    file_name: str | None
    mime_type: str | None
    size_bytes: int | None
    sha256: str | None
    source: Mapping[str, Any]


class Lookups(Protocol):
    """Looks up what flows ask for."""

    async def run(self, name: str, slots: Mapping[str, Any], asker: Asker) -> Looked:
        """Never raises: what goes wrong is a reason. Takes seconds at most."""


Result = TypeVar("Result")
Fetched = Sequence[FetchedAttachment]
"""Of one message."""


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
    def of(cls, conversation: Conversation) -> Situation:
        return cls(conversation.id, conversation.owner, conversation.epoch, conversation.lang, conversation.state)

    def still_holds(self, conversation: Conversation) -> bool:
        now = Situation.of(conversation)
        mine = (self.owner, self.epoch, self.lang, self.state)
        return mine == (now.owner, now.epoch, now.lang, now.state)


@dataclass(frozen=True)
class Routed:
    route: Route
    texts: Sequence[str]
    """What the customer said, the most telling first."""


@dataclass(frozen=True)
class Recalled:
    """What is known of an utterance whose turn broke."""

    routed: Routed
    record: Mapping[str, Any]


@dataclass(frozen=True)
class ToDesk:
    """What the customer did that concerns a ticket."""

    kind: Literal["word", "courtesy", "feedback", "end", "back", "nps"]
    ticket_id: int = 0
    feedback: Feedback = Feedback.HELPED
    nps: NpsSaid | None = None
    """Set of "nps"."""


@dataclass(frozen=True)
class Plan:
    """What a turn is going to write."""

    situation: Situation
    lang: str
    state: DialogueState
    decision: Decision
    record: Mapping[str, Any]
    """Kept with the message: what was understood, and the rule that decided."""
    routed: Routed | None
    """Set when there is a handoff among the actions, and when a word for the desk may tell the topic at last."""
    to_desk: ToDesk | None = None
    """Set when the customer's word is not for the assistant."""
    pictures: Mapping[str, Sequence[StoredFile]] = field(default_factory=dict)
    """Article, or picture of a flow → the files, where an answer shows some."""
    draft: Candidate | None = None
    """What a person gets to send in place of the assistant."""


_UTTERED: Mapping[str, Literal["text", "start", "choice", "attachment"]] = {
    "text": "text",
    "start": "start",
    "choice": "choice",
    "attachment": "attachment",
    STARTS_FLOW: "choice",
}
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
_AUTHORS = {"note": Author.SYSTEM, STARTS_FLOW: Author.SYSTEM, "echo": Author.AGENT}
"""Who wrote what did not come from the customer: the platform, an agent in the desk or in the platform's own app."""


class Turns:
    """Runs turns with the live models; everything it needs is given to it."""

    def __init__(
        self,
        *,
        understander: Callable[[], Understander],
        replies: Replies,
        agent_desk: AgentDesk,
        clock: Callable[[], datetime],
        limit_mb: int,
        ungreeted: frozenset[str] = frozenset({"terminal"}),
        model_threads: int | None = None,
        stored: Callable[[ArticleFile], Awaitable[StoredFile]] | None = None,
        flows: Callable[[], FlowBook] = lambda: NO_FLOWS,
        lookups: Lookups | None = None,
        flow_picture: Callable[[str], Awaitable[StoredFile]] | None = None,
    ) -> None:
        """ungreeted: channels where nobody has to be told who answers.
        stored: a picture of an article as a file that can be sent; None: answers show none. flow_picture: the same for
        one of the flows, by its name.
        flows: those that may be run, the same object until they change. lookups: None: every lookup fails.
        model_threads: how many utterances are understood at once; None: some more than there are cores."""
        self._understander = understander
        self._replies = replies
        self._desk = agent_desk
        self._topics = agent_desk.tickets.topics
        self._clock = clock
        self._limit_mb = limit_mb
        self._ungreeted = ungreeted
        self._stored = stored
        self._flows = flows
        self._lookups = lookups
        self._flow_picture = flow_picture
        self._models = ThreadPoolExecutor(model_threads, thread_name_prefix="models")

    async def _with_models(self, work: Callable[..., Result], *arguments: Any, **options: Any) -> Result:
        """Off the event loop."""
        call = partial(copy_context().run, work, *arguments, **options)
        return await asyncio.get_running_loop().run_in_executor(self._models, call)

    async def situation(self, session: AsyncSession, address: Address) -> Situation:
        """What the next turn of this conversation will be decided upon, as it is now."""
        found = await session.execute(_SITUATION, asdict(address))
        row = found.first()
        if row is None:
            return Situation(None, Owner.ASSISTANT, 0, None, {})
        long_ago = self._clock() - row.updated_at > EPISODE_GAP
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

    async def think(
        self, sessions: Sessions, situation: Situation, utterance: Sequence[InboundMessage], fetched: Sequence[Fetched]
    ) -> Plan:
        """Decide what to do, holding no transaction while the models work. Raises whatever breaks."""
        first = utterance[0]
        if first.kind in SILENT or (first.kind == STARTS_FLOW and situation.owner is Owner.PERSON):
            unchanged = DialogueState.from_json(situation.state)
            nothing = Decision((), unchanged, first.kind)
            return Plan(situation, situation.lang or DEFAULT, unchanged, nothing, {"rule": first.kind}, None)
        understander = (await self._with_models(self._understander)).answering(str(first.address))
        texts = (message.text for message in utterance if message.kind in JOINABLE and message.text)
        text = first.text if first.kind in ("start", STARTS_FLOW) else "\n".join(texts)
        known = situation.lang or next((m.lang_hint for m in utterance if m.lang_hint in LANGUAGES), None)
        state, book = DialogueState.from_json(situation.state), self._flows()
        if situation.long_ago:
            # The buttons still stand in the chat. An answer of days ago may be given again.
            state = DialogueState(
                greeted=state.greeted,
                options=state.options,
                asked=state.asked,
                flow=state.flow,
                nps=state.nps if state.nps.startswith("score:") else "",
            )
        lapsed: tuple[FlowEvent, ...] = ()
        if state.flow is not None and expired(state.flow, book, self._clock()):
            lapsed = (FlowEvent(state.flow.flow, "expired", state.flow.step),)
            state = replace(state, flow=None, options={})
        to_desk = _for_desk(situation, state, first, text)
        waits = ""
        if to_desk is None or to_desk.kind != "nps":
            # Whatever else comes: the question is no longer the newest thing.
            waits, state = state.nps, _without_nps(state)
        files = [file for files in fetched for file in files]
        if to_desk is not None and to_desk.kind == "word" and situation.courtesies and text.strip() and not files:
            said = await self._with_models(understander.understand, text, known)
            if said.parts[0].outcome.reply in situation.courtesies:
                to_desk = ToDesk("courtesy")
        kind = "attachment" if files and first.kind in JOINABLE else first.kind
        if first.address.channel in self._ungreeted:
            state = replace(state, greeted=True)
        said_now = Utterance(
            kind=_UTTERED.get(kind, "unsupported"),
            text=text,
            lang=known or DEFAULT,
            choice=f"{START_TOKEN}:{text}" if first.kind == STARTS_FLOW else first.choice,
            attachment_kinds=tuple(file.kind for file in files),
            refused_attachments=tuple(
                file.state for file in files if file.state in (AttachmentState.TOO_LARGE, AttachmentState.FAILED)
            ),
        )
        wants_models = situation.owner is Owner.ASSISTANT and text.strip() and said_now.choice is None
        wants_models = wants_models and to_desk is None and kind != "start"

        if waits and wants_models and first.kind == "text" and not files:
            to_desk = await self._with_models(
                _nps_answer, waits, understander, state, said_now, known, book, self._clock()
            )
            wants_models = wants_models and to_desk is None

        def decide() -> tuple[Decision, Understood | None, str]:
            now, meant, spoken = self._clock(), None, known
            if wants_models and not glance(state, situation.owner, said_now, book, now):
                meant = understander.understand(text, known)
                spoken = meant.lang
            elif spoken is None:
                # What a link carries is no language.
                spoken = detect("" if first.kind == "start" else text, None)
            if to_desk is not None:
                return _to_desk(to_desk, situation.owner, state), meant, spoken
            spoken_now = replace(said_now, lang=spoken)
            token = choice_of(state, spoken_now)
            shows, _, article_id = (token or "").partition(":")
            found = None
            if token in state.options and shows in ("article", MORE):
                found = understander.candidate(article_id, spoken, whole=shows == MORE, asked=state.asked)
            decision = decide_turn(
                state,
                situation.owner,
                spoken_now,
                meant.parts if meant else (),
                {article_id: found} if found is not None else {},
                understander.policy,
                book,
                now,
            )
            return decision, meant, spoken

        # In one go, off the event loop: dates and names are read in milliseconds, not in microseconds.
        decision, understood, lang = await self._with_models(decide)
        decision = await self._looked_up(decision, first, lang, book)
        decision = await self._with_articles(decision, understander, lang)
        decision, draft = await self._drafted(sessions, decision) if situation.drafts else (decision, None)
        decision = replace(decision, events=(*lapsed, *decision.events))
        record = {
            "rule": decision.rule,
            "choice": first.choice,
            **(understood.record if understood else {"lang": lang, "model_version": understander.version}),
            **_missed(decision, state, book),
            **({"personal": True} if _is_personal(state, book) else {}),
        }
        routed, words = None, _texts(utterance)
        for action in decision.actions:
            if isinstance(action, Handoff):
                before = await self._said_before(sessions, situation)
                routed = await self._route(action, decision.rule, words, before, state, understander.topics)
        if to_desk is not None and to_desk.kind == "word" and situation.undecided and "".join(words).strip():
            matter, meant = await self._routed_by_matter(
                sessions, situation, understander, words, Reason.ASKED_FOR_PERSON, "asked_for_person"
            )
            courtesy = meant.parts[0].outcome.reply in COURTESIES[TicketStatus.AWAITING_FEEDBACK]
            routed = None if courtesy else matter
        shown = {
            action.candidate.article_id: await self._pictures(action.candidate.pictures)
            for action in decision.actions
            if isinstance(action, Answer) and action.candidate.pictures
        }
        for action in decision.actions:
            if isinstance(action, Tell) and action.picture:
                shown[action.picture] = await self._picture(action.picture)
        return Plan(situation, lang, state, decision, record, routed, to_desk, shown, draft)

    async def _drafted(self, sessions: Sessions, decision: Decision) -> tuple[Decision, Candidate | None]:
        """Of a topic that people answer themselves: a handoff in place of the answer, and the answer as a draft."""
        offered = [action.candidate for action in decision.actions if isinstance(action, Answer)]
        offered += [action.candidates[0] for action in decision.actions if isinstance(action, Clarify)]
        if not offered:
            return decision, None
        async with sessions.reading() as session:
            topics = await shadowed(session)
        draft = next((candidate for candidate in offered if candidate.topic in topics), None)
        if draft is None:
            return decision, None
        kept = tuple(action for action in decision.actions if isinstance(action, Say) and not action.options)
        handoff = Handoff(Reason.SHADOW, draft.topic, draft.confidence)
        state = DialogueState(greeted=True, topic=draft.topic)
        return Decision((*kept, handoff), state, "shadow", events=decision.events), draft

    async def _looked_up(self, decision: Decision, first: InboundMessage, lang: str, book: FlowBook) -> Decision:
        """The decision when everything that its flow wants is looked up."""
        for _ in range(MAX_LOOKUPS):
            if decision.look_up is None:
                return decision
            flow = decision.state.flow.flow if decision.state.flow else ""
            looked = await self._look_up(decision.look_up, Asker(first.address, lang, flow, first.external_id))
            decision = carry_on(decision, looked, lang, book, self._clock())
        return give_up(decision, lang, book) if decision.look_up is not None else decision

    async def _look_up(self, wanted: LookUp, asker: Asker) -> Looked:
        if self._lookups is None:
            return Looked(False, reason="unknown")
        try:
            async with asyncio.timeout(LOOKUP_SECONDS):
                return await self._lookups.run(wanted.name, wanted.slots, asker)
        except Exception as error:  # noqa: BLE001
            # Edge: whatever breaks in a lookup, its flow knows where to go on.
            log.warning("flow.lookup_failed", flow=asker.flow, lookup=wanted.name, error=type(error).__name__)
            return Looked(False, reason="timeout" if isinstance(error, TimeoutError) else "failed")

    async def _with_articles(self, decision: Decision, understander: Understander, lang: str) -> Decision:
        """The decision with the articles that its flow shows. One that is gone is left out."""
        if not any(isinstance(action, ShowArticle) for action in decision.actions):
            return decision
        actions: list[Action] = []
        for action in decision.actions:
            if not isinstance(action, ShowArticle):
                actions.append(action)
                continue
            found = await self._with_models(understander.candidate, action.article_id, lang)
            if found is None:
                log.warning("flow.article_missing", article=action.article_id)
            else:
                actions.append(Answer(found, FEEDBACK if action.last else {}))
        return replace(decision, actions=tuple(actions))

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
        elif first.kind not in ("echo", "note"):
            await reach.back(session, conversation, now=self._clock())
        if first.kind in ("edit", "deletion"):
            await self._amend(session, conversation, rows[0], first)
        elif first.kind not in ("blocked", "unblocked"):
            last = await self._record(session, conversation, rows, utterance, fetched, plan.record)
            if first.kind == "echo" and not first.refers_to:
                await self._desk.elsewhere.answered(session, conversation, last)
            if first.kind not in SILENT:
                conversation.lang = plan.lang
                await self._act(session, conversation, plan)
                if plan.situation.owner is Owner.ASSISTANT:
                    await self._desk.tickets.wrote_elsewhere(session, conversation, now=self._clock())
                if plan.to_desk is not None:
                    await self._tell_desk(session, conversation, plan.to_desk, _texts(utterance), plan.routed)
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

        recalled: what `recall` said of it."""
        conversation = await self._open(session, rows[0].address)
        if not await ledger.take(session, rows, InboxState.FAILED, now=self._clock(), error=repr(error)[:2000]):
            return
        before = await desk.customer_texts(session, conversation.id, now=self._clock())
        conversation.lang = conversation.lang or detect(utterance[0].text, None)
        conversation.updated_at = self._clock()
        record = {**(recalled.record if recalled else {}), "rule": "error", "error": type(error).__name__}
        await self._record(session, conversation, rows, utterance, fetched, record)
        if conversation.owner is not Owner.ASSISTANT:
            await self._desk.customer_acts.wrote(session, conversation, courtesy=False, said=_texts(utterance))
            return
        state = DialogueState.from_json(conversation.state)
        book, lang = self._flows(), conversation.lang
        left = record_of(state.flow, book, lang) if state.flow else None
        if left is not None:
            metrics.FLOWS.labels(left.flow, "handed_off").inc()
        state = replace(state, flow=None)
        failed = Decision((Handoff(Reason.ERROR, flow=left),), state, "error")
        routed = recalled.routed if recalled else None
        routed = routed or await self._route(Handoff(Reason.ERROR), "error", _texts(utterance), before, state, None)
        plan = Plan(Situation.of(conversation), conversation.lang, state, failed, record, routed)
        conversation_id = conversation.id  # a rollback forgets what was loaded
        try:
            async with session.begin_nested():
                await self._act(session, conversation, plan)
        except ReplyError:
            # The handoff's own template is broken: the ticket is made all the same.
            log.exception("turn.announcement_failed", conversation=conversation_id)
            await session.refresh(conversation)
            await self._hand_off(session, conversation, Reason.ERROR, routed)

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
                    external_id=row.external_id[:128],
                    decision={"rule": "error", "error": type(error).__name__},
                    sent_at=inbound.sent_at,
                    created_at=now,
                )
            )
        await session.flush()
        if conversation.owner is Owner.ASSISTANT:
            texts = _texts(utterance)
            await self._desk.tickets.hand_off(
                session,
                conversation,
                reason=Reason.ERROR,
                route=route(self._topics, None, texts),
                texts=texts,
                now=now,
            )

    async def recall(
        self, sessions: Sessions, situation: Situation, utterance: Sequence[InboundMessage]
    ) -> Recalled | None:
        """What the models make of an utterance whose turn broke, so that its ticket goes to the right team all the
        same. None where they are what broke, or nothing was said in words. Never raises."""
        texts = _texts(utterance)
        if situation.owner is not Owner.ASSISTANT or not texts:
            return None
        try:
            async with asyncio.timeout(RECALL_SECONDS):
                understander = (await self._with_models(self._understander)).answering(str(utterance[0].address))
                routed, understood = await self._routed_by_matter(
                    sessions, situation, understander, texts, Reason.ERROR, "error"
                )
        except Exception as error:  # noqa: BLE001
            # Edge: the turn is lost anyway, and its ticket is routed by keywords.
            log.warning("turn.not_recalled", error=type(error).__name__)
            return None
        return Recalled(routed, understood.record)

    async def _routed_by_matter(
        self,
        sessions: Sessions,
        situation: Situation,
        understander: Understander,
        texts: Sequence[str],
        reason: Reason,
        rule: str,
    ) -> tuple[Routed, Understood]:
        """Where words go that the assistant will not answer, by all that the models make of them."""
        understood = await self._with_models(understander.understand, "\n".join(texts), situation.lang)
        whole, lang, policy = understood.parts[0], understood.lang, understander.policy
        topic, state = whole.outcome.handoff, DialogueState.from_json(situation.state)
        sure = topic is not None and topic != ANY_TOPIC and whole.confidence >= policy.intent[lang]
        likely = [each.topic for each in whole.candidates[:1] if each.confidence >= policy.clarify[lang]]
        before = await self._said_before(sessions, situation)
        action = Handoff(reason, topic if sure else None, whole.confidence if sure else None)
        state = replace(state, topic=next(filter(None, likely), state.topic))
        return await self._route(action, rule, texts, before, state, understander.topics), understood

    async def _said_before(self, sessions: Sessions, situation: Situation) -> Sequence[str]:
        """The newest first."""
        if situation.conversation_id is None:
            return ()
        async with sessions.reading() as session:
            return await desk.customer_texts(session, situation.conversation_id, now=self._clock())

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
        action, decided = Handoff(Reason.UNDELIVERED), message.decision or {}
        if decided.get("action") not in ("answer", "clarify") or decided.get("reply") == "greeting":
            return
        state = DialogueState.from_json(conversation.state)
        before = await desk.customer_texts(session, conversation.id, now=self._clock())
        told = replace(state, topic=message.topic or decided.get("likely_topic") or state.topic)
        routed = await self._route(action, "undelivered", (), before, told, None)
        decision = Decision((action,), state, "undelivered")
        if permanent:
            await self._hand_off(session, conversation, Reason.UNDELIVERED, routed)
        else:
            await self._act(
                session, conversation, Plan(Situation.of(conversation), lang, state, decision, about, routed)
            )

    async def _open(self, session: AsyncSession, address: Address) -> Conversation:
        return await desk.open_conversation(
            session, channel=address.channel, account=address.account, chat_id=address.chat_id, now=self._clock()
        )

    async def _amend(
        self, session: AsyncSession, conversation: Conversation, row: Incoming, inbound: InboundMessage
    ) -> None:
        """Change what the customer edited or took back, in the transcript. What was said before stays with it."""
        message = await desk.customer_message(session, conversation.id, inbound.refers_to)
        if message is None:
            # Written before this program knew the customer: all that is left to show is the new text.
            if inbound.kind == "edit":
                await self._record(session, conversation, [row], [inbound], [()], None)
        elif inbound.kind == "deletion":
            message.deleted_at, message.changed_at = inbound.sent_at, self._clock()
        elif message.text != inbound.text:
            message.edits = [*message.edits, {"text": message.text, "at": inbound.sent_at.isoformat()}]
            message.text, message.changed_at = inbound.text, self._clock()

    async def _record(
        self,
        session: AsyncSession,
        conversation: Conversation,
        rows: Sequence[Incoming],
        utterance: Sequence[InboundMessage],
        fetched: Sequence[Fetched],
        record: Mapping[str, Any] | None,
    ) -> Message:
        """Write what the customer said into the transcript, each message by itself. record: of the last one, which is
        returned."""
        now = self._clock()
        options = DialogueState.from_json(conversation.state).options
        for row, inbound, files in zip(rows, utterance, fetched, strict=True):
            if inbound.sender_name:
                conversation.customer_name = inbound.sender_name[:MAX_NAME_CHARS]
            quoted = await desk.message_by_external_id(session, conversation.id, inbound.refers_to)
            message = Message(
                conversation_id=conversation.id,
                author=_AUTHORS.get(inbound.kind, Author.CUSTOMER),
                agent_name=inbound.address.channel if inbound.kind == "echo" else None,
                kind=_kept_kind(inbound),
                text=str(inbound.context.get("note") or "") or inbound.text or options.get(inbound.choice or "") or "",
                reply_to_id=quoted.id if quoted else None,
                context=dict(inbound.context) or None,
                external_id=(inbound.platform_id or row.external_id)[:128],
                decision=dict(record) if record is not None and row is rows[-1] else None,
                sent_at=inbound.sent_at,
                created_at=now,
                attachments=[
                    Attachment(
                        kind=item.kind,
                        state=item.state,
                        file_name=item.file_name and item.file_name[:255],
                        mime_type=item.mime_type and item.mime_type[:127],
                        size_bytes=item.size_bytes,
                        sha256=item.sha256,
                        source=dict(item.source),
                    )
                    for item in files
                ],
            )
            session.add(message)
        own = [inbound for inbound in utterance if inbound.kind != "echo"]
        await self._desk.customers.learn(
            session,
            conversation,
            phone=next((inbound.phone for inbound in reversed(own) if inbound.phone), None),
            texts=[inbound.text for inbound in own if inbound.kind in JOINABLE],
            now=now,
        )
        return message

    async def _act(self, session: AsyncSession, conversation: Conversation, plan: Plan) -> None:
        lang, decision = plan.lang, plan.decision
        shown: dict[str, str] = dict(decision.state.options)
        hands_off = any(isinstance(action, Handoff) for action in decision.actions)
        confirmed = False
        for action in decision.actions:
            text, options, record, guarded = "", {}, {"action": "answer", **plan.record}, True
            step, topic = None, None
            if isinstance(action, Handoff):
                assert plan.routed is not None  # noqa: S101 - whoever plans a handoff also routes it
                ticket = await self._hand_off(session, conversation, action.reason, plan.routed)
                if plan.draft is not None:
                    drafted, _ = self.words(Answer(plan.draft, {}), lang)
                    version = str(plan.record.get("model_version", ""))
                    keep_draft(session, ticket.id, plan.draft, text=drafted, version=version, at=self._clock())
                text = await self._announcement(session, ticket, lang)
                options = self._labels(BACK, lang)
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
                text, options = self.words(action, lang)
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

    def words(self, action: Action, lang: str) -> tuple[str, dict[str, str]]:
        """What the customer reads, and the choices below it. Of a handoff neither: its words need the ticket.
        Raises ReplyError."""
        values = {"limit_mb": self._limit_mb}
        match action:
            case Answer():
                text = self._replies.render("answer", lang, {"text": action.candidate.text})
            case Clarify():
                text = self._replies.render("clarify", lang)
            case Tell():
                text = self._replies.join(action.parts, lang, values)
            case Say():
                text = self._replies.render(action.template, lang, {**values, **action.values})
            case _:
                return "", {}
        return text, self._labels(action.options, lang)

    async def _picture(self, name: str) -> list[StoredFile]:
        if self._flow_picture is None:
            return []
        try:
            return [await self._flow_picture(name)]
        except (FileGoneError, TooLargeError, OSError) as error:
            # The words tell it without.
            log.warning("flow.picture_missing", picture=name, error=repr(error))
            return []

    async def _pictures(self, files: Sequence[ArticleFile]) -> list[StoredFile]:
        if self._stored is None:
            return []
        found = []
        for file in files:
            try:
                found.append(await self._stored(file))
            except (FileGoneError, TooLargeError, OSError) as error:
                # The words answer without it.
                log.warning("article.picture_missing", target=file.target, error=repr(error))
        return found

    def _show(self, message: Message, channel: str, pictures: Sequence[StoredFile]) -> None:
        for file in pictures:
            try:
                self._desk.check_file(channel, file)
            except FileRefusedError:
                continue
            message.kind = "attachment"
            message.attachments.append(
                Attachment(
                    kind=file.kind,
                    state=AttachmentState.STORED,
                    file_name=file.file_name,
                    mime_type=file.mime_type,
                    size_bytes=file.size_bytes,
                    sha256=file.sha256,
                    source={},
                )
            )

    def _labels(self, options: Mapping[str, str], lang: str) -> dict[str, str]:
        return {token: self._replies.label(label, lang) for token, label in options.items()}

    async def _route(
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
        chosen = await self._with_models(
            route,
            self._topics,
            topics,
            newest,
            by_intent=(action.topic, action.confidence or 0.0) if action.topic else None,
            by_article=state.topic,
        )
        return Routed(chosen, telling)

    async def _hand_off(
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


def _kept_kind(inbound: InboundMessage) -> str:
    if inbound.kind == WITHDRAWN:
        return "attachment" if inbound.attachments else "text"
    return {"echo": "text", STARTS_FLOW: NOTE}.get(inbound.kind, inbound.kind)


def _for_desk(situation: Situation, state: DialogueState, first: InboundMessage, text: str) -> ToDesk | None:
    """What of an utterance is for the desk: everything while a person has the conversation, the survey's buttons
    always. A button's words may also be typed, and any yes or no while its question is the newest thing in the chat."""
    typed = " ".join(text.lower().split()).strip(" .!")
    choice = first.choice or next((token for token, label in state.options.items() if label.lower() == typed), "")
    kind, _, number = choice.partition(":")
    if kind in (SURVEY_HELPED, SURVEY_NOT_HELPED) and number.isdecimal():
        return ToDesk("feedback", int(number), Feedback.HELPED if kind == SURVEY_HELPED else Feedback.NOT_HELPED)
    if (said := nps_reading.pressed(choice)) is not None:
        return ToDesk("nps", nps=said)
    if situation.asked_about and not choice and first.kind in JOINABLE:
        answer = survey_reading.read(text)
        if answer is not None:
            return ToDesk("feedback", situation.asked_about, answer)
    if situation.owner is not Owner.PERSON:
        return None
    if typed in END_WORDS:
        return ToDesk("end")
    return ToDesk("back" if kind == WITHOUT_WAITING else "word")


def _without_nps(state: DialogueState) -> DialogueState:
    """The question how likely he is to recommend us has lapsed; its buttons still count, its number alone does not."""
    if not state.nps:
        return state
    options = {token: label for token, label in state.options.items() if nps_reading.pressed(token) is None}
    return replace(state, options=options, nps="")


def _nps_answer(
    waits: str,
    understander: Understander,
    state: DialogueState,
    said: Utterance,
    known: str | None,
    book: FlowBook,
    now: datetime,
) -> ToDesk | None:
    """What words say to that question; None: they are a matter of their own. Blocks."""
    kind, _, number = waits.partition(":")
    if nps_reading.wants_no_more(said.text):
        return ToDesk("nps", nps=NpsSaid(int(number), stops=True))
    score = nps_reading.read_score(said.text)
    if score is not None and not score.rest:
        return ToDesk("nps", nps=NpsSaid(int(number), score.value))
    if kind == "comment":
        score = None
    elif score is None:
        return None
    words = score.rest if score else said.text
    meant = understander.understand(words, known)
    spoken = replace(said, text=words, lang=meant.lang)
    decision = decide_turn(state, Owner.ASSISTANT, spoken, meant.parts, {}, understander.policy, book, now)
    if not (nps_reading.goes_with(score, decision) if score else nps_reading.reads_as_reason(decision, words)):
        return None
    comment = "" if nps_reading.is_courtesy(decision) else words
    return ToDesk("nps", nps=NpsSaid(int(number), score.value if score else None, comment))


def _to_desk(act: ToDesk, owner: Owner, state: DialogueState) -> Decision:
    """Nothing is said. A flow that still waited has ended with the person who took over."""
    rule = f"desk:{act.kind}"
    if owner is not Owner.PERSON:
        return Decision((), state, rule)
    return Decision((), replace(state, flow=None), rule, events=stopped(state))


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


def _texts(utterance: Sequence[InboundMessage]) -> list[str]:
    """The customer's own words in them. What a button said are not."""
    return [message.text for message in utterance if message.kind in JOINABLE and message.text]
