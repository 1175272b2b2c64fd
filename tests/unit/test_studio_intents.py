"""Intents in the studio over HTTP: examples come, go and move; outcomes; two editors; files in and out."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime
from html import unescape

import httpx
import pytest
from desk_harness import Agent, wait_until
from site_harness import Running, Site, running

from handoff.access import Role
from nlu import library
from nlu.library import StoredExample, StoredIntent
from nlu.library_files import take_files

RU = """\
version: "3.1"
nlu:
- intent: order_status   # often
  metadata:
    article: order-status
  examples: |
    - где мой заказ
    - что с заказом
    - где моя посылка
- intent: delay
  metadata: {handoff: any}
  examples: |
    - посылка опаздывает
    - Где мой  заказ
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(lambda: Site(tmp_path_factory.mktemp("intents"), works=False)) as started:
        yield started


@pytest.fixture(scope="module")
def anna(server: Running) -> Agent:
    return Agent(server, "Anna", Role.EDITOR)


@pytest.fixture(autouse=True)
def seeded(server: Running) -> None:
    async def seed() -> None:
        async with server.site.sessions.begin() as session:
            for intent in await library.find_intents(session):
                await library.remove_intent(session, intent.name, by="test", at=datetime.now(UTC))
            for name in ("order_status", "delay"):
                await library.create_intent(session, name, metadata={}, by="test", at=datetime.now(UTC))
            await take_files(session, {}, by="test", at=datetime.now(UTC))
            await take_files(session, {"ru.yml": RU}, by="test", at=datetime.now(UTC))

    server.call(seed())


def examples(server: Running, name: str) -> dict[str, StoredExample]:
    async def read() -> dict[str, StoredExample]:
        async with server.site.sessions.reading() as session:
            return {each.text: each for each in await library.examples_of(session, name)}

    return server.call(read())


def undo_of(editor: Agent, done: httpx.Response) -> str:
    """What the page after it offers, under /studio."""
    page = editor.web.get(done.headers["location"]).text
    return unescape(re.findall(r"/studio(/intents/(?:restore|example)[^\"' ]*(?:\?|restore)[^\"' ]*)", page)[0])


def intent(server: Running, name: str) -> StoredIntent:
    async def read() -> StoredIntent:
        async with server.site.sessions.reading() as session:
            return await library.get_intent(session, name)

    return server.call(read())


def test_examples_are_added_once_and_what_stands_elsewhere_is_offered(server: Running, anna: Agent) -> None:
    page = anna.edit("/intents/of/delay")
    assert "посылка опаздывает" in page.text
    texts = "- всё ещё жду посылку\nПосылка  ОПАЗДЫВАЕТ\n\nчто с заказом\nгде мой заказ"
    answer = anna.save("/intents/add", {"name": "delay", "texts": texts})
    assert answer.status_code == 200
    assert "these stand under other intents" in answer.text
    assert set(examples(server, "delay")) == {"посылка опаздывает", "Где мой  заказ", "всё ещё жду посылку"}
    assert examples(server, "delay")["всё ещё жду посылку"].lang == "ru"
    assert examples(server, "delay")["всё ещё жду посылку"].added_by == "Anna"
    again = anna.save("/intents/add", {"name": "delay", "texts": "всё ещё жду посылку"})
    assert "Added: 0. There already: 1." in anna.web.get(again.headers["location"]).text
    moved = examples(server, "order_status")["что с заказом"]
    assert anna.save(f"/intents/example/{moved.id}/move", {"to": "delay"}).status_code == 303
    assert "что с заказом" in examples(server, "delay")


def test_an_example_is_moved_changed_removed_and_brought_back(server: Running, anna: Agent) -> None:
    example = examples(server, "order_status")["что с заказом"]
    told = anna.post_studio(f"/intents/example/{example.id}/move", {"to": "delay"})
    assert told.status_code == 200
    undo = re.findall(r"/studio(/intents/example/[^\"]+)", told.headers["HX-Trigger"])[0]
    assert "что с заказом" in examples(server, "delay")
    assert anna.save(undo).status_code == 303
    assert "что с заказом" in examples(server, "order_status")
    assert anna.save(f"/intents/example/{example.id}/change", {"text": "как там заказ"}).status_code == 303
    assert anna.save(f"/intents/example/{example.id}/change", {"text": "  "}).status_code == 422
    assert "как там заказ" in examples(server, "order_status")
    assert anna.post_studio(f"/intents/example/{example.id}/remove", {}).status_code == 200
    assert anna.post_studio(f"/intents/example/{example.id}/remove", {}).status_code == 404, "a form sent twice"
    assert "как там заказ" not in examples(server, "order_status")
    assert anna.save(f"/intents/example/{example.id}/restore").status_code == 303
    assert "как там заказ" in examples(server, "order_status")
    assert anna.post_studio(f"/intents/example/{example.id}/move", {"to": "nowhere"}).status_code == 404


