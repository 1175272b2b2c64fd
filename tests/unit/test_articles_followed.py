"""A serving process notices what any process did to the stored articles, and what the calendar does to them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bot import wiring
from bot.settings import Settings
from bot.wiring import Installation
from kb_index.articles import Article
from kb_index.library import Library
from kb_index.search import SearchIndex

TEXT = "---\nid: offer\ntitle: Предложение\nvalid_until: 2026-11-22\n---\nСкидка до конца дня.\n"


class Followed(Installation):
    """Notes what the index would be built of, and builds none."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.now = datetime(2026, 11, 22, 23, 59, tzinfo=UTC)
        self.indexed: list[set[str]] = []
        self.articles = replace(self.articles, clock=lambda: self.now)

    def sync_index(self, articles: Sequence[Article] | None = None) -> SearchIndex:
        found = articles if articles is not None else self.articles.published()
        self.indexed.append({article.id for article in found})
        return None  # type: ignore[return-value]  # nobody searches here


async def until(happened: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not happened():  # noqa: ASYNC110 - what is waited for sets no event
            await asyncio.sleep(0.02)


@pytest.fixture
def installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Followed:
    monkeypatch.setattr(wiring, "ARTICLES_SECONDS", 0.02)
    data = tmp_path / "data"
    (data / "kb" / "ru").mkdir(parents=True)
    (data / "kb" / "ru" / "seed.md").write_text("---\nid: seed\ntitle: Из папки\n---\nТекст статьи.\n")
    return Followed(Settings(_env_file=None, var=tmp_path / "var", data=data, timezone="UTC"))


async def test_a_saved_an_archived_and_an_expired_article_reach_the_index(installation: Followed) -> None:
    await asyncio.to_thread(installation.articles.published)

    async def change(what: Callable[[Library], Awaitable[object]]) -> None:
        async with installation.database.sessions.begin() as session:
            await what(Library(session, author="Anna", now=installation.now))

    following = asyncio.create_task(installation.follow_articles())
    try:
        await asyncio.sleep(0.2)
        assert installation.indexed == []
        await change(lambda library: library.save("offer", "ru", TEXT, expected_revision=0))
        await until(lambda: installation.indexed == [{"seed", "offer"}])
        await change(lambda library: library.set_status("seed", "ru", "archived"))
        await until(lambda: installation.indexed[1:] == [{"offer"}])
        installation.now = datetime(2026, 11, 23, 0, 0, tzinfo=UTC)
        await until(lambda: installation.indexed[2:] == [set()])
    finally:
        following.cancel()
        with suppress(asyncio.CancelledError):
            await following
        await installation.close()


def test_edits_of_the_folder_are_taken_when_asked_for(installation: Followed, tmp_path: Path) -> None:
    assert [article.title for article in installation.seed.articles.articles] == ["Из папки"]
    fingerprint = installation.seed.fingerprint
    path = tmp_path / "data" / "kb" / "ru" / "seed.md"
    path.write_text(path.read_text().replace("Из папки", "Иначе"))
    assert Installation(installation.settings).seed.fingerprint == fingerprint
    installation.take_edits()
    assert [article.title for article in installation.seed.articles.articles] == ["Иначе"]
    assert installation.seed.fingerprint != fingerprint
