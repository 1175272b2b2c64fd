"""Transcripts as turns leave them, for tests of what the assistant did not settle."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from handoff import desk
from handoff.lifecycle import TicketStatus
from handoff.records import Author, Conversation, Message, Reason, Ticket

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
THRESHOLDS = {"answer": 0.6, "clarify": 0.5, "intent": 0.7}


def decided(rule: str, **more: Any) -> dict[str, Any]:
    hits = [{"article_id": "refund-terms", "title": "Refunds", "lang": "en", "confidence": 0.2}]
    return {
        "rule": rule,
        "intent": None,
        "confidence": 0.1,
        "hits": hits,
        "thresholds": THRESHOLDS,
        "lang": "en",
        **more,
    }


class Chat:
    """One customer's conversation; every step is a minute later than the one before."""

    def __init__(self, session: AsyncSession, name: str, *, lang: str = "en", at: datetime = NOW) -> None:
        self.session, self.name, self.lang, self.at = session, name, lang, at
        self.conversation: Conversation

    async def begin(self) -> Chat:
        self.conversation = await desk.open_conversation(
            self.session, channel="site", account="", chat_id=self.name, now=self.at
        )
        self.conversation.lang = self.lang
        return self

    async def _add(self, author: Author, text: str, decision: dict[str, Any] | None, **more: Any) -> Message:
        message = Message(
            conversation_id=self.conversation.id,
            author=author,
            text=text,
            decision=decision,
            sent_at=self.at,
            created_at=self.at,
            **more,
        )
        self.session.add(message)
        await self.session.flush()
        return message

    async def asks(self, text: str, rule: str, *, replies: dict[str, Any] | None = None, **more: Any) -> Message:
        """A customer's message and, in the same turn, the assistant's reply."""
        self.at += timedelta(minutes=1)
        record = decided(rule, **{"lang": self.lang, **more})
        message = await self._add(Author.CUSTOMER, text, record)
        if replies is not None:
            await self._add(Author.ASSISTANT, "…", {**record, **replies})
        return message

    async def fails(self, text: str) -> Message:
        """Not understood, and handed over."""
        return await self.asks(text, "low_confidence", replies={"action": "handoff", "reason": "low_confidence"})

    async def ticket(self, *, topic: str = "delivery") -> Ticket:
        ticket = Ticket(
            conversation_id=self.conversation.id,
            status=TicketStatus.OPEN,
            reason=Reason.LOW_CONFIDENCE,
            topic=topic,
            routed_by="default",
            team="first-line",
            level="L1",
            priority="normal",
            lang=self.lang,
            subject="…",
            promised_at=self.at,
            created_at=self.at,
            updated_at=self.at,
        )
        self.session.add(ticket)
        await self.session.flush()
        return ticket

    async def agent(self, text: str) -> Message:
        self.at += timedelta(minutes=1)
        return await self._add(Author.AGENT, text, None, agent_name="Anna")
