"""The queue: views, filters, search, saved views, and acting on many at once."""

# No postponed annotations: FastAPI reads those of the routes below, and they name things of their function.
from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Form, Request
from fastapi.responses import RedirectResponse, Response

from bot.desk.accounts import SignedIn
from bot.desk.seat import Seat
from bot.errors import UnseenWordsError
from bot.web.desk_base import PREFIX, DeskWeb, is_partial
from bot.web.guards import Refusal
from handoff.access import row_id
from handoff.errors import HandoffError
from handoff.queue import Query, View

MAX_WORDS_CHARS = 200
MOST_AT_ONCE = 200
"""Tickets that one bulk action takes: each is a transaction of its own."""
NAMED = 10
"""Of them by number in what is said after it."""


def read_query(params: Mapping[str, str]) -> Query:
    """From an address. What is not known in it counts as not there."""
    known: dict[str, Any] = {
        field.name: params[field.name][:MAX_WORDS_CHARS]
        for field in fields(Query)
        if field.name not in ("view", "page") and params.get(field.name)
    }
    view = params.get("view", "")
    page = params.get("page", "")
    return Query(
        view=View(view) if view in set(View) else View.MINE,
        page=min(int(page), 10_000) if page.isdecimal() else 0,
        **known,
    )


def write_query(query: Query, **changes: Any) -> str:
    """As a part of an address."""
    changed = replace(query, **changes)
    return urlencode({field.name: value for field in fields(Query) if (value := getattr(changed, field.name))})


def _chosen(values: Iterable[str]) -> dict[int, int | None]:
    """Tickets as a list's boxes name them, `ticket:message`: each with the newest message that was shown of it."""
    parts = (value.partition(":") for value in values)
    return {number: row_id(seen) for ticket, _, seen in parts if (number := row_id(ticket)) is not None}


async def list_values(seat: Seat, query: Query, ticket_id: int = 0) -> dict[str, Any]:
    """What the list and the views beside it are made of."""
    return {
        "query": query,
        "write": write_query,
        "found": await seat.find(query),
        "counts": await seat.counts(),
        "saved": await seat.saved_views(),
        "View": View,
        "ticket_id": ticket_id,
        "undo_seconds": 0,
    }


def create_router(web: DeskWeb) -> APIRouter:
    router = APIRouter(prefix=PREFIX, include_in_schema=False)
    Me = Annotated[SignedIn, Depends(web.signed_in)]  # noqa: N806 - a type

    @router.get("")
    async def begin(_me: Me) -> Response:
        return RedirectResponse(f"{PREFIX}/queue", 303)

    @router.get("/queue")
    async def queue_page(request: Request, me: Me) -> Response:
        query = read_query(request.query_params)
        async with web.seat(me, writing=False) as seat:
            if not request.query_params:
                counts = await seat.counts()
                if not counts[View.MINE]:  # nothing of one's own: what can be taken
                    query = replace(query, view=View.UNASSIGNED)
            open_id = request.query_params.get("open", "")
            values = await list_values(seat, query, int(open_id) if open_id.isdecimal() else 0)
        return web.page(request, "_list.html" if is_partial(request) else "queue.html", me, **values)

    @router.post("/queue/many")
    async def act_on_many(request: Request, me: Me, act: Annotated[str, Form()]) -> Response:
        form = await request.form()
        chosen = _chosen(str(value) for value in form.getlist("ticket"))
        if len(chosen) > MOST_AT_ONCE:
            raise Refusal("too_many_chosen")
        to = str(form.get("to", ""))
        done = failed = 0
        unread: list[int] = []
        for ticket_id, seen in chosen.items():
            try:
                async with web.seat(me) as seat:
                    await seat.act_on_one_of_many(ticket_id, act, to, seen_id=seen)
                done += 1
            except UnseenWordsError:
                unread.append(ticket_id)
            except HandoffError:
                failed += 1
        async with web.seat(me, writing=False) as seat:
            values = await list_values(seat, read_query({k: str(v) for k, v in form.items()}))
        answer = web.page(request, "_list.html", me, **values)
        if unread:
            numbers = ", ".join(str(each) for each in unread[:NAMED]) + (", …" if len(unread) > NAMED else "")
            return web.told(answer, me, "many_unread", done=done, failed=failed, unread=numbers)
        return web.told(answer, me, "many", done=done, failed=failed)

    @router.post("/views")
    async def save_view(
        me: Me, name: Annotated[str, Form(max_length=80)], query: Annotated[str, Form(max_length=2000)] = ""
    ) -> Response:
        name = " ".join(name.split())
        if not name:
            raise Refusal("invalid")
        async with web.seat(me) as seat:
            await seat.save_view(name, query)
        return RedirectResponse(f"{PREFIX}/queue?{query}", 303)

    @router.post("/views/{view_id}/forget")
    async def forget_view(view_id: int, me: Me) -> Response:
        async with web.seat(me) as seat:
            await seat.forget_view(view_id)
        return RedirectResponse(f"{PREFIX}/queue", 303)

    return router
