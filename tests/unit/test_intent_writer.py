"""A change of examples leaves every other byte of a Rasa file as it was."""

from pathlib import Path

import pytest

from nlu.errors import TrainingDataError
from nlu.training_data import load_intents
from nlu.training_writer import to_rasa, with_examples

SOURCE = """\
version: "3.1"   # ours
nlu:
  - intent: order_status   # frequent
    metadata: {article: order-status}
    examples: |
      - where is my [parcel](thing)
      # from the chats of May
      - status  of my order

  - synonym: parcel
    examples: |
      - package
  - intent: hello
    examples:
      - text: |
          - hi there
        metadata: {tone: warm}
      - good day
"""


def test_the_same_examples_give_the_same_bytes() -> None:
    assert with_examples(SOURCE, "order_status", ["status  of my order", "where is my [parcel](thing)"]) == SOURCE
    assert with_examples(SOURCE, "hello", ["hi there", "good day"]) == SOURCE


def test_a_new_example_is_one_new_line_after_the_last() -> None:
    changed = with_examples(SOURCE, "order_status", ["where is my [parcel](thing)", "status  of my order", "any news"])

    last = "      - status  of my order\n"
    assert changed == SOURCE.replace(last, f"{last}      - any news\n")


def test_a_deleted_example_takes_its_line_only() -> None:
    changed = with_examples(SOURCE, "order_status", ["where is my [parcel](thing)"])

    assert changed == SOURCE.replace("      - status  of my order\n", "")


def test_the_last_example_can_be_replaced() -> None:
    changed = with_examples(SOURCE, "order_status", ["where is my [parcel](thing)", "any news"])

    assert changed == SOURCE.replace("- status  of my order", "- any news")


def test_the_list_form_is_edited_in_its_own_form(tmp_path: Path) -> None:
    path = tmp_path / "en.yml"
    path.write_text(with_examples(SOURCE, "hello", ["good day", "hey"]))

    hello = [each for each in load_intents(path).examples if each.intent == "hello"]

    assert [each.text for each in hello] == ["good day", "hey"]
    assert "hi there" not in path.read_text()
    assert "# from the chats of May" in path.read_text()


@pytest.mark.parametrize("source", [SOURCE, SOURCE.rstrip("\n"), "", 'version: "3.1"\nnlu:\n', "nlu: []\n"][:4])
def test_an_unknown_intent_is_added_at_the_end(tmp_path: Path, source: str) -> None:
    path = tmp_path / "en.yml"
    path.write_text(with_examples(source, "goodbye", ["bye: now", "see [you](who)"]))

    assert path.read_text().startswith(source.rstrip("\n"))
    added = [each for each in load_intents(path).examples if each.intent == "goodbye"]
    assert [each.raw for each in added] == ["bye: now", "see [you](who)"]


def test_windows_line_ends_are_kept() -> None:
    source = SOURCE.replace("\n", "\r\n")

    changed = with_examples(source, "order_status", ["where is my [parcel](thing)", "status  of my order", "news"])

    assert changed.count("\r\n") == changed.count("\n") == source.count("\n") + 1


@pytest.mark.parametrize("example", ["", "  ", "two\nlines"])
def test_what_is_no_example_is_refused(example: str) -> None:
    with pytest.raises(TrainingDataError, match="is no example"):
        with_examples(SOURCE, "hello", [example])


def test_a_new_file_holds_everything_that_was_read(tmp_path: Path) -> None:
    first, second = tmp_path / "one.en.yml", tmp_path / "two.en.yml"
    first.write_text(
        SOURCE + "  - regex: number\n    examples: |\n      - \\d+\n  - lookup: city\n    examples: [Omsk]\n"
    )
    data = load_intents(first)

    second.write_text(to_rasa(data))
    again = load_intents(second)

    assert [(each.raw, each.intent, each.metadata) for each in again.examples] == [
        (each.raw, each.intent, each.metadata) for each in data.examples
    ]
    assert again.intents == data.intents
    assert (again.synonyms, again.regexes, again.lookups) == (data.synonyms, data.regexes, data.lookups)
