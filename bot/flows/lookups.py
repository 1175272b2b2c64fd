"""Lookups: what a flow asks of the shop's own system, or has done there, as data/lookups.yml describes it.

A lookup never raises and never waits longer than its time: it comes to what `Looked` says. Only servers of the
allow list are called, at the address that was checked, and no redirection is followed. What it sends and gets is in
no log.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from functools import lru_cache
from time import monotonic
from typing import Any, Final
from urllib.parse import quote

import httpx
import jmespath
import structlog
from jinja2 import Template, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jmespath.exceptions import JMESPathError

from bot import metrics
from bot.addresses import Allowed, address_of
from bot.breaker import Breaker
from bot.channels.base import Address
from bot.errors import DeliveryError, FlowRunError, LookupFileError
from bot.flows import words as flow_words
from bot.flows.engine import Looked
from bot.flows.format import words
from bot.flows.lookup_format import CHECK_CODE, SEND_CODE, Lookup, LookupFile, with_secrets
from bot.flows.proof import MINUTES, Proofs, Refusal
from bot.shared import Rate, Shared

log = structlog.get_logger()

MAX_ANSWER_BYTES: Final = 256 * 1024
MAX_VALUE_CHARS: Final = 1000
"""Of a slot that goes into a request."""
MAX_SUBJECT_CHARS: Final = 100
CONNECT_SECONDS: Final = 5.0
CACHED: Final = 2000
PAUSE_SECONDS: Final = 0.2
"""Before a second try, with chance in it."""
ASKED_AT_ONCE, ONE_IN_SECONDS = 20, 30.0
"""How much one customer may have looked up: so many at once, and then one in so many seconds."""

UNAVAILABLE, BAD_ANSWER, REFUSED = "unavailable", "bad_answer", "refused"
"""Reasons: the server can't be reached or has a fault; it says what makes no sense; it says no."""
NOT_ALLOWED, NOT_PROVED, TOO_OFTEN = "not_allowed", "not_proved", "too_often"
MISSING, UNKNOWN = "missing", "unknown_lookup"
REASONS: Final = frozenset(
    (UNAVAILABLE, BAD_ANSWER, REFUSED, NOT_ALLOWED, NOT_PROVED, TOO_OFTEN, MISSING, UNKNOWN, *Refusal)
)
"""What a flow may reckon with beside a lookup's own reasons."""


@dataclass(frozen=True)
class Asker:
    """For whom something is looked up."""

    address: Address
    lang: str
    flow: str = ""
    turn: str = ""
    """By which a repeat of the same turn is known: the id of the message."""

    @property
    def who(self) -> str:
        return f"{self.address.channel}:{self.address.account}:{self.address.chat_id}"


@dataclass(frozen=True)
class _Called:
    status: int
    body: bytes


@dataclass
class _Line:
    """One server."""

    base: httpx.URL
    headers: Mapping[str, str]
    private: bool
    breaker: Breaker
    client: httpx.AsyncClient | None = field(default=None)


