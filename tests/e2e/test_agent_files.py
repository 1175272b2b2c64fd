"""Agents' files reach customers, in every channel."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from bot_api import TOKEN, bot_api, text_update
from graph_api import PHONE, words
from telegram_harness import TelegramWorld
from whatsapp_harness import whatsapp_world

from bot.channels.base import Address, OutboundAttachment, OutboundMessage
from bot.errors import DeliveryError, FileRefusedError
from bot.uploads import StoredUploads

pytestmark = pytest.mark.e2e

PNG = b"\x89PNG\r\n\x1a\n" + b"\x00\x00\x00\rIHDR" + b"\x00" * 60
PDF = b"%PDF-1.7\n1 0 obj"
CHAT = 7
ANNA = "79120000001"


@pytest.fixture
async def telegram(tmp_path: Path) -> AsyncIterator[TelegramWorld]:
    async with bot_api(TOKEN) as api:
        world = TelegramWorld(tmp_path, api)
        async with world.at_work():
            await api.put(text_update(1, "a person please"))
            await world.until(CHAT, lambda messages: any("Ticket" in m.text for m in messages if m.delivery == "sent"))
            yield world


class TestTelegram:
    async def test_a_picture_and_a_document_go_out_in_order_with_the_text_as_a_caption(
        self, telegram: TelegramWorld
    ) -> None:
        files = [await telegram.keep(PNG, "чек.png"), await telegram.keep(PDF, "Договор.pdf")]
        await telegram.agent_says(1, "Вот **чек** и договор", *files)
        messages = await telegram.until(CHAT, lambda found: found[-1].delivery == "sent")
        photo, document = telegram.api.sent[-2:]
        assert (photo["photo"], photo.get("caption")) == ("photo-1", None)
        assert (document["name"], document["caption"]) == ("Договор.pdf", "Ольга\nВот чек и договор")
        assert [entity["type"] for entity in document["caption_entities"]] == ["bold", "bold"]
        assert telegram.api.files["document-2"] == PDF
        assert [file.file_name for file in messages[-1].attachments] == ["чек.png", "Договор.pdf"]

    async def test_a_file_that_telegram_has_is_not_uploaded_again_unless_telegram_forgot_it(
        self, telegram: TelegramWorld
    ) -> None:
        file = await telegram.keep(PNG, "чек.png")
        for _ in range(2):
            await telegram.agent_says(1, "", file)
            await telegram.until(CHAT, lambda found: found[-1].delivery == "sent")
        assert telegram.api.uploads == 1
        telegram.api.files.clear()
        await telegram.agent_says(1, "", file)
        await telegram.until(CHAT, lambda found: found[-1].delivery == "sent")
        assert telegram.api.uploads == 2

    async def test_a_text_too_long_for_a_caption_follows_the_file(self, telegram: TelegramWorld) -> None:
        await telegram.agent_says(1, "слово " * 300, await telegram.keep(PNG, "чек.png"))
        await telegram.until(CHAT, lambda found: found[-1].delivery == "sent")
        photo, text = telegram.api.sent[-2:]
        assert (photo.get("caption"), text["text"][:11]) == (None, "Ольга\nслово")

    async def test_a_picture_that_telegram_finds_too_long_goes_as_a_document(self, telegram: TelegramWorld) -> None:
        telegram.api.odd_photos = True
        await telegram.agent_says(1, "Схема", await telegram.keep(PNG, "схема.png"))
        await telegram.until(CHAT, lambda found: found[-1].delivery == "sent")
        document = telegram.api.sent[-1]
        assert (document["name"], document["caption"]) == ("схема.png", "Ольга\nСхема")

    async def test_flood_control_between_two_files_repeats_neither(self, telegram: TelegramWorld) -> None:
        telegram.api.floods = [0, 1]
        files = [await telegram.keep(bytes([n]) * 100, f"{n}.bin") for n in range(3)]  # what makes no album
        await telegram.agent_says(1, "Три файла", *files)
        await telegram.until(CHAT, lambda found: found[-1].delivery == "sent")
        assert [sent["name"] for sent in telegram.api.sent[-3:]] == ["0.bin", "1.bin", "2.bin"]

    async def test_an_album_that_telegram_does_not_like_goes_file_by_file_each_once(
        self, telegram: TelegramWorld
    ) -> None:
        telegram.api.odd_photos = True
        telegram.api.floods = [None, None, None, 1]  # the album, the first as a photo and as a file, the second
        files = [await telegram.keep(PNG + bytes([n]), f"{n}.png") for n in range(2)]
        await telegram.agent_says(1, "Две схемы", *files)
        await telegram.until(CHAT, lambda found: found[-1].delivery == "sent")
        told = [(sent["name"], sent.get("caption")) for sent in telegram.api.sent if sent.get("name")]
        assert told == [("0.png", "Ольга\nДве схемы"), ("1.png", None)]

    async def test_of_an_album_that_is_cut_short_nothing_is_repeated_and_the_agent_hears_it(
        self, telegram: TelegramWorld
    ) -> None:
        telegram.api.odd_photos = True
        telegram.api.floods = [None, None, None, 600]
        files = [await telegram.keep(PNG + bytes([n]), f"{n}.png") for n in range(2)]
        await telegram.agent_says(1, "Две схемы", *files)
        messages = await telegram.until(CHAT, lambda found: found[-1].kind == "note")
        [error] = [message.delivery_error for message in messages if message.delivery == "failed"]
        assert (error or "").startswith("1 of 2 files went out")
        assert [sent["name"] for sent in telegram.api.sent if sent.get("name")] == ["0.png"]

    async def test_a_file_over_the_limit_is_refused_before_it_is_queued(self, telegram: TelegramWorld) -> None:
        file = await telegram.keep(bytes(51 << 20), "видео.bin")
        assert telegram.desk.media("telegram")["document"].max_bytes == 50 << 20
        with pytest.raises(FileRefusedError, match=r"telegram takes files like видео\.bin of at most 50 MB"):
            await telegram.agent_says(1, "Вот", file)
        assert "Вот" not in [message.text for message in await telegram.transcript(CHAT)]

    async def test_a_file_that_is_gone_fails_for_good_and_the_agent_hears_it(self, telegram: TelegramWorld) -> None:
        file = await telegram.keep(PNG, "чек.png")
        telegram.store.path(file.sha256).unlink()
        await telegram.agent_says(1, "Вот", file)
        messages = await telegram.until(CHAT, lambda found: found[-1].kind == "note")
        assert [m.delivery_error for m in messages if m.delivery == "failed"] == ["the file is gone from our store"]


class TestQuotesAndEditsInTelegram:
    async def test_a_reply_quotes_and_is_changed_where_the_customer_sees_it(self, telegram: TelegramWorld) -> None:
        asked = (await telegram.transcript(CHAT))[0]
        async with telegram.sessions.begin() as session:
            await telegram.desk.reply(session, 1, "**Да**", agent="Ольга", quote=asked.id)
        sent = (await telegram.until(CHAT, lambda found: found[-1].delivery == "sent"))[-1]
        [message] = telegram.api.sent[-1:]
        assert message["reply_parameters"] == {"message_id": 10, "allow_sending_without_reply": True}
        async with telegram.sessions.begin() as session:
            await telegram.desk.edits.edit(session, 1, sent.id, "**Нет**", agent="Ольга")
        await telegram.api.until(lambda: message["text"] == "Ольга\nНет")
        # To repeat it does no harm.
        said = OutboundMessage("**Нет**", author="agent", agent_name="Ольга")
        await telegram.channel.edit(Address("telegram", "42", "7"), sent.external_id or "", said)

    async def test_the_caption_of_a_file_is_changed(self, telegram: TelegramWorld) -> None:
        await telegram.agent_says(1, "Чек", await telegram.keep(PNG, "чек.png"))
        sent = (await telegram.until(CHAT, lambda found: found[-1].delivery == "sent"))[-1]
        async with telegram.sessions.begin() as session:
            await telegram.desk.edits.edit(session, 1, sent.id, "Чек за март", agent="Ольга")
        await telegram.api.until(lambda: telegram.api.sent[-1]["caption"] == "Ольга\nЧек за март")


class TestWhatsApp:
    async def test_files_are_uploaded_once_and_sent_with_their_captions(self, tmp_path: Path) -> None:
        async with whatsapp_world(tmp_path) as world:
            await world.graph.say(ANNA, "a person please")
            await world.until(ANNA, lambda found: len(found) >= 3)

            async def chunks(content: bytes) -> AsyncIterator[bytes]:
                yield content

            photo = await world.store.store(chunks(PNG), "чек.png")
            voice = replace(await world.store.store(chunks(b"OggS\0\2" + bytes(90)), "v.ogg"), kind="voice")
            for _ in range(2):
                async with world.sessions.begin() as session:
                    await world.desk.reply(session, 1, "Вот", agent="Ольга", files=[photo])
            async with world.sessions.begin() as session:
                await world.desk.reply(session, 1, "Слушайте", agent="Ольга", files=[voice])
            await world.graph.until(lambda: any("Слушайте" in words(message) for message in world.graph.sent))
            messages = await world.transcript(ANNA)
            sent = [message for message in world.graph.sent if message["type"] in ("image", "audio", "text")][-4:]
            assert [message["type"] for message in sent] == ["image", "image", "audio", "text"]
            assert [message["image"]["caption"] for message in sent[:2]] == ["*Ольга*\nВот"] * 2
            assert sent[2]["biz_opaque_callback_data"] == str(messages[-1].id)
            assert len(world.graph.files) == 2
            assert world.graph.refused == []

    async def test_what_meta_has_forgotten_is_uploaded_again(self, tmp_path: Path) -> None:
        async with whatsapp_world(tmp_path) as world:
            await world.graph.say(ANNA, "a person please")
            await world.until(ANNA, lambda found: len(found) >= 3)
            path, uploads = tmp_path / "x.png", StoredUploads(world.sessions, world.clock)
            path.write_bytes(PNG)
            message = OutboundMessage(
                "", attachments=(OutboundAttachment("photo", path, "x.png", "image/png", len(PNG), "ab" * 32),)
            )
            address = Address("whatsapp", PHONE, ANNA)
            await world.channel.send(address, message)
            known = await uploads.find(address, "ab" * 32, "photo")
            world.graph.files.clear()
            await world.channel.send(address, message)
            assert await uploads.find(address, "ab" * 32, "photo") not in (None, known)
            world.graph.files.clear()
            path.unlink()
            with pytest.raises(DeliveryError) as caught:
                await world.channel.send(address, message)
            assert caught.value.permanent
