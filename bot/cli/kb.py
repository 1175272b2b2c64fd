"""`otvet kb`: the knowledge base, from the terminal."""

from __future__ import annotations

import getpass
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.text import Text

from bot.cli.console import AsJson
from bot.cli.console import installation as _installation
from bot.cli.console import print_json as _print_json
from bot.cli.console import progress as _progress
from bot.cli.console import run as _run
from bot.cli.console import table as _table
from bot.cli.console import transaction as _transaction

if TYPE_CHECKING:
    from kb_index.explain import Explanation
    from kb_index.exporting import Export
    from kb_index.library import Library, Revision, Stored

kb_app = typer.Typer(no_args_is_help=True, help="The knowledge base.")

ArticleStatus = Literal["draft", "published", "archived"]
OneLang = Annotated[str | None, typer.Option("--lang", help="Only this language version.")]


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
    installation.rasa.wait()
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
    from bot.model_wiring import utc_now
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
    from bot.models.training import articles_folder
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
    findings = check_training_data(installation.intents.as_edited(), installation.encoder if advice else None)
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
