"""The words of the desk stand in both languages."""

from __future__ import annotations

from pathlib import Path

import pytest
from babel.messages.checkers import python_format
from babel.messages.extract import extract_from_dir
from babel.messages.pofile import read_po

from bot.web.desk_base import LANGUAGES, translations

WEB = Path(__file__).parents[2] / "bot" / "web"


def marked() -> set[str]:
    """Every text of the templates and the pages that is to be translated."""
    found = extract_from_dir(
        WEB,
        method_map=[("templates/desk/**.html", "jinja2"), ("**.py", "python")],
        options_map={"templates/desk/**.html": {"extensions": "jinja2.ext.do"}},
        keywords={"_": None, "gettext": None, "N_": None},
    )
    return {str(message) for _, _, message, _, _ in found}


@pytest.mark.parametrize("lang", [lang for lang in LANGUAGES if lang != "en"])
def test_every_text_is_translated_and_none_is_left_over(lang: str) -> None:
    with (WEB / "locale" / lang / "desk.po").open("rb") as file:
        catalogue = read_po(file, locale=lang)
    translated = {str(message.id) for message in catalogue if message.id and message.string}
    assert marked() - translated == set()
    assert translated - marked() == set()


@pytest.mark.parametrize("lang", [lang for lang in LANGUAGES if lang != "en"])
def test_a_translation_has_the_places_of_its_text(lang: str) -> None:
    with (WEB / "locale" / lang / "desk.po").open("rb") as file:
        catalogue = read_po(file, locale=lang)
    for message in catalogue:
        if message.id and "%(" in str(message.id):
            python_format(catalogue, message)
            assert str(message.string).count("%(") == str(message.id).count("%("), message.id


def test_english_stands_in_the_templates() -> None:
    assert translations("en").gettext("Reply") == "Reply"
    assert translations("ru").gettext("Reply") == "Ответ"
