"""The stored articles: every revision kept, nothing overwritten silently, files and database kept in step."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from databases import MakeDatabase
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from bot.database import migrate, open_database
from bot.language import detect
from kb_index.article_files import ArticleFiles
from kb_index.articles import load_articles
from kb_index.errors import ArticleError, LibraryError, StaleArticleError, UnknownArticleError
from kb_index.exporting import export_articles
from kb_index.importing import Options, Plan, apply_import, plan_import, slug
from kb_index.library import Library, published, published_hashes
from kb_index.seeding import SEED, read_seed

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
RU = "---\nid: returns\ntitle: Возврат\ntopic: orders\nquestions:\n  - как вернуть\n---\nВернуть можно за 14 дней.\n"
EN = "---\nid: returns\ntitle: Returns\n---\nYou have 14 days.\n"

Sessions = async_sessionmaker[AsyncSession]


@pytest.fixture
async def sessions(make_database: MakeDatabase) -> AsyncIterator[Sessions]:
    """Every test runs on both engines."""
    engine, sessions = open_database(make_database())
    await migrate(engine)
    yield sessions
    await engine.dispose()


@pytest.fixture
async def session(sessions: Sessions) -> AsyncIterator[AsyncSession]:
    async with sessions.begin() as session:
        yield session


@pytest.fixture
def library(session: AsyncSession) -> Library:
    return Library(session, author="Anna", now=NOW)


class Seed:
    """A folder of articles, and the database that it seeds."""

    def __init__(self, folder: Path, sessions: Sessions) -> None:
        self.folder = folder
        self.sessions = sessions
        self.files = ArticleFiles(folder.parent / "files")

    def write(self, name: str, text: str | bytes) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    async def take(self, *, overwrite: bool = False) -> Plan:
        options = Options(detect=detect, status="published", mirrored=SEED, overwrite=overwrite)
        async with self.sessions.begin() as session:
            plan = await plan_import(session, read_seed(self.folder), options, str(self.folder))
        return await apply_import(self.sessions, plan, author="seed", now=NOW, files=self.files)

    async def counts(self, *, overwrite: bool = False) -> dict[str, int]:
        return {kind: count for kind, count in (await self.take(overwrite=overwrite)).count().items() if count}

    async def edit(self, change: Callable[[str], str], article_id: str = "returns", lang: str = "ru") -> None:
        async with self.sessions.begin() as session:
            library = Library(session, author="Anna", now=NOW)
            present = await library.revision(article_id, lang)
            await library.save(article_id, lang, change(present.text), expected_revision=present.number)

    async def text(self, article_id: str = "returns", lang: str = "ru") -> str:
        async with self.sessions.begin() as session:
            return (await Library(session, author="", now=NOW).revision(article_id, lang)).text


@pytest.fixture
def seed(tmp_path: Path, sessions: Sessions) -> Seed:
    return Seed(tmp_path / "kb", sessions)


async def test_every_change_is_kept_with_its_author_and_what_it_changed(library: Library) -> None:
    await library.save("returns", "ru", RU, expected_revision=0, note="first")
    await library.save("returns", "ru", RU.replace("14", "30"), expected_revision=1)
    await library.set_status("returns", "ru", "archived")
    history = await library.history("returns", "ru")
    assert [(r.number, r.author, r.created_at, r.note, r.changed) for r in history[:2]] == [
        (3, "Anna", NOW, "archived", ("status",)),
        (2, "Anna", NOW, "", ("body",)),
    ]
    assert history[2].text == RU
    restored = await library.restore("returns", "ru", 1)
    assert (restored.revision, restored.article.status, restored.article.body) == (
        4,
        "published",
        "Вернуть можно за 14 дней.",
    )
    assert (await library.revision("returns", "ru")).text == RU


async def test_a_change_of_an_old_revision_is_refused_and_nothing_is_saved(library: Library) -> None:
    await library.save("returns", "ru", RU, expected_revision=0)
    await library.save("returns", "ru", RU + "Новое.\n", expected_revision=1)
    with pytest.raises(StaleArticleError) as caught:
        await library.save("returns", "ru", RU + "Другое.\n", expected_revision=1)
    assert (caught.value.expected_revision, caught.value.revision) == (1, 2)
    with pytest.raises(StaleArticleError):
        await library.save("returns", "ru", RU, expected_revision=0)
    assert (await library.get("returns", "ru")).revision == 2


async def test_a_text_that_says_the_same_makes_no_revision(library: Library) -> None:
    await library.save("returns", "ru", RU, expected_revision=0)
    assert (await library.save("returns", "ru", RU, expected_revision=1)).revision == 1


async def test_what_cannot_be_read_is_not_saved(library: Library) -> None:
    with pytest.raises(ArticleError, match="unknown key"):
        await library.save("returns", "ru", RU.replace("topic", "tpoic"), expected_revision=0)
    with pytest.raises(LibraryError, match="keeps its id"):
        await library.save("refunds", "ru", RU, expected_revision=0)
    with pytest.raises(UnknownArticleError):
        await library.save("returns", "ru", RU, expected_revision=3)
    with pytest.raises(UnknownArticleError, match="otvet kb list"):
        await library.get("returns", "ru")
    assert await library.count() == 0


async def test_a_language_version_is_behind_until_it_is_changed_too(library: Library) -> None:
    await library.save("returns", "ru", RU, expected_revision=0)
    await library.save("returns", "en", EN, expected_revision=0)
    assert [stored.behind for stored in await library.versions("returns")] == [None, None]
    await library.save("returns", "ru", RU.replace("14", "30"), expected_revision=1)
    assert [stored.behind for stored in await library.versions("returns")] == ["ru", None]
    assert [stored.article.lang for stored in await library.find(behind=True)] == ["en"]
    await library.save("returns", "en", EN.replace("14", "30"), expected_revision=1)
    assert [stored.behind for stored in await library.versions("returns")] == [None, None]
    await library.save("returns", "en", EN.replace("14", "thirty"), expected_revision=2, minor=True)
    await library.set_status("returns", "en", "draft")
    assert [stored.behind for stored in await library.versions("returns")] == [None, None]


async def test_only_what_is_published_valid_and_for_everyone_is_answered(
    library: Library, session: AsyncSession
) -> None:
    def text(name: str, header: str) -> str:
        return f"---\nid: {name}\ntitle: T\n{header}---\nBody\n"

    for name, header in {
        "a": "",
        "draft": "status: draft\n",
        "old": "status: archived\n",
        "today": "valid_from: 2026-11-22\nvalid_until: 2026-11-22\n",
        "soon": "valid_from: 2026-11-23\n",
        "past": "valid_until: 2026-11-21\n",
        "firms": "audience: business\n",
    }.items():
        await library.save(name, "en", text(name, header), expected_revision=0)
    assert [article.id for article in await published(session, NOW)] == ["a", "today"]
    assert [article.id for article in await published(session, NOW + timedelta(days=1))] == ["a", "soon"]
    both = await published(session, NOW, audiences=("all", "business"))
    assert [article.id for article in both] == ["a", "firms", "today"]
    assert [article.id for article in await published(session, NOW, only=[("a", "en"), ("draft", "en")])] == ["a"]
    hashes = await published_hashes(session, NOW)
    assert hashes == {(article.id, article.lang): article.content_hash for article in await published(session, NOW)}


async def test_the_hash_changes_with_the_words_and_not_with_the_audience(library: Library) -> None:
    first = (await library.save("returns", "ru", RU, expected_revision=0)).article
    second = (
        await library.save("returns", "ru", RU.replace("title", "audience: vip\ntitle"), expected_revision=1)
    ).article
    third = (await library.save("returns", "ru", RU.replace("как", "куда"), expected_revision=2)).article
    assert first.content_hash == second.content_hash != third.content_hash
    assert replace(first, title="x").content_hash != first.content_hash


async def test_a_seed_is_taken_once_and_its_edits_later(seed: Seed) -> None:
    seed.write("ru/returns.md", RU)
    seed.write("en/returns.md", EN)
    assert await seed.counts() == {"new": 2}
    assert await seed.counts() == {"unchanged": 2}
    seed.write("ru/returns.md", RU.replace("14", "30"))
    assert await seed.counts() == {"changed": 1, "unchanged": 1}
    assert "30" in await seed.text()


async def test_what_was_edited_in_the_database_is_never_overwritten_silently(seed: Seed) -> None:
    seed.write("ru/returns.md", RU)
    await seed.take()
    await seed.edit(lambda text: text.replace("14", "15"))
    assert await seed.counts() == {"kept": 1}
    seed.write("ru/returns.md", RU.replace("14", "30"))
    plan = await seed.take()
    (conflict,) = plan.changes
    assert conflict.kind == "conflict"
    assert "-Вернуть можно за 15 дней." in conflict.diff
    assert "+Вернуть можно за 30 дней." in conflict.diff
    assert "15" in await seed.text()
    assert await seed.counts(overwrite=True) == {"changed": 1}
    assert "30" in await seed.text()
    async with seed.sessions.begin() as session:
        numbers = [each.number for each in await Library(session, author="", now=NOW).history("returns", "ru")]
    assert numbers == [3, 2, 1]


async def test_the_same_edit_in_both_places_is_no_conflict_then_or_later(seed: Seed) -> None:
    seed.write("ru/returns.md", RU)
    await seed.take()
    await seed.edit(lambda text: text.replace("14", "15"))
    seed.write("ru/returns.md", RU.replace("14", "15"))
    assert await seed.counts() == {"unchanged": 1}
    seed.write("ru/returns.md", RU.replace("14", "16"))
    assert await seed.counts() == {"changed": 1}


async def test_an_article_archived_in_the_database_stays_archived_when_its_file_is_edited(
    seed: Seed,
) -> None:
    seed.write("ru/returns.md", RU)
    await seed.take()
    async with seed.sessions.begin() as session:
        await Library(session, author="Anna", now=NOW).set_status("returns", "ru", "archived")
    assert await seed.counts() == {"unchanged": 1}
    seed.write("ru/returns.md", RU.replace("14", "30"))
    assert await seed.counts() == {"changed": 1}
    text = await seed.text()
    assert "30" in text
    assert "status: archived" in text


async def test_a_file_that_is_gone_archives_its_article_and_brings_it_back(seed: Seed) -> None:
    path = seed.write("ru/returns.md", RU)
    seed.write("en/returns.md", EN)
    await seed.take()
    path.unlink()
    assert await seed.counts() == {"unchanged": 1, "gone": 1}
    assert "status: archived" in await seed.text()
    assert await seed.counts() == {"unchanged": 1}
    seed.write("ru/returns.md", RU)
    assert await seed.counts() == {"unchanged": 1, "changed": 1}
    assert await seed.text() == RU


async def test_a_file_that_broke_does_not_archive_its_article(seed: Seed) -> None:
    seed.write("ru/returns.md", RU)
    await seed.take()
    seed.write("ru/returns.md", RU.replace("topic", "tpoic"))
    plan = await seed.take()
    assert [problem.problem for problem in plan.problems] == ["unknown key 'tpoic'"]
    assert plan.changes == ()


async def test_an_article_written_in_the_database_is_not_touched_by_the_seed(seed: Seed) -> None:
    seed.write("ru/other.md", RU.replace("returns", "other"))
    async with seed.sessions.begin() as session:
        await Library(session, author="Anna", now=NOW).save("returns", "ru", RU, expected_revision=0)
    assert await seed.counts() == {"new": 1}
    seed.write("ru/returns.md", RU.replace("14", "30"))
    assert await seed.counts() == {"unchanged": 1, "conflict": 1}


async def test_pictures_are_stored_once_and_exported_beside_their_article(seed: Seed, tmp_path: Path) -> None:
    picture = b"\x89PNG not really"
    seed.write("img/plan.png", picture)
    seed.write("ru/returns.md", RU + "\n![План](../img/plan.png)\n")
    seed.write("en/returns.md", EN + "\n![Plan](../img/plan.png) ![out](../../../etc/passwd.txt)\n")
    plan = await seed.take()
    assert [note for change in plan.changes for note in change.notes] == ["../../../etc/passwd.txt is not there"]
    assert len([path for path in seed.files.folder.rglob("*") if path.is_file()]) == 1
    async with seed.sessions.begin() as session:
        written = await export_articles(session, tmp_path / "out", seed.files)
    assert written.problems == ()
    assert (tmp_path / "out" / "img" / "plan.png").read_bytes() == picture
    seed.write("img/plan.png", picture + b"new")
    assert await seed.counts() == {"changed": 2}


async def test_the_whole_seed_is_exported_byte_for_byte(seed: Seed, tmp_path: Path) -> None:
    data = Path(__file__).parents[2] / "data" / "kb"
    seed.folder = data
    assert set(await seed.counts()) == {"new"}
    async with seed.sessions.begin() as session:
        await export_articles(session, tmp_path / "out", seed.files)
    ours = {path.relative_to(data): path.read_bytes() for path in data.rglob("*.md")}
    assert {p.relative_to(tmp_path / "out"): p.read_bytes() for p in (tmp_path / "out").rglob("*.md")} == ours


async def test_an_export_does_not_overwrite_what_differs(seed: Seed, tmp_path: Path) -> None:
    seed.write("ru/returns.md", RU)
    await seed.take()
    mine = tmp_path / "out" / "ru" / "returns.md"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    async with seed.sessions.begin() as session:
        written = await export_articles(session, tmp_path / "out", seed.files)
        assert [problem.path for problem in written.problems] == [str(mine)]
        assert mine.read_text() == "mine"
        await export_articles(session, tmp_path / "out", seed.files, overwrite=True)
    assert mine.read_text() == RU


async def test_an_export_is_read_as_the_same_articles(seed: Seed, tmp_path: Path) -> None:
    seed.write("Return policy.md", b"\xef\xbb\xbf# Return policy\r\n\r\nYou have 14 days.\r\n")
    seed.write("a/b/deep.md", "---\nid: other\nlang: en\ntitle: T\nx-note: kept\n---\nBody\n")
    await seed.take()
    async with seed.sessions.begin() as session:
        stored = await published(session, NOW)
        await export_articles(session, tmp_path / "out", seed.files)
    read = load_articles(tmp_path / "out")
    assert read.problems == ()
    assert [replace(article, path=None) for article in read.articles] == stored
    assert {path.read_bytes() for path in (tmp_path / "out").rglob("*.md")} == {
        path.read_bytes() for path in seed.folder.rglob("*.md")
    }


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("Как вернуть товар?", "kak-vernut-tovar"),
        ("Where's my order #5", "wheres-my-order-5"),
        ("!!!", ""),
        ("слово " * 40, "slovo-slovo-slovo-slovo-slovo-slovo-slovo-slovo-slovo-slovo"),
    ],
)
def test_ids_are_made_from_titles(title: str, name: str) -> None:
    assert slug(title) == name


async def test_a_draft_beside_a_published_article_changes_nothing_until_it_is_published(library: Library) -> None:
    await library.save("returns", "ru", RU, expected_revision=0)
    await library.save("returns", "en", EN, expected_revision=0)
    waiting = await library.save("returns", "ru", RU.replace("14", "30"), expected_revision=1, pending=True)
    assert (waiting.revision, waiting.draft, waiting.newest) == (1, 2, 2)
    assert waiting.article.body == "Вернуть можно за 14 дней."
    assert (await library.revision("returns", "ru")).text == RU
    assert (await library.get("returns", "en")).behind is None
    assert [(each.article.body, each.draft) for each in await library.find(pending=True)] == [(waiting.article.body, 2)]
    (found,) = await library.unpublished()
    assert (found.article.body, found.article.status) == ("Вернуть можно за 30 дней.", "published")
    assert [each.article.body for each in await library.newest_versions("returns")] == [
        "You have 14 days.",
        "Вернуть можно за 30 дней.",
    ]
    on = await library.set_status("returns", "ru", "published")
    assert (on.revision, on.draft, on.article.body) == (3, None, "Вернуть можно за 30 дней.")
    assert (await library.get("returns", "en")).behind == "ru", "a translation is behind what is published"
    assert await library.unpublished() == []


async def test_a_draft_is_another_revision_for_whoever_began_before_it(library: Library) -> None:
    await library.save("returns", "ru", RU, expected_revision=0)
    await library.save("returns", "ru", RU.replace("14", "30"), expected_revision=1, pending=True)
    with pytest.raises(StaleArticleError) as caught:
        await library.save("returns", "ru", RU.replace("14", "60"), expected_revision=1, pending=True)
    assert caught.value.revision == 2
    await library.save("returns", "ru", RU.replace("14", "31"), expected_revision=2, pending=True)
    with pytest.raises(StaleArticleError):
        await library.discard_draft("returns", "ru", expected_revision=2)
    assert (await library.discard_draft("returns", "ru", expected_revision=3)).draft is None
    assert [each.number for each in await library.history("returns", "ru")] == [3, 2, 1], "what was written is kept"
    again = await library.save("returns", "ru", RU.replace("14", "45"), expected_revision=1)
    assert (again.revision, again.article.body) == (4, "Вернуть можно за 45 дней.")


async def test_what_changes_in_the_published_text_meanwhile_is_in_the_draft_too(library: Library) -> None:
    await library.save("returns", "ru", RU, expected_revision=0)
    draft = RU.replace("14", "30").replace("  - как вернуть", "  - как вернуть\n  - можно ли вернуть")
    await library.save("returns", "ru", draft, expected_revision=1, pending=True)
    live = RU.replace("topic: orders", "topic: returns").replace("14", "15")
    live = live.replace("  - как вернуть", "  - как вернуть\n  - верните деньги")
    stored = await library.save("returns", "ru", live, expected_revision=1)
    assert (stored.revision, stored.draft, stored.article.body) == (3, 4, "Вернуть можно за 15 дней.")
    (waiting,) = await library.unpublished()
    assert waiting.article.topic == "returns"
    assert waiting.article.questions == ("как вернуть", "можно ли вернуть", "верните деньги")
    assert waiting.article.body == "Вернуть можно за 30 дней.", "what both changed stays as the draft has it"


async def test_an_import_and_an_export_are_of_the_published_text(seed: Seed, tmp_path: Path) -> None:
    path = seed.write("ru/returns.md", RU)
    await seed.take()
    async with seed.sessions.begin() as session:
        library = Library(session, author="Anna", now=NOW)
        await library.save("returns", "ru", RU.replace("Возврат", "Обмен"), expected_revision=1, pending=True)
        await export_articles(session, tmp_path / "out", seed.files)
    assert (tmp_path / "out" / "ru" / "returns.md").read_text() == RU
    path.write_text(RU.replace("14", "20"))
    assert await seed.counts() == {"changed": 1}, "a draft is no edit of what is published"
    async with seed.sessions.begin() as session:
        (waiting,) = await Library(session, author="", now=NOW).unpublished()
    assert (waiting.article.title, waiting.article.body) == ("Обмен", "Вернуть можно за 20 дней.")
