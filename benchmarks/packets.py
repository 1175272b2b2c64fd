"""Is the packet of every handoff complete, whatever the reason?

    python -m benchmarks.packets [--data data] [--every 1]

Prints JSON. Every question of `eval/` in the data folder is put to the real assistant (models, turns, ledger, tickets,
an SQLite database of its own) by a customer of its own over a channel that keeps what it is given. A question that is
not handed off at once is brought to it in turn by "it did not help", by the choice of a person, or by asking for one
in words. One in 20 turns breaks, the answer to one in 20 is refused for good, one in 15 comes with a photo, one in 10
customers had a ticket before. Each ticket's packet is validated against docs/packet.schema.json, and `gaps` says what
it lacks of what is known: the schema cannot, for what may be empty differs from ticket to ticket.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from sqlalchemy import select

from benchmarks.standin import NAME, KeepingChannel
from bot.channels.base import Address, InboundAttachment, InboundMessage, OutboundMessage
from bot.cli.console import configure_logging
from bot.errors import DeliveryError
from bot.models.evaluation import Question, load_questions
from bot.models.understanding import Understander
from bot.settings import Settings
from bot.wiring import Installation
from handoff import desk
from handoff.records import Conversation, Reason, Ticket

SCHEMA = Path(__file__).parents[1] / "docs" / "packet.schema.json"
ASKING = {"ru": "Позовите, пожалуйста, живого человека", "en": "Could I talk to a real person please"}
WITHOUT_MODELS = (Reason.ERROR, Reason.UNDELIVERED, Reason.ANSWERED_ELSEWHERE)
"""Where the models are not asked, so that the keywords alone tell the topic, or nothing does."""


def gaps(packet: Mapping[str, Any], said: list[str], *, photo: bool, before: bool) -> list[str]:
    """What a packet lacks of what is known: said, by the customer, whether with a photo, and with a ticket before."""
    empty = [
        name
        for name in ("reason", "topic", "routed_by", "team", "level", "priority", "lang", "subject", "summary")
        if not packet[name]
    ]
    told = {
        "topic_confidence": packet["topic_confidence"] is not None
        or packet["topic_score"] is not None
        or (packet["routed_by"] in ("default", "article") and packet["reason"] in WITHOUT_MODELS),
        "runner_up": bool(packet["runner_up"]) or packet["reason"] in WITHOUT_MODELS,
        "runner_up_evidence": (packet["runner_up"] is None)
        == (packet["runner_up_confidence"] is None and packet["runner_up_score"] is None),
        "customer": bool(packet["customer"]["id"] and packet["customer"]["conversations"]),
        "customer.tickets": bool(packet["customer"]["tickets"]) or not before,
        "clocks": {"first_response", "resolution"} <= {clock["kind"] for clock in packet["clocks"]},
        "history": bool(packet["history"]) and packet["history"][0]["event"] == "created",
    }
    messages = packet["transcript"]
    customer = [message for message in messages if message["author"] == "customer"]
    written = [message["text"] for message in customer if message["kind"] != "choice"]
    told["transcript"] = written[-len(said) :] == said
    acts = [message["decision"] or {} for message in messages if message["author"] == "assistant"]
    told["announcement"] = any(act.get("ticket_id") == packet["ticket_id"] for act in acts) or (
        packet["reason"] == Reason.UNDELIVERED
    )
    told["evidence"] = all("rule" in (message["decision"] or {}) for message in customer)
    shown = any(act.get("article_id") or act.get("articles") for act in acts)
    told["tried"] = bool(packet["tried"]) or not shown or before
    chosen = [message["text"] for message in customer if message["kind"] == "choice"]
    told["pressed"] = packet["pressed"] == chosen or before
    told["attachments"] = any(message["attachments"] for message in messages) or not photo
    return empty + [name for name, there in told.items() if not there]


class Refusing(KeepingChannel):
    """Refuses the next answer for good when it is told to."""

    refuses = False

    async def send(self, address: Address, message: OutboundMessage) -> str | None:
        decided = message.decision or {}
        if self.refuses and decided.get("action") in ("answer", "clarify") and decided.get("reply") != "greeting":
            self.refuses = False
            raise DeliveryError("blocked", permanent=True)
        return await super().send(address, message)


class BrokenError(RuntimeError):
    """A turn that breaks on purpose."""


class Run:
    def __init__(self, installation: Installation) -> None:
        self.installation = installation
        self.channel = Refusing()
        self.breaks = False
        whole = installation.understander
        installation.understander = self._understander(whole)  # type: ignore[method-assign]
        self.assistant = installation.assistant([self.channel])
        self.desk = installation.agent_desk()
        self.count = 0

    def _understander(self, whole: Any) -> Any:
        def understander() -> Understander:
            if self.breaks:
                raise BrokenError
            found: Understander = whole()
            return found

        return understander

    async def hear(self, chat: int, text: str = "", **more: Any) -> list[OutboundMessage]:
        """Say something; what came back."""
        before, self.count = len(self.channel.sent), self.count + 1
        message = InboundMessage(Address(NAME, "", str(chat)), f"m{self.count}", datetime.now(UTC), text=text, **more)
        await self.assistant.receive(message)
        await self.assistant.drain()
        return self.channel.sent[before:]

    async def ticket(self, chat: int) -> int | None:
        async with self.installation.database.sessions.reading() as session:
            found: int | None = await session.scalar(
                select(Ticket.id)
                .join(Conversation, Conversation.id == Ticket.conversation_id)
                .where(Conversation.chat_id == str(chat), Ticket.resolved_at.is_(None))
                .order_by(Ticket.id.desc())
            )
            return found

    async def bring(self, chat: int, question: Question) -> tuple[int, list[str], bool, bool]:
        """To a ticket: its number, what was said in words, whether with a photo, whether there was one before."""
        lang = question.lang or "en"
        if before := chat % 10 == 1:
            await self.hear(chat, ASKING[lang])
            async with self.installation.database.sessions.begin() as session:
                earlier = await self.ticket(chat)
                assert earlier is not None  # noqa: S101 - a wish for a person makes one
                await self.desk.resolve(session, earlier, agent="Anna")
            await self.assistant.drain()
        photo = chat % 15 == 2
        self.breaks, self.channel.refuses = chat % 20 == 3, chat % 20 == 4
        files = (InboundAttachment("photo", {"id": "1"}, "photo.jpg", "image/jpeg", 1000),) if photo else ()
        replies = await self.hear(chat, question.text, attachments=files)
        self.breaks = self.channel.refuses = False
        said = [question.text]
        wish = ("not_helped", "person", "")[chat % 3]
        for _ in range(6):
            if (ticket_id := await self.ticket(chat)) is not None:
                return ticket_id, said, photo, before
            offered = [option.token for reply in replies for option in reply.options]
            if wish in offered:
                replies = await self.hear(chat, kind="choice", choice=wish)
                continue
            said.append(ASKING[lang])
            replies = await self.hear(chat, ASKING[lang])
        raise RuntimeError(f"no ticket for: {question.text}")


async def measure(installation: Installation, every: int) -> dict[str, Any]:
    await installation.migrate()
    run = Run(installation)
    validator = Draft202012Validator(json.loads(SCHEMA.read_text(encoding="utf-8")))
    questions = [
        question
        for split in ("dev", "test")
        for question in load_questions(installation.data / "eval" / f"dialogue.{split}.jsonl")
    ][::every]
    reasons: Counter[str] = Counter()
    routed: Counter[str] = Counter()
    missing: Counter[str] = Counter()
    complete = invalid = 0
    spent = []
    started = time.perf_counter()
    for chat, question in enumerate(questions):
        ticket_id, said, photo, before = await run.bring(chat, question)
        async with installation.database.sessions.begin() as session:
            begun = time.perf_counter()
            packet = await run.desk.packet(session, ticket_id)
            spent.append(time.perf_counter() - begun)
            await desk.get_ticket(session, ticket_id)
        found = packet.as_json()
        faults = [error.message for error in validator.iter_errors(found)]
        lacking = gaps(found, said, photo=photo, before=before)
        reasons[packet.reason] += 1
        routed[packet.routed_by] += 1
        missing.update(lacking)
        invalid += bool(faults)
        complete += not lacking and not faults
        if lacking or faults:
            print(f"{question.text!r}, {packet.reason}: {lacking} {faults[:3]}", file=sys.stderr)
    await installation.close()
    return {
        "handoffs": len(questions),
        "complete": round(complete / len(questions), 4),
        "invalid": invalid,
        "missing": dict(missing),
        "reasons": dict(reasons.most_common()),
        "routed_by": dict(routed.most_common()),
        "packet_ms_p50": round(1000 * statistics.median(spent), 1),
        "seconds": round(time.perf_counter() - started, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="The packet of every handoff, whatever the reason")
    parser.add_argument("--every", type=int, default=1, help="each so manieth question")
    parser.add_argument("--var", type=Path, default=Path(os.environ.get("OTVET_VAR", "var")))
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("OTVET_DATA", "data")))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="otvet-packets-") as folder:
        address = f"sqlite+aiosqlite:///{Path(folder) / 'otvet.sqlite3'}"
        settings = Settings(
            _env_file=None, var=arguments.var, data=arguments.data, database_url=address, gather_seconds=0
        )
        configure_logging("CRITICAL")
        installation = Installation(settings, progress=lambda line: print(line, file=sys.stderr))
        installation.prepare()
        result = asyncio.run(measure(installation, arguments.every))
    print(json.dumps(result, indent=1, ensure_ascii=False))
    if result["complete"] < 1:
        sys.exit(1)


if __name__ == "__main__":
    main()
