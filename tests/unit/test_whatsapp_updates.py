"""Meta's webhooks in the assistant's terms: whatever comes, nobody's message is lost."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from bot import ledger
from bot.channels.base import InboundMessage
from bot.channels.whatsapp import WINDOW
from bot.channels.whatsapp_updates import NumberChange, Receipt, Received, TemplateChange, parse
from bot.database import migrate, open_database
from bot.ledger import InboxRow
from bot.message_templates import MessageTemplates
from bot.replies import Replies
from bot.whatsapp_record import WebhookRow, WebhookState, WhatsAppRecord
from bot.window import Windows
from handoff.records import Message

HERE = Path(__file__).parent
OWN: dict[str, Any] = json.loads((HERE.parent / "payloads/whatsapp/webhooks.json").read_text(encoding="utf-8"))
META = HERE.parents[2] / "shared/fixtures/whatsapp"
NOW = datetime(2027, 1, 1, tzinfo=UTC)


def metas() -> Iterator[Any]:
    """Every webhook that Meta published, and those of 2026 in pywa's tests."""
    files = [*META.glob("meta-openapi/whatsapp-webhooks.*.json"), *META.glob("pywa-tests/updates/*.json")]
    for path in sorted(files):
        content = json.loads(path.read_text(encoding="utf-8"))
        for name, payload in {"": content}.items() if "entry" in content else content.items():
            yield pytest.param(payload, id=f"{path.stem.rsplit('.')[-1]}-{name}")


PUBLISHED = list(metas()) or [
    pytest.param(None, marks=pytest.mark.skip(reason=f"Meta's examples are not at {META}: put them there"))
]


def received(payload: Any) -> list[InboundMessage]:
    return [event.message for event in parse(payload, now=NOW) if isinstance(event, Received)]


def one(name: str) -> InboundMessage:
    [message] = received(OWN[name])
    return message


class TestWhoItIs:
    @pytest.mark.parametrize(
        ("name", "chat_id"),
        [
            ("number_and_id", "79120000001"),
            ("number_alone", "79120000001"),
            ("id_alone", "RU.1001"),
            ("id_in_the_contact_alone", "RU.1001"),
            ("nobody", "unknown"),
        ],
    )
    def test_a_customer_is_known_by_number_or_id(self, name: str, chat_id: str) -> None:
        message = one(name)
        assert (message.address.account, message.address.chat_id) == ("1000000000001", chat_id)
        assert message.text == "Где заказ?"


class TestWhatItIs:
    @pytest.mark.parametrize(
        ("name", "kind", "refers_to"),
        [
            ("a_kind_of_next_year", "unsupported", None),
            ("no_message_id", "text", None),
            ("voice", "attachment", None),
            ("list_reply", "choice", "wamid.OUT1"),
            ("edit", "edit", "wamid.P0"),
            ("deletion", "deletion", "wamid.P0"),
            ("reaction", "reaction", "wamid.OUT1"),
            ("new_number", "note", None),
            ("welcome", "start", None),
        ],
    )
    def test_every_kind_has_its_name_here(self, name: str, kind: str, refers_to: str | None) -> None:
        message = one(name)
        assert (message.kind, message.refers_to) == (kind, refers_to)

    def test_a_voice_message_is_told_from_a_recording(self) -> None:
        [voice] = one("voice").attachments
        assert (voice.kind, voice.mime_type, voice.source["media_id"]) == ("voice", "audio/ogg", "3001")

    def test_a_choice_carries_its_token(self) -> None:
        assert one("list_reply").choice == "article:order-status"

    def test_an_unknown_kind_keeps_all_that_meta_sent(self) -> None:
        [unknown] = one("a_kind_of_next_year").attachments
        assert unknown.source["message"]["hologram"] == {"id": "1"}

    def test_messages_without_an_id_differ_by_content(self) -> None:
        other = json.loads(json.dumps(OWN["no_message_id"]).replace("\\u0411", "\\u0412"))
        assert one("no_message_id").external_id != received(other)[0].external_id

    def test_all_of_one_call_comes_in_its_order(self) -> None:
        events = parse(OWN["two_of_each"], now=NOW)
        assert [type(event) for event in events] == [Received, Received, Receipt, Receipt]
        assert [message.text for message in received(OWN["two_of_each"])] == ["1", "2"]

    def test_a_failure_tells_code_reason_and_our_own_id(self) -> None:
        [receipt] = parse(OWN["failed_after_the_window"], now=NOW)
        assert isinstance(receipt, Receipt)
        assert (receipt.state, receipt.error_code, receipt.message_id) == ("failed", 131047, 17)
        assert (receipt.chat_id, receipt.error) == ("RU.1001", "More than 24 hours have passed")

    def test_a_new_number_and_a_paused_template_are_told(self) -> None:
        assert NumberChange("1000000000001", "79120000001", "79120000002") in parse(OWN["new_number"], now=NOW)
        assert parse(OWN["template_paused"], now=NOW) == [TemplateChange("continue_conversation", "ru", "PAUSED")]

    def test_a_time_to_come_is_now(self) -> None:
        assert received(OWN["number_alone"])[0].sent_at == datetime.fromtimestamp(1_790_000_000, UTC)
        [late] = received(json.loads(json.dumps(OWN["number_alone"]).replace("1790000000", "9790000000")))
        assert late.sent_at == NOW


