"""The Telegram desk, outwards: each ticket is a topic of a group, which says what the ticket is, what was said and what
happened.

What stands in a topic is known from the rows of `bot.forum.records`; what is missing there follows from the tickets and
transcripts themselves. So nothing that happens has to be announced to this module for it not to be lost, whichever desk
or process it happened in: one errand for each group looks what its topics lack, and does one thing after the other,
within Telegram's limits. What was said while a topic waited for its turn is told there in one message.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any
from zoneinfo import ZoneInfo

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from bot import metrics
from bot.attachments import AttachmentStore
from bot.breaker import Breakers
from bot.channels.telegram_forum import ForumApi
from bot.desk.agent_desk import AgentDesk
from bot.errors import DeliveryError, GroupRefusedError, PacedError
from bot.forum.calls import grows
from bot.forum.groups import Group, Groups, hurry, kind_of
from bot.forum.looks import Looks
from bot.forum.pauses import MAX_REFUSALS, Pauses, Step
from bot.forum.posting import Poster
from bot.forum.records import ForumTopic
from bot.forum.telling import Teller
from bot.forum.topics import ForumTopics
from bot.forum.words import COMMANDS
from bot.shared import Shared
from bot.timers import Timers
from bot.work import DATABASE_AWAY, Sessions
from handoff.records import HistoryEntry, Ticket

log = structlog.get_logger()

LOOK = timedelta(seconds=2)
"""How soon at the latest it is seen what nobody announced: a note, an edited message."""
TURN_SECONDS = 25.0
"""How long one errand of a group goes on: well below what an errand may take, so that a large file still fits."""
LONGEST_WAIT_SECONDS = 4.0
"""For Telegram's limit, instead of giving the place back."""
STEP_SECONDS = 30.0
"""How long one step may take. With TURN_SECONDS, less than an errand may."""
REFUSED = timedelta(seconds=60)
"""How soon a group is tried again that takes nothing."""


