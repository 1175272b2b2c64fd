"""One assistant behind four doors (terminal, site chat, Telegram, WhatsApp), the demo's flows and the demo's shop.

Everything is real but the platforms, for which stand-ins listen, and what the models would make of words that are no
plain answer: that the stories say themselves.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4
from zoneinfo import ZoneInfo

import httpx
import uvicorn
from bot_api import TOKEN, BotApi, bot_api, text_update
from desks import open_desk
from graph_api import PHONE, SECRET, VERIFY, GraphApi, graph_api, labels, words
from graph_api import TOKEN as GRAPH_TOKEN
from site_harness import DATA, Clock, Keywords, flow_picture, free_port
from sqlalchemy import exists, func, select

from bot.addresses import Allowed
from bot.assistant import Assistant
from bot.attachments import AttachmentStore
from bot.channels.base import Address, InboundMessage, OutboundMessage
from bot.channels.site import SiteChannel
from bot.channels.telegram import TelegramChannel
from bot.channels.terminal import TerminalChannel
from bot.channels.whatsapp import WhatsAppChannel
from bot.database import migrate, open_database
from bot.demo_shop import DemoShop, Sent
from bot.dialogue import Candidate, DialogueState, FlowRecord, Handoff, Outcome, SlotValue, Understanding
from bot.flows.engine import Looked
from bot.flows.format import load_flows
from bot.flows.library import FlowBase, take_files
from bot.flows.lookup_format import LookupFile, read_lookups
from bot.flows.lookups import Asker, Lookups
from bot.flows.proof import Proofs
from bot.flows.stories import POLICY, SURE, LookupAnswer, Player, Stage, StoryStep
from bot.flows.turns import FlowBook
from bot.ledger import InboxRow, InboxState, OutboxRow
from bot.message_templates import load_templates
from bot.models.understanding import Understood, outcome_of
from bot.replies import Replies
from bot.shared import LocalShared, Rate
from bot.turn.turns import Turns
from bot.web.app import create_app
from bot.web.webhooks import Webhooks, WhatsAppHook
from bot.whatsapp_record import WhatsAppRecord
from bot.window import Windows
from handoff import desk
from handoff.records import Conversation, Message, Reason, Ticket
from nlu.training_data import load_intents

COMMON = {"shop": "Klyon", "hours": "9–21", "privacy_url": "https://klyon.example/p", "first_reply_minutes": 10}
PNG = b"\x89PNG\r\n\x1a\n" + b"\x00\x00\x00\rIHDR" + b"\x00" * 60
PICTURES = {hashlib.sha256(each.read_bytes()).digest(): each.name for each in (DATA / "flows/pictures").iterdir()}


class Unhurried(LocalShared):
    """No limit of speed: a test's customer is quicker than any."""

    async def take(self, *rates: Rate) -> float:
        return 0.0

    async def book(self, ticket: str, own: Rate | None, common: Rate | None) -> float:
        return 0.0


class Told(Keywords):
    """Understands what it was told of a text, and nothing else."""

    def __init__(self, outcomes: Mapping[str, Outcome]) -> None:
        super().__init__()
        self.policy = POLICY
        self.meant: dict[str, tuple[str | None, str | None]] = {}
        """Text → intent and article."""
        self.lang = "en"
        self._outcomes = outcomes

    def understand(self, text: str, remembered_lang: str | None = None) -> Understood:
        intent, article = self.meant.get(text, (None, None))
        outcome = self._outcomes[intent] if intent else Outcome()
        article = article or outcome.article
        found = Understanding(text)
        if intent or article:
            shown = (self._found(article, SURE),) if article else ()
            found = Understanding(text, intent, SURE if intent else 0.0, outcome, shown)
        return Understood(self.lang, (found,), {"lang": self.lang, "model_version": self.version})

    def candidate(self, article_id: str, lang: str, *, whole: bool = False, asked: str = "") -> Candidate | None:
        return self._found(article_id, 1.0)

    def _found(self, article_id: str, confidence: float) -> Candidate:
        text = f"[{article_id}: {article_id}]"
        return Candidate(article_id, article_id, text, "", confidence, self.lang)


@dataclass
class Line:
    """What flows look up with: what a story says is found, or the shop itself."""

    scripted: dict[str, LookupAnswer] = field(default_factory=dict)
    real: Lookups | None = None
    asked: dict[str, dict[str, Mapping[str, Any]]] = field(default_factory=dict)
    """Who asks → lookup → its slots."""

    async def run(self, name: str, slots: Mapping[str, Any], asker: Asker) -> Looked:
        self.asked.setdefault(asker.who, {})[name] = slots
        if self.real is not None:
            return await self.real.run(name, slots, asker)
        told = self.scripted.get(name, LookupAnswer(ok=False, reason="unknown"))
        return Looked(told.ok, told.data, told.reason)


