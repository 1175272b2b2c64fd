"""A customer is erased: nothing of him is left anywhere, and every figure stays what it was."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import zipfile
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from databases import Postgres
from sqlalchemy import JSON, Boolean, Enum, LargeBinary, String, Table, insert, select, text
from test_agent_desk import Story
from test_turns import PNG
from typer.testing import CliRunner

from bot import ledger
from bot.channels.base import InboundAttachment, InboundMessage
from bot.cli.main import app
from bot.database import migrate, open_database
from bot.desk.records import AuditEntry
from bot.erasure.again import erase_again, erased_since
from bot.erasure.erasing import ERASE, Eraser
from bot.erasure.export import ConversationExport, CustomerExport, Exporter, export_schema
from bot.erasure.leftovers import Leftovers
from bot.erasure.person import Holdings
from bot.erasure.retention import Retention
from bot.erasure.tables import FATES
from bot.flows.proof import who_of
from bot.ledger import InboxRow
from bot.message_templates import MessageTemplates
from bot.timers import Timers
from bot.whatsapp_record import WhatsAppRecord, erased_id
from bot.window import Windows
from handoff.errors import CustomerError, LiveTicketsError, TicketStateError
from handoff.lifecycle import TicketStatus
from handoff.records import Author, Base, Conversation, Customer, Message, UtcDateTime
from handoff.reports import load_facts
from handoff.staff import put_agent
from kb_index.records import Base as Articles
from nlu.records import Base as Intents

DOCS = Path(__file__).parents[2] / "docs"
NOW = datetime(2027, 3, 1, 9, tzinfo=UTC)
PHONE = "+79161234567"
WORDS = ("Zanzibar", "Quagmire", "Wolfgang", "79161234567", "wolf@example.com", "passport", "Firefly", "telegram-4711")
"""What he said and is called, each found nowhere else."""


class Erasing(Story):
    def __init__(self, var: Path, database: str) -> None:
        super().__init__(var, database=database)
        self.var, self.heard = var, 0
        self.eraser = Eraser()
        self.leftovers = Leftovers(
            engine=self.engine,
            sessions=self.sessions,
            attachments=self.assistant._attachments,
            clock=self.clock,
            models=var / "models",
        )

    def message(self, text: str = "", *, key: str | None = None, chat: str = "c", **more: object) -> InboundMessage:
        # A platform's id of an event tells nothing of what was said.
        self.heard += 1
        return super().message(text, key=key or f"event-{self.heard}", chat=chat, **more)

    async def erase(self, customer: int = 1, **how: Any) -> Holdings:
        async with self.sessions.begin() as session:
            return await self.eraser.erase(session, customer, by="Olga", now=self.clock(), **how)

    async def finish(self) -> int:
        """Do what is left of erasures; how many are not finished."""
        for path in self.files():
            os.utime(path, (0, 0))
        timers = Timers(self.sessions, self.clock)
        timers.register_errand(ERASE, self.leftovers.do)
        await timers.run_errands()
        return await timers.waiting(ERASE)

    def files(self) -> list[Path]:
        return [path for path in (self.var / "attachments").rglob("*") if path.is_file()]

    async def figures(self) -> Any:
        until = NOW + timedelta(days=30)
        async with self.sessions.begin() as session:
            policy, topics = self.desk.tickets.policy, self.desk.tickets.topics
            since = NOW - timedelta(days=1)
            facts = await load_facts(session, policy, since=since, until=until, now=until, topics=topics)
            return asdict(facts)

    async def everything(self) -> str:
        """All that the database holds, as text."""
        found = []
        async with self.engine.connect() as connection:
            names = await connection.run_sync(tables)
            for name in names:
                rows = await connection.execute(text(f'SELECT * FROM "{name}"'))  # noqa: S608
                found += [f"{name}: {[_shown(value) for value in row]}" for row in rows]
        return "\n".join(found)


def tables(connection: Any) -> list[str]:
    from sqlalchemy import inspect

    return [name for name in inspect(connection).get_table_names() if not name.startswith("message_words_")]


def _shown(value: Any) -> Any:
    return bytes(value).decode("utf-8", "replace") if isinstance(value, bytes | memoryview) else value


@pytest.fixture(scope="module")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database as a new installation has it, to be copied."""

    async def make() -> None:
        engine, _ = open_database(f"sqlite+aiosqlite:///{path}")
        await migrate(engine)
        await engine.dispose()

    path = tmp_path_factory.mktemp("migrated") / "otvet.sqlite3"
    with ThreadPoolExecutor(1) as thread:  # the fixture may be asked for where a loop runs
        thread.submit(lambda: asyncio.run(make())).result()
    return path


