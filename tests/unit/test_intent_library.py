"""Stored intents: changed by editors and by files at once, and written back with every other byte as it was."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from nlu import library
from nlu.errors import (
    ExampleRefused,
    IntentNameRefused,
    StaleExample,
    StaleIntent,
    TrainingDataError,
    UnknownExample,
    UnknownIntent,
)
from nlu.library import NewExample, training_data
from nlu.library_files import keep_written, plan_data, plan_files, read_files, take_data, take_files, written_files
from nlu.records import Base
from nlu.training_data import TrainingData, from_rows, load_intents

DATA = Path(__file__).parents[2] / "data" / "intents"
NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
WHO: dict[str, Any] = {"by": "Anna", "at": NOW}

EN = """\
version: "3.1"   # ours
nlu:
  # Orders
  - intent: order_status   # frequent
    metadata:
      article: order-status   # the one about parcels
    examples: |
      - where is my [parcel](thing)
      # from the chats of May
      - status  of my order

  - synonym: parcel
    examples: |
      - package
  - intent: hello
    metadata: {reply: hello}
    examples:
      - text: |
          - hi there
        metadata: {tone: warm}
      - good day
"""
RU = """\
version: "3.1"
nlu:
- intent: order_status
  metadata:
    article: order-status
  examples: |
    - где мой заказ
    - что с заказом
- intent: hello
  examples: |
    - привет
