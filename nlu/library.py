"""The stored intents and their examples: what training reads, and what editors change while the assistant works.

Everything works inside the caller's transaction and never commits. What is removed stays in its row, so that it can
be brought back. `nlu.library_files` takes the files in and writes them back.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from sqlalchemy import ColumnElement, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from nlu.errors import ExampleRefused, IntentNameRefused, StaleExample, StaleIntent, UnknownExample, UnknownIntent
from nlu.features import fold
from nlu.records import ExampleRow, IntentFileRow, IntentRow
from nlu.training_data import Example, IntentSpec, TrainingData, strip_entities

MAX_EXAMPLE_CHARS: Final = 1000
MAX_AT_ONCE: Final = 1000
_NAME: Final = re.compile(r"[\w.+-]+(/[\w.+-]+)?")
"""As Rasa has it: one slash makes a retrieval intent."""


@dataclass(frozen=True)
class NewExample:
    """text: may have Rasa's entity marks."""

    text: str
    lang: str | None


@dataclass(frozen=True)
class StoredExample:
    id: int
    intent: str
    text: str
    raw: str
    lang: str | None
    added_at: datetime
    added_by: str
    stamp: str
    """Another one after its words or its intent were changed; a new name of the intent is no change."""


@dataclass(frozen=True)
class StoredIntent:
    """`counts`: examples by language."""

    name: str
    metadata: Mapping[str, Any]
    revision: int
    updated_at: datetime
    updated_by: str
    counts: Mapping[str | None, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Added:
    """added: new; already: stood in this intent; elsewhere: not added, because another intent has the text."""

    added: tuple[StoredExample, ...]
    already: tuple[str, ...]
    elsewhere: tuple[StoredExample, ...] = ()


# Reading


async def training_data(session: AsyncSession) -> TrainingData:
    """Everything that a training learns from, in the order in which it came. The examples name their file, no line."""
    intents = {row.id: row for row in await session.scalars(_present(IntentRow).order_by(IntentRow.id))}
    rows = await session.scalars(_present(ExampleRow).order_by(ExampleRow.id))
    examples = tuple(_example(row, intents[row.intent_id].name) for row in rows if row.intent_id in intents)
    extras: tuple[dict[str, tuple[str, ...]], ...] = ({}, {}, {})
    for found in await session.scalars(select(IntentFileRow.extras).order_by(IntentFileRow.path)):
        for whole, kind in zip(extras, ("synonyms", "lookups", "regexes"), strict=True):
            for name, lines in found.get(kind, {}).items():
                whole[name] = (*whole.get(name, ()), *lines)
    return TrainingData(examples, {row.name: IntentSpec(row.name, row.details) for row in intents.values()}, *extras)


def fingerprint(data: TrainingData) -> str:
    """SHA-256 over what a training makes of it, whatever the order."""
    lines = [f"i\0{name}\0{sorted(spec.metadata.items())!r}" for name, spec in data.intents.items()]
    lines += [f"e\0{each.intent}\0{each.lang}\0{each.raw or each.text}" for each in data.examples]
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


async def count(session: AsyncSession) -> int:
    """Intents, removed ones included: none says that nothing was ever read."""
    return await session.scalar(select(func.count(IntentRow.id))) or 0


async def find_intents(session: AsyncSession, *, words: str = "") -> list[StoredIntent]:
    """Ordered by name. words: a part of the name or of an example."""
    wanted: list[ColumnElement[bool]] = []
    if words:
        # SQLite folds the case of Latin letters alone.
        forms = {words, words.lower(), words.upper(), words.capitalize()}
        said = or_(*(ExampleRow.text.icontains(form, autoescape=True) for form in forms))
        saying = select(ExampleRow.intent_id).where(ExampleRow.removed_at.is_(None), said)
        wanted.append(IntentRow.name.icontains(words, autoescape=True) | IntentRow.id.in_(saying))
    rows = (await session.scalars(_present(IntentRow).where(*wanted).order_by(IntentRow.name))).all()
    counted = await session.execute(
        select(ExampleRow.intent_id, ExampleRow.lang, func.count())
        .where(ExampleRow.removed_at.is_(None))
        .group_by(ExampleRow.intent_id, ExampleRow.lang)
    )
    counts: dict[int, dict[str | None, int]] = {}
    for intent_id, lang, number in counted:
        counts.setdefault(intent_id, {})[lang] = number
    return [_stored(row, counts.get(row.id, {})) for row in rows]


async def get_intent(session: AsyncSession, name: str) -> StoredIntent:
    """Raises UnknownIntent."""
    row = await _row(session, name)
    counted = await session.execute(
        select(ExampleRow.lang, func.count())
        .where(ExampleRow.intent_id == row.id, ExampleRow.removed_at.is_(None))
        .group_by(ExampleRow.lang)
    )
    return _stored(row, dict(counted.all()))


async def examples_of(session: AsyncSession, name: str) -> list[StoredExample]:
    """In the order in which they came. Raises UnknownIntent."""
    row = await _row(session, name)
    found = await session.scalars(
        _present(ExampleRow).where(ExampleRow.intent_id == row.id).order_by(ExampleRow.lang, ExampleRow.id)
    )
    return [_stored_example(each, row.name) for each in found]


async def standing(session: AsyncSession, texts: Iterable[str], *, intent: str = "") -> dict[str, StoredExample]:
    """Text → an example with the same words, for those that there is one of; where several intents have it, that of
    `intent`."""
    keys = {example_key(text): text for text in texts}
    rows = await session.execute(
        select(ExampleRow, IntentRow.name)
        .join(IntentRow, IntentRow.id == ExampleRow.intent_id)
        .where(ExampleRow.key.in_(keys), ExampleRow.removed_at.is_(None), IntentRow.removed_at.is_(None))
    )
    found: dict[str, StoredExample] = {}
    for row, name in rows:
        if keys[row.key] not in found or name == intent:
            found[keys[row.key]] = _stored_example(row, name)
    return found


# Changing


async def create_intent(
    session: AsyncSession, name: str, *, metadata: Mapping[str, Any], by: str, at: datetime
) -> StoredIntent:
    """Raises IntentNameRefused for a name that is taken or none."""
    name = _checked(name)
    row = await session.scalar(select(IntentRow).where(IntentRow.name == name))
    if row is not None and row.removed_at is None:
        raise IntentNameRefused(name, "there is an intent of this name", "taken")
    if row is not None:  # a new one of an old name has none of its examples
        for old in await session.scalars(_present(ExampleRow).where(ExampleRow.intent_id == row.id)):
            old.removed_at = at
        row.removed_at, row.details = None, dict(metadata)
        _touch(row, by, at)
    else:
        row = IntentRow(name=name, details=dict(metadata), revision=1, updated_by=by, updated_at=at)
        session.add(row)
    await session.flush()
    return _stored(row, {})


async def change_intent(
    session: AsyncSession,
    name: str,
    *,
    expected_revision: int,
    by: str,
    at: datetime,
    new_name: str | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> StoredIntent:
    """Rename it, or give it another outcome. Raises UnknownIntent, StaleIntent, IntentNameRefused."""
    row = await _row(session, name, lock=True)
    if row.revision != expected_revision:
        raise StaleIntent(name, expected_revision, row.revision)
    if new_name is not None and new_name != row.name:
        new_name = _checked(new_name)
        taken = await session.scalar(select(IntentRow).where(IntentRow.name == new_name))
        if taken is not None and taken.removed_at is None:
            raise IntentNameRefused(new_name, "there is an intent of this name", "taken")
        if taken is not None:
            await session.delete(taken)
            await session.flush()
        row.name = new_name
    if metadata is not None:
        row.details = dict(metadata)
    _touch(row, by, at)
    await session.flush()
    return await get_intent(session, row.name)


async def remove_intent(session: AsyncSession, name: str, *, by: str, at: datetime) -> int:
    """Take it and its examples out of the training; its revision, by which it can be brought back. Raises
    UnknownIntent."""
    row = await _row(session, name, lock=True)
    row.removed_at = at
    _touch(row, by, at)
    await session.flush()
    return row.revision


async def restore_intent(
    session: AsyncSession, name: str, *, expected_revision: int, by: str, at: datetime
) -> StoredIntent:
    """Bring back what was removed. Raises UnknownIntent where there was never one of this name, StaleIntent where it
    is no longer the removed one: it is back, or somebody has made a new one of this name."""
    row = await session.scalar(select(IntentRow).where(IntentRow.name == name).with_for_update())
    if row is None:
        raise UnknownIntent(name)
    if row.removed_at is None or row.revision != expected_revision:
        raise StaleIntent(name, expected_revision, row.revision)
    row.removed_at = None
    _touch(row, by, at)
    await session.flush()
    return await get_intent(session, name)


async def add_examples(
    session: AsyncSession, intent: str, examples: Sequence[NewExample], *, by: str, at: datetime
) -> Added:
    """Add what the intent does not have yet. The same words twice are one example; words that another intent has are
    left there. Raises UnknownIntent, ExampleRefused (none is added then)."""
    row = await _row(session, intent, lock=True)
    if len(examples) > MAX_AT_ONCE:
        raise ExampleRefused("", f"{len(examples)} at once are too many: at most {MAX_AT_ONCE}", "many")
    cleaned = [replace(each, text=clean_example(each.text)) for each in examples]
    plain = [strip_entities(each.text)[0] for each in cleaned]
    stands = await standing(session, plain, intent=row.name)
    added: list[ExampleRow] = []
    already: list[str] = []
    elsewhere: list[StoredExample] = []
    seen: set[str] = set()
    for example, text in zip(cleaned, plain, strict=True):
        key = example_key(text)
        known = stands.get(text)
        if key in seen or (known and known.intent == row.name):
            already.append(text)
        elif known:
            elsewhere.append(known)
        else:
            added.append(
                ExampleRow(
                    intent_id=row.id,
                    lang=example.lang,
                    text=text,
                    raw=example.text,
                    key=key,
                    details={},
                    added_at=at,
                    added_by=by,
                )
            )
        seen.add(key)
    session.add_all(added)
    if added:
        _touch(row, by, at)
    await session.flush()
    return Added(tuple(_stored_example(each, row.name) for each in added), tuple(already), tuple(elsewhere))


async def get_example(session: AsyncSession, example_id: int) -> StoredExample:
    """A removed one too. Raises UnknownExample."""
    row = await session.get(ExampleRow, example_id)
    if row is None:
        raise UnknownExample(example_id)
    return _stored_example(row, (await session.get_one(IntentRow, row.intent_id)).name)


async def move_example(
    session: AsyncSession, example_id: int, to: str, *, by: str, at: datetime, stamp: str | None = None
) -> StoredExample:
    """To another intent. stamp: it must still have this one. Raises UnknownExample, UnknownIntent, StaleExample."""
    row = await _example_row(session, example_id, stamp)
    target = await _row(session, to, lock=True)
    if row.intent_id != target.id:
        _touch(await session.get_one(IntentRow, row.intent_id), by, at)
        row.intent_id = target.id
        _touch(target, by, at)
        await session.flush()
    return _stored_example(row, target.name)


async def change_example(session: AsyncSession, example_id: int, text: str, *, by: str, at: datetime) -> StoredExample:
    """Raises UnknownExample, ExampleRefused."""
    row = await _example_row(session, example_id)
    row.raw = clean_example(text)
    row.text = strip_entities(row.raw)[0]
    row.key = example_key(row.text)
    intent = await session.get_one(IntentRow, row.intent_id)
    _touch(intent, by, at)
    await session.flush()
    return _stored_example(row, intent.name)


async def remove_example(
    session: AsyncSession, example_id: int, *, by: str, at: datetime, stamp: str | None = None
) -> StoredExample:
    """stamp: it must still have this one. Raises UnknownExample for one that is removed already, StaleExample."""
    row = await _example_row(session, example_id, stamp)
    row.removed_at = at
    intent = await session.get_one(IntentRow, row.intent_id)
    _touch(intent, by, at)
    await session.flush()
    return _stored_example(row, intent.name)


async def restore_example(session: AsyncSession, example_id: int, *, by: str, at: datetime) -> StoredExample:
    """Raises UnknownExample, StaleExample where somebody has added the same words since, to whichever intent."""
    row = await session.get(ExampleRow, example_id, with_for_update=True)
    if row is None:
        raise UnknownExample(example_id)
    if row.removed_at is not None:
        again = _present(ExampleRow).where(ExampleRow.key == row.key, ExampleRow.added_at >= row.removed_at)
        here = _present(IntentRow).with_only_columns(IntentRow.id)
        if await session.scalar(again.where(ExampleRow.intent_id.in_(here)).limit(1)) is not None:
            raise StaleExample(example_id)
    row.removed_at = None
    intent = await session.get_one(IntentRow, row.intent_id)
    _touch(intent, by, at)
    await session.flush()
    return _stored_example(row, intent.name)


def clean_example(text: str) -> str:
    """One line without blanks at its ends. Raises ExampleRefused, TrainingDataError for a broken entity mark."""
    text = " ".join(text.split())
    if not fold(strip_entities(text)[0]).strip():
        raise ExampleRefused(text, "an example needs words", "no_words")
    if len(text) > MAX_EXAMPLE_CHARS:
        raise ExampleRefused(text, f"an example has at most {MAX_EXAMPLE_CHARS} characters", "long")
    if not text.isprintable():
        raise ExampleRefused(text, "it has characters that can't be seen", "unprintable")
    return text


def example_key(text: str) -> str:
    return hashlib.sha256(fold(text).strip().encode()).hexdigest()


def _checked(name: str) -> str:
    name = name.strip()
    if not _NAME.fullmatch(name) or len(name) > 120:
        raise IntentNameRefused(name, "a name has letters, digits, `_`, `-`, `.`, and at most 120 of them", "bad_name")
    return name


def _touch(row: IntentRow, by: str, at: datetime) -> None:
    row.revision += 1
    row.updated_by, row.updated_at = by, at


async def _row(session: AsyncSession, name: str, *, lock: bool = False) -> IntentRow:
    query = _present(IntentRow).where(IntentRow.name == name)
    row = await session.scalar(query.with_for_update() if lock else query)
    if row is None:
        raise UnknownIntent(name)
    found: IntentRow = row
    return found


async def _example_row(session: AsyncSession, example_id: int, stamp: str | None = None) -> ExampleRow:
    row = await session.get(ExampleRow, example_id, with_for_update=True)
    if row is None or row.removed_at is not None:
        raise UnknownExample(example_id)
    if stamp is not None and stamp != _stamp(row):
        raise StaleExample(example_id)
    return row


def _stamp(row: ExampleRow) -> str:
    return hashlib.sha256(f"{row.intent_id}\0{row.raw}".encode()).hexdigest()[:16]


def _present(table: Any) -> Any:
    return select(table).where(table.removed_at.is_(None))


def _stored(row: IntentRow, counts: Mapping[str | None, int]) -> StoredIntent:
    return StoredIntent(row.name, row.details, row.revision, row.updated_at, row.updated_by, counts)


def _stored_example(row: ExampleRow, intent: str) -> StoredExample:
    return StoredExample(row.id, intent, row.text, row.raw, row.lang, row.added_at, row.added_by, _stamp(row))


def _example(row: ExampleRow, intent: str) -> Example:
    entities = strip_entities(row.raw)[1] if row.raw != row.text else ()
    file = Path(row.file) if row.file else None
    return Example(row.text, intent, row.lang, file, 0, row.raw, entities, row.details)
