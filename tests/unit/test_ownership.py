"""Who may speak: a random interleaving of customers, workers, agents and deaths on a real database.

Workers run the assistant's own code. Each stops twice on its way, while the models think and while the platform is
called, and at those moments anything else may happen: agents answer and resolve, customers write, another worker takes
the conversation for abandoned, the worker dies.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest
from databases import MakeDatabase
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from site_harness import DATA, Keywords
from sqlalchemy import select
from test_turns import Recorder, World

from bot.channels.base import Address, OutboundMessage
from bot.database import migrate
from bot.errors import DeliveryError
from bot.ledger import InboxRow, InboxState, OutboxRow
from bot.models.understanding import Understood
from handoff import desk
from handoff.errors import TicketStateError
from handoff.lifecycle import LIVE
from handoff.records import NOTE, Author, Conversation, Delivery, Message, Owner, Reason, Ticket
from handoff.routing import Evidence, Route, load_topics

CHATS = ("a", "b")
SAID = ("where is my order", "how do I return it", "a person please", "boom", "what is the weather like")
SETTLE_SECONDS = 20
TOPICS = load_topics(DATA / "topics.yml")
T = TypeVar("T")


@dataclass(eq=False)
class Worker:
    """One worker that looks at one conversation. `place` is where it has stopped."""

    chat: str
    task: asyncio.Task[None] | None = None
    place: str | None = None
    go_on: threading.Event = field(default_factory=threading.Event)
    refuse: bool = False

    def release(self) -> None:
        self.place = None
        event, self.go_on = self.go_on, threading.Event()
        event.set()


CURRENT: ContextVar[Worker] = ContextVar("worker")


def _stop_at(place: str) -> None:
    """Block the thread until the test lets this worker go on."""
    worker = CURRENT.get()
    event, worker.place = worker.go_on, place
    event.wait(SETTLE_SECONDS)


class SlowMind(Keywords):
    def understand(self, text: str, remembered_lang: str | None = None) -> Understood:
        _stop_at("thinking")
        return super().understand(text, remembered_lang)


@dataclass(frozen=True)
class Delivered:
    message_id: int
    worker: Worker


class SlowChannel(Recorder):
    """Keeps what the platform accepted, by chat, and who sent it."""

    def __init__(self) -> None:
        super().__init__()
        self.delivered: dict[str, list[Delivered]] = {chat: [] for chat in CHATS}

    async def send(self, address: Address, message: OutboundMessage) -> str | None:
        await asyncio.to_thread(_stop_at, "sending")
        worker = CURRENT.get()
        if worker.refuse:
            worker.refuse = False
            raise DeliveryError("429", retry_after_seconds=5)
        self.delivered[address.chat_id].append(Delivered(message.message_id, worker))
        return str(message.message_id)


class Ownership(RuleBasedStateMachine):
    database = ""

    @initialize()
    def begin(self) -> None:
        self.loop = asyncio.new_event_loop()
        mind = SlowMind()
        # Gathering has tests of its own; here every message is a turn.
        self.world = World(Path(), understander=mind, database=self.database, gather_seconds=0)
        self.channel = SlowChannel()
        self.world.assistant.channels = {"recorder": self.channel}
        self.workers: list[Worker] = []
        self.dead: set[Worker] = set()
        self.received: dict[str, list[str]] = {chat: [] for chat in CHATS}
        self.owners: dict[tuple[int, int], Owner] = {}
        """(conversation, epoch) → whose it was."""
        self.guards: dict[int, int | None] = {}
        """Message → the epoch it was computed in; None: an announcement or an agent's."""
        self.speakers: dict[tuple[int, int], set[Author]] = {}
        """(conversation, epoch) → who has written an answer in it."""
        self.of_agents: dict[int, int] = {}
        """An agent's message → the epoch in which it was written."""
        self.known: set[int] = set()
        self.claimed: dict[int, int] = {}
        self.run(migrate(self.world.engine))

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    # What happens

    @rule(chat=st.sampled_from(CHATS), text=st.sampled_from(SAID), copies=st.integers(1, 2))
    def a_customer_writes(self, chat: str, text: str, copies: int) -> None:
        key = f"{chat}-{len(self.received[chat])}"
        message = self.world.message(text, key=key, chat=chat)
        new = [self.run(self.world.assistant.receive(message)) for _ in range(copies)]
        assert new == [True, False][:copies]
        self.received[chat].append(key)
        if not any(worker.chat == chat for worker in self.workers):
            self._look(chat)

    @precondition(lambda self: self.workers)
    @rule(chat=st.sampled_from(CHATS))
    def a_worker_looks(self, chat: str) -> None:
        """At most two at a conversation: the second one takes the first for dead."""
        if sum(worker.chat == chat for worker in self.workers) < 2:
            self._look(chat)

    @precondition(lambda self: self.workers)
    @rule(number=st.integers(0, 9), refuse=st.booleans())
    def a_worker_goes_on(self, number: int, refuse: bool) -> None:
        """To the end of its thinking or of its call to the platform, which may ask to wait."""
        worker = self.workers[number % len(self.workers)]
        worker.refuse = refuse and worker.place == "sending"
        worker.release()
        self.settle()

    @precondition(lambda self: self.workers)
    @rule(number=st.integers(0, 9), accepted=st.booleans())
    def a_worker_dies(self, number: int, accepted: bool) -> None:
        """accepted: the platform has taken the message that the worker was sending."""
        worker = self.workers[number % len(self.workers)]
        assert worker.task is not None
        if worker.place == "sending" and accepted:
            self.channel.delivered[worker.chat].append(Delivered(self._being_sent(worker), worker))
        self.dead.add(worker)
        worker.task.cancel()
        worker.release()
        self.settle()

    @rule(seconds=st.sampled_from([6, 60]))
    def time_passes(self, seconds: int) -> None:
        self.world.clock.advance(seconds)

    @precondition(lambda self: self.workers)
    @rule(chat=st.sampled_from(CHATS))
    def a_person_takes_over(self, chat: str) -> None:
        self.run(self._take_over(chat))

    @rule(number=st.integers(0, 9))
    def an_agent_replies(self, number: int) -> None:
        if ticket_id := self._ticket(number):
            self.run(self._reply(ticket_id))

    @rule(number=st.integers(0, 9))
    def an_agent_resolves(self, number: int) -> None:
        if ticket_id := self._ticket(number):
            self.run(self._resolve(ticket_id))

    @rule(number=st.integers(0, 9))
    def an_agent_reopens(self, number: int) -> None:
        """What was ended, while the assistant may be in the middle of a turn."""
        if ticket_id := self._ticket(number):
            self.run(self._reopen(ticket_id))

    @rule(number=st.integers(0, 9))
    def an_agent_replies_while_another_resolves(self, number: int) -> None:
        if ticket_id := self._ticket(number):

            async def both() -> None:
                results = await asyncio.gather(self._reply(ticket_id), self._resolve(ticket_id), return_exceptions=True)
                assert all(result is None or isinstance(result, TicketStateError) for result in results), results

            self.run(both())

    # What must hold

    @invariant()
    def every_conversation_has_one_owner_and_every_epoch_one_speaker(self) -> None:
        if hasattr(self, "world"):
            self.run(self._check())

    async def _check(self) -> None:
        async with self.world.sessions.begin() as session:
            conversations = {each.id: each for each in await session.scalars(select(Conversation))}
            tickets = list(await session.scalars(select(Ticket).where(Ticket.status.in_(LIVE))))
            outbox = list(await session.scalars(select(OutboxRow)))
            messages = list(await session.scalars(select(Message).order_by(Message.id)))
            inbox = list(await session.scalars(select(InboxRow).order_by(InboxRow.id)))
        for conversation in conversations.values():
            open_ones = [ticket for ticket in tickets if ticket.conversation_id == conversation.id]
            assert len(open_ones) == (conversation.owner is Owner.PERSON)
            key = conversation.id, conversation.epoch
            assert self.owners.setdefault(key, conversation.owner) is conversation.owner
        for row in outbox:
            conversation = conversations[row.conversation_id]
            self.guards.setdefault(row.message_id, row.guard_epoch)
            if row.claims > self.claimed.get(row.id, 0):
                # Taken for sending since the last look, and nothing else has happened since.
                assert row.guard_epoch in (None, conversation.epoch)
            self.claimed[row.id] = row.claims
        for message in messages:
            if message.id in self.known or message.kind == NOTE or message.author is Author.CUSTOMER:
                continue
            self.known.add(message.id)
            guard = self.guards.get(message.id)
            epoch = self.of_agents[message.id] if message.author is Author.AGENT else guard
            if epoch is not None:
                speakers = self.speakers.setdefault((message.conversation_id, epoch), set())
                speakers.add(message.author)
                assert len(speakers) == 1
                expected = Owner.PERSON if message.author is Author.AGENT else Owner.ASSISTANT
                assert self.owners.get((message.conversation_id, epoch), expected) is expected
        kept = [message.external_id for message in messages if message.author is Author.CUSTOMER]
        dealt_with = [row.external_id for row in inbox if row.state is not InboxState.PENDING]
        assert len(set(kept)) == len(kept)
        assert sorted(map(str, kept)) == sorted(map(str, dealt_with))
        assert sorted(str(row.external_id) for row in inbox) == sorted(
            key for keys in self.received.values() for key in keys
        )

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        try:
            for _ in range(200):
                for worker in list(self.workers):
                    worker.release()
                self.settle()
                if not self.workers:
                    if not self.run(self._unfinished()):
                        break
                    self.world.clock.advance(120)
                    for chat in CHATS:
                        self._look(chat)
            self.run(self._check())
            self.run(self._check_the_end())
        finally:
            for worker in self.workers:
                if worker.task:
                    worker.task.cancel()
                worker.release()
            self.settle()
            self.run(self.world.engine.dispose())
            self.run(self.loop.shutdown_default_executor())
            self.loop.close()

    async def _unfinished(self) -> bool:
        async with self.world.sessions.begin() as session:
            pending = await session.scalar(select(InboxRow.id).where(InboxRow.state == InboxState.PENDING).limit(1))
            return bool(pending or await session.scalar(select(OutboxRow.id).limit(1)))

    async def _check_the_end(self) -> None:
        assert not await self._unfinished()
        async with self.world.sessions.begin() as session:
            messages = list(await session.scalars(select(Message).order_by(Message.id)))
            chats = {each.id: each.chat_id for each in await session.scalars(select(Conversation))}
        for chat in CHATS:
            mine = [message for message in messages if chats[message.conversation_id] == chat]
            assert [m.external_id for m in mine if m.author is Author.CUSTOMER] == self.received[chat]
            assert all(m.decision for m in mine if m.author is Author.CUSTOMER)
            said = [m for m in mine if m.author in (Author.ASSISTANT, Author.AGENT) and m.kind != NOTE]
            assert {m.delivery for m in said} <= {Delivery.SENT, Delivery.DISCARDED}
            first: dict[int, Worker] = {}
            for delivered in self.channel.delivered[chat]:
                before = first.get(delivered.message_id)
                # Twice only where the first sender died, or was taken for dead, while it was sending.
                assert before is None or before in self.dead or before is not delivered.worker
                first.setdefault(delivered.message_id, delivered.worker)
            order = list(first)
            assert order == sorted(order)
            assert set(order) >= {m.id for m in said if m.delivery is Delivery.SENT}

    # How it is done

    def _look(self, chat: str) -> None:
        worker = Worker(chat)

        async def work() -> None:
            CURRENT.set(worker)
            await self.world.assistant.work_on(Address("recorder", "", chat), patient=False)

        worker.task = self.loop.create_task(work())
        self.workers.append(worker)
        self.settle()

    def settle(self) -> None:
        """Until every worker has ended or stopped."""

        async def settled() -> None:
            async with asyncio.timeout(SETTLE_SECONDS):
                while any(not worker.task.done() and not worker.place for worker in self.workers if worker.task):  # noqa: ASYNC110
                    await asyncio.sleep(0.001)

        self.run(settled())
        for worker in self.workers:
            if worker.task and worker.task.done() and not worker.task.cancelled():
                worker.task.result()
        self.workers = [worker for worker in self.workers if worker.task and not worker.task.done()]

    def _being_sent(self, worker: Worker) -> int:
        async def look() -> int:
            async with self.world.sessions.begin() as session:
                query = (
                    select(OutboxRow.message_id)
                    .join(Conversation, Conversation.id == OutboxRow.conversation_id)
                    .where(Conversation.chat_id == worker.chat)
                    .order_by(OutboxRow.id)
                    .limit(1)
                )
                return int(await session.scalar(query) or 0)

        return self.run(look())

    def _ticket(self, number: int) -> int | None:
        async def look() -> list[int]:
            async with self.world.sessions.begin() as session:
                return list(await session.scalars(select(Ticket.id).order_by(Ticket.id)))

        found = self.run(look())
        return found[number % len(found)] if found else None

    async def _take_over(self, chat: str) -> None:
        async with self.world.sessions.begin() as session:
            conversation = await session.scalar(select(Conversation).where(Conversation.chat_id == chat))
            if conversation is None or conversation.owner is Owner.PERSON:
                return
            await self.world.desk.tickets.hand_off(
                session,
                conversation,
                reason=Reason.ASKED_FOR_PERSON,
                route=Route(TOPICS.default, "default", Evidence(confidence=1.0)),
                texts=["taken over"],
                now=self.world.clock(),
            )

    async def _reply(self, ticket_id: int) -> None:
        try:
            async with self.world.sessions.begin() as session:
                message = await self.world.desk.reply(session, ticket_id, "I am on it", agent="Anna")
                conversation = await desk.get_conversation(session, message.conversation_id)
                assert conversation.owner is Owner.PERSON
                self.of_agents[message.id] = conversation.epoch
        except TicketStateError:
            return

    async def _resolve(self, ticket_id: int) -> None:
        try:
            async with self.world.sessions.begin() as session:
                await self.world.desk.resolve(session, ticket_id, agent="Anna")
        except TicketStateError:
            return

    async def _reopen(self, ticket_id: int) -> None:
        try:
            async with self.world.sessions.begin() as session:
                await self.world.desk.reopen(session, ticket_id, agent="Anna")
        except TicketStateError:
            return


