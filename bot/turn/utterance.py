"""What an utterance consists of, by the kinds of its messages. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Literal

from bot.attachments import Fetched
from bot.channels.base import InboundMessage
from bot.dialogue import Utterance
from bot.flows.engine import START_TOKEN
from bot.gathering import JOINABLE, WITHDRAWN
from bot.language import DEFAULT, LANGUAGES
from handoff.records import AttachmentState, Author

SILENT = frozenset({"edit", "deletion", "reaction", "note", "echo", "blocked", "unblocked", WITHDRAWN})
"""Kinds of message that tell something and want no answer."""
STARTS_FLOW = "flow"
"""Kind of message by which an agent starts a flow: `text` is its id, `context["note"]` what the transcript says."""
AUTHORS = {"note": Author.SYSTEM, STARTS_FLOW: Author.SYSTEM, "echo": Author.AGENT}
"""Who wrote what did not come from the customer: the platform, an agent in the desk or in the platform's own app."""
_UTTERED: dict[str, Literal["text", "start", "choice", "attachment"]] = {
    "text": "text",
    "start": "start",
    "choice": "choice",
    "attachment": "attachment",
    STARTS_FLOW: "choice",
}


def own_words(utterance: Sequence[InboundMessage]) -> list[str]:
    """The customer's own words in them. What a button said are not."""
    return [message.text for message in utterance if message.kind in JOINABLE and message.text]


def known_language(remembered: str | None, utterance: Sequence[InboundMessage]) -> str | None:
    """The customer's language before his words are read: as he wrote before, or as his platform says."""
    return remembered or next((each.lang_hint for each in utterance if each.lang_hint in LANGUAGES), None)


def uttered(utterance: Sequence[InboundMessage], fetched: Sequence[Fetched], known: str | None) -> Utterance:
    """As the decision has it. known: the customer's language, as far as it is known before his words are read."""
    first, files = utterance[0], list(chain.from_iterable(fetched))
    kind = "attachment" if files and first.kind in JOINABLE else first.kind
    text = first.text if first.kind in ("start", STARTS_FLOW) else "\n".join(own_words(utterance))
    return Utterance(
        kind=_UTTERED.get(kind, "unsupported"),
        text=text,
        lang=known or DEFAULT,
        choice=f"{START_TOKEN}:{text}" if first.kind == STARTS_FLOW else first.choice,
        attachment_kinds=tuple(file.kind for file in files),
        refused_attachments=tuple(
            file.state for file in files if file.state in (AttachmentState.TOO_LARGE, AttachmentState.FAILED)
        ),
    )
