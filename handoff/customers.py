"""Who a customer is, over all channels: what tells that two conversations are one person's, and how that is undone.

A phone number that the platform itself vouches for (WhatsApp's own, a contact that Telegram says is the sender's) and
an e-mail that was proved by a code join conversations by themselves. What was only typed (a number, an e-mail) makes a
suggestion, never a link.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import phonenumbers
import structlog
from sqlalchemy import func, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession

from handoff import desk
from handoff.errors import CustomerError, CustomerNotFoundError
from handoff.history import CUSTOMER, SYSTEM
from handoff.lifecycle import LIVE
from handoff.records import (
    Author,
    Contact,
    ContactKind,
    Conversation,
    Customer,
    CustomerLink,
    Delivery,
    HistoryEntry,
    Message,
    Ticket,
)
from handoff.routing import PRIORITIES
from handoff.tickets import Tickets
from handoff.window import closes_at

log = structlog.get_logger()

BY_HAND = "hand"
FILLED = ("name", "segment", "phone", "email", "note")
"""Fields that a linked customer lends to one who lacks them."""
SEARCHED_CHARS = 4000
MANY_DIGITS = 7
EMAIL = re.compile(r"[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63})+")
SUGGESTIONS = 10
TOLD_AGAIN = timedelta(minutes=10)
"""That the customer writes in another channel, too."""


@dataclass(frozen=True)
class Suggestion:
    """Another customer who may be the same person."""

    customer_id: int
    name: str | None
    kind: ContactKind
    value: str
    """What both of them have."""


@dataclass(frozen=True)
class Way:
    """Another conversation in which a customer can be written to."""

    conversation_id: int
    channel: str
    account: str
    chat_id: str
    customer_name: str | None
    heard_at: datetime | None
    """When he last wrote there."""
    open: bool
    """Whether the platform takes anything but a template now."""
    failed: bool
    """The last thing that was sent there did not arrive."""
    ticket_id: int | None
    """Another live ticket of his, in whose conversation this is."""


def as_phone(text: str, region: str) -> str | None:
    """A number as E.164; None where it is none. region: the country of numbers without a code, as two letters."""
    try:
        number = phonenumbers.parse(text, region)
    except phonenumbers.NumberParseException:
        return None
    if not phonenumbers.is_possible_number(number):
        return None
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)


def as_email(text: str) -> str | None:
    text = text.strip().lower()
    return text if len(text) <= 254 and EMAIL.fullmatch(text) else None


def mentioned(text: str, region: str) -> set[tuple[ContactKind, str]]:
    """The numbers and e-mail addresses that somebody typed."""
    text = text[:SEARCHED_CHARS]
    found = {(ContactKind.EMAIL, match.lower()) for match in EMAIL.findall(text)}
    if sum(character.isdigit() for character in text) >= MANY_DIGITS:
        found |= {
            (ContactKind.PHONE, phonenumbers.format_number(match.number, phonenumbers.PhoneNumberFormat.E164))
            for match in phonenumbers.PhoneNumberMatcher(text, region)
        }
    return found


class Customers:
    """Works inside the caller's transaction and never commits, as `Tickets` does."""

    def __init__(self, tickets: Tickets, region: str = "RU") -> None:
        """region: the country of phone numbers that are written without its code."""
        self._tickets = tickets
        self._region = region

    async def get(self, session: AsyncSession, customer_id: int) -> Customer:
        """Raises CustomerNotFoundError."""
        customer = await session.get(Customer, customer_id)
        if customer is None:
            raise CustomerNotFoundError(customer_id)
        return customer

    async def learn(
        self,
        session: AsyncSession,
        conversation: Conversation,
        *,
        phone: str | None,
        texts: Sequence[str],
        now: datetime,
    ) -> None:
        """Note what a message tells of who wrote it.

        phone: a number that the platform vouches for; the conversation is joined to the one customer who has it.
        texts: what he typed, kept only once he is known to the desk.
        """
        number = as_phone(phone, self._region) if phone else None
        if number is not None and await self._is_news(session, conversation, ContactKind.PHONE, number):
            await self._prove_phone(session, conversation, number, now)
        if conversation.customer_id is not None:
            for kind, value in sorted({each for text in texts for each in mentioned(text, self._region)}):
                await _keep(session, conversation, kind, value, verified=False, now=now)

    async def prove_email(self, session: AsyncSession, conversation: Conversation, email: str, now: datetime) -> None:
        """Whoever writes in this conversation reads what is sent to this address (`as_email`): it is joined to the one
        customer of whom the same was proved. The conversation is locked."""
        customer = await desk.customer_of(session, conversation, now)
        if await self._is_news(session, conversation, ContactKind.EMAIL, email):
            customer.email = customer.email or email
            await self._prove(session, conversation, customer, ContactKind.EMAIL, email, now)

    async def link(
        self, session: AsyncSession, into_id: int, from_id: int, *, actor: str, now: datetime, how: str = BY_HAND
    ) -> Customer:
        """Make two customers one: the conversations of the second become the first's, until `unlink`.

        The first keeps what is known of him; what is not is filled from the second. Raises CustomerNotFoundError,
        CustomerError.
        """
        into, other = await self.get(session, into_id), await self.get(session, from_id)
        if into.id == other.id:
            raise CustomerError(f"customer {into.id} can't be linked to himself")
        moved = await _conversations(session, other.id)
        if not moved:
            raise CustomerError(f"customer {other.id} has no conversations left: he was linked already")
        filled: dict[str, Any] = {}
        for name in FILLED:
            if not getattr(into, name) and (value := getattr(other, name)):
                setattr(into, name, value)
                filled[name] = value
        for conversation in moved:
            session.add(
                CustomerLink(
                    conversation_id=conversation.id,
                    from_customer_id=other.id,
                    to_customer_id=into.id,
                    how=how,
                    actor=actor,
                    at=now,
                    filled=filled,
                )
            )
        await session.execute(
            update(Conversation).where(Conversation.customer_id == other.id).values(customer_id=into.id)
        )
        for conversation in moved:
            await session.refresh(conversation, ["customer_id"])
        await self._record(session, into.id, "linked", actor, now, how=how, customer=into.id, was=other.id)
        await self._follow(session, into, actor, now)
        log.info("customer.linked", customer=into.id, was=other.id, how=how)
        return into

    async def unlink(self, session: AsyncSession, conversation_id: int, *, actor: str, now: datetime) -> Customer:
        """Take a conversation out of its customer: back to whom it was linked from, else to a new one.

        It is not linked by itself again. Raises CustomerError where it is the only one.
        """
        conversation = await desk.lock_conversation(session, conversation_id)
        if conversation.customer_id is None:
            raise CustomerError(f"conversation {conversation_id} has no customer yet")
        before = await self.get(session, conversation.customer_id)
        if len(await _conversations(session, before.id)) == 1:
            raise CustomerError(f"conversation {conversation_id} is the only one of customer {before.id}")
        row = await session.scalar(
            select(CustomerLink)
            .where(
                CustomerLink.conversation_id == conversation.id,
                CustomerLink.to_customer_id == before.id,
                CustomerLink.undone_at.is_(None),
            )
            .order_by(CustomerLink.id.desc())
            .limit(1)
        )
        after: Customer
        if row is not None and row.from_customer_id is not None:
            row.undone_at = now
            after = await self.get(session, row.from_customer_id)
        else:
            after = Customer(name=conversation.customer_name, note="", created_at=now)
            session.add(after)
            await session.flush()
            # So that it is remembered that these two are not the same.
            session.add(
                CustomerLink(
                    conversation_id=conversation.id,
                    from_customer_id=after.id,
                    to_customer_id=before.id,
                    how=BY_HAND,
                    actor=actor,
                    at=now,
                    undone_at=now,
                    filled={},
                )
            )
        conversation.customer_id = after.id
        await session.flush()
        if row is not None:
            await self._give_back(session, row, before)
        details = {"customer": after.id, "was": before.id, "conversation": conversation.id}
        for customer in (before, after):
            await self._record(session, customer.id, "unlinked", actor, now, **details)
            await self._follow(session, customer, actor, now)
        log.info("customer.unlinked", customer=after.id, was=before.id)
        return after

    async def change(
        self,
        session: AsyncSession,
        customer_id: int,
        *,
        actor: str,
        now: datetime,
        name: str | None = None,
        segment: str | None = None,
        phone: str | None = None,
        email: str | None = None,
        note: str | None = None,
        lang: str | None = None,
    ) -> Customer:
        """Set what is given; an empty word takes a field away. A new segment is a new promise for his live tickets.

        A number or an address that an agent writes here makes suggestions, as a typed one does. Raises CustomerError.
        """
        customer = await self.get(session, customer_id)
        known = self._tickets.policy.segment_priority
        if segment and segment not in known:
            raise CustomerError(f"no segment {segment} in desk.yml: {', '.join(sorted(known)) or 'none'}")
        if phone and (phone := as_phone(phone, self._region)) is None:
            raise CustomerError("that is no phone number: write it as +7 916 123-45-67")
        if email and (email := as_email(email)) is None:
            raise CustomerError("that is no e-mail address")
        wanted = {"name": name, "segment": segment, "phone": phone, "email": email, "note": note}
        for key, value in wanted.items():
            if value is not None:
                setattr(customer, key, value or (None if key != "note" else ""))
        await session.flush()
        theirs = await _conversations(session, customer.id)
        if lang:
            for conversation in theirs:
                conversation.lang = lang
            ids = [conversation.id for conversation in theirs]
            await session.execute(
                update(Ticket).where(Ticket.conversation_id.in_(ids), Ticket.status.in_(LIVE)).values(lang=lang)
            )
        await self._follow(session, customer, actor, now)
        return customer

    async def suggestions(self, session: AsyncSession, customer_id: int) -> list[Suggestion]:
        """Customers who may be the same person, by a number or an address that both have; not those of whom somebody
        has said that they are not."""
        customer = await self.get(session, customer_id)
        rows = await session.execute(
            select(Contact.kind, Contact.value)
            .join(Conversation, Conversation.id == Contact.conversation_id)
            .where(Conversation.customer_id == customer.id)
        )
        mine = {(row[0], row[1]) for row in rows}
        mine |= {(ContactKind.PHONE, customer.phone)} if customer.phone else set()
        mine |= {(ContactKind.EMAIL, customer.email)} if customer.email else set()
        told_apart = await self._told_apart(session, customer.id)
        found: dict[int, Suggestion] = {}
        for kind, value in sorted(mine):
            for other in await _having(session, kind, value):
                if other.id != customer.id and other.id not in told_apart:
                    found.setdefault(other.id, Suggestion(other.id, other.name, kind, value))
        return list(found.values())[:SUGGESTIONS]

    async def ways(self, session: AsyncSession, conversation: Conversation, *, now: datetime) -> list[Way]:
        """The customer's other conversations, the likeliest to reach him first."""
        if conversation.customer_id is None:
            return []
        ways = []
        for other in await _conversations(session, conversation.customer_id):
            if other.id == conversation.id:
                continue
            of_it = Message.conversation_id == other.id
            heard = await session.scalar(
                select(func.max(Message.sent_at)).where(of_it, Message.author == Author.CUSTOMER)
            )
            last = await session.scalar(
                select(Message.delivery)
                .where(of_it, Message.delivery.is_not(None))
                .order_by(Message.id.desc())
                .limit(1)
            )
            closing = await closes_at(session, channel=other.channel, account=other.account, chat_id=other.chat_id)
            ticket = await desk.open_ticket(session, other.id)
            ways.append(
                Way(
                    conversation_id=other.id,
                    channel=other.channel,
                    account=other.account,
                    chat_id=other.chat_id,
                    customer_name=other.customer_name,
                    heard_at=heard,
                    open=closing is None or now < closing,
                    failed=last is Delivery.FAILED,
                    ticket_id=ticket.id if ticket else None,
                )
            )
        return sorted(ways, key=lambda w: (w.failed, not w.open, -(w.heard_at.timestamp() if w.heard_at else 0.0)))

    # His tickets

    async def wrote_elsewhere(self, session: AsyncSession, conversation: Conversation, *, now: datetime) -> None:
        """The customer of live tickets in other conversations said something in this one: their history tells, and
        whoever listens. Of what follows soon it says nothing."""
        if conversation.customer_id is None:
            return
        found = await session.scalars(
            select(Ticket)
            .join(Conversation, Conversation.id == Ticket.conversation_id)
            .where(
                Conversation.customer_id == conversation.customer_id,
                Conversation.id != conversation.id,
                Ticket.status.in_(LIVE),
            )
            .order_by(Ticket.id)
        )
        for ticket in found.all():
            told = await session.scalar(
                select(func.max(HistoryEntry.at)).where(
                    HistoryEntry.ticket_id == ticket.id, HistoryEntry.event == "wrote_elsewhere"
                )
            )
            if told is None or now - told > TOLD_AGAIN:
                details = {"channel": conversation.channel, "conversation": conversation.id}
                await self._tickets.history.record(session, ticket, "wrote_elsewhere", CUSTOMER, now, **details)

    async def _follow(self, session: AsyncSession, customer: Customer, actor: str, now: datetime) -> None:
        """Bring his live tickets to his segment: what is promised changes, and the priority rises, never falls."""
        theirs = select(Conversation.id).where(Conversation.customer_id == customer.id)
        live = await session.scalars(
            select(Ticket).where(Ticket.conversation_id.in_(theirs), Ticket.status.in_(LIVE)).order_by(Ticket.id)
        )
        found, policy = live.all(), self._tickets.policy
        await desk.lock_tickets(session, (ticket.id for ticket in found), clocks=True)
        for ticket in found:
            if ticket.segment == customer.segment or ticket.status not in LIVE:
                continue
            least = policy.segment_priority.get(customer.segment or "", "low")
            before = {"segment": ticket.segment, "priority": ticket.priority}
            ticket.segment = customer.segment
            ticket.priority = max(ticket.priority, least, key=PRIORITIES.index)
            after_it = {"segment": ticket.segment, "priority": ticket.priority}
            await self._tickets.history.record(session, ticket, "changed", actor, now, before=before, after=after_it)
            await self._tickets.clocks.follow(session, ticket, now, hours_before=policy.hours_of(ticket.team))

    async def _record(
        self, session: AsyncSession, customer_id: int, event: str, actor: str, now: datetime, **details: Any
    ) -> None:
        """Write into the histories of a customer's live tickets that conversations were joined or taken apart; where
        none is live, into his newest one's."""
        theirs = select(Conversation.id).where(Conversation.customer_id == customer_id)
        rows = await session.scalars(
            select(Ticket).where(Ticket.conversation_id.in_(theirs)).order_by(Ticket.id.desc()).limit(100)
        )
        found = rows.all()
        for ticket in [ticket for ticket in found if ticket.status in LIVE] or found[:1]:
            await self._tickets.history.record(session, ticket, event, actor, now, **details)

    # Inside

    async def _is_news(self, session: AsyncSession, conversation: Conversation, kind: ContactKind, value: str) -> bool:
        known = await session.scalar(
            select(Contact.id).where(
                Contact.conversation_id == conversation.id,
                Contact.kind == kind,
                Contact.value == value,
                Contact.verified,
            )
        )
        return known is None

    async def _prove_phone(self, session: AsyncSession, conversation: Conversation, number: str, now: datetime) -> None:
        """The platform says that this conversation is with whoever has this number."""
        customer = await desk.customer_of(session, conversation, now)
        # A number that was given up may be somebody else's tomorrow.
        given_up = await session.scalars(
            update(Contact)
            .where(Contact.conversation_id == conversation.id, Contact.kind == ContactKind.PHONE, Contact.verified)
            .values(verified=False)
            .returning(Contact.value)
        )
        if customer.phone is None or customer.phone in set(given_up):
            customer.phone = number
        await self._prove(session, conversation, customer, ContactKind.PHONE, number, now)

    async def _prove(
        self,
        session: AsyncSession,
        conversation: Conversation,
        customer: Customer,
        kind: ContactKind,
        value: str,
        now: datetime,
    ) -> None:
        """Keep a contact that is proved, and join the conversation to the one customer who has proved the same."""
        if session.get_bind().dialect.name == "postgresql":
            # Two conversations may prove the same at once: the second must see what the first wrote.
            await session.execute(select(func.pg_advisory_xact_lock(func.hashtext(value))))
        await _keep(session, conversation, kind, value, verified=True, now=now)
        others = await session.scalars(
            select(Conversation.customer_id)
            .join(Contact, Contact.conversation_id == Conversation.id)
            .where(
                Contact.kind == kind,
                Contact.value == value,
                Contact.verified,
                Conversation.customer_id.is_not(None),
                Conversation.customer_id != customer.id,
            )
            .distinct()
        )
        same = {other for other in others if other is not None} - await self._told_apart(session, customer.id)
        if len(same) == 1:
            # Where several have it, nobody but a person can tell.
            await self.link(session, same.pop(), customer.id, actor=SYSTEM, now=now, how=kind)

    async def _told_apart(self, session: AsyncSession, customer_id: int) -> set[int]:
        """The customers of whom somebody undid a link to this one."""
        rows = await session.execute(
            select(CustomerLink.from_customer_id, CustomerLink.to_customer_id).where(
                or_(CustomerLink.from_customer_id == customer_id, CustomerLink.to_customer_id == customer_id),
                CustomerLink.undone_at.is_not(None),
            )
        )
        return {each for row in rows for each in row if each is not None} - {customer_id}

    async def _give_back(self, session: AsyncSession, row: CustomerLink, customer: Customer) -> None:
        """What the link lent goes with the last conversation that it brought."""
        left = await session.scalar(
            select(func.count()).where(
                CustomerLink.from_customer_id == row.from_customer_id,
                CustomerLink.to_customer_id == row.to_customer_id,
                CustomerLink.undone_at.is_(None),
            )
        )
        for name, value in row.filled.items() if not left else ():
            if getattr(customer, name) == value:
                setattr(customer, name, "" if name == "note" else None)
        await session.flush()


