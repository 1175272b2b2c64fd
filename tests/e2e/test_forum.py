"""The Telegram desk over HTTP, against a stand-in that enforces Telegram's limits."""

from __future__ import annotations

from pathlib import Path

import pytest
from bot_api import text_update
from forum_world import GROUP, ForumWorld, at_work

from handoff.lifecycle import TicketStatus

pytestmark = pytest.mark.e2e

CUSTOMER = 7


async def handed_off(world: ForumWorld, *, customer: int = CUSTOMER, number: int = 1, update: int = 1) -> int:
    """A customer asks for a person; the topic of his ticket."""
    await world.forum_api.put(text_update(update, "my order never came, a person please", customer))
    await world.when(lambda: any(t.title.startswith(f"№ {number} ") for t in world.group.topics.values()))
    thread = world.group.topic_of(number)
    await world.when(lambda: world.said(thread))
    return thread


async def test_a_customer_is_answered_from_a_topic_and_his_no_brings_the_ticket_back(tmp_path: Path) -> None:
    async with at_work(tmp_path) as world:
        thread = await handed_off(world)
        card = world.said(thread)[0]
        assert "my order never came" in card.text
        assert "Анна" in card.text
        assert {"Take", "Resolve", "Macros"} <= set(card.buttons)
        assert world.group.topics[thread].title == "№ 1 · new · my order never came, a person please"

        reply = await world.forum_api.says(GROUP, thread, "It is **on** its way, Anna")
        await world.when(lambda: any("on its way" in text.replace("**", "") for text in world.got(CUSTOMER)))
        assert world.group.messages[reply].reaction == "👌"
        assert (await world.ticket()).status is TicketStatus.WAITING
        await world.when(lambda: "waiting" in world.group.topics[thread].title)

        await world.forum_api.put(text_update(2, "when exactly?"))
        await world.when(lambda: any("when exactly?" in each.text for each in world.said(thread)))

        await world.forum_api.presses(GROUP, card, "Finish")
        await world.when(lambda: "asked" in world.group.topics[thread].title)
        world.clock.advance(3 * 3600)
        await world.when(lambda: world.survey_buttons(CUSTOMER))
        no = world.survey_buttons(CUSTOMER)[-1]
        press = {
            "id": "c1",
            "from": {"id": CUSTOMER, "is_bot": False, "first_name": "Анна", "language_code": "en"},
            "chat_instance": "1",
            "data": no,
            "message": {"message_id": 9, "date": 1, "chat": {"id": CUSTOMER, "type": "private"}},
        }
        await world.forum_api.put({"update_id": 900, "callback_query": press})
        await world.when(lambda: any("did not help" in each.text for each in world.said(thread)))
        assert (await world.ticket()).status is TicketStatus.OPEN

        said = [each.text for each in world.said(thread)]
        assert sum("on its way" in text for text in said) == 0  # what was written there is not repeated there
        assert world.forum_api.violations == []
