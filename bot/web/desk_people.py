"""For administrators: who works here, and what was seen and done."""

# No postponed annotations: FastAPI reads those of the routes below, and they name things of their function.
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Form, Request
from fastapi.responses import RedirectResponse, Response

from bot.desk.accounts import SignedIn
from bot.desk.people import AUDIT_PAGE, People, Work
from bot.errors import SignInError
from bot.web.desk_base import LANGUAGES, PREFIX, DeskWeb
from bot.web.guards import Refusal
from handoff.access import Role
from handoff.policy import LEVELS


def create_router(web: DeskWeb) -> APIRouter:
    router = APIRouter(prefix=PREFIX, include_in_schema=False)
    Me = Annotated[SignedIn, Depends(web.signed_in)]  # noqa: N806 - a type

    @asynccontextmanager
    async def people_of(me: SignedIn, *, writing: bool = False) -> AsyncIterator[People]:
        opened = web.sessions.begin() if writing else web.sessions.reading()
        async with opened as session:
            yield People(web.accounts, web.desk.tickets, session, me.viewer, now=web.clock(), address=me.address)

    def known_teams() -> list[str]:
        tickets = web.desk.tickets
        return sorted({topic.team for topic in tickets.topics.all.values()} | set(tickets.policy.teams))

    async def work(request: Request) -> Work:
        form = await request.form()
        role, level = str(form.get("role", "")), str(form.get("level", "L1"))
        teams = tuple(str(team) for team in form.getlist("team"))
        langs = tuple(str(lang) for lang in form.getlist("speaks"))
        capacity = str(form.get("capacity", "10"))
        if (
            role not in set(Role)
            or level not in LEVELS
            or set(teams) - set(known_teams())
            or set(langs) - set(LANGUAGES)
        ):
            raise Refusal("invalid")
        if not capacity.isdecimal() or not 1 <= int(capacity) <= 1000:
            raise Refusal("invalid")
        return Work(Role(role), teams, level, langs, int(capacity))

    async def people_page(request: Request, me: SignedIn, status: int = 200, **values: Any) -> Response:
        async with people_of(me) as people:
            found, open_invitations = await people.all(), await people.invitations()
        return web.page(
            request,
            "people.html",
            me,
            status,
            **{"link": "", "problem": "", **values},
            people=found,
            invitations=open_invitations,
            known_teams=known_teams(),
            levels=LEVELS,
        )

    @router.get("/people")
    async def people_list(request: Request, me: Me) -> Response:
        return await people_page(request, me)

    @router.post("/people/invite")
    async def invite(request: Request, me: Me, name: Annotated[str, Form(max_length=200)] = "") -> Response:
        wanted = await work(request)
        async with people_of(me, writing=True) as people:
            token = await people.invite(" ".join(name.split()), wanted)
        link = f"{str(request.base_url).rstrip('/')}{PREFIX}/welcome/{token}"
        return await people_page(request, me, link=link)

    @router.post("/people/invitations/{invitation_id}/take-back")
    async def take_back(invitation_id: int, me: Me) -> Response:
        async with people_of(me, writing=True) as people:
            await people.take_back(invitation_id)
        return RedirectResponse(f"{PREFIX}/people", 303)

    @router.post("/people/{account_id}")
    async def change(
        request: Request, account_id: int, me: Me, active: Annotated[str, Form(pattern="^(|1)$")] = ""
    ) -> Response:
        wanted = await work(request)
        try:
            async with people_of(me, writing=True) as people:
                await people.change(account_id, wanted, active=bool(active))
        except SignInError as error:
            return await people_page(request, me, 422, problem=error.code)
        return RedirectResponse(f"{PREFIX}/people", 303)

    @router.get("/audit")
    async def audit(
        request: Request, me: Me, who: str = "", action: str = "", ticket: str = "", page: str = "0"
    ) -> Response:
        number = int(ticket) if ticket.isdecimal() and len(ticket) < 19 else None
        shown = min(int(page), 10_000) if page.isdecimal() else 0
        async with people_of(me) as people:
            rows = await people.audit(who=who[:200], ticket_id=number, action=action[:32], page=shown)
        return web.page(
            request,
            "audit.html",
            me,
            rows=rows[:AUDIT_PAGE],
            more=len(rows) > AUDIT_PAGE,
            who=who,
            action=action,
            ticket=ticket,
            page=shown,
        )

    return router
