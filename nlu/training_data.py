"""Training data: Rasa's own NLU YAML (2.x and 3.x) and JSON lines, read with file and line, written without loss.

Format: https://legacy-docs-oss.rasa.com/docs/rasa/training-data-format (NLU part). Everything that the classifier does
not use (entities, roles and groups, synonyms, lookups, regexes, metadata) is kept in the model.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from nlu.errors import TrainingDataError

OUT_OF_SCOPE_INTENTS: Final = frozenset({"out_of_scope", "oos", "nlu_fallback"})
"""Intents whose examples say what the assistant must not answer; `oos` is the name in public test sets."""

_LANGUAGES: Final = frozenset({"ru", "en", "uk", "be", "kk", "de", "fr", "es", "it", "pt", "tr", "pl", "zh", "ja"})
_YAML_SUFFIXES: Final = frozenset({".yml", ".yaml"})
_SUFFIXES: Final = _YAML_SUFFIXES | {".jsonl", ".json", ".md"}
# The pattern of Rasa 3.6, rasa/shared/nlu/training_data/entities_parser.py.
_ENTITY: Final = re.compile(
    r"\[(?P<text>[^\]]+?)\]"
    r"(?:\((?P<entity>[^:)]+?)(?::(?P<value>[^)]+))?\)|\{(?P<dict>[^}]+?)\}|\[(?P<list>.*?)\])"
)
_BLANK: Final = "\n\r "  # what Rasa strips from an example
_LEGACY_HEADING: Final = re.compile(r"^##\s*(intent|synonym|regex|lookup)\s*:", re.MULTILINE)
_LEGACY_JSON: Final = re.compile(r'"rasa_nlu_data"\s*:')
_CONVERT: Final = "Convert it with `rasa data convert nlu -f yaml --data FILE --out FOLDER` of Rasa 2.8."


@dataclass(frozen=True)
class Entity:
    """A marked part of an example: characters `start` to `end` (exclusive) of `Example.text`."""

    start: int
    end: int
    name: str
    value: str
    role: str | None = None
    group: str | None = None


@dataclass(frozen=True)
class Example:
    """One labelled utterance; `text` has no entity marks, `raw` has them. `line` counts from 1, 0: not from a file."""

    text: str
    intent: str
    lang: str | None = None
    file: Path | None = None
    line: int = 0
    raw: str = ""
    entities: tuple[Entity, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class IntentSpec:
    """An intent and what its files say about it (for this product: its outcome)."""

    name: str
    metadata: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class TrainingData:
    """Examples in the order of files and lines. `synonyms`, `lookups`, `regexes`: name → its example lines."""

    examples: tuple[Example, ...]
    intents: Mapping[str, IntentSpec]
    synonyms: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    lookups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    regexes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def load_intents(path: Path) -> TrainingData:
    """Read one file, or every training file under a folder in the order of their names.

    `.yml`/`.yaml` is Rasa NLU YAML, `.jsonl` has rows {"text", "intent"} and may have "lang". A file whose name has a
    language code as its stem or as a dotted part (`ru.yml`, `shop.en.jsonl`) gives that language to its examples.
    The folder may be a whole Rasa project: YAML without an `nlu` key (stories, rules, domain, configuration), `tests/`
    and hidden folders are passed over.
    Raises TrainingDataError with file and line: not found, not readable, Rasa's legacy Markdown or JSON, a wrong form,
    two files that disagree on an intent's metadata, nothing found.
    """
    if not path.exists():
        raise TrainingDataError(path, 0, "no such file or folder", "Check the path.")
    if path.is_dir():
        parts = [_read_file(each, whole_folder=True) for each in training_files(path)]
    else:
        parts = [_read_file(path, whole_folder=False)]
    data = merge(parts)
    if not data.examples:
        raise TrainingDataError(path, 0, "no intent examples here", "Add a file with `nlu:` and `- intent:` items.")
    return data


def training_files(folder: Path) -> list[Path]:
    """The files under a folder that `load_intents` looks into, in its order."""
    found = []
    for each in sorted(folder.rglob("*")):
        inside = each.relative_to(folder).parts
        hidden = any(part.startswith(".") for part in inside)
        if each.suffix in _SUFFIXES and each.is_file() and not hidden and "tests" not in inside[:-1]:
            found.append(each)
    return found


def training_sources(folder: Path) -> list[Path]:
    """Those of `training_files` that have examples or other training data. Raises TrainingDataError."""
    found = []
    for path in training_files(folder):
        part = _read_file(path, whole_folder=True)
        if part.examples or part.intents or part.synonyms or part.lookups or part.regexes:
            found.append(path)
    return found


def parse_training(text: str, path: Path) -> TrainingData:
    """The training data of one file's text; `path` says its kind and language. Raises TrainingDataError."""
    if path.suffix == ".jsonl":
        return _parse_rows(text, path)
    return _parse_rasa(text, path, optional=True)


def read_text(path: Path) -> str:
    """A file's text, line ends as they are, without a byte order mark. Raises TrainingDataError."""
    return _read_text(path)


