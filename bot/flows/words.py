"""What a flow says and asks itself: sandboxed Jinja2 over the slots. An editor's text can neither reach anything
outside nor grow without end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from datetime import date, datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any

from babel.dates import format_date
from babel.numbers import format_currency
from jinja2 import (
    ChainableUndefined,
    StrictUndefined,
    Template,
    TemplateError,
    TemplateSyntaxError,
    meta,
    nodes,
    pass_context,
)
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from bot.errors import FlowRunError

MAX_SAID_CHARS = 4000
MAX_OPERAND = 10_000
MAX_KEPT = 40_000
"""Characters and parts of a value that a text keeps; what a lookup found is smaller."""
OWN_NAMES = frozenset({"lang", "value", "today", "slots"})
"""Names that every text of a flow sees beside the slots and the shop's own."""


MAX_ROUNDS = 2000
"""Of all loops of one text together."""
_NOT_FOR_TEXTS = (
    *(nodes.Macro, nodes.CallBlock, nodes.FilterBlock, nodes.AssignBlock, nodes.Block, nodes.Include, nodes.Import),
    *(nodes.FromImport, nodes.Extends),
)
"""What grows or repeats without a loop."""
_GROWING = frozenset(
    (
        "center",
        "expandtabs",
        "format",
        "format_map",
        "join",
        "ljust",
        "replace",
        "rjust",
        "to_bytes",
        "translate",
        "zfill",
    )
)
_rounds: ContextVar[int] = ContextVar("_rounds", default=0)


class _Sandbox(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset({"*", "**", "+", "%"})

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        for node in tree.find_all(_NOT_FOR_TEXTS):
            raise TemplateSyntaxError(f"{type(node).__name__.lower()} is not for texts", node.lineno)
        for loop in tree.find_all(nodes.For):
            if loop.recursive:
                raise TemplateSyntaxError("a loop can't be recursive", loop.lineno)
            loop.iter = nodes.Filter(loop.iter, "_counted", [], [], None, None, lineno=loop.lineno)
        for kept in tree.find_all(nodes.Assign):
            kept.node = nodes.Filter(kept.node, "_kept", [], [], None, None, lineno=kept.lineno)
        return tree

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        return attr not in _GROWING and super().is_safe_attribute(obj, attr, value)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "+":
            return _kept(super().call_binop(context, operator, left, right))
        if not all(isinstance(each, (int, float)) and abs(each) <= MAX_OPERAND for each in (left, right)):
            raise SecurityError(f"{operator} is for numbers up to {MAX_OPERAND}")
        return super().call_binop(context, operator, left, right)


def _range(*limits: int) -> range:
    made = range(*limits)
    if len(made) > 200:
        raise SecurityError("range is for at most 200 numbers")
    return made


def _counted(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        _rounds.set(_rounds.get() + 1)
        if _rounds.get() > MAX_ROUNDS:
            raise SecurityError(f"its loops go round more than {MAX_ROUNDS} times")
        yield value


def _kept(value: Any) -> Any:
    """A value that may be used again, if it is no larger than what can be said."""
    waiting, size = [value], 0
    while waiting:
        part = waiting.pop()
        size += len(part) if isinstance(part, str) else 1
        if size > MAX_KEPT:
            raise SecurityError(f"it makes a value of more than {MAX_KEPT} characters or parts")
        if isinstance(part, (list, tuple)):
            waiting += part
        elif isinstance(part, dict):
            waiting += part.values()
    return value


def _replace(text: Any, old: str, new: str) -> str:
    if len(str(text)) * (len(str(new)) + 1) > MAX_KEPT * 100:
        raise SecurityError("replace makes it too long")
    return str(_kept(str(text).replace(str(old), str(new))))


def _round(number: Any, precision: int = 0) -> float:
    if abs(precision) > 20:
        raise SecurityError("round is for at most 20 digits")
    return round(float(number), precision)


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
    made.filters |= {"date": _date, "money": _money, "replace": _replace, "round": _round}
    made.filters |= {"_counted": _counted, "_kept": _kept}
    growing = ("batch", "center", "forceescape", "format", "indent", "slice", "wordwrap", "xmlattr")
    for name in (*growing, "filesizeformat", "pprint", "random", "tojson", "urlize"):
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
        _rounds.set(0)
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
