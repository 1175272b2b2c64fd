"""The studio's pages of versions, and the releases behind them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from desk_harness import Agent
from site_harness import Keywords, Running, Site, running
from sqlalchemy import select

from bot.desk.records import AuditEntry
from bot.models.gate import Asked, Deed, Source, compare
from bot.models.records import Expecting, GoldQuestion, Release, TrainingJob
from bot.models.releases import ModelMeans, Releases, save_report
from bot.models.training import KNOWLEDGE, Knowledge
from handoff.access import Role
from handoff.records import Conversation
from kb_index.articles import Article
from kb_index.library import Library
from nlu.models import ModelStore

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
DRAFT = "---\nid: warranty\ntitle: Warranty\nstatus: draft\n---\nTwo years.\n"


def deed(action: str, *articles: str) -> Deed:
    return Deed(action, articles, None, None, action, 0.9, articles[0] if articles else None, 0.9)


class Versions:
    """A store with versions whose reports are real ones over made-up deeds."""

    def __init__(self, folder: Path) -> None:
        self.store = ModelStore(folder / "models", lambda: datetime.now(UTC))
        self.live = self.make()
        self.store.promote(self.live)
        self.good = self.make(Article("warranty", "en", "Warranty", "Two years.", status="draft"))
        self.bad = self.make()
        self.judge(self.good, right=True)
        self.judge(self.bad, right=False)

    def make(self, *drafts: Article) -> str:
        with self.store.new_version() as draft:
            (draft.path / "policy.json").write_text("{}")
            Knowledge(drafts=drafts).save(draft.path / KNOWLEDGE)
            draft.manifest |= {"examples": 12, "intents": 3, "articles": 2}
        return draft.id

    def judge(self, version: str, *, right: bool) -> None:
        asked = [Asked(f"gold:{n}", f"question {n}", "en", Source.GOLD, Expecting.ARTICLE, ("a",)) for n in range(12)]
        asked.append(Asked("message:1", "what of the warranty", "en", Source.REPLAY))
        live = {each.key: deed("answer", "a") for each in asked}
        candidate = live | {"message:1": deed("handoff")}
        if not right:
            candidate |= {each.key: deed("answer", "b") for each in asked[:9]}
        report = compare(asked, live, candidate, version=version, against=self.live, made_at=NOW)
        save_report(self.store.show(version), report)

    def means(self, site: Site) -> ModelMeans:
        def no_view(_version: str | None, _drafts: object) -> Keywords:
            return Keywords()

        releases = Releases(site.sessions, self.store, site.clock, lambda: None)
        return ModelMeans(self.store, releases, no_view, lambda _: site.assistant._turns)


@pytest.fixture
def versions(tmp_path: Path) -> Versions:
    return Versions(tmp_path)


@pytest.fixture
def server(tmp_path: Path, versions: Versions) -> Iterator[Running]:
    with running(lambda: Site(tmp_path, models=versions.means)) as server:
        yield server


def post(agent: Agent, path: str, **data: object) -> str:
    """The page that follows."""
    answer = agent.web.post(f"/studio{path}", data={"csrf": agent.csrf, **data}, follow_redirects=True)
    return f"{answer.status_code} {answer.text}"


def editor(server: Running, role: Role = Role.EDITOR) -> Agent:
    return Agent(server, f"Vera {role}", role)


def add_draft(server: Running) -> None:
    async def work() -> None:
        async with server.site.sessions.begin() as session:
            await Library(session, author="Vera", now=NOW).save("warranty", "en", DRAFT, expected_revision=0)

    server.call(work())


def article(server: Running) -> tuple[str, int]:
    async def read() -> tuple[str, int]:
        async with server.site.sessions.begin() as session:
            stored = await Library(session, author="Vera", now=NOW).get("warranty", "en")
            return stored.article.status, stored.revision

    return server.call(read())


def test_a_candidate_that_passed_is_tried_out_published_and_taken_back(server: Running, versions: Versions) -> None:
    vera = editor(server)
    add_draft(server)
    page = vera.web.get("/studio/versions").text
    assert "Warranty" in page
    assert page.count("passed the gate") == 1
    page = vera.web.get(f"/studio/versions/{versions.good}").text
    assert "what of the warranty" in page
    assert vera.web.get(f"/studio/versions/{versions.good}/calibration.svg").text.startswith("<?xml")

    assert "On trial: it answers 10 % of the conversations." in post(vera, f"/versions/{versions.good}/try", share=0.1)
    in_use = versions.store.in_use()
    assert in_use.canary is not None
    assert (in_use.live, in_use.canary.share) == (versions.live, 0.1)
    assert article(server) == ("draft", 1)
    assert "conversations with the live version" in vera.web.get("/studio/versions").text

    assert "Published" in post(vera, f"/versions/{versions.good}/publish")
    assert versions.store.live_id() == versions.good
    assert versions.store.in_use().canary is None
    assert article(server) == ("published", 2)

    assert "The version before answers again" in post(vera, "/versions/rollback")
    assert versions.store.live_id() == versions.live
    assert article(server) == ("draft", 3)

    async def kept() -> tuple[list[str], list[str]]:
        async with server.site.sessions.begin() as session:
            acts = (await session.scalars(select(Release.act).order_by(Release.id))).all()
            audit = (await session.scalars(select(AuditEntry.action).order_by(AuditEntry.id))).all()
            return list(acts), [each for each in audit if each.startswith("version")]

    acts, audit = server.call(kept())
    assert acts == ["tried", "published", "rolled_back"]
    assert audit == ["version_tried", "version_published", "version_rolled_back"]


def test_an_article_that_was_edited_since_stays_when_its_version_goes(server: Running, versions: Versions) -> None:
    vera = editor(server)
    add_draft(server)
    post(vera, f"/versions/{versions.good}/publish")

    async def edit() -> None:
        async with server.site.sessions.begin() as session:
            text = "---\nid: warranty\ntitle: Warranty\n---\nThree years.\n"
            await Library(session, author="Boris", now=NOW).save("warranty", "en", text, expected_revision=2)

    server.call(edit())
    assert "warranty (en)" in post(vera, "/versions/rollback")
    assert article(server) == ("published", 3)


def test_a_draft_that_was_edited_since_the_training_stays_a_draft(server: Running, versions: Versions) -> None:
    vera = editor(server)
    add_draft(server)

    async def edit() -> None:
        async with server.site.sessions.begin() as session:
            text = DRAFT.replace("Two years", "Two years, and if you")
            await Library(session, author="Boris", now=NOW).save("warranty", "en", text, expected_revision=1)

    server.call(edit())
    assert "stay drafts: warranty (en)" in post(vera, f"/versions/{versions.good}/publish")
    assert versions.store.live_id() == versions.good
    assert article(server) == ("draft", 2)


def test_a_second_click_on_an_old_page_goes_back_no_further(server: Running, versions: Versions) -> None:
    vera = editor(server)
    post(vera, f"/versions/{versions.good}/publish")
    live = re.search(r'name="live" value="([^"]+)"', vera.web.get("/studio/versions").text)
    assert live is not None
    assert live[1] == versions.good
    post(vera, "/versions/rollback", live=live[1])
    assert "made live meanwhile" in post(vera, "/versions/rollback", live=live[1])
    assert versions.store.live_id() == versions.live


def test_a_draft_beside_a_published_article_goes_live_with_its_version_and_back(
    server: Running, versions: Versions
) -> None:
    vera = editor(server)
    text = "---\nid: warranty\ntitle: Warranty\n---\nOne year.\n"

    async def write() -> None:
        async with server.site.sessions.begin() as session:
            library = Library(session, author="Boris", now=NOW)
            await library.save("warranty", "en", text, expected_revision=0)
            await library.save(
                "warranty", "en", text.replace("One year", "Two years"), expected_revision=1, pending=True
            )

    async def read() -> tuple[str, int | None]:
        async with server.site.sessions.begin() as session:
            stored = await Library(session, author="", now=NOW).get("warranty", "en")
            return stored.article.body, stored.draft

    server.call(write())
    assert "a change of a published article" in vera.web.get("/studio/versions").text
    assert server.call(read()) == ("One year.", 2)
    post(vera, f"/versions/{versions.good}/publish")
    assert server.call(read()) == ("Two years.", None)
    post(vera, "/versions/rollback")
    assert server.call(read()) == ("One year.", 5), "the draft waits again"


def test_a_refused_version_needs_an_administrators_reason(server: Running, versions: Versions) -> None:
    vera, ada = editor(server), editor(server, Role.ADMIN)
    page = vera.web.get(f"/studio/versions/{versions.bad}").text
    assert "Worse beyond noise" in page
    assert "Publish" not in page
    assert "Not published" in post(vera, f"/versions/{versions.bad}/publish")
    assert post(vera, f"/versions/{versions.bad}/publish", reason="please").startswith("403")
    assert "Not published" in post(ada, f"/versions/{versions.bad}/publish")
    assert versions.store.live_id() == versions.live
    post(ada, f"/versions/{versions.bad}/publish", reason="the gold set is wrong")
    assert versions.store.live_id() == versions.bad
    assert "the gold set is wrong" in ada.web.get("/studio/versions").text


def test_what_was_judged_against_another_version_is_not_published(server: Running, versions: Versions) -> None:
    vera = editor(server)
    other = versions.make()
    versions.store.promote(other)
    assert "train anew" in vera.web.get(f"/studio/versions/{versions.good}").text
    assert "Not published" in post(vera, f"/versions/{versions.good}/publish")
    assert versions.store.live_id() == other


def test_a_changed_outcome_becomes_a_protected_question(server: Running, versions: Versions) -> None:
    vera = editor(server)
    page = vera.web.get(f"/studio/versions/{versions.good}").text
    form = dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', page.split("The old one is right")[0]))
    assert form["text"] == "what of the warranty"
    form.pop("csrf")
    assert "Kept as a gold question." in post(
        vera, "/versions/questions", **form | {"expects": "article", "right": "a"}
    )

    async def kept() -> GoldQuestion:
        async with server.site.sessions.begin() as session:
            return (await session.scalars(select(GoldQuestion))).one()

    row = server.call(kept())
    assert (row.protected, row.expects, row.right) == (True, Expecting.ARTICLE, ["a"])
    assert "what of the warranty" in vera.web.get("/studio/versions/questions").text
    assert "422" in post(vera, "/versions/questions", text=" ", lang="en", expects="nothing")[:3]
    post(vera, f"/versions/questions/{row.id}/remove")
    assert "There are none of your own yet." in vera.web.get("/studio/versions/questions").text


def test_a_click_asks_for_one_training_with_its_drafts(server: Running, versions: Versions) -> None:
    vera = editor(server)
    add_draft(server)
    assert "A candidate is being trained" in post(vera, "/versions/train", article="warranty|en")
    assert "A training runs already" in post(vera, "/versions/train")

    async def jobs() -> list[TrainingJob]:
        async with server.site.sessions.begin() as session:
            return list(await session.scalars(select(TrainingJob)))

    assert [job.articles for job in server.call(jobs())] == [[["warranty", "en"]]]
    assert "0 %" in vera.web.get("/studio/versions/training", headers={"HX-Request": "true"}).text
    assert "was cancelled" in post(vera, "/versions/train/cancel")


def test_only_who_may_edit_sees_versions(server: Running, versions: Versions) -> None:
    anna = Agent(server, "Anna")
    assert anna.web.get("/studio/versions").status_code == 403
    assert post(anna, "/versions/rollback").startswith("403")
    vera = editor(server)
    assert vera.web.get("/studio/versions/../../etc").status_code == 404
    assert vera.web.get("/studio/versions/20200101T000000000000Z-abcd").status_code == 404
    assert vera.web.post("/studio/versions/rollback").status_code == 403, "a foreign form"
    assert versions.store.live_id() == versions.live


def test_the_playground_answers_and_keeps_nothing(server: Running) -> None:
    vera = editor(server)
    headers = {"HX-Request": "true", "X-CSRF": vera.csrf}

    def say(**data: object) -> str:
        answer = vera.web.post("/studio/playground/say", data={"channel": "whatsapp", **data}, headers=headers)
        return f"{answer.status_code} {answer.text}"

    page = say(text="where is my order")
    assert "*My orders*" in page, "in WhatsApp's own markup"
    state = json.loads(re.findall(r'name="state" value="([^"]*)"', page)[0].replace("&#34;", '"'))
    assert state["answered"] == ["order-status"]
    assert "A ticket is made" in say(choice="not_helped", state=json.dumps(state))
    assert say(text="x", channel="fax").startswith("422")
    assert say(text=" ").startswith("422")
    assert say(text="x", state="[1]").startswith("400")

    async def conversations() -> int:
        async with server.site.sessions.begin() as session:
            return len((await session.scalars(select(Conversation.id))).all())

    assert server.call(conversations()) == 0
