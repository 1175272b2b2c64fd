"""The assistant in one process: takes messages in, runs their turns in order, sends the replies in order."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Hashable, Sequence
from datetime import datetime, timedelta
from typing import TypeVar

import structlog

from bot import ledger
from bot.attachments import AttachmentStore, TooLargeError
from bot.channels.base import Address, Channel, InboundAttachment, InboundMessage, Option, OutboundMessage, fit
from bot.errors import DeliveryError
from bot.ledger import Sessions
from bot.turn import FetchedAttachment, Turns
from handoff.records import AttachmentState, Author, Conversation, Delivery, Message

log = structlog.get_logger()

POLL_SECONDS = 1.0
"""How often the ledger is read without a signal: another process may have written to it."""
MAX_CONVERSATIONS = 8
"""How many conversations are worked on at once."""
MAX_ATTEMPTS = 8
STOP_SECONDS = 10.0
"""How long a stop waits for sends that have begun."""
FIRST_RETRY_SECONDS = 2.0
ANSWERED_KINDS = frozenset({"text", "choice", "attachment"})
"""Kinds of message whose answer the customer is shown to be in the making."""

Key = TypeVar("Key", bound=Hashable)


class Assistant:
    """Everything between the channels and the ledger. `run` works until cancelled; `drain` works off what is
    there and returns, for the terminal and for tests."""

    def __init__(
        self,
        *,
        sessions: Sessions,
        turns: Turns,
        channels: Sequence[Channel],
        attachments: AttachmentStore,
        clock: Callable[[], datetime],
    ) -> None:
        self.sessions = sessions
        self.clock = clock
        self.channels = {channel.name: channel for channel in channels}
        self._turns = turns
        self._attachments = attachments
        self._turns_wanted = asyncio.Event()
        self._sending_wanted = asyncio.Event()
        self._in_flight: set[asyncio.Task[bool]] = set()
        self._background: set[asyncio.Task[None]] = set()

    async def receive(self, message: InboundMessage) -> bool:
        """Store a message durably; False when it was there already. Its turn follows by itself."""
        new = await ledger.receive(self.sessions, message, now=self.clock())
        self._turns_wanted.set()
        return new

    async def run(self) -> None:
        """Serve every channel until cancelled. What was begun is finished after the next start."""
        try:
            async with asyncio.TaskGroup() as group:
                for channel in self.channels.values():
                    group.create_task(self._run_channel(channel), name=f"channel:{channel.name}")
                group.create_task(_serve(self._turns_wanted, self._waiting, self._work_through), name="turns")
                group.create_task(_serve(self._sending_wanted, self._due, self._send_all), name="sender")
        finally:
            if self._in_flight:
                await asyncio.wait(self._in_flight, timeout=STOP_SECONDS)

    async def drain(self) -> None:
        """Run every waiting turn and send every due reply, then return."""
        for address in await self._waiting():
            await self._work_through(address)
        for conversation_id in await self._due():
            await self._send_all(conversation_id)

    async def _run_channel(self, channel: Channel) -> None:
        """Keep a channel running: a fault in one is logged and it starts again, the others go on."""
        pause = FIRST_RETRY_SECONDS
        while True:
            try:
                await channel.run(self.receive)
                return
            except Exception:
                log.exception("channel.failed", channel=channel.name, retry_after_seconds=pause)
                await asyncio.sleep(pause)
                pause = min(pause * 2, 60.0)

    async def _waiting(self) -> Sequence[Address]:
        async with self.sessions.begin() as session:
            return await ledger.waiting_addresses(session, self.channels)

    async def _due(self) -> Sequence[int]:
        async with self.sessions.begin() as session:
            return await ledger.due_conversations(session, self.channels, now=self.clock())

    async def _work_through(self, address: Address) -> None:
        """Answer the messages of one conversation, one turn after the other, in the order of arrival."""
        while True:
            async with self.sessions.begin() as session:
                row = await ledger.next_waiting(session, address)
                answering = row and await ledger.assistant_owns(session, address)
            if row is None:
                return
            inbound = InboundMessage.from_json(row.payload)
            if answering and inbound.kind in ANSWERED_KINDS:
                self._show_working(address, inbound.external_id)
            fetched = [await self._fetch(address.channel, attachment) for attachment in inbound.attachments]
            try:
                async with self.sessions.begin() as session:
                    await self._turns.run(session, await session.merge(row), fetched)
            except Exception as error:
                # Edge: whatever breaks inside a turn, the customer ends at a person and not in silence.
                log.exception("turn.failed", inbox=row.id, channel=address.channel)
                async with self.sessions.begin() as session:
                    await self._turns.fail(session, await session.merge(row), fetched, error)
            self._sending_wanted.set()

    def _show_working(self, address: Address, external_id: str) -> None:
        """Beside the turn, which waits for nothing that only looks well."""
        task = asyncio.create_task(self.channels[address.channel].working(address, external_id))
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _fetch(self, channel: str, attachment: InboundAttachment) -> FetchedAttachment:
        """Keep a file that came with a message. A file that can't be had is recorded, and never stops a turn."""
        state, sha256, size = AttachmentState.REFERENCE, None, attachment.size_bytes
        if attachment.fetchable:
            limit = min(self._attachments.max_bytes, self.channels[channel].capabilities.max_download_bytes)
            if size is not None and size > limit:
                state = AttachmentState.TOO_LARGE
            else:
                try:
                    stored = await self._attachments.store(self.channels[channel].fetch(attachment))
                    state, sha256, size = AttachmentState.STORED, stored.sha256, stored.size_bytes
                except TooLargeError:
                    state = AttachmentState.TOO_LARGE
                except Exception as error:  # noqa: BLE001
                    # Edge: whatever is wrong with a file, its message is answered.
                    log.warning("attachment.failed", channel=channel, kind=attachment.kind, error=repr(error))
                    state = AttachmentState.FAILED
        return FetchedAttachment(
            kind=attachment.kind,
            state=state,
            file_name=attachment.file_name,
            mime_type=attachment.mime_type,
            size_bytes=size,
            sha256=sha256,
            source=attachment.source,
        )

    async def _send_all(self, conversation_id: int) -> None:
        """Send what is queued for one conversation, in order, until nothing is due."""
        while True:
            # A stop must not fall between the platform's "accepted" and our record of it: it would be sent again.
            sending = asyncio.create_task(self._send_next(conversation_id))
            self._in_flight.add(sending)
            sending.add_done_callback(self._in_flight.discard)
            if not await asyncio.shield(sending):
                return

    async def _send_next(self, conversation_id: int) -> bool:
        """Send the oldest queued message; False when there is none, or it has to wait."""
        async with self.sessions.begin() as session:
            row = await ledger.next_outgoing(session, conversation_id)
            if row is None or row.due_at > self.clock():
                return False
            conversation = await session.get_one(Conversation, conversation_id)
            message = await session.get_one(Message, row.message_id)
            if row.guard_epoch is not None and row.guard_epoch != conversation.epoch:
                message.delivery = Delivery.DISCARDED
                await session.delete(row)
                log.info("outbox.discarded", conversation=conversation_id, message=message.id)
                return True
            message.delivery = Delivery.SENDING
        address = Address(conversation.channel, conversation.account, conversation.chat_id)
        channel = self.channels[conversation.channel]
        parts = fit(_outbound(message), channel.capabilities)
        external_id, error = message.external_id, None
        try:
            for part in parts[row.parts_sent :]:
                external_id = await channel.send(address, part) or external_id
                row.parts_sent += 1
        except DeliveryError as failure:
            error = failure
        except Exception as failure:
            # Edge: a fault of the channel's own code counts as a failed attempt.
            log.exception("outbox.fault", conversation=conversation_id, message=message.id)
            error = DeliveryError(repr(failure))
        async with self.sessions.begin() as session:
            row, message = await session.merge(row), await session.merge(message)
            message.external_id = external_id
            if error is None:
                message.delivery = Delivery.SENT
                await session.delete(row)
                return True
            row.attempts += 1
            message.delivery_error = str(error)
            log.warning("outbox.refused", conversation=conversation_id, attempts=row.attempts, error=str(error))
            if error.permanent or row.attempts >= MAX_ATTEMPTS:
                message.delivery = Delivery.FAILED
                await session.delete(row)
                return True
            message.delivery = Delivery.QUEUED
            pause = error.retry_after_seconds or FIRST_RETRY_SECONDS * 2 ** (row.attempts - 1)
            row.due_at = self.clock() + timedelta(seconds=pause)
            return False


