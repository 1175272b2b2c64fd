"""The assistant at work: takes messages in, runs their turns in order, sends the replies in order."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import TypeVar

import structlog
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from bot import ledger, metrics, reach
from bot.attachments import UNKNOWN_TYPE, AttachmentStore, FetchedAttachment, safe_name
from bot.breaker import Breakers, is_away
from bot.channels.base import (
    Address,
    Channel,
    Closes,
    Edits,
    InboundAttachment,
    InboundMessage,
    Option,
    OutboundAttachment,
    OutboundMessage,
    Reactions,
    ReadMarks,
    fit,
)
from bot.errors import (
    DeliveryError,
    FileGoneError,
    OtvetError,
    PacedError,
    TooLargeError,
    UnreachableError,
    WindowClosedError,
)
from bot.gathering import Waiting, patience, utterance_length, with_edits
from bot.ledger import Claim
from bot.shared import LocalShared, Shared
from bot.transcriber import Transcriber
from bot.turn.situation import situation_of
from bot.turn.turns import Turns
from bot.window import Windows, template_of
from bot.work import DATABASE_AWAY, Sessions
from handoff import desk
from handoff.records import AttachmentState, Author, Delivery, Message, Owner

log = structlog.get_logger()

Result = TypeVar("Result")

MAX_ATTEMPTS = 12
"""With the pauses between them about half an hour."""
FIRST_RETRY_SECONDS = 2.0
LONGEST_RETRY_SECONDS = 600.0
GIVE_UP_AFTER = timedelta(hours=6)
"""For a platform that asks to wait again and again, since it did so first: what waited for us, while we were away,
has not been refused yet."""
RECORD_PAUSES = (0.1, 1.0, 5.0, 20.0, 40.0)
"""Before what a platform took is recorded once more. A locked SQLite file has waited 20 seconds by then each time."""
WAITS_FOR = timedelta(hours=24)
"""For one that can't be reached at all, and for our own pace, since the message was written: what is older tells the
customer nothing any more."""
SHORT_WAIT_SECONDS = 0.5
"""For a platform's limit, instead of putting the message back."""
PATIENCE_STEP_SECONDS = 0.4
"""How often it is looked whether a customer who may be typing on has added something."""
REACTION = "reaction"
SPOKEN = frozenset({"voice", "video_note"})
MAX_TRANSCRIPTS = 200
ANSWERED_KINDS = frozenset({"text", "choice", "attachment"})
"""Kinds of message whose answer the customer is shown to be in the making."""


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
        windows: Windows | None = None,
        transcriber: Transcriber | None = None,
        gather_seconds: float = 1.2,
        max_text_chars: int = 4000,
        shared: Shared | None = None,
    ) -> None:
        """windows: what is held back where a platform takes messages for a time only; None: nothing.
        transcriber: reads voice messages; None: nobody does. gather_seconds: how long to wait for what a customer is
        about to add; 0: each message is a turn."""
        self.sessions = sessions
        self.work = sessions.work
        self.clock = clock
        self.channels = {channel.name: channel for channel in channels}
        self._turns = turns
        self._attachments = attachments
        self._windows = windows
        self._transcriber = transcriber
        self._transcripts: dict[str, str] = {}
        """Of voice messages whose turn is not saved yet, by SHA-256: a turn may be thought out twice."""
        self._gather = timedelta(seconds=gather_seconds)
        self._max_text_chars = max_text_chars
        self._shared = shared or LocalShared()
        self._breakers = Breakers(sessions, clock)
        self._gates: dict[tuple[str, str], Gate] = {}
        self._background: set[asyncio.Task[None]] = set()

    async def receive(self, message: InboundMessage) -> bool:
        """Store a message durably; False when it was there already. Its turn follows by itself."""
        new = await ledger.receive(self.sessions, message, now=self.clock())
        metrics.RECEIVED.labels(message.address.channel, "no" if new else "yes").inc()
        return new

    async def on_failed(self, session: AsyncSession, message: Message, problem: str) -> None:
        """A platform took a message and reports later that it did not arrive: then a person has to know."""
        await self._turns.saving.undelivered(session, message, problem, permanent=True)

    async def run(self) -> None:
        """Serve every channel until cancelled. What is in hand then is finished; the rest goes to other workers, or
        waits for the next start."""
        try:
            async with asyncio.TaskGroup() as group:
                for channel in self.channels.values():
                    group.create_task(self._run_channel(channel), name=f"channel:{channel.name}")
                group.create_task(self.work.run(self.work_on, self._waiting), name="work")
        finally:
            for channel in self.channels.values():
                if isinstance(channel, Closes):  # what was in hand has opened it again
                    await channel.close()

    async def drain(self) -> None:
        """Do everything that is due now, without waiting for what customers may add, and return."""
        async with self.sessions.reading() as session:
            found = await ledger.waiting(session, self.channels, now=self.clock())
        for address in found:
            await self.work_on(address, patient=False)

    async def work_on(self, address: Address, *, patient: bool = True) -> None:
        """Answer the messages of one conversation, one turn after the other in the order of arrival, and send what
        may go out. patient: wait a moment for what a customer is about to add.

        A message or reply that is queued meanwhile wakes the engine again, so nothing has to be looked for twice.
        """
        more = True
        while more:
            if self.work.stopping:
                await self._hand_over(address)
                return
            more, claim = await self._turn(address, patient)
            try:
                while claim is not None:
                    claim = await self._deliver(address, claim)
            except _Fenced:
                # Another worker took this one for dead, and has the conversation now.
                return

    async def _hand_over(self, address: Address) -> None:
        async with self.sessions.begin() as session:
            await self.work.enqueue(session, address)

    async def _waiting(self) -> Sequence[Address]:
        async with self.sessions.reading() as session:
            return await ledger.waiting(session, self.channels, now=self.clock())

    async def _run_channel(self, channel: Channel) -> None:
        """Keep a channel running, in one process of all: a fault in one is logged and it starts again, the others go
        on."""
        pause = FIRST_RETRY_SECONDS
        while True:
            try:
                await self.work.exclusively(f"channel:{channel.name}", lambda: channel.run(self.receive))
                return
            except Exception:
                log.exception("channel.failed", channel=channel.name, retry_after_seconds=pause)
                await asyncio.sleep(pause)
                pause = min(pause * 2, 60.0)

    async def _turn(self, address: Address, patient: bool) -> tuple[bool, Claim | None]:
        """Run the next turn, if a message waits, and claim the first reply that may go out.

        Returns whether more messages wait, and the claim.
        """
        async with self.sessions.reading() as session:
            rows = await ledger.pending(session, address)
            if rows:
                situation = await situation_of(session, address, now=self.clock())
            elif not await ledger.has_replies(session, address):
                return False, None
        if not rows:
            return False, await self._claim(address)
        waiting = [Waiting(InboundMessage.from_json(row.payload), row.received_at) for row in rows]
        waiting = with_edits(waiting)
        length = 1
        if self._gather:
            length = utterance_length(waiting, self._max_text_chars)
            if patient and length == len(waiting) and situation.owner is Owner.ASSISTANT:
                pause = patience(waiting, self._gather, self.clock())
                if pause and not self.work.stopping:
                    await asyncio.sleep(min(pause, PATIENCE_STEP_SECONDS))
                    return True, None
        rows, utterance = rows[:length], [each.message for each in waiting[:length]]
        if situation.owner is Owner.ASSISTANT and utterance[-1].kind in ANSWERED_KINDS:
            self._show_working(address, utterance[-1].external_id)
        fetched = [
            [await self._fetch(address.channel, attachment) for attachment in message.attachments]
            for message in utterance
        ]
        try:
            utterance = [
                await self._read_voice(message, files, situation.lang)
                for message, files in zip(utterance, fetched, strict=True)
            ]
            with metrics.TURN_SECONDS.labels("understand").time():
                plan = await self._turns.thinking.think(self.sessions, situation, utterance, fetched)
            saving = time.perf_counter()
            async with self.sessions.in_hand(address) as session:
                if not await self._turns.saving.save(session, plan, rows, utterance, fetched):
                    # Something has changed while it was thought about: think again.
                    log.info("turn.overtaken", inbox=rows[0].id, channel=address.channel)
                    await session.rollback()
                    return True, None
                claim = await ledger.claim_next(session, address, now=self.clock())
            metrics.TURN_SECONDS.labels("save").observe(time.perf_counter() - saving)
            metrics.TURNS.labels(address.channel, plan.decision.rule).inc()
            for event in plan.decision.events:
                metrics.FLOWS.labels(event.flow, event.what).inc()
        except DATABASE_AWAY:
            # Not the message's fault: the database went away, or chose this transaction to end a deadlock.
            raise
        except Exception as error:
            # Edge: whatever breaks inside a turn, the customer ends at a person and not in silence.
            log.exception("turn.failed", inbox=rows[0].id, channel=address.channel)
            metrics.TURNS.labels(address.channel, "error").inc()
            recalled = await self._turns.thinking.recall(self.sessions, situation, utterance)
            try:
                async with self.sessions.in_hand(address) as session:
                    await self._turns.saving.fail(session, rows, utterance, fetched, error, recalled)
                    claim = await ledger.claim_next(session, address, now=self.clock())
            except DATABASE_AWAY:
                raise
            except Exception as failure:
                # Edge: it would be tried again without end, and nobody would hear of it.
                log.exception("turn.failed_twice", inbox=rows[0].id, channel=address.channel)
                async with self.sessions.in_hand(address) as session:
                    await self._turns.saving.give_up(session, rows, utterance, failure)
                    claim = await ledger.claim_next(session, address, now=self.clock())
        return length < len(waiting), claim

    async def _claim(self, address: Address) -> Claim | None:
        async with self.sessions.in_hand(address) as session:
            return await ledger.claim_next(session, address, now=self.clock())

    def _show_working(self, address: Address, external_id: str) -> None:
        """Beside the turn, which waits for nothing that only looks well."""
        task = asyncio.create_task(self.channels[address.channel].working(address, external_id))
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _fetch(self, channel: str, attachment: InboundAttachment) -> FetchedAttachment:
        """Keep a file that came with a message. A file that can't be had is recorded, and never stops a turn."""
        state, sha256, size = AttachmentState.REFERENCE, None, attachment.size_bytes
        mime_type, name = attachment.mime_type, attachment.file_name and safe_name(attachment.file_name)
        if attachment.fetchable:
            limit = min(self._attachments.max_bytes, self.channels[channel].capabilities.max_download_bytes)
            if size is not None and size > limit:
                state = AttachmentState.TOO_LARGE
            else:
                try:
                    stored = await self._attachments.store(self.channels[channel].fetch(attachment), name or "")
                    state, sha256, size = AttachmentState.STORED, stored.sha256, stored.size_bytes
                    mime_type = stored.mime_type
                except TooLargeError:
                    state = AttachmentState.TOO_LARGE
                except Exception as error:  # noqa: BLE001
                    # Edge: whatever is wrong with a file, its message is answered.
                    log.warning("attachment.failed", channel=channel, kind=attachment.kind, error=repr(error))
                    state = AttachmentState.FAILED
        return FetchedAttachment(
            kind=attachment.kind,
            state=state,
            file_name=name,
            mime_type=mime_type,
            size_bytes=size,
            sha256=sha256,
            source=attachment.source,
        )

    async def _read_voice(
        self, message: InboundMessage, files: Sequence[FetchedAttachment], lang: str | None
    ) -> InboundMessage:
        """The message with what is said in its voice messages as its text, marked as such."""
        if self._transcriber is None:
            return message
        said = []
        for file in files:
            if file.kind not in SPOKEN or file.state is not AttachmentState.STORED or not file.sha256:
                continue
            text = self._transcripts.get(file.sha256)
            if text is None:
                try:
                    text = await self._transcriber.transcribe(
                        await self._attachments.local(file.sha256),
                        file_name=file.file_name or f"{file.kind}.ogg",
                        mime_type=file.mime_type or UNKNOWN_TYPE,
                        lang=lang,
                    )
                except OtvetError as error:
                    log.warning("voice.unread", error=str(error))
                    metrics.TRANSCRIPTS.labels("failed").inc()
                    continue
                metrics.TRANSCRIPTS.labels("read" if text else "empty").inc()
                if len(self._transcripts) >= MAX_TRANSCRIPTS:
                    self._transcripts.clear()
                self._transcripts[file.sha256] = text
            said.append(text)
        text = "\n".join(filter(None, (message.text, *said)))
        if text == message.text:
            return message
        return replace(message, text=text, context={**message.context, "transcribed": True})

    async def _deliver(self, address: Address, claim: Claim) -> Claim | None:
        """Send a claimed message and record what became of it. The next one, claimed; None when nothing may go out.

        A stop waits for it: it must not fall between the platform's "accepted" and our record of that.
        """
        channel = self.channels[address.channel]
        external_id: str | None = None
        error: DeliveryError | None = None
        try:
            parts = fit(_outbound(claim, await self._files(claim)), channel.capabilities)
            self._breakers.of(address).check()
            if claim.message.kind == REACTION:
                await self._keep_pace(channel, address, claim)
                assert isinstance(channel, Reactions)  # noqa: S101 - as for edits
                if not await self._may_send(address):
                    return await self._hold(address, claim)
                await self._breakers.call(
                    address, partial(channel.react, address, claim.quote or "", claim.message.text)
                )
                parts = ()
            if claim.is_edit:
                await self._keep_pace(channel, address, claim)
                assert isinstance(channel, Edits)  # noqa: S101 - whoever queues an edit asks the capabilities
                # The platform's id that is kept is that of the last part.
                edit = partial(channel.edit, address, claim.message.external_id or "", parts[-1])
                await self._breakers.call(address, edit)
                parts = ()
            for number, part in enumerate(parts[claim.parts_sent :], claim.parts_sent + 1):
                await self._keep_pace(channel, address, claim)
                if part.template is None and not await self._may_send(address):
                    return await self._hold(address, claim)
                external_id = await self._breakers.call(address, partial(channel.send, address, part))
                if number < len(parts):
                    await _surely(partial(self._part_sent, address, claim, number))
        except WindowClosedError as failure:
            if self._windows is not None and template_of(claim.message) is None:
                return await self._hold(address, claim, shut=True)
            error = failure
        except UnreachableError as failure:
            return await self._lost(address, claim, failure)
        except DeliveryError as failure:
            error = failure
        except (*DATABASE_AWAY, _Fenced):
            raise
        except Exception as failure:
            # Edge: a fault of the channel's own code counts as a failed attempt.
            log.exception("outbox.fault", conversation=claim.conversation_id, message=claim.message.id)
            error = DeliveryError(repr(failure))
        following = await _surely(partial(self._record, address, claim, external_id, error))
        if error is None:
            metrics.SENDS.labels(address.channel, "sent").inc()
            took = (self.clock() - claim.created_at).total_seconds()
            metrics.REPLY_SECONDS.labels(address.channel).observe(max(took, 0))
        return following

    async def _part_sent(self, address: Address, claim: Claim, number: int) -> None:
        async with self.sessions.in_hand(address) as session:
            if not await ledger.part_sent(session, claim, number):
                raise _Fenced

    async def _record(
        self, address: Address, claim: Claim, external_id: str | None, error: DeliveryError | None
    ) -> Claim | None:
        """What became of a claimed message. The next one, claimed."""
        async with self.sessions.in_hand(address) as session:
            if error is None:
                settled = await ledger.settle(session, claim, Delivery.SENT, external_id=external_id)
            else:
                settled = await self._refused(session, address, claim, error)
            if not settled:
                raise _Fenced
            if self.work.stopping:
                await self.work.enqueue(session, address)
                return None
            return await ledger.claim_next(session, address, now=self.clock())

    async def _files(self, claim: Claim) -> tuple[OutboundAttachment, ...]:
        """The files of a message, on this machine. Raises DeliveryError when one is gone."""
        try:
            return tuple(
                [
                    OutboundAttachment(
                        kind=row.kind,
                        path=await self._attachments.local(row.sha256 or ""),
                        file_name=row.file_name or "file",
                        mime_type=row.mime_type or UNKNOWN_TYPE,
                        size_bytes=row.size_bytes or 0,
                        sha256=row.sha256 or "",
                    )
                    for row in claim.attachments
                ]
            )
        except FileGoneError as error:
            raise DeliveryError("the file is gone from our store", permanent=True) from error

    async def _may_send(self, address: Address) -> bool:
        if self._windows is None or self.channels[address.channel].capabilities.window is None:
            return True
        async with self.sessions.reading() as session:
            return await self._windows.is_open(session, address)

    async def _hold(self, address: Address, claim: Claim, *, shut: bool = False) -> Claim | None:
        """Keep a claimed message until the customer's window is open again; a reaction and what nobody waits for are
        given up. The next one, claimed."""
        assert self._windows is not None  # noqa: S101 - only it says that a window is closed
        async with self.sessions.in_hand(address) as session:
            if shut:
                await self._windows.shut(session, address)
            if claim.message.kind == REACTION or (claim.message.decision or {}).get("action") == ledger.UNASKED:
                # Not worth asking the customer to write, and days later it would tell him nothing.
                if not await ledger.settle(session, claim, Delivery.FAILED, error="the window is closed"):
                    raise _Fenced
                return await ledger.claim_next(session, address, now=self.clock())
            if not await ledger.settle(session, claim, Delivery.HELD):
                raise _Fenced
            await self._windows.hold(session, claim.message.id)
            return await ledger.claim_next(session, address, now=self.clock())

    async def _lost(self, address: Address, claim: Claim, error: UnreachableError) -> Claim | None:
        """Keep a claimed message until the customer is back. The next one, claimed."""
        async with self.sessions.in_hand(address) as session:
            conversation = await desk.lock_conversation(session, claim.conversation_id)
            if not await ledger.settle(session, claim, Delivery.HELD, error=str(error)):
                raise _Fenced
            metrics.SENDS.labels(address.channel, "held").inc()
            await reach.lost(session, conversation, str(error), now=self.clock())
            return await ledger.claim_next(session, address, now=self.clock())

    async def seen(self, conversation_id: int) -> None:
        """An agent has the conversation before him: where the platform can, the customer sees that it was read."""
        async with self.sessions.reading() as session:
            conversation = await desk.get_conversation(session, conversation_id)
            last = await session.scalar(
                select(Message.external_id)
                .where(
                    Message.conversation_id == conversation_id,
                    Message.author == Author.CUSTOMER,
                    Message.kind.not_in(["reaction", "note"]),
                )
                .order_by(Message.id.desc())
                .limit(1)
            )
        channel = self.channels.get(conversation.channel)
        if last and isinstance(channel, ReadMarks):
            await channel.seen(ledger.address_of(conversation), last)

    async def _keep_pace(self, channel: Channel, address: Address, claim: Claim) -> None:
        """Wait a moment for the platform's limit, or raise PacedError when it takes longer."""
        ticket, rates = f"{address.channel}:{claim.message.id}", channel.capabilities.rates(address)
        while wait := await self._shared.book(ticket, *rates):
            if wait > SHORT_WAIT_SECONDS:
                metrics.RATE_LIMITED.labels(f"send:{address.channel}").inc()
                raise PacedError("waits for its turn within the platform's limits", retry_after_seconds=wait)
            await asyncio.sleep(wait)
        pace = channel.capabilities.account_pace
        if pace is not None and pace.every_seconds <= SHORT_WAIT_SECONDS:  # a slower one is kept by what was booked
            await self._gate(address).through(pace.every_seconds)

    def _gate(self, address: Address) -> Gate:
        return self._gates.setdefault((address.channel, address.account), Gate())

    async def _refused(self, session: AsyncSession, address: Address, claim: Claim, error: DeliveryError) -> bool:
        """Try again later, or give up: then a person has to know."""
        now, problem = self.clock(), str(error)
        if isinstance(error, PacedError) and error.retry_after_seconds and now - claim.created_at <= WAITS_FOR:
            due_at = now + timedelta(seconds=error.retry_after_seconds)
            return await ledger.postpone(session, claim, address, attempts=claim.attempts, error=problem, due_at=due_at)
        limited = error.retry_after_seconds is not None
        away = is_away(error) and self._breakers.of(address).is_open
        # A platform that asks to wait has refused nothing, and one that is away has seen nothing.
        attempts = claim.attempts + (0 if limited or away else 1)
        log.warning("outbox.refused", conversation=claim.conversation_id, attempts=attempts, error=problem)
        unasked = away or isinstance(error, PacedError)
        late = now - claim.created_at > WAITS_FOR if unasked else now - (claim.tried_at or now) > GIVE_UP_AFTER
        if error.permanent or late or attempts >= MAX_ATTEMPTS:
            if not await ledger.settle(session, claim, Delivery.FAILED, error=problem):
                return False
            if claim.is_edit:
                note = f"The customer still sees the message as it was before it was changed: {problem}"
                await desk.note(session, claim.conversation_id, note, about={"edit": claim.message.id}, now=now)
                return True
            await self._turns.saving.undelivered(session, claim.message, problem, permanent=error.permanent)
            metrics.SENDS.labels(address.channel, "failed").inc()
            return True
        metrics.SENDS.labels(address.channel, "retried").inc()
        # With some chance in it, so that not all conversations come back at once.
        if error.retry_after_seconds is not None:
            pause = error.retry_after_seconds + random.uniform(0, 0.9)  # noqa: S311
        else:
            doubled = min(FIRST_RETRY_SECONDS * 2 ** max(attempts - 1, 0), LONGEST_RETRY_SECONDS)
            pause = doubled * random.uniform(0.8, 1.2)  # noqa: S311
        due_at = now + timedelta(seconds=pause)
        refused_at = None if unasked else now
        return await ledger.postpone(
            session, claim, address, attempts=attempts, error=problem, due_at=due_at, refused_at=refused_at
        )


