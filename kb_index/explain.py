"""Why a search finds what it finds: for the editors, who see from it what to write."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from kb_index.lexical import stem
from kb_index.normalise import fold, words
from kb_index.ranker import EVIDENCE
from kb_index.search import Hit, SearchIndex

_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True)
class Reason:
    """One kind of evidence (ranker.EVIDENCE): its value, and how far it lifts the score above the candidates' mean."""

    name: str
    value: float
    contribution: float


@dataclass(frozen=True)
class ExplainedHit:
    """A hit with its score and the reasons for it, the weightiest first; the contributions add up to the score.

    `highlights` are where words of the question stand in `hit.passage.text`: (first, behind the last) characters.
    """

    hit: Hit
    score: float
    reasons: tuple[Reason, ...]
    highlights: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Reading:
    """One way to read the text (as typed, on the other keyboard layout, in Latin letters), and what it found best."""

    text: str
    article_id: str | None
    confidence: float


@dataclass(frozen=True)
class Explanation:
    """`reading` is the one whose hits are given; `likely_words` what its misspelt words were taken for, too."""

    text: str
    readings: tuple[Reading, ...]
    reading: str
    likely_words: Mapping[str, tuple[str, ...]]
    candidates: int
    hits: tuple[ExplainedHit, ...]


def explain(
    index: SearchIndex,
    text: str,
    *,
    lang: str | None = None,
    limit: int = 5,
    evidence: Mapping[str, float] | None = None,
) -> Explanation:
    """The hits of `index.search` with the same arguments, and why they are. Blocks as it does."""
    tried = []
    best: tuple[Hit, ...] = ()
    chosen = None
    for query in index.queries(text):
        found = index.candidates(query, evidence)
        hits = index.hits(query, found, lang, limit)
        tried.append(Reading(query.text, hits[0].article_id if hits else None, hits[0].confidence if hits else 0.0))
        if hits and (not best or hits[0].confidence > best[0].confidence):
            best, chosen = hits, (query, found)
    if chosen is None:
        return Explanation(text, tuple(tried), text, {}, 0, ())
    query, found = chosen
    lifted = index.ranker.contributions(found.evidence)
    rows = {index.ids[group]: row for row, group in enumerate(found.groups.tolist())}
    roots = set(query.stems)
    explained = []
    for hit in best:
        row = rows[hit.article_id]
        reasons = [
            Reason(name, float(value), float(lift))
            for name, value, lift in zip(EVIDENCE, found.evidence[row], lifted[row], strict=True)
        ]
        reasons.sort(key=lambda reason: -abs(reason.contribution))
        explained.append(
            ExplainedHit(hit, float(np.sum(lifted[row])), tuple(reasons), _highlights(hit.passage.text, roots))
        )
    return Explanation(
        text,
        tuple(tried),
        query.text,
        {
            word: tuple(near for near, _ in likely)
            for word in dict.fromkeys(words(query.text))
            if (likely := index.likely_words(word))
        },
        len(found.groups),
        tuple(explained),
    )


def _highlights(text: str, roots: set[str]) -> tuple[tuple[int, int], ...]:
    return tuple(match.span() for match in _WORD.finditer(text) if stem(fold(match.group())) in roots)
