"""Rasa NLU files and JSON lines are read with file, line and everything that a Rasa user wrote into them."""

from pathlib import Path

import pytest

from nlu.errors import TrainingDataError
from nlu.training_data import Entity, load_intents, strip_entities

RASA_FILE = """\
version: "3.1"
# made by hand
nlu:
- intent: order_status
  metadata:
    article: order-status
  examples: |
    - where is my [parcel](thing)
    # a comment between examples

    - status of [order 17]{"entity": "order", "value": "17", "role": "main"}
- intent: faq/opening_hours
  examples:
  - text: |
      - when do you open
    metadata:
      sentiment: neutral
  - text: are you open today
- synonym: parcel
  examples: |
    - package
- lookup: city
  examples: |
    - Kazan
- regex: order_number
  examples: |
    - \\d{6}
"""


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_examples_carry_their_text_intent_language_and_line(tmp_path: Path) -> None:
    data = load_intents(write(tmp_path / "en.yml", RASA_FILE))

    assert [(each.text, each.intent, each.lang, each.line) for each in data.examples] == [
        ("where is my parcel", "order_status", "en", 8),
        ("status of order 17", "order_status", "en", 11),
        ("when do you open", "faq/opening_hours", "en", 14),
        ("are you open today", "faq/opening_hours", "en", 18),
    ]
    assert data.examples[0].raw == "where is my [parcel](thing)"


def test_what_the_classifier_does_not_use_is_kept(tmp_path: Path) -> None:
    data = load_intents(write(tmp_path / "nlu.yml", RASA_FILE))

    assert data.intents["order_status"].metadata == {"article": "order-status"}
    assert data.examples[1].entities == (Entity(10, 18, "order", "17", role="main"),)
    assert data.examples[2].metadata == {"sentiment": "neutral"}
    assert (data.synonyms, data.lookups, data.regexes) == (
        {"parcel": ("package",)},
        {"city": ("Kazan",)},
        {"order_number": (r"\d{6}",)},
    )
    assert data.examples[0].lang is None


@pytest.mark.parametrize(
    ("raw", "text", "entities"),
    [
        ("to [Kazan](city:KZN)", "to Kazan", (Entity(3, 8, "city", "KZN"),)),
        ('[a][{"entity": "x"}, {"entity": "y"}]', "a", (Entity(0, 1, "x", "a"), Entity(0, 1, "y", "a"))),
        ("[not an entity] (really)", "[not an entity] (really)", ()),
    ],
)
def test_entity_marks_are_taken_out_of_the_text(raw: str, text: str, entities: tuple[Entity, ...]) -> None:
    assert strip_entities(raw) == (text, entities)


def test_a_folder_is_read_whole_and_passes_over_stories(tmp_path: Path) -> None:
    write(tmp_path / "ru.yml", "nlu:\n- intent: hello\n  examples: |\n    - привет\n")
    write(tmp_path / "more" / "en.yml", "nlu:\n- intent: hello\n  examples: |\n    - hi\n")
    write(tmp_path / "stories.yml", "stories:\n- story: a\n  steps: []\n")
    write(tmp_path / "README.md", "# About\n## How\n")

    data = load_intents(tmp_path)

    assert [(each.text, each.lang) for each in data.examples] == [("hi", "en"), ("привет", "ru")]


def test_json_lines_are_rows_of_text_and_intent(tmp_path: Path) -> None:
    data = load_intents(write(tmp_path / "shop.en.test.jsonl", '{"text": "hi", "intent": "hello"}\n\n'))

    assert [(each.text, each.intent, each.lang) for each in data.examples] == [("hi", "hello", "en")]


@pytest.mark.parametrize(
    ("name", "text", "line", "says"),
    [
        ("a.yml", "nlu:\n- intent: a\n  examples: |\n    - b\n -c: [\n", 5, "not YAML"),
        ("a.yml", "nlu:\n- examples: |\n    - b\n", 2, "without `intent`"),
        ("a.yml", 'nlu:\n- intent: a\n  examples: |\n    - [b]{"entity" 1}\n', 4, "entity mark"),
        ("a.yml", 'version: "1.0"\nnlu: []\n', 1, "version 1.0"),
        ("a.yml", "stories: []\n", 1, "no `nlu` key"),
        ("a.yml", "- just\n- a list\n", 1, "no mapping"),
        ("a.md", "## intent:greet\n- hi\n", 1, "rasa data convert"),
        ("a.jsonl", '{"text": "x"}\n', 1, "no `intent`"),
        ("a.jsonl", '{"text": "x", "intent": "y"}\n{\n', 2, "not a JSON object"),
        ("a.csv", "text,intent\n", 0, "unknown kind"),
    ],
)
def test_a_fault_is_named_with_its_file_and_line(tmp_path: Path, name: str, text: str, line: int, says: str) -> None:
    path = write(tmp_path / name, text)

    with pytest.raises(TrainingDataError) as caught:
        load_intents(path)

    assert (caught.value.path, caught.value.line) == (path, line)
    assert says in str(caught.value)


def test_a_file_that_is_not_utf8_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "ru.yml"
    path.write_bytes("nlu:\n- intent: привет\n".encode("cp1251"))

    with pytest.raises(TrainingDataError, match=r"ru\.yml:2: not UTF-8"):
        load_intents(path)


def test_two_files_that_disagree_on_an_intent_are_refused(tmp_path: Path) -> None:
    for lang, article in (("ru", "one"), ("en", "two")):
        item = f"nlu:\n- intent: a\n  metadata:\n    article: {article}\n  examples: |\n    - b {lang}\n"
        write(tmp_path / f"{lang}.yml", item)

    with pytest.raises(TrainingDataError, match=r"ru\.yml.*'article': 'one'.*'article': 'two'"):
        load_intents(tmp_path)
