"""The site chat with everything real but the understanding: ledger, turns, sender, desk, web server."""

from __future__ import annotations

import asyncio
import secrets
import socket
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import uvicorn
from desks import open_desk
from fastapi import FastAPI
from kb_samples import LetterEncoder

from bot.article_means import ArticleMeans
from bot.assistant import Assistant
from bot.attachments import AttachmentStore, StoredFile
from bot.channels.site import SiteChannel
from bot.database import open_database
from bot.desk.accounts import Accounts
from bot.desk.feed import DeskFeed
from bot.desk.macros import load_starters
from bot.desk.outgoing import OUTGOING, fire_outgoing
from bot.desk.survey import SURVEY
from bot.dialogue import Candidate, Outcome, Policy, Understanding
from bot.email_proof import EmailProof
from bot.erasure.export import Exporter
from bot.flows.check import Known
from bot.flows.format import load_flows
from bot.flows.library import FlowBase, take_files
from bot.flows.means import FlowMeans
from bot.flows.proof import Proofs
from bot.flows.stories import Stage, load_stories
from bot.flows.turns import NO_FLOWS, FlowBook
from bot.forum.people import ForumPeople
from bot.gaps.review import NO_MODELS
from bot.language import detect
from bot.ledger import Sessions
from bot.message_templates import load_templates
from bot.models.understanding import Understander, Understood, outcome_of
from bot.replies import Replies
from bot.shared import LocalShared
from bot.timers import Timers
from bot.turn.turns import Turns
from bot.web.app import create_app
from bot.web.desk_base import ArticleOffer, DeskWeb
from bot.web.studio_base import StudioWeb
from handoff.records import Base, Reason
from kb_index import records as articles
from kb_index.article_files import ArticleFiles
from kb_index.articles import Article
from kb_index.library import published
from kb_index.search import SearchIndex
from nlu import records as intents
from nlu.training_data import load_intents

DATA = Path(__file__).parent.parent / "data"
ARTICLES = {
    "order-status": "You can see it in **My orders**:\n\n- *New*: accepted\n- *On its way*: see https://klyon.example/orders.",
    "return-period": "Within **14 days** of receipt.",
    "return-how": "Open My orders and press Return.",
}
T = TypeVar("T")


COURTESIES = {"thanks": "thanks", "yes": "confirmed"}


class Keywords(Understander):
    """Understands a few words: order → an answer, return → a choice, person → a handoff, boom → a fault; "thanks" and
    "yes" alone → courtesies."""

    def __init__(self) -> None:
        bars = {"ru": 0.9, "en": 0.9}
        self.version = "keywords"
        self.topics = None
        self.policy = Policy(answer=bars, clarify={"ru": 0.5, "en": 0.5}, intent=bars)

    def understand(self, text: str, remembered_lang: str | None = None) -> Understood:
        low, found = text.lower(), Understanding(text)
        if len(text) > self.policy.max_text_chars:
            found = Understanding(text)
        elif "boom" in low:
            raise RuntimeError("boom")
        elif low in COURTESIES:
            found = Understanding(text, low, 0.99, Outcome(reply=COURTESIES[low]))
        elif "person" in low or "человек" in low:
            asked = Outcome(handoff="any", reason=Reason.ASKED_FOR_PERSON)
            found = Understanding(text, "ask_person", 0.99, asked)
        elif "order" in low or "заказ" in low:
            found = Understanding(text, candidates=(self._found("order-status", 0.97),))
        elif "return" in low:
            both = self._found("return-period", 0.45), self._found("return-how", 0.4)
            found = Understanding(text, candidates=both)
        elif "set up" in low or "настро" in low:
            found = Understanding(text, "device_setup", 0.99, Outcome(flow="setup-guide"))
        lang = detect(text, remembered_lang)
        return Understood(lang, (found,), {"lang": lang, "model_version": self.version})

    def candidate(self, article_id: str, lang: str, *, whole: bool = False, asked: str = "") -> Candidate | None:
        return self._found(article_id, 1.0) if article_id in ARTICLES else None

    def _found(self, article_id: str, confidence: float) -> Candidate:
        title = article_id.replace("-", " ").capitalize()
        return Candidate(article_id, title, ARTICLES[article_id], "orders", confidence, "en")


async def find_articles(words: str, lang: str, limit: int) -> list[ArticleOffer]:
    """The articles that share a word with the question."""
    found = [
        ArticleOffer(name, name.replace("-", " ").capitalize(), text, 0.9)
        for name, text in ARTICLES.items()
        if any(word in f"{name} {text}".lower() for word in words.lower().split())
    ]
    return found[:limit]


