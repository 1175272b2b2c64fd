"""Flows in real turns: started, interrupted, corrected, cancelled, left to a person; restarts, silence, and changes
of the flow while a customer is in it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from site_harness import Keywords
from sqlalchemy import select
from test_turns import PNG, World

from bot.attachments import AttachmentStore, StoredFile
from bot.channels.base import InboundAttachment, OutboundMessage
from bot.database import migrate
from bot.dialogue import Outcome, Understanding
from bot.flows.engine import Looked
from bot.flows.format import Flow, parse_flow
from bot.flows.lookups import Asker
from bot.flows.timers import FLOW, FlowTimers
from bot.flows.turns import FlowBook
from bot.gaps.collecting import collect
from bot.gaps.records import Question
from bot.metrics import FLOWS
from bot.models.gold import recent
from bot.models.shadow import switch
from bot.models.understanding import Understood
from bot.timers import Timer, Timers
from handoff.records import Conversation, Message, Owner, Reason

TRACK = """
flow: track
title: {ru: Где заказ, en: Where is my order}
topic: delivery
articles: [order-status]
slots:
  order: {type: number, label: {ru: Номер заказа, en: Order number}}
  found: {type: data}
  words: {first_words: true}
steps:
  - id: number
    collect: order
    ask: {ru: Назовите номер заказа., en: What is the order number?}
  - id: look
    action: order_status
    into: found
    failed: {not_found: again}
  - id: told
    choose: {ru: "Заказ {{ order }}: {{ found.status }}. Это всё?", en: "{{ order }} is {{ found.status }}. Is it all?"}
    options:
      - {label: {ru: Да, en: Fine}, next: END}
      - {label: {ru: Нет, en: Too slow}, next: slow}
  - id: slow
    handoff: delivery
    reason: complaint
    say: {ru: Передаю., en: I am passing it on.}
  - id: again
    set_slots: {order: null}
    next: number
"""
BYE = """
  - id: bye
    say: {ru: Тогда всё., en: "Order {{ order }} is settled then."}
  - id: article
    article: order-status
    next: END
"""
SETUP = """
flow: setup
title: {ru: Настройка, en: Set-up}
topic: products
slots:
  photo: {type: file}
  story: {}
steps:
  - id: guide
    guide:
      - {text: {ru: Раз., en: One.}, picture: one.png}
      - {text: {ru: Два., en: Two.}}
    not_helped: story
  - article: return-how
    next: END
  - id: story
    collect: story
    ask: {ru: Что не так?, en: What is wrong?}
  - id: photo
    collect: photo
    ask: {ru: Пришлите фото., en: Send a photo.}
    optional: true
  - handoff: any
"""


class Mind(Keywords):
    """`Keywords`, who also knows the flow `setup` by its name, and small talk."""

    asked = 0

    def understand(self, text: str, remembered_lang: str | None = None) -> Understood:
        self.asked += 1
        found = super().understand(text, remembered_lang)
        if "set up" in text or "gone" in text:
            outcome = Outcome(flow="setup" if "set up" in text else "gone")
            found = Understood(found.lang, (Understanding(text, "setup", 0.99, outcome),), found.record)
        elif "thanks" in text:
            found = Understood(
                found.lang, (Understanding(text, "thanks", 0.99, Outcome(reply="thanks")),), found.record
            )
        # As the real one keeps what it found.
        return replace(found, record={**found.record, "hits": []})


class Shop:
    """The lookups of a shop that knows one order."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any], Asker]] = []

    async def run(self, name: str, slots: Mapping[str, Any], asker: Asker) -> Looked:
        self.asked.append((name, dict(slots), asker))
        if slots["order"] == "66666":
            raise RuntimeError("the shop is on fire")
        if slots["order"] != "45210":
            return Looked(False, reason="not_found")
        return Looked(True, {"status": "on its way"})


