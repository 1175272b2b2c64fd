"""Every door counts who comes in, and says when to come again."""

from __future__ import annotations

import re
from collections.abc import Sequence

import httpx
import pytest
from prometheus_client import REGISTRY
from sqlalchemy.exc import TimeoutError as NoConnectionError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from bot.metrics import RATE_LIMITED
from bot.shared import LocalShared
from bot.web.desk_base import COOKIE
from bot.web.doors import Door, RateLimits, doors
from bot.web.guards import caller

NARROW = (Door("narrow", re.compile("/narrow"), 2), Door("any", re.compile("/any/.*"), 3, posts=False))


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class House:
    """An application that only remembers what got in."""

    def __init__(self, rules: Sequence[Door] = NARROW, a_minute: int = 0) -> None:
        self.clock, self.came = Clock(), 0
        inner = Starlette(routes=[Route("/{path:path}", self.take, methods=["GET", "POST"])])
        self.live, self.asked = {"mine"}, 0
        shared = LocalShared(now=self.clock)
        self.app = RateLimits(inner, shared=shared, doors=rules, lives=self.lives, requests_a_minute=a_minute)

    async def lives(self, token: str) -> bool:
        self.asked += 1
        if token == "database away":
            raise NoConnectionError
        return token in self.live

    async def take(self, request: Request) -> PlainTextResponse:
        await request.body()
        self.came += 1
        return PlainTextResponse("in")

    def visitor(self, address: str = "203.0.113.7", session: str = "") -> httpx.AsyncClient:
        transport = httpx.ASGITransport(self.app, client=(address, 40000))
        return httpx.AsyncClient(transport=transport, base_url="http://otvet", cookies={COOKIE: session})


def refused(name: str) -> float:
    return REGISTRY.get_sample_value(f"{RATE_LIMITED._name}_total", {"where": f"door:{name}"}) or 0.0


async def test_who_comes_too_often_waits_and_is_counted() -> None:
    house, before = House(), refused("narrow")
    async with house.visitor() as web:
        answers = [await web.post("/narrow", content=b"x" * 100) for _ in range(4)]
        assert [answer.status_code for answer in answers] == [200, 200, 429, 429]
        assert answers[-1].json()["error"]["code"] == "too_many_requests"
        assert answers[-1].headers["retry-after"] == "31"
        assert (house.came, refused("narrow") - before) == (2, 2)
        house.clock.now += 30
        assert (await web.post("/narrow")).status_code == 200


async def test_reading_is_free_where_only_changes_count() -> None:
    house = House()
    async with house.visitor() as web:
        assert {(await web.get("/narrow")).status_code for _ in range(5)} == {200}
        assert [(await web.get("/any/thing")).status_code for _ in range(4)] == [200, 200, 200, 429]


async def test_others_come_in_all_the_same() -> None:
    house = House()
    async with house.visitor() as one, house.visitor("203.0.113.8") as other, house.visitor(session="mine") as third:
        for _ in range(3):
            await one.post("/narrow")
        assert (await one.post("/narrow")).status_code == 429
        assert (await other.post("/narrow")).status_code == 200
        assert (await third.post("/narrow")).status_code == 200, "a colleague behind the same address"


async def test_a_made_up_session_counts_with_its_address() -> None:
    house, codes = House(), []
    for made_up in ("a", "b", "database away", "c"):
        async with house.visitor(session=made_up) as web:
            codes.append((await web.post("/narrow")).status_code)
    async with house.visitor(session="mine") as web:
        codes += [(await web.post("/narrow")).status_code for _ in range(3)]
    assert codes == [200, 200, 429, 429, 200, 200, 429]
    assert house.asked == 5, "a live one is asked about once a minute"


async def test_all_that_one_address_asks_for_has_a_limit_but_for_platforms() -> None:
    house, before = House(a_minute=3), refused("all")
    async with house.visitor() as web:
        assert [(await web.get(f"/{n}")).status_code for n in range(4)] == [200, 200, 200, 429]
        assert (await web.post("/webhooks/telegram")).status_code == 200
    assert refused("all") - before == 1


async def test_calls_of_other_systems_have_the_limit_that_is_set() -> None:
    house = House(doors(events_a_minute=2))
    async with house.visitor() as web:
        assert [(await web.post("/webhooks/events")).status_code for _ in range(3)] == [200, 200, 429]


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/webhooks/events", "webhook-events"),
        ("/webhooks/helpdesk/word", "webhook-helpdesk"),
        ("/desk/welcome/token", "desk-invitation"),
        ("/desk/people/invite", "desk-invite"),
        ("/studio/articles/import", "studio-import"),
        ("/studio/versions/train", "studio-train"),
        ("/studio/versions/7/try", "studio-train"),
        ("/studio/articles/new", "studio"),
        ("/desk/tickets/1/note", "desk"),
        ("/webhooks/telegram", None),
        ("/webhooks/whatsapp", None),
    ],
)
def test_each_way_in_has_its_door(path: str, name: str | None) -> None:
    assert next((door.name for door in doors() if door.path.fullmatch(path)), None) == name


@pytest.mark.parametrize(
    ("address", "who"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("a socket", "a socket"),
    ],
)
def test_an_address_of_the_newer_protocol_counts_by_its_network(address: str, who: str) -> None:
    assert caller(Request({"type": "http", "client": (address, 1), "headers": []})) == who
