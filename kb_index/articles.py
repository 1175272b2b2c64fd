"""Articles as files: Markdown with YAML front matter, one file per language version, in FOLDER/{lang}/ID.md."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from kb_index.errors import ArticleError
from kb_index.passages import first_heading, plain_text

Status = Literal["draft", "published", "archived"]
LARGEST_FILE_BYTES = 2_000_000
LARGEST_FRONT_MATTER_BYTES = 100_000
_LANGUAGE = re.compile(r"[a-z]{2}")
_ID = re.compile(r"[\w.-]{1,120}")
_KEYS = ("id", "lang", "title", "topic", "questions", "status")
_FENCE = "---"
_CYRILLIC = re.compile(r"[а-яё]", re.IGNORECASE)
_LATIN = re.compile(r"[a-z]", re.IGNORECASE)


@dataclass(frozen=True)
class Article:
    """One language version of one article; versions of one article share `id`.

    `body` is Markdown without the front matter. `topic` may be empty, `questions` none.
    """

    id: str
    lang: str
    title: str
    body: str
    topic: str = ""
    questions: tuple[str, ...] = ()
    status: Status = "published"
    path: Path | None = None


@dataclass(frozen=True)
class ArticleLoad:
    """What a folder held: the usable articles, in order of language and id, and what is wrong with the rest."""

    articles: tuple[Article, ...]
    problems: tuple[ArticleError, ...]


def load_articles(folder: Path) -> ArticleLoad:
    """Read every Markdown file under `folder`; a broken one is reported and left out.

    The language is the name of a two-letter folder above the file, else `lang` in the front matter, else told from the
    letters. The id is `id` in the front matter, else the file's name. A missing folder holds no articles.
    """
    articles: dict[tuple[str, str], Article] = {}
    problems: list[ArticleError] = []
    for path in _files(folder):
        try:
            article = read_article(path, lang=_folder_language(path, folder))
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
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ArticleError(path, line, "the text is not UTF-8", "Save the file as UTF-8 (it may be cp1251)") from error
    return parse_article(text.replace("\r\n", "\n").replace("\r", "\n"), path, lang)


def parse_article(text: str, path: Path, lang: str | None = None) -> Article:
    """One article from the text of its file; `path` names it in errors and gives the id where none is written."""
    header, body, body_line = _split_front_matter(text, path)
    values, lines = _front_matter(header, path) if header is not None else ({}, {})
    for key in values:
        if key not in _KEYS:
            raise ArticleError(path, lines[key], f"unknown key {key!r}", f"Known keys: {', '.join(_KEYS)}")

    def string(key: str, default: str) -> str:
        value = values.get(key)
        if value is None:
            return default
        if isinstance(value, bool | Mapping | list) or not str(value).strip():
            raise ArticleError(path, lines[key], f"{key!r} is not a text", f"Write {key}: some text")
        return str(value).strip()

    if "\x00" in text:
        raise ArticleError(
            path, text.count("\n", 0, text.index("\x00")) + 1, "the text holds NUL", "Save it as plain text"
        )
    article_id = string("id", _stem(path))
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
    status = string("status", "published")
    if status not in get_args(Status):
        raise ArticleError(path, lines["status"], f"unknown status {status!r}", "Use draft, published or archived")
    return Article(
        id=article_id,
        lang=language,
        title=title,
        body=body.strip("\n"),
        topic=string("topic", ""),
        questions=_questions(values.get("questions"), path, lines.get("questions")),
        status=status,  # type: ignore[arg-type]  # checked against the literal just above
        path=path,
    )


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*.md")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.is_file() and not hidden:
            yield path


def _folder_language(path: Path, folder: Path) -> str | None:
    names = [part for part in path.relative_to(folder).parts[:-1] if _LANGUAGE.fullmatch(part)]
    if names:
        return names[-1]
    return folder.name if _LANGUAGE.fullmatch(folder.name) else None


def _stem(path: Path) -> str:
    return re.sub(r"[^\w.-]+", "-", path.stem).strip("-.")[:120]


def _split_front_matter(text: str, path: Path) -> tuple[str | None, str, int]:
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


def _questions(value: object, path: Path, line: int | None) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise ArticleError(
            path, line, "'questions' is not a list", "Write each question on a line of its own after '- '"
        )
    for position, question in enumerate(value):
        if isinstance(question, bool | Mapping | list) or question is None or not str(question).strip():
            at = value.lc.item(position)[0] + 2 if hasattr(value, "lc") else line
            raise ArticleError(path, at, "an example question is not a text", "Put it in quotes if it holds a colon")
    return tuple(dict.fromkeys(str(question).strip() for question in value))


def _line_of(path: Path, key: str) -> int | None:
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    return next((number for number, line in enumerate(lines, 1) if line.startswith(f"{key}:")), 1)


def _detect(text: str) -> str:
    return "ru" if len(_CYRILLIC.findall(text)) > len(_LATIN.findall(text)) else "en"
