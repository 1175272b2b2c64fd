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
from sqlalchemy import select, update
from test_agent_desk import Story

from bot.database import migrate
from bot.desk.accounts import Accounts
from bot.desk.outgoing import OUTGOING, fire_outgoing
from bot.desk.records import Account, AuditEntry, OutgoingState
from bot.desk.seat import Draft, Seat, Tally
from bot.errors import UnseenWordsError
from bot.forum.acts import Acts
from bot.notifications import Notice, Notices
from bot.shared import LocalShared
from bot.timers import Timers
from handoff.access import Role, Viewer
from handoff.clocks import ClockKind
from handoff.errors import AccessError, StrangersError, TicketHeldError, TicketNotFoundError, TicketStateError
from handoff.history import history
from handoff.lifecycle import TicketStatus
from handoff.queue import Query, View
from handoff.records import Agent, ClockRow, Conversation, Mention, Presence
from handoff.staff import put_agent

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

    async def make_one_customer(self) -> None:
        async with self.sessions.begin() as session:
            await session.execute(update(Conversation).values(customer_id=1))

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
        await room.desk.tickets.holders.give_out(session, now=room.clock())
    before = len(room.channel.sent)
    for _ in range(2):
        await room.sit(anna, lambda seat: seat.take(1))
    assert [message.text for message in room.channel.sent[before:]] == ["Anna has joined the conversation."]
    async with room.sessions.begin() as session:
        assert [entry.event for entry in await history(session, [1])].count("assigned") == 2, "by the queue, by her"


async def test_a_note_of_whoever_takes_a_ticket_himself_is_kept(room: Desk) -> None:
    anna = await room.join("Anna")
    await room.sit(anna, lambda seat: seat.assign(1, "Anna", "I know him"))
    assert (await room.ticket()).assignee_id == anna.agent_id
    assert [each.text for each in await room.transcript() if each.kind == "note"] == ["→ Anna: I know him"]


async def test_a_colleagues_ticket_is_taken_by_whoever_says_so_and_he_is_told(room: Desk) -> None:
    anna, boris, vera = [await room.join(name) for name in ("Anna", "Boris", "Vera")]
    notices = Notices(tickets=room.desk.tickets, replies=room.desk._replies, clock=room.clock, sessions=room.sessions)
    room.desk.tickets.history.listeners.append(notices.heard)
    async with room.sessions.begin() as session:
        for name in ("Anna", "Boris"):
            await put_agent(session, name, now=room.clock(), langs=["en"], notify=[f"json://127.0.0.1/{name}"])
    await room.sit(boris, lambda seat: seat.take(1))
    with pytest.raises(TicketHeldError) as held:
        await room.sit(anna, lambda seat: seat.take(1))
    assert (held.value.holder, held.value.holder_id) == ("Boris", boris.agent_id)
    with pytest.raises(TicketHeldError):
        await room.sit(anna, lambda seat: seat.assign(1, "Anna"))
    with pytest.raises(TicketHeldError):  # it was somebody else's by the time
        await room.sit(anna, lambda seat: seat.take(1, over=vera.agent_id))
    assert (await room.ticket()).assignee_id == boris.agent_id
    await room.sit(anna, lambda seat: seat.take(1, over=boris.agent_id))
    assert (await room.ticket()).assignee_id == anna.agent_id
    async with room.sessions.begin() as session:
        told = await session.execute(select(Notice.recipient, Notice.event, Notice.text).order_by(Notice.id))
        (recipient, event, text), *more = told.all()
        assert (recipient, event, more) == (f"agent:{boris.agent_id}", "taken_over", [])
        assert "Anna has it now" in text
        audit = await session.scalars(select(AuditEntry).where(AuditEntry.action == "took").order_by(AuditEntry.id))
        assert [(entry.who, entry.details) for entry in audit] == [("Boris", {}), ("Anna", {"before": "Boris"})]


async def test_a_button_in_a_telegram_topic_asks_before_it_takes_a_colleagues_ticket(room: Desk) -> None:
    anna, boris = [await room.join(name) for name in ("Anna", "Boris")]
    acts = Acts(desk=room.desk, lang="en", shop={}, clock=room.clock)
    await room.sit(boris, lambda seat: seat.take(1))
    asked = await room.sit(anna, lambda seat: acts.press(seat, 1, "take", ""))
    assert asked.toast == "It is Boris’s. Take it over?"
    typed = await room.sit(anna, lambda seat: acts.command(seat, 1, "take", ""))
    assert (typed.say, typed.buttons[0]) == (asked.toast, asked.menu[0])
    assert (await room.ticket()).assignee_id == boris.agent_id
    ((label, data),) = asked.menu[0]
    assert label == "Take it over from Boris"
    await room.sit(anna, lambda seat: acts.press(seat, 1, "take", data.split(":")[3]))
    assert (await room.ticket()).assignee_id == anna.agent_id


