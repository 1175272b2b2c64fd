"""`otvet notify` and `otvet webhooks`: where people and programs are told of what happens at the desk."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bot.cli.console import AsJson, print_json, run, table
from bot.cli.desk import act

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from bot.desk.agent_desk import AgentDesk
    from handoff.shifts import ShiftReport

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


def shift_report(
    team: Annotated[str | None, typer.Option(help="A team; default: all.")] = None,
    hours: Annotated[float | None, typer.Option(min=0.1, help="Of so many hours; default: of the shift.")] = None,
    night: Annotated[bool, typer.Option(help="Of the last time when nobody worked.")] = False,
    lang: Annotated[str, typer.Option(help="ru or en.")] = "ru",
    as_json: AsJson = False,
) -> None:
    """What happened in this shift, or in the last night, and what is open."""
    if lang not in ("ru", "en"):
        raise typer.BadParameter("expected ru or en", param_hint="--lang")
    shown = act(lambda desk, session: _report(desk, session, team, hours, night))
    if as_json:
        print_json(shown.as_json())
    else:
        from bot.cli.console import installation

        print(installation(quiet=True).shifts.text(shown, lang))


async def _report(
    desk: AgentDesk, session: AsyncSession, team: str | None, hours: float | None, night: bool
) -> ShiftReport:
    from handoff.shifts import last_boundary, last_night
    from handoff.shifts import shift_report as compose

    tickets, now = desk.tickets, datetime.now(UTC)
    known = {topic.team for topic in tickets.topics.all.values()} | set(tickets.policy.teams)
    if team is not None and team not in known:
        raise typer.BadParameter(f"no team {team}: {', '.join(sorted(known))}", param_hint="--team")
    if night:
        found = last_night(tickets.policy.hours_of(team or ""), now)
        if found is None:
            raise typer.BadParameter("somebody works round the clock: there are no nights", param_hint="--night")
        return await compose(session, tickets, kind="night", team=team, since=found[0], until=found[1])
    since = now - timedelta(hours=hours) if hours else await last_boundary(session, tickets.policy, team or "", now)
    return await compose(session, tickets, kind="now", team=team, since=since, until=now)


webhooks_app = typer.Typer(no_args_is_help=True, help="Events for another system, and from it.")


@webhooks_app.command("secret")
def webhooks_secret() -> None:
    """Print a new secret, for OTVET_HOOK_SECRET or OTVET_HOOK_IN_SECRET and for the other side."""
    from bot.hooks import new_secret

    print(new_secret())


@webhooks_app.command("list")
def webhooks_list(
    everything: Annotated[bool, typer.Option("--all", help="Those that were taken, too.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=10_000)] = 100,
    as_json: AsJson = False,
) -> None:
    """Events that wait or were given up, the newest first."""

    async def work(_desk: AgentDesk, session: AsyncSession) -> list[dict[str, Any]]:
        from sqlalchemy import select

        from bot.hooks import HookEvent, HookState

        query = select(HookEvent).order_by(HookEvent.created_at.desc()).limit(limit)
        if not everything:
            query = query.where(HookEvent.state != HookState.SENT)
        names = ("id", "type", "ticket_id", "state", "attempts", "error", "created_at")
        return [{name: getattr(event, name) for name in names} for event in await session.scalars(query)]

    rows = act(work)
    if as_json:
        print_json(rows)
    elif not rows:
        print("No event waits, and none was given up.")
    else:
        table([list(row.values()) for row in rows], list(rows[0]))


@webhooks_app.command("retry")
def webhooks_retry(event_id: Annotated[str, typer.Argument(help="One of `list`; none: all.")] = "") -> None:
    """Send again what was given up."""
    from bot.hooks import retry

    count = act(lambda _, session: retry(session, datetime.now(UTC), event_id or None))
    print(f"{count} events go out as soon as the assistant is serving")


@webhooks_app.command("test")
def webhooks_test() -> None:
    """Send the address a word of no consequence (`otvet.test`), now."""
    from bot.cli.console import installation
    from bot.errors import DeliveryError, SettingsError
    from bot.hooks import HookEvent

    here = installation()
    if not here.settings.hook_url:
        raise SettingsError("OTVET_HOOK_URL is not set")
    now = datetime.now(UTC)
    body = f'{{"type": "otvet.test", "timestamp": "{now.isoformat()}", "data": {{}}}}'
    try:
        run(here.hooks.post(HookEvent(id=f"msg_test_{now.timestamp():.0f}", type="otvet.test", body=body)))
    except DeliveryError as error:
        print(f"It {error}")
        raise SystemExit(1) from error
    print("Taken")


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
