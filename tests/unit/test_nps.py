"""How likely customers are to recommend the company: whom it is asked of, when, and what counts as an answer."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from databases import Postgres
from sqlalchemy import select, update
from test_agent_desk import Story

from bot.database import migrate, open_database
from bot.desk.figures import Chart, nps_csv, series
from bot.desk.nps import NPS
from bot.desk.nps_reading import read_score
from bot.errors import DeliveryError, UnreachableError
from bot.timers import Timers
from handoff.hours import Daytime
from handoff.nps import Nps, NpsAnswer
from handoff.promoters import NpsFacts, group, measure
from handoff.records import Conversation, Owner
from handoff.reports import load_facts
from handoff.staff import put_agent
from handoff.window import set_closing

MOSCOW = ZoneInfo("Europe/Moscow")
QUESTION = "how likely are you to recommend"
DAY = timedelta(days=1)


class Asked(Story):
    """A story in which customers are asked a day after a good end."""

    async def wait(self, **time: float) -> list[str]:
        before = len(self.channel.sent)
        self.clock.ahead += timedelta(**time)
        timers = Timers(self.sessions, self.clock)
        timers.register(NPS, self.desk.nps.fire)
        await timers.fire_due()
        return [*[message.text for message in self.channel.sent[before:]], *await super().wait()]

    async def helped(self, **where: str) -> None:
        """The assistant answers, and the customer says that it helped."""
        await self.hear("where is my order", **where)
        await self.hear(kind="choice", choice="helped", **where)

    async def answers(self) -> list[NpsAnswer]:
        async with self.sessions.begin() as session:
            return list(await session.scalars(select(NpsAnswer).order_by(NpsAnswer.id)))

    async def answer(self) -> NpsAnswer:
        (found,) = await self.answers()
        return found

    async def asked(self, **where: str) -> str:
        """After a good end; the question."""
        await self.helped(**where)
        (question,) = await self.wait(days=1)
        return question

    def policy(self, **changed: object) -> None:
        self.desk.nps.policy = replace(self.desk.nps.policy, **changed)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database as a new installation has it, to be copied."""

    async def make() -> None:
        engine, _ = open_database(f"sqlite+aiosqlite:///{path}")
        await migrate(engine)
        await engine.dispose()

    path = tmp_path_factory.mktemp("migrated") / "otvet.sqlite3"
    with ThreadPoolExecutor(1) as thread:  # a loop may run where this is asked for
        thread.submit(lambda: asyncio.run(make())).result()
    return path


@pytest.fixture
async def story(tmp_path: Path, migrated: Path) -> AsyncIterator[Asked]:
    shutil.copy(migrated, tmp_path / "otvet.sqlite3")
    made = begun(Asked(tmp_path))
    yield made
    await made.engine.dispose()


def begun(made: Asked) -> Asked:
    made.clock.ahead = datetime(2027, 3, 1, 9, tzinfo=UTC) - datetime.now(UTC)  # a Monday, noon in Moscow
    made.channel.capabilities = replace(made.channel.capabilities, max_scale=16)
    made.policy(ask=True)
    return made


async def test_nobody_is_asked_unless_it_is_switched_on(story: Asked) -> None:
    story.policy(ask=False)
    await story.helped()
    assert await story.wait(days=1) == []


async def test_who_was_helped_by_the_assistant_is_asked_a_day_later_and_his_number_is_kept(story: Asked) -> None:
    await story.helped()
    assert await story.wait(hours=23) == []
    (question,) = await story.wait(hours=1)
    assert QUESTION in question
    labels = [option.label for option in story.channel.sent[-1].options]
    assert labels == [*map(str, range(11)), "Don't ask"]
    (reason,) = await story.press("9")
    assert "What did you like most?" in reason
    row = await story.answer()
    assert (row.score, row.comment, row.topic, row.ticket_id, row.lang) == (9, None, "orders", None, "en")
    assert row.channel == "recorder"
    assert row.ended_at < row.asked_at < (row.answered_at or row.ended_at)


async def test_who_was_helped_by_a_person_is_asked_after_the_yes_of_the_survey(story: Asked) -> None:
    await story.hear("a person please")
    await story.act("reply", 1, "It left today", agent="Anna")
    await story.act("finish", 1, agent="Anna")
    await story.wait(hours=2)
    await story.press("Yes, thank you")
    (question,) = await story.wait(days=1)
    assert QUESTION in question
    assert (await story.answer()).ticket_id == 1


