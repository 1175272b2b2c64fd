"""What is kept about a person, as one zip that he can be given: readable JSON of a published shape, and the files.

docs/export.schema.json is made from these classes, and a test holds the two together.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import zipfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Select, select
from sqlalchemy.ext.asyncio import AsyncSession

from bot.attachments import AttachmentStore, safe_name
from bot.desk.records import AuditEntry
from bot.erasure.person import Person, addresses_of, person_in, person_of
from bot.errors import FileGoneError
from bot.flows.proof import ProofRow, who_of
from bot.work import Sessions
from handoff.lifecycle import TicketStatus
from handoff.nps import NpsAnswer
from handoff.records import (
    NOTE,
    Attachment,
    AttachmentState,
    Author,
    Contact,
    ContactKind,
    Conversation,
    Customer,
    CustomerLink,
    Delivery,
    Feedback,
    Message,
    Reason,
    Ticket,
)

ACTION: Final = "exported"
"""Of the line in the audit log."""
AT_ONCE: Final = 500


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, from_attributes=True)


class ExportedContact(_Document):
    kind: ContactKind
    value: str
    verified: bool = Field(description="The platform vouches for it, or it was proved by a code; else it was typed.")
    conversation: int
    at: datetime


class ExportedConversation(_Document):
    number: int
    channel: str
    chat_id: str = Field(description="The platform's id of the customer.")
    name: str | None = Field(description="As the platform told it.")
    language: str | None
    began_at: datetime
    erased_at: datetime | None
    messages: str = Field(description="The file in this archive that has its messages.")


class ExportedTicket(_Document):
    number: int
    conversation: int
    created_at: datetime
    status: TicketStatus
    reason: Reason
    topic: str
    subject: str
    priority: str
    segment: str | None
    waited_for: str | None = Field(description="The task elsewhere that it was on hold for.")
    promised_at: datetime
    first_reply_at: datetime | None
    resolved_at: datetime | None
    reopened: int
    asked_at: datetime | None = Field(description="When the customer was asked whether it helped.")
    feedback: Feedback | None = Field(description="What he answered.")


class ExportedNps(_Document):
    conversation: int
    asked_at: datetime
    score: int | None
    answered_at: datetime | None
    comment: str | None
    declined_at: datetime | None = Field(description="He wants not to be asked again.")


class ExportedProof(_Document):
    sent_at: datetime = Field(
        description="When a code was sent by which he was to prove who he is. Codes are not kept."
    )
    proved_until: datetime | None


class ExportedLink(_Document):
    conversation: int
    how: str = Field(description="phone, email or hand: how it was found to be the same person's.")
    at: datetime
    undone_at: datetime | None


class CustomerExport(_Document):
    """`customer.json`."""

    schema_version: Literal[1] = 1
    made_at: datetime
    number: int | None = Field(description="Of the customer; none where he never came to a person.")
    name: str | None
    segment: str | None
    phone: str | None
    email: str | None
    since: datetime | None
    note: str | None = Field(description="Of the agents; only where notes were asked for.")
    contacts: list[ExportedContact]
    conversations: list[ExportedConversation]
    tickets: list[ExportedTicket]
    nps: list[ExportedNps] = Field(description="How likely he is to recommend the company, by his own word.")
    proofs: list[ExportedProof]
    links: list[ExportedLink]


class ExportedFile(_Document):
    name: str | None
    kind: str
    state: AttachmentState
    mime_type: str | None
    size_bytes: int | None
    path: str | None = Field(description="In this archive; none where there is no file.")
    details: dict[str, Any] = Field(description="What needs no file: coordinates, a phone number.")


class Understood(_Document):
    intent: str | None
    confidence: float | None = Field(description="A probability, 0..1.")
    rule: str | None = Field(description="Which rule of the assistant decided.")


class ExportedMessage(_Document):
    number: int
    at: datetime
    author: Author
    agent: str | None
    kind: str = Field(description="text, choice, attachment …; note: written by agents for agents.")
    text: str
    choices: list[str] = Field(description="The buttons shown with it.")
    reply_to: int | None
    context: dict[str, Any] | None = Field(description="What else the platform told: quote, forwarded …")
    edits: list[dict[str, Any]] = Field(description="What it said before it was changed: text, at.")
    deleted_at: datetime | None
    delivery: Delivery | None
    understood: Understood | None = Field(description="What the assistant took a message of the customer for.")
    files: list[ExportedFile]


class ConversationExport(_Document):
    """`conversations/NUMBER.json`."""

    schema_version: Literal[1] = 1
    conversation: int
    messages: list[ExportedMessage] = Field(description="In the order of writing.")


README: Final = """\
customer.json: who the customer is, his contacts, conversations, tickets, and what he answered when he was asked.
conversations/NUMBER.json: every message of a conversation. files/: what was sent with them.
The shape is described in docs/export.schema.json of Otvet.

