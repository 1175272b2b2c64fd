"""Intents in the studio: their examples and outcomes, moved by hand, checked in place, brought in and out."""

# No postponed annotations: FastAPI reads those of the routes below, and they name things of their function.
import asyncio
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Depends, File, Form, Request, UploadFile
from fastapi.responses import Response
from sqlalchemy.ext.asyncio import AsyncSession

from bot.desk.accounts import SignedIn
from bot.intent_means import read_upload
from bot.language import detect
from bot.masking import mask
from bot.web.desk_base import LANGUAGES, N_
from bot.web.guards import Refusal
from bot.web.studio_base import PREFIX, Part, StudioWeb, Waiting, fault, words
from kb_index.errors import ImportSourceError
from kb_index.library import Library
from nlu import library
from nlu.errors import (
    ExampleRefused,
    IntentNameRefused,
    StaleExample,
    StaleIntent,
    TrainingDataError,
    UnknownExample,
    UnknownIntent,
)
from nlu.library import NewExample, StoredExample
from nlu.library_files import plan_data, take_data
from nlu.training_checks import Finding
from nlu.training_writer import to_rasa

MOST_CHARS = 200_000
_PHONE = re.compile(r"(?:\d[\s().\-]{0,2}){9,}")
SHOWN = 300
OUTCOMES = {
    "": N_("the search answers"),
    "article": N_("an article"),
    "reply": N_("a ready reply"),
    "flow": N_("a flow"),
    "handoff": N_("a person"),
}
KINDS = {
    "twice": N_("stands here twice"),
    "contradiction": N_("stands under another intent too"),
    "few": N_("has few examples in a language"),
    "none": N_("has no examples"),
    "none_in": N_("has no examples in a language"),
    "near": N_("is nearly an example of another intent"),
    "foreign": N_("is in another language"),
}
CHANGES = {
    "new_intent": N_("new intents"),
    "gone_intent": N_("intents that go"),
    "outcome": N_("other outcomes"),
    "added": N_("new examples"),
    "removed": N_("examples that go"),
    "conflict": N_("outcomes that differ: the present one stays"),
    "elsewhere": N_("stand under another intent: they stay there"),
    "already": N_("are there already"),
}
ACTIONS = {
    "intent_created": N_("made an intent"),
    "intent_changed": N_("changed an intent"),
    "intent_removed": N_("removed an intent"),
    "intent_restored": N_("brought an intent back"),
    "examples_added": N_("added examples"),
    "example_moved": N_("moved an example"),
    "example_changed": N_("changed an example"),
    "example_removed": N_("removed an example"),
    "example_restored": N_("brought an example back"),
    "intents_imported": N_("imported intents"),
}


def outcome_kind(metadata: Mapping[str, Any]) -> str:
    return next((kind for kind in ("article", "reply", "flow", "handoff") if metadata.get(kind)), "")


def address_of(name: str) -> str:
    return f"{PREFIX}/intents/of/{quote(name)}"


