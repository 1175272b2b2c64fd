"""The gate: what it counts, and when it refuses."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from math import comb

import pytest

from bot.models.gate import (
    REPORT,
    Asked,
    DataChange,
    Deed,
    Report,
    Share,
    Source,
    compare,
    data_change,
    holm,
    is_right,
    mcnemar,
    misleads,
)
from bot.models.records import Expecting

NOW = datetime(2026, 11, 22, tzinfo=UTC)


def deed(action: str = "answer", article: str | None = "a", **more: object) -> Deed:
    articles = (article,) if article else ()
    fields = {"topic": None, "intent": None, "rule": action, "confidence": 0.9, "best": article, "best_confidence": 0.9}
    return Deed(action=action, articles=articles, **{**fields, **more})  # type: ignore[arg-type]


HANDED = deed("handoff", None, topic="orders")


def asked(number: int, *, source: Source = Source.GOLD, right: str = "a", lang: str = "en") -> Asked:
    return Asked(f"{source}:{number}", f"question {number}", lang, source, Expecting.ARTICLE, (right,))


def judged(
    questions: Sequence[Asked], live: Sequence[Deed] | None, candidate: Sequence[Deed], data: DataChange | None = None
) -> Report:
    keys = [each.key for each in questions]
    return compare(
        questions,
        dict(zip(keys, live, strict=True)) if live is not None else None,
        dict(zip(keys, candidate, strict=True)),
        version="new",
        against="old" if live is not None else None,
        made_at=NOW,
        data=data,
    )


@pytest.mark.parametrize(("lost", "won"), [(0, 0), (3, 3), (5, 0), (8, 1), (40, 22)])
def test_the_paired_test_is_the_exact_one(lost: int, won: int) -> None:
    n = lost + won
    expected = sum(comb(n, k) for k in range(lost, n + 1)) / 2**n
    assert mcnemar(lost, won) == pytest.approx(expected)


def test_several_tests_are_adjusted_by_holm() -> None:
    # The example of the method: sorted p times the number of tests that are left, never falling.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_a_share_has_wilsons_interval() -> None:
    share = Share.among(8, 10)
    assert (share.low, share.high) == (0.4902, 0.9433)
    assert Share.among(0, 0).value is None


def test_a_candidate_that_loses_what_the_live_version_knew_is_refused() -> None:
    questions = [asked(number) for number in range(40)]
    report = judged(questions, [deed()] * 40, [deed()] * 32 + [deed("answer", "b")] * 8)

    assert not report.accepted
    assert {reason.values["test"] for reason in report.reasons} == {"right:all", "misleads:all"}
    right = next(figure for figure in report.figures if figure.measure == "right")
    assert (right.live and right.live.count, right.candidate.count, right.difference) == (40, 32, -0.2)
    assert right.low is not None
    assert right.high is not None
    assert right.low < -0.2 < right.high < 0
    assert report.changed == {"worse": 8}


def test_a_difference_within_noise_is_let_through() -> None:
    questions = [asked(number) for number in range(40)]
    live = [deed()] * 36 + [HANDED] * 4
    report = judged(questions, live, [HANDED] * 3 + [deed()] * 37)

    assert report.accepted
    assert report.changed == {"worse": 3, "better": 4}


def test_a_loss_in_one_language_is_not_hidden_by_a_gain_in_the_other() -> None:
    questions = [asked(number, lang="ru" if number < 12 else "en") for number in range(40)]
    live = [deed()] * 12 + [HANDED] * 28
    report = judged(questions, live, [HANDED] * 12 + [deed()] * 28)

    assert [reason.values["test"] for reason in report.reasons] == ["right:ru"]


def test_one_protected_question_that_breaks_is_enough() -> None:
    questions = [*[asked(number) for number in range(10)], asked(1, source=Source.PROTECTED)]
    choice = deed("clarify", "a")
    report = judged(questions, [deed()] * 11, [deed()] * 10 + [choice])

    assert [reason.kind for reason in report.reasons] == ["protected"]
    assert (report.protected[0].kept, report.protected[0].was_kept) == (False, True)
    assert judged(questions, [deed()] * 11, [choice] * 10 + [deed()]).accepted


def test_the_first_version_is_judged_on_protected_questions_alone() -> None:
    questions = [asked(1), asked(1, source=Source.PROTECTED)]
    assert judged(questions, None, [HANDED, deed()]).accepted
    assert not judged(questions, None, [HANDED, HANDED]).accepted


def test_what_customers_wrote_is_compared_without_a_verdict_until_they_said_one() -> None:
    plain = Asked("message:1", "where is it", "en", Source.REPLAY)
    helped = Asked("message:2", "and now", "en", Source.REPLAY, Expecting.ARTICLE, ("a",))
    rejected = Asked("message:3", "no", "en", Source.REPLAY, wrong=("a",))
    report = judged([plain, helped, rejected], [deed(), HANDED, deed()], [deed("answer", "b"), deed(), HANDED])

    assert {change.key: change.kind for change in report.changes} == {
        "message:1": "unclear",
        "message:2": "better",
        "message:3": "better",
    }


@pytest.mark.parametrize(
    ("expects", "right", "done", "is_it"),
    [
        (Expecting.ARTICLE, ("a",), deed("clarify", "a"), True),
        (Expecting.ARTICLE, ("a",), deed("answer", "b"), False),
        (Expecting.NOTHING, (), HANDED, True),
        (Expecting.NOTHING, (), deed(), False),
        (Expecting.PERSON, (), HANDED, True),
        (Expecting.PERSON, ("payment",), HANDED, False),
        (Expecting.INTENT, ("greet",), deed("reply", None, intent="greet"), True),
        (Expecting.INTENT, ("greet",), deed("answer", "a", intent="greet"), False),
    ],
)
def test_what_is_right_depends_on_what_is_expected(
    expects: Expecting, right: tuple[str, ...], done: Deed, is_it: bool
) -> None:
    assert is_right(Asked("x", "x", "en", Source.OWN, expects, right), done) is is_it


def test_a_wrong_article_misleads_and_a_choice_does_not() -> None:
    assert misleads(asked(1), deed("answer", "b"))
    assert not misleads(asked(1), deed("clarify", "b"))
    assert misleads(Asked("x", "x", "en", Source.GOLD, Expecting.NOTHING), deed())


def test_swapped_labels_are_seen_in_the_data_itself() -> None:
    live = [(f"{name} {number}", name, "en") for name in ("refund", "delivery", "other") for number in range(6)]
    swap = {"refund": "delivery", "delivery": "refund"}
    change = data_change(live, [(text, swap.get(name, name), lang) for text, name, lang in live])
    assert change.swapped == (("delivery", "refund"),)
    report = judged([asked(1)], [deed()], [deed()], change)
    assert [reason.kind for reason in report.reasons] == ["swapped"]

    renamed = [(text, "money_back" if name == "refund" else name, lang) for text, name, lang in live]
    assert data_change(live, renamed).swapped == ()
    assert [(m.origin, m.target, m.examples) for m in data_change(live, renamed).moved] == [("refund", "money_back", 6)]
    one_moved = [("refund 0", "delivery", "en"), *live[1:], ("new", "other", "en")]
    assert data_change(live, one_moved).swapped == ()
    assert data_change(live, one_moved).added == {"other": 1}


def test_a_report_is_read_back_as_it_was_written() -> None:
    report = judged([asked(1), asked(1, source=Source.PROTECTED)], [deed(), HANDED], [HANDED, deed()])
    assert REPORT.validate_json(REPORT.dump_json(report)) == report