async def test_a_no_silence_or_an_end_by_hand_is_no_good_end(story: Asked) -> None:
    for number, chat in enumerate(("no", "silent", "by hand"), 1):
        await story.hear("a person please", chat=chat)
        await story.act("reply", number, "It left today", agent="Anna")
        await story.act("finish", number, agent="Anna")
    await story.wait(hours=2)
    await story.hear(kind="choice", choice="survey_no:1", chat="no")
    await story.act("resolve", 3, agent="Anna")
    await story.hear("where is my order", chat="answered")
    await story.wait(days=2)
    await story.wait(days=2)
    assert await story.answers() == []


@pytest.mark.parametrize("comes", ["return", "a person please", "where is my order"])
async def test_a_good_end_that_did_not_last_is_not_asked_about(story: Asked, comes: str) -> None:
    await story.helped()
    await story.wait(hours=3)
    await story.hear(comes)
    await story.wait(days=1)
    assert await story.answers() == []


async def test_thanks_after_the_end_do_not_speak_against_it(story: Asked) -> None:
    await story.helped()
    await story.hear("👍")
    assert QUESTION in (await story.wait(days=1))[-1]


async def test_a_later_good_end_takes_the_place_of_an_earlier(story: Asked) -> None:
    await story.helped()
    await story.wait(hours=5)
    await story.helped()
    assert await story.wait(hours=20) == []
    assert len(await story.wait(hours=4)) == 1


async def test_nobody_is_asked_at_night(story: Asked) -> None:
    story.clock.ahead += timedelta(hours=11)  # eleven in the evening
    await story.helped()
    assert await story.wait(days=1) == []
    assert await story.wait(hours=10) == []
    (question,) = await story.wait(hours=3)
    assert QUESTION in question, "in the course of the morning"


async def test_a_person_is_asked_once_in_the_period_whatever_the_channel(story: Asked) -> None:
    await story.helped(chat="a")
    await story.helped(chat="b")
    async with story.sessions.begin() as session:
        await session.execute(update(Conversation).values(customer_id=7))
    assert len(await story.wait(days=1)) == 1, "two conversations of one person"
    await story.hear("8", chat="a")
    await story.wait(days=40)
    await story.helped(chat="b")
    await story.wait(days=1)
    assert len(await story.answers()) == 1
    await story.wait(days=50)
    await story.helped(chat="b")
    assert QUESTION in (await story.wait(days=1))[-1]


async def test_of_two_processes_that_come_to_it_at_once_one_asks(tmp_path: Path, postgres: Postgres) -> None:
    story = begun(Asked(tmp_path, database=postgres.database()))
    for chat in ("a", "b"):
        await story.helped(chat=chat)
    async with story.sessions.begin() as session:
        await session.execute(update(Conversation).values(customer_id=7))
    story.clock.ahead += DAY

    def process() -> Timers:
        timers = Timers(story.sessions, story.clock)
        timers.register(NPS, story.desk.nps.fire)
        return timers

    await asyncio.gather(process().fire_due(), process().fire_due())
    assert len(await story.answers()) == 1
    await story.engine.dispose()


async def test_who_is_with_a_person_in_another_channel_is_not_asked(story: Asked) -> None:
    await story.helped(chat="a")
    await story.hear("where is my order", chat="b")
    await story.hear("a person please", chat="b")
    async with story.sessions.begin() as session:
        await session.execute(update(Conversation).values(customer_id=7))
    await story.wait(days=1)
    assert await story.answers() == []


async def test_who_blocked_us_is_not_asked(story: Asked) -> None:
    await story.helped()
    await story.hear("blocked by the user", kind="blocked")
    await story.wait(days=1)
    assert await story.answers() == []


async def test_who_asked_not_to_be_asked_is_never_asked_again(story: Asked) -> None:
    await story.asked()
    (said,) = await story.press("Don't ask")
    assert "won't ask this again" in said
    assert await story.press("Don't ask") == []
    await story.hear(kind="choice", choice="nps:1:9")
    assert (await story.answer()).declined_at is not None, "a number takes nothing of it back"
    await story.wait(days=200)
    await story.helped()
    assert await story.wait(days=1) == []


