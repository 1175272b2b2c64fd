"""The demo's flows through real doors: terminal, site chat, Telegram and WhatsApp, with one assistant behind them.

The scripted conversations of `data/flows/tests` go over each door as they are written; the shop's flows go against the
demo shop, with its codes, and against one that fails.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from aiohttp import web
from doors import House, house, play
from site_harness import DATA, free_port

from bot.flows.library import get_revision, publish, save
from bot.flows.lookup_format import read_lookups
from bot.flows.stories import LookupAnswer, Scripted, StoryStep, load_stories, parse_stories
from handoff.records import Author, Owner, Reason

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]
STORIES = load_stories(DATA / "flows" / "tests")[0]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def at_home(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    async with house(tmp_path_factory.mktemp("doors")) as made:
        yield made


@pytest.fixture
def home(at_home: House) -> House:
    at_home.clock.at_noon()
    at_home.line.real = None
    at_home.line.scripted.clear()
    return at_home


def flow_of(scripted: Scripted) -> str:
    return next(each.active_loop or each.article or each.intent or "" for each in scripted.story.steps)


BEGUN = [flow_of(each) for each in STORIES]


@pytest.mark.parametrize("number", range(len(STORIES)), ids=[each.name for each in STORIES])
async def test_a_scripted_conversation_goes_through_the_doors_as_it_is_written(home: House, number: int) -> None:
    """The first one of each flow at every door, each further one at one of them in turn: the suite has limits."""
    steps, lang = STORIES[number].story.steps, STORIES[number].story.lang
    needs = {name for name in ("send", "start") if any(getattr(step, name) for step in steps)}
    customers = [each for each in await home.customers() if not needs & each.lacks]
    first = BEGUN.index(BEGUN[number]) == number
    await play(home, customers if first else [customers[number % len(customers)]], steps, lang)


SHOP = """
stories:
- story: Где заказ, и что в нём, по коду
  lang: ru
  steps:
  - {user: "Где мой заказ 4521?", article: order-status, bot: "Заказ 4521: в пути. Ждём его у вас"}
  - {press: Состав и адрес, bot: код из 6 цифр, never: Verona}
  - {user: "не помню, кажется 1", never: Verona, step: code}
  - {user: "вот он: {code}", bot: [Кофемашина Verona 300, Лесная], active_loop: null}
- story: A return
  lang: en
  steps:
  - {user: I want to return order 4522, article: return-how, bot: a 6-digit code, step: code}
  - {user: "{code}", bot: Lynx S2 robot vacuum. Why}
  - {user: it is broken, bot: Shall I set the return up}
  - {user: "yes", bot: Return R1001 is set up, active_loop: null}
- story: The warranty
  lang: en
  steps:
  - {user: is ND60073315 under warranty, article: warranty-check, bot: Norda 6 washing machine, active_loop: null}
- story: Новый адрес
  lang: ru
  steps:
  - {user: поменяйте адрес заказа 60715, article: delivery-address, bot: код из 6 цифр}
  - {user: "{code}", bot: Напишите новый адрес целиком}
  - {user: "Казань, ул. Новая, 1, кв. 2", bot: Всё верно}
  - {user: да, bot: "адрес изменён: Казань, ул. Новая, 1, кв. 2", active_loop: null}
- story: Late
  lang: en
  steps:
  - {user: order 55213 is late, article: delivery-late, bot: [it was promised for, 900 bonus points], step: wish}
  - {press: Points for the delay, bot: a 6-digit code, step: code}
  - {user: "{code}", bot: 900 bonus points, active_loop: null}
- story: No such order
  lang: en
  steps:
  - {user: where is my order 1111, article: order-status, bot: "I can't find an order with that number", step: order}
  - {user: "purple", bot: 4 to 8 digits}
  - {user: "4521 it is", bot: Order 4521 is on its way}
"""


@pytest.mark.parametrize("scripted", parse_stories(SHOP), ids=lambda scripted: scripted.name)
async def test_the_shop_answers_and_its_code_opens_what_is_personal_at_every_door(
    home: House, scripted: Scripted
) -> None:
    home.line.real = real = home.lookups()
    try:
        for customer in await home.customers():
            await play(home, [customer], scripted.story.steps, scripted.story.lang)
            home.clock.advance(3600)  # an order's owner is sent few codes an hour
    finally:
        await real.close()


FAILS = """
stories:
- story: The shop fails, and is well again
  lang: en
  steps:
  - user: where is my order 4521
    article: order-status
    bot: ["I can't look into the order system just now", "[order-status"]
    active_loop: null
  - {user: and order 4521 now, article: order-status, bot: Order 4521 is on its way}
