"""A flow over both messengers: started by words, its buttons and pictures, and what it knows handed to a person."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
from bot_api import TOKEN, bot_api, text_update
from graph_api import labels, words
from telegram_harness import TelegramWorld
from whatsapp_harness import whatsapp_world

from handoff.records import Message

pytestmark = pytest.mark.e2e

CHAT = 7
ANNA = "79120000001"
SAID = {
    "please set up my robot, I have an iphone": "Step 1 of 4",
    "it did not help": "What exactly",
    "Something else": "got stuck",
    "The light blinks red": "Ticket",
}


def is_sent(words: str, messages: Sequence[Message]) -> bool:
    return any(words in message.text and message.delivery == "sent" for message in messages)


async def test_over_telegram_a_guide_shows_its_picture_and_buttons_and_ends_at_a_person(tmp_path: Path) -> None:
    async with bot_api(TOKEN) as api:
        world = TelegramWorld(tmp_path, api, flows=True)
        async with world.at_work():
            for number, (said, heard) in enumerate(SAID.items(), 1):
                await api.put(text_update(number, said))
                await world.until(CHAT, partial(is_sent, heard))
            assert any("photo" in sent for sent in api.sent)
            shown = [str(sent.get("reply_markup", "")) for sent in api.sent]
            assert any("Done, next" in each and "It did not help" in each for each in shown)
            (ticket,) = await world.tickets()
            async with world.sessions.begin() as session:
                packet = await world.desk.packet(session, ticket.id)
    assert ticket.topic == "products"
    assert packet.flow is not None
    assert {slot.name: slot.value for slot in packet.flow.slots} == {
        "phone_os": "iPhone",
        "stuck": "The light blinks red",
    }


async def test_over_whatsapp_its_buttons_are_pressed_within_the_platforms_limits(tmp_path: Path) -> None:
    async with whatsapp_world(tmp_path, flows=True) as world:
        graph = world.graph
        await graph.say(ANNA, "please set up my robot, I have an iphone")
        await graph.until(lambda: any("Step 1 of 4" in words(sent) for sent in graph.to(ANNA)))
        guide = graph.to(ANNA)[-1]
        assert labels(guide) == ["Done, next", "It did not help", "Cancel"]
        await graph.press(ANNA, guide, "It did not help")
        await graph.until(lambda: "What exactly" in words(graph.to(ANNA)[-1]))
        assert "Password refused" in labels(graph.to(ANNA)[-1])
        await graph.say(ANNA, "2")
        await graph.until(lambda: "WPA2" in words(graph.to(ANNA)[-1]))
