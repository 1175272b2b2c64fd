"""The terminal: what `otvet chat` speaks through."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

from bot.channels.base import Address, Capabilities, DeliveryError, InboundAttachment, OutboundMessage, Receive


class TerminalChannel:
    """Hands every reply to `show`. Choices are written as a numbered list, or left apart for a program to read."""

    name = "terminal"

    def __init__(self, show: Callable[[OutboundMessage], None], *, buttons: bool = False) -> None:
        self._show = show
        self.capabilities = Capabilities(max_text_chars=1_000_000, max_buttons=100 if buttons else 0)

    async def run(self, receive: Receive) -> None:
        """Nothing to wait for: `otvet chat` reads the lines itself."""

    async def send(self, address: Address, message: OutboundMessage) -> str | None:
        self._show(message)
        return None

    async def working(self, address: Address, external_id: str) -> None:
        """An answer is there before one could show it."""

    async def fetch(self, attachment: InboundAttachment) -> AsyncIterator[bytes]:
        raise DeliveryError("there are no files in a terminal", permanent=True)
        yield b""
