"""The port of the importers, and what they give."""

from __future__ import annotations

import mimetypes
import posixpath
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Protocol
from urllib.parse import unquote

from pydantic import ConfigDict, TypeAdapter

from kb_index.articles import LANGUAGES, Article

LARGEST_FILE_BYTES = 50_000_000
LARGEST_TEXT_BYTES = 5_000_000
"""Of one text file or page."""
LARGEST_PICTURE_BYTES = 10_000_000
MOST_PICTURES = 100
"""Of one article."""

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*:|//|#|/", re.IGNORECASE)


@dataclass(frozen=True)
class SourceFile:
    """One file of what is imported. `name` is its path from the folder or archive `root`, with '/'; it is empty when
    `root` is the file itself.

    `beside(name)` gives another file of the same folder or archive, or None: it never leaves the folder.
    """

    root: str
    name: str
    data: bytes
    beside: Callable[[str], bytes | None] = lambda _: None

    @property
    def path(self) -> str:
        """For messages."""
        return posixpath.join(self.root, self.name) if self.name else self.root

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.path).suffix.lower()

    @property
    def parts(self) -> tuple[str, ...]:
        """The path from the last folder of `root` on."""
        return (PurePosixPath(self.root).name, *PurePosixPath(self.name).parts)

    @property
    def source(self) -> str:
        """What a second import knows the article by: the path without folders that only name a language."""
        return "/".join(part for part in self.parts if part not in LANGUAGES)


@dataclass(frozen=True)
class DraftFile:
    """`target` is what the link in the text says."""

    target: str
    data: bytes
    mime_type: str


@dataclass(frozen=True)
class Draft:
    """An article as an importer read it. An empty `article.id` or `article.lang` is for the importing side to find.

    source: by what a second import knows it; language versions of one article share it. text: the file as it was,
    where it was an article's own file. decided: the status was in the source, and is not a mere default.
    notes: what was left out or guessed.
    """

    source: str
    path: str
    article: Article
    text: str | None = None
    place: str | None = None
    """Where its file lay under the folder, for the export."""
    decided: bool = False
    files: tuple[DraftFile, ...] = ()
    notes: tuple[str, ...] = ()
    line: int | None = None


@dataclass(frozen=True)
class Problem:
    """Something that was not imported. `where` is a line, page or row, as words."""

    path: str
    problem: str
    remedy: str
    where: str = ""

    def __str__(self) -> str:
        return f"{self.path}{f', {self.where}' if self.where else ''}: {self.problem}. {self.remedy}"


RESULT: TypeAdapter[Draft | Problem] = TypeAdapter(
    Draft | Problem, config=ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")
)
"""How one process hands over what it found."""


class Importer(Protocol):
    """Knows one kind of file."""

    name: str

    def recognises(self, file: SourceFile) -> bool:
        """Whether the file is of its kind, by name and content."""

    def read(self, file: SourceFile) -> Iterator[Draft | Problem]:
        """Everything in it. Blocks; runs in a child process with limits on memory and time."""


def beside(folder: Path) -> Callable[[str], bytes | None]:
    """Reads files of the folder by their names from it; nothing outside, nothing through a symbolic link."""
    root = folder.resolve()

    def read(name: str) -> bytes | None:
        path = Path(posixpath.normpath(root / name))
        if not path.is_relative_to(root) or path.resolve() != path or not path.is_file():
            return None
        if path.stat().st_size > LARGEST_PICTURE_BYTES:
            return None
        return path.read_bytes()

    return read


def is_local(target: str) -> bool:
    """Whether a link leads to a file beside."""
    return bool(target) and not _SCHEME.match(target)


@dataclass
class Pictures:
    """Collects the files that a text links to."""

    file: SourceFile
    found: list[DraftFile] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def take(self, targets: list[str]) -> None:
        """Take every local target that is there; links to other pages of the folder are not files of the article."""
        known = {file.target for file in self.found}
        for target in dict.fromkeys(targets):
            path = unquote(target.partition("#")[0].partition("?")[0])
            if target in known or not is_local(target) or _is_text(path):
                continue
            data = self.file.beside(posixpath.normpath(posixpath.join(posixpath.dirname(self.file.name), path)))
            if data is None:
                self.notes.append(f"{target} is not there")
            elif len(data) > LARGEST_PICTURE_BYTES or len(self.found) >= MOST_PICTURES:
                self.notes.append(f"{target} was left out: too large, or too many files")
            else:
                self.found.append(DraftFile(target, data, mime_type(path)))


def name_as_title(file: SourceFile) -> str:
    """A title for what has none, from the file's name."""
    words = re.sub(r"[_-]+", " ", file.parts[-1].rpartition(".")[0] or file.parts[-1]).strip()
    return words[:1].upper() + words[1:] or "?"


def mime_type(name: str) -> str:
    return mimetypes.guess_type(name)[0] or "application/octet-stream"


def _is_text(path: str) -> bool:
    return PurePosixPath(path).suffix.lower() in ("", ".md", ".markdown", ".html", ".htm", ".xhtml", ".php")
