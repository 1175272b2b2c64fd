"""The database has the intents while the assistant works; the data folder seeds it, and gets them back."""

from __future__ import annotations

import asyncio
import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bot.cli import main as cli
from bot.settings import Settings
from bot.wiring import Installation
from nlu import library
from nlu.library import NewExample

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
DATA = Path(__file__).parents[2] / "data"
YAML = (
    'version: "3.1"\nnlu:\n# short\n- intent: hello\n  metadata: {reply: hello}\n  examples: |\n    - hi\n    - hey\n'
)


@pytest.fixture
def installation(tmp_path: Path) -> Installation:
    data = tmp_path / "data"
    (data / "kb" / "ru").mkdir(parents=True)
    (data / "kb" / "ru" / "seed.md").write_text("---\nid: seed\ntitle: Из папки\n---\nТекст статьи.\n")
    (data / "intents").mkdir()
    (data / "intents" / "en.yml").write_text(YAML)
    return Installation(Settings(_env_file=None, var=tmp_path / "var", data=data))


def add(installation: Installation, text: str) -> None:
    async def work() -> None:
        async with installation.database.sessions.begin() as session:
            await library.add_examples(session, "hello", [NewExample(text, "en")], by="Anna", at=NOW)
        await installation.close()

    asyncio.run(work())


def test_an_edit_of_the_studio_is_trained_on_and_makes_the_version_old(installation: Installation) -> None:
    before = installation.seed.fingerprint
    add(installation, "good day")
    assert "good day" not in {each.text for each in installation.seed.intents.examples}, "read once"
    installation.forget_seed()
    assert "good day" in {each.text for each in installation.seed.intents.examples}
    assert installation.seed.fingerprint != before


def test_edits_of_the_file_are_taken_and_the_studio_writes_its_own_into_it(installation: Installation) -> None:
    _ = installation.seed
    add(installation, "good day")
    path = installation.data / "intents" / "en.yml"
    path.write_text(YAML.replace("    - hey\n", "    - hello\n"))
    placed = {each.text: each.line for each in installation.intents.as_edited().examples}
    assert placed == {"hi": 7, "hello": 8, "good day": 0}
    assert "hello" not in {each.text for each in installation.intents.training_data().examples}, "it was only a look"
    installation.take_edits()
    assert {each.text for each in installation.seed.intents.examples} == {"hi", "hello", "good day"}
    assert installation.intents.write() == [path]
    assert path.read_text() == YAML.replace("    - hey\n", "    - hello\n    - good day\n")
    assert installation.intents.write() == []


def test_a_folder_without_intents_writes_none_into_the_shipped_data(tmp_path: Path) -> None:
    (tmp_path / "data" / "kb").mkdir(parents=True)
    shutil.copy(DATA / "kb" / "en" / "order-status.md", tmp_path / "data" / "kb")
    installation = Installation(Settings(_env_file=None, var=tmp_path / "var", data=tmp_path / "data"))
    assert "greeting" in installation.seed.outcomes
    assert {path.parent for path in installation.intents.write()} == {tmp_path / "data" / "intents"}


def test_files_are_taken_from_the_terminal(
    installation: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTVET_VAR", str(installation.settings.var))
    monkeypatch.setenv("OTVET_DATA", str(installation.data))
    rows = tmp_path / "more.en.jsonl"
    rows.write_text('{"text": "HI", "intent": "hello"}\n{"text": "bye", "intent": "goodbye"}\n')

    def run(*words: str) -> str:
        result = CliRunner().invoke(cli.app, ["intents", *words], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.stdout

    looked = json.loads(run("take", str(rows), "--dry-run", "--json"))
    assert [each["kind"] for each in looked["changes"]] == ["new_intent", "already", "added"]
    assert "1 added" in run("take", str(rows))
    assert run("save", str(tmp_path / "out")).endswith("1 files changed\n")
    assert "- bye" in (tmp_path / "out" / "en.yml").read_text()
