"""data/lookups.yml: what may be asked of the shop's own system, and how. Read with pydantic, checked when it is read.

Nothing in it is secret: `${OTVET_LOOKUP_…}` in a header stands for a variable of the environment.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import jmespath
from jinja2 import TemplateError, meta
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jmespath.exceptions import JMESPathError
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from bot.errors import LookupFileError
from bot.flows import words as flow_words

DEMO = "demo"
"""In place of a server's address: the demo shop that comes along."""
SECRET = re.compile(r"\$\{(\w*)\}")
SECRET_PREFIX = "OTVET_LOOKUP_"  # noqa: S105
SEND_CODE, CHECK_CODE = "send-code", "check-code"
"""Lookups that `proof` makes."""
LARGEST_BYTES = 200_000

Lang = Literal["ru", "en"]
Id = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
Words = Annotated[dict[Lang, Annotated[str, Field(min_length=1, max_length=3500)]], Field(min_length=1)]
Template = Annotated[str, Field(max_length=2000)]

# The values become parts of an address or a body, so nothing is worked out here but names and filters.
TEMPLATES = ImmutableSandboxedEnvironment(autoescape=False, cache_size=0)
TEMPLATES.globals = {}


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Server(_Part):
    """A system that is asked."""

    address: str = Field(description="Where its interface begins: https://api.shop.example/v1, or demo.")
    headers: dict[str, str] = Field(default_factory=dict, description="Sent with each call; ${OTVET_LOOKUP_…} in them.")

    @field_validator("headers")
    @classmethod
    def _only_own_secrets(cls, headers: dict[str, str]) -> dict[str, str]:
        for name, value in headers.items():
            if not re.fullmatch(r"[A-Za-z0-9-]{1,64}", name) or name.lower() in _OWN_HEADERS:
                raise ValueError(f"{name}: no header that may be set here")
            for secret in SECRET.findall(value):
                if not secret.startswith(SECRET_PREFIX):
                    raise ValueError(f"${{{secret}}}: the name of the variable has to begin with {SECRET_PREFIX}")
        return headers


_OWN_HEADERS = frozenset({"host", "content-length", "transfer-encoding", "connection", "accept-encoding"})


class Lookup(_Part):
    """One thing that can be asked or done."""

    server: Id
    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"] = "GET"
    path: Annotated[str, Field(pattern=r"^/", max_length=500)] = Field(description="/orders/{{ order }}")
    query: dict[str, Template] = Field(default_factory=dict)
    body: dict[str, Template] = Field(default_factory=dict, description="Sent as JSON.")
    needs: list[Name] = Field(default_factory=list, description="Slots without which nothing is asked.")
    result: dict[Name, str] = Field(
        default_factory=dict, description="Name → JMESPath in the answer. Empty: all of it."
    )
    required: list[Name] = Field(default_factory=list, description="Of the result: what must not be null.")
    reasons: dict[int, Id] = Field(default_factory=dict, description="Status → reason of the failure.")
    answer: Words | None = Field(None, description="Jinja2 over slots and result: `answer` in what is found.")
    failed: Words | None = Field(None, description="Said when it fails and the flow says nothing itself.")
    proof: Name | None = Field(None, description="The slot whose owner the customer must have proved to be.")
    seconds: float = Field(3, gt=0, le=20, description="For one try.")
    retries: int = Field(1, ge=0, le=3, description="After a fault of the network or the server; see repeatable.")
    repeatable: bool | None = Field(None, description="Done twice is as done once; a POST and PATCH is not by itself.")
    cache_seconds: float = Field(0, ge=0, le=86400)

    @property
    def may_repeat(self) -> bool:
        return self.repeatable if self.repeatable is not None else self.method in ("GET", "PUT", "DELETE")

    @property
    def names(self) -> frozenset[str]:
        """The slots that its address and body are made of."""
        return frozenset(
            name for source in self._templates() for name in meta.find_undeclared_variables(_parsed(source))
        )

    def _templates(self) -> Iterator[str]:
        yield self.path
        yield from self.query.values()
        yield from self.body.values()

    @model_validator(mode="after")
    def _can_be_done(self) -> Lookup:
        for name in self.names - {*self.needs, "lang"}:
            raise ValueError(f"{{{{ {name} }}}} stands in the request: list it in needs")
        for name, expression in self.result.items():
            try:
                jmespath.compile(expression)
            except JMESPathError as error:
                raise ValueError(f"result.{name}: no JMESPath: {' '.join(str(error).split())}") from error
        if unknown := set(self.required) - set(self.result):
            raise ValueError(f"required: {', '.join(sorted(unknown))}: not in result")
        for source in (self.answer or {}).values():
            if problem := flow_words.fault(source):
                raise ValueError(f"answer: {problem}")
        if self.proof and self.proof not in self.needs:
            raise ValueError(f"proof: {self.proof}: list it in needs")
        if self.cache_seconds and self.method != "GET":
            raise ValueError("cache_seconds: only what is asked by GET may be kept")
        return self


