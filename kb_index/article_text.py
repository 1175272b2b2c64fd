"""The text of an article's file: written anew, or changed in the places asked for and nowhere else."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path

from kb_index.articles import EVERYONE, Article, parse_article, split_front_matter

Value = str | date | Sequence[str] | None
_MARK = "\ufeff"
_PLAIN = re.compile(r"[^\W\d_](?:[\w ,()/+№«»–—.!?-]*[\w),.!?»])?")
_RESERVED = {"null", "true", "false", "yes", "no", "on", "off"}
# What YAML does not allow in its text, and line ends that would be folded.
_UNPRINTABLE = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
_FRONT_MATTER = re.compile(r"(---\r?\n)(.*?)(^---[ \t]*(?:\r?\n|\Z))", re.DOTALL | re.MULTILINE)
_FIELDS = ("title", "topic", "tags", "audience", "status", "valid_from", "valid_until", "questions")
_LINE_START = re.compile(r"(?<=\n)")
_KEY_LINE = re.compile(r"([\w-]+|\"[^\"]*\"|'[^']*')\s*:")


def write_article(article: Article) -> str:
    """The file of an article; reading it gives the same article. Keys that say nothing are left out."""
    values: dict[str, Value] = {
        "id": article.id,
        "lang": article.lang,
        "title": article.title,
        "topic": article.topic,
        "tags": article.tags,
        "audience": "" if article.audience == EVERYONE else article.audience,
        "status": "" if article.status == "published" else article.status,
        "valid_from": article.valid_from,
        "valid_until": article.valid_until,
        "questions": article.questions,
    }
    header = "".join(_entry(key, value) for key, value in values.items() if value)
    return f"---\n{header}---\n{article.body}\n"


def change_text(text: str, *, body: str | None = None, **values: Value) -> str:
    """The text with some keys of the front matter set (None or empty removes one), and perhaps another body.

    Everything else stays byte for byte, line ends included. Raises ArticleError when the front matter does not end.
    """
    mark, text = (_MARK, text[1:]) if text.startswith(_MARK) else ("", text)
    if "\r" in text and "\n" not in text:  # the line ends of old Macintoshes
        return mark + change_text(text.replace("\r", "\n"), body=body, **values).replace("\n", "\r")
    split_front_matter(text.replace("\r\n", "\n"), Path("article"))
    found = _FRONT_MATTER.match(text)
    newline = "\r\n" if "\r\n" in (found[0] if found else text) else "\n"
    blocks = _blocks(found[2] if found else "")
    for key, value in values.items():
        written = _entry(key, value).replace("\n", newline) if value else ""
        at = next((number for number, (name, _) in enumerate(blocks) if name == key), None)
        if at is not None:
            blocks[at] = (key, written)
        elif written:
            # Before the questions, which are long, so that short keys stay in view.
            at = next((number for number, (name, _) in enumerate(blocks) if name == "questions"), len(blocks))
            blocks.insert(at, (key, written))
    header = "".join(block for _, block in blocks)
    opening, closing, rest = (found[1], found[3], text[found.end() :]) if found else ("", "", text)
    if body is not None:
        rest = body.replace("\n", newline) + newline
    if header:
        opening, closing = opening or f"---{newline}", closing or f"---{newline}"
    else:
        opening = closing = ""
    return mark + opening + header + closing + rest


def write_values(text: str, before: Article, after: Article) -> str:
    """The text of `before` with what `after` says otherwise; everything else stays byte for byte."""
    values: dict[str, Value] = {}
    for name in _FIELDS:
        value = getattr(after, name)
        if value != getattr(before, name):
            plain = (name == "status" and value == "published") or (name == "audience" and value == EVERYONE)
            values[name] = None if plain else value
    body = None if after.body == before.body else after.body
    return change_text(text, body=body, **values) if values or body is not None else text


def carry_over(before: str, after: str, draft: str) -> str:
    """The draft of `before` with what became another in `after`: each key, and the body, that the draft had left as it
    was; the questions that were added and taken out, whatever else the draft does to them."""
    lang = parse_article(before, Path("article")).lang
    old, new, own = (parse_article(text, Path("article"), lang) for text in (before, after, draft))
    values = {
        name: getattr(new, name)
        for name in (*_FIELDS, "body")
        if getattr(new, name) != getattr(old, name) == getattr(own, name)
    }
    if "questions" not in values:
        gone = set(old.questions) - set(new.questions)
        kept = [question for question in own.questions if question not in gone]
        more = [question for question in new.questions if question not in (*old.questions, *own.questions)]
        values["questions"] = (*kept, *more)
    return write_values(draft, own, replace(own, **values))


def status_of(text: str) -> str:
    """The status that the text states; one that states none is published."""
    found = _FRONT_MATTER.match(text.removeprefix(_MARK))
    for name, block in _blocks(found[2] if found else ""):
        if name == "status":
            return block.partition(":")[2].partition("#")[0].strip().strip("\"'") or "published"
    return "published"


def text_hash(text: str) -> str:
    """SHA-256 of the text as it is."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def wording_hash(text: str) -> str:
    """SHA-256 of the text whatever its status: publishing an article does not change it."""
    return text_hash(change_text(text, status=None))


def _blocks(header: str) -> list[tuple[str, str]]:
    """Each top-level key with all of its lines; comments and blank lines stay with the key above them."""
    blocks: list[tuple[str, str]] = []
    for line in _LINE_START.split(header):
        match = _KEY_LINE.match(line)
        if match:
            blocks.append((match[1].strip("\"'"), line))
        elif blocks:
            blocks[-1] = (blocks[-1][0], blocks[-1][1] + line)
        else:
            blocks.append(("", line))
    return blocks


def _entry(key: str, value: Value) -> str:
    if isinstance(value, str):
        return f"{key}: {_scalar(value)}\n"
    if isinstance(value, date):
        return f"{key}: {value.isoformat()}\n"
    return f"{key}:\n" + "".join(f"  - {_scalar(item)}\n" for item in value or ())


def _scalar(text: str) -> str:
    if _PLAIN.fullmatch(text) and text.casefold() not in _RESERVED:
        return text
    quoted = json.dumps(text, ensure_ascii=False)
    return _UNPRINTABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", quoted)
