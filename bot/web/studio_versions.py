"""Versions: train a candidate, read what the gate says of it, try it out, publish it, go back; gold questions; topics
that the assistant only drafts for."""

# No postponed annotations: FastAPI reads those of the routes below, and they name things of their function.
import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Form, Request
from fastapi.responses import Response
from sqlalchemy.ext.asyncio import AsyncSession

from bot.desk.accounts import SignedIn
from bot.errors import GoldError, RefusedError
from bot.language import LANGUAGES
from bot.masking import mask
from bot.models.canary import GOOD, side_by_side
from bot.models.gate import Change, Reason, Report
from bot.models.gold import NewGold, add_gold, list_gold, remove_gold
from bot.models.records import Expecting, Release, TrainingJob, TrainingState
from bot.models.releases import MOST_REASON, ModelMeans, load_report
from bot.models.shadow import READY_DRAFTS, READY_SHARE, drafts_by_topic, switch
from bot.models.training_jobs import ask, cancel, current, newest
from bot.web.desk_base import N_
from bot.web.guards import Refusal
from bot.web.studio_base import PREFIX, Part, StudioWeb, Waiting, words
from handoff.access import Role
from kb_index.library import Library
from nlu.errors import LiveChanged, ModelDamaged, ModelNotFound, NluError
from nlu.library import NewExample, add_examples, find_intents
from nlu.models import InUse, ModelVersion

HERE = f"{PREFIX}/versions"
SHARES = (0.01, 0.05, 0.1, 0.25, 0.5)
SHOWN = 100
"""So many changed outcomes stand on the page."""
MEASURES = {
    "right": N_("rightly settled"),
    "wrong": N_("given a wrong article"),
    "answered": N_("answered"),
    "clarified": N_("asked back"),
    "handed_off": N_("handed over"),
    "contained": N_("settled without a person"),
    "confirmed": N_("the customer said that it helped"),
    "rejected": N_("the answer was rejected"),
    "abandoned": N_("left without an answer"),
    "returned": N_("came back with the same matter"),
}
STATES = {
    "live": N_("live"),
    "canary": N_("on trial"),
    "former": N_("was live"),
    "candidate": N_("not judged yet"),
    "accepted": N_("passed the gate"),
    "refused": N_("refused"),
}
STAGES = {
    "": N_("is about to begin"),
    "starting": N_("reading articles and examples"),
    "intents": N_("learning the intents"),
    "ranker": N_("learning to order articles"),
    "routing": N_("learning the topics of tickets"),
    "writing": N_("writing the version"),
    "judging": N_("asking both versions the gold questions and recent messages"),
    "over": N_("finishing"),
}
REASONS = {
    "worse": N_("Worse beyond noise: %(test)s. Lost %(lost)s, won %(won)s; by chance with probability %(p)s."),
    "protected": N_("A protected question is not answered as it must be: “%(text)s”."),
    "swapped": N_("The examples of %(one)s and %(other)s look swapped: each has most of the other's."),
}
TESTS = {"right": N_("questions rightly settled"), "misleads": N_("questions not given a wrong article")}
EXPECTED = {
    Expecting.ARTICLE: N_("answered with"),
    Expecting.INTENT: N_("taken for"),
    Expecting.PERSON: N_("handed over to a person"),
    Expecting.NOTHING: N_("not answered with an article"),
}
DEEDS = {
    "answer": N_("answers"),
    "clarify": N_("asks back"),
    "handoff": N_("hands over"),
    "reply": N_("replies"),
    "flow": N_("begins a flow"),
}
ACTS = {
    "published": N_("put live"),
    "tried": N_("tried out"),
    "ended": N_("ended the trial of"),
    "rolled_back": N_("went back to"),
}


@dataclass(frozen=True)
class Row:
    """A version as the list shows it."""

    version: ModelVersion
    state: str
    report: Report | None
    share: float | None


def state_of(version: ModelVersion, in_use: InUse, report: Report | None) -> str:
    if version.id == in_use.live:
        return "live"
    if in_use.canary and version.id == in_use.canary.id:
        return "canary"
    if version.id in in_use.history:
        return "former"
    if report is None:
        return "candidate"
    return "accepted" if report.accepted else "refused"


