"""Telegram's updates in the assistant's terms. Pure: any JSON value in, a message or None out, never an exception.

Only the fields that are read are described, and everything else may be missing, new or wrong: a message must not be
lost for a field that nobody needs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Annotated, Any

import structlog
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from bot.channels.base import Address, InboundAttachment, InboundMessage

log = structlog.get_logger()

CHANNEL = "telegram"
WANTED_UPDATES = (
    *("message", "edited_message", "callback_query", "message_reaction", "my_chat_member"),
    *("business_connection", "business_message", "edited_business_message", "deleted_business_messages"),
)
CHOSEN_TOKEN = "✓"  # noqa: S105 - data of a button that only shows what was chosen
UNKNOWN_CHAT = "unknown"
_GROUPS = ("group", "supergroup")
MAX_QUOTE_CHARS = 300

_FILES = ("animation", "audio", "document", "photo", "sticker", "video", "video_note", "voice")
"""Fields of a message that hold a file. An animation also comes as a document, so it goes first."""
_FACTS = {"venue": "location", "location": "location", "contact": "contact", "poll": "other", "dice": "other"}
"""Fields that hold no file, and their kinds here. A venue also comes as a location, so it goes first."""
_SERVICE = ("pinned_message", "message_auto_delete_timer_changed", "chat_background_set", "write_access_allowed")
"""What Telegram writes into the chat by itself. The customer said nothing."""

_Id = Annotated[int, Field(ge=-(2**63), lt=2**63)]


class _Payload(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, populate_by_name=True)


class _User(_Payload):
    id: _Id
    first_name: str = ""
    last_name: str | None = None
    username: str | None = None
    language_code: str | None = None


class _Chat(_Payload):
    id: _Id
    type: str


class _Message(_Payload):
    message_id: _Id
    date: AwareDatetime
    chat: _Chat
    sender: _User | None = Field(None, alias="from")
    text: str = ""
    caption: str = ""
    reply_to_message: Any = None
    quote: Any = None
    forward_origin: Any = None
    contact: Any = None
    media_group_id: Any = None
    business_connection_id: str | None = None
    sender_business_bot: Any = None


class _Reacted(_Payload):
    chat: _Chat
    message_id: _Id
    date: AwareDatetime
    user: _User | None = None
    new_reaction: tuple[Any, ...] = ()


class _Deleted(_Payload):
    business_connection_id: str
    chat: _Chat
    message_ids: tuple[_Id, ...]


class _Pressed(_Payload):
    """The message whose button was pressed: of an old one Telegram tells no more than the chat."""

    message_id: _Id | None = None
    chat: _Chat
    reply_markup: Any = None
    business_connection_id: str | None = None


class _Callback(_Payload):
    id: str
    sender: _User = Field(alias="from")
    data: str = ""
    message: _Pressed | None = None


class _File(_Payload):
    file_id: str
    file_unique_id: str | None = None
    file_name: str | None = None
    mime_type: str | None = None
    file_size: int | None = Field(None, ge=0)


class _Member(_Payload):
    status: str


class _Membership(_Payload):
    chat: _Chat
    date: AwareDatetime
    sender: _User | None = Field(None, alias="from")
    new_chat_member: _Member


@dataclass(frozen=True)
class Press:
    """A pressed button, as far as it is needed to stop its clock and to show what was chosen."""

    callback_id: str
    data: str
    chat_id: int | None = None
    message_id: int | None = None
    label: str | None = None
    connection: str | None = None


@dataclass(frozen=True)
class Group:
    """A chat of several people that the bot was added to, or called in."""

    chat_id: int
    lang: str | None


def parse_all(update: Any, *, account: str, now: datetime) -> list[InboundMessage]:
    """As `parse`; an update in which several messages were deleted is several."""
    deleted = update.get("deleted_business_messages") if isinstance(update, dict) else None
    try:
        gone = _Deleted.model_validate(storable(deleted)) if deleted is not None else None
    except ValidationError:
        log.warning("telegram.update_unreadable", update_id=update.get("update_id"), fields=["deleted"])
        return []
    if gone is not None:
        address = Address(CHANNEL, account, _chat(gone.chat, gone.business_connection_id))
        return [
            InboundMessage(
                address, external_id(update, str(number), "deleted"), now, kind="deletion", refers_to=str(number)
            )
            for number in gone.message_ids
        ]
    message = parse(update, account=account, now=now)
    return [message] if message is not None else []


def group_of(update: Any) -> Group | None:
    """The group in which it should be said that nobody is answered there: the bot was added, or a command was
    written. Channels get nothing: there is nobody to talk to."""
    if not isinstance(update, dict):
        return None
    try:
        if "my_chat_member" in update:
            joined = _Membership.model_validate(storable(update["my_chat_member"]))
            added = joined.new_chat_member.status in ("member", "administrator")
            return Group(joined.chat.id, _lang(joined.sender)) if added and joined.chat.type in _GROUPS else None
        if "message" in update:
            message = _Message.model_validate(storable(update["message"]))
            called = message.text.startswith("/")
            return Group(message.chat.id, _lang(message.sender)) if called and message.chat.type in _GROUPS else None
    except ValidationError:
        return None
    return None


def parse(update: Any, *, account: str, now: datetime) -> InboundMessage | None:
    """What the customer did; None where nobody is to be answered (groups, blocking, service messages).

    What can't be understood is `unsupported` with the raw JSON in its attachment. `now` is the time of what
    Telegram gives no time of (a press). An edited text is an `edit` that refers to the message it was.
    """
    update = storable(update)
    if not isinstance(update, dict):
        return _unsupported({"update": update}, account, now)
    try:
        if "message" in update:
            return _from_message(update, update["message"], account)
        if "edited_message" in update:
            return _from_edit(update, update["edited_message"], account)
        if "business_message" in update:
            return _from_business(update, account)
        if "edited_business_message" in update:
            edited = update["edited_business_message"]
            return _from_edit(update, edited, account) if _by_customer(_Message.model_validate(edited)) else None
        if "business_connection" in update:
            log.info("telegram.business_connection", enabled=_text_of(update["business_connection"], "is_enabled"))
            return None
        if "message_reaction" in update:
            return _from_reaction(update, account)
        if "callback_query" in update:
            return _from_callback(update, account, now)
        if "my_chat_member" in update:
            return _from_membership(update, account)
    except ValidationError as error:
        places = [".".join(map(str, item["loc"])) for item in error.errors()]
        log.warning("telegram.update_unreadable", update_id=update.get("update_id"), fields=places[:5])
        return _unsupported(update, account, now)
    if _private_chat(update) is None:
        log.info("telegram.update_ignored", update_id=update.get("update_id"), fields=sorted(update)[:5])
        return None
    return _unsupported(update, account, now)


def press_of(update: Any) -> Press | None:
    """The button that this update says was pressed, if any."""
    try:
        callback = _Callback.model_validate(storable(update)["callback_query"])
    except (ValidationError, KeyError, TypeError):
        return None
    if callback.message is None:
        return Press(callback.id, callback.data)
    return Press(
        callback.id,
        callback.data,
        callback.message.chat.id,
        callback.message.message_id,
        _label(callback.message.reply_markup, callback.data),
        callback.message.business_connection_id,
    )


def storable(value: Any) -> Any:
    """The same JSON without lone surrogates, which neither pydantic nor a database takes."""
    return json.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))


def _from_message(update: Mapping[str, Any], raw: Any, account: str) -> InboundMessage | None:
    message = _Message.model_validate(raw)
    if message.chat.type != "private" or any(name in raw for name in _SERVICE):
        log.info("telegram.message_ignored", update_id=update.get("update_id"), chat_type=message.chat.type)
        return None
    if message.text:
        command, _, payload = message.text.partition(" ")
        if command.split("@")[0] == "/start":
            return _inbound(update, message, account, kind="start", text=payload.strip())
        return _inbound(update, message, account, kind="text", text=message.text)
    attachment = attachment_of(raw, account)
    if attachment is None:
        return _unsupported(update, account, message.date, message.sender, message.caption)
    return _inbound(update, message, account, kind="attachment", text=message.caption, attachments=(attachment,))


def _from_business(update: Mapping[str, Any], account: str) -> InboundMessage | None:
    """A message in a chat of a business account that the bot looks after: the customer's, or its owner's own."""
    raw = update["business_message"]
    message = _Message.model_validate(raw)
    if message.sender_business_bot:
        return None  # ours
    found = _from_message(update, raw, account)
    if found is None or _by_customer(message):
        return found
    return replace(found, kind="echo", sender_name=None, lang_hint=None, phone=None, refers_to=None)


def _by_customer(message: _Message) -> bool:
    """A private chat has the id of the customer; the other one in it is the owner of the business account."""
    return message.sender is not None and message.sender.id == message.chat.id


def _text_of(value: Any, key: str) -> str:
    return str(value.get(key)) if isinstance(value, dict) else ""


def _from_edit(update: Mapping[str, Any], raw: Any, account: str) -> InboundMessage | None:
    message = _Message.model_validate(raw)
    text = message.text or message.caption
    # A live location "edits" its message every few seconds; an edit without words is nothing to answer.
    if message.chat.type != "private" or not text:
        return None
    return _inbound(update, message, account, kind="edit", text=text, note="edited", refers_to=str(message.message_id))


def _from_reaction(update: Mapping[str, Any], account: str) -> InboundMessage | None:
    reacted = _Reacted.model_validate(update["message_reaction"])
    if reacted.chat.type != "private":
        return None
    emoji = [item.get("emoji") for item in reacted.new_reaction if isinstance(item, dict)]
    return InboundMessage(
        Address(CHANNEL, account, str(reacted.chat.id)),
        external_id(update, str(reacted.message_id), "reaction"),
        reacted.date,
        kind="reaction",
        text=" ".join(each for each in emoji if isinstance(each, str)),
        sender_name=_name(reacted.user),
        lang_hint=_lang(reacted.user),
        refers_to=str(reacted.message_id),
    )


def _from_callback(update: Mapping[str, Any], account: str, now: datetime) -> InboundMessage | None:
    callback = _Callback.model_validate(update["callback_query"])
    if callback.message is not None and callback.message.chat.type != "private":
        return None
    if callback.data == CHOSEN_TOKEN:
        return None
    if not callback.data:
        return _unsupported(update, account, now, callback.sender)
    # The chat of a private conversation has the id of the person.
    chat_id = str(callback.sender.id)
    if callback.message is not None:
        chat_id = _chat(callback.message.chat, callback.message.business_connection_id)
    return InboundMessage(
        Address(CHANNEL, account, chat_id),
        external_id(update, callback.id),
        now,
        kind="choice",
        text=(_label(callback.message.reply_markup, callback.data) or "") if callback.message else "",
        choice=callback.data,
        sender_name=_name(callback.sender),
        lang_hint=_lang(callback.sender),
    )


def _from_membership(update: Mapping[str, Any], account: str) -> InboundMessage | None:
    """The customer blocked the bot, or took it back; what becomes of the bot in groups concerns nobody."""
    membership = _Membership.model_validate(update["my_chat_member"])
    if membership.chat.type != "private":
        return None
    blocked = membership.new_chat_member.status in ("kicked", "left")
    return InboundMessage(
        Address(CHANNEL, account, str(membership.chat.id)),
        external_id(update, "member"),
        membership.date,
        kind="blocked" if blocked else "unblocked",
        text="the customer blocked the bot" if blocked else "",
        sender_name=_name(membership.sender),
        lang_hint=_lang(membership.sender),
    )


def _inbound(
    update: Mapping[str, Any],
    message: _Message,
    account: str,
    *,
    kind: str,
    text: str,
    attachments: tuple[InboundAttachment, ...] = (),
    note: str = "",
    refers_to: str | None = None,
) -> InboundMessage:
    return InboundMessage(
        Address(CHANNEL, account, _chat(message.chat, message.business_connection_id)),
        external_id(update, str(message.message_id), note),
        message.date,
        kind=kind,
        text=text,
        attachments=attachments,
        sender_name=_name(message.sender),
        phone=_own_phone(message),
        lang_hint=_lang(message.sender),
        platform_id=str(message.message_id),
        refers_to=refers_to or _quoted(message),
        context=_context(message),
    )


def _quoted(message: _Message) -> str | None:
    """The message that this one answers."""
    quoted = message.reply_to_message.get("message_id") if isinstance(message.reply_to_message, dict) else None
    return str(quoted) if isinstance(quoted, int) else None


def _own_phone(message: _Message) -> str | None:
    """The number of a contact that is the sender's own by Telegram's word: of a number that it knows, it tells whose
    it is. A card of somebody else's, or one that was passed on, proves nothing."""
    card = message.contact if isinstance(message.contact, dict) and not message.forward_origin else {}
    number = card.get("phone_number")
    if message.sender is None or card.get("user_id") != message.sender.id or not isinstance(number, str):
        return None
    digits = "".join(character for character in number if character.isdecimal() and character.isascii())
    return f"+{digits}" if digits else None


