"""`otvet gaps`: what the assistant did not settle, from the terminal."""

from __future__ import annotations

import getpass
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bot.cli.console import AsJson, installation, print_json, run, table, transaction

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

gaps_app = typer.Typer(no_args_is_help=True, help="What the assistant did not settle, in groups of one meaning.")
As = Annotated[str, typer.Option("--editor", help="Who does it. Default: the user's name.")]


def _in_transaction(work: Callable[[AsyncSession], Awaitable[Any]]) -> Any:
    async def done() -> Any:
        async with transaction(installation(quiet=True)) as session:
            return await work(session)

    return run(done())


@gaps_app.command("list")
def gaps_list(
    view: Annotated[str, typer.Option(help="open, returned (settled, and came again) or settled.")] = "open",
    order: Annotated[str, typer.Option(help="count, recent or growing.")] = "count",
    words: Annotated[str, typer.Option(help="Part of a message.")] = "",
    lang: Annotated[str, typer.Option(help="ru or en.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=10_000)] = 50,
    as_json: AsJson = False,
) -> None:
    """Groups of messages, the largest first. `otvet gaps refresh` looks for new ones."""
    from bot.gaps import gaps

    if view not in set(gaps.View):
        raise typer.BadParameter(f"expected one of {', '.join(gaps.View)}", param_hint="--view")
    if order not in set(gaps.Order):
        raise typer.BadParameter(f"expected one of {', '.join(gaps.Order)}", param_hint="--order")
    query = gaps.Query(gaps.View(view), gaps.Order(order), words, lang)
    found = _in_transaction(lambda session: gaps.find(session, query, now=datetime.now(UTC), limit=limit))
    if as_json:
        print_json([asdict(line) for line in found.lines])
        return
    if not found.lines:
        print("There is nothing here.")
        return
    rows = [
        (line.id, line.count, " ".join(line.langs), _spark(line.weeks), line.settlement or "", line.title[:90])
        for line in found.lines
    ]
    table(rows, ("group", "messages", "languages", f"{gaps.WEEKS} weeks", "settled by", "such as"))
    print(f"{found.total} groups, {found.messages} messages")


@gaps_app.command("show")
def gaps_show(gap_id: int, as_json: AsJson = False) -> None:
    """A group: its messages, how each ended, and what agents answered."""
    from bot.gaps import gaps

    async def work(session: AsyncSession) -> tuple[gaps.Sheet, list[dict[str, Any]]]:
        found = await gaps.sheet(session, gap_id, now=datetime.now(UTC))
        acts = [
            {"act_id": act.id, "act": act.act, "by": act.by, "at": act.at, "undone_at": act.undone_at}
            for act in found.acts
        ]
        return found, acts

    found, acts = _in_transaction(work)
    if as_json:
        messages = [asdict(each) for each in found.asked]
        print_json({**asdict(found.line), "messages": messages, "typical": found.typical, "acts": acts})
        return
    line = found.line
    print(f"Group {line.id}, {line.state}: {line.title}")
    print(f"{line.count} messages ({', '.join(f'{lang} {n}' for lang, n in line.langs.items())}), {_spark(line.weeks)}")
    print(", ".join(f"{ended} {number}" for ended, number in line.ended.items()) + "\n")
    for each in found.asked:
        star = "*" if each.id in found.typical else " "
        ticket = f", ticket {each.ticket_id}" if each.ticket_id else ""
        print(f"{star} #{each.id} [{each.at:%d.%m %H:%M}] {each.text}  ({each.ended}{ticket})")
        for reply in each.replies:
            print(f"      {reply.agent}: {' '.join(reply.text.split())[:200]}")
    for act in acts:
        print(f"\nact {act['act_id']}: {act['act']} by {act['by']}" + (" (undone)" if act["undone_at"] else ""))


@gaps_app.command("settle")
def gaps_settle(
    gap_id: int,
    intent: Annotated[str, typer.Option(help="Give its typical messages to this intent.")] = "",
    article: Annotated[str, typer.Option(help="Give them to this article, as questions that it answers.")] = "",
    out_of_scope: Annotated[bool, typer.Option("--out-of-scope", help="It is not the assistant's business.")] = False,
    dismiss: Annotated[str, typer.Option(help="Nothing is to be done: say why.")] = "",
    messages: Annotated[int, typer.Option(min=0, max=100, help="How many typical ones are taught; 0: none.")] = 10,
    editor: As = "",
    as_json: AsJson = False,
) -> None:
    """Settle a group in one of four ways; `otvet gaps undo` takes it back. What is taught is masked first."""
    from bot.gaps import gaps
    from bot.gaps.acts import GapActs, Text

    if sum(map(bool, (intent, article, out_of_scope, dismiss))) != 1:
        raise typer.BadParameter("give exactly one of --intent, --article, --out-of-scope and --dismiss")

    async def work(session: AsyncSession) -> dict[str, Any]:
        now = datetime.now(UTC)
        found = await gaps.sheet(session, gap_id, now=now)
        by_id = {each.id: each for each in found.asked}
        texts = [Text(by_id[number].text, by_id[number].lang) for number in found.typical[:messages]]
        acts = GapActs(session, by=editor or getpass.getuser(), now=now)
        if intent:
            await acts.add_examples(gap_id, intent, texts)
        elif article:
            await acts.add_questions(gap_id, article, texts)
        elif out_of_scope:
            await acts.out_of_scope(gap_id, texts)
        else:
            await acts.dismiss(gap_id, dismiss)
        await session.flush()
        settled = await gaps.sheet(session, gap_id, now=now)
        return {**asdict(settled.line), "act_id": settled.acts[0].id}

    row = _in_transaction(work)
    if as_json:
        print_json(row)
    else:
        details = ", ".join(f"{key} {value}" for key, value in row["details"].items())
        print(f"Group {gap_id}: {row['settlement']} ({details}). Take it back: otvet gaps undo {row['act_id']}")
        if row["settlement"] in ("examples", "out_of_scope"):
            print("The assistant learns it with the next `otvet train`.")


@gaps_app.command("undo")
def gaps_undo(act_id: int, editor: As = "") -> None:
    """Take back what was done to a group."""
    from bot.gaps.acts import GapActs

    async def work(session: AsyncSession) -> str:
        acts = GapActs(session, by=editor or getpass.getuser(), now=datetime.now(UTC))
        act = await acts.undo(act_id)
        return f"Group {act.gap_id}: {act.act} taken back"

    print(_in_transaction(work))


@gaps_app.command("refresh")
def gaps_refresh(
    anew: Annotated[bool, typer.Option(help="Group everything again that no editor has shaped.")] = False,
    as_json: AsJson = False,
) -> None:
    """Look for new messages and group them. `otvet serve` does so by itself."""

    async def work() -> Any:
        here = installation()
        await here.migrate()
        try:
            return await here.gap_keeper.keep(anew=anew)
        finally:
            await here.close()

    kept = run(work())
    if as_json:
        print_json(asdict(kept))
    else:
        print(f"{kept.collected} new, {kept.grouped} moved: {kept.messages} messages in {kept.groups} open groups")


def _spark(weeks: tuple[int, ...]) -> str:
    most = max(weeks) or 1
    return "".join("▁▂▃▄▅▆▇█"[min(7, number * 8 // (most + 1))] if number else "·" for number in weeks)
