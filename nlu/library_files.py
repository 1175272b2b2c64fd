"""Files of training data and the stored intents: read in, so that edits of both survive, and written back, so that
every byte stays that nobody changed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from nlu.library import example_key
from nlu.records import ExampleRow, IntentFileRow, IntentRow
from nlu.training_data import Example, TrainingData, language_of, merge, parse_training, read_text, training_sources
from nlu.training_writer import with_examples, with_intent_name, with_metadata, with_new_intent, without_intent

_YAML = (".yml", ".yaml")
_ANY = "nlu.yml"
_NEW_FILE = 'version: "3.1"\nnlu:\n'


@dataclass(frozen=True)
class Change:
    """kind: `new_intent`, `gone_intent`, `outcome`, `added`, `removed`, or `conflict`: the intent leads elsewhere in
    both places, and the stored one stays."""

    kind: str
    intent: str
    text: str = ""
    lang: str | None = None
    file: str = ""


@dataclass(frozen=True)
class Taken:
    changes: tuple[Change, ...]

    @property
    def touched(self) -> bool:
        return any(each.kind != "conflict" for each in self.changes)

    def count(self) -> Mapping[str, int]:
        return Counter(each.kind for each in self.changes)


def read_files(folder: Path) -> dict[str, str]:
    """Path under the folder → text, of every file of training data. Raises TrainingDataError."""
    if folder.is_file():
        return {folder.name: read_text(folder)}
    return {path.relative_to(folder).as_posix(): read_text(path) for path in training_sources(folder)}


async def plan_files(session: AsyncSession, files: Mapping[str, str], *, whole: bool = True) -> Taken:
    """What `take_files` would do; changes nothing. Raises TrainingDataError."""
    return await _Merge(session, files, whole=whole).plan()


async def take_files(
    session: AsyncSession, files: Mapping[str, str], *, by: str, at: datetime, whole: bool = True
) -> Taken:
    """Bring into the database what has changed in the files since they were last read, and nothing else: what was
    changed here meanwhile stays. The first time, that is everything.

    files: path → text. whole: a file that is not among them is gone; else only those given are looked at.
    Raises TrainingDataError (nothing is changed then).
    """
    merging = _Merge(session, files, whole=whole)
    plan = await merging.plan()
    await merging.apply(by, at)
    return plan


async def written_files(session: AsyncSession) -> dict[str, str]:
    """Path → text: the files as they were last read, changed no more than what was changed here needs."""
    present = select(IntentRow).where(IntentRow.removed_at.is_(None)).order_by(IntentRow.id)
    intents = (await session.scalars(present)).all()
    rows = await session.scalars(select(ExampleRow).where(ExampleRow.removed_at.is_(None)).order_by(ExampleRow.id))
    by_intent: dict[int, list[ExampleRow]] = {row.id: [] for row in intents}
    for row in rows:
        if row.intent_id in by_intent:
            by_intent[row.intent_id].append(row)
    stored = {row.path: row.text for row in await session.scalars(select(IntentFileRow).order_by(IntentFileRow.path))}
    return _written(stored, intents, by_intent)


async def keep_written(session: AsyncSession, files: Mapping[str, str]) -> None:
    """Note that the files now lie where they were read from, as `written_files` made them."""
    await _keep_files(session, files, _parse(files))
    for row in await session.scalars(select(IntentRow).where(IntentRow.removed_at.is_(None))):
        row.source_name = row.name
    found = _parse(files)
    places = {(each.intent, each.raw, each.lang): path for path, part in found.items() for each in part.examples}
    names = {row.id: row.name for row in await session.scalars(select(IntentRow))}
    for example in await session.scalars(select(ExampleRow).where(ExampleRow.removed_at.is_(None))):
        example.file = places.get((names[example.intent_id], example.raw, example.lang), example.file)
    await session.flush()


def _parse(files: Mapping[str, str]) -> dict[str, TrainingData]:
    return {path: parse_training(text, Path(path)) for path, text in files.items()}


async def _keep_files(session: AsyncSession, files: Mapping[str, str], parts: Mapping[str, TrainingData]) -> None:
    for path, text in files.items():
        part = parts[path]
        extras: dict[str, Any] = {"synonyms": part.synonyms, "lookups": part.lookups, "regexes": part.regexes}
        kept = {kind: {name: list(lines) for name, lines in named.items()} for kind, named in extras.items() if named}
        row = await session.get(IntentFileRow, path)
        if row is None:
            session.add(IntentFileRow(path=path, text=text, extras=kept))
        else:
            row.text, row.extras = text, kept


_Key = tuple[str, str, str | None]
"""Intent, raw text, language."""


class _Merge:
    """What the files say now against what they said when they were last read, laid over what is stored."""

    def __init__(self, session: AsyncSession, files: Mapping[str, str], *, whole: bool) -> None:
        self._session = session
        self._files = dict(files)
        self._whole = whole
        self._changes: list[Change] = []

    async def plan(self) -> Taken:
        stored = {row.path: row for row in await self._session.scalars(select(IntentFileRow))}
        differing = {path for path, text in self._files.items() if path not in stored or stored[path].text != text}
        self._gone = [path for path in stored if path not in self._files] if self._whole else []
        if not differing and not self._gone:
            self._parts: dict[str, TrainingData] = {}
            return Taken(())
        self._parts = _parse(self._files)
        now = merge(self._parts[path] for path in sorted(self._parts))
        looked = [path for path in sorted(stored) if self._whole or path in self._files]
        before = merge(parse_training(stored[path].text, Path(path)) for path in looked)
        await self._read_rows()
        self._compare_intents(before, now)
        self._compare_examples(before, now)
        return Taken(tuple(self._changes))

    async def _read_rows(self) -> None:
        self._intents = list(await self._session.scalars(select(IntentRow).order_by(IntentRow.id)))
        self._by_name = {row.name: row for row in self._intents}
        self._asleep = {row.name for row in self._intents if row.removed_at is not None}
        self._by_source = {row.source_name: row for row in self._intents if row.source_name}
        names = {row.id: row for row in self._intents}
        self._rows: dict[_Key, ExampleRow] = {}
        for row in await self._session.scalars(select(ExampleRow).order_by(ExampleRow.id)):
            key = names[row.intent_id].name, row.raw, row.lang
            if key not in self._rows or self._rows[key].removed_at is not None:
                self._rows[key] = row

    def _intent(self, name: str) -> IntentRow | None:
        """The stored intent that the files call so: under another name, if it was renamed here."""
        found = self._by_source.get(name)
        return found if found is not None else self._by_name.get(name)

    def _name(self, name: str) -> str:
        found = self._intent(name)
        return found.name if found is not None else name

    def _compare_intents(self, before: TrainingData, now: TrainingData) -> None:
        for name, spec in now.intents.items():
            row, known = self._intent(name), before.intents.get(name)
            if row is None or (row.removed_at is not None and known is None):
                self._changes.append(Change("new_intent", name))
            elif known is None or dict(known.metadata) != dict(spec.metadata):
                same = dict(row.details) == dict(spec.metadata)
                if not same and (known is None or dict(row.details) != dict(known.metadata)):
                    self._changes.append(Change("conflict", row.name))
                elif not same:
                    self._changes.append(Change("outcome", row.name))
        self._now = now

    def _compare_examples(self, before: TrainingData, now: TrainingData) -> None:
        earlier = {(self._name(each.intent), each.raw, each.lang): each for each in before.examples}
        present = {(self._name(each.intent), each.raw, each.lang): each for each in now.examples}
        self._new: dict[_Key, Example] = {}
        self._removed: list[ExampleRow] = []
        for key, example in present.items():
            row = self._rows.get(key)
            if key not in earlier and (row is None or row.removed_at is not None):
                self._new[key] = example
                self._changes.append(Change("added", key[0], example.text, example.lang, str(example.file)))
        for key, example in earlier.items():
            row = self._rows.get(key)
            if key not in present and row is not None and row.removed_at is None and key[0] not in self._asleep:
                self._removed.append(row)
                self._changes.append(Change("removed", key[0], example.text, example.lang, str(example.file)))
        going = {row.id for row in self._removed}
        staying = {row.intent_id for row in self._rows.values() if row.removed_at is None and row.id not in going}
        for name in before.intents:
            gone = self._by_source.get(name)
            here = name in now.intents or (gone is not None and gone.name in now.intents)
            if gone is not None and not here and gone.removed_at is None and gone.id not in staying:
                self._changes.append(Change("gone_intent", gone.name))
        self._places = {key: example for key, example in present.items() if key in self._rows}

    async def apply(self, by: str, at: datetime) -> None:
        if not self._parts and not self._gone:
            return
        session = self._session
        touched: set[int] = set()
        for change in self._changes:
            if change.kind == "new_intent":
                row = self._by_name.get(change.intent)
                if row is None:
                    row = IntentRow(name=change.intent, revision=0, updated_by=by, updated_at=at)
                    session.add(row)
                    self._by_name[change.intent] = row
                row.removed_at, row.details = None, dict(self._now.intents[change.intent].metadata)
                await session.flush()
                touched.add(row.id)
            elif change.kind == "outcome":
                row = self._by_name[change.intent]
                row.details = dict(self._now.intents[row.source_name or row.name].metadata)
                touched.add(row.id)
            elif change.kind == "gone_intent":
                self._by_name[change.intent].removed_at = at
                touched.add(self._by_name[change.intent].id)
        for removed in self._removed:
            removed.removed_at = at
            touched.add(removed.intent_id)
        for key, example in self._new.items():
            intent = self._by_name[key[0]]
            known = self._rows.get(key)
            if known is not None:
                known.removed_at = None
            else:
                session.add(_new_row(example, intent.id, by, at))
            touched.add(intent.id)
        for key, example in self._places.items():
            self._rows[key].file = str(example.file)
        await session.flush()
        for name in self._now.intents:
            found = self._intent(name)
            if found is not None:
                found.source_name = name
        for row in self._by_name.values():
            if row.id in touched:
                row.revision += 1
                row.updated_by, row.updated_at = by, at
        await _keep_files(session, self._files, self._parts)
        for path in self._gone:
            await session.delete(await session.get_one(IntentFileRow, path))
        await session.flush()


def _new_row(example: Example, intent_id: int, by: str, at: datetime) -> ExampleRow:
    return ExampleRow(
        intent_id=intent_id,
        lang=example.lang,
        text=example.text,
        raw=example.raw,
        key=example_key(example.text),
        details=dict(example.metadata),
        file=str(example.file),
        added_at=at,
        added_by=by,
    )


def _written(
    stored: Mapping[str, str], intents: Sequence[IntentRow], examples: Mapping[int, Sequence[ExampleRow]]
) -> dict[str, str]:
    texts, parts = dict(stored), _parse(stored)
    if not any(Path(path).suffix in _YAML for path in texts):
        texts[_ANY], parts[_ANY] = _NEW_FILE, TrainingData((), {})
    wanted: dict[str, dict[int, list[str]]] = {}
    for intent in intents:
        for row in examples[intent.id]:
            path = row.file if row.file in texts else _place(row.lang, intent, parts)
            wanted.setdefault(path, {}).setdefault(intent.id, []).append(row.raw)
    for path in sorted(set(wanted) - set(texts)):
        texts[path], parts[path] = _NEW_FILE, TrainingData((), {})
    said = {intent.id for intent in intents if any(_spec(intent, part) for part in parts.values())}
    first = next(path for path in texts if Path(path).suffix in _YAML)
    for path, part in parts.items():
        mine = wanted.get(path, {})
        if Path(path).suffix not in _YAML:
            texts[path] = _written_rows(texts[path], part, intents, mine)
            continue
        gone = set(part.intents) - {intent.source_name or intent.name for intent in intents}
        for name in sorted(gone):
            texts[path] = without_intent(texts[path], name, Path(path))
        for intent in intents:
            bare = path == first and not any(_source(intent) in each.intents for each in parts.values())
            bare = bare and not any(intent.id in each for each in wanted.values())
            speaks = intent.id not in said
            texts[path] = _written_intent(texts[path], part, path, intent, mine.get(intent.id, []), bare, speaks)
    return texts


def _written_intent(
    text: str, part: TrainingData, path: str, intent: IntentRow, wanted: Sequence[str], bare: bool, speaks: bool
) -> str:
    """bare: it stands nowhere, and is to stand here; speaks: no file tells its outcome yet."""
    file, name = Path(path), _source(intent)
    present = name in part.intents
    if present and name != intent.name:
        text = with_intent_name(text, name, intent.name, file)
    if {each.raw for each in part.examples if each.intent == name} != set(wanted):
        text = with_examples(text, intent.name, wanted, file)
    if bare:
        text = with_new_intent(text, intent.name, file)
    old = _spec(intent, part)
    if (old and old != dict(intent.details)) or (not old and speaks and (present or wanted or bare)):
        text = with_metadata(text, intent.name, intent.details, file)
    return text


def _written_rows(
    text: str, part: TrainingData, intents: Sequence[IntentRow], wanted: Mapping[int, Sequence[str]]
) -> str:
    """Rows of JSON: those that stay keep their bytes, the others go, new ones follow."""
    names = {_source(intent): intent for intent in intents}
    lines = text.splitlines(keepends=True)
    kept: list[str] = []
    met: set[tuple[int, str]] = set()
    at = {each.line: each for each in part.examples}
    for number, line in enumerate(lines, start=1):
        example = at.get(number)
        intent = names.get(example.intent) if example else None
        if example is None:
            kept.append(line)
        elif intent is not None and example.raw in wanted.get(intent.id, ()):
            met.add((intent.id, example.raw))
            if intent.name != example.intent:
                line = json.dumps({**json.loads(line), "intent": intent.name}, ensure_ascii=False) + "\n"
            kept.append(line)
    if kept and not kept[-1].endswith("\n"):
        kept[-1] += "\n"
    for intent in intents:
        for raw in wanted.get(intent.id, ()):
            if (intent.id, raw) not in met:
                kept.append(json.dumps({"text": raw, "intent": intent.name}, ensure_ascii=False) + "\n")
    return "".join(kept)


def _place(lang: str | None, intent: IntentRow, parts: Mapping[str, TrainingData]) -> str:
    """The file for an example that was written here: where its intent stands in this language, else any of it."""
    fitting = [path for path in parts if language_of(Path(path)) == lang and Path(path).suffix in _YAML]
    with_intent = [path for path in fitting if _source(intent) in parts[path].intents]
    return next(iter(with_intent or fitting), f"{lang}.yml" if lang else _ANY)


def _source(intent: IntentRow) -> str:
    """How the files call it."""
    return intent.source_name or intent.name


def _spec(intent: IntentRow, part: TrainingData) -> dict[str, Any]:
    spec = part.intents.get(_source(intent))
    return dict(spec.metadata) if spec else {}
