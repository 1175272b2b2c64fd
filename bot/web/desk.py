"""The web desk as a part of the application: its routes, and what it says when something goes wrong."""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from bot.errors import EditRefusedError, FileRefusedError, UnseenWordsError
from bot.web import desk_help, desk_live, desk_people, desk_queue, desk_sign_in, desk_team, desk_ticket
from bot.web.desk_base import (
    POLICY,
    PREFIX,
    STUDIO,
    DeskWeb,
    Unknown,
    chosen_language,
    environment,
    is_partial,
    on_unknown,
)
from bot.web.guards import CODES, Refusal, explain, on_http_error, refuse
from handoff.errors import (
    AccessError,
    AgentNotFoundError,
    CustomerError,
    HandoffError,
    HoldDateError,
    LiveTicketsError,
    StrangersError,
    TicketHeldError,
    TicketNotFoundError,
    TicketStateError,
    UnansweredError,
)


def add_desk(app: FastAPI, web: DeskWeb) -> None:
    """Give the application its desk. What `app` does with errors elsewhere stays as it is."""
    for part in (desk_sign_in, desk_queue, desk_ticket, desk_help, desk_live, desk_people, desk_team):
        app.include_router(part.create_router(web))
    app.add_exception_handler(Unknown, on_unknown)
    app.add_exception_handler(HandoffError, _on_handoff_error)
    app.add_exception_handler(FileRefusedError, _on_refused_file)
    app.add_exception_handler(EditRefusedError, _on_refused_edit)
    app.add_exception_handler(UnseenWordsError, _on_unseen)
    app.add_exception_handler(HTTPException, _on_http_error)


async def _on_http_error(request: Request, error: Exception) -> Response:
    answer = await on_http_error(request, error)
    if not _wants_page(request) or not isinstance(error, HTTPException):
        return answer
    return problem(request, error.code if isinstance(error, Refusal) else CODES.get(error.status_code, "bad_request"))


async def _on_refused_file(request: Request, error: Exception) -> Response:
    assert isinstance(error, FileRefusedError)  # noqa: S101 - registered for this class alone
    most = f"{error.max_bytes / 2**20:.3g}"
    return refuse(request, "file_refused" if error.max_bytes else "no_files", values={"most": most})


async def _on_unseen(request: Request, _error: Exception) -> Response:
    return problem(request, "unseen")


async def _on_refused_edit(request: Request, _error: Exception) -> Response:
    return refuse(request, "no_edit")


def _wants_page(request: Request) -> bool:
    """A person in a browser, and not a script of ours."""
    script = is_partial(request) or "x-csrf" in request.headers
    return request.url.path.startswith((PREFIX, STUDIO)) and not script


async def _on_handoff_error(request: Request, error: Exception) -> Response:
    code = "broken"
    if isinstance(error, TicketNotFoundError):
        code = "no_ticket"
    elif isinstance(error, AccessError):
        code = "forbidden"
    elif isinstance(error, TicketStateError):
        code = "unanswered" if isinstance(error, UnansweredError) else "state"
    elif isinstance(error, HoldDateError):
        code = "past"
    elif isinstance(error, TicketHeldError):
        code = "held"
    elif isinstance(error, StrangersError):
        code = "strangers"
    elif isinstance(error, LiveTicketsError):
        code = "open_tickets"
    elif isinstance(error, CustomerError):
        code = "no_customer"
    elif isinstance(error, AgentNotFoundError):
        code = "no_agent"
    return problem(request, code)


def problem(request: Request, code: str) -> Response:
    """A page to a person, a word to a script."""
    if not _wants_page(request):
        return refuse(request, code)
    lang = chosen_language(request)
    status, words = explain(code, lang)
    html = environment(lang).get_template("desk/problem.html").render(lang=lang, words=words, status=status)
    return Response(html, status, {"Content-Security-Policy": POLICY}, "text/html")
