"""Articles in the studio: found, edited in both languages side by side, published, taken back, brought in and out."""

# No postponed annotations: FastAPI reads those of the routes below, and they name things of their function.
import asyncio
import io
import re
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, File, Form, Request, UploadFile
from fastapi.responses import RedirectResponse, Response
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.datastructures import FormData

from bot.article_means import ArticleMeans, differences
from bot.desk.accounts import SignedIn
from bot.web.desk_base import LANGUAGES, N_
from bot.web.guards import Refusal
from bot.web.studio_base import PREFIX, Part, StudioWeb, Waiting, words
from kb_index.article_text import change_text, write_article, write_values
from kb_index.articles import EVERYONE, LARGEST_FILE_BYTES, Article, parse_article
from kb_index.check import Finding
from kb_index.errors import ArticleError, ImportSourceError, LibraryError, StaleArticleError, UnknownArticleError
from kb_index.importing import slug
from kb_index.library import Library, Stored
from nlu.library_files import written_files

PAGE = 100
MAX_TRIED = 40
DRAFT = "draft-"
RESERVED = frozenset({"new", "many", "back", "import", "preview", "questions", "export.zip"})
"""Ids that are other addresses here."""
STATUSES = {"published": N_("published"), "draft": N_("draft"), "archived": N_("archived")}
KINDS = {
    "broken_link": N_("A link leads to nothing"),
    "too_short": N_("The text is too short to be an answer"),
    "duplicate_text": N_("The text is that of another article"),
    "duplicate_question": N_("An example question stands under another article too"),
    "same_question": N_("An example question is nearly that of another article"),
    "same_answer": N_("It says nearly what another article says"),
    "not_found": N_("None of its example questions finds it"),
    "title_not_found": N_("Its title does not find it"),
    "one_language": N_("A language version is missing"),
    "language_behind": N_("The other language version says more"),
}
CHANGES = {
    "new": N_("new"),
    "changed": N_("changed"),
    "unchanged": N_("unchanged"),
    "kept": N_("edited here, kept"),
    "conflict": N_("conflict"),
    "gone": N_("gone"),
}
ACTIONS = {
    "article_saved": N_("saved an article"),
    "article_current": N_("said that a translation needs no change"),
    "article_discarded": N_("threw an article's draft away"),
    "article_restored": N_("brought an article's revision back"),
    "articles_changed": N_("changed several articles"),
    "articles_imported": N_("imported articles"),
}


@dataclass(frozen=True)
class Fields:
    """One language version as the form has it. revision: of the text that was edited, 0 for a new one."""

    lang: str
    revision: int
    title: str = ""
    body: str = ""
    topic: str = ""
    audience: str = EVERYONE
    status: str = "draft"
    tags: str = ""
    questions: str = ""
    valid_from: str = ""
    valid_until: str = ""
    behind: str | None = None
    live: int = 0
    """The revision that customers are answered with, where the text is a draft beside it."""
    theirs: str = ""
    """What somebody else has saved meanwhile, where that is so."""
    problem: str = ""

    @property
    def is_empty(self) -> bool:
        return not self.revision and not (self.title or self.body or self.questions)

    def article(self, article_id: str) -> Article:
        """Raises ArticleError for days that are none."""
        return Article(
            id=article_id,
            lang=self.lang,
            title=self.title,
            body=self.body,
            topic=self.topic,
            questions=_lines(self.questions),
            status=self.status,  # type: ignore[arg-type]  # checked as the form is read
            tags=tuple(each.strip() for each in self.tags.split(",") if each.strip()),
            audience=self.audience,
            valid_from=_day(self.valid_from),
            valid_until=_day(self.valid_until),
        )


def fields_of(stored: Stored) -> Fields:
    """stored: with the article of its draft, where it has one."""
    article = stored.article
    return Fields(
        lang=article.lang,
        revision=stored.newest,
        live=stored.revision if stored.draft else 0,
        title=article.title,
        body=article.body,
        topic=article.topic,
        audience=article.audience,
        status=article.status,
        tags=", ".join(article.tags),
        questions="\n".join(article.questions),
        valid_from=str(article.valid_from or ""),
        valid_until=str(article.valid_until or ""),
        behind=stored.behind,
    )


