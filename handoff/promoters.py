"""The net promoter score as figures. Pure: rows in, figures out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime
from math import sqrt
from typing import NamedTuple


class NpsFacts(NamedTuple):
    """One question that reached a customer, and what he answered, as plain values."""

    conversation_id: int
    ticket_id: int | None
    """The one that had ended well; None: the assistant had settled it. What follows of tickets is empty then."""
    agent: str | None
    team: str | None
    level: str | None
    priority: str | None
    reason: str | None
    channel: str
    lang: str
    topic: str | None
    asked_at: datetime
    hour: int
    """Of the local day in which he was asked."""
    day: date
    score: int | None
    answered_at: datetime | None
    comment: str | None


@dataclass(frozen=True)
class NpsFigures:
    """Shares are 0..1, and None where there is nothing to share."""

    score: float | None
    """Percentage points of promoters less detractors: -100 to 100."""
    margin: float | None
    """So far it may lie from what all who were like these would have said, at 95 %: the adjusted Wald interval of
    B. Rocks, "Interval Estimation for the Net Promoter Score", The American Statistician 70 (2016)."""
    asked: int
    answers: int
    answered: float | None
    """Of those asked."""
    promoters: float | None
    passives: float | None
    detractors: float | None
    """Of the answers; these three add up to 1."""
    by_score: tuple[int, ...]
    """How many answered 0, 1 … 10."""


def group(score: int) -> str:
    """promoter (9, 10), passive (7, 8) or detractor, as F. Reichheld has them ("The One Number You Need to Grow",
    2003)."""
    return "promoter" if score >= 9 else "passive" if score >= 7 else "detractor"


def measure(facts: Iterable[NpsFacts]) -> NpsFigures:
    asked = list(facts)
    scores = Counter(each.score for each in asked if each.score is not None)
    groups = Counter[str]()
    for score, count in scores.items():
        groups[group(score)] += count
    n = groups.total()

    def share(name: str) -> float | None:
        return round(groups[name] / n, 6) if n else None

    # Three answers more, a quarter of them promoters and a quarter detractors, so that a few alike are no certainty.
    p, d = ((groups[name] + 0.75) / (n + 3) for name in ("promoter", "detractor"))
    return NpsFigures(
        score=round(100 * (groups["promoter"] - groups["detractor"]) / n, 1) if n else None,
        margin=round(196 * sqrt((p + d - (p - d) ** 2) / (n + 3)), 1) if n else None,
        asked=len(asked),
        answers=n,
        answered=round(n / len(asked), 6) if asked else None,
        promoters=share("promoter"),
        passives=share("passive"),
        detractors=share("detractor"),
        by_score=tuple(scores[score] for score in range(11)),
    )