class FlowWorld(World):
    def __init__(self, tmp_path: Path) -> None:
        self.mind, self.shop = Mind(), Shop()
        self.book = FlowBook({flow.id: flow for flow in (parse_flow(TRACK), parse_flow(SETUP))})
        files = AttachmentStore(tmp_path / "attachments", 10_000)

        async def picture(name: str) -> StoredFile:
            async def chunks() -> AsyncIterator[bytes]:
                yield PNG

            return await files.store(chunks(), name)

        super().__init__(
            tmp_path,
            understander=self.mind,
            flows=lambda: self.book,
            lookups=self.shop,
            flow_picture=picture,
        )

    @property
    def last(self) -> OutboundMessage:
        return self.channel.sent[-1]

    async def press(self, label: str, **more: object) -> list[str]:
        token = next(option.token for option in self.last.options if option.label == label)
        return await self.hear("", kind="choice", choice=token, key=f"{label}{len(self.channel.sent)}", **more)

    async def state(self) -> dict[str, Any]:
        async with self.sessions.begin() as session:
            return dict((await session.scalars(select(Conversation.state))).one())

    def change(self, changed: Flow, *earlier: Flow) -> None:
        kept = {(flow.id, flow.version): flow for flow in earlier}
        self.book = FlowBook({**self.book.flows, changed.id: changed}, kept)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[FlowWorld]:
    made = FlowWorld(tmp_path)
    await migrate(made.engine)
    yield made
    await made.engine.dispose()


async def test_a_question_that_a_flow_stands_for_starts_it_with_what_was_said_already(world: FlowWorld) -> None:
    greeting, told = await world.hear("where is my order 45210")
    assert "klyon.example/p" in greeting
    assert told == "45210 is on its way. Is it all?"
    ((name, slots, asker),) = world.shop.asked
    assert (name, slots["order"], slots["words"]) == ("order_status", "45210", "where is my order 45210")
    assert (asker.flow, asker.lang, asker.address.channel) == ("track", "en", "recorder")
    assert [option.label for option in world.last.options] == ["Fine", "Too slow", "Cancel", "Call a person"]
    assert await world.press("Fine") == []
    assert "flow" not in await world.state()


async def test_an_intent_starts_its_flow_and_one_that_is_not_there_harms_nothing(world: FlowWorld) -> None:
    said = await world.hear("please set up my router")
    assert said[-1].endswith("Step 1 of 2**\n\nOne.")
    await world.hear("where has it gone, I want to know it", chat="d")
    (ticket,) = await world.tickets()
    assert ticket.reason is Reason.LOW_CONFIDENCE


async def test_a_plain_answer_asks_no_model(world: FlowWorld) -> None:
    await world.hear("where is my order")
    before = world.mind.asked
    await world.hear("45210")
    await world.hear("fine")
    assert world.mind.asked == before


async def test_a_question_in_between_is_answered_and_the_flow_asks_again(world: FlowWorld) -> None:
    await world.hear("please set up my router")
    answer, _picture, again = await world.hear("thanks")
    assert "One." in again
    assert again.startswith('Let us go on with "Set-up"')
    assert "One." not in answer


async def test_a_new_matter_at_an_open_end_is_no_wrong_choice(world: FlowWorld) -> None:
    await world.hear("where is my order 45210")
    said = await world.hear("do you sell bicycles and do you bring them to the moon")
    assert not any("45210" in each for each in said), "the flow lets go"
    assert "flow" not in await world.state()
    (ticket,) = await world.tickets()
    assert ticket.reason is Reason.LOW_CONFIDENCE


async def test_another_flow_goes_first_and_then_the_first_one_goes_on(world: FlowWorld) -> None:
    await world.hear("please set up my router")
    await world.hear("done")
    (asked,) = await world.hear("and where is my order?")
    assert asked == "What is the order number?"
    await world.hear("45210")
    (resumed,) = await world.press("Fine")
    assert resumed.startswith('Let us go on with "Set-up".')
    assert "Two." in resumed


async def test_the_same_flow_begun_with_another_number_begins_anew(world: FlowWorld) -> None:
    await world.hear("where is my order 45210")
    (said,) = await world.hear("and how is order 45219, when will it come to us?")
    assert said == "What is the order number?"
    assert world.shop.asked[-1][1]["order"] == "45219"


