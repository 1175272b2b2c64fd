"""The decision: what the assistant does with an utterance. Pure, and the only place where it is decided.

(state, utterance, what was understood, policy) → actions and the next state. Nothing here reads a clock, a
database or a model, so that every rule can be tested, replayed and explained.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from bot.flows.engine import START_TOKEN, FlowState, LookUp, ShowArticle, Tell
from handoff.records import Owner, Reason
from kb_index.articles import ArticleFile

MAX_OPTIONS = 4
MAX_ASKED_CHARS = 500
SUBSTANTIVE_WORDS = 3
"""R29: a ticket wants more than a couple of words."""
MAX_REPHRASE = 1
"""How often the customer is asked to say it otherwise before a person is called."""

PERSON = "person"
"""Token of "call a person", which every list of choices ends with."""
GO_ON = "go_on"
"""Token of "rather the assistant"."""
HELPED, NOT_HELPED, MORE = "helped", "not_helped", "more"
ANY_TOPIC = "any"
LINKED_FLOW = "flow-"
"""What the payload of a link that starts a flow begins with: https://t.me/BOT?start=flow-ID"""
END_COMMANDS = frozenset(("/end", "/завершить"))


@dataclass(frozen=True)
class Outcome:
    """What an intent leads to: one of article, reply, flow and handoff, or none for an intent that is only evidence.
    A flow may name the article beside it that it stands for."""

    article: str | None = None
    reply: str | None = None
    flow: str | None = None
    handoff: str | None = None
    """A topic, or `any` when the conversation tells the topic."""
    sensitive: bool = False
    reason: Reason | None = None


@dataclass(frozen=True)
class Candidate:
    """An article that may answer, as the search found it."""

    article_id: str
    title: str
    text: str
    """The passage to show."""
    topic: str
    confidence: float
    lang: str
    more: bool = False
    """There is more in the article than this passage."""
    pictures: tuple[ArticleFile, ...] = ()
    """Those of the passage."""


@dataclass(frozen=True)
class Understanding:
    """What classification and search made of one text."""

    text: str
    intent: str | None = None
    confidence: float = 0.0
    outcome: Outcome = Outcome()
    candidates: tuple[Candidate, ...] = ()
    """By falling confidence."""


@dataclass(frozen=True)
class Utterance:
    """What the customer did in one turn."""

    kind: Literal["text", "start", "choice", "attachment", "unsupported"]
    text: str
    lang: str
    choice: str | None = None
    attachment_kinds: tuple[str, ...] = ()
    refused_attachments: tuple[str, ...] = ()
    """Of the attachments, why each could not be kept: `too_large` or `failed`."""


@dataclass(frozen=True)
class Policy:
    """Where confidence is enough. Computed from the training data for stated targets (`bot.models.calibration`)."""

    answer: Mapping[str, float]
    """Language → least confidence of an article that is answered."""
    clarify: Mapping[str, float]
    """Language → least sum of the confidences of the articles offered as choices."""
    intent: Mapping[str, float]
    """Language → least confidence of an intent that leads to a reply or a handoff."""
    even: float = 0.5
    """More likely than not: enough to obey a wish for a person, for a bot that won't let go is worse than a handoff
    too many; and for small talk where nothing else was understood."""
    max_text_chars: int = 4000

    def for_json(self, lang: str) -> dict[str, float]:
        return {"answer": self.answer[lang], "clarify": self.clarify[lang], "intent": self.intent[lang]}


@dataclass(frozen=True)
class DialogueState:
    """What is remembered of a conversation between turns; empty after a person has ended it."""

    greeted: bool = False
    options: Mapping[str, str] = field(default_factory=dict)
    """Token → label of the choices that may be taken now, in the order shown."""
    answered: tuple[str, ...] = ()
    """Articles shown and not yet said to have helped."""
    topic: str | None = None
    """Topic of the article shown last."""
    rephrased: int = 0
    """How often in a row the customer was asked to say it otherwise."""
    asked: str = ""
    """What the choices that may be taken now are about."""
    flow: FlowState | None = None
    """The flow that waits for an answer."""
    nps: str = ""
    """While the question how likely he is to recommend us is the newest thing in the chat: what it waits for,
    `score:ID` or `comment:ID`."""

    def to_json(self) -> dict[str, Any]:
        return {
            "greeted": self.greeted,
            "options": dict(self.options),
            "answered": list(self.answered),
            "topic": self.topic,
            "rephrased": self.rephrased,
            "asked": self.asked,
            **({"flow": self.flow.to_json()} if self.flow else {}),
            **({"nps": self.nps} if self.nps else {}),
        }

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> DialogueState:
        return cls(
            greeted=bool(row.get("greeted")),
            options=dict(row.get("options", {})),
            answered=tuple(row.get("answered", ())),
            topic=row.get("topic"),
            rephrased=int(row.get("rephrased", 0)),
            asked=row.get("asked", ""),
            flow=FlowState.from_json(row["flow"]) if row.get("flow") else None,
            nps=row.get("nps", ""),
        )


