"""The review: what is offered, what a label does, and that it can be taken back."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from desk_harness import Agent
from gap_samples import NOW, Chat
from site_harness import Running, Site, running
from sqlalchemy.ext.asyncio import AsyncSession

from bot.database import migrate, open_database
from bot.gaps.collecting import collect
from bot.gaps.review import Item, Kind, Reviewer, ReviewMeans, waiting
from handoff.access import Role
from handoff.corrections import BY_AGENT
from kb_index.article_text import write_article
from kb_index.articles import Article
from kb_index.library import Library
from nlu import library
from nlu.label_doubts import LabelDoubt
from nlu.library import NewExample

DOUBT = LabelDoubt("send me the money back", "en", "pay", "refund", 0.02)


@pytest.fixture
async def session(tmp_path: Path) -> AsyncIterator[AsyncSession]:
    engine, sessions = open_database(f"sqlite+aiosqlite:///{tmp_path / 'otvet.sqlite3'}")
    await migrate(engine)
    async with sessions.begin() as opened:
        await fill(opened)
        yield opened
    await engine.dispose()


async def fill(session: AsyncSession) -> None:
    """Two intents, a doubted example, an unsure message, one where intent and search disagree, a corrected ticket."""
    for name, text in (("pay", DOUBT.text), ("refund", "I want a refund")):
        await library.create_intent(session, name, metadata={"article": f"{name}-terms"}, by="t", at=NOW)
        await library.add_examples(session, name, [NewExample(text, "en")], by="t", at=NOW)
    text = write_article(Article("refund-terms", "en", "Refunds", "Ten days."))
    await Library(session, author="t", now=NOW).save("refund-terms", "en", text, expected_revision=0)
    chat = await Chat(session, "a").begin()
    hits = [{"article_id": "refund-terms", "title": "Refunds", "lang": "en", "confidence": 0.6}]
    await chat.asks("money for order 4471829 please", "answer", hits=hits, replies={"action": "answer"})
    hits = [{**hits[0], "confidence": 0.95}]
    disagree = {"hits": hits, "intent": "pay", "confidence": 0.9}
    await chat.asks("pay it back to me", "answer", replies={"action": "answer"}, **disagree)
    other = await Chat(session, "b").begin()
    await other.asks("the courier took my money", "intent:x", replies={"action": "handoff", "reason": "complaint"})
    ticket = await other.ticket(topic="payment")
    ticket.routed_by = BY_AGENT
    await collect(session, article_of={"pay": "pay-terms"})


async def test_every_kind_is_offered_and_none_twice(session: AsyncSession) -> None:
    items = await waiting(session, [DOUBT, replace(DOUBT, text="stands nowhere")])
    assert {(item.kind, item.text) for item in items} == {
        (Kind.SUSPECT, DOUBT.text),
        (Kind.CORRECTED, "the courier took my money"),
        (Kind.DISAGREE, "pay it back to me"),
        (Kind.UNSURE, "money for order <number> please"),
    }
    assert [item.kind for item in await waiting(session, [DOUBT], Kind.UNSURE)] == [Kind.UNSURE]


def of(items: Sequence[Item], kind: Kind) -> Item:
    return next(item for item in items if item.kind is kind)


async def texts(session: AsyncSession, intent: str) -> set[str]:
    return {each.text for each in await library.examples_of(session, intent)}


@pytest.mark.parametrize("kind", [Kind.UNSURE, Kind.DISAGREE, Kind.CORRECTED])
async def test_a_labelled_text_becomes_an_example_and_is_offered_no_more(session: AsyncSession, kind: Kind) -> None:
    eva = Reviewer(session, by="Eva", now=NOW)
    item = of(await waiting(session, [DOUBT]), kind)
    await eva.label(item, "intent:refund", "give it to +7 912 345-67-89" if kind is Kind.UNSURE else "")
    told = "give it to <number>" if kind is Kind.UNSURE else item.text
    assert told in await texts(session, "refund")
    assert item.key not in {each.key for each in await waiting(session, [DOUBT])}
    await eva.undo()
    assert told not in await texts(session, "refund")
    assert item.key in {each.key for each in await waiting(session, [DOUBT])}


async def test_a_doubted_example_moves_stays_or_goes(session: AsyncSession) -> None:
    eva = Reviewer(session, by="Eva", now=NOW)
    for choice, pay, refund in (("intent:refund", 0, 2), ("remove", 0, 1), ("keep", 1, 1)):
        await eva.label(of(await waiting(session, [DOUBT]), Kind.SUSPECT), choice)
        assert (len(await texts(session, "pay")), len(await texts(session, "refund"))) == (pay, refund), choice
        assert not [item for item in await waiting(session, [DOUBT]) if item.kind is Kind.SUSPECT]
        await eva.undo()
        assert DOUBT.text in await texts(session, "pay")


async def test_undo_leaves_an_example_where_another_editor_has_moved_it(session: AsyncSession) -> None:
    eva = Reviewer(session, by="Eva", now=NOW)
    await library.create_intent(session, "bank", metadata={}, by="Max", at=NOW)
    for kind in (Kind.SUSPECT, Kind.UNSURE):
        await eva.label(of(await waiting(session, [DOUBT]), kind), "intent:refund")
        example = (await library.examples_of(session, "refund"))[-1]
        await library.move_example(session, example.id, "bank", by="Max", at=NOW)
        await eva.undo()
        assert example.text in await texts(session, "bank")


async def test_an_article_gets_the_text_as_a_question(session: AsyncSession) -> None:
    eva = Reviewer(session, by="Eva", now=NOW)
    await eva.label(of(await waiting(session, []), Kind.DISAGREE), "article:refund-terms")
    articles = Library(session, author="t", now=NOW)
    assert (await articles.get("refund-terms", "en")).article.questions == ("pay it back to me",)
    await eva.undo()
    assert (await articles.get("refund-terms", "en")).article.questions == ()


async def test_undo_takes_back_ones_own_last_label_only(session: AsyncSession) -> None:
    eva, max_ = Reviewer(session, by="Eva", now=NOW), Reviewer(session, by="Max", now=NOW)
    await eva.label(of(await waiting(session, []), Kind.UNSURE), "skip")
    assert await max_.undo() is None
    last = await eva.undo()
    assert last is not None
    assert last.choice == "skip"
    assert await eva.undo() is None


# The page


async def rank(_text: str, _lang: str) -> Sequence[tuple[str, float]]:
    return [("refund", 0.6), ("pay", 0.3), ("article:lockers", 0.2)]


async def doubts() -> Sequence[LabelDoubt]:
    return [DOUBT]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    def site() -> Site:
        return Site(tmp_path_factory.mktemp("review"), works=False, review=ReviewMeans(rank, doubts))

    with running(site) as started:

        async def filled() -> None:
            async with started.site.sessions.begin() as session:
                await fill(session)

        started.call(filled())
        yield started


def test_a_text_after_the_other_is_labelled_by_its_keys(server: Running) -> None:
    eva = Agent(server, "Eva", Role.EDITOR)
    page = eva.edit("/review").text
    assert "4 wait" in page
    keys = dict(re.findall(r'value="([\w:-]+)" data-key="(\w)"', page))
    assert keys["intent:refund"] == "1"
    item = re.findall(r'name="item" value="([\w:]+)"', page)[0]
    form: dict[str, Any] = {"item": item, "choice": "intent:refund"}
    part = eva.save("/review", form, headers={"HX-Request": "true"})
    assert part.status_code == 200
    assert "<html" not in part.text
    assert "3 wait, 1 labelled today" in part.text
    again = eva.save("/review", form, headers={"HX-Request": "true"})
    assert "already" in again.text
    assert eva.save("/review", {"item": "question:x"}).status_code == 422
    other = re.findall(r'name="item" value="([\w:]+)"', part.text)[0]
    assert "nowhere" in eva.save("/review", {"item": other, "other": "nowhere"}).text
    undone = eva.save("/review/undo", headers={"HX-Request": "true"})
    assert "4 wait, 0 labelled today" in undone.text
    assert "Nothing waits" not in eva.edit("/review?kind=zebra").text
