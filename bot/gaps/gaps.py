"""What the assistant did not settle, as an editor reads it: groups with their counts and trend, and for each message
what happened next. Reads inside the caller's transaction; `bot.gaps.acts` changes.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

import numpy as np
from sqlalchemy import ColumnElement, Row, and_, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from bot.errors import NoGapError
from bot.gaps.grouping import centred, typical
from bot.gaps.records import TEACHING, Ended, Gap, GapAct, GapState, Question, Settlement
from bot.masking import mask
from handoff.outcomes import EPISODE_GAP
from handoff.records import NOTE, Author, Message, Ticket

WEEKS: Final = 8
PAGE: Final = 50
MOST_FOLLOWED: Final = 60
"""Of a large group the newest are looked after."""
MOST_REPLIES: Final = 5
SAME_WORDS: Final = 5
USED_SHARE: Final = 0.4
"""An agent used an article when so much of what he wrote stands in it, in runs of SAME_WORDS words."""


class View(StrEnum):
    OPEN = "open"
    RETURNED = "returned"
    """Settled by teaching, and messages still came after it."""
    SETTLED = "settled"


class Order(StrEnum):
    COUNT = "count"
    RECENT = "recent"
    GROWING = "growing"


@dataclass(frozen=True)
class Query:
    view: View = View.OPEN
    order: Order = Order.COUNT
    words: str = ""
    lang: str = ""
    ended: str = ""
    page: int = 0


@dataclass(frozen=True)
class GapLine:
    """weeks: messages of the last WEEKS weeks, the oldest first. after: those that came after it was settled."""

    id: int
    title: str
    state: GapState
    count: int
    langs: Mapping[str, int]
    ended: Mapping[Ended, int]
    weeks: tuple[int, ...]
    first_at: datetime
    last_at: datetime
    settlement: Settlement | None = None
    settled_at: datetime | None = None
    settled_by: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    after: int = 0
    flows: Mapping[str, int] = field(default_factory=dict)
    """Flow → how many of the messages were said in it, and could not be used there."""


@dataclass(frozen=True)
class Found:
    lines: Sequence[GapLine]
    total: int
    messages: int
    pages: int


@dataclass(frozen=True)
class Reply:
    agent: str
    text: str
    """Masked."""
    at: datetime


@dataclass(frozen=True)
class Asked:
    """One message of a group, with what happened next."""

    id: int
    message_id: int
    text: str
    lang: str
    ended: Ended
    at: datetime
    intent: str | None
    confidence: float | None
    article_id: str | None
    article_confidence: float | None
    ticket_id: int | None = None
    chose: str | None = None
    """The article that he chose when asked what he means, or was given by a later answer."""
    helped: bool | None = None
    flow: str | None = None
    """The flow that could not use it, at `step`."""
    step: str | None = None
    replies: tuple[Reply, ...] = ()


@dataclass(frozen=True)
class Sheet:
    """Everything about one group. typical: ids of messages that show its breadth, the most telling first."""

    line: GapLine
    asked: Sequence[Asked]
    typical: Sequence[int]
    acts: Sequence[GapAct]


async def find(session: AsyncSession, query: Query, *, now: datetime, limit: int = PAGE) -> Found:
    """The groups of a view, `limit` a page. Messages that were answered are in none."""
    state = GapState.OPEN if query.view is View.OPEN else GapState.SETTLED
    where: list[ColumnElement[bool]] = [Gap.state == state]
    if query.view is View.RETURNED:
        where.append(Gap.settlement.in_(TEACHING))
    if query.words:
        saying = select(Question.gap_id).where(Question.text.icontains(query.words, autoescape=True))
        where.append(Gap.title.icontains(query.words, autoescape=True) | Gap.id.in_(saying))
    lines = await _lines(session, and_(*where), now)
    if query.view is View.RETURNED:
        lines = [line for line in lines if line.after]
    if query.lang:
        lines = [line for line in lines if line.langs.get(query.lang)]
    if query.ended:
        lines = [line for line in lines if line.ended.get(Ended(query.ended))]
    lines.sort(key=lambda line: (-_worth(line, query), -line.last_at.timestamp(), line.id))
    shown = lines[query.page * limit : (query.page + 1) * limit]
    return Found(shown, len(lines), sum(line.count for line in lines), -(-len(lines) // limit))


def _worth(line: GapLine, query: Query) -> float:
    if query.view is View.RETURNED and query.order is Order.COUNT:
        return line.after
    if query.order is Order.RECENT or (query.view is View.SETTLED and query.order is Order.COUNT):
        return (line.settled_at or line.last_at).timestamp() if query.view is View.SETTLED else line.last_at.timestamp()
    if query.order is Order.GROWING:
        half = WEEKS // 2
        return sum(line.weeks[half:]) - sum(line.weeks[:half])
    return line.count


async def counts(session: AsyncSession) -> tuple[int, int]:
    """Open groups, and the messages in them."""
    found = await session.execute(
        select(func.count(func.distinct(Question.gap_id)), func.count(Question.id))
        .join(Gap, Gap.id == Question.gap_id)
        .where(Gap.state == GapState.OPEN, Question.ended != Ended.ANSWERED)
    )
    groups, messages = found.one()
    return int(groups), int(messages)


async def names(session: AsyncSession, *, but: int, limit: int = PAGE) -> Sequence[Row[int, str, int]]:
    """Open groups to join one with, the largest first: (id, title, count)."""
    counted = func.count(Question.id).label("count")
    found = await session.execute(
        select(Gap.id, Gap.title, counted)
        .join(Question, Question.gap_id == Gap.id)
        .where(Gap.state == GapState.OPEN, Gap.id != but, Question.ended != Ended.ANSWERED)
        .group_by(Gap.id, Gap.title)
        .order_by(counted.desc(), Gap.id)
        .limit(limit)
    )
    return found.all()


async def line_of(session: AsyncSession, gap_id: int, *, now: datetime) -> GapLine:
    """Raises NoGapError."""
    lines = await _lines(session, Gap.id == gap_id, now)
    if not lines:
        raise NoGapError(gap_id)
    return lines[0]


async def sheet(session: AsyncSession, gap_id: int, *, now: datetime) -> Sheet:
    """Raises NoGapError."""
    line = await line_of(session, gap_id, now=now)
    rows = (
        await session.scalars(
            select(Question)
            .where(Question.gap_id == gap_id, Question.ended != Ended.ANSWERED)
            .order_by(Question.at.desc(), Question.id.desc())
            .limit(MOST_FOLLOWED)
        )
    ).all()
    acts = (await session.scalars(select(GapAct).where(GapAct.gap_id == gap_id).order_by(GapAct.id.desc()))).all()
    return Sheet(line, await follow(session, rows), [rows[at].id for at in _typical(rows)], acts)


async def last_act(session: AsyncSession, gap_id: int) -> GapAct:
    """What was done to a group last, and not undone."""
    found: GapAct | None = await session.scalar(
        select(GapAct).where(GapAct.gap_id == gap_id, GapAct.undone_at.is_(None)).order_by(GapAct.id.desc()).limit(1)
    )
    if found is None:
        raise NoGapError(gap_id)
    return found


def _typical(rows: Sequence[Question], most: int = 10) -> list[int]:
    """Places of the rows, each text once."""
    usable = list({row.text.casefold(): at for at, row in reversed(list(enumerate(rows)))}.values())
    ready = [at for at in sorted(usable) if rows[at].vector]
    if not ready:
        return sorted(usable)[:most]
    vectors = np.stack([np.frombuffer(rows[at].vector or b"", np.float16) for at in ready]).astype(np.float32)
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    return [ready[at] for at in typical(centred(unit, [""] * len(unit), {}) if len(unit) > 2 else unit, most)]


async def _lines(session: AsyncSession, where: ColumnElement[bool], now: datetime) -> list[GapLine]:
    rows = await session.execute(
        select(Question.gap_id, Question.at, Question.lang, Question.ended, Question.flow)
        .join(Gap, Gap.id == Question.gap_id)
        .where(where, Question.ended != Ended.ANSWERED)
    )
    of: dict[int | None, list[tuple[datetime, str, Ended, str | None]]] = defaultdict(list)
    for gap_id, at, lang, ended, flow in rows:
        of[gap_id].append((at, lang, ended, flow))
    gaps = (await session.scalars(select(Gap).where(where))).all()
    return [_line(gap, of[gap.id], now) for gap in gaps if gap.id in of]


def _line(gap: Gap, of: Sequence[tuple[datetime, str, Ended, str | None]], now: datetime) -> GapLine:
    weeks = [0] * WEEKS
    for at, *_ in of:
        back = int((now - at) / timedelta(weeks=1))
        if 0 <= back < WEEKS:
            weeks[WEEKS - 1 - back] += 1
    moments = [at for at, *_ in of]
    settled = gap.settled_at
    return GapLine(
        id=gap.id,
        title=gap.title,
        state=gap.state,
        count=len(of),
        langs=dict(Counter(lang for _, lang, _, _ in of).most_common()),
        ended=dict(Counter(ended for _, _, ended, _ in of).most_common()),
        weeks=tuple(weeks),
        first_at=min(moments),
        last_at=max(moments),
        settlement=gap.settlement,
        settled_at=settled,
        settled_by=gap.settled_by,
        details=gap.details,
        after=sum(at > settled for at in moments) if settled else 0,
        flows=dict(Counter(flow for *_, flow in of if flow).most_common()),
    )


async def follow(session: AsyncSession, questions: Sequence[Question]) -> list[Asked]:
    """What happened after each message, in the same conversation and visit."""
    if not questions:
        return []
    conversations = {each.conversation_id for each in questions}
    since = min(each.message_id for each in questions)
    rows = await session.execute(
        select(
            Message.id,
            Message.conversation_id,
            Message.author,
            Message.agent_name,
            Message.kind,
            Message.text,
            Message.decision,
            Message.created_at,
        )
        .where(Message.conversation_id.in_(conversations), Message.id > since)
        .order_by(Message.id)
    )
    after: dict[int, list[Any]] = defaultdict(list)
    for row in rows:
        after[row.conversation_id].append(row)
    tickets: dict[int, list[Any]] = defaultdict(list)
    for ticket in await session.execute(
        select(Ticket.id, Ticket.conversation_id, Ticket.created_at, Ticket.resolved_at)
        .where(Ticket.conversation_id.in_(conversations))
        .order_by(Ticket.id)
    ):
        tickets[ticket.conversation_id].append(ticket)
    return [_followed(each, after[each.conversation_id], tickets[each.conversation_id]) for each in questions]


def _followed(question: Question, after: Iterable[Any], tickets: Sequence[Any]) -> Asked:
    ticket = next(
        (each for each in tickets if timedelta(0) <= each.created_at - question.at <= EPISODE_GAP),
        None,
    )
    ends = (ticket.resolved_at if ticket and ticket.resolved_at else None) or question.at + 7 * EPISODE_GAP
    chose, helped, replies = None, None, []
    for row in after:
        if row.id <= question.message_id or row.created_at > ends:
            continue
        rule = (row.decision or {}).get("rule", "")
        if row.author is Author.AGENT and row.kind != NOTE and row.text and ticket:
            replies.append(Reply(row.agent_name or "", mask(row.text), row.created_at))
        elif row.author is Author.CUSTOMER and rule == "answer_confirmed" and not ticket:
            helped = True
        elif row.author is Author.ASSISTANT and chose is None and row.created_at > question.at:
            # The reply of the same turn is what was rejected; a later one is what he came to.
            chose = (row.decision or {}).get("article_id")
    return Asked(
        id=question.id,
        message_id=question.message_id,
        text=question.text,
        lang=question.lang,
        ended=question.ended,
        at=question.at,
        intent=question.intent,
        confidence=question.confidence,
        article_id=question.article_id,
        article_confidence=question.article_confidence,
        ticket_id=ticket.id if ticket else None,
        chose=chose,
        helped=helped,
        flow=question.flow,
        step=question.step,
        replies=tuple(replies[:MOST_REPLIES]),
    )


def distinct_replies(asked: Iterable[Asked], most: int = 3) -> list[Reply]:
    """What agents answered, the longest of those that say the same, the most frequent first."""
    kinds: list[list[Reply]] = []
    for reply in (reply for each in asked for reply in each.replies):
        runs = word_runs(reply.text)
        if not runs:
            continue  # a word or two answers nothing
        same = next((kind for kind in kinds if _overlap(runs, word_runs(kind[0].text)) >= USED_SHARE), None)
        if same is None:
            kinds.append([reply])
        else:
            same.append(reply)
    kinds.sort(key=lambda kind: -len(kind))
    return [max(kind, key=lambda reply: len(reply.text)) for kind in kinds[:most]]


def used(reply: str, sources: Mapping[str, str]) -> str | None:
    """Which of the sources (name → text) a reply was written from, if from any."""
    runs = word_runs(reply)
    shares = {name: _overlap(runs, word_runs(text)) for name, text in sources.items()} if runs else {}
    best = max(shares, key=lambda name: shares[name], default=None)
    return best if best is not None and shares[best] >= USED_SHARE else None


def word_runs(text: str) -> frozenset[tuple[str, ...]]:
    """The runs of SAME_WORDS words in a text."""
    words = re.findall(r"\w+", text.lower())
    return frozenset(tuple(words[at : at + SAME_WORDS]) for at in range(len(words) - SAME_WORDS + 1))


def _overlap(runs: frozenset[tuple[str, ...]], others: frozenset[tuple[str, ...]]) -> float:
    return len(runs & others) / len(runs) if runs else 0.0