@dataclass(frozen=True)
class Say:
    """A reply from a template."""

    template: str
    values: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)
    """Token → label, or `@name` for the label template of that name."""


@dataclass(frozen=True)
class Answer:
    candidate: Candidate
    options: Mapping[str, str]


@dataclass(frozen=True)
class Clarify:
    """A question back, with 2 to 4 articles and "none of these, a person"."""

    candidates: tuple[Candidate, ...]
    options: Mapping[str, str]


@dataclass(frozen=True)
class StartFlow:
    flow: str
    text: str = ""
    """What the customer said, which may fill slots."""


@dataclass(frozen=True)
class SlotValue:
    """What a flow knows, as people read it."""

    name: str
    label: str
    value: str


@dataclass(frozen=True)
class FlowRecord:
    """How far a flow had come when a person took over."""

    flow: str
    title: str
    step: str
    slots: tuple[SlotValue, ...]
    note: str = ""


@dataclass(frozen=True)
class Handoff:
    reason: Reason
    topic: str | None = None
    """Set when an intent or a flow names it; else the routing decides."""
    confidence: float | None = None
    flow: FlowRecord | None = None


Action = Say | Answer | Clarify | Handoff | StartFlow | Tell | ShowArticle


@dataclass(frozen=True)
class FlowEvent:
    """What became of a flow in a turn."""

    flow: str
    what: Literal["started", "missed", "settled", "handed_off", "cancelled", "stopped", "expired"]
    """missed: the customer's words were no answer. settled: it came to its end. stopped: a person took over. expired:
    the customer was silent for too long."""
    step: str


@dataclass(frozen=True)
class Decision:
    actions: tuple[Action, ...]
    state: DialogueState
    rule: str
    """The name of the rule that decided, kept with the message."""
    look_up: LookUp | None = None
    """A flow wants this before it goes on."""
    events: tuple[FlowEvent, ...] = ()
    """What became of flows, in order."""


CALL_PERSON = {PERSON: "@label_person"}
CHOICE = {"bot_challenge": CALL_PERSON | {GO_ON: "@label_go_on"}}
"""Replies with choices below them: whoever asks whether he talks to a program may choose."""
FEEDBACK = {HELPED: "@label_helped", NOT_HELPED: "@label_not_helped"}


def decide(
    state: DialogueState,
    owner: Owner,
    utterance: Utterance,
    understood: Sequence[Understanding],
    articles: Mapping[str, Candidate],
    policy: Policy,
) -> Decision:
    """Decide one turn.

    understood: the whole text first, then its sentences when there are several; empty for a turn without words.
    articles: the article that the taken choice refers to, in the customer's language.
    """
    if owner is Owner.PERSON:
        return Decision((), state, "person_owns")
    if utterance.kind == "start":
        return _greet(state, utterance)
    if utterance.text.strip().lower() in END_COMMANDS:
        return Decision((Say("goodbye"),), DialogueState(greeted=True), "end")
    decision = _react(state, utterance, understood, articles, policy)
    asked = utterance.text[:MAX_ASKED_CHARS] if any(isinstance(each, Clarify) for each in decision.actions) else ""
    if decision.state.options == state.options:
        asked = asked or state.asked
    decision = replace(decision, state=replace(decision.state, asked=asked))
    if state.greeted:
        return decision
    # R28, R34: whoever begins without pressing "start" hears first who answers and what becomes of the data.
    said = () if decision.actions == (Say("hello"),) else decision.actions
    return replace(decision, actions=(Say("greeting"), *said), state=replace(decision.state, greeted=True))


def _greet(state: DialogueState, utterance: Utterance) -> Decision:
    kind, _, flow = utterance.text.strip().partition(LINKED_FLOW)
    linked = (StartFlow(flow),) if flow and not kind else ()
    return Decision((Say("greeting"), *linked), DialogueState(greeted=True, topic=state.topic), "start")


