"""What the assistant relies on in every channel."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from aiogram.methods import SendMessage
from teremok.session import MockedSession

sys.path.insert(0, str(Path(__file__).parents[1] / "e2e"))

from graph_api import PHONE, TOKEN, graph_api

from bot.attachments import AttachmentStore
from bot.channels.base import Address, Channel, InboundAttachment, InboundMessage, Option, OutboundMessage, fit
from bot.channels.site import SiteChannel
from bot.channels.telegram import TelegramChannel
from bot.channels.terminal import TerminalChannel
from bot.channels.whatsapp import WhatsAppChannel
from bot.errors import DeliveryError

ADDRESS = Address("any", PHONE, "7")
OPTIONS = tuple(Option(f"article:{number}", f"Вариант номер {number}") for number in range(1, 5))


@pytest.fixture(params=["telegram", "terminal", "site", "whatsapp"])
async def channel(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Channel]:
    if request.param == "telegram":
        telegram = TelegramChannel("42:TEST", session=MockedSession())
        yield telegram
        await telegram.close()
    elif request.param == "whatsapp":
        async with graph_api() as graph:
            graph._last["7"] = datetime.now(UTC)  # the customer has just written
            whatsapp = WhatsAppChannel(TOKEN, [PHONE], api_base=graph.base)
            yield whatsapp
            await whatsapp.close()
            assert graph.refused == []
    elif request.param == "terminal":
        yield TerminalChannel(lambda _: None)
    else:
        yield SiteChannel(AttachmentStore(tmp_path, 1000))


class TestEveryChannel:
    def test_has_a_name_and_room_for_a_reply(self, channel: Channel) -> None:
        assert channel.name.isidentifier()
        assert channel.capabilities.max_text_chars >= 1000
        assert channel.capabilities.max_label_chars >= 20

    @pytest.mark.parametrize(
        "text", ["Да", "**Жирно** и [ссылка](https://a.b)\n\n- раз\n- два", "<b> & {{ x }}", "😀" * 9000]
    )
    @pytest.mark.parametrize("agent_name", [None, "Ольга"])
    async def test_takes_every_fitted_message(self, channel: Channel, text: str, agent_name: str | None) -> None:
        author = "agent" if agent_name else "assistant"
        message = OutboundMessage(text, OPTIONS, author=author, agent_name=agent_name)
        for part in fit(message, channel.capabilities):
            sent_id = await channel.send(ADDRESS, part)
            assert sent_id is None or sent_id

    async def test_says_that_a_file_is_gone_and_that_trying_again_is_in_vain(self, channel: Channel) -> None:
        chunks = channel.fetch(InboundAttachment("photo", {}))
        assert inspect.isasyncgen(chunks)
        with pytest.raises(DeliveryError) as caught:
            await anext(chunks)
        assert caught.value.permanent

    async def test_shows_that_an_answer_is_coming_and_never_fails_over_it(self, channel: Channel) -> None:
        await channel.working(ADDRESS, "wamid.1")
        await channel.working(Address("any", "", "nobody"), "")

    async def test_stops_when_it_is_told_to(self, channel: Channel) -> None:
        async def receive(message: InboundMessage) -> bool:
            return True

        task = asyncio.create_task(channel.run(receive))
        await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait_for(task, 5)
        assert task.done()


async def test_a_channel_with_buttons_sends_no_more_of_them_than_it_promised() -> None:
    server = MockedSession()
    telegram = TelegramChannel("42:TEST", session=server)
    many = OutboundMessage("Что из этого?", tuple(Option(str(number), f"№ {number}") for number in range(30)))
    for part in fit(many, telegram.capabilities):
        await telegram.send(ADDRESS, part)
    [sent] = server.requests
    assert isinstance(sent, SendMessage)
    assert sent.reply_markup is None
    assert "30. № 29" in sent.text
    await telegram.close()
