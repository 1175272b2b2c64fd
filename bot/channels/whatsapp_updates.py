"""WhatsApp's webhooks in the assistant's terms. Pure: any JSON value in, events out, never an exception.

Meta adds fields and kinds without notice, and since 2026 leaves out the phone number of whoever hides it. So nothing
is demanded: a customer is known by the number (`wa_id`), by the id that Meta made for this business (`user_id`), or by
both, and what can't be understood is an `unsupported` message, or a plain fact about the account.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from bot.channels.base import Address, InboundAttachment, InboundMessage

CHANNEL = "whatsapp"
MAX_ID_CHARS = 120
MEDIA_KINDS = {
    "image": "photo",
    "video": "video",
    "audio": "audio",
    "document": "document",
    "sticker": "sticker",
}


@dataclass(frozen=True)
class Received:
    """Something that a customer did, or an agent in the phone's own app (`echo`)."""

    message: InboundMessage
    wa_id: str | None
    """The phone number, digits only."""
    user_id: str | None
    """The business-scoped id, such as `US.13491208655302741918`."""


@dataclass(frozen=True)
class Receipt:
    """What became of a message that we sent."""

    account: str
    external_id: str
    state: str
    """sent, delivered, read, failed, or what Meta will think of."""
    at: datetime
    message_id: int | None = None
    """The transcript's id of it, which we gave along when we sent it."""
    chat_id: str = ""
    error_code: int | None = None
    error: str = ""
    user_id: str | None = None


@dataclass(frozen=True)
class NumberChange:
    """The customer has another number now; the conversation goes on under it."""

    account: str
    old: str
    new: str


@dataclass(frozen=True)
class TemplateChange:
    """Meta approved, rejected, paused or disabled a template."""

    name: str
    language: str
    status: str
    reason: str = ""


@dataclass(frozen=True)
class AccountNews:
    """Anything else: about the account, its numbers, groups, calls. `important`: a person should look at it."""

    event: str
    detail: str = ""
    important: bool = False


Event = Received | Receipt | NumberChange | TemplateChange | AccountNews


def parse(payload: Any, *, now: datetime) -> list[Event]:
    """Every event of one webhook, in its order. `now` is the time of what has none, and the latest a time can be."""
    events: list[Event] = []
    for entry in _items(_map(payload).get("entry")):
        for change in _items(entry.get("changes")):
            events.extend(_change(str(change.get("field") or ""), _map(change.get("value")), now))
    return events


def _change(field: str, value: Mapping[str, Any], now: datetime) -> Iterator[Event]:
    account = _text(_map(value.get("metadata")).get("phone_number_id"))
    contacts = list(_items(value.get("contacts")))
    known = False
    for raw in _items(value.get("messages")):
        known = True
        yield from _message(raw, contacts, account, now, errors=value.get("errors"))
    for raw in _items(value.get("message_echoes")):
        known = True
        yield _echo(raw, contacts, account, now)
    for raw in _items(value.get("statuses")):
        known = True
        if raw.get("type") == "call" or raw.get("recipient_type") == "group":
            yield AccountNews(f"{field}.{_text(raw.get('status')).lower()}")
        else:
            yield _receipt(raw, contacts, account, now)
    for raw in _items(value.get("calls")):
        known = True
        yield from _call(raw, contacts, account, now)
    for raw in _items(value.get("user_preferences")):
        known = True
        yield _note(raw, contacts, account, now, _text(raw.get("detail")), "preference")
    if known:
        return
    if field == "message_template_status_update":
        name, language = _text(value.get("message_template_name")), _text(value.get("message_template_language"))
        rejection = _text(_map(value.get("rejection_info")).get("reason"))
        reason = rejection or _text(value.get("reason"))
        yield TemplateChange(name, language, _text(value.get("event")).upper(), "" if reason == "NONE" else reason)
    else:
        event = _text(value.get("event")) or field or "unknown"
        errors = _errors(value.get("errors"))[1]
        yield AccountNews(event, errors or _digest(value), important=field == "account_update" or bool(errors))