def from_rows(rows: Iterable[tuple[str, str]], lang: str | None = None) -> TrainingData:
    """Training data from (text, intent) pairs that come from no file."""
    examples = tuple(Example(text, intent, lang, raw=text) for text, intent in rows)
    return TrainingData(examples, {each.intent: IntentSpec(each.intent) for each in examples})


def merge(parts: Iterable[TrainingData]) -> TrainingData:
    """Join training data in order.

    Raises TrainingDataError where two parts disagree on the metadata of an intent.
    """
    examples: list[Example] = []
    intents: dict[str, IntentSpec] = {}
    extras: tuple[dict[str, tuple[str, ...]], ...] = ({}, {}, {})
    for part in parts:
        first = {each.intent: each for each in reversed(part.examples)}
        for name, spec in part.intents.items():
            known = intents.get(name)
            if known and known.metadata and spec.metadata and dict(known.metadata) != dict(spec.metadata):
                here = first.get(name)
                raise TrainingDataError(
                    (here.file if here else None) or Path(),
                    here.line if here else 0,
                    f"intent {name!r} has metadata {dict(spec.metadata)} here and {dict(known.metadata)} elsewhere",
                    "Give the intent the same metadata in every file, or leave it out of all but one.",
                )
            if known is None or not known.metadata:
                intents[name] = spec
        examples += part.examples
        for whole, piece in zip(extras, (part.synonyms, part.lookups, part.regexes), strict=True):
            for name, lines in piece.items():
                whole[name] = whole.get(name, ()) + lines
    return TrainingData(tuple(examples), intents, *extras)


def _read_file(path: Path, *, whole_folder: bool) -> TrainingData:
    text = _read_text(path)
    if path.suffix == ".md":
        if whole_folder and not _LEGACY_HEADING.search(text):
            return TrainingData((), {})
        raise TrainingDataError(path, 1, "Rasa's legacy Markdown format", _CONVERT)
    if path.suffix == ".json":
        if _LEGACY_JSON.search(text):
            raise TrainingDataError(path, 1, "Rasa's legacy JSON format", _CONVERT)
        if whole_folder:
            return TrainingData((), {})
    if path.suffix == ".jsonl":
        return _parse_rows(text, path)
    if path.suffix in _YAML_SUFFIXES:
        return _parse_rasa(text, path, optional=whole_folder)
    raise TrainingDataError(path, 0, f"unknown kind of file {path.suffix!r}", "Use .yml, .yaml or .jsonl.")


def _read_text(path: Path) -> str:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return file.read()
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise TrainingDataError(path, line, "not UTF-8", "Save the file as UTF-8.") from error
    except OSError as error:
        raise TrainingDataError(path, 0, f"cannot be read ({error.strerror})", "Check the file.") from error


def language_of(path: Path) -> str | None:
    """The language code in a file's name (`ru.yml`, `nlu.en.yml`), or None."""
    return next((part for part in reversed(path.name.lower().split(".")[:-1]) if part in _LANGUAGES), None)


def _parse_rows(text: str, path: Path) -> TrainingData:
    examples = []
    lang = language_of(path)
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise TrainingDataError(path, number, "not a JSON object", "Write one JSON object a line.") from error
        match row:
            case {"text": str(said), "intent": str(intent)} if intent:
                row_lang = row.get("lang")
                examples.append(
                    Example(said, intent, row_lang if isinstance(row_lang, str) else lang, path, number, raw=said)
                )
            case _:
                raise TrainingDataError(path, number, "no `text` or no `intent`", "Give both, as strings.")
    return TrainingData(tuple(examples), {each.intent: IntentSpec(each.intent) for each in examples})


def parse_document(text: str, path: Path) -> CommentedMap:
    """The YAML of a Rasa file with the lines of its parts; raises TrainingDataError where it is not a mapping."""
    try:
        document = YAML(typ="rt").load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise TrainingDataError(
            path, mark.line + 1 if mark else 0, f"not YAML: {error.problem}", "Correct the indentation or quotes."
        ) from error
    except YAMLError as error:
        raise TrainingDataError(path, 0, f"not YAML: {error}", "Remove what is not text.") from error
    if document is None:
        return CommentedMap()
    if not isinstance(document, CommentedMap):
        raise TrainingDataError(path, 1, "the top level is no mapping", "Begin with `version:` and `nlu:`.")
    return document


