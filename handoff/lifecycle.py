"""The life of a ticket as a pure state machine."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from handoff.errors import TicketStateError


class TicketStatus(StrEnum):
    NEW = "new"
    """Nobody has answered yet."""
    OPEN = "open"
    """A person works on it, and the next word is ours."""
    WAITING = "waiting_for_customer"
    ON_HOLD = "on_hold"
    """Something else has to end first: a linked task, for as long as it takes. What the customer says meanwhile wants
    an answer all the same; the task stays linked."""
    AWAITING_FEEDBACK = "awaiting_feedback"
    """The agent's last word is said; the customer is about to be asked whether it helped."""
    RESOLVED = "resolved"
    CLOSED = "closed"
    """Ended without a resolution: a duplicate, spam, a customer who left."""


LIVE = frozenset(
    {TicketStatus.NEW, TicketStatus.OPEN, TicketStatus.WAITING, TicketStatus.ON_HOLD, TicketStatus.AWAITING_FEEDBACK}
)
"""A person has the conversation. At most one ticket of a conversation is live."""


ACTS = (TicketStatus.NEW, TicketStatus.OPEN)
"""Where the next word is a person's."""


class TicketEvent(StrEnum):
    AGENT_REPLIED = "agent_replied"
    NOT_DELIVERED = "not_delivered"
    """What an agent said did not arrive: the next word is ours again."""
    CUSTOMER_WROTE = "customer_wrote"
    HELD = "held"
    RESUMED = "resumed"
    """The linked task ended, its day came, or an agent went on by himself."""
    TRANSFERRED = "transferred"
    ESCALATED = "escalated"
    """By hand, as above: somebody else has to act now, whoever's word was next."""
    FEEDBACK_ASKED = "feedback_asked"
    """The agent's last word; the survey follows."""
    HELPED = "helped"
    NOT_HELPED = "not_helped"
    RESOLVED = "resolved"
    CLOSED = "closed"
    REOPENED = "reopened"


_NEW, _OPEN, _WAITING, _HOLD, _FEEDBACK, _RESOLVED, _CLOSED = TicketStatus
_PASSED_ON = {_NEW: _NEW, _OPEN: _OPEN, _WAITING: _OPEN, _HOLD: _HOLD, _FEEDBACK: _OPEN}
"""A linked task is waited for further."""

MOVES: Mapping[TicketEvent, Mapping[TicketStatus, TicketStatus]] = {
    TicketEvent.AGENT_REPLIED: {_NEW: _WAITING, _OPEN: _WAITING, _WAITING: _WAITING, _HOLD: _HOLD, _FEEDBACK: _WAITING},
    TicketEvent.CUSTOMER_WROTE: {_NEW: _NEW, _OPEN: _OPEN, _WAITING: _OPEN, _HOLD: _OPEN, _FEEDBACK: _OPEN},
    TicketEvent.NOT_DELIVERED: {_NEW: _NEW, _OPEN: _OPEN, _WAITING: _OPEN, _HOLD: _OPEN, _FEEDBACK: _OPEN},
    TicketEvent.HELD: {_NEW: _HOLD, _OPEN: _HOLD, _WAITING: _HOLD, _FEEDBACK: _HOLD},
    TicketEvent.RESUMED: {_NEW: _NEW, _OPEN: _OPEN, _WAITING: _OPEN, _HOLD: _OPEN, _FEEDBACK: _OPEN},
    TicketEvent.TRANSFERRED: _PASSED_ON,
    TicketEvent.ESCALATED: _PASSED_ON,
    TicketEvent.FEEDBACK_ASKED: {_NEW: _FEEDBACK, _OPEN: _FEEDBACK, _WAITING: _FEEDBACK, _HOLD: _FEEDBACK},
    TicketEvent.HELPED: {_FEEDBACK: _RESOLVED, _WAITING: _RESOLVED, _OPEN: _RESOLVED},
    TicketEvent.NOT_HELPED: {**_PASSED_ON, _HOLD: _OPEN, _RESOLVED: _OPEN, _CLOSED: _OPEN},
    TicketEvent.RESOLVED: dict.fromkeys(LIVE, _RESOLVED),
    TicketEvent.CLOSED: dict.fromkeys(LIVE, _CLOSED),
    TicketEvent.REOPENED: {_RESOLVED: _OPEN, _CLOSED: _OPEN},
}


def after(ticket_id: int, status: TicketStatus, event: TicketEvent) -> TicketStatus:
    """The status that follows. Raises TicketStateError for a move that is not in the table."""
    following = MOVES[event].get(status)
    if following is None:
        raise TicketStateError(ticket_id, status, event.replace("_", " "))
    return following