@pytest.fixture
def database(request: pytest.FixtureRequest, tmp_path: Path, migrated: Path) -> str:
    if getattr(request, "param", "sqlite") == "postgresql":
        server: Postgres = request.getfixturevalue("postgres")
        return server.database()
    shutil.copy(migrated, tmp_path / "otvet.sqlite3")
    return f"sqlite+aiosqlite:///{tmp_path / 'otvet.sqlite3'}"


both = pytest.mark.parametrize("database", ["sqlite", "postgresql"], indirect=True)


@pytest.fixture
async def story(tmp_path: Path, database: str) -> AsyncIterator[Erasing]:
    made = Erasing(tmp_path, database)
    made.clock.ahead = NOW - datetime.now(UTC)
    yield made
    await made.engine.dispose()


async def told(story: Erasing) -> None:
    """A whole story: a question, a file, a person, a note, a survey, a second channel."""
    me = {"chat": "telegram-4711", "sender_name": "Wolfgang", "phone": PHONE}
    story.channel.files = {"1": PNG}
    await story.hear("where is my order to Zanzibar", **me)
    picture = InboundAttachment("photo", {"id": "1"}, file_name="passport.png")
    await story.hear("", kind="attachment", attachments=(picture,), key="file", **me)
    await story.hear("a person please, my mail is wolf@example.com", **me)
    await story.hear("I wait, Quagmire", key="wait", **me)
    await story.act("reply", 1, "Dear Wolfgang, it is in Zanzibar", agent="Anna")
    await story.act("note", 1, "Wolfgang is a Firefly", agent="Anna")
    await story.act("finish", 1, agent="Anna")
    await story.wait(hours=2)
    await story.hear("my order Quagmire again", chat="Firefly", phone=PHONE, key="second")
    await story.act("resolve", 1, agent="Anna")


@both
async def test_nothing_of_him_is_left_and_every_figure_is_what_it_was(story: Erasing) -> None:
    await told(story)
    await story.hear("where is my order, from somebody else", chat="other")
    whole, figures = await story.everything(), await story.figures()
    assert [word for word in WORDS if word not in whole] == []
    assert len(story.files()) == 1

    had = await story.erase()
    assert (had.conversations, had.tickets, had.files, had.open_tickets) == (2, 1, 1, ())

    assert await story.finish() == 0
    whole = await story.everything()
    assert [word for word in WORDS if word in whole] == []
    assert "from somebody else" in whole
    assert await story.figures() == figures
    assert story.files() == []
    if story.engine.dialect.name == "sqlite":
        raw = b"".join(path.read_bytes() for path in story.var.glob("*.sqlite3*"))
        assert [word for word in WORDS if word.encode() in raw or word.lower().encode() in raw] == []


def documents(path: Path) -> dict[str, Any]:
    """The JSON of an archive, each of it of the published shape."""
    with zipfile.ZipFile(path) as archive:
        found = {name: json.loads(archive.read(name)) for name in archive.namelist() if name.endswith(".json")}
    for name, content in found.items():
        (CustomerExport if name == "customer.json" else ConversationExport).model_validate(content)
    return found


