"""What agents are told beside the desk, by whatever messenger or mail they use.

A notice is a row, written in the transaction of what it tells of. One errand for each address sends what waits there:
joined, within quiet hours and limits, off the event loop. A process that dies between the messenger's word and our
commit repeats a message rather than losing it; nothing here can hold up a turn.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import datetime, time, timedelta
from enum import StrEnum
from typing import Any
from zoneinfo import ZoneInfo

import structlog
from sqlalchemy import ForeignKey, Index, String, Text, delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column

from bot.errors import DeliveryError
from bot.language import DEFAULT, LANGUAGES
from bot.replies import Replies
from bot.timers import Timer, cancel_timer, send_errand, set_timer
from bot.work import Sessions
from handoff import desk
from handoff.history import CUSTOMER
from handoff.lifecycle import LIVE
from handoff.records import Agent, Base, BigId, ClockRow, HistoryEntry, TeamNotify, Ticket
from handoff.staff import acts, find_agent, seniors
from handoff.tickets import Tickets

log = structlog.get_logger()

NOTIFY = "notify"
UNASSIGNED = "unassigned"
"""Kinds of the errand and of the timer."""
EVERYBODY = "*"
MAX_ATTEMPTS = 12
"""With the pauses of errands, some four hours."""
KEPT = timedelta(days=30)
MAX_LINES = 20
TRANSIENT = frozenset({"created", "assigned", "taken_over", "customer_wrote", "came_back", "warned", "unassigned"})
"""Of no interest once the ticket has ended."""
SEND_SECONDS = 30.0

Deliver = Callable[[str, str, str], Awaitable[None]]
"""Sends (address, title, body). Raises DeliveryError, whose words never hold the address."""


class NoticeState(StrEnum):
    WAITING = "waiting"
    SENT = "sent"
    FAILED = "failed"
    DROPPED = "dropped"
    """Of no use any more when its turn came: the ticket had ended, or the address was taken away."""


class Notice(Base):
    """One thing that one address is to be told."""

    __tablename__ = "notices"
    __table_args__ = (
        Index("ix_notices_lane", "recipient", "address", "state", "done_at"),
        Index("ix_notices_done_at", "done_at"),
    )

    id: Mapped[BigId] = mapped_column(primary_key=True)
    recipient: Mapped[str] = mapped_column(String(80))
    """`agent:ID` or `team:NAME`."""
    address: Mapped[str] = mapped_column(String(16))
    """A digest: the address itself is a secret."""
    event: Mapped[str] = mapped_column(String(32))
    ticket_id: Mapped[BigId | None] = mapped_column(ForeignKey("tickets.id"))
    text: Mapped[str] = mapped_column(Text)
    urgent: Mapped[bool] = mapped_column(default=False)
    state: Mapped[NoticeState] = mapped_column(default=NoticeState.WAITING)
    attempts: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[datetime]
    done_at: Mapped[datetime | None]


class Notices:
    def __init__(
        self,
        *,
        tickets: Tickets,
        replies: Replies,
        clock: Callable[[], datetime],
        sessions: Sessions,
        deliver: Deliver | None = None,
    ) -> None:
        self._tickets = tickets
        self._policy = tickets.policy.notify
        self._replies = replies
        self._clock = clock
        self._sessions = sessions
        self._deliver = deliver or apprise_deliver

    # What happened

    async def heard(self, session: AsyncSession, ticket: Ticket, entry: HistoryEntry) -> None:
        """A `Listener` of the tickets."""
        agent, details = ticket.assignee_id, entry.details
        match entry.event:
            case "created":
                hours = self._tickets.policy.hours_of(ticket.team)
                night = ticket.priority == "urgent" and not hours.contains(entry.at)
                await self.tell_team(session, ticket, "urgent" if night else "created", entry.at)
            case "transferred":
                await self.tell_team(session, ticket, "created", entry.at)
            case "changed" if "team" in details.get("after", {}):  # one that stands in for a team without agents
                await self.tell_team(session, ticket, "created", entry.at)
            case "rerouted" if "team" in details:
                await self.tell_team(session, ticket, "created", entry.at)
            case "changed" if entry.actor == CUSTOMER and details["after"].get("priority") == "urgent":
                if agent is not None:
                    await self.tell_agent(session, agent, ticket, "urgent", entry.at, raised=True)
                else:
                    await self.tell_team(session, ticket, "urgent", entry.at, raised=True)
            case "assigned" if agent is not None:
                if entry.actor != details.get("agent"):
                    foreign = details.get("foreign")
                    await self.tell_agent(session, agent, ticket, "assigned", entry.at, foreign=foreign)
                if details.get("before") not in (None, entry.actor):
                    await self._tell_holder(session, ticket, entry)
            case "customer_wrote" if agent is not None:
                await self.tell_agent(session, agent, ticket, "customer_wrote", entry.at)
            case "wrote_elsewhere" if agent is not None:
                values = {"elsewhere": details["channel"]}
                await self.tell_agent(session, agent, ticket, "customer_wrote", entry.at, **values)
            case "resumed" | "reopened" | "not_helped" if agent is not None:
                holder = await session.get_one(Agent, agent)
                if entry.actor != holder.name:
                    await self.tell_agent(session, agent, ticket, "came_back", entry.at, what=entry.event)
            case "not_delivered" if agent is not None:
                await self.tell_agent(session, agent, ticket, "undelivered", entry.at)
            case "not_delivered" if ticket.status not in LIVE:
                await self.tell_team(session, ticket, "undelivered", entry.at)
            case "customer_wrote" | "resumed" | "reopened" | "not_helped" | "not_delivered":
                await self._nobodys(session, ticket, entry)
            case "warned" | "breached":
                row = await session.get(ClockRow, (ticket.id, details["clock"]))
                values = {"clock": details["clock"], "due_at": row.due_at if row else None}
                if agent is not None:
                    await self.tell_agent(session, agent, ticket, entry.event, entry.at, **values)
                if agent is None or entry.event == "breached":
                    await self.tell_team(session, ticket, entry.event, entry.at, **values)
            case "escalated":
                await self.tell_team(session, ticket, "escalated", entry.at, level=details.get("level"))
                if details.get("nobody"):
                    for one in await seniors(session, self._tickets.policy, ticket):
                        await self.tell_agent(session, one.id, ticket, "escalated", entry.at, level=ticket.level)
        if entry.event in ("created", "transferred", "unassigned") and agent is None:
            await self._wait_for_somebody(session, ticket, entry.at)
        elif entry.event == "assigned":
            await cancel_timer(session, f"{UNASSIGNED}:{ticket.id}")

    async def _nobodys(self, session: AsyncSession, ticket: Ticket, entry: HistoryEntry) -> None:
        """The customer wrote, or his ticket came back, and nobody has it: the team hears of it, once until somebody is
        waited for in vain."""
        waits = await session.scalar(select(Timer.id).where(Timer.key == f"{UNASSIGNED}:{ticket.id}"))
        if waits is None:
            event = {"customer_wrote": "customer_wrote", "not_delivered": "undelivered"}.get(entry.event, "came_back")
            await self.tell_team(session, ticket, event, entry.at, what=entry.event, nobody=True)
            await self._wait_for_somebody(session, ticket, entry.at)

    async def _wait_for_somebody(self, session: AsyncSession, ticket: Ticket, now: datetime) -> None:
        due_at = now + self._policy.unassigned_after
        await set_timer(session, f"{UNASSIGNED}:{ticket.id}", UNASSIGNED, due_at, {"ticket_id": ticket.id})

    async def fire_unassigned(self, session: AsyncSession, payload: Mapping[str, Any], now: datetime) -> None:
        """The timer: a ticket has been nobody's for a while."""
        ticket = await desk.get_ticket(session, int(payload["ticket_id"]))
        if ticket.assignee_id is None and acts(ticket):
            await self.tell_team(session, ticket, "unassigned", now)

    async def mention(self, session: AsyncSession, ticket: Ticket, text: str, by: str) -> list[str]:
        """Tell the agents whom a note names with an @; their names."""
        named = await named_in(session, text, by)
        for agent in named:
            await self.tell_agent(session, agent.id, ticket, "mentioned", self._clock(), by=by)
        return [agent.name for agent in named]

    async def _tell_holder(self, session: AsyncSession, ticket: Ticket, entry: HistoryEntry) -> None:
        """Whoever had a ticket that another has now."""
        holder = await find_agent(session, str(entry.details["before"]))
        if holder is not None:
            await self.tell_agent(session, holder.id, ticket, "taken_over", entry.at, by=entry.details["agent"])

    # Who is told

    async def tell_agent(
        self, session: AsyncSession, agent_id: int, ticket: Ticket, event: str, now: datetime, **values: Any
    ) -> None:
        agent = await session.get(Agent, agent_id)
        wanted = self._policy.events if agent is None or agent.notify_events is None else agent.notify_events
        if agent is None or not agent.active or event not in wanted:
            return
        lang = next((lang for lang in agent.langs if lang in LANGUAGES), DEFAULT)
        text = self._words(ticket, event, lang, self._zone(agent), values)
        await self._write(session, f"agent:{agent.id}", agent.notify, event, text, now, ticket)

    async def tell_team(self, session: AsyncSession, ticket: Ticket, event: str, now: datetime, **values: Any) -> None:
        if event not in self._policy.events:
            return
        text = self._words(ticket, event, DEFAULT, self._tickets.policy.hours_of(ticket.team).zone, values)
        for team in (ticket.team, EVERYBODY):
            row = await session.get(TeamNotify, team)
            await self._write(session, f"team:{team}", row.addresses if row else (), event, text, now, ticket)

    async def report(
        self, session: AsyncSession, teams: Iterable[str], agents: Iterable[Agent], text: str, now: datetime
    ) -> int:
        """Send a text to teams and agents as it is; to how many addresses."""
        count = 0
        for agent in agents:
            wanted = self._policy.events if agent.notify_events is None else agent.notify_events
            if "report" in wanted:
                await self._write(session, f"agent:{agent.id}", agent.notify, "report", text, now, None)
                count += len(agent.notify)
        for team in dict.fromkeys(teams):
            row = await session.get(TeamNotify, team)
            addresses = row.addresses if row and "report" in self._policy.events else ()
            await self._write(session, f"team:{team}", addresses, "report", text, now, None)
            count += len(addresses)
        return count

    async def _write(
        self,
        session: AsyncSession,
        recipient: str,
        addresses: Sequence[str],
        event: str,
        text: str,
        now: datetime,
        ticket: Ticket | None,
    ) -> None:
        urgent = event in self._policy.through_quiet
        for address in map(digest, addresses):
            session.add(
                Notice(
                    recipient=recipient,
                    address=address,
                    event=event,
                    ticket_id=ticket.id if ticket else None,
                    text=text,
                    urgent=urgent,
                    created_at=now,
                )
            )
            await session.flush()
            at = now if urgent else now + self._policy.join
            payload = {"recipient": recipient, "address": address}
            await send_errand(session, f"{NOTIFY}:{recipient}:{address}", NOTIFY, at, payload)

    def _words(self, ticket: Ticket, event: str, lang: str, zone: ZoneInfo, values: Mapping[str, Any]) -> str:
        due_at, topic = values.get("due_at"), self._tickets.topics.get(ticket.topic)
        given = {
            "nobody": False,
            "raised": False,
            "elsewhere": None,
            **values,
            "event": event,
            "ticket_number": ticket.id,
            "topic_title": topic.title_in(lang),
            "team_title": self._tickets.policy.team(ticket.team).title.get(lang, ticket.team),
            "priority": ticket.priority,
            "due": f"{due_at.astimezone(zone):%d.%m %H:%M}" if due_at else None,
            "subject": ticket.subject if self._policy.subject else None,
        }
        return self._replies.render("notice", lang, given)

    def _zone(self, agent: Agent) -> ZoneInfo:
        if agent.zone:
            return ZoneInfo(agent.zone)
        schedules = self._tickets.policy.schedules
        return (schedules.get(agent.schedule) or schedules["default"]).zone

    # Sending

    async def send(self, payload: Mapping[str, Any]) -> datetime | None:
        """The errand: send what waits for one address."""
        now, lane = self._clock(), (Notice.recipient == payload["recipient"], Notice.address == payload["address"])
        async with self._sessions.begin() as session:
            rows = await session.scalars(
                select(Notice).where(*lane, Notice.state == NoticeState.WAITING).order_by(Notice.id)
            )
            waiting = await self._useful(session, rows.all(), now)
            address, later = await self._address(session, payload, now)
            if later is not None:
                waiting = [notice for notice in waiting if notice.urgent]
            elif waiting and not any(notice.urgent for notice in waiting):
                later = await self._over_limit(session, lane, now)
                waiting = [] if later else waiting
            if address is None:
                _settle(waiting, NoticeState.DROPPED, now)
            if not waiting or address is None:
                return later
            for notice in waiting:
                notice.attempts += 1
        try:
            await self._deliver(address, *_joined(waiting))
        except DeliveryError:
            async with self._sessions.begin() as session:
                spent = [notice.id for notice in waiting if notice.attempts >= MAX_ATTEMPTS]
                await session.execute(
                    update(Notice).where(Notice.id.in_(spent)).values(state=NoticeState.FAILED, done_at=now)
                )
            if len(spent) == len(waiting):
                log.error("notices.given_up", recipient=payload["recipient"], notices=len(spent))
                return later
            raise
        async with self._sessions.begin() as session:
            ids = [notice.id for notice in waiting]
            await session.execute(update(Notice).where(Notice.id.in_(ids)).values(state=NoticeState.SENT, done_at=now))
            await session.execute(delete(Notice).where(*lane, Notice.done_at < now - KEPT))
        return later

    async def _useful(self, session: AsyncSession, rows: Sequence[Notice], now: datetime) -> list[Notice]:
        """Without what became idle while it waited."""
        ids = {row.ticket_id for row in rows if row.event in TRANSIENT and row.ticket_id is not None}
        live = set(await session.scalars(select(Ticket.id).where(Ticket.id.in_(ids), Ticket.status.in_(LIVE))))
        idle = [row for row in rows if row.event in TRANSIENT and row.ticket_id not in live]
        _settle(idle, NoticeState.DROPPED, now)
        return [row for row in rows if row not in idle]

    async def _address(
        self, session: AsyncSession, payload: Mapping[str, Any], now: datetime
    ) -> tuple[str | None, datetime | None]:
        """The address, if it is still the recipient's, and until when he wants quiet, if he does now."""
        kind, _, name = str(payload["recipient"]).partition(":")
        if kind == "team":
            row = await session.get(TeamNotify, name)
            return _find(row.addresses if row else (), payload["address"]), None
        agent = await session.get(Agent, int(name))
        if agent is None or not agent.active:
            return None, None
        quiet = quiet_until(agent.quiet, self._zone(agent), now) if agent.quiet else None
        return _find(agent.notify, payload["address"]), quiet

    async def _over_limit(self, session: AsyncSession, lane: Sequence[Any], now: datetime) -> datetime | None:
        """When the next message may go, if the hour's are spent."""
        hour = timedelta(hours=1)
        moments = await session.scalars(
            select(Notice.done_at)
            .where(*lane, Notice.state == NoticeState.SENT, Notice.done_at > now - hour)
            .distinct()
            .order_by(Notice.done_at)
        )
        sent = moments.all()
        return sent[0] + hour if len(sent) >= self._policy.an_hour and sent[0] else None


