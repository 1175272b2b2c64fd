"""One turn: load, understand, decide, save, queue the replies. One transaction, and no platform is spoken to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from bot import ledger
from bot.channels.base import InboundMessage, Option
from bot.dialogue import (
    Answer,
    Clarify,
    Decision,
    DialogueState,
    Handoff,
    Utterance,
    decide,
)
from bot.errors import ReplyError
from bot.language import DEFAULT, LANGUAGES, detect
from bot.ledger import InboxRow, InboxState
from bot.replies import Replies
from bot.understanding import Understander, Understood
from handoff import desk
from handoff.hours import WorkingHours
from handoff.records import Attachment, AttachmentState, Author, Conversation, Message, Owner, Reason, Ticket
from handoff.routing import Topics, route

log = structlog.get_logger()

MAX_NAME_CHARS = 200


@dataclass(frozen=True)
class FetchedAttachment:
    """What became of a file that came with the message, before the turn begins."""

    kind: str
    state: AttachmentState
    file_name: str | None
    mime_type: str | None
    size_bytes: int | None
    sha256: str | None
    source: Mapping[str, Any]


class Turns:
    """Runs turns with the live models; everything it needs is given to it."""

    def __init__(
        self,
        *,
        understander: Callable[[], Understander],
        replies: Replies,
        topics: Topics,
        hours: WorkingHours,
        clock: Callable[[], datetime],
        limit_mb: int,
        ungreeted: frozenset[str] = frozenset({"terminal"}),
    ) -> None:
        """ungreeted: channels where nobody has to be told who answers."""
        self._understander = understander
        self._replies = replies
        self._topics = topics
        self._hours = hours
        self._clock = clock
        self._limit_mb = limit_mb
        self._ungreeted = ungreeted

    async def run(self, session: AsyncSession, row: InboxRow, fetched: Sequence[FetchedAttachment]) -> None:
        """Answer one stored message. Raises whatever breaks; the caller rolls back and calls `fail`."""
        inbound = InboundMessage.from_json(row.payload)
        conversation, message = await self._record(session, row, inbound, fetched)
        state = DialogueState.from_json(conversation.state)
        if conversation.channel in self._ungreeted:
            state = replace(state, greeted=True)
        understander = self._understander()
        text = inbound.text if inbound.kind in ("text", "attachment") else ""
        if conversation.lang is None and inbound.lang_hint in LANGUAGES:
            conversation.lang = inbound.lang_hint
        understood: Understood | None = None
        if conversation.owner is Owner.ASSISTANT and text.strip() and inbound.choice is None:
            understood = await asyncio.to_thread(understander.understand, text, conversation.lang)
            conversation.lang = understood.lang
        elif conversation.lang is None:
            conversation.lang = detect(text, None)
        lang = conversation.lang or DEFAULT
        utterance = Utterance(
            kind="unsupported" if inbound.kind not in ("text", "start", "choice", "attachment") else inbound.kind,  # type: ignore[arg-type]
            text=text,
            lang=lang,
            choice=inbound.choice,
            attachment_kinds=tuple(item.kind for item in fetched),
            refused_attachments=tuple(
                item.state for item in fetched if item.state in (AttachmentState.TOO_LARGE, AttachmentState.FAILED)
            ),
        )
        chosen = [token.partition(":")[2] for token in state.options if ":" in token]
        articles = {
            article_id: found
            for article_id in chosen
            if (found := understander.candidate(article_id, lang)) is not None
        }
        decision = decide(
            state, conversation.owner, utterance, understood.parts if understood else (), articles, understander.policy
        )
        message.decision = {
            "rule": decision.rule,
            "choice": inbound.choice,
            **(understood.record if understood else {"lang": lang, "model_version": understander.version}),
        }
        await self._act(session, conversation, state, decision, message)
        row.state, row.done_at = InboxState.DONE, self._clock()
        log.info(
            "turn.done",
            conversation=conversation.id,
            channel=conversation.channel,
            rule=decision.rule,
            intent=message.decision.get("intent"),
            confidence=message.decision.get("confidence"),
        )

    async def fail(
        self, session: AsyncSession, row: InboxRow, fetched: Sequence[FetchedAttachment], error: Exception
    ) -> None:
        """The other end of a turn that broke: what was said is kept, and a person gets the conversation."""
        inbound = InboundMessage.from_json(row.payload)
        conversation, message = await self._record(session, row, inbound, fetched)
        message.decision = {"rule": "error", "error": type(error).__name__}
        conversation.lang = conversation.lang or detect(inbound.text, None)
        if conversation.owner is Owner.ASSISTANT:
            state = DialogueState.from_json(conversation.state)
            try:
                failed = Decision((Handoff(Reason.ERROR),), state, "error")
                async with session.begin_nested():
                    await self._act(session, conversation, state, failed, message, routed=False)
            except ReplyError:
                # The handoff's own template is broken: the ticket is made all the same.
                log.exception("turn.announcement_failed", conversation=conversation.id)
                await session.refresh(conversation)
                await self._hand_off(session, conversation, Handoff(Reason.ERROR), state, message, routed=False)
        row.state, row.done_at, row.error = InboxState.FAILED, self._clock(), repr(error)[:2000]

    async def _record(
        self, session: AsyncSession, row: InboxRow, inbound: InboundMessage, fetched: Sequence[FetchedAttachment]
    ) -> tuple[Conversation, Message]:
        now = self._clock()
        address = inbound.address
        conversation = await desk.open_conversation(
            session, channel=address.channel, account=address.account, chat_id=address.chat_id, now=now
        )
        conversation.updated_at = now
        if inbound.sender_name:
            conversation.customer_name = inbound.sender_name[:MAX_NAME_CHARS]
        label = DialogueState.from_json(conversation.state).options.get(inbound.choice or "")
        message = Message(
            conversation_id=conversation.id,
            author=Author.CUSTOMER,
            kind=inbound.kind,
            text=inbound.text or label or "",
            external_id=row.external_id,
            sent_at=inbound.sent_at,
            created_at=now,
            attachments=[
                Attachment(
                    kind=item.kind,
                    state=item.state,
                    file_name=item.file_name,
                    mime_type=item.mime_type,
                    size_bytes=item.size_bytes,
                    sha256=item.sha256,
                    source=dict(item.source),
                )
                for item in fetched
            ],
        )
        session.add(message)
        await session.flush()
        return conversation, message

    async def _act(
        self,
        session: AsyncSession,
        conversation: Conversation,
        before: DialogueState,
        decision: Decision,
        message: Message,
        *,
        routed: bool = True,
    ) -> None:
        lang = conversation.lang or DEFAULT
        shown: dict[str, str] = dict(decision.state.options)
        for action in decision.actions:
            text, options, record, guarded = "", {}, {"action": "answer", **(message.decision or {})}, True
            if isinstance(action, Handoff):
                ticket = await self._hand_off(session, conversation, action, before, message, routed=routed)
                text = self._announcement(conversation, ticket)
                record |= {
                    "action": "handoff",
                    "ticket_id": ticket.id,
                    "topic": ticket.topic,
                    "topic_confidence": ticket.topic_confidence,
                    "reason": ticket.reason,
                }
                guarded, shown = False, {}
            elif isinstance(action, Answer):
                text = self._replies.render("answer", lang, {"text": action.candidate.text})
                options = self._labels(action.options, lang)
                record |= {"article_id": action.candidate.article_id, "article_confidence": action.candidate.confidence}
            elif isinstance(action, Clarify):
                text = self._replies.render("clarify", lang)
                options = self._labels(action.options, lang)
                record |= {"action": "clarify", "articles": [item.article_id for item in action.candidates]}
            else:
                guarded = action.template != "greeting"  # who answers and what becomes of the data is always said
                text = self._replies.render(action.template, lang, {"limit_mb": self._limit_mb, **action.values})
                options = self._labels(action.options, lang)
                record |= {"action": "clarify" if action.options else "answer", "reply": action.template}
            shown |= {token: label for token, label in options.items() if token in shown}
            await ledger.say(
                session,
                conversation,
                text,
                options=[Option(token, label) for token, label in options.items()],
                decision=record,
                guarded=guarded,
                now=self._clock(),
            )
        conversation.state = {**decision.state.to_json(), "options": shown}

    def _labels(self, options: Mapping[str, str], lang: str) -> dict[str, str]:
        return {
            token: self._replies.render(label[1:], lang) if label.startswith("@") else label
            for token, label in options.items()
        }

    async def _hand_off(
        self,
        session: AsyncSession,
        conversation: Conversation,
        action: Handoff,
        state: DialogueState,
        message: Message,
        *,
        routed: bool,
    ) -> Ticket:
        texts = await desk.customer_texts(session, conversation)
        asked_for = (message.decision or {}).get("rule") != "low_confidence" and action.topic is None
        # "Call a person" tells no topic; what was said before it does.
        telling = [text for text in texts if text != message.text] if asked_for and len(texts) > 1 else texts
        chosen = await asyncio.to_thread(
            route,
            self._topics,
            self._understander().topics if routed else None,
            telling,
            by_intent=(action.topic, action.confidence or 0.0) if action.topic else None,
            by_article=state.topic,
        )
        return await desk.hand_off(
            session,
            conversation,
            reason=action.reason,
            route=chosen,
            subject=telling[0] if telling else message.text,
            hours=self._hours,
            now=self._clock(),
        )

    def _announcement(self, conversation: Conversation, ticket: Ticket) -> str:
        lang, now = conversation.lang or DEFAULT, self._clock()
        topic = self._topics.get(ticket.topic)
        in_hours = self._hours.contains(now)
        opening = self._hours.next_opening(now)
        return self._replies.render(
            "handoff",
            lang,
            {
                "ticket_number": ticket.id,
                "topic_title": topic.title_in(lang),
                "reason": ticket.reason,
                "in_hours": in_hours,
                "expected_minutes": topic.expected_minutes,
                "next_opening": None if in_hours else f"{opening:%d.%m %H:%M}",
            },
        )
