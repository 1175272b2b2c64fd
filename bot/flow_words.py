"""What a flow says and asks itself: sandboxed Jinja2 over the slots. An editor's text can neither reach anything
outside nor grow without end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date, datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any

from babel.dates import format_date
from babel.numbers import format_currency
from jinja2 import ChainableUndefined, StrictUndefined, Template, TemplateError, meta, pass_context
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from bot.errors import FlowRunError

MAX_SAID_CHARS = 4000
MAX_OPERAND = 10_000
OWN_NAMES = frozenset({"lang", "value", "today", "slots"})
"""Names that every text of a flow sees beside the slots and the shop's own."""


class _Sandbox(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset({"*", "**"})

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if not all(isinstance(each, (int, float)) and abs(each) <= MAX_OPERAND for each in (left, right)):
            raise SecurityError(f"{operator} is for numbers up to {MAX_OPERAND}")
        return super().call_binop(context, operator, left, right)


def _range(*limits: int) -> range:
    made = range(*limits)
    if len(made) > 200:
        raise SecurityError("range is for at most 200 numbers")
    return made


@pass_context
def _date(context: Context, value: Any, form: str = "long") -> str:
    """A date in words: `{{ day | date }}`."""
    if isinstance(value, str):
        value = datetime.fromisoformat(value) if "T" in value else date.fromisoformat(value)
    return format_date(value, format=form, locale=str(context.get("lang", "ru")))


@pass_context
def _money(context: Context, value: Any, currency: str = "RUB") -> str:
    """An amount with its currency, a number or as a slot of type amount has it: `{{ 1500 | money }}`."""
    number, _, told = str(value).partition(" ")
    amount, currency = Decimal(number), told or currency
    whole = amount == amount.to_integral_value()
    form = "#,##0 ¤" if whole else "#,##0.00 ¤"
    made = format_currency(amount, currency, form, locale=str(context.get("lang", "ru")), currency_digits=False)
    return made.replace("RUB", "₽").replace("\N{NARROW NO-BREAK SPACE}", "\N{NO-BREAK SPACE}")


def _environment(undefined: type[Any]) -> _Sandbox:
    made = _Sandbox(
        undefined=undefined, autoescape=False, finalize=lambda value: "" if value is None else value, cache_size=0
    )
    made.globals = {"range": _range}
    made.filters |= {"date": _date, "money": _money}
    for name in ("center", "indent", "pprint", "random", "tojson", "wordwrap", "xmlattr", "urlize", "filesizeformat"):
        made.filters.pop(name)
    return made


_SAYS = _environment(StrictUndefined)
_ASKS = _environment(ChainableUndefined)


@lru_cache(maxsize=4096)
def _template(source: str) -> Template:
    return _SAYS.from_string(source)


@lru_cache(maxsize=4096)
def _condition(source: str) -> Callable[..., Any]:
    return _ASKS.compile_expression(source)


def render(source: str, values: Mapping[str, Any]) -> str:
    """A text with its slots. Raises FlowRunError."""
    if "{" not in source:
        return source.strip()
    try:
        parts = []
        length = 0
        for part in _template(source).generate(values):
            parts.append(part)
            length += len(part)
            if length > MAX_SAID_CHARS:
                raise SecurityError(f"it says more than {MAX_SAID_CHARS} characters")
        return "".join(parts).strip()
    except Exception as error:
        # Edge: an editor's text may fail in any way.
        raise FlowRunError(source, str(error)) from error


def holds(source: str, values: Mapping[str, Any]) -> bool:
    """Whether a condition holds; what is not there is false. Raises FlowRunError."""
    try:
        return bool(_condition(source)(**values))
    except Exception as error:
        # Edge: an editor's condition may fail in any way.
        raise FlowRunError(source, str(error)) from error


def value_of(given: Any, values: Mapping[str, Any]) -> Any:
    """A plain value as it is; a text with Jinja2 in it as what it comes to. Raises FlowRunError."""
    return render(given, values) if isinstance(given, str) and "{" in given else given


def fault(source: str, *, condition: bool = False) -> str | None:
    """What is wrong with the form of a text or condition."""
    try:
        _condition(source) if condition else _template(source)
    except TemplateError as error:
        return str(error)
    return None


def names(source: str, *, condition: bool = False) -> set[str]:
    """The names that a text or condition takes from outside; none of a broken one."""
    try:
        return set(meta.find_undeclared_variables(_SAYS.parse("{{ " + source + " }}" if condition else source)))
    except TemplateError:
        return set()
