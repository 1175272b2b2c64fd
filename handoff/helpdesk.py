"""The port to a help desk in which people also work: our tickets appear there, and what they do comes back.

A connector only speaks to one product. What is sent when, what is an echo and what the customer may see is decided by
whoever uses it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Protocol


class DeskStatus(StrEnum):
    """What every help desk can tell apart."""

    OPEN = "open"
    RESOLVED = "resolved"
    CLOSED = "closed"


@dataclass(frozen=True)
class DeskFile:
    path: Path
    file_name: str
    mime_type: str


@dataclass(frozen=True)
class DeskTicket:
    """A ticket as it is to appear there."""

    mark: str
    """By it the connector finds the ticket again. Of letters and digits, and no other ticket's, whosever it is."""
    number: int
    """As the customer was told it."""
    subject: str
    text: str
    priority: str
    team: str
    lang: str


@dataclass(frozen=True)
class DeskComment:
    """Something said, as it is to appear there."""

    mark: str
    """The ticket's and, after a colon, one of its own: by it the connector finds the comment again."""
    author: str
    text: str
    public: bool
    """The customer knows it: he wrote it, or it was sent to him. Otherwise it is a note."""
    files: Sequence[DeskFile] = ()


@dataclass(frozen=True)
class RemoteFile:
    """A file that stands there with a comment."""

    name: str
    source: str
    """By which the connector finds it."""
    size_bytes: int | None = None
    """As the desk says; what comes may differ."""


@dataclass(frozen=True)
class RemoteComment:
    """Something that stands there."""

    id: str
    text: str
    public: bool
    """Meant for the customer. What a desk does not say is private."""
    at: datetime | None = None
    mark: str | None = None
    """Ours, if it ends with one."""
    files: Sequence[RemoteFile] = ()


@dataclass(frozen=True)
class RemoteTicket:
    id: str
    status: DeskStatus
    comments: Sequence[RemoteComment] = field(default=())
    """In the order in which they were written."""


class HelpDesk(Protocol):
    """Every method raises HelpDeskError: `permanent` when trying again can't help, else later may."""

    name: str

    async def check(self) -> str:
        """Who we are there, in words."""

    async def create(self, ticket: DeskTicket) -> str:
        """Make a ticket; its id there."""

    async def find(self, mark: str) -> str | None:
        """The id of the ticket that has this mark, when it is not known whether making it succeeded."""

    async def get(self, remote_id: str) -> RemoteTicket:
        """Raises HelpDeskError with `gone` for one that is not there any more."""
        ...

    async def update(self, remote_id: str, ticket: DeskTicket) -> None:
        """Bring subject and priority there to ours."""

    async def comment(self, remote_id: str, comment: DeskComment) -> str:
        """Add a comment with its files; its id there."""

    def fetch(self, file: RemoteFile) -> AsyncIterator[bytes]:
        """The file in chunks, as they come."""
        ...

    async def set_status(self, remote_id: str, status: DeskStatus, mark: str) -> None: ...

    async def close(self) -> None:
        """Give back what is held."""
