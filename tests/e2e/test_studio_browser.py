"""The studio in a real browser: an editor writes, tries, moves and loses nothing, and every page is looked at.

With OTVET_PICTURES=FOLDER the pages are kept as pictures: docs/images/studio-*.png are made so.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import pytest
from desk_harness import PASSWORD, Agent, wait_until
from playwright.sync_api import Browser, BrowserContext, Page, expect
from site_harness import DATA, Running, Site, running
from test_desk_browser import faultless, picture
from test_site_chat_browser import chromium as chromium

from bot.language import detect
from handoff.access import Role
from kb_index.article_files import ArticleFiles
from kb_index.importing import Options, apply_import, plan_import
from kb_index.seeding import SEED, read_seed
from nlu.library_files import read_files, take_files

pytestmark = pytest.mark.e2e
SHOWN = ("delivery", "order", "return", "refund")
"""Beginnings of the ids of the articles that are loaded: a search with letters for an encoder is not asked for more."""
Open = Callable[..., Page]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(lambda: Site(tmp_path_factory.mktemp("studio"), works=False)) as started:
        site = started.site

        async def load() -> None:
            options = Options(detect=detect, status="published", mirrored=SEED)
            async with site.sessions.begin() as session:
                await take_files(session, read_files(DATA / "intents"), by="seed", at=datetime.now(UTC))
                plan = await plan_import(session, read_seed(DATA / "kb"), options, str(DATA / "kb"))
            chosen = type(plan)(tuple(c for c in plan.changes if c.article_id.startswith(SHOWN)), ())
            files = ArticleFiles(site.database.parent / "article-files")
            await apply_import(site.sessions, chosen, author="seed", now=datetime.now(UTC), files=files)
            await asyncio.to_thread(site.knowledge.follow)

        started.call(load())
        yield started


@pytest.fixture
def studio(chromium: Browser, server: Running) -> Iterator[Open]:
    """Opens the studio as somebody. A fault on any page fails the test."""
    contexts: list[BrowserContext] = []
    faults: list[str] = []

    def open_studio(name: str = "Vera Editor", path: str = "", **options: object) -> Page:
        context = chromium.new_context(**{"locale": "en-GB", "viewport": {"width": 1440, "height": 900}, **options})  # type: ignore[arg-type]
        context.set_default_timeout(10_000)
        context.on("weberror", lambda fault: faults.append(str(fault.error)))
        context.on("console", lambda said: faults.append(said.text) if "Security Policy" in said.text else None)
        contexts.append(context)
        page = context.new_page()
        page.goto(f"{server.url}/desk/sign-in?next=/studio{path}")
        page.get_by_label("Login").or_(page.get_by_label("Логин")).fill(name.replace(" ", "."))
        page.get_by_label("Password").or_(page.get_by_label("Пароль")).fill(PASSWORD)
        page.locator("main form button").last.click()
        page.wait_for_url(f"{server.url}/studio{path}")
        return page

    yield open_studio
    for context in contexts:
        context.close()
    assert faults == []


@pytest.fixture(scope="module")
def editors(server: Running) -> list[Agent]:
    return [Agent(server, name, Role.EDITOR) for name in ("Vera Editor", "Oleg Editor")]


PAGES = {
    "overview": "",
    "articles": "/articles",
    "article": "/articles/delivery-cost",
    "history": "/articles/delivery-cost/ru/history",
    "articles-import": "/articles/import",
    "intents": "/intents",
    "intent": "/intents/of/order_status",
    "intents-import": "/intents/import",
}


@pytest.mark.usefixtures("editors")
def test_every_page_is_faultless_in_both_languages_dark_and_on_a_phone(studio: Open, server: Running) -> None:
    page = studio()
    for name, path in PAGES.items():
        page.goto(f"{server.url}/studio{path}")
        if name in ("articles", "intents"):
            wait_until(lambda: page.reload() is not None and not page.get_by_text("being checked…").count(), 30)
        faultless(page)
        picture(page, f"studio-{name}-en")
    page.goto(f"{server.url}/studio/articles")
    page.locator("#who summary").click()
    page.get_by_role("button", name="Русский").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Статьи")
    for name, path in PAGES.items():
        page.goto(f"{server.url}/studio{path}")
        picture(page, f"studio-{name}-ru")
    page.emulate_media(color_scheme="dark")
    for name in ("overview", "articles", "article", "intent", "history"):
        page.goto(f"{server.url}/studio{PAGES[name]}")
        faultless(page)
        picture(page, f"studio-{name}-dark-ru")
    page.set_viewport_size({"width": 390, "height": 844})
    for name in ("overview", "articles", "article", "intents", "intent"):
        page.goto(f"{server.url}/studio{PAGES[name]}")
        faultless(page)
        wide = page.evaluate("Math.max(document.querySelector('main').scrollWidth, document.body.scrollWidth)")
        assert wide <= 390, f"{name} is wider than a phone"
        picture(page, f"studio-{name}-phone-ru")
    page.goto(f"{server.url}/studio/articles")
    page.locator("#who summary").click()
    page.get_by_role("button", name="English").click()


@pytest.mark.usefixtures("editors")
def test_an_article_is_tried_while_it_is_written_and_two_editors_lose_nothing(studio: Open, server: Running) -> None:
    vera = studio(path="/articles/delivery-cost")
    oleg = studio("Oleg Editor", "/articles/delivery-cost")
    body = vera.locator('textarea[name="en.body"]')
    body.fill("The courier costs **5 euros**.\n\n- free from 50\n")
    expect(vera.locator("#preview-en .whatsapp b")).to_have_text("5 euros")
    expect(vera.locator("#preview-en .telegram")).to_contain_text("• free from 50")
    vera.locator('input[name="en.try"]').fill("how much is the courier")
    expect(vera.locator("#asked-en .found li")).to_have_count(1)
    oleg.locator('input[name="en.title"]').fill("What a courier costs")
    oleg.locator(".headline .primary").click()
    expect(oleg.locator("#toasts")).to_contain_text("Saved as a draft")
    expect(oleg.get_by_text("draft, not published")).to_have_count(1)
    vera.locator(".headline .primary").click()
    expect(vera.get_by_role("alert")).to_contain_text("somebody else has changed")
    expect(vera.locator('textarea[name="en.body"]')).to_have_value("The courier costs **5 euros**.\n\n- free from 50")
    expect(vera.get_by_text("There is text of yours")).to_be_hidden()
    expect(vera.get_by_label("What is saved now").first).to_have_value(re.compile("What a courier costs"))
    faultless(vera)
    picture(vera, "studio-conflict-en")
    vera.locator(".headline .primary").click()
    expect(vera.locator("#toasts")).to_contain_text("Saved as a draft")
    faultless(vera)
    picture(vera, "studio-draft-en")
    vera.get_by_role("button", name="Publish: English").click()
    expect(vera.locator("#toasts")).to_contain_text("Saved.")
    expect(vera.get_by_text("draft, not published")).to_have_count(0)
    vera.locator("#toasts button").click()
    expect(vera.locator("#toasts")).to_contain_text("Taken back.")


@pytest.mark.usefixtures("editors")
def test_what_was_written_outlives_a_lost_session(studio: Open, server: Running) -> None:
    page = studio(path="/articles/new")
    page.locator('input[name="en.title"]').fill("Kept")
    page.wait_for_timeout(600)
    page.context.clear_cookies()
    page.once("dialog", lambda dialog: dialog.accept())
    page.goto(f"{server.url}/studio/articles/new")
    page.get_by_label("Login").fill("Vera.Editor")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(f"{server.url}/studio/articles/new")
    page.get_by_role("button", name="Bring it back").click()
    expect(page.locator('input[name="en.title"]')).to_have_value("Kept")
    page.get_by_role("button", name="Save").first.click()
    expect(page.get_by_role("alert")).to_contain_text("no text")


@pytest.mark.usefixtures("editors")
def test_an_example_is_dragged_and_moved_by_keyboard(studio: Open, server: Running) -> None:
    page = studio(path="/intents/of/order_status")
    rows = page.locator("[data-example]")
    before = rows.count()
    said = rows.first.locator(".what span").first.inner_text()
    rows.first.drag_to(page.locator('[data-intent="greeting"]'))
    expect(rows).to_have_count(before - 1)
    expect(page.locator("#toasts")).to_contain_text("Moved to greeting.")
    page.locator("#toasts button").click()
    expect(rows).to_have_count(before)
    row = page.locator(f'[data-example]:has-text("{said}")').first
    row.locator("[data-move]").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#mover")).to_be_visible()
    page.keyboard.type("goodbye")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#toasts")).to_contain_text("Moved to goodbye.")
    expect(rows).to_have_count(before - 1)
    page.goto(f"{server.url}/studio/intents/of/goodbye")
    expect(page.locator("main")).to_contain_text(said)
    page.get_by_role("button", name=f"Remove: {said}").click()
    expect(page.locator("#toasts")).to_contain_text("removed")
    page.locator("#toasts button").click()
    expect(page.locator("main")).to_contain_text(said)
