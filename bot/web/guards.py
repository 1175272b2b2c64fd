"""What stands between the web and the chat: refusals in words, body limits and security headers."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Mapping
from math import inf

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bot.addresses import network_of


def caller(request: Request) -> str:
    """Who asks, as far as an address tells."""
    return network_of(request.client.host if request.client else "")


_WORDS: Mapping[str, tuple[int, str, str]] = {
    "bad_request": (400, "Запрос не удалось разобрать.", "The request could not be read."),
    "no_session": (401, "Этого разговора больше нет. Начните новый.", "This conversation is gone. Start a new one."),
    "not_found": (404, "Здесь ничего нет.", "There is nothing here."),
    "not_allowed": (405, "Так делать нельзя.", "That can't be done here."),
    "foreign_form": (
        403,
        "Форма устарела или пришла с другой страницы. Обновите страницу и повторите.",
        "The form is out of date or comes from another page. Reload the page and try again.",
    ),
    "no_sign_in": (401, "Войдите, чтобы продолжить.", "Sign in to go on."),
    "forbidden": (403, "Для этого у вас нет прав.", "You are not allowed to do this."),
    "no_ticket": (
        404,
        "Такого обращения нет, или оно в другой команде.",
        "There is no such ticket, or it belongs to another team.",
    ),
    "unanswered": (
        409,
        "Клиенту ещё никто не ответил, спрашивать его не о чем. Ответьте, или решите либо закройте обращение.",
        "Nobody has answered the customer yet, so there is nothing to ask him about. Reply, or resolve or close it.",
    ),
    "state": (
        409,
        "Пока вы смотрели, обращение изменилось, и сделать это уже нельзя. Обновите страницу.",
        "The ticket has changed meanwhile, and this can't be done any more. Reload the page.",
    ),
    "unseen": (
        409,
        "Клиент тем временем написал. Прочтите его сообщение; если обращение всё же окончено, нажмите ещё раз.",
        "The customer has written meanwhile. Read it; if the ticket is done all the same, press once more.",
    ),
    "held": (
        409,
        "Обращение у коллеги, и он на месте. Откройте его и заберите там.",
        "A colleague has this ticket, and is there. Open it, and take it over there.",
    ),
    "too_many_chosen": (
        422,
        "За один раз можно выбрать не больше 200 обращений. С ними ничего не сделано: выберите меньше.",
        "At most 200 tickets can be chosen at once. Nothing was done with them: choose fewer.",
    ),
    "no_customer": (
        409,
        "С этим клиентом так сделать нельзя. Обновите страницу.",
        "This can't be done with this customer. Reload the page.",
    ),
    "strangers": (
        409,
        "Это обращения разных клиентов. Если клиент один, сначала свяжите его чаты в карточке.",
        "These tickets are two customers'. If it is one, link his chats on the card first.",
    ),
    "open_tickets": (
        409,
        "У клиента есть открытые обращения. Сначала решите или закройте их.",
        "This customer has open tickets. Resolve or close them first.",
    ),
    "wrong_number": (
        422,
        "Это не номер этого клиента. Ничего не стёрто.",
        "That is not this customer's number. Nothing was erased.",
    ),
    "no_agent": (404, "Такого сотрудника нет.", "There is no such colleague."),
    "empty": (422, "Сначала напишите что-нибудь или приложите файл.", "Write something or attach a file first."),
    "period": (422, "Период — от одного дня до года.", "A period has from one day to a year."),
    "past": (422, "Эта дата уже прошла.", "That date is over."),
    "reply_too_long": (
        422,
        "Ответ слишком длинный (до 20 000 знаков) или файлов больше десяти. Разделите его.",
        "The reply is too long (up to 20,000 characters), or there are more than ten files. Split it.",
    ),
    "file_refused": (
        422,
        "В этом канале такой файл может занимать не больше {most} МБ.",
        "In this channel such a file may have {most} MB at most.",
    ),
    "no_files": (422, "В этом канале файлы не принимаются.", "This channel takes no files."),
    "no_edit": (
        422,
        "Это сообщение уже нельзя изменить в этом канале. Отправьте исправление.",
        "This message can't be changed any more in this channel. Send a correction.",
    ),
    "last_admin": (
        422,
        "Это последний администратор: сначала назначьте другого.",
        "This is the last administrator: make another one first.",
    ),
    "changed_meanwhile": (
        409,
        "Кто-то уже изменил это. Обновите страницу и повторите.",
        "Somebody else has changed this. Reload the page and try again.",
    ),
    "unusable": (422, "Так сохранить нельзя: проверьте текст.", "This can't be saved so: check the text."),
    "too_slow": (408, "Запрос шёл слишком долго.", "The request took too long to arrive."),
    "too_large": (413, "Файл или сообщение больше допустимого.", "The file or message is larger than allowed."),
    "invalid": (422, "Сообщение не подходит по форме.", "The message has a wrong form."),
    "too_long": (
        422,
        "Сообщение слишком длинное: помещается до 100 000 знаков.",
        "The message is too long: up to 100,000 characters fit.",
    ),
    "too_often": (
        429,
        "Слишком много сообщений подряд. Подождите немного и повторите.",
        "Too many messages in a row. Wait a little and try again.",
    ),
    "no_email": (422, "Это не похоже на адрес почты.", "That is no e-mail address."),
    "mail_away": (
        503,
        "Письмо не удалось отправить. Повторите чуть позже.",
        "The letter could not be sent. Try again a little later.",
    ),
    "wrong_code": (422, "Код не подходит. Проверьте письмо.", "That code is wrong. Look at the letter again."),
    "code_expired": (410, "Код больше не действует. Запросите новый.", "The code is good no more. Ask for another."),
    "too_many_codes": (
        429,
        "Слишком много кодов для этого адреса. Повторите через час.",
        "Too many codes for this address. Try again in an hour.",
    ),
    "too_many_requests": (
        429,
        "Слишком много запросов с этого адреса. Подождите немного и повторите.",
        "Too many requests from this address. Wait a little and try again.",
    ),
    "broken": (
        500,
        "У нас что-то сломалось. Повторите через минуту.",
        "Something broke on our side. Try again in a minute.",
    ),
}


class Refusal(HTTPException):
    """A request that is not served. `code` names one of the texts above."""

    def __init__(self, code: str, *, retry_after_seconds: float | None = None) -> None:
        headers = {} if retry_after_seconds is None else {"Retry-After": str(int(retry_after_seconds) + 1)}
        super().__init__(_WORDS[code][0], code, headers)
        self.code = code


def pick_language(accept: str | None, default: str = "ru") -> str:
    """`ru` or `en`, whichever an Accept-Language header prefers."""
    best, best_weight = default, 0.0
    for item in (accept or "").lower().split(","):
        match = re.fullmatch(r"\s*(ru|en)(?:-[a-z0-9-]+)?\s*(?:;\s*q=([01](?:\.\d{0,3})?))?\s*", item)
        if match and (weight := float(match[2] or 1)) > best_weight:
            best, best_weight = match[1], weight
    return best


def refuse(
    request: Request, code: str, headers: Mapping[str, str] | None = None, values: Mapping[str, str] | None = None
) -> JSONResponse:
    """The answer to a request that is not served, in words and in the caller's language."""
    status, words = explain(code, pick_language(request.headers.get("accept-language")))
    words = words.format_map(values) if values else words
    return JSONResponse({"error": {"code": code, "message": words}}, status, dict(headers or {}))


