"""The studio's flows: a list, a picture of each, its text with what is wrong in place, revisions, conversations."""

# No postponed annotations: FastAPI reads those of the routes below, and they name things of their function.
import asyncio
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Form, Request
from fastapi.responses import Response
from markupsafe import Markup

from bot.desk.accounts import SignedIn
from bot.errors import FlowError, StaleFlowError, UnknownFlowError
from bot.flows.format import LARGEST_FLOW_BYTES, Flow, Problem
from bot.flows.library import get_revision, publish, revisions, save, stored, withdraw
from bot.flows.means import FlowMeans
from bot.flows.picture import draw
from bot.flows.stories import Verdict
from bot.web.desk_base import N_
from bot.web.guards import Refusal
from bot.web.studio_base import PREFIX, Part, StudioWeb, words

FLOWS = f"{PREFIX}/flows"
NAMES = {
    "END": N_("End"),
    "PERSON": N_("A person"),
    "say": N_("Says"),
    "collect": N_("Asks"),
    "choose": N_("Lets choose"),
    "guide": N_("Guides"),
    "action": N_("Looks up"),
    "article": N_("Shows the article"),
    "set_slots": N_("Sets"),
    "handoff": N_("Calls a person"),
    "end": N_("End"),
    "branch": N_("Branches"),
}
ACTIONS = {
    "saved_flow": N_("saved a flow"),
    "published_flow": N_("published a flow"),
    "withdrew_flow": N_("took a flow out of use"),
}
NEW = """flow: my-flow
title:
  ru: Новый сценарий
  en: A new flow
slots:
  order: {type: number, label: {ru: Номер заказа, en: Order number}}
steps:
  - id: ask
    collect: order
    ask:
      ru: Назовите номер заказа.
      en: What is the order number?
  - id: done
    end:
      ru: "Спасибо, записал: {{ order }}."
      en: "Thank you, noted: {{ order }}."
"""
NEW_STORY = """stories:
- story: {title}
  lang: en
  steps:
  - start: {flow}
    active_loop: {flow}
  - user: cancel
    bot: stopped
    active_loop: null
"""
Text = Annotated[str, Form(max_length=LARGEST_FLOW_BYTES)]


