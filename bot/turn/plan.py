"""What thinking hands to saving: the plan of a turn, and what it is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from bot.attachments import StoredFile
from bot.desk.nps_reading import NpsSaid
from bot.dialogue import Candidate, Decision, DialogueState
from bot.turn.situation import Situation
from handoff.records import Feedback
from handoff.routing import Route


@dataclass(frozen=True)
class Routed:
    route: Route
    texts: Sequence[str]
    """What the customer said, the most telling first."""


@dataclass(frozen=True)
class Recalled:
    """What is known of an utterance whose turn broke."""

    routed: Routed
    record: Mapping[str, Any]


@dataclass(frozen=True)
class ToDesk:
    """What the customer did that concerns a ticket."""

    kind: Literal["word", "courtesy", "feedback", "end", "back", "nps"]
    ticket_id: int = 0
    feedback: Feedback = Feedback.HELPED
    nps: NpsSaid | None = None
    """Set of "nps"."""


@dataclass(frozen=True)
class Plan:
    """What a turn is going to write."""

    situation: Situation
    lang: str
    state: DialogueState
    decision: Decision
    record: Mapping[str, Any]
    """Kept with the message: what was understood, and the rule that decided."""
    routed: Routed | None
    """Set when there is a handoff among the actions, and when a word for the desk may tell the topic at last."""
    to_desk: ToDesk | None = None
    """Set when the customer's word is not for the assistant."""
    pictures: Mapping[str, Sequence[StoredFile]] = field(default_factory=dict)
    """Article, or picture of a flow → the files, where an answer shows some."""
    draft: Candidate | None = None
    """What a person gets to send in place of the assistant."""
