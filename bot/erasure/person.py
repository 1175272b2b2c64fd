"""Who one person is in the database: all that a request for his data, or for their erasure, is about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

from sqlalchemy import Select, and_, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from bot.channels.base import Address
from bot.gaps.records import TEACHING, Gap, GapAct, Label, Question
from bot.helpdesk import HelpDeskLink
from handoff.desk import get_conversation
from handoff.errors import CustomerError, CustomerNotFoundError
from handoff.lifecycle import LIVE
from handoff.records import Attachment, Conversation, Customer, CustomerLink, Message, Ticket


@dataclass(frozen=True)
class Person:
    customer_id: int | None
    """The number by which he is asked for; None: he was never handed to a person, and has one conversation."""
    customer_ids: tuple[int, ...]
    """Also of those who were linked into him and have no conversation left."""
    conversation_ids: tuple[int, ...]

    @property
    def tickets(self) -> Select[int]:
        return select(Ticket.id).where(Ticket.conversation_id.in_(self.conversation_ids))

    @property
    def messages(self) -> Select[int]:
        return select(Message.id).where(Message.conversation_id.in_(self.conversation_ids))


async def person_of(session: AsyncSession, customer_id: int) -> Person:
    """Raises CustomerNotFoundError; CustomerError for one who was linked into another, who has all that was his."""
    if await session.get(Customer, customer_id) is None:
        raise CustomerNotFoundError(customer_id)
    conversations = await _conversations(session, [customer_id])
    if not conversations:
        into = await session.scalar(
            select(CustomerLink.to_customer_id)
            .where(CustomerLink.from_customer_id == customer_id, CustomerLink.undone_at.is_(None))
            .order_by(CustomerLink.id.desc())
            .limit(1)
        )
        if into is not None:
            raise CustomerError(f"customer {customer_id} was linked into customer {into}: name that one")
    found = [customer_id]
    for each in found:  # those who were linked into these are found on the way
        rows = await session.scalars(
            select(CustomerLink.from_customer_id)
            .where(CustomerLink.to_customer_id == each, CustomerLink.undone_at.is_(None))
            .distinct()
        )
        for other in rows.all():
            if other is not None and other not in found and not await _conversations(session, [other]):
                found.append(other)
    return Person(customer_id, tuple(sorted(found)), tuple(conversations))


async def person_in(session: AsyncSession, conversation_id: int) -> Person:
    """Who writes in a conversation. Raises ConversationNotFoundError."""
    conversation = await get_conversation(session, conversation_id)
    if conversation.customer_id is not None:
        return await person_of(session, conversation.customer_id)
    return Person(None, (), (conversation_id,))


async def _conversations(session: AsyncSession, customer_ids: Sequence[int]) -> Sequence[int]:
    rows = await session.scalars(
        select(Conversation.id).where(Conversation.customer_id.in_(customer_ids)).order_by(Conversation.id)
    )
    return rows.all()


@dataclass(frozen=True)
class Holdings:
    """What is kept about a person, in numbers."""

    customer_id: int | None
    conversations: int
    messages: int
    """Those with anything in them: text, choices or files."""
    files: int
    tickets: int
    open_tickets: tuple[int, ...]
    taught: int
    """Of his messages, those that editors have used to teach the assistant, or that lay in a group that they used so.
    What was made of them is the company's, and stays."""
    help_desk: tuple[str, ...]
    """Numbers of the tickets that were made of his in another help desk: they are to be erased there."""
    erased_at: datetime | None
    """When he was erased; None: he was not, or has written since."""

    def as_json(self) -> dict[str, object]:
        return asdict(self)


async def holdings(session: AsyncSession, person: Person) -> Holdings:
    ids = person.conversation_ids
    of_him = Message.conversation_id.in_(ids)
    anything = or_(
        Message.text != "", Message.id.in_(select(Attachment.message_id).where(Attachment.sha256.is_not(None)))
    )
    files = (
        select(func.count(Attachment.id))
        .join(Message, Message.id == Attachment.message_id)
        .where(of_him, Attachment.sha256.is_not(None))
    )
    live = select(Ticket.id).where(Ticket.conversation_id.in_(ids), Ticket.status.in_(LIVE)).order_by(Ticket.id)
    remote = (
        select(HelpDeskLink.remote_id)
        .where(HelpDeskLink.ticket_id.in_(person.tickets), HelpDeskLink.remote_id.is_not(None))
        .order_by(HelpDeskLink.ticket_id)
    )
    moments = (await session.scalars(select(Conversation.erased_at).where(Conversation.id.in_(ids)))).all()
    return Holdings(
        customer_id=person.customer_id,
        conversations=len(ids),
        messages=await session.scalar(select(func.count(Message.id)).where(of_him, anything)) or 0,
        files=await session.scalar(files) or 0,
        tickets=await session.scalar(select(func.count()).select_from(person.tickets.subquery())) or 0,
        open_tickets=tuple(await session.scalars(live)),
        taught=await _taught(session, person),
        help_desk=tuple(each for each in await session.scalars(remote) if each),
        erased_at=max(each for each in moments if each) if moments and all(moments) else None,
    )


async def _taught(session: AsyncSession, person: Person) -> int:
    questions = select(Question.id, Question.gap_id).where(Question.conversation_id.in_(person.conversation_ids))
    rows = (await session.execute(questions)).all()
    if not rows:
        return 0
    taught = await session.scalars(
        select(Gap.id).where(
            Gap.id.in_({row.gap_id for row in rows if row.gap_id}),
            or_(
                Gap.settlement.in_(TEACHING),
                Gap.id.in_(select(GapAct.gap_id).where(GapAct.act.in_(TEACHING), GapAct.undone_at.is_(None))),
            ),
        )
    )
    groups = set(taught)
    labels = await session.scalars(
        select(Label.item).where(
            Label.item.in_([f"question:{row.id}" for row in rows]),
            Label.undone_at.is_(None),
            and_(Label.choice != "skip", Label.choice != "keep"),
        )
    )
    labelled = set(labels)
    return sum(row.gap_id in groups or f"question:{row.id}" in labelled for row in rows)


async def addresses_of(session: AsyncSession, person: Person) -> list[Address]:
    """Of those of his conversations that are not erased."""
    rows = await session.execute(
        select(Conversation.channel, Conversation.account, Conversation.chat_id)
        .where(Conversation.id.in_(person.conversation_ids), Conversation.erased_at.is_(None))
        .order_by(Conversation.id)
    )
    return [Address(*row) for row in rows]
