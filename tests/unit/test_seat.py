"""What one person does at his seat, while the customer and his colleagues act too."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from databases import MakeDatabase
from sqlalchemy import select
from test_agent_desk import Story

from bot.database import migrate
from bot.desk.accounts import Accounts
from bot.desk.records import Account, OutgoingState
from bot.desk.seat import OUTGOING, Draft, Seat, Tally, fire_outgoing
from bot.shared import LocalShared
from bot.timers import Timers
from handoff.access import Role, Viewer
from handoff.clocks import ClockKind
from handoff.errors import TicketNotFoundError, TicketStateError
from handoff.lifecycle import TicketStatus
from handoff.queue import View
from handoff.records import Agent, ClockRow, Mention
from handoff.tickets import history, put_agent

TEAMS = ("first-line",)


class Desk(Story):
    """A story with people who have seats."""

    async def join(self, name: str) -> Viewer:
        async with self.sessions.begin() as session:
            agent = await put_agent(session, name, now=self.clock(), teams=list(TEAMS))
            account = Account(
                agent_id=agent.id, login=name, password_hash="-", role=Role.SENIOR, lang="en", created_at=self.clock()
            )
            session.add(account)
            await session.flush()
            return Viewer(account.id, agent.id, name, Role.SENIOR, frozenset(TEAMS), "en")

    async def sit(self, viewer: Viewer, work: Callable[[Seat], Awaitable[Any]]) -> Any:
        """Do something at a seat; what it gives."""
        accounts = Accounts(self.sessions, LocalShared(now=lambda: 0.0), self.clock)
        async with self.sessions.begin() as session:
            seat = Seat(self.desk, accounts, session, viewer, now=self.clock(), address="", tally=Tally())
            done = await work(seat)
        await self.assistant.drain()
        return done

    async def go_out(self) -> None:
        """Let the time pass in which a reply can be taken back."""
        self.clock.ahead += timedelta(seconds=11)
        timers = Timers(self.sessions, self.clock)
        timers.register(OUTGOING, partial(fire_outgoing, self.desk))
        await timers.fire_due()
        await self.assistant.drain()


@pytest.fixture
async def room(tmp_path: Path, make_database: MakeDatabase) -> AsyncIterator[Desk]:
    made = Desk(tmp_path, database=make_database())
    await migrate(made.engine)
    made.clock.ahead = datetime(2027, 3, 1, 9, tzinfo=UTC) - datetime.now(UTC)  # a Monday, noon in Moscow
    await made.hear("a person please")
    yield made
    await made.engine.dispose()


@pytest.mark.parametrize("then", ["", "resolve"])
async def test_nothing_ends_over_what_the_customer_says_before_the_reply_goes_out(room: Desk, then: str) -> None:
    anna = await room.join("Anna")
    draft = Draft(key="k" * 8, text="All done, good bye", seen_id=10**6, seen_agent_id=10**6, then=then)
    sent = await room.sit(anna, lambda seat: seat.reply(1, draft, undo_seconds=10))
    room.clock.ahead += timedelta(seconds=2)
    await room.hear("wait, it is broken again")
    await room.go_out()
    assert room.channel.sent[-1].text == "All done, good bye", "what he wrote arrives"
    async with room.sessions.begin() as session:
        assert (await session.get_one(type(sent), sent.id)).state is OutgoingState.SENT
    ticket = await room.ticket()
    assert (ticket.status, ticket.resolved_at, ticket.finished_at) == (TicketStatus.OPEN, None, None)


async def test_a_reply_that_nobody_interrupts_ends_what_it_is_to_end(room: Desk) -> None:
    anna = await room.join("Anna")
    draft = Draft(key="k" * 8, text="All done", seen_id=10**6, seen_agent_id=10**6, then="resolve")
    await room.sit(anna, lambda seat: seat.reply(1, draft, undo_seconds=10))
    await room.go_out()
    assert (await room.ticket()).status is TicketStatus.RESOLVED


async def test_who_takes_twice_is_introduced_once(room: Desk) -> None:
    anna = await room.join("Anna")
    async with room.sessions.begin() as session:
        await room.desk.tickets.give_out(session, now=room.clock())
    before = len(room.channel.sent)
    for _ in range(2):
        await room.sit(anna, lambda seat: seat.take(1))
    assert [message.text for message in room.channel.sent[before:]] == ["Anna has joined the conversation."]
    async with room.sessions.begin() as session:
        assert [entry.event for entry in await history(session, [1])].count("assigned") == 2, "by the queue, by her"


async def test_only_whoever_is_named_in_full_is_mentioned(room: Desk) -> None:
    ann, anna, boris = [await room.join(name) for name in ("Ann", "Anna", "Boris")]
    await room.sit(boris, lambda seat: seat.note(1, "@Anna: look here"))
    async with room.sessions.begin() as session:
        called = set(await session.scalars(select(Agent.name).join(Mention, Mention.agent_id == Agent.id)))
    assert called == {"Anna"}
    assert ann.agent_id != anna.agent_id


async def test_nothing_is_merged_into_what_has_just_ended(room: Desk) -> None:
    anna, boris = [await room.join(name) for name in ("Anna", "Boris")]
    await room.hear("a person please", chat="second")
    ended, seen = asyncio.Event(), asyncio.Event()

    async def end(seat: Seat) -> None:
        await seat.resolve(2)
        seen.set()
        await asyncio.sleep(0.2)
        ended.set()

    async def merge(seat: Seat) -> None:
        await seen.wait()
        await seat.merge(1, 2)

    results = await asyncio.gather(room.sit(boris, end), room.sit(anna, merge), return_exceptions=True)
    assert isinstance(results[1], TicketStateError), results
    (first, second) = await room.tickets()
    assert (first.status, second.status) == (TicketStatus.NEW, TicketStatus.RESOLVED)


async def test_a_mention_in_a_ticket_of_another_team_is_not_counted_for_ever(room: Desk) -> None:
    boris = await room.join("Boris")
    vera = await room.join("Vera")
    await room.sit(boris, lambda seat: seat.note(1, "@Vera: look here"))
    assert (await room.sit(vera, lambda seat: seat.counts()))[View.MENTIONS] == 1
    elsewhere = replace(vera, role=Role.AGENT, teams=frozenset({"logistics"}))
    assert (await room.sit(elsewhere, lambda seat: seat.counts()))[View.MENTIONS] == 0


async def test_a_segment_that_is_set_while_an_agent_answers_starts_no_clock_again(room: Desk) -> None:
    anna = await room.join("Anna")
    answered = asyncio.Event()

    async def answer(seat: Seat) -> None:
        draft = Draft(key="k" * 8, text="Good day", seen_id=10**6, seen_agent_id=10**6)
        await seat.reply(1, draft, undo_seconds=0)
        answered.set()
        await asyncio.sleep(0.2)

    async def promote() -> None:
        await answered.wait()
        async with room.sessions.begin() as session:
            await room.desk.customers.change(session, 1, actor="Olga", now=room.clock(), segment="vip")

    await asyncio.gather(room.sit(anna, answer), promote())
    async with room.sessions.begin() as session:
        clock = await session.get_one(ClockRow, (1, ClockKind.RESOLUTION))
    assert clock.running_since is None, "the customer is waited for"
    assert (await room.ticket()).priority == "high"


async def test_a_number_that_can_be_no_tickets_is_not_found(room: Desk) -> None:
    anna = await room.join("Anna")
    for number in (0, -1, 2**63, 10**40):
        with pytest.raises(TicketNotFoundError):
            await room.sit(anna, partial(Seat.look, ticket_id=number))
