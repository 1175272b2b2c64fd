"""The Telegram desk, outwards: each ticket is a topic of a group, which says what the ticket is, what was said and what
happened.

What stands in a topic is known from the rows of `bot.forum.records`; what is missing there follows from the tickets and
transcripts themselves. So nothing that happens has to be announced to this module for it not to be lost, whichever desk
or process it happened in: one errand for each group looks what its topics lack, and does one thing after the other,
within Telegram's limits. What was said while a topic waited for its turn is told there in one message.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import structlog
from aiogram.utils.formatting import Bold, Italic, Text
from sqlalchemy import Select, func, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.ext.asyncio import AsyncSession

from bot import metrics
from bot.attachments import UNKNOWN_TYPE, AttachmentStore
from bot.breaker import Breakers
from bot.channels.base import OutboundAttachment
from bot.channels.telegram_calls import FILE_METHODS
from bot.channels.telegram_forum import Buttons, ForumApi, Sent
from bot.channels.telegram_limits import CAPABILITIES
from bot.channels.telegram_text import MAX_UNITS
from bot.desk.agent_desk import AgentDesk
from bot.errors import (
    DeliveryError,
    FileGoneError,
    GroupRefusedError,
    PacedError,
    SettingsError,
    TopicClosedError,
    TopicGoneError,
)
from bot.forum.calls import (
    Block,
    Carrier,
    Happening,
    Post,
    albums,
    entry_pieces,
    file_groups,
    grows,
    joined,
    message_pieces,
    names_of,
    next_block,
    parts_of,
)
from bot.forum.pauses import MAX_REFUSALS, Pauses, Step
from bot.forum.records import ForumItem, ForumPost, ForumTopic, ForumWord
from bot.forum.text import (
    Piece,
    card,
    file_names,
    icon,
    name_of,
    say,
    title,
    version_of,
    whole_transcript,
)
from bot.forum.words import COMMANDS, words
from bot.shared import Shared
from bot.timers import Timers, send_errand
from bot.work import Sessions
from handoff import desk as conversations
from handoff.lifecycle import LIVE
from handoff.records import Attachment, AttachmentState, Conversation, HistoryEntry, Message, Ticket

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
LAST_WORDS = timedelta(seconds=5)
"""What is said so soon after a ticket's end still belongs to it."""
MAX_FILE_TRIES = 3
MAX_MESSAGES = 60
ADOPTED = 200
FILES_OF_PACKET = 10
"""The customer's newest files of before the handoff, which the packet shows."""


def kind_of(group_id: int) -> str:
    """Of a group's errand."""
    return f"forum:{group_id}"


@dataclass(frozen=True)
class Group:
    id: int
    teams: frozenset[str]
    """Whose tickets go there; none: those of all teams that no other group names."""


