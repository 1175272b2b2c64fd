"""The gate: a new version is judged against the live one, on the same questions, before it may answer anybody.

Rightness is compared question by question with McNemar's test in its exact form (McNemar 1947, "Note on the sampling
error of the difference between correlated proportions or percentages"): of the questions whose verdict differs, as many
should get better as get worse if the versions were equally good. Several such tests are made, so their p values are
adjusted by Holm's method (1979). Shares have Wilson's interval (1927); the difference of two shares on the same
questions has a percentile bootstrap over the questions (Efron 1979).

Pure: verdicts in, a report out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Literal

import numpy as np
from pydantic import TypeAdapter
from scipy.stats import binom, binomtest

from bot.models.evaluation import Verdict
from bot.models.records import Expecting

ALPHA = 0.05
RESAMPLES = 4000
BINS = 10
MOST_CHANGES = 400
SWAPPED = 0.5
"""Two intents that gave each other at least this share of their examples were mixed up."""
FEWEST_SWAPPED = 3


class Source(StrEnum):
    GOLD = "gold"
    """The frozen questions of a file."""
    OWN = "own"
    """Gold questions of the editors."""
    PROTECTED = "protected"
    REPLAY = "replay"
    """What customers wrote lately."""


@dataclass(frozen=True)
class Asked:
    """A question that both versions are asked. `expects` is None where nobody knows what is right."""

    key: str
    text: str
    lang: str
    source: Source
    expects: Expecting | None = None
    right: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()
    """Articles that a customer said did not help."""
    message_id: int | None = None


@dataclass(frozen=True)
class Deed:
    """What a version does with a question."""

    action: str
    """answer, clarify, handoff, flow or reply."""
    articles: tuple[str, ...]
    topic: str | None
    intent: str | None
    rule: str
    confidence: float
    best: str | None
    best_confidence: float

    @classmethod
    def of(cls, verdict: Verdict) -> Deed:
        return cls(
            action=verdict.action,
            articles=verdict.articles,
            topic=verdict.topic,
            intent=verdict.intent,
            rule=verdict.rule,
            confidence=round(verdict.confidence, 4),
            best=verdict.best,
            best_confidence=round(verdict.best_confidence, 4),
        )

    def same_as(self, other: Deed) -> bool:
        """Whether the customer is told the same; how sure the version is does not matter."""
        return (self.action, self.articles, self.topic) == (other.action, other.articles, other.topic) and (
            self.action != "reply" or self.rule == other.rule
        )


def is_right(asked: Asked, deed: Deed, *, strict: bool = False) -> bool:
    """strict: an article among several to choose from is not enough."""
    match asked.expects:
        case Expecting.ARTICLE:
            given = deed.action in ("answer", "flow") or (deed.action == "clarify" and not strict)
            return given and bool(set(deed.articles) & set(asked.right))
        case Expecting.INTENT:
            return deed.intent in asked.right and deed.action not in ("answer", "clarify")
        case Expecting.PERSON:
            return deed.action == "handoff" and (not asked.right or deed.topic in asked.right)
        case _:
            return deed.action != "answer" and not (asked.wrong and set(deed.articles) & set(asked.wrong))


def misleads(asked: Asked, deed: Deed) -> bool:
    """The customer is given a wrong article for an answer: worse than no answer."""
    if deed.action != "answer":
        return False
    if asked.expects is None:
        return bool(set(deed.articles) & set(asked.wrong))
    return asked.expects is not Expecting.ARTICLE or not set(deed.articles) & set(asked.right)


@dataclass(frozen=True)
class Share:
    count: int
    of: int
    low: float | None
    high: float | None

    @property
    def value(self) -> float | None:
        return self.count / self.of if self.of else None

    @classmethod
    def among(cls, count: int, of: int) -> Share:
        """With Wilson's interval of 95 %."""
        if not of:
            return cls(0, 0, None, None)
        interval = binomtest(count, of).proportion_ci(method="wilson")
        return cls(count, of, round(float(interval.low), 4), round(float(interval.high), 4))


@dataclass(frozen=True)
class Figure:
    """One measure on one group of questions, for both versions. Differences: the candidate's share less the live's."""

    measure: Literal["right", "wrong", "answered", "clarified", "handed_off"]
    group: str
    """`all`, a language, or `SOURCE:all`, `SOURCE:ru` …"""
    live: Share | None
    candidate: Share
    difference: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Paired:
    """A paired comparison. `lost`: only the live version was good; `won`: only the candidate."""

    name: str
    lost: int
    won: int
    p: float
    """That so many are lost by chance."""
    adjusted: float

    @property
    def worse(self) -> bool:
        return self.adjusted < ALPHA


