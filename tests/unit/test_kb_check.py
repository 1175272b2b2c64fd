from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kb_index.articles import Article
from kb_index.check import check_articles
from kb_index.encoder import FloatMatrix, TextKind
from kb_index.search import SearchIndex


class WordEncoder:
    """A small stand-in for an encoder: two texts are alike when they share words."""

    name = "words"
    fingerprint = "words-1"
    dim = 128

    def encode(self, texts: Sequence[str], kind: TextKind = "query") -> FloatMatrix:
        rows = np.full((len(texts), self.dim), 1e-3, dtype=np.float32)
        for row, text in zip(rows, texts, strict=True):
            for word in text.lower().split():
                row[sum(map(ord, word)) % self.dim] += 1
            row /= np.linalg.norm(row)
        return rows


LONG = "We deliver every order within three working days to any city and call before we come."


def kinds(*articles: Article) -> set[tuple[str, str]]:
    index = SearchIndex.build(articles, WordEncoder())
    return {(finding.article_id, finding.kind) for finding in check_articles(index)}


def test_a_sound_knowledge_base_has_no_findings(tmp_path: Path) -> None:
    (tmp_path / "picture.png").write_bytes(b"")
    body = f"{LONG} See [refunds](refund.md), [the site](https://x.example) and ![a picture](picture.png)."
    assert (
        kinds(
            Article("delivery", "en", "Delivery", body, path=tmp_path / "delivery.md"),
            Article("refund", "en", "Refund", "Money comes back to your card ten days after the goods reach us."),
        )
        == set()
    )


def test_a_link_that_leads_nowhere_is_found() -> None:
    assert kinds(Article("a", "en", "A", f"{LONG} See [this](gone.md).")) == {("a", "broken_link")}


def test_an_article_with_hardly_a_word_is_found() -> None:
    assert kinds(Article("a", "en", "A", "Call us.")) == {("a", "too_short")}


def test_two_articles_of_one_text_are_found() -> None:
    assert ("b", "duplicate_text") in kinds(Article("a", "en", "Pay", LONG), Article("b", "en", "Other", LONG))


def test_a_question_under_two_articles_is_found() -> None:
    first = Article("a", "en", "Pay", LONG, questions=("How do I pay?",))
    second = Article(
        "b", "en", "Card", "Cards of all banks are taken at the door by every courier.", questions=("how do i pay",)
    )
    assert ("b", "duplicate_question") in kinds(first, second)


def test_a_missing_language_version_is_found() -> None:
    assert ("a", "one_language") in kinds(
        Article("a", "en", "Pay", LONG),
        Article("b", "ru", "Карта", "Карты всех банков принимает любой курьер прямо у двери."),
    )


def test_an_article_that_its_own_questions_do_not_find_is_found() -> None:
    lost = Article("lost", "en", "Misc", LONG.upper(), questions=("alpha beta gamma", "delta epsilon zeta"))
    loud = Article(
        "loud",
        "en",
        "Alpha beta gamma delta epsilon zeta",
        "Alpha beta gamma. Delta epsilon zeta. All of it is said here and nowhere else.",
        questions=("what is alpha beta gamma", "what is delta epsilon zeta"),
    )
    assert ("lost", "not_found") in kinds(lost, loud)


def test_a_version_that_has_not_kept_up_is_found() -> None:
    steps = "\n\n".join(f"## Шаг {number}\n\nСделайте вот это и ещё вот то." for number in range(5))
    assert ("a", "language_behind") in kinds(Article("a", "ru", "Шаги", steps), Article("a", "en", "Steps", LONG))


def test_a_title_that_does_not_find_its_article_is_found() -> None:
    others = [Article(f"o{number}", "en", f"alpha {number}", f"alpha beta {LONG}") for number in range(4)]
    assert ("a", "title_not_found") in kinds(Article("a", "en", "alpha beta", "Cards are taken at the door."), *others)


def test_two_articles_that_answer_the_same_questions_are_found() -> None:
    asked = ("where is my parcel now", "where is my parcel today", "where is the parcel now", "gift wrapping costs")
    first = Article("a", "en", "Parcel", LONG, questions=asked)
    own = ("parcel now where is my", "today where is my parcel")
    second = Article("b", "en", "Where is my parcel", "where is my parcel now or today: see the page", questions=own)
    index = SearchIndex.build([first, second], WordEncoder())
    assert any(finding.kind == "same_answer" and finding.others for finding in check_articles(index))


def test_a_finding_names_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "a.md"
    path.write_text(f"---\ntitle: A\n---\n{LONG}\n\nSee [this](gone.md).\n")
    index = SearchIndex.build([Article("a", "en", "A", f"{LONG} See [this](gone.md).", path=path)], WordEncoder())
    (finding,) = check_articles(index)
    assert str(finding) == f"{path}:6: the link 'gone.md' leads to nothing. Correct or remove it"
    assert finding.is_fault
