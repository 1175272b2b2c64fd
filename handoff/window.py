"""The clock of platforms that let a business write for a time only after the customer's last message."""

from __future__ import annotations

from datetime import datetime, time, timedelta
from zoneinfo import ZoneInfo

from sqlalchemy import String, UniqueConstraint, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column

from handoff.records import Base, BigId

MARGIN = timedelta(minutes=30)
"""How long before the end of a platform's window a question is asked at the latest."""
EVENING, MORNING = time(21), time(8)
"""Between these nobody is reminded of anything."""


class Window(Base):
    """Until when this customer may be written to freely. No row: he never wrote, or his platform has no window."""

    __tablename__ = "windows"
    __table_args__ = (UniqueConstraint("channel", "account", "chat_id"),)

    id: Mapped[BigId] = mapped_column(primary_key=True)
    channel: Mapped[str] = mapped_column(String(32))
    account: Mapped[str] = mapped_column(String(64))
    chat_id: Mapped[str] = mapped_column(String(128))
    closes_at: Mapped[datetime]


async def closes_at(session: AsyncSession, *, channel: str, account: str, chat_id: str) -> datetime | None:
    found: datetime | None = await session.scalar(
        select(Window.closes_at).where(Window.channel == channel, Window.account == account, Window.chat_id == chat_id)
    )
    return found


async def set_closing(session: AsyncSession, at: datetime, *, channel: str, account: str, chat_id: str) -> None:
    """Whether later or earlier than it was."""
    insert = postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
    row = {"channel": channel, "account": account, "chat_id": chat_id, "closes_at": at}
    await session.execute(
        insert(Window)
        .values(row)
        .on_conflict_do_update(index_elements=["channel", "account", "chat_id"], set_={"closes_at": at})
    )


def reminder_at(closing: datetime, before: timedelta, zone: ZoneInfo) -> datetime:
    """When to remind of a closing: so long before it, and in the evening rather than at night."""
    moment = (closing - before).astimezone(zone)
    if moment.time() >= EVENING:
        return moment.replace(hour=EVENING.hour, minute=0, second=0, microsecond=0)
    if moment.time() < MORNING:
        evening = moment - timedelta(days=1)
        return evening.replace(hour=EVENING.hour, minute=0, second=0, microsecond=0)
    return moment
