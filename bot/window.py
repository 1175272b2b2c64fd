"""The way of a message through a platform's window, in the caller's transactions.

Open: it is sent. Closed: it is held, an approved template goes out in its place, and what is held follows as soon as
the customer has answered. Before a window closes on a customer who waits for a person, he is asked for a sign of life.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import structlog
from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from bot import ledger
from bot.channels.base import Address, Option, Template
from bot.language import DEFAULT
from bot.message_templates import MessageTemplates, template_states
from bot.replies import Replies
from bot.timers import Timer, cancel_timer, set_timer
from handoff import desk
from handoff.records import TEMPLATE, Author, Conversation, Delivery, Message, Owner
from handoff.window import closes_at, reminder_at, set_closing

log = structlog.get_logger()

MARGIN = timedelta(minutes=1)
"""A window counts as closed this long before it does: clocks differ, and a call takes its time."""
REMIND_BEFORE = timedelta(hours=1)
CLOSING = "window_closing"
"""Kind of the timer."""
KEEP = "keep_window"
"""Token of the reminder's button. Pressing it is an answer like any other: it opens the window anew."""


class Windows:
    def __init__(
        self,
        *,
        lengths: Mapping[str, timedelta],
        templates: MessageTemplates,
        replies: Replies,
        shop: Mapping[str, str],
        clock: Callable[[], datetime],
        zone: ZoneInfo,
    ) -> None:
        """lengths: channel → how long its window stays open; a channel without one is always open.
        shop: language → the company's name."""
        self._lengths = lengths
        self._templates = templates
        self._replies = replies
        self._shop = shop
        self._clock = clock
        self._zone = zone

    async def is_open(self, session: AsyncSession, address: Address) -> bool:
        if address.channel not in self._lengths:
            return True
        closing = await closes_at(session, **asdict(address))
        return closing is not None and self._clock() < closing - MARGIN

    async def opened(self, session: AsyncSession, address: Address, at: datetime) -> None:
        """The customer wrote at this moment: note until when he may be written to, and send what was held for him.

        A message that arrives late, or again, opens nothing that is not open by its own time.
        """
        length, now = self._lengths.get(address.channel), self._clock()
        if length is None:
            return
        closing, known = at + length, await closes_at(session, **asdict(address))
        if known is not None and known >= closing:
            return
        await set_closing(session, closing, **asdict(address))
        if now >= closing - MARGIN:
            return
        remind = reminder_at(closing, REMIND_BEFORE, self._zone)
        if remind > now:
            await set_timer(session, _timer(address), CLOSING, remind, asdict(address))
        await self._release(session, address)

    async def shut(self, session: AsyncSession, address: Address) -> None:
        """The platform says that it is closed, whatever we thought."""
        await set_closing(session, self._clock(), **asdict(address))
        await cancel_timer(session, _timer(address))

    async def follow(self, session: AsyncSession, old: Address, new: Address) -> None:
        """The customer goes on under another address, his window with him: so does the reminder."""
        moved = {"key": _timer(new), "payload": asdict(new)}
        await session.execute(update(Timer).where(Timer.key == _timer(old)).values(**moved))

    async def hold(self, session: AsyncSession, message_id: int) -> None:
        """Keep a message until the customer answers, and ask him to by a template, unless one is on its way."""
        message = await session.get_one(Message, message_id)
        conversation = await desk.lock_conversation(session, message.conversation_id)
        message.delivery = Delivery.HELD
        message.delivery_error = "the window is closed: it follows when the customer answers"
        log.info("window.held", conversation=conversation.id, message=message.id)
        if await self._asked(session, conversation):
            return
        decided, ticket = message.decision or {}, await desk.open_ticket(session, conversation.id)
        values = {
            "ticket_number": str(ticket.id) if ticket else "",
            "customer_name": conversation.customer_name or "",
            "agent_name": message.agent_name or "",
            "shop": self._shop[conversation.lang or DEFAULT],
        }
        states = await template_states(session)
        filled = self._templates.fill(conversation.lang or DEFAULT, values, states, decided.get("template_id"))
        if filled is None:
            message.delivery_error = "the window is closed, and no approved template is there to ask the customer with"
            await desk.note(session, conversation.id, message.delivery_error, now=self._clock())
            log.error("window.no_template", conversation=conversation.id)
            return
        asking = Message(
            conversation_id=conversation.id,
            author=Author.ASSISTANT,
            kind=TEMPLATE,
            text=filled.text,
            decision={"action": "template", "template_id": filled.id, "template": asdict(filled.template)},
            sent_at=self._clock(),
            created_at=self._clock(),
        )
        session.add(asking)
        await session.flush()
        await ledger.queue(session, conversation, asking, guarded=False, now=self._clock())

    async def remind(self, session: AsyncSession, payload: Mapping[str, Any], now: datetime) -> None:
        """The timer: ask a customer to whom somebody owes an answer to keep the window open, and tell the agents."""
        address = Address(**payload)
        conversation = await _conversation(session, address)
        closing = await closes_at(session, **asdict(address))
        if conversation is None or closing is None or now >= closing - MARGIN:
            return
        if conversation.owner is not Owner.PERSON or not await _owes_answer(session, conversation):
            return
        lang, ticket = conversation.lang or DEFAULT, await desk.open_ticket(session, conversation.id)
        values = {"ticket_number": ticket.id if ticket else None}
        text = self._replies.render("window_closing", lang, values)
        keep = Option(KEEP, self._replies.render("label_keep_window", lang))
        decision = {"action": "reminder", "rule": CLOSING}
        await ledger.say(session, conversation, text, options=[keep], decision=decision, guarded=False, now=now)
        local = closing.astimezone(self._zone)
        note = f"The customer waits for an answer. The window closes at {local:%d.%m %H:%M}; then only a template goes."
        await desk.note(session, conversation.id, note, about={"window_closes_at": closing.isoformat()}, now=now)
        log.info("window.reminded", conversation=conversation.id)

    async def _release(self, session: AsyncSession, address: Address) -> None:
        """Queue what was held, in the order in which it was written."""
        found = await _conversation(session, address)
        if found is None:
            return
        conversation = await desk.lock_conversation(session, found.id)
        answers = conversation.owner is not Owner.PERSON
        await ledger.release_held(session, conversation, answers=answers, now=self._clock())

    async def _asked(self, session: AsyncSession, conversation: Conversation) -> bool:
        """Whether a template went out, or is about to, since the customer wrote last."""
        last = (
            select(func.max(Message.id))
            .where(Message.conversation_id == conversation.id, Message.author == Author.CUSTOMER)
            .scalar_subquery()
        )
        asked = await session.scalar(
            select(Message.id)
            .where(
                Message.conversation_id == conversation.id,
                Message.kind == TEMPLATE,
                Message.id > func.coalesce(last, 0),
                Message.delivery != Delivery.FAILED,
            )
            .limit(1)
        )
        return asked is not None


def template_of(message: Message) -> Template | None:
    """What to send in place of the text of a message of the transcript, if it is a template."""
    if message.kind != TEMPLATE:
        return None
    kept = (message.decision or {})["template"]
    return Template(kept["name"], kept["language"], tuple(kept["variables"]))


async def _owes_answer(session: AsyncSession, conversation: Conversation) -> bool:
    """Whether the customer has had no word of a person since he wrote last."""
    last = await session.scalar(
        select(Message.author)
        .where(
            Message.conversation_id == conversation.id,
            Message.author.in_([Author.CUSTOMER, Author.AGENT]),
            Message.kind.not_in(["note", "reaction"]),
        )
        .order_by(Message.id.desc())
        .limit(1)
    )
    return last is Author.CUSTOMER


async def _conversation(session: AsyncSession, address: Address) -> Conversation | None:
    found: Conversation | None = await session.scalar(
        select(Conversation).where(
            Conversation.channel == address.channel,
            Conversation.account == address.account,
            Conversation.chat_id == address.chat_id,
        )
    )
    return found


def _timer(address: Address) -> str:
    return f"window:{address.channel}:{address.account}:{address.chat_id}"
