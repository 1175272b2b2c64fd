"""WhatsApp through Meta's Cloud API. Messages come in through `bot.web.webhooks`; this is the way out."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import Any

import structlog

from bot.channels import whatsapp_api as api
from bot.channels.base import (
    Address,
    Capabilities,
    InboundAttachment,
    NoUploads,
    OutboundAttachment,
    OutboundMessage,
    Pace,
    Receive,
    Uploads,
)
from bot.channels.whatsapp_text import MAX_TEXT_CHARS, compose
from bot.channels.whatsapp_updates import CHANNEL, UNKNOWN
from bot.errors import DeliveryError, FileRefusedError, SettingsError, WindowClosedError

log = structlog.get_logger()

WINDOW = timedelta(hours=24)
"""How long after the customer's last message WhatsApp takes anything."""


class WhatsAppChannel:
    """One or several numbers of one WhatsApp Business account; `Address.account` is the number's id."""

    name = CHANNEL
    capabilities = Capabilities(
        max_text_chars=4000,  # of 4096: the rest is for an agent's name
        max_buttons=api.MAX_BUTTONS,
        max_label_chars=api.MAX_BUTTON_CHARS,
        max_prompt_chars=960,  # of 1024, likewise
        max_rows=api.MAX_ROWS,
        max_row_chars=api.MAX_ROW_CHARS,
        max_row_description_chars=api.MAX_ROW_DESCRIPTION_CHARS,
        max_download_bytes=100 * 1024 * 1024,
        media=api.MEDIA,
        max_caption_chars=960,  # of 1024, likewise
        quotes=True,
        reactions=True,
        typing=True,
        chat_pace=Pace(every_seconds=6, burst=45),
        account_pace=Pace(every_seconds=1 / 80, burst=80),
        window=WINDOW,
    )

    def __init__(
        self,
        token: str,
        accounts: Sequence[str],
        *,
        api_base: str = "",
        version: str = api.VERSION,
        proxy: str = "",
        uploads: Uploads | None = None,
    ) -> None:
        """accounts: ids of the numbers (`phone_number_id`). uploads: what WhatsApp has already; None: nothing.

        Raises SettingsError for an id that is none.
        """
        for account in accounts:
            if not (account.isascii() and account.isdecimal()):
                raise SettingsError("OTVET_WHATSAPP_PHONE_NUMBER_ID: expected the number's id, digits only")
        self.accounts = tuple(accounts)
        self._uploads = uploads or NoUploads()
        self._api = api.GraphApi(token, base=api_base, version=version, proxy=proxy)

    async def run(self, receive: Receive) -> None:
        """Nothing to ask for: Meta calls the webhook. Closes the connections when it is cancelled."""
        try:
            await asyncio.Event().wait()
        finally:
            await self.close()

    async def send(self, address: Address, message: OutboundMessage) -> str | None:
        """Meta's id of the last message that it took. Raises DeliveryError, WindowClosedError among them."""
        if address.chat_id == UNKNOWN or not address.account:
            raise DeliveryError("WhatsApp did not say who this is", permanent=True)
        sent_id = None
        for attachment in message.attachments:
            texts = compose(message, api.MAX_CAPTION_CHARS) if message.text.strip() else []
            caption = texts[0] if len(texts) == 1 and not message.options else ""
            sent_id = await self._send_file(address, attachment, caption, message)
            if caption or not texts:
                return sent_id
        for body in self._bodies(message):
            quote = message.quote if sent_id is None else None
            sent_id = await self._put(address, body, message, quote) or sent_id
        return sent_id

    async def _send_file(
        self, address: Address, attachment: OutboundAttachment, caption: str, message: OutboundMessage
    ) -> str:
        try:
            kind = self.capabilities.carrier(attachment)
        except FileRefusedError as error:
            raise DeliveryError(str(error), permanent=True) from error

        async def send(media_id: str) -> str:
            body = api.media_body(kind, media_id, file_name=attachment.file_name, caption=caption)
            return await self._put(address, body, message, message.quote)

        known = await self._uploads.find(address, attachment.sha256, kind)
        if known is not None:
            try:
                return await send(known)
            except DeliveryError as error:
                if not error.permanent or isinstance(error, WindowClosedError):
                    raise
                await self._uploads.forget(address, attachment.sha256, kind)
        media_id = await self._api.upload(address.account, attachment)
        await self._uploads.keep(address, attachment.sha256, kind, media_id)
        return await send(media_id)

    async def _put(self, address: Address, body: dict[str, Any], message: OutboundMessage, quote: str | None) -> str:
        if quote and quote.startswith("wamid.") and message.template is None:
            body["context"] = {"message_id": quote}
        if message.message_id:
            body["biz_opaque_callback_data"] = str(message.message_id)  # it comes back with every status
        return await self._api.message(address.account, address.chat_id, body)

    async def working(self, address: Address, external_id: str) -> None:
        if external_id.startswith("wamid."):
            with contextlib.suppress(DeliveryError):
                await self._api.seen(address.account, external_id)

    async def seen(self, address: Address, external_id: str) -> None:
        if external_id.startswith("wamid."):
            with contextlib.suppress(DeliveryError):
                await self._api.seen(address.account, external_id, typing=False)

    async def react(self, address: Address, external_id: str, emoji: str) -> None:
        """Put an emoji under a customer's message; an empty one takes it back. Raises DeliveryError."""
        await self._api.message(address.account, address.chat_id, api.reaction_body(external_id, emoji))

    async def fetch(self, attachment: InboundAttachment) -> AsyncIterator[bytes]:
        media_id = attachment.source.get("media_id")
        if not attachment.fetchable or not media_id:
            raise DeliveryError(f"there is no file in this {attachment.kind}", permanent=True)
        async with contextlib.aclosing(
            self._api.download(str(media_id), self.capabilities.max_download_bytes)
        ) as chunks:
            async for chunk in chunks:
                yield chunk

    async def whoami(self, account: str) -> str:
        """Number, name and quality, for `otvet doctor`. Raises DeliveryError."""
        number = await self._api.number(account)
        quality = number.get("quality_rating") or "unknown"
        return f"{number.get('display_phone_number') or account} {number.get('verified_name') or ''}, quality {quality}"

    async def close(self) -> None:
        await self._api.close()

    def _bodies(self, message: OutboundMessage) -> list[dict[str, Any]]:
        if message.template is not None:
            return [api.template_body(message.template)]
        if not message.text.strip():
            raise DeliveryError("there is nothing in this message to send", permanent=True)
        limit = api.MAX_PROMPT_CHARS if message.options else MAX_TEXT_CHARS
        *first, last = compose(message, limit)
        bodies = [api.text_body(text) for text in first]
        if not message.options:
            return [*bodies, api.text_body(last)]
        lang = "ru" if any("а" <= letter <= "я" for letter in message.text.lower()) else "en"
        label = api.LIST_LABELS[lang]
        return [*bodies, api.choices_body(last, message.options, as_list=message.as_list, open_label=label)]
