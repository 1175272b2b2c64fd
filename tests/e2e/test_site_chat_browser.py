"""The site chat in a real browser, against a real server."""

from __future__ import annotations

import http.server
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, FrameLocator, Locator, Page, Route, expect, sync_playwright
from site_harness import Running, Site, running
from sqlalchemy import select
from test_email_proof import Mail, mail_server

from handoff.records import Contact, Message, Ticket

pytestmark = pytest.mark.e2e
CHROMIUM = Path(os.environ.get("CHROMIUM", "/usr/bin/chromium"))
FLAGS = [
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010806000000"
    "1f15c4890000000d49444154789c6360f8cf500f0003860180"
    "5a34c5fd0000000049454e44ae426082"
)
OpenContext = Callable[..., BrowserContext]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    if not CHROMIUM.exists():
        reason = f"there is no {CHROMIUM}: install Chromium (apt-get install chromium) or set CHROMIUM to its path"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def mail() -> Iterator[tuple[Mail, int]]:
    with mail_server() as started:
        yield started


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, mail: tuple[Mail, int]) -> Iterator[Running]:
    var, letters = (
        tmp_path_factory.mktemp("site"),
        f"mailto://127.0.0.1:{mail[1]}?from=help@klyon.example&mode=insecure",
    )
    with running(lambda: Site(var, allowed_origins=("http://localhost:*",), mail=letters)) as started:
        yield started


@pytest.fixture
def visit(chromium: Browser) -> Iterator[OpenContext]:
    """Opens a context of a visitor of his own. A fault on any of his pages fails the test."""
    contexts: list[BrowserContext] = []
    faults: list[str] = []

    def open_context(*, lang: str = "en-GB", refused: bool = False, **options: object) -> BrowserContext:
        context = chromium.new_context(locale=lang, **options)  # type: ignore[arg-type]
        context.set_default_timeout(10_000)
        context.on("weberror", lambda fault: faults.append(str(fault.error)))
        if not refused:
            context.on("console", lambda said: faults.append(said.text) if "Security Policy" in said.text else None)
        contexts.append(context)
        return context

    yield open_context
    for context in contexts:
        context.close()
    assert faults == []


@pytest.fixture
def page(visit: OpenContext, server: Running) -> Page:
    """A visitor who has opened the chat and was greeted."""
    opened = visit().new_page()
    opened.goto(f"{server.url}/chat")
    expect(theirs(opened)).to_contain_text("Klyon shop assistant")
    return opened


def theirs(page: Page | FrameLocator) -> Locator:
    return page.locator("#history .them .bubble").last


def say(page: Page | FrameLocator, text: str) -> None:
    box = page.locator("#text")
    box.fill(text)
    box.press("Enter")


def ticket_id(server: Running) -> int:
    async def newest() -> int:
        async with server.site.sessions() as session:
            return int((await session.scalars(select(Ticket.id).order_by(Ticket.id.desc()))).first() or 0)

    return server.call(newest())


def test_from_a_question_to_an_answer_to_a_person_and_back(page: Page, server: Running) -> None:
    say(page, "Where is my order?")
    expect(theirs(page)).to_contain_text("You can see it in My orders")
    expect(theirs(page).locator("strong")).to_have_text("My orders")
    link = theirs(page).locator("a")
    expect(link).to_have_attribute("href", "https://klyon.example/orders")
    expect(link).to_have_attribute("rel", re.compile("noopener"))

    say(page, "how do I return it")
    expect(page.locator("#options .option")).to_have_count(3)
    page.get_by_role("button", name="Return period").click()
    expect(page.locator("#history .me .bubble").last).to_have_text("Return period")
    expect(theirs(page)).to_contain_text("14 days")

    page.get_by_role("button", name="No, that didn't help").or_(page.locator("#options .option").last).first.click()
    expect(theirs(page)).to_contain_text("Ticket No.")
    number = ticket_id(server)
    expect(page.locator("#status")).to_contain_text(f"Ticket No. {number}")
    expect(page.locator("#options .option")).to_have_text(["Don't wait, ask the assistant"])

    say(page, "are you there?")
    server.call(server.site.agent_says(number, "Yes, **Anna** here"))
    expect(theirs(page)).to_have_text("Yes, Anna here")
    expect(page.locator("#history .agent .name").last).to_have_text("Anna")
    expect(page.locator("#status")).to_contain_text("Anna")

    server.call(server.site.agent_resolves(number))
    say(page, "Where is my order?")
    expect(page.locator("#status")).to_have_text("The assistant answers right away")
    expect(theirs(page)).to_contain_text("My orders")
    expect(page.locator("#unsent .row")).to_have_count(0)
    expect(page.locator("#typing")).to_be_hidden()


