"""What people do with tickets: every move checked, recorded and clocked, on a real database and a moved clock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import replace
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import TypeVar
from zoneinfo import ZoneInfo

import pytest
from databases import Postgres
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from bot.database import migrate, open_database
from handoff import desk
from handoff.alarms import Alarm, raise_clocks
from handoff.clocks import ClockKind, Target
from handoff.errors import AgentNotFoundError, HoldDateError, OwnershipError, TicketStateError, UnansweredError
from handoff.history import history
from handoff.hours import Interval, WorkingHours
from handoff.lifecycle import TicketStatus
from handoff.policy import Promise, load_policy
from handoff.records import ClockRow, Conversation, Customer, Delivery, Feedback, Owner, Presence, Reason, Ticket
from handoff.routing import load_topics, route
from handoff.staff import get_agent, put_agent
from handoff.tickets import Tickets, forget_agent

T = TypeVar("T")
DATA = Path(__file__).parents[2] / "data"
MOSCOW = ZoneInfo("Europe/Moscow")
TOPICS = load_topics(DATA / "topics.yml")
TICKETS = Tickets(load_policy(DATA / "desk.yml", WorkingHours()), TOPICS)


class Room:
    """A database, a clock, and the shortest words for what happens at a desk."""

    def __init__(self, session: AsyncSession) -> None:
        self.session = session
        self.now = datetime(2026, 11, 23, 12, 0, tzinfo=MOSCOW)

    def later(self, **time: float) -> datetime:
        self.now += timedelta(**time)
        return self.now

    async def conversation(self, chat: str = "1", *, segment: str | None = None, lang: str = "ru") -> Conversation:
        found = await desk.open_conversation(self.session, channel="site", account="", chat_id=chat, now=self.now)
        found.lang = lang
        if segment:
            customer = Customer(segment=segment, note="", created_at=self.now)
            self.session.add(customer)
            await self.session.flush()
            found.customer_id = customer.id
        return found

    async def ticket(self, text: str = "где мой заказ", chat: str = "1", **conversation: str) -> Ticket:
        return await TICKETS.hand_off(
            self.session,
            await self.conversation(chat, **conversation),
            reason=Reason.LOW_CONFIDENCE,
            route=route(TOPICS, None, [text]),
            texts=[text],
            now=self.now,
        )

    async def owner(self, ticket: Ticket) -> Owner:
        return (await desk.get_conversation(self.session, ticket.conversation_id)).owner

    async def clock(self, ticket: Ticket, kind: ClockKind) -> ClockRow:
        return await self.session.get_one(ClockRow, (ticket.id, kind))

    async def events(self, ticket: Ticket) -> list[str]:
        return [entry.event for entry in await history(self.session, [ticket.id])]


@pytest.fixture
async def room(make_database: Callable[[], str]) -> AsyncIterator[Room]:
    engine, sessions = open_database(make_database())
    await migrate(engine)
    async with sessions() as session:
        yield Room(session)
    await engine.dispose()


async def test_a_handoff_makes_a_ticket_with_its_clocks_and_its_history(room: Room) -> None:
    ticket = await room.ticket("деньги списали дважды, срочно!")
    assert (ticket.status, ticket.topic, ticket.priority) == (TicketStatus.NEW, "payment", "urgent")
    assert ticket.promised_at == room.now + timedelta(minutes=5)
    assert (await room.clock(ticket, ClockKind.FIRST_RESPONSE)).due_at == room.now + timedelta(minutes=5)
    assert (await room.clock(ticket, ClockKind.RESOLUTION)).due_at == room.now + timedelta(hours=2)
    assert await room.events(ticket) == ["created"]
    assert await room.owner(ticket) is Owner.PERSON


async def test_a_conversation_that_a_person_has_is_not_handed_over_again(room: Room) -> None:
    await room.ticket()
    with pytest.raises(OwnershipError):
        await room.ticket()


async def test_an_answer_waits_for_the_customer_and_his_word_for_an_answer(room: Room) -> None:
    ticket = await room.ticket()
    await TICKETS.reply(room.session, ticket, "Проверяю", agent="Anna", now=room.later(minutes=3))
    assert ticket.status is TicketStatus.WAITING
    assert ticket.first_reply_at == room.now
    assert (await room.clock(ticket, ClockKind.FIRST_RESPONSE)).done_at == room.now
    conversation = await room.conversation()
    assert await TICKETS.customer_wrote(room.session, conversation, now=room.later(hours=1)) is ticket
    assert TicketStatus(ticket.status) is TicketStatus.OPEN
    assert (await room.clock(ticket, ClockKind.NEXT_RESPONSE)).due_at == room.now + timedelta(minutes=30)
    assert (await room.clock(ticket, ClockKind.RESOLUTION)).used_seconds == 180


async def test_whoever_answers_what_nobody_has_has_it(room: Room) -> None:
    anna = await put_agent(room.session, "Anna", now=room.now, teams=["payments"])
    ticket = await room.ticket()
    await TICKETS.reply(room.session, ticket, "Добрый день", agent="Anna", now=room.now)
    assert ticket.assignee_id == anna.id


async def test_an_ended_ticket_gives_the_conversation_back_and_forgets_the_episode(room: Room) -> None:
    ticket = await room.ticket()
    epoch = (await room.conversation()).epoch
    conversation = await TICKETS.resolve(room.session, ticket, agent="Anna", now=room.later(minutes=1))
    assert (conversation.owner, conversation.epoch, conversation.state) == (
        Owner.ASSISTANT,
        epoch + 1,
        {"greeted": True},
    )
    assert await TICKETS.customer_wrote(room.session, conversation, now=room.now) is None
    with pytest.raises(TicketStateError, match="can't be answered"):
        await TICKETS.reply(room.session, ticket, "Ещё", agent="Anna", now=room.now)
    again = await room.ticket("другой вопрос про доставку")
    assert again.id != ticket.id, "a new question is a new ticket"


async def test_no_reopens_and_goes_to_a_senior_but_only_while_nothing_else_is_live(room: Room) -> None:
    anna = await put_agent(room.session, "Anna", now=room.now, teams=["first-line"])
    ticket = await room.ticket()
    await TICKETS.assign(room.session, ticket, anna.id, actor="Olga", now=room.now)
    await TICKETS.reply(room.session, ticket, "Sent again", agent="Anna", now=room.later(minutes=5))
    await TICKETS.finish(room.session, ticket, agent="Anna", now=room.now)
    assert ticket.status is TicketStatus.AWAITING_FEEDBACK
    assert (await room.clock(ticket, ClockKind.RESOLUTION)).done_at == room.now
    await TICKETS.give_feedback(room.session, ticket, Feedback.NOT_HELPED, now=room.later(hours=1))
    assert (ticket.status, ticket.level, ticket.reopened) == (TicketStatus.OPEN, "L2", 1)
    assert ticket.assignee_id == anna.id, "there is no senior"
    await TICKETS.resolve(room.session, ticket, agent="Olga", now=room.later(hours=1))
    await TICKETS.give_feedback(room.session, ticket, Feedback.NOT_HELPED, now=room.later(hours=1))
    assert await room.owner(ticket) is Owner.PERSON
    await TICKETS.resolve(room.session, ticket, agent="Olga", now=room.now)
    await room.ticket("новый вопрос")
    with pytest.raises(TicketStateError, match="is live"):
        await TICKETS.reopen(room.session, ticket, agent="Olga", now=room.now)


async def test_yes_is_a_confirmed_end(room: Room) -> None:
    ticket = await room.ticket()
    with pytest.raises(UnansweredError, match="nobody has answered"):
        await TICKETS.finish(room.session, ticket, agent="Anna", now=room.now)
    await TICKETS.reply(room.session, ticket, "Sent again", agent="Anna", now=room.now)
    await TICKETS.finish(room.session, ticket, agent="Anna", now=room.later(minutes=5))
    await TICKETS.give_feedback(room.session, ticket, Feedback.HELPED, now=room.later(hours=1))
    assert (ticket.status, ticket.feedback) == (TicketStatus.RESOLVED, Feedback.HELPED)
    assert await room.owner(ticket) is Owner.ASSISTANT


async def test_a_linked_task_may_take_a_year(room: Room) -> None:
    ticket = await room.ticket()
    other = await room.ticket(chat="2")
    await TICKETS.hold(room.session, ticket, task="DEV-17", until=None, agent="Anna", now=room.now)
    assert await TICKETS.task_done(room.session, "DEV-99", now=room.now) == []
    assert await TICKETS.task_done(room.session, "DEV-17", now=room.later(days=365)) == [ticket]
    assert (ticket.status, ticket.hold_task) == (TicketStatus.OPEN, None)
    assert (await room.clock(ticket, ClockKind.RESOLUTION)).used_seconds == 0
    assert other.status is TicketStatus.NEW


async def test_what_a_customer_writes_on_hold_opens_the_ticket_and_the_task_stays_linked(room: Room) -> None:
    ticket = await room.ticket()
    await TICKETS.reply(room.session, ticket, "Передам разработчикам", agent="Anna", now=room.now)
    await TICKETS.hold(room.session, ticket, task="DEV-17", until=None, agent="Anna", now=room.now)
    await TICKETS.customer_wrote(room.session, await room.conversation(), now=room.later(days=30))
    assert (ticket.status, ticket.hold_task) == (TicketStatus.OPEN, "DEV-17")
    assert (await room.clock(ticket, ClockKind.NEXT_RESPONSE)).running_since == room.now
    await TICKETS.reply(room.session, ticket, "Ещё в работе", agent="Anna", now=room.later(minutes=5))
    assert await TICKETS.task_done(room.session, "DEV-17", now=room.later(days=60)) == [ticket]
    assert (TicketStatus(ticket.status), ticket.hold_task) == (TicketStatus.OPEN, None)
    assert await TICKETS.task_done(room.session, "DEV-17", now=room.now) == [], "once"
    with pytest.raises(TicketStateError, match="can't be resumed"):
        await TICKETS.resume(room.session, ticket, actor="Anna", now=room.now)


async def test_a_hold_before_anybody_answered_is_raised_and_goes_to_whoever_is_there(room: Room) -> None:
    await put_agent(room.session, "Anna", now=room.now, teams=["first-line"])
    ticket = await room.ticket()
    await TICKETS.holders.give_out(room.session, now=room.now)
    await TICKETS.hold(room.session, ticket, task="DEV-17", until=None, agent="Anna", now=room.now)
    boris = await put_agent(room.session, "Boris", now=room.now, teams=["first-line"])
    await put_agent(room.session, "Anna", now=room.now, presence=Presence.OFFLINE)
    assert await TICKETS.holders.give_out(room.session, now=room.later(minutes=11)) == {ticket.id: boris.id}
    (raised,) = await raise_clocks(room.session, TICKETS, now=room.now)
    assert (raised.kind, ticket.status) == (ClockKind.FIRST_RESPONSE, TicketStatus.ON_HOLD)


async def test_a_hold_ends_by_itself_when_its_time_is_up(room: Room) -> None:
    ticket = await room.ticket()
    until = room.now + timedelta(days=2)
    await TICKETS.hold(room.session, ticket, task="call back", until=until, agent="Anna", now=room.now)
    assert await TICKETS.wake_held(room.session, now=room.later(days=1)) == []
    assert await TICKETS.wake_held(room.session, now=room.later(days=1)) == [ticket]
    assert (ticket.status, ticket.hold_task, ticket.hold_until) == (TicketStatus.OPEN, "call back", None)
    await TICKETS.reply(room.session, ticket, "Ещё чиним", agent="Anna", now=room.now)
    assert await TICKETS.task_done(room.session, " Call Back ", now=room.later(days=20)) == [ticket], "still linked"


async def test_the_day_of_a_hold_ends_with_the_ticket_and_does_not_wake_what_is_reopened(room: Room) -> None:
    ticket = await room.ticket()
    await TICKETS.reply(room.session, ticket, "Узнаю", agent="Anna", now=room.now)
    until = room.now + timedelta(days=2)
    await TICKETS.hold(room.session, ticket, task="DEV-17", until=until, agent="Anna", now=room.now)
    await TICKETS.resolve(room.session, ticket, agent="Anna", now=room.later(days=1))
    await TICKETS.give_feedback(room.session, ticket, Feedback.NOT_HELPED, now=room.later(days=2))
    assert await TICKETS.wake_held(room.session, now=room.now) == [], "the customer would hear of a hold long over"
    assert ticket.hold_task == "DEV-17"


async def test_a_hold_ends_on_a_working_day_that_is_to_come(room: Room) -> None:
    ticket = await room.ticket("товар сломался, гарантия")
    assert ticket.team == "service", "Monday to Friday, from nine"
    with pytest.raises(HoldDateError, match="2026-11-22 is past"):
        await TICKETS.hold(
            room.session, ticket, task="DEV-1", until=room.now - timedelta(days=1), agent="Anna", now=room.now
        )
    assert ticket.status is TicketStatus.NEW
    saturday = datetime(2026, 11, 28, 12, 0, tzinfo=MOSCOW)
    await TICKETS.hold(room.session, ticket, task="DEV-1", until=saturday, agent="Anna", now=room.now)
    assert ticket.hold_until == datetime(2026, 11, 30, 9, 0, tzinfo=MOSCOW)


async def test_an_answer_keeps_the_task_and_not_the_day(room: Room) -> None:
    ticket = await room.ticket()
    until = room.now + timedelta(days=2)
    await TICKETS.hold(room.session, ticket, task="DEV-1", until=until, agent="Anna", now=room.now)
    await TICKETS.customer_wrote(room.session, await room.conversation(), now=room.now)
    await TICKETS.reply(room.session, ticket, "Уже готово", agent="Anna", now=room.now)
    assert (ticket.hold_task, ticket.hold_until) == ("DEV-1", None)


async def test_a_transfer_leaves_a_note_and_comes_back_only_where_nobody_else_is(room: Room) -> None:
    anna = await put_agent(room.session, "Anna", now=room.now, teams=["first-line", "logistics"])
    ticket = await room.ticket()
    await TICKETS.holders.give_out(room.session, now=room.now)
    assert ticket.assignee_id == anna.id
    note = await TICKETS.transfer(
        room.session, ticket, "delivery", why="курьер потерял адрес", agent="Anna", now=room.later(minutes=2)
    )
    assert note.text == "→ Доставка: курьер потерял адрес"
    assert (ticket.topic, ticket.team, ticket.routed_by) == ("delivery", "logistics", "agent")
    assert (await room.events(ticket))[-2:] == ["unassigned", "transferred"]
    boris = await put_agent(room.session, "Boris", now=room.now, teams=["logistics"], presence=Presence.AWAY)
    assert await TICKETS.holders.give_out(room.session, now=room.now) == {ticket.id: anna.id}, "rather than nobody"
    await TICKETS.assign(room.session, ticket, None, actor="Olga", now=room.now)
    boris.presence = Presence.ONLINE
    assert await TICKETS.holders.give_out(room.session, now=room.now) == {ticket.id: boris.id}, "she gave it away"


async def test_what_another_team_gives_back_is_for_whoever_gave_it_there(room: Room) -> None:
    anna = await put_agent(room.session, "Anna", now=room.now, teams=["first-line"])
    boris = await put_agent(room.session, "Boris", now=room.now, teams=["payments"])
    ticket = await room.ticket()
    for receiver, topic, giver in ((boris, "payment", "Anna"), (anna, "orders", "Boris"), (boris, "payment", "Anna")):
        await TICKETS.holders.give_out(room.session, now=room.now)
        await TICKETS.transfer(room.session, ticket, topic, why="не наше", agent=giver, now=room.later(minutes=1))
        assert await TICKETS.holders.give_out(room.session, now=room.now) == {ticket.id: receiver.id}
    assert ticket.given_away == [anna.id]


async def test_an_escalation_has_what_its_template_asks_for(room: Room) -> None:
    ticket = await room.ticket()
    note = await TICKETS.escalate(
        room.session, ticket, details="перезагрузили, не помогло", urgency="high", agent="Anna", now=room.now
    )
    assert note.decision is not None
    assert note.decision["escalated"] == {
        "to": "first-line L2",
        "subject": "где мой заказ",
        "details": "перезагрузили, не помогло",
        "contact": "site:1",
        "urgency": "high",
    }
    assert (ticket.level, ticket.priority) == ("L2", "high")


async def test_an_escalation_names_every_way_to_the_customer(room: Room) -> None:
    ticket = await room.ticket()
    conversation = await desk.get_conversation(room.session, ticket.conversation_id)
    customer = await desk.customer_of(room.session, conversation, room.now)
    customer.phone, customer.email = "+79160000001", "anna@example.org"
    note = await TICKETS.escalate(room.session, ticket, details="", urgency="", agent="Anna", now=room.now)
    assert note.decision is not None
    assert note.decision["escalated"]["contact"] == "+79160000001, anna@example.org, site:1"


async def test_what_was_answered_and_is_passed_on_waits_for_the_other_team(room: Room) -> None:
    boris = await put_agent(room.session, "Boris", now=room.now, teams=["payments"])
    ticket = await room.ticket()
    await TICKETS.reply(room.session, ticket, "Передаю платежам", agent="Anna", now=room.later(minutes=2))
    await TICKETS.transfer(room.session, ticket, "payment", why="списали", agent="Anna", now=room.later(minutes=1))
    assert ticket.status is TicketStatus.OPEN
    assert (await room.clock(ticket, ClockKind.NEXT_RESPONSE)).due_at == room.now + timedelta(minutes=30)
    assert await TICKETS.holders.give_out(room.session, now=room.now) == {ticket.id: boris.id}


async def test_an_escalation_that_is_urgent_has_the_times_of_its_new_priority(room: Room) -> None:
    ticket = await room.ticket()
    await TICKETS.escalate(room.session, ticket, details="искрит", urgency="high", agent="Anna", now=room.now)
    assert (await room.clock(ticket, ClockKind.RESOLUTION)).target_seconds == 4 * 3600


async def test_a_level_of_which_nobody_is_there_is_not_waited_for(room: Room) -> None:
    anna = await put_agent(room.session, "Anna", now=room.now, teams=["payments"])
    ticket = await room.ticket("двойное списание с карты")
    assert (ticket.team, ticket.level) == ("payments", "L2")
    assert await TICKETS.holders.give_out(room.session, now=room.now) == {ticket.id: anna.id}
    olga = await put_agent(room.session, "Olga", now=room.now, teams=["payments"], level="L2", presence=Presence.AWAY)
    await TICKETS.assign(room.session, ticket, None, actor="Anna", now=room.now)
    assert await TICKETS.holders.give_out(room.session, now=room.now) == {ticket.id: anna.id}, "whoever is there"
    await put_agent(room.session, "Olga", now=room.now, presence=Presence.ONLINE)
    assert await TICKETS.holders.give_out(room.session, now=room.now) == {ticket.id: olga.id}, "whose level it asks for"
    assert await TICKETS.holders.give_out(room.session, now=room.now) == {}


@pytest.mark.parametrize("act", ["reply", "assign"])
async def test_what_was_answered_or_given_by_hand_is_not_taken_away_for_a_senior(room: Room, act: str) -> None:
    anna = await put_agent(room.session, "Anna", now=room.now, teams=["payments"])
    olga = await put_agent(room.session, "Olga", now=room.now, teams=["payments"], level="L2", presence=Presence.AWAY)
    ticket = await room.ticket("двойное списание с карты")
    await TICKETS.holders.give_out(room.session, now=room.now)
    if act == "reply":
        await TICKETS.reply(room.session, ticket, "Проверяю", agent="Anna", now=room.now)
        await TICKETS.customer_wrote(room.session, await room.conversation(), now=room.later(minutes=1))
    else:
        await TICKETS.assign(room.session, ticket, anna.id, actor="Olga", now=room.now)
    olga.presence = Presence.ONLINE
    assert await TICKETS.holders.give_out(room.session, now=room.now) == {}
    assert ticket.assignee_id == anna.id


async def test_a_team_without_agents_has_another_stand_in(room: Room) -> None:
    nobody = await room.ticket("двойное списание с карты", chat="before")
    assert nobody.team == "payments", "there is nobody anywhere"
    anna = await put_agent(room.session, "Anna", now=room.now, teams=["first-line"])
    ticket = await room.ticket("двойное списание с карты")
    assert (ticket.topic, ticket.team) == ("payment", "first-line"), "whose the default topic is"
    assert await TICKETS.holders.give_out(room.session, now=room.now) == {nobody.id: anna.id, ticket.id: anna.id}
    assert (await room.events(nobody))[-2:] == ["changed", "assigned"]
    boris = await put_agent(room.session, "Boris", now=room.now, teams=["logistics"])
    delivery = await room.ticket("где курьер с доставкой", chat="2")
    assert delivery.team == "logistics"
    await forget_agent(room.session, boris, TICKETS, actor="Olga", now=room.now)
    assert await TICKETS.holders.give_out(room.session, now=room.now) == {delivery.id: anna.id}
    assert delivery.team == "first-line", "which stands above it"
    await TICKETS.transfer(room.session, delivery, "payment", why="деньги", agent="Olga", now=room.now)
    assert delivery.team == "first-line"


async def escalated(room: Room, ticket: Ticket) -> list[str]:
    """Half an hour with nobody answering; the levels to which the ticket was raised."""
    for _ in range(30):
        await raise_clocks(room.session, TICKETS, now=room.later(minutes=1))
        await TICKETS.holders.give_out(room.session, now=room.now)
    entries = await history(room.session, [ticket.id])
    return [entry.details["level"] for entry in entries if entry.event == "escalated"]


@pytest.mark.parametrize("senior", [("L2", "first-line"), ("supervisor", "first-line"), ("L3", "service")])
async def test_a_breach_takes_nothing_from_who_is_there_before_a_senior_is(room: Room, senior: tuple[str, str]) -> None:
    level, team = senior
    anna = await put_agent(room.session, "Anna", now=room.now, teams=["first-line"])
    olga = await put_agent(room.session, "Olga", now=room.now, teams=[team], level=level, presence=Presence.AWAY)
    ticket = await room.ticket()
    await TICKETS.holders.give_out(room.session, now=room.now)
    assert await escalated(room, ticket) == ["L2", "L3", "supervisor"]
    assert (ticket.assignee_id, ticket.team) == (anna.id, "first-line")
    olga.presence = Presence.ONLINE
    assert await TICKETS.holders.give_out(room.session, now=room.later(minutes=1)) == {ticket.id: olga.id}
    assert ticket.team == team


async def test_a_breach_gives_it_at_once_to_a_senior_who_is_there(room: Room) -> None:
    await put_agent(room.session, "Anna", now=room.now, teams=["first-line"])
    full = await put_agent(room.session, "Full", now=room.now, teams=["first-line"], level="L2", capacity=0)
    olga = await put_agent(room.session, "Olga", now=room.now, teams=["service"], level="L2")
    ticket = await room.ticket()
    await TICKETS.holders.give_out(room.session, now=room.now)
    assert await escalated(room, ticket) == ["L2", "L3", "supervisor"]
    assert (ticket.assignee_id, ticket.team, full.level) == (olga.id, "service", "L2")


async def test_without_a_senior_an_escalation_goes_to_the_team_above(room: Room) -> None:
    await put_agent(room.session, "Anna", now=room.now, teams=["first-line"])
    olga = await put_agent(room.session, "Olga", now=room.now, teams=["service"], level="L2")
    ticket = await room.ticket()
    await TICKETS.holders.give_out(room.session, now=room.now)
    note = await TICKETS.escalate(room.session, ticket, details="нет", urgency="low", agent="Anna", now=room.now)
    assert note.decision is not None
    assert note.decision["escalated"]["to"] == "service L2"
    assert await TICKETS.holders.give_out(room.session, now=room.later(hours=3)) == {ticket.id: olga.id}
    assert ticket.topic == "orders", "whoever takes it, it is about the same"


@pytest.mark.parametrize("team", ["first-line", "service"])
async def test_what_a_senior_escalates_goes_to_another_one(room: Room, team: str) -> None:
    olga = await put_agent(room.session, "Olga", now=room.now, teams=["first-line"], level="L2")
    ticket = await room.ticket()
    await TICKETS.holders.give_out(room.session, now=room.now)
    assert (ticket.assignee_id, ticket.level) == (olga.id, "L1")
    ivan = await put_agent(room.session, "Ivan", now=room.now, teams=[team], level="L2")
    await TICKETS.escalate(room.session, ticket, details="нет", urgency="low", agent="Olga", now=room.now)
    assert (ticket.assignee_id, ticket.level, ticket.team) == (None, "L2", team)
    assert await TICKETS.holders.give_out(room.session, now=room.now) == {ticket.id: ivan.id}


async def test_a_lead_who_escalates_takes_nothing_from_who_is_of_that_level(room: Room) -> None:
    olga = await put_agent(room.session, "Olga", now=room.now, teams=["first-line"], level="L2")
    await put_agent(room.session, "Lead", now=room.now, teams=["first-line"], level="L3")
    ticket = await room.ticket()
    await TICKETS.holders.give_out(room.session, now=room.now)
    await TICKETS.escalate(room.session, ticket, details="нет", urgency="low", agent="Lead", now=room.now)
    assert (ticket.assignee_id, ticket.level) == (olga.id, "L2")


async def test_nobody_above_leaves_an_escalation_with_its_team(room: Room) -> None:
    for name in ("Anna", "Boris"):
        await put_agent(room.session, name, now=room.now, teams=["first-line"])
    ticket = await room.ticket()
    await TICKETS.holders.give_out(room.session, now=room.now)
    await TICKETS.escalate(room.session, ticket, details="нет", urgency="low", agent="Anna", now=room.now)
    assert (ticket.team, ticket.assignee_id) == ("first-line", None)
    assert list(await TICKETS.holders.give_out(room.session, now=room.now)) == [ticket.id]


class Race:
    """Two processes at one PostgreSQL: what a rival does is not committed yet when ours begins, and is soon after."""

    def __init__(self, ours: AsyncSession, rival: AsyncSession) -> None:
        self.room, self.rival = Room(ours), rival

    async def his(self, ticket: Ticket) -> Ticket:
        """The ticket as the rival has it; what was done before is known to him."""
        await self.room.session.commit()
        return await desk.get_ticket(self.rival, ticket.id)

    async def meets(self, act: Coroutine[None, None, T]) -> T:
        """What comes of an act that has to wait for what the rival has done."""
        task = asyncio.create_task(act)
        while not await self.rival.scalar(text("SELECT count(*) FROM pg_locks WHERE NOT granted")):
            assert not task.done(), "it has not waited"
            await asyncio.sleep(0.01)
        await self.rival.commit()
        return await task


@pytest.fixture
async def race(postgres: Postgres) -> AsyncIterator[Race]:
    engine, sessions = open_database(postgres.database())
    async with sessions() as ours, sessions() as rival:
        yield Race(ours, rival)
    await engine.dispose()


async def test_what_goes_to_another_team_meanwhile_is_not_given_out_in_the_old_one(race: Race) -> None:
    room = race.room
    await put_agent(room.session, "Anna", now=room.now, teams=["first-line"])
    boris = await put_agent(room.session, "Boris", now=room.now, teams=["payments"])
    ticket = await room.ticket()
    await TICKETS.transfer(race.rival, await race.his(ticket), "payment", why="деньги", agent="Olga", now=room.now)
    assert await race.meets(TICKETS.holders.give_out(room.session, now=room.now)) == {}
    assert await TICKETS.holders.give_out(room.session, now=room.now) == {ticket.id: boris.id}


async def test_what_goes_to_another_team_meanwhile_is_not_drawn_to_a_senior_of_the_old_one(race: Race) -> None:
    room = race.room
    anna = await put_agent(room.session, "Anna", now=room.now, teams=["first-line", "payments"])
    await put_agent(room.session, "Olga", now=room.now, teams=["first-line"], level="L2")
    ticket = await room.ticket()
    ticket.level, ticket.assignee_id = "L2", anna.id
    his = await race.his(ticket)
    await TICKETS.transfer(race.rival, his, "payment", why="деньги", agent="Eva", now=room.now)
    await TICKETS.assign(race.rival, his, anna.id, actor="Eva", now=room.now)
    assert await race.meets(TICKETS.holders.give_out(room.session, now=room.now)) == {}
    assert (ticket.team, ticket.assignee_id) == ("payments", anna.id)


async def test_what_is_given_back_meanwhile_still_knows_whom_it_prefers(race: Race) -> None:
    room = race.room
    anna = await put_agent(room.session, "Anna", now=room.now, teams=["first-line"])
    await put_agent(room.session, "Boris", now=room.now, teams=["first-line"])
    absent = await put_agent(room.session, "Eva", now=room.now, teams=["first-line"], presence=Presence.OFFLINE)
    await room.ticket(chat="2")
    await TICKETS.holders.give_out(room.session, now=room.now)
    ticket = await room.ticket()
    ticket.assignee_id, ticket.preferred_id = absent.id, anna.id
    await TICKETS.assign(race.rival, await race.his(ticket), None, actor="Eva", now=room.now)
    assert await race.meets(TICKETS.holders.give_out(room.session, now=room.now)) == {ticket.id: anna.id}


async def test_what_a_colleague_takes_from_who_leaves_stays_his(race: Race) -> None:
    room = race.room
    eva = await put_agent(room.session, "Eva", now=room.now, teams=["first-line"])
    anna = await put_agent(room.session, "Anna", now=room.now, teams=["first-line"])
    taken, ended, left = [await room.ticket(chat=str(number)) for number in range(3)]
    for ticket in (taken, ended, left):
        ticket.assignee_id = eva.id
    await TICKETS.assign(race.rival, await race.his(taken), anna.id, actor="Anna", now=room.now)
    await TICKETS.resolve(race.rival, await race.his(ended), agent="Anna", now=room.now)
    await race.meets(forget_agent(room.session, eva, TICKETS, actor="Olga", now=room.now))
    assert [taken.assignee_id, ended.assignee_id, left.assignee_id] == [anna.id, eva.id, None]


async def test_a_task_that_is_taken_off_meanwhile_opens_nothing(race: Race) -> None:
    room = race.room
    ticket = await room.ticket()
    await TICKETS.hold(room.session, ticket, task="DEV-17", until=None, agent="Anna", now=room.now)
    his = await race.his(ticket)
    await TICKETS.resume(race.rival, his, actor="Anna", now=room.now)
    await TICKETS.hold(race.rival, his, task="DEV-18", until=None, agent="Anna", now=room.now)
    assert await race.meets(TICKETS.task_done(room.session, "DEV-17", now=room.now)) == []
    assert (ticket.status, ticket.hold_task) == (TicketStatus.ON_HOLD, "DEV-18")


async def test_a_changed_priority_moves_the_deadline_from_what_was_used(room: Room) -> None:
    ticket = await room.ticket()
    begin = room.now
    await TICKETS.change(room.session, ticket, priority="urgent", complexity=2, agent="Anna", now=room.later(minutes=2))
    assert (await room.clock(ticket, ClockKind.FIRST_RESPONSE)).due_at == begin + timedelta(minutes=5)
    assert (ticket.priority, ticket.complexity) == ("urgent", 2)


class TestAssignment:
    async def test_what_waits_is_given_out_oldest_first_and_evenly(self, room: Room) -> None:
        anna = await put_agent(room.session, "Anna", now=room.now, teams=["first-line"], capacity=2)
        boris = await put_agent(room.session, "Boris", now=room.now, teams=["first-line"], capacity=2)
        tickets = []
        for n in range(5):
            tickets.append(await room.ticket(chat=str(n)))
            room.later(minutes=1)
        given = await TICKETS.holders.give_out(room.session, now=room.now)
        assert [given.get(ticket.id) for ticket in tickets] == [anna.id, boris.id, anna.id, boris.id, None]

    async def test_a_presence_set_by_hand_ends_with_the_shift(self, room: Room) -> None:
        fields = {"teams": ["first-line"], "presence": Presence.ONLINE}
        anna = await put_agent(room.session, "Anna", now=room.now, **fields)
        nina = await put_agent(room.session, "Nina", now=room.now, **{**fields, "presence": Presence.OFFLINE})
        ticket = await room.ticket()
        room.later(hours=11)  # 23:00
        assert await TICKETS.holders.give_out(room.session, now=room.now) == {}
        await room.session.refresh(anna)
        assert anna.presence is Presence.AUTO
        await put_agent(room.session, "Anna", now=room.now, presence=Presence.AWAY)
        assert await TICKETS.holders.give_out(room.session, now=room.later(hours=11)) == {ticket.id: anna.id}
        await room.session.refresh(nina)
        assert nina.presence is Presence.OFFLINE, "until it is changed"

    async def test_the_place_in_the_queue_is_where_it_is_given_out(self, room: Room) -> None:
        made = {}
        for number, priority in enumerate(("low", "urgent", "normal", "high", "normal", "low", "urgent")):
            ticket = made[f"{number} {priority}"] = await room.ticket(chat=str(number))
            await TICKETS.change(room.session, ticket, priority=priority, agent="Olga", now=room.now)
            room.later(seconds=0 if number == 2 else 1)
        places = {name: await TICKETS.holders.place(room.session, ticket) for name, ticket in made.items()}
        assert sorted(places, key=places.__getitem__) == [
            *("1 urgent", "6 urgent", "3 high", "2 normal", "4 normal", "0 low", "5 low")
        ]
        assert sorted(places.values()) == [1, 2, 3, 4, 5, 6, 7]
        await put_agent(room.session, "Anna", now=room.now, teams=["first-line"], capacity=3)
        given = await TICKETS.holders.give_out(room.session, now=room.now)
        assert given.keys() == {made[name].id for name in ("1 urgent", "6 urgent", "3 high")}

    async def test_what_is_late_is_not_passed_by_for_ever(self, room: Room) -> None:
        late = await room.ticket(chat="late")
        await TICKETS.change(room.session, late, priority="low", agent="Olga", now=room.now)
        room.later(days=1)
        for _ in range(2):
            await raise_clocks(room.session, TICKETS, now=room.now)
        urgent = await room.ticket("где мой заказ, срочно", chat="urgent")
        assert [await TICKETS.holders.place(room.session, each) for each in (late, urgent)] == [1, 2]
        anna = await put_agent(room.session, "Anna", now=room.now, teams=["first-line"], capacity=1)
        assert await TICKETS.holders.give_out(room.session, now=room.now) == {late.id: anna.id}

    async def test_nobody_who_is_off_duty_keeps_a_ticket(self, room: Room) -> None:
        anna = await put_agent(room.session, "Anna", now=room.now, teams=["first-line"], schedule="office")
        night = await put_agent(
            room.session, "Nina", now=room.now, teams=["first-line"], schedule="around-the-clock", capacity=1
        )
        night.presence = Presence.OFFLINE
        ticket, quiet = await room.ticket(), await room.ticket(chat="2")
        await TICKETS.holders.give_out(room.session, now=room.now)
        await TICKETS.reply(room.session, quiet, "Жду вашего ответа", agent="Anna", now=room.now)
        assert {ticket.assignee_id, quiet.assignee_id} == {anna.id}
        night.presence = Presence.AUTO
        await TICKETS.holders.give_out(room.session, now=room.later(hours=8))  # 20:00
        assert ticket.assignee_id == night.id
        assert quiet.assignee_id == anna.id, "nobody has to act on it"
        await TICKETS.customer_wrote(room.session, await room.conversation("2"), now=room.now)
        await TICKETS.holders.give_out(room.session, now=room.now)
        assert quiet.assignee_id is None, "it waits for the first who is there"
        await TICKETS.holders.give_out(room.session, now=room.later(hours=14))  # 10:00 of the next day
        assert quiet.assignee_id == anna.id, "who knows it already"

    async def test_nobody_is_an_error_with_a_remedy(self, room: Room) -> None:
        ticket = await room.ticket()
        with pytest.raises(AgentNotFoundError, match="otvet agents list"):
            await TICKETS.assign(room.session, ticket, 99, actor="Anna", now=room.now)
        anna = await put_agent(room.session, "Anna", now=room.now, active=False)
        with pytest.raises(AgentNotFoundError):
            await get_agent(room.session, anna.id)


class TestAlarms:
    async def test_each_is_raised_once_along_the_levels(self, room: Room) -> None:
        ticket = await room.ticket()  # orders: 10 minutes to the first response
        raised = []
        for _ in range(60):
            raised += [
                (alarm.alarm, alarm.level, int((room.now - ticket.created_at).total_seconds()) // 60)
                for alarm in await raise_clocks(room.session, TICKETS, now=room.now)
                if alarm.kind is ClockKind.FIRST_RESPONSE
            ]
            room.later(minutes=1)
        assert raised == [
            (Alarm.WARNING, "L1", 8),
            (Alarm.BREACH, "L1", 10),
            (Alarm.ESCALATION, "L2", 15),
            (Alarm.ESCALATION, "L3", 20),
            (Alarm.ESCALATION, "supervisor", 25),
        ]

    async def test_under_a_longer_promise_it_is_told_anew(self, room: Room) -> None:
        ticket = await room.ticket()  # orders: 10 minutes to the first response, of an urgent one 5
        await TICKETS.change(room.session, ticket, priority="urgent", agent="Anna", now=room.now)
        told = []
        for minute in range(1, 11):
            if minute == 6:
                await TICKETS.change(room.session, ticket, priority="normal", agent="Anna", now=room.now)
            told += [
                (alarm.alarm, minute)
                for alarm in await raise_clocks(room.session, TICKETS, now=room.later(minutes=1))
                if alarm.kind is ClockKind.FIRST_RESPONSE
            ]
        assert told == [(Alarm.WARNING, 4), (Alarm.BREACH, 5), (Alarm.WARNING, 8), (Alarm.BREACH, 10)]

    async def test_who_answers_in_time_hears_nothing(self, room: Room) -> None:
        ticket = await room.ticket()
        await TICKETS.reply(room.session, ticket, "Добрый день", agent="Anna", now=room.later(minutes=5))
        assert await raise_clocks(room.session, TICKETS, now=room.later(days=30)) == []

    async def test_the_night_breaches_nothing(self, room: Room) -> None:
        room.now = datetime(2026, 11, 23, 20, 55, tzinfo=MOSCOW)
        await room.ticket()
        assert await raise_clocks(room.session, TICKETS, now=room.later(hours=11)) == []  # 7:55 in the morning
        assert len(await raise_clocks(room.session, TICKETS, now=room.later(hours=1, minutes=9))) == 1

    async def test_a_weekend_made_free_on_friday_evening_breaches_nothing(self, room: Room) -> None:
        room.now = datetime(2026, 11, 27, 20, 51, tzinfo=MOSCOW)  # a Friday; due on Saturday at 9:01
        ticket = await room.ticket()
        await raise_clocks(room.session, TICKETS, now=room.later(minutes=8))
        since = len(await room.events(ticket))
        days = {day: (Interval(time(9), time(21)),) for day in range(5)}
        policy = TICKETS.policy
        changed = Tickets(replace(policy, schedules={**policy.schedules, "default": WorkingHours(days)}), TOPICS)
        await raise_clocks(room.session, changed, now=room.later(hours=14))
        assert len(await room.events(ticket)) == since
        due_at = (await room.clock(ticket, ClockKind.FIRST_RESPONSE)).due_at
        assert due_at == datetime(2026, 11, 30, 9, 1, tzinfo=MOSCOW)
        raised = await raise_clocks(room.session, changed, now=datetime(2026, 11, 30, 9, 2, tzinfo=MOSCOW))
        assert [each.alarm for each in raised] == [Alarm.BREACH]

    async def test_a_changed_desk_leaves_what_was_used_and_counts_the_rest_anew(self, room: Room) -> None:
        room.now = datetime(2026, 11, 27, 20, 55, tzinfo=MOSCOW)  # a Friday; 12 working hours to the end
        ticket = await room.ticket()
        policy = TICKETS.policy
        week = dict.fromkeys(range(7), (Interval(time(0), time(0)),))
        hours = {**policy.schedules, "default": WorkingHours(week, exceptions={date(2026, 12, 1): ()}, country="RU")}
        before, after = (Tickets(each, TOPICS) for each in (policy, replace(policy, schedules=hours, promises=())))
        assert await before.clocks.follow_policy(room.session, now=room.now) == 0, "nothing is known of what was before"
        await room.session.commit()
        room.now = datetime(2026, 11, 29, 23, 0, tzinfo=MOSCOW)  # five minutes, and twice twelve hours
        assert await after.clocks.follow_policy(room.session, now=room.now) == 1
        row = await room.clock(ticket, ClockKind.RESOLUTION)
        assert timedelta(seconds=row.used_seconds) == timedelta(hours=24, minutes=5), "and not some fifty"
        row = await room.clock(ticket, ClockKind.FIRST_RESPONSE)
        assert (row.target_seconds, row.running_since) == (600, room.now)
        await room.session.rollback()
        assert await after.clocks.follow_policy(room.session, now=room.now) == 1, "what was not written was not done"
        await room.session.commit()
        assert await after.clocks.follow_policy(room.session, now=room.now) == 0, "once"
        assert await Tickets(after.policy, TOPICS).clocks.follow_policy(room.session, now=room.now) == 0, "as it was"
        assert await Tickets(policy, TOPICS).clocks.follow_policy(room.session, now=room.later(hours=1)) == 1
        assert (await room.clock(ticket, ClockKind.RESOLUTION)).used_seconds == 25 * 3600 + 300

    async def test_a_kept_promise_stays_kept_and_the_next_question_has_that_of_its_priority(self, room: Room) -> None:
        ticket = await room.ticket()  # orders: 10 minutes to the first response, of an urgent one 5
        await TICKETS.reply(room.session, ticket, "Проверяю", agent="Anna", now=room.later(minutes=8))
        await TICKETS.customer_wrote(room.session, await room.conversation(), now=room.now)
        await TICKETS.reply(room.session, ticket, "Нашла", agent="Anna", now=room.later(minutes=20))
        await TICKETS.change(room.session, ticket, priority="urgent", agent="Anna", now=room.now)
        first = await room.clock(ticket, ClockKind.FIRST_RESPONSE)
        following = await room.clock(ticket, ClockKind.NEXT_RESPONSE)
        assert (first.target_seconds, first.used_seconds) == (600, 480)
        assert (following.target_seconds, following.used_seconds) == (1800, 1200)
        await TICKETS.customer_wrote(room.session, await room.conversation(), now=room.now)
        assert (following.target_seconds, following.due_at) == (900, room.now + timedelta(minutes=15))

    async def test_what_waits_while_the_desk_changes_has_the_new_promises_when_it_goes_on(self, room: Room) -> None:
        ticket = await room.ticket()
        await TICKETS.reply(room.session, ticket, "Проверяю", agent="Anna", now=room.later(minutes=5))
        promises = (Promise(Target(timedelta(minutes=10), timedelta(hours=2), timedelta(hours=3))),)
        changed = Tickets(replace(TICKETS.policy, promises=promises), TOPICS)
        await changed.clocks.follow_policy(room.session, now=room.now)
        await changed.customer_wrote(room.session, await room.conversation(), now=room.later(hours=1))
        clock = await room.clock(ticket, ClockKind.RESOLUTION)
        assert (clock.target_seconds, clock.used_seconds) == (3 * 3600, 300)

    async def test_a_reply_that_does_not_arrive_has_the_promise_of_by_now(self, room: Room) -> None:
        ticket = await room.ticket()
        begin = room.now
        message = await TICKETS.reply(room.session, ticket, "Проверяю", agent="Anna", now=room.later(minutes=2))
        await TICKETS.change(room.session, ticket, priority="urgent", agent="Anna", now=room.now)
        message.delivery = Delivery.FAILED
        await TICKETS.not_delivered(room.session, ticket, message, now=room.later(minutes=1))
        clock = await room.clock(ticket, ClockKind.FIRST_RESPONSE)
        assert (clock.done_at, clock.due_at) == (None, begin + timedelta(minutes=5))

    async def test_a_vip_has_his_own_times(self, room: Room) -> None:
        ticket = await room.ticket(segment="vip")
        assert ticket.priority == "high"
        assert (await room.clock(ticket, ClockKind.RESOLUTION)).target_seconds == 4 * 3600
