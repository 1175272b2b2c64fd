"""From a question without an answer to a published one and back, in a real browser and with real models.

A small shop of its own: some of the demo articles, so that a training takes seconds.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from desk_harness import PASSWORD, wait_until
from playwright.sync_api import Browser, Page, expect
from test_desk_browser import PICTURES, faultless, picture
from test_site_chat_browser import chromium as chromium
from test_site_chat_browser import say, theirs

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.e2e
OTVET = str(Path(sys.executable).parent / "otvet")
QUESTION = "Do you repair old music boxes?"
ANSWER = "Our workshop repairs music boxes"
ARTICLE = f"""---
id: music-boxes
title: Repair of music boxes
topic: warranty
status: draft
questions:
  - do you repair music boxes
  - can you fix my old music box
  - is there a workshop for music boxes
  - how much is the repair of a music box
---
{ANSWER} of any age within **ten days**.
"""


@dataclass(frozen=True)
class Shop:
    url: str
    database: Path
    welcome: str

    def given(self) -> list[tuple[str, bool]]:
        """Version and whether the new article was given, for each answer in the order of time."""
        with sqlite3.connect(f"file:{self.database}?mode=ro", uri=True) as connection:
            rows = connection.execute(
                "SELECT decision FROM messages WHERE author = 'assistant' AND decision IS NOT NULL ORDER BY id"
            ).fetchall()
        found = [json.loads(row) for (row,) in rows]
        return [
            (str(each.get("model_version")), each.get("article_id") == "music-boxes")
            for each in found
            if each.get("reply") != "greeting"
        ]

    def asks(self) -> tuple[str, bool]:
        """A new customer asks in the site chat: which version answered, and whether with the new article."""
        before = len(self.given())
        with httpx.Client(base_url=self.url, timeout=20) as web:
            token = web.post("/api/chat/sessions").json()["token"]
            post = {"client_id": str(uuid4()), "text": QUESTION, "lang": "en"}
            web.post("/api/chat/messages", headers={"Authorization": f"Bearer {token}"}, json=post)
        wait_until(lambda: len(self.given()) > before, seconds=30)
        return self.given()[before]


@pytest.fixture(scope="module")
def shop(encoder_folder: Path, encoder: object, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    here = tmp_path_factory.mktemp("shop")
    data, var = here / "data", here / "var"
    var.mkdir()
    (var / "encoder").symlink_to(encoder_folder)
    for name in ("topics.yml", "desk.yml", "macros.yml", "templates.yml"):
        (data).mkdir(exist_ok=True)
        shutil.copy(ROOT / "data" / name, data / name)
    for lang in ("en", "ru"):
        (data / "kb" / lang).mkdir(parents=True)
        for path in (ROOT / "data" / "kb" / lang).glob("order-*.md"):
            shutil.copy(path, data / "kb" / lang)
    shutil.copytree(ROOT / "data" / "intents", data / "intents")
    (here / "draft" / "en").mkdir(parents=True)
    (here / "draft" / "en" / "music-boxes.md").write_text(ARTICLE, encoding="utf-8")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OTVET_")}
    database = here / "otvet.sqlite3"
    environment = kept | {
        "OTVET_VAR": str(var),
        "OTVET_DATA": str(data),
        "OTVET_DATABASE_URL": f"sqlite+aiosqlite:///{database}",
        "OTVET_GATHER_SECONDS": "0",
    }
    subprocess.run([OTVET, "train"], env=environment, cwd=here, check=True, capture_output=True, timeout=300)
    draft = str(here / "draft")
    subprocess.run(
        [OTVET, "kb", "import", draft], env=environment, cwd=here, check=True, capture_output=True, timeout=60
    )
    log = here / "serve.log"
    with (
        log.open("wb") as said,
        subprocess.Popen([OTVET, "serve", "--port", "0"], env=environment, cwd=here, stderr=said) as process,
    ):
        try:
            wait_until(lambda: "desk/welcome/" in log.read_text(), seconds=90)
            text = log.read_text()
            url = re.findall(r"http://[\d.:]+", text)[0]
            yield Shop(url, database, re.findall(r"/desk/welcome/\S+", text)[0])
        finally:
            process.terminate()
            process.wait(timeout=30)


@pytest.fixture
def editor(chromium: Browser, shop: Shop) -> Iterator[Page]:
    faults: list[str] = []
    with chromium.new_context(locale="en-GB", viewport={"width": 1400, "height": 900}) as context:
        context.set_default_timeout(20_000)
        context.on("weberror", lambda fault: faults.append(str(fault.error)))
        context.on("console", lambda said: faults.append(said.text) if "Security Policy" in said.text else None)
        page = context.new_page()
        page.goto(shop.url + shop.welcome)
        for name, value in (("name", "Vera"), ("login", "vera"), ("password", PASSWORD)):
            page.locator(f"input[name={name}]").fill(value)
        page.locator("form .primary").click()
        page.wait_for_url("**/desk/**")
        yield page
    assert faults == []


def seconds_until(holds: Callable[[], Any], most: float = 60) -> float:
    started = time.monotonic()
    while not holds():
        assert time.monotonic() - started < most, "it did not come about"
        time.sleep(0.1)
    return time.monotonic() - started


def test_a_draft_becomes_a_candidate_is_tried_out_published_and_taken_back(
    chromium: Browser, shop: Shop, editor: Page
) -> None:
    with chromium.new_context(locale="en-GB") as context:
        chat = context.new_page()
        chat.goto(f"{shop.url}/chat")
        say(chat, QUESTION)
        expect(theirs(chat)).not_to_contain_text(ANSWER, timeout=20_000)
        wait_until(lambda: len(shop.given()) > 0, seconds=30)
    assert shop.given()[-1][1] is False
    live = shop.given()[-1][0]

    page = editor
    page.goto(f"{shop.url}/studio/versions")
    faultless(page)
    page.get_by_label("Repair of music boxes").check()
    page.get_by_role("button", name="Train a candidate").click()
    expect(page.locator("#training")).to_contain_text("A candidate is being trained")
    picture(page, "studio-training")
    passed = page.locator("tr", has_text="passed the gate")
    expect(passed).to_be_visible(timeout=180_000)
    faultless(page)

    passed.locator("a").first.click()
    expect(page.locator("#verdict")).to_have_text("It passed the gate")
    change = page.locator(".changes li", has_text="music boxes")
    expect(change).to_contain_text("music-boxes")
    faultless(page)
    picture(page, "studio-version")
    candidate = page.url.rsplit("/", 1)[1]
    assert shop.asks() == (live, False), "a candidate touches nothing in use"

    change.get_by_role("link", name="Why?").click()
    expect(page.locator(".chat")).to_contain_text(ANSWER)
    expect(page.locator(".why")).to_contain_text("music-boxes")
    faultless(page)
    picture(page, "studio-playground")
    page.go_back()
    change.get_by_role("button", name="The new one is right: protect it").click()
    expect(page.locator(".changes li", has_text="music boxes")).to_contain_text("Kept as a gold question.")

    page.get_by_label("Share of the conversations").select_option("0.5")
    page.get_by_role("button", name="Try it out").click()
    expect(page.get_by_role("heading", name="On trial")).to_be_visible()
    seconds_until(lambda: shop.asks()[0] == candidate)
    found = {shop.asks() for _ in range(12)}
    assert found == {(live, False), (candidate, True)}, "about half of the customers, each with his version's answer"
    page.reload()
    expect(page.get_by_role("heading", name="The trial so far")).to_be_visible()
    faultless(page)
    picture(page, "studio-versions")

    page.get_by_role("button", name="Publish for everybody").click()
    expect(page.locator("#live-title + p")).to_contain_text(candidate[-4:])
    published = seconds_until(lambda: all(shop.asks() == (candidate, True) for _ in range(3)))
    with chromium.new_context(locale="en-GB") as context:
        chat = context.new_page()
        chat.goto(f"{shop.url}/chat")
        say(chat, QUESTION)
        expect(theirs(chat)).to_contain_text(ANSWER, timeout=20_000)

    page.get_by_role("button", name="Back to the version before").click()
    page.get_by_role("button", name="Go back").click()
    expect(page.locator("#live-title + p")).to_contain_text(live[-4:])
    back = seconds_until(lambda: all(shop.asks() == (live, False) for _ in range(3)))
    if PICTURES:
        Path(PICTURES, "seconds.json").write_text(json.dumps({"published": published, "back": back}))

    phone = page.context.new_page()
    phone.set_viewport_size({"width": 390, "height": 844})
    for path in ("versions", f"versions/{candidate}", "versions/questions", "versions/shadow", "playground"):
        phone.goto(f"{shop.url}/studio/{path}")
        faultless(phone)
        picture(phone, f"studio-phone-{path.split('/')[-1]}")
