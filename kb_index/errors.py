"""What can go wrong in the knowledge base.

KnowledgeBaseError
├── ArticleError       one file cannot be used: path, line, problem, remedy
├── LibraryError       the stored articles refuse: article_id, lang
│   ├── UnknownArticleError     there is none
│   └── StaleArticleError       somebody else has saved since: expected_revision, revision
├── ImportSourceError  there is nothing that could be imported or exported: path, problem, remedy
├── SnapshotError      a saved index cannot be used: the caller rebuilds it
│   ├── TornSnapshotError       a file is missing, cut short or altered
│   └── ForeignSnapshotError    made by another encoder or another version of this program
└── RankerError        a saved ranker cannot be read, or there is too little to train one from
"""

from pathlib import Path


class KnowledgeBaseError(Exception):
    """Root of every error this package raises."""


class ArticleError(KnowledgeBaseError):
    """One article cannot be used; the others can.

    `line` counts from 1 in the file, front matter included; None when the fault is the file as a whole.
    """

    def __init__(self, path: Path, line: int | None, problem: str, remedy: str) -> None:
        where = f"{path}:{line}" if line else str(path)
        super().__init__(f"{where}: {problem}. {remedy}")
        self.path = path
        self.line = line
        self.problem = problem
        self.remedy = remedy


class LibraryError(KnowledgeBaseError):
    """One stored article; the message says what to do."""

    def __init__(self, article_id: str, lang: str, problem: str) -> None:
        super().__init__(f"article {article_id} ({lang}): {problem}")
        self.article_id = article_id
        self.lang = lang


class UnknownArticleError(LibraryError):
    def __init__(self, article_id: str, lang: str, what: str = "there is none") -> None:
        super().__init__(article_id, lang, f"{what}. `otvet kb list` shows the articles")


class StaleArticleError(LibraryError):
    """Nothing was saved: the text that was changed is no longer the present one."""

    def __init__(self, article_id: str, lang: str, expected_revision: int, revision: int) -> None:
        problem = f"you changed revision {expected_revision}, but revision {revision} was saved meanwhile"
        super().__init__(article_id, lang, f"{problem}. Look at it, and make your change there")
        self.expected_revision = expected_revision
        self.revision = revision


class ImportSourceError(KnowledgeBaseError):
    """A path that can't be imported from or exported to at all."""

    def __init__(self, path: Path, problem: str, remedy: str) -> None:
        super().__init__(f"{path}: {problem}. {remedy}")
        self.path = path
        self.problem = problem
        self.remedy = remedy


class SnapshotError(KnowledgeBaseError):
    """A saved index cannot be used; build it anew from the articles."""

    def __init__(self, folder: Path, problem: str) -> None:
        super().__init__(f"{folder}: {problem}. Build the index again from the articles.")
        self.folder = folder
        self.problem = problem


class TornSnapshotError(SnapshotError):
    """A file of the snapshot is missing, cut short or altered."""


class ForeignSnapshotError(SnapshotError):
    """The snapshot is whole but belongs to another encoder or another format."""


class RankerError(KnowledgeBaseError):
    """A saved ranker cannot be read, or there is too little to train one from."""
