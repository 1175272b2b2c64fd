"""What an editor should look at: links to nowhere, articles that say the same, questions that find another one."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from kb_index.articles import Article
from kb_index.normalise import fold, words
from kb_index.passages import links
from kb_index.search import SearchIndex

Kind = Literal[
    "broken_link",
    "too_short",
    "duplicate_text",
    "duplicate_question",
    "same_question",
    "same_answer",
    "not_found",
    "title_not_found",
    "one_language",
    "language_behind",
]
FAULTS: frozenset[Kind] = frozenset({"broken_link", "too_short", "duplicate_text", "duplicate_question"})
"""Wrong for certain; the other kinds are advice."""
_FEWEST_WORDS = 8
_SAME_TEXT = 0.97
_SAME_QUESTION = 0.96
_LOST_TO_ONE = 0.5  # share of an article's questions that one other article takes
_BEHIND = 0.5  # a version with less than this share of the other's headings and lists has not kept up
_HEADING_OR_ITEM = re.compile(r"^(#{1,6} |[-*+] |\d+[.)] )", re.MULTILINE)
_ROWS_AT_ONCE = 1000


@dataclass(frozen=True)
class Finding:
    """One thing to look at, where it is (`line` counts from 1 in the file, if there is one), and what to do about it.

    `others` are further articles that it concerns.
    """

    kind: Kind
    article_id: str
    lang: str
    path: Path | None
    line: int | None
    message: str
    remedy: str
    others: tuple[str, ...] = ()
    at: str = ""
    """The link or the question that it is about."""

    def __str__(self) -> str:
        where = (
            f"{self.path}:{self.line}" if self.path and self.line else self.path or f"{self.article_id} ({self.lang})"
        )
        return f"{where}: {self.message.rstrip('.')}. {self.remedy}"

    @property
    def is_fault(self) -> bool:
        return self.kind in FAULTS


def check_articles(index: SearchIndex) -> tuple[Finding, ...]:
    """Every finding, ordered by article. Blocks: each title and example question is searched for, about 2 ms each."""
    index = index.compact()
    found = [
        *_links(index.articles),
        *_short(index.articles),
        *_languages(index.articles),
        *_same_texts(index),
        *_questions(index),
        *_unfound(index),
    ]
    return tuple(sorted(found, key=lambda finding: (finding.article_id, finding.lang, finding.kind, finding.message)))


def _line_of(path: Path | None, text: str) -> int | None:
    """The first line of the file that holds the text; None without a file or such a line."""
    try:
        lines = path.read_text("utf-8-sig").splitlines() if path else []
    except (OSError, UnicodeDecodeError):
        return None
    return next((number for number, line in enumerate(lines, 1) if text in line), None)


def _finding(
    kind: Kind, article: Article, message: str, remedy: str, *, at: str = "", others: Sequence[str] = ()
) -> Finding:
    line = _line_of(article.path, at or article.title)
    return Finding(kind, article.id, article.lang, article.path, line, message, remedy, tuple(others), at)


def _links(articles: Sequence[Article]) -> Iterator[Finding]:
    ids = {article.id for article in articles}
    for article in articles:
        files = {file.target for file in article.files}
        for target in links(article.body):
            if target in files or re.match(r"[a-z][a-z0-9+.-]*:|//|#|/", target, re.IGNORECASE):
                continue
            name = target.partition("#")[0]
            beside = article.path.parent / name if article.path else None
            if Path(name).stem not in ids and not (beside and beside.exists()):
                yield _finding(
                    "broken_link", article, f"the link {target!r} leads to nothing", "Correct or remove it", at=target
                )


def _short(articles: Sequence[Article]) -> Iterator[Finding]:
    for article in articles:
        count = len(words(article.body))
        if count < _FEWEST_WORDS:
            yield _finding("too_short", article, f"the text has {count} words", "Write the answer out, or archive it")


def _languages(articles: Sequence[Article]) -> Iterator[Finding]:
    versions: dict[str, dict[str, Article]] = defaultdict(dict)
    for article in articles:
        versions[article.id][article.lang] = article
    languages = {article.lang for article in articles}
    for own in versions.values():
        first = own[min(own)]
        for missing in sorted(languages - own.keys()):
            yield _finding("one_language", first, f"there is no {missing} version", f"Write it under {missing}/")
        marks = {lang: len(_HEADING_OR_ITEM.findall(article.body)) for lang, article in own.items()}
        fullest = max(marks, key=lambda lang: marks[lang])
        for lang, count in marks.items():
            if marks[fullest] >= 4 and count < _BEHIND * marks[fullest]:
                yield _finding(
                    "language_behind",
                    own[lang],
                    f"has {count} headings and list items where the {fullest} version has {marks[fullest]}",
                    "Bring both versions to the same state",
                )


def _same_texts(index: SearchIndex) -> Iterator[Finding]:
    """Whole articles of one language whose passages say the same, by words and by meaning."""
    first: dict[tuple[str, str], Article] = {}
    for article in index.articles:
        key = (article.lang, " ".join(words(article.body)))
        other = first.setdefault(key, article)
        if other.id != article.id:
            yield _finding(
                "duplicate_text", article, f"the text is that of {other.id}", "Keep one of the two", others=[other.id]
            )
    starts: dict[tuple[str, str], int] = {}
    for number, passage in enumerate(index.passages):
        starts.setdefault((passage.article_id, passage.lang), number)
    by_key = {(article.id, article.lang): article for article in index.articles}
    keys = list(starts)
    leading = index.base.vectors.passages[list(starts.values())]
    for row, column, likeness in _alike(leading, _SAME_TEXT):
        one, other = by_key[keys[row]], by_key[keys[column]]
        if one.lang == other.lang and one.id != other.id and words(one.body) != words(other.body):
            yield _finding(
                "same_answer",
                other,
                f"begins nearly as {one.id} does (cosine {likeness:.2f})",
                "Join the two, or say how they differ",
                others=[one.id],
            )


def _questions(index: SearchIndex) -> Iterator[Finding]:
    """Example questions that stand under two articles, word for word or nearly so."""
    texts = [fold(text).strip(" ?!.") for _, text in index.questions]
    seen: dict[str, Article] = {}
    for (article, text), folded in zip(index.questions, texts, strict=True):
        other = seen.setdefault(folded, article)
        if other.id != article.id:
            yield _finding(
                "duplicate_question",
                article,
                f"{text!r} is also asked of {other.id}",
                "Leave it with the one it fits",
                at=text,
                others=[other.id],
            )
    for column, row, _ in _alike(index.base.vectors.questions, _SAME_QUESTION):
        article, text = index.questions[row]
        other, other_text = index.questions[column]
        if other.id != article.id and other.lang == article.lang and texts[row] != texts[column]:
            yield _finding(
                "same_question",
                article,
                f"{text!r} is nearly {other_text!r} of {other.id}",
                "Keep each question with one article",
                at=text,
                others=[other.id],
            )


def _alike(rows: np.ndarray[tuple[int, ...], np.dtype[np.float32]], least: float) -> Iterator[tuple[int, int, float]]:
    """Pairs of rows, the earlier first, whose cosine is above `least`; a block of rows at a time."""
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        likeness = rows[start : start + _ROWS_AT_ONCE] @ rows.T
        for row, column in np.argwhere(likeness > least).tolist():
            if start + row < column:
                yield start + row, column, float(likeness[row, column])


def _unfound(index: SearchIndex) -> Iterator[Finding]:
    """Articles that neither their own questions, left out in turn, nor their title find, and those that lose to one."""
    for article in index.articles:
        if article.title:
            hits = index.search_without(article.title, lang=article.lang, limit=3, questions=(article.title,))
            found = [hit.article_id for hit in hits]
            if article.id not in found:
                yield _finding(
                    "title_not_found",
                    article,
                    f"its title does not find it among the first three (found: {_named(found)})",
                    "Use in the text the words of the title, or change the title",
                    others=found,
                )
        if len(article.questions) < 2:
            continue
        firsts = _first_hits(index, article)
        if article.id not in firsts.values():
            rivals = dict.fromkeys(name for name in firsts.values() if name)
            yield _finding(
                "not_found",
                article,
                f"none of its {len(article.questions)} questions finds it without itself (found: {_named(rivals)})",
                "Use the customers' words in title and text, or join it with the article that is found",
                others=list(rivals),
            )
            continue
        for rival in sorted({name for name in firsts.values() if name and name != article.id}):
            lost = [text for text, name in firsts.items() if name == rival]
            if len(lost) >= max(2, _LOST_TO_ONE * len(firsts)):
                yield _finding(
                    "same_answer",
                    article,
                    f"{len(lost)} of its {len(firsts)} questions find {rival}, such as {lost[0]!r}",
                    "Join the two articles, or tell their questions apart",
                    at=lost[0],
                    others=[rival],
                )


def _first_hits(index: SearchIndex, article: Article) -> Mapping[str, str]:
    found = {}
    for text in article.questions:
        hits = index.search_without(text, lang=article.lang, limit=1, questions=(text,))
        found[text] = hits[0].article_id if hits else ""
    return found


def _named(names: Iterable[str]) -> str:
    return ", ".join(list(names)[:3]) or "nothing"
