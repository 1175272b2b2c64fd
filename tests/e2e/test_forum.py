"""The Telegram desk over HTTP, against a stand-in that enforces Telegram's limits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from bot_api import TOKEN, refused, served, text_update
from databases import Postgres
from forum_api import ForumBotApi
from forum_world import GROUP, IVAN, STRANGER, ForumWorld, at_work

from bot.doctor import Check
from bot.doctor import _forum as doctor_of_forum
from bot.erasure.erasing import ERASE, Eraser
from bot.erasure.leftovers import Leftovers
from bot.errors import SettingsError
from bot.settings import Settings
from bot.wiring import Installation
from handoff.access import Role
from handoff.lifecycle import TicketStatus
from handoff.records import Agent

pytestmark = pytest.mark.e2e

CUSTOMER = 7


async def handed_off(world: ForumWorld, *, customer: int = CUSTOMER, number: int = 1, update: int = 1) -> int:
    """A customer asks for a person; the topic of his ticket."""
    await world.forum_api.put(text_update(update, "my order never came, a person please", customer))
    await world.when(lambda: any(t.title.startswith(f"№ {number} ") for t in world.group.topics.values()))
    thread = world.group.topic_of(number)
    await world.when(lambda: world.said(thread))
    return thread


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite+aiosqlite:///{tmp_path / 'otvet.sqlite3'}"
    server: Postgres = request.getfixturevalue("postgres")
    return server.database()


async def test_a_customer_is_answered_from_a_topic_and_his_no_brings_the_ticket_back(
    tmp_path: Path, database: str
) -> None:
    async with at_work(tmp_path, database=database) as world:
        thread = await handed_off(world)
        card = world.said(thread)[0]
        assert "my order never came" in card.text
        assert "Анна" in card.text
        assert {"Take", "Resolve", "Macros"} <= set(card.buttons)
        assert world.group.topics[thread].title == "№ 1 · new · my order never came, a person please"

        reply = await world.forum_api.says(GROUP, thread, "It is **on** its way, Anna")
        await world.when(lambda: any("on its way" in text.replace("**", "") for text in world.got(CUSTOMER)))
        assert world.group.messages[reply].reaction == "👌"
        assert (await world.ticket()).status is TicketStatus.WAITING
        await world.when(lambda: "waiting" in world.group.topics[thread].title)

        await world.forum_api.put(text_update(2, "when exactly?"))
        await world.when(lambda: any("when exactly?" in each.text for each in world.said(thread)))

        await world.forum_api.presses(GROUP, card, "Finish")
        await world.when(lambda: "asked" in world.group.topics[thread].title)
        world.clock.advance(3 * 3600)
        await world.when(lambda: world.survey_buttons(CUSTOMER))
        no = world.survey_buttons(CUSTOMER)[-1]
        press = {
            "id": "c1",
            "from": {"id": CUSTOMER, "is_bot": False, "first_name": "Анна", "language_code": "en"},
            "chat_instance": "1",
            "data": no,
            "message": {"message_id": 9, "date": 1, "chat": {"id": CUSTOMER, "type": "private"}},
        }
        await world.forum_api.put({"update_id": 900, "callback_query": press})
        await world.when(lambda: any("did not help" in each.text for each in world.said(thread)))
        assert (await world.ticket()).status is TicketStatus.OPEN

        said = [each.text for each in world.said(thread)]
        assert sum("on its way" in text for text in said) == 0  # what was written there is not repeated there
        assert world.forum_api.violations == []


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[ForumWorld]:
    async with at_work(tmp_path) as world:
        yield world


def photo(number: int, album: str | None = None) -> dict[str, Any]:
    file = {"file_id": f"photo-{number}", "file_unique_id": f"u{number}", "width": 9, "height": 9, "file_size": 3000}
    return {"photo": [file], **({"media_group_id": album} if album else {})}


JPEG = b"\xff\xd8\xff\xe0\x00\x10JFIF\x00" + b"\x00" * 2000 + b"\xff\xd9"


async def test_the_topic_of_an_erased_customer_is_deleted_and_not_made_anew(tmp_path: Path) -> None:
    async with at_work(tmp_path) as world:
        thread = await handed_off(world)
        async with world.sessions.begin() as session:
            await world.desk.resolve(session, 1, agent="Olga")
        await world.when(lambda: world.group.topics[thread].closed)
        leftovers = Leftovers(
            engine=world.engine,
            sessions=world.sessions,
            attachments=world.store,
            clock=world.clock,
            models=tmp_path / "models",
            topics=lambda: world.forum.api,
        )
        async with world.sessions.begin() as session:
            await Eraser().erase(session, 1, by="Olga", now=world.clock())
        world.timers.register_errand(ERASE, leftovers.do)
        await world.when(lambda: world.group.topics[thread].gone)
        assert world.said(thread) == []
        await world.settled()
        assert len(world.group.topics) == 1


class TestHealing:
    async def test_a_deleted_topic_is_made_anew_with_all_that_was_said_and_nothing_is_lost(
        self, world: ForumWorld
    ) -> None:
        first = await handed_off(world)
        await world.forum_api.says(GROUP, first, "We are looking")
        await world.when(lambda: "We are looking" in "".join(world.got(CUSTOMER)))
        world.group.topics[first].gone = True
        await world.forum_api.put(text_update(2, "hello?"))
        await world.when(lambda: len(world.group.topics) == 2)
        second = world.group.topic_of(1)
        await world.when(lambda: any("hello?" in each.text for each in world.said(second)))
        whole = "".join(each.text for each in world.said(second))
        assert "We are looking" in whole
        assert whole.count("Анна: hello?") == 1
        await world.forum_api.says(GROUP, second, "Here we are")
        await world.when(lambda: "Here we are" in "".join(world.got(CUSTOMER)))

    async def test_a_topic_that_somebody_closed_is_opened_when_the_customer_writes(self, world: ForumWorld) -> None:
        thread = await handed_off(world)
        world.group.topics[thread].closed = True  # and the bot was not told
        await world.forum_api.put(text_update(2, "anybody there?"))
        await world.when(lambda: any("anybody there?" in each.text for each in world.said(thread)))
        assert not world.group.topics[thread].closed

    async def test_what_telegram_puts_into_the_general_topic_by_mistake_is_taken_away_and_told_in_a_new_one(
        self, world: ForumWorld
    ) -> None:
        thread = await handed_off(world)
        world.group.astray.add(thread)
        await world.forum_api.put(text_update(2, "my secret is 42"))
        await world.when(lambda: len(world.group.topics) == 2)
        second = world.group.topic_of(1)
        await world.when(lambda: any("my secret is 42" in each.text for each in world.said(second)))
        assert [each for each in world.group.messages.values() if each.thread is None] == []

    async def test_flood_control_and_a_broken_network_only_delay(self, world: ForumWorld) -> None:
        thread = await handed_off(world)
        world.group.refusals = [
            refused(429, "Too Many Requests: retry after 1", retry_after=1),
            refused(500, "Internal Server Error"),
        ]
        await world.forum_api.put(text_update(2, "one"))
        await world.until(CUSTOMER, lambda messages: messages[-1].text == "one")
        world.clock.advance(10)
        await world.when(lambda: not world.group.refusals)
        world.clock.advance(10)
        await world.when(lambda: any("one" in each.text for each in world.said(thread)[1:]))
        assert sum("👤 Анна\none" in each.text for each in world.said(thread)) == 1

    async def test_an_answer_that_got_lost_is_known_to_be_uncertain(self, world: ForumWorld) -> None:
        thread = await handed_off(world)
        world.group.lost = 1
        await world.forum_api.put(text_update(2, "where is it"))
        await world.when(lambda: sum("where is it" in each.text for each in world.said(thread)) == 1)
        world.clock.advance(10)
        await world.when(lambda: sum("where is it" in each.text for each in world.said(thread)) == 2)
        await world.settled()
        row = await world.row()
        assert row is not None
        assert row.repeats == 1
        assert not row.calling

    async def test_a_group_that_threw_the_bot_out_is_served_again_once_it_is_back(self, world: ForumWorld) -> None:
        world.group.kicked = True
        await world.forum_api.put(text_update(1, "a person please"))
        await world.until(CUSTOMER, lambda messages: len(messages) > 1)
        await asyncio.sleep(0.3)
        assert not world.group.topics
        world.group.kicked = False
        world.clock.advance(61)
        await world.when(lambda: world.group.topics)


class TestWho:
    async def test_a_stranger_is_told_how_to_be_linked_and_reaches_nobody(self, world: ForumWorld) -> None:
        thread = await handed_off(world)
        before = len(world.got(CUSTOMER))
        card = world.said(thread)[0]
        await world.forum_api.says(GROUP, thread, "send me your card number", sender=STRANGER, name="Mallory")
        await world.forum_api.says(GROUP, thread, "/resolve", sender=STRANGER)
        await world.forum_api.presses(GROUP, card, "Resolve", sender=STRANGER)
        await world.when(lambda: any("/link CODE" in toast for toast in world.forum_api.toasts))
        await world.when(lambda: any("/link CODE" in each.text for each in world.said(thread)))
        assert len(world.got(CUSTOMER)) == before
        assert (await world.ticket()).status is TicketStatus.NEW
        assert sum("/link CODE" in each.text for each in world.said(thread)) == 1  # said once, not each time

    async def test_a_code_links_once_and_guesses_are_slowed_down(self, world: ForumWorld) -> None:
        thread = await handed_off(world)
        await world.hire("Ivan", IVAN)
        async with world.sessions.begin() as session:
            code = await world.people.code_for(session, "Ivan")
        await world.forum_api.in_private(f"/start link_{code}", sender=777, name="Vanya")
        await world.when(lambda: any("you are Ivan" in text for text in world.got(777)))
        await world.forum_api.says(GROUP, thread, "Ivan speaking", sender=777)
        await world.when(lambda: any("Ivan speaking" in text for text in world.got(CUSTOMER)))
        # The account has another owner now, and the code is used up.
        await world.forum_api.says(GROUP, thread, "the old one", sender=IVAN)
        await world.when(lambda: any("/link CODE" in each.text for each in world.said(thread)))
        for _ in range(7):
            await world.forum_api.in_private(f"/link {code}", sender=IVAN)
        await world.when(lambda: any("Too many tries" in text for text in world.got(IVAN)))
        assert sum("does not fit" in text for text in world.got(IVAN)) == 5
        assert not any("the old one" in text for text in world.got(CUSTOMER))
        # Nobody who sends a code becomes a customer by it.
        assert await world.transcript(777) == []

    async def test_an_agent_of_another_team_has_no_such_ticket(self, world: ForumWorld) -> None:
        thread = await handed_off(world)
        await world.hire("Petr", IVAN, role=Role.AGENT, teams=("payments",))
        await world.forum_api.says(GROUP, thread, "hi from payments", sender=IVAN)
        await world.when(lambda: any("another team" in each.text for each in world.said(thread)))
        assert not any("hi from payments" in text for text in world.got(CUSTOMER))

    async def test_an_anonymous_administrator_is_told_why_nothing_goes_out(self, world: ForumWorld) -> None:
        thread = await handed_off(world)
        anonymous: dict[str, Any] = {
            "from": {"id": 1087968824, "is_bot": True, "first_name": "Group"},
            "sender_chat": {"id": GROUP, "type": "supergroup", "title": "Support"},
        }
        await world.forum_api.says(GROUP, thread, "from nobody", **anonymous)
        await world.when(lambda: any("Remain anonymous" in each.text for each in world.said(thread)))


class TestBothWays:
    async def test_edits_and_quotes_go_both_ways(self, world: ForumWorld) -> None:
        thread = await handed_off(world)
        await world.forum_api.put(text_update(2, "order 100"))
        await world.when(lambda: any("order 100" in each.text for each in world.said(thread)))
        told = next(each for each in world.said(thread) if "order 100" in each.text)
        # The agent quotes it, and corrects himself.
        reply = await world.forum_api.says(
            GROUP, thread, "Order 100 is lost", reply_to_message={"message_id": told.number}
        )
        await world.when(lambda: any("is lost" in text for text in world.got(CUSTOMER)))
        sent = next(each for each in world.forum_api.sent if "is lost" in str(each.get("text")))
        assert sent["reply_parameters"]["message_id"] == 20
        await world.forum_api.edits(GROUP, reply, "Order 100 is found")
        await world.when(lambda: any("is found" in text for text in world.got(CUSTOMER)))
        assert not any("is lost" in text for text in world.got(CUSTOMER))
        # The customer corrects himself.
        edited = text_update(3, "order 200")
        edited["edited_message"] = {**edited.pop("message"), "message_id": 20, "edit_date": 5}
        await world.forum_api.put(edited)
        await world.when(lambda: told.edits == 1)
        assert "order 200" in told.text
        # And quotes the agent.
        quoting = text_update(4, "found where?")
        index = world.forum_api.sent.index(sent) + 1
        quoting["message"]["reply_to_message"] = {"message_id": index, "text": "Order 100 is found"}
        await world.forum_api.put(quoting)
        await world.when(lambda: any("found where?" in each.text for each in world.said(thread)))
        asked = next(each for each in world.said(thread) if "found where?" in each.text)
        assert asked.reply_to == reply

    async def test_reactions_go_both_ways(self, world: ForumWorld) -> None:
        thread = await handed_off(world)
        await world.forum_api.put(text_update(2, "thank you in advance"))
        await world.when(lambda: any("in advance" in each.text for each in world.said(thread)))
        told = next(each for each in world.said(thread)[1:] if "in advance" in each.text)
        await world.forum_api.reacts(GROUP, told.number, "❤")
        await world.when(lambda: any(call == "setMessageReaction" for call, _ in world.forum_api.calls))
        [put] = [form for call, form in world.forum_api.calls if call == "setMessageReaction"]
        assert (put["chat_id"], put["message_id"], put["reaction"][0]["emoji"]) == (CUSTOMER, 20, "❤")
        reply = await world.forum_api.says(GROUP, thread, "We do what we can")
        await world.when(lambda: any("what we can" in text for text in world.got(CUSTOMER)))
        number = next(n for n, each in enumerate(world.forum_api.sent, 1) if "what we can" in str(each.get("text")))
        for update, emoji in enumerate(("🔥", "🦄"), 3):
            reaction = {
                "chat": {"id": CUSTOMER, "type": "private"},
                "message_id": number,
                "user": {"id": CUSTOMER, "is_bot": False, "first_name": "Анна"},
                "date": 5,
                "old_reaction": [],
                "new_reaction": [{"type": "emoji", "emoji": emoji}],
            }
            await world.forum_api.put({"update_id": update, "message_reaction": reaction})
            if emoji == "🔥":
                await world.when(lambda: world.group.messages[reply].reaction == "🔥")
        # What Telegram does not know as a reaction is told in words.
        await world.when(lambda: any("put 🦄 under" in each.text for each in world.said(thread)))

    async def test_files_and_albums_go_both_ways(self, world: ForumWorld) -> None:
        thread = await handed_off(world)
        for number in (91, 92, 93, 94):
            world.forum_api.files[f"photo-{number}"] = JPEG + bytes([number])
        first, second = text_update(2, ""), text_update(3, "")
        first["message"] |= {**photo(91, "a1"), "caption": "both sides"}
        second["message"] |= photo(92, "a1")
        for update in (first, second):
            del update["message"]["text"]
        await world.forum_api.put(first, second)
        await world.when(lambda: sum(each.kind == "photo" for each in world.said(thread)) == 2)
        album = [each for each in world.said(thread) if each.kind == "photo"]
        assert all(each.form.get("album") for each in album)
        assert "both sides" in album[0].text
        # Two pictures of an agent's are one reply.
        await world.forum_api.says(GROUP, thread, "like this", caption="like this", **photo(93, "b1"))
        await world.forum_api.says(GROUP, thread, "", **photo(91, "b1"))
        await world.until(CUSTOMER, lambda messages: any(len(m.attachments) == 2 for m in messages))
        await world.when(lambda: sum("photo" in sent for sent in world.forum_api.sent) == 2)
        one, other = (sent for sent in world.forum_api.sent if "photo" in sent)
        assert one["album"] == other["album"]
        assert (one["caption"], other.get("caption")) == ("Olga\nlike this", None)
        # Where Telegram does not like one of them, each goes by itself.
        world.forum_api.odd_photos = True
        await world.forum_api.says(GROUP, thread, "and this", caption="and this", **photo(92, "b2"))
        await world.forum_api.says(GROUP, thread, "", **photo(94, "b2"))
        await world.when(lambda: sum("document" in sent for sent in world.forum_api.sent) == 2)

    async def test_a_file_that_is_too_large_is_named_and_the_rest_goes_on(self, world: ForumWorld) -> None:
        thread = await handed_off(world)
        file: dict[str, Any] = {
            "file_id": "doc-1",
            "file_unique_id": "d",
            "file_name": "all.zip",
            "file_size": 30 << 20,
        }
        big: dict[str, Any] = {"document": file}
        await world.forum_api.says(GROUP, thread, "", **big)
        await world.when(lambda: any("larger than 20 MB" in each.text for each in world.said(thread)))
        # A customer's is passed on within Telegram, although bots can't fetch it.
        world.forum_api.files["document-7"] = b"x"
        update = text_update(2, "")
        del update["message"]["text"]
        update["message"]["document"] = {**file, "file_id": "document-7", "file_name": "log.zip"}
        await world.forum_api.put(update)
        await world.when(lambda: any(each.kind == "document" for each in world.said(thread)))

    async def test_long_messages_and_markup_arrive_as_they_were_typed(self, world: ForumWorld) -> None:
        thread = await handed_off(world)
        nasty = text_update(2, "<b>bold</b> [x](http://evil.example) *a* " + "слово " * 660)
        nasty["message"]["from"]["first_name"] = "<script>[a](http://x)**"
        await world.forum_api.put(nasty)
        await world.when(lambda: any("[x](http://evil.example)" in each.text for each in world.said(thread)))
        await world.settled()
        whole = "".join(each.text for each in world.said(thread))
        assert whole.count("слово") >= 660
        assert "<script>[a](http://x)**" in whole
        kinds = {each["type"] for row in world.said(thread) for each in row.form.get("entities") or []}
        assert "text_link" not in kinds
        # An agent's long message, with markup of Telegram's own.
        entities = [{"type": "text_link", "offset": 0, "length": 4, "url": "https://klyon.example/a"}]
        await world.forum_api.says(GROUP, thread, "Here " + "word " * 780, entities=entities)
        await world.when(lambda: "".join(world.got(CUSTOMER)).count("word") >= 780)
        first = next(each for each in world.forum_api.sent if "word word" in str(each.get("text")))
        assert any(each.get("url") == "https://klyon.example/a" for each in first["entities"])


class TestTwoDesks:
    async def test_whoever_answers_first_owns_it_and_the_other_must_look(self, world: ForumWorld) -> None:
        thread = await handed_off(world)
        world.group.refusals = [refused(429, "Too Many Requests: retry after 600", retry_after=600)]
        await world.hire("Ivan", IVAN)
        await world.agent_says(1, "Answer from the web", name="Ivan")
        await world.held()  # it can't be shown in the topic now
        mine = await world.forum_api.says(GROUP, thread, "Answer from Telegram")
        world.clock.advance(700)
        await world.when(lambda: any("Ivan answered meanwhile" in each.text for each in world.said(thread)))
        assert not any("Answer from Telegram" in text for text in world.got(CUSTOMER))
        ticket = await world.ticket()
        async with world.sessions() as session:
            assert (await session.get_one(Agent, ticket.assignee_id)).name == "Ivan"
        await world.when(lambda: any("Answer from the web" in each.text for each in world.said(thread)))
        warning = next(each for each in world.said(thread) if "meanwhile" in each.text)
        assert warning.reply_to == mine
        await world.forum_api.presses(GROUP, warning, "Send anyway")
        await world.forum_api.presses(GROUP, warning, "Send anyway")
        await world.when(lambda: any("Answer from Telegram" in text for text in world.got(CUSTOMER)))
        await world.settled()
        assert sum("Answer from Telegram" in text for text in world.got(CUSTOMER)) == 1
        assert sum("Answer from Telegram" in each.text for each in world.said(thread)) == 0

    async def test_commands_and_buttons_do_what_the_web_desk_does(self, world: ForumWorld) -> None:
        thread = await handed_off(world)
        card = world.said(thread)[0]
        await world.hire("Ivan", IVAN)
        await world.forum_api.says(GROUP, thread, "// he called twice")
        await world.forum_api.says(GROUP, thread, "/assign Iv: he knows the courier")
        await world.when(lambda: any("now with Ivan" in each.text for each in world.said(thread)))
        await world.when(lambda: any("he knows the courier" in each.text for each in world.said(thread)))
        await world.when(lambda: any("Ivan" in text for text in world.got(CUSTOMER)))
        await world.forum_api.presses(GROUP, card, "Hold")
        await world.when(lambda: "Until tomorrow" in " ".join(card.buttons))
        await world.forum_api.presses(GROUP, card, "Until tomorrow")
        await world.when(lambda: "on hold" in world.group.topics[thread].title)
        await world.forum_api.says(GROUP, thread, "/resume")
        await world.when(lambda: "open" in world.group.topics[thread].title)
        await world.forum_api.says(GROUP, thread, "/transfer nowhere")
        await world.when(lambda: any("Like this: /transfer" in each.text for each in world.said(thread)))
        await world.forum_api.says(GROUP, thread, "/transfer Returns and exchanges it is broken")
        await world.when(lambda: any("Returns and exchanges" in each.text for each in world.said(thread)[2:]))
        await world.forum_api.says(GROUP, thread, "/queue")
        await world.when(lambda: any("Waiting for an answer: 1" in each.text for each in world.group.messages.values()))
        await world.forum_api.presses(GROUP, card, "Resolve")
        await world.when(lambda: world.group.topics[thread].closed)
        assert list(card.buttons) == ["Open again"]
        assert "resolved" in world.group.topics[thread].title
        # Written after the end: not sent, and sent once it is opened again.
        await world.forum_api.says(GROUP, thread, "one more thing")
        await world.when(lambda: any("the ticket has ended" in each.text for each in world.said(thread)))
        held = next(each for each in world.said(thread) if "has ended" in each.text)
        await world.forum_api.presses(GROUP, held, "Open again and send")
        await world.when(lambda: any("one more thing" in text for text in world.got(CUSTOMER)))
        notes = [m for m in await world.transcript(CUSTOMER) if m.kind == "note" and m.agent_name == "Olga"]
        assert any(note.text == "he called twice" for note in notes)
        assert not any("he called twice" in text for text in world.got(CUSTOMER))


async def test_many_customers_at_once_are_each_told_once_and_in_order_within_the_limits(tmp_path: Path) -> None:
    """In small; `python -m benchmarks.forum` does it with 200, and kills the process."""
    customers, groups = range(100, 110), (GROUP, GROUP - 1)
    async with at_work(tmp_path, groups=",".join(map(str, groups)), minute=2.0) as world:
        api, number = world.forum_api, 1
        for said in ("a person please", "first", "second"):
            for customer in customers:
                await api.put(text_update(number, f"{said} {customer}", customer))
                number += 1
            await asyncio.sleep(1.5)

        def told(customer: int) -> str:
            topics = [(group, thread) for group in groups for thread in api.group(group).topics]
            wholes = ("\n".join(each.text for each in api.group(g).of(t) if each.sender == 42) for g, t in topics)
            return next((whole for whole in wholes if f"first {customer}" in whole), "")

        await world.when(lambda: all(f"second {customer}" in told(customer) for customer in customers), 60)
        await world.settled()
        for customer in customers:
            whole = told(customer)
            lines = [line for line in whole.splitlines() if line.endswith((f"first {customer}", f"second {customer}"))]
            assert [line.split()[-2] for line in lines if "“" not in line] == ["first", "second"], whole
        assert api.violations == []
        assert all(len(api.group(group).topics) == 5 for group in groups)


async def test_a_ticket_of_another_team_goes_on_in_that_teams_group(tmp_path: Path) -> None:
    other = GROUP - 1
    async with at_work(tmp_path, groups=f"{GROUP},{other}=payments") as world:
        thread = await handed_off(world)
        await world.hire("Petr", IVAN, role=Role.AGENT, teams=("payments",))
        await world.forum_api.says(GROUP, thread, "/transfer payment charged twice")
        there = world.forum_api.group(other)
        await world.when(lambda: any("charged twice" in each.text for each in there.messages.values()))
        await world.when(lambda: world.group.topics[thread].closed)
        assert any("passed to another group" in each.text for each in world.said(thread))
        await world.forum_api.put(text_update(2, "and where are you now?"))
        await world.when(lambda: any("where are you now" in each.text for each in there.messages.values()))
        assert not any("where are you now" in each.text for each in world.said(thread))
        await world.forum_api.says(GROUP, thread, "hello?")  # who writes in the old topic is told where it goes on
        await world.when(lambda: any("goes on in https://t.me/c/" in each.text for each in world.said(thread)))


async def test_the_doctor_tells_what_a_group_lacks_and_the_whole_program_is_put_together(tmp_path: Path) -> None:
    api = ForumBotApi()
    group = api.group(GROUP)
    async with served(api):
        settings = Settings(
            var=tmp_path,
            telegram_token=TOKEN,
            telegram_api=api.base,
            forum_groups=f"{GROUP},-77=payments",
            _env_file=None,
        )

        async def forum_check() -> Check:
            installation = Installation(settings)
            try:
                assert installation.timers
                assert installation.forum_intake
                return await doctor_of_forum(installation)
            finally:
                await installation.close()

        found = await forum_check()
        assert not found.ok
        assert "-77: Bad Request: chat not found" in found.detail
        assert "Support" in found.detail
        group.is_forum = group.is_admin = False
        found = await forum_check()
        assert "turn Topics on" in found.detail
        assert "make the bot an administrator" in found.detail
        with pytest.raises(SettingsError, match="there is no team nobody"):
            _ = Installation(settings.model_copy(update={"forum_groups": f"{GROUP}=nobody"})).forum
        with pytest.raises(SettingsError, match="OTVET_FORUM_BOT"):
            _ = Installation(settings.model_copy(update={"forum_bot": "777"})).forum
