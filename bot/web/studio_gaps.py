"""The gaps: groups of messages that the assistant did not settle, and what an editor does about them."""

# No postponed annotations: FastAPI reads those of the routes below, and they name things of their function.
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Form, Request
from fastapi.responses import Response
from sqlalchemy.ext.asyncio import AsyncSession

from bot.desk.accounts import SignedIn
from bot.errors import GapActError, NoGapError
from bot.gaps import gaps
from bot.gaps.acts import MOST_EXAMPLES, GapActs, Text, teachable
from bot.gaps.gaps import Asked, Order, Query, Sheet, View
from bot.gaps.records import Ended, GapAct, GapState, Settlement
from bot.language import LANGUAGES
from bot.web.desk_base import N_
from bot.web.guards import Refusal
from bot.web.studio_articles import RESERVED
from bot.web.studio_base import PREFIX, Part, StudioWeb, Waiting, fault, words
from kb_index.articles import Article
from kb_index.errors import KnowledgeBaseError
from nlu.errors import NluError
from nlu.library import find_intents

HERE = f"{PREFIX}/gaps"
MOST_OFFERED = 6
MOST_SOURCES = 6
"""So many agents' replies are compared with articles for one page: each is a search."""
MAX_WORDS = 200
ENDED = {
    Ended.UNANSWERED: N_("asked to say it otherwise"),
    Ended.CLARIFIED: N_("asked what is meant"),
    Ended.REJECTED: N_("the answer did not help"),
    Ended.HANDED_OFF: N_("handed to a person"),
    Ended.BY_INTENT: N_("handed over as its intent says"),
}
DONE = {
    Settlement.ARTICLE: N_("article written"),
    Settlement.EXAMPLES: N_("given to an intent"),
    Settlement.QUESTION: N_("given to an article"),
    Settlement.OUT_OF_SCOPE: N_("out of scope"),
    Settlement.DISMISSED: N_("dismissed"),
}
ACTS = {
    **{settlement.value: text for settlement, text in DONE.items()},
    "join": N_("joined with others"),
    "split": N_("messages split off"),
    "rename": N_("renamed"),
    "reopen": N_("opened again"),
}
PROBLEMS = {
    "taken": N_("There is an article of this id already. Choose another one."),
    "no_article": N_("There is no such article."),
    "no_reason": N_("Say why nothing is to be done."),
    "no_other": N_("Choose at least one other group."),
    "no_part": N_("Choose some of the messages, and not all."),
    "no_title": N_("A name has at least one letter."),
    "no_texts": N_("Choose at least one message."),
    "many_texts": N_("Choose fewer messages: those that are alike teach nothing."),
    "settled": N_("Somebody has dealt with it already. This is how it is now."),
    "not_settled": N_("It is open already."),
    "undone": N_("This was taken back already."),
    "not_last": N_("Something was done since. Take that back first."),
    "elsewhere": N_("Another intent has these words already. Open it there, and move them if they are wrong there."),
}


def read_query(params: Mapping[str, str]) -> Query:
    """From an address. What is not known in it counts as not there."""
    view, order, page = params.get("view", ""), params.get("order", ""), params.get("page", "")
    return Query(
        view=View(view) if view in set(View) else View.OPEN,
        order=Order(order) if order in set(Order) else Order.COUNT,
        words=params.get("words", "").strip()[:MAX_WORDS],
        lang=lang if (lang := params.get("lang", "")) in LANGUAGES else "",
        ended=ended if (ended := params.get("ended", "")) in set(ENDED) else "",
        page=min(int(page), 10_000) if page.isdecimal() else 0,
    )


def write_query(query: Query, **changes: Any) -> str:
    values = {field.name: getattr(query, field.name) for field in fields(Query)} | changes
    return urlencode({name: value for name, value in values.items() if value})


async def waiting(_web: StudioWeb, session: AsyncSession, me: SignedIn) -> Sequence[Waiting]:
    groups, _ = await gaps.counts(session)
    return [Waiting(groups, words(me)(N_("groups of questions without an answer")), HERE)]


