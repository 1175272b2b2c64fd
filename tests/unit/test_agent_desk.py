"""What customers hear of what people do, told as stories on a moved clock."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from databases import MakeDatabase
from test_turns import World

from bot.database import migrate
from bot.desk.agent_desk import ELSEWHERE, SURVEY
from bot.timers import Timers
from handoff import desk
from handoff.lifecycle import TicketStatus
from handoff.packet import Packet
from handoff.records import Feedback, Owner, Ticket
from handoff.tickets import put_agent
from handoff.window import set_closing

DOCS = Path(__file__).parents[2] / "docs"


class Story(World):
    """A world in which agents act and time passes."""

    async def wait(self, **time: float) -> list[str]:
        """Let time pass; what the customer receives by itself."""
        before = len(self.channel.sent)
        self.clock.ahead += timedelta(**time)
        timers = Timers(self.sessions, self.clock)
        timers.register(SURVEY, self.desk.fire_survey)
        timers.register(ELSEWHERE, self.desk.fire_elsewhere)
        await timers.fire_due()
        async with self.sessions.begin() as session:
            await self.desk.tick(session)
        await self.assistant.drain()
        return [message.text for message in self.channel.sent[before:]]

    async def act(self, verb: str, *args: object, **how: object) -> list[str]:
        """An agent does something; what the customer receives of it."""
        before = len(self.channel.sent)
        async with self.sessions.begin() as session:
            await getattr(self.desk, verb)(session, *args, **how)
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
    await story.act("finish", 1, agent="Anna")
    await story.wait(hours=1)
    (said,) = await story.press("No, the problem remains")
    assert "senior" in said
    ticket = await story.ticket()
    assert (ticket.status, ticket.level, ticket.feedback) == (TicketStatus.OPEN, "L2", Feedback.NOT_HELPED)
    assert await story.owner() is Owner.PERSON
    assert await story.hear("it is still broken") == [], "the assistant does not talk over the agent"


async def test_the_words_of_a_button_may_be_typed(story: Story) -> None:
    await story.act("finish", 1, agent="Anna")
    await story.wait(hours=1)
    await story.hear("yes, thank you!")
    assert (await story.ticket()).feedback is Feedback.HELPED


async def test_silence_is_reminded_of_once_and_then_settled_but_not_confirmed(story: Story) -> None:
    await story.act("finish", 1, agent="Anna")
    assert len(await story.wait(hours=1)) == 1
    (reminder,) = await story.wait(hours=20)
    assert "reminder" in reminder
    assert await story.wait(hours=28) == []
    ticket = await story.ticket()
    assert (ticket.status, ticket.feedback) == (TicketStatus.RESOLVED, None)


async def test_who_writes_before_the_survey_is_not_asked(story: Story) -> None:
    await story.act("finish", 1, agent="Anna")
    await story.hear("wait, one more thing about my order")
    assert (await story.ticket()).status is TicketStatus.OPEN
    assert await story.wait(hours=5) == []


async def test_an_answer_after_the_matter_was_settled_still_counts(story: Story) -> None:
    await story.act("finish", 1, agent="Anna")
    await story.wait(hours=1)
    await story.act("resolve", 1, agent="Anna")
    await story.press("No, the problem remains")
    assert (await story.ticket()).status is TicketStatus.OPEN
    assert await story.owner() is Owner.PERSON


async def test_an_old_button_after_no_changes_nothing(story: Story) -> None:
    await story.act("finish", 1, agent="Anna")
    await story.wait(hours=1)
    await story.press("No, the problem remains")
    await story.press("Yes, thank you")
    ticket = await story.ticket()
    assert (ticket.status, ticket.feedback) == (TicketStatus.OPEN, Feedback.NOT_HELPED)


async def test_who_was_asked_and_asked_back_is_not_asked_again(story: Story) -> None:
    await story.act("finish", 1, agent="Anna")
    await story.wait(hours=1)
    await story.hear("wait, one more thing about my order")
    await story.press("Yes, thank you")
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
    await story.act("finish", 1, agent="Anna")
    assert await story.wait(hours=9) == [], "nothing ran for so long"
    ticket = await story.ticket()
    assert (ticket.status, ticket.asked_at) == (TicketStatus.RESOLVED, None)


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


async def test_a_day_is_promised_as_the_shop_counts_days(story: Story) -> None:
    story.desk.zone = ZoneInfo("Europe/Moscow")
    until = datetime(2027, 3, 4, 22, 30, tzinfo=UTC)
    (said,) = await story.act("hold", 1, task="DEV-7", until=until, agent="Anna")
    assert "05.03" in said


async def test_a_transfer_names_the_team_and_keeps_the_ticket(story: Story) -> None:
    (said,) = await story.act("transfer", 1, "payment", why="charged twice", agent="Anna")
    assert "our colleagues: Payments" in said
    assert (await story.ticket()).team == "payments"


async def test_who_is_passed_on_is_not_asked_whether_it_helped(story: Story) -> None:
    await story.act("finish", 1, agent="Anna")
    await story.act("transfer", 1, "payment", why="charged twice", agent="Anna")
    assert await story.wait(hours=3) == []
    ticket = await story.ticket()
    assert (ticket.status, ticket.finished_at) == (TicketStatus.OPEN, None)


async def test_a_last_word_that_was_not_the_last_ends_no_measured_time(story: Story) -> None:
    await story.act("finish", 1, agent="Anna")
    await story.hear("wait, one more thing about my order")
    assert (await story.ticket()).finished_at is None


async def test_a_queue_tells_the_place_in_it(story: Story) -> None:
    said = await story.hear("a person please", chat="second")
    assert "Ahead of you in the queue: 1." in said[-1]


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
