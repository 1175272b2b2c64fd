"""The web desk in a real browser: a customer in the site chat, agents at their desks, and every page looked at.

With OTVET_PICTURES=FOLDER the pages are kept as pictures: docs/images/desk-*.png are made so.
"""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from desk_harness import PASSWORD, Agent, Customer, newest_ticket, ticket_of, transcript, wait_until
from playwright.sync_api import APIResponse, Browser, BrowserContext, Page, Route, expect, sync_playwright
from site_harness import Running, Site, running
from sqlalchemy import select, update
from test_site_chat_browser import CHROMIUM, FLAGS, PNG, say, theirs
from test_site_chat_browser import chromium as chromium

from handoff.access import Role
from handoff.clocks import ClockKind
from handoff.lifecycle import TicketStatus
from handoff.records import Agent as AgentRow
from handoff.records import ClockRow, Conversation, Delivery, Feedback, Presence, Reason, Ticket

pytestmark = pytest.mark.e2e
PICTURES = os.environ.get("OTVET_PICTURES", "")
SERIOUS = ("serious", "critical")
PAGE_BYTES = 150_000
Open = Callable[..., Page]

__all__ = ["CHROMIUM", "FLAGS", "chromium", "sync_playwright"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(lambda: Site(tmp_path_factory.mktemp("desk"), gather_seconds=0.2)) as started:
        yield started


@pytest.fixture(scope="module")
def people(server: Running) -> dict[str, Agent]:
    teams = ("first-line", "logistics", "payments", "service")
    return {
        name: Agent(server, name, role, teams)
        for name, role in (("Anna Orlova", Role.AGENT), ("Boris Ivanov", Role.ADMIN))
    }


@pytest.fixture
def desk(chromium: Browser, server: Running, people: dict[str, Agent]) -> Iterator[Open]:
    """Opens the desk as somebody. A fault on any page fails the test."""
    contexts: list[BrowserContext] = []
    faults: list[str] = []

    def open_desk(name: str = "Anna Orlova", path: str = "/queue?view=all", **options: Any) -> Page:
        context = chromium.new_context(**{"locale": "en-GB", "viewport": {"width": 1600, "height": 900}, **options})
        context.set_default_timeout(10_000)
        context.on("weberror", lambda fault: faults.append(str(fault.error)))
        context.on("console", lambda said: faults.append(said.text) if "Security Policy" in said.text else None)
        contexts.append(context)
        page = context.new_page()
        page.goto(f"{server.url}/desk/sign-in?next=/desk{path.replace('?', '%3F').replace('&', '%26')}")
        page.get_by_label("Login").fill(name.replace(" ", "."))
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url(f"{server.url}/desk{path}")
        return page

    yield open_desk
    for context in contexts:
        context.close()
    assert faults == []


def picture(page: Page, name: str) -> None:
    if PICTURES:
        page.wait_for_timeout(300)
        page.screenshot(path=str(Path(PICTURES) / f"{name}.png"))


def faultless(page: Page) -> None:
    """axe-core finds nothing serious."""
    found = Axe().run(page)
    serious = [
        (each["id"], [node["html"][:160] for node in each["nodes"]][:3])
        for each in found.response["violations"]
        if each["impact"] in SERIOUS
    ]
    assert serious == []


def name_them(server: Running, names: dict[int, str]) -> None:
    async def write() -> None:
        async with server.site.sessions.begin() as session:
            for ticket_id, name in names.items():
                ticket = ticket_of_session[ticket_id]
                await session.execute(update(Conversation).where(Conversation.id == ticket).values(customer_name=name))

    ticket_of_session = {ticket_id: ticket_of(server, ticket_id).conversation_id for ticket_id in names}
    server.call(write())


def test_from_the_customers_question_to_the_survey_that_opens_it_again(
    chromium: Browser, desk: Open, server: Running
) -> None:
    anna = desk(path="/queue?view=unassigned")
    with chromium.new_context(locale="en-GB") as context:
        chat = context.new_page()
        chat.goto(f"{server.url}/chat")
        say(chat, "Where is my order?")
        expect(theirs(chat)).to_contain_text("My orders")
        before = newest_ticket(server)
        say(chat, "I want a person <b>now</b>")
        wait_until(lambda: newest_ticket(server) > before)
        ticket = newest_ticket(server)

        anna.locator(f'#rows li[data-id="{ticket}"] a').click()
        expect(anna.locator("#card")).to_contain_text("The customer asked for a person")
        attempt = anna.locator(".bot summary", has_text="order-status")
        expect(attempt).to_contain_text("answered")
        attempt.click()
        expect(anna.locator(".bot details[open] .body")).to_contain_text("You can see it in My orders")
        expect(anna.locator("#log .them .body").last).to_have_text("I want a person <b>now</b>")

        anna.keyboard.press("n")
        anna.locator("#text").type("A secret of the agents")
        anna.keyboard.press("Control+Enter")
        expect(anna.locator("#log .note .body").last).to_have_text("A secret of the agents")
        anna.locator("#text").type("Hello! Your order is **on its way**")
        expect(chat.locator("#typing .bubble")).to_have_attribute("aria-label", "The specialist is typing")
        expect(chat.locator("#typing")).to_be_visible()
        anna.keyboard.press("Control+Enter")
        expect(anna.locator("#under-way .pending")).to_contain_text("on its way")
        expect(theirs(chat)).to_contain_text("on its way", timeout=12_000)
        expect(theirs(chat).locator("strong")).to_have_text("on its way")
        expect(chat.locator("#history")).not_to_contain_text("secret")
        chat.locator("#text").type("than")
        expect(anna.locator("#others")).to_contain_text("The customer is writing", timeout=15_000)
        expect(anna.locator("#under-way .pending")).to_have_count(0)
        expect(anna.locator("#log .us .body").last).to_contain_text("on its way")

        say(chat, "thank you so much for the answer")
        expect(anna.locator("#log .them .body").last).to_have_text("thank you so much for the answer")

        anna.locator("#text").blur()
        anna.keyboard.press("f")
        expect(anna.locator("#head .status")).to_have_text("asked whether it helped")
        server.site.clock.advance(server.site.desk.tickets.policy.survey.after.total_seconds() + 1)
        expect(theirs(chat)).to_contain_text("Did", timeout=15_000)
        chat.locator(".option").last.click()
        expect(anna.locator("#head .status")).to_have_text("open", timeout=10_000)
        assert ticket_of(server, ticket).reopened == 1

        anna.keyboard.press("d")
        expect(anna.locator("#head .status")).to_have_text("resolved")
        expect(anna.locator("#reply")).to_be_hidden()
        say(chat, "Where is my order?")
        expect(chat.locator("#status")).to_have_text("The assistant answers right away")


def test_a_reply_is_taken_back_and_its_text_is_in_the_box_again(desk: Open, server: Running) -> None:
    ticket = Customer(server).calls_a_person()
    anna = desk(path=f"/tickets/{ticket}")
    anna.locator("#text").fill("Not like this")
    anna.get_by_role("button", name="Send", exact=True).click()
    anna.get_by_role("button", name="Undo").click()
    expect(anna.locator("#text")).to_have_value("Not like this")
    expect(anna.locator("#under-way .pending")).to_have_count(0)
    assert [m for m in transcript(server, ticket) if m.author == "agent"] == []


def test_two_agents_see_each_other_and_the_second_reply_waits(desk: Open, server: Running) -> None:
    ticket = Customer(server).calls_a_person()
    anna, boris = desk(path=f"/tickets/{ticket}"), desk("Boris Ivanov", f"/tickets/{ticket}")
    expect(anna.locator("#others")).to_contain_text("Boris Ivanov", timeout=15_000)
    boris.locator("#text").type("I write too")
    expect(anna.locator("#others")).to_contain_text("Boris Ivanov is writing here", timeout=15_000)
    anna.locator("#text").fill("I am first")
    anna.keyboard.press("Control+Enter")
    expect(anna.locator("#under-way .pending")).to_have_count(1)
    boris.keyboard.press("Control+Enter")
    expect(boris.locator("#toasts")).to_contain_text("Anna Orlova is answering")
    expect(boris.locator("#text")).to_have_value("I write too")
    expect(boris.locator("#log .us .body").last).to_contain_text("I am first", timeout=15_000)
    boris.locator("#text").press("Control+Enter")
    expect(boris.locator("#under-way .pending")).to_have_count(1)
    wait_until(lambda: [m.text for m in transcript(server, ticket) if m.author == "agent"][1:] == ["I write too"], 15)


def test_a_colleagues_ticket_takes_two_presses_and_a_mention_lets_another_team_write_a_note(
    desk: Open, server: Running, people: dict[str, Agent]
) -> None:
    ticket, zoya = Customer(server).calls_a_person(), Agent(server, "Zoya", teams=("nowhere",))

    async def be_there() -> None:
        async with server.site.sessions.begin() as session:
            await session.execute(
                update(AgentRow).where(AgentRow.name == "Boris Ivanov").values(presence=Presence.ONLINE)
            )

    server.call(be_there())
    people["Boris Ivanov"].post(f"/tickets/{ticket}/take")
    people["Boris Ivanov"].post(f"/tickets/{ticket}/note", {"text": "@Zoya please look"})
    before = ticket_of(server, ticket).assignee_id
    anna = desk(path=f"/tickets/{ticket}")
    anna.get_by_role("button", name="Take", exact=True).click()
    offer = anna.get_by_role("button", name="Take it over from Boris Ivanov")
    expect(offer).to_be_visible()
    assert ticket_of(server, ticket).assignee_id == before
    offer.click()
    expect(anna.locator("#head")).to_contain_text("Anna Orlova")
    assert ticket_of(server, ticket).assignee_id != before

    page = desk(zoya.name, f"/tickets/{ticket}")
    expect(page.get_by_role("button", name="Transfer")).to_have_count(0)
    page.locator("#text").fill("Seen")
    page.locator("#text").press("Control+Enter")
    expect(page.locator("#log")).to_contain_text("Seen")
    assert (transcript(server, ticket)[-1].kind, transcript(server, ticket)[-1].text) == ("note", "Seen")


def test_a_slow_answer_takes_nothing_from_under_the_hands(desk: Open, server: Running) -> None:
    """What the answer says, the news said before it."""
    ticket, other = Customer(server).calls_a_person(), Customer(server).calls_a_person()
    anna = desk(path=f"/tickets/{ticket}?view=all")
    slow: list[tuple[Route, APIResponse]] = []
    anna.route("**/take", lambda route: slow.append((route, route.fetch())))

    def take() -> None:
        anna.get_by_role("button", name="Take", exact=True).click()
        expect(anna.locator("#head")).to_contain_text("Anna Orlova", timeout=15_000)
        wait_until(lambda: anna.evaluate("true") and bool(slow))

    def answer() -> None:
        route, response = slow.pop()
        with anna.expect_response("**/take") as answered:
            route.fulfill(response=response)
        answered.value.finished()
        anna.wait_for_timeout(100)

    take()
    anna.keyboard.press("t")
    anna.get_by_label("Why: your colleague reads this first").fill("Half a reas")
    answer()
    expect(anna.get_by_label("Why: your colleague reads this first")).to_have_value("Half a reas")
    anna.keyboard.press("Escape")
    anna.locator(f'#rows li[data-id="{other}"] a').click()
    expect(anna.locator("#talk")).to_have_attribute("data-ticket", str(other))
    take()
    anna.locator("#text").press_sequentially("Hello, I am lo")
    answer()
    expect(anna.locator("#text")).to_be_focused()
    anna.get_by_role("button", name="Resolve").click()
    expect(anna.get_by_role("button", name="Open again")).to_be_visible()
    again = Customer(server).calls_a_person()
    anna.locator(f'#rows li[data-id="{again}"] a').click()
    expect(anna.locator("#talk")).to_have_attribute("data-ticket", str(again))
    take()
    anna.locator(f'#rows li[data-id="{ticket}"] a').click()
    expect(anna.locator("#talk")).to_have_attribute("data-ticket", str(ticket))
    answer()
    expect(anna.locator("#talk")).to_have_attribute("data-ticket", str(ticket))


def test_what_is_written_without_a_line_is_sent_once_when_it_is_back(desk: Open, server: Running) -> None:
    ticket = Customer(server).calls_a_person()
    anna = desk(path=f"/tickets/{ticket}")
    lost: list[bool] = []

    def lose_the_answer(route: Route) -> None:
        if not lost:
            lost.append(True)
            route.fetch()  # it arrives, and the answer to it does not
            route.abort()
        else:
            route.continue_()

    anna.route("**/reply", lose_the_answer)
    anna.locator("#text").fill("Said once")
    anna.keyboard.press("Control+Enter")
    expect(anna.locator("#reply-state")).to_contain_text("Not sent: no connection")
    expect(anna.locator("#text")).to_have_value("", timeout=15_000)
    wait_until(lambda: bool([m for m in transcript(server, ticket) if m.author == "agent"]), 15)
    time.sleep(1)
    assert [m.text for m in transcript(server, ticket) if m.author == "agent"] == ["Said once"]


def test_a_draft_outlives_the_page(desk: Open, server: Running) -> None:
    ticket = Customer(server).calls_a_person()
    anna = desk(path=f"/tickets/{ticket}")
    anna.locator("#text").type("Half a sent")
    anna.reload()
    expect(anna.locator("#text")).to_have_value("Half a sent")


def test_a_pasted_screenshot_reaches_the_customer(desk: Open, server: Running) -> None:
    customer = Customer(server)
    ticket = customer.calls_a_person()
    anna = desk(path=f"/tickets/{ticket}")
    anna.locator("#text").focus()
    anna.evaluate(
        """(bytes) => {
          const data = new DataTransfer();
          data.items.add(new File([new Uint8Array(bytes)], "<b>shot</b>.png", { type: "image/png" }));
          const event = new ClipboardEvent("paste", { clipboardData: data, bubbles: true });
          document.querySelector("#text").dispatchEvent(event);
        }""",
        list(PNG),
    )
    expect(anna.locator("#files li")).to_contain_text("<b>shot</b>.png")
    anna.locator("#text").fill("See the picture")
    anna.keyboard.press("Control+Enter")

    def sent() -> bool:
        last = transcript(server, ticket)[-1]
        return bool(last.attachments) and last.delivery is Delivery.SENT

    wait_until(sent, 15)
    expect(anna.locator("#log .us .shot img")).to_be_visible()


def test_a_macro_an_article_and_a_draft_fill_the_box(desk: Open, server: Running, people: dict[str, Agent]) -> None:
    boris = people["Boris Ivanov"]
    macro = {"title": "Hello", "body": "Hello! I am {{ agent_name }}."}
    assert boris.post("/macros", macro).status_code == 303
    broken = boris.post("/macros", {"title": "Bad", "body": "{{ customer_nam }} {% for x in 'ab' %}"})
    assert broken.status_code == 422
    assert "This macro is broken" in broken.text
    customer = Customer(server)
    customer.says("Where is my order?")
    ticket = customer.calls_a_person()
    anna = desk(path=f"/tickets/{ticket}")
    for key, name, text in (
        ("m", re.compile("^Hello"), "I am Anna Orlova."),
        ("a", re.compile("Order status"), "My orders"),
        ("s", re.compile("Order status"), "You can see it"),
    ):
        anna.keyboard.press(key)
        anna.locator("#picker").get_by_role("button", name=name).first.click()
        expect(anna.locator("#text")).to_have_value(re.compile(re.escape(text)))
        anna.locator("#text").fill("")
        anna.locator("#text").blur()


def test_everything_is_done_from_the_keyboard_in_any_layout(desk: Open, server: Running) -> None:
    tickets = [Customer(server).calls_a_person() for _ in range(2)]
    anna = desk(path="/queue?view=unassigned")
    anna.locator(f'#rows li[data-id="{tickets[-1]}"]').wait_for()
    anna.keyboard.press("?")
    expect(anna.locator("#help")).to_be_visible()
    anna.keyboard.press("Escape")
    expect(anna.locator("#help")).to_be_hidden()
    # The list is asked for anew, and he moves in it before it is there.
    held: list[Route] = []
    anna.route(re.compile(r"/desk/queue\?.*open="), lambda route: held.append(route))
    with anna.expect_request(re.compile(r"/desk/queue\?.*open=")):
        newest = Customer(server).calls_a_person()
    anna.keyboard.press("j")
    expect(anna.locator("#rows a").first).to_be_focused()
    held[0].continue_()
    expect(anna.locator(f'#rows li[data-id="{newest}"]')).to_be_attached()
    expect(anna.locator("#rows a.at")).to_be_focused()
    anna.unroute_all(behavior="ignoreErrors")
    anna.keyboard.press("Enter")
    expect(anna.locator("#talk[data-ticket]")).to_be_visible()
    ticket = int(anna.locator("#talk").get_attribute("data-ticket") or 0)
    # On a Russian keyboard the same key says "ш".
    anna.evaluate("document.activeElement.blur()")
    anna.evaluate("document.dispatchEvent(new KeyboardEvent('keydown', {key: 'ш', code: 'KeyI', bubbles: true}))")
    expect(anna.locator("#toasts")).not_to_be_empty()  # the answer is there, and not the news of it alone
    expect(anna.locator("#head")).to_contain_text("Anna Orlova")
    assert ticket_of(server, ticket).status is TicketStatus.NEW
    anna.keyboard.press("t")
    expect(anna.get_by_role("dialog", name="Transfer")).to_be_visible()
    anna.keyboard.press("Escape")
    expect(anna.locator("#transfer")).to_be_hidden()
    anna.keyboard.press("/")
    expect(anna.locator("#words")).to_be_focused()
    # A field of the dialog has the focus for a frame longer than the dialog is there.
    anna.locator("#words").blur()
    anna.keyboard.press("t")
    expect(anna.locator("#transfer textarea")).to_be_focused()
    anna.evaluate(
        """() => {
            document.querySelector("#transfer").close();
            const key = new KeyboardEvent("keydown", { key: "/", code: "Slash", bubbles: true });
            document.activeElement.dispatchEvent(key);
        }"""
    )
    expect(anna.locator("#words")).to_be_focused()


NAMES = {
    "en": ("Olga Smirnova", "Ivan Kuznetsov", "Maria Volkova", "Pavel Orlov"),
    "ru": ("Ольга Смирнова", "Иван Кузнецов", "Мария Волкова", "Павел Орлов"),
}
SAID = {
    "en": (
        "My payment was charged twice, I need a person",
        "The order has not come for five days, I want a person",
        "The courier never came, person please",
        "The screen was scratched on delivery, call a person",
    ),
    "ru": (
        "Деньги списали дважды, позовите человека",
        "Заказ не едет пятый день, нужен человек",
        "Курьер так и не приехал, нужен человек",
        "Экран поцарапан при доставке, позовите человека",
    ),
}


@pytest.mark.parametrize("lang", ["en", "ru"])
def test_every_page_is_light_and_has_no_serious_fault_in_light_dark_and_on_a_phone(
    lang: str, chromium: Browser, server: Running, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with running(lambda: Site(tmp_path_factory.mktemp(f"pages-{lang}"), gather_seconds=0.2)) as fresh:
        token = fresh.call(fresh.site.accounts.first_administrator())
        context = chromium.new_context(locale=lang, viewport={"width": 1600, "height": 900})
        context.set_default_timeout(10_000)
        page = context.new_page()
        weight: dict[str, int] = {}
        page.on("response", lambda answer: weight.update({answer.url: _weight(answer)}))
        page.goto(f"{fresh.url}/desk/welcome/{token}")
        faultless(page)
        names = {"en": "Anna Petrova", "ru": "Анна Петрова"}
        page.locator('[name="name"]').fill(names[lang])
        page.locator('[name="login"]').fill("anna")
        page.locator('[name="password"]').fill(PASSWORD)
        page.locator("button.primary").click()
        page.wait_for_url("**/desk/queue")
        asked = {"en": "Where is my order?", "ru": "Где мой заказ?"}[lang]
        tickets = []
        for said in SAID[lang]:
            customer = Customer(fresh)
            customer.says(asked, lang=lang)
            before = newest_ticket(fresh)
            customer.says(said, lang=lang)
            wait_until(lambda before=before: newest_ticket(fresh) > before)  # type: ignore[misc]
            tickets.append(newest_ticket(fresh))
        name_them(fresh, dict(zip(tickets, NAMES[lang], strict=True)))
        fresh.call(
            _say_as(
                fresh,
                tickets[0],
                names[lang],
                {"en": "Hello, let me look.", "ru": "Здравствуйте, сейчас посмотрю."}[lang],
            )
        )
        noted = {"en": "The bank confirms two charges.", "ru": "Банк подтверждает два списания."}
        fresh.call(_note_as(fresh, tickets[0], names[lang], noted[lang]))
        fresh.call(_two_weeks(fresh, names[lang]))
        paths = ["queue?view=all", f"tickets/{tickets[0]}?view=all", "team", "macros", "people", "audit", "me"]
        themes: tuple[Literal["light", "dark"], ...] = ("light", "dark")
        for theme in themes:
            page.emulate_media(color_scheme=theme)
            for path in paths:
                weight.clear()
                page.goto(f"{fresh.url}/desk/{path}", wait_until="load")
                page.wait_for_timeout(400)
                assert sum(weight.values()) < PAGE_BYTES, (path, weight)
                faultless(page)
                if path == "team":
                    page.locator(".charts img").last.scroll_into_view_if_needed()
                    page.wait_for_timeout(600)
                    picture(page, f"desk-charts-{lang}-{theme}")
                    page.locator("h1").scroll_into_view_if_needed()
                picture(page, f"desk-{path.split('?')[0].split('/')[0]}-{lang}-{theme}")
        page.emulate_media(color_scheme="light")
        page.set_viewport_size({"width": 390, "height": 844})
        for path in paths:
            page.goto(f"{fresh.url}/desk/{path}")
            page.wait_for_timeout(300)
            wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            assert wide <= 0, (path, wide)
            faultless(page)
            picture(page, f"desk-{path.split('?')[0].split('/')[0]}-{lang}-phone")
        page.set_viewport_size({"width": 1280, "height": 800})
        page.goto(f"{fresh.url}/desk/tickets/{tickets[0]}?view=all")
        picture(page, f"desk-tickets-{lang}-1280")
        for key, name in (("m", "macros-open"), ("?", "help"), ("t", "dialog")):
            page.keyboard.press(key)
            page.wait_for_timeout(300)
            faultless(page)
            picture(page, f"desk-{name}-{lang}")
            page.keyboard.press("Escape")
            page.keyboard.press("Escape")
        page.goto(f"{fresh.url}/desk/tickets/999")
        faultless(page)
        page.context.clear_cookies()
        page.goto(f"{fresh.url}/desk/sign-in")
        faultless(page)
        picture(page, f"desk-sign-in-{lang}")
        context.close()


async def _two_weeks(server: Running, agent: str) -> None:
    """Tickets that were settled in the last fourteen days, for the charts to show."""
    chance = random.Random(3)  # noqa: S311
    now = server.site.clock()
    topics = [topic for topic in server.site.desk.tickets.topics.all.values() if topic.id != "unclear"]
    async with server.site.sessions.begin() as session:
        who = (await session.scalars(select(AgentRow).where(AgentRow.name == agent))).one()
        who.teams = ["first-line", "payments"]
        for number in range(160):
            day = int(13 * chance.random() ** 0.8)
            at = now - timedelta(days=day, hours=chance.randrange(1, 11), minutes=chance.randrange(60))
            took, solved = chance.lognormvariate(5.6, 0.7), chance.lognormvariate(8.3, 0.8)
            topic = topics[min(int(chance.expovariate(0.5)), len(topics) - 1)]
            conversation = Conversation(
                channel=chance.choice(("site", "telegram", "whatsapp")),
                account="",
                chat_id=f"past{number}",
                epoch=2,
                state={},
                created_at=at,
                updated_at=at,
            )
            session.add(conversation)
            await session.flush()
            ended = at + timedelta(seconds=solved)
            ticket = Ticket(
                conversation_id=conversation.id,
                status=TicketStatus.RESOLVED,
                reason=Reason.LOW_CONFIDENCE,
                topic=topic.id,
                routed_by="intent",
                team=topic.team,
                level="L1",
                priority="normal",
                lang="ru",
                subject="…",
                assignee_id=who.id,
                promised_at=at + timedelta(minutes=10),
                created_at=at,
                updated_at=ended,
                first_reply_at=at + timedelta(seconds=took),
                finished_at=ended,
                resolved_at=ended,
                asked_at=ended,
                feedback=chance.choices((Feedback.HELPED, Feedback.NOT_HELPED, None), (8, 1, 4))[0],
            )
            session.add(ticket)
            await session.flush()
            for kind, used, target in (
                (ClockKind.FIRST_RESPONSE, took, 600),
                (ClockKind.RESOLUTION, solved, 8 * 3600),
            ):
                session.add(
                    ClockRow(ticket_id=ticket.id, kind=kind, target_seconds=target, used_seconds=used, done_at=ended)
                )


def _weight(answer: Any) -> int:
    try:
        return int(answer.request.sizes()["responseBodySize"])
    except Exception:  # noqa: BLE001 - the live stream has no size, and what was cancelled weighs nothing
        return 0


async def _say_as(server: Running, ticket_id: int, name: str, text: str) -> None:
    async with server.site.sessions.begin() as session:
        await server.site.desk.reply(session, ticket_id, text, agent=name)


async def _note_as(server: Running, ticket_id: int, name: str, text: str) -> None:
    async with server.site.sessions.begin() as session:
        await server.site.desk.note(session, ticket_id, text, agent=name)
