"""The site chat over its HTTP interface: ledger, turns, sender and web are real, only the understanding is a fake."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from site_harness import Running, Site, running
from sqlalchemy import func, select
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from bot.ledger import InboxRow
from bot.shared import LocalShared, Shared
from bot.shared_redis import RedisShared
from bot.web.app import create_app
from bot.web.chat_api import read_page
from bot.web.guards import BodyLimit, on_http_error, pick_language
from bot.web.markup import render
from handoff.records import Attachment, Conversation, Delivery, Message

PNG = b"\x89PNG\r\n\x1a\n" + b"\x00" * 64
Event = tuple[str, dict[str, Any]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    var = tmp_path_factory.mktemp("site")
    with running(lambda: Site(var, allowed_origins=("https://shop.example",))) as started:
        yield started


@pytest.fixture
async def web(server: Running) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=server.url, timeout=10, headers={"Accept-Language": "en"}) as client:
        yield client


class Browser:
    """One session: posts, and reads the stream as a tab does."""

    def __init__(self, web: httpx.AsyncClient, token: str) -> None:
        self.web, self.headers = web, {"Authorization": f"Bearer {token}"}

    @classmethod
    async def open(cls, web: httpx.AsyncClient) -> Browser:
        response = await web.post("/api/chat/sessions")
        assert response.status_code == 201
        return cls(web, response.json()["token"])

    async def post(self, **body: Any) -> httpx.Response:
        return await self.web.post("/api/chat/messages", json={"client_id": str(uuid4()), **body}, headers=self.headers)

    async def upload(self, name: str, content: bytes) -> httpx.Response:
        files, data = {"file": (name, content, "text/html")}, {"client_id": str(uuid4()), "lang": "en"}
        return await self.web.post("/api/chat/files", files=files, data=data, headers=self.headers)

    async def call_a_person(self) -> dict[str, Any]:
        """The announcement of the handoff."""
        await self.post(kind="start", lang="en")
        await self.until(2)
        await self.post(text="a person please")
        return (await self.until(4))[-1]

    @asynccontextmanager
    async def stream(self, last_event_id: int = 0) -> AsyncIterator[AsyncIterator[Event]]:
        headers = {**self.headers, "Last-Event-ID": str(last_event_id)}
        async with self.web.stream("GET", "/api/chat/events", headers=headers) as response:
            assert response.status_code == 200
            yield _events(response)

    async def until(self, count: int, last_event_id: int = 0) -> list[dict[str, Any]]:
        """The first messages of the transcript, waiting for them to be written."""
        found: list[dict[str, Any]] = []
        async with asyncio.timeout(15), self.stream(last_event_id) as events:
            async for name, data in events:
                found += [data] if name == "message" else []
                if len(found) >= count:
                    break
        return found

    async def history(self, last_event_id: int = 0) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """What is there now: the messages and the state."""
        found: list[dict[str, Any]] = []
        state: dict[str, Any] = {}
        async with asyncio.timeout(15), self.stream(last_event_id) as events:
            async for name, data in events:
                if name == "live":
                    break
                if name == "state":
                    state = data
                else:
                    found.append(data)
        return found, state


async def _events(response: httpx.Response) -> AsyncIterator[Event]:
    name = ""
    async for line in response.aiter_lines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))


async def test_an_opened_chat_is_greeted_and_a_question_answered(web: httpx.AsyncClient) -> None:
    browser = await Browser.open(web)
    assert (await browser.post(kind="start", lang="en")).json() == {"new": True}
    await browser.until(2)
    await browser.post(text="Where is my order?")

    opened, greeting, question, answer = await browser.until(4)

    assert (opened["author"], opened["kind"], opened["text"]) == ("customer", "start", "")
    assert greeting["author"] == "assistant"
    assert "Klyon" in greeting["text"]
    assert (question["author"], question["text"], question["html"]) == ("customer", "Where is my order?", None)
    assert "<strong>My orders</strong>" in answer["html"]
    assert [option["token"] for option in answer["options"]] == ["helped", "not_helped"]


async def test_a_session_is_started_once_however_often_it_is_asked_for(web: httpx.AsyncClient) -> None:
    browser = await Browser.open(web)
    assert [(await browser.post(kind="start", lang="en")).json()["new"] for _ in range(3)] == [True, False, False]
    await browser.until(2)
    assert len((await browser.history())[0]) == 2


async def test_a_message_posted_twice_is_one_message(web: httpx.AsyncClient) -> None:
    browser, client_id = await Browser.open(web), str(uuid4())
    answers = [await browser.post(client_id=client_id, text="Where is my order?") for _ in range(2)]
    assert [answer.json()["new"] for answer in answers] == [True, False]

    await browser.until(3)

    messages, _ = await browser.history()
    assert [message["client_id"] for message in messages if message["author"] == "customer"] == [client_id]


async def test_the_same_id_in_two_sessions_is_two_messages(web: httpx.AsyncClient) -> None:
    first, second, client_id = await Browser.open(web), await Browser.open(web), str(uuid4())
    assert (await first.post(client_id=client_id, text="order")).json()["new"]
    assert (await second.post(client_id=client_id, text="order")).json()["new"]


async def test_a_choice_is_taken_by_its_token(web: httpx.AsyncClient) -> None:
    browser = await Browser.open(web)
    await browser.post(text="how do I return it")
    clarify = (await browser.until(3))[-1]
    assert [option["token"] for option in clarify["options"]] == [
        "article:return-period",
        "article:return-how",
        "person",
    ]

    await browser.post(kind="choice", choice="article:return-period")

    chosen, answer = await browser.until(2, clarify["id"])
    assert chosen["text"] == "Return period"
    assert "14 days" in answer["text"]


async def test_a_persons_reply_comes_live_and_the_state_tells_who_has_the_conversation(
    web: httpx.AsyncClient, server: Running
) -> None:
    browser = await Browser.open(web)
    announcement = await browser.call_a_person()
    _, state = await browser.history()
    assert state["owner"] == "person"
    assert str(state["ticket_id"]) in announcement["text"]

    async with asyncio.timeout(15), browser.stream(announcement["id"]) as events:
        assert [(await anext(events))[0] for _ in range(2)] == ["state", "live"]
        await asyncio.to_thread(server.call, server.site.agent_says(state["ticket_id"], "I am **here**"))
        name, reply = await anext(events)
        assert (name, reply["author"], reply["agent_name"]) == ("message", "agent", "Anna")
        assert reply["html"] == "<p>I am <strong>here</strong></p>"

    await asyncio.to_thread(server.call, server.site.agent_resolves(state["ticket_id"]))
    _, state = await browser.history()
    assert state == {"owner": "assistant", "ticket_id": None}


@pytest.mark.parametrize("with_redis", [True, False], ids=["through Valkey", "by looking every second"])
async def test_a_reply_that_another_process_sends_comes_live(with_redis: bool, tmp_path: Path, valkey_url: str) -> None:
    def shared() -> Shared:
        return RedisShared(valkey_url) if with_redis else LocalShared(alone=False)

    # No sender in the one, no listener in the other: as `--role web` and `--role worker`.
    worker = Site(tmp_path, shared=shared())
    await worker.prepare()
    with running(lambda: Site(tmp_path, shared=shared(), works=False, idle_poll_seconds=60)) as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=10, headers={"Accept-Language": "en"}) as web:
            if with_redis:
                while not server.site.channel.shared.live:  # noqa: ASYNC110 - nothing tells when
                    await asyncio.sleep(0.01)
            browser = await Browser.open(web)
            await browser.post(text="a person please")
            await worker.assistant.drain()
            last = (await browser.until(3))[-1]["id"]
            async with asyncio.timeout(15), browser.stream(last) as events:
                assert [(await anext(events))[0] for _ in range(2)] == ["state", "live"]
                await asyncio.sleep(0.3)  # past the looks of the beginning
                _, state = await browser.history()
                await worker.agent_says(state["ticket_id"], "I am here")
                began = time.monotonic()
                await worker.assistant.drain()
                _, message = await anext(events)
                assert message["text"] == "I am here"
                assert time.monotonic() - began < (0.8 if with_redis else 2.5)
    await worker.engine.dispose()
    await worker.channel.shared.close()


async def test_what_the_customer_adds_to_a_ticket_reaches_every_tab_though_nothing_answers_it(
    web: httpx.AsyncClient,
) -> None:
    browser = await Browser.open(web)
    last = (await browser.call_a_person())["id"]
    async with asyncio.timeout(15), browser.stream(last) as one, browser.stream(last) as other:
        for events in (one, other):
            assert [(await anext(events))[0] for _ in range(2)] == ["state", "live"]
        await browser.post(text="and hurry")
        for events in (one, other):
            name, message = await anext(events)
            assert (name, message["text"]) == ("message", "and hurry")


async def test_whoever_has_the_chat_open_is_present(web: httpx.AsyncClient, server: Running) -> None:
    browser = await Browser.open(web)
    chat_id = hashlib.sha256(browser.headers["Authorization"].removeprefix("Bearer ").encode()).hexdigest()
    shared = server.site.channel.shared
    assert chat_id not in await shared.present("site")
    await browser.history()
    assert chat_id in await shared.present("site")


async def test_a_stream_goes_on_after_the_last_message_that_was_seen(web: httpx.AsyncClient) -> None:
    browser = await Browser.open(web)
    await browser.post(text="order")
    everything = await browser.until(3)
    rest, _ = await browser.history(everything[0]["id"])
    assert rest == everything[1:]
    assert (await browser.history(everything[-1]["id"]))[0] == []


async def test_a_reply_that_may_yet_be_discarded_is_not_shown_and_nothing_overtakes_it(
    tmp_path: Path,
) -> None:
    site = Site(tmp_path, idle_poll_seconds=0.1)
    await site.prepare()  # without the sender, so that replies stay where they are put
    transport = httpx.ASGITransport(site.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://site") as client:
        await Browser.open(client)
    async with site.sessions.begin() as session:
        conversation = (await session.scalars(select(Conversation))).one()
        now = site.clock()
        rows = [
            Message(
                conversation_id=conversation.id,
                author=author,
                text=text,
                delivery=delivery,
                sent_at=now,
                created_at=now,
            )
            for author, text, delivery in (
                ("customer", "one", None),
                ("assistant", "outdated", Delivery.DISCARDED),
                ("assistant", "waiting", Delivery.QUEUED),
                ("customer", "two", None),
            )
        ]
        session.add_all(rows)
    page = await read_page(site.sessions, conversation.id, conversation.chat_id, 0)
    assert ([message.text for message in page.messages], page.unsettled) == (["one"], True)

    async with site.sessions.begin() as session:
        (await session.get_one(Message, rows[2].id)).delivery = Delivery.SENDING
    page = await read_page(site.sessions, conversation.id, conversation.chat_id, page.messages[-1].id)
    assert ([message.text for message in page.messages], page.unsettled) == (["waiting", "two"], False)
    await site.engine.dispose()


async def test_markup_in_a_message_stays_text(web: httpx.AsyncClient) -> None:
    browser, text = await Browser.open(web), "<script>alert(1)</script> {{ 7*7 }} **order**"
    await browser.post(text=text)
    question, *_ = await browser.until(1)
    assert (question["text"], question["html"]) == (text, None)


async def test_a_hundred_thousand_characters_are_kept_and_one_more_is_refused(
    web: httpx.AsyncClient, server: Running
) -> None:
    browser = await Browser.open(web)
    assert (await browser.post(text="😀" * 100_000)).status_code == 202
    refused = await browser.post(text="x" * 100_001)
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "too_long")
    question, *_ = await browser.until(1)
    assert len(question["text"]) == 100_000


async def test_half_a_character_does_no_harm(web: httpx.AsyncClient) -> None:
    browser = await Browser.open(web)
    headers = {**browser.headers, "Content-Type": "application/json"}
    content = f'{{"client_id": "{uuid4()}", "text": "a\\ud800"}}'.encode()
    assert (await web.post("/api/chat/messages", content=content, headers=headers)).status_code == 202
    question, *_ = await browser.until(1)
    assert question["text"].startswith("a")


async def test_characters_that_no_database_stores_do_no_harm(web: httpx.AsyncClient) -> None:
    browser = await Browser.open(web)
    assert (await browser.post(text="a\x00b \u202e c")).status_code == 202
    question, *_ = await browser.until(1)
    assert question["text"].startswith("a\ufffdb \u202e c")


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"\xff\xfe",
        b'{"client_id": "1", "text": "hi"}',
        b'{"client_id": "6f1c2f8e-58a5-4d52-9a8e-52f2a7a1f1aa", "text": 1}',
        b'{"client_id": "6f1c2f8e-58a5-4d52-9a8e-52f2a7a1f1aa", "kind": "choice"}',
        b'{"client_id": "6f1c2f8e-58a5-4d52-9a8e-52f2a7a1f1aa", "kind": "agent", "text": "hi"}',
        b'{"client_id": "6f1c2f8e-58a5-4d52-9a8e-52f2a7a1f1aa", "text": "hi", "author": "agent"}',
    ],
)
async def test_a_malformed_message_is_refused_in_words(web: httpx.AsyncClient, body: bytes) -> None:
    browser = await Browser.open(web)
    headers = {**browser.headers, "Content-Type": "application/json", "Accept-Language": "ru"}
    response = await web.post("/api/chat/messages", content=body, headers=headers)
    assert response.status_code in (400, 422)
    assert response.json()["error"]["message"].endswith(".")
    assert (await browser.history())[0] == []


@pytest.mark.parametrize("authorization", ["", "Bearer", "Bearer nobody", "Basic nobody", "Bearer " + "x" * 5000])
async def test_nothing_is_told_without_a_known_token(web: httpx.AsyncClient, authorization: str) -> None:
    headers = {"Authorization": authorization}
    for response in (
        await web.get("/api/chat/events", headers=headers),
        await web.get("/api/chat/files/1", headers=headers),
        await web.post("/api/chat/messages", json={"client_id": str(uuid4()), "text": "hi"}, headers=headers),
    ):
        assert response.status_code == 401
        assert response.json()["error"]["message"] == "This conversation is gone. Start a new one."


async def test_the_database_knows_no_token(web: httpx.AsyncClient, server: Running) -> None:
    browser = await Browser.open(web)
    token = browser.headers["Authorization"].removeprefix("Bearer ")
    assert len(token) >= 43  # 256 bits
    for path in server.site.database.parent.glob("otvet.sqlite3*"):
        assert token.encode() not in path.read_bytes()


async def test_a_file_is_kept_by_its_content_and_only_its_owner_gets_it(
    web: httpx.AsyncClient, server: Running
) -> None:
    browser, stranger = await Browser.open(web), await Browser.open(web)
    assert (await browser.upload("../../etc/ph\u202eoto.png", PNG)).status_code == 202
    message, reply = (await browser.until(2))[0], (await browser.until(3))[-1]
    (attachment,) = message["attachments"]
    assert (attachment["name"], attachment["kind"], attachment["inline"]) == ("photo.png", "photo", True)
    assert "photo" in reply["text"].lower()

    response = await web.get(f"/api/chat/files/{attachment['id']}", headers=browser.headers)
    assert (response.content, response.headers["content-type"]) == (PNG, "image/png")
    assert (await web.get(f"/api/chat/files/{attachment['id']}", headers=stranger.headers)).status_code == 404


async def test_an_agents_file_is_shown_to_its_customer_alone(web: httpx.AsyncClient, server: Running) -> None:
    browser, stranger = await Browser.open(web), await Browser.open(web)
    announced = await browser.call_a_person()
    (_, state) = await browser.history()

    async def answer() -> None:
        async def chunks() -> AsyncIterator[bytes]:
            yield PNG

        file = await server.site.channel.store.store(chunks(), "чек.png")
        async with server.site.sessions.begin() as session:
            await server.site.desk.reply(session, state["ticket_id"], "Вот", agent="Anna", files=[file])

    await asyncio.to_thread(server.call, answer())
    (said,) = await browser.until(1, last_event_id=announced["id"])
    (attachment,) = said["attachments"]
    assert (said["text"], said["agent_name"]) == ("Вот", "Anna")
    assert (attachment["name"], attachment["kind"], attachment["inline"]) == ("чек.png", "photo", True)
    response = await web.get(f"/api/chat/files/{attachment['id']}", headers=browser.headers)
    assert (response.content, response.headers["content-type"]) == (PNG, "image/png")
    assert (await web.get(f"/api/chat/files/{attachment['id']}", headers=stranger.headers)).status_code == 404


async def test_a_page_uploaded_as_a_picture_is_only_ever_saved(web: httpx.AsyncClient) -> None:
    browser = await Browser.open(web)
    await browser.upload("photo.png", b"<html><script>alert(1)</script>")
    (attachment,) = (await browser.until(1))[0]["attachments"]
    assert (attachment["kind"], attachment["inline"]) == ("document", False)
    response = await web.get(f"/api/chat/files/{attachment['id']}", headers=browser.headers)
    assert response.headers["content-type"] == "application/octet-stream"
    assert response.headers["content-disposition"].startswith("attachment")
    assert response.headers["x-content-type-options"] == "nosniff"


async def test_a_file_over_the_limit_is_refused_and_leaves_nothing_behind(
    web: httpx.AsyncClient, server: Running
) -> None:
    browser = await Browser.open(web)
    before = sorted(server.site.channel.store.folder.rglob("*"))
    for size in (200_001, 5_000_000):  # within the body's limit, and over it
        refused = await browser.upload("big.bin", b"x" * size)
        assert (refused.status_code, refused.json()["error"]["code"]) == (413, "too_large")
    assert sorted(server.site.channel.store.folder.rglob("*")) == before
    assert (await browser.history())[0] == []


async def test_a_body_that_hides_its_size_is_refused_all_the_same(web: httpx.AsyncClient) -> None:
    browser = await Browser.open(web)

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(40):
            yield b" " * 100_000

    headers = {**browser.headers, "Content-Type": "application/json"}
    try:
        response = await web.post("/api/chat/messages", content=endless(), headers=headers)
    except httpx.TransportError:
        return  # the server hung up while the body was still coming
    assert response.status_code == 413


async def test_too_many_messages_are_slowed_down_and_go_on_after_a_minute(tmp_path: Path) -> None:
    site = Site(tmp_path, messages_a_minute=3)
    await site.prepare()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(site.app), base_url="http://site") as client:
        browser, other = await Browser.open(client), await Browser.open(client)
        assert [(await browser.post(text="hi")).status_code for _ in range(4)] == [202, 202, 202, 429]
        refused = await browser.post(text="hi")
        assert 1 <= int(refused.headers["Retry-After"]) <= 61
        assert (await other.post(text="hi")).status_code == 202
        site.clock.advance(61)
        assert (await browser.post(text="hi")).status_code == 202
        async with site.sessions() as session:
            assert await session.scalar(select(func.count()).select_from(InboxRow)) == 5
    await site.engine.dispose()


async def test_sessions_are_limited_by_address(tmp_path: Path) -> None:
    site = Site(tmp_path)
    await site.prepare()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(site.app), base_url="http://site") as client:
        codes = [(await client.post("/api/chat/sessions")).status_code for _ in range(31)]
    assert codes == [201] * 30 + [429]
    await site.engine.dispose()


async def test_whoever_has_many_addresses_opens_no_more_sessions_than_others(tmp_path: Path) -> None:
    site = Site(tmp_path)
    await site.prepare()
    codes = []
    for number in range(31):
        visitor = httpx.ASGITransport(site.app, client=(f"2001:db8:1:2::{number:x}", 1))
        async with httpx.AsyncClient(transport=visitor, base_url="http://site") as client:
            codes.append((await client.post("/api/chat/sessions")).status_code)
    assert codes == [201] * 30 + [429]
    await site.engine.dispose()


async def test_a_turn_that_breaks_ends_at_a_person_and_the_browser_hears_it(web: httpx.AsyncClient) -> None:
    browser = await Browser.open(web)
    await browser.post(kind="start", lang="en")
    await browser.until(2)
    await browser.post(text="boom")
    announcement = (await browser.until(4))[-1]
    assert "Ticket No." in announcement["text"]
    assert (await browser.history())[1]["owner"] == "person"


async def test_pages_forbid_scripts_of_others_and_name_who_may_embed_them(web: httpx.AsyncClient) -> None:
    chat, shop, health = [await web.get(path) for path in ("/chat", "/", "/healthz")]
    for response in (chat, shop, health):
        policy = response.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["referrer-policy"] == "no-referrer"
    assert "frame-ancestors 'self' https://shop.example" in chat.headers["content-security-policy"]
    assert "frame-ancestors 'none'" in shop.headers["content-security-policy"]
    assert "style=" not in chat.text + shop.text
    assert "<script>" not in chat.text + shop.text


@pytest.mark.parametrize("origin", ["https://a.example; script-src *", "shop.example", "https://a.example/path", ""])
def test_an_origin_that_is_none_stops_the_start(tmp_path: Path, origin: str) -> None:
    with pytest.raises(ValueError, match="not an origin"):
        Site(tmp_path, allowed_origins=(origin,))


async def test_pages_speak_the_visitors_language(web: httpx.AsyncClient) -> None:
    assert '<html lang="en">' in (await web.get("/")).text
    assert '<html lang="ru">' in (await web.get("/", headers={"Accept-Language": "ru-RU,ru;q=0.9,en;q=0.8"})).text
    assert '<html lang="ru">' in (await web.get("/chat?lang=ru")).text
    assert '<html lang="en">' in (await web.get("/chat?lang=%3Cscript%3E")).text


@pytest.mark.parametrize(
    ("accept", "lang"),
    [(None, "ru"), ("en", "en"), ("de, en;q=0.5, ru;q=0.4", "en"), ("en;q=0.1,ru", "ru"), ("*", "ru"), (";;q=x", "ru")],
)
def test_accept_language_is_read_with_its_weights(accept: str | None, lang: str) -> None:
    assert pick_language(accept) == lang


@pytest.mark.parametrize(("pause", "status"), [(0.0, 200), (0.2, 408)])
async def test_a_body_that_only_trickles_is_not_waited_for(pause: float, status: int) -> None:
    async def length(request: Request) -> Response:
        return JSONResponse({"length": len(await request.body())})

    async def trickle() -> AsyncIterator[bytes]:
        for _ in range(5):
            yield b"x"
            await asyncio.sleep(pause)

    app = Starlette(routes=[Route("/", length, methods=["POST"])], exception_handlers={HTTPException: on_http_error})
    app.add_middleware(BodyLimit, default_bytes=100, by_path={}, free="/free", seconds=0.5)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://site") as client:
        answer = await client.post("/", content=trickle())
    assert answer.status_code == status


async def test_a_process_keeps_no_more_chats_open_than_it_was_told(tmp_path: Path) -> None:
    with running(lambda: Site(tmp_path, max_streams=1)) as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=10) as web:
            one, other = await Browser.open(web), await Browser.open(web)
            async with one.stream() as events:
                await anext(events)
                refused = await web.get("/api/chat/events", headers=other.headers)
                assert (refused.status_code, refused.json()["error"]["code"]) == (429, "too_often")
            async with asyncio.timeout(5):
                while server.site.channel.shared.listeners():  # noqa: ASYNC110 - nothing tells when
                    await asyncio.sleep(0.05)
            await other.history()


async def test_a_session_uploads_so_many_files_and_then_has_to_wait(tmp_path: Path) -> None:
    site = Site(tmp_path)
    await site.prepare()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(site.app), base_url="http://site") as client:
        browser = await Browser.open(client)
        codes = [(await browser.upload("a.png", PNG)).status_code for _ in range(11)]
        assert codes == [202] * 10 + [429]
        assert (await browser.post(text="hi")).status_code == 202
    await site.engine.dispose()


async def test_readiness_is_told_apart_from_life(tmp_path: Path) -> None:
    async def problems() -> list[str]:
        return ["no model is loaded"]

    site = Site(tmp_path, problems=problems)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(site.app), base_url="http://site") as client:
        assert (await client.get("/healthz")).status_code == 200
        assert (await client.get("/readyz")).status_code == 503
    await site.engine.dispose()


async def test_unknown_addresses_are_answered_in_words(web: httpx.AsyncClient) -> None:
    for path in ("/nowhere", "/static/nothing.js", "/static/../app.py", "/api/chat/nothing"):
        response = await web.get(path)
        assert (response.status_code, response.json()["error"]["message"]) == (404, "There is nothing here.")


def test_the_chat_with_its_widget_weighs_less_than_60_kilobytes() -> None:
    folder = Path(create_app.__code__.co_filename).parent
    assert (
        sum(
            path.stat().st_size
            for path in folder.rglob("*")
            if path.suffix in (".js", ".css", ".svg", ".html")
            and not {
                "desk",
                "studio",
                "vendor",
                "notes",
                "prove",
                "flows",
                "studio_gaps",
                "studio_review",
                "studio_versions",
            }
            & {*path.parts[len(folder.parts) :], path.stem.split("-")[0]}
        )
        < 60_000
    )


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("<img src=x onerror=alert(1)>", "<p>&lt;img src=x onerror=alert(1)&gt;</p>"),
        ("[x](javascript:alert(1))", "<p>[x](javascript:alert(1))</p>"),
        ("[x](data:text/html,1)", "<p>[x](data:text/html,1)</p>"),
        ("![x](https://a.example/pixel.png)", '<p>!<a href="https://a.example/pixel.png"'),
        ("see https://a.example/b, ok", '<p>see <a href="https://a.example/b" target="_blank"'),
        ("see http://a.example", '<a href="http://a.example" target="_blank" rel="noopener noreferrer nofollow">'),
        ("**a** and\nb", "<p><strong>a</strong> and<br>\nb</p>"),
        ("1. a\n2. b", "<ol>\n<li>a</li>\n<li>b</li>\n</ol>"),
        ("", ""),
    ],
)
def test_markdown_becomes_a_few_safe_elements(text: str, html: str) -> None:
    assert html in render(text)


def test_a_link_is_not_linked_twice() -> None:
    assert render("[https://a.example](https://a.example) <https://b.example>").count("<a ") == 2


def test_attachments_are_named_by_their_content(server: Running) -> None:
    async def rows() -> list[Attachment]:
        async with server.site.sessions() as session:
            return list(await session.scalars(select(Attachment)))

    for row in server.call(rows()):
        assert row.sha256
        assert server.site.channel.store.path(row.sha256).is_file()
