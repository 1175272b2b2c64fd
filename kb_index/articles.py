"""Articles as files: Markdown with YAML front matter, one file per language version, in FOLDER/{lang}/ID.md."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path, PurePath
from typing import Literal, get_args

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from kb_index.errors import ArticleError
from kb_index.passages import first_heading, list_steps, plain_text

Status = Literal["draft", "published", "archived"]
LARGEST_FILE_BYTES = 2_000_000
LARGEST_FRONT_MATTER_BYTES = 100_000
LANGUAGES = ("ru", "en")
"""A folder of this name holds articles of this language; other short names (`kb`, `hr`, `it`) are mere folders."""
EVERYONE = "all"
_LANGUAGE = re.compile(r"[a-z]{2}")
_ID = re.compile(r"[\w.-]{1,120}")
_AUDIENCE = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_KEYS = ("id", "lang", "title", "topic", "tags", "audience", "status", "valid_from", "valid_until", "questions")
_OWN_KEY = re.compile(r"x-[\w.-]+")
_FENCE = "---"
_CYRILLIC = re.compile(r"[а-яё]", re.IGNORECASE)
_LATIN = re.compile(r"[a-z]", re.IGNORECASE)


@dataclass(frozen=True)
class ArticleFile:
    """A picture or file of an article. `target` is what the text's link says, relative to the article's own file."""

    target: str
    sha256: str
    size_bytes: int
    mime_type: str


@dataclass(frozen=True)
class Article:
    """One language version of one article; versions of one article share `id`.

    `body` is Markdown without the front matter. `topic` may be empty, `questions` none. `audience` says who may read
    it. `valid_from` and `valid_until` are the first and the last day on which it may be answered.
    """

    id: str
    lang: str
    title: str
    body: str
    topic: str = ""
    questions: tuple[str, ...] = ()
    status: Status = "published"
    path: Path | None = None
    tags: tuple[str, ...] = ()
    audience: str = EVERYONE
    valid_from: date | None = None
    valid_until: date | None = None
    files: tuple[ArticleFile, ...] = ()

    @property
    def content_hash(self) -> str:
        """SHA-256 of what search and training see: it changes when the article must be read again, and only then."""
        seen = (self.id, self.lang, self.title, self.body, self.topic, self.questions)
        return hashlib.sha256(json.dumps(seen, ensure_ascii=False).encode("utf-8", "surrogatepass")).hexdigest()

    def answers_on(self, day: date) -> bool:
        """Whether it is published and valid on this day."""
        begun = self.valid_from is None or self.valid_from <= day
        return self.status == "published" and begun and (self.valid_until is None or day <= self.valid_until)

    @property
    def steps(self) -> tuple[str, ...]:
        """The items of the numbered lists, as Markdown: what a customer is asked to do, in order."""
        return list_steps(self.body)


@dataclass(frozen=True)
class ArticleLoad:
    """What a folder held: the usable articles, in order of language and id, and what is wrong with the rest."""

    articles: tuple[Article, ...]
    problems: tuple[ArticleError, ...]


def load_articles(folder: Path) -> ArticleLoad:
    """Read every Markdown file under `folder`; a broken one is reported and left out.

    The language is that of the innermost folder named `ru` or `en`, else `lang` in the front matter, else told from the
    letters. The id is `id` in the front matter, else the file's name. A missing folder holds no articles.
    """
    articles: dict[tuple[str, str], Article] = {}
    problems: list[ArticleError] = []
    for path in article_paths(folder):
        try:
            article = read_article(path, lang=folder_language((folder.name, *path.relative_to(folder).parts[:-1])))
            first = articles.get((article.lang, article.id))
            if first is not None:
                raise ArticleError(
                    path,
                    _line_of(path, "id"),
                    f"the id {article.id} is already taken in {article.lang} by {first.path}",
                    "Give one of the two another id",
                )
        except ArticleError as error:
            problems.append(error)
        else:
            articles[article.lang, article.id] = article
    return ArticleLoad(tuple(articles[key] for key in sorted(articles)), tuple(problems))


def read_article(path: Path, lang: str | None = None) -> Article:
    """One article from its file; `lang` overrules the front matter. Raises ArticleError."""
    try:
        if path.stat().st_size > LARGEST_FILE_BYTES:
            raise ArticleError(
                path, None, f"the file is larger than {LARGEST_FILE_BYTES:,} bytes", "Split it into several articles"
            )
        raw = path.read_bytes()
    except OSError as error:
        raise ArticleError(path, None, f"cannot be read ({error.strerror})", "Check the file and its rights") from error
    return parse_article(decode(raw, path), path, lang)


def decode(raw: bytes, path: Path) -> str:
    """The text of an article's file, byte order mark and line ends kept. Raises ArticleError if it is not UTF-8."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        if b"\x00" in raw:
            raise ArticleError(path, line, "this is no text", "Remove it, or save it as Markdown in UTF-8") from error
        raise ArticleError(path, line, "the text is not UTF-8", "Save the file as UTF-8 (it may be cp1251)") from error


