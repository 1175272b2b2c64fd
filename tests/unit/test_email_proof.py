"""An e-mail is a customer's when he repeats the code that was sent to it, by a real mail server."""

from __future__ import annotations

import re
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email import message_from_bytes
from email.header import decode_header, make_header
from pathlib import Path

import httpx
import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session
from databases import MakeDatabase
from site_harness import DATA
from sqlalchemy import select
from test_agent_desk import Story
from test_turns import COMMON

from bot.channels.base import Address
from bot.channels.site import SiteChannel
from bot.database import migrate
from bot.email_proof import EmailProof
from bot.errors import SettingsError
from bot.flows.proof import NewCode, Proofs, Refusal
from bot.replies import Replies
from bot.web.app import create_app
from handoff import desk
from handoff.records import NOTE, Contact, CustomerLink, Message

IVAN, OTHER = "ivan@example.com", "Other@Example.com"


class Mail:
    """Keeps letters: to whom, subject and text."""

    def __init__(self) -> None:
        self.letters: list[tuple[str, str, str]] = []
        self.refuses = False

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802
        if self.refuses:
            return "451 later"
        letter = message_from_bytes(envelope.original_content or b"")
        text = next(part for part in letter.walk() if part.get_content_type() == "text/plain")
        body = text.get_payload(decode=True)
        assert isinstance(body, bytes)
        subject = str(make_header(decode_header(letter["Subject"])))
        self.letters += [(receiver, subject, body.decode()) for receiver in envelope.rcpt_tos]
        return "250 OK"

    def code(self) -> str:
        found = re.search(r"\b\d{6}\b", self.letters[-1][1])
        assert found is not None
        return found[0]


@contextmanager
def mail_server() -> Iterator[tuple[Mail, int]]:
    mail = Mail()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    controller = Controller(mail, hostname="127.0.0.1", port=port)
    controller.start()
    try:
        yield mail, port
    finally:
        controller.stop()


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[Mail, int]]:
    with mail_server() as started:
        yield started


class Chats(Story):
    mail: Mail
    proof: EmailProof

    def serve(self, mail: Mail, port: int) -> None:
        self.mail = mail
        mail.letters, mail.refuses = [], False
        self.proof = EmailProof(
            mail=f"mailto://127.0.0.1:{port}?from=help@klyon.example&to=spoilt@example.com&mode=insecure",
            proofs=Proofs(self.sessions, self.clock),
            customers=self.desk.customers,
            replies=Replies((DATA / "replies",), {"ru": COMMON, "en": COMMON}),
            sessions=self.sessions,
            clock=self.clock,
        )

    async def opens(self, chat: str) -> int:
        async with self.sessions.begin() as session:
            made = await desk.open_conversation(
                session, channel="site", account="", chat_id=chat, now=datetime.now(UTC)
            )
            return made.id

    async def proves(self, chat: str, email: str) -> int:
        conversation_id, address = await self.opens(chat), Address("site", "", chat)
        assert isinstance(await self.proof.ask(address, email, "en"), NewCode)
        assert await self.proof.confirm(address, conversation_id, email, self.mail.code()) is None
        return conversation_id

    async def customer(self, conversation_id: int) -> int | None:
        async with self.sessions.begin() as session:
            return (await desk.get_conversation(session, conversation_id)).customer_id


@pytest.fixture
async def story(tmp_path: Path, server: tuple[Mail, int]) -> AsyncIterator[Chats]:
    made = Chats(tmp_path)
    await migrate(made.engine)
    made.serve(*server)
    yield made
    await made.engine.dispose()


async def test_who_proves_the_same_address_in_two_chats_is_one_customer_until_that_is_undone(
    tmp_path: Path, make_database: MakeDatabase, server: tuple[Mail, int]
) -> None:
    story = Chats(tmp_path, database=make_database())
    await migrate(story.engine)
    story.serve(*server)
    first = await story.proves("a", IVAN)
    second = await story.proves("b", f" {IVAN.upper()} ")
    assert [letter[0] for letter in story.mail.letters] == [IVAN, IVAN]
    assert "Klyon" in story.mail.letters[0][2]
    assert await story.customer(first) == await story.customer(second)
    async with story.sessions.begin() as session:
        (link,) = await session.scalars(select(CustomerLink))
        assert (link.how, link.actor) == ("email", "system")
        notes = await session.scalars(select(Message).where(Message.kind == NOTE))
        assert [note.conversation_id for note in notes] == [first, second]
        await story.desk.customers.unlink(session, second, actor="Anna", now=story.clock())
    assert await story.customer(first) != await story.customer(second)
    await story.proves("b", IVAN)
    assert await story.customer(first) != await story.customer(second), "undone by a person: not done again"
    await story.engine.dispose()


