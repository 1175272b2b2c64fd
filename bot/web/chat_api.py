"""The site chat's interface under /api/chat: sessions, messages, files and the live transcript.

A session is known by a token that only the browser has; its SHA-256 is the conversation's chat id. The token
travels in the Authorization header and never in an address or a cookie, so there is nothing for another site
to ride on.
"""

# No postponed annotations: FastAPI reads those of the routes below, and they name things of their function.
import asyncio
import hashlib
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from math import inf
from time import monotonic
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, File, Form, Header, Request, Response, UploadFile
from fastapi.responses import FileResponse
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import exists, select
from sse_starlette import EventSourceResponse, ServerSentEvent

from bot.attachments import CHUNK_BYTES
from bot.channels.base import Address, InboundMessage
from bot.channels.site import NAME, TYPES_SECONDS, SiteChannel
from bot.email_proof import EmailProof
from bot.errors import DeliveryError, FileGoneError, TooLargeError
from bot.flows.proof import NewCode
from bot.ledger import InboxRow, InboxState, Sessions
from bot.metrics import RATE_LIMITED
from bot.shared import PRESENT_SECONDS, Rate
from bot.web.guards import Refusal, caller
from bot.web.markup import render
from handoff import desk
from handoff.records import Attachment, AttachmentState, Author, Conversation, Delivery, Message

MAX_TEXT_CHARS = 100_000
MAX_STREAMS = 20
"""Tabs of one session that may listen at once."""
SESSIONS_A_MINUTE = 30
"""From one address."""
FILES_A_MINUTE = 10
TYPING_A_MINUTE = 30
EMAILS_A_MINUTE = 5
PING_SECONDS = 15
DEAF_POLL_SECONDS = 1.0
"""How often a stream looks while other processes can't wake it."""
INLINE_TYPES = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp"})
"""Shown in the page. Anything else is only ever saved, so that no uploaded file runs as a page."""


class EmailPost(BaseModel):
    """An address, and then the code that was sent to it."""

    model_config = ConfigDict(extra="forbid")

    email: str = Field(max_length=254)
    code: str = Field("", max_length=20)
    lang: Literal["ru", "en"] = "ru"


class Post(BaseModel):
    """What the browser sends. client_id: made by the browser once per message, so that a retry is no double."""

    model_config = ConfigDict(extra="forbid")

    client_id: UUID
    kind: Literal["text", "start", "choice"] = "text"
    text: str = ""
    choice: str | None = None
    lang: Literal["ru", "en"] | None = None


@dataclass(frozen=True)
class Session:
    conversation_id: int
    chat_id: str

    def external_id(self, client_id: str) -> str:
        # Ids made by browsers are set apart by session: nobody can occupy another's.
        return f"{self.chat_id[:16]}:{client_id}"


@dataclass(frozen=True)
class Page:
    """What a listener has not seen yet."""

    messages: list[Message]
    state: dict[str, Any]
    unsettled: bool
    """Something is still on its way: look again soon."""


