"""Whole decisions on labelled questions: what `otvet evaluate dialogue` prints."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bot.dialogue import (
    Answer,
    Clarify,
    Decision,
    DialogueState,
    Handoff,
    Outcome,
    StartFlow,
    Utterance,
    decide,
)
from bot.errors import OtvetError
from bot.language import LANGUAGES
from bot.models.understanding import Understander, Understood
from handoff.records import Owner
from handoff.routing import UNCLEAR, Topics, route


class QuestionsError(OtvetError):
    """A row of a question file that can't be used; the message has file and line."""


@dataclass(frozen=True)
class Question:
    """A labelled question. No article: it is out of scope, and `topic` says where it must be handed off to."""

    text: str
    lang: str | None
    articles: frozenset[str]
    topic: str | None
    kind: str


@dataclass(frozen=True)
class Verdict:
    """What became of one question."""

    question: Question
    action: str
    """answer, clarify, flow, handoff or reply (small talk, a question back without articles)."""
    articles: tuple[str, ...]
    topic: str | None
    """Of a handoff, the topic of its ticket."""
    ticket_topic: str
    """The topic that a ticket with this text alone gets, handed off or not."""
    rule: str
    confidence: float
    intent: str | None
    best: str | None
    """The likeliest article, given for an answer or not …"""
    best_confidence: float
    """… and the probability that it answers."""

    @property
    def right(self) -> bool:
        """The answer, or one of the choices, is a right article."""
        return bool(set(self.articles) & self.question.articles)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON lines file. Raises QuestionsError with the line of what is none."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise QuestionsError(f"{path}: {error}") from error
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise QuestionsError(f"{path}:{number}: not JSON: {error}") from error
        if not isinstance(row, dict) or not isinstance(row.get("text"), str):
            raise QuestionsError(f'{path}:{number}: expected an object with a "text"')
        rows.append(row)
    return rows


def load_questions(path: Path) -> list[Question]:
    """Read rows {"text", "article_id": id, [ids] or null, "alt_ids"?, "topic"?, "lang"?, "kind"?}."""
    questions = []
    for row in read_rows(path):
        named = row.get("article_id") or []
        articles = [named] if isinstance(named, str) else list(named)
        questions.append(
            Question(
                text=row["text"],
                lang=row.get("lang"),
                articles=frozenset([*articles, *(row.get("alt_ids") or [])]),
                topic=row.get("topic"),
                kind=row.get("kind", ""),
            )
        )
    return questions


def judge(questions: Iterable[Question], understander: Understander, topics: Topics) -> list[Verdict]:
    """Put each question to the assistant as the first message of a conversation."""
    questions = list(questions)
    return [
        verdict_on(question, understood, understander, topics)
        for question, understood in zip(questions, understand_all(questions, understander), strict=True)
    ]


def understand_all(questions: Sequence[Question], understander: Understander) -> list[Understood]:
    return understander.understand_all([(q.text, q.lang if q.lang in LANGUAGES else None) for q in questions])


def verdict_on(
    question: Question, understood: Understood, understander: Understander, topics: Topics, *, tickets: bool = True
) -> Verdict:
    """tickets: also find out where one would go that was not handed off, which takes as long as all else."""
    utterance = Utterance(kind="text", text=question.text, lang=understood.lang)
    decision = decide(DialogueState(), Owner.ASSISTANT, utterance, understood.parts, {}, understander.policy)
    whole = understood.parts[0]
    action, articles, topic = _outcome(decision, whole.outcome)
    for handoff in (item for item in decision.actions if isinstance(item, Handoff)):
        by_intent = (handoff.topic, handoff.confidence or 0.0) if handoff.topic else None
        topic = route(topics, understander.topics, [question.text], by_intent=by_intent).topic.id
    ticket_topic = topic or (route(topics, understander.topics, [question.text]).topic.id if tickets else "")
    best = next(iter(whole.candidates), None)
    return Verdict(
        question=question,
        action=action,
        articles=articles,
        topic=topic,
        ticket_topic=ticket_topic,
        rule=decision.rule,
        confidence=max([whole.confidence, *(c.confidence for c in whole.candidates[:1])]),
        intent=whole.intent,
        best=best.article_id if best else None,
        best_confidence=best.confidence if best else 0.0,
    )


def _outcome(decision: Decision, outcome: Outcome) -> tuple[str, tuple[str, ...], str | None]:
    """outcome: of the intent, for a flow may stand for an article."""
    answered = tuple(item.candidate.article_id for item in decision.actions if isinstance(item, Answer))
    if answered:
        return "answer", answered, None
    for item in decision.actions:
        if isinstance(item, StartFlow):
            return "flow", (outcome.article,) if outcome.article else (), None
        if isinstance(item, Clarify):
            return "clarify", tuple(candidate.article_id for candidate in item.candidates), None
        if isinstance(item, Handoff):
            return "handoff", (), None
    return "reply", (), None


def summarise(verdicts: Sequence[Verdict], unclear: str = UNCLEAR.id) -> dict[str, Any]:
    """The keys of `otvet evaluate dialogue --json`. Shares are 0..1.

    answered_right, clarified_right, handed_off: of the in-scope questions. answered_wrong: of everything that was
    answered with an article, in scope or not. oos_answered: of the out-of-scope questions. routed_right: of the
    handoffs whose question names its topic; to_be_clarified: those of them in the default queue. tickets: the
    questions that name a topic, handed off or not; tickets_routed_right, tickets_to_be_clarified: of all of these, as
    if each became a ticket.
    """
    inside = [v for v in verdicts if v.question.articles]
    outside = [v for v in verdicts if not v.question.articles]
    answered = [v for v in verdicts if v.action == "answer"]
    tickets = [v for v in verdicts if v.question.topic]
    routed = [v for v in tickets if v.action == "handoff"]
    return {
        "in_scope": len(inside),
        "out_of_scope": len(outside),
        "answered_right": _share(sum(v.action == "answer" and v.right for v in inside), len(inside)),
        "clarified_right": _share(sum(v.action == "clarify" and v.right for v in inside), len(inside)),
        "handed_off": _share(sum(v.action == "handoff" for v in inside), len(inside)),
        "answered_wrong": _share(sum(not v.right for v in answered), len(answered)),
        "oos_answered": _share(sum(v.action == "answer" for v in outside), len(outside)),
        "routed_right": _share(sum(v.topic == v.question.topic for v in routed), len(routed)),
        "to_be_clarified": _share(sum(v.topic == unclear for v in routed), len(routed)),
        "tickets": len(tickets),
        "tickets_routed_right": _share(sum(v.ticket_topic == v.question.topic for v in tickets), len(tickets)),
        "tickets_to_be_clarified": _share(sum(v.ticket_topic == unclear for v in tickets), len(tickets)),
    }


def by_language(verdicts: Sequence[Verdict]) -> Mapping[str, dict[str, Any]]:
    langs = sorted({v.question.lang or "" for v in verdicts})
    return {lang: summarise([v for v in verdicts if (v.question.lang or "") == lang]) for lang in langs}


def by_kind(verdicts: Sequence[Verdict]) -> Mapping[str, Counter[str]]:
    """Kind of question → how often each outcome: what an editor looks at first."""
    counts: dict[str, Counter[str]] = {}
    for v in verdicts:
        name = v.action if v.action not in ("answer", "clarify") else f"{v.action}_{'right' if v.right else 'wrong'}"
        counts.setdefault(v.question.kind, Counter())[name] += 1
    return counts


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None