def quiet_until(quiet: str, zone: ZoneInfo, now: datetime) -> datetime | None:
    """The end of quiet hours (`22:00-08:00`), if they are now. Raises ValueError for what is none."""
    begin, end = (time.fromisoformat(part.strip()) for part in quiet.split("-"))
    local = now.astimezone(zone)
    at = local.time()
    inside = begin <= at < end if begin < end else at >= begin or at < end
    if not inside:
        return None
    day = local.date() if at < end else local.date() + timedelta(days=1)
    return datetime.combine(day, end, zone)


def calls(text: str, name: str) -> bool:
    """Whether a note names somebody with an @: Ann is not called by `@Anna`."""
    return re.search(rf"@{re.escape(name)}(?!\w)", text, re.IGNORECASE) is not None


async def named_in(session: AsyncSession, text: str, by: str) -> list[Agent]:
    """The agents whom a note names with an @, but for whoever wrote it."""
    if "@" not in text:
        return []
    agents = await session.scalars(select(Agent).where(Agent.active).order_by(Agent.id))
    return [agent for agent in agents.all() if agent.name != by and calls(text, agent.name)]


def digest(address: str) -> str:
    """By which an address is known without telling it."""
    return hashlib.sha256(address.encode()).hexdigest()[:16]


def _find(addresses: Sequence[str], wanted: str) -> str | None:
    return next((address for address in addresses if digest(address) == wanted), None)