async def list_customers(session: AsyncSession, query: str = "", *, limit: int = 100) -> Sequence[Customer]:
    """Customers with a conversation that is not erased, the newest first. query: a part of a name, number, address or
    segment."""
    present = select(Conversation.customer_id).where(Conversation.erased_at.is_(None))
    found = select(Customer).where(Customer.id.in_(present))
    if query:
        likely = f"%{query.lower()}%"
        fields = (Customer.name, Customer.phone, Customer.email, Customer.segment)
        found = found.where(or_(*(func.lower(field).like(likely) for field in fields), Customer.name.contains(query)))
    return (await session.scalars(found.order_by(Customer.id.desc()).limit(limit))).all()


async def links_of(session: AsyncSession, customer_id: int) -> Sequence[CustomerLink]:
    """What was linked to a customer and taken from him, the oldest first."""
    rows = await session.scalars(
        select(CustomerLink)
        .where(or_(CustomerLink.to_customer_id == customer_id, CustomerLink.from_customer_id == customer_id))
        .order_by(CustomerLink.id)
    )
    return rows.all()


async def _conversations(session: AsyncSession, customer_id: int) -> Sequence[Conversation]:
    rows = await session.scalars(
        select(Conversation).where(Conversation.customer_id == customer_id).order_by(Conversation.id)
    )
    return rows.all()


async def _having(session: AsyncSession, kind: ContactKind, value: str) -> Sequence[Customer]:
    """Customers with this number or address, said or proved."""
    by_contact = (
        select(Conversation.customer_id)
        .join(Contact, Contact.conversation_id == Conversation.id)
        .where(Contact.kind == kind, Contact.value == value)
    )
    column = Customer.phone if kind is ContactKind.PHONE else Customer.email
    present = Customer.id.in_(select(Conversation.customer_id))
    rows = await session.scalars(
        select(Customer).where(or_(Customer.id.in_(by_contact), column == value), present).order_by(Customer.id)
    )
    return rows.all()


async def _keep(
    session: AsyncSession, conversation: Conversation, kind: ContactKind, value: str, *, verified: bool, now: datetime
) -> None:
    """Note a contact once; one that is proved stays so."""
    insert = postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
    row = insert(Contact).values(
        conversation_id=conversation.id, kind=kind, value=value[:254], verified=verified, at=now
    )
    same = ["conversation_id", "kind", "value"]
    if verified:
        row = row.on_conflict_do_update(index_elements=same, set_={"verified": True, "at": now})
    else:
        row = row.on_conflict_do_nothing(index_elements=same)
    await session.execute(row)
