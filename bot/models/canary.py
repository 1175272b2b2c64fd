"""How two versions do on the conversations that each of them answers: outcomes side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from math import sqrt
from typing import Final

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from bot.models.gate import Share
from handoff.outcomes import EPISODE_GAP, Episode, Outcome
from handoff.policy import DeskPolicy
from handoff.records import Author, Message, Reason
from handoff.reports import load_facts
from handoff.routing import Topics

MEASURES: Final[Mapping[str, Callable[[Episode], bool]]] = {
    "contained": lambda episode: not episode.handed_off,
    "confirmed": lambda episode: episode.outcome is Outcome.CONFIRMED,
    "handed_off": lambda episode: episode.handed_off,
    "rejected": lambda episode: episode.ticket is not None and episode.ticket.reason == Reason.REJECTED_ANSWER,
    "abandoned": lambda episode: episode.outcome is Outcome.ABANDONED,
    "returned": lambda episode: episode.outcome in (Outcome.REOPENED, Outcome.RETURNED_ELSEWHERE),
}
GOOD: Final = frozenset({"contained", "confirmed"})
"""The more the better; the others the fewer."""


@dataclass(frozen=True)
class Beside:
    """One measure of two groups of matters. Differences: the candidate's share less the live's."""

    measure: str
    live: Share
    candidate: Share
    difference: float | None
    low: float | None
    high: float | None

    @property
    def tells(self) -> bool:
        """Whether the difference is more than chance."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


@dataclass(frozen=True)
class SideBySide:
    since: datetime
    live_conversations: int
    candidate_conversations: int
    both: int
    """Conversations that had both versions, in no figure."""
    running: int
    """Matters that are not over, in no figure."""
    rows: tuple[Beside, ...]


async def side_by_side(
    session: AsyncSession,
    policy: DeskPolicy,
    *,
    live: str,
    candidate: str,
    since: datetime,
    now: datetime,
    topics: Topics,
) -> SideBySide:
    """Of all matters since a trial began."""
    query = (
        select(Message.conversation_id, Message.decision["model_version"].as_string())
        .where(Message.created_at >= since, Message.author == Author.ASSISTANT, Message.decision.is_not(None))
        .distinct()
    )
    versions: dict[int, set[str]] = {}
    for conversation_id, version in await session.execute(query):
        if version:
            versions.setdefault(conversation_id, set()).add(version)
    facts = await load_facts(session, policy, since=since, until=now, now=now, topics=topics)
    return compare_sides(versions, facts.episodes, live=live, candidate=candidate, since=since, now=now)


def compare_sides(
    versions: Mapping[int, set[str]],
    episodes: Sequence[Episode],
    *,
    live: str,
    candidate: str,
    since: datetime,
    now: datetime,
) -> SideBySide:
    """versions: conversation → what answered in it."""
    # A handoff shows at once, and what was settled only after a silence: both are counted from the same age on.
    old = [each for each in episodes if each.began_at <= now - EPISODE_GAP]
    over = [each for each in old if each.handed_off or each.outcome is not Outcome.RUNNING]
    sides = {name: [e for e in over if versions.get(e.conversation_id) == {name}] for name in (live, candidate)}
    rows = []
    for measure, holds in MEASURES.items():
        before, after = (Share.among(sum(map(holds, side)), len(side)) for side in sides.values())
        rows.append(Beside(measure, before, after, *_difference(before, after)))
    return SideBySide(
        since=since,
        live_conversations=sum(found == {live} for found in versions.values()),
        candidate_conversations=sum(found == {candidate} for found in versions.values()),
        both=sum({live, candidate} <= found for found in versions.values()),
        running=len(episodes) - len(over),
        rows=tuple(rows),
    )


def _difference(before: Share, after: Share) -> tuple[float | None, float | None, float | None]:
    """With Newcombe's interval of 95 % from two Wilson intervals (1998, "Interval estimation for the difference between
    independent proportions", method 10)."""
    if before.value is None or after.value is None:
        return None, None, None
    assert before.low is not None and before.high is not None  # noqa: S101, PT018 - a share of something
    assert after.low is not None and after.high is not None  # noqa: S101, PT018
    difference = after.value - before.value
    down = sqrt((after.value - after.low) ** 2 + (before.high - before.value) ** 2)
    up = sqrt((after.high - after.value) ** 2 + (before.value - before.low) ** 2)
    return round(difference, 4), round(difference - down, 4), round(difference + up, 4)
