"""The gaps in the studio over HTTP: seen, taught, shaped, taken back."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from html import unescape
from typing import Any

import pytest
from desk_harness import Agent
from gap_samples import Chat
from site_harness import Running, Site, running
from sqlalchemy import select

from bot.desk.records import AuditEntry
from bot.gaps.collecting import collect
from bot.gaps.records import Gap, Question
from handoff.access import Role
from kb_index.library import Library
from nlu import library

ANSWER = "A parcel locker keeps an order for five days. After that it goes back to the warehouse."


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(lambda: Site(tmp_path_factory.mktemp("gaps"), works=False)) as started:
        yield started


@pytest.fixture(scope="module")
def eva(server: Running) -> Agent:
    return Agent(server, "Eva", Role.EDITOR)


def make_gap(server: Running, *texts: str, answer: str = "") -> int:
    """An open group of these messages; its number."""

    async def make() -> int:
        async with server.site.sessions.begin() as session:
            gap = Gap(title=texts[0], created_at=server.site.clock(), details={})
            session.add(gap)
            await session.flush()
            for number, text in enumerate(texts):
                at = server.site.clock() - timedelta(days=9 * number, hours=1)
                chat = await Chat(session, f"{gap.id}-{number}", at=at).begin()
                await chat.fails(text)
                if answer and not number:
                    await chat.ticket()
                    await chat.agent(answer)
            await collect(session, article_of={})
            for question in await session.scalars(select(Question).where(Question.gap_id.is_(None))):
                question.gap_id = gap.id
            return gap.id

    return server.call(make())


def ids_in(page: str) -> list[str]:
    return re.findall(r'name="use" value="(\d+)"', page)


def read(server: Running, work: Any) -> Any:
    async def done() -> Any:
        async with server.site.sessions() as session:
            return await work(session)

    return server.call(done())


def ticked(eva: Agent, gap: int, most: int = 2) -> dict[str, Any]:
    page = eva.edit(f"/gaps/{gap}").text
    used = ids_in(page)[:most]
    texts = {
        f"text-{number}": unescape(re.findall(rf'name="text-{number}" value="([^"]*)"', page)[0]) for number in used
    }
    return {"use": used, **texts, **{f"lang-{number}": "en" for number in used}}


def test_a_group_is_listed_and_shows_what_happened_next(server: Running, eva: Agent) -> None:
    gap = make_gap(
        server, "how long is my parcel kept", "parcel locker, how long", "call me at +7 912 345-67-89", answer=ANSWER
    )
    listed = eva.edit("/gaps?words=parcel").text
    assert f'href="/studio/gaps/{gap}"' in listed
    assert 'aria-label="3 messages"' in listed
    assert "how long is my parcel kept" not in eva.edit("/gaps?words=zebra").text
    page = eva.edit(f"/gaps/{gap}").text
    assert ANSWER in page
    assert "call me at &lt;number&gt;" in page
    assert "345-67-89" not in page


def test_an_editor_makes_an_article_of_the_agents_answer_and_takes_it_back(server: Running, eva: Agent) -> None:
    gap = make_gap(server, "how long is my parcel kept", "parcel locker, how long", answer=ANSWER)
    draft = eva.edit(f"/gaps/{gap}/article").text
    assert ANSWER in draft
    assert "parcel locker, how long" in draft
    form = {"title": "Parcel lockers", "body": ANSWER, "lang": "en", "questions": "how long\nparcel locker, how long"}
    refused = eva.save(f"/gaps/{gap}/article", {**form, "article_id": "no spaces please"})
    assert refused.status_code == 422
    assert ANSWER in refused.text, "nothing that was typed is lost"
    made = eva.save(f"/gaps/{gap}/article", {**form, "article_id": "parcel-lockers"})
    assert (made.status_code, made.headers["location"]) == (303, "/studio/articles/parcel-lockers")

    def article(session: Any) -> Any:
        return Library(session, author="t", now=server.site.clock()).get("parcel-lockers", "en")

    assert read(server, article).article.status == "draft"
    page = eva.edit(f"/gaps/{gap}").text
    assert "article written" in page
    (undo,) = set(re.findall(r'action="/studio(/gaps/acts/\d+/undo)"', page))
    assert eva.save(undo).headers["location"] == f"/studio/gaps/{gap}"
    assert read(server, article).article.status == "archived"


def test_messages_are_given_to_an_intent_as_the_editor_left_them(server: Running, eva: Agent) -> None:
    async def intent() -> None:
        async with server.site.sessions.begin() as session:
            await library.create_intent(session, "lockers", metadata={}, by="t", at=server.site.clock())

    server.call(intent())
    gap = make_gap(server, "Peter Smith wants his parcel", "parcel locker, how long")
    form = ticked(eva, gap)
    number = next(n for n in form["use"] if "Peter" in form[f"text-{n}"])
    form[f"text-{number}"] = "where is my parcel, order 4471829"
    assert eva.save(f"/gaps/{gap}/examples", {**form, "intent": "nowhere"}).status_code == 422
    answer = eva.save(f"/gaps/{gap}/examples", {**form, "intent": "lockers"})
    assert answer.status_code == 303
    told = {each.text for each in read(server, lambda session: library.examples_of(session, "lockers"))}
    assert told == {"where is my parcel, order <number>", "parcel locker, how long"}
    assert eva.save(f"/gaps/{gap}/dismiss", {"reason": "late"}).status_code == 409


@pytest.mark.parametrize(
    ("act", "form", "told"),
    [
        ("out-of-scope", {}, "out of scope"),
        ("dismiss", {"reason": "sold out"}, "sold out"),
        ("rename", {"title": "Lockers <b>"}, "Lockers &lt;b&gt;"),
    ],
)
def test_a_group_is_settled_or_named(server: Running, eva: Agent, act: str, form: dict[str, str], told: str) -> None:
    gap = make_gap(server, f"{act} this please", "and this one")
    assert eva.save(f"/gaps/{gap}/{act}", form).status_code == 303
    assert told in eva.edit(f"/gaps/{gap}").text
    if act != "rename":
        assert f"/gaps/{gap}" not in eva.edit("/gaps").text
        assert f"/gaps/{gap}" in eva.edit("/gaps?view=settled").text
        eva.save(f"/gaps/{gap}/reopen")
        assert f"/gaps/{gap}" in eva.edit("/gaps").text

    def audit(session: Any) -> Any:
        return session.scalar(select(AuditEntry).where(AuditEntry.action.like("gap_%")).order_by(AuditEntry.id.desc()))

    assert read(server, audit).who == "Eva"


def test_groups_are_joined_and_messages_split_off(server: Running, eva: Agent) -> None:
    one, two = make_gap(server, "first of all", "second of all"), make_gap(server, "third of all")
    joined = eva.save("/gaps/join", {"gap": [one, two]})
    assert joined.headers["location"] == f"/studio/gaps/{one}"
    assert "3 messages" in eva.edit(f"/gaps/{one}").text
    split = eva.save(f"/gaps/{one}/split", {"use": ids_in(eva.edit(f"/gaps/{one}").text)[:1]})
    assert split.status_code == 303
    assert "2 messages" in eva.edit(f"/gaps/{one}").text
    assert eva.save("/gaps/join", {"gap": one}).headers["location"] == "/studio/gaps"


@pytest.mark.parametrize(
    ("path", "form", "status"),
    [
        ("/gaps/999999/dismiss", {"reason": "x"}, 404),
        ("/gaps/1/fly", {}, 404),
        ("/gaps/acts/999999/undo", {}, 404),
        ("/gaps/{gap}/dismiss", {"reason": " "}, 422),
        ("/gaps/{gap}/examples", {"intent": "lockers"}, 422),
        ("/gaps/{gap}/questions", {"use": "99", "text-99": "x", "article_id": "nowhere"}, 422),
        ("/gaps/{gap}/split", {"use": "zebra"}, 422),
        ("/gaps/{gap}/join", {"other": "zebra"}, 422),
    ],
)
def test_what_makes_no_sense_is_refused_in_words(
    server: Running, eva: Agent, path: str, form: dict[str, str], status: int
) -> None:
    gap = make_gap(server, "what can I do")
    answer = eva.save(path.format(gap=gap), form)
    assert answer.status_code == status
    assert "Traceback" not in answer.text
    if status == 422:
        assert 'role="alert"' in answer.text


def test_odd_addresses_show_the_list(eva: Agent) -> None:
    for query in ("view=zebra&page=-1", "page=99999999999", "ended=answered", "words=%25_%27", "lang=xx&order=1"):
        assert eva.edit(f"/gaps?{query}").status_code == 200
    assert eva.edit("/gaps/999999").status_code == 404
    assert "messages in" in eva.edit("/gaps/tally").text
