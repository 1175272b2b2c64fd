"""The `otvet` command. Results go to standard output, progress and faults to standard error."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from bot.cli.connections import notify_app, shift_report, webhooks_app
from bot.cli.console import AsJson
from bot.cli.console import installation as _installation
from bot.cli.console import print_json as _print_json
from bot.cli.console import progress as _progress
from bot.cli.console import run as _run
from bot.cli.console import table as _table
from bot.cli.customers import customers_app
from bot.cli.desk import agents_app, tickets_app
from bot.cli.flows import flows_app
from bot.cli.gaps import gaps_app
from bot.cli.kb import kb_app
from bot.cli.models import models_app, train_in_background
from bot.cli.report import report
from bot.errors import OtvetError
from handoff.errors import HandoffError
from kb_index.errors import KnowledgeBaseError
from nlu.errors import NluError

if TYPE_CHECKING:
    from bot.erasure.again import Erased
    from bot.wiring import Installation
    from nlu.models import ModelVersion

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Otvet: answers customers, and hands over to a person what it can't settle.",
)
intents_app = typer.Typer(no_args_is_help=True, help="The training data.")
evaluate_app = typer.Typer(no_args_is_help=True, help="How good it is, on labelled data.")
app.add_typer(models_app, name="models")
app.add_typer(intents_app, name="intents")
app.add_typer(kb_app, name="kb")
app.add_typer(flows_app, name="flows")
app.add_typer(gaps_app, name="gaps")
app.add_typer(tickets_app, name="tickets")
app.add_typer(agents_app, name="agents")
app.add_typer(customers_app, name="customers")
app.add_typer(notify_app, name="notify")
app.command("shift-report")(shift_report)
app.add_typer(webhooks_app, name="webhooks")
app.add_typer(evaluate_app, name="evaluate")
app.command()(report)

Engine = Annotated[str | None, typer.Option(help="embedded or rasa; default: OTVET_NLU_ENGINE.")]
RasaConfig = Annotated[
    Path | None, typer.Option("--config", help="A Rasa configuration whose pipeline is used, or: light, default.")
]


def main() -> None:
    """Run a command. A fault that has a remedy is one line, and exit status 1."""
    try:
        app()
    except (OtvetError, NluError, KnowledgeBaseError, HandoffError) as error:
        print(f"otvet: {error}", file=sys.stderr)
        raise SystemExit(1) from error


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Instead of OTVET_HOST.")] = None,
    port: Annotated[int | None, typer.Option(help="Instead of OTVET_PORT.")] = None,
    update: Annotated[bool, typer.Option(help="Train first if the data folder has changed.")] = False,
    role: Annotated[str, typer.Option(help="all, web or worker: split it over processes and machines.")] = "all",
) -> None:
    """Serve web, channels and workers, in one process or in several; whatever is missing is made first."""
    from bot.serve import Role
    from bot.serve import serve as run

    if role not in list(Role):
        raise typer.BadParameter("expected all, web or worker", param_hint="--role")
    installation = _installation()
    if role != Role.WEB:
        installation.prepare(update=update)
    with contextlib.suppress(KeyboardInterrupt):  # how one stops it
        asyncio.run(
            run(
                installation,
                host or installation.settings.host,
                installation.settings.port if port is None else port,
                Role(role),
            )
        )


@app.command()
def chat(
    as_json: AsJson = False,
    lang: Annotated[str | None, typer.Option(help="Begin in this language: ru or en.")] = None,
) -> None:
    """Talk to the assistant in the terminal, or pipe lines to it, one message a line."""
    from bot.chat import talk

    if lang not in (None, "ru", "en"):
        raise typer.BadParameter("expected ru or en", param_hint="--lang")
    installation = _installation(quiet=True)
    installation.prepare()
    installation.rasa.wait()
    _run(talk(installation, lang=lang, as_json=as_json))


@app.command()
def train(
    if_changed: Annotated[bool, typer.Option(help="Do nothing when the live model knows the same data.")] = False,
    promote: Annotated[bool, typer.Option(help="Put the new version to use.")] = True,
    engine: Engine = None,
    config: RasaConfig = None,
    deep: Annotated[
        bool, typer.Option(help="Adapt the encoder to the intents too: minutes in place of seconds.")
    ] = False,
    background: Annotated[
        bool, typer.Option("--background", help="Make a candidate in a process of its own, judged, and return at once.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make a new model version from the data folder, and put it to use. With Rasa it has both engines' models."""
    if background:
        train_in_background(as_json)
        return
    installation = _installation()
    installation.take_edits()
    live = installation.store.live()
    if if_changed and live and installation.is_current(live):
        _progress(f"The live model {live.id} knows this data already")
        return
    started = time.perf_counter()
    version = installation.train(
        promote=promote,
        engine=_known_engine(engine),
        rasa_config=_pipeline(config),
        deep=deep,
        workers=os.cpu_count() or 1,
    )
    seconds = round(time.perf_counter() - started, 1)
    if as_json:
        _print_json({"version": version.id, "promoted": promote, "seconds": seconds, **version.manifest["figures"]})
        return
    _print_version(version)
    _progress(f"{'Live now' if promote else 'Candidate'}: {version.id}, in {seconds} s")


