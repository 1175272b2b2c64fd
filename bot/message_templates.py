"""The messages that a platform approved beforehand: `templates.yml` in the data folder."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated

import structlog
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from sqlalchemy import String, Text, UniqueConstraint, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column

from bot.channels.base import Template
from bot.channels.whatsapp_updates import TemplateChange
from bot.errors import SettingsError
from bot.language import DEFAULT
from handoff.records import Base

log = structlog.get_logger()

VARIABLES = frozenset({"ticket_number", "customer_name", "agent_name", "shop"})
UNUSABLE = frozenset({"REJECTED", "PAUSED", "DISABLED", "PENDING", "PENDING_DELETION", "DELETED", "IN_APPEAL"})
"""States in which Meta refuses a template. One of which nothing was heard is tried."""


class TemplateRow(Base):
    """What Meta said last of a template: approved, rejected, paused …"""

    __tablename__ = "template_states"
    __table_args__ = (UniqueConstraint("name", "language"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(512))
    language: Mapped[str] = mapped_column(String(16))
    status: Mapped[str] = mapped_column(String(64))
    reason: Mapped[str] = mapped_column(Text, default="")
    updated_at: Mapped[datetime]


class _Form(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(pattern=r"^[a-z0-9_]{1,512}$")]
    language: Annotated[str, Field(pattern=r"^[a-z]{2,3}(_[A-Z]{2})?$")]
    text: Annotated[str, Field(min_length=1, max_length=1024)]
    variables: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _matches(self) -> _Form:
        if unknown := set(self.variables) - VARIABLES:
            raise ValueError(f"unknown variables {sorted(unknown)}; known are {sorted(VARIABLES)}")
        used = [int(number) for number in re.findall(r"\{\{(\d+)\}\}", self.text)]
        if sorted(set(used)) != list(range(1, len(self.variables) + 1)):
            raise ValueError(f"the text has the places {used}, and there are {len(self.variables)} variables")
        return self


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    id: Annotated[str, Field(min_length=1)]
    ru: _Form | None = None
    en: _Form | None = None


@dataclass(frozen=True)
class Filled:
    """A template with its variables in place, and the text as the customer will read it."""

    id: str
    template: Template
    text: str


class MessageTemplates:
    def __init__(self, entries: Collection[_Entry] = ()) -> None:
        self._entries = {entry.id: entry for entry in entries}

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(self._entries)

    def previews(self, lang: str, values: Mapping[str, str]) -> dict[str, str]:
        """Id → the text as the customer will read it; an ellipsis stands for what is not known yet."""
        found = {}
        for entry in self._entries.values():
            form: _Form | None = getattr(entry, lang, None) or getattr(entry, DEFAULT)
            if form is not None:
                found[entry.id] = _filled(form.text, [values.get(name) or "…" for name in form.variables])
        return found

    def fill(
        self, lang: str, values: Mapping[str, str], states: Mapping[tuple[str, str], str], wanted: str | None = None
    ) -> Filled | None:
        """The wanted template, or else the first that can be sent: approved as far as is known, in this language or
        the default one, with every variable known. None: there is none."""
        order = sorted(self._entries.values(), key=lambda entry: entry.id != wanted)
        for entry in order:
            for form in (getattr(entry, lang, None), getattr(entry, DEFAULT)):
                if form is None or states.get((form.name, form.language)) in UNUSABLE:
                    continue
                filled = tuple(" ".join(values.get(name, "").split()) for name in form.variables)
                if all(filled):
                    return Filled(entry.id, Template(form.name, form.language, filled), _filled(form.text, filled))
        return None


def _filled(text: str, values: Sequence[str]) -> str:
    for number, value in enumerate(values, 1):
        text = text.replace(f"{{{{{number}}}}}", value)
    return text


def load_templates(path: Path) -> MessageTemplates:
    """Raises SettingsError that names the file and what is wrong. A file that is not there has no templates."""
    if not path.exists():
        return MessageTemplates()
    try:
        content = YAML(typ="safe").load(path)
        return MessageTemplates(TypeAdapter(list[_Entry]).validate_python(content or []))
    except (YAMLError, ValidationError, OSError) as error:
        raise SettingsError(f"{path}: {error}") from error


async def template_states(session: AsyncSession) -> dict[tuple[str, str], str]:
    """Name and language → what Meta said last of it."""
    rows = await session.execute(select(TemplateRow.name, TemplateRow.language, TemplateRow.status))
    return {(row.name, row.language): row.status for row in rows}


async def note_template(session: AsyncSession, change: TemplateChange, *, now: datetime) -> None:
    row = await session.scalar(
        select(TemplateRow).where(TemplateRow.name == change.name, TemplateRow.language == change.language)
    )
    if row is None:
        row = TemplateRow(name=change.name[:512], language=change.language[:16])
        session.add(row)
    row.status, row.reason, row.updated_at = change.status[:64], change.reason, now
    if change.status != "APPROVED":
        log.warning("whatsapp.template", name=change.name, language=change.language, status=change.status)
