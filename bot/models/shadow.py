"""Shadow mode: for some topics the assistant only drafts, and a person sends. What becomes of the drafts tells when a
topic can be left to the assistant."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import case, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from bot.dialogue import Candidate
from bot.models.gate import Share
from bot.models.records import DraftFate, ShadowDraft, ShadowTopic
from handoff.lifecycle import LIVE
from handoff.records import Ticket

SAME_WORDS: Final = 0.5
"""A reply with at least this share of the draft's words was made of it."""
READY_SHARE: Final = 0.9
"""A topic is ready when the drafts that were sent as they are make up at least this share, whatever chance did …"""
READY_DRAFTS: Final = 30
"""… of at least so many."""


async def shadowed(session: AsyncSession) -> frozenset[str]:
    """The topics that the assistant only drafts for."""
    return frozenset(await session.scalars(select(ShadowTopic.topic)))


async def switch(session: AsyncSession, topic: str, *, on: bool, by: str, at: datetime) -> bool:
    """Whether anything was changed."""
    row = await session.get(ShadowTopic, topic)
    if on and row is None:
        session.add(ShadowTopic(topic=topic, since=at, by=by))
    elif not on and row is not None:
        await session.delete(row)
    else:
        return False
    await session.flush()
    return True


def keep_draft(
    session: AsyncSession, ticket_id: int, candidate: Candidate, *, text: str, version: str, at: datetime
) -> None:
    session.add(
        ShadowDraft(
            ticket_id=ticket_id,
            topic=candidate.topic,
            article_id=candidate.article_id,
            title=candidate.title[:500],
            lang=candidate.lang,
            text=text,
            confidence=candidate.confidence,
            version_id=version,
            created_at=at,
        )
    )


async def draft_of(session: AsyncSession, ticket_id: int) -> ShadowDraft | None:
    """The draft that a ticket came with, while nobody has answered."""
    found: ShadowDraft | None = await session.scalar(
        select(ShadowDraft)
        .where(ShadowDraft.ticket_id == ticket_id, ShadowDraft.fate.is_(None))
        .order_by(ShadowDraft.id.desc())
        .limit(1)
    )
    return found


async def settle(session: AsyncSession, ticket_id: int, text: str, *, by: str, at: datetime) -> DraftFate | None:
    """What a person made of the ticket's draft in his first answer; None where there is no draft to settle."""
    draft = await draft_of(session, ticket_id)
    if draft is None:
        return None
    draft.fate, draft.settled_at, draft.settled_by = fate_of(draft.text, text), at, by[:200]
    return draft.fate


def fate_of(draft: str, sent: str) -> DraftFate:
    """White space does not count."""
    drafted, said = draft.split(), sent.split()
    if drafted == said:
        return DraftFate.UNCHANGED
    kept = sum((Counter(map(str.casefold, drafted)) & Counter(map(str.casefold, said))).values())
    return DraftFate.EDITED if drafted and kept >= SAME_WORDS * len(drafted) else DraftFate.DISCARDED


@dataclass(frozen=True)
class TopicDrafts:
    """What became of a topic's drafts; shares with Wilson's interval of 95 %."""

    topic: str
    since: datetime | None
    """Since when it is only drafted for; None: the assistant answers by itself."""
    waiting: int
    unchanged: Share
    edited: Share
    discarded: Share

    @property
    def settled(self) -> int:
        return self.unchanged.of

    @property
    def ready(self) -> bool:
        return self.settled >= READY_DRAFTS and (self.unchanged.low or 0.0) >= READY_SHARE


async def drafts_by_topic(session: AsyncSession, topics: Sequence[str]) -> list[TopicDrafts]:
    """For each of these topics, in their order. A draft whose ticket ended without an answer was discarded."""
    fate = case(
        (ShadowDraft.fate.is_not(None), ShadowDraft.fate),
        (Ticket.status.in_(LIVE), None),
        else_=DraftFate.DISCARDED.value,
    )
    query = (
        select(ShadowDraft.topic, fate, func.count())
        .join(Ticket, Ticket.id == ShadowDraft.ticket_id)
        .group_by(ShadowDraft.topic, fate)
    )
    counts: dict[str, Counter[str | None]] = {}
    for topic, found, count in await session.execute(query):
        counts.setdefault(topic, Counter())[None if found is None else DraftFate(found).value] += count
    switched = {row.topic: row.since for row in await session.scalars(select(ShadowTopic))}
    return [_figures(topic, switched.get(topic), counts.get(topic, Counter())) for topic in topics]


def _figures(topic: str, since: datetime | None, counts: Mapping[str | None, int]) -> TopicDrafts:
    settled = sum(counts.get(fate.value, 0) for fate in DraftFate)
    shares = {fate: Share.among(counts.get(fate.value, 0), settled) for fate in DraftFate}
    return TopicDrafts(
        topic,
        since,
        counts.get(None, 0),
        shares[DraftFate.UNCHANGED],
        shares[DraftFate.EDITED],
        shares[DraftFate.DISCARDED],
    )