customer.json: кто клиент, его контакты, разговоры, обращения и ответы на вопросы о качестве.
conversations/НОМЕР.json: все сообщения разговора. files/: присланные и отправленные файлы.
"""


def export_schema() -> dict[str, Any]:
    """Of both documents."""
    from pydantic.json_schema import models_json_schema

    documents = [(CustomerExport, "serialization"), (ConversationExport, "serialization")]
    return models_json_schema(documents, title="Export of a customer")[1]  # type: ignore[arg-type]


@dataclass(frozen=True)
class Exported:
    customer_id: int | None
    conversations: int
    messages: int
    files: int
    missing: int
    """Files that the store lacks."""


class Exporter:
    def __init__(self, *, sessions: Sessions, attachments: AttachmentStore, clock: Callable[[], datetime]) -> None:
        self._sessions = sessions
        self._attachments = attachments
        self._clock = clock

    async def write(
        self,
        target: Path,
        *,
        customer_id: int | None = None,
        conversation_id: int | None = None,
        notes: bool = False,
        by: str,
        address: str = "",
    ) -> Exported:
        """Write the archive of one customer, or of whoever writes in a conversation. Messages are read and written
        some at a time. notes: also what agents wrote for each other. by, address: for the audit log.

        Raises HandoffError for one who is not there, StorageError, and OSError (FileExistsError: a file is never
        replaced); nothing is left behind then.
        """
        part = _part_of(target)
        try:
            with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
                    async with self._sessions.reading() as session:
                        if customer_id is not None:
                            person = await person_of(session, customer_id)
                        else:
                            person = await person_in(session, conversation_id or 0)
                        done = await self._write(session, archive, person, notes)
                file.flush()
                await asyncio.to_thread(os.fsync, file.fileno())
            await self._record(done, person, notes, by, address)
            part.rename(target)
        finally:
            part.unlink(missing_ok=True)
        return done

    async def _record(self, done: Exported, person: Person, notes: bool, by: str, address: str) -> None:
        details = {
            "customer": person.customer_id,
            "conversations": list(person.conversation_ids),
            "messages": done.messages,
            "files": done.files,
            "notes": notes,
        }
        async with self._sessions.begin() as session:
            session.add(
                AuditEntry(at=self._clock(), who=by[:200], action=ACTION, details=details, address=address[:64])
            )

    async def _write(self, session: AsyncSession, archive: zipfile.ZipFile, person: Person, notes: bool) -> Exported:
        archive.writestr("README.txt", README)
        customer = await self._customer(session, person, notes)
        archive.writestr("customer.json", customer.model_dump_json(indent=1))
        messages = files = missing = 0
        for conversation_id in person.conversation_ids:
            paths: dict[int, str] = {}
            async for rows in _paged(session, _files(conversation_id, notes), Attachment.id):
                for row in rows:
                    if path := await self._file(archive, row):
                        paths[row.id] = path
                    else:
                        missing += 1
            files += len(paths)
            member = zipfile.ZipInfo(f"conversations/{conversation_id}.json", self._clock().timetuple()[:6])
            member.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(member, "w", force_zip64=True) as raw:
                raw.write(f'{{"schema_version": 1, "conversation": {conversation_id}, "messages": ['.encode())
                separator = b"\n"
                async for some in _paged(session, _messages(conversation_id, notes), Message.id):
                    # Off the event loop: some hundred of them are made into JSON and packed.
                    await asyncio.to_thread(_put, raw, some, paths, separator)
                    separator = b",\n"
                    messages += len(some)
                raw.write(b"\n]}\n")
        return Exported(person.customer_id, len(person.conversation_ids), messages, files, missing)

    async def _file(self, archive: zipfile.ZipFile, row: Attachment) -> str | None:
        """Its path in the archive; None where the store does not have it."""
        path = f"files/{row.id}-{safe_name(row.file_name or row.kind)}"
        chunks = self._attachments.read(str(row.sha256))
        try:
            first = await anext(chunks, b"")
        except FileGoneError:
            return None
        with archive.open(zipfile.ZipInfo(path, self._clock().timetuple()[:6]), "w", force_zip64=True) as file:
            await asyncio.to_thread(file.write, first)
            async for chunk in chunks:
                await asyncio.to_thread(file.write, chunk)
        return path

    async def _customer(self, session: AsyncSession, person: Person, notes: bool) -> CustomerExport:
        ids = person.conversation_ids
        row = await session.get(Customer, person.customer_id) if person.customer_id is not None else None
        conversations = await session.scalars(
            select(Conversation).where(Conversation.id.in_(ids)).order_by(Conversation.id)
        )
        known = conversations.all()
        contacts = await session.scalars(select(Contact).where(Contact.conversation_id.in_(ids)).order_by(Contact.id))
        tickets = await session.scalars(select(Ticket).where(Ticket.conversation_id.in_(ids)).order_by(Ticket.id))
        answers = await session.scalars(
            select(NpsAnswer).where(NpsAnswer.conversation_id.in_(ids)).order_by(NpsAnswer.id)
        )
        who = [who_of(str(address)) for address in await addresses_of(session, person)]
        proofs = await session.scalars(select(ProofRow).where(ProofRow.who.in_(who)).order_by(ProofRow.id))
        links = await session.scalars(
            select(CustomerLink).where(CustomerLink.conversation_id.in_(ids)).order_by(CustomerLink.id)
        )
        return CustomerExport(
            made_at=self._clock(),
            number=person.customer_id,
            name=(row.name if row else None)
            or next((each.customer_name for each in known if each.customer_name), None),
            segment=row.segment if row else None,
            phone=row.phone if row else None,
            email=row.email if row else None,
            since=row.created_at if row else None,
            note=row.note if row and notes else None,
            contacts=[
                ExportedContact(
                    kind=each.kind,
                    value=each.value,
                    verified=each.verified,
                    conversation=each.conversation_id,
                    at=each.at,
                )
                for each in contacts
            ],
            conversations=[
                ExportedConversation(
                    number=each.id,
                    channel=each.channel,
                    chat_id=each.chat_id,
                    name=each.customer_name,
                    language=each.lang,
                    began_at=each.created_at,
                    erased_at=each.erased_at,
                    messages=f"conversations/{each.id}.json",
                )
                for each in known
            ],
            tickets=[_ticket(each) for each in tickets],
            nps=[
                ExportedNps.model_validate({**_columns(each), "conversation": each.conversation_id}) for each in answers
            ],
            proofs=[ExportedProof.model_validate(each) for each in proofs],
            links=[
                ExportedLink(conversation=each.conversation_id, how=each.how, at=each.at, undone_at=each.undone_at)
                for each in links
            ],
        )


def _part_of(target: Path) -> Path:
    if target.exists():
        raise FileExistsError(f"{target} is there already: give another name")
    return target.with_name(f".{target.name}.{secrets.token_hex(4)}")


def _columns(row: Any) -> dict[str, Any]:
    return {column.name: getattr(row, column.name) for column in row.__table__.columns}


def _ticket(row: Ticket) -> ExportedTicket:
    more = {"number": row.id, "conversation": row.conversation_id, "waited_for": row.hold_task}
    return ExportedTicket.model_validate({**_columns(row), **more})


def _message(row: Message, paths: Mapping[int, str]) -> ExportedMessage:
    decided = row.decision or {}
    understood = None
    if row.author is Author.CUSTOMER and decided:
        understood = Understood(
            intent=decided.get("intent"), confidence=decided.get("confidence"), rule=decided.get("rule")
        )
    return ExportedMessage(
        number=row.id,
        at=row.sent_at,
        author=row.author,
        agent=row.agent_name,
        kind=row.kind,
        text=row.text,
        choices=[str(option.get("label", "")) for option in row.options],
        reply_to=row.reply_to_id,
        context=row.context,
        edits=row.edits,
        deleted_at=row.deleted_at,
        delivery=row.delivery,
        understood=understood,
        files=[
            ExportedFile(
                name=each.file_name,
                kind=each.kind,
                state=each.state,
                mime_type=each.mime_type,
                size_bytes=each.size_bytes,
                path=paths.get(each.id),
                details=each.source if each.state is AttachmentState.REFERENCE else {},
            )
            for each in row.attachments
        ],
    )


def _of(conversation_id: int, notes: bool) -> tuple[Any, ...]:
    mine = Message.conversation_id == conversation_id
    return (mine,) if notes else (mine, Message.kind != NOTE)


def _messages(conversation_id: int, notes: bool) -> Select[Any]:
    return select(Message).where(*_of(conversation_id, notes))


def _files(conversation_id: int, notes: bool) -> Select[Any]:
    return (
        select(Attachment)
        .join(Message, Message.id == Attachment.message_id)
        .where(*_of(conversation_id, notes), Attachment.sha256.is_not(None))
    )


async def _paged(session: AsyncSession, wanted: Select[Any], number: Any) -> AsyncIterator[Sequence[Any]]:
    """Rows in the order of their number, some at a time, so that a long conversation takes no more memory than a short
    one."""
    after = 0
    while found := (await session.scalars(wanted.where(number > after).order_by(number).limit(AT_ONCE))).all():
        yield found
        after = found[-1].id
        session.expunge_all()


def _put(out: IO[bytes], messages: Sequence[Message], paths: Mapping[int, str], separator: bytes) -> None:
    """Blocks."""
    for message in messages:
        out.write(separator + _message(message, paths).model_dump_json().encode())
        separator = b",\n"