def _context(message: _Message) -> dict[str, Any]:
    """What an agent should know of a message: the words that it quotes, whether it was forwarded, its album."""
    quote = message.quote.get("text") if isinstance(message.quote, dict) else None
    answered = message.reply_to_message if isinstance(message.reply_to_message, dict) else {}
    whole = answered.get("text") or answered.get("caption")
    if not quote and isinstance(whole, str):
        quote = whole[:MAX_QUOTE_CHARS]
    context: dict[str, Any] = {}
    if isinstance(quote, str) and quote:
        context["quote"] = quote
    if message.forward_origin:
        context["forwarded"] = True
    if isinstance(message.media_group_id, str):
        context["album"] = message.media_group_id
    return context


def _chat(chat: _Chat, connection: str | None) -> str:
    """The chat of a business account is another conversation than the customer's own with the bot."""
    return f"{connection}/{chat.id}" if connection else str(chat.id)


def _unsupported(
    update: Mapping[str, Any], account: str, at: datetime, sender: _User | None = None, text: str = ""
) -> InboundMessage:
    return InboundMessage(
        Address(CHANNEL, account, _private_chat(update) or UNKNOWN_CHAT),
        external_id(update, "unsupported"),
        at,
        kind="unsupported",
        text=text,
        attachments=(InboundAttachment("other", {"update": dict(update)}, fetchable=False),),
        sender_name=_name(sender),
        lang_hint=_lang(sender),
    )