@dataclass(frozen=True)
class Heard:
    """What a customer sees of the answers to the last thing that he did."""

    texts: Sequence[str]
    labels: Sequence[str]
    """Of the last message's choices, as they are shown."""
    pictures: Sequence[str]


class Customer(Protocol):
    """One customer at one door."""

    address: Address
    lacks: frozenset[str]
    """What can't be done or seen there: `send`, `start`, `picture`."""

    async def say(self, text: str) -> None: ...
    async def press(self, label: str) -> None: ...
    async def send_photo(self) -> None: ...
    async def follow_link(self, flow: str) -> None: ...
    async def hear(self) -> Heard: ...


class House:
    """The assistant. `at_work` opens its doors."""

    def __init__(self, var: Path, api: BotApi, graph: GraphApi, clock: Clock) -> None:
        self.clock, self.api, self.graph = clock, api, graph
        self.engine, self.sessions = open_database(f"sqlite+aiosqlite:///{var / 'otvet.sqlite3'}")
        self.store = AttachmentStore(var / "attachments", 1_000_000)
        self.line = Line()
        both = {"ru": COMMON, "en": COMMON}
        self.replies = Replies((DATA / "replies",), both)
        self.desk = open_desk(self.replies, clock)
        self.flows = FlowBase(url="", folder=DATA / "flows", common=both, clock=clock, progress=print)
        intents = load_intents(DATA / "intents").intents
        self.outcomes = {name: outcome_of(spec) for name, spec in intents.items()}
        self.mind = Told(self.outcomes)
        shared = Unhurried()
        self.shown: dict[str, list[OutboundMessage]] = {}
        """Of the terminal."""
        self.terminal = TerminalChannel(lambda message: self.shown[""].append(message))
        site = SiteChannel(self.store, shared)
        telegram = TelegramChannel(TOKEN, api_base=api.base, poll_seconds=1, retry_seconds=0.01)
        whatsapp = WhatsAppChannel(GRAPH_TOKEN, [PHONE], api_base=graph.base)
        turns = Turns(
            understander=lambda: self.mind,
            replies=self.replies,
            agent_desk=self.desk,
            clock=clock,
            limit_mb=20,
            flows=lambda: self.flows.book,
            lookups=self.line,
            flow_picture=partial(flow_picture, self.store),
        )
        self.assistant = Assistant(
            sessions=self.sessions,
            turns=turns,
            channels=[self.terminal, site, telegram, whatsapp],
            attachments=self.store,
            clock=clock,
            gather_seconds=0,
            shared=shared,
        )
        windows = Windows(
            lengths={},
            templates=load_templates(DATA / "templates.yml"),
            replies=self.replies,
            shop={"ru": "Клён", "en": "Klyon"},
            clock=clock,
            zone=ZoneInfo("Europe/Moscow"),
        )
        record = WhatsAppRecord(
            sessions=self.sessions,
            receive=self.assistant.receive,
            windows=windows,
            on_failed=self.assistant.on_failed,
            accounts=[PHONE],
            clock=clock,
        )
        self.app = create_app(
            sessions=self.sessions,
            receive=self.assistant.receive,
            clock=clock,
            site=site,
            shop={"ru": "Клён", "en": "Klyon"},
            webhooks=Webhooks(whatsapp=WhatsAppHook(SECRET, VERIFY, record.take)).router,
        )
        self.port = free_port()
        self.shop = DemoShop(DATA / "shop" / "demo.yml", var / "shop.sqlite3", clock=clock)
        self.numbers = itertools.count(1)

    @asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        await migrate(self.engine)
        async with self.sessions.begin() as session:
            await take_files(session, load_flows(DATA / "flows")[0], at=self.clock())
        await self.flows.refresh(self.sessions)
        config = uvicorn.Config(self.app, port=self.port, log_level="warning", ws="none", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
        serving = asyncio.create_task(server.serve())
        tasks = [asyncio.create_task(each) for each in (self.assistant.run(), self.shop.run())]
        while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.01)
        self.graph.webhook = f"http://127.0.0.1:{self.port}/webhooks/whatsapp"
        try:
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.port}", trust_env=False) as self.browser:
                yield
        finally:
            self.graph.webhook = ""
            await self.graph.settle()
            server.should_exit = True
            await serving
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.shop.close()
            await self.engine.dispose()

    def lookups(self, *, at: str = "", file: LookupFile | None = None) -> Lookups:
        """Of the demo's file. at: another server in the shop's place."""
        host = (at or self.shop.url).removeprefix("http://")
        return Lookups(
            file or read_lookups(DATA / "lookups.yml"),
            allowed=Allowed.of(private=[host.partition("/")[0]]),
            secrets={"OTVET_LOOKUP_SHOP_TOKEN": self.shop.token},
            shared=Unhurried(),
            clock=self.clock,
            proofs=Proofs(self.sessions, self.clock),
            demo=f"http://{host}",
        )

    async def code(self) -> str:
        """The newest that the shop has sent to an owner of an order."""
        async with self.shop.sessions() as session:
            text = str((await session.scalars(select(Sent.text).order_by(Sent.id.desc()))).first())
        return "".join(each for each in text.split(".")[0] if each.isdigit())

    async def customers(self) -> list[Customer]:
        """A new one at every door."""
        return [AtTerminal(self), await AtSite.come(self), OnTelegram(self), OnWhatsApp(self)]

    # What the record says.

    async def received(self, address: Address) -> int:
        async with self.sessions.reading() as session:
            query = select(func.count()).select_from(InboxRow).where(*_at(InboxRow, address))
            return await session.scalar(query) or 0

    async def answered(self, address: Address, before: int, seconds: float = 20) -> None:
        """Until something came in beside so many messages, everything is answered, and the answers are sent."""
        came = select(func.count()).select_from(InboxRow).where(*_at(InboxRow, address)).scalar_subquery()
        waiting = exists().where(*_at(InboxRow, address), InboxRow.state == InboxState.PENDING)
        unsent = exists().where(OutboxRow.conversation_id == Conversation.id, *_at(Conversation, address))
        pause = 0.01
        async with asyncio.timeout(seconds):
            while True:
                await asyncio.sleep(pause)
                async with self.sessions.reading() as session:
                    count, pending, queued = (await session.execute(select(came, waiting, unsent))).one()
                if count > before and not pending and not queued:
                    return
                pause = min(pause * 1.5, 0.1)

    async def conversation(self, address: Address) -> Conversation:
        async with self.sessions() as session:
            return (await session.scalars(select(Conversation).where(*_at(Conversation, address)))).one()

    async def transcript(self, address: Address) -> Sequence[Message]:
        async with self.sessions() as session:
            return await desk.transcript(session, (await self.conversation(address)).id)

    async def tickets(self, address: Address) -> Sequence[Ticket]:
        async with self.sessions() as session:
            ours = (await self.conversation(address)).id
            return list(await session.scalars(select(Ticket).where(Ticket.conversation_id == ours)))


