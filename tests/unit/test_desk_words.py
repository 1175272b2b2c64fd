"""The words of the desk and the studio stand in both languages."""

from __future__ import annotations

from pathlib import Path

import pytest
from babel.messages.catalog import Catalog
from babel.messages.checkers import python_format
from babel.messages.extract import extract_from_dir
from babel.messages.pofile import read_po

from bot.web.desk_base import LANGUAGES, translations

WEB = Path(__file__).parents[2] / "bot" / "web"
OTHERS = [lang for lang in LANGUAGES if lang != "en"]


def marked() -> set[str]:
    """Every text of the templates and the pages that is to be translated."""
    folders = ("templates/desk/**.html", "templates/studio/**.html")
    found = extract_from_dir(
        WEB,
        method_map=[*((each, "jinja2") for each in folders), ("**.py", "python")],
        options_map={each: {"extensions": "jinja2.ext.do"} for each in folders},
        keywords={"_": None, "gettext": None, "N_": None},
    )
    return {str(message) for _, _, message, _, _ in found}


def catalogues(lang: str) -> dict[str, Catalog]:
    found = {}
    for path in sorted((WEB / "locale" / lang).glob("*.po")):
        with path.open("rb") as file:
            found[path.name] = read_po(file, locale=lang)
    return found


@pytest.mark.parametrize("lang", OTHERS)
def test_every_text_is_translated_and_none_is_left_over(lang: str) -> None:
    translated = {str(m.id) for part in catalogues(lang).values() for m in part if m.id and m.string}
    assert marked() - translated == set()
    assert translated - marked() == set()


@pytest.mark.parametrize("lang", OTHERS)
def test_a_text_has_one_translation(lang: str) -> None:
    seen: dict[str, tuple[str, str]] = {}
    for name, part in catalogues(lang).items():
        for message in part:
            if message.id:
                first = seen.setdefault(str(message.id), (name, str(message.string)))
                assert first[1] == str(message.string), f"{message.id} in {first[0]} and {name}"


@pytest.mark.parametrize("lang", OTHERS)
def test_a_translation_has_the_places_of_its_text(lang: str) -> None:
    for catalogue in catalogues(lang).values():
        for message in catalogue:
            if message.id and "%(" in str(message.id):
                python_format(catalogue, message)
                assert str(message.string).count("%(") == str(message.id).count("%("), message.id


def test_english_stands_in_the_templates() -> None:
    assert translations("en").gettext("Reply") == "Reply"
    assert translations("ru").gettext("Reply") == "Ответ"
    assert translations("ru").gettext("Studio") == "Студия", "every catalogue is read"
