"""Topics, and which of them a ticket goes to."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError

from handoff.errors import TopicsFileError

PRIORITIES = ("low", "normal", "high", "urgent")


@dataclass(frozen=True)
class Topic:
    """The business label that routes a ticket."""

    id: str
    title: Mapping[str, str]
    """Language → words for people."""
    team: str
    level: str
    priority: str
    expected_minutes: int
    """The first reply promised inside working hours."""
    keywords: Mapping[str, tuple[str, ...]]
    """Language → lower-case beginnings of words."""
    direction: str = ""
    """The line of business that it belongs to, where a company has several; "" for none."""

    def title_in(self, lang: str) -> str:
        return self.title.get(lang) or next(iter(self.title.values()), self.id)


@dataclass(frozen=True)
class Topics:
    """Every topic, and the one a ticket gets when nothing else fits."""

    all: Mapping[str, Topic]
    default: Topic

    def get(self, topic_id: str) -> Topic:
        return self.all.get(topic_id, self.default)

    @property
    def directions(self) -> Mapping[str, str]:
        """Topic → its direction, of those that have one."""
        return {topic.id: topic.direction for topic in self.all.values() if topic.direction}


UNCLEAR = Topic(
    id="unclear",
    title={"ru": "Уточняется", "en": "To be clarified"},
    team="first-line",
    level="L1",
    priority="normal",
    expected_minutes=10,
    keywords={},
)


def load_topics(path: Path) -> Topics:
    """Read topics.yml. A missing file gives the default queue alone, so that a ticket always has a place to go.

    Raises TopicsFileError with the line for a file that can't be read as topics.
    """
    if not path.exists():
        return Topics({UNCLEAR.id: UNCLEAR}, UNCLEAR)
    try:
        content = YAML(typ="rt").load(path.read_text(encoding="utf-8"))
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        raise TopicsFileError(path, str(error.problem), line) from error
    except UnicodeDecodeError as error:
        raise TopicsFileError(path, "the file is not UTF-8: save it as UTF-8") from error
    if not isinstance(content, dict) or not isinstance(content.get("topics"), list):
        raise TopicsFileError(path, "expected `topics:` with a list of topics")
    topics = {topic.id: topic for topic in (_topic(path, row) for row in content["topics"])}
    default = str(content.get("default", UNCLEAR.id))
    if default not in topics:
        topics[default] = UNCLEAR if default == UNCLEAR.id else _missing_default(path, default)
    return Topics(topics, topics[default])


def _missing_default(path: Path, default: str) -> Topic:
    raise TopicsFileError(path, f"`default: {default}` names no topic of the list")


def _topic(path: Path, row: Any) -> Topic:
    line = row.lc.line + 1 if hasattr(row, "lc") else None
    if not isinstance(row, dict) or not row.get("id"):
        raise TopicsFileError(path, "a topic needs an `id`", line)
    priority = str(row.get("priority", "normal"))
    if priority not in PRIORITIES:
        raise TopicsFileError(path, f"priority `{priority}` is none of {', '.join(PRIORITIES)}", line)
    title = row.get("title", row["id"])
    keywords = row.get("keywords") or {}
    if not isinstance(keywords, dict):
        raise TopicsFileError(path, "`keywords` needs a list for each language: {ru: [...], en: [...]}", line)
    try:
        expected_minutes = int(row.get("expected_minutes", 10))
    except (TypeError, ValueError) as error:
        raise TopicsFileError(path, "`expected_minutes` must be a whole number", line) from error
    return Topic(
        id=str(row["id"]),
        title={str(k): str(v) for k, v in title.items()} if isinstance(title, dict) else {"": str(title)},
        team=str(row.get("team", "first-line")),
        level=str(row.get("level", "L1")),
        priority=priority,
        expected_minutes=expected_minutes,
        keywords={str(lang): tuple(str(word).lower() for word in words) for lang, words in keywords.items()},
        direction=str(row.get("direction") or ""),
    )


class TopicClassifier(Protocol):
    """`threshold`: the probability from which on a topic may be trusted."""

    threshold: float

    def rank(self, texts: Sequence[str]) -> list[tuple[str, float]]:
        """Topics by falling probability for all that a customer said, newest first; none where nothing was said.

        The probabilities may add up to less than 1: the rest is that nothing tells a topic.
        """
        ...


@dataclass(frozen=True)
class Evidence:
    """What speaks for a topic: a probability where something calibrated said it, else what the keywords counted."""

    confidence: float | None = None
    """The probability that the topic is right; of the default one, that none of the others is known to be."""
    score: float | None = None
    """Its share of the keywords found, 0..1: an order, no probability."""


@dataclass(frozen=True)
class Route:
    topic: Topic
    by: str
    """What decided: `intent`, `classifier`, `article`, `keywords` or `default`."""
    evidence: Evidence
    runner_up: str | None = None
    runner_up_evidence: Evidence = Evidence()


def route(
    topics: Topics,
    classifier: TopicClassifier | None,
    texts: Sequence[str],
    *,
    by_intent: tuple[str, float] | None = None,
    by_article: str | None = None,
) -> Route:
    """Choose the topic of a ticket.

    texts: what the customer said in this episode, newest first. An intent that names its topic decides; then the
    classifier where it is sure; then the topic of the article that was shown last; then keywords; else the default
    topic («Уточняется»), which always exists.
    """
    ranked = [pair for pair in classifier.rank(texts) if pair[0] in topics.all] if classifier and texts else []
    counted = sorted(count_keywords(topics, texts).items(), key=lambda pair: -pair[1])
    # Without a classifier keywords are all that speaks.
    found = {topic: Evidence(confidence=share) for topic, share in ranked}
    found = found or {topic: Evidence(score=count / sum(n for _, n in counted)) for topic, count in counted}

    def chosen(by: str, topic_id: str, confidence: float | None = None) -> Route:
        sure = found.get(topic_id, Evidence()) if confidence is None else Evidence(confidence=confidence)
        others = (pair for pair in found.items() if pair[0] != topic_id)
        return Route(topics.get(topic_id), by, sure, *next(others, (None, Evidence())))

    if by_intent and by_intent[0] in topics.all:
        return chosen("intent", *by_intent)
    if classifier and ranked and ranked[0][1] >= classifier.threshold:
        return chosen("classifier", ranked[0][0])
    if by_article and by_article in topics.all:
        return chosen("article", by_article)
    if counted and (len(counted) == 1 or counted[0][1] > counted[1][1]):
        return chosen("keywords", counted[0][0])
    return chosen("default", topics.default.id, 1 - ranked[0][1] if ranked else None)


def count_keywords(topics: Topics, texts: Sequence[str]) -> dict[str, int]:
    """Topic → how many words begin with one of its keywords; topics without any are left out."""
    text = "\n".join(texts).lower()
    counts = {
        topic.id: len(_beginnings(keywords).findall(text))
        for topic in topics.all.values()
        if (keywords := tuple(word for words in topic.keywords.values() for word in words))
    }
    return {topic: count for topic, count in counts.items() if count}


@lru_cache(maxsize=1000)
def _beginnings(keywords: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{'|'.join(map(re.escape, keywords))})")