async def test_the_export_has_each_of_his_words_and_his_files(story: Erasing, tmp_path: Path) -> None:
    await told(story)
    path = tmp_path / "export.zip"
    exporter = Exporter(sessions=story.sessions, attachments=story.assistant._attachments, clock=story.clock)
    done = await exporter.write(path, customer_id=1, by="Olga")
    found = documents(path)
    assert list(found) == ["customer.json", "conversations/1.json", "conversations/2.json"]
    whole = json.dumps(found)
    assert [word for word in WORDS if word not in whole] == []
    assert "Wolfgang is a Firefly" not in whole, "what agents wrote for each other"
    (picture,) = (file for message in found["conversations/1.json"]["messages"] for file in message["files"])
    with zipfile.ZipFile(path) as archive:
        assert archive.read(picture["path"]) == PNG
    assert (done.conversations, done.files, done.missing) == (2, 1, 0)
    assert path.stat().st_mode & 0o077 == 0
    with pytest.raises(FileExistsError):
        await exporter.write(path, customer_id=1, by="Olga")
    await exporter.write(tmp_path / "all.zip", customer_id=1, notes=True, by="Olga")
    assert "Wolfgang is a Firefly" in json.dumps(documents(tmp_path / "all.zip"))
    async with story.sessions.begin() as session:
        lines = (await session.scalars(select(AuditEntry).where(AuditEntry.action == "exported"))).all()
    assert [(line.who, line.details["notes"]) for line in lines] == [("Olga", False), ("Olga", True)]


@both
async def test_an_export_of_many_messages_is_read_some_at_a_time(story: Erasing, tmp_path: Path) -> None:
    await story.hear("where is my order")
    async with story.sessions.begin() as session:
        at = {"sent_at": NOW, "created_at": NOW, "conversation_id": 1, "author": "customer", "options": [], "edits": []}
        await session.execute(insert(Message), [{**at, "text": f"word {n}"} for n in range(1200)])
    exporter = Exporter(sessions=story.sessions, attachments=story.assistant._attachments, clock=story.clock)
    done = await exporter.write(tmp_path / "export.zip", conversation_id=1, by="Olga")
    assert (done.customer_id, done.messages) == (None, 1203)
    texts = [each["text"] for each in documents(tmp_path / "export.zip")["conversations/1.json"]["messages"]]
    assert texts[-1] == "word 1199"


def test_the_shape_of_an_export_is_published() -> None:
    published = json.loads((DOCS / "export.schema.json").read_text(encoding="utf-8"))
    assert export_schema() == published, (
        "python -c 'import json; from bot.erasure.export import export_schema; "
        "print(json.dumps(export_schema(), indent=2))' > docs/export.schema.json"
    )


async def test_the_audit_log_says_who_erased_whom_and_how_much(story: Erasing) -> None:
    await told(story)
    had = await story.erase()
    async with story.sessions.begin() as session:
        (line,) = await session.scalars(select(AuditEntry).where(AuditEntry.action == "erased"))
    assert line.who == "Olga"
    assert line.details == {
        "customer": 1,
        "conversations": [1, 2],
        "messages": had.messages,
        "files": 1,
        "tickets": 1,
        "why": "asked",
    }
    again = await story.erase()
    assert again.erased_at is not None, "to repeat it does nothing"
    async with story.sessions.begin() as session:
        assert len((await session.scalars(select(AuditEntry).where(AuditEntry.action == "erased"))).all()) == 1


async def test_an_open_ticket_is_closed_first(story: Erasing) -> None:
    await story.hear("a person please")
    with pytest.raises(LiveTicketsError, match="№ 1"):
        await story.erase()
    assert "a person please" in await story.everything()


async def test_he_writes_again_and_is_somebody_new(story: Erasing) -> None:
    await told(story)
    await story.erase()
    me = {"chat": "telegram-4711", "phone": PHONE}
    greeting, _answer = await story.hear("where is my order", key="later", **me)
    assert "privacy" in greeting or "https://klyon.example/p" in greeting
    async with story.sessions.begin() as session:
        new = await session.scalar(select(Conversation).where(Conversation.chat_id == "telegram-4711"))
        assert new is not None
        assert new.customer_id not in (None, 1)


