"""Makes topics, and has each look like its ticket: title, picture, the packet's buttons, open or closed, and in the
right group."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import structlog
from aiogram.utils.formatting import Italic

from bot.errors import DeliveryError, GroupRefusedError
from bot.forum.groups import Groups
from bot.forum.pauses import Step
from bot.forum.posting import Poster
from bot.forum.records import ForumTopic
from bot.forum.text import buttons, icon, title
from bot.forum.topics import ForumTopics
from bot.forum.words import words
from bot.work import Sessions
from handoff import desk as conversations
from handoff.lifecycle import LIVE
from handoff.records import Ticket

log = structlog.get_logger()


class Looks:
    def __init__(self, *, poster: Poster, topics: ForumTopics, groups: Groups, sessions: Sessions, lang: str) -> None:
        self._poster = poster
        self._api = poster.api
        self._topics = topics
        self._groups = groups
        self._sessions = sessions
        self._lang = lang
        self._icons: Mapping[str, str] | None = None

    async def learn_icons(self) -> None:
        """Once. Without them topics have no pictures."""
        if self._icons is not None:
            return
        try:
            self._icons = await self._api.icons()
        except DeliveryError as error:
            log.warning("forum.no_icons", problem=str(error))

    def _of(self, ticket: Ticket) -> tuple[str, str]:
        """Title and picture. No picture: Telegram has none for it."""
        return (
            title(ticket.id, ticket.status, ticket.subject, self._lang),
            icon(ticket.status, self._icons or {}),
        )

    async def make(self, ticket_id: int) -> None:
        """Make the topic; with less of a title or a picture where Telegram does not take them."""
        await self.learn_icons()
        topic = await self._topics.begin(ticket_id)
        async with self._sessions.reading() as session:
            ticket = await conversations.get_ticket(session, ticket_id)
        name, picture = self._of(ticket)
        plain = title(ticket_id, ticket.status, "", self._lang).rstrip(" ·")
        looks = [(name, picture), *([(name, "")] if picture else []), (plain, "")]
        for number, (name, picture) in enumerate(looks):
            try:
                thread_id = await self._poster.call(topic, partial(self._api.create, topic.group_id, name, picture))
            except DeliveryError as error:
                if not error.permanent or number + 1 == len(looks):
                    raise
            else:
                break
        if number and name != plain:
            self._icons = {}  # it was the picture
        looks_now = {"thread_id": thread_id, "title": name, "icon": picture, "closed": False, "opened": False}
        await self._topics.settle(ticket_id, **looks_now)
        log.info("forum.made", ticket=ticket_id, group=topic.group_id)

    def amiss(self, topic: ForumTopic, ticket: Ticket) -> Step | None:
        """The next thing in which a topic with its packet is not like its ticket. What is refused too often is taken
        for done."""
        key = ("state", ticket.id)
        live, home = ticket.status in LIVE, self._groups.home(ticket)
        if live and home is not None and home != topic.group_id:
            move_on = partial(self._topics.move_on, ticket.id, home)
            return Step(key, partial(self._leave, ticket.id, home), move_on)
        name, picture = self._of(ticket)
        wanted: dict[str, Any]
        if live and topic.closed:
            do, wanted = partial(self._set_closed, ticket.id, closed=False), {"closed": False}
        elif topic.title != name or (picture and topic.icon != picture):
            picture = picture or topic.icon
            do, wanted = partial(self._rename, ticket.id, name, picture), {"title": name, "icon": picture}
        elif topic.card_live is not live:
            do, wanted = partial(self._put_buttons, ticket.id, live=live), {"card_live": live}
        elif not live and not topic.closed:
            do, wanted = partial(self._set_closed, ticket.id, closed=True), {"closed": True}
        else:
            return None
        return Step(key, do, partial(self._topics.settle, ticket.id, **wanted))

    async def _rename(self, ticket_id: int, name: str, picture: str) -> None:
        topic = await self._topics.begin(ticket_id)
        rename = partial(self._api.rename, topic.group_id, topic.thread_id or 0, name, picture)
        await self._poster.call(topic, rename)
        await self._topics.settle(ticket_id, title=name, icon=picture)

    async def _put_buttons(self, ticket_id: int, *, live: bool) -> None:
        topic = await self._topics.begin(ticket_id)
        post = await self._topics.packet_of(topic)
        if post is not None:
            try:
                put = partial(
                    self._api.put_buttons, post.group_id, post.telegram_id, buttons(ticket_id, live, self._lang)
                )
                await self._poster.call(topic, put)
            except DeliveryError as error:
                if not error.permanent:  # else the packet was deleted there
                    raise
        await self._topics.settle(ticket_id, card_live=live)

    async def _set_closed(self, ticket_id: int, *, closed: bool) -> None:
        topic = await self._topics.begin(ticket_id)
        call = self._api.close if closed else self._api.reopen
        await self._poster.call(topic, partial(call, topic.group_id, topic.thread_id or 0))
        await self._topics.settle(ticket_id, closed=closed)

    async def _leave(self, ticket_id: int, home: int) -> None:
        """Another team has it, whose group is another: a topic there, and a word here, if it can be said."""
        topic = await self._topics.begin(ticket_id)
        try:
            await self._poster.say(topic, Italic(words("moved_on", self._lang)))
            await self._poster.wait_for_place(topic.group_id)
            await self._poster.call(topic, partial(self._api.close, topic.group_id, topic.thread_id or 0))
        except DeliveryError as error:
            if not error.permanent and not isinstance(error, GroupRefusedError):
                raise
            log.warning("forum.left_silently", ticket=ticket_id, problem=str(error))
        await self._topics.move_on(ticket_id, home)
