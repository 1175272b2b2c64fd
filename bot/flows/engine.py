"""The flow engine. Pure: (flow, where the customer is in it, what happened) → what to say and where he is then.

`advance` never waits, never looks anything up and knows no clock but what it is given: what it wants from outside it
asks for (`LookUp`), and goes on when the answer comes (`Looked`). Every way ends at a question that has a way out, at
the end, or at a person.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from bot.errors import FlowRunError
from bot.flows.format import (
    END,
    PERSON_STEP,
    Action,
    Article,
    Branch,
    Choose,
    Collect,
    EndStep,
    Flow,
    Guide,
    HandOff,
    If,
    Say,
    SetSlots,
    Slot,
    Step,
    sources,
    words,
)
from bot.flows.words import holds, names, render, value_of
from handoff.records import Reason

MAX_HOPS = 100
"""Steps that may follow one another without waiting for the customer."""
MAX_MISSES = 10
"""Wrong answers in a row, over the whole flow: then a person is called, wherever `otherwise` leads."""
MAX_TURNS = 300
MAX_TRAIL = 200
MAX_SLOT_CHARS = 2000
MAX_DATA_BYTES = 20_000
"""Of what a lookup found: it is kept with the conversation."""

FLOW_TOKEN = "flow"  # noqa: S105
"""Beginning of the tokens of a flow's buttons: `flow:TURN:WHAT`."""
START_TOKEN = "flow:start"  # noqa: S105
"""Of a button that starts one: `flow:start:ID`."""
CANCEL = "cancel"
NEXT, NOT_HELPED, SKIP = "next", "failed", "skip"
YES, NO = "yes", "no"


@dataclass(frozen=True)
class FlowState:
    """Where a customer is in a flow; kept with the conversation as JSON."""

    flow: str
    version: str
    step: str
    """The step that waits."""
    slots: Mapping[str, Any] = field(default_factory=dict)
    place: int = 0
    """Of a guide: which instruction is shown."""
    tries: int = 0
    """Wrong answers in a row at this step."""
    misses: int = 0
    """Wrong answers in a row."""
    turn: int = 0
    """Counts what was asked, so that a button of an earlier question is told from a present one."""
    trail: tuple[str, ...] = ()
    """The steps it came by."""
    asked_at: str = ""
    """When it last heard of the customer; ISO, UTC."""
    under: FlowState | None = None
    """The flow that this one interrupted: it goes on afterwards."""

    def to_json(self) -> dict[str, Any]:
        row = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "under"}
        return {**row, "slots": dict(self.slots), "trail": list(self.trail)} | (
            {"under": self.under.to_json()} if self.under else {}
        )

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> FlowState:
        known = {name: value for name, value in row.items() if name in cls.__dataclass_fields__}
        under = row.get("under")
        return cls(
            **{**known, "trail": tuple(row.get("trail", ())), "under": cls.from_json(under) if under else None},
        )


@dataclass(frozen=True)
class Lead:
    """A reply template that is said before the flow's own words."""

    template: str
    values: Mapping[str, Any] = field(default_factory=dict)


# What happens to a flow.


@dataclass(frozen=True)
class Started:
    """slots: what is known already. words: what the customer said."""

    slots: Mapping[str, Any] = field(default_factory=dict)
    words: str = ""


@dataclass(frozen=True)
class Answered:
    """The customer's words gave these slots values, that of the step that waits perhaps among them."""

    slots: Mapping[str, Any]


@dataclass(frozen=True)
class Corrected:
    """The customer took back what he had said before."""

    slots: Mapping[str, Any]


@dataclass(frozen=True)
class Chosen:
    """A button of the step that waits: what stands in its token after the turn."""

    what: str


@dataclass(frozen=True)
class Missed:
    """What was said is no answer."""


@dataclass(frozen=True)
class Resumed:
    """Ask again. lead: what is said first."""

    lead: Lead | None = None


@dataclass(frozen=True)
class Looked:
    """What a lookup came to."""

    ok: bool
    data: Any = None
    reason: str = "failed"
    said: str = ""
    """What is said when it failed."""


Event = Started | Answered | Corrected | Chosen | Missed | Resumed | Looked

# What a flow wants.


@dataclass(frozen=True)
class Tell:
    """One message."""

    parts: tuple[str | Lead, ...]
    options: Mapping[str, str] = field(default_factory=dict)
    """Token → label, or `@name` for a label template."""
    picture: str | None = None
    step: str = ""
    waits: bool = False


