"""What happens meanwhile: live events, and who else looks at a ticket."""

# No postponed annotations: FastAPI reads those of the routes below, and they name things of their function.
import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, Form, Request
from fastapi.responses import Response
from sse_starlette import EventSourceResponse, ServerSentEvent

from bot.desk.accounts import SignedIn
from bot.desk.feed import Change
from bot.notifications import calls
from bot.web.desk_base import COOKIE, PREFIX, DeskWeb, address
from bot.web.guards import Refusal
from handoff.access import Viewer

PING_SECONDS = 15
GATHER_SECONDS = 0.1
"""How long changes are gathered into one event."""
HERE_SECONDS = 12.0
"""How long somebody counts as looking at a ticket after the last sign of it."""
CHECK_SECONDS = 60
"""How often it is looked whether the session of an open page still holds, and what its owner may see."""


def create_router(web: DeskWeb) -> APIRouter:
    router = APIRouter(prefix=PREFIX, include_in_schema=False)
    Me = Annotated[SignedIn, Depends(web.signed_in)]  # noqa: N806 - a type

    @router.get("/events")
    async def events(request: Request, me: Me) -> EventSourceResponse:
        """`changes`: which tickets changed, and what the viewer is to be told of. `over`: the session has ended."""
        if web.feed.followers >= web.max_streams:
            raise Refusal("too_often", retry_after_seconds=PING_SECONDS)
        token, browser = request.cookies.get(COOKIE, ""), request.headers.get("user-agent", "")
        return EventSourceResponse(
            stream(me.viewer, token, browser, address(request)),
            ping=PING_SECONDS,
            headers={"Cache-Control": "no-store"},
        )

    async def stream(viewer: Viewer, token: str, browser: str, where: str) -> AsyncIterator[ServerSentEvent]:
        checked = time.monotonic()
        with web.feed.follow() as queue:
            yield ServerSentEvent("{}", event="hello")
            while True:
                changes: list[Change] = []
                try:
                    async with asyncio.timeout(CHECK_SECONDS):
                        changes.extend(await queue.get())
                    await asyncio.sleep(GATHER_SECONDS)
                    while not queue.empty():
                        changes.extend(queue.get_nowait())
                except TimeoutError:
                    pass
                if time.monotonic() > checked + CHECK_SECONDS:
                    checked = time.monotonic()
                    me = await web.accounts.whose(token, browser=browser, address=where)
                    if me is None:
                        yield ServerSentEvent("{}", event="over")
                        return
                    viewer = me.viewer  # his teams may be others by now
                seen = [change for change in changes if change.concerns(viewer)]
                if seen:
                    yield ServerSentEvent(_told(seen, viewer), event="changes")

    @router.post("/tickets/{ticket_id}/here")
    async def here(request: Request, ticket_id: int, me: Me, doing: Annotated[str, Form()] = "looks") -> Response:
        """A sign that the viewer has the ticket open; who else has, and what he does."""
        async with web.seat(me, writing=False) as seat:
            chat = await seat.chat_of(ticket_id)
        chat_id = chat.chat_id if chat.channel == web.site.name else ""
        group, now = f"desk:{ticket_id}", time.time()
        if doing != "leaves":
            state = "types" if doing == "types" else "looks"
            await web.shared.beat(group, f"{me.viewer.name}\t{state}\t{now:.0f}")
        if doing == "types" and chat_id:
            await web.site.types("agent", chat_id)
        others: dict[str, tuple[float, str]] = {}
        for member in await web.shared.present(group):
            name, _, rest = member.partition("\t")
            state, _, at = rest.partition("\t")
            if name != me.viewer.name and float(at) > now - HERE_SECONDS:
                others[name] = max(others.get(name, (0.0, "")), (float(at), state))
        return web.page(
            request,
            "_others.html",
            me,
            others={name: state for name, (_, state) in sorted(others.items())},
            customer_types=bool(chat_id) and await web.site.is_typing("customer", chat_id),
        )

    return router


def _told(changes: list[Change], viewer: Viewer) -> str:
    news = [
        {"ticket": change.ticket_id, "kind": change.kind, "who": change.who, "text": change.text}
        for change in changes
        if (change.kind == "message" and change.author == "customer" and change.assignee_id == viewer.agent_id)
        or (change.kind == "note" and change.who != viewer.name and calls(change.text, viewer.name))
        or (change.kind == "assigned" and change.assignee_id == viewer.agent_id and change.who != viewer.name)
    ]
    return json.dumps({"tickets": sorted({change.ticket_id for change in changes}), "news": news[-5:]})
