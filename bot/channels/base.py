"""The port between the assistant and a platform. A channel knows its platform and nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from bot.errors import DeliveryError as DeliveryError
from bot.errors import FileRefusedError
from bot.shared import Rate

SCALE_CHARS = 2
"""A choice whose label is no longer is a step of a scale: the numbers from 0 to 10, say."""


@dataclass(frozen=True)
class Address:
    """One customer in one channel: where a message comes from, and where the answer goes."""

    channel: str
    account: str
    """Which of several bots or numbers; empty where there is one."""
    chat_id: str

    def __str__(self) -> str:
        return f"{self.channel}:{self.account}:{self.chat_id}"


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
    """text, start (the customer opened the chat), choice (a button was pressed), attachment, unsupported; and what
    wants no answer: reaction (`text` is the emoji, empty when it was taken back), edit (`text` is the new one),
    deletion, note (what the platform tells about the customer, such as a new number), echo (a person of ours wrote to
    him past the desk), blocked (he wants nothing more; `text` is the platform's word) and unblocked."""
    text: str = ""
    choice: str | None = None
    """The token of the pressed option."""
    attachments: tuple[InboundAttachment, ...] = ()
    sender_name: str | None = None
    phone: str | None = None
    """His number, where the platform itself vouches for it: + and digits. A number that he typed is not one."""
    lang_hint: str | None = None
    """The language that the platform reports for the person, as a two-letter code."""
    platform_id: str | None = None
    """The platform's id of the message, where it is another than that of the event: what `refers_to` names."""
    refers_to: str | None = None
    """The platform's id of the message that is quoted, reacted to, edited or deleted."""
    context: Mapping[str, Any] = field(default_factory=dict)
    """What else the platform told, for agents: forwarded, referral (the advertisement), payload …"""

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
    description: str = ""
    """The rest of a label too long for a row of a list."""


@dataclass(frozen=True)
class OutboundAttachment:
    """A file for the customer, as it lies on our disk."""

    kind: str
    """photo, video, audio, voice, sticker; anything else goes as a document."""
    path: Path
    file_name: str
    mime_type: str
    size_bytes: int
    sha256: str = ""
    """By which it is known whether the platform has it already; empty: it is uploaded each time."""


@dataclass(frozen=True)
class Template:
    """A message that the platform approved beforehand: all that it takes where the window is closed."""

    name: str
    language: str
    """As the platform writes it: `ru`, `en_US`."""
    variables: tuple[str, ...] = ()
    """Of its text, in order."""


@dataclass(frozen=True)
class OutboundMessage:
    """What the customer is to receive. `text` is plain text with light Markdown."""

    text: str
    options: tuple[Option, ...] = ()
    as_list: bool = False
    """Show the options as a list to open, because there are too many for buttons or their labels are too long."""
    attachments: tuple[OutboundAttachment, ...] = ()
    """After `fit` one at most, whose caption is the text."""
    quote: str | None = None
    """The platform's id of the customer's message that this answers."""
    template: Template | None = None
    """Send this instead of the text."""
    message_id: int = 0
    """The transcript's id of it; parts of a split message share it."""
    author: str = "assistant"
    agent_name: str | None = None
    decision: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Pace:
    """So many at once, and one in `every_seconds` in the long run."""

    every_seconds: float
    burst: int


@dataclass(frozen=True)
class Medium:
    """How a platform takes files of one kind."""

    max_bytes: int
    types: frozenset[str] = frozenset()
    """The media types that it shows or plays as such; empty: any."""
    captions: bool = True


@dataclass(frozen=True)
class Capabilities:
    """What a platform can show. `fit` adapts every reply to it."""

    max_text_chars: int
    """UTF-16 units of one message, see `split_text`."""
    max_buttons: int
    """0: choices are a list, or are written into the text."""
    max_label_chars: int = 64
    max_scale: int = 0
    """So many choices of a character or two stand side by side, beside the `max_buttons` others."""
    max_prompt_chars: int | None = None
    """Of a text that carries choices; None: as any other."""
    max_rows: int = 0
    """Of a list of choices; 0: there are none."""
    max_row_chars: int = 24
    max_row_description_chars: int = 72
    max_download_bytes: int = 20 * 1024 * 1024
    media: Mapping[str, Medium] = field(default_factory=dict)
    """How files go out, by kind; empty: none do. What fits no other kind goes as a `document`."""
    max_caption_chars: int = 0
    """UTF-16 units of the text that a file may carry; a longer one follows it."""
    max_album: int = 1
    """So many photos and videos that follow one another go out as one message."""
    quotes: bool = False
    edits: bool = False
    """Whether what was sent can be changed where the customer sees it (`Edits`)."""
    reactions: bool = False
    """Whether an emoji can be put under a customer's message (`Reactions`)."""
    typing: bool = False
    chat_pace: Pace | None = None
    """How fast one customer may be written to."""
    group_pace: Pace | None = None
    """How fast a chat of several people may be written to: Telegram's, whose ids are negative."""
    account_pace: Pace | None = None
    """How fast all customers of one bot or number together may be written to."""
    window: timedelta | None = None
    """How long after the customer's last message anything may be sent; afterwards a template only. None: always."""

    def rates(self, address: Address) -> tuple[Rate | None, Rate | None]:
        """What limits a message to this address: its own rate, and the one of all chats of its account."""
        account = f"send:{address.channel}:{address.account}"
        chat = self.group_pace if self.group_pace and address.chat_id.startswith("-") else self.chat_pace
        return (
            Rate(f"{account}:{address.chat_id}", chat.every_seconds, chat.burst) if chat else None,
            Rate(account, self.account_pace.every_seconds, self.account_pace.burst) if self.account_pace else None,
        )

    def carrier(self, attachment: OutboundAttachment) -> str:
        """The kind as which a file goes out: its own where type and size allow it, else `document`.

        Raises FileRefusedError.
        """
        for kind in (attachment.kind, "document"):
            medium = self.media.get(kind)
            if medium is None or attachment.size_bytes > medium.max_bytes:
                continue
            if not medium.types or attachment.mime_type in medium.types:
                return kind
        raise FileRefusedError(attachment.file_name, max((each.max_bytes for each in self.media.values()), default=0))


class Uploads(Protocol):
    """Which files a platform has already, so that none is uploaded twice. `kind`: as which it was."""

    async def find(self, address: Address, sha256: str, kind: str) -> str | None:
        """The platform's handle of the file."""

    async def keep(self, address: Address, sha256: str, kind: str, handle: str) -> None: ...

    async def forget(self, address: Address, sha256: str, kind: str) -> None:
        """The platform does not know the handle any more."""


class NoUploads:
    """Remembers none."""

    async def find(self, address: Address, sha256: str, kind: str) -> str | None:
        return None

    async def keep(self, address: Address, sha256: str, kind: str, handle: str) -> None: ...

    async def forget(self, address: Address, sha256: str, kind: str) -> None: ...


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

    async def working(self, address: Address, external_id: str) -> None:
        """Show that this message was seen and an answer is being prepared, where the platform can. Never raises."""

    def fetch(self, attachment: InboundAttachment) -> AsyncIterator[bytes]:
        """The bytes of a file in chunks. Raises DeliveryError."""


@runtime_checkable
class Edits(Protocol):
    """A channel whose messages can be changed after they were sent."""

    async def edit(self, address: Address, external_id: str, message: OutboundMessage) -> None:
        """Change a fitted message to what it says now. To repeat it does no harm. Raises DeliveryError."""


@runtime_checkable
class Reactions(Protocol):
    """A channel in which an emoji can be put under what a customer wrote."""

    async def react(self, address: Address, external_id: str, emoji: str) -> None:
        """An empty emoji takes it back. To repeat it does no harm. Raises DeliveryError."""


@runtime_checkable
class ReadMarks(Protocol):
    """A channel in which the customer sees that his message was read."""

    async def seen(self, address: Address, external_id: str) -> None:
        """Mark a customer's message, and those before it, as read. Never raises."""


@runtime_checkable
class Closes(Protocol):
    """A channel that holds connections."""

    async def close(self) -> None:
        """Close the connections. Safe to repeat; a later call opens them again."""


def fit(message: OutboundMessage, capabilities: Capabilities) -> tuple[OutboundMessage, ...]:
    """The messages, in order, that carry this one within the platform's limits; the last has the options.

    Text is split between paragraphs, then lines, then words, then anywhere. Choices are buttons where their number
    and labels allow it, else a list to open, else a numbered text that is answered with the number. Files go first,
    each by itself or as albums, and the last one carries the text if it can: short enough, and no choices with it.
    """
    if message.template is not None:
        return (message,)
    text, options, as_list = message.text, message.options, False
    if options and not _fits_buttons(options, capabilities):
        if len(options) <= capabilities.max_rows:
            options, as_list = _rows(options, capabilities), True
        elif len(options) <= capabilities.max_buttons and not capabilities.max_rows:
            limit = capabilities.max_label_chars
            options = tuple(replace(option, label=shorten(option.label, limit)) for option in options)
        else:
            listed = "\n".join(f"{number}. {option.label}" for number, option in enumerate(options, 1))
            text, options = f"{text}\n\n{listed}".strip(), ()
    files = message.attachments
    parts = split_text(text, capabilities.max_text_chars) if text.strip() or not files else []
    prompt = capabilities.max_prompt_chars
    if options and parts and prompt and len(parts[-1]) > prompt:
        parts[-1:] = split_text(parts[-1], prompt)
    captioned = bool(files) and not options and _is_caption(text, files[-1], capabilities)
    plain = replace(message, options=(), attachments=())
    fitted = [replace(plain, text="", attachments=album) for album in _albums(files, capabilities)]
    if captioned:
        fitted[-1] = replace(fitted[-1], text=text)
    else:
        fitted += [replace(plain, text=part) for part in parts]
    fitted[1:] = [replace(part, quote=None) for part in fitted[1:]]
    fitted[-1] = replace(fitted[-1], options=options, as_list=as_list)
    return tuple(fitted)


def _albums(files: Sequence[OutboundAttachment], capabilities: Capabilities) -> list[tuple[OutboundAttachment, ...]]:
    """Photos and videos that follow one another go together as far as the platform lets them, all else by itself."""

    def visible(file: OutboundAttachment) -> bool:
        try:
            return capabilities.carrier(file) in ("photo", "video")
        except FileRefusedError:
            return False

    albums: list[tuple[OutboundAttachment, ...]] = []
    for file in files:
        last = albums[-1] if albums else ()
        if last and len(last) < capabilities.max_album and visible(file) and visible(last[-1]):
            albums[-1] = (*last, file)
        else:
            albums.append((file,))
    return albums


def _is_caption(text: str, file: OutboundAttachment, capabilities: Capabilities) -> bool:
    try:
        captions = capabilities.media[capabilities.carrier(file)].captions
    except FileRefusedError:
        return False
    return captions and bool(text.strip()) and utf16_units(text) <= capabilities.max_caption_chars


def utf16_units(text: str) -> int:
    """How platforms count characters."""
    return len(text.encode("utf-16-le", "replace")) // 2


def _fits_buttons(options: Sequence[Option], capabilities: Capabilities) -> bool:
    labels = {option.label for option in options}
    short = all(len(label) <= capabilities.max_label_chars for label in labels)
    scale = sum(len(option.label) <= SCALE_CHARS for option in options)
    scale = scale if scale <= capabilities.max_scale else 0
    return len(options) - scale <= capabilities.max_buttons and len(labels) == len(options) and short


def _rows(options: Sequence[Option], capabilities: Capabilities) -> tuple[Option, ...]:
    """Rows of a list: what a title has no room for follows in the description, whole words and all."""
    limit, rest = capabilities.max_row_chars, capabilities.max_row_description_chars
    return tuple(
        option
        if len(option.label) <= limit
        else replace(option, label=shorten(option.label, limit), description=shorten(option.label, rest))
        for option in options
    )


def split_text(text: str, limit: int) -> list[str]:
    """Pieces of at most `limit` UTF-16 units, as Telegram counts: all characters but emoji and their like are one.
    Broken where it hurts least. Never empty: an empty text is one piece."""
    pieces = []
    while len(text) > (most := _characters(text, limit)):
        places = (text.rfind(mark, most // 2, most) for mark in ("\n\n", "\n", " "))
        cut = next((place for place in places if place > 0), most)
        pieces.append(text[:cut].rstrip())
        text = text[cut:].lstrip()
    return [*pieces, text] if text or not pieces else pieces


def _characters(text: str, units: int) -> int:
    """How many characters from its beginning are at most so many UTF-16 units."""
    beginning = text[:units]
    if not beginning or max(beginning) < "\U00010000":
        return units
    taken = accumulate(2 if character > "\uffff" else 1 for character in beginning)
    return max(1, sum(1 for total in taken if total <= units))


def shorten(label: str, limit: int) -> str:
    """The label within so many characters; an ellipsis shows that it was longer."""
    return label if len(label) <= limit else label[: limit - 1].rstrip() + "…"