def create_router(web: StudioWeb) -> APIRouter:
    router = APIRouter(prefix=HERE, include_in_schema=False)
    Me = Annotated[SignedIn, Depends(web.signed_in)]  # noqa: N806 - a type

    def acts(session: AsyncSession, me: SignedIn) -> GapActs:
        return GapActs(session, by=me.viewer.name, now=web.clock(), address=me.address)

    @router.get("")
    async def all_gaps(request: Request, me: Me) -> Response:
        query = read_query(request.query_params)
        async with web.reading() as session:
            found = await gaps.find(session, query, now=web.clock())
        return web.page(
            request,
            "gaps.html",
            me,
            found=found,
            query=query,
            write=write_query,
            views=View,
            orders=Order,
            endings=ENDED,
            done=DONE,
            tally=await tally_now(),
            problem="",
        )

    async def tally_now() -> tuple[int, int]:
        async with web.reading() as session:
            return await gaps.counts(session)

    @router.get("/tally")
    async def tally(request: Request, me: Me) -> Response:
        return web.page(request, "gaps_tally.html", me, tally=await tally_now())

    @router.post("/join")
    async def join(request: Request, me: Me) -> Response:
        form = await request.form()
        ids = [int(value) for value in form.getlist("gap") if isinstance(value, str) and value.isdecimal()]
        if len(ids) < 2:
            return web.go(request, HERE, me, N_("Choose at least two groups to join."))
        try:
            async with web.writing() as session:
                done = acts(session, me)
                await done.join(ids[0], ids[1:])
                act = await last_act(session, ids[0])
        except GapActError as error:
            return web.go(request, HERE, me, PROBLEMS[error.code])
        except NoGapError as error:
            raise Refusal("not_found") from error
        return web.go(request, f"{HERE}/{ids[0]}", me, N_("The groups are one now."), undo=undo_of(act))

    @router.get("/{gap_id}")
    async def one_gap(request: Request, gap_id: int, me: Me) -> Response:
        return await show(request, gap_id, me)

    async def show(request: Request, gap_id: int, me: SignedIn, problem: str = "", status: int = 200) -> Response:
        async with web.reading() as session:
            found = await sheet(session, gap_id)
            intents = await find_intents(session)
            others = await gaps.names(session, but=gap_id)
        offered = await offers(found)
        leads = {intent.metadata.get("article"): intent.name for intent in intents}
        likely = next((leads[each.id] for each in offered if each.id in leads), "")
        usual = [each.intent for each in found.asked if each.intent]
        return web.page(
            request,
            "gap.html",
            me,
            status,
            sheet=found,
            line=found.line,
            shown=[each for number in found.typical for each in found.asked if each.id == number],
            rest=[each for each in found.asked if each.id not in found.typical],
            sources=await sources(found),
            intents=[intent.name for intent in intents],
            intent=likely or (max(set(usual), key=usual.count) if usual else ""),
            offered=offered,
            others=others,
            teachable=teachable,
            endings=ENDED,
            done=DONE,
            acts=ACTS,
            GapState=GapState,
            problem=words(me)(problem) if problem in PROBLEMS.values() else problem,
        )

    async def sheet(session: AsyncSession, gap_id: int) -> Sheet:
        try:
            return await gaps.sheet(session, gap_id, now=web.clock())
        except NoGapError as error:
            raise Refusal("not_found") from error

    async def offers(found: Sheet) -> list[Any]:
        """The articles that fit the typical messages, the most frequent first."""
        points: dict[str, float] = {}
        known: dict[str, Any] = {}
        by_id = {each.id: each for each in found.asked}
        for number in found.typical[:3]:
            each = by_id[number]
            for article in await web.desk.articles(each.text, each.lang, MOST_OFFERED):
                known.setdefault(article.id, article)
                points[article.id] = points.get(article.id, 0.0) + article.confidence
        return sorted(known.values(), key=lambda article: -points[article.id])[:MOST_OFFERED]

    async def sources(found: Sheet) -> dict[int, str]:
        """Message → the article that its agent answered with, of the newest that were answered."""
        wrote: dict[int, str] = {}
        answered = [(each, reply) for each in found.asked for reply in each.replies[:2]]
        for each, reply in answered[:MOST_SOURCES]:
            near = await web.desk.articles(reply.text[:600], each.lang, 2)
            name = gaps.used(reply.text, {article.id: article.text for article in near})
            if name:
                wrote[each.id] = name
        return wrote

    @router.get("/{gap_id}/article")
    async def draft(request: Request, gap_id: int, me: Me) -> Response:
        async with web.reading() as session:
            found = await sheet(session, gap_id)
        return article_page(request, me, found, **drafted(found))

    def article_page(request: Request, me: SignedIn, found: Sheet, status: int = 200, **typed: Any) -> Response:
        blank = {"problem": "", "langs": LANGUAGES, "replies": gaps.distinct_replies(found.asked, 5)}
        return web.page(request, "gap_article.html", me, status, line=found.line, **{**blank, **typed})

    @router.post("/{gap_id}/article")
    async def make_article(
        request: Request,
        gap_id: int,
        me: Me,
        article_id: Annotated[str, Form(max_length=120)] = "",
        lang: Annotated[str, Form(pattern="^(ru|en)$")] = "ru",
        title: Annotated[str, Form(max_length=300)] = "",
        topic: Annotated[str, Form(max_length=64)] = "",
        body: Annotated[str, Form(max_length=50_000)] = "",
        questions: Annotated[str, Form(max_length=50_000)] = "",
        publish: Annotated[str, Form()] = "",
    ) -> Response:
        asked = [line.strip() for line in questions.splitlines() if line.strip()][:MOST_EXAMPLES]
        body = body.replace("\r\n", "\n").strip()
        typed = {
            "article_id": article_id.strip(),
            "article_lang": lang,
            "title": " ".join(title.split()),
            "topic": topic,
            "body": body,
            "questions": asked,
        }
        problem = ""
        if not typed["title"] or not body:
            problem = words(me)(N_("An article needs a title and a text."))
        elif not re.fullmatch(r"[\w.-]{1,120}", article_id.strip()) or not article_id.strip(". "):
            problem = words(me)(N_("An id has letters, digits, `-`, `_` and `.` alone."))
        else:
            article = Article(
                id=article_id.strip(),
                lang=lang,
                title=str(typed["title"]),
                body=body,
                topic=topic,
                questions=tuple(asked),
                status="published" if publish else "draft",
            )
            try:
                if article.id in RESERVED:
                    raise GapActError(gap_id, "taken", f"{article.id} is a page of the studio")
                async with web.writing() as session:
                    await acts(session, me).make_article(gap_id, article)
                    act = await last_act(session, gap_id)
                if publish:
                    web.articles.show()
                told = N_("The article answers from now on.") if publish else N_("The draft is saved.")
                return web.go(request, f"{PREFIX}/articles/{article.id}", me, told, undo=undo_of(act))
            except NoGapError as error:
                raise Refusal("not_found") from error
            except GapActError as error:
                problem = words(me)(PROBLEMS[error.code])
            except KnowledgeBaseError as error:
                problem = fault(error, words(me))
        async with web.reading() as session:
            found = await sheet(session, gap_id)
        return article_page(request, me, found, 422, **{**typed, "problem": problem})

    @router.post("/{gap_id}/{act}")
    async def do(request: Request, gap_id: int, act: str, me: Me) -> Response:
        form = await request.form()
        values = {name: str(value) for name, value in form.items()}
        used = [int(value) for value in form.getlist("use") if isinstance(value, str) and value.isdecimal()]
        texts = [
            Text(values[f"text-{number}"], values.get(f"lang-{number}", "ru")[:8])
            for number in used
            if values.get(f"text-{number}", "").strip()
        ]
        target, told = f"{HERE}/{gap_id}", N_("Done.")
        try:
            async with web.writing() as session:
                doing = acts(session, me)
                match act:
                    case "examples":
                        added = await doing.add_examples(gap_id, values.get("intent", ""), texts)
                        told = N_("Learnt with the next training: %(added)d examples.")
                        counted = len(added.added)
                    case "questions":
                        counted = await doing.add_questions(gap_id, values.get("article_id", ""), texts)
                        told = N_("Found from now on: %(added)d questions.")
                    case "out-of-scope":
                        await doing.out_of_scope(gap_id, texts if values.get("learn") else ())
                        counted, told = 0, N_("Marked as out of scope.")
                    case "dismiss":
                        await doing.dismiss(gap_id, values.get("reason", ""))
                        counted, told = 0, N_("Dismissed.")
                    case "reopen":
                        await doing.reopen(gap_id)
                        counted, told = 0, N_("Open again.")
                    case "rename":
                        await doing.rename(gap_id, values.get("title", ""))
                        counted, told = 0, N_("Renamed.")
                    case "split":
                        made = await doing.split(gap_id, used)
                        counted, told = made, N_("Group %(added)d was made of them.")
                    case "join":
                        other = values.get("other", "")
                        await doing.join(gap_id, [int(other)] if other.isdecimal() else [])
                        counted, told = 0, N_("The groups are one now.")
                    case _:
                        raise Refusal("not_found")
                undo = undo_of(await last_act(session, gap_id))
        except NoGapError as error:
            raise Refusal("not_found") from error
        except GapActError as error:
            return await show(request, gap_id, me, PROBLEMS[error.code], 409 if error.code == "settled" else 422)
        except (NluError, KnowledgeBaseError) as error:
            return await show(request, gap_id, me, fault(error, words(me)), 422)
        if act == "questions":
            web.articles.show()
        return web.go(request, target, me, told, undo=undo, added=counted)

    @router.post("/acts/{act_id}/undo")
    async def undo(request: Request, act_id: int, me: Me) -> Response:
        try:
            async with web.writing() as session:
                act = await acts(session, me).undo(act_id)
        except NoGapError as error:
            raise Refusal("not_found") from error
        except GapActError as error:
            return web.go(request, f"{HERE}/{error.gap_id}", me, PROBLEMS[error.code])
        if act.act in (Settlement.ARTICLE, Settlement.QUESTION):
            web.articles.show()
        return web.go(request, f"{HERE}/{act.gap_id}", me, N_("Taken back."))

    return router