def _message(
    raw: Mapping[str, Any], contacts: list[Mapping[str, Any]], account: str, now: datetime, *, errors: Any
) -> Iterator[Event]:
    kind = _text(raw.get("type"))
    if raw.get("group_id"):
        yield AccountNews("group.message")
        return
    common = _common(raw, contacts, account, now)
    if kind == "text":
        yield common.received("text", _text(_map(raw.get("text")).get("body")))
    elif kind in MEDIA_KINDS:
        media = _map(raw.get(kind))
        text = _text(media.get("caption"))
        yield common.received("attachment", text, attachments=(_file(kind, media),))
    elif kind == "location":
        yield common.received("attachment", attachments=(_fact("location", raw.get("location")),))
    elif kind == "contacts":
        people = tuple(_fact("contact", person) for person in _items(raw.get("contacts")))
        yield common.received("attachment", attachments=people or (_fact("contact", {}),))
    elif kind == "order":
        order = _map(raw.get("order"))
        yield common.received("attachment", _text(order.get("text")), attachments=(_fact("order", order),))
    elif kind == "button":
        # A template's quick reply. Its payload is the template's own; the words are what the customer said.
        button = _map(raw.get("button"))
        text = _text(button.get("text")) or _text(button.get("payload"))
        yield common.received("text", text, payload=_text(button.get("payload")))
    elif kind == "interactive":
        yield _interactive(common, _map(raw.get("interactive")), errors)
    elif kind == "reaction":
        reaction = _map(raw.get("reaction"))
        yield common.received(
            "reaction", _text(reaction.get("emoji")), refers_to=_text(reaction.get("message_id")) or None
        )
    elif kind == "edit":
        edit = _map(raw.get("edit"))
        yield common.received(
            "edit",
            _words(_map(edit.get("message"))),
            refers_to=_text(edit.get("original_message_id")) or None,
        )
    elif kind == "revoke":
        original = _text(_map(raw.get("revoke")).get("original_message_id"))
        yield common.received("deletion", refers_to=original or None)
    elif kind == "request_welcome":
        yield common.received("start")
    elif kind == "system":
        system = _map(raw.get("system"))
        new = _digits(system.get("wa_id") or system.get("new_wa_id"))
        if new and common.wa_id and new != common.wa_id:
            yield NumberChange(account, common.wa_id, new)
            common = replace(common, wa_id=new, user_id=None)
        yield common.received("note", _text(system.get("body")), event=_text(system.get("type")) or "system")
    else:
        reported = _errors(raw.get("errors") or errors)[1]
        unknown = InboundAttachment("other", {"message": dict(raw)}, fetchable=False)
        yield common.received("unsupported", attachments=(unknown,), type=kind, errors=reported)


def _interactive(common: _Common, interactive: Mapping[str, Any], errors: Any) -> Received:
    kind = _text(interactive.get("type"))
    reply = _map(interactive.get(kind))
    if kind in ("button_reply", "list_reply"):
        return common.received("choice", _text(reply.get("title")), choice=_text(reply.get("id")))
    if kind == "nfm_reply":
        try:
            answers = _map(json.loads(_text(reply.get("response_json"))))
        except ValueError:
            answers = {}
        form = {key: value for key, value in answers.items() if key != "flow_token"}
        name = _text(reply.get("name")) or "form"
        return common.received("attachment", attachments=(_fact("form", {"name": name, "answers": form}),))
    if kind and reply:
        return common.received("note", f"{kind}: {_text(reply.get('response'))}".rstrip(": "), event=kind)
    unknown = InboundAttachment("other", {"interactive": dict(interactive)}, fetchable=False)
    return common.received("unsupported", attachments=(unknown,), errors=_errors(errors)[1])


def _echo(raw: Mapping[str, Any], contacts: list[Mapping[str, Any]], account: str, now: datetime) -> Received:
    """What an agent wrote in the phone's app: in the transcript it is an agent's message."""
    wa_id, user_id = _digits(raw.get("to")), _text(raw.get("to_user_id")) or None
    common = _common({**raw, "from": wa_id, "from_user_id": user_id}, contacts, account, now)
    kind = _text(raw.get("type"))
    if kind in MEDIA_KINDS:
        return common.received("echo", _words(raw), attachments=(_file(kind, _map(raw.get(kind))),))
    inner = _map(_map(raw.get("edit")).get("message"))
    original = _text(_map(raw.get(kind)).get("original_message_id"))
    return common.received("echo", _words(inner or raw), refers_to=original or None, type=kind)


def _call(raw: Mapping[str, Any], contacts: list[Mapping[str, Any]], account: str, now: datetime) -> Iterator[Event]:
    event = _text(raw.get("event"))
    if event == "connect" and raw.get("direction") == "USER_INITIATED":
        yield _note(raw, contacts, account, now, "", "call")
    else:
        yield AccountNews(f"call.{event}", _text(raw.get("status")))


def _note(
    raw: Mapping[str, Any], contacts: list[Mapping[str, Any]], account: str, now: datetime, text: str, event: str
) -> Received:
    whose = {"from": raw.get("from") or raw.get("wa_id"), "from_user_id": raw.get("user_id")}
    return _common({**raw, **whose}, contacts, account, now).received("note", text, event=event)


def _receipt(raw: Mapping[str, Any], contacts: list[Mapping[str, Any]], account: str, now: datetime) -> Receipt:
    given = _text(raw.get("biz_opaque_callback_data"))
    code, problem = _errors(raw.get("errors"))
    state = _text(raw.get("status")).lower()
    user_id = _text(raw.get("recipient_user_id")) or None
    if user_id is None and len(contacts) == 1:
        user_id = _text(contacts[0].get("user_id")) or None
    external_id = _text(raw.get("id"))
    return Receipt(
        account=account,
        external_id=_bounded(external_id) if external_id else f"sha256:{_digest(raw)}",
        state="read" if state == "played" else state or "unknown",
        at=_moment(raw.get("timestamp"), now),
        message_id=int(given) if given.isascii() and given.isdecimal() and len(given) < 19 else None,
        chat_id=_digits(raw.get("recipient_id")) or _text(raw.get("recipient_id")) or user_id or "",
        error_code=code,
        error=problem,
        user_id=user_id,
    )


