"""What did not work at the Telegram desk waits by itself, and holds up nothing else. Kept in memory: a process that
starts anew tries again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

FIRST_PAUSE = timedelta(seconds=5)
LONGEST_PAUSE = timedelta(minutes=5)
MAX_REFUSALS = 4
"""More than a file has tries, so that it is named in the end and not left out."""

Key = tuple[str, int]
"""What of whom: ("said", 7) is what there is to tell in the topic of ticket 7."""
Work = Callable[[], Awaitable[None]]


@dataclass(frozen=True)
class Step:
    """One thing to do for a group, mostly one call."""

    key: Key
    do: Work
    leave: Work | None = None
    """Goes on without it, once it was refused too often. None: it is tried for as long as it takes."""


@dataclass(frozen=True)
class _Trouble:
    failures: int
    refusals: int
    until: datetime


class Pauses:
    def __init__(self, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self._all: dict[Key, _Trouble] = {}

    def until(self, key: Key) -> datetime | None:
        """When it may be tried again; None: now."""
        found = self._all.get(key)
        return found.until if found is not None and self._clock() < found.until else None

    def waiting(self, what: str) -> list[int]:
        return [key[1] for key in self._all if key[0] == what and self.until(key)]

    def hold(self, key: Key, pause: timedelta) -> datetime:
        """Not before this long from now: the moment."""
        known = self._all.get(key, _Trouble(0, 0, self._clock()))
        self._all[key] = replace(known, until=self._clock() + pause)
        return self._all[key].until

    def failed(self, key: Key, *, refused: bool) -> int:
        """It waits, longer each time; how often it was refused. refused: trying again is not likely to help."""
        known = self._all.get(key, _Trouble(0, 0, self._clock()))
        until = self._clock() + min(FIRST_PAUSE * 2 ** min(known.failures, 10), LONGEST_PAUSE)
        self._all[key] = _Trouble(known.failures + 1, known.refusals + refused, until)
        return self._all[key].refusals

    def over(self, key: Key) -> None:
        """Nothing is wrong with it any more."""
        self._all.pop(key, None)
