"""What helps to write a reply: macros, articles, a draft from the knowledge base. And the page of the macros."""

# No postponed annotations: FastAPI reads those of the routes below, and they name things of their function.
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Form, Request
from fastapi.responses import RedirectResponse, Response

from bot.desk.accounts import SignedIn
from bot.desk.macros import VARIABLES, render_macro
from bot.errors import MacroError
from bot.web.desk_base import N_, PREFIX, DeskWeb, translations
from handoff.access import Permission
from handoff.packet import Packet

SUGGESTED, FOUND = 3, 8
MAX_QUESTION_CHARS = 600
GREETING = N_("Hello, %(name)s!"), N_("Hello!")


def macro_values(packet: Packet, me: SignedIn, web: DeskWeb) -> Mapping[str, str]:
    """Every variable of a macro; what is not known is empty."""
    topics, name = web.desk.tickets.topics, packet.customer.name or ""
    values = (
        *(name, name.split()[0] if name else "", me.viewer.name, str(packet.ticket_id)),
        *(topics.get(packet.topic).title_in(packet.lang), packet.subject, web.shop.get(packet.lang, web.shop["en"])),
    )
    return dict(zip(VARIABLES, values, strict=True))


def question(packet: Packet) -> str:
    """What the customer asked last, in his own words."""
    said = [m.text for m in packet.transcript if m.author == "customer" and m.kind in ("text", "attachment") and m.text]
    telling = [text for text in said if len(text.split()) > 2] or said
    return telling[-1][:MAX_QUESTION_CHARS] if telling else packet.subject


def create_router(web: DeskWeb) -> APIRouter:
    router = APIRouter(prefix=PREFIX, include_in_schema=False)
    Me = Annotated[SignedIn, Depends(web.signed_in)]  # noqa: N806 - a type

    @router.get("/tickets/{ticket_id}/macros")
    async def ready_macros(request: Request, ticket_id: int, me: Me) -> Response:
        """Each with its text for this ticket; a broken one with what is wrong."""
        async with web.seat(me, writing=False) as seat:
            packet = await seat.refresh(ticket_id)
            found = await seat.macros(packet.lang)
        values, ready = macro_values(packet, me, web), []
        for macro in found:
            try:
                ready.append((macro.title, render_macro(macro.title, macro.body, values), ""))
            except MacroError as error:
                ready.append((macro.title, "", error.problem))
        return web.page(request, "_macros.html", me, ready=ready)

    @router.get("/tickets/{ticket_id}/articles")
    async def articles(request: Request, ticket_id: int, me: Me, words: str = "") -> Response:
        async with web.seat(me, writing=False) as seat:
            packet = await seat.refresh(ticket_id)
        wanted = words.strip()[:MAX_QUESTION_CHARS]
        found = await web.articles(wanted or question(packet), packet.lang, FOUND)
        part = "_articles_found.html" if "words" in request.query_params else "_articles.html"
        return web.page(request, part, me, found=found, ticket_id=ticket_id)

    @router.get("/tickets/{ticket_id}/draft")
    async def draft(request: Request, ticket_id: int, me: Me) -> Response:
        """Replies that the knowledge base suggests. An agent reads and sends them: nothing goes out by itself."""
        async with web.seat(me, writing=False) as seat:
            packet = await seat.refresh(ticket_id)
            drafted = await seat.shadow_draft(ticket_id)
        asked = question(packet)
        found = [
            each
            for each in await web.articles(asked, packet.lang, SUGGESTED)
            if each.id != (drafted and drafted.article_id)
        ]
        name = macro_values(packet, me, web)["first_name"]
        words = translations("ru" if packet.lang == "ru" else "en").gettext
        hello = words(GREETING[0]) % {"name": name} if name else words(GREETING[1])
        drafts = [(article, f"{hello}\n\n{article.text}") for article in found]
        return web.page(request, "_drafts.html", me, drafts=drafts, asked=asked, drafted=drafted)

    # The page of the macros

    async def macros_page(request: Request, me: SignedIn, status: int = 200, **typed: Any) -> Response:
        me.viewer.require(Permission.MACROS)
        async with web.seat(me, writing=False) as seat:
            found: Sequence[Any] = await seat.all_macros()
        blank = {"problem": "", "macro_id": 0, "title": "", "body": "", "for_lang": ""}
        return web.page(request, "macros.html", me, status, found=found, variables=VARIABLES, **{**blank, **typed})

    @router.get("/macros")
    async def macros(request: Request, me: Me) -> Response:
        return await macros_page(request, me)

    @router.post("/macros")
    async def save_macro(
        request: Request,
        me: Me,
        title: Annotated[str, Form(max_length=120)],
        body: Annotated[str, Form(max_length=20_000)],
        macro_id: Annotated[int, Form(ge=0)] = 0,
        for_lang: Annotated[str, Form(pattern="^(|ru|en)$")] = "",
    ) -> Response:
        title, body = " ".join(title.split()), body.replace("\r\n", "\n").strip()
        try:
            async with web.seat(me) as seat:
                await seat.save_macro(macro_id, title, body, for_lang)
        except MacroError as error:
            typed = {"macro_id": macro_id, "title": title, "body": body, "for_lang": for_lang}
            return await macros_page(request, me, 422, problem=error.problem, **typed)
        return RedirectResponse(f"{PREFIX}/macros", 303)

    @router.post("/macros/{macro_id}/forget")
    async def forget_macro(macro_id: int, me: Me) -> Response:
        async with web.seat(me) as seat:
            await seat.forget_macro(macro_id)
        return RedirectResponse(f"{PREFIX}/macros", 303)

    return router
