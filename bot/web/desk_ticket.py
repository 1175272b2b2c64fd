"""A ticket's page: transcript and packet, and everything that can be done with it."""

# No postponed annotations: FastAPI reads those of the routes below, and they name things of their function.
import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, File, Form, Query, Request, UploadFile
from fastapi.responses import FileResponse, JSONResponse, RedirectResponse, Response
from starlette.background import BackgroundTask

from bot.attachments import CHUNK_BYTES, StoredFile
from bot.desk.accounts import SignedIn
from bot.desk.seat import MAX_FILES, MAX_REPLY_CHARS, Draft, Seat
from bot.errors import FileGoneError, StaleReplyError, TooLargeError
from bot.metrics import RATE_LIMITED
from bot.shared import Rate
from bot.web.desk_base import PREFIX, DeskWeb, is_partial
from bot.web.desk_queue import list_values, read_query
from bot.web.guards import Refusal
from handoff.access import Viewer
from handoff.errors import TicketHeldError
from handoff.lifecycle import LIVE
from handoff.packet import Packet, PacketMessage
from handoff.routing import PRIORITIES

FIRST_SHOWN = 60
"""Messages that are shown at once; earlier ones are fetched when they are asked for."""
MARKS = 20
"""Messages whose marks (sent, read, edited) a look brings up to date."""
CHANGED = timedelta(seconds=60)
"""So long a look shows a changed message anew. Open pages look at once when told, and every 20 s."""
REPLIES_A_MINUTE = 60
INLINE_TYPES = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp"})


def ticket_values(packet: Packet, web: DeskWeb, viewer: Viewer) -> dict[str, Any]:
    shown = packet.transcript[-FIRST_SHOWN:]
    spoken = [m for m in packet.transcript if m.kind not in ("note", "reaction")]
    attempts = [m for m in packet.transcript if m.author == "assistant" and (m.decision or {}).get("action")]
    return {
        "ticket": packet,
        "messages": shown,
        "earlier": len(packet.transcript) - len(shown),
        "newest_id": packet.transcript[-1].id if packet.transcript else 0,
        "newest_agent_id": max((m.id for m in spoken if m.author == "agent"), default=0),
        "live": packet.status in LIVE,
        "acting": viewer.works_on(packet.team, packet.assignee),
        "attempts": attempts,
        "priorities": PRIORITIES,
        "flows": web.flows(packet.lang),
        "templates": web.templates.previews(
            packet.lang,
            {
                "ticket_number": str(packet.ticket_id),
                "customer_name": packet.conversation.customer_name or "",
                "shop": web.shop.get(packet.lang, ""),
            },
        ),
        "max_reply_chars": MAX_REPLY_CHARS,
        "max_file_bytes": web.site.store.max_bytes,
        "inline_types": INLINE_TYPES,
    }


