"""Scripted conversations: flows tested like code, without a model, a database or a shop.

Words are those of Rasa's test stories: `story`, `steps`, `user` with `intent`, `slot_was_set`, `active_loop`. A step of
the customer's is `user`, `press` or `send`; the steps after it tell what must have come of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from bot.dialogue import (
    Answer,
    Candidate,
    Clarify,
    DialogueState,
    Handoff,
    Outcome,
    Policy,
    Say,
    Understanding,
    Utterance,
)
from bot.errors import FlowError
from bot.flows.engine import Looked, ShowArticle, Tell
from bot.flows.format import LARGEST_FLOW_BYTES, Lang, Problem, line_of
from bot.flows.turns import MAX_LOOKUPS, FlowBook, carry_on, decide_turn, expired, give_up, glance
from bot.replies import Replies
from handoff.records import Owner

SURE = 0.99
"""How sure of an intent or article a scripted customer makes the assistant."""
POLICY = Policy(answer={"ru": 0.9, "en": 0.9}, clarify={"ru": 0.5, "en": 0.5}, intent={"ru": 0.9, "en": 0.9})


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LookupAnswer(_Line):
    """What a lookup comes to in a story."""

    ok: bool = True
    data: Any = None
    reason: str = "failed"


class StoryStep(_Line):
    """What the customer does, and what must have come of it."""

    user: str | None = Field(None, description="He writes this.")
    press: str | None = Field(None, description="He presses the button with this label.")
    send: Literal["photo", "document", "voice", "sticker", "video"] | None = Field(None, description="He sends a file.")
    start: str | None = Field(None, description="He follows a link to this flow.")
    wait_hours: float | None = Field(None, gt=0, le=2000, description="So long nothing happens.")
    intent: str | None = Field(None, description="With user: what it is understood as.")
    article: str | None = Field(None, description="With user: the article that would answer it.")
    lookups: dict[str, LookupAnswer] | None = Field(None, description="What lookups find from here on.")
    bot: str | list[str] | None = Field(None, description="Words that were said, in this order.")
    never: str | list[str] | None = Field(None, description="Words that were not said.")
    buttons: list[str] | None = Field(None, description="Labels of the last message's buttons, in this order.")
    step: str | None = Field(None, description="The step that waits.")
    active_loop: str | None = Field(None, description="The flow that waits; null: none does.")
    slot_was_set: dict[str, Any] | None = None
    looked_up: dict[str, dict[str, Any]] | None = Field(None, description="Lookup → slots that it was given.")
    handoff: str | dict[str, str] | None = Field(None, description="The topic, or topic and reason.")
    picture: str | None = Field(None, description="A picture that was shown.")


class Story(_Line):
    story: str
    lang: Lang = "ru"
    steps: list[StoryStep] = Field(min_length=1, max_length=200)


class StoryFile(_Line):
    stories: list[Story] = Field(min_length=1)


@dataclass(frozen=True)
class Scripted:
    """A story with where its steps stand."""

    story: Story
    path: str
    lines: tuple[int, ...]

    @property
    def name(self) -> str:
        return self.story.story


@dataclass(frozen=True)
class Verdict:
    story: Scripted
    failure: Problem | None = None
    said: tuple[str, ...] = ()
    """The whole conversation, line by line."""
    step: int | None = None
    """Which step went otherwise, counted from 1."""
    wrong_from: int | None = None
    """Where in `said` it begins."""


def read_stories(path: Path) -> list[Scripted]:
    """The stories of a file. Raises FlowError."""
    text = path.read_text("utf-8")
    return parse_stories(text, str(path))


def parse_stories(text: str, path: str = "stories") -> list[Scripted]:
    """Raises FlowError."""
    if len(text.encode()) > LARGEST_FLOW_BYTES:
        raise FlowError([Problem(path, None, "it is too long", "Split it")])
    tree: Any = None
    try:
        tree = YAML(typ="rt").load(text)
        file = StoryFile.model_validate(tree)
    except ValidationError as error:
        problems = [
            Problem(path, line_of(tree, fault["loc"]), _where(fault["loc"], fault["msg"]), "See docs/flows.md")
            for fault in error.errors()
        ]
        raise FlowError(problems) from error
    except (YAMLError, ValueError, RecursionError) as error:
        raise FlowError([Problem(path, None, f"not YAML: {error}", "Mend it")]) from error
    return [
        Scripted(
            story,
            path,
            tuple(line_of(tree, ("stories", place, "steps", number)) or 1 for number in range(len(story.steps))),
        )
        for place, story in enumerate(file.stories)
    ]


def _where(loc: Sequence[Any], said: str) -> str:
    named = [str(part) for part in loc if isinstance(part, str)]
    return f"{'.'.join(named)}: {said}" if named else said


def load_stories(folder: Path) -> tuple[list[Scripted], list[Problem]]:
    """All of a folder, and what is wrong with the files that can't be read."""
    found: list[Scripted] = []
    problems: list[Problem] = []
    for path in sorted(folder.glob("*.yml")):
        try:
            found += read_stories(path)
        except FlowError as error:
            problems += error.problems
        except (OSError, UnicodeDecodeError) as error:
            problems.append(Problem(str(path), None, str(error), "Save it as UTF-8"))
    return found, problems