class Lookups:
    """Does the lookups of one file."""

    def __init__(
        self,
        file: LookupFile,
        *,
        allowed: Allowed,
        secrets: Mapping[str, str],
        shared: Shared,
        clock: Callable[[], datetime],
        proofs: Proofs | None = None,
        demo: str | None = None,
        zone: tzinfo = UTC,
    ) -> None:
        """secrets: what `${…}` stands for. demo: where the demo shop listens. proofs: needed where the file has a
        `proof`. Raises LookupFileError for a server that may not be called or a secret that is not set."""
        self.file = file
        self._shared = shared
        self._clock = clock
        self._zone = zone
        self._proofs = proofs
        self._cache: OrderedDict[str, tuple[float, Any]] = OrderedDict()
        self._lines = {
            name: self._line(name, server.address, server.headers, allowed, secrets, demo)
            for name, server in file.servers.items()
        }

    def _line(
        self,
        name: str,
        address: str,
        headers: Mapping[str, str],
        allowed: Allowed,
        secrets: Mapping[str, str],
        demo: str | None,
    ) -> _Line:
        if address == "demo":
            if demo is None:
                raise LookupFileError("lookups.yml", None, f"servers.{name}: the demo shop is off (OTVET_DEMO_SHOP)")
            address = demo
        try:
            base = httpx.URL(address.rstrip("/"))
        except (httpx.InvalidURL, ValueError) as error:
            raise LookupFileError("lookups.yml", None, f"servers.{name}: {error}") from error
        if refusal := allowed.refusal(base):
            problem = f"servers.{name}: {refusal}: name it in OTVET_LOOKUP_HOSTS (or OTVET_LOOKUP_PRIVATE_HOSTS)"
            raise LookupFileError("lookups.yml", None, problem)
        try:
            ready = {key: with_secrets(value, secrets) for key, value in headers.items()}
        except KeyError as error:
            raise LookupFileError("lookups.yml", None, f"servers.{name}: set {error.args[0]}") from error
        return _Line(base, ready, allowed.is_private(base), Breaker(self._clock))

    async def close(self) -> None:
        for line in self._lines.values():
            if line.client is not None:
                await line.client.aclose()
                line.client = None

    async def unreachable(self) -> list[str]:
        """The servers that no connection can be made to now, and why."""
        found = []
        for name, line in self._lines.items():
            try:
                async with asyncio.timeout(CONNECT_SECONDS):
                    address = await address_of(line.base, private=line.private)
                    if address is None:
                        found.append(f"{name}: its name leads into a private network")
                        continue
                    port = line.base.port or (443 if line.base.scheme == "https" else 80)
                    _, writer = await asyncio.open_connection(address, port)
                    writer.close()
            except (OSError, DeliveryError) as error:
                found.append(f"{name}: can't be reached ({type(error).__name__})")
        return found

    async def run(self, name: str, slots: Mapping[str, Any], asker: Asker) -> Looked:
        """Look something up. Never raises."""
        begun = monotonic()
        try:
            looked = await self._run(name, slots, asker)
        except Exception as error:  # noqa: BLE001
            # Edge: whatever fails here, the flow goes on its way for failures. Its words may hold what was sent.
            log.error("lookup.broke", lookup=name, error=type(error).__name__)
            looked = Looked(False, reason=UNAVAILABLE)
        seconds = monotonic() - begun
        known = name if name in self.file.names else "other"
        outcome = "ok" if looked.ok else looked.reason
        metrics.LOOKUPS.labels(known, outcome).inc()
        metrics.LOOKUP_SECONDS.labels(known).observe(seconds)
        log.info("lookup.done", lookup=known, outcome=outcome, ms=round(seconds * 1000))
        return looked

    async def _run(self, name: str, slots: Mapping[str, Any], asker: Asker) -> Looked:
        if name not in self.file.names:
            return Looked(False, reason=UNKNOWN)
        if await self._shared.take(Rate(f"lookup:{_digest(asker.who)}", ONE_IN_SECONDS, ASKED_AT_ONCE)) > 0:
            metrics.RATE_LIMITED.labels("lookup").inc()
            return Looked(False, reason=TOO_OFTEN)
        if name in (SEND_CODE, CHECK_CODE):
            return await self._prove(name, slots, asker)
        return await self._look_up(name, slots, asker)

    async def _look_up(self, name: str, slots: Mapping[str, Any], asker: Asker) -> Looked:
        lookup = self.file.lookups[name]
        values = {each: plain for each in lookup.needs if (plain := _plain(slots.get(each))) is not None}

        def failed(reason: str) -> Looked:
            return Looked(False, reason=reason, said=words(lookup.failed, asker.lang) if lookup.failed else "")

        if len(values) < len(set(lookup.needs)):
            return failed(MISSING)
        if lookup.proof and not (
            self._proofs and await self._proofs.holds(asker.who, self._subject(values, lookup.proof))
        ):
            return failed(NOT_PROVED)
        asked = {**values, "lang": asker.lang}
        key = json.dumps([name, asked], ensure_ascii=False, sort_keys=True)
        found = self._cached(key)
        if found is None:
            reason, found = await self._ask(name, lookup, asked, asker)
            if reason:
                return failed(reason)
            self._keep(key, found, lookup.cache_seconds)
        if lookup.answer:
            source = words(lookup.answer, asker.lang)
            today = {"lang": asker.lang, "today": self._clock().astimezone(self._zone).date()}
            try:
                answer = flow_words.render(source, {**slots, **(found if isinstance(found, dict) else {}), **today})
            except FlowRunError as error:
                log.error("lookup.answer_broken", lookup=name, error=str(error)[:200])
                return failed(BAD_ANSWER)
            found = {**found, "answer": answer} if isinstance(found, dict) else {"found": found, "answer": answer}
        return Looked(True, data=found)

    # One call.

    async def _ask(self, name: str, lookup: Lookup, values: Mapping[str, str], asker: Asker) -> tuple[str, Any]:
        """The reason why not, or what was found."""
        line = self._lines[lookup.server]
        try:
            url = _address(line.base, lookup, values)
            body = {key: _text(template, values) for key, template in lookup.body.items()} or None
        except (ValueError, TemplateError) as error:
            log.warning("lookup.request_refused", lookup=name, error=type(error).__name__)
            return REFUSED, None
        headers = dict(line.headers)
        if lookup.method not in ("GET", "DELETE"):
            # The same turn done twice, after a stop of the program say, is known to the other side.
            headers["Idempotency-Key"] = _digest(
                asker.who, asker.turn, asker.flow, name, *map(str, (body or {}).values()), str(url)
            )
        tries = 1 + (lookup.retries if lookup.may_repeat else 0)
        for left in reversed(range(tries)):
            try:
                called = await line.breaker.call(lambda: self._call(line, lookup, url, headers, body))
            except _BarredError as error:
                log.error("lookup.not_allowed", lookup=name, error=str(error))
                return NOT_ALLOWED, None
            except _TooLargeError:
                return BAD_ANSWER, None
            except DeliveryError as error:
                if not left or error.retry_after_seconds is not None:
                    log.warning("lookup.unavailable", lookup=name, error=str(error))
                    return UNAVAILABLE, None
                await asyncio.sleep(PAUSE_SECONDS * (1 + random.random()))  # noqa: S311
            else:
                return _found(lookup, called)
        raise AssertionError("there is a last try")

    async def _call(
        self, line: _Line, lookup: Lookup, url: httpx.URL, headers: Mapping[str, str], body: Any
    ) -> _Called:
        """Raises DeliveryError, for a server that can't do it now, and _BarredError, _TooLargeError."""
        try:
            async with asyncio.timeout(lookup.seconds):
                address = await address_of(url, private=line.private)
                if address is None:
                    raise _BarredError("the name leads into a private network")
                if line.client is None:
                    line.client = httpx.AsyncClient(trust_env=False, follow_redirects=False, timeout=None)  # noqa: S113
                # Compressed answers are refused: what they grow to is known too late.
                own = {"accept": "application/json", "accept-encoding": "identity", "host": url.netloc.decode()}
                async with line.client.stream(
                    lookup.method,
                    url.copy_with(host=address),
                    json=body,
                    headers={**headers, **own},
                    extensions={"sni_hostname": url.host},
                ) as response:
                    if response.status_code >= 500 or response.status_code == 429:
                        raise DeliveryError(f"answered {response.status_code}")
                    return _Called(response.status_code, await _body(response))
        except TimeoutError as error:
            raise DeliveryError(f"no answer within {lookup.seconds:g} s") from error
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
            # Its words may hold the address.
            raise DeliveryError(f"can't be reached: {type(error).__name__}") from None

    # What was found lately.

    def _cached(self, key: str) -> Any:
        until, found = self._cache.get(key, (0.0, None))
        if until < monotonic():
            self._cache.pop(key, None)
            return None
        self._cache.move_to_end(key)
        return found

    def _keep(self, key: str, found: Any, seconds: float) -> None:
        if seconds > 0:
            self._cache[key] = monotonic() + seconds, found
            while len(self._cache) > CACHED:
                self._cache.popitem(last=False)

    # Who asks.

    def _subject(self, values: Mapping[str, str], name: str) -> str:
        return f"{name}:{values[name]}"

    async def _prove(self, name: str, slots: Mapping[str, Any], asker: Asker) -> Looked:
        """`send-code` has the owner sent a code, `check-code` takes it. Whether there is such an order is not told."""
        how = self.file.proof
        subject = _plain(slots.get(how.subject)) if how else None
        if how is None or self._proofs is None or subject is None or len(subject) > MAX_SUBJECT_CHARS:
            return Looked(False, reason=MISSING)
        owned = f"{how.subject}:{subject}"
        if await self._proofs.holds(asker.who, owned):
            return Looked(True, data={"proved": True})
        if name == CHECK_CODE:
            refusal = await self._proofs.check(asker.who, owned, _plain(slots.get(how.code)) or "", how.minutes)
            return Looked(False, reason=refusal) if refusal else Looked(True, data={"proved": True})
        # A turn may be thought out again, by another worker say: its code is on its way already.
        turn = _digest(asker.who, asker.turn, owned) if asker.turn else ""
        sent_already = Looked(True, data={"proved": False, "minutes": MINUTES})
        if turn and await self._proofs.was_told(asker.who, owned, turn):
            return sent_already
        made = await self._proofs.new_code(asker.who, owned)
        if isinstance(made, Refusal):
            return Looked(False, reason=made)
        text = flow_words.render(
            words(how.text, asker.lang), {"code": made.code, "minutes": made.minutes, "lang": asker.lang}
        )
        sent = await self._look_up(how.sent_by, {**slots, "text": text}, asker)
        if not sent.ok and sent.reason in REASONS:
            return Looked(False, reason=sent.reason, said=sent.said)
        if turn:
            await self._proofs.told(asker.who, owned, turn)
        return sent_already


