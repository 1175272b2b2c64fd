"""What people do with tickets: every move checked, recorded and clocked, on a real database and a moved clock."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from bot.database import migrate, open_database
from handoff import desk
from handoff.clocks import ClockKind
from handoff.errors import AgentNotFoundError, OwnershipError, TicketStateError
from handoff.hours import WorkingHours
from handoff.lifecycle import TicketStatus
from handoff.policy import load_policy
from handoff.records import ClockRow, Conversation, Customer, Feedback, Owner, Presence, Reason, Ticket
from handoff.routing import load_topics, route
from handoff.tickets import Alarm, Tickets, get_agent, history, put_agent

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
    await TICKETS.finish(room.session, ticket, agent="Anna", now=room.later(minutes=5))
    assert ticket.status is TicketStatus.AWAITING_FEEDBACK
    assert (await room.clock(ticket, ClockKind.RESOLUTION)).done_at == room.now
    await TICKETS.give_feedback(room.session, ticket, Feedback.NOT_HELPED, now=room.later(hours=1))
    assert (ticket.status, ticket.level, ticket.reopened) == (TicketStatus.OPEN, "L2", 1)
    assert ticket.assignee_id is None, "Anna is no senior"
    await TICKETS.resolve(room.session, ticket, agent="Olga", now=room.later(hours=1))
    await TICKETS.give_feedback(room.session, ticket, Feedback.NOT_HELPED, now=room.later(hours=1))
    assert await room.owner(ticket) is Owner.PERSON
    await TICKETS.resolve(room.session, ticket, agent="Olga", now=room.now)
    await room.ticket("новый вопрос")
    with pytest.raises(TicketStateError, match="is live"):
        await TICKETS.reopen(room.session, ticket, agent="Olga", now=room.now)


async def test_yes_is_a_confirmed_end(room: Room) -> None:
    ticket = await room.ticket()
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


async def test_a_hold_ends_by_itself_when_its_time_is_up(room: Room) -> None:
    ticket = await room.ticket()
    until = room.now + timedelta(days=2)
    await TICKETS.hold(room.session, ticket, task="call back", until=until, agent="Anna", now=room.now)
    assert await TICKETS.wake_held(room.session, now=room.later(days=1)) == []
    assert await TICKETS.wake_held(room.session, now=room.later(days=1)) == [ticket]


async def test_a_transfer_leaves_a_note_and_does_not_come_back(room: Room) -> None:
    anna = await put_agent(room.session, "Anna", now=room.now, teams=["first-line", "logistics"])
    ticket = await room.ticket()
    await TICKETS.give_out(room.session, now=room.now)
    assert ticket.assignee_id == anna.id
    note = await TICKETS.transfer(
        room.session, ticket, "delivery", why="курьер потерял адрес", agent="Anna", now=room.later(minutes=2)
    )
    assert note.text == "→ Доставка: курьер потерял адрес"
    assert (ticket.topic, ticket.team, ticket.routed_by) == ("delivery", "logistics", "agent")
    assert await TICKETS.give_out(room.session, now=room.now) == {}, "she gave it away"
    assert (await room.events(ticket))[-2:] == ["unassigned", "transferred"]


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


async def test_what_was_answered_and_is_passed_on_waits_for_the_other_team(room: Room) -> None:
    boris = await put_agent(room.session, "Boris", now=room.now, teams=["payments"])
    ticket = await room.ticket()
    await TICKETS.reply(room.session, ticket, "Передаю платежам", agent="Anna", now=room.later(minutes=2))
    await TICKETS.transfer(room.session, ticket, "payment", why="списали", agent="Anna", now=room.later(minutes=1))
    assert ticket.status is TicketStatus.OPEN
    assert (await room.clock(ticket, ClockKind.NEXT_RESPONSE)).due_at == room.now + timedelta(minutes=30)
    assert await TICKETS.give_out(room.session, now=room.now) == {ticket.id: boris.id}


async def test_an_escalation_that_is_urgent_has_the_times_of_its_new_priority(room: Room) -> None:
    ticket = await room.ticket()
    await TICKETS.escalate(room.session, ticket, details="искрит", urgency="high", agent="Anna", now=room.now)
    assert (await room.clock(ticket, ClockKind.RESOLUTION)).target_seconds == 4 * 3600


async def test_a_level_that_nobody_in_the_team_has_is_not_waited_for(room: Room) -> None:
    anna = await put_agent(room.session, "Anna", now=room.now, teams=["payments"])
    ticket = await room.ticket("двойное списание с карты")
    assert (ticket.team, ticket.level) == ("payments", "L2")
    assert await TICKETS.give_out(room.session, now=room.now) == {ticket.id: anna.id}
    olga = await put_agent(room.session, "Olga", now=room.now, teams=["payments"], level="L2", presence=Presence.AWAY)
    await TICKETS.assign(room.session, ticket, None, actor="Anna", now=room.now)
    assert await TICKETS.give_out(room.session, now=room.now) == {}, "there is a senior, who comes back"
    await put_agent(room.session, "Olga", now=room.now, presence=Presence.ONLINE)
    assert await TICKETS.give_out(room.session, now=room.now) == {ticket.id: olga.id}


async def test_without_a_senior_an_escalation_goes_to_the_team_above(room: Room) -> None:
    await put_agent(room.session, "Anna", now=room.now, teams=["first-line"])
    olga = await put_agent(room.session, "Olga", now=room.now, teams=["service"], level="L2")
    ticket = await room.ticket()
    await TICKETS.give_out(room.session, now=room.now)
    note = await TICKETS.escalate(room.session, ticket, details="нет", urgency="low", agent="Anna", now=room.now)
    assert note.decision is not None
    assert note.decision["escalated"]["to"] == "service L2"
    assert await TICKETS.give_out(room.session, now=room.later(hours=3)) == {ticket.id: olga.id}
    assert ticket.topic == "orders", "whoever takes it, it is about the same"


async def test_nobody_above_leaves_an_escalation_with_its_team(room: Room) -> None:
    for name in ("Anna", "Boris"):
        await put_agent(room.session, name, now=room.now, teams=["first-line"])
    ticket = await room.ticket()
    await TICKETS.give_out(room.session, now=room.now)
    await TICKETS.escalate(room.session, ticket, details="нет", urgency="low", agent="Anna", now=room.now)
    assert (ticket.team, ticket.assignee_id) == ("first-line", None)
    assert list(await TICKETS.give_out(room.session, now=room.now)) == [ticket.id]


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
        given = await TICKETS.give_out(room.session, now=room.now)
        assert [given.get(ticket.id) for ticket in tickets] == [anna.id, boris.id, anna.id, boris.id, None]

    async def test_nobody_who_is_off_duty_keeps_a_ticket(self, room: Room) -> None:
        anna = await put_agent(room.session, "Anna", now=room.now, teams=["first-line"], schedule="office")
        night = await put_agent(
            room.session, "Nina", now=room.now, teams=["first-line"], schedule="around-the-clock", capacity=1
        )
        night.presence = Presence.OFFLINE
        ticket, quiet = await room.ticket(), await room.ticket(chat="2")
        await TICKETS.give_out(room.session, now=room.now)
        await TICKETS.reply(room.session, quiet, "Жду вашего ответа", agent="Anna", now=room.now)
        assert {ticket.assignee_id, quiet.assignee_id} == {anna.id}
        night.presence = Presence.AUTO
        await TICKETS.give_out(room.session, now=room.later(hours=8))  # 20:00
        assert ticket.assignee_id == night.id
        assert quiet.assignee_id == anna.id, "nobody has to act on it"
        await TICKETS.customer_wrote(room.session, await room.conversation("2"), now=room.now)
        await TICKETS.give_out(room.session, now=room.now)
        assert quiet.assignee_id is None, "it waits for the first who is there"
        await TICKETS.give_out(room.session, now=room.later(hours=14))  # 10:00 of the next day
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
                for alarm in await TICKETS.raise_clocks(room.session, now=room.now)
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
                for alarm in await TICKETS.raise_clocks(room.session, now=room.later(minutes=1))
                if alarm.kind is ClockKind.FIRST_RESPONSE
            ]
        assert told == [(Alarm.WARNING, 4), (Alarm.BREACH, 5), (Alarm.WARNING, 8), (Alarm.BREACH, 10)]

    async def test_who_answers_in_time_hears_nothing(self, room: Room) -> None:
        ticket = await room.ticket()
        await TICKETS.reply(room.session, ticket, "Добрый день", agent="Anna", now=room.later(minutes=5))
        assert await TICKETS.raise_clocks(room.session, now=room.later(days=30)) == []

    async def test_the_night_breaches_nothing(self, room: Room) -> None:
        room.now = datetime(2026, 11, 23, 20, 55, tzinfo=MOSCOW)
        await room.ticket()
        assert await TICKETS.raise_clocks(room.session, now=room.later(hours=11)) == []  # 7:55 in the morning
        assert len(await TICKETS.raise_clocks(room.session, now=room.later(hours=1, minutes=9))) == 1

    async def test_a_vip_has_his_own_times(self, room: Room) -> None:
        ticket = await room.ticket(segment="vip")
        assert ticket.priority == "high"
        assert (await room.clock(ticket, ClockKind.RESOLUTION)).target_seconds == 4 * 3600
