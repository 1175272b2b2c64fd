"""`Shared` over Redis or Valkey. While the server is away, each process goes on by itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import structlog
from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from bot.errors import SettingsError
from bot.metrics import REDIS_LOST, REDIS_UP
from bot.shared import PRESENT_SECONDS, LocalShared, Rate

log = structlog.get_logger()

COMMAND_SECONDS = 1.0
"""A slower answer counts as none: a message is worth more than its rate limit."""
RETRY_SECONDS = 1.0
QUIET_SECONDS = 10.0
"""After so long without a word from the server, it is asked whether it is there."""

# The same as LocalShared.take and .book, in microseconds of the server's clock, so that all workers agree on the time.
# KEYS: the rates, then perhaps a ticket. ARGV: for each rate its interval and its tolerance.
_RATES = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local count = #ARGV / 2
local ticket = KEYS[count + 1]
if ticket then
  local booked = redis.call('GET', ticket)
  if booked then
    if tonumber(booked) > now then return tonumber(booked) - now end
    redis.call('DEL', ticket)
    return 0
  end
end
local moment, wait, untils = now, 0, {}
for i = 1, count do
  untils[i] = math.max(tonumber(redis.call('GET', KEYS[i]) or now), now)
  local free = untils[i] - ARGV[2 * i]
  if not (ticket and i == count) then wait = math.max(wait, free - now)
  else moment = math.max(now, free) end
end
if wait > 0 then return wait end
for i = 1, count do
  local untl = math.max(untils[i], moment) + ARGV[2 * i - 1]
  redis.call('SET', KEYS[i], string.format('%.0f', untl), 'PX', math.ceil((untl - now) / 1000) + 1)
end
if moment > now then
  redis.call('SET', ticket, string.format('%.0f', moment), 'PX', math.ceil((moment - now) / 1000) + 60000)
end
return moment - now
"""

Answer = TypeVar("Answer")


