"""A Bot API server for what no third-party stand-in has: updates that come again until they are confirmed, by polling
or by webhook with its secret, flood control, blocking, files. Its rules and its words are those of the documentation of
the Bot API."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx
from aiohttp import web

TOKEN = "42:TEST"
MAX_CONNECTIONS = 40
MAX_TEXT_UNITS = 4096
MAX_CAPTION_UNITS = 1024
MAX_DOWNLOAD_BYTES = 20 * 1024 * 1024
MAX_PHOTO_BYTES, MAX_UPLOAD_BYTES = 10 * 1024 * 1024, 50 * 1024 * 1024
FILES = ("animation", "audio", "document", "photo", "video", "voice")


class BotApi:
    """One bot's server. Tests write to it as customers do, and read what the bot did."""

    def __init__(self) -> None:
        self.base = ""
        self.pending: list[Any] = []
        """Updates not confirmed yet."""
        self.polls: list[int | None] = []
        """The offset of every getUpdates."""
        self.sent: list[dict[str, Any]] = []
        self.calls: list[tuple[str, dict[str, Any]]] = []
        """Every other call, in order."""
        self.files: dict[str, bytes] = {}
        self.blocked: set[int] = set()
        self.floods: list[int | None] = []
        """retry_after of the next calls that send something, each refused; None: one that is not."""
        self.door = ""
        """Where the assistant really listens: a webhook's address has https and a name. Empty: nobody is called."""
        self.webhook: dict[str, Any] = {}
        """What setWebhook told: url, secret_token …"""
        self.strict = False
        """Whether the limits are enforced: 30 messages a second in all, one a second to a chat with bursts of 3."""
        self.violations: list[str] = []
        """The limits that were not kept."""
        self._moments: dict[Any, list[float]] = defaultdict(list)
        self._calling: set[asyncio.Task[None]] = set()
        self._connections = asyncio.Semaphore(MAX_CONNECTIONS)
        self._http = httpx.AsyncClient(trust_env=False, timeout=30)
        self.broken: list[web.Response] = []
        """What the next getUpdates calls answer."""
        self.uploads = 0
        """How many files came up as such and not by their id."""
        self.odd_photos = False
        """Refuse photos as too long or too wide."""
        self._changed = asyncio.Condition()

    async def put(self, *updates: Any) -> None:
        async with self._changed:
            self.pending.extend(updates)
            self._changed.notify_all()
        if self.webhook.get("url"):
            self._call_all()

    async def _setWebhook(self, form: dict[str, Any]) -> web.Response:  # noqa: N802
        self.calls.append(("setWebhook", form))
        if not form["url"].startswith("https://"):
            return refused(400, "Bad Request: bad webhook: An HTTPS URL must be provided for webhook")
        self.webhook = form
        self._call_all()
        return succeeded(True)

    async def _deleteWebhook(self, form: dict[str, Any]) -> web.Response:  # noqa: N802
        self.calls.append(("deleteWebhook", form))
        self.webhook = {}
        return succeeded(True)

    def _call_all(self) -> None:
        """Call for everything pending: the chats at once, each one's updates in their order and again until taken."""
        if not self.door:
            return
        by_chat: dict[Any, list[Any]] = defaultdict(list)
        for update in self.pending:
            by_chat[_chat_of(update)].append(update)
        self.pending = []
        for updates in by_chat.values():
            task = asyncio.create_task(self._call(updates))
            self._calling.add(task)
            task.add_done_callback(self._calling.discard)

    async def _call(self, updates: list[Any]) -> None:
        headers = {"X-Telegram-Bot-Api-Secret-Token": self.webhook["secret_token"]}
        for update in updates:
            while True:
                url = self.door + urlsplit(self.webhook["url"]).path
                with contextlib.suppress(httpx.HTTPError):
                    async with self._connections:
                        answer = await self._http.post(url, json=update, headers=headers)
                    if answer.status_code == 200:
                        break
                await asyncio.sleep(0.05)

    async def close(self) -> None:
        for task in self._calling:
            task.cancel()
        await asyncio.gather(*self._calling, return_exceptions=True)
        await self._http.aclose()

    async def until(self, condition: Any, seconds: float = 10) -> None:
        """Wait until the condition holds after a call of the bot. Raises TimeoutError."""
        async with self._changed, asyncio.timeout(seconds):
            await self._changed.wait_for(condition)

    async def handle(self, request: web.Request) -> web.Response:
        method = request.match_info["method"]
        form = {key: _decoded(value) for key, value in (await request.post()).items()}
        handler = getattr(self, f"_{method}", None)
        if method.removeprefix("send").lower() in FILES:
            handler = partial(self._send_file, method.removeprefix("send").lower())
        if handler is not None:
            response: web.Response = await handler(form)
        else:
            self.calls.append((method, form))
            response = succeeded(True)
        async with self._changed:
            self._changed.notify_all()
        return response

    async def download(self, request: web.Request) -> web.Response:
        content = self.files.get(request.match_info["path"])
        return web.Response(status=404) if content is None else web.Response(body=content)

    async def _getUpdates(self, form: dict[str, Any]) -> web.Response:  # noqa: N802
        if self.broken:
            return self.broken.pop(0)
        if self.webhook.get("url"):
            return refused(409, "Conflict: can't use getUpdates method while webhook is active")
        offset = form.get("offset")
        self.polls.append(offset)
        async with self._changed:
            if offset is not None:
                self.pending = [item for item in self.pending if _update_id(item) >= offset]
            self._changed.notify_all()
            try:
                async with asyncio.timeout(form.get("timeout", 0)):
                    await self._changed.wait_for(lambda: self.pending)
            except TimeoutError:
                return succeeded([])
            return succeeded(self.pending[: form.get("limit", 100)])

    async def _sendMessage(self, form: dict[str, Any]) -> web.Response:  # noqa: N802
        text = str(form.get("text", ""))
        if (refusal := self._refusal(form)) is not None:
            return refusal
        if not text.strip():
            return refused(400, "Bad Request: message text is empty")
        if len(text.encode("utf-16-le")) // 2 > MAX_TEXT_UNITS:
            return refused(400, "Bad Request: message is too long")
        for row in form.get("reply_markup", {}).get("inline_keyboard", []):
            for button in row:
                if not 1 <= len(button["callback_data"].encode()) <= 64:
                    return refused(400, "Bad Request: BUTTON_DATA_INVALID")
        return self._taken(form, text=text)

    async def _editMessageText(self, form: dict[str, Any]) -> web.Response:  # noqa: N802
        return self._edited(form, "text", MAX_TEXT_UNITS)

    async def _editMessageCaption(self, form: dict[str, Any]) -> web.Response:  # noqa: N802
        return self._edited(form, "caption", MAX_CAPTION_UNITS)

    def _edited(self, form: dict[str, Any], field: str, limit: int) -> web.Response:
        number = form["message_id"]
        if not 1 <= number <= len(self.sent):
            return refused(400, "Bad Request: message to edit not found")
        old, new = self.sent[number - 1], str(form[field])
        if len(new.encode("utf-16-le")) // 2 > limit:
            return refused(400, "Bad Request: MESSAGE_TOO_LONG")
        if field not in old:
            return refused(400, f"Bad Request: there is no {field} in the message to edit")
        if old[field] == new:
            return refused(400, "Bad Request: message is not modified")
        old[field] = new
        chat = {"id": form["chat_id"], "type": "private"}
        return succeeded({"message_id": number, "date": 1, "chat": chat, field: new})

    def _refusal(self, form: dict[str, Any]) -> web.Response | None:
        """Why nothing may be sent to this chat now."""
        if self.floods and (seconds := self.floods.pop(0)) is not None:
            return refused(429, f"Too Many Requests: retry after {seconds}", retry_after=seconds)
        if form["chat_id"] in self.blocked:
            return refused(403, "Forbidden: bot was blocked by the user")
        if self.strict:
            now = asyncio.get_running_loop().time()
            for key, most in (("all", 30), (form["chat_id"], 3)):
                recent = self._moments[key] = [moment for moment in self._moments[key] if now - moment < 1]
                if len(recent) >= most:
                    self.violations.append(f"{key}: {len(recent) + 1} in a second")
                    return refused(429, "Too Many Requests: retry after 1", retry_after=1)
            for key in ("all", form["chat_id"]):
                self._moments[key].append(now)
        return None

    def _taken(self, form: dict[str, Any], **content: Any) -> web.Response:
        self.sent.append(form)
        chat = {"id": form["chat_id"], "type": "private"}
        return succeeded({"message_id": len(self.sent), "date": 1, "chat": chat, **content})

    async def _send_file(self, kind: str, form: dict[str, Any]) -> web.Response:
        if (refusal := self._refusal(form)) is not None:
            return refusal
        if len(str(form.get("caption", "")).encode("utf-16-le")) // 2 > MAX_CAPTION_UNITS:
            return refused(400, "Bad Request: message caption is too long")
        given = form[kind]
        if str(given).startswith("attach://"):
            given = form[given.removeprefix("attach://")]
        if isinstance(given, web.FileField):
            content = given.file.read()
            if not content:
                return refused(400, "Bad Request: file must be non-empty")
            if len(content) > (MAX_PHOTO_BYTES if kind == "photo" else MAX_UPLOAD_BYTES):
                return refused(413, "Request Entity Too Large")
            if kind == "photo" and self.odd_photos:
                return refused(400, "Bad Request: PHOTO_INVALID_DIMENSIONS")
            self.uploads += 1
            file_id = f"{kind}-{self.uploads}"
            self.files[file_id] = content
            name = given.filename
        else:
            file_id, name = str(given), None
            if file_id not in self.files or not file_id.startswith(kind):
                return refused(400, "Bad Request: wrong file identifier/HTTP URL specified")
        file = {
            "file_id": file_id,
            "file_unique_id": file_id,
            "file_name": name,
            "duration": 1,
            "width": 1,
            "height": 1,
        }
        plain = {key: value for key, value in form.items() if not isinstance(value, web.FileField)}
        return self._taken(
            {**plain, kind: file_id, "name": name},
            caption=form.get("caption"),
            **{kind: [file, file] if kind == "photo" else file},
        )

    async def _sendMediaGroup(self, form: dict[str, Any]) -> web.Response:  # noqa: N802
        media = form["media"]
        if not 2 <= len(media) <= 10:
            return refused(400, "Bad Request: wrong number of media")
        if (refusal := self._refusal(form)) is not None:
            return refusal
        if self.odd_photos:
            return refused(400, "Bad Request: PHOTO_INVALID_DIMENSIONS")
        told, album = [], f"album-{len(self.sent)}"
        for item in media:
            source = str(item["media"])
            content: Any = form.get(source.removeprefix("attach://")) if source.startswith("attach://") else None
            if isinstance(content, web.FileField):
                self.uploads += 1
                source = f"{item['type']}-{self.uploads}"
                self.files[source] = content.file.read()
            elif source not in self.files:
                return refused(400, "Bad Request: wrong file identifier/HTTP URL specified")
            row = {"chat_id": form["chat_id"], item["type"]: source, "album": album}
            self.sent.append({**row, **({"caption": item["caption"]} if item.get("caption") else {})})
            file = {"file_id": source, "file_unique_id": source, "width": 1, "height": 1, "duration": 1}
            chat = {"id": form["chat_id"], "type": "private"}
            shown = [file] if item["type"] == "photo" else file
            told.append({"message_id": len(self.sent), "date": 1, "chat": chat, item["type"]: shown})
        return succeeded(told)

    async def _getFile(self, form: dict[str, Any]) -> web.Response:  # noqa: N802
        content = self.files.get(form["file_id"])
        if content is None:
            return refused(400, "Bad Request: wrong file_id or the file is temporarily unavailable")
        if len(content) > MAX_DOWNLOAD_BYTES:
            return refused(400, "Bad Request: file is too big")
        return succeeded({"file_id": form["file_id"], "file_unique_id": "u", "file_path": form["file_id"]})


