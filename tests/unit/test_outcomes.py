"""What is counted as what: every definition of `handoff.outcomes` as a conversation that is played on a moved clock."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from databases import MakeDatabase
from sqlalchemy import update
from test_agent_desk import Story

from bot.database import migrate
from handoff.outcomes import Facts, Outcome
from handoff.records import Conversation, Delivery, Feedback, Message
from handoff.reports import load_facts
from handoff.staff import put_agent

HELPED, NOT_HELPED = "Yes, that helped", "No, it did not help"


class Month(Story):
    """A month of conversations, and what the report makes of it."""

    async def facts(self, **since: float) -> Facts:
        async with self.sessions.begin() as session:
            return await load_facts(
                session,
                self.desk.tickets.policy,
                since=self.clock() - timedelta(**(since or {"days": 90})),
                until=self.clock() + timedelta(seconds=1),
                now=self.clock(),
            )

    async def outcomes(self) -> list[Outcome]:
        return [episode.outcome for episode in (await self.facts()).episodes]

    async def pass_days(self, days: float) -> None:
        self.clock.ahead += timedelta(days=days)


@pytest.fixture
async def month(tmp_path: Path, make_database: MakeDatabase) -> AsyncIterator[Month]:
    made = Month(tmp_path, database=make_database())
    await migrate(made.engine)
    made.clock.ahead = datetime(2027, 3, 1, 9, tzinfo=UTC) - datetime.now(UTC)  # a Monday, noon in Moscow
    yield made
    await made.engine.dispose()


async def press(month: Month, token: str) -> None:
    await month.hear(kind="choice", choice=token)


async def test_an_answer_that_the_customer_confirms_is_confirmed_and_after_a_week_durable(month: Month) -> None:
    await month.hear("where is my order")
    await press(month, "helped")
    assert await month.outcomes() == [Outcome.RUNNING], "he may still ask on"
    assert (await month.facts()).figures().episodes == 0
    await month.pass_days(2)
    assert await month.outcomes() == [Outcome.CONFIRMED]
    assert (await month.facts()).figures().durable is None, "too early to say"
    await month.pass_days(6)
    figures = (await month.facts()).figures()
    assert (figures.contained, figures.handed_off, figures.durable) == (1, 0, 1)


async def test_silence_after_an_answer_is_an_assumed_resolution_and_no_confirmed_one(month: Month) -> None:
    await month.hear("where is my order")
    await month.pass_days(2)
    assert await month.outcomes() == [Outcome.ASSUMED]
    assert (await month.facts()).figures().assistant["confirmed"] == 0


async def test_who_leaves_after_a_question_back_was_abandoned(month: Month) -> None:
    await month.hear("where is my order")
    await month.hear("return")
    await month.pass_days(2)
    assert await month.outcomes() == [Outcome.ABANDONED], "what he asked last was not answered"


async def test_a_question_after_a_confirmation_is_part_of_the_visit_and_must_be_answered_too(month: Month) -> None:
    await month.hear("where is my order")
    await press(month, "helped")
    await month.hear("return")
    await month.pass_days(2)
    assert await month.outcomes() == [Outcome.ABANDONED]


async def test_a_greeting_is_no_matter_and_in_no_denominator(month: Month) -> None:
    await month.hear(kind="start")
    await month.pass_days(2)
    assert (await month.facts()).episodes == []
    assert (await month.facts()).figures().contained is None


async def test_who_comes_back_with_the_same_topic_within_a_week_was_not_helped(month: Month) -> None:
    await month.hear("where is my order")
    await press(month, "helped")
    await month.pass_days(5)
    await month.hear("where is my order")
    await press(month, "helped")
    await month.pass_days(8)
    await month.hear("where is my order")
    await month.pass_days(8)
    assert await month.outcomes() == [Outcome.REOPENED, Outcome.CONFIRMED, Outcome.ASSUMED]
    assert (await month.facts()).figures().durable == pytest.approx(2 / 3, abs=1e-5)


async def test_who_comes_back_by_another_channel_is_counted_apart(month: Month) -> None:
    await month.hear("where is my order")
    await month.pass_days(3)
    await month.hear("where is my order", chat="elsewhere")
    async with month.sessions.begin() as session:
        await session.execute(update(Conversation).values(customer_id=1))
        await session.execute(update(Conversation).where(Conversation.id == 2).values(channel="whatsapp"))
    await month.pass_days(3)
    assert await month.outcomes() == [Outcome.RETURNED_ELSEWHERE, Outcome.ASSUMED]


async def test_every_handoff_counts_whoever_ended_it_and_shares_add_up(month: Month) -> None:
    await month.hear("where is my order", chat="a")
    await month.hear("return", chat="b")
    await month.hear("a person please", chat="c")
    await month.hear("a person please", chat="d")
    await month.act("reply", 1, "Looking", agent="Anna")
    await month.act("resolve", 1, agent="Anna")
    await month.act("close", 2, why="spam", agent="Anna")
    await month.pass_days(3)
    figures = (await month.facts()).figures()
    assert (figures.episodes, figures.handed_off, figures.contained) == (4, 0.5, 0.5)
    assert figures.people == {
        "confirmed": 0, "assumed": 0.25, "reopened": 0, "returned_elsewhere": 0, "abandoned": 0.25, "running": 0,
    }  # fmt: skip
    assert sum(value or 0 for value in {**figures.assistant}.values()) == figures.contained
    assert sum(value or 0 for value in {**figures.people}.values()) == figures.handed_off


async def test_a_ticket_is_part_of_the_visit_in_which_the_assistant_tried(month: Month) -> None:
    await month.hear("where is my order")
    await press(month, "not_helped")
    facts = await month.facts()
    assert [(e.handed_off, e.outcome) for e in facts.episodes] == [(True, Outcome.RUNNING)]
    await month.act("reply", 1, "It left today", agent="Anna")
    await month.act("resolve", 1, agent="Anna")
    await month.wait(minutes=1)
    await month.hear("return")
    assert len((await month.facts()).episodes) == 2, "what comes after the end is a new matter"


async def test_a_survey_confirms_a_no_reopens_and_satisfaction_is_the_last_word(month: Month) -> None:
    await month.hear("a person please")
    await month.act("reply", 1, "Done", agent="Anna")
    await month.act("finish", 1, agent="Anna")
    await month.wait(hours=2)
    async with month.sessions.begin() as session:
        await month.desk.customer_acts.give_feedback(session, 1, Feedback.HELPED)
    assert await month.outcomes() == [Outcome.CONFIRMED]
    await month.hear("a person please", chat="other")
    await month.act("reply", 2, "Done", agent="Anna")
    await month.act("finish", 2, agent="Anna")
    async with month.sessions.begin() as session:
        await month.desk.customer_acts.give_feedback(session, 2, Feedback.NOT_HELPED)
    await month.act("resolve", 2, agent="Anna")
    figures = (await month.facts()).figures()
    assert (await month.outcomes())[1] is Outcome.REOPENED
    assert (figures.satisfaction, figures.satisfaction_answers, figures.reopened) == (0.5, 2, 0.5)


async def test_the_time_of_the_assistant_and_the_night_are_in_no_clock_of_a_person(month: Month) -> None:
    await month.hear("where is my order")
    await month.wait(minutes=30)
    await month.hear("a person please")
    await month.wait(minutes=4)
    await month.act("reply", 1, "Looking", agent="Anna")
    await month.hear("return", chat="late")
    month.clock.ahead += timedelta(hours=9)  # after nine in the evening
    await month.hear("a person please", chat="late")
    await month.pass_days(0.5)  # until half past nine
    await month.act("reply", 2, "Good morning", agent="Anna")
    first, second = (await month.facts()).tickets
    assert first.first_response_seconds == pytest.approx(240, abs=5)
    assert first.first_response_on_time is True
    assert (second.in_hours, first.in_hours) == (False, True)
    assert second.first_response_seconds == pytest.approx(34 * 60, abs=10)
    assert second.first_response_on_time is False
    assert (second.on_time, first.resolution_on_time) == (False, None)
    figures = (await month.facts()).figures()
    assert (figures.out_of_hours, figures.night, figures.first_response_on_time) == (0.5, 0, 0.5)


async def test_an_unanswered_ticket_is_late_as_soon_as_its_promise_is_broken(month: Month) -> None:
    await month.hear("a person please")
    assert (await month.facts()).tickets[0].first_response_on_time is None
    await month.wait(minutes=30)
    ticket = (await month.facts()).tickets[0]
    assert (ticket.first_response_on_time, ticket.first_response_seconds) == (False, None)


async def test_load_is_shared_out_by_topic_agent_hour_and_channel(month: Month) -> None:
    async with month.sessions.begin() as session:
        await put_agent(session, "Anna", now=month.clock(), teams=["first-line"])
    await month.hear("where is my order", chat="a")
    await month.hear("a person please", chat="b")
    await month.act("reply", 1, "Looking", agent="Anna")
    await month.hear("a person please", chat="c")
    facts = await month.facts()
    by_agent = facts.by("agent")
    assert {name: len(part.tickets) for name, part in by_agent.items()} == {"": 1, "Anna": 1}
    assert facts.only(agent="Anna").figures().tickets == 1
    assert list(facts.by("hour")) == ["12"]
    assert {name: len(part.episodes) for name, part in facts.by("topic").items()} == {"orders": 1, "unclear": 2}
    assert sum(part.figures().tickets for part in facts.by("channel").values()) == 2
    shop = replace(facts, directions={"orders": "retail"})
    assert {name: len(part.episodes) for name, part in shop.by("direction").items()} == {"": 2, "retail": 1}
    assert len(shop.only(direction="retail").episodes) == 1
    assert (await month.facts(minutes=-1)).tickets == [], "a period of its own"


async def test_words_of_a_person_that_never_arrived_are_no_answer(month: Month) -> None:
    await month.hear("where is my order")
    await month.hear("a person please")
    async with month.sessions.begin() as session:
        held = await month.desk.reply(session, 1, "Your refund is approved", agent="Anna")
        await month.desk.finish(session, 1, agent="Anna")
    await month.assistant.drain()
    async with month.sessions.begin() as session:
        (await session.get_one(Message, held.id)).delivery = Delivery.HELD
    await month.wait(hours=1)
    await month.act("resolve", 1, agent="Anna")
    await month.pass_days(9)
    assert await month.outcomes() == [Outcome.ABANDONED]
    figures = (await month.facts()).figures()
    assert (figures.durable, figures.first_response_on_time, figures.first_response.count) == (0, 0, 0)
    async with month.sessions.begin() as session:
        (await session.get_one(Message, held.id)).delivery = Delivery.DELIVERED
    assert await month.outcomes() == [Outcome.ASSUMED], "it was said, if late"


async def test_a_ticket_that_went_on_in_another_channel_counts_where_it_was_made(month: Month) -> None:
    for chat in ("first", "second"):
        await month.hear("where is my order", chat=chat, phone="+79161234567")
        await month.pass_days(2)
    await month.hear("where is my order", chat="first")
    await month.hear("a person please", chat="first")
    await month.act("reply_elsewhere", 1, 2, "It left today", agent="Anna")
    await month.act("resolve", 1, agent="Anna")
    await month.pass_days(2)
    facts = await month.facts()
    assert [(e.conversation_id, e.handed_off) for e in facts.episodes] == [(1, False), (2, False), (1, True)]


async def test_a_yes_confirms_whatever_became_of_the_ticket_and_an_end_without_a_word_is_no_resolution(
    month: Month,
) -> None:
    for chat in ("closed", "silent", "denied"):
        await month.hear("a person please", chat=chat)
    for number in (1, 3):
        await month.act("reply", number, "Done", agent="Anna")
        await month.act("finish", number, agent="Anna")
        await month.act(
            "close" if number == 1 else "resolve", number, agent="Anna", **{"why": "x"} if number == 1 else {}
        )
    await month.act("resolve", 2, agent="Anna")
    async with month.sessions.begin() as session:
        await month.desk.customer_acts.give_feedback(session, 1, Feedback.HELPED)
    await month.hear("a person please", chat="denied")
    async with month.sessions.begin() as session:
        await month.desk.customer_acts.give_feedback(session, 3, Feedback.NOT_HELPED)
    assert sorted(await month.outcomes()) == [
        Outcome.ABANDONED, Outcome.CONFIRMED, Outcome.REOPENED, Outcome.RUNNING,
    ]  # fmt: skip
    assert (await month.facts()).figures().satisfaction == 0.5


async def test_a_merged_ticket_is_one_matter_with_the_one_it_went_into_and_no_return(month: Month) -> None:
    await month.hear("a person please", chat="a")
    await month.pass_days(3)
    await month.hear("a person please", chat="b")
    async with month.sessions.begin() as session:
        await session.execute(update(Conversation).values(customer_id=1))
        await session.execute(update(Conversation).where(Conversation.id == 2).values(channel="whatsapp"))
    await month.act("merge", 2, 1, agent="Anna")
    assert await month.outcomes() == [Outcome.RUNNING, Outcome.RUNNING]
    await month.act("reply", 1, "It leaves today", agent="Anna")
    await month.act("finish", 1, agent="Anna")
    async with month.sessions.begin() as session:
        await month.desk.customer_acts.give_feedback(session, 1, Feedback.HELPED)
    facts = await month.facts()
    assert [episode.outcome for episode in facts.episodes] == [Outcome.CONFIRMED, Outcome.CONFIRMED]
    assert [ticket.resolution_seconds is None for ticket in facts.tickets] == [False, True], "it was settled once"
    late = await month.facts(days=2)  # the ticket that it went into was made before
    assert [(len(late.tickets), episode.outcome) for episode in late.episodes] == [(1, Outcome.CONFIRMED)]
    await month.act("reopen", 2, agent="Anna")
    assert (await month.outcomes())[1] is Outcome.RUNNING, "it is a matter of its own again"