def parse_groups(setting: str) -> tuple[Group, ...]:
    """`-100123, -100456=payments+service`. Raises SettingsError."""
    groups: dict[int, Group] = {}
    for part in filter(None, (each.strip() for each in setting.split(","))):
        number, _, teams = part.partition("=")
        try:
            group_id = int(number)
        except ValueError:
            group_id = 0
        if group_id >= 0:
            raise SettingsError(
                f"OTVET_FORUM_GROUPS: {part}: expected the id of a group, such as -1001234567890, after which = and "
                "the teams may follow, joined by +"
            )
        names = frozenset(name.strip() for name in teams.split("+") if name.strip())
        if group_id in groups:
            raise SettingsError(f"OTVET_FORUM_GROUPS: the group {group_id} stands there twice")
        groups[group_id] = Group(group_id, names)
    return tuple(groups.values())


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
        self.groups = {group.id: group for group in groups}
        self.lang = lang
        self._desk = desk
        self._sessions = sessions
        self._attachments = attachments
        self._clock = clock
        self._shared = shared
        self._zone = zone
        self._breakers = Breakers(sessions, clock)
        self._pace_scale = pace_scale
        self.idle = asyncio.Event()
        """Set whenever a group had nothing to do."""
        self._icons: Mapping[str, str] | None = None
        self._turns: Counter[int] = Counter()
        self._file_tries: Counter[tuple[int, int]] = Counter()
        self._pauses = Pauses(clock)
        self._greeted: set[int] = set()
        self._refused: set[int] = set()

    # Who is where

    def home(self, ticket: Ticket) -> int | None:
        """The group of a ticket; several of one team share its tickets evenly."""
        named = [group.id for group in self.groups.values() if ticket.team in group.teams]
        found = named or [group.id for group in self.groups.values() if not group.teams]
        return found[ticket.id % len(found)] if found else None

    async def homeless(self, session: AsyncSession) -> list[str]:
        """The teams with live tickets that no group takes."""
        rows = await session.scalars(select(Ticket.team).where(Ticket.status.in_(LIVE)).distinct())
        named = frozenset[str]().union(*(group.teams for group in self.groups.values()))
        open_to_all = any(not group.teams for group in self.groups.values())
        return [] if open_to_all else sorted(set(rows) - named)

    async def stranded(self, session: AsyncSession) -> int:
        """How many live tickets have their topic in a group that is no longer ours."""
        query = select(func.count(ForumTopic.ticket_id)).join(Ticket, Ticket.id == ForumTopic.ticket_id)
        gone = ForumTopic.group_id.not_in(self.groups)
        return int(await session.scalar(query.where(Ticket.status.in_(LIVE), gone)) or 0)

    async def heard(self, session: AsyncSession, ticket: Ticket, entry: HistoryEntry) -> None:
        """A `Listener` of the tickets."""
        topic = await session.get(ForumTopic, ticket.id)
        if topic is not None:
            topic.watched = True
        for group_id in {self.home(ticket), topic.group_id if topic else None} - {None}:
            if group_id in self.groups:
                await self.hurry(session, group_id, entry.at)

    async def hurry(self, session: AsyncSession, group_id: int, at: datetime) -> None:
        """Have a group looked at as soon as this transaction is committed."""
        await send_errand(session, kind_of(group_id), kind_of(group_id), at)

    def register(self, timers: Timers) -> None:
        """One standing errand for each group."""
        for group_id in self.groups:
            timers.register_errand(kind_of(group_id), partial(self.work, group_id), standing=True)

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
            if wait := await self._place(group_id):
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
            except (OperationalError, InterfaceError):
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

    def held_until(self, group_id: int) -> datetime | None:
        """Until when Telegram takes nothing in a group; None: it does."""
        return self._pauses.until(("group", group_id))

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

    async def _place(self, group_id: int) -> float:
        """Seconds to wait for a place within Telegram's limits; 0: it is taken."""
        rates = [rate for rate in CAPABILITIES.rates(self.api.address(group_id)) if rate]
        if self._pace_scale != 1:
            rates = [replace(rate, every_seconds=rate.every_seconds * self._pace_scale) for rate in rates]
        return await self._shared.take(*rates)

    async def _wait_for_place(self, group_id: int) -> None:
        while wait := await self._place(group_id):  # noqa: ASYNC110 - a limit has no event
            await asyncio.sleep(wait)

    async def _next(self, group_id: int) -> Step | None:
        """What is to be done next. What agents asked for goes first; then what was said, new tickets and the state of
        topics take turns, so that none of them can keep the others waiting for long."""
        async with self._sessions.reading() as session:
            word = await session.scalar(
                select(ForumWord)
                .where(ForumWord.group_id == group_id, ForumWord.id.not_in(self._pauses.waiting("word")))
                .order_by(ForumWord.id)
                .limit(1)
            )
        if word is not None:
            return Step(("word", word.id), partial(self._speak, word), partial(self._forget, word))
        await self._adopt(group_id)
        said, new, state = self._said, self._new, self._state
        finders = ((said, new, state), (new, said, state), (said, new, state), (state, said, new))
        turn = self._turns[group_id]
        self._turns[group_id] += 1
        for find in finders[turn % len(finders)]:
            if (step := await find(group_id)) is not None:
                return step
        await self._retire(group_id)
        return None

    async def _adopt(self, group_id: int) -> None:
        """Give live tickets that have no topic yet a row; those of a group that is no longer ours have none."""
        known = select(ForumTopic.ticket_id).where(ForumTopic.ticket_id == Ticket.id).exists()
        group = self.groups[group_id]
        others = frozenset[str]().union(*(each.teams for each in self.groups.values()))
        teams = Ticket.team.in_(sorted(group.teams)) if group.teams else Ticket.team.not_in(sorted(others))
        async with self._sessions.reading() as session:
            rows = await session.scalars(
                select(Ticket).where(Ticket.status.in_(LIVE), teams, ~known).order_by(Ticket.id).limit(ADOPTED)
            )
            ours = [ticket.id for ticket in rows if self.home(ticket) == group_id]
            rows = await session.scalars(
                select(Ticket)
                .join(ForumTopic, ForumTopic.ticket_id == Ticket.id)
                .where(Ticket.status.in_(LIVE), teams, ForumTopic.group_id.not_in(self.groups))
                .order_by(Ticket.id)
                .limit(ADOPTED)
            )
            stranded = [ticket.id for ticket in rows if self.home(ticket) == group_id]
        for ticket_id in stranded:
            await self._move_on(ticket_id, group_id)
        if not ours:
            return
        async with self._sessions.begin() as session:
            insert = postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
            await session.execute(
                insert(ForumTopic).on_conflict_do_nothing(),
                [{"ticket_id": ticket_id, "group_id": group_id, "thread_id": None} for ticket_id in ours],
            )

    # What was said and done

    async def _said(self, group_id: int) -> Step | None:
        """The topic that has waited longest for something to be told in it."""
        here = (ForumTopic.group_id == group_id, ForumTopic.watched, ForumTopic.opened)
        message = (
            select(ForumTopic.ticket_id, func.min(Message.created_at).label("since"))
            .join(Ticket, Ticket.id == ForumTopic.ticket_id)
            .join(Message, (Message.conversation_id == Ticket.conversation_id) & (Message.id > ForumTopic.seen_id))
            .where(*here)
            .group_by(ForumTopic.ticket_id)
        )
        entry = (
            select(ForumTopic.ticket_id, func.min(HistoryEntry.at).label("since"))
            .join(
                HistoryEntry,
                (HistoryEntry.ticket_id == ForumTopic.ticket_id) & (HistoryEntry.id > ForumTopic.seen_entry_id),
            )
            .where(*here)
            .group_by(ForumTopic.ticket_id)
        )
        async with self._sessions.reading() as session:
            since: dict[int, datetime] = {}
            for query in (message, entry):
                for ticket_id, at in await session.execute(query):
                    since[ticket_id] = min(at, since.get(ticket_id, at))
        for ticket_id in sorted(since, key=lambda each: (since[each], each)):
            key = ("said", ticket_id)
            if self._pauses.until(key) is not None:
                continue
            try:
                async with self._sessions.reading() as session:
                    topic = await session.get_one(ForumTopic, ticket_id)
                    ticket = await conversations.get_ticket(session, ticket_id)
                    conversation = await conversations.get_conversation(session, ticket.conversation_id)
                    block = await self._block(session, topic, ticket, conversation)
            except (OperationalError, InterfaceError):
                raise
            except Exception:
                # Edge: whatever is wrong with one ticket, the others' topics go on.
                log.exception("forum.not_readable", ticket=ticket_id)
                self._pauses.failed(key, refused=True)
                continue
            if grows(block, self._clock()):
                continue  # its next picture may be on its way
            if block.pieces:
                return Step(key, partial(self._tell, ticket_id, block), partial(self._skip, ticket_id, block))
            if (block.seen_id, block.seen_entry_id) != (topic.seen_id, topic.seen_entry_id):
                await self._seen(ticket_id, block)
        return await self._changed(group_id)

    async def _block(
        self, session: AsyncSession, topic: ForumTopic, ticket: Ticket, conversation: Conversation
    ) -> Block:
        """The next things to tell in a topic that fit into one call."""
        query = select(Message).where(Message.conversation_id == ticket.conversation_id, Message.id > topic.seen_id)
        if ticket.status not in LIVE and ticket.resolved_at is not None:
            query = query.where(Message.created_at <= ticket.resolved_at + LAST_WORDS)
        messages = (await session.scalars(query.order_by(Message.id).limit(MAX_MESSAGES))).all()
        entries = (
            await session.scalars(
                select(HistoryEntry)
                .where(HistoryEntry.ticket_id == ticket.id, HistoryEntry.id > topic.seen_entry_id)
                .order_by(HistoryEntry.id)
                .limit(MAX_MESSAGES)
            )
        ).all()
        written_there = set(
            await session.scalars(
                select(ForumItem.message_id)
                .join(ForumPost, ForumPost.id == ForumItem.post_id)
                .where(
                    ForumItem.ticket_id == ticket.id,
                    ForumPost.kind == "agent",
                    ForumPost.group_id == topic.group_id,
                    ForumPost.thread_id == topic.thread_id,
                )
            )
        )
        name = conversation.customer_name
        said = [
            Happening(m.created_at, m.id, [] if m.id in written_there else message_pieces(m, name, self.lang))
            for m in messages
        ]
        topics = self._desk.tickets.topics
        done = [Happening(e.at, e.id, entry_pieces(e, topics, self.lang), of_history=True) for e in entries]
        return next_block(said, done, topic.seen_id, topic.seen_entry_id)

    async def _tell(self, ticket_id: int, block: Block) -> None:
        topic = await self._begin(ticket_id)
        first = block.pieces[0]
        if first.reaction is not None:
            await self._tell_reaction(topic, block, first)
            return
        reply_to = await self._post_of(topic, first.reply_to_id)
        if any(piece.files for piece in block.pieces):
            if await self._tell_files(topic, block.pieces, reply_to):
                await self._told(topic, block)
            return
        parts = parts_of(block.pieces)
        done = await self._parts_there(topic, parts) if len(parts) > 1 else 0
        if done < len(parts):
            text, pieces = parts[done]
            sent = await self._in(topic, partial(self._say, topic, text, None if done else reply_to))
            await self._told(topic, block if done + 1 == len(parts) else None, Post(sent, "text", pieces))
        else:  # it was made shorter meanwhile
            await self._told(topic, block)

    async def _tell_reaction(self, topic: ForumTopic, block: Block, piece: Piece) -> None:
        """Put it under the message there; in words where that can't be."""
        post = await self._post_of(topic, piece.reply_to_id)
        emoji = piece.reaction or ""
        posts: list[Post] = []
        try:
            if post is None:
                raise DeliveryError("what it is put under does not stand there", permanent=True)
            await self._in_group(topic, partial(self.api.react, topic.group_id, post, emoji.split(" ")[0]))
        except (TopicGoneError, GroupRefusedError):
            raise
        except DeliveryError as error:
            if not error.permanent:
                raise
            if emoji:
                async with self._sessions.reading() as session:
                    target = await session.get(Message, piece.reply_to_id) if piece.reply_to_id else None
                    message = await session.get_one(Message, piece.message_id)
                    conversation = await conversations.get_conversation(session, message.conversation_id)
                quoted = " ".join(target.text.split())[:80] if target else "…"
                who = name_of(message, conversation.customer_name, self.lang)
                line = words("reaction", self.lang, emoji=emoji, text=quoted)
                sent = await self._in(topic, partial(self._say, topic, Text(Bold(who), " ", line), post))
                posts = [Post(sent, "text", [replace(piece, line={"text": f"{who} {line}"})])]
        await self._told(topic, block, *posts)

    async def _tell_files(self, topic: ForumTopic, pieces: Sequence[Piece], reply_to: int | None) -> bool:
        """Files with their words as a caption, photos and videos together as an album; by name where a file can't be
        had or Telegram does not take it. One call: the next of what does not stand there yet; whether that was all."""
        key = (topic.ticket_id, pieces[0].message_id or 0)
        parts, there = parts_of(pieces), await self._files_there(topic)
        done = await self._parts_there(topic, parts)
        text, told = parts[done] if done < len(parts) else (Text(), [])
        reply_to = None if done else reply_to
        if done + 1 < len(parts):
            sent = await self._in(topic, partial(self._say, topic, text, reply_to))
            await self._told(topic, None, Post(sent, "text", told))
            return False
        may_carry = self._file_tries[key] < MAX_FILE_TRIES
        self._file_tries[key] += 1
        carried: list[tuple[Attachment, Carrier]] = []
        named: list[Attachment] = []
        for file in (file for piece in pieces for file in piece.files if file.id not in there):
            carrier = await self._carrier(file) if may_carry else None
            if carrier is None:
                named.append(file)
            else:
                carried.append((file, carrier))
        names = names_of(named, self.lang)[: MAX_UNITS // 2]
        if told and len(text) + len(names) >= MAX_UNITS:  # they have a post of their own
            sent = await self._in(topic, partial(self._say, topic, text, reply_to))
            await self._told(topic, None, Post(sent, "text", told))
            return False
        if names:
            text = Text(text, "\n", names) if told else Text(names)
        calls = albums(carried)
        if len(text) and (not calls or len(text) > self.api.max_caption_units):
            sent = await self._in(topic, partial(self._say, topic, text, reply_to))
            await self._told(topic, None, Post(sent, "text", told, named))
        elif calls:
            album = calls.pop(0)
            kind, [first, *rest] = await self._put_album(topic, album, text if len(text) else None, reply_to)
            post = Post(first, kind, told, [*named, *(file for file, _ in album)])
            await self._told(topic, None, post, *(Post(each, kind) for each in rest))
        self._file_tries.pop(key, None)
        return not calls

    async def _put_album(
        self,
        topic: ForumTopic,
        album: Sequence[tuple[Attachment, Carrier]],
        caption: Text | None,
        reply_to: int | None,
    ) -> tuple[str, list[Sent]]:
        """As files, or where Telegram does not take them by name: the kind of what stands there now, and where."""
        try:
            return "file", await self._put(topic, [carrier for _, carrier in album], caption, reply_to)
        except (TopicGoneError, GroupRefusedError):
            raise
        except DeliveryError as error:
            if not error.permanent:
                raise
            log.warning("forum.file_refused", ticket=topic.ticket_id, problem=str(error))
            names = file_names([file for file, _ in album], self.lang)
            await self._wait_for_place(topic.group_id)
            text = Text(caption, "\n", names) if caption is not None else Text(names)
            return "text", [await self._in(topic, partial(self._say, topic, text, reply_to))]

    async def _put(
        self,
        topic: ForumTopic,
        group: Sequence[Carrier],
        caption: Text | None,
        reply_to: int | None,
    ) -> list[Sent]:
        thread = topic.thread_id or 0
        if len(group) > 1:
            return [
                await self._checked(topic, each)
                for each in await self._in_group(topic, partial(self.api.album, topic.group_id, thread, group, caption))
            ]
        [file] = group
        if isinstance(file, tuple):
            call = partial(self.api.pass_on, topic.group_id, thread, file[0], file[1], caption, reply_to)
        else:
            call = partial(self.api.put, topic.group_id, thread, file, caption, reply_to)
        return [await self._in(topic, call)]

    async def _carrier(self, file: Attachment) -> Carrier | None:
        """A file as it can be sent: by Telegram's own handle of it, or ours; None where there is nothing to send.
        Raises StorageError."""
        handle = file.source.get("file_id")
        if handle and str(file.source.get("bot")) == self.api.account and file.kind in FILE_METHODS:
            return file.kind, str(handle)
        if file.state is not AttachmentState.STORED or file.sha256 is None:
            return None
        try:
            path = await self._attachments.local(file.sha256)
        except FileGoneError:
            return None
        return OutboundAttachment(
            kind=file.kind,
            path=path,
            file_name=file.file_name or "file",
            mime_type=file.mime_type or UNKNOWN_TYPE,
            size_bytes=file.size_bytes or 0,
            sha256=file.sha256,
        )

    async def _say(self, topic: ForumTopic, text: Text, reply_to: int | None = None, buttons: Buttons = ()) -> Sent:
        return await self.api.say(topic.group_id, topic.thread_id, text, buttons=buttons, reply_to=reply_to)

    # What was changed

    async def _changed(self, group_id: int) -> Step | None:
        """A message that was edited or taken back after it was told."""
        rows = (
            select(ForumItem, ForumPost, Message)
            .join(ForumPost, ForumPost.id == ForumItem.post_id)
            .join(ForumTopic, (ForumTopic.ticket_id == ForumItem.ticket_id))
            .join(Message, Message.id == ForumItem.message_id)
            .where(
                ForumTopic.group_id == group_id,
                ForumTopic.watched,
                ForumPost.group_id == ForumTopic.group_id,
                ForumPost.thread_id == ForumTopic.thread_id,
                Message.changed_at.is_not(None),
            )
            .order_by(ForumItem.id)
        )
        async with self._sessions.reading() as session:
            for item, post, message in await session.execute(rows):
                key = ("change", item.id)
                if version_of(message) > item.version and self._pauses.until(key) is None:
                    leave = partial(self._skip_change, post, message)
                    return Step(key, partial(self._tell_change, item.id, post.id), leave)
        return None

    async def _skip_change(self, post: ForumPost, message: Message) -> None:
        async with self._sessions.begin() as session:
            await self._mark_changed(session, post.ticket_id, message)
            await self._point_to_desk(session, post.group_id, post.thread_id)
        await self._settle(post.ticket_id)

    async def _mark_changed(self, session: AsyncSession, ticket_id: int, message: Message) -> None:
        """In all posts of it."""
        await session.execute(
            update(ForumItem)
            .where(ForumItem.ticket_id == ticket_id, ForumItem.message_id == message.id)
            .values(version=version_of(message))
        )

    async def _tell_change(self, item_id: int, post_id: int) -> None:
        async with self._sessions.reading() as session:
            item = await session.get_one(ForumItem, item_id)
            post = await session.get_one(ForumPost, post_id)
            message = await session.get_one(Message, item.message_id)
            conversation = await conversations.get_conversation(session, message.conversation_id)
            name = conversation.customer_name
            texts: list[Text] = []
            for line in post.lines:
                if "file" in line:
                    continue
                if line.get("message") is None:
                    texts.append(Italic(str(line.get("text", ""))))
                elif (told := await session.get(Message, line["message"])) is not None:
                    texts += say(told, name, self.lang, quote=told.reply_to_id is None)
        topic = await self._begin(post.ticket_id)
        version, posts = version_of(message), list[Post]()
        # Ours is changed; what somebody else wrote, and the packet, can't be.
        whole = joined(texts)
        limit = self.api.max_caption_units if post.kind == "file" else MAX_UNITS
        done = False
        if post.kind in ("text", "file") and texts and len(whole) <= limit:
            change = partial(self.api.change, post.group_id, post.telegram_id, whole, caption=post.kind == "file")
            try:
                await self._in_group(topic, change)
                done = True
            except (TopicGoneError, GroupRefusedError):
                raise
            except DeliveryError as error:
                if not error.permanent:
                    raise
                log.warning("forum.change_refused", ticket=post.ticket_id, problem=str(error))
        if done:
            async with self._sessions.begin() as session:
                await session.execute(update(ForumItem).where(ForumItem.id == item_id).values(version=version))
                (await session.get_one(ForumTopic, topic.ticket_id)).calling = False
            return
        [first, *rest] = say(message, name, self.lang, quote=False)
        head = Text(Italic(words("deleted" if message.deleted_at else "edited", self.lang)), "\n", first)
        parts = [head, *rest]
        there = await self._parts_of(topic, [message.id], version=version)
        number = there[message.id]
        if number < len(parts):
            piece = Piece(parts[number], message_id=message.id, version=version)
            reply_to = None if number else post.telegram_id
            sent = await self._in(topic, partial(self._say, topic, parts[number], reply_to))
            posts.append(Post(sent, "text", [piece]))
        async with self._sessions.begin() as session:
            row = await session.get_one(ForumTopic, topic.ticket_id)
            row.calling = False
            await self._write(session, row, posts)
            if number + 1 >= len(parts):
                await self._mark_changed(session, topic.ticket_id, message)

    # New topics

    async def _new(self, group_id: int) -> Step | None:
        async with self._sessions.reading() as session:
            topic = await session.scalar(
                select(ForumTopic)
                .where(
                    ForumTopic.group_id == group_id,
                    ForumTopic.watched,
                    ~ForumTopic.opened,
                    ForumTopic.ticket_id.not_in(self._pauses.waiting("new")),
                )
                .order_by(ForumTopic.thread_id.is_(None), ForumTopic.ticket_id)
                .limit(1)
            )
        if topic is None:
            return None
        key = ("new", topic.ticket_id)
        if topic.thread_id is None:
            return Step(key, partial(self._make, topic.ticket_id))
        return Step(key, partial(self._open, topic.ticket_id), partial(self._skip_packet, topic.ticket_id))

    async def _make(self, ticket_id: int) -> None:
        """Make the topic."""
        if self._icons is None:
            await self._learn_icons()
        topic = await self._begin(ticket_id)
        async with self._sessions.reading() as session:
            ticket = await conversations.get_ticket(session, ticket_id)
        name, picture = self._looks(ticket)
        plain = title(ticket_id, ticket.status, "", self.lang).rstrip(" ·")
        looks = [(name, picture), *([(name, "")] if picture else []), (plain, "")]
        for number, (name, picture) in enumerate(looks):
            try:
                thread_id = await self._in_group(topic, partial(self.api.create, topic.group_id, name, picture))
            except DeliveryError as error:
                if isinstance(error, GroupRefusedError) or not error.permanent or number + 1 == len(looks):
                    raise
            else:
                break
        if number and name != plain:
            self._icons = {}  # it was the picture
        async with self._sessions.begin() as session:
            row = await session.get_one(ForumTopic, ticket_id)
            row.thread_id, row.title, row.icon = thread_id, name, picture
            row.calling, row.closed, row.opened = False, False, False
        log.info("forum.made", ticket=ticket_id, group=topic.group_id)

    async def _open(self, ticket_id: int) -> None:
        """Tell the packet and what was said so far. One call: the next of what does not stand there yet."""
        topic = await self._begin(ticket_id)
        async with self._sessions.reading() as session:
            packet = await self._desk.packet(session, ticket_id)
            newest = await session.scalar(select(func.max(HistoryEntry.id)).where(HistoryEntry.ticket_id == ticket_id))
            posts = (await session.scalars(self._posts_in(topic).order_by(ForumPost.id))).all()
            known = next((post for post in posts if post.kind == "card"), None)
            ids = [message.id for message in packet.transcript][-MAX_MESSAGES:]
            if known is not None:
                ids = list(await session.scalars(select(ForumItem.message_id).where(ForumItem.post_id == known.id)))
            rows = (await session.scalars(select(Message).where(Message.id.in_(ids)).order_by(Message.id))).all()
        tickets, live = self._desk.tickets, packet.status in LIVE
        team = tickets.policy.team(packet.team).title.get(self.lang, packet.team)
        text, whole = card(packet, tickets.topics, self._zone, self.lang, team=team)
        lines = [line for post in posts for line in post.lines]
        there = {line["file"] for line in lines if "file" in line}
        shown = [row for row in rows if row.attachments and row.deleted_at is None][-FILES_OF_PACKET:]
        files = [Piece(self._caption(row, packet.customer.name), tuple(row.attachments), row.id) for row in shown]
        groups = [
            group for group in file_groups(files) if any(f.id not in there for piece in group for f in piece.files)
        ]
        says_all = whole or any("transcript" in line for line in lines)
        if known is None:
            sent = await self._in(topic, partial(self._say, topic, text, None, self.buttons(ticket_id, live)))
            pieces = [Piece(Text(), message_id=row.id, version=version_of(row)) for row in rows]
            seen = max((message.id for message in packet.transcript), default=0)
            async with self._sessions.begin() as session:
                row = await session.get_one(ForumTopic, ticket_id)
                row.calling, row.opened, row.card_live = False, says_all and not groups, live
                row.seen_id, row.seen_entry_id = max(row.seen_id, seen), max(row.seen_entry_id, newest or 0)
                await self._write(session, row, [Post(sent, "card", pieces)])
        elif not says_all:
            sent = await self._put_transcript(topic, whole_transcript(packet, self._zone, self.lang))
            await self._told(topic, None, Post(sent, "file", [Piece(Text(), line={"transcript": True})]))
            if not groups:
                await self._settle(ticket_id, opened=True)
        elif not groups or (await self._tell_files(topic, groups[0], None) and len(groups) == 1):
            await self._settle(ticket_id, opened=True)

    def _posts_in(self, topic: ForumTopic) -> Select[Any]:
        return select(ForumPost).where(
            ForumPost.ticket_id == topic.ticket_id,
            ForumPost.group_id == topic.group_id,
            ForumPost.thread_id == topic.thread_id,
        )

    async def _skip_packet(self, ticket_id: int) -> None:
        """It can't be told there, or not all of it; what follows is."""
        async with self._sessions.begin() as session:
            row = await session.get_one(ForumTopic, ticket_id)
            card_stands = await session.scalar(self._posts_in(row).where(ForumPost.kind == "card").limit(1))
            if card_stands is None:
                ticket = await conversations.get_ticket(session, ticket_id)
                last = select(func.max(Message.id)).where(Message.conversation_id == ticket.conversation_id)
                entry = select(func.max(HistoryEntry.id)).where(HistoryEntry.ticket_id == ticket_id)
                row.seen_id = max(row.seen_id, await session.scalar(last) or 0)
                row.seen_entry_id = max(row.seen_entry_id, await session.scalar(entry) or 0)
            row.calling, row.opened = False, True
            await self._point_to_desk(session, row.group_id, row.thread_id)

    def _caption(self, message: Message, customer: str | None) -> Text:
        return Text(
            Bold(name_of(message, customer, self.lang)), f" {message.sent_at.astimezone(self._zone):%d.%m %H:%M}"
        )

    async def _put_transcript(self, topic: ForumTopic, text: str) -> Sent:
        def write() -> Path:
            with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".txt", delete=False) as file:
                file.write(text)
                return Path(file.name)

        path = await asyncio.to_thread(write)
        try:
            size = len(text.encode())
            file = OutboundAttachment("document", path, f"ticket-{topic.ticket_id}.txt", "text/plain", size)
            return (await self._put(topic, [file], None, None))[0]
        finally:
            await asyncio.to_thread(path.unlink, missing_ok=True)

    async def _learn_icons(self) -> None:
        try:
            self._icons = await self.api.icons()
        except DeliveryError as error:
            log.warning("forum.no_icons", problem=str(error))

    def _looks(self, ticket: Ticket) -> tuple[str, str]:
        return (
            title(ticket.id, ticket.status, ticket.subject, self.lang),
            icon(ticket.status, self._icons or {}),
        )

    def buttons(self, ticket_id: int, live: bool) -> Buttons:
        """Of the packet. `bot.forum.intake` does what they say."""

        def one(act: str, key: str) -> tuple[str, str]:
            return words(key, self.lang), f"f:{act}:{ticket_id}"

        if not live:
            return [[one("reopen", "b_reopen")]]
        return [
            [one("take", "b_take"), one("assign", "b_assign"), one("transfer", "b_transfer")],
            [one("hold", "b_hold"), one("macros", "b_macros"), one("return", "b_return")],
            [one("finish", "b_finish"), one("resolve", "b_resolve")],
        ]

    # The state of topics

    async def _state(self, group_id: int) -> Step | None:
        """A topic that does not look like its ticket, or stands in the wrong group."""
        if self._icons is None:
            await self._learn_icons()
        async with self._sessions.reading() as session:
            rows = await session.execute(
                select(ForumTopic, Ticket)
                .join(Ticket, Ticket.id == ForumTopic.ticket_id)
                .where(ForumTopic.group_id == group_id, ForumTopic.watched, ForumTopic.opened)
                .order_by(ForumTopic.ticket_id)
            )
            for topic, ticket in rows:
                live, home = ticket.status in LIVE, self.home(ticket)
                key = ("state", ticket.id)
                if self._pauses.until(key) is not None:
                    continue
                if live and home is not None and home != group_id:
                    return Step(key, partial(self._leave, ticket.id, home), partial(self._move_on, ticket.id, home))
                name, picture = self._looks(ticket)
                wanted: dict[str, Any] = {}
                if live and topic.closed:
                    do, wanted = partial(self._set_closed, ticket.id, closed=False), {"closed": False}
                elif topic.title != name or (picture and topic.icon != picture):
                    picture = picture or topic.icon
                    do, wanted = partial(self._rename, ticket.id, name, picture), {"title": name, "icon": picture}
                elif topic.card_live is not live:
                    do, wanted = partial(self._put_buttons, ticket.id, live=live), {"card_live": live}
                elif not live and not topic.closed:
                    do, wanted = partial(self._set_closed, ticket.id, closed=True), {"closed": True}
                if wanted:
                    # Refused too often, it is taken for done.
                    return Step(key, do, partial(self._settle, ticket.id, **wanted))
        return None

    async def _rename(self, ticket_id: int, name: str, picture: str) -> None:
        topic = await self._begin(ticket_id)
        await self._in_group(topic, partial(self.api.rename, topic.group_id, topic.thread_id or 0, name, picture))
        await self._settle(ticket_id, title=name, icon=picture)

    async def _put_buttons(self, ticket_id: int, *, live: bool) -> None:
        topic = await self._begin(ticket_id)
        async with self._sessions.reading() as session:
            post = await session.scalar(
                select(ForumPost)
                .where(
                    ForumPost.ticket_id == ticket_id,
                    ForumPost.kind == "card",
                    ForumPost.thread_id == topic.thread_id,
                )
                .order_by(ForumPost.id.desc())
                .limit(1)
            )
        if post is not None:
            try:
                call = partial(self.api.put_buttons, post.group_id, post.telegram_id, self.buttons(ticket_id, live))
                await self._in_group(topic, call)
            except (TopicGoneError, GroupRefusedError):
                raise
            except DeliveryError as error:
                if not error.permanent:  # else the packet was deleted there
                    raise
        await self._settle(ticket_id, card_live=live)

    async def _set_closed(self, ticket_id: int, *, closed: bool) -> None:
        topic = await self._begin(ticket_id)
        call = self.api.close if closed else self.api.reopen
        await self._in_group(topic, partial(call, topic.group_id, topic.thread_id or 0))
        await self._settle(ticket_id, closed=closed)

    async def _leave(self, ticket_id: int, home: int) -> None:
        """Another team has it, whose group is another: a topic there, and a word here, if it can be said."""
        topic = await self._begin(ticket_id)
        try:
            await self._in(topic, partial(self._say, topic, Italic(words("moved_on", self.lang))))
            await self._wait_for_place(topic.group_id)
            await self._in_group(topic, partial(self.api.close, topic.group_id, topic.thread_id or 0))
        except DeliveryError as error:
            if not error.permanent and not isinstance(error, GroupRefusedError):
                raise
            log.warning("forum.left_silently", ticket=ticket_id, problem=str(error))
        await self._move_on(ticket_id, home)

    async def _move_on(self, ticket_id: int, home: int) -> None:
        """It gets a new topic in another group."""
        async with self._sessions.begin() as session:
            row = await session.get_one(ForumTopic, ticket_id)
            _forget_thread(row)
            row.group_id, row.watched = home, True
            await self.hurry(session, home, self._clock())

    async def _move_out(self, group_id: int) -> None:
        """Nothing can be said in this group: what is another one's goes on there nevertheless."""
        async with self._sessions.reading() as session:
            rows = await session.scalars(
                select(Ticket)
                .join(ForumTopic, ForumTopic.ticket_id == Ticket.id)
                .where(ForumTopic.group_id == group_id, Ticket.status.in_(LIVE))
            )
            homes = {ticket.id: home for ticket in rows if (home := self.home(ticket)) not in (None, group_id)}
        for ticket_id, home in homes.items():
            await self._move_on(ticket_id, home)

    async def _retire(self, group_id: int) -> None:
        """Look no more at what has ended and is told."""
        async with self._sessions.begin() as session:
            ended = select(Ticket.id).where(Ticket.status.not_in(LIVE), Ticket.resolved_at < self._clock() - LAST_WORDS)
            await session.execute(
                update(ForumTopic)
                .where(
                    ForumTopic.group_id == group_id,
                    ForumTopic.watched,
                    ForumTopic.opened,
                    ForumTopic.closed,
                    ~ForumTopic.card_live,
                    ForumTopic.ticket_id.in_(ended),
                )
                .values(watched=False)
            )

    async def _speak(self, word: ForumWord) -> None:
        """Say what agents are to be told."""
        text = Text(word.text[:MAX_UNITS])
        call = partial(self.api.say, word.group_id, word.thread_id, text, buttons=word.buttons, reply_to=word.reply_to)
        try:
            try:
                await call()
            except TopicClosedError:
                await self.api.reopen(word.group_id, word.thread_id or 0)
                await self._note_closed(word.group_id, word.thread_id, closed=False)
                await call()
        except GroupRefusedError:
            raise
        except DeliveryError as error:
            if not error.permanent:
                raise
            log.warning("forum.word_refused", group=word.group_id, problem=str(error))
        await self._forget(word)

    async def _forget(self, word: ForumWord) -> None:
        async with self._sessions.begin() as session:
            row = await session.get(ForumWord, word.id)
            if row is not None:
                await session.delete(row)

    async def _note_closed(self, group_id: int, thread_id: int | None, *, closed: bool) -> None:
        async with self._sessions.begin() as session:
            await session.execute(
                update(ForumTopic)
                .where(ForumTopic.group_id == group_id, ForumTopic.thread_id == thread_id)
                .values(closed=closed)
            )

    # Calls, and what becomes of them

    async def _begin(self, ticket_id: int) -> ForumTopic:
        """Mark that Telegram is about to be called. What is found marked was cut short, and may be done twice."""
        async with self._sessions.begin() as session:
            topic = await session.get_one(ForumTopic, ticket_id)
            if topic.calling:
                topic.repeats += 1
                log.warning("forum.uncertain", ticket=ticket_id, repeats=topic.repeats)
            topic.calling = True
        return topic

    async def _in(self, topic: ForumTopic, call: Callable[[], Awaitable[Sent]]) -> Sent:
        """Put something into a topic, which is opened for it if need be."""
        return await self._checked(topic, await self._in_group(topic, call))

    async def _in_group(self, topic: ForumTopic, call: Callable[[], Awaitable[Any]]) -> Any:
        """Call for a topic. One that is closed is opened; of one that is gone it is noted, and it is made anew."""
        try:
            try:
                return await call()
            except TopicClosedError:
                log.info("forum.reopened", ticket=topic.ticket_id)
                await self.api.reopen(topic.group_id, topic.thread_id or 0)
                await self._note_closed(topic.group_id, topic.thread_id, closed=False)
                return await call()
        except TopicGoneError as error:
            await self._heal(topic)
            raise DeliveryError("the topic was deleted: it is made anew", retry_after_seconds=0.1) from error
        except DeliveryError as error:
            if error.permanent or error.retry_after_seconds is not None or isinstance(error, GroupRefusedError):
                await self._settle(topic.ticket_id)  # nothing was done
            raise

    async def _checked(self, topic: ForumTopic, sent: Sent) -> Sent:
        """Telegram puts what is for a topic that was just deleted into the general one, and says that all is well."""
        if sent.thread_id == topic.thread_id:
            return sent
        log.warning("forum.astray", ticket=topic.ticket_id)
        try:
            await self.api.remove(topic.group_id, sent.telegram_id)
        except DeliveryError as error:
            log.warning("forum.not_removed", problem=str(error))
        await self._heal(topic)
        raise DeliveryError("the topic was deleted: it is made anew", retry_after_seconds=0.1)

    async def _heal(self, topic: ForumTopic) -> None:
        log.warning("forum.topic_gone", ticket=topic.ticket_id, group=topic.group_id)
        metrics.FORUM_HEALED.inc()
        async with self._sessions.begin() as session:
            row = await session.get_one(ForumTopic, topic.ticket_id)
            if row.thread_id == topic.thread_id:
                _forget_thread(row)

    async def _settle(self, ticket_id: int, **values: Any) -> None:
        async with self._sessions.begin() as session:
            await session.execute(
                update(ForumTopic).where(ForumTopic.ticket_id == ticket_id).values(calling=False, **values)
            )

    async def _seen(self, ticket_id: int, block: Block) -> None:
        async with self._sessions.begin() as session:
            row = await session.get_one(ForumTopic, ticket_id)
            row.seen_id, row.seen_entry_id = block.seen_id, block.seen_entry_id

    async def _skip(self, ticket_id: int, block: Block) -> None:
        """It can't be told there."""
        async with self._sessions.begin() as session:
            row = await session.get_one(ForumTopic, ticket_id)
            row.calling, row.seen_id, row.seen_entry_id = False, block.seen_id, block.seen_entry_id
            await self._point_to_desk(session, row.group_id, row.thread_id)

    async def _point_to_desk(self, session: AsyncSession, group_id: int, thread_id: int | None) -> None:
        if thread_id is None:
            return
        text = words("unshown", self.lang)
        word = ForumWord(group_id=group_id, thread_id=thread_id, text=text, buttons=[], created_at=self._clock())
        session.add(word)

    async def _told(self, topic: ForumTopic, block: Block | None, *posts: Post) -> None:
        """Record what stands there now. block: with that, all of it does; None: more is to come."""
        async with self._sessions.begin() as session:
            row = await session.get_one(ForumTopic, topic.ticket_id)
            row.calling = False
            if block is not None:
                row.seen_id, row.seen_entry_id = block.seen_id, block.seen_entry_id
            await self._write(session, row, posts)

    async def _write(self, session: AsyncSession, topic: ForumTopic, posts: Sequence[Post]) -> None:
        for made in posts:
            sent, pieces = made.sent, made.pieces
            lines = [piece.line or {"message": piece.message_id} for piece in pieces] if made.kind != "card" else []
            post = ForumPost(
                ticket_id=topic.ticket_id,
                group_id=topic.group_id,
                thread_id=sent.thread_id or 0,
                telegram_id=sent.telegram_id,
                kind=made.kind,
                lines=[*lines, *({"file": file.id} for file in made.files)],
                at=self._clock(),
            )
            session.add(post)
            await session.flush()
            session.add_all(
                ForumItem(
                    ticket_id=topic.ticket_id, post_id=post.id, message_id=piece.message_id, version=piece.version
                )
                for piece in pieces
                if piece.message_id is not None
            )

    async def _parts_of(
        self, topic: ForumTopic, message_ids: Sequence[int], *, version: int | None = None
    ) -> Counter[int]:
        """How many of our posts in the topic hold a message; not the packet. version: as it was then."""
        query = (
            select(ForumItem.message_id, func.count(ForumItem.id).label("posts"))
            .join(ForumPost, ForumPost.id == ForumItem.post_id)
            .where(
                ForumItem.ticket_id == topic.ticket_id,
                ForumItem.message_id.in_(message_ids),
                ForumPost.group_id == topic.group_id,
                ForumPost.thread_id == topic.thread_id,
                ForumPost.kind.in_(("text", "file")),
            )
            .group_by(ForumItem.message_id)
        )
        if version is not None:
            query = query.where(ForumItem.version == version)
        async with self._sessions.reading() as session:
            return Counter({row.message_id: row.posts for row in await session.execute(query)})

    async def _parts_there(self, topic: ForumTopic, parts: Sequence[tuple[Text, Sequence[Piece]]]) -> int:
        """How many of them, from the first on, stand there already: telling them was cut short."""
        firsts = [pieces[0].message_id or 0 for _, pieces in parts]
        there = await self._parts_of(topic, firsts)
        for number, message_id in enumerate(firsts):
            if not there[message_id]:
                return number
            there[message_id] -= 1
        return len(parts)

    async def _files_there(self, topic: ForumTopic) -> frozenset[int]:
        """The attachments that stand in the topic, or are named there."""
        query = select(ForumPost.lines).where(
            ForumPost.ticket_id == topic.ticket_id,
            ForumPost.group_id == topic.group_id,
            ForumPost.thread_id == topic.thread_id,
            ForumPost.kind.in_(("text", "file")),
        )
        async with self._sessions.reading() as session:
            return frozenset(line["file"] for lines in await session.scalars(query) for line in lines if "file" in line)

    async def _post_of(self, topic: ForumTopic, message_id: int | None) -> int | None:
        """Where a message of the transcript stands in the topic; not the packet, in which many stand."""
        if message_id is None:
            return None
        async with self._sessions.reading() as session:
            found: int | None = await session.scalar(
                select(ForumPost.telegram_id)
                .join(ForumItem, ForumItem.post_id == ForumPost.id)
                .where(
                    ForumItem.message_id == message_id,
                    ForumItem.ticket_id == topic.ticket_id,
                    ForumPost.thread_id == topic.thread_id,
                    ForumPost.kind != "card",
                )
                .order_by(ForumPost.id)
                .limit(1)
            )
        return found


def _forget_thread(topic: ForumTopic) -> None:
    if topic.thread_id is not None:
        topic.left = [*topic.left, [topic.group_id, topic.thread_id]]
    topic.thread_id, topic.opened, topic.closed, topic.calling = None, False, False, False
    topic.title, topic.icon = "", ""
