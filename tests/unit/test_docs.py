"""What the program can do is written down: every setting and every command."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer.main

from bot.cli import app
from bot.settings import Settings

DOCS = Path(__file__).parents[2] / "docs"


def _commands() -> list[str]:
    root = typer.main.get_command(app)
    names = []
    for name, command in root.commands.items():  # type: ignore[attr-defined]
        inner = getattr(command, "commands", None)
        names += [f"otvet {name} {sub}" for sub in inner] if inner else [f"otvet {name}"]
    return names


@pytest.mark.parametrize("setting", [f"OTVET_{name.upper()}" for name in Settings.model_fields])
def test_every_setting_is_documented(setting: str) -> None:
    assert f"`{setting}`" in (DOCS / "operator.md").read_text(encoding="utf-8")


def test_no_setting_is_documented_that_does_not_exist() -> None:
    known = {f"OTVET_{name.upper()}" for name in Settings.model_fields}
    lines = (DOCS / "operator.md").read_text(encoding="utf-8").splitlines()
    listed = {line.split("`")[1] for line in lines if line.startswith("| `OTVET_")}
    assert listed == known


@pytest.mark.parametrize("command", _commands())
def test_every_command_is_documented(command: str) -> None:
    assert f"`{command}" in (DOCS / "operator.md").read_text(encoding="utf-8")
