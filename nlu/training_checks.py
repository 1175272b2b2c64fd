"""What an editor should know about training data before training: each finding with file, line and remedy."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from nlu.embedding import Embedding
from nlu.encoder import Encoder
from nlu.features import LexicalFeatures, fold
from nlu.training_data import OUT_OF_SCOPE_INTENTS, Example, TrainingData

FEWEST_EXAMPLES: Final = 10
"""What Rasa's documentation recommends for an intent; here asked for in each language."""

# Of pairs whose words are nearly all the same, and of pairs that mean nearly the same, on centred vectors.
_SAME_WORDS: Final = 0.8
_SAME_MEANING: Final = 0.95
_CHUNK: Final = 1024


@dataclass(frozen=True)
class Finding:
    """A doubtful place. `file` is None and `line` 0 where it comes from no file.

    `fault`: two places contradict one another, so that one of them must be wrong; the rest is advice.
    """

    file: Path | None
    line: int
    message: str
    remedy: str
    fault: bool = False
    kind: str = ""
    """`twice`, `contradiction`, `few`, `none`, `none_in`, `near` or `foreign`."""
    intent: str = ""
    text: str = ""
    """Of the example that it is about, if it is about one; `other` is the example that it is compared with."""
    lang: str | None = None
    other: Example | None = None

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}: " if self.file and self.line else ""
        return f"{place}{self.message}. {self.remedy}"


def check_training_data(data: TrainingData, encoder: Encoder | None = None) -> list[Finding]:
    """Find doubtful places, in the order of files and lines.

    Duplicates, one text under two intents, intents with few examples, texts of two intents that nearly agree (in
    words; with an encoder also in meaning), texts in another language than their file's name says or, where it says
    nothing, than most of the file. Raises EncodingError.
    """
    findings = [
        *_repeated(data.examples),
        *_few(data),
        *_near(data.examples, encoder),
        *_foreign_language(data.examples),
    ]
    return sorted(findings, key=lambda each: (str(each.file or ""), each.line, each.message))


def _repeated(examples: Sequence[Example]) -> Iterator[Finding]:
    first: dict[str, Example] = {}
    for example in examples:
        earlier = first.setdefault(fold(example.text), example)
        if earlier is example:
            continue
        if earlier.intent != example.intent:
            yield _finding(
                example,
                f"{example.text!r} is an example of {example.intent!r}, in {_place(earlier, example)} of "
                f"{earlier.intent!r}",
                "Leave it under one intent, or join the intents.",
                "contradiction",
                fault=True,
                other=earlier,
            )
        elif earlier.lang == example.lang:  # «ok» may stand in the files of two languages
            message = f"{example.text!r} stands in {_place(earlier, example)} already"
            yield _finding(example, message, "Delete one of the two.", "twice", other=earlier)


def _few(data: TrainingData) -> Iterator[Finding]:
    counts = Counter((each.intent, each.lang) for each in data.examples)
    first = {(each.intent, each.lang): each for each in reversed(data.examples)}
    langs = {each.lang for each in data.examples}
    for name in data.intents:
        if name in OUT_OF_SCOPE_INTENTS:
            continue
        own = [lang for lang in langs if (name, lang) in counts]
        if not own:
            remedy = "Add examples, or delete the intent."
            yield Finding(None, 0, f"intent {name!r} has no examples", remedy, kind="none", intent=name)
        anywhere = next((first[name, lang] for lang in own), None)
        for lang in sorted(langs - set(own), key=str) if anywhere else ():
            message = f"intent {name!r} has no examples in {lang or 'files without a language'}"
            yield replace(_finding(anywhere, message, "Add examples.", "none_in"), text="", lang=lang)
        for lang in own:
            if counts[name, lang] < FEWEST_EXAMPLES:
                found = _finding(
                    first[name, lang],
                    f"intent {name!r} has {counts[name, lang]} examples{f' in {lang}' if lang else ''}",
                    f"Add wordings that customers use, up to {FEWEST_EXAMPLES} at least.",
                    "few",
                )
                yield replace(found, text="")