def parse_article(text: str, path: Path, lang: str | None = None) -> Article:
    """One article from the text of its file; `path` names it in errors and gives the id where none is written.

    Line ends of any system are understood, and a byte order mark.
    """
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    header, body, body_line = split_front_matter(text, path)
    values, lines = _front_matter(header, path) if header is not None else ({}, {})
    for key in values:
        if key not in _KEYS and not _OWN_KEY.fullmatch(key):
            remedy = f"Known keys: {', '.join(_KEYS)}; keys of your own begin with x-"
            raise ArticleError(path, lines[key], f"unknown key {key!r}", remedy)

    def string(key: str, default: str) -> str:
        value = values.get(key)
        if value is None:
            return default
        if isinstance(value, bool | Mapping | list) or not str(value).strip():
            raise ArticleError(path, lines[key], f"{key!r} is not a text", f"Write {key}: some text")
        return str(value).strip()

    def day(key: str) -> date | None:
        value = values.get(key)
        if isinstance(value, datetime) or not (value is None or isinstance(value, date)):
            raise ArticleError(path, lines[key], f"{key!r} is not a day", f"Write {key}: 2026-12-31")
        return value

    if "\x00" in text:
        raise ArticleError(
            path, text.count("\n", 0, text.index("\x00")) + 1, "the text holds NUL", "Save it as plain text"
        )
    article_id = string("id", file_id(str(path)))
    if not _ID.fullmatch(article_id):
        raise ArticleError(
            path, lines.get("id"), f"{article_id!r} cannot be an id", "Use letters, digits, '-', '_' and '.', up to 120"
        )
    title = string("title", "")
    if not title and (heading := first_heading(body)):
        title, body = heading
    if not title and header is None:
        title = article_id.replace("-", " ").replace("_", " ").strip().capitalize()
    if not title:
        raise ArticleError(path, 1, "the article has no title", "Add title: … or begin the text with a heading")
    if not plain_text(body).strip():
        raise ArticleError(path, body_line, "the article has no text", "Write the answer under the front matter")
    language = lang or string("lang", "") or _detect(f"{title} {body}")
    if not _LANGUAGE.fullmatch(language):
        raise ArticleError(path, lines.get("lang"), f"{language!r} is no language code", "Use two letters: ru, en")
    audience = string("audience", EVERYONE)
    if not _AUDIENCE.fullmatch(audience):
        raise ArticleError(
            path, lines["audience"], f"{audience!r} cannot be an audience", "Use small Latin letters: all, business"
        )
    first, last = day("valid_from"), day("valid_until")
    if first and last and last < first:
        raise ArticleError(path, lines["valid_until"], "valid_until is before valid_from", "Correct one of the two")
    status = string("status", "published")
    if status not in get_args(Status):
        raise ArticleError(path, lines["status"], f"unknown status {status!r}", "Use draft, published or archived")
    return Article(
        id=article_id,
        lang=language,
        title=title,
        body=body.strip("\n"),
        topic=string("topic", ""),
        questions=_texts("questions", values, path, lines),
        status=status,  # type: ignore[arg-type]  # checked against the literal just above
        path=path,
        tags=_texts("tags", values, path, lines),
        audience=audience,
        valid_from=first,
        valid_until=last,
    )