def _parse_rasa(text: str, path: Path, *, optional: bool) -> TrainingData:
    document = parse_document(text, path)
    if "nlu" not in document:
        if optional:
            return TrainingData((), {})
        raise TrainingDataError(path, 1, "no `nlu` key", "This is no NLU training file; give one, or its folder.")
    version = str(document.get("version", "3.1"))
    if version.split(".")[0] not in {"2", "3"}:
        line = document.lc.value("version")[0] + 1
        raise TrainingDataError(path, line, f"version {version} is not supported", 'Write `version: "3.1"`.')
    items = document["nlu"] or CommentedSeq()
    if not isinstance(items, CommentedSeq):
        raise TrainingDataError(path, document.lc.value("nlu")[0] + 1, "`nlu` is no list", "Begin each item with `- `.")
    lang = language_of(path)
    examples: list[Example] = []
    intents: dict[str, IntentSpec] = {}
    extras: dict[str, dict[str, tuple[str, ...]]] = {"synonym": {}, "lookup": {}, "regex": {}}
    for index, item in enumerate(items):
        line = items.lc.item(index)[0] + 1
        kind = next((each for each in ("intent", *extras) if isinstance(item, CommentedMap) and each in item), None)
        if kind is None:
            raise TrainingDataError(
                path, line, "an item without `intent`, `synonym`, `lookup` or `regex`", "Name what the item is."
            )
        name = item[kind]
        if not isinstance(name, str) or not name.strip():
            raise TrainingDataError(path, line, f"`{kind}` has no name", "Write its name after the colon.")
        name = str(name).strip()
        if kind != "intent":
            lines = tuple(raw for raw, _, _ in _raw_examples(item, path, line))
            extras[kind][name] = extras[kind].get(name, ()) + lines
            continue
        metadata = _plain(item.get("metadata") or {})
        if not isinstance(metadata, dict):
            metadata = {"value": metadata}
        known = intents.get(name)
        if known and known.metadata and metadata and dict(known.metadata) != metadata:
            raise TrainingDataError(
                path, line, f"intent {name!r} stands twice with different metadata", "Join the two items."
            )
        if known is None or not known.metadata:
            intents[name] = IntentSpec(name, metadata)
        for raw, example_metadata, at in _raw_examples(item, path, line):
            plain, entities = strip_entities(raw, path, at)
            examples.append(Example(plain, name, lang, path, at, raw, entities, example_metadata))
    return TrainingData(tuple(examples), intents, extras["synonym"], extras["lookup"], extras["regex"])


def _raw_examples(item: CommentedMap, path: Path, item_line: int) -> Iterator[tuple[str, Mapping[str, Any], int]]:
    """Yield (text with entity marks, metadata, line) from the block text form or the list form."""
    examples = item.get("examples")
    if examples is None:
        return
    key_line, _ = item.lc.value("examples")
    if isinstance(examples, str):
        for number, line in enumerate(examples.split("\n"), start=key_line + 2):
            # As in Rasa, a line that does not begin with a dash (a comment, an empty line) is no example.
            if line.startswith("-") and (raw := line[1:].strip(_BLANK)):
                yield raw, {}, number
        return
    if not isinstance(examples, CommentedSeq):
        raise TrainingDataError(path, item_line, "`examples` is neither text nor a list", "Write `examples: |`.")
    for index, example in enumerate(examples):
        line = examples.lc.item(index)[0] + 1
        said = example.get("text") if isinstance(example, CommentedMap) else example
        if not isinstance(said, str):
            raise TrainingDataError(path, line, "an example without `text`", "Write `- text: |` or `- some words`.")
        metadata = _plain(example.get("metadata") or {}) if isinstance(example, CommentedMap) else {}
        raw = said.strip(_BLANK)
        # In the list form Rasa's own writer puts a dash before the text of a block.
        raw = raw[1:].strip(_BLANK) if raw.startswith("- ") else raw
        if raw:
            yield raw, metadata if isinstance(metadata, dict) else {"value": metadata}, line


def strip_entities(raw: str, path: Path = Path(), line: int = 0) -> tuple[str, tuple[Entity, ...]]:
    """Take Rasa's entity marks out of an example: (plain text, entities).

    Knows `[text](entity)`, `[text](entity:value)`, `[text]{"entity": …, "value": …, "role": …, "group": …}` and
    `[text][{…}, {…}]`. Raises TrainingDataError where the JSON of a mark cannot be read.
    """
    pieces: list[str] = []
    entities: list[Entity] = []
    at = done = 0
    for match in _ENTITY.finditer(raw):
        said = match["text"]
        before = raw[done : match.start()]
        pieces += (before, said)
        at += len(before)
        for mark in _marks(match, path, line):
            entities.append(
                Entity(
                    at,
                    at + len(said),
                    str(mark["entity"]),
                    str(mark.get("value", said)),
                    _text_or_none(mark.get("role")),
                    _text_or_none(mark.get("group")),
                )
            )
        at += len(said)
        done = match.end()
    pieces.append(raw[done:])
    return "".join(pieces), tuple(entities)


def _marks(match: re.Match[str], path: Path, line: int) -> Sequence[Mapping[str, Any]]:
    if match["entity"]:
        return [{"entity": match["entity"]} | ({"value": match["value"]} if match["value"] else {})]
    source = f"[{{{match['dict']}}}]" if match["dict"] else f"[{match['list']}]"
    try:
        marks = json.loads(source)
        if all(isinstance(mark, dict) and mark.get("entity") for mark in marks):
            return list(marks)
    except ValueError:
        pass
    raise TrainingDataError(
        path, line, f"cannot read the entity mark {match.group()!r}", 'Write `[text]{"entity": "name"}` in valid JSON.'
    )


def _text_or_none(value: object) -> str | None:
    return None if value is None else str(value)


def _plain(value: Any) -> Any:
    """YAML nodes as plain dict, list and scalars, so that they compare and serialise."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, str):
        return str(value)
    return value