def _settle(notices: Iterable[Notice], state: NoticeState, now: datetime) -> None:
    for notice in notices:
        notice.state, notice.done_at = state, now


def _joined(notices: Sequence[Notice]) -> tuple[str, str]:
    """Title and body of one message; what was said twice is said once."""
    lines = list(dict.fromkeys(notice.text for notice in notices))
    if len(lines) == 1:
        title, _, body = lines[0].partition("\n")
        return title, body or title
    shown = lines[-MAX_LINES:]
    more = [f"+ {len(lines) - len(shown)}"] if len(lines) > len(shown) else []
    return f"Otvet: {len(lines)}", "\n\n".join([*more, *shown])


async def apprise_deliver(address: str, title: str, body: str) -> None:
    """Send through Apprise, whose calls block: in its own threads."""
    import apprise  # a second, and most processes send nothing

    # It writes addresses and answers into its log.
    logging.getLogger("apprise").setLevel(logging.CRITICAL)
    asset = apprise.AppriseAsset(app_id="Otvet", app_desc="Otvet", app_url="", http_redirects=False)
    target = apprise.Apprise(asset=asset)
    if not target.add(address):
        raise DeliveryError("this is no address of Apprise's, or it lacks a part")
    if not await target.async_notify(
        title=title, body=body, body_format=apprise.NotifyFormat.TEXT, timeout=SEND_SECONDS
    ):
        raise DeliveryError("the messenger or mail server did not take it")


def shown_address(address: str) -> str | None:
    """An address without its secrets; None for what is none."""
    import apprise

    logging.getLogger("apprise").setLevel(logging.CRITICAL)
    found = apprise.Apprise.instantiate(address)
    return str(found.url(privacy=True)).split("?")[0] if found else None  # type: ignore[no-untyped-call]


async def notice_figures(session: AsyncSession, since: datetime) -> tuple[int, int]:
    """How many notices wait, and how many were given up since a moment."""
    waiting = await session.scalar(select(func.count(Notice.id)).where(Notice.state == NoticeState.WAITING))
    failed = await session.scalar(
        select(func.count(Notice.id)).where(Notice.state == NoticeState.FAILED, Notice.done_at >= since)
    )
    return waiting or 0, failed or 0
