"""What every page of the desk is made with: words, rendering, who is signed in, a transaction for each request."""

from __future__ import annotations

import gettext
import hmac
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

from babel.dates import format_date, format_timedelta
from babel.messages.catalog import Catalog
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po
from fastapi import Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from starlette.exceptions import HTTPException

from bot.channels.site import SiteChannel
from bot.desk.accounts import Accounts, SignedIn
from bot.desk.agent_desk import AgentDesk
from bot.desk.feed import DeskFeed
from bot.desk.seat import Seat, Tally
from bot.erasure.erasing import Eraser
from bot.erasure.export import Exporter
from bot.forum.people import ForumPeople
from bot.ledger import Sessions
from bot.message_templates import MessageTemplates
from bot.shared import Shared
from bot.web.guards import Refusal, pick_language
from bot.web.markup import render as render_markdown
from handoff.access import Permission, Role

HERE = Path(__file__).parent
PREFIX = "/desk"
STUDIO = "/studio"
COOKIE = "otvet_desk"
LANGUAGES = ("ru", "en")
MAX_FIELD_BYTES = 8 * 2**20
"""Of a form; `BodyLimit` says what a whole one may have."""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; media-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)


@dataclass(frozen=True)
class ArticleOffer:
    """An article as the desk offers it."""

    id: str
    title: str
    text: str
    confidence: float


SearchArticles = Callable[[str, str, int], Awaitable[Sequence[ArticleOffer]]]
"""(words, language, how many) → the articles that fit, the best first."""


async def _no_articles(_words: str, _lang: str, _limit: int) -> Sequence[ArticleOffer]:
    return ()


@dataclass(frozen=True)
class DeskWeb:
    """All that the desk's pages need; `bot.serve` and the tests make it."""

    sessions: Sessions
    accounts: Accounts
    desk: AgentDesk
    feed: DeskFeed
    site: SiteChannel
    shared: Shared
    clock: Callable[[], datetime]
    shop: Mapping[str, str]
    exporter: Exporter
    zone: ZoneInfo = field(default_factory=lambda: ZoneInfo("Europe/Moscow"))
    templates: MessageTemplates = field(default_factory=MessageTemplates)
    articles: SearchArticles = _no_articles
    flows: Callable[[str], Sequence[tuple[str, str]]] = lambda _lang: ()
    """Language → id and title of the flows that an agent may start."""
    forum_people: ForumPeople | None = None
    """Who is who in the agents' groups in Telegram; None: there are none."""
    forum_bot: Callable[[], Awaitable[str]] | None = None
    """The name of the bot in them; empty while Telegram can't be reached."""
    eraser: Eraser = field(default_factory=Eraser)
    max_streams: int = 1000
    tally: Tally = field(default_factory=Tally)

    @asynccontextmanager
    async def seat(self, me: SignedIn, *, writing: bool = True) -> AsyncIterator[Seat]:
        """The viewer's seat, in a transaction that is committed at the end of the block."""
        opened = self.sessions.begin() if writing else self.sessions.reading()
        async with opened as session:
            yield Seat(
                self.desk, self.accounts, session, me.viewer, now=self.clock(), address=me.address, tally=self.tally
            )

    async def signed_in(self, request: Request) -> SignedIn:
        """Who asks. Raises Unknown where nobody is signed in, and Refusal for a form that is not of his session."""
        token = request.cookies.get(COOKIE, "")
        me = (
            await self.accounts.whose(token, browser=request.headers.get("user-agent", ""), address=address(request))
            if token
            else None
        )
        if me is None:
            raise Unknown(request.url.path)
        if request.method not in ("GET", "HEAD"):
            form = await request.form(max_part_size=MAX_FIELD_BYTES)  # kept for whoever asks for it again
            given = request.headers.get("x-csrf") or str(form.get("csrf", ""))
            if not hmac.compare_digest(given.encode(), me.csrf.encode()):
                raise Refusal("foreign_form")
        return me

    def page(
        self,
        request: Request,
        template: str,
        me: SignedIn | None,
        status: int = 200,
        *,
        folder: str = "desk",
        **values: Any,
    ) -> Response:
        lang = me.viewer.lang if me else chosen_language(request)
        html = (
            environment(lang)
            .get_template(f"{folder}/{template}")
            .render(
                lang=lang,
                me=me,
                web=self,
                shop=self.shop[lang],
                now=self.clock(),
                zone=self.zone,
                path=request.url.path,
                topics=self.desk.tickets.topics.all,
                teams=self.desk.tickets.policy.teams,
                partial=is_partial(request),
                Permission=Permission,
                studio=STUDIO,
                Role=Role,
                is_mine=is_mine,
                actions={act: translations(lang).gettext(words) for act, words in ACTIONS.items()},
                statuses={status: translations(lang).gettext(words) for status, words in STATUSES.items()},
                events={event: translations(lang).gettext(words) for event, words in EVENTS.items()},
                **values,
            )
        )
        headers = {"Content-Security-Policy": POLICY, "Cache-Control": "no-store", "Vary": "HX-Request"}
        headers["Referrer-Policy"] = "same-origin"  # a setting leads back to where it was changed
        return HTMLResponse(html, status, headers)

    def told(self, answer: Response, me: SignedIn, what: str, **values: Any) -> Response:
        """Let the page say a word about what was done."""
        words = translations(me.viewer.lang).gettext(TOLD[what]) % values
        answer.headers["HX-Trigger"] = json.dumps({"told": {"text": words, "what": what}})
        return answer


