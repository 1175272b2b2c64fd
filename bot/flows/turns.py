"""Flows in a conversation: which one a turn starts, and what a turn is to the flow that waits. Pure.

`decide` decides as if there were no flows; this stands around it. A question in the midst of a flow is answered as
ever, and then the flow asks again; a wish for a person, "cancel" and the button of either end it at any step.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta, tzinfo
from functools import cached_property
from typing import Any

from bot.dialogue import (
    END_COMMANDS,
    FEEDBACK,
    PERSON,
    Action,
    Answer,
    Candidate,
    Clarify,
    Decision,
    DialogueState,
    FlowEvent,
    FlowRecord,
    Handoff,
    Policy,
    Say,
    SlotValue,
    StartFlow,
    Understanding,
    Utterance,
    choice_of,
    decide,
    wish_for_person,
)
from bot.flows import engine as flows
from bot.flows.engine import (
    CANCEL,
    FLOW_TOKEN,
    START_TOKEN,
    Advanced,
    Answered,
    Around,
    CallPerson,
    Chosen,
    Event,
    Finished,
    FlowState,
    Lead,
    Looked,
    LookUp,
    Missed,
    Resumed,
    ShowArticle,
    Started,
    Tell,
    asked_slot,
    joined,
)
from bot.flows.format import END, Choose, Collect, Flow
from bot.flows.reading import Reading, first_slots, read
from handoff.records import Owner, Reason

ANSWERS = frozenset({"answer", "chosen", "several_questions", "one_of_several_questions"})
"""Rules of `decide` that answer a question surely."""
INSTEAD_OF = ANSWERS - {"several_questions"}
MAX_UNDER = 1
"""How many flows may wait below the one that runs."""
MAX_LOOKUPS = 10
"""In one turn."""
SHOWN_CHARS = 300
"""Of a slot's value, to people."""


@dataclass(frozen=True)
class FlowBook:
    """The flows that may be run."""

    flows: Mapping[str, Flow] = field(default_factory=dict)
    """By id, as they are published now."""
    earlier: Mapping[tuple[str, str], Flow] = field(default_factory=dict)
    """By id and version: those in which a customer may still be."""
    common: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Language → what every text sees: the shop's name, its hours …"""
    zone: tzinfo = UTC
    """Where "today" and "yesterday" are."""

    @cached_property
    def by_article(self) -> Mapping[str, str]:
        """Article → the flow that is started in its place."""
        return {article: flow.id for flow in self.flows.values() for article in flow.file.articles}

    def at(self, state: FlowState) -> Flow | None:
        """The flow that a customer is in: in the version in which he began it. Where that is not kept, the present
        one if it has the same step still, asking for the same thing."""
        present = self.flows.get(state.flow)
        if present is not None and present.version == state.version:
            return present
        pinned = self.earlier.get((state.flow, state.version))
        return pinned or (present if present is not None and state.step in present.steps else None)

    def around(self, lang: str, now: datetime) -> Around:
        return Around(lang, now.astimezone(self.zone), self.common.get(lang, {}))


NO_FLOWS = FlowBook()


def expired(state: FlowState, book: FlowBook, now: datetime) -> bool:
    """Whether a flow has waited for longer than it should."""
    flow = book.at(state)
    try:
        asked_at = datetime.fromisoformat(state.asked_at)
    except ValueError:
        return False
    return flow is not None and now - asked_at > timedelta(hours=flow.file.expires_after_hours)


def glance(state: DialogueState, owner: Owner, utterance: Utterance, book: FlowBook, now: datetime) -> bool:
    """Whether a text is plainly an answer to the flow that waits, so that no model has to be asked what it means."""
    if state.flow is None or owner is Owner.PERSON or utterance.kind != "text":
        return False
    flow = book.at(state.flow)
    if flow is None:
        return False
    return (
        choice_of(state, utterance) in state.options
        or read(flow, state.flow, utterance.text, book.around(utterance.lang, now)).plain
    )


