"""Meta's Graph API, as far as a WhatsApp number needs it: the calls and the bodies of messages."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

import httpx

from bot.channels.base import Medium, Option, OutboundAttachment, Template
from bot.channels.whatsapp_errors import delivery_error
from bot.errors import DeliveryError, SettingsError

GRAPH = "https://graph.facebook.com"
VERSION = "v23.0"
CALL_SECONDS = 20.0
FILE_SECONDS = 120.0
MAX_BUTTONS = 3
MAX_BUTTON_CHARS = 20
MAX_ROWS = 10
MAX_ROW_CHARS = 24
MAX_ROW_DESCRIPTION_CHARS = 72
MAX_PROMPT_CHARS = 1024
MAX_CAPTION_CHARS = 1024
LIST_LABELS = {"ru": "Выбрать", "en": "Choose"}
_MEDIA_HOSTS = ("facebook.com", "fbcdn.net", "fbsbx.com", "whatsapp.net", "whatsapp.com")
"""Where Meta keeps files. The token goes nowhere else, whatever an answer says."""
_MB = 1024 * 1024
_AUDIO = frozenset({"audio/aac", "audio/amr", "audio/mpeg", "audio/mp4", "audio/ogg"})
MEDIA = {
    "photo": Medium(5 * _MB, frozenset({"image/jpeg", "image/png"})),
    "video": Medium(16 * _MB, frozenset({"video/mp4", "video/3gpp"})),
    "audio": Medium(16 * _MB, _AUDIO, captions=False),
    "voice": Medium(16 * _MB, frozenset({"audio/ogg"}), captions=False),
    "sticker": Medium(500 * 1024, frozenset({"image/webp"}), captions=False),
    "document": Medium(100 * _MB),
}
_NAMES = {"photo": "image", "voice": "audio"}
"""Of kinds that WhatsApp calls otherwise."""


def envelope(chat_id: str, body: dict[str, Any]) -> dict[str, Any]:
    """A message with its address: a phone number, or the id of a customer who hides it."""
    to = {"to": chat_id} if chat_id.isdecimal() else {"recipient": chat_id}
    return {"messaging_product": "whatsapp", "recipient_type": "individual", **to, **body}


def text_body(text: str, *, preview: bool = False) -> dict[str, Any]:
    return {"type": "text", "text": {"body": text, "preview_url": preview}}


def choices_body(text: str, options: Sequence[Option], *, as_list: bool, open_label: str) -> dict[str, Any]:
    """Reply buttons, or a list to open. The options are fitted already."""
    if not as_list:
        buttons = [{"type": "reply", "reply": {"id": option.token, "title": option.label}} for option in options]
        return _interactive("button", text, {"buttons": buttons})
    rows = [
        {
            "id": option.token,
            "title": option.label,
            **({"description": option.description} if option.description else {}),
        }
        for option in options
    ]
    return _interactive("list", text, {"button": open_label, "sections": [{"rows": rows}]})


def _interactive(kind: str, text: str, action: dict[str, Any]) -> dict[str, Any]:
    return {"type": "interactive", "interactive": {"type": kind, "body": {"text": text}, "action": action}}


def media_body(kind: str, media_id: str, *, file_name: str = "", caption: str = "") -> dict[str, Any]:
    """kind: ours, as which the file goes out (`Capabilities.carrier`)."""
    name = _NAMES.get(kind, kind)
    media: dict[str, Any] = {"id": media_id}
    if kind == "voice":
        media["voice"] = True
    if kind == "document":
        media["filename"] = file_name
    if caption:
        media["caption"] = caption
    return {"type": name, name: media}


def template_body(template: Template) -> dict[str, Any]:
    parameters = [{"type": "text", "text": _one_line(value)} for value in template.variables]
    components = [{"type": "body", "parameters": parameters}] if parameters else []
    language = {"code": template.language, "policy": "deterministic"}
    return {"type": "template", "template": {"name": template.name, "language": language, "components": components}}


def location_body(latitude: float, longitude: float, *, name: str = "", address: str = "") -> dict[str, Any]:
    named = {key: value for key, value in (("name", name), ("address", address)) if value}
    return {"type": "location", "location": {"latitude": str(latitude), "longitude": str(longitude), **named}}


def reaction_body(external_id: str, emoji: str) -> dict[str, Any]:
    """An empty emoji takes the reaction back."""
    return {"type": "reaction", "reaction": {"message_id": external_id, "emoji": emoji}}


def seen_body(external_id: str, *, typing: bool = True) -> dict[str, Any]:
    """Marks a customer's message as read. typing: also shows "typing…" for 25 seconds or until a message is sent."""
    mark: dict[str, Any] = {"messaging_product": "whatsapp", "status": "read", "message_id": external_id}
    return {**mark, "typing_indicator": {"type": "text"}} if typing else mark


def _one_line(value: str) -> str:
    """A variable of a template may hold neither line breaks nor more than four spaces, nor be empty."""
    return " ".join(value.split()) or "—"


