"""Which files platforms have already: the same picture goes to a thousand customers and is uploaded once."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, String, UniqueConstraint, delete, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Mapped, mapped_column

from bot.channels.base import Address
from bot.work import Sessions
from handoff.records import Base

KEPT = timedelta(days=29)
"""WhatsApp forgets a file after 30 days."""


class UploadRow(Base):
    __tablename__ = "uploads"
    __table_args__ = (UniqueConstraint("channel", "account", "sha256", "kind"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    channel: Mapped[str] = mapped_column(String(32))
    account: Mapped[str] = mapped_column(String(64))
    sha256: Mapped[str] = mapped_column(String(64))
    kind: Mapped[str] = mapped_column(String(32))
    handle: Mapped[str] = mapped_column(String(512))
    uploaded_at: Mapped[datetime]


class StoredUploads:
    """`bot.channels.base.Uploads` in the database."""

    def __init__(self, sessions: Sessions, clock: Callable[[], datetime]) -> None:
        self._sessions = sessions
        self._clock = clock

    async def find(self, address: Address, sha256: str, kind: str) -> str | None:
        async with self._sessions.reading() as session:
            return (
                await session.execute(
                    select(UploadRow.handle).where(
                        *_of(address, sha256, kind), UploadRow.uploaded_at > self._clock() - KEPT
                    )
                )
            ).scalar_one_or_none()

    async def keep(self, address: Address, sha256: str, kind: str, handle: str) -> None:
        if not sha256:
            return
        row = {"handle": handle, "uploaded_at": self._clock()}
        key = {"channel": address.channel, "account": address.account, "sha256": sha256, "kind": kind}
        async with self._sessions.begin() as session:
            insert = postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
            await session.execute(
                insert(UploadRow).values(**key, **row).on_conflict_do_update(index_elements=list(key), set_=row)
            )

    async def forget(self, address: Address, sha256: str, kind: str) -> None:
        async with self._sessions.begin() as session:
            await session.execute(delete(UploadRow).where(*_of(address, sha256, kind)))


def _of(address: Address, sha256: str, kind: str) -> tuple[ColumnElement[bool], ...]:
    return (
        UploadRow.channel == address.channel,
        UploadRow.account == address.account,
        UploadRow.sha256 == sha256,
        UploadRow.kind == kind,
    )