@pytest.mark.parametrize("words", ["не спрашивайте больше", "Stop", "Don’t ask me again!", "don't ask"])
async def test_and_may_say_so_in_words(story: Asked, words: str) -> None:
    await story.asked()
    assert len(await story.hear(words)) == 1
    assert (await story.answer()).declined_at is not None


async def test_a_question_that_could_not_be_sent_does_not_wait_for_the_customers_return(story: Asked) -> None:
    await story.helped()
    story.channel.refusals = [UnreachableError("blocked")]
    assert await story.wait(days=1) == []
    await story.hear("where is my order")
    assert QUESTION not in " ".join(message.text for message in story.channel.sent)


async def test_within_a_window_it_is_asked_before_its_end_or_not_at_all(story: Asked) -> None:
    async def close_in(**left: float) -> None:
        async with story.sessions.begin() as session:
            at = story.clock() + timedelta(**left)
            await set_closing(session, at, channel="recorder", account="", chat_id="c")

    await close_in(hours=5)
    await story.helped()
    assert len(await story.wait(hours=4, minutes=31)) == 1
    story.policy(every=timedelta())
    await story.wait(days=1)
    await close_in(minutes=40)
    await story.helped()
    assert await story.wait(days=2) == []
    await close_in(hours=5)
    await story.helped()
    assert await story.wait(hours=6) == [], "nothing ran until it was closed"


async def test_a_channel_without_room_for_the_buttons_takes_a_typed_number(story: Asked) -> None:
    capabilities = dict(story.desk.nps._capabilities)
    story.desk.nps._capabilities = {**capabilities, "recorder": capabilities["whatsapp"]}
    async with story.sessions.begin() as session:
        at = story.clock() + timedelta(hours=30)
        await set_closing(session, at, channel="recorder", account="", chat_id="c")
    assert "reply with a number" in await story.asked()
    assert [option.label for option in story.channel.sent[-1].options] == ["Don't ask"]
    await story.hear("10!")
    assert (await story.answer()).score == 10


@pytest.mark.parametrize(
    ("text", "score"),
    [("9", 9), ("10!", 10), ("десять", 10), ("восемь баллов", 8), ("9/10", 9), ("3 из 10", 3), ("ten", 10), ("0", 0)],
)
def test_a_number_is_a_score_however_it_is_written(text: str, score: int) -> None:
    found = read_score(text)
    assert found is not None
    assert (found.value, found.rest) == (score, "")


@pytest.mark.parametrize(
    "text", ["11", "100", "-1", "9.5", "8-9", "9?", "10%", "2 заказа, 5 товаров?", "один вопрос", "№ 5", "", "09"]
)
def test_what_is_no_score_is_none(text: str) -> None:
    found = read_score(text)
    assert found is None or not found.parted


async def test_words_after_the_number_are_the_reason(story: Asked) -> None:
    await story.asked()
    (thanks,) = await story.hear("10, quick and friendly")
    assert "pass it on" in thanks
    row = await story.answer()
    assert (row.score, row.comment) == (10, "quick and friendly")


async def test_a_question_in_place_of_a_number_is_answered_and_the_number_alone_counts_no_more(story: Asked) -> None:
    await story.asked()
    (answer,) = await story.hear("where is my order")
    assert "My orders" in answer
    await story.hear("9")
    assert (await story.answer()).score is None
    await story.hear(kind="choice", choice="nps:1:9")
    assert (await story.answer()).score == 9, "but the button still says what it said"


@pytest.mark.parametrize("request_", ["3 days I wait for the order", "1, where is my order?", "2 orders and no answer"])
async def test_a_request_that_begins_with_a_number_is_a_request(story: Asked, request_: str) -> None:
    await story.asked()
    assert "My orders" in (await story.hear(request_))[-1]
    assert (await story.answer()).score is None


async def test_the_reason_is_kept_and_can_still_become_a_call_for_a_person(story: Asked) -> None:
    await story.asked()
    (reason,) = await story.press("3")
    assert "main reason" in reason
    (thanks,) = await story.hear("The courier was rude to me")
    assert "pass it on" in thanks
    assert (await story.answer()).comment == "The courier was rude to me"
    assert await story.tickets() == []
    await story.press("Call a person")
    assert await story.owner() is Owner.PERSON