def create_router(web: StudioWeb) -> APIRouter:
    router = APIRouter(prefix=FLOWS, include_in_schema=False)
    Me = Annotated[SignedIn, Depends(web.signed_in)]  # noqa: N806 - a type

    def means() -> FlowMeans:
        if web.flows is None:
            raise Refusal("not_found")
        return web.flows

    async def examined(text: str, me: SignedIn) -> dict[str, Any]:
        """What a page shows of a text."""
        flow, problems = await asyncio.to_thread(means().examine, text)
        return {"flow": flow, "problems": problems, "picture": _picture(flow, problems, me)}

    def page(request: Request, me: SignedIn, status: int = 200, **values: Any) -> Response:
        """A flow's page. shown: the revision whose text stands there, while `revision` is the newest."""
        flow_id = values.get("flow_id") or "my-flow"
        script = NEW_STORY.format(flow=flow_id, title=words(me)(N_("What is to happen")))
        known = {"story": script, "refused": "", "theirs": "", "failed": (), "past": (), "note": "", "published": None}
        return web.page(request, "flow.html", me, status, **{**known, "shown": values["revision"], **values})

    @router.get("")
    async def flows(request: Request, me: Me) -> Response:
        async with web.reading() as session:
            found = await stored(session)
        known = await asyncio.to_thread(means().known)
        started = {each.flow.id: [i for i, flow in known.intents.items() if flow == each.flow.id] for each in found}
        return web.page(request, "flows.html", me, found=found, started=started)

    @router.get("/new")
    async def new(request: Request, me: Me) -> Response:
        values = await examined(NEW, me)
        return page(request, me, flow_id="", text=NEW, revision=None, **values)

    @router.get("/{flow_id}")
    async def one(request: Request, flow_id: str, me: Me, revision: int | None = None) -> Response:
        async with web.reading() as session:
            shown = await _known(get_revision(session, flow_id, revision))
            newest = shown if revision is None else await get_revision(session, flow_id)
            past = await revisions(session, flow_id)
        values = await examined(shown.text, me)
        live = next((each.number for each in past if each.published_at and not each.retired_at), None)
        return page(
            request,
            me,
            flow_id=flow_id,
            text=shown.text,
            revision=newest.number,
            shown=shown.number,
            **{"published": live, "past": past, **values},
        )

    @router.post("/check")
    async def check_text(request: Request, me: Me, text: Text = "") -> Response:
        return web.page(request, "_flow_checked.html", me, **await examined(text, me))

    @router.post("/test")
    async def test(
        request: Request,
        me: Me,
        text: Text = "",
        story: Text = "",
        own: Annotated[str, Form(pattern="^(|yes)$")] = "",
    ) -> Response:
        """The flow's scripted conversations; own: the one that is just being written in their place."""
        flow, problems = await asyncio.to_thread(means().examine, text)
        faults: list[Problem] = []
        verdicts: list[Verdict] = []
        try:
            if flow is not None:
                play = partial(means().try_out, flow, story) if own else partial(means().rehearse, flow)
                verdicts = await asyncio.to_thread(play)
        except FlowError as error:
            faults = list(error.problems)
        return web.page(
            request, "_flow_tested.html", me, flow=flow, problems=problems, faults=faults, verdicts=verdicts
        )

    @router.post("/save")
    async def save_text(
        request: Request,
        me: Me,
        text: Text = "",
        flow_id: Annotated[str, Form(max_length=64)] = "",
        revision: Annotated[int | None, Form(ge=1)] = None,
        note: Annotated[str, Form(max_length=300)] = "",
        then: Annotated[str, Form(pattern="^(|publish|anyway)$")] = "",
    ) -> Response:
        """Keep a new revision, and publish it where it has no faults. Its form has to be right in any case."""
        text = text.replace("\r\n", "\n")
        values = await examined(text, me)
        flow: Flow | None = values["flow"]
        shown = {"flow_id": flow_id, "text": text, "revision": revision, "note": note, **values}
        if flow is None:
            return page(request, me, 422, **shown)
        if flow_id and flow.id != flow_id:
            problem = words(me)(N_("The flow's id is its name for ever: make a new one to rename it."))
            return page(request, me, 422, **shown, refused=problem)
        if then and any(each.level == "error" for each in values["problems"]):
            problem = words(me)(N_("It can't be published while it has errors. It can be saved."))
            return page(request, me, 422, **shown, refused=problem)
        if then == "publish":
            failed = [each for each in await asyncio.to_thread(means().rehearse, flow) if each.failure]
            if failed:
                return page(request, me, 422, **shown, failed=failed)
        try:
            async with web.writing() as session:
                made = await save(session, text, expected=revision, by=me.viewer.name, at=web.clock(), note=note)
                if then:
                    await publish(session, flow.id, made.number, at=web.clock())
                act = "published_flow" if then else "saved_flow"
                web.record(session, me, act, flow=flow.id, revision=made.number)
        except StaleFlowError as error:
            async with web.reading() as session:
                theirs = await get_revision(session, flow.id)
            return page(request, me, 409, **{**shown, "revision": error.newest}, theirs=theirs.text)
        if then:
            await means().changed(web.desk.sessions)
        said = N_("Published: customers meet it from now on.") if then else N_("Saved as a draft.")
        return web.go(request, f"{FLOWS}/{flow.id}", me, said)

    @router.post("/{flow_id}/withdraw")
    async def take_out(request: Request, flow_id: str, me: Me, published: Annotated[int, Form(ge=1)]) -> Response:
        try:
            async with web.writing() as session:
                await _known(withdraw(session, flow_id, expected=published, at=web.clock()))
                web.record(session, me, "withdrew_flow", flow=flow_id, revision=published)
        except StaleFlowError:
            said = N_("Nothing was done: somebody has published another revision since, or taken the flow out of use.")
            return web.go(request, f"{FLOWS}/{flow_id}", me, said)
        await means().changed(web.desk.sessions)
        return web.go(request, f"{FLOWS}/{flow_id}", me, N_("Out of use. Who is in it goes on to its end."))

    return router


async def _known(work: Any) -> Any:
    try:
        return await work
    except UnknownFlowError as error:
        raise Refusal("not_found") from error


def _picture(flow: Flow | None, problems: list[Problem], me: SignedIn) -> Markup | None:
    if flow is None:
        return None
    translated = {name: words(me)(text) for name, text in NAMES.items()}
    lines = [each.line for each in problems if each.line]
    return Markup(draw(flow, me.viewer.lang, lines, translated))  # noqa: S704 - all that is text in it is escaped


PART = Part("flows", N_("Flows"), "all", create_router, actions=ACTIONS)