async def test_what_somebody_typed_gives_a_stranger_nothing(story: Chats) -> None:
    await story.hear("a person please, write to ivan@example.com")
    (ticket,) = await story.tickets()
    owner = await story.customer(ticket.conversation_id)
    async with story.sessions.begin() as session:
        (typed,) = await session.scalars(select(Contact))
        assert (typed.value, typed.verified) == (IVAN, False)
    proved = await story.proves("b", IVAN)
    assert await story.customer(proved) != owner, "nobody knows whether who typed it was its owner"
    async with story.sessions.begin() as session:
        (found,) = await story.desk.customers.suggestions(session, owner or 0)
    assert found.customer_id == await story.customer(proved)


async def test_a_code_is_good_for_its_chat_and_address_alone(story: Chats) -> None:
    first, second = await story.opens("a"), await story.opens("b")
    here, there = Address("site", "", "a"), Address("site", "", "b")
    await story.proof.ask(here, IVAN, "en")
    code = story.mail.code()
    assert await story.proof.confirm(there, second, IVAN, code) is Refusal.EXPIRED
    assert await story.proof.confirm(here, first, OTHER, code) is Refusal.EXPIRED
    assert await story.proof.confirm(here, first, IVAN, f"{(int(code) + 1) % 10**6:06}") is Refusal.WRONG
    story.clock.advance(700)
    assert await story.proof.confirm(here, first, IVAN, code) is Refusal.EXPIRED
    assert await story.customer(first) is None


async def test_a_code_is_not_used_up_when_what_it_proves_could_not_be_kept(
    story: Chats, monkeypatch: pytest.MonkeyPatch
) -> None:
    conversation_id, here = await story.opens("a"), Address("site", "", "a")
    await story.proof.ask(here, IVAN, "en")

    async def away(*_: object) -> None:
        raise ConnectionError

    with monkeypatch.context() as broken:
        broken.setattr(story.desk.customers, "prove_email", away)
        with pytest.raises(ConnectionError):
            await story.proof.confirm(here, conversation_id, IVAN, story.mail.code())
    assert await story.proof.confirm(here, conversation_id, IVAN, story.mail.code()) is None
    async with story.sessions.begin() as session:
        (proved,) = await session.scalars(select(Contact))
        assert (proved.value, proved.verified) == (IVAN, True)


async def test_the_chat_of_the_site_asks_and_takes_the_code(story: Chats, tmp_path: Path) -> None:
    async def receive(_message: object) -> bool:
        return True

    app = create_app(
        sessions=story.sessions,
        receive=receive,
        clock=story.clock,
        site=SiteChannel(story.assistant._attachments),
        shop={"ru": "Клён", "en": "Klyon"},
        email=story.proof,
    )
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://otvet") as web:
        assert 'id="prove"' in (await web.get("/chat")).text
        token = (await web.post("/api/chat/sessions")).json()["token"]
        web.headers["Authorization"] = f"Bearer {token}"
        assert (await web.post("/api/chat/email", json={"email": "nobody"})).json()["error"]["code"] == "no_email"
        assert (await web.post("/api/chat/email", json={"email": IVAN, "lang": "ru"})).json() == {"minutes": 10}
        assert story.mail.letters[-1][1].startswith("Код для чата")
        wrong = await web.post("/api/chat/email/code", json={"email": IVAN, "code": "abc"})
        assert (wrong.status_code, wrong.json()["error"]["code"]) == (422, "wrong_code")
        right = await web.post("/api/chat/email/code", json={"email": IVAN, "code": story.mail.code()})
        assert right.json() == {"proved": True}
        story.mail.refuses = True
        assert (await web.post("/api/chat/email", json={"email": OTHER})).status_code == 503
        story.mail.refuses = False
        answers = [(await web.post("/api/chat/email", json={"email": IVAN})).status_code for _ in range(3)]
        assert answers[-1] == 429


def test_another_kind_of_address_is_no_mail_server(story: Chats) -> None:
    with pytest.raises(SettingsError, match="OTVET_MAIL"):
        EmailProof(
            mail="json://127.0.0.1",
            proofs=story.proof._proofs,
            customers=story.desk.customers,
            replies=story.replies,
            sessions=story.sessions,
            clock=story.clock,
        )
