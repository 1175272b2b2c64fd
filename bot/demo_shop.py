"""The demo shop: a small web shop's own system, with a real database and an HTTP interface, so that "where is my order
4521?" is answered in the demo as it would be in life.

It lies in this package because the program starts it; nothing else here imports it but the composition root, and the
assistant knows it by HTTP alone. It listens on this machine only and knows nobody but people who don't exist.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import html
import secrets
import socket
from collections.abc import AsyncIterator, Callable
from datetime import UTC, date, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import uvicorn
from fastapi import APIRouter, Depends, FastAPI, Header, HTTPException
from fastapi import Request as HttpRequest
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, Field
from ruamel.yaml import YAML
from sqlalchemy import ForeignKey, String, func, select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship, selectinload
from starlette.middleware.trustedhost import TrustedHostMiddleware

STAGES: Final = ("new", "packing", "handed_over", "on_the_way", "ready", "delivered", "cancelled")
MOVABLE: Final = frozenset(("new", "packing"))
"""Stages in which the address may still be changed."""
RETURN_DAYS: Final = 14
POINTS_A_DAY, MOST_POINTS = 300, 1500
FRESH: Final = timedelta(days=5)
"""After so long its days are counted anew, and what was done there is forgotten."""
MAX_MESSAGES: Final = 1000


class _Base(DeclarativeBase):
    pass


class Owner(_Base):
    __tablename__ = "customers"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    name: Mapped[str]
    email: Mapped[str]
    phone: Mapped[str]
    points: Mapped[int] = mapped_column(default=0)


class Order(_Base):
    __tablename__ = "orders"

    number: Mapped[str] = mapped_column(String(8), primary_key=True)
    customer_id: Mapped[str] = mapped_column(ForeignKey("customers.id"))
    stage: Mapped[str] = mapped_column(String(16))
    placed_on: Mapped[date]
    promised_on: Mapped[date]
    delivered_on: Mapped[date | None]
    city: Mapped[str]
    address: Mapped[str]
    pickup: Mapped[bool] = mapped_column(default=False)
    track: Mapped[str | None]
    compensated: Mapped[int] = mapped_column(default=0)
    """Points that were given for its delay."""
    owner: Mapped[Owner] = relationship(lazy="raise")
    items: Mapped[list[Item]] = relationship(lazy="raise", order_by="Item.line")


class Item(_Base):
    __tablename__ = "items"

    id: Mapped[int] = mapped_column(primary_key=True)
    order_number: Mapped[str] = mapped_column(ForeignKey("orders.number"))
    line: Mapped[int]
    title_ru: Mapped[str]
    title_en: Mapped[str]
    serial: Mapped[str | None] = mapped_column(String(20), unique=True)
    price: Mapped[int]
    months: Mapped[int]
    """Of warranty."""
    returnable: Mapped[bool]


class Request(_Base):
    """What a customer asked the shop for: a return, or a search for a late parcel."""

    __tablename__ = "requests"

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))
    order_number: Mapped[str] = mapped_column(ForeignKey("orders.number"))
    line: Mapped[int] = mapped_column(default=0)
    reason: Mapped[str] = mapped_column(default="")
    made_at: Mapped[datetime]


class Sent(_Base):
    """The outbox: what the shop wrote to a customer's own e-mail."""

    __tablename__ = "outbox"

    id: Mapped[int] = mapped_column(primary_key=True)
    order_number: Mapped[str] = mapped_column(ForeignKey("orders.number"))
    to: Mapped[str]
    text: Mapped[str]
    sent_at: Mapped[datetime]


class Filled(_Base):
    __tablename__ = "filled"

    id: Mapped[int] = mapped_column(primary_key=True)
    on: Mapped[date]


class Message(BaseModel):
    text: str = Field(min_length=1, max_length=1000)


class NewAddress(BaseModel):
    address: str = Field(min_length=5, max_length=300)


class Return(BaseModel):
    line: int = Field(ge=1, le=99)
    reason: str = Field("", max_length=1000)


class Delay(BaseModel):
    wish: Literal["points", "cancel", "search"]


async def _session(request: HttpRequest) -> AsyncIterator[AsyncSession]:
    async with request.app.state.sessions.begin() as session:
        yield session


_Session = Annotated[AsyncSession, Depends(_session, scope="function")]  # committed before it is answered


