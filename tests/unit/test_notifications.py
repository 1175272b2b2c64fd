"""What agents are told beside the desk, by a real HTTP server and a real mail server."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session
from databases import MakeDatabase
from sqlalchemy import select
from test_agent_desk import Story

from bot.database import migrate
from bot.errors import DeliveryError
from bot.notifications import (
    NOTIFY,
    UNASSIGNED,
    Notice,
    Notices,
    NoticeState,
    apprise_deliver,
    quiet_until,
    shown_address,
)
from bot.timers import Timer, Timers
from handoff.clocks import ClockKind
from handoff.lifecycle import TicketStatus
from handoff.records import Agent, ClockRow, Delivery, Message, TeamNotify
from handoff.staff import put_agent

MOSCOW = ZoneInfo("Europe/Moscow")


class Box:
    """An HTTP server that keeps what it is sent."""

    def __init__(self) -> None:
        self.received: list[dict[str, Any]] = []
        self.status = 200
        box = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if box.status == 200:
                    box.received.append(json.loads(body))
                self.send_response(box.status)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def address(self, name: str) -> str:
        return f"json://user:secret@127.0.0.1:{self.port}/{name}"

    @property
    def bodies(self) -> list[str]:
        return [f"{item['title']}\n{item['message']}" for item in self.received]


@pytest.fixture
def box() -> Iterator[Box]:
    made = Box()
    yield made
    made.server.shutdown()
    made.server.server_close()


class Watched(Story):
    """A story whose agents are told."""

    notices: Notices
    timers: Timers

    def watch(self) -> None:
        self.notices = Notices(
            tickets=self.desk.tickets, replies=self.desk._replies, clock=self.clock, sessions=self.sessions
        )
        self.desk.tickets.history.listeners.append(self.notices.heard)
        self.desk.notices = self.notices
        self.timers = Timers(self.sessions, self.clock)
        self.timers.register(UNASSIGNED, self.notices.fire_unassigned)
        self.timers.register_errand(NOTIFY, self.notices.send)

    async def agent(self, name: str = "Anna", **fields: Any) -> Agent:
        async with self.sessions.begin() as session:
            return await put_agent(session, name, now=self.clock(), **{"teams": ["first-line"], **fields})

    async def team(self, name: str, *addresses: str) -> None:
        async with self.sessions.begin() as session:
            await session.merge(TeamNotify(team=name, addresses=list(addresses)))

    async def later(self, **time: float) -> None:
        await self.wait(**time)
        await self.timers.fire_due()
        await self.timers.run_errands()

    async def clock_of(self, kind: ClockKind) -> ClockRow:
        async with self.sessions.begin() as session:
            return await session.get_one(ClockRow, (1, kind))

    async def states(self) -> list[tuple[str, NoticeState]]:
        async with self.sessions.begin() as session:
            rows = await session.scalars(select(Notice).order_by(Notice.id))
            return [(row.event, row.state) for row in rows]


@pytest.fixture
async def story(tmp_path: Path, make_database: MakeDatabase) -> AsyncIterator[Watched]:
    made = Watched(tmp_path, database=make_database())
    await migrate(made.engine)
    made.clock.ahead = datetime(2027, 3, 1, 9, tzinfo=UTC) - datetime.now(UTC)  # a Monday, noon in Moscow
    made.watch()
    yield made
    await made.engine.dispose()


async def test_an_agent_is_told_of_his_ticket_and_of_what_the_customer_writes_in_one_message(
    story: Watched, box: Box
) -> None:
    await story.agent(notify=[box.address("anna")], langs=["en"])
    await story.hear("a person please")
    await story.wait(seconds=1)
    await story.hear("are you there?")
    assert box.bodies == [], "what follows within seconds joins it"
    await story.later(seconds=30)
    (body,) = box.bodies
    assert "it is yours" in body
    assert "the customer wrote" in body
    assert "are you there" not in body, "the customer's words stay here"
    await story.later(hours=3)
    assert sum("it is yours" in each for each in box.bodies) == 1, "once"


async def test_a_team_hears_of_a_new_ticket_and_of_one_that_nobody_takes(story: Watched, box: Box) -> None:
    await story.team("first-line", box.address("team"))
    await story.hear("a person please")
    await story.later(seconds=30)
    await story.later(minutes=5)
    await story.later(seconds=30)
    assert ["новое обращение" in box.bodies[0], "никто не взял" in box.bodies[1]] == [True, True]


async def test_a_team_hears_once_that_a_customer_writes_again_in_a_ticket_that_nobody_has(
    story: Watched, box: Box
) -> None:
    await story.team("first-line", box.address("team"))
    await story.hear("a person please")
    await story.later(minutes=6)
    await story.act("reply", 1, "A moment", agent="somebody without an account")
    await story.later(minutes=6)
    box.received.clear()
    for number in range(10):
        await story.hear(f"are you there? {number}")
    await story.later(seconds=30)
    assert [("клиент написал" in body, "ничьё" in body) for body in box.bodies] == [(True, True)]
    box.received.clear()
    await story.later(minutes=5)
    await story.later(seconds=30)
    assert ["никто не взял" in body for body in box.bodies] == [True]


async def test_a_clock_warns_the_agent_and_its_breach_tells_the_team_too(story: Watched, box: Box) -> None:
    await story.agent(notify=[box.address("anna")], langs=["en"])
    await story.team("*", box.address("everybody"))
    await story.hear("a person please")
    await story.later(minutes=1)
    box.received.clear()
    await story.later(minutes=7)
    await story.later(seconds=30)
    assert any("time is running out" in body for body in box.bodies)
    box.received.clear()
    await story.later(minutes=3)
    assert any("LATE" in body for body in box.bodies)
    assert any("ПРОСРОЧЕНО" in body for body in box.bodies)


async def test_whom_a_note_names_is_told(story: Watched, box: Box) -> None:
    await story.agent("Olga Orlova", notify=[box.address("olga")], langs=["en"], teams=["logistics"])
    await story.hear("a person please")
    await story.act("note", 1, "have a look, @olga orlova, at this", agent="Anna")
    await story.act("note", 1, "@olga orlovaya is somebody else", agent="Anna")
    await story.later(seconds=30)
    (body,) = box.bodies
    assert "Anna mentions you" in body


async def test_quiet_hours_wait_in_the_agents_own_time_and_a_breach_does_not(story: Watched, box: Box) -> None:
    # Noon in Moscow is 19:00 in Vladivostok.
    await story.agent(
        notify=[box.address("anna")], langs=["en"], quiet="18:00-21:00", zone="Asia/Vladivostok", presence="online"
    )
    await story.hear("a person please")
    for _ in range(3):
        await story.later(minutes=10)
    assert [("LATE" in body, "it is yours" in body) for body in box.bodies] == [(True, False)]
    box.received.clear()
    await story.later(hours=3)
    assert any("it is yours" in body for body in box.bodies)


async def test_what_has_become_idle_while_it_waited_is_dropped(story: Watched, box: Box) -> None:
    await story.team("first-line", box.address("team"))
    await story.hear("a person please")
    await story.act("resolve", 1, agent="Anna")
    await story.later(seconds=30)
    assert box.bodies == []
    assert await story.states() == [("created", NoticeState.DROPPED)]


async def test_a_server_that_is_down_is_tried_again_and_nothing_is_lost_or_doubled(story: Watched, box: Box) -> None:
    await story.team("first-line", box.address("team"))
    box.status = 503
    await story.hear("a person please")
    await story.later(seconds=30)
    async with story.sessions.begin() as session:
        (error,) = await session.scalars(select(Timer.error).where(Timer.kind == NOTIFY))
    assert error is not None
    assert "secret" not in error
    box.status = 200
    for _ in range(3):
        await story.later(seconds=30)
    assert len(box.bodies) == 1


async def test_after_many_failures_it_is_given_up_and_the_next_notice_goes(story: Watched, box: Box) -> None:
    await story.team("first-line", box.address("team"))
    box.status = 503
    await story.hear("a person please")
    for _ in range(14):
        await story.later(hours=1)
    assert ("created", NoticeState.FAILED) in await story.states()


async def test_what_exceeds_the_hours_limit_waits_and_is_joined(story: Watched, box: Box) -> None:
    await story.team("first-line", box.address("team"))
    story.notices._policy = replace(story.notices._policy, an_hour=3, events=("created",))
    for number in range(6):
        await story.hear("a person please", chat=f"c{number}")
        await story.later(seconds=25)
    assert len(box.bodies) == 3
    await story.later(hours=1)
    assert [body.count("новое обращение") for body in box.bodies] == [1, 1, 1, 3]


async def test_one_address_that_fails_does_not_repeat_the_other(story: Watched, box: Box) -> None:
    other = Box()
    other.status = 500
    await story.team("first-line", box.address("team"), other.address("x"))
    await story.hear("a person please")
    for _ in range(4):
        await story.later(seconds=45)
    other.server.shutdown()
    other.server.server_close()
    assert len([body for body in box.bodies if "новое обращение" in body]) == 1


async def test_an_agent_may_choose_what_he_is_told(story: Watched, box: Box) -> None:
    await story.agent(notify=[box.address("anna")], notify_events=["breached"])
    await story.hear("a person please")
    await story.later(seconds=30)
    assert box.bodies == []


class Mail:
    def __init__(self) -> None:
        self.letters: list[str] = []

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        self.letters.append((envelope.content or b"").decode() if isinstance(envelope.content, bytes) else "")
        return "250 OK"


async def test_a_letter_comes_by_a_real_mail_server() -> None:
    mail = Mail()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    controller = Controller(mail, hostname="127.0.0.1", port=port)
    controller.start()
    try:
        address = f"mailto://127.0.0.1:{port}?from=otvet@example.com&to=anna@example.com&mode=insecure"
        await apprise_deliver(address, "Otvet", "No. 5: it is yours")
    finally:
        controller.stop()
    (letter,) = mail.letters
    assert "To: anna@example.com" in letter


async def test_what_is_no_address_says_so_without_telling_it() -> None:
    with pytest.raises(DeliveryError) as error:
        await apprise_deliver("nonsense://secret", "a", "b")
    assert "secret" not in str(error.value)
    assert shown_address("nonsense://secret") is None
    shown = shown_address("tgram://123456789:abcdefghijklmnopqrstuvwxyz012345678/12315544/")
    assert shown is not None
    assert "abcdef" not in shown


@pytest.mark.parametrize(
    ("quiet", "hour", "until"),
    [("22:00-08:00", 23, 8), ("22:00-08:00", 3, 8), ("22:00-08:00", 12, None), ("13:00-14:00", 13, 14)],
)
def test_quiet_hours_reach_over_midnight(quiet: str, hour: int, until: int | None) -> None:
    now = datetime(2027, 3, 1, hour, 30, tzinfo=MOSCOW)
    found = quiet_until(quiet, MOSCOW, now)
    assert (found.hour if found else None) == until
    assert found is None or found > now


async def test_who_has_a_ticket_hears_when_it_comes_back_to_him(story: Watched, box: Box) -> None:
    await story.agent(notify=[box.address("anna")], langs=["en"], level="supervisor")
    await story.hear("a person please")
    await story.wait(seconds=1)
    await story.act("reply", 1, "A moment", agent="Anna")
    await story.act("hold", 1, task="DEV-1", until=None, agent="Anna")
    await story.act("resume", 1, agent="Anna")
    await story.later(seconds=30)
    assert not any("goes on" in body for body in box.bodies), "she did it herself"
    await story.act("hold", 1, task="DEV-1", until=None, agent="Anna")
    await story.act("task_done", "DEV-1")
    await story.later(seconds=30)
    assert "it goes on" in box.bodies[-1]
    await story.act("finish", 1, agent="Anna")
    await story.wait(hours=1)
    await story.press("No, the problem remains")
    await story.later(seconds=30)
    assert "it did not help" in box.bodies[-1]
    await story.act("resolve", 1, agent="Anna")
    await story.act("reopen", 1, agent="Olga")
    await story.later(seconds=30)
    assert "opened again" in box.bodies[-1]


async def test_the_team_hears_of_what_comes_back_to_nobody(story: Watched, box: Box) -> None:
    await story.team("first-line", box.address("team"))
    await story.hear("a person please")
    await story.act("resolve", 1, agent="Olga")
    await story.later(minutes=6)
    seen = len(box.bodies)
    await story.act("reopen", 1, agent="Olga")
    await story.later(minutes=1)
    assert ["снова открыто, а обращение ничьё" in body for body in box.bodies[seen:]] == [True]
    await story.later(minutes=6)
    await story.later(seconds=30)
    assert "никто не взял" in box.bodies[-1]


async def test_who_gets_a_ticket_in_a_language_that_is_not_his_is_told(story: Watched, box: Box) -> None:
    await story.agent(notify=[box.address("anna")], langs=["ru"])
    await story.hear("a person please")
    await story.wait(seconds=1)
    await story.later(seconds=30)
    assert "теперь у вас, на языке не из ваших (en)" in box.bodies[0]


async def test_seniors_who_are_away_hear_of_an_escalation_by_name(story: Watched, box: Box) -> None:
    await story.agent()
    await story.agent("Olga", level="L2", notify=[box.address("olga")], presence="offline", langs=["en"])
    await story.agent("Boss", level="supervisor", presence="offline", notify=[box.address("boss")], langs=["en"])
    await story.hear("a person please")
    for _ in range(12):
        await story.later(minutes=5)
    told = [text for text in "\n".join(box.bodies).split() if text in ("L2", "L3", "supervisor")]
    assert told == ["L2", "L3", "supervisor"], "Olga, and twice Boss"


async def test_a_reply_that_did_not_arrive_is_no_answer_and_its_author_hears_of_it(story: Watched, box: Box) -> None:
    await story.agent(notify=[box.address("anna")], langs=["en"])
    await story.hear("where is my order")
    await story.hear("a person please")
    await story.wait(seconds=1)
    due = (await story.clock_of(ClockKind.FIRST_RESPONSE)).due_at
    story.channel.refusals = [DeliveryError("403", permanent=True)]
    assert await story.act("reply", 1, "Your code is 5", agent="Anna") == []
    ticket = await story.ticket()
    assert (ticket.status, ticket.first_reply_at) == (TicketStatus.OPEN, None)
    clock = await story.clock_of(ClockKind.FIRST_RESPONSE)
    assert (clock.done_at, clock.due_at, clock.look_at is not None) == (None, due, True)
    await story.later(seconds=30)
    assert "the reply did not arrive" in box.bodies[-1]
    await story.act("reply", 1, "Your code is 5", agent="Anna")
    ticket = await story.ticket()
    assert (ticket.status, ticket.first_reply_at is not None) == (TicketStatus.WAITING, True)
    await story.hear("and then? where is my order")
    await story.act("reply", 1, "Then you wait", agent="Anna")
    story.channel.refusals = [DeliveryError("403", permanent=True)]
    await story.act("reply", 1, "Or call us", agent="Anna")
    await story.act("finish", 1, agent="Anna")
    assert (await story.ticket()).status is TicketStatus.AWAITING_FEEDBACK
    assert (await story.ticket()).first_reply_at == ticket.first_reply_at


async def test_a_later_reply_that_arrived_makes_up_for_one_that_did_not(story: Watched) -> None:
    await story.hear("a person please")
    async with story.sessions.begin() as session:
        lost = await story.desk.reply(session, 1, "Your code is 5", agent="Anna")
    await story.assistant.drain()
    await story.act("reply", 1, "Your code is 6", agent="Anna")
    async with story.sessions.begin() as session:
        message = await session.get_one(Message, lost.id)
        message.delivery = Delivery.FAILED  # says the platform, late
        await story.assistant.on_failed(session, message, "131026")
    ticket = await story.ticket()
    assert ticket.status is TicketStatus.WAITING
    assert ticket.first_reply_at is not None
    assert ticket.first_reply_at > message.created_at
