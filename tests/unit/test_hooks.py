"""Webhooks both ways: signed, retried, done once, and never into a private network unasked."""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from databases import MakeDatabase
from fastapi import FastAPI
from sqlalchemy import select
from standardwebhooks.webhooks import Webhook
from test_agent_desk import Story

from bot.addresses import is_public
from bot.database import migrate
from bot.errors import SettingsError
from bot.hooks import HOOK, MAX_ATTEMPTS, HookEvent, HookReceiver, Hooks, HookState, new_secret, retry
from bot.timers import Timers
from bot.web.webhooks import EVENTS_PATH, Webhooks
from handoff.lifecycle import TicketStatus

SECRET, IN_SECRET = new_secret(), new_secret()


class Receiver:
    """A server that verifies what it is sent with the specification's own library."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.ids: list[str] = []
        self.status = 200
        self.location: str | None = None
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.ids.append(self.headers["webhook-id"])
                if receiver.status == 200:
                    receiver.events.append(Webhook(SECRET).verify(body, dict(self.headers)))
                self.send_response(receiver.status)
                if receiver.location:
                    self.send_header("Location", receiver.location)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/events?key=1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.server.shutdown()
    made.server.server_close()


class Hooked(Story):
    hooks: Hooks
    timers: Timers

    def hook(self, url: str, **how: Any) -> None:
        # The signature's time is the real one, whatever the story's clock says.
        now = {"clock": lambda: datetime.now(UTC), "private": True, **how}
        self.hooks = Hooks(url=url, secret=SECRET, sessions=self.sessions, **now)
        self.desk.tickets.history.listeners.append(self.hooks.heard)
        self.timers = Timers(self.sessions, self.clock)
        self.timers.register_errand(HOOK, self.hooks.send)
        self.receiver = HookReceiver(
            secret=IN_SECRET, desk=self.desk, sessions=self.sessions, clock=lambda: datetime.now(UTC)
        )
        app = FastAPI()
        app.include_router(Webhooks(events=self.receiver.take).router)
        self.caller = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://otvet")

    async def send(self, **time: float) -> None:
        await self.wait(**(time or {"seconds": 1}))
        await self.timers.run_errands()

    async def stored(self) -> list[HookEvent]:
        async with self.sessions.begin() as session:
            return list(await session.scalars(select(HookEvent).order_by(HookEvent.created_at)))

    async def call(
        self, kind: str, event_id: str = "msg_1", secret: str = IN_SECRET, at: datetime | None = None, **data: Any
    ) -> httpx.Response:
        body, at = json.dumps({"type": kind, "data": data}), at or datetime.now(UTC)
        headers = {
            "webhook-id": event_id,
            "webhook-timestamp": str(int(at.timestamp())),
            "webhook-signature": Webhook(secret).sign(event_id, at, body),
        }
        response = await self.caller.post(EVENTS_PATH, content=body, headers=headers)
        await self.assistant.drain()
        return response


@pytest.fixture
async def story(tmp_path: Path, make_database: MakeDatabase, receiver: Receiver) -> AsyncIterator[Hooked]:
    made = Hooked(tmp_path, database=make_database())
    await migrate(made.engine)
    made.hook(receiver.url)
    await made.hear("where is my order")
    await made.hear("a person please", phone="+79161234567")
    yield made
    await made.caller.aclose()
    await made.engine.dispose()


async def test_what_happens_to_a_ticket_is_told_signed_and_once(story: Hooked, receiver: Receiver) -> None:
    await story.act("reply", 1, "On its way", agent="Anna")
    await story.send()
    await story.send()
    by_type = {event["type"]: event["data"] for event in receiver.events}
    assert len(receiver.events) == len(set(receiver.ids)) == len(by_type)
    made = by_type["ticket.created"]
    assert (made["ticket_id"], made["reason"], made["customer"]["phone"]) == (1, "asked_for_person", "+79161234567")
    assert by_type["ticket.agent_replied"]["text"] == "On its way"
    assert {event.state for event in await story.stored()} == {HookState.SENT}


async def test_a_receiver_that_fails_is_asked_again_with_the_same_id(story: Hooked, receiver: Receiver) -> None:
    receiver.status = 503
    await story.send()
    receiver.status = 200
    await story.send(minutes=1)
    assert len(receiver.events) == 1
    assert len(receiver.ids) == 2
    assert len(set(receiver.ids)) == 1


async def test_after_a_day_it_is_given_up_visibly_and_can_be_sent_again(story: Hooked, receiver: Receiver) -> None:
    receiver.status = 500
    for _ in range(MAX_ATTEMPTS + 2):
        await story.send(hours=1)
    dead = [event for event in await story.stored() if event.type == "ticket.created"]
    assert [(event.state, event.attempts, event.error) for event in dead] == [
        (HookState.DEAD, MAX_ATTEMPTS, "answered 500")
    ]
    receiver.status = 200
    async with story.sessions.begin() as session:
        assert await retry(session, story.clock(), dead[0].id) == 1
    await story.send()
    assert receiver.events[0]["type"] == "ticket.created"


async def test_who_says_gone_is_asked_no_more(story: Hooked, receiver: Receiver) -> None:
    receiver.status = 410
    await story.send()
    assert [event.state for event in await story.stored()] == [HookState.DEAD]


async def test_a_redirection_is_not_followed(story: Hooked, receiver: Receiver) -> None:
    other = Receiver()
    receiver.status, receiver.location = 307, other.url
    await story.send()
    other.server.shutdown()
    other.server.server_close()
    assert other.ids == []
    assert (await story.stored())[0].error == "answered 307"


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "192.168.1.1",
        "169.254.169.254",
        "::1",
        "fe80::1%eth0",
        "::ffff:10.0.0.1",
        "0.0.0.0",  # noqa: S104
        "64:ff9b::7f00:1",
        "2002:a00:1::",
    ],
)
def test_addresses_inside_are_private(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946"])
def test_addresses_outside_are_public(address: str) -> None:
    assert is_public(address)


async def test_a_name_that_leads_inside_is_not_called_unless_it_was_allowed(
    tmp_path: Path, make_database: MakeDatabase
) -> None:
    story = Hooked(tmp_path, database=make_database())
    await migrate(story.engine)
    with pytest.raises(SettingsError, match="https"):
        story.hook("http://tracker.example/events", private=False)
    story.hook("https://localhost:1/events", private=False)
    await story.hear("a person please")
    await story.send()
    assert "private network" in ((await story.stored())[0].error or "")
    await story.caller.aclose()
    await story.engine.dispose()


@pytest.mark.parametrize("secret", ["", "word", "whsec_c2hvcnQ="])
def test_a_secret_that_is_none_stops_the_start(secret: str) -> None:
    with pytest.raises(SettingsError, match="OTVET_HOOK_IN_SECRET"):
        HookReceiver(secret=secret, desk=None, sessions=None, clock=None)  # type: ignore[arg-type]


async def test_a_task_that_is_done_elsewhere_answers_the_customer_once(story: Hooked) -> None:
    await story.act("hold", 1, task="DEV-17", until=None, agent="Anna")
    before = len(story.channel.sent)
    answer = await story.call("task.done", task="DEV-17", outcome="It is repaired")
    assert (answer.status_code, answer.json()) == (200, {"tickets": [1]})
    assert (await story.call("task.done", task="DEV-17", outcome="It is repaired")).json() == {"repeat": True}
    (said,) = [message.text for message in story.channel.sent[before:]]
    assert "It is repaired" in said
    assert (await story.ticket()).status is TicketStatus.OPEN


async def test_a_comment_is_a_note_unless_it_says_that_it_is_public(story: Hooked) -> None:
    before = len(story.channel.sent)
    await story.call("ticket.comment", "a", ticket_id=1, text="for us alone")
    await story.call("ticket.comment", "b", ticket_id=1, text="for you", public=True, agent="Boris")
    assert [(m.text, m.agent_name) for m in story.channel.sent[before:]] == [("for you", "Boris")]
    assert [m.text for m in await story.transcript() if m.kind == "note"] == ["for us alone"]


async def test_a_status_from_elsewhere_moves_the_ticket(story: Hooked) -> None:
    await story.act("reply", 1, "Sent again today", agent="Anna")
    await story.call("ticket.status", "a", ticket_id=1, status="resolved")
    assert (await story.ticket()).status is TicketStatus.AWAITING_FEEDBACK
    await story.call("ticket.status", "b", ticket_id=1, status="closed", why="duplicate")
    assert (await story.ticket()).status is TicketStatus.CLOSED
    await story.call("ticket.status", "c", ticket_id=1, status="open")
    assert (await story.ticket()).status is TicketStatus.OPEN
    answer = await story.call("ticket.status", "d", ticket_id=1, status="open")
    assert answer.status_code == 409
    assert (await story.call("ticket.status", "e", ticket_id=77, status="open")).status_code == 404


async def test_what_is_opened_elsewhere_goes_on_whatever_it_waited_for(story: Hooked) -> None:
    await story.act("reply", 1, "Sent again today", agent="Anna")
    await story.act("finish", 1, agent="Anna")
    assert (await story.call("ticket.status", "a", ticket_id=1, status="open")).status_code == 200
    assert (await story.ticket()).status is TicketStatus.OPEN
    assert await story.wait(hours=3) == [], "nobody is asked whether it helped"
    await story.act("hold", 1, task="DEV-17", until=None, agent="Anna")
    assert (await story.call("ticket.status", "b", ticket_id=1, status="open")).status_code == 200
    assert (await story.ticket()).status is TicketStatus.OPEN


async def test_what_could_not_be_done_is_not_taken_for_done(story: Hooked) -> None:
    assert (await story.call("ticket.status", "a", ticket_id=1, status="open")).status_code == 409
    await story.act("close", 1, why="spam", agent="Anna")
    assert (await story.call("ticket.status", "a", ticket_id=1, status="open")).status_code == 200


async def test_what_is_not_signed_in_time_with_our_secret_is_refused(story: Hooked) -> None:
    wrong = await story.call("task.done", task="DEV-17", secret=SECRET)
    old = await story.call("task.done", task="DEV-17", at=datetime(2026, 1, 1, tzinfo=UTC))
    bare = await story.caller.post(EVENTS_PATH, content=b"{}")
    assert [answer.status_code for answer in (wrong, old, bare)] == [401, 401, 401]
    headers = {"webhook-id": "a", "webhook-timestamp": "1", "webhook-signature": "v1,*"}
    assert (await story.caller.post(EVENTS_PATH, content=b"\xff", headers=headers)).status_code == 401


async def test_what_is_not_understood_says_what_is_wrong(story: Hooked) -> None:
    answer = await story.call("ticket.comment", ticket_id="one", text="")
    assert answer.status_code == 400
    assert "ticket_id" in answer.json()["error"]
    assert (await story.call("ticket.painted", "z")).status_code == 202