"""
FILES = {"en.yml": EN, "ru.yml": RU}


@pytest.fixture
async def session(tmp_path: Path) -> AsyncIterator[AsyncSession]:
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'intents.sqlite3'}")
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with async_sessionmaker(engine, expire_on_commit=False)() as opened:
        await take_files(opened, FILES, **WHO)
        yield opened
    await engine.dispose()


async def texts(session: AsyncSession, intent: str) -> list[str]:
    return [each.text for each in await library.examples_of(session, intent)]


async def test_the_demo_data_comes_back_as_it_went_in(tmp_path: Path) -> None:
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'demo.sqlite3'}")
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with async_sessionmaker(engine)() as opened:
        files = read_files(DATA)
        await take_files(opened, files, **WHO)
        stored, loaded = await training_data(opened), load_intents(DATA)
        assert [(e.text, e.intent, e.lang, e.raw) for e in stored.examples] == [
            (e.text, e.intent, e.lang, e.raw) for e in loaded.examples
        ]
        assert dict(stored.intents) == dict(loaded.intents)
        assert await written_files(opened) == files
        assert not (await plan_files(opened, files)).changes
    await engine.dispose()


async def test_what_the_classifier_does_not_use_is_kept(session: AsyncSession) -> None:
    data = await training_data(session)
    assert data.synonyms == {"parcel": ("package",)}
    example = data.examples[0]
    assert (example.text, example.raw, example.entities[0].name) == (
        "where is my parcel",
        "where is my [parcel](thing)",
        "thing",
    )
    assert await written_files(session) == FILES


async def test_an_added_a_removed_and_a_moved_example_change_their_lines_alone(session: AsyncSession) -> None:
    await library.add_examples(session, "order_status", [NewExample("any  news of it", "en")], **WHO)
    first = (await library.examples_of(session, "hello"))[1]
    await library.move_example(session, first.id, "order_status", **WHO)
    gone = next(e for e in await library.examples_of(session, "order_status") if e.text == "что с заказом")
    await library.remove_example(session, gone.id, **WHO)
    written = await written_files(session)
    last = "      - status  of my order\n"
    moved = EN.replace("      - good day\n", "").replace(last, f"{last}      - good day\n      - any news of it\n")
    assert written["en.yml"] == moved
    assert written["ru.yml"] == RU.replace("    - что с заказом\n", "")


async def test_a_renamed_a_new_and_a_removed_intent_are_written(session: AsyncSession, tmp_path: Path) -> None:
    order = await library.get_intent(session, "order_status")
    await library.change_intent(
        session, "order_status", expected_revision=order.revision, new_name="parcel", metadata={"handoff": "any"}, **WHO
    )
    await library.create_intent(session, "delay", metadata={"article": "delay"}, **WHO)
    await library.create_intent(session, "later", metadata={"reply": "later"}, **WHO)
    await library.add_examples(session, "delay", [NewExample("посылка опаздывает", "ru")], **WHO)
    await library.remove_intent(session, "hello", **WHO)
    written = await written_files(session)
    outcome = "    metadata:\n      handoff: any\n"
    expected = EN[: EN.index("  - intent: hello")].replace("order_status   #", "parcel   #")
    before = "    metadata:\n      article: order-status   # the one about parcels\n"
    assert written["en.yml"].startswith(expected.replace(before, outcome))
    assert "hello" not in written["en.yml"]
    ru = RU[: RU.index("- intent: hello")].replace("intent: order_status", "intent: parcel")
    ru = ru.replace("  metadata:\n    article: order-status\n", "  metadata:\n    handoff: any\n")
    assert written["ru.yml"].startswith(ru)
    again = await training_data(session)
    folder = tmp_path / "out"
    folder.mkdir()
    for path, text in written.items():
        (folder / path).write_text(text, encoding="utf-8")
    loaded = load_intents(folder)
    assert {(e.intent, e.raw, e.lang) for e in loaded.examples} == {(e.intent, e.raw, e.lang) for e in again.examples}
    assert {name: dict(spec.metadata) for name, spec in loaded.intents.items()} == {
        name: dict(spec.metadata) for name, spec in again.intents.items()
    }
    assert not (await plan_files(session, written)).changes, "what was written is what is stored"


async def test_edits_of_the_file_and_of_the_studio_both_survive(session: AsyncSession) -> None:
    await library.add_examples(session, "order_status", [NewExample("any news", "en")], **WHO)
    hello = await library.get_intent(session, "hello")
    await library.change_intent(session, "hello", expected_revision=hello.revision, new_name="greeting", **WHO)
    edited = RU.replace("    - что с заказом\n", "    - когда привезут\n") + "    - здравствуйте\n"
    plan = await plan_files(session, {**FILES, "ru.yml": edited})
    assert plan.count() == {"added": 2, "removed": 1}
    taken = await take_files(session, {**FILES, "ru.yml": edited}, **WHO)
    assert taken == plan
    assert await texts(session, "order_status") == [
        "where is my parcel",
        "status  of my order",
        "any news",
        "где мой заказ",
        "когда привезут",
    ]
    assert await texts(session, "greeting") == ["hi there", "good day", "привет", "здравствуйте"]
    assert not (await take_files(session, {**FILES, "ru.yml": edited}, **WHO)).changes


async def test_two_outcomes_are_a_conflict_that_the_studio_wins(session: AsyncSession) -> None:
    row = await library.get_intent(session, "order_status")
    await library.change_intent(
        session, "order_status", expected_revision=row.revision, metadata={"article": "parcels"}, **WHO
    )
    files = {path: text.replace("article: order-status", "article: orders") for path, text in FILES.items()}
    taken = await take_files(session, files, **WHO)
    assert [(each.kind, each.intent) for each in taken.changes] == [("conflict", "order_status")]
    assert (await library.get_intent(session, "order_status")).metadata == {"article": "parcels"}


async def test_a_broken_file_changes_nothing(session: AsyncSession) -> None:
    with pytest.raises(TrainingDataError):
        await take_files(session, {**FILES, "ru.yml": "nlu: [\n"}, **WHO)
    assert await written_files(session) == FILES


async def test_an_intent_that_the_files_drop_goes_unless_somebody_added_to_it_here(session: AsyncSession) -> None:
    await library.add_examples(session, "hello", [NewExample("howdy", "en")], **WHO)
    without = {"en.yml": EN[: EN.index("  - intent: hello")], "ru.yml": RU[: RU.index("- intent: hello")]}
    await take_files(session, without, **WHO)
    assert await texts(session, "hello") == ["howdy"]
    await take_files(session, {"en.yml": 'version: "3.1"\nnlu: []\n'}, **WHO)
    with pytest.raises(UnknownIntent):
        await library.get_intent(session, "order_status")


def data(*rows: tuple[str, str], lang: str = "en") -> TrainingData:
    return from_rows(rows, lang)


async def test_other_files_add_and_leave_what_is_there(session: AsyncSession) -> None:
    more = data(("it is late", "delay"), ("any news", "order_status"), ("Good day!", "delay"), ("good day", "hello"))
    plan = await plan_data(session, more, exact=False)
    assert await take_data(session, more, exact=False, **WHO) == plan
    assert plan.count() == {"new_intent": 1, "added": 3}, "an exclamation mark makes another text"
    again = await plan_data(session, data(("GOOD  day", "order_status"), ("any news", "order_status")), exact=False)
    assert [(each.kind, each.text) for each in again.changes] == [("elsewhere", "GOOD  day")]
    assert len(await texts(session, "order_status")) == 5


async def test_exact_files_also_take_away_in_their_languages(session: AsyncSession) -> None:
    taken = await take_data(session, data(("good day", "hello"), ("evening", "hello")), exact=True, **WHO)
    assert taken.count() == {"added": 1, "removed": 1}
    assert await texts(session, "hello") == ["good day", "evening", "привет"]
    assert (await library.get_intent(session, "order_status")).counts == {"en": 2, "ru": 2}


async def test_the_same_words_are_one_example_and_stay_where_they_are(session: AsyncSession) -> None:
    new = [NewExample(text, "ru") for text in ("Где мой ЗАКАЗ", "привет", "и где он", "И где он")]
    added = await library.add_examples(session, "order_status", new, **WHO)
    assert [each.text for each in added.added] == ["и где он"]
    assert added.already == ("Где мой ЗАКАЗ", "И где он")
    assert [(each.text, each.intent) for each in added.elsewhere] == [("привет", "hello")]


@pytest.mark.parametrize("text", ["", "  \n ", "a" * 1001, "bell \x07 rings"])
async def test_what_is_no_example_is_refused(session: AsyncSession, text: str) -> None:
    with pytest.raises(ExampleRefused):
        await library.add_examples(session, "hello", [NewExample("fine", "en"), NewExample(text, "en")], **WHO)
    assert "fine" not in await texts(session, "hello")


async def test_what_was_removed_can_be_brought_back(session: AsyncSession) -> None:
    example = (await library.examples_of(session, "hello"))[0]
    await library.remove_example(session, example.id, **WHO)
    with pytest.raises(UnknownExample):
        await library.remove_example(session, example.id, **WHO)
    assert example.text not in await texts(session, "hello")
    await library.restore_example(session, example.id, **WHO)
    assert example.text in await texts(session, "hello")
    removed = await library.remove_intent(session, "hello", **WHO)
    with pytest.raises(UnknownIntent):
        await library.get_intent(session, "hello")
    assert "hello" not in (await training_data(session)).intents
    back = await library.restore_intent(session, "hello", expected_revision=removed, **WHO)
    assert back.counts == {"en": 2, "ru": 1}


async def test_what_was_removed_does_not_come_back_over_what_somebody_made_since(session: AsyncSession) -> None:
    example = (await library.examples_of(session, "hello"))[0]
    await library.remove_example(session, example.id, **WHO)
    await library.add_examples(session, "order_status", [NewExample(example.text.upper(), "en")], **WHO)
    with pytest.raises(StaleExample):
        await library.restore_example(session, example.id, **WHO)
    removed = await library.remove_intent(session, "hello", **WHO)
    made = await library.create_intent(session, "hello", metadata={"reply": "yo"}, **WHO)
    with pytest.raises(StaleIntent):
        await library.restore_intent(session, "hello", expected_revision=removed, **WHO)
    again = await library.remove_intent(session, "hello", **WHO)
    with pytest.raises(StaleIntent):
        await library.restore_intent(session, "hello", expected_revision=removed, **WHO)
    back = await library.restore_intent(session, "hello", expected_revision=again, **WHO)
    assert back.metadata == made.metadata


@pytest.mark.parametrize("change", ["moved", "reworded", "renamed"])
async def test_a_stamp_tells_whether_an_example_is_still_what_it_was(session: AsyncSession, change: str) -> None:
    seen = (await library.examples_of(session, "hello"))[0]
    if change == "moved":
        await library.move_example(session, seen.id, "order_status", **WHO)
    elif change == "reworded":
        await library.change_example(session, seen.id, "other words", **WHO)
    else:
        revision = (await library.get_intent(session, "hello")).revision
        await library.change_intent(session, "hello", expected_revision=revision, new_name="greeting", **WHO)
        await library.move_example(session, seen.id, "order_status", stamp=seen.stamp, **WHO)
        return
    with pytest.raises(StaleExample):
        await library.move_example(session, seen.id, "hello", stamp=seen.stamp, **WHO)
    with pytest.raises(StaleExample):
        await library.remove_example(session, seen.id, stamp=seen.stamp, **WHO)


async def test_two_editors_do_not_overwrite_each_other(session: AsyncSession) -> None:
    seen = (await library.get_intent(session, "hello")).revision
    await library.change_intent(session, "hello", expected_revision=seen, metadata={"reply": "hi"}, **WHO)
    with pytest.raises(StaleIntent) as stale:
        await library.change_intent(session, "hello", expected_revision=seen, metadata={"reply": "yo"}, **WHO)
    assert (stale.value.expected_revision, stale.value.revision) == (seen, seen + 1)
    assert (await library.get_intent(session, "hello")).metadata == {"reply": "hi"}


@pytest.mark.parametrize("name", ["", "two words", "order_status", "a/b/c", "<b>", "x" * 121])
async def test_a_name_that_is_none_or_taken_is_refused(session: AsyncSession, name: str) -> None:
    with pytest.raises(IntentNameRefused):
        await library.create_intent(session, name, metadata={}, **WHO)


async def test_a_new_intent_of_an_old_name_begins_empty(session: AsyncSession) -> None:
    await library.remove_intent(session, "hello", **WHO)
    created = await library.create_intent(session, "hello", metadata={"reply": "hi"}, **WHO)
    assert (created.metadata, await texts(session, "hello")) == ({"reply": "hi"}, [])


async def test_the_fingerprint_tells_what_training_would_see(session: AsyncSession) -> None:
    before = library.fingerprint(await training_data(session))
    example = (await library.examples_of(session, "hello"))[0]
    await library.remove_example(session, example.id, **WHO)
    changed = library.fingerprint(await training_data(session))
    await library.restore_example(session, example.id, **WHO)
    assert library.fingerprint(await training_data(session)) == before != changed


async def test_after_an_export_in_place_the_files_count_as_read(session: AsyncSession) -> None:
    await library.add_examples(session, "order_status", [NewExample("any news", "en")], **WHO)
    written = await written_files(session)
    await keep_written(session, written)
    assert not (await plan_files(session, written)).changes
    assert await written_files(session) == written
    removed = {**written, "en.yml": written["en.yml"].replace("      - any news\n", "")}
    assert (await plan_files(session, removed)).count() == {"removed": 1}
