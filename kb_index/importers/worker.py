"""The child process that reads foreign files: `python -m kb_index.importers.worker`.

One JSON line on standard input asks for one file: a `Place`; the answer is a line for each
draft or problem, and an empty line at the end. Memory, processor time and files are limited before anything is read.
"""

from __future__ import annotations

import json
import resource
import sys
import zipfile
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

from kb_index.importers.base import (
    LARGEST_FILE_BYTES,
    LARGEST_PICTURE_BYTES,
    RESULT,
    Draft,
    Importer,
    Problem,
    SourceFile,
    beside,
)
from kb_index.importers.documents import PdfImporter, WordImporter
from kb_index.importers.helpdesks import HelpDeskImporter
from kb_index.importers.html import PageImporter
from kb_index.importers.markdown import MarkdownImporter, TextImporter
from kb_index.importers.tables import CsvImporter, WorkbookImporter

IMPORTERS: Sequence[Importer] = (
    MarkdownImporter(),
    PageImporter(),
    WordImporter(),
    PdfImporter(),
    CsvImporter(),
    WorkbookImporter(),
    HelpDeskImporter(),
    TextImporter(),
)
"""Asked in this order."""


def read(file: SourceFile) -> Iterator[Draft | Problem]:
    """What the first importer that knows the file finds in it."""
    importer = next((each for each in IMPORTERS if each.recognises(file)), None)
    if importer is None:
        yield Problem(file.path, "this kind of file is not known", "Save it as Markdown, HTML, DOCX, PDF, CSV or XLSX")
        return
    yield from importer.read(file)


def source_file(root: str, name: str, path: str, folder: str, member: str | None) -> SourceFile:
    """A file on the disk, or a member of the archive at `path`."""
    if member is None:
        return SourceFile(root, name, Path(path).read_bytes(), beside(Path(folder)))
    archive = _archive(path)

    def other(wanted: str) -> bytes | None:
        try:
            found = archive.getinfo(wanted)
        except KeyError:
            return None
        return archive.read(found) if found.file_size <= LARGEST_PICTURE_BYTES else None

    found = archive.getinfo(member)
    if found.file_size > LARGEST_FILE_BYTES:
        raise ValueError("too large")
    return SourceFile(root, name, archive.read(found), other)


@lru_cache(maxsize=1)
def _archive(path: str) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)


def main(memory_bytes: int) -> None:
    """memory_bytes: limit on address space, with what the libraries need to be loaded."""
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for line in sys.stdin:
        asked = json.loads(line)
        path = asked["root"] + (f"/{asked['name']}" if asked["name"] else "")
        try:
            for each in read(source_file(**asked)):
                _write(RESULT.dump_json(each))
        except MemoryError:
            _write(RESULT.dump_json(Problem(path, "it needs too much memory", "Split it, or save it anew")))
        except RecursionError:
            _write(RESULT.dump_json(Problem(path, "it is nested too deeply", "Save it anew, or copy the text")))
        except Exception as error:  # noqa: BLE001 - edge: one file must not end the import
            said = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            _write(RESULT.dump_json(Problem(path, f"can't be read ({said})", "Save it anew")))
        _write(b"")


def _write(line: bytes) -> None:
    sys.stdout.buffer.write(line + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]))
