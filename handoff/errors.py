"""What can go wrong with tickets and conversations.

HandoffError
├── ConversationNotFoundError   conversation_id
├── TicketNotFoundError         ticket_id
├── TicketStateError            ticket_id, status, attempted
│   └── UnansweredError
├── TicketHeldError             ticket_id, holder_id, holder
├── HoldDateError               until
├── AgentNotFoundError          agent_id
├── CustomerNotFoundError       customer_id
├── CustomerError               what can't be done to a customer
│   ├── StrangersError          ticket_id, other_id
│   └── LiveTicketsError        ticket_ids
├── HelpDeskError               permanent, gone
├── OwnershipError              conversation_id, owner
├── AccessError                 who, permission
└── DataFileError               path, line, problem
    ├── TopicsFileError
    └── DeskFileError
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path


class HandoffError(Exception):
    """Root of everything this package raises."""


class ConversationNotFoundError(HandoffError):
    def __init__(self, conversation_id: int) -> None:
        super().__init__(f"there is no conversation {conversation_id}")
        self.conversation_id = conversation_id


class TicketNotFoundError(HandoffError):
    def __init__(self, ticket_id: int) -> None:
        super().__init__(f"there is no ticket {ticket_id}: `otvet tickets list` shows them")
        self.ticket_id = ticket_id


class TicketStateError(HandoffError):
    def __init__(self, ticket_id: int, status: str, attempted: str) -> None:
        super().__init__(f"ticket {ticket_id} is {status}: it can't be {attempted}")
        self.ticket_id = ticket_id
        self.status = status
        self.attempted = attempted


class UnansweredError(TicketStateError):
    """No person has said a word to the customer: there is nothing that could have helped him."""

    def __init__(self, ticket_id: int, status: str) -> None:
        super().__init__(
            ticket_id, status, "finished: nobody has answered the customer. Reply first, or resolve or close it"
        )


class TicketHeldError(HandoffError):
    """Somebody else has it, and is there: who takes it from him has to say so."""

    def __init__(self, ticket_id: int, holder_id: int, holder: str) -> None:
        super().__init__(f"ticket {ticket_id} is {holder}'s: say that you take it over")
        self.ticket_id = ticket_id
        self.holder_id = holder_id
        self.holder = holder


class HoldDateError(HandoffError):
    """A ticket can't be put on hold until a moment that is past."""

    def __init__(self, until: datetime) -> None:
        super().__init__(f"{until:%Y-%m-%d} is past: put it on hold until a day to come, or without a day")
        self.until = until


class AgentNotFoundError(HandoffError):
    def __init__(self, agent_id: int | str) -> None:
        super().__init__(f"there is no agent {agent_id}: `otvet agents list` shows them")
        self.agent_id = agent_id


class CustomerNotFoundError(HandoffError):
    def __init__(self, customer_id: int) -> None:
        super().__init__(f"there is no customer {customer_id}: `otvet customers list` shows them")
        self.customer_id = customer_id


class CustomerError(HandoffError):
    """The message says what can't be done, and why."""


class StrangersError(CustomerError):
    """Two tickets are not known to be the same customer's."""

    def __init__(self, ticket_id: int, other_id: int) -> None:
        super().__init__(
            f"tickets {ticket_id} and {other_id} are not known to be one customer's: "
            "if they are, link the customers first"
        )
        self.ticket_id = ticket_id
        self.other_id = other_id


class LiveTicketsError(CustomerError):
    """He can't be erased while people work for him."""

    def __init__(self, ticket_ids: Sequence[int]) -> None:
        names = ", ".join(f"№ {ticket_id}" for ticket_id in ticket_ids)
        super().__init__(f"tickets are still open: {names}. Resolve or close them, then erase the customer")
        self.ticket_ids = tuple(ticket_ids)


class HelpDeskError(HandoffError):
    """A help desk refused or could not be reached. permanent: trying the same again can't help. gone: it says that
    what was asked for is not there."""

    def __init__(self, problem: str, *, permanent: bool = False, gone: bool = False) -> None:
        super().__init__(problem)
        self.permanent = permanent
        self.gone = gone


class OwnershipError(HandoffError):
    def __init__(self, conversation_id: int, owner: str) -> None:
        super().__init__(f"conversation {conversation_id} belongs to the {owner}")
        self.conversation_id = conversation_id
        self.owner = owner


class AccessError(HandoffError):
    """Somebody signed in wants what his role does not allow."""

    def __init__(self, who: str, permission: str) -> None:
        super().__init__(f"{who} may not do this: it takes the permission {permission}")
        self.who = who
        self.permission = permission


class DataFileError(HandoffError):
    """A file of the operator's that can't be read as what it should be."""

    def __init__(self, path: Path, problem: str, line: int | None = None) -> None:
        where = f"{path}:{line}" if line else str(path)
        super().__init__(f"{where}: {problem}")
        self.path = path
        self.line = line
        self.problem = problem


class TopicsFileError(DataFileError):
    """topics.yml"""


class DeskFileError(DataFileError):
    """desk.yml"""