async def flow_picture(store: AttachmentStore, name: str) -> StoredFile:
    async def chunks() -> AsyncIterator[bytes]:
        yield (DATA / "flows" / "pictures" / name).read_bytes()

    return await store.store(chunks(), name)


class Clock:
    """Now, moved on by hand."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead

    def at_noon(self) -> None:
        """The next 9:00 UTC, noon in Moscow: for what must not cross a midnight when it is moved on by hours."""
        now = datetime.now(UTC)
        noon = now.replace(hour=9, minute=0, second=0, microsecond=0)
        self.ahead = noon - now + timedelta(days=noon < now)

    def advance(self, seconds: float) -> None:
        self.ahead += timedelta(seconds=seconds)


class Knowledge:
    """The published articles as they are searched, with an encoder that needs no model."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._index: SearchIndex | None = None
        self.loop: asyncio.AbstractEventLoop | None = None

    def index(self) -> SearchIndex | None:
        return self._index

    def follow(self) -> None:
        async def read() -> list[Article]:
            async with self._sessions.reading() as session:
                return await published(session, datetime.now(UTC))

        assert self.loop is not None
        articles = asyncio.run_coroutine_threadsafe(read(), self.loop).result(20)
        self._index = self._index.updated(articles) if self._index else SearchIndex.build(articles, LetterEncoder())


class Site:
    """One assistant with its site chat on one database."""

    def __init__(self, var: Path, **web: Any) -> None:
        self.clock = Clock()
        self.database = var / "otvet.sqlite3"
        self.engine, self.sessions = open_database(f"sqlite+aiosqlite:///{self.database}")
        store = AttachmentStore(var / "attachments", web.pop("max_attachment_bytes", 200_000))
        shared = web.pop("shared", None) or LocalShared(now=lambda: self.clock().timestamp())
        self._with_flows = web.pop("flows", False)
        """Whether the demo's flows run; without them its questions are answered by articles alone."""
        self._works = web.pop("works", True)
        """Whether it also answers, or only takes in and shows."""
        self.channel = SiteChannel(store, shared)
        common = {
            "shop": "Klyon",
            "hours": "9:00–21:00",
            "privacy_url": "https://klyon.example/privacy",
            "first_reply_minutes": 10,
        }
        understander = Keywords()
        replies = Replies((DATA / "replies",), {"ru": {**common, "shop": "Клён"}, "en": common})
        self.desk = open_desk(replies, self.clock)
        self.flows = FlowBase(
            url="",
            folder=DATA / "flows",
            common={"ru": common, "en": common},
            clock=self.clock,
            progress=print,
        )
        turns = Turns(
            understander=lambda: understander,
            replies=replies,
            agent_desk=self.desk,
            clock=self.clock,
            limit_mb=20,
            flows=lambda: self.flows.book if self._with_flows else NO_FLOWS,
            flow_picture=partial(flow_picture, store),
        )
        self.assistant = Assistant(
            sessions=self.sessions,
            turns=turns,
            channels=[self.channel],
            attachments=store,
            clock=self.clock,
            **({"gather_seconds": web.pop("gather_seconds")} if "gather_seconds" in web else {}),
        )
        self.accounts = Accounts(self.sessions, shared, self.clock, load_starters(DATA / "macros.yml"))
        self.people = ForumPeople(self.accounts, self.clock)
        self.feed = DeskFeed(self.sessions)
        self.timers = Timers(self.sessions, self.clock)
        self.timers.register(SURVEY, self.desk.survey.fire)
        self.timers.register(OUTGOING, partial(fire_outgoing, self.desk))
        desk = DeskWeb(
            sessions=self.sessions,
            accounts=self.accounts,
            desk=self.desk,
            feed=self.feed,
            site=self.channel,
            shared=shared,
            clock=self.clock,
            shop={"ru": "Клён", "en": "Klyon"},
            exporter=Exporter(sessions=self.sessions, attachments=store, clock=self.clock),
            articles=find_articles,
            templates=load_templates(DATA / "templates.yml"),
            forum_people=self.people,
        )
        self.knowledge = Knowledge(self.sessions)
        models = web.pop("models", None)
        self.studio = StudioWeb(
            desk=desk,
            models=models(self) if models else None,
            review=web.pop("review", NO_MODELS),
            articles=ArticleMeans(
                files=ArticleFiles(var / "article-files"),
                incoming=var / "incoming",
                clock=self.clock,
                audiences=["all", "business"],
                replies=replies,
                index=self.knowledge.index,
                changed=self.knowledge.follow,
            ),
            flows=self._flow_means(replies, common),
        )
        if mail := web.pop("mail", ""):
            web["email"] = EmailProof(
                mail=mail,
                proofs=Proofs(self.sessions, self.clock),
                customers=self.desk.customers,
                replies=replies,
                sessions=self.sessions,
                clock=self.clock,
            )
        self.app: FastAPI = create_app(
            desk=desk,
            studio=self.studio,
            sessions=self.sessions,
            receive=self.assistant.receive,
            clock=self.clock,
            site=self.channel,
            shop={"ru": "Клён", "en": "Klyon"},
            lifespan=self._lifespan,
            **{"messages_a_minute": 60, **web},
        )

    async def prepare(self) -> None:
        async with self.engine.begin() as connection:
            for tables in (Base.metadata, articles.Base.metadata, intents.Base.metadata):
                await connection.run_sync(tables.create_all)
        if self._with_flows:
            async with self.sessions.begin() as session:
                await take_files(session, load_flows(DATA / "flows")[0], at=self.clock())
            await self.flows.refresh(self.sessions)

    def _flow_means(self, replies: Replies, common: Mapping[str, Any]) -> FlowMeans:
        intents = load_intents(DATA / "intents").intents
        outcomes = {name: outcome_of(spec) for name, spec in intents.items()}
        started = {name: outcome.flow for name, outcome in outcomes.items() if outcome.flow}
        both = {"ru": common, "en": common}
        return FlowMeans(
            book=lambda: self.flows.book if self._with_flows else NO_FLOWS,
            known=lambda: Known(common=common, intents=started, topics=set(self.desk.tickets.topics.all)),
            stage=lambda flows: Stage(FlowBook(flows, common=both), replies, outcomes, self.clock()),
            stories=lambda: load_stories(DATA / "flows" / "tests")[0],
            changed=self.flows.refresh,
        )

    @asynccontextmanager
    async def _lifespan(self, _app: FastAPI) -> AsyncIterator[None]:
        await self.prepare()
        self.knowledge.loop = asyncio.get_running_loop()
        work = [asyncio.create_task(self.channel.shared.run())]
        if self._works:
            work += [asyncio.create_task(each.run()) for each in (self.assistant, self.feed, self.timers)]
        yield
        for task in work:
            task.cancel()
        await asyncio.gather(*work, return_exceptions=True)
        await self.channel.shared.close()
        await self.engine.dispose()

    async def agent_says(self, ticket_id: int, text: str, name: str = "Anna") -> None:
        """An agent's reply as a desk writes it. The sender finds it by itself."""
        async with self.sessions.begin() as session:
            await self.desk.reply(session, ticket_id, text, agent=name)

    async def agent_resolves(self, ticket_id: int) -> None:
        async with self.sessions.begin() as session:
            await self.desk.resolve(session, ticket_id, agent="Anna")


