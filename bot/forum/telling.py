"""Tells in a topic what it lacks: the packet, what was said and done, reactions, files, and what was changed."""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from zoneinfo import ZoneInfo

import structlog
from aiogram.utils.formatting import Bold, Italic, Text
from sqlalchemy import func, select

from bot.channels.base import OutboundAttachment
from bot.channels.telegram_forum import Sent
from bot.channels.telegram_text import MAX_UNITS
from bot.desk.agent_desk import AgentDesk
from bot.errors import DeliveryError
from bot.forum.calls import (
    Block,
    Carrier,
    Happening,
    Post,
    albums,
    entry_pieces,
    file_groups,
    joined,
    message_pieces,
    names_of,
    next_block,
    parts_of,
)
from bot.forum.posting import Poster
from bot.forum.records import ForumItem, ForumPost, ForumTopic
from bot.forum.text import Piece, buttons, card, name_of, say, version_of, whole_transcript
from bot.forum.topics import MAX_MESSAGES, ForumTopics, stands_in
from bot.forum.words import words
from bot.work import Sessions
from handoff import desk as conversations
from handoff.lifecycle import LIVE
from handoff.packet import Packet
from handoff.records import Attachment, HistoryEntry, Message

log = structlog.get_logger()

MAX_FILE_TRIES = 3
FILES_OF_PACKET = 10
"""The customer's newest files of before the handoff, which the packet shows."""