async def test_a_correction_looks_up_again(world: FlowWorld) -> None:
    await world.hear("where is my order 45219")
    await world.hear("oh sorry, 45210")
    (said,) = await world.hear("нет, 45219")
    assert said == "Got it, corrected: Order number – 45219.\n\nWhat is the order number?"


async def test_cancel_ends_a_flow_by_word_and_by_button(world: FlowWorld) -> None:
    for number, way in enumerate(("cancel", "Отмена.")):
        await world.hear("where is my order", chat=str(number))
        (said,) = await world.hear(way, chat=str(number))
        assert 'stopped "Where is my order"' in said
    await world.hear("where is my order", chat="b")
    (said,) = await world.press("Cancel", chat="b")
    assert "stopped" in said
    (said, *_) = await world.hear("45210", chat="b")
    assert "on its way" not in said


async def test_a_person_gets_the_slots_at_any_step(world: FlowWorld) -> None:
    await world.hear("where is my order 45210")
    passed, announced = await world.press("Too slow")
    assert passed == "I am passing it on."
    (ticket,) = await world.tickets()
    assert (ticket.topic, ticket.reason) == ("delivery", Reason.COMPLAINT)
    assert str(ticket.id) in announced
    record = (await world.transcript())[-1].decision
    assert record is not None
    slots = {slot["label"]: slot["value"] for slot in record["flow"]["slots"]}
    assert slots["Order number"] == "45210"
    assert slots["found"] == "status: on its way"


async def test_words_for_a_person_and_the_button_leave_a_flow_and_a_person_stops_it(world: FlowWorld) -> None:
    await world.hear("where is my order")
    await world.hear("let me talk to a person about it")
    (ticket,) = await world.tickets()
    assert ticket.topic == "delivery"
    assert await world.hear("45210") == []
    assert "flow" not in await world.state()
    assert world.shop.asked == []


async def test_a_customer_who_never_answers_rightly_ends_at_a_person(world: FlowWorld) -> None:
    await world.hear("where is my order")
    for said in ("hm", "no idea what you want"):
        await world.hear(said)
    assert world.last.text.startswith("I can't find a number")
    await world.hear("blah blah")
    (ticket,) = await world.tickets()
    assert ticket.reason is Reason.LOW_CONFIDENCE