class GraphApi:
    """Calls with the token. Every failure is a DeliveryError, and its text never holds the token."""

    def __init__(self, token: str, *, base: str = "", version: str = VERSION, proxy: str = "") -> None:
        """base: another address of the API, for a stand-in. proxy: http://, https:// or socks5:// address."""
        self._base = (base or GRAPH).rstrip("/")
        self._version = version
        self._headers = {"Authorization": f"Bearer {token}", "User-Agent": "otvet"}
        self._proxy = proxy or None
        try:
            self._open_http = self._client()
        except (ValueError, ImportError) as error:
            raise SettingsError(f"OTVET_WHATSAPP_PROXY: {error}") from error

    async def message(self, account: str, chat_id: str, body: dict[str, Any]) -> str:
        """Send a message; Meta's id of it."""
        answer = await self._json("POST", f"{account}/messages", json=envelope(chat_id, body))
        messages = answer.get("messages")
        first = messages[0] if isinstance(messages, list) and messages else {}
        return str(first.get("id") or "") if isinstance(first, dict) else ""

    async def seen(self, account: str, external_id: str, *, typing: bool = True) -> None:
        await self._json("POST", f"{account}/messages", json=seen_body(external_id, typing=typing))

    async def upload(self, account: str, attachment: OutboundAttachment) -> str:
        """Give a file to WhatsApp for 30 days; the id to send it by. Blocks the loop while the file is opened."""
        try:
            with attachment.path.open("rb") as file:
                answer = await self._json(
                    "POST",
                    f"{account}/media",
                    data={"messaging_product": "whatsapp", "type": attachment.mime_type},
                    files={"file": (attachment.file_name, file, attachment.mime_type)},
                    timeout=FILE_SECONDS,
                )
        except OSError as error:
            raise DeliveryError("the file is gone from our disk", permanent=True) from error
        if not (media_id := answer.get("id")):
            raise DeliveryError("WhatsApp took the file and gave no id")
        return str(media_id)

    async def number(self, account: str) -> dict[str, Any]:
        """The number's own record, for `otvet doctor`."""
        fields = "display_phone_number,verified_name,quality_rating"
        return await self._json("GET", account, params={"fields": fields})

    async def download(self, media_id: str, max_bytes: int) -> AsyncGenerator[bytes, None]:
        """The bytes of a customer's file, in chunks."""
        media = await self._json("GET", media_id)
        size = media.get("file_size")
        if str(size or "").isdecimal() and int(str(size)) > max_bytes:
            raise _too_large(max_bytes)
        url, received = self._trusted(str(media.get("url") or "")), 0
        # The causes are left out: the address of a file is as good as a key to it.
        with _delivery_errors():
            async with self._http.stream("GET", url, timeout=FILE_SECONDS) as response:
                if response.status_code >= 300:
                    gone = response.status_code in (400, 403, 404, 410)
                    raise DeliveryError(f"the file's server answered {response.status_code}", permanent=gone)
                async for chunk in response.aiter_bytes():
                    received += len(chunk)
                    if received > max_bytes:
                        raise _too_large(max_bytes)
                    yield chunk

    async def close(self) -> None:
        """Close the connections. Safe to repeat; a later call opens them again."""
        await self._open_http.aclose()

    @property
    def _http(self) -> httpx.AsyncClient:
        if self._open_http.is_closed:
            self._open_http = self._client()
        return self._open_http

    def _client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(headers=self._headers, timeout=CALL_SECONDS, proxy=self._proxy)

    def _trusted(self, url: str) -> str:
        parts, own = urlsplit(url), urlsplit(self._base)
        if (parts.scheme, parts.netloc) == (own.scheme, own.netloc):
            return url
        host = parts.hostname or ""
        known = any(host == name or host.endswith(f".{name}") for name in _MEDIA_HOSTS)
        if parts.scheme != "https" or not known or self._base != GRAPH:
            raise DeliveryError("the file's address is not one of Meta's", permanent=True)
        return url

    async def _json(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        with _delivery_errors():
            response = await self._http.request(method, f"{self._base}/{self._version}/{path}", **request)
        try:
            answer = response.json()
        except ValueError:
            answer = None
        error = answer.get("error") if isinstance(answer, dict) else None
        if response.is_success and isinstance(answer, dict) and error is None:
            return answer
        if response.is_success and error is None:
            return {}  # it was taken: to fail for the answer's form would send it twice
        raise _refusal(response, error if isinstance(error, dict) else {})


def _refusal(response: httpx.Response, error: dict[str, Any]) -> DeliveryError:
    data = error.get("error_data")
    details = data.get("details") if isinstance(data, dict) else None
    code, words = error.get("code"), str(details or error.get("message") or "")
    asked = response.headers.get("retry-after", "")
    return delivery_error(
        code if isinstance(code, int) else None,
        words[:500],
        status=response.status_code,
        retry_after_seconds=float(asked) if asked.isdecimal() else None,
    )


@contextlib.contextmanager
def _delivery_errors() -> Iterator[None]:
    try:
        yield
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise DeliveryError(f"WhatsApp could not be reached: {type(error).__name__}") from None


def _too_large(limit: int) -> DeliveryError:
    return DeliveryError(f"the file is larger than {limit // _MB} MB", permanent=True)
