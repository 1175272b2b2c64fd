"""Calls of the Bot API: what goes in, what comes back, and what its refusals mean for a message."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import ceil
from pathlib import Path
from typing import Any

from aiogram import Bot
from aiogram.exceptions import (
    ClientDecodeError,
    TelegramBadRequest,
    TelegramEntityTooLarge,
    TelegramForbiddenError,
    TelegramMigrateToChat,
    TelegramRetryAfter,
)
from aiogram.methods import (
    SendAnimation,
    SendAudio,
    SendDocument,
    SendMediaGroup,
    SendPhoto,
    SendVideo,
    SendVoice,
    TelegramMethod,
)
from aiogram.types import (
    InlineKeyboardButton,
    InlineKeyboardMarkup,
    InputFile,
    InputMediaPhoto,
    InputMediaVideo,
    Message,
    ReplyParameters,
)
from aiogram.utils.formatting import Text

from bot.channels.base import SCALE_CHARS, Address, Option, OutboundMessage
from bot.errors import DeliveryError, UnreachableError

MAX_IN_ROW = 8
"""Of short buttons, so that a finger finds the right one on a phone."""

REQUEST_SECONDS = 20
UPLOAD_SECONDS = 120
CHUNK_BYTES = 64 * 1024


@dataclass(frozen=True)
class Target:
    """Where a message goes."""

    chat_id: int
    connection: str | None = None
    """The business account in whose name it is sent, if it is one of these chats."""
    thread_id: int | None = None
    """The topic of a group, written after a #."""

    @classmethod
    def of(cls, address: Address) -> Target:
        """Raises DeliveryError for an address that is none of Telegram's."""
        connection, _, place = address.chat_id.rpartition("/")
        chat, _, thread = place.partition("#")
        try:
            return cls(int(chat), connection or None, int(thread) if thread else None)
        except ValueError as error:
            raise DeliveryError(f"not a Telegram chat: {address.chat_id}", permanent=True) from error


async def send(bot: Bot, method: TelegramMethod[Message], seconds: int = REQUEST_SECONDS) -> dict[str, Any]:
    """Call a method that sends; the message as Telegram tells it."""
    try:
        return (await bot(method, request_timeout=seconds)).model_dump(exclude_none=True)
    except ClientDecodeError as error:
        # It went out. To fail for a field of the answer that aiogram does not know would send it twice.
        match error.data:
            case {"ok": True, "result": {"message_id": _} as result}:
                return dict(result)
        raise


async def send_album(
    bot: Bot, files: Sequence[tuple[str, InputFile | str]], caption: Text | None, **where: Any
) -> list[dict[str, Any]]:
    """Send 2 to 10 photos and videos, each (kind, file or handle), as one; the words stand under the first. The
    messages as Telegram tells them, in the same order. Raises what aiogram raises."""
    words, entities = caption.render() if caption is not None else (None, None)
    media: list[InputMediaPhoto | InputMediaVideo] = []
    for number, (kind, file) in enumerate(files):
        made = InputMediaVideo if kind == "video" else InputMediaPhoto
        first: dict[str, Any] = {"caption": words, "caption_entities": entities or None} if number == 0 else {}
        media.append(made(media=file, parse_mode=None, **first))
    try:
        sent = await bot(SendMediaGroup(media=list(media), **where), request_timeout=UPLOAD_SECONDS)
        return [each.model_dump(exclude_none=True) for each in sent]
    except ClientDecodeError as error:
        match error.data:  # it went out, as above
            case {"ok": True, "result": list(found)}:
                return [dict(each) for each in found]
        raise


class Upload(InputFile):
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


FILE_METHODS: dict[str, tuple[type[TelegramMethod[Message]], str]] = {
    "photo": (SendPhoto, "photo"),
    "animation": (SendAnimation, "animation"),
    "video": (SendVideo, "video"),
    "audio": (SendAudio, "audio"),
    "voice": (SendVoice, "voice"),
    "document": (SendDocument, "document"),
}
SHAPE_FAULTS = (
    "PHOTO_INVALID_DIMENSIONS",
    "IMAGE_PROCESS_FAILED",
    "PHOTO_SAVE_FILE_INVALID",
    "VOICE_MESSAGES_FORBIDDEN",
)


def file_id(sent: Mapping[str, Any], kind: str) -> str | None:
    """By which the file of a sent message can be sent again; of a photo that of the largest size."""
    file = sent.get(kind)
    file = file[-1] if isinstance(file, list) and file else file
    handle = file.get("file_id") if isinstance(file, dict) else None
    return handle if isinstance(handle, str) else None


@contextlib.contextmanager
def delivery_errors() -> Iterator[None]:
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


def quoting(message: OutboundMessage) -> ReplyParameters | None:
    """The answer goes out also when what it answers is gone."""
    quote = message.quote or ""
    if not (quote.isascii() and quote.isdecimal()):
        return None
    return ReplyParameters(message_id=int(quote), allow_sending_without_reply=True)


def keyboard(options: tuple[Option, ...]) -> InlineKeyboardMarkup | None:
    """One below the other; of a scale several in a row."""
    rows: list[list[InlineKeyboardButton]] = []
    for of_scale, run in groupby(options, lambda option: len(option.label) <= SCALE_CHARS):
        buttons = [InlineKeyboardButton(text=option.label, callback_data=option.token) for option in run]
        lines = ceil(len(buttons) / MAX_IN_ROW) if of_scale and len(buttons) > 2 else len(buttons)
        width = ceil(len(buttons) / lines)
        rows += [buttons[first : first + width] for first in range(0, len(buttons), width)]
    return InlineKeyboardMarkup(inline_keyboard=rows) if rows else None