async def test_a_lookup_that_breaks_or_takes_too_long_goes_where_the_flow_says(
    world: FlowWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.hear("where is my order 66666")
    (ticket,) = await world.tickets()
    assert ticket.reason is Reason.ERROR

    async def slow(*_: object) -> Looked:
        await asyncio.sleep(60)
        return Looked(True)

    monkeypatch.setattr("bot.turn.looking_up.LOOKUP_SECONDS", 0.05)
    monkeypatch.setattr(world.shop, "run", slow)
    await world.hear("where is my order 45210", chat="d")
    assert len(await world.tickets()) == 2


async def test_free_words_are_an_answer_unless_they_ask_something_else(world: FlowWorld) -> None:
    await world.hear("please set up my router")
    (asked,) = await world.press("It did not help")
    assert asked == "What is wrong?"
    (other,) = await world.hear("by the way, where is my other order?")
    assert other == "What is the order number?"
    _cancelled, again = await world.press("Cancel")
    assert again.endswith("What is wrong?")
    (asked,) = await world.hear("The lamp stays red")
    assert asked == "Send a photo."
    world.channel.files["p"] = PNG
    photo = InboundAttachment("photo", {"id": "p"}, "lamp.png", "image/png", len(PNG))
    await world.hear("", kind="attachment", attachments=(photo,))
    (ticket,) = await world.tickets()
    record = (await world.transcript())[-1].decision
    assert record is not None
    assert {slot["name"]: slot["value"] for slot in record["flow"]["slots"]} == {
        "story": "The lamp stays red",
        "photo": "photo",
    }
    assert ticket.topic == "products"


async def test_a_file_where_none_was_asked_for_is_kept_and_the_question_stands(world: FlowWorld) -> None:
    await world.hear("where is my order")
    photo = InboundAttachment("photo", {"id": "p"}, "lamp.png", "image/png", len(PNG))
    world.channel.files["p"] = PNG
    (said,) = await world.hear("", kind="attachment", attachments=(photo,))
    assert said == "Thank you, the file is kept with our conversation.\n\nWhat is the order number?"
    (said,) = await world.hear("", kind="dice")
    assert said.endswith("What is the order number?")


async def test_a_button_of_an_earlier_question_repeats_the_present_one(world: FlowWorld) -> None:
    await world.hear("please set up my router")
    pressed = next(option.token for option in world.last.options if option.label == "Done, next")
    await world.hear("", kind="choice", choice=pressed, key="1")
    (said,) = await world.hear("", kind="choice", choice=pressed, key="2")
    assert "Two." in said
    assert "earlier question" in said


async def test_a_flow_survives_days_of_silence_and_is_forgotten_after_its_time(world: FlowWorld) -> None:
    await world.hear("where is my order")
    world.clock.advance(2 * 86400)
    (said,) = await world.hear("45210")
    assert "on its way" in said
    world.clock.advance(4 * 86400)
    await world.hear("fine")
    assert "flow" not in await world.state()


async def test_a_link_starts_a_flow(world: FlowWorld) -> None:
    greeting, _picture, first = await world.hear("flow-setup", kind="start", lang_hint="en")
    assert "klyon.example/p" in greeting
    assert "One." in first
    (greeting,) = await world.hear("flow-nothing", kind="start", chat="d", lang_hint="en")
    assert "klyon.example/p" in greeting


async def test_a_button_starts_a_flow(world: FlowWorld) -> None:
    await world.hear("hello")
    _picture, first = await world.hear("", kind="choice", choice="flow:start:setup", key="b")
    assert "One." in first


async def test_who_is_in_a_flow_that_changes_stays_in_his_version(world: FlowWorld) -> None:
    before = world.book.flows["track"]
    await world.hear("where is my order")
    changed = parse_flow(TRACK.replace("id: number", "id: code").replace("next: number", "next: code"))
    world.change(changed, before)
    (said,) = await world.hear("45210")
    assert "on its way" in said


async def test_where_his_version_is_not_kept_he_goes_on_at_the_same_step_or_with_a_person(world: FlowWorld) -> None:
    await world.hear("where is my order")
    world.change(parse_flow(TRACK.replace("Is it all?", "Happy?")))
    (said,) = await world.hear("45210")
    assert said == "45210 is on its way. Happy?"
    world.change(parse_flow(TRACK.replace("id: told", "id: else").replace("Is it all?", "All?")))
    await world.hear("fine")
    (ticket,) = await world.tickets()
    assert ticket.reason is Reason.ERROR


async def test_silence_is_reminded_of_once_and_then_the_flow_is_forgotten(world: FlowWorld) -> None:
    timers = Timers(world.sessions, world.clock)
    timers.register(FLOW, FlowTimers(flows=lambda: world.book, replies=world.replies).fire)

    async def wait(hours: float) -> list[str]:
        before = len(world.channel.sent)
        world.clock.advance(hours * 3600)
        await timers.fire_due()
        await world.assistant.drain()
        return [message.text for message in world.channel.sent[before:]]

    await world.hear("where is my order")
    assert await wait(0.9) == []
    (reminder,) = await wait(0.2)
    assert reminder.startswith('We stopped at "Where is my order".')
    assert reminder.endswith("What is the order number?")
    assert await wait(24) == []
    (said,) = await world.press("Cancel")
    assert "stopped" in said
    await world.hear("where is my order")
    await wait(2)
    await wait(72)
    state = await world.state()
    assert "flow" not in state
    assert state["options"] == {}


async def test_an_answer_before_the_reminder_puts_it_off_and_an_end_cancels_it(world: FlowWorld) -> None:
    async def timers() -> list[dict[str, Any]]:
        async with world.sessions.begin() as session:
            return [dict(each.payload) for each in await session.scalars(select(Timer)) if each.kind == FLOW]

    await world.hear("where is my order")
    (first,) = await timers()
    await world.hear("45210")
    (second,) = await timers()
    assert second["turn"] > first["turn"]
    await world.press("Fine")
    assert await timers() == []


async def test_an_agent_starts_a_flow_and_the_assistant_goes_on_with_it(world: FlowWorld) -> None:
    await world.hear("a person please")
    async with world.sessions.begin() as session:
        await world.desk.start_flow(session, 1, "track", "Where is my order", agent="Anna")
    await world.assistant.drain()
    assert world.last.text == "What is the order number?"
    notes = [message.text for message in await world.transcript() if message.kind == "note"]
    assert notes == ['Anna started the steps "Where is my order".']
    (said,) = await world.hear("45210")
    assert "on its way" in said
    async with world.sessions.begin() as session:
        assert (await world.desk.packet(session, 1)).conversation.owner is Owner.ASSISTANT


async def test_a_flow_that_an_agent_starts_is_no_sign_of_the_customer(world: FlowWorld) -> None:
    phone = "+79161234567"
    await world.hear("a person please", phone=phone)
    await world.hear("a person please", chat="other", phone=phone)
    await world.hear("the customer blocked the bot", kind="blocked", key="blocked")
    async with world.sessions.begin() as session:
        await world.desk.start_flow(session, 1, "track", "Where is my order", agent="Anna")
    await world.assistant.drain()
    async with world.sessions.begin() as session:
        mine, elsewhere = [await world.desk.packet(session, ticket) for ticket in (1, 2)]
    assert mine.conversation.blocked_why == "the customer blocked the bot"
    assert mine.transcript[-1].text == "What is the order number?"
    assert mine.transcript[-1].delivery == "held"
    assert "wrote_elsewhere" not in [line.event for line in elsewhere.history]


async def test_the_packet_tells_what_the_flow_knows(world: FlowWorld) -> None:
    await world.hear("where is my order 45210")
    await world.press("Too slow")
    async with world.sessions.begin() as session:
        packet = await world.desk.packet(session, 1)
    assert packet.flow is not None
    assert (packet.flow.title, packet.flow.step) == ("Where is my order", "slow")
    assert ("Order number", "45210") in [(slot.label, slot.value) for slot in packet.flow.slots]


async def test_a_draft_for_a_person_brings_what_the_flow_knows(world: FlowWorld) -> None:
    async with world.sessions.begin() as session:
        await switch(session, "orders", on=True, by="Vera", at=world.clock())
    world.book = FlowBook({"setup": parse_flow(SETUP)})
    before = counted("setup").get("handed_off", 0)
    await world.hear("please set up my router")
    await world.hear("where is my order")
    async with world.sessions.begin() as session:
        packet = await world.desk.packet(session, 1)
    assert packet.reason is Reason.SHADOW
    assert packet.flow is not None
    assert (packet.flow.title, packet.flow.step) == ("Set-up", "guide")
    assert counted("setup")["handed_off"] == before + 1


async def test_what_a_flow_has_said_before_a_draft_is_said_all_the_same(world: FlowWorld) -> None:
    async with world.sessions.begin() as session:
        await switch(session, "orders", on=True, by="Vera", at=world.clock())
    world.change(parse_flow(TRACK.replace("next: END}", "next: bye}") + BYE))
    await world.hear("where is my order 45210")
    said = await world.press("Fine")
    assert said[0] == "Order 45210 is settled then."
    (ticket,) = await world.tickets()
    assert ticket.reason is Reason.SHADOW


async def test_a_question_that_never_arrived_brings_a_person_what_the_flow_knows(world: FlowWorld) -> None:
    await world.hear("where is my order 45210")
    question = (await world.transcript())[-1]
    async with world.sessions.begin() as session:
        await world.assistant._turns.saving.undelivered(session, question, "502", permanent=False)
    async with world.sessions.begin() as session:
        packet = await world.desk.packet(session, 1)
        timers = [each.kind for each in await session.scalars(select(Timer))]
    assert packet.flow is not None
    assert ("Order number", "45210") in [(slot.label, slot.value) for slot in packet.flow.slots]
    assert "flow" not in await world.state()
    assert FLOW not in timers


def counted(flow: str) -> dict[str, float]:
    """What the metrics say became of a flow."""
    samples = [sample for metric in FLOWS.collect() for sample in metric.samples if sample.name.endswith("_total")]
    return {each.labels["event"]: each.value for each in samples if each.labels["flow"] == flow}


async def test_what_becomes_of_flows_is_counted_by_flow(world: FlowWorld) -> None:
    before = counted("track")

    def since() -> dict[str, float]:
        return {
            what: value - before.get(what, 0) for what, value in counted("track").items() if value != before.get(what)
        }

    await world.hear("where is my order 45210")
    await world.press("Fine")
    assert since() == {"started": 1, "settled": 1}
    await world.hear("where is my order", chat="b")
    await world.hear("cancel", chat="b")
    assert since() == {"started": 2, "settled": 1, "cancelled": 1}
    await world.hear("where is my order", chat="d")
    for said in ("hm", "no idea", "blah blah"):
        await world.hear(said, chat="d")
    assert since() == {"started": 3, "settled": 1, "cancelled": 1, "missed": 3, "handed_off": 1}
    await world.hear("where is my order", chat="e")
    world.clock.advance(4 * 86400)
    await world.hear("45210", chat="e")
    assert since()["expired"] == 1
    async with world.sessions.begin() as session:
        await world.desk.start_flow(session, 1, "track", "Where is my order", agent="Anna")
    await world.assistant.drain()
    async with world.sessions.begin() as session:
        await world.desk.reopen(session, 1, agent="Anna")
    for _ in range(2):
        await world.hear("45210", chat="d")
    assert since() == {
        "started": 5,
        "settled": 1,
        "cancelled": 1,
        "missed": 3,
        "handed_off": 1,
        "expired": 1,
        "stopped": 1,
    }


async def test_a_number_given_after_the_article_was_shown_begins_the_flow_and_calls_nobody(tmp_path: Path) -> None:
    shown = TRACK.replace(
        "  - id: look\n",
        "    optional: true\n    next:\n      - {if: order, then: look}\n      - {else: article}\n  - id: look\n",
    )
    shown += "  - id: article\n    article: order-status\n    next: END\n"
    made = FlowWorld(tmp_path)
    made.change(parse_flow(shown))
    await migrate(made.engine)
    await made.hear("where is my order")
    await made.press("Skip")
    (told,) = await made.hear("where is my order 45210")
    assert told == "45210 is on its way. Is it all?"
    assert await made.tickets() == []
    await made.engine.dispose()


async def test_words_that_a_flow_could_not_use_reach_the_gaps_but_for_what_is_personal(world: FlowWorld) -> None:
    await world.hear("where is my order")
    await world.hear("the blue one")
    private = TRACK.replace("order: {type: number,", "order: {type: number, personal: true,")
    world.change(parse_flow(private))
    await world.hear("where is my order", chat="b")
    await world.hear("my secret word", chat="b")
    async with world.sessions.begin() as session:
        await collect(session, article_of={})
        found = list(await session.scalars(select(Question)))
        compared = {each.text for each in await recent(session, 10)}
    assert [(each.text, each.flow, each.step) for each in found] == [("the blue one", "track", "number")]
    assert compared == {"where is my order", "the blue one"}


async def test_no_editor_sees_what_was_answered_to_a_personal_question(world: FlowWorld) -> None:
    home = "Kazan, Novaya street 1, flat 2"
    world.change(parse_flow(SETUP.replace("  story: {}", "  story: {personal: true}")))
    await world.hear("please set up my router")
    await world.press("It did not help")
    (asked,) = await world.hear(home)
    assert asked == "Send a photo."
    async with world.sessions.begin() as session:
        await collect(session, article_of={})
        found = [*await session.scalars(select(Question.text)), *(each.text for each in await recent(session, 10))]
        said = [row for row in await session.scalars(select(Message)) if row.text == home]
    assert said[0].decision is not None
    assert said[0].decision.keys() >= {"hits", "personal"}
    assert "please set up my router" in found
    assert home not in found