def create_router(web: StudioWeb) -> APIRouter:
    router = APIRouter(prefix=HERE, include_in_schema=False)
    Me = Annotated[SignedIn, Depends(web.signed_in)]  # noqa: N806 - a type

    def means() -> ModelMeans:
        if web.models is None:
            raise Refusal("not_found")
        return web.models

    def rows() -> list[Row]:
        store = means().store
        in_use = store.in_use()
        found = []
        for version in reversed(store.versions()):
            report = load_report(version.path)
            state = state_of(version, in_use, report)
            share = in_use.canary.share if in_use.canary and state == "canary" else None
            found.append(Row(version, state, report, share))
        return found

    def find(version_id: str) -> ModelVersion:
        try:
            return means().store.show(version_id)
        except (ModelNotFound, ModelDamaged) as error:
            raise Refusal("not_found") from error

    @router.get("")
    async def versions(request: Request, me: Me) -> Response:
        found = await asyncio.to_thread(rows)
        on_trial = next((row for row in found if row.state == "canary"), None)
        live = next((row for row in found if row.state == "live"), None)
        async with web.reading() as session:
            library = Library(session, author=me.viewer.name, now=web.clock())
            drafts = await library.unpublished(limit=200)
            jobs = await newest(session, 1)
            history = await means().releases.history(session, 20)
            sides = None
            if on_trial is not None and live is not None:
                sides = await _sides(web, session, history, live.version.id, on_trial.version.id)
        return web.page(
            request,
            "versions.html",
            me,
            rows=found,
            live=live,
            on_trial=on_trial,
            lost=canary if on_trial is None and (canary := means().store.in_use().canary) is not None else None,
            can_go_back=len(means().store.in_use().history) > 1,
            drafts=drafts,
            job=jobs[0] if jobs else None,
            history=history,
            sides=sides,
            **_words(me),
        )

    @router.get("/training")
    async def training(request: Request, me: Me) -> Response:
        async with web.reading() as session:
            jobs = await newest(session, 1)
        answer = web.page(request, "_version_training.html", me, job=jobs[0] if jobs else None, **_words(me))
        if not jobs or jobs[0].state not in (TrainingState.QUEUED, TrainingState.RUNNING):
            answer.headers["HX-Refresh"] = "true"  # the list has another version by now
        return answer

    @router.post("/train")
    async def train(request: Request, me: Me, article: Annotated[list[str] | None, Form()] = None) -> Response:
        chosen = [tuple(each.split("|", 1)) for each in article or () if "|" in each]
        async with web.writing() as session:
            job, new = await ask(
                session, by=me.viewer.name, at=web.clock(), articles=[(name, lang) for name, lang in chosen]
            )
            if new:
                web.record(session, me, "training_asked", job=job.id, articles=len(chosen))
        return web.go(
            request, HERE, me, "" if new else N_("A training runs already: a new one can begin when it is over.")
        )

    @router.post("/train/cancel")
    async def cancel_training(request: Request, me: Me) -> Response:
        async with web.writing() as session:
            job = await current(session)
            if job is not None and await cancel(session, job.id, at=web.clock()) is not None:
                web.record(session, me, "training_cancelled", job=job.id)
        return web.go(request, HERE, me, N_("The training is being stopped. What answers customers stays as it is."))

    @router.post("/rollback")
    async def rollback(request: Request, me: Me, live: Annotated[str, Form(max_length=80)] = "") -> Response:
        try:
            done = await means().releases.rollback(by=me.viewer.name, live=live or None)
        except LiveChanged:
            return web.go(request, HERE, me, N_("Another version was made live meanwhile. This is how it is now."))
        except ModelNotFound:
            return web.go(request, HERE, me, N_("No version was live before this one."))
        await note(me, "version_rolled_back", version=done.version)
        left = ", ".join(f"{name} ({lang})" for name, lang in done.left)
        if left:
            return web.go(
                request,
                HERE,
                me,
                N_("The version before answers again. These articles were edited since and stay: %(left)s."),
                left=left,
            )
        return web.go(request, HERE, me, N_("The version before answers again."))

    @router.post("/end")
    async def end_trial(request: Request, me: Me) -> Response:
        ended = await means().releases.end_trial(by=me.viewer.name)
        if ended:
            await note(me, "trial_ended", version=ended)
        return web.go(request, HERE, me, N_("The live version answers everybody."))

    async def note(me: SignedIn, action: str, **details: Any) -> None:
        async with web.writing() as session:
            web.record(session, me, action, **details)

    # Gold questions

    @router.get("/questions")
    async def questions(request: Request, me: Me) -> Response:
        return await questions_page(request, me)

    async def questions_page(request: Request, me: SignedIn, problem: GoldError | None = None) -> Response:
        async with web.reading() as session:
            library = Library(session, author=me.viewer.name, now=web.clock())
            names = sorted({each.article.id for each in await library.find()})
            known = await list_gold(session)
        form = dict(await request.form()) if problem else {}
        return web.page(
            request,
            "version_questions.html",
            me,
            422 if problem else 200,
            questions=known,
            article_ids=names,
            problem=problem,
            form=form,
            **_words(me),
        )

    @router.post("/questions")
    async def add_question(
        request: Request,
        me: Me,
        text: Annotated[str, Form()] = "",
        lang: Annotated[str, Form()] = "",
        expects: Annotated[str, Form()] = "",
        right: Annotated[str, Form()] = "",
        protected: Annotated[str, Form()] = "",
        note: Annotated[str, Form()] = "",
        back: Annotated[str, Form()] = "",
    ) -> Response:
        if expects not in {each.value for each in Expecting}:
            raise Refusal("invalid")
        named = tuple(each.strip() for each in right.split(",") if each.strip())
        new = NewGold(text, lang, Expecting(expects), named, protected=bool(protected), note=note)
        try:
            async with web.writing() as session:
                row = await add_gold(session, new, by=me.viewer.name, at=web.clock())
                web.record(session, me, "gold_added", question=row.id, protected=new.protected)
        except GoldError as error:
            return await questions_page(request, me, error)
        target = back if back.startswith(f"{HERE}/") and "//" not in back else f"{HERE}/questions"
        return web.go(request, target, me, N_("Kept. From the next candidate on, the gate asks it."))

    @router.post("/questions/{question_id}/remove")
    async def remove_question(request: Request, question_id: int, me: Me) -> Response:
        async with web.writing() as session:
            row = await remove_gold(session, question_id)
            if row is not None:
                web.record(session, me, "gold_removed", text=row.text[:200], protected=row.protected)
        return web.go(request, f"{HERE}/questions", me, N_("Removed."))

    # Topics that the assistant only drafts for

    @router.get("/shadow")
    async def shadow(request: Request, me: Me) -> Response:
        topics = web.desk.desk.tickets.topics
        async with web.reading() as session:
            found = await drafts_by_topic(session, [topic for topic in topics.all if topic != topics.default.id])
        return web.page(
            request,
            "version_shadow.html",
            me,
            found=found,
            ready_share=READY_SHARE,
            ready_drafts=READY_DRAFTS,
            **_words(me),
        )

    @router.post("/shadow")
    async def switch_shadow(
        request: Request, me: Me, topic: Annotated[str, Form()] = "", on: Annotated[str, Form()] = ""
    ) -> Response:
        if topic not in web.desk.desk.tickets.topics.all:
            raise Refusal("invalid")
        async with web.writing() as session:
            if await switch(session, topic, on=bool(on), by=me.viewer.name, at=web.clock()):
                web.record(session, me, "shadow_on" if on else "shadow_off", topic=topic)
        said = (
            N_("From now on the assistant only drafts here.") if on else N_("From now on the assistant answers here.")
        )
        return web.go(request, f"{HERE}/shadow", me, said)

    @router.post("/examples")
    async def add_example(
        request: Request,
        me: Me,
        intent: Annotated[str, Form()] = "",
        text: Annotated[str, Form()] = "",
        lang: Annotated[str, Form()] = "",
        back: Annotated[str, Form()] = "",
    ) -> Response:
        target = back if back.startswith(f"{HERE}/") and "//" not in back else HERE
        try:
            async with web.writing() as session:
                new = NewExample(mask(text), lang if lang in LANGUAGES else None)
                added = await add_examples(session, intent, [new], by=me.viewer.name, at=web.clock())
                web.record(session, me, "example_from_gate", intent=intent, added=len(added.added))
        except NluError:
            return web.go(request, target, me, N_("Not added: there is no such intent, or the text is no example."))
        if not added.added:
            return web.go(request, target, me, N_("Not added: these words are an example already."))
        return web.go(request, target, me, N_("Added. The next candidate learns it."))

    # One version

    @router.get("/{version_id}")
    async def version_page(request: Request, version_id: str, me: Me, kind: str = "") -> Response:
        version = find(version_id)
        in_use = means().store.in_use()
        report = load_report(version.path)
        changes = [each for each in report.changes if kind in ("", each.kind)] if report else []
        async with web.reading() as session:
            asked = {row.text for row in await list_gold(session)}
            intents = [intent.name for intent in await find_intents(session)] if changes else []
        outdated = report is not None and report.against not in (in_use.live, None) and version_id != in_use.live
        return web.page(
            request,
            "version.html",
            me,
            row=Row(version, state_of(version, in_use, report), report, None),
            in_use=in_use,
            report=report,
            outdated=outdated,
            reasons=[_reason(each, me) for each in report.reasons] if report else [],
            changes=changes[:SHOWN],
            more=max(0, len(changes) - SHOWN),
            kind=kind,
            kept=asked,
            intents=intents,
            shares=SHARES,
            may_override=me.viewer.role is Role.ADMIN,
            suggestion=_suggestion,
            **_words(me),
        )

    @router.get("/{version_id}/calibration.svg")
    async def calibration(version_id: str, me: Me, dark: str = "") -> Response:
        report = load_report(find(version_id).path)
        if report is None:
            raise Refusal("not_found")
        # Takes a second to import, and most starts never need it.
        from bot.desk.charts import draw_calibration

        say = words(me)
        names = {
            "live": say(N_("live")),
            "candidate": say(N_("this version")),
            "confidence": say(N_("confidence")),
            "right": say(N_("share right")),
        }
        drawn = await asyncio.to_thread(draw_calibration, report, names, dark=bool(dark))
        return Response(drawn, media_type="image/svg+xml", headers={"Cache-Control": "private, max-age=30"})

    def override(me: SignedIn, reason: str) -> str:
        reason = " ".join(reason.split())[:MOST_REASON]
        if reason and me.viewer.role is not Role.ADMIN:
            raise Refusal("forbidden")
        return reason

    @router.post("/{version_id}/publish")
    async def publish(request: Request, version_id: str, me: Me, reason: Annotated[str, Form()] = "") -> Response:
        find(version_id)
        reason = override(me, reason)
        try:
            done = await means().releases.publish(version_id, by=me.viewer.name, reason=reason)
        except RefusedError:
            return refused(request, version_id, me)
        except LiveChanged:
            return web.go(request, HERE, me, N_("Another version was made live meanwhile. This is how it is now."))
        await note(me, "version_published", version=version_id, reason=reason, articles=len(done.articles))
        left = ", ".join(f"{name} ({lang})" for name, lang in done.left)
        if left:
            return web.go(
                request,
                HERE,
                me,
                N_("Published. These drafts were edited since the training and stay drafts: %(left)s."),
                left=left,
            )
        return web.go(request, HERE, me, N_("Published: it answers everybody within seconds."))

    @router.post("/{version_id}/try")
    async def try_out(
        request: Request,
        version_id: str,
        me: Me,
        share: Annotated[float, Form()],
        reason: Annotated[str, Form()] = "",
    ) -> Response:
        find(version_id)
        reason = override(me, reason)
        try:
            await means().releases.try_out(version_id, share, by=me.viewer.name, reason=reason)
        except RefusedError:
            return refused(request, version_id, me)
        except (ValueError, ModelNotFound) as error:
            raise Refusal("invalid") from error
        await note(me, "version_tried", version=version_id, share=share, reason=reason)
        return web.go(
            request, HERE, me, N_("On trial: it answers %(share)s %% of the conversations."), share=f"{share * 100:g}"
        )

    def refused(request: Request, version_id: str, me: SignedIn) -> Response:
        return web.go(
            request,
            f"{HERE}/{version_id}",
            me,
            N_("Not published: the gate refuses it, or it was judged against another live version. Train anew."),
        )

    return router


