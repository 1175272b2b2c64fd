"""How tickets read in a group's topics: titles, the packet, what was said and done. Pure.

Everything that people wrote is text with no markup of its own, so that nothing of it can become any.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from zoneinfo import ZoneInfo

from aiogram.utils.formatting import Bold, ExpandableBlockQuote, Italic, Strikethrough, Text

from bot.channels.base import split_text, utf16_units
from bot.channels.telegram_forum import MAX_TITLE_CHARS, Buttons
from bot.channels.telegram_text import MAX_UNITS, render
from bot.forum.words import ICONS, reason_word, state_word, words
from handoff.lifecycle import TicketStatus
from handoff.packet import Packet, PacketMessage
from handoff.records import NOTE, Attachment, AttachmentState, Author, HistoryEntry, Message
from handoff.routing import Topics

PIECE_CHARS = 3200
"""Of one message within a post: with its name, and in the worst case two units a letter, it still fits."""
MAX_NAME_CHARS = 60
QUOTE_CHARS = 120
SILENT_KINDS = frozenset({"edit", "deletion"})
TOLD = frozenset(
    {
        *("assigned", "unassigned", "held", "resumed", "feedback_asked", "helped", "not_helped", "resolved", "closed"),
        *(
            "not_delivered",
            "reopened",
            "transferred",
            "rerouted",
            "escalated",
            "warned",
            "breached",
            "moved",
            "wrote_elsewhere",
        ),
    }
)
"""Events of the history that have a line of their own."""
_MARKS = {Author.CUSTOMER: "👤", Author.ASSISTANT: "🤖", Author.AGENT: "🧑‍💻", Author.SYSTEM: "⚠️"}


@dataclass(frozen=True)
class Piece:
    """Something to be told in a topic."""

    text: Text
    files: tuple[Attachment, ...] = ()
    message_id: int | None = None
    entry_id: int | None = None
    version: int = 0
    reply_to_id: int | None = None
    album: str | None = None
    at: datetime | None = None
    reaction: str | None = None
    """An emoji to be put under the message `reply_to_id`; empty: taken away."""
    line: dict[str, object] = field(default_factory=dict)


def title(ticket_id: int, status: TicketStatus, subject: str, lang: str) -> str:
    """A topic's title: number, state and as much of the subject as there is room for."""
    subject = " ".join(subject.split())
    whole = f"№ {ticket_id} · {state_word(status, lang)} · {subject}"
    if utf16_units(whole) <= MAX_TITLE_CHARS:
        return whole
    while utf16_units(whole) > MAX_TITLE_CHARS - 1:
        whole = whole[:-1]
    return whole.rstrip() + "…"


def icon(status: TicketStatus, known: Mapping[str, str]) -> str:
    """The id of the picture for a state, of those that Telegram has; empty: none of them."""
    plain = {emoji.rstrip("\ufe0f"): number for emoji, number in known.items()}
    return next((plain[emoji] for emoji in ICONS[status] if emoji in plain), "")


def name_of(message: Message | PacketMessage, customer: str | None, lang: str) -> str:
    if message.author is Author.CUSTOMER:
        return (customer or words("customer", lang))[:MAX_NAME_CHARS]
    if message.author is Author.AGENT:
        return (message.agent_name or "")[:MAX_NAME_CHARS]
    return words("assistant" if message.author is Author.ASSISTANT else "system", lang)


def version_of(message: Message | PacketMessage) -> int:
    """How often a message was changed or taken back."""
    return len(message.edits) + (message.deleted_at is not None)


def say(message: Message | PacketMessage, customer: str | None, lang: str, *, quote: bool = True) -> list[Text]:
    """A message of the transcript with its author's name: one text, or several of a long one. quote: with the words
    that it answers, where the platform told them."""
    mark = "📝" if message.kind == NOTE else _MARKS[message.author]
    head = Bold(f"{mark} {name_of(message, customer, lang)}")
    if message.kind == NOTE and message.author is Author.AGENT:
        head = Bold(f"{mark} {name_of(message, customer, lang)} ({words('note', lang)})")
    quoted = str((message.context or {}).get("quote") or "") if quote else ""
    parts: list[Text | str] = [head, "\n"]
    if quoted:
        parts += [Italic(f"› {quoted[:QUOTE_CHARS]}"), "\n"]
    bodies = _bodies(message)
    first = Text(*parts, bodies[0]) if len(bodies[0]) or quoted else Text(head)
    texts = [first, *bodies[1:]]
    tail: list[Text | str] = []
    if message.options:
        tail.append("\n" + " ".join(f"[{option.get('label', '')}]" for option in message.options))
    if message.edits:
        tail.append(" ✏️")
    if tail:
        texts[-1] = Text(texts[-1], *tail)
    return texts


def _bodies(message: Message | PacketMessage) -> list[Text]:
    """The words, in pieces that fit; those of people as they were typed."""
    if message.deleted_at is not None:
        return [Strikethrough(message.text[:PIECE_CHARS]) if message.text else Text("🗑")]
    pieces = split_text(message.text, PIECE_CHARS)
    if message.author is Author.ASSISTANT:
        rendered = [render(piece) for piece in pieces]
        if all(len(each) < MAX_UNITS - 200 for each in rendered):
            return rendered
    return [Text(half) for piece in pieces for half in _halved(piece)]