async def test_what_the_platform_sends_again_is_known(story: Erasing) -> None:
    await told(story)
    await story.erase()
    assert await story.hear("I wait, Quagmire", key="wait", chat="telegram-4711") == []
    assert "Quagmire" not in await story.everything()


@both
async def test_a_turn_that_was_thought_out_meanwhile_writes_nothing(story: Erasing) -> None:
    await story.hear("where is my order")
    started, go_on = asyncio.Event(), asyncio.Event()
    think = story.assistant._turns.thinking.think

    async def slow(*args: Any) -> Any:
        plan = await think(*args)
        started.set()
        await go_on.wait()
        return plan

    story.assistant._turns.thinking.think = slow  # type: ignore[method-assign,assignment]
    await story.assistant.receive(story.message("my Quagmire order", key="late"))
    turn = asyncio.create_task(story.assistant.drain())
    await started.wait()
    async with story.sessions.begin() as session:
        await story.eraser.erase_conversation(session, 1, by="Olga", now=story.clock())
    go_on.set()
    await turn
    assert "Quagmire" not in await story.everything()
    async with story.sessions.begin() as session:
        assert (await session.scalars(select(Conversation.id))).all() == [1]


async def test_what_an_old_button_does_is_nothing(story: Erasing) -> None:
    await story.hear("a person please")
    await story.act("reply", 1, "Done", agent="Anna")
    await story.act("finish", 1, agent="Anna")
    await story.wait(hours=2)
    await story.act("resolve", 1, agent="Anna")
    await story.erase()
    await story.press("No, the problem remains")
    assert [ticket.status for ticket in await story.tickets()] == [TicketStatus.RESOLVED]
    with pytest.raises(TicketStateError, match="erased"):
        await story.act("reopen", 1, agent="Anna")


async def test_a_kill_before_the_files_are_deleted_is_made_good(story: Erasing) -> None:
    await told(story)
    await story.erase()
    assert len(story.files()) == 1, "the process died here"
    assert await story.finish() == 0
    assert story.files() == []


async def test_a_file_that_somebody_else_sent_too_stays(story: Erasing) -> None:
    await told(story)
    picture = InboundAttachment("photo", {"id": "1"}, file_name="cat.png")
    await story.hear("", kind="attachment", attachments=(picture,), key="other", chat="other")
    await story.erase()
    assert await story.finish() == 0
    assert len(story.files()) == 1


async def test_a_file_that_came_just_now_waits_a_minute(story: Erasing) -> None:
    await told(story)
    await story.erase()
    timers = Timers(story.sessions, story.clock)
    timers.register_errand(ERASE, story.leftovers.do)
    await timers.run_errands()
    assert (len(story.files()), await timers.waiting(ERASE)) == (1, 1)
    story.clock.ahead += timedelta(minutes=2)
    assert await story.finish() == 0
    assert story.files() == []


@both
async def test_who_was_linked_into_another_is_erased_with_him(story: Erasing) -> None:
    await story.hear("a person please", chat="a", sender_name="Wolfgang")
    await story.hear("a person please", chat="b", sender_name="Firefly")
    async with story.sessions.begin() as session:
        await story.desk.customers.change(session, 2, actor="Anna", now=story.clock(), note="Quagmire")
        await story.desk.customers.link(session, 1, 2, actor="Anna", now=story.clock())
    for ticket in (1, 2):
        await story.act("close", ticket, why="Wolfgang went", agent="Anna")
    with pytest.raises(CustomerError, match="into customer 1"):
        await story.erase(2)
    await story.erase(1)
    whole = await story.everything()
    assert [word for word in WORDS if word in whole] == []


