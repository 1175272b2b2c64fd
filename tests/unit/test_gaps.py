"""What the assistant did not settle: found in transcripts, grouped by meaning, settled by editors, taken back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from gap_samples import NOW, Chat, decided
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from bot.database import migrate, open_database
from bot.desk.records import AuditEntry
from bot.errors import GapActError, NoGapError
from bot.gaps import gaps
from bot.gaps.acts import GapActs, Text
from bot.gaps.collecting import collect, doubt_of
from bot.gaps.grouping import centred, cluster, keep_numbers, place, typical
from bot.gaps.keeping import GapKeeper, _Member, _write
from bot.gaps.records import Ended, Gap, GapState, Question, Settlement
from bot.ledger import Sessions
from handoff.records import Author
from kb_index.article_text import write_article
from kb_index.articles import Article
from kb_index.library import Library
from nlu import library
from nlu.encoder import Encoder, FloatMatrix
from nlu.training_data import load_intents

DATA = Path(__file__).parent.parent.parent / "data"
PARCEL = (
    "can a parcel locker hold my order for a week",
    "how many days will the parcel locker keep my order",
    "how long is an order kept in the parcel locker",
    "сколько дней заказ хранится в постамате",
    "как долго лежит посылка в постамате",
)
GIFT = (
    "do you sell gift cards",
    "can I buy a gift card as a present",
    "where do I buy a gift card",
    "можно купить подарочную карту",
    "где купить подарочную карту",
)


@pytest.fixture
async def sessions(tmp_path: Path) -> AsyncIterator[Sessions]:
    engine, made = open_database(f"sqlite+aiosqlite:///{tmp_path / 'otvet.sqlite3'}")
    await migrate(engine)
    yield made
    await engine.dispose()


@pytest.fixture
async def session(sessions: Sessions) -> AsyncIterator[AsyncSession]:
    async with sessions.begin() as opened:
        yield opened


async def questions(session: AsyncSession) -> list[Question]:
    await collect(session, article_of={})
    return list(await session.scalars(select(Question).order_by(Question.id)))


# Finding


@pytest.mark.parametrize(
    ("rule", "replies", "ended"),
    [
        ("rephrase", {"action": "clarify", "reply": "rephrase"}, Ended.UNANSWERED),
        ("clarify", {"action": "clarify", "articles": ["a", "b"]}, Ended.CLARIFIED),
        ("low_confidence", {"action": "handoff", "reason": "low_confidence"}, Ended.HANDED_OFF),
        ("same_answer_again", {"action": "handoff", "reason": "rejected_answer"}, Ended.REJECTED),
        ("intent:courier_rude", {"action": "handoff", "reason": "complaint"}, Ended.BY_INTENT),
        ("error", {"action": "handoff", "reason": "error"}, Ended.HANDED_OFF),
    ],
)
async def test_how_a_message_ended_is_read_from_its_turn(
    session: AsyncSession, rule: str, replies: dict[str, str], ended: Ended
) -> None:
    chat = await Chat(session, "c").begin()
    await chat.asks("do you deliver to the moon", rule, replies=replies)
    assert [(each.text, each.ended) for each in await questions(session)] == [("do you deliver to the moon", ended)]


async def test_what_a_flow_could_not_use_is_a_gap_with_its_step_and_asks_for_no_label(session: AsyncSession) -> None:
    chat = await Chat(session, "c").begin()
    asked = {"action": "clarify", "flow_step": "order"}
    missed = {"missed": {"flow": "order-status", "step": "order"}}
    await chat.asks("Where is my order?", "flow:order-status", replies=asked)
    await chat.asks("the one from last week", "flow:order-status", replies=asked, **missed)
    await questions(session)
    await chat.asks("the blue one, I said", "flow:order-status", replies=asked, **missed)
    await chat._add(Author.ASSISTANT, "…", decided("flow:order-status", action="handoff", reason="low_confidence"))
    found = await questions(session)
    assert [(each.text, each.ended) for each in found] == [
        ("the one from last week", Ended.UNANSWERED),
        ("the blue one, I said", Ended.HANDED_OFF),
    ]
    assert {(each.flow, each.step, each.doubt) for each in found} == {("order-status", "order", None)}
    await chat.asks("person", "person_chosen", replies={"action": "handoff", "reason": "asked_for_person"})
    assert [each.ended for each in await questions(session)] == [Ended.UNANSWERED, Ended.HANDED_OFF]


async def test_what_was_answered_or_asks_for_nothing_is_no_gap(session: AsyncSession) -> None:
    chat = await Chat(session, "c").begin()
    await chat.asks("hello", "intent:greet", replies={"action": "answer", "reply": "hello"})
    sure = [{"article_id": "a", "title": "A", "lang": "en", "confidence": 0.99}]
    await chat.asks("where is my order", "answer", replies={"action": "answer", "article_id": "a"}, hits=sure)
    await chat.asks("🙂", "no_words", replies={"action": "answer", "reply": "empty"})
    await chat.asks("I wait", "person_owns")
    assert await questions(session) == []


async def test_an_answer_that_did_not_help_makes_a_gap_of_the_question_before(session: AsyncSession) -> None:
    chat = await Chat(session, "c").begin()
    sure = [{"article_id": "a", "title": "A", "lang": "en", "confidence": 0.99}]
    await chat.asks("how do I get a refund", "answer", replies={"action": "answer", "article_id": "a"}, hits=sure)
    await chat.asks("It did not help", "answer_rejected", replies={"action": "handoff", "reason": "rejected_answer"})
    assert [(each.text, each.ended) for each in await questions(session)] == [("how do I get a refund", Ended.REJECTED)]


@pytest.mark.parametrize("rule", ["person_chosen", "intent:human"])
async def test_a_person_called_after_a_question_back_hands_off_the_question(session: AsyncSession, rule: str) -> None:
    chat = await Chat(session, "c").begin()
    await chat.asks("it is about the thing", "clarify", replies={"action": "clarify", "articles": ["a", "b"]})
    await questions(session)
    await chat.asks("call somebody", rule, replies={"action": "handoff", "reason": "asked_for_person"})
    assert [(each.text, each.ended) for each in await questions(session)] == [
        ("it is about the thing", Ended.HANDED_OFF)
    ]


async def test_a_person_called_days_later_says_nothing_of_the_question(session: AsyncSession) -> None:
    chat = await Chat(session, "c").begin()
    await chat.asks("it is about the thing", "clarify", replies={"action": "clarify", "articles": ["a", "b"]})
    chat.at += timedelta(days=3)
    await chat.asks("call somebody", "person_chosen", replies={"action": "handoff", "reason": "asked_for_person"})
    assert [each.ended for each in await questions(session)] == [Ended.CLARIFIED]


async def test_what_was_said_in_several_messages_is_one_question_and_is_masked(session: AsyncSession) -> None:
    chat = await Chat(session, "c").begin()
    chat.at += timedelta(minutes=1)
    await chat._add(Author.CUSTOMER, "my number is +7 912 345-67-89", None)
    chat.at -= timedelta(minutes=1)  # the same turn
    await chat.fails("write to me at a.petrov@mail.example about order 4471829")
    assert [each.text for each in await questions(session)] == [
        "my number is <number>\nwrite to me at <email> about order <number>"
    ]


async def test_looking_twice_finds_nothing_twice(session: AsyncSession) -> None:
    chat = await Chat(session, "c").begin()
    await chat.fails("do you deliver to the moon")
    assert await collect(session, article_of={}) == 1
    assert await collect(session, article_of={}) == 0
    await chat.fails("do you deliver to mars")
    assert await collect(session, article_of={}) == 1


def test_doubt_is_greatest_at_the_threshold_and_where_intent_and_search_disagree() -> None:
    def hit(confidence: float, article: str = "a") -> list[dict[str, object]]:
        return [{"article_id": article, "confidence": confidence}]

    near, far = doubt_of(decided("answer", hits=hit(0.61)), {}), doubt_of(decided("answer", hits=hit(0.98)), {})
    assert (near[0] or 0) > 0.9
    assert (far[0] or 0) < 0.1
    apart = decided("answer", hits=hit(0.9, "b"), intent="x", confidence=0.9)
    assert doubt_of(apart, {"x": "a"}) == (0.95, True)
    assert doubt_of(apart, {"x": "b"})[1] is False
    assert doubt_of({"rule": "start"}, {}) == (None, False)


# Grouping


@pytest.fixture(scope="module")
def means(encoder: Encoder) -> dict[str, FloatMatrix]:
    """Language → where its texts lie."""
    told = {lang: load_intents(DATA / "intents" / f"{lang}.yml").examples[::25] for lang in ("ru", "en")}
    return {lang: encoder.encode([each.text for each in own]).mean(axis=0) for lang, own in told.items()}


def test_messages_of_one_meaning_are_one_group_in_both_languages(
    encoder: Encoder, means: dict[str, FloatMatrix]
) -> None:
    texts = [*PARCEL, *GIFT, "do you sell spare parts for tractors"]
    langs = ["ru" if any("а" <= letter <= "я" for letter in text) else "en" for text in texts]
    rows = centred(encoder.encode(texts), langs, means)
    groups = cluster(rows, langs)
    assert len(set(groups[:5])) == 1
    assert len(set(groups[5:10])) == 1
    assert len(set(groups)) == 3
    assert place(rows[4:5], langs[4:5], rows[:4], langs[:4], groups[:4]) == [int(groups[0])]
    assert place(rows[10:], langs[10:], rows[:10], langs[:10], groups[:10]) == [None]
    shown = typical(rows[:10], 2)
    assert [at < 5 for at in sorted(shown)] == [True, False]


def test_no_message_and_one_make_no_trouble() -> None:
    assert list(cluster(np.zeros((0, 4), np.float32), [])) == []
    assert list(cluster(np.full((1, 4), 0.5, np.float32), ["ru"])) == [0]
    assert typical(np.zeros((0, 4), np.float32), 3) == []


def test_found_groups_keep_the_number_of_the_group_that_they_share_most_with() -> None:
    matched, gone = keep_numbers(np.array([0, 0, 0, 1, 1, 2]), [7, 7, 9, 9, None, 7])
    assert matched == {0: 7, 1: 9}
    assert gone == set()


# Keeping them up to date


Keep = Callable[..., Awaitable[object]]


@pytest.fixture
def keep(sessions: Sessions, encoder: Encoder, means: dict[str, FloatMatrix]) -> Keep:
    keeper = GapKeeper(sessions, encoder=lambda: encoder, means=lambda: means, article_of=dict, clock=lambda: NOW)
    return keeper.keep


async def ask(sessions: Sessions, *texts: str) -> None:
    async with sessions.begin() as session:
        for number, text in enumerate(texts):
            lang = "ru" if any("а" <= letter <= "я" for letter in text) else "en"
            chat = await Chat(session, f"{text}{number}", lang=lang, at=NOW - timedelta(days=10 * number)).begin()
            await chat.fails(text)


async def groups(sessions: Sessions, view: gaps.View = gaps.View.OPEN) -> dict[int, set[str]]:
    async with sessions.begin() as session:
        found = await gaps.find(session, gaps.Query(view), now=NOW)
        return {
            line.id: set(await session.scalars(select(Question.text).where(Question.gap_id == line.id)))
            for line in found.lines
        }


async def test_a_new_message_joins_its_group_and_numbers_stay(sessions: Sessions, keep: Keep) -> None:
    await ask(sessions, *PARCEL[:4], *GIFT[:4])
    await keep()
    first = await groups(sessions)
    assert sorted(map(len, first.values())) == [4, 4]
    await ask(sessions, PARCEL[4])
    await keep()
    second = await groups(sessions)
    assert set(second) == set(first)
    assert next(texts for texts in second.values() if PARCEL[4] in texts) == set(PARCEL)
    await keep(anew=True)
    assert await groups(sessions) == second


async def test_an_agent_has_the_last_word_and_the_round_ends_all_the_same(sessions: Sessions, keep: Keep) -> None:
    async with sessions.begin() as session:
        chat = await Chat(session, "c").begin()
        await chat.fails(PARCEL[0])
        await chat.agent("Five days.")
    await asyncio.wait_for(keep(), 10)
    assert list((await groups(sessions)).values()) == [{PARCEL[0]}]


async def test_what_an_editor_has_shaped_is_not_taken_apart(sessions: Sessions, keep: Keep) -> None:
    await ask(sessions, *PARCEL, *GIFT)
    await keep()
    one, two = await groups(sessions)
    async with sessions.begin() as session:
        await GapActs(session, by="Eva", now=NOW).join(one, [two])
    await keep(anew=True)
    assert await groups(sessions) == {one: set(PARCEL) | set(GIFT)}


async def test_what_was_dismissed_takes_in_what_comes_like_it(sessions: Sessions, keep: Keep) -> None:
    await ask(sessions, *GIFT[:3])
    await keep()
    (gift,) = await groups(sessions)
    async with sessions.begin() as session:
        await GapActs(session, by="Eva", now=NOW).dismiss(gift, "we will never have them")
    await ask(sessions, GIFT[3])
    await keep()
    assert await groups(sessions) == {}
    assert (await groups(sessions, gaps.View.SETTLED))[gift] == set(GIFT[:4])


async def test_a_group_whose_act_was_undone_may_be_emptied_and_the_rounds_go_on(sessions: Sessions, keep: Keep) -> None:
    await ask(sessions, PARCEL[0], *GIFT[:3])
    await keep()
    lone = next(gap for gap, texts in (await groups(sessions)).items() if texts == {PARCEL[0]})
    async with sessions.begin() as session:
        acts = GapActs(session, by="Eva", now=NOW)
        await acts.rename(lone, "Lockers")
        await acts.undo(await last_act(session, lone))
    async with sessions.begin() as session:  # another group takes its only message in
        gift = next(gap for gap in await groups(sessions) if gap != lone)
        await session.execute(update(Question).where(Question.gap_id == lone).values(gap_id=gift))
    await keep(anew=True)
    assert PARCEL[0] in set().union(*(await groups(sessions)).values())


async def test_what_editors_did_while_the_grouping_was_worked_out_stands(sessions: Sessions) -> None:
    await ask(sessions, PARCEL[0], GIFT[0], GIFT[1])
    async with sessions.begin() as session:
        first, second, new = await questions(session)
        made = [Gap(title=name, created_at=NOW, details={}) for name in ("lockers", "gifts", "presents")]
        session.add_all(made)
        await session.flush()
        lockers, gifts, presents = (gap.id for gap in made)
        first.gap_id, second.gap_id = lockers, gifts
        await session.flush()
        acts = GapActs(session, by="Eva", now=NOW)
        await acts.join(presents, [gifts])
        await acts.dismiss(lockers, "none of ours")
    members = [
        _Member(first.id, "en", PARCEL[0], lockers, True),
        _Member(new.id, "en", GIFT[1], None, True),
    ]
    async with sessions.begin() as session:
        await _write(session, members, {0: gifts, 1: gifts}, {gifts: "gifts"}, now=NOW)
    assert (await groups(sessions))[presents] == {GIFT[0], GIFT[1]}
    assert (await groups(sessions, gaps.View.SETTLED))[lockers] == {PARCEL[0]}


# Reading


async def test_a_group_tells_its_counts_its_trend_and_what_happened_next(session: AsyncSession) -> None:
    gap = Gap(title="Parcel lockers", created_at=NOW, details={})
    session.add(gap)
    await session.flush()
    old = await Chat(session, "old", lang="ru", at=NOW - timedelta(weeks=3)).begin()
    await old.fails(PARCEL[3])
    chat = await Chat(session, "c").begin()
    await chat.fails(PARCEL[0])
    ticket = await chat.ticket()
    answer = "Parcel lockers keep an order for five days, after that it goes back. Call +7 912 345-67-89."
    await chat.agent(answer)
    clear = await Chat(session, "d").begin()
    await clear.asks(PARCEL[1], "clarify", replies={"action": "clarify", "articles": ["a", "b"]})
    await clear.asks("Lockers", "chosen", replies={"action": "answer", "article_id": "locker-terms"})
    await clear.asks("It helped", "answer_confirmed", replies={"action": "answer", "reply": "confirmed"})
    for question in await questions(session):
        question.gap_id = gap.id
    now = NOW + timedelta(hours=1)
    (line,) = (await gaps.find(session, gaps.Query(), now=now)).lines
    assert (line.count, line.langs) == (3, {"en": 2, "ru": 1})
    assert line.weeks == (0, 0, 0, 0, 1, 0, 0, 2)
    assert line.ended == {Ended.HANDED_OFF: 2, Ended.CLARIFIED: 1}
    sheet = await gaps.sheet(session, gap.id, now=now)
    handed = next(each for each in sheet.asked if each.text == PARCEL[0])
    assert handed.ticket_id == ticket.id
    assert [reply.text for reply in handed.replies] == [answer.replace("+7 912 345-67-89", "<number>")]
    cleared = next(each for each in sheet.asked if each.text == PARCEL[1])
    assert (cleared.chose, cleared.helped) == ("locker-terms", True)
    assert gaps.used(handed.replies[0].text, {"a": "Nothing of it", "b": "x " + answer}) == "b"
    assert gaps.used("Yes", {"a": "Yes"}) is None
    assert [reply.agent for reply in gaps.distinct_replies(sheet.asked)] == ["Anna"]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        (gaps.Query(words="gift"), 1),
        (gaps.Query(words="100%"), 0),
        (gaps.Query(lang="ru"), 1),
        (gaps.Query(ended="clarified"), 0),
        (gaps.Query(view=gaps.View.SETTLED), 0),
        (gaps.Query(page=3), 0),
    ],
)
async def test_groups_are_found_by_words_language_and_end(session: AsyncSession, query: gaps.Query, found: int) -> None:
    await grouped(session, GIFT[:2])
    await grouped(session, PARCEL[3:])
    assert len((await gaps.find(session, query, now=NOW)).lines) == found


async def grouped(session: AsyncSession, texts: tuple[str, ...]) -> int:
    """A group of these messages; its number."""
    gap = Gap(title=texts[0], created_at=NOW, details={})
    session.add(gap)
    await session.flush()
    for text in texts:
        lang = "ru" if any("а" <= letter <= "я" for letter in text) else "en"
        await (await Chat(session, text, lang=lang, at=NOW - timedelta(days=1)).begin()).fails(text)
    for question in await questions(session):
        question.gap_id = question.gap_id or gap.id
    await session.flush()
    return gap.id


# Settling and undoing


async def last_act(session: AsyncSession, gap_id: int) -> int:
    return (await gaps.sheet(session, gap_id, now=NOW)).acts[0].id


@pytest.fixture
def acts(session: AsyncSession) -> GapActs:
    return GapActs(session, by="Eva", now=NOW)


async def test_messages_become_examples_and_are_taken_back(session: AsyncSession, acts: GapActs) -> None:
    await library.create_intent(session, "locker_terms", metadata={"article": "lockers"}, by="t", at=NOW)
    gap = await grouped(session, PARCEL)
    await acts.add_examples(
        gap, "locker_terms", [Text("call me +7 912 345-67-89 [now](x)", "en"), Text(PARCEL[3], "ru")]
    )
    line = await gaps.line_of(session, gap, now=NOW)
    assert (line.state, line.settlement, line.details) == (
        GapState.SETTLED,
        Settlement.EXAMPLES,
        {"intent": "locker_terms", "examples": 2},
    )
    told = [(each.text, each.lang) for each in await library.examples_of(session, "locker_terms")]
    assert told == [("call me <number> (now)(x)", "en"), (PARCEL[3], "ru")]
    await acts.undo(await last_act(session, gap))
    assert await library.examples_of(session, "locker_terms") == []
    assert (await gaps.line_of(session, gap, now=NOW)).state is GapState.OPEN
    audit = list(await session.scalars(select(AuditEntry.action).order_by(AuditEntry.id)))
    assert audit == ["gap_examples", "gap_undo"]


async def test_words_that_another_intent_has_are_not_called_taught(session: AsyncSession, acts: GapActs) -> None:
    for name in ("gift_cards", "presents"):
        await library.create_intent(session, name, metadata={}, by="t", at=NOW)
    await library.add_examples(session, "presents", [library.NewExample(GIFT[0], "en")], by="t", at=NOW)
    gap = await grouped(session, GIFT[:2])
    with pytest.raises(GapActError, match="presents") as refused:
        await acts.add_examples(gap, "gift_cards", [Text(GIFT[0], "en")])
    assert refused.value.code == "elsewhere"
    assert (await gaps.line_of(session, gap, now=NOW)).state is GapState.OPEN


async def test_messages_become_an_articles_questions_each_in_its_language(session: AsyncSession, acts: GapActs) -> None:
    articles = Library(session, author="t", now=NOW)
    for lang, title in (("en", "Lockers"), ("ru", "Постаматы")):
        text = write_article(Article("lockers", lang, title, "Five days.", questions=("locker?",)))
        await articles.save("lockers", lang, text, expected_revision=0)
    gap = await grouped(session, PARCEL)
    texts = [Text(PARCEL[0], "en"), Text("Locker?", "en"), Text(PARCEL[3], "ru")]
    assert await acts.add_questions(gap, "lockers", texts) == 2
    assert (await articles.get("lockers", "en")).article.questions == ("locker?", PARCEL[0])
    assert (await articles.get("lockers", "ru")).article.questions == ("locker?", PARCEL[3])
    await acts.undo(await last_act(session, gap))
    assert (await articles.get("lockers", "en")).article.questions == ("locker?",)


async def test_undoing_leaves_examples_that_an_editor_has_changed_since(session: AsyncSession, acts: GapActs) -> None:
    for name in ("locker_terms", "lost"):
        await library.create_intent(session, name, metadata={}, by="t", at=NOW)
    gap = await grouped(session, PARCEL)
    await acts.add_examples(gap, "locker_terms", [Text(text, "ru") for text in PARCEL[:3]])
    moved, reworded, _ = await library.examples_of(session, "locker_terms")
    await library.move_example(session, moved.id, "lost", by="t", at=NOW)
    await library.change_example(session, reworded.id, "где ячейка", by="t", at=NOW)
    await acts.undo(await last_act(session, gap))
    assert [each.text for each in await library.examples_of(session, "lost")] == [moved.text]
    assert [each.text for each in await library.examples_of(session, "locker_terms")] == ["где ячейка"]


async def test_an_article_is_made_as_a_draft_and_undone_unless_somebody_worked_on_it(
    session: AsyncSession, acts: GapActs
) -> None:
    articles = Library(session, author="t", now=NOW)
    made = Article("gifts", "en", "Gift wrapping", "We wrap.", questions=GIFT[:2], status="draft")
    first = await grouped(session, GIFT)
    assert (await acts.make_article(first, made)).article.status == "draft"
    second = await grouped(session, PARCEL)
    with pytest.raises(GapActError, match="already"):
        await acts.make_article(second, made)
    await acts.undo(await last_act(session, first))
    assert (await articles.get("gifts", "en")).article.status == "archived"


async def test_out_of_scope_teaches_only_if_asked_to(session: AsyncSession, acts: GapActs) -> None:
    gap = await grouped(session, GIFT)
    await acts.out_of_scope(gap)
    assert await library.find_intents(session) == []
    await acts.undo(await last_act(session, gap))
    await acts.out_of_scope(gap, [Text(GIFT[0], "en")])
    assert [each.text for each in await library.examples_of(session, "out_of_scope")] == [GIFT[0]]


async def test_a_message_is_split_off_and_groups_are_joined_and_both_undone(
    session: AsyncSession, acts: GapActs
) -> None:
    gap = await grouped(session, (*PARCEL[:2], GIFT[0]))
    odd = next(each.id for each in await questions(session) if each.text == GIFT[0])
    made = await acts.split(gap, [odd])
    assert (await gaps.line_of(session, made, now=NOW)).title == GIFT[0]
    await acts.undo(await last_act(session, gap))
    assert (await gaps.line_of(session, gap, now=NOW)).count == 3
    other = await grouped(session, (GIFT[1],))
    await acts.join(gap, [other])
    assert (await gaps.line_of(session, gap, now=NOW)).count == 4
    await acts.undo(await last_act(session, gap))
    assert (await gaps.line_of(session, other, now=NOW)).count == 1


async def test_acts_that_can_not_be_are_refused_with_nothing_changed(session: AsyncSession, acts: GapActs) -> None:
    gap = await grouped(session, GIFT)
    every = [each.id for each in await questions(session)]
    refused: list[tuple[str, Awaitable[object]]] = [
        ("no_reason", acts.dismiss(gap, "  ")),
        ("no_texts", acts.add_examples(gap, "x", [])),
        ("many_texts", acts.add_examples(gap, "x", [Text("a", "en")] * 101)),
        ("no_part", acts.split(gap, every)),
        ("no_part", acts.split(gap, [])),
        ("no_other", acts.join(gap, [gap])),
        ("no_article", acts.add_questions(gap, "nowhere", [Text("a", "en")])),
        ("not_settled", acts.reopen(gap)),
        ("no_title", acts.rename(gap, " ")),
    ]
    for code, act in refused:
        with pytest.raises(GapActError) as error:
            await act
        assert error.value.code == code
    with pytest.raises(NoGapError):
        await acts.dismiss(gap + 1, "nothing there")
    await acts.dismiss(gap, "sold out")
    with pytest.raises(GapActError) as late:
        await acts.dismiss(gap, "sold out")
    assert late.value.code == "settled"
    assert (await gaps.sheet(session, gap, now=NOW)).line.count == 5


async def test_only_the_last_act_is_undone_and_only_once(session: AsyncSession, acts: GapActs) -> None:
    gap = await grouped(session, GIFT)
    await acts.rename(gap, "Gifts")
    first = await last_act(session, gap)
    await acts.dismiss(gap, "later")
    with pytest.raises(GapActError, match="since"):
        await acts.undo(first)
    second = await last_act(session, gap)
    await acts.undo(second)
    with pytest.raises(GapActError, match="already"):
        await acts.undo(second)
    await acts.undo(first)
    assert (await gaps.line_of(session, gap, now=NOW)).title == GIFT[0]


async def test_messages_after_a_settlement_bring_the_group_back_into_view(session: AsyncSession, acts: GapActs) -> None:
    await library.create_intent(session, "gifts", metadata={}, by="t", at=NOW)
    gap = await grouped(session, GIFT)
    await acts.add_examples(gap, "gifts", [Text(GIFT[0], "en")])
    assert (await gaps.find(session, gaps.Query(gaps.View.RETURNED), now=NOW)).total == 0
    later = await Chat(session, "later", at=NOW + timedelta(days=2)).begin()
    await later.fails("gift cards please")
    for question in await questions(session):
        question.gap_id = gap
    now = NOW + timedelta(days=3)
    (line,) = (await gaps.find(session, gaps.Query(gaps.View.RETURNED), now=now)).lines
    assert (line.id, line.after) == (gap, 1)
    await acts.reopen(gap)
    assert (await gaps.line_of(session, gap, now=now)).state is GapState.OPEN
