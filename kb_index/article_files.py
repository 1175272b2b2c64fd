"""Pictures and files of articles, in one folder, named by their SHA-256."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

from kb_index.articles import ArticleFile


class ArticleFiles:
    """The same file is kept once, and a half-written one is never seen."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, sha256: str) -> Path:
        return self.folder / sha256[:2] / sha256

    def store(self, target: str, data: bytes, mime_type: str) -> ArticleFile:
        """Write the file durably, unless it is there. Blocks."""
        stored = ArticleFile(target, hashlib.sha256(data).hexdigest(), len(data), mime_type)
        path = self.path(stored.sha256)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=path.parent, prefix="incoming-")
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                Path(name).replace(path)
            finally:
                Path(name).unlink(missing_ok=True)
        return stored