def _near(examples: Sequence[Example], encoder: Encoder | None) -> Iterator[Finding]:
    texts = [fold(each.text) for each in examples]
    if not texts:
        return
    _, words = LexicalFeatures.fit(texts)
    columns = words.T.tocsr()
    vectors = Embedding.fit(encoder, None, texts)[1] if encoder else None
    intents = np.array([each.intent for each in examples])
    for start in range(0, len(texts), _CHUNK):
        part = slice(start, start + _CHUNK)
        near = (words[part] @ columns).toarray() >= _SAME_WORDS
        if vectors is not None:
            near |= vectors[part] @ vectors.T >= _SAME_MEANING
        near &= intents[part, None] != intents[None]
        said: dict[int, list[int]] = defaultdict(list)
        for row, other in np.argwhere(near):
            if other < row + start and texts[other] != texts[row + start]:
                said[int(row) + start].append(int(other))
        for row, others in said.items():
            example, other_example = examples[row], examples[others[0]]
            yield _finding(
                example,
                f"{example.text!r} ({example.intent}) is nearly {other_example.text!r} ({other_example.intent}, "
                f"{_place(other_example, example)})",
                "Leave it under one intent, or word it so that the difference shows.",
                "near",
                other=other_example,
            )


def _foreign_language(examples: Sequence[Example]) -> Iterator[Finding]:
    mostly = _scripts_of_files(examples)
    for example in examples:
        cyrillic, latin = _letters(example.text)
        # One Latin word in a Russian file may be a brand or "ok".
        words = len(example.text.split())
        move = "Move it to the file of its language."
        if example.lang == "ru" and not cyrillic and latin and words > 1:
            yield _finding(example, f"{example.text!r} is not Russian", move, "foreign")
        elif example.lang == "en" and cyrillic > latin:
            yield _finding(example, f"{example.text!r} is not English", move, "foreign")
        elif example.lang is None and words > 1 and (cyrillic > 0) != (latin > 0):
            script = "Cyrillic" if cyrillic else "Latin"
            if script != mostly.get(example.file, script):
                message = f"{example.text!r} is in {script} letters, most of its file is not"
                remedy = "Put each language in a file of its own, named like ru.yml and en.yml."
                yield _finding(example, message, remedy, "foreign")


def _scripts_of_files(examples: Sequence[Example]) -> dict[Path | None, str]:
    """File → the script of most of its examples, for files whose name says no language."""
    counts: dict[Path | None, Counter[str]] = defaultdict(Counter)
    for example in examples:
        cyrillic, latin = _letters(example.text)
        if example.lang is None and cyrillic != latin:
            counts[example.file]["Cyrillic" if cyrillic > latin else "Latin"] += 1
    return {file: count.most_common(1)[0][0] for file, count in counts.items()}


def _letters(text: str) -> tuple[int, int]:
    """How many Cyrillic and how many Latin letters."""
    folded = fold(text)
    return sum("а" <= each <= "я" for each in folded), sum("a" <= each <= "z" for each in folded)


def _finding(
    example: Example | None,
    message: str,
    remedy: str,
    kind: str,
    *,
    fault: bool = False,
    other: Example | None = None,
) -> Finding:
    if example is None:
        return Finding(None, 0, message, remedy, fault, kind)
    return Finding(
        example.file, example.line, message, remedy, fault, kind, example.intent, example.text, example.lang, other
    )


def _place(example: Example, seen_from: Example) -> str:
    """Where an example stands; its folder is named where two files have the same name."""
    if example.file is None or not example.line:
        return f"intent {example.intent!r}"
    same_name = seen_from.file and seen_from.file != example.file and seen_from.file.name == example.file.name
    name = f"{example.file.parent.name}/{example.file.name}" if same_name else example.file.name
    return f"{name}:{example.line}"
