"""Articles in the exchange form, and any other Markdown or plain text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from kb_index.articles import LARGEST_FILE_BYTES, Article, decode, folder_language, parse_article
from kb_index.errors import ArticleError
from kb_index.importers.base import Draft, Pictures, Problem, SourceFile, name_as_title
from kb_index.importers.text import decode_text
from kb_index.passages import first_heading, links, plain_text

LONGEST_LINE = 200_000
_EVERYWHERE = ("index", "readme")
"""Names that every folder has: no ids."""


class MarkdownImporter:
    name = "Markdown"

    def recognises(self, file: SourceFile) -> bool:
        return file.suffix in (".md", ".markdown")

    def read(self, file: SourceFile) -> Iterator[Draft | Problem]:
        """The article as it is, byte for byte; it must be UTF-8, since what is exported must be what was read."""
        path = Path(file.path)
        try:
            if len(file.data) > LARGEST_FILE_BYTES:
                raise ArticleError(path, None, f"the file is larger than {LARGEST_FILE_BYTES:,} bytes", "Split it")
            text = decode(file.data, path)
            for number, line in enumerate(text.split("\n"), 1):
                if len(line) > LONGEST_LINE:
                    problem = f"the line has more than {LONGEST_LINE:,} characters"
                    raise ArticleError(path, number, problem, "Break it into paragraphs, if it is a text at all")
            article = parse_article(text, path, folder_language(file.parts[:-1]))
        except ArticleError as error:
            yield Problem(file.path, error.problem, error.remedy, f"line {error.line}" if error.line else "")
            return
        has_front_matter = text.removeprefix("\ufeff").startswith("---")
        if not has_front_matter and path.stem.lower() in _EVERYWHERE:
            article = replace(article, id="")
        pictures = Pictures(file)
        pictures.take(links(article.body))
        yield Draft(
            source=file.source,
            path=file.path,
            article=article,
            text=text,
            place=file.name or path.name,
            decided=has_front_matter,
            files=tuple(pictures.found),
            notes=tuple(pictures.notes),
        )


class TextImporter:
    """Plain text in any encoding: the first line is the title where it stands alone."""

    name = "text"

    def recognises(self, file: SourceFile) -> bool:
        return file.suffix in (".txt", ".text")

    def read(self, file: SourceFile) -> Iterator[Draft | Problem]:
        decoded = decode_text(file.data) if len(file.data) <= LARGEST_FILE_BYTES else None
        if decoded is None:
            yield Problem(file.path, "this is no text, or too much of it", "Save it as UTF-8, or split it")
            return
        text, encoding = decoded
        title, body = first_heading(text) or ("", text)
        first, _, rest = text.lstrip().partition("\n\n")
        if not title and rest.strip() and "\n" not in first.strip() and len(first) <= 120:
            title, body = first.strip(), rest
        if not plain_text(body).strip():
            yield Problem(file.path, "the file has no text", "Write it")
            return
        yield Draft(
            source=file.source,
            path=file.path,
            article=Article("", folder_language(file.parts[:-1]) or "", title or name_as_title(file), body.strip("\n")),
            notes=(f"read as {encoding}",) if encoding not in ("utf-8", "ascii") else (),
        )
