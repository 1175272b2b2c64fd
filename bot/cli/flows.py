"""`otvet flows`: the flows, what is wrong with them, and their scripted conversations."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bot.cli.console import AsJson, installation, print_json, run, table, transaction
from bot.flows.format import Flow, Problem, load_flows, read_flow, schema

if TYPE_CHECKING:
    from bot.flows.check import Known
    from bot.wiring import Installation

flows_app = typer.Typer(no_args_is_help=True, help="Guided steps and forms.")
Folder = Annotated[
    Path | None, typer.Argument(help="A folder of flows; default: the published ones and those of OTVET_DATA.")
]


@flows_app.command("list")
def flows_list(as_json: AsJson = False) -> None:
    """The flows, and what starts them."""
    flows, known, problems = _flows(installation(quiet=True), None)
    rows: list[dict[str, Any]] = [
        {
            "flow": flow.id,
            "title": flow.title("ru"),
            "version": flow.version,
            "steps": len(flow.steps),
            "slots": list(flow.file.slots),
            "articles": flow.file.articles,
            "intents": [intent for intent, started in known.intents.items() if started == flow.id],
        }
        for flow in flows.values()
    ]
    if as_json:
        print_json(rows)
    else:
        started = [", ".join([*(f"intent {i}" for i in row["intents"]), *row["articles"]]) for row in rows]
        table(
            [
                [row["flow"], row["title"], row["version"], row["steps"], by]
                for row, by in zip(rows, started, strict=True)
            ],
            ["flow", "title", "version", "steps", "started by"],
        )
    _tell(problems)


@flows_app.command("show")
def flows_show(flow_id: str, as_json: AsJson = False) -> None:
    """One flow as it is written."""
    flows, _, problems = _flows(installation(quiet=True), None)
    flow = flows.get(flow_id)
    if flow is None:
        _tell(problems)
        raise typer.BadParameter(f"there is no flow {flow_id}; there are {', '.join(flows) or 'none'}")
    if as_json:
        print_json(json.loads(flow.file.model_dump_json(by_alias=True, exclude_none=True)))
    else:
        print(flow.text)


@flows_app.command("import")
def flows_import(path: Annotated[Path, typer.Argument(help="A flow, or a folder of flows.")]) -> None:
    """Publish flows from files, also those that were edited in the studio; every revision is kept."""
    from bot.errors import FlowError
    from bot.flows.library import publish, save, stored
    from bot.model_wiring import utc_now

    made = installation()
    flows, problems = load_flows(path) if path.is_dir() else ({}, [])
    if not path.is_dir():
        flow = read_flow(path)
        flows = {flow.id: flow}
    if problems:
        raise FlowError(problems)

    async def work() -> list[str]:
        done = []
        async with transaction(made) as session:
            present = {each.flow.id: each for each in await stored(session)}
            for flow in flows.values():
                before = present.get(flow.id)
                if before and before.published == before.newest and before.flow.version == flow.version:
                    continue
                newest = before.newest if before else None
                revision = await save(session, flow.text, expected=newest, by="import", at=utc_now())
                await publish(session, flow.id, revision.number, at=utc_now())
                done.append(flow.id)
        return done

    done = run(work())
    print(f"{len(done)} flows published: {', '.join(done)}" if done else "Nothing has changed")


@flows_app.command("export")
def flows_export(folder: Path) -> None:
    """Write the published flows as files, byte for byte as they are."""
    folder.mkdir(parents=True, exist_ok=True)
    flows = installation(quiet=True).flows.flows
    for flow in flows.values():
        (folder / f"{flow.id}.yml").write_text(flow.text, "utf-8", newline="")
    print(f"{len(flows)} flows in {folder}")


@flows_app.command("schema")
def flows_schema() -> None:
    """The JSON schema of a flow file, for editors that complete and check while you type."""
    print_json(schema())


@flows_app.command("check")
def flows_check(folder: Folder = None, as_json: AsJson = False) -> None:
    """Find unreachable steps, missing texts, loops without exit, slots never filled, unknown names. Exit status 1 if
    there is an error."""
    from bot.flows.check import check_all
    from bot.flows.stories import load_stories

    made = installation(quiet=True)
    flows, known, problems = _flows(made, folder)
    _, broken = load_stories((folder or made.flows_folder) / "tests")
    problems = [*problems, *check_all(flows, known), *broken]
    if as_json:
        print_json([asdict(problem) for problem in problems])
    else:
        for problem in problems:
            print(problem)
        errors = sum(problem.level == "error" for problem in problems)
        print(f"{len(flows)} flows, {errors} errors, {len(problems) - errors} warnings")
    if any(problem.level == "error" for problem in problems):
        raise SystemExit(1)


@flows_app.command("test")
def flows_test(
    folder: Folder = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Print every conversation.")] = False,
    live: Annotated[bool, typer.Option(help="Words without an intent are understood by the live model.")] = False,
    as_json: AsJson = False,
) -> None:
    """Play the scripted conversations in the folder's `tests`. Exit status 1 if one fails."""
    from bot.flows.stories import load_stories, play

    made = installation(quiet=True)
    flows, _, problems = _flows(made, folder)
    stories, broken = load_stories((folder or made.flows_folder) / "tests")
    stage = made.flow_stage(flows, live=live)
    verdicts = [play(story, stage) for story in stories]
    failed = [verdict for verdict in verdicts if verdict.failure]
    if as_json:
        print_json(
            [
                {
                    "story": verdict.story.name,
                    "path": verdict.story.path,
                    "passed": verdict.failure is None,
                    "failure": str(verdict.failure) if verdict.failure else None,
                    "said": verdict.said,
                }
                for verdict in verdicts
            ]
        )
    else:
        for verdict in verdicts:
            if verbose or verdict.failure:
                print(f"{'FAILED' if verdict.failure else 'passed'} {verdict.story.name}")
                print("\n".join(f"  {line}" for said in verdict.said for line in said.splitlines()))
            if verdict.failure:
                print(verdict.failure)
        _tell([*problems, *broken])
        print(f"{len(verdicts) - len(failed)} of {len(verdicts)} conversations went as written")
    if failed or broken or any(problem.level == "error" for problem in problems):
        raise SystemExit(1)


def _flows(made: Installation, folder: Path | None) -> tuple[Mapping[str, Flow], Known, list[Problem]]:
    if folder is None:
        return made.flows.flows, made.flows_known(), []
    if not folder.is_dir():
        raise typer.BadParameter(f"there is no folder {folder}")
    flows, problems = load_flows(folder)
    return flows, made.flows_known(folder), problems


def _tell(problems: list[Problem]) -> None:
    for problem in problems:
        print(problem)
