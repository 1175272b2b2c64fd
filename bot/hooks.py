"""Webhooks both ways, as the Standard Webhooks specification 1.0.0 has them: what happens to tickets is told to one
address, and a tracker or another system tells of tasks, statuses and comments.

Out: an event is a row, written in the transaction of what it tells of, and sent by an errand of its own until somebody
takes it (2xx) or it is given up, which stays visible. Its id makes a repeat known. In: every call is signed, and done
once by its id.
"""

from __future__ import annotations

import json
import secrets
from base64 import b64encode
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, Literal

import httpx
import structlog
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from sqlalchemy import ForeignKey, Index, String, Text, delete, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from bot.addresses import address_of
from bot.desk.agent_desk import AgentDesk
from bot.errors import DeliveryError, SettingsError
from bot.timers import send_errand
from bot.work import Sessions
from handoff import desk as conversations
from handoff.errors import HandoffError, TicketNotFoundError, TicketStateError
from handoff.lifecycle import TicketStatus
from handoff.records import NOTE, Agent, Author, Base, BigId, Conversation, Customer, HistoryEntry, Message, Ticket

log = structlog.get_logger()

HOOK = "webhook"
"""Kind of the errand."""
MAX_ATTEMPTS = 30
"""With the pauses of errands, about a day."""
KEPT = timedelta(days=30)
SEND_SECONDS = 15.0
MAX_TEXT_CHARS = 8000
TEXTS = {"agent_replied": Author.AGENT, "customer_wrote": Author.CUSTOMER}
"""Events that somebody's words belong to."""


class HookState(StrEnum):
    WAITING = "waiting"
    SENT = "sent"
    DEAD = "dead"
    """Given up. `otvet webhooks retry` sends it again."""


class HookEvent(Base):
    """One event for the address."""

    __tablename__ = "hook_events"
    __table_args__ = (Index("ix_hook_events_state", "state", "created_at"),)

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    type: Mapped[str] = mapped_column(String(64))
    ticket_id: Mapped[BigId | None] = mapped_column(ForeignKey("tickets.id"))
    body: Mapped[str] = mapped_column(Text)
    """Exactly what is signed and sent."""
    state: Mapped[HookState] = mapped_column(default=HookState.WAITING)
    attempts: Mapped[int] = mapped_column(default=0)
    error: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime]
    done_at: Mapped[datetime | None]


class HookReceived(Base):
    """An event that came in and was done."""

    __tablename__ = "hook_received"

    id: Mapped[str] = mapped_column(String(256), primary_key=True)
    at: Mapped[datetime] = mapped_column(index=True)


class Hooks:
    """What happens to tickets, told to one address."""

    def __init__(
        self,
        *,
        url: str,
        secret: str,
        sessions: Sessions,
        clock: Callable[[], datetime],
        events: Collection[str] = (),
        private: bool = False,
    ) -> None:
        """events: of which to tell (`ticket.created`), none: of all. private: addresses of this machine and its
        networks, and http://, may be called. Raises SettingsError."""
        if not private and not url.startswith("https://"):
            raise SettingsError(
                "OTVET_HOOK_URL: expected https://, or set OTVET_HOOK_PRIVATE=true for your own network"
            )
        self._url = httpx.URL(url)
        self._signer = signer(secret, "OTVET_HOOK_SECRET")
        self._sessions = sessions
        self._clock = clock
        self._events = frozenset(events)
        self._private = private

    async def heard(self, session: AsyncSession, ticket: Ticket, entry: HistoryEntry) -> None:
        """A `Listener` of the tickets."""
        kind = f"ticket.{entry.event}"
        if self._wants(kind):
            await self.tell(session, kind, await _facts(session, ticket, entry), entry.at, ticket.id)

    async def erased(
        self, session: AsyncSession, customer_id: int | None, tickets: Sequence[int], now: datetime
    ) -> None:
        """A customer was erased: whoever was told of him may have to do the same."""
        if self._wants("customer.erased"):
            data = {"customer_id": customer_id, "ticket_ids": list(tickets)}
            await self.tell(session, "customer.erased", data, now)

    def _wants(self, kind: str) -> bool:
        return not self._events or kind in self._events

    async def tell(
        self, session: AsyncSession, kind: str, data: Mapping[str, Any], now: datetime, ticket_id: int | None = None
    ) -> str:
        """Have an event sent after the commit; its id."""
        event_id = f"msg_{secrets.token_hex(12)}"
        body = {"type": kind, "timestamp": now.isoformat(), "data": data}
        session.add(
            HookEvent(
                id=event_id,
                type=kind,
                ticket_id=ticket_id,
                body=json.dumps(body, ensure_ascii=False, default=str),
                created_at=now,
            )
        )
        await session.flush()
        await send_errand(session, f"{HOOK}:{event_id}", HOOK, now, {"id": event_id})
        return event_id

    async def send(self, payload: Mapping[str, Any]) -> None:
        """The errand. Raises DeliveryError: it is tried again."""
        now = self._clock()
        async with self._sessions.begin() as session:
            event = await session.get(HookEvent, payload["id"])
            if event is None or event.state is not HookState.WAITING:
                return
            event.attempts += 1
        problem: DeliveryError | None = None
        try:
            await self.post(event)
        except DeliveryError as error:
            problem = error
        async with self._sessions.begin() as session:
            row = await session.get_one(HookEvent, event.id)
            row.error = str(problem) if problem else None
            if problem is None:
                row.state, row.done_at = HookState.SENT, now
                await session.execute(
                    delete(HookEvent).where(HookEvent.state == HookState.SENT, HookEvent.done_at < now - KEPT)
                )
            elif problem.permanent or row.attempts >= MAX_ATTEMPTS:
                row.state, row.done_at = HookState.DEAD, now
                log.error("webhook.dead", event_id=row.id, type=row.type, attempts=row.attempts)
                problem = None
        if problem is not None:
            raise problem

    async def post(self, event: HookEvent) -> None:
        """Send it now. Raises DeliveryError; `permanent` when the receiver wants nothing any more."""
        now = self._clock()
        headers = {
            "content-type": "application/json",
            "webhook-id": event.id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": self._signer.sign(event.id, now, event.body),
            "host": self._url.netloc.decode(),
        }
        url = self._url.copy_with(host=await self._address())
        try:
            # Nothing of the answer but its status is of interest, and a redirection may lead anywhere.
            async with (
                httpx.AsyncClient(timeout=SEND_SECONDS, trust_env=False, follow_redirects=False) as client,
                client.stream(
                    "POST",
                    url,
                    content=event.body.encode(),
                    headers=headers,
                    extensions={"sni_hostname": self._url.host},
                ) as response,
            ):
                status = response.status_code
        except httpx.HTTPError as error:
            raise DeliveryError(f"can't be reached: {type(error).__name__}") from error
        if not 200 <= status < 300:
            raise DeliveryError(f"answered {status}", permanent=status == 410)

    async def _address(self) -> str:
        found = await address_of(self._url, private=self._private)
        if found is None:
            raise DeliveryError("leads into a private network: OTVET_HOOK_PRIVATE=true allows that")
        return found