def _parsed(source: str) -> Any:
    try:
        return TEMPLATES.parse(source)
    except TemplateError as error:
        raise ValueError(f"{source[:60]!r}: {error}") from error


class Proof(_Part):
    """How a customer proves whose order it is: he repeats a code that the shop sends to whom it knows as the owner."""

    subject: Name = Field(description="The slot that names what is owned: order.")
    code: Name = Field("code", description="The slot with the code that the customer repeats.")
    sent_by: Id = Field(description="The lookup that passes {{ text }} on to the owner.")
    text: Words = Field(description="What he is sent, with {{ code }} and {{ minutes }}.")
    minutes: int = Field(30, ge=1, le=24 * 60, description="How long the proof holds.")


class LookupFile(_Part):
    """The whole file."""

    servers: dict[Id, Server] = Field(default_factory=dict)
    lookups: dict[Id, Lookup] = Field(default_factory=dict)
    proof: Proof | None = None

    @model_validator(mode="after")
    def _fits(self) -> LookupFile:
        for name, lookup in self.lookups.items():
            if lookup.server not in self.servers:
                raise ValueError(f"lookups.{name}: there is no server {lookup.server}")
            if lookup.proof and (self.proof is None or self.proof.subject != lookup.proof):
                raise ValueError(f"lookups.{name}: nothing says how {lookup.proof} is proved: write it under proof")
            if name in (SEND_CODE, CHECK_CODE):
                raise ValueError(f"lookups.{name}: this name is taken by proof")
        if self.proof and self.proof.sent_by not in self.lookups:
            raise ValueError(f"proof.sent_by: there is no lookup {self.proof.sent_by}")
        return self

    @property
    def names(self) -> frozenset[str]:
        """What a flow may call."""
        return frozenset(self.lookups) | (frozenset((SEND_CODE, CHECK_CODE)) if self.proof else frozenset())

    @property
    def wants_demo(self) -> bool:
        return any(server.address == DEMO for server in self.servers.values())


def read_lookups(path: Path) -> LookupFile:
    """The file; without one there are no lookups. Raises LookupFileError."""
    if not path.exists():
        return LookupFile()
    return parse_lookups(path.read_text("utf-8"), str(path))


def parse_lookups(text: str, path: str = "lookups.yml") -> LookupFile:
    """Raises LookupFileError with all that is wrong."""
    if len(text) > LARGEST_BYTES:
        raise LookupFileError(path, None, f"more than {LARGEST_BYTES // 1000} KB")
    try:
        tree = YAML(typ="safe").load(text) or {}
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        raise LookupFileError(path, line, f"not YAML: {error.problem}") from error
    except (YAMLError, ValueError, RecursionError) as error:
        raise LookupFileError(path, None, f"not YAML: {error}") from error
    try:
        return LookupFile.model_validate(tree)
    except ValidationError as error:
        faults = (f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        raise LookupFileError(path, None, "; ".join(faults)) from error


def with_secrets(value: str, secrets: Mapping[str, str]) -> str:
    """A header with its secrets in place. Raises KeyError with the name of one that is not set."""
    return SECRET.sub(lambda match: secrets[match.group(1)], value)
