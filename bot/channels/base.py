"""The port between the assistant and a platform. A channel knows its platform and nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any, Protocol

from bot.errors import DeliveryError as DeliveryError


@dataclass(frozen=True)
class Address:
    """One customer in one channel: where a message comes from, and where the answer goes."""

    channel: str
    account: str
    """Which of several bots or numbers; empty where there is one."""
    chat_id: str


@dataclass(frozen=True)
class InboundAttachment:
    """A file on the platform's side. `source` is all that the channel needs to fetch it later."""

    kind: str
    """photo, document, voice, audio, video, video_note, animation, sticker, location, contact or other."""
    source: Mapping[str, Any]
    file_name: str | None = None
    mime_type: str | None = None
    size_bytes: int | None = None
    fetchable: bool = True
    """False where there is no file to fetch (a location, a contact)."""


@dataclass(frozen=True)
class InboundMessage:
    """What a customer did, in the assistant's terms."""

    address: Address
    external_id: str
    """The platform's id of this event, unique within (channel, account); a repeat is a no-op."""
    sent_at: datetime
    kind: str = "text"
    """text, start (the customer opened the chat), choice (a button was pressed), attachment, unsupported."""
    text: str = ""
    choice: str | None = None
    """The token of the pressed option."""
    attachments: tuple[InboundAttachment, ...] = ()
    sender_name: str | None = None
    lang_hint: str | None = None
    """The language that the platform reports for the person, as a two-letter code."""

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "sent_at": self.sent_at.isoformat()}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> InboundMessage:
        return cls(
            **{
                **row,
                "address": Address(**row["address"]),
                "sent_at": datetime.fromisoformat(row["sent_at"]),
                "attachments": tuple(InboundAttachment(**item) for item in row["attachments"]),
            }
        )


@dataclass(frozen=True)
class Option:
    """A choice offered with a message. The token comes back when it is taken; at most 64 bytes."""

    token: str
    label: str


@dataclass(frozen=True)
class OutboundMessage:
    """What the customer is to receive. `text` is plain text with light Markdown."""

    text: str
    options: tuple[Option, ...] = ()
    message_id: int = 0
    """The transcript's id of it; parts of a split message share it."""
    author: str = "assistant"
    agent_name: str | None = None
    decision: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Capabilities:
    """What a platform can show. `fit` adapts every reply to it."""

    max_text_chars: int
    max_buttons: int
    """0: choices are written into the text as a numbered list."""
    max_label_chars: int = 64
    max_download_bytes: int = 20 * 1024 * 1024


Receive = Callable[[InboundMessage], Awaitable[bool]]
"""Stores the message durably, and only then returns: True when it is new, False for a repeat."""


class Channel(Protocol):
    """What `tests/contract/test_channels.py` holds every channel to."""

    name: str
    capabilities: Capabilities

    async def run(self, receive: Receive) -> None:
        """Take messages in until cancelled. Returns at once where another part takes them in (site chat)."""

    async def send(self, address: Address, message: OutboundMessage) -> str | None:
        """Deliver one fitted message; the platform's id of it. Raises DeliveryError."""

    def fetch(self, attachment: InboundAttachment) -> AsyncIterator[bytes]:
        """The bytes of a file in chunks. Raises DeliveryError."""


def fit(message: OutboundMessage, capabilities: Capabilities) -> tuple[OutboundMessage, ...]:
    """The messages, in order, that carry this one within the platform's limits; the last has the options.

    Text is split between paragraphs, then lines, then words, then anywhere. Options that exceed the platform's
    buttons become a numbered list, and the customer answers with the number.
    """
    text, options = message.text, message.options
    if len(options) > capabilities.max_buttons:
        listed = "\n".join(f"{number}. {option.label}" for number, option in enumerate(options, 1))
        text, options = f"{text}\n\n{listed}", ()
    options = tuple(replace(option, label=_shorten(option.label, capabilities.max_label_chars)) for option in options)
    parts = split_text(text, capabilities.max_text_chars)
    return tuple(
        replace(message, text=part, options=options if number == len(parts) else ())
        for number, part in enumerate(parts, 1)
    )


def split_text(text: str, limit: int) -> list[str]:
    """Pieces of at most `limit` characters, broken where it hurts least. Never empty: an empty text is one piece."""
    pieces = []
    while len(text) > limit:
        places = (text.rfind(mark, limit // 2, limit) for mark in ("\n\n", "\n", " "))
        cut = next((place for place in places if place > 0), limit)
        pieces.append(text[:cut].rstrip())
        text = text[cut:].lstrip()
    return [*pieces, text] if text or not pieces else pieces


def _shorten(label: str, limit: int) -> str:
    return label if len(label) <= limit else label[: limit - 1].rstrip() + "…"
