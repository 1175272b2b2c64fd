"""Many customers at once, through the stand-in for Meta."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from graph_api import words
from whatsapp_harness import WhatsAppWorld, whatsapp_world

pytestmark = pytest.mark.e2e


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[WhatsAppWorld]:
    async with whatsapp_world(tmp_path) as made:
        yield made


class TestMany:
    async def test_two_hundred_customers_at_once_are_each_answered_once_in_order_and_no_limit_is_broken(
        self, world: WhatsAppWorld
    ) -> None:
        graph = world.graph
        graph.statuses = ("sent",)
        customers = [f"7912{number:07}" for number in range(200)]

        async def talk(customer: str) -> None:
            await graph.say(customer, "where is my order?")
            await graph.say(customer, "a person please")

        await asyncio.gather(*map(talk, customers))
        await graph.until(lambda: len(graph.sent) >= 600, 180)
        await graph.settle()
        assert len(graph.sent) == 600
        for customer in customers:
            greeting, answer, announcement = map(words, graph.to(customer))
            assert "privacy" in greeting or "klyon.example" in greeting
            assert "My orders" in answer
            assert "Ticket" in announcement
        assert graph.refused == []
        assert len(await world.tickets()) == 200