def read_fields(form: FormData, lang: str) -> Fields:
    """Raises Refusal for what no form of ours sends."""

    def text(name: str) -> str:
        value = form.get(f"{lang}.{name}", "")
        if not isinstance(value, str) or len(value) > LARGEST_FILE_BYTES:
            raise Refusal("too_large")
        return value.replace("\r\n", "\n")

    revision, status = text("revision") or "0", text("status") or "draft"
    if not revision.isdecimal() or len(revision) > 9 or status not in STATUSES:
        raise Refusal("invalid")
    return Fields(
        lang=lang,
        revision=int(revision),
        title=" ".join(text("title").split()),
        body=text("body").strip("\n"),
        topic=text("topic").strip(),
        audience=text("audience").strip() or EVERYONE,
        status=status,
        tags=" ".join(text("tags").split()),
        questions=text("questions").strip("\n"),
        valid_from=text("valid_from"),
        valid_until=text("valid_until"),
    )


def file_of(fields: Fields, article_id: str, present: str | None) -> str:
    """The article's file with what the form says; of the present one everything else stays. Raises ArticleError."""
    article = fields.article(article_id)
    path = Path(fields.lang) / f"{article_id}.md"
    if present is None:
        text = write_article(article)
    else:
        text = write_values(present, parse_article(present, path, fields.lang), article)
    if len(text.encode("utf-8", "surrogatepass")) > LARGEST_FILE_BYTES:
        raise ArticleError(path, None, f"the text is larger than {LARGEST_FILE_BYTES:,} bytes", "Split it")
    parse_article(text, path, fields.lang)
    return text


def _lines(text: str) -> tuple[str, ...]:
    return tuple(
        dict.fromkeys(each.strip().removeprefix("- ").strip() for each in text.split("\n") if each.strip(" -"))
    )


def _day(text: str) -> date | None:
    try:
        return date.fromisoformat(text) if text else None
    except ValueError as error:
        raise ArticleError(Path("article"), None, f"{text!r} is no day", "Write 2026-12-31") from error