def _reason(reason: Reason, me: SignedIn) -> str:
    say = words(me)
    values = dict(reason.values)
    if "test" in values:
        measure, _, group = str(values["test"]).partition(":")
        values["test"] = f"{say(TESTS[measure])}, {say(ALL) if group == 'all' else group}"
    return say(REASONS[reason.kind]) % values


ALL = N_("all languages")


def _words(me: SignedIn) -> dict[str, Any]:
    """What the templates say of keys."""
    say = words(me)
    tables: dict[str, dict[Any, str]] = {
        "measures": MEASURES,
        "states": STATES,
        "stages": STAGES,
        "expected": EXPECTED,
        "deeds": DEEDS,
        "acts": ACTS,
    }
    return {
        **{name: {key: say(text) for key, text in table.items()} for name, table in tables.items()},
        "here": HERE,
        "good": GOOD,
        "Expecting": Expecting,
        "TrainingState": TrainingState,
    }


def _suggestion(change: Change, *, new: bool) -> tuple[str, str]:
    """What a question is expected to lead to, if the new or the old outcome is the right one."""
    deed = change.candidate if new else change.live
    if deed.action in ("answer", "clarify") and deed.articles:
        return Expecting.ARTICLE.value, deed.articles[0]
    if deed.action == "handoff":
        return Expecting.PERSON.value, ""
    if deed.intent:
        return Expecting.INTENT.value, deed.intent
    return Expecting.NOTHING.value, ""


