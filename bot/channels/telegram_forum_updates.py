"""What people do in the agents' groups, out of Telegram's updates. Pure, as `telegram_updates` is."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from aiogram.types import MessageEntity
from aiogram.utils.text_decorations import TextDecoration
from pydantic import ValidationError

from bot.channels.base import InboundAttachment
from bot.channels.telegram_updates import MAX_QUOTE_CHARS, attachment_of, external_id, person_name, storable

ANONYMOUS = 1087968824
"""@GroupAnonymousBot: whoever writes as the group itself."""
LINKS = ("/link", "/start")


@dataclass(frozen=True)
class Deed:
    """One thing that somebody did."""

    kind: str
    """message, edit, press, reaction, closed, reopened, or link (in private)."""
    external_id: str
    group_id: int
    thread_id: int | None
    """None: in the general topic, or Telegram does not tell."""
    telegram_id: int
    """Of the message that he wrote, pressed or reacted to."""
    person_id: int
    person: str
    text: str = ""
    """In light Markdown; the emoji of a reaction; the code of a link."""
    files: tuple[InboundAttachment, ...] = ()
    album: str | None = None
    reply_to: int | None = None
    quote: str = ""
    """The part of the message that he answers, if he chose one."""
    command: str = ""
    arguments: str = ""
    data: str = ""
    callback_id: str = ""
    lang: str | None = None
    at: datetime | None = None


def chat_of(update: Any) -> int | None:
    """The chat in which something happened."""
    if not isinstance(update, dict):
        return None
    for event in update.values():
        if isinstance(event, dict):
            inner = event.get("message")
            for holder in (event.get("chat"), inner.get("chat") if isinstance(inner, dict) else None):
                if isinstance(holder, dict) and isinstance(holder.get("id"), int):
                    return int(holder["id"])
    return None


def is_link(update: Any) -> bool:
    """Whether somebody in private sends a code by which he is known."""
    message = update.get("message") if isinstance(update, dict) else None
    text = message.get("text") if isinstance(message, dict) else None
    if not isinstance(text, str) or (message or {}).get("chat", {}).get("type") != "private":
        return False
    command, _, rest = text.partition(" ")
    return command == "/link" or (command == "/start" and rest.startswith("link_"))


def parse(update: Any, *, account: str, groups: Collection[int]) -> Deed | None:
    """What somebody did; None for what concerns nobody: service messages, other bots, unreadable updates."""
    update = storable(update)
    if not isinstance(update, dict):
        return None
    try:
        if is_link(update):
            return _link(update)
        if chat_of(update) not in groups:
            return None
        if "callback_query" in update:
            return _press(update)
        if "message_reaction" in update:
            return _reaction(update)
        for field, kind in (("message", "message"), ("edited_message", "edit")):
            if field in update:
                return _message(update, update[field], kind, account)
    except (KeyError, TypeError, ValueError, AttributeError, ValidationError):
        return None
    return None


def _link(update: Mapping[str, Any]) -> Deed:
    message = update["message"]
    sender = message["from"]
    code = str(message["text"]).partition(" ")[2].strip().removeprefix("link_")
    number = int(message["message_id"])
    return Deed(
        "link",
        external_id(update, str(number), "link"),
        int(message["chat"]["id"]),
        None,
        number,
        int(sender["id"]),
        person_name(sender),
        text=code[:64],
        lang=_lang(sender),
    )


def _press(update: Mapping[str, Any]) -> Deed | None:
    query = update["callback_query"]
    message, sender = query.get("message") or {}, query["from"]
    return Deed(
        "press",
        external_id(update, str(query["id"])),
        int(message["chat"]["id"]),
        _thread(message),
        int(message["message_id"]),
        int(sender["id"]),
        person_name(sender),
        data=str(query.get("data") or ""),
        callback_id=str(query["id"]),
        lang=_lang(sender),
    )


def _reaction(update: Mapping[str, Any]) -> Deed | None:
    reacted = update["message_reaction"]
    sender = reacted.get("user")
    if not isinstance(sender, dict) or sender.get("is_bot"):
        return None
    emoji = [item.get("emoji") for item in reacted.get("new_reaction", []) if isinstance(item, dict)]
    number = int(reacted["message_id"])
    return Deed(
        "reaction",
        external_id(update, str(number), "reaction"),
        int(reacted["chat"]["id"]),
        None,
        number,
        int(sender["id"]),
        person_name(sender),
        text=next((each for each in reversed(emoji) if isinstance(each, str)), ""),
        lang=_lang(sender),
    )


def _message(update: Mapping[str, Any], raw: Mapping[str, Any], kind: str, account: str) -> Deed | None:
    sender = raw.get("from") or {}
    group, number = int(raw["chat"]["id"]), int(raw["message_id"])
    anonymous = isinstance(raw.get("sender_chat"), dict) and raw["sender_chat"].get("id") == group
    if sender.get("is_bot") and not anonymous:
        return None
    for field, meaning in (("forum_topic_closed", "closed"), ("forum_topic_reopened", "reopened")):
        if field in raw:
            kind = meaning
    text = raw.get("text") or raw.get("caption") or ""
    file = attachment_of(raw, account) if kind in ("message", "edit") else None
    if kind == "message" and not text and file is None and not anonymous:
        return None  # the group's own news
    entities = raw.get("entities") or raw.get("caption_entities") or []
    command, arguments = _command(str(text), entities)
    answered = raw.get("reply_to_message")
    reply_to = answered.get("message_id") if isinstance(answered, dict) else None
    thread = _thread(raw)
    if reply_to == thread or (isinstance(answered, dict) and "forum_topic_created" in answered):
        reply_to = None  # whatever is written in a topic "answers" the message that made it
    quote = raw.get("quote")
    return Deed(
        kind,
        external_id(update, str(number), "edited" if kind == "edit" else ""),
        group,
        thread,
        number,
        ANONYMOUS if anonymous else int(sender["id"]),
        person_name(sender),
        text=light(str(text), entities),
        files=(file,) if file is not None else (),
        album=str(raw["media_group_id"]) if raw.get("media_group_id") else None,
        reply_to=reply_to if isinstance(reply_to, int) else None,
        quote=str(quote.get("text") or "")[:MAX_QUOTE_CHARS] if isinstance(quote, dict) else "",
        command=command,
        arguments=arguments,
        lang=_lang(sender),
    )


def _thread(message: Mapping[str, Any]) -> int | None:
    thread = message.get("message_thread_id")
    return thread if isinstance(thread, int) and message.get("is_topic_message") is True else None


def _lang(sender: Mapping[str, Any]) -> str | None:
    code = str(sender.get("language_code") or "").split("-")[0].lower()
    return code if len(code) == 2 else None


def _command(text: str, entities: Any) -> tuple[str, str]:
    """`/take@our_bot now` → (take, now)."""
    if not text.startswith("/") or text.startswith("//"):
        return "", ""
    if not any(
        isinstance(each, dict) and each.get("type") == "bot_command" and each.get("offset") == 0 for each in entities
    ):
        return "", ""
    head, _, rest = text.partition("\n") if "\n" in text.split(" ")[0] else text.partition(" ")
    return head[1:].split("@")[0].lower(), rest.strip()


class _Light(TextDecoration):
    """Telegram's markup as our light Markdown; what that has no sign for stays as it is read."""

    def link(self, value: str, link: str) -> str:
        return value if link.startswith("tg://") else f"[{value}]({link})"

    def bold(self, value: str) -> str:
        return f"**{value}**" if value.strip() == value and value else value

    def code(self, value: str) -> str:
        return f"`{value}`" if "`" not in value else value

    def pre(self, value: str) -> str:
        return f"```\n{value}\n```"

    def pre_language(self, value: str, language: str) -> str:
        return self.pre(value)

    def blockquote(self, value: str) -> str:
        return "\n".join(f"> {line}" for line in value.splitlines())

    expandable_blockquote = blockquote

    def quote(self, value: str) -> str:
        return value

    def italic(self, value: str) -> str:
        return value

    underline = strikethrough = spoiler = italic

    def custom_emoji(self, value: str, custom_emoji_id: str) -> str:
        return value

    def date_time(self, value: str, unix_time: int | datetime, date_time_format: str | None = None) -> str:
        return value


def light(text: str, entities: Any) -> str:
    """The text with its markup in light Markdown; as it is where the markup can't be read."""
    try:
        found = [MessageEntity.model_validate(each) for each in entities]
        return _Light().unparse(text, found) if found else text
    except (ValidationError, TypeError, ValueError, UnicodeError):
        return text
