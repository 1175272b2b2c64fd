"""Groups with topics for the stand-in of the Bot API, with Telegram's limits and the words of its refusals: 20 messages
a minute to a group, titles of 128 characters, pictures of topics from its own list, topics that are closed or gone."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from aiohttp import web
from bot_api import BotApi, refused, succeeded

BOT = {"id": 42, "is_bot": True, "first_name": "Otvet", "username": "otvet_bot"}
A_MINUTE = 20
MAX_TITLE_CHARS = 128
_ICONS = ("❗️", "📝", "💬", "📆", "❓", "✅", "📁", "🔥", "🏁")
ICONS = {emoji: str(5_000 + number) for number, emoji in enumerate(_ICONS)}
REACTIONS = frozenset(["👍", "👎", "❤", "🔥", "👌", "✍", "🎉", "😁", "😢", "🙏", "👀"])


@dataclass
class Topic:
    title: str
    icon: str
    closed: bool = False
    gone: bool = False
    renamed: int = 0


@dataclass
class Written:
    """A message in a group."""

    number: int
    thread: int | None
    sender: int
    text: str
    form: dict[str, Any] = field(default_factory=dict)
    kind: str = "text"
    reply_to: int | None = None
    reaction: str = ""
    edits: int = 0

    @property
    def buttons(self) -> dict[str, str]:
        """Label → data."""
        rows = (self.form.get("reply_markup") or {}).get("inline_keyboard", [])
        return {button["text"]: button["callback_data"] for row in rows for button in row}


class Group:
    """One group, as its members see it."""

    def __init__(self, group_id: int) -> None:
        self.id = group_id
        self.topics: dict[int, Topic] = {}
        self.messages: dict[int, Written] = {}
        self.is_forum, self.is_admin, self.kicked = True, True, False
        self.moments: list[float] = []
        self.refusals: list[web.Response] = []
        """What the next calls that write are answered."""
        self.astray: set[int] = set()
        """Topics that were just deleted: what is for them lands in the general one, and all seems well."""
        self.lost = 0
        """So many next messages are put down, but their answers get lost on the way."""
        self.numbers = count(1)
        self.written = 0
        """Calls that count towards the minute's messages."""

    def of(self, thread: int) -> list[Written]:
        return [each for each in self.messages.values() if each.thread == thread]

    def topic_of(self, ticket_id: int) -> int:
        """The newest topic of a ticket that is there."""
        return max(
            thread
            for thread, topic in self.topics.items()
            if topic.title.startswith(f"№ {ticket_id} ") and not topic.gone and thread not in self.astray
        )