def N_(text: str) -> str:  # noqa: N802 - gettext's customary name
    """Marks a text that is translated elsewhere."""
    return text


TOLD = {
    "many": N_("Done: %(done)d. Not possible: %(failed)d."),
    "many_unread": N_(
        "Done: %(done)d. Not possible: %(failed)d. Left, for their customers have written meanwhile: %(unread)s."
    ),
    "stale": N_("Not sent yet: something came while you were writing. Read it, then send again."),
    "colleague_answers": N_("Not sent yet: %(name)s is answering this customer right now."),
    "gone_already": N_("Too late: it has been sent."),
    "taken": N_("The ticket is yours."),
    "held_by": N_("It is %(name)s's. Take it over? Then press once more."),
    "assigned": N_("Passed on."),
    "moved": N_("Transferred, with your note."),
    "escalated": N_("Escalated."),
    "held": N_("On hold. The customer was told, and the clocks stand."),
    "resumed": N_("Work goes on."),
    "changed": N_("Saved."),
    "merged": N_("Merged."),
    "elsewhere": N_("Sent in the other channel; the ticket goes on there."),
    "linked": N_("They are one customer now. This can be undone."),
    "unlinked": N_("They are two customers again."),
    "finished": N_("Done. The customer will be asked whether it helped."),
    "resolved": N_("Resolved. The assistant answers this customer again."),
    "closed": N_("Closed."),
    "returned": N_("The customer is with the assistant again."),
    "started_flow": N_("The assistant goes on with these steps."),
    "reopened": N_("Open again."),
    "erased": N_("Erased. The figures stay as they were."),
}


STATUSES = {
    "new": N_("new"),
    "open": N_("open"),
    "waiting_for_customer": N_("waits for customer"),
    "on_hold": N_("on hold"),
    "awaiting_feedback": N_("asked whether it helped"),
    "resolved": N_("resolved"),
    "closed": N_("closed"),
}
EVENTS = {
    "created": N_("made the ticket"),
    "agent_replied": N_("replied"),
    "customer_wrote": N_("wrote"),
    "wrote_elsewhere": N_("wrote in another channel"),
    "not_delivered": N_("noted that a reply did not arrive"),
    "held": N_("put it on hold"),
    "resumed": N_("went on"),
    "feedback_asked": N_("finished"),
    "helped": N_("said that it helped"),
    "not_helped": N_("said that it did not help"),
    "resolved": N_("resolved it"),
    "closed": N_("closed it"),
    "reopened": N_("opened it again"),
    "assigned": N_("gave it to"),
    "unassigned": N_("put it back into the queue"),
    "transferred": N_("transferred it to"),
    "rerouted": N_("routed it by what the customer added, to"),
    "escalated": N_("escalated it"),
    "changed": N_("changed it"),
    "linked": N_("joined customers"),
    "unlinked": N_("took customers apart"),
    "moved": N_("went on in another channel"),
    "warned": N_("warned of a deadline"),
    "breached": N_("noted a missed deadline"),
}