def decide_turn(
    state: DialogueState,
    owner: Owner,
    utterance: Utterance,
    understood: Sequence[Understanding],
    articles: Mapping[str, Candidate],
    policy: Policy,
    book: FlowBook,
    now: datetime,
) -> Decision:
    """Decide one turn, flows included. With `Decision.look_up` the caller looks that up and calls `carry_on`."""
    turn = _Turn(state, owner, utterance, understood, articles, policy, book, book.around(utterance.lang, now))
    if owner is Owner.PERSON:
        decision = turn.plainly(replace(state, flow=None))
        return _with(stopped(state), decision)
    if state.flow is None or utterance.kind == "start":
        return turn.perhaps_start(turn.plainly(replace(state, flow=None)))
    return turn.in_flow(state.flow)


def stopped(state: DialogueState) -> tuple[FlowEvent, ...]:
    """What becomes of the flows of a customer whom a person has taken over."""
    return tuple(FlowEvent(each.flow, "stopped", each.step) for each in _and_below(state.flow))


def _and_below(state: FlowState | None) -> Iterator[FlowState]:
    while state is not None:
        yield state
        state = state.under


def _with(events: Iterable[FlowEvent], decision: Decision) -> Decision:
    """A decision, with what became of flows before it."""
    return replace(decision, events=(*events, *decision.events))


def carry_on(decision: Decision, looked: Looked, lang: str, book: FlowBook, now: datetime) -> Decision:
    """Go on with what a lookup came to."""
    waiting = decision.state.flow
    flow = book.at(waiting) if waiting else None
    if waiting is None or flow is None:
        return replace(decision, look_up=None)
    around = book.around(lang, now)
    advanced = flows.advance(flow, waiting, looked, around)
    made = _settled(decision.state, flow, waiting, advanced, decision.actions, decision.rule, book, around)
    return _with(decision.events, made)


def give_up(decision: Decision, lang: str, book: FlowBook) -> Decision:
    """A flow that looks things up without end: to a person."""
    waiting = decision.state.flow
    record = record_of(waiting, book, lang) if waiting else None
    state = replace(decision.state, flow=None, options={})
    events = (*decision.events, *handed_off(waiting))
    return Decision((*decision.actions, Handoff(Reason.ERROR, flow=record)), state, "flow_without_end", events=events)


def handed_off(waiting: FlowState | None) -> tuple[FlowEvent, ...]:
    """What becomes of the flows of a customer whom the assistant hands over."""
    return tuple(FlowEvent(each.flow, "handed_off", each.step) for each in _and_below(waiting))


def resume(state: DialogueState, lead: str, lang: str, book: FlowBook, now: datetime) -> Decision | None:
    """Ask again what the flow waits for; None when there is nothing to ask."""
    if state.flow is None or (flow := book.at(state.flow)) is None:
        return None
    around = book.around(lang, now)
    event = Resumed(Lead(lead, {"title": flow.title(lang)}))
    advanced = flows.advance(flow, state.flow, event, around)
    if advanced.state is None or not isinstance(advanced.wishes[-1], Tell):
        return None
    kept = replace(advanced.state, asked_at=state.flow.asked_at, under=state.flow.under)
    return _settled(state, flow, state.flow, replace(advanced, state=kept), (), lead, book, around)


def record_of(state: FlowState, book: FlowBook, lang: str, note: str = "") -> FlowRecord:
    """What a person has to know of a flow."""
    flow = book.at(state)
    title = flow.title(lang) if flow else state.flow
    slots = (
        SlotValue(name, flow.slot_label(name, lang) if flow else name, _shown(value, name, flow, lang))
        for name, value in state.slots.items()
        if value not in (None, "", [], {})
    )
    return FlowRecord(state.flow, title, state.step, tuple(slots), note[:SHOWN_CHARS])


