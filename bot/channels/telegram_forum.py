"""Calls of the Bot API for a group whose chats are topics."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from aiogram.exceptions import ClientDecodeError, TelegramBadRequest, TelegramForbiddenError, TelegramMigrateToChat
from aiogram.methods import (
    CreateForumTopic,
    EditForumTopic,
    EditMessageCaption,
    EditMessageText,
    SendMessage,
    TelegramMethod,
)
from aiogram.types import (
    BotCommand,
    BotCommandScopeChat,
    InlineKeyboardButton,
    InlineKeyboardMarkup,
    LinkPreviewOptions,
    Message,
    ReactionTypeEmoji,
    ReplyParameters,
)
from aiogram.utils.formatting import Text

from bot.channels.base import Address, InboundAttachment, OutboundAttachment
from bot.channels.telegram import MAX_CAPTION_UNITS, TelegramChannel
from bot.channels.telegram_calls import FILE_METHODS, REQUEST_SECONDS, Upload, delivery_errors, send, send_album
from bot.channels.telegram_text import MAX_UNITS
from bot.channels.telegram_updates import CHANNEL
from bot.errors import DeliveryError, GroupRefusedError, TopicClosedError, TopicGoneError

T = TypeVar("T")
MAX_TITLE_CHARS = 128
Buttons = Sequence[Sequence[tuple[str, str]]]
"""Rows of (label, data)."""
_GONE = ("thread not found", "topic_deleted", "topic_id_invalid", "topic_not_found")
_CLOSED = ("topic_closed",)
_GROUP = (
    *("chat not found", "not a forum", "rights", "chat_admin_required", "chat_write_forbidden", "forbidden"),
    *("topics_limit", "chat_restricted", "channel_forum_missing", "method is available"),
)
"""Parts of refusals that have the topic, or the whole group, for their reason."""


@dataclass(frozen=True)
class GroupState:
    title: str
    is_forum: bool
    is_admin: bool
    manages_topics: bool


@dataclass(frozen=True)
class Sent:
    telegram_id: int
    thread_id: int | None
    """Where it really is. Of a topic that was just deleted, Telegram has put messages into the general one."""


class _GetRawChat(TelegramMethod[dict[str, Any]]):
    """getChat without aiogram's parse, which refuses a chat for a field that nobody needs."""

    __returning__ = dict[str, Any]
    __api_method__ = "getChat"

    chat_id: int


class _GetRawMember(TelegramMethod[dict[str, Any]]):
    __returning__ = dict[str, Any]
    __api_method__ = "getChatMember"

    chat_id: int
    user_id: int