def create_router(web: StudioWeb) -> APIRouter:
    router = APIRouter(prefix=f"{PREFIX}/articles", include_in_schema=False)
    Me = Annotated[SignedIn, Depends(web.signed_in)]  # noqa: N806 - a type
    means: ArticleMeans = web.articles

    def library(session: AsyncSession, me: SignedIn) -> Library:
        return Library(session, author=me.viewer.name, now=means.clock())

    def by_article(findings: Sequence[Finding]) -> dict[str, list[Finding]]:
        found: dict[str, list[Finding]] = {}
        for finding in findings:
            found.setdefault(finding.article_id, []).append(finding)
        return found

    def common(me: SignedIn) -> dict[str, Any]:
        say = words(me)
        return {
            "status_names": {key: say(text) for key, text in STATUSES.items()},
            "kind_names": {key: say(text) for key, text in KINDS.items()},
            "audiences": list(dict.fromkeys((EVERYONE, *means.audiences))),
            "langs": LANGUAGES,
        }

    # The list

    @router.get("")
    async def articles(
        request: Request,
        me: Me,
        q: str = "",
        status: str = "",
        lang: str = "",
        topic: str = "",
        only: str = "",
        page: int = 0,
    ) -> Response:
        findings, fresh = await means.findings()
        warned = by_article(findings)
        async with web.reading() as session:
            found = await library(
                session, me
            ).find(
                status=status or None,  # type: ignore[arg-type]  # another finds nothing
                lang=lang or None,
                topic=topic or None,
                behind=only == "behind",
                pending=only == "pending",
                words=q.strip()[:200],
                limit=None if only == "warned" else PAGE + 1,
                offset=0 if only == "warned" else max(page, 0) * PAGE,
            )
        if only == "warned":
            found = [each for each in found if each.article.id in warned]
        rows: dict[str, list[Stored]] = {}
        for each in found[:PAGE] if only != "warned" else found:
            rows.setdefault(each.article.id, []).append(each)
        chosen = {"q": q, "status": status, "lang": lang, "topic": topic, "only": only}
        return web.page(
            request,
            "articles.html",
            me,
            rows=rows,
            warned=warned,
            fresh=fresh,
            chosen=chosen,
            page=page,
            more=only != "warned" and len(found) > PAGE,
            **common(me),
        )

    @router.post("/many")
    async def many(request: Request, me: Me) -> Response:
        form = await request.form()
        keys = [str(key).rpartition(":") for key in form.getlist("key")][:PAGE]
        act, value = str(form.get("act", "")), str(form.get(f"value_{form.get('act', '')}", ""))
        known = {"status": set(STATUSES), "topic": {"", *web.desk.desk.tickets.topics.all}, "audience": {value}}
        if not keys or value not in known.get(act, ()):
            raise Refusal("invalid")
        done, failed, back = 0, 0, []
        async with web.writing() as session:
            shelf = library(session, me)
            for article_id, _, lang in keys:
                try:
                    present = await shelf.revision(article_id, lang)
                    plain = value in ("published", EVERYONE) or not value
                    text = change_text(present.text, **{act: None if plain else value})
                    async with session.begin_nested():
                        stored = await shelf.save(
                            article_id, lang, text, expected_revision=present.number, note=f"{act}: {value}"
                        )
                    back.append(_place(stored, str(present.number)))
                    done += 1
                except (ArticleError, LibraryError):
                    failed += 1
            web.record(session, me, "articles_changed", what=act, to=value, number=done)
        means.show()
        undo = _undo(back) if len(back) <= 20 else ""
        target = f"{PREFIX}/articles?{request.url.query}"
        return web.go(
            request, target, me, N_("Done: %(done)d. Not possible: %(failed)d."), undo=undo, done=done, failed=failed
        )

    @router.post("/back")
    async def back(request: Request, me: Me, to: str = "") -> Response:
        """Undo: each of `ID:LANG:REVISION@SEEN` is made the present one again, of `ID:LANG:draft-REVISION@SEEN` the
        draft; none has the number 0. SEEN is what there was when it was offered, `REVISION.DRAFT`: what somebody has
        changed since stays as it is."""
        places: dict[tuple[str, str], list[tuple[str, str]]] = {}
        for each in to.split(",")[:PAGE]:
            if found := _PLACE.fullmatch(each):
                article_id, lang, place, seen = found.groups()
                places.setdefault((article_id, lang), []).append((place, seen))
        stale: list[str] = []
        async with web.writing() as session:
            shelf = library(session, me)
            for (article_id, lang), asked in places.items():
                revision, draft = map(int, asked[0][1].split("."))
                try:
                    await shelf.require(article_id, lang, revision=revision, draft=draft or None)
                except (StaleArticleError, UnknownArticleError):
                    stale.append(f"{article_id} ({lang})")
                    continue
                for place, _ in asked:
                    number, pending = int(place.removeprefix(DRAFT)), place.startswith(DRAFT)
                    if number:
                        await shelf.restore(article_id, lang, number, pending=pending)
                    elif pending:
                        await shelf.discard_draft(article_id, lang)
                    web.record(session, me, "article_restored", article=article_id, lang=lang, revision=number)
        if len(stale) < len(places):
            means.show()
        if stale or not places:
            said = N_("Not taken back, because it has been changed since: %(which)s. Its history has every revision.")
            which = ", ".join(stale[:5]) + (" …" if len(stale) > 5 else "")
            return web.go(request, f"{PREFIX}/articles", me, said, which=which or "–")
        return web.go(request, f"{PREFIX}/articles", me, N_("Taken back."))

    # One article

    async def page_of(
        request: Request,
        me: SignedIn,
        article_id: str,
        versions: Mapping[str, Fields],
        *,
        is_new: bool = False,
        status: int = 200,
        **values: Any,
    ) -> Response:
        findings, fresh = await means.findings()
        shown = {lang: versions.get(lang, Fields(lang, 0)) for lang in LANGUAGES}
        return web.page(
            request,
            "article.html",
            me,
            status,
            article_id=article_id,
            versions=shown,
            previews={lang: means.preview(each.body, lang) for lang, each in shown.items()},
            findings=by_article(findings).get(article_id, []),
            fresh=fresh,
            is_new=is_new,
            stale=any(each.theirs for each in shown.values()),
            **{"problem": "", **values},
            **common(me),
        )

    @router.get("/new")
    async def new(
        request: Request, me: Me, title: str = "", lang: str = "ru", question: str = "", body: str = "", topic: str = ""
    ) -> Response:
        lang = lang if lang in LANGUAGES else me.viewer.lang
        filled = Fields(
            lang, 0, title=title[:300], body=body[:20_000], questions=question[:5000], topic=topic[:100], status="draft"
        )
        return await page_of(request, me, "", {lang: filled}, is_new=True)

    @router.post("/new")
    async def create(request: Request, me: Me) -> Response:
        form = await request.form()
        versions = {lang: read_fields(form, lang) for lang in LANGUAGES}
        filled = [each for each in versions.values() if not each.is_empty]
        wanted = str(form.get("article_id", "")).strip()[:120]
        if not filled:
            return await page_of(
                request,
                me,
                wanted,
                versions,
                is_new=True,
                status=422,
                problem=words(me)(N_("Write a title and a text.")),
            )
        async with web.reading() as session:
            shelf = library(session, me)
            article_id = wanted or slug(filled[0].title) or "article"
            number, first = 1, article_id
            while article_id in RESERVED or await shelf.versions(article_id):
                if wanted:
                    said = words(me)(N_("There is an article of this id."))
                    return await page_of(request, me, wanted, versions, is_new=True, status=422, problem=said)
                number += 1
                article_id = f"{first}-{number}"
        return await store(request, me, article_id, versions, publish=str(form.get("publish", "")), is_new=True)

    @router.get("/import")
    async def import_page(request: Request, me: Me) -> Response:
        return web.page(request, "articles_import.html", me, plan=None, key="", problem="", given={}, **common(me))

    @router.post("/import")
    async def import_plan(
        request: Request,
        me: Me,
        file: Annotated[UploadFile | None, File()] = None,
        key: Annotated[str, Form()] = "",
        topic: Annotated[str, Form(max_length=100)] = "",
        publish: Annotated[str, Form()] = "",
        overwrite: Annotated[str, Form()] = "",
        sure: Annotated[str, Form()] = "",
    ) -> Response:
        """Without `sure` only what would be done is shown."""
        given = {"topic": topic, "publish": bool(publish), "overwrite": bool(overwrite)}
        if topic and topic not in web.desk.desk.tickets.topics.all:
            raise Refusal("invalid")
        problem = ""
        try:
            if file is not None and file.filename:
                key = await asyncio.to_thread(means.receive, file.filename, await file.read())
            path = means.received(key)
            async with web.reading() as session:
                plan = await means.plan(session, path, topic=topic, publish=bool(publish), overwrite=bool(overwrite))
        except ImportSourceError as error:
            plan, problem = None, f"{error.problem}. {error.remedy}"
        if plan is None or not sure:
            return web.page(
                request,
                "articles_import.html",
                me,
                422 if problem else 200,
                plan=plan,
                key=key,
                problem=problem,
                given=given,
                change_names={kind: words(me)(text) for kind, text in CHANGES.items()},
                **common(me),
            )
        done = await means.take(web.desk.sessions, plan, author=me.viewer.name)
        counts = done.count()
        async with web.writing() as session:
            web.record(session, me, "articles_imported", new=counts["new"], changed=counts["changed"])
        means.show()
        return web.go(
            request,
            f"{PREFIX}/articles",
            me,
            N_("Imported: %(new)d new, %(changed)d changed."),
            new=counts["new"],
            changed=counts["changed"],
        )

    @router.get("/export.zip")
    async def export(_me: Me) -> Response:
        """data/ in its own formats: kb/ and intents/, as a team would keep them in git."""
        with tempfile.TemporaryDirectory() as folder:
            async with web.reading() as session:
                await means.export(session, Path(folder) / "kb")
                for path, text in (await written_files(session)).items():
                    target = Path(folder) / "intents" / path
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_text(text, encoding="utf-8", newline="")
            packed = await asyncio.to_thread(_zip, Path(folder))
        headers = {"Content-Disposition": 'attachment; filename="data.zip"', "Cache-Control": "no-store"}
        return Response(packed, media_type="application/zip", headers=headers)

    @router.post("/preview")
    async def look(request: Request, me: Me) -> Response:
        """The answer of one language version as each channel will show it, while it is being written."""
        form = await request.form()
        fields = read_fields(form, _lang(form))
        return web.page(request, "_preview.html", me, lang_=fields.lang, shown=means.preview(fields.body, fields.lang))

    @router.post("/questions")
    async def questions(request: Request, me: Me) -> Response:
        """What each example question, and one more, would find if the article were published as the form has it."""
        form = await request.form()
        fields = read_fields(form, _lang(form))
        article_id = str(form.get("article_id", "")) or "new-article"
        extra = " ".join(str(form.get(f"{fields.lang}.try", "")).split())[:600]
        asked = (extra,) if extra else _lines(fields.questions)[:MAX_TRIED]
        try:
            article = fields.article(article_id)
        except ArticleError:
            article = replace(fields, valid_from="", valid_until="").article(article_id)
        found = await means.find(asked, fields.lang, article if fields.body and fields.title else None)
        return web.page(request, "_questions.html", me, found=found, article_id=article_id, asked=asked)

    @router.get("/{article_id}")
    async def article(request: Request, article_id: str, me: Me) -> Response:
        async with web.reading() as session:
            found = await library(session, me).newest_versions(article_id)
        if not found:
            raise UnknownArticleError(article_id, me.viewer.lang)
        return await page_of(request, me, article_id, {each.article.lang: fields_of(each) for each in found})

    @router.post("/{article_id}")
    async def save(request: Request, article_id: str, me: Me) -> Response:
        form = await request.form()
        versions = {lang: read_fields(form, lang) for lang in LANGUAGES}
        return await store(
            request,
            me,
            article_id,
            versions,
            note=str(form.get("note", ""))[:500],
            minor="minor" in form,
            publish=str(form.get("publish", "")),
        )

    async def store(
        request: Request,
        me: SignedIn,
        article_id: str,
        versions: Mapping[str, Fields],
        *,
        note: str = "",
        minor: bool = False,
        publish: str = "",
        is_new: bool = False,
    ) -> Response:
        """All versions that were changed, or none: where somebody else has saved, both are shown. What customers are
        answered with stays as it is, but for a change of status, and for the language to publish."""
        shown, wrong, saved, waiting, back = dict(versions), False, 0, 0, []
        try:
            async with web.writing() as session:
                shelf = library(session, me)
                for lang, fields in versions.items():
                    if fields.is_empty:
                        continue
                    known = {each.article.lang: each for each in await shelf.versions(article_id)}.get(lang)
                    present = await shelf.revision(article_id, lang, known.newest) if known else None
                    publishing = lang == publish
                    wanted = replace(fields, status="published") if publishing else fields
                    pending = bool(
                        known and not publishing and known.article.status == wanted.status == "published"
                    )  # a published text stays until it is published anew
                    try:
                        text = file_of(wanted, article_id, present.text if present else None)
                        if known and present and known.newest != fields.revision:
                            if text == present.text and not (publishing and known.draft):
                                continue  # the same form again, or the same change by two
                            raise StaleArticleError(article_id, lang, fields.revision, known.newest)
                        if present and text == present.text and not (publishing and known and known.draft):
                            continue
                        stored = await shelf.save(
                            article_id,
                            lang,
                            text,
                            expected_revision=fields.revision,
                            note=note,
                            minor=minor,
                            pending=pending,
                        )
                    except ArticleError as error:
                        wrong, where = True, f" ({error.line})" if error.line else ""
                        shown[lang] = replace(fields, problem=f"{error.problem}{where}. {error.remedy}")
                        continue
                    except StaleArticleError as error:
                        assert present is not None  # noqa: S101 - there is a newer one
                        wrong = True
                        shown[lang] = replace(fields, revision=error.revision, theirs=present.text)
                        continue
                    saved += 1
                    waiting += pending
                    if known and not pending:
                        back.append(_place(stored, str(known.revision)))
                    if known and (pending or known.draft):
                        back.append(_place(stored, f"{DRAFT}{known.draft or 0}"))
                    status = "draft" if pending else wanted.status
                    web.record(session, me, "article_saved", article=article_id, lang=lang, status=status)
                if wrong:
                    raise _NothingSavedError
        except _NothingSavedError:
            return await page_of(request, me, article_id, shown, is_new=is_new, status=409 if _stale(shown) else 422)
        means.show()
        undo = _undo(back)
        said = N_("Saved.") if saved else N_("Nothing was changed.")
        if waiting:
            said = N_("Saved as a draft: customers are answered with the published text until you publish it.")
        return web.go(request, f"{PREFIX}/articles/{article_id}", me, said, undo=undo)

    @router.get("/{article_id}/{lang}/history")
    async def history(
        request: Request, article_id: str, lang: str, me: Me, number: int | None = None, against: int | None = None
    ) -> Response:
        async with web.reading() as session:
            shelf = library(session, me)
            revisions = await shelf.history(article_id, lang)
            present = await shelf.get(article_id, lang)
        by_number = {each.number: each for each in revisions}
        shown = by_number.get(number or present.newest, revisions[0])
        before = by_number.get(shown.number - 1 if against is None else against)
        return web.page(
            request,
            "article_history.html",
            me,
            article_id=article_id,
            article_lang=lang,
            revisions=revisions,
            shown=shown,
            before=before,
            present=present,
            lines=differences(before.text if before else "", shown.text),
            **common(me),
        )

    @router.post("/{article_id}/{lang}/restore")
    async def restore(request: Request, article_id: str, lang: str, me: Me, number: Annotated[int, Form()]) -> Response:
        async with web.writing() as session:
            shelf = library(session, me)
            before = await shelf.get(article_id, lang)
            pending = before.article.status == "published"
            stored = await shelf.restore(article_id, lang, number, pending=pending)
            web.record(session, me, "article_restored", article=article_id, lang=lang, revision=number)
        means.show()
        place = f"{DRAFT}{before.draft or 0}" if pending else str(before.revision)
        said = N_("Revision %(number)d is back.")
        if pending:
            said = N_("Revision %(number)d is the draft now. Customers get it when you publish it.")
        undo = _undo([_place(stored, place)])
        return web.go(request, f"{PREFIX}/articles/{article_id}", me, said, undo=undo, number=number)

    @router.post("/{article_id}/{lang}/discard")
    async def discard(request: Request, article_id: str, lang: str, me: Me) -> Response:
        """Give up the draft; the published text stays."""
        form, undo = await request.form(), ""
        async with web.writing() as session:
            shelf = library(session, me)
            draft = (await shelf.get(article_id, lang)).draft
            if draft is not None:
                seen = read_fields(form, _lang_of(lang)).revision
                stored = await shelf.discard_draft(article_id, lang, expected_revision=seen)
                undo = _undo([_place(stored, f"{DRAFT}{draft}")])
                web.record(session, me, "article_discarded", article=article_id, lang=lang, revision=draft)
        return web.go(request, f"{PREFIX}/articles/{article_id}", me, N_("The draft was thrown away."), undo=undo)

    @router.post("/{article_id}/{lang}/current")
    async def current(article_id: str, lang: str, me: Me) -> Response:
        """This version needs no change for what was changed in the other language."""
        async with web.writing() as session:
            await library(session, me).mark_current(article_id, lang)
            web.record(session, me, "article_current", article=article_id, lang=lang)
        return RedirectResponse(f"{PREFIX}/articles/{article_id}", 303)

    def _lang(form: FormData) -> str:
        return _lang_of(str(form.get("lang", "")))

    def _lang_of(lang: str) -> str:
        if lang not in LANGUAGES:
            raise Refusal("invalid")
        return lang

    return router


