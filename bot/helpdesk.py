"""Tickets in another help desk, both ways: what is said here appears there, what people do there comes back.

One errand for each ticket is the only one that touches it there: it first takes in what is new, then brings what is
missing. Everything that stands there is known by its id or by our mark in it, so an answer that got lost doubles
nothing, and our own words never come back as an agent's. What is not said to be public stays with the agents.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import structlog
from sqlalchemy import ForeignKey, String, Text, UniqueConstraint, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column

from bot import metrics
from bot.attachments import AttachmentStore, StoredFile
from bot.desk.agent_desk import AgentDesk
from bot.errors import FileGoneError, FileRefusedError, TooLargeError
from bot.timers import Timer, send_errand
from bot.work import Sessions
from handoff import desk as conversations
from handoff.errors import HelpDeskError, TicketNotFoundError, TicketStateError
from handoff.helpdesk import (
    DeskComment,
    DeskFile,
    DeskStatus,
    DeskTicket,
    HelpDesk,
    RemoteComment,
    RemoteFile,
    RemoteTicket,
)
from handoff.lifecycle import LIVE, TicketStatus
from handoff.packet import Packet
from handoff.records import NOTE, AttachmentState, Author, Base, BigId, HistoryEntry, Message, Ticket

log = structlog.get_logger()

SYNC, POLL = "helpdesk", "helpdesk.poll"
"""Kinds of the errands."""
SOON = timedelta(seconds=1)
"""What happens in one breath goes there together."""
ROUND = 200
"""How many tickets are looked at in one round of polling."""
MISSING_AGAIN = (timedelta(minutes=1), timedelta(minutes=10), timedelta(hours=1))
"""After which pauses the desk has to say again that a ticket is not there before it is believed: while it is brought
back from a backup, it may lack them all."""
WATCHED = timedelta(days=14)
"""How long after its end a ticket is still watched there."""
MAX_TRANSCRIPT_CHARS = 20_000
STATUS = {
    TicketStatus.AWAITING_FEEDBACK: DeskStatus.RESOLVED,
    TicketStatus.RESOLVED: DeskStatus.RESOLVED,
    TicketStatus.CLOSED: DeskStatus.CLOSED,
}
SILENT_KINDS = frozenset({"reaction", "deletion", "edit"})


MAX_FILES = 10
"""Of one comment; the rest stays there."""


@dataclass(frozen=True)
class Fetched:
    """The files of one comment there."""

    taken: Sequence[StoredFile] = ()
    refused: Sequence[str] = ()
    """Name and reason."""


class HelpDeskLink(Base):
    """A ticket of ours and the one that was made of it."""

    __tablename__ = "helpdesk_links"

    ticket_id: Mapped[BigId] = mapped_column(ForeignKey("tickets.id"), primary_key=True)
    remote_id: Mapped[str | None] = mapped_column(String(64), index=True)
    token: Mapped[str] = mapped_column(String(32))
    """Marks what we write there. Another installation may have a ticket of the same number."""
    tried: Mapped[bool] = mapped_column(default=False)
    """It was asked for, and may be there although no answer came."""
    status: Mapped[DeskStatus] = mapped_column(default=DeskStatus.OPEN)
    """As both sides last agreed."""
    told: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """Subject and priority as they were last brought there."""
    seen_id: Mapped[BigId] = mapped_column(default=0)
    """The last message that was brought there, or told in the ticket's text."""
    problem: Mapped[str | None] = mapped_column(Text)
    """What the desk refused for good. The rest went on."""
    looked_at: Mapped[datetime]
    missing: Mapped[int] = mapped_column(default=0, server_default="0")
    """How often in a row the desk said that it is not there, while it answered otherwise; last at `looked_at`."""
    gone_at: Mapped[datetime | None]
    """It was deleted there: it is asked for no more."""


class HelpDeskItem(Base):
    """A comment there that is known here, whoever wrote it."""

    __tablename__ = "helpdesk_items"
    __table_args__ = (UniqueConstraint("ticket_id", "remote_id"),)

    id: Mapped[BigId] = mapped_column(primary_key=True)
    ticket_id: Mapped[BigId] = mapped_column(ForeignKey("tickets.id"))
    remote_id: Mapped[str] = mapped_column(String(64))
    mark: Mapped[str | None] = mapped_column(String(64))
    """Ours. None: it was written by somebody there."""
    message_id: Mapped[BigId | None] = mapped_column(ForeignKey("messages.id"))