class ForumApi:
    """One bot in the agents' groups. Every method raises DeliveryError: TopicGoneError, TopicClosedError and
    GroupRefusedError where the topic or the group is the reason."""

    max_units = MAX_UNITS
    max_caption_units = MAX_CAPTION_UNITS

    def __init__(self, channel: TelegramChannel, account: str = "") -> None:
        """account: the bot's id; empty: the channel's first."""
        self.account = account or channel.accounts[0]
        self._channel = channel
        self._bot = channel.bot(self.account)

    def address(self, group_id: int, thread_id: int | None = None) -> Address:
        return Address(CHANNEL, self.account, f"{group_id}#{thread_id}" if thread_id else str(group_id))

    async def icons(self) -> Mapping[str, str]:
        """The pictures that a topic may have: emoji → id."""
        with delivery_errors():
            found = await self._bot.get_forum_topic_icon_stickers(request_timeout=REQUEST_SECONDS)
        return {each.emoji: each.custom_emoji_id for each in found if each.emoji and each.custom_emoji_id}

    async def create(self, group_id: int, title: str, icon: str) -> int:
        """The id of a new topic. icon: of `icons`; empty: Telegram's own."""
        method = CreateForumTopic(chat_id=group_id, name=title, icon_custom_emoji_id=icon or None)
        with _topic_errors(), delivery_errors():
            try:
                return int((await self._bot(method, request_timeout=REQUEST_SECONDS)).message_thread_id)
            except ClientDecodeError as error:
                match error.data:
                    case {"ok": True, "result": {"message_thread_id": int(found)}}:
                        return found
                raise

    async def rename(self, group_id: int, thread_id: int, title: str, icon: str) -> None:
        """To repeat it does no harm."""
        method = EditForumTopic(
            chat_id=group_id, message_thread_id=thread_id, name=title, icon_custom_emoji_id=icon or None
        )
        await self._do(self._bot(method, request_timeout=REQUEST_SECONDS))

    async def close(self, group_id: int, thread_id: int) -> None:
        await self._do(self._bot.close_forum_topic(group_id, thread_id, request_timeout=REQUEST_SECONDS))

    async def reopen(self, group_id: int, thread_id: int) -> None:
        await self._do(self._bot.reopen_forum_topic(group_id, thread_id, request_timeout=REQUEST_SECONDS))

    async def delete(self, group_id: int, thread_id: int) -> None:
        """A topic with everything that stands in it."""
        await self._do(self._bot.delete_forum_topic(group_id, thread_id, request_timeout=REQUEST_SECONDS))

    async def say(
        self, group_id: int, thread_id: int | None, text: Text, *, buttons: Buttons = (), reply_to: int | None = None
    ) -> Sent:
        content, entities = text.render()
        method = SendMessage(
            chat_id=group_id,
            message_thread_id=thread_id,
            text=content,
            entities=entities or None,
            parse_mode=None,
            link_preview_options=LinkPreviewOptions(is_disabled=True),
            reply_markup=_keyboard(buttons),
            reply_parameters=_reply(reply_to),
        )
        with _topic_errors(), delivery_errors():
            return _sent(await send(self._bot, method))

    async def put(
        self,
        group_id: int,
        thread_id: int,
        file: OutboundAttachment,
        caption: Text | None,
        reply_to: int | None = None,
    ) -> Sent:
        """Send a file of ours."""
        address = self.address(group_id, thread_id)
        with _topic_errors(), delivery_errors():
            return _sent(await self._channel.send_file(self._bot, address, file, caption, _reply(reply_to)))

    async def pass_on(
        self, group_id: int, thread_id: int, kind: str, handle: str, caption: Text | None, reply_to: int | None = None
    ) -> Sent:
        """Send a file that Telegram has from this bot's customers: also one that is too large for us to fetch."""
        method, field = FILE_METHODS[kind]
        words, entities = caption.render() if caption is not None else (None, None)
        call = method(
            chat_id=group_id,
            message_thread_id=thread_id,
            caption=words,
            caption_entities=entities or None,
            parse_mode=None,
            reply_parameters=_reply(reply_to),
            **{field: handle},
        )
        with _topic_errors(), delivery_errors():
            return _sent(await send(self._bot, call))

    async def album(
        self, group_id: int, thread_id: int, files: Sequence[OutboundAttachment | tuple[str, str]], caption: Text | None
    ) -> list[Sent]:
        """Send 2 to 10 photos and videos as one: ours, or (kind, handle) of what Telegram has."""
        media = [file if isinstance(file, tuple) else (file.kind, Upload(file.path, file.file_name)) for file in files]
        with _topic_errors(), delivery_errors():
            sent = await send_album(self._bot, media, caption, chat_id=group_id, message_thread_id=thread_id)
            return [_sent(each) for each in sent]

    async def change(
        self, group_id: int, telegram_id: int, text: Text, *, caption: bool = False, buttons: Buttons = ()
    ) -> None:
        content, entities = text.render()
        method: TelegramMethod[Message | bool]
        common: dict[str, Any] = {"chat_id": group_id, "message_id": telegram_id, "parse_mode": None}
        if caption:
            method = EditMessageCaption(**common, caption=content, caption_entities=entities or None)
        else:
            method = EditMessageText(
                **common,
                text=content,
                entities=entities or None,
                link_preview_options=LinkPreviewOptions(is_disabled=True),
                reply_markup=_keyboard(buttons),
            )
        await self._do(self._bot(method, request_timeout=REQUEST_SECONDS))

    async def put_buttons(self, group_id: int, telegram_id: int, buttons: Buttons) -> None:
        await self._do(
            self._bot.edit_message_reply_markup(
                chat_id=group_id,
                message_id=telegram_id,
                reply_markup=_keyboard(buttons) or InlineKeyboardMarkup(inline_keyboard=[]),
                request_timeout=REQUEST_SECONDS,
            )
        )

    async def react(self, group_id: int, telegram_id: int, emoji: str) -> None:
        """emoji: one of those that Telegram knows as reactions; empty: take ours away."""
        await self._do(
            self._bot.set_message_reaction(
                group_id,
                telegram_id,
                [ReactionTypeEmoji(emoji=emoji)] if emoji else [],
                request_timeout=REQUEST_SECONDS,
            )
        )

    async def remove(self, group_id: int, telegram_id: int) -> None:
        await self._do(self._bot.delete_message(group_id, telegram_id, request_timeout=REQUEST_SECONDS))

    async def toast(self, callback_id: str, text: str, *, alert: bool = False) -> None:
        """Answer a pressed button. A courtesy: never raises."""
        with contextlib.suppress(DeliveryError), delivery_errors():
            await self._bot.answer_callback_query(
                callback_id, text=text[:200] or None, show_alert=alert, request_timeout=REQUEST_SECONDS
            )

    async def set_commands(self, group_id: int, commands: Mapping[str, str]) -> None:
        rows = [BotCommand(command=name, description=words) for name, words in commands.items()]
        await self._do(
            self._bot.set_my_commands(rows, BotCommandScopeChat(chat_id=group_id), request_timeout=REQUEST_SECONDS)
        )

    async def state(self, group_id: int) -> GroupState:
        """What the group allows us."""
        with _topic_errors(), delivery_errors():
            chat = await self._bot(_GetRawChat(chat_id=group_id), request_timeout=REQUEST_SECONDS)
            member = await self._bot(
                _GetRawMember(chat_id=group_id, user_id=self._bot.id), request_timeout=REQUEST_SECONDS
            )
        return GroupState(
            title=str(chat.get("title") or group_id),
            is_forum=bool(chat.get("is_forum")),
            is_admin=member.get("status") in ("administrator", "creator"),
            manages_topics=bool(member.get("can_manage_topics")),
        )

    async def username(self) -> str:
        with delivery_errors():
            return (await self._bot.me()).username or ""  # asked once

    def fetch(self, attachment: InboundAttachment) -> Any:
        """The bytes of a file that was sent in a group."""
        return self._channel.fetch(attachment)

    async def shut(self) -> None:
        """Close the connections."""
        await self._channel.close()

    async def _do(self, call: Awaitable[Any]) -> None:
        with _topic_errors(), delivery_errors():
            try:
                await call
            except ClientDecodeError:
                return  # done; the answer has a field that aiogram does not know
            except TelegramBadRequest as error:
                if "not modified" not in error.message.lower() and "topic_not_modified" not in error.message.lower():
                    raise