def _react(
    state: DialogueState,
    utterance: Utterance,
    understood: Sequence[Understanding],
    articles: Mapping[str, Candidate],
    policy: Policy,
) -> Decision:
    chosen = choice_of(state, utterance)
    if chosen is not None:
        return _choose(state, chosen, articles, typed=utterance.choice is None)
    if utterance.kind == "attachment" and not _has_words(utterance.text):
        return _attachment(state, utterance)
    if utterance.kind == "unsupported":
        return Decision((Say("unsupported", options=CALL_PERSON),), _offer(state, CALL_PERSON), "unsupported")
    if not _has_words(utterance.text) or not understood:
        return Decision((Say("empty"),), replace(state, options={}), "no_words")
    if len(utterance.text) > policy.max_text_chars:
        said = Say("too_long", {"limit_chars": policy.max_text_chars}, CALL_PERSON)
        return Decision((said,), _offer(state, CALL_PERSON), "too_long")
    return _understand(state, utterance, understood, policy)


def choice_of(state: DialogueState, utterance: Utterance) -> str | None:
    """The token of the choice that was taken, pressed or typed."""
    return utterance.choice or _typed_choice(state, utterance.text)


def _typed_choice(state: DialogueState, text: str) -> str | None:
    """A choice typed instead of pressed: its number or its very words. A number beyond the list is `#N`."""
    if not state.options:
        return None
    typed = plainly(text)
    if re.fullmatch(r"\d{1,2}[.)]?", typed):
        number = int(typed.rstrip(".)"))
        tokens = list(state.options)
        return tokens[number - 1] if 1 <= number <= len(tokens) else f"#{number}"
    return named_choice(state, text)


def named_choice(state: DialogueState, text: str) -> str | None:
    """The token of the choice whose very words these are."""
    typed = plainly(text)
    return next((token for token, label in state.options.items() if typed and plainly(label) == typed), None)


def plainly(text: str) -> str:
    """As words of a button are compared: without capitals, further spaces and the signs around them."""
    return " ".join(text.lower().split()).strip(" .!")


def _choose(state: DialogueState, token: str, articles: Mapping[str, Candidate], *, typed: bool) -> Decision:
    kind, _, value = token.partition(":")
    if token.startswith(f"{START_TOKEN}:"):
        return Decision((StartFlow(token.removeprefix(f"{START_TOKEN}:")),), replace(state, options={}), "flow_chosen")
    if token not in state.options:
        template = "option_unknown" if typed else "options_expired"
        return Decision((Say(template, options=state.options),), state, template)
    if kind == MORE and value in articles:
        return _answer(state, (articles[value],), "more")
    if kind == "article" and value in articles:
        return _answer(state, (articles[value],), "chosen")
    if kind == PERSON:
        # A person asked for in place of the choices, or after an answer, means that the assistant did not help.
        reason = Reason.REJECTED_ANSWER if NOT_HELPED in state.options else Reason.ASKED_FOR_PERSON
        return Decision((Handoff(reason),), state, "person_chosen")
    if kind == GO_ON:
        return Decision((Say("go_on"),), replace(state, options={}), "assistant_chosen")
    if kind == NOT_HELPED:
        return Decision((Handoff(Reason.REJECTED_ANSWER),), state, "answer_rejected")
    if kind == HELPED:
        return Decision((Say("confirmed"),), DialogueState(greeted=True), "answer_confirmed")
    return Decision((Say("options_expired"),), replace(state, options={}), "options_expired")


def _attachment(state: DialogueState, utterance: Utterance) -> Decision:
    if "too_large" in utterance.refused_attachments:
        return Decision((Say("attachment_too_large"),), state, "attachment_too_large")
    if utterance.refused_attachments:
        return Decision((Say("attachment_failed"),), state, "attachment_failed")
    kinds = utterance.attachment_kinds
    said = Say("attachment_received", {"kind": kinds[0] if kinds else "other", "count": len(kinds)}, CALL_PERSON)
    return Decision((said,), _offer(state, CALL_PERSON), "attachment")