def create_router(
    *,
    sessions: Sessions,
    receive: Callable[[InboundMessage], Awaitable[bool]],
    clock: Callable[[], datetime],
    site: SiteChannel,
    messages_a_minute: int,
    max_streams: int,
    idle_poll_seconds: float = 20,
    email: EmailProof | None = None,
) -> APIRouter:
    """The routes. email: how a customer proves that an address is his; None: not at all.

    idle_poll_seconds: how often a quiet stream looks by itself all the same.
    """
    router = APIRouter(prefix="/api/chat")

    async def count(kind: str, who: str, a_minute: int) -> None:
        """Raises Refusal, with the time to wait, when there were too many."""
        if wait := await site.shared.take(Rate(f"{kind}:{who}", 60 / a_minute, burst=a_minute)):
            RATE_LIMITED.labels(kind).inc()
            raise Refusal("too_often", retry_after_seconds=wait)

    async def authenticated(authorization: Annotated[str, Header()] = "") -> Session:
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise Refusal("no_session")
        chat_id = hashlib.sha256(token.encode()).hexdigest()
        async with sessions() as session:
            conversation_id = await session.scalar(
                select(Conversation.id).where(
                    Conversation.channel == site.name, Conversation.account == "", Conversation.chat_id == chat_id
                )
            )
        if conversation_id is None:
            raise Refusal("no_session")
        return Session(conversation_id, chat_id)

    Authenticated = Annotated[Session, Depends(authenticated)]  # noqa: N806 - a type

    @router.post("/sessions", status_code=201)
    async def open_session(request: Request) -> dict[str, str]:
        await count("site-sessions", caller(request), SESSIONS_A_MINUTE)
        token = secrets.token_urlsafe(32)
        chat_id = hashlib.sha256(token.encode()).hexdigest()
        async with sessions.begin() as session:
            await desk.open_conversation(session, channel=site.name, account="", chat_id=chat_id, now=clock())
        return {"token": token}

    @router.post("/messages", status_code=202)
    async def post_message(post: Post, me: Authenticated) -> dict[str, bool]:
        """Stored when this returns. `new` is false for a repeat."""
        if len(post.text) > MAX_TEXT_CHARS:
            raise Refusal("too_long")
        if (post.kind == "choice") != bool(post.choice) or len(post.choice or "") > 64:
            raise Refusal("invalid")
        await count("site-messages", me.chat_id, messages_a_minute)
        return await stored(
            InboundMessage(
                address=Address(site.name, "", me.chat_id),
                external_id=me.external_id("start" if post.kind == "start" else str(post.client_id)),
                sent_at=clock(),
                kind=post.kind,
                text=post.text,
                choice=post.choice,
                lang_hint=post.lang,
            )
        )

    @router.post("/email", status_code=202)
    async def ask_code(post: EmailPost, request: Request, me: Authenticated) -> dict[str, int]:
        """Send a code to an address, and say for how many minutes it is good."""
        if email is None:
            raise Refusal("not_found")
        await count("site-email", me.chat_id, EMAILS_A_MINUTE)
        await count("site-email-from", caller(request), 2 * EMAILS_A_MINUTE)
        try:
            made = await email.ask(Address(site.name, "", me.chat_id), post.email, post.lang)
        except DeliveryError as error:
            raise Refusal("mail_away") from error
        if made is None:
            raise Refusal("no_email")
        if not isinstance(made, NewCode):
            RATE_LIMITED.labels("site-email-codes").inc()
            raise Refusal(made)
        return {"minutes": made.minutes}

    @router.post("/email/code")
    async def take_code(post: EmailPost, me: Authenticated) -> dict[str, bool]:
        """Whoever repeats the code has the address."""
        if email is None:
            raise Refusal("not_found")
        await count("site-email-code", me.chat_id, 2 * EMAILS_A_MINUTE)
        refusal = await email.confirm(Address(site.name, "", me.chat_id), me.conversation_id, post.email, post.code)
        if refusal is not None:
            raise Refusal(refusal)
        return {"proved": True}

    @router.post("/typing", status_code=204)
    async def types(me: Authenticated) -> Response:
        """The customer is writing at this moment: his agent sees it."""
        await count("site-typing", me.chat_id, TYPING_A_MINUTE)
        await site.types("customer", me.chat_id)
        return Response(status_code=204)

    @router.post("/files", status_code=202)
    async def post_file(
        me: Authenticated,
        client_id: Annotated[UUID, Form()],
        file: Annotated[UploadFile, File()],
        lang: Annotated[Literal["ru", "en"] | None, Form()] = None,
    ) -> dict[str, bool]:
        await count("site-messages", me.chat_id, messages_a_minute)
        await count("site-files", me.chat_id, FILES_A_MINUTE)
        try:
            attachment = await site.keep(_chunks(file), file.filename or "")
        except TooLargeError as error:
            raise Refusal("too_large") from error
        return await stored(
            InboundMessage(
                address=Address(site.name, "", me.chat_id),
                external_id=me.external_id(str(client_id)),
                sent_at=clock(),
                kind="attachment",
                attachments=(attachment,),
                lang_hint=lang,
            )
        )

    async def stored(message: InboundMessage) -> dict[str, bool]:
        new = await receive(message)
        await site.wake(message.address.chat_id)
        return {"new": new}

    @router.get("/files/{attachment_id}")
    async def get_file(attachment_id: int, me: Authenticated) -> Response:
        async with sessions() as session:
            found = await session.scalar(
                select(Attachment)
                .join(Message, Message.id == Attachment.message_id)
                .where(Attachment.id == attachment_id, Message.conversation_id == me.conversation_id)
            )
        if found is None or found.state is not AttachmentState.STORED or not found.sha256:
            raise Refusal("not_found")
        try:
            path = await site.store.local(found.sha256)
        except FileGoneError as error:
            raise Refusal("not_found") from error
        inline = found.mime_type in INLINE_TYPES
        return FileResponse(
            path,
            media_type=found.mime_type if inline else "application/octet-stream",
            filename=found.file_name or "file",
            content_disposition_type="inline" if inline else "attachment",
            headers={"Cache-Control": "private, max-age=31536000, immutable"},
        )

    @router.get("/events")
    async def events(me: Authenticated, last_event_id: Annotated[int, Header(ge=0)] = 0) -> EventSourceResponse:
        """The transcript after `Last-Event-ID`, then whatever is added to it, until the browser goes.

        Events: `message` (its id is the message's), `state` (who has the conversation), `live` (all that was
        there has been sent).
        """
        if site.listeners(me.chat_id) >= MAX_STREAMS or site.shared.listeners() >= max_streams:
            RATE_LIMITED.labels("site-streams").inc()
            raise Refusal("too_often", retry_after_seconds=PING_SECONDS)
        return EventSourceResponse(stream(me, last_event_id), ping=PING_SECONDS, headers={"Cache-Control": "no-store"})

    async def stream(me: Session, after_id: int) -> AsyncIterator[ServerSentEvent]:
        shown_state: dict[str, Any] | None = None
        live, typing, soon, seen_at = False, False, 0.1, -inf
        with site.listen(me.chat_id) as woken:
            while True:
                woken.clear()
                if monotonic() - seen_at > PRESENT_SECONDS / 4:
                    seen_at = monotonic()
                    await site.shared.beat(NAME, me.chat_id)
                page = await read_page(sessions, me.conversation_id, me.chat_id, after_id)
                for message in page.messages:
                    after_id = message.id
                    yield ServerSentEvent(_dumps(_message_json(message)), event="message", id=str(message.id))
                if page.state != shown_state:
                    shown_state = page.state
                    yield ServerSentEvent(_dumps(page.state), event="state")
                if typing != (types := await site.is_typing("agent", me.chat_id)):
                    typing = types
                    yield ServerSentEvent(_dumps({"agent": typing}), event="typing")
                if not live:
                    live = True
                    yield ServerSentEvent("{}", event="live")
                soon = 0.1 if page.messages or not page.unsettled else min(soon * 2, 3.0)
                try:
                    idle = idle_poll_seconds if site.shared.live else DEAF_POLL_SECONDS
                    idle = min(idle, TYPES_SECONDS) if typing else idle
                    async with asyncio.timeout(soon if page.unsettled else idle):
                        await woken.wait()
                except TimeoutError:
                    continue

    return router


