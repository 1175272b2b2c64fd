from pathlib import Path

import pytest

from kb_index.articles import load_articles, parse_article
from kb_index.errors import ArticleError
from kb_index.passages import plain_text, readable, sentences, split_passages

WHOLE = """---
id: order-status
title: Где мой заказ
topic: orders
questions:
  - где мой заказ
  - "статус: узнать"
---
Статус виден в личном кабинете.

## Если не виден

Напишите нам.
"""


def write(folder: Path, name: str, text: str | bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_an_article_is_read_with_its_front_matter(tmp_path: Path) -> None:
    path = write(tmp_path, "ru/order-status.md", WHOLE)
    load = load_articles(tmp_path)
    assert load.problems == ()
    (article,) = load.articles
    assert (article.id, article.lang, article.title, article.topic) == ("order-status", "ru", "Где мой заказ", "orders")
    assert article.questions == ("где мой заказ", "статус: узнать")
    assert article.body.startswith("Статус виден")
    assert article.path == path


def test_bare_markdown_without_folders_takes_id_title_and_language_from_itself(tmp_path: Path) -> None:
    write(tmp_path, "Return policy.md", "# Returns and refunds\n\nYou have 14 days.\n")
    write(tmp_path, "vozvrat.md", "# Возврат\n\nУ вас есть 14 дней.\n")
    articles = load_articles(tmp_path).articles
    assert [(a.id, a.lang, a.title) for a in articles] == [
        ("Return-policy", "en", "Returns and refunds"),
        ("vozvrat", "ru", "Возврат"),
    ]
    assert articles[0].body == "You have 14 days."


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("---\nid: a\ntitle: T\ntpoic: x\n---\nBody\n", 4, "unknown key 'tpoic'"),
        ("---\nid: a\n---\nBody\n", 1, "no title"),
        ("---\nid:\n  - a\ntitle: T\n---\nBody\n", 2, "'id' is not a text"),
        ("---\nid: a/b\ntitle: T\n---\nBody\n", 2, "cannot be an id"),
        ("---\nid: a\ntitle: T\n---\n\n", 4, "no text"),
        ("---\nid: a\ntitle: 'T\n---\nBody\n", 3, "not YAML"),
        ("---\nid: a\ntitle: T\nBody\n", 1, "not closed"),
        ("---\nid: a\ntitle: T\nquestions: one\n---\nBody\n", 4, "not a list"),
        ("---\nid: a\ntitle: T\nquestions:\n  - one\n  - key: value\n---\nBody\n", 6, "not a text"),
        ("---\nid: a\nid: b\ntitle: T\n---\nBody\n", 3, "duplicate key"),
        ("---\nid: a\ntitle: T\nstatus: gone\n---\nBody\n", 4, "unknown status"),
        ("---\n- a\n---\nBody\n", 2, "not a list of 'key: value'"),
        ("---\nid: a\ntitle: T\n---\nBo\x00dy\n", 5, "NUL"),
        ("---\nid: a\ntitle: T\n---\nТекст\n".encode("cp1251"), 5, "not UTF-8"),
    ],
)
def test_a_broken_article_is_named_with_its_line_and_the_rest_loads(
    tmp_path: Path, text: str | bytes, line: int, problem: str
) -> None:
    path = write(tmp_path, "en/broken.md", text)
    write(tmp_path, "en/whole.md", "---\nid: whole\ntitle: Whole\n---\nBody\n")
    load = load_articles(tmp_path)
    assert [article.id for article in load.articles] == ["whole"]
    (error,) = load.problems
    assert (error.path, error.line) == (path, line)
    assert problem in error.problem
    assert error.remedy


def test_the_second_article_of_one_id_and_language_is_reported(tmp_path: Path) -> None:
    first = write(tmp_path, "en/a.md", "---\nid: same\ntitle: T\n---\nBody\n")
    second = write(tmp_path, "en/b.md", "---\ntitle: T\nid: same\n---\nBody\n")
    write(tmp_path, "ru/a.md", "---\nid: same\ntitle: Т\n---\nТекст\n")
    load = load_articles(tmp_path)
    assert [(article.id, article.lang) for article in load.articles] == [("same", "en"), ("same", "ru")]
    (error,) = load.problems
    assert (error.path, error.line) == (second, 3)
    assert str(first) in error.problem