def test_an_e_mail_is_confirmed_by_the_code_in_a_letter(page: Page, server: Running, mail: tuple[Mail, int]) -> None:
    page.get_by_role("button", name="Confirm your e-mail").click()
    page.get_by_label("E-mail", exact=True).fill("ivan@example.com")
    page.get_by_role("button", name="Send a code").click()
    expect(page.locator("#prove-note")).to_contain_text("good for 10 minutes")
    page.get_by_label("Code from the letter").fill("12x")
    page.get_by_role("button", name="Confirm", exact=True).click()
    expect(page.locator("#prove-note")).to_have_text("That code is wrong. Look at the letter again.")
    page.get_by_label("Code from the letter").fill(mail[0].code())
    page.get_by_role("button", name="Confirm", exact=True).click()
    expect(page.locator("#prove-note")).to_have_text("Your e-mail is confirmed.")

    async def proved() -> list[str]:
        async with server.site.sessions() as session:
            return list(await session.scalars(select(Contact.value).where(Contact.verified)))

    assert server.call(proved()) == ["ivan@example.com"]


def test_only_the_newest_messages_choices_can_be_taken(page: Page) -> None:
    say(page, "how do I return it")
    expect(page.locator("#options .option")).to_have_count(3)
    say(page, "Where is my order?")
    expect(theirs(page)).to_contain_text("My orders")
    expect(page.locator("#options .option")).to_have_text(["Yes, it helped", "No, it didn't help"])


def test_two_tabs_show_the_same_conversation(page: Page, server: Running) -> None:
    other = page.context.new_page()
    other.goto(f"{server.url}/chat")
    expect(theirs(other)).to_contain_text("Klyon shop assistant")
    for writer, reader, text, answer in (
        (page, other, "order one", "My orders"),
        (other, page, "return", "Which of these"),
    ):
        say(writer, text)
        for tab in (writer, reader):
            expect(tab.locator("#history .me .bubble").last).to_have_text(text)
            expect(theirs(tab)).to_contain_text(answer)
    assert page.locator("#history .row").count() == other.locator("#history .row").count() == 5


def test_a_reload_shows_the_conversation_again_and_greets_once(page: Page) -> None:
    say(page, "Where is my order?")
    expect(theirs(page)).to_contain_text("My orders")
    page.reload()
    expect(page.locator("#history .row")).to_have_count(3)
    page.wait_for_timeout(500)
    expect(page.locator("#history .row")).to_have_count(3)


@pytest.mark.parametrize(
    "text",
    [
        '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>',
        "{{ 7*7 }} {% raw %} ${7*7}",
        "[order](javascript:window.hacked=1) **order**",
    ],
)
def test_markup_written_by_a_customer_stays_text(page: Page, text: str) -> None:
    say(page, text)
    expect(page.locator("#history .me .bubble").last).to_have_text(text)
    assert page.evaluate("window.hacked") is None
    assert page.locator("#history .me img, #history .me script, #history .me a").count() == 0


def test_markup_written_by_an_agent_stays_text(page: Page, server: Running) -> None:
    say(page, "a person please")
    expect(theirs(page)).to_contain_text("Ticket No.")
    text = '<img src=x onerror="window.hacked=1"> [x](javascript:window.hacked=1)'
    server.call(server.site.agent_says(ticket_id(server), text))
    expect(theirs(page)).to_have_text(text)
    assert page.evaluate("window.hacked") is None
    assert theirs(page).locator("img, a").count() == 0


def test_a_message_written_while_the_server_is_away_arrives_once_when_it_is_back(
    visit: OpenContext, tmp_path: Path
) -> None:
    with running(lambda: Site(tmp_path)) as first:
        page = visit().new_page()
        page.goto(f"{first.url}/chat")
        expect(theirs(page)).to_contain_text("Klyon shop assistant")
        url, port = first.url, first.port
    say(page, "Where is my order?")
    expect(page.locator("#unsent .row.failed")).to_contain_text("Not sent")
    expect(page.locator("#offline")).to_be_visible()
    say(page, "and how do I return it")
    with running(lambda: Site(tmp_path), port) as second:
        assert second.url == url
        expect(page.locator("#history .me .bubble")).to_have_text(
            ["Where is my order?", "and how do I return it"], timeout=30_000
        )
        expect(page.locator("#unsent .row")).to_have_count(0)
        expect(page.locator("#offline")).to_be_hidden()
        expect(page.locator("#options .option")).to_have_count(3)
        expect(page.locator("#history .row")).to_have_count(5)

        async def stored() -> list[str]:
            async with second.site.sessions() as session:
                return list(await session.scalars(select(Message.text).where(Message.author == "customer")))

        assert second.call(stored()) == ["", "Where is my order?", "and how do I return it"]