def _shown(value: Any, name: str, flow: Flow | None, lang: str) -> str:
    slot = flow.file.slots.get(name) if flow else None
    if slot is not None and slot.type == "choice":
        label = next((choice.label for choice in slot.choices if choice.value == value), None)
        value = label.get(lang, value) if label else value  # type: ignore[call-overload]
    if isinstance(value, Mapping):
        value = ", ".join(
            f"{key}: {each}" for key, each in value.items() if each is not None and not isinstance(each, (list, dict))
        )
    text = " ".join(str(value).split())
    return text if len(text) <= SHOWN_CHARS else text[: SHOWN_CHARS - 1] + "…"


def _is_unsure(action: Action) -> bool:
    return isinstance(action, Clarify) or (isinstance(action, Handoff) and action.reason is Reason.LOW_CONFIDENCE)


@dataclass(frozen=True)
class _Turn:
    state: DialogueState
    owner: Owner
    utterance: Utterance
    understood: Sequence[Understanding]
    articles: Mapping[str, Candidate]
    policy: Policy
    book: FlowBook
    around: Around

    @property
    def lang(self) -> str:
        return self.utterance.lang

    def plainly(self, state: DialogueState) -> Decision:
        return decide(state, self.owner, self.utterance, self.understood, self.articles, self.policy)

    # No flow waits.

    def perhaps_start(self, decision: Decision, under: FlowState | None = None) -> Decision:
        """Put the first steps of a flow in the place of its start."""
        decision = self.by_number(self.instead_of_article(decision))
        wanted = next((action for action in decision.actions if isinstance(action, StartFlow)), None)
        if wanted is None:
            return decision
        before = tuple(action for action in decision.actions if not isinstance(action, StartFlow))
        flow = self.book.flows.get(wanted.flow)
        if flow is None:
            return self.without_flow(before)
        slots = first_slots(flow, wanted.text, self.around)
        advanced = flows.start(flow, Started(slots, wanted.text), self.around)
        begun = replace(decision.state, answered=(), rephrased=0)
        if advanced.state is not None and under is not None:
            advanced = replace(advanced, state=replace(advanced.state, under=under))
        first = advanced.state or FlowState(flow.id, flow.version, next(iter(flow.steps)), slots)
        made = _settled(begun, flow, first, advanced, before, f"flow:{flow.id}", self.book, self.around)
        return _with((FlowEvent(flow.id, "started", next(iter(flow.steps))),), made)

    def instead_of_article(self, decision: Decision) -> Decision:
        """An article that a flow stands for starts it."""
        answers = [action for action in decision.actions if isinstance(action, Answer)]
        flow = self.book.by_article.get(answers[0].candidate.article_id) if len(answers) == 1 else None
        if flow is None or decision.rule not in INSTEAD_OF:
            return decision
        said = self.state.asked if decision.rule == "chosen" else self.utterance.text
        actions = tuple(StartFlow(flow, said) if isinstance(each, Answer) else each for each in decision.actions)
        kept = replace(decision.state, options={}, answered=self.state.answered)
        return replace(decision, actions=actions, state=kept)

    def by_number(self, decision: Decision) -> Decision:
        """Whoever names an order's number asks about that order. So a flow that wants it begins where its article is
        the likeliest of several, or was shown already, or its intent is likelier than not, in place of a question back
        or a person."""
        again = decision.rule == "same_answer_again"
        unsure = next((each for each in decision.actions if again or _is_unsure(each)), None)
        if unsure is None or not self.understood:
            return decision
        whole = self.understood[0]
        best = next(iter(whole.candidates), None)
        likely = [best.article_id] if best and best.confidence >= self.policy.clarify[self.lang] else []
        if whole.outcome.article and whole.confidence >= self.policy.even:
            likely.append(whole.outcome.article)
        flow = next((self.book.by_article[each] for each in likely if each in self.book.by_article), None)
        if flow is None:
            return decision
        slots = self.book.flows[flow].file.slots
        told = first_slots(self.book.flows[flow], self.utterance.text, self.around)
        if not any(slots[name].type == "number" for name in told):
            return decision
        actions = tuple(StartFlow(flow, self.utterance.text) if each is unsure else each for each in decision.actions)
        return replace(decision, actions=actions, state=replace(decision.state, options={}), rule="flow_by_number")

    def without_flow(self, before: tuple[Action, ...]) -> Decision:
        """An intent or button names a flow that is not there: what it said is decided without it."""
        parts = [
            replace(part, outcome=replace(part.outcome, flow=None)) if part.outcome.flow else part
            for part in self.understood
        ]
        again = replace(self, understood=parts)
        decision = again.plainly(replace(self.state, flow=None, options={}))
        if any(isinstance(action, StartFlow) for action in decision.actions):
            state = replace(decision.state, options={})
            return Decision(before or (Say("options_expired"),), state, "flow_unknown")
        return decision

    # A flow waits.

    def in_flow(self, waiting: FlowState) -> Decision:
        flow = self.book.at(waiting)
        if flow is None:
            return self.to_person(waiting, Handoff(Reason.ERROR), "flow_gone")
        if flow.version != waiting.version:
            waiting = replace(waiting, version=flow.version)
        said = self.utterance
        if said.choice is None and said.text.strip().lower() in END_COMMANDS:
            # The conversation ends, and not this flow alone.
            over = (FlowEvent(each.flow, "cancelled", each.step) for each in _and_below(waiting))
            return _with(over, self.plainly(replace(self.state, flow=None)))
        if said.choice is not None:
            return self.pressed(flow, waiting, said.choice)
        if said.kind == "attachment" and (fitting := self.attached(flow, waiting)) is not None:
            return fitting
        if said.kind == "unsupported":
            return self.onward(flow, waiting, Resumed(Lead("unsupported")), "unsupported")
        return self.heard(flow, waiting)

    def pressed(self, flow: Flow, waiting: FlowState, token: str) -> Decision:
        if token == PERSON:
            return self.to_person(waiting, Handoff(Reason.ASKED_FOR_PERSON), "person_chosen")
        if token.startswith(f"{START_TOKEN}:"):
            other = token.removeprefix(f"{START_TOKEN}:")
            return self.switch(waiting, Decision((StartFlow(other),), self.cleared, "flow_chosen"))
        kind, _, rest = token.partition(":")
        what = rest.partition(":")[2]
        if token not in self.state.options or kind != FLOW_TOKEN:
            return self.onward(flow, waiting, Resumed(Lead("flow_old_button")), "options_expired")
        if what == CANCEL:
            return self.cancel(flow, waiting)
        return self.onward(flow, waiting, Chosen(what), f"flow:{flow.id}")

    def attached(self, flow: Flow, waiting: FlowState) -> Decision | None:
        """A file: what the flow has asked for, or something to be kept; None where its words count."""
        said, step = self.utterance, flow.steps.get(waiting.step)
        slot = asked_slot(step)
        if said.refused_attachments:
            large = "too_large" in said.refused_attachments
            return self.onward(
                flow, waiting, Resumed(Lead("attachment_too_large" if large else "attachment_failed")), "attachment"
            )
        if isinstance(step, Collect) and slot and flow.file.slots[slot].type == "file":
            value = ", ".join(said.attachment_kinds) + (f": {said.text}" if said.text.strip() else "")
            return self.onward(flow, waiting, Answered({slot: value}), f"flow:{flow.id}")
        if said.text.strip():
            return None
        return self.onward(flow, waiting, Resumed(Lead("flow_file_kept")), "attachment")

    def heard(self, flow: Flow, waiting: FlowState) -> Decision:
        """Words: an answer, "cancel", a wish for a person, a question in between, or nothing that is understood."""
        said = self.utterance
        if len(said.text) > self.policy.max_text_chars:
            return self.onward(flow, waiting, Missed(), "too_long")
        reading = read(flow, waiting, said.text, self.around)
        if reading.cancels:
            return self.cancel(flow, waiting)
        wished = wish_for_person(self.cleared, said, self.understood, self.policy)
        if wished is not None:
            (action,) = wished.actions
            assert isinstance(action, Handoff)  # noqa: S101 - it is nothing else
            return self.to_person(waiting, action, wished.rule)
        typed = choice_of(self.state, said)
        if typed in self.state.options and not self.answers(flow, waiting, reading):
            return self.pressed(flow, waiting, typed or "")
        if reading.event is not None and (reading.plain or not self.asks(flow, waiting)):
            return self.onward(flow, waiting, reading.event, f"flow:{flow.id}")
        return self.between(flow, waiting, reading)

    def answers(self, flow: Flow, waiting: FlowState, reading: Reading) -> bool:
        """Whether a number is what was asked for, and not that of a button."""
        step = flow.steps.get(waiting.step)
        if not isinstance(step, Collect) or not isinstance(reading.event, Answered):
            return False
        return step.collect in reading.event.slots and flow.file.slots[step.collect].type != "text"

    def asks(self, flow: Flow, waiting: FlowState) -> bool:
        """Whether words that could be an answer are a question of the customer's own: they end like one, and an
        article answers it surely."""
        step = flow.steps.get(waiting.step)
        free = isinstance(step, Collect) and flow.file.slots[step.collect].type in ("text", "choice")
        free = free or isinstance(step, Choose)
        if not free or not self.utterance.text.rstrip().endswith("?"):
            return False
        return any(isinstance(action, Answer) for action in self.plainly(self.cleared).actions)

    @property
    def cleared(self) -> DialogueState:
        """The state as if nothing had been asked or answered."""
        return replace(self.state, flow=None, options={}, answered=(), rephrased=1, asked="", greeted=True)

    def between(self, flow: Flow, waiting: FlowState, reading: Reading) -> Decision:
        """What is no answer: another flow, a question, a courtesy; else it was not understood."""
        decision = self.instead_of_article(self.plainly(self.cleared)) if self.understood else None
        actions = decision.actions if decision else ()
        wanted = next((each.flow for each in actions if isinstance(each, StartFlow)), None)
        if decision and wanted is not None and wanted in self.book.flows:
            if wanted != flow.id:
                return self.switch(waiting, decision)
            fresh = first_slots(self.book.flows[wanted], self.utterance.text, self.around)
            if any(waiting.slots.get(name) != value for name, value in fresh.items()):
                return self.perhaps_start(decision, waiting.under)
        elif decision and (decision.rule in ANSWERS or decision.rule.startswith("intent:")):
            shown = tuple(replace(each, options={}) if isinstance(each, Answer) else each for each in actions)
            if not any(isinstance(each, (Handoff, StartFlow)) for each in shown):
                resumed = Resumed(Lead("flow_resume", {"title": flow.title(self.lang)}))
                return self.onward(flow, waiting, resumed, decision.rule, shown)
        if reading.event is None and self.understood and waiting.under is None and self.is_open_end(flow, waiting):
            # He was told what he wanted to know: new words are a new matter, and not a wrong choice.
            return self.perhaps_start(self.plainly(replace(self.cleared, rephrased=0)))
        return self.onward(flow, waiting, reading.event or Missed(), f"flow:{flow.id}")

    def is_open_end(self, flow: Flow, waiting: FlowState) -> bool:
        """Whether the step that waits is a choice that may as well be left: one of its options is the end."""
        step = flow.steps.get(waiting.step)
        return isinstance(step, Choose) and any(option.next == END for option in step.options)

    def switch(self, waiting: FlowState, decision: Decision) -> Decision:
        """Another flow goes first; this one waits below it."""
        depth, below = 0, waiting
        while below.under is not None:
            depth, below = depth + 1, below.under
        under = waiting if depth < MAX_UNDER else replace(waiting, under=None)
        wanted = next(each for each in decision.actions if isinstance(each, StartFlow))
        if wanted.flow not in self.book.flows:
            return self.in_flow_again(waiting)
        return self.perhaps_start(decision, None if wanted.flow == waiting.flow else under)

    def in_flow_again(self, waiting: FlowState) -> Decision:
        flow = self.book.at(waiting)
        assert flow is not None  # noqa: S101 - the caller is in it
        return self.onward(flow, waiting, Resumed(Lead("flow_old_button")), "options_expired")

    def cancel(self, flow: Flow, waiting: FlowState) -> Decision:
        said = Say("flow_cancelled", {"title": flow.title(self.lang)})
        made = _after(self.state, waiting, (said,), "flow_cancelled", self.book, self.around)
        return _with((FlowEvent(flow.id, "cancelled", waiting.step),), made)

    def to_person(self, waiting: FlowState, handoff: Handoff, rule: str) -> Decision:
        flow = self.book.at(waiting)
        topic = handoff.topic or (flow.file.topic if flow else None)
        record = record_of(waiting, self.book, self.lang)
        confidence = handoff.confidence if handoff.topic else 1.0
        action = replace(handoff, topic=topic, confidence=confidence, flow=record)
        return Decision((action,), replace(self.state, flow=None, options={}), rule, events=handed_off(waiting))

    def onward(
        self, flow: Flow, waiting: FlowState, event: Event, rule: str, before: tuple[Action, ...] = ()
    ) -> Decision:
        advanced = flows.advance(flow, waiting, event, self.around)
        made = _settled(self.state, flow, waiting, advanced, before, rule, self.book, self.around)
        missed = (FlowEvent(flow.id, "missed", waiting.step),) if isinstance(event, Missed) else ()
        return _with(missed, made)