class Running:
    """A site served by a real uvicorn in a thread of its own."""

    def __init__(self, site: Site, port: int) -> None:
        config = uvicorn.Config(
            site.app, host="127.0.0.1", port=port, log_level="warning", timeout_graceful_shutdown=1, lifespan="on"
        )
        self.site, self.port, self._server = site, port, uvicorn.Server(config)
        self.url = f"http://127.0.0.1:{port}"
        self._thread = threading.Thread(target=self._serve)
        self.visitors = ExitStack()
        """Clients that are closed with it."""

    def _serve(self) -> None:
        with asyncio.Runner() as runner:
            self._loop = runner.get_loop()
            runner.run(self._server.serve())

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run something in the server's loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(20)

    def start(self) -> None:
        self._thread.start()
        for _ in range(400):
            if self._server.started:
                return
            self._thread.join(0.05)
            if not self._thread.is_alive():
                break
        raise RuntimeError("the server did not start")

    def stop(self) -> None:
        self.visitors.close()
        self._server.should_exit = True
        self._thread.join(20)


def free_port() -> int:
    """Below those that a system gives to clients (Linux from 32768, others from 49152) and by chance: a port that the
    system names as free may be somebody's by the time a server of ours takes it."""
    while True:
        port = 20_000 + secrets.randbelow(12_000)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


@contextmanager
def running(make: Callable[[], Site], port: int | None = None) -> Iterator[Running]:
    server = Running(make(), port or free_port())
    server.start()
    try:
        yield server
    finally:
        server.stop()
