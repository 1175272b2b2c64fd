"""The `otvet` command. Results go to standard output, progress and faults to standard error."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.text import Text

from bot.cli_desk import agents_app, tickets_app
from bot.console import AsJson
from bot.console import installation as _installation
from bot.console import print_json as _print_json
from bot.console import progress as _progress
from bot.console import run as _run
from bot.console import table as _table
from bot.console import transaction as _transaction
from bot.errors import OtvetError
from handoff.errors import HandoffError
from kb_index.errors import KnowledgeBaseError
from nlu.errors import NluError

if TYPE_CHECKING:
    from kb_index.explain import Explanation
    from kb_index.exporting import Export
    from kb_index.library import Library, Revision, Stored
    from nlu.models import ModelVersion

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Otvet: answers customers, and hands over to a person what it can't settle.",
)
models_app = typer.Typer(no_args_is_help=True, help="Versions of the trained model.")
intents_app = typer.Typer(no_args_is_help=True, help="The training data.")
kb_app = typer.Typer(no_args_is_help=True, help="The knowledge base.")
evaluate_app = typer.Typer(no_args_is_help=True, help="How good it is, on labelled data.")
app.add_typer(models_app, name="models")
app.add_typer(intents_app, name="intents")
app.add_typer(kb_app, name="kb")
app.add_typer(tickets_app, name="tickets")
app.add_typer(agents_app, name="agents")
app.add_typer(evaluate_app, name="evaluate")

ArticleStatus = Literal["draft", "published", "archived"]
OneLang = Annotated[str | None, typer.Option("--lang", help="Only this language version.")]
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
    installation.await_rasa()
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
    as_json: AsJson = False,
) -> None:
    """Make a new model version from the data folder, and put it to use. With Rasa it has both engines' models."""
    installation = _installation()
    installation.take_edits()
    live = installation.store.live()
    if if_changed and live and installation.is_current(live):
        _progress(f"The live model {live.id} knows this data already")
        return
    started = time.perf_counter()
    version = installation.train(
        promote=promote, engine=_known_engine(engine), rasa_config=_pipeline(config), deep=deep
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


@models_app.command("list")
def models_list(as_json: AsJson = False) -> None:
    """All versions, the oldest first; the live one is marked."""
    store = _installation().store
    live = store.live_id()
    versions = store.versions()
    if as_json:
        _print_json([{"version": v.id, "live": v.id == live, "created_at": v.created_at} for v in versions])
        return
    rows = [
        ["*" if v.id == live else "", v.id, f"{v.created_at:%Y-%m-%d %H:%M}", v.manifest.get("examples")]
        for v in versions
    ]
    _table(rows, ["live", "version", "made (UTC)", "examples"])


@models_app.command("show")
def models_show(version_id: str) -> None:
    """Everything that is known of a version."""
    _print_json(_installation().store.show(version_id).manifest)


@models_app.command("promote")
def models_promote(version_id: str) -> None:
    """Put a version to use, in every process within seconds."""
    print(f"Live now: {_installation().store.promote(version_id).id}")


@models_app.command("rollback")
def models_rollback() -> None:
    """Go back to the version that was live before."""
    print(f"Live now: {_installation().store.rollback().id}")


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


@kb_app.command("search")
def kb_search(
    query: str,
    lang: Annotated[str | None, typer.Option(help="Show passages in this language: ru or en.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=50)] = 5,
    as_json: AsJson = False,
) -> None:
    """What the search finds for a question, and why."""
    installation = _installation()
    installation.prepare()
    installation.await_rasa()
    explanation = installation.understander().explain(query, lang, limit)
    if as_json:
        # A list of hits, each with its reasons.
        found = [asdict(each) for each in explanation.hits]
        _print_json([{**each.pop("hit"), **each, "reading": explanation.reading} for each in found])
        return
    _print_explanation(explanation)


def _print_explanation(explanation: Explanation) -> None:
    if explanation.reading != explanation.text:
        print(f"Read as: {explanation.reading}")
    for word, likely in explanation.likely_words.items():
        print(f"{word}: perhaps {', '.join(likely)}")
    hits = explanation.hits
    if not hits:
        print("Nothing is found: the text has no word, or there are no published articles.")
        return
    _table(
        [
            [
                number,
                f"{each.hit.confidence:.2f}",
                each.hit.article_id,
                each.hit.title,
                each.hit.matched_question,
                ", ".join(each.hit.matched_words),
            ]
            for number, each in enumerate(hits, 1)
        ],
        ["", "confidence", "article", "title", "like the question", "words found"],
    )
    shown = hits[:4]
    reasons = [{reason.name: reason for reason in each.reasons} for each in shown]
    rows: list[list[object]] = [
        [name, *(f"{own[name].value:.3f} {own[name].contribution:+.2f}" for own in reasons)]
        for name in (reason.name for reason in shown[0].reasons)
    ]
    _table(
        [*rows, ["score", *(f"{each.score:+.2f}" for each in shown)]],
        [
            "evidence: value, and what it adds",
            *(f"{number} {each.hit.article_id}" for number, each in enumerate(shown, 1)),
        ],
    )
    first = hits[0]
    passage = Text(first.hit.passage.text)
    for start, end in first.highlights:
        passage.stylize("bold reverse", start, end)
    print(" / ".join((first.hit.title, *first.hit.passage.headings)))
    Console().print(passage)


@kb_app.command("import")
def kb_import(
    path: Annotated[Path, typer.Argument(help="A file, a folder or a zip.")],
    dry_run: Annotated[bool, typer.Option(help="Show what would change, and change nothing.")] = False,
    publish: Annotated[bool, typer.Option(help="Publish what does not say that it is a draft.")] = False,
    topic: Annotated[str, typer.Option(help="For articles that name none.")] = "",
    overwrite: Annotated[bool, typer.Option(help="Where file and article were both changed, take the file.")] = False,
    as_json: AsJson = False,
) -> None:
    """Take articles from Markdown, HTML, Word, PDF, CSV, Excel, and exports of help desks. Exit status 1 if anything
    was skipped."""
    from bot.import_report import progress_bar, report

    installation = _installation()
    if topic and topic not in installation.topics.all:
        raise typer.BadParameter(f"expected one of {', '.join(installation.topics.all)}", param_hint="--topic")
    with progress_bar() as (reading, writing):
        plan = installation.articles.import_path(
            path,
            author=getpass.getuser(),
            topic=topic,
            publish=publish,
            overwrite=overwrite,
            dry_run=dry_run,
            reading=reading,
            writing=writing,
        )
    if not dry_run and plan.touched:
        installation.show_changes()
    if as_json:
        _print_json({"dry_run": dry_run, **plan.as_json()})
    else:
        print("\n".join(report(plan, dry_run=dry_run)))
    if plan.problems or plan.count()["conflict"]:
        raise SystemExit(1)


@kb_app.command("export")
def kb_export(
    folder: Annotated[Path, typer.Argument(help="Where to write; best an empty folder.")],
    status: Annotated[ArticleStatus | None, typer.Option(help="Only articles of this status.")] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace files that differ.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write all articles as Markdown files, byte for byte as they are, with their pictures."""

    async def work() -> Export:
        from kb_index.exporting import export_articles

        installation = _installation()
        async with _transaction(installation) as session:
            files = installation.articles.files
            return await export_articles(session, folder, files, status=status, overwrite=overwrite)

    done = _run(work())
    if as_json:
        _print_json({"written": done.written, "unchanged": done.unchanged, "problems": [*map(str, done.problems)]})
    else:
        print(
            "\n".join([*map(str, done.problems), f"{done.written} files written, {done.unchanged} were there already"])
        )
    if done.problems:
        raise SystemExit(1)


@kb_app.command("list")
def kb_list(
    status: Annotated[ArticleStatus | None, typer.Option(help="draft, published or archived.")] = None,
    lang: Annotated[str | None, typer.Option(help="ru or en.")] = None,
    words: Annotated[str, typer.Option(help="Part of the id or title.")] = "",
    behind: Annotated[
        bool, typer.Option(help="Only versions that wait for a change made in the other language.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """The articles, with those that wait for a translation marked."""

    async def work() -> list[dict[str, Any]]:
        async with _library() as library:
            found = await library.find(status=status, lang=lang, words=words, behind=behind)
            return [_article_row(stored) for stored in found]

    rows = _run(work())
    if as_json:
        _print_json(rows)
    else:
        names = ("article_id", "lang", "status", "revision", "title")
        _table(
            [[*(row[name] for name in names), row["behind"] and f"older than {row['behind']}"] for row in rows],
            [*names, "note"],
        )


@kb_app.command("show")
def kb_show(
    article_id: str,
    lang: Annotated[str | None, typer.Option(help="Only this language version.")] = None,
    revisions: Annotated[bool, typer.Option(help="The list of its revisions, the newest first.")] = False,
    revision: Annotated[int | None, typer.Option(help="The text of this revision.")] = None,
    as_json: AsJson = False,
) -> None:
    """An article's text in every language, or its revisions."""

    async def work() -> list[dict[str, Any]]:
        async with _library() as library:
            shown = []
            for one in await _versions(library, article_id, lang):
                if revisions:
                    history = await library.history(article_id, one)
                    shown += [{"lang": one, **_revision_row(each)} for each in history]
                else:
                    text = (await library.revision(article_id, one, revision)).text
                    shown.append({**_article_row(await library.get(article_id, one)), "text": text})
            return shown

    rows = _run(work())
    if as_json:
        _print_json(rows)
    elif revisions:
        names = ("lang", "revision", "created_at", "author", "changed", "note")
        _table([[_cell(row[name]) for name in names] for row in rows], names)
    else:
        for row in rows:
            behind = f", older than {row['behind']}" if row["behind"] else ""
            number = row["revision"] if revision is None else revision
            print(f"# {article_id} ({row['lang']}), {row['status']}, revision {number}{behind}\n{row['text']}")


@kb_app.command("publish")
def kb_publish(article_ids: list[str], lang: OneLang = None) -> None:
    """Let the assistant answer with these articles."""
    _set_status(article_ids, lang, "published")


@kb_app.command("archive")
def kb_archive(article_ids: list[str], lang: OneLang = None) -> None:
    """Take articles out of the answers; they and their revisions are kept."""
    _set_status(article_ids, lang, "archived")


@kb_app.command("restore")
def kb_restore(
    article_id: str,
    revision: Annotated[int, typer.Option(help="Its number; `otvet kb show ID --revisions` lists them.")],
    lang: OneLang = None,
) -> None:
    """Make an earlier revision the present one, as a new revision."""

    async def work() -> None:
        async with _library() as library:
            versions = await _versions(library, article_id, lang)
            if len(versions) > 1:
                raise typer.BadParameter(f"expected one of {', '.join(versions)}", param_hint="--lang")
            stored = await library.restore(article_id, versions[0], revision)
            print(f"{article_id} ({versions[0]}): revision {stored.revision} is revision {revision} again")

    _run(work())
    _installation().show_changes()


def _set_status(article_ids: Sequence[str], lang: str | None, status: ArticleStatus) -> None:
    async def work() -> None:
        async with _library() as library:
            for article_id in article_ids:
                for one in await _versions(library, article_id, lang):
                    stored = await library.set_status(article_id, one, status)
                    print(f"{article_id} ({one}): {stored.article.status}, revision {stored.revision}")

    _run(work())
    _installation().show_changes()


@asynccontextmanager
async def _library() -> AsyncIterator[Library]:
    from bot.wiring import utc_now
    from kb_index.library import Library

    async with _transaction(_installation()) as session:
        yield Library(session, author=getpass.getuser(), now=utc_now())


async def _versions(library: Library, article_id: str, lang: str | None) -> list[str]:
    """The languages meant; raises UnknownArticleError when there is none."""
    langs = [stored.article.lang for stored in await library.versions(article_id)]
    if lang or not langs:
        return [(await library.get(article_id, lang or "ru")).article.lang]
    return langs


def _article_row(stored: Stored) -> dict[str, Any]:
    article = stored.article
    return {
        "article_id": article.id,
        "lang": article.lang,
        "status": article.status,
        "title": article.title,
        "topic": article.topic,
        "audience": article.audience,
        "valid_from": article.valid_from,
        "valid_until": article.valid_until,
        "revision": stored.revision,
        "behind": stored.behind,
        "edited": stored.edited,
        "source": stored.source,
        "updated_at": stored.updated_at,
        "updated_by": stored.updated_by,
    }


def _revision_row(revision: Revision) -> dict[str, Any]:
    return {
        "revision": revision.number,
        "created_at": revision.created_at,
        "author": revision.author,
        "changed": list(revision.changed),
        "note": revision.note,
    }


def _cell(value: object) -> object:
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M}"
    return ", ".join(value) if isinstance(value, list) else value


@kb_app.command("check")
def kb_check(
    advice: Annotated[
        bool, typer.Option(help="Also what takes a while: examples of intents that mean the same.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Faults of articles, intents and replies, each with its place; then what in the training data is doubtful.

    Exit status 1 if there are faults: what can't be used, and what contradicts itself.
    """
    from bot.training import articles_folder
    from kb_index.articles import load_articles
    from kb_index.check import check_articles
    from nlu.training_checks import check_training_data

    installation = _installation()
    seed = installation.seed
    replies = {outcome.reply for outcome in seed.outcomes.values() if outcome.reply}
    problems = load_articles(articles_folder(installation.data)).problems
    faults = [
        *map(str, problems),
        *seed.warnings,
        *(str(problem) for problem in installation.replies.problems(replies)),
    ]
    if advice:
        _progress("Reading every example: this takes a while")
    findings = check_training_data(seed.intents, installation.encoder if advice else None)
    faults += [str(each) for each in findings if each.fault]
    hints = [str(each) for each in findings if not each.fault]
    hints += [
        f"{stored.article.id} ({stored.article.lang}): the {stored.behind} version was changed since. Change this one"
        for stored in installation.articles.behind()
    ]
    _progress("Asking every example question: a few seconds for a hundred articles")
    found = check_articles(installation.index)
    for finding in found:
        (faults if finding.is_fault else hints).append(str(finding))
    if as_json:
        _print_json({"faults": faults, "advice": hints, "articles": [asdict(finding) for finding in found]})
    else:
        articles = len({article.id for article in seed.articles.articles})
        print(
            "\n".join(
                [
                    *faults,
                    *hints,
                    *([] if faults else [f"{articles} articles, {len(seed.outcomes)} intents: no faults"]),
                ]
            )
        )
    if faults:
        raise SystemExit(1)


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
    data = load_intents(train_file or installation.data / "intents")
    test = load_intents(test_file) if test_file else None
    with contextlib.ExitStack() as stack:
        name = _known_engine(engine) or installation.settings.nlu_engine
        if name == "rasa":
            trainer = stack.enter_context(installation.rasa_evaluation(_pipeline(config)))
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
    from bot.evaluation import read_rows
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
    from bot.evaluation import by_kind, by_language, judge, load_questions, summarise

    installation = _installation()
    questions = load_questions(queries)
    installation.prepare()
    installation.await_rasa()
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
    summary = _run(backups.restore(file, database_url=settings.database, var=settings.var, data=data, force=force))
    _print_summary(summary, as_json, f"Restored {file}")
    if data is None and summary.own_data:
        _progress(f"OTVET_DATA was left as it is; the data folder of the backup lies in {settings.var / 'data'}")


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
