"""Thresholds computed from the training data for stated targets; none is typed in.

Every example was predicted by models that had not seen it (out of fold), so that its confidence is what a
customer's message would get.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np
from sklearn.isotonic import IsotonicRegression

from bot.dialogue import MAX_OPTIONS, Policy
from bot.language import LANGUAGES

FEWEST = 100
"""Below this many examples of a language its thresholds would hang on single ones."""
NEVER = 1.01
"""A threshold that no probability reaches: what is chosen when no threshold keeps the target."""


@dataclass(frozen=True)
class Targets:
    """What the operator asks for; settings of the same names."""

    answer_precision: float
    out_of_scope_answered: float
    clarify_chance: float


@dataclass(frozen=True)
class SearchTrial:
    """One question as the search answered it."""

    lang: str
    articles: frozenset[str]
    """The articles that answer it; empty when none does."""
    hits: tuple[tuple[str, float], ...]
    """Found articles with their confidence, best first."""


@dataclass(frozen=True)
class IntentTrial:
    """One example whose predicted intent leads to a reply or a handoff, so that its confidence decides."""

    lang: str
    right: bool
    confidence: float


def lowest_threshold(scored: Iterable[tuple[float, bool]], precision: float) -> float:
    """The lowest confidence from which on the share of right ones is at least `precision`; NEVER if none is.

    The threshold lies midway to the next lower confidence, so that it does not hang on one example.
    """
    ordered = sorted(scored, key=lambda pair: -pair[0])
    right, best = 0, None
    for count, (_, is_right) in enumerate(ordered, 1):
        right += is_right
        tied = count < len(ordered) and ordered[count][0] == ordered[count - 1][0]
        if not tied and right / count >= precision:
            best = count
    if best is None:
        return NEVER
    last = ordered[best - 1][0]
    return (last + ordered[best][0]) / 2 if best < len(ordered) else last


def lowest_chance(scored: Sequence[tuple[float, bool]], chance: float) -> float:
    """The lowest score from which on each single one is right with at least this probability; NEVER if none is.

    The probability of a score is fitted by isotonic regression (Zadrozny and Elkan 2002).
    """
    scores = np.array([score for score, _ in scored])
    fitted = IsotonicRegression(out_of_bounds="clip").fit_transform(scores, [float(right) for _, right in scored])
    enough = scores[fitted >= chance]
    return float(enough.min()) if len(enough) else NEVER


def calibrate(
    searches: Sequence[SearchTrial], intents: Sequence[IntentTrial], targets: Targets, *, max_text_chars: int
) -> Policy:
    """The policy for each language; one with too few examples is judged by all of them together.

    Without any example the confidences are taken at their word: an answer needs the target's probability.
    """
    answer, clarify, intent = {}, {}, {}
    for lang in LANGUAGES:
        rows = _of_language(searches, lang)
        answer[lang] = _answer_threshold(rows, targets) if rows else targets.answer_precision
        unanswered = [row for row in rows if not row.hits or row.hits[0][1] < answer[lang]]
        offers = [(sum(c for _, c in _offered(row)), _offers_right(row)) for row in unanswered]
        clarify[lang] = lowest_chance(offers, targets.clarify_chance) if offers else targets.clarify_chance
        acting = [(row.confidence, row.right) for row in _of_language(intents, lang)]
        intent[lang] = lowest_threshold(acting, targets.answer_precision) if acting else targets.answer_precision
    return Policy(answer=answer, clarify=clarify, intent=intent, max_text_chars=max_text_chars)


Trial = TypeVar("Trial", SearchTrial, IntentTrial)


def _of_language(trials: Sequence[Trial], lang: str) -> list[Trial]:
    own = [trial for trial in trials if trial.lang == lang]
    return own if len(own) >= FEWEST else list(trials)


def _answer_threshold(rows: Sequence[SearchTrial], targets: Targets) -> float:
    scored = [(row.hits[0][1], row.hits[0][0] in row.articles) for row in rows if row.hits]
    precise = lowest_threshold(scored, targets.answer_precision)
    outside = sorted((row.hits[0][1] if row.hits else 0.0 for row in rows if not row.articles), reverse=True)
    allowed = int(targets.out_of_scope_answered * len(outside))
    silent = outside[allowed] if allowed < len(outside) else 0.0
    return max(precise, min(silent + 1e-6, NEVER))


def _offered(row: SearchTrial) -> tuple[tuple[str, float], ...]:
    return row.hits[: MAX_OPTIONS - 1]


def _offers_right(row: SearchTrial) -> bool:
    return any(article in row.articles for article, _ in _offered(row))


def policy_to_json(policy: Policy, targets: Targets) -> dict[str, Any]:
    return {"targets": asdict(targets), "policy": asdict(policy)}


def policy_from_json(row: Mapping[str, Any]) -> Policy:
    return Policy(**row["policy"])
