"""`otvet chat`: the assistant in a terminal or a pipe, through the same ledger and turns as every channel."""

from __future__ import annotations

import asyncio
import json
import sys
import uuid
from collections.abc import Iterator

from bot.channels.base import Address, InboundMessage, OutboundMessage
from bot.channels.terminal import TerminalChannel
from bot.model_wiring import utc_now
from bot.wiring import Installation

JSON_KEYS = ("intent", "confidence", "article_id", "hits", "ticket_id", "topic", "reason")


async def talk(installation: Installation, *, lang: str | None, as_json: bool) -> None:
    """Read messages, one a line, until the end of the input; each is answered before the next is read."""
    interactive = sys.stdin.isatty() and not as_json
    channel = TerminalChannel(_show_json, buttons=True) if as_json else TerminalChannel(_show)
    await installation.migrate()
    assistant = installation.assistant([channel])
    shop = asyncio.create_task(installation.demo_shop.run()) if installation.demo_shop else None
    if interactive and installation.demo_shop:
        installation.progress(f"The demo shop sends its codes to {installation.demo_shop.url}/outbox")
    address = Address(channel.name, "", uuid.uuid4().hex)

    async def put(kind: str, text: str = "") -> None:
        message = InboundMessage(
            address=address,
            external_id=uuid.uuid4().hex,
            sent_at=utc_now(),
            kind=kind,
            text=text,
            lang_hint=lang,
        )
        await assistant.receive(message)
        await assistant.drain()

    try:
        if interactive:
            await put("start")
        lines = _lines(interactive)
        while (line := await asyncio.to_thread(next, lines, None)) is not None:
            await put("text", line)
    finally:
        if shop is not None:
            shop.cancel()
            await asyncio.gather(shop, return_exceptions=True)
        await installation.close()


def _lines(interactive: bool) -> Iterator[str]:
    """Lines of the standard input. What is not UTF-8 is replaced, not refused."""
    while True:
        if interactive:
            print("> ", end="", flush=True)
        line = sys.stdin.buffer.readline()
        if not line:
            return
        yield line.decode("utf-8", "replace").rstrip("\r\n")


def _show(message: OutboundMessage) -> None:
    print(f"{message.agent_name + ': ' if message.agent_name else ''}{message.text}\n", flush=True)


def _show_json(message: OutboundMessage) -> None:
    decision = message.decision or {}
    row = {"action": decision.get("action"), "text": message.text}
    row |= {key: decision.get(key) for key in JSON_KEYS}
    row["options"] = [{"token": option.token, "label": option.label} for option in message.options]
    print(json.dumps(row, ensure_ascii=False), flush=True)
