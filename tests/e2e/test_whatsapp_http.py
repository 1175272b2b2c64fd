"""WhatsApp over real HTTP, against a stand-in for Meta that enforces Meta's rules."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from graph_api import PHONE, SECRET, VERIFY, labels, words
from sqlalchemy import func, select
from whatsapp_harness import WhatsAppWorld, whatsapp_world

from bot.channels.base import Address, Option, OutboundAttachment, OutboundMessage, Template, fit
from bot.errors import DeliveryError, WindowClosedError
from bot.ledger import InboxRow
from bot.whatsapp_record import WebhookRow, WebhookState, pruning
from handoff.records import Author, Delivery

pytestmark = pytest.mark.e2e

ANNA = "79120000001"
ADDRESS = Address("whatsapp", PHONE, ANNA)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[WhatsAppWorld]:
    async with whatsapp_world(tmp_path) as made:
        yield made


class TestAConversation:
    async def test_a_question_is_greeted_answered_and_its_button_pressed(self, world: WhatsAppWorld) -> None:
        graph = world.graph
        await graph.say(ANNA, "where is my order")
        await graph.until(lambda: len(graph.to(ANNA)) >= 2)
        greeting, answer = graph.to(ANNA)
        assert "https://klyon.example/p" in words(greeting)
        assert "*My orders*" in words(answer)
        await graph.press(ANNA, answer, labels(answer)[0])
        await graph.until(lambda: len(graph.to(ANNA)) >= 3)

    async def test_a_choice_of_long_titles_is_a_list_and_its_number_may_be_typed(self, world: WhatsAppWorld) -> None:
        graph = world.graph
        await graph.say(ANNA, "how do I return it")
        await graph.until(lambda: len(graph.to(ANNA)) >= 2)
        assert "Return how" in labels(graph.to(ANNA)[1])
        await graph.say(ANNA, "2")
        await graph.until(lambda: len(graph.to(ANNA)) >= 3)
        assert "press Return" in words(graph.to(ANNA)[2])

    async def test_a_person_answers_in_the_same_chat_under_a_name(self, world: WhatsAppWorld) -> None:
        graph = world.graph
        await graph.say(ANNA, "a person please")
        await graph.until(lambda: len(graph.to(ANNA)) >= 2)
        [ticket] = await world.tickets()
        await world.agent_says(ticket.id, "Hello! **How** can I help?")
        await graph.until(lambda: len(graph.to(ANNA)) >= 3)
        assert words(graph.to(ANNA)[2]) == "*Ольга*\nHello! *How* can I help?"

    async def test_the_customer_sees_that_the_message_was_read(self, world: WhatsAppWorld) -> None:
        wamid = await world.graph.say(ANNA, "where is my order")
        await world.graph.until(lambda: wamid in world.graph.seen)

    async def test_whoever_hides_the_number_is_answered_by_id_and_stays_one_customer(
        self, world: WhatsAppWorld
    ) -> None:
        graph, hidden = world.graph, "RU.13491208655302741918"
        await graph.customer("", {"type": "text", "text": {"body": "where is my order"}}, user_id=hidden)
        await graph.until(lambda: len(graph.to(hidden)) >= 2)
        await graph.customer(ANNA, {"type": "text", "text": {"body": "a person please"}}, user_id=hidden)
        await graph.until(lambda: len(graph.to(hidden)) >= 3)
        assert [m.text for m in await world.transcript(hidden) if m.author is Author.CUSTOMER] == [
            "where is my order",
            "a person please",
        ]

    async def test_a_photo_is_fetched_stored_and_acknowledged(self, world: WhatsAppWorld) -> None:
        graph, content = world.graph, os.urandom(200_000)
        graph.files["1003383421387256"] = ("image/jpeg", content)
        image = {"id": "1003383421387256", "mime_type": "image/jpeg", "caption": ""}
        await graph.customer(ANNA, {"type": "image", "image": image})
        await graph.until(lambda: len(graph.to(ANNA)) >= 2)
        [photo] = (await world.transcript(ANNA))[0].attachments
        assert (photo.kind, photo.state, photo.sha256) == ("photo", "stored", hashlib.sha256(content).hexdigest())


class TestSending:
    async def test_files_go_out_by_kind_and_a_type_that_is_not_shown_as_a_document(
        self, world: WhatsAppWorld, tmp_path: Path
    ) -> None:
        await world.graph.say(ANNA, "hi")
        path = tmp_path / "file"
        path.write_bytes(bytes(10))
        for kind, mime_type in [("photo", "image/png"), ("photo", "image/heic"), ("voice", "audio/ogg"), ("x", "a/b")]:
            file = OutboundAttachment(kind, path, "чек.png", mime_type, 10)
            for part in fit(OutboundMessage("Вот", attachments=(file,)), world.channel.capabilities):
                await world.channel.send(ADDRESS, part)
        files = [message["type"] for message in world.graph.sent if message["type"] not in ("text", "interactive")]
        assert files == ["image", "document", "audio", "document"]
        captions = [m[m["type"]].get("caption") for m in world.graph.sent if m["type"] in files]
        assert captions == ["Вот", "Вот", None, "Вот"], "a voice message has no caption: the text follows it"

    async def test_a_picture_too_large_for_one_goes_as_a_document(self, world: WhatsAppWorld, tmp_path: Path) -> None:
        file = OutboundAttachment("photo", tmp_path / "none", "чек.png", "image/png", 6 << 20)
        assert world.channel.capabilities.carrier(file) == "document"

    async def test_a_file_too_large_is_not_even_uploaded(self, world: WhatsAppWorld, tmp_path: Path) -> None:
        file = OutboundAttachment("photo", tmp_path / "none", "чек.png", "image/png", 101 << 20)
        with pytest.raises(DeliveryError, match="at most 100 MB") as caught:
            await world.channel.send(ADDRESS, OutboundMessage("", attachments=(file,)))
        assert caught.value.permanent
        assert world.graph.files == {}

    async def test_a_quote_a_template_and_a_reaction_go_out(self, world: WhatsAppWorld) -> None:
        wamid = await world.graph.say(ANNA, "hi")
        await world.channel.send(ADDRESS, OutboundMessage("да", quote=wamid))
        template = Template("continue_conversation", "ru", ("Анна\n\nА.", ""))
        await world.channel.send(ADDRESS, OutboundMessage("", template=template))
        await world.channel.react(ADDRESS, wamid, "👍")
        quoting, templated, reaction = [m for m in world.graph.sent if m["type"] != "interactive"][-3:]
        assert quoting["context"] == {"message_id": wamid}
        assert templated["template"]["components"][0]["parameters"][0]["text"] == "Анна А."
        assert reaction["reaction"] == {"message_id": wamid, "emoji": "👍"}

    async def test_after_the_window_the_refusal_says_so(self, world: WhatsAppWorld) -> None:
        await world.graph.say(ANNA, "hi")
        world.clock.advance(24 * 3600 + 1)
        with pytest.raises(WindowClosedError):
            await world.channel.send(ADDRESS, OutboundMessage("hi"))

    async def test_an_unknown_template_is_permanent_and_the_remedy_is_told(self, world: WhatsAppWorld) -> None:
        with pytest.raises(DeliveryError, match=r"132001.*data/templates\.yml") as caught:
            await world.channel.send(ADDRESS, OutboundMessage("", template=Template("nothing", "ru")))
        assert caught.value.permanent

    async def test_many_choices_are_a_list_and_more_a_numbered_text(self, world: WhatsAppWorld) -> None:
        await world.graph.say(ANNA, "hi")
        for count, kind in [(3, "interactive"), (10, "interactive"), (11, "text")]:
            options = tuple(Option(f"t{number}", f"Вариант {number}") for number in range(count))
            for part in fit(OutboundMessage("Что?", options), world.channel.capabilities):
                await world.channel.send(ADDRESS, part)
            assert world.graph.sent[-1]["type"] == kind


async def rows(world: WhatsAppWorld) -> tuple[int, int]:
    """How many webhooks and messages are stored."""
    async with world.sessions() as session:
        webhooks = await session.scalar(select(func.count(WebhookRow.id)))
        inbox = await session.scalar(select(func.count(InboxRow.id)))
    return webhooks or 0, inbox or 0


BODY = b'{"object": "whatsapp_business_account", "entry": []}'


class TestTheDoor:
    async def test_metas_question_is_answered_for_the_right_word_alone(self, world: WhatsAppWorld) -> None:
        async with httpx.AsyncClient(trust_env=False) as http:
            asked = {"hub.mode": "subscribe", "hub.challenge": "1158201444", "hub.verify_token": VERIFY}
            right = await http.get(world.url, params=asked)
            wrong = [
                await http.get(world.url, params={**asked, "hub.verify_token": "guess"}),
                await http.get(world.url, params={**asked, "hub.verify_token": ""}),
                await http.get(world.url, params={**asked, "hub.mode": "other"}),
                await http.get(world.url, params={**asked, "hub.challenge": "<script>"}),
                await http.get(world.url),
            ]
        assert (right.status_code, right.text) == (200, "1158201444")
        assert [answer.status_code for answer in wrong] == [403, 403, 403, 400, 403]

    @pytest.mark.parametrize("signature", ["", "sha256=", "sha256=" + "0" * 64, "md5=1", "sha256=ключ"])
    async def test_a_forged_signature_is_refused_counted_and_nothing_is_stored(
        self, world: WhatsAppWorld, signature: str
    ) -> None:
        async with httpx.AsyncClient(trust_env=False) as http:
            headers = {b"X-Hub-Signature-256": signature.encode()}
            answer = await http.post(world.url, content=BODY, headers=headers)
        assert answer.status_code == 401
        assert world.webhooks.refused["whatsapp", "signature"] == 1
        assert await rows(world) == (0, 0)

    async def test_a_changed_body_is_refused(self, world: WhatsAppWorld) -> None:
        await world.graph.say(ANNA, "where is my order")
        async with httpx.AsyncClient(trust_env=False) as http:
            signature = "sha256=" + hashlib.sha256(SECRET.encode() + BODY).hexdigest()
            answer = await http.post(world.url, content=BODY, headers={"X-Hub-Signature-256": signature})
        assert answer.status_code == 401

    async def test_a_replayed_webhook_is_acknowledged_counted_and_stored_once(self, world: WhatsAppWorld) -> None:
        await world.graph.say(ANNA, "a person please")
        await world.graph.until(lambda: len(world.graph.to(ANNA)) >= 2)
        await world.graph.settle()
        before, repeats = await rows(world), world.webhooks.taken["whatsapp", "repeat"]
        async with world.sessions() as session:
            stored = (await session.scalars(select(WebhookRow.body))).all()
        assert [(await world.graph.post(body)).status_code for body in stored] == [200] * len(stored)
        assert await rows(world) == before
        assert world.webhooks.taken["whatsapp", "repeat"] - repeats == len(stored)

    async def test_old_calls_are_forgotten_and_their_repetition_is_known_all_the_same(
        self, world: WhatsAppWorld
    ) -> None:
        await world.graph.say(ANNA, "a person please")
        await world.graph.until(lambda: len(world.graph.to(ANNA)) >= 2)
        await world.graph.settle()
        async with world.sessions() as session:
            stored = (await session.scalars(select(WebhookRow.body))).all()
        before = await rows(world)
        for days in (29, 2):
            async with world.sessions() as session:
                assert all((await session.scalars(select(WebhookRow.body))).all())
            world.clock.advance(days * 86_400)
            async with world.sessions.begin() as session:
                await pruning(timedelta(days=30))(session, {}, world.clock())
        async with world.sessions() as session:
            assert not any((await session.scalars(select(WebhookRow.body))).all())
        for body in stored:
            await world.graph.post(body)
        assert await rows(world) == before

    async def test_a_body_of_30_mb_is_refused_with_or_without_its_length(self, world: WhatsAppWorld) -> None:
        async def endless() -> AsyncIterator[bytes]:
            for _ in range(30):
                yield bytes(1 << 20)

        async with httpx.AsyncClient(trust_env=False) as http:
            for content in (bytes(30 << 20), endless()):
                try:
                    answer = await http.post(world.url, content=content)
                except httpx.NetworkError:
                    continue  # the connection was closed before all of it was sent
                assert answer.status_code == 413
        assert world.webhooks.refused["whatsapp", "too_large"] == 2
        assert await rows(world) == (0, 0)

    async def test_a_slow_body_is_refused_and_a_broken_off_one_is_nothing(self, tmp_path: Path) -> None:
        async with whatsapp_world(tmp_path, body_seconds=0.3) as world:
            host = f"POST /webhooks/whatsapp HTTP/1.1\r\nHost: x\r\nContent-Length: {len(BODY)}\r\n\r\n".encode()
            reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
            writer.write(host + BODY[:10])
            await writer.drain()
            assert (await asyncio.wait_for(reader.readline(), 5)).startswith(b"HTTP/1.1 408")
            writer.close()
            reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
            writer.write(host + BODY[:10])
            await writer.drain()
            writer.close()
            await asyncio.sleep(0.5)
            assert world.webhooks.refused["whatsapp", "too_slow"] == 1
            assert await rows(world) == (0, 0)

    @pytest.mark.parametrize("body", [b"", b"not json", b"[" * 100_000, b'"text"', b"\xff\xfe", b'{"entry": 5}'])
    async def test_whatever_is_signed_is_kept_and_acknowledged(self, world: WhatsAppWorld, body: bytes) -> None:
        assert (await world.graph.post(body)).status_code == 200
        async with world.sessions() as session:
            row = (await session.scalars(select(WebhookRow))).one()
        assert (row.body, row.state) == (body, WebhookState.DONE)


class TestWhatCanHappen:
    async def test_a_webhook_that_could_not_be_stored_comes_again_and_is_answered_once(
        self, world: WhatsAppWorld
    ) -> None:
        receive, faults = world.record._receive, [ConnectionError(), ConnectionError()]

        async def failing(message: object) -> bool:
            if faults:
                raise faults.pop()
            return await receive(message)  # type: ignore[arg-type]

        world.record._receive = failing
        await world.graph.say(ANNA, "a person please")
        for _ in range(3):
            await world.graph.redeliver()
        await world.graph.until(lambda: len(world.graph.to(ANNA)) >= 2)
        assert world.graph.replies[:3] == [500, 500, 200]
        assert len(await world.tickets()) == 1

    async def test_a_late_failure_stands_in_the_transcript_with_its_reason(self, world: WhatsAppWorld) -> None:
        graph = world.graph
        graph.statuses = ()
        await graph.say(ANNA, "where is my order")
        await graph.until(lambda: len(graph.to(ANNA)) >= 2)
        await world.until(ANNA, lambda found: found[-1].external_id == graph.sent[-1]["wamid"])
        error = {"code": 131026, "title": "Message undeliverable"}
        status = {"id": graph.sent[-1]["wamid"], "status": "failed", "recipient_id": ANNA, "errors": [error]}
        await graph.deliver({"statuses": [status]})
        *_, message, note = await world.until(ANNA, lambda found: found[-1].kind == "note")
        assert message.delivery is Delivery.FAILED
        assert "131026" in (message.delivery_error or "")
        assert "131026" in note.text
        [ticket] = await world.tickets()
        assert ticket.reason == "undelivered"

    async def test_a_new_number_goes_on_with_the_same_conversation(self, world: WhatsAppWorld) -> None:
        graph, new = world.graph, "79120000002"
        await graph.say(ANNA, "a person please")
        await graph.until(lambda: len(graph.to(ANNA)) >= 2)
        system = {"body": f"User Анна changed from {ANNA} to {new}", "wa_id": new, "type": "user_changed_number"}
        await graph.customer(ANNA, {"type": "system", "system": system})
        await graph.say(new, "it is me")
        await world.until(new, lambda messages: any(m.text == "it is me" for m in messages))
        [ticket] = await world.tickets()
        await world.agent_says(ticket.id, "Hello again")
        await graph.until(lambda: graph.to(new))


class TestWhatWantsNoAnswer:
    async def test_edits_deletions_reactions_notes_and_an_agents_own_phone_stand_in_the_transcript(
        self, world: WhatsAppWorld
    ) -> None:
        graph = world.graph
        first = await graph.say(ANNA, "a person please")
        await graph.until(lambda: len(graph.to(ANNA)) >= 2)
        second = await graph.say(ANNA, "wrong")
        edited = {"original_message_id": first, "message": {"type": "text", "text": {"body": "a person, please!"}}}
        await graph.customer(ANNA, {"type": "edit", "edit": edited})
        await graph.customer(ANNA, {"type": "revoke", "revoke": {"original_message_id": second}})
        await graph.customer(ANNA, {"type": "reaction", "reaction": {"message_id": "wamid.OUT1", "emoji": "👍"}})
        system = {"body": "User identity changed", "type": "customer_identity_changed"}
        await graph.customer(ANNA, {"type": "system", "system": system})
        echo = {"from": "15550783881", "to": ANNA, "id": "wamid.E1", "type": "text", "text": {"body": "On my way"}}
        await graph.deliver({"message_echoes": [echo]}, "smb_message_echoes")
        messages = await world.until(ANNA, lambda found: found[-1].text == "On my way")
        by_id = {message.external_id: message for message in messages}
        assert (by_id[first].text, by_id[first].edits[0]["text"]) == ("a person, please!", "a person please")
        assert by_id[second].deleted_at is not None
        assert [(m.kind, m.author, m.text) for m in messages[-3:]] == [
            ("reaction", Author.CUSTOMER, "👍"),
            ("note", Author.SYSTEM, "User identity changed"),
            ("text", Author.AGENT, "On my way"),
        ]
        assert len(graph.to(ANNA)) == 2


class TestTheWindow:
    async def test_a_late_reply_becomes_a_template_and_follows_when_the_customer_answers(
        self, world: WhatsAppWorld
    ) -> None:
        graph = world.graph
        graph.templates = {("ticket_answer", "ru"): 2, ("ticket_answer", "en"): 2}
        await graph.say(ANNA, "a person please")
        await graph.until(lambda: len(graph.to(ANNA)) >= 2)
        [ticket] = await world.tickets()
        world.clock.advance(25 * 3600)
        await world.agent_says(ticket.id, "Your parcel is here")
        await world.agent_says(ticket.id, "Come before nine")
        await graph.until(lambda: len(graph.to(ANNA)) >= 3)
        asked = graph.to(ANNA)[2]["template"]
        assert (asked["name"], asked["language"]["code"]) == ("ticket_answer", "en")
        assert [p["text"] for p in asked["components"][0]["parameters"]] == [str(ticket.id), "Klyon"]
        messages = await world.until(ANNA, lambda found: [m.delivery for m in found][-3:-1] != [None, None])
        await world.until(ANNA, lambda found: sum(m.delivery == "held" for m in found) == 2)
        assert any(m.kind == "template" and str(ticket.id) in m.text for m in messages)

        await graph.say(ANNA, "yes?")
        await graph.until(lambda: len(graph.to(ANNA)) >= 5)
        assert [words(message) for message in graph.to(ANNA)[3:]] == [
            "*Ольга*\nYour parcel is here",
            "*Ольга*\nCome before nine",
        ]
        assert graph.refused == []

    async def test_a_refusal_that_comes_late_leads_to_the_same(self, world: WhatsAppWorld) -> None:
        graph = world.graph
        graph.templates, graph.late_window = {("ticket_answer", "en"): 2}, True
        await graph.say(ANNA, "a person please")
        await graph.until(lambda: len(graph.to(ANNA)) >= 2)
        [ticket] = await world.tickets()
        graph._last[ANNA] -= timedelta(days=2)  # Meta's clock is not ours
        await world.agent_says(ticket.id, "Your parcel is here")
        await graph.until(lambda: len(graph.to(ANNA)) >= 4)
        assert graph.to(ANNA)[3]["type"] == "template"
        await graph.say(ANNA, "yes?")
        await graph.until(lambda: len(graph.to(ANNA)) >= 5)
        assert words(graph.to(ANNA)[4]) == "*Ольга*\nYour parcel is here"

    async def test_a_refusal_at_once_leads_to_the_same(self, world: WhatsAppWorld) -> None:
        graph = world.graph
        graph.templates = {("ticket_answer", "en"): 2}
        await graph.say(ANNA, "a person please")
        await graph.until(lambda: len(graph.to(ANNA)) >= 2)
        [ticket] = await world.tickets()
        graph._last[ANNA] -= timedelta(days=2)
        await world.agent_says(ticket.id, "Your parcel is here")
        await graph.until(lambda: len(graph.to(ANNA)) >= 3)
        assert graph.to(ANNA)[2]["type"] == "template"
        assert [code for code, _ in graph.refused] == [131047]

    async def test_a_template_that_meta_paused_is_passed_over_and_without_any_the_agents_are_told(
        self, world: WhatsAppWorld
    ) -> None:
        graph = world.graph
        await graph.say(ANNA, "a person please")
        await graph.until(lambda: len(graph.to(ANNA)) >= 2)
        [ticket] = await world.tickets()
        for name in ("ticket_answer", "question_answer"):
            for language in ("ru", "en"):
                paused = {"message_template_name": name, "message_template_language": language, "event": "PAUSED"}
                await graph.deliver(paused, "message_template_status_update")
        world.clock.advance(25 * 3600)
        await world.agent_says(ticket.id, "Your parcel is here")
        messages = await world.until(ANNA, lambda found: found[-1].kind == "note")
        assert "no approved template" in messages[-1].text
        assert len(graph.to(ANNA)) == 2

    async def test_a_customer_who_waits_is_asked_to_keep_the_window_open_and_one_press_does(
        self, world: WhatsAppWorld
    ) -> None:
        graph = world.graph
        await graph.say(ANNA, "a person please")
        await graph.until(lambda: len(graph.to(ANNA)) >= 2)
        assert await world.timers.fire_due() == 0
        world.clock.advance(23.5 * 3600)
        await world.timers.fire_due()
        await graph.until(lambda: len(graph.to(ANNA)) >= 3)
        assert labels(graph.to(ANNA)[2]) == ["I'm waiting"]
        await graph.press(ANNA, graph.to(ANNA)[2], "I'm waiting")
        world.clock.advance(23 * 3600)
        [ticket] = await world.tickets()
        await world.agent_says(ticket.id, "Your parcel is here")
        await graph.until(lambda: len(graph.to(ANNA)) >= 4)
        assert words(graph.to(ANNA)[3]) == "*Ольга*\nYour parcel is here"

    async def test_nobody_is_reminded_who_has_been_answered(self, world: WhatsAppWorld) -> None:
        graph = world.graph
        await graph.say(ANNA, "a person please")
        await graph.until(lambda: len(graph.to(ANNA)) >= 2)
        [ticket] = await world.tickets()
        await world.agent_says(ticket.id, "Your parcel is here")
        await graph.until(lambda: len(graph.to(ANNA)) >= 3)
        world.clock.advance(23.5 * 3600)
        await world.timers.fire_due()
        await asyncio.sleep(0.3)
        assert len(graph.to(ANNA)) == 3
