"""`otvet notify`: where people are told of what happens at the desk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from bot.cli_desk import act
from bot.console import AsJson, print_json, run, table

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from bot.agent_desk import AgentDesk

notify_app = typer.Typer(no_args_is_help=True, help="Where agents and teams are told of what happens.")


@notify_app.command("team")
def notify_team(
    team: Annotated[str, typer.Argument(help="A team of topics.yml, or * for what concerns any of them.")],
    addresses: Annotated[list[str] | None, typer.Argument(help="Apprise addresses; none: nowhere any more.")] = None,
) -> None:
    """Say where a team is told, in place of where it was before. The addresses are secrets: nothing shows them."""
    from bot.notifications import EVERYBODY, shown_address
    from handoff.records import TeamNotify

    given = addresses or []
    if any(shown_address(address) is None for address in given):
        raise typer.BadParameter("there is an address that Apprise does not know")

    async def work(desk: AgentDesk, session: AsyncSession) -> None:
        known = {topic.team for topic in desk.tickets.topics.all.values()} | set(desk.tickets.policy.teams)
        if team not in known | {EVERYBODY}:
            raise typer.BadParameter(f"no team {team}: {', '.join(sorted(known))}")
        await session.merge(TeamNotify(team=team, addresses=given))

    act(work)
    print(f"{team}: {len(given)} addresses")


@notify_app.command("list")
def notify_list(as_json: AsJson = False) -> None:
    """Who is told where, without the secrets."""
    rows = [
        {"recipient": who, "address": shown, "quiet": quiet} for who, _, shown, quiet in act(lambda _, s: _addresses(s))
    ]
    if as_json:
        print_json(rows)
    elif not rows:
        print("Nobody is told anything yet: otvet notify team TEAM ADDRESS, otvet agents add NAME --notify ADDRESS")
    else:
        table([list(row.values()) for row in rows], list(rows[0]))


@notify_app.command("test")
def notify_test() -> None:
    """Send a word to every address, now."""
    from bot.errors import DeliveryError
    from bot.notifications import apprise_deliver

    failed = False
    for who, address, shown, _ in act(lambda _, s: _addresses(s)):
        try:
            run(apprise_deliver(address, "Otvet", "otvet notify test"))
            print(f"{who} {shown}: taken")
        except DeliveryError as error:
            failed = True
            print(f"{who} {shown}: {error}")
    if failed:
        raise SystemExit(1)


async def _addresses(session: AsyncSession) -> list[tuple[str, str, str | None, str | None]]:
    """(who, address, shown, quiet hours) of everybody."""
    from sqlalchemy import select

    from bot.notifications import shown_address
    from handoff.records import Agent, TeamNotify

    found: list[tuple[str, Any, str | None]] = [
        (f"team {row.team}", row.addresses, None) for row in await session.scalars(select(TeamNotify))
    ]
    agents = await session.scalars(select(Agent).where(Agent.active))
    found += [(agent.name, agent.notify, agent.quiet) for agent in agents]
    return [(who, address, shown_address(address), quiet) for who, many, quiet in found for address in many]
