"""`otvet kb`: articles are brought in, looked at, published, taken back and given out again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from bot.cli.main import app

Run = Callable[..., Result]
CSV = "Question,Answer\nHow do I pay?,By card\nWhere is my receipt?,\n"


@pytest.fixture
def otvet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command on a data folder with one article; no model is trained, since none of these needs one."""
    data = tmp_path / "data"
    (data / "kb" / "ru").mkdir(parents=True)
    (data / "kb" / "ru" / "seed.md").write_text("---\nid: seed\ntitle: Из папки\n---\nТекст статьи.\n")
    monkeypatch.setenv("OTVET_VAR", str(tmp_path / "var"))
    monkeypatch.setenv("OTVET_DATA", str(data))
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str | Path, status: int = 0) -> Result:
        result = CliRunner().invoke(app, ["kb", *map(str, arguments)])
        assert result.exit_code == status, result.output
        return result

    return run


def rows(result: Result) -> Any:
    return json.loads(result.stdout)


def test_a_preview_changes_nothing_and_an_import_does_what_it_showed(otvet: Run, tmp_path: Path) -> None:
    (tmp_path / "faq.csv").write_text(CSV)
    shown = otvet("import", "faq.csv", "--dry-run", status=1).stdout
    assert "new       how-do-i-pay (en)  How do I pay?" in shown
    assert "skipped   faq.csv, line 3: the row has no answer. Write one" in shown
    assert "Would be: 1 new, 1 skipped" in shown
    assert rows(otvet("list", "--json")) == []

    done = rows(otvet("import", "faq.csv", "--json", status=1))
    assert (done["new"], done["skipped"], done["dry_run"]) == (1, 1, False)
    assert done["articles"][0]["article_id"] == "how-do-i-pay"
    assert done["problems"][0]["where"] == "line 3"
    assert [(row["article_id"], row["status"]) for row in rows(otvet("list", "--json"))] == [
        ("how-do-i-pay", "draft"),
        ("seed", "published"),
    ]
    assert rows(otvet("import", "faq.csv", "--json", status=1))["unchanged"] == 1
    assert rows(otvet("import", "faq.csv", "--publish", "--json", status=1))["changed"] == 1
    assert {row["status"] for row in rows(otvet("list", "--json"))} == {"published"}


def test_a_changed_source_updates_its_article_whatever_its_status(otvet: Run, tmp_path: Path) -> None:
    (tmp_path / "faq.csv").write_text(CSV)
    otvet("import", "faq.csv", status=1)
    otvet("publish", "how-do-i-pay")
    (tmp_path / "faq.csv").write_text("Question,Answer\nHow do I pay?,By card or in cash\n")
    preview = otvet("import", "faq.csv", "--dry-run").stdout
    assert "-By card\n" in preview
    assert "+By card or in cash\n" in preview
    otvet("import", "faq.csv")
    (article,) = rows(otvet("show", "how-do-i-pay", "--json"))
    assert (article["status"], article["revision"]) == ("published", 3)
    assert "By card or in cash" in article["text"]


def test_revisions_are_listed_shown_and_restored(otvet: Run) -> None:
    otvet("import", "data/kb")
    otvet("archive", "seed")
    history = rows(otvet("show", "seed", "--revisions", "--json"))
    assert [(row["revision"], row["note"]) for row in history][:1] == [(2, "archived")]
    assert history[0]["changed"] == ["status"]
    assert "archived" in otvet("show", "seed").stdout
    assert "status:" not in otvet("show", "seed", "--revision", "1").stdout
    assert "revision 3 is revision 1 again" in otvet("restore", "seed", "--revision", "1").stdout
    assert rows(otvet("list", "--json"))[0]["status"] == "published"


def test_an_export_is_the_folder_it_came_from(otvet: Run, tmp_path: Path) -> None:
    otvet("import", "data/kb")
    assert rows(otvet("export", "out", "--json")) == {"written": 1, "unchanged": 0, "problems": []}
    source = tmp_path / "data" / "kb" / "ru" / "seed.md"
    assert (tmp_path / "out" / "ru" / "seed.md").read_bytes() == source.read_bytes()
    (tmp_path / "out" / "ru" / "seed.md").write_text("mine")
    assert "another file is there" in otvet("export", "out", status=1).stdout


def test_two_articles_with_one_id_are_reported_and_the_first_is_taken(otvet: Run, tmp_path: Path) -> None:
    folder = tmp_path / "more"
    folder.mkdir()
    for name, title in (("a", "First"), ("b", "Second")):
        (folder / f"{name}.md").write_text(f"---\nid: same\nlang: en\ntitle: {title}\n---\nBody\n")
    report = otvet("import", "more", status=1).stdout
    assert (
        "skipped   more/b.md: the id same is already taken in en by more/a.md. Give one of the two another id" in report
    )
    assert "1 new, 1 skipped" in report


def test_a_document_in_two_language_folders_is_two_versions_of_one_article(otvet: Run, tmp_path: Path) -> None:
    for lang, title, text in (("ru", "Гарантия", "Гарантия один год."), ("en", "Warranty", "One year of warranty.")):
        (tmp_path / "docs" / lang).mkdir(parents=True)
        (tmp_path / "docs" / lang / "warranty.txt").write_text(f"{title}\n\n{text}\n")
    otvet("import", "docs", "--publish")
    versions = [row for row in rows(otvet("list", "--json")) if row["article_id"] == "warranty"]
    assert [(row["lang"], row["title"]) for row in versions] == [("en", "Warranty"), ("ru", "Гарантия")]


def test_a_text_that_is_too_long_for_an_article_is_reported(otvet: Run, tmp_path: Path) -> None:
    page = "<main><h1>Rules</h1>" + "<p>All the rules there are, one by one.</p>" * 70_000 + "</main>"
    (tmp_path / "rules.html").write_text(page)
    assert "rules.html: the text is larger than 2,000,000 bytes" in otvet("import", "rules.html", status=1).stdout


def test_an_unknown_topic_or_path_is_refused_with_what_to_do(otvet: Run, tmp_path: Path) -> None:
    (tmp_path / "faq.csv").write_text(CSV)
    assert "expected one of" in otvet("import", "faq.csv", "--topic", "tpoic", status=2).output
    assert "no such file" in str(otvet("import", "none", status=1).exception)
    assert "otvet kb list" in str(otvet("publish", "none", status=1).exception)