Understand = Callable[[str, str], Sequence[Understanding]]


@dataclass(frozen=True)
class Stage:
    """Where stories are played. understand: (text, language) → what a model makes of it, for words that name neither
    intent nor article; None: nothing."""

    book: FlowBook
    replies: Replies
    outcomes: Mapping[str, Outcome]
    now: datetime
    articles: Mapping[str, str] = field(default_factory=dict)
    """Article → its title."""
    understand: Understand | None = None


def play(scripted: Scripted, stage: Stage) -> Verdict:
    """Play one story to its end, or to the first thing that is not as it says."""
    player = Player(stage, scripted.story.lang)
    for number, step in enumerate(scripted.story.steps):
        begins = len(player.said)
        problem = player.do(step) or player.misses(step)
        if problem:
            line = scripted.lines[number] if number < len(scripted.lines) else None
            fault = Problem(scripted.path, line, f"{scripted.name}: {problem}", "Change the flow or the story")
            return Verdict(scripted, fault, tuple(player.said), number + 1, begins)
    return Verdict(scripted, None, tuple(player.said))


class Player:
    """A customer who talks to the flows as in a conversation, with the real decisions and the real words."""

    def __init__(self, stage: Stage, lang: str) -> None:
        self.stage = stage
        self.lang = lang
        self.state = DialogueState(greeted=True)
        self.said: list[str] = []
        self.replies: list[str] = []
        """What was said to the last thing that the customer did."""
        self.buttons: dict[str, str] = {}
        self.pictures: list[str] = []
        self.handoff: Handoff | None = None
        self.looked_up: dict[str, Mapping[str, Any]] = {}
        self._lookups: dict[str, LookupAnswer] = {}
        self._now = stage.now

    def do(self, step: StoryStep) -> str | None:
        """What the customer does in a step. Returns what keeps him from it."""
        if step.lookups:
            self._lookups.update(step.lookups)
        if step.wait_hours:
            self._now += timedelta(hours=step.wait_hours)
        if step.user is not None:
            if step.intent and step.intent not in self.stage.outcomes:
                return f"there is no intent {step.intent}"
            self.write(step.user, intent=step.intent, article=step.article)
        elif step.press is not None:
            return self.press(step.press)
        elif step.send is not None:
            self._take(Utterance("attachment", "", self.lang, attachment_kinds=(step.send,)), (), f"[{step.send}]")
        elif step.start is not None:
            self._take(Utterance("start", f"flow-{step.start}", self.lang), (), f"[link: {step.start}]")
        return None

    def write(self, text: str, *, intent: str | None = None, article: str | None = None) -> None:
        """The customer writes something; it is understood as it is said to be, or as the models understand it."""
        understood: Sequence[Understanding] = (Understanding(text),)
        if intent or article:
            outcome = self.stage.outcomes.get(intent, Outcome()) if intent else Outcome()
            article = article or outcome.article
            shown = (self._article(article),) if article else ()
            understood = (Understanding(text, intent, SURE if intent else 0.0, outcome, shown),)
        elif self.stage.understand is not None:
            understood = self.stage.understand(text, self.lang)
        self._take(Utterance("text", text, self.lang), understood, text)

    def press(self, label: str) -> str | None:
        token = next((token for token, shown in self.buttons.items() if shown == label), None)
        if token is None:
            return f"there is no button {label!r}, only {', '.join(map(repr, self.buttons.values())) or 'none'}"
        self._take(Utterance("choice", "", self.lang, choice=token), (), f"[{label}]")
        return None

    def _article(self, article_id: str) -> Candidate:
        title = self.stage.articles.get(article_id, article_id)
        return Candidate(article_id, title, title, "", SURE, self.lang)

    def _take(self, utterance: Utterance, understood: Sequence[Understanding], shown: str) -> None:
        self.said.append(f"> {shown}")
        self.replies, self.pictures, self.looked_up = [], [], {}
        if self.handoff is not None:
            return  # a person has the conversation
        book = self.stage.book
        state = self.state
        if state.flow is not None and expired(state.flow, book, self._now):
            state = replace(state, flow=None, options={})
        if utterance.kind == "text" and glance(state, Owner.ASSISTANT, utterance, book, self._now):
            understood = ()
        article = (utterance.choice or "").partition(":")[2]
        known = {article: self._article(article)} if article in self.stage.articles else {}
        decision = decide_turn(state, Owner.ASSISTANT, utterance, understood, known, POLICY, book, self._now)
        for _ in range(MAX_LOOKUPS):
            if decision.look_up is None:
                break
            self.looked_up[decision.look_up.name] = decision.look_up.slots
            told = self._lookups.get(decision.look_up.name, LookupAnswer(ok=False, reason="unknown"))
            decision = carry_on(decision, Looked(told.ok, told.data, told.reason), self.lang, book, self._now)
        else:
            decision = give_up(decision, self.lang, book)
        self.state = decision.state
        self.buttons = {}
        for action in decision.actions:
            self._hear(action)
        self.state = replace(self.state, options={t: self.buttons.get(t, o) for t, o in self.state.options.items()})

    def _hear(self, action: Any) -> None:
        replies, options = self.stage.replies, getattr(action, "options", {})
        if isinstance(action, Tell):
            text = replies.join(action.parts, self.lang, {"limit_mb": 20})
            self.pictures += [action.picture] if action.picture else []
        elif isinstance(action, Say):
            text = replies.render(action.template, self.lang, {"limit_mb": 20, **action.values})
        elif isinstance(action, ShowArticle):
            text = f"[{action.article_id}: {self.stage.articles.get(action.article_id, '')}]"
        elif isinstance(action, Answer):
            text = f"[{action.candidate.article_id}: {action.candidate.title}]"
        elif isinstance(action, Clarify):
            text = replies.render("clarify", self.lang)
        elif isinstance(action, Handoff):
            self.handoff = action
            text = f"[handoff: {action.topic or 'any'}, {action.reason}]"
        else:
            text = ""
        self.buttons = {token: replies.label(label, self.lang) for token, label in options.items()}
        self.replies.append(text)
        self.said.append(f"< {text}" + (f"  [{' | '.join(self.buttons.values())}]" if self.buttons else ""))

    def misses(self, step: StoryStep) -> str | None:
        """What of a step did not come true."""
        flow = self.state.flow
        heard = "\n".join(self.replies)
        at = 0
        for words in _several(step.bot):
            found = _fold(heard).find(_fold(words), at)
            if found < 0:
                return f"nobody said {words!r} (after the rest) but {heard!r}"
            at = found + len(_fold(words))
        for words in _several(step.never):
            if _fold(words) in _fold(heard):
                return f"{words!r} was said: {heard!r}"
        if step.buttons is not None and step.buttons != list(self.buttons.values()):
            return f"the buttons are {list(self.buttons.values())}"
        if step.step is not None and (flow is None or flow.step != step.step):
            return f"{flow.step if flow else 'no step'} waits, and not {step.step}"
        if "active_loop" in step.model_fields_set and (flow.flow if flow else None) != step.active_loop:
            return f"{flow.flow if flow else 'no flow'} waits, and not {step.active_loop}"
        for name, value in (step.slot_was_set or {}).items():
            is_now = self._slots().get(name)
            if is_now != value:
                return f"the slot {name} is {is_now!r}, and not {value!r}"
        for name, slots in (step.looked_up or {}).items():
            given = self.looked_up.get(name)
            if given is None:
                return f"{name} was not looked up"
            if wrong := {key: given.get(key) for key, value in slots.items() if given.get(key) != value}:
                return f"{name} was looked up with {wrong}"
        if step.picture is not None and step.picture not in self.pictures:
            return f"the pictures shown are {self.pictures}"
        return self._handoff_misses(step)

    def _slots(self) -> Mapping[str, Any]:
        if self.state.flow is not None:
            return self.state.flow.slots
        record = self.handoff.flow if self.handoff else None
        return {slot.name: slot.value for slot in record.slots} if record else {}

    def _handoff_misses(self, step: StoryStep) -> str | None:
        if step.handoff is None:
            return None
        if self.handoff is None:
            return "there is no handoff"
        wanted = {"topic": step.handoff} if isinstance(step.handoff, str) else step.handoff
        made = {"topic": self.handoff.topic or "any", "reason": str(self.handoff.reason)}
        if wrong := {key: made.get(key) for key, value in wanted.items() if made.get(key) != value}:
            return f"the handoff has {wrong}"
        return None


def _several(words: str | list[str] | None) -> list[str]:
    return [] if words is None else [words] if isinstance(words, str) else words


def _fold(text: str) -> str:
    """Case, spaces and dashes do not matter."""
    return re.sub(r"\s+", " ", text).replace("–", "-").replace("—", "-").lower().strip()
