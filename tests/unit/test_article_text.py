"""An article's file is written and changed without touching what was not asked for."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kb_index.article_text import change_text, status_of, wording_hash, write_article
from kb_index.articles import Article, parse_article

WHOLE = """---
# the shop's own
id: returns   # never change
title: 'Returns'
x-owner: Anna
questions:
  - how to return

  - "return: how"
---
Body with --- dashes.

---

More.
"""

line = st.text(st.characters(codec="utf-8", exclude_characters="\x00\r\n"), min_size=1, max_size=60).filter(
    lambda text: bool(text.strip())
)
one_line = line.map(lambda text: " ".join(text.split())).filter(bool)


@given(
    title=one_line,
    topic=one_line | st.just(""),
    questions=st.lists(one_line, max_size=4, unique=True),
    tags=st.lists(one_line, max_size=2, unique=True),
    body=st.lists(one_line, min_size=1, max_size=4).map("\n\n".join),
    status=st.sampled_from(["draft", "published", "archived"]),
    valid_from=st.none() | st.dates(date(2000, 1, 1), date(2100, 1, 1)),
)
def test_what_is_written_is_read_again(
    title: str, topic: str, questions: list[str], tags: list[str], body: str, status: str, valid_from: date | None
) -> None:
    article = Article(
        id="a",
        lang="ru",
        title=title,
        body=f"Text.\n\n{body}",
        topic=topic,
        questions=tuple(questions),
        tags=tuple(tags),
        status=status,  # type: ignore[arg-type]
        valid_from=valid_from,
        path=Path("a.md"),
    )
    text = write_article(article)
    assert parse_article(text, Path("a.md")) == article
    assert status_of(text) == status


@given(
    newline=st.sampled_from(["\n", "\r\n", "\r"]),
    mark=st.sampled_from(["", "\ufeff"]),
    fence=st.sampled_from(["", "  "]),
)
def test_a_status_set_and_taken_back_leaves_every_byte(newline: str, mark: str, fence: str) -> None:
    text = mark + WHOLE.replace("\n---\nBody", f"\n---{fence}\nBody").replace("\n", newline)
    archived = change_text(text, status="archived")
    assert parse_article(archived, Path("a.md")).status == "archived"
    assert len(archived) - len(text) == len("status: archived") + len(newline)
    assert change_text(archived, status=None) == text
    assert wording_hash(archived) == wording_hash(text)


@given(body=st.lists(line, min_size=1, max_size=5).map("\n".join))
def test_a_text_without_front_matter_gets_one_and_loses_it_again(body: str) -> None:
    text = f"# Title\n\n{body}\n"
    draft = change_text(text, status="draft")
    assert draft == f"---\nstatus: draft\n---\n{text}"
    assert change_text(draft, status=None) == text


def test_one_key_is_changed_and_the_rest_stays_byte_for_byte() -> None:
    changed = change_text(WHOLE, title="Returns: all of them")
    assert changed == WHOLE.replace("title: 'Returns'", 'title: "Returns: all of them"')
    changed = change_text(WHOLE, questions=["a", "b"])
    assert changed.startswith(WHOLE[: WHOLE.index("questions:")] + "questions:\n  - a\n  - b\n---\nBody")
    changed = change_text(WHOLE, body="New.")
    assert changed == WHOLE[: WHOLE.index("Body")] + "New.\n"
    assert change_text(WHOLE) == WHOLE


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("---\nstatus: 'draft'  # soon\n---\nx\n", "draft"),
        ("---\ntitle: status\n---\nstatus: draft\n", "published"),
        ("status: draft\n", "published"),
    ],
)
def test_the_status_is_read_from_the_front_matter_alone(text: str, status: str) -> None:
    assert status_of(text) == status


def test_keys_of_ones_own_are_allowed_and_days_are_read() -> None:
    header = "id: a\ntitle: T\nx-owner: Anna\nvalid_from: 2026-12-01\nvalid_until: 2026-12-31\naudience: business\n"
    article = parse_article(f"---\n{header}---\nB\n", Path("a.md"))
    assert (article.valid_from, article.valid_until, article.audience) == (
        date(2026, 12, 1),
        date(2026, 12, 31),
        "business",
    )
    assert [article.answers_on(date(2026, 12, day)) for day in (1, 31)] == [True, True]
    assert not article.answers_on(date(2026, 11, 30))
    assert not article.answers_on(date(2027, 1, 1))


def test_steps_are_the_items_of_numbered_lists() -> None:
    body = "Do this:\n\n1. Open **it**.\n2. Press\n   the button.\n\n- not this\n\n3. Wait.\n"
    assert Article("a", "en", "T", body).steps == ("Open **it**.", "Press\n   the button.", "Wait.")
