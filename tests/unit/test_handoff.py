"""Topics and routing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from handoff.errors import TopicsFileError
from handoff.routing import Evidence, load_topics, route

DATA = Path(__file__).parents[2] / "data"


class Ranking:
    """A classifier that says the same of every text."""

    threshold = 0.6

    def __init__(self, *ranked: tuple[str, float]) -> None:
        self.ranked = list(ranked)

    def rank(self, texts: Sequence[str]) -> list[tuple[str, float]]:
        return self.ranked


def test_the_demo_topics_have_a_default_and_at_least_eight_others() -> None:
    topics = load_topics(DATA / "topics.yml")
    assert topics.default.title == {"ru": "Уточняется", "en": "To be clarified"}
    assert len(topics.all) >= 9
    assert all({"ru", "en"} <= set(topic.title) for topic in topics.all.values())


def test_a_topic_may_belong_to_a_line_of_business(tmp_path: Path) -> None:
    path = tmp_path / "topics.yml"
    path.write_text("topics:\n  - {id: bulk, direction: wholesale}\n  - {id: orders}\n")
    assert load_topics(path).directions == {"bulk": "wholesale"}


def test_without_a_file_there_is_still_a_queue(tmp_path: Path) -> None:
    topics = load_topics(tmp_path / "none.yml")
    assert route(topics, None, ["anything"]).topic.id == "unclear"


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("topics:\n  - title: x\n", 2, "needs an `id`"),
        ("topics:\n  - id: a\n    priority: soon\n", 2, "none of low, normal"),
        ("topics:\n  - id: a\n  - id: b\n    keywords: [x]\n", 3, "list for each language"),
        ("topics: [\n", 2, "expected"),
        ("- a\n", None, "expected `topics:`"),
        ("default: b\ntopics:\n  - id: a\n", None, "names no topic"),
    ],
)
def test_a_wrong_file_is_named_with_its_line(tmp_path: Path, text: str, line: int | None, says: str) -> None:
    path = tmp_path / "topics.yml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(TopicsFileError, match=says) as caught:
        load_topics(path)
    assert caught.value.line == line


class TestRouting:
    topics = load_topics(DATA / "topics.yml")

    def test_a_topic_named_by_the_intent_decides(self) -> None:
        found = route(self.topics, Ranking(("orders", 0.9)), ["x"], by_intent=("payment", 0.8), by_article="account")
        assert (found.topic.id, found.by, found.evidence) == ("payment", "intent", Evidence(confidence=0.8))
        assert (found.runner_up, found.runner_up_evidence) == ("orders", Evidence(confidence=0.9))

    def test_then_a_sure_classifier(self) -> None:
        found = route(self.topics, Ranking(("orders", 0.9), ("delivery", 0.05)), ["x"], by_article="account")
        assert (found.topic.id, found.by, found.runner_up) == ("orders", "classifier", "delivery")

    def test_then_the_article_shown_last(self) -> None:
        found = route(self.topics, Ranking(("orders", 0.4)), ["x"], by_article="account")
        assert (found.topic.id, found.by, found.runner_up) == ("account", "article", "orders")

    def test_then_keywords_at_the_beginning_of_words(self) -> None:
        found = route(self.topics, Ranking(("orders", 0.4)), ["курьер не довёз посылку"])
        assert (found.topic.id, found.by) == ("delivery", "keywords")

    def test_and_what_nobody_knows_is_to_be_clarified(self) -> None:
        found = route(self.topics, Ranking(("orders", 0.4), ("delivery", 0.3)), ["абракадабра"])
        assert (found.topic.id, found.by) == ("unclear", "default")
        assert found.evidence.confidence == pytest.approx(0.6)
        assert (found.runner_up, found.runner_up_evidence) == ("orders", Evidence(confidence=0.4))

    def test_without_a_classifier_keywords_give_a_score_and_no_confidence(self) -> None:
        found = route(self.topics, None, ["курьер не довёз посылку", "верните деньги на карту, это оплата"])
        assert (found.topic.id, found.by, found.runner_up) == ("payment", "keywords", "delivery")
        assert (found.evidence.confidence, found.runner_up_evidence.confidence) == (None, None)
        assert 0.5 < (found.evidence.score or 0) < 1
        assert (found.evidence.score or 0) + (found.runner_up_evidence.score or 0) == pytest.approx(1)
        nobody_knows = route(self.topics, None, ["абракадабра"])
        assert (nobody_knows.topic.id, nobody_knows.evidence) == ("unclear", Evidence())