def test_a_file_too_large_is_reported_without_being_read(tmp_path: Path) -> None:
    path = tmp_path / "big.md"
    with path.open("wb") as file:
        file.truncate(200_000_000)
    (error,) = load_articles(tmp_path).problems
    assert error.path == path
    assert "larger" in error.problem


def test_a_missing_folder_holds_no_articles(tmp_path: Path) -> None:
    assert load_articles(tmp_path / "none").articles == ()


def test_line_ends_and_byte_order_mark_of_other_systems_are_understood(tmp_path: Path) -> None:
    write(tmp_path, "ru/a.md", b"\xef\xbb\xbf" + WHOLE.replace("\n", "\r\n").encode())
    (article,) = load_articles(tmp_path).articles
    assert article.title == "Где мой заказ"


def test_a_deeply_nested_front_matter_is_refused() -> None:
    with pytest.raises(ArticleError):
        parse_article("---\nid: " + "[" * 5000 + "\n---\nBody", Path("a.md"))


def test_passages_keep_the_path_of_headings_and_their_markup() -> None:
    body = "Intro **bold**.\n\n## One\n\nText one.\n\n### Inner\n\n- a\n- b\n\n## Two\n\nText two.\n"
    passages = split_passages("x", "en", body)
    assert [(p.headings, p.text) for p in passages] == [
        ((), "Intro **bold**."),
        (("One",), "Text one."),
        (("One", "Inner"), "- a\n- b"),
        (("Two",), "Text two."),
    ]
    assert passages[0].plain == "Intro bold."


def test_paragraphs_are_merged_up_to_the_size_and_long_ones_cut_between_sentences() -> None:
    short = "\n\n".join(f"Paragraph {number} has five words." for number in range(6))
    assert [len(p.text.split()) for p in split_passages("x", "en", short, words=12)] == [10, 10, 10]
    long = " ".join(f"Sentence {number} is here now." for number in range(10))
    cut = split_passages("x", "en", long, words=20)
    assert all(p.text.endswith(".") and len(p.text.split()) <= 20 for p in cut)
    assert " ".join(p.text for p in cut) == long


def test_one_endless_sentence_is_cut_between_words() -> None:
    cut = split_passages("x", "en", "word " * 1000, words=100)
    assert sum(len(p.text.split()) for p in cut) == 1000
    assert max(len(p.text.split()) for p in cut) == 100


def test_plain_text_drops_links_html_and_markup() -> None:
    text = plain_text(
        "See [the page](https://x.example) and `code`.\n\n<script>alert(1)</script>\n\n| a | b |\n|---|---|\n| 1 | 2 |"
    )
    assert "https" not in text
    assert "alert" not in text
    assert "the page and code." in text
    assert "1" in text.split()


def test_sentences_are_cut_at_their_ends_and_not_inside_numbers() -> None:
    assert sentences("Цена 1.5 руб. Срок 3 дня! А потом?") == ["Цена 1.5 руб.", "Срок 3 дня!", "А потом?"]


@pytest.mark.parametrize(
    ("markdown", "shown"),
    [
        ("See ![the map](img/map.png) and [terms](terms.md#a).", "See the map and terms."),
        (
            "[site](https://x.example/a_(b)) [mail](mailto:a@x.example)",
            "[site](https://x.example/a_(b)) [mail](mailto:a@x.example)",
        ),
        ("Text.\n\n![](files/1.png)\n\nMore.", "Text.\n\nMore."),
        ('`[code](a.md)` [t](a.md "title")', "`[code](a.md)` t"),
    ],
)
def test_links_that_lead_nowhere_in_a_chat_become_their_words(markdown: str, shown: str) -> None:
    assert readable(markdown) == shown