def create_router(web: StudioWeb) -> APIRouter:
    router = APIRouter(prefix=f"{PREFIX}/intents", include_in_schema=False)
    Me = Annotated[SignedIn, Depends(web.signed_in)]  # noqa: N806 - a type
    topics = web.desk.desk.tickets.topics

    def who(me: SignedIn) -> dict[str, Any]:
        return {"by": me.viewer.name, "at": web.clock()}

    def common(me: SignedIn) -> dict[str, Any]:
        say = words(me)
        return {
            "outcome_names": {key: say(text) for key, text in OUTCOMES.items()},
            "kind_names": {key: say(text) for key, text in KINDS.items()},
            "outcome_kind": outcome_kind,
            "address_of": address_of,
            "langs": LANGUAGES,
        }

    def not_back(request: Request, me: SignedIn) -> Response:
        said = N_("Not taken back, because it has been changed since.")
        return web.go(request, f"{PREFIX}/intents", me, said)

    def by_intent(findings: Sequence[Finding]) -> dict[str, list[Finding]]:
        found: dict[str, list[Finding]] = {}
        for finding in findings:
            found.setdefault(finding.intent, []).append(finding)
        return found

    @router.get("")
    async def intents(request: Request, me: Me, q: str = "", only: str = "") -> Response:
        async with web.reading() as session:
            found = await library.find_intents(session, words=q.strip()[:200])
            findings, fresh = await web.intent_checks.findings(session)
        warned = by_intent(findings)
        if only == "warned":
            found = [each for each in found if each.name in warned]
        counts = {name: Counter(each.kind for each in own) for name, own in warned.items()}
        faults = {name: any(each.fault for each in own) for name, own in warned.items()}
        chosen = {"q": q, "only": only}
        return web.page(
            request,
            "intents.html",
            me,
            found=found,
            counts=counts,
            faults=faults,
            fresh=fresh,
            chosen=chosen,
            problem="",
            name="",
            **common(me),
        )

    @router.post("")
    async def create(request: Request, me: Me, name: Annotated[str, Form(max_length=200)] = "") -> Response:
        try:
            async with web.writing() as session:
                made = await library.create_intent(session, name, metadata={}, **who(me))
                web.record(session, me, "intent_created", intent=made.name)
        except IntentNameRefused as error:
            async with web.reading() as session:
                found = await library.find_intents(session)
            return web.page(
                request,
                "intents.html",
                me,
                422,
                found=found,
                counts={},
                faults={},
                fresh=True,
                chosen={"q": "", "only": ""},
                problem=fault(error, words(me)),
                name=name,
                **common(me),
            )
        return web.go(request, address_of(made.name), me, N_("Made. Now give it examples and an outcome."))

    def flows(me: SignedIn) -> list[tuple[str, str]]:
        """Id and title of those that customers may meet."""
        book = web.flows.book().flows if web.flows else {}
        return sorted(((flow.id, flow.title(me.viewer.lang)) for flow in book.values()), key=lambda each: each[1])

    async def page_of(request: Request, me: SignedIn, name: str, status: int = 200, **values: Any) -> Response:
        async with web.reading() as session:
            intent = await library.get_intent(session, name)
            examples = await library.examples_of(session, name)
            every = await library.find_intents(session)
            findings, fresh = await web.intent_checks.findings(session)
            articles = await Library(session, author=me.viewer.name, now=web.clock()).find(lang=me.viewer.lang)
        own = by_intent(findings).get(name, [])
        told: dict[str, list[Finding]] = {}
        for finding in own:
            if finding.text:
                told.setdefault(finding.text, []).append(finding)
        return web.page(
            request,
            "intent.html",
            me,
            status,
            intent=intent,
            metadata=values.pop("metadata", intent.metadata),
            examples={lang: [each for each in examples if each.lang == lang] for lang in _langs(examples)},
            every=[each.name for each in every],
            whole=[finding for finding in own if not finding.text],
            told=told,
            fresh=fresh,
            articles=[(each.article.id, each.article.title) for each in articles],
            flows=await asyncio.to_thread(flows, me),
            reply_names=web.articles.replies.names(),
            personal={each.id for each in examples if _tells_who(each.text)},
            **{"problem": "", "typed": "", "elsewhere": (), "new_name": intent.name, "theirs": None, **values},
            **common(me),
        )

    @router.get("/import")
    async def import_page(request: Request, me: Me) -> Response:
        return web.page(request, "intents_import.html", me, plan=None, key="", problem="", exact=False, **common(me))

    @router.post("/import")
    async def import_plan(
        request: Request,
        me: Me,
        file: Annotated[UploadFile | None, File()] = None,
        key: Annotated[str, Form()] = "",
        exact: Annotated[str, Form()] = "",
        sure: Annotated[str, Form()] = "",
    ) -> Response:
        """Without `sure` only what would be done is shown."""
        plan, problem = None, ""
        try:
            if file is not None and file.filename:
                key = await asyncio.to_thread(web.articles.receive, file.filename, await file.read())
            data = await asyncio.to_thread(read_upload, web.articles.received(key))
            async with web.reading() as session:
                plan = await plan_data(session, data, exact=bool(exact))
        except TrainingDataError as error:
            problem = str(error)
        except ImportSourceError as error:
            problem = f"{error.problem}. {error.remedy}"
        if plan is None or not sure:
            return web.page(
                request,
                "intents_import.html",
                me,
                422 if problem else 200,
                plan=plan,
                key=key,
                problem=problem,
                exact=bool(exact),
                change_names={kind: words(me)(text) for kind, text in CHANGES.items()},
                shown=SHOWN,
                **common(me),
            )
        async with web.writing() as session:
            done = await take_data(session, data, exact=bool(exact), **who(me))
            web.record(session, me, "intents_imported", **done.count())
        counts = done.count()
        return web.go(
            request,
            f"{PREFIX}/intents",
            me,
            N_("Imported: %(added)d examples more, %(removed)d fewer."),
            added=counts.get("added", 0),
            removed=counts.get("removed", 0),
        )

    @router.get("/rasa.yml")
    async def rasa(_me: Me) -> Response:
        """Everything as one Rasa 3.1 file."""
        async with web.reading() as session:
            text = to_rasa(await library.training_data(session))
        headers = {"Content-Disposition": 'attachment; filename="nlu.yml"', "Cache-Control": "no-store"}
        return Response(text, media_type="application/yaml", headers=headers)

    # One intent

    @router.get("/of/{name:path}")
    async def intent(request: Request, name: str, me: Me) -> Response:
        return await page_of(request, me, name)

    @router.post("/change")
    async def change(
        request: Request,
        me: Me,
        name: Annotated[str, Form(max_length=200)],
        revision: Annotated[int, Form(ge=0)],
        new_name: Annotated[str, Form(max_length=200)] = "",
        outcome: Annotated[str, Form()] = "",
        article: Annotated[str, Form(max_length=120)] = "",
        reply: Annotated[str, Form(max_length=120)] = "",
        flow: Annotated[str, Form(max_length=120)] = "",
        handoff: Annotated[str, Form(max_length=120)] = "",
        sensitive: Annotated[str, Form()] = "",
    ) -> Response:
        """Another name, another outcome. What else its metadata says stays."""
        target = {"article": article, "reply": reply, "flow": flow, "handoff": handoff}.get(outcome, "").strip()
        if outcome not in OUTCOMES or (outcome == "handoff" and target not in ("any", *topics.all)):
            raise Refusal("invalid")
        async with web.reading() as session:
            before = await library.get_intent(session, name)
        metadata = {key: value for key, value in before.metadata.items() if key not in (*OUTCOMES, "sensitive")}
        metadata |= ({outcome: target} if target else {}) | ({"sensitive": True} if sensitive else {})
        typed = {"metadata": metadata, "new_name": new_name}
        problem = ""
        if outcome and not target:
            problem = words(me)(N_("Say which: the outcome needs a name."))
        elif outcome == "flow" and target != before.metadata.get("flow"):
            known = await asyncio.to_thread(flows, me)
            if target not in {flow_id for flow_id, _ in known}:
                problem = words(me)(N_("There is no flow %(name)s. Publish it first.")) % {"name": target}
        if problem:
            return await page_of(request, me, name, 422, problem=problem, **(typed | {"metadata": before.metadata}))
        try:
            async with web.writing() as session:
                changed = await library.change_intent(
                    session,
                    name,
                    expected_revision=revision,
                    new_name=new_name.strip() or None,
                    metadata=metadata,
                    **who(me),
                )
                web.record(session, me, "intent_changed", intent=name, now=changed.name, **{outcome: target})
        except StaleIntent:
            if before.metadata == metadata and new_name in ("", name):
                return web.go(request, address_of(name), me, N_("Saved."))  # the same form again
            return await page_of(request, me, name, 409, theirs=before, **typed)
        except IntentNameRefused as error:
            return await page_of(request, me, name, 422, problem=fault(error, words(me)), **typed)
        return web.go(request, address_of(changed.name), me, N_("Saved."))

    @router.post("/remove")
    async def remove(request: Request, me: Me, name: Annotated[str, Form(max_length=200)]) -> Response:
        async with web.writing() as session:
            revision = await library.remove_intent(session, name, **who(me))
            web.record(session, me, "intent_removed", intent=name)
        undo = f"{PREFIX}/intents/restore?name={quote(name, safe='')}&revision={revision}"
        return web.go(request, f"{PREFIX}/intents", me, N_("The intent was removed."), undo=undo)

    @router.post("/restore")
    async def restore(request: Request, me: Me, name: str = "", revision: int = 0) -> Response:
        try:
            async with web.writing() as session:
                await library.restore_intent(session, name, expected_revision=revision, **who(me))
                web.record(session, me, "intent_restored", intent=name)
        except StaleIntent:
            return not_back(request, me)
        return web.go(request, address_of(name), me, N_("Taken back."))

    # Its examples

    @router.post("/add")
    async def add(
        request: Request,
        me: Me,
        name: Annotated[str, Form(max_length=200)],
        texts: Annotated[str, Form()] = "",
        lang: Annotated[str, Form(pattern="^(|ru|en)$")] = "",
    ) -> Response:
        if len(texts) > MOST_CHARS:
            raise Refusal("too_large")
        lines = [line.strip().removeprefix("- ") for line in texts.splitlines() if line.strip()]
        try:
            async with web.writing() as session:
                new = [NewExample(line, lang or detect(line)) for line in lines]
                added = await library.add_examples(session, name, new, **who(me))
                if added.added:
                    web.record(session, me, "examples_added", intent=name, number=len(added.added))
        except (ExampleRefused, TrainingDataError) as error:
            return await page_of(request, me, name, 422, problem=fault(error, words(me)), typed=texts)
        if added.elsewhere:
            return await page_of(request, me, name, elsewhere=added.elsewhere)
        return web.go(
            request,
            address_of(name),
            me,
            N_("Added: %(added)d. There already: %(already)d."),
            added=len(added.added),
            already=len(added.already),
        )

    @router.post("/example/{example_id}/move")
    async def move(request: Request, example_id: int, me: Me, to: Annotated[str, Form(max_length=200)]) -> Response:
        async with web.writing() as session:
            before = await library.get_example(session, example_id)
            moved = await library.move_example(session, example_id, to, **who(me))
            web.record(session, me, "example_moved", text=before.text[:80], out_of=before.intent, to=to)
        undo = f"{PREFIX}/intents/example/{example_id}/back?to={quote(before.intent, safe='')}&seen={moved.stamp}"
        if "hx-request" not in request.headers:
            return web.go(request, address_of(to), me, N_("Moved to %(to)s."), undo=undo, to=to)
        return web.told(Response(""), me, N_("Moved to %(to)s."), undo=undo, to=to)

    @router.post("/example/{example_id}/back")
    async def move_back(request: Request, example_id: int, me: Me, to: str = "", seen: str = "") -> Response:
        try:
            async with web.writing() as session:
                example = await library.move_example(session, example_id, to, stamp=seen, **who(me))
                web.record(session, me, "example_moved", text=example.text[:80], to=to)
        except (StaleExample, UnknownExample, UnknownIntent):
            return not_back(request, me)
        return web.go(request, address_of(to), me, N_("Taken back."))

    @router.post("/example/{example_id}/change")
    async def change_example(
        request: Request, example_id: int, me: Me, text: Annotated[str, Form(max_length=5000)]
    ) -> Response:
        try:
            async with web.writing() as session:
                example = await library.change_example(session, example_id, text, **who(me))
                web.record(session, me, "example_changed", intent=example.intent, text=example.text[:80])
        except (ExampleRefused, TrainingDataError) as error:
            async with web.reading() as session:
                example = await library.get_example(session, example_id)
            return await page_of(request, me, example.intent, 422, problem=fault(error, words(me)))
        return web.go(request, address_of(example.intent), me, N_("Saved."))

    @router.post("/example/{example_id}/remove")
    async def remove_example(request: Request, example_id: int, me: Me) -> Response:
        async with web.writing() as session:
            example = await library.remove_example(session, example_id, **who(me))
            web.record(session, me, "example_removed", intent=example.intent, text=example.text[:80])
        undo = f"{PREFIX}/intents/example/{example_id}/restore"
        if "hx-request" not in request.headers:
            return web.go(request, address_of(example.intent), me, N_("The example was removed."), undo=undo)
        return web.told(Response(""), me, N_("The example was removed."), undo=undo)

    @router.post("/example/{example_id}/restore")
    async def restore_example(request: Request, example_id: int, me: Me) -> Response:
        try:
            async with web.writing() as session:
                example = await library.restore_example(session, example_id, **who(me))
                web.record(session, me, "example_restored", intent=example.intent, text=example.text[:80])
        except StaleExample:
            return not_back(request, me)
        return web.go(request, address_of(example.intent), me, N_("Taken back."))

    return router


def _tells_who(text: str) -> bool:
    """Whether a mail address, a user's name or a telephone number seems to stand in it."""
    masked = mask(text)
    return "<email>" in masked or "<user>" in masked or bool(_PHONE.search(text))


def _langs(examples: Sequence[StoredExample]) -> list[str | None]:
    """Both languages, and whatever else there is."""
    others = {each.lang for each in examples} - set(LANGUAGES)
    return [*LANGUAGES, *sorted(others, key=str)]


async def _waiting(web: StudioWeb, session: AsyncSession, me: SignedIn) -> Sequence[Waiting]:
    findings, _ = await web.intent_checks.findings(session)
    say = words(me)
    faults = sum(finding.fault for finding in findings)
    few = len({finding.intent for finding in findings if finding.kind in ("few", "none", "none_in")})
    address = f"{PREFIX}/intents?only=warned"
    return [
        Waiting(faults, say(N_("examples that contradict one another")), address, urgent=True),
        Waiting(few, say(N_("intents with too few examples")), address),
    ]


PART = Part("intents", N_("Intents"), "spark", create_router, _waiting, ACTIONS)
