"""Several short messages in quick succession are one utterance: which of those that wait belong together, and how
long to wait for what follows. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import pairwise

from bot.channels.base import InboundMessage

APART_SECONDS = 10.0
"""Messages that were written further apart are separate utterances, however long they have waited together."""
MAX_MESSAGES = 20
FRAGMENT_WORDS = 2
LONGEST_WAITS = 4
"""A customer who never pauses is answered after this many times the pause."""

JOINABLE = ("text", "attachment")
WITHDRAWN = "withdrawn"
"""Kind of a message that the customer took back while it waited: it is kept, and not answered."""


@dataclass(frozen=True)
class Waiting:
    """A stored message whose turn has not come."""

    message: InboundMessage
    received_at: datetime


def utterance_length(waiting: Sequence[Waiting], max_text_chars: int) -> int:
    """How many of the messages that wait, from the oldest on, are one utterance. At least 1 when there are any.

    Presses of buttons, commands and what can't be understood are utterances of their own. A whole question ends an
    utterance, unless only a few words follow ("№ 12345", "please"): of several questions each wants its answer.
    """
    if not waiting:
        return 0
    chars = len(waiting[0].message.text)
    for number, (earlier, later) in enumerate(pairwise(waiting), 1):
        a, b = earlier.message, later.message
        chars += len(b.text) + 1
        apart = abs((b.sent_at - a.sent_at).total_seconds())
        joined = a.kind in JOINABLE and b.kind in JOINABLE and a.choice is None and b.choice is None
        two_questions = _is_question(a.text) and not _is_short(b.text)
        if not joined or two_questions or apart > APART_SECONDS or chars > max_text_chars or number == MAX_MESSAGES:
            return number
    return len(waiting)


def with_edits(waiting: Sequence[Waiting]) -> list[Waiting]:
    """What waits, each message as it reads after the edits that wait with it: the mistake is not answered. One that is
    taken back is WITHDRAWN."""
    edits = {each.message.refers_to: each.message.text for each in waiting if each.message.kind == "edit"}
    gone = {each.message.refers_to for each in waiting if each.message.kind == "deletion"}
    return [replace(each, message=_edited(each.message, edits, gone)) for each in waiting]


def _edited(message: InboundMessage, edits: Mapping[str | None, str], gone: Collection[str | None]) -> InboundMessage:
    name = message.platform_id or message.external_id
    if message.kind not in JOINABLE:
        return message
    return replace(message, text=edits.get(name, message.text), kind=WITHDRAWN if name in gone else message.kind)


def patience(utterance: Sequence[Waiting], pause: timedelta, now: datetime) -> float:
    """Seconds to wait for what the customer is about to add; 0 when nothing is expected.

    Expected after a few words, a text that ends like a half sentence, or a file without words.
    """
    last = utterance[-1]
    message = last.message
    if message.kind not in JOINABLE or message.choice is not None or not _sounds_unfinished(message):
        return 0.0
    end = min(last.received_at + pause, utterance[0].received_at + LONGEST_WAITS * pause)
    return max(0.0, (end - now).total_seconds())


def _sounds_unfinished(message: InboundMessage) -> bool:
    text = message.text.rstrip()
    if not text:
        return bool(message.attachments)
    return text.endswith((",", ":", "-", "–", "—", "…", "...")) or (
        _is_short(text) and not text.endswith(("?", "!", "."))
    )


def _is_short(text: str) -> bool:
    return len(re.findall(r"\w+", text)) <= FRAGMENT_WORDS


def _is_question(text: str) -> bool:
    return text.rstrip().endswith("?") and not _is_short(text)