@both
async def test_who_has_been_silent_for_long_is_erased_by_himself(story: Erasing) -> None:
    retention = Retention(eraser=story.eraser, sessions=story.sessions, clock=story.clock, days=30)
    await told(story)
    await story.hear("my order", chat="silent", sender_name="Anonymous")
    await story.hear("a person please", chat="waits")
    story.clock.ahead += timedelta(days=20)
    await story.hear("my order again", chat="Firefly", phone=PHONE)
    story.clock.ahead += timedelta(days=20)
    assert await retention.run({}) > story.clock()
    async with story.sessions.begin() as session:
        rows = await session.execute(select(Conversation.chat_id, Conversation.erased_at).order_by(Conversation.id))
        erased = [row.chat_id if row.erased_at is None else "-" for row in rows]
        lines = (await session.scalars(select(AuditEntry).where(AuditEntry.action == "erased"))).all()
    assert erased == ["telegram-4711", "Firefly", "-", "waits"], "one wrote elsewhere lately, one waits for a person"
    assert [(line.who, line.details["why"]) for line in lines] == [("retention", "retention")]
    story.clock.ahead += timedelta(days=20)
    await retention.run({})
    await story.finish()
    async with story.sessions.begin() as session:
        await ledger.purge(session, {}, story.clock())
    whole = await story.everything()
    assert [word for word in WORDS if word in whole] == []


async def test_who_is_back_from_a_backup_is_erased_again(story: Erasing) -> None:
    await told(story)
    before = story.clock()
    story.clock.ahead += timedelta(minutes=1)
    await story.erase()
    (line,) = await erased_since(story.sessions, before)
    assert await erased_since(story.sessions, story.clock()) == []
    assert (line.name, line.who, line.files) == ("customer 1", "Olga", 1)

    old = Erasing(story.var / "old", f"sqlite+aiosqlite:///{story.var / 'restored.sqlite3'}")
    await migrate(old.engine)
    old.clock.ahead = story.clock.ahead
    await told(old)
    newer = replace(line, customer_id=7, conversation_ids=(9,))  # came after the backup
    done = await erase_again(old.sessions, old.eraser, [line, newer], by="restore", now=old.clock())
    assert done == (1, [])
    await old.finish()
    whole = await old.everything()
    assert [word for word in WORDS if word in whole] == []

    await old.hear("a person please", chat="new")
    number = (await old.ticket()).conversation_id
    waits = replace(line, customer_id=None, conversation_ids=(number,))
    (problem,) = (await erase_again(old.sessions, old.eraser, [waits], by="restore", now=old.clock()))[1]
    assert "still open" in problem
    await old.engine.dispose()


def test_the_terminal_says_what_goes_asks_and_erases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTVET_VAR", str(tmp_path / "var"))
    monkeypatch.setenv("OTVET_DATA", str(DOCS.parent / "data"))
    monkeypatch.chdir(tmp_path)
    asyncio.run(_somebody(tmp_path / "var"))
    runner = CliRunner()

    def otvet(*words: str, says: str = "") -> str:
        return runner.invoke(app, ["customers", *words], input=says).stdout

    assert "1 messages, 0 files" in otvet("export", "1")
    assert list(documents(tmp_path / "customer-1.zip")) == ["customer.json", "conversations/1.json"]
    assert "will go: 1 messages" in otvet("erase", "1", says="n\n")
    assert "Wolfgang" in otvet("list")
    assert "Erased customer 1" in otvet("erase", "1", says="y\n")
    assert "erased on" in otvet("erase", "1", "--yes")
    assert "No customers" in otvet("list")
    assert json.loads(otvet("erased", "--json"))[0]["customer_id"] == 1


async def _somebody(var: Path) -> None:
    engine, sessions = open_database(f"sqlite+aiosqlite:///{var / 'otvet.sqlite3'}")
    await migrate(engine)
    at = {"created_at": NOW, "updated_at": NOW}
    async with sessions.begin() as session:
        session.add(Customer(id=1, name="Wolfgang", note="", created_at=NOW))
        session.add(Conversation(id=1, channel="telegram", account="", chat_id="4711", customer_id=1, state={}, **at))
        await session.flush()
        session.add(Message(conversation_id=1, author=Author.CUSTOMER, text="Zanzibar", sent_at=NOW, created_at=NOW))
    await engine.dispose()


