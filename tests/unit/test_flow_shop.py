"""The demo's flows over whole turns, with the demo shop behind them: a real server, a real database, no model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from site_harness import DATA, Keywords
from sqlalchemy import select
from test_turns import World

from bot.addresses import Allowed
from bot.channels.base import OutboundMessage
from bot.database import migrate
from bot.demo_shop import DemoShop, Sent
from bot.dialogue import Outcome, Understanding
from bot.flows.engine import Looked
from bot.flows.format import load_flows
from bot.flows.lookup_format import read_lookups
from bot.flows.lookups import Asker, Lookups
from bot.flows.proof import Proofs
from bot.flows.turns import FlowBook
from bot.models.understanding import Understood
from bot.shared import LocalShared
from handoff.records import Reason


class Mind(Keywords):
    """`Keywords`, who is unsure of "parcel"."""

    def understand(self, text: str, remembered_lang: str | None = None) -> Understood:
        found = super().understand(text, remembered_lang)
        if "parcel" in text:
            order, other = self._found("order-status", 0.5), self._found("return-how", 0.3)
            unsure = Understanding(text, "order_status", 0.6, Outcome(article="order-status"), (order, other))
            return Understood(found.lang, (unsure,), found.record)
        return found


class Line:
    """What the turns look up with; made before the database is."""

    real: Lookups

    async def run(self, name: str, slots: Mapping[str, Any], asker: Asker) -> Looked:
        return await self.real.run(name, slots, asker)


class ShopWorld(World):
    def __init__(self, tmp_path: Path) -> None:
        found, problems = load_flows(DATA / "flows")
        assert problems == []
        self.line = Line()
        super().__init__(tmp_path, understander=Mind(), flows=lambda: FlowBook(found), lookups=self.line)
        self.shop = DemoShop(DATA / "shop" / "demo.yml", tmp_path / "shop.sqlite3", clock=self.clock)
        self.running = asyncio.create_task(self.shop.run())
        self.line.real = Lookups(
            read_lookups(DATA / "lookups.yml"),
            allowed=Allowed.of(private=[self.shop.host]),
            secrets={"OTVET_LOOKUP_SHOP_TOKEN": self.shop.token},
            shared=LocalShared(),
            clock=self.clock,
            proofs=Proofs(self.sessions, self.clock),
            demo=self.shop.url,
        )

    async def stop_shop(self) -> None:
        self.running.cancel()
        await asyncio.gather(self.running, return_exceptions=True)
        await self.shop.close()

    async def code(self) -> str:
        async with self.shop.sessions() as session:
            text = str((await session.scalars(select(Sent.text).order_by(Sent.id.desc()))).first())
        return "".join(each for each in text.split(".")[0] if each.isdigit())

    @property
    def last(self) -> OutboundMessage:
        return self.channel.sent[-1]

    async def press(self, label: str, **more: Any) -> list[str]:
        token = next(option.token for option in self.last.options if option.label == label)
        return await self.hear("", kind="choice", choice=token, key=f"{label}{len(self.channel.sent)}", **more)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[ShopWorld]:
    made = ShopWorld(tmp_path)
    await migrate(made.engine)
    yield made
    await made.line.real.close()
    await made.stop_shop()
    await made.engine.dispose()


async def test_where_is_my_order_is_answered_from_the_shop_and_its_details_after_a_code(world: ShopWorld) -> None:
    said = await world.hear("Где мой заказ 4521?")
    assert said[-1].startswith("Заказ 4521: в пути. Ждём его у вас ")
    (asked,) = await world.press("Состав и адрес")
    assert "код из 6 цифр" in asked
    code = await world.code()
    (wrong,) = await world.hear("111111" if code != "111111" else "222222")
    assert wrong.startswith("Код не подошёл.")
    (told,) = await world.hear(f"вот {code}")
    assert "Кофемашина Verona 300" in told
    assert "Лесная" in told
    (again, *_) = await world.hear("а где заказ 4521 сейчас?")
    assert again.startswith("Заказ 4521")
    (details,) = await world.press("Состав и адрес")
    assert "Verona" in details, "who has proved it is not asked again"


async def test_an_unsure_question_with_a_number_is_answered_and_one_without_is_asked_back(world: ShopWorld) -> None:
    said = await world.hear("my parcel 55213 ?")
    assert said[-1].startswith("Order 55213 is on its way and late")
    said = await world.hear("my parcel ?", chat="b")
    assert "Order" not in said[-1]
    assert any(option.token == "article:order-status" for option in world.last.options)


async def test_a_shop_that_is_down_leaves_the_customer_with_the_article(world: ShopWorld) -> None:
    await world.stop_shop()
    said = await world.hear("where is my order 4521")
    assert "I can't look into the order system just now" in "".join(said)
    assert await world.tickets() == []


async def test_ten_wrong_answers_in_a_row_end_at_a_person(world: ShopWorld) -> None:
    await world.hear("where is my order")
    for number in range(10):
        if await world.tickets():
            break
        await world.hear(f"purple {'x' * number}")
    (ticket,) = await world.tickets()
    assert ticket.reason is Reason.LOW_CONFIDENCE