async def last_act(session: AsyncSession, gap_id: int) -> GapAct:
    await session.flush()
    return await gaps.last_act(session, gap_id)


def undo_of(act: GapAct) -> str:
    return f"{HERE}/acts/{act.id}/undo"


def drafted(found: Sheet) -> dict[str, Any]:
    """An article as the agents' answers would have it."""
    by_id = {each.id: each for each in found.asked}
    typical: list[Asked] = [by_id[number] for number in found.typical]
    lang = max(found.line.langs, key=lambda each: found.line.langs[each])
    title = next((each.text for each in typical if each.lang == lang), found.line.title)
    replies = gaps.distinct_replies([each for each in found.asked if each.lang == lang] or found.asked, 1)
    return {
        "article_id": "",
        "article_lang": lang if lang in LANGUAGES else "ru",
        "title": " ".join(title.split())[:120],
        "topic": "",
        "body": replies[0].text if replies else "",
        "questions": list(dict.fromkeys(teachable(each.text) for each in typical)),
    }


PART = Part(
    path="gaps",
    title=N_("Gaps"),
    icon="inbox",
    create_router=create_router,
    waiting=waiting,
    actions={
        "gap_article": N_("wrote an article for a group of questions"),
        "gap_examples": N_("gave a group of questions to an intent"),
        "gap_question": N_("gave a group of questions to an article"),
        "gap_out_of_scope": N_("marked a group of questions as out of scope"),
        "gap_dismissed": N_("dismissed a group of questions"),
        "gap_reopen": N_("opened a group of questions again"),
        "gap_join": N_("joined groups of questions"),
        "gap_split": N_("split a group of questions"),
        "gap_rename": N_("renamed a group of questions"),
        "gap_undo": N_("took back what was done to a group of questions"),
    },
)