def _at(row: Any, address: Address) -> list[Any]:
    return [row.channel == address.channel, row.account == address.account, row.chat_id == address.chat_id]


@asynccontextmanager
async def house(var: Path) -> AsyncIterator[House]:
    clock = Clock()
    clock.at_noon()
    async with AsyncExitStack() as stack:
        api = await stack.enter_async_context(bot_api(TOKEN))
        graph = await stack.enter_async_context(graph_api(clock))
        graph.statuses = ()
        made = House(var, api, graph, clock)
        await stack.enter_async_context(made.at_work())
        yield made


class AtTerminal:
    """Reads what is printed, and types: a choice by its number."""

    lacks = frozenset({"send", "start", "picture"})

    def __init__(self, house: House) -> None:
        self.house = house
        self.address = Address("terminal", "", uuid4().hex)
        house.shown[""] = []
        self._choices: list[str] = []

    async def say(self, text: str) -> None:
        await self.house.assistant.receive(
            InboundMessage(self.address, uuid4().hex, self.house.clock(), "text", text, lang_hint=self.house.mind.lang)
        )

    async def press(self, label: str) -> None:
        await self.say(str(self._choices.index(label) + 1))

    async def hear(self) -> Heard:
        printed, self.house.shown[""] = self.house.shown[""], []
        last = printed[-1].text.rpartition("\n\n")[2].splitlines() if printed else []
        numbered = [line.partition(". ") for line in last]
        listed = bool(numbered) and all(head == str(at) for at, (head, _, _) in enumerate(numbered, 1))
        self._choices = [label for _, _, label in numbered] if listed else []
        return Heard([each.text for each in printed], self._choices, ())

    async def send_photo(self) -> None:
        raise NotImplementedError

    async def follow_link(self, flow: str) -> None:
        raise NotImplementedError