def test_an_answer_that_got_lost_on_its_way_does_not_double_the_message(page: Page) -> None:
    lost: list[Route] = []

    def lose(route: Route) -> None:
        route.fetch()
        lost.append(route)
        route.abort()

    page.route("**/api/chat/messages", lose, times=1)
    say(page, "Where is my order?")
    expect(page.locator("#unsent .row")).to_have_count(0)
    expect(theirs(page)).to_contain_text("My orders")
    page.wait_for_timeout(700)
    assert len(lost) == 1
    assert page.locator("#history .me").count() == 1


def test_a_refusal_is_told_in_its_own_words_and_can_be_retried(page: Page) -> None:
    body = '{"error": {"code": "too_often", "message": "Too many messages in a row."}}'
    page.route("**/api/chat/messages", lambda route: route.fulfill(status=429, body=body), times=1)
    say(page, "Where is my order?")
    expect(page.locator("#unsent .row.failed")).to_contain_text("Too many messages in a row.")
    page.get_by_role("button", name="Retry").click()
    expect(theirs(page)).to_contain_text("My orders")


def test_a_message_that_no_one_answers_yet_is_said_to_be_kept(page: Page) -> None:
    page.clock.install()
    accepted = '{"new": true}'
    page.route("**/api/chat/messages", lambda route: route.fulfill(status=202, body=accepted))
    say(page, "Where is my order?")
    page.clock.run_for(1000)
    expect(page.locator("#typing")).to_be_visible()
    page.clock.run_for(31_000)
    expect(page.locator("#typing")).to_be_hidden()
    expect(page.locator("#kept")).to_contain_text("Your message is kept")


def test_pictures_are_pasted_and_shown(page: Page) -> None:
    page.locator("#file").set_input_files({"name": "photo.png", "mimeType": "image/png", "buffer": PNG})
    picture = page.locator("#history .me img.picture")
    expect(picture).to_have_attribute("alt", "photo.png")
    expect(theirs(page)).to_contain_text("photo")
    page.reload()
    expect(picture).to_have_js_property("naturalWidth", 1)


def test_a_long_message_is_announced_and_one_too_long_is_not_sent(page: Page) -> None:
    page.locator("#text").fill("order " * 800)
    expect(page.locator("#hint")).to_contain_text("understands up to 4,000")
    expect(page.locator("#send")).to_be_enabled()
    page.locator("#text").fill("x" * 100_001)
    expect(page.locator("#hint")).to_contain_text("up to 100,000 fit")
    expect(page.locator("#send")).to_be_disabled()


def test_enter_sends_and_shift_enter_makes_a_new_line(page: Page) -> None:
    box = page.locator("#text")
    box.fill("")
    box.press_sequentially("order")
    box.press("Shift+Enter")
    box.press_sequentially("please")
    expect(box).to_have_value("order\nplease")
    box.press("Enter")
    expect(box).to_have_value("")
    expect(page.locator("#history .me .bubble").last).to_have_text("order\nplease")
    box.press("Enter")  # nothing to send
    expect(page.locator("#unsent .row")).to_have_count(0)


def test_the_interface_speaks_both_languages(visit: OpenContext, server: Running) -> None:
    page = visit(lang="ru-RU").new_page()
    page.goto(f"{server.url}/chat")
    expect(theirs(page)).to_contain_text("помощник магазина «Клён»")
    expect(page.locator("#status")).to_have_text("Помощник отвечает сразу")
    page.get_by_role("button", name="Switch to English").click()
    expect(page.locator("#text")).to_have_attribute("placeholder", "Write a message…")
    expect(page.locator("#title")).to_have_text("Klyon")


def test_the_shops_questions_open_the_widget_and_escape_closes_it(visit: OpenContext, server: Running) -> None:
    page = visit().new_page()
    page.goto(server.url)
    page.get_by_role("button", name="Where is my order?").click()
    chat = page.frame_locator("iframe")
    expect(theirs(chat)).to_contain_text("My orders")
    expect(chat.locator("#text")).to_be_focused()
    page.keyboard.press("Escape")
    launcher = page.locator(".launcher")
    expect(launcher).to_have_attribute("aria-expanded", "false")
    expect(page.locator("#panel")).to_be_hidden()
    assert page.evaluate("document.querySelector('#otvet-chat').shadowRoot.activeElement.className") == "launcher"
    page.keyboard.press("Enter")
    expect(page.locator("#panel")).to_be_visible()
    expect(chat.locator("#text")).to_be_focused()