class ForumBotApi(BotApi):
    """seconds: how long the stand-in's minute is."""

    def __init__(self) -> None:
        super().__init__()
        self.groups: dict[int, Group] = {}
        self.minute_seconds = 60.0
        self.toasts: list[str] = []
        self.most_a_minute = 0
        self._updates = count(1_000_000)

    def group(self, group_id: int) -> Group:
        return self.groups.setdefault(group_id, Group(group_id))

    # What people do

    async def says(
        self, group_id: int, thread: int | None, text: str, *, sender: int = 501, name: str = "Olga", **more: Any
    ) -> int:
        """Somebody writes in a topic; the number of his message."""
        group = self.group(group_id)
        number = next(group.numbers)
        message: dict[str, Any] = {
            "message_id": number,
            "date": 1_770_000_000,
            "chat": self._chat(group),
            "from": {"id": sender, "is_bot": False, "first_name": name, "language_code": "en"},
            **({"text": text} if text and not more.get("caption") else {}),
            **more,
        }
        if thread is not None:
            message |= {"message_thread_id": thread, "is_topic_message": True}
            # Whatever is written in a topic answers the message that made it, if nothing else.
            message.setdefault("reply_to_message", {"message_id": thread, "forum_topic_created": {}})
        if text.startswith("/") and not text.startswith("//"):
            message["entities"] = [{"type": "bot_command", "offset": 0, "length": len(text.split()[0])}]
        group.messages[number] = Written(number, thread, sender, text)
        await self.put({"update_id": next(self._updates), "message": message})
        return number

    async def edits(self, group_id: int, number: int, text: str, *, sender: int = 501) -> None:
        group = self.group(group_id)
        written = group.messages[number]
        written.text = text
        message = {
            "message_id": number,
            "date": 1_770_000_000,
            "edit_date": 1_770_000_001,
            "chat": self._chat(group),
            "from": {"id": sender, "is_bot": False, "first_name": "Olga"},
            "message_thread_id": written.thread,
            "is_topic_message": True,
            "text": text,
        }
        await self.put({"update_id": next(self._updates), "edited_message": message})

    async def presses(self, group_id: int, written: Written, label: str, *, sender: int = 501) -> None:
        """Somebody presses the button whose label holds this."""
        data = next(data for text, data in written.buttons.items() if label in text)
        group = self.group(group_id)
        query = {
            "id": f"q{next(self._updates)}",
            "from": {"id": sender, "is_bot": False, "first_name": "Olga", "language_code": "en"},
            "chat_instance": "1",
            "data": data,
            "message": {
                "message_id": written.number,
                "date": 1_770_000_000,
                "chat": self._chat(group),
                "message_thread_id": written.thread,
                "is_topic_message": True,
            },
        }
        await self.put({"update_id": next(self._updates), "callback_query": query})

    async def reacts(self, group_id: int, number: int, emoji: str, *, sender: int = 501) -> None:
        reaction = {
            "chat": self._chat(self.group(group_id)),
            "message_id": number,
            "user": {"id": sender, "is_bot": False, "first_name": "Olga"},
            "date": 1_770_000_000,
            "old_reaction": [],
            "new_reaction": [{"type": "emoji", "emoji": emoji}] if emoji else [],
        }
        await self.put({"update_id": next(self._updates), "message_reaction": reaction})

    async def in_private(self, text: str, *, sender: int = 501, name: str = "Olga") -> None:
        message = {
            "message_id": next(self._updates),
            "date": 1_770_000_000,
            "chat": {"id": sender, "type": "private"},
            "from": {"id": sender, "is_bot": False, "first_name": name, "language_code": "en"},
            "text": text,
        }
        await self.put({"update_id": next(self._updates), "message": message})

    # What the bot calls

    async def _createForumTopic(self, form: dict[str, Any]) -> web.Response:  # noqa: N802
        group = self.groups.get(form["chat_id"])
        if (refusal := self._no(group, manages=True)) is not None:
            return refusal
        assert group is not None
        name, icon = str(form["name"]), str(form.get("icon_custom_emoji_id", ""))
        if not 1 <= _units(name) <= MAX_TITLE_CHARS:
            return refused(400, "Bad Request: TOPIC_TITLE_INVALID")
        if icon and icon not in ICONS.values():
            return refused(400, "Bad Request: DOCUMENT_INVALID")
        if (refusal := self._paced(group)) is not None:
            return refusal
        thread = next(group.numbers)
        group.topics[thread] = Topic(name, icon)
        answer = {"message_thread_id": thread, "name": name, "icon_color": 7322096}
        return succeeded(answer | ({"icon_custom_emoji_id": icon} if icon else {}))

    async def _editForumTopic(self, form: dict[str, Any]) -> web.Response:  # noqa: N802
        name, icon = str(form.get("name", "")), str(form.get("icon_custom_emoji_id", ""))
        found = self._topic(form)
        if isinstance(found, web.Response):
            return found
        group, topic = found
        if _units(name) > MAX_TITLE_CHARS:
            return refused(400, "Bad Request: TOPIC_TITLE_INVALID")
        if icon and icon not in ICONS.values():
            return refused(400, "Bad Request: DOCUMENT_INVALID")
        if (topic.title, topic.icon) == (name, icon or topic.icon):
            return refused(400, "Bad Request: TOPIC_NOT_MODIFIED")
        if (refusal := self._paced(group)) is not None:
            return refusal
        next(group.numbers)
        topic.title, topic.icon, topic.renamed = name, icon or topic.icon, topic.renamed + 1
        return succeeded(True)

    async def _closeForumTopic(self, form: dict[str, Any]) -> web.Response:  # noqa: N802
        return self._set_closed(form, closed=True)

    async def _reopenForumTopic(self, form: dict[str, Any]) -> web.Response:  # noqa: N802
        return self._set_closed(form, closed=False)

    async def _deleteForumTopic(self, form: dict[str, Any]) -> web.Response:  # noqa: N802
        found = self._topic(form)
        if isinstance(found, web.Response):
            return found
        group, topic = found
        topic.gone = True
        for number in [number for number, each in group.messages.items() if each.thread == form["message_thread_id"]]:
            del group.messages[number]
        return succeeded(True)

    def _set_closed(self, form: dict[str, Any], *, closed: bool) -> web.Response:
        found = self._topic(form)
        if isinstance(found, web.Response):
            return found
        group, topic = found
        if topic.closed is closed:
            return refused(400, "Bad Request: TOPIC_NOT_MODIFIED")
        if (refusal := self._paced(group)) is not None:
            return refusal
        next(group.numbers)
        topic.closed = closed
        return succeeded(True)

    def _topic(self, form: dict[str, Any]) -> tuple[Group, Topic] | web.Response:
        group = self.groups.get(form["chat_id"])
        if (refusal := self._no(group, manages=True)) is not None:
            return refusal
        assert group is not None
        topic = group.topics.get(form["message_thread_id"])
        if topic is None or topic.gone:
            return refused(400, "Bad Request: TOPIC_ID_INVALID")
        return group, topic

    async def _getForumTopicIconStickers(self, form: dict[str, Any]) -> web.Response:  # noqa: N802
        return succeeded(
            [
                {
                    "file_id": f"s{number}",
                    "file_unique_id": f"s{number}",
                    "type": "custom_emoji",
                    "width": 100,
                    "height": 100,
                    "is_animated": True,
                    "is_video": False,
                    "emoji": emoji,
                    "custom_emoji_id": number,
                }
                for emoji, number in ICONS.items()
            ]
        )

    async def _sendMediaGroup(self, form: dict[str, Any]) -> web.Response:  # noqa: N802
        if form["chat_id"] > 0:
            return await super()._sendMediaGroup(form)
        group, media = self.groups.get(form["chat_id"]), form["media"]
        if not 2 <= len(media) <= 10:
            return refused(400, "Bad Request: wrong number of media")
        if (refusal := self._room(form, len(media))) is not None:
            return refusal
        assert group is not None
        written = []
        for item in media:
            source = str(item["media"])
            content: Any = form.get(source.removeprefix("attach://")) if source.startswith("attach://") else None
            if isinstance(content, web.FileField):
                self.uploads += 1
                self.files[f"{item['type']}-{self.uploads}"] = content.file.read()
            elif source not in self.files:
                return refused(400, "Bad Request: wrong file identifier/HTTP URL specified")
            row = {"album": True, "chat_id": form["chat_id"]}
            written.append(self._write(group, form, str(item.get("caption", "")), item["type"], row))
        return succeeded([self._told(group, each) for each in written])

    async def _setMessageReaction(self, form: dict[str, Any]) -> web.Response:  # noqa: N802
        group = self.groups.get(form["chat_id"])
        emoji = next((each["emoji"] for each in form.get("reaction", [])), "")
        if emoji and emoji not in REACTIONS:
            return refused(400, "Bad Request: REACTION_INVALID")
        if group is None:
            self.calls.append(("setMessageReaction", form))
            return succeeded(True)
        written = group.messages.get(form["message_id"])
        if written is None:
            return refused(400, "Bad Request: message to react not found")
        written.reaction = emoji
        return succeeded(True)

    async def _deleteMessage(self, form: dict[str, Any]) -> web.Response:  # noqa: N802
        self.groups[form["chat_id"]].messages.pop(form["message_id"], None)
        return succeeded(True)

    async def _editMessageReplyMarkup(self, form: dict[str, Any]) -> web.Response:  # noqa: N802
        group = self.groups.get(form["chat_id"])
        if group is None:
            self.calls.append(("editMessageReplyMarkup", form))
            return succeeded(True)
        written = group.messages.get(form["message_id"])
        if written is None:
            return refused(400, "Bad Request: message to edit not found")
        written.form["reply_markup"] = form.get("reply_markup")
        return succeeded(self._told(group, written))

    async def _answerCallbackQuery(self, form: dict[str, Any]) -> web.Response:  # noqa: N802
        self.toasts.append(str(form.get("text", "")))
        return succeeded(True)

    async def _getMe(self, form: dict[str, Any]) -> web.Response:  # noqa: N802
        return succeeded(BOT)

    async def _getChat(self, form: dict[str, Any]) -> web.Response:  # noqa: N802
        group = self.groups.get(form["chat_id"])
        if group is None:
            return refused(400, "Bad Request: chat not found")
        if group.kicked:
            return refused(403, "Forbidden: bot was kicked from the supergroup chat")
        chat = {**self._chat(group), "is_forum": group.is_forum, "accent_color_id": 1, "max_reaction_count": 11}
        return succeeded({**chat, "accepted_gift_types": _GIFTS, "permissions": {}})

    async def _getChatMember(self, form: dict[str, Any]) -> web.Response:  # noqa: N802
        group = self.groups[form["chat_id"]]
        if not group.is_admin:
            return succeeded({"status": "member", "user": BOT})
        rights = dict.fromkeys(_RIGHTS, True)
        return succeeded({"status": "administrator", "user": BOT, **rights})

    # What all writing goes through

    def _refusal(self, form: dict[str, Any]) -> web.Response | None:
        if form["chat_id"] > 0:
            return super()._refusal(form)
        return self._room(form, 1)

    def _room(self, form: dict[str, Any], messages: int) -> web.Response | None:
        """Why this many messages can't be put where they are to go."""
        group = self.groups.get(form["chat_id"])
        if (refusal := self._no(group)) is not None:
            return refusal
        assert group is not None
        thread = form.get("message_thread_id")
        if thread is not None:
            topic = group.topics.get(thread)
            if topic is None or topic.gone:
                return refused(400, "Bad Request: message thread not found")
            if topic.closed:
                return refused(400, "Bad Request: TOPIC_CLOSED")
        return self._paced(group, messages)

    def _no(self, group: Group | None, *, manages: bool = False) -> web.Response | None:
        if group is None:
            return refused(400, "Bad Request: chat not found")
        if group.kicked:
            return refused(403, "Forbidden: bot was kicked from the supergroup chat")
        if manages and not group.is_forum:
            return refused(400, "Bad Request: the chat is not a forum")
        if manages and not group.is_admin:
            return refused(400, "Bad Request: not enough rights to manage topics")
        return group.refusals.pop(0) if group.refusals else None

    def _paced(self, group: Group, messages: int = 1) -> web.Response | None:
        now = asyncio.get_running_loop().time()
        group.moments = [moment for moment in group.moments if now - moment < self.minute_seconds]
        if len(group.moments) + messages > A_MINUTE:
            self.violations.append(f"{group.id}: {len(group.moments) + messages} in a minute")
            seconds = max(1, round(self.minute_seconds - (now - group.moments[0])))
            return refused(429, f"Too Many Requests: retry after {seconds}", retry_after=seconds)
        group.moments += [now] * messages
        group.written += messages
        self.most_a_minute = max(self.most_a_minute, len(group.moments))
        return None

    def _taken(self, form: dict[str, Any], **content: Any) -> web.Response:
        if form["chat_id"] > 0:
            return super()._taken(form, **content)
        group = self.groups[form["chat_id"]]
        kind = next((each for each in ("photo", "video", "document", "audio", "voice") if each in form), "text")
        written = self._write(group, form, str(form.get("text", form.get("caption") or "")), kind, form)
        if group.lost:
            group.lost -= 1
            return web.Response(status=502, text="Bad Gateway")
        return succeeded(self._told(group, written) | {key: value for key, value in content.items() if value})

    def _write(self, group: Group, form: dict[str, Any], text: str, kind: str, kept: dict[str, Any]) -> Written:
        number = next(group.numbers)
        if form.get("message_thread_id") in group.astray:
            form = {key: value for key, value in form.items() if key != "message_thread_id"}
            kept = {key: value for key, value in kept.items() if key != "message_thread_id"}
        reply = (form.get("reply_parameters") or {}).get("message_id")
        written = Written(number, form.get("message_thread_id"), BOT["id"], text, dict(kept), kind, reply)  # type: ignore[arg-type]
        group.messages[number] = written
        return written

    def _edited(self, form: dict[str, Any], field: str, limit: int) -> web.Response:
        group = self.groups.get(form["chat_id"])
        if group is None:
            return super()._edited(form, field, limit)
        written = group.messages.get(form["message_id"])
        if written is None or written.sender != BOT["id"]:
            return refused(
                400, "Bad Request: message can't be edited" if written else "Bad Request: message to edit not found"
            )
        text = str(form[field])
        if _units(text) > limit:
            return refused(400, "Bad Request: MESSAGE_TOO_LONG")
        if text == written.text:
            return refused(400, "Bad Request: message is not modified")
        if (refusal := self._paced(group)) is not None:
            return refusal
        written.text, written.edits = text, written.edits + 1
        return succeeded(self._told(group, written))

    def _told(self, group: Group, written: Written) -> dict[str, Any]:
        told = {"message_id": written.number, "date": 1, "chat": self._chat(group), "text": written.text}
        if written.thread is not None:
            told |= {"message_thread_id": written.thread, "is_topic_message": True}
        return told

    def _chat(self, group: Group) -> dict[str, Any]:
        return {"id": group.id, "type": "supergroup", "title": "Support", "is_forum": group.is_forum}


_RIGHTS = (
    *("can_be_edited", "is_anonymous", "can_manage_chat", "can_delete_messages", "can_manage_video_chats"),
    *("can_restrict_members", "can_promote_members", "can_change_info", "can_invite_users", "can_post_stories"),
    *("can_edit_stories", "can_delete_stories", "can_manage_topics"),
)
_GIFTS = dict.fromkeys(
    ["unlimited_gifts", "limited_gifts", "unique_gifts", "premium_subscription", "gifts_from_channels"], False
)


def _units(text: str) -> int:
    return len(text.encode("utf-16-le")) // 2