def article_paths(folder: Path) -> Iterator[Path]:
    """Markdown files under the folder, in order, without hidden ones."""
    for path in sorted(folder.rglob("*.md")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.is_file() and not hidden:
            yield path


def folder_language(parts: Sequence[str]) -> str | None:
    """The language that the innermost folder named after one gives."""
    return next((part for part in reversed(parts) if part in LANGUAGES), None)


def file_id(path: str) -> str:
    """The id that a file's name gives to an article that states none."""
    return re.sub(r"[^\w.-]+", "-", PurePath(path).stem).strip("-.")[:120]


def split_front_matter(text: str, path: Path) -> tuple[str | None, str, int]:
    """The YAML between the lines of dashes (None where there are none), the rest, and the rest's first line number.

    Raises ArticleError when the front matter does not end.
    """
    if not text.startswith(f"{_FENCE}\n"):
        return None, text, 1
    rest = text[len(_FENCE) + 1 :]
    end = re.search(r"^---[ \t]*$", rest, re.MULTILINE)
    if end is None:
        raise ArticleError(path, 1, "the front matter is not closed", "End it with a line of three dashes")
    if end.start() > LARGEST_FRONT_MATTER_BYTES:
        raise ArticleError(path, 1, "the front matter is too large", "Move the text below the second line of dashes")
    return rest[: end.start()], rest[end.end() :], 2 + rest.count("\n", 0, end.end())


def _front_matter(header: str, path: Path) -> tuple[Mapping[str, object], dict[str, int]]:
    try:
        loaded = YAML(typ="rt").load(header)
    except MarkedYAMLError as error:
        unclosed = "quoted scalar" in str(error.context)
        mark = error.context_mark if unclosed else error.problem_mark or error.context_mark
        line = mark.line + 2 if mark else 1
        problem = " ".join(str(error.problem or error.context or "cannot be read").split())
        raise ArticleError(path, line, f"the front matter is not YAML: {problem}", "Correct this line") from error
    except (YAMLError, ValueError, RecursionError) as error:
        raise ArticleError(path, 1, f"the front matter cannot be read: {error}", "Correct the front matter") from error
    if loaded is None:
        return {}, {}
    if not isinstance(loaded, CommentedMap):
        raise ArticleError(path, 2, "the front matter is not a list of 'key: value'", "Write id: …, title: …")
    return {str(key): loaded[key] for key in loaded}, {str(key): loaded.lc.key(key)[0] + 2 for key in loaded}


def _texts(key: str, values: Mapping[str, object], path: Path, lines: Mapping[str, int]) -> tuple[str, ...]:
    value, line = values.get(key), lines.get(key)
    if value is None:
        return ()
    if not isinstance(value, list):
        raise ArticleError(path, line, f"{key!r} is not a list", "Write each one on a line of its own after '- '")
    for position, text in enumerate(value):
        if isinstance(text, bool | Mapping | list) or text is None or not str(text).strip():
            at = value.lc.item(position)[0] + 2 if hasattr(value, "lc") else line
            raise ArticleError(path, at, f"one of the {key} is not a text", "Put it in quotes if it holds a colon")
    return tuple(dict.fromkeys(str(text).strip() for text in value))


def _line_of(path: Path, key: str) -> int | None:
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    return next((number for number, line in enumerate(lines, 1) if line.startswith(f"{key}:")), 1)


def _detect(text: str) -> str:
    return "ru" if len(_CYRILLIC.findall(text)) > len(_LATIN.findall(text)) else "en"
