"""Doubtful training data is named with file, line and remedy."""

from pathlib import Path

import pytest

from nlu.training_checks import Finding, check_training_data
from nlu.training_data import load_intents

NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
MANY = "".join(f"    - question number {word}\n" for word in NUMBERS)


def findings(tmp_path: Path, **files: str) -> list[Finding]:
    for stem, text in files.items():
        (tmp_path / f"{stem}.yml").write_text(f"nlu:\n{text}", encoding="utf-8")
    return check_training_data(load_intents(tmp_path))


def test_good_data_has_no_findings(tmp_path: Path) -> None:
    other = MANY.replace("question number", "order of")
    assert findings(tmp_path, en=f"- intent: a\n  examples: |\n{MANY}- intent: b\n  examples: |\n{other}") == []


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        (f"- intent: a\n  examples: |\n{MANY}    - Question  number ONE\n", 14, "stands in en.yml:4 already"),
        (
            f"- intent: a\n  examples: |\n{MANY}- intent: out_of_scope\n  examples: |\n    - question number two\n",
            16,
            "of 'a'",
        ),
        (
            f"- intent: a\n  examples: |\n{MANY}- intent: b\n  examples: |\n    - other\n",
            16,
            "'b' has 1 examples in en",
        ),
        (
            f"- intent: a\n  examples: |\n{MANY}- intent: out_of_scope\n  examples: |\n    - question number two?\n",
            16,
            "is nearly 'question number two' (a, en.yml:5)",
        ),
        (f"- intent: a\n  examples: |\n{MANY}    - где мой заказ\n", 14, "is not English"),
        (f"- intent: a\n  examples: |\n{MANY}- intent: empty\n", 0, "'empty' has no examples"),
    ],
)
def test_a_doubtful_place_is_found_once(tmp_path: Path, text: str, line: int, says: str) -> None:
    (found,) = findings(tmp_path, en=text)

    assert found.line == line
    assert says in found.message
    assert found.remedy.endswith(".")


def test_an_intent_without_examples_in_one_of_the_languages_is_found(tmp_path: Path) -> None:
    russian = MANY.replace("question number", "вопрос")
    found = findings(
        tmp_path,
        en=f"- intent: a\n  examples: |\n{MANY}",
        ru=f"- intent: a\n  examples: |\n{russian}- intent: b\n  examples: |\n{russian.replace('вопрос', 'заказ')}",
    )

    assert [(each.file and each.file.name, each.message) for each in found] == [
        ("ru.yml", "intent 'b' has no examples in en")
    ]


def test_only_a_contradiction_is_a_fault(tmp_path: Path) -> None:
    one = f"- intent: a\n  examples: |\n{MANY}    - question number one\n    - help me now\n"
    found = findings(tmp_path, en=one, ru="- intent: b\n  examples: |\n    - help me now\n")

    assert [each.message for each in found if each.fault] == [
        "'help me now' is an example of 'b', in en.yml:15 of 'a'",
    ]
    assert str(found[0]).startswith(f"{tmp_path / 'en.yml'}:")


def test_a_word_may_stand_in_the_files_of_two_languages(tmp_path: Path) -> None:
    one = f"- intent: a\n  examples: |\n{MANY}    - ok\n"

    assert findings(tmp_path, en=one, ru="- intent: a\n  examples: |\n    - ok\n")[0].message == (
        "intent 'a' has 1 examples in ru"
    )


def test_another_script_in_a_file_without_a_language_is_found(tmp_path: Path) -> None:
    (found,) = findings(tmp_path, nlu=f"- intent: a\n  examples: |\n{MANY}    - где мой заказ\n    - iPhone мой где\n")

    assert (found.line, found.message) == (14, "'где мой заказ' is in Cyrillic letters, most of its file is not")


def test_files_of_the_same_name_are_told_apart_by_their_folder(tmp_path: Path) -> None:
    for folder in ("bank", "shop"):
        (tmp_path / folder).mkdir()
        text = f"nlu:\n- intent: {folder}\n  examples: |\n    - where is my card\n"
        (tmp_path / folder / "nlu.yml").write_text(text)

    found = check_training_data(load_intents(tmp_path))

    assert [each.message for each in found if each.fault] == [
        "'where is my card' is an example of 'shop', in bank/nlu.yml:4 of 'bank'"
    ]
