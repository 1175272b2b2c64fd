"""A Rasa 3 server over its HTTP interface (https://legacy-docs-oss.rasa.com/docs/rasa/pages/http-api)."""

import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import httpx
from pydantic import BaseModel, Field, ValidationError

from nlu.errors import RasaUnavailable

MAX_CHARACTERS: Final = 4000
CONNECT_SECONDS: Final = 1.0
LOAD_SECONDS: Final = 120.0
"""How long a server may take to load a model."""

_MAX_REPLY: Final = 4 * 1024 * 1024

# It logs addresses, and the token is a part of them.
logging.getLogger("httpx").setLevel(logging.WARNING)


class _Named(BaseModel):
    name: str | None = None
    confidence: Annotated[float, Field(ge=0, le=1.0001, allow_inf_nan=False)] = 0.0


class _Response(BaseModel):
    intent_response_key: str | None = None
    confidence: Annotated[float, Field(ge=0, le=1.0001, allow_inf_nan=False)] = 0.0


class _Selector(BaseModel):
    ranking: list[_Response] = []


class Parsed(BaseModel):
    """What a server makes of a text; other keys of its answer are passed over."""

    intent: _Named = _Named()
    intent_ranking: list[_Named] = []
    response_selector: dict[str, _Selector | list[str] | None] = {}

    @property
    def ranking(self) -> tuple[tuple[str, float], ...]:
        """(intent, probability), best first; a retrieval intent stands under its full names, `faq/opening_hours`."""
        found: dict[str, float] = {}
        for each in [*self.intent_ranking, self.intent]:
            if not each.name or each.name in found:
                continue
            parts = dict(self._responses(each.name))
            whole = sum(parts.values())
            for name, share in parts.items() if whole else ():
                found[name] = min(1.0, each.confidence) * share / whole
            if not whole:
                found[each.name] = min(1.0, each.confidence)
        return tuple(sorted(found.items(), key=lambda pair: -pair[1]))

    def _responses(self, intent: str) -> Iterable[tuple[str, float]]:
        for selector in (self.response_selector.get(intent), self.response_selector.get("default")):
            if isinstance(selector, _Selector):
                for each in selector.ranking:
                    if each.intent_response_key and each.intent_response_key.startswith(f"{intent}/"):
                        yield each.intent_response_key, each.confidence


class RasaClient:
    """Speaks to one server. Safe to call from several threads; every call blocks for its time limit at most.

    A call that gets no good answer raises RasaUnavailable; the token stands in no message.
    """

    def __init__(self, url: str, token: str, timeout_seconds: float) -> None:
        self.url = url.rstrip("/")
        timeout = httpx.Timeout(timeout_seconds, connect=min(CONNECT_SECONDS, timeout_seconds))
        self._http = httpx.Client(
            base_url=self.url,
            params={"token": token} if token else None,
            timeout=timeout,
            limits=httpx.Limits(max_connections=8, keepalive_expiry=30),
        )

    def parse(self, text: str) -> Parsed:
        """Ask what a text means; only its first 4,000 characters are sent."""
        # A leading slash would be a command: Rasa takes «/order_cancel» for that intent with probability 1.
        said = text.lstrip().lstrip("/").strip()[:MAX_CHARACTERS].encode("utf-8", "replace").decode()
        answer = self._call("POST", "/model/parse", {"text": said})
        try:
            return Parsed.model_validate(answer)
        except ValidationError as error:
            raise RasaUnavailable(f"{self.url} answers what is no prediction") from error

    def model_id(self) -> str:
        """The id of the loaded model; raises RasaUnavailable also while there is none."""
        answer = self._call("GET", "/status")
        if not isinstance(answer, Mapping) or not isinstance(answer.get("model_id"), str):
            raise RasaUnavailable(f"{self.url} has no model loaded")
        return str(answer["model_id"])

    def load(self, model: Path) -> None:
        """Have the server load a model that lies on its own disk. Blocks for seconds."""
        self._call("PUT", "/model", {"model_file": str(model)}, timeout_seconds=LOAD_SECONDS)

    def close(self) -> None:
        self._http.close()

    def _call(self, method: str, path: str, body: Mapping[str, Any] | None = None, timeout_seconds: float = 0) -> Any:
        limit: Any = httpx.Timeout(timeout_seconds) if timeout_seconds else httpx.USE_CLIENT_DEFAULT
        try:
            with self._http.stream(method, path, json=body, timeout=limit) as reply:
                content = b""
                for piece in reply.iter_bytes():
                    content += piece
                    if len(content) > _MAX_REPLY:
                        raise RasaUnavailable(f"{self.url} answers more than {_MAX_REPLY} bytes")
        except httpx.TimeoutException as error:
            raise RasaUnavailable(f"{self.url} did not answer in time") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise RasaUnavailable(f"{self.url} cannot be reached ({type(error).__name__})") from error
        if reply.status_code == httpx.codes.UNAUTHORIZED:
            raise RasaUnavailable(f"{self.url} refuses the token; check OTVET_RASA_TOKEN")
        if not reply.is_success:
            raise RasaUnavailable(f"{self.url} answers with status {reply.status_code}{_reason(content)}")
        if not content:
            return None
        try:
            return json.loads(content)
        except ValueError as error:
            raise RasaUnavailable(f"{self.url} answers what is no JSON: is it a Rasa server?") from error


def _reason(content: bytes) -> str:
    try:
        return f" ({str(json.loads(content)['message'])[:200]})"
    except (ValueError, KeyError, TypeError):
        return ""
