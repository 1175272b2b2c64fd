"""The web desk for those who lead: people, the audit log, the team's figures."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import httpx
import pytest
from desk_harness import PASSWORD, Agent, Customer, ticket_of
from site_harness import DATA, Running, Site, running
from sqlalchemy import select

from bot.desk.figures import NPS_COLUMNS, Series, as_csv
from bot.desk.macros import VARIABLES, check_macro, load_starters, render_macro
from bot.errors import MacroError
from handoff.access import Role
from handoff.hours import WorkingHours
from handoff.nps import NpsAnswer
from handoff.records import Message, Ticket


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(lambda: Site(tmp_path_factory.mktemp("people"), gather_seconds=0)) as started:
        yield started


@pytest.fixture(scope="module")
def admin(server: Running) -> Agent:
    return Agent(server, "Admin", Role.ADMIN)


@pytest.fixture(scope="module")
def agent(server: Running) -> Agent:
    found = Agent(server, "Anna", teams=("first-line",))
    found.send_at_once()
    return found


@pytest.mark.parametrize(
    "path", ["/team", "/team/tickets.svg", "/team/tickets.csv", "/team/answers.csv", "/people", "/audit", "/macros"]
)
def test_an_agent_is_kept_out_of_what_is_not_his(agent: Agent, path: str) -> None:
    assert agent.get(path).status_code == 403


def test_somebody_is_invited_joins_and_leaves_with_nothing(server: Running, admin: Agent) -> None:
    page = admin.post("/people/invite", {"name": "Guest", "role": "senior", "level": "L2", "team": ["payments"]})
    link = re.findall(r'value="(http[^"]+/desk/welcome/[^"]+)"', page.text)[0]
    form = {"login": "guest", "password": PASSWORD}
    joined = server.visitors.enter_context(httpx.Client(base_url=server.url, headers={"Accept-Language": "en"}))
    assert joined.post(link.removeprefix(server.url), data=form).status_code == 303
    assert "Payments" in admin.get("/people").text
    ticket = Customer(server).calls_a_person()
    number = re.findall(r'<b>Guest</b>.*?action="/desk/people/(\d+)"', admin.get("/people").text, re.S)[0]
    given = {"act": "assign", "to": "Guest", "ticket": [str(ticket)]}
    assert admin.post("/queue/many", given).status_code == 200
    assert ticket_of(server, ticket).assignee_id is not None
    left = {"role": "senior", "level": "L2", "capacity": 5, "team": ["payments"], "active": ""}
    assert admin.post(f"/people/{number}", left).status_code == 303
    assert ticket_of(server, ticket).assignee_id is None
    assert joined.get("/desk/queue").status_code == 303, "his session has ended"
    assert joined.post("/desk/sign-in", data=form).status_code == 401


def test_the_last_administrator_stays_one(admin: Agent) -> None:
    page = admin.get("/people").text
    number = re.findall(r'<b>Admin</b>.*?action="/desk/people/(\d+)"', page, re.S)[0]
    answer = admin.post(f"/people/{number}", {"role": "agent", "level": "L1", "capacity": 10, "active": "1"})
    assert answer.status_code == 422
    assert "last administrator" in answer.text


@pytest.mark.parametrize("wrong", [{"role": "king"}, {"level": "L9"}, {"team": ["nowhere"]}, {"capacity": "0"}])
def test_what_nobody_can_be_is_refused(admin: Agent, wrong: dict[str, str]) -> None:
    form = {"name": "Somebody", "role": "agent", "level": "L1", "capacity": "10", **wrong}
    assert admin.post("/people/invite", form).status_code == 422


def test_the_audit_log_is_searched(server: Running, admin: Agent, agent: Agent) -> None:
    ticket = Customer(server).calls_a_person()
    agent.get(f"/tickets/{ticket}")
    agent.reply(ticket, "Hello")
    page = admin.get(f"/audit?ticket={ticket}").text
    assert "replied" in page
    assert "saw" in page
    assert "replied" not in admin.get(f"/audit?ticket={ticket}&action=saw").text
    assert "Nothing was found" in admin.get("/audit?who=Nobody").text


def test_the_teams_page_counts_and_draws(server: Running, admin: Agent, agent: Agent) -> None:
    ticket = Customer(server).calls_a_person("person please")
    agent.reply(ticket, "Hello")
    page = admin.get("/team").text
    assert "wait for a person" in page
    assert "Anna" in page
    picture = admin.get("/team/tickets.svg")
    assert picture.headers["content-type"] == "image/svg+xml"
    assert b"<svg" in picture.content
    assert admin.get("/team/first_response.png").content.startswith(b"\x89PNG")
    rows = list(csv.reader(io.StringIO(admin.get("/team/tickets.csv").content.decode("utf-8-sig"))))
    assert rows[0][:2] == ["ticket_id", "created_at"]
    assert str(ticket) in {row[0] for row in rows[1:]}
    daily = list(csv.reader(io.StringIO(admin.get("/team/topics.csv").content.decode("utf-8-sig"))))
    assert daily[0] == ["", "tickets"]
    assert admin.get("/team?from=2020-01-01&to=2026-01-01").status_code == 422
    assert admin.get("/team?from=nonsense").status_code == 422
    assert admin.get("/team?topic=orders&agent=Anna&channel=site").status_code == 200
    assert "nobody is asked: nps in desk.yml" in page
    assert 'src="/desk/team/nps.svg' not in page
    assert admin.get("/team/answers.csv").text.lstrip("\ufeff").splitlines() == [",".join(NPS_COLUMNS)]
    assert admin.get("/team/nothing.svg").status_code == 422


def test_a_period_is_cut_where_its_days_are_counted(
    server: Running, admin: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The desk's schedule is in another zone than the program."""
    tickets, number = server.site.desk.tickets, Customer(server).calls_a_person()
    schedules = {**tickets.policy.schedules, "default": WorkingHours(zone=ZoneInfo("Asia/Vladivostok"))}
    monkeypatch.setattr(tickets, "policy", replace(tickets.policy, schedules=schedules))

    async def put() -> None:
        async with server.site.sessions.begin() as session:
            ticket = await session.get_one(Ticket, number)
            ticket.created_at = datetime(2026, 3, 10, 20, tzinfo=UTC)  # in Moscow the 10th, there the 11th

    server.call(put())
    shown = [
        admin.get(f"/team/tickets.csv?from=2026-03-{day}&to=2026-03-{day}").text.count(f"\r\n{number},")
        for day in (10, 11)
    ]
    assert shown == [0, 1]