async def _surely(record: Callable[[], Awaitable[Result]]) -> Result:
    """Record what a platform has done already. While the database is away it is tried again for a minute and more:
    given up, the same would be sent a second time."""
    for pause in RECORD_PAUSES:
        try:
            return await record()
        except DATABASE_AWAY as error:
            log.warning("outbox.unrecorded", error=repr(error), pause_seconds=pause)
            await asyncio.sleep(pause)
    return await record()


class _Fenced(Exception):  # noqa: N818 - no error: somebody else is at work
    """The claim has passed to another worker."""


class Gate:
    """Lets one through at a time, so far apart. A process that was busy for a moment must not send at once all that
    came due meanwhile: the platform counts what arrives."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._last = 0.0

    async def through(self, every_seconds: float) -> None:
        async with self._lock:
            loop = asyncio.get_running_loop()
            if (left := self._last + every_seconds - loop.time()) > 0:
                await asyncio.sleep(left)
            self._last = loop.time()


def _outbound(claim: Claim, files: tuple[OutboundAttachment, ...]) -> OutboundMessage:
    message = claim.message
    return OutboundMessage(
        text=message.text,
        options=tuple(Option(option["token"], option["label"]) for option in message.options),
        message_id=message.id,
        author="agent" if message.author is Author.AGENT else "assistant",
        agent_name=message.agent_name,
        decision=message.decision,
        template=template_of(message),
        attachments=files,
        quote=claim.quote,
    )