def test_an_intent_is_made_led_somewhere_renamed_removed_and_brought_back(server: Running, anna: Agent) -> None:
    made = anna.save("/intents", {"name": "returns"})
    assert made.headers["location"] == "/studio/intents/of/returns"
    for name in ("returns", "two words", "<b>", ""):
        assert anna.save("/intents", {"name": name}).status_code == 422
    revision = intent(server, "returns").revision
    form = {"name": "returns", "revision": revision, "new_name": "send_back", "outcome": "reply", "reply": "hello"}
    assert anna.save("/intents/change", form).status_code == 303
    assert intent(server, "send_back").metadata == {"reply": "hello"}
    assert anna.save("/intents/change", form | {"outcome": "article", "article": ""}).status_code == 404
    form |= {"name": "send_back", "revision": intent(server, "send_back").revision}
    assert anna.save("/intents/change", form | {"reply": ""}).status_code == 422
    assert anna.save("/intents/change", form | {"outcome": "handoff", "handoff": "nowhere"}).status_code == 422
    removed = anna.save("/intents/remove", {"name": "send_back"})
    assert removed.status_code == 303
    assert anna.edit("/intents/of/send_back").status_code == 404
    undo = undo_of(anna, removed)
    assert anna.save(undo).status_code == 303
    assert intent(server, "send_back").metadata == {"reply": "hello"}
    again = anna.save(undo)
    assert "Not taken back" in anna.web.get(again.headers["location"]).text


def test_undo_leaves_what_another_editor_did_since(server: Running, anna: Agent) -> None:
    """Anna moves an example, Vera moves it on; Anna removes another, Vera teaches its words again."""
    vera = Agent(server, "Vera", Role.EDITOR)
    example = examples(server, "order_status")["что с заказом"]
    moved = anna.save(f"/intents/example/{example.id}/move", {"to": "delay"})
    undo = undo_of(anna, moved)
    vera.save("/intents", {"name": "lost"})
    vera.save(f"/intents/example/{example.id}/move", {"to": "lost"})
    answer = anna.save(undo)
    assert "Not taken back" in anna.web.get(answer.headers["location"]).text
    assert "что с заказом" in examples(server, "lost")
    undo = undo_of(anna, anna.save(f"/intents/example/{example.id}/remove"))
    vera.save("/intents/add", {"name": "delay", "texts": "что с заказом"})
    answer = anna.save(undo)
    assert "Not taken back" in anna.web.get(answer.headers["location"]).text
    assert "что с заказом" not in examples(server, "lost")


def test_two_editors_of_an_outcome_see_each_other(server: Running, anna: Agent) -> None:
    seen = intent(server, "delay").revision
    boris = Agent(server, f"Boris {seen}", Role.SUPERVISOR)
    form = {"name": "delay", "revision": seen, "new_name": "delay", "outcome": "reply"}
    assert boris.save("/intents/change", form | {"reply": "hello"}).status_code == 303
    conflict = anna.save("/intents/change", form | {"reply": "goodbye"})
    assert conflict.status_code == 409
    assert "somebody else has changed this intent" in conflict.text
    assert 'value="goodbye"' in conflict.text
    assert intent(server, "delay").metadata == {"reply": "hello"}
    assert anna.save("/intents/change", form | {"reply": "hello"}).status_code == 303, "both wanted the same"


def test_warnings_stand_beside_what_they_are_about(server: Running, anna: Agent) -> None:
    wait_until(lambda: "has few examples" in anna.edit("/intents").text)
    wait_until(lambda: "stands under another intent too" in anna.edit("/intents/of/delay").text)
    anna.save("/intents/add", {"name": "delay", "texts": "пишите на anna@example.com"})
    assert "may tell who somebody is" in anna.edit("/intents/of/delay").text
    assert "order_status" not in anna.edit("/intents?q=опаздывает").text.split('id="list"')[1]


def test_markup_in_an_example_stays_text(anna: Agent) -> None:
    evil = "<img src=x onerror=alert(1)> заказ"
    anna.save("/intents/add", {"name": "delay", "texts": evil})
    assert "<img src=x" not in anna.edit("/intents/of/delay").text


def test_files_are_looked_at_then_taken(server: Running, anna: Agent) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("intents/ru.yml", RU.replace("    - что с заказом\n", "    - привет от команды\n"))
        archive.writestr("kb/ru/x.md", "# no")
        archive.writestr(
            "../../evil.yml", 'version: "3.1"\nnlu:\n- intent: delay\n  examples: |\n    - совсем опоздал\n'
        )
    look = anna.save("/intents/import", {"exact": "1"}, files={"file": ("data.zip", packed.getvalue())})
    assert "привет от команды" in look.text
    assert "что с заказом" in examples(server, "order_status")
    key = re.findall(r'name="key" value="(\w+)"', look.text)[0]
    assert anna.save("/intents/import", {"key": key, "exact": "1", "sure": "1"}).status_code == 303
    assert "что с заказом" not in examples(server, "order_status")
    assert "привет от команды" in examples(server, "order_status")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.exe", b"MZ"),
        ("x.zip", b"PK\x03\x04 no"),
        ("x.yml", b"nlu: [\n"),
        ("x.yml", b"\xff\xfe\x00"),
        ("ru.yml", b"a: 1\n"),
        ("x.jsonl", b"{}\n"),
    ],
)
def test_a_file_that_is_none_is_named_and_changes_nothing(anna: Agent, name: str, content: bytes) -> None:
    page = anna.save("/intents/import", {}, files={"file": (name, content)})
    assert page.status_code == 422
    assert 'role="alert"' in page.text
    assert 'name="sure"' not in page.text


def test_what_was_changed_is_exported_for_git_and_for_rasa(anna: Agent) -> None:
    anna.save("/intents/add", {"name": "delay", "texts": "всё ещё жду"})
    with zipfile.ZipFile(io.BytesIO(anna.edit("/articles/export.zip").content)) as archive:
        assert archive.read("intents/ru.yml").decode() == f"{RU}    - всё ещё жду\n"
    assert "- всё ещё жду" in anna.edit("/intents/rasa.yml").text