@dataclass(frozen=True)
class OfIntent:
    """The questions of one intent or article."""

    name: str
    questions: int
    live_right: int | None
    right: int
    live_wrong: int | None
    wrong: int


@dataclass(frozen=True)
class Kept:
    """A protected question."""

    key: str
    text: str
    expects: Expecting
    right: tuple[str, ...]
    kept: bool
    was_kept: bool | None
    """By the live version."""
    deed: Deed


@dataclass(frozen=True)
class Change:
    """A question whose outcome changes. `kind`: unclear where nobody knows what is right."""

    key: str
    source: Source
    text: str
    lang: str
    kind: Literal["better", "worse", "unclear"]
    live: Deed
    candidate: Deed
    expects: Expecting | None
    right: tuple[str, ...]
    message_id: int | None


@dataclass(frozen=True)
class Bin:
    """Of the likeliest articles with about this confidence, how many were right."""

    confidence: float
    right: Share


@dataclass(frozen=True)
class Calibration:
    bins: tuple[Bin, ...]
    error: float | None
    """Expected calibration error over the bins (Guo et al. 2017)."""


@dataclass(frozen=True)
class Moved:
    origin: str
    target: str
    examples: int


@dataclass(frozen=True)
class DataChange:
    """What the candidate has learnt otherwise than the live version."""

    added: Mapping[str, int] = field(default_factory=dict)
    removed: Mapping[str, int] = field(default_factory=dict)
    moved: tuple[Moved, ...] = ()
    swapped: tuple[tuple[str, str], ...] = ()
    """Intents that gave each other most of their examples."""


@dataclass(frozen=True)
class Reason:
    """Why a candidate is refused. `kind`: worse, protected or swapped."""

    kind: Literal["worse", "protected", "swapped"]
    values: Mapping[str, str | int | float]


@dataclass(frozen=True)
class Report:
    """All that is known of a candidate before it answers anybody."""

    version: str
    against: str | None
    """The live version; None for the first one."""
    made_at: datetime
    seconds: float
    gold_file: str
    gold_sha256: str
    gold_left_out: int
    """Questions whose article is not in this knowledge base."""
    asked: Mapping[str, int]
    """Source → how many questions."""
    reasons: tuple[Reason, ...]
    """None: it may be published."""
    figures: tuple[Figure, ...]
    tests: tuple[Paired, ...]
    intents: tuple[OfIntent, ...]
    protected: tuple[Kept, ...]
    changed: Mapping[str, int]
    """Kind of change → how many, those beyond the list too."""
    changes: tuple[Change, ...]
    calibration: Calibration
    live_calibration: Calibration | None
    data: DataChange | None
    drafts: tuple[tuple[str, str], ...] = ()
    """(id, language) of the articles that are published with it."""

    @property
    def accepted(self) -> bool:
        return not self.reasons


REPORT = TypeAdapter(Report)

Deeds = Mapping[str, Deed]
"""Key of a question → what a version does."""
Taught = Sequence[tuple[str, str, str | None]]
"""(text, intent, language)"""


def compare(
    asked: Sequence[Asked],
    live: Deeds | None,
    candidate: Deeds,
    *,
    version: str,
    against: str | None,
    made_at: datetime,
    seconds: float = 0.0,
    gold_file: str = "",
    gold_sha256: str = "",
    gold_left_out: int = 0,
    matter_of: Mapping[str, str] | None = None,
    data: DataChange | None = None,
    drafts: Sequence[tuple[str, str]] = (),
) -> Report:
    """matter_of: article → the intent that leads to it."""
    known = [each for each in asked if each.expects is not None]
    # Of real messages only those have a right answer whose customer said that it helped, so the version that gave it
    # could lose them and never win one: they are shown as changes, and prove nothing.
    labelled = [each for each in known if each.source not in (Source.PROTECTED, Source.REPLAY)]
    tests = _tests(labelled, live, candidate) if live is not None else ()
    protected = tuple(
        Kept(
            each.key,
            each.text,
            each.expects or Expecting.NOTHING,
            each.right,
            is_right(each, candidate[each.key], strict=True),
            is_right(each, live[each.key], strict=True) if live is not None else None,
            candidate[each.key],
        )
        for each in known
        if each.source is Source.PROTECTED
    )
    reasons = [
        Reason("worse", {"test": test.name, "lost": test.lost, "won": test.won, "p": round(test.adjusted, 5)})
        for test in tests
        if test.worse
    ]
    reasons += [
        Reason("protected", {"text": each.text, "expects": each.expects.value, "right": ", ".join(each.right)})
        for each in protected
        if not each.kept
    ]
    if data is not None:
        reasons += [Reason("swapped", {"one": one, "other": other}) for one, other in data.swapped]
    changes = _changes(asked, live, candidate) if live is not None else []
    return Report(
        version=version,
        against=against,
        made_at=made_at,
        seconds=round(seconds, 1),
        gold_file=gold_file,
        gold_sha256=gold_sha256,
        gold_left_out=gold_left_out,
        asked=Counter(each.source.value for each in asked),
        reasons=tuple(reasons),
        figures=_figures(asked, live, candidate),
        tests=tests,
        intents=_of_intents(labelled, live, candidate, matter_of or {}),
        protected=protected,
        changed=Counter(change.kind for change in changes),
        changes=tuple(changes[:MOST_CHANGES]),
        calibration=_calibration(labelled, candidate),
        live_calibration=_calibration(labelled, live) if live is not None else None,
        data=data,
        drafts=tuple(drafts),
    )