_PLACE = re.compile(rf"(.+):(\w+):((?:{DRAFT})?\d{{1,9}})@(\d{{1,9}}\.\d{{1,9}})")


def _place(now: Stored, place: str) -> str:
    """A revision to go back to, with what there is now."""
    return f"{now.article.id}:{now.article.lang}:{place}@{now.revision}.{now.draft or 0}"


def _undo(places: Sequence[str]) -> str:
    """Where such are gone back to; empty for none."""
    return f"{PREFIX}/articles/back?to={','.join(places)}" if places else ""


class _NothingSavedError(Exception):
    """Ends a transaction whose page has something to say."""


def _stale(versions: Mapping[str, Fields]) -> bool:
    return any(each.theirs for each in versions.values())


def _zip(folder: Path) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, path.relative_to(folder).as_posix())
    return packed.getvalue()


async def _waiting(web: StudioWeb, session: AsyncSession, me: SignedIn) -> Sequence[Waiting]:
    shelf, say = Library(session, author=me.viewer.name, now=web.articles.clock()), words(me)
    drafts, behind = await shelf.find(status="draft"), await shelf.find(behind=True)
    pending = await shelf.find(pending=True)
    findings, _ = await web.articles.findings()
    faults = sum(finding.is_fault for finding in findings)
    return [
        Waiting(faults, say(N_("faults in articles")), f"{PREFIX}/articles?only=warned", urgent=True),
        Waiting(len(behind), say(N_("translations that are behind")), f"{PREFIX}/articles?only=behind"),
        Waiting(len(drafts), say(N_("drafts that nobody is answered with yet")), f"{PREFIX}/articles?status=draft"),
        Waiting(
            len(pending), say(N_("published articles with a draft beside them")), f"{PREFIX}/articles?only=pending"
        ),
    ]


PART = Part("articles", N_("Articles"), "book", create_router, _waiting, ACTIONS)
