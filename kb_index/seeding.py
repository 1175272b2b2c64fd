"""The seed folder: what a new installation begins with, and whose later edits are taken over."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from kb_index.articles import LARGEST_FILE_BYTES, article_paths
from kb_index.importers.base import Draft, Problem, SourceFile, beside
from kb_index.importers.markdown import MarkdownImporter

SEED = "seed:"
"""How the sources of seed articles begin."""


def read_seed(folder: Path) -> Iterator[Draft | Problem]:
    """Every article of the folder. Unlike `kb import` it reads in this process: the folder is the operator's own."""
    importer = MarkdownImporter()
    for path in article_paths(folder):
        name = path.relative_to(folder).as_posix()
        if path.stat().st_size > LARGEST_FILE_BYTES:
            problem = f"the file is larger than {LARGEST_FILE_BYTES:,} bytes"
            yield Problem(str(path), problem, "Split it into several articles")
            continue
        try:
            data = path.read_bytes()
        except OSError as error:
            yield Problem(str(path), f"cannot be read ({error.strerror})", "Check the file and its rights")
            continue
        for each in importer.read(SourceFile(str(folder), name, data, beside(folder))):
            yield replace(each, source=SEED + each.source) if isinstance(each, Draft) else each
