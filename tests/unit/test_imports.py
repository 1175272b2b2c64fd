"""The direction of imports: bot → {handoff, kb_index, nlu}; those three know neither bot nor one another."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {"bot", "handoff", "kb_index", "nlu"}
ALLOWED = {"bot": PACKAGES, "handoff": {"handoff"}, "kb_index": {"kb_index"}, "nlu": {"nlu"}}


def foreign_imports(source: str, package: str) -> list[str]:
    """The imports of `source` that a module of `package` may not have."""
    found = []
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""] if not node.level else [f"{package}.{node.module or ''}"]
        found += [name for name in names if name.split(".")[0] in PACKAGES - ALLOWED[package]]
    return found


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_a_package_imports_only_what_it_may(package: str) -> None:
    wrong = {
        str(path.relative_to(ROOT)): names
        for path in (ROOT / package).rglob("*.py")
        if (names := foreign_imports(path.read_text(encoding="utf-8"), package))
    }
    assert not wrong


@pytest.mark.parametrize(
    ("source", "package"),
    [
        ("from bot.errors import OtvetError", "nlu"),
        ("def later():\n    import nlu.encoder", "kb_index"),
        ("import kb_index.search as search", "handoff"),
    ],
)
def test_a_wrong_direction_is_caught(source: str, package: str) -> None:
    assert foreign_imports(source, package)


def test_settings_are_read_in_the_composition_root_alone() -> None:
    """Everything else gets plain arguments, so that it can be built without the environment."""
    allowed = {
        "bot/settings.py",
        "bot/wiring.py",
        "bot/model_wiring.py",
        "bot/cli/console.py",
        "bot/models/training_process.py",
    }
    # The environment that a child gets, and a program that runs in Rasa's Python.
    allowed |= {"nlu/rasa/process.py", "nlu/rasa/environment/otvet_featurizer.py"}
    readers = {
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if "bot.settings" in (text := path.read_text(encoding="utf-8")) or "os.environ" in text or "getenv" in text
    }
    assert readers <= allowed
