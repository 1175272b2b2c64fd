"""A stand-in for Meta's Graph API and its webhooks, over real HTTP. Its rules, codes and words are those of the
documentation of the WhatsApp Cloud API: the 24-hour window, limits of forms and rates, templates, media, signed
webhooks that come again until they are answered with 200."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import itertools
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
from aiohttp import web

PHONE, TOKEN, SECRET, VERIFY = "106540352242922", "EAAG-test", "app-secret", "a long word"
WINDOW = timedelta(hours=24)
REDELIVERY = timedelta(days=7)
PAIR_BURST, PAIR_SECONDS = 45, 6.0
NUMBER_A_SECOND = 80
LIMITS = {"image": 5 << 20, "video": 16 << 20, "audio": 16 << 20, "document": 100 << 20, "sticker": 500 << 10}


def _now() -> datetime:
    return datetime.now(UTC)


class Refused(Exception):  # noqa: N818
    def __init__(self, code: int, details: str, status: int = 400) -> None:
        super().__init__(details)
        self.code, self.details, self.status = code, details, status


class GraphApi:
    """One business account. Tests speak to it as customers do, and read what was sent to them."""

    def __init__(self, clock: Callable[[], datetime] = _now) -> None:
        self.base = ""
        self.webhook = ""
        """Where webhooks go; empty: nowhere."""
        self.clock = clock
        self.sent: list[dict[str, Any]] = []
        """Messages taken, in order, each with its `wamid` and the moment `at`."""
        self.seen: list[str] = []
        self.refused: list[tuple[int, dict[str, Any]]] = []
        """Code and body of every message refused."""
        self.answers: list[web.Response] = []
        """What the next calls are answered with, before any rule."""
        self.templates: dict[tuple[str, str], int] = {("continue_conversation", "ru"): 2}
        """Approved templates: name and language → number of variables."""
        self.files: dict[str, tuple[str, bytes]] = {}
        self.late_window = False
        """Take what comes after the window, and report it as failed afterwards, as Meta does."""
        self.statuses: tuple[str, ...] = ("sent", "delivered", "read")
        self.forget_answers = 0
        """So many messages are taken, and the connection breaks before the answer."""
        self.undelivered: list[tuple[datetime, bytes]] = []
        """Webhooks not answered with 200 yet."""
        self.replies: list[int] = []
        """Status of every answer to a webhook."""
        self._last: dict[str, datetime] = {}
        self._paces: dict[str, list[datetime]] = defaultdict(list)
        self._ids = itertools.count(1)
        self._changed = asyncio.Condition()
        self._http = httpx.AsyncClient(trust_env=False, timeout=30)
        self._tasks: set[asyncio.Task[None]] = set()

    # Customers

    async def say(self, sender: str, text: str, **more: Any) -> str:
        return await self.customer(sender, {"type": "text", "text": {"body": text}, **more})

    async def press(self, sender: str, message: dict[str, Any], label: str) -> str:
        """Take one of the choices of a message that was sent."""
        [(kind, choice)] = [(kind, choice) for kind, choice in _choices(message) if choice["title"] == label]
        context = {"from": PHONE, "id": message["wamid"]}
        return await self.customer(
            sender, {"type": "interactive", "interactive": {"type": kind, kind: choice}, "context": context}
        )

    async def customer(self, sender: str, message: dict[str, Any], *, user_id: str = "") -> str:
        """A message of a customer, by number or, without one, by user id alone; its id. Opens the window."""
        wamid = f"wamid.IN{next(self._ids)}"
        contact: dict[str, Any] = {"profile": {"name": "Анна"}}
        raw: dict[str, Any] = {"id": wamid, "timestamp": str(int(self.clock().timestamp())), **message}
        if sender:
            raw["from"] = contact["wa_id"] = sender
        if user_id:
            raw["from_user_id"] = contact["user_id"] = user_id
        self._last[sender or user_id] = self.clock()
        await self.deliver({"contacts": [contact], "messages": [raw]})
        return wamid

    async def deliver(self, value: dict[str, Any], field: str = "messages") -> None:
        """Call the webhook, and again later until it answers with 200."""
        metadata = {"display_phone_number": "15550783881", "phone_number_id": PHONE}
        whole = {"messaging_product": "whatsapp", "metadata": metadata, **value}
        entry = {"id": "419561257915477", "changes": [{"value": whole, "field": field}]}
        body = json.dumps({"object": "whatsapp_business_account", "entry": [entry]}).encode()
        self.undelivered.append((self.clock(), body))
        await self._attempt(self.undelivered[-1])

    async def redeliver(self) -> None:
        """Try everything undelivered once more, the oldest first; what is older than 7 days is given up."""
        for item in list(self.undelivered):
            await self._attempt(item)

    async def _attempt(self, item: tuple[datetime, bytes]) -> None:
        if not self.webhook:
            return
        if self.clock() - item[0] > REDELIVERY:
            self.undelivered.remove(item)
            return
        try:
            answer = await self.post(item[1])
        except httpx.HTTPError:
            return
        self.replies.append(answer.status_code)
        if answer.status_code == 200 and item in self.undelivered:
            self.undelivered.remove(item)

    async def post(self, body: bytes, signature: str | None = None) -> httpx.Response:
        signed = "sha256=" + hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
        headers = {
            "X-Hub-Signature-256": signed if signature is None else signature,
            "Content-Type": "application/json",
        }
        return await self._http.post(self.webhook, content=body, headers=headers)

    async def until(self, condition: Callable[[], Any], seconds: float = 20) -> None:
        """Wait until the condition holds after a call of the assistant. Raises TimeoutError."""
        async with self._changed, asyncio.timeout(seconds):
            await self._changed.wait_for(condition)

    def to(self, receiver: str) -> list[dict[str, Any]]:
        return [message for message in self.sent if _receiver(message) == receiver]

    async def settle(self) -> None:
        """Wait until every status was delivered."""
        while self._tasks:
            await asyncio.gather(*list(self._tasks))

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._http.aclose()

    # The API

    async def messages(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        try:
            self._check_token(request)
            if body.get("status") == "read":
                self.seen.append(body["message_id"])
                return web.json_response({"success": True})
            if self.answers:
                return self.answers.pop(0)
            closed = self._check_message(body)
        except Refused as refusal:
            self.refused.append((refusal.code, body))
            return _error(refusal)
        finally:
            await self._notify()
        wamid = f"wamid.OUT{next(self._ids)}"
        self.sent.append({**body, "wamid": wamid, "at": self.clock()})
        task = asyncio.create_task(self._report(body, wamid, closed))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        await self._notify()
        if self.forget_answers:
            self.forget_answers -= 1
            assert request.transport is not None
            request.transport.close()
            return web.Response()
        receiver = _receiver(body)
        return web.json_response(
            {
                "messaging_product": "whatsapp",
                "contacts": [{"input": receiver, "wa_id": receiver}],
                "messages": [{"id": wamid}],
            }
        )

    async def upload(self, request: web.Request) -> web.Response:
        try:
            self._check_token(request)
            form = await request.post()
            file = form["file"]
            assert isinstance(file, web.FileField)
            content, kind = file.file.read(), file.content_type
            if form["messaging_product"] != "whatsapp" or form.get("type") != kind:
                raise Refused(100, "Invalid parameter")
            if len(content) > LIMITS.get(kind.split("/")[0], LIMITS["document"]):
                raise Refused(131053, "Media upload error: file too large")
        except Refused as refusal:
            return _error(refusal)
        media_id = str(10**15 + next(self._ids))
        self.files[media_id] = (kind, content)
        return web.json_response({"id": media_id})

    async def node(self, request: web.Request) -> web.Response:
        """A number, or a file's address."""
        node = request.match_info["node"]
        try:
            self._check_token(request)
            if node == PHONE:
                number = {
                    "display_phone_number": "+1 555-078-3881",
                    "verified_name": "Klyon",
                    "quality_rating": "GREEN",
                }
                return web.json_response({**number, "id": PHONE})
            if node not in self.files:
                raise Refused(100, "Unsupported get request. Object with ID does not exist")
        except Refused as refusal:
            return _error(refusal)
        kind, content = self.files[node]
        return web.json_response(
            {
                "url": f"{self.base}/files/{node}",
                "mime_type": kind,
                "sha256": hashlib.sha256(content).hexdigest(),
                "file_size": str(len(content)),
                "id": node,
                "messaging_product": "whatsapp",
            }
        )

    async def download(self, request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return web.Response(status=401)
        found = self.files.get(request.match_info["node"])
        return web.Response(status=404) if found is None else web.Response(body=found[1])

    def _check_token(self, request: web.Request) -> None:
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            raise Refused(190, "Invalid OAuth access token.", 401)

    def _check_message(self, body: dict[str, Any]) -> bool:
        """Whether it came after the window, where that is told only later."""
        receiver, kind = _receiver(body), body.get("type", "text")
        if body.get("messaging_product") != "whatsapp" or body.get("recipient_type") != "individual" or not receiver:
            raise Refused(100, "(#100) Invalid parameter")
        check = getattr(self, f"_check_{kind}", None)
        if check is None:
            raise Refused(100, f"Param type must be one of the known ones, got {kind}")
        check(body[kind])
        if len(str(body.get("biz_opaque_callback_data", ""))) > 512:
            raise Refused(100, "biz_opaque_callback_data is too long")
        now = self.clock()
        pair = self._paces[receiver]
        # A bucket of 45 that gains one every 6 seconds, and a number's limit in each second.
        free = float(PAIR_BURST)
        for before, after in itertools.pairwise([*pair, now]):
            free = min(PAIR_BURST, free - 1 + (after - before).total_seconds() / PAIR_SECONDS)
        if free < 1:
            raise Refused(131056, "(Business Account, Consumer Account) pair rate limit hit", 400)
        recent = [moment for moment in self._paces["*"][-NUMBER_A_SECOND - 20 :] if (now - moment).total_seconds() < 1]
        if len(recent) >= NUMBER_A_SECOND:
            raise Refused(130429, "Rate limit hit", 429)
        last = self._last.get(receiver)
        closed = kind != "template" and (last is None or now - last > WINDOW)
        if closed and not self.late_window:
            raise Refused(131047, "Message failed to send because more than 24 hours have passed")
        pair.append(now)
        self._paces["*"].append(now)
        return closed

    def _check_text(self, text: dict[str, Any]) -> None:
        if not len(text["body"].strip()) >= 1 or len(text["body"]) > 4096:
            raise Refused(100, "Param text['body'] must be at most 4096 characters long, and not empty")

    def _check_interactive(self, interactive: dict[str, Any]) -> None:
        action = interactive["action"]
        if not 1 <= len(interactive["body"]["text"]) <= 1024:
            raise Refused(131009, "Body text length invalid. Min length: 1, Max length: 1024")
        if interactive["type"] == "button":
            replies = [button["reply"] for button in action["buttons"]]
            limits, most = (20, 256), 3
        else:
            replies = [row for section in action["sections"] for row in section["rows"]]
            limits, most = (24, 200), 10
            if not 1 <= len(action["button"]) <= 20:
                raise Refused(131009, "Button label is too long")
            if len(action["sections"]) > 1 and not all(section.get("title") for section in action["sections"]):
                raise Refused(131009, "Section title is required")
        titles = [reply["title"] for reply in replies]
        if not 1 <= len(replies) <= most:
            raise Refused(131009, f"Invalid number of choices: {len(replies)}")
        if not all(1 <= len(title) <= limits[0] for title in titles):
            raise Refused(131009, "Title length invalid")
        if not all(1 <= len(reply["id"]) <= limits[1] for reply in replies) or any(
            len(reply.get("description", "")) > 72 for reply in replies
        ):
            raise Refused(131009, "Id or description length invalid")
        if len({reply["id"] for reply in replies}) < len(replies):
            raise Refused(131009, "Duplicated row id")
        if interactive["type"] == "button" and len(set(titles)) < len(titles):
            raise Refused(131009, "Duplicated button title")

    def _check_template(self, template: dict[str, Any]) -> None:
        wanted = self.templates.get((template["name"], template["language"]["code"]))
        if wanted is None:
            raise Refused(132001, "Template name does not exist in the translation", 404)
        given = [p for part in template.get("components", []) for p in part["parameters"]]
        if len(given) != wanted:
            raise Refused(132000, f"Number of parameters does not match the expected number of params ({wanted})")
        if any("\n" in parameter["text"] or not parameter["text"] for parameter in given):
            raise Refused(132012, "Parameter format does not match")

    def _check_image(self, media: dict[str, Any]) -> None:
        if media.get("id") not in self.files:
            raise Refused(131053, "Media upload error: unknown id")

    _check_video = _check_audio = _check_document = _check_sticker = _check_image

    def _check_location(self, location: dict[str, Any]) -> None:
        float(location["latitude"]), float(location["longitude"])

    def _check_reaction(self, reaction: dict[str, Any]) -> None:
        if not reaction["message_id"].startswith("wamid."):
            raise Refused(131009, "Parameter value is not valid")

    async def _report(self, body: dict[str, Any], wamid: str, closed: bool) -> None:
        """The statuses that follow a message."""
        common = {
            "id": wamid,
            "timestamp": str(int(self.clock().timestamp())),
            "recipient_id": _receiver(body),
        }
        if given := body.get("biz_opaque_callback_data"):
            common["biz_opaque_callback_data"] = given
        if closed:
            details = "Message failed to send because more than 24 hours have passed since the customer last replied"
            error = {"code": 131047, "title": "Re-engagement message", "error_data": {"details": details}}
            await self.deliver({"statuses": [{**common, "status": "failed", "errors": [error]}]})
            return
        for status in self.statuses:
            await self.deliver({"statuses": [{**common, "status": status}]})

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()


def words(message: dict[str, Any]) -> str:
    """The text that the customer reads."""
    kind = message["type"]
    if kind == "interactive":
        return str(message[kind]["body"]["text"])
    return str(message[kind].get("body", "")) if kind == "text" else ""


def labels(message: dict[str, Any]) -> list[str]:
    return [choice["title"] for _, choice in _choices(message)]


def _choices(message: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    action = message.get("interactive", {}).get("action", {})
    buttons = [("button_reply", button["reply"]) for button in action.get("buttons", [])]
    return buttons or [("list_reply", row) for section in action.get("sections", []) for row in section["rows"]]


def _receiver(body: dict[str, Any]) -> str:
    return str(body.get("to") or body.get("recipient") or "")


def _error(refusal: Refused) -> web.Response:
    data = {"messaging_product": "whatsapp", "details": refusal.details}
    error = {
        "message": f"(#{refusal.code}) {refusal.details}",
        "type": "OAuthException",
        "code": refusal.code,
        "error_data": data,
        "fbtrace_id": "A1",
    }
    return web.json_response({"error": error}, status=refusal.status)


@asynccontextmanager
async def graph_api(clock: Callable[[], datetime] = _now) -> AsyncIterator[GraphApi]:
    """A server on a free port of this machine; `base` is its address."""
    api = GraphApi(clock)
    app = web.Application(client_max_size=200 << 20)
    app.router.add_post(f"/v23.0/{PHONE}/messages", api.messages)
    app.router.add_post(f"/v23.0/{PHONE}/media", api.upload)
    app.router.add_get("/v23.0/{node}", api.node)
    app.router.add_get("/files/{node}", api.download)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    api.base = f"http://{host}:{port}"
    try:
        yield api
    finally:
        await api.close()
        await runner.cleanup()