def create_router(web: DeskWeb) -> APIRouter:
    router = APIRouter(prefix=f"{PREFIX}/tickets/{{ticket_id}}", include_in_schema=False)
    Me = Annotated[SignedIn, Depends(web.signed_in)]  # noqa: N806 - a type
    Seen = Annotated[int | None, Form(ge=0)]  # noqa: N806

    def news_since(packet: Packet, newest_id: int) -> dict[str, Any]:
        """What a page does not show that has everything up to a message."""
        known = [message for message in packet.transcript if message.id <= newest_id]
        lately = web.clock() - CHANGED
        return {
            "messages": [message for message in packet.transcript if message.id > newest_id],
            "marked": known[-MARKS:],
            "changed": [message for message in known if message.changed_at and message.changed_at > lately],
        }

    async def everything(seat: Seat, packet: Packet) -> dict[str, Any]:
        return {
            **ticket_values(packet, web, seat.viewer),
            "under_way": await seat.under_way(packet.ticket_id),
            "colleagues": await seat.colleagues(),
            "ways": await seat.ways(packet.ticket_id) if len(packet.customer.conversations) > 1 else (),
        }

    @router.get("")
    async def ticket_page(request: Request, ticket_id: int, me: Me) -> Response:
        query = read_query(request.query_params)
        async with web.seat(me) as seat:
            values = await everything(seat, await seat.look(ticket_id))
            if not is_partial(request):
                values = {**await list_values(seat, query, ticket_id), **values}
        return web.page(
            request,
            "_ticket.html" if is_partial(request) else "ticket.html",
            me,
            **{"query": query, **values, "ticket_id": ticket_id},
        )

    @router.get("/news")
    async def news(
        request: Request,
        ticket_id: int,
        me: Me,
        after: int = 0,
        card: bool = False,
        over: Annotated[int | None, Query(ge=1)] = None,
    ) -> Response:
        """What came after a message, and the ticket's state. card: also the customer's side, which changes seldom.
        over: the colleague from whom the page offers to take it."""
        async with web.seat(me, writing=False) as seat:
            packet = await seat.refresh(ticket_id)
            values = ticket_values(packet, web, me.viewer)
            values |= {"under_way": await seat.under_way(ticket_id), "card": card}
            if over and packet.assignee and packet.assignee != me.viewer.name:
                values["held"] = TicketHeldError(ticket_id, over, packet.assignee)
        return web.page(request, "_news.html", me, **{**values, **news_since(packet, after)})

    @router.get("/earlier")
    async def earlier(request: Request, ticket_id: int, me: Me, before: int) -> Response:
        async with web.seat(me, writing=False) as seat:
            packet = await seat.refresh(ticket_id)
        known: list[PacketMessage] = [message for message in packet.transcript if message.id < before]
        values = ticket_values(packet, web, me.viewer)
        values |= {"messages": known[-FIRST_SHOWN:], "earlier": max(len(known) - FIRST_SHOWN, 0)}
        return web.page(request, "_earlier.html", me, **values)

    # Answering

    @router.post("/reply")
    async def reply(
        request: Request,
        ticket_id: int,
        me: Me,
        key: Annotated[str, Form(min_length=8, max_length=64)],
        text: Annotated[str, Form()] = "",
        seen: Annotated[int, Form(ge=0)] = 0,
        seen_agent: Annotated[int, Form(ge=0)] = 0,
        quote: Annotated[int | None, Form(ge=1)] = None,
        template: Annotated[str, Form(max_length=64)] = "",
        then: Annotated[str, Form(pattern="^(|finish|resolve)$")] = "",
        files: Annotated[list[UploadFile] | None, File()] = None,
    ) -> Response:
        """Take a reply. 409 with what came meanwhile, and nothing is sent then."""
        if wait := await web.shared.take(Rate(f"desk-replies:{me.viewer.account_id}", 60 / REPLIES_A_MINUTE, 20)):
            RATE_LIMITED.labels("desk-replies").inc()
            raise Refusal("too_often", retry_after_seconds=wait)
        text = text.replace("\r\n", "\n").strip()
        sent = [file for file in files or [] if file.filename]
        if len(text) > MAX_REPLY_CHARS or len(sent) > MAX_FILES:
            raise Refusal("reply_too_long")
        if not text and not sent:
            raise Refusal("empty")
        if template and template not in web.templates.ids:
            raise Refusal("invalid")
        stored = tuple([await _keep(web, file) for file in sent])
        draft = Draft(
            key=key,
            text=text,
            seen_id=seen,
            seen_agent_id=seen_agent,
            files=stored,
            quote_id=quote,
            template=template,
            then=then,
        )
        stale: StaleReplyError | None = None
        try:
            async with web.seat(me) as seat:
                await seat.reply(ticket_id, draft, undo_seconds=me.undo_seconds)
        except StaleReplyError as error:
            stale = error
        async with web.seat(me, writing=False) as seat:
            packet = await seat.refresh(ticket_id)
            values = await everything(seat, packet)
        values |= news_since(packet, seen)
        answer = web.page(request, "_news.html", me, 409 if stale else 200, **values)
        if stale and stale.waiting:
            return web.told(answer, me, "colleague_answers", name=", ".join(stale.waiting))
        return web.told(answer, me, "stale") if stale else answer

    @router.post("/take-back/{outgoing_id}")
    async def take_back(ticket_id: int, outgoing_id: int, me: Me) -> Response:
        async with web.seat(me) as seat:
            taken = await seat.take_back(ticket_id, outgoing_id)
        if taken is None:
            return web.told(JSONResponse({}, 409), me, "gone_already")
        return JSONResponse({"text": taken.text, "files": len(taken.files)})

    @router.post("/messages/{message_id}")
    async def edit(
        request: Request,
        ticket_id: int,
        message_id: int,
        me: Me,
        text: Annotated[str, Form(max_length=MAX_REPLY_CHARS)] = "",
    ) -> Response:
        """Change one's own reply, where the platform can."""
        text = text.replace("\r\n", "\n").strip()
        if not text:
            raise Refusal("empty")
        async with web.seat(me) as seat:
            await seat.edit(ticket_id, message_id, text)
        async with web.seat(me, writing=False) as seat:
            values = await everything(seat, await seat.refresh(ticket_id))
        values["changed"] = [message for message in values["ticket"].transcript if message.id == message_id]
        return web.page(request, "_edited.html", me, **values)

    @router.post("/note")
    async def note(
        request: Request,
        ticket_id: int,
        me: Me,
        text: Annotated[str, Form(max_length=MAX_REPLY_CHARS)] = "",
        seen: Annotated[int, Form(ge=0)] = 0,
    ) -> Response:
        text = text.replace("\r\n", "\n").strip()
        if not text:
            raise Refusal("empty")
        async with web.seat(me) as seat:
            await seat.note(ticket_id, text)
        return await news(request, ticket_id, me, after=seen)

    @router.get("/files/{attachment_id}")
    async def get_file(ticket_id: int, attachment_id: int, me: Me) -> Response:
        async with web.seat(me, writing=False) as seat:
            found = await seat.file(ticket_id, attachment_id)
        inline = found.mime_type in INLINE_TYPES
        try:
            path = await web.site.store.local(str(found.sha256))
        except FileGoneError as error:
            raise Refusal("not_found") from error
        return FileResponse(
            path,
            media_type=found.mime_type if inline else "application/octet-stream",
            filename=found.file_name or "file",
            content_disposition_type="inline" if inline else "attachment",
            headers={
                "Cache-Control": "private, max-age=3600",
                "Content-Security-Policy": "default-src 'none'; sandbox",
            },
        )

    # Moving

    async def act(
        request: Request, ticket_id: int, me: SignedIn, work: Callable[[Seat], Awaitable[object]], said: str
    ) -> Response:
        """Do it, and show the ticket as it is then; or, where a colleague has it, the question whether to go on."""
        held: TicketHeldError | None = None
        try:
            async with web.seat(me) as seat:
                await work(seat)
        except TicketHeldError as error:
            if not is_partial(request):
                raise
            held = error
        if not is_partial(request):
            return RedirectResponse(f"{PREFIX}/tickets/{ticket_id}", 303)
        async with web.seat(me, writing=False) as seat:
            try:
                values = await everything(seat, await seat.refresh(ticket_id))
            except LookupError:
                values = {}
        values |= {"query": read_query({}), "ticket_id": ticket_id, "held": held}
        answer = web.page(request, "_ticket.html", me, **values)
        return web.told(answer, me, "held_by", name=held.holder) if held else web.told(answer, me, said)

    @router.post("/take")
    async def take(
        request: Request, ticket_id: int, me: Me, over: Annotated[int | None, Form(ge=1)] = None
    ) -> Response:
        """over: the colleague from whom it is taken, as the page said that he has it."""
        return await act(request, ticket_id, me, lambda seat: seat.take(ticket_id, over=over), "taken")

    @router.post("/assign")
    async def assign(
        request: Request,
        ticket_id: int,
        me: Me,
        to: Annotated[str, Form(max_length=200)] = "",
        why: Annotated[str, Form(max_length=2000)] = "",
    ) -> Response:
        return await act(request, ticket_id, me, lambda seat: seat.assign(ticket_id, to, why.strip()), "assigned")

    @router.post("/transfer")
    async def transfer(
        request: Request,
        ticket_id: int,
        me: Me,
        topic: Annotated[str, Form(max_length=64)],
        why: Annotated[str, Form(max_length=2000)] = "",
    ) -> Response:
        if topic not in web.desk.tickets.topics.all or not why.strip():
            raise Refusal("invalid")
        return await act(request, ticket_id, me, lambda seat: seat.transfer(ticket_id, topic, why.strip()), "moved")

    @router.post("/escalate")
    async def escalate(
        request: Request,
        ticket_id: int,
        me: Me,
        details: Annotated[str, Form(max_length=4000)],
        urgency: Annotated[str, Form(pattern="^(low|medium|high)$")] = "medium",
    ) -> Response:
        if not details.strip():
            raise Refusal("invalid")
        work = lambda seat: seat.escalate(ticket_id, details.strip(), urgency)  # noqa: E731
        return await act(request, ticket_id, me, work, "escalated")

    @router.post("/hold")
    async def hold(
        request: Request,
        ticket_id: int,
        me: Me,
        task: Annotated[str, Form(max_length=500)],
        until: Annotated[date | None, Form()] = None,
    ) -> Response:
        if not task.strip():
            raise Refusal("invalid")
        when = datetime.combine(until, time(9), web.zone).astimezone(UTC) if until else None
        if until == web.clock().astimezone(web.zone).date():
            when = web.clock() + timedelta(hours=1)
        return await act(request, ticket_id, me, lambda seat: seat.hold(ticket_id, task.strip(), when), "held")

    @router.post("/resume")
    async def resume(request: Request, ticket_id: int, me: Me) -> Response:
        return await act(request, ticket_id, me, lambda seat: seat.resume(ticket_id), "resumed")

    @router.post("/change")
    async def change(
        request: Request,
        ticket_id: int,
        me: Me,
        priority: Annotated[str | None, Form()] = None,
        complexity: Annotated[int | None, Form(ge=1, le=3)] = None,
        subject: Annotated[str | None, Form(max_length=200)] = None,
    ) -> Response:
        if priority is not None and priority not in PRIORITIES:
            raise Refusal("invalid")
        subject = (subject or "").strip() or None
        work = lambda seat: seat.change(  # noqa: E731
            ticket_id, priority=priority, complexity=complexity, subject=subject
        )
        return await act(request, ticket_id, me, work, "changed")

    @router.post("/merge")
    async def merge(request: Request, ticket_id: int, me: Me, into: Annotated[int, Form(ge=1)]) -> Response:
        return await act(request, ticket_id, me, lambda seat: seat.merge(ticket_id, into), "merged")

    @router.post("/elsewhere")
    async def elsewhere(
        request: Request,
        ticket_id: int,
        me: Me,
        conversation: Annotated[int, Form(ge=1)],
        text: Annotated[str, Form(max_length=MAX_REPLY_CHARS)] = "",
    ) -> Response:
        text = text.replace("\r\n", "\n").strip()
        if not text:
            raise Refusal("empty")
        work = lambda seat: seat.reply_elsewhere(ticket_id, conversation, text)  # noqa: E731
        return await act(request, ticket_id, me, work, "elsewhere")

    @router.post("/same-person")
    async def same_person(request: Request, ticket_id: int, me: Me, customer: Annotated[int, Form(ge=1)]) -> Response:
        return await act(request, ticket_id, me, lambda seat: seat.same_person(ticket_id, customer), "linked")

    @router.post("/not-same-person")
    async def not_same(request: Request, ticket_id: int, me: Me, conversation: Annotated[int, Form(ge=1)]) -> Response:
        return await act(request, ticket_id, me, lambda seat: seat.not_same_person(ticket_id, conversation), "unlinked")

    @router.get("/kept")
    async def kept(request: Request, ticket_id: int, me: Me) -> Response:
        """What would go, in numbers."""
        async with web.seat(me, writing=False) as seat:
            found = await seat.kept(ticket_id)
        return web.page(request, "_kept.html", me, kept=found)

    @router.get("/customer.zip")
    async def export(ticket_id: int, me: Me) -> Response:
        """All that is kept about the ticket's customer."""
        async with web.seat(me, writing=False) as seat:
            customer_id = await seat.customer(ticket_id)
        folder = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="otvet-export-"))
        try:
            await web.exporter.write(
                folder / "customer.zip", customer_id=customer_id, by=me.viewer.name, address=me.address
            )
        except BaseException:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
            raise
        return FileResponse(
            folder / "customer.zip",
            media_type="application/zip",
            filename=f"customer-{customer_id}.zip",
            headers={"Cache-Control": "no-store"},
            background=BackgroundTask(shutil.rmtree, folder, ignore_errors=True),
        )

    @router.post("/erase")
    async def erase(request: Request, ticket_id: int, me: Me, number: Annotated[str, Form(max_length=20)]) -> Response:
        async with web.seat(me, writing=False) as seat:
            customer_id = await seat.customer(ticket_id)
        if number.strip() != str(customer_id):
            raise Refusal("wrong_number")
        return await act(request, ticket_id, me, lambda seat: seat.erase(ticket_id, web.eraser), "erased")

    @router.post("/finish")
    async def finish(request: Request, ticket_id: int, me: Me, seen: Seen = None) -> Response:
        return await act(request, ticket_id, me, lambda seat: seat.finish(ticket_id, seen_id=seen), "finished")

    @router.post("/resolve")
    async def resolve(request: Request, ticket_id: int, me: Me, seen: Seen = None) -> Response:
        return await act(request, ticket_id, me, lambda seat: seat.resolve(ticket_id, seen_id=seen), "resolved")

    @router.post("/close")
    async def close(
        request: Request, ticket_id: int, me: Me, why: Annotated[str, Form(max_length=500)], seen: Seen = None
    ) -> Response:
        if not why.strip():
            raise Refusal("invalid")
        return await act(
            request, ticket_id, me, lambda seat: seat.close(ticket_id, why.strip(), seen_id=seen), "closed"
        )

    @router.post("/return")
    async def give_back(request: Request, ticket_id: int, me: Me, seen: Seen = None) -> Response:
        return await act(
            request, ticket_id, me, lambda seat: seat.return_to_assistant(ticket_id, seen_id=seen), "returned"
        )

    @router.post("/flow")
    async def flow(request: Request, ticket_id: int, me: Me, flow: Annotated[str, Form(max_length=64)]) -> Response:
        lang = me.viewer.lang
        titles = dict(web.flows(lang))
        if flow not in titles:
            raise Refusal("invalid")
        work = lambda seat: seat.start_flow(ticket_id, flow, titles[flow])  # noqa: E731
        return await act(request, ticket_id, me, work, "started_flow")

    @router.post("/reopen")
    async def reopen(request: Request, ticket_id: int, me: Me) -> Response:
        return await act(request, ticket_id, me, lambda seat: seat.reopen(ticket_id), "reopened")

    return router


async def _keep(web: DeskWeb, file: UploadFile) -> StoredFile:
    async def chunks() -> AsyncIterator[bytes]:
        while chunk := await file.read(CHUNK_BYTES):
            yield chunk

    try:
        return await web.site.store.store(chunks(), file.filename or "")
    except TooLargeError as error:
        raise Refusal("too_large") from error
