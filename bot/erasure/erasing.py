"""Takes a person's words, names, addresses and files out for good. Every row that a figure, a clock or the audit log
counts stays, empty, so that they stay true.

The database is changed in one transaction, under the locks under which turns are saved. What lies elsewhere (files, the
topics of a Telegram group, reports of the gate) follows by an errand that is written in the same transaction: whatever
dies in between, it is done.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import structlog
from sqlalchemy import ColumnElement, and_, bindparam, delete, func, literal, or_, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from bot import metrics
from bot.channels.base import Address
from bot.desk.records import AuditEntry, Outgoing, OutgoingState
from bot.erasure.person import Holdings, Person, addresses_of, holdings, person_in, person_of
from bot.erasure.tables import ERASED_STATE, FATES, decision_left, details_left
from bot.flows.proof import ProofRow, who_of
from bot.forum.records import ForumPost, ForumTopic, ForumUpdate, ForumWord
from bot.gaps.records import Gap, GapAct, Question
from bot.helpdesk import HelpDeskLink
from bot.hooks import HookEvent
from bot.ledger import KEPT as INBOX_KEPT
from bot.ledger import PENDING, InboxRow, InboxState, OutboxRow
from bot.models.records import ShadowDraft
from bot.notifications import Notice, NoticeState
from bot.timers import Timer, send_errand
from bot.uploads import UploadRow
from bot.whatsapp_record import AliasRow, WebhookRow, erased_id
from handoff.desk import lock_conversation
from handoff.errors import LiveTicketsError
from handoff.nps import NpsAnswer
from handoff.records import (
    Attachment,
    AttachmentState,
    Base,
    Contact,
    ContactKind,
    Conversation,
    Customer,
    CustomerLink,
    Delivery,
    HistoryEntry,
    Message,
    Owner,
    Ticket,
)
from handoff.window import Window

log = structlog.get_logger()

ERASE: Final = "erase"
"""Kind of the errands that take out what lies outside of the database."""
NOWHERE: Final = "erased-"
"""What the address of an erased conversation begins with."""
AT_ONCE: Final = 500
ACTION: Final = "erased"
"""Of the line in the audit log."""

Tell = Callable[[AsyncSession, int | None, Sequence[int], datetime], Awaitable[None]]
"""Tells other systems (session, number of the customer, numbers of his tickets, now)."""


class Eraser:
    def __init__(self, *, tell: Tell | None = None, calls_kept: timedelta = timedelta(days=30)) -> None:
        """tell: other systems that may have his data, too. calls_kept: how long calls of platforms are kept as they
        came."""
        self._tell = tell
        self._intake_kept = max(calls_kept, INBOX_KEPT) + timedelta(days=1)

    async def erase(
        self, session: AsyncSession, customer_id: int, *, by: str, now: datetime, why: str = "asked", address: str = ""
    ) -> Holdings:
        """Erase a customer, over all his conversations; what was there. Works inside the caller's transaction, and is
        done when that is committed but for the errand ERASE.

        by, address: for the audit log. To repeat it does no harm. Raises CustomerNotFoundError, CustomerError, and
        LiveTicketsError while a ticket of his is open.
        """
        return await self._erase(
            session, await person_of(session, customer_id), by=by, now=now, why=why, address=address
        )

    async def erase_conversation(
        self, session: AsyncSession, conversation_id: int, *, by: str, now: datetime, why: str = "asked"
    ) -> Holdings:
        """The same for whoever writes in a conversation, also where he has no number as a customer."""
        person = await person_in(session, conversation_id)
        return await self._erase(session, person, by=by, now=now, why=why, address="")

    async def _erase(
        self, session: AsyncSession, person: Person, *, by: str, now: datetime, why: str, address: str
    ) -> Holdings:
        person = await _locked(session, person)
        had = await holdings(session, person)
        if had.open_tickets:
            raise LiveTicketsError(had.open_tickets)
        if had.erased_at is not None and not had.messages and not had.files:
            return had
        if session.get_bind().dialect.name == "sqlite":
            await session.execute(text("PRAGMA secure_delete = ON"))  # else the old words stay in the file
        # What came in is kept for weeks, and looking for one customer's part of it reads all of it. Of those who have
        # been silent for longer nothing is there, where it is tidied up all the time.
        silent = why != "asked" and now - await _last_heard(session, person) > self._intake_kept
        await _Work(session, person, now, read_intake=not silent).do()
        # What is kept of it names nobody: it says what is gone, and which numbers to ask elsewhere for.
        details = {
            "customer": person.customer_id,
            "conversations": list(person.conversation_ids),
            "messages": had.messages,
            "files": had.files,
            "tickets": had.tickets,
            "why": why,
        }
        session.add(AuditEntry(at=now, who=by[:200], action=ACTION, details=details, address=address[:64]))
        if self._tell is not None:
            numbers = list(await session.scalars(person.tickets.order_by(Ticket.id)))
            await self._tell(session, person.customer_id, numbers, now)
        await session.flush()
        session.expire_all()
        metrics.ERASED.labels(why).inc()
        log.info("customer.erased", customer=person.customer_id, messages=had.messages, files=had.files, why=why)
        return had


async def _last_heard(session: AsyncSession, person: Person) -> datetime:
    rows = await session.scalars(select(Conversation.updated_at).where(Conversation.id.in_(person.conversation_ids)))
    heard: list[datetime] = list(rows)
    return max(heard)


async def _locked(session: AsyncSession, person: Person) -> Person:
    """The person with all his conversations locked: no turn, reply or link changes them from now on."""
    while True:
        for conversation_id in person.conversation_ids:
            await lock_conversation(session, conversation_id)
        if person.customer_id is None:
            present = await person_in(session, person.conversation_ids[0])
        else:
            present = await person_of(session, person.customer_id)
        if present == person:
            return person
        person = present


class _Work:
    """One erasure in its transaction. Everything is locked."""

    def __init__(self, session: AsyncSession, person: Person, now: datetime, *, read_intake: bool) -> None:
        self._read_intake = read_intake
        self._session = session
        self._person = person
        self._now = now
        self._addresses: list[Address] = []

    async def do(self) -> None:
        self._addresses = await addresses_of(self._session, self._person)
        files = await self._files()
        topics = await self._forum()
        await self._intake()
        await self._timers()
        await self._people()
        await self._learnt()
        await self._desk()
        await self._messages(files)
        await self._customer()
        payload = {"files": files, "topics": topics, "conversations": list(self._person.conversation_ids)}
        await send_errand(self._session, f"{ERASE}:{secrets.token_hex(8)}", ERASE, self._now, payload)

    async def _files(self) -> list[str]:
        """Those of his messages, and of replies that were written to him."""
        found = set(
            await self._session.scalars(
                select(Attachment.sha256).where(
                    Attachment.message_id.in_(self._person.messages), Attachment.sha256.is_not(None)
                )
            )
        )
        for files in await self._session.scalars(
            select(Outgoing.files).where(Outgoing.ticket_id.in_(self._person.tickets))
        ):
            found |= {str(file["sha256"]) for file in files if file.get("sha256")}
        return sorted(each for each in found if each)

    async def _forum(self) -> list[list[int]]:
        """The topics in Telegram that are to be deleted: [group, topic]."""
        mine = ForumTopic.ticket_id.in_(self._person.tickets)
        found: list[list[int]] = []
        for topic in await self._session.scalars(select(ForumTopic).where(mine)):
            found += [[group, thread] for group, thread in [(topic.group_id, topic.thread_id), *topic.left] if thread]
        for group, thread in found:
            await self._delete(ForumUpdate, ForumUpdate.lane == f"{group}/{thread}")
            await self._delete(ForumWord, and_(ForumWord.group_id == group, ForumWord.thread_id == thread))
        await self._empty(ForumTopic, mine, left=[], watched=False, opened=True, closed=True, thread_id=None)
        await self._empty(ForumPost, ForumPost.ticket_id.in_(self._person.tickets))
        return found

    async def _intake(self) -> None:
        """What came in, and what is to go out. A turn that is thought out now finds its messages dealt with, and
        writes nothing; a sending finds that its row is gone."""
        ids = self._person.conversation_ids
        await self._delete(OutboxRow, OutboxRow.conversation_id.in_(ids))
        for address in self._addresses:
            at = (address.channel, address.account, address.chat_id)
            here = (InboxRow.channel, InboxRow.account, InboxRow.chat_id)
            mine = and_(*(column == value for column, value in zip(here, at, strict=True)))
            if not self._read_intake:
                mine = and_(mine, PENDING)
            rows = (await self._session.execute(select(InboxRow.id, InboxRow.external_id).where(mine))).all()
            # By this it is known if the platform sends it again; a number of WhatsApp's holds the customer's.
            whatsapp = address.channel == "whatsapp"
            await self._each(
                InboxRow,
                [
                    {"row_id": row.id, "word": erased_id(row.external_id) if whatsapp else row.external_id}
                    for row in rows
                ],
                {
                    **FATES["inbox"].gone,
                    "external_id": bindparam("word"),
                    "chat_id": f"{NOWHERE}{secrets.token_hex(16)}",
                    "state": InboxState.DONE,
                    "done_at": func.coalesce(InboxRow.done_at, literal(self._now, InboxRow.done_at.type)),
                },
            )
            if self._read_intake:
                await self._webhooks(address)
            await self._session.info["work"].forget(self._session, address)
            for table in (Window, AliasRow):
                await self._delete(
                    table,
                    and_(
                        table.channel == address.channel,
                        table.account == address.account,
                        table.chat_id == address.chat_id,
                    ),
                )

    async def _webhooks(self, address: Address) -> None:
        if address.channel != "whatsapp":
            return
        of_him = and_(AliasRow.channel == address.channel, AliasRow.account == address.account)
        known = await self._session.scalars(select(AliasRow.alias).where(of_him, AliasRow.chat_id == address.chat_id))
        for name in {address.chat_id, *known}:
            # As a whole value of the JSON: a longer number that holds it is somebody else's.
            if self._session.get_bind().dialect.name == "postgresql":
                names_him = func.position(literal(f'"{name}"'.encode()).op("IN")(WebhookRow.body)) > 0
            else:
                names_him = func.instr(WebhookRow.body, literal(f'"{name}"'.encode())) > 0
            await self._empty(WebhookRow, and_(WebhookRow.channel == address.channel, names_him))

    async def _timers(self) -> None:
        """One that fires at this moment is left to whoever fires it: what it would say is not sent."""
        tickets = (await self._session.scalars(self._person.tickets)).all()
        replies = (
            await self._session.scalars(select(Outgoing.id).where(Outgoing.ticket_id.in_(self._person.tickets)))
        ).all()
        events = (
            await self._session.scalars(select(HookEvent.id).where(HookEvent.ticket_id.in_(self._person.tickets)))
        ).all()
        keys = [
            *(
                f"{kind}:{ticket}"
                for ticket in tickets
                for kind in ("survey:ticket", "silence:ticket", "elsewhere", "unassigned", "helpdesk")
            ),
            *(f"{kind}:{conversation}" for conversation in self._person.conversation_ids for kind in ("nps", "flow")),
            *(f"window:{address}" for address in self._addresses),
            *(f"desk_reply:{reply}" for reply in replies),
            *(f"webhook:{event}" for event in events),
        ]
        for some in _chunks(keys):
            free = select(Timer.id).where(Timer.key.in_(some)).with_for_update(skip_locked=True)
            ids = (await self._session.scalars(free)).all()
            await self._delete(Timer, Timer.id.in_(ids))

    async def _people(self) -> None:
        """What names him."""
        ids, contacts = self._person.conversation_ids, Contact.conversation_id.in_(self._person.conversation_ids)
        mails = await self._session.scalars(select(Contact.value).where(contacts, Contact.kind == ContactKind.EMAIL))
        subjects = [f"email:{mail}"[:200] for mail in mails]
        who = [who_of(str(address)) for address in self._addresses]
        await self._delete(ProofRow, or_(ProofRow.who.in_(who), ProofRow.subject.in_(subjects)))
        await self._delete(Contact, contacts)
        links = or_(
            CustomerLink.conversation_id.in_(ids),
            CustomerLink.from_customer_id.in_(self._person.customer_ids),
            CustomerLink.to_customer_id.in_(self._person.customer_ids),
        )
        await self._empty(CustomerLink, links)

    async def _learnt(self) -> None:
        mine = Question.conversation_id.in_(self._person.conversation_ids)
        rows = (await self._session.execute(select(Question.gap_id, Question.text).where(mine))).all()
        await self._delete(Question, mine)
        words = {" ".join(row.text.split())[:200] for row in rows}
        for gap_id in sorted({row.gap_id for row in rows if row.gap_id}):
            gap = await self._session.get_one(Gap, gap_id, with_for_update=True)
            if gap.title in words and not gap.named:
                other = select(Question.text).where(Question.gap_id == gap_id).order_by(Question.id.desc()).limit(1)
                gap.title = " ".join((await self._session.scalar(other) or "").split())[:200]
            for act in await self._session.scalars(select(GapAct).where(GapAct.gap_id == gap_id)):
                if act.before.get("title") in words:
                    act.before = {**act.before, "title": ""}
        await self._session.flush()

    async def _desk(self) -> None:
        """What agents did for him."""
        tickets = self._person.tickets
        await self._empty(Ticket, Ticket.id.in_(tickets))
        await self._empty(NpsAnswer, NpsAnswer.conversation_id.in_(self._person.conversation_ids))
        await self._empty(ShadowDraft, ShadowDraft.ticket_id.in_(tickets))
        await self._empty(
            HelpDeskLink, HelpDeskLink.ticket_id.in_(tickets), gone_at=func.coalesce(HelpDeskLink.gone_at, self._now)
        )
        await self._delete(HookEvent, HookEvent.ticket_id.in_(tickets))
        told, waits = Notice.ticket_id.in_(tickets), Notice.state == NoticeState.WAITING
        await self._update(Notice, and_(told, waits), state=NoticeState.DROPPED, done_at=self._now)
        await self._empty(Notice, told)
        sent = Outgoing.ticket_id.in_(tickets)
        await self._update(
            Outgoing, and_(sent, Outgoing.state == OutgoingState.WAITING), state=OutgoingState.TAKEN_BACK
        )
        await self._empty(Outgoing, sent)
        for table in (HistoryEntry, AuditEntry):
            rows = (
                await self._session.execute(select(table.id, table.details).where(table.ticket_id.in_(tickets)))
            ).all()
            changed = [
                {"row_id": row.id, "left": left} for row in rows if (left := details_left(row.details)) != row.details
            ]
            await self._each(table, changed, {"details": bindparam("left", type_=table.details.type)})

    async def _messages(self, files: Sequence[str]) -> None:
        mine = Message.conversation_id.in_(self._person.conversation_ids)
        of_them = Attachment.message_id.in_(self._person.messages)
        await self._update(Attachment, and_(of_them, Attachment.state == AttachmentState.STORED), state=ERASED_STATE)
        await self._empty(Attachment, of_them)
        for some in _chunks(files):
            await self._delete(UploadRow, UploadRow.sha256.in_(some))
        unsent = Message.delivery.in_((Delivery.QUEUED, Delivery.SENDING, Delivery.HELD))
        await self._update(Message, and_(mine, unsent), delivery=Delivery.DISCARDED)
        after = 0
        while True:
            rows = (
                await self._session.execute(
                    select(Message.id, Message.decision)
                    .where(mine, Message.id > after, Message.decision.is_not(None))
                    .order_by(Message.id)
                    .limit(AT_ONCE)
                )
            ).all()
            if not rows:
                break
            after = rows[-1].id
            left = [{"row_id": row.id, "left": decision_left(row.decision or {})} for row in rows]
            await self._each(Message, left, {"decision": bindparam("left", type_=Message.decision.type)})
        await self._empty(Message, mine)

    async def _customer(self) -> None:
        await self._empty(Customer, Customer.id.in_(self._person.customer_ids))
        for conversation_id in self._person.conversation_ids:
            conversation = await lock_conversation(self._session, conversation_id)
            for column, value in FATES["conversations"].gone.items():
                setattr(conversation, column, value)
            if conversation.erased_at is None:
                # No digest: whoever knows the numbers of a country could try them all.
                conversation.chat_id = f"{NOWHERE}{secrets.token_hex(16)}"
            conversation.erased_at, conversation.owner = self._now, Owner.ASSISTANT
            conversation.epoch += 1  # what was computed for him is not said
        await self._session.flush()

    # Statements

    async def _empty(self, table: type[Base], where: ColumnElement[bool], **more: Any) -> None:
        """As `FATES` says."""
        await self._update(table, where, **FATES[table.__tablename__].gone, **more)

    async def _update(self, table: type[Base], where: ColumnElement[bool], **values: Any) -> None:
        await self._session.execute(
            update(table).where(where).values(**values).execution_options(synchronize_session=False)
        )

    async def _delete(self, table: type[Base], where: ColumnElement[bool]) -> None:
        await self._session.execute(delete(table).where(where).execution_options(synchronize_session=False))

    async def _each(self, table: type[Base], rows: Sequence[dict[str, Any]], values: dict[str, Any]) -> None:
        """Rows by `row_id`, each with its own values for the parameters."""
        core = table.__table__
        statement = update(core).where(core.c.id == bindparam("row_id")).values(**values)  # type: ignore[arg-type]
        connection = await self._session.connection()
        for some in _chunks(rows):
            await connection.execute(statement, list(some))


def _chunks(found: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(found), AT_ONCE):
        yield found[start : start + AT_ONCE]