def test_a_closed_widget_counts_what_came_meanwhile(visit: OpenContext, server: Running) -> None:
    page = visit().new_page()
    page.goto(server.url)
    page.locator(".launcher").click()
    chat = page.frame_locator("iframe")
    expect(theirs(chat)).to_contain_text("Klyon shop assistant")
    say(chat, "a person please")
    expect(theirs(chat)).to_contain_text("Ticket No.")
    page.keyboard.press("Escape")
    number = ticket_id(server)
    for text in ("one", "two"):
        server.call(server.site.agent_says(number, text))
    expect(page.locator(".badge")).to_have_text("2")

    page.reload()  # the badge is there without opening anything
    expect(page.locator(".badge")).to_have_text("2")
    page.locator(".launcher").click()
    expect(page.locator(".badge")).to_be_hidden()
    expect(theirs(chat)).to_have_text("two")


def test_on_a_phone_the_widget_fills_the_screen(visit: OpenContext, server: Running) -> None:
    page = visit(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True).new_page()
    page.goto(server.url)
    page.locator(".launcher").tap()
    expect(page.frame_locator("iframe").locator("#history .them")).to_have_count(1)
    page.wait_for_timeout(400)
    assert page.locator("#panel").bounding_box() == {"x": 0, "y": 0, "width": 390, "height": 844}
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.frame_locator("iframe").locator("#close").tap()
    expect(page.locator("#panel")).to_be_hidden()


HOSTILE_STYLES = "* { font-size: 40px !important; color: red !important; display: block } button, iframe { width: 5px }"


@contextmanager
def another_site(folder: Path, server: Running) -> Iterator[str]:
    (folder / "index.html").write_text(
        f"<!doctype html><html lang=en><style>{HOSTILE_STYLES}</style><button id=own>own</button>"
        f"<script src='{server.url}/widget.js' data-lang=ru async></script></html>"
    )
    handler = partial(QuietFiles, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as site:
        thread = threading.Thread(target=site.serve_forever)
        thread.start()
        yield str(site.server_port)
        site.shutdown()
        thread.join()


class QuietFiles(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Nothing: the tests' output is the tests'."""


def test_another_site_embeds_the_chat_and_neither_side_changes_the_others_looks(
    visit: OpenContext, server: Running, tmp_path: Path
) -> None:
    with another_site(tmp_path, server) as port:
        page = visit().new_page()
        page.goto(f"http://localhost:{port}/")
        own = "getComputedStyle(document.querySelector('#own')).cssText"
        before = page.evaluate(own)
        page.locator(".launcher").click()
        chat = page.frame_locator("iframe")
        expect(theirs(chat)).to_contain_text("помощник магазина")
        say(chat, "Where is my order?")
        expect(theirs(chat)).to_contain_text("My orders")
        page.wait_for_timeout(400)
        box, button = page.locator("#panel").bounding_box(), page.locator(".launcher").bounding_box()
        assert box
        assert button
        assert (box["width"], button["width"]) == (396, 58)
        assert page.evaluate(own) == before


def test_a_site_that_was_not_allowed_gets_no_chat(visit: OpenContext, server: Running, tmp_path: Path) -> None:
    with another_site(tmp_path, server) as port:
        page = visit(refused=True).new_page()
        said: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.goto(f"http://127.0.0.1:{port}/")
        page.locator(".launcher").click()
        page.wait_for_timeout(700)
        assert page.frame_locator("iframe").locator("#text").count() == 0
        assert any("frame-ancestors" in text for text in said)


def test_nothing_is_asked_of_anyone_else(visit: OpenContext, server: Running) -> None:
    page = visit().new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(server.url)
    page.locator(".launcher").click()
    expect(theirs(page.frame_locator("iframe"))).to_contain_text("Klyon")
    assert asked
    assert [url for url in asked if not url.startswith((server.url, "data:", "blob:"))] == []


def test_the_token_stays_out_of_addresses_and_cookies(page: Page, server: Running) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    say(page, "Where is my order?")
    expect(theirs(page)).to_contain_text("My orders")
    token = page.evaluate("localStorage.getItem('otvet.token')")
    assert len(token) >= 43
    assert not any(token in url for url in [*asked, page.url])
    assert page.context.cookies() == []


def test_a_forgotten_session_begins_anew(page: Page) -> None:
    page.evaluate("localStorage.setItem('otvet.token', 'nobody')")
    page.reload()
    expect(theirs(page)).to_contain_text("Klyon shop assistant")
    assert page.evaluate("localStorage.getItem('otvet.token')") != "nobody"