class _BarredError(Exception):
    """The address may not be called."""


class _TooLargeError(Exception):
    """More came than is read."""


_PATHS = ImmutableSandboxedEnvironment(
    autoescape=False, finalize=lambda value: quote(str(value), safe=""), cache_size=0
)
_TEXTS = ImmutableSandboxedEnvironment(autoescape=False, cache_size=0)


@lru_cache(maxsize=500)
def _template(source: str, *, path: bool) -> Template:
    made = (_PATHS if path else _TEXTS).from_string(source)
    made.globals = {}
    return made


def _text(source: str, values: Mapping[str, str]) -> str:
    return _template(source, path=False).render(values)


def _address(base: httpx.URL, lookup: Lookup, values: Mapping[str, str]) -> httpx.URL:
    """Where to ask. Raises ValueError where a value would lead to another path than the file's."""
    path = _template(lookup.path, path=True).render(values)
    if any(part in (".", "..", "") for part in path.split("?")[0].split("/")[1:]) or len(path) > 2000:
        raise ValueError("no such path")
    query = {key: _text(template, values) for key, template in lookup.query.items()}
    url = httpx.URL(f"{base}{path}")
    return url.copy_merge_params(query) if query else url


async def _body(response: httpx.Response) -> bytes:
    if response.headers.get("content-encoding", "identity") != "identity":
        raise _TooLargeError
    parts, length = [], 0
    async for chunk in response.aiter_raw():
        parts.append(chunk)
        length += len(chunk)
        if length > MAX_ANSWER_BYTES:
            raise _TooLargeError
    return b"".join(parts)


def _found(lookup: Lookup, called: _Called) -> tuple[str, Any]:
    if called.status in lookup.reasons:
        return lookup.reasons[called.status], None
    if not 200 <= called.status < 300:
        return (BAD_ANSWER if called.status < 400 else REFUSED), None
    if not called.body and not lookup.result:
        return "", {}
    try:
        answer = json.loads(called.body)
        if not lookup.result:
            return "", answer
        found = {name: _expression(source).search(answer) for name, source in lookup.result.items()}
    except (ValueError, RecursionError, JMESPathError, TypeError):
        return BAD_ANSWER, None
    missing = any(found[name] is None for name in lookup.required)
    return (BAD_ANSWER, None) if missing else ("", found)


@lru_cache(maxsize=500)
def _expression(source: str) -> Any:
    return jmespath.compile(source)


def _plain(value: Any) -> str | None:
    """A slot as it goes into a request; None: it is not there, or no plain value."""
    if value is None or value == "" or not isinstance(value, (str, int, float)):
        return None
    text = str(value)
    return text if len(text) <= MAX_VALUE_CHARS else None


def _digest(*parts: str) -> str:
    return hashlib.sha256("\x00".join(parts).encode()).hexdigest()[:40]
