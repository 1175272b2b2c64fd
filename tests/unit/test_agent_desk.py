"""What customers hear of what people do, told as stories on a moved clock."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, time, timedelta
from operator import attrgetter
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from databases import MakeDatabase
from site_harness import Keywords
from sqlalchemy import select, update
from test_turns import World

from bot.channels.base import Address, InboundMessage
from bot.database import migrate
from bot.desk.elsewhere import ELSEWHERE
from bot.desk.joining import BACK
from bot.desk.records import AuditEntry
from bot.desk.silence import SILENCE
from bot.desk.survey import SURVEY
from bot.dialogue import DialogueState, Outcome, Understanding
from bot.ledger import OutboxRow
from bot.models.understanding import Understood
from bot.timers import Timers
from bot.turn.for_desk import for_desk
from bot.turn.plan import ToDesk
from bot.turn.situation import Situation
from handoff import desk
from handoff.errors import TicketHeldError, TicketStateError
from handoff.hours import Daytime
from handoff.lifecycle import TicketStatus
from handoff.packet import Packet
from handoff.records import Author, Delivery, Feedback, Message, Owner, Reason, Ticket
from handoff.routing import route
from handoff.staff import put_agent
from handoff.window import set_closing

DOCS = Path(__file__).parents[2] / "docs"


class Story(World):
    """A world in which agents act and time passes."""

    async def wait(self, **time: float) -> list[str]:
        """Let time pass; what the customer receives by itself."""
        before = len(self.channel.sent)
        self.clock.ahead += timedelta(**time)
        timers = Timers(self.sessions, self.clock)
        timers.register(SURVEY, self.desk.survey.fire)
        timers.register(ELSEWHERE, self.desk.elsewhere.fire)
        timers.register(SILENCE, self.desk.silence.fire)
        await timers.fire_due()
        async with self.sessions.begin() as session:
            await self.desk.tick(session)
        await self.assistant.drain()
        return [message.text for message in self.channel.sent[before:]]

    async def act(self, verb: str, *args: object, **how: object) -> list[str]:
        """An agent does something; what the customer receives of it."""
        before = len(self.channel.sent)
        async with self.sessions.begin() as session:
            await attrgetter(verb)(self.desk)(session, *args, **how)
        await self.assistant.drain()
        return [message.text for message in self.channel.sent[before:]]

    async def press(self, label: str) -> list[str]:
        """Press a button of the last message that has one of this label."""
        for message in reversed(self.channel.sent):
            for option in message.options:
                if option.label == label:
                    return await self.hear(kind="choice", choice=option.token)
        raise AssertionError(f"no button {label}")

    async def ticket(self) -> Ticket:
        return (await self.tickets())[-1]

    async def owner(self) -> Owner:
        async with self.sessions.begin() as session:
            return (await desk.get_conversation(session, 1)).owner


async def finished(story: Story) -> None:
    """The agent has said his last word, and the customer is asked whether it helped."""
    await story.act("reply", 1, "Sent again today", agent="Anna")
    await story.act("finish", 1, agent="Anna")
    await story.wait(hours=1)


@pytest.fixture
async def story(tmp_path: Path, make_database: MakeDatabase) -> AsyncIterator[Story]:
    made = Story(tmp_path, database=make_database())
    await migrate(made.engine)
    made.clock.ahead = datetime(2027, 3, 1, 9, tzinfo=UTC) - datetime.now(UTC)  # a Monday, noon in Moscow
    await made.hear("where is my order")
    await made.hear("a person please")
    yield made
    await made.engine.dispose()


async def test_who_takes_a_ticket_is_introduced_before_his_first_word(story: Story) -> None:
    async with story.sessions.begin() as session:
        anna = await put_agent(session, "Anna", now=story.clock(), teams=["first-line"])
    assert await story.act("assign", 1, anna, by="Anna") == ["Anna has joined the conversation."]
    assert await story.act("reply", 1, "Looking into it", agent="Anna") == ["Looking into it"]
    assert await story.act("assign", 1, anna, by="Olga") == []


async def test_the_survey_comes_an_hour_after_the_last_word_and_yes_ends_it(story: Story) -> None:
    await story.act("reply", 1, "Sent again today", agent="Anna")
    assert await story.act("finish", 1, agent="Anna") == []
    assert await story.wait(minutes=59) == []
    (asked,) = await story.wait(minutes=2)
    assert "Did our specialist help?" in asked
    (thanks,) = await story.press("Yes, thank you")
    assert "closed" in thanks
    ticket = await story.ticket()
    assert (ticket.status, ticket.feedback) == (TicketStatus.RESOLVED, Feedback.HELPED)
    assert await story.owner() is Owner.ASSISTANT
    assert await story.wait(days=3) == [], "once for a ticket"
    assert await story.press("Yes, thank you") == [], "pressed twice"


async def test_no_opens_it_again_for_a_senior(story: Story) -> None:
    async with story.sessions.begin() as session:
        await put_agent(session, "Olga", now=story.clock(), teams=["first-line"], level="L2")
    await story.act("reply", 1, "Sent again today", agent="Anna")
    await story.act("finish", 1, agent="Anna")
    await story.wait(hours=1)
    (said,) = await story.press("No, the problem remains")
    assert "senior" in said
    ticket = await story.ticket()
    assert (ticket.status, ticket.level, ticket.feedback) == (TicketStatus.OPEN, "L2", Feedback.NOT_HELPED)
    assert await story.owner() is Owner.PERSON
    assert await story.hear("it is still broken") == [], "the assistant does not talk over the agent"


async def test_the_words_of_a_button_may_be_typed(story: Story) -> None:
    await story.act("reply", 1, "Sent again today", agent="Anna")
    await story.act("finish", 1, agent="Anna")
    await story.wait(hours=1)
    await story.hear("yes, thank you!")
    assert (await story.ticket()).feedback is Feedback.HELPED


async def test_silence_is_reminded_of_once_and_then_settled_but_not_confirmed(story: Story) -> None:
    await story.act("reply", 1, "Sent again today", agent="Anna")
    await story.act("finish", 1, agent="Anna")
    assert len(await story.wait(hours=1)) == 1
    (reminder,) = await story.wait(hours=20)
    assert "reminder" in reminder
    assert await story.wait(hours=28) == []
    ticket = await story.ticket()
    assert (ticket.status, ticket.feedback) == (TicketStatus.RESOLVED, None)


async def test_who_writes_before_the_survey_is_not_asked(story: Story) -> None:
    await story.act("reply", 1, "Sent again today", agent="Anna")
    await story.act("finish", 1, agent="Anna")
    await story.hear("wait, one more thing about my order")
    assert (await story.ticket()).status is TicketStatus.OPEN
    assert await story.wait(hours=5) == []


async def test_an_answer_after_the_matter_was_settled_still_counts(story: Story) -> None:
    await story.act("reply", 1, "Sent again today", agent="Anna")
    await story.act("finish", 1, agent="Anna")
    await story.wait(hours=1)
    await story.act("resolve", 1, agent="Anna")
    await story.press("No, the problem remains")
    assert (await story.ticket()).status is TicketStatus.OPEN
    assert await story.owner() is Owner.PERSON


async def test_a_change_of_mind_overwrites_the_first_word(story: Story) -> None:
    await finished(story)
    await story.press("No, the problem remains")
    (said,) = await story.press("Yes, thank you")
    assert "closed" in said
    ticket = await story.ticket()
    assert (ticket.status, ticket.feedback) == (TicketStatus.RESOLVED, Feedback.HELPED)
    (said,) = await story.press("No, the problem remains")
    assert "open again" in said
    ticket = await story.ticket()
    assert (ticket.status, ticket.feedback) == (TicketStatus.OPEN, Feedback.NOT_HELPED)
    await story.hear("it is still broken")
    (said,) = await story.press("Yes, thank you")
    assert "still open" in said
    assert (await story.ticket()).status is TicketStatus.OPEN, "what he wrote since is not answered"


async def test_a_second_no_after_a_second_end_opens_it_again(story: Story) -> None:
    await finished(story)
    await story.press("No, the problem remains")
    (said,) = await story.press("No, the problem remains")
    assert "known that the matter isn't settled" in said
    assert (await story.ticket()).level == "L2", "pressed twice"
    await finished(story)
    await story.wait(hours=20)
    await story.wait(hours=30)
    assert (await story.ticket()).status is TicketStatus.RESOLVED
    (said,) = await story.press("No, the problem remains")
    assert "open again" in said
    ticket = await story.ticket()
    assert (ticket.status, ticket.level, ticket.reopened) == (TicketStatus.OPEN, "L3", 2)


@pytest.mark.parametrize("then", ["wrote", "hold", "close"])
async def test_no_acts_whatever_became_of_the_ticket(story: Story, then: str) -> None:
    await finished(story)
    if then == "wrote":
        await story.hear("wait, one more thing about my order")
    elif then == "hold":
        await story.act("hold", 1, task="DEV-7", until=None, agent="Anna")
    else:
        await story.act("close", 1, why="spam", agent="Anna")
    (said,) = await story.press("No, the problem remains")
    assert "open again" in said
    ticket = await story.ticket()
    assert (ticket.status, ticket.level, ticket.feedback) == (TicketStatus.OPEN, "L2", Feedback.NOT_HELPED)


async def test_no_to_an_ended_ticket_is_told_to_whoever_has_the_live_one(story: Story) -> None:
    await finished(story)
    await story.act("resolve", 1, agent="Anna")
    await story.hear("a person please")
    await story.act("reply", 2, "Hello", agent="Anna")
    (said,) = await story.press("No, the problem remains")
    assert "ticket No. 1 isn't settled" in said
    assert "No. 2 is open" in said
    first, second = await story.tickets()
    assert (first.status, first.feedback) == (TicketStatus.RESOLVED, Feedback.NOT_HELPED)
    assert second.status is TicketStatus.OPEN
    note = [message for message in await story.transcript() if message.kind == "note"][-1]
    assert "обращение № 1 не помогло" in note.text


async def test_yes_and_no_may_be_typed_while_the_question_is_the_newest_thing(story: Story) -> None:
    await finished(story)
    await story.hear("thanks")
    (said,) = await story.hear("yes")
    assert "closed" in said
    assert (await story.ticket()).feedback is Feedback.HELPED
    assert await story.hear("no"), "what the assistant is told now is no answer to it"
    assert (await story.ticket()).status is TicketStatus.RESOLVED


async def test_a_typed_no_with_a_request_opens_it_again_with_the_words(story: Story) -> None:
    await finished(story)
    await story.wait(hours=20)
    await story.wait(hours=30)
    (said,) = await story.hear("no, it still leaks, what now?")
    assert "open again" in said
    ticket = await story.ticket()
    assert (ticket.status, ticket.feedback) == (TicketStatus.OPEN, Feedback.NOT_HELPED)


async def test_who_was_asked_and_asked_back_is_not_asked_again(story: Story) -> None:
    await story.act("reply", 1, "Sent again today", agent="Anna")
    await story.act("finish", 1, agent="Anna")
    await story.wait(hours=1)
    await story.hear("wait, one more thing about my order")
    (said,) = await story.press("Yes, thank you")
    assert "still open" in said
    ticket = await story.ticket()
    assert (ticket.status, ticket.feedback) == (TicketStatus.OPEN, None), "his question is not answered yet"
    await story.act("reply", 1, "Tomorrow", agent="Anna")
    await story.act("finish", 1, agent="Anna")
    assert await story.wait(hours=21) == []
    await story.wait(hours=28)
    assert (await story.ticket()).status is TicketStatus.RESOLVED


async def test_a_survey_that_comes_late_does_not_knock_at_a_closed_window(story: Story) -> None:
    async with story.sessions.begin() as session:
        closing = story.clock() + timedelta(hours=3)
        await set_closing(session, closing, channel="recorder", account="", chat_id="c")
    await story.act("reply", 1, "Sent again today", agent="Anna")
    await story.act("finish", 1, agent="Anna")
    assert await story.wait(hours=9) == [], "nothing ran for so long"
    ticket = await story.ticket()
    assert (ticket.status, ticket.asked_at) == (TicketStatus.RESOLVED, None)


@pytest.fixture
async def evening(story: Story) -> Story:
    """At eight, where people are asked from nine to nine."""
    policy = story.desk.tickets.policy
    story.desk.tickets.policy = replace(policy, survey=replace(policy.survey, hours=Daytime(time(9), time(21))))
    await story.wait(hours=8, minutes=5)
    return story


async def test_nobody_is_woken_by_the_survey_or_its_reminder(evening: Story) -> None:
    await evening.act("reply", 1, "Sent again today", agent="Anna")
    await evening.act("finish", 1, agent="Anna")
    assert await evening.wait(hours=12) == [], "five past eight"
    assert len(await evening.wait(hours=1)) == 1, "five past nine"
    await evening.wait(minutes=-5)
    assert await evening.wait(hours=20) == [], "at five in the morning"
    (reminder,) = await evening.wait(hours=4)
    assert "reminder" in reminder
    await evening.wait(hours=28)
    assert (await evening.ticket()).status is TicketStatus.RESOLVED


async def test_a_survey_that_comes_late_waits_for_the_day(evening: Story) -> None:
    await evening.wait(hours=-3)
    await evening.act("reply", 1, "Sent again today", agent="Anna")
    await evening.act("finish", 1, agent="Anna")
    assert await evening.wait(hours=7) == [], "nothing ran until midnight"
    assert len(await evening.wait(hours=9)) == 1


@pytest.mark.parametrize(
    ("spoken", "closes", "asked"),
    [
        ((20, 5), (34, 5), (33, 0)),
        ((20, 5), (32, 5), (21, 5)),
        ((26, 5), (32, 5), (31, 35)),
        ((20, 5), (21, 5), (20, 35)),
    ],
    ids=["in the day", "in the evening", "before the morning", "sooner than after an hour"],
)
async def test_a_window_that_ends_is_not_missed(
    evening: Story, spoken: tuple[int, int], closes: tuple[int, int], asked: tuple[int, int]
) -> None:
    """Hours and minutes since the midnight before."""
    begun, (last, closing, then) = evening.clock(), (timedelta(hours=h, minutes=m) for h, m in (spoken, closes, asked))
    five_past_eight = timedelta(hours=20, minutes=5)
    async with evening.sessions.begin() as session:
        closing_at = begun + closing - five_past_eight
        await set_closing(session, closing_at, channel="recorder", account="", chat_id="c")
    await evening.wait(seconds=(last - five_past_eight).total_seconds())
    await evening.act("reply", 1, "Sent again today", agent="Anna")
    await evening.act("finish", 1, agent="Anna")
    assert await evening.wait(seconds=(then - last).total_seconds() - 90) == []
    assert len(await evening.wait(minutes=3)) == 1
    assert await evening.wait(hours=30) == [], "no reminder: the window is closed"
    assert (await evening.ticket()).status is TicketStatus.RESOLVED


async def test_a_customer_who_would_rather_not_wait_goes_back_to_the_assistant(story: Story) -> None:
    (said,) = await story.press("Don't wait, ask the assistant")
    assert "withdrawn" in said
    assert (await story.ticket()).status is TicketStatus.CLOSED
    assert "My orders" in (await story.hear("where is my order"))[-1]


async def test_but_not_over_an_agent_who_is_there(story: Story) -> None:
    await story.act("reply", 1, "Hello", agent="Anna")
    (said,) = await story.press("Don't wait, ask the assistant")
    assert "already working" in said
    assert (await story.ticket()).status is TicketStatus.WAITING


async def test_nor_over_one_who_has_joined_without_a_word(story: Story) -> None:
    async with story.sessions.begin() as session:
        anna = await put_agent(session, "Anna", now=story.clock(), teams=["first-line"])
    await story.wait(seconds=1)
    await story.act("take", 1, anna, by="Anna")
    (said,) = await story.press("Don't wait, ask the assistant")
    assert "already working" in said
    assert await story.hear("Don't wait, ask the assistant") == [], "it is no choice any more, but a word to her"
    assert (await story.ticket()).status is TicketStatus.NEW
    async with story.sessions.begin() as session:
        await story.desk.assign(session, 1, None, by="Anna")
    (said,) = await story.press("Don't wait, ask the assistant")
    assert "withdrawn" in said, "she left"


@pytest.mark.parametrize("words", ["/end", "Close ticket"])
async def test_the_customer_can_end_it(story: Story, words: str) -> None:
    (said,) = await story.hear(words)
    assert "closed as you asked" in said
    assert await story.owner() is Owner.ASSISTANT


async def test_end_without_a_ticket_is_a_good_bye_and_no_question(story: Story) -> None:
    await story.hear("/end")
    assert len(await story.hear("/end")) == 1
    assert len(await story.tickets()) == 1


async def test_a_task_that_ends_a_year_later_is_told_in_the_same_chat(story: Story) -> None:
    (said,) = await story.act("hold", 1, task="DEV-7", until=None, agent="Anna")
    assert "write here ourselves" in said
    assert await story.wait(days=365) == []
    (said,) = await story.act("task_done", "DEV-7", outcome="The fix is out.")
    assert said.endswith("The fix is out.")
    assert (await story.ticket()).status is TicketStatus.OPEN


async def test_thanks_for_being_on_hold_want_nobody_and_a_question_does(story: Story) -> None:
    await story.act("reply", 1, "I'll ask the developers", agent="Anna")
    await story.act("hold", 1, task="DEV-7", until=None, agent="Anna")
    await story.hear("thanks")
    assert (await story.ticket()).status is TicketStatus.ON_HOLD
    await story.hear("any news about my order?")
    ticket = await story.ticket()
    assert (ticket.status, ticket.hold_task) == (TicketStatus.OPEN, "DEV-7")


async def test_thanks_for_an_answer_do_not_run_the_clock(story: Story) -> None:
    await story.act("reply", 1, "It comes tomorrow", agent="Anna")
    await story.hear("thanks")
    assert (await story.ticket()).status is TicketStatus.WAITING
    await story.hear("yes")
    assert (await story.ticket()).status is TicketStatus.OPEN, "it may answer what Anna asked"


@pytest.mark.parametrize("typed", ["I'd rather not wait!", "i'd rather not wait", " I'd  rather not wait. "])
def test_the_words_of_a_button_may_be_typed_whatever_sign_they_end_with(typed: str) -> None:
    waits = Situation(1, Owner.PERSON, 1, "en", {})
    state = DialogueState(options={BACK: "I'd rather not wait!"})
    message = InboundMessage(Address("recorder", "", "c"), "1", datetime(2027, 3, 1, tzinfo=UTC), text=typed)
    assert for_desk(waits, state, message, typed) == ToDesk("back")


class Polite(Keywords):
    """Takes anything for thanks, but hardly; "thanks" surely, also with a question after it."""

    def understand(self, text: str, remembered_lang: str | None = None) -> Understood:
        thanks = Understanding(text, "thanks", 0.95 if "thanks" in text else 0.1, Outcome(reply="thanks"))
        second = Understanding(text, candidates=(self._found("return-how", 0.95),))
        return Understood("en", (thanks, thanks, second) if "?" in text else (thanks,), {"lang": "en"})


@pytest.mark.parametrize(
    ("words", "status"),
    [
        ("many thanks to you", TicketStatus.WAITING),
        ("ok", TicketStatus.WAITING),
        ("the box came without its charger", TicketStatus.OPEN),
        ("thanks. And how do I return the old one?", TicketStatus.OPEN),
    ],
)
async def test_only_what_is_surely_nothing_but_thanks_leaves_a_ticket_where_it_is(
    tmp_path: Path, words: str, status: TicketStatus
) -> None:
    story = Story(tmp_path, understander=Polite())
    await migrate(story.engine)
    async with story.sessions.begin() as session:
        conversation = await desk.open_conversation(
            session, channel="recorder", account="", chat_id="c", now=story.clock()
        )
        await story.desk.tickets.hand_off(
            session,
            conversation,
            reason=Reason.ASKED_FOR_PERSON,
            route=route(story.desk.tickets.topics, None, []),
            texts=[],
            now=story.clock(),
        )
    await story.act("reply", 1, "It comes tomorrow", agent="Anna")
    await story.hear(words)
    assert (await story.ticket()).status is status
    await story.engine.dispose()


async def test_on_the_promised_day_the_customer_hears_that_it_goes_on_and_later_that_it_is_done(story: Story) -> None:
    until = story.clock() + timedelta(days=1)
    await story.act("hold", 1, task="DEV-7", until=until, agent="Anna")
    (said,) = await story.wait(days=1)
    assert "promised to be back by today" in said
    assert await story.wait(days=1) == [], "once"
    await story.act("reply", 1, "Not yet", agent="Anna")
    (said,) = await story.act("task_done", "dev-7 ", outcome="The fix is out.")
    assert "The fix is out." in said


async def test_a_day_of_another_year_is_told_with_it(story: Story) -> None:
    (said,) = await story.act("hold", 1, task="DEV-7", until=datetime(2028, 1, 18, 9, tzinfo=UTC), agent="Anna")
    assert "18.01.2028" in said


async def test_a_day_is_promised_as_the_shop_counts_days(story: Story) -> None:
    story.desk.zone = ZoneInfo("Europe/Moscow")
    until = datetime(2027, 3, 4, 22, 30, tzinfo=UTC)
    (said,) = await story.act("hold", 1, task="DEV-7", until=until, agent="Anna")
    assert "05.03" in said


async def test_what_an_agent_opens_again_is_announced_with_its_number_and_time(story: Story) -> None:
    await story.act("reply", 1, "Tomorrow", agent="Anna")
    await story.act("resolve", 1, agent="Anna")
    (said,) = await story.act("reopen", 1, agent="Anna")
    assert "No. 1 is open again" in said
    assert "within 30 minutes" in said
    await story.act("resolve", 1, agent="Anna")
    await story.wait(hours=12)
    (said,) = await story.act("reopen", 1, agent="Anna")
    assert "by 09:30 today" in said


async def test_who_says_nothing_more_is_asked_once_and_let_go_as_one_without_an_answer(story: Story) -> None:
    await story.act("reply", 1, "Which order?", agent="Anna")
    (asked,) = await story.wait(days=3)
    assert "haven't heard from you" in asked
    (said,) = await story.wait(days=4)
    assert "No. 1, as we haven't heard from you" in said
    assert (await story.ticket()).status is TicketStatus.CLOSED
    assert "My orders" in (await story.hear("where is my order"))[-1], "the assistant is there again"


@pytest.mark.parametrize(("words", "by"), [("no", "Anna"), ("yes", "Anna"), ("no", "the phone")])
async def test_yes_and_no_answer_what_a_person_asks_after_the_survey(story: Story, words: str, by: str) -> None:
    await finished(story)
    if by == "Anna":
        await story.act("reply", 1, "Does the lamp light now?", agent="Anna")
    else:
        await story.hear("Does the lamp light now?", kind="echo", key="e")
    assert await story.hear(words) == []
    ticket = await story.ticket()
    assert (ticket.status, ticket.level, ticket.feedback) == (TicketStatus.OPEN, "L1", None)


async def test_whoever_thanked_and_is_silent_was_answered(story: Story) -> None:
    await story.act("reply", 1, "It comes tomorrow", agent="Anna")
    await story.hear("thanks")
    (asked,) = await story.wait(days=3)
    assert "Did our specialist help?" in asked
    assert await story.wait(days=4) == []
    assert (await story.ticket()).status is TicketStatus.RESOLVED


async def test_whoever_thanked_and_was_silent_may_still_type_that_it_did_not_help(story: Story) -> None:
    await story.act("reply", 1, "Restart it", agent="Anna")
    await story.hear("thanks")
    await story.wait(days=3)
    assert await story.wait(days=4) == []
    (said,) = await story.hear("no, nothing works")
    assert "No. 1 is open again" in said
    assert [ticket.status for ticket in await story.tickets()] == [TicketStatus.OPEN]


async def test_each_reply_is_waited_for_anew_and_no_calls_a_senior(story: Story) -> None:
    await story.act("reply", 1, "Which order?", agent="Anna")
    await story.wait(days=2)
    await story.hear("the blue order")
    await story.act("reply", 1, "Which number?", agent="Anna")
    assert await story.wait(days=2) == []
    assert len(await story.wait(days=1)) == 1
    await story.press("No, the problem remains")
    ticket = await story.ticket()
    assert (ticket.status, ticket.level) == (TicketStatus.OPEN, "L2")
    assert await story.wait(days=9) == [], "it is not the customer who is waited for"


async def test_nobody_is_let_go_for_not_answering_what_has_not_reached_him(story: Story) -> None:
    await story.act("reply", 1, "Which order?", agent="Anna")
    async with story.sessions.begin() as session:
        reply = (await session.scalars(select(Message).where(Message.author == Author.AGENT))).one()
        reply.delivery = Delivery.HELD
    assert await story.wait(days=8) == []
    assert (await story.ticket()).status is TicketStatus.WAITING


async def test_who_is_asked_late_is_given_the_time_to_answer(story: Story) -> None:
    await story.act("reply", 1, "Which order?", agent="Anna")
    async with story.sessions.begin() as session:
        reply = (await session.scalars(select(Message).where(Message.author == Author.AGENT))).one()
        reply.delivery = Delivery.HELD
    assert await story.wait(days=8) == []
    async with story.sessions.begin() as session:
        await session.execute(update(Message).where(Message.id == reply.id).values(delivery=Delivery.SENT))
    (asked,) = await story.wait(days=3)
    assert "haven't heard from you" in asked
    assert await story.wait(days=3) == []
    (said,) = await story.wait(days=1)
    assert "No. 1, as we haven't heard from you" in said


@pytest.mark.parametrize("how", ["button", "it is still broken", "no, nothing works"])
async def test_who_is_told_that_it_is_closed_opens_it_again_by_saying_that_it_is_not_settled(
    story: Story, how: str
) -> None:
    await story.act("reply", 1, "Restart it", agent="Anna")
    (said,) = await story.act("resolve", 1, agent="Anna")
    assert "has been closed" in said
    (said,) = await (story.press("No, the problem remains") if how == "button" else story.hear(how))
    assert "open again" in said
    tickets = await story.tickets()
    assert [(ticket.status, ticket.reopened) for ticket in tickets] == [(TicketStatus.OPEN, 1)]


async def test_another_question_after_the_end_meets_the_assistant(story: Story) -> None:
    await story.act("resolve", 1, agent="Anna")
    assert "My orders" in (await story.hear("where is my order"))[-1]
    assert (await story.ticket()).status is TicketStatus.RESOLVED
    await story.act("reopen", 1, agent="Anna")


async def test_what_changes_while_an_act_waits_for_its_turn_is_seen_by_it(story: Story) -> None:
    await story.hear("hello", chat="other")
    async with story.sessions.begin() as session:
        read_before = await desk.get_ticket(session, 1)
        # As if another transaction had moved it between the reading and the lock.
        moved = update(Ticket).where(Ticket.id == 1).values(conversation_id=2)
        await session.execute(moved, execution_options={"synchronize_session": False})
        assert read_before.conversation_id == 1
        said = await story.desk.reply(session, 1, "Hello", agent="Anna")
        queued = await session.scalar(select(OutboxRow.conversation_id).where(OutboxRow.message_id == said.id))
        assert (said.conversation_id, queued) == (2, 2)
    async with story.sessions.begin() as session:
        theirs = await session.scalar(select(Message.id).where(Message.conversation_id == 2).limit(1))
        read_before = await desk.get_ticket(session, 1)
        ended = update(Ticket).where(Ticket.id == 1).values(status=TicketStatus.CLOSED)
        await session.execute(ended, execution_options={"synchronize_session": False})
        assert read_before.status is TicketStatus.WAITING
        with pytest.raises(TicketStateError):
            await story.desk.edits.react(session, 1, theirs or 0, "👍", agent="Anna")


async def test_a_transfer_names_the_team_and_keeps_the_ticket(story: Story) -> None:
    (said,) = await story.act("transfer", 1, "payment", why="charged twice", agent="Anna")
    assert "our colleagues: Payments" in said
    assert (await story.ticket()).team == "payments"


async def test_who_is_passed_on_is_not_asked_whether_it_helped(story: Story) -> None:
    await story.act("reply", 1, "Sent again today", agent="Anna")
    await story.act("finish", 1, agent="Anna")
    await story.act("transfer", 1, "payment", why="charged twice", agent="Anna")
    assert await story.wait(hours=3) == []
    ticket = await story.ticket()
    assert (ticket.status, ticket.finished_at) == (TicketStatus.OPEN, None)


async def test_a_last_word_that_was_not_the_last_ends_no_measured_time(story: Story) -> None:
    await story.act("reply", 1, "Sent again today", agent="Anna")
    await story.act("finish", 1, agent="Anna")
    await story.hear("wait, one more thing about my order")
    assert (await story.ticket()).finished_at is None


async def test_where_nobody_is_at_all_no_time_is_promised_as_if_somebody_were(story: Story) -> None:
    away = "away just now; you'll get a reply here as soon as one is back, usually within"
    assert f"All our specialists for this are {away}" in story.channel.sent[-1].text
    await story.act("transfer", 1, "payment", why="charged twice", agent="Boris")
    assert f"They are {away}" in story.channel.sent[-1].text
    await story.act("resolve", 1, agent="Boris")
    await story.act("reopen", 1, agent="Boris")
    assert f"Our specialists are {away}" in story.channel.sent[-1].text
    async with story.sessions.begin() as session:
        await put_agent(session, "Anna", now=story.clock(), teams=["first-line"])
    said = await story.hear("charged twice, a person please", chat="second")
    assert "A specialist will reply here within 5 minutes" in said[-1], "Anna stands in for the team Payments"


async def test_a_queue_tells_the_place_in_it(story: Story) -> None:
    said = await story.hear("a person please", chat="second")
    assert "Ahead of you in the queue: 1." in said[-1]
    await story.hear("my order, it is urgent", chat="third")
    said = await story.hear("a person please", chat="third")
    assert [(each.team, each.priority) for each in await story.tickets()][2] == ("first-line", "urgent")
    assert "Ahead of you" not in said[-1]
    await story.wait(hours=2)
    said = await story.hear("I want a person please", chat="fourth")
    assert "Ahead of you in the queue: 3." in said[-1]


async def test_the_packet_has_everything_and_matches_its_published_schema(story: Story) -> None:
    await story.act("reply", 1, "Looking into it", agent="Anna")
    async with story.sessions.begin() as session:
        packet = await story.desk.packet(session, 1)
    found = packet.as_json()
    assert found["tried"][0]["articles"]
    assert (found["direction"], found["out_of_hours"]) == (None, False)
    assert found["summary"].startswith("Customer: “where is my order”")
    assert [clock["kind"] for clock in found["clocks"]] == ["first_response", "resolution"]
    assert [line["event"] for line in found["history"]] == ["created", "agent_replied"]
    assert found["customer"]["conversations"][0]["chat_id"] == "c"
    published = json.loads((DOCS / "packet.schema.json").read_text(encoding="utf-8"))
    assert published == Packet.model_json_schema(mode="serialization"), (
        "python -c 'from handoff.packet import Packet; import json; "
        'print(json.dumps(Packet.model_json_schema(mode="serialization"), indent=2))\' > docs/packet.schema.json'
    )


async def test_earlier_tickets_stand_in_the_card(story: Story) -> None:
    await story.act("resolve", 1, agent="Anna")
    await story.hear("a person please, about my order")
    async with story.sessions.begin() as session:
        packet = await story.desk.packet(session, 2)
    assert [earlier.ticket_id for earlier in packet.customer.tickets] == [1]
    assert packet.tried == [], "what was tried before is another episode"


async def test_who_calls_a_person_first_and_tells_the_matter_afterwards_reaches_the_right_team(story: Story) -> None:
    await story.hear("a person please", chat="late")
    ticket = await story.ticket()
    assert (ticket.topic, ticket.subject) == ("unclear", "a person please")
    (said,) = await story.hear("my card was charged twice, this is fraud", chat="late")
    ticket = await story.ticket()
    assert (ticket.topic, ticket.team, ticket.level, ticket.priority) == ("payment", "payments", "L2", "urgent")
    assert ticket.subject == "my card was charged twice, this is fraud"
    assert ticket.promised_at < ticket.created_at + timedelta(minutes=6)
    assert "Payment" in said
    assert "within 5 minutes" in said
    assert await story.hear("and the parcel from the courier is late", chat="late") == []
    assert (await story.ticket()).topic == "payment", "once it is known"


async def test_what_tells_nothing_leaves_the_route_and_a_thanks_the_subject(story: Story) -> None:
    await story.hear("a person please", chat="late")
    assert await story.hear("hello?", chat="late") == []
    assert (await story.ticket()).subject == "a person please"
    assert await story.hear("the blue lamp hums at night", chat="late") == []
    ticket = await story.ticket()
    assert (ticket.topic, ticket.subject) == ("unclear", "the blue lamp hums at night")


async def test_who_has_opened_a_ticket_keeps_it_when_its_team_changes(story: Story) -> None:
    async with story.sessions.begin() as session:
        await put_agent(session, "Anna", now=story.clock(), teams=["first-line"])
        await put_agent(session, "Boris", now=story.clock(), teams=["payments"])
    for chat in ("unseen", "seen"):
        await story.hear("a person please", chat=chat)
    await story.wait(seconds=1)
    async with story.sessions.begin() as session:
        session.add(AuditEntry(at=story.clock(), who="Anna", action="saw", ticket_id=3, details={}, address=""))
    for chat in ("unseen", "seen"):
        await story.hear("my card was charged, give the money back", chat=chat)
    unseen, seen = (await story.tickets())[1:]
    assert (unseen.team, unseen.assignee_id) == ("payments", None)
    assert (seen.team, seen.assignee_id is not None) == ("payments", True)


async def test_words_of_urgency_raise_a_live_ticket_and_an_agents_own_word_stands(story: Story) -> None:
    await story.act("reply", 1, "Hello", agent="Anna")
    await story.hear("my account was hacked right now!")
    assert (await story.ticket()).priority == "urgent"
    async with story.sessions.begin() as session:
        ticket = await desk.get_ticket(session, 1)
        await story.desk.tickets.change(session, ticket, priority="normal", agent="Anna", now=story.clock())
    await story.hear("it is urgent")
    assert (await story.ticket()).priority == "normal"


async def test_the_priority_that_an_agent_set_stands_when_the_matter_becomes_known(story: Story) -> None:
    await story.hear("a person please", chat="late")
    ticket = await story.ticket()
    async with story.sessions.begin() as session:
        found = await desk.get_ticket(session, ticket.id)
        await story.desk.tickets.change(session, found, priority="low", agent="Anna", now=story.clock())
    await story.hear("my card was charged twice, this is fraud", chat="late")
    ticket = await story.ticket()
    assert (ticket.topic, ticket.team, ticket.priority) == ("payment", "payments", "low")


async def test_a_promise_that_runs_over_the_closing_names_the_moment(story: Story) -> None:
    story.clock.ahead = datetime(2027, 3, 1, 17, 55, tzinfo=UTC) - datetime.now(UTC)  # 20:55 in Moscow
    said = (await story.hear("a person please", chat="late"))[-1]
    assert "by 09:05 tomorrow (Moscow time)" in said
    assert "minutes" not in said
    story.clock.ahead = datetime(2027, 3, 1, 20, tzinfo=UTC) - datetime.now(UTC)
    said = (await story.hear("позовите человека", chat="night"))[-1]
    assert "09:00–21:00 (МСК). Ответим здесь завтра до 09:10." in said


async def test_a_customer_who_changes_the_language_hears_one_at_a_time(story: Story) -> None:
    await story.act("resolve", 1, agent="Anna")
    await story.hear("где мой заказ?")
    async with story.sessions.begin() as session:
        conversation, ticket = await desk.get_conversation(session, 1), await desk.get_ticket(session, 1)
        assert (conversation.lang, ticket.lang) == ("ru", "en")
    await story.act("reopen", 1, agent="Anna")
    story.clock.ahead = datetime(2027, 3, 5, 15, 30, tzinfo=UTC) - datetime.now(UTC)  # Friday, 18:30 in Moscow
    (said,) = await story.act("transfer", 1, "warranty", why="it hums", agent="Anna")
    assert not re.search(r"[A-Za-z]", said), said
    await finished(story)
    labels = [option.label for option in story.channel.sent[-1].options]
    assert labels == ["Да, спасибо", "Нет, проблема осталась"]


async def test_a_transfer_tells_when_the_other_team_answers(story: Story) -> None:
    (said,) = await story.act("transfer", 1, "payment", why="charged twice", agent="Anna")
    assert "within 15 minutes" in said
    story.clock.ahead = datetime(2027, 3, 5, 15, 30, tzinfo=UTC) - datetime.now(UTC)  # Friday, 18:30 in Moscow
    await story.act("reply", 1, "Sent again today", agent="Anna")
    (said,) = await story.act("transfer", 1, "warranty", why="it hums", agent="Anna")
    assert "They're available Mon–Fri 09:00–13:00, 14:00–18:00" in said
    assert "by 09:30 on Tue 09.03" in said, "after the weekend and the holiday"


async def test_what_was_said_weeks_ago_is_no_part_of_a_new_ticket(story: Story) -> None:
    await story.hear("where is my order, the money is gone", chat="back")
    await story.wait(days=21)
    await story.hear("a person please", chat="back")
    ticket = await story.ticket()
    assert (ticket.topic, ticket.priority, ticket.subject) == ("unclear", "normal", "a person please")
    async with story.sessions.begin() as session:
        packet = await story.desk.packet(session, ticket.id)
    assert (packet.tried, packet.summary) == ([], "Customer: “a person please”.")
    assert packet.transcript[0].text.startswith("where is my order"), "for whoever reads it"


async def test_a_senior_is_promised_where_there_is_one(story: Story) -> None:
    async with story.sessions.begin() as session:
        await put_agent(session, "Anna", now=story.clock(), teams=["first-line"])
    await story.act("reply", 1, "Hello", agent="Anna")
    (said,) = await story.act("escalate", 1, details="x", urgency="low", agent="Anna")
    assert "senior" not in said
    assert "the whole team has been told" in said
    await finished(story)
    (said,) = await story.press("No, the problem remains")
    assert "senior" not in said
    async with story.sessions.begin() as session:
        await put_agent(session, "Olga", now=story.clock(), teams=["first-line"], level="supervisor")
    (said,) = await story.act("escalate", 1, details="x", urgency="low", agent="Anna")
    assert "to a senior specialist" in said


async def test_a_warm_transfer_to_a_colleague_has_a_note_for_him_and_a_word_for_the_customer(story: Story) -> None:
    async with story.sessions.begin() as session:
        await put_agent(session, "Anna", now=story.clock(), teams=["first-line"])
        boris = await put_agent(session, "Boris", now=story.clock(), teams=["first-line"])
    await story.act("reply", 1, "Hello", agent="Anna")
    (said,) = await story.act("assign", 1, boris, by="Anna", why="knows the old lamps")
    assert said.startswith("Sorry for the change: Boris is going on with your ticket No. 1")
    note = (await story.transcript())[-2]
    assert (note.kind, note.text, note.agent_name) == ("note", "→ Boris: knows the old lamps", "Anna")
    assert (await story.ticket()).assignee_id == boris.id


async def test_who_gives_his_own_ticket_away_is_not_asked_and_a_third_one_is(story: Story) -> None:
    async with story.sessions.begin() as session:
        anna = await put_agent(session, "Anna", now=story.clock(), teams=["first-line"])
        boris = await put_agent(session, "Boris", now=story.clock(), teams=["first-line"])
    await story.act("assign", 1, anna, by="Anna")
    with pytest.raises(TicketHeldError):
        await story.act("take", 1, boris, by="Olga")
    await story.act("take", 1, boris, by="Anna")
    assert (await story.ticket()).assignee_id == boris.id


@pytest.mark.parametrize("said", ["a last word", "a question"])
async def test_the_next_word_is_the_colleagues_to_whom_a_customer_is_passed_on(story: Story, said: str) -> None:
    async with story.sessions.begin() as session:
        await put_agent(session, "Anna", now=story.clock(), teams=["first-line"])
        boris = await put_agent(session, "Boris", now=story.clock(), teams=["first-line"])
    await story.act("reply", 1, "Sent again today", agent="Anna")
    if said == "a last word":
        await story.act("finish", 1, agent="Anna")
    await story.act("assign", 1, boris, by="Anna", why="knows the old lamps")
    ticket = await story.ticket()
    assert (ticket.status, ticket.assignee_id) == (TicketStatus.OPEN, boris.id)
    assert await story.wait(days=8) == [], "it is not the customer who is waited for"
    async with story.sessions.begin() as session:
        packet = await story.desk.packet(session, 1)
    assert packet.history[-1].event == "warned", "Boris is reminded of it"


async def test_a_note_for_whoever_has_the_ticket_already_is_kept(story: Story) -> None:
    async with story.sessions.begin() as session:
        anna = await put_agent(session, "Anna", now=story.clock(), teams=["first-line"])
    await story.act("assign", 1, anna, by="Olga")
    for _ in range(2):
        assert await story.act("assign", 1, anna, by="Olga", why="he called, too") == []
    assert [each.text for each in await story.transcript() if each.kind == "note"] == ["→ Anna: he called, too"]


async def test_who_writes_in_another_channel_is_seen_there_by_whoever_has_his_ticket(story: Story) -> None:
    phone = "+79161234567"
    await story.hear("hello", phone=phone)
    await story.hear("where is my order, I wrote in the other chat", chat="other", phone=phone)
    await story.hear("order 17, please", chat="other", phone=phone)
    async with story.sessions.begin() as session:
        first = await story.desk.packet(session, 1)
    assert [line.event for line in first.history].count("wrote_elsewhere") == 1
    assert first.elsewhere[0].text == "where is my order, I wrote in the other chat"
    assert "My orders" in " ".join(each.text for each in first.elsewhere), "the assistant's words, too"
    await story.hear("a person please", chat="other", phone=phone)
    async with story.sessions.begin() as session:
        second = await story.desk.packet(session, 2)
    assert [each.text for each in second.elsewhere if each.author is Author.CUSTOMER][:2] == [
        "where is my order",
        "a person please",
    ]
