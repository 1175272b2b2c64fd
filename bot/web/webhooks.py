"""Where platforms call. What is not theirs is refused before anything of it is stored or read."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import structlog
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.requests import ClientDisconnect

from bot.metrics import WEBHOOKS as WEBHOOK_CALLS

log = structlog.get_logger()

WEBHOOKS = "/webhooks/"
WHATSAPP_PATH = f"{WEBHOOKS}whatsapp"
EVENTS_PATH = f"{WEBHOOKS}events"
HELPDESK_PATH = f"{WEBHOOKS}helpdesk"
TELEGRAM_PATH = f"{WEBHOOKS}telegram"
MAX_BODY_BYTES = 3 * 1024 * 1024
"""The most that Meta sends in one call."""
BODY_SECONDS = 10.0
"""How long a body may take to arrive."""
MAX_CHALLENGE_CHARS = 200


@dataclass(frozen=True)
class WhatsAppHook:
    """What the WhatsApp webhook needs.

    take: stores what came and acts on it; when it returns, Meta may forget it. False for a repeat.
    """

    app_secret: str
    verify_token: str
    take: Callable[[bytes], Awaitable[bool]]


@dataclass(frozen=True)
class TelegramHook:
    """What the Telegram webhook needs.

    take: stores an update of a bot (its id) as Telegram sent it; when it returns, Telegram may forget it.
    """

    secret: str
    take: Callable[[Any, str], Awaitable[None]]
    accounts: Collection[str] = ()
    """The bots' ids: each is called under its own address. The first one's is also without an id."""


@dataclass(frozen=True)
class HelpDeskHook:
    """changed: told the id of a ticket in the help desk to which something happened; False where it is not ours."""

    secret: str
    changed: Callable[[str], Awaitable[bool]]


TakeEvent = Callable[[bytes, Mapping[str, str]], Awaitable[tuple[int, dict[str, Any]]]]
"""Does what a signed call (body, headers) asks for; the status and the words of the answer, 401 where it is not
signed."""


class Webhooks:
    """The routes, and how many calls were refused, by channel and reason."""

    def __init__(
        self,
        *,
        whatsapp: WhatsAppHook | None = None,
        telegram: TelegramHook | None = None,
        helpdesk: HelpDeskHook | None = None,
        events: TakeEvent | None = None,
        body_seconds: float = BODY_SECONDS,
    ) -> None:
        self.refused: Counter[tuple[str, str]] = Counter()
        self.taken: Counter[tuple[str, str]] = Counter()
        """Calls taken, by channel and `new` or `repeat`."""
        self.router = APIRouter(include_in_schema=False)
        self._body_seconds = body_seconds
        self._whatsapp = whatsapp
        if whatsapp is not None:
            self.router.add_api_route(WHATSAPP_PATH, self._verify_whatsapp, methods=["GET"])
            self.router.add_api_route(WHATSAPP_PATH, self._take_whatsapp, methods=["POST"])
        self._telegram = telegram
        if telegram is not None:
            self.router.add_api_route(TELEGRAM_PATH, self._take_telegram, methods=["POST"])
            self.router.add_api_route(TELEGRAM_PATH + "/{account}", self._take_telegram, methods=["POST"])
        self._events = events
        if events is not None:
            self.router.add_api_route(EVENTS_PATH, self._take_event, methods=["POST"])
        self._helpdesk = helpdesk
        if helpdesk is not None:
            self.router.add_api_route(f"{HELPDESK_PATH}/{{secret}}", self._take_helpdesk, methods=["POST"])

    async def _verify_whatsapp(self, request: Request) -> Response:
        """Meta's question whether this address is ours: the challenge goes back for the right token."""
        assert self._whatsapp is not None  # noqa: S101 - the route is there with it alone
        asked = request.query_params
        challenge, given = asked.get("hub.challenge", ""), asked.get("hub.verify_token", "")
        if asked.get("hub.mode") != "subscribe" or not _same(given, self._whatsapp.verify_token):
            return self._refuse("whatsapp", "verify_token", 403)
        if not challenge.isascii() or not challenge.isalnum() or len(challenge) > MAX_CHALLENGE_CHARS:
            return self._refuse("whatsapp", "challenge", 400)
        return PlainTextResponse(challenge)

    async def _take_whatsapp(self, request: Request) -> Response:
        assert self._whatsapp is not None  # noqa: S101
        body = await self._body(request, "whatsapp")
        if isinstance(body, Response):
            return body
        signature = "sha256=" + hmac.new(self._whatsapp.app_secret.encode(), body, hashlib.sha256).hexdigest()
        if not _same(request.headers.get("x-hub-signature-256", ""), signature):
            return self._refuse("whatsapp", "signature", 401)
        new = await self._whatsapp.take(body)
        self._took("whatsapp", "new" if new else "repeat")
        return Response(status_code=200)

    async def _take_telegram(self, request: Request) -> Response:
        assert self._telegram is not None  # noqa: S101
        if not _same(request.headers.get("x-telegram-bot-api-secret-token", ""), self._telegram.secret):
            return self._refuse("telegram", "secret", 401)
        account = request.path_params.get("account", "")
        if account and account not in self._telegram.accounts:
            return self._refuse("telegram", "unknown_bot", 404)
        body = await self._body(request, "telegram")
        if isinstance(body, Response):
            return body
        try:
            update = json.loads(body, parse_constant=lambda _: None)
        except (ValueError, RecursionError):
            return self._refuse("telegram", "not_json", 400)
        await self._telegram.take(update, account)
        self._took("telegram", "new")
        return Response(status_code=200)

    async def _take_event(self, request: Request) -> Response:
        assert self._events is not None  # noqa: S101
        body = await self._body(request, "events")
        if isinstance(body, Response):
            return body
        status, words = await self._events(body, request.headers)
        if status == 401:
            return self._refuse("events", "signature", 401)
        self.taken["events", str(status)] += 1
        return JSONResponse(words, status)

    async def _take_helpdesk(self, request: Request) -> Response:
        """Something happened there. Calls carry no signature, so of the body nothing but the ticket's id is read."""
        assert self._helpdesk is not None  # noqa: S101
        if not _same(request.path_params["secret"], self._helpdesk.secret):
            return self._refuse("helpdesk", "secret", 401)
        body = await self._body(request, "helpdesk")
        if isinstance(body, Response):
            return body
        try:
            remote_id = str(json.loads(body)["ticket"]["id"])
        except (ValueError, RecursionError, KeyError, TypeError):
            return self._refuse("helpdesk", "not_understood", 400)
        known = await self._helpdesk.changed(remote_id[:64])
        self.taken["helpdesk", "new" if known else "unknown"] += 1
        return Response(status_code=200)

    async def _body(self, request: Request, channel: str) -> bytes | Response:
        """The whole body, if it is small enough and comes in time."""
        said = request.headers.get("content-length", "0")
        if said.isdecimal() and int(said) > MAX_BODY_BYTES:
            return self._refuse(channel, "too_large", 413)
        body = bytearray()
        try:
            async with asyncio.timeout(self._body_seconds):
                async for chunk in request.stream():
                    body += chunk
                    if len(body) > MAX_BODY_BYTES:
                        return self._refuse(channel, "too_large", 413)
        except TimeoutError:
            return self._refuse(channel, "too_slow", 408)
        except ClientDisconnect:
            return self._refuse(channel, "broken_off", 400)
        return bytes(body)

    def _took(self, channel: str, result: str) -> None:
        self.taken[channel, result] += 1
        WEBHOOK_CALLS.labels(channel, result).inc()

    def _refuse(self, channel: str, reason: str, status: int) -> Response:
        self.refused[channel, reason] += 1
        WEBHOOK_CALLS.labels(channel, reason).inc()
        log.warning("webhook.refused", channel=channel, reason=reason)
        # The rest of a body that is not read must not be taken for the next request.
        return PlainTextResponse(reason, status, headers={"Connection": "close"})


def _same(given: str, expected: str) -> bool:
    """Whether two secrets are equal, in a time that tells nothing of where they differ."""
    return bool(expected) and hmac.compare_digest(given.encode("utf-8", "replace"), expected.encode())
