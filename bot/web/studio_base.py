"""What every page of the studio is made with: the desk's means, the permission to edit, a place in the navigation."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import quote, unquote

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response
from sqlalchemy.ext.asyncio import AsyncSession

from bot.article_means import ArticleMeans
from bot.desk.accounts import SignedIn
from bot.flows.means import FlowMeans
from bot.gaps.review import NO_MODELS, ReviewMeans
from bot.intent_means import IntentChecks
from bot.models.releases import ModelMeans
from bot.web.desk_base import N_, STUDIO, DeskWeb, is_partial, translations
from handoff.access import Permission
from kb_index.errors import StaleArticleError
from nlu.errors import UnknownIntent

PREFIX = STUDIO
TOLD = "otvet_told"
TOLD_SECONDS = 60


FAULTS = {
    "taken": N_("There is an intent of this name already."),
    "bad_name": N_("A name has letters, digits, `_`, `-` and `.`, at most 120 of them."),
    "many": N_("These are too many at once."),
    "no_words": N_("An example needs words."),
    "long": N_("An example of this length teaches nothing: shorten it."),
    "unprintable": N_("There are characters in it that can't be seen. Type the words anew."),
    "no_intent": N_("There is no intent %(name)s."),
    "stale": N_("Somebody has changed the article meanwhile. Look at it, and make your change there."),
}


def fault(error: Exception, told: Callable[[str], str]) -> str:
    """What refused, in the editor's language. told: translates."""
    code = getattr(error, "code", "")
    if isinstance(error, UnknownIntent):
        code = "no_intent"
    elif isinstance(error, StaleArticleError):
        code = "stale"
    if code not in FAULTS:
        return str(error)
    return told(FAULTS[code]) % {"name": getattr(error, "name", "")}


@dataclass(frozen=True)
class Waiting:
    """Something on the overview that an editor should look at. text: translated, and without the number."""

    count: int
    text: str
    href: str
    urgent: bool = False


async def _nothing(_web: StudioWeb, _session: AsyncSession, _me: SignedIn) -> Sequence[Waiting]:
    return ()


@dataclass(frozen=True)
class Part:
    """One part of the studio. path: under PREFIX, and the first of its pages; title: English, marked with N_."""

    path: str
    title: str
    icon: str
    create_router: Callable[[StudioWeb], APIRouter]
    waiting: Callable[[StudioWeb, AsyncSession, SignedIn], Awaitable[Sequence[Waiting]]] = _nothing
    actions: Mapping[str, str] = field(default_factory=dict)
    """What it writes into the audit log → the words for it, marked with N_."""


@dataclass(frozen=True)
class StudioWeb:
    """All that the studio's pages need; `bot.serve` and the tests make it."""

    desk: DeskWeb
    articles: ArticleMeans
    review: ReviewMeans = NO_MODELS
    models: ModelMeans | None = None
    """None: pages about versions and answers say that there are none here."""
    intent_checks: IntentChecks = field(default_factory=IntentChecks)
    flows: FlowMeans | None = None

    @property
    def clock(self) -> Callable[[], datetime]:
        return self.desk.clock

    async def signed_in(self, request: Request) -> SignedIn:
        """Who asks, if he may edit. Raises Unknown, Refusal (a foreign form) and AccessError."""
        me = await self.desk.signed_in(request)
        me.viewer.require(Permission.EDIT)
        return me

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncSession]:
        async with self.desk.sessions.reading() as session:
            yield session

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncSession]:
        """A transaction that is committed at the end of the block."""
        async with self.desk.sessions.begin() as session:
            yield session

    def record(self, session: AsyncSession, me: SignedIn, action: str, **details: Any) -> None:
        """A line of the audit log, in the transaction of what was done."""
        self.desk.accounts.record(session, me.viewer.name, action, details=details, address=me.address)

    def page(self, request: Request, template: str, me: SignedIn, status: int = 200, **values: Any) -> Response:
        """templates/studio/`template`, with what the page before left to be said."""
        said = {} if is_partial(request) else _read_told(request)
        parts: Sequence[Part] = request.app.state.studio_parts
        answer = self.desk.page(
            request, template, me, status, folder="studio", parts=parts, said=said, prefix=PREFIX, **values
        )
        if said:
            answer.delete_cookie(TOLD, path=PREFIX)
        return answer

    def told(self, answer: Response, me: SignedIn, text: str, *, undo: str = "", **values: Any) -> Response:
        """For htmx: let the page say that something was done. text: English, marked with N_; undo: an address under
        PREFIX that takes it back with an empty POST."""
        said = {"text": words(me)(text) % values, "undo": undo}
        answer.headers["HX-Trigger"] = json.dumps({"told": said})
        return answer

    def go(
        self, request: Request, target: str, me: SignedIn, text: str = "", *, undo: str = "", **values: Any
    ) -> Response:
        """For a whole page: on to `target`, which says that something was done, as `told` does."""
        answer = RedirectResponse(target, 303)
        if text:
            said = json.dumps({"text": words(me)(text) % values, "undo": undo}, ensure_ascii=False)
            secure = request.url.scheme == "https"
            answer.set_cookie(
                TOLD, quote(said[:3000]), TOLD_SECONDS, path=PREFIX, secure=secure, httponly=True, samesite="lax"
            )
        return answer


def words(me: SignedIn) -> Callable[[str], str]:
    """Translates into the viewer's language."""
    return translations(me.viewer.lang).gettext


def _read_told(request: Request) -> Mapping[str, str]:
    try:
        read = json.loads(unquote(request.cookies.get(TOLD, "")))
        text, undo = str(read["text"]), str(read["undo"])
    except (ValueError, KeyError, TypeError):
        return {}
    return {"text": text, "undo": undo if undo.startswith(f"{PREFIX}/") and "//" not in undo else ""}