@pytest.mark.parametrize("payload", PUBLISHED)
def test_every_published_message_is_understood(payload: Any) -> None:
    value = payload["entry"][0]["changes"][0]["value"]
    events = parse(payload, now=NOW)
    assert events
    texts = [raw["text"]["body"] for raw in value.get("messages", []) if raw.get("type") == "text"]
    assert [message.text for message in received(payload) if message.kind == "text" and "text" in str(value)][
        : len(texts)
    ] == texts
    private = [raw for raw in value.get("messages", []) if "group_id" not in raw]
    assert len([message for message in received(payload) if message.kind != "echo"]) >= len(private)
    known = [raw for raw in private if raw.get("type") not in ("unsupported",) and raw.get(raw["type"])]
    assert all(message.kind != "unsupported" for message in received(payload)) or not known


@pytest.mark.parametrize("payload", [*(pytest.param(p, id=name) for name, p in OWN.items()), *PUBLISHED])
async def test_every_webhook_ends_in_the_ledger(payload: Any, tmp_path: Path) -> None:
    await taken_whole(payload, tmp_path / "db")


async def taken_whole(payload: Any, database: Path) -> None:
    """A webhook on an empty database: kept to the byte, each of its messages in the inbox, and a repeat is known."""
    engine, sessions = open_database(f"sqlite+aiosqlite:///{database}")
    await migrate(engine)
    value = payload["entry"][0]["changes"][0]["value"]
    account = value.get("metadata", {}).get("phone_number_id", "")

    async def receive(message: InboundMessage) -> bool:
        return await ledger.receive(sessions, message, now=NOW)

    async def on_failed(session: AsyncSession, message: Message, problem: str) -> None:
        raise AssertionError("nothing was sent")

    record = WhatsAppRecord(
        sessions=sessions,
        receive=receive,
        windows=Windows(
            lengths={"whatsapp": WINDOW},
            templates=MessageTemplates(),
            replies=Replies((), {}),
            shop={},
            clock=lambda: NOW,
            zone=ZoneInfo("UTC"),
        ),
        on_failed=on_failed,
        accounts=[account],
        clock=lambda: NOW,
    )
    body = json.dumps(payload).encode()
    assert await record.take(body)
    assert not await record.take(body)
    async with sessions() as session:
        webhook = (await session.scalars(select(WebhookRow))).one()
        inbox = (await session.scalars(select(InboxRow))).all()
    await engine.dispose()
    assert (webhook.body, webhook.state, webhook.error) == (body, WebhookState.DONE, None)
    assert len(inbox) == len({message.external_id for message in received(payload)})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@st.composite
def damaged(draw: st.DrawFn) -> tuple[Any, int]:
    """A webhook with something replaced, removed or added anywhere within its messages, and their number."""
    payload = json.loads(json.dumps(OWN[draw(st.sampled_from(sorted(OWN)))]))
    value = payload["entry"][0]["changes"][0]["value"]
    node = draw(
        st.sampled_from([*value.get("messages", []), *value.get("statuses", []), value.setdefault("extra", {})])
    )
    for _ in range(draw(st.integers(1, 4))):
        for _ in range(draw(st.integers(0, 3))):
            if not isinstance(node, dict) or not node:
                break
            key: str = draw(st.sampled_from(sorted(node)))
            if not isinstance(node[key], dict):
                node[key] = draw(JSON)
                break
            node = node[key]
        if isinstance(node, dict):
            if bool(node) and draw(st.integers(0, 1)):
                node.pop(draw(st.sampled_from(sorted(node))))
            node[draw(st.sampled_from(["type", "from", "text", "context", "id", "timestamp", "group"]))] = draw(JSON)
    return payload, len(value.get("messages", []))


class TestFuzz:
    @given(JSON)
    def test_any_json_is_taken(self, payload: Any) -> None:
        parse(payload, now=NOW)

    @given(damaged())
    def test_whatever_is_wrong_with_a_message_it_is_one_all_the_same(self, case: tuple[Any, int]) -> None:
        payload, count = case
        messages = received(payload)
        assert len(messages) == count
        for message in messages:
            again = InboundMessage.from_json(json.loads(json.dumps(message.to_json())))
            assert json.dumps(again.to_json()) == json.dumps(message.to_json())
            assert len(message.external_id) <= 128
            assert len(message.address.chat_id) <= 128

    @given(damaged())
    @settings(max_examples=25, deadline=None)
    def test_a_damaged_webhook_ends_in_the_ledger_too(self, case: tuple[Any, int]) -> None:
        with TemporaryDirectory() as folder:
            asyncio.run(taken_whole(case[0], Path(folder) / "db"))
