"""What stands in topics: the record of it, kept in `bot.forum.records`, and what is missing there. Telegram is not
called here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import structlog
from aiogram.utils.formatting import Text
from sqlalchemy import ColumnElement, func, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession

from bot.forum.calls import Block, Post
from bot.forum.groups import hurry
from bot.forum.records import ForumItem, ForumPost, ForumTopic, ForumWord
from bot.forum.text import Piece, version_of
from bot.forum.words import words
from bot.work import Sessions
from handoff import desk as conversations
from handoff.lifecycle import LIVE
from handoff.records import HistoryEntry, Message, Ticket

log = structlog.get_logger()

LAST_WORDS = timedelta(seconds=5)
"""What is said so soon after a ticket's end still belongs to it."""
MAX_MESSAGES = 60
"""Of a transcript, looked at together."""


@dataclass(frozen=True)
class Untold:
    """What a topic lacks of what was said and done, the oldest MAX_MESSAGES of either."""

    topic: ForumTopic
    messages: Sequence[Message]
    entries: Sequence[HistoryEntry]
    written_there: frozenset[int]
    """The messages that agents wrote in the topic itself."""
    customer: str | None


class ForumTopics:
    def __init__(self, sessions: Sessions, clock: Callable[[], datetime], lang: str) -> None:
        """lang: of what agents are told in place of what can't be shown."""
        self._sessions = sessions
        self._clock = clock
        self._lang = lang

    # What is missing

    async def next_word(self, group_id: int, but: Collection[int]) -> ForumWord | None:
        """The first thing that agents are to be told. but: the ids of words that wait."""
        async with self._sessions.reading() as session:
            found: ForumWord | None = await session.scalar(
                select(ForumWord)
                .where(ForumWord.group_id == group_id, ForumWord.id.not_in(but))
                .order_by(ForumWord.id)
                .limit(1)
            )
        return found

    async def behind(self, group_id: int) -> list[int]:
        """The tickets of which something is not told, the one first that has waited longest. Also those of which it
        turns out that it needs no telling."""
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
        since: dict[int, datetime] = {}
        async with self._sessions.reading() as session:
            for query in (message, entry):
                for ticket_id, at in await session.execute(query):
                    since[ticket_id] = min(at, since.get(ticket_id, at))
        return sorted(since, key=lambda each: (since[each], each))

    async def untold(self, ticket_id: int) -> Untold:
        async with self._sessions.reading() as session:
            topic = await session.get_one(ForumTopic, ticket_id)
            ticket = await conversations.get_ticket(session, ticket_id)
            conversation = await conversations.get_conversation(session, ticket.conversation_id)
            said = select(Message).where(Message.conversation_id == ticket.conversation_id, Message.id > topic.seen_id)
            if ticket.status not in LIVE and ticket.resolved_at is not None:
                said = said.where(Message.created_at <= ticket.resolved_at + LAST_WORDS)
            done = select(HistoryEntry).where(
                HistoryEntry.ticket_id == ticket.id, HistoryEntry.id > topic.seen_entry_id
            )
            written = (
                select(ForumItem.message_id)
                .join(ForumPost, ForumPost.id == ForumItem.post_id)
                .where(ForumItem.ticket_id == ticket_id, *stands_in(topic, "agent"))
            )
            return Untold(
                topic,
                (await session.scalars(said.order_by(Message.id).limit(MAX_MESSAGES))).all(),
                (await session.scalars(done.order_by(HistoryEntry.id).limit(MAX_MESSAGES))).all(),
                frozenset(await session.scalars(written)),
                conversation.customer_name,
            )

    async def changed(self, group_id: int) -> list[tuple[ForumItem, ForumPost, Message]]:
        """What was edited or taken back after it was told, and where it stands."""
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
            found = await session.execute(rows)
            return [(item, post, message) for item, post, message in found if version_of(message) > item.version]

    async def unopened(self, group_id: int, but: Collection[int]) -> ForumTopic | None:
        """One that is to be made, or lacks its packet; of those that are made first. but: of tickets that wait."""
        async with self._sessions.reading() as session:
            found: ForumTopic | None = await session.scalar(
                select(ForumTopic)
                .where(
                    ForumTopic.group_id == group_id,
                    ForumTopic.watched,
                    ~ForumTopic.opened,
                    ForumTopic.ticket_id.not_in(but),
                )
                .order_by(ForumTopic.thread_id.is_(None), ForumTopic.ticket_id)
                .limit(1)
            )
        return found

    async def opened(self, group_id: int) -> list[tuple[ForumTopic, Ticket]]:
        """All that are looked at and have their packet."""
        async with self._sessions.reading() as session:
            rows = await session.execute(
                select(ForumTopic, Ticket)
                .join(Ticket, Ticket.id == ForumTopic.ticket_id)
                .where(ForumTopic.group_id == group_id, ForumTopic.watched, ForumTopic.opened)
                .order_by(ForumTopic.ticket_id)
            )
            return [(topic, ticket) for topic, ticket in rows]

    # What stands there

    async def parts_there(self, topic: ForumTopic, parts: Sequence[tuple[Text, Sequence[Piece]]]) -> int:
        """How many of them, from the first on, stand there already: telling them was cut short."""
        firsts = [pieces[0].message_id or 0 for _, pieces in parts]
        there = await self.posts_of(topic, firsts)
        for number, message_id in enumerate(firsts):
            if not there[message_id]:
                return number
            there[message_id] -= 1
        return len(parts)

    async def posts_of(
        self, topic: ForumTopic, message_ids: Collection[int], *, version: int | None = None
    ) -> Counter[int]:
        """How many of our posts in the topic hold a message; not the packet. version: as it was then."""
        query = (
            select(ForumItem.message_id, func.count(ForumItem.id).label("posts"))
            .join(ForumPost, ForumPost.id == ForumItem.post_id)
            .where(
                ForumItem.ticket_id == topic.ticket_id,
                ForumItem.message_id.in_(message_ids),
                *stands_in(topic, "text", "file"),
            )
            .group_by(ForumItem.message_id)
        )
        if version is not None:
            query = query.where(ForumItem.version == version)
        async with self._sessions.reading() as session:
            return Counter({row.message_id: row.posts for row in await session.execute(query)})

    async def files_there(self, topic: ForumTopic) -> frozenset[int]:
        """The attachments that stand in the topic, or are named there."""
        async with self._sessions.reading() as session:
            found = await session.scalars(select(ForumPost.lines).where(*stands_in(topic, "text", "file")))
            return frozenset(line["file"] for lines in found for line in lines if "file" in line)

    async def post_of(self, topic: ForumTopic, message_id: int | None) -> int | None:
        """Telegram's id of the post in which a message of the transcript begins; not the packet, in which many
        stand."""
        if message_id is None:
            return None
        async with self._sessions.reading() as session:
            found: int | None = await session.scalar(
                select(ForumPost.telegram_id)
                .join(ForumItem, ForumItem.post_id == ForumPost.id)
                .where(
                    ForumItem.ticket_id == topic.ticket_id,
                    ForumItem.message_id == message_id,
                    *stands_in(topic, "text", "file", "agent"),
                )
                .order_by(ForumPost.id)
                .limit(1)
            )
        return found

    async def packet_of(self, topic: ForumTopic) -> ForumPost | None:
        """The newest, should there be two."""
        async with self._sessions.reading() as session:
            found: ForumPost | None = await session.scalar(
                select(ForumPost).where(*stands_in(topic, "card")).order_by(ForumPost.id.desc()).limit(1)
            )
        return found

    # What becomes of it

    async def add(self, group_id: int, ticket_ids: Sequence[int]) -> None:
        """They are to get topics in this group; none of them has one, unless another process was quicker."""
        async with self._sessions.begin() as session:
            insert = postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
            await session.execute(
                insert(ForumTopic).on_conflict_do_nothing(),
                [{"ticket_id": ticket_id, "group_id": group_id, "thread_id": None} for ticket_id in ticket_ids],
            )

    async def begin(self, ticket_id: int) -> ForumTopic:
        """Mark that Telegram is about to be called. What is found marked was cut short, and may be done twice."""
        async with self._sessions.begin() as session:
            topic = await session.get_one(ForumTopic, ticket_id)
            if topic.calling:
                topic.repeats += 1
                log.warning("forum.uncertain", ticket=ticket_id, repeats=topic.repeats)
            topic.calling = True
        return topic

    async def settle(self, ticket_id: int, **values: Any) -> None:
        """Take the mark away. values: of the row, as they are now."""
        async with self._sessions.begin() as session:
            await session.execute(
                update(ForumTopic).where(ForumTopic.ticket_id == ticket_id).values(calling=False, **values)
            )

    async def told(self, topic: ForumTopic, block: Block | None, *posts: Post) -> None:
        """Record what stands there now. block: with that, all of it does; None: more is to come."""
        async with self._sessions.begin() as session:
            row = await session.get_one(ForumTopic, topic.ticket_id)
            row.calling = False
            if block is not None:
                row.seen_id, row.seen_entry_id = block.seen_id, block.seen_entry_id
            await self._write(session, row, posts)

    async def told_packet(
        self, topic: ForumTopic, post: Post, *, opened: bool, live: bool, seen_id: int, seen_entry_id: int
    ) -> None:
        """opened: nothing of it is missing. live: the ticket, when its buttons were made. seen_id, seen_entry_id: the
        last that it holds."""
        async with self._sessions.begin() as session:
            row = await session.get_one(ForumTopic, topic.ticket_id)
            row.calling, row.opened, row.card_live = False, opened, live
            row.seen_id, row.seen_entry_id = max(row.seen_id, seen_id), max(row.seen_entry_id, seen_entry_id)
            await self._write(session, row, [post])

    async def told_change(self, topic: ForumTopic, message: Message, *posts: Post, whole: bool) -> None:
        """A new version was told in posts of its own. whole: with these, all of it."""
        async with self._sessions.begin() as session:
            row = await session.get_one(ForumTopic, topic.ticket_id)
            row.calling = False
            await self._write(session, row, posts)
            if whole:
                await self._mark_changed(session, topic.ticket_id, message)

    async def changed_there(self, topic: ForumTopic, item_id: int, version: int) -> None:
        """A post says now what the message says."""
        async with self._sessions.begin() as session:
            await session.execute(update(ForumItem).where(ForumItem.id == item_id).values(version=version))
            (await session.get_one(ForumTopic, topic.ticket_id)).calling = False

    async def _mark_changed(self, session: AsyncSession, ticket_id: int, message: Message) -> None:
        """In all posts of it."""
        await session.execute(
            update(ForumItem)
            .where(ForumItem.ticket_id == ticket_id, ForumItem.message_id == message.id)
            .values(version=version_of(message))
        )

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

    # What is passed over

    async def pass_over(self, ticket_id: int, block: Block) -> None:
        """It needs no telling."""
        async with self._sessions.begin() as session:
            row = await session.get_one(ForumTopic, ticket_id)
            row.seen_id, row.seen_entry_id = block.seen_id, block.seen_entry_id

    async def skip(self, ticket_id: int, block: Block) -> None:
        """It can't be told there."""
        async with self._sessions.begin() as session:
            row = await session.get_one(ForumTopic, ticket_id)
            row.calling, row.seen_id, row.seen_entry_id = False, block.seen_id, block.seen_entry_id
            await self._point_to_desk(session, row.group_id, row.thread_id)

    async def skip_change(self, post: ForumPost, message: Message) -> None:
        async with self._sessions.begin() as session:
            (await session.get_one(ForumTopic, post.ticket_id)).calling = False
            await self._mark_changed(session, post.ticket_id, message)
            await self._point_to_desk(session, post.group_id, post.thread_id)

    async def skip_packet(self, ticket_id: int) -> None:
        """It can't be told there, or not all of it; what follows is."""
        async with self._sessions.begin() as session:
            row = await session.get_one(ForumTopic, ticket_id)
            stands = await session.scalar(select(ForumPost.id).where(*stands_in(row, "card")).limit(1))
            if stands is None:
                ticket = await conversations.get_ticket(session, ticket_id)
                last = select(func.max(Message.id)).where(Message.conversation_id == ticket.conversation_id)
                entry = select(func.max(HistoryEntry.id)).where(HistoryEntry.ticket_id == ticket_id)
                row.seen_id = max(row.seen_id, await session.scalar(last) or 0)
                row.seen_entry_id = max(row.seen_entry_id, await session.scalar(entry) or 0)
            row.calling, row.opened = False, True
            await self._point_to_desk(session, row.group_id, row.thread_id)

    async def _point_to_desk(self, session: AsyncSession, group_id: int, thread_id: int | None) -> None:
        if thread_id is None:
            return
        text = words("unshown", self._lang)
        word = ForumWord(group_id=group_id, thread_id=thread_id, text=text, buttons=[], created_at=self._clock())
        session.add(word)

    async def forget_word(self, word: ForumWord) -> None:
        async with self._sessions.begin() as session:
            row = await session.get(ForumWord, word.id)
            if row is not None:
                await session.delete(row)

    # Of the topics themselves

    async def note_closed(self, group_id: int, thread_id: int | None, *, closed: bool) -> None:
        async with self._sessions.begin() as session:
            await session.execute(
                update(ForumTopic)
                .where(ForumTopic.group_id == group_id, ForumTopic.thread_id == thread_id)
                .values(closed=closed)
            )

    async def gone(self, topic: ForumTopic) -> None:
        """It is made anew, unless it was already."""
        async with self._sessions.begin() as session:
            row = await session.get_one(ForumTopic, topic.ticket_id)
            if row.thread_id == topic.thread_id:
                _forget_thread(row)

    async def move_on(self, ticket_id: int, home: int) -> None:
        """It gets a new topic in another group."""
        async with self._sessions.begin() as session:
            row = await session.get_one(ForumTopic, ticket_id)
            _forget_thread(row)
            row.group_id, row.watched = home, True
            await hurry(session, home, self._clock())

    async def retire(self, group_id: int) -> None:
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


def stands_in(topic: ForumTopic, *kinds: str) -> tuple[ColumnElement[bool], ...]:
    """Of posts: that they are of these kinds, and stand in the topic as it is now."""
    return (
        ForumPost.ticket_id == topic.ticket_id,
        ForumPost.group_id == topic.group_id,
        ForumPost.thread_id == topic.thread_id,
        ForumPost.kind.in_(kinds),
    )


def _forget_thread(topic: ForumTopic) -> None:
    if topic.thread_id is not None:
        topic.left = [*topic.left, [topic.group_id, topic.thread_id]]
    topic.thread_id, topic.opened, topic.closed, topic.calling = None, False, False, False
    topic.title, topic.icon = "", ""