async def test_the_ticket_of_a_colleague_who_is_off_duty_is_taken_at_once(room: Desk) -> None:
    anna, boris = [await room.join(name) for name in ("Anna", "Boris")]
    await room.sit(boris, lambda seat: seat.take(1))
    async with room.sessions.begin() as session:
        await put_agent(session, "Boris", now=room.clock(), presence=Presence.AWAY)
    await room.sit(anna, lambda seat: seat.take(1))
    assert (await room.ticket()).assignee_id == anna.agent_id


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
    await room.make_one_customer()
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


@pytest.mark.parametrize("act", ["finish", "resolve", "return_to_assistant"])
async def test_nothing_ends_over_words_that_are_not_on_the_screen(room: Desk, act: str) -> None:
    anna = await room.join("Anna")
    await room.act("reply", 1, "Restart it", agent="Anna")
    seen = (await room.sit(anna, lambda seat: seat.look(1))).transcript[-1].id
    await room.hear("but it burns")
    with pytest.raises(UnseenWordsError) as caught:
        await room.sit(anna, lambda seat: getattr(seat, act)(1, seen_id=seen))
    assert (await room.ticket()).status is TicketStatus.OPEN
    await room.sit(anna, lambda seat: getattr(seat, act)(1, seen_id=caught.value.newest_id))
    assert (await room.ticket()).status is not TicketStatus.OPEN


async def test_tickets_of_two_customers_are_not_merged(room: Desk) -> None:
    anna = await room.join("Anna")
    await room.hear("a person please", chat="second")
    with pytest.raises(StrangersError, match="link the customers first"):
        await room.sit(anna, lambda seat: seat.merge(1, 2))
    assert [ticket.status for ticket in await room.tickets()] == [TicketStatus.NEW, TicketStatus.NEW]


async def test_a_mention_opens_another_teams_ticket_to_be_read_and_noted_in_and_no_more(room: Desk) -> None:
    boris, vera, gleb = [await room.join(name) for name in ("Boris", "Vera", "Gleb")]
    vera, gleb = [replace(each, role=Role.AGENT, teams=frozenset({"logistics"})) for each in (vera, gleb)]
    with pytest.raises(TicketNotFoundError):
        await room.sit(vera, lambda seat: seat.look(1))
    await room.sit(boris, lambda seat: seat.note(1, "@Vera: look here"))
    assert (await room.sit(vera, lambda seat: seat.counts()))[View.MENTIONS] == 1
    found = await room.sit(vera, lambda seat: seat.find(Query(view=View.MENTIONS)))
    assert [row.ticket_id for row in found.rows] == [1]
    await room.sit(vera, lambda seat: seat.look(1))
    assert (await room.sit(vera, lambda seat: seat.counts()))[View.MENTIONS] == 0, "she has looked"
    packet = await room.sit(vera, lambda seat: seat.look(1))
    assert packet.transcript[-1].text == "@Vera: look here"
    await room.sit(vera, lambda seat: seat.note(1, "It left this morning"))
    for act in (lambda seat: seat.take(1), lambda seat: seat.resolve(1)):
        with pytest.raises(AccessError):
            await room.sit(vera, act)
    with pytest.raises(TicketNotFoundError):
        await room.sit(gleb, lambda seat: seat.look(1))
    async with room.sessions.begin() as session:
        rows = await session.scalars(select(AuditEntry).order_by(AuditEntry.id))
        lines = [(row.who, row.action, row.details) for row in rows]
    assert lines == [("Boris", "noted", {"mentions": "Vera"}), ("Vera", "saw", {}), ("Vera", "noted", {})]


async def test_a_mention_opens_a_ticket_until_a_week_after_its_end(room: Desk) -> None:
    boris, vera = await room.join("Boris"), await room.join("Vera")
    vera = replace(vera, role=Role.AGENT, teams=frozenset({"logistics"}))
    await room.sit(boris, lambda seat: seat.note(1, "@Vera: look here"))
    await room.sit(boris, lambda seat: seat.resolve(1))
    room.clock.ahead += timedelta(days=6, hours=23)
    assert (await room.sit(vera, lambda seat: seat.counts()))[View.MENTIONS] == 1
    await room.sit(vera, lambda seat: seat.refresh(1))
    room.clock.ahead += timedelta(hours=2)
    assert (await room.sit(vera, lambda seat: seat.counts()))[View.MENTIONS] == 0
    assert (await room.sit(vera, lambda seat: seat.find(Query(view=View.MENTIONS)))).rows == []
    for act in (lambda seat: seat.look(1), lambda seat: seat.note(1, "Sorry, only now")):
        with pytest.raises(TicketNotFoundError):
            await room.sit(vera, act)
    await room.sit(boris, lambda seat: seat.reopen(1))
    await room.sit(vera, lambda seat: seat.look(1))


async def test_a_customers_words_in_a_merged_ticket_call_nobody(room: Desk) -> None:
    boris, vera = await room.join("Boris"), await room.join("Vera")
    await room.hear("@Vera where is my order", chat="second")
    await room.hear("a person please", chat="second")
    await room.make_one_customer()
    await room.sit(boris, lambda seat: seat.merge(2, 1))
    assert "No. 2 goes on as No. 1" in room.channel.sent[-1].text
    assert (await room.sit(vera, lambda seat: seat.counts()))[View.MENTIONS] == 0


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
