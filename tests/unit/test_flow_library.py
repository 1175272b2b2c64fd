"""Stored flows: seeded from files, every revision kept, published, and followed by other processes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from site_harness import Clock
from test_flow_files import GOOD

from bot.database import migrate, open_database
from bot.errors import FlowError, StaleFlowError, UnknownFlowError
from bot.flows.engine import FlowState
from bot.flows.library import FlowBase, get_revision, publish, read_book, revisions, save, stored, withdraw
from bot.ledger import Sessions

OTHER = GOOD.replace("Number?", "Which number?")


class Place:
    """A database, a folder of files, and processes that share them."""

    def __init__(self, folder: Path, sessions: Sessions, clock: Clock) -> None:
        self.folder, self.sessions, self.clock = folder / "flows", sessions, clock
        self.url = f"sqlite+aiosqlite:///{folder / 'otvet.sqlite3'}"
        self.told: list[str] = []
        self.folder.mkdir()

    def process(self) -> FlowBase:
        return FlowBase(url=self.url, folder=self.folder, common={}, clock=self.clock, progress=self.told.append)

    def write(self, text: str, name: str = "good") -> None:
        (self.folder / f"{name}.yml").write_text(text, "utf-8")

    async def publish(self, text: str, expected: int | None = None) -> int:
        self.clock.advance(1)
        async with self.sessions.begin() as session:
            made = await save(session, text, expected=expected, by="Anna", at=self.clock())
            await publish(session, made.flow_id, made.number, at=self.clock())
            return made.number


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    engine, sessions = open_database(f"sqlite+aiosqlite:///{tmp_path / 'otvet.sqlite3'}")
    await migrate(engine)
    yield Place(tmp_path, sessions, Clock())
    await engine.dispose()


async def test_the_files_seed_the_database_and_their_edits_are_taken_at_the_next_start(place: Place) -> None:
    place.write(GOOD)
    assert list(place.process().book.flows) == ["good"]
    place.write(OTHER)
    book = place.process().book
    assert "Which number?" in book.flows["good"].text
    assert [version for _, version in book.earlier]
    async with place.sessions.begin() as session:
        assert [each.number for each in await revisions(session, "good")] == [2, 1]
    assert place.told == []


async def test_a_flow_edited_in_the_studio_keeps_its_text_and_the_conflict_is_told(place: Place) -> None:
    place.write(GOOD)
    assert place.process().book
    await place.publish(OTHER, 1)
    place.write(GOOD.replace("Number?", "What number?"))
    assert "Which number?" in place.process().book.flows["good"].text
    assert "good" in place.told[0]
    place.write(OTHER)
    assert place.process().book.flows["good"].text == OTHER
    assert len(place.told) == 1, "a file that was written back is no conflict"


async def test_a_broken_file_is_told_and_the_others_are_taken(place: Place) -> None:
    place.write(GOOD)
    place.write("flow: bad\nsteps: [", "bad")
    assert list(place.process().book.flows) == ["good"]
    assert "bad.yml" in place.told[0]


async def test_another_process_sees_what_was_published_and_who_is_inside_stays(place: Place) -> None:
    place.write(GOOD)
    other = place.process()
    before = other.book.flows["good"]
    assert not await other.refresh(place.sessions)
    await place.publish(OTHER, 1)
    assert await other.refresh(place.sessions)
    assert other.book.flows["good"].version != before.version
    inside = FlowState("good", before.version, "ask")
    pinned = other.book.at(inside)
    assert pinned is not None
    assert pinned.version == before.version
    place.clock.advance(timedelta(days=32).total_seconds())
    async with place.sessions.begin() as session:
        assert (await read_book(session, {}, place.clock())).earlier == {}


async def test_what_a_process_with_a_slow_clock_publishes_is_seen_too(place: Place) -> None:
    place.write(GOOD)
    place.write(GOOD.replace("flow: good", "flow: second"), "second")
    other = place.process()
    assert len(other.book.flows) == 2
    place.clock.advance(-5)
    await place.publish(OTHER, 1)
    assert await other.refresh(place.sessions)


async def test_a_draft_is_met_by_nobody_and_a_withdrawn_flow_begins_no_more(place: Place) -> None:
    async with place.sessions.begin() as session:
        await save(session, GOOD, expected=None, by="Anna", at=place.clock())
        assert (await read_book(session, {}, place.clock())).flows == {}
    await place.publish(OTHER, 1)
    async with place.sessions.begin() as session:
        (flow,) = await stored(session)
        assert (flow.published, flow.newest, flow.author) == (2, 2, "Anna")
        await withdraw(session, "good", expected=2, at=place.clock())
        book = await read_book(session, {}, place.clock())
        assert book.flows == {}
        assert book.at(FlowState("good", flow.flow.version, "ask")) is not None


async def test_one_revision_that_cannot_be_read_takes_no_other_with_it(place: Place) -> None:
    """Of a later version of the program say, or written past it."""
    place.write(GOOD)
    place.write(GOOD.replace("flow: good", "flow: second"), "second")
    process = place.process()
    before = process.book.flows["good"]
    await place.publish(OTHER, 1)
    await place.publish(GOOD.replace("Number?", "What number?"), 2)
    async with place.sessions.begin() as session:
        for number in (2, 3):
            (await get_revision(session, "good", number)).text = "flow: good\nsteps: of another kind\n"
    assert await process.refresh(place.sessions)
    book = process.book
    assert book.flows["good"] is before, "what is in use goes on"
    assert set(book.flows) == {"good", "second"}
    assert list(book.earlier) == [("good", before.version)]
    fresh = place.process().book
    assert list(fresh.flows) == ["second"]
    async with place.sessions.reading() as session:
        assert [each.flow.id for each in await stored(session)] == ["second"]


async def test_what_cannot_be_saved_is_refused_with_the_reason(place: Place) -> None:
    await place.publish(GOOD)
    async with place.sessions.begin() as session:
        with pytest.raises(StaleFlowError, match="you changed revision 3, but revision 1 was saved"):
            await save(session, OTHER, expected=3, by="Bob", at=place.clock())
        with pytest.raises(StaleFlowError, match="one of this name already"):
            await save(session, OTHER, expected=None, by="Bob", at=place.clock())
        with pytest.raises(FlowError):
            await save(session, "flow: [", expected=1, by="Bob", at=place.clock())
        with pytest.raises(UnknownFlowError):
            await publish(session, "good", 7, at=place.clock())
        with pytest.raises(UnknownFlowError):
            await withdraw(session, "none", expected=1, at=place.clock())
        with pytest.raises(StaleFlowError):
            await withdraw(session, "good", expected=2, at=place.clock())  # another is published