class AtSite:
    """A browser: posts, and reads the stream of events up to where it is live."""

    lacks: frozenset[str] = frozenset()

    def __init__(self, house: House, token: str) -> None:
        self.house = house
        self.address = Address("site", "", hashlib.sha256(token.encode()).hexdigest())
        self._headers = {"Authorization": f"Bearer {token}"}
        self._seen = 0
        self._tokens: dict[str, str] = {}

    @classmethod
    async def come(cls, house: House) -> AtSite:
        return cls(house, (await house.browser.post("/api/chat/sessions")).json()["token"])

    async def _post(self, **body: Any) -> None:
        posted = {"client_id": str(uuid4()), "lang": self.house.mind.lang, **body}
        answer = await self.house.browser.post("/api/chat/messages", json=posted, headers=self._headers)
        assert answer.status_code == 202, answer.text

    async def say(self, text: str) -> None:
        await self._post(text=text)

    async def press(self, label: str) -> None:
        await self._post(kind="choice", choice=self._tokens[label])

    async def follow_link(self, flow: str) -> None:
        await self._post(kind="start", text=f"flow-{flow}")

    async def send_photo(self) -> None:
        form = {"client_id": str(uuid4()), "lang": self.house.mind.lang}
        files = {"file": ("broken.png", PNG, "image/png")}
        answer = await self.house.browser.post("/api/chat/files", data=form, files=files, headers=self._headers)
        assert answer.status_code == 202, answer.text

    async def hear(self) -> Heard:
        rows, event = [], ""
        headers = {**self._headers, "Last-Event-ID": str(self._seen)}
        async with self.house.browser.stream("GET", "/api/chat/events", headers=headers) as stream:
            async for line in stream.aiter_lines():
                name, _, value = line.partition(": ")
                if name == "event":
                    event = value
                elif name == "data" and event == "message":
                    rows.append(json.loads(value))
                if event == "live":
                    break
        self._seen = rows[-1]["id"] if rows else self._seen
        rows = [row for row in rows if row["author"] != "customer"]
        self._tokens = {each["label"]: each["token"] for each in rows[-1]["options"]} if rows else {}
        pictures = [file["name"] for row in rows for file in row["attachments"]]
        return Heard([row["text"] for row in rows], list(self._tokens), pictures)


class OnTelegram:
    lacks: frozenset[str] = frozenset()

    def __init__(self, house: House) -> None:
        self.house = house
        self.chat = 1000 + next(house.numbers)
        self.address = Address("telegram", TOKEN.partition(":")[0], str(self.chat))
        self._seen = 0
        self._data: dict[str, str] = {}

    async def say(self, text: str) -> None:
        await self.house.api.put(self._update(text))

    def _update(self, text: str, **more: Any) -> dict[str, Any]:
        update = text_update(next(self.house.numbers), text, self.chat)
        update["message"]["from"]["language_code"] = self.house.mind.lang
        update["message"] |= more
        return update

    async def press(self, label: str) -> None:
        number = next(self.house.numbers)
        pressed = {
            "id": f"c{number}",
            "from": {"id": self.chat, "is_bot": False, "first_name": "Анна", "language_code": self.house.mind.lang},
            "chat_instance": "1",
            "data": self._data[label],
            "message": {"message_id": 9, "date": 1, "chat": {"id": self.chat, "type": "private"}},
        }
        await self.house.api.put({"update_id": number, "callback_query": pressed})

    async def follow_link(self, flow: str) -> None:
        await self.say(f"/start flow-{flow}")

    async def send_photo(self) -> None:
        self.house.api.files["p1"] = PNG
        photo = [{"file_id": "p1", "file_unique_id": "p1", "width": 9, "height": 9, "file_size": len(PNG)}]
        update = self._update("", photo=photo)
        del update["message"]["text"]
        await self.house.api.put(update)

    async def hear(self) -> Heard:
        ours = [sent for sent in self.house.api.sent if sent["chat_id"] == self.chat]
        new, self._seen = ours[self._seen :], len(ours)
        rows = new[-1].get("reply_markup", {}).get("inline_keyboard", []) if new else []
        self._data = {button["text"]: button["callback_data"] for row in rows for button in row}
        pictures = [_named(self.house.api.files[sent["photo"]]) for sent in new if "photo" in sent]
        texts = [str(sent.get("text") or sent.get("caption") or "") for sent in new]
        return Heard(texts, list(self._data), pictures)