class DemoShop:
    """The shop, listening on a free port of this machine as soon as it is made; `run` answers."""

    def __init__(
        self,
        seed: Path,
        database: Path,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        token: str = "",
        zone: tzinfo = UTC,
    ) -> None:
        """seed: data/shop/demo.yml. database: an SQLite file of its own. token: by which callers are known."""
        self.token = token or secrets.token_urlsafe(24)
        self._seed = seed
        self._clock = clock
        self._zone = zone
        database.parent.mkdir(parents=True, exist_ok=True)
        self._engine: AsyncEngine = create_async_engine(f"sqlite+aiosqlite:///{database.resolve()}")
        self.sessions = async_sessionmaker(self._engine, expire_on_commit=False)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self._socket.getsockname()[1]}"
        self.url = f"http://{self.host}"
        self.app = self._application()

    async def run(self) -> None:
        """Answer until cancelled."""
        try:
            await self.fill()
            await self._serve()
        finally:
            await self.close()

    async def _serve(self) -> None:
        config = uvicorn.Config(
            self.app, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=1
        )
        server = _Quiet(config)
        serving = asyncio.create_task(server.serve(sockets=[self._socket]))
        try:
            await asyncio.shield(serving)
        finally:
            server.should_exit = True
            await asyncio.gather(serving, return_exceptions=True)

    async def close(self) -> None:
        self._socket.close()
        await self._engine.dispose()

    @property
    def today(self) -> date:
        return self._clock().astimezone(self._zone).date()

    async def fill(self) -> None:
        """Make the tables and what is in them, unless they are fresh."""
        async with self._engine.begin() as connection:
            await connection.run_sync(_Base.metadata.create_all)
        async with self.sessions() as session:
            on = await session.scalar(select(func.max(Filled.on)))
        if on is not None and timedelta() <= self.today - on < FRESH:
            return
        async with self._engine.begin() as connection:
            await connection.run_sync(_Base.metadata.drop_all)
            await connection.run_sync(_Base.metadata.create_all)
        rows = YAML(typ="safe").load(await asyncio.to_thread(self._seed.read_text, "utf-8"))
        async with self.sessions.begin() as session:
            session.add(Filled(on=self.today))
            session.add_all(
                Owner(id=row["id"], name=row["name"], email=row["email"], phone=row["phone"])
                for row in rows["customers"]
            )
            await session.flush()
            session.add_all(self._order(row) for row in rows["orders"])

    def _order(self, row: dict[str, Any]) -> Order:
        days = {f"{name}_on": self.today + timedelta(days=row[name]) for name in ("placed", "promised") if name in row}
        delivered = self.today + timedelta(days=row["delivered"]) if "delivered" in row else None
        items = [
            Item(
                line=line,
                title_ru=item["title"]["ru"],
                title_en=item["title"]["en"],
                serial=item.get("serial"),
                price=item["price"],
                months=item["months"],
                returnable=item.get("returnable", True),
            )
            for line, item in enumerate(row["items"], 1)
        ]
        return Order(
            number=row["number"],
            customer_id=row["customer"],
            stage=row["stage"],
            delivered_on=delivered,
            city=row["city"],
            address=row["address"],
            pickup=row.get("pickup", False),
            track=row.get("track"),
            items=items,
            **days,
        )

    # The interface.

    def _application(self) -> FastAPI:
        app = FastAPI(title="Klyon", docs_url=None, redoc_url=None, openapi_url=None)
        app.state.sessions = self.sessions
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"])
        app.include_router(self._router())

        @app.get("/outbox", include_in_schema=False)
        async def outbox() -> HTMLResponse:
            """What would have gone to the customers' e-mail: for whoever tries the demo, on this machine."""
            async with self.sessions() as session:
                sent = (await session.scalars(select(Sent).order_by(Sent.id.desc()).limit(50))).all()
            rows = "".join(
                f"<li>{each.sent_at:%H:%M:%S} {html.escape(each.to)}: {html.escape(each.text)}" for each in sent
            )
            return HTMLResponse(f'<!doctype html><meta charset="utf-8"><title>Outbox</title><ul>{rows}</ul>')

        return app

    def _router(self) -> APIRouter:
        router = APIRouter(dependencies=[Depends(self._known)])

        @router.get("/orders/{number}")
        async def stage(number: str, session: _Session) -> dict[str, Any]:
            return self._stage(await _order(session, number))

        @router.get("/orders/{number}/details")
        async def details(number: str, session: _Session, lang: str = "ru") -> dict[str, Any]:
            order = await _order(session, number)
            return {
                **self._stage(order),
                "address": order.address,
                "track": order.track,
                "total": sum(item.price for item in order.items),
                "items": [self._item(item, order, lang) for item in order.items],
                "return_until": _iso(_return_until(order)),
            }

        @router.post("/orders/{number}/messages", status_code=202)
        async def message(number: str, said: Message, session: _Session) -> dict[str, str]:
            order = await _order(session, number)
            count = await session.scalar(select(func.count()).select_from(Sent)) or 0
            if count >= MAX_MESSAGES:
                raise HTTPException(429, "the outbox is full")
            session.add(Sent(order_number=number, to=order.owner.email, text=said.text, sent_at=self._clock()))
            return {"sent": "email"}

        @router.put("/orders/{number}/address")
        async def move(number: str, new: NewAddress, session: _Session) -> dict[str, Any]:
            order = await _order(session, number)
            if order.stage not in MOVABLE:
                raise HTTPException(409, "it is under way already")
            order.address = new.address
            return {"address": order.address, "promised_on": _iso(order.promised_on)}

        @router.post("/orders/{number}/returns", status_code=201)
        async def send_back(number: str, wanted: Return, session: _Session) -> dict[str, Any]:
            order = await _order(session, number)
            item = next((item for item in order.items if item.line == wanted.line), None)
            until = _return_until(order)
            if item is None:
                raise HTTPException(404, "no such item")
            if until is None or self.today > until or not item.returnable:
                raise HTTPException(409, "it can't be returned")
            made = await self._request(session, "return", order, wanted.line, wanted.reason)
            return {"number": f"R{1000 + made.id}", "until": _iso(self.today + timedelta(days=7))}

        @router.post("/orders/{number}/delay", status_code=201)
        async def delayed(number: str, about: Delay, session: _Session) -> dict[str, Any]:
            order = await _order(session, number)
            late = self._late_days(order)
            if not late:
                raise HTTPException(409, "it is not late")
            if about.wish == "cancel":
                order.stage = "cancelled"
                return {"refund_days": 10}
            if about.wish == "points":
                points = min(late * POINTS_A_DAY, MOST_POINTS)
                order.owner.points += points - order.compensated
                order.compensated = points
                return {"points": points}
            made = await self._request(session, "search", order)
            return {"number": f"S{1000 + made.id}", "answer_on": _iso(self.today + timedelta(days=1))}

        @router.get("/warranty/{serial}")
        async def warranty(serial: str, session: _Session, lang: str = "ru") -> dict[str, Any]:
            found = await session.scalar(select(Item).where(Item.serial == serial.upper()))
            if found is None:
                raise HTTPException(404, "no such device")
            return self._item(found, await _order(session, found.order_number), lang)

        return router

    async def _known(self, authorization: Annotated[str, Header()] = "") -> None:
        if not hmac.compare_digest(authorization.encode(), f"Bearer {self.token}".encode()):
            raise HTTPException(401, "who calls?")

    async def _request(
        self, session: AsyncSession, kind: str, order: Order, line: int = 0, reason: str = ""
    ) -> Request:
        """A request, or the one that was made before: asked twice is asked once."""
        same = select(Request).where(Request.kind == kind, Request.order_number == order.number, Request.line == line)
        made = await session.scalar(same)
        if made is None:
            made = Request(kind=kind, order_number=order.number, line=line, reason=reason, made_at=self._clock())
            session.add(made)
            await session.flush()
        return made

    # What it says.

    def _late_days(self, order: Order) -> int:
        arrived = order.stage in ("ready", "delivered", "cancelled")
        return 0 if arrived else max(0, (self.today - order.promised_on).days)

    def _stage(self, order: Order) -> dict[str, Any]:
        """What may be told to anybody who knows the number."""
        return {
            "number": order.number,
            "stage": order.stage,
            "promised_on": _iso(order.promised_on),
            "delivered_on": _iso(order.delivered_on),
            "late_days": self._late_days(order),
            "pickup": order.pickup,
            "movable": order.stage in MOVABLE,
            "points": min(self._late_days(order) * POINTS_A_DAY, MOST_POINTS),
        }

    def _item(self, item: Item, order: Order, lang: str) -> dict[str, Any]:
        begins = order.delivered_on or order.promised_on
        until = _months_later(begins, item.months) if item.months else None
        back = _return_until(order)
        return {
            "line": item.line,
            "title": item.title_en if lang == "en" else item.title_ru,
            "price": item.price,
            "warranty_until": _iso(until),
            "under_warranty": until is not None and self.today <= until and order.stage != "cancelled",
            "returnable": item.returnable and back is not None and self.today <= back,
        }


class _Quiet(uvicorn.Server):
    """Leaves the signals to whoever runs it."""

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        yield


async def _order(session: AsyncSession, number: str) -> Order:
    found = await session.get(Order, number, options=[selectinload(Order.items), selectinload(Order.owner)])
    if found is None:
        raise HTTPException(404, "no such order")
    return found


def _return_until(order: Order) -> date | None:
    return order.delivered_on + timedelta(days=RETURN_DAYS) if order.delivered_on else None


def _months_later(day: date, months: int) -> date:
    year, month = divmod(day.year * 12 + day.month - 1 + months, 12)
    last = (date(year + (month + 1) // 12, (month + 1) % 12 + 1, 1) - timedelta(days=1)).day
    return date(year, month + 1, min(day.day, last))


def _iso(day: date | None) -> str | None:
    return day.isoformat() if day else None
