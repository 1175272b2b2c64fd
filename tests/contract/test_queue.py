"""The queue's views, numbers and search, alike on both databases, and read along indexes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from databases import MakeDatabase
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from bot.database import migrate, open_database
from bot.ledger import Sessions
from handoff.access import Role, Viewer
from handoff.clocks import ClockKind
from handoff.lifecycle import TicketStatus
from handoff.queue import PAGE, Query, View, counts, find, mentioned, piles
from handoff.records import Agent, Author, ClockRow, Conversation, Mention, Message, Owner, Reason, Ticket

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
CHIEF = Viewer(1, 99, "Chief", Role.SUPERVISOR, frozenset())
ANNA = Viewer(2, 1, "Anna", Role.AGENT, frozenset({"first-line"}))


@pytest.fixture
async def opened(make_database: MakeDatabase) -> AsyncIterator[tuple[AsyncEngine, Sessions]]:
    engine, sessions = open_database(make_database())
    await migrate(engine)
    async with sessions.begin() as session:
        for number, name in ((1, "Anna"), (2, "Boris")):
            session.add(
                Agent(id=number, name=name, teams=["first-line"], langs=[], notify=[], level="L1", created_at=NOW)
            )
    yield engine, sessions
    await engine.dispose()


async def make(
    sessions: Sessions,
    *,
    status: TicketStatus = TicketStatus.NEW,
    team: str = "first-line",
    assignee: int | None = None,
    minutes: int = 0,
    said: str = "…",
    name: str | None = None,
    due: dict[ClockKind, int] | None = None,
    since: int | None = None,
) -> int:
    """A ticket that came so many minutes ago. due: clock → minutes from now; since: for how long the next reply is
    waited for."""
    at = NOW - timedelta(minutes=minutes)
    async with sessions.begin() as session:
        conversation = Conversation(
            channel="site",
            account="",
            chat_id=f"{minutes}-{said}-{name}-{team}-{status}",
            customer_name=name,
            owner=Owner.PERSON,
            epoch=1,
            state={},
            created_at=at,
            updated_at=at,
        )
        session.add(conversation)
        await session.flush()
        session.add(
            Message(conversation_id=conversation.id, author=Author.CUSTOMER, text=said, sent_at=at, created_at=at)
        )
        ticket = Ticket(
            conversation_id=conversation.id,
            status=status,
            reason=Reason.ASKED_FOR_PERSON,
            topic="orders",
            routed_by="intent",
            team=team,
            level="L1",
            priority="normal",
            lang="ru",
            subject=said[:100],
            assignee_id=assignee,
            promised_at=at,
            created_at=at,
            updated_at=at,
        )
        session.add(ticket)
        await session.flush()
        for kind, left in (due or {}).items():
            session.add(
                ClockRow(
                    ticket_id=ticket.id,
                    kind=kind,
                    target_seconds=600,
                    due_at=NOW + timedelta(minutes=left),
                    running_since=NOW - timedelta(minutes=since or 0),
                )
            )
        return ticket.id


async def shown(sessions: Sessions, viewer: Viewer, **query: object) -> list[int]:
    async with sessions.reading() as session:
        found = await find(session, viewer, Query(**query), NOW)  # type: ignore[arg-type]
    return [row.ticket_id for row in found.rows]


async def test_each_view_has_its_tickets_in_its_order(opened: tuple[AsyncEngine, Sessions]) -> None:
    _, sessions = opened
    old = await make(sessions, minutes=90)
    new = await make(sessions, minutes=5)
    mine = await make(sessions, minutes=30, assignee=1, status=TicketStatus.OPEN)
    waits = await make(sessions, minutes=200, assignee=1, status=TicketStatus.WAITING)
    foreign = await make(sessions, minutes=60, team="payments")
    given = await make(sessions, minutes=50, team="payments", assignee=1)
    over = await make(sessions, minutes=400, status=TicketStatus.RESOLVED, assignee=1)
    assert await shown(sessions, ANNA, view=View.MINE) == [given, mine, waits]
    assert await shown(sessions, ANNA, view=View.UNASSIGNED) == [old, new]
    assert await shown(sessions, ANNA, view=View.TEAM) == [old, mine, new, waits]
    assert await shown(sessions, ANNA, view=View.ALL) == [old, given, mine, new, waits]
    assert await shown(sessions, ANNA, view=View.ENDED) == [over]
    assert await shown(sessions, CHIEF, view=View.ALL) == [old, foreign, given, mine, new, waits]
    assert await shown(sessions, CHIEF, view=View.ALL, assignee="Anna") == [given, mine, waits]
    assert await shown(sessions, CHIEF, view=View.ALL, team="payments") == [foreign, given]


async def test_who_waits_longest_and_what_breaks_soonest_come_first(opened: tuple[AsyncEngine, Sessions]) -> None:
    _, sessions = opened
    first, resolution = ClockKind.NEXT_RESPONSE, ClockKind.RESOLUTION
    # It came long ago, and its customer has been waiting for ten minutes.
    answered = await make(sessions, minutes=5000, status=TicketStatus.OPEN, due={first: 20, resolution: 5}, since=10)
    waiting = await make(sessions, minutes=600, status=TicketStatus.OPEN, due={first: -30}, since=60)
    new = await make(sessions, minutes=30)
    await make(sessions, minutes=900, status=TicketStatus.WAITING)
    assert await shown(sessions, CHIEF, view=View.WAITING) == [waiting, new, answered]
    assert await shown(sessions, CHIEF, view=View.BREACH) == [waiting, answered]


async def test_the_numbers_are_those_of_the_views(opened: tuple[AsyncEngine, Sessions]) -> None:
    _, sessions = opened
    for number, status in enumerate(TicketStatus):
        for assignee in (None, 1, 2):
            for team in ("first-line", "payments"):
                await make(sessions, minutes=number * 10 + (assignee or 0), status=status, assignee=assignee, team=team)
    for viewer in (ANNA, CHIEF):
        async with sessions.reading() as session:
            numbers = counts(await piles(session), viewer)
        for view, number in numbers.items():
            assert number == len(await shown(sessions, viewer, view=view)), (viewer.name, view)


async def test_a_mention_counts_until_it_was_seen(opened: tuple[AsyncEngine, Sessions]) -> None:
    _, sessions = opened
    ticket = await make(sessions)
    async with sessions.begin() as session:
        for message_id in (1, 1):
            session.add(Mention(agent_id=1, ticket_id=ticket, message_id=message_id, at=NOW))
    async with sessions.reading() as session:
        assert await mentioned(session, ANNA, NOW) == 1
    assert await shown(sessions, ANNA, view=View.MENTIONS) == [ticket]
    assert await shown(sessions, CHIEF, view=View.MENTIONS) == []


async def test_pages_follow_one_another(opened: tuple[AsyncEngine, Sessions]) -> None:
    _, sessions = opened
    made = [await make(sessions, minutes=1000 - number) for number in range(PAGE + 3)]
    async with sessions.reading() as session:
        one, two = [await find(session, CHIEF, Query(View.ALL, page=page), NOW) for page in (0, 1)]
    assert [row.ticket_id for row in (*one.rows, *two.rows)] == made
    assert (one.more, two.more) == (True, False)


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("посылки", True),
        ("ПОСЫЛКА потерялась", True),
        ("посылка найдена", False),
        ("parcels", True),
        ("Кузнецов", True),
        ("ИВАН", True),
        ("№ {number}", True),
        ("'; DROP TABLE tickets; --", False),
        ("посылк:* & !", True),
        ("((", False),
        ("%", False),
        ("\x00", False),
    ],
)
async def test_search_finds_forms_of_words_names_and_numbers(
    opened: tuple[AsyncEngine, Sessions], words: str, found: bool
) -> None:
    _, sessions = opened
    ticket = await make(sessions, said="Моя посылка потерялась. My parcel is lost", name="Иван Кузнецов")
    await make(sessions, said="Другое дело", minutes=3)
    asked = words.format(number=ticket)
    assert await shown(sessions, CHIEF, words=asked) == ([ticket] if found else [])


async def test_an_edited_message_is_found_by_its_new_words_alone(opened: tuple[AsyncEngine, Sessions]) -> None:
    _, sessions = opened
    ticket = await make(sessions, said="Телевизор не включается")
    async with sessions.begin() as session:
        await session.execute(text("UPDATE messages SET text = 'Холодильник не морозит'"))
    assert await shown(sessions, CHIEF, words="телевизоры") == []
    assert await shown(sessions, CHIEF, words="холодильники") == [ticket]