class HelpDeskSync:
    def __init__(
        self,
        *,
        help_desk: HelpDesk,
        desk: AgentDesk,
        sessions: Sessions,
        attachments: AttachmentStore,
        clock: Callable[[], datetime],
        agent: str,
        teams: Collection[str] = (),
        poll: timedelta = timedelta(minutes=1),
    ) -> None:
        """agent: the name under which customers hear what is said there. teams: whose tickets go there; none: all.
        poll: how often each live ticket is looked at."""
        self.help_desk = help_desk
        self._desk = desk
        self._sessions = sessions
        self._attachments = attachments
        self._clock = clock
        self._agent = agent
        self._teams = frozenset(teams)
        self._poll = poll

    async def heard(self, session: AsyncSession, ticket: Ticket, entry: HistoryEntry) -> None:
        """A `Listener` of the tickets."""
        link = await session.get(HelpDeskLink, ticket.id)
        if link is not None and link.gone_at is not None:
            return
        if self._teams and ticket.team not in self._teams and link is None:
            return
        await self._soon(session, ticket.id, entry.at + SOON)

    async def changed_there(self, remote_id: str) -> bool:
        """The desk says that something happened to a ticket. What it was is asked of the desk, and not believed of
        whoever says so. False for a ticket that is not ours."""
        async with self._sessions.begin() as session:
            ticket_id = await session.scalar(
                select(HelpDeskLink.ticket_id).where(
                    HelpDeskLink.remote_id == remote_id, HelpDeskLink.gone_at.is_(None)
                )
            )
            if ticket_id is None:
                return False
            await self._soon(session, ticket_id, self._clock())
        return True

    async def poll(self, payload: Mapping[str, Any]) -> datetime:
        """The standing errand: look at what was not looked at for a while, and when an outage is over, hurry once what
        failed in it. While the desk answers, what fails keeps its growing pauses: it is the ticket that it won't do."""
        now = self._clock()
        async with self._sessions.begin() as session:
            due = await session.scalars(
                select(HelpDeskLink.ticket_id)
                .join(Ticket, Ticket.id == HelpDeskLink.ticket_id)
                .where(
                    HelpDeskLink.looked_at <= now - self._poll,
                    HelpDeskLink.gone_at.is_(None),
                    HelpDeskLink.missing == 0,  # those have an errand that waits
                    or_(Ticket.status.in_(LIVE), Ticket.resolved_at > now - WATCHED),
                )
                .order_by(HelpDeskLink.looked_at)
                .limit(ROUND)
            )
            for ticket_id in due.all():
                await self._soon(session, ticket_id, now)
        try:
            await self.help_desk.check()
            away = False
        except HelpDeskError as error:
            away = True
            log.warning("helpdesk.away", error=str(error))
        metrics.HELPDESK_UP.set(not away)
        if away is not payload.get("away", False):
            async with self._sessions.begin() as session:
                # Whichever process polls next knows it from here.
                await session.execute(update(Timer).where(Timer.key == POLL).values(payload={"away": away}))
                if not away:
                    failed = (Timer.kind == SYNC) & (Timer.failures > 0) & Timer.claimed_until.is_(None)
                    await session.execute(update(Timer).where(failed, Timer.due_at > now).values(due_at=now))
        return now + self._poll

    async def sync(self, payload: Mapping[str, Any]) -> datetime | None:
        """The errand of one ticket. Raises HelpDeskError: it is tried again."""
        ticket_id = int(payload["ticket_id"])
        try:
            remote_id = await self._made(ticket_id)
        except TicketNotFoundError:
            return None  # what made it was undone
        if remote_id is None:
            return None
        try:
            remote = await self.help_desk.get(remote_id)
        except HelpDeskError as error:
            if not error.gone:
                raise
            return await self._missing(ticket_id, remote_id)
        files = await self._fetched(ticket_id, remote)
        async with self._sessions.begin() as session:
            await self._take_in(session, ticket_id, remote, files)
        await self._bring(ticket_id, remote_id)
        async with self._sessions.begin() as session:
            link = await session.get_one(HelpDeskLink, ticket_id)
            link.looked_at, link.missing = self._clock(), 0
        return None

    async def _missing(self, ticket_id: int, remote_id: str) -> datetime | None:
        """A ticket is not there, says a desk that answers otherwise: when to ask again. None: it was said often enough,
        and the agents are told. Raises HelpDeskError while it does not answer."""
        await self.help_desk.check()
        now = self._clock()
        async with self._sessions.begin() as session:
            ticket = await conversations.get_ticket(session, ticket_id)
            await conversations.lock_conversation(session, ticket.conversation_id)
            link = await session.get_one(HelpDeskLink, ticket_id, populate_existing=True)
            if link.missing and (again := link.looked_at + MISSING_AGAIN[link.missing - 1]) > now:
                return again
            if link.missing < len(MISSING_AGAIN):
                link.missing, link.looked_at = link.missing + 1, now
                log.warning("helpdesk.missing", ticket=ticket_id, remote=remote_id, times=link.missing)
                return now + MISSING_AGAIN[link.missing - 1]
            link.gone_at = now
            text = (
                f"{self.help_desk.name}: ticket {remote_id} was deleted there. What is said here goes there no more, "
                "and nothing comes from there."
            )
            about = {"helpdesk_gone": remote_id}
            await conversations.note(session, ticket.conversation_id, text, about=about, now=now)
        log.warning("helpdesk.gone", ticket=ticket_id, remote=remote_id)
        return None

    async def _soon(self, session: AsyncSession, ticket_id: int, at: datetime) -> None:
        await send_errand(session, f"{SYNC}:{ticket_id}", SYNC, at, {"ticket_id": ticket_id})

    async def _made(self, ticket_id: int) -> str | None:
        """The ticket there, made if it is not; None: it is gone from there."""
        async with self._sessions.begin() as session:
            link = await session.get(HelpDeskLink, ticket_id)
            if link is None:
                await conversations.get_ticket(session, ticket_id)
                link = HelpDeskLink(
                    ticket_id=ticket_id, token=secrets.token_hex(6), told={}, seen_id=0, looked_at=self._clock()
                )
                session.add(link)
            if link.gone_at is not None:
                return None
            if link.remote_id is not None:
                return link.remote_id
            packet = await self._desk.packet(session, ticket_id)
            if not link.tried:
                link.seen_id = max((message.id for message in packet.transcript), default=0)
            tried, link.tried = link.tried, True
        found = await self.help_desk.find(link.token) if tried else None
        remote_id = found or await self.help_desk.create(_ticket(packet, link.token))
        async with self._sessions.begin() as session:
            link = await session.get_one(HelpDeskLink, ticket_id)
            link.remote_id = remote_id
            if link.gone_at is not None:
                return None  # its customer was erased meanwhile
            link.told = {"subject": packet.subject, "priority": packet.priority}
        log.info("helpdesk.made", ticket=ticket_id, remote=remote_id, found=found is not None)
        return remote_id

    # From there

    async def _fetched(self, ticket_id: int, remote: RemoteTicket) -> dict[str, Fetched]:
        """The files of what is new there for the customer, by comment; before the transaction, for they take long."""
        async with self._sessions.reading() as session:
            known = set(
                await session.scalars(select(HelpDeskItem.remote_id).where(HelpDeskItem.ticket_id == ticket_id))
            )
        new = (each for each in remote.comments if each.files and each.public and each.mark is None)
        return {each.id: await self._fetch(each.files) for each in new if each.id not in known}

    async def _fetch(self, files: Sequence[RemoteFile]) -> Fetched:
        """Raises HelpDeskError while the desk is away. A file that it never gives holds nothing up."""
        taken: list[StoredFile] = []
        refused = [f"{file.name}: more than {MAX_FILES} files" for file in files[MAX_FILES:]]
        for file in files[:MAX_FILES]:
            try:
                if (file.size_bytes or 0) > self._attachments.max_bytes:
                    raise TooLargeError(f"larger than {self._attachments.max_bytes / 2**20:.3g} MB")
                taken.append(await self._attachments.store(self.help_desk.fetch(file), file.name))
            except TooLargeError as error:
                refused.append(f"{file.name}: {error}")
            except HelpDeskError as error:
                if not error.permanent:
                    raise
                refused.append(f"{file.name}: {error}")
        return Fetched(taken, refused)

    async def _take_in(
        self, session: AsyncSession, ticket_id: int, remote: RemoteTicket, files: Mapping[str, Fetched]
    ) -> None:
        ticket = await conversations.get_ticket(session, ticket_id)
        await conversations.lock_conversation(session, ticket.conversation_id)
        link = await session.get_one(HelpDeskLink, ticket_id, populate_existing=True)
        if link.gone_at is not None:
            return  # its customer was erased meanwhile
        items = (await session.scalars(select(HelpDeskItem).where(HelpDeskItem.ticket_id == ticket_id))).all()
        known, marks = {item.remote_id for item in items}, {item.mark for item in items}
        for comment in remote.comments:
            if comment.id in known:
                continue
            # A mark that is known already, under another comment, is a quotation of ours in somebody's words.
            ours = comment.mark is not None and comment.mark not in marks
            item = HelpDeskItem(
                ticket_id=ticket_id, remote_id=comment.id, mark=comment.mark if ours else None, message_id=None
            )
            session.add(item)
            if ours:
                marks.add(comment.mark)
            else:
                message = await self._said_there(session, ticket, comment, files.get(comment.id, Fetched()))
                item.message_id = message.id if message else None
        if remote.status is not link.status:
            link.status = remote.status
            await self._follow(session, ticket, remote.status)
        await session.flush()

    async def _said_there(
        self, session: AsyncSession, ticket: Ticket, comment: RemoteComment, fetched: Fetched
    ) -> Message | None:
        names = ", ".join(file.name for file in comment.files)
        if comment.public and (comment.text or fetched.taken):
            channel = (await conversations.get_conversation(session, ticket.conversation_id)).channel
            sent, refused = [], list(fetched.refused)
            for file in fetched.taken:
                try:
                    self._desk.check_file(channel, file)
                    sent.append(file)
                except FileRefusedError as error:
                    refused.append(f"{file.file_name}: {error}")
            message = await self._reply(session, ticket, comment.text, sent) if comment.text or sent else None
            if refused:
                lost = "\n".join(f"📎 {each}" for each in refused)
                note = await self._note(
                    session, ticket, f"{self.help_desk.name}: not sent to the customer\n{lost}", comment
                )
                message = message or note
            if message is not None:
                return message
        if not comment.text and not comment.files:
            return None
        text = "\n".join(filter(None, (comment.text, names and f"📎 {names}")))
        return await self._note(session, ticket, text, comment)

    async def _reply(
        self, session: AsyncSession, ticket: Ticket, text: str, files: Sequence[StoredFile]
    ) -> Message | None:
        """Say it to the customer. An ended ticket is opened again for it; None where that can't be."""
        try:
            if ticket.status not in LIVE:
                await self._desk.reopen(session, ticket.id, agent=self._agent)
            return await self._desk.reply(session, ticket.id, text, agent=self._agent, files=files)
        except TicketStateError as error:
            log.warning("helpdesk.reply_not_possible", ticket=ticket.id, error=str(error))
            return None

    async def _note(self, session: AsyncSession, ticket: Ticket, text: str, comment: RemoteComment) -> Message:
        return await conversations.note(
            session,
            ticket.conversation_id,
            text,
            agent_name=self._agent,
            about={"helpdesk": comment.id, "public": comment.public},
            now=self._clock(),
        )

    async def _follow(self, session: AsyncSession, ticket: Ticket, status: DeskStatus) -> None:
        """Do here what was done there."""
        name, live = self._agent, ticket.status in LIVE
        try:
            if status is DeskStatus.RESOLVED and live and ticket.status is not TicketStatus.AWAITING_FEEDBACK:
                await self._desk.settle(session, ticket.id, agent=name)
            elif status is DeskStatus.CLOSED and live:
                await self._desk.close(session, ticket.id, why=f"closed in {self.help_desk.name}", agent=name)
            elif status is DeskStatus.OPEN and not live:
                await self._desk.reopen(session, ticket.id, agent=name)
            elif status is DeskStatus.OPEN and ticket.status is TicketStatus.AWAITING_FEEDBACK:
                await self._desk.take_up(session, ticket.id, agent=name)
        except TicketStateError as error:
            # What is the case here is brought there in turn.
            log.warning("helpdesk.status_not_possible", ticket=ticket.id, error=str(error))

    # To there

    async def _bring(self, ticket_id: int, remote_id: str) -> None:
        async with self._sessions.begin() as session:
            ticket = await conversations.get_ticket(session, ticket_id)
            link = await session.get_one(HelpDeskLink, ticket_id)
            packet = await self._desk.packet(session, ticket_id)
            rows = await session.scalars(select(HelpDeskItem).where(HelpDeskItem.ticket_id == ticket_id))
            items = rows.all()
        there = {item.message_id for item in items} | {_message_of(item.mark) for item in items}
        ids = {row.id for row in packet.transcript}
        for message in await self._messages(ids, link.seen_id):
            if message.id not in there:
                await self._say_there(link, remote_id, message)
        told = {"subject": packet.subject, "priority": packet.priority}
        if told != link.told:
            await self.help_desk.update(remote_id, _ticket(packet, link.token))
        wanted = STATUS.get(ticket.status, DeskStatus.OPEN)
        if wanted is not link.status:
            await self.help_desk.set_status(remote_id, wanted, f"{link.token}:status{len(packet.history)}")
        async with self._sessions.begin() as session:
            link = await session.get_one(HelpDeskLink, ticket_id, populate_existing=True)
            if link.gone_at is not None:
                return
            link.told, link.status = told, wanted
            link.seen_id = max([link.seen_id, *ids])

    async def _messages(self, ids: Collection[int], seen_id: int) -> Sequence[Message]:
        """What is to be said there: what is new, and of what the ticket's text tells already, the files."""
        async with self._sessions.reading() as session:
            rows = await session.scalars(select(Message).where(Message.id.in_(ids)).order_by(Message.id))
            return [
                message
                for message in rows.all()
                if message.kind not in SILENT_KINDS
                and (message.id > seen_id or any(file.state is AttachmentState.STORED for file in message.attachments))
                and (message.text or message.attachments)
            ]

    async def _say_there(self, link: HelpDeskLink, remote_id: str, message: Message) -> None:
        ticket_id, mark = link.ticket_id, f"{link.token}:{message.id}"
        comment = DeskComment(
            mark=mark,
            author=message.agent_name or message.author.value,
            text=message.text,
            public=message.kind != NOTE and message.author is not Author.SYSTEM,
            files=await self._files(message),
        )
        problem = None
        try:
            item_id = await self._comment(remote_id, comment)
        except HelpDeskError as error:
            if not error.permanent:
                raise
            # One word that the desk will never take must not hold up all that follow.
            item_id, problem = f"refused:{message.id}", str(error)
            log.error("helpdesk.refused", ticket=ticket_id, message=message.id, error=problem)
        async with self._sessions.begin() as session:
            session.add(HelpDeskItem(ticket_id=ticket_id, remote_id=item_id, mark=mark, message_id=message.id))
            if problem is not None:
                (await session.get_one(HelpDeskLink, ticket_id)).problem = problem

    async def _comment(self, remote_id: str, comment: DeskComment) -> str:
        try:
            return await self.help_desk.comment(remote_id, comment)
        except HelpDeskError as error:
            if not (error.permanent and comment.files):
                raise
            names = ", ".join(file.file_name for file in comment.files)
            without = replace(comment, files=(), text=f"{comment.text}\n📎 {names}: not taken".strip())
            return await self.help_desk.comment(remote_id, without)

    async def _files(self, message: Message) -> list[DeskFile]:
        files = []
        for row in message.attachments:
            if row.state is not AttachmentState.STORED or row.sha256 is None:
                continue
            try:
                path = await self._attachments.local(row.sha256)
            except FileGoneError:
                continue
            name = row.file_name or row.kind
            files.append(DeskFile(path, name, row.mime_type or "application/octet-stream"))
        return files