@dataclass(frozen=True)
class ShowArticle:
    article_id: str
    last: bool = False
    """Nothing follows: it may be asked whether it helped."""


@dataclass(frozen=True)
class LookUp:
    name: str
    slots: Mapping[str, Any]


@dataclass(frozen=True)
class CallPerson:
    reason: Reason
    topic: str | None = None
    note: str = ""


@dataclass(frozen=True)
class Finished:
    """It came to its end."""


Wish = Tell | ShowArticle | LookUp | CallPerson | Finished


@dataclass(frozen=True)
class Advanced:
    """state: None when the flow is over. The last wish is what it waits for, or how it ended."""

    state: FlowState | None
    wishes: tuple[Wish, ...]
    ended: FlowState | None = None
    """Where it was when it was over."""


@dataclass(frozen=True)
class Around:
    """What surrounds a turn: language, time, and the values that every text sees."""

    lang: str
    now: datetime
    """In the time zone of the shop."""
    common: Mapping[str, Any] = field(default_factory=dict)


def start(flow: Flow, event: Started, around: Around) -> Advanced:
    """Begin a flow."""
    slots = {name: _short(value) for name, value in event.slots.items() if name in flow.file.slots}
    for name, slot in flow.file.slots.items():
        if slot.first_words and event.words.strip():
            slots.setdefault(name, _short(event.words.strip()))
    state = FlowState(flow.id, flow.version, next(iter(flow.steps)), slots)
    return _guarded(flow, state, around, lambda run: run.enter(state.step))


def advance(flow: Flow, state: FlowState, event: Event, around: Around) -> Advanced:
    """What follows from an event. A fault in the flow's own words ends at a person."""
    if state.step not in flow.steps or state.turn >= MAX_TURNS:
        return Advanced(None, (CallPerson(Reason.ERROR, flow.file.topic),))
    if isinstance(event, Started):
        return start(flow, event, around)
    return _guarded(flow, state, around, lambda run: run.take(event))


def _guarded(flow: Flow, state: FlowState, around: Around, work: Callable[[_Run], None]) -> Advanced:
    run = _Run(flow, state, around)
    try:
        work(run)
    except FlowRunError as error:
        return Advanced(None, (*joined(run.said), CallPerson(Reason.ERROR, flow.file.topic, str(error))), run.state)
    return Advanced(run.state if run.waits else None, tuple(joined([*run.said, *run.last])), run.state)