Api = TypeVar("Api", bound=BotApi)


def text_update(update_id: int, text: str, chat: int = 7) -> dict[str, Any]:
    """What a customer writes."""
    sender = {"id": chat, "is_bot": False, "first_name": "Анна", "language_code": "ru"}
    message = {
        "message_id": update_id * 10,
        "date": 1_770_000_000,
        "chat": {"id": chat, "type": "private"},
        "from": sender,
        "text": text,
    }
    return {"update_id": update_id, "message": message}


@asynccontextmanager
async def served(api: Api, token: str = TOKEN) -> AsyncIterator[Api]:
    """The server on a free port of this machine; `base` is its address."""
    app = web.Application(client_max_size=100 << 20)
    app.router.add_post(f"/bot{token}/{{method}}", api.handle)
    app.router.add_post("/bot43:OTHER/{method}", api.handle)
    app.router.add_get(f"/file/bot{token}/{{path:.+}}", api.download)
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


def bot_api(token: str) -> AbstractAsyncContextManager[BotApi]:
    return served(BotApi(), token)


def succeeded(result: Any) -> web.Response:
    return web.json_response({"ok": True, "result": result})


def refused(code: int, description: str, **parameters: int) -> web.Response:
    answer = {"ok": False, "error_code": code, "description": description, "parameters": parameters}
    return web.json_response(answer, status=code)


def _decoded(value: Any) -> Any:
    """Numbers, lists and objects travel as JSON in a form; a text that looks like one is a text to the caller."""
    try:
        return json.loads(value)
    except (TypeError, ValueError):
        return value


def _chat_of(update: Any) -> Any:
    """By which updates are kept in order."""
    message = update.get("message") if isinstance(update, dict) else None
    return message["chat"]["id"] if isinstance(message, dict) else None


def _update_id(update: Any) -> int:
    return update["update_id"] if isinstance(update, dict) and "update_id" in update else 0