def _message_of(mark: str | None) -> int | None:
    """The message that a mark names."""
    _, _, number = (mark or "").partition(":")
    return int(number) if number.isdecimal() else None


def _ticket(packet: Packet, mark: str) -> DeskTicket:
    """The packet as a text: what an agent needs at a glance, and what was said so far."""
    customer = packet.customer
    facts = {
        "Topic": packet.topic,
        "Reason": packet.reason,
        "Priority": packet.priority,
        "Team": f"{packet.team} {packet.level}",
        "Channel": packet.conversation.channel,
        "Customer": customer.name or packet.conversation.chat_id,
        "Segment": customer.segment,
        "Promised": f"{packet.promised_at:%Y-%m-%d %H:%M} UTC",
        "Earlier": ", ".join(f"№ {row.ticket_id}" for row in customer.tickets[:5]),
    }
    said = "\n".join(
        f"{message.agent_name or message.author}: {message.text}"
        for message in packet.transcript
        if message.text and message.kind != NOTE
    )
    lines = [packet.summary, "", *(f"{key}: {value}" for key, value in facts.items() if value), "", said]
    return DeskTicket(
        mark=mark,
        number=packet.ticket_id,
        subject=packet.subject,
        text="\n".join(lines)[-MAX_TRANSCRIPT_CHARS:],
        priority=packet.priority,
        team=packet.team,
        lang=packet.lang,
    )