def attachment_of(raw: Mapping[str, Any], account: str) -> InboundAttachment | None:
    """The file of a message, or the fact that it holds. account: the bot that can fetch it."""
    for kind in _FILES:
        if not raw.get(kind):
            continue
        sizes = raw[kind] if isinstance(raw[kind], list) else [raw[kind]]  # a photo comes in sizes, the largest last
        file = _File.model_validate(sizes[-1])
        return InboundAttachment(
            kind,
            {"file_id": file.file_id, "file_unique_id": file.file_unique_id, "bot": account},
            file_name=file.file_name,
            mime_type=file.mime_type or ("image/jpeg" if kind == "photo" else None),
            size_bytes=file.file_size,
        )
    for field, kind in _FACTS.items():
        if raw.get(field):
            return InboundAttachment(kind, {field: raw[field]}, fetchable=False)
    return None


def person_name(sender: Any) -> str:
    """What somebody calls himself; empty for nobody."""
    try:
        return _name(_User.model_validate(sender)) or ""
    except ValidationError:
        return ""


def external_id(update: Mapping[str, Any], *parts: str) -> str:
    """The update's id and the message's: after a quiet week Telegram starts the ids of updates anew, at random."""
    update_id = update.get("update_id")
    if not isinstance(update_id, int):
        digest = hashlib.sha256(json.dumps(update, sort_keys=True).encode()).hexdigest()
        return f"sha256:{digest}"
    return "/".join(part for part in (str(update_id), *parts) if part)[:128]


