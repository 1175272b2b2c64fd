"""Templates that a platform approved beforehand: which is sent, and how it reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from bot.errors import SettingsError
from bot.message_templates import load_templates

DATA = Path(__file__).parents[2] / "data"
TEMPLATES = load_templates(DATA / "templates.yml")


def test_an_agent_sees_each_as_the_customer_will_read_it() -> None:
    shown = TEMPLATES.previews("en", {"ticket_number": "17", "shop": "Klyon"})
    assert list(shown) == list(TEMPLATES.ids)
    assert "No. 17 at Klyon" in shown["ticket_answer"]
    assert "{{" not in "".join(shown.values())


def test_what_is_not_known_yet_is_an_ellipsis_in_the_preview_and_keeps_the_template_from_being_sent() -> None:
    assert "№ … в Клён" in TEMPLATES.previews("ru", {"shop": "Клён"})["ticket_answer"]
    filled = TEMPLATES.fill("ru", {"shop": "Клён"}, {}, "ticket_answer")
    assert filled is not None
    assert filled.id != "ticket_answer"


def test_the_preview_is_what_is_sent() -> None:
    values = {"ticket_number": "17", "shop": "Klyon"}
    filled = TEMPLATES.fill("en", values, {}, "ticket_answer")
    assert filled is not None
    assert filled.text == TEMPLATES.previews("en", values)["ticket_answer"]


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "templates.yml"
    path.write_text("- id: x\n  ru: {name: x, language: ru, text: 'Hi {{1}}', variables: []}\n", encoding="utf-8")
    with pytest.raises(SettingsError, match=r"templates\.yml"):
        load_templates(path)