Good = Callable[[Asked, Deed], bool]


def _tests(asked: Sequence[Asked], live: Deeds, candidate: Deeds) -> tuple[Paired, ...]:
    """Rightness and misleading answers, over all and within each language."""
    goods: Mapping[str, Good] = {
        "right": lambda each, deed: is_right(each, deed),
        "misleads": lambda each, deed: not misleads(each, deed),
    }
    langs = sorted({each.lang for each in asked})
    groups = {"all": asked, **{lang: [each for each in asked if each.lang == lang] for lang in langs}}
    if len(langs) < 2:
        groups = {"all": asked}
    found = []
    for measure, good in goods.items():
        for group, rows in groups.items():
            pairs = [(good(each, live[each.key]), good(each, candidate[each.key])) for each in rows]
            lost = sum(before and not after for before, after in pairs)
            won = sum(after and not before for before, after in pairs)
            found.append((f"{measure}:{group}", lost, won, mcnemar(lost, won)))
    adjusted = holm([p for *_, p in found])
    return tuple(
        Paired(name, lost, won, p, better) for (name, lost, won, p), better in zip(found, adjusted, strict=True)
    )


def mcnemar(lost: int, won: int) -> float:
    """The probability of at least `lost` losses among the questions that differ, were both versions equally good."""
    return float(binom.sf(lost - 1, lost + won, 0.5)) if lost + won else 1.0


def holm(chances: Sequence[float]) -> list[float]:
    """The p values adjusted for being several, in the order given."""
    adjusted = [1.0] * len(chances)
    highest = 0.0
    for rank, number in enumerate(sorted(range(len(chances)), key=chances.__getitem__)):
        highest = max(highest, min(1.0, chances[number] * (len(chances) - rank)))
        adjusted[number] = highest
    return adjusted


def _figures(asked: Sequence[Asked], live: Deeds | None, candidate: Deeds) -> tuple[Figure, ...]:
    measures: Mapping[Literal["right", "wrong", "answered", "clarified", "handed_off"], Good] = {
        "right": lambda each, deed: is_right(each, deed),
        "wrong": misleads,
        "answered": lambda _, deed: deed.action == "answer",
        "clarified": lambda _, deed: deed.action == "clarify",
        "handed_off": lambda _, deed: deed.action == "handoff",
    }
    figures = []
    for kind, rows in _groups(asked):
        for measure, holds in measures.items():
            judged = measure in ("right", "wrong")
            counted = [each for each in rows if each.expects is not None or not judged]
            after = np.array([holds(each, candidate[each.key]) for each in counted], dtype=np.float64)
            before = None
            if live is not None:
                before = np.array([holds(each, live[each.key]) for each in counted], dtype=np.float64)
            if not len(counted):
                continue
            figures.append(
                Figure(
                    measure,
                    kind,
                    Share.among(int(before.sum()), len(before)) if before is not None else None,
                    Share.among(int(after.sum()), len(after)),
                    *(_difference(after - before) if before is not None else (None, None, None)),
                )
            )
    return tuple(figures)


def _groups(asked: Sequence[Asked]) -> Iterable[tuple[str, list[Asked]]]:
    """The questions whose right outcome is known together and by language; what customers wrote by itself."""
    for name, rows in (
        ("", [each for each in asked if each.source is not Source.REPLAY]),
        ("replay:", [each for each in asked if each.source is Source.REPLAY]),
    ):
        if not rows:
            continue
        yield f"{name}all", rows
        langs = sorted({each.lang for each in rows})
        for lang in langs if len(langs) > 1 else ():
            yield f"{name}{lang}", [each for each in rows if each.lang == lang]


