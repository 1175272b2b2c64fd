"""The supervisor's page: what waits now, who is there, and the figures of a period as charts."""

# No postponed annotations: FastAPI reads those of the routes below, and they name things of their function.
import asyncio
from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta
from typing import Annotated, Any, Literal
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from bot.desk.accounts import SignedIn
from bot.desk.figures import Chart, as_csv, facts_of, live, nps_csv, series, tickets_csv
from bot.web.desk_base import N_, PREFIX, DeskWeb, is_partial, translations
from bot.web.guards import Refusal
from handoff.access import Permission
from handoff.outcomes import Facts

DAYS, LONGEST = 14, 366
KEPT_SECONDS = 30
"""How long what was read for a period is used again: a page asks for it with every chart."""
KEPT = 8
FILTERS = ("channel", "topic", "team", "agent")
TITLES = {
    Chart.TICKETS: N_("Tickets a day"),
    Chart.FIRST_RESPONSE: N_("First response, minutes of working time"),
    Chart.RESOLUTION: N_("Resolution, hours of working time"),
    Chart.ON_TIME: N_("On time"),
    Chart.SATISFACTION: N_("Satisfaction"),
    Chart.TOPICS: N_("Tickets by topic"),
    Chart.HOURS: N_("Tickets by hour of the day"),
    Chart.AGENTS: N_("Tickets by agent"),
    Chart.NPS: N_("Would recommend, 0 to 10: answers"),
}
COMMENTS = 20
"""How many of the newest are shown."""
NOBODY = N_("nobody")
NAMES = {"half": N_("half are faster"), "nine of ten": N_("nine of ten are faster"), "nothing": N_("nothing to show")}


def create_router(web: DeskWeb) -> APIRouter:
    router = APIRouter(prefix=f"{PREFIX}/team", include_in_schema=False)
    Me = Annotated[SignedIn, Depends(web.signed_in)]  # noqa: N806 - a type
    kept: dict[tuple[date, date], tuple[datetime, Facts]] = {}
    reading = asyncio.Lock()

    def zone() -> ZoneInfo:
        """That in which the reports count days, whatever the pages show moments in."""
        return web.desk.tickets.policy.zone

    def period(params: Mapping[str, str]) -> tuple[date, date]:
        """The first and the last day. Raises Refusal for what is none."""
        today = web.clock().astimezone(zone()).date()
        try:
            last = date.fromisoformat(params["to"]) if params.get("to") else today
            first = date.fromisoformat(params["from"]) if params.get("from") else last - timedelta(days=DAYS - 1)
        except ValueError as error:
            raise Refusal("invalid") from error
        if not timedelta(0) <= last - first < timedelta(days=LONGEST):
            raise Refusal("period")
        return first, last

    async def facts(request: Request, me: SignedIn) -> Facts:
        me.viewer.require(Permission.FIGURES)
        first, last = period(request.query_params)
        async with reading:  # charts of one page come at once
            found = kept.get((first, last))
            if found is None or web.clock() - found[0] > timedelta(seconds=KEPT_SECONDS):
                async with web.sessions.reading() as session:
                    read = await facts_of(
                        session,
                        web.desk.tickets,
                        me.viewer,
                        since=datetime.combine(first, time(), zone()).astimezone(UTC),
                        until=datetime.combine(last + timedelta(days=1), time(), zone()).astimezone(UTC),
                        now=web.clock(),
                    )
                found = web.clock(), read
                kept[first, last] = found
                while len(kept) > KEPT:
                    kept.pop(next(iter(kept)))
        wanted = {key: value for key in FILTERS if (value := request.query_params.get(key, ""))}
        return found[1].only(**wanted) if wanted else found[1]

    def days(request: Request) -> list[str]:
        first, last = period(request.query_params)
        return [str(first + timedelta(days=number)) for number in range((last - first).days + 1)]

    def names(lang: str) -> dict[str, str]:
        words = translations(lang).gettext
        tickets = web.desk.tickets
        known = {topic.id: topic.title_in(lang) for topic in tickets.topics.all.values()}
        return {**known, **{key: words(text) for key, text in NAMES.items()}, "": words(NOBODY)}

    @router.get("")
    async def team(request: Request, me: Me) -> Response:
        me.viewer.require(Permission.FIGURES)
        async with web.sessions.reading() as session:
            now = await live(session, web.desk.tickets, me.viewer, now=web.clock())
        if is_partial(request):
            return web.page(request, "_now.html", me, live=now)
        found = await facts(request, me)
        first, last = period(request.query_params)
        chosen: dict[str, Any] = {key: request.query_params.get(key, "") for key in FILTERS}
        query = urlencode({"from": first, "to": last, **{k: v for k, v in chosen.items() if v}})
        words = translations(me.viewer.lang).gettext
        figures = found.figures()
        asks = web.desk.nps.policy.ask
        shown = [chart for chart in Chart if chart is not Chart.NPS or asks or figures.nps.asked]
        told = sorted((each for each in found.nps if each.comment), key=lambda each: each.asked_at, reverse=True)
        return web.page(
            request,
            "team.html",
            me,
            live=now,
            figures=figures,
            asks=asks,
            comments=told[:COMMENTS],
            charts=[(chart.value, words(TITLES[chart])) for chart in shown],
            first=first,
            last=last,
            chosen=chosen,
            chart_query=query,
        )

    @router.get("/tickets.csv")
    async def all_tickets(request: Request, me: Me) -> Response:
        return _file(tickets_csv(await facts(request, me)).encode("utf-8-sig"), "text/csv", "tickets.csv")

    @router.get("/answers.csv")
    async def all_answers(request: Request, me: Me) -> Response:
        return _file(nps_csv(await facts(request, me)).encode("utf-8-sig"), "text/csv", "answers.csv")

    @router.get("/{chart}.{form}")
    async def picture(
        request: Request, chart: Chart, form: Literal["svg", "png", "csv"], me: Me, dark: str = ""
    ) -> Response:
        shown = series(chart, await facts(request, me), days(request))
        if form == "csv":
            return _file(as_csv(shown).encode("utf-8-sig"), "text/csv", f"{chart}.csv")
        # Takes a second to import, and most starts never need it.
        from bot.desk.charts import draw

        drawn = await asyncio.to_thread(draw, shown, names(me.viewer.lang), dark=bool(dark), form=form)
        if form == "png":
            return _file(drawn, "image/png", f"{chart}.png")
        return Response(drawn, media_type="image/svg+xml", headers={"Cache-Control": "private, max-age=30"})

    return router


def _file(content: bytes, media_type: str, name: str) -> Response:
    headers = {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"}
    return Response(content, media_type=media_type, headers=headers)