def _columns() -> Iterator[tuple[str, str]]:
    """Every column in which somebody's words could stand."""
    for base in (Base, Articles, Intents):
        for table in base.metadata.sorted_tables:
            for column in table.columns:
                if isinstance(column.type, String | JSON | LargeBinary) and not isinstance(column.type, Enum):
                    yield table.name, column.name


def test_every_column_of_words_has_a_fate() -> None:
    import bot.wiring  # noqa: F401 - whoever has tables is imported by it

    forgotten = [
        f"{table}.{column}"
        for table, column in _columns()
        if table not in FATES
        or not (
            FATES[table].nobodys
            or FATES[table].deleted
            or column in {*FATES[table].gone, *FATES[table].worked_over, *FATES[table].kept}
        )
    ]
    assert forgotten == [], "say in bot/erasure/tables.py what becomes of them when a customer is erased, and do it"
    known = {table.name for base in (Base, Articles, Intents) for table in base.metadata.sorted_tables}
    assert set(FATES) == known


def test_the_operators_guide_says_what_becomes_of_each_table() -> None:
    guide = (DOCS / "operator.md").read_text(encoding="utf-8")
    rows = [line for line in guide.splitlines() if line.startswith("| `")]
    missing = [
        f"| `{name}` | {fate.words} |"
        for name, fate in FATES.items()
        if not fate.nobodys and f"| `{name}` | {fate.words} |" not in rows
    ]
    assert missing == [], "write these rows into docs/operator.md, Personal data"
    assert [name for name, fate in FATES.items() if fate.nobodys and f"`{name}`" not in guide] == []


@both
async def test_every_column_that_should_be_empty_is(story: Erasing) -> None:
    """A row about him in each table, with a word of his wherever one may stand."""
    async with story.sessions.begin() as session:
        await put_agent(session, "Anna", now=NOW)
    await story.hear("a person please", chat="telegram-4711")
    await story.act("close", 1, why="done", agent="Anna")
    async with story.engine.begin() as connection:
        for name in FILLED:
            table = Base.metadata.tables[name]
            await connection.execute(insert(table).values(_row(table)))
    whole = await story.everything()
    without = [name for name in FILLED if not re.search(rf"^{name}: .*(?:Zanzibar|telegram-4711)", whole, re.M)]
    assert without == ["accounts", "outbox"], "one is an agent's, and the other has numbers alone"
    await story.erase()
    assert await story.finish() == 0
    whole = await story.everything()
    assert re.findall(r"^.*(?:Zanzibar|telegram-4711).*$", whole, re.M) == []


KEYS: dict[str, Any] = {
    "conversation_id": 1,
    "ticket_id": 1,
    "message_id": 1,
    "agent_id": 1,
    "account_id": 1,
    "post_id": 1,
    "gap_id": 1,
    "from_customer_id": 1,
    "to_customer_id": 1,
    "channel": "recorder",
    "account": "",
    "chat_id": "telegram-4711",
    "group_id": -1,
    "thread_id": 7,
    "lane": "-1/7",
    "who": who_of("recorder::telegram-4711"),
    "remote_id": "8",
    "title": "Zanzibar",
    "left": [[-1, 9]],
    "item": "question:1",
    "external_id": "event-0",
    "before": {"title": "Zanzibar"},
    "customer_id": 1,
    "joined_into_id": None,
}
FILLED = (
    *(
        "customer_aliases",
        "windows",
        "proofs",
        "contacts",
        "customer_links",
        "inbox",
        "accounts",
        "gaps",
        "gap_questions",
    ),
    *("gap_acts", "nps_answers", "outgoing_replies", "shadow_drafts", "audit_log", "notices", "hook_events", "outbox"),
    *("helpdesk_links", "forum_topics", "forum_posts", "forum_updates", "forum_words", "timers", "attachments"),
)