async def read_page(sessions: Sessions, conversation_id: int, chat_id: str, after_id: int) -> Page:
    """What comes after a message, as far as it is settled."""
    async with sessions() as session:
        rows = await desk.transcript(session, conversation_id, after_id=after_id, notes=False)
        conversation = await desk.get_conversation(session, conversation_id)
        ticket = await desk.open_ticket(session, conversation_id)
        waiting = await session.scalar(
            select(
                exists().where(
                    InboxRow.state == InboxState.PENDING,
                    InboxRow.channel == NAME,
                    InboxRow.account == "",
                    InboxRow.chat_id == chat_id,
                )
            )
        )
    messages: list[Message] = []
    queued = False
    for row in rows:
        # A queued reply may yet be discarded; nothing behind it is shown before that is settled, because a
        # listener never goes back.
        if row.delivery is Delivery.QUEUED:
            queued = True
            break
        if row.delivery is not Delivery.DISCARDED:
            messages.append(row)
    state = {"owner": conversation.owner.value, "ticket_id": ticket.id if ticket else None}
    return Page(messages, state, unsettled=queued or bool(waiting))


async def _chunks(file: UploadFile) -> AsyncIterator[bytes]:
    while chunk := await file.read(CHUNK_BYTES):
        yield chunk


def _dumps(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _message_json(message: Message) -> dict[str, Any]:
    """As the browser gets it. `html` is set where the text is Markdown of ours; a customer's text stays text."""
    ours = message.author is not Author.CUSTOMER
    return {
        "id": message.id,
        "author": message.author.value,
        "agent_name": message.agent_name,
        "kind": message.kind,
        "text": message.text,
        "html": render(message.text) if ours else None,
        "options": message.options if ours else [],
        "at": message.created_at.isoformat(),
        "client_id": (message.external_id or "").rpartition(":")[2] if not ours else None,
        "attachments": [
            {
                "id": attachment.id,
                "kind": attachment.kind,
                "state": attachment.state.value,
                "name": attachment.file_name,
                "inline": attachment.mime_type in INLINE_TYPES,
                "size_bytes": attachment.size_bytes,
            }
            for attachment in message.attachments
        ],
    }
