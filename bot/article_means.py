"""What an editor of articles needs besides the database: search as it would be, checks, previews, imports."""

from __future__ import annotations

import asyncio
import difflib
import secrets
import shutil
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from bot.language import detect
from bot.previews import Bubble, preview
from bot.replies import Replies
from kb_index.article_files import ArticleFiles
from kb_index.articles import Article
from kb_index.check import Finding, check_articles
from kb_index.errors import ImportSourceError
from kb_index.exporting import export_articles
from kb_index.importers.reader import read_path
from kb_index.importing import Options, Plan, apply_import, plan_import
from kb_index.passages import readable, split_passages
from kb_index.search import Hit, SearchIndex

KEPT_SECONDS = 3600.0
"""How long an uploaded file waits for the editor to say yes."""
LABELS = ("label_helped", "label_not_helped", "label_person")
LONGEST_WHOLE_WORDS = 400


@dataclass(frozen=True)
class Found:
    """What a question would find, as if it were not among the examples itself."""

    question: str
    hits: tuple[Hit, ...]


@dataclass
class Checked:
    """findings: of `index`; None while there are none yet."""

    index: SearchIndex | None = None
    findings: tuple[Finding, ...] | None = None
    at_work: bool = False


@dataclass(frozen=True)
class ArticleMeans:
    """index: the live one, or None while there is no model. It and `changed` block, and are called in a thread."""

    files: ArticleFiles
    incoming: Path
    """Where uploads wait until an import is confirmed."""
    clock: Callable[[], datetime]
    audiences: Sequence[str]
    replies: Replies
    index: Callable[[], SearchIndex | None]
    changed: Callable[[], None]
    _checked: Checked = field(default_factory=Checked)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def show(self) -> None:
        """Let what was changed be found, as soon as that is done; nobody waits for it."""

        async def work() -> None:
            await asyncio.to_thread(self.changed)

        self._keep(work())

    def _keep(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # What a question would find

    async def find(self, questions: Sequence[str], lang: str, article: Article | None, limit: int = 3) -> list[Found]:
        """What each would find if the article stood as it is given; nothing while there is no model."""
        return await asyncio.to_thread(self._find, questions, lang, article, limit)

    def _find(self, questions: Sequence[str], lang: str, article: Article | None, limit: int) -> list[Found]:
        index = self.index()
        if index is None:
            return []
        if article is not None:
            index = _with(index, article)
        return [
            Found(text, index.search_without(text, lang=lang, limit=limit, questions=(text,))) for text in questions
        ]

    # Checks

    async def findings(self) -> tuple[tuple[Finding, ...], bool]:
        """What is doubtful, and whether that is of the present articles; if it is not, that is being looked into."""
        index = await asyncio.to_thread(self.index)
        checked = self._checked
        fresh = checked.findings is not None and checked.index is index
        if index is not None and not fresh and not checked.at_work:
            checked.at_work = True
            self._keep(self._check(index))
        return checked.findings or (), fresh or index is None

    async def _check(self, index: SearchIndex) -> None:
        try:
            found = await asyncio.to_thread(check_articles, index)
            self._checked.index, self._checked.findings = index, found
        finally:
            self._checked.at_work = False

    # Looks

    def preview(self, body: str, lang: str) -> tuple[Mapping[str, Sequence[Bubble]], int]:
        """Channel → the messages of the answer, and in how many parts the article is answered."""
        text = body.strip()
        parts = split_passages("preview", lang, text) if len(text.split()) > LONGEST_WHOLE_WORDS else ()
        shown = readable(parts[0].text if parts else text)
        answer = self.replies.render("answer", lang, {"text": shown})
        labels = [self.replies.render(label, lang) for label in LABELS]
        return preview(answer, labels), len(parts) or 1

    # In and out

    def receive(self, name: str, data: bytes) -> str:
        """Keep an uploaded file until it is imported; the key that it is found by. Blocks."""
        self.incoming.mkdir(parents=True, exist_ok=True)
        for old in self.incoming.iterdir():
            if old.stat().st_mtime < time.time() - KEPT_SECONDS:
                shutil.rmtree(old, ignore_errors=True)
        key = secrets.token_hex(16)
        folder = self.incoming / key
        folder.mkdir()
        safe = Path(name.replace("\\", "/")).name[-100:].lstrip(".") or "upload"
        (folder / safe).write_bytes(data)
        return key

    def received(self, key: str) -> Path:
        """Raises ImportSourceError for a key that nobody was given, or too long ago."""
        folder = self.incoming / key
        if len(key) != 32 or not key.isalnum() or not folder.is_dir():
            raise ImportSourceError(Path("upload"), "the file is not here any more", "Choose it again")
        return next(folder.iterdir())

    async def plan(self, session: AsyncSession, path: Path, *, topic: str, publish: bool, overwrite: bool) -> Plan:
        """What an import would do. Raises ImportSourceError."""
        found = await asyncio.to_thread(lambda: list(read_path(path)))
        options = Options(detect, topic=topic, status="published" if publish else "draft", overwrite=overwrite)
        return await plan_import(session, found, options)

    async def take(self, sessions: async_sessionmaker[AsyncSession], plan: Plan, *, author: str) -> Plan:
        return await apply_import(sessions, plan, author=author, now=self.clock(), files=self.files)

    async def export(self, session: AsyncSession, folder: Path) -> None:
        """Every article as the file it is. Blocks on the disk."""
        await export_articles(session, folder, self.files)


def _with(index: SearchIndex, article: Article) -> SearchIndex:
    """The index as it would be with this article published as it is given."""
    known = next((each for each in index.articles if (each.id, each.lang) == (article.id, article.lang)), None)
    # Its example questions in the index include the intents', which are no part of the article.
    more = tuple(text for text in known.questions if text not in article.questions) if known else ()
    wanted = replace(article, status="published", questions=(*article.questions, *more))
    others = [each for each in index.articles if (each.id, each.lang) != (article.id, article.lang)]
    return index.updated([*others, wanted])


def differences(before: str, after: str) -> list[tuple[str, str]]:
    """(`same`, `out` or `in`, line) of two texts; unchanged stretches are shortened to what is near a change."""
    old, new = before.splitlines(), after.splitlines()
    found: list[tuple[str, str]] = []
    for group in difflib.SequenceMatcher(None, old, new, autojunk=False).get_grouped_opcodes(3):
        if found:
            found.append(("gap", "…"))
        for tag, a, b, c, d in group:
            if tag == "equal":
                found += [("same", line) for line in old[a:b]]
            else:
                found += [("out", line) for line in old[a:b]]
                found += [("in", line) for line in new[c:d]]
    return found
