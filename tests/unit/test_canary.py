"""A trial: who gets it, and what is counted of it."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest

from bot.models.canary import compare_sides
from bot.models.understanding import lot
from handoff.outcomes import Episode, Outcome, Step

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
LATER = NOW + timedelta(days=2)


def episode(conversation_id: int, outcome: Outcome) -> Episode:
    return Episode(
        conversation_id,
        conversation_id,
        "site",
        "en",
        None,
        NOW,
        12,
        date(2026, 11, 22),
        NOW,
        Step.ANSWERED,
        None,
        outcome,
    )


def test_a_share_of_the_conversations_is_drawn_and_only_grows() -> None:
    lots = [lot("v1", f"site::{number}") for number in range(4000)]
    tenth = {number for number, drawn in enumerate(lots) if drawn < 0.1}
    half = {number for number, drawn in enumerate(lots) if drawn < 0.5}
    assert 340 < len(tenth) < 460
    assert tenth < half
    assert lot("v1", "site::7") == lots[7]
    others = {number for number in range(4000) if lot("v2", f"site::{number}") < 0.1}
    assert len(others & tenth) < 100


def test_outcomes_are_told_apart_by_the_version_that_answered() -> None:
    versions = {1: {"old"}, 2: {"old"}, 3: {"new"}, 4: {"new"}, 5: {"old", "new"}, 6: {"other"}, 7: {"new"}}
    confirmed, left = Outcome.CONFIRMED, Outcome.ABANDONED
    episodes = [
        *(episode(number, confirmed) for number in (1, 3, 4, 5, 6)),
        episode(2, left),
        episode(7, Outcome.RUNNING),
    ]
    found = compare_sides(versions, episodes, live="old", candidate="new", since=NOW, now=LATER)

    assert (found.live_conversations, found.candidate_conversations, found.both, found.running) == (2, 3, 1, 1)
    row = next(row for row in found.rows if row.measure == "confirmed")
    assert (row.live.count, row.live.of, row.candidate.count, row.candidate.of) == (1, 2, 2, 2)
    assert row.difference == 0.5
    assert not row.tells


def test_a_handoff_counts_no_sooner_than_what_was_settled() -> None:
    versions = {1: {"new"}, 2: {"new"}}
    handed, settled = episode(1, Outcome.ABANDONED), episode(2, Outcome.RUNNING)
    found = compare_sides(
        versions, [handed, settled], live="old", candidate="new", since=NOW, now=NOW + timedelta(hours=3)
    )
    assert (found.running, {row.candidate.of for row in found.rows}) == (2, {0})


def test_a_difference_has_newcombes_interval() -> None:
    # Newcombe 1998, table II, (a): 56/70 against 48/80, method 10.
    versions = {number: {"new" if number < 70 else "old"} for number in range(150)}
    good = {*range(56), *range(70, 118)}
    episodes = [episode(n, Outcome.CONFIRMED if n in good else Outcome.ABANDONED) for n in range(150)]
    row = next(
        row
        for row in compare_sides(versions, episodes, live="old", candidate="new", since=NOW, now=LATER).rows
        if row.measure == "confirmed"
    )
    assert (row.difference, row.low, row.high) == pytest.approx((0.2, 0.0524, 0.3339), abs=1e-4)
    assert row.tells
