"""Telegram by long polling. Updates are confirmed after they are stored, so that none is lost."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog
from aiogram import Bot
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.client.session.base import BaseSession
from aiogram.client.telegram import PRODUCTION, TelegramAPIServer
from aiogram.exceptions import (
    ClientDecodeError,
    TelegramBadRequest,
    TelegramEntityTooLarge,
    TelegramForbiddenError,
    TelegramMigrateToChat,
    TelegramRetryAfter,
)
from aiogram.methods import (
    EditMessageCaption,
    EditMessageText,
    SendAnimation,
    SendAudio,
    SendDocument,
    SendMessage,
    SendPhoto,
    SendVideo,
    SendVoice,
    TelegramMethod,
)
from aiogram.types import (
    InlineKeyboardButton,
    InlineKeyboardMarkup,
    InputFile,
    LinkPreviewOptions,
    Message,
    MessageEntity,
    ReplyParameters,
)
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
from bot.channels.telegram_limits import CAPABILITIES
from bot.channels.telegram_text import MAX_UNITS, compose
from bot.channels.telegram_updates import CHANNEL, CHOSEN_TOKEN, WANTED_UPDATES, Press, parse, press_of
from bot.errors import DeliveryError, FileRefusedError, SettingsError, UnreachableError

log = structlog.get_logger()

REQUEST_SECONDS = 20
DOWNLOAD_SECONDS = 120
UPLOAD_SECONDS = 120
CHUNK_BYTES = 64 * 1024
MAX_CAPTION_UNITS = 1000
"""Of 1024: the rest is for an agent's name."""
LONGEST_RETRY_SECONDS = 30.0
IDLE_SECONDS = 0.1
"""Pause after an empty answer: a server that does not wait for updates must not be asked without end."""


class _GetRawUpdates(TelegramMethod[list[Any]]):
    """getUpdates without aiogram's parse, in which one unreadable update of a hundred fails them all."""

    __returning__ = list[Any]
    __api_method__ = "getUpdates"

    offset: int | None
    timeout: int
    allowed_updates: list[str]


