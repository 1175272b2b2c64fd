"""Quotes and edits in both directions, customers who can't be reached, and people who answer past the desk."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from databases import MakeDatabase
from test_agent_desk import Story

from bot.database import migrate
from bot.errors import DeliveryError, EditRefusedError, UnreachableError
from handoff.lifecycle import TicketStatus
from handoff.records import Author, Delivery, Message, Owner, Reason
from handoff.staff import put_agent


@pytest.fixture
async def story(tmp_path: Path, make_database: MakeDatabase) -> AsyncIterator[Story]:
    made = Story(tmp_path, database=make_database())
    await migrate(made.engine)
    await made.hear("where is my order", platform_id="in-1")
    await made.hear("a person please", platform_id="in-2")
    yield made
    await made.engine.dispose()


async def last(story: Story) -> Message:
    return (await story.transcript())[-1]


class TestQuotes:
    async def test_what_the_customer_answers_to_stands_with_his_words(self, story: Story) -> None:
        await story.act("reply", 1, "Is it order 12 or 13?", agent="Anna")
        asked = await last(story)
        await story.hear("the second", refers_to=asked.external_id, context={"quote": "13", "forwarded": True})
        said = await last(story)
        assert (said.reply_to_id, said.context) == (asked.id, {"quote": "13", "forwarded": True})
        async with story.sessions.begin() as session:
            packet = await story.desk.packet(session, 1)
        assert packet.transcript[-1].reply_to_id == asked.id

    async def test_a_reaction_knows_its_message(self, story: Story) -> None:
        await story.act("reply", 1, "Sent again", agent="Anna")
        sent = await last(story)
        await story.hear("👍", kind="reaction", refers_to=sent.external_id, key="r")
        assert (await last(story)).reply_to_id == sent.id

    async def test_an_unknown_message_costs_nothing(self, story: Story) -> None:
        await story.hear("this one", refers_to="nobody-knows", context={"quote": "…"})
        assert (await last(story)).reply_to_id is None

    async def test_an_agent_answers_a_message_of_the_customers(self, story: Story) -> None:
        first = (await story.transcript())[0]
        await story.act("reply", 1, "About this one", agent="Anna", quote=first.id)
        assert story.channel.sent[-1].quote == "in-1"

    async def test_a_note_or_another_conversation_is_not_quoted(self, story: Story) -> None:
        await story.act("note", 1, "secret", agent="Anna")
        noted = await last(story)
        await story.act("reply", 1, "Hello", agent="Anna", quote=noted.id)
        assert story.channel.sent[-1].quote is None


class TestEdits:
    async def test_what_was_sent_is_changed_and_keeps_what_it_said(self, story: Story) -> None:
        await story.act("reply", 1, "It costs 100", agent="Anna")
        sent = await last(story)
        await story.act("edits.edit", 1, sent.id, "It costs 1000", agent="Anna")
        assert story.channel.edits == [(sent.external_id, "It costs 1000")]
        changed = await last(story)
        assert (changed.text, changed.edits[0]["text"], changed.edits[0]["by"]) == (
            "It costs 1000",
            "It costs 100",
            "Anna",
        )
        assert changed.delivery is Delivery.SENT
        assert len([m for m in story.channel.sent if m.text.startswith("It costs")]) == 1, "it was not sent again"

    async def test_what_still_waits_is_changed_before_it_goes(self, story: Story) -> None:
        story.channel.refusals = [DeliveryError("502")]
        await story.act("reply", 1, "It costs 100", agent="Anna")
        await story.act("edits.edit", 1, (await last(story)).id, "It costs 1000", agent="Anna")
        await story.wait(seconds=10)
        assert [m.text for m in story.channel.sent if m.text.startswith("It costs")] == ["It costs 1000"]
        assert story.channel.edits == []

    async def test_a_refused_edit_is_tried_again_and_told_when_it_never_arrives(self, story: Story) -> None:
        await story.act("reply", 1, "a", agent="Anna")
        sent = await last(story)
        story.channel.refusals = [DeliveryError("502"), DeliveryError("message can't be edited", permanent=True)]
        await story.act("edits.edit", 1, sent.id, "b", agent="Anna")
        assert await story.wait(seconds=10) == []
        noted = await last(story)
        assert (noted.kind, noted.author) == ("note", Author.SYSTEM)
        assert "as it was before" in noted.text

    @pytest.mark.parametrize("text", ["", "x" * 5000])
    async def test_what_cannot_be_said_is_refused_with_the_reason(self, story: Story, text: str) -> None:
        await story.act("reply", 1, "a", agent="Anna")
        with pytest.raises(EditRefusedError):
            await story.act("edits.edit", 1, (await last(story)).id, text, agent="Anna")

    async def test_nobody_changes_the_customers_words_or_the_assistants(self, story: Story) -> None:
        for message in await story.transcript():
            with pytest.raises(EditRefusedError, match="not one of an agent's"):
                await story.act("edits.edit", 1, message.id, "changed", agent="Anna")

    async def test_an_emoji_is_no_message_to_change(self, story: Story) -> None:
        await story.act("reply", 1, "a", agent="Anna")
        theirs = (await story.transcript())[0]
        async with story.sessions.begin() as session:
            emoji = await story.desk.edits.react(session, 1, theirs.id, "👍", agent="Anna")
            assert emoji is not None
            with pytest.raises(EditRefusedError):
                await story.desk.edits.edit(session, 1, emoji.id, "Not an emoji", agent="Anna")

    async def test_where_the_platform_cannot_it_is_said_what_to_do(self, story: Story) -> None:
        await story.act("reply", 1, "a", agent="Anna")
        story.desk.edits._capabilities = {}
        with pytest.raises(EditRefusedError, match="send a correction"):
            await story.act("edits.edit", 1, (await last(story)).id, "b", agent="Anna")


async def test_an_agent_who_looks_marks_the_customers_last_message_as_read(story: Story) -> None:
    await story.assistant.seen(1)
    assert story.channel.marks == ["in-2"]


class TestWhoCannotBeReached:
    async def test_a_refusal_holds_what_is_written_until_he_is_back(self, story: Story) -> None:
        story.channel.refusals = [UnreachableError("Forbidden: bot was blocked by the user", permanent=True)]
        assert await story.act("reply", 1, "one", agent="Anna") == []
        assert await story.act("reply", 1, "two", agent="Anna") == []
        async with story.sessions.begin() as session:
            packet = await story.desk.packet(session, 1)
        assert packet.conversation.blocked_why == "Forbidden: bot was blocked by the user"
        assert [m.delivery for m in packet.transcript if m.author is Author.AGENT] == ["held", "held"]
        assert await story.hear(kind="unblocked", key="back") == ["one", "two"]
        async with story.sessions.begin() as session:
            assert (await story.desk.packet(session, 1)).conversation.blocked_at is None

    async def test_what_was_held_between_its_parts_goes_on_with_the_next_one(self, story: Story) -> None:
        story.channel.capabilities = replace(story.channel.capabilities, max_text_chars=20)
        words = "The first part here. The second part here. The third part here."
        story.channel.failure = UnreachableError("Forbidden: bot was blocked by the user", permanent=True)
        story.channel.fail_after = len(story.channel.sent) + 1
        (first,) = await story.act("reply", 1, words, agent="Anna")
        (held,) = [m for m in await story.transcript() if m.text == words]
        assert (held.delivery, held.parts_sent) == (Delivery.HELD, 1)
        async with story.sessions.begin() as session:
            with pytest.raises(EditRefusedError):
                await story.desk.edits.edit(session, 1, held.id, "Another text", agent="Anna")
        rest = await story.hear(kind="unblocked", key="back")
        assert " ".join([first, *rest]) == words

    async def test_what_is_blocked_before_it_goes_on_after_a_fault_keeps_its_place(self, story: Story) -> None:
        story.channel.capabilities = replace(story.channel.capabilities, max_text_chars=20)
        words = "The first part here. The second part here. The third part here."
        story.channel.fail_after = len(story.channel.sent) + 2
        sent = await story.act("reply", 1, words, agent="Anna")
        assert len(sent) == 2
        await story.hear("the customer blocked the bot", kind="blocked", key="blocked")
        story.clock.advance(60)
        await story.assistant.drain()
        assert " ".join([*sent, *await story.hear(kind="unblocked", key="back")]) == words

    async def test_the_platforms_word_stops_the_sends_and_a_message_of_his_lets_them_go_on(self, story: Story) -> None:
        await story.hear("the customer blocked the bot", kind="blocked", key="blocked")
        assert await story.act("reply", 1, "one", agent="Anna") == []
        assert await story.hear("I am here again") == ["one"]
        notes = [m.text for m in await story.transcript() if m.kind == "note"]
        assert len(notes) == 2, "gone and back are each told once"

    async def test_an_answer_of_the_assistants_is_not_given_after_days(self, story: Story) -> None:
        await story.hear("where is my order", chat="d", key="1")
        await story.hear("the customer blocked the bot", chat="d", kind="blocked", key="2")
        assert await story.hear("where is my order", chat="d", key="3"), "he wrote, so he is there"


class TestPastTheDesk:
    async def test_a_person_who_answers_from_the_phone_has_the_conversation(self, story: Story) -> None:
        await story.hear("hello", chat="p", key="1")
        await story.hear("Good day, this is Olga", chat="p", kind="echo", key="2")
        assert await story.hear("where is my order", chat="p", key="3") == [], "the assistant is silent"
        ticket = (await story.tickets())[-1]
        assert (ticket.reason, ticket.status) == (Reason.ANSWERED_ELSEWHERE, TicketStatus.OPEN)
        assert ticket.first_reply_at is not None

    async def test_it_ends_by_itself_when_nobody_owes_anything(self, story: Story) -> None:
        await story.hear("hello", chat="p", key="1")
        await story.hear("Good day", chat="p", kind="echo", key="2")
        assert await story.wait(hours=11) == []
        assert (await story.tickets())[-1].status is TicketStatus.WAITING
        assert await story.wait(hours=2) == []
        assert (await story.tickets())[-1].status is TicketStatus.CLOSED
        assert await story.hear("where is my order", chat="p", key="3")

    async def test_a_customer_who_waits_is_not_given_back(self, story: Story) -> None:
        await story.hear("hello", chat="p", key="1")
        await story.hear("Good day", chat="p", kind="echo", key="2")
        await story.hear("and my money?", chat="p", key="3")
        await story.wait(hours=13)
        assert (await story.tickets())[-1].status is TicketStatus.OPEN

    async def test_who_says_nothing_more_is_let_go_also_where_an_agent_has_the_ticket(self, story: Story) -> None:
        async with story.sessions.begin() as session:
            anna = await put_agent(session, "Anna", now=story.clock(), teams=["first-line"])
        await story.hear("hello", chat="p", key="1")
        await story.hear("Good day", chat="p", kind="echo", key="2")
        number = (await story.tickets())[-1].id
        await story.act("assign", number, anna, by="Anna")
        assert await story.wait(hours=13) == []
        assert (await story.tickets())[-1].status is TicketStatus.WAITING, "she may go on with it"
        (asked,) = await story.wait(days=3)
        assert "haven't heard from you" in asked
        (said,) = await story.wait(days=4)
        assert f"No. {number}, as we haven't heard from you" in said

    async def test_in_a_live_ticket_it_is_the_agents_answer(self, story: Story) -> None:
        await story.hear("On it", kind="echo", key="e")
        (ticket,) = await story.tickets()
        assert (ticket.status, ticket.reason) == (TicketStatus.WAITING, Reason.ASKED_FOR_PERSON)
        assert await story.owner() is Owner.PERSON

    async def test_a_change_of_an_earlier_message_takes_nothing(self, story: Story) -> None:
        await story.hear("hello", chat="p", key="1")
        await story.hear("Good day!", chat="p", kind="echo", key="2", refers_to="x")
        assert await story.hear("where is my order", chat="p", key="3")
