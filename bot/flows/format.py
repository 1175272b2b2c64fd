"""Flows as files: YAML of pydantic models, whose JSON schema is docs/flow.schema.json (a test holds the two together).

Names are Rasa's where they mean the same: `slots`, `collect`, `action`, `set_slots`, `next` with if/then/else, `END`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from bot.errors import FlowError
from handoff.records import Reason
from nlu.dates import Prefer

LARGEST_FLOW_BYTES = 200_000
MAX_STEPS = 200
MAX_OPTIONS = 8
"""With "cancel" and "a person" as many as a list of WhatsApp has rows."""
END, PERSON_STEP = "END", "PERSON"
"""Where `next` may go beside the flow's own steps: the end, and a person."""

Lang = Literal["ru", "en"]
Text = Annotated[str, Field(min_length=1, max_length=3500)]
Words = Annotated[
    dict[Lang, Text], Field(min_length=1, description="What is said, by language; Jinja2 with the slots.")
]
Label = Annotated[dict[Lang, Annotated[str, Field(min_length=1, max_length=60)]], Field(min_length=1)]
Synonyms = dict[Lang, list[Annotated[str, Field(min_length=1, max_length=100)]]]
Id = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
SlotName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
Target = Annotated[str, Field(pattern=r"^([a-z0-9][a-z0-9_-]{0,63}|END|PERSON)$", description="A step, END or PERSON.")]
Condition = Annotated[str, Field(min_length=1, max_length=500, description="A Jinja2 expression over the slots.")]
Picture = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9][\w.-]{0,99}$", description="A file of the flows' folder `pictures`.")
]
Scalar = str | int | float | bool | None
SlotKind = Literal["text", "yes_no", "number", "phone", "email", "date", "amount", "choice", "file", "data"]
"""As `nlu.entities.SlotType` has them; `file` is a photo or document, `data` what a lookup or `set_slots` puts in."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Choice(_Part):
    """One value of a slot that is one of a list."""

    value: str = Field(min_length=1, max_length=100)
    label: Label
    synonyms: Synonyms = Field(default_factory=dict, description="Other words for it, by language.")


class Slot(_Part):
    """What the flow wants to know."""

    type: SlotKind = Field("text", description="number: an order number or another code. data: what a lookup finds.")
    label: Label | None = Field(None, description="What agents and the customer see it called.")
    choices: list[Choice] = Field(default_factory=list, max_length=60, description="Of type choice.")
    pattern: str | None = Field(
        None, max_length=200, description="Of type number or text: what the whole value fits, as a regular expression."
    )
    cues: list[str] = Field(default_factory=list, description="Of type number: beginnings of words that stand by it.")
    prefer: Prefer = Field("any", description="Of type date: the side of today on which it lies.")
    min: float | None = Field(None, description="Of type number or amount.")
    max: float | None = None
    personal: bool = Field(False, description="Shown to agents, and to nobody else: no editor sees the answer.")
    only_when_asked: bool = Field(False, description="Words said at another step never fill it.")
    first_words: bool = Field(False, description="Of type text: filled with the words that started the flow.")

    @model_validator(mode="after")
    def _fits(self) -> Slot:
        if (self.type == "choice") != bool(self.choices):
            raise ValueError("choices belong to a slot of type choice, and it needs some")
        if self.pattern is not None and self.type not in ("number", "text"):
            raise ValueError("a pattern is for a slot of type number or text")
        if self.first_words and self.type != "text":
            raise ValueError("first_words is for a slot of type text")
        if self.pattern is not None:
            try:
                re.compile(self.pattern)
            except re.error as error:
                raise ValueError(f"pattern is no regular expression: {error}") from error
        return self


class If(_Part):
    if_: Condition = Field(alias="if")
    then: Target


class Else(_Part):
    else_: Target = Field(alias="else")


Next = Target | Annotated[list[If | Else], Field(min_length=1, max_length=20)]


class _Step(_Part):
    kind: ClassVar[str]
    id: Id | None = Field(None, description="Its name; needed where something leads to it.")
    next: Next | None = Field(None, description="Where it goes on; without it the step that follows in the file.")


class Say(_Step):
    """Say something and go on."""

    kind = "say"
    say: Words
    picture: Picture | None = None


class Collect(_Step):
    """Ask for a slot until it is filled; nothing is asked when it is filled already."""

    kind = "collect"
    collect: SlotName
    ask: Words
    picture: Picture | None = None
    wrong: Words | None = Field(None, description="Said before asking again, when the answer was not understood.")
    valid: Condition | None = Field(None, description="What must hold of `value`.")
    invalid: Words | None = Field(None, description="Said when it does not hold.")
    retries: int = Field(3, ge=1, le=5, description="Wrong answers in a row before it goes elsewhere.")
    otherwise: Target = Field(PERSON_STEP, description="Where it goes then.")
    optional: bool = Field(False, description="With a button to leave it out.")
    ask_before_filling: bool = Field(False, description="Ask although it is filled.")


class Option(_Part):
    label: Label
    value: str | None = Field(None, max_length=100, description="What the slot is filled with.")
    synonyms: Synonyms = Field(default_factory=dict)
    next: Target | None = None


class Choose(_Step):
    """Let the customer choose one of several."""

    kind = "choose"
    choose: Words
    options: list[Option] = Field(min_length=1, max_length=MAX_OPTIONS)
    slot: SlotName | None = None
    picture: Picture | None = None
    retries: int = Field(3, ge=1, le=5)
    otherwise: Target = PERSON_STEP


class Instruction(_Part):
    """One step of a guide."""

    text: Words
    picture: Picture | None = None


class Guide(_Step):
    """Instructions one by one, each with "done, next" and "did not help"."""

    kind = "guide"
    guide: list[Instruction] = Field(min_length=1, max_length=40)
    not_helped: Target = PERSON_STEP
    retries: int = Field(3, ge=1, le=5)
    otherwise: Target = PERSON_STEP


class Action(_Step):
    """Look something up; lookups.yml describes what can be."""

    kind = "action"
    action: Id
    with_: dict[str, Scalar] = Field(
        default_factory=dict, alias="with", description="What it is given beside the slots; Jinja2."
    )
    into: SlotName | None = Field(None, description="The slot that takes what was found.")
    failed: Target | dict[str, Target] = Field(
        PERSON_STEP, description="Where it goes when it fails; by reason, or for all: else."
    )
    changes: bool = Field(False, description="It changes something there: it is not done again after a correction.")


class Article(_Step):
    """Show an article of the knowledge base. As the last step it asks whether that helped."""

    kind = "article"
    article: str = Field(min_length=1, max_length=120)


class SetSlots(_Step):
    kind = "set_slots"
    set_slots: dict[SlotName, Scalar] = Field(min_length=1, description="Values, or Jinja2; null empties a slot.")


class HandOff(_Step):
    """Call a person, who gets the slots."""

    kind = "handoff"
    handoff: str = Field(description="A topic, or any.")
    reason: Reason = Reason.ASKED_FOR_PERSON
    say: Words | None = None
    note: Words | None = Field(None, description="For the agent alone.")


class EndStep(_Step):
    kind = "end"
    end: Words | Literal[True]
    feedback: bool = Field(False, description="Ask whether it helped.")


class Branch(_Step):
    """Only decides where to go on."""

    kind = "branch"
    next: Next


_KINDS: dict[str, type[_Step]] = {
    each.kind: each for each in (Collect, Choose, Guide, Action, Article, SetSlots, HandOff, EndStep, Say)
}


def _kind_of(step: Any) -> str | None:
    if isinstance(step, _Step):
        return step.kind
    if not isinstance(step, dict):
        return None
    bare = "branch" if "next" in step and set(step) <= {"id", "next"} else None
    return next((kind for kind in _KINDS if kind in step), bare)


Step = Annotated[
    Annotated[Say, Tag("say")]
    | Annotated[Collect, Tag("collect")]
    | Annotated[Choose, Tag("choose")]
    | Annotated[Guide, Tag("guide")]
    | Annotated[Action, Tag("action")]
    | Annotated[Article, Tag("article")]
    | Annotated[SetSlots, Tag("set_slots")]
    | Annotated[HandOff, Tag("handoff")]
    | Annotated[EndStep, Tag("end")]
    | Annotated[Branch, Tag("branch")],
    Discriminator(
        _kind_of,
        custom_error_type="step_kind",
        custom_error_message=f"a step has one of {', '.join(_KINDS)}, or next alone",
    ),
]


class FlowFile(_Part):
    """A flow as it is written."""

    flow: Id = Field(description="Its id, which is also the file's name.")
    title: Label
    topic: str | None = Field(None, description="Where the ticket goes when a person has to take over.")
    articles: list[str] = Field(
        default_factory=list, description="Articles in whose place it is started when they would be the answer."
    )
    languages: list[Lang] = Field(default=["ru", "en"], min_length=1)
    slots: dict[SlotName, Slot] = Field(default_factory=dict)
    steps: list[Step] = Field(min_length=1, max_length=MAX_STEPS)
    remind_after_minutes: int = Field(60, ge=0, le=1380, description="Of silence; 0: never.")
    expires_after_hours: int = Field(72, ge=1, le=720, description="Of silence.")


@dataclass(frozen=True)
class Problem:
    """A fault of a flow, with what to do about it. level: an error keeps it from being used."""

    path: str
    line: int | None
    problem: str
    remedy: str
    level: Literal["error", "warning"] = "error"

    def __str__(self) -> str:
        return f"{self.path}:{self.line or 1}: {self.level}: {self.problem}. {self.remedy}"


@dataclass(frozen=True, eq=False)
class Flow:
    """A flow that can be run. Two of one `version` are the same, whatever their layout and comments."""

    file: FlowFile
    text: str = field(repr=False)
    path: str = ""
    lines: Mapping[str, int] = field(default_factory=dict, repr=False, compare=False)
    """Step → where it stands in the text."""

    @property
    def id(self) -> str:
        return self.file.flow

    @cached_property
    def version(self) -> str:
        return hashlib.sha256(self.file.model_dump_json(by_alias=True).encode()).hexdigest()[:16]

    @cached_property
    def steps(self) -> Mapping[str, Step]:
        """By id, in order; one without an id of its own has its kind and place for one."""
        return {step.id or f"{step.kind}_{number}": step for number, step in enumerate(self.file.steps, 1)}

    @cached_property
    def following(self) -> Mapping[str, str]:
        """Step → the one after it in the file, or END."""
        ids = list(self.steps)
        return dict(zip(ids, [*ids[1:], END], strict=True))

    def slot_label(self, name: str, lang: str) -> str:
        slot = self.file.slots.get(name)
        return words(slot.label, lang) if slot and slot.label else name

    def title(self, lang: str) -> str:
        return words(self.file.title, lang)


def words(said: Mapping[Any, str], lang: str) -> str:
    """In this language, or in the one there is."""
    return said.get(lang) or next(iter(said.values()))


def read_flow(path: Path) -> Flow:
    """One flow from its file. Raises FlowError."""
    if path.stat().st_size > LARGEST_FLOW_BYTES:
        problem = f"it has more than {LARGEST_FLOW_BYTES // 1000} KB"
        raise FlowError([Problem(str(path), None, problem, "Split it into several flows")])
    flow = parse_flow(path.read_text("utf-8"), str(path))
    if flow.id != path.stem:
        problem = f"the flow {flow.id} lies in {path.name}"
        raise FlowError([Problem(str(path), 1, problem, f"Name the file {flow.id}.yml, or the flow {path.stem}")])
    return flow


def parse_flow(text: str, path: str = "flow") -> Flow:
    """A flow from YAML. Raises FlowError with everything that is wrong with its form."""
    if len(text.encode()) > LARGEST_FLOW_BYTES:
        raise FlowError([Problem(path, None, "it is too long", f"At most {LARGEST_FLOW_BYTES // 1000} KB")])
    try:
        tree = YAML(typ="rt").load(text)
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        raise FlowError([Problem(path, line, f"not YAML: {error.problem}", "Mend this line")]) from error
    except (YAMLError, ValueError, RecursionError) as error:
        raise FlowError([Problem(path, None, f"not YAML: {error}", "Mend it")]) from error
    if not isinstance(tree, CommentedMap):
        raise FlowError([Problem(path, 1, "this is no flow", "Begin with `flow: its-name`")])
    try:
        # Through JSON: plain values without YAML's own types, and no aliases that grow without end.
        plain = json.loads(json.dumps(tree, default=str)[: LARGEST_FLOW_BYTES * 5])
        file = FlowFile.model_validate(plain)
    except ValidationError as error:
        raise FlowError([_fault(path, tree, fault["loc"], fault["msg"]) for fault in error.errors()]) from error
    except (ValueError, RecursionError) as error:
        raise FlowError([Problem(path, None, "it is too long or too deep", "Split it")]) from error
    flow = Flow(file, text, path, {})
    lines = {step: line_of(tree, ("steps", place)) or 1 for place, step in enumerate(flow.steps)}
    if len(flow.steps) < len(file.steps):
        seen: set[str] = set()
        doubled = []
        for place, step in enumerate(file.steps):
            if step.id and step.id in seen:
                line = line_of(tree, ("steps", place))
                doubled.append(Problem(path, line, f"there are two steps {step.id}", "Give one another id"))
            seen.add(step.id or "")
        raise FlowError(doubled or [Problem(path, None, "two steps have one id", "Give each its own")])
    return Flow(file, text, path, lines)


def _fault(path: str, tree: CommentedMap, loc: Sequence[Any], said: str) -> Problem:
    if loc and loc[0] == "steps":
        loc = (*loc[:2], *loc[3:])  # the kind of step, which is no part of the file
    where = ".".join(str(part) for part in loc if not isinstance(part, int) and part != "[key]")
    return Problem(path, line_of(tree, loc), f"{where}: {said}" if where else said, "See docs/flows.md")


def line_of(tree: Any, loc: Sequence[Any]) -> int | None:
    """The line, from 1 on, of the innermost part of a path through the YAML that is there."""
    line: int | None = None
    for part in loc:
        if isinstance(tree, CommentedMap) and part in tree:
            line, tree = tree.lc.key(part)[0] + 1, tree[part]
        elif isinstance(tree, CommentedSeq) and isinstance(part, int) and part < len(tree):
            line, tree = tree.lc.item(part)[0] + 1, tree[part]
    return line


def load_flows(folder: Path) -> tuple[dict[str, Flow], list[Problem]]:
    """Every flow of a folder, by id, and what is wrong with the rest. A missing folder holds none."""
    flows: dict[str, Flow] = {}
    problems: list[Problem] = []
    for path in sorted(folder.glob("*.yml")):
        try:
            flow = read_flow(path)
        except FlowError as error:
            problems += error.problems
        except (OSError, UnicodeDecodeError) as error:
            problems.append(Problem(str(path), None, str(error), "Save it as UTF-8"))
        else:
            flows[flow.id] = flow
    return flows, problems


def sources(step: Step) -> Iterator[tuple[str, bool]]:
    """What a step works out: each text or condition of Jinja2, and whether it is a condition."""
    for key in ("say", "ask", "wrong", "invalid", "choose", "note", "end"):
        said = getattr(step, key, None)
        yield from ((text, False) for text in said.values()) if isinstance(said, dict) else ()
    if isinstance(step, Guide):
        yield from ((text, False) for instruction in step.guide for text in instruction.text.values())
    if isinstance(step, Collect) and step.valid:
        yield step.valid, True
    yield from ((way.if_, True) for way in step.next or () if isinstance(way, If))
    given = step.with_ if isinstance(step, Action) else step.set_slots if isinstance(step, SetSlots) else {}
    yield from ((value, False) for value in given.values() if isinstance(value, str))


def targets(step: Step) -> Iterator[str]:
    """Wherever a step may lead by name."""
    if isinstance(step.next, str):
        yield step.next
    for way in step.next if isinstance(step.next, list) else ():
        yield way.then if isinstance(way, If) else way.else_
    if isinstance(step, (Collect, Choose, Guide)):
        yield step.otherwise
    if isinstance(step, Guide):
        yield step.not_helped
    if isinstance(step, Choose):
        yield from (option.next for option in step.options if option.next)
    if isinstance(step, Action):
        yield from [step.failed] if isinstance(step.failed, str) else step.failed.values()


def schema() -> dict[str, Any]:
    """The JSON schema of a flow file."""
    made = FlowFile.model_json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "A flow of Otvet", **made}