class TelegramChannel:
    """One bot. `close` it when nothing will be sent any more; `run` closes it at its end."""

    name = CHANNEL
    capabilities = CAPABILITIES

    def __init__(
        self,
        token: str,
        *,
        api_base: str = "",
        proxy: str = "",
        webhook_url: str = "",
        webhook_secret: str = "",
        poll_seconds: int = 25,
        retry_seconds: float = 1.0,
        uploads: Uploads | None = None,
        session: BaseSession | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """api_base: address of another Bot API server. proxy: http://, socks4:// or socks5:// address.
        webhook_url: where Telegram is to call, with webhook_secret in a header; empty: Telegram is asked instead.
        poll_seconds: how long Telegram may wait for an update. retry_seconds: the first pause after a failure; it
        doubles up to LONGEST_RETRY_SECONDS. uploads: what Telegram has already; None: nothing. session: another
        transport for aiogram.
        Raises SettingsError for a malformed token or a proxy that can't be used.
        """
        api = TelegramAPIServer.from_base(api_base.rstrip("/")) if api_base else PRODUCTION
        try:
            self._bot = Bot(token, session=session or AiohttpSession(proxy=proxy or None, api=api))
        except TokenValidationError as error:
            raise SettingsError("OTVET_TELEGRAM_TOKEN: expected the form 123456:ABC…, as BotFather gives it") from error
        except (RuntimeError, ValueError) as error:
            raise SettingsError(f"OTVET_TELEGRAM_PROXY: {error}") from error
        self.account = str(self._bot.id)
        if webhook_url and not webhook_url.startswith("https://"):
            raise SettingsError("OTVET_TELEGRAM_WEBHOOK_URL: Telegram calls https:// addresses only")
        if webhook_url and not re.fullmatch(r"[A-Za-z0-9_-]{8,256}", webhook_secret):
            problem = "a webhook needs 8 to 256 letters, digits, _ or -, so that only Telegram can call it"
            raise SettingsError(f"OTVET_TELEGRAM_SECRET: {problem}")
        self.webhook_secret = webhook_secret if webhook_url else ""
        self._webhook_url = webhook_url
        self._poll_seconds = poll_seconds
        self._retry_seconds = retry_seconds
        self._uploads = uploads or NoUploads()
        self._clock = clock
        self._background: set[asyncio.Task[None]] = set()

    async def run(self, receive: Receive) -> None:
        """Poll until cancelled, or have Telegram call. An update whose `receive` raises is asked for again, and those
        after it wait; Telegram repeats a call that failed."""
        try:
            if self._webhook_url:
                await self._be_called()
            with contextlib.suppress(DeliveryError), _delivery_errors():
                # While a webhook is set, Telegram refuses to be polled.
                await self._bot.delete_webhook(drop_pending_updates=False, request_timeout=REQUEST_SECONDS)
            await self._poll(receive)
        finally:
            await self.close()

    async def take(self, update: Any, receive: Receive) -> None:
        """Store one update as Telegram sent it. When this returns, it may be confirmed."""
        message = parse(update, account=self.account, now=self._clock())
        if message is not None:
            await receive(message)
        if (press := press_of(update)) is not None:
            task = asyncio.create_task(self._acknowledge(press))
            self._background.add(task)
            task.add_done_callback(self._background.discard)

    async def send(self, address: Address, message: OutboundMessage) -> str | None:
        """The id of the last message that it took. Raises DeliveryError."""
        chat_id, sent_id = _chat_id(address), None
        for attachment in message.attachments:
            texts = compose(message, MAX_CAPTION_UNITS) if message.text.strip() else []
            caption = texts[0] if len(texts) == 1 and not message.options else None
            with _delivery_errors():
                sent_id = await self._send_file(address, chat_id, attachment, caption, _quoting(message))
            if caption is not None or not texts:
                return sent_id
        *first, last = compose(message)
        for text, options in [*((text, ()) for text in first), (last, message.options)]:
            content, entities = text.render()
            quoting = _quoting(message) if sent_id is None else None
            with _delivery_errors():
                sent_id = await self._send_text(chat_id, content, entities, _keyboard(options), quoting)
        return sent_id

    async def edit(self, address: Address, external_id: str, message: OutboundMessage) -> None:
        """Change the text of a message, or the caption of a file."""
        chat_id, message_id = _chat_id(address), int(external_id)
        limit = MAX_CAPTION_UNITS if message.attachments else MAX_UNITS
        text, entities = compose(message, limit)[0].render()
        method: TelegramMethod[Message | bool]
        if message.attachments:
            method = EditMessageCaption(
                chat_id=chat_id,
                message_id=message_id,
                caption=text,
                caption_entities=entities or None,
                parse_mode=None,
            )
        else:
            method = EditMessageText(
                chat_id=chat_id,
                message_id=message_id,
                text=text,
                entities=entities or None,
                parse_mode=None,
                link_preview_options=LinkPreviewOptions(is_disabled=True),
            )
        with _delivery_errors():
            try:
                await self._bot(method, request_timeout=REQUEST_SECONDS)
            except TelegramBadRequest as error:
                if "message is not modified" not in error.message:
                    raise
            except ClientDecodeError:
                log.info("telegram.strange_answer", method="edit")

    async def working(self, address: Address, external_id: str) -> None:
        """Show "typing…" for the next five seconds or until a message is sent."""
        with contextlib.suppress(DeliveryError), _delivery_errors():
            await self._bot.send_chat_action(_chat_id(address), "typing", request_timeout=REQUEST_SECONDS)

    async def fetch(self, attachment: InboundAttachment) -> AsyncIterator[bytes]:
        """The file in chunks. Raises DeliveryError, permanent where it is gone or larger than bots may fetch."""
        limit, file_id = self.capabilities.max_download_bytes, attachment.source.get("file_id")
        if not attachment.fetchable or not file_id:
            raise DeliveryError(f"there is no file in this {attachment.kind}", permanent=True)
        if (attachment.size_bytes or 0) > limit:
            raise _too_large(limit)
        with _delivery_errors():
            file = await self._bot.get_file(file_id, request_timeout=REQUEST_SECONDS)
        if not file.file_path:
            raise DeliveryError("Telegram gives no path of the file")
        url, received = self._bot.session.api.file_url(self._bot.token, file.file_path), 0
        stream = self._bot.session.stream_content(url, timeout=DOWNLOAD_SECONDS)
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
        except Exception as error:  # noqa: BLE001 - as in _delivery_errors
            raise DeliveryError(f"the file could not be read: {type(error).__name__}") from None

    async def whoami(self) -> str:
        """The bot's name, for `otvet doctor`. Raises DeliveryError."""
        with _delivery_errors():
            me = await self._bot.get_me(request_timeout=REQUEST_SECONDS)
        return f"@{me.username}"

    async def close(self) -> None:
        """Close the connections. Safe to repeat; a later call opens them again."""
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await self._bot.session.close()

    async def _be_called(self) -> None:
        """Tell Telegram where to call, as long as it takes, and wait until cancelled."""
        pause = self._retry_seconds
        while True:
            try:
                with _delivery_errors():
                    await self._bot.set_webhook(
                        self._webhook_url,
                        secret_token=self.webhook_secret,
                        allowed_updates=list(WANTED_UPDATES),
                        drop_pending_updates=False,
                        request_timeout=REQUEST_SECONDS,
                    )
                log.info("telegram.webhook_set")
                await asyncio.Event().wait()
            except DeliveryError as error:
                log.warning("telegram.webhook_refused", detail=str(error), retry_seconds=pause)
                await asyncio.sleep(error.retry_after_seconds or pause)
                pause = min(pause * 2, LONGEST_RETRY_SECONDS)

    async def _poll(self, receive: Receive) -> None:
        offset: int | None = None
        pause = self._retry_seconds
        while True:
            try:
                updates = await self._bot(
                    _GetRawUpdates(offset=offset, timeout=self._poll_seconds, allowed_updates=list(WANTED_UPDATES)),
                    request_timeout=self._poll_seconds + REQUEST_SECONDS,
                )
                # What `offset` confirmed is forgotten now. Without one Telegram gives all the rest, even when it has
                # begun its ids anew at a lower number.
                offset = None
                for update in updates:
                    await self.take(update, receive)
                    offset = _after(update) or offset
                pause = self._retry_seconds
                if offset is None:
                    await asyncio.sleep(IDLE_SECONDS)
            except Exception as error:  # noqa: BLE001 - edge: whatever broke, nothing was confirmed, so it comes again
                # The text of some errors holds messages of customers, so only Telegram's own description is logged.
                detail = getattr(error, "message", "")
                log.warning("telegram.poll_failed", error=type(error).__name__, detail=detail, retry_seconds=pause)
                await asyncio.sleep(max(pause, getattr(error, "retry_after", 0)))
                pause = min(pause * 2, LONGEST_RETRY_SECONDS)

    async def _acknowledge(self, press: Press) -> None:
        """Stop the button's clock, and leave of the keyboard what was chosen. Both are a courtesy: they may fail."""
        with contextlib.suppress(DeliveryError), _delivery_errors():
            await self._bot.answer_callback_query(press.callback_id, request_timeout=REQUEST_SECONDS)
        if press.label is None or press.message_id is None or press.data == CHOSEN_TOKEN:
            return
        with contextlib.suppress(DeliveryError), _delivery_errors():
            await self._bot.edit_message_reply_markup(
                chat_id=press.chat_id,
                message_id=press.message_id,
                reply_markup=_keyboard((Option(CHOSEN_TOKEN, f"✓ {press.label}"),)),
                request_timeout=REQUEST_SECONDS,
            )

    async def _send_text(
        self,
        chat_id: int,
        text: str,
        entities: list[MessageEntity],
        keyboard: InlineKeyboardMarkup | None,
        quoting: ReplyParameters | None,
    ) -> str:
        method = SendMessage(
            chat_id=chat_id,
            text=text,
            entities=entities or None,
            parse_mode=None,
            link_preview_options=LinkPreviewOptions(is_disabled=True),
            reply_markup=keyboard,
            reply_parameters=quoting,
        )
        try:
            return await self._sent_id(method)
        except TelegramBadRequest as error:
            if not entities or "entit" not in error.message.lower():
                raise
            log.warning("telegram.formatting_refused", detail=error.message)
            return await self._sent_id(method.model_copy(update={"entities": None}))

    async def _send_file(
        self,
        address: Address,
        chat_id: int,
        attachment: OutboundAttachment,
        caption: Text | None,
        quoting: ReplyParameters | None,
    ) -> str:
        try:
            kind = self.capabilities.carrier(attachment)
        except FileRefusedError as error:
            raise DeliveryError(str(error), permanent=True) from error
        words, entities = caption.render() if caption is not None else (None, None)

        async def send(kind: str, file: InputFile | str) -> str:
            method, field = _FILE_METHODS[kind]
            fields = {"chat_id": chat_id, field: file, "caption": words, "caption_entities": entities or None}
            sent = await self._sent(method(**fields, parse_mode=None, reply_parameters=quoting), UPLOAD_SECONDS)
            if (handle := _file_id(sent, kind)) is not None:
                await self._uploads.keep(address, attachment.sha256, kind, handle)
            return str(sent["message_id"])

        known = await self._uploads.find(address, attachment.sha256, kind)
        if known is not None:
            try:
                return await send(kind, known)
            except TelegramBadRequest:
                await self._uploads.forget(address, attachment.sha256, kind)
        file = _Upload(attachment.path, attachment.file_name)
        try:
            return await send(kind, file)
        except TelegramBadRequest as error:
            # A picture too long or too wide, a voice message to somebody who wants none: as a file all go.
            if kind == "document" or not any(word in error.message for word in _SHAPE_FAULTS):
                raise
            log.info("telegram.file_as_document", kind=kind, detail=error.message)
            return await send("document", file)
        except FileNotFoundError as error:
            raise DeliveryError("the file is gone from our disk", permanent=True) from error

    async def _sent_id(self, method: SendMessage) -> str:
        return str((await self._sent(method, REQUEST_SECONDS))["message_id"])

    async def _sent(self, method: TelegramMethod[Message], seconds: int) -> dict[str, Any]:
        """The message as Telegram tells it."""
        try:
            return (await self._bot(method, request_timeout=seconds)).model_dump(exclude_none=True)
        except ClientDecodeError as error:
            # It went out. To fail for a field of the answer that aiogram does not know would send it twice.
            match error.data:
                case {"ok": True, "result": {"message_id": _} as result}:
                    return dict(result)
            raise


class _Upload(InputFile):
    """A file of ours, read in chunks off the loop."""

    def __init__(self, path: Path, file_name: str) -> None:
        super().__init__(file_name, CHUNK_BYTES)
        self._path = path

    async def read(self, bot: Bot) -> AsyncGenerator[bytes, None]:
        file = await asyncio.to_thread(self._path.open, "rb")
        try:
            while chunk := await asyncio.to_thread(file.read, self.chunk_size):
                yield chunk
        finally:
            file.close()


_FILE_METHODS: dict[str, tuple[type[TelegramMethod[Message]], str]] = {
    "photo": (SendPhoto, "photo"),
    "animation": (SendAnimation, "animation"),
    "video": (SendVideo, "video"),
    "audio": (SendAudio, "audio"),
    "voice": (SendVoice, "voice"),
    "document": (SendDocument, "document"),
}
_SHAPE_FAULTS = (
    "PHOTO_INVALID_DIMENSIONS",
    "IMAGE_PROCESS_FAILED",
    "PHOTO_SAVE_FILE_INVALID",
    "VOICE_MESSAGES_FORBIDDEN",
)


def _file_id(sent: Mapping[str, Any], kind: str) -> str | None:
    """By which the file of a sent message can be sent again; of a photo that of the largest size."""
    file = sent.get(kind)
    file = file[-1] if isinstance(file, list) and file else file
    handle = file.get("file_id") if isinstance(file, dict) else None
    return handle if isinstance(handle, str) else None


@contextlib.contextmanager
def _delivery_errors() -> Iterator[None]:
    """What aiogram raises, as DeliveryError. A wrong token is not permanent: the operator will correct it."""
    try:
        yield
    except DeliveryError:
        raise
    except TelegramRetryAfter as error:
        raise DeliveryError("Telegram asks to wait", retry_after_seconds=float(error.retry_after)) from error
    except TelegramForbiddenError as error:
        raise UnreachableError(error.message, permanent=True) from error
    except (TelegramBadRequest, TelegramMigrateToChat, TelegramEntityTooLarge) as error:
        raise DeliveryError(error.message, permanent=True) from error
    except Exception as error:
        # Network, proxy and decoding errors have no common root, and of each the same is true: trying again may help.
        raise DeliveryError(f"Telegram could not be reached: {type(error).__name__}") from error


def _after(update: Any) -> int | None:
    """The offset that confirms this update."""
    update_id = update.get("update_id") if isinstance(update, dict) else None
    return update_id + 1 if isinstance(update_id, int) else None


def _chat_id(address: Address) -> int:
    try:
        return int(address.chat_id)
    except ValueError as error:
        raise DeliveryError(f"not a Telegram chat: {address.chat_id}", permanent=True) from error


def _quoting(message: OutboundMessage) -> ReplyParameters | None:
    """The answer goes out also when what it answers is gone."""
    quote = message.quote or ""
    if not (quote.isascii() and quote.isdecimal()):
        return None
    return ReplyParameters(message_id=int(quote), allow_sending_without_reply=True)


def _keyboard(options: tuple[Option, ...]) -> InlineKeyboardMarkup | None:
    rows = [[InlineKeyboardButton(text=option.label, callback_data=option.token)] for option in options]
    return InlineKeyboardMarkup(inline_keyboard=rows) if rows else None


def _too_large(limit: int) -> DeliveryError:
    return DeliveryError(f"the file is larger than {limit // 2**20} MB", permanent=True)