def test_no_interleaving_breaks_ownership_or_loses_doubles_or_reorders(make_database: MakeDatabase) -> None:
    class OnThisDatabase(Ownership):
        def __init__(self) -> None:
            self.database = make_database()
            super().__init__()

    run_state_machine_as_test(
        OnThisDatabase,
        settings=settings(
            max_examples=30,
            stateful_step_count=30,
            phases=[Phase.generate],  # a run of 30 steps can be read, and shrinking it takes minutes
            deadline=None,
            derandomize=True,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )


def test_an_answer_behind_its_greeting_is_discarded_when_a_person_takes_over(make_database: MakeDatabase) -> None:
    """The shortest way to a reply of a past epoch, which random steps seldom go."""

    class OnThisDatabase(Ownership):
        database = make_database()

    steps = OnThisDatabase()
    steps.begin()
    steps.a_customer_writes(chat="a", text="where is my order", copies=1)
    steps.a_worker_goes_on(number=0, refuse=False)
    steps.a_person_takes_over(chat="a")
    steps.a_worker_goes_on(number=0, refuse=False)
    steps.every_conversation_has_one_owner_and_every_epoch_one_speaker()
    steps.teardown()
    assert len(steps.channel.delivered["a"]) == 1


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    """The faults that these tests cause are logged; nobody has to read them."""
    import logging

    import structlog

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
