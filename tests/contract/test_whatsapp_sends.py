"""Every message that we send to WhatsApp is valid: against Meta's own OpenAPI, and against the limits that Meta's
documentation states besides.

Where Meta's OpenAPI (of November 2025) is wrong, the check departs from it:
- Each kind of message is closed (`additionalProperties: false`) within an `allOf`, which forbids what is common to all,
  and `context` and `biz_opaque_callback_data`, which the documentation has.
- `to` is demanded; for a customer who hides the number, `recipient` stands in its place since 2026.
- The read mark with its typing indicator is among the examples of the call and in no schema.
"""

from __future__ import annotations

import asyncio
import sys
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

sys.path.insert(0, str(Path(__file__).parents[1] / "e2e"))

from graph_api import PHONE, GraphApi

from bot.channels import whatsapp_api as api
from bot.channels.base import Address, Option, OutboundAttachment, OutboundMessage, Template, fit
from bot.channels.whatsapp import WhatsAppChannel

OPENAPI = Path(__file__).parents[3] / "shared/fixtures/whatsapp/meta-openapi/business-messaging-api_v23.0.yaml"


@cache
def specification() -> dict[str, Any]:
    if not OPENAPI.exists():
        pytest.skip(f"Meta's OpenAPI is not at {OPENAPI}: put it there")
    content: dict[str, Any] = YAML(typ="safe", pure=False).load(OPENAPI)
    return content


def _opened(schema: Any) -> Any:
    """What one part of an `allOf` does not name, another may."""
    if isinstance(schema, list):
        return [_opened(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    opened = {key: _opened(value) for key, value in schema.items()}
    if "allOf" in opened:
        opened["allOf"] = [
            {key: value for key, value in part.items() if key != "additionalProperties"} for part in opened["allOf"]
        ]
    return opened


@cache
def validator() -> jsonschema.Draft202012Validator:
    components = _opened(specification()["components"])
    base = components["schemas"]["BaseMessageProperties"]
    base["required"] = [name for name in base["required"] if name != "to"]
    kinds = {
        kind: components["schemas"][reference.rsplit("/", 1)[-1]]
        for kind, reference in components["schemas"]["Message"]["discriminator"]["mapping"].items()
    }
    # The discriminator of OpenAPI, in the words of JSON Schema.
    chosen = [{"if": {"properties": {"type": {"const": kind}}}, "then": schema} for kind, schema in kinds.items()]
    known = {"properties": {"type": {"enum": list(kinds)}}, "required": ["type"]}
    return jsonschema.Draft202012Validator({"allOf": [known, *chosen], "components": components})


NOW = datetime(2026, 11, 22, tzinfo=UTC)
CUSTOMERS = ("79120000001", "RU.13491208655302741918")


class Collected(api.GraphApi):
    """Keeps what would be sent."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []

    async def message(self, account: str, chat_id: str, body: dict[str, Any]) -> str:
        self.bodies.append(api.envelope(chat_id, body))
        return "wamid.1"

    async def upload(self, account: str, attachment: OutboundAttachment) -> str:
        return "1001"


def sends(message: OutboundMessage, chat_id: str = CUSTOMERS[0]) -> list[dict[str, Any]]:
    """All that goes over the wire for a message."""
    channel = WhatsAppChannel("token", [PHONE])
    channel._api = collected = Collected()
    address = Address("whatsapp", PHONE, chat_id)

    async def send() -> None:
        for part in fit(message, channel.capabilities):
            await channel.send(address, part)

    asyncio.run(send())
    return collected.bodies


def check(body: dict[str, Any]) -> None:
    """Raises where Meta's specification or the stand-in's rules refuse it."""
    meta = GraphApi(lambda: NOW)
    meta.files["1001"] = ("image/png", b"")
    meta._last = dict.fromkeys(CUSTOMERS, NOW)
    assert not meta._check_message(body)
    if OPENAPI.exists():
        validator().validate(body)


def test_metas_specification_is_there_to_be_checked_against() -> None:
    """Its examples of the kinds that we send pass, so that the check below refuses nothing by mistake."""
    call = specification()["paths"]["/{Version}/{Phone-Number-ID}/messages"]["post"]
    examples = call["requestBody"]["content"]["application/json"]["examples"]
    for name in ("Send Reply Button", "Send List Message", "Send Image Message by ID", "Send Reply to Text Message"):
        validator().validate(examples[name]["value"])
    assert not validator().is_valid({**examples["Send Reply Button"]["value"], "type": "buttons"})


def test_the_read_mark_has_the_form_of_metas_example() -> None:
    call = specification()["paths"]["/{Version}/{Phone-Number-ID}/messages"]["post"]
    example = call["requestBody"]["content"]["application/json"]["examples"]["Send typing indicator and read receipt"][
        "value"
    ]
    assert api.seen_body(example["message_id"]) == example


FILE = OutboundAttachment("photo", Path("x.png"), "x.png", "image/png", 10)


@pytest.mark.parametrize("chat_id", CUSTOMERS)
@pytest.mark.parametrize(
    "message",
    [
        OutboundMessage("Да", message_id=7),
        OutboundMessage("Да", quote="wamid.HBgL"),
        OutboundMessage("Что?", tuple(Option(f"t{n}", f"Вариант {n}") for n in range(3))),
        OutboundMessage(
            "Что?", tuple(Option(f"t{n}", f"Как вернуть товар ненадлежащего качества, {n}") for n in range(10))
        ),
        OutboundMessage("Вот", attachments=(FILE,)),
        OutboundMessage(
            "", attachments=(OutboundAttachment("document", Path("x"), "договор.pdf", "application/pdf", 1),)
        ),
        OutboundMessage("Слушайте", attachments=(OutboundAttachment("voice", Path("x"), "x.ogg", "audio/ogg", 1),)),
        OutboundMessage("слово " * 300, attachments=(FILE, FILE), agent_name="Ольга"),
        OutboundMessage("", template=Template("continue_conversation", "ru", ("Анна", "17"))),
    ],
)
def test_every_kind_of_message_is_valid(message: OutboundMessage, chat_id: str) -> None:
    bodies = sends(message, chat_id)
    assert bodies
    for body in bodies:
        check(body)


@pytest.mark.parametrize(
    "body",
    [api.location_body(55.75, 37.62, name="Склад"), api.reaction_body("wamid.1", "👍")],
    ids=["place", "reaction"],
)
def test_a_place_and_a_reaction_are_valid(body: dict[str, Any]) -> None:
    check(api.envelope(CUSTOMERS[0], body))


TEXTS = st.text(st.sampled_from("ab я**_`[](x)\n-1.>|😀 "), max_size=300) | st.integers(3900, 9000).map(
    "слово ".__mul__
)
LABELS = st.text(st.characters(codec="utf-8", categories=["L", "N", "P"]), min_size=1, max_size=90)


@given(
    TEXTS.filter(lambda text: text.strip()),
    st.lists(LABELS, max_size=14),
    st.none() | st.text("Ольга *_\n", max_size=80),
)
@settings(max_examples=150, deadline=None)
def test_whatever_is_said_stays_within_the_limits_and_nothing_of_it_is_lost(
    text: str, labels: list[str], agent: str | None
) -> None:
    options = tuple(Option(f"article:{number}", label) for number, label in enumerate(labels))
    bodies = sends(OutboundMessage(text, options, agent_name=agent))
    for body in bodies:
        check(body)
    offered = str(bodies[-1].get("interactive", ""))
    assert not options or all(option.token in offered for option in options) or "1. " in bodies[-1]["text"]["body"]
