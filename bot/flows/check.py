"""What is wrong with flows, found without running them: each fault with file, line and what to do about it."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ruamel.yaml import YAML

from bot.flows.engine import asked_slot
from bot.flows.format import (
    END,
    PERSON_STEP,
    Action,
    Article,
    Choose,
    Collect,
    EndStep,
    Flow,
    Guide,
    HandOff,
    If,
    Problem,
    Say,
    SetSlots,
    Step,
    line_of,
    targets,
)
from bot.flows.words import OWN_NAMES, fault, names

Loc = tuple[Any, ...]
FOUND_IN_WORDS = frozenset({"number", "phone", "email", "date", "amount", "choice"})
"""Types of slots that any word of the customer may fill."""

CHANCE_WORDS = frozenset({"choice", "date", "amount"})
"""Those of them that are filled by words which may as well mean something else. A number names what it is about."""


@dataclass(frozen=True)
class Known:
    """What flows may name; None: nobody knows, so nothing is said against it."""

    articles: Collection[str] | None = None
    topics: Collection[str] | None = None
    lookups: Collection[str] | None = None
    pictures: Path | None = None
    common: Collection[str] = ()
    """Names that every text sees."""
    intents: Mapping[str, str] = field(default_factory=dict)
    """Intent → the flow that it starts."""


def check_all(flows: Mapping[str, Flow], known: Known) -> list[Problem]:
    """Everything that is wrong with flows that can be read, in the order of the files."""
    found = [problem for flow in flows.values() for problem in check(flow, known)]
    taken: dict[str, Flow] = {}
    for flow in flows.values():
        for place, article in enumerate(flow.file.articles):
            if article in taken:
                line = _Finder(flow).line("articles", place)
                problem = f"the article {article} starts the flow {taken[article].id} already"
                found.append(Problem(flow.path, line, problem, "Leave it to one of the two"))
            taken[article] = flow
        if not flow.file.articles and flow.id not in known.intents.values():
            problem = f"no intent and no article starts {flow.id}"
            remedy = "Name it in an intent's metadata (flow:) or give it articles, unless links and agents are enough"
            found.append(Problem(flow.path, 1, problem, remedy, "warning"))
    for intent, flow_id in sorted(known.intents.items()):
        if flow_id not in flows:
            problem = f"the intent {intent} starts the flow {flow_id}, which does not exist"
            found.append(Problem("intents", None, problem, "Make the flow, or give the intent another outcome"))
    return found


def check(flow: Flow, known: Known) -> list[Problem]:
    """Everything that is wrong with one flow, by line."""
    found = [
        *_targets(flow),
        *_ways(flow),
        *_words(flow, known),
        *_slots(flow),
        *_unasked(flow),
        *_known(flow, known),
    ]
    return sorted(found, key=lambda problem: problem.line or 0)


class _Finder:
    """Lines of a flow, and its problems."""

    def __init__(self, flow: Flow) -> None:
        self.flow = flow
        self._tree = YAML(typ="rt").load(flow.text)

    def line(self, *loc: Any) -> int | None:
        return line_of(self._tree, loc)

    def problem(self, loc: Loc, problem: str, remedy: str, level: Literal["error", "warning"] = "error") -> Problem:
        return Problem(self.flow.path, self.line(*loc), problem, remedy, level)

    def steps(self) -> Iterator[tuple[Loc, str, Step]]:
        for place, (name, step) in enumerate(self.flow.steps.items()):
            yield ("steps", place), name, step


def onward(flow: Flow, name: str) -> set[str]:
    """Wherever a step may lead, END and PERSON included."""
    step = flow.steps[name]
    if isinstance(step, HandOff):
        return {PERSON_STEP}
    if isinstance(step, EndStep):
        return {END}
    found = set(targets(step))
    by_default = not isinstance(step.next, str)
    if isinstance(step.next, list) and not isinstance(step.next[-1], If):
        by_default = False
    if isinstance(step, Choose) and all(option.next for option in step.options):
        by_default = False
    return found | ({flow.following[name]} if by_default else set())


def reachable(flow: Flow, begin: str | None = None, *, past: Collection[str] = ()) -> set[str]:
    """Steps that a customer can come to. begin: from this step on. past: not by way of these."""
    waiting, seen = deque([begin or next(iter(flow.steps))]), set[str]()
    while waiting:
        name = waiting.popleft()
        if name not in seen and name in flow.steps and name not in past:
            seen.add(name)
            waiting += onward(flow, name)
    return seen


def _targets(flow: Flow) -> Iterable[Problem]:
    finder = _Finder(flow)
    for loc, name, step in finder.steps():
        for target in dict.fromkeys(targets(step)):
            if target not in flow.steps and target not in (END, PERSON_STEP):
                remedy = f"Give a step `id: {target}`, or lead to one of {', '.join(_ids(flow))}, END, PERSON"
                yield finder.problem(loc, f"{name} leads to {target}, which is no step", remedy)


def _ids(flow: Flow) -> list[str]:
    return [step.id for step in flow.file.steps if step.id]


def _ways(flow: Flow) -> Iterable[Problem]:
    """Steps that nothing leads to, and ways that never end."""
    finder = _Finder(flow)
    seen = reachable(flow)
    leaves = _leaving(flow)
    for loc, name, _ in finder.steps():
        if name not in seen:
            yield finder.problem(loc, f"nothing leads to {name}", "Lead a step to it, or take it out")
        elif name not in leaves:
            remedy = "Lead a step of it to END, to PERSON or out of it"
            yield finder.problem(loc, f"from {name} no way leads to an end or a person", remedy)
    for loop in _restless(flow, seen):
        loc = ("steps", list(flow.steps).index(loop[0]))
        remedy = "Let one of them ask something, or empty the slot before it is asked for again (set_slots: null)"
        yield finder.problem(loc, f"{' → '.join([*loop, loop[0]])} goes round without asking the customer", remedy)


def _leaving(flow: Flow) -> set[str]:
    """Steps from which the end or a person can be reached."""
    found: set[str] = set()
    grows = True
    while grows:
        more = {
            name
            for name in flow.steps
            if name not in found and any(to in (END, PERSON_STEP) or to in found for to in onward(flow, name))
        }
        found |= more
        grows = bool(more)
    return found


def _restless(flow: Flow, seen: set[str]) -> Iterator[list[str]]:
    """Loops of steps none of which need wait for the customer."""
    quiet = {name for name in flow.steps if name in seen and not _always_waits(flow.steps[name])}
    told: set[frozenset[str]] = set()
    for first in (name for name in flow.steps if name in quiet):
        came: dict[str, str] = {}
        waiting = deque([first])
        while waiting:
            name = waiting.popleft()
            for to in onward(flow, name) & quiet:
                if to == first:
                    loop = [name]
                    while loop[-1] != first:
                        loop.append(came[loop[-1]])
                    loop.reverse()
                    if frozenset(loop) not in told and not _asks_again(flow, loop):
                        told.add(frozenset(loop))
                        yield loop
                elif to not in came:
                    came[to] = name
                    waiting.append(to)


def _always_waits(step: Step) -> bool:
    if isinstance(step, Collect):
        return step.ask_before_filling
    return isinstance(step, Guide) or (isinstance(step, Choose) and step.slot is None)


def _asks_again(flow: Flow, loop: Iterable[str]) -> bool:
    """Whether a slot that the loop asks for is emptied in it."""
    steps = [flow.steps[name] for name in loop]
    asked = {asked_slot(step) for step in steps} - {None}
    emptied = {
        slot for step in steps if isinstance(step, SetSlots) for slot, value in step.set_slots.items() if value is None
    }
    return bool(asked & emptied)


def _said(flow: Flow) -> Iterator[tuple[Loc, Mapping[Any, str]]]:
    """Every text that has languages, and where it stands."""
    yield ("title",), flow.file.title
    for name, slot in flow.file.slots.items():
        if slot.label:
            yield ("slots", name, "label"), slot.label
        for number, choice in enumerate(slot.choices):
            yield ("slots", name, "choices", number, "label"), choice.label
    for place, step in enumerate(flow.file.steps):
        for key in ("say", "ask", "wrong", "invalid", "choose", "note", "end"):
            said = getattr(step, key, None)
            if isinstance(said, dict):
                yield ("steps", place, key), said
        if isinstance(step, Choose):
            for number, option in enumerate(step.options):
                yield ("steps", place, "options", number, "label"), option.label
        if isinstance(step, Guide):
            for number, instruction in enumerate(step.guide):
                yield ("steps", place, "guide", number, "text"), instruction.text


def _sources(flow: Flow) -> Iterator[tuple[Loc, str, bool]]:
    """Every piece of Jinja2: where it stands, what it is, and whether it is a condition."""
    for loc, said in _said(flow):
        yield from (((*loc, lang), text, False) for lang, text in said.items())
    for place, step in enumerate(flow.file.steps):
        if isinstance(step, Collect) and step.valid:
            yield ("steps", place, "valid"), step.valid, True
        for number, way in enumerate(step.next if isinstance(step.next, list) else ()):
            if isinstance(way, If):
                yield ("steps", place, "next", number, "if"), way.if_, True
        given = step.with_ if isinstance(step, Action) else step.set_slots if isinstance(step, SetSlots) else {}
        key = "with" if isinstance(step, Action) else "set_slots"
        yield from (((("steps", place, key, name)), v, False) for name, v in given.items() if isinstance(v, str))


def _words(flow: Flow, known: Known) -> Iterable[Problem]:
    finder = _Finder(flow)
    for loc, said in _said(flow):
        for lang in (each for each in flow.file.languages if each not in said):
            yield finder.problem(
                loc, f"{_named(loc)} has no text in {lang}", f"Add {lang}: …, or take it from languages"
            )
    allowed = {*flow.file.slots, *OWN_NAMES, *known.common, "range"}
    for loc, source, condition in _sources(flow):
        if wrong := fault(source, condition=condition):
            yield finder.problem(loc, f"{_named(loc)} can't be worked out: {wrong}", "See docs/flows.md for Jinja2")
            continue
        for name in sorted(names(source, condition=condition) - allowed):
            remedy = f"Declare it under slots, or use one of {', '.join(sorted(allowed))}"
            yield finder.problem(loc, f"{_named(loc)} names {name}, which is no slot", remedy)


def _named(loc: Loc) -> str:
    return ".".join(str(part) for part in loc if isinstance(part, str) and part not in ("steps", "ru", "en")) or "it"


def _slots(flow: Flow) -> Iterable[Problem]:
    finder = _Finder(flow)
    slots = flow.file.slots
    filled = {name for name, slot in slots.items() if slot.first_words}
    filled |= {name for name, slot in slots.items() if slot.type in FOUND_IN_WORDS and not slot.only_when_asked}
    used: set[str] = set()
    for loc, _, step in finder.steps():
        for key, name in _set_by(step):
            filled.add(name)
            if name not in slots:
                yield finder.problem((*loc, key), f"{name} is not declared", f"Add it under slots: {name}: {{}}")
            elif key in ("collect", "slot") and slots[name].type == "data":
                yield finder.problem((*loc, key), f"{name} is data, which nobody can tell", "Give it another type")
        if isinstance(step, Choose) and step.slot and any(option.value is None for option in step.options):
            remedy = "Give each option a value"
            yield finder.problem((*loc, "options"), f"an option leaves {step.slot} empty", remedy, "warning")
    used |= {name for _, source, condition in _sources(flow) for name in names(source, condition=condition)}
    asked = {asked_slot(step) for step in flow.steps.values()}
    acts = any(isinstance(step, Action) for step in flow.steps.values())
    for name in slots:
        loc = ("slots", name)
        if name not in filled:
            remedy = "Collect it in a step, set it, or take it out"
            yield finder.problem(loc, f"the slot {name} is never filled", remedy)
        elif name not in used and name not in asked and not acts and slots[name].type == "data":
            yield finder.problem(loc, f"the slot {name} is never used", "Take it out", "warning")
    yield from _too_early(flow, finder, filled)


def _set_by(step: Step) -> Iterator[tuple[str, str]]:
    if isinstance(step, Collect):
        yield "collect", step.collect
    if isinstance(step, Choose) and step.slot:
        yield "slot", step.slot
    if isinstance(step, Action) and step.into:
        yield "into", step.into
    if isinstance(step, SetSlots):
        yield from (("set_slots", name) for name, value in step.set_slots.items() if value is not None)


def _too_early(flow: Flow, finder: _Finder, filled: set[str]) -> Iterable[Problem]:
    """Texts that name a slot before any way to them has filled it."""
    anywhere = {
        name
        for name, slot in flow.file.slots.items()
        if slot.first_words or (slot.type in FOUND_IN_WORDS and not slot.only_when_asked)
    }
    first = next(iter(flow.steps))
    before: dict[str, set[str]] = {first: set(anywhere)}
    waiting = deque([first])
    while waiting:
        name = waiting.popleft()
        after = before[name] | {slot for _, slot in _set_by(flow.steps[name])}
        for to in onward(flow, name) & set(flow.steps):
            if to not in before or not after <= before[to]:
                before[to] = before.get(to, set()) | after
                waiting.append(to)
    ids = list(flow.steps)
    for loc, source, condition in _sources(flow):
        if condition or loc[0] != "steps" or loc[2] == "next":
            continue
        name = ids[loc[1]]
        own = {slot for _, slot in _set_by(flow.steps[name])}
        for slot in sorted((names(source) & filled) - before.get(name, filled) - own):
            remedy = "Fill it in a step before this one"
            yield finder.problem(loc, f"{name} speaks of {slot} before anything has filled it", remedy, "warning")


def _unasked(flow: Flow) -> Iterable[Problem]:
    """Slots that any word may fill and on which it hangs what an action changes, where the customer is neither asked
    for them nor whether it shall be done."""
    finder = _Finder(flow)
    for _, name, action in finder.steps():
        if not isinstance(action, Action) or not action.changes:
            continue
        given = {each for value in action.with_.values() if isinstance(value, str) for each in names(value)}
        for slot_name, slot in flow.file.slots.items():
            if slot.type not in CHANCE_WORDS or slot.only_when_asked:
                continue
            asking = {each for each, step in flow.steps.items() if asked_slot(step) == slot_name}
            steers = slot_name in given or any(name in reachable(flow, each) for each in asking)
            if steers and name in reachable(flow, past=_consents(flow, name, slot_name)):
                problem = f"{name} changes something by {slot_name}, which any word may fill, and nobody asks for it"
                remedy = f"Give {slot_name} only_when_asked: true, or ask yes or no (a yes_no slot) before {name}"
                yield finder.problem(("slots", slot_name), problem, remedy)


def _consents(flow: Flow, action: str, slot: str) -> set[str]:
    """Steps at which the customer says that an action may be done, or that this is what the slot shall be."""

    def consents(name: str, step: Step) -> bool:
        if isinstance(step, Choose):
            return step.slot is None and action in onward(flow, name)
        if not isinstance(step, Collect):
            return False
        kind = flow.file.slots.get(step.collect)
        return (kind is not None and kind.type == "yes_no") or (step.collect == slot and step.ask_before_filling)

    return {name for name, step in flow.steps.items() if consents(name, step)}


def _known(flow: Flow, known: Known) -> Iterable[Problem]:
    finder = _Finder(flow)
    named: list[tuple[Loc, str, str, Collection[str] | None, str]] = [
        (("articles", place), "article", name, known.articles, "`otvet kb list` shows the articles")
        for place, name in enumerate(flow.file.articles)
    ]
    if flow.file.topic:
        named.append((("topic",), "topic", flow.file.topic, known.topics, "topics.yml names the topics"))
    for loc, _, step in finder.steps():
        if isinstance(step, Article):
            named.append(((*loc, "article"), "article", step.article, known.articles, "`otvet kb list` shows them"))
        if isinstance(step, Action):
            named.append(((*loc, "action"), "lookup", step.action, known.lookups, "lookups.yml describes the lookups"))
        if isinstance(step, HandOff) and step.handoff != "any":
            named.append(((*loc, "handoff"), "topic", step.handoff, known.topics, "topics.yml names the topics"))
        yield from _pictures(finder, loc, step, known)
    for where, what, name, all_known, remedy in named:
        if all_known is not None and name not in all_known:
            yield finder.problem(where, f"there is no {what} {name}", f"{remedy[0].upper()}{remedy[1:]}")


def _pictures(finder: _Finder, loc: Loc, step: Step, known: Known) -> Iterable[Problem]:
    shown = [((*loc, "picture"), step.picture)] if isinstance(step, (Say, Collect, Choose)) else []
    if isinstance(step, Guide):
        shown += [((*loc, "guide", place, "picture"), item.picture) for place, item in enumerate(step.guide)]
    for where, name in shown:
        if name and known.pictures is not None and not (known.pictures / name).is_file():
            yield finder.problem(where, f"there is no picture {name}", f"Put it into {known.pictures}", "warning")