class _Run:
    """One advance."""

    def __init__(self, flow: Flow, state: FlowState, around: Around) -> None:
        self.flow = flow
        self.state = replace(state, asked_at=around.now.astimezone(UTC).isoformat())
        self.around = around
        self.said: list[Wish] = []
        self.last: tuple[Wish, ...] = ()
        self.waits = False
        self._hops = 0

    @property
    def step(self) -> Step:
        return self.flow.steps[self.state.step]

    @property
    def values(self) -> dict[str, Any]:
        """What the flow's texts see."""
        slots = {name: self.state.slots.get(name) for name in self.flow.file.slots}
        own = {"lang": self.around.lang, "today": self.around.now.date(), "slots": slots}
        return {**self.around.common, **own, **slots}

    def render(self, said: Mapping[Any, str], **more: Any) -> str:
        return render(words(said, self.around.lang), {**self.values, **more})

    # Events.

    def take(self, event: Event) -> None:
        step = self.step
        match event:
            case Resumed(lead):
                self.ask(lead)
            case Looked():
                self._looked(event) if isinstance(step, Action) else self.ask()
            case Answered(slots):
                self._answered(slots)
            case Corrected(slots):
                self._corrected(slots)
            case Chosen(what):
                self._chosen(what)
            case _:
                self._missed()

    def _answered(self, slots: Mapping[str, Any]) -> None:
        step = self.step
        asked = asked_slot(step)
        others = {name: value for name, value in slots.items() if name != asked}
        changed = {name: value for name, value in others.items() if self.state.slots.get(name) not in (None, value)}
        self._set({name: value for name, value in others.items() if name not in changed})
        if changed:
            # What was answered was answered about something else.
            self._corrected(changed)
            return
        if asked is None or asked not in slots:
            self._missed() if not others else self.ask()
            return
        if isinstance(step, Collect):
            self._fill(step, slots[asked])
        elif isinstance(step, Choose):
            option = next((o for o in step.options if o.value == slots[asked]), None)
            if option is None:
                self._missed()
            else:
                self._right({asked: option.value})
                self.go(option.next or self.onward(step))

    def _fill(self, step: Collect, value: Any) -> None:
        if not self._fits(step, value):
            self._missed(self.render(step.invalid, value=value) if step.invalid else None)
            return
        self._right({step.collect: value})
        self.go(self.onward(step))

    def _fits(self, step: Collect, value: Any) -> bool:
        if not _in_bounds(self.flow.file.slots.get(step.collect), value):
            return False
        return not step.valid or holds(step.valid, {**self.values, "value": value})

    def _corrected(self, slots: Mapping[str, Any]) -> None:
        """Back to where the slot was filled, or first mattered, with its new value. What was looked up since is looked
        up again, and what was answered to what that said is asked again."""
        known = {name: _short(value) for name, value in slots.items() if name in self.flow.file.slots}
        if not known:
            self._missed()
            return
        place = self._place_of(known)
        name, value = next(iter(known.items()))
        lead = Lead("flow_corrected", {"label": self.flow.slot_label(name, self.around.lang), "value": value})
        if place is None:
            self._set(known)
            self.ask(lead)
            return
        steps = [self.flow.steps.get(name) for name in self.state.trail[place:]]
        redone = [step for step in steps if step is not None]
        if any(isinstance(step, Action) and step.changes for step in redone):
            self.say(Lead("flow_too_late"))
            self.person(Reason.ASKED_FOR_PERSON)
            return
        stale = self._stale([*redone, self.step], known)
        kept = {name: value for name, value in self.state.slots.items() if name not in stale}
        begun = self.state.trail[place]
        self.state = replace(self.state, slots={**kept, **known}, trail=self.state.trail[:place], tries=0)
        self.say(lead)
        self.enter(begun)

    def _place_of(self, known: Collection[str]) -> int | None:
        """Where in the trail a slot was asked for first, or else where it first made a difference."""
        steps = [self.flow.steps.get(name) for name in self.state.trail]
        asked = (at for at, step in enumerate(steps) if asked_slot(step) in known)
        used = (at for at, step in enumerate(steps) if step is not None and _depends(step, known))
        return next(asked, next(used, None))

    def _stale(self, steps: Iterable[Step], known: Collection[str]) -> set[str]:
        """The slots that these steps filled in view of the known ones: consents, what was looked up, what was made of
        it, and what was asked about it."""
        stale: set[str] = set()
        for step in steps:
            asked = asked_slot(step)
            slot = self.flow.file.slots.get(asked or "")
            if isinstance(step, Action) and step.into:
                stale.add(step.into)
            elif asked and ((slot and slot.type == "yes_no") or _depends(step, {*known, *stale})):
                stale.add(asked)
            elif isinstance(step, SetSlots):
                stale |= {
                    name
                    for name, value in step.set_slots.items()
                    if isinstance(value, str) and names(value) & {*known, *stale}
                }
        return stale - set(known)

    def _chosen(self, what: str) -> None:
        step = self.step
        kind, _, number = what.partition("-")
        if isinstance(step, Guide) and what == NEXT:
            self._right({})
            if self.state.place + 1 < len(step.guide):
                self.state = replace(self.state, place=self.state.place + 1)
                self.ask()
            else:
                self.go(self.onward(step))
        elif isinstance(step, Guide) and what == NOT_HELPED:
            self._right({})
            self.go(step.not_helped, Reason.REJECTED_ANSWER)
        elif isinstance(step, Collect) and what == SKIP and step.optional:
            self._right({})
            self.go(self.onward(step))
        elif kind == "o" and number.isdecimal():
            self._option(step, int(number))
        else:
            self.ask()

    def _option(self, step: Step, number: int) -> None:
        if isinstance(step, Choose) and number < len(step.options):
            option = step.options[number]
            self._right({step.slot: option.value} if step.slot and option.value is not None else {})
            self.go(option.next or self.onward(step))
        elif isinstance(step, Collect) and number < len(values := _offered(self.flow, step)):
            self._fill(step, values[number][0])
        else:
            self.ask()

    def _missed(self, said: str | None = None) -> None:
        """A wrong answer: ask again, and when that has been enough go elsewhere. said: why it was wrong."""
        step = self.step
        tries, misses = self.state.tries + 1, self.state.misses + 1
        self.state = replace(self.state, tries=tries, misses=misses)
        enough = isinstance(step, (Collect, Choose, Guide)) and tries >= step.retries
        if misses >= MAX_MISSES:
            self.person(Reason.LOW_CONFIDENCE)
        elif enough and isinstance(step, (Collect, Choose, Guide)):
            self.state = replace(self.state, tries=0)
            self.go(step.otherwise, Reason.LOW_CONFIDENCE)
        elif said:
            self.ask(said)
        elif isinstance(step, Collect) and step.wrong:
            self.ask(self.render(step.wrong))
        else:
            slot = self.flow.file.slots.get(step.collect) if isinstance(step, Collect) else None
            self.ask(Lead("flow_wrong", {"type": slot.type if slot else step.kind}))

    def _looked(self, looked: Looked) -> None:
        step = self.step
        assert isinstance(step, Action)  # noqa: S101 - the caller has looked
        ok, reason = looked.ok, looked.reason
        if ok and len(json.dumps(looked.data, default=str)) > MAX_DATA_BYTES:
            ok, reason = False, "too_large"
        if ok:
            if step.into:
                self.state = replace(self.state, slots={**self.state.slots, step.into: looked.data})
            self.go(self.onward(step))
            return
        if looked.said:
            self.say(looked.said)
        ways = {"else": step.failed} if isinstance(step.failed, str) else step.failed
        self.go(ways.get(reason, ways.get("else", PERSON_STEP)), Reason.ERROR)

    # Going.

    def onward(self, step: Step) -> str:
        """Where a step leads when nothing else does."""
        if isinstance(step.next, str):
            return step.next
        for way in step.next or ():
            if not isinstance(way, If):
                return way.else_
            if holds(way.if_, self.values):
                return way.then
        return self.flow.following[self.state.step]

    def go(self, target: str, reason: Reason = Reason.ASKED_FOR_PERSON) -> None:
        if target == PERSON_STEP:
            self.person(reason)
        elif target == END or target not in self.flow.steps:
            self.end()
        else:
            trail = (*self.state.trail, self.state.step)[-MAX_TRAIL:]
            self.state = replace(self.state, trail=trail)
            self.enter(target)

    def enter(self, target: str) -> None:
        """Do a step, and those after it until one waits."""
        self._hops += 1
        if self._hops > MAX_HOPS:
            self.person(Reason.ERROR)
            return
        self.state = replace(self.state, step=target, place=0, tries=0)
        step = self.step
        if isinstance(step, Collect):
            self._enter_collect(step)
        elif isinstance(step, Choose):
            known = self.state.slots.get(step.slot) if step.slot else None
            option = next((o for o in step.options if known is not None and o.value == known), None)
            self.go(option.next or self.onward(step)) if option else self.ask()
        elif isinstance(step, Guide):
            self.ask()
        elif isinstance(step, Action):
            given = {name: value_of(value, self.values) for name, value in step.with_.items()}
            self.wait(LookUp(step.action, {**self.state.slots, **given}))
        elif isinstance(step, HandOff):
            if step.say:
                self.say(self.render(step.say))
            note = self.render(step.note) if step.note else ""
            self.person(step.reason, None if step.handoff == "any" else step.handoff, note)
        elif isinstance(step, EndStep):
            if step.end is not True:
                self.say(self.render(step.end))
            self.end(feedback=step.feedback)
        else:
            self._pass(step)

    def _enter_collect(self, step: Collect) -> None:
        known = self.state.slots.get(step.collect)
        if known is None or step.ask_before_filling:
            self.ask()
            return
        if self._fits(step, known):
            self.go(self.onward(step))
            return
        kept = {name: value for name, value in self.state.slots.items() if name != step.collect}
        said = self.render(step.invalid, value=known) if step.invalid else None
        self.state = replace(self.state, slots=kept)
        self.ask(said)

    def _pass(self, step: Step) -> None:
        """A step that does not wait."""
        if isinstance(step, Say):
            self.said.append(Tell((self.render(step.say),), picture=step.picture, step=self.state.step))
        elif isinstance(step, SetSlots):
            given = {name: value_of(value, self.values) for name, value in step.set_slots.items()}
            self.state = replace(self.state, slots={**self.state.slots, **given})
        elif isinstance(step, Article):
            target = self.onward(step)
            self.said.append(ShowArticle(step.article, last=target == END))
        else:
            assert isinstance(step, Branch)  # noqa: S101 - the other kinds were done before
        self.go(self.onward(step))

    # Saying.

    def say(self, part: str | Lead) -> None:
        self.said.append(Tell((part,), step=self.state.step))

    def ask(self, lead: str | Lead | None = None) -> None:
        """Put the question of the step that waits."""
        step = self.step
        self.state = replace(self.state, turn=self.state.turn + 1)
        parts: list[str | Lead] = [lead] if lead else []
        picture: str | None = None
        options: dict[str, str] = {}

        def offer(what: str, label: str) -> None:
            options[f"{FLOW_TOKEN}:{self.state.turn}:{what}"] = label

        if isinstance(step, Collect):
            parts.append(self.render(step.ask))
            picture = step.picture
            for number, (_, label) in enumerate(_offered(self.flow, step)):
                offer(f"o-{number}", label if isinstance(label, str) else words(label, self.around.lang))
            if step.optional:
                offer(SKIP, "@label_flow_skip")
        elif isinstance(step, Choose):
            parts.append(self.render(step.choose))
            picture = step.picture
            for number, option in enumerate(step.options):
                offer(f"o-{number}", words(option.label, self.around.lang))
        elif isinstance(step, Guide):
            at = min(self.state.place, len(step.guide) - 1)
            count = {"number": at + 1, "count": len(step.guide)}
            parts += [Lead("flow_instruction", count), self.render(step.guide[at].text)]
            picture = step.guide[at].picture
            offer(NEXT, "@label_flow_next")
            offer(NOT_HELPED, "@label_flow_not_helped")
        elif isinstance(step, Action):
            # The lookup was cut off, by a stop of the program say.
            self.enter(self.state.step)
            return
        else:
            self.go(self.onward(step))
            return
        offer(CANCEL, "@label_flow_cancel")
        if not isinstance(step, Guide):
            options["person"] = "@label_person"
        self.wait(Tell(tuple(parts), options, picture, self.state.step, waits=True))

    def wait(self, wish: Wish) -> None:
        self.last, self.waits = (wish,), True

    def person(self, reason: Reason, topic: str | None = None, note: str = "") -> None:
        self.last, self.waits = (CallPerson(reason, topic or self.flow.file.topic, note),), False

    def end(self, *, feedback: bool = False) -> None:
        self.last, self.waits = (Finished(),), False
        if feedback and self.said and isinstance(tell := self.said[-1], Tell):
            self.said[-1] = replace(tell, options={"helped": "@label_helped", "not_helped": "@label_not_helped"})

    # Slots.

    def _set(self, slots: Mapping[str, Any]) -> None:
        known = {name: _short(value) for name, value in slots.items() if name in self.flow.file.slots}
        self.state = replace(self.state, slots={**self.state.slots, **known})

    def _right(self, slots: Mapping[str, Any]) -> None:
        """A right answer."""
        self._set(slots)
        self.state = replace(self.state, tries=0, misses=0)


