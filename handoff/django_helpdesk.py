"""The connector to django-helpdesk (2.x), by its REST interface.

What it does to a text is undone beforehand: a comment is rendered there as a Django template, and `#7` in it writes a
note into ticket 7. A title given with a comment would rename the ticket, so none is given; a submitter's e-mail would
have the customer written to from there as well, so none is given either.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack
from datetime import datetime
from typing import Any

import httpx

from handoff.errors import HelpDeskError
from handoff.helpdesk import DeskComment, DeskStatus, DeskTicket, RemoteComment, RemoteFile, RemoteTicket

STATUS = {DeskStatus.OPEN: 1, DeskStatus.RESOLVED: 3, DeskStatus.CLOSED: 4}
REOPENED, DUPLICATE = 2, 5
FROM_THERE = {
    1: DeskStatus.OPEN,
    REOPENED: DeskStatus.OPEN,
    3: DeskStatus.RESOLVED,
    4: DeskStatus.CLOSED,
    DUPLICATE: DeskStatus.CLOSED,
}
PRIORITY = {"urgent": 1, "high": 2, "normal": 3, "low": 4}
MARK = re.compile(r"\n*\[otvet ([\w:-]+)\]\s*$")
"""The last line of whatever we write, by which it is known again when an answer got lost."""
ZERO_WIDTH = "\N{ZERO WIDTH SPACE}"
PAGE = 100
SEARCHED_PAGES = 5
MAX_TITLE = 200


class DjangoHelpdesk:
    """One account of one installation. The account should be nobody's own: what it writes is taken for ours."""

    name = "django-helpdesk"

    def __init__(
        self, url: str, user: str, password: str, queue: int, *, timeout_seconds: float = 20.0, proxy: str | None = None
    ) -> None:
        """url: where `api/` begins. queue: the id of the queue of new tickets."""
        self._queue = queue
        self._client = httpx.AsyncClient(
            base_url=f"{url.rstrip('/')}/api/", auth=(user, password), timeout=timeout_seconds, proxy=proxy
        )

    async def check(self) -> str:
        body = await self._call("GET", "tickets/", params={"page_size": 1})
        return f"{body.get('count', 0)} tickets can be seen"

    async def create(self, ticket: DeskTicket) -> str:
        form = {
            "queue": self._queue,
            "title": _title(ticket),
            "description": f"{harmless(ticket.text)}\n\n[otvet {ticket.mark}]",
            "priority": PRIORITY.get(ticket.priority, 3),
        }
        return str((await self._call("POST", "tickets/", json=form))["id"])

    async def find(self, mark: str) -> str | None:
        # It can't search: the newest are on the last pages.
        count = int((await self._call("GET", "tickets/", params={"page_size": 1})).get("count", 0))
        last = max(1, -(-count // PAGE))
        for page in range(last, max(0, last - SEARCHED_PAGES), -1):
            body = await self._call("GET", "tickets/", params={"page_size": PAGE, "page": page})
            for row in body.get("results", []):
                found = MARK.search(row.get("description") or "")
                if found and found[1] == mark:
                    return str(row["id"])
        return None

    async def get(self, remote_id: str) -> RemoteTicket:
        row = await self._call("GET", f"tickets/{remote_id}/")
        comments = sorted((self._comment(each) for each in row.get("followup_set", [])), key=lambda each: int(each.id))
        return RemoteTicket(str(row["id"]), FROM_THERE.get(int(row.get("status") or 1), DeskStatus.OPEN), comments)

    async def update(self, remote_id: str, ticket: DeskTicket) -> None:
        changed = {"title": _title(ticket), "priority": PRIORITY.get(ticket.priority, 3)}
        await self._call("PATCH", f"tickets/{remote_id}/", json=changed)

    async def comment(self, remote_id: str, comment: DeskComment) -> str:
        text = f"{comment.author}: {harmless(comment.text)}\n\n[otvet {comment.mark}]"
        form = {"ticket": remote_id, "comment": text, "public": "true" if comment.public else "false"}
        with ExitStack() as open_files:
            files = [
                ("attachments", (file.file_name, open_files.enter_context(file.path.open("rb")), file.mime_type))
                for file in comment.files
            ]
            row = await self._call("POST", "followups/", data=form, files=files or None)
        return str(row["id"])

    async def fetch(self, file: RemoteFile) -> AsyncIterator[bytes]:
        # Whatever else the desk may name gets neither our password nor a call from inside this network.
        here, there = self._client.base_url, httpx.URL(file.source)
        if (there.scheme, there.host, there.port) != (here.scheme, here.host, here.port):
            raise HelpDeskError(f"{self.name} keeps its files on {there.host}, not at its own address", permanent=True)
        try:
            async with self._client.stream("GET", there) as response:
                if not response.is_success:
                    raise HelpDeskError(
                        f"{self.name} answered {response.status_code} to a file", permanent=response.status_code < 500
                    )
                async for chunk in response.aiter_bytes():
                    yield chunk
        except httpx.HTTPError as error:
            raise HelpDeskError(f"{self.name} can't be reached: {type(error).__name__}") from error

    async def set_status(self, remote_id: str, status: DeskStatus, mark: str) -> None:
        present = await self.get(remote_id)
        if present.status is status:
            return
        number = REOPENED if status is DeskStatus.OPEN else STATUS[status]
        form = {"ticket": remote_id, "comment": f"[otvet {mark}]", "public": False, "new_status": number}
        await self._call("POST", "followups/", json=form)

    async def close(self) -> None:
        await self._client.aclose()

    def _comment(self, row: Mapping[str, Any]) -> RemoteComment:
        text = str(row.get("comment") or "")
        found = MARK.search(text)
        return RemoteComment(
            id=str(row["id"]),
            text=MARK.sub("", text).strip(),
            public=row.get("public") is True,
            at=datetime.fromisoformat(row["date"]) if row.get("date") else None,
            mark=found[1] if found else None,
            files=[
                RemoteFile(str(each.get("filename") or ""), str(each.get("file") or ""), each.get("size"))
                for each in row.get("followupattachment_set") or ()
            ],
        )

    async def _call(self, method: str, path: str, **how: Any) -> dict[str, Any]:
        try:
            response = await self._client.request(method, path, **how)
            if response.is_success:
                body: dict[str, Any] = response.json()
                return body
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            raise HelpDeskError(f"{self.name} can't be reached: {type(error).__name__}") from error
        # What is wrong with a login or a queue is put right by the operator, and goes on then.
        gone = response.status_code in (404, 410)
        permanent = gone or response.status_code in (400, 405, 413, 415, 422)
        raise HelpDeskError(
            f"{self.name} answered {response.status_code} to {method} {path}: {response.text[:200]}",
            permanent=permanent,
            gone=gone,
        )


def harmless(text: str) -> str:
    """A text that stands there as it was written: no template is made of it, and no reference to another ticket."""
    text = re.sub(r"\{(?=[{%#])", "{" + ZERO_WIDTH, text)
    text = re.sub(r"([%#}])\}", r"\1" + ZERO_WIDTH + "}", text)
    return re.sub(r"#(?=\d)", "#" + ZERO_WIDTH, text)


def _title(ticket: DeskTicket) -> str:
    return f"№ {ticket.number}: {ticket.subject}"[:MAX_TITLE]
