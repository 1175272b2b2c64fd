"""How updates come in: by asking for them, or by being called. What is not stored comes again."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
from aiogram import Bot
from aiogram.exceptions import TelegramConflictError
from aiogram.methods import TelegramMethod

from bot.channels.telegram_calls import REQUEST_SECONDS, delivery_errors
from bot.channels.telegram_updates import WANTED_UPDATES
from bot.errors import DeliveryError

log = structlog.get_logger()

LONGEST_RETRY_SECONDS = 30.0
IDLE_SECONDS = 0.1
"""Pause after an empty answer: a server that does not wait for updates must not be asked without end."""

Take = Callable[[Any], Awaitable[None]]
"""Stores one update as Telegram sent it. When it returns, Telegram may forget it."""


class _GetRawUpdates(TelegramMethod[list[Any]]):
    """getUpdates without aiogram's parse, in which one unreadable update of a hundred fails them all."""

    __returning__ = list[Any]
    __api_method__ = "getUpdates"

    offset: int | None
    timeout: int
    allowed_updates: list[str]


async def poll(bot: Bot, take: Take, *, poll_seconds: int, retry_seconds: float) -> None:
    """Ask until cancelled. An update whose `take` raises is asked for again, and those after it wait."""
    offset: int | None = None
    pause = retry_seconds
    called = True
    while True:
        try:
            if called:
                # While a webhook is set, Telegram refuses to be polled.
                with contextlib.suppress(DeliveryError), delivery_errors():
                    await bot.delete_webhook(drop_pending_updates=False, request_timeout=REQUEST_SECONDS)
                called = False
            updates = await bot(
                _GetRawUpdates(offset=offset, timeout=poll_seconds, allowed_updates=list(WANTED_UPDATES)),
                request_timeout=poll_seconds + REQUEST_SECONDS,
            )
            # What `offset` confirmed is forgotten now. Without one Telegram gives all the rest, even when it has
            # begun its ids anew at a lower number.
            offset = None
            for update in updates:
                await take(update)
                offset = _after(update) or offset
            pause = retry_seconds
            if offset is None:
                await asyncio.sleep(IDLE_SECONDS)
        except Exception as error:  # noqa: BLE001 - edge: whatever broke, nothing was confirmed, so it comes again
            # The text of some errors holds messages of customers, so only Telegram's own description is logged.
            detail = getattr(error, "message", "")
            log.warning("telegram.poll_failed", error=type(error).__name__, detail=detail, retry_seconds=pause)
            called = isinstance(error, TelegramConflictError) and "webhook" in error.message
            await asyncio.sleep(max(pause, getattr(error, "retry_after", 0)))
            pause = min(pause * 2, LONGEST_RETRY_SECONDS)


async def be_called(bot: Bot, url: str, secret: str, *, retry_seconds: float) -> None:
    """Tell Telegram where to call, as long as it takes, and wait until cancelled."""
    pause = retry_seconds
    while True:
        try:
            with delivery_errors():
                await bot.set_webhook(
                    url,
                    secret_token=secret,
                    allowed_updates=list(WANTED_UPDATES),
                    drop_pending_updates=False,
                    request_timeout=REQUEST_SECONDS,
                )
            log.info("telegram.webhook_set", bot=bot.id)
            await asyncio.Event().wait()
        except DeliveryError as error:
            log.warning("telegram.webhook_refused", detail=str(error), retry_seconds=pause)
            await asyncio.sleep(error.retry_after_seconds or pause)
            pause = min(pause * 2, LONGEST_RETRY_SECONDS)


def _after(update: Any) -> int | None:
    """The offset that confirms this update."""
    update_id = update.get("update_id") if isinstance(update, dict) else None
    return update_id + 1 if isinstance(update_id, int) else None
