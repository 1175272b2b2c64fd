"""Tickets in a real django-helpdesk, over real HTTP, both ways."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from databases import MakeDatabase
from fastapi import FastAPI
from site_harness import free_port
from sqlalchemy import func, select
from test_agent_desk import Story

from bot.attachments import AttachmentStore
from bot.channels.base import InboundAttachment
from bot.database import migrate
from bot.helpdesk import POLL, SYNC, HelpDeskLink, HelpDeskSync
from bot.timers import Timer, Timers
from bot.web.webhooks import HelpDeskHook, Webhooks
from handoff import desk
from handoff.django_helpdesk import DjangoHelpdesk, harmless
from handoff.errors import HelpDeskError
from handoff.helpdesk import RemoteFile
from handoff.lifecycle import TicketStatus
from handoff.records import NOTE

pytest.importorskip("helpdesk", reason="pip install django-helpdesk")
pytestmark = pytest.mark.e2e


class Site:
    """A django-helpdesk that can be stopped and started."""

    def __init__(self, folder: Path, webhook: str | None = None) -> None:
        self.folder, self.port, self.webhook = folder, free_port(), webhook
        self.url = f"http://127.0.0.1:{self.port}/helpdesk"
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        script = Path(__file__).parent / "helpdesk_site.py"
        arguments = [str(self.folder), str(self.port), *([self.webhook] if self.webhook else [])]
        with (self.folder / "log").open("ab") as out:
            self.process = subprocess.Popen([sys.executable, str(script), *arguments], stdout=out, stderr=out)
        until = time.monotonic() + 60
        while time.monotonic() < until:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{self.url}/api/tickets/", auth=("agent", "secret")).is_success:
                    return
            assert self.process.poll() is None, (self.folder / "log").read_text()
            time.sleep(0.2)
        raise AssertionError("the help desk does not start")

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(tmp_path_factory.mktemp("helpdesk"))
    yield made
    made.stop()


class Linked(Story):
    """A story whose tickets also stand in the help desk."""

    def join(self, site: Site, var: Path) -> None:
        self.site = site
        self.help_desk = DjangoHelpdesk(site.url, "otvet", "secret", 1, timeout_seconds=10)
        self.sync = HelpDeskSync(
            help_desk=self.help_desk,
            desk=self.desk,
            sessions=self.sessions,
            attachments=AttachmentStore(var / "attachments", 10_000),
            clock=self.clock,
            agent="Support",
        )
        self.desk.tickets.history.listeners.append(self.sync.heard)
        self.timers = Timers(self.sessions, self.clock)
        self.timers.register_errand(SYNC, self.sync.sync)
        self.timers.register_errand(POLL, self.sync.poll, standing=True)
        self.agent = httpx.Client(base_url=f"{site.url}/api/", auth=("agent", "secret"), timeout=10)

    async def settle(self) -> list[str]:
        """Let everything that is due happen, and again after a round of polling; what the customer receives."""
        before = len(self.channel.sent)
        await self.timers._set_standing()
        for _ in range(3):
            self.clock.ahead += timedelta(seconds=61)
            await self.timers.run_errands()
            await self.assistant.drain()
        return [message.text for message in self.channel.sent[before:]]

    async def remote(self, ticket_id: int = 1) -> dict[str, Any]:
        async with self.sessions.begin() as session:
            link = await session.get_one(HelpDeskLink, ticket_id)
        found: dict[str, Any] = (await asyncio.to_thread(self.agent.get, f"tickets/{link.remote_id}/")).json()
        return found

    async def comments(self, ticket_id: int = 1) -> list[tuple[bool, str]]:
        """What stands there, without what the help desk itself writes and our marks."""
        rows = (await self.remote(ticket_id))["followup_set"][1:]
        return [(row["public"], (row["comment"] or "").split("\n\n[otvet")[0]) for row in rows if row["comment"]]

    async def say(self, text: str, *, public: bool = True, ticket_id: int = 1, **more: Any) -> None:
        """An agent writes in the help desk."""
        remote_id = (await self.remote(ticket_id))["id"]
        form = {"ticket": remote_id, "comment": text, "public": public, **more}
        (await asyncio.to_thread(self.agent.post, "followups/", json=form)).raise_for_status()

    async def failing(self) -> int:
        async with self.sessions.begin() as session:
            query = select(func.count(Timer.id)).where(Timer.kind == SYNC, Timer.failures > 0)
            return await session.scalar(query) or 0


@pytest.fixture
async def story(tmp_path: Path, make_database: MakeDatabase, site: Site) -> AsyncIterator[Linked]:
    made = Linked(tmp_path, database=make_database())
    await migrate(made.engine)
    made.clock.ahead = datetime(2027, 3, 1, 9, tzinfo=UTC) - datetime.now(UTC)
    made.join(site, tmp_path)
    await made.hear("where is my order")
    await made.hear("a person please")
    yield made
    made.agent.close()
    await made.help_desk.close()
    await made.engine.dispose()


async def test_a_ticket_appears_there_with_what_an_agent_needs_and_the_customer_goes_on_there(story: Linked) -> None:
    await story.settle()
    made = await story.remote()
    assert made["title"].startswith("№ 1: ")
    assert "customer: where is my order" in made["description"]
    assert "Reason: asked_for_person" in made["description"]
    assert made["submitter_email"] == "", "the customer is written to from here alone"
    await story.hear("it is blue")
    await story.act("reply", 1, "I am looking", agent="Anna")
    await story.act("note", 1, "he called yesterday", agent="Anna")
    await story.settle()
    assert await story.comments() == [
        (True, "customer: it is blue"),
        (True, "Anna: I am looking"),
        (False, "Anna: he called yesterday"),
    ]
    title = (await story.remote())["title"]
    assert title == made["title"], "a comment renames nothing"


async def test_a_public_comment_reaches_the_customer_once_and_a_private_note_never(story: Linked) -> None:
    await story.settle()
    await story.say("It left the warehouse today")
    await story.say("this customer is difficult", public=False)
    assert await story.settle() == ["It left the warehouse today"]
    assert await story.settle() == []
    ticket = await story.ticket()
    assert ticket.status is TicketStatus.WAITING
    notes = [message.text for message in await story.transcript() if message.kind == "note"]
    assert notes == ["this customer is difficult"]
    assert [text for _, text in await story.comments()] == ["It left the warehouse today", "this customer is difficult"]


async def test_who_quotes_our_words_with_their_mark_is_heard_all_the_same(story: Linked) -> None:
    await story.settle()
    await story.hear("it is blue")
    await story.settle()
    ours = (await story.remote())["followup_set"][-1]["comment"]
    await story.say(f"Blue, I see.\n> {ours}")
    (said,) = await story.settle()
    assert said.startswith("Blue, I see.")


async def test_resolved_there_asks_the_customer_and_his_no_opens_it_there_again(story: Linked) -> None:
    await story.settle()
    await story.say("Done", new_status=3)
    assert await story.settle() == ["Done"]
    assert (await story.ticket()).status is TicketStatus.AWAITING_FEEDBACK
    await story.wait(hours=1)
    await story.press("No, the problem remains")
    await story.settle()
    assert (await story.remote())["status"] == 2
    assert (await story.ticket()).status is TicketStatus.OPEN


async def test_resolved_here_is_resolved_there_and_opened_there_is_opened_here(story: Linked) -> None:
    await story.settle()
    await story.act("resolve", 1, agent="Anna")
    await story.settle()
    assert (await story.remote())["status"] == 3
    await story.say("wait, one more thing", new_status=2)
    assert "wait, one more thing" in await story.settle()
    assert (await story.ticket()).status is TicketStatus.WAITING
    assert (await story.remote())["status"] in (1, 2)
    await story.say("duplicate", public=False, new_status=5)
    await story.settle()
    assert (await story.ticket()).status is TicketStatus.CLOSED


async def test_taken_up_there_after_the_last_word_is_taken_up_here(story: Linked) -> None:
    await story.settle()
    await story.act("reply", 1, "It left today", agent="Anna")
    await story.act("finish", 1, agent="Anna")
    await story.settle()
    assert (await story.remote())["status"] == 3
    await story.say("not yet", public=False, new_status=2)
    await story.settle()
    assert (await story.ticket()).status is TicketStatus.OPEN
    assert not [text for text in await story.wait(hours=2) if "help" in text], "no survey"


async def test_a_higher_priority_here_is_one_there(story: Linked) -> None:
    await story.settle()
    async with story.sessions.begin() as session:
        ticket = await story.ticket()
        ticket = await session.merge(ticket)
        await story.desk.tickets.change(session, ticket, agent="Anna", now=story.clock(), priority="urgent")
    await story.settle()
    assert (await story.remote())["priority"] == 1


async def test_what_a_customer_types_is_neither_a_template_nor_a_reference_there(story: Linked) -> None:
    await story.settle()
    text = "{{ ticket.secret_key }} {% now 'Y' %} {# gone #} see #1 and #2"
    await story.hear(text)
    await story.settle()
    (_, there) = (await story.comments())[-1]
    assert there.removeprefix("customer: ").replace("\u200b", "") == text
    assert harmless("plain text 100 %") == "plain text 100 %"


async def test_a_file_of_an_agent_there_reaches_the_customer_and_one_too_large_does_not(story: Linked) -> None:
    await story.settle()
    remote_id = (await story.remote())["id"]
    for public, names in (("true", ("bill.pdf", "large.txt")), ("true", ("alone.txt",)), ("false", ("inner.txt",))):
        contents = {"bill.pdf": b"%PDF-1.4 bill", "large.txt": b"x" * 10_001, "alone.txt": b"alone", "inner.txt": b"in"}
        form = {"ticket": remote_id, "comment": "Your bill" if "bill.pdf" in names else "", "public": public}
        files = [("attachments", (name, contents[name], "text/plain")) for name in names]
        (await asyncio.to_thread(story.agent.post, "followups/", data=form, files=files)).raise_for_status()
    before = len(story.channel.sent)
    await story.settle()
    sent = story.channel.sent[before:]
    reached = [file for message in sent for file in message.attachments]
    assert [file.file_name for file in reached] == ["bill.pdf", "alone.txt"]
    assert reached[0].path.read_bytes() == b"%PDF-1.4 bill"
    assert ["Your bill" in message.text for message in sent].count(True) == 1
    async with story.sessions.begin() as session:
        notes = [m.text for m in await desk.transcript(session, 1) if m.kind == NOTE]
    assert any("large.txt: " in note and "larger than" in note for note in notes)
    assert any("inner.txt" in note for note in notes)
    before = len(story.channel.sent)
    await story.settle()
    assert story.channel.sent[before:] == []


async def test_files_elsewhere_are_not_fetched(story: Linked) -> None:
    with pytest.raises(HelpDeskError) as error:
        async for _ in story.help_desk.fetch(RemoteFile("x", "http://169.254.169.254/latest/meta-data")):
            pass
    assert error.value.permanent


async def test_a_file_of_the_customers_is_attached_there(story: Linked) -> None:
    await story.settle()
    story.channel.files["f"] = b"%PDF-1.4 bill"
    bill = InboundAttachment("document", {"id": "f"}, file_name="bill.pdf", mime_type="application/pdf")
    await story.hear("here is the bill", kind="attachment", attachments=(bill,))
    await story.settle()
    (attached,) = (await story.remote())["followup_set"][-1]["followupattachment_set"]
    assert (attached["filename"], attached["size"]) == ("bill.pdf", 13)


async def test_an_outage_loses_nothing_and_doubles_nothing(story: Linked, site: Site) -> None:
    await story.settle()
    site.stop()
    await story.hear("one")
    await story.settle()
    await story.hear("two")
    await story.settle()
    assert await story.failing() == 1
    site.start()
    await story.settle()
    assert await story.failing() == 0
    assert [text for _, text in await story.comments()] == ["customer: one", "customer: two"]


async def test_a_ticket_that_was_made_during_an_outage_is_made_once(story: Linked, site: Site) -> None:
    site.stop()
    await story.settle()
    site.start()
    await story.settle()
    assert (await story.remote())["title"].startswith("№ 1: ")


async def test_what_fails_while_the_desk_answers_keeps_its_growing_pauses(
    story: Linked, monkeypatch: pytest.MonkeyPatch
) -> None:
    await story.settle()
    tried = 0

    async def failing(remote_id: str) -> Any:
        nonlocal tried
        tried += 1
        raise HelpDeskError("django-helpdesk answered 500")

    monkeypatch.setattr(story.help_desk, "get", failing)
    for _ in range(7):
        await story.settle()
    assert 5 <= tried <= 9  # in 21 minutes: after 10, 20, 40, 80, 160, 320 and 640 s


async def test_an_answer_that_gets_lost_makes_no_second_ticket_and_no_second_comment(
    story: Linked, monkeypatch: pytest.MonkeyPatch
) -> None:
    create, comment = story.help_desk.create, story.help_desk.comment
    lost = 0

    async def losing(work: Any, *arguments: Any) -> Any:
        nonlocal lost
        await work(*arguments)
        lost += 1
        raise HelpDeskError("the answer got lost")

    monkeypatch.setattr(story.help_desk, "create", lambda ticket: losing(create, ticket))
    monkeypatch.setattr(story.help_desk, "comment", lambda *arguments: losing(comment, *arguments))
    count = story.agent.get("tickets/").json()["count"]
    await story.hear("one")
    await story.settle()
    await story.settle()
    assert lost >= 1
    assert story.agent.get("tickets/").json()["count"] == count + 1
    await story.hear("two")
    for _ in range(3):
        await story.settle()
    assert [text for _, text in await story.comments()].count("customer: two") == 1


async def test_a_word_that_is_refused_for_good_holds_up_no_other(
    story: Linked, monkeypatch: pytest.MonkeyPatch
) -> None:
    await story.settle()
    comment = story.help_desk.comment

    async def choosy(remote_id: str, word: Any) -> str:
        if word.text == "one":
            raise HelpDeskError("django-helpdesk answered 400", permanent=True)
        return await comment(remote_id, word)

    monkeypatch.setattr(story.help_desk, "comment", choosy)
    await story.hear("one")
    await story.hear("two")
    await story.settle()
    assert [text for _, text in await story.comments()] == ["customer: two"]
    async with story.sessions.begin() as session:
        assert "400" in ((await session.get_one(HelpDeskLink, 1)).problem or "")


async def test_a_wrong_password_is_told_and_nothing_is_lost(story: Linked, site: Site) -> None:
    right, wrong = story.help_desk, DjangoHelpdesk(site.url, "otvet", "no", 1)
    with pytest.raises(HelpDeskError, match=r"40[13]"):
        await wrong.check()
    story.sync.help_desk = wrong
    await story.settle()
    assert await story.failing() == 1
    story.sync.help_desk = right
    await story.settle()
    assert (await story.remote())["title"].startswith("№ 1: ")
    await wrong.close()


async def test_a_ticket_that_was_deleted_there_is_said_to_be_and_asked_for_no_more(story: Linked) -> None:
    await story.hear("a person please")
    await story.settle()
    remote_id = (await story.remote())["id"]
    (await asyncio.to_thread(story.agent.delete, f"tickets/{remote_id}/")).raise_for_status()

    async def told() -> list[tuple[str, str]]:
        async with story.sessions.begin() as session:
            rows = await desk.transcript(session, 1)
        return [(each.kind, each.author) for each in rows if "was deleted there" in each.text]

    for _ in range(4):
        await story.settle()
        assert await told() == [], "minutes are not believed"
    for _ in range(3):
        story.clock.ahead += timedelta(minutes=40)
        await story.settle()
    assert await told() == [(NOTE, "system")]
    assert await story.failing() == 0
    assert not await story.sync.changed_there(str(remote_id))
    await story.hear("are you there?")
    await story.act("reply", 1, "Yes", agent="Anna")
    asked: list[str] = []
    story.help_desk._client.event_hooks["request"].append(lambda request: _keep(asked, request))
    await story.settle()
    assert [path for path in asked if f"/{remote_id}/" in path] == []


async def _keep(asked: list[str], request: httpx.Request) -> None:
    asked.append(request.url.path)


async def test_a_ticket_that_was_undone_is_forgotten(story: Linked) -> None:
    assert await story.sync.sync({"ticket_id": 77}) is None


@pytest.fixture
def calling_port() -> int:
    return free_port()


@pytest.fixture
def calling_site(tmp_path: Path, calling_port: int) -> Iterator[Site]:
    """One that calls us at each comment, our own included."""
    folder = tmp_path / "calling"
    folder.mkdir()
    made = Site(folder, f"http://127.0.0.1:{calling_port}/webhooks/helpdesk/word")
    yield made
    made.stop()


async def test_its_webhook_brings_a_comment_at_once_and_its_failure_doubles_nothing(
    tmp_path: Path, make_database: MakeDatabase, calling_site: Site, calling_port: int
) -> None:
    story = Linked(tmp_path, database=make_database())
    await migrate(story.engine)
    story.join(calling_site, tmp_path)
    await story.hear("a person please")
    await story.settle()
    # Nobody listens yet: the comment is stored there, and the answer is 500.
    await story.hear("it is blue")
    await story.settle()
    await story.settle()
    assert [text for _, text in await story.comments()] == ["customer: it is blue"]
    app = FastAPI()
    app.include_router(Webhooks(helpdesk=HelpDeskHook("word", story.sync.changed_there)).router)
    server = uvicorn.Server(uvicorn.Config(app, port=calling_port, log_config=None, lifespan="off"))
    serving = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    await story.say("We have it")
    before = len(story.channel.sent)
    assert await story.timers.run_errands() == 1, "no time has passed"
    await story.assistant.drain()
    assert [message.text for message in story.channel.sent[before:]] == ["We have it"]
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{calling_port}/webhooks/helpdesk/") as caller:
        assert (await caller.post("wrong", json={"ticket": {"id": 1}})).status_code == 401
        assert (await caller.post("word", json={"ticket": {"id": 99999}})).status_code == 200
        assert (await caller.post("word", content=b"nonsense")).status_code == 400
    server.should_exit = True
    await serving
    story.agent.close()
    await story.help_desk.close()
    await story.engine.dispose()
