"""How often something may come in, at every door. Who comes too often is told when to come again, before anything of
what he sends is read, and each refusal is counted by its door.

What a customer or a colleague does too often is also counted where it is known who he is: `bot.web.chat_api` (messages,
files), `bot.desk.accounts` (names at the sign-in), `bot.web.desk_ticket` (replies).
"""

from __future__ import annotations

import hashlib
import re
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from bot.metrics import RATE_LIMITED
from bot.shared import LocalShared, Rate, Shared
from bot.web.desk_base import COOKIE, PREFIX, STUDIO
from bot.web.guards import caller, refuse
from bot.work import DATABASE_AWAY

REQUESTS_A_MINUTE = 3000
EVENTS_A_MINUTE = 300
MINUTE = 60.0
KNOWN = 10_000
"""Sessions that are remembered as live, each for a minute."""
Lives = Callable[[str], Awaitable[bool]]
"""Whether the token of a cookie is of a session that somebody has."""


async def nobody(_token: str) -> bool:
    """Where nobody can sign in."""
    return False


@dataclass(frozen=True)
class Door:
    """Requests that are counted together: so many a minute from one address, all at once or evenly."""

    name: str
    path: re.Pattern[str]
    """Of the whole path."""
    a_minute: int
    posts: bool = True
    """Whether only what changes something is counted."""


def doors(events_a_minute: int = EVENTS_A_MINUTE) -> Sequence[Door]:
    """The narrow ones; the first that fits counts. Platforms have none of their own: they come again by themselves
    when they are refused, and what they send is bounded by what customers may write."""
    return (
        Door("webhook-events", re.compile(r"/webhooks/events"), events_a_minute),
        Door("webhook-helpdesk", re.compile(r"/webhooks/helpdesk/.*"), 600),
        Door("desk-invitation", re.compile(rf"{PREFIX}/welcome/.*"), 60, posts=False),
        Door("desk-invite", re.compile(rf"{PREFIX}/people/invite"), 60),
        Door("studio-import", re.compile(rf"{STUDIO}/.*/import"), 20),
        Door("studio-train", re.compile(rf"{STUDIO}/versions/(train|.*/try)"), 20),
        Door("studio", re.compile(rf"{STUDIO}(/.*)?"), 300),
        Door("desk", re.compile(rf"{PREFIX}(/.*)?"), 600),
    )


class RateLimits:
    """The narrow doors are counted for all processes together; all that an address asks for, in each by itself."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        shared: Shared,
        doors: Sequence[Door],
        lives: Lives = nobody,
        requests_a_minute: int = REQUESTS_A_MINUTE,
        platforms: str = "/webhooks/",
    ) -> None:
        """lives: who counts by his session; everybody else does by his address. requests_a_minute: of one address
        over all doors; 0: without end. platforms: paths that this leaves out."""
        self._app, self._shared, self._doors, self._platforms = app, shared, doors, platforms
        self._all = requests_a_minute
        self._here = LocalShared()
        self._lives = lives
        self._known: OrderedDict[str, float] = OrderedDict()
        """Digest of a live session's token → until when that is believed."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        who = caller(request)
        name, wait = "", 0.0
        if self._all and not scope["path"].startswith(self._platforms):
            name, wait = "all", await self._here.take(Rate(f"all:{who}", MINUTE / self._all, self._all))
        if not wait and (door := self._door(scope)) is not None:
            # Colleagues behind one address are told apart by their sessions.
            session = await self._session(request) if door.posts else ""
            key = f"door:{door.name}:{who}:{session}"
            name, wait = door.name, await self._shared.take(Rate(key, MINUTE / door.a_minute, door.a_minute))
        if wait:
            RATE_LIMITED.labels(f"door:{name}").inc()
            await refuse(request, "too_many_requests", {"Retry-After": str(int(wait) + 1)})(scope, receive, send)
            return
        await self._app(scope, receive, send)

    async def _session(self, request: Request) -> str:
        """Digest of the caller's session; empty without one. A made-up cookie is none, and opens no count of its
        own."""
        token = request.cookies.get(COOKIE, "")
        if not token:
            return ""
        digest, now = hashlib.sha256(token.encode()).hexdigest()[:32], time.monotonic()
        if self._known.get(digest, 0.0) > now:
            return digest
        self._known.pop(digest, None)
        try:
            if not await self._lives(token):
                return ""
        except DATABASE_AWAY:
            return ""  # whatever is asked for fails in its turn, and says so
        self._known[digest] = now + MINUTE
        while len(self._known) > KNOWN:
            self._known.popitem(last=False)
        return digest

    def _door(self, scope: Scope) -> Door | None:
        changes = scope["method"] not in ("GET", "HEAD", "OPTIONS")
        path = scope["path"]
        return next((door for door in self._doors if (changes or not door.posts) and door.path.fullmatch(path)), None)
