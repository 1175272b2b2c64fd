"""Finds in the transcripts what the assistant did not settle: one row for each such question, with no transcript
changed and nothing asked of a turn, so that also what was said before this ran is found."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import takewhile
from typing import Any, Final

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from bot.gaps.records import Ended, GapScan, Question
from bot.language import DEFAULT
from bot.masking import mask
from handoff.outcomes import EPISODE_GAP
from handoff.records import Author, Conversation, Message, Reason

BATCH: Final = 2000
OVERLAP: Final = 200
"""So many ids are looked at again: on PostgreSQL a lower one may be committed after a higher one."""
MOST_CHARS: Final = 600
LEAST_DOUBT: Final = 0.5
"""An answered question with less of it is not kept: a label would teach nothing."""
LEAST_EVIDENCE: Final = 0.3
"""So sure must intent and search both be for their disagreement to mean something."""

_ENDED: Final = {
    "rephrase": Ended.UNANSWERED,
    "too_long": Ended.UNANSWERED,
    "clarify": Ended.CLARIFIED,
    "clarify_after_answer": Ended.CLARIFIED,
    "same_answer_again": Ended.REJECTED,
    "low_confidence": Ended.HANDED_OFF,
    "error": Ended.HANDED_OFF,
}
_ANSWERED: Final = frozenset({"answer", "several_questions", "one_of_several_questions"})
_VERDICTS: Final = {"answer_rejected": Ended.REJECTED, "person_chosen": Ended.HANDED_OFF}
"""Said with a button: they are about the question before."""


@dataclass(frozen=True)
class Said:
    """A message as far as it matters here."""

    id: int
    conversation_id: int
    author: Author
    text: str
    decision: Mapping[str, Any] | None
    at: datetime
    lang: str | None


@dataclass(frozen=True)
class Verdict:
    """What a customer's message says about an earlier question of his."""

    conversation_id: int
    before_id: int
    ended: Ended
    at: datetime


async def collect(session: AsyncSession, *, article_of: Mapping[str, str]) -> int:
    """Read the transcripts on from where it stopped; how many questions are new. Call again until it returns 0 while
    `behind` says that there is more.

    article_of: intent → the article that it leads to.
    """
    scan = await session.get(GapScan, 1)
    if scan is None:
        scan = GapScan(id=1, message_id=0)
        session.add(scan)
    rows = await _read(session, Message.id > scan.message_id - OVERLAP, BATCH + OVERLAP)
    if not rows:
        return 0
    questions, verdicts = sort_out(rows, article_of)
    ids = [question.message_id for question in questions]
    known = set(await session.scalars(select(Question.message_id).where(Question.message_id.in_(ids))))
    new = [question for question in questions if question.message_id not in known]
    session.add_all(new)
    await session.flush()
    for verdict in verdicts:
        await _apply(session, verdict, article_of)
    scan.message_id = max(scan.message_id, rows[-1].id)
    return len(new)


_TELLING: Final = (Message.author.in_((Author.CUSTOMER, Author.ASSISTANT)), Message.deleted_at.is_(None))


async def behind(session: AsyncSession) -> bool:
    """Whether there are messages that `collect` has not seen."""
    scan = await session.get(GapScan, 1)
    newer = select(Message.id).where(Message.id > (scan.message_id if scan else 0), *_TELLING)
    return await session.scalar(newer.limit(1)) is not None


async def _read(session: AsyncSession, where: Any, limit: int, *, newest: bool = False) -> list[Said]:
    query = (
        select(
            Message.id,
            Message.conversation_id,
            Message.author,
            Message.text,
            Message.decision,
            Message.created_at,
            Conversation.lang,
        )
        .join(Conversation, Conversation.id == Message.conversation_id)
        .where(where, *_TELLING)
        .order_by(Message.id.desc() if newest else Message.id)
        .limit(limit)
    )
    return [Said(*row) for row in await session.execute(query)]


def sort_out(rows: Sequence[Said], article_of: Mapping[str, str]) -> tuple[list[Question], list[Verdict]]:
    """The questions among messages of some conversations in order of id, and what was said about earlier ones. A
    question whose reply is not among the rows may be taken for one that its intent answers. Pure."""
    questions, verdicts = [], []
    for said in _by_conversation(rows).values():
        for at, message in enumerate(said):
            if message.author is not Author.CUSTOMER or not message.decision:
                continue
            rule = str(message.decision.get("rule", ""))
            reply = next((each for each in said[at + 1 :] if each.author is Author.ASSISTANT and each.decision), None)
            ended = _ENDED.get(rule) or _VERDICTS.get(rule) or _by_intent(rule, reply)
            if ended is None and message.decision.get("missed"):
                ended = Ended.HANDED_OFF if _hands_off(said[at + 1 :]) else Ended.UNANSWERED
            if rule in _VERDICTS or (ended is Ended.REJECTED and rule != "same_answer_again"):
                assert ended is not None  # noqa: S101 - both conditions set it
                verdicts.append(Verdict(message.conversation_id, message.id, ended, message.at))
                continue
            if ended is None and _is_wish(rule, reply):
                verdicts.append(Verdict(message.conversation_id, message.id, Ended.HANDED_OFF, message.at))
                continue
            if ended is None and rule not in _ANSWERED:
                continue
            question = _question(message, _words(said, at), ended or Ended.ANSWERED, article_of)
            if question is not None:
                questions.append(question)
    return questions, verdicts


