"""Puts things into a topic: one that is closed is opened for it, one that was deleted is noted and made anew, within
Telegram's limits. What the things say is others' to know."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

import structlog
from aiogram.utils.formatting import Text

from bot import metrics
from bot.attachments import UNKNOWN_TYPE, AttachmentStore
from bot.channels.base import OutboundAttachment
from bot.channels.telegram_calls import FILE_METHODS
from bot.channels.telegram_forum import Buttons, ForumApi, Sent
from bot.channels.telegram_limits import CAPABILITIES
from bot.channels.telegram_text import MAX_UNITS
from bot.errors import DeliveryError, FileGoneError, GroupRefusedError, TopicClosedError, TopicGoneError
from bot.forum.calls import Carrier
from bot.forum.records import ForumTopic, ForumWord
from bot.forum.text import file_names
from bot.forum.topics import ForumTopics
from bot.shared import Shared
from handoff.records import Attachment, AttachmentState

log = structlog.get_logger()
T = TypeVar("T")


class Poster:
    """Every method that calls Telegram raises DeliveryError: a permanent one where this one thing is not taken;
    GroupRefusedError, which is not permanent, where none is; and where the topic was deleted, one that is to be tried
    again at once."""

    def __init__(
        self,
        *,
        api: ForumApi,
        topics: ForumTopics,
        attachments: AttachmentStore,
        shared: Shared,
        lang: str,
        pace_scale: float,
    ) -> None:
        """pace_scale: of Telegram's limits."""
        self.api = api
        self._topics = topics
        self._attachments = attachments
        self._shared = shared
        self._lang = lang
        self._pace_scale = pace_scale

    # Telegram's limits

    async def place(self, group_id: int) -> float:
        """Seconds to wait for a place within Telegram's limits; 0: it is taken."""
        rates = [rate for rate in CAPABILITIES.rates(self.api.address(group_id)) if rate]
        if self._pace_scale != 1:
            rates = [replace(rate, every_seconds=rate.every_seconds * self._pace_scale) for rate in rates]
        return await self._shared.take(*rates)

    async def wait_for_place(self, group_id: int) -> None:
        """For a step's second call: the first one's place was taken before it began."""
        while wait := await self.place(group_id):  # noqa: ASYNC110 - a limit has no event
            await asyncio.sleep(wait)

    # Calls, and what becomes of them

    async def call(self, topic: ForumTopic, call: Callable[[], Awaitable[T]]) -> T:
        """Call for a topic. One that is closed is opened; of one that is gone it is noted, and it is made anew."""
        try:
            try:
                return await call()
            except TopicClosedError:
                log.info("forum.reopened", ticket=topic.ticket_id)
                await self._open(topic.group_id, topic.thread_id)
                return await call()
        except TopicGoneError as error:
            raise await self._gone(topic) from error
        except DeliveryError as error:
            if error.permanent or error.retry_after_seconds is not None or isinstance(error, GroupRefusedError):
                await self._topics.settle(topic.ticket_id)  # nothing was done
            raise

    async def _open(self, group_id: int, thread_id: int | None) -> None:
        await self.api.reopen(group_id, thread_id or 0)
        await self._topics.note_closed(group_id, thread_id, closed=False)

    async def _checked(self, topic: ForumTopic, sent: Sent) -> Sent:
        """Telegram puts what is for a topic that was just deleted into the general one, and says that all is well."""
        if sent.thread_id == topic.thread_id:
            return sent
        log.warning("forum.astray", ticket=topic.ticket_id)
        try:
            await self.api.remove(topic.group_id, sent.telegram_id)
        except DeliveryError as error:
            log.warning("forum.not_removed", problem=str(error))
        raise await self._gone(topic)

    async def _gone(self, topic: ForumTopic) -> DeliveryError:
        log.warning("forum.topic_gone", ticket=topic.ticket_id, group=topic.group_id)
        metrics.FORUM_HEALED.inc()
        await self._topics.gone(topic)
        return DeliveryError("the topic was deleted: it is made anew", retry_after_seconds=0.1)

    # Words

    async def say(self, topic: ForumTopic, text: Text, reply_to: int | None = None, *, buttons: Buttons = ()) -> Sent:
        """reply_to: Telegram's id of a post in the topic."""
        say = partial(self.api.say, topic.group_id, topic.thread_id, text, buttons=buttons, reply_to=reply_to)
        return await self._checked(topic, await self.call(topic, say))

    async def speak(self, word: ForumWord) -> None:
        """Say what agents are to be told. What Telegram refuses is left out."""
        text = Text(word.text[:MAX_UNITS])
        say = partial(self.api.say, word.group_id, word.thread_id, text, buttons=word.buttons, reply_to=word.reply_to)
        try:
            try:
                await say()
            except TopicClosedError:
                await self._open(word.group_id, word.thread_id)
                await say()
        except DeliveryError as error:
            if not error.permanent:
                raise
            log.warning("forum.word_refused", group=word.group_id, problem=str(error))
        await self._topics.forget_word(word)

    # Files

    async def carrier(self, file: Attachment) -> Carrier | None:
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

    async def put(
        self, topic: ForumTopic, file: Carrier, caption: Text | None = None, reply_to: int | None = None
    ) -> Sent:
        """One file, by itself."""
        at = (topic.group_id, topic.thread_id or 0)
        if isinstance(file, tuple):
            put = partial(self.api.pass_on, *at, file[0], file[1], caption, reply_to)
        else:
            put = partial(self.api.put, *at, file, caption, reply_to)
        return await self._checked(topic, await self.call(topic, put))

    async def put_album(
        self,
        topic: ForumTopic,
        album: Sequence[tuple[Attachment, Carrier]],
        caption: Text | None,
        reply_to: int | None,
    ) -> tuple[str, list[Sent]]:
        """Files of one call, or where Telegram does not take them their names: the kind of what stands there now, and
        where."""
        try:
            if len(album) == 1:
                return "file", [await self.put(topic, album[0][1], caption, reply_to)]
            carriers = [carrier for _, carrier in album]
            put = partial(self.api.album, topic.group_id, topic.thread_id or 0, carriers, caption)
            return "file", [await self._checked(topic, each) for each in await self.call(topic, put)]
        except DeliveryError as error:
            if not error.permanent:
                raise
            log.warning("forum.file_refused", ticket=topic.ticket_id, problem=str(error))
            names = file_names([file for file, _ in album], self._lang)
            await self.wait_for_place(topic.group_id)
            text = Text(caption, "\n", names) if caption is not None else Text(names)
            return "text", [await self.say(topic, text, reply_to)]