@pytest.mark.parametrize(
    ("said", "owner"),
    [
        ("where is my order", Owner.ASSISTANT),
        ("return", Owner.ASSISTANT),
        ("a person please", Owner.PERSON),
        ("All good, but where is my order", Owner.ASSISTANT),
        ("Хорошо, а вернуть заказ ещё можно", Owner.ASSISTANT),
        ("Can you send me the papers once more", Owner.PERSON),
        ("The fridge does not work since yesterday", Owner.PERSON),
        ("Холодильник не работает со вчерашнего дня", Owner.PERSON),
    ],
)
async def test_a_request_in_place_of_a_reason_is_a_request(story: Asked, said: str, owner: Owner) -> None:
    await story.asked()
    await story.press("10")
    assert await story.hear(said)
    assert ((await story.answer()).comment, await story.owner()) == (None, owner)


@pytest.mark.parametrize("said", ["The order came early, very nice", "заказ пришёл вовремя", "👍", "As always"])
async def test_a_judgement_is_a_reason_also_where_an_article_is_about_the_same(story: Asked, said: str) -> None:
    await story.asked()
    await story.press("10")
    assert len(await story.hear(said)) == 1
    assert ((await story.answer()).comment, await story.tickets()) == (said, [])


async def test_a_reason_a_day_later_is_an_ordinary_message(story: Asked) -> None:
    await story.asked()
    await story.press("10")
    await story.wait(days=2)
    await story.hear("quick and friendly")
    assert (await story.answer()).comment is None


async def test_who_presses_twice_is_thanked_once_and_who_presses_another_number_means_that(story: Asked) -> None:
    await story.asked()
    await story.press("3")
    assert await story.press("3") == []
    (reason,) = await story.hear(kind="choice", choice="nps:1:10", key="another")
    assert "like most" in reason
    assert (await story.hear("quick and friendly"))[0].startswith("Thank you")
    row = await story.answer()
    assert (row.score, row.comment) == (10, "quick and friendly")


async def test_a_late_press_counts_while_a_person_answers_and_does_not_disturb(story: Asked) -> None:
    await story.asked()
    await story.hear("a person please")
    (thanks,) = await story.press("7")
    assert "noted" in thanks
    assert (await story.answer()).score == 7
    assert await story.hear("quick and friendly") == []
    assert (await story.answer()).comment is None


async def test_it_is_asked_and_answered_in_russian(story: Asked) -> None:
    await story.hear("где мой заказ")
    await story.hear(kind="choice", choice="helped")
    (question,) = await story.wait(days=1)
    assert "порекомендуете Klyon" in question
    (reason,) = await story.hear("восемь баллов")
    assert "до десятки" in reason
    (thanks,) = await story.hear("долго везли")
    assert "передам коллегам" in thanks
    row = await story.answer()
    assert (row.score, row.comment, row.lang) == (8, "долго везли", "ru")


async def test_a_share_is_drawn_among_customers_and_stays_for_the_period() -> None:
    policy, at = Nps(share=0.3), datetime(2027, 3, 1, tzinfo=UTC)
    drawn = [person for person in range(2000) if policy.chosen(person, at)]
    assert 0.26 < len(drawn) / 2000 < 0.34
    assert drawn == [person for person in range(2000) if policy.chosen(person, at + DAY)]
    assert drawn != [person for person in range(2000) if policy.chosen(person, at + 90 * DAY)]
    assert all(Nps(share=1).chosen(person, at) for person in range(50))
    assert not any(Nps(share=0).chosen(person, at) for person in range(50))


def test_the_moment_lies_by_day_and_within_the_window() -> None:
    policy = Nps(hours=Daytime(time(10), time(20)))
    noon = datetime(2027, 3, 1, 12, tzinfo=MOSCOW)
    assert policy.moment(noon, MOSCOW, None) == noon + DAY
    assert policy.moment(noon + timedelta(hours=10), MOSCOW, None) == datetime(2027, 3, 3, 10, tzinfo=MOSCOW)
    late = policy.moment(noon + timedelta(hours=10), MOSCOW, None, 0.5)
    assert late == datetime(2027, 3, 3, 11, tzinfo=MOSCOW), "not all at once"
    assert policy.moment(noon, MOSCOW, noon + DAY) == noon + timedelta(hours=23, minutes=30)
    evening = datetime(2027, 3, 1, 19, 59, tzinfo=MOSCOW)
    assert policy.moment(noon - timedelta(hours=6), MOSCOW, noon + timedelta(hours=18)) == evening
    assert policy.moment(evening, MOSCOW, evening + timedelta(hours=3)) is None