def _private_chat(update: Mapping[str, Any]) -> str | None:
    """The chat of an update of any type; people have positive ids, groups and channels negative ones."""
    for event in update.values():
        if not isinstance(event, dict):
            continue
        inner = event.get("message")
        for holder in (event.get("chat"), inner.get("chat") if isinstance(inner, dict) else None, event.get("from")):
            chat_id = holder.get("id") if isinstance(holder, dict) else None
            if isinstance(chat_id, int) and not isinstance(chat_id, bool):
                connection = event.get("business_connection_id")
                prefix = f"{connection}/" if isinstance(connection, str) and len(connection) < 100 else ""
                return f"{prefix}{chat_id}" if 0 < chat_id < 2**63 else None
    return None


def _name(user: _User | None) -> str | None:
    if user is None:
        return None
    return " ".join(filter(None, (user.first_name, user.last_name))).strip() or user.username


def _lang(user: _User | None) -> str | None:
    code = (user.language_code or "").split("-")[0].lower() if user else ""
    return code if len(code) == 2 else None


def _label(markup: Any, data: str) -> str | None:
    """The text of the button with this data."""
    rows = markup.get("inline_keyboard") if isinstance(markup, dict) else None
    for row in rows if isinstance(rows, list) else ():
        for button in row if isinstance(row, list) else ():
            if isinstance(button, dict) and button.get("callback_data") == data:
                label = button.get("text")
                return label if isinstance(label, str) else None
    return None
