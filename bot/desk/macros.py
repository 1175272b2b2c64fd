"""Macros: texts that are written often, as small Jinja2 templates in a sandbox.

They know variables, filters and conditions, and nothing that could run long: no loops, no calls, no arithmetic.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from jinja2 import StrictUndefined, TemplateError, TemplateSyntaxError, UndefinedError, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from bot.errors import MacroError, SettingsError

VARIABLES = ("customer_name", "first_name", "agent_name", "ticket_number", "topic_title", "subject", "shop")
MAX_CHARS = 8000
_FORBIDDEN = (
    *(nodes.For, nodes.Call, nodes.CallBlock, nodes.Macro, nodes.Include, nodes.Import, nodes.FromImport),
    *(nodes.Extends, nodes.Block, nodes.FilterBlock, nodes.Mul, nodes.Pow, nodes.Add, nodes.Concat, nodes.Mod),
)
_ENVIRONMENT = ImmutableSandboxedEnvironment(undefined=StrictUndefined, autoescape=False, keep_trailing_newline=False)
_ENVIRONMENT.filters = {
    name: _ENVIRONMENT.filters[name] for name in ("capitalize", "default", "d", "lower", "title", "trim", "upper")
}
_ENVIRONMENT.globals = {}


@dataclass(frozen=True)
class Starter:
    """A macro that a fresh desk begins with."""

    title: str
    body: str
    lang: str


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid")

    title: Annotated[str, Field(min_length=1, max_length=120)]
    lang: Annotated[str, Field(pattern="^(|ru|en)$")] = ""
    body: Annotated[str, Field(min_length=1, max_length=MAX_CHARS)]


def check_macro(title: str, body: str) -> None:
    """Raises MacroError that says what is wrong, and in which line."""
    if not body.strip():
        raise MacroError(title, "it is empty")
    if len(body) > MAX_CHARS:
        raise MacroError(title, f"it has more than {MAX_CHARS} characters")
    render_macro(title, body, dict.fromkeys(VARIABLES, "x"))


def render_macro(title: str, body: str, values: Mapping[str, str]) -> str:
    """The text with the values in place. Raises MacroError."""
    try:
        tree = _ENVIRONMENT.parse(body)
        for found in tree.find_all(_FORBIDDEN):
            kind = type(found).__name__.lower()
            raise MacroError(title, f"line {found.lineno}: `{kind}` is not allowed; there are variables and conditions")
        return _ENVIRONMENT.from_string(body).render(values).strip()
    except TemplateSyntaxError as error:
        raise MacroError(title, f"line {error.lineno}: {error.message}") from error
    except UndefinedError as error:
        raise MacroError(title, f"{error.message}; known are {', '.join(VARIABLES)}") from error
    except (TemplateError, TypeError, ValueError, RecursionError) as error:
        raise MacroError(title, str(error)) from error


def load_starters(path: Path) -> Sequence[Starter]:
    """macros.yml of the data folder; none where there is no such file. Raises SettingsError."""
    if not path.exists():
        return ()
    try:
        content = YAML(typ="safe").load(path)
        rows = TypeAdapter(list[_Row]).validate_python(content or [])
        for row in rows:
            check_macro(row.title, row.body)
    except (YAMLError, ValidationError, MacroError, OSError) as error:
        raise SettingsError(f"{path}: {error}") from error
    return [Starter(row.title, row.body.strip(), row.lang) for row in rows]