def _settled(
    state: DialogueState,
    flow: Flow,
    waiting: FlowState,
    advanced: Advanced,
    before: Iterable[Action],
    rule: str,
    book: FlowBook,
    around: Around,
) -> Decision:
    """What a flow wants, as a decision."""
    actions = list(before)
    present = advanced.state
    if present is not None and present.under is None and waiting.under is not None:
        present = replace(present, under=waiting.under)
    base = replace(state, greeted=True, flow=present, options={}, rephrased=0, asked="", topic=flow.file.topic)
    for wish in advanced.wishes:
        if isinstance(wish, (Tell, ShowArticle)):
            actions.append(wish)
        elif isinstance(wish, LookUp):
            return Decision(tuple(actions), base, rule, wish)
        elif isinstance(wish, CallPerson):
            record = record_of(advanced.ended or waiting, book, around.lang, wish.note)
            confidence = 1.0 if wish.topic else None
            actions = [*joined(actions), Handoff(wish.reason, wish.topic, confidence, record)]
            events = handed_off(advanced.ended or waiting)
            return Decision(tuple(actions), replace(base, flow=None), rule, events=events)
        elif isinstance(wish, Finished):
            ended = advanced.ended.step if advanced.ended else waiting.step
            made = _after(base, waiting, tuple(joined(actions)), rule, book, around)
            return _with((FlowEvent(flow.id, "settled", ended),), made)
    actions = joined(actions)
    last = actions[-1] if actions else None
    return Decision(tuple(actions), replace(base, options=last.options if isinstance(last, Tell) else {}), rule)


def _after(
    state: DialogueState,
    ended: FlowState,
    actions: tuple[Action, ...],
    rule: str,
    book: FlowBook,
    around: Around,
) -> Decision:
    """A flow is over: the one below it goes on, if there is one."""
    base = replace(state, flow=None, options={})
    below = ended.under
    flow = book.at(below) if below else None
    if below is not None and flow is not None:
        event = Resumed(Lead("flow_resume", {"title": flow.title(around.lang)}))
        return _settled(base, flow, below, flows.advance(flow, below, event, around), actions, rule, book, around)
    last = actions[-1] if actions else None
    if isinstance(last, ShowArticle) and last.last:
        return Decision(actions, replace(base, options=FEEDBACK, answered=(last.article_id,)), rule)
    if isinstance(last, Tell) and last.options:
        return Decision(actions, replace(base, options=last.options), rule)
    return Decision(actions, base, rule)