def _understand(
    state: DialogueState, utterance: Utterance, understood: Sequence[Understanding], policy: Policy
) -> Decision:
    whole, lang = understood[0], utterance.lang
    outcome = whole.outcome
    certain = whole.confidence >= policy.intent[lang]
    if (wished := wish_for_person(state, utterance, understood, policy)) is not None:
        return wished
    if outcome.flow and certain:
        return Decision((StartFlow(outcome.flow, utterance.text),), state, f"intent:{whole.intent}")
    several = _several_answers(understood[1:], policy.answer[lang])
    if len(several) > 1:
        return _answer(state, several, "several_questions")
    best = whole.candidates[0] if whole.candidates else None
    if (
        best
        and best.confidence >= policy.answer[lang]
        and best.confidence >= (whole.confidence if outcome.reply else 0)
    ):
        if best.article_id in state.answered:
            return _again(state, whole, policy.clarify[lang])
        return _answer(state, (best,), "answer")
    if outcome.reply and certain:
        return _reply(state, outcome.reply, f"intent:{whole.intent}")
    if several:
        return _answer(state, several, "one_of_several_questions")
    offered = _choices(state, whole.candidates)
    if sum(candidate.confidence for candidate in offered) >= policy.clarify[lang] and len(offered) >= 2:
        return _clarify(state, offered, "clarify")
    if outcome.reply and whole.confidence >= policy.even:
        # "Ok" and its like: a polite word that was perhaps not meant costs less than a ticket.
        return _reply(state, outcome.reply, f"intent:{whole.intent}")
    if state.rephrased < MAX_REPHRASE and not substantive(utterance.text):
        said = Say("rephrase", options=CALL_PERSON)
        offered_person = replace(_offer(state, CALL_PERSON), rephrased=state.rephrased + 1)
        return Decision((said,), offered_person, "rephrase")
    return Decision((Handoff(Reason.LOW_CONFIDENCE),), state, "low_confidence")


def wish_for_person(
    state: DialogueState, utterance: Utterance, understood: Sequence[Understanding], policy: Policy
) -> Decision | None:
    """The handoff that a part of the text asks for, or that its matter calls for."""
    for part in understood:
        if part.outcome.reason is Reason.REJECTED_ANSWER and not state.answered:
            continue  # there is nothing yet that could have been rejected
        wish = part.outcome.handoff == ANY_TOPIC and part.confidence >= policy.even
        if part.outcome.handoff and (wish or part.confidence >= policy.intent[utterance.lang]):
            return Decision((_handoff(part),), state, f"intent:{part.intent}")
    return None


def _reply(state: DialogueState, template: str, rule: str) -> Decision:
    options = CHOICE.get(template, {})
    return Decision((Say(template, options=options),), replace(state, options=options, rephrased=0), rule)


def _handoff(whole: Understanding) -> Handoff:
    outcome = whole.outcome
    if outcome.handoff == ANY_TOPIC:
        return Handoff(outcome.reason or Reason.ASKED_FOR_PERSON)
    reason = outcome.reason or (Reason.SENSITIVE if outcome.sensitive else Reason.COMPLAINT)
    return Handoff(reason, outcome.handoff, whole.confidence)


def _several_answers(parts: Sequence[Understanding], threshold: float) -> tuple[Candidate, ...]:
    """The surely answered ones among the sentences of one message, without repeats, at most two."""
    sure = [part.candidates[0] for part in parts if part.candidates and part.candidates[0].confidence >= threshold]
    return tuple({candidate.article_id: candidate for candidate in sure}.values())[:2]


def _answer(state: DialogueState, candidates: tuple[Candidate, ...], rule: str) -> Decision:
    last = candidates[-1]
    options = FEEDBACK | ({f"{MORE}:{last.article_id}": "@label_more"} if last.more else {})
    actions = tuple(Answer(candidate, options if candidate is last else {}) for candidate in candidates)
    answered = tuple(dict.fromkeys([*state.answered, *(c.article_id for c in candidates)]))
    return Decision(actions, DialogueState(True, options, answered=answered[-5:], topic=last.topic), rule)


def _again(state: DialogueState, whole: Understanding, threshold: float) -> Decision:
    """The best article was shown already and did not end the matter: offer the others, or a person."""
    offered = _choices(state, whole.candidates)
    if len(offered) >= 2 and sum(candidate.confidence for candidate in offered) >= threshold:
        return _clarify(state, offered, "clarify_after_answer")
    return Decision((Handoff(Reason.REJECTED_ANSWER),), state, "same_answer_again")


def _choices(state: DialogueState, candidates: Sequence[Candidate]) -> tuple[Candidate, ...]:
    return tuple(c for c in candidates if c.article_id not in state.answered)[: MAX_OPTIONS - 1]


def _clarify(state: DialogueState, offered: tuple[Candidate, ...], rule: str) -> Decision:
    options = {f"article:{c.article_id}": c.title for c in offered} | {PERSON: "@label_none"}
    return Decision((Clarify(offered, options),), replace(_offer(state, options), rephrased=0), rule)


def _offer(state: DialogueState, options: Mapping[str, str]) -> DialogueState:
    return replace(state, options=options)


def _has_words(text: str) -> bool:
    return bool(re.search(r"[^\W_]", text))


def substantive(text: str) -> bool:
    """Whether it has words enough to be about something."""
    return len(re.findall(r"[^\W\d_]{2,}", text)) >= SUBSTANTIVE_WORDS
