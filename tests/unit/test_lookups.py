"""Lookups: what is asked of the shop, what keeps that from harm and from telling too much, and what if it fails."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import count
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import pytest
import structlog
from databases import MakeDatabase
from sqlalchemy import func, select, update

from bot.addresses import Allowed
from bot.channels.base import Address
from bot.database import migrate, open_database
from bot.demo_shop import DemoShop, Sent
from bot.errors import LookupFileError
from bot.flows import lookups as looking
from bot.flows.engine import Looked
from bot.flows.lookup_format import parse_lookups, read_lookups
from bot.flows.lookups import Asker, Lookups
from bot.flows.proof import CODES_A_DAY, CODES_AN_HOUR, GUESSES_A_DAY, TRIES, NewCode, ProofRow, Proofs
from bot.shared import LocalShared

DATA = Path(__file__).parents[2] / "data"


def asker(chat: str, lang: str = "ru") -> Asker:
    return Asker(Address("site", "", chat), lang, turn="1")


ANNA = asker("anna")
SECRET = "s3cr3t-token"


class Clock:
    def __init__(self) -> None:
        self.now = datetime(2026, 11, 22, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def wait(self, **time: float) -> None:
        self.now += timedelta(**time)


@dataclass
class Naughty:
    """A server that answers with whatever it is told to, byte for byte."""

    answer: bytes = b""
    wait_seconds: float = 0.0
    requests: list[str] = field(default_factory=list)
    host: str = ""
    stopped: asyncio.Event = field(default_factory=asyncio.Event)

    def says(self, body: bytes, status: str = "200 OK", *headers: str) -> None:
        lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers]
        self.answer = "\r\n".join(lines).encode() + b"\r\n\r\n" + body

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            self.requests.append((await reader.readuntil(b"\r\n\r\n")).decode())
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.stopped.wait(), self.wait_seconds)
            writer.write(self.answer)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def naughty_server() -> AsyncIterator[Naughty]:
    made, handling = Naughty(), set[asyncio.Task[None]]()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if task := asyncio.current_task():
            handling.add(task)
        await made.handle(reader, writer)

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    made.host = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    made.says(b'{"state": "packed", "deep": {"day": "2026-11-25"}}')
    try:
        yield made
    finally:
        server.close()
        made.stopped.set()
        await asyncio.gather(*handling)
        await server.wait_closed()
        await asyncio.sleep(0)


FILE = """
servers: {shop: {address: "http://HOST/api", headers: {Authorization: "Bearer ${OTVET_LOOKUP_TOKEN}"}}}
lookups:
  stage:
    server: shop
    path: /orders/{{ order }}
    needs: [order]
    result: {stage: state, day: deep.day}
    required: [stage]
    reasons: {404: not_found}
    answer: {en: "{{ order }} is {{ stage }}, {{ day | date('d MMM') }}"}
    failed: {ru: Магазин не отвечает, en: The shop does not answer}
    SECONDS
  pay:
    server: shop
    method: POST
    path: /pay
    body: {order: "{{ order }}"}
    needs: [order]
