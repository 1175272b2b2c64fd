"""People at the web desk over HTTP, and a customer in the site chat."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import httpx
from site_harness import Running
from sqlalchemy import select

from handoff.access import Role
from handoff.records import Message, Ticket

PASSWORD = "correct horse battery"


class Agent:
    """Somebody who has signed in."""

    def __init__(self, server: Running, name: str, role: Role = Role.AGENT, teams: tuple[str, ...] = ()) -> None:
        async def invite() -> str:
            async with server.site.sessions.begin() as session:
                accounts = server.site.accounts
                return await accounts.invite(session, role=role, by="test", name=name, teams=teams, level="L1")

        self.server, self.name = server, name
        self.web = httpx.Client(base_url=server.url, timeout=20, headers={"Accept-Language": "en"})
        server.visitors.enter_context(self.web)
        self.invitation = server.call(invite())
        answer = self.web.post(
            f"/desk/welcome/{self.invitation}", data={"login": name.replace(" ", "."), "password": PASSWORD}
        )
        assert answer.status_code == 303, answer.text
        page = self.web.get("/desk/queue?view=all")
        assert page.status_code == 200, page.text
        self.csrf = re.findall(r'data-csrf="(\w+)"', page.text)[0]

    def get(self, path: str, **headers: str) -> httpx.Response:
        return self.web.get(f"/desk{path}", headers=headers)

    def post(self, path: str, data: dict[str, Any] | None = None, **options: Any) -> httpx.Response:
        headers = {"X-CSRF": self.csrf, "HX-Request": "true", **options.pop("headers", {})}
        return self.web.post(f"/desk{path}", data=data or {}, headers=headers, **options)

    def edit(self, path: str, **headers: str) -> httpx.Response:
        """A page of the studio."""
        return self.web.get(f"/studio{path}", headers=headers)

    def save(self, path: str, data: dict[str, Any] | None = None, **options: Any) -> httpx.Response:
        """A form of the studio, as a page sends it."""
        return self.web.post(f"/studio{path}", data={"csrf": self.csrf, **(data or {})}, **options)

    def post_studio(self, path: str, data: dict[str, Any]) -> httpx.Response:
        """As htmx sends it."""
        headers = {"X-CSRF": self.csrf, "HX-Request": "true"}
        return self.web.post(f"/studio{path}", data=data, headers=headers)

    def reply(self, ticket_id: int, text: str, *, key: str = "", seen: int = 10**9, **fields: Any) -> httpx.Response:
        form = {"key": key or uuid4().hex, "text": text, "seen": seen, "seen_agent": seen, **fields}
        return self.post(f"/tickets/{ticket_id}/reply", form)

    def send_at_once(self) -> None:
        assert self.post("/me", {"undo_seconds": 0}).status_code == 303


class Customer:
    """Somebody in the site chat."""

    def __init__(self, server: Running) -> None:
        self.server = server
        self.web = server.visitors.enter_context(httpx.Client(base_url=server.url, timeout=20))
        token = self.web.post("/api/chat/sessions").json()["token"]
        self.headers = {"Authorization": f"Bearer {token}"}

    def says(self, text: str, **body: Any) -> None:
        post = {"client_id": str(uuid4()), "text": text, "lang": "en", **body}
        assert self.web.post("/api/chat/messages", headers=self.headers, json=post).status_code == 202

    def calls_a_person(self, text: str = "person please") -> int:
        """The ticket's number."""
        before = newest_ticket(self.server)
        self.says(text)
        wait_until(lambda: newest_ticket(self.server) > before)
        return newest_ticket(self.server)


def newest_ticket(server: Running) -> int:
    async def read() -> int:
        async with server.site.sessions() as session:
            return int((await session.scalars(select(Ticket.id).order_by(Ticket.id.desc()))).first() or 0)

    return server.call(read())


def transcript(server: Running, ticket_id: int) -> list[Message]:
    async def read() -> list[Message]:
        async with server.site.sessions() as session:
            ticket = await session.get_one(Ticket, ticket_id)
            rows = await session.scalars(
                select(Message).where(Message.conversation_id == ticket.conversation_id).order_by(Message.id)
            )
            return list(rows)

    return server.call(read())


def ticket_of(server: Running, ticket_id: int) -> Ticket:
    async def read() -> Ticket:
        async with server.site.sessions() as session:
            return await session.get_one(Ticket, ticket_id)

    return server.call(read())


def wait_until(holds: Callable[[], bool], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.05)
