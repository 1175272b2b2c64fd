"""`otvet report`: how the assistant and the people are doing."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bot.cli.console import AsJson, installation, print_json, run, table, transaction

if TYPE_CHECKING:
    from handoff.outcomes import Facts, Figures

DAYS = 30
PARTS = ("topic", "direction", "agent", "hour", "channel", "team", "lang", "reason", "day", "month")


def report(
    since: Annotated[str, typer.Option("--from", help="First day, such as 2026-11-01. Default: 30 days ago.")] = "",
    until: Annotated[str, typer.Option("--to", help="Last day. Default: today.")] = "",
    by: Annotated[list[str] | None, typer.Option("--by", help=f"{', '.join(PARTS)}; may be repeated.")] = None,
    as_json: AsJson = False,
) -> None:
    """What became of what customers asked, how fast people answered, and who carried how much."""
    if wrong := set(by or ()) - set(PARTS):
        raise typer.BadParameter(f"`{min(wrong)}` is none of {', '.join(PARTS)}", param_hint="--by")
    facts, zone = _load(since, until)
    parts = {key: {value: part.figures() for value, part in facts.by(key).items()} for key in by or ()}
    figures = facts.figures()
    if as_json:
        print_json(
            {
                "from": facts.since.astimezone(zone).date(),
                "to": (facts.until - timedelta(microseconds=1)).astimezone(zone).date(),
                "time_zone": str(zone),
                **figures.as_json(),
                "by": {key: {name: each.as_json() for name, each in found.items()} for key, found in parts.items()},
            }
        )
        return
    print(f"{facts.since.astimezone(zone):%d.%m.%Y} to {facts.until.astimezone(zone):%d.%m.%Y %H:%M} ({zone})\n")
    table(list(_overview(figures)), ["figure", ""])
    for key, found in parts.items():
        table([_line(name, each, figures.tickets) for name, each in found.items()], [key, *_LINE])


def _load(since: str, until: str) -> tuple[Facts, Any]:
    from handoff.reports import load_facts

    here = installation()
    zone = here.desk_policy.zone
    today = datetime.now(zone).date()
    last = _day(until, "--to") or today
    first = _day(since, "--from") or last - timedelta(days=DAYS - 1)
    if first > last:
        raise typer.BadParameter(f"{first} lies after {last}", param_hint="--from")

    async def work() -> Facts:
        async with transaction(here) as session:
            return await load_facts(
                session,
                here.desk_policy,
                since=datetime.combine(first, datetime.min.time(), zone),
                until=datetime.combine(last + timedelta(days=1), datetime.min.time(), zone),
                now=datetime.now(UTC),
                topics=here.topics,
            )

    return run(work()), zone


def _day(text: str, name: str) -> date | None:
    try:
        return date.fromisoformat(text) if text else None
    except ValueError as error:
        raise typer.BadParameter(f"`{text}` is no day such as 2026-11-01", param_hint=name) from error


def _overview(of: Figures) -> list[tuple[str, str]]:
    def outcomes(found: Mapping[str, float | None]) -> str:
        return ", ".join(f"{name.replace('_', ' ')} {_share(value)}" for name, value in found.items() if value)

    return [
        ("matters that customers came with", f"{of.episodes}, and {of.running} that are not over"),
        ("settled without a person (contained)", f"{_share(of.contained)}: {outcomes(of.assistant) or '-'}"),
        ("handed to a person", f"{_share(of.handed_off)}: {outcomes(of.people) or '-'}"),
        ("settled for good, after seven days", _share(of.durable)),
        ("tickets", f"{of.tickets}, {of.tickets_a_day or 0:g} a day"),
        ("first response, working time", _times(of.first_response)),
        ("first response, as the customer waited", _times(of.first_response_waited)),
        ("resolution, working time", _times(of.resolution)),
        ("resolution, as the customer waited", _times(of.resolution_waited)),
        (
            "on time",
            f"{_share(of.on_time)}; first response {_share(of.first_response_on_time)}, "
            f"resolution {_share(of.resolution_on_time)}",
        ),
        (
            "satisfaction",
            f"{_share(of.satisfaction)} of {of.satisfaction_answers} answers; "
            f"{_share(of.satisfaction_answered)} of those asked answered",
        ),
        ("recommendation (NPS)", _nps(of)),
        ("tickets opened again", _share(of.reopened)),
        ("topic to be clarified", _share(of.unclear)),
        ("at night (22 to 6), out of hours", f"{_share(of.night)}, {_share(of.out_of_hours)}"),
    ]


_LINE = (
    "matters",
    "contained",
    "durable",
    "tickets",
    "of all",
    "response",
    "resolution",
    "on time",
    "satisfaction",
    "NPS",
)


def _line(name: str, of: Figures, whole: int) -> list[object]:
    return [
        name or "-",
        of.episodes,
        _share(of.contained),
        _share(of.durable),
        of.tickets,
        _share(of.tickets / whole if whole else None),
        _span(of.first_response.p50),
        _span(of.resolution.p50),
        _share(of.on_time),
        _share(of.satisfaction),
        "-" if of.nps.score is None else f"{of.nps.score:+.0f} of {of.nps.answers}",
    ]


def _nps(of: Figures) -> str:
    found = of.nps
    if not found.asked:
        return "- (nobody was asked: `nps` in desk.yml)"
    asked = f"{found.answers} answers, {_share(found.answered)} of those asked"
    if found.score is None:
        return asked
    parts = f"promoters {_share(found.promoters)}, passives {_share(found.passives)}"
    return f"{found.score:+.0f} ± {found.margin:.0f}: {parts}, detractors {_share(found.detractors)}; {asked}"


def _times(times: Any) -> str:
    if not times.count:
        return "-"
    return f"half in {_span(times.p50)}, nine of ten in {_span(times.p90)}, mean {_span(times.mean)}"


def _span(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 60 else f"{minutes} min" if minutes else "< 1 min"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"
