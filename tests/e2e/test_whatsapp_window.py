"""With a moved clock, whatever customers and agents do and whenever: no call is made that Meta would refuse for its
window, and every word of an agent arrives, in order, once the customer writes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from graph_api import PHONE, GraphApi, Refused, words
from hypothesis import given, settings
from hypothesis import strategies as st
from site_harness import Clock
from sqlalchemy import select
from whatsapp_harness import WhatsAppWorld

from bot.channels import whatsapp_api
from bot.channels.whatsapp_errors import delivery_error
from handoff.records import Author, Base, Delivery, Message
from handoff.window import reminder_at

ANNA = "79120000001"


class Direct(whatsapp_api.GraphApi):
    """Meta's rules without the network: a property is tried hundreds of times."""

    def __init__(self, graph: GraphApi) -> None:
        self.graph = graph

    async def message(self, account: str, chat_id: str, body: dict[str, Any]) -> str:
        whole = whatsapp_api.envelope(chat_id, body)
        try:
            self.graph._check_message(whole)
        except Refused as refusal:
            self.graph.refused.append((refusal.code, whole))
            raise delivery_error(refusal.code, refusal.details) from refusal
        self.graph.sent.append({**whole, "wamid": f"wamid.OUT{len(self.graph.sent)}"})
        return str(self.graph.sent[-1]["wamid"])

    async def seen(self, account: str, external_id: str, *, typing: bool = True) -> None:
        self.graph.seen.append(external_id)


class Chat(WhatsAppWorld):
    """One customer and the agents, step by step."""

    said = 0

    async def customer(self, *, late_hours: float = 0) -> None:
        """The customer writes; the webhook may arrive hours later."""
        self.said += 1
        written = self.clock()
        self.graph._last[ANNA] = written
        self.clock.advance(late_hours * 3600)
        raw = {"from": ANNA, "id": f"wamid.IN{self.said}", "timestamp": str(int(written.timestamp())), "type": "text"}
        value = {
            "metadata": {"phone_number_id": PHONE},
            "messages": [{**raw, "text": {"body": "a person please"}}],
        }
        await self.record.take(json.dumps({"entry": [{"changes": [{"value": value, "field": "messages"}]}]}).encode())
        await self.assistant.drain()

    async def agent(self, text: str) -> bool:
        tickets = [ticket for ticket in await self.tickets() if ticket.status == "open"]
        if tickets:
            await self.agent_says(tickets[0].id, text)
            await self.assistant.drain()
        return bool(tickets)

    async def wait(self, hours: float) -> None:
        self.clock.advance(hours * 3600)
        await self.timers.fire_due()
        for _ in range(3):
            await self.assistant.drain()
            self.clock.advance(20)


@asynccontextmanager
async def chat() -> AsyncIterator[Chat]:
    with TemporaryDirectory() as folder:
        clock = Clock()
        graph = GraphApi(clock)
        graph.templates = {("ticket_answer", "en"): 2, ("question_answer", "en"): 1}
        made = Chat(Path(folder), graph, clock)
        made.channel._api = Direct(graph)
        async with made.engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        yield made
        await graph.close()
        await made.engine.dispose()


STEPS = st.lists(
    st.sampled_from(["customer", "agent", "late webhook"]) | st.floats(0.01, 30).map(lambda hours: round(hours, 2)),
    max_size=10,
)


@pytest.mark.e2e
@given(STEPS)
@settings(max_examples=25, deadline=None)
def test_nothing_is_sent_that_meta_would_refuse_and_every_word_arrives(steps: list[str | float]) -> None:
    async def play() -> None:
        async with chat() as world:
            await world.customer()
            wanted = []
            for number, step in enumerate(steps):
                if isinstance(step, float):
                    await world.wait(step)
                elif step == "agent" and await world.agent(f"word {number}"):
                    wanted.append(f"*Ольга*\nword {number}")
                elif step != "agent":
                    await world.customer(late_hours=26 if step == "late webhook" else 0)
            await world.wait(0.1)
            await world.customer()
            await world.wait(0.1)
            said = [words(message) for message in world.graph.sent]
            assert [code for code, _ in world.graph.refused] == []
            assert [text for text in said if text.startswith("*Ольга*")] == wanted

    asyncio.run(play())


@pytest.mark.e2e
async def test_a_reaction_is_no_reason_to_ask_the_customer_to_write() -> None:
    async with chat() as world:
        await world.customer()
        await world.wait(25)
        before = len(world.graph.sent)
        async with world.sessions.begin() as session:
            said = await session.scalar(select(Message.id).where(Message.author == Author.CUSTOMER))
            reaction = await world.desk.edits.react(session, 1, said or 0, "👍", agent="Ольга")
        assert reaction is not None
        await world.wait(0.1)
        assert world.graph.sent[before:] == []
        async with world.sessions.reading() as session:
            kept = await session.get_one(Message, reaction.id)
            assert (kept.delivery, kept.delivery_error) == (Delivery.FAILED, "the window is closed")


@pytest.mark.e2e
async def test_whoever_gets_another_number_is_reminded_under_that_one() -> None:
    new = "79120000002"
    async with chat() as world:
        await world.customer()
        world.graph._last[new] = world.clock()
        system = {"body": "A new number", "wa_id": new, "type": "user_changed_number"}
        raw = {"from": ANNA, "id": "wamid.S", "timestamp": "0", "type": "system", "system": system}
        value = {"metadata": {"phone_number_id": PHONE}, "messages": [raw]}
        await world.record.take(json.dumps({"entry": [{"changes": [{"value": value, "field": "messages"}]}]}).encode())
        await world.assistant.drain()
        await world.wait(23.8)
        assert [each["interactive"]["type"] for each in world.graph.to(new)] == ["button"]


@pytest.mark.parametrize(
    ("closing", "reminder"),
    [
        ("2026-11-22 15:00", "2026-11-22 14:00"),
        ("2026-11-22 23:30", "2026-11-22 21:00"),
        ("2026-11-22 03:00", "2026-11-21 21:00"),
        ("2026-11-22 08:30", "2026-11-21 21:00"),
    ],
)
def test_nobody_is_reminded_at_night(closing: str, reminder: str) -> None:
    zone = ZoneInfo("Europe/Moscow")
    at = datetime.fromisoformat(closing).replace(tzinfo=zone).astimezone(UTC)
    assert reminder_at(at, timedelta(hours=1), zone) == datetime.fromisoformat(reminder).replace(tzinfo=zone)