ACTIONS: dict[str, str] = {
    "saw": N_("saw"),
    "replied": N_("replied"),
    "took_back": N_("took a reply back"),
    "edited": N_("changed a reply"),
    "reacted": N_("put a reaction"),
    "noted": N_("wrote a note"),
    "took": N_("took it"),
    "assigned": N_("gave it to"),
    "transferred": N_("transferred it to"),
    "escalated": N_("escalated it"),
    "held": N_("put it on hold"),
    "resumed": N_("went on"),
    "changed": N_("changed it"),
    "finished": N_("finished"),
    "resolved": N_("resolved it"),
    "closed": N_("closed it"),
    "returned": N_("returned it to the assistant"),
    "started_flow": N_("started steps"),
    "merged": N_("merged it"),
    "reopened": N_("opened it again"),
    "exported": N_("exported a customer's data"),
    "erased": N_("erased a customer"),
    "signed_in": N_("signed in"),
    "sign_in_refused": N_("was refused at the sign-in"),
    "session_elsewhere": N_("had a session turn up in another browser"),
    "password_changed": N_("changed the password"),
    "invited": N_("invited"),
    "invitation_taken_back": N_("took an invitation back"),
    "joined": N_("joined"),
    "telegram_linked": N_("linked Telegram"),
    "telegram_unlinked": N_("unlinked Telegram"),
    "person_changed": N_("changed a person"),
    "moved": N_("went on in another channel"),
    "linked": N_("joined customers"),
    "unlinked": N_("took customers apart"),
    "macro_saved": N_("saved a macro"),
    "macro_removed": N_("removed a macro"),
}


def is_mine(me: SignedIn | None) -> Callable[[Any], bool]:
    """Whether a message is the viewer's own."""
    return lambda message: me is not None and message.agent_name == me.viewer.name


def mentions(text: str) -> Markup:
    """An internal note, with the names that it calls."""
    return Markup(re.sub(r"@[\w.-]+(?: [А-ЯЁA-Z][\w.-]+)?", r"<b class=mention>\g<0></b>", str(escape(text))))  # noqa: S704 - escaped


class Unknown(HTTPException):
    """Nobody is signed in: a page sends to the sign-in, and anything else is told so."""

    def __init__(self, wanted: str) -> None:
        super().__init__(401, "no_sign_in")
        self.wanted = wanted


async def on_unknown(request: Request, error: Exception) -> Response:
    wanted = getattr(error, "wanted", PREFIX)
    target = f"{PREFIX}/sign-in?" + urlencode({"next": wanted})
    if is_partial(request) or request.method != "GET":
        return Response(status_code=401, headers={"HX-Redirect": target})
    return RedirectResponse(target, 303)


def is_partial(request: Request) -> bool:
    """Whether a part of a page is asked for, by htmx or by our own script."""
    return request.headers.get("hx-request") == "true" and request.headers.get("hx-history-restore-request") != "true"


def address(request: Request) -> str:
    return request.client.host if request.client else ""


def chosen_language(request: Request) -> str:
    lang = request.query_params.get("lang", "")
    return lang if lang in LANGUAGES else pick_language(request.headers.get("accept-language"))


@cache
def translations(lang: str) -> gettext.NullTranslations:
    """English stands in the templates; other languages are gettext catalogues beside them."""
    if lang == "en":
        return gettext.NullTranslations()
    catalogue = Catalog(locale=lang)
    for path in sorted((HERE / "locale" / lang).glob("*.po")):
        with path.open("rb") as file:
            part = read_po(file, locale=lang)
        for message in part:
            if message.id:
                catalogue[message.id] = message
    compiled = BytesIO()
    write_mo(compiled, catalogue)
    compiled.seek(0)
    return gettext.GNUTranslations(compiled)


@cache
def environment(lang: str) -> Environment:
    made = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.i18n", "jinja2.ext.do"],
    )
    made.install_gettext_translations(translations(lang), newstyle=True)  # type: ignore[attr-defined]
    made.filters["markdown"] = render_markdown
    made.filters["mentions"] = mentions
    made.filters["plain"] = lambda text: re.sub(r"[*_`#>]+", "", str(text))
    made.filters["moment"] = lambda at, zone, now: moment(at, zone, now, lang)
    made.filters["day"] = lambda at, zone: format_date(at.astimezone(zone), "d MMMM", locale=lang)
    made.filters["span"] = lambda seconds: span(float(seconds), lang)
    made.filters["initials"] = lambda name: "".join(word[0] for word in str(name).split()[:2]).upper() or "?"
    made.filters["hue"] = lambda text: sum(map(ord, str(text))) % 6
    return made


def moment(at: datetime, zone: ZoneInfo, now: datetime, lang: str) -> str:
    """The time of today; the day as well of another."""
    local, today = at.astimezone(zone), now.astimezone(zone)
    if local.date() == today.date():
        return f"{local:%H:%M}"
    if local.year == today.year:
        return f"{format_date(local, 'd MMM', locale=lang)}, {local:%H:%M}"
    return f"{format_date(local, 'd MMM y', locale=lang)}, {local:%H:%M}"


def span(seconds: float, lang: str) -> str:
    return str(format_timedelta(timedelta(seconds=abs(seconds)), threshold=1.2, format="narrow", locale=lang))
