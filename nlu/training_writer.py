"""Writing Rasa NLU YAML: a change of some examples leaves every other byte of the file as it was."""

import re
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.scalarstring import DoubleQuotedScalarString, LiteralScalarString

from nlu.errors import TrainingDataError
from nlu.training_data import Example, TrainingData, parse_document


def with_examples(source: str, intent: str, examples: Sequence[str], path: Path = Path()) -> str:
    """Return the text of a Rasa file in which `intent` has exactly these examples, entity marks included.

    Kept examples stay where they are, missing ones lose their line, new ones follow the last; comments, order, quoting
    and all other items stay byte for byte. An intent that the file does not have is added at its end. Raises
    TrainingDataError if `source` cannot be read (`path` is named) or an example is empty or has a line break.
    """
    for example in examples:
        if not example.strip() or "\n" in example or "\r" in example:
            raise TrainingDataError(path, 0, f"{example!r} is no example", "Write it as one line with words.")
    wanted = list(dict.fromkeys(each.strip() for each in examples))
    newline = "\r\n" if "\r\n" in source else "\n"
    lines = source.replace("\r\n", "\n").split("\n")
    items = parse_document(source, path).get("nlu") or CommentedSeq()
    own = [item for item in items if isinstance(item, CommentedMap) and item.get("intent") == intent]
    blocks = [block for item in own if (block := _block(item, lines)) is not None]
    known = {text for block in blocks for text, _, _ in block.examples}
    new = [each for each in wanted if each not in known]
    if not blocks and new:
        return newline.join(_with_new_intent(lines, items, intent, new))
    dropped: set[int] = set()
    for block in blocks:
        for text, start, end in block.examples:
            if text not in wanted:
                dropped.update(range(start, end))
    if blocks and new:
        last = blocks[-1]
        lines[last.end - 1] = "\n".join([lines[last.end - 1], *(last.written(each) for each in new)])
        if last.end - 1 in dropped:
            lines[last.end - 1] = lines[last.end - 1].split("\n", 1)[1]
            dropped.discard(last.end - 1)
    kept = [line for number, line in enumerate(lines) if number not in dropped]
    return "\n".join(kept).replace("\n", newline)


def with_intent_name(source: str, intent: str, new_name: str, path: Path = Path()) -> str:
    """Return the text with an intent renamed; every other byte stays."""
    newline, lines, items = _read(source, path)
    for item in _own(items, intent):
        row, column = item.lc.value("intent")
        rest = lines[row][column:]
        quoted = re.match(r"""("[^"]*"|'[^']*'|[^\s#][^#]*?)(?=\s*(#.*)?$)""", rest)
        written = lines[row][:column] + _inline(new_name)
        lines[row] = written + (rest[quoted.end() :] if quoted else "")
    return newline.join(lines)


def with_metadata(source: str, intent: str, metadata: Mapping[str, Any], path: Path = Path()) -> str:
    """Return the text in which the intent has this metadata, wherever it has any, else at its first place; none takes
    it away. Every other byte stays."""
    newline, lines, items = _read(source, path)
    own = _own(items, intent)
    having = [item for item in own if item.get("metadata")] or own[:1]
    for item in reversed(having):  # from the end, so that the lines before it keep their numbers
        row, column = item.lc.key("intent")
        start = after = row + 1
        if "metadata" in item:
            start, _ = item.lc.key("metadata")
            after = max(_end(lines, start + 1, column), start + 1)
        new = [" " * column + line for line in _dumped({"metadata": _quoted(metadata)})] if metadata else []
        lines[start:after] = new
    return newline.join(lines)


def without_intent(source: str, intent: str, path: Path = Path()) -> str:
    """Return the text without the items of an intent; every other byte stays."""
    newline, lines, items = _read(source, path)
    for item in reversed(_own(items, intent)):
        row, column = item.lc.key("intent")
        after = _end(lines, row + 1, column - 2)
        while after < len(lines) - 1 and not lines[after].strip():
            after += 1
        del lines[row:after]
    return newline.join(lines)


def with_new_intent(source: str, intent: str, path: Path = Path()) -> str:
    """Return the text with an intent that has no examples yet at its end."""
    newline, lines, items = _read(source, path)
    return newline.join("\n".join(_with_new_intent(lines, items, intent, ())).split("\n"))


def _read(source: str, path: Path) -> tuple[str, list[str], CommentedSeq]:
    newline = "\r\n" if "\r\n" in source else "\n"
    items = parse_document(source, path).get("nlu")
    return newline, source.replace("\r\n", "\n").split("\n"), items if items is not None else CommentedSeq()


def _own(items: CommentedSeq, intent: str) -> list[CommentedMap]:
    """Items of the intent in block form, whose first key is `intent`."""
    return [
        item
        for item in items
        if isinstance(item, CommentedMap)
        and str(item.get("intent", "")).strip() == intent
        and not item.fa.flow_style()
        and next(iter(item)) == "intent"
    ]


def _inline(text: str) -> str:
    return _dumped({"x": _quoted(text)})[0].removeprefix("x: ")


def _dumped(value: Any) -> list[str]:
    stream = StringIO()
    yaml = YAML()
    yaml.width = 2**16
    yaml.dump(value, stream)
    return stream.getvalue().rstrip("\n").split("\n")