"""


async def test_a_shop_that_is_down_slow_or_out_of_its_mind_leaves_everybody_with_the_article(home: House) -> None:
    async def answer(request: web.Request) -> web.Response:
        match request.match_info["fault"]:
            case "500":
                return web.Response(status=500, text="<h1>Internal Server Error</h1>")
            case "not-json":
                return web.Response(text="<html>Under maintenance</html>")
            case "another-shape":
                return web.json_response(["on_the_way"])
        await asyncio.Event().wait()  # "slow"
        raise AssertionError

    app, port, gone = web.Application(), free_port(), free_port()
    app.router.add_get("/{fault}/orders/{number}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    file = read_lookups(DATA / "lookups.yml")
    quick = {"order-stage": file.lookups["order-stage"].model_copy(update={"seconds": 0.2, "retries": 0})}
    file = file.model_copy(update={"lookups": {**file.lookups, **quick}})
    (story,) = parse_stories(FAILS)
    customers = await home.customers()
    faults = [f"127.0.0.1:{port}/{each}" for each in ("500", "not-json", "another-shape", "slow")]
    for fault in [*faults, f"127.0.0.1:{gone}"]:
        home.line.real = home.lookups(at=fault, file=file)
        await play(home, customers, story.story.steps[:1], "en")
        await home.line.real.close()
    home.line.real = home.lookups()
    await play(home, customers, story.story.steps[1:], "en")
    assert [ticket for each in customers for ticket in await home.tickets(each.address)] == []
    await home.line.real.close()
    await runner.cleanup()


WRONG = "stories:\n- story: wrong\n  lang: en\n  steps:\n" + "".join(
    f"  - {{user: {said}}}\n" for said in ("where is my order", *(f"purple {'x' * number}" for number in range(1, 4)))
)


async def test_whoever_never_answers_rightly_gets_a_person_and_then_no_more_of_the_flow(home: House) -> None:
    steps = parse_stories(WRONG.replace("user: where is my order", "user: where is my order, article: order-status"))
    customers = await home.customers()
    await play(home, customers, steps[0].story.steps, "en")
    for customer in customers:
        (ticket,) = await home.tickets(customer.address)
        assert ticket.reason is Reason.LOW_CONFIDENCE
        assert (await home.conversation(customer.address)).owner is Owner.PERSON
    more = [StoryStep(user=f"purple again {number}", active_loop=None) for number in range(2)]
    said = [len(await home.transcript(each.address)) for each in customers]
    await play(home, customers, more, "en")
    assert [len(await home.transcript(each.address)) for each in customers] == [count + 2 for count in said]


async def test_who_is_in_a_flow_that_is_changed_ends_it_as_he_began_it(home: House) -> None:
    home.line.scripted["order-stage"] = LookupAnswer(data={"stage": "packing", "answer": "It is being packed."})
    before = await home.customers()
    begin = StoryStep(user="where is my order", article="order-status", bot="Tell me the order number")
    await play(home, before, [begin], "en")
    text = home.flows.book.flows["order-status"].text
    changed = text.replace("id: order\n", "id: number\n").replace("next: order\n", "next: number\n")
    changed = changed.replace("Tell me the order number", "Your number, please")
    async with home.sessions.begin() as session:
        newest = await get_revision(session, "order-status")
        made = await save(session, changed, expected=newest.number, by="test", at=home.clock())
        await publish(session, "order-status", made.number, at=home.clock())
    assert await home.flows.refresh(home.sessions)
    try:
        await play(home, before, [StoryStep(user="purple", bot="Tell me the order number", step="order")], "en")
        await play(home, before, [StoryStep(user="4521", bot="It is being packed.", step="told")], "en")
        again = StoryStep(user="where is my order", article="order-status", bot="Your number", step="number")
        await play(home, await home.customers(), [again], "en")
    finally:
        async with home.sessions.begin() as session:
            await publish(session, "order-status", newest.number, at=home.clock())
        await home.flows.refresh(home.sessions)


async def test_a_person_who_takes_over_stops_the_flow_for_good(home: House) -> None:
    home.line.scripted["order-stage"] = LookupAnswer(data={"stage": "packing", "answer": "It is being packed."})
    customers = await home.customers()
    await play(home, customers, [StoryStep(user="a person please", intent="ask_for_person")], "en")
    for customer in customers:
        (ticket,) = await home.tickets(customer.address)
        async with home.sessions.begin() as session:
            await home.desk.start_flow(session, ticket.id, "order-status", "Where is my order", agent="Anna")
        await home.answered(customer.address, 1)
        assert "Tell me the order number" in (await customer.hear()).texts[-1]
        async with home.sessions.begin() as session:
            await home.desk.reopen(session, ticket.id, agent="Anna")
            await home.desk.reply(session, ticket.id, "I am looking myself", agent="Anna")
        await home.answered(customer.address, 1)
        assert "I am looking myself" in (await customer.hear()).texts[-1]
    await play(home, customers, [StoryStep(user="4521", active_loop=None, never="packed")], "en")
    for customer in customers:
        assert (await home.transcript(customer.address))[-1].author is Author.CUSTOMER
        (ticket,) = await home.tickets(customer.address)
        async with home.sessions.begin() as session:
            await home.desk.return_to_assistant(session, ticket.id, agent="Anna")
    await play(home, customers, [StoryStep(user="4521", active_loop=None, never="packed")], "en")