def fact(score: int | None, **more: object) -> NpsFacts:
    at = datetime(2027, 3, 1, 9, tzinfo=UTC)
    answered = at if score is not None else None
    of_ticket = None, None, None, None, None, None
    made = NpsFacts(1, *of_ticket, "site", "ru", "orders", at, 12, at.date(), score, answered, None)
    return made._replace(**more)  # type: ignore[arg-type]


def test_the_score_is_promoters_less_detractors_in_points() -> None:
    found = measure([fact(score) for score in (10, 9, 9, 8, 7, 6, 0, 10)] + [fact(None), fact(None)])
    assert (found.score, found.asked, found.answers, found.answered) == (25.0, 10, 8, 0.8)
    assert (found.promoters, found.passives, found.detractors) == (0.5, 0.25, 0.25)
    assert found.by_score == (1, 0, 0, 0, 0, 0, 1, 1, 1, 2, 2)
    assert [group(score) for score in (0, 6, 7, 8, 9, 10)] == [
        *("detractor", "detractor", "passive", "passive", "promoter", "promoter")
    ]


def test_few_answers_are_no_certainty_and_none_are_no_score() -> None:
    assert measure([]).score is measure([fact(None)]).margin is None
    few, many = measure([fact(10)] * 4), measure([fact(10)] * 400)
    assert few.score == many.score == 100
    assert (few.margin or 0) > 40 > 5 > (many.margin or 9)


async def test_the_report_has_it_by_topic_channel_language_month_and_agent(story: Asked) -> None:
    async with story.sessions.begin() as session:
        await put_agent(session, "Anna", now=story.clock(), teams=["first-line"])
    begun_at = story.clock()
    for number, chat in enumerate(("helped", "silent", "person"), 1):
        await story.hear("where is my order", chat=chat)
        await story.hear(kind="choice", choice="helped" if number < 3 else "not_helped", chat=chat)
    await story.act("reply", 1, "It left today", agent="Anna")
    await story.act("finish", 1, agent="Anna")
    await story.hear(kind="choice", choice="survey_yes:1", chat="person")
    await story.wait(days=1)
    await story.hear("10, =quick and friendly", chat="helped")
    await story.hear("5", chat="person")
    async with story.sessions.begin() as session:
        policy, now = story.desk.tickets.policy, story.clock()
        facts = await load_facts(session, policy, since=begun_at - DAY, until=now, now=now)
    found = facts.figures().nps
    assert (found.score, found.asked, found.answers) == (0.0, 3, 2)
    assert {name: part.figures().nps.score for name, part in facts.by("agent").items()} == {"Anna": -100}
    assert {name: len(part.nps) for name, part in facts.by("topic").items()} == {"orders": 3}
    assert {name: part.figures().nps.asked for name, part in facts.by("month").items()} == {"2027-03": 3}
    assert facts.only(channel="recorder", lang="en").figures().nps.asked == 3
    assert facts.figures().as_json()["nps"]["detractors"] == 0.5  # type: ignore[index]
    assert series(Chart.NPS, facts, ["2027-03-02"]).lines["answers"] == [0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1]
    lines = nps_csv(facts).splitlines()
    assert len(lines) == 4
    assert ",10,'=quick and friendly,recorder,en,orders,," in lines[1], "no formula for a spreadsheet"


async def test_a_question_that_did_not_arrive_is_no_question_in_the_report(story: Asked) -> None:
    await story.helped()
    story.channel.refusals = [DeliveryError("400", permanent=True)]
    await story.wait(days=1)
    async with story.sessions.begin() as session:
        now = story.clock()
        facts = await load_facts(session, story.desk.tickets.policy, since=now - 3 * DAY, until=now, now=now)
    assert facts.nps == []
    await story.wait(days=100)
    await story.helped()
    assert QUESTION in (await story.wait(days=1))[-1], "he is asked another time"