class Forum:
    def __init__(
        self,
        *,
        api: ForumApi,
        desk: AgentDesk,
        sessions: Sessions,
        attachments: AttachmentStore,
        clock: Callable[[], datetime],
        shared: Shared,
        groups: Sequence[Group],
        zone: ZoneInfo,
        lang: str = "ru",
        pace_scale: float = 1.0,
    ) -> None:
        """lang: of what stands in the groups. pace_scale: of Telegram's limits; a stand-in whose minute is shorter is
        given the same share of it."""
        self.api = api
        self.groups = Groups(groups)
        self.lang = lang
        self.idle = asyncio.Event()
        """Set whenever a group had nothing to do."""
        self._sessions = sessions
        self._clock = clock
        self._breakers = Breakers(sessions, clock)
        self._pauses = Pauses(clock)
        self._topics = ForumTopics(sessions, clock, lang)
        self._poster = Poster(
            api=api, topics=self._topics, attachments=attachments, shared=shared, lang=lang, pace_scale=pace_scale
        )
        self._teller = Teller(
            poster=self._poster, topics=self._topics, desk=desk, sessions=sessions, zone=zone, lang=lang
        )
        self._looks = Looks(poster=self._poster, topics=self._topics, groups=self.groups, sessions=sessions, lang=lang)
        self._turns: Counter[int] = Counter()
        self._greeted: set[int] = set()
        self._refused: set[int] = set()

    async def heard(self, session: AsyncSession, ticket: Ticket, entry: HistoryEntry) -> None:
        """A `Listener` of the tickets."""
        topic = await session.get(ForumTopic, ticket.id)
        if topic is not None:
            topic.watched = True
        for group_id in {self.groups.home(ticket), topic.group_id if topic else None}:
            if group_id is not None and group_id in self.groups:
                await hurry(session, group_id, entry.at)

    def register(self, timers: Timers) -> None:
        """One standing errand for each group."""
        for group_id in self.groups:
            timers.register_errand(kind_of(group_id), partial(self.work, group_id), standing=True)

    def held_until(self, group_id: int) -> datetime | None:
        """Until when Telegram takes nothing in a group; None: it does."""
        return self._pauses.until(("group", group_id))

    # The errand of a group

    async def work(self, group_id: int, _payload: Mapping[str, Any]) -> datetime:
        """Do what the group's topics lack, for a while. When to look again."""
        if (until := self.held_until(group_id)) is not None:
            return until  # whatever has happened meanwhile
        pause = ("group", group_id)
        end = time.monotonic() + TURN_SECONDS
        address = self.api.address(group_id)
        while time.monotonic() < end:
            step = await self._next(group_id)
            if step is None:
                self.idle.set()
                return self._clock() + LOOK
            if wait := await self._poster.place(group_id):
                if wait > LONGEST_WAIT_SECONDS:
                    return self._clock() + timedelta(seconds=wait)
                await asyncio.sleep(wait)
                continue  # more may have been said meanwhile, which can be told together
            try:
                async with asyncio.timeout(STEP_SECONDS):
                    await self._breakers.call(address, step.do)
                self._pauses.over(step.key)
                if group_id not in self._greeted:
                    self._greeted.add(group_id)
                    await self._offer_commands(group_id)
                self._refused.discard(group_id)
                metrics.FORUM_CALLS.labels("done").inc()
            except GroupRefusedError as error:
                if group_id not in self._refused:
                    log.error("forum.group_refused", group=group_id, problem=str(error))
                self._refused.add(group_id)
                metrics.FORUM_CALLS.labels("refused").inc()
                await self._move_out(group_id)
                return self._pauses.hold(pause, REFUSED)
            except DeliveryError as error:
                metrics.FORUM_CALLS.labels("paced" if error.retry_after_seconds else "failed").inc()
                if not isinstance(error, PacedError):
                    log.warning("forum.failed", group=group_id, step=step.key, problem=str(error))
                if error.retry_after_seconds is not None:
                    return self._pauses.hold(pause, timedelta(seconds=error.retry_after_seconds))
                await self._failed(step, refused=error.permanent)
            except DATABASE_AWAY:
                raise
            except TimeoutError:
                # Telegram hangs, which says nothing against what is sent: it is tried until it goes.
                metrics.FORUM_CALLS.labels("failed").inc()
                log.warning("forum.slow", group=group_id, step=step.key, seconds=STEP_SECONDS)
                await self._failed(step, refused=False)
            except Exception:
                # Edge: whatever is wrong with one ticket, the others' topics go on.
                metrics.FORUM_CALLS.labels("failed").inc()
                log.exception("forum.step_failed", group=group_id, step=step.key)
                await self._failed(step, refused=True)
        return self._clock()

    async def _failed(self, step: Step, *, refused: bool) -> None:
        if self._pauses.failed(step.key, refused=refused) >= MAX_REFUSALS and refused and step.leave is not None:
            log.error("forum.left_out", step=step.key)
            await step.leave()
            self._pauses.over(step.key)

    async def _offer_commands(self, group_id: int) -> None:
        """Have Telegram show what can be written in the group. A courtesy."""
        which = 0 if self.lang == "ru" else 1
        try:
            await self.api.set_commands(group_id, {name: both[which] for name, both in COMMANDS.items()})
        except DeliveryError as error:
            log.info("forum.courtesy_failed", problem=str(error))

    async def _move_out(self, group_id: int) -> None:
        """Nothing can be said in this group: what is another one's goes on there nevertheless."""
        async with self._sessions.reading() as session:
            homes = await self.groups.elsewhere(session, group_id)
        for ticket_id, home in homes.items():
            await self._topics.move_on(ticket_id, home)

    # What is to be done

    async def _next(self, group_id: int) -> Step | None:
        """The next step. What agents asked for goes first; then what was said, new tickets and the state of topics take
        turns, so that none of them can keep the others waiting for long."""
        word = await self._topics.next_word(group_id, self._pauses.waiting("word"))
        if word is not None:
            return Step(("word", word.id), partial(self._poster.speak, word), partial(self._topics.forget_word, word))
        await self._adopt(group_id)
        said, new, state = self._said, self._new, self._state
        finders = ((said, new, state), (new, said, state), (said, new, state), (state, said, new))
        turn = self._turns[group_id]
        self._turns[group_id] += 1
        for find in finders[turn % len(finders)]:
            if (step := await find(group_id)) is not None:
                return step
        await self._topics.retire(group_id)
        return None

    async def _adopt(self, group_id: int) -> None:
        """Give live tickets a place in the group where they have none, or one in a group that is no longer ours."""
        async with self._sessions.reading() as session:
            new, stranded = await self.groups.unplaced(session, group_id)
        for ticket_id in stranded:
            await self._topics.move_on(ticket_id, group_id)
        if new:
            await self._topics.add(group_id, new)

    async def _said(self, group_id: int) -> Step | None:
        """What was said or done and is not told: in the topic that has waited longest for it."""
        for ticket_id in await self._topics.behind(group_id):
            key = ("said", ticket_id)
            if self._pauses.until(key) is not None:
                continue
            try:
                topic, block = await self._teller.next_block(ticket_id)
            except DATABASE_AWAY:
                raise
            except Exception:
                # Edge: whatever is wrong with one ticket, the others' topics go on.
                log.exception("forum.not_readable", ticket=ticket_id)
                self._pauses.failed(key, refused=True)
                continue
            if grows(block, self._clock()):
                continue  # its next picture may be on its way
            if block.pieces:
                skip = partial(self._topics.skip, ticket_id, block)
                return Step(key, partial(self._teller.tell, ticket_id, block), skip)
            if (block.seen_id, block.seen_entry_id) != (topic.seen_id, topic.seen_entry_id):
                await self._topics.pass_over(ticket_id, block)
        return await self._changed(group_id)

    async def _changed(self, group_id: int) -> Step | None:
        """A message that was edited or taken back after it was told."""
        for item, post, message in await self._topics.changed(group_id):
            key = ("change", item.id)
            if self._pauses.until(key) is None:
                skip = partial(self._topics.skip_change, post, message)
                return Step(key, partial(self._teller.tell_change, item.id, post.id), skip)
        return None

    async def _new(self, group_id: int) -> Step | None:
        """A topic that is to be made, or lacks its packet."""
        topic = await self._topics.unopened(group_id, self._pauses.waiting("new"))
        if topic is None:
            return None
        key, ticket_id = ("new", topic.ticket_id), topic.ticket_id
        if topic.thread_id is None:
            return Step(key, partial(self._looks.make, ticket_id))
        return Step(key, partial(self._teller.tell_packet, ticket_id), partial(self._topics.skip_packet, ticket_id))

    async def _state(self, group_id: int) -> Step | None:
        """A topic that does not look like its ticket, or stands in the wrong group."""
        await self._looks.learn_icons()
        for topic, ticket in await self._topics.opened(group_id):
            if self._pauses.until(("state", ticket.id)) is None:
                step = self._looks.amiss(topic, ticket)
                if step is not None:
                    return step
        return None
