"""The review: one text after the other, a key for each choice."""

# No postponed annotations: FastAPI reads those of the routes below, and they name things of their function.
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, time
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Form, Request
from fastapi.responses import RedirectResponse, Response
from sqlalchemy.ext.asyncio import AsyncSession

from bot.desk.accounts import SignedIn
from bot.errors import GapActError
from bot.gaps.review import ARTICLE, INTENT, SKIP, Item, Kind, Reviewer, labelled_since, waiting
from bot.web.desk_base import N_, is_partial
from bot.web.studio_base import PREFIX, Part, StudioWeb, Waiting, fault, words
from bot.web.studio_gaps import PROBLEMS
from kb_index.errors import KnowledgeBaseError
from nlu.errors import NluError
from nlu.library import find_intents
from nlu.training_data import OUT_OF_SCOPE_INTENTS

HERE = f"{PREFIX}/review"
MOST_KEYS = 9
KINDS = {
    Kind.DISAGREE: N_("Intent and search disagree"),
    Kind.UNSURE: N_("The model is unsure"),
    Kind.CORRECTED: N_("An agent corrected the topic"),
    Kind.SUSPECT: N_("The label may be wrong"),
}


@dataclass(frozen=True)
class Choice:
    """value: as `Reviewer.label` takes it. chance: what the model gives it; None: it names none."""

    value: str
    name: str
    chance: float | None


async def _waiting(web: StudioWeb, session: AsyncSession, me: SignedIn) -> Sequence[Waiting]:
    found = await waiting(session, await web.review.doubts())
    return [Waiting(len(found), words(me)(N_("texts wait for a label")), HERE)]


def create_router(web: StudioWeb) -> APIRouter:
    router = APIRouter(prefix=HERE, include_in_schema=False)
    Me = Annotated[SignedIn, Depends(web.signed_in)]  # noqa: N806 - a type

    async def page(
        request: Request, me: SignedIn, kind: Kind | None, *, problem: str = "", said: str = "", status: int = 200
    ) -> Response:
        doubts = await web.review.doubts()
        today = datetime.combine(web.clock().astimezone(web.desk.zone), time(), web.desk.zone)
        async with web.reading() as session:
            every = await waiting(session, doubts)
            intents = [intent.name for intent in await find_intents(session)]
            done = await labelled_since(session, today)
        items = [item for item in every if kind in (None, item.kind)]
        item = items[0] if items else None
        return web.page(
            request,
            "_review_item.html" if is_partial(request) else "review.html",
            me,
            status,
            item=item,
            choices=await choices(item, intents) if item else [],
            intents=[name for name in intents if name not in OUT_OF_SCOPE_INTENTS],
            outside=next((name for name in intents if name in OUT_OF_SCOPE_INTENTS), ""),
            kind=kind,
            kinds=KINDS,
            numbers={each: sum(item.kind is each for item in every) for each in Kind},
            total=len(items),
            done=done,
            problem=problem,
            spoken=said,
        )

    async def choices(item: Item, intents: Sequence[str]) -> list[Choice]:
        """Those that the text may mean, the likeliest first, each once."""
        ranked = dict(await web.review.rank(item.text, item.lang))
        named = [name for name in (item.given, item.suggested) if name]
        likely = dict.fromkeys([*sorted(named, key=lambda name: -ranked.get(name, 0.0)), *ranked])
        if item.article_id and not ranked:
            likely[ARTICLE + item.article_id] = None
        found = []
        for name in likely:
            if name in OUT_OF_SCOPE_INTENTS:
                continue
            if name.startswith(ARTICLE) and not item.key.startswith("example:"):
                found.append(Choice(name, name.removeprefix(ARTICLE), ranked.get(name)))
            elif name in intents:
                found.append(Choice(INTENT + name, name, ranked.get(name)))
        return found[:MOST_KEYS]

    def kind_of(value: str) -> Kind | None:
        return Kind(value) if value in set(Kind) else None

    @router.get("")
    async def review(request: Request, me: Me, kind: str = "") -> Response:
        return await page(request, me, kind_of(kind))

    @router.post("")
    async def label(
        request: Request,
        me: Me,
        item: Annotated[str, Form(max_length=80)],
        choice: Annotated[str, Form(max_length=130)] = "",
        other: Annotated[str, Form(max_length=120)] = "",
        text: Annotated[str, Form(max_length=1000)] = "",
        kind: Annotated[str, Form(max_length=20)] = "",
    ) -> Response:
        wanted = choice or (INTENT + other.strip() if other.strip() else "")
        told = words(me)
        if not wanted:
            return await after(request, me, kind, problem=told(N_("Choose what it means.")))
        doubts = await web.review.doubts()
        try:
            async with web.writing() as session:
                found = next((each for each in await waiting(session, doubts) if each.key == item), None)
                if found is not None:
                    doing = Reviewer(session, by=me.viewer.name, now=web.clock(), address=me.address)
                    await doing.label(found, wanted, text)
        except GapActError as error:
            return await after(request, me, kind, problem=told(PROBLEMS[error.code]))
        except (NluError, KnowledgeBaseError) as error:
            return await after(request, me, kind, problem=fault(error, told))
        if found is None:  # after the transaction: the next page may ask the models
            problem = told(N_("Somebody has labelled it already: this is the next one."))
            return await after(request, me, kind, problem=problem)
        name = wanted.removeprefix(INTENT).removeprefix(ARTICLE)
        said = told(N_("Skipped.")) if wanted == SKIP else told(N_("Labelled: %(name)s")) % {"name": name}
        return await after(request, me, kind, said=said)

    async def after(request: Request, me: SignedIn, kind: str, **said: Any) -> Response:
        if is_partial(request) or said.get("problem"):
            return await page(request, me, kind_of(kind), status=200 if is_partial(request) else 422, **said)
        return RedirectResponse(f"{HERE}?kind={kind}" if kind_of(kind) else HERE, 303)

    @router.post("/undo")
    async def undo(request: Request, me: Me, kind: Annotated[str, Form(max_length=20)] = "") -> Response:
        async with web.writing() as session:
            last = await Reviewer(session, by=me.viewer.name, now=web.clock(), address=me.address).undo()
        told = words(me)
        return await after(
            request, me, kind, said=told(N_("Taken back.")) if last else told(N_("There is nothing to take back."))
        )

    return router


PART = Part(
    path="review",
    title=N_("Review"),
    icon="done",
    create_router=create_router,
    waiting=_waiting,
    actions={
        "reviewed": N_("labelled a text"),
        "review_undone": N_("took a label back"),
    },
)
