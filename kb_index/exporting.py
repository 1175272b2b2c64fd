"""Export: every article as the file it is, with its pictures where its links say."""

from __future__ import annotations

import os
import posixpath
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from sqlalchemy import and_, select
from sqlalchemy.ext.asyncio import AsyncSession

from kb_index.article_files import ArticleFiles
from kb_index.articles import Status, file_id, folder_language
from kb_index.errors import ImportSourceError
from kb_index.importers.base import Problem
from kb_index.records import ArticleRow, RevisionRow


@dataclass(frozen=True)
class Export:
    """How many files were written, how many were there already, and what was left as it is."""

    written: int
    unchanged: int
    problems: tuple[Problem, ...]


async def export_articles(
    session: AsyncSession, folder: Path, files: ArticleFiles, *, status: Status | None = None, overwrite: bool = False
) -> Export:
    """Write every article (of this status) under the folder. Blocks on the disk.

    A file that is there with another content stays, and is reported, unless `overwrite`. Raises ImportSourceError
    when the folder can't be written to.
    """
    query = (
        select(ArticleRow, RevisionRow.text)
        .join(
            RevisionRow,
            and_(RevisionRow.article_row_id == ArticleRow.id, RevisionRow.number == ArticleRow.revision),
        )
        .order_by(ArticleRow.article_id, ArticleRow.lang)
    )
    if status:
        query = query.where(ArticleRow.status == status)
    counts = {True: 0, False: 0}
    problems: list[Problem] = []
    taken: set[str] = set()
    for row, text in await session.execute(query):
        name = _place(row, text, taken)
        taken.add(name)
        contents = [(name, text.encode())]
        for file in row.files:
            target = posixpath.normpath(posixpath.join(posixpath.dirname(name), _path_of(file["target"])))
            if target.startswith(("/", "..")):
                remedy = "Correct the link in the article"
                problems.append(Problem(name, f"{file['target']} lies outside the folder: it is left out", remedy))
            else:
                contents.append((target, files.path(file["sha256"]).read_bytes()))
        for target, content in contents:
            path = folder / target
            try:
                counts[_write(path, content, overwrite=overwrite)] += 1
            except FileExistsError:
                remedy = "Export into an empty folder, or with --overwrite"
                problems.append(Problem(str(path), "another file is there: it stays as it is", remedy))
            except OSError as error:
                raise ImportSourceError(path, f"can't be written ({error.strerror})", "Name another folder") from error
    return Export(counts[True], counts[False], tuple(problems))


def _place(row: ArticleRow, text: str, taken: set[str]) -> str:
    """The name that the file had, where reading it there gives the same article; else one made of language and id."""
    header = text[: text.find("\n---")] if text.removeprefix("\ufeff").startswith("---") else ""
    if row.path and row.path not in taken:
        path = PurePosixPath(row.path)
        own_id = bool(re.search(r"^id\s*:", header, re.MULTILINE)) or file_id(row.path) == row.article_id
        above = folder_language(path.parts[:-1])
        own_lang = above == row.lang or (above is None and bool(re.search(r"^lang\s*:", header, re.MULTILINE)))
        if own_id and own_lang and path.suffix == ".md":
            return row.path
    return f"{row.lang}/{row.article_id}.md"


def _path_of(target: str) -> str:
    return unquote(target.partition("#")[0].partition("?")[0])


def _write(path: Path, content: bytes, *, overwrite: bool) -> bool:
    """Whether there was anything to write. Raises FileExistsError for another content."""
    if path.exists():
        if path.read_bytes() == content:
            return False
        if not overwrite:
            raise FileExistsError
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".export-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(name).chmod(0o644)
        Path(name).replace(path)
    finally:
        Path(name).unlink(missing_ok=True)
    return True