def _halved(text: str) -> list[str]:
    """Emoji have two units each."""
    if utf16_units(text) <= PIECE_CHARS + 400:
        return [text]
    return [half for part in split_text(text, (len(text) + 1) // 2) for half in _halved(part)]


def file_names(files: Sequence[Attachment], lang: str) -> str:
    def one(file: Attachment) -> str:
        name = file.file_name or file.kind
        return f"{name} ({words('too_large', lang)})" if file.state is AttachmentState.TOO_LARGE else name

    return words("files", lang, names=", ".join(map(one, files)))


def happened(entry: HistoryEntry, topics: Topics, lang: str) -> str:
    """A line of the history; empty where there is nothing to tell."""
    if entry.event not in TOLD:
        return ""
    details = entry.details
    actor = entry.actor if entry.actor not in ("system", "customer", "assistant") else words("system", lang)
    if entry.actor == "customer":
        actor = words("customer", lang)
    key = entry.event
    if key == "assigned" and details.get("agent") == entry.actor:
        key = "took"
    values = {
        "actor": actor,
        "agent": str(details.get("agent") or "")[:MAX_NAME_CHARS],
        "task": str(details.get("task") or "")[:200],
        "why": str(details.get("why") or "")[:500],
        "level": str(details.get("level") or ""),
        "topic": topics.get(str(details["topic"])).title_in(lang) if details.get("topic") else "",
    }
    return f"⚙️ {words(key, lang, **values)}".strip()


def card(packet: Packet, topics: Topics, zone: ZoneInfo, lang: str, *, team: str) -> tuple[Text, bool]:
    """The packet, with as much of the transcript as there is room for. Also tells whether that is all of it."""
    customer = packet.customer
    facts = {
        "topic": topics.get(packet.topic).title_in(lang),
        "reason": reason_word(packet.reason, lang),
        "priority": packet.priority,
        "team": f"{team} {packet.level}",
        "customer": (customer.name or packet.conversation.chat_id)[:MAX_NAME_CHARS],
        "phone": customer.phone,
        "channel": packet.conversation.channel,
        "promised": f"{packet.promised_at.astimezone(zone):%d.%m %H:%M}",
        "has": packet.assignee,
        "tried": ", ".join(dict.fromkeys(each for attempt in packet.tried for each in attempt.articles))[:300],
        "pressed": ", ".join(packet.pressed)[:200],
        "before": ", ".join(f"№ {row.ticket_id}" for row in customer.tickets[:5]),
    }
    parts: list[Text | str] = [Bold(f"№ {packet.ticket_id} · {packet.subject}"), "\n", packet.summary, "\n"]
    for key, value in facts.items():
        if value:
            parts += ["\n", Bold(words(key, lang)), f": {value}"]
    head = Text(*parts)
    room = MAX_UNITS - len(head) - 100
    said: list[list[Text]] = []
    for message in reversed(packet.transcript):
        if message.kind in SILENT_KINDS or message.kind == "reaction" or not (message.text or message.attachments):
            continue
        texts = _line(message, customer.name, lang)
        room -= sum(len(each) for each in texts) + 1
        if room < 0:
            break
        said.append(texts)
    told = sum(
        1
        for m in packet.transcript
        if m.kind not in SILENT_KINDS and m.kind != "reaction" and (m.text or m.attachments)
    )
    inside: list[Text | str] = []
    if len(said) < told:
        inside += [Italic(words("earlier", lang, n=told - len(said))), "\n"]
    for texts in reversed(said):
        inside += [*(["\n"] if inside and inside[-1] != "\n" else []), *texts]
    if inside:
        head = Text(head, "\n\n", Bold(words("transcript", lang)), "\n", ExpandableBlockQuote(*inside))
    return head, len(said) == told


def buttons(ticket_id: int, live: bool, lang: str) -> Buttons:
    """Of the packet. `bot.forum.intake` does what they say."""

    def one(act: str, key: str) -> tuple[str, str]:
        return words(key, lang), f"f:{act}:{ticket_id}"

    if not live:
        return [[one("reopen", "b_reopen")]]
    return [
        [one("take", "b_take"), one("assign", "b_assign"), one("transfer", "b_transfer")],
        [one("hold", "b_hold"), one("macros", "b_macros"), one("return", "b_return")],
        [one("finish", "b_finish"), one("resolve", "b_resolve")],
    ]


def _line(message: PacketMessage, customer: str | None, lang: str) -> list[Text]:
    """A message of the transcript on one line or a few, its files by name."""
    names = ", ".join(file.file_name or file.kind for file in message.attachments)
    mark = "📝" if message.kind == NOTE else _MARKS[message.author]
    label = Bold(f"{mark} {name_of(message, customer, lang)}")
    plain = message.text if message.author is not Author.ASSISTANT else render(message.text).render()[0]
    return [Text(label, f": {plain}" if plain else "", f" 📎 {names}" if names else "")]


def whole_transcript(packet: Packet, zone: ZoneInfo, lang: str) -> str:
    """All that was said, as a text file."""
    lines = [f"№ {packet.ticket_id} · {packet.subject}", packet.summary, ""]
    for message in packet.transcript:
        if message.kind in SILENT_KINDS:
            continue
        names = ", ".join(file.file_name or file.kind for file in message.attachments)
        who = name_of(message, packet.customer.name, lang)
        note = f" ({words('note', lang)})" if message.kind == NOTE else ""
        lines.append(f"{message.at.astimezone(zone):%d.%m.%Y %H:%M} {who}{note}: {message.text}".rstrip())
        if names:
            lines.append(f"    📎 {names}")
    return "\n".join(lines) + "\n"
