"""What the processes of one installation share for the moment: wake-ups, rate limits, who is here.

Nothing here is durable and nothing is lost with it. `LocalShared` serves one process; `bot.shared_redis.RedisShared`
serves all of them, and falls back to the local one while its server is away. `tests/contract/test_shared.py` holds
both to the same.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol

PRESENT_SECONDS = 60.0
"""How long somebody counts as present after the last sign of life."""
_MANY = 10_000


@dataclass(frozen=True)
class Rate:
    """At most `burst` at once, and one in `every_seconds` in the long run. `key` names what is counted."""

    key: str
    every_seconds: float
    burst: int = 1


class Shared(Protocol):
    """None of these raises because a server is away."""

    @property
    def live(self) -> bool:
        """Whether wake-ups of every process arrive here. If not, a listener must look by itself every second."""

    async def run(self) -> None:
        """Keep the connection until cancelled."""

    async def close(self) -> None:
        """Let go of the connections. `run` must have ended."""

    async def wake(self, topic: str) -> None:
        """Tell every listener of this topic, in any process, that there may be something new."""

    def listen(self, topic: str) -> AbstractContextManager[asyncio.Event]:
        """An event that is set by `wake`, and whenever a wake-up may have been missed. Wait, clear, look."""

    def listeners(self, topic: str = "") -> int:
        """How many listen in this process: to this topic, or to any."""

    async def take(self, *rates: Rate) -> float:
        """Count one in each rate and return 0; or count none and return the seconds to wait."""

    async def book(self, ticket: str, own: Rate | None, common: Rate | None) -> float:
        """The seconds to wait before sending; 0: send now.

        `own` belongs to one receiver, who has one sender at a time: nothing is counted while it says wait. For
        `common` many wait at once, so each is given its own moment under its `ticket`; asked again then, it gets 0.
        """

    async def beat(self, group: str, member: str) -> None:
        """A sign of life, good for PRESENT_SECONDS."""

    async def present(self, group: str) -> frozenset[str]:
        """Who of a group has given a sign of life lately."""


class LocalShared:
    """Shared within one process.

    alone: whether there is no other process to hear from. now: seconds that only go forward.
    """

    def __init__(self, *, alone: bool = True, now: Callable[[], float] = time.monotonic) -> None:
        self.live = alone
        self.topics: dict[str, set[asyncio.Event]] = {}
        self._now = now
        self._until: dict[str, float] = {}
        """Rate → the theoretical arrival time of the generic cell rate algorithm (ITU-T I.371)."""
        self._booked: dict[str, float] = {}
        self._present: dict[str, dict[str, float]] = {}
        self._beats = 0

    async def run(self) -> None:
        await asyncio.Event().wait()

    async def close(self) -> None:
        """There is no connection."""

    async def wake(self, topic: str) -> None:
        self.wake_here(topic)

    def wake_here(self, topic: str | None = None) -> None:
        """Wake this process's listeners: of one topic, or all."""
        for name in (topic,) if topic is not None else tuple(self.topics):
            for event in self.topics.get(name, ()):
                event.set()

    @contextmanager
    def listen(self, topic: str) -> Iterator[asyncio.Event]:
        event = asyncio.Event()
        self.topics.setdefault(topic, set()).add(event)
        try:
            yield event
        finally:
            self.topics[topic].discard(event)
            if not self.topics[topic]:
                del self.topics[topic]

    def listeners(self, topic: str = "") -> int:
        return len(self.topics.get(topic, ())) if topic else sum(map(len, self.topics.values()))

    async def take(self, *rates: Rate) -> float:
        now = self._now()
        wait = max((self._free_at(rate, now) - now for rate in rates), default=0.0)
        if wait <= 0:
            self._count(rates, now, now)
        return max(wait, 0.0)

    async def book(self, ticket: str, own: Rate | None, common: Rate | None) -> float:
        now = self._now()
        if ticket in self._booked:
            wait = self._booked[ticket] - now
            if wait <= 0:
                del self._booked[ticket]
            return max(wait, 0.0)
        if own and (wait := self._free_at(own, now) - now) > 0:
            return wait
        moment = max(now, self._free_at(common, now)) if common else now
        self._count([rate for rate in (own, common) if rate], moment, now)
        if moment > now:
            if len(self._booked) > _MANY:  # of messages that were discarded meanwhile
                self._booked = {key: at for key, at in self._booked.items() if at > now - PRESENT_SECONDS}
            self._booked[ticket] = moment
        return moment - now

    def _free_at(self, rate: Rate, now: float) -> float:
        return max(self._until.get(rate.key, now), now) - (rate.burst - 1) * rate.every_seconds

    def _count(self, rates: list[Rate] | tuple[Rate, ...], moment: float, now: float) -> None:
        if len(self._until) > _MANY:
            self._until = {key: until for key, until in self._until.items() if until > now}
        for rate in rates:
            self._until[rate.key] = max(self._until.get(rate.key, now), moment) + rate.every_seconds

    async def beat(self, group: str, member: str) -> None:
        if self._beats >= _MANY:  # of those for whom nobody has asked
            self._beats = 0
            for each in tuple(self._present):
                self._alive(each)
        self._beats += 1
        self._present.setdefault(group, {})[member] = self._now() + PRESENT_SECONDS

    async def present(self, group: str) -> frozenset[str]:
        return frozenset(self._alive(group))

    def _alive(self, group: str) -> dict[str, float]:
        """Who of a group is here; the others are forgotten, and the group with the last of them."""
        now = self._now()
        alive = {member: until for member, until in self._present.pop(group, {}).items() if until > now}
        if alive:
            self._present[group] = alive
        return alive
