"""Telegram: one or several bots. `Address.account` is the bot's id."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

import structlog
from aiogram import Bot
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.client.session.base import BaseSession
from aiogram.client.telegram import PRODUCTION, TelegramAPIServer
from aiogram.exceptions import AiogramError, ClientDecodeError, TelegramBadRequest, TelegramRetryAfter
from aiogram.methods import EditMessageCaption, EditMessageText, SendMessage, TelegramMethod
from aiogram.types import InputFile, LinkPreviewOptions, Message, ReactionTypeEmoji, ReplyParameters
from aiogram.utils.formatting import Text
from aiogram.utils.token import TokenValidationError
from aiohttp import ClientResponseError

from bot.channels.base import (
    Address,
    InboundAttachment,
    NoUploads,
    Option,
    OutboundAttachment,
    OutboundMessage,
    Receive,
    Uploads,
)
from bot.channels.telegram_calls import (
    FILE_METHODS,
    REQUEST_SECONDS,
    SHAPE_FAULTS,
    UPLOAD_SECONDS,
    Target,
    Upload,
    delivery_errors,
    file_id,
    keyboard,
    quoting,
    send,
    send_album,
)
from bot.channels.telegram_intake import be_called, poll
from bot.channels.telegram_limits import CAPABILITIES
from bot.channels.telegram_text import MAX_UNITS, compose
from bot.channels.telegram_updates import CHANNEL, CHOSEN_TOKEN, Press, group_of, parse_all, press_of
from bot.errors import DeliveryError, FileRefusedError, SettingsError

log = structlog.get_logger()

DOWNLOAD_SECONDS = 120
LONGEST_PAUSE_SECONDS = 30
"""Between the files of an album that go out one by one."""
MAX_CAPTION_UNITS = 1000
"""Of 1024: the rest is for an agent's name."""

InGroups = Callable[[str, str], str]
"""Language and link of the bot → what is said in a group, where nobody is answered."""


Taken = Callable[[Any, str], Awaitable[bool]]
"""(update, the bot's id) → whether it was stored elsewhere, and is no customer's."""