def to_rasa(data: TrainingData) -> str:
    """Write training data as one new Rasa 3.1 file; intents without examples are kept."""
    items: list[dict[str, Any]] = []
    for name, spec in data.intents.items():
        item: dict[str, Any] = {"intent": _quoted(name)}
        if spec.metadata:
            item["metadata"] = _quoted(spec.metadata)
        items.append(item | {"examples": _examples([each for each in data.examples if each.intent == name])})
    for kind, named in (("synonym", data.synonyms), ("lookup", data.lookups), ("regex", data.regexes)):
        items += [{kind: _quoted(name), "examples": _named_lines(lines)} for name, lines in named.items()]
    yaml = YAML()
    yaml.width = 2**16
    stream = StringIO()
    yaml.dump({"version": DoubleQuotedScalarString("3.1"), "nlu": items}, stream)
    return stream.getvalue()


class _Block:
    """The examples of one item: (text, first line, line after the last), lines counted from 0, and how to add one."""

    def __init__(self, examples: list[tuple[str, int, int]], end: int, indent: str, *, as_list: bool) -> None:
        self.examples = examples
        self.end = end
        self._indent = indent
        self._as_list = as_list

    def written(self, text: str) -> str:
        if self._as_list:
            return f"{self._indent}- text: |\n{self._indent}    {text}"
        return f"{self._indent}- {text}"


def _block(item: CommentedMap, lines: list[str]) -> _Block | None:
    examples = item.get("examples")
    if isinstance(examples, str):
        key_line, _ = item.lc.key("examples")
        key_indent = _indent(lines[key_line])
        if lines[key_line].lstrip().startswith("- "):
            key_indent += 2
        first = key_line + 1
        end = _end(lines, first, key_indent)
        found = []
        indents = [_indent(line) for line in lines[first:end] if line.strip()]
        indent = min(indents, default=key_indent + 2)
        for number in range(first, end):
            text = lines[number][indent:].rstrip()
            if text.startswith("-") and text[1:].strip():
                found.append((text[1:].strip(), number, number + 1))
        return _Block(found, max(end, first), " " * indent, as_list=False)
    if isinstance(examples, CommentedSeq) and len(examples):
        starts = [examples.lc.item(index)[0] for index in range(len(examples))]
        indent = _indent(lines[starts[0]])
        end = _end(lines, starts[-1] + 1, indent)
        found = []
        for each, start, after in zip(examples, starts, [*starts[1:], end], strict=True):
            text = str(each.get("text", "") if isinstance(each, CommentedMap) else each).strip()
            found.append((text.removeprefix("- ").strip(), start, after))
        return _Block(found, end, " " * indent, as_list=True)
    return None


def _end(lines: list[str], first: int, indent: int) -> int:
    """The line after the last one with words that is indented deeper than `indent`."""
    end = first
    for number in range(first, len(lines)):
        if lines[number].strip():
            if _indent(lines[number]) <= indent:
                break
            end = number + 1
    return end


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip(" "))


def _with_new_intent(lines: list[str], items: CommentedSeq, intent: str, examples: Sequence[str]) -> list[str]:
    if len(items):
        # The dash of an item stands two columns before its first key.
        margin = " " * (items.lc.item(0)[1] - 2 if items.lc.item(0)[1] >= 2 else 0)
        end = _end(lines, items.lc.item(len(items) - 1)[0], len(margin) - 1)
    else:
        margin = ""
        end = len(lines)
        while end and not lines[end - 1].strip():
            end -= 1
        if not any(line.startswith("nlu:") for line in lines):
            lines = [*lines[:end], "nlu:", *lines[end:]]
            end += 1
    stream = StringIO()
    yaml = YAML()
    yaml.dump([{"intent": _quoted(intent)} | ({"examples": _literal(examples)} if examples else {})], stream)
    added = [margin + line for line in stream.getvalue().rstrip("\n").split("\n")]
    rest = lines[end:] or [""]
    return [*lines[:end], *added, *rest]


def _examples(examples: Sequence[Example]) -> Any:
    """The block form, or the list form where an example has metadata of its own or the block could not hold it."""
    raws = [each.raw or each.text for each in examples]
    if not any(each.metadata for each in examples) and all(map(_is_one_line, raws)):
        return _literal(raws)
    return [
        {"text": LiteralScalarString(f"- {raw}\n") if _is_one_line(raw) else DoubleQuotedScalarString(f"- {raw}")}
        | ({"metadata": _quoted(each.metadata)} if each.metadata else {})
        for raw, each in zip(raws, examples, strict=True)
    ]


def _named_lines(lines: Sequence[str]) -> Any:
    if all(map(_is_one_line, lines)):
        return _literal(lines)
    return [DoubleQuotedScalarString(f"- {line}") for line in lines]


def _quoted(value: Any) -> Any:
    """A value with quotes where YAML would otherwise change it: a plain scalar loses rare line separators."""
    if isinstance(value, Mapping):
        return {_quoted(key): _quoted(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_quoted(each) for each in value]
    if isinstance(value, str) and not value.isprintable():
        return DoubleQuotedScalarString(value)
    return value


def _is_one_line(text: str) -> bool:
    """Whether a text comes back from a block as it went in; what YAML does not print does not."""
    return text.isprintable() and text.strip() == text != ""


def _literal(lines: Sequence[str]) -> LiteralScalarString:
    text: LiteralScalarString = LiteralScalarString("".join(f"- {line}\n" for line in lines))
    return text