def _known_engine(name: str | None) -> Literal["embedded", "rasa"] | None:
    if name not in (None, "embedded", "rasa"):
        raise typer.BadParameter("expected embedded or rasa", param_hint="--engine")
    return name  # type: ignore[return-value]  # narrowed by the test above


def _pipeline(config: Path | None) -> Path | None:
    """The file that --config means: one that ships goes by its name."""
    from nlu.rasa.project import PIPELINES

    return PIPELINES.get(str(config), config) if config else None


def _print_version(version: ModelVersion) -> None:
    names: dict[str, None] = {}
    for figures in version.manifest["figures"].values():
        names |= dict.fromkeys(figures)
    langs = list(version.manifest["figures"])
    rows = [[name, *(_rounded(version.manifest["figures"][lang].get(name)) for lang in langs)] for name in names]
    _table(rows, ["on its own training data, each example unseen", *langs])


def _rounded(value: object) -> object:
    return round(value, 3) if isinstance(value, float) else value


@intents_app.command("import")
def intents_import(
    project: Path,
    folder: Annotated[Path, typer.Argument(help="A new data folder.")],
    lang: Annotated[str, typer.Option(help="The bot's language: ru or en.")] = "en",
    as_json: AsJson = False,
) -> None:
    """Make a data folder of a Rasa project: its training data as it stands, its one-turn answers as replies."""
    from nlu.rasa.migration import import_project

    if lang not in ("ru", "en"):
        raise typer.BadParameter("expected ru or en", param_hint="--lang")
    imported = import_project(project, folder, lang)
    if as_json:
        _print_json(asdict(imported))
        return
    for line in imported.left:
        print(line)
    print(f"{imported.examples} examples of {imported.intents} intents, {len(imported.replies)} with their replies")
    _progress(f"Now put articles into {folder / 'kb'}, and set OTVET_DATA={folder}")


@intents_app.command("export")
def intents_export(folder: Path) -> None:
    """Write the training data as a Rasa project into a new folder; your own files stay byte for byte."""
    print(f"A Rasa project: {_installation().export_rasa(folder)}")