async def _sides(
    web: StudioWeb, session: AsyncSession, history: Sequence[Release], live: str, candidate: str
) -> object | None:
    """Since the trial began: a larger share goes on with it."""
    since = None
    for release in history:
        if release.act != "tried" or release.version_id != candidate:
            break
        since = release.at
    if since is None:
        return None
    tickets = web.desk.desk.tickets
    return await side_by_side(
        session,
        tickets.policy,
        live=live,
        candidate=candidate,
        since=since,
        now=web.clock(),
        topics=tickets.topics,
    )


async def _waiting(web: StudioWeb, session: AsyncSession, me: SignedIn) -> Sequence[Waiting]:
    if web.models is None:
        return ()
    in_use = web.models.store.in_use()
    ready = 0
    for version in reversed(web.models.store.versions()):
        if version.id == in_use.live:
            break
        report = load_report(version.path)
        ready += report is not None and report.accepted and report.against == in_use.live
    say = words(me)
    waiting = [Waiting(ready, say(N_("candidates that passed the gate")), HERE)]
    jobs: Sequence[TrainingJob] = await newest(session, 1)
    if jobs and jobs[0].state is TrainingState.FAILED:
        waiting.append(Waiting(1, say(N_("training that failed")), HERE, urgent=True))
    return waiting


PART = Part(
    "versions",
    N_("Versions"),
    "log",
    create_router,
    _waiting,
    {
        "training_asked": N_("asked for a training"),
        "training_cancelled": N_("cancelled a training"),
        "version_published": N_("published a version"),
        "version_tried": N_("put a version on trial"),
        "trial_ended": N_("ended a trial"),
        "version_rolled_back": N_("went back to the version before"),
        "shadow_on": N_("let the assistant only draft for a topic"),
        "shadow_off": N_("let the assistant answer a topic"),
        "example_from_gate": N_("made an example of a message"),
        "gold_added": N_("kept a gold question"),
        "gold_removed": N_("removed a gold question"),
    },
)
