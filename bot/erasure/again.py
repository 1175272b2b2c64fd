"""A backup brings back who was erased since it was made: they are erased again, by the numbers in the audit log."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from bot.desk.records import AuditEntry
from bot.erasure.erasing import ACTION, Eraser
from bot.work import Sessions
from handoff.errors import ConversationNotFoundError, CustomerNotFoundError, HandoffError


@dataclass(frozen=True)
class Erased:
    """One line of the audit log. Numbers alone."""

    at: datetime
    who: str
    customer_id: int | None
    conversation_ids: tuple[int, ...]
    messages: int
    files: int
    why: str

    @property
    def name(self) -> str:
        if self.customer_id is not None:
            return f"customer {self.customer_id}"
        return f"conversation {', '.join(map(str, self.conversation_ids))}"


async def erased_since(sessions: Sessions, since: datetime | None = None) -> list[Erased]:
    """The oldest first; nobody where there is no database yet."""
    lines = select(AuditEntry).where(AuditEntry.action == ACTION).order_by(AuditEntry.id)
    if since is not None:
        lines = lines.where(AuditEntry.at > since)
    try:
        async with sessions.reading() as session:
            rows = (await session.scalars(lines)).all()
    except SQLAlchemyError:
        return []
    return [
        Erased(
            at=row.at,
            who=row.who,
            customer_id=row.details.get("customer"),
            conversation_ids=tuple(row.details.get("conversations", ())),
            messages=int(row.details.get("messages", 0)),
            files=int(row.details.get("files", 0)),
            why=str(row.details.get("why", "")),
        )
        for row in rows
    ]


async def erase_again(
    sessions: Sessions, eraser: Eraser, erased: Sequence[Erased], *, by: str, now: datetime
) -> tuple[int, list[str]]:
    """How many were erased, and of the others why not. Who is not there yet needs nothing."""
    done, problems = 0, []
    for each in erased:
        try:
            async with sessions.begin() as session:
                if each.customer_id is not None:
                    await eraser.erase(session, each.customer_id, by=by, now=now)
                else:
                    for conversation_id in each.conversation_ids:
                        await eraser.erase_conversation(session, conversation_id, by=by, now=now)
            done += 1
        except (CustomerNotFoundError, ConversationNotFoundError):
            continue
        except HandoffError as error:
            problems.append(f"{each.name}: {error}")
    return done, problems