def _difference(differences: np.ndarray[tuple[int], np.dtype[np.float64]]) -> tuple[float, float, float]:
    """The mean with a percentile bootstrap interval of 95 %; the same rows give the same interval."""
    dice = np.random.default_rng(0)
    # Only how often -1, 0 and 1 are drawn matters.
    size = len(differences)
    shares = [float((differences == value).mean()) for value in (-1, 0, 1)]
    drawn = dice.multinomial(size, shares, RESAMPLES)
    means = (drawn[:, 2] - drawn[:, 0]) / size
    low, high = np.quantile(means, [0.025, 0.975])
    return round(float(differences.mean()), 4), round(float(low), 4), round(float(high), 4)


def _of_intents(
    asked: Sequence[Asked], live: Deeds | None, candidate: Deeds, matter_of: Mapping[str, str]
) -> tuple[OfIntent, ...]:
    """The greatest losses first, then the greatest gains."""
    groups: dict[str, list[Asked]] = {}
    for each in asked:
        name = next((matter_of.get(right, right) for right in sorted(each.right)), "")
        groups.setdefault(name or (each.expects or Expecting.NOTHING).value, []).append(each)
    found = []
    for name, rows in groups.items():
        found.append(
            OfIntent(
                name,
                len(rows),
                sum(is_right(each, live[each.key]) for each in rows) if live is not None else None,
                sum(is_right(each, candidate[each.key]) for each in rows),
                sum(misleads(each, live[each.key]) for each in rows) if live is not None else None,
                sum(misleads(each, candidate[each.key]) for each in rows),
            )
        )

    def order(each: OfIntent) -> tuple[int, int, str]:
        change = each.right - (each.live_right or 0) if live is not None else 0
        return (0 if change < 0 else 1 if change > 0 else 2, -abs(change), each.name)

    return tuple(sorted(found, key=order))


def _changes(asked: Sequence[Asked], live: Deeds, candidate: Deeds) -> list[Change]:
    """What gets worse first, then what nobody knows, then what gets better."""
    changes = []
    for each in asked:
        before, after = live[each.key], candidate[each.key]
        if before.same_as(after):
            continue
        changes.append(
            Change(
                each.key,
                each.source,
                each.text,
                each.lang,
                _kind(each, before, after),
                before,
                after,
                each.expects,
                each.right,
                each.message_id,
            )
        )
    order = {"worse": 0, "unclear": 1, "better": 2}
    changes.sort(key=lambda change: (order[change.kind], change.source is not Source.PROTECTED))
    return changes


def _kind(asked: Asked, before: Deed, after: Deed) -> Literal["better", "worse", "unclear"]:
    def worth(deed: Deed) -> int:
        """An answer that helps, a choice that helps, none, one that misleads."""
        if misleads(asked, deed):
            return 0
        return 1 + is_right(asked, deed) + is_right(asked, deed, strict=True)

    if asked.expects is None and not asked.wrong:
        return "unclear"
    gain = worth(after) - worth(before)
    return "better" if gain > 0 else "worse" if gain < 0 else "unclear"


def _calibration(asked: Sequence[Asked], deeds: Deeds) -> Calibration:
    """Whether the likeliest article is right as often as the confidence says; bins of equal size."""
    rows = sorted(
        (deed.best_confidence, each.expects is Expecting.ARTICLE and deed.best in each.right)
        for each in asked
        if (deed := deeds[each.key]).best is not None
    )
    bins, error = [], 0.0
    for part in np.array_split(np.arange(len(rows)), min(BINS, len(rows)) or 1):
        if not len(part):
            continue
        some = [rows[int(number)] for number in part]
        confidence = sum(value for value, _ in some) / len(some)
        right = sum(good for _, good in some)
        bins.append(Bin(round(confidence, 4), Share.among(right, len(some))))
        error += abs(confidence - right / len(some)) * len(some) / len(rows)
    return Calibration(tuple(bins), round(error, 4) if rows else None)


def data_change(live: Taught, candidate: Taught) -> DataChange:
    """Examples of intents, compared by text and language."""
    before = {(text, lang): intent for text, intent, lang in live}
    after = {(text, lang): intent for text, intent, lang in candidate}
    moves = Counter((before[key], intent) for key, intent in after.items() if key in before and before[key] != intent)
    sizes = Counter(before.values())
    # An intent that is new took over an old one's examples: a new name, not a mistake.
    swapped = tuple(
        (one, other)
        for one, other in sorted(moves)
        if one < other and all(_many(moves[pair], sizes[pair[0]]) for pair in ((one, other), (other, one)))
    )
    return DataChange(
        added=Counter(intent for key, intent in after.items() if key not in before),
        removed=Counter(intent for key, intent in before.items() if key not in after),
        moved=tuple(Moved(origin, target, count) for (origin, target), count in moves.most_common(100)),
        swapped=swapped,
    )


def _many(moved: int, of: int) -> bool:
    return moved >= max(FEWEST_SWAPPED, SWAPPED * of)
