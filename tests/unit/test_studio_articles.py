"""Articles in the studio over HTTP: written, looked at, saved by two at once, brought in and out."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterator
from typing import Any

import pytest
from desk_harness import Agent, wait_until
from site_harness import Running, Site, running

from bot.previews import preview
from handoff.access import Role
from kb_index.library import Library, Stored, published

FORM = {
    "ru.title": "Сроки доставки",
    "ru.body": "Курьер привезёт **за три дня** до двери, звонить заранее не нужно.",
    "ru.questions": "когда привезут посылку\nсколько ждать курьера",
    "ru.status": "published",
    "en.title": "Delivery times",
    "en.body": "The courier brings it within **three days** to your door, no call is needed.",
    "en.questions": "when will my parcel come\nhow long is shipping",
    "en.status": "published",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(lambda: Site(tmp_path_factory.mktemp("articles"), works=False)) as started:
        yield started


@pytest.fixture(scope="module")
def anna(server: Running) -> Agent:
    return Agent(server, "Anna", Role.EDITOR)


@pytest.fixture(scope="module")
def boris(server: Running) -> Agent:
    return Agent(server, "Boris", Role.SUPERVISOR)


def create(who: Agent, article_id: str, **fields: str) -> None:
    answer = who.save("/articles/new", {"article_id": article_id, **FORM, **fields})
    assert answer.status_code == 303, answer.text


def stored(server: Running, article_id: str) -> dict[str, Stored]:
    """As an editor goes on with them."""

    async def read() -> dict[str, Stored]:
        async with server.site.sessions.reading() as session:
            found = await Library(session, author="", now=server.site.clock()).newest_versions(article_id)
            return {each.article.lang: each for each in found}

    return server.call(read())


def form_of(who: Agent, article_id: str) -> dict[str, Any]:
    """The form as the page has it."""
    page = who.edit(f"/articles/{article_id}").text
    revisions = dict(re.findall(r'name="(\w\w)\.revision" value="(\d+)"', page))
    return {**FORM, **{f"{lang}.revision": number for lang, number in revisions.items()}}


def test_an_article_is_written_in_both_languages_and_found_at_once(server: Running, anna: Agent) -> None:
    answer = anna.save("/articles/new", FORM)
    assert answer.headers["location"] == "/studio/articles/sroki-dostavki", "the id is made of the first title"
    page = anna.edit("/articles/sroki-dostavki")
    assert "Saved." in page.text
    assert {lang: each.article.title for lang, each in stored(server, "sroki-dostavki").items()} == {
        "ru": "Сроки доставки",
        "en": "Delivery times",
    }
    wait_until(lambda: server.site.knowledge.index() is not None)
    found = anna.post_studio("/articles/questions", {**FORM, "lang": "en", "en.try": "how long is the shipping"})
    assert "Delivery times" in found.text
    assert "Сроки доставки" in anna.edit("/articles?q=сроки").text
    assert "Сроки доставки" not in anna.edit("/articles?status=archived").text


def test_the_form_sent_twice_saves_once(server: Running, anna: Agent) -> None:
    create(anna, "twice")
    form = form_of(anna, "twice") | {"ru.title": "Новый заголовок"}
    assert [anna.save("/articles/twice", form).status_code for _ in range(2)] == [303, 303]
    assert stored(server, "twice")["ru"].newest == 2
    assert stored(server, "twice")["en"].newest == 1, "what was not changed has no new revision"
    form["publish"] = "ru"
    again = form | {"ru.revision": "2"}
    assert [anna.save("/articles/twice", again).status_code for _ in range(2)] == [303, 303]
    assert (stored(server, "twice")["ru"].revision, stored(server, "twice")["ru"].draft) == (3, None)


def test_two_editors_lose_nothing(server: Running, anna: Agent, boris: Agent) -> None:
    create(anna, "both")
    seen_by_anna, seen_by_boris = form_of(anna, "both"), form_of(boris, "both")
    assert boris.save("/articles/both", seen_by_boris | {"ru.body": "Слова Бориса о доставке."}).status_code == 303
    mine = {"ru.body": "Слова Анны о доставке.", "en.title": "The title of Anna"}
    conflict = anna.save("/articles/both", seen_by_anna | mine)
    assert conflict.status_code == 409
    assert "Слова Анны о доставке." in conflict.text
    assert "Слова Бориса о доставке." in conflict.text
    assert "The title of Anna" in conflict.text
    assert stored(server, "both")["en"].article.title == "Delivery times", "all of it or nothing"
    revisions = dict(re.findall(r'name="(\w\w)\.revision" value="(\d+)"', conflict.text))
    again = seen_by_anna | mine | {f"{lang}.revision": number for lang, number in revisions.items()}
    assert anna.save("/articles/both", again).status_code == 303
    assert stored(server, "both")["ru"].article.body == "Слова Анны о доставке."
    history = anna.edit("/articles/both/ru/history?number=2").text
    assert "Слова Бориса о доставке." in history


def test_a_change_is_undone_and_a_revision_brought_back(server: Running, anna: Agent) -> None:
    create(anna, "undone")
    answer = anna.save("/articles/undone", form_of(anna, "undone") | {"ru.status": "archived"})
    assert stored(server, "undone")["ru"].article.status == "archived"
    page = anna.web.get(answer.headers["location"]).text
    undo = re.findall(r'action="(/studio/articles/back\?to=[^"]+)"', page)[0]
    assert anna.web.post(undo, data={"csrf": anna.csrf}).status_code == 303
    assert stored(server, "undone")["ru"].article.status == "published"
    assert anna.save("/articles/undone/ru/restore", {"number": 2}).status_code == 303
    back = stored(server, "undone")["ru"]
    assert (back.article.status, back.revision, back.draft) == ("archived", 3, 4), "brought back as a draft"


def test_nothing_is_taken_back_over_what_somebody_published_since(server: Running, anna: Agent, boris: Agent) -> None:
    create(anna, "overtaken")
    create(anna, "left-alone")
    keys = ["overtaken:en", "left-alone:en"]
    answer = anna.save("/articles/many", {"act": "status", "value_status": "archived", "key": keys})
    undo = re.findall(r'action="(/studio/articles/back\?to=[^"]+)"', anna.web.get(answer.headers["location"]).text)[0]
    form = form_of(boris, "overtaken") | {"en.body": "The words of Boris, for customers.", "en.status": "published"}
    assert boris.save("/articles/overtaken", form).status_code == 303
    refused = anna.web.post(undo, data={"csrf": anna.csrf})
    assert (
        "Not taken back, because it has been changed since: overtaken (en)."
        in anna.web.get(refused.headers["location"]).text
    )
    assert stored(server, "overtaken")["en"].article.body == "The words of Boris, for customers."
    assert stored(server, "left-alone")["en"].article.status == "published", "what nobody touched is"
    again = anna.web.post(undo, data={"csrf": anna.csrf})
    assert "left-alone" in anna.web.get(again.headers["location"]).text, "once"


def test_customers_have_the_published_text_until_the_draft_is_published(server: Running, anna: Agent) -> None:
    create(anna, "priced")

    def answered() -> str:
        async def read() -> str:
            async with server.site.sessions.reading() as session:
                found = await published(session, server.site.clock(), only=[("priced", "en")])
                return found[0].body

        return server.call(read())

    was, new = FORM["en.body"], "The courier costs **5 euros** and comes within three days."
    answer = anna.save("/articles/priced", form_of(anna, "priced") | {"en.body": new})
    page = anna.web.get(answer.headers["location"]).text
    assert "Saved as a draft: customers are answered with the published text until you publish it." in page
    assert "draft, not published" in page
    assert new in page, "an editor goes on with the draft"
    assert answered() == was
    assert "en: draft 2" in anna.edit("/articles?q=priced&only=pending").text
    assert "priced" not in anna.edit("/articles?q=priced&only=pending&lang=ru").text.partition('id="list"')[2]
    differing = anna.edit("/articles/priced/en/history?number=2&against=1").text
    assert "<ins>" in differing
    assert "<del>" in differing

    undo = re.findall(r'action="(/studio/articles/back\?to=[^"]+)"', page)[0]
    anna.web.post(undo, data={"csrf": anna.csrf})
    assert stored(server, "priced")["en"].draft is None
    anna.save("/articles/priced", form_of(anna, "priced") | {"en.body": new})
    thrown = anna.save("/articles/priced/en/discard", form_of(anna, "priced"))
    assert "The draft was thrown away." in anna.web.get(thrown.headers["location"]).text
    assert (stored(server, "priced")["en"].draft, answered()) == (None, was)

    anna.save("/articles/priced", form_of(anna, "priced") | {"en.body": new})
    form = form_of(anna, "priced") | {"en.body": new, "ru.title": "Цена доставки", "publish": "en"}
    done = anna.web.get(anna.save("/articles/priced", form).headers["location"]).text
    assert answered() == new
    assert (stored(server, "priced")["en"].draft, stored(server, "priced")["ru"].draft) == (None, 2)
    undo = re.findall(r'action="(/studio/articles/back\?to=[^"]+)"', done)[0]
    anna.web.post(undo, data={"csrf": anna.csrf})
    assert answered() == was
    assert stored(server, "priced")["en"].article.body == new, "undone, it is a draft again"


def test_several_are_changed_at_once_and_taken_back(server: Running, anna: Agent) -> None:
    create(anna, "many-1")
    create(anna, "many-2")
    keys = ["many-1:ru", "many-2:en", "gone:ru"]
    answer = anna.save("/articles/many", {"act": "status", "value_status": "archived", "key": keys})
    page = anna.web.get(answer.headers["location"]).text
    assert "Done: 2. Not possible: 1." in page
    assert stored(server, "many-2")["en"].article.status == "archived"
    undo = re.findall(r'action="(/studio/articles/back\?to=[^"]+)"', page)[0]
    anna.web.post(undo, data={"csrf": anna.csrf})
    assert stored(server, "many-1")["ru"].article.status == "published"
    wrong = anna.save("/articles/many", {"act": "status", "value_status": "burnt", "key": keys})
    assert wrong.status_code == 422


def test_what_cannot_be_an_article_is_said_and_kept_on_the_page(anna: Agent) -> None:
    create(anna, "bad")
    form = form_of(anna, "bad")
    empty = anna.save("/articles/bad", form | {"ru.body": "", "en.title": "Kept on the page"})
    assert empty.status_code == 422
    assert "the article has no text" in empty.text
    assert "Kept on the page" in empty.text
    assert anna.save("/articles/bad", form | {"ru.valid_from": "soon"}).status_code == 422
    assert anna.save("/articles/bad", form | {"ru.audience": "Все на свете"}).status_code == 422
    assert anna.save("/articles/bad", form | {"ru.revision": "x"}).status_code == 422
    assert anna.save("/articles/bad", form | {"ru.body": "слово " * 400_000}).status_code in (413, 422)
    assert anna.save("/articles/new", {**FORM, "article_id": "bad"}).status_code == 422
    assert anna.save("/articles/new", {**FORM, "article_id": "import"}).status_code == 422
    assert anna.save("/articles/new", {}).status_code == 422
    assert anna.edit("/articles/never-was").status_code == 404


def test_markup_stays_text(anna: Agent) -> None:
    evil = "<img src=x onerror=alert(1)>"
    create(
        anna, "evil", **{"ru.title": evil, "ru.body": f"{evil} [link](javascript:alert(1)) слова", "ru.questions": evil}
    )
    for page in (anna.edit("/articles/evil"), anna.edit("/articles"), anna.edit("/articles/evil/ru/history")):
        assert page.status_code == 200
        assert "<img src=x" not in page.text
        assert 'href="javascript' not in page.text


def test_a_megabyte_is_saved_and_looked_at(server: Running, anna: Agent) -> None:
    body = "\n\n".join(f"## Часть {number}\n\n" + "слово доставки " * 300 for number in range(110))
    assert len(body.encode()) > 900_000
    create(anna, "large", **{"ru.body": body, "ru.questions": "", "ru.status": "draft", "en.status": "draft"})
    page = anna.edit("/articles/large")
    assert page.status_code == 200
    assert "of its" in page.text
    assert stored(server, "large")["ru"].article.body == body


def test_an_import_is_shown_before_it_is_done(server: Running, anna: Agent) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("en/hours.md", "# Opening hours\n\nWe are open from nine to six on every working day.\n")
        archive.writestr("en/broken.md", "---\ntitle: [\n---\nText.\n")
        archive.writestr("en/photo.bin", b"\x00\x01")
    files = {"file": ("articles.zip", packed.getvalue())}
    look = anna.save("/articles/import", {"publish": "1"}, files=files)
    assert look.status_code == 200
    assert "Opening hours" in look.text
    assert "broken.md" in look.text
    assert stored(server, "hours") == {}
    key = re.findall(r'name="key" value="(\w+)"', look.text)[0]
    assert anna.save("/articles/import", {"key": key, "publish": "1", "sure": "1"}).status_code == 303
    assert stored(server, "hours")["en"].article.status == "published"


@pytest.mark.parametrize("name", ["virus.exe", "../../etc/passwd", ".hidden", "empty.zip", ""])
def test_a_file_of_the_wrong_kind_is_named_and_changes_nothing(anna: Agent, name: str) -> None:
    files = {"file": (name, b"MZ\x00\x00")} if name else {}
    page = anna.save("/articles/import", {} if name else {"key": "0" * 32}, files=files)
    assert page.status_code in (200, 422)
    assert 'name="sure"' not in page.text


def test_everything_is_exported_in_its_own_formats(anna: Agent) -> None:
    create(anna, "exported")
    with zipfile.ZipFile(io.BytesIO(anna.edit("/articles/export.zip").content)) as archive:
        assert "title: Сроки доставки" in archive.read("kb/ru/exported.md").decode()


def test_what_is_done_stands_in_the_audit_log(server: Running, anna: Agent) -> None:
    create(anna, "audited")
    admin = Agent(server, "Admin", Role.ADMIN)
    log = admin.get("/audit?action=article_saved").text
    assert "saved an article" in log
    assert "audited" in log


def test_a_preview_is_what_the_channels_send() -> None:
    shown = preview("Send it **today**:\n\n- box\n- note\n\n[Rules](https://klyon.example/r) <b>no</b>", ["It helped"])
    assert "<strong>today</strong>" in shown["site"][0].html
    assert "<b>today</b>" in shown["telegram"][0].html
    assert "<b>today</b>" in shown["whatsapp"][0].html
    assert "Rules (https://klyon.example/r)" in shown["whatsapp"][0].html
    for bubbles in shown.values():
        assert "<b>no</b>" not in bubbles[-1].html
        assert bubbles[-1].buttons == ("It helped",)
    assert len(preview("word " * 2000, [])["telegram"]) == 3