class Teller:
    """Each method makes one call, mostly, and records what stands there then; what does not yet is the next one's."""

    def __init__(
        self,
        *,
        poster: Poster,
        topics: ForumTopics,
        desk: AgentDesk,
        sessions: Sessions,
        zone: ZoneInfo,
        lang: str,
    ) -> None:
        self._poster = poster
        self._topics = topics
        self._desk = desk
        self._sessions = sessions
        self._zone = zone
        self._lang = lang
        self._file_tries: Counter[tuple[int, int]] = Counter()

    # What was said and done

    async def next_block(self, ticket_id: int) -> tuple[ForumTopic, Block]:
        """The next things to tell in a topic that fit into one call."""
        found = await self._topics.untold(ticket_id)
        topic, known = found.topic, self._desk.tickets.topics
        said, done = list[Happening](), list[Happening]()
        for message in found.messages:
            there = message.id in found.written_there
            pieces = [] if there else message_pieces(message, found.customer, self._lang)
            said.append(Happening(message.created_at, message.id, pieces))
        for entry in found.entries:
            pieces = entry_pieces(entry, known, self._lang)
            done.append(Happening(entry.at, entry.id, pieces, of_history=True))
        return topic, next_block(said, done, topic.seen_id, topic.seen_entry_id)

    async def tell(self, ticket_id: int, block: Block) -> None:
        """block: with something to tell."""
        topic = await self._topics.begin(ticket_id)
        first = block.pieces[0]
        if first.reaction is not None:
            await self._tell_reaction(topic, block, first)
            return
        reply_to = await self._topics.post_of(topic, first.reply_to_id)
        if any(piece.files for piece in block.pieces):
            if await self._tell_files(topic, block.pieces, reply_to):
                await self._topics.told(topic, block)
            return
        parts = parts_of(block.pieces)
        done = await self._topics.parts_there(topic, parts) if len(parts) > 1 else 0
        if done < len(parts):
            text, pieces = parts[done]
            sent = await self._poster.say(topic, text, None if done else reply_to)
            await self._topics.told(topic, block if done + 1 == len(parts) else None, Post(sent, "text", pieces))
        else:  # it was made shorter meanwhile
            await self._topics.told(topic, block)

    async def _tell_reaction(self, topic: ForumTopic, block: Block, piece: Piece) -> None:
        """Put it under the message there; in words where that can't be."""
        post = await self._topics.post_of(topic, piece.reply_to_id)
        emoji = piece.reaction or ""
        posts: list[Post] = []
        try:
            if post is None:
                raise DeliveryError("what it is put under does not stand there", permanent=True)
            react = partial(self._poster.api.react, topic.group_id, post, emoji.split(" ")[0])
            await self._poster.call(topic, react)
        except DeliveryError as error:
            if not error.permanent:
                raise
            if emoji:
                async with self._sessions.reading() as session:
                    target = await session.get(Message, piece.reply_to_id) if piece.reply_to_id else None
                    message = await session.get_one(Message, piece.message_id)
                    conversation = await conversations.get_conversation(session, message.conversation_id)
                quoted = " ".join(target.text.split())[:80] if target else "…"
                who = name_of(message, conversation.customer_name, self._lang)
                line = words("reaction", self._lang, emoji=emoji, text=quoted)
                sent = await self._poster.say(topic, Text(Bold(who), " ", line), post)
                posts = [Post(sent, "text", [replace(piece, line={"text": f"{who} {line}"})])]
        await self._topics.told(topic, block, *posts)

    async def _tell_files(self, topic: ForumTopic, pieces: Sequence[Piece], reply_to: int | None) -> bool:
        """Files with their words as a caption, photos and videos together as an album; by name where a file can't be
        had or Telegram does not take it. One call: the next of what does not stand there yet; whether that was all."""
        key = (topic.ticket_id, pieces[0].message_id or 0)
        parts, there = parts_of(pieces), await self._topics.files_there(topic)
        done = await self._topics.parts_there(topic, parts)
        text, told = parts[done] if done < len(parts) else (Text(), [])
        reply_to = None if done else reply_to
        if done + 1 < len(parts):
            sent = await self._poster.say(topic, text, reply_to)
            await self._topics.told(topic, None, Post(sent, "text", told))
            return False
        may_carry = self._file_tries[key] < MAX_FILE_TRIES
        self._file_tries[key] += 1
        carried: list[tuple[Attachment, Carrier]] = []
        named: list[Attachment] = []
        for file in (file for piece in pieces for file in piece.files if file.id not in there):
            carrier = await self._poster.carrier(file) if may_carry else None
            if carrier is None:
                named.append(file)
            else:
                carried.append((file, carrier))
        names = names_of(named, self._lang)[: MAX_UNITS // 2]
        if told and len(text) + len(names) >= MAX_UNITS:  # they have a post of their own
            sent = await self._poster.say(topic, text, reply_to)
            await self._topics.told(topic, None, Post(sent, "text", told))
            return False
        if names:
            text = Text(text, "\n", names) if told else Text(names)
        calls = albums(carried)
        if len(text) and (not calls or len(text) > self._poster.api.max_caption_units):
            sent = await self._poster.say(topic, text, reply_to)
            await self._topics.told(topic, None, Post(sent, "text", told, named))
        elif calls:
            album = calls.pop(0)
            kind, [first, *rest] = await self._poster.put_album(topic, album, text if len(text) else None, reply_to)
            post = Post(first, kind, told, [*named, *(file for file, _ in album)])
            await self._topics.told(topic, None, post, *(Post(each, kind) for each in rest))
        self._file_tries.pop(key, None)
        return not calls

    # What was changed

    async def tell_change(self, item_id: int, post_id: int) -> None:
        """Ours is changed; what somebody else wrote, and the packet, can't be, so it is told anew below."""
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
                    texts += say(told, name, self._lang, quote=told.reply_to_id is None)
        topic, version = await self._topics.begin(post.ticket_id), version_of(message)
        if await self._change(topic, post, texts):
            await self._topics.changed_there(topic, item_id, version)
            return
        [first, *rest] = say(message, name, self._lang, quote=False)
        head = Text(Italic(words("deleted" if message.deleted_at else "edited", self._lang)), "\n", first)
        parts = [head, *rest]
        number = (await self._topics.posts_of(topic, [message.id], version=version))[message.id]
        posts: list[Post] = []
        if number < len(parts):
            piece = Piece(parts[number], message_id=message.id, version=version)
            sent = await self._poster.say(topic, parts[number], None if number else post.telegram_id)
            posts.append(Post(sent, "text", [piece]))
        await self._topics.told_change(topic, message, *posts, whole=number + 1 >= len(parts))

    async def _change(self, topic: ForumTopic, post: ForumPost, texts: Sequence[Text]) -> bool:
        """Whether the post could be made to say this."""
        whole, is_caption = joined(texts), post.kind == "file"
        limit = self._poster.api.max_caption_units if is_caption else MAX_UNITS
        if post.kind not in ("text", "file") or not texts or len(whole) > limit:
            return False
        change = partial(self._poster.api.change, post.group_id, post.telegram_id, whole, caption=is_caption)
        try:
            await self._poster.call(topic, change)
        except DeliveryError as error:
            if not error.permanent:
                raise
            log.warning("forum.change_refused", ticket=post.ticket_id, problem=str(error))
            return False
        return True

    # The packet

    async def tell_packet(self, ticket_id: int) -> None:
        """The packet, then the whole transcript where it has no room for it, then the customer's files."""
        topic = await self._topics.begin(ticket_id)
        async with self._sessions.reading() as session:
            packet = await self._desk.packet(session, ticket_id)
            newest = await session.scalar(select(func.max(HistoryEntry.id)).where(HistoryEntry.ticket_id == ticket_id))
            standing = select(ForumPost).where(*stands_in(topic, "card", "text", "file"))
            posts = (await session.scalars(standing.order_by(ForumPost.id))).all()
            known = next((post for post in posts if post.kind == "card"), None)
            ids = [message.id for message in packet.transcript][-MAX_MESSAGES:]
            if known is not None:
                ids = list(await session.scalars(select(ForumItem.message_id).where(ForumItem.post_id == known.id)))
            rows = (await session.scalars(select(Message).where(Message.id.in_(ids)).order_by(Message.id))).all()
        text, whole = self._card(packet)
        lines = [line for post in posts for line in post.lines]
        files_there = {line["file"] for line in lines if "file" in line}
        says_all = whole or any("transcript" in line for line in lines)
        groups = [
            group
            for group in file_groups(self._files(rows, packet.customer.name))
            if any(file.id not in files_there for piece in group for file in piece.files)
        ]
        if known is None:
            live = packet.status in LIVE
            sent = await self._poster.say(topic, text, buttons=buttons(ticket_id, live, self._lang))
            pieces = [Piece(Text(), message_id=row.id, version=version_of(row)) for row in rows]
            await self._topics.told_packet(
                topic,
                Post(sent, "card", pieces),
                opened=says_all and not groups,
                live=live,
                seen_id=max((message.id for message in packet.transcript), default=0),
                seen_entry_id=newest or 0,
            )
        elif not says_all:
            sent = await self._put_transcript(topic, whole_transcript(packet, self._zone, self._lang))
            await self._topics.told(topic, None, Post(sent, "file", [Piece(Text(), line={"transcript": True})]))
            if not groups:
                await self._topics.settle(ticket_id, opened=True)
        elif not groups or (await self._tell_files(topic, groups[0], None) and len(groups) == 1):
            await self._topics.settle(ticket_id, opened=True)

    def _card(self, packet: Packet) -> tuple[Text, bool]:
        tickets = self._desk.tickets
        team = tickets.policy.team(packet.team).title.get(self._lang, packet.team)
        return card(packet, tickets.topics, self._zone, self._lang, team=team)

    def _files(self, messages: Sequence[Message], customer: str | None) -> list[Piece]:
        """Those of before the handoff, with who sent them and when."""
        shown = [each for each in messages if each.attachments and each.deleted_at is None][-FILES_OF_PACKET:]
        return [Piece(self._caption(each, customer), tuple(each.attachments), each.id) for each in shown]

    def _caption(self, message: Message, customer: str | None) -> Text:
        sent_at = message.sent_at.astimezone(self._zone)
        return Text(Bold(name_of(message, customer, self._lang)), f" {sent_at:%d.%m %H:%M}")

    async def _put_transcript(self, topic: ForumTopic, text: str) -> Sent:
        def write() -> Path:
            with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".txt", delete=False) as file:
                file.write(text)
                return Path(file.name)

        path = await asyncio.to_thread(write)
        try:
            size = len(text.encode())
            file = OutboundAttachment("document", path, f"ticket-{topic.ticket_id}.txt", "text/plain", size)
            return await self._poster.put(topic, file)
        finally:
            await asyncio.to_thread(path.unlink, missing_ok=True)