def _outbound(message: Message) -> OutboundMessage:
    return OutboundMessage(
        text=message.text,
        options=tuple(Option(option["token"], option["label"]) for option in message.options),
        message_id=message.id,
        author="agent" if message.author is Author.AGENT else "assistant",
        agent_name=message.agent_name,
        decision=message.decision,
    )


async def _serve(
    wanted: asyncio.Event, find: Callable[[], Awaitable[Sequence[Key]]], work: Callable[[Key], Awaitable[None]]
) -> None:
    """Work on every conversation that `find` names, each in a task of its own, one task at a time for each.

    Woken by `wanted`, or by the clock when another process wrote to the ledger.
    """
    busy: set[Key] = set()
    missed: set[Key] = set()
    places = asyncio.Semaphore(MAX_CONVERSATIONS)

    async def guarded(key: Key) -> None:
        try:
            async with places:
                await work(key)
        except Exception:
            # Edge: one conversation's fault must not stop the others. It is tried again by the clock.
            log.exception("conversation.failed", key=str(key))
        finally:
            busy.discard(key)
            if key in missed:  # something came for it after its last look
                missed.discard(key)
                wanted.set()

    async with asyncio.TaskGroup() as group:
        while True:
            wanted.clear()
            try:
                found = await find()
            except Exception:
                log.exception("ledger.unreachable")
                found = []
            for key in found:
                if key in busy:
                    missed.add(key)
                else:
                    busy.add(key)
                    group.create_task(guarded(key))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(wanted.wait(), POLL_SECONDS)
