"""One person over several channels: what joins conversations, what only suggests it, and how it is undone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from databases import MakeDatabase
from sqlalchemy import select
from test_agent_desk import Story

from bot.channels.telegram_updates import parse as parse_telegram
from bot.channels.whatsapp_updates import Received
from bot.channels.whatsapp_updates import parse as parse_whatsapp
from bot.database import migrate
from handoff import desk
from handoff.clocks import ClockKind
from handoff.customers import Suggestion, Way, list_customers
from handoff.errors import CustomerError, TicketStateError
from handoff.packet import Packet
from handoff.records import Contact, ContactKind, Conversation, Customer, HistoryEntry, Owner, Ticket

PHONE = "+79161234567"
NOW = datetime(2027, 3, 1, 9, tzinfo=UTC)


class People(Story):
    async def customer(self, conversation_id: int) -> int | None:
        async with self.sessions.begin() as session:
            return (await desk.get_conversation(session, conversation_id)).customer_id

    async def packet(self, ticket_id: int) -> Packet:
        async with self.sessions.begin() as session:
            return await self.desk.packet(session, ticket_id)

    async def link(self, into: int, other: int) -> None:
        async with self.sessions.begin() as session:
            await self.desk.customers.link(session, into, other, actor="Anna", now=self.clock())

    async def unlink(self, conversation: int) -> None:
        async with self.sessions.begin() as session:
            await self.desk.customers.unlink(session, conversation, actor="Anna", now=self.clock())

    async def change(self, customer: int, **fields: Any) -> None:
        async with self.sessions.begin() as session:
            await self.desk.customers.change(session, customer, actor="Anna", now=self.clock(), **fields)

    async def suggestions(self, customer: int) -> list[Suggestion]:
        async with self.sessions.begin() as session:
            return await self.desk.customers.suggestions(session, customer)

    async def ways(self, ticket_id: int) -> list[Way]:
        async with self.sessions.begin() as session:
            return await self.desk.ways(session, ticket_id)

    async def events(self, ticket_id: int) -> list[str]:
        async with self.sessions.begin() as session:
            rows = await session.scalars(select(HistoryEntry.event).where(HistoryEntry.ticket_id == ticket_id))
            return list(rows)


@pytest.fixture
async def people(tmp_path: Path, make_database: MakeDatabase) -> AsyncIterator[People]:
    made = People(tmp_path, database=make_database())
    await migrate(made.engine)
    made.clock.ahead = NOW - datetime.now(UTC)
    yield made
    await made.engine.dispose()


async def test_a_number_that_both_platforms_vouch_for_joins_two_channels(people: People) -> None:
    await people.hear("where is my order", chat="wa", phone=PHONE)
    await people.hear("a person please", chat="tg")
    await people.hear("my contact", chat="tg", phone=PHONE, key="contact")
    assert await people.customer(1) == await people.customer(2)
    card = (await people.packet(1)).customer
    assert [row.chat_id for row in card.conversations] == ["wa", "tg"]
    assert (card.phone, card.suggestions) == (PHONE, [])
    assert [(row.value, row.verified) for row in card.contacts] == [(PHONE, True), (PHONE, True)]
    assert "linked" in await people.events(1)


async def test_the_card_has_earlier_tickets_of_every_channel(people: People) -> None:
    await people.hear("a person please", chat="wa", phone=PHONE)
    await people.act("resolve", 1, agent="Anna")
    await people.hear("a person please", chat="tg", phone=PHONE)
    card = (await people.packet(2)).customer
    assert [(row.ticket_id, row.conversation_id) for row in card.tickets] == [(1, 1)]


async def test_a_number_that_was_only_typed_suggests_and_joins_nobody(people: People) -> None:
    await people.hear("a person please", chat="wa", phone=PHONE)
    await people.hear("call me at 8 (916) 123-45-67", chat="site")
    await people.hear("a person please", chat="site")
    assert await people.customer(1) != await people.customer(2)
    assert await people.suggestions(2) == [Suggestion(1, None, ContactKind.PHONE, PHONE)]
    assert [row.customer_id for row in (await people.packet(2)).customer.suggestions] == [1]


async def test_an_e_mail_that_two_have_typed_is_a_suggestion_until_somebody_says_no(people: People) -> None:
    for chat in ("a", "b"):
        await people.hear("a person please", chat=chat)
        await people.hear("my mail is Ivan@Example.com", chat=chat)
    (found,) = await people.suggestions(1)
    assert (found.customer_id, found.kind, found.value) == (2, "email", "ivan@example.com")
    await people.link(1, 2)
    await people.unlink(2)
    assert await people.suggestions(1) == await people.suggestions(2) == []


async def test_what_was_joined_wrongly_is_taken_apart_and_stays_so(people: People) -> None:
    await people.hear("a person please", chat="wa", phone=PHONE)
    await people.hear("a person please", chat="tg", phone=PHONE)
    assert await people.customer(2) == 1
    await people.unlink(2)
    assert await people.customer(2) == 2
    await people.hear("again", chat="tg", phone=PHONE, key="again")
    assert await people.customer(2) == 2
    assert "unlinked" in await people.events(1)
    assert "unlinked" in await people.events(2)


async def test_with_several_owners_of_a_number_a_person_decides(people: People) -> None:
    await people.hear("hello", chat="one", phone=PHONE)
    await people.hear("hello", chat="two", phone=PHONE, key="two")
    await people.unlink(2)
    await people.hear("hello", chat="three", phone=PHONE, key="three")
    third = await people.customer(3)
    assert third is not None
    assert third not in (await people.customer(1), await people.customer(2))
    assert {found.customer_id for found in await people.suggestions(third)} == {1, 2}


async def test_a_number_that_was_given_up_joins_nobody_any_more(people: People) -> None:
    await people.hear("hello", chat="one", phone=PHONE)
    await people.hear("I have a new number", chat="one", phone="+79990000000", key="new")
    await people.hear("hello", chat="stranger", phone=PHONE, key="stranger")
    assert await people.customer(1) != await people.customer(2)


async def test_two_conversations_that_prove_a_number_at_once_are_joined(people: People) -> None:
    messages = [people.message("hello", chat=chat, phone=PHONE, key=chat) for chat in ("a", "b", "c")]
    for message in messages:
        await people.assistant.receive(message)
    await people.assistant.drain()
    assert len({await people.customer(n) for n in (1, 2, 3)}) == 1


async def test_linking_by_hand_fills_what_is_not_known_and_undoing_takes_it_back(people: People) -> None:
    await people.hear("a person please", chat="a")
    await people.hear("a person please", chat="b")
    await people.change(1, name="Ivan")
    await people.change(2, name="Vanya", segment="vip", email="ivan@example.com")
    await people.link(1, 2)
    async with people.sessions.begin() as session:
        joined = await session.get_one(Customer, 1)
        assert (joined.name, joined.segment, joined.email) == ("Ivan", "vip", "ivan@example.com")
        assert [customer.id for customer in await list_customers(session)] == [1]
        tickets = list(await session.scalars(select(Ticket).order_by(Ticket.id)))
        assert [(ticket.segment, ticket.priority) for ticket in tickets] == [("vip", "high")] * 2
    await people.unlink(2)
    async with people.sessions.begin() as session:
        apart = await session.get_one(Customer, 1)
        assert (apart.name, apart.segment, apart.email) == ("Ivan", None, None)
        assert (await session.get_one(Customer, 2)).segment == "vip"
        segments = list(await session.scalars(select(Ticket.segment).order_by(Ticket.id)))
        assert segments == [None, "vip"]


async def test_a_conversation_that_nobody_linked_can_be_taken_out_too(people: People) -> None:
    await people.hear("a person please", chat="a")
    await people.hear("a person please", chat="b")
    await people.link(2, 1)
    await people.unlink(2)
    assert await people.customer(1) == 2
    assert await people.customer(2) == 3
    with pytest.raises(CustomerError, match="only one"):
        await people.unlink(2)


async def test_a_customer_cannot_be_linked_twice_or_to_himself(people: People) -> None:
    await people.hear("a person please", chat="a")
    await people.hear("a person please", chat="b")
    await people.link(1, 2)
    with pytest.raises(CustomerError, match="linked already"):
        await people.link(1, 2)
    with pytest.raises(CustomerError, match="himself"):
        await people.link(1, 1)


async def test_a_segment_changes_what_live_tickets_were_promised(people: People) -> None:
    await people.hear("a person please", chat="a")
    before = {clock.kind: clock.target_seconds for clock in (await people.packet(1)).clocks}
    await people.change(1, segment="vip")
    packet = await people.packet(1)
    assert (packet.segment, packet.priority) == ("vip", "high")
    assert {clock.kind: clock.target_seconds for clock in packet.clocks}[ClockKind.FIRST_RESPONSE] == 300
    assert before[ClockKind.FIRST_RESPONSE] > 300
    with pytest.raises(CustomerError, match="no segment gold"):
        await people.change(1, segment="gold")
    with pytest.raises(CustomerError, match="no phone"):
        await people.change(1, phone="one two three")


async def test_the_language_that_an_agent_sets_is_the_one_of_the_ticket(people: People) -> None:
    await people.hear("a person please", chat="a")
    await people.change(1, lang="ru")
    assert (await people.packet(1)).lang == "ru"
    (said,) = await people.act("resolve", 1, agent="Anna")
    assert "обращени" in said.lower()


async def test_a_customer_is_answered_in_his_other_channel(people: People) -> None:
    await people.hear("where is my order", chat="tg", phone=PHONE)
    await people.hear("a person please", chat="wa", phone=PHONE)
    (way,) = await people.ways(1)
    assert (way.chat_id, way.open, way.failed, way.ticket_id) == ("tg", True, False, None)
    hello, words = await people.act("reply_elsewhere", 1, way.conversation_id, "It is on its way", agent="Anna")
    assert "No. 1" in hello
    assert words == "It is on its way"
    async with people.sessions.begin() as session:
        owners = {row.chat_id: row.owner for row in await session.scalars(select(Conversation))}
    assert owners == {"tg": Owner.PERSON, "wa": Owner.ASSISTANT}
    assert await people.hear("thank you", chat="tg") == [], "a person has it there now"
    packet = await people.packet(1)
    assert [m.text for m in packet.transcript if m.author == "customer"] == [
        "where is my order",
        "a person please",
        "thank you",
    ]
    assert {message.conversation_id for message in packet.transcript} == {1, 2}
    assert packet.history[-1].event == "customer_wrote"
    assert "moved" in [line.event for line in packet.history]


async def test_a_ticket_does_not_move_to_a_stranger_or_onto_another_ticket(people: People) -> None:
    await people.hear("a person please", chat="a", phone=PHONE)
    await people.hear("hello", chat="stranger")
    with pytest.raises(CustomerError, match="link them first"):
        await people.act("reply_elsewhere", 1, 2, "hi", agent="Anna")
    await people.hear("a person please", chat="b", phone=PHONE)
    assert [way.ticket_id for way in await people.ways(1)] == [2]
    with pytest.raises(TicketStateError, match="ticket 2 is live"):
        await people.act("reply_elsewhere", 1, 3, "hi", agent="Anna")
    assert (await people.packet(1)).conversation.id == 1


async def test_what_was_typed_before_the_handoff_is_known_too(people: People) -> None:
    await people.hear("a person please, write to me at ivan@example.com", chat="a")
    async with people.sessions.begin() as session:
        (contact,) = await session.scalars(select(Contact))
    assert (contact.kind, contact.value, contact.verified) == ("email", "ivan@example.com", False)


def card(user_id: int | None, **more: object) -> dict[str, Any]:
    contact = {"phone_number": "7 916 123-45-67", "first_name": "Ivan", "user_id": user_id}
    message = {
        "message_id": 5,
        "date": 1_800_000_000,
        "chat": {"id": 77, "type": "private"},
        "from": {"id": 77, "first_name": "Ivan"},
        "contact": contact,
    }
    return {"update_id": 1, "message": message | more}


@pytest.mark.parametrize(
    ("update", "phone"),
    [
        (card(77), PHONE),
        (card(78), None),
        (card(None), None),
        (card(77, forward_origin={"type": "hidden_user", "date": 1, "sender_user_name": "x"}), None),
    ],
)
def test_of_a_telegram_contact_only_the_senders_own_counts(update: dict[str, Any], phone: str | None) -> None:
    message = parse_telegram(update, account="", now=NOW)
    assert message is not None
    assert message.phone == phone


def test_whatsapp_vouches_for_the_number_that_it_writes_from() -> None:
    value = {
        "metadata": {"phone_number_id": "1"},
        "contacts": [{"wa_id": "79161234567", "profile": {"name": "Ivan"}}],
        "messages": [
            {"from": "79161234567", "id": "w", "timestamp": "1800000000", "type": "text", "text": {"body": "hi"}}
        ],
    }
    payload = {"entry": [{"changes": [{"field": "messages", "value": value}]}]}
    (event,) = [event for event in parse_whatsapp(payload, now=NOW) if isinstance(event, Received)]
    assert event.message.phone == PHONE
