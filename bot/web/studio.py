"""The editors' studio as a part of the application, and its first page: what waits for an editor."""

# No postponed annotations: FastAPI reads those of the routes below, and they name things of their function.
from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import Response

from bot.desk.accounts import SignedIn
from bot.web import (
    studio_articles,
    studio_flows,
    studio_gaps,
    studio_intents,
    studio_playground,
    studio_review,
    studio_versions,
)
from bot.web.desk import problem
from bot.web.desk_base import ACTIONS
from bot.web.studio_base import PREFIX, Part, StudioWeb
from kb_index.errors import KnowledgeBaseError, StaleArticleError, UnknownArticleError
from nlu.errors import NluError, StaleIntent, UnknownExample, UnknownIntent

PARTS: tuple[Part, ...] = (
    studio_gaps.PART,
    studio_review.PART,
    studio_articles.PART,
    studio_intents.PART,
    studio_flows.PART,
    studio_versions.PART,
    studio_playground.PART,
)
"""In the order of the navigation: gaps, review, articles, intents, flows, versions, playground."""


def add_studio(app: FastAPI, web: StudioWeb) -> None:
    """Give the application its studio. Needs the desk's handlers of errors (`add_desk`)."""
    app.state.studio_parts = PARTS
    app.include_router(create_router(web))
    app.add_exception_handler(KnowledgeBaseError, _on_error)
    app.add_exception_handler(NluError, _on_error)
    for part in PARTS:
        app.include_router(part.create_router(web))
        ACTIONS.update(part.actions)


async def _on_error(request: Request, error: Exception) -> Response:
    gone = isinstance(error, UnknownArticleError | UnknownIntent | UnknownExample)
    stale = isinstance(error, StaleArticleError | StaleIntent)
    return problem(request, "not_found" if gone else "changed_meanwhile" if stale else "unusable")


def create_router(web: StudioWeb) -> APIRouter:
    router = APIRouter(prefix=PREFIX, include_in_schema=False)
    Me = Annotated[SignedIn, Depends(web.signed_in)]  # noqa: N806 - a type

    @router.get("")
    async def overview(request: Request, me: Me) -> Response:
        async with web.reading() as session:
            waiting = [each for part in PARTS for each in await part.waiting(web, session, me) if each.count]
        return web.page(request, "overview.html", me, waiting=waiting)

    return router
