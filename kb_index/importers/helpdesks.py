"""JSON of help desks: what their documented interfaces give for articles, recognised by its shape.

Zendesk Guide (/api/v2/help_center/articles), Intercom (/articles), Freshdesk Solutions (/api/v2/solutions/…/articles)
and Chatwoot (/api/v1/…/articles). Several pages may lie in one file, as a list, or one a line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from kb_index.articles import Article, Status
from kb_index.importers.base import Draft, Problem, SourceFile
from kb_index.importers.html import NestingError, to_markdown
from kb_index.importers.text import decode_text
from kb_index.passages import plain_text

MOST_ARTICLES = 50_000
_DEEPEST = 6
_UNSAFE_LINK = re.compile(r"\]\(\s*<?\s*(?:javascript|vbscript|data):[^)]*\)", re.I)
_CHATWOOT_STATUS: Mapping[object, Status] = {0: "draft", 1: "published", 2: "archived"}
_FRESHDESK_STATUS: Mapping[object, Status] = {1: "draft", 2: "published"}

Row = Mapping[str, Any]


class HelpDeskImporter:
    name = "help desk export"

    def recognises(self, file: SourceFile) -> bool:
        return file.suffix in (".json", ".jsonl", ".ndjson")

    def read(self, file: SourceFile) -> Iterator[Draft | Problem]:
        decoded = decode_text(file.data)
        if decoded is None:
            yield Problem(file.path, "this is no text", "Save the export as JSON in UTF-8")
            return
        try:
            loaded = _loaded(decoded[0])
        except (ValueError, RecursionError) as error:
            where = f"line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
            yield Problem(file.path, "this is no JSON", "Export it again; it may be cut short", where)
            return
        names = _names(loaded)
        count = 0
        for place, kind, row in _articles(loaded):
            count += 1
            if count > MOST_ARTICLES:
                yield Problem(file.path, f"has more than {MOST_ARTICLES:,} articles: the rest was left out", "Split it")
                return
            try:
                yield from _READERS[kind](file, row, names, place)
            except NestingError as error:
                yield Problem(file.path, str(error), "Copy the text into a new article", place)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                problem = f"the article is not as {kind} writes it ({type(error).__name__}: {error})"
                yield Problem(file.path, problem[:300], "Export it again", place)
        if not count:
            remedy = "Known: articles of Zendesk Guide, Intercom, Freshdesk and Chatwoot, as their interfaces give them"
            yield Problem(file.path, "no articles of a known help desk are in it", remedy)


def _loaded(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        lines = [line for line in text.split("\n") if line.strip()]
        if len(lines) > 1 and all(line.lstrip().startswith("{") for line in lines):
            return [json.loads(line) for line in lines]
        raise


def _articles(value: Any, place: str = "", depth: int = 0) -> Iterator[tuple[str, str, Row]]:
    """Every article with its place in the file and whose it is."""
    if depth > _DEEPEST:
        return
    if isinstance(value, list):
        for number, each in enumerate(value, 1):
            yield from _articles(each, f"{place} article {number}".strip() if depth < 2 else place, depth + 1)
    elif isinstance(value, dict):
        if kind := _kind(value):
            yield place, kind, value
            return
        for key in ("articles", "article", "data", "payload", "results"):
            if isinstance(value.get(key), list | dict):
                yield from _articles(value[key], place, depth + 1)


def _kind(row: Row) -> str | None:
    if not isinstance(row.get("title"), str) and not isinstance(row.get("name"), str):
        return None
    if row.get("type") == "article" or "translated_content" in row:
        return "Intercom"
    if "body" in row and ("section_id" in row or "html_url" in row or "source_locale" in row):
        return "Zendesk"
    if "description" in row and ("folder_id" in row or "agent_id" in row or "description_text" in row):
        return "Freshdesk"
    return "Chatwoot" if "content" in row and "status" in row else None


def _names(loaded: Any) -> dict[str, str]:
    """Zendesk's sections and categories by id; Chatwoot's translated articles by the id of their root."""
    names: dict[str, str] = {}
    for page in loaded if isinstance(loaded, list) else [loaded]:
        if not isinstance(page, dict):
            continue
        for each in (*_rows(page.get("sections")), *_rows(page.get("categories"))):
            names[f"section {each.get('id')}"] = str(each.get("name") or "")
        for each in _rows(page.get("payload")):
            for other in _rows(each.get("associated_articles")):
                names[f"root of {other.get('id')}"] = str(each.get("id"))
    return names


def _rows(value: Any) -> Sequence[Row]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _zendesk(file: SourceFile, row: Row, names: Mapping[str, str], place: str) -> Iterator[Draft | Problem]:
    host = urlsplit(str(row.get("html_url") or row.get("url") or "")).hostname or ""
    tags = [*map(str, row.get("label_names") or ()), names.get(f"section {row.get('section_id')}", "")]
    notes = ["for signed-in people only in Zendesk: audience internal"] if row.get("user_segment_id") else []
    article = Article(
        id="",
        lang=_lang(row.get("locale")),
        title=str(row.get("title") or row.get("name")),
        body=str(row.get("body") or ""),
        status="draft" if row.get("draft") else "published",
        audience="internal" if notes else "all",
        tags=_tags(tags),
    )
    source = f"zendesk:{host}:{row['id']}"
    yield _draft(file, source, article, place, notes)
    for other in _rows(row.get("translations")):
        if _lang(other.get("locale")) != article.lang and other.get("body"):
            text = {"locale": other.get("locale"), "title": other.get("title"), "body": other["body"]}
            yield from _zendesk(file, {**row, **text, "draft": other.get("draft"), "translations": None}, names, place)


def _intercom(file: SourceFile, row: Row, _names: Mapping[str, str], place: str) -> Iterator[Draft | Problem]:
    first = _lang(row.get("default_locale"))
    versions: dict[str, Row] = {first: row}
    translated = row.get("translated_content")
    for locale, each in translated.items() if isinstance(translated, dict) else ():
        if isinstance(each, dict) and each.get("title") and _lang(locale) not in versions:
            versions[_lang(locale)] = each
    for lang, each in versions.items():
        status: Status = "published" if each.get("state", "published") == "published" else "draft"
        article = Article("", lang, str(each.get("title")), str(each.get("body") or ""), status=status)
        yield _draft(file, f"intercom:{row.get('workspace_id') or ''}:{row['id']}", article, place, [])


def _freshdesk(file: SourceFile, row: Row, _names: Mapping[str, str], place: str) -> Iterator[Draft | Problem]:
    above = [each["data"] for each in _rows(row.get("hierarchy")) if isinstance(each.get("data"), dict)]
    lang = _lang(row.get("language") or next((each.get("language") for each in above), ""))
    status = _FRESHDESK_STATUS.get(row.get("status"), "draft")
    tags = [*map(str, row.get("tags") or ()), *(str(each.get("name") or "") for each in above[-1:])]
    article = Article("", lang, str(row["title"]), str(row["description"] or ""), status=status, tags=_tags(tags))
    yield _draft(file, f"freshdesk:{row['id']}", article, place, [])


def _chatwoot(file: SourceFile, row: Row, names: Mapping[str, str], place: str) -> Iterator[Draft | Problem]:
    found = row.get("category")
    category: Row = found if isinstance(found, dict) else {}
    stated = row.get("status")
    status = _CHATWOOT_STATUS.get(stated) or (stated if stated in ("draft", "published", "archived") else "draft")
    article = Article(
        id="",
        lang=_lang(row.get("locale") or category.get("locale")),
        title=str(row["title"]),
        body=str(row["content"] or ""),
        status=status,
        tags=_tags([str(category.get("name") or "")]),
    )
    root = names.get(f"root of {row['id']}", str(row["id"]))
    yield _draft(file, f"chatwoot:{row.get('account_id') or ''}:{root}", article, place, [], html=False)


def _draft(
    file: SourceFile, source: str, article: Article, place: str, notes: list[str], *, html: bool = True
) -> Draft | Problem:
    if html:
        body, more = to_markdown(article.body)
    else:
        body = _UNSAFE_LINK.sub("]", article.body.replace("\r\n", "\n").replace("\x00", "")).strip("\n")
        more = ["unsafe links were left out"] if _UNSAFE_LINK.search(article.body) else []
    title = " ".join(article.title.split())
    if not plain_text(body).strip():
        return Problem(file.path, f"{title!r} has no text", "Write it, or leave the article out", place)
    return Draft(
        source=source,
        path=file.path,
        article=Article(
            id="",
            lang=article.lang,
            title=title,
            body=body,
            status=article.status,
            audience=article.audience,
            tags=article.tags,
        ),
        decided=article.status != "published",
        notes=(*notes, *more),
    )


def _lang(locale: object) -> str:
    found = re.match(r"[a-z]{2}(?![a-z])", str(locale or "").lower())
    return found[0] if found else ""


def _tags(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(" ".join(name.split()) for name in names if name and name.strip()))


_READERS = {"Zendesk": _zendesk, "Intercom": _intercom, "Freshdesk": _freshdesk, "Chatwoot": _chatwoot}
