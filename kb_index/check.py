"""What an editor should look at: links to nowhere, articles that say the same, questions that find another one."""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from kb_index.articles import Article
from kb_index.normalise import fold, words
from kb_index.passages import links
from kb_index.search import SearchIndex

Kind = Literal[
    "broken_link", "too_short", "duplicate_text", "duplicate_question", "not_found", "same_question", "one_language"
]
_FEWEST_WORDS = 8
_SAME_TEXT = 0.97
_SAME_QUESTION = 0.96


@dataclass(frozen=True)
class Finding:
    """One thing to look at, in the article's file where it has one, and what to do about it."""

    kind: Kind
    article_id: str
    lang: str
    path: Path | None
    message: str
    remedy: str


def check_articles(index: SearchIndex) -> tuple[Finding, ...]:
    """Every finding, ordered by article. Blocks: each example question is searched for, about 5 ms each."""
    found = [
        *_links(index.articles),
        *_short(index.articles),
        *_languages(index.articles),
        *_same_texts(index),
        *_questions(index),
        *_unfound(index),
    ]
    return tuple(sorted(found, key=lambda finding: (finding.article_id, finding.lang, finding.kind)))


def _finding(kind: Kind, article: Article, message: str, remedy: str) -> Finding:
    return Finding(kind, article.id, article.lang, article.path, message, remedy)


def _links(articles: Sequence[Article]) -> Iterator[Finding]:
    ids = {article.id for article in articles}
    for article in articles:
        for target in links(article.body):
            if re.match(r"[a-z][a-z0-9+.-]*:|//|#|/", target, re.IGNORECASE):
                continue
            name = target.partition("#")[0]
            beside = article.path.parent / name if article.path else None
            if Path(name).stem not in ids and not (beside and beside.exists()):
                yield _finding("broken_link", article, f"the link {target!r} leads to nothing", "Correct or remove it")


def _short(articles: Sequence[Article]) -> Iterator[Finding]:
    for article in articles:
        count = len(words(article.body))
        if count < _FEWEST_WORDS:
            yield _finding("too_short", article, f"the text has {count} words", "Write the answer out, or archive it")


def _languages(articles: Sequence[Article]) -> Iterator[Finding]:
    versions = defaultdict(set)
    for article in articles:
        versions[article.id].add(article.lang)
    languages = {article.lang for article in articles}
    for article in articles:
        for missing in sorted(languages - versions[article.id]):
            if article.lang == min(versions[article.id]):
                yield _finding("one_language", article, f"there is no {missing} version", f"Write it under {missing}/")


def _same_texts(index: SearchIndex) -> Iterator[Finding]:
    """Whole articles of one language whose passages say the same, by words and by meaning."""
    first: dict[tuple[str, str], Article] = {}
    for article in index.articles:
        key = (article.lang, " ".join(words(article.body)))
        other = first.setdefault(key, article)
        if other.id != article.id:
            yield _finding("duplicate_text", article, f"the text is that of {other.id}", "Keep one of the two")
    starts: dict[tuple[str, str], int] = {}
    for number, passage in enumerate(index.passages):
        starts.setdefault((passage.article_id, passage.lang), number)
    by_key = {(article.id, article.lang): article for article in index.articles}
    keys = list(starts)
    leading = index.vectors.passages[[starts[key] for key in keys]]
    likeness = leading @ leading.T
    for row, column in np.argwhere(np.triu(likeness, 1) > _SAME_TEXT).tolist():
        one, other = by_key[keys[row]], by_key[keys[column]]
        if one.lang == other.lang and one.id != other.id and words(one.body) != words(other.body):
            yield _finding(
                "duplicate_text",
                other,
                f"begins nearly as {one.id} does (cosine {likeness[row, column]:.2f})",
                "Join the two, or say how they differ",
            )


def _questions(index: SearchIndex) -> Iterator[Finding]:
    """Example questions that stand under two articles, word for word or nearly so."""
    texts = [fold(text).strip(" ?!.") for _, text in index.questions]
    seen: dict[str, Article] = {}
    for (article, text), folded in zip(index.questions, texts, strict=True):
        other = seen.setdefault(folded, article)
        if other.id != article.id:
            yield _finding(
                "duplicate_question", article, f"{text!r} is also asked of {other.id}", "Leave it with the one it fits"
            )
    vectors = index.vectors.questions
    for row, (article, text) in enumerate(index.questions):
        near = np.flatnonzero(vectors[:row] @ vectors[row] > _SAME_QUESTION)
        for column in near.tolist():
            other, other_text = index.questions[column]
            if other.id != article.id and other.lang == article.lang and texts[row] != texts[column]:
                yield _finding(
                    "same_question",
                    article,
                    f"{text!r} is nearly {other_text!r} of {other.id}",
                    "Keep each question with one article",
                )


def _unfound(index: SearchIndex) -> Iterator[Finding]:
    """Articles none of whose own questions, left out in turn, finds them first."""
    for article in index.articles:
        if len(article.questions) < 2:
            continue
        firsts = [
            hits[0].article_id
            for text in article.questions
            if (hits := index.search_without(text, lang=article.lang, limit=1, questions=(text,)))
        ]
        if article.id not in firsts:
            rivals = ", ".join(dict.fromkeys(firsts[:3])) or "nothing"
            yield _finding(
                "not_found",
                article,
                f"none of its {len(article.questions)} questions finds it without itself (found: {rivals})",
                "Use the customers' words in title and text, or join it with the article that is found",
            )
