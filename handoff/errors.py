"""What can go wrong with tickets and conversations.

HandoffError
├── ConversationNotFoundError   conversation_id
├── TicketNotFoundError         ticket_id
├── TicketStateError            ticket_id, status, attempted
├── AgentNotFoundError          agent_id
├── CustomerNotFoundError       customer_id
├── CustomerError               what can't be done to a customer
├── HelpDeskError               permanent
├── OwnershipError              conversation_id, owner
├── AccessError                 who, permission
└── DataFileError               path, line, problem
    ├── TopicsFileError
    └── DeskFileError
"""

from __future__ import annotations

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


class HelpDeskError(HandoffError):
    """A help desk refused or could not be reached. permanent: trying the same again can't help."""

    def __init__(self, problem: str, *, permanent: bool = False) -> None:
        super().__init__(problem)
        self.permanent = permanent


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