"""


def lookups_of(
    host: str,
    text: str = FILE,
    allowed: Allowed | None = None,
    seconds: str = "seconds: 5",
    clock: Clock | None = None,
    zone: tzinfo = UTC,
) -> Lookups:
    return Lookups(
        parse_lookups(text.replace("HOST", host).replace("SECONDS", seconds)),
        allowed=Allowed.of(private=[host]) if allowed is None else allowed,
        secrets={"OTVET_LOOKUP_TOKEN": SECRET},
        shared=LocalShared(),
        clock=clock or Clock(),
        zone=zone,
    )


async def stage(lookups: Lookups, order: Any = "4521", lang: str = "en") -> Looked:
    return await lookups.run("stage", {"order": order}, asker("1", lang))


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looking, "PAUSE_SECONDS", 0.0)


async def test_what_is_found_is_mapped_and_worded() -> None:
    async with naughty_server() as server:
        lookups = lookups_of(server.host)
        found = await stage(lookups)
        await lookups.close()
    assert found == Looked(True, {"stage": "packed", "day": "2026-11-25", "answer": "4521 is packed, 25 Nov"})
    head = server.requests[0]
    assert head.startswith("GET /api/orders/4521 ")
    assert f"bearer {SECRET}".lower() in head.lower()
    assert f"host: {server.host}" in head.lower()


async def test_today_is_that_of_the_shop() -> None:
    clock = Clock()
    clock.now = datetime(2026, 11, 21, 22, 30, tzinfo=UTC)
    text = FILE.replace("{{ order }} is {{ stage }}", "today is {{ today }}")
    assert text != FILE
    async with naughty_server() as server:
        lookups = lookups_of(server.host, text, clock=clock, zone=ZoneInfo("Europe/Moscow"))
        found = await stage(lookups)
        await lookups.close()
    assert found.data["answer"].startswith("today is 2026-11-22")


@pytest.mark.parametrize(
    ("body", "status", "headers", "reason", "requests"),
    [
        (b"oops", "500 Internal Server Error", (), "unavailable", 2),
        (b"", "503 Busy", (), "unavailable", 2),
        (b"", "429 Too Many", (), "unavailable", 2),
        (b"{}", "404 Not Found", (), "not_found", 1),
        (b"{}", "403 Forbidden", (), "refused", 1),
        (b"<html>", "200 OK", (), "bad_answer", 1),
        (b"[1, 2]", "200 OK", (), "bad_answer", 1),
        (b'{"state": null}', "200 OK", (), "bad_answer", 1),
        (b"[" * 100_000, "200 OK", (), "bad_answer", 1),
        (b'"' + b"x" * 300_000 + b'"', "200 OK", (), "bad_answer", 1),
        (b"\x1f\x8b", "200 OK", ("Content-Encoding: gzip",), "bad_answer", 1),
        (b"", "302 Found", ("Location: http://169.254.169.254/latest/meta-data/",), "bad_answer", 1),
        (b"", "307 Temporary", ("Location: /api/orders/4522",), "bad_answer", 1),
    ],
)
async def test_a_shop_that_fails_is_a_reason_and_words_to_say(
    body: bytes, status: str, headers: tuple[str, ...], reason: str, requests: int
) -> None:
    async with naughty_server() as server:
        server.says(body, status, *headers)
        lookups = lookups_of(server.host)
        found = await stage(lookups)
        await lookups.close()
    assert (found.ok, found.reason, found.said) == (False, reason, "The shop does not answer")
    assert len(server.requests) == requests


async def test_a_slow_shop_is_waited_for_no_longer_than_its_time() -> None:
    async with naughty_server() as server:
        server.wait_seconds = 5
        lookups = lookups_of(server.host, seconds="seconds: 0.1")
        begun = asyncio.get_running_loop().time()
        found = await stage(lookups, lang="ru")
        took = asyncio.get_running_loop().time() - begun
        await lookups.close()
    assert (found.reason, found.said) == ("unavailable", "Магазин не отвечает")
    assert took < 1


async def test_a_shop_that_is_down_is_left_alone_after_some_tries() -> None:
    async with naughty_server() as server:
        host = server.host
    clock = Clock()
    lookups = lookups_of(host, clock=clock)
    found = [await stage(lookups, str(4000 + number)) for number in range(5)]
    assert {each.reason for each in found} == {"unavailable"}
    async with naughty_server() as again:
        lookups._lines["shop"].base = httpx.URL(f"http://{again.host}/api")
        assert (await stage(lookups)).reason == "unavailable"
        assert again.requests == [], "it is not asked while the breaker is open"
        clock.wait(minutes=2)
        assert (await stage(lookups)).ok
        await lookups.close()


async def test_what_is_not_repeatable_is_tried_once() -> None:
    async with naughty_server() as server:
        server.says(b"", "500 Oops")
        lookups = lookups_of(server.host)
        assert (await lookups.run("pay", {"order": "1"}, ANNA)).reason == "unavailable"
        await lookups.run("pay", {"order": "1"}, ANNA)
        await lookups.close()
    keys = [
        line for head in server.requests for line in head.lower().split("\r\n") if line.startswith("idempotency-key")
    ]
    assert len(server.requests) == 2
    assert len(set(keys)) == 1, "the same turn done twice is known to the other side"


async def test_the_cache_keeps_what_was_found_and_no_failure() -> None:
    async with naughty_server() as server:
        lookups = lookups_of(server.host, seconds="cache_seconds: 60")
        server.says(b"", "404 Not Found")
        assert not (await stage(lookups)).ok
        server.says(b'{"state": "new", "deep": {"day": "2026-11-25"}}')
        assert [(await stage(lookups)).ok for _ in range(3)] == [True] * 3
        assert (await stage(lookups, "7")).ok
        await lookups.close()
    assert len(server.requests) == 3


@pytest.mark.parametrize("order", ["../admin", "..", "", None, "x" * 2000, {"a": 1}, ["4521"]])
async def test_no_slot_leads_to_another_path(order: Any) -> None:
    async with naughty_server() as server:
        lookups = lookups_of(server.host)
        found = await stage(lookups, order)
        await lookups.close()
    if order == "../admin":
        assert server.requests[0].startswith("GET /api/orders/..%2Fadmin ")
    else:
        assert found.reason in ("refused", "missing")
        assert server.requests == []


@pytest.mark.parametrize(
    "order", ["4521?admin=1", "4521#x", "4521/../../x", "4521\r\nX-Evil: 1", "%2e%2e/x", "@evil.example"]
)
async def test_what_a_customer_writes_stays_one_part_of_the_path(order: str) -> None:
    async with naughty_server() as server:
        lookups = lookups_of(server.host)
        await stage(lookups, order)
        await lookups.close()
    path = server.requests[0].split(" ")[1]
    assert path.startswith("/api/orders/")
    assert path.count("/") == 3
    assert "?" not in path
    assert "x-evil:" not in server.requests[0].lower()


@pytest.mark.parametrize(
    "address",
    [
        "http://127.0.0.1:1/api",
        "https://evil.example",
        "http://api.shop.example",
        "ftp://api.shop.example",
        "https://user:pass@api.shop.example",
        "https://api.shop.example:8443",
        "file:///etc/passwd",
        "demo",
    ],
)
def test_only_servers_of_the_allow_list_may_be_named(address: str) -> None:
    text = "servers: {shop: {address: '" + address + "'}}"
    with pytest.raises(LookupFileError):
        lookups_of("", text, Allowed.of(public=["api.shop.example"]))


async def test_a_name_that_leads_into_a_private_network_is_not_called(monkeypatch: pytest.MonkeyPatch) -> None:
    async with naughty_server() as server:
        port = server.host.rpartition(":")[2]
        text = FILE.replace("http://HOST", f"https://api.shop.example:{port}")
        lookups = lookups_of(server.host, text, Allowed.of(public=[f"api.shop.example:{port}"]))
        where = ["127.0.0.1"]

        async def lead(*_: Any, **__: Any) -> list[Any]:
            return [(2, 1, 6, "", (where[0], int(port)))]

        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", lead)
        for private in ("127.0.0.1", "10.0.0.7", "169.254.169.254", "::1", "::ffff:127.0.0.1"):
            where[0] = private
            assert (await stage(lookups)).reason == "not_allowed"
        await lookups.close()
    assert server.requests == []


async def test_no_secret_and_nothing_of_the_customer_is_in_a_log() -> None:
    async with naughty_server() as server:
        lookups = lookups_of(server.host)
        with structlog.testing.capture_logs() as logs:
            await stage(lookups, "4521777")
            server.says(b"secret body", "500 Oops")
            await stage(lookups, "4521778")
            server.answer = b"nonsense\r\n\r\n"
            await stage(lookups, "4521779")
            await lookups.run("nothing", {}, ANNA)
        await lookups.close()
    written = json.dumps(logs, default=str)
    assert logs
    for never in (SECRET, "452177", "secret body", "site::"):
        assert never not in written


async def test_one_customer_is_not_told_everything_at_once() -> None:
    async with naughty_server() as server:
        lookups = lookups_of(server.host)
        found = [await stage(lookups, str(number)) for number in range(4000, 4030)]
        other = await lookups.run("stage", {"order": "1"}, asker("2", "en"))
        await lookups.close()
    assert [each.reason for each in found].count("too_often") == 10
    assert other.ok


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("servers: [", "not YAML"),
        ("lookups: {a: {server: b, path: /x}}", "there is no server b"),
        ("servers: {s: {address: demo, headers: {X: '${HOME}'}}}", "begin with OTVET_LOOKUP_"),
        ("servers: {s: {address: demo, headers: {Host: evil}}}", "no header"),
        ("servers: {s: {address: demo}}\nlookups: {a: {server: s, path: '/{{ x }}'}}", "list it in needs"),
        ("servers: {s: {address: demo}}\nlookups: {a: {server: s, path: '/{{ x'}}", "unexpected end"),
        ("servers: {s: {address: demo}}\nlookups: {a: {server: s, path: /x, result: {b: '[[['}}}", "no JMESPath"),
        ("servers: {s: {address: demo}}\nlookups: {a: {server: s, path: /x, answer: {ru: '{% if'}}}", "answer"),
        ("servers: {s: {address: demo}}\nlookups: {a: {server: s, path: /x, required: [y]}}", "not in result"),
        ("servers: {s: {address: demo}}\nlookups: {a: {server: s, path: /x, needs: [o], proof: o}}", "how o is proved"),
        ("servers: {s: {address: demo}}\nlookups: {a: {server: s, path: /x, method: POST, cache_seconds: 5}}", "GET"),
        ("servers: {s: {address: demo}}\nlookups: {a: {server: s, path: /x, colour: red}}", "Extra inputs"),
    ],
)
def test_a_wrong_file_is_refused_with_the_place(text: str, complaint: str) -> None:
    with pytest.raises(LookupFileError, match=complaint):
        parse_lookups(text)


def test_a_secret_that_is_not_set_is_named() -> None:
    with pytest.raises(LookupFileError, match="OTVET_LOOKUP_TOKEN"):
        Lookups(
            parse_lookups(FILE.replace("HOST", "127.0.0.1:9").replace("SECONDS", "")),
            allowed=Allowed.of(private=["127.0.0.1:9"]),
            secrets={},
            shared=LocalShared(),
            clock=Clock(),
        )


# The demo shop, and who asks.


@dataclass
class Shop:
    lookups: Lookups
    shop: DemoShop
    proofs: Proofs
    sessions: Any
    clock: Clock
    turns: Iterator[int] = field(default_factory=count)

    async def run(self, name: str, who: Asker = ANNA, **slots: Any) -> Looked:
        """Every code is asked for in a turn of its own."""
        who = replace(who, turn=f"code{next(self.turns)}") if name == "send-code" else who
        return await self.lookups.run(name, slots, who)

    async def codes(self) -> list[str]:
        """What the owners were sent."""
        async with self.shop.sessions() as session:
            texts = await session.scalars(select(Sent.text).order_by(Sent.id))
            return ["".join(each for each in text.split(".")[0] if each.isdigit()) for text in texts]


def worker(demo: DemoShop, proofs: Proofs, clock: Clock) -> Lookups:
    return Lookups(
        read_lookups(DATA / "lookups.yml"),
        allowed=Allowed.of(private=[demo.host]),
        secrets={"OTVET_LOOKUP_SHOP_TOKEN": demo.token},
        shared=LocalShared(now=lambda: clock.now.timestamp()),
        clock=clock,
        proofs=proofs,
        demo=demo.url,
    )


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    clock = Clock()
    engine, sessions = open_database(f"sqlite+aiosqlite:///{tmp_path / 'otvet.sqlite3'}")
    async with engine.begin() as connection:
        await connection.run_sync(ProofRow.metadata.tables["proofs"].create)
    demo = DemoShop(DATA / "shop" / "demo.yml", tmp_path / "shop.sqlite3", clock=clock)
    running = asyncio.create_task(demo.run())
    proofs = Proofs(sessions, clock)
    lookups = worker(demo, proofs, clock)
    yield Shop(lookups, demo, proofs, sessions, clock)
    await lookups.close()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await demo.close()  # a task that was cancelled before it began has closed nothing
    await engine.dispose()


async def test_the_stage_of_an_order_is_told_without_anything_personal(shop: Shop) -> None:
    found = await shop.run("order-stage", order="4521")
    assert found.data["answer"] == "Заказ 4521: в пути. Ждём его у вас 23 ноября."
    english = await shop.run("order-stage", asker("anna", "en"), order="55213")
    assert english.data["answer"] == "Order 55213 is on its way and late: it was promised for 19 November."
    for personal in ("Анна", "Лесная", "KL", "Verona", "@"):
        assert personal not in json.dumps(found.data, ensure_ascii=False)
    assert (await shop.run("order-stage", order="99999")).reason == "not_found"


@pytest.mark.parametrize("name", ["order-details", "change-address", "return-item", "delay"])
async def test_what_is_personal_or_changes_something_wants_a_proof(shop: Shop, name: str) -> None:
    slots: dict[str, Any] = {"order": "4522", "address": "Тула, Мира, 1", "line": "1", "why": "мал", "wish": "points"}
    assert (await shop.run(name, **slots)).reason == "not_proved"


async def proved(shop: Shop, order: str) -> None:
    assert (await shop.run("send-code", order=order)).data == {"proved": False, "minutes": 10}
    code = (await shop.codes())[-1]
    assert (await shop.run("check-code", order=order, code=code)).ok


async def test_a_code_sent_to_the_owner_opens_his_order_for_a_while_and_no_other(shop: Shop) -> None:
    await proved(shop, "4521")
    found = await shop.run("order-details", order="4521")
    assert "Кофемашина Verona 300" in found.data["answer"]
    assert "Лесная" in found.data["answer"]
    assert (await shop.run("order-details", order="4522")).reason == "not_proved"
    assert (await shop.run("order-details", asker("eve"), order="4521")).reason == "not_proved"
    assert (await shop.run("send-code", order="4521")).data == {"proved": True}
    assert (await shop.run("check-code", order="4521", code="")).ok, "done twice, by a turn that was repeated"
    shop.clock.wait(minutes=31)
    assert (await shop.run("order-details", order="4521")).reason == "not_proved"


async def test_nobody_learns_from_the_code_whether_an_order_exists(shop: Shop) -> None:
    real, none = await shop.run("send-code", order="4521"), await shop.run("send-code", order="99999")
    assert real == none
    codes = await shop.codes()
    assert len(codes) == 1
    guesses = [await shop.run("check-code", order=order, code="x") for order in ("4521", "99999")]
    assert guesses[0] == guesses[1]


async def test_a_code_is_good_for_one_conversation_one_order_ten_minutes_and_few_tries(shop: Shop) -> None:
    await shop.run("send-code", order="4521")
    code = (await shop.codes())[-1]
    assert (await shop.run("check-code", asker("eve"), order="4521", code=code)).reason == "code_expired"
    assert (await shop.run("check-code", order="4522", code=code)).reason == "code_expired"
    wrong = [(await shop.run("check-code", order="4521", code=f"x{number}")).reason for number in range(TRIES)]
    assert wrong == ["wrong_code"] * (TRIES - 1) + ["code_expired"]
    assert (await shop.run("check-code", order="4521", code=code)).reason == "code_expired"
    await shop.run("send-code", order="4521")
    code = (await shop.codes())[-1]
    shop.clock.wait(minutes=11)
    assert (await shop.run("check-code", order="4521", code=code)).reason == "code_expired"


async def test_a_newer_code_replaces_an_older_one(shop: Shop) -> None:
    await shop.run("send-code", order="4521")
    await shop.run("send-code", order="4521")
    older, newer = await shop.codes()
    if older != newer:
        assert (await shop.run("check-code", order="4521", code=older)).reason == "wrong_code"
    assert (await shop.run("check-code", order="4521", code=newer)).ok


async def test_a_turn_that_is_thought_out_again_sends_no_second_code(shop: Shop) -> None:
    twice = [await shop.lookups.run("send-code", {"order": "4521"}, ANNA) for _ in range(2)]
    assert twice[0] == twice[1]
    assert twice[0].ok
    [code] = await shop.codes()
    assert (await shop.run("check-code", order="4521", code=code)).ok


async def test_a_turn_that_another_worker_takes_over_sends_no_second_code_but_a_later_one_does(shop: Shop) -> None:
    before = await shop.lookups.run("send-code", {"order": "4521"}, ANNA)
    other = replace(shop, lookups=worker(shop.shop, shop.proofs, shop.clock))
    assert await other.lookups.run("send-code", {"order": "4521"}, ANNA) == before
    [code] = await shop.codes()
    await other.lookups.run("send-code", {"order": "4521"}, replace(ANNA, turn="asked again"))
    assert len(await shop.codes()) == 2
    assert (await other.run("check-code", order="4521", code=code)).reason == "wrong_code"
    await other.lookups.close()


async def test_guessing_comes_to_an_end_over_all_conversations(shop: Shop) -> None:
    guesses = sent = 0
    for round_ in range(10):
        eve = asker(f"eve{round_}")
        if (await shop.run("send-code", eve, order="4521")).ok:
            sent += 1
        for _ in range(TRIES + 1):
            answer = await shop.run("check-code", eve, order="4521", code="nnnnnn")
            guesses += answer.reason == "wrong_code"
        shop.clock.wait(minutes=61)
    assert sent <= CODES_A_DAY
    assert guesses <= GUESSES_A_DAY


async def test_codes_are_not_sent_without_end(shop: Shop) -> None:
    sent = [await shop.run("send-code", order="4521") for _ in range(CODES_AN_HOUR + 1)]
    assert [each.ok for each in sent] == [True] * CODES_AN_HOUR + [False]
    assert sent[-1].reason == "too_many_codes"
    assert (await shop.run("send-code", order="4522")).reason == "too_many_codes", (
        "one conversation asks for many orders"
    )
    assert len(await shop.codes()) == CODES_AN_HOUR


async def test_guesses_at_the_same_moment_are_counted_one_by_one(make_database: MakeDatabase) -> None:
    engine, sessions = open_database(make_database())
    await migrate(engine)
    proofs = Proofs(sessions, Clock())
    made = await proofs.new_code("anna", "order:4521")
    assert isinstance(made, NewCode)
    answers = await asyncio.gather(*(proofs.check("anna", "order:4521", f"x{number}", 30) for number in range(12)))
    assert sum(answer == "wrong_code" for answer in answers) == TRIES - 1
    async with sessions() as session:
        assert await session.scalar(select(func.max(ProofRow.tries))) == TRIES
    assert await proofs.check("anna", "order:4521", made.code, 30) == "code_expired"
    again = await proofs.new_code("anna", "order:4521")
    assert isinstance(again, NewCode)
    assert await proofs.check("anna", "order:4521", again.code, 30) is None
    assert await proofs.holds("anna", "order:4521")
    await engine.dispose()


async def test_codes_lie_in_the_database_as_hashes_and_go_after_two_days(shop: Shop) -> None:
    await shop.run("send-code", order="4521")
    code = (await shop.codes())[-1]
    async with shop.sessions() as session:
        row = (await session.scalars(select(ProofRow))).one()
    assert code not in json.dumps(
        {column.name: str(getattr(row, column.name)) for column in ProofRow.__table__.columns}
    )
    shop.clock.wait(days=3)
    await shop.run("send-code", order="4522")
    async with shop.sessions() as session:
        assert await session.scalar(select(func.count()).select_from(ProofRow)) == 1


async def test_the_owner_changes_an_address_returns_goods_and_is_paid_for_a_delay(shop: Shop) -> None:
    for order in ("60715", "55213"):
        await proved(shop, order)
    moved = await shop.run("change-address", order="60715", address="Казань, ул. Новая, 1")
    assert moved.data["address"] == "Казань, ул. Новая, 1"
    assert (await shop.run("change-address", order="55213", address="Казань, ул. Новая, 1")).reason == "too_late"
    twice = [await shop.run("delay", order="55213", wish="points") for _ in range(2)]
    assert [each.data["points"] for each in twice] == [900, 900]
    assert (await shop.run("delay", order="60715", wish="points")).reason == "not_late"
    await proved(shop, "4522")
    returned = [await shop.run("return-item", order="4522", line="1", why="шумит") for _ in range(2)]
    assert returned[0] == returned[1]
    assert returned[0].ok
    assert (await shop.run("return-item", order="4522", line="2", why="не нужны")).reason == "not_returnable"


async def test_a_warranty_is_checked_by_the_serial_number(shop: Shop) -> None:
    found = await shop.run("warranty", serial="LX20450918")
    assert found.data == {"title": "Робот-пылесос Lynx S2", "until": "2027-11-14", "holds": True}
    old = await shop.run("warranty", asker("1", "en"), serial="tp20009177")
    assert old.data["title"] == "Typhoon 2 vacuum cleaner"
    assert old.data["holds"] is False
    assert (await shop.run("warranty", serial="XX00000000")).reason == "not_found"


async def test_the_shop_speaks_to_nobody_without_its_token_and_listens_on_this_machine_alone(shop: Shop) -> None:
    async with httpx.AsyncClient(base_url=shop.shop.url) as client:
        assert (await client.get("/orders/4521")).status_code == 401
        assert (await client.get("/orders/4521", headers={"Authorization": "Bearer x"})).status_code == 401
        assert (await client.get("/outbox", headers={"Host": "evil.example"})).status_code == 400
        await shop.run("send-code", order="4521")
        assert "anna@klyon.example" in (await client.get("/outbox")).text
    assert shop.shop.host.startswith("127.0.0.1:")


async def test_the_shop_keeps_what_was_done_for_some_days_and_then_begins_anew(tmp_path: Path) -> None:
    clock = Clock()

    async def address(change: str | None = None) -> str:
        from bot.demo_shop import Order

        made = DemoShop(DATA / "shop" / "demo.yml", tmp_path / "shop.sqlite3", clock=clock)
        await made.fill()
        async with made.sessions.begin() as session:
            if change:
                await session.execute(update(Order).where(Order.number == "60715").values(address=change))
            found = await session.scalar(select(Order.address).where(Order.number == "60715"))
        await made.close()
        return str(found)

    first = await address()
    assert await address("Тверь") == "Тверь"
    clock.wait(days=2)
    assert await address() == "Тверь"
    clock.wait(days=4)
    assert await address() == first


def test_every_lookup_of_the_demo_names_a_reason_for_an_unknown_order() -> None:
    file = read_lookups(DATA / "lookups.yml")
    by_order: Mapping[str, Any] = {name: each for name, each in file.lookups.items() if "order" in each.needs}
    assert by_order
    assert all(each.reasons.get(404) == "not_found" for each in by_order.values())
