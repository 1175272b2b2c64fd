"""Many customers at once, through the stand-in for Telegram, which enforces Telegram's limits."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest
from bot_api import TOKEN, BotApi, bot_api, text_update
from telegram_harness import TelegramWorld

from bot.web.webhooks import TELEGRAM_PATH

pytestmark = pytest.mark.e2e

CUSTOMERS = range(1000, 1200)
SECRET = "a-long_word"


async def all_say(api: BotApi, text: str, *, first_id: int, twice: bool) -> None:
    """All at once. twice: some updates come again, as they do by webhook."""
    said = random.sample(CUSTOMERS, len(CUSTOMERS))
    updates = [text_update(number, text, customer) for number, customer in enumerate(said, first_id)]
    await api.put(*updates, *(updates[::7] if twice else ()))


@pytest.mark.parametrize("webhook", [False, True], ids=["polling", "webhook"])
async def test_two_hundred_customers_at_once_are_each_answered_once_in_order_and_no_limit_is_broken(
    webhook: bool, tmp_path: Path
) -> None:
    async with bot_api(TOKEN) as api:
        api.strict = True
        how: dict[str, Any] = {}
        if webhook:
            how = {"webhook_url": f"https://assistant.example{TELEGRAM_PATH}", "webhook_secret": SECRET}
        world = TelegramWorld(tmp_path, api, **how)
        async with world.called(), world.at_work():
            if webhook:
                await api.until(lambda: api.webhook)
            await all_say(api, "where is my order?", first_id=1, twice=webhook)
            await api.until(lambda: len(api.sent) >= 400, 120)
            await all_say(api, "a person please", first_id=1000, twice=webhook)
            await api.until(lambda: len(api.sent) >= 600, 120)
            await asyncio.sleep(1)
            assert len(api.sent) == 600
            for customer in CUSTOMERS:
                greeting, answer, announcement = [sent["text"] for sent in api.sent if sent["chat_id"] == customer]
                assert "klyon.example" in greeting
                assert "My orders" in answer
                assert "Ticket" in announcement
            assert api.violations == []
            assert len(await world.tickets()) == 200
            assert bool(api.polls) is not webhook


async def test_telegram_calls_again_until_an_update_is_stored_and_its_order_holds(tmp_path: Path) -> None:
    async with bot_api(TOKEN) as api:
        world = TelegramWorld(
            tmp_path, api, webhook_url=f"https://assistant.example{TELEGRAM_PATH}", webhook_secret=SECRET
        )
        faults, heard, receive = 3, [], world.assistant.receive

        async def stumbling(message: object) -> bool:
            nonlocal faults
            if faults:
                faults -= 1
                raise ConnectionError
            heard.append(message.text)  # type: ignore[attr-defined]
            return await receive(message)  # type: ignore[arg-type]

        world.assistant.receive = stumbling  # type: ignore[method-assign]
        async with world.called(), world.at_work():
            await api.until(lambda: api.webhook)
            await api.put(
                text_update(1, "where is my order?"),
                text_update(2, "I would like to talk to a person about it, please"),
            )
            await api.until(lambda: len(api.sent) >= 3, 30)
        assert heard == ["where is my order?", "I would like to talk to a person about it, please"]