@contextlib.contextmanager
def _topic_errors() -> Iterator[None]:
    """What Telegram says of topics and groups, told apart by its words: there are no codes for them."""
    try:
        yield
    except DeliveryError as error:
        words, cause = str(error).lower(), error.__cause__
        if not error.permanent:
            raise
        if isinstance(cause, TelegramForbiddenError | TelegramMigrateToChat):
            raise GroupRefusedError(str(error)) from cause
        if any(each in words for each in _GONE):
            raise TopicGoneError(str(error), permanent=True) from cause
        if any(each in words for each in _CLOSED):
            raise TopicClosedError(str(error), permanent=True) from cause
        if any(each in words for each in _GROUP):
            raise GroupRefusedError(str(error)) from cause
        raise


def _sent(message: Mapping[str, Any]) -> Sent:
    thread = message.get("message_thread_id")
    return Sent(int(message["message_id"]), thread if isinstance(thread, int) else None)


def _reply(telegram_id: int | None) -> ReplyParameters | None:
    if telegram_id is None:
        return None
    return ReplyParameters(message_id=telegram_id, allow_sending_without_reply=True)


def _keyboard(buttons: Buttons) -> InlineKeyboardMarkup | None:
    rows = [[InlineKeyboardButton(text=label, callback_data=data) for label, data in row] for row in buttons]
    return InlineKeyboardMarkup(inline_keyboard=rows) if rows else None