@dataclass(frozen=True)
class _Common:
    """What every message has."""

    account: str
    external_id: str
    sent_at: datetime
    wa_id: str | None
    user_id: str | None
    name: str | None
    quoted: str | None
    context: Mapping[str, Any]

    def received(
        self,
        kind: str,
        text: str = "",
        *,
        choice: str | None = None,
        attachments: tuple[InboundAttachment, ...] = (),
        refers_to: str | None = None,
        **context: Any,
    ) -> Received:
        # An empty text or an unnamed button is a message all the same; `unsupported` asks for words.
        if (kind == "text" and not text.strip()) or (kind == "choice" and not choice):
            kind, choice = "unsupported", None
        message = InboundMessage(
            Address(CHANNEL, self.account, self.wa_id or self.user_id or UNKNOWN),
            self.external_id,
            self.sent_at,
            kind=kind,
            text=text,
            choice=choice,
            attachments=attachments,
            sender_name=self.name,
            phone=f"+{self.wa_id}" if self.wa_id else None,
            refers_to=refers_to or self.quoted,
            context={**self.context, **{key: value for key, value in context.items() if value}},
        )
        return Received(message, self.wa_id, self.user_id)


UNKNOWN = "unknown"
"""The conversation of whoever Meta does not name in any way."""


def _common(raw: Mapping[str, Any], contacts: list[Mapping[str, Any]], account: str, now: datetime) -> _Common:
    wa_id, user_id = _digits(raw.get("from")), _text(raw.get("from_user_id")) or None
    mine = [
        contact
        for contact in contacts
        if (wa_id and _digits(contact.get("wa_id")) == wa_id) or (user_id and contact.get("user_id") == user_id)
    ] or (contacts if len(contacts) == 1 else [])
    contact = mine[0] if mine else {}
    same = wa_id is None or _digits(contact.get("wa_id")) in (None, wa_id)
    wa_id = wa_id or _digits(contact.get("wa_id"))
    user_id = user_id or (_text(contact.get("user_id")) if same else "") or None
    profile, about = _map(contact.get("profile")), _map(raw.get("context"))
    context: dict[str, Any] = {}
    if about.get("forwarded") or about.get("frequently_forwarded"):
        context["forwarded"] = True
    for source, key in ((about, "referred_product"), (raw, "referral"), (profile, "username")):
        if source.get(key):
            context[key] = source[key]
    external_id = _text(raw.get("id"))
    return _Common(
        account=account,
        external_id=_bounded(external_id) if external_id else f"sha256:{_digest(raw)}",
        sent_at=_moment(raw.get("timestamp"), now),
        wa_id=wa_id,
        user_id=user_id[:MAX_ID_CHARS] if user_id else None,
        name=_text(profile.get("name")).strip() or None,
        quoted=_text(about.get("id")) or None,
        context=context,
    )


def _file(kind: str, media: Mapping[str, Any]) -> InboundAttachment:
    voice = kind == "audio" and media.get("voice") is True
    mime_type = _text(media.get("mime_type")).partition(";")[0].strip()
    return InboundAttachment(
        "voice" if voice else MEDIA_KINDS[kind],
        {"media_id": _text(media.get("id")), "sha256": _text(media.get("sha256"))},
        file_name=_text(media.get("filename"))[:255] or None,
        mime_type=mime_type[:127] or None,
        fetchable=bool(_text(media.get("id"))),
    )


def _fact(kind: str, value: Any) -> InboundAttachment:
    return InboundAttachment(kind, {kind: value}, fetchable=False)


def _words(raw: Mapping[str, Any]) -> str:
    """The text or caption of a message of any kind."""
    body = _map(raw.get(_text(raw.get("type"))))
    return _text(body.get("body")) or _text(body.get("caption"))


def _errors(value: Any) -> tuple[int | None, str]:
    """Code and words of the first of Meta's errors."""
    for error in _items(value):
        code = error.get("code")
        words = _text(_map(error.get("error_data")).get("details")) or _text(error.get("message") or error.get("title"))
        return (code if isinstance(code, int) and abs(code) < 2**31 else None), words
    return None, ""


def _moment(value: Any, now: datetime) -> datetime:
    try:
        return min(datetime.fromtimestamp(int(str(value)), UTC), now)
    except (ValueError, OverflowError, OSError):
        return now


def _bounded(identifier: str) -> str:
    if len(identifier) <= MAX_ID_CHARS:
        return identifier
    return f"sha256:{hashlib.sha256(identifier.encode('utf-8', 'replace')).hexdigest()}"


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode("utf-8", "replace")).hexdigest()


def _digits(value: Any) -> str | None:
    """A phone number as Meta writes it: digits only, whatever stood between them."""
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else _text(value)
    plain = text.strip().lstrip("+")
    return plain if plain.isascii() and plain.isdecimal() and len(plain) <= 20 else None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _map(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _items(value: Any) -> Iterator[Mapping[str, Any]]:
    yield from (item for item in value if isinstance(item, dict)) if isinstance(value, list) else ()