def explain(code: str, lang: str) -> tuple[int, str]:
    """The status and the words of a refusal."""
    status, russian, english = _WORDS[code]
    return status, russian if lang == "ru" else english


CODES = {401: "no_session", 404: "not_found", 405: "not_allowed", 413: "too_large", 422: "invalid"}


async def on_http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for this class alone
    code = error.code if isinstance(error, Refusal) else CODES.get(error.status_code, "bad_request")
    return refuse(request, code, error.headers)


BODY_SECONDS = 30.0
"""For a body to arrive, and longer by what has come already at BODY_BYTES_A_SECOND."""
BODY_BYTES_A_SECOND = 8 * 1024


class BodyLimit:
    """Refuses a body larger than its path allows, whether it says so beforehand or not, and one that only trickles.
    Paths under `free` see to the size themselves."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        default_bytes: int,
        by_path: Mapping[str | re.Pattern[str], int],
        free: str,
        seconds: float = BODY_SECONDS,
    ) -> None:
        self._app, self._default, self._by_path, self._free = app, default_bytes, by_path, free
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        free = scope["path"].startswith(self._free)
        limit = inf if free else self._limit(scope["path"])
        said = Headers(scope=scope).get("content-length", "0")
        if said.isdecimal() and int(said) > limit:
            # The connection stays open: closing it on a body still coming would lose the answer on its way.
            await refuse(Request(scope), "too_large")(scope, receive, send)
            return
        seen, whole, begun = 0, False, time.monotonic()

        async def counted() -> Message:
            nonlocal seen, whole
            if whole:  # what comes now is the end of the connection
                return await receive()
            left = begun + self._seconds + seen / BODY_BYTES_A_SECOND - time.monotonic()
            try:
                async with asyncio.timeout(max(left, 0)):
                    message = await receive()
            except TimeoutError:
                raise Refusal("too_slow") from None
            seen += len(message.get("body", b""))
            whole = not message.get("more_body")
            if seen > limit:
                raise Refusal("too_large")
            return message

        await self._app(scope, counted, send)

    def _limit(self, path: str) -> float:
        for known, limit in self._by_path.items():
            if path == known if isinstance(known, str) else known.fullmatch(path):
                return limit
        return self._default


class SecurityHeaders:
    """Sets what is not set by the page itself; a page that needs more than nothing brings its own policy."""

    _DEFAULTS: Mapping[str, str] = {
        "Content-Security-Policy": "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    }

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def secured(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self._DEFAULTS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, secured if scope["type"] == "http" else send)