def _by_conversation(rows: Iterable[Said]) -> dict[int, list[Said]]:
    found: dict[int, list[Said]] = defaultdict(list)
    for row in rows:
        found[row.conversation_id].append(row)
    return found


def _hands_off(after: Iterable[Said]) -> bool:
    """Whether the replies up to the customer's next words end with a person."""
    replies = takewhile(lambda each: each.author is not Author.CUSTOMER, after)
    return any((each.decision or {}).get("action") == "handoff" for each in replies)


def _reason(rule: str, reply: Said | None) -> str | None:
    if not rule.startswith("intent:") or reply is None or reply.decision is None:
        return None
    return reply.decision.get("reason") if reply.decision.get("action") == "handoff" else None


def _by_intent(rule: str, reply: Said | None) -> Ended | None:
    reason = _reason(rule, reply)
    if reason is None or reason == Reason.ASKED_FOR_PERSON:
        return None
    return Ended.REJECTED if reason == Reason.REJECTED_ANSWER else Ended.BY_INTENT


def _is_wish(rule: str, reply: Said | None) -> bool:
    return _reason(rule, reply) == Reason.ASKED_FOR_PERSON


def _words(said: Sequence[Said], at: int) -> str:
    """What was said in one turn: its last message carries the decision, the others came just before it."""
    texts = [said[at].text]
    for earlier in reversed(said[:at]):
        if earlier.author is not Author.CUSTOMER or earlier.decision or earlier.at != said[at].at:
            break
        texts.insert(0, earlier.text)
    return "\n".join(text for text in texts if text)


def _question(message: Said, text: str, ended: Ended, article_of: Mapping[str, str]) -> Question | None:
    decision = message.decision or {}
    if decision.get("personal") or not any(map(str.isalpha, text)):
        return None
    hits = decision.get("hits") or [{}]
    intent, confidence = decision.get("intent"), decision.get("confidence")
    article, article_confidence = hits[0].get("article_id"), hits[0].get("confidence")
    missed = decision.get("missed") or {}
    # What a flow asked for is no question of the customer's: as a label it would teach nothing.
    doubt, disagree = (None, False) if missed else doubt_of(decision, article_of)
    if ended is Ended.ANSWERED and (doubt or 0) < LEAST_DOUBT:
        return None
    return Question(
        message_id=message.id,
        conversation_id=message.conversation_id,
        ended=ended,
        text=mask(text[:MOST_CHARS]).strip(),
        lang=str(decision.get("lang") or message.lang or DEFAULT)[:8],
        intent=intent and str(intent)[:120],
        confidence=confidence,
        article_id=article and str(article)[:120],
        article_confidence=article_confidence,
        at=message.at,
        doubt=doubt,
        disagree=disagree,
        flow=missed.get("flow"),
        step=missed.get("step"),
    )


def doubt_of(decision: Mapping[str, Any], article_of: Mapping[str, str]) -> tuple[float | None, bool]:
    """How much a label of it would teach, 0..1, and whether intent and search disagree; (None, False): nothing known.

    The nearer to the threshold, the more: uncertainty sampling, Lewis & Gale, "A sequential algorithm for training
    text classifiers", 1994. Two that are both sure of different articles are the plainest sign that one is wrong.
    """
    hits = decision.get("hits") or []
    confidence = float(decision.get("confidence") or 0.0)
    thresholds = decision.get("thresholds") or {}
    if not thresholds or (not hits and not confidence):
        return None, False
    best = float(hits[0]["confidence"]) if hits else 0.0
    meant = article_of.get(decision.get("intent") or "")
    disagree = bool(meant and hits and hits[0]["article_id"] != meant and min(confidence, best) >= LEAST_EVIDENCE)
    sure, threshold = (
        (best, thresholds.get("answer", 0.5))
        if meant or not decision.get("intent")
        else (
            max(best, confidence),
            thresholds.get("answer" if best >= confidence else "intent", 0.5),
        )
    )
    near = 1 - abs(sure - threshold) / max(threshold if sure < threshold else 1 - threshold, 1e-9)
    doubt = max(near, 0.5 + min(confidence, best) / 2) if disagree else near
    return round(min(1.0, max(0.0, doubt)), 4), disagree


async def _apply(session: AsyncSession, verdict: Verdict, article_of: Mapping[str, str]) -> None:
    """Note on the customer's last question of that visit how it ended; one that was taken as answered becomes a gap."""
    where = (Message.conversation_id == verdict.conversation_id) & (Message.id < verdict.before_id)
    said = list(reversed(await _read(session, where, 20, newest=True)))
    for at in range(len(said) - 1, -1, -1):
        message = said[at]
        if message.author is not Author.CUSTOMER or not message.decision:
            continue
        rule = str(message.decision.get("rule", ""))
        if verdict.at - message.at > EPISODE_GAP or rule in _VERDICTS:
            return
        if rule not in _ENDED and rule not in _ANSWERED and not message.decision.get("missed"):
            continue
        known: Question | None = await session.scalar(select(Question).where(Question.message_id == message.id))
        # Whoever calls a person after an answer was not helped by it.
        ended = Ended.REJECTED if rule in _ANSWERED else verdict.ended
        if known is not None:
            if known.ended in (Ended.ANSWERED, Ended.UNANSWERED, Ended.CLARIFIED):
                known.ended = ended
            return
        question = _question(message, _words(said, at), ended, article_of)
        if question is not None:
            session.add(question)
            await session.flush()
        return
