"""The web application: pages, the chat's interface and the health checks."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.exceptions import HTTPException
from starlette.middleware.gzip import GZipMiddleware

from bot.channels.base import InboundMessage
from bot.channels.site import SiteChannel
from bot.desk.seat import MAX_FILES
from bot.email_proof import EmailProof
from bot.ledger import Sessions
from bot.monitor import readiness
from bot.web.chat_api import MAX_TEXT_CHARS, create_router
from bot.web.desk import add_desk
from bot.web.desk_base import PREFIX, STUDIO, DeskWeb
from bot.web.doors import EVENTS_A_MINUTE, REQUESTS_A_MINUTE, RateLimits, doors, nobody
from bot.web.guards import BodyLimit, SecurityHeaders, on_http_error, pick_language, refuse
from bot.web.studio import add_studio
from bot.web.studio_base import StudioWeb
from bot.web.webhooks import WEBHOOKS

HERE = Path(__file__).parent
_JSON_BYTES = 12 * MAX_TEXT_CHARS + 4096
"""A character is at most 12 bytes of JSON (an escaped pair)."""
_MULTIPART_BYTES = 16 * 1024
_IMPORT_BYTES = 64 * 2**20
_EDIT_BYTES = 8 * 2**20
"""An article has at most 1 MB, of which a form makes three."""
_PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "frame-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors "
)


async def _no_problems() -> Sequence[str]:
    return ()


def create_app(
    *,
    sessions: Sessions,
    receive: Callable[[InboundMessage], Awaitable[bool]],
    clock: Callable[[], datetime],
    site: SiteChannel,
    shop: Mapping[str, str],
    allowed_origins: tuple[str, ...] = (),
    messages_a_minute: int = 20,
    requests_a_minute: int = REQUESTS_A_MINUTE,
    events_a_minute: int = EVENTS_A_MINUTE,
    max_streams: int = 5000,
    long_text_chars: int = 4000,
    webhooks: APIRouter | None = None,
    problems: Callable[[], Awaitable[Sequence[str]]] = _no_problems,
    lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]] | None = None,
    idle_poll_seconds: float = 20,
    desk: DeskWeb | None = None,
    studio: StudioWeb | None = None,
    email: EmailProof | None = None,
) -> FastAPI:
    """The application. Everything it needs comes in as arguments.

    receive: stores a message durably before it returns; False for a repeat.
    shop: language → the company's name.
    allowed_origins: other sites that may embed the chat, such as `https://shop.example`; `*` allows any.
    requests_a_minute, events_a_minute: from one address; see `bot.web.doors`.
    long_text_chars: a longer message is kept but not interpreted, and the writer is told beforehand.
    webhooks: what platforms call.
    desk: where people answer; none in a test of the chat alone.
    studio: where people edit; only beside a desk, which it shares its accounts with.
    email: how customers of the chat prove that an address is theirs; None: not at all.
    problems: what keeps the assistant from answering, for /readyz.
    """
    app = FastAPI(title="Otvet", docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    app.add_middleware(
        BodyLimit,
        default_bytes=_JSON_BYTES,
        by_path={
            "/api/chat/files": site.store.max_bytes + _MULTIPART_BYTES,
            re.compile(rf"{PREFIX}/tickets/\d+/reply"): MAX_FILES * site.store.max_bytes + _JSON_BYTES,
            re.compile(rf"{STUDIO}/.*/import"): _IMPORT_BYTES,
            re.compile(rf"{STUDIO}/.*"): _EDIT_BYTES,
        },
        free=WEBHOOKS,
    )
    app.add_middleware(
        RateLimits,
        shared=site.shared,
        doors=doors(events_a_minute),
        lives=desk.accounts.lives if desk else nobody,
        requests_a_minute=requests_a_minute,
        platforms=WEBHOOKS,
    )
    app.add_middleware(SecurityHeaders)
    app.add_exception_handler(HTTPException, on_http_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(Exception, _on_bug)
    app.include_router(
        create_router(
            sessions=sessions,
            receive=receive,
            clock=clock,
            site=site,
            messages_a_minute=messages_a_minute,
            max_streams=max_streams,
            idle_poll_seconds=idle_poll_seconds,
            email=email,
        )
    )
    if desk is not None:
        add_desk(app, desk)
    if studio is not None:
        add_studio(app, studio)
    if webhooks is not None:
        app.include_router(webhooks)
    templates = Environment(
        loader=FileSystemLoader(HERE / "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    ancestors = "*" if "*" in allowed_origins else " ".join(("'self'", *map(_origin, allowed_origins)))

    def page(template: str, request: Request, *, ancestors: str, **values: Any) -> HTMLResponse:
        lang = request.query_params.get("lang", "")
        if lang not in shop:
            lang = pick_language(request.headers.get("accept-language"))
        html = templates.get_template(template).render(lang=lang, shop=shop[lang], **values)
        headers = {
            "Content-Security-Policy": _PAGE_POLICY + ancestors,
            "Vary": "Accept-Language",
            "Cache-Control": "no-cache",
        }
        return HTMLResponse(html, headers=headers)

    @app.get("/", include_in_schema=False)
    async def shop_page(request: Request) -> HTMLResponse:
        return page("shop.html", request, ancestors="'none'", base=str(request.base_url).rstrip("/"))

    @app.get("/chat", include_in_schema=False)
    async def chat_page(request: Request) -> HTMLResponse:
        return page(
            "chat.html",
            request,
            ancestors=ancestors,
            names=shop,
            long_text_chars=long_text_chars,
            max_text_chars=MAX_TEXT_CHARS,
            max_file_bytes=site.store.max_bytes,
            email=email is not None,
        )

    @app.get("/widget.js", include_in_schema=False)
    async def widget() -> FileResponse:
        headers = {"Cache-Control": "public, max-age=300", "Cross-Origin-Resource-Policy": "cross-origin"}
        return FileResponse(HERE / "static" / "widget.js", media_type="text/javascript", headers=headers)

    @app.get("/healthz", include_in_schema=False)
    async def alive() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz", include_in_schema=False)
    async def is_ready() -> JSONResponse:
        return readiness(await problems())

    # Pages are not compressed: what stands in them must not be guessed by their length.
    app.mount("/static", GZipMiddleware(StaticFiles(directory=HERE / "static")), name="static")
    return app


def _origin(value: str) -> str:
    # It becomes a part of a header, where a semicolon or a space would begin another rule.
    if not re.fullmatch(r"https?://[A-Za-z0-9.*-]+(:(\d+|\*))?", value):
        raise ValueError(f"not an origin such as https://shop.example: {value!r}")
    return value


async def _on_invalid(request: Request, _error: Exception) -> JSONResponse:
    return refuse(request, "invalid")


async def _on_bug(request: Request, _error: Exception) -> JSONResponse:
    return refuse(request, "broken")
