"""Shadow mode: the assistant drafts, a person sends, and what becomes of the drafts is counted."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from desk_harness import Agent, Customer, newest_ticket, ticket_of, transcript, wait_until
from site_harness import ARTICLES, Running, Site, running
from sqlalchemy import select

from bot.models.records import DraftFate
from bot.models.shadow import TopicDrafts, drafts_by_topic, fate_of, switch
from handoff.access import Role
from handoff.records import Author, Message, Reason

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("sent", "fate"),
    [
        ("Within 14 days\n of receipt.", DraftFate.UNCHANGED),
        ("Hello Anna! Within 14 days of receipt, as a rule.", DraftFate.EDITED),
        ("Please send us a photo of the box.", DraftFate.DISCARDED),
    ],
)
def test_a_draft_is_sent_as_it_is_or_edited_or_discarded(sent: str, fate: DraftFate) -> None:
    assert fate_of("Within 14 days of receipt.", sent) is fate


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Running]:
    with running(lambda: Site(tmp_path, gather_seconds=0.0)) as server:
        yield server


def figures(server: Running) -> TopicDrafts:
    async def read() -> TopicDrafts:
        async with server.site.sessions.begin() as session:
            return (await drafts_by_topic(session, ["orders"]))[0]

    return server.call(read())


def answers(server: Running) -> int:
    """How often the assistant itself has given the article."""

    async def read() -> int:
        async with server.site.sessions.begin() as session:
            query = select(Message.text).where(Message.author == Author.ASSISTANT, Message.text.contains("My orders"))
            return len((await session.scalars(query)).all())

    return server.call(read())


def test_for_a_topic_in_shadow_mode_a_person_gets_the_answer_to_send(server: Running) -> None:
    async def on(value: bool) -> None:
        async with server.site.sessions.begin() as session:
            await switch(session, "orders", on=value, by="Vera", at=NOW)

    server.call(on(True))
    customer, anna = Customer(server), Agent(server, "Anna", Role.SUPERVISOR)
    customer.says("where is my order")
    wait_until(lambda: newest_ticket(server) > 0)
    number = newest_ticket(server)
    said = [message.text for message in transcript(server, number) if message.author is Author.ASSISTANT]
    assert not any("My orders" in text for text in said)
    ticket = ticket_of(server, number)
    assert (ticket.reason, ticket.topic) == (Reason.SHADOW, "orders")
    assert figures(server).waiting == 1

    page = anna.get(f"/tickets/{number}/draft").text
    assert page.index("The assistant would have answered this") < page.index("order-status".capitalize()[:5])
    anna.send_at_once()
    assert anna.reply(number, ARTICLES["order-status"]).status_code == 200
    settled = figures(server)
    assert (settled.waiting, settled.unchanged.count, settled.settled) == (0, 1, 1)
    assert not settled.ready
    assert anna.reply(number, "Anything else?").status_code == 200
    assert figures(server) == settled, "only the first answer settles it"

    server.call(on(False))
    Customer(server).says("where is my order")
    wait_until(lambda: answers(server) == 1)
    assert newest_ticket(server) == number