class RedisShared:
    """One installation on one database of the server: keys and channels begin with `otvet:` and its number."""

    def __init__(self, url: str) -> None:
        """Raises SettingsError for an address that can't be read. Connects at the first use."""
        retry = Retry(NoBackoff(), 0)  # this class retries, and answers from the local one meanwhile
        try:
            self._redis: Redis = Redis.from_url(
                url,
                decode_responses=True,
                # Its own goes through asyncio.wait_for, which may swallow a cancellation before Python 3.12.
                socket_timeout=None,
                socket_connect_timeout=COMMAND_SECONDS,
                socket_keepalive=True,
                max_connections=64,
                retry=retry,
            )
        except ValueError as error:
            raise SettingsError("OTVET_REDIS_URL: expected redis://[:password@]host:port/number") from error
        self._local = LocalShared(alone=False)
        self._prefix = f"otvet:{self._redis.connection_pool.connection_kwargs.get('db', 0)}:"
        self._rates = self._redis.register_script(_RATES)
        self._subscribed = False
        self._changed = asyncio.Event()
        self._up: bool | None = None
        self._try_again_at = 0.0

    @property
    def live(self) -> bool:
        return self._subscribed

    async def ping(self) -> str:
        """The server's name and version. Raises RedisError or OSError where it can't be reached."""
        async with asyncio.timeout(COMMAND_SECONDS):
            info = await self._redis.info("server")
        name = info.get("server_name", "redis")
        return f"{name} {info.get(f'{name}_version', info.get('redis_version', ''))}"

    async def close(self) -> None:
        await self._redis.aclose()

    async def run(self) -> None:
        while True:
            connected = asyncio.Event()
            async with self._redis.pubsub() as pubsub:
                try:
                    async with asyncio.TaskGroup() as group:
                        group.create_task(self._follow_topics(pubsub, connected))
                        group.create_task(self._hear(pubsub, connected))
                except* (RedisError, OSError) as errors:
                    self._lost(errors.exceptions[0])
            self._subscribed = False
            self._local.wake_here()  # from now on everybody looks by himself
            await asyncio.sleep(RETRY_SECONDS)

    async def _follow_topics(self, pubsub: PubSub, connected: asyncio.Event) -> None:
        """Subscribe to what this process listens to, and to nothing else."""
        subscribed: set[str] = set()
        while True:
            self._changed.clear()
            wanted = {"", *self._local.topics}  # the empty one keeps the connection
            async with asyncio.timeout(COMMAND_SECONDS):
                if new := wanted - subscribed:
                    await pubsub.subscribe(*(self._channel(topic) for topic in new))
                if gone := subscribed - wanted:
                    await pubsub.unsubscribe(*(self._channel(topic) for topic in gone))
            subscribed = wanted
            connected.set()
            await self._changed.wait()

    async def _hear(self, pubsub: PubSub, connected: asyncio.Event) -> None:
        await connected.wait()
        asked = False
        while True:
            message = await pubsub.get_message(timeout=COMMAND_SECONDS if asked else QUIET_SECONDS)
            if message is None:
                if asked:
                    raise ConnectionError("no answer")
                await pubsub.ping()
                asked = True
                continue
            asked = False
            if message["type"] in ("message", "subscribe"):
                # What was woken before the subscription began would be missed: each begins with a look.
                if not self._subscribed:
                    self._subscribed = True
                    self._back()
                self._local.wake_here(message["channel"].removeprefix(self._channel("")))

    def _channel(self, topic: str) -> str:
        return f"{self._prefix}live:{topic}"

    async def wake(self, topic: str) -> None:
        published = await self._ask(self._redis.publish(self._channel(topic), ""))
        if published is None or not self._subscribed:
            self._local.wake_here(topic)

    def listen(self, topic: str) -> AbstractContextManager[asyncio.Event]:
        return _Listening(self._local.listen(topic), self._changed)

    def listeners(self, topic: str = "") -> int:
        return self._local.listeners(topic)

    async def take(self, *rates: Rate) -> float:
        wait = await self._ask(self._rates(self._keys(rates), _arguments(rates))) if rates else 0
        return await self._local.take(*rates) if wait is None else int(wait) / 1e6

    async def book(self, ticket: str, own: Rate | None, common: Rate | None) -> float:
        rates = tuple(rate for rate in (own, common) if rate)
        if not common:
            return await self.take(*rates)
        keys = [*self._keys(rates), f"{self._prefix}slot:{ticket}"]
        wait = await self._ask(self._rates(keys, _arguments(rates)))
        return await self._local.book(ticket, own, common) if wait is None else int(wait) / 1e6

    def _keys(self, rates: tuple[Rate, ...]) -> list[str]:
        return [f"{self._prefix}rate:{rate.key}" for rate in rates]

    async def beat(self, group: str, member: str) -> None:
        await self._local.beat(group, member)
        key, now = f"{self._prefix}present:{group}", time.time()
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.zadd(key, {member: now + PRESENT_SECONDS})
            pipe.zremrangebyscore(key, 0, now)
            pipe.expire(key, int(PRESENT_SECONDS) + 1)
            await self._ask(pipe.execute())

    async def present(self, group: str) -> frozenset[str]:
        key = f"{self._prefix}present:{group}"
        found = await self._ask(self._redis.zrangebyscore(key, time.time(), "inf"))
        return await self._local.present(group) if found is None else frozenset(map(str, found))

    async def _ask(self, command: Awaitable[Answer]) -> Answer | None:
        """The answer, or None while the server is away: then it is not even asked, but once in RETRY_SECONDS."""
        if time.monotonic() < self._try_again_at:
            if asyncio.iscoroutine(command):
                command.close()
            return None
        try:
            async with asyncio.timeout(COMMAND_SECONDS):
                answer = await command
        except (RedisError, OSError) as error:
            self._lost(error)
            return None
        self._back()
        return answer

    def _lost(self, error: BaseException) -> None:
        self._try_again_at = time.monotonic() + RETRY_SECONDS
        if self._up is not False:
            self._up = False
            REDIS_UP.set(0)
            REDIS_LOST.inc()
            log.warning("redis.lost", error=type(error).__name__, then="each process limits and polls by itself")

    def _back(self) -> None:
        self._try_again_at = 0.0
        if self._up is not True:
            if self._up is False:
                log.info("redis.back")
            self._up = True
            REDIS_UP.set(1)


class _Listening(AbstractContextManager[asyncio.Event]):
    """A local listener whose coming and going is told to the subscriber."""

    def __init__(self, local: AbstractContextManager[asyncio.Event], changed: asyncio.Event) -> None:
        self._local, self._changed = local, changed

    def __enter__(self) -> asyncio.Event:
        event = self._local.__enter__()
        self._changed.set()
        return event

    def __exit__(self, *raised: Any) -> None:
        self._local.__exit__(*raised)
        self._changed.set()


def _arguments(rates: tuple[Rate, ...]) -> list[int]:
    return [
        round(value * 1e6) for rate in rates for value in (rate.every_seconds, (rate.burst - 1) * rate.every_seconds)
    ]