def new_secret() -> str:
    return "whsec_" + b64encode(secrets.token_bytes(32)).decode()


def signer(secret: str, setting: str) -> Webhook:
    """Raises SettingsError for what is no secret."""
    try:
        made = Webhook(secret)
    except Exception as error:
        raise SettingsError(f"{setting}: expected what `otvet webhooks secret` prints") from error
    if len(made._whsecret) < 24:  # the least that the specification allows
        raise SettingsError(f"{setting}: too short; `otvet webhooks secret` prints a good one")
    return made


async def _facts(session: AsyncSession, ticket: Ticket, entry: HistoryEntry) -> dict[str, Any]:
    conversation = await conversations.get_conversation(session, ticket.conversation_id)
    customer = await session.get(Customer, conversation.customer_id) if conversation.customer_id else None
    assignee = await session.get(Agent, ticket.assignee_id) if ticket.assignee_id else None
    names = ("status", "reason", "topic", "team", "level", "priority", "segment", "lang", "subject", "hold_task")
    return {
        "ticket_id": ticket.id,
        **{name: getattr(ticket, name) for name in names},
        "assignee": assignee.name if assignee else None,
        "created_at": ticket.created_at.isoformat(),
        "promised_at": ticket.promised_at.isoformat(),
        "actor": entry.actor,
        "details": entry.details,
        "channel": conversation.channel,
        "text": await _last_words(session, conversation, entry),
        "customer": {
            "id": conversation.customer_id,
            "name": (customer.name if customer else None) or conversation.customer_name,
            "phone": customer.phone if customer else None,
            "email": customer.email if customer else None,
        },
    }


async def _last_words(session: AsyncSession, conversation: Conversation, entry: HistoryEntry) -> str | None:
    author = TEXTS.get(entry.event)
    if author is None:
        return None
    text = await session.scalar(
        select(Message.text)
        .where(Message.conversation_id == conversation.id, Message.author == author, Message.kind != NOTE)
        .order_by(Message.id.desc())
        .limit(1)
    )
    return text[:MAX_TEXT_CHARS] if text else None


# In


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class TaskDone(_Data):
    """A linked task ended: whoever waits for it goes on, and the customers are told."""

    task: str = Field(min_length=1, max_length=500)
    outcome: str = Field("", max_length=MAX_TEXT_CHARS)


class Comment(_Data):
    """A word to the customer, or a note."""

    ticket_id: int
    text: str = Field(min_length=1, max_length=MAX_TEXT_CHARS)
    public: bool = False
    agent: str = Field("Support", min_length=1, max_length=200)


class Status(_Data):
    ticket_id: int
    status: Literal["open", "resolved", "closed"]
    why: str = Field("", max_length=500)
    agent: str = Field("Support", min_length=1, max_length=200)


class _TaskDone(_Data):
    type: Literal["task.done"]
    data: TaskDone


class _Comment(_Data):
    type: Literal["ticket.comment"]
    data: Comment


class _Status(_Data):
    type: Literal["ticket.status"]
    data: Status