def joined(said: Iterable[Any]) -> list[Any]:
    """Messages that follow one another without pictures or buttons between are one."""
    made: list[Any] = []
    for wish in said:
        last = made[-1] if made else None
        if isinstance(wish, Tell) and isinstance(last, Tell) and not (wish.picture or last.picture or last.options):
            made[-1] = replace(wish, parts=(*last.parts, *wish.parts))
        else:
            made.append(wish)
    return made


def _short(value: Any) -> Any:
    return value[:MAX_SLOT_CHARS] if isinstance(value, str) else value


def asked_slot(step: Step | None) -> str | None:
    if isinstance(step, Collect):
        return step.collect
    return step.slot if isinstance(step, Choose) else None


def _depends(step: Step, slots: Collection[str]) -> bool:
    """Whether what a step says or does is another with other values of these slots. A lookup is given all."""
    told = {name for source, condition in sources(step) for name in names(source, condition=condition)}
    return isinstance(step, Action) or not told.isdisjoint({*slots, "slots"})


def _offered(flow: Flow, step: Collect) -> list[tuple[str, Any]]:
    """The values that a question offers as buttons, with their labels."""
    slot = flow.file.slots.get(step.collect)
    if slot is None:
        return []
    if slot.type == "yes_no":
        return [(YES, "@label_flow_yes"), (NO, "@label_flow_no")]
    return [(choice.value, choice.label) for choice in slot.choices] if len(slot.choices) <= 8 else []


def _in_bounds(slot: Slot | None, value: Any) -> bool:
    if slot is None:
        return True
    if slot.pattern and not re.fullmatch(slot.pattern, str(value)[:MAX_SLOT_CHARS], re.IGNORECASE):
        return False
    if slot.type not in ("number", "amount") or (slot.min is None and slot.max is None):
        return True
    number = re.match(r"-?\d+(?:\.\d+)?", str(value))
    if number is None:
        return False
    least = float("-inf") if slot.min is None else slot.min
    most = float("inf") if slot.max is None else slot.max
    return least <= float(number[0]) <= most
