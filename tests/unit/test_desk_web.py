"""The web desk over HTTP: sign-in, the queue, a ticket, answering."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from desk_harness import PASSWORD, Agent, Customer, ticket_of, transcript, wait_until
from site_harness import Running, Site, running
from sqlalchemy import select

from bot.channels.base import Address, InboundMessage
from bot.desk import accounts
from bot.desk.accounts import IDLE
from bot.desk.records import AuditEntry
from bot.web import desk_live
from bot.web.chat_api import read_page
from handoff.access import Role
from handoff.lifecycle import TicketStatus
from handoff.records import Conversation, Delivery, Presence
from handoff.staff import put_agent

HTML = "<img src=x onerror=alert(1)><script>alert(2)</script>"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(lambda: Site(tmp_path_factory.mktemp("desk"), gather_seconds=0)) as started:
        yield started


@pytest.fixture(scope="module")
def anna(server: Running) -> Agent:
    agent = Agent(server, "Anna", teams=("first-line",))
    agent.send_at_once()
    return agent


@pytest.fixture(scope="module")
def boris(server: Running) -> Agent:
    agent = Agent(server, "Boris", Role.SENIOR, teams=("first-line", "payments"))
    agent.send_at_once()
    return agent


@pytest.fixture
def customer(server: Running) -> Customer:
    return Customer(server)


def said(server: Running, ticket_id: int) -> list[str]:
    return [message.text for message in transcript(server, ticket_id) if message.author == "agent"]


# Live


def test_an_open_page_shows_what_its_owner_may_see_by_now(
    server: Running, customer: Customer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """He was put into another team after he opened it."""
    monkeypatch.setattr(desk_live, "CHECK_SECONDS", 0.1)
    vera = Agent(server, "Vera", teams=("payments",))

    async def put() -> None:
        async with server.site.sessions.begin() as session:
            await put_agent(session, "Vera", teams=["first-line"], now=server.site.clock())

    with vera.web.stream("GET", "/desk/events") as events:
        lines = events.iter_lines()
        assert next(line for line in lines if line.startswith("event")) == "event: hello"
        server.call(put())
        time.sleep(0.3)
        ticket_id, end = customer.calls_a_person(), time.monotonic() + 5
        told = next(line for line in lines if line.startswith('data: {"tickets"') or time.monotonic() > end)
        assert ticket_id in json.loads(told.removeprefix("data: "))["tickets"]


# Signing in


def test_the_first_administrator_comes_by_a_link_that_works_once(tmp_path_factory: pytest.TempPathFactory) -> None:
    with running(lambda: Site(tmp_path_factory.mktemp("first"), works=False)) as fresh:
        old = fresh.call(fresh.site.accounts.first_administrator())
        link = fresh.call(fresh.site.accounts.first_administrator())
        assert old
        assert link
        with httpx.Client(base_url=fresh.url, headers={"Accept-Language": "en"}) as web:
            assert web.get(f"/desk/welcome/{old}").status_code == 404
            form = {"name": "Olga", "login": "Olga@Example.org", "password": PASSWORD}
            assert web.post(f"/desk/welcome/{link}", data={**form, "password": "short"}).status_code == 422
            assert web.post(f"/desk/welcome/{link}", data=form).status_code == 303
            assert web.get("/desk/queue").status_code == 200
            assert web.post(f"/desk/welcome/{link}", data=form).status_code == 404
        assert fresh.call(fresh.site.accounts.first_administrator()) is None


def test_a_code_for_the_bot_is_shown_once_on_ones_own_page(server: Running, boris: Agent) -> None:
    page = boris.get("/me")
    assert "Get a code" in page.text
    assert "/link " not in page.text
    shown = boris.post("/me/telegram")
    assert shown.status_code == 200, shown.text
    code = re.findall(r"/link (\w{10})", shown.text)[0]

    async def link() -> bool:
        async with server.site.sessions.begin() as session:
            return await server.site.people.link(session, 77, "@boris", code) is not None

    assert server.call(link())
    assert not server.call(link())
    assert "Linked with @boris" in boris.get("/me").text
    assert boris.post("/me/telegram/unlink").status_code == 303
    assert "Linked with" not in boris.get("/me").text


def test_a_wrong_password_and_an_unknown_name_are_told_alike_and_often_is_too_often(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with (
        running(lambda: Site(tmp_path_factory.mktemp("often"), works=False)) as site,
        httpx.Client(base_url=site.url, headers={"Accept-Language": "en"}) as web,
    ):
        Agent(site, "Clara", teams=("first-line",))
        answers = [
            web.post("/desk/sign-in", data={"login": login, "password": "wrong password"})
            for login in ("clara", "nobody-at-all")
        ]
        assert [answer.status_code for answer in answers] == [401, 401]
        texts = [answer.text.replace("clara", "").replace("nobody-at-all", "") for answer in answers]
        assert texts[0] == texts[1]
        for _ in range(12):
            last = web.post("/desk/sign-in", data={"login": "clara", "password": PASSWORD + "!"})
        assert last.status_code == 429
        assert "Wait a minute" in last.text


async def test_whoever_has_many_addresses_guesses_no_more_passwords_than_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accounts, "TRIES_A_MINUTE", 2)
    site, codes = Site(tmp_path), []
    await site.prepare()
    for number in range(5):
        visitor = httpx.ASGITransport(site.app, client=(f"2001:db8:1:2::{number:x}", 1))
        async with httpx.AsyncClient(transport=visitor, base_url="http://site") as web:
            answer = await web.post("/desk/sign-in", data={"login": f"somebody-{number}", "password": "guessed"})
            codes.append(answer.status_code)
    assert codes == [401] * 4 + [429]
    await site.engine.dispose()


def test_without_a_session_a_page_leads_to_the_sign_in_and_back(server: Running) -> None:
    with httpx.Client(base_url=server.url) as web:
        answer = web.get("/desk/tickets/1")
        assert answer.status_code == 303
        assert answer.headers["location"] == "/desk/sign-in?next=%2Fdesk%2Ftickets%2F1"
        assert 'value="/desk"' in web.get("/desk/sign-in?next=https://evil.example/desk").text
        assert web.post("/desk/tickets/1/reply", data={"key": "k" * 20, "text": "x"}).status_code == 401


def test_the_cookie_is_out_of_reach_of_scripts_and_a_session_ends_elsewhere(server: Running) -> None:
    dora = Agent(server, "Dora", teams=("first-line",))
    answer = dora.web.post("/desk/sign-in", data={"login": "dora", "password": PASSWORD})
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    token = dora.web.cookies["otvet_desk"]
    with httpx.Client(base_url=server.url, headers={"User-Agent": "another"}, cookies={"otvet_desk": token}) as thief:
        assert thief.get("/desk/queue").status_code == 303
    assert dora.get("/queue").status_code == 303, "the stolen session has ended for everybody"


def test_an_idle_session_ends(tmp_path_factory: pytest.TempPathFactory) -> None:
    with running(lambda: Site(tmp_path_factory.mktemp("idle"), works=False)) as site:
        agent = Agent(site, "Anna", teams=("first-line",))
        site.site.clock.advance(IDLE.total_seconds() - 60)
        assert agent.get("/queue").status_code == 200
        token = agent.web.cookies["otvet_desk"]
        assert site.call(site.site.accounts.lives(token))
        assert not site.call(site.site.accounts.lives(token[:-1]))
        site.site.clock.advance(IDLE.total_seconds() + 60)
        assert not site.call(site.site.accounts.lives(token))
        assert agent.get("/queue").status_code == 303


def test_a_form_without_its_token_is_refused(anna: Agent, customer: Customer) -> None:
    ticket = customer.calls_a_person()
    for headers in ({"X-CSRF": ""}, {"X-CSRF": "0" * 64}):
        assert anna.post(f"/tickets/{ticket}/take", headers=headers).status_code == 403
    assert ticket_of(anna.server, ticket).assignee_id is None


# Queue and ticket


def test_a_ticket_stands_in_the_queue_and_opens_with_why_it_is_here(anna: Agent, customer: Customer) -> None:
    customer.says("Where is my order?")
    ticket = customer.calls_a_person(f"call a person {HTML}")
    page = anna.get("/queue?view=unassigned").text
    assert f'data-id="{ticket}"' in page
    assert "<script>alert" not in page
    page = anna.get(f"/tickets/{ticket}").text
    assert "The customer asked for a person" in page
    assert "order-status" in page
    assert "&lt;script&gt;alert(2)" in page
    assert "<script>alert" not in page
    assert "<img src=x" not in page


def test_a_name_and_a_file_name_with_markup_stay_text(anna: Agent, customer: Customer) -> None:
    ticket = customer.calls_a_person()
    customer.web.post(
        "/api/chat/files",
        headers=customer.headers,
        files={"file": ('"><svg onload=alert(1)>.png', b"\x89PNG\r\n\x1a\n" + b"\0" * 64)},
        data={"client_id": str(uuid4()), "lang": "en"},
    )
    wait_until(lambda: any(message.attachments for message in transcript(anna.server, ticket)))
    page = anna.get(f"/tickets/{ticket}").text
    assert "<svg onload" not in page
    link = re.findall(rf"/desk/tickets/{ticket}/files/\d+", page)[0]
    answer = anna.web.get(link)
    assert answer.status_code == 200
    assert "sandbox" in answer.headers["content-security-policy"]


def test_a_message_that_is_edited_or_taken_back_changes_on_open_pages(anna: Agent, customer: Customer) -> None:
    ticket = customer.calls_a_person()
    customer.says("my number is 4521")
    wait_until(lambda: transcript(anna.server, ticket)[-1].text == "my number is 4521")
    message = transcript(anna.server, ticket)[-1]
    site = anna.server.site

    async def change(kind: str, text: str = "") -> None:
        async with site.sessions() as session:
            chat = await session.get_one(Conversation, message.conversation_id)
        where = Address(chat.channel, chat.account, chat.chat_id)
        made = InboundMessage(where, uuid4().hex, site.clock(), kind=kind, text=text, refers_to=message.external_id)
        async with asyncio.timeout(10):
            with site.feed.follow() as told:
                await site.assistant.receive(made)
                while not any(each.kind == "changed" and each.ticket_id == ticket for each in await told.get()):
                    pass

    def shown_anew() -> str:
        page = anna.get(f"/tickets/{ticket}/news?after={message.id}").text
        return page.partition(f'id="m-{message.id}" hx-swap-oob="true"')[2].partition("</li>")[0]

    assert not shown_anew()
    anna.server.call(change("edit", "my number is 4512"))
    assert '<span class="said">my number is 4512</span>' in shown_anew()
    assert "my number is 4521" in shown_anew(), "what it said before can be looked at"
    anna.server.call(change("deletion"))
    assert "The customer took this back." in shown_anew()
    site.clock.advance(61)
    assert not shown_anew()


def test_who_may_not_see_a_ticket_learns_nothing_of_it(server: Running, customer: Customer) -> None:
    ticket = customer.calls_a_person()
    stranger = Agent(server, "Stranger", teams=("business",))
    there, nowhere = stranger.get(f"/tickets/{ticket}"), stranger.get("/tickets/999999")
    assert (there.status_code, nowhere.status_code) == (404, 404)
    assert there.text == nowhere.text
    assert stranger.reply(ticket, "hello").status_code == 404
    assert f'data-id="{ticket}"' not in stranger.get("/queue?view=all").text
    assert f'data-id="{ticket}"' not in stranger.get(f"/queue?words={ticket}").text


def test_an_editor_reads_but_does_not_answer(server: Running, customer: Customer) -> None:
    ticket = customer.calls_a_person()
    editor = Agent(server, "Eva", Role.EDITOR)
    assert editor.get(f"/tickets/{ticket}").status_code == 200
    assert editor.reply(ticket, "hello").status_code == 403
    assert said(server, ticket) == []


def test_words_numbers_and_endings_are_found(anna: Agent, customer: Customer) -> None:
    ticket = customer.calls_a_person("person: мой чемодан с телескопом потеряли")
    for words in ("телескопы", "чемоданы потерян", f"№ {ticket}", f"{ticket}"):
        assert f'data-id="{ticket}"' in anna.get(f"/queue?words={words}").text, words
    for words in ("микроскоп", "%", '"', "* OR 1", "телескоп NOT чемодан"):
        assert f'data-id="{ticket}"' not in anna.get(f"/queue?words={words}").text, words


# Answering


def test_a_reply_reaches_the_customer_once_however_often_the_form_comes(anna: Agent, customer: Customer) -> None:
    ticket, key = customer.calls_a_person(), uuid4().hex
    answers = [anna.reply(ticket, "Hello from **Anna**", key=key) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert said(anna.server, ticket) == ["Hello from **Anna**"]
    wait_until(lambda: transcript(anna.server, ticket)[-1].delivery is Delivery.SENT)
    after = ticket_of(anna.server, ticket)
    assert after.status is TicketStatus.WAITING
    assert after.assignee_id is not None


def test_a_reply_is_not_sent_unseen_after_another(anna: Agent, boris: Agent, customer: Customer) -> None:
    ticket = customer.calls_a_person()
    seen = transcript(anna.server, ticket)[-1].id
    assert anna.reply(ticket, "I help you", seen=seen).status_code == 200
    stale = boris.reply(ticket, "I help you too", seen=seen)
    assert stale.status_code == 409
    assert "I help you" in stale.text
    assert said(anna.server, ticket) == ["I help you"]
    assert boris.reply(ticket, "All the same", seen=transcript(anna.server, ticket)[-1].id).status_code == 200
    assert said(anna.server, ticket) == ["I help you", "All the same"]


def test_a_reply_waits_when_the_customer_wrote_meanwhile(anna: Agent, customer: Customer) -> None:
    ticket = customer.calls_a_person()
    seen = transcript(anna.server, ticket)[-1].id
    customer.says("It has come, never mind")
    wait_until(lambda: transcript(anna.server, ticket)[-1].text == "It has come, never mind")
    stale = anna.reply(ticket, "It comes tomorrow", seen=seen)
    assert stale.status_code == 409
    assert "never mind" in stale.text
    assert said(anna.server, ticket) == []


def test_a_reply_can_be_taken_back_until_it_goes_out(server: Running, customer: Customer) -> None:
    ticket = customer.calls_a_person()
    slow = Agent(server, "Slow", teams=("first-line",))
    page = slow.reply(ticket, "Not like this")
    number = re.findall(r'data-undo="(\d+)"', page.text)[0]
    assert said(server, ticket) == []
    taken = slow.post(f"/tickets/{ticket}/take-back/{number}")
    assert taken.json()["text"] == "Not like this"
    assert slow.post(f"/tickets/{ticket}/take-back/{number}").status_code == 409
    slow.reply(ticket, "But like this")
    server.site.clock.advance(6)
    wait_until(lambda: said(server, ticket) == ["But like this"])


def test_a_note_is_for_agents_alone_and_calls_the_one_it_names(anna: Agent, boris: Agent, customer: Customer) -> None:
    ticket = customer.calls_a_person()
    assert anna.post(f"/tickets/{ticket}/note", {"text": "@boris look at this <b>"}).status_code == 200
    assert f'data-id="{ticket}"' in boris.get("/queue?view=mentions").text
    assert "&lt;b&gt;" in boris.get(f"/tickets/{ticket}").text
    assert f'data-id="{ticket}"' not in boris.get("/queue?view=mentions").text
    message = transcript(anna.server, ticket)[-1]
    assert (message.kind, message.delivery) == ("note", None)
    site, chat_id = anna.server.site, hashlib.sha256(customer.headers["Authorization"][7:].encode()).hexdigest()
    shown = anna.server.call(read_page(site.sessions, message.conversation_id, chat_id, 0))
    assert shown.messages
    assert "look at this" not in str([each.text for each in shown.messages])


def test_what_can_be_done_with_a_ticket_is_done(anna: Agent, customer: Customer) -> None:
    ticket = customer.calls_a_person()
    steps: list[tuple[str, dict[str, Any], TicketStatus]] = [
        ("take", {}, TicketStatus.NEW),
        ("change", {"priority": "urgent", "complexity": 2, "subject": "Lost parcel"}, TicketStatus.NEW),
        ("hold", {"task": "DEV-1", "until": "2099-01-01"}, TicketStatus.ON_HOLD),
        ("resume", {}, TicketStatus.OPEN),
        ("transfer", {"topic": "returns", "why": "wants to return it"}, TicketStatus.OPEN),
        ("escalate", {"details": "tried everything", "urgency": "high"}, TicketStatus.OPEN),
        ("resolve", {}, TicketStatus.RESOLVED),
        ("reopen", {}, TicketStatus.OPEN),
        ("return", {}, TicketStatus.CLOSED),
    ]
    for act, form, status in steps:
        answer = anna.post(f"/tickets/{ticket}/{act}", form)
        assert answer.status_code == 200, (act, answer.text)
        assert ticket_of(anna.server, ticket).status is status, act
    after = ticket_of(anna.server, ticket)
    assert (after.subject, after.priority, after.complexity, after.topic) == ("Lost parcel", "urgent", 2, "returns")
    assert anna.post(f"/tickets/{ticket}/resolve").status_code == 409
    assert anna.reply(ticket, "too late").status_code == 409


def test_a_ticket_is_not_resolved_over_words_that_are_not_on_the_page(anna: Agent, customer: Customer) -> None:
    ticket = customer.calls_a_person()
    newest = transcript(anna.server, ticket)[-1].id
    refused = anna.post(f"/tickets/{ticket}/resolve", {"seen": 0})
    assert refused.status_code == 409
    assert "has written meanwhile" in refused.text
    assert anna.post(f"/tickets/{ticket}/resolve", {"seen": newest}).status_code == 200


async def link(server: Running, first: int, second: int) -> None:
    async with server.site.sessions.begin() as session:
        one = await session.get_one(Conversation, first)
        (await session.get_one(Conversation, second)).customer_id = one.customer_id


def test_a_ticket_is_merged_into_another(anna: Agent) -> None:
    first, second = (Customer(anna.server).calls_a_person() for _ in range(2))
    assert anna.post(f"/tickets/{first}/merge", {"into": second}).status_code == 409, "two customers"
    theirs = [ticket_of(anna.server, each).conversation_id for each in (first, second)]
    anna.server.call(link(anna.server, *theirs))
    assert anna.post(f"/tickets/{first}/merge", {"into": second}).status_code == 200
    assert ticket_of(anna.server, first).status is TicketStatus.CLOSED
    assert f"№ {first} → № {second}" in transcript(anna.server, second)[-1].text
    assert anna.post(f"/tickets/{second}/merge", {"into": second}).status_code == 409


def test_a_customers_earlier_ticket_stands_on_the_card_and_leads_there(anna: Agent, customer: Customer) -> None:
    first = customer.calls_a_person()
    anna.post(f"/tickets/{first}/resolve")
    second = customer.calls_a_person()
    page = anna.get(f"/tickets/{second}").text
    assert f'href="/desk/tickets/{first}"' in page
    assert "Other tickets" in page
    news = anna.get(f"/tickets/{second}/news?after=0&card=1", **{"HX-Request": "true"})
    assert news.status_code == 200
    assert "Other tickets" in news.text
    assert "Other tickets" not in anna.get(f"/tickets/{second}/news?after=0", **{"HX-Request": "true"}).text


def test_a_link_to_ones_chat_in_another_team_is_left_out_of_the_card(server: Running, customer: Customer) -> None:
    boss = Agent(server, "Boss", Role.SUPERVISOR)
    first = customer.calls_a_person()
    boss.post(f"/tickets/{first}/transfer", {"topic": "payment", "why": "money"})
    boss.post(f"/tickets/{first}/resolve")
    second = customer.calls_a_person()
    narrow = Agent(server, "Narrow", teams=(ticket_of(server, second).team,))
    assert f"/desk/tickets/{first}" in boss.get(f"/tickets/{second}").text
    assert f"/desk/tickets/{first}" not in narrow.get(f"/tickets/{second}").text


def test_one_person_in_two_chats_is_joined_answered_in_the_other_and_taken_apart(anna: Agent) -> None:
    customers = [Customer(anna.server) for _ in range(2)]
    tickets = [customer.calls_a_person() for customer in customers]
    site = anna.server.site
    rows = [ticket_of(anna.server, each) for each in tickets]

    async def say_the_same_address() -> None:
        async with site.sessions.begin() as session:
            for row in rows:
                await site.desk.customers.learn(
                    session,
                    await session.get_one(Conversation, row.conversation_id),
                    phone=None,
                    texts=["My address is ivan@example.org"],
                    now=site.clock(),
                )

    anna.server.call(say_the_same_address())
    page = anna.get(f"/tickets/{tickets[0]}").text
    assert "ivan@example.org" in page
    assert "Maybe the same person" in page
    other = re.findall(r'same-person" hx-vals=.{"customer": (\d+)}', page)[0]
    assert anna.post(f"/tickets/{tickets[0]}/same-person", {"customer": 10**6}).status_code == 409
    joined = anna.post(f"/tickets/{tickets[0]}/same-person", {"customer": other})
    assert joined.status_code == 200
    assert "Also writes in" in joined.text
    anna.post(f"/tickets/{tickets[1]}/resolve")
    there = rows[1].conversation_id
    moved = anna.post(f"/tickets/{tickets[0]}/elsewhere", {"conversation": there, "text": "Let us go on here"})
    assert moved.status_code == 200
    assert ticket_of(anna.server, tickets[0]).conversation_id == there
    assert said(anna.server, tickets[0])[-1] == "Let us go on here"
    apart = anna.post(f"/tickets/{tickets[0]}/not-same-person", {"conversation": rows[0].conversation_id})
    assert apart.status_code == 200
    assert "Also writes in" not in apart.text


def test_what_a_ticket_waits_for_is_shown_and_a_link_is_one(anna: Agent, customer: Customer) -> None:
    ticket = customer.calls_a_person()
    held = anna.post(f"/tickets/{ticket}/hold", {"task": "https://tasks.example/7", "until": "2099-05-01"})
    assert '<a href="https://tasks.example/7"' in held.text
    assert "1 May" in held.text
    assert anna.post(f"/tickets/{ticket}/hold", {"task": "x", "until": "2001-01-01"}).status_code == 422
    customer.says("and how long?")  # it is opened, and waits for the task still
    wait_until(lambda: ticket_of(anna.server, ticket).status is TicketStatus.OPEN)
    assert "Wait for it no more" in anna.get(f"/tickets/{ticket}").text
    anna.post(f"/tickets/{ticket}/resume")
    left = anna.get(f"/tickets/{ticket}").text
    assert "tasks.example" not in left
    assert ticket_of(anna.server, ticket).status is TicketStatus.OPEN
    assert anna.post(f"/tickets/{ticket}/resume").status_code == 409
    held = anna.post(f"/tickets/{ticket}/hold", {"task": "javascript:alert(1)"})
    assert "javascript:alert(1)" in held.text
    assert 'href="javascript' not in held.text


def test_several_are_acted_on_at_once(anna: Agent, boris: Agent) -> None:
    tickets = [Customer(anna.server).calls_a_person() for _ in range(2)]
    form = {"act": "assign", "to": "Anna", "ticket": [str(each) for each in tickets]}
    assert anna.post("/queue/many", form).status_code == 200
    assert {ticket_of(anna.server, each).assignee_id for each in tickets} == {None}, "an agent gives nothing away"
    assert boris.post("/queue/many", form).status_code == 200
    assert None not in {ticket_of(anna.server, each).assignee_id for each in tickets}


def test_none_of_several_ends_over_words_that_came_after_the_list(anna: Agent, boris: Agent) -> None:
    customers = [Customer(anna.server) for _ in range(2)]
    tickets = [each.calls_a_person() for each in customers]
    boxes = re.findall(r'name="ticket" value="(\d+):(\d+)"', boris.get("/queue?view=all").text)
    chosen = [f"{ticket}:{newest}" for ticket, newest in boxes if int(ticket) in tickets]
    assert len(chosen) == 2
    customers[0].says("it burns")
    wait_until(lambda: any(m.text == "it burns" for m in transcript(anna.server, tickets[0])))
    form = {"act": "resolve", "ticket": chosen}
    told = boris.post("/queue/many", form).headers["HX-Trigger"]
    assert f"have written meanwhile: {tickets[0]}." in told
    assert ticket_of(anna.server, tickets[0]).resolved_at is None
    assert ticket_of(anna.server, tickets[1]).status is TicketStatus.RESOLVED


def test_too_many_at_once_are_refused_and_none_is_changed(anna: Agent, boris: Agent, customer: Customer) -> None:
    ticket = customer.calls_a_person()
    form = {"act": "assign", "to": anna.name, "ticket": [ticket, *map(str, range(10**6, 10**6 + 200))]}
    refused = boris.post("/queue/many", form)
    assert (refused.status_code, "At most 200" in refused.json()["error"]["message"]) == (422, True)
    assert ticket_of(boris.server, ticket).assignee_id is None
    assert boris.post("/queue/many", {**form, "ticket": form["ticket"][:200]}).status_code == 200
    assert ticket_of(boris.server, ticket).assignee_id is not None


def test_a_view_is_kept_under_a_name(anna: Agent) -> None:
    assert anna.post("/views", {"name": "Returns", "query": "view=all&topic=returns"}).status_code == 303
    page = anna.get("/queue?view=all&topic=returns").text
    assert "Returns</span>" in page
    number = re.findall(r"/desk/views/(\d+)/forget", page)[0]
    assert anna.post(f"/views/{number}/forget").status_code == 303
    assert "/forget" not in anna.get("/queue?view=all").text


def test_a_long_transcript_shows_its_end_and_the_rest_when_asked(anna: Agent, customer: Customer) -> None:
    ticket = customer.calls_a_person()

    async def write_much() -> None:
        async with anna.server.site.sessions.begin() as session:
            for number in range(500):
                await anna.server.site.desk.note(session, ticket, f"note number {number}.", agent="Anna")

    anna.server.call(write_much())
    page = anna.get(f"/tickets/{ticket}").text
    assert "note number 499." in page
    assert "note number 0." not in page
    assert len(page) < 120_000
    before = int(re.findall(r"earlier\?before=(\d+)", page)[0])
    shown = page
    while before:
        more = anna.get(f"/tickets/{ticket}/earlier?before={before}", **{"HX-Request": "true"}).text
        shown, found = more + shown, re.findall(r"earlier\?before=(\d+)", more)
        before = int(found[0]) if found else 0
    assert all(f"note number {number}." in shown for number in range(500))


def test_it_is_kept_who_saw_and_did_what(anna: Agent, customer: Customer) -> None:
    ticket = customer.calls_a_person()
    anna.get(f"/tickets/{ticket}")
    anna.get(f"/tickets/{ticket}")
    anna.post(f"/tickets/{ticket}/take")

    async def entries() -> list[tuple[str, str]]:
        async with anna.server.site.sessions() as session:
            rows = await session.scalars(select(AuditEntry).where(AuditEntry.ticket_id == ticket))
            return [(row.who, row.action) for row in rows]

    assert anna.server.call(entries()) == [("Anna", "saw"), ("Anna", "took")]


def test_a_colleagues_ticket_is_taken_at_the_second_press(anna: Agent, boris: Agent, customer: Customer) -> None:
    ticket = customer.calls_a_person()

    async def be_there(presence: Presence) -> None:
        async with boris.server.site.sessions.begin() as session:
            await put_agent(session, "Boris", presence=presence, now=boris.server.site.clock())

    boris.server.call(be_there(Presence.ONLINE))
    boris.post(f"/tickets/{ticket}/take")
    holder = ticket_of(anna.server, ticket).assignee_id
    asked = anna.post(f"/tickets/{ticket}/take")
    assert "It is Boris's. Take it over?" in asked.headers["HX-Trigger"]
    assert "Take it over from Boris" in asked.text
    assert f"hx-vals='{{\"over\": {holder}}}'" in asked.text
    assert ticket_of(anna.server, ticket).assignee_id == holder
    assert "is yours" in anna.post(f"/tickets/{ticket}/take", {"over": holder}).headers["HX-Trigger"]
    assert ticket_of(anna.server, ticket).assignee_id not in (None, holder)
    boris.server.call(be_there(Presence.AUTO))


def test_the_ticket_says_that_its_language_is_not_the_agents(server: Running, customer: Customer) -> None:
    ticket, rita = customer.calls_a_person(), Agent(server, "Rita", teams=("first-line",))
    lang = ticket_of(server, ticket).lang
    words = {"en": "writes in English", "ru": "writes in Russian"}[lang]
    assert words not in rita.get(f"/tickets/{ticket}").text, "she answers in any"

    async def speak(other: str) -> None:
        async with server.site.sessions.begin() as session:
            await put_agent(session, "Rita", langs=[other], now=server.site.clock())

    server.call(speak({"en": "ru", "ru": "en"}[lang]))
    assert words in rita.get(f"/tickets/{ticket}").text


def test_whoever_is_only_mentioned_is_offered_nothing_but_a_note(
    server: Running, anna: Agent, customer: Customer
) -> None:
    ticket, zoya = customer.calls_a_person(), Agent(server, "Zoya", teams=("payments",))
    assert zoya.get(f"/tickets/{ticket}").status_code == 404
    anna.post(f"/tickets/{ticket}/note", {"text": "@Zoya has it been paid?"})
    page = zoya.get(f"/tickets/{ticket}").text
    assert "has it been paid?" in page
    assert "data-notes-only" in page
    assert "/take" not in page
    assert "data-notes-only" not in anna.get(f"/tickets/{ticket}").text
    assert zoya.post(f"/tickets/{ticket}/note", {"text": "It has"}).status_code == 200
    assert zoya.reply(ticket, "It has").status_code == 403
    assert zoya.post(f"/tickets/{ticket}/resolve").status_code == 403


def test_both_languages_stand_on_the_pages(anna: Agent, customer: Customer) -> None:
    ticket = customer.calls_a_person()
    assert anna.post("/me", {"lang": "ru"}).status_code == 303
    page = anna.get(f"/tickets/{ticket}").text
    assert 'lang="ru"' in page
    assert "Клиент попросил человека" in page
    assert anna.post("/me", {"lang": "en"}).status_code == 303
    assert "The customer asked for a person" in anna.get(f"/tickets/{ticket}").text


# Personal data


def test_a_supervisor_exports_and_erases_a_customer_from_his_card(
    server: Running, customer: Customer, anna: Agent, tmp_path: Path
) -> None:
    olga = Agent(server, "Olga", Role.SUPERVISOR)
    ticket_id = customer.calls_a_person("a person please, my name is Quagmire")
    page = olga.get(f"/tickets/{ticket_id}").text
    number = re.findall(r"type the number of the customer: (\d+)", page)[0]
    assert "erase-customer" not in anna.get(f"/tickets/{ticket_id}").text
    for refused in (
        anna.get(f"/tickets/{ticket_id}/kept"),
        anna.get(f"/tickets/{ticket_id}/customer.zip"),
        anna.post(f"/tickets/{ticket_id}/erase", {"number": number}),
    ):
        assert refused.status_code == 403

    assert f"First resolve or close: № {ticket_id}" in olga.get(f"/tickets/{ticket_id}/kept").text
    refused = olga.post(f"/tickets/{ticket_id}/erase", {"number": number})
    assert (refused.status_code, "open tickets" in refused.text) == (409, True)
    anna.post(f"/tickets/{ticket_id}/resolve")

    exported = olga.get(f"/tickets/{ticket_id}/customer.zip")
    (tmp_path / "customer.zip").write_bytes(exported.content)
    with zipfile.ZipFile(tmp_path / "customer.zip") as archive:
        assert any(b"Quagmire" in archive.read(name) for name in archive.namelist())
    assert olga.post(f"/tickets/{ticket_id}/erase", {"number": f"{number}1"}).status_code == 422
    assert any("Quagmire" in message.text for message in transcript(server, ticket_id))

    erased = olga.post(f"/tickets/{ticket_id}/erase", {"number": number})
    assert "This customer was erased on" in erased.text
    assert "Open again" not in erased.text
    assert "Quagmire" not in erased.text + olga.get("/queue?view=all").text
    assert not any(message.text for message in transcript(server, ticket_id))
    lines = server.call(_audit(server, "Olga"))
    assert [line.action for line in lines if line.action in ("exported", "erased")] == ["exported", "erased"]


async def _audit(server: Running, who: str) -> list[AuditEntry]:
    async with server.site.sessions() as session:
        return list(await session.scalars(select(AuditEntry).where(AuditEntry.who == who).order_by(AuditEntry.id)))