@intents_app.command("take")
def intents_take(
    path: Annotated[Path, typer.Argument(help="Rasa NLU YAML or JSON lines: a file or a folder.")],
    exact: Annotated[bool, typer.Option(help="Their intents become what they say: what they lack is removed.")] = False,
    dry_run: Annotated[bool, typer.Option(help="Show what would change, and change nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Take intents and examples from files into the database."""
    taken = _installation().intents.take(path, exact=exact, by=getpass.getuser(), dry_run=dry_run)
    if as_json:
        _print_json({"dry_run": dry_run, "changes": [asdict(change) for change in taken.changes]})
        return
    for change in taken.changes:
        print("  ".join(part for part in (f"{change.kind:<12}", change.intent, change.lang, change.text) if part))
    sums = ", ".join(f"{number} {kind}" for kind, number in taken.count().items()) or "nothing new"
    print(f"{'Would be: ' if dry_run else ''}{sums}")


@intents_app.command("save")
def intents_save(
    folder: Annotated[Path | None, typer.Argument(help="Where to; default: where they were read from.")] = None,
) -> None:
    """Write the intents of the database as YAML files; every byte stays that nobody changed."""
    written = _installation().intents.write(folder)
    print("\n".join([*map(str, written), f"{len(written)} files changed"]))


@evaluate_app.command("intents")
def evaluate_intents(
    train_file: Annotated[
        Path | None, typer.Option("--train", help="Training rows; default: the data folder's.")
    ] = None,
    test_file: Annotated[Path | None, typer.Option("--test", help="Test rows; without them: k-fold.")] = None,
    engine: Engine = None,
    config: RasaConfig = None,
    deep: Annotated[
        bool, typer.Option(help="Adapt the encoder to the intents too: minutes in place of seconds.")
    ] = False,
    pictures: Annotated[
        Path | None, typer.Option(help="Draw reliability.png and confusions.png into this folder.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """How well intents are told apart, and what is not meant for the assistant."""
    from nlu.evaluation import cross_evaluate, embedded_trainer
    from nlu.evaluation import evaluate_intents as measure
    from nlu.training_data import load_intents

    installation = _installation()
    data = load_intents(train_file) if train_file else installation.intents.training_data()
    test = load_intents(test_file) if test_file else None
    with contextlib.ExitStack() as stack:
        name = _known_engine(engine) or installation.settings.nlu_engine
        if name == "rasa":
            trainer = stack.enter_context(installation.rasa.evaluation(_pipeline(config)))
        else:
            trainer = embedded_trainer(installation.encoder, companion=installation.companion, deep=deep)
        report = measure(data, test, trainer, engine=name) if test else cross_evaluate(data, trainer, engine=name)
    figures = report.figures()
    if pictures:
        from nlu.pictures import draw

        figures["pictures"] = ", ".join(str(path) for path in draw(report, pictures))
    if as_json:
        _print_json(figures | {"worst_confusions": [asdict(each) for each in report.confusions[:15]]})
        return
    _print_figures(figures, False)
    if report.confusions:
        _table([[c.count, c.intent, c.predicted] for c in report.confusions[:15]], ["times", "is", "was taken for"])


@evaluate_app.command("search")
def evaluate_search(
    passages: Annotated[Path, typer.Option(help='Rows {"id", "text"}.')],
    queries: Annotated[Path, typer.Option(help='Rows {"text", "passage_id"} and perhaps "alt_ids".')],
    as_json: AsJson = False,
) -> None:
    """How often the right passage is found."""
    from bot.models.evaluation import read_rows
    from kb_index.evaluation import evaluate_search as measure
    from kb_index.evaluation import passage_row, query_row

    installation = _installation()
    rows = [query_row(row) for row in read_rows(queries)]
    report = measure(
        [passage_row(row) for row in read_rows(passages)], [row for row in rows if row], installation.encoder
    )
    _print_figures(asdict(report), as_json)


@evaluate_app.command("dialogue")
def evaluate_dialogue(
    queries: Annotated[Path, typer.Option(help='Rows {"text", "article_id"} and perhaps "topic".')],
    as_json: AsJson = False,
    wrong: Annotated[bool, typer.Option(help="Print what went wrong, question by question.")] = False,
) -> None:
    """What the assistant does with labelled questions: answered rightly, wrongly, clarified, handed off."""
    from bot.models.evaluation import by_kind, by_language, judge, load_questions, summarise

    installation = _installation()
    questions = load_questions(queries)
    installation.prepare()
    installation.rasa.wait()
    verdicts = judge(questions, installation.understander(), installation.topics)
    figures = summarise(verdicts)
    if as_json:
        _print_json({**figures, "by_language": by_language(verdicts)})
        return
    languages = by_language(verdicts)
    _table(
        [[name, figures[name], *(languages[lang][name] for lang in languages)] for name in figures],
        ["", "all", *languages],
    )
    kinds = by_kind(verdicts)
    _table(
        [[kind, *(f"{name} {count}" for name, count in counts.most_common())] for kind, counts in kinds.items()],
        ["kind", *[""] * max(map(len, kinds.values()), default=0)],
    )
    if wrong:
        bad = [v for v in verdicts if not v.right and (v.question.articles or v.action == "answer")]
        _table(
            [
                [
                    v.question.text[:70],
                    ", ".join(sorted(v.question.articles)),
                    v.action,
                    ", ".join(v.articles),
                    v.rule,
                    f"{v.confidence:.2f}",
                ]
                for v in bad
            ],
            ["text", "right", "did", "with", "rule", "confidence"],
        )


def _print_figures(figures: Mapping[str, object], as_json: bool) -> None:
    if as_json:
        _print_json(figures)
    else:
        _table([[name, _rounded(value)] for name, value in figures.items()], ["", "figure"])


@app.command()
def backup(
    file: Annotated[Path, typer.Argument(help="A new file; holds personal data.")], as_json: AsJson = False
) -> None:
    """Write the whole state into one file, while the assistant works."""
    from bot.backup import save

    installation = _installation()

    async def work() -> Any:
        await installation.migrate()
        try:
            return await save(
                file, engine=installation.database.engine, var=installation.settings.var, data=installation.own_data
            )
        finally:
            await installation.close()

    _print_summary(_run(work()), as_json, f"{file}")


@app.command()
def restore(
    file: Path,
    force: Annotated[bool, typer.Option(help="Replace an installation that is not empty.")] = False,
    check: Annotated[bool, typer.Option(help="Only read the file and compare every checksum.")] = False,
    as_json: AsJson = False,
) -> None:
    """Put a backup in place, on SQLite or PostgreSQL, whichever it came from. Stop the assistant first."""
    from bot import backup as backups

    if check:
        _print_summary(backups.check(file), as_json, f"{file} is complete")
        return
    installation = _installation()
    settings = installation.settings
    data = installation.restored_data
    erased = _run(_erased_since(installation, datetime.fromisoformat(backups.check(file).created_at)))
    summary = _run(backups.restore(file, database_url=settings.database, var=settings.var, data=data, force=force))
    _print_summary(summary, as_json, f"Restored {file}")
    if erased:
        _run(_erase_again(_installation(), erased))
    if data is None and summary.own_data:
        _progress(f"OTVET_DATA was left as it is; the data folder of the backup lies in {settings.var / 'data'}")


async def _erased_since(installation: Installation, since: datetime) -> list[Erased]:
    """Of the database that is going to be replaced."""
    from bot.erasure.again import erased_since

    try:
        return await erased_since(installation.database.sessions, since)
    finally:
        await installation.close()


async def _erase_again(installation: Installation, erased: list[Erased]) -> None:
    """What the backup has brought back of them."""
    from bot.erasure.again import erase_again

    try:
        await installation.migrate()
        done, problems = await erase_again(
            installation.database.sessions, installation.eraser, erased, by="restore", now=datetime.now(UTC)
        )
        left = await installation.finish_erasures()
    finally:
        await installation.close()
    _progress(f"Of {len(erased)} erasures since the backup was made, {done} were done again")
    for problem in problems:
        _progress(f"  Erase by hand: {problem}")
    if left:
        _progress(f"  The files of {left} follow within minutes, while `otvet serve` runs")


def _print_summary(summary: Any, as_json: bool, done: str) -> None:
    if as_json:
        _print_json(asdict(summary))
    else:
        print(
            f"{done}: {summary.rows} rows ({summary.engine}, revision {summary.revision}), {summary.files} files, "
            f"{summary.bytes / 2**20:.1f} MB, of {summary.created_at}"
        )


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Check settings, database, encoder, index, models, replies and channels. Exit status 1 if something is wrong."""
    from bot.doctor import examine

    checks = _run(examine(_installation(quiet=True)))
    if as_json:
        _print_json([asdict(check) for check in checks])
    else:
        for check in checks:
            print(f"{'ok   ' if check.ok else 'FAULT'} {check.name}: {check.detail}")
            if not check.ok:
                print(f"      -> {check.remedy}")
    if not all(check.ok for check in checks):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