def _row(table: Table) -> dict[str, Any]:
    fate = FATES[table.name]
    row: dict[str, Any] = {}
    for column in table.columns:
        kept = fate.nobodys or (not fate.deleted and column.name in fate.kept)
        if column.name == "key" and table.name == "timers":
            row[column.name] = "nps:1"
        elif column.name in KEYS and not (column.name == "title" and kept):
            row[column.name] = KEYS[column.name]
        elif isinstance(column.type, Enum):
            row[column.name] = column.type.python_type(column.type.enums[0])
        elif isinstance(column.type, JSON) and kept:
            row[column.name] = {}
        elif isinstance(column.type, JSON):
            python = {"files": [{"sha256": "Zanzibar"}], "lines": ["Zanzibar"], "buttons": ["Zanzibar"]}
            row[column.name] = python.get(column.name, {"why": "Zanzibar", "title": "Zanzibar"})
        elif isinstance(column.type, String):
            row[column.name] = "x" if kept else "Zanzibar"[: column.type.length]
        elif isinstance(column.type, UtcDateTime):
            row[column.name] = NOW
        elif column.primary_key or column.nullable or isinstance(column.type, LargeBinary):
            continue
        elif isinstance(column.type, Boolean):
            row[column.name] = False
        else:
            row[column.name] = 1
    return row


WA = "79160000001"


def _call(text: str, number: str, wamid: str) -> bytes:
    message = {"from": number, "id": wamid, "timestamp": "1804500000", "type": "text", "text": {"body": text}}
    value = {
        "messaging_product": "whatsapp",
        "metadata": {"display_phone_number": "1", "phone_number_id": "42"},
        "contacts": [{"profile": {"name": "Wolfgang"}, "wa_id": number}],
        "messages": [message],
    }
    entry = {"id": "1", "changes": [{"value": value, "field": "messages"}]}
    return json.dumps({"object": "whatsapp_business_account", "entry": [entry]}).encode()


@both
async def test_what_meta_sent_is_emptied_and_not_taken_again(story: Erasing) -> None:
    windows = Windows(
        lengths={"whatsapp": timedelta(days=1)},
        templates=MessageTemplates(),
        replies=story.replies,
        shop={"ru": "Клён", "en": "Klyon"},
        clock=story.clock,
        zone=ZoneInfo("Europe/Moscow"),
    )
    record = WhatsAppRecord(
        sessions=story.sessions,
        receive=story.assistant.receive,
        windows=windows,
        on_failed=story.assistant.on_failed,
        accounts=["42"],
        clock=story.clock,
    )
    story.channel.name = "whatsapp"
    story.assistant.channels = {"whatsapp": story.channel}
    calls = [_call("my order Zanzibar", WA, "wamid.A"), _call("order of another", "79160000002", "wamid.B")]
    for call in calls:
        await record.take(call)
    await story.assistant.drain()
    assert "Zanzibar" in await story.everything()
    async with story.sessions.begin() as session:
        await story.eraser.erase_conversation(session, 1, by="Olga", now=story.clock())
    await story.finish()
    whole = await story.everything()
    assert [word for word in ("Zanzibar", WA, "wamid.A") if word in whole] == []
    assert [word for word in ("order of another", "79160000002", "wamid.B") if word not in whole] == []

    await record.take(calls[0])
    await record.take(calls[0] + b" ")  # the same message in another call
    await story.assistant.drain()
    async with story.sessions.begin() as session:
        assert len((await session.scalars(select(Conversation.id))).all()) == 2
        (row,) = await session.scalars(select(InboxRow).where(InboxRow.external_id == erased_id("wamid.A")))
    assert row.payload == {}
    await record.take(_call("Hello again", WA, "wamid.C"))
    await story.assistant.drain()
    async with story.sessions.begin() as session:
        assert len((await session.scalars(select(Conversation.id))).all()) == 3