class TelegramChannel:
    """`close` it when nothing will be sent any more; `run` closes it at its end."""

    name = CHANNEL
    capabilities = CAPABILITIES

    def __init__(
        self,
        tokens: str,
        *,
        api_base: str = "",
        proxy: str = "",
        webhook_url: str = "",
        webhook_secret: str = "",
        poll_seconds: int = 25,
        retry_seconds: float = 1.0,
        uploads: Uploads | None = None,
        in_groups: InGroups | None = None,
        elsewhere: Taken | None = None,
        session: BaseSession | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """tokens: one bot's, or several with commas between. api_base: address of another Bot API server.
        proxy: http://, socks4:// or socks5:// address. webhook_url: where Telegram is to call, with webhook_secret in
        a header, each of several bots under its id; empty: Telegram is asked instead. poll_seconds: how long Telegram
        may wait for an update. retry_seconds: the first pause after a failure; it doubles up to half a minute.
        uploads: what Telegram has already; None: nothing. in_groups: None: nothing is said there. elsewhere: is shown
        every update first (the agents' groups). session: another transport for aiogram.

        Raises SettingsError for a malformed token or a proxy that can't be used.
        """
        api = TelegramAPIServer.from_base(api_base.rstrip("/")) if api_base else PRODUCTION
        self._bots: dict[str, Bot] = {}
        for token in filter(None, (each.strip() for each in tokens.split(","))):
            try:
                bot = Bot(token, session=session or AiohttpSession(proxy=proxy or None, api=api))
            except TokenValidationError as error:
                problem = "expected the form 123456:ABC…, as BotFather gives it; several with commas between"
                raise SettingsError(f"OTVET_TELEGRAM_TOKEN: {problem}") from error
            except (RuntimeError, ValueError) as error:
                raise SettingsError(f"OTVET_TELEGRAM_PROXY: {error}") from error
            if str(bot.id) in self._bots:
                raise SettingsError(f"OTVET_TELEGRAM_TOKEN: there are two tokens of the bot {bot.id}")
            self._bots[str(bot.id)] = bot
        if not self._bots:
            raise SettingsError("OTVET_TELEGRAM_TOKEN: there is no token")
        self.accounts = tuple(self._bots)
        if webhook_url and not webhook_url.startswith("https://"):
            raise SettingsError("OTVET_TELEGRAM_WEBHOOK_URL: Telegram calls https:// addresses only")
        if webhook_url and not re.fullmatch(r"[A-Za-z0-9_-]{8,256}", webhook_secret):
            problem = "a webhook needs 8 to 256 letters, digits, _ or -, so that only Telegram can call it"
            raise SettingsError(f"OTVET_TELEGRAM_SECRET: {problem}")
        self.webhook_secret = webhook_secret if webhook_url else ""
        self._webhook_url = webhook_url.rstrip("/")
        self._poll_seconds = poll_seconds
        self._retry_seconds = retry_seconds
        self._uploads = uploads or NoUploads()
        self._in_groups = in_groups
        self._elsewhere = elsewhere
        self._groups: set[tuple[str, int]] = set()
        """Where it was said already that nobody is answered there."""
        self._clock = clock
        self._background: set[asyncio.Task[None]] = set()

    async def run(self, receive: Receive) -> None:
        """Ask for updates until cancelled, or have Telegram call. What `receive` can't store comes again."""
        try:
            async with asyncio.TaskGroup() as group:
                for account, bot in self._bots.items():
                    group.create_task(self._run_bot(account, bot, receive), name=f"telegram:{account}")
        finally:
            await self.close()

    def _run_bot(self, account: str, bot: Bot, receive: Receive) -> Coroutine[Any, Any, None]:
        if self._webhook_url:
            url = self._webhook_url if len(self._bots) == 1 else f"{self._webhook_url}/{account}"
            return be_called(bot, url, self.webhook_secret, retry_seconds=self._retry_seconds)
        take = partial(self.take, receive=receive, account=account)
        return poll(bot, take, poll_seconds=self._poll_seconds, retry_seconds=self._retry_seconds)

    async def take(self, update: Any, receive: Receive, account: str = "") -> None:
        """Store one update as Telegram sent it. When this returns, it may be confirmed. account: the bot that it
        came to; empty where there is one."""
        account = account or self.accounts[0]
        if self._elsewhere is not None and await self._elsewhere(update, account):
            return
        for message in parse_all(update, account=account, now=self._clock()):
            await receive(message)
        if (press := press_of(update)) is not None:
            self._later(self._acknowledge(self._bots[account], press))
        group = group_of(update)
        if group is not None and self._in_groups is not None and (account, group.chat_id) not in self._groups:
            self._groups.add((account, group.chat_id))
            self._later(self._explain(self._bots[account], group.chat_id, group.lang or "ru"))

    async def send(self, address: Address, message: OutboundMessage) -> str | None:
        """The id of the last message that it took. Raises DeliveryError."""
        bot, target, sent_id = self._bot(address), Target.of(address), None
        if len(message.attachments) > 1:
            return await self._send_album(bot, address, message)
        for attachment in message.attachments:
            texts = compose(message, MAX_CAPTION_UNITS) if message.text.strip() else []
            caption = texts[0] if len(texts) == 1 and not message.options else None
            with delivery_errors():
                sent = await self.send_file(bot, address, attachment, caption, quoting(message))
                sent_id = str(sent["message_id"])
            if caption is not None or not texts:
                return sent_id
        *first, last = compose(message)
        for text, options in [*((text, ()) for text in first), (last, message.options)]:
            quoted = quoting(message) if sent_id is None else None
            with delivery_errors():
                sent_id = await _send_text(bot, target, text, options, quoted)
        return sent_id

    async def _send_album(self, bot: Bot, address: Address, message: OutboundMessage) -> str:
        """The id of the first of them, which carries the words."""
        target = Target.of(address)
        caption = compose(message, MAX_CAPTION_UNITS)[0] if message.text.strip() else None
        quoted = quoting(message)
        files: list[tuple[str, InputFile | str]] = []
        for each in message.attachments:
            kind = self.capabilities.carrier(each)
            known = await self._uploads.find(address, each.sha256, kind)
            files.append((kind, known or Upload(each.path, each.file_name)))
        where = {
            "business_connection_id": target.connection,
            "chat_id": target.chat_id,
            "message_thread_id": target.thread_id,
            "reply_parameters": quoted,
        }
        with delivery_errors():
            try:
                sent = await send_album(bot, files, caption, **where)
            except TelegramBadRequest as error:
                # One of them is not liked, or no longer known there: nothing went out, and each goes by itself.
                log.info("telegram.album_apart", detail=error.message)
                sent = await self._send_apart(bot, address, message.attachments, caption, quoted)
            except FileNotFoundError as error:
                raise DeliveryError("the file is gone from our disk", permanent=True) from error
            else:
                for each, (kind, _), told in zip(message.attachments, files, sent, strict=False):
                    if (handle := file_id(told, kind)) is not None:
                        await self._uploads.keep(address, each.sha256, kind, handle)
        return str(sent[0]["message_id"])

    async def _send_apart(
        self,
        bot: Bot,
        address: Address,
        files: Sequence[OutboundAttachment],
        caption: Text | None,
        quoted: ReplyParameters | None,
    ) -> list[dict[str, Any]]:
        """One by one, the first with the words. What went out is not sent again: where only some did, it is said."""
        sent: list[dict[str, Any]] = []
        for each in files:
            first = (caption, quoted) if not sent else (None, None)
            try:
                try:
                    sent.append(await self.send_file(bot, address, each, *first))
                except TelegramRetryAfter as error:
                    if not sent or error.retry_after > LONGEST_PAUSE_SECONDS:
                        raise
                    await asyncio.sleep(error.retry_after)
                    sent.append(await self.send_file(bot, address, each, *first))
            except (AiogramError, DeliveryError) as error:
                if not sent:
                    raise
                raise DeliveryError(
                    f"{len(sent)} of {len(files)} files went out, then: {error}", permanent=True
                ) from error
        return sent

    async def edit(self, address: Address, external_id: str, message: OutboundMessage) -> None:
        """Change the text of a message, or the caption of a file."""
        target, message_id = Target.of(address), int(external_id)
        limit = MAX_CAPTION_UNITS if message.attachments else MAX_UNITS
        text, entities = compose(message, limit)[0].render()
        method: TelegramMethod[Message | bool]
        if message.attachments:
            method = EditMessageCaption(
                business_connection_id=target.connection,
                chat_id=target.chat_id,
                message_id=message_id,
                caption=text,
                caption_entities=entities or None,
                parse_mode=None,
            )
        else:
            method = EditMessageText(
                business_connection_id=target.connection,
                chat_id=target.chat_id,
                message_id=message_id,
                text=text,
                entities=entities or None,
                parse_mode=None,
                link_preview_options=LinkPreviewOptions(is_disabled=True),
            )
        with delivery_errors():
            try:
                await self._bot(address)(method, request_timeout=REQUEST_SECONDS)
            except TelegramBadRequest as error:
                if "message is not modified" not in error.message:
                    raise
            except ClientDecodeError:
                log.info("telegram.strange_answer", method="edit")

    async def react(self, address: Address, external_id: str, emoji: str) -> None:
        """Put an emoji under a message, one of those that Telegram knows as reactions."""
        target = Target.of(address)
        with delivery_errors():
            await self._bot(address).set_message_reaction(
                target.chat_id,
                int(external_id),
                [ReactionTypeEmoji(emoji=emoji)] if emoji else [],
                request_timeout=REQUEST_SECONDS,
            )

    async def working(self, address: Address, external_id: str) -> None:
        """Show "typing…" for the next five seconds or until a message is sent."""
        with contextlib.suppress(DeliveryError), delivery_errors():
            target = Target.of(address)
            await self._bot(address).send_chat_action(
                target.chat_id, "typing", target.connection, request_timeout=REQUEST_SECONDS
            )

    async def seen(self, address: Address, external_id: str) -> None:
        """Mark as read in the name of a business account; bots have no such marks of their own."""
        with contextlib.suppress(DeliveryError), delivery_errors():
            target = Target.of(address)
            if target.connection is not None:
                await self._bot(address).read_business_message(
                    target.connection, target.chat_id, int(external_id), request_timeout=REQUEST_SECONDS
                )

    async def fetch(self, attachment: InboundAttachment) -> AsyncIterator[bytes]:
        """The file in chunks. Raises DeliveryError, permanent where it is gone or larger than bots may fetch."""
        limit, file_id = self.capabilities.max_download_bytes, attachment.source.get("file_id")
        if not attachment.fetchable or not file_id:
            raise DeliveryError(f"there is no file in this {attachment.kind}", permanent=True)
        if (attachment.size_bytes or 0) > limit:
            raise _too_large(limit)
        bot = self._bot(Address(CHANNEL, str(attachment.source.get("bot") or self.accounts[0]), ""))
        with delivery_errors():
            file = await bot.get_file(file_id, request_timeout=REQUEST_SECONDS)
        if not file.file_path:
            raise DeliveryError("Telegram gives no path of the file")
        url, received = bot.session.api.file_url(bot.token, file.file_path), 0
        stream = bot.session.stream_content(url, timeout=DOWNLOAD_SECONDS)
        # The causes are left out of these errors: their texts hold the address, and the address holds the token.
        try:
            async with contextlib.aclosing(stream) as chunks:
                async for chunk in chunks:
                    received += len(chunk)
                    if received > limit:
                        raise _too_large(limit)
                    yield chunk
        except ClientResponseError as error:
            gone = 400 <= error.status < 500 and error.status != 429
            raise DeliveryError(f"the file's server answered {error.status}", permanent=gone) from None
        except DeliveryError:
            raise
        except Exception as error:  # noqa: BLE001 - as in delivery_errors
            raise DeliveryError(f"the file could not be read: {type(error).__name__}") from None

    async def whoami(self) -> str:
        """The bots' names, for `otvet doctor`. Raises DeliveryError, which names the bot."""
        names = []
        for account, bot in self._bots.items():
            try:
                with delivery_errors():
                    names.append(f"@{(await bot.get_me(request_timeout=REQUEST_SECONDS)).username}")
            except DeliveryError as error:
                raise DeliveryError(f"bot {account}: {error}") from error
        return ", ".join(names)

    async def close(self) -> None:
        """Close the connections. Safe to repeat; a later call opens them again."""
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        for bot in self._bots.values():
            await bot.session.close()

    def _bot(self, address: Address) -> Bot:
        """The bot of a conversation. Where there is one, it also goes on with those of the bot before it."""
        found = self._bots.get(address.account)
        if found is None and len(self._bots) == 1:
            found = next(iter(self._bots.values()))
        if found is None:
            raise DeliveryError(f"the bot {address.account} is not among OTVET_TELEGRAM_TOKEN", permanent=True)
        return found

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _acknowledge(self, bot: Bot, press: Press) -> None:
        """Stop the button's clock, and leave of the keyboard what was chosen. Both are a courtesy: they may fail."""
        with contextlib.suppress(DeliveryError), delivery_errors():
            await bot.answer_callback_query(press.callback_id, request_timeout=REQUEST_SECONDS)
        if press.label is None or press.message_id is None or press.data == CHOSEN_TOKEN:
            return
        with contextlib.suppress(DeliveryError), delivery_errors():
            await bot.edit_message_reply_markup(
                business_connection_id=press.connection,
                chat_id=press.chat_id,
                message_id=press.message_id,
                reply_markup=keyboard((Option(CHOSEN_TOKEN, f"✓ {press.label}"),)),
                request_timeout=REQUEST_SECONDS,
            )

    async def _explain(self, bot: Bot, chat_id: int, lang: str) -> None:
        """Say in a group, once, that customers are answered in private. A courtesy too."""
        assert self._in_groups is not None  # noqa: S101 - asked before
        with contextlib.suppress(DeliveryError), delivery_errors():
            me = await bot.get_me(request_timeout=REQUEST_SECONDS)
            words = self._in_groups(lang, f"https://t.me/{me.username}")
            await send(bot, SendMessage(chat_id=chat_id, text=words, parse_mode=None))

    def bot(self, account: str) -> Bot:
        """Raises DeliveryError for a bot that is not among the tokens."""
        return self._bot(Address(CHANNEL, account, ""))

    async def send_file(
        self,
        bot: Bot,
        address: Address,
        attachment: OutboundAttachment,
        caption: Text | None,
        quoted: ReplyParameters | None,
    ) -> dict[str, Any]:
        """The message as Telegram tells it. Raises what aiogram raises, and DeliveryError."""
        try:
            kind = self.capabilities.carrier(attachment)
        except FileRefusedError as error:
            raise DeliveryError(str(error), permanent=True) from error
        target = Target.of(address)
        words, entities = caption.render() if caption is not None else (None, None)
        common = {
            "business_connection_id": target.connection,
            "chat_id": target.chat_id,
            "message_thread_id": target.thread_id,
            "caption": words,
            "caption_entities": entities or None,
            "parse_mode": None,
            "reply_parameters": quoted,
        }

        async def put(kind: str, file: InputFile | str) -> dict[str, Any]:
            method, field = FILE_METHODS[kind]
            sent = await send(bot, method(**common, **{field: file}), UPLOAD_SECONDS)
            if (handle := file_id(sent, kind)) is not None:
                await self._uploads.keep(address, attachment.sha256, kind, handle)
            return sent

        known = await self._uploads.find(address, attachment.sha256, kind)
        if known is not None:
            try:
                return await put(kind, known)
            except TelegramBadRequest:
                await self._uploads.forget(address, attachment.sha256, kind)
        file = Upload(attachment.path, attachment.file_name)
        try:
            return await put(kind, file)
        except TelegramBadRequest as error:
            # A picture too long or too wide, a voice message to somebody who wants none: as a file all go.
            if kind == "document" or not any(word in error.message for word in SHAPE_FAULTS):
                raise
            log.info("telegram.file_as_document", kind=kind, detail=error.message)
            return await put("document", file)
        except FileNotFoundError as error:
            raise DeliveryError("the file is gone from our disk", permanent=True) from error


async def _send_text(
    bot: Bot, target: Target, text: Text, options: tuple[Option, ...], quoted: ReplyParameters | None
) -> str:
    content, entities = text.render()
    method = SendMessage(
        business_connection_id=target.connection,
        chat_id=target.chat_id,
        text=content,
        entities=entities or None,
        parse_mode=None,
        link_preview_options=LinkPreviewOptions(is_disabled=True),
        reply_markup=keyboard(options),
        reply_parameters=quoted,
    )
    try:
        return str((await send(bot, method))["message_id"])
    except TelegramBadRequest as error:
        if not entities or "entit" not in error.message.lower():
            raise
        log.warning("telegram.formatting_refused", detail=error.message)
        return str((await send(bot, method.model_copy(update={"entities": None})))["message_id"])


def _too_large(limit: int) -> DeliveryError:
    return DeliveryError(f"the file is larger than {limit // 2**20} MB", permanent=True)