def test_what_customers_said_of_recommending_us_is_shown_with_their_reasons(server: Running, admin: Agent) -> None:
    ticket_id = Customer(server).calls_a_person("person please")
    conversation_id = ticket_of(server, ticket_id).conversation_id

    async def answer() -> None:
        async with server.site.sessions.begin() as session:
            sent = Message.delivery.is_not(None)
            question = select(Message.id).where(Message.conversation_id == conversation_id, sent).limit(1)
            at = server.site.clock()
            for number, (score, reason) in enumerate([(10, None), (9, None), (3, "<b>slow</b>"), (None, None)]):
                row = NpsAnswer(
                    conversation_id=conversation_id,
                    ticket_id=ticket_id,
                    message_id=await session.scalar(question),
                    channel="site",
                    lang="en",
                    topic="orders",
                    ended_at=at - timedelta(days=number),
                    asked_at=at,
                )
                row.score, row.comment = score, reason
                session.add(row)

    server.call(answer())
    page = admin.get(f"/team?from={server.site.clock().date()}").text  # a period that nobody has asked for yet
    assert "+33<small> ± " in page
    page = page.replace("\N{NO-BREAK SPACE}", " ")
    assert "3 answers, 75 % of those asked; 9 and 10: 67 %, 0 to 6: 33 %" in page
    assert "&lt;b&gt;slow&lt;/b&gt;" in page
    assert f"/desk/tickets/{ticket_id}" in page
    assert "/desk/team/nps.svg" in page
    rows = list(csv.DictReader(io.StringIO(admin.get("/team/nps.csv").content.decode("utf-8-sig"))))
    assert [row[""] for row in rows] == [str(score) for score in range(11)]


def test_a_table_has_no_formulas() -> None:
    shown = Series(["=HYPERLINK(1)", "fine"], {"tickets": [1.0, None]}, "bars")
    rows = list(csv.reader(io.StringIO(as_csv(shown))))
    assert rows == [["", "tickets"], ["'=HYPERLINK(1)", "1.0"], ["fine", ""]]


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("", "empty"),
        ("{{ customer_nam }}", "customer_nam"),
        ("{% if x %}", "line 1"),
        ("{% for i in range(9) %}x{% endfor %}", "for"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ 'x' * 999999999 }}", "mul"),
        ("{{ customer_name.upper() }}", "call"),
        ("{{ customer_name | attr('x') }}", "attr"),
        ("{% include 'x' %}", "include"),
        ("x" * 9000, "8000"),
    ],
)
def test_a_macro_that_is_broken_or_could_harm_is_refused_with_the_reason(body: str, problem: str) -> None:
    with pytest.raises(MacroError, match=re.escape(problem)):
        check_macro("title", body)


def test_a_macro_knows_the_customer_and_leaves_out_what_is_not_known() -> None:
    values = {**dict.fromkeys(VARIABLES, ""), "agent_name": "Anna"}
    body = "Hello{% if first_name %}, {{ first_name }}{% endif %}! I am {{ agent_name }}."
    assert render_macro("hello", body, values) == "Hello! I am Anna."
    assert render_macro("hello", body, {**values, "first_name": "<b>Ivan</b>"}) == "Hello, <b>Ivan</b>! I am Anna."


def test_the_macros_that_ship_are_whole_and_a_desk_begins_with_them(tmp_path_factory: pytest.TempPathFactory) -> None:
    starters = load_starters(DATA / "macros.yml")
    assert {starter.lang for starter in starters} == {"ru", "en"}
    with running(lambda: Site(tmp_path_factory.mktemp("starters"), works=False)) as fresh:
        token = fresh.call(fresh.site.accounts.first_administrator())
        form = {"name": "Olga", "login": "olga", "password": PASSWORD}
        web = fresh.visitors.enter_context(httpx.Client(base_url=fresh.url, headers={"Accept-Language": "en"}))
        assert web.post(f"/desk/welcome/{token}", data=form).status_code == 303
        page = web.get("/desk/macros").text
        assert all(starter.title in page for starter in starters)
