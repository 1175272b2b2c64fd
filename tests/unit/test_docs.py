"""What the program can do is written down: every setting and every command."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer.main
from prometheus_client import REGISTRY, Counter

from bot import metrics
from bot.cli.main import app
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


@pytest.mark.parametrize("metric", sorted({m.name for m in REGISTRY.collect() if m.name.startswith("otvet_")}))
def test_every_metric_is_documented_with_its_labels(metric: str) -> None:
    rows = {
        line.split("`")[1]: [label.strip() for label in line.split("|")[2].split(",") if label.strip()]
        for line in (DOCS / "operator.md").read_text(encoding="utf-8").splitlines()
        if line.startswith("| `otvet_")
    }
    collector = next(each for each in vars(metrics).values() if getattr(each, "_name", None) == metric)
    name = f"{metric}_total" if isinstance(collector, Counter) else metric
    assert rows[name] == list(collector._labelnames)


def test_no_metric_is_documented_that_does_not_exist() -> None:
    known = {metric.name for metric in REGISTRY.collect()}
    for line in (DOCS / "operator.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("| `otvet_"):
            assert line.split("`")[1].removesuffix("_total") in known
