"""What the flow of a turn wants to be looked up before it goes on. Another system may be asked: no transaction is open
meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Protocol

import structlog

from bot.channels.base import InboundMessage
from bot.dialogue import Decision
from bot.flows.engine import Looked, LookUp
from bot.flows.lookups import Asker
from bot.flows.turns import MAX_LOOKUPS, FlowBook, carry_on, give_up

log = structlog.get_logger()

LOOKUP_SECONDS = 20.0
"""Whatever a lookup's own limit is, a turn waits no longer."""


class Lookups(Protocol):
    """Looks up what flows ask for."""

    async def run(self, name: str, slots: Mapping[str, Any], asker: Asker) -> Looked:
        """Never raises: what goes wrong is a reason. Takes seconds at most."""


class LookingUp:
    def __init__(self, lookups: Lookups | None, clock: Callable[[], datetime]) -> None:
        """lookups: None: every lookup fails."""
        self._lookups = lookups
        self._clock = clock

    async def until_done(self, decision: Decision, first: InboundMessage, lang: str, book: FlowBook) -> Decision:
        """The decision when everything that its flow wants is looked up. first: of the utterance's messages."""
        for _ in range(MAX_LOOKUPS):
            if decision.look_up is None:
                return decision
            flow = decision.state.flow.flow if decision.state.flow else ""
            looked = await self._look_up(decision.look_up, Asker(first.address, lang, flow, first.external_id))
            decision = carry_on(decision, looked, lang, book, self._clock())
        return give_up(decision, lang, book) if decision.look_up is not None else decision

    async def _look_up(self, wanted: LookUp, asker: Asker) -> Looked:
        if self._lookups is None:
            return Looked(False, reason="unknown")
        try:
            async with asyncio.timeout(LOOKUP_SECONDS):
                return await self._lookups.run(wanted.name, wanted.slots, asker)
        except Exception as error:  # noqa: BLE001
            # Edge: whatever breaks in a lookup, its flow knows where to go on.
            log.warning("flow.lookup_failed", flow=asker.flow, lookup=wanted.name, error=type(error).__name__)
            return Looked(False, reason="timeout" if isinstance(error, TimeoutError) else "failed")
