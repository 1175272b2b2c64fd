"""Files of training data and the stored intents: read in, so that edits of both survive, and written back, so that
every byte stays that nobody changed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from nlu.library import example_key, training_data
from nlu.records import ExampleRow, IntentFileRow, IntentRow
from nlu.training_data import Example, TrainingData, language_of, merge, parse_training, read_text, training_sources
from nlu.training_writer import with_examples, with_intent_name, with_metadata, with_new_intent, without_intent

_YAML = (".yml", ".yaml")
_ANY = "nlu.yml"
_NEW_FILE = 'version: "3.1"\nnlu:\n'


@dataclass(frozen=True)
class Change:
    """kind: `new_intent`, `gone_intent`, `outcome`, `added`, `removed`. Or what is left as it is: `conflict`, where the
    intent was given two outcomes; `elsewhere`, where another intent has the text; `already`, where this one has."""

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
        return any(each.kind not in ("conflict", "elsewhere", "already") for each in self.changes)

    def count(self) -> Mapping[str, int]:
        return Counter(each.kind for each in self.changes)


def read_files(folder: Path) -> dict[str, str]:
    """Path under the folder → text, of every file of training data. Raises TrainingDataError."""
    if folder.is_file():
        return {folder.name: read_text(folder)}
    return {path.relative_to(folder).as_posix(): read_text(path) for path in training_sources(folder)}


async def plan_files(session: AsyncSession, files: Mapping[str, str]) -> Taken:
    """What `take_files` would do; changes nothing. Raises TrainingDataError."""
    merging = await _between(session, files)
    return Taken(tuple(merging.changes)) if merging else Taken(())


async def take_files(session: AsyncSession, files: Mapping[str, str], *, by: str, at: datetime) -> Taken:
    """Bring into the database what has changed in the files since they were last read, and nothing else: what was
    changed here meanwhile stays. The first time, that is everything.

    files: path → text; one that was read before and is not among them is gone. Raises TrainingDataError (nothing is
    changed then).
    """
    merging = await _between(session, files)
    if merging is None:
        return Taken(())
    await merging.apply(by, at)
    merging.note_places()
    parts = parse_files(files)
    for row in await session.scalars(select(IntentFileRow)):
        if row.path not in files:
            await session.delete(row)
    await _keep_files(session, files, parts)
    await session.flush()
    return Taken(tuple(merging.changes))


async def _between(session: AsyncSession, files: Mapping[str, str]) -> _Merge | None:
    """From what the files said when they were last read to what they say now; None where that is the same."""
    stored = {row.path: row.text for row in await session.scalars(select(IntentFileRow))}
    if stored == dict(files):
        return None
    before, now = (merge(part for _, part in sorted(parse_files(each).items())) for each in (stored, files))
    return await _Merge.of(session, before, now)


async def plan_data(session: AsyncSession, data: TrainingData, *, exact: bool) -> Taken:
    """What `take_data` would do; changes nothing."""
    return Taken(tuple((await _against(session, data, exact)).changes))


async def take_data(session: AsyncSession, data: TrainingData, *, exact: bool, by: str, at: datetime) -> Taken:
    """Add the intents and examples of files that are not the seed. A text that another intent has stays there, an
    outcome that is another one here too.

    exact: the intents that the data has become what it says, in the languages that it has them in.
    """
    merging = await _against(session, data, exact)
    await merging.apply(by, at)
    return Taken(tuple(merging.changes))


async def _against(session: AsyncSession, data: TrainingData, exact: bool) -> _Merge:
    if not exact:
        return await _Merge.of(session, TrainingData((), {}), data, adding=True)
    stored = await training_data(session)
    spoken = {(each.intent, each.lang) for each in data.examples}
    examples = tuple(each for each in stored.examples if (each.intent, each.lang) in spoken)
    specs = {name: spec for name, spec in stored.intents.items() if name in data.intents}
    silent = {name: specs.get(name, spec) for name, spec in data.intents.items() if not spec.metadata}
    return await _Merge.of(session, TrainingData(examples, specs), replace(data, intents={**data.intents, **silent}))


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
    await _keep_files(session, files, parse_files(files))
    for row in await session.scalars(select(IntentRow).where(IntentRow.removed_at.is_(None))):
        row.source_name = row.name
    found = parse_files(files)
    places = {(each.intent, each.raw, each.lang): path for path, part in found.items() for each in part.examples}
    names = {row.id: row.name for row in await session.scalars(select(IntentRow))}
    for example in await session.scalars(select(ExampleRow).where(ExampleRow.removed_at.is_(None))):
        example.file = places.get((names[example.intent_id], example.raw, example.lang), example.file)
    await session.flush()


def parse_files(files: Mapping[str, str]) -> dict[str, TrainingData]:
    """Path → what its text says. Raises TrainingDataError."""
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
    """What is different from one state of training data to another, laid over what is stored."""

    def __init__(self, session: AsyncSession, before: TrainingData, now: TrainingData) -> None:
        self._session, self._before, self._now = session, before, now
        self.changes: list[Change] = []
        self._new: dict[_Key, Example] = {}
        self._removed: list[ExampleRow] = []

    @classmethod
    async def of(
        cls, session: AsyncSession, before: TrainingData, now: TrainingData, *, adding: bool = False
    ) -> _Merge:
        """adding: a text that another intent has is left there."""
        made = cls(session, before, now)
        await made._read_rows()
        made._compare_intents()
        made._compare_examples(adding)
        return made

    async def _read_rows(self) -> None:
        self._intents = (await self._session.scalars(select(IntentRow).order_by(IntentRow.id))).all()
        self._asleep = {row.name for row in self._intents if row.removed_at is not None}
        self._by_name = {row.name: row for row in self._intents}
        self._by_source = {row.source_name: row for row in self._intents if row.source_name}
        names = {row.id: row.name for row in self._intents}
        self._rows: dict[_Key, ExampleRow] = {}
        self._homes: dict[str, str] = {}
        for row in await self._session.scalars(select(ExampleRow).order_by(ExampleRow.id)):
            name = names[row.intent_id]
            key = name, row.raw, row.lang
            if key not in self._rows or self._rows[key].removed_at is not None:
                self._rows[key] = row
            if row.removed_at is None and name not in self._asleep:
                self._homes[row.key] = name

    def _intent(self, name: str) -> IntentRow | None:
        """The stored intent that the files call so: under another name, if it was renamed here."""
        found = self._by_source.get(name)
        return found if found is not None else self._by_name.get(name)

    def _name(self, name: str) -> str:
        found = self._intent(name)
        return found.name if found is not None else name

    def _compare_intents(self) -> None:
        for name, spec in self._now.intents.items():
            row, known = self._intent(name), self._before.intents.get(name)
            if row is None or (row.removed_at is not None and known is None):
                self.changes.append(Change("new_intent", name))
            elif known is None or dict(known.metadata) != dict(spec.metadata):
                same = dict(row.details) == dict(spec.metadata) or (known is None and not spec.metadata)
                if not same and (known is None or dict(row.details) != dict(known.metadata)):
                    self.changes.append(Change("conflict", row.name))
                elif not same:
                    self.changes.append(Change("outcome", row.name))

    def _compare_examples(self, adding: bool) -> None:
        earlier = {(self._name(each.intent), each.raw, each.lang): each for each in self._before.examples}
        present = {(self._name(each.intent), each.raw, each.lang): each for each in self._now.examples}
        for key, example in present.items():
            row = self._rows.get(key)
            if key in earlier or (row is not None and row.removed_at is None and key[0] not in self._asleep):
                continue
            home = self._homes.get(example_key(example.text)) if adding else None
            kind = "added" if home is None else "already" if home == key[0] else "elsewhere"
            if kind == "added":
                self._new[key] = example
            self.changes.append(Change(kind, key[0], example.text, example.lang, str(example.file or "")))
        for key, example in earlier.items():
            row = self._rows.get(key)
            if key not in present and row is not None and row.removed_at is None and key[0] not in self._asleep:
                self._removed.append(row)
                self.changes.append(Change("removed", key[0], example.text, example.lang, str(example.file or "")))
        going = {row.id for row in self._removed}
        staying = {row.intent_id for row in self._rows.values() if row.removed_at is None and row.id not in going}
        for name in self._before.intents:
            gone = self._by_source.get(name)
            here = name in self._now.intents or (gone is not None and gone.name in self._now.intents)
            if gone is not None and not here and gone.removed_at is None and gone.id not in staying:
                self.changes.append(Change("gone_intent", gone.name))
        self._places = {key: example for key, example in present.items() if key in self._rows}

    async def apply(self, by: str, at: datetime) -> None:
        session = self._session
        touched: set[int] = set()
        for change in self.changes:
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
                named = next(name for name in (row.source_name, row.name) if name in self._now.intents)
                row.details = dict(self._now.intents[str(named)].metadata)
                touched.add(row.id)
            elif change.kind == "gone_intent":
                self._by_name[change.intent].removed_at = at
                touched.add(self._by_name[change.intent].id)
        for removed in self._removed:
            removed.removed_at = at
            touched.add(removed.intent_id)
        for key, example in self._new.items():
            intent, known = self._by_name[key[0]], self._rows.get(key)
            if known is not None:
                known.removed_at = None
            else:
                session.add(_new_row(example, intent.id, by, at))
            touched.add(intent.id)
        await session.flush()
        for row in self._by_name.values():
            if row.id in touched:
                row.revision += 1
                row.updated_by, row.updated_at = by, at
        await session.flush()

    def note_places(self) -> None:
        """That the files have it so: the names of intents, and where examples stand."""
        for key, example in self._places.items():
            self._rows[key].file = str(example.file)
        for name in self._now.intents:
            found = self._intent(name)
            if found is not None:
                found.source_name = name


def _new_row(example: Example, intent_id: int, by: str, at: datetime) -> ExampleRow:
    return ExampleRow(
        intent_id=intent_id,
        lang=example.lang,
        text=example.text,
        raw=example.raw,
        key=example_key(example.text),
        details=dict(example.metadata),
        file=str(example.file) if example.file else None,
        added_at=at,
        added_by=by,
    )


def _written(
    stored: Mapping[str, str], intents: Sequence[IntentRow], examples: Mapping[int, Sequence[ExampleRow]]
) -> dict[str, str]:
    texts, parts = dict(stored), parse_files(stored)
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
