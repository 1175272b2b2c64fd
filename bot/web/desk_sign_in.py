"""Signing in and out, invitations, and one's own settings."""

# No postponed annotations: FastAPI reads those of the routes below, and they name things of their function.
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Form, Request
from fastapi.responses import RedirectResponse, Response

from bot.desk.accounts import LEAST_PASSWORD, LONGEST, SignedIn
from bot.errors import SignInError
from bot.metrics import RATE_LIMITED
from bot.web.desk_base import COOKIE, LANGUAGES, PREFIX, STUDIO, DeskWeb, address, chosen_language
from bot.web.guards import Refusal

_SITE = frozenset({"same-origin", "none", ""})


def create_router(web: DeskWeb) -> APIRouter:
    router = APIRouter(prefix=PREFIX, include_in_schema=False)
    Me = Annotated[SignedIn, Depends(web.signed_in)]  # noqa: N806 - a type

    def own_form(request: Request) -> None:
        """Before there is a session, a form is known by where the browser says that it comes from."""
        if request.headers.get("sec-fetch-site", "") not in _SITE:
            raise Refusal("foreign_form")

    def safe_next(wanted: str) -> str:
        ours = wanted == STUDIO or wanted.startswith((f"{PREFIX}/", f"{STUDIO}/"))
        return wanted if ours and "\\" not in wanted and "//" not in wanted else PREFIX

    def signed(request: Request, token: str, target: str) -> Response:
        answer = RedirectResponse(target, 303)
        answer.set_cookie(
            COOKIE,
            token,
            max_age=int(LONGEST.total_seconds()),
            path="/",
            httponly=True,
            samesite="lax",
            secure=request.url.scheme == "https",
        )
        return answer

    @router.get("/sign-in")
    async def sign_in_page(request: Request, next: str = PREFIX) -> Response:  # noqa: A002 - in the address
        return web.page(request, "sign_in.html", None, problem="", next=safe_next(next), login="")

    @router.post("/sign-in")
    async def sign_in(
        request: Request,
        login: Annotated[str, Form(max_length=254)] = "",
        password: Annotated[str, Form(max_length=1000)] = "",
        next: Annotated[str, Form(max_length=500)] = PREFIX,  # noqa: A002
    ) -> Response:
        own_form(request)
        try:
            token = await web.accounts.sign_in(
                login, password, browser=request.headers.get("user-agent", ""), address=address(request)
            )
        except SignInError as error:
            status = 429 if error.code == "too_often" else 401
            if status == 429:
                RATE_LIMITED.labels("sign-in").inc()
            answer = web.page(
                request, "sign_in.html", None, status, problem=error.code, next=safe_next(next), login=login
            )
            if error.retry_after_seconds:
                answer.headers["Retry-After"] = str(int(error.retry_after_seconds) + 1)
            return answer
        return signed(request, token, safe_next(next))

    @router.post("/sign-out")
    async def sign_out(request: Request, _me: Me) -> Response:
        await web.accounts.sign_out(request.cookies.get(COOKIE, ""))
        answer = RedirectResponse(f"{PREFIX}/sign-in", 303)
        answer.delete_cookie(COOKIE, path="/")
        return answer

    @router.get("/welcome/{token}")
    async def welcome(request: Request, token: str) -> Response:
        try:
            invitation = await web.accounts.invitation(token)
        except SignInError:
            return web.page(request, "welcome_gone.html", None, 404)
        return welcome_form(request, invitation.name, invitation.role)

    def welcome_form(request: Request, name: str, role: str, status: int = 200, **values: Any) -> Response:
        return web.page(
            request,
            "welcome.html",
            None,
            status,
            **{"problem": "", "login": "", "typed": "", **values},
            name=name,
            role=role,
            least=LEAST_PASSWORD,
        )

    @router.post("/welcome/{token}")
    async def join(
        request: Request,
        token: str,
        name: Annotated[str, Form(max_length=200)] = "",
        login: Annotated[str, Form(max_length=254)] = "",
        password: Annotated[str, Form(max_length=1000)] = "",
    ) -> Response:
        own_form(request)
        try:
            invitation = await web.accounts.invitation(token)
        except SignInError:
            return web.page(request, "welcome_gone.html", None, 404)
        try:
            await web.accounts.accept(token, name=name, login=login, password=password, lang=chosen_language(request))
            token = await web.accounts.sign_in(
                login, password, browser=request.headers.get("user-agent", ""), address=address(request)
            )
        except SignInError as error:
            return welcome_form(
                request, invitation.name, invitation.role, 422, problem=error.code, login=login, typed=name
            )
        return signed(request, token, PREFIX)

    @router.get("/me")
    async def me_page(request: Request, me: Me) -> Response:
        return await own_page(request, me)

    async def own_page(request: Request, me: SignedIn, status: int = 200, **values: Any) -> Response:
        linked, bot = None, ""
        if web.forum_people is not None:
            async with web.sessions.reading() as session:
                linked = await web.forum_people.linked(session, me.viewer.account_id)
            bot = await web.forum_bot() if web.forum_bot is not None else ""
        shown = {"problem": "", "done": "", "code": "", "least": LEAST_PASSWORD, **values}
        telegram = linked.name if linked else ""
        return web.page(request, "me.html", me, status, telegram=telegram, bot=bot, **shown)

    @router.post("/me/telegram")
    async def telegram_code(request: Request, me: Me) -> Response:
        """A code by which the bot knows whose account somebody in Telegram has."""
        if web.forum_people is None:
            raise Refusal("invalid")
        async with web.sessions.begin() as session:
            code = await web.forum_people.code(session, me.viewer.account_id)
        return await own_page(request, me, code=code)

    @router.post("/me/telegram/unlink")
    async def telegram_unlink(me: Me) -> Response:
        if web.forum_people is not None:
            async with web.sessions.begin() as session:
                await web.forum_people.unlink(session, me.viewer.account_id, me.viewer.name)
        return RedirectResponse(f"{PREFIX}/me", 303)

    @router.post("/me")
    async def change_me(
        request: Request,
        me: Me,
        lang: Annotated[str, Form()] = "",
        theme: Annotated[str, Form()] = "",
        undo_seconds: Annotated[int | None, Form(ge=0, le=30)] = None,
        presence: Annotated[str, Form()] = "",
    ) -> Response:
        wanted: dict[str, Any] = {}
        if lang in LANGUAGES:
            wanted["lang"] = lang
        if theme in ("auto", "light", "dark"):
            wanted["theme"] = theme
        if undo_seconds is not None:
            wanted["undo_seconds"] = undo_seconds
        if presence in ("auto", "online", "away", "offline"):
            wanted["presence"] = presence
        await web.accounts.change(me, wanted)
        target = request.headers.get("referer", "")
        path = f"/{target.partition('://')[2].partition('/')[2]}"
        ours = path == STUDIO or path.startswith((f"{PREFIX}/", f"{STUDIO}/", f"{STUDIO}?"))
        return RedirectResponse(path if ours else f"{PREFIX}/me", 303)

    @router.post("/me/password")
    async def change_password(
        request: Request,
        me: Me,
        old: Annotated[str, Form(max_length=1000)] = "",
        new: Annotated[str, Form(max_length=1000)] = "",
    ) -> Response:
        try:
            await web.accounts.change_password(me, old, new)
        except SignInError as error:
            return await own_page(request, me, 422, problem=error.code)
        return await own_page(request, me, done="password")

    return router
