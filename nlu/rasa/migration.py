"""A Rasa bot becomes a data folder of Otvet: its training data byte for byte, its one-turn answers as replies."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ruamel.yaml.comments import CommentedMap, CommentedSeq

from nlu.errors import FolderNotEmpty
from nlu.training_data import OUT_OF_SCOPE_INTENTS, load_intents, parse_document, training_files, training_sources
from nlu.training_writer import to_rasa

_SLOT: Final = re.compile(r"\{\w+\}")


@dataclass(frozen=True)
class Imported:
    """What came over. `replies`: intent → the template it leads to. `left`: what did not, each with what to do."""

    examples: int
    intents: int
    replies: Mapping[str, str]
    left: tuple[str, ...]


def import_project(project: Path, folder: Path, lang: str) -> Imported:
    """Write a Rasa project's training data and answers into `folder/intents` and `folder/replies/<lang>`.

    An intent that a rule, or the first turn of a story, answers with nothing but `utter_…` leads to these texts;
    an intent that the files give `metadata` keeps it. Forms, actions and longer stories stay behind.
    Raises FolderNotEmpty if either folder holds something, TrainingDataError.
    """
    for target in (folder / "intents", folder / "replies"):
        if target.exists() and any(target.iterdir()):
            raise FolderNotEmpty(target)
    data = load_intents(project)
    responses = dict(_responses(project))
    answers = dict(reversed(list(_answers(project))))
    answers |= {name: (f"utter_{name}",) for name in data.intents if f"utter_{name}" in responses and "/" in name}
    replies: dict[str, str] = {}
    left: list[str] = []
    templates = folder / "replies" / lang
    for name, spec in data.intents.items():
        if spec.metadata or name in OUT_OF_SCOPE_INTENTS:
            continue
        texts = [responses.get(each, "") for each in answers.get(name, ())]
        if not texts or not all(texts):
            left.append(f"intent {name}: no answer in words. Give it `metadata` with an article, a reply or a handoff.")
        elif any(map(_SLOT.search, texts)):
            left.append(f"intent {name}: its answer has slots, {' '.join(texts)[:80]!r}. Write the reply by hand.")
        else:
            replies[name] = re.sub(r"\W+", "_", f"rasa_{name}")
            path = templates / f"{replies[name]}.j2"
            path.parent.mkdir(parents=True, exist_ok=True)
            text = "\n\n".join(texts)
            # What looks like Jinja is not meant as it.
            quoted = "{% raw %}" + text + "{% endraw %}" if re.search(r"\{[{%#]", text) else text
            path.write_text(f"{quoted}\n", encoding="utf-8")
    for path in training_sources(project):
        inside = path.relative_to(project)
        inside = inside.relative_to("data") if inside.parts[0] == "data" else inside
        target = folder / "intents" / inside.with_name(f"{inside.stem}.{lang}.yml")
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".jsonl":
            target.write_text(to_rasa(load_intents(path)), encoding="utf-8", newline="")
        else:
            with path.open(encoding="utf-8", newline="") as file:
                source = file.read()
            target.write_text(_with_replies(source, path, replies), encoding="utf-8", newline="")
    return Imported(len(data.examples), len(data.intents), replies, tuple(left))


def _documents(project: Path) -> Iterator[CommentedMap]:
    for path in training_files(project):
        if path.suffix in (".yml", ".yaml"):
            yield parse_document(path.read_text(encoding="utf-8-sig"), path)


def _responses(project: Path) -> Iterator[tuple[str, str]]:
    """Name → its first text."""
    for document in _documents(project):
        found = document.get("responses")
        for name, variants in found.items() if isinstance(found, CommentedMap) else ():
            texts = [each.get("text") for each in variants or () if isinstance(each, CommentedMap)]
            if texts and isinstance(texts[0], str):
                yield str(name), texts[0].strip()


def _answers(project: Path) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Intent → the names of the responses that answer it, those of rules first."""
    for kind in ("rules", "stories"):
        for document in _documents(project):
            told = document.get(kind)
            for each in told if isinstance(told, CommentedSeq) else ():
                steps = each.get("steps") if isinstance(each, CommentedMap) else None
                if isinstance(steps, CommentedSeq) and not each.get("condition"):
                    yield from _first_turn(list(steps), whole=kind == "rules")


def _first_turn(steps: list[Any], *, whole: bool) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The answer to the intent of the first step; in a rule (`whole`) there may be nothing after it."""
    if not steps or not all(isinstance(each, Mapping) for each in steps) or "intent" not in steps[0]:
        return
    turn = []
    for step in steps[1:]:
        if "action" not in step:
            if whole or not ("intent" in step or "or" in step):
                return
            break
        turn.append(str(step["action"]))
    if turn and all(each.startswith("utter_") for each in turn):
        yield str(steps[0]["intent"]), tuple(turn)


def _with_replies(source: str, path: Path, replies: Mapping[str, str]) -> str:
    """The text of a file in which intents name their replies; every other byte stays."""
    newline = "\r\n" if "\r\n" in source else "\n"
    lines = source.split(newline)
    items = parse_document(source, path).get("nlu") or CommentedSeq()
    done: set[str] = set()
    places: dict[int, list[str]] = {}
    for item in items:
        name = str(item.get("intent", "")).strip()
        if name in replies and name not in done and not item.fa.flow_style():
            done.add(name)
            row, column = item.lc.key("intent")
            places[row] = [f"{' ' * column}metadata:", f"{' ' * column}  reply: {replies[name]}"]
    return newline.join(new for row, line in enumerate(lines) for new in (line, *places.get(row, ())))
