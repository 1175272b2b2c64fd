"""What the assistant says: Jinja2 templates in data/replies/{lang}/*.j2, run in a sandbox."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import FileSystemLoader, StrictUndefined, TemplateError, TemplateNotFound
from jinja2.sandbox import ImmutableSandboxedEnvironment

from bot.errors import ReplyError
from bot.language import DEFAULT, LANGUAGES

REQUIRED = (
    "answer attachment_failed attachment_received attachment_too_large clarify confirmed empty error greeting handoff "
    "label_helped label_none label_not_helped label_person option_unknown options_expired rephrase resolved too_long "
    "unsupported waiting"
).split()
"""Templates that the assistant itself names; an intent's `reply` may name any other."""


class Replies:
    """Renders templates; a folder given first overrides those after it, template by template."""

    def __init__(self, folders: tuple[Path, ...], common: Mapping[str, Mapping[str, Any]]) -> None:
        """folders: each holds {lang}/*.j2. common: language → values that every template sees."""
        self._common = common
        self._environment = ImmutableSandboxedEnvironment(
            loader=FileSystemLoader([str(folder) for folder in folders]),
            undefined=StrictUndefined,
            autoescape=False,  # noqa: S701 - replies are plain text; every channel escapes for itself
            keep_trailing_newline=False,
        )

    def render(self, template: str, lang: str, values: Mapping[str, Any] | None = None) -> str:
        """The text of a template. A language that lacks it falls back to the default one.

        Raises ReplyError for a template that is nowhere, or fails.
        """
        for tried in dict.fromkeys((lang, DEFAULT, *LANGUAGES)):
            try:
                found = self._environment.get_template(f"{tried}/{template}.j2")
                return found.render(**self._common.get(tried, {}), **(values or {})).strip()
            except TemplateNotFound:
                continue
            except TemplateError as error:
                raise ReplyError(template, tried, str(error)) from error
        raise ReplyError(template, lang, "there is no such template: add the file")

    def problems(self, also: frozenset[str] = frozenset()) -> list[ReplyError]:
        """Templates that are missing in a language, or can't be parsed."""
        found: list[ReplyError] = []
        for name in sorted({*REQUIRED, *also}):
            for lang in LANGUAGES:
                try:
                    self._environment.get_template(f"{lang}/{name}.j2")
                except TemplateNotFound:
                    found.append(ReplyError(name, lang, "the file is missing"))
                except TemplateError as error:
                    found.append(ReplyError(name, lang, str(error)))
        return found