class OnWhatsApp:
    lacks = frozenset({"start"})

    def __init__(self, house: House) -> None:
        self.house = house
        self.number = f"7912000{next(house.numbers):04}"
        self.address = Address("whatsapp", PHONE, self.number)
        self._seen = 0

    async def say(self, text: str) -> None:
        await self.house.graph.say(self.number, text)

    async def press(self, label: str) -> None:
        await self.house.graph.press(self.number, self.house.graph.to(self.number)[-1], label)

    async def follow_link(self, flow: str) -> None:
        raise NotImplementedError

    async def send_photo(self) -> None:
        self.house.graph.files["77"] = ("image/png", PNG)
        image = {"id": "77", "mime_type": "image/png"}
        await self.house.graph.customer(self.number, {"type": "image", "image": image})

    async def hear(self) -> Heard:
        ours = self.house.graph.to(self.number)
        new, self._seen = ours[self._seen :], len(ours)
        pictures = [_named(self.house.graph.files[sent["image"]["id"]][1]) for sent in new if sent["type"] == "image"]
        texts = [words(sent) or str(sent.get("image", {}).get("caption", "")) for sent in new]
        return Heard(texts, labels(new[-1]) if new else [], pictures)


def _named(picture: bytes) -> str:
    return PICTURES.get(hashlib.sha256(picture).digest(), "?")


class DoorPlayer(Player):
    """A story's customer at one door: what he hears is what came out there, and the rest stands in the record."""

    def __init__(self, customer: Customer, house: House, lang: str) -> None:
        stage = Stage(FlowBook(), house.replies, house.outcomes, house.clock())
        super().__init__(stage, lang)
        self.customer, self.house = customer, house

    async def act(self, step: StoryStep) -> str | None:
        """Do what the step says and wait for the answer. What did not come true, None if all did."""
        house, customer = self.house, self.customer
        before = await house.received(customer.address)
        house.line.asked.pop(Asker(customer.address, self.lang).who, None)
        if step.user is not None:
            text = step.user.replace("{code}", await house.code()) if "{code}" in step.user else step.user
            house.mind.meant[text] = (step.intent, step.article)
            await customer.say(text)
        elif step.press is not None:
            wanted = step.press
            label = next((shown for shown, full in self.shown.items() if full == wanted), "")
            if not label:
                return f"there is no button {wanted!r}, only {list(self.shown.values())}"
            await customer.press(label)
        elif step.send is not None:
            await customer.send_photo()
        elif step.start is not None:
            await customer.follow_link(step.start)
        else:
            return None
        await house.answered(customer.address, before)
        await self._look(await customer.hear())
        return self.misses(step.model_copy(update={"picture": None}) if "picture" in customer.lacks else step)

    async def _look(self, heard: Heard) -> None:
        house, address = self.house, self.customer.address
        self.state = DialogueState.from_json((await house.conversation(address)).state)
        self.replies, self.pictures = list(heard.texts), list(heard.pictures)
        self.shown = {label: self._whole(label) for label in heard.labels}
        self.buttons = dict(self.shown)
        self.looked_up = dict(house.line.asked.get(Asker(address, self.lang).who, {}))
        self.said += [f"< {text}" for text in heard.texts]
        decided = (await house.transcript(address))[-1].decision or {}
        if decided.get("action") == "handoff":
            flow = decided.get("flow")
            record = (
                FlowRecord(**{**flow, "slots": tuple(SlotValue(**each) for each in flow["slots"])}) if flow else None
            )
            self.handoff = Handoff(Reason(decided["reason"]), decided["topic"], None, record)

    shown: dict[str, str] = {}  # noqa: RUF012 - each look puts another in its place

    def _whole(self, label: str) -> str:
        """Of a label that a platform has cut short."""
        if not label.endswith("…"):
            return label
        return next(str(full) for full in self.state.options.values() if full.startswith(label[:-1].rstrip()))


async def play(house: House, customers: Sequence[Customer], steps: Sequence[StoryStep], lang: str) -> None:
    """The same story at several doors, step by step at all of them. Raises AssertionError for the first thing that is
    not as it says."""
    house.mind.lang = lang
    players = [DoorPlayer(customer, house, lang) for customer in customers]
    for number, step in enumerate(steps, 1):
        house.line.scripted.update(step.lookups or {})
        if step.wait_hours:
            house.clock.ahead += timedelta(hours=step.wait_hours)
        problems = await asyncio.gather(*(player.act(step) for player in players))
        for player, problem in zip(players, problems, strict=True):
            where = f"{player.customer.address.channel}, step {number} ({step.user or step.press or step.send})"
            assert problem is None, f"{where}: {problem}\n" + "\n".join(player.said)