_KNOWN = TypeAdapter[_TaskDone | _Comment | _Status](
    Annotated[_TaskDone | _Comment | _Status, Field(discriminator="type")]
)
TYPES = frozenset({"task.done", "ticket.comment", "ticket.status"})


class HookReceiver:
    """Does what signed calls ask for."""

    def __init__(self, *, secret: str, desk: AgentDesk, sessions: Sessions, clock: Callable[[], datetime]) -> None:
        self._signer = signer(secret, "OTVET_HOOK_IN_SECRET")
        self._desk = desk
        self._sessions = sessions
        self._clock = clock

    async def take(self, body: bytes, headers: Mapping[str, str]) -> tuple[int, dict[str, Any]]:
        """The status and the words of the answer. What was done once is not done again."""
        try:
            self._signer.verify(body, dict(headers), json_parse=False)
        except (WebhookVerificationError, ValueError):  # a signature that is no base64, a body that is no text
            return 401, {"error": "the signature or its time is wrong"}
        try:
            said = json.loads(body)
            if not isinstance(said, dict) or not isinstance(said.get("type"), str):
                return 400, {"error": "expected an object with `type` and `data`"}
            if said["type"] not in TYPES:
                return 202, {"ignored": said["type"][:64]}
            event = _KNOWN.validate_python(said)
        except ValidationError as error:
            return 400, {"error": "; ".join(f"{'.'.join(map(str, e['loc'][1:]))}: {e['msg']}" for e in error.errors())}
        except (ValueError, RecursionError):
            return 400, {"error": "this is no JSON"}
        try:
            async with self._sessions.begin() as session:
                if not await self._is_new(session, headers["webhook-id"]):
                    return 200, {"repeat": True}
                return 200, await self._do(session, event)
        except TicketNotFoundError as error:
            return 404, {"error": str(error)}
        except HandoffError as error:
            return 409, {"error": str(error)}

    async def _is_new(self, session: AsyncSession, event_id: str) -> bool:
        now = self._clock()
        insert = postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
        stored = await session.scalar(
            insert(HookReceived).values(id=event_id[:256], at=now).on_conflict_do_nothing().returning(HookReceived.id)
        )
        await session.execute(delete(HookReceived).where(HookReceived.at < now - KEPT))
        return stored is not None

    async def _do(self, session: AsyncSession, event: _TaskDone | _Comment | _Status) -> dict[str, Any]:
        match event:
            case _TaskDone(data=data):
                found = await self._desk.task_done(session, data.task, outcome=data.outcome)
                return {"tickets": [ticket.id for ticket in found]}
            case _Comment(data=said) if said.public:
                await self._desk.reply(session, said.ticket_id, said.text, agent=said.agent)
            case _Comment(data=said):
                await self._desk.note(session, said.ticket_id, said.text, agent=said.agent)
            case _Status(data=wanted):
                await self._set(session, wanted)
        return {"done": event.type}

    async def _set(self, session: AsyncSession, wanted: Status) -> None:
        if wanted.status == "resolved":
            await self._desk.settle(session, wanted.ticket_id, agent=wanted.agent)
        elif wanted.status == "closed":
            await self._desk.close(session, wanted.ticket_id, why=wanted.why or "closed elsewhere", agent=wanted.agent)
        else:
            await self._open(session, await conversations.get_ticket(session, wanted.ticket_id), wanted.agent)

    async def _open(self, session: AsyncSession, ticket: Ticket, agent: str) -> None:
        """People go on with it, whatever it waited for."""
        await conversations.lock_ticket(session, ticket)
        match ticket.status:
            case TicketStatus.RESOLVED | TicketStatus.CLOSED:
                await self._desk.reopen(session, ticket.id, agent=agent)
            case TicketStatus.AWAITING_FEEDBACK:
                await self._desk.take_up(session, ticket.id, agent=agent)
            case TicketStatus.ON_HOLD:
                await self._desk.resume(session, ticket.id, agent=agent)
            case status:
                raise TicketStateError(ticket.id, status, "opened: it is")


async def retry(session: AsyncSession, now: datetime, event_id: str | None = None) -> int:
    """Send dead events again, one or all; how many."""
    dead = select(HookEvent).where(HookEvent.state == HookState.DEAD)
    rows = await session.scalars(dead.where(HookEvent.id == event_id) if event_id else dead)
    found = rows.all()
    for event in found:
        event.state, event.attempts, event.done_at = HookState.WAITING, 0, None
        await send_errand(session, f"{HOOK}:{event.id}", HOOK, now, {"id": event.id})
    return len(found)


async def hook_figures(session: AsyncSession) -> tuple[int, int, str | None]:
    """How many events wait, how many were given up, and the last fault."""
    counts = await session.execute(select(HookEvent.state, func.count()).group_by(HookEvent.state))
    by_state = {row[0]: row[1] for row in counts}
    fault = await session.scalar(
        select(HookEvent.error)
        .where(HookEvent.state != HookState.SENT, HookEvent.error.is_not(None))
        .order_by(HookEvent.created_at.desc())
        .limit(1)
    )
    return by_state.get(HookState.WAITING, 0), by_state.get(HookState.DEAD, 0), fault
